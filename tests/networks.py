"""A zoo of small networks that convert exactly, one for each thing that a model may do."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases import Case, Net, Pair, branches, conv, net, parameter, relu


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


def _smallest(m: Any, x: Tensor) -> Tensor:
    y, _ = relu(m.a(x)).min(3)
    return y - relu(m.b(x)).amin((2, 3), keepdim=True).squeeze(3)


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


def _asserting(m: Any, x: Tensor) -> Tensor:
    torch._assert(x.ndim == 4, "expected images")
    return relu(m.a(x)) + relu(m.b(x))


def _many_outputs(m: Any, x: Tensor) -> Any:
    y = relu(m.a(x))
    return {"logits": m.end(y), "features": (y, [x, y.mean((2, 3))])}


class _Heads(NamedTuple):
    logits: Tensor
    features: Any


def _named_outputs(m: Any, x: Tensor) -> _Heads:
    y = relu(m.a(x))
    return _Heads(m.end(y), _Heads(y.mean((2, 3)), [x]))


def _lengths(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    return m.head(y.view(len(y), -1)) / len(y.shape) + len(x.size())


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
        self.conv = conv(4, 4)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(self.act(x))) + x)


_flat = {"a": conv(), "head": nn.Linear(4 * 6 * 6, 5)}

EXACT: dict[str, Case] = {
    # activations
    "module": net(lambda m, x: m.end(m.relu(m.a(x))), a=conv(), relu=nn.ReLU(), end=conv(4, 2)),
    "function": net(lambda m, x: m.end(torch.relu(relu(m.a(x)) - 0.2)), a=conv(), end=conv(4, 2)),
    "method": net(lambda m, x: m.end((m.a(x).relu() - 0.2).clamp(min=0)), a=conv(), end=conv(4, 2)),
    "bounded": net(
        lambda m, x: m.end(F.relu6(m.six(m.a(x)) - 0.1) + F.hardtanh(x.sum(1, keepdim=True), 0.0, 2.0)),
        a=conv(),
        six=nn.ReLU6(),
        end=conv(4, 2),
    ),
    "clamp": net(lambda m, x: m.end(torch.clamp(m.a(x), 0, 3).clamp_min(0)), a=conv(), end=conv(4, 2)),
    "one module, several sites": net(
        lambda m, x: m.end(m.relu(m.b(m.relu(m.a(x)))) + m.relu(m.c(x))),
        relu=nn.ReLU(),
        **{**branches(), "b": conv(4)},
    ),
    "one block, twice": net(lambda m, x: m.end(m.block(m.block(m.a(x)))), a=conv(), block=_Block(), end=conv(4, 2)),
    "shared layers": net(
        lambda m, x: m.end(relu(m.bn(m.conv(relu(m.bn(m.conv(relu(m.a(x)))))))) + m.conv(m.a(x))),
        a=conv(),
        conv=conv(4, 4),
        bn=nn.BatchNorm2d(4),
        end=conv(4, 2),
    ),
    # in place
    "in place, read later": net(_relu_then_sum, conv=conv(), relu=nn.ReLU(inplace=True), end=conv(4, 2)),
    "in-place operators": net(_inplace_add, **branches()),
    "in-place methods": net(_inplace_methods, **branches()),
    "in-place functions": net(_functional_inplace, **branches()),
    "in-place dropout": net(_dropout_inplace, drop=nn.Dropout(0.5, inplace=True), **branches()),
    "input changed in place": net(lambda m, x: m.end(relu(m.a(x.mul_(2)))) + x[:, :2], a=conv(), end=conv(4, 2)),
    # layers with weights
    "conv1d": net(lambda m, x: m.b(relu(m.a(x))), 3, 9, a=nn.Conv1d(3, 6, 3), b=nn.Conv1d(6, 4, 3, groups=2)),
    "conv3d": net(lambda m, x: m.b(relu(m.a(x))), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 3), b=nn.Conv3d(4, 2, 2)),
    "grouped": net(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))), a=conv(3, 6), b=conv(6, 12, groups=3), c=conv(12, 4, groups=4)
    ),
    "dilated": net(lambda m, x: m.b(relu(m.a(x))), a=conv(), b=conv(4, 4, dilation=2, stride=2, bias=False)),
    "reflected": net(lambda m, x: m.b(relu(m.a(x))), a=conv(), b=conv(4, 4, padding_mode="reflect")),
    "transposed": net(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        a=conv(3, 6),
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
    "product with a matrix": net(
        lambda m, x: relu(relu(m.a(x)) @ m.w) @ m.w.T, 7, a=nn.Linear(7, 5), w=parameter(5, 4)
    ),
    "product of tokens with a matrix": net(
        lambda m, x: torch.matmul(relu(torch.mm(x.mean(1), m.w.t())).unsqueeze(1) + relu(m.a(x)), m.v).mean(1),
        5,
        7,
        a=nn.Linear(7, 4),
        w=parameter(4, 7),
        v=parameter(4),
    ),
    "functional layers": net(
        lambda m, x: F.linear(relu(F.conv2d(x, m.w, m.v, padding=1)), m.u).flatten(1),
        w=parameter(4, 3, 3, 3),
        v=parameter(4),
        u=parameter(5, 6),
    ),
    "weight norm": net(lambda m, x: m.b(relu(m.a(x))), a=conv(), b=nn.utils.parametrizations.weight_norm(conv(4, 2))),
    # batch norm
    "norm after": net(lambda m, x: m.b(relu(m.bn(m.a(x)))), a=conv(bias=False), bn=nn.BatchNorm2d(4), b=conv(4, 2)),
    "norm before": net(
        lambda m, x: m.b(m.bn(relu(m.a(m.first(x))))),
        first=nn.BatchNorm2d(3),
        a=conv(),
        bn=nn.BatchNorm2d(4),
        b=conv(4),
    ),
    "norm alone": net(lambda m, x: m.bn(relu(m.bn(x))), bn=nn.BatchNorm2d(3)),
    "norm without parameters": net(lambda m, x: m.bn(relu(m.a(x))), a=conv(), bn=nn.BatchNorm2d(4, affine=False)),
    "norm of features": net(lambda m, x: m.head(m.bn(relu(m.a(x)).flatten(1))), bn=nn.BatchNorm1d(4 * 6 * 6), **_flat),
    "norm of transposed": net(
        lambda m, x: relu(m.bn(m.a(relu(x)))), a=nn.ConvTranspose2d(3, 4, 2), bn=nn.BatchNorm2d(4)
    ),
    "functional norm": net(
        lambda m, x: m.b(F.batch_norm(relu(m.a(x)), m.mean, m.var)),
        a=conv(),
        b=conv(4, 2),
        mean=nn.Parameter(torch.randn(4), requires_grad=False),
        var=nn.Parameter(torch.rand(4) + 0.5, requires_grad=False),
    ),
    # pooling
    "average pools": net(
        lambda m, x: m.b(m.adaptive(m.pool(relu(m.a(x)))) + F.avg_pool2d(relu(m.a(x)), 3, 2)),
        a=conv(),
        pool=nn.AvgPool2d(2, padding=1, ceil_mode=True, count_include_pad=False),
        adaptive=nn.AdaptiveAvgPool2d(2),
        b=conv(4, 2),
    ),
    "average pools 1d": net(
        lambda m, x: m.p(F.adaptive_avg_pool1d(relu(m.a(x)), 4)), 3, 9, a=nn.Conv1d(3, 4, 2), p=nn.AvgPool1d(2)
    ),
    "average pools 3d": net(
        lambda m, x: F.adaptive_avg_pool3d(m.p(relu(m.a(x))), 1), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 1), p=nn.AvgPool3d(2)
    ),
    "average, then maximum": net(
        lambda m, x: m.b(F.max_pool2d(m.avgpad(relu(m.a(x))), 2)), a=conv(), b=conv(4, 2), avgpad=nn.AvgPool2d(2, 1)
    ),
    "mean of space": net(lambda m, x: m.b(relu(m.a(x)).mean([2, 3])), a=conv(), b=nn.Linear(4, 5)),
    "mean of last": net(lambda m, x: m.b(relu(m.a(x)).mean(-1).mean(-1)), a=conv(), b=nn.Linear(4, 5)),
    "sum of channels": net(lambda m, x: relu(relu(m.a(x)).sum(dim=1, keepdim=True) - 1), a=conv()),
    "maximum of spikes": net(
        lambda m, x: m.b(m.pool(relu(m.a(x)))), a=conv(), pool=nn.MaxPool2d(3, 2, 1), b=conv(4, 2)
    ),
    "maximum of spikes, twice": net(
        lambda m, x: m.b(F.max_pool2d(F.max_pool2d(relu(m.a(x)), 2), 3, 2, 1, 1, True)), a=conv(), b=conv(4, 2)
    ),
    "maximum of currents": net(lambda m, x: relu(m.pool(m.b(relu(m.a(x))))), a=conv(), pool=nn.MaxPool2d(2), b=conv(4)),
    "maximum of the input": net(lambda m, x: relu(m.a(F.max_pool2d(x, 2))), a=conv()),
    "adaptive maximum": net(
        lambda m, x: m.b(F.adaptive_max_pool2d(relu(m.a(x)), 2)) + m.p(m.a(x))[:, :2],
        a=conv(),
        b=conv(4, 2),
        p=nn.AdaptiveMaxPool2d(2),
    ),
    "maximum 1d": net(
        lambda m, x: m.b(F.max_pool1d(relu(m.a(x)), 2)), 3, 9, a=nn.Conv1d(3, 4, 2), b=nn.Conv1d(4, 2, 2)
    ),
    "maximum 3d": net(lambda m, x: m.p(relu(m.a(x))), 2, 4, 4, 4, a=nn.Conv3d(2, 4, 1), p=nn.MaxPool3d(2)),
    "largest along a dimension": net(
        lambda m, x: relu(m.end(torch.max(relu(m.a(x)), 2, keepdim=True)[0])).max(dim=-1).values, **branches()
    ),
    "smallest along a dimension": net(_smallest, **branches()),
    "larger of two": net(
        lambda m, x: m.end(torch.max(relu(m.a(x)), m.b(x)) - relu(m.c(x)).max(m.w)), w=parameter(1), **branches()
    ),
    "smaller of two": net(lambda m, x: m.end(torch.minimum(relu(m.a(x)), relu(m.b(x))).min(m.c(x))), **branches()),
    "maximum after padding": net(
        lambda m, x: m.b(F.max_pool2d(F.pad(m.pad(relu(m.a(x))), (1, 0)), 3, 2)),
        a=conv(),
        pad=nn.ZeroPad2d(1),
        b=conv(4, 2),
    ),
    "maximum after constant padding": net(
        lambda m, x: F.max_pool2d(m.pad(relu(m.a(x))), 2), a=conv(), pad=nn.ConstantPad2d(1, -3.0)
    ),
    "maximum after addition": net(lambda m, x: F.max_pool2d(relu(m.a(x)) + relu(m.b(x)), 2), **branches()),
    "maximum after subtraction": net(lambda m, x: F.max_pool2d(relu(m.a(x)) - relu(m.b(x)), 2), **branches()),
    "maximum after a negative factor": net(lambda m, x: F.max_pool2d(relu(m.a(x)) * -2, 2), **branches()),
    "maximum after a scale": net(
        lambda m, x: F.max_pool2d(m.scale * relu(m.a(x)), 2), a=conv(), scale=parameter(4, 1, 1)
    ),
    "maximum after norm": net(lambda m, x: F.max_pool2d(m.bn(relu(m.a(x))), 2), a=conv(), bn=nn.BatchNorm2d(4)),
    "maximum after concatenation": net(_pool_after_concat, wide=conv(12, 2), **branches()),
    "maximum across concatenated": net(_pool_across_concatenated, **branches()),
    "maximum across channels": net(lambda m, x: F.max_pool1d(relu(m.a(x)).flatten(2).transpose(1, 2), 2), a=conv()),
    "maximum across channels, unbatched": net(lambda m, x: F.max_pool2d(relu(m.a(x)), 2), 3, 9, a=nn.Conv1d(3, 4, 2)),
    "maximum of features": net(
        lambda m, x: m.b(F.max_pool1d(relu(m.a(x)).flatten(1), 6, 5)), a=conv(), b=nn.Linear(28, 3)
    ),
    "average of features": net(
        lambda m, x: m.b(F.avg_pool1d(relu(m.a(x)).flatten(1), 6, 5)), a=conv(), b=nn.Linear(28, 3)
    ),
    "maximum of interpolated": net(
        lambda m, x: F.max_pool2d(F.interpolate(relu(m.a(x)), scale_factor=2.0, mode="bilinear"), 3), a=conv()
    ),
    "maximum of two": net(
        lambda m, x: m.end(torch.maximum(relu(m.a(x)), m.b(x)).amax(dim=(2, 3), keepdim=True)), **branches()
    ),
    "maximum, then concatenation": net(
        lambda m, x: m.wide(torch.cat([relu(m.a(x)), m.b(x).amax(1, keepdim=True)], 1)), wide=conv(5, 2), **branches()
    ),
    # branches
    "sum of branches": net(lambda m, x: m.end(relu(relu(m.a(x)) + relu(m.b(x)) - relu(m.c(x)))), **branches()),
    "sum with the input": net(
        lambda m, x: m.end(relu(m.b(relu(x + m.b(relu(m.a(x)))) + x)) + relu(m.a(x + relu(m.b(x))))),
        a=conv(3, 3),
        b=conv(3, 3),
        end=conv(3, 2),
    ),
    "torch.add": net(
        lambda m, x: m.end(torch.add(relu(m.a(x)), relu(m.b(x)), alpha=-2).sub(m.c(x), alpha=0.5)), **branches()
    ),
    "twice the same": net(
        lambda m, x: (lambda y: m.end(y + y - torch.cat([y, y], 1)[:, 2:6]))(relu(m.a(x))), **branches()
    ),
    "concatenation": net(_dense, a=conv(), b=conv(), c=conv(), norm=nn.BatchNorm2d(12)),
    "concatenation of space": net(
        lambda m, x: m.end(torch.cat([relu(m.a(x)), relu(m.b(x)), x[:, :1].expand(-1, 4, -1, -1)], -1)), **branches()
    ),
    "concatenation of chunks": net(lambda m, x: m.end(torch.cat(relu(m.a(x)).chunk(2, 1), 1)), **branches()),
    "concatenation, axis": net(
        lambda m, x: m.wide(torch.cat([relu(m.a(x)), m.b(x)], axis=1)), wide=conv(8), **branches()
    ),
    "stack": net(
        lambda m, x: m.end(torch.stack([relu(m.a(x)), relu(m.b(x)), m.c(x)], dim=2).mean(axis=2)), **branches()
    ),
    "stack, then maximum": net(lambda m, x: torch.stack([relu(m.a(x)), relu(m.b(x))], 1).amax(1), **branches()),
    # shapes
    "flatten": net(lambda m, x: m.head(torch.flatten(relu(m.a(x)), 1)), **_flat),
    "len": net(_lengths, **_flat),
    "flatten module": net(
        lambda m, x: m.head(m.flat(m.pool(relu(m.a(x))))), pool=nn.MaxPool2d(1), flat=nn.Flatten(), **_flat
    ),
    "flatten, then add": net(lambda m, x: relu(m.a(x)).flatten(1) + relu(m.a(x)).flatten(start_dim=1), **_flat),
    "flatten, then output": net(lambda m, x: relu(m.a(x)).flatten(1), **_flat),
    "flatten, then activation": net(lambda m, x: m.head(relu(relu(m.a(x)).flatten(1) - 0.2)), **_flat),
    "flatten part": net(lambda m, x: relu(m.a(x)).flatten(1, 2), **_flat),
    "view": net(lambda m, x: m.head(relu(m.a(x)).view(x.size(0), -1)), **_flat),
    "reshape": net(lambda m, x: m.head(relu(m.a(x)).reshape(-1, 4 * 6 * 6)), **_flat),
    "batch size of the input": net(_shared_batch_size, a=conv(), b=conv(), head=nn.Linear(144, 5)),
    "channel shuffle": net(_shuffle, a=conv(), right=conv(2, 2)),
    "channel shuffle module": net(
        lambda m, x: m.end(m.shuffle(relu(m.a(x)))), shuffle=nn.ChannelShuffle(2), **branches()
    ),
    "permute": net(
        lambda m, x: m.b(relu(m.a(x)).permute(0, 2, 3, 1)).permute((0, 3, 1, 2)), a=conv(), b=nn.Linear(4, 5)
    ),
    "transpose": net(lambda m, x: m.b(relu(m.a(x)).flatten(2).transpose(-1, -2)), a=conv(), b=nn.Linear(4, 5)),
    "squeeze": net(
        lambda m, x: m.b(m.pool(relu(m.a(x))).squeeze(-1).squeeze(-1)).unsqueeze(1),
        a=conv(),
        pool=nn.AdaptiveAvgPool2d(1),
        b=nn.Linear(4, 5),
    ),
    "chunk and split": net(
        lambda m, x: m.end(torch.cat([relu(m.a(x)).split([1, 3], 1)[1], m.b(x).chunk(2, 1)[0][:, :1]], 1)),
        **branches(),
    ),
    "part of the chunks": net(
        lambda m, x: torch.cat(torch.chunk(relu(m.a(x)), 4, 1)[1:3], 1) + relu(m.b(x)).split(2, 1)[1], **branches()
    ),
    "unbind and select": net(
        lambda m, x: relu(m.a(x)).unbind(1)[2] + relu(m.b(x)).select(1, 3) + m.c(x).narrow(1, 1, 1)[:, 0], **branches()
    ),
    "indexing": net(
        lambda m, x: (
            m.end(relu(m.a(x))[:, [3, 0, 1, 1], 1:-1, ..., ::2]) + relu(m.b(x))[..., :2, 1:5, 2:5].sum(1, True)
        ),
        **branches(),
    ),
    "new axis": net(lambda m, x: relu(m.a(x))[:, None, :, 0] * 2, **branches()),
    "flip and roll": net(lambda m, x: relu(m.a(x)).flip(-1).roll(1, 2).flip([2, 3]), **branches()),
    "padding": net(
        lambda m, x: (
            m.end(F.pad(relu(m.a(x)), (1, 1, 2, 0), mode="reflect")) - F.pad(m.b(x)[:, :2], (1, 1, 1, 1), value=2.0)
        ),
        **branches(),
    ),
    "padding of channels": net(_option_a, a=conv(), down=conv(4, 8, stride=2), wide=conv(8, 2)),
    "padding of channels, module": net(
        lambda m, x: m.b(m.pad(relu(m.a(x)))), a=conv(), pad=nn.ZeroPad3d((0, 0, 0, 0, 1, 2)), b=conv(7, 2)
    ),
    "padding of channels with zeros": net(_zeros_shortcut, a=conv(), widen=conv(4, 8), wide=conv(8, 2)),
    "padding of features": net(lambda m, x: F.pad(relu(m.a(x)), (1, 2)), 7, a=nn.Linear(7, 5)),
    "interpolation": net(
        lambda m, x: m.end(
            F.interpolate(relu(m.a(x)), scale_factor=2) + F.interpolate(m.b(x), size=(12, 12), mode="bilinear")
        ),
        **branches(),
    ),
    "upsampling": net(
        lambda m, x: m.end(m.up(relu(m.a(x)))), up=nn.Upsample(scale_factor=2, mode="bilinear"), **branches()
    ),
    "pixel shuffle": net(lambda m, x: F.pixel_unshuffle(relu(F.pixel_shuffle(relu(m.a(x)), 2)), 3), **branches()),
    "unfold": net(lambda m, x: m.b(F.unfold(relu(m.a(x)), 3).transpose(1, 2)), a=conv(), b=nn.Linear(36, 5)),
    "windows": net(lambda m, x: relu(m.a(x)).unfold(3, 3, 1).mean(-1), a=conv()),
    "repeat": net(lambda m, x: m.end(relu(m.a(x)).repeat(1, 1, 2, 1)), **branches()),
    # arithmetic and parameters
    "arithmetic": net(lambda m, x: m.end(relu(1 - relu(m.a(x)) / 2) * -3 + 0.5 - (-relu(m.b(x)))), **branches()),
    "arithmetic by name": net(
        lambda m, x: m.end(
            torch.rsub(torch.mul(relu(m.a(x)), 0.7), 1).div(2).neg().add(torch.div(input=m.b(x), other=3))
        ),
        **branches(),
    ),
    "division by the batch size": net(
        lambda m, x: m.end((lambda y: y / x.shape[0] + y * y.size(-4))(relu(m.a(x)))), **branches()
    ),
    "division by a size": net(lambda m, x: relu(m.a(x)).sum(-1) / x.shape[-1], **branches()),
    "layer scale": net(lambda m, x: x.mean(1, True) + m.gamma * relu(m.a(x)), gamma=parameter(4, 1, 1), a=conv()),
    "position": net(
        lambda m, x: m.head(relu(m.embed(x.flatten(2).transpose(1, 2)) + m.position)).mean(1),
        embed=nn.Linear(3, 8),
        position=parameter(1, 36, 8),
        head=nn.Linear(8, 5),
    ),
    "class token": net(
        _class_token,
        embed=nn.Linear(3, 8),
        token=parameter(1, 1, 8),
        position=parameter(1, 37, 8),
        mix=nn.Linear(8, 8),
        head=nn.Linear(8, 5),
    ),
    "functional dropout": net(
        lambda m, x: m.end(F.dropout(relu(m.a(F.dropout2d(x, 0.3, m.training))), 0.5, m.training)), **branches()
    ),
    "dropout and identity": net(
        lambda m, x: m.end(m.drop(m.same(relu(m.a(x))))), drop=nn.Dropout2d(), same=nn.Identity(), **branches()
    ),
    # inputs and outputs
    "two inputs": Case(Pair(lambda m, x, y: m.end(relu(m.a(x)) + relu(m.b(y))), **branches()), [(3, 6, 6), (3, 6, 6)]),
    "nested inputs": Case(Net(_nested_inputs, **branches()), [{"x": (3, 6, 6), "pair": [(3, 6, 6), (3, 6, 6)]}]),
    "many outputs": net(_many_outputs, **branches()),
    "named outputs": net(_named_outputs, **branches()),
    "assertions": net(_asserting, **branches()),
    "a sequence as output": net(_unused_output, **branches()),
}
