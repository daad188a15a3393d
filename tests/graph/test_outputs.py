"""What ``forward`` takes and returns: decorated, with any keyword, with outputs that have names."""

from __future__ import annotations

import copy
import functools
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pascal_ext import calibrate, convert, load, replace_activations, save, verify
from pascal_ext.errors import SerializationError, TracingError
from pascal_ext.graph.outputs import Outputs, named_tuple
from pascal_ext.network.graph_format import function_named
from tests.cases import alive, assert_close, quantised


@dataclass
class Answer:
    logits: Tensor
    features: Any = None


@dataclass
class MappedAnswer(dict[str, Any]):
    """In the manner of Hugging Face's ModelOutput: what is None is left out."""

    logits: Any = None
    loss: Any = None

    def __post_init__(self) -> None:
        self.update({"logits": self.logits} if self.loss is None else {"logits": self.logits, "loss": self.loss})


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.a(x).relu()


class Nested(Layers):
    def forward(self, x: Tensor) -> Answer:
        y = self.features(x)
        return Answer(self.b(y), {"inner": [Answer(y, x)], "none": None})


class Mapped(Layers):
    def forward(self, x: Tensor) -> MappedAnswer:
        return MappedAnswer(self.b(self.features(x)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64)


def build(kind: type[nn.Module]) -> nn.Module:
    return alive(kind().double())


def test_dataclasses(x: Tensor, tmp_path: Path) -> None:
    """Every entry in every execution and step mode, by key and as an attribute, nested ones as well."""
    qcfs = quantised(build(Nested), [x])
    snn = convert(qcfs)
    expected = qcfs(x)
    assert isinstance(expected, Outputs)
    save(snn, tmp_path / "snn.safetensors")
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), load(tmp_path / "snn.safetensors")):
        for execution in ("spikes", "counts"):
            network.execution = execution
            found = network(x)
            assert_close(found, expected)
            assert found.logits is found["logits"]
            assert_close(found.features["inner"][0].features, x)
            assert found.features["none"] is None
            network.step_mode = "m"
            assert_close(pytree.tree_map(lambda y: y.mean(0), network(x.unsqueeze(0)).logits), expected.logits)
            network.step_mode = "s"
    snn.chunk = 2
    snn.execution = "spikes"
    assert_close(snn(x), expected)


def test_mappings_that_are_dataclasses(x: Tensor) -> None:
    model = build(Mapped)
    snn = convert(model, [x], progress=False)
    assert list(snn(x)) == ["logits"]
    assert verify(model, snn, [x], progress=False).mismatched_counts == 0
    assert_close(replace_activations(model)(x), Outputs(logits=replace_activations(model)(x).logits))
    with pytest.raises(AttributeError, match=r"returned no 'loss'; it returned \['logits'\]"):
        _ = snn(x).loss


def test_containers_compile(x: Tensor) -> None:
    snn = convert(quantised(build(Nested), [x]))
    compiled = torch.compile(snn, fullgraph=True, backend="eager")
    assert_close(compiled(x), snn(x))


@pytest.mark.parametrize("name", ["namedtuple:a b:c", "namedtuple:A:import", "namedtuple:A:_x", "namedtuple:A:x:x"])
def test_files_cannot_name_what_is_no_name(name: str) -> None:
    with pytest.raises((ValueError, SerializationError)):
        function_named(name)


def test_named_tuples_of_a_file_are_one_class() -> None:
    assert named_tuple("A", ("x", "y")) is function_named("namedtuple:A:x:y")


def logged(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("verbose", None)
        return forward(self, *args, **kwargs)

    return wrapper


class Decorated(Layers):
    @logged
    def forward(self, x: Tensor, /, scale: float = 2.0, *, deep: bool = True, **kwargs: Any) -> Tensor:
        return self.b(self.features(x)) * scale if deep else x


class WithoutGradients(Layers):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.features(x))


class Keywords(Layers):
    def forward(self, x: Tensor, **others: Any) -> Tensor:
        y = self.features(x)
        more = others.get("more")
        return self.b(y if more is None else y + self.features(more)) + len(others)


class Unpacked(Layers):
    def forward(self, *inputs: Tensor, **others: Any) -> Tensor:
        return self.b(self.features(inputs[0]) + self.features(inputs[1]))


@pytest.mark.parametrize("kind", [Decorated, WithoutGradients, Keywords])
def test_parameters_of_any_kind(kind: type[nn.Module], x: Tensor) -> None:
    model = build(kind)
    snn = convert(model, [x], progress=False)
    report = verify(model, snn, [x], progress=False)
    assert report.mismatched_counts == 0
    qcfs = calibrate(replace_activations(model), [x], progress=False)
    assert_close(snn(x), qcfs(x))
    assert type(model) is kind


def test_positional_parameters_of_any_number(x: Tensor) -> None:
    qcfs = quantised(build(Unpacked), [x, x])
    assert_close(convert(qcfs)(x, -x), qcfs(x, -x))


def test_keywords_are_those_of_the_data(x: Tensor) -> None:
    """Not a value that is no dictionary: the branch that ``more`` takes is the one that is converted."""
    model = build(Keywords)
    batch = {"x": x, "more": -x, "labels": torch.zeros(5)}
    snn = convert(model, [batch], progress=False)
    assert verify(model, snn, [batch], progress=False).mismatched_counts == 0
    qcfs = calibrate(replace_activations(model, example=batch), [batch], progress=False)
    assert_close(snn(more=x, x=x), qcfs(x=x, more=x))
    with pytest.raises(TypeError, match="more"):
        convert(model, [x], progress=False)(x, more=x)


def test_keywords_that_are_no_names(x: Tensor) -> None:
    with pytest.raises(TracingError, match="not all of which are names"):
        convert(build(Keywords), [{"x": x, "a b": x}], progress=False)


def test_a_forward_of_the_object_itself(x: Tensor) -> None:
    """Tracing a class's ``forward`` would convert another function."""
    model = build(WithoutGradients)
    model.forward = types.MethodType(lambda self, x: self.b(-self.features(x)), model)
    qcfs = calibrate(replace_activations(model), [x], progress=False)
    assert_close(qcfs(x), model.b(-qcfs.relu(model.a(x))))
    assert_close(convert(qcfs)(x), qcfs(x))
