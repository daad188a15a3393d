"""The activations of a model: which they are, QCFS in place of them, and their levels."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from torch import fx, nn

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.call_sites import activation_ceiling
from pascal_ext.graph.traceable import unwrapped
from pascal_ext.graph.tracing import trace
from pascal_ext.plan import DEFAULT_LEVELS, Levels, levels_of
from pascal_ext.qcfs import QCFS

M = TypeVar("M", bound=nn.Module)
NO_QCFS_LAYERS = (
    "the model has no QCFS layers; pascal_ext.replace_activations(model) puts them in place of ReLU, LeakyReLU, PReLU, "
    "ReLU6, Hardtanh(-a, b) and clamp(min=0), where it has these"
)


def replace_activations(model: nn.Module, levels: Levels = DEFAULT_LEVELS, *, example: Any = None) -> fx.GraphModule:
    r"""A copy of ``model`` with every ReLU-like activation replaced by :class:`QCFS`, ready to calibrate and fine-tune.

    ReLU, ReLU6, Hardtanh(0, b), Threshold(0, 0) and clamp(min=0) are replaced wherever they are called: as a module, a
    function or a method, in place or not; and so are ``torch.maximum(x, zeros)``, ``torch.where(x > 0, x, 0)``,
    ``x.masked_fill(x < 0, 0)`` and ``x * (x > 0)``. Each call gets a QCFS of its own. The threshold starts at the
    activation's ceiling (6 for ReLU6), or at 1 where there is none; :func:`pascal_ext.calibrate` sets it from data.
    QCFS modules that are there already stay as they are, and so do functions of parameters or sizes alone.

    LeakyReLU and PReLU, of any slope a below zero, and Hardtanh(-a, b) and clamp(-a, b) get two, each with its own
    threshold and levels,

    .. math::
        \mathrm{LeakyReLU}(x) \approx
            \mathrm{QCFS}(x; \lambda_+, L_+) - a\,\mathrm{QCFS}(-x; \lambda_-, L_-)

    (a is 1 for Hardtanh and clamp); those of a layer ``act`` are ``act.positive`` and ``act.negative``. The slopes of a
    PReLU stay ``act.weight``, and learn on.

    Args:
        model: any module that ``torch.fx`` can trace, see :func:`pascal_ext.graph.tracing.trace`.
        levels: L of the new QCFS: one number for all, a mapping from layer name to levels (8 for layers that it does
            not name), or a :class:`~pascal_ext.LevelPlan` for exactly the model's activations. QCFS modules that are
            there already may be named, but only with the levels they have.
        example: a batch, as a data loader yields it; needed where ``forward`` branches on shapes, or an input has a
            default. The result then takes inputs whose shapes take the same branches.

    Returns:
        A module whose layers are in the train/eval modes that they have in ``model``; its ``state_dict`` has the
        model's keys, of the layers that ``forward`` uses, and ``<layer>.threshold``; buffers that ``forward`` reads
        itself are persistent.

    Raises:
        TracingError: see :func:`pascal_ext.graph.tracing.trace`.
        PlanError: a level is not a whole number of at least 1, or ``levels`` does not fit the model.
    """
    traced = trace(model, None if example is None else [example])
    put_qcfs(traced, levels)
    modes = {name: module.training for name, module in unwrapped(model).named_modules()}
    for name, module in traced.named_modules():
        module.training = modes.get(name, model.training)
    return traced


def put_qcfs(traced: fx.GraphModule, levels: Levels = DEFAULT_LEVELS) -> None:
    """Replace the ReLU-like activations of what :func:`~pascal_ext.graph.tracing.trace` made, in place.

    Args:
        traced: the graph.
        levels: see :func:`replace_activations`.

    Raises:
        PlanError: see :func:`replace_activations`.
    """
    ceilings = relu_layers(traced)
    learnt = {name: layer.levels for name, layer in qcfs_layers(traced).items()}
    wanted = levels_of(levels, ceilings, learnt)
    like = next((p for p in traced.parameters() if p.is_floating_point()), None)
    for name, ceiling in ceilings.items():
        qcfs = QCFS(wanted.get(name, DEFAULT_LEVELS), 1.0 if math.isinf(ceiling) else ceiling, ceiling=ceiling)
        traced.set_submodule(name, qcfs if like is None else qcfs.to(like))


def set_levels(model: M, levels: Levels) -> M:
    """Give the QCFS layers of ``model`` other levels; their thresholds stay as they are.

    That suits a network that was trained at its thresholds: λ is the range that the layers behind it know, and it goes
    on from there at other levels. Where thresholds are those of a calibration, calibrate again.

    Args:
        model: a model with :class:`QCFS` layers.
        levels: one number for all, a mapping from layer name to levels (layers that it does not name keep theirs), or a
            :class:`~pascal_ext.LevelPlan` for exactly these layers.

    Returns:
        ``model`` itself.

    Raises:
        InvalidArgumentError: the model has no QCFS layer.
        PlanError: a level is not a whole number of at least 1, or ``levels`` does not fit the model. No level is
            changed then.
    """
    layers = qcfs_layers(model)
    if not layers:
        raise InvalidArgumentError(NO_QCFS_LAYERS)
    for name, wanted in levels_of(levels, layers).items():
        layers[name].levels = wanted
    return model


def qcfs_layers(model: nn.Module) -> dict[str, QCFS]:
    """Layer name -> QCFS module, in the order of execution where ``model`` is a graph, else of definition.

    Names are those within a wrapper, see :func:`pascal_ext.graph.traceable.unwrapped`.
    """
    model = unwrapped(model)
    if isinstance(model, fx.GraphModule):
        calls = dict.fromkeys(node.target for node in model.graph.nodes if node.op == "call_module")
        modules = {str(name): model.get_submodule(str(name)) for name in calls}
    else:
        modules = dict(model.named_modules())
    return {name: module for name, module in modules.items() if isinstance(module, QCFS)}


def relu_layers(traced: fx.GraphModule) -> dict[str, float]:
    """Layer name -> ceiling of the ReLU-like activations left in what :func:`~pascal_ext.graph.tracing.trace` made."""
    layers = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            ceiling = activation_ceiling(node, traced)
            if ceiling is not None:
                layers[str(node.target)] = ceiling
    return layers
