"""What a verification found, of each layer and in total, as values and as a table."""

from __future__ import annotations

from dataclasses import dataclass

from pascal_ext.conversion.agreement import REASONS


@dataclass(frozen=True)
class LayerReport:
    """One layer: how many of its spike counts were compared, how many differ, and how much it fires.

    Attributes:
        levels: L.
        counts: number of spike counts compared (neurons × samples).
        mismatched: how many of them differ from the QCFS layer's levels.
        max_difference: by how many spikes at most.
        firing_rate: mean of the spikes, in [0, 1].
    """

    name: str
    levels: int
    counts: int
    mismatched: int
    max_difference: int
    firing_rate: float


@dataclass(frozen=True)
class VerificationReport:
    """What :func:`pascal_ext.verify` found; ``print`` it for a table.

    Attributes:
        samples: samples compared.
        layers: layer name -> :class:`LayerReport`.
        mismatched_counts: spike counts that differ from the QCFS network's, over all layers.
        mismatched_predictions: samples whose argmax over dimension 1 differs (0 for outputs without classes).
        max_abs_error: largest difference of any output element.
        changed_by_quantisation: samples whose prediction the quantisation itself changes, against the ReLU network;
            None where the ANN is the QCFS network.
        ties: spike counts that lay on a floor boundary to within rounding, and that the ANN's rounding settled.
        outputs_agree: whether every output is the QCFS network's, to half of the digits of its dtype.
        graph_agrees: likewise, whether the QCFS (or ReLU) network as it is gives what its graph gives, from which the
            spiking network was made: a forward hook, say, is in no graph.
        nan_samples: samples for which the QCFS network's own outputs have NaN. Spiking ones that are NaN in the same
            places are the same, but say nothing.
    """

    samples: int
    layers: dict[str, LayerReport]
    mismatched_predictions: int
    max_abs_error: float
    changed_by_quantisation: int | None = None
    ties: int = 0
    outputs_agree: bool = True
    graph_agrees: bool = True
    nan_samples: int = 0

    @property
    def mismatched_counts(self) -> int:
        return sum(layer.mismatched for layer in self.layers.values())

    @property
    def compared_counts(self) -> int:
        """Number of spike counts compared, over all layers."""
        return sum(layer.counts for layer in self.layers.values())

    @property
    def exact(self) -> bool:
        """No spike count, no prediction and no output differs, and the graph is that of the network."""
        same = self.mismatched_counts == 0 and self.mismatched_predictions == 0
        return same and self.outputs_agree and self.graph_agrees

    def __str__(self) -> str:
        width = max([5, *map(len, self.layers)])
        lines = [f"{'layer':<{width}}  levels  firing rate        counts  differ  by at most"]
        lines += [
            f"{layer.name:<{width}}  {layer.levels:>6}  {layer.firing_rate:>11.4f}  {layer.counts:>12,}  "
            f"{layer.mismatched:>6,}  {layer.max_difference:>10}"
            for layer in self.layers.values()
        ]
        share = self.mismatched_counts / max(self.compared_counts, 1)
        verdict = "exact" if self.exact else "not exact"
        lines.append(
            f"{verdict}: {self.mismatched_predictions} of {self.samples:,} predictions and "
            f"{self.mismatched_counts:,} of {self.compared_counts:,} spike counts ({share:.1e}) differ; "
            f"largest output error {self.max_abs_error:.3g}"
        )
        if self.ties:
            lines.append(
                f"{self.ties:,} of these counts lay on a floor boundary, and were settled by the ANN's rounding"
            )
        if not self.outputs_agree:
            lines.append(
                "outputs differ by more than half of the digits of the largest element of that output; of outputs that "
                "cancel to nearly nothing, this may be rounding"
            )
        if not self.graph_agrees:
            lines.append(
                f"the network itself gives other outputs than its graph, with which the spikes were compared: {REASONS}"
            )
        if self.nan_samples:
            lines.append(
                f"the QCFS network's own outputs for {self.nan_samples:,} of {self.samples:,} samples are NaN, and say "
                "nothing: look for NaN or Inf in the data or the weights"
            )
        if self.changed_by_quantisation is not None:
            lines.append(
                f"quantisation itself changed {self.changed_by_quantisation} of {self.samples:,} predictions of the "
                "ReLU network; the comparison above is with its QCFS twin"
            )
        return "\n".join(lines)
