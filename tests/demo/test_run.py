"""What the demo leaves behind, without the work in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the demo's data comes with scikit-learn")

import pascal_ext
from pascal_ext.adapters.spikingjelly.compat import Converter
from pascal_ext.demo import run
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.reports.report import Report

STOCK_INIT = Converter.__init__


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Instead of the work: what it would have found, if ``mode="pascal"`` is there for it."""

    def report(_: object) -> Report:
        assert Converter.__init__ is not STOCK_INIT
        return Report("demo", "", 1, 100.0)

    monkeypatch.setattr(run._Run, "report", report)
    yield
    pascal_ext.unregister()


@pytest.mark.parametrize("before", [True, False])
def test_the_mode_is_there_afterwards_where_it_was_before(before: bool, tmp_path: Path) -> None:
    if before:
        pascal_ext.register()
    run.run_demo(tmp_path)
    assert (Converter.__init__ is not STOCK_INIT) == before


def test_what_cannot_be_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(InvalidArgumentError, match="cannot be a folder"):
            run.run_demo(output)
