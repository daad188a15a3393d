"""The neuron as an operator: what compilers, export and autograd make of it, alone and in converted networks."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, convert, functional
from pascal_ext.ops import pasc_if as _operators  # noqa: F401  (defines them)

THRESHOLDS = {"scalar": torch.tensor(0.75), "per channel": torch.tensor([0.5, -1.0, 2.0, 1.25])}

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)")


def network(threshold: Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """With a shortcut, batch norm, pooling and a flattened layer."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm, self.act1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), QCFS(4, threshold)
            self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), QCFS(3, threshold)
            self.pool, self.linear = nn.AvgPool2d(4), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.norm(self.conv1(x)))
            x = self.act2(self.conv2(x) + x)
            return self.linear(self.pool(x).flatten(1))

    return Model().to(dtype).eval()


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_operators_are_well_formed(backend: str, dtype: torch.dtype, threshold: Tensor) -> None:
    """Schemas, fake kernels and autograd registrations, checked by torch's own test."""
    x_seq = torch.randn(2, 3, 4, 5, 2).to(dtype)
    channels_last = x_seq.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    for currents in (x_seq, channels_last, x_seq.requires_grad_()):
        torch.library.opcheck(torch.ops.pascal_ext.pasc_if, (currents, threshold, 3, backend), test_utils=checks)
        torch.library.opcheck(torch.ops.pascal_ext.pasc_if_counts, (currents, threshold, 3, backend), test_utils=checks)
    reference = functional.pasc_if_counts(x_seq.detach(), threshold, 3)
    torch.library.opcheck(
        torch.ops.pascal_ext.pasc_if_settled, (x_seq.detach(), threshold, 3, reference), test_utils=checks
    )


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("window", [1, 3, 4])
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_the_gradient_of_the_spikes_is_that_of_qcfs(levels: int, window: int, threshold: Tensor) -> None:
    """λ·mean(s) is QCFS of the mean current, in value and in gradient."""
    x_seq = torch.randn(window, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    by = threshold.double().requires_grad_()
    column = by.reshape(-1, *[1] * by.ndim)
    grad = torch.randn(6, 4, 3, dtype=torch.float64)
    decoded = functional.pasc_if(x_seq, by, levels).mean(0) * column
    found = torch.autograd.grad(decoded, (x_seq, by), grad)
    qcfs = QCFS(levels, threshold.double())
    expected_output = qcfs(x_seq.mean(0))
    expected = torch.autograd.grad(expected_output, (x_seq, qcfs.threshold), grad)
    torch.testing.assert_close(decoded, expected_output, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 200, 200), (40, 4, 90, 80)])
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_gradients_of_large_layers(shape: tuple[int, ...], threshold: Tensor) -> None:
    """Those that are worked on in tiles get the gradients of their pieces."""
    z = torch.randn(*shape, dtype=torch.float64)
    layer = QCFS(4, threshold.double())
    for x in (z, z.contiguous(memory_format=torch.channels_last)):
        grads = []
        for pieces in ([x], x.split(1)):
            inputs = x.clone().requires_grad_()
            layer.threshold.grad = None
            for piece in inputs.split([len(piece) for piece in pieces]):
                layer(piece).square().sum().backward()
            grads.append((inputs.grad, layer.threshold.grad))
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_a_converted_network_can_be_trained(threshold: Tensor) -> None:
    """Its gradients, in either execution, are those of the QCFS network."""
    qcfs = network(threshold, torch.float64)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    qcfs(x).square().sum().backward()
    for execution in ("spikes", "counts"):
        snn = convert(qcfs, execution=execution)
        snn(x).square().sum().backward()
        for name, parameter in snn.named_parameters():
            torch.testing.assert_close(parameter.grad, qcfs.get_parameter(name).grad, rtol=1e-9, atol=1e-9, msg=name)


# Compilers


@pytest.mark.parametrize("execution", ["counts", "spikes"])
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_captured_in_one_graph(threshold: Tensor, execution: str) -> None:
    """float64, in which the order of a sum decides nothing, so that the captured network is the same function."""
    qcfs = network(threshold, torch.float64)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    torch.compiler.reset()
    captured = torch.compile(convert(qcfs, execution=execution), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(captured(x), qcfs(x), rtol=0, atol=1e-12)


def test_captured_with_ties_settled() -> None:
    qcfs = network(THRESHOLDS["scalar"])
    x = torch.randn(5, 3, 8, 8)
    torch.compiler.reset()
    with torch.no_grad():
        captured = torch.compile(convert(qcfs), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(captured(x), qcfs(x), rtol=0, atol=1e-5)


def test_captured_for_any_size_with_gradients() -> None:
    """Ties are settled there, too."""
    snn = convert(network(THRESHOLDS["scalar"], torch.float64))
    torch.compiler.reset()
    captured = torch.compile(snn, dynamic=True, fullgraph=True, backend="eager")
    for batch in (3, 5):
        x = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
        gradients = []
        for model in (snn, captured):
            output = model(x)
            gradients.append((output, *torch.autograd.grad(output.square().sum(), list(snn.parameters()))))
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_a_qcfs_network_captured_for_training() -> None:
    qcfs = network(THRESHOLDS["per channel"], torch.float64).train()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    torch.compiler.reset()
    gradients = []
    for model in (qcfs, torch.compile(qcfs, fullgraph=True, backend="aot_eager")):
        qcfs.zero_grad()
        model(x).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in qcfs.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@needs_compiler
def test_compiled_code_counts_the_same() -> None:
    """Inductor's fused closed form, on currents that lie on boundaries, and next to them."""
    x_seq = torch.randint(-40, 120, (4, 64)) * 2.0**-6
    torch.compiler.reset()
    for levels in (3, 4):
        threshold = torch.tensor(10 * levels * 2.0**-6)
        compiled = torch.compile(
            lambda x, by=threshold, levels=levels: functional.pasc_if(x, by, levels), fullgraph=True
        )
        assert torch.equal(compiled(x_seq), functional.pasc_if(x_seq, threshold, levels, "reference"))


def test_an_opaque_backend_compiles_as_an_operator() -> None:
    x_seq = torch.randn(3, 5, 4)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: functional.pasc_if(x, 0.7, 4, "reference") * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(x_seq), functional.pasc_if(x_seq, 0.7, 4) * 2)


# Export


@pytest.mark.parametrize("execution", ["counts", "spikes"])
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_exported(threshold: Tensor, execution: str) -> None:
    qcfs = network(threshold, torch.float64)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    snn = convert(qcfs, execution=execution)
    with torch.no_grad():
        exported = torch.export.export(snn, (x,))
        torch.testing.assert_close(exported.module()(x), qcfs(x), rtol=0, atol=1e-12)


def test_a_qcfs_network_exported() -> None:
    qcfs = network(THRESHOLDS["per channel"])
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(qcfs, (x,))
        torch.testing.assert_close(exported.module()(x), qcfs(x))


@pytest.mark.parametrize("execution", ["counts", "spikes"])
def test_autocast(execution: str) -> None:
    qcfs = network(THRESHOLDS["scalar"])
    x = torch.randn(5, 3, 8, 8)
    snn = convert(qcfs, execution=execution)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = snn(x), qcfs(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
