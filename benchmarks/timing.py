"""Times side by side: on a machine that others use, too, only a ratio within one run means something."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Times:
    """How long each of some callables took, round by round.

    Attributes:
        wall: name -> seconds by the clock, one for each round.
        cpu: name -> seconds of processor time of this process, in which a busy machine shows less.
    """

    wall: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]

    def seconds(self, name: str) -> float:
        """The median by the clock."""
        return statistics.median(self.wall[name])

    def ratio(self, name: str, base: str) -> dict[str, float]:
        """Median, over the rounds, of the time of ``name`` over that of ``base`` in the same round; and quartiles."""
        wall, cpu = (
            sorted(a / b for a, b in zip(times[name], times[base], strict=True)) for times in (self.wall, self.cpu)
        )
        low, _, high = statistics.quantiles(wall, n=4) if len(wall) > 1 else (wall[0],) * 3
        found = {"wall": statistics.median(wall), "low": low, "high": high, "cpu": statistics.median(cpu)}
        return {key: round(value, 4) for key, value in found.items()}


def interleave(
    functions: Mapping[str, Callable[[], Any]], rounds: int, *, warmup: int = 1, repeat: int = 1, label: str = ""
) -> Times:
    """Call ``functions`` in turn, ``rounds`` times each, in alternating order, so that drifts meet all of them alike.

    Args:
        functions: name -> what to time.
        rounds: how often.
        warmup: calls of each before that, which are not timed.
        repeat: calls within one measurement, for functions much faster than the clock is fine; times are per call.
        label: of the progress bar.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    wall: dict[str, list[float]] = {name: [] for name in functions}
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(rounds), desc=label, leave=False):
        order = list(functions) if turn % 2 else list(functions)[::-1]
        for name in order:
            started, used = time.perf_counter(), time.process_time()
            for _ in range(repeat):
                functions[name]()
            cpu[name].append((time.process_time() - used) / repeat)
            wall[name].append((time.perf_counter() - started) / repeat)
    return Times(wall, cpu)
