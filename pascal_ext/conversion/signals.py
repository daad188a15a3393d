"""What the conversion knows about the values that flow through a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Signal:
    """What is known about one value of the graph, for an input of one timestep.

    Attributes:
        steps: number of timesteps.
        elastic: an input is in it, which may have more steps when the network runs.
        ready: timesteps passed on the barrier schedule when the value is complete.
        thermometer: each element is a thermometer code, with one amplitude for each channel, or constant in time.
        current: weights or averages made it, of spikes or of inputs: its elements are no spikes, nor sums of some.
        uniform: all its thermometer codes have the same amplitude and steps, whatever the channel.
        scale: the node of a positive threshold still to be multiplied in; None where there is none.
        scales: how many values ``scale`` has: 1, or one for each channel.
        channels: size of dimension 1, where known.
        ndim: number of dimensions, where known.
        sequence: the value is a tuple of tensors (of ``chunk``, say), each like this.
        where: for the sequence of an operation that ran on decoded values, a description of that operation.
        loose: dimension 0 is not the batch any more, and nothing is folded into it: the ANN's own tensor.
    """

    steps: int = 1
    elastic: bool = False
    ready: int = 0
    thermometer: bool = False
    current: bool = False
    uniform: bool = True
    scale: fx.Node | None = None
    scales: int = 1
    channels: int | None = None
    ndim: int | None = None
    sequence: bool = False
    where: str = ""
    loose: bool = False

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scales > 1

    def as_current(self, **changes: Any) -> Signal:
        """The same wire after a linear operation: no train any more."""
        return replace(self, **{"thermometer": False, "current": True, **changes})

    def positive(self, dims: list[int], added: int = 0) -> list[int]:
        """``dims`` counted from the front, as far as the number of dimensions, and of ``added`` ones, is known."""
        return [dim if dim >= 0 or self.ndim is None else dim + self.ndim + added for dim in dims]


def joined(signals: list[Signal], **changes: Any) -> Signal:
    """What several wires make together: a current with the longest window of them, ready when the last one is."""
    ndims = {signal.ndim for signal in signals}
    signal = Signal(
        steps=max(signal.steps for signal in signals),
        elastic=any(signal.elastic for signal in signals),
        ready=max(signal.ready for signal in signals),
        ndim=ndims.pop() if len(ndims) == 1 else None,
    )
    return replace(signal, **changes)
