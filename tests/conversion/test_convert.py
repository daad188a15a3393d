"""Conversion: the spiking network is the same function, and the model that was given is left alone."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from pascal_ext import QCFS, LevelPlan, allocate, calibrate, convert, replace_activations, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import (
    CalibrationError,
    InvalidArgumentError,
    PascalError,
    PlanError,
    TracingError,
    UnsupportedOperationError,
)
from pascal_ext.ops import timefold
from pascal_ext.plan import barrier
from tests.cases import Case, Net, assert_same_function, quantised, relu
from tests.refused import ANALOG, REFUSED, REFUSED_AT_RUN_TIME
from tests.zoo import EXACT

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


def batch_of(case: Case) -> list[Any]:
    return [(tuple(case.data()), None)]


@pytest.mark.parametrize("thresholds", ["scalar", "per-channel", "negative"])
@pytest.mark.parametrize("name", EXACT)
def test_the_same_function(name: str, thresholds: str) -> None:
    case = EXACT[name]
    qcfs = quantised(case.build(), case.data(), thresholds)
    snn = convert(qcfs)
    assert not snn.analog_nodes
    assert_same_function(qcfs, snn, case)
    report = verify(qcfs, snn, batch_of(case), progress=False)
    assert report.exact
    assert report.max_abs_error < 1e-9
    assert set(report.layers) == set(qcfs_layers(qcfs))
    assert thresholds == "negative" or all(layer.firing_rate > 0 for layer in report.layers.values())


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused(name: str) -> None:
    case = REFUSED[name]
    with pytest.raises(UnsupportedOperationError) as caught:
        convert(quantised(case.build(), case.data()))
    message = str(caught.value)
    assert "refused.py:" in message, "the source line"
    assert 'on_unsupported="analog"' in message, "the way out"
    assert message.startswith(("layer '", "operation '"))


@pytest.mark.parametrize("name", REFUSED_AT_RUN_TIME)
def test_what_only_the_data_shows_is_refused_then(name: str) -> None:
    case = REFUSED_AT_RUN_TIME[name]
    snn = convert(quantised(case.build(), case.data()))
    with pytest.raises(UnsupportedOperationError, match=r"batch|dimension 0"):
        snn(*case.data())


@pytest.mark.parametrize("thresholds", ["scalar", "negative"])
@pytest.mark.parametrize("name", ANALOG)
def test_analog_nodes_give_the_anns_result(name: str, thresholds: str) -> None:
    case = ANALOG[name]
    qcfs = quantised(case.build(), case.data(), thresholds)
    snn = convert(qcfs, on_unsupported="analog")
    assert snn.analog_nodes
    assert_same_function(qcfs, snn, case)
    assert verify(qcfs, snn, batch_of(case), progress=False).exact


def test_the_refusal_names_layer_type_and_line() -> None:
    case = REFUSED["layer norm"]
    with pytest.raises(UnsupportedOperationError, match=r"layer 'norm' \(LayerNorm\) at .*refused\.py:\d+, `.*m\.norm"):
        convert(case.build(), [case.data()[0]])


def test_what_comes_last_can_be_done_outside() -> None:
    """And the refusal says so; in the middle of a network it does not."""
    case = REFUSED["softmax"]
    with pytest.raises(UnsupportedOperationError, match=r"softmax.* comes last: apply it to what"):
        convert(quantised(case.build(), case.data()))
    case = REFUSED["sigmoid"]
    with pytest.raises(UnsupportedOperationError, match="Replace it in the model, or pass"):
        convert(quantised(case.build(), case.data()))


class Fuzz(nn.Module):
    """A network drawn at random: each step makes a new [N, 4, 5, 5] from one or two of those there are."""

    def __init__(self, program: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.program = program
        for step, (name, _, _) in enumerate(program):
            if name == "layer":
                self.add_module(f"conv{step}", nn.Conv2d(4, 4, 3, padding=1, groups=random.choice([1, 2, 4])))
            elif name == "norm":
                self.add_module(f"bn{step}", nn.BatchNorm2d(4))
            elif name == "join":
                self.add_module(f"conv{step}", nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        values = [F.relu(self.stem(x))]
        for step, (name, i, j) in enumerate(self.program):
            a, b = values[i % len(values)], values[j % len(values)]
            if name == "layer":
                values.append(F.relu(self.get_submodule(f"conv{step}")(a)))
            elif name == "norm":
                values.append(self.get_submodule(f"bn{step}")(a))
            elif name == "join":
                values.append(self.get_submodule(f"conv{step}")(torch.cat([a, b], 1)))
            elif name == "pool":
                values.append(F.max_pool2d(torch.cat([a, b], 1), 3, 1, 1)[:, 2:6])
            elif name == "shuffle":
                both = torch.stack([a, b], 2).flatten(1, 2)
                values.append(F.max_pool2d(both[:, 1:5].transpose(1, 2), 3, 1, 1).transpose(1, 2))
            else:
                values.append(
                    {
                        "relu": lambda a, b: F.relu(a),
                        "add": lambda a, b: a + b,
                        "subtract": lambda a, b: 0.5 - a / 2 + b,
                        "negate": lambda a, b: -a,
                        "maximum": lambda a, b: F.max_pool2d(a, 3, 1, 1),
                        "larger": torch.maximum,
                        "average": lambda a, b: F.avg_pool2d(a, 3, 1, 1),
                        "pad": lambda a, b: F.pad(a, (0, 0, 1, 0))[:, :, :5],
                        "roll": lambda a, b: a.roll(1, 1),
                    }[name](a, b)
                )
        return torch.cat(values[-3:], 1).mean((2, 3))


OPERATIONS = "layer norm join shuffle pool relu add subtract negate maximum larger average pad roll".split()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 7), st.integers(0, 7)), max_size=12), st.data())
def test_random_networks(program: list[tuple[str, int, int]], data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99)))
    case = Case(Fuzz(program), [(3, 5, 5)])
    qcfs = quantised(case.build(), case.data(), data.draw(st.sampled_from(["scalar", "per-channel", "negative"])))
    for layer in qcfs_layers(qcfs).values():
        layer.levels = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    snn = convert(qcfs)
    assert_same_function(qcfs, snn, case)
    assert verify(qcfs, snn, batch_of(case), progress=False).exact


# The wires


@pytest.mark.parametrize("name", ["grouped", "transposed", "norm after", "concatenation", "flatten module", "linear"])
@pytest.mark.parametrize("thresholds", ["scalar", "per-channel"])
def test_layers_read_binary_spikes(name: str, thresholds: str) -> None:
    """The thresholds are in the weights wherever a layer with weights reads spikes."""
    case = EXACT[name]
    snn = convert(quantised(case.build(), case.data(), thresholds))
    scalings = [node for node in snn.graph.nodes if node.target is timefold.scale]
    assert not scalings or name == "concatenation"  # a batch norm reads those spikes, and absorbs nothing
    binary: list[bool] = []
    layers = [module for module in snn.modules() if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(lambda layer, args, _: binary.append(set(args[0].unique().tolist()) <= {0.0, 1.0}))
    snn(*case.data())
    inputs = 3 if name == "concatenation" else 1  # layers that read the input of the network
    assert binary.count(False) == inputs


def test_latency_where_the_batch_has_moved() -> None:
    """Neurons behind such an operation read one decoded timestep, and emit theirs as everywhere."""
    model = Net(lambda m, x: relu(relu(m.a(x)).transpose(0, 1) - 0.3), a=nn.Conv2d(3, 4, 1))
    qcfs = replace_activations(model, {"relu": 4, "relu_1": 3})
    assert convert(qcfs, on_unsupported="analog").latency == barrier(1, 4) + barrier(1, 3)


def test_folded_batch_norms_compute_the_same() -> None:
    for name in ("norm after", "norm of transposed", "shared layers", "norm before", "one block, twice"):
        case = EXACT[name]
        qcfs = quantised(case.build(), case.data(), "per-channel")
        snn = convert(qcfs, fold_batch_norm=True)
        assert_same_function(qcfs, snn, case)
    assert not any(
        isinstance(m, nn.BatchNorm2d)
        for m in convert(
            EXACT["norm after"].build(), [torch.randn(2, 3, 6, 6).double()], fold_batch_norm=True
        ).modules()
    )


# What is asked for


@pytest.fixture
def model() -> nn.Module:
    return EXACT["sum of branches"].build()


@pytest.fixture
def loader() -> list[Tensor]:
    return [torch.randn(4, 3, 6, 6, dtype=torch.float64) for _ in range(2)]


NAMES = ["relu", "relu_1", "relu_2", "relu_3"]


def test_levels(model: nn.Module, loader: list[Tensor]) -> None:
    def levels(asked: Any) -> dict[str, int]:
        return dict(convert(model, loader, asked, progress=False).plan)

    assert levels(None) == dict.fromkeys(NAMES, 8)
    assert levels(3) == dict.fromkeys(NAMES, 3)
    assert levels({"relu_1": 2}) == {**dict.fromkeys(NAMES, 8), "relu_1": 2}
    plan = LevelPlan(dict(zip(NAMES, (1, 2, 3, 4), strict=True)))
    assert levels(plan) == dict(plan)


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        (0, "at least 1"),
        (2.5, "whole number"),
        ("many", "'many'"),
        ({"nowhere": 4}, "nowhere"),
        ({"relu": 0}, "'relu'"),
        (LevelPlan({"relu": 4}), "relu_1"),
    ],
)
def test_levels_that_do_not_fit(levels: Any, match: str, model: nn.Module, loader: list[Tensor]) -> None:
    with pytest.raises(PlanError, match=match):
        convert(model, loader, levels, progress=False)


def test_learnt_levels_are_kept(model: nn.Module, loader: list[Tensor]) -> None:
    qcfs = calibrate(replace_activations(model, 4), loader, progress=False)
    assert dict(convert(qcfs).plan) == dict.fromkeys(NAMES, 4)
    assert dict(convert(qcfs, levels=4).plan) == dict.fromkeys(NAMES, 4)
    with pytest.raises(PlanError, match="'relu': 8 asked, 4 learnt"):
        convert(qcfs, levels=8)


def test_learnt_layers_keep_their_thresholds_beside_relu(loader: list[Tensor]) -> None:
    mixed = Net(lambda m, x: F.relu(m.b(m.act(m.a(x)))), a=nn.Conv2d(3, 4, 1), act=QCFS(5, 0.7), b=nn.Conv2d(4, 4, 1))
    snn = convert(mixed.double(), loader, {"relu": 3}, progress=False)
    assert dict(snn.plan) == {"act": 5, "relu": 3}
    assert snn.get_submodule("act").v_threshold.item() == pytest.approx(0.7, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"execution": "spike"}, "execution='spike'"),
        ({"backend": "gpu"}, "gpu"),
        ({"on_unsupported": "ignore"}, "on_unsupported='ignore'"),
        ({"dataloader": None}, "dataloader"),
    ],
)
def test_unknown_options(options: dict[str, Any], match: str, model: nn.Module, loader: list[Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        convert(model, **{"dataloader": loader, "progress": False, **options})


# The model that is given


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        **{
            f"tensor {name}": (id(x), x.clone(), x.requires_grad)
            for name, x in [*model.named_parameters(), *model.named_buffers()]
        },
        **{
            f"flags {name}": (id(m), m.training, getattr(m, "inplace", None), len(m._forward_hooks))
            for name, m in model.named_modules()
        },
    }


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert [
            torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(value, after[key], strict=True)
        ] == [True] * len(value), key


def trained() -> nn.Module:
    """A model in training mode, with a part of it frozen, and in-place activations."""
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True))
    model = (
        nn.Sequential(block, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.MaxPool2d(2))
        .double()
        .train()
    )
    block.eval()
    block[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({}, None),
        ({"levels": 0}, PlanError),
        ({"levels": {"nowhere": 2}}, PlanError),
        ({"dataloader": []}, CalibrationError),
        ({"dataloader": [torch.full((2, 3, 9, 9), torch.nan, dtype=torch.float64)]}, CalibrationError),
        ({"dataloader": None}, InvalidArgumentError),
        ({"model": nn.Sequential(trained(), nn.Sigmoid())}, UnsupportedOperationError),
        ({"model": Net(lambda m, x: m.a(x) if x.sum() > 0 else x, a=trained()).train()}, TracingError),
    ],
)
def test_the_model_is_left_alone(broken: dict[str, Any], error: type[PascalError] | None) -> None:
    options = {"model": trained(), "dataloader": [torch.randn(2, 3, 9, 9, dtype=torch.float64)], **broken}
    model = options["model"]
    before = state_of(model)
    if error is None:
        snn = convert(**options, progress=False)
        snn(torch.randn(2, 3, 9, 9, dtype=torch.float64))
        ours = {x.untyped_storage().data_ptr() for x in [*snn.parameters(), *snn.buffers()]}
        theirs = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
        assert not ours & theirs
    else:
        with pytest.raises(error):
            convert(**options, progress=False)
    assert_unchanged(before, state_of(model))


def test_the_rng_is_left_alone(model: nn.Module, loader: list[Tensor]) -> None:
    state = torch.get_rng_state()
    convert(model, loader, progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_converting_twice_gives_the_same(model: nn.Module, loader: list[Tensor]) -> None:
    first, second = (convert(copy.deepcopy(model), loader, 3, progress=False) for _ in range(2))
    assert torch.equal(first(loader[0]), second(loader[0]))
    assert first.state_dict().keys() == second.state_dict().keys()


# What tracing cannot see


def test_a_graph_that_is_not_the_model_is_warned_of() -> None:
    model = Net(
        lambda m, x: m.head(relu(m.linear(x)) * (1 if torch.is_grad_enabled() else 2)),
        linear=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    ).double()
    data = [torch.randn(8, 3, dtype=torch.float64)]
    with pytest.warns(UserWarning, match="Net itself gives other outputs than its graph"):
        convert(model, data, 4, progress=False)


def test_a_spiking_network_is_not_converted_again(model: nn.Module, loader: list[Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match="a spiking network already"):
        convert(convert(model, loader, progress=False), loader)


@pytest.mark.parametrize("model", [{"weight": torch.ones(1)}, "model.pt"], ids=type)
def test_not_a_module(model: Any, loader: list[Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a model, that is, a torch\.nn\.Module, got"):
        convert(model, loader)


def test_hooks_are_told_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), spectral_norm(nn.Conv2d(4, 4, 3)), QCFS(4), nn.Conv2d(4, 2, 3))
    data = [torch.randn(4, 3, 8, 8)]
    convert(model, data, progress=False)  # spectral norm is a hook, of torch itself
    model[1].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"\['1'\] have forward hooks") as told:
        convert(model, data, progress=False)
    assert len(told) == 1
    model[1] = nn.ReLU()
    for layer in model[3:]:
        layer.register_forward_pre_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"\['3', '4'\] have forward hooks.*spikes of all timesteps") as told:
        convert(model, data, progress=False)
    assert len(told) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda model, data: convert(model, data, progress=False),
        lambda model, data: convert(replace_activations(model)),
        lambda model, data: calibrate(replace_activations(model), data, progress=False),
        lambda model, data: allocate(model, data, progress=False),
        lambda model, data: verify(model, convert(replace_activations(model.to_empty(device="cpu"))).to("meta"), data),
    ],
    ids=["convert", "convert learnt", "calibrate", "allocate", "verify"],
)
def test_a_model_without_values(work: Any) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(InvalidArgumentError, match=r"'0.weight', .* meta device, without values; load them"):
        work(model, [torch.randn(4, 3, 8, 8)])
