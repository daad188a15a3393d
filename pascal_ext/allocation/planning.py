"""Level plans from data: measure what levels do and cost, then choose."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm.auto import tqdm

from pascal_ext.allocation.costs import COSTS, Costs
from pascal_ext.allocation.metric import metric_losses, metric_of_levels
from pascal_ext.allocation.sensitivity import Losses, sensitivities
from pascal_ext.allocation.solver import cost as cost_of
from pascal_ext.allocation.solver import solve
from pascal_ext.allocation.statistics import Layer, collect, traced_layers
from pascal_ext.data import batches
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.plan import LevelPlan, check_levels, chosen

STRATEGIES = ("sensitivity", "al")
CHOICES = (1, 2, 3, 4, 6, 8, 12, 16)
MEAN_LEVELS = 4.0  # the budget where none is given
AL_LEVELS = 8  # at which the metric of a ReLU is measured
STEP = 1e-5  # two points of a front differ in cost by more than this share: the solver's tolerance is a tenth of it


class Point(NamedTuple):
    """One point of :func:`pareto`: no plan costs less and loses less."""

    plan: LevelPlan
    cost: float
    loss: float


def allocate(
    model: nn.Module,
    dataloader: Iterable[Any],
    strategy: str = "sensitivity",
    *,
    mean_levels: float | None = None,
    effective_timesteps: float | None = None,
    energy: float | None = None,
    latency: float | None = None,
    choices: Iterable[int] = CHOICES,
    only: Collection[str] | None = None,
    per_channel: bool = False,
    progress: bool = True,
) -> LevelPlan:
    r"""Choose the levels of each activation layer, before conversion: the plan that loses least within the budgets.

    The loss of a plan is the sum over its layers of

    - ``"sensitivity"``: what the network's output loses when this layer alone has these levels, measured
      (:func:`pascal_ext.allocation.sensitivity.sensitivities`);
    - ``"al"``: :math:`s^3/L^2`, with s from the paper's metric of the layer's activations
      (:func:`pascal_ext.al_metric`, :func:`pascal_ext.allocation.metric.metric_losses`).

    A ReLU model is planned as if its activations were replaced by QCFS with thresholds of least squared error, as
    :func:`pascal_ext.calibrate` sets them. A QCFS model is planned around what it has learnt: thresholds stay, at all
    levels, and the measured loss is relative to the network as it is, so ``"sensitivity"`` takes levels away where it
    costs least and gives none beyond those learnt.

    On several processes (``torch.distributed``), each gives the data that is its share, and all get the same plan.

    Args:
        model: any module that ``torch.fx`` can trace; it is not changed.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them; labels are not used. Their inputs
            are kept in memory; a thousand images are enough.
        strategy: ``"sensitivity"`` or ``"al"``.
        mean_levels: budget: the mean of the levels, "mean T". 4 where no budget is given.
        effective_timesteps: budget: T_eff, :func:`pascal_ext.energy.effective_timesteps`.
        energy: budget: nanojoules for one sample, :func:`pascal_ext.allocation.costs.energy`.
        latency: budget: timesteps of the barrier schedule, :attr:`pascal_ext.SpikingNetwork.latency`.
        choices: the levels to choose from; the published plans are of {1, 2, 4, 8, 16}.
        only: names of the layers to plan; QCFS layers that are not among them keep their levels.
        per_channel: the thresholds of ReLU layers will be one for each channel.
        progress: show progress bars.

    Returns:
        A plan for all layers, by the names that :func:`pascal_ext.replace_activations` gives them, with reasons.

    Raises:
        InvalidArgumentError: an argument is out of range, ``only`` names layers that are not there, or the model is no
            module or has no activations.
        PlanError: there is no choice, or one is not a whole number of at least 1, or no plan is within the budgets.
        CalibrationError: the loader is empty or has no inputs, an activation or the output is not finite, a QCFS layer
            is not called, or one without QCFS has other channels in each batch, with ``per_channel``.
        TracingError: see :func:`pascal_ext.graph.tracing.trace`.

    Warns:
        UserWarning: a layer is dead, that is, all its activations are zero. It gets the fewest levels.
    """
    asked: tuple[Any, ...] = (mean_levels, effective_timesteps, energy, latency)
    budgets = {name: value for name, value in zip(COSTS, asked, strict=True) if value is not None}
    for name, budget in budgets.items():
        if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < float(budget) < math.inf:
            raise InvalidArgumentError(f"{name} must be a positive number, got {budget!r}")
    if not budgets:
        budgets = {"mean_levels": MEAN_LEVELS}
    found = _measure(model, dataloader, strategy, choices, only, per_channel, progress)
    levels = solve(found.losses, [found.costs.limit(name, float(budget)) for name, budget in budgets.items()])
    return found.plan(levels)


def pareto(
    model: nn.Module,
    dataloader: Iterable[Any],
    strategy: str = "sensitivity",
    *,
    cost: str = "mean_levels",
    points: int | None = None,
    choices: Iterable[int] = CHOICES,
    only: Collection[str] | None = None,
    per_channel: bool = False,
    progress: bool = True,
) -> list[Point]:
    """The plans of :func:`allocate` for every budget: from the cheapest on, each loses less than the ones before.

    Args:
        cost: ``"mean_levels"``, ``"effective_timesteps"``, ``"energy"`` or ``"latency"``.
        points: about so many plans, evenly spaced in cost; the whole front where None.
        model, dataloader, strategy, choices, only, per_channel, progress: see :func:`allocate`.

    Raises:
        InvalidArgumentError, PlanError, CalibrationError, TracingError: see :func:`allocate`.
    """
    if cost not in COSTS:
        raise InvalidArgumentError(f"cost={cost!r} is unknown; choose one of {list(COSTS)}")
    if points is not None and points < 2:
        raise InvalidArgumentError(f"points must be at least 2, got {points}")
    found = _measure(model, dataloader, strategy, choices, only, per_channel, progress)

    def best(budget: float) -> Point:
        limit = found.costs.limit(cost, budget)
        levels = solve(found.losses, [limit])
        loss = sum(found.losses[name][level] for name, level in levels.items())
        return Point(found.plan(levels), cost_of(limit, levels), loss)

    unlimited = found.costs.limit(cost, math.inf)
    cheapest = cost_of(unlimited, {name: min(row) for name, row in found.losses.items()})
    costliest = cost_of(unlimited, {name: max(row) for name, row in found.losses.items()})
    front = [best(costliest)]
    step = 0.0 if points is None else (front[0].cost - cheapest) / (points - 1) * (1 - STEP)
    with tqdm(desc="pareto", disable=not progress, leave=False) as bar:
        while front[-1].cost > cheapest:
            budget = front[-1].cost - max(step, front[-1].cost * STEP)
            if budget < cheapest:
                break
            front.append(best(budget))
            bar.update()
    return _undominated(front)


def _undominated(points: Iterable[Point]) -> list[Point]:
    """Those that lose less than every cheaper one, from the cheapest on."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, point.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


@dataclass(frozen=True)
class _Measured:
    """What the layers' levels do and cost.

    Attributes:
        losses: layer -> levels -> loss.
        costs: of the same layers and levels.
        reasons: layer -> why its levels are what they are, with ``{loss}`` where the loss belongs.
    """

    losses: Losses
    costs: Costs
    reasons: Mapping[str, str]

    def plan(self, levels: Mapping[str, int]) -> LevelPlan:
        reasons = {name: self.reasons[name].format(loss=self.losses[name][level]) for name, level in levels.items()}
        return LevelPlan(levels, reasons)


def _measure(
    model: nn.Module,
    dataloader: Iterable[Any],
    strategy: str,
    choices: Iterable[int],
    only: Collection[str] | None,
    per_channel: bool,
    progress: bool,
) -> _Measured:
    if strategy not in STRATEGIES:
        raise InvalidArgumentError(f"strategy={strategy!r} is unknown; choose one of {list(STRATEGIES)}")
    if per_channel not in (True, False):
        raise InvalidArgumentError(f"per_channel must be True or False, got {per_channel!r}")
    if not isinstance(choices, Iterable) or not (levels := sorted({check_levels(L, "choices") for L in choices})):
        raise PlanError(f"choices are the levels to choose from, such as {CHOICES}; got {choices!r}")
    traced, layers = traced_layers(model, dataloader)
    planned = chosen(only, layers)
    data = list(batches(dataloader, model))
    with torch.no_grad():
        collect(traced, layers, data, per_channel, "activations" if progress else None)
        reasons: dict[str, str] = {}
        allowed: dict[str, list[int]] = {}
        for name, layer in layers.items():
            allowed[name] = levels
            if name not in planned:
                if layer.levels is None:
                    raise InvalidArgumentError(f"only leaves out {name!r}, which has no levels of its own to keep")
                allowed[name], reasons[name] = [layer.levels], "kept"
            elif layer.dead:
                warnings.warn(f"layer {name!r} is dead on this data: all its activations are zero", stacklevel=3)
                allowed[name], reasons[name] = levels[:1], "dead: all its activations are zero"
        costs = Costs(traced, layers, allowed, data[0])
        if strategy == "al":
            losses, why = _metric_losses(layers, allowed)
        else:
            losses, title = sensitivities(traced, layers, allowed, data, "sensitivity" if progress else None)
            why = dict.fromkeys(layers, title + " {loss:.3g}")
    return _Measured(losses, costs, why | reasons)


def _metric_losses(layers: Mapping[str, Layer], choices: Mapping[str, Sequence[int]]) -> tuple[Losses, dict[str, str]]:
    losses: Losses = {}
    why: dict[str, str] = {}
    for name, layer in layers.items():
        metric = metric_of_levels(layer.level_counts(layer.levels or AL_LEVELS))
        losses[name] = metric_losses(metric, choices[name])
        why[name] = f"metric {metric:.3g}"
    return losses, why
