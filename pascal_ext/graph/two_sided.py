"""Activations that answer to both signs, as differences of two ReLU-like ones, each of which spikes can stand for."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from pascal_ext.graph.branches import varying
from pascal_ext.graph.call_sites import (
    bounds,
    first_argument,
    function_kind,
    leaky_slope,
    rectifier,
    scope_of,
    unique_name,
)
from pascal_ext.graph.operations import argument


class _Sides(NamedTuple):
    """x -> clamp(x, 0, high) - slope * clamp(-x, 0, low).

    The slope is a number; or that of a PReLU, a parameter's name or a node.
    """

    high: float
    low: float
    slope: float | str | fx.Node


def split_two_sided(traced: fx.GraphModule) -> None:
    r"""Write each call of a two-sided activation out as what it does on either side, which is the same function:

    .. math::
        \mathrm{LeakyReLU}(x) = \mathrm{ReLU}(x) - a\,\mathrm{ReLU}(-x), \qquad
        \mathrm{clamp}(x, -a, b) = \mathrm{clamp}(x, 0, b) - \mathrm{clamp}(-x, 0, a)

    PReLU is a LeakyReLU whose slope a is a parameter, one or one per channel (dimension 1). The two terms of ``act``
    become the layers ``act.positive`` and ``act.negative``; the slope of a PReLU stays ``act.weight``. What is made of
    parameters, or of the inputs' sizes alone, is left as it is: a clamped weight, say, or clamped relative positions.
    """
    changing = varying(traced.graph)
    for node in list(traced.graph.nodes):
        sides = _sides(node, traced) if node in changing else None
        if sides is not None:
            _split(traced, node, sides)


def is_two_sided(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether ``node`` calls a two-sided activation."""
    return _sides(node, traced) is not None


def _sides(node: fx.Node, traced: fx.GraphModule) -> _Sides | None:
    """What ``node`` does on either side; None where it calls no two-sided activation."""
    if slope := leaky_slope(node, traced):  # with 0 it is a ReLU
        return _Sides(math.inf, math.inf, slope)
    if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.PReLU):
        return _Sides(math.inf, math.inf, f"{node.target}.weight")
    if function_kind(node) == "prelu":
        return _Sides(math.inf, math.inf, argument(node, 1, "weight", None))
    low, high = bounds(node, traced) or (0.0, 0.0)
    return _Sides(high, -low, 1.0) if low < 0 else None


def _split(traced: fx.GraphModule, node: fx.Node, sides: _Sides) -> None:
    """Put the two terms in the place of ``node``."""
    is_module = node.op == "call_module"
    name = str(node.target) if is_module else unique_name(traced, scope_of(node), function_kind(node))
    for side, ceiling in (("positive", sides.high), ("negative", sides.low)):
        traced.add_submodule(f"{name}.{side}", rectifier(ceiling).eval())

    def put(op: str, target: Any, *args: Any) -> fx.Node:
        new = traced.graph.create_node(op, target, args)
        new.meta = dict(node.meta)  # with the user's source line
        return new

    x = first_argument(node)
    with traced.graph.inserting_before(node):
        positive = put("call_module", f"{name}.positive", x)
        negative = put("call_module", f"{name}.negative", put("call_function", operator.neg, x))
        slope = put("get_attr", sides.slope) if isinstance(sides.slope, str) else sides.slope
        if slope == 1:
            scaled = negative
        elif _is_single(slope, traced):
            scaled = put("call_function", operator.mul, negative, slope)
        else:  # channels last, where the slopes meet them whatever other dimensions there are
            last = put("call_function", torch.movedim, negative, 1, -1)
            scaled = put("call_function", torch.movedim, put("call_function", operator.mul, last, slope), -1, 1)
        difference = put("call_function", operator.sub, positive, scaled)
    node.replace_all_uses_with(difference)
    traced.graph.erase_node(node)


def _is_single(slope: float | fx.Node, traced: fx.GraphModule) -> bool:
    """Whether a slope surely is the same for all channels."""
    if not isinstance(slope, fx.Node):
        return True
    value: Any = operator.attrgetter(str(slope.target))(traced) if slope.op == "get_attr" else None
    return isinstance(value, Tensor) and value.numel() == 1
