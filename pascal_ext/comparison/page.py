"""The comparison as one self-contained HTML page, light and dark, made from result rows alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pascal_ext.comparison import figures, tables
from pascal_ext.comparison.curves import Comparison, Curve, Point, comparisons
from pascal_ext.energy import HOROWITZ_45NM
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.reports.pages import template


def write(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Comparison]:
    """Write the page, the figures, the CSV file and the Markdown tables into ``folder``; from rows alone.

    Returns:
        What the rows are about, see :func:`pascal_ext.comparison.curves.comparisons`.

    Raises:
        InvalidArgumentError: no row is about the accuracy of a method.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    found = comparisons(rows)
    if not found:
        refused = {row["method"]: row["refused"] for row in rows if "refused" in row}
        told = "".join(f"; {method} was left out: {reason}" for method, reason in refused.items())
        raise InvalidArgumentError(f"there are no rows of a comparison, or none on accuracy{told}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(html(found, rows), encoding="utf-8")
    (folder / "points.csv").write_text(tables.to_csv(found), encoding="utf-8")
    (folder / "tables.md").write_text(tables.document(found), encoding="utf-8")
    for comparison in found:
        for name, suffix in itertools.product(figures.drawable(comparison), ("png", "svg")):
            figures.save(comparison, name, folder / f"{figures.slug(comparison)}-{name}.{suffix}")
    return found


def html(found: Sequence[Comparison], rows: Iterable[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        found: see :func:`pascal_ext.comparison.curves.comparisons`.
        rows: those that they were made from, for versions and commits.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    text: str = template("comparison.html.j2").render(
        title="Conversions beside each other",
        comparisons=found,
        facts=_facts(found, rows),
        energies=HOROWITZ_45NM,
        svg=figures.svg,
        drawable=figures.drawable,
        near=tables.NEAR,
        nearest=tables.nearest,
        costs=tables.costs,
        time=tables.time,
        missing=tables.MISSING,
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
    return list(dict.fromkeys(command for curve in comparison.curves for command in curve.commands if command))


def _facts(found: Iterable[Comparison], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Versions and commits of the rows, and what was measured on which processor, each once."""
    facts: dict[str, dict[str, None]] = {"versions": {}}
    for comparison in found:
        for name, machines in tables.measured_on(comparison).items():
            facts.setdefault(name, {}).update(dict.fromkeys(machines))
    for row in rows:
        facts["versions"][", ".join(f"{name} {version}" for name, version in row["versions"].items())] = None
        if row.get("commit"):
            facts.setdefault("commits", {})[row["commit"]] = None
    return {name: "; ".join(values) or tables.MISSING for name, values in facts.items()} | {
        "energy": HOROWITZ_45NM.source
    }
