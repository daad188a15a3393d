"""Averages and maxima."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases import Case, branches, conv, net, parameter, relu


def _pool_after_concat(m: Any, x: Tensor) -> Tensor:
    return m.wide(F.max_pool2d(torch.cat((relu(m.a(x)), relu(m.b(x)), m.c(x)), 1), 2))


def _pool_across_concatenated(m: Any, x: Tensor) -> Tensor:
    """A maximum across what were channels of different thresholds."""
    y = torch.cat([relu(m.a(x)), relu(m.b(x)), relu(m.c(x))], 1)
    return F.max_pool2d(y.flatten(2).unsqueeze(1), (4, 3))


def _smallest(m: Any, x: Tensor) -> Tensor:
    y, _ = relu(m.a(x)).min(3)
    return y - relu(m.b(x)).amin((2, 3), keepdim=True).squeeze(3)


POOLING: dict[str, Case] = {
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
}
