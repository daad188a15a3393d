"""The report: a value that survives JSON, and a page that stands alone in both themes."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.extras import MissingExtraError, require
from pascal_ext.reports.report import Layer, Method, Point, Raster, Report

VOID = {"meta", "br", "img", "link", "input"}


def example(**changes: Any) -> Report:
    stock = tuple(Point(f"T = {t}", t, t, accuracy, 9, None, 1.5 * t) for t, accuracy in ((1, 10.0), (8, 97.0)))
    values: dict[str, Any] = {
        "title": "A <title> & more",
        "summary": "What was done.",
        "samples": 360,
        "ann_accuracy": 99.72,
        "methods": (
            Method("stock", "stock", stock),
            Method("ours, free", "converted", (Point("L = 4", 4, 74, 99.44, 1, 0, 2.0),)),
            Method("ours, tuned", "tuned", (Point("L = 2", 2.5, 34, 100.0, 1, 0),)),
        ),
        "focus": "ours, tuned",
        "layers": (Layer("conv.relu", 4, 1.25), Layer("block.relu", 1, 0.0)),
        "raster": Raster({"conv.relu": [[1, 1], [1, 0], [0, 0], [0, 0]], "block.relu": [[0, 1]]}, [[0.0, 1.0]], "a 7"),
        "figures_of_merit": {"accuracy": "99.72%"},
        "notes": ("One note.",),
        "facts": {"command": "pascal-ext demo"},
    }
    return Report(**{**values, **changes})


class Balance(HTMLParser):
    """Holds that every element is closed, and no id is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_json_round_trip(tmp_path: Path) -> None:
    report = example()
    assert Report.from_json(report.to_json(tmp_path / "report.json")) == report
    assert Report.from_json(tmp_path / "report.json") == report
    assert Report.from_json(str(tmp_path / "report.json")) == report


@pytest.mark.parametrize(
    "text", ["{}", "{", '{"format": "x", "version": 1}', '{"format": "pascal-ext report", "version": 9}']
)
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="not a report"):
        Report.from_json(text)
    with pytest.raises(InvalidArgumentError, match=r"cannot read the report 'missing\.json'"):
        Report.from_json("missing.json")
    (tmp_path / "latin.json").write_bytes(text.encode() + b"\xe9")
    with pytest.raises(InvalidArgumentError, match=r"cannot read the report .*latin\.json'"):
        Report.from_json(tmp_path / "latin.json")
    with pytest.raises(InvalidArgumentError, match="kind of method 'x'"):
        Method("x", "best", ())


@pytest.mark.parametrize("write", [Report.to_json, Report.to_html])
@pytest.mark.parametrize("path", [".", "missing/report"])
def test_where_nothing_can_be_written(write: Callable[[Report, Path], str], path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot write the report"):
        write(example(methods=(), layers=(), raster=None), tmp_path / path)


def test_the_page_is_well_formed_and_escaped(tmp_path: Path) -> None:
    page = example().to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert "A &lt;title&gt; &amp; more" in page
    assert page.count("<svg") == 3
    for text in ("99.72", "L = 2", "conv.relu", "1.25 of 4", "a 7", "One note.", "pascal-ext demo"):
        assert text in page


def test_the_page_loads_nothing_and_follows_the_theme() -> None:
    page = example().to_html()
    assert re.findall(r"""(?:src|href)=["'](?!\#)[^"']*|url\((?!\#)[^)]*\)|@import|<script|<link""", page) == []
    assert "prefers-color-scheme: dark" in page
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", figures)) <= set()
    used = set(re.findall(r"var\((--\w+)\)", page))
    assert used <= set(re.findall(r"(--\w+):", page))
    targets = set(re.findall(r'href="#([^"]+)"', figures)) | set(re.findall(r"url\(#([^)]+)\)", figures))
    assert targets <= set(re.findall(r'id="([^"]+)"', figures))


def test_the_same_report_gives_the_same_page() -> None:
    assert example().to_html() == example().to_html()


def test_a_page_without_measurements_layers_or_spikes() -> None:
    page = example(methods=(), layers=(), raster=None, notes=(), figures_of_merit={}).to_html()
    assert "<svg" not in page
    assert "<table" not in page
    page = example(raster=Raster({"a": [[0, 0]]})).to_html()
    assert page.count("<svg") == 3


def test_names_are_shown_as_they_are() -> None:
    """A formula between two dollar signs would be drawn, or refused, in their place."""
    layers = (Layer(r"$\no$", 4, 1.0), Layer("$x$", 2, 1.0))
    page = example(methods=(Method("$a$ and $b$", "converted", (Point("L = 4", 4, 74, 99.0, 1),)),), layers=layers)
    assert all(page.to_html().count(name) >= 1 for name in (r"$\no$", "$x$", "$a$ and $b$"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        MissingExtraError,
        match=re.escape('no_such_module is not installed; get it with: pip install "pascal-ext[report]"'),
    ):
        require("no_such_module.inner", extra="report")
    original = builtins.__import__

    def without_jinja2(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("jinja2"):
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return original(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", without_jinja2)
    with pytest.raises(MissingExtraError, match="jinja2 is not installed"):
        example().to_html()
