"""What is known of each activation layer before its levels are chosen, from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from pascal_ext.activations import qcfs_layers, relu_layers
from pascal_ext.calibration.histogram import Histogram, rectified
from pascal_ext.data import Batch, call
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.traceable import check_has_values
from pascal_ext.graph.tracing import trace
from pascal_ext.qcfs import QCFS


@dataclass(frozen=True, eq=False)
class Layer:
    """One activation, and the histogram of what it should put out were there no levels.

    Attributes:
        name: as :func:`pascal_ext.replace_activations` has it.
        unit: what activations are measured in: the threshold of a QCFS that has learnt one, scalar or [C]; else 1.
        ceiling: the largest activation, in units; 1 for a learnt QCFS.
        levels: of a learnt QCFS; None for a ReLU.
        histogram: of the activations, in units; one for the layer, or, of a ReLU, one for each channel.
    """

    name: str
    unit: Tensor
    ceiling: float
    levels: int | None
    histogram: Histogram = field(default_factory=Histogram)

    def observe(self, z: Tensor, per_channel: bool) -> None:
        """Add the activations of the pre-activations ``z``, [N, C, ...].

        Raises:
            CalibrationError: some are not finite, or their channels are not those of the batches before.
        """
        shape = (-1, *[1] * (z.ndim - 2)) if self.unit.numel() > 1 else ()
        values = rectified(self.name, z.detach() / self.unit.to(z).reshape(shape), self.ceiling)
        self.histogram.observe(self.name, values, per_channel and self.levels is None)

    @property
    def dead(self) -> bool:
        """Whether all its activations are zero."""
        return not bool((self.histogram.largest > 0).any())

    def scale(self, levels: int) -> Tensor:
        """λ in units at so many levels, scalar or [C]: what was learnt, or else has the least squared error."""
        if self.levels is not None:  # at other levels too: what follows the layer has learnt its range
            return torch.ones(1, dtype=torch.float64)
        scale = self.histogram.threshold(levels)
        return torch.where(scale > 0, scale, 1.0)  # of a dead channel: any will do

    def quantiser(self, levels: int) -> QCFS:
        """The QCFS that stands for this layer at so many levels."""
        scale = self.scale(levels).to(self.unit)
        return QCFS(levels, (scale if scale.numel() > 1 else scale.squeeze()) * self.unit)

    def level_counts(self, levels: int) -> Tensor:
        """How many activations are at each level of :meth:`quantiser`, [levels + 1] float64 on the CPU."""
        counts = self.histogram.counts
        assert counts is not None
        position = self.histogram.centres.cpu() * levels / self.scale(levels).unsqueeze(-1)
        index = (position + 0.5).long().clamp_(max=levels)
        return torch.bincount(index.flatten(), weights=counts.cpu().flatten(), minlength=levels + 1)

    def mean_spikes(self, levels: int) -> float:
        """Spikes that a neuron emits for one sample, on average."""
        counts = self.level_counts(levels)
        return float((counts * torch.arange(levels + 1)).sum() / counts.sum())


def traced_layers(model: nn.Module, data: Iterable[Any] | None = None) -> tuple[fx.GraphModule, dict[str, Layer]]:
    """The graph of ``model``, a copy, and its activation layers in the order of execution, without statistics yet.

    Args:
        model: a ReLU or QCFS network.
        data: see :func:`pascal_ext.graph.tracing.trace`.

    Raises:
        TracingError: see :func:`pascal_ext.graph.tracing.trace`.
        InvalidArgumentError: there is no activation that could have levels, or tensors are on the meta device.
        CalibrationError: a QCFS layer is not called in ``forward``.
    """
    traced = trace(model, data)
    check_has_values(traced)
    learnt, plain = qcfs_layers(traced), relu_layers(traced)
    unused = qcfs_layers(model).keys() - learnt.keys()
    if unused:
        raise CalibrationError(f"the data never reaches the layers {sorted(unused)}; are they used in forward()?")
    like = next((p for p in traced.parameters() if p.is_floating_point()), torch.zeros(()))
    found: dict[str, Layer] = {}
    for name in dict.fromkeys(str(node.target) for node in traced.graph.nodes if node.op == "call_module"):
        if name in learnt:
            found[name] = Layer(name, learnt[name].threshold.detach(), 1.0, learnt[name].levels)
        elif name in plain:
            found[name] = Layer(name, like.new_ones(()), plain[name], None)
    if not found:
        raise InvalidArgumentError("the model has no ReLU-like or QCFS activations, so there are no levels to choose")
    return traced, found


def collect(
    traced: fx.GraphModule, layers: dict[str, Layer], data: Sequence[Batch], per_channel: bool, desc: str | None
) -> None:
    """Fill the layers' histograms from one pass of the network, as it is, over the data of all processes.

    Raises:
        CalibrationError: see :meth:`Layer.observe`.
    """
    handles = [
        traced.get_submodule(name).register_forward_pre_hook(
            lambda _, args, layer=layer: layer.observe(args[0], per_channel)
        )
        for name, layer in layers.items()
    ]
    for batch in tqdm(data, desc=desc, disable=desc is None, leave=False):
        call(traced, batch)
    for handle in handles:
        handle.remove()
    for layer in layers.values():
        layer.histogram.reduce()
