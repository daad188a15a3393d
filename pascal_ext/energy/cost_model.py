"""What an operation costs, and how a neuron's levels weigh against its synapses: the figures that all costs rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.plan import check_levels


@dataclass(frozen=True)
class OperationEnergies:
    """What an operation costs, in joules, and who says so.

    Attributes:
        mac: a multiplication and an addition.
        ac: an addition.
        source: where the figures are from, and what they hold for.
    """

    mac: float
    ac: float
    source: str


HOROWITZ_45NM = OperationEnergies(
    mac=4.6e-12,  # 3.7 pJ for the multiplication and 0.9 pJ for the addition
    ac=0.9e-12,
    source="32-bit floating point in 45 nm at 0.9 V: M. Horowitz, Computing's energy problem, ISSCC 2014, fig. 1.1.9",
)


def energy_ratio(levels: int, fan_in: float) -> float:
    """What a PASC-IF neuron and its synapses cost, relative to an IF neuron over as many timesteps.

    With r = 4 / (3 · fan_in), the cost of a neuron's update relative to its synapses', and T = L (arXiv 2505.01730;
    the constants are those of the authors' code):

        r_E = (1 + (5T − 2)·r) / (1 + T·r)

    Raises:
        PlanError: ``levels`` is not a whole number of at least 1.
        InvalidArgumentError: ``fan_in`` is not positive.
    """
    steps = check_levels(levels)
    if not (0 < fan_in < math.inf):
        raise InvalidArgumentError(f"fan_in, the synapses of a neuron, must be positive, got {fan_in!r}")
    ratio = 4 / (3 * fan_in)
    return (1 + (5 * steps - 2) * ratio) / (1 + steps * ratio)
