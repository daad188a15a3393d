"""Does the spiking network compute what the ANN computes? Measured, layer by layer, on the user's own data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pascal_ext.activations import put_qcfs, qcfs_layers, relu_layers
from pascal_ext.calibration.correction import bias_current_of, insert_bias_currents
from pascal_ext.conversion.agreement import agree
from pascal_ext.data import batches, call, cloned
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.outputs import nan_samples, tensors_of
from pascal_ext.graph.traceable import check_has_values, copied, unwrapped
from pascal_ext.graph.tracing import trace
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.observers import evaluating
from pascal_ext.ops.pasc_if import quantise
from pascal_ext.qcfs import QCFS
from pascal_ext.verification.results import LayerReport, VerificationReport

_NAN = -1  # the count of a neuron that is NaN
SAME = 64.0  # logits that are so many ε of the largest apart are equal, but for the rounding of sums of some thousands


@dataclass
class _Tally:
    counts: int = 0
    mismatched: int = 0
    max_difference: int = 0
    spikes: int = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        difference = (ours - theirs).abs()
        self.counts += ours.numel()
        self.mismatched += int(torch.count_nonzero(difference))
        self.max_difference = max(self.max_difference, int(difference.max()) if difference.numel() else 0)
        self.spikes += int(ours.clamp(min=0).sum())


def verify(ann: nn.Module, snn: SpikingNetwork, dataloader: Iterable[Any], progress: bool = True) -> VerificationReport:
    """Run both networks on the same data, and compare every spike count and every prediction.

    The spiking network runs twice: with hooks, which show the counts of every layer, and as it runs in use, where what
    no hook sees is shared, overwritten and simulated in pieces. Predictions and errors are those of both. ``ann``
    itself runs beside its graph, whose outputs must be the same.

    Args:
        ann: the QCFS network that ``snn`` was converted from; or the ReLU network: it is then compared with its QCFS
            twin, which has the thresholds, bias currents and levels of ``snn``. Run in evaluation mode; never changed.
        snn: a converted network, in the execution that is to be checked.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them.
        progress: show a progress bar.

    Raises:
        InvalidArgumentError: the two networks do not have the same layers, are not an ANN and a spiking network, or
            have tensors on the meta device.
        CalibrationError: the loader is empty, or yields no inputs.
    """
    if not isinstance(snn, SpikingNetwork) or isinstance(ann, SpikingNetwork):
        raise InvalidArgumentError(
            f"verify takes the ANN, then its spiking network, got {type(ann).__name__} and {type(snn).__name__}"
        )
    original = trace(ann, dataloader)
    for network in (original, snn):
        check_has_values(network)
    twin = _twin(original, snn)
    has_relu = bool(relu_layers(original))
    tallies = {name: _Tally() for name in snn.neurons}
    samples = predictions = changed = ties = nans = 0
    largest = 0.0
    outputs_agree = graph_agrees = True
    model = unwrapped(ann)
    with evaluating(model), evaluating(snn), snn.configured(step_mode="s"), torch.no_grad():
        for batch in batches(dataloader, ann, "verify" if progress else None):
            snn.reset()
            with _counts(twin, snn) as (theirs, ours):
                expected, watched = call(twin, batch), call(snn, batch)
            ties += snn.ties
            for name, tally in tallies.items():
                tally.add(ours[name], theirs[name])
            found = call(snn, batch)
            samples += _batch_size(expected)
            nans += nan_samples(expected)
            predictions += _differing(expected, watched, found)
            largest = max(largest, *(_largest_difference(expected, output) for output in (watched, found)))
            outputs_agree &= agree(expected, watched) and agree(expected, found)
            traced = call(original, batch) if has_relu else expected
            graph_agrees &= agree(call(model, cloned(batch)), traced)
            if has_relu:
                changed += _differing(traced, expected)
    snn.reset()
    layers = {
        name: LayerReport(name, levels, t.counts, t.mismatched, t.max_difference, t.spikes / max(t.counts * levels, 1))
        for (name, t), levels in zip(tallies.items(), snn.plan.values(), strict=True)
    }
    return VerificationReport(
        samples, layers, predictions, largest, changed if has_relu else None, ties, outputs_agree, graph_agrees, nans
    )


def _twin(original: fx.GraphModule, snn: SpikingNetwork) -> fx.GraphModule:
    """The QCFS network that ``snn`` should equal."""
    plain = relu_layers(original)
    biases = {name: bias_current_of(snn, name) for name in plain}
    twin = copied(original) if plain else original
    put_qcfs(twin)
    insert_bias_currents(twin, {name: bias for name, bias in biases.items() if bias is not None})
    layers, neurons = qcfs_layers(twin), snn.neurons
    if layers.keys() != neurons.keys():
        raise InvalidArgumentError(
            f"the networks differ in their layers: only the ANN has {sorted(layers.keys() - neurons.keys())}, only the "
            f"SNN has {sorted(neurons.keys() - layers.keys())}; was the SNN converted from this ANN?"
        )
    for name in plain:
        layers[name].levels = neurons[name].levels
        layers[name].threshold = nn.Parameter(neurons[name].v_threshold.detach().clone(), requires_grad=False)
    clash = {name: (layers[name].levels, n.levels) for name, n in neurons.items() if layers[name].levels != n.levels}
    if clash:
        raise InvalidArgumentError(f"the networks differ in their levels, (ANN, SNN): {clash}")
    return twin.eval()


@contextlib.contextmanager
def _counts(twin: nn.Module, snn: SpikingNetwork) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Within the context, each forward leaves the levels of every layer in the two dicts."""
    theirs: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}

    def note_levels(name: str, layer: QCFS, z: Tensor) -> None:
        theirs[name] = torch.where(z.isnan(), _NAN, layer.counts(z))

    def note_spikes(name: str, neuron: PascIF, spikes: Tensor) -> None:
        if neuron.execution == "spikes":
            counts = spikes.sum(0)
        else:
            counts = quantise(spikes[0], neuron.v_threshold, neuron.levels)  # λ/L·k is mid-level: safe
        ours[name] = counts.nan_to_num(nan=_NAN).int()

    handles = [
        layer.register_forward_hook(lambda layer, args, _, name=name: note_levels(name, layer, args[0]))
        for name, layer in qcfs_layers(twin).items()
    ]
    handles += [
        neuron.register_forward_hook(lambda neuron, _, spikes, name=name: note_spikes(name, neuron, spikes))
        for name, neuron in snn.neurons.items()
    ]
    try:
        yield theirs, ours
    finally:
        for handle in handles:
            handle.remove()


def _batch_size(output: Any) -> int:
    return next((tensor.shape[0] for tensor in tensors_of(output) if tensor.ndim), 0)


def _differing(expected: Any, *found: Any) -> int:
    """Samples for which the classes of any output differ, in any of the answers ``found``.

    Classes that ``expected`` itself puts at the same height, to within the rounding of a sum (:data:`SAME`), are one
    answer: which of them is the largest says nothing.
    """
    masks = [
        _differ(a, b)
        for answer in found
        for a, b in zip(tensors_of(expected), tensors_of(answer), strict=True)
        if a.ndim >= 2
        and a.shape[1] > 1
        and not a.is_complex()
        and a.dtype != torch.bool  # which have no largest class
    ]
    return int(torch.stack(masks).any(0).sum()) if masks else 0


def _differ(expected: Tensor, found: Tensor) -> Tensor:
    """Whether the largest of the classes, in dimension 1 of [N, C, ...], differ; [N]."""
    largest = expected.abs().masked_fill(expected.isinf(), 0).amax(1)
    tolerance = SAME * torch.finfo(expected.dtype).eps * largest if expected.is_floating_point() else 0
    below = expected.amax(1) - expected.gather(1, found.argmax(1, keepdim=True)).squeeze(1)
    nan = expected.isnan()
    differs = ~(below <= tolerance) & ~nan.any(1) | (found.isnan() != nan).any(1)
    return differs.flatten(1).any(1) if differs.ndim > 1 else differs


def _largest_difference(expected: Any, found: Any) -> float:
    """Infinite where one of two numbers is NaN or infinite, and the other is not the same."""
    tensors = zip(tensors_of(expected), tensors_of(found), strict=True)
    pairs = ((a * 1, b * 1) for a, b in tensors)  # truth values as numbers
    errors = (
        torch.where((a == b) | (a.isnan() & b.isnan()), 0, a - b).abs().nan_to_num(nan=math.inf)
        for a, b in pairs
        if a.numel()
    )
    return max((float(error.max()) for error in errors), default=0.0)
