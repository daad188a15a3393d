"""On a GPU: the same function as the ANN there, in its own arithmetic, and every pass runs where the model is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, allocate, calibrate, convert, load, pareto, replace_activations, save, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.energy import measure
from tests.cases import alive, assert_same_function, quantised
from tests.zoo import EXACT

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:layer .* is dead")]


@pytest.fixture
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether convolutions and matrix products may round their factors to TF32."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = request.param
    yield request.param
    convolutions.allow_tf32, products.allow_tf32 = before


def resnet(torchvision: ModuleType, levels: int | None, images: Tensor) -> nn.Module:
    """A ResNet-18 with random weights, calibrated on ``images`` and on their device; QCFS with levels, else ReLU."""
    model = alive(torchvision.models.resnet18(num_classes=10)).to(images.device)
    if levels is None:
        return model
    return calibrate(replace_activations(model, levels), [images], per_channel=True, progress=False)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(64, 3, 64, 64, device="cuda")


@pytest.mark.parametrize("name", EXACT)
def test_the_same_function(name: str) -> None:
    case = EXACT[name]
    with torch.device("cuda"):
        qcfs = quantised(case.build().cuda(), case.data(), "per-channel")
        snn = convert(qcfs)
        assert_same_function(qcfs, snn, case)
        assert verify(qcfs, snn, [(tuple(case.data()), None)], progress=False).exact


@pytest.mark.parametrize("levels", [4, 8, 16])
@pytest.mark.parametrize("tf32", [False, True], indirect=True, ids=["float32", "TF32"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_count_is_the_anns(
    torchvision: ModuleType, images: Tensor, levels: int, tf32: bool, memory_format: torch.memory_format
) -> None:
    """In float32; in TF32 every prediction is, see docs/backends.md."""
    images = images.to(memory_format=memory_format)
    qcfs = resnet(torchvision, levels, images).to(memory_format=memory_format)
    report = verify(qcfs, convert(qcfs), [images], progress=False)
    assert report.outputs_agree
    assert report.mismatched_predictions == 0
    if not tf32:
        assert report.exact
        assert report.mismatched_counts == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(torchvision: ModuleType, images: Tensor, dtype: torch.dtype) -> None:
    qcfs = resnet(torchvision, 4, images)
    snn = convert(qcfs)
    with torch.inference_mode(), torch.autocast("cuda", dtype):
        expected, found = qcfs(images), snn(images)
        with snn.configured(execution="counts"):
            counted = snn(images)
    assert torch.equal(counted, expected)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9
    half = copy.deepcopy(qcfs).to(dtype)
    snn = convert(half)
    with torch.inference_mode():
        assert snn(images.to(dtype)).isfinite().all()
        snn.execution = "counts"
        assert torch.equal(snn(images.to(dtype)), half(images.to(dtype)))


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_compiled(torchvision: ModuleType, images: Tensor, execution: str) -> None:
    qcfs = resnet(torchvision, 4, images)
    snn = convert(qcfs)
    snn.execution = execution
    with torch.inference_mode():
        expected = qcfs(images)
        found = torch.compile(snn, fullgraph=True)(images)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("backend", ["torch", "triton", "cupy"])
def test_explicit_backends(torchvision: ModuleType, images: Tensor, backend: str) -> None:
    if backend != "torch":
        pytest.importorskip(backend)
    qcfs = resnet(torchvision, 4, images)
    snn = convert(qcfs, backend=backend)
    snn.settle_ties = False
    with torch.inference_mode():
        assert (snn(images).argmax(1) == qcfs(images).argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 6])
def test_gradients_are_those_of_a_cpu(channels: int, memory_format: torch.memory_format) -> None:
    z = torch.randn(4, 6, 7, 5).mul(2).to(memory_format=memory_format)
    weights = torch.randn_like(z)
    found = []
    for device in ("cpu", "cuda"):
        layer = QCFS(4, torch.linspace(0.5, 2, channels)).to(device)
        leaf = z.detach().clone().to(device).requires_grad_()
        (layer(leaf) * weights.to(device)).sum().backward()
        assert leaf.grad is not None
        assert layer.threshold.grad is not None
        found.append((leaf.grad.cpu(), layer.threshold.grad.cpu()))
    torch.testing.assert_close(found[1], found[0])


def test_every_pass_runs_where_the_model_is(torchvision: ModuleType, images: Tensor, tmp_path: Path) -> None:
    """Batches come from the CPU, as loaders give them."""
    relu = resnet(torchvision, None, images)
    batches = [(part.cpu(), torch.randint(10, (16,))) for part in images.split(16)]
    qcfs = calibrate(replace_activations(relu), batches, correct="bias", per_channel="auto", progress=False)
    for strategy in ("al", "sensitivity"):
        plan = allocate(relu, batches[:2], strategy=strategy, mean_levels=4, progress=False)
        assert isinstance(plan, LevelPlan)
    assert pareto(qcfs, batches[:2], progress=False)
    snn = convert(qcfs)
    assert all(tensor.is_cuda for tensor in snn.state_dict().values())
    assert verify(qcfs, snn, batches, progress=False).exact
    assert measure(snn, batches[:1], progress=False).firing_rate > 0
    save(snn, tmp_path / "snn.safetensors")
    again = load(tmp_path / "snn.safetensors").to("cuda")
    with torch.inference_mode():
        assert torch.equal(again(images), snn(images))
        moved = copy.deepcopy(snn).cpu()
        assert (moved(images.cpu()).argmax(1) == snn(images).cpu().argmax(1)).float().mean() > 0.9
    assert all(layer.threshold.is_cuda for layer in qcfs_layers(qcfs).values())


def test_the_host_frameworks(torchvision: ModuleType, images: Tensor) -> None:
    """snnTorch's network; SpikingJelly's are tested beside its adapter."""
    pytest.importorskip("snntorch")
    from pascal_ext.adapters.snntorch import convert as convert_for_snntorch

    qcfs = resnet(torchvision, 4, images)
    snn = convert_for_snntorch(qcfs)
    with torch.inference_mode():
        currents = snn(images.unsqueeze(0))
        assert currents.is_cuda
        assert (currents.mean(0).argmax(1) == qcfs(images).argmax(1)).float().mean() > 0.9
