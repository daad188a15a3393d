"""snnTorch, if it is installed: the one place that imports it and knows its insides."""

from __future__ import annotations

from typing import Any

from torch import nn

from pascal_ext.extras import require

snntorch: Any = require("snntorch", extra="snntorch")
SpikingNeuron: Any = snntorch.SpikingNeuron


def is_exporting_nir() -> bool:
    """Whether ``snntorch.export_nir`` is running a network to see its layers.

    It does so with NIRTorch's tracer, which replaces ``nn.Module.__call__`` meanwhile. For a layer that it does not
    know it prints a line and leaves a hole in the graph, so a layer that has to be noticed must speak for itself.
    """
    return str(getattr(nn.Module.__call__, "__module__", "")).startswith("nirtorch")
