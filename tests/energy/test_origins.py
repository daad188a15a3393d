"""Where values come from, however many there were."""

from __future__ import annotations

import torch

from pascal_ext.energy.origins import Origin, Origins


def test_memory_that_is_gone_is_forgotten() -> None:
    """What refers to it keeps malloc from using the place again, so that memory would grow with the timesteps."""
    add, x = torch.ops.aten.add.Tensor, torch.randn(4)
    origins = Origins(x)
    spikes = (x > 0).float()
    origins.follow(torch.ops.aten.gt.Scalar, (x, 0), spikes, weighs=False)
    kept = [x + 1, spikes + 1]
    for result, source in zip(kept, (x, spikes), strict=True):
        origins.follow(add, (source, 1), result, weighs=False)
    for _ in range(1000):
        origins.follow(add, (x, 1), x + 1, weighs=False)
    assert len(origins._known) < 300
    assert [origins.of(value) for value in (x, *kept, spikes)] == [Origin.INPUT, Origin.INPUT, Origin.MADE, Origin.MADE]
