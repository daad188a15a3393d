"""The demo: from a ReLU network on scikit-learn's digits to spiking networks, beside SpikingJelly's own converters."""

from pascal_ext.demo.run import Settings, run_demo

__all__ = ["Settings", "run_demo"]
