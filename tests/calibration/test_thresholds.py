"""Thresholds from data, against what the data itself says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import QCFS, calibrate, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.calibration.thresholds import Histogram
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from tests.cases import Net, Pair

BIN = 1e-3  # the share of the range that one bin may be
SCALES = torch.tensor([1.0, 0.01, 30.0])


class One(nn.Module):
    """A network that is one activation, of three channels."""

    def __init__(self, levels: int = 4, ceiling: float = math.inf) -> None:
        super().__init__()
        self.act = QCFS(levels, ceiling=ceiling)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def batches(*factors: float, seed: int = 0) -> list[Tensor]:
    """Batches [N, 3, 5, 5], channel by channel of very different size, each scaled by its factor."""
    generator = torch.Generator().manual_seed(seed)
    return [factor * SCALES.view(3, 1, 1) * torch.randn(40, 3, 5, 5, generator=generator) for factor in factors]


def activations(data: Iterable[Tensor]) -> Tensor:
    """[3, n], what the ReLU puts out."""
    return torch.cat([x.clamp(min=0).transpose(0, 1).flatten(1) for x in data], 1)


def squared_error(values: Tensor, threshold: float, levels: int) -> float:
    quantised = (values.double() * levels / threshold + 0.5).floor().clamp(0, levels) * threshold / levels
    return float((values - quantised).square().sum())


def thresholds(data: Any, method: str, levels: int = 4, **options: Any) -> Tensor:
    return calibrate(One(levels), data, method, progress=False, **options).act.threshold.detach()


GROWTHS = [(1.0,), (1.0, 1.0, 1.0), (0.0, 1e-3, 0.1, 5.0, 700.0), (700.0, 1.0, 0.0)]


@pytest.mark.parametrize("factors", GROWTHS)
def test_max(factors: tuple[float, ...]) -> None:
    data = batches(*factors)
    exact = activations(data).amax(1)
    assert torch.allclose(thresholds(data, "max", per_channel=True), exact, rtol=BIN)
    assert torch.allclose(thresholds(data, "max"), exact.max(), rtol=BIN)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
@pytest.mark.parametrize("factors", [(1.0,), (0.3, 0.0, 1.0, 2.5)])
def test_percentile(factors: tuple[float, ...], percentile: float) -> None:
    data = batches(*factors)
    values = activations(data)
    found = thresholds(data, "percentile", percentile=percentile, per_channel=True)
    for channel, values_here in enumerate(values):
        exact = np.percentile(values_here, percentile, method="inverted_cdf")
        assert abs(float(found[channel]) - exact) <= 1.01 * BIN * float(values_here.max())


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("factors", GROWTHS)
def test_mse(factors: tuple[float, ...], levels: int) -> None:
    """No threshold on a fine grid is better by more than what binning costs."""
    data = batches(*factors)
    values = activations(data)
    cases = [
        (row, float(found))
        for row, found in zip(values, thresholds(data, "mse", levels, per_channel=True), strict=True)
    ]
    cases.append((values.flatten(), float(thresholds(data, "mse", levels))))
    for row, found in cases:
        best = min(squared_error(row, fraction * float(row.max()), levels) for fraction in np.linspace(0.01, 1.0, 100))
        assert squared_error(row, found, levels) <= 1.02 * best


def test_channels_have_ranges_of_their_own() -> None:
    """A channel's threshold does not depend on how large the others are."""
    data = batches(1.0)
    shrunk = [x * torch.tensor([1.0, 1e-7, 1e6]).view(3, 1, 1) for x in data]
    expected = thresholds(data, "mse", per_channel=True) * torch.tensor([1.0, 1e-7, 1e6])
    assert torch.allclose(thresholds(shrunk, "mse", per_channel=True), expected, rtol=1e-3)


@pytest.mark.parametrize("factor", [1e-34, 1e-20, 1e20, 1e34])
@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_tiny_and_huge_activations(factor: float, method: str) -> None:
    data = batches(1.0)
    expected = thresholds(data, method).double() * factor
    found = thresholds([x * factor for x in data], method).double()
    assert torch.allclose(found / expected, torch.ones((), dtype=torch.float64), rtol=1e-3)


def test_batches_are_one_data_set() -> None:
    """However it is cut into batches, and in whatever order they come, up to a bin."""
    data = batches(1.0, 2.0, 0.5)
    for method in ("mse", "percentile", "max"):
        whole = thresholds([torch.cat(data)], method)
        for parts in (data, data[::-1], [x for batch in data for x in batch.split(7)]):
            assert torch.allclose(thresholds(parts, method), whole, rtol=0.01)


def test_a_histogram_counts_everything() -> None:
    histogram = Histogram(bins=16)
    rows = [torch.rand(2, 50) * scale for scale in (0.0, 1.0, 40.0, 3.0)]
    for row in rows:
        histogram.update(row)
    values = torch.cat(rows, 1).double()
    assert histogram.counts is not None
    assert histogram.counts.sum(1).tolist() == [200.0, 200.0]
    for row, counts, upper in zip(values, histogram.counts, histogram.upper, strict=True):
        assert upper / 2 < row.max() <= upper
        expected = torch.histogram(row, bins=16, range=(0.0, float(upper))).hist
        assert (counts - expected).abs().sum() <= 2, "values right on an edge"


# The statistics are those of the un-quantised network


def deep() -> nn.Module:
    return replace_activations(
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU6(), nn.Linear(12, 12), nn.ReLU()), 2
    )


def test_layers_see_the_relu_network() -> None:
    model, x = deep(), torch.randn(200, 6) * 9
    calibrate(model, [x], "max", progress=False)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer, (qcfs, activation) in zip(
        layers, zip(qcfs_layers(model).values(), [F.relu, F.relu6, F.relu], strict=True), strict=True
    ):
        x = activation(layer(x))
        assert torch.allclose(qcfs.threshold, x.max(), rtol=BIN)
        assert qcfs.threshold <= 6.001 or activation is F.relu


def test_only_some_layers() -> None:
    model, x = deep(), torch.randn(200, 6)
    calibrate(model, [x], "max", only={"3"}, progress=False)
    layers = qcfs_layers(model)
    assert layers["1"].threshold == 1.0
    assert layers["5"].threshold == 1.0
    with torch.no_grad():
        expected = F.relu6(model.get_submodule("2")(layers["1"](model.get_submodule("0")(x)))).max()
    assert torch.allclose(layers["3"].threshold, expected, rtol=BIN), "layers that are not calibrated quantise"


def test_the_model_is_otherwise_left_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), QCFS(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: x.clone() for name, x in model.state_dict().items() if "threshold" not in name}
    parameter = model[2].threshold
    assert calibrate(model, [torch.randn(20, 6)], "max", progress=False) is model
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(model.state_dict()[name], x) for name, x in state.items())
    assert model[2].threshold is parameter, "optimizers may hold it"
    assert parameter.requires_grad
    assert not any(module._forward_hooks for module in model.modules())
    model[2].threshold.requires_grad_(False)
    calibrate(model, [torch.randn(20, 6)], per_channel=True, progress=False)
    assert model[2].threshold.shape == (4,)
    assert not model[2].threshold.requires_grad
    calibrate(model, [torch.randn(20, 6)], progress=False)
    assert model[2].threshold.shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = One().to(dtype)
    data = [x.to(dtype) for x in batches(1.0)]
    calibrate(model, data, "max", progress=False)
    assert model.act.threshold.dtype == dtype
    assert model.act.threshold.item() == pytest.approx(float(data[0].max()), rel=0.01)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (One(), (torch.ones(4, 3), torch.arange(4))),
        (One(), {"x": torch.ones(4, 3), "label": torch.arange(4)}),
        (Pair(lambda m, x, y: m.act(x - y), act=QCFS(4)), ((torch.ones(4, 3) * 2, torch.ones(4, 3)), torch.arange(4))),
        (Net(lambda m, x: m.act(x["a"]), act=QCFS(4)), {"x": {"a": torch.ones(4, 3)}}),
    ],
)
def test_forms_of_batches(model: Any, batch: Any) -> None:
    calibrate(model, [batch], "max", progress=False)
    assert model.act.threshold == 1.0


# What cannot be calibrated


def poisoned(value: float) -> list[Tensor]:
    x = torch.ones(4, 3)
    x[1, 1] = value
    return [torch.ones(4, 3), x]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "empty"),
        ([torch.arange(3)], "labels without inputs"),
        ([(torch.arange(3), torch.randn(3))], "labels without inputs"),
        (torch.randn(4, 3), "wrap a single batch in a list"),
        (poisoned(math.nan), "'act' has activations that are not finite"),
        (poisoned(math.inf), "'act' has activations that are not finite"),
    ],
)
@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_bad_data(data: Any, match: str, method: str) -> None:
    model = One().train()
    with pytest.raises(CalibrationError, match=match):
        calibrate(model, data, method, progress=False)
    assert model.act.threshold == 1.0
    assert model.training
    assert not model.act._forward_hooks


def test_more_than_float32_holds() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        calibrate(One().double(), [torch.full((2, 3), 1e300, dtype=torch.float64)], progress=False)


def test_an_iterator_that_is_used_up() -> None:
    data = iter(batches(1.0))
    calibrate(One(), data, progress=False)
    with pytest.raises(CalibrationError, match="used up"):
        calibrate(One(), data, progress=False)


def test_a_layer_that_is_never_reached() -> None:
    model = Net(lambda m, x: m.a(x), a=QCFS(4), b=QCFS(4))
    with pytest.raises(CalibrationError, match=r"never reaches the layers \['b'\]"):
        calibrate(model, [torch.ones(2, 3)], progress=False)
    assert model.a.threshold == 1.0


@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_a_dead_layer(method: str) -> None:
    model = One()
    with pytest.warns(UserWarning, match=r"'act' is dead on this data: all its activations are zero; threshold kept"):
        calibrate(model, [-torch.ones(4, 3), torch.zeros(4, 3)], method, progress=False)
    assert model.act.threshold == 1.0


@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_a_dead_channel(method: str) -> None:
    model = One()
    x = torch.rand(40, 3)
    x[:, 1] = -1
    with pytest.warns(UserWarning, match=r"1 of 3 channels are zero"):
        calibrate(model, [x], method, per_channel=True, progress=False)
    assert model.act.threshold[1] == 1.0
    assert (model.act.threshold[[0, 2]] < 1.0).all()


@pytest.mark.parametrize("correct", [None, "bias"])
def test_dead_layers_are_told_at_once(correct: str | None) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU())
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.weight, -1.0)
        nn.init.constant_(layer.bias, -1.0)
    nn.init.constant_(model[0].bias[:3], 9.0)
    others = r"threshold kept; so are '3' \(all its activations\)$"
    with pytest.warns(
        UserWarning, match=f"^layer '1' is dead on this data: 1 of 4 channels are zero; {others}"
    ) as warned:
        calibrate(replace_activations(model), [torch.rand(8, 3)], correct=correct, per_channel=True, progress=False)
    (warning,) = warned
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (lambda x: calibrate(One(), x, "median"), r"method='median' is unknown; choose one of .*mse"),
        (lambda x: calibrate(One(), x, "percentile", percentile=0), "percentile must be in"),
        (lambda x: calibrate(One(), x, "percentile", percentile=101), "percentile must be in"),
        (lambda x: calibrate(nn.ReLU(), x), "replace_activations"),
        (lambda x: calibrate(One(), x, only={"nowhere"}), r"does not have: \['nowhere'\]; it has \['act'\]"),
        (lambda x: calibrate(One(), x, only=["act", "atc"]), r"does not have: \['atc'\]"),
        (lambda x: calibrate(One(), x, only="act"), r"a list of layers' names, such as \['act'\]; got 'act'"),
        (lambda x: calibrate(One(), x, only=[]), "only is empty"),
        (lambda x: calibrate(3, x), "expected a model, .* got 3"),  # type: ignore[type-var]  # no model
    ],
)
def test_bad_arguments(run: Callable[[list[Tensor]], Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        run([torch.ones(2, 3)])


def test_channels_that_come_and_go_get_no_thresholds() -> None:
    """Tokens in dimension 1, say, are no channels."""
    data = [torch.rand(4, 3), torch.rand(4, 2)]
    with pytest.raises(CalibrationError, match=r"'act' has 3 channels .* and 2 in another.*per_channel=False"):
        calibrate(One(), data, per_channel=True, progress=False)
    calibrate(One(), data, progress=False)


def test_activations_without_channels_have_one_threshold() -> None:
    data = [torch.rand(40), torch.rand(17)]
    apart, together = (calibrate(One(), data, per_channel=each, progress=False) for each in (True, False))
    assert torch.equal(apart.act.threshold.squeeze(), together.act.threshold)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(One(), batches(1.0, 1.0), progress=False)
    assert capsys.readouterr().err == ""
    calibrate(One(), batches(1.0, 1.0))
    assert "calibrate" in capsys.readouterr().err


@pytest.mark.parametrize("correct", [None, "bias"])
def test_a_model_in_a_wrapper(correct: str | None) -> None:
    model = replace_activations(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    wrapped, batches = nn.DataParallel(copy.deepcopy(model)), [torch.randn(16, 3)]
    assert calibrate(wrapped, batches, correct=correct, progress=False) is wrapped
    calibrate(model, batches, correct=correct, progress=False)
    states = wrapped.module.state_dict(), model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("correct", [None, "bias"])
@pytest.mark.parametrize("inference", [False, True])
def test_an_optimizer_goes_on_training_what_was_calibrated(correct: str | None, inference: bool) -> None:
    model = replace_activations(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), 4)
    nn.init.constant_(model.get_parameter("0.bias"), 1.0)  # so that no channel is dead
    data = [x.clamp(-2, 2) for x in batches(1.0, 1.0)]
    if correct:
        calibrate(model, data, correct=correct, progress=False)  # there are bias currents now
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(data[0]).sum().backward()
    with torch.inference_mode(inference):
        calibrate(model, data, correct=correct, per_channel=True, progress=False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert before["1.threshold"].shape == (4,)
    optimizer.zero_grad()
    model(data[0]).sum().backward()
    optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
