"""Layer by layer: each layer is calibrated behind the quantised ones, and gets back the mean that quantisation takes.

Quantising a network's activations shifts their means, and the shifts add up from layer to layer. So the layers are set
in the order of execution, on two networks that run in lockstep: the un-quantised one says what a layer should put out,
and the quantised one, as far as it has been set, what its pre-activations really are. A constant current into the
neurons of each channel makes the means equal again (bias correction: Nagel et al., ICCV 2019, section 4.2, there on
weights; here after the activation, whose threshold and rounding are part of what shifts).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from pascal_ext import distributed
from pascal_ext.activations import qcfs_layers
from pascal_ext.calibration.histogram import Histogram, rectified, rows
from pascal_ext.calibration.lockstep import Lockstep
from pascal_ext.calibration.signs import turned, with_sign
from pascal_ext.data import batches
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.tracing import trace
from pascal_ext.qcfs import QCFS

SUFFIX = "_bias_current"  # of the parameter's name, after the layer's
BINS_PER_THRESHOLD = 1024  # of the histograms of pre-activations: 128 bins a level at L = 8
STEPS = 24  # of the bisection: 6e-8 of a threshold
ENOUGH = 4096  # activations of a channel that give it a threshold of its own where per_channel is "auto"
ENOUGH_FOR_MEANS = 256  # and those that give it a bias of its own


def find_corrections(
    model: nn.Module,
    layers: Mapping[str, QCFS],
    dataloader: Iterable[Any],
    method: str,
    per_channel: bool | str,
    percentile: float,
    desc: str | None,
    dead: dict[str, str],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Thresholds and bias currents of ``layers``, scalars or [C], set in the order of execution; nothing is changed.

    ``dead`` is told of layers and channels without activations, see :func:`settled`.

    Raises:
        CalibrationError, InvalidArgumentError: see :func:`pascal_ext.calibrate`.
    """
    traced = trace(model)
    calls = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
    unknown = [name for name in layers if name not in calls]
    if unknown:
        raise CalibrationError(f"the data never reaches the layers {unknown}; are they used in forward()?")
    _check_call_sites(traced, model)
    for name in layers:
        _check_name(model, name)
        old = bias_current_of(traced, name)
        if old is not None:
            old.data.zero_()
    data = list(batches(dataloader, model))
    quantised, analog = Lockstep(traced, data), Lockstep(traced, data)
    by_node = {calls[name]: name for name in layers}
    thresholds: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    with torch.no_grad():
        for node in tqdm(list(traced.graph.nodes), desc=desc, disable=desc is None, leave=False):
            if node in by_node:
                name = by_node[node]
                layer = layers[name]
                sizes = [rectified(name, turned(layer, z), layer.ceiling) for z in analog.inputs(node)]
                wanted = [turned(layer, size) for size in sizes]
                found = quantised.inputs(node)
                channels = _channels(wanted, per_channel)
                threshold = settled(name, layer, _threshold(sizes, layer, channels >= 2, method, percentile), dead)
                bias = _bias(found, wanted, layer, threshold, channels >= 1)
                activate = QCFS(layer.levels, threshold)
                thresholds[name], biases[name] = threshold, bias
                quantised.assign(node, [activate(z + bias.to(z.dtype)) for z in found])
                analog.assign(node, wanted)
            elif node.op != "output":
                quantised.run(node)
                analog.run(node)
    return thresholds, biases


@torch.inference_mode(False)  # whose parameters could not be trained
def insert_bias_currents(traced: fx.GraphModule, biases: Mapping[str, Tensor]) -> None:
    """Add a constant to what each layer reads, as a parameter ``<layer>_bias_current``, [C, 1, ...] or scalar.

    Where the graph has one already, it gets the new value.
    """
    for node in [node for node in traced.graph.nodes if node.op == "call_module"]:
        name = str(node.target)
        if name not in biases:
            continue
        old = bias_current_of(traced, name)
        if old is None:
            scope, _, leaf = f"{name}{SUFFIX}".rpartition(".")
            with traced.graph.inserting_before(node):
                setattr(traced.get_submodule(scope), leaf, nn.Parameter(biases[name].detach().clone()))
                value = traced.graph.get_attr(f"{name}{SUFFIX}")
                shifted = traced.graph.call_function(operator.add, (node.args[0], value))
            node.args = (shifted,)
        else:
            overwrite(old, biases[name])
    traced.recompile()


@torch.inference_mode(False)
def overwrite(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter a value that may be of another shape; it stays the same one, since optimizers may hold it."""
    if parameter.shape != value.shape:
        parameter.data = parameter.new_empty(value.shape)
        parameter.grad = None
    parameter.data.copy_(value)


def restore_bias_currents(traced: fx.GraphModule, state: Mapping[str, Tensor]) -> None:
    """Make room for the bias currents that a state dict of the same model has."""
    layers = qcfs_layers(traced)
    saved = {key.removesuffix(SUFFIX): value for key, value in state.items() if key.endswith(SUFFIX)}
    insert_bias_currents(traced, {layer: value for layer, value in saved.items() if layer in layers})


def bias_current_of(root: nn.Module, layer: str) -> nn.Parameter | None:
    """The parameter that :func:`insert_bias_currents` made for ``layer``; None where there is none."""
    scope, _, leaf = f"{layer}{SUFFIX}".rpartition(".")
    try:
        found = getattr(root.get_submodule(scope), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Parameter) else None


def _check_name(model: nn.Module, layer: str) -> None:
    scope, _, leaf = f"{layer}{SUFFIX}".rpartition(".")
    if bias_current_of(model, layer) is None and hasattr(model.get_submodule(scope), leaf):
        raise InvalidArgumentError(f"the model has a {layer + SUFFIX!r}, where a bias is to be put; rename it")


def _check_call_sites(traced: fx.GraphModule, model: nn.Module) -> None:
    """Each call of a QCFS needs a module of its own: what one call needs is not what another one does."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    made = [name for name, module in traced.named_modules() if isinstance(module, QCFS) and name not in known]
    if made or not isinstance(model, fx.GraphModule):
        raise InvalidArgumentError(
            "correct='bias' puts constants into the model's graph: give it what pascal_ext.replace_activations(model) "
            f"returns, not a {type(model).__name__}"
        )


def settled(name: str, layer: QCFS, threshold: Tensor, dead: dict[str, str]) -> Tensor:
    """What :meth:`Histogram.threshold` found, in the layer's dtype and with the sign of its threshold; where all
    activations are zero, or too small for that dtype, what it has.

    ``dead`` gets an entry for the layer then, which says what of it is zero.

    Raises:
        InvalidArgumentError: see :func:`pascal_ext.calibration.signs.with_sign`.
    """
    zero = threshold < torch.finfo(layer.threshold.dtype).tiny  # of less, the L-th part may be zero
    if zero.any():
        dead[name] = "all its activations" if zero.all() else f"{int(zero.sum())} of {zero.numel()} channels"
        threshold = torch.where(zero, layer.threshold.detach().abs().max().to(threshold), threshold)
    return with_sign(name, layer, threshold.to(layer.threshold))


def _channels(values: list[Tensor], per_channel: bool | str) -> int:
    """What each channel gets: 0 for nothing of its own, 1 for a bias, 2 for a threshold too."""
    sizes = {value.shape[1] if value.ndim > 1 else 0 for value in values}
    if len(sizes) > 1 or 0 in sizes:
        return 0
    count = int(distributed.total(torch.tensor(sum(value.numel() for value in values)))) // sizes.pop()
    if count < ENOUGH_FOR_MEANS:
        return 2 if per_channel is True else 0
    return 2 if per_channel is True or (per_channel == "auto" and count >= ENOUGH) else 1


def _threshold(values: list[Tensor], layer: QCFS, per_channel: bool, method: str, percentile: float) -> Tensor:
    histogram = Histogram()
    for value in values:
        histogram.update(rows(value, per_channel))
    histogram.reduce()
    found = histogram.threshold(layer.levels, method, percentile)
    return found if per_channel else found.squeeze(0)


def _bias(found: list[Tensor], wanted: list[Tensor], layer: QCFS, threshold: Tensor, per_channel: bool) -> Tensor:
    """The constant, shaped to be added to ``found``, that gives QCFS the mean of ``wanted``; at most half a threshold.

    From histograms of the pre-activations in units of the threshold, between −1 and 2: beyond, QCFS is constant.
    """
    scale = threshold.reshape(-1, 1).float()
    bins = 3 * BINS_PER_THRESHOLD
    channels = found[0].shape[1] if per_channel else 1
    counts = torch.zeros(channels, bins, dtype=torch.float64, device=found[0].device)
    total = counts.new_zeros(channels)
    for z, value in zip(found, wanted, strict=True):
        index = ((rows(z, per_channel) / scale + 1) * BINS_PER_THRESHOLD).long().clamp_(0, bins - 1)
        index += torch.arange(channels, device=z.device).unsqueeze(1) * bins
        counts += torch.bincount(index.flatten(), minlength=counts.numel()).view_as(counts)
        total += (rows(value, per_channel) / scale).sum(1, dtype=torch.float64)
    counts, total = distributed.total(counts), distributed.total(total)
    share = counts / counts.sum(1, keepdim=True)
    mean = total / counts.sum(1)
    centres = (torch.arange(bins, dtype=torch.float64, device=counts.device) + 0.5) / BINS_PER_THRESHOLD - 1
    shift = bisect(share, centres, mean, layer.levels)
    shift = (shift if per_channel else shift.squeeze(0)) * threshold
    return (shift.reshape(-1, *[1] * (found[0].ndim - 2)) if per_channel else shift).to(layer.threshold)


def bisect(share: Tensor, centres: Tensor, mean: Tensor, levels: int) -> Tensor:
    """The shift s in [−1/2, 1/2], next to 0, for which the mean of QCFS(u + s) is ``mean``, as near as it gets.

    Args:
        share: [C, bins], the distribution of u = z/λ.
        centres: [bins], the values of u.
        mean: [C], in units of the threshold.
        levels: L.
    """

    def mean_at(shift: Tensor) -> Tensor:
        return (share * ((centres + shift.unsqueeze(1)) * levels + 0.5).floor().clamp_(0, levels)).sum(1) / levels

    start = mean_at(torch.zeros_like(mean))
    low = torch.where(start > mean, -0.5, 0.0).to(mean)
    high = torch.where(start > mean, 0.0, 0.5).to(mean)
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = mean_at(middle) > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    nothing_to_do = (start - mean).abs() <= 1e-9
    return torch.where(nothing_to_do, 0.0, (low + high) / 2)
