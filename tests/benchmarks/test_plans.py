"""Plans against uniform levels: the rows say what converted networks do, and are written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import plans
from benchmarks.data import SOURCES
from benchmarks.exactness import accuracy, draw_batches
from benchmarks.models import build
from benchmarks.models.checkpoints import load_relu
from pascal_ext import LevelPlan, convert


def test_rows(tree: Path, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights, output = tmp_path / "relu.pt", tmp_path / "rows.jsonl"
    torch.save(build(tiny, 10).state_dict(), weights)
    options: dict[str, Any] = {"mean_levels": [2, 3], "images": 20, "calibration": 40, "measured": 20, "batch_size": 20}
    plans.main(tree, weights, tiny, output=output, **options)
    shown = capsys.readouterr().out
    written = output.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in written.splitlines()]
    assert len(rows) == 2 * 2 * 3
    train, test = (
        draw_batches(SOURCES["cifar10-jpeg"], tree, split, 40 if split == "train" else 20, 20)
        for split in ("train", "test")
    )
    ann = load_relu(tiny, 10, weights)
    for row in rows:
        assert row["plan_mean"] == LevelPlan(row["plan"]).mean_levels <= row["mean_levels"]
        assert (set(row["plan"].values()) == {row["mean_levels"]}) or row["strategy"] != "uniform"
        assert f"{row['accuracy']:.2f}" in shown
        if row["correction"] == "none":
            snn = convert(ann, train, LevelPlan(row["plan"]), execution="counts", progress=False)
            assert round(accuracy(snn, test), 2) == row["accuracy"]
    plans.main(tree, weights, tiny, output=output, **options)
    assert output.read_text(encoding="utf-8") == written
