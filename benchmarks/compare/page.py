"""The comparison as one self-contained HTML page, light and dark, made from result rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import figures
from benchmarks.compare.curves import Comparison, Curve, Point
from benchmarks.compare.tables import MISSING, NEAR, costs, measured_on, nearest, time
from pascal_ext.energy import HOROWITZ_45NM
from pascal_ext.extras import require

TEMPLATES = Path(__file__).parent / "templates"


def html(comparisons: Sequence[Comparison], rows: Iterable[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        comparisons: see :func:`benchmarks.compare.curves.compare`.
        rows: those that they were made from, for versions and commits.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.FileSystemLoader(TEMPLATES), jinja2.PackageLoader("pascal_ext", "templates")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text: str = environment.get_template("comparison.html.j2").render(
        title="Conversions beside each other",
        comparisons=comparisons,
        facts=_facts(comparisons, rows),
        energies=HOROWITZ_45NM,
        svg=figures.svg,
        drawable=figures.drawable,
        near=NEAR,
        nearest=nearest,
        costs=costs,
        time=time,
        missing=MISSING,
        shown=_shown,
        commands=_commands,
    )
    return text


def _shown(curve: Curve) -> list[Point]:
    """The points of a table: after 1, 2, 4, ... timesteps, and the last."""
    last = curve.points[-1]
    return [point for point in curve.points if point is last or (point.timesteps % 1 == 0 and _power(point.timesteps))]


def _power(timesteps: float) -> bool:
    return int(timesteps).bit_count() == 1


def _commands(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(command for curve in comparison.curves for command in curve.commands))


def _facts(comparisons: Iterable[Comparison], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Versions and commits of the rows, and what was measured on which processor, each once."""
    facts: dict[str, dict[str, None]] = {"versions": {}}
    for comparison in comparisons:
        for name, machines in measured_on(comparison).items():
            facts.setdefault(name, {}).update(dict.fromkeys(machines))
    for row in rows:
        facts["versions"][", ".join(f"{name} {version}" for name, version in row["versions"].items())] = None
        facts.setdefault("commits", {})[row["commit"]] = None
    return {name: "; ".join(values) or MISSING for name, values in facts.items()} | {"energy": HOROWITZ_45NM.source}
