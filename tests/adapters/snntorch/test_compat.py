from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import pytest
from torch import nn

from pascal_ext.adapters import snntorch as adapter
from pascal_ext.adapters.snntorch import compat
from pascal_ext.errors import PascalError

NAMES = ("PascalIF", "PascalNetwork", "convert", "latency_currents", "load", "winner_spikes")


def test_this_host_is_tested_with() -> None:
    assert metadata.version("snntorch") in ("0.9.4", "1.0.0")


def test_public_names() -> None:
    assert set(adapter.__all__) == set(NAMES) == set(adapter._HOMES)
    assert set(dir(adapter)) >= set(NAMES)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = adapter.no_such_name


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name: str) -> None:
    assert getattr(adapter, name).__doc__


def test_without_the_host_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snntorch", None)
    monkeypatch.delitem(sys.modules, compat.__name__)
    with pytest.raises(PascalError, match=r'snntorch is not installed.*pip install "pascal-ext\[snntorch\]"'):
        importlib.import_module(compat.__name__)


def test_nothing_imports_the_host_before_it_is_used() -> None:
    code = "import pascal_ext, pascal_ext.adapters.snntorch, sys; sys.exit('snntorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_export_is_noticed_by_who_replaced_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compat.is_exporting_nir()

    def replaced() -> Callable[..., object]:
        def call(module: nn.Module) -> None: ...

        call.__module__ = "nirtorch.graph"
        return call

    monkeypatch.setattr(nn.Module, "__call__", replaced())
    assert compat.is_exporting_nir()
