"""Rows put together: what adds up, which of them counts, and what a report makes of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pascal_ext.comparison import curves, page, tables

ROW = {"suite": "digits", "model": "digits", "data": "digits", "network": "", "method": "sj-max", "T": 2, "seed": 0}
ROW |= {"calibration": 9, "ann_right": 9, "source_right": None, "timesteps": [1.0, 2.0], "per_layer": [1.0, 2.0]}
ROW |= {
    "latency": [1, 2],
    "right": [1, 6],
    "changed": [9, 4],
    "mismatched": None,
    "command": "again",
    "fingerprint": "",
}
ROW |= {"images": 10, "shard": 0, "shard_size": 10, "device": "cpu", "commit": "", "versions": {}}
ROW |= {"hardware": {"cpu": "a processor", "threads": 1}}
COUNTED = {"timesteps": [0, 2], "synaptic_operations": [0, 10], "joules": [0, 1e-9], "firing_rate": [None, 0.5]}
COSTS = ROW | {"shard": None, "shard_size": None, "operations": COUNTED | {"effective_timesteps": None}}
COSTS |= {"ann_operations": {"macs": 10, "joules": 1e-9}, "peak_bytes": 8, "ann_peak_bytes": 4}
TIMES = {"seconds": [9.0, 4.0, 60.0], "ann_seconds": [2.0, 1.0, 10.0]}


def test_shards_add_up() -> None:
    other = ROW | {"shard": 1, "images": 30, "right": [2, 14], "ann_right": 21}
    ((curve,),) = (found.curves for found in curves.comparisons([ROW, other]))
    assert curve.images == 40
    assert curve.ann_accuracy == 75
    assert [point.accuracy for point in curve.points] == [7.5, 50]
    assert curve.points[1].joules is None
    assert curve.within(25) == curve.points[1]
    assert curve.within(24) is None
    third = ROW | {"method": "sj-99.9", "shard": 1}
    (found,) = curves.comparisons([ROW, other, third])
    assert [(curve.images, curve.ann_accuracy) for curve in found.curves] == [(40, 75), (10, 90)]
    assert found.ann_accuracy == 75  # on the most images


def test_no_image_counts_twice() -> None:
    whole = ROW | {"images": 20, "shard_size": 20, "right": [5, 10]}
    for rows, images, right in (
        ([ROW, whole], 20, 10),  # the most
        ([ROW, ROW | {"shard": 1}, whole], 20, 10),  # or else the newest
        ([whole, ROW, ROW | {"shard": 1}], 20, 12),
        ([ROW, whole, ROW | {"shard": 1}, ROW | {"shard": 2}], 30, 18),
    ):
        ((curve,),) = (found.curves for found in curves.comparisons(rows))
        assert (curve.images, curve.points[1].accuracy) == (images, 100 * right / images)


def test_the_newest_of_the_same_rows_counts() -> None:
    newer = ROW | {"right": [1, 9], "command": "newer"}
    ((curve,),) = (found.curves for found in curves.comparisons([ROW, ROW | {"shard": 1}, newer]))
    assert (curve.images, curve.points[1].accuracy) == (20, 75)
    larger = COSTS | {"peak_bytes": 12}
    for costs, ratio in (([COSTS, larger], 3), ([larger, COSTS], 2)):
        ((curve,),) = (found.curves for found in curves.comparisons([ROW, *costs]))
        assert curve.memory_ratio == ratio


def test_a_method_has_one_curve_of_the_newest_network_on_most_images_for_longest() -> None:
    longer = ROW | {"T": 3, "timesteps": [1.0, 2.0, 3.0], "per_layer": [1.0, 2.0, 3.0], "latency": [1, 2, 3]}
    longer |= {"right": [1, 6, 7], "changed": [9, 4, 3]}
    more = ROW | {"shard": 1}
    trained_again = ROW | {"fingerprint": "new"}
    for rows, images, points in (
        ([ROW, longer], 10, 3),
        ([longer, ROW], 10, 3),
        ([longer, ROW, more], 20, 2),
        ([ROW, more, longer, trained_again], 10, 2),
    ):
        ((curve,),) = (found.curves for found in curves.comparisons(rows))
        assert (curve.images, len(curve.points)) == (images, points)


def test_a_refusal_is_told_until_the_method_has_been_measured() -> None:
    refused = {name: ROW[name] for name in ("model", "data", "method", "network", "seed", "calibration")}
    refused |= {"T": 1, "fingerprint": "", "shard": 0, "shard_size": 10, "refused": "ValueError: too few timesteps"}
    other = ROW | {"method": "sj-99.9"}
    (found,) = curves.comparisons([other, refused])
    assert found.refused == {"SpikingJelly, max": "ValueError: too few timesteps"}
    (found,) = curves.comparisons([other, refused, ROW])
    assert (found.refused, len(found.curves)) == ({}, 2)


def test_times_are_medians_of_ratios_and_may_be_missing(tmp_path: Path) -> None:
    (timed,) = curves.comparisons([ROW, COSTS | TIMES])
    assert [point.time_ratio for point in timed.curves[0].points] == [2.25, 4.5]
    assert timed.accuracy_on == timed.time_on == ("a processor, 1 thread",)
    gpu = ROW | {"device": "cuda", "hardware": ROW["hardware"] | {"gpus": ["a GPU"]}}
    for rows, time_on in (([gpu], ()), ([gpu, COSTS], ()), ([gpu, COSTS | TIMES], ("a processor, 1 thread",))):
        (found,) = curves.comparisons(rows)
        assert (found.accuracy_on, found.time_on) == (("a GPU",), time_on)
        times = {tables.costs(found, point)[-1] for point in found.curves[0].points}
        assert times == ({"2.2", "4.5"} if time_on else {"–"})
        pytest.importorskip("jinja2")
        page.write(rows, tmp_path)
        html = (tmp_path / "report.html").read_text()
        assert "<dt>accuracy on</dt><dd>a GPU</dd>" in html
        assert f"<dt>time on</dt><dd>{'; '.join(time_on) or '–'}</dd>" in html
        assert f"accuracy on: a GPU; time on: {' and '.join(time_on) or '–'}\n" in (tmp_path / "tables.md").read_text()


def test_a_narrow_terminal_shows_every_cost() -> None:
    pascal = {"method": "pascal-plan-4", "T": None, "timesteps": [4.0], "per_layer": [4.0], "right": [9]}
    pascal |= {"changed": [0], "latency": [1234]}
    (found,) = curves.comparisons([ROW | pascal, COSTS | TIMES | pascal])
    console = Console(width=80, file=io.StringIO())
    console.print(tables.summary(found))
    text = console.file.getvalue()
    for word in ("accuracy", "steps", "latency", "energy", "time", "90.00", "1,234", "4.5"):
        assert word in text


def test_time_in_counts_stands_beside_that_of_spikes() -> None:
    pascal = {"method": "pascal-free-4", "T": None, "timesteps": [4.0], "per_layer": [4.0], "right": [8]}
    pascal |= {"changed": [0], "latency": [9]}
    (found,) = curves.comparisons([ROW | pascal, COSTS | TIMES | pascal | {"counts_seconds": [2.5, 1.5, 11.0]}])
    (point,) = found.curves[0].points
    assert (point.time_ratio, point.counts_time_ratio) == (4.5, 1.25)
    assert tables.time(point) == "4.5 (counts 1.2)"
