from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pascal_ext.adapters.spikingjelly import compat
from pascal_ext.errors import PascalError


def test_this_host_is_known() -> None:
    assert compat.VERSION in ("0.0.0.0.14", "2.0.0")
    assert compat.VERSION.startswith("2.") == compat.HAS_RECIPES


def test_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    monkeypatch.setattr(compat, "installed_version", lambda: None)
    with pytest.raises(compat.UnsupportedHostError, match=r'pip install "spikingjelly>=0\.0\.0\.0\.14"'):
        compat.load("base_that_was_never_imported")


def test_version_that_lacks_a_module_is_named() -> None:
    with pytest.raises(ImportError, match=rf"SpikingJelly {compat.VERSION} cannot be used: No module named"):
        compat.load("no_such_module")


def test_unknown_converter_is_refused_with_its_version() -> None:
    with pytest.raises(PascalError, match=rf"SpikingJelly {compat.VERSION} has a converter that pascal-ext"):
        compat.has_recipes(SimpleNamespace(Converter=object))


def test_missing_dependency_of_the_host_is_not_taken_for_a_missing_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'requests'", name="requests")

    monkeypatch.setattr(compat.importlib, "import_module", fail)
    with pytest.raises(compat.UnsupportedHostError, match=r"cannot be used: No module named 'requests'"):
        compat.load("ann2snn")
