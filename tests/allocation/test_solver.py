"""The programme against an exhaustive search and a dynamic programme, on any tables."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pascal_ext.allocation.solver import LatencyLimit, Limit, cost, solve
from pascal_ext.errors import PlanError
from pascal_ext.plan import barrier

CHOICES = (1, 2, 3, 4, 8)
LOSSES = st.floats(0, 10, allow_subnormal=False).map(lambda value: round(value, 4))
TABLES = st.integers(1, 8).flatmap(
    lambda layers: st.fixed_dictionaries(
        {f"layer{index}": st.fixed_dictionaries(dict.fromkeys(CHOICES, LOSSES)) for index in range(layers)}
    )
)


def oracle(losses: dict[str, dict[int, float]], budget: int) -> float:
    """The least loss of plans whose levels sum to at most ``budget``: layer by layer, for every sum; ∞ if none."""
    best = {0: 0.0}
    for row in losses.values():
        longer: dict[int, float] = {}
        for (total, loss), (level, more) in itertools.product(best.items(), row.items()):
            if total + level <= budget:
                longer[total + level] = min(longer.get(total + level, math.inf), loss + more)
        best = longer
    return min(best.values(), default=math.inf)


def mean_levels(losses: dict[str, dict[int, float]], budget: float) -> Limit:
    count = len(losses)
    return Limit("mean_levels", {name: {level: level / count for level in row} for name, row in losses.items()}, budget)


def loss_of(losses: dict[str, dict[int, float]], plan: dict[str, int]) -> float:
    return sum(losses[name][level] for name, level in plan.items())


@settings(max_examples=60)
@given(TABLES, st.integers(1, 64))
def test_the_plan_loses_least(losses: dict[str, dict[int, float]], total: int) -> None:
    limit = mean_levels(losses, total / len(losses))
    least = oracle(losses, total)
    if least == math.inf:
        with pytest.raises(PlanError, match=r"mean_levels is at least 1 \(budget"):
            solve(losses, [limit])
        return
    plan = solve(losses, [limit])
    assert list(plan) == list(losses)
    assert sum(plan.values()) <= total
    assert loss_of(losses, plan) == pytest.approx(least, abs=1e-6)


@settings(max_examples=20)
@given(TABLES, st.integers(8, 60))
def test_more_budget_never_loses_more(losses: dict[str, dict[int, float]], total: int) -> None:
    plans = [solve(losses, [mean_levels(losses, budget / len(losses))]) for budget in (total, total + 1)]
    assert loss_of(losses, plans[1]) <= loss_of(losses, plans[0]) + 1e-6


# a chain, a residual block whose shortcut passes two layers, two branches of inputs that meet, and means of currents
GRAPHS = [
    LatencyLimit({"a": [], "b": ["a"], "c": ["b"]}, ["c"], 0),
    LatencyLimit({"a": [], "b": ["a"], "c": ["a", "b"], "d": ["c"]}, ["c", "d"], 0),
    LatencyLimit({"a": [], "b": [], "c": ["a", "b"]}, ["c"], 0),
    LatencyLimit({"a": [], "b": ["a"], "c": ["a", "b"]}, ["c"], 0, {"b": [], "c": ["a"]}),
]


@settings(max_examples=25)
@given(st.sampled_from(GRAPHS), st.data(), st.integers(6, 60))
def test_latency_and_mean_together(graph: LatencyLimit, data: st.DataObject, budget: int) -> None:
    losses = {name: data.draw(st.fixed_dictionaries(dict.fromkeys((1, 2, 4, 8), LOSSES))) for name in graph.sources}
    latency = dataclasses.replace(graph, budget=budget)
    mean = mean_levels(losses, data.draw(st.sampled_from([2.0, 4.0, 8.0])))
    plans = [dict(zip(losses, levels, strict=True)) for levels in itertools.product((1, 2, 4, 8), repeat=len(losses))]
    fitting = [plan for plan in plans if latency.of(plan) <= budget and cost(mean, plan) <= mean.budget]
    if not fitting:
        with pytest.raises(PlanError, match="latency is at least"):
            solve(losses, [latency, mean])
        return
    plan = solve(losses, [latency, mean])
    assert plan in fitting
    assert loss_of(losses, plan) == pytest.approx(min(loss_of(losses, one) for one in fitting), abs=1e-6)


def test_uniform_chains_take_three_levels_less_one_a_layer() -> None:
    assert barrier(4, 4) == 3 * 4 - 1
    chain = GRAPHS[0]
    assert chain.of({"a": 4, "b": 4, "c": 4}) == barrier(1, 4) + 2 * 11


def test_nothing_to_gain_is_solved_too() -> None:
    losses = {"a": {1: 0.0, 2: 0.0}, "b": {2: 0.0}}
    assert sum(solve(losses, [mean_levels(losses, 1.5)]).values()) == 3


def test_the_least_of_each_limit_is_told() -> None:
    losses = {"a": {2: 1.0, 4: 0.0}, "b": {2: 1.0, 4: 0.0}}
    limits = [mean_levels(losses, 1.0), LatencyLimit({"a": [], "b": ["a"]}, ["b"], 5)]
    with pytest.raises(
        PlanError, match=r"levels in \[2, 4\].*mean_levels is at least 2 \(budget 1\); latency is at le"
    ):
        solve(losses, limits)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_do_not_matter(scale: float) -> None:
    """Neither of the losses nor of the costs: the solver's own tolerances are those of numbers around 1."""
    losses = {name: {level: (2.0 + index) / level for level in CHOICES} for index, name in enumerate("abc")}
    costs = {name: {level: float(level) for level in CHOICES} for name in losses}
    scaled = [
        {name: {level: scale * x for level, x in row.items()} for name, row in t.items()} for t in (losses, costs)
    ]
    for budget in (3.0, 8.0, 11.0):
        plan = solve(losses, [Limit("cost", costs, budget)])
        assert solve(scaled[0], [Limit("cost", scaled[1], scale * budget)]) == plan
