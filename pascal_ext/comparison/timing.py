"""Times side by side: on a machine that others use, too, only a ratio within one run means something."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from tqdm import tqdm


class Device(StrEnum):
    """Where the runners can measure."""

    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """In which dtype of torch."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


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
    functions: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    device: str = Device.CPU,
    warmup: int = 1,
    repeat: int | Mapping[str, int] = 1,
    label: str = "",
) -> Times:
    """Call ``functions`` in turn, ``rounds`` times each, in alternating order, so that drifts meet all of them alike.

    On a GPU the clock starts once all work before is done, and stops once that of the last call is. Processor time then
    holds the time of waiting, too.

    Args:
        functions: name -> what to time.
        rounds: how often.
        device: where they run.
        warmup: calls of each before that, which are not timed.
        repeat: calls within one measurement, of all or by name, for functions much faster than the clock is fine; times
            are per call.
        label: of the progress bar.
    """
    wait = _waiting(device)
    for function in functions.values():
        for _ in range(warmup):
            function()
    wall: dict[str, list[float]] = {name: [] for name in functions}
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(rounds), desc=label, leave=False):
        order = list(functions) if turn % 2 else list(functions)[::-1]
        for name in order:
            calls = repeat if isinstance(repeat, int) else repeat[name]
            seconds, used = _measure(functions[name], calls, wait)
            wall[name].append(seconds / calls)
            cpu[name].append(used / calls)
    return Times(wall, cpu)


def repeats(
    functions: Mapping[str, Callable[[], Any]], seconds: float, *, device: str = Device.CPU, warmup: int = 3
) -> dict[str, int]:
    """Name -> how many calls take ``seconds`` or longer: the first power of two that does."""
    wait = _waiting(device)
    found = {}
    for name, function in functions.items():
        for _ in range(warmup):
            function()
        calls = 1
        while _measure(function, calls, wait)[0] < seconds:
            calls *= 2
        found[name] = calls
    return found


def _measure(function: Callable[[], Any], calls: int, wait: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, that ``calls`` calls take together."""
    wait()
    started, used = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    wait()
    processor = time.process_time() - used
    return time.perf_counter() - started, processor


def _waiting(device: str) -> Callable[[], None]:
    """What waits until the work given to ``device`` is done; on a CPU it is when the call returns."""
    return torch.cuda.synchronize if device == Device.CUDA else _nothing


def _nothing() -> None:
    pass
