"""The converted network as a SpikingJelly module."""

from __future__ import annotations

from torch import fx, nn

from pascal_ext.adapters.spikingjelly.compat import base, is_counting
from pascal_ext.adapters.spikingjelly.node import PascalIFNode
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.network import SpikingNetwork
from pascal_ext.ops.pasc_if import backend_names, check_backend


class PascalNetwork(SpikingNetwork, base.MemoryModule):
    """A :class:`pascal_ext.SpikingNetwork` that SpikingJelly's functions take for one of their own.

    ``functional.reset_net``, ``set_step_mode``, ``set_backend`` and ``detach_net``, monitors and operation counters
    work on it; layers and neurons have the names that they have in the ANN.
    """

    def __init__(
        self, root: nn.Module, counts: fx.Graph, spikes: fx.Graph, latency: int, analog_nodes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root, counts, spikes, latency, analog_nodes)
        for neuron in self.neurons.values():
            if isinstance(neuron, PascalIFNode):
                neuron.whole_windows = True

    @property
    def _settles(self) -> bool:
        """Not while SpikingJelly counts operations: the settling pass is none of the spiking network's."""
        return super()._settles and not is_counting()

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What ``backend`` can be set to."""
        return backend_names()

    @property
    def backend(self) -> str:
        """How the neurons are computed; setting it sets it for all of them.

        Raises:
            InvalidArgumentError: on reading, where neurons differ.
        """
        found = sorted({neuron.backend for neuron in self.neurons.values()})
        if len(found) > 1:
            raise InvalidArgumentError(f"the neurons have different backends, {found}; read .neurons[name].backend")
        return found[0] if found else "auto"

    @backend.setter
    def backend(self, value: str) -> None:
        check_backend(value)
        for neuron in self.neurons.values():
            neuron.backend = value
