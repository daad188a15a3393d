"""A zoo of small networks that convert exactly, one for each thing that a model may do."""

from torch import nn

from pascal_ext import convert
from pascal_ext.network.spiking_network import SpikingNetwork
from tests.cases import Case, quantised
from tests.zoo.layers import LAYERS
from tests.zoo.pooling import POOLING
from tests.zoo.wiring import WIRING
from tests.zoo.writing import WRITING

EXACT: dict[str, Case] = {**LAYERS, **POOLING, **WIRING, **WRITING}


def network(name: str = "one block, twice", thresholds: str = "scalar") -> tuple[nn.Module, SpikingNetwork]:
    """One of them, quantised, and its conversion."""
    case = EXACT[name]
    qcfs = quantised(case.build(), case.data(), thresholds)
    return qcfs, convert(qcfs)
