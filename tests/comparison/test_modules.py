"""Modules in the place of functions: the same outputs, for converters that know modules alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext.comparison.modules import in_modules
from pascal_ext.errors import TracingError


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.max_pool2d = nn.Conv2d(2, 4, 3)  # a name that a module for a pool could be given

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.max_pool2d(x))
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        x = torch.max_pool2d(x, 2, 1, 0, 2)
        x = F.avg_pool2d(x, 3, 1, 1, False, False)
        x = F.avg_pool2d(torch.relu(x), kernel_size=2, divisor_override=3)
        x = F.dropout(F.dropout2d(F.adaptive_avg_pool2d(x, (2, 1)), training=self.training), 0.3, self.training)
        return x.flatten(1)


def test_outputs_are_the_same() -> None:
    model, x = Functions(), torch.randn(3, 2, 17, 16)
    found = in_modules(model, x)
    assert model.training
    assert torch.equal(found(x), model.eval()(x))
    kinds = [type(module) for module in found.modules()]
    counted = {kind: kinds.count(kind) for kind in (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)}
    assert counted == {nn.ReLU: 2, nn.MaxPool2d: 2, nn.AvgPool2d: 2, nn.AdaptiveAvgPool2d: 1}
    left = [node.target for node in found.graph.nodes if node.op == "call_function"]
    assert not any("pool" in str(target) or "relu" in str(target) for target in left)
    assert found.state_dict().keys() == model.state_dict().keys()


def test_positions_of_maxima_are_given_too() -> None:
    class Unpool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values, positions = F.max_pool2d(x, 2, return_indices=True)
            return F.max_unpool2d(values, positions, 2)

    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(in_modules(Unpool(), x)(x), Unpool()(x))


def test_what_cannot_be_traced_is_told() -> None:
    class Endless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.abs().max() > 1:
                x = x / 2
            return x

    with pytest.raises(TracingError, match="Endless"):
        in_modules(Endless(), torch.ones(1, 2) * 3)
