"""Activations, in place or not, and layers with weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import QCFS
from tests.cases import Case, branches, conv, net, parameter, relu


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


def _leaky(m: Any, x: Tensor) -> Tensor:
    y = m.act(m.a(x))  # in place: it has two readers
    z = F.leaky_relu(m.b(x), -0.3, True) + F.max_pool2d(m.act(m.c(x)), 3, 1, 1)
    F.leaky_relu_(z, 1.5)
    return m.end(m.relu(y + z)) + F.leaky_relu(y[:, :2])


def _prelu(m: Any, x: Tensor) -> Tensor:
    y = m.act(m.a(x))
    for _ in range(2):
        y = m.act(m.b(y)) + F.prelu(y, m.w.abs())
    return F.prelu(m.head(y.flatten(1)), m.v) + m.single(m.wide(x.mean((2, 3))))


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


torch.manual_seed(0)  # parameters are drawn on import, after whatever other modules have drawn
LAYERS: dict[str, Case] = {
    # activations
    "module": net(lambda m, x: m.end(m.relu(m.a(x))), a=conv(), relu=nn.ReLU(), end=conv(4, 2)),
    "by keyword": net(
        lambda m, x: m.end(input=m.q(z=m.bn(input=m.six(input=m.relu(input=m.a(input=x)))))),
        a=conv(),
        relu=nn.ReLU(),
        six=nn.ReLU6(),
        bn=nn.BatchNorm2d(4),
        q=QCFS(3, 0.7),
        end=conv(4, 2),
    ),
    "function": net(lambda m, x: m.end(torch.relu(relu(m.a(x)) - 0.2)), a=conv(), end=conv(4, 2)),
    "method": net(lambda m, x: m.end((m.a(x).relu() - 0.2).clamp(min=0)), a=conv(), end=conv(4, 2)),
    "bounded": net(
        lambda m, x: m.end(F.relu6(m.six(m.a(x)) - 0.1) + F.hardtanh(x.sum(1, keepdim=True), 0.0, 2.0)),
        a=conv(),
        six=nn.ReLU6(),
        end=conv(4, 2),
    ),
    "clamp": net(lambda m, x: m.end(torch.clamp(m.a(x), 0, 3).clamp_min(0)), a=conv(), end=conv(4, 2)),
    "leaky relu": net(_leaky, act=nn.LeakyReLU(0.2, inplace=True), relu=nn.ReLU(), **branches()),
    "prelu": net(
        _prelu,
        a=conv(),
        b=conv(4, 4),
        act=nn.PReLU(4),
        w=parameter(4),
        v=parameter(1),
        head=nn.Linear(4 * 6 * 6, 5),
        wide=nn.Linear(3, 5),
        single=nn.PReLU(),
    ),
    "prelu on tokens": net(
        lambda m, x: m.b(m.act(m.a(x))).mean(-2), 5, 7, a=nn.Linear(7, 6), act=nn.PReLU(5), b=nn.Linear(6, 4)
    ),
    "bounded on both sides": net(
        lambda m, x: m.end(m.act(m.a(x)) + F.hardtanh(m.b(x)) - m.c(x).clamp(-0.5, 2.0)),
        act=nn.Hardtanh(-0.5, 2.0),
        **branches(),
    ),
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
    "transposed to a size": net(
        lambda m, x: m.c(relu(m.norm(m.b(relu(m.a(x)), output_size=x.shape[2:]))), [12, 12]),
        a=conv(3, 6, stride=2, padding=1),
        b=nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2),
        norm=nn.BatchNorm2d(4),
        c=nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1),
    ),
    "transposed 1d": net(
        lambda m, x: m.b(relu(m.a(x))), 3, 9, a=nn.ConvTranspose1d(3, 4, 3), b=nn.ConvTranspose1d(4, 2, 2)
    ),
    "transposed 3d": net(
        lambda m, x: m.b(relu(m.a(x))), 2, 3, 3, 3, a=nn.Conv3d(2, 4, 2), b=nn.ConvTranspose3d(4, 2, 2, groups=2)
    ),
    "linear": net(lambda m, x: m.b(relu(m.a(x))), 7, a=nn.Linear(7, 9), b=nn.Linear(9, 4)),
    "linear on tokens": net(lambda m, x: m.b(relu(m.a(x))).mean(1), 5, 7, a=nn.Linear(7, 5), b=nn.Linear(5, 4)),
    "einsum with parameters": net(
        lambda m, x: m.end(relu(torch.einsum("oi, nihw, i -> nowh", m.w, relu(m.a(x)), m.v))),
        w=parameter(4, 4),
        v=parameter(4),
        **branches(),
    ),
    "einsums with dots": net(
        lambda m, x: torch.einsum(
            "...ij,jk", relu(torch.einsum("nc...,kc->nk...", relu(m.a(x)), torch.outer(m.v, m.v))), m.w
        ),
        w=parameter(6, 5),
        v=parameter(4),
        **branches(),
    ),
    "products with computed matrices": net(
        lambda m, x: torch.matmul(
            m.w * (m.w > 0), relu(relu(m.a(x)) @ (m.w * m.v).softmax(0)) @ torch.diag(torch.exp(m.v))
        ),
        4,
        7,
        a=nn.Linear(7, 4),
        w=parameter(4, 4),
        v=parameter(4),
    ),
    "product with a matrix": net(
        lambda m, x: relu(relu(m.a(x)) @ m.w) @ m.w.T, 7, a=nn.Linear(7, 5), w=parameter(5, 4)
    ),
    "sum with a product": net(
        lambda m, x: torch.addmm(m.v, relu(torch.addmm(m.u, x, m.w)), m.w.t()).addmm(relu(m.a(x)), m.w.T),
        7,
        a=nn.Linear(7, 4),
        w=parameter(7, 4),
        u=parameter(4),
        v=parameter(7),
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
    "threshold at zero": net(
        lambda m, x: m.end(m.zero(m.norm(m.a(x))) + F.threshold(m.b(x), 0, 0)),
        zero=nn.Threshold(0, 0),
        norm=nn.SyncBatchNorm(4),
        **branches(),
    ),
    "functional norm": net(
        lambda m, x: m.b(F.batch_norm(relu(m.a(x)), m.mean, m.var)),
        a=conv(),
        b=conv(4, 2),
        mean=nn.Parameter(torch.randn(4), requires_grad=False),
        var=nn.Parameter(torch.rand(4) + 0.5, requires_grad=False),
    ),
}
