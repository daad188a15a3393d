"""The command: ``python -m benchmarks.train --help``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import data, rows
from benchmarks.train.finetuning import Recipe
from benchmarks.train.run import Run
from benchmarks.train.training import train
from pascal_ext.errors import PascalError


class Distillation(enum.StrEnum):
    """See :class:`~benchmarks.train.finetuning.Recipe`."""

    none = "none"
    kl = "kl"
    logits = "logits"


DEFAULT = Recipe()


def main(
    root: Annotated[Path, typer.Option("--data", help="Folder of the images.", file_okay=False, exists=True)],
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(data.SOURCES)}.")] = "cifar10-jpeg",
    model: Annotated[str, typer.Option(help="resnet20, resnet56 or torchvision.NAME.")] = "resnet20",
    weights: Annotated[
        Path | None, typer.Option(help="ReLU checkpoint to start from, or IMAGENET1K_V1 ... of torchvision.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A model.pt to go on from, levels changed.", dir_okay=False)
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="NAME=FILE of another ReLU network to distil from.")] = None,
    views: Annotated[
        int, typer.Option(min=0, help="Views of each image that the teacher sees, once; 0: a new one every epoch.")
    ] = 0,
    levels: Annotated[str, typer.Option(help="Levels of every layer, or a plan's JSON file, or 'relu'.")] = "4",
    per_channel: Annotated[bool, typer.Option("--per-channel", help="A threshold for each channel.")] = False,
    calibration_images: Annotated[int, typer.Option(min=1)] = 1000,
    epochs: Annotated[int, typer.Option(min=0, help="0: levels and batch norms change, nothing else.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Of one process.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = DEFAULT.lr,
    threshold_lr: Annotated[float, typer.Option(help="That of thresholds, as a share of it.")] = DEFAULT.threshold_lr,
    weight_decay: Annotated[float, typer.Option(min=0)] = DEFAULT.weight_decay,
    warmup: Annotated[float, typer.Option(help="Share of the steps.")] = DEFAULT.warmup,
    clip: Annotated[float, typer.Option(min=0, help="Largest norm of the gradient.")] = DEFAULT.clip,
    distillation: Annotated[Distillation, typer.Option(help="From the ReLU network.")] = Distillation.none,
    share: Annotated[float, typer.Option(help="Weight of the distillation.")] = DEFAULT.share,
    temperature: Annotated[float, typer.Option(help="Of the distillation.")] = DEFAULT.temperature,
    mixup: Annotated[float, typer.Option(min=0, help="Alpha of mixup; 0: none.")] = DEFAULT.mixup,
    batch_norm_images: Annotated[
        int, typer.Option(min=0, help="Training images for the batch norms' statistics at the end; 0: running ones.")
    ] = DEFAULT.batch_norm_images,
    reallocate_at: Annotated[int | None, typer.Option(min=1, help="Reallocate levels before this epoch.")] = None,
    strategy: Annotated[str, typer.Option(help="Of the reallocation.")] = "al",
    mean_levels: Annotated[float, typer.Option(min=1, help="Budget of the reallocation.")] = 3.0,
    seed: Annotated[int, typer.Option()] = 0,
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and the network.")] = Path("checkpoints/train"),
    results: Annotated[Path, typer.Option(help="File that the row is added to.")] = rows.RESULTS / "train.jsonl",
    restart: Annotated[bool, typer.Option("--restart", help="Do not resume from OUTPUT/last.ckpt.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the training step; one GPU replays it as CUDA graphs.")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes; more than one train with DDP.")] = 1,
    precision: Annotated[
        str, typer.Option(help="32-true, bf16-mixed (on CPUs with avx512_bf16 or amx_bf16) ...")
    ] = "32-true",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images from disk.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    validate_every: Annotated[int, typer.Option(min=1, help="Epochs between looks at the test images.")] = 1,
) -> None:
    """Train a QCFS network and add its accuracy to the results."""
    try:
        recipe = Recipe(
            lr=lr,
            threshold_lr=threshold_lr,
            weight_decay=weight_decay,
            warmup=warmup,
            clip=clip,
            distillation=distillation.value,
            share=share,
            temperature=temperature,
            mixup=mixup,
            batch_norm_images=batch_norm_images,
        )
        run = Run(
            dataset=dataset,
            model=model,
            levels=levels,
            weights=None if weights is None else str(weights),
            start=None if start is None else str(start),
            teacher=teacher,
            views=views,
            per_channel=per_channel,
            calibration_images=calibration_images,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            recipe=recipe,
            reallocate_at=reallocate_at,
            strategy=strategy,
            mean_levels=mean_levels,
        )
        row = train(
            run,
            root,
            output,
            resume=not restart,
            compiled=compiled,
            workers=workers,
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=precision,
            check_val_every_n_epoch=validate_every,
            enable_progress_bar=progress,
        )
    except PascalError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if row is not None:
        rows.append(results, {**row, "command": rows.command("benchmarks.train")})
        typer.echo(f"accuracy {row['accuracy']:.2f}% on {row['test_images']} test images of {row['dataset']}")


if __name__ == "__main__":
    typer.run(main)
