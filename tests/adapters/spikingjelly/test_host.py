"""The backend ``"host"``: SpikingJelly's integrate-and-fire neuron, completed to what the reference says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional as host_functional
from torch import Tensor, nn

from pascal_ext import QCFS, functional
from pascal_ext.adapters.spikingjelly import PascalIFNode, compat, convert, host
from pascal_ext.errors import BackendError

QUANTUM = 2.0**-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("window", "levels"), [(1, 1), (1, 4), (4, 8), (8, 4), (3, 5), (16, 16)])
def test_equals_the_reference(window: int, levels: int, dtype: torch.dtype) -> None:
    """On multiples of QUANTUM, of which many means lie on a boundary, and no sum is rounded."""
    x_seq = torch.randint(-128, 129, (window, 5, 4, 3)).mul(QUANTUM).to(dtype)
    for steps in (3.0, -5.0, torch.tensor([1.0, -2.0, 4.0, 8.0])):
        threshold = torch.as_tensor(steps) * (2 * levels * QUANTUM)
        expected = functional.pasc_if(x_seq.double(), threshold.double(), levels, "reference")
        spikes = functional.pasc_if(x_seq, threshold, levels, "host")
        assert spikes.dtype == dtype
        assert torch.equal(spikes.double(), expected)
        assert torch.equal(functional.pasc_if_counts(x_seq, threshold, levels, "host"), expected.sum(0).int())


def test_the_neuron_of_the_host_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    known = host._integrate

    def spied(currents: Tensor, v: Tensor, theta: float) -> tuple[Tensor, Tensor]:
        calls.append(tuple(currents.shape))
        spikes, potential = known(currents, v, theta)
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(potential + spikes.sum(0) * theta, v + currents.sum(0))  # soft reset
        return spikes, potential

    monkeypatch.setattr(host, "_integrate", spied)
    node = PascalIFNode(4, backend="host")
    assert node.backend == "host"
    node(torch.randn(3, 7))
    assert calls == [(3, 7)]


def test_a_converted_network() -> None:
    qcfs = nn.Sequential(nn.Conv2d(2, 3, 3), QCFS(4, 0.5), nn.Conv2d(3, 4, 3), QCFS(8, torch.full((4,), 0.75)))
    qcfs = qcfs.double().eval()
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    snn = convert(qcfs, backend="host")
    assert {neuron.backend for neuron in snn.neurons.values()} == {"host"}
    with torch.no_grad():
        torch.testing.assert_close(snn(x), qcfs(x), rtol=0, atol=1e-12)


@pytest.mark.skipif(compat.HAS_RECIPES, reason="functional.set_backend is of SpikingJelly 0.0.0.0.14")
def test_set_backend_of_the_host_chooses_cupy() -> None:
    """Where CuPy is missing, that is an error that says so, and nothing has changed."""
    net = nn.Sequential(PascalIFNode(4))
    if host.importlib.util.find_spec("cupy"):
        host_functional.set_backend(net, "cupy")
        assert net[0].backend == "cupy"
        return
    with pytest.raises(BackendError, match=r"backend='cupy' cannot run: cupy is not installed.*cupy12x"):
        host_functional.set_backend(net, "cupy")
    assert net[0].backend == "auto"


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x_seq = torch.randint(-128, 129, (8, 5, 4, 3), device="cuda") * QUANTUM
    threshold = 3.0 * 8 * QUANTUM
    expected = functional.pasc_if(x_seq, threshold, 4, "reference")
    assert torch.equal(functional.pasc_if(x_seq, threshold, 4, "host"), expected)


def test_importing_the_adapter_is_enough_and_imports_no_host(tmp_path: Path) -> None:
    program = """
import sys, torch, pascal_ext.adapters.spikingjelly
from pascal_ext.functional import pasc_if
assert "spikingjelly" not in sys.modules
x = torch.randn(3, 5)
pascal_ext.PascIF(4, backend="host")
assert torch.equal(pasc_if(x, 1.0, 4, backend="host"), pasc_if(x, 1.0, 4))
assert "spikingjelly" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_without_spikingjelly_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"backend='host' cannot run: spikingjelly is not installed.*pip install"):
        functional.pasc_if(torch.randn(3, 5), 1.0, 4, backend="host")
