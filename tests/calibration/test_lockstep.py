"""Running a graph node by node gives what the model gives, and keeps no more than is still to be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from pascal_ext.calibration.lockstep import Lockstep, finish
from pascal_ext.data import batches
from pascal_ext.graph.tracing import trace
from tests.cases import TOLERANCE, assert_close, tensors
from tests.zoo import EXACT

CASES = ["sum of branches", "norm after", "class token", "many outputs", "nested inputs", "chunk and split"]


def nodes_of(traced: fx.GraphModule) -> tuple[list[fx.Node], fx.Node]:
    """The nodes to be run, and what the output reads."""
    *nodes, output = traced.graph.nodes
    return nodes, output


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equals_the_model(name: str) -> None:
    case = EXACT[name]
    traced = trace(case.build())
    data = [case.data() for _ in range(3)]
    lane = Lockstep(traced, batches([(tuple(inputs),) for inputs in data]))
    nodes, output = nodes_of(traced)
    for node in nodes:
        lane.run(node)
    for values, inputs in zip(lane.values, data, strict=True):
        found = fx.node.map_arg(output.args[0], values.__getitem__)
        for a, b in zip(tensors(found), tensors(traced(*inputs)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
        kept = set(values)
        assert kept <= {*output.all_input_nodes, *(node for node in nodes if not node.users)}


@torch.no_grad()
def test_goes_on_with_what_it_is_given() -> None:
    """What follows an assigned value is what the model makes of that value."""
    case = EXACT["sum of branches"]
    traced = trace(case.build())
    inputs = case.data()
    lane = Lockstep(traced, batches([(tuple(inputs),)]))
    nodes, output = nodes_of(traced)
    replaced = next(node for node in nodes if node.op == "call_module" and "relu" in str(node.target))
    seen: list[Any] = []
    for position, node in enumerate(nodes):
        if node is replaced:
            seen = lane.inputs(node)
            lane.assign(node, [z * 0 + 1 for z in seen])
            rest = nodes[position + 1 :]
            early = finish(lane, lane.values[0], rest)
        else:
            lane.run(node)
    traced.get_submodule(str(replaced.target)).register_forward_hook(lambda module, args, out: args[0] * 0 + 1)
    assert len(seen) == 1
    assert_close(lane.values[0][output.args[0]], traced(*inputs))
    assert_close(early, traced(*inputs))


@torch.no_grad()
def test_keyword_arguments() -> None:
    class Difference(torch.nn.Module):
        def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return x - other

    traced = trace(Difference())
    x, other = torch.randn(2, 3), torch.randn(2, 3)
    lane = Lockstep(traced, batches([{"other": other, "x": x, "label": torch.ones(2)}]))
    nodes, output = nodes_of(traced)
    for node in nodes:
        lane.run(node)
    assert torch.equal(lane.values[0][output.args[0]], x - other)
