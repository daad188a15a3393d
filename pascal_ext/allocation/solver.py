"""The plan of least loss within budgets: a mixed-integer linear programme, one binary for each layer and choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pascal_ext.errors import PlanError
from pascal_ext.plan import barrier

PRECISION = 1e3  # the largest objective of one choice: the solver stops within 1e-6 of the best plan

Table = Mapping[str, Mapping[int, float]]  # layer -> levels -> value


@dataclass(frozen=True)
class Limit:
    """What a plan may cost: the sum over layers of ``costs[layer][levels]`` is at most ``budget``."""

    name: str
    costs: Table
    budget: float


@dataclass(frozen=True)
class LatencyLimit:
    """The barrier schedule of :attr:`pascal_ext.SpikingNetwork.latency` takes at most ``budget`` timesteps.

    Where a network decodes a maximum of currents, or for an operation that runs as in the ANN, what follows reads one
    timestep and not the window assumed here, and the network takes less.

    Attributes:
        sources: layer -> the layers whose spikes its currents come from; empty where they are the network's inputs.
        ends: the layers that the outputs come from.
        budget: timesteps.
        windows: layer -> those of its sources whose timesteps it reads; all of them where it is not in here. Currents
            that reach it by way of their mean are one timestep.
    """

    sources: Mapping[str, Sequence[str]]
    ends: Sequence[str]
    budget: float
    windows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str = field(default="latency", init=False)

    def of(self, levels: Mapping[str, int]) -> int:
        """The latency of a plan."""
        ready: dict[str, int] = {}
        for layer, sources in self.sources.items():
            window = max((levels[source] for source in self.windows.get(layer, sources)), default=1)
            start = max((ready[source] for source in sources), default=0)
            ready[layer] = start + barrier(window, levels[layer])
        return max((ready[layer] for layer in self.ends), default=0)


def solve(losses: Table, limits: Sequence[Limit | LatencyLimit]) -> dict[str, int]:
    """The levels of each layer that minimise the sum of ``losses[layer][levels]`` within all ``limits``.

    Raises:
        PlanError: no plan is within the limits; the message says the least that each of them can be.
    """
    solution = _milp(losses, limits)
    if solution is not None:
        return solution
    least = []
    for limit in limits:
        cheapest = _milp(losses, [], objective=limit)
        assert cheapest is not None
        value = cost(limit, cheapest)
        least.append(f"{limit.name} is at least {value:.6g} (budget {limit.budget:.6g})")
    choices = sorted({level for row in losses.values() for level in row})
    raise PlanError(f"no plan with levels in {choices} meets the budget: {'; '.join(least)}")


def cost(limit: Limit | LatencyLimit, levels: Mapping[str, int]) -> float:
    """What a plan costs, in the unit of the limit."""
    if isinstance(limit, LatencyLimit):
        return limit.of(levels)
    return sum(row[levels[layer]] for layer, row in limit.costs.items())


def _milp(
    losses: Table, limits: Sequence[Limit | LatencyLimit], objective: Limit | LatencyLimit | None = None
) -> dict[str, int] | None:
    """The best plan; None where there is none. ``objective`` is minimised instead of the losses, if given."""
    problem = _Problem(losses)
    for limit in limits:
        if isinstance(limit, LatencyLimit):
            problem.below(problem.latency(limit), limit.budget)
        else:
            problem.below(problem.sum_of(limit.costs), limit.budget)
    if objective is None:
        goal = problem.sum_of(losses)
    elif isinstance(objective, LatencyLimit):
        goal = problem.latency(objective)
    else:
        goal = problem.sum_of(objective.costs)
    return problem.minimise(goal)


class _Problem:
    """Variables and rows, collected before they become arrays."""

    def __init__(self, losses: Table) -> None:
        self.choice: dict[tuple[str, int], int] = {}
        self.upper: list[float] = []
        self.integral: list[int] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []  # coefficients, lower, upper
        for layer, row in losses.items():
            for level in row:
                self.choice[layer, level] = self.variable(1.0, integral=True)
            self.one_of([self.choice[layer, level] for level in row])
        self.levels = {layer: sorted(row) for layer, row in losses.items()}

    def variable(self, upper: float, *, integral: bool = False) -> int:
        self.upper.append(upper)
        self.integral.append(int(integral))
        return len(self.upper) - 1

    def one_of(self, variables: Sequence[int]) -> None:
        self.rows.append((dict.fromkeys(variables, 1.0), 1.0, 1.0))

    def below(self, sum_: Mapping[int, float], budget: float) -> None:
        # in units of the budget, of which the solver's tolerance is then a millionth: a budget that a plan meets
        # exactly is met whatever the rounding of the sum
        unit = budget or 1.0
        self.rows.append(({variable: value / unit for variable, value in sum_.items()}, float("-inf"), budget / unit))

    def sum_of(self, table: Table) -> dict[int, float]:
        return {self.choice[layer, level]: value for layer, row in table.items() for level, value in row.items()}

    def latency(self, limit: LatencyLimit) -> dict[int, float]:
        """A variable that is at least the latency.

        The time that a layer adds depends on two choices, the longest window among its sources and its own levels: the
        pair is chosen by variables ``pair`` whose margins are the two choices.
        """
        infinite = float("inf")
        ready: dict[str, int] = {}
        for layer, sources in limit.sources.items():
            read = limit.windows.get(layer, sources)
            windows = sorted({level for source in read for level in self.levels[source]}) or [1]
            window = {steps: self.variable(1.0) for steps in windows}
            self.one_of(list(window.values()))
            for source in read:  # Σ steps·window >= the source's levels
                row = {variable: -float(steps) for steps, variable in window.items()}
                row |= {self.choice[source, level]: float(level) for level in self.levels[source]}
                self.rows.append((row, -infinite, 0.0))
            pair = {(steps, own): self.variable(1.0) for steps in windows for own in self.levels[layer]}
            for steps in windows:
                row = {pair[steps, own]: 1.0 for own in self.levels[layer]}
                self.rows.append((row | {window[steps]: -1.0}, 0.0, 0.0))
            for own in self.levels[layer]:
                row = {pair[steps, own]: 1.0 for steps in windows}
                self.rows.append((row | {self.choice[layer, own]: -1.0}, 0.0, 0.0))
            ready[layer] = self.variable(infinite)
            spent = {variable: float(barrier(*key)) for key, variable in pair.items()}
            starts: list[dict[int, float]] = [{ready[source]: 1.0} for source in sources] or [{}]
            for start in starts:
                self.rows.append((spent | start | {ready[layer]: -1.0}, -infinite, 0.0))
        end = self.variable(infinite)
        for layer in limit.ends:
            self.rows.append(({ready[layer]: 1.0, end: -1.0}, -infinite, 0.0))
        return {end: 1.0}

    def minimise(self, goal: Mapping[int, float]) -> dict[str, int] | None:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_array

        matrix = lil_array((len(self.rows), len(self.upper)))
        for index, (row, _, _) in enumerate(self.rows):
            for variable, value in row.items():
                matrix[index, variable] = value
        objective = np.zeros(len(self.upper))
        for variable, value in goal.items():
            objective[variable] = value
        largest = np.abs(objective).max(initial=0.0)
        if largest > 0:
            objective *= PRECISION / largest
        found = milp(
            objective,
            integrality=np.array(self.integral),
            bounds=Bounds(0, np.array(self.upper)),
            constraints=LinearConstraint(
                matrix.tocsr(), np.array([row[1] for row in self.rows]), np.array([row[2] for row in self.rows])
            ),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        return {layer: level for (layer, level), column in self.choice.items() if found.x[column] > 0.5}
