"""SpikingJelly's Converter and its own rate-coding methods, under one call for both versions, to compare with.

The settings of the stock methods are those of SpikingJelly's examples; nothing here changes the converted model.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, ann2snn, load
from pascal_ext.errors import InvalidArgumentError

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


def convert_stock(ann: nn.Module, dataloader: Iterable[Any], method: str) -> nn.Module:
    """Convert a copy of the ReLU network ``ann`` with one of :data:`STOCK_METHODS`.

    Args:
        ann: a network whose activations are :class:`~torch.nn.ReLU` modules.
        dataloader: batches (inputs, labels) to calibrate with; one pass.
        method: a key of :data:`STOCK_METHODS`.

    Returns:
        A network for single steps, [N, ...] -> [N, C]; reset it, call it T times and take the mean.

    Raises:
        InvalidArgumentError: the installed SpikingJelly has no such method.
    """
    if method not in STOCK_METHODS:
        raise InvalidArgumentError(f"there is no stock method {method!r}; choose one of {list(STOCK_METHODS)}")
    ann = copy.deepcopy(ann).eval()
    settings = STOCK_METHODS[method]
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        if HAS_RECIPES:
            return ann2snn.Converter(ann2snn.RateCodingRecipe(dataloader=dataloader, **settings)).convert(ann).eval()
        return ann2snn.Converter(dataloader, **settings)(ann).eval()


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
