"""Tracing: every activation is a module with a name, and in-place operations are gone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import QCFS, replace_activations
from pascal_ext.errors import PlanError, TracingError
from pascal_ext.tracing import qcfs_layers, relu_layers, trace
from tests.networks import EXACT, Net, assert_close


@pytest.mark.parametrize("name", EXACT)
def test_a_traced_network_computes_the_same(name: str) -> None:
    case = EXACT[name]
    model, data = case.build(), case.data()
    with torch.no_grad():
        expected = model(*[x.clone() if isinstance(x, Tensor) else x for x in data])
        assert_close(trace(model)(*data), expected)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.relu(self.conv(x)) - 1)
        return self.relu(F.relu(y + x).clamp(min=0) - 1)


class Names(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.again = self.layer1[0].relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.stem(x)))
        return self.again(self.layer1[0](x)).relu()


LAYERS = [
    "relu",
    *(f"layer1.{block}.{name}" for block in (0, 1) for name in ("relu", "relu6", "relu_1", "clamp", "relu_2")),
    *(f"layer1.0.{name}" for name in ("relu_3", "relu6_1", "relu_4", "clamp_1", "relu_5", "relu_6")),
    "relu_1",
]


def test_names_follow_the_models() -> None:
    layers = relu_layers(trace(Names()))
    assert list(layers) == LAYERS
    assert [name for name, ceiling in layers.items() if ceiling == 6] == [n for n in LAYERS if "relu6" in n]
    assert list(qcfs_layers(replace_activations(Names()))) == LAYERS


def test_names_stay_when_a_traced_model_is_traced_again() -> None:
    assert list(relu_layers(trace(trace(Names())))) == LAYERS


def test_state_dict_keeps_the_models_keys() -> None:
    model = Names()
    qcfs = replace_activations(model, 4)
    keys = dict(qcfs.state_dict())
    assert keys.keys() - model.state_dict().keys() == {f"{name}.threshold" for name in LAYERS}
    assert not model.state_dict().keys() - keys.keys()
    assert all(torch.equal(keys[name], value) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in qcfs.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize(
    ("activation", "ceiling"),
    [
        (nn.ReLU(), math.inf),
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(0.0, 2.5), 2.5),
        (nn.Hardtanh(), None),
        (nn.LeakyReLU(), None),
        (F.relu, math.inf),
        (F.relu6, 6.0),
        (lambda x: F.hardtanh(x, 0, 3), 3.0),
        (lambda x: F.hardtanh(x, min_val=0.0), 1.0),
        (lambda x: F.hardtanh(x), None),
        (torch.relu, math.inf),
        (lambda x: x.relu(), math.inf),
        (lambda x: x.clamp(0), math.inf),
        (lambda x: x.clamp(min=0.0, max=4), 4.0),
        (lambda x: x.clamp_min(0), math.inf),
        (lambda x: torch.clip(x, 0, 1), 1.0),
        (lambda x: torch.clamp_min(x, 0), math.inf),
        (lambda x: x.clamp(max=3), None),
        (lambda x: x.clamp(min=0.1), None),
        (lambda x: x.clamp(0, 0), None),
        (lambda x: x.clamp(min=torch.zeros(())), None),
        (lambda x: x.relu_(), math.inf),
        (lambda x: F.relu(x, inplace=True), math.inf),
        (lambda x: F.relu(input=x), math.inf),
        (lambda x: x.clamp_(0, 2), 2.0),
        (lambda x: torch.relu_(x), math.inf),
    ],
)
def test_what_counts_as_an_activation(activation: Any, ceiling: float | None) -> None:
    layers = {"act": activation} if isinstance(activation, nn.Module) else {}
    model = Net((lambda m, x: m.act(x)) if layers else (lambda m, x: activation(x)), **layers)
    assert list(relu_layers(trace(model)).values()) == ([] if ceiling is None else [ceiling])
    replaced = list(qcfs_layers(replace_activations(model)).values())
    assert [layer.ceiling for layer in replaced] == ([] if ceiling is None else [ceiling])
    assert [layer.threshold.item() for layer in replaced] == (
        [] if ceiling is None else [min(ceiling, 6) if ceiling < math.inf else 1.0]
    )


def test_qcfs_layers_stay_as_they_are_and_each_call_is_its_own() -> None:
    model = Net(lambda m, x: m.act(m.act(F.relu(x)) - 1), act=QCFS(5, torch.tensor([0.5, 2.0])))
    layers = qcfs_layers(replace_activations(model, 3))
    assert {name: layer.levels for name, layer in layers.items()} == {"relu": 3, "act": 5, "act_1": 5}
    assert layers["act"].threshold is not layers["act_1"].threshold
    assert layers["act_1"].threshold.tolist() == [0.5, 2.0]


def test_dtype_and_device_follow_the_parameters() -> None:
    model = Net(lambda m, x: F.relu(m.a(x)), a=nn.Linear(2, 2)).to(torch.bfloat16)
    assert qcfs_layers(replace_activations(model))["relu"].threshold.dtype == torch.bfloat16


def test_modes() -> None:
    model = Net(lambda m, x: F.dropout(F.relu(m.a(x)), 0.5, m.training), a=nn.Linear(50, 50))
    assert not trace(model.train()).training
    assert model.training
    qcfs = replace_activations(model)
    assert qcfs.training
    assert isinstance(qcfs.get_submodule("dropout"), nn.Dropout)
    x = torch.randn(4, 50)
    assert not torch.equal(qcfs(x), qcfs(x)), "in training, it drops"
    assert torch.equal(qcfs.eval()(x), qcfs(x))
    assert not replace_activations(model.eval()).training


def test_gradients_reach_weights_and_thresholds() -> None:
    qcfs = replace_activations(Names().train(), 4)
    qcfs(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in qcfs.parameters())


def test_layers_that_nothing_reads_are_left_out() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        F.relu(m.a(x))
        return F.relu6(m.a(x))

    assert list(relu_layers(trace(Net(forward, a=nn.Linear(2, 2))))) == ["relu6"]


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor, features: bool = False, mask: Tensor | None = None, slope: float = 2.0) -> Any:
        y = F.relu(self.a(x)) * slope
        y = y if mask is None else y * mask
        return (y, x) if features else y


def test_plain_defaults_are_kept() -> None:
    model, x = Options(), torch.randn(2, 3)
    assert_close(trace(model)(x), model(x))
    assert [node.target for node in trace(model).graph.nodes if node.op == "placeholder"] == ["x"]


# In place


def _view_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    half = y[:, :1]
    half.relu_()
    return y


def _chunk_changed(m: Any, x: Tensor) -> Tensor:
    left, right = m.a(x).chunk(2, 1)
    left += 1
    return left + right


def _viewed_then_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    flat = y.flatten(1)
    y.mul_(2)
    return flat


def _identity_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = m.drop(y)
    F.relu(z, inplace=True)
    return y + z


@pytest.mark.parametrize("forward", [_view_changed, _chunk_changed, _viewed_then_changed, _identity_changed])
def test_views_changed_in_place_are_refused(forward: Any) -> None:
    model = Net(forward, a=nn.Linear(4, 4), drop=nn.Dropout())
    with pytest.raises(TracingError, match=r"shares memory with .* out of place"):
        trace(model)


def test_views_that_nothing_reads_later_are_fine() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).flatten(1).view(-1, 2, 2)
        y += 1
        z = y[:, 0]
        return z.relu_() + 1

    model, x = Net(forward, a=nn.Linear(4, 4)).eval(), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))


def _other_name(m: Any, x: Tensor) -> Tensor:
    y = z = m.a(x)
    y += 1
    y *= x
    y **= 2
    return z - x


def _sizes(m: Any, x: Tensor) -> Tensor:
    n = before = x.shape[1]
    n += 2
    n //= 2
    return x * n + before


@pytest.mark.parametrize("forward", [_other_name, _sizes])
def test_augmented_assignments(forward: Any) -> None:
    model, x = Net(forward, a=nn.Linear(4, 4)), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))


def test_no_module_or_node_works_in_place() -> None:
    for name in (
        "in place, read later",
        "in-place functions",
        "in-place methods",
        "in-place operators",
        "in-place dropout",
    ):
        traced = trace(EXACT[name].build())
        assert not any(getattr(module, "inplace", False) for module in traced.modules())
        assert not any(str(node.target).endswith("_") for node in traced.graph.nodes)
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        before = x.clone()
        traced(x)
        assert torch.equal(x, before)


# What cannot be traced


def _branches_on_values(m: Any, x: Tensor) -> Tensor:
    return F.relu(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    "model",
    [
        Net(_branches_on_values),
        Net(lambda m, x: F.relu(torch.stack([row * 2 for row in x]))),
        Net(lambda m, x: x[: int(x.max())]),
        nn.Sequential(nn.LSTM(2, 2), Net(_branches_on_values)),
    ],
)
def test_control_flow_is_refused(model: nn.Module) -> None:
    with pytest.raises(TracingError, match=r"(Net|Sequential) cannot be traced: .*[Cc]ontrol flow"):
        trace(model)


def test_models_that_cannot_be_copied() -> None:
    model = Net(lambda m, x: m.a(x), a=nn.Linear(2, 2))
    model.cache = model.a(torch.randn(1, 2)) * 2  # not a leaf: torch cannot copy it
    with pytest.raises(TracingError, match="deepcopy"):
        trace(model)


def test_names_that_graphs_need() -> None:
    with pytest.raises(TracingError, match=r"\['graph', 'code'\].*rename"):
        trace(Net(lambda m, x: m.graph(m.code(x)), graph=nn.ReLU(), code=nn.ReLU()))


def test_item_assignment_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return F.relu(x)

    with pytest.raises(TracingError, match="item assignment"):
        trace(Net(forward))


def test_levels_are_checked() -> None:
    with pytest.raises(PlanError, match="at least 1"):
        replace_activations(Names(), 0)
