"""The PASC-IF neuron as a SpikingJelly module."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from pascal_ext.adapters.spikingjelly.module import HostModule
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.neuron import PascIF


class PascalIFNode(PascIF, HostModule):
    """A layer of PASC-IF neurons that SpikingJelly's functions, containers and monitors take for one of their own.

    The equations are those of :func:`pascal_ext.functional.pasc_if`. In a network written by hand, put it after
    ``layer.Conv2d`` and its like and use multi-step mode; the currents' temporal mean is what is quantised, and
    ``v_threshold`` times the mean of the spikes approximates its ReLU. No state is kept between calls, so
    ``functional.reset_net`` has nothing to do here.

    Shapes: currents [T1, N, ...] -> spikes [levels, N, ...] in {0, 1}. The number of timesteps may change.

    Args:
        levels: L, the number of emitted timesteps.
        v_threshold: λ, a number, or one value per channel, [C], for currents [T1, N, C, ...].
        step_mode: ``"m"``; in ``"s"`` the call raises, as the neuron answers when its window is complete, but in a
            :class:`PascalNetwork`, which runs layer by layer and not step by step.
        backend: see :func:`pascal_ext.functional.pasc_if`; settable, in SpikingJelly 0.0.0.0.14 also
            with its ``functional.set_backend``.
        execution: see :class:`pascal_ext.neuron.PascIF`.
    """

    def __init__(
        self,
        levels: int,
        v_threshold: float | Tensor = 1.0,
        *,
        step_mode: str = "m",
        backend: str = "auto",
        execution: str = "spikes",
    ) -> None:
        super().__init__(levels, v_threshold, backend=backend, execution=execution)
        self.step_mode = step_mode

    def reset(self) -> None:
        """Also of memories that a subclass has registered, SpikingJelly's way."""
        super().reset()
        HostModule.reset(self)

    def forward(self, x_seq: Tensor, reference: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        if self.step_mode == "s" and not self.whole_windows:
            self.single_step_forward(x_seq)
        return self.multi_step_forward(x_seq, reference, in_place=in_place)

    def multi_step_forward(self, x_seq: Tensor, reference: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Currents [T1, N, ...] -> spikes [levels, N, ...]; see :meth:`pascal_ext.PascIF.forward`."""
        return PascIF.forward(self, x_seq, reference, in_place=in_place)

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible.

        Raises:
            InvalidArgumentError: always; it says what to do instead.
        """
        raise InvalidArgumentError(
            "a PASC-IF layer answers when its window is complete, so it has no single-step mode: set "
            'step_mode="m" (functional.set_step_mode(net, "m")) and hand it currents [T, N, ...]'
        )

    def extra_repr(self) -> str:
        mode = "" if self.whole_windows else f", step_mode={self.step_mode}"
        return PascIF.extra_repr(self) + mode
