"""What several commands of ``pascal-ext`` take: a model and its weights, and data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pascal_ext.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch import nn

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="package.module:factory, a callable without arguments that gives the model."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(help="Its state dict, or a checkpoint that holds it, .pt or .safetensors.", dir_okay=False),
]
QcfsOption = Annotated[
    str | None,
    typer.Option(help="The weights are those of replace_activations(MODEL): its levels, or the JSON file of its plan."),
]
DataOption = Annotated[
    str | None, typer.Option(help="A folder CLASS/IMAGE.jpg, or package.module:name of a loader, or of what gives one.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images a batch, for a folder.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use so many images of a folder, evenly spaced.")]
ImageSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Resize a folder's images and crop their centre to this size.")
]
MeanOption = Annotated[
    str, typer.Option(metavar="R,G,B", help="Subtracted from a folder's images in [0, 1]; one: read them in grey.")
]
StdOption = Annotated[str, typer.Option(metavar="R,G,B", help="Divides a folder's images after that; one for grey.")]
ExecutionOption = Annotated[str, typer.Option(help="spikes or counts.")]


def check_output(output: Path, *suffixes: str) -> None:
    """Refuse a file that cannot be written, or has none of the ``suffixes``, before the work for it is done."""
    try:
        output.stat()
    except FileNotFoundError:
        if not output.parent.is_dir():
            raise InvalidArgumentError(f"there is no folder {str(output.parent)!r} for {output.name!r}") from None
    except OSError as error:  # a name that is too long, say
        raise InvalidArgumentError(f"{str(output)!r} cannot be written: {error.strerror}") from None
    if output.is_dir():
        raise InvalidArgumentError(f"{str(output)!r} is a folder; give a file in it")
    if suffixes and output.suffix not in suffixes:
        raise InvalidArgumentError(f"{str(output)!r} must end in {' or '.join(suffixes)}, which says what is in it")


def given_model(spec: str, weights: Path | None, qcfs: str | None) -> nn.Module:
    from pascal_ext.command.specs import load_model

    return load_model(spec, weights, qcfs)


def given_data(
    spec: str, batch_size: int, limit: int | None, image_size: int | None, mean: str, std: str
) -> Iterable[Any]:
    from pascal_ext.command.specs import load_data, parse_numbers

    return load_data(
        spec,
        batch_size=batch_size,
        limit=limit,
        image_size=image_size,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
    )
