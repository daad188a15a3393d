"""A report on one converted network: how it compares with its ANN, its levels, its spikes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pascal_ext.data import batches, call
from pascal_ext.energy import HOROWITZ_45NM, measure
from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.observers import evaluating
from pascal_ext.reports.report import Layer, Raster, Report
from pascal_ext.verification.recording import mean_spikes, spike_trains
from pascal_ext.verification.verify import verify

_COST_NOTE = (
    f"Energy is that of additions and multiply-accumulates alone ({HOROWITZ_45NM.ac * 1e12:.3g} and "
    f"{HOROWITZ_45NM.mac * 1e12:.3g} pJ; {HOROWITZ_45NM.source}): memory traffic and neuron updates, which a chip pays "
    "as well, are not in it."
)


def network_report(ann: nn.Module, snn: SpikingNetwork, dataloader: Iterable[Any], name: str = "network") -> Report:
    """Verify ``snn`` against ``ann`` on ``dataloader`` and gather what a report shows.

    Args:
        ann: the ReLU or QCFS network that ``snn`` was converted from.
        snn: the converted network.
        dataloader: batches that can be gone through several times; with classes, [N] for outputs [N, C]
            or [N, ...] for [N, C, ...], where the accuracy is to be told.
        name: what the page calls the network.

    Raises:
        CalibrationError: the loader is empty or yields no inputs.
    """
    found = verify(ann, snn, dataloader)
    spikes = mean_spikes(snn, dataloader)
    right, labelled = _score(snn, dataloader)
    costs = _costs(ann, snn, dataloader)
    layers = tuple(Layer(layer, levels, spikes[layer]) for layer, levels in snn.plan.items())
    merit = {
        f"predictions of {found.samples} that differ from its ANN's": str(found.mismatched_predictions),
        "spike counts that differ": str(found.mismatched_counts),
        "timesteps per layer, on average": f"{snn.plan.mean_levels:.3g}",
        "steps until the answer": str(snn.latency),
        **costs,
    }
    if labelled:
        merit = {"accuracy": f"{100 * right / labelled:.2f}%", **merit}
    notes = [_COST_NOTE] if costs else []
    if snn.analog_nodes:
        notes.append(f"These operations run as in the ANN, on decoded values: {', '.join(snn.analog_nodes)}.")
    return Report(
        title=name,
        summary=f"A PASCAL spiking network of {len(layers)} layers, compared with the network it was converted from.",
        samples=found.samples,
        ann_accuracy=0.0,
        focus=name,
        layers=layers,
        raster=_raster(snn, dataloader),
        figures_of_merit=merit,
        notes=tuple(notes),
        facts={"largest error of an output": f"{found.max_abs_error:.3g}", "torch": torch.__version__},
    )


def _costs(ann: nn.Module, snn: SpikingNetwork, dataloader: Iterable[Any]) -> dict[str, str]:
    """Operations and their energy, beside the ANN's; nothing where there are operations that cannot be counted."""
    try:
        cost, dense = measure(snn, dataloader), measure(ann, dataloader)
    except UnsupportedOperationError:
        return {}
    energies = [f"{report.energy_joules * 1e6:.3g}" for report in (cost, dense)]
    t_eff = {} if cost.effective_timesteps is None else {"T_eff": f"{cost.effective_timesteps:.3g}"}
    return {
        **t_eff,
        "synaptic operations per sample": f"{cost.synaptic_operations:,.0f}",
        "MACs per sample; of its ANN": f"{cost.macs:,.0f}; {dense.macs:,.0f}",
        "energy of these operations in µJ; of its ANN": "; ".join(energies),
    }


@torch.no_grad()
def _score(snn: SpikingNetwork, dataloader: Iterable[Any]) -> tuple[int, int]:
    """(right predictions, predictions with a class to compare them with)."""
    right = labelled = 0
    with evaluating(snn), snn.configured(step_mode="s"):
        for batch in batches(dataloader, snn):
            answer, target = call(snn, batch), batch.target
            if _are_classes(target, answer):
                known = target >= 0  # a negative number stands for no class, as -100 in torch's losses
                right += int((answer.argmax(1) == target)[known].sum())
                labelled += int(known.sum())
    return right, labelled


def _are_classes(target: Any, answer: Any) -> bool:
    """Whether ``target`` has one integer for each place of the class scores ``answer``, [N, C, ...]."""
    if not isinstance(answer, Tensor) or not isinstance(target, Tensor) or answer.ndim < 2 or answer.shape[1] < 2:
        return False
    whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    return whole and target.shape == (len(answer), *answer.shape[2:])


def _raster(snn: SpikingNetwork, dataloader: Iterable[Any]) -> Raster:
    args, kwargs, _ = next(iter(batches(dataloader, snn)))
    first = [value[:1] if isinstance(value, torch.Tensor) else value for value in args]
    keywords: dict[str, Any] = {
        key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in kwargs.items()
    }
    return Raster(spike_trains(snn, *first, **keywords), label="first sample")
