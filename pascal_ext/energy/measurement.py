"""Running a network on data, and counting what it does."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pascal_ext.data import batches, call, cloned
from pascal_ext.energy.cost import EnergyReport, LayerCost, NeuronCost
from pascal_ext.energy.cost_model import HOROWITZ_45NM, OperationEnergies
from pascal_ext.energy.effective import network_effective_timesteps
from pascal_ext.energy.origins import Origin
from pascal_ext.energy.synapses import SynapseCounter, Tally
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.outputs import nan_samples
from pascal_ext.graph.traceable import unwrapped
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.observers import evaluating
from pascal_ext.plan import check_levels


@torch.no_grad()
def measure(
    network: nn.Module,
    dataloader: Iterable[Any],
    *,
    timesteps: int | None = None,
    reset: Callable[[nn.Module], Any] | None = None,
    analog_inputs: bool = False,
    energies: OperationEnergies = HOROWITZ_45NM,
    progress: bool = True,
) -> EnergyReport:
    """Count what ``network`` does for one sample, on average over ``dataloader``.

    Every convolution and matrix product is counted with the input that it really gets: accumulates where that are
    spikes, multiply-accumulates where it is analog, as in the first layer, after an average pooling, and in an ANN; see
    :mod:`pascal_ext.energy.synapses`. So one function serves three kinds of networks:

    - a :class:`~pascal_ext.SpikingNetwork`, in its "spikes" execution;
    - an ANN, called once a batch;
    - any other spiking network (SpikingJelly's converter's, say), called ``timesteps`` times a batch with the same
      input. One that takes a sequence is measured within a module that makes the sequence, and with no ``timesteps``.

    Args:
        network: run in evaluation mode, without gradients; left as it was, with its state reset. Of a wrapped one
            (``DataParallel``, say), what is within.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them.
        timesteps: T, how often a spiking network of single steps is called; None for a network whose one call is a
            complete presentation.
        reset: sets the state of all neurons to its beginning, called before each batch with the network; by default,
            with ``timesteps``, ``reset()`` of each module that has it, as SpikingJelly's neurons do (snnTorch's want
            ``snntorch.utils.reset``). Without, the network may be an ANN, whose ``reset()`` may start its weights anew:
            then only that of SpikingJelly's modules, and of modules in which there are no parameters.
        analog_inputs: charge multiply-accumulates to whatever reads the network's inputs, where their values would be
            taken for spikes: of binary images, say.
        energies: of one operation.
        progress: show a progress bar.

    Raises:
        InvalidArgumentError: ``timesteps`` is not a whole number of at least 1, or is given for a
            :class:`~pascal_ext.SpikingNetwork`, which has its own; a :class:`~pascal_ext.SpikingNetwork` is a part of
            the network; or a ``reset()`` needs arguments.
        CalibrationError: the loader is empty, or yields no inputs; or currents or outputs are NaN.
        UnsupportedOperationError: the network has torch's own recurrent layers, whose operations cannot be counted.
    """
    network = unwrapped(network)
    ours = isinstance(network, SpikingNetwork)
    if ours and timesteps is not None:
        raise InvalidArgumentError("a SpikingNetwork has its own timesteps; leave timesteps out")
    calls = 1 if timesteps is None else check_levels(timesteps, "timesteps")
    _check_parts(network)
    reset = reset or functools.partial(_reset, all_modules=timesteps is not None)
    counter, samples = SynapseCounter(), 0
    try:
        with evaluating(network), _observed(network) as observed:
            for batch in batches(dataloader, network, "energy" if progress else None):
                reset(network)
                batch = cloned(batch)
                with counter.watching(network, (batch.args, batch.kwargs)):
                    for _ in range(calls):
                        output = call(network, batch)
                _check_nans(nan_samples(output), "the network's outputs")
                samples += _batch_size((batch.args, batch.kwargs))
    finally:
        reset(network)
    spiking = {
        name: tally
        for name, tally in counter.tallies.items()
        if tally.reads_spikes(samples) and not (analog_inputs and Origin.INPUT in tally.origin)
    }
    return EnergyReport(
        samples=samples,
        layers={
            name: _layer(name, tally, name in spiking, samples, energies) for name, tally in counter.tallies.items()
        },
        timesteps=network.plan.mean_levels if isinstance(network, SpikingNetwork) else calls,
        latency=network.latency if isinstance(network, SpikingNetwork) else calls,
        neurons={name: neurons.cost() for name, neurons in observed.items()},
        effective_timesteps=network_effective_timesteps(network) if isinstance(network, SpikingNetwork) else None,
        energies=energies,
        _spikes=(sum(tally.spikes for tally in spiking.values()), sum(tally.inputs for tally in spiking.values())),
    )


def _layer(name: str, tally: Tally, spikes: bool, samples: int, energies: OperationEnergies) -> LayerCost:
    macs = 0.0 if spikes else tally.dense / samples
    accumulates = tally.sparse / samples if spikes else 0.0
    return LayerCost(
        name=name,
        reads_spikes=spikes,
        synapses=tally.dense / samples,
        macs=macs,
        synaptic_operations=accumulates,
        firing_rate=tally.spikes / max(tally.inputs, 1) if spikes else None,
        energy_joules=macs * energies.mac + accumulates * energies.ac,
        reads_input=tally.origin == Origin.INPUT,
    )


def _check_nans(count: int, where: str) -> None:
    if count:
        raise CalibrationError(f"{where} are NaN; look for NaN or Inf in the data or the weights")


class _Neurons:
    """What a layer of PASC-IF neurons did."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.neurons = self.window = self.levels = 0
        self.spikes = self.elements = 0.0

    def add(self, currents: Tensor, train: Tensor) -> None:
        _check_nans(int(currents.isnan().sum()), f"the currents of layer {self.name!r}")  # its neurons would be silent
        self.neurons = train[0, 0].numel()
        self.window, self.levels = currents.shape[0], train.shape[0]
        self.spikes += float(torch.count_nonzero(train))
        self.elements += train.numel()

    def cost(self) -> NeuronCost:
        return NeuronCost(self.name, self.neurons, self.window, self.levels, self.spikes / max(self.elements, 1))


@contextlib.contextmanager
def _observed(network: nn.Module) -> Iterator[dict[str, _Neurons]]:
    """Within the context, the layers of PASC-IF neurons are watched, and run in spikes."""
    if not isinstance(network, SpikingNetwork):
        yield {}
        return
    found = {name: _Neurons(name) for name in network.neurons}

    handles = [
        neuron.register_forward_hook(lambda _, args, train, name=name: found[name].add(args[0], train))
        for name, neuron in network.neurons.items()
    ]
    try:
        with network.configured(execution="spikes", step_mode="s"):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _check_parts(network: nn.Module) -> None:
    """Refuse a PASCAL network within another module, which would run in the execution that it happens to have."""
    for name, module in network.named_modules():
        if isinstance(module, SpikingNetwork) and module is not network:
            raise InvalidArgumentError(
                f"{name!r} of this {type(network).__name__} is a SpikingNetwork, which is measured by itself: "
                f"pass network.get_submodule({name!r})"
            )


def _reset(network: nn.Module, all_modules: bool) -> None:
    if isinstance(network, SpikingNetwork):
        network.reset()
        return
    for name, module in network.named_modules():
        method = getattr(module, "reset", None)
        if not callable(method) or not (all_modules or _keeps_state(module)):
            continue
        try:
            inspect.signature(method).bind()
        except TypeError as error:
            raise InvalidArgumentError(
                f"{name or 'the network'!r} has a reset() that cannot be called alone ({error}); pass reset=, a "
                "function of the network that resets it"
            ) from None
        method()


def _keeps_state(module: nn.Module) -> bool:
    """Whether ``reset()`` of a module is about its state: it has no weights, or memories as SpikingJelly's have."""
    return hasattr(module, "_memories") or next(module.parameters(), None) is None


def _batch_size(inputs: Any) -> int:
    return next(leaf.shape[0] for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim)
