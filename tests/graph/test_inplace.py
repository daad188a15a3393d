"""In-place operations: made ordinary ones, or refused where another name of the tensor would notice."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from pascal_ext import calibrate, convert, energy, replace_activations, verify
from pascal_ext.errors import TracingError
from pascal_ext.graph.tracing import trace
from tests.cases import Net, assert_close, quantised
from tests.zoo import EXACT


def _view_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    half = y[:, :1].unsqueeze(1)
    half.relu_()
    return y


def _chunk_changed(m: Any, x: Tensor) -> Tensor:
    left, right = m.a(x).chunk(2, 1)
    left += 1
    return left + right


def _viewed_then_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    flat = y.flatten(1)
    y.mul_(2)
    return flat


def _identity_changed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = m.drop(y)
    F.relu(z, inplace=True)
    return y + z


@pytest.mark.parametrize("forward", [_view_changed, _chunk_changed, _viewed_then_changed, _identity_changed])
def test_views_changed_in_place_are_refused(forward: Any) -> None:
    model = Net(forward, a=nn.Linear(4, 4), drop=nn.Dropout())
    with pytest.raises(TracingError, match=r"shares memory with .* out of place"):
        trace(model)


def test_views_that_nothing_reads_later_are_fine() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).flatten(1).view(-1, 2, 2)
        y += 1
        z = y[:, 0]
        return z.relu_() + 1

    model, x = Net(forward, a=nn.Linear(4, 4)).eval(), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))


def _other_name(m: Any, x: Tensor) -> Tensor:
    y = z = m.a(x)
    y += 1
    y *= x
    y **= 2
    return z - x


def _sizes(m: Any, x: Tensor) -> Tensor:
    n = before = x.shape[1]
    n += 2
    n //= 2
    return x * n + before


@pytest.mark.parametrize("forward", [_other_name, _sizes])
def test_augmented_assignments(forward: Any) -> None:
    model, x = Net(forward, a=nn.Linear(4, 4)), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))


def test_no_module_or_node_works_in_place() -> None:
    for name in (
        "in place, read later",
        "in-place functions",
        "in-place methods",
        "in-place operators",
        "in-place dropout",
    ):
        traced = trace(EXACT[name].build())
        assert not any(getattr(module, "inplace", False) for module in traced.modules())
        assert not any(str(node.target).endswith("_") for node in traced.graph.nodes)
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        before = x.clone()
        traced(x)
        assert torch.equal(x, before)


ARGUMENTS: list[tuple[Any, ...]] = [
    *[(), (0,), (1,), (2,), (-1,), (2, 1), (1, 0), (0, 1, 2), (1, 0, 2), (0, 0, 1), (2, 4, 6), (1, (2, 2)), (1, 2, 3)],
    *[((2, 4, 6),), ((4, 6), (6, 1)), ([1, 2],), ([2, 2], 1), (torch.zeros(2, 4, 6),), (torch.float32,), ("cpu",)],
]
INPUTS = [torch.ones(shape) for shape in ((2, 4, 6), (4, 4), (2, 4, 4, 4), (4,))]


def _functions_of_torch() -> Iterator[tuple[str, Callable[..., Any]]]:
    methods = [getattr(Tensor, name) for name in dir(Tensor)]
    for function in itertools.chain(*get_overridable_functions().values(), methods):
        name = getattr(function, "__name__", "_")
        if not name.startswith("_") and not name.endswith("_") and name != "module_load":  # which no forward calls
            yield name, function
    yield "einsum", lambda y: torch.einsum("...->...", y)


def _views_of_torch() -> dict[str, tuple[Callable[[Tensor], Any], bool]]:
    """One call of each function whose result shares memory with its input, not in place; whether that is a sequence."""
    found: dict[str, tuple[Callable[[Tensor], Any], bool]] = {}
    for (name, function), rest in itertools.product(_functions_of_torch(), ARGUMENTS):
        for x in INPUTS if name not in found else ():
            y = x.clone()
            try:
                result = function(y, *rest)
                first = result[0] if isinstance(result, (tuple, list)) else result
                shares = first.untyped_storage().data_ptr() == y.untyped_storage().data_ptr() and not y._version
            except Exception:  # these are no arguments for it
                continue
            if shares:
                found[name] = (lambda z, f=function, rest=rest: f(z, *rest)), first is not result
    return found


@pytest.mark.filterwarnings("ignore")
def test_no_view_is_overlooked() -> None:
    """``z = y.anything(); z += 1`` changes ``y``, whatever way of looking at ``y`` that is."""
    views = _views_of_torch()
    assert {"moveaxis", "t", "tensor_split", "positive", "einsum", "broadcast_tensors", "view_as"} <= views.keys()
    overlooked = []
    for name, (view, several) in views.items():

        def forward(m: Any, x: Tensor, view: Any = view, several: bool = several) -> Tensor:
            y = x * 2
            z = view(y)
            z = z[0] if several else z
            z += 1
            return y * 2

        with contextlib.suppress(TracingError):  # of some, tracing does not even see the call
            trace(Net(forward))
            overlooked.append(name)
    assert not overlooked


@pytest.mark.parametrize("view", [lambda y: y.mT, lambda y: y.data, lambda y: y.real])
def test_attributes_that_are_views(view: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = x * 2
        z = view(y)
        z += 1
        return y * 2

    with pytest.raises(TracingError, match=r"shares memory with .* out of place"):
        trace(Net(forward))


def _out(m: Any, x: Tensor) -> Tensor:
    y, z = m.a(x), x * 2
    torch.add(y, z, out=z)
    return z * 2 + y


def _random(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.uniform_()
    return y + x


@pytest.mark.parametrize(
    ("forward", "code"),
    [
        (_out, "torch.add"),
        (_random, "y.uniform_"),
    ],
)
def test_what_has_no_counterpart_is_refused(forward: Any, code: str) -> None:
    with pytest.raises(TracingError, match=rf"at .*test_inplace.py:\d+, `{code}"):
        trace(Net(forward, a=nn.Linear(4, 4)))


def test_filling() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y, z = m.a(x), m.a(x) + 1
        y.zero_()
        z.fill_(0.25)
        return F.relu(m.a(x)) + y + z

    model, x = Net(forward, a=nn.Linear(4, 4)), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(trace(model)(x), model(x))
        qcfs = quantised(model, [x])
        assert_close(convert(qcfs)(x), qcfs(x))


def test_a_model_that_overwrites_its_inputs_does_not_overwrite_the_data() -> None:
    """Calibration reads the same tensors after a run of the model itself."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.end(torch.relu(m.a(x)) + F.relu(x, inplace=True))

    model = Net(forward, a=nn.Linear(6, 6), end=nn.Linear(6, 4)).double().eval()
    data = [torch.randn(32, 6, dtype=torch.float64)]
    before = data[0].clone()
    expected = convert(calibrate(replace_activations(model, 4), [before.clone()], progress=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn = convert(model, data, 4, progress=False)
    assert torch.equal(data[0], before)
    for name, neuron in snn.neurons.items():
        assert torch.equal(neuron.v_threshold, expected.neurons[name].v_threshold)
    assert verify(model, snn, data, progress=False).exact
    energy.measure(model, data, progress=False)
    assert torch.equal(data[0], before)
