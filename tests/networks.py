"""A zoo of small networks, one for each thing that a model may do, and what it takes to compare two networks."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pascal_ext import calibrate, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.network import SpikingNetwork

BATCH = 3
TOLERANCE = 1e-9
LEVELS = (1, 2, 3, 4, 8)  # 3 divides neither 4 nor 8


class Net(nn.Module):
    """A network whose ``forward`` is a function of the module and its input."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Pair(Net):
    """The same with two inputs."""

    def forward(self, x: Any, y: Any) -> Any:
        return self.function(self, x, y)


@dataclass(frozen=True)
class Case:
    """A network and the shapes of its inputs without the batch, tuples in any nesting of lists and dicts."""

    network: nn.Module
    inputs: list[Any]

    def build(self) -> nn.Module:
        """A fresh copy in float64 whose layers are alive."""
        return alive(copy.deepcopy(self.network).double())

    def data(self, *leading: int) -> list[Any]:
        """Random inputs [*leading, N, ...]."""
        shapes = pytree.tree_map(
            lambda shape: torch.randn(*leading, BATCH, *shape, dtype=torch.float64),
            self.inputs,
            is_leaf=lambda node: isinstance(node, tuple),
        )
        return list(shapes)


def alive(model: nn.Module) -> nn.Module:
    """Random weights, biases and statistics, in evaluation mode; He initialisation keeps the signal up."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def quantised(model: nn.Module, data: list[Any], kind: str = "scalar") -> nn.Module:
    """The QCFS network of ``model`` with random levels, and thresholds at random around what the data says.

    Args:
        kind: of the thresholds: ``"scalar"``, ``"per-channel"``, or ``"negative"`` (per channel and of random sign).
    """
    qcfs = replace_activations(model)
    calibrate(qcfs, [(tuple(data),)], "max", per_channel=kind != "scalar", progress=False)
    for layer in qcfs_layers(qcfs).values():
        layer.levels = random.choice(LEVELS)
        layer.threshold.data *= torch.empty_like(layer.threshold).uniform_(0.5, 1.1)
        if kind == "negative":
            layer.threshold.data *= torch.randint_like(layer.threshold, 2) * 2 - 1
    return qcfs


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def assert_close(found: Any, expected: Any) -> None:
    """Equal structure, and equal values to ``TOLERANCE``."""
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def assert_same_function(qcfs: nn.Module, snn: SpikingNetwork, case: Case) -> None:
    """``snn`` computes what ``qcfs`` does: both executions, both step modes, inputs of one and of several steps."""
    for execution, windows in (("spikes", (3, 16)), ("counts", (3,))):  # fewer and more steps than any layer has
        snn.execution = execution
        snn.step_mode = "s"
        data = case.data()
        assert_close(snn(*data), qcfs(*data))
        snn.step_mode = "m"
        for steps in windows:
            sequence = case.data(steps)
            mean = pytree.tree_map(lambda x: x.mean(0), sequence)
            assert_close(pytree.tree_map(lambda x: x.mean(0), snn(*sequence)), qcfs(*mean))
    snn.execution, snn.step_mode = "spikes", "s"


def net(function: Callable[..., Any], *shape: int, **layers: Any) -> Case:
    """A case of one input; its shape is (3, 6, 6) where none is given."""
    return Case(Net(function, **layers), [shape or (3, 6, 6)])


def _conv(inputs: int = 3, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def _asserting(m: Any, x: Tensor) -> Tensor:
    torch._assert(x.ndim == 4, "expected images")
    return relu(m.a(x)) + relu(m.b(x))


def _branches() -> dict[str, nn.Module]:
    """Three convolutions; with an activation after each, they have different timesteps and thresholds."""
    return {"a": _conv(), "b": _conv(), "c": _conv(), "end": _conv(4, 2)}


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


relu = F.relu


def _relu_then_sum(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = m.relu(y)  # in place: y is z from here on
    return m.end(y + z) - y[:, 1:3]


def _inplace_add(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = relu(y)
    y += z
    y *= 0.5
    y -= m.b(x)
    y /= 3
    return m.end(relu(y)) + y[:, :2]


def _inplace_methods(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.mul_(2).relu_()
    z = m.b(x)
    z.add_(y).clamp_(0)
    return m.end(y - z)


def _functional_inplace(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    relu(y, True)
    z = m.b(x)
    F.relu6(input=z, inplace=True)
    v = m.c(x)
    torch.relu_(v)
    return m.end(y + z + v)


def _dropout_inplace(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    F.dropout(y, 0.5, m.training, True)
    z = relu(y)
    m.drop(z)
    return m.end(y + z)


def _dense(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    y = torch.cat([y, relu(m.b(x))], 1)
    y = torch.cat([y, relu(m.c(x))], dim=1)
    return m.norm(y)


def _pool_after_concat(m: Any, x: Tensor) -> Tensor:
    return m.wide(F.max_pool2d(torch.cat((relu(m.a(x)), relu(m.b(x)), m.c(x)), 1), 2))


def _pool_across_concatenated(m: Any, x: Tensor) -> Tensor:
    """A maximum across what were channels of different thresholds."""
    y = torch.cat([relu(m.a(x)), relu(m.b(x)), relu(m.c(x))], 1)
    return F.max_pool2d(y.flatten(2).unsqueeze(1), (4, 3))


def _shared_batch_size(m: Any, x: Tensor) -> Tensor:
    n = x.size(0)
    y = relu(m.a(x))
    y = y.view(n, 2, 2, 6, 6).transpose(1, 2).reshape(n, 4, 6, 6)
    return m.head(relu(m.b(x) + y).view(x.shape[0], -1))


def _shuffle(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    n, c, h, w = y.size()
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    left, right = y.chunk(2, dim=1)
    return torch.cat((left, relu(m.right(right))), dim=1)


def _option_a(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3), "constant", 0)
    return m.wide(relu(m.down(y) + shortcut))


def _zeros_shortcut(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    zeros = y.new_zeros(x.size(0), 2, 6, 6)
    return m.wide(relu(m.widen(y) + torch.cat([y, zeros, torch.zeros_like(y)[:, :2]], 1)))


def _class_token(m: Any, x: Tensor) -> Tensor:
    y = relu(m.embed(x.flatten(2).transpose(1, 2)))
    token = m.token.expand(x.shape[0], -1, -1)
    y = torch.cat([token, y], dim=1) + m.position
    return m.head(relu(m.mix(y))[:, 0])


def _many_outputs(m: Any, x: Tensor) -> Any:
    y = relu(m.a(x))
    return {"logits": m.end(y), "features": (y, [x, y.mean((2, 3))])}


def _unused_output(m: Any, x: Tensor) -> Any:
    y = relu(m.a(x))
    return y, y.chunk(2, 1)


def _nested_inputs(m: Any, batch: Any) -> Tensor:
    (left, right) = batch["pair"]
    return m.end(relu(m.a(left)) + relu(m.b(right)) + relu(m.c(batch["x"])))


class _Block(nn.Module):
    """Two call sites in a module of its own, which is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(4, 4)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(self.act(x))) + x)


_flat = {"a": _conv(), "head": nn.Linear(4 * 6 * 6, 5)}

EXACT: dict[str, Case] = {
    # activations
    "module": net(lambda m, x: m.end(m.relu(m.a(x))), a=_conv(), relu=nn.ReLU(), end=_conv(4, 2)),
    "function": net(lambda m, x: m.end(torch.relu(relu(m.a(x)) - 0.2)), a=_conv(), end=_conv(4, 2)),
    "method": net(lambda m, x: m.end((m.a(x).relu() - 0.2).clamp(min=0)), a=_conv(), end=_conv(4, 2)),
    "bounded": net(
        lambda m, x: m.end(F.relu6(m.six(m.a(x)) - 0.1) + F.hardtanh(x.sum(1, keepdim=True), 0.0, 2.0)),
        a=_conv(),
        six=nn.ReLU6(),
        end=_conv(4, 2),
    ),
    "clamp": net(lambda m, x: m.end(torch.clamp(m.a(x), 0, 3).clamp_min(0)), a=_conv(), end=_conv(4, 2)),
    "one module, several sites": net(
        lambda m, x: m.end(m.relu(m.b(m.relu(m.a(x)))) + m.relu(m.c(x))),
        relu=nn.ReLU(),
        **{**_branches(), "b": _conv(4)},
    ),
    "one block, twice": net(lambda m, x: m.end(m.block(m.block(m.a(x)))), a=_conv(), block=_Block(), end=_conv(4, 2)),
    "shared layers": net(
        lambda m, x: m.end(relu(m.bn(m.conv(relu(m.bn(m.conv(relu(m.a(x)))))))) + m.conv(m.a(x))),
        a=_conv(),
        conv=_conv(4, 4),
        bn=nn.BatchNorm2d(4),
        end=_conv(4, 2),
    ),
    # in place
    "in place, read later": net(_relu_then_sum, conv=_conv(), relu=nn.ReLU(inplace=True), end=_conv(4, 2)),
    "in-place operators": net(_inplace_add, **_branches()),
    "assertions": net(_asserting, **_branches()),
    "in-place methods": net(_inplace_methods, **_branches()),
    "in-place functions": net(_functional_inplace, **_branches()),
    "in-place dropout": net(_dropout_inplace, drop=nn.Dropout(0.5, inplace=True), **_branches()),
    "input changed in place": net(lambda m, x: m.end(relu(m.a(x.mul_(2)))) + x[:, :2], a=_conv(), end=_conv(4, 2)),
    # layers with weights
    "conv1d": net(lambda m, x: m.b(relu(m.a(x))), 3, 9, a=nn.Conv1d(3, 6, 3), b=nn.Conv1d(6, 4, 3, groups=2)),
    "conv3d": net(lambda m, x: m.b(relu(m.a(x))), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 3), b=nn.Conv3d(4, 2, 2)),
    "grouped": net(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))), a=_conv(3, 6), b=_conv(6, 12, groups=3), c=_conv(12, 4, groups=4)
    ),
    "dilated": net(lambda m, x: m.b(relu(m.a(x))), a=_conv(), b=_conv(4, 4, dilation=2, stride=2, bias=False)),
    "reflected": net(lambda m, x: m.b(relu(m.a(x))), a=_conv(), b=_conv(4, 4, padding_mode="reflect")),
    "transposed": net(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        a=_conv(3, 6),
        b=nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, output_padding=1),
        c=nn.ConvTranspose2d(4, 8, 2, groups=4),
    ),
    "transposed 1d": net(
        lambda m, x: m.b(relu(m.a(x))), 3, 9, a=nn.ConvTranspose1d(3, 4, 3), b=nn.ConvTranspose1d(4, 2, 2)
    ),
    "transposed 3d": net(
        lambda m, x: m.b(relu(m.a(x))), 2, 3, 3, 3, a=nn.Conv3d(2, 4, 2), b=nn.ConvTranspose3d(4, 2, 2, groups=2)
    ),
    "linear": net(lambda m, x: m.b(relu(m.a(x))), 7, a=nn.Linear(7, 9), b=nn.Linear(9, 4)),
    "linear on tokens": net(lambda m, x: m.b(relu(m.a(x))).mean(1), 5, 7, a=nn.Linear(7, 5), b=nn.Linear(5, 4)),
    "functional layers": net(
        lambda m, x: F.linear(relu(F.conv2d(x, m.w, m.v, padding=1)), m.u).flatten(1),
        w=_parameter(4, 3, 3, 3),
        v=_parameter(4),
        u=_parameter(5, 6),
    ),
    "weight norm": net(lambda m, x: m.b(relu(m.a(x))), a=_conv(), b=nn.utils.parametrizations.weight_norm(_conv(4, 2))),
    # batch norm
    "norm after": net(lambda m, x: m.b(relu(m.bn(m.a(x)))), a=_conv(bias=False), bn=nn.BatchNorm2d(4), b=_conv(4, 2)),
    "norm before": net(
        lambda m, x: m.b(m.bn(relu(m.a(m.first(x))))),
        first=nn.BatchNorm2d(3),
        a=_conv(),
        bn=nn.BatchNorm2d(4),
        b=_conv(4),
    ),
    "norm alone": net(lambda m, x: m.bn(relu(m.bn(x))), bn=nn.BatchNorm2d(3)),
    "norm without parameters": net(lambda m, x: m.bn(relu(m.a(x))), a=_conv(), bn=nn.BatchNorm2d(4, affine=False)),
    "norm of features": net(lambda m, x: m.head(m.bn(relu(m.a(x)).flatten(1))), bn=nn.BatchNorm1d(4 * 6 * 6), **_flat),
    "norm of transposed": net(
        lambda m, x: relu(m.bn(m.a(relu(x)))), a=nn.ConvTranspose2d(3, 4, 2), bn=nn.BatchNorm2d(4)
    ),
    "functional norm": net(
        lambda m, x: m.b(F.batch_norm(relu(m.a(x)), m.mean, m.var)),
        a=_conv(),
        b=_conv(4, 2),
        mean=nn.Parameter(torch.randn(4), requires_grad=False),
        var=nn.Parameter(torch.rand(4) + 0.5, requires_grad=False),
    ),
    # pooling
    "average pools": net(
        lambda m, x: m.b(m.adaptive(m.pool(relu(m.a(x)))) + F.avg_pool2d(relu(m.a(x)), 3, 2)),
        a=_conv(),
        pool=nn.AvgPool2d(2, padding=1, ceil_mode=True, count_include_pad=False),
        adaptive=nn.AdaptiveAvgPool2d(2),
        b=_conv(4, 2),
    ),
    "average pools 1d": net(
        lambda m, x: m.p(F.adaptive_avg_pool1d(relu(m.a(x)), 4)), 3, 9, a=nn.Conv1d(3, 4, 2), p=nn.AvgPool1d(2)
    ),
    "average pools 3d": net(
        lambda m, x: F.adaptive_avg_pool3d(m.p(relu(m.a(x))), 1), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 1), p=nn.AvgPool3d(2)
    ),
    "average, then maximum": net(
        lambda m, x: m.b(F.max_pool2d(m.avgpad(relu(m.a(x))), 2)), a=_conv(), b=_conv(4, 2), avgpad=nn.AvgPool2d(2, 1)
    ),
    "mean of space": net(lambda m, x: m.b(relu(m.a(x)).mean([2, 3])), a=_conv(), b=nn.Linear(4, 5)),
    "mean of last": net(lambda m, x: m.b(relu(m.a(x)).mean(-1).mean(-1)), a=_conv(), b=nn.Linear(4, 5)),
    "sum of channels": net(lambda m, x: relu(relu(m.a(x)).sum(dim=1, keepdim=True) - 1), a=_conv()),
    "maximum of spikes": net(
        lambda m, x: m.b(m.pool(relu(m.a(x)))), a=_conv(), pool=nn.MaxPool2d(3, 2, 1), b=_conv(4, 2)
    ),
    "maximum of spikes, twice": net(
        lambda m, x: m.b(F.max_pool2d(F.max_pool2d(relu(m.a(x)), 2), 3, 2, 1, 1, True)), a=_conv(), b=_conv(4, 2)
    ),
    "maximum of currents": net(
        lambda m, x: relu(m.pool(m.b(relu(m.a(x))))), a=_conv(), pool=nn.MaxPool2d(2), b=_conv(4)
    ),
    "maximum of the input": net(lambda m, x: relu(m.a(F.max_pool2d(x, 2))), a=_conv()),
    "adaptive maximum": net(
        lambda m, x: m.b(F.adaptive_max_pool2d(relu(m.a(x)), 2)) + m.p(m.a(x))[:, :2],
        a=_conv(),
        b=_conv(4, 2),
        p=nn.AdaptiveMaxPool2d(2),
    ),
    "maximum 1d": net(
        lambda m, x: m.b(F.max_pool1d(relu(m.a(x)), 2)), 3, 9, a=nn.Conv1d(3, 4, 2), b=nn.Conv1d(4, 2, 2)
    ),
    "maximum 3d": net(lambda m, x: m.p(relu(m.a(x))), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 1), p=nn.MaxPool3d(2)),
    "maximum after padding": net(
        lambda m, x: m.b(F.max_pool2d(F.pad(m.pad(relu(m.a(x))), (1, 0)), 3, 2)),
        a=_conv(),
        pad=nn.ZeroPad2d(1),
        b=_conv(4, 2),
    ),
    "maximum after constant padding": net(
        lambda m, x: F.max_pool2d(m.pad(relu(m.a(x))), 2), a=_conv(), pad=nn.ConstantPad2d(1, -3.0)
    ),
    "maximum after addition": net(lambda m, x: F.max_pool2d(relu(m.a(x)) + relu(m.b(x)), 2), **_branches()),
    "maximum after subtraction": net(lambda m, x: F.max_pool2d(relu(m.a(x)) - relu(m.b(x)), 2), **_branches()),
    "maximum after a negative factor": net(lambda m, x: F.max_pool2d(relu(m.a(x)) * -2, 2), **_branches()),
    "maximum after a scale": net(
        lambda m, x: F.max_pool2d(m.scale * relu(m.a(x)), 2), a=_conv(), scale=_parameter(4, 1, 1)
    ),
    "maximum after norm": net(lambda m, x: F.max_pool2d(m.bn(relu(m.a(x))), 2), a=_conv(), bn=nn.BatchNorm2d(4)),
    "maximum after concatenation": net(_pool_after_concat, wide=_conv(12, 2), **_branches()),
    "maximum across concatenated": net(_pool_across_concatenated, **_branches()),
    "maximum across channels": net(lambda m, x: F.max_pool1d(relu(m.a(x)).flatten(2).transpose(1, 2), 2), a=_conv()),
    "maximum across channels, unbatched": net(lambda m, x: F.max_pool2d(relu(m.a(x)), 2), 3, 9, a=nn.Conv1d(3, 4, 2)),
    "maximum of features": net(
        lambda m, x: m.b(F.max_pool1d(relu(m.a(x)).flatten(1), 6, 5)), a=_conv(), b=nn.Linear(28, 3)
    ),
    "average of features": net(
        lambda m, x: m.b(F.avg_pool1d(relu(m.a(x)).flatten(1), 6, 5)), a=_conv(), b=nn.Linear(28, 3)
    ),
    "maximum of interpolated": net(
        lambda m, x: F.max_pool2d(F.interpolate(relu(m.a(x)), scale_factor=2.0, mode="bilinear"), 3), a=_conv()
    ),
    "maximum of two": net(
        lambda m, x: m.end(torch.maximum(relu(m.a(x)), m.b(x)).amax(dim=(2, 3), keepdim=True)), **_branches()
    ),
    "maximum, then concatenation": net(
        lambda m, x: m.wide(torch.cat([relu(m.a(x)), m.b(x).amax(1, keepdim=True)], 1)), wide=_conv(5, 2), **_branches()
    ),
    # branches
    "sum of branches": net(lambda m, x: m.end(relu(relu(m.a(x)) + relu(m.b(x)) - relu(m.c(x)))), **_branches()),
    "sum with the input": net(
        lambda m, x: m.end(relu(m.b(relu(x + m.b(relu(m.a(x)))) + x)) + relu(m.a(x + relu(m.b(x))))),
        a=_conv(3, 3),
        b=_conv(3, 3),
        end=_conv(3, 2),
    ),
    "torch.add": net(
        lambda m, x: m.end(torch.add(relu(m.a(x)), relu(m.b(x)), alpha=-2).sub(m.c(x), alpha=0.5)), **_branches()
    ),
    "twice the same": net(
        lambda m, x: (lambda y: m.end(y + y - torch.cat([y, y], 1)[:, 2:6]))(relu(m.a(x))), **_branches()
    ),
    "concatenation": net(_dense, a=_conv(), b=_conv(), c=_conv(), norm=nn.BatchNorm2d(12)),
    "concatenation of space": net(
        lambda m, x: m.end(torch.cat([relu(m.a(x)), relu(m.b(x)), x[:, :1].expand(-1, 4, -1, -1)], -1)), **_branches()
    ),
    "concatenation of chunks": net(lambda m, x: m.end(torch.cat(relu(m.a(x)).chunk(2, 1), 1)), **_branches()),
    "concatenation, axis": net(
        lambda m, x: m.wide(torch.cat([relu(m.a(x)), m.b(x)], axis=1)), wide=_conv(8), **_branches()
    ),
    "stack": net(
        lambda m, x: m.end(torch.stack([relu(m.a(x)), relu(m.b(x)), m.c(x)], dim=2).mean(axis=2)), **_branches()
    ),
    "stack, then maximum": net(lambda m, x: torch.stack([relu(m.a(x)), relu(m.b(x))], 1).amax(1), **_branches()),
    # shapes
    "flatten": net(lambda m, x: m.head(torch.flatten(relu(m.a(x)), 1)), **_flat),
    "flatten module": net(
        lambda m, x: m.head(m.flat(m.pool(relu(m.a(x))))), pool=nn.MaxPool2d(1), flat=nn.Flatten(), **_flat
    ),
    "flatten, then add": net(lambda m, x: relu(m.a(x)).flatten(1) + relu(m.a(x)).flatten(start_dim=1), **_flat),
    "flatten, then output": net(lambda m, x: relu(m.a(x)).flatten(1), **_flat),
    "flatten, then activation": net(lambda m, x: m.head(relu(relu(m.a(x)).flatten(1) - 0.2)), **_flat),
    "flatten part": net(lambda m, x: relu(m.a(x)).flatten(1, 2), **_flat),
    "view": net(lambda m, x: m.head(relu(m.a(x)).view(x.size(0), -1)), **_flat),
    "reshape": net(lambda m, x: m.head(relu(m.a(x)).reshape(-1, 4 * 6 * 6)), **_flat),
    "batch size of the input": net(_shared_batch_size, a=_conv(), b=_conv(), head=nn.Linear(144, 5)),
    "channel shuffle": net(_shuffle, a=_conv(), right=_conv(2, 2)),
    "channel shuffle module": net(
        lambda m, x: m.end(m.shuffle(relu(m.a(x)))), shuffle=nn.ChannelShuffle(2), **_branches()
    ),
    "permute": net(
        lambda m, x: m.b(relu(m.a(x)).permute(0, 2, 3, 1)).permute((0, 3, 1, 2)), a=_conv(), b=nn.Linear(4, 5)
    ),
    "transpose": net(lambda m, x: m.b(relu(m.a(x)).flatten(2).transpose(-1, -2)), a=_conv(), b=nn.Linear(4, 5)),
    "squeeze": net(
        lambda m, x: m.b(m.pool(relu(m.a(x))).squeeze(-1).squeeze(-1)).unsqueeze(1),
        a=_conv(),
        pool=nn.AdaptiveAvgPool2d(1),
        b=nn.Linear(4, 5),
    ),
    "chunk and split": net(
        lambda m, x: m.end(torch.cat([relu(m.a(x)).split([1, 3], 1)[1], m.b(x).chunk(2, 1)[0][:, :1]], 1)),
        **_branches(),
    ),
    "part of the chunks": net(
        lambda m, x: torch.cat(torch.chunk(relu(m.a(x)), 4, 1)[1:3], 1) + relu(m.b(x)).split(2, 1)[1], **_branches()
    ),
    "unbind and select": net(
        lambda m, x: relu(m.a(x)).unbind(1)[2] + relu(m.b(x)).select(1, 3) + m.c(x).narrow(1, 1, 1)[:, 0], **_branches()
    ),
    "indexing": net(
        lambda m, x: (
            m.end(relu(m.a(x))[:, [3, 0, 1, 1], 1:-1, ..., ::2]) + relu(m.b(x))[..., :2, 1:5, 2:5].sum(1, True)
        ),
        **_branches(),
    ),
    "new axis": net(lambda m, x: relu(m.a(x))[:, None, :, 0] * 2, **_branches()),
    "flip and roll": net(lambda m, x: relu(m.a(x)).flip(-1).roll(1, 2).flip([2, 3]), **_branches()),
    "padding": net(
        lambda m, x: (
            m.end(F.pad(relu(m.a(x)), (1, 1, 2, 0), mode="reflect")) - F.pad(m.b(x)[:, :2], (1, 1, 1, 1), value=2.0)
        ),
        **_branches(),
    ),
    "padding of channels": net(_option_a, a=_conv(), down=_conv(4, 8, stride=2), wide=_conv(8, 2)),
    "padding of channels, module": net(
        lambda m, x: m.b(m.pad(relu(m.a(x)))), a=_conv(), pad=nn.ZeroPad3d((0, 0, 0, 0, 1, 2)), b=_conv(7, 2)
    ),
    "padding of channels with zeros": net(_zeros_shortcut, a=_conv(), widen=_conv(4, 8), wide=_conv(8, 2)),
    "padding of features": net(lambda m, x: F.pad(relu(m.a(x)), (1, 2)), 7, a=nn.Linear(7, 5)),
    "interpolation": net(
        lambda m, x: m.end(
            F.interpolate(relu(m.a(x)), scale_factor=2) + F.interpolate(m.b(x), size=(12, 12), mode="bilinear")
        ),
        **_branches(),
    ),
    "upsampling": net(
        lambda m, x: m.end(m.up(relu(m.a(x)))), up=nn.Upsample(scale_factor=2, mode="bilinear"), **_branches()
    ),
    "pixel shuffle": net(lambda m, x: F.pixel_unshuffle(relu(F.pixel_shuffle(relu(m.a(x)), 2)), 3), **_branches()),
    "unfold": net(lambda m, x: m.b(F.unfold(relu(m.a(x)), 3).transpose(1, 2)), a=_conv(), b=nn.Linear(36, 5)),
    "windows": net(lambda m, x: relu(m.a(x)).unfold(3, 3, 1).mean(-1), a=_conv()),
    "repeat": net(lambda m, x: m.end(relu(m.a(x)).repeat(1, 1, 2, 1)), **_branches()),
    # arithmetic and parameters
    "arithmetic": net(lambda m, x: m.end(relu(1 - relu(m.a(x)) / 2) * -3 + 0.5 - (-relu(m.b(x)))), **_branches()),
    "arithmetic by name": net(
        lambda m, x: m.end(
            torch.rsub(torch.mul(relu(m.a(x)), 0.7), 1).div(2).neg().add(torch.div(input=m.b(x), other=3))
        ),
        **_branches(),
    ),
    "division by the batch size": net(
        lambda m, x: m.end((lambda y: y / x.shape[0] + y * y.size(-4))(relu(m.a(x)))), **_branches()
    ),
    "division by a size": net(lambda m, x: relu(m.a(x)).sum(-1) / x.shape[-1], **_branches()),
    "layer scale": net(lambda m, x: x.mean(1, True) + m.gamma * relu(m.a(x)), gamma=_parameter(4, 1, 1), a=_conv()),
    "position": net(
        lambda m, x: m.head(relu(m.embed(x.flatten(2).transpose(1, 2)) + m.position)).mean(1),
        embed=nn.Linear(3, 8),
        position=_parameter(1, 36, 8),
        head=nn.Linear(8, 5),
    ),
    "class token": net(
        _class_token,
        embed=nn.Linear(3, 8),
        token=_parameter(1, 1, 8),
        position=_parameter(1, 37, 8),
        mix=nn.Linear(8, 8),
        head=nn.Linear(8, 5),
    ),
    "functional dropout": net(
        lambda m, x: m.end(F.dropout(relu(m.a(F.dropout2d(x, 0.3, m.training))), 0.5, m.training)), **_branches()
    ),
    "dropout and identity": net(
        lambda m, x: m.end(m.drop(m.same(relu(m.a(x))))), drop=nn.Dropout2d(), same=nn.Identity(), **_branches()
    ),
    # inputs and outputs
    "two inputs": Case(Pair(lambda m, x, y: m.end(relu(m.a(x)) + relu(m.b(y))), **_branches()), [(3, 6, 6), (3, 6, 6)]),
    "nested inputs": Case(Net(_nested_inputs, **_branches()), [{"x": (3, 6, 6), "pair": [(3, 6, 6), (3, 6, 6)]}]),
    "many outputs": net(_many_outputs, **_branches()),
    "a sequence as output": net(_unused_output, **_branches()),
}


def _squeeze_excitation(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    gate = torch.sigmoid(m.up(relu(m.down(F.adaptive_avg_pool2d(y, 1)))))
    return m.end(y * gate)


def _attention(m: Any, x: Tensor) -> Tensor:
    y = x.flatten(2).transpose(1, 2)
    y = m.first(y + m.attention(y, y, y, need_weights=False)[0])
    return m.second(y + m.narrow(relu(m.wide(y)))).mean(1)


def _sequence_first(m: Any, x: Tensor) -> Tensor:
    y = relu(m.embed(x.flatten(2).permute(2, 0, 1)))
    y = y + m.attention(y, y, y)[0]
    return m.head(relu(m.wide(y)).permute(1, 0, 2).mean(1))


def _dot_product(m: Any, x: Tensor) -> Tensor:
    y = relu(m.embed(x.flatten(2).transpose(-2, -1)))
    n, length, width = y.shape
    q, k, v = m.qkv(y).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q @ k.transpose(-2, -1) / width**0.5).softmax(dim=-1)
    return relu((weights @ v).transpose(1, 2).reshape(n, length, width)).mean(1)


def _windows(m: Any, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    y = relu(m.a(x)).view(n, 4, h // 3, 3, w // 3, 3).permute(0, 2, 4, 3, 5, 1).contiguous().view(-1, 9, 4)
    y = relu(m.mix(y)) + y.mean(1, keepdim=True)
    return y.view(n, 2, 2, 9, 4).mean((1, 2, 3))


def _recurrent(m: Any, x: Tensor) -> Tensor:
    output, (state, _) = m.lstm(relu(m.embed(x.flatten(2))))
    return m.head(relu(output[:, -1])) + state[-1][:, :5]


def _moments(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x)).flatten(2)
    best, _ = y.max(dim=2)
    return m.head(best + torch.max(y, y * 2 - 0.5).std(2))


REFUSED: dict[str, Case] = {
    # not linear
    "sigmoid": net(lambda m, x: m.end(torch.sigmoid(relu(m.a(x)))), **_branches()),
    "silu": net(lambda m, x: m.end(relu(m.act(m.a(x)))), act=nn.SiLU(inplace=True), **_branches()),
    "softmax": net(lambda m, x: m.soft(m.end(relu(m.a(x))).mean((2, 3))), soft=nn.Softmax(1), **_branches()),
    "product": net(lambda m, x: m.end(relu(m.a(x)) * relu(m.b(x))), **_branches()),
    "product in place": net(lambda m, x: m.end(relu(m.a(x)).mul_(m.b(x))), **_branches()),
    "square": net(lambda m, x: m.end((lambda y: y * y)(relu(m.a(x)))), **_branches()),
    "ratio to itself": net(lambda m, x: (lambda y: y / y)(relu(m.a(x)) + 1), **_branches()),
    "power": net(lambda m, x: m.end(relu(m.a(x)) ** 2), **_branches()),
    "power in place": net(lambda m, x: (lambda y: y.pow_(2) + y)(relu(m.a(x))), **_branches()),
    "quotient": net(lambda m, x: m.end(m.b(x) / (1 + relu(m.a(x)))), **_branches()),
    "reciprocal": net(lambda m, x: m.end(2 / (1 + relu(m.a(x)))), **_branches()),
    "floor division": net(lambda m, x: torch.div(relu(m.a(x)), 0.3, rounding_mode="floor"), **_branches()),
    "absolute value": net(lambda m, x: m.end(torch.abs(m.a(x)) + relu(m.b(x))), **_branches()),
    "leaky relu": net(lambda m, x: m.end(F.leaky_relu(m.a(x), 0.1) + relu(m.b(x))), **_branches()),
    "weights from the input": net(lambda m, x: F.linear(m.w, relu(m.a(x))), 6, a=nn.Linear(6, 4), w=_parameter(2, 4)),
    "layer norm": net(lambda m, x: m.norm(relu(m.a(x))), a=_conv(), norm=nn.LayerNorm([4, 6, 6])),
    "group norm": net(lambda m, x: relu(m.norm(m.a(x))), a=_conv(), norm=nn.GroupNorm(2, 4)),
    "norm of the batch": net(
        lambda m, x: relu(m.norm(relu(m.a(x)))), a=_conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "functional norm of the batch": net(lambda m, x: F.batch_norm(relu(m.a(x)), None, None, training=True), a=_conv()),
    "maximum with indices": net(
        lambda m, x: m.end(m.pool(relu(m.a(x)))[0]), pool=nn.MaxPool2d(2, return_indices=True), **_branches()
    ),
    "maximum with indices, function": net(
        lambda m, x: m.end(F.max_pool2d(relu(m.a(x)), 2, return_indices=True)[0]), **_branches()
    ),
    "clamped on both sides": net(lambda m, x: m.end(relu(m.a(x)).clamp(0.1, 0.5)), **_branches()),
    # across the samples
    "mean of the batch": net(lambda m, x: relu(m.a(x)).mean(0), **_branches()),
    "mean of everything": net(lambda m, x: relu(m.a(x)) - relu(m.b(x)).mean(), **_branches()),
    "mean over a negative dimension": net(lambda m, x: relu(m.a(x)).mean(-4) + m.b(x), **_branches()),
    "mean of no dimension": net(lambda m, x: relu(m.a(x)).sum(dim=[]), **_branches()),
    "first sample": net(lambda m, x: relu(m.a(x))[0], **_branches()),
    "some samples": net(lambda m, x: relu(m.a(x))[1:], **_branches()),
    "samples by a list": net(lambda m, x: relu(m.a(x))[[2, 0]], **_branches()),
    "new first axis": net(lambda m, x: relu(m.a(x))[None], **_branches()),
    "new first axis, negative": net(lambda m, x: relu(m.a(x)).unsqueeze(-5), **_branches()),
    "ellipsis reaching the batch": net(lambda m, x: relu(m.a(x))[..., 0, :, :, :], **_branches()),
    "index lists apart": net(lambda m, x: relu(m.a(x))[:, [0, 1, 2], :, [1, 3, 0]], **_branches()),
    "flatten everything": net(lambda m, x: torch.flatten(relu(m.a(x))), **_branches()),
    "concatenation of samples": net(lambda m, x: torch.cat([relu(m.a(x)), relu(m.b(x))]), **_branches()),
    "concatenation, negative": net(lambda m, x: torch.cat([relu(m.a(x)), relu(m.b(x))], -4), **_branches()),
    "stack of samples": net(lambda m, x: torch.stack([relu(m.a(x)), relu(m.b(x))]).amax(0), **_branches()),
    "permuted batch": net(lambda m, x: relu(m.a(x)).permute(1, 0, 2, 3), **_branches()),
    "transposed batch": net(lambda m, x: relu(relu(m.a(x)).transpose(0, 1) - 0.3), **_branches()),
    "transposed batch, negative": net(lambda m, x: relu(m.a(x)).transpose(-4, 1) * 2, **_branches()),
    "flipped batch": net(lambda m, x: m.end(relu(m.a(x)).flip(0)), **_branches()),
    "rolled": net(lambda m, x: m.end(relu(m.a(x)).roll(1)), **_branches()),
    "split batch": net(lambda m, x: relu(m.a(x)).chunk(3)[1], **_branches()),
    "windows of samples": net(lambda m, x: relu(m.a(x)).unfold(0, 2, 1).mean(-1), **_branches()),
    "merged batch": net(lambda m, x: relu(m.a(x)).view(x.size(0) * 4, -1), **_branches()),
    "literal batch": net(lambda m, x: relu(m.a(x)).reshape(BATCH, 4, 36), **_branches()),
    "repeated batch": net(lambda m, x: relu(m.a(x)).repeat(2, 1, 1, 1), **_branches()),
    "padded batch": net(lambda m, x: F.pad(relu(m.a(x)), (0, 0, 0, 0, 0, 0, 1, 0)), **_branches()),
    "broadcast batch": net(lambda m, x: relu(m.a(x)).mean((1, 2, 3)) + m.b(x), 3, 6, BATCH, **_branches()),
    "a parameter for each sample": net(
        lambda m, x: relu(m.a(x)) + m.row, row=_parameter(BATCH, 4, 6, 6), **_branches()
    ),
    "a parameter that adds a dimension": net(
        lambda m, x: relu(m.a(x)) * m.row, row=_parameter(2, 1, 4, 6, 6), **_branches()
    ),
}
"""Networks with something that has no spiking counterpart."""

REFUSED_AT_RUN_TIME: dict[str, Case] = {
    "regrouped": net(lambda m, x: relu(m.a(x)).view(-1, 36), **_branches()),
    "sample of the input": net(lambda m, x: relu(m.a(x[0])), **_branches()),
    "negative dimension of the input": net(lambda m, x: relu(m.a(x) + x.mean(-4, keepdim=True)[:, :1]), **_branches()),
}
"""The same, where only the shapes of the data show it."""

ANALOG: dict[str, Case] = REFUSED | {
    "squeeze and excitation": net(_squeeze_excitation, down=_conv(4, 2), up=_conv(2, 4), **_branches()),
    "attention": net(
        _attention,
        attention=nn.MultiheadAttention(3, 1, batch_first=True),
        first=nn.LayerNorm(3),
        second=nn.LayerNorm(3),
        wide=nn.Linear(3, 8),
        narrow=nn.Linear(8, 3),
    ),
    "sequence first": net(
        _sequence_first,
        embed=nn.Linear(3, 4),
        attention=nn.MultiheadAttention(4, 2),
        wide=nn.Linear(4, 8),
        head=nn.Linear(8, 5),
    ),
    "dot product": net(_dot_product, embed=nn.Linear(3, 8), qkv=nn.Linear(8, 24)),
    "windows": net(_windows, mix=nn.Linear(4, 4), **_branches()),
    "recurrent": net(_recurrent, embed=nn.Linear(36, 8), lstm=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 5)),
    "moments": net(_moments, head=nn.Linear(4, 5), **_branches()),
    "division by the batch size of a product": net(lambda m, x: relu(m.a(x)) * m.b(x) / x.size(0), **_branches()),
    "number of elements": net(lambda m, x: relu(m.a(x)) / x.numel() * 100, **_branches()),
}
