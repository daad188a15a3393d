"""Files of result rows: what is appended is read back, whatever an interrupted run has left at the end, and what has a
row is not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import calibration, exactness, plans, rows
from benchmarks.models import build

ROWS = [{"number": number, "name": "θ\u2028"} for number in range(2)]


def test_rows_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert rows.read(path) == []
    for row in ROWS:
        rows.append(path, row)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == ROWS
    assert rows.read(path) == ROWS


def test_a_torn_row_is_left_out_and_glued_to_nothing(tmp_path: Path) -> None:
    whole = (json.dumps(ROWS[1], ensure_ascii=False) + "\n").encode()
    for length in range(1, len(whole) - 1):
        path = tmp_path / f"{length}.jsonl"
        rows.append(path, ROWS[0])
        path.write_bytes(path.read_bytes() + whole[:length])
        with pytest.warns(UserWarning, match=r"\d+\.jsonl, line 2, is no complete row"):
            assert rows.read(path) == ROWS[:1]
        rows.append(path, ROWS[1])
        with pytest.warns(UserWarning, match="line 2, is no complete row"):
            assert rows.read(path) == ROWS


def test_only_the_end_of_the_last_line_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]), encoding="utf-8")
    rows.append(path, ROWS[1])
    assert rows.read(path) == ROWS


@pytest.mark.parametrize(
    ("benchmark", "options"),
    [
        (plans, {"mean_levels": [2], "strategy": ["uniform"], "correction": ["none"]}),
        (calibration, {"levels": [2], "case": ["least squares"]}),
        (exactness, {"levels": [2]}),
    ],
    ids=["plans", "calibration", "exactness"],
)
def test_other_weights_have_rows_of_their_own(
    benchmark: Any,
    options: dict[str, Any],
    tree: Path,
    tmp_path: Path,
    tiny: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, output, written = tmp_path / "relu.pt", tmp_path / "rows.jsonl", []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        torch.save(build(tiny, 10).state_dict(), weights)
        benchmark.main(tree, weights, tiny, output=output, images=20, calibration=20, batch_size=20, **options)
        written.append(rows.read(output))
    first, both, again = written
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)
    assert again == both
    shown = capsys.readouterr().out
    assert all(row["fingerprint"] in shown for row in both)


@pytest.mark.parametrize("name", ["plans", "calibration", "exactness"])
def test_rows_without_a_fingerprint_are_about_the_weights_that_they_were_made_with(name: str) -> None:
    path = rows.RESULTS / f"{name}.jsonl"
    for row, found in zip(rows.read(path), rows.of_weights(path), strict=True):
        assert found == {"fingerprint": rows.FIRST_WEIGHTS} | row
        assert "fingerprint" in row or "data/weights/resnet20_cifar10jpeg.pt" in row["command"]
