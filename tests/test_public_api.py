"""The public names are a promise: adding one is a decision, losing one breaks users."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import pascal_ext

PUBLIC = {
    "QCFS", "LevelPlan", "PascIF", "SpikingNetwork", "adapters", "al_metric", "allocate", "calibrate", "compare",
    "convert", "energy", "errors", "functional", "load", "pareto", "reconstruct", "register", "replace_activations",
    "save", "set_levels", "unregister", "verify",
}  # fmt: skip


def test_public_names() -> None:
    assert set(pascal_ext.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_name_is_documented_and_found_where_the_type_checker_finds_it(name: str) -> None:
    value = getattr(pascal_ext, name)
    assert inspect.getdoc(value)
    if not inspect.ismodule(value):
        assert typed_imports()[name] == value.__module__


def test_typed_imports_are_the_public_names() -> None:
    assert set(typed_imports()) == PUBLIC


def test_dir_lists_the_public_names_and_others_are_attribute_errors() -> None:
    assert set(dir(pascal_ext)) >= PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = pascal_ext.no_such_name


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ("replace_activations", ["model", "levels"]),
        ("set_levels", ["model", "levels"]),
        ("al_metric", ["activations", "bins"]),
        ("allocate", ["model", "dataloader", "strategy"]),
        ("calibrate", ["model", "dataloader"]),
        ("compare", ["model", "calibration", "test", "output"]),
        ("convert", ["model", "dataloader", "levels"]),
        ("pareto", ["model", "dataloader", "strategy"]),
        ("reconstruct", ["model", "dataloader", "levels"]),
        ("verify", ["ann", "snn", "dataloader"]),
        ("save", ["snn", "path"]),
        ("load", ["path"]),
        ("QCFS", ["levels", "threshold"]),
    ],
)
def test_leading_parameters(function: str, parameters: list[str]) -> None:
    signature = inspect.signature(getattr(pascal_ext, function))
    assert list(signature.parameters)[: len(parameters)] == parameters


def test_pasc_if_parameters() -> None:
    signature = inspect.signature(pascal_ext.functional.pasc_if)
    assert list(signature.parameters) == ["x_seq", "v_threshold", "levels", "backend"]


def typed_imports() -> dict[str, str]:
    """Name -> module, as the ``if TYPE_CHECKING`` block of ``pascal_ext/__init__.py`` has them."""
    tree = ast.parse(Path(pascal_ext.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}
