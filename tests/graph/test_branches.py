"""Models whose ``forward`` branches on shapes: converted for the shapes of the data, and for no others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import QCFS, allocate, calibrate, convert, load, replace_activations, save, verify
from pascal_ext.errors import InvalidArgumentError, TracingError
from pascal_ext.graph.tracing import trace
from tests.cases import Net, assert_close, relu


def convolutions(function: Callable[..., Any]) -> nn.Module:
    return Net(
        function, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 4, 3, padding=1), pool=nn.AvgPool2d(2)
    ).double()


def checked(m: Any, x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        raise ValueError("three channels")
    return m.b(relu(m.a(x)))


def small_ones_are_not_pooled(m: Any, x: Tensor) -> Tensor:
    s = relu(m.a(x))
    if s.shape[-1] > 4 and s.size(2) > 4:
        s = m.pool(s)
    return m.b(s)


def padded_as_in_tensorflow(m: Any, x: Tensor) -> Tensor:
    s = relu(m.a(x))
    pad = max((math.ceil(s.shape[-1] / 4) - 1) * 4 + 3 - int(s.shape[-1]), 0)
    return m.b(F.pad(s, (pad // 2, pad - pad // 2, 0, 0)))


def as_often_as_it_is_high(m: Any, x: Tensor) -> Tensor:
    for _ in range(x.shape[2] // 4):
        x = m.a(x)
        x = relu(m.b(x))[:, :3]
    return x


def cropped_to_the_other(m: Any, x: Tensor) -> Tensor:
    s, r = relu(m.a(x)), relu(m.a(x[:, :, :-1, :-1]))
    if s.shape[-2:] != r.shape[-2:]:
        s = s[:, :, : r.shape[2], : r.shape[3]]
    return m.b(s + r)


def column_by_column(m: Any, x: Tensor) -> Tensor:
    left, right = (m.b(relu(part)) for part in m.a(x).split(4, dim=-1))
    columns = [column * factor for factor, column in enumerate(relu(left + right).unbind(3), 1)]
    return m.b(torch.stack(columns, dim=3))


def as_many_features_as_there_are(m: Any, x: Tensor) -> Tensor:
    s = relu(m.a(x))
    features = 1
    for size in s.size()[1:]:
        features *= size
    *_, height, width = s.shape
    return m.b(s.view(-1, features).view(*s.shape[:2], height, width))


def in_the_type_of_the_weights(m: Any, x: Tensor) -> Tensor:
    if x.dtype != m.a.weight.dtype or x.device.type == "meta":
        x = x.to(m.a.weight.dtype)
    return m.b(relu(m.a(x)))


MODELS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    function.__name__: function
    for function in (
        checked,
        small_ones_are_not_pooled,
        padded_as_in_tensorflow,
        as_often_as_it_is_high,
        cropped_to_the_other,
        column_by_column,
        as_many_features_as_there_are,
        in_the_type_of_the_weights,
    )
}
OTHER_WAYS = {
    "checked": (2, 5, 6, 8),
    "small_ones_are_not_pooled": (2, 3, 4, 4),
    "padded_as_in_tensorflow": (2, 3, 6, 9),
    "as_often_as_it_is_high": (2, 3, 12, 8),
    "column_by_column": (2, 3, 6, 7),
}


@pytest.fixture
def data() -> list[Tensor]:
    return [torch.randn(size, 3, 6, 8, dtype=torch.float64) for size in (3, 2)]


@pytest.mark.parametrize("name", MODELS)
def test_exact_for_the_shapes_of_the_data(name: str, data: list[Tensor], tmp_path: Path) -> None:
    """In batches of any size, from every entry that has data, and from a file."""
    model = convolutions(MODELS[name])
    plan = allocate(model, data, mean_levels=4, progress=False)
    snn = convert(model, data, plan, progress=False)
    qcfs = calibrate(replace_activations(model, plan, example=data[0]), data, progress=False)
    assert verify(model, snn, data, progress=False).mismatched_counts == 0
    assert verify(qcfs, snn, data, progress=False).mismatched_counts == 0
    save(snn, tmp_path / "snn.safetensors")
    with torch.no_grad():
        for network in (snn, convert(qcfs), load(tmp_path / "snn.safetensors")):
            for execution in ("spikes", "counts"):
                network.execution = execution
                x = torch.randn(5, 3, 6, 8, dtype=torch.float64)
                assert_close(network(x), qcfs(x))


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_other_shapes_are_refused(name: str, data: list[Tensor], tmp_path: Path) -> None:
    """With the line of the model that would go another way."""
    model = convolutions(MODELS[name])
    snn = convert(model, data, progress=False)
    save(snn, tmp_path / "snn.safetensors")
    qcfs = replace_activations(model, example=data[0])
    x = torch.randn(OTHER_WAYS[name], dtype=torch.float64)
    for network in (qcfs, convert(qcfs), snn, load(tmp_path / "snn.safetensors")):
        with pytest.raises(
            InvalidArgumentError, match=r"another way at .*test_branches.py:\d+, `.*` than .* convert it"
        ):
            network(x)
    snn.execution = "counts"
    with pytest.raises(InvalidArgumentError, match="another way"):
        snn(x)


def test_settled_spikes_in_pieces(data: list[Tensor]) -> None:
    model = convolutions(cropped_to_the_other).float()
    snn = convert(model, [x.float() for x in data], progress=False)
    qcfs = calibrate(replace_activations(model, example=data[0].float()), [x.float() for x in data], progress=False)
    x = torch.randn(5, 3, 6, 8)
    with torch.no_grad():
        expected = qcfs(x)
        for chunk in ("auto", None, 2):
            snn.chunk = chunk
            torch.testing.assert_close(snn(x), expected)


def test_deep_networks_of_learnt_activations() -> None:
    """More layers than Python has stack frames, and a branch behind them."""

    def function(m: Any, x: Tensor) -> Tensor:
        for _ in range(400):
            x = m.act(m.a(x))
        return m.a(x) if x.shape[-1] == 3 else x

    model, x = Net(function, a=nn.Linear(3, 3), act=QCFS(4)), torch.randn(2, 3)
    snn = convert(model, [x])
    with torch.no_grad():
        torch.testing.assert_close(snn(x), model(x))


class Optional(nn.Module):
    """Inputs have defaults, as in libraries whose models take inputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None, scaled: bool = False) -> dict[str, Tensor]:
        if x is None:
            raise ValueError("no x")
        s = relu(self.a(x))
        if mask is not None:
            s = s * 0.5
        return {"logits": self.b(s * 2 if scaled else s)}


@pytest.mark.parametrize("batch", [(torch.randn(4, 3), None), {"x": torch.randn(4, 3), "label": torch.ones(4)}])
def test_inputs_with_defaults(batch: Any) -> None:
    model = Optional()
    snn = convert(model, [batch], progress=False)
    qcfs = calibrate(replace_activations(model, example=batch), [batch], progress=False)
    x = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(snn(x)["logits"], qcfs(x)["logits"])
        torch.testing.assert_close(snn(x=x)["logits"], qcfs(x)["logits"])


def test_what_a_graph_cannot_hold(data: list[Tensor]) -> None:
    values = "symbolically traced variables.* must not depend on the elements of tensors"
    samples = r"the number of samples, which may be another in the next batch\. Compute on the whole batch"
    for function, reason in (
        (lambda m, x: m.b(relu(m.a(x))) if x.sum() > 0 else x, values),
        (lambda m, x: m.b(relu(m.a(x))) + torch.zeros(int(x.shape[0]), 1, 1, 1), samples),
        (lambda m, x: torch.cat([m.b(relu(m.a(x[n : n + 1]))) for n in range(x.shape[0])]), samples),
    ):
        with pytest.raises(TracingError, match=f"test_branches.py.*{reason}"):
            convert(convolutions(function), data, progress=False)


def test_without_data_there_are_no_shapes(data: list[Tensor]) -> None:
    """And an iterator, which would lose the batch, is left alone."""
    model, loader = convolutions(checked), iter(data)
    for attempt in (lambda: replace_activations(model), lambda: convert(model, loader, progress=False)):
        with pytest.raises(TracingError, match=r"a loader that can be read twice, or with replace_activations\(model"):
            attempt()
    assert len(list(loader)) == len(data)


def test_len_of_a_part_of_a_shape_is_refused(data: list[Tensor]) -> None:
    with pytest.raises(TracingError, match=r"len\(\) of a part of a shape"):
        convert(Net(lambda m, x: x.relu() * len(x.shape[2:])), data, progress=False)


def test_models_without_branches_read_no_data() -> None:
    class Counting(list[Tensor]):
        reads = 0

        def __iter__(self) -> Any:
            self.reads += 1
            return super().__iter__()

    loader = Counting([torch.randn(2, 3, 6, 8, dtype=torch.float64)])
    trace(convolutions(lambda m, x: m.b(relu(m.a(x)))), loader)
    assert loader.reads == 0


def of_a_type(m: Any, x: Any) -> Tensor:
    if isinstance(x, Tensor):
        x = x + 3
    elif isinstance(x, dict):
        x = x["image"] - 1
    else:
        x, y = x[0], x[1]
        x = x * (2 if torch.is_tensor(y) else 1)
    s = relu(m.a(x))
    return m.b(s * 2 if torch.is_tensor(s) and not isinstance(s, nn.Parameter | int) else s)


@pytest.mark.parametrize(
    "inputs", [lambda x: x, lambda x: {"image": x}, lambda x: [x, x]], ids=["tensor", "dictionary", "list"]
)
def test_branches_on_types(inputs: Any, data: list[Tensor]) -> None:
    model = convolutions(of_a_type)
    batches = [((inputs(x),),) for x in data]
    snn = convert(model, batches, progress=False)
    assert verify(model, snn, batches, progress=False).exact
    if isinstance(inputs(0), int):  # without data, inputs are tensors
        qcfs = calibrate(replace_activations(model), data, progress=False)
        with torch.no_grad():
            assert_close(convert(qcfs)(data[0]), snn(data[0]))


def of_a_type_for_scripts(m: Any, x: Any) -> Tensor:
    s = relu(m.a(torch.as_tensor(x)))
    if torch.jit.isinstance(s, Tensor):
        s = s + relu(m.a(x * 2))
    return m.b(torch.as_tensor(s, dtype=torch.float64, device=x.device))


def test_torch_asks_for_types_too(data: list[Tensor]) -> None:
    model = convolutions(of_a_type_for_scripts)
    snn = convert(model, data, 1024, progress=False)
    assert verify(model, snn, data, progress=False).exact
    with torch.no_grad():
        torch.testing.assert_close(snn(data[0]), model(data[0]), rtol=0.01, atol=0.01)
    assert torch.jit.isinstance(data[0], Tensor)
    assert torch.as_tensor(data[0]) is data[0]


def test_a_graph_that_goes_another_way_and_fails(data: list[Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(relu(m.a(x) if type(x) is Tensor else m.b(x)))

    with pytest.raises(TracingError, match="does not run on the data that the model itself runs on: RuntimeError"):
        convert(convolutions(forward), data, progress=False)


def test_a_block_in_autocast_is_refused(data: list[Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=m.enabled):
            x = m.a(x)
        return m.b(relu(x))

    model = convolutions(forward)
    model.enabled = True
    with pytest.raises(TracingError, match=r"test_branches.py:\d+, `with torch.autocast.*run the whole model in"):
        convert(model, data, progress=False)
    model.enabled = False
    convert(model, data, progress=False)
    with torch.autocast("cpu"):  # as before
        assert torch.is_autocast_enabled("cpu")


class _Sign(torch.autograd.Function):
    """A sign with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return w / w.abs()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_a_lost_gradient_is_told() -> None:
    model = Net(
        lambda m, x: m.b(relu(F.linear(x, _Sign.apply(m.w)))), w=nn.Parameter(torch.randn(4, 3)), b=nn.Linear(4, 2)
    )
    with pytest.warns(UserWarning, match=r"_Sign is an autograd\.Function.*not backward"):
        qcfs = replace_activations(model)
    x = torch.randn(5, 3)
    torch.testing.assert_close(calibrate(qcfs, [x], progress=False)(x).shape, model(x).shape)
    _Sign.apply(model.w).sum().backward()  # as before, outside of tracing
    assert torch.equal(model.w.grad, torch.ones(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace_activations(Net(lambda m, x: relu(m.b(x)), b=nn.Linear(3, 2)))
