"""Max pools that do not look for positions give what torch's own give, and hooks of the modules see it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pascal_ext import QCFS, convert
from pascal_ext.ops.max_pool import max_pool
from tests.cases import Net

TORCHS = {2: F.max_pool2d, 3: F.max_pool3d}


class Operations(TorchDispatchMode):
    """The names of all operations of torch within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@given(st.data())
def test_equals_torch(data: st.DataObject) -> None:
    """Any window, stride, padding and dilation, and any values."""
    dims = data.draw(st.sampled_from([2, 3]))
    shape = [*data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))]
    shape += data.draw(st.lists(st.integers(1, 12), min_size=dims, max_size=dims))
    kernel, stride, dilation = (data.draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims)) for _ in range(3))
    padding = [data.draw(st.integers(0, size // 2)) for size in kernel]
    x = torch.randn(shape, dtype=data.draw(st.sampled_from([torch.float32, torch.float64])))
    for special in data.draw(st.sets(st.sampled_from([math.nan, math.inf, -math.inf]))):
        x[torch.rand(shape) < 0.2] = special
    options = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), data.draw(st.booleans()))
    try:
        expected = TORCHS[dims](x, *options)
    except RuntimeError:
        assume(False)  # a window that is larger than x
    with torch.no_grad():
        torch.testing.assert_close(max_pool(dims, x, *options), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dims", TORCHS)
def test_one_number_is_one_for_each_dimension(dims: int) -> None:
    x = torch.randn(2, 3, *[9] * dims)
    with torch.no_grad():
        for arguments in ((3,), (2, 1), (3, 2, 1), (3, 2, 1, 2), (3, 2, 1, 1, True)):
            assert torch.equal(max_pool(dims, x, *arguments), TORCHS[dims](x, *arguments))
        with pytest.raises(RuntimeError, match="too small"):
            max_pool(dims, x, 10)


def test_gradients_and_layouts_are_torchs() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    (ours,) = torch.autograd.grad(max_pool(2, x, 2).sum(), x)
    (expected,) = torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)
    assert torch.equal(ours, expected)
    with torch.no_grad():
        last = x.contiguous(memory_format=torch.channels_last)
        assert max_pool(2, last, 2).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(max_pool(2, last, 2), F.max_pool2d(x, 2))
        assert max_pool(2, x.bfloat16(), 2).dtype == torch.bfloat16
        with Operations() as seen:
            max_pool(2, x, 2)
    assert seen.names == ["max_pool2d_with_indices"], "an operation counter knows it"


def _functional(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool2d(m.act(m.conv(x)), 3, 2, padding=1)
    return m.head(F.max_pool2d(F.max_pool2d(y, 2, 1, 1, 1, False, False), kernel_size=2, ceil_mode=True))


def _modules(m: Any, x: Tensor) -> Tensor:
    return m.head(m.second(m.pool(m.act(m.conv(x)))))


@pytest.mark.parametrize("forward", [_functional, _modules])
@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_in_a_network(forward: Any, execution: str) -> None:
    """The ANN's answers, in counts bit for bit; and a hook sees, once, what its pool gave."""
    modules = {"conv": nn.Conv2d(3, 4, 3), "act": QCFS(4), "head": nn.Conv2d(4, 2, 1)}
    pools = {"pool": nn.MaxPool2d(3, 2, padding=1), "second": nn.MaxPool2d(2, ceil_mode=True)}
    ann = Net(forward, **modules, **(pools if forward is _modules else {})).eval()
    x = torch.randn(5, 3, 11, 13)
    snn = convert(ann, execution=execution)
    tolerance = {} if execution == "spikes" else {"rtol": 0, "atol": 0}
    seen: list[Tensor] = []
    with torch.no_grad():
        expected = ann(x)
        torch.testing.assert_close(snn(x), expected, **tolerance)
        if forward is _modules:
            snn.get_submodule("pool").register_forward_hook(lambda _, args, output: seen.append(output))
            torch.testing.assert_close(snn(x), expected, **tolerance)
            steps = 4 if execution == "spikes" else 1
            assert [output.shape for output in seen] == [(steps * 5, 4, 5, 6)]
