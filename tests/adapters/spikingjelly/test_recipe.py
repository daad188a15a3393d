from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import ann2snn
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters import spikingjelly as adapter
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES
from pascal_ext.errors import InvalidArgumentError, PlanError, UnsupportedOperationError

Snapshot = Callable[[nn.Module], object]
Loader = list[tuple[Tensor, Tensor]]
with_recipes = pytest.mark.skipif(not HAS_RECIPES, reason="recipes are of SpikingJelly 2.x")


@pytest.mark.skipif(HAS_RECIPES, reason="the error is that of 0.0.0.0.14, which has no recipes")
def test_without_recipes_the_error_says_what_to_do() -> None:
    with pytest.raises(ImportError, match=r"PascalRecipe needs SpikingJelly 2\.x.*0\.0\.0\.0\.14 is installed"):
        _ = adapter.PascalRecipe


@with_recipes
@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_converts_a_qcfs_network_exactly(qcfs: nn.Module, batch: Tensor, execution: str, snapshot: Snapshot) -> None:
    before = snapshot(qcfs)
    snn = ann2snn.Converter(adapter.PascalRecipe(execution=execution)).convert(qcfs)
    assert type(snn) is adapter.PascalNetwork
    assert snn.execution == execution
    torch.testing.assert_close(snn(batch), qcfs(batch), rtol=0, atol=1e-9)
    assert snapshot(qcfs) == before


@with_recipes
def test_converts_a_relu_network_at_the_levels_asked_for(ann: nn.Module, loader: Loader, snapshot: Snapshot) -> None:
    before = snapshot(ann)
    converter = ann2snn.Converter(adapter.PascalRecipe(loader, levels=5, progress=False))
    snn = converter.convert(ann)
    assert set(snn.plan.values()) == {5}
    assert snapshot(ann) == before
    plan = snn.plan.updated({"block.relu": 2})
    assert ann2snn.Converter(adapter.PascalRecipe(loader, plan, progress=False)).convert(ann).plan == plan
    other = converter.convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU()))
    assert list(other.neurons) == ["2"]


@with_recipes
def test_host_and_core_give_the_same_network(ann: nn.Module, loader: Loader) -> None:
    theirs = ann2snn.Converter(adapter.PascalRecipe(loader, progress=False)).convert(ann).state_dict()
    ours = pascal_ext.convert(ann, loader, progress=False).state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@with_recipes
def test_a_failed_conversion_changes_nothing(ann: nn.Module, loader: Loader, snapshot: Snapshot) -> None:
    ann.act = nn.SiLU()
    ann.pool = nn.Sequential(ann.pool, ann.act)
    before = snapshot(ann)
    recipe = adapter.PascalRecipe(loader, progress=False)
    converter = ann2snn.Converter(recipe)
    with pytest.raises(UnsupportedOperationError):
        converter.convert(ann)
    with pytest.raises(InvalidArgumentError, match="pass a dataloader"):
        ann2snn.Converter(adapter.PascalRecipe()).convert(ann)
    with pytest.raises(PlanError, match="no_such_layer"):
        ann2snn.Converter(adapter.PascalRecipe(loader, {"no_such_layer": 2})).convert(ann)
    assert snapshot(ann) == before
    recipe.options["on_unsupported"] = "analog"
    assert len(converter.convert(ann).analog_nodes) == 1


@with_recipes
def test_unknown_options_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"unexpected argument 'level'; it takes .*levels"):
        adapter.PascalRecipe(level=4)


@with_recipes
@pytest.mark.parametrize(("asked", "used"), [(None, "cpu"), ("meta", "meta")])
def test_conversion_runs_on_the_converters_device(
    ann: nn.Module, monkeypatch: pytest.MonkeyPatch, asked: str | None, used: str
) -> None:
    devices = []
    module = importlib.import_module("pascal_ext.adapters.spikingjelly.recipe")
    monkeypatch.setattr(module, "convert", lambda *args, device, **options: devices.append(device) or nn.Identity())
    ann2snn.Converter(adapter.PascalRecipe(), device=asked).convert(ann)
    assert devices == [torch.device(used)]


@pytest.mark.gpu
@with_recipes
def test_converts_on_the_converters_device(ann: nn.Module, loader: Loader) -> None:
    snn = ann2snn.Converter(adapter.PascalRecipe(loader, progress=False), device="cuda").convert(ann)
    assert all(tensor.is_cuda for tensor in snn.state_dict().values())
    assert all(tensor.device.type == "cpu" for tensor in ann.state_dict().values())


@with_recipes
def test_recipes_and_their_converters_pickle(qcfs: nn.Module, batch: Tensor, loader: Loader) -> None:
    converter = ann2snn.Converter(adapter.PascalRecipe(loader, progress=False), device="cpu")
    expected = converter.convert(qcfs)(batch)
    for twin in (pickle.loads(pickle.dumps(converter)), copy.deepcopy(converter)):
        assert torch.equal(twin.convert(qcfs)(batch), expected)


def test_all_names_can_be_imported() -> None:
    names: dict[str, object] = {}
    exec(f"from {adapter.__name__} import *", names)
    assert set(adapter.__all__) <= names.keys()
    assert ("PascalRecipe" in names) == HAS_RECIPES
