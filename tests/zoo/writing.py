"""Item assignment, and parts that are changed in place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases import Case, branches, conv, net, parameter, relu


def _temporal_shift(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    n, c, h, w = y.size()
    shifted = torch.zeros_like(y)
    shifted[:, : c // 4, :-1] = y[:, : c // 4, 1:]
    shifted[:, c // 4 : c // 2, 1:] = y[:, c // 4 : c // 2, :-1]
    shifted[:, c // 2 :] = y[:, c // 2 :]
    return m.end(shifted.view(n, c, h, w))


def _frame(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    padded = torch.zeros(y.shape[0], 4, 8, 8, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = y
    return m.end(F.max_pool2d(padded, 2))


def _interleaved(m: Any, x: Tensor) -> Tensor:
    left, right = relu(m.a(x)), relu(m.b(x))
    y = left.new_empty(x.shape[0], 8, 6, 6)
    y[:, ::2], y[:, 1::2] = left, right
    return m.wide(y)


def _loop(m: Any, x: Tensor) -> Tensor:
    y, z = relu(m.a(x)), torch.empty_like(m.a(x))
    for channel in range(4):
        z[:, channel] = y[:, 3 - channel] * (channel + 1)
    return m.end(z)


def _parts(m: Any, x: Tensor) -> Tensor:
    y, z = m.a(x), relu(m.b(x))
    y[:, :2] += z[:, 2:]
    y[:, 2:] *= 0.5
    y[:, 1, ..., 0] = relu(y[:, 1, ..., 0])
    part = y[:, 2:]
    part[..., 1:3] -= 0.25
    part.relu_()
    part[:, 1].copy_(z[:, 0])
    y[:, [0, 3]] += z[:, [1, 2]]
    return m.end(relu(y))


def _constants(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    y[:, 0] = 0.5
    y[:, 1] = m.w
    y[:, 2:, 0] = m.w[None, :1] * 2
    return m.end(y)


def _permuted(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(m.a(x))
    y[:, torch.tensor([2, 0, 3])] = relu(m.a(x))[:, :3]
    return m.end(y)


def _rectified(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[y < 0] = 0
    return m.end(y)


def _sum_of_constants(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(1, 4, 1, 1, dtype=x.dtype)
    total += 1
    total[:, :2] += m.w
    total += m.w[:1] * 2
    return m.end(relu(m.a(x)) * total + total)


def _rows(y: Tensor, token: Tensor) -> Tensor:
    y[:, 0] = token
    y[..., 1:, :] = y[..., 1:, :].flip(-2)
    return y


WRITING: dict[str, Case] = {
    "temporal shift": net(_temporal_shift, **branches()),
    "a frame of zeros": net(_frame, **branches()),
    "interleaved channels": net(_interleaved, wide=conv(8), **branches()),
    "channels written in a loop": net(_loop, **branches()),
    "parts changed in place": net(_parts, **branches()),
    "constants written": net(_constants, w=parameter(6, 6), **branches()),
    "channels written by a list": net(_permuted, **branches()),
    "negative elements set to zero": net(_rectified, **branches()),
    "constants made in forward": net(_sum_of_constants, w=parameter(2, 1, 1), **branches()),
    "rows written into tokens": net(
        lambda m, x: m.head(_rows(relu(m.embed(x)), m.token)),
        5,
        7,
        embed=nn.Linear(7, 4),
        head=nn.Linear(4, 3),
        token=parameter(4),
    ),
}
