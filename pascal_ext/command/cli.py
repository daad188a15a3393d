"""The ``pascal-ext`` command."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pascal_ext.command.options import (
    BatchSizeOption,
    DataOption,
    ExecutionOption,
    ImageSizeOption,
    LimitOption,
    MeanOption,
    ModelArgument,
    QcfsOption,
    StdOption,
    WeightsOption,
    check_output,
    given_data,
    given_model,
)
from pascal_ext.errors import InvalidArgumentError, PascalError

app = typer.Typer(
    help="Exact ANN-to-SNN conversion (PASCAL): convert a model, verify it, report on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("pascal-demo"),
    seed: Annotated[int, typer.Option(help="Of the weights and the order of the training images.")] = 0,
) -> None:
    """Train, convert, fine-tune, verify and compare on scikit-learn's digits; half a minute, and a report."""
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # torch warns of Triton's absence by itself
    from pascal_ext.demo import Settings, run_demo, text

    console = Console()
    report = run_demo(output, Settings(seed=seed), console)
    console.print()
    console.print(text.table(report))
    console.print(f"\nThe report: [bold]{output / 'report.html'}[/bold]")


@app.command()
def convert(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the spiking network, .safetensors.")],
    data: DataOption = None,
    weights: WeightsOption = None,
    qcfs: QcfsOption = None,
    levels: Annotated[
        str | None,
        typer.Option(help="Levels of every layer, the JSON file of a plan, or auto. [default: 8, or learnt]"),
    ] = None,
    on_unsupported: Annotated[str, typer.Option(help="raise, or analog: run such operations as in the ANN.")] = "raise",
    execution: ExecutionOption = "spikes",
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Convert MODEL into a spiking network and save it; a ReLU model is calibrated on --data."""
    import pascal_ext
    from pascal_ext.command.specs import parse_levels

    check_output(output)
    ann = given_model(model, weights, qcfs)
    loader = None if data is None else given_data(data, batch_size, limit, image_size, mean, std)
    wanted = None if levels is None else parse_levels(levels)
    snn = pascal_ext.convert(ann, loader, wanted, execution=execution, on_unsupported=on_unsupported)
    pascal_ext.save(snn, output)
    console = Console()
    console.print(
        f"{output}: {len(snn.neurons)} layers, {snn.plan.mean_levels:.3g} timesteps on average, latency {snn.latency}"
    )
    for node in snn.analog_nodes:
        console.print(f"  runs as in the ANN: {node}", markup=False)


@app.command()
def allocate(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="See convert.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the plan, .json.")],
    weights: WeightsOption = None,
    qcfs: QcfsOption = None,
    strategy: Annotated[str, typer.Option(help="sensitivity, or al: the paper's metric.")] = "sensitivity",
    mean_levels: Annotated[
        float | None, typer.Option(help="Budget: mean of the levels. [default: 4 where no budget is given]")
    ] = None,
    effective_timesteps: Annotated[float | None, typer.Option(help="Budget: T_eff.")] = None,
    energy: Annotated[float | None, typer.Option(help="Budget: nanojoules a sample.")] = None,
    latency: Annotated[float | None, typer.Option(help="Budget: timesteps from input to output.")] = None,
    choices: Annotated[
        str | None, typer.Option(metavar="L,L,...", help="Levels to choose from. [default: 1,2,3,4,6,8,12,16]")
    ] = None,
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Choose the levels of each layer of MODEL and write the plan, for convert --levels."""
    import pascal_ext
    from pascal_ext.allocation.planning import CHOICES
    from pascal_ext.command.specs import parse_whole_numbers

    check_output(output)
    plan = pascal_ext.allocate(
        given_model(model, weights, qcfs),
        given_data(data, batch_size, limit, image_size, mean, std),
        strategy,
        mean_levels=mean_levels,
        effective_timesteps=effective_timesteps,
        energy=energy,
        latency=latency,
        choices=CHOICES if choices is None else parse_whole_numbers("--choices", choices),
    )
    plan.to_json(output)
    console = Console()
    for name, layer_levels in plan.items():
        console.print(f"{layer_levels:4d}  {name}  {plan.reasons.get(name, '')}", markup=False, highlight=False)
    console.print(f"{output}: {plan.mean_levels:.3g} levels on average")


@app.command()
def reconstruct(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the weights, .safetensors.")],
    data: Annotated[str, typer.Option(help="See convert; some hundred images of all kinds, without labels.")],
    weights: WeightsOption = None,
    levels: Annotated[str, typer.Option(help="Levels of every layer, or the JSON file of a plan.")] = "8",
    steps: Annotated[int, typer.Option(min=1, help="Steps, each of 64 images.")] = 320,
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = 1000,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Adjust the weights of a ReLU MODEL to so many levels, for convert --weights FILE --qcfs LEVELS."""
    import pascal_ext
    from pascal_ext.command.specs import parse_levels, save_weights

    check_output(output, ".safetensors")
    wanted = parse_levels(levels)
    if isinstance(wanted, str):
        raise InvalidArgumentError(f"give a number of levels, or the plan that allocate wrote, not {wanted!r}")
    loader = given_data(data, batch_size, limit, image_size, mean, std)
    save_weights(pascal_ext.reconstruct(given_model(model, weights, None), loader, wanted, steps=steps), output)
    Console().print(f"{output}: use it as --weights {output} --qcfs {levels}", markup=False, highlight=False)


@app.command()
def verify(
    model: ModelArgument,
    network: Annotated[Path, typer.Argument(help="The spiking network that convert saved.", dir_okay=False)],
    data: Annotated[str, typer.Option(help="See convert.")],
    weights: WeightsOption = None,
    qcfs: QcfsOption = None,
    execution: ExecutionOption = "spikes",
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Compare NETWORK with MODEL, layer by layer; the exit status is 1 where the two are not exactly equal."""
    import pascal_ext

    snn = pascal_ext.load(network)
    snn.execution = execution
    found = pascal_ext.verify(
        given_model(model, weights, qcfs), snn, given_data(data, batch_size, limit, image_size, mean, std)
    )
    Console().print(str(found), markup=False, highlight=False)
    if not found.exact:
        raise typer.Exit(1)


@app.command()
def compare(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="Labelled test images; see convert.")],
    calibration: Annotated[str, typer.Option(help="Images to calibrate on, like --data.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for rows, page, figures, CSV and tables.")],
    weights: WeightsOption = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE:LEVELS, fine-tuned QCFS weights and their levels, see --qcfs; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A name in docs/comparison.md; may be repeated. [default: all]")
    ] = None,
    timesteps: Annotated[int, typer.Option(min=1, help="T of rate coding.")] = 64,
    measure: Annotated[str, typer.Option(help="accuracy, costs or all.")] = "all",
    calibration_images: Annotated[
        int, typer.Option(min=1, help="So many of --calibration: of a folder evenly spaced, else the first.")
    ] = 1000,
    device: Annotated[str, typer.Option(help="cpu or cuda, there in float32 without TF32.")] = "cpu",
    batch_size: BatchSizeOption = 50,
    limit: LimitOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Set PASCAL beside SpikingJelly and others on MODEL: accuracy at every T, operations, energy, time, memory."""
    from pascal_ext.command.specs import parse_networks
    from pascal_ext.comparison.compare import compare
    from pascal_ext.comparison.tables import summary
    from pascal_ext.comparison.workload import checked

    where, named = checked(device), parse_networks("--network", network or [])
    found = compare(
        given_model(model, weights, None).to(where),
        given_data(calibration, batch_size, calibration_images, image_size, mean, std),
        given_data(data, batch_size, limit, image_size, mean, std),
        output,
        networks={name: given_model(model, file, levels or None).to(where) for name, (file, levels) in named.items()},
        methods=method,
        timesteps=timesteps,
        measure=measure,
        calibration_images=calibration_images,
        name=model.rpartition(":")[2],
        data=Path(data).resolve().name if Path(data).is_dir() else data,
        command=shlex.join(["pascal-ext", *sys.argv[1:]]),
    )
    console = Console()
    console.print(summary(found))
    console.print(f"The comparison: [bold]{output / 'report.html'}[/bold]")


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="A spiking network that convert saved, or a report's .json.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, .html; a .json is written beside it.")],
    model: Annotated[str | None, typer.Option(help="What the network was converted from: see convert.")] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    qcfs: QcfsOption = None,
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = "",
    std: StdOption = "",
) -> None:
    """Write a page about a converted network (verification, levels, spikes), or draw a saved report again."""
    from pascal_ext.reports.report import Report

    check_output(output, ".html", ".htm")
    if source.suffix == ".json":
        page = Report.from_json(source)
    else:
        if model is None or data is None:
            raise InvalidArgumentError("a report on a network needs --model and --data, to compare and to run it with")
        from pascal_ext.reports.network_report import network_report
        from pascal_ext.saving.io import load

        loader = given_data(data, batch_size, limit, image_size, mean, std)
        page = network_report(given_model(model, weights, qcfs), load(source), loader, name=source.stem)
        page.to_json(output.with_suffix(".json"))
    page.to_html(output)
    Console().print(f"The report: [bold]{output}[/bold]")


def main() -> None:
    """Run the command; an error of this package is one line and exit status 2, not a traceback."""
    try:
        app()
    except PascalError as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {type(error).__name__}:", end=" ")
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        sys.exit(2)
