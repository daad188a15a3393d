"""Times side by side, and the runners that take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from benchmarks.networks import __main__ as networks
from benchmarks.networks.cases import GPU_CASES, VARIANTS, Setting, Variant, make, variants_of
from benchmarks.networks.cases import Case as NetworkCase
from benchmarks.ops import __main__ as ops
from benchmarks.ops.cases import Case, competitors, working
from pascal_ext.comparison import timing
from pascal_ext.comparison.timing import Device, Precision, Times, interleave, repeats


def test_all_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 3, warmup=1, repeat=2)
    assert "".join(calls) == "ab" + "bbaa" + "aabb" + "bbaa"
    assert all(len(seconds) == 3 for seconds in times.wall.values())


def test_on_a_gpu_the_clock_runs_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts after what was given to the GPU before, and stops after what it times, once for all calls."""
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    times = interleave({"a": lambda: events.append("a")}, 1, device=Device.CUDA, warmup=3, repeat={"a": 2})
    first = events.index("wait")  # the progress bar reads the clock, too
    assert events[:first].count("a") == 3
    assert events[first : first + 6] == ["wait", "clock", "a", "a", "wait", "clock"]
    assert times.wall["a"] == [2.0]


def test_as_many_calls_as_take_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def run(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert repeats({"slow": lambda: run(3.0), "fast": lambda: run(0.5)}, 2.0) == {"slow": 1, "fast": 4}


def test_ratios_are_of_the_same_round() -> None:
    """A machine that becomes ten times slower does not change them."""
    times = Times({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 1.0]}, {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]})
    ratio = times.ratio("a", "b")
    assert ratio["wall"] == 2.0
    assert ratio["cpu"] == 1.0
    assert ratio["low"] <= ratio["wall"] <= ratio["high"]
    assert times.seconds("a") == 4.0


# One layer


def test_the_neuron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CASES", (Case(2, 2, 1 << 18), Case(8, 8, 64)))
    ops.main(rounds=1, threads=1, output=tmp_path / "ops.jsonl", plot=tmp_path / "plot.svg")
    rows = read(tmp_path / "ops.jsonl")
    assert [row["neurons"] for row in rows] == [1 << 18, 64]
    assert {"literal loop", "counts", "copy"} < set(rows[0]["ratio"])
    assert (rows[0]["device"], rows[0]["dtype"], rows[0]["base"]) == ("cpu", "float32", "pasc_if")
    assert (tmp_path / "plot.svg").stat().st_size > 0


def test_the_neuron_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CASES", (Case(2, 2, 1 << 18), Case(8, 8, 1 << 16)))
    output, plot = tmp_path / "ops.jsonl", tmp_path / "plot.svg"
    ops.main(dtype=Precision.BFLOAT16, rounds=1, threads=1, output=output, plot=plot)
    assert all(row["dtype"] == "bfloat16" for row in read(output))
    assert competitors(Case(2, 2, 64), dtype=torch.bfloat16)["copy"]().dtype == torch.bfloat16


def test_what_does_not_run_is_left_out_with_the_reason() -> None:
    found, left_out = working({"a": lambda: 1, "b": lambda: 1 // 0})
    assert list(found) == ["a"]
    assert left_out == {"b": "ZeroDivisionError: integer division or modulo by zero"}


def test_the_share_of_the_copys_bandwidth() -> None:
    """2 × 4 × 1000 numbers of 2 bytes in a microsecond are 16 GB in a second."""
    wall = {"pasc_if triton": [2e-6, 2e-6], "counts": [1e-6, 1e-6], "copy": [1e-6, 1e-6]}
    times = Times(wall, wall)
    assert ops.bandwidth(Case(4, 4, 1000), 2, times) == {
        "copy_gb_per_second": 16.0,
        "bandwidth": {"pasc_if triton": 0.5},
    }
    assert ops.bandwidth(Case(4, 1, 1000), 2, times) == {"copy_gb_per_second": 16.0}


def test_the_plot_shows_those_that_are_not_in_every_case(tmp_path: Path) -> None:
    """As the literal loop, which larger cases on a GPU leave out."""
    cases = ((8, 1 << 24, ("a", "copy")), (4, 1 << 24, ("a", "copy")), (8, 1 << 16, ("a", "loop", "copy")))
    found = [
        {
            "window": steps,
            "levels": steps,
            "neurons": neurons,
            "base": "a",
            "milliseconds": dict.fromkeys(names, 1.0),
            "ratio": {name: {"wall": 1.0} for name in names[1:]},
        }
        for steps, neurons, names in cases
    ]
    ops.show(found)
    ops.draw(found, tmp_path / "plot.svg")
    assert "loop" in (tmp_path / "plot.svg").read_text()
    assert "16,777,216" in (tmp_path / "plot.svg").read_text()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", Precision)
def test_the_neuron_on_a_gpu(dtype: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "GPU_CASES", (Case(2, 2, 1 << 16), Case(8, 8, 64)))
    output, plot = tmp_path / "ops.jsonl", tmp_path / "plot.svg"
    ops.main(device=Device.CUDA, dtype=dtype, rounds=2, output=output, plot=plot)
    rows = read(output)
    assert all((row["device"], row["dtype"]) == ("cuda", dtype) for row in rows)
    assert all(row["bandwidth"]["pasc_if torch"] > 0 for row in rows)
    assert all(row["left_out"] == {} for row in rows)


# Networks


def test_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CASES", {"tiny": NetworkCase("resnet20", 32, 2)})
    networks.main(cases=["tiny"], rounds=1, threads=1, memory=False, output=tmp_path / "networks.jsonl")
    rows = read(tmp_path / "networks.jsonl")
    assert [row["variant"] for row in rows] == [variant.name for variant in VARIANTS]
    assert all(row["ratio"]["wall"] > 0 for row in rows)
    assert {"device": "cpu", "dtype": "float32", "tf32": False, "compiled": False}.items() <= rows[0].items()


def test_cases_and_variants_of_a_gpu() -> None:
    assert list(GPU_CASES) == ["resnet18-224-b64", "resnet18-224-b256", "resnet34-224-b256"]
    assert variants_of("resnet34-224", Device.CPU) == (Variant("spikes", chunk=1),)
    assert variants_of("resnet18-224", Device.CPU) == VARIANTS
    names = [variant.name for variant in variants_of("resnet18-224-b64", Device.CUDA)]
    assert names == [variant.name for variant in VARIANTS if variant.name != "spikes, whole batch"]


def test_both_networks_are_cast_alike() -> None:
    setting = Setting(dtype=Precision.BFLOAT16, channels_last=True)
    for variant in (None, Variant("counts"), Variant("spikes", fold_batch_norm=True)):
        model, x = make(NetworkCase("resnet20", 32, 2), variant, setting)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert {tensor.dtype for tensor in (*model.parameters(), x)} == {torch.bfloat16}
        with torch.inference_mode():
            assert model(x).dtype == torch.bfloat16


def test_memory_is_that_of_the_pass() -> None:
    found = networks.compared_memory({"before": 100.0, "peak": 120.0}, {"before": 110.0, "peak": 140.0})
    assert found["memory_ratio"] == 1.5


def test_tf32_is_for_gpus() -> None:
    with pytest.raises(typer.BadParameter, match="TF32"):
        networks.main(tf32=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", Precision)
def test_a_network_on_a_gpu(dtype: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "GPU_CASES", {"tiny": NetworkCase("resnet20", 32, 2)})
    networks.main(device=Device.CUDA, dtype=dtype, rounds=2, output=tmp_path / "networks.jsonl")
    rows = read(tmp_path / "networks.jsonl")
    assert [row["variant"] for row in rows] == [variant.name for variant in VARIANTS if variant.chunk is not None]
    assert all(row["memory_ratio"] > 0 for row in rows)
    assert all(row["channels_last"] == (dtype == Precision.BFLOAT16) for row in rows)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
