"""Small networks with what has no exact spiking counterpart."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases import BATCH, Case, branches, conv, net, parameter, relu


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
    "sigmoid": net(lambda m, x: m.end(torch.sigmoid(relu(m.a(x)))), **branches()),
    "silu": net(lambda m, x: m.end(relu(m.act(m.a(x)))), act=nn.SiLU(inplace=True), **branches()),
    "softmax": net(lambda m, x: m.soft(m.end(relu(m.a(x))).mean((2, 3))), soft=nn.Softmax(1), **branches()),
    "product": net(lambda m, x: m.end(relu(m.a(x)) * relu(m.b(x))), **branches()),
    "product in place": net(lambda m, x: m.end(relu(m.a(x)).mul_(m.b(x))), **branches()),
    "square": net(lambda m, x: m.end((lambda y: y * y)(relu(m.a(x)))), **branches()),
    "ratio to itself": net(lambda m, x: (lambda y: y / y)(relu(m.a(x)) + 1), **branches()),
    "power": net(lambda m, x: m.end(relu(m.a(x)) ** 2), **branches()),
    "power in place": net(lambda m, x: (lambda y: y.pow_(2) + y)(relu(m.a(x))), **branches()),
    "quotient": net(lambda m, x: m.end(m.b(x) / (1 + relu(m.a(x)))), **branches()),
    "reciprocal": net(lambda m, x: m.end(2 / (1 + relu(m.a(x)))), **branches()),
    "floor division": net(lambda m, x: torch.div(relu(m.a(x)), 0.3, rounding_mode="floor"), **branches()),
    "conversion to integers": net(lambda m, x: m.end(relu(m.a(x)).to(torch.long).to(x.dtype)), **branches()),
    "conversion to truth values": net(lambda m, x: m.end(relu(m.a(x)).to(dtype=torch.bool).to(x.dtype)), **branches()),
    "conversion like a constant": net(lambda m, x: relu(m.a(x)).type_as(torch.zeros(1).long()) * 0.5, **branches()),
    "sum as integers": net(lambda m, x: relu(m.a(x)).sum((2, 3), dtype=torch.long) * 0.5, **branches()),
    "product with a matrix for each sample": net(
        lambda m, x: relu(m.a(x)) @ m.w, 6, 6, a=nn.Linear(6, 6), w=parameter(BATCH, 6, 2)
    ),
    "product along the batch": net(
        lambda m, x: relu(m.a(x)).flatten(1).mean(1) @ m.w, **branches(), w=parameter(BATCH)
    ),
    "einsum of two signals": net(lambda m, x: torch.einsum("nchw,nchv->nwv", relu(m.a(x)), m.b(x)), **branches()),
    "einsum across the samples": net(
        lambda m, x: torch.einsum("nchw,cn->nhw", relu(m.a(x)), m.w), w=parameter(4, BATCH), **branches()
    ),
    "einsum with dots over the samples": net(
        lambda m, x: torch.einsum("...chw,cn->...nhw", relu(m.a(x)).mean(1), m.w), w=parameter(BATCH, 4), **branches()
    ),
    "einsum with dots in both": net(
        lambda m, x: torch.einsum("...hw,...wv->...hv", relu(m.a(x)), m.w), w=parameter(BATCH, 1, 6, 2), **branches()
    ),
    "product with a computed matrix for each sample": net(
        lambda m, x: relu(m.a(x)) @ (m.w * 2), 6, 6, a=nn.Linear(6, 6), w=parameter(BATCH, 6, 2)
    ),
    "sum with a computed row for each sample": net(
        lambda m, x: relu(m.a(x)) + m.w * 2, w=parameter(BATCH, 1, 1, 1), **branches()
    ),
    "einsum that moves the samples": net(
        lambda m, x: torch.einsum("nchw,ck->knhw", relu(m.a(x)), m.w), w=parameter(4, 2), **branches()
    ),
    "product of two signals": net(lambda m, x: relu(m.a(x)) @ m.a(x).mT, 6, 6, a=nn.Linear(6, 6)),
    "absolute value": net(lambda m, x: m.end(torch.abs(m.a(x)) + relu(m.b(x))), **branches()),
    "elu": net(lambda m, x: m.end(F.elu(m.a(x), 0.1) + relu(m.b(x))), **branches()),
    "slopes from the input": net(
        lambda m, x: F.prelu(m.a(x), m.a(x).flatten()[:1] * 0 + 0.25) + relu(m.b(x)), **branches()
    ),
    "weights from the input": net(lambda m, x: F.linear(m.w, relu(m.a(x))), 6, a=nn.Linear(6, 4), w=parameter(2, 4)),
    "layer norm": net(lambda m, x: m.norm(relu(m.a(x))), a=conv(), norm=nn.LayerNorm([4, 6, 6])),
    "group norm": net(lambda m, x: relu(m.norm(m.a(x))), a=conv(), norm=nn.GroupNorm(2, 4)),
    "norm of the batch": net(
        lambda m, x: relu(m.norm(relu(m.a(x)))), a=conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "functional norm of the batch": net(lambda m, x: F.batch_norm(relu(m.a(x)), None, None, training=True), a=conv()),
    "positions along a dimension": net(
        lambda m, x: (lambda pair: pair[0] + pair[1])(relu(m.a(x)).max(1)), **branches()
    ),
    "largest of the batch": net(lambda m, x: relu(m.a(x)) - torch.max(relu(m.b(x)), 0)[0], **branches()),
    "maximum with indices": net(
        lambda m, x: m.end(m.pool(relu(m.a(x)))[0]), pool=nn.MaxPool2d(2, return_indices=True), **branches()
    ),
    "maximum with indices, function": net(
        lambda m, x: m.end(F.max_pool2d(relu(m.a(x)), 2, return_indices=True)[0]), **branches()
    ),
    "clamped on both sides": net(lambda m, x: m.end(relu(m.a(x)).clamp(0.1, 0.5)), **branches()),
    # across the samples
    "mean of the batch": net(lambda m, x: relu(m.a(x)).mean(0), **branches()),
    "mean of everything": net(lambda m, x: relu(m.a(x)) - relu(m.b(x)).mean(), **branches()),
    "mean over a negative dimension": net(lambda m, x: relu(m.a(x)).mean(-4) + m.b(x), **branches()),
    "mean of no dimension": net(lambda m, x: relu(m.a(x)).sum(dim=[]), **branches()),
    "first sample": net(lambda m, x: relu(m.a(x))[0], **branches()),
    "some samples": net(lambda m, x: relu(m.a(x))[1:], **branches()),
    "samples by a list": net(lambda m, x: relu(m.a(x))[[2, 0]], **branches()),
    "new first axis": net(lambda m, x: relu(m.a(x))[None], **branches()),
    "new first axis, negative": net(lambda m, x: relu(m.a(x)).unsqueeze(-5), **branches()),
    "ellipsis reaching the batch": net(lambda m, x: relu(m.a(x))[..., 0, :, :, :], **branches()),
    "index lists apart": net(lambda m, x: relu(m.a(x))[:, [0, 1, 2], :, [1, 3, 0]], **branches()),
    "flatten everything": net(lambda m, x: torch.flatten(relu(m.a(x))), **branches()),
    "concatenation of samples": net(lambda m, x: torch.cat([relu(m.a(x)), relu(m.b(x))]), **branches()),
    "concatenation, negative": net(lambda m, x: torch.cat([relu(m.a(x)), relu(m.b(x))], -4), **branches()),
    "stack of samples": net(lambda m, x: torch.stack([relu(m.a(x)), relu(m.b(x))]).prod(0), **branches()),
    "permuted batch": net(lambda m, x: relu(m.a(x)).permute(1, 0, 2, 3), **branches()),
    "transposed batch": net(lambda m, x: relu(relu(m.a(x)).transpose(0, 1) - 0.3), **branches()),
    "transposed batch, negative": net(lambda m, x: relu(m.a(x)).transpose(-4, 1) * 2, **branches()),
    "flipped batch": net(lambda m, x: m.end(relu(m.a(x)).flip(0)), **branches()),
    "rolled": net(lambda m, x: m.end(relu(m.a(x)).roll(1)), **branches()),
    "unbound batch": net(lambda m, x: relu(m.a(x)).unbind()[1], **branches()),
    "split batch": net(lambda m, x: relu(m.a(x)).chunk(3)[1], **branches()),
    "windows of samples": net(lambda m, x: relu(m.a(x)).unfold(0, 2, 1).mean(-1), **branches()),
    "merged batch": net(lambda m, x: relu(m.a(x)).view(x.size(0) * 4, -1), **branches()),
    "literal batch": net(lambda m, x: relu(m.a(x)).reshape(BATCH, 4, 36), **branches()),
    "repeated batch": net(lambda m, x: relu(m.a(x)).repeat(2, 1, 1, 1), **branches()),
    "padded batch": net(lambda m, x: F.pad(relu(m.a(x)), (0, 0, 0, 0, 0, 0, 1, 0)), **branches()),
    "broadcast batch": net(lambda m, x: relu(m.a(x)).mean((1, 2, 3)) + m.b(x), 3, 6, BATCH, **branches()),
    "a parameter for each sample": net(lambda m, x: relu(m.a(x)) + m.row, row=parameter(BATCH, 4, 6, 6), **branches()),
    "a parameter that adds a dimension": net(
        lambda m, x: relu(m.a(x)) * m.row, row=parameter(2, 1, 4, 6, 6), **branches()
    ),
}
"""Networks with something that has no spiking counterpart."""

REFUSED_AT_RUN_TIME: dict[str, Case] = {
    "regrouped": net(lambda m, x: relu(m.a(x)).view(-1, 36), **branches()),
    "sample of the input": net(lambda m, x: relu(m.a(x[0])), **branches()),
    "negative dimension of the input": net(lambda m, x: relu(m.a(x) + x.mean(-4, keepdim=True)[:, :1]), **branches()),
    "negative dimension that a fold made": net(
        lambda m, x: F.fold(relu(m.a(x)), (6, 6), 3).sum(-4), 3, 16, a=nn.Conv1d(3, 18, 1)
    ),
}
"""The same, where only the shapes of the data show it."""

ANALOG: dict[str, Case] = REFUSED | {
    "squeeze and excitation": net(_squeeze_excitation, down=conv(4, 2), up=conv(2, 4), **branches()),
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
    "windows": net(_windows, mix=nn.Linear(4, 4), **branches()),
    "recurrent": net(_recurrent, embed=nn.Linear(36, 8), lstm=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 5)),
    "moments": net(_moments, head=nn.Linear(4, 5), **branches()),
    "division by the batch size of a product": net(lambda m, x: relu(m.a(x)) * m.b(x) / x.size(0), **branches()),
}
