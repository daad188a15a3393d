"""Result rows: one JSON object a line, each with what is needed to run it again and to judge it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from pascal_ext.comparison import rows
from pascal_ext.comparison.rows import append, read

__all__ = ["RESULTS", "append", "command", "commit", "environment", "of_weights", "read", "title"]

RESULTS = Path(__file__).parent / "results"
#: The fingerprint of data/weights/resnet20_cifar10jpeg.pt, with which all rows were made that have none.
FIRST_WEIGHTS = "0ee71ebb"


def of_weights(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of which each is about a ReLU network, told from others by its weights' ``"fingerprint"``."""
    return [{"fingerprint": FIRST_WEIGHTS, **row} for row in read(path)]


def title(row: dict[str, Any]) -> str:
    """What such a row is about."""
    return f"{row['model']} ({row['fingerprint']}), {row['data']}"


def command(module: str) -> str:
    """The command line that started this process, for a module run with ``python -m``."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Versions, hardware, time and commit."""
    return {**rows.environment(), "commit": commit()}


def commit() -> str:
    """The checkout's commit, with ``+`` where files have changed since; empty outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()
