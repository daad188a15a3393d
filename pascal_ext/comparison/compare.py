"""Methods beside each other on a model and data of one's own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pascal_ext.comparison import given, page, rows, runner
from pascal_ext.comparison.curves import Comparison
from pascal_ext.comparison.methods import METHODS, Method, find
from pascal_ext.comparison.runner import Measure
from pascal_ext.comparison.workload import Workload, fingerprint, in_float32
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.extras import require

ROWS = "rows.jsonl"
_log = logging.getLogger(__name__)


def compare(
    model: nn.Module,
    calibration: Iterable[Any],
    test: Iterable[Any],
    output: str | Path = "comparison",
    *,
    networks: Mapping[str, nn.Module] | None = None,
    methods: Iterable[str] | None = None,
    timesteps: int = 64,
    measure: str = "all",
    calibration_images: int = 1000,
    name: str | None = None,
    data: str = "test data",
    command: str = "",
) -> Comparison:
    """Convert a classifier with SpikingJelly's methods, others' and PASCAL, and see what each of them gives and costs.

    All methods start from the same model and calibrate on the same images; SpikingJelly's get it with modules in the
    place of functions such as ``F.relu`` where they refuse those. Into ``output`` go ``rows.jsonl``, with all that was
    measured, and a page, figures, a CSV file and Markdown tables made from it. What has a row is not measured again: an
    interrupted comparison goes on where it was, and more methods may be added later. Ctrl-C leaves a page of what was
    measured so far.

    Args:
        model: with ReLU activations, images [N, ...] -> logits [N, classes], on a CPU or a GPU; it is copied. A softmax
            at its end, or the logarithm of one, is left out, which keeps the order of the classes.
        calibration: batches of images, or (images, labels); labels are not looked at. A comparison goes on only where
            they come in the same order again: take a loader that does not shuffle.
        test: batches (images, labels [N]) in an order that stays the same; it is read more than once.
        output: a folder; one for each model and data.
        networks: name -> the model with QCFS activations, fine-tuned, for the methods that start from one: PASCAL, and
            rate coding with IF neurons, SRP and COS. Of one that was changed since, the rows are measured anew.
        methods: names in :data:`pascal_ext.comparison.methods.METHODS`; all where None.
        timesteps: T of rate coding, which is read out after every step up to it.
        measure: ``"accuracy"``, ``"costs"`` (operations, energy, time, memory) or ``"all"``.
        calibration_images: how many of the first images of ``calibration`` are used, in whole batches.
        name, data: what tables and figures call the model (its class) and the data.
        command: that makes the rows again, for the page.

    Returns:
        Curves of all methods; a method that refuses the model is in ``refused``, with its reason.

    Raises:
        InvalidArgumentError: the model is no classifier of such images, its outputs are not finite or it has QCFS
            activations; one of ``networks`` has others, or other outputs; labels are out of range; the test data are
            others each time; ``output`` is about something else or cannot be written; an argument is unknown or out of
            range; costs alone are asked for where there are no accuracies yet; or no method could be measured.
        CalibrationError: a loader has no images.
        TracingError: one of ``networks`` cannot be traced.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        require(package, extra="report")
    if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
        raise InvalidArgumentError(f"timesteps must be a whole number of at least 1, got {timesteps!r}")
    if measure not in list(Measure):
        raise InvalidArgumentError(f"measure={measure!r} is unknown; choose one of {[str(kind) for kind in Measure]}")
    if isinstance(calibration_images, bool) or not isinstance(calibration_images, int) or calibration_images < 1:
        raise InvalidArgumentError(
            f"calibration_images must be a whole number of at least 1, got {calibration_images!r}"
        )
    chosen = _chosen(methods, bool(networks))
    made = given.workload(
        model,
        calibration,
        test,
        name=name or type(model).__name__,
        title=data,
        networks=networks or {},
        timesteps=timesteps,
        calibration_images=calibration_images,
    )
    path = Path(output) / ROWS
    known = rows.read(path)
    try:
        about = {(row["suite"], row["model"], row["data"]) for row in known}
    except (KeyError, TypeError) as error:
        raise InvalidArgumentError(f"{str(path)!r} holds rows of something else; give a new folder") from error
    if not about <= {(made.suite, made.model, made.title)}:
        raise InvalidArgumentError(
            f"{str(path)!r} is about another model, other data or names; give a new folder. If none of these has "
            "changed, the calibration loader gives other images each time: give one that does not shuffle, nor augment "
            "at random"
        )
    if measure == Measure.COSTS and all(row["shard"] is None or "refused" in row for row in known):
        raise InvalidArgumentError(
            f"costs are shown at accuracies, and {str(path)!r} has none: give measure='all', or 'accuracy' first"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"output={str(output)!r} cannot be a folder: {error}") from error
    try:
        with in_float32(made.device):
            runner.run(
                made,
                chosen,
                path,
                commands={method.name: command for method in chosen},
                environment=rows.environment(),
                measure=Measure(measure),
            )
    except KeyboardInterrupt:
        with contextlib.suppress(InvalidArgumentError):  # interrupted before the first row on accuracy
            _write(made, path)
            _log.warning("interrupted; a page of what was measured is in %s, and the same call goes on", path.parent)
        raise
    return _write(made, path)


def _write(made: Workload, path: Path) -> Comparison:
    """Write the page of the rows in ``path`` beside it, but for those of networks that have changed since."""
    current = {name: fingerprint(network) for name, network in made.networks.items()}
    about_current = [
        row for row in rows.read(path) if row["fingerprint"] == current.get(row["network"], row["fingerprint"])
    ]
    (comparison,) = page.write(about_current, path.parent)
    return comparison


def _chosen(names: Iterable[str] | None, networks: bool) -> list[Method]:
    """The methods called so; all that have what they start from, where None.

    Raises:
        InvalidArgumentError: there is none, or a name is unknown or of a method that needs a network.
    """
    if names is None:
        return [method for method in METHODS.values() if networks or not method.needs_qcfs]
    if isinstance(names, str):
        raise InvalidArgumentError(f"methods must be a list of names, got {names!r}; give methods=[{names!r}]")
    chosen = [find(name) for name in dict.fromkeys(names)]
    if not chosen:
        raise InvalidArgumentError(f"methods has no names; give some of {list(METHODS)}, or None for all")
    for method in chosen:
        if method.needs_qcfs and not networks:
            raise InvalidArgumentError(
                f"method {method.name!r} starts from a network with QCFS activations: give one in networks= (--network)"
            )
    return chosen
