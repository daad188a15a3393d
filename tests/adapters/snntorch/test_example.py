from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from examples import snntorch_digits


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the example writes when it may train for a second."""
    folder = tmp_path_factory.mktemp("example")
    command = [
        "snntorch_digits",
        "--seconds",
        "1",
        "--figure",
        f"{folder}/plot.svg",
        "--results",
        f"{folder}/rows.jsonl",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        snntorch_digits.main()
    assert (folder / "plot.svg").stat().st_size > 10_000
    return json.loads((folder / "rows.jsonl").read_text(encoding="utf-8"))


def test_the_conversion_is_exact(row: dict[str, object]) -> None:
    assert row["exact"] is True
    assert row["predictions that differ"] == row["counts that differ"] == 0
    assert row["PASCAL, winner spikes"] == row["PASCAL"]


def test_both_sides_were_trained_and_measured(row: dict[str, object]) -> None:
    accuracies = [value for name, value in row.items() if name.startswith(("ReLU", "PASCAL", "direct"))]
    assert len(accuracies) == 9
    assert all(0 <= value <= 100 for value in accuracies)
    assert row["steps ReLU"] > 0
    assert row["steps direct"] > 0
    assert row["ReLU"] > 15  # a tenth is chance
    assert abs(row["seconds direct"] - 1) < 2


def test_rows_say_how_they_came_about(row: dict[str, object]) -> None:
    assert {"command", "versions", "hardware", "commit", "time", "seed"} <= set(row)


def test_the_network_trained_directly_has_the_same_layers() -> None:
    relu, leaky = snntorch_digits.cnn(nn.ReLU), snntorch_digits.DirectlyTrained(3)
    shapes = [parameter.shape for parameter in relu.parameters()]
    assert [parameter.shape for parameter in leaky.body.parameters()] == shapes
    assert leaky(torch.rand(2, 1, 8, 8)).shape == (3, 2, 10)
