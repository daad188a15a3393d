"""Corrected means, against the means themselves; and what the correction leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from pascal_ext import QCFS, calibrate, convert, load, replace_activations, save, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.calibration.correction import bias_current_of, bisect
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.tracing import trace
from tests.cases import Net, alive, assert_same_function, relu
from tests.zoo import EXACT


def small() -> nn.Module:
    """Two blocks of convolutions with a batch norm and a residual, in float64."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = relu(m.bn(m.a(x)))
        y = relu(m.b(y) + y)
        return m.head(relu(m.c(y)).mean((2, 3)))

    return alive(
        Net(
            forward,
            a=nn.Conv2d(3, 6, 3, padding=1),
            bn=nn.BatchNorm2d(6),
            b=nn.Conv2d(6, 6, 3, padding=1),
            c=nn.Conv2d(6, 4, 3),
            head=nn.Linear(4, 5),
        ).double()
    )


def images(count: int = 2, size: int = 8) -> list[Tensor]:
    return [torch.randn(10, 3, size, size, dtype=torch.float64) for _ in range(count)]


def outputs(model: nn.Module, names: Any, data: list[Tensor]) -> dict[str, Tensor]:
    """Layer name -> all that it puts out on the data."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: found[name].append(out))
        for name in names
    ]
    with torch.no_grad():
        for x in data:
            model(x)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("per_channel", [False, True, "auto"])
@pytest.mark.parametrize("levels", [2, 8])
def test_means_are_those_of_the_relu_network(levels: int, per_channel: bool | str) -> None:
    """In each channel, unless the largest shift is too small for that; plain thresholds leave them apart."""
    model, data = small(), images(4)
    corrected = replace_activations(model, levels)
    plain = calibrate(copy.deepcopy(corrected), data, per_channel=per_channel is True, progress=False)
    calibrate(corrected, data, correct="bias", per_channel=per_channel, progress=False)
    names = list(qcfs_layers(corrected))
    wanted, found, without = (outputs(m, names, data) for m in (trace(model), corrected, plain))
    settled = 0
    for name, layer in qcfs_layers(corrected).items():
        bias = bias_current_of(corrected, name)
        assert bias is not None
        threshold = layer.threshold.detach().expand(bias.shape[0])
        error = (found[name] - wanted[name]).mean((0, 2, 3)).abs() / threshold
        inside = bias.detach().flatten().abs() < 0.499 * threshold
        assert (error[inside] < 2e-3).all(), "to within what a sample of this size resolves"
        before = (without[name] - wanted[name]).mean((0, 2, 3)).abs() / threshold
        assert (error <= before + 2e-3)[~inside].all()
        settled += int(inside.sum())
    assert settled > 12, "of 16 channels"


def test_thresholds_are_those_without_correction() -> None:
    model, data = replace_activations(small(), 4), images()
    plain = calibrate(copy.deepcopy(model), data, progress=False)
    calibrate(model, data, correct="bias", progress=False)
    for name, layer in qcfs_layers(plain).items():
        torch.testing.assert_close(model.get_submodule(name).threshold, layer.threshold)


@pytest.mark.parametrize("levels", [1, 2, 5, 8])
def test_bisect_equals_a_search(levels: int) -> None:
    """No shift of a fine grid comes nearer to the wanted mean."""
    generator = torch.Generator().manual_seed(levels)
    centres = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    share = torch.rand(6, 3001, generator=generator, dtype=torch.float64) ** 4
    share /= share.sum(1, keepdim=True)
    mean = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    found = bisect(share, centres, mean, levels)
    grid = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    shifted = (centres + torch.cat([grid, found]).unsqueeze(1)) * levels
    quantised = (shifted + 0.5).floor().clamp(0, levels) / levels
    error = (share @ quantised.T - mean.unsqueeze(1)).abs()
    ours = error[torch.arange(6), len(grid) + torch.arange(6)]
    step = 2 * share.amax(1)  # the mean moves in steps, as a bin crosses an edge
    assert (ours <= error[:, : len(grid)].amin(1) + step * levels).all()
    assert (found.abs() <= 0.5).all()


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_bisect_finds_a_jump_to_rounding(levels: int) -> None:
    """Of one value alone the mean jumps, where the value is half a level from the next; the shift goes there."""
    share, inside = torch.ones(1, 1, dtype=torch.float64), 0.3 / levels
    shift = bisect(share, torch.tensor([inside]).double(), torch.tensor([0.5 / levels]).double(), levels)
    assert shift.item() == pytest.approx((0.5 - 0.3) / levels, abs=1e-7)


def test_nothing_to_correct() -> None:
    """Where the data lies on the levels already, the means are right and nothing is added."""
    model = replace_activations(nn.Sequential(nn.ReLU()), 4)
    x = torch.arange(-2, 5).repeat(200).view(-1, 1, 7).double().transpose(1, 2).contiguous()
    calibrate(model, [x], correct="bias", progress=False)
    bias = bias_current_of(model, "0")
    assert bias is not None
    assert bias.abs().max() <= 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(x), x.clamp(min=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sum of branches", "concatenation", "maximum of spikes", "linear", "flatten"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_conversion_is_exact(name: str, per_channel: bool) -> None:
    case = EXACT[name]
    qcfs = replace_activations(case.build(), 4)
    calibrate(qcfs, [(tuple(case.data()),)], correct="bias", per_channel=per_channel, progress=False)
    snn = convert(qcfs)
    assert_same_function(qcfs, snn, case)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        assert verify(qcfs, snn, [(tuple(case.data()),)], progress=False).exact


def test_save_and_load(tmp_path: Path) -> None:
    qcfs, data = replace_activations(small(), 4), images()
    calibrate(qcfs, data, correct="bias", progress=False)
    snn = convert(qcfs)
    save(snn, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    assert {name for name in again.state_dict() if name.endswith("_bias_current")} == {
        f"{name}_bias_current" for name in qcfs_layers(qcfs)
    }
    assert torch.equal(again(data[0]), snn(data[0]))


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_convert_corrects(execution: str) -> None:
    """Where it is asked to; the ReLU network's twin has the corrections too, and a missing one shows."""
    model, data = small(), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"correct": "bias", "per_channel": "auto"}
    snn = convert(model, data, 4, execution=execution, calibration=options, progress=False)
    plain = convert(model, data, 4, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    corrections = {name: value for name, value in snn.state_dict().items() if name.endswith("_bias_current")}
    assert len(corrections) == 3
    assert not any(name.endswith("_bias_current") for name in plain.state_dict())
    expected = calibrate(replace_activations(model, 4), data, correct="bias", per_channel="auto", progress=False)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in corrections.items())
    assert verify(model, snn, data, progress=False).exact
    assert verify(expected, snn, data, progress=False).exact
    with torch.no_grad():
        corrections["relu_1_bias_current"] += 0.3
    report = verify(expected, snn, data, progress=False)
    assert report.layers["relu"].mismatched == 0
    assert report.layers["relu_1"].mismatched > 0


def test_options_of_the_calibration() -> None:
    with pytest.raises(InvalidArgumentError, match=r"calibration has \['corect'\]; it takes"):
        convert(small(), images(), calibration={"corect": None}, progress=False)
    with pytest.raises(InvalidArgumentError, match="method='median'"):
        convert(small(), images(), calibration={"method": "median"}, progress=False)


def test_a_second_calibration_replaces_the_first() -> None:
    model, data = replace_activations(small(), 4), images()
    calibrate(model, data, correct="bias", progress=False)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    length = len(model.graph.nodes)
    calibrate(model, images(), correct="bias", progress=False)
    calibrate(model, data, correct="bias", progress=False)
    assert len(model.graph.nodes) == length
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0)


def test_only_some_layers() -> None:
    model, data = replace_activations(small(), 4), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate(model, data, correct="bias", only={"relu_1"}, progress=False)
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(before.get(name, value * 0), value)
    }
    assert changed == {"relu_1.threshold", "relu_1_bias_current"}


# What cannot be corrected changes nothing


def poisoned() -> list[Tensor]:
    data = images()
    data[1][0, 0, 0, 0] = torch.nan
    return data


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "empty"),
        ([torch.arange(3)], "labels without inputs"),
        (poisoned(), "'relu' has activations that are not finite"),
    ],
)
def test_bad_data(data: Any, match: str) -> None:
    model = replace_activations(small(), 4).train()
    assert isinstance(model, fx.GraphModule)
    code, state = model.code, {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CalibrationError, match=match):
        calibrate(model, data, correct="bias", progress=False)
    assert model.code == code
    assert model.training
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_name_that_is_taken() -> None:
    model = replace_activations(small(), 4)
    model.relu_1_bias_current = "something else"
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InvalidArgumentError, match="'relu_1_bias_current'"):
        calibrate(model, images(), correct="bias", progress=False)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), QCFS(4)),
        Net(lambda m, x: m.act(m.act(x) - 0.5), act=QCFS(4)),
    ],
)
def test_needs_a_graph(model: nn.Module) -> None:
    with pytest.raises(InvalidArgumentError, match="replace_activations"):
        calibrate(model, [torch.randn(8, 3)], correct="bias", progress=False)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"correct": "means"}, "correct='means' is unknown"), ({"per_channel": "auto"}, "per_channel='auto'")],
)
def test_bad_arguments(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        calibrate(replace_activations(small(), 4), images(), progress=False, **options)


def test_a_dead_channel() -> None:
    model = small()
    with torch.no_grad():
        model.bn.weight[2] = 0
        model.bn.bias[2] = -1
    quantised = replace_activations(model, 4)
    with pytest.warns(UserWarning, match=r"'relu' is dead on this data: 1 of 6 channels are zero"):
        calibrate(quantised, images(), correct="bias", per_channel=True, progress=False)
    assert quantised.relu.threshold[2] == 1.0
    assert all(bool(value.isfinite().all()) for value in quantised.state_dict().values())
