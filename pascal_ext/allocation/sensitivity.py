"""What the levels of one layer alone do to the output of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from pascal_ext import distributed
from pascal_ext.allocation.statistics import Layer
from pascal_ext.calibration.lockstep import Lockstep, finish
from pascal_ext.data import Batch
from pascal_ext.errors import CalibrationError

Losses = dict[str, dict[int, float]]


def sensitivities(
    traced: fx.GraphModule,
    layers: Mapping[str, Layer],
    choices: Mapping[str, Sequence[int]],
    data: Sequence[Batch],
    desc: str | None,
) -> tuple[Losses, str]:
    r"""Layer -> levels -> what the network's output loses when this layer alone is quantised at these levels.

    The loss of outputs [N, C] is the mean Kullback-Leibler divergence, in nats,

    .. math:: \frac1N \sum_n \sum_c p_{nc} (\log p_{nc} - \log q_{nc}), \qquad p = \mathrm{softmax}(y),

    q the same of the output with the layer quantised; of any others, :math:`\sum \|y' - y\|^2 / \sum \|y\|^2`. All
    other layers stay as the model has them. The graph is run once for each batch as far as each layer, and from there
    to its end for each number of levels: half a forward pass for each layer and choice, on average.

    Args:
        traced: the model's graph.
        layers: with their histograms, from which the thresholds are taken.
        choices: layer -> levels to try; the levels that a QCFS has learnt cost nothing.
        data: the batches of this process; sums are over those of all.
        desc: of the progress bar, if any.

    Returns:
        The losses, and what to call them.

    Raises:
        CalibrationError: the output is not finite.
    """
    trials = [(name, level) for name in layers for level in choices[name] if level != layers[name].levels]
    quantisers = {trial: layers[trial[0]].quantiser(trial[1]).eval() for trial in trials}
    sums = dict.fromkeys(trials, 0.0)
    size = 0.0
    title = "KL"
    nodes = list(traced.graph.nodes)
    with tqdm(total=len(data) * len(trials), desc=desc, disable=desc is None, leave=False) as bar:
        for batch in data:
            reference = traced(*batch.args, **batch.kwargs)
            title, amount = _size(reference)
            size += amount
            lane = Lockstep(traced, [batch])
            for index, node in enumerate(nodes):
                for level in choices[node.target] if node.op == "call_module" and node.target in layers else ():
                    if (node.target, level) not in quantisers:
                        continue
                    (z,) = lane.inputs(node)
                    values = lane.values[0] | {node: quantisers[node.target, level](z)}
                    output = finish(lane, values, nodes[index + 1 :])
                    sums[node.target, level] += _distance(reference, output)
                    bar.update()
                if node.op != "output":
                    lane.run(node)
    found = distributed.total(torch.tensor([*sums.values(), size], dtype=torch.float64))
    if not bool(found.isfinite().all()):
        raise CalibrationError("the model's output is not finite on this data; look for NaN or Inf in the weights")
    losses: Losses = {name: dict.fromkeys(choices[name], 0.0) for name in layers}
    for (name, level), value in zip(trials, found[:-1].tolist(), strict=True):
        losses[name][level] = max(value, 0.0) / max(float(found[-1]), torch.finfo(torch.float64).tiny)
    return losses, title


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _is_logits(tensors: list[Tensor]) -> bool:
    return len(tensors) == 1 and tensors[0].ndim == 2 and tensors[0].shape[1] > 1


def _size(reference: Any) -> tuple[str, float]:
    """What distances are relative to: the number of samples, or the squared norm."""
    tensors = _tensors(reference)
    if _is_logits(tensors):
        return "KL", float(len(tensors[0]))
    return "squared error", sum(float(tensor.double().square().sum()) for tensor in tensors)


def _distance(reference: Any, output: Any) -> float:
    wanted, found = _tensors(reference), _tensors(output)
    if _is_logits(wanted):
        target, log_q = F.log_softmax(wanted[0].double(), 1), F.log_softmax(found[0].double(), 1)
        return float(F.kl_div(log_q, target, reduction="sum", log_target=True))
    return sum(float((b.double() - a.double()).square().sum()) for a, b in zip(wanted, found, strict=True))
