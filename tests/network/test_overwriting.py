"""Results written over values that nothing reads any more: nobody notices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from pascal_ext import QCFS, convert
from pascal_ext.network.overwriting import add, add_scaled
from tests.cases import Net


class Residual(nn.Module):
    """A block whose activations and sums can overwrite, and currents that two nodes read, which cannot."""

    def __init__(self, threshold: Tensor | float, levels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.act, self.act1, self.act2 = (QCFS(levels, threshold) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        current = self.norm(self.conv(x))
        s = self.act(current)
        out = self.conv1(s)
        out += s
        out = self.act1(out)
        return self.act2(self.conv2(out) + current)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.75, torch.linspace(0.5, 1.5, 8)], ids=["scalar", "per channel"])
@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_counts_are_bit_for_bit_the_ann(
    levels: int, threshold: Tensor | float, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """On layers larger than a tile, in its own arithmetic."""
    ann = Residual(threshold, levels).to(dtype).eval().to(memory_format=layout)
    x = torch.randn(4, 3, 80, 80, dtype=dtype).contiguous(memory_format=layout)
    before = x.clone()
    snn = convert(ann, execution="counts").to(memory_format=layout)
    with torch.no_grad():
        expected = ann(x)
        for _ in range(2):
            assert torch.equal(snn(x), expected)
        assert torch.equal(x, before)
        assert snn(x).is_contiguous(memory_format=layout)
        snn.execution = "spikes"
        if dtype != torch.bfloat16:
            torch.testing.assert_close(snn(x), expected)


def test_hooks_see_what_was_computed() -> None:
    """Currents are kept for them, whether they were overwritten before the hook came or not."""
    ann = Residual(0.75, 4).double().eval()
    x = torch.randn(4, 3, 80, 80, dtype=torch.float64)
    snn = convert(ann, execution="counts")
    with torch.no_grad():
        snn(x)
        seen: dict[str, Tensor] = {}
        for name in ("conv1", "conv2", "norm"):
            for model, whose in ((ann, "ann"), (snn, "snn")):
                model.get_submodule(name).register_forward_hook(
                    lambda module, args, output, key=f"{whose} {name}": seen.update({key: output})
                )
        assert torch.equal(snn(x), ann(x))
    assert torch.equal(seen["snn norm"], seen["ann norm"])
    assert torch.equal(seen["snn conv2"], seen["ann conv2"])
    assert seen["snn conv1"].min() < 0, "it still holds currents, not activations"


def test_global_hooks_see_what_was_computed() -> None:
    snn = convert(Residual(0.75, 4).eval(), execution="counts")
    seen: list[Tensor] = []
    handle = register_module_forward_hook(
        lambda module, args, output: seen.append(output) if isinstance(module, nn.Conv2d) else None
    )
    try:
        with torch.no_grad():
            snn(torch.randn(2, 3, 16, 16))
    finally:
        handle.remove()
    assert seen[1].min() < 0


def test_a_hook_on_a_neuron_sees_its_currents() -> None:
    snn = convert(Residual(0.75, 4).eval(), execution="counts")
    seen: list[Tensor] = []
    snn.get_submodule("act1").register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        snn(torch.randn(2, 3, 16, 16))
    assert seen[0].min() < 0


def test_inputs_and_parameters_are_never_overwritten() -> None:
    model = Net(lambda m, x: m.act(x + m.shift), act=QCFS(4, 0.5), shift=nn.Parameter(torch.randn(3, 1, 1))).eval()
    x = torch.randn(4, 3, 80, 80)
    before = x.clone(), model.shift.detach().clone()
    snn = convert(model, execution="counts")
    with torch.no_grad():
        assert torch.equal(snn(x), model(x))
    assert torch.equal(x, before[0])
    assert torch.equal(snn.shift, before[1])


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_layers_that_were_taken_out_overwrite_nothing(execution: str) -> None:
    """What stands in a layer's place may hand on its input itself, which is the user's, or is read again."""
    model = Net(lambda m, x: m.act(m.norm(x)) + m.act2(m.norm2(x)), act=QCFS(4), act2=QCFS(4), norm=nn.BatchNorm2d(3))
    model.norm2 = nn.BatchNorm2d(3)
    snn = convert(model.eval(), execution=execution)
    snn.norm = nn.Identity()
    snn.norm2.forward = lambda x: x  # type: ignore[method-assign]  # exchanged in the object
    x = torch.randn(4, 3, 80, 80)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(snn(x), 2 * QCFS(4)(before))
    assert torch.equal(x, before)


def test_sums_that_do_not_fit_are_made_anew() -> None:
    x, other = torch.ones(3, 1), torch.ones(3, 4)
    assert add(x, other, True).shape == (3, 4)
    assert add(x, torch.ones(3, 1).double(), True).dtype == torch.float64
    assert add(x, torch.ones(3, 1), False) is not x
    assert add(x, torch.ones(3, 1), True) is x
    y = torch.randn(3, 5, requires_grad=False)
    spikes, threshold = torch.randint(0, 2, (3, 5)).float(), torch.tensor(0.3)
    expected = y + threshold * spikes
    assert torch.equal(add_scaled(y, spikes, threshold, True), expected)
