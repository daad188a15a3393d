"""The forms that converters ask for: modules in the place of functions give the same outputs, logits the same order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext.comparison.modules import drop_softmax, in_modules
from pascal_ext.errors import TracingError
from pascal_ext.graph.tracing import trace


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


@pytest.mark.parametrize(
    "last",
    [
        nn.Softmax(1),
        nn.LogSoftmax(-1),
        lambda x: F.softmax(x, dim=1),
        lambda x: F.log_softmax(x, 1),
        lambda x: torch.softmax(input=x, dim=1),
        lambda x: x.log_softmax(1),
    ],
)
def test_a_softmax_at_the_end_is_left_out(last: Any) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)
            self.last = last

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.fc2(F.softmax(self.fc1(x), 1)))

    model, x = Classifier(), torch.randn(5, 4)
    graph = trace(model)
    assert drop_softmax(graph)
    assert torch.equal(graph(x), model.fc2(F.softmax(model.fc1(x), 1)))
    assert not drop_softmax(graph)
    assert torch.equal(graph(x), model.fc2(F.softmax(model.fc1(x), 1)))


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
