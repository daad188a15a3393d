"""Tensors and their parts, changed in place: a graph computes what Python does, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pascal_ext import convert, energy, load, save, verify
from pascal_ext.errors import TracingError, UnsupportedOperationError
from pascal_ext.graph.tracing import trace
from pascal_ext.ops.assignment import assigned
from tests.cases import BATCH, Net, assert_close, conv, quantised
from tests.zoo import EXACT

_ALL = slice(None)
INDICES: list[Any] = [
    (_ALL, slice(0, 2)),
    (_ALL, slice(1, None, 2)),
    (_ALL, slice(0, 2), slice(1, None)),
    (..., 0),
    (..., slice(1, 3)),
    (_ALL, None, 1),
    (_ALL, [0, 1]),
    ...,
]
STATEMENTS = 9


def _execute(statement: int, names: list[Tensor], x: Tensor, index: Any) -> None:
    """One of the statements that a ``forward`` may have, of a tensor that has a name; some give others a name."""
    match statement:
        case 0:
            names.append(x[index])
        case 1:
            names.append(x * 2 + 1)
        case 2:
            x += 1
        case 3:
            x.mul_(3)
        case 4:
            x[index] = 0.5
        case 5:
            x[index] += 2
        case 6:
            x[index].mul_(2)
        case 7:
            x[index] = x[index] * 3
        case 8:
            x[index].copy_(x[index] - 1)


steps = st.tuples(st.integers(0, STATEMENTS - 1), st.integers(0, 5), st.sampled_from(INDICES))


@given(st.lists(steps, min_size=2, max_size=9))
@settings(max_examples=150)
def test_a_graph_is_what_python_does_or_is_refused(program: list[tuple[int, int, Any]]) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        names, ndims = [x * 1, x.new_zeros(x.shape)], [4, 4]
        for statement, name, index in program:
            name %= len(names)
            known = ndims[name] == 4  # of a part, the whole alone is changed
            _execute(statement, names, names[name], index if known else ...)
            if statement == 0:
                ndims.append(0 if known else ndims[name])
            elif statement == 1:
                ndims.append(ndims[name])
        return names

    model, x = Net(forward).eval(), torch.randn(BATCH, 4, 4, 4, dtype=torch.float64)
    try:
        traced = trace(model)
    except TracingError as error:
        assert "shares memory with" in str(error)  # noqa: PT017 — a refusal is one of the two right answers
        return
    for found, expected in zip(traced(x.clone()), model(x.clone()), strict=True):
        assert torch.equal(found, expected)


def test_parts_are_seldom_refused() -> None:
    """Else the test above would be about nothing."""
    assert sum(node.target is assigned for node in trace(EXACT["parts changed in place"].build()).graph.nodes) >= 5


def test_a_part_that_is_written_back_is_written_once() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y[:, :2] += x[:, :2]
        return y

    written = [node for node in trace(Net(forward, a=nn.Linear(4, 4))).graph.nodes if node.target is assigned]
    assert len(written) == 1


def test_assignment_leaves_its_operands_alone() -> None:
    x, value = torch.zeros(2, 3), torch.ones(2, requires_grad=True)
    result = assigned(x, (_ALL, 1), value)
    assert result.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert not x.any()
    result.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1, 1]


def _parameter(m: Any, x: Tensor) -> Tensor:
    m.w[0] = x.mean()
    return m.a(x)


def _buffer(m: Any, x: Tensor) -> Tensor:
    m.seen.add_(m.a(x).mean(0))
    return m.a(x) + m.seen


def _part_of_a_buffer(m: Any, x: Tensor) -> Tensor:
    m.seen[:2] = x.mean()
    return m.a(x)


@pytest.mark.parametrize("forward", [_parameter, _buffer, _part_of_a_buffer])
def test_what_the_next_inputs_would_find_changed_is_refused(forward: Any) -> None:
    model = Net(forward, a=nn.Linear(4, 4), w=nn.Parameter(torch.zeros(4), requires_grad=False))
    model.register_buffer("seen", torch.zeros(4))
    with pytest.raises(TracingError, match=r"changes '(w|seen)', and the next inputs would find it changed"):
        trace(model)


def _into_a_constant(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(BATCH, 4, 6, 6)
    y[:, 1:] = F.relu(m.a(x))[:, 1:]
    return y


def _into_one_sample(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    y[0] = 0
    return y


def _other_samples(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    y[:, 0] = torch.arange(float(BATCH))[:, None, None]
    return y


def _where_another_is_large(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))  # [3, 4, 3, 4]: a mask [3, 4] would fit the last two dimensions as well as the first two
    y[y.mean((2, 3)) > y.mean()] = 0.25
    return y


def test_masks_of_other_tensors_choose_by_the_first_dimensions() -> None:
    model, x = Net(_where_another_is_large, a=conv()).eval(), torch.randn(BATCH, 3, 3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))
    qcfs = quantised(model, [x])
    with pytest.raises(UnsupportedOperationError):
        convert(qcfs)
    with torch.no_grad():
        assert_close(convert(qcfs, on_unsupported="analog")(x), qcfs(x))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_into_a_constant, r"`y\[:, 1:\] = .* make that by zeros_like"),
        (_into_one_sample, "across dimension 0"),
        (_other_samples, "across dimension 0"),
    ],
)
def test_what_would_mix_samples_is_refused(forward: Any, reason: str) -> None:
    x = torch.randn(BATCH, 3, 6, 6)
    qcfs = quantised(Net(forward, a=conv()), [x])
    with pytest.raises(UnsupportedOperationError, match=reason):
        convert(qcfs)
    with torch.no_grad():
        assert_close(convert(qcfs, on_unsupported="analog")(x), qcfs(x))


def test_a_network_that_writes_in_every_manner(tmp_path: Any) -> None:
    """Saved, measured and run in pieces."""
    case = EXACT["temporal shift"]
    x = case.data()
    qcfs = quantised(case.build(), x)
    snn = convert(qcfs)
    save(snn, tmp_path / "snn.safetensors")
    expected = snn(*x)
    assert torch.equal(load(tmp_path / "snn.safetensors")(*x), expected)
    assert energy.measure(snn, [tuple(x)], progress=False).synaptic_operations > 0
    assert verify(qcfs, snn, [tuple(x)], progress=False).exact
    snn.chunk = 1
    assert_close(snn(*x), expected)
