"""Plans: budgets that are met, layers that matter, other processes, and mistakes."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, allocate, convert, pareto, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.energy import effective_timesteps, network_effective_timesteps
from pascal_ext.errors import CalibrationError, InvalidArgumentError, PlanError
from tests.cases import Net

STRATEGIES = ("sensitivity", "al")


def network() -> nn.Module:
    """Three layers, of which the second hardly matters to the output."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12)
    )
    model += nn.Sequential(nn.ReLU(), nn.Linear(12, 4))
    return model.eval()


def data(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(48, 3, 8, 8, generator=generator)
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(sizes or (16, 16, 16))]


def planned(model: nn.Module, *arguments: Any, **options: Any) -> LevelPlan:
    return allocate(model, data(), *arguments, **{"progress": False, **options})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_is_for_the_model_and_says_why(strategy: str) -> None:
    model = network()
    plan = planned(model, strategy)
    assert list(plan) == ["1", "3", "6"]
    assert plan.mean_levels <= 4
    word = {"sensitivity": "KL ", "al": "metric "}[strategy]
    assert all(plan.reasons[name].startswith(word) for name in plan)
    snn = convert(model, data(), plan, progress=False)
    assert (
        snn.plan == plan == convert(model, data(), "auto" if strategy == "sensitivity" else plan, progress=False).plan
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_budgets_are_met(strategy: str) -> None:
    model = network()
    fan_in = {"1": 27, "3": 9, "6": 96}
    plan = planned(model, strategy, mean_levels=7 / 3)
    assert sum(plan.values()) == 7
    plan = planned(model, strategy, effective_timesteps=6)
    assert 4 < effective_timesteps(dict(plan), fan_in) <= 6
    plan = planned(model, strategy, latency=19)
    assert 15 <= convert(model, data(), plan, progress=False).latency <= 19
    plan = planned(model, strategy, mean_levels=4, latency=19, choices=(1, 4, 16))
    assert plan.mean_levels <= 4
    assert convert(model, data(), plan, progress=False).latency <= 19
    assert set(plan.values()) <= {1, 4, 16}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_is_the_best_of_the_front_that_its_budget_allows(strategy: str) -> None:
    choices = (1, 2, 4)
    front = pareto(network(), data(), strategy, choices=choices, progress=False)
    for budget in (1, 4 / 3, 2, 3, 4):
        wanted = [point for point in front if point.cost <= budget + 1e-9][-1]
        assert planned(network(), strategy, mean_levels=budget, choices=choices) == wanted.plan


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cost", ["mean_levels", "effective_timesteps", "energy", "latency"])
def test_a_front_loses_less_for_more(strategy: str, cost: str) -> None:
    front = pareto(network(), data(), strategy, cost=cost, choices=(1, 2, 4), progress=False)
    assert len(front) > 3
    for cheaper, dearer in itertools.pairwise(front):
        assert cheaper.cost < dearer.cost
        assert cheaper.loss > dearer.loss
    assert set(front[0].plan.values()) == {1}
    few = pareto(network(), data(), strategy, cost=cost, choices=(1, 2, 4), points=3, progress=False)
    assert 2 <= len(few) <= 4
    assert {point.plan for point in few} <= {point.plan for point in front}


def test_a_network_without_synapses_costs_no_energy() -> None:
    (point,) = pareto(nn.Sequential(nn.ReLU()), data(), cost="energy", progress=False)
    assert (point.cost, list(point.plan)) == (0.0, ["0"])


def test_the_budget_of_effective_timesteps_is_what_the_network_reports() -> None:
    layers = {"a": nn.Linear(2, 4), "b": nn.Linear(4, 4), "relu": nn.ReLU(), "last": nn.Linear(4, 3)}

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.relu(m.a(x))
        return m.last(torch.relu(m.b(x) + x))  # a shortcut is a synapse, too

    torch.manual_seed(0)
    model, samples = Net(forward, **layers), [torch.rand(50, 2)]
    for point in pareto(model, samples, cost="effective_timesteps", choices=(1, 2, 4), progress=False):
        assert point.cost == pytest.approx(network_effective_timesteps(model, point.plan))


def test_numbers_of_any_kind_are_budgets() -> None:
    assert planned(network(), mean_levels=np.int64(3)) == planned(network(), mean_levels=3.0)
    assert planned(network(), mean_levels=np.float32(3)) == planned(network(), mean_levels=3)


def test_a_layer_that_matters_gets_more() -> None:
    model = network()
    with torch.no_grad():
        model[7].weight.mul_(1e-2)  # the output hardly depends on the last activation ...
        model[7].weight[:, 0] = 2.0  # ... but for one of its channels
    model = nn.ModuleDict({"main": model, "side": nn.Sequential(nn.Linear(4, 4), nn.ReLU())})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.side = model["main"], model["side"]

        def forward(self, x: Tensor) -> Tensor:
            y = self.main(x)
            return y + 1e-3 * self.side(y)

    plan = planned(Both().eval(), mean_levels=3)
    assert plan["side.1"] == 1
    assert min(plan[name] for name in plan if name != "side.1") > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neither_the_order_nor_the_batches_matter(strategy: str) -> None:
    model = network()
    plan = planned(model, strategy)
    assert allocate(model, data()[::-1], strategy, progress=False) == plan
    assert allocate(model, data(40, 8), strategy, progress=False) == plan


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_learnt_layers(strategy: str) -> None:
    model = replace_activations(network(), 4)
    for layer in qcfs_layers(model).values():
        layer.threshold.data.fill_(2.0)
    plan = planned(model, strategy, mean_levels=3)
    assert plan.mean_levels <= 3
    if strategy == "sensitivity":
        assert planned(model, strategy) == dict.fromkeys(plan, 4)
        assert max(planned(model, strategy, mean_levels=16).values()) == 4
    kept = planned(model, strategy, mean_levels=2.5, only=["1", "6"])
    assert kept["3"] == 4
    assert kept.reasons["3"] == "kept"
    assert kept.mean_levels <= 2.5


def test_a_model_of_which_some_layers_have_learnt_converts_with_levels_of_its_own() -> None:
    model = network()
    model[1] = QCFS(5, 2.0)
    plan = convert(model, data(), "auto", progress=False).plan
    assert plan["1"] == 5
    assert plan.mean_levels <= 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dead_layer_gets_the_fewest_levels(strategy: str) -> None:
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(-1e3)
    with pytest.warns(UserWarning, match="layer '3' is dead"):
        plan = planned(model, strategy, choices=(2, 4, 8), mean_levels=8)
    assert plan["3"] == 2
    assert plan.reasons["3"].startswith("dead")


def _share(rank: int, folder: str) -> None:
    """One of two processes: allocate on every other sample, and write the plans down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x = torch.cat([images for images, _ in data()])
    share = [x[rank::2][:10], x[rank::2][10:]]
    for strategy in STRATEGIES:
        for budget in (2, 3, 5):
            plan = allocate(network(), share, strategy, mean_levels=budget, progress=False)
            plan.to_json(Path(folder) / f"{strategy}-{budget}-{rank}.json")
    dist.destroy_process_group()


def test_two_processes_come_to_the_plan_of_one(tmp_path: Path) -> None:
    mp.spawn(_share, (str(tmp_path),), nprocs=2)
    for strategy, budget in itertools.product(STRATEGIES, (2, 3, 5)):
        plan = planned(network(), strategy, mean_levels=budget)
        for rank in range(2):
            assert LevelPlan.from_json(tmp_path / f"{strategy}-{budget}-{rank}.json") == plan


LABELS = [torch.zeros(4, dtype=torch.long)]
MISTAKES: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([], {}, CalibrationError, "loader is empty"),
    (LABELS, {}, CalibrationError, "labels without inputs"),
    (torch.randn(2, 3, 8, 8), {}, CalibrationError, "wrap a single batch"),
    ([torch.full((2, 3, 8, 8), math.nan)], {}, CalibrationError, "layer '1' has activations that are not finite"),
    (None, {"strategy": "best"}, InvalidArgumentError, "strategy='best' is unknown"),
    (None, {"mean_levels": 0.5}, PlanError, r"mean_levels is at least 1 \(budget 0.5\)"),
    (None, {"latency": 3}, PlanError, r"latency is at least 6 \(budget 3\)"),
    (None, {"energy": 1e-9}, PlanError, "energy is at least"),
    (None, {"mean_levels": 0}, InvalidArgumentError, "mean_levels must be a positive number, got 0"),
    (None, {"latency": math.nan}, InvalidArgumentError, "latency must be a positive number, got nan"),
    (None, {"energy": "little"}, InvalidArgumentError, "energy must be a positive number, got 'little'"),
    (None, {"choices": (0, 1)}, PlanError, "choices must be at least 1, got 0"),
    (None, {"choices": (2.5,)}, PlanError, "choices must be a whole number of at least 1, got 2.5"),
    (None, {"mean_levels": True}, InvalidArgumentError, "mean_levels must be a positive number, got True"),
    (None, {"per_channel": "auto"}, InvalidArgumentError, "per_channel must be True or False, got 'auto'"),
    (None, {"choices": ()}, PlanError, r"levels to choose from, such as \(1, .*; got \(\)"),
    (None, {"choices": 4}, PlanError, r"levels to choose from, such as \(1, .*; got 4"),
    (None, {"only": ["1", "3", "6", "zz"]}, InvalidArgumentError, r"does not have: \['zz'\]; it has \['1', '3', '6'"),
    (None, {"only": ["1", "3"]}, InvalidArgumentError, "only leaves out '6', which has no levels"),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("loader", "options", "error", "message"), MISTAKES)
def test_mistakes_are_told_and_change_nothing(
    loader: Any, options: dict[str, Any], error: type[Exception], message: str, training: bool
) -> None:
    model = network().train(training)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        allocate(model, data() if loader is None else loader, progress=False, **options)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_mistakes_of_fronts_and_plans() -> None:
    with pytest.raises(InvalidArgumentError, match="cost='time' is unknown"):
        pareto(network(), data(), cost="time", progress=False)
    with pytest.raises(InvalidArgumentError, match="points must be at least 2, got 1"):
        pareto(network(), data(), points=1, progress=False)
    with pytest.raises(InvalidArgumentError, match=r"a model, .* got 3"):
        allocate(3, data())  # type: ignore[arg-type]  # a number in the place of a model is what is refused
    with pytest.raises(PlanError, match="does not fit this model"):
        convert(network(), data(), planned(nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.ReLU())), progress=False)


def test_an_output_that_is_not_finite() -> None:
    model = network()
    with torch.no_grad():
        model[7].bias.fill_(math.inf)
    with pytest.raises(CalibrationError, match="output is not finite"):
        planned(model)


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    planned(network(), progress=True)
    shown = capsys.readouterr().err
    assert "activations" in shown
    assert "sensitivity" in shown
