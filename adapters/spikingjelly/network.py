"""The converted network as a SpikingJelly module."""

from __future__ import annotations

from pascal_ext.adapters.spikingjelly.compat import is_counting
from pascal_ext.adapters.spikingjelly.module import HostModule
from pascal_ext.network.spiking_network import SpikingNetwork


class PascalNetwork(SpikingNetwork, HostModule):
    """A :class:`pascal_ext.SpikingNetwork` that SpikingJelly's functions take for one of their own.

    ``functional.reset_net``, ``set_step_mode`` and ``detach_net`` (and ``set_backend``, which SpikingJelly 0.0.0.0.14
    has), operation counters, and monitors of :class:`PascalIFNode` (which has no ``v`` to record) work on it; layers
    and neurons have the names that they have in the ANN.
    """

    def reset(self) -> None:
        """Also of memories that a subclass has registered, SpikingJelly's way."""
        super().reset()
        HostModule.reset(self)

    @property
    def _settles(self) -> bool:
        """Not while SpikingJelly counts operations: the settling pass is none of the spiking network's."""
        return super()._settles and not is_counting()
