"""From a trained model to a spiking network that computes the same function."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from pascal_ext.activations import put_qcfs, qcfs_layers, relu_layers
from pascal_ext.allocation.planning import allocate
from pascal_ext.calibration.thresholds import calibrate
from pascal_ext.conversion.agreement import warn_of_another_graph
from pascal_ext.conversion.lowering import Lowering
from pascal_ext.data import first_batch
from pascal_ext.errors import InvalidArgumentError, PlanError, UnsupportedOperationError
from pascal_ext.graph.traceable import check_has_values, unwrapped
from pascal_ext.graph.tracing import trace
from pascal_ext.network.counting import counts_graph
from pascal_ext.network.folding import fold_batch_norms
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF, check_execution
from pascal_ext.observers import makes_weights
from pascal_ext.ops.pasc_if import check_backend
from pascal_ext.plan import Levels, levels_of

CALIBRATION_OPTIONS = frozenset({"method", "per_channel", "percentile", "correct"})


def convert(
    model: nn.Module,
    dataloader: Iterable[Any] | None = None,
    levels: Levels | str | None = None,
    *,
    execution: str = "spikes",
    backend: str = "auto",
    on_unsupported: str = "raise",
    fold_batch_norm: bool = False,
    calibration: Mapping[str, Any] | None = None,
    neuron: type[PascIF] = PascIF,
    network: type[SpikingNetwork] = SpikingNetwork,
    progress: bool = True,
) -> SpikingNetwork:
    """Convert a trained network into a PASCAL spiking network (arXiv 2505.01730) that computes the same function.

    A model with :class:`~pascal_ext.QCFS` activations is converted as it is, with its own thresholds and levels.
    ReLU-like activations are first replaced by QCFS, and their thresholds calibrated on ``dataloader``, without
    training.

    Args:
        model: any module that ``torch.fx`` can trace, see :func:`pascal_ext.graph.tracing.trace`. It is never changed.
        dataloader: batches for calibration; needed where the model has ReLU-like activations, or asks for shapes.
        levels: levels of the ReLU-like activations: one number for all (8 where nothing is said), a mapping from layer
            name to levels (8 for layers it does not name), a :class:`~pascal_ext.LevelPlan` for exactly these layers,
            or ``"auto"`` to let :func:`pascal_ext.allocate` choose (4 on average). Learnt QCFS layers keep their own:
            they may be named, but only with the levels they have.
        execution: ``"spikes"`` or ``"counts"``; can be changed later (:attr:`SpikingNetwork.execution`).
        backend: see :func:`pascal_ext.functional.pasc_if`; of spikes whose ties are not settled, see docs/backends.md.
        on_unsupported: ``"raise"``, or ``"analog"``: where an operation has no spiking counterpart, decode (take the
            temporal mean), run it once, and go on with one timestep; ``analog_nodes`` of the result lists such places.
        fold_batch_norm: fold batch norms into the convolutions before them, which is faster, most of all in counts. The
            folded weights round differently than the ANN does: in float32 a neuron in a million then differs, and deep
            networks spread that, so it is off unless asked for.
        calibration: keyword arguments of :func:`pascal_ext.calibrate`. ``{"correct": "bias", "per_channel": "auto"}``
            is the most accurate, but holds the activations of all batches in memory: give it some hundred samples.
        neuron: the class of the neurons; framework adapters hand in their own.
        network: the class of the result; likewise.
        progress: show a progress bar while calibrating.

    Returns:
        A network in evaluation mode, on the device and in the dtype of ``model``, that shares no tensor with it.

    Raises:
        InvalidArgumentError: an option (also one of ``calibration``) is unknown, or ReLU-like activations are there
            and no dataloader, or tensors of the model are on the meta device.
        PlanError: ``levels`` does not fit the model.
        CalibrationError: see :func:`pascal_ext.calibrate`.
        TracingError: see :func:`pascal_ext.graph.tracing.trace`.
        UnsupportedOperationError: an operation has no exact spiking counterpart.

    Warns:
        UserWarning: on the first batch for calibration the model gives other outputs than its graph; or no activation
            of the model is one that spikes can stand for; or layers have forward hooks, which activations lose, and
            which see other values at other layers.
    """
    if isinstance(model, SpikingNetwork):
        raise InvalidArgumentError("the model is a spiking network already; hand in the ANN")
    check_execution(execution)
    check_backend(backend)
    if not isinstance(calibration, Mapping | None):
        raise InvalidArgumentError(
            f"calibration must be keyword arguments of calibrate(), as {{'correct': 'bias'}}, got {calibration!r}"
        )
    unknown = (calibration or {}).keys() - CALIBRATION_OPTIONS
    if unknown:
        raise InvalidArgumentError(f"calibration has {sorted(unknown)}; it takes {sorted(CALIBRATION_OPTIONS)}")
    if on_unsupported not in ("raise", "analog"):
        raise InvalidArgumentError(f"on_unsupported={on_unsupported!r} is unknown; choose 'raise' or 'analog'")
    options = {**(calibration or {}), "progress": progress}
    traced = trace(model, dataloader)
    check_has_values(traced)
    if relu_layers(traced) and (batch := first_batch(dataloader, model)) is not None:
        warn_of_another_graph(unwrapped(model), traced, batch)
    quantised = _quantise(traced, dataloader, levels, options)
    _check_thresholds(quantised)
    _warn_of_hooks(quantised)
    if fold_batch_norm:
        fold_batch_norms(quantised)
    for name, qcfs in qcfs_layers(quantised).items():
        quantised.set_submodule(name, neuron.from_qcfs(qcfs, backend))
    lowered = Lowering(quantised, analog=on_unsupported == "analog").run()
    snn = network(quantised, counts_graph(quantised), lowered.graph, lowered.latency, tuple(lowered.analog_nodes))
    snn.execution = execution
    if not snn.neurons:
        warnings.warn("no layer of the network spikes: the model has no ReLU-like activation", stacklevel=2)
    return snn


def check_is_ann(model: nn.Module, neurons: tuple[type[nn.Module], ...]) -> None:
    """Refuse a network that spikes already, in which ``neurons`` are.

    Raises:
        UnsupportedOperationError: there is one; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, neurons):
            raise UnsupportedOperationError(
                f"{name or 'the model'!r} is a {type(module).__name__}, a spiking neuron: hand in the ANN, the same "
                "layers with nn.ReLU or pascal_ext.QCFS where the neurons are"
            )


def _quantise(
    traced: fx.GraphModule, dataloader: Iterable[Any] | None, levels: Levels | str | None, options: Mapping[str, Any]
) -> fx.GraphModule:
    """``traced`` itself, with QCFS activations only, calibrated, at the levels asked for."""
    learnt = {name: layer.levels for name, layer in qcfs_layers(traced).items()}
    plain = relu_layers(traced)
    if plain and dataloader is None:
        raise InvalidArgumentError(
            f"the model has ReLU-like activations {list(plain)}, whose thresholds must be calibrated: pass a "
            "dataloader (or replace them first: pascal_ext.replace_activations, calibrate, fine-tune)"
        )
    if levels == "auto" and plain:
        assert dataloader is not None
        levels = allocate(traced, dataloader, only=plain, progress=options["progress"])
    elif isinstance(levels, str) and levels != "auto":
        raise PlanError(f"levels={levels!r} is unknown; give a number, a mapping, a LevelPlan or 'auto'")
    wanted = {} if levels is None or isinstance(levels, str) else levels_of(levels, [*learnt, *plain], learnt)
    if not plain:
        return traced
    put_qcfs(traced, wanted)
    assert dataloader is not None
    return calibrate(traced, dataloader, only=plain, **options)


def _check_thresholds(quantised: fx.GraphModule) -> None:
    for name, layer in qcfs_layers(quantised).items():
        threshold = layer.threshold.detach()
        if not bool((threshold.isfinite() & (threshold != 0)).all()):
            raise InvalidArgumentError(
                f"layer {name!r} has a threshold that is zero or not finite: {threshold.tolist()}; calibrate it again"
            )


def _warn_of_hooks(quantised: fx.GraphModule) -> None:
    """Of the user's own; torch's compute weights (older weight and spectral norm, pruning), and do so as before."""
    hooked = []
    for name, module in quantised.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if not all(map(makes_weights, hooks)):
            hooked.append(name)
    if hooked:
        warnings.warn(
            f"{hooked} have forward hooks. The neurons in the place of activations have none, and those of other "
            "layers get the spikes of all timesteps, [T·N, ...]; what they change belongs into forward()",
            stacklevel=3,
        )
