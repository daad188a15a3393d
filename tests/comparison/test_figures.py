"""The comparison's figures show what is on their scale, and tell curves and networks apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pascal_ext.comparison import figures
from pascal_ext.comparison.curves import Comparison, Curve, Point
from pascal_ext.comparison.methods import METHODS

pytest.importorskip("matplotlib")


def point(timesteps: float, accuracy: float, energy: float) -> Point:
    return Point(timesteps, timesteps, int(3 * timesteps), accuracy, accuracy, accuracy, 0, None, 2, None, 1, energy)


def curve(method: str, network: str, *points: Point) -> Curve:
    return Curve(METHODS[method], network, 100, 90, None, points, None, None, None, ())


CURVES = (
    curve("sj-max", "", point(1, 10, 0.01), point(2, 12, 0.02), point(64, 85, 2)),
    curve("sj-ltb", "", point(1, 10, 0.001), point(64, 30, 3)),
    curve("qcfs-if", "u4", point(4, 80, 0.3)),
    curve("pascal-free-8", "", point(8, 88, 0.5)),
    curve("pascal", "u2", point(2, 86, 0.25)),
    curve("pascal", "u4", point(4, 89, 0.3)),
)


def drawn(*curves: Curve) -> Any:
    found = Comparison("a network", "some images", 1.0, 1.0, curves, (), ())
    return figures._figure(found, figures.FIGURES["energy"](found), figures.LIGHT)


def test_every_curve_has_a_style_of_its_own() -> None:
    rate_coded = [name for name, method in METHODS.items() if method.kind in ("stock", "rate")]
    assert list(figures.STYLES) == rate_coded
    assert len({repr(style) for style in figures.STYLES.values()}) == len(rate_coded)


def test_the_legend_says_what_lies_below_the_scale() -> None:
    (legend,) = drawn(*CURVES).legends
    texts = [text.get_text() for text in legend.get_texts()]
    balancing = METHODS["sj-ltb"].title
    assert [text for text in texts if text.startswith(balancing)] == [f"{balancing}: below 45"]
    assert {METHODS["sj-max"].title, "PASCAL, fine-tuned", "PASCAL without training"} <= set(texts)
    lines = {text: handle.get_linestyle() for text, handle in zip(texts, legend.legend_handles, strict=True)
             if hasattr(handle, "get_linestyle")}  # fmt: skip
    assert lines[f"{balancing}: below 45"] == "None"


def test_fine_tuned_networks_are_named_beside_their_points() -> None:
    for axis in drawn(*CURVES).axes:
        assert {text.get_text(): text.xy[1] for text in axis.texts} == {"u2": 86, "u4": 89}


def test_limits_and_ticks_are_those_of_visible_points() -> None:
    energy, _ = drawn(*CURVES[:4]).axes
    low, high = energy.get_xlim()
    assert 0.2 < low < 0.3  # not 0.001, which is below the scale
    assert 2 < high < 3
    assert [text.get_text() for text in energy.get_xticklabels()] == ["0.5", "1", "2"]
    drawn(*CURVES[4:])  # nothing but points with names
    drawn(dataclasses.replace(CURVES[2], points=(dataclasses.replace(CURVES[2].points[0], joules=None),)))
