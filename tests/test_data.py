"""Batches of every form that loaders yield, and clear errors for those they should not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pascal_ext
from pascal_ext import energy
from pascal_ext.data import batches, device_of, split_batch
from pascal_ext.errors import CalibrationError
from pascal_ext.verification.recording import mean_spikes

X, Y, Z = torch.randn(4, 3), torch.randn(4, 2), torch.arange(4)
PIXELS = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("batch", "args", "kwargs", "target"),
    [
        (X, (X,), {}, None),
        ((X,), (X,), {}, None),
        ([X], (X,), {}, None),
        ((X, Z), (X,), {}, Z),
        ([X, Z], (X,), {}, Z),
        ((X, Y), (X,), {}, Y),
        (((X, Y), Z), (X, Y), {}, Z),
        ([[X, Y], Z], (X, Y), {}, Z),
        (((X, Z), Z), (X, Z), {}, Z),
        ({"x": X}, (), {"x": X}, None),
        ({"x": X, "labels": Z}, (), {"x": X}, Z),
        ({"x": X, "ids": Z, "target": Y}, (), {"x": X, "ids": Z}, Y),
        (({"a": X, "b": Y}, Z), (), {"a": X, "b": Y}, Z),
        ((([X, Y],), Z), ([X, Y],), {}, Z),
        ((X.half(), None), (X.half(),), {}, None),
        (PIXELS, (PIXELS,), {}, None),
        ((PIXELS, Z), (PIXELS,), {}, Z),
    ],
)
def test_forms(batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any) -> None:
    found = split_batch(batch)
    assert repr(found.args) == repr(args)
    assert repr(found.kwargs) == repr(kwargs)
    assert target is None if found.target is None else torch.equal(found.target, target)


@pytest.mark.parametrize(
    "batch",
    [
        Z,
        (Z,),
        (Z, X),
        (Z.byte(), X),
        {"labels": X},
        {"ids": Z},
        ((), Z),
        (),
        [],
        {},
        None,
        3,
        "text",
        ("text", X),
        np.zeros(3),
        (np.zeros((2, 3)), Z),
    ],
)
def test_labels_without_inputs(batch: Any) -> None:
    with pytest.raises(CalibrationError, match=r"without floating-point inputs: .* labels without inputs\?"):
        split_batch(batch)


@pytest.mark.parametrize("batch", [np.zeros((4, 3)), (np.zeros((4, 3)), Z), {"x": np.zeros((4, 3))}])
def test_arrays_are_told_how_to_become_tensors(batch: Any) -> None:
    with pytest.raises(CalibrationError, match=r"torch\.from_numpy"):
        split_batch(batch)


@pytest.mark.parametrize("loader", [X, 3, None, nn.Linear(1, 1)])
def test_what_is_no_loader(loader: Any) -> None:
    with pytest.raises(CalibrationError, match="wrap a single batch in a list"):
        list(batches(loader))


def test_data_loaders() -> None:
    loader = DataLoader(TensorDataset(X, Z), batch_size=3)
    found = list(batches(loader))
    assert [batch.args[0].shape[0] for batch in found] == [3, 1]
    assert torch.equal(torch.cat([batch.target for batch in found]), Z)


@pytest.mark.parametrize("loader", [[], iter([]), DataLoader(TensorDataset(X[:0]), batch_size=2), {}, [X[:0]]])
def test_empty_loaders(loader: Any) -> None:
    with pytest.raises(CalibrationError, match="empty"):
        list(batches(loader))


def test_batches_of_no_samples_are_left_out() -> None:
    found = list(batches([X[:0], X, {"x": X[:0], "label": Z[:0]}, (X[:1], Z[:1]), (X[:0], Z[:0])]))
    assert [batch.args[0].shape[0] for batch in found] == [4, 1]


@pytest.mark.parametrize(
    "use",
    [
        lambda model, data: pascal_ext.convert(model, data, levels=4),
        lambda model, data: pascal_ext.calibrate(pascal_ext.replace_activations(model, 4), data, progress=False),
        lambda model, data: pascal_ext.allocate(model, data, progress=False),
        lambda model, data: pascal_ext.reconstruct(model, data, 4, progress=False),
        lambda model, data: pascal_ext.verify(model, pascal_ext.convert(model, [X], levels=4), data, progress=False),
        lambda model, data: energy.measure(pascal_ext.convert(model, [X], levels=4), data, progress=False),
        lambda model, data: mean_spikes(pascal_ext.convert(model, [X], levels=4), data),
    ],
    ids=["convert", "calibrate", "allocate", "reconstruct", "verify", "energy", "mean_spikes"],
)
def test_batches_that_a_model_cannot_take(use: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(
        CalibrationError,
        match=r"(the model|layer '0' \(Linear\)) cannot take inputs of torch.float32 \(4, 2\): RuntimeError: mat1",
    ):
        use(model, [Y])


def test_an_iterator_serves_once() -> None:
    loader = iter([X, Y])
    assert len(list(batches(loader))) == 2
    with pytest.raises(CalibrationError, match="used up"):
        list(batches(loader))


class Named(nn.Module):
    """On a device of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(1, device="meta"))

    def forward(self, a: Tensor, b: Any = None) -> None:
        """Is not called."""


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ({"img": X, "label": Z}, r"keys \['img'\], .* of forward\(a, b\): missing a required argument: 'a'. Yield"),
        ({"a": X, "c": X}, "unexpected keyword argument 'c'"),
        (((X, X, X), Z), "3 inputs, .* too many positional arguments"),
    ],
)
def test_batches_of_another_model(batch: Any, match: str) -> None:
    with pytest.raises(CalibrationError, match=match):
        list(batches([batch], Named()))


def test_every_tensor_is_moved() -> None:
    (batch,) = batches([(({"a": X, "b": [Y, "text"]}), Z)], Named())
    assert batch.kwargs["a"].is_meta
    assert batch.kwargs["b"][0].is_meta
    assert batch.kwargs["b"][1] == "text"
    assert batch.target.is_meta
    assert not X.is_meta


def test_a_bar_is_shown_where_it_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    list(batches([X]))
    assert capsys.readouterr().err == ""
    list(batches([X, X], desc="calibrate"))
    assert "calibrate" in capsys.readouterr().err


def test_device_of() -> None:
    def on(device: str) -> Tensor:
        return torch.empty(1, device=device)

    assert device_of(nn.Linear(1, 1, device="meta")) == on("meta").device
    assert device_of(Named()) == on("meta").device
    assert device_of(nn.ReLU()) == on("cpu").device
