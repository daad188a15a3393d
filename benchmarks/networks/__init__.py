"""What whole networks cost; ``python -m benchmarks.networks`` and ``python -m benchmarks.networks.stock``."""
