"""The report: measurements as a value that can be saved, and one self-contained HTML page drawn from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.reports import figures
from pascal_ext.reports.pages import template

FORMAT_VERSION = 1
KINDS = ("stock", "converted", "tuned")


@dataclasses.dataclass(frozen=True)
class Point:
    """One network, measured.

    Args:
        label: what tells it from the other points of its method: "T = 16", "L = 4".
        timesteps: simulated timesteps per layer; the mean over the layers where they differ.
        latency: steps from the first input to the answer.
        accuracy: in percent.
        changed: predictions that differ from the ReLU network's.
        mismatched: predictions that differ from the QCFS network it was converted from; None where there is none.
        time_ratio: time for the whole test set, relative to the ReLU network's; None where not measured.
    """

    label: str
    timesteps: float
    latency: int
    accuracy: float
    changed: int
    mismatched: int | None = None
    time_ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to convert, and its points: ``kind`` is "stock", "converted" (training-free) or "tuned" (fine-tuned)."""

    name: str
    kind: str
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidArgumentError(f"kind of method {self.name!r} must be one of {list(KINDS)}, got {self.kind!r}")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the network in focus: its levels, and how many spikes a neuron of it emits on average."""

    name: str
    levels: int
    mean_spikes: float


@dataclasses.dataclass(frozen=True)
class Raster:
    """The spikes of one sample: layer name -> train [levels][neurons] of 0 and 1, and the image, [H][W], if any."""

    trains: Mapping[str, list[list[int]]]
    image: list[list[float]] | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Args:
        title: the heading.
        summary: one paragraph below it.
        samples: how many samples every accuracy and every count of predictions is about.
        ann_accuracy: of the ReLU network, in percent.
        methods: what was measured; may be empty.
        focus: the name of the network that ``layers`` and ``raster`` are about.
        layers: in execution order.
        raster: spikes of one sample.
        figures_of_merit: label -> number, the few that matter, above the first plot.
        notes: paragraphs on how to read the page and what it does not show.
        facts: versions, command, machine.
    """

    title: str
    summary: str
    samples: int
    ann_accuracy: float
    methods: tuple[Method, ...] = ()
    focus: str = ""
    layers: tuple[Layer, ...] = ()
    raster: Raster | None = None
    figures_of_merit: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text; also written to ``path`` where one is given.

        Raises:
            InvalidArgumentError: the file cannot be written.
        """
        data = {"format": "pascal-ext report", "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        text = json.dumps(data, ensure_ascii=False)
        if path is not None:
            _write(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Report:
        """Read a report from JSON text, or from a file (a :class:`~pathlib.Path`, or a string that is not JSON).

        Raises:
            InvalidArgumentError: it is not a report, or one of a newer version, or the file cannot be read.
        """
        if isinstance(source, Path) or not source.lstrip().startswith("{"):
            try:
                source = Path(source).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:  # ValueError: it is not UTF-8, or no name of a file
                raise InvalidArgumentError(f"cannot read the report {str(source)!r}: {error}") from None
        try:
            data: dict[str, Any] = json.loads(source)
            version = data.pop("version")
            if data.pop("format") != "pascal-ext report" or version > FORMAT_VERSION:
                raise InvalidArgumentError(f"not a report that this release reads (up to version {FORMAT_VERSION})")
            data["methods"] = tuple(
                Method(row["name"], row["kind"], tuple(Point(**point) for point in row["points"]))
                for row in data["methods"]
            )
            data["layers"] = tuple(Layer(**row) for row in data["layers"])
            data["raster"] = Raster(**data["raster"]) if data["raster"] else None
            data["notes"] = tuple(data["notes"])
            return cls(**data)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgumentError(f"not a report: {type(error).__name__}: {error}") from None

    def to_html(self, path: str | Path | None = None) -> str:
        """The page: one HTML document, light and dark, with nothing to load; also written to ``path`` where given.

        Raises:
            InvalidArgumentError: the file cannot be written.
            MissingExtraError: matplotlib or jinja2 is not installed.
        """
        page = template("report.html.j2")  # before the work of drawing
        plots = {
            "accuracy": figures.accuracy_figure(self.methods, self.ann_accuracy, self.samples) if self.methods else "",
            "levels": figures.levels_figure(self.layers) if self.layers else "",
            "raster": figures.raster_figure(self.raster) if self.raster and self.raster.trains else "",
        }
        text: str = page.render(report=self, plots=plots)
        if path is not None:
            _write(path, text)
        return text


def _write(path: str | Path, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"cannot write the report {str(path)!r}: {error}") from None
