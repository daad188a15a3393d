"""Making the spiking networks, and one view of all of them: logits summed up to each answer, and when that comes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES
from pascal_ext.comparison.modules import in_modules
from pascal_ext.comparison.rate_network import RateNetwork
from pascal_ext.data import split_batch
from pascal_ext.plan import LevelPlan

Batches = Sequence[tuple[Tensor, Tensor]]
FOLDED = 400  # images times steps that a rate-coded network is given at once: more is slower on a CPU
FOLDED_ON_GPU = 2**15  # a GPU wants many, but some launches have no room for 2¹⁶; of larger images it is fewer
SMALL = 32 * 32  # pixels that those have
LEAST_READOUT = 4  # outputs that SpikingJelly's delayed readout leaves, at least


@dataclasses.dataclass(frozen=True)
class Part:
    """A network whose operations are counted.

    Attributes:
        network: what runs.
        calls: how often it is called for one answer; None: once.
        presentations: how many timesteps the image is presented for.
    """

    network: nn.Module
    calls: int | None
    presentations: int


@dataclasses.dataclass
class Conversion:
    """A spiking network as it is measured.

    Attributes:
        network: the module itself.
        sums: images [N, ...] -> logits summed over the steps up to each answer, [answers, N, C].
        timesteps: of each answer: the T that papers print. A PASCAL network has one answer, after the mean of L.
        per_layer: of each answer: steps that a layer is simulated for, extra steps included; their mean over the layers
            of a PASCAL network.
        latency: of each answer: steps from the first input to it.
        source: the QCFS network that it stands for, where there is one.
        anchors: timesteps whose operations are counted; between them they grow evenly.
        parts: timesteps -> the networks that do together what an answer after so many takes.
        delay: outputs that a delayed readout leaves out.
        counts: of a PASCAL network: images -> logits, by way of spike counts; None for others.
    """

    network: nn.Module
    sums: Callable[[Tensor], Tensor]
    timesteps: list[float]
    per_layer: list[float]
    latency: list[int]
    anchors: list[int]
    parts: Callable[[int], list[Part]]
    source: nn.Module | None = None
    delay: int = 0
    counts: Callable[[Tensor], Tensor] | None = None

    def answers(self, sums: Tensor, delayed: bool) -> Tensor:
        """The logits that decide, [answers, N, C], up to a factor."""
        if not delayed:
            return sums
        answers = range(1, len(sums) + 1)
        starts = [start if step >= start + LEAST_READOUT else max(step - LEAST_READOUT - 1, 0)
                  for step, start in zip(answers, itertools.repeat(self.delay))]  # fmt: skip
        padded = torch.cat([torch.zeros_like(sums[:1]), sums])
        return sums - padded[starts]


def convert_stock(
    network: nn.Module, calibration: Batches, timesteps: int, *, method: str, updates: int | None = None
) -> Conversion:
    """One of SpikingJelly's own methods; ``updates``: see :func:`repeated`.

    A model that they refuse as it is, they get once more with modules in the place of functions.
    """
    batches = calibration if updates is None else repeated(calibration, updates)
    try:
        snn = stock.convert_stock(network, batches, method)
    except Exception:  # a converter by others may raise anything
        snn = stock.convert_stock(in_modules(network, calibration[0][0]), batches, method)
    steps = list(range(1, timesteps + 1))

    def sums(images: Tensor) -> Tensor:
        means = stock.running_mean(snn, images, timesteps)
        return torch.stack([mean * step for step, mean in enumerate(means, 1)])

    return Conversion(
        snn,
        sums,
        [*map(float, steps)],
        [*map(float, steps)],
        steps,
        anchors(timesteps),
        lambda answer: [Part(snn, answer, answer)] if answer else [],
        delay=stock.readout_delay(snn, calibration, 10**6) if HAS_RECIPES else 0,
    )


def convert_rate(
    network: fx.GraphModule, calibration: Batches, timesteps: int, *, kind: str, extra: int = 0
) -> Conversion:
    """Rate coding of a QCFS network: see :class:`~pascal_ext.comparison.rate_network.RateNetwork`."""
    snn = RateNetwork(network, kind, timesteps, extra)

    def sums(images: Tensor) -> Tensor:
        parts = [snn(part).cumsum(0) for part in images.split(max(1, folded(images) // snn.steps))]
        return torch.cat(parts, 1)

    def parts(answer: int) -> list[Part]:
        if kind == "cos":  # the steps that look for the offset, and the answer
            wanted = [RateNetwork(network, kind, steps, extra) for steps in (extra, answer) if steps]
        elif answer:
            wanted = [RateNetwork(network, kind, answer, extra)]
        else:
            wanted = [RateNetwork(network, "if", extra)] if extra else []
        return [Part(one, None, one.steps) for one in wanted]

    return Conversion(
        snn,
        sums,
        [float(step) for step in range(1, timesteps + 1)],
        [float(steps) for steps in snn.per_layer],
        snn.latency,
        anchors(timesteps, least=extra if kind == "cos" else 1),
        parts,
        source=network,
    )


def convert_pascal(
    network: nn.Module,
    calibration: Batches,
    timesteps: int,
    *,
    levels: int | LevelPlan | None = None,
    mean_levels: float | None = None,
    adjust: bool = False,
) -> Conversion:
    """PASCAL, spike by spike: of a trained QCFS network, or, with ``levels``, of a ReLU network without training.

    Its levels may be planned (``mean_levels``), and its weights may be adjusted to them (``adjust``).
    """
    source = network
    if mean_levels is not None:
        levels = pascal_ext.allocate(network, calibration, mean_levels=mean_levels, per_channel=True, progress=False)
    if levels is not None and adjust:
        source = pascal_ext.reconstruct(network, calibration, levels, progress=False)
    elif levels is not None:
        source = pascal_ext.replace_activations(network, levels, example=calibration[0])
        pascal_ext.calibrate(source, calibration, correct="bias", per_channel="auto", progress=False)
    snn = pascal_ext.convert(source)
    steps = snn.plan.mean_levels

    def counts(images: Tensor) -> Tensor:
        with snn.configured(execution="counts"):
            logits: Tensor = snn(images)
        return logits

    return Conversion(
        snn,
        lambda images: snn(images).unsqueeze(0),
        [steps],
        [steps],
        [snn.latency],
        [round(steps)],
        lambda answer: [Part(snn, None, 1)],
        source,
        counts=counts,
    )


FAMILIES: dict[str, Callable[..., Conversion]] = {
    "stock": convert_stock,
    "rate": convert_rate,
    "pascal": convert_pascal,
}


def anchors(timesteps: int, least: int = 1) -> list[int]:
    """0, the powers of two from ``least`` on, and ``timesteps``."""
    powers = [2**power for power in range(timesteps.bit_length())]
    return sorted({0, least, timesteps, *(power for power in powers if least <= power <= timesteps)})


def folded(images: Tensor) -> int:
    """Images times steps that a rate-coded network is given at once."""
    if not images.is_cuda:
        return FOLDED
    return FOLDED_ON_GPU * SMALL // max(SMALL, images[0, 0].numel())


def repeated(calibration: Iterable[Any], updates: int) -> list[tuple[Tensor, Tensor]]:
    """The same images in ``updates`` small batches, over and over where there are too few for ten in each.

    Local threshold balancing raises its thresholds from 0 by twice a batch's mean overflow, so what counts is how many
    batches there are: SpikingJelly's ImageNet example has 391, of 50,000 images.
    """
    batches = [split_batch(batch) for batch in calibration]
    images, labels = torch.cat([batch.args[0] for batch in batches]), torch.cat([batch.target for batch in batches])
    small = list(zip(images.split(10), labels.split(10), strict=True))
    return list(itertools.islice(itertools.cycle(small), updates))
