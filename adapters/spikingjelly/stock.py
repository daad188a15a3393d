"""SpikingJelly's Converter and its own rate-coding methods, under one call for both versions, to compare with.

The settings of the stock methods are those of SpikingJelly's examples; nothing here changes the converted model.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pascal_ext.activations import relu_layers
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, ann2snn, load
from pascal_ext.data import device_of
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from pascal_ext.graph.tracing import trace

_functional = load("functional")

_RECIPES: dict[str, dict[str, Any]] = {
    "max": {"mode": "Max"},
    "99.9%": {"mode": "99.9%"},
    "channel-wise": {
        "mode": "99.9%", "channel_wise": True, "pre_spike_maxpool": True, "half_threshold": True,
    },
}  # fmt: skip
_MODES: dict[str, dict[str, Any]] = {"max": {"mode": "max"}, "99.9%": {"mode": "99.9%"}, "1/2 max": {"mode": 0.5}}

#: Name of each stock method of the installed version -> its settings. 2.x has thresholds per channel (99.9%) with
#: neurons that start at half of them, the strongest of the three; 0.0.0.0.14 has scaled maxima instead.
STOCK_METHODS: Mapping[str, dict[str, Any]] = _RECIPES if HAS_RECIPES else _MODES

#: The recipe of Bu et al. (arXiv 2409.03368) in 2.x. A batch raises its thresholds by twice the mean overflow, from 0:
#: it needs some hundred batches, however many images those hold.
LOCAL_THRESHOLD_BALANCING = "local threshold balancing"


def convert_stock(ann: nn.Module, dataloader: Iterable[Any], method: str) -> nn.Module:
    """Convert a copy of the ReLU network ``ann`` with one of SpikingJelly's own methods.

    Args:
        ann: a network whose activations are :class:`~torch.nn.ReLU` modules.
        dataloader: batches (inputs, labels) to calibrate with; one pass.
        method: a key of :data:`STOCK_METHODS`, or :data:`LOCAL_THRESHOLD_BALANCING` in 2.x.

    Returns:
        A network for single steps, [N, ...] -> [N, C]; reset it, call it T times and take the mean.

    Raises:
        InvalidArgumentError: the installed SpikingJelly has no such method.
        UnsupportedOperationError: 0.0.0.0.14 has left activations as they are, which it does without a word; 2.x
            refuses them by itself.
    """
    known = [*STOCK_METHODS, *([LOCAL_THRESHOLD_BALANCING] if HAS_RECIPES else [])]
    if method not in known:
        raise InvalidArgumentError(f"the installed SpikingJelly has no stock method {method!r}; choose one of {known}")
    ann = copy.deepcopy(ann).eval()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        if method == LOCAL_THRESHOLD_BALANCING:
            recipe = ann2snn.LocalThresholdBalancingRecipe(dataloader=dataloader)
        elif HAS_RECIPES:
            recipe = ann2snn.RateCodingRecipe(dataloader=dataloader, **STOCK_METHODS[method])
        else:
            network = ann2snn.Converter(dataloader, **STOCK_METHODS[method])(ann).eval()
            _check_spikes(network, ann)
            return network
        return ann2snn.Converter(recipe).convert(ann).eval()


def _check_spikes(network: nn.Module, ann: nn.Module) -> None:
    """Refuse a network in which activations are left: it would seem to be exact after one step."""
    neurons = sum(isinstance(module, load("neuron").BaseNode) for module in network.modules())
    activations = relu_layers(trace(ann))
    if neurons < len(activations):
        raise UnsupportedOperationError(
            f"SpikingJelly 0.0.0.0.14 made {neurons} spiking neurons for the activations {list(activations)}: it knows "
            "torch.nn.ReLU modules alone, and leaves F.relu and others as they are"
        )


def readout_delay(network: nn.Module, dataloader: Iterable[Any], timesteps: int) -> int:
    """How many of ``timesteps`` outputs to leave out of the mean, by SpikingJelly 2.x, as in its ImageNet example.

    Until the last layer has had time to fire, outputs say little. From the first batch of ``dataloader``.

    Raises:
        InvalidArgumentError: the installed SpikingJelly has no such advice.
    """
    if not HAS_RECIPES:
        raise InvalidArgumentError("the delay of the readout is an advice of SpikingJelly 2.x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where timesteps are few it says so, and chooses less
        return int(ann2snn.estimate_delay_start(network, dataloader, device_of(network), timesteps))


def convert_by_mode(ann: nn.Module, dataloader: Iterable[Any] | None, mode: str, **options: Any) -> nn.Module:
    """``Converter(dataloader=..., mode=mode, **options)``, applied to ``ann`` as the installed version wants it."""
    converter = ann2snn.Converter(dataloader=dataloader, mode=mode, **options)
    network: nn.Module = converter.convert(ann) if HAS_RECIPES else converter(ann)
    return network


def reset(network: nn.Module) -> None:
    """Forget the membrane potentials of ``network``, between one batch and the next."""
    _functional.reset_net(network)


def running_mean(network: nn.Module, inputs: Tensor, timesteps: int) -> Iterable[Tensor]:
    """Yield the mean of the network's first 1, 2, ..., ``timesteps`` outputs on ``inputs``, [N, C] each."""
    reset(network)
    total: Tensor | None = None
    for step in range(1, timesteps + 1):
        output = network(inputs)
        total = output if total is None else total + output
        yield total / step
