"""State dicts in files of many layouts: found wherever they lie, under the model's names, and without running code."""

from __future__ import annotations

import argparse
import enum
import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.saving.state_dict import read_checkpoint, read_state_dict

State = Mapping[str, Tensor]


class Block(nn.Module):
    """A layer whose format has a version, as batch norms' have."""

    _version = 7

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.found: int | None = None

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        self.found = metadata.get("version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(Block(), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 3)


class Kind(enum.Enum):
    FIRST = 1


class Config:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind


@pytest.fixture
def net() -> Net:
    return Net()


def prefixed(prefix: str, state: State) -> State:
    """As a model has them that holds the one of ``state`` under the name ``prefix``."""
    renamed = OrderedDict((f"{prefix}.{name}", value) for name, value in state.items())
    inner = state._metadata  # type: ignore[attr-defined]
    renamed._metadata = OrderedDict(  # type: ignore[attr-defined]
        {"": {"version": 1}} | {f"{prefix}.{name}".removesuffix("."): value for name, value in inner.items()}
    )
    return renamed


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    """An optimiser that has tensors of its own."""
    optimizer = torch.optim.Adam(model.parameters())
    torch.stack([parameter.sum() for parameter in model.parameters()]).sum().backward()
    optimizer.step()
    return optimizer


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "kuangliu's CIFAR script": lambda state: {"net": state, "acc": 95.1, "epoch": 3},
    "doubly nested": lambda state: {"checkpoint": {"model": state}, "best_acc1": torch.tensor(76.1)},
    "under a name of its own": lambda state: {"weights of the best epoch": state},
    "beside an average": lambda state: {"state_dict": state, "ema": {name: value + 1 for name, value in state.items()}},
    "beside a discriminator": lambda state: {"a": {"conv.weight": torch.ones(2)}, "b": state},
    "Lightning's": lambda state: {"state_dict": prefixed("model", state), "hyper_parameters": {}},
    "NumPy's scalars": lambda state: {"model": state, "acc": np.float64(95.1), "n": np.int64(3), "h": np.arange(3.0)},
    "options": lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1, out=Path("out"), kind=Kind.FIRST, device=torch.device("cuda")),
        "config": Config(Kind.FIRST),
        "schedule": functools.partial(print, "code of the file"),
    },
}
WRAPPED: dict[str, Callable[[Net], nn.Module]] = {
    "parallel": nn.DataParallel,
    "parallel twice": lambda net: nn.DataParallel(nn.DataParallel(net)),
    "compiled": lambda net: torch.compile(net),  # type: ignore[return-value]
    "compiled, parallel": lambda net: torch.compile(nn.DataParallel(net)),  # type: ignore[return-value]
    "parallel, compiled": lambda net: nn.DataParallel(torch.compile(net)),  # type: ignore[arg-type]
    "in a model": lambda net: nn.ModuleDict({"backbone": nn.ModuleDict({"net": net})}),
}


def check(path: Path, state: State) -> None:
    """Whether another ``Net`` gets what ``state`` has, and knows of which version its layers are."""
    other = Net()
    other.load_state_dict(read_state_dict(path, other))
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert path.suffix == ".safetensors" or other.features[0].found == Block._version


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_dict_is_found_wherever_it_lies(tmp_path: Path, net: Net, layout: str) -> None:
    torch.save(LAYOUTS[layout](net.state_dict()), tmp_path / "file.pt")
    check(tmp_path / "file.pt", net.state_dict())


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_names_are_the_models(tmp_path: Path, net: Net, wrapped: str) -> None:
    state = WRAPPED[wrapped](net).state_dict()
    torch.save(state, tmp_path / "file.pt")
    check(tmp_path / "file.pt", net.state_dict())
    save_file(state, tmp_path / "file.safetensors")
    check(tmp_path / "file.safetensors", net.state_dict())


def test_wrappers_inside_of_a_model(tmp_path: Path, net: Net) -> None:
    """``torchvision``'s VGGs are trained with ``model.features`` parallel, and no more."""
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    net.features = nn.DataParallel(net.features)  # type: ignore[assignment]
    torch.save({"state_dict": net.state_dict(), "optimizer": stepped(net).state_dict()}, tmp_path / "file.pt")
    read = read_state_dict(tmp_path / "file.pt", Net())
    assert read.keys() == expected.keys()


def test_names_that_the_model_has_stay(tmp_path: Path, net: Net) -> None:
    """A part called ``module`` may be the model's own, and a prefix of all names too."""
    model = nn.ModuleDict({"module": net})
    for wrapped in (model, nn.DataParallel(model)):
        torch.save(wrapped.state_dict(), tmp_path / "file.pt")
        assert read_state_dict(tmp_path / "file.pt", model).keys() == model.state_dict().keys()


def test_names_that_would_fall_together_stay(tmp_path: Path, net: Net) -> None:
    state = {"fc.weight": torch.ones(3, 4), "module.fc.weight": torch.zeros(3, 4)}
    torch.save(state, tmp_path / "file.pt")
    assert read_state_dict(tmp_path / "file.pt", net).keys() == state.keys()


def test_nothing_is_guessed_among_equals(tmp_path: Path, net: Net) -> None:
    state = net.state_dict()
    torch.save({"student": state, "teacher": {"net": state}}, tmp_path / "file.pt")
    with pytest.raises(
        InvalidArgumentError, match=r"2 state dicts, .*: \['student'\], \['teacher'\]\['net'\]; save one"
    ):
        read_state_dict(tmp_path / "file.pt", net)


class Harmful:
    """What reading a pickle may run."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def test_no_code_of_the_file_is_run(tmp_path: Path, net: Net) -> None:
    path, marker = tmp_path / "file.pt", tmp_path / "was run"
    read = (Harmful(eval, f"open({str(marker)!r}, 'w')"), Harmful(open, str(marker), "w"))
    refused = (Harmful(os.mkdir, str(marker)), Harmful(Path.touch, marker))
    for harmful in (*read, *refused):
        torch.save({"model": net.state_dict(), "more": harmful}, path)
        if harmful in read:
            check(path, net.state_dict())
        else:
            with pytest.raises(InvalidArgumentError, match="no code is run"):
                read_state_dict(path, net)
        assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so the test would have seen it


def test_whole_models_are_refused_with_the_way_out(tmp_path: Path, net: Net) -> None:
    path = tmp_path / "file.pt"
    for found, keys in ((net, ""), ({"best": net, "epoch": 3}, "['best']")):
        torch.save(found, path)
        with pytest.raises(InvalidArgumentError, match=r"test_state_dict\.Net") as caught:
            read_state_dict(path, net)
        advice = f"torch.save(torch.load({str(path)!r}, weights_only=False){keys}.state_dict(), 'weights.pt')"
        assert advice in str(caught.value)
        exec(advice.replace("'weights.pt'", "again"), {"torch": torch, "again": tmp_path / "again.pt"})
        check(tmp_path / "again.pt", net.state_dict())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1, 2], "no state dict but a list"),
        ({"epoch": 3, "state_dict": {}}, "only {'epoch': int, 'state_dict': dict}"),
        ({str(index): index for index in range(9)}, "'4': int, ...}"),
        ({"fc.weight": np.ones(3), "fc.bias": np.ones(3)}, "'fc.weight': numpy."),
        ({0: torch.ones(3)}, "only {0: Tensor}"),
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, net: Net, found: Any, message: str) -> None:
    torch.save(found, tmp_path / "file.pt")
    with pytest.raises(InvalidArgumentError, match="holds no state dict") as caught:
        read_state_dict(tmp_path / "file.pt", net)
    assert message in str(caught.value)


def test_files_of_other_kinds(tmp_path: Path, net: Net) -> None:
    path = tmp_path / "file.pt"
    with pytest.raises(InvalidArgumentError, match="there is no file of weights"):
        read_checkpoint(path)
    path.write_text("no weights")
    with pytest.raises(InvalidArgumentError, match="cannot read the weights"):
        read_checkpoint(path)
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(path)
    with pytest.raises(InvalidArgumentError, match="cannot read the weights"):
        read_checkpoint(path)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    check(path, net.state_dict())
