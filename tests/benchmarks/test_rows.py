"""Files of result rows: what is appended is read back, whatever an interrupted run has left at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import rows

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
