"""Statistics over several processes: two that share the data find what one finds with all of it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pascal_ext import calibrate, distributed, replace_activations

OPTIONS: list[dict[str, Any]] = [
    {},
    {"per_channel": True},
    {"correct": "bias"},
    {"correct": "bias", "per_channel": True},
]


def data() -> list[Tensor]:
    """Four batches of very different size of activation."""
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(64, 5, generator=generator, dtype=torch.float64) for scale in (1.0, 0.1, 3.0, 1.0)]


def calibrated(batches: list[Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)]
    model = replace_activations(nn.Sequential(*layers).double(), 4)
    return dict(calibrate(model, batches, progress=False, **options).state_dict())


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    found = {
        "total": distributed.total(torch.tensor([1.0 + rank, 5.0])),
        "largest": distributed.largest(torch.tensor([1.0 + rank, 5.0 - rank])),
        "calibrated": [calibrated(data()[rank::2], options) for options in OPTIONS],
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["total"].tolist() == second["total"].tolist() == [3.0, 10.0]
    assert first["largest"].tolist() == second["largest"].tolist() == [2.0, 5.0]
    for options, *both in zip(OPTIONS, first["calibrated"], second["calibrated"], strict=True):
        alone = calibrated(data(), options)
        for found in both:
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


def test_one_process_keeps_its_values() -> None:
    value = torch.tensor([1.0, 2.0])
    assert not distributed.is_distributed()
    assert distributed.total(value) is value
    assert distributed.largest(value) is value
