"""Are two outputs the same, to within rounding? And does a model compute what its graph says?"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

from pascal_ext.data import Batch, call, cloned
from pascal_ext.errors import PascalError, TracingError
from pascal_ext.graph.outputs import tensors_of
from pascal_ext.graph.traceable import copied
from pascal_ext.ops.pasc_if.ties import epsilon_of

DIGITS = 0.5  # share of its digits that an output has to have right: so far rounding goes, also in TF32 and bfloat16
REASONS = (
    "has it forward hooks or an autocast of its own, asks forward() for the type of a value, or does it depend on more "
    "than its inputs?"
)


@torch.no_grad()
def warn_of_another_graph(model: nn.Module, traced: fx.GraphModule, batch: Batch) -> None:
    """Compare ``model`` with its graph on one batch, since tracing cannot see all that a ``forward`` may do.

    Raises:
        TracingError: the graph cannot be run on this batch, and the model can.

    Warns:
        UserWarning: their outputs differ.
    """
    expected = call(copied(model).eval(), cloned(batch))  # a copy: it may count its calls, or keep what it computes
    try:
        found = traced(*batch.args, **batch.kwargs)
    except PascalError:
        raise
    except Exception as error:
        raise TracingError(
            f"the graph of {type(model).__name__} does not run on the data that the model itself runs on: "
            f"{type(error).__name__}: {error}. Tracing has taken another way through forward() than the data does; "
            "does it ask for the type of a value?"
        ) from error
    if not agree(expected, found):
        warnings.warn(
            f"{type(model).__name__} itself gives other outputs than its graph, which is what is converted: {REASONS}",
            stacklevel=3,
        )


def agree(expected: Any, found: Any) -> bool:
    """Whether all tensors of two outputs are equal to a share :data:`DIGITS` of the digits of their largest element."""
    ours, theirs = tensors_of(expected), tensors_of(found)
    return len(ours) == len(theirs) and all(map(_close, ours, theirs))


def _close(expected: Tensor, found: Tensor) -> bool:
    if expected.is_complex() and found.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    if expected.shape != found.shape or not (expected.is_floating_point() and found.is_floating_point()):
        return expected.dtype == found.dtype and torch.equal(expected, found)
    epsilon = max(epsilon_of(tensor.dtype, tensor.device.type) for tensor in (expected, found))
    finite = expected[expected.isfinite()].abs()
    within = float(finite.max()) * epsilon**DIGITS if finite.numel() else 0.0
    return torch.allclose(found, expected.to(found.dtype), rtol=0.0, atol=within, equal_nan=True)
