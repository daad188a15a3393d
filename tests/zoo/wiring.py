"""How layers are joined: branches, shapes, arithmetic, inputs and outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases import Case, Net, Pair, branches, conv, net, parameter, relu


def _dense(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    y = torch.cat([y, relu(m.b(x))], 1)
    y = torch.cat([y, relu(m.c(x))], dim=1)
    return m.norm(y)


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


def _shapes_of_others(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    z = relu(m.b(x)).flatten(1).view(y.shape) + relu(m.c(x)).flatten(2).reshape(y.size())
    return m.end(
        z + x.mean(1, keepdim=True).expand(y.shape) + y.new_ones(y.shape) + torch.zeros(x.shape, dtype=x.dtype)[:, :1]
    )


def _like_others(m: Any, x: Tensor) -> Tensor:
    y = relu(m.a(x))
    z = relu(m.b(x)).flatten(1).view_as(y) + relu(m.c(x)).flatten(2).reshape_as(y).type_as(x)
    wide = y.mean((2, 3), keepdim=True).expand_as(z) + torch.broadcast_to(x.mean(1, keepdim=True), y.shape)
    return m.end((z + wide) * m.scale.to(x) + m.scale.expand_as(y))


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


_flat = {"a": conv(), "head": nn.Linear(4 * 6 * 6, 5)}


WIRING: dict[str, Case] = {
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
    "flatten part, then its mean": net(lambda m, x: m.part(relu(m.a(x))).mean(-2), part=nn.Flatten(1, 2), a=conv()),
    "flatten part, then its sum": net(lambda m, x: relu(m.a(x)).flatten(1, 2).sum(-2), a=conv()),
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
    "cuts and joins": net(
        lambda m, x: m.end(
            torch.hstack(
                [
                    torch.hstack(torch.tensor_split(relu(m.a(x)), 3, dim=1)[1:]),
                    m.b(x).tensor_split((1, 3), dim=-3)[0],
                    torch.hsplit(relu(m.c(x)), 2)[1][:, :1] + m.b(x).hsplit([3])[1],
                ]
            )
        ),
        **branches(),
    ),
    "selected, repeated, turned": net(
        lambda m, x: m.end(
            relu(m.a(x)).index_select(1, torch.tensor([2, 0, 1, 3])).rot90(1, (2, 3)).repeat_interleave(2, dim=-1)
            + torch.index_select(m.b(x), 3, torch.tensor([0, 5] * 6)).rot90(dims=[1, 2]).rot90(3, (1, 2))
        ),
        **branches(),
    ),
    "between two": net(
        lambda m, x: m.end(torch.lerp(relu(m.a(x)), m.b(x), 0.3).lerp(relu(m.c(x)), m.gamma * 2)),
        gamma=parameter(4, 1, 1),
        **branches(),
    ),
    "mean of a stack": net(lambda m, x: torch.stack([relu(m.a(x)), m.b(x), relu(m.b(x))]).mean(0), **branches()),
    "sum of a stack": net(lambda m, x: torch.sum(torch.stack((relu(m.a(x)), m.b(x)), dim=0), dim=[0]), **branches()),
    "maximum of a stack": net(lambda m, x: torch.stack([relu(m.a(x)), m.b(x), m.c(x)], 0).max(0)[0], **branches()),
    "minimum of a stack of one": net(lambda m, x: torch.stack([relu(m.a(x))]).amin(0) + m.b(x), **branches()),
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
    "made of sizes": net(
        lambda m, x: (
            m.end(torch.cat([relu(m.a(x)), torch.zeros(x.size(0), 2, 6, x.shape[3], dtype=x.dtype)], 1)[:, 2:])
            + torch.full((x.shape[0], 1, 1, 1), 0.5)
        ),
        **branches(),
    ),
    "shapes of others": net(_shapes_of_others, **branches()),
    "number of elements": net(
        lambda m, x: (
            m.head(relu(m.a(x)).view(x.size(0), m.a(x).numel() // len(x)) / x.nelement() * x.shape.numel())
            / relu(m.a(x)).size()[:-1].numel()
            * x.shape[2:].numel()
        ),
        **_flat,
    ),
    "like others": net(_like_others, scale=parameter(4, 1, 1), **branches()),
    "moved axes": net(lambda m, x: m.end(relu(m.a(x)).moveaxis(1, 2).mT.movedim(3, 1)), **branches()),
    "running sums": net(lambda m, x: m.end(relu(m.a(x)).cumsum(1)).cumsum(dim=-1), **branches()),
    "matrix on the left": net(
        lambda m, x: m.v @ relu(torch.matmul(m.w, relu(m.a(x)))),
        7,
        5,
        a=nn.Linear(5, 6),
        w=parameter(4, 7),
        v=parameter(4),
    ),
    "slices of a Sequential": net(
        lambda m, x: m.head(m.layers[3:](m.layers[:3](x) + x.mean(1, keepdim=True)).flatten(1)),
        layers=nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2)),
        head=nn.Linear(36, 5),
    ),
    "modules made in forward": net(
        lambda m, x: m.end(nn.Upsample(scale_factor=2)(nn.AvgPool2d(2)(nn.ReLU()(m.a(x)))) + nn.LeakyReLU(0.1)(m.b(x))),
        **branches(),
    ),
    # inputs and outputs
    "two inputs": Case(Pair(lambda m, x, y: m.end(relu(m.a(x)) + relu(m.b(y))), **branches()), [(3, 6, 6), (3, 6, 6)]),
    "nested inputs": Case(Net(_nested_inputs, **branches()), [{"x": (3, 6, 6), "pair": [(3, 6, 6), (3, 6, 6)]}]),
    "many outputs": net(_many_outputs, **branches()),
    "named outputs": net(_named_outputs, **branches()),
    "assertions": net(_asserting, **branches()),
    "a sequence as output": net(_unused_output, **branches()),
}
