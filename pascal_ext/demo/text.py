"""What the demo says: sentences computed from the measurements, and the table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from pascal_ext.reports.report import Method, Point, Report
from pascal_ext.verification.results import VerificationReport

NEAR = 0.5  # points: "as accurate as the ReLU network"


def summary(train_samples: int, test_samples: int) -> str:
    """The paragraph below the title."""
    return (
        f"A small residual network learnt {train_samples} of scikit-learn's 8×8 digits with ReLU. Here it is turned "
        f"into spiking networks, by PASCAL and by SpikingJelly's own converters, and tested on {test_samples} others."
    )


def figures_of_merit(
    ann_accuracy: float, focus: Point, found: Sequence[VerificationReport], counts_ratio: float
) -> dict[str, str]:
    """The four numbers at the top of the page."""
    predictions, samples = sum(one.mismatched_predictions for one in found), sum(one.samples for one in found)
    counts, compared = sum(one.mismatched_counts for one in found), sum(one.compared_counts for one in found)
    return {
        "accuracy of the ReLU network": f"{ann_accuracy:.2f}%",
        f"accuracy of PASCAL, fine-tuned, at {focus.timesteps:.3g} timesteps per layer": f"{focus.accuracy:.2f}%",
        f"of {samples} predictions of {len(found)} PASCAL networks differ from the networks they were converted from, "
        f"and {counts} of {compared / 1e6:.1f} million spike counts": str(predictions),
        "the time of the ReLU network, when run on spike counts": f"{counts_ratio:.1f}×",
    }


def notes(methods: Sequence[Method], ann_accuracy: float, samples: int) -> tuple[str, ...]:
    """How to read the page, and what it does not show."""
    latencies = [point.latency for method in methods if method.kind != "stock" for point in method.points]
    low, high = wilson_interval(ann_accuracy / 100, samples)
    return (
        "A PASCAL network computes what its QCFS network computes, whose activations have L levels: the column "
        "“≠ QCFS” counts exceptions. What those levels cost is in the column “≠ ReLU”: without training it is "
        "what rounding does, and fine-tuning wins it back.",
        f"Timesteps are not latency. {_nearest('stock', methods, ann_accuracy)} "
        f"{_nearest('pascal', methods, ann_accuracy)} PASCAL's layers each wait for a whole window, so its answers "
        f"take {min(latencies)} to {max(latencies)} steps here, and there is none before. Choose it for few spikes, "
        "little computation and answers that equal its QCFS network's; where a rough answer after a few steps is "
        "wanted, rate coding gives one.",
        f"One image of {samples} is {100 / samples:.2f} points, and the 95% interval of the ReLU network's accuracy is "
        f"{100 * low:.1f} to {100 * high:.1f}: read nothing into a difference of an image or two. The digits are easy, "
        "so that most methods get close in the end.",
        "All conversions start from the same ReLU network and calibrate on the same training images; the fine-tuned "
        "ones were also trained for a few more epochs, with the ReLU network as their teacher. Times are of one thread "
        "of the CPU, all spikes simulated.",
    )


def _nearest(kind: str, methods: Sequence[Method], ann_accuracy: float) -> str:
    """The fewest timesteps with which a method comes within :data:`NEAR` points of the ReLU network, as a sentence."""
    ours = kind == "pascal"
    points = [
        (point.timesteps, method.name, point) for method in methods if (method.kind != "stock") == ours
        for point in method.points if point.accuracy >= ann_accuracy - NEAR
    ]  # fmt: skip
    who = "PASCAL" if ours else "rate coding"
    if not points:
        return f"No {who} network here comes within {NEAR} points of the ReLU network."
    timesteps, name, point = min(points, key=lambda entry: entry[:2])
    verb = "needs" if not ours else "gets there with"
    subject = f"The first rate-coded network within {NEAR} points of ReLU ({name})" if not ours else name
    return f"{subject} {verb} {timesteps:.3g} timesteps, after {point.latency} steps in all."


def wilson_interval(share: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share measured on ``samples`` samples, (low, high)."""
    centre = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return (centre - half) / scale, (centre + half) / scale


def table(report: Report) -> Table:
    """The measurements for the terminal; the rows of the page, in 80 columns."""
    table = Table(title=f"{report.title}: {report.samples} test images", title_justify="left", box=None, pad_edge=False)
    table.collapse_padding = True
    table.add_column("conversion", no_wrap=True)
    for heading in ("accuracy", "timesteps", "latency", "≠ ReLU", "≠ QCFS", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("ReLU network", f"{report.ann_accuracy:.2f}%", "", "", "", "", "1.0×")
    for method in report.methods:
        table.add_row()
        for index, point in enumerate(method.points):
            table.add_row(
                method.name if index == 0 else "",
                f"{point.accuracy:.2f}%",
                f"{point.timesteps:.3g}",
                str(point.latency),
                str(point.changed),
                "" if point.mismatched is None else str(point.mismatched),
                "" if point.time_ratio is None else f"{point.time_ratio:.1f}×",
                style="" if method.kind == "stock" else "bold",
            )
    table.caption = "≠ counts predictions that differ; QCFS is the network that was converted; time is relative to ReLU"
    table.caption_justify = "left"
    return table
