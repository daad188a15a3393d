"""The converted network as an snnTorch user expects one: time first."""

from __future__ import annotations

from torch import fx, nn

from pascal_ext.adapters.snntorch.compat import is_exporting_nir
from pascal_ext.adapters.snntorch.neuron import PascalIF
from pascal_ext.network.spiking_network import SpikingNetwork


class PascalNetwork(SpikingNetwork):
    """A :class:`pascal_ext.SpikingNetwork` of :class:`PascalIF` that takes and returns sequences, time first.

    ``spk_rec = net(spk_in)``: [T, B, ...] -> [T_out, B, C], all steps in one call, so there is no loop over time. The
    input is direct (``images.unsqueeze(0)``, or repeated), or coded by ``snntorch.spikegen``. The last layer of most
    networks is linear: then ``spk_rec`` holds its currents. Their mean over time is the answer of the ANN, and their
    sum over time T_out times that, so that ``accuracy_rate(spk_rec, targets)`` is the accuracy of the ANN.

    ``functional.probe`` records neurons under the names that the activations have in the ANN. ``utils.reset`` finds
    nothing to reset here, on whichever level of a network, and resets the neurons of snnTorch beside it as ever; what
    ``init_hidden`` keeps for probes stays until the next call.

    ``step_mode`` is ``"m"``; set to ``"s"``, one call takes a batch of the ANN, [B, ...], and returns the mean, [B, C].
    """

    def __init__(
        self, root: nn.Module, counts: fx.Graph, spikes: fx.Graph, latency: int, analog_nodes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root, counts, spikes, latency, analog_nodes)
        self.step_mode = "m"

    def _is_noticed(self) -> bool:
        """A membrane that ``init_hidden`` keeps is that of the whole batch, and NIR's tracer sees every layer."""
        kept = any(neuron.init_hidden for neuron in self.neurons.values() if isinstance(neuron, PascalIF))
        return kept or is_exporting_nir() or super()._is_noticed()
