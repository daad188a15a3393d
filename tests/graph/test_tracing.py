"""Tracing: every activation is a module with a name, and in-place operations are gone."""

from __future__ import annotations

import builtins
import copy
import pickle
import threading
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from pascal_ext import QCFS, convert, load, replace_activations, save
from pascal_ext.activations import qcfs_layers, relu_layers
from pascal_ext.errors import TracingError
from pascal_ext.graph.tracing import trace
from tests.cases import Net, alive, assert_close, assert_same_function, conv, net, quantised
from tests.zoo import EXACT


@pytest.mark.parametrize("name", EXACT)
def test_a_traced_network_computes_the_same(name: str) -> None:
    case = EXACT[name]
    model, data = case.build(), case.data()
    with torch.no_grad():
        expected = model(*[x.clone() if isinstance(x, Tensor) else x for x in data])
        assert_close(trace(model)(*data), expected)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "weight norm"])  # which torch itself refuses
def test_a_quantised_network_can_be_pickled(name: str) -> None:
    """As torch.save and processes that are spawned do it; this file's annotations are strings, as many are."""
    case = EXACT[name]
    data = case.data()
    qcfs = quantised(case.build(), data)
    again = pickle.loads(pickle.dumps(qcfs))
    assert {n: layer.levels for n, layer in qcfs_layers(again).items()} == {
        n: layer.levels for n, layer in qcfs_layers(qcfs).items()
    }
    with torch.no_grad():
        expected = qcfs(*data)
        assert_close(again(*data), expected)
        assert_close(convert(again)(*data), expected)


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


def test_a_parameter_may_be_named_like_one_with_a_default() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask_1: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Any:
            return F.relu(x) * scale + mask_1 if mask is None else x

    traced = trace(Masked())
    assert [node.target for node in traced.graph.nodes if node.op == "placeholder"] == ["x", "mask_1"]
    x, mask = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(traced(x, mask), Masked()(x, mask))


@pytest.mark.filterwarnings("ignore")
def test_models_are_traced_in_threads() -> None:
    model, x, real = Net(lambda m, x: F.relu(m.a(x)) * len(x.shape), a=nn.Linear(3, 4)), torch.randn(2, 3), builtins.len
    with ThreadPoolExecutor(8) as threads:
        traced = list(threads.map(lambda _: trace(model), range(64)))
    assert builtins.len is real
    assert all(torch.equal(each(x), model(x)) for each in traced)


def test_keywords_may_have_any_name() -> None:
    class Keywords(nn.Module):
        def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
            return F.relu(x) + kwargs["forward"] * kwargs["defaults"]

    batch = {name: torch.randn(2, 3) for name in ("x", "forward", "defaults")}
    assert torch.equal(trace(Keywords(), [batch])(**batch), Keywords()(**batch))


def test_stochastic_depth_is_gone(torchvision: types.ModuleType, tmp_path: Path) -> None:
    """It drops nothing here, and torch cannot copy or pickle graphs that call it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        z = m.depth(F.relu(m.b(y)))
        z += 1
        return m.b(m.block(z) + y)

    drops = {"depth": torchvision.ops.StochasticDepth(0.5, "row"), "block": torchvision.ops.DropBlock2d(0.5, 2)}
    case = net(forward, a=conv(3, 4), b=conv(4, 4), **drops)
    qcfs = quantised(case.build(), case.data())
    snn = convert(qcfs)
    save(snn, tmp_path / "snn.safetensors")
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), load(tmp_path / "snn.safetensors")):
        assert_same_function(qcfs, network, case)


# What cannot be traced


def _branches_on_values(m: Any, x: Tensor) -> Tensor:
    return F.relu(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    "model",
    [
        Net(_branches_on_values),
        Net(lambda m, x: x[: int(x.max())]),
        nn.Sequential(nn.LSTM(2, 2), Net(_branches_on_values)),
    ],
)
def test_control_flow_is_refused(model: nn.Module) -> None:
    with pytest.raises(
        TracingError, match=r"(Net|Sequential) cannot be traced at .*test_tracing.py:\d+, `.*[Cc]ontrol flow"
    ):
        trace(model)


def test_models_that_cannot_be_copied() -> None:
    model = Net(lambda m, x: m.a(x), a=nn.Linear(2, 2))
    model.lock = threading.Lock()
    with pytest.raises(TracingError, match=r"Net cannot be traced: .*lock"):
        trace(model)


def test_names_that_graphs_need() -> None:
    with pytest.raises(TracingError, match=r"\['graph', 'code'\].*rename"):
        trace(Net(lambda m, x: m.graph(m.code(x)), graph=nn.ReLU(), code=nn.ReLU()))


def test_names_that_are_words_of_python() -> None:
    layers = nn.ModuleDict({"in": nn.Linear(3, 3), "class": nn.Identity()})
    with pytest.raises(TracingError, match=r"\['class', 'in'\], words of Python.*rename"):
        trace(Net(lambda m, x: m.layers["in"](x), layers=layers))


def test_an_activation_is_no_model() -> None:
    with pytest.raises(TracingError, match=r"nn\.Sequential\(qcfs\)"):
        convert(QCFS(4))


def test_activations_that_a_model_keeps() -> None:
    """With their gradient functions, in whatever container, as those who look at features do."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.seen["last"] = [m.a(x)]
        return F.relu(m.seen["last"][0])

    model = Net(forward, a=nn.Linear(3, 3))
    model.seen = {}  # type: ignore[assignment]
    x = torch.randn(2, 3)
    kept = model(x)
    assert torch.equal(trace(model)(x), kept)
    assert model.seen["last"][0].grad_fn is not None


def test_iterating_over_a_tensor_is_refused() -> None:
    with pytest.raises(TracingError, match=r"How many parts .* x.unbind\(1\)\[0\]"):
        trace(Net(lambda m, x: F.relu(torch.stack([row * 2 for row in x]))))


@pytest.mark.parametrize("parts", [lambda x: x, lambda x: x.unbind(-3), lambda x: torch.split(x, 1)])
def test_iterating_over_samples_is_refused(parts: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TracingError, match="not along dimension 0"):
        trace(Net(lambda m, x: F.relu(torch.stack([row * 2 for row in parts(x)]))), [torch.zeros(2, 3, 4)])


# Wrappers


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, AveragedModel, lambda model: nn.DataParallel(torch.compile(model))]
)
def test_models_in_wrappers(wrap: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(5, 3)
    traced = trace(wrap(model))
    assert traced.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(traced(x), model(x))
    parts = nn.Sequential(wrap(model[:2]), model[2])
    plain = nn.Sequential(model[:2], model[2])
    assert trace(parts).state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(trace(parts)(x), model(x))
    assert parts[0] is not plain[0], "the model itself stays as it is"


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "hook",
    [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), torch.nn.utils.spectral_norm, _old_weight_norm],
    ids=["pruning", "spectral norm", "weight norm"],
)
def test_weights_that_a_forward_has_computed(hook: Any) -> None:
    model = nn.Sequential(hook(nn.Linear(6, 4)), nn.ReLU(), hook(nn.Linear(4, 2))).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    model(x).sum().backward()
    model.eval()
    qcfs = quantised(model, [x], "per-channel")
    snn = convert(qcfs)
    assert torch.equal(trace(model)(x), model(x))
    assert_close(snn(x), qcfs(x))
    assert model[0].weight.grad_fn is not None, "the model itself stays as it is"


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("conv", lambda self, x: self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), True), self.bias)),
        ("norm", lambda self, x: x * 2),
        ("act", lambda self, x: F.relu(x) - 0.1),
        ("head", lambda self, x: F.linear(x, self.weight * 2, self.bias)),
    ],
)
def test_a_layers_own_forward_may_be_another(name: str, forward: Any) -> None:
    model = nn.Sequential()
    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "act": nn.ReLU(), "flat": nn.Flatten()}
    for key, layer in {**layers, "head": nn.Linear(64, 5)}.items():
        model.add_module(key, layer)
    layer = alive(model.double()).get_submodule(name)
    layer.forward = types.MethodType(forward, layer)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert_close(trace(model)(x), model(x))
    qcfs = quantised(model, [x], "per-channel")
    for fold in (False, True):
        assert_close(convert(qcfs, fold_batch_norm=fold)(x), qcfs(x))


def test_hooks_that_are_lost_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model[0].register_forward_hook(lambda *_: None)  # which the graph's layer has as well
    trace(model)
    model[1].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"\['1'\] have forward hooks"):
        trace(model)
    model.register_forward_pre_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"\['Sequential', '1'\] have forward hooks") as told:
        replace_activations(model)
    assert [warning.filename for warning in told] == [__file__], "once, where the user called"


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.PReLU(), nn.Hardtanh(-1, 2)], ids=repr)
def test_hooks_of_activations_that_become_two_are_told(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 3), activation)
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.warns(UserWarning, match=r"\['1'\] have forward hooks"):
        traced = trace(model)
    x = torch.randn(4, 3)
    assert torch.equal(traced(x) * 2, model(x))


def test_what_a_lost_hook_changes_is_not_in_the_graph() -> None:
    """So that whoever compares the model with its graph finds it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(5, 3)
    plain = model(x)
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.warns(UserWarning, match="have forward hooks"):
        assert torch.equal(trace(model)(x), plain)
    assert not torch.equal(model(x), plain), "the model itself stays as it is"


def test_torchscript() -> None:
    with pytest.raises(TracingError, match=r"TorchScript.*nn\.Module it was made from"):
        trace(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)))


def test_lazy_layers() -> None:
    """Copies of them would get weights of their own."""
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyBatchNorm1d())
    with pytest.raises(TracingError, match=r"'0.weight', .*'2.running_mean'.* not initialised"):
        trace(model)
    model(torch.ones(2, 3))
    trace(model)
