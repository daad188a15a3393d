"""Times side by side, and the runners that take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.networks import __main__ as networks
from benchmarks.networks.cases import Case as NetworkCase
from benchmarks.ops import __main__ as ops
from benchmarks.ops.cases import Case
from benchmarks.timing import Times, interleave


def test_all_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 3, warmup=1, repeat=2)
    assert "".join(calls) == "ab" + "bbaa" + "aabb" + "bbaa"
    assert all(len(seconds) == 3 for seconds in times.wall.values())


def test_ratios_are_of_the_same_round() -> None:
    """A machine that becomes ten times slower does not change them."""
    times = Times({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 1.0]}, {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]})
    ratio = times.ratio("a", "b")
    assert ratio["wall"] == 2.0
    assert ratio["cpu"] == 1.0
    assert ratio["low"] <= ratio["wall"] <= ratio["high"]
    assert times.seconds("a") == 4.0


def test_the_neuron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CASES", (Case(2, 2, 1 << 20), Case(8, 8, 64)))
    ops.main(rounds=1, threads=1, output=tmp_path / "ops.jsonl", plot=tmp_path / "plot.svg")
    rows = [json.loads(line) for line in (tmp_path / "ops.jsonl").read_text().splitlines()]
    assert [row["neurons"] for row in rows] == [1 << 20, 64]
    assert {"literal loop", "counts", "copy"} < set(rows[0]["ratio"])
    assert (tmp_path / "plot.svg").stat().st_size > 0


def test_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CASES", {"tiny": NetworkCase("resnet20", 32, 2)})
    monkeypatch.setattr("benchmarks.networks.cases.CASES", {"tiny": NetworkCase("resnet20", 32, 2)})
    networks.main(cases=["tiny"], rounds=1, threads=1, memory=False, output=tmp_path / "networks.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "networks.jsonl").read_text().splitlines()]
    assert [row["variant"] for row in rows] == [variant.name for variant in networks.VARIANTS]
    assert all(row["ratio"]["wall"] > 0 for row in rows)
