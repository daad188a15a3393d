"""Inputs in dicts and lists, over which ``forward`` loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import convert, load, replace_activations, save, verify
from pascal_ext.errors import InvalidArgumentError, TracingError
from tests.cases import BATCH, Net

KEYS = {"left": 4, "right": 3}


def _written(m: Any, batch: dict[str, Tensor]) -> Tensor:
    batch["sum"] = F.relu(m.left(batch["left"])) + m.right(batch["right"])
    return batch["sum"]


def _optional(m: Any, batch: dict[str, Tensor]) -> Tensor:
    y = F.relu(m.left(batch["left"]))
    if "right" in batch:
        y = y + F.relu(m.right(batch["right"]))
    return y if batch.get("mask") is None else y * batch["mask"]


def _popped(m: Any, batch: dict[str, Tensor]) -> Tensor:
    batch = batch.copy()
    y = F.relu(m.right(batch.pop("right"))) * len(batch)
    return y + F.relu(m.left(batch.pop("left"))) + batch.pop("bias", 1)


def _unpacked(m: Any, batch: dict[str, Tensor]) -> Tensor:
    left, right = batch.values()
    return F.relu(m.left(left)) + F.relu(m.right(right))


MAPPINGS: list[Callable[[Any, Any], Tensor]] = [
    lambda m, batch: sum(F.relu(getattr(m, key)(x)) for key, x in batch.items()),
    lambda m, batch: sum(F.relu(getattr(m, key)(batch[key])) for key in batch),
    lambda m, batch: F.relu(m.left(batch["left"])) * len(batch) + sum(x.sum(1, keepdim=True) for x in batch.values()),
    _unpacked,
    _popped,
    _optional,
    _written,
]
SEQUENCES: list[Callable[[Any, Any], Tensor]] = [
    lambda m, inputs: sum(F.relu(layer(x)) for layer, x in zip((m.left, m.right), inputs, strict=True)),
    lambda m, inputs: sum(F.relu((m.left, m.right)[i](x)) for i, x in enumerate(inputs)),
    lambda m, inputs: sum(F.relu((m.left, m.right)[i](inputs[i])) for i in range(len(inputs))),
]


def model_of(forward: Any) -> nn.Module:
    layers = {key: nn.Linear(width, 5) for key, width in KEYS.items()}
    return Net(lambda m, inputs: m.end(F.relu(forward(m, inputs))), end=nn.Linear(5, 2), **layers).double().eval()


def inputs() -> dict[str, Tensor]:
    return {key: torch.randn(BATCH, width, dtype=torch.float64) for key, width in KEYS.items()}


@pytest.mark.parametrize(
    ("forward", "container"),
    [(forward, dict) for forward in MAPPINGS] + [(forward, kind) for forward in SEQUENCES for kind in (list, tuple)],
)
def test_loops_over_inputs(forward: Any, container: Any, tmp_path: Path) -> None:
    x = inputs() if container is dict else container(inputs().values())
    model, data = model_of(forward), [((x,), torch.zeros(BATCH))]
    before = set(x) if container is dict else len(x)
    snn = convert(model, data, 4, progress=False)
    assert verify(model, snn, data, progress=False).exact
    save(snn, tmp_path / "snn.safetensors")
    assert torch.equal(load(tmp_path / "snn.safetensors")(x), snn(x))
    assert before == (set(x) - {"sum"} if container is dict else len(x))


def test_another_number_of_inputs_is_refused() -> None:
    x = list(inputs().values())
    snn = convert(model_of(SEQUENCES[1]), [((x,), torch.zeros(BATCH))], 4, progress=False)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        with pytest.raises(InvalidArgumentError, match="with another number of inputs"):
            snn([*x, x[0]])


@pytest.mark.parametrize("forward", MAPPINGS)
def test_other_entries_are_refused_where_forward_would_see_them(forward: Any) -> None:
    """Beside an entry that the model leaves alone, the network computes the same, or refuses."""
    model, x, loops = model_of(forward), inputs(), forward not in (_optional, _written)
    snn = convert(model, [((dict(x),), torch.zeros(BATCH))], 4, progress=False)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        other = x | {"labels": torch.zeros(BATCH, 1)}
        if loops:
            with pytest.raises(InvalidArgumentError, match="with another number of inputs"):
                snn(other)
        else:
            assert torch.equal(snn(other), snn(dict(x)))
        if forward is _optional:
            with pytest.raises(InvalidArgumentError, match="with 'mask' among its inputs"):
                snn(x | {"mask": torch.zeros(BATCH, 1, dtype=torch.float64)})


@pytest.mark.parametrize("forward", MAPPINGS[:1] + MAPPINGS[-1:] + SEQUENCES[:1])
def test_without_data_the_way_out_is_told(forward: Any) -> None:
    with pytest.raises(TracingError, match="example=batch"):
        replace_activations(model_of(forward))
