"""Peak memory of one forward pass.

On a CPU that of a process of its own, ``python -m benchmarks.networks.memory CASE VARIANT SETTING``; on a GPU what the
allocator counts.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks.cases import CASES, GPU_CASES, Setting, Variant, make

STATUS = Path("/proc/self/status")


def measure(case: str, variant: Variant | None, setting: Setting) -> dict[str, float]:
    """MiB: what a process holds before the pass (``before``), and at most during it (``peak``); on a CPU."""
    arguments = [case, json.dumps(asdict(variant) if variant else None), json.dumps(asdict(setting))]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.networks.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_on_gpu(run: Callable[[], Any]) -> dict[str, float]:
    """MiB of tensors, as in :func:`measure`, the scratch memory of convolutions among them.

    Args:
        run: the pass; it has been made before, else cuDNN would try out its algorithms here, and their scratch memory.
    """
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return {"before": round(before / 2**20, 1), "peak": round(peak / 2**20, 1)}


def main(case: str, variant: dict[str, Any] | None, setting: dict[str, Any]) -> None:
    """Run once and print; Linux with glibc only: its high-water mark of resident memory can be set back."""
    torch.set_num_threads(1)
    model, x = make({**CASES, **GPU_CASES}[case], Variant(**variant) if variant else None, Setting(**setting))
    if setting["compiled"]:
        with torch.inference_mode():
            model(x)  # compiles
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
    main(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))
