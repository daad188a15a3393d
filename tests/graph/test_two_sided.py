"""LeakyReLU, PReLU and bounds of both signs: two layers of spikes each, and the same function."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pascal_ext import (
    QCFS,
    LevelPlan,
    allocate,
    calibrate,
    convert,
    load,
    reconstruct,
    replace_activations,
    save,
    verify,
)
from pascal_ext.activations import qcfs_layers, relu_layers
from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.graph.tracing import trace
from tests.cases import Net, alive, conv

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")

SLOPES = torch.tensor([0.25, -0.5, 0.0, 1.5])
ACTIVATIONS = {
    "leaky relu": nn.LeakyReLU(),
    "steep": nn.LeakyReLU(1.75),
    "falling": nn.LeakyReLU(-0.3),
    "the identity": nn.LeakyReLU(1.0),
    "prelu": nn.PReLU(),
    "prelu by channel": nn.PReLU(4),
    "hardtanh": nn.Hardtanh(-0.5, 2.0),
    "leaky relu, function": lambda x: F.leaky_relu(x, 0.2),
    "leaky relu, in place": lambda x: F.leaky_relu(x.clone(), 0.2, inplace=True),
    "leaky relu, in place by name": lambda x: F.leaky_relu_(x.clone(), negative_slope=0.2),
    "prelu, function": lambda x: F.prelu(x, SLOPES.to(x.dtype)),
    "prelu, method": lambda x: x.prelu(weight=SLOPES.to(x.dtype)[:1]),
    "hardtanh, function": lambda x: F.hardtanh(x, -2.0),
    "clamp": lambda x: torch.clip(x, -1, 2),
    "clamp from below": lambda x: x.clamp(min=-0.25),
}


def model_of(activation: Any, shape: tuple[int, ...]) -> nn.Module:
    """``activation`` between two layers, for inputs of 4 channels."""
    layer = {1: nn.Linear(4, 4), 2: nn.Conv1d(4, 4, 1), 3: nn.Conv2d(4, 4, 1)}[len(shape)]
    if isinstance(activation, nn.PReLU):
        activation = copy.deepcopy(activation)
        activation.weight.data = SLOPES[: activation.num_parameters].clone()
    layers = {"act": activation} if isinstance(activation, nn.Module) else {}
    act = (lambda m, x: m.act(x)) if layers else (lambda m, x: activation(x))
    net = Net(lambda m, x: m.b(act(m, m.a(x))), a=layer, b=copy.deepcopy(layer), **layers)
    return alive(net)


def residual(act: nn.Module) -> nn.Module:
    """Convolutions with an activation in the place of each ReLU but one, in a loop and around a shortcut."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.act(m.bn(m.a(x)))
        for _ in range(2):
            y = F.relu(m.b(y)) + m.act(y)
        return m.head(F.leaky_relu(F.max_pool2d(m.act(m.c(y)), 2), 0.3).flatten(1))

    torch.manual_seed(0)
    layers = {"a": conv(3, 4), "bn": nn.BatchNorm2d(4), "b": conv(4, 4), "c": conv(4, 4), "head": nn.Linear(36, 5)}
    return alive(Net(forward, act=act, **layers))


LEAKY = ["leaky_relu.positive", "leaky_relu.negative"]
LAYERS = [
    *("act.positive", "act.negative", "relu", "act.positive_1", "act.negative_1", "relu_1"),
    *("act.positive_2", "act.negative_2", "act.positive_3", "act.negative_3", *LEAKY),
]


def data(count: int = 3, dtype: torch.dtype = torch.float64) -> list[Any]:
    """Batches of images that have fewer dimensions than pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 8, 3, 2, 2, generator=generator, dtype=dtype)
    return [(F.interpolate(images, size=(6, 6), mode="bilinear"), torch.zeros(8)) for images in coarse]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 3)], ids=len)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_graph_is_the_same_function(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = model_of(ACTIVATIONS[name], shape).to(dtype)
    x = torch.randn(64, *shape, dtype=dtype)
    x[0] = 0
    traced = trace(model)
    assert len(relu_layers(traced)) == 2
    for graph in (traced, trace(traced), trace(nn.Sequential(traced))):
        assert torch.equal(graph(x), model(x))


def literal(x: Tensor, slope: Tensor | float, positive: QCFS, negative: QCFS) -> Tensor:
    """QCFS(x; λ+, L+) − a·QCFS(−x; λ−, L−), written out."""
    terms = []
    for layer, z in ((positive, x), (negative, -x)):
        threshold = layer.threshold.detach().reshape(-1, *[1] * (x.ndim - 2)) if layer.threshold.ndim else 1.0
        threshold = threshold if layer.threshold.ndim else layer.threshold.detach()
        step = threshold / layer.levels
        terms.append(step * torch.clip(torch.floor(z / step + 0.5), 0, layer.levels))
    if isinstance(slope, Tensor) and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return terms[0] - slope * terms[1]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 3)], ids=len)
@pytest.mark.parametrize(
    ("activation", "slope"),
    [(nn.LeakyReLU(0.1), 0.1), (nn.LeakyReLU(-2.0), -2.0), (nn.PReLU(4), SLOPES), (nn.Hardtanh(-2, 2), 1.0)],
    ids=["leaky relu", "falling", "prelu", "hardtanh"],
)
def test_the_qcfs_network_is_the_formula(
    activation: nn.Module, slope: Any, shape: tuple[int, ...], per_channel: bool
) -> None:
    model = model_of(activation, shape).double()
    qcfs = replace_activations(model, LevelPlan({"act.positive": 5, "act.negative": 3}))
    x = torch.randn(64, *shape, dtype=torch.float64)
    calibrate(qcfs, [x], per_channel=per_channel, progress=False)
    layers = qcfs_layers(qcfs)
    assert layers["act.positive"].threshold.numel() == (4 if per_channel else 1)
    assert not torch.equal(layers["act.positive"].threshold, layers["act.negative"].threshold)
    with torch.no_grad():
        expected = model.b(literal(model.a(x), slope, *layers.values()))
        torch.testing.assert_close(qcfs(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(convert(qcfs)(x), expected, rtol=0, atol=1e-12)


def test_ceilings_are_those_of_the_sides() -> None:
    layers = qcfs_layers(replace_activations(nn.Sequential(nn.Hardtanh(-0.5, 2.0), nn.LeakyReLU())))
    assert {name: layer.ceiling for name, layer in layers.items()} == {
        "0.positive": 2.0,
        "0.negative": 0.5,
        "1.positive": float("inf"),
        "1.negative": float("inf"),
    }


def test_names() -> None:
    model = residual(nn.LeakyReLU(0.2, inplace=True))
    assert list(relu_layers(trace(model))) == LAYERS
    assert list(qcfs_layers(replace_activations(model))) == LAYERS
    assert list(convert(model.double(), data(), progress=False).plan) == LAYERS


def test_a_slope_of_zero_is_a_relu() -> None:
    assert list(relu_layers(trace(residual(nn.LeakyReLU(0.0))))) == [
        *("act", "relu", "act_1", "relu_1", "act_2", "act_3", *LEAKY)
    ]


def relative_positions(m: Any, x: Tensor) -> Tensor:
    position = torch.arange(x.shape[1])
    return F.relu(m.a(x)) + m.table((position[:, None] - position).clamp(-2, 2) + 2).mean(1)


@pytest.mark.parametrize(
    "model",
    [
        Net(lambda m, x: F.relu(F.linear(x, m.w.clamp(-1, 1))), w=nn.Parameter(torch.randn(3, 2))),
        Net(relative_positions, a=nn.Linear(2, 3), table=nn.Embedding(5, 3)),
    ],
    ids=["weights", "positions"],
)
def test_what_depends_on_no_element_of_an_input_is_left_alone(model: nn.Module) -> None:
    batches = [torch.randn(8, 7, 2).double()]
    snn = convert(model.double(), batches, progress=False)
    assert list(snn.plan) == ["relu"]
    assert verify(model, snn, batches, progress=False).exact


@pytest.mark.parametrize("act", [nn.LeakyReLU(float("inf")), nn.LeakyReLU(float("nan")), nn.RReLU(), nn.ELU()])
def test_what_is_no_difference_of_two_is_refused(act: nn.Module) -> None:
    with pytest.raises(UnsupportedOperationError, match=rf"layer 'act' \({type(act).__name__}\)"):
        convert(replace_activations(residual(act).double()))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([nn.LeakyReLU, nn.PReLU]),
    st.floats(-2, 2),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([{}, {"per_channel": True}, {"correct": "bias", "per_channel": "auto"}, {"method": "max"}]),
    st.sampled_from([torch.float32, torch.float64]),
)
@example(nn.LeakyReLU, 4.3e-45, 1, 1, {}, torch.float32)  # thresholds that are zero in float32
@example(nn.LeakyReLU, 4.3e-45, 3, 3, {"correct": "bias", "per_channel": "auto"}, torch.float32)
@example(nn.LeakyReLU, 1e-40, 9, 9, {"per_channel": True}, torch.float32)
@example(nn.PReLU, 1e-38, 9, 9, {"method": "max"}, torch.float32)
@example(nn.PReLU, 1e-310, 9, 9, {}, torch.float64)
def test_spikes_are_exact(
    kind: type[nn.Module], slope: float, up: int, down: int, calibration: dict[str, Any], dtype: torch.dtype
) -> None:
    act = nn.LeakyReLU(slope) if kind is nn.LeakyReLU else nn.PReLU(4, init=slope)
    model = residual(act).to(dtype)
    batches = data(dtype=dtype)
    plan = {name: down if "negative" in name else up for name in relu_layers(trace(model))}
    snn = convert(model, batches, plan, calibration=calibration, progress=False)
    assert dict(snn.plan) == plan
    for snn.execution in ("spikes", "counts"):
        report = verify(model, snn, batches, progress=False)
        assert report.exact
        assert report.mismatched_counts == report.mismatched_predictions == 0


def test_the_slopes_of_a_prelu_keep_their_place_and_learn() -> None:
    model = residual(nn.PReLU(4)).double().train()
    qcfs = replace_activations(model, 3)
    calibrate(qcfs, data(), progress=False)
    state = qcfs.state_dict()
    assert model.state_dict().keys() <= state.keys()
    assert torch.equal(state["act.weight"], model.state_dict()["act.weight"])
    fresh = replace_activations(model, 3)
    fresh.load_state_dict(state)
    x = data()[0][0]
    assert torch.equal(fresh.eval()(x), qcfs.eval()(x))

    before = {name: p.detach().clone() for name, p in qcfs.named_parameters()}
    optimizer = torch.optim.SGD(qcfs.train().parameters(), 0.01)
    for batch, _ in data():
        optimizer.zero_grad()
        qcfs(batch).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in qcfs.parameters())
        optimizer.step()
    changed = {name for name, p in qcfs.named_parameters() if not torch.equal(p, before[name])}
    assert {"act.weight", "act.positive.threshold", "act.negative.threshold"} <= changed
    assert verify(qcfs, convert(qcfs), data(), progress=False).exact


def test_slopes_that_are_computed_stay_computed() -> None:
    class Squared(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight**2

    model = residual(nn.PReLU(4)).double()
    parametrize.register_parametrization(model.get_submodule("act"), "weight", Squared())
    qcfs = replace_activations(model, 3)
    calibrate(qcfs, data(), progress=False)
    assert "act.parametrizations.weight.original" in dict(qcfs.named_parameters())
    assert verify(model, convert(model, data(), progress=False), data(), progress=False).exact
    assert verify(qcfs, convert(qcfs), data(), progress=False).exact


@pytest.mark.parametrize("strategy", ["sensitivity", "al"])
def test_plans_fit(strategy: str) -> None:
    model = residual(nn.LeakyReLU(0.1)).double()
    plan = allocate(model, data(), strategy, mean_levels=4, progress=False)
    assert list(plan) == LAYERS
    assert convert(model, data(), plan, progress=False).plan == plan
    assert allocate(replace_activations(model), data(), strategy, progress=False).keys() == plan.keys()


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.2), nn.PReLU(4)])
def test_reconstruction(act: nn.Module) -> None:
    model, batches = residual(act).float(), data(16, torch.float32)
    start = replace_activations(model, 3)
    calibrate(start, batches, correct="bias", per_channel="auto", progress=False)
    found = reconstruct(model, batches, 3, steps=250, progress=False)
    with torch.no_grad():
        errors = [sum(float(F.mse_loss(network(x), model(x))) for x, _ in batches) for network in (found, start.eval())]
    assert errors[0] < 0.8 * errors[1]
    assert verify(found, convert(found), batches, progress=False).exact


def test_files(tmp_path: Path) -> None:
    model = residual(nn.PReLU(4)).double()
    snn = convert(model, data(), {"act.negative": 3}, progress=False)
    save(snn, tmp_path / "snn.safetensors")
    again = load(tmp_path / "snn.safetensors")
    assert again.plan == snn.plan
    assert verify(model, again, data(), progress=False).exact


def test_compiled_and_exported() -> None:
    qcfs = replace_activations(residual(nn.PReLU(4)).double(), 3)
    x = data()[0][0]
    calibrate(qcfs, data(), progress=False)
    snn = convert(qcfs)
    with torch.no_grad():
        expected = qcfs(x)
        compiled = torch.compile(qcfs, backend="eager", fullgraph=True)(x)
        exported = torch.export.export(snn, (x,)).module()(x)
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-12)
