"""Result rows: one JSON object a line, each with what is needed to run it again and to judge it."""

from __future__ import annotations

import json
import os
import platform
import warnings
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "lightning", "spikingjelly", "snntorch", "triton", "cupy-cuda12x", "cupy-cuda13x")


def environment() -> dict[str, Any]:
    """Versions, hardware and time."""
    import pascal_ext

    versions = {"python": platform.python_version(), "pascal-ext": pascal_ext.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "hardware": hardware(), "time": _now()}


def hardware() -> dict[str, Any]:
    """The processor, its cores and threads in use, and the GPUs."""
    found: dict[str, Any] = {"cpu": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    """Add ``row`` to a file of JSON lines, on a line of its own also where an interrupted run has left half a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file.

    A line that is no JSON, as an interrupted run leaves one, is left out with a warning.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else [], 1):
        if line:
            try:
                found.append(json.loads(line))
            except ValueError:  # or half a character
                # Told from here, so once, however many read the file.
                warnings.warn(f"{path}, line {number}, is no complete row, and left out: {line[:40]!r}", stacklevel=1)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
