"""Rounding ties: the reference decides between the levels that rounding cannot tell apart, and nowhere else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.models import build
from pascal_ext import QCFS, calibrate, convert, replace_activations, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.ops.pasc_if import Reference, pasc_if_settled, quantise, ties
from pascal_ext.ops.pasc_if.ties import TF32_TIE, TIE, margin, margins
from tests.cases import alive, quantised
from tests.zoo import EXACT

EPS = torch.finfo(torch.float32).eps


def settle_ties(x_seq: Tensor, threshold: float | Tensor, levels: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Counts, and how many of them are not those of the currents alone."""
    train, changed = pasc_if_settled(x_seq, torch.as_tensor(threshold), levels, reference)
    return train.sum(0).int(), changed


@given(
    levels=st.sampled_from([1, 2, 3, 4, 8, 32]),
    boundary=st.integers(-1, 33),
    offset=st.floats(-0.5, 0.5, width=32),
    reference=st.integers(0, 33),
    threshold=st.sampled_from([1.0, 0.5, -1.0, 4.0]),
)
def test_only_the_levels_that_meet(levels: int, boundary: int, offset: float, reference: int, threshold: float) -> None:
    reference = min(reference, levels)
    shifted = boundary + offset  # u = z·L/λ + 1/2
    z = torch.tensor([(shifted - 0.5) * threshold / levels])
    count = int(quantise(z, threshold, levels))
    shifted = float(z * levels / threshold + 0.5)
    settled, changed = settle_ties(z.unsqueeze(0), threshold, levels, torch.tensor([reference], dtype=torch.int32))
    nearest = round(shifted)
    margin = min(TIE * EPS * levels, 0.5)
    meeting = {min(max(nearest - 1, 0), levels), min(max(nearest, 0), levels)}
    may_change = abs(shifted - nearest) <= margin and reference in meeting
    assert int(settled) == (reference if may_change else count)
    assert int(changed) == (int(settled) != count)
    assert abs(int(settled) - count) <= 1


def test_a_tie_is_settled_either_way() -> None:
    z = torch.tensor([[0.375, 0.375, 0.375, 0.375, 0.5]])  # u = 2: between levels 1 and 2; and u = 2.5
    settled, changed = settle_ties(z, 1.0, 4, torch.tensor([1, 2, 0, 3, 3], dtype=torch.uint8))
    assert settled.tolist() == [1, 2, 2, 2, 2]
    assert int(changed) == 1


def test_no_neurons_have_no_ties() -> None:
    settled, changed = settle_ties(torch.ones(2, 0, 3), 1.0, 4, torch.ones(0, 3, dtype=torch.uint8))
    assert settled.shape == (0, 3)
    assert int(changed) == 0


def test_the_ends_are_no_ties() -> None:
    """Nothing is below level 0 and above level L, so there a boundary's own rounding changes nothing."""
    z = torch.tensor([[-0.125, 1.125, 1.375, -5.0]])  # u = 0, 5, 6, far below
    settled, _ = settle_ties(z, 1.0, 4, torch.tensor([1, 3, 3, 4]))
    assert settled.tolist() == [0, 4, 4, 0]


def test_per_channel_thresholds() -> None:
    z = torch.tensor([0.375, 0.75]).view(1, 1, 2, 1)
    settled, changed = settle_ties(z, torch.tensor([1.0, 2.0]), 4, torch.tensor([1, 1]).view(1, 2, 1))
    assert settled.flatten().tolist() == [1, 1]
    assert int(changed) == 2


def test_margins_are_those_of_the_largest_threshold() -> None:
    assert torch.equal(margins(torch.tensor(-3.0), 4, torch.float32), torch.tensor(4 * TIE * EPS))
    found = margins(torch.tensor([1.0, -2.0, 0.5, 1e-6]), 4, torch.float32)
    torch.testing.assert_close(found, 4 * TIE * EPS * torch.tensor([2, 1, 4, 2e6]))
    assert margins(torch.tensor([1.0, 1e-6]), 4, torch.bfloat16).tolist() == [0.5, 0.5]


def test_half_precision_has_a_margin_of_half_a_level_at_most() -> None:
    z = torch.tensor([[0.5, 0.55, 0.45]], dtype=torch.bfloat16)  # u = 2.5 and thereabouts, at L = 4
    settled, _ = settle_ties(z, 1.0, 4, torch.tensor([1, 2, 3]))
    assert set(settled.tolist()) <= {1, 2, 3}
    settled, _ = settle_ties(z.float(), 1.0, 4, torch.tensor([1, 3, 1]))
    assert settled.tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["in-place operators", "maximum of currents"])
def test_ties_in_a_network(name: str) -> None:
    """Weights, inputs and thresholds on a grid put many pre-activations right on a boundary, up to rounding."""
    case = EXACT[name]
    qcfs = quantised(case.build(), case.data(), "scalar").float()
    with torch.no_grad():
        for weight in qcfs.parameters():
            weight.copy_((weight * 10).round() * 0.1)
        for layer in qcfs_layers(qcfs).values():
            unit = 2 * layer.levels * 0.03
            layer.threshold.copy_((layer.threshold / unit).round().clamp(min=1) * unit)
    assert_ties_are_settled(qcfs, torch.randint(-3, 4, (256, 3, 6, 6)) * 0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("first", "second", "threshold"), [(3, 3, 1.0), (6, 4, 1.0), (3, 3, 0.3)])
def test_multiples_of_steps_lie_on_boundaries(dtype: torch.dtype, first: int, second: int, threshold: float) -> None:
    """Between equal thresholds no weights are left that would move sums off the boundaries, in no precision."""
    layers = [nn.Conv2d(1, 4, 3), QCFS(first, threshold), nn.AvgPool2d(2), QCFS(second, threshold), nn.Flatten()]
    qcfs = nn.Sequential(*layers, nn.Linear(36, 2)).to(dtype)
    assert verify(qcfs, convert(qcfs), [torch.randn(64, 1, 8, 8, dtype=dtype)], progress=False).exact


def test_nearly_dead_channels() -> None:
    """Their thresholds are small and their sums are not, so rounding moves them by more than a level."""
    relu = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=False), nn.ReLU())
    qcfs = replace_activations(relu, 5)
    first, second = qcfs_layers(qcfs).values()
    with torch.no_grad():
        qcfs.get_submodule("2").weight.copy_(torch.randn(8, 16, 3, 3).mul(10).round() * 0.1)  # many sums are 0
        first.threshold.fill_(0.7)
        second.threshold.data = torch.tensor([1.0, 1e-6, 1e-4, -1e-6] * 2)
    assert_ties_are_settled(qcfs, torch.randn(256, 3, 6, 6))


def assert_ties_are_settled(qcfs: nn.Module, images: Tensor) -> None:
    snn = convert(qcfs)
    report = verify(qcfs, snn, [images], progress=False)
    assert report.mismatched_counts == 0
    assert report.ties > 0
    snn.settle_ties = False
    unsettled = verify(qcfs, snn, [images], progress=False)
    assert unsettled.ties == 0
    assert unsettled.mismatched_counts >= report.ties


class TF32Conv(nn.Conv2d):
    """A convolution whose factors are rounded to TF32, as tensor cores do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(tf32(x), tf32(self.weight), self.bias, self.stride, self.padding)


def tf32(x: Tensor) -> Tensor:
    """float32 with 10 bits of mantissa, rounded to the nearest."""
    bits = x.view(torch.int32)
    return ((bits + 0x0FFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


@pytest.mark.filterwarnings("ignore:layer .* is dead")
@pytest.mark.parametrize("levels", [3, 8])
def test_what_tf32_rounds_is_settled(monkeypatch: pytest.MonkeyPatch, levels: int) -> None:
    """As on CUDA, where convolutions are in TF32 unless one asks for float32."""
    relu = alive(build("resnet20", 10))
    images = torch.randn(8, 3, 32, 32)
    qcfs = calibrate(replace_activations(relu, levels), [images], per_channel=True, progress=False)
    snn = convert(qcfs)
    monkeypatch.setattr(nn.Conv2d, "forward", TF32Conv.forward)
    assert verify(qcfs, snn, [images], progress=False).mismatched_counts > 0
    monkeypatch.setattr(ties, "_allows_tf32", lambda: True)
    monkeypatch.setattr(ties, "margin", lambda levels, dtype, device: margin(levels, dtype, "cuda"))
    snn.reset()
    report = verify(qcfs, snn, [images], progress=False)
    assert report.mismatched_counts == 0
    assert report.ties > 0


@pytest.mark.parametrize("allowed", [False, True])
def test_the_margin_knows_what_torch_may_do(allowed: bool) -> None:
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = allowed
    try:
        assert margin(4, torch.float32, "cpu") == (4 * TIE * EPS, math.inf)
        assert margin(4, torch.float64, "cuda")[0] < 1e-12
        assert margin(4, torch.bfloat16, "cuda") == (0.5, 0.5)
        tf32 = (4 * TF32_TIE * 2.0**-11, 0.5)
        assert margin(4, torch.float32, "cuda") == (tf32 if allowed else (4 * TIE * EPS, math.inf))
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def test_planted_faults_are_not_settled() -> None:
    """The reference may not hide that the spikes are wrong: not where someone looks at them, as ``verify`` does, nor
    behind the first layer, which is the reference's own.
    """
    case = EXACT["norm after"]
    qcfs = quantised(case.build(), case.data(), "scalar").float()
    snn = convert(qcfs)
    x = case.data()[0].float()
    with torch.no_grad():
        right = snn(x)
        run = snn._run_references

        def planted(*args: Any) -> tuple[Reference, ...]:
            first, *others = run(*args)
            return first, *(Reference(torch.zeros_like(r.counts), r.dtype) for r in others)

        snn._run_references = planted
        assert torch.equal(snn(x), right)
        snn._run_references = lambda *args: tuple(Reference(torch.zeros_like(r.counts), r.dtype) for r in run(*args))
        assert not torch.equal(snn(x), right)
        next(iter(snn.neurons.values())).register_forward_hook(lambda *_: None)
        assert torch.equal(snn(x), right)


def test_long_sums_on_boundaries_are_settled() -> None:
    """Of thousands of products, whose partial sums are larger than what the layer puts out; most of them end nearby."""
    qcfs = nn.Sequential(nn.Linear(1, 4096), QCFS(8, 0.8), nn.Linear(4096, 256, bias=False), QCFS(5, 1.0))
    with torch.no_grad():
        qcfs[2].weight.copy_((torch.randn(256, 4096) * 12).round() * 0.1)
    assert_ties_are_settled(qcfs, torch.randn(256, 1))
