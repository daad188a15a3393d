"""Verification: it finds what is wrong, says where, and finds nothing where nothing is."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, calibrate, convert, replace_activations, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.energy import measure
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.network.spiking_network import SpikingNetwork
from tests.cases import Case, Net, quantised, relu
from tests.zoo import EXACT

CASE = EXACT["sum of branches"]
EXECUTIONS = pytest.mark.parametrize("execution", ["spikes", "counts"])


@pytest.fixture
def data() -> list[Any]:
    return [(torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.arange(5)) for _ in range(2)]


@pytest.fixture
def pair() -> tuple[nn.Module, SpikingNetwork]:
    """A classifier of two layers after one another, and its conversion."""
    model = Net(
        lambda m, x: m.head(relu(m.b(relu(m.a(x)))).flatten(1)),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(4, 4, 3),
        head=nn.Linear(16, 10),
    )
    case = Case(model, [(3, 6, 6)])
    qcfs = quantised(case.build(), case.data())
    for layer in qcfs_layers(qcfs).values():
        layer.levels = 4
    return qcfs, convert(qcfs)


@EXECUTIONS
def test_equal_networks(execution: str, pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    snn.execution = execution
    report = verify(qcfs, snn, data, progress=False)
    assert report.exact
    assert report.mismatched_counts == report.mismatched_predictions == report.ties == 0
    assert report.max_abs_error < 1e-9
    assert report.samples == 10
    assert report.compared_counts == 10 * (4 * 4 * 4 + 4 * 2 * 2)
    assert report.changed_by_quantisation is None
    assert {name: layer.counts for name, layer in report.layers.items()} == {"relu": 640, "relu_1": 160}
    with torch.no_grad():
        rate = (
            qcfs.get_submodule("relu")(qcfs.get_submodule("a")(torch.cat([x for x, _ in data])))
            / qcfs.get_submodule("relu").threshold
        ).mean()
    assert report.layers["relu"].firing_rate == pytest.approx(float(rate))


def test_what_only_runs_without_hooks_is_verified_too(
    pair: tuple[nn.Module, SpikingNetwork], data: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks show counts, and switch off what is shared between passes, so in use another graph runs."""
    qcfs = pair[0].float()  # float64 has no ties to settle
    snn = convert(qcfs)
    batches = [x.float() for x, _ in data]
    assert verify(qcfs, snn, batches, progress=False).exact
    run = snn._run_continuing
    monkeypatch.setattr(snn, "_run_continuing", lambda *args, **kwargs: -run(*args, **kwargs))
    report = verify(qcfs, snn, batches, progress=False)
    assert report.mismatched_counts == 0
    assert report.mismatched_predictions > 0
    assert report.max_abs_error > 0.1


def first_that_differs(report: Any) -> str | None:
    return next((name for name, layer in report.layers.items() if layer.mismatched), None)


@EXECUTIONS
@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("a.weight", "relu"),
        ("a.bias", "relu"),
        ("relu.v_threshold", "relu"),
        ("b.weight", "relu_1"),
        ("relu_1.v_threshold", "relu_1"),
    ],
)
def test_a_changed_tensor_is_found_where_it_is(
    path: str, layer: str, execution: str, pair: tuple[nn.Module, SpikingNetwork], data: list[Any]
) -> None:
    qcfs, snn = pair
    snn.execution = execution
    with torch.no_grad():
        snn.state_dict()[path].mul_(1.3)
    report = verify(qcfs, snn, data, progress=False)
    assert not report.exact
    assert first_that_differs(report) == layer
    assert report.max_abs_error > 1e-3
    assert report.layers[layer].max_difference >= 1
    assert "not exact" in str(report)


@EXECUTIONS
def test_one_wrong_spike_is_found(execution: str, pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    snn.execution = execution

    def flip(neuron: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[(0, 2, *[0] * (output.ndim - 2))] = 0.0 if output[(0, 2, *[0] * (output.ndim - 2))] > 0 else output.max()
        return output

    snn.get_submodule("relu_1").register_forward_hook(flip)
    report = verify(qcfs, snn, data, progress=False)
    assert report.layers["relu"].mismatched == 0
    assert report.layers["relu_1"].mismatched == 2, "one in each batch"


def test_a_wrong_head_is_found_in_the_predictions(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    with torch.no_grad():
        snn.get_submodule("head").weight.neg_()
    report = verify(qcfs, snn, data, progress=False)
    assert report.mismatched_counts == 0
    assert report.mismatched_predictions > 5
    assert not report.exact


def test_changed_levels_are_refused(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    qcfs_layers(qcfs)["relu_1"].levels = 5
    with pytest.raises(InvalidArgumentError, match=r"levels, \(ANN, SNN\): \{'relu_1': \(5, 4\)\}"):
        verify(qcfs, snn, data, progress=False)


def test_another_network_is_refused(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    _, snn = pair
    other = Net(lambda m, x: m.act(relu(m.a(x))), a=nn.Conv2d(3, 4, 3), act=QCFS(4))
    with pytest.raises(InvalidArgumentError, match=r"only the ANN has \['act'\], only the SNN has \['relu_1'\]"):
        verify(other.double(), snn, data, progress=False)


# Against the ReLU network


@EXECUTIONS
def test_the_relu_network(execution: str, data: list[Any]) -> None:
    model = CASE.build()
    snn = convert(model, data, 2, execution=execution, progress=False)
    report = verify(model, snn, data, progress=False)
    assert report.exact, "it is compared with its QCFS twin"
    qcfs = calibrate(replace_activations(model, 2), data, progress=False)
    with torch.no_grad():
        changed = sum(int((model(x).argmax(1) != qcfs(x).argmax(1)).flatten(1).any(1).sum()) for x, _ in data)
    assert report.changed_by_quantisation == changed > 0
    assert f"changed {changed} of 10 predictions of the ReLU network" in str(report)


def test_a_changed_threshold_shows_with_the_relu_network_as_well(data: list[Any]) -> None:
    """The twin takes its thresholds from the spiking network; what its counts graph does with them is compared."""
    model = CASE.build()
    snn = convert(model, data, 2, progress=False)
    with torch.no_grad():
        snn.get_submodule("a").weight.mul_(1.1)
    assert not verify(model, snn, data, progress=False).exact


# What is left as it was


def test_both_networks_are_left_alone(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    snn.step_mode, snn.execution = "m", "counts"
    qcfs.train()
    state = copy.deepcopy({**qcfs.state_dict(), **{f"snn.{name}": x for name, x in snn.state_dict().items()}})
    verify(qcfs, snn, data, progress=False)
    assert (snn.step_mode, snn.execution) == ("m", "counts")
    assert qcfs.training
    assert not any(module._forward_hooks for module in [*qcfs.modules(), *snn.modules()])
    assert all(torch.equal(x, state[name]) for name, x in qcfs.state_dict().items())
    assert all(torch.equal(x, state[f"snn.{name}"]) for name, x in snn.state_dict().items())


def test_buffers_and_statistics_are_left_alone(data: list[Any]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), QCFS(4, 1.0), nn.Conv2d(4, 2, 3))

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return self.layers(x)

    ann = Counting().double()
    snn = convert(ann).train()
    norm: Any = next(module for module in snn.modules() if isinstance(module, nn.BatchNorm2d))
    assert verify(ann, snn, data, progress=False).exact
    assert (ann.calls, norm.num_batches_tracked) == (0, 0)
    assert snn.training
    measure(ann, data, progress=False)
    assert ann.calls == 0


@pytest.mark.parametrize("swapped", [True, False])
def test_not_an_ann_and_its_network(swapped: bool, pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    ann, snn = pair
    with pytest.raises(InvalidArgumentError, match="takes the ANN, then its spiking network"):
        verify(*((snn, ann) if swapped else (ann, ann)), data, progress=False)  # type: ignore[arg-type]  # wrong kinds are refused


@pytest.mark.parametrize(("loader", "match"), [([], "empty"), ([torch.arange(3)], "without inputs")])
def test_bad_data(loader: Any, match: str, pair: tuple[nn.Module, SpikingNetwork]) -> None:
    qcfs, snn = pair
    snn.step_mode = "m"
    with pytest.raises(CalibrationError, match=match):
        verify(qcfs, snn, loader, progress=False)
    assert snn.step_mode == "m"
    assert not any(module._forward_hooks for module in snn.modules())


# The report


def test_the_table(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    report = verify(*pair, data, progress=False)
    lines = str(report).splitlines()
    assert lines[0].split() == "layer levels firing rate counts differ by at most".split()
    assert [line.split()[0] for line in lines[1:3]] == ["relu", "relu_1"]
    assert lines[3].startswith("exact: 0 of 10 predictions and 0 of 800 spike counts (0.0e+00) differ")
    assert len(lines) == 4
    assert len({len(line) for line in lines[:3]}) == 1


def test_outputs_of_every_form(data: list[Any]) -> None:
    case = EXACT["many outputs"]
    qcfs = quantised(case.build(), case.data())
    snn = convert(qcfs)
    assert verify(qcfs, snn, data, progress=False).exact
    with torch.no_grad():
        snn.get_submodule("end").weight.neg_()
    report = verify(qcfs, snn, data, progress=False)
    assert report.mismatched_predictions > 0
    assert report.mismatched_counts == 0


def test_outputs_of_every_dtype(data: list[Any]) -> None:
    def outputs(m: Any, x: Tensor) -> Any:
        y = m.b(relu(m.a(x))).mean((2, 3))
        return y, y.half(), torch.complex(y, -y), y.argmax(1), y > 0

    case = Case(Net(outputs, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)), [])
    qcfs = quantised(case.build(), [data[0][0]])
    snn = convert(qcfs, on_unsupported="analog")
    assert verify(qcfs, snn, data, progress=False).exact
    with torch.no_grad():
        snn.get_submodule("b").weight.neg_()
    assert not verify(qcfs, snn, data, progress=False).outputs_agree


def test_regression_has_no_predictions(data: list[Any]) -> None:
    case = Case(Net(lambda m, x: relu(m.a(x)).mean((1, 2, 3)), a=nn.Conv2d(3, 4, 1)), [(3, 6, 6)])
    qcfs = quantised(case.build(), case.data())
    report = verify(qcfs, convert(qcfs), data, progress=False)
    assert report.exact
    assert report.samples == 10
    assert report.mismatched_predictions == 0


def test_a_wrong_head_is_found_in_the_outputs(data: list[Any]) -> None:
    case = Case(Net(lambda m, x: m.b(relu(m.a(x))).mean((1, 2, 3)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 1, 1)), [])
    qcfs = quantised(case.build(), [data[0][0]])
    snn = convert(qcfs)
    assert verify(qcfs, snn, data, progress=False).exact
    with torch.no_grad():
        snn.get_submodule("b").weight.mul_(1 + 1e-6)
    report = verify(qcfs, snn, data, progress=False)
    assert report.mismatched_counts == report.mismatched_predictions == 0
    assert not report.outputs_agree
    assert not report.exact
    assert "not exact" in str(report)


@pytest.mark.filterwarnings("ignore:.* have forward hooks")
def test_what_no_graph_has_is_found(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    seen: list[Tensor] = []
    hook = qcfs.register_forward_hook(lambda module, args, output: seen.append(output))
    assert verify(qcfs.train(), snn, data, progress=False).exact
    assert len(seen) == len(data)
    assert qcfs.training
    hook.remove()
    qcfs.register_forward_pre_hook(lambda module, args: (args[0] * 1.5,))
    report = verify(qcfs, snn, data, progress=False)
    assert report.mismatched_counts == report.mismatched_predictions == 0, "spikes are those of the graph"
    assert not report.graph_agrees
    assert not report.exact
    assert "gives other outputs than its graph" in str(report)


def test_classes_that_the_ann_itself_cannot_tell_apart_are_one_answer(data: list[Any]) -> None:
    """Twin logits that the spiking network rounds differently; a gap that no rounding explains still counts."""
    head = nn.Linear(4, 2).double()
    with torch.no_grad():
        head.weight[1], head.bias[1] = head.weight[0], head.bias[0]
    model = Net(lambda m, x: m.head(relu(m.a(x)).mean((2, 3))), a=nn.Conv2d(3, 4, 1), head=head).double()
    qcfs = quantised(model, (torch.randn(4, 3, 6, 6, dtype=torch.float64),))
    for gap, wrong in ((1e-15, 0), (1e-9, 10)):
        snn = convert(qcfs)
        with torch.no_grad():
            snn.get_submodule("head").bias[1] += gap
        assert verify(qcfs, snn, data, progress=False).mismatched_predictions == 0  # the ANN is at a tie
        assert verify(snn_head(qcfs, gap), convert(qcfs), data, progress=False).mismatched_predictions == wrong


def snn_head(qcfs: nn.Module, gap: float) -> nn.Module:
    """``qcfs`` with its second logit raised by ``gap``."""
    raised = copy.deepcopy(qcfs)
    with torch.no_grad():
        raised.get_submodule("head").bias[1] += gap
    return raised


def test_nan_is_not_agreement(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    qcfs, snn = pair
    with torch.no_grad():
        snn.get_submodule("head").weight.fill_(torch.nan)
    report = verify(qcfs, snn, data, progress=False)
    assert report.mismatched_predictions == 10
    assert report.max_abs_error == math.inf


@EXECUTIONS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nan_is_nan_in_both(
    execution: str, dtype: torch.dtype, pair: tuple[nn.Module, SpikingNetwork], data: list[Any]
) -> None:
    """A neuron that is NaN does not fall silent; other samples are as they were."""
    qcfs, snn = (network.to(dtype) for network in pair)
    snn.execution = execution
    inputs = data[0][0].to(dtype)
    inputs[1, 0, 2, 2] = torch.nan
    with torch.no_grad():
        assert snn(inputs).isnan().any(1).tolist() == [False, True, False, False, False]
    report = verify(qcfs, snn, [inputs], progress=False)
    assert (report.mismatched_counts, report.mismatched_predictions, report.outputs_agree) == (0, 0, True)
    assert all(0 <= layer.firing_rate <= 1 for layer in report.layers.values())


def test_progress(pair: tuple[nn.Module, SpikingNetwork], data: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    verify(*pair, data, progress=False)
    assert capsys.readouterr().err == ""
    verify(*pair, data)
    assert "verify" in capsys.readouterr().err


def test_nan_that_both_have_is_no_difference(pair: tuple[nn.Module, SpikingNetwork], data: list[Any]) -> None:
    x = data[0][0].clone()
    x[0] = math.nan
    report = verify(*pair, [x], progress=False)
    assert report.exact
    assert report.nan_samples == 1
    assert f"outputs for 1 of {len(x)} samples are NaN" in str(report)
    pair[1].get_submodule("a").weight.data.fill_(math.nan)
    assert not verify(*pair, [data[0][0]], progress=False).outputs_agree
