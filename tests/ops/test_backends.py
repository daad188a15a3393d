"""Backends: each computes what the reference does; those that cannot run say why."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pascal_ext import functional
from pascal_ext.errors import BackendError, InvalidArgumentError
from pascal_ext.neuron import PascIF
from pascal_ext.ops.pasc_if import activation, backend_names, quantise, selection
from pascal_ext.ops.pasc_if.cupy import SOURCE, TYPES, VECTOR, arguments, vector_width
from pascal_ext.ops.pasc_if.layout import dense_steps
from pascal_ext.ops.pasc_if.ties import margin
from pascal_ext.ops.pasc_if.triton import TRITON
from pascal_ext.ops.pasc_if.vectorised import empty_train, pasc_if_settled

QUANTUM = 2.0**-6
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "expanded over time", "with gaps", "one dimension", "volumes")
SIZES = ((1, 1), (1, 4), (4, 8), (8, 8), (3, 5), (5, 4))

has_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (g++) on the PATH")
has_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")


def currents(layout: str, window: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """[window, 3, 4, ...] of multiples of QUANTUM up to ±2, on which no implementation makes a rounding error."""
    shape = {"one dimension": (37,), "volumes": (3, 4, 2, 3, 2)}.get(layout, (3, 4, 5, 6))
    x_seq = torch.randint(-128, 129, (window, *shape), device=device).mul(QUANTUM).to(dtype)
    if layout == "channels_last":
        return x_seq.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    if layout == "expanded over time":
        return x_seq[:1].expand_as(x_seq)
    if layout == "with gaps":
        return torch.cat([x_seq, x_seq], dim=-1)[..., : shape[-1]]
    return x_seq


def thresholds(x_seq: Tensor, levels: int) -> list[Tensor]:
    """λ for which λ/L is a few quanta, so that many means lie right on a boundary; a scalar, and one per channel."""
    unit = 2 * levels * QUANTUM
    found = [torch.tensor(3 * unit), torch.tensor(-5 * unit)]
    if x_seq.ndim > 2:
        found.append(torch.tensor([1.0, -3.0, 4.0, 11.0]) * unit)
    return [threshold.to(x_seq.device) for threshold in found]


def assert_equals_the_reference(backend: str, x_seq: Tensor, levels: int) -> None:
    for threshold in thresholds(x_seq, levels):
        expected = functional.pasc_if(x_seq.double(), threshold.double(), levels, "reference")
        spikes = functional.pasc_if(x_seq, threshold, levels, backend)
        assert spikes.dtype == x_seq.dtype
        assert torch.equal(spikes.double(), expected)
        counts = functional.pasc_if_counts(x_seq, threshold, levels, backend)
        assert counts.dtype == torch.int32
        assert torch.equal(counts, expected.sum(0).int())


def assert_settles_as_torch(x_seq: Tensor, levels: int) -> int:
    """On boundaries, and next to them on either side of a tie's margin; with references that are off by up to two, and
    of NaN, which stays NaN.

    Returns how many ties there were.
    """
    assert TRITON.settled is not None
    total = 0
    least, _ = margin(levels, x_seq.dtype, x_seq.device.type)
    noise = torch.rand(x_seq.shape, device=x_seq.device).sub(0.5) * 4 * least
    for threshold in thresholds(x_seq, levels):
        off = noise * threshold.abs().max() / levels if len(x_seq) == 1 else 0 * noise  # sums of it would be rounded
        shifted = (x_seq + off).to(x_seq.dtype)
        shifted[(0,) * shifted.ndim] = torch.nan
        counts = functional.pasc_if_counts(shifted, threshold, levels, "torch")
        reference = (counts + torch.randint_like(counts, -2, 3)).clamp(0, levels).to(torch.uint8)
        expected, expected_ties = pasc_if_settled(shifted, threshold, levels, reference)
        train, ties = TRITON.settled(shifted, threshold, levels, reference)
        assert int(train.isnan().sum()) == levels
        torch.testing.assert_close(train, expected, rtol=0, atol=0, equal_nan=True)
        assert ties == expected_ties
        total += int(ties)
    return total


def assert_activates_as_torch(z: Tensor, levels: int) -> None:
    """λ/L · k to the last bit where λ/L is exact, and the counts; also in the place of ``z``, and of NaN."""
    assert TRITON.activation is not None
    z = z.clone()
    z[(0,) * z.ndim] = torch.nan
    number = ~z.isnan()
    for threshold in thresholds(z.unsqueeze(0), levels):
        counts = quantise(z, threshold, levels)
        expected = activation(counts, threshold, levels, z.dtype)
        found, filled = torch.empty_like(z), torch.empty_like(z, dtype=torch.uint8)
        TRITON.activation(z, threshold, levels, found, filled)
        assert torch.equal(filled[number], counts[number].byte())
        torch.testing.assert_close(found, expected, rtol=torch.finfo(z.dtype).eps, atol=0, equal_nan=True)
        replaced = z.clone()
        TRITON.activation(replaced, threshold, levels, replaced, None)
        assert torch.equal(replaced[number], found[number])
        assert torch.equal(replaced.isnan(), z.isnan())


def assert_differentiates_as_torch(z: Tensor, levels: int) -> None:
    """The straight-through gradient, λ's element by element; in float64 there is nothing to round."""
    assert TRITON.gradient is not None
    grad = torch.randn_like(z)
    for threshold in thresholds(z.unsqueeze(0), levels):
        wide = threshold.double().reshape(-1, *[1] * (z.ndim - 2)) if threshold.ndim else threshold.double()
        u = z.double() * levels / wide + 0.5
        passed = torch.where((u > 0.5) & (u < levels + 0.5), grad.double(), 0)
        slope = u.floor().clamp(0, levels) / levels * grad - passed * z / wide
        found, slopes = torch.empty_like(z), torch.empty_like(z, dtype=torch.float64)
        TRITON.gradient(grad, z, threshold, levels, found, slopes)
        assert torch.equal(found, passed.to(z.dtype))
        torch.testing.assert_close(slopes, slope, rtol=1e-5, atol=1e-5)
        TRITON.gradient(grad, z, threshold, levels, found.zero_(), None)
        assert torch.equal(found, passed.to(z.dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch(dtype: torch.dtype, layout: str) -> None:
    for window, levels in SIZES:
        assert_equals_the_reference("torch", currents(layout, window, dtype), levels)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "with gaps"])
@pytest.mark.parametrize("shape", [(2, 4, 200, 200), (200, 4, 13, 17), (5, 4, 300, 301)])
def test_tiles_cover_everything_once(shape: tuple[int, ...], layout: str) -> None:
    """Layers larger than a tile, with channels larger and smaller than one."""
    x_seq = torch.randint(-128, 129, (2, *shape)).mul(QUANTUM)
    if layout == "channels_last":
        x_seq = x_seq.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    elif layout == "with gaps":
        x_seq = torch.cat([x_seq, x_seq], dim=-1)[..., : shape[-1]]
    for threshold in thresholds(x_seq, 4):
        expected = functional.pasc_if(x_seq, threshold, 4, "reference")
        assert torch.equal(functional.pasc_if(x_seq, threshold, 4, "torch"), expected)


# Triton, through its interpreter: a process of its own, since Triton reads the variable when it is imported


@has_triton
def test_triton_in_its_interpreter() -> None:
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
import torch
from pascal_ext.ops.pasc_if.layout import dense_steps
from tests.ops.test_backends import (
    DTYPES, LAYOUTS, SIZES, assert_activates_as_torch, assert_differentiates_as_torch, assert_equals_the_reference,
    assert_settles_as_torch, currents
)
torch.manual_seed(0)
ties = 0
for layout in LAYOUTS:
    for dtype in (DTYPES if layout == "contiguous" else DTYPES[:1]):
        for window, levels in SIZES:
            assert_equals_the_reference("triton", currents(layout, window, dtype), levels)
            ties += assert_settles_as_torch(currents(layout, window, dtype), levels)
            assert_activates_as_torch(dense_steps(currents(layout, 1, dtype))[0], levels)
            assert_differentiates_as_torch(dense_steps(currents(layout, 1, dtype))[0], levels)
assert ties > 0
assert_equals_the_reference("triton", torch.zeros(2, 0, 4), 4)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@has_triton
def test_triton_without_a_gpu_says_so() -> None:
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton can run here")
    neuron = PascIF(4, backend="triton")
    with pytest.raises(BackendError, match=r"backend='triton' cannot run on torch.float32 currents on cpu: .*CUDA"):
        neuron(torch.ones(1, 3))


# CuPy's source, compiled for the host: the shim gives the names that CUDA would, and runs thread after thread

SHIM = r"""
#include <cstdint>
#define __device__
#define __global__ static
struct Dim { unsigned x; };
static thread_local Dim blockIdx, blockDim, threadIdx;
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
"""
LAUNCHER = r"""
extern "C" void launch_{name}_{type}_{width}(const {type}* x, const {type}* threshold, {out}* out, long long neurons,
        long long channels, long long inner, long long step_stride, int window, int levels, int powers_of_two) {{
    blockDim.x = 256;
    for (blockIdx.x = 0; blockIdx.x * 256LL * {width} < neurons; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < 256; ++threadIdx.x)
            {name}<{type}, {type}, {width}>(x, threshold, out, neurons, channels, inner, step_stride, window, levels,
                                            powers_of_two);
}}
"""


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("cupy")
    launchers = [
        LAUNCHER.format(name=name, type=kind, out=out or kind, width=width)
        for name, out in (("pasc_if_spikes", ""), ("pasc_if_counts", "int"))
        for kind, wide in (("float", VECTOR // 4), ("double", VECTOR // 8))
        for width in (1, wide)
    ]
    (folder / "kernel.cpp").write_text(SHIM + SOURCE + "".join(launchers))
    command = ["g++", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "kernel.cpp", "-o", "kernel.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def launch(
    library: ctypes.CDLL, name: str, x_seq: Tensor, threshold: Tensor, levels: int, out: Tensor, width: int
) -> Tensor:
    value, sizes, settings = arguments(x_seq, threshold, levels)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x_seq, value, out)]
    numbers = [*map(ctypes.c_longlong, sizes), *map(ctypes.c_int, settings)]
    getattr(library, f"launch_{name}_{TYPES[x_seq.dtype][0]}_{width}")(*pointers, *numbers)
    return out


@has_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_the_source_for_cupy_on_the_host(host_library: ctypes.CDLL, dtype: torch.dtype, layout: str) -> None:
    for window, levels in SIZES:
        x_seq = dense_steps(currents(layout, window, dtype))
        train, counts = empty_train(x_seq, levels), torch.empty_like(x_seq[0], dtype=torch.int32)
        for threshold, width in itertools.product(thresholds(x_seq, levels), {1, vector_width(x_seq, train)}):
            expected = functional.pasc_if(x_seq.double(), threshold.double(), levels, "reference")
            launch(host_library, "pasc_if_spikes", x_seq, threshold, levels, train.fill_(torch.nan), width)
            assert torch.equal(train.double(), expected)
            launch(host_library, "pasc_if_counts", x_seq, threshold, levels, counts.fill_(-1), width)
            assert torch.equal(counts, expected.sum(0).int())


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 2), (torch.float32, 4), (torch.bfloat16, 8)])
def test_threads_take_several_neurons_where_all_steps_begin_at_multiples(dtype: torch.dtype, width: int) -> None:
    x_seq, train = torch.zeros(3, 2, 4 * width, dtype=dtype), torch.zeros(4, 2, 4 * width, dtype=dtype)
    assert vector_width(x_seq, train) == width
    assert vector_width(x_seq[:1].expand(5, -1, -1), train) == width
    assert vector_width(x_seq.flatten()[1:17].view(1, 1, -1), train[:, :1]) == 1
    assert vector_width(torch.zeros(3, 8 * width + 1, dtype=dtype)[:, :-1], train) == 1
    assert vector_width(torch.zeros(3, 5, dtype=dtype), torch.zeros(4, 5, dtype=dtype)) == 1


def test_steps_are_copied_only_where_they_have_gaps() -> None:
    for layout in LAYOUTS:
        x_seq = currents(layout, 3, torch.float32)
        assert (dense_steps(x_seq) is x_seq) == (layout != "with gaps")


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    "backend", ["torch", pytest.param("triton", marks=has_triton), pytest.param("cupy", marks=has_cupy)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(backend: str, layout: str, dtype: torch.dtype) -> None:
    for window, levels in SIZES:
        assert_equals_the_reference(backend, currents(layout, window, dtype, "cuda"), levels)


@pytest.mark.gpu
@has_triton
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_kernels_on_a_gpu(layout: str, dtype: torch.dtype) -> None:
    ties = 0
    for window, levels in SIZES:
        ties += assert_settles_as_torch(currents(layout, window, dtype, "cuda"), levels)
        assert_activates_as_torch(dense_steps(currents(layout, 1, dtype, "cuda"))[0], levels)
        assert_differentiates_as_torch(dense_steps(currents(layout, 1, dtype, "cuda"))[0], levels)
    assert ties > 0 or layout == "one dimension"


# Choosing


def test_names() -> None:
    assert backend_names()[0] == "auto"
    assert {"reference", "torch", "triton", "cupy"} <= set(backend_names())


@pytest.mark.parametrize("name", ["triton", "cupy"])
def test_what_is_not_installed_is_refused_with_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    message = rf"backend='{name}' cannot run: {name} is not installed.*pip"
    with pytest.raises(BackendError, match=message):
        PascIF(4, backend=name)
    with pytest.raises(BackendError, match=message):
        functional.pasc_if(torch.ones(1, 2), 1.0, 4, name)


def test_the_choice_can_be_read_and_changed() -> None:
    neuron = PascIF(4)
    assert (neuron.backend, PascIF(4, backend="reference").backend) == ("auto", "reference")
    neuron.backend = "torch"
    assert neuron.backend == "torch"
    with pytest.raises(InvalidArgumentError, match="'fast' is unknown"):
        neuron.backend = "fast"
    assert neuron.backend == "torch"


def test_auto_says_once_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    selection._fastest.cache_clear()
    with caplog.at_level(logging.INFO, "pascal_ext"):
        for _ in range(2):
            functional.pasc_if(torch.ones(1, 2), 1.0, 4)
    assert [record.getMessage() for record in caplog.records] == ["backend 'auto' is 'torch' for torch.float32 on cpu"]


def test_auto_falls_back_with_the_reasons(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As on a GPU, where Triton or CuPy may be missing."""
    selection._fastest.cache_clear()
    monkeypatch.setattr(selection, "AUTO", {"cpu": ("triton", "cupy", "torch")})
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "pascal_ext"):
        name, _ = selection.select("auto", torch.ones(1, 2))
    selection._fastest.cache_clear()
    assert name == "torch"
    assert "not 'triton': triton is not installed" in caplog.text


def test_auto_passes_over_what_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As Triton does where there is no C compiler."""

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    selection._fastest.cache_clear()
    monkeypatch.setattr(selection, "_backends", dict(selection._backends))
    monkeypatch.setattr(selection, "AUTO", {"cpu": ("broken", "torch")})
    selection.register_backend("broken", selection.Backend(broken, broken))
    with caplog.at_level(logging.INFO, "pascal_ext"):
        assert functional.pasc_if(torch.ones(1, 2), 1.0, 4).sum() == 8
        assert selection.select("auto", torch.ones(1, 2))[0] == "torch"
    selection._fastest.cache_clear()
    assert caplog.text.count("not 'broken': RuntimeError: Failed to find C compiler") == 1


def test_an_own_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    known = selection._backends["torch"]

    def spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
        calls.append(levels)
        return known.spikes(x_seq, threshold, levels)

    monkeypatch.setattr(selection, "_backends", dict(selection._backends))
    selection.register_backend("own", selection.Backend(spikes, known.counts))
    assert PascIF(3, backend="own")(torch.ones(1, 2)).sum() == 6
    assert calls == [3]
