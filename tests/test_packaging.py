"""The wheel holds the package, adapters included, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import pascal_ext

ROOT = Path(__file__).parent.parent
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"


def sources() -> dict[str, Path]:
    """The place in the wheel of every file that belongs there -> where it is."""
    files = {}
    for folder, home in (("pascal_ext", "pascal_ext"), ("adapters", "pascal_ext/adapters")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".j2", ".typed"}:
                files[f"{home}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources by the installed setuptools, without the network."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("building the wheel needs setuptools >= 77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pascal_ext", "adapters", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_exactly_the_package(wheel: zipfile.ZipFile) -> None:
    contents = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert contents == set(sources())
    assert {"pascal_ext/py.typed", "pascal_ext/adapters/__init__.py"} <= contents


def test_wheel_carries_licence_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"pascal_ext-{pascal_ext.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "pascal-ext = pascal_ext.command.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in wheel.read(f"{info}/METADATA").decode()


def test_every_installed_file_imports_as_a_package() -> None:
    folders = {path.parent for path in sources().values() if path.suffix == ".py"}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_citation_has_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == pascal_ext.__version__


def test_all_extra_names_every_extra_without_a_gpu() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    named = set(re.fullmatch(r"pascal-ext\[(.+)\]", everything)[1].split(","))
    assert named == set(extras) - {"triton", "cupy12x", "cupy13x"}
