"""Peak memory of one forward pass, in a process of its own: ``python -m benchmarks.networks.memory CASE VARIANT``."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks.cases import CASES, Variant, make

STATUS = Path("/proc/self/status")


def measure(case: str, variant: Variant | None) -> dict[str, float]:
    """MiB: what the process holds before the pass (``before``), and at most during it (``peak``)."""
    arguments = [case, json.dumps(asdict(variant) if variant else None)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.networks.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(case: str, variant: dict[str, Any] | None) -> None:
    """Run once and print; Linux with glibc only: its high-water mark of resident memory can be set back."""
    torch.set_num_threads(1)
    model, x = make(CASES[case], Variant(**variant) if variant else None)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else the pass would fill what building the network has left behind
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    with torch.inference_mode():
        model(x)
    print(json.dumps({"before": before, "peak": _status("VmHWM")}))


def _status(key: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return round(int(line.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
