"""T_eff of the level lists that the authors of PASCAL published: as published, and corrected.

    python -m benchmarks.published

The level lists and the coefficients are facts of https://github.com/BrainSeek-Lab/PASCAL, commit a4e3afb (the file of
each is named below); no code is from there. A coefficient there is r = 4 / (3 · fan_in), and is given here as the
fan-in that it stands for. One row for each list is written to ``results/t_eff.jsonl``. docs/energy.md tells what is
wrong with the published figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from pascal_ext.energy import effective_timesteps

RESULTS = rows.RESULTS / "t_eff.jsonl"
SOURCE = "https://github.com/BrainSeek-Lab/PASCAL, commit a4e3afb"


@dataclass(frozen=True)
class PublishedPlan:
    """Levels of one network, and what its T_eff was computed from.

    Attributes:
        levels: of each layer of neurons, in order.
        found_in: the file they are in.
        fan_in: of the convolution or linear layer before each layer of neurons; shortcuts are left out, as there.
        published_fan_in: those that the published coefficients stand for.
        printed: the T_eff that is printed for it, as far as known.
    """

    network: str
    data: str
    levels: tuple[int, ...]
    found_in: str
    fan_in: tuple[int, ...]
    published_fan_in: tuple[int, ...]
    printed: float | None = None

    @property
    def corrected(self) -> float:
        """T_eff of all layers, with their own fan-ins."""
        return effective_timesteps(self.levels, self.fan_in)

    @property
    def published(self) -> float:
        """T_eff as the authors' script computes it."""
        return effective_timesteps(self.levels, self.published_fan_in, published=True)


def resnet_fan_in(blocks: tuple[int, ...], stem: int) -> tuple[int, ...]:
    """Fan-ins of a ResNet of basic blocks: the stem's, then 3×3 convolutions of 64, 128, 256 and 512 channels."""
    convolutions = [
        width // 2 if stage and index == 0 else width
        for stage, (width, number) in enumerate(zip((64, 128, 256, 512), blocks, strict=True))
        for index in range(2 * number)
    ]
    return (stem, *(9 * channels for channels in convolutions))


VGG_CONVOLUTIONS = (27, 576, 576, 1152, 1152, 2304, 2304, 2304, *[4608] * 5)
RESNET18_PUBLISHED = (288, 2304, 2304, 4608, 4608, 9216, 9216, 18432, 18432, 512)
RESNET34_PUBLISHED = (216, *[2304] * 3, *[4608] * 4, *[9216] * 6, *[18432] * 3, 512)

PLANS = (
    PublishedPlan(
        "ResNet-18",
        "CIFAR-10",
        (4, 4, 4, 1, 4, 4, 4, 1, 4, 1, 1, 1, 1, 1, 1, 1, 4),
        "models/ResNet.py",
        resnet_fan_in((2, 2, 2, 2), 27),
        RESNET18_PUBLISHED,
        printed=3.14,
    ),
    PublishedPlan(
        "ResNet-18",
        "not said",
        (4, 2, 4, 1, 4, 2, 2, 1, 4, 2, 2, 1, 4, 1, 1, 1, 4),
        "README.md",
        resnet_fan_in((2, 2, 2, 2), 27),
        RESNET18_PUBLISHED,
    ),
    PublishedPlan(
        "VGG-16",
        "CIFAR-10",
        (8, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 4, 8, 8, 8),
        "models/VGG.py",
        (*VGG_CONVOLUTIONS, 512, 4096),
        (*VGG_CONVOLUTIONS, 512, 512, 512),
    ),
    PublishedPlan(
        "ResNet-34",
        "ImageNet",
        (16, 16, 16, *[8, 16] * 12, *[8] * 6),
        "get_Teff.py",
        resnet_fan_in((3, 4, 6, 3), 147),
        RESNET34_PUBLISHED,
    ),
)


def main(output: Annotated[Path, typer.Option(help="file of result rows, written anew")] = RESULTS) -> None:
    """Print the table, and write the rows."""
    table = Table("network", "data", "layers", "mean T", "T_eff printed", "as published", "layers used", "corrected")
    output.unlink(missing_ok=True)
    for plan in PLANS:
        used, mean = min(len(plan.levels), len(plan.published_fan_in)), sum(plan.levels) / len(plan.levels)
        row = {
            "network": plan.network, "data": plan.data, "levels": plan.levels, "fan_in": plan.fan_in,
            "published_fan_in": plan.published_fan_in, "mean T": mean, "T_eff printed": plan.printed,
            "T_eff as published": plan.published, "layers used": used, "T_eff corrected": plan.corrected,
            "source": f"{SOURCE}, {plan.found_in}",
        }  # fmt: skip
        rows.append(output, {**row, "command": rows.command("benchmarks.published"), **rows.environment()})
        figures = (f"{value:.2f}" for value in (plan.published, plan.corrected))
        published, corrected = figures
        printed = f"{plan.printed:.2f}" if plan.printed else "?"
        table.add_row(
            plan.network, plan.data, str(len(plan.levels)), f"{mean:.2f}", printed, published, str(used), corrected
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
