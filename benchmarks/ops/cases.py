"""The cases: currents [T1, N], and who is to answer them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pascal_ext import functional
from pascal_ext.adapters.spikingjelly.compat import VERSION, load


@dataclass(frozen=True)
class Case:
    """T1 steps of currents into N neurons, that emit for L steps."""

    window: int
    levels: int
    neurons: int


CASES = (
    *(Case(steps, steps, 1 << 20) for steps in (1, 2, 4, 8, 16)),  # growth with T
    *(Case(8, 8, neurons) for neurons in (1 << 14, 1 << 16, 1 << 18, 1 << 22)),  # growth with N
    Case(1, 8, 1 << 20),
    Case(8, 1, 1 << 20),
)


def host_neuron(x_seq: Tensor, levels: int) -> Callable[[], Any]:
    """SpikingJelly's IFNode with soft reset on the same currents: T1 steps in, T1 steps out."""
    node = load("neuron").IFNode(v_threshold=1.0 / levels, v_reset=None, step_mode="m").eval()

    def run() -> Any:
        node.reset()
        return node(x_seq)

    return run


def competitors(case: Case) -> dict[str, Callable[[], Any]]:
    """Name -> call, all on the same currents."""
    x_seq = torch.rand(case.window, case.neurons) * 2 - 0.5
    return {
        "pasc_if": lambda: functional.pasc_if(x_seq, 1.0, case.levels),
        "counts": lambda: functional.pasc_if_counts(x_seq, 1.0, case.levels),
        "literal loop": lambda: functional.pasc_if(x_seq, 1.0, case.levels, "reference"),
        f"SpikingJelly {VERSION} IFNode": host_neuron(x_seq, case.levels),
        "copy": lambda: x_seq.clone(),
    }
