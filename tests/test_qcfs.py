"""The QCFS activation: values, straight-through gradients, and its life as a module."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, convert
from pascal_ext.errors import InvalidArgumentError, PlanError

LEVELS = (1, 2, 3, 4, 8, 31)
SCALARS = (1.0, 0.3, 7.5, -0.4)
PER_CHANNEL = torch.tensor([0.2, 1.0, 6.0, -0.8], dtype=torch.float64)


def inputs(threshold: Tensor | float, *shape: int) -> Tensor:
    """[N, 4, *shape], float64, from well below 0 to well above the threshold."""
    scale = torch.as_tensor(threshold, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    return ((torch.rand(64, 4, *shape, dtype=torch.float64) * 2 - 0.5) * scale).requires_grad_()


def formula(z: Tensor, threshold: Tensor | float, levels: int) -> Tensor:
    return threshold / levels * torch.clamp(torch.floor(z * levels / threshold + 0.5), 0, levels)


@pytest.mark.parametrize("threshold", SCALARS)
@pytest.mark.parametrize("levels", LEVELS)
def test_values(levels: int, threshold: float) -> None:
    z = inputs(threshold, 3, 3)
    layer = QCFS(levels, torch.tensor(threshold, dtype=torch.float64))
    torch.testing.assert_close(layer(z), formula(z, threshold, levels), rtol=0, atol=1e-12)
    assert torch.equal(layer.counts(z), formula(z, threshold, levels).div(threshold / levels).round().int())


@pytest.mark.parametrize("levels", LEVELS)
def test_values_per_channel(levels: int) -> None:
    z = inputs(PER_CHANNEL, 3, 3)
    expected = formula(z, PER_CHANNEL.view(4, 1, 1), levels)
    torch.testing.assert_close(QCFS(levels, PER_CHANNEL)(z), expected, rtol=0, atol=1e-12)


def test_halves_are_rounded_up_not_to_even() -> None:
    z = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
    assert QCFS(4, 4.0).counts(z).tolist() == [0, 1, 2, 3, 4, 4]


def test_a_negative_threshold_mirrors() -> None:
    z = torch.randn(100)
    assert torch.equal(QCFS(4, -1.5)(z), -QCFS(4, 1.5)(-z))


def expected_gradients(z: Tensor, grad: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """With z/λ in place of z so that they hold for a negative λ as well."""
    ratio = z / threshold
    inside = (ratio > 0) & (ratio < 1)
    by_z = torch.where(inside, 1.0, 0.0)
    h = formula(z, threshold, levels)
    by_threshold = torch.where(inside, (h - z) / threshold, torch.where(ratio >= 1, 1.0, 0.0))
    return grad * by_z, grad * by_threshold


@pytest.mark.parametrize("threshold", SCALARS)
@pytest.mark.parametrize("levels", LEVELS)
def test_gradients(levels: int, threshold: float) -> None:
    z = inputs(threshold, 3)
    layer = QCFS(levels, torch.tensor(threshold, dtype=torch.float64))
    grad = torch.randn_like(z)
    layer(z).backward(grad)
    by_z, by_threshold = expected_gradients(z.detach(), grad, layer.threshold.detach(), levels)
    assert torch.equal(z.grad, by_z)
    assert layer.threshold.grad.shape == ()
    torch.testing.assert_close(layer.threshold.grad, by_threshold.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threshold", [1.7, -0.6])
@pytest.mark.parametrize("levels", LEVELS)
def test_the_gradient_is_that_of_the_activation_averaged_over_noise_of_one_level(levels: int, threshold: float) -> None:
    layer = QCFS(levels, torch.tensor(threshold, dtype=torch.float64))
    z = (torch.linspace(-0.5, 1.5, 41, dtype=torch.float64) * threshold + 1e-3).requires_grad_()
    layer(z).sum().backward()
    noise = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 - 0.5
    step = abs(threshold) / levels

    def averaged(at: Tensor) -> Tensor:
        return layer(at[:, None] + noise * step).mean(1).detach()

    slope = (averaged(z.detach() + 1e-3) - averaged(z.detach() - 1e-3)) / 2e-3
    smooth = (slope - slope.round()).abs() < 0.3  # not where the difference reaches across a corner
    assert smooth.sum() > 35
    torch.testing.assert_close(z.grad[smooth], slope[smooth], rtol=0, atol=0.3)


@pytest.mark.parametrize("shape", [(), (5,), (3, 3)])
def test_gradients_per_channel(shape: tuple[int, ...]) -> None:
    z = inputs(PER_CHANNEL, *shape)
    layer = QCFS(4, PER_CHANNEL)
    grad = torch.randn_like(z)
    layer(z).backward(grad)
    by_z, by_threshold = expected_gradients(z.detach(), grad, PER_CHANNEL.view(4, *[1] * len(shape)), 4)
    assert torch.equal(z.grad, by_z)
    torch.testing.assert_close(layer.threshold.grad, by_threshold.transpose(0, 1).flatten(1).sum(1))


def test_gradients_on_the_boundaries() -> None:
    """At z = 0 and at z = λ the activation has already left the slope: zero for z, and 0 and 1 for λ."""
    z = torch.tensor([0.0, 1.0], requires_grad=True)
    layer = QCFS(4, torch.tensor([1.0]))
    rows = layer(z)
    for value, expected in zip(rows, (0.0, 1.0), strict=True):
        (by_threshold,) = torch.autograd.grad(value, layer.threshold, retain_graph=True)
        assert by_threshold.tolist() == [expected]
    rows.sum().backward()
    assert z.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("frozen", ["input", "threshold"])
def test_one_gradient_without_the_other(frozen: str) -> None:
    z = torch.rand(8, requires_grad=frozen != "input")
    layer = QCFS(4, 0.9).requires_grad_(frozen != "threshold")
    layer(z).sum().backward()
    assert (z.grad is None) == (frozen == "input")
    assert (layer.threshold.grad is None) == (frozen == "threshold")


def test_a_threshold_can_be_learnt() -> None:
    torch.manual_seed(0)
    z = torch.rand(1000) * 3
    layer = QCFS(4, 1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(z) - z).square().mean().backward()
        optimizer.step()
    assert layer.threshold.item() == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z = (torch.randn(4, 16) * 2).to(dtype).requires_grad_()
    layer = QCFS(16, 1.7)
    y = layer(z)
    assert y.dtype == dtype
    assert torch.equal(layer.counts(z), layer.counts(z.float()))
    assert torch.equal(y, layer(z.float()).to(dtype))
    y.float().sum().backward()
    assert (z.grad.dtype, layer.threshold.grad.dtype) == (dtype, torch.float32)


def test_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), QCFS(4, torch.full((4,), 0.5)), nn.Flatten(), nn.Linear(36, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.rand(2, 3, 5, 5))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_levels_can_be_set() -> None:
    layer = QCFS(4, 1.0)
    z = torch.linspace(-0.5, 1.5, 41)
    layer.levels = 8
    assert layer.levels == 8
    assert torch.equal(layer(z), QCFS(8, 1.0)(z))
    with pytest.raises(PlanError, match="levels must be at least 1, got 0"):
        layer.levels = 0
    assert layer.levels == 8


def test_the_only_state_is_the_threshold() -> None:
    layer = QCFS(4, 0.5)
    assert list(layer.state_dict()) == ["threshold"]
    assert [name for name, _ in layer.named_parameters()] == ["threshold"]
    other = QCFS(4, 1.0)
    other.load_state_dict(layer.state_dict())
    assert other.threshold.item() == 0.5


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("saved", [torch.tensor(0.5), torch.tensor([0.5]), PER_CHANNEL])
@pytest.mark.parametrize("before", [torch.tensor(1.0), PER_CHANNEL + 1])
def test_loading_takes_over_the_shape(before: Tensor, saved: Tensor, assign: bool) -> None:
    layer = QCFS(4, before)
    parameter = layer.threshold
    layer(torch.rand(2, 4)).sum().backward()
    layer.load_state_dict({"threshold": saved}, assign=assign)
    torch.testing.assert_close(layer.threshold.detach(), saved, check_dtype=False)
    assert layer.threshold.requires_grad
    assert assign or layer.threshold is parameter
    layer(torch.rand(2, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="size mismatch for threshold"):
        layer.load_state_dict({"threshold": torch.ones(2, 2)})
    torch.testing.assert_close(layer.threshold.detach(), saved, check_dtype=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_share_nothing(copied: object) -> None:
    layer = QCFS(6, PER_CHANNEL, ceiling=6.0)
    twin = copied(layer)
    assert (twin.levels, twin.ceiling) == (6, 6.0)
    assert torch.equal(twin.threshold, layer.threshold)
    with torch.no_grad():
        twin.threshold.zero_()
    twin.levels = 2
    assert torch.equal(layer.threshold, PER_CHANNEL)
    assert layer.levels == 6


def test_the_given_threshold_is_copied() -> None:
    value = torch.tensor([1.0, 2.0])
    layer = QCFS(4, value)
    value.zero_()
    assert layer.threshold.tolist() == [1.0, 2.0]


def test_to_dtype_and_device() -> None:
    layer = QCFS(4, PER_CHANNEL).to(torch.float32)
    assert layer.threshold.dtype == torch.float32
    assert QCFS(4, 1).threshold.dtype == torch.get_default_dtype()
    assert "4 on meta" in repr(layer.to("meta"))


def test_repr() -> None:
    assert repr(QCFS(4, 0.5)) == "QCFS(levels=4, threshold=0.5)"
    assert repr(QCFS(8, PER_CHANNEL)) == "QCFS(levels=8, threshold=[4 channels, -0.8..6])"


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (0.0, "threshold must be finite and not zero, got 0.0"),
        (math.nan, "threshold must be finite and not zero, got nan"),
        (-math.inf, "threshold must be finite and not zero, got -inf"),
        (torch.tensor([1.0, 0.0]), "threshold must be finite and not zero"),
        (torch.ones(2, 2), r"threshold must be a scalar or \[C\], got shape \(2, 2\)"),
        (torch.ones(0), r"threshold must be a scalar or \[C\], got shape \(0,\)"),
        (None, "threshold must be a number or a tensor, got None"),
    ],
)
def test_thresholds_that_cannot_be(threshold: Tensor | float, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        QCFS(4, threshold)


@pytest.mark.parametrize("levels", [0, -1, 2.5, None])
def test_levels_that_cannot_be(levels: object) -> None:
    with pytest.raises(PlanError, match="levels must be"):
        QCFS(levels)


def test_a_threshold_for_other_channels() -> None:
    with pytest.raises(InvalidArgumentError, match=r"shape \(4,\).*each of the 3 channels in dimension 1"):
        QCFS(4, PER_CHANNEL)(torch.rand(2, 3, 5))


def test_integers_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"torch\.int64; call \.float\(\)"):
        QCFS(4)(torch.ones(3, dtype=torch.int64))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's vmap calls clamp_ once for each sample
@pytest.mark.parametrize("threshold", [1.0, torch.tensor([0.5, 1.0, 1.5, 2.0])], ids=["scalar", "per channel"])
def test_function_transformations(threshold: Tensor | float) -> None:
    """Gradients for each sample, Jacobians, and networks mapped over another dimension."""
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), QCFS(4, threshold), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    parameters = dict(ann.double().named_parameters())
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(ann, parameters, (x.unsqueeze(0),)).square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for index, sample in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, sample), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][index], gradient)
    snn = convert(ann, execution="counts")
    assert torch.func.jacrev(snn)(x[:1]).shape == (1, 2, 1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(snn)(x.view(3, 2, 3, 8, 8)).flatten(0, 1), snn(x))


@pytest.mark.parametrize("threshold", [0.8, torch.tensor([0.5, 1.0, 1.5, 2.0])], ids=["scalar", "per channel"])
def test_gradients_of_gradients(threshold: Tensor | float) -> None:
    """As gradient penalties take them: where nothing is clipped, those of the identity."""
    layer = QCFS(4, threshold).double()
    x = (torch.rand(3, 4, dtype=torch.float64) * 0.3 + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 2 * layer(x))
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, torch.full_like(x, 2.0))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
def test_is_traced_with_gradients_on() -> None:
    """TorchScript holds no function of Python's, so what it records has no straight-through gradient."""
    model, x = nn.Sequential(nn.Linear(4, 3), QCFS(4), nn.Linear(3, 2)), torch.randn(5, 4)
    for network in (model, convert(model, execution="counts")):
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(network, x), file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(x * 2), network(x * 2))
