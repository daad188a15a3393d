"""A zoo of small networks that convert exactly, one for each thing that a model may do."""

from tests.cases import Case
from tests.networks.layers import LAYERS
from tests.networks.pooling import POOLING
from tests.networks.wiring import WIRING

EXACT: dict[str, Case] = {**LAYERS, **POOLING, **WIRING}
