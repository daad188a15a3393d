from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional
from spikingjelly.activation_based.ann2snn import Converter  # as code that knows nothing of this package would
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly import PascalNetwork, registration
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES
from pascal_ext.errors import InvalidArgumentError, PlanError

Snapshot = Callable[[nn.Module], object]
Loader = list[tuple[Tensor, Tensor]]
STOCK_INIT = Converter.__init__
REFUSED = TypeError if HAS_RECIPES else NotImplementedError  # 2.x knows no modes, 0.0.0.0.14 not this one
with_recipes = pytest.mark.skipif(not HAS_RECIPES, reason="recipe names are of SpikingJelly 2.x")
with_modes = pytest.mark.skipif(HAS_RECIPES, reason="modes are of SpikingJelly 0.0.0.0.14")


@pytest.fixture(autouse=True)
def stock_afterwards() -> Iterator[None]:
    yield
    pascal_ext.unregister()
    assert Converter.__init__ is STOCK_INIT


def run(converter: Any, model: nn.Module) -> Any:
    return converter.convert(model) if HAS_RECIPES else converter(model)


def test_registering_is_idempotent_and_reversible() -> None:
    pascal_ext.unregister()
    pascal_ext.register()
    patched = Converter.__init__
    pascal_ext.register()
    assert Converter.__init__ is patched is not STOCK_INIT
    pascal_ext.unregister()
    pascal_ext.unregister()
    assert Converter.__init__ is STOCK_INIT


def test_registered_for_a_while_or_for_longer() -> None:
    with registration.registered():
        assert Converter.__init__ is not STOCK_INIT
    assert Converter.__init__ is STOCK_INIT
    pascal_ext.register()
    patched = Converter.__init__
    with pytest.raises(ZeroDivisionError), registration.registered():
        raise ZeroDivisionError
    assert Converter.__init__ is patched


@pytest.mark.parametrize("mode", ["pascal", "PASCAL"])
def test_mode_converts_relu_networks(ann: nn.Module, loader: Loader, mode: str, snapshot: Snapshot) -> None:
    pascal_ext.register()
    before = snapshot(ann)
    snn = run(Converter(dataloader=loader, mode=mode, progress=False), ann)
    assert type(snn) is PascalNetwork
    assert set(snn.plan.values()) == {8}
    assert snapshot(ann) == before
    mine, theirs = ({t.untyped_storage().data_ptr() for t in m.state_dict().values()} for m in (snn, ann))
    assert not mine & theirs
    report = pascal_ext.verify(ann, snn, loader, progress=False)
    assert report.mismatched_predictions == 0


def test_mode_converts_qcfs_networks_without_data(qcfs: nn.Module, batch: Tensor) -> None:
    pascal_ext.register()
    snn = run(Converter(mode="pascal"), qcfs)
    torch.testing.assert_close(snn(batch), qcfs(batch), rtol=0, atol=1e-9)
    torch.testing.assert_close(run(Converter(None, mode="pascal"), qcfs)(batch), qcfs(batch), rtol=0, atol=1e-9)


def test_levels_can_be_chosen(ann: nn.Module, loader: Loader) -> None:
    pascal_ext.register()
    snn = run(Converter(dataloader=loader, mode="pascal", levels="auto", progress=False), ann)
    assert snn.plan == pascal_ext.allocate(ann, loader, progress=False)
    assert len(set(snn.plan.values())) > 1


def test_arguments_by_position_and_options_by_name(ann: nn.Module, loader: Loader) -> None:
    pascal_ext.register()
    snn = run(Converter(loader, "cpu", "pascal", levels=3, execution="counts", progress=False), ann)
    assert set(snn.plan.values()) == {3}
    assert snn.execution == "counts"
    snn = run(Converter(loader, mode="pascal", device=torch.device("cpu"), levels={"relu": 2}, progress=False), ann)
    assert snn.plan["relu"] == 2
    assert snn.plan["block.relu"] == 8
    with pytest.raises(PlanError, match="nowhere"):
        run(Converter(loader, mode="pascal", levels={"nowhere": 2}, progress=False), ann)
    with pytest.raises(TypeError, match="unexpected argument 'lavels'"):
        Converter(loader, mode="pascal", lavels=3)


def test_each_conversion_is_its_own(ann: nn.Module, qcfs: nn.Module, loader: Loader) -> None:
    pascal_ext.register()
    converter = Converter(loader, mode="pascal", levels=3, progress=False)
    first, second = run(converter, ann), run(copy.deepcopy(converter), ann)
    assert converter.device is None
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert run(Converter(mode="pascal"), qcfs).plan != first.plan


def test_unregistering_ends_the_mode_but_not_its_converters(ann: nn.Module, loader: Loader) -> None:
    with pytest.raises(REFUSED):
        Converter(dataloader=loader, mode="pascal")
    pascal_ext.register()
    converter = Converter(loader, mode="pascal", progress=False)
    pascal_ext.unregister()
    assert type(run(converter, ann)) is PascalNetwork
    with pytest.raises(REFUSED):
        Converter(dataloader=loader, mode="pascal")


def test_a_patch_on_top_survives(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    pascal_ext.register()
    ours = Converter.__init__
    calls = []

    def theirs(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(kwargs)
        ours(self, *args, **kwargs)

    monkeypatch.setattr(Converter, "__init__", theirs)
    pascal_ext.unregister()
    assert Converter.__init__ is theirs
    with pytest.raises(REFUSED):
        Converter(dataloader=loader, mode="pascal")
    pascal_ext.register()
    Converter(dataloader=loader, mode="pascal")
    pascal_ext.unregister()
    assert Converter.__init__ is theirs
    assert len(calls) == 2
    monkeypatch.undo()
    Converter.__init__ = STOCK_INIT  # monkeypatch has put back what this package had put there


def test_many_threads_leave_it_as_it_was() -> None:
    barrier = threading.Barrier(8)

    def work(index: int) -> None:
        barrier.wait()
        for step in range(200):
            (pascal_ext.register if (step + index) % 2 else pascal_ext.unregister)()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pascal_ext.unregister()
    assert Converter.__init__ is STOCK_INIT
    assert registration._stock_init is None


def in_every_state(observe: Callable[[], Any]) -> list[Any]:
    """What ``observe`` gives before, while and after the mode is registered."""
    observed = [observe()]
    pascal_ext.register()
    observed.append(observe())
    pascal_ext.unregister()
    observed.append(observe())
    return observed


def error_of(*args: Any, **kwargs: Any) -> tuple[str, str]:
    """What the host raises, whatever it is."""
    try:
        Converter(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    pytest.fail("the converter took a wrong call")


WRONG_CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("no such thing",), {"mode": "no such mode"}),
    (([],), {"mode": "max%"}),
    (([],), {"mode": 3.0}),
    (([],), {"mode": None}),
    (([],), {"mode": ["pascal"]}),
    (([], None, "no such mode"), {}),
    (([],), {"levels": 4}),
    (([],), {"unknown": 4}),
]
WRONG_RECIPES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("rate_coding",), {}),
    (("sta_transformer",), {}),
    (("no_such_recipe",), {}),
    ((4,), {}),
    ((), {"recipe": "no_such_recipe", "device": "cpu"}),
    ((), {"mode": "max"}),
]


@pytest.mark.parametrize(("args", "kwargs"), WRONG_CALLS + WRONG_RECIPES * HAS_RECIPES)
def test_errors_of_the_stock_converter_stay(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    before, while_registered, after = in_every_state(lambda: error_of(*args, **kwargs))
    assert before == while_registered == after


def simulate(snn: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(snn)
    return torch.stack([snn(x) for _ in range(6)])


@with_modes
@pytest.mark.parametrize("mode", ["max", "Max", "99.9%", 0.5])
@pytest.mark.parametrize("fuse_flag", [True, False])
def test_stock_modes_stay(ann: nn.Module, loader: Loader, mode: str | float, fuse_flag: bool) -> None:
    def convert() -> Tensor:
        converter = Converter(loader, None, mode, 0.2, fuse_flag=fuse_flag)
        assert converter.momentum == 0.2
        return simulate(converter(copy.deepcopy(ann)), loader[0][0])

    before, while_registered, after = in_every_state(convert)
    assert torch.equal(before, while_registered)
    assert torch.equal(before, after)


@with_recipes
@pytest.mark.parametrize("settings", [{}, {"mode": "99.9%"}, {"channel_wise": True, "half_threshold": True}])
def test_stock_recipes_stay(loader: Loader, settings: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())

    def convert() -> Tensor:
        recipe = ann2snn.RateCodingRecipe(dataloader=loader, **settings)
        return simulate(Converter(recipe, device="cpu").convert(copy.deepcopy(model)), loader[0][0])

    before, while_registered, after = in_every_state(convert)
    assert torch.equal(before, while_registered)
    assert torch.equal(before, after)
    assert type(Converter("transformer_td_equivalent").recipe) is ann2snn.TransformerTDEquivalentRecipe


@with_recipes
def test_recipe_by_name(ann: nn.Module, loader: Loader) -> None:
    pascal_ext.register()
    assert Converter("pascal", dataloader=loader, levels=2, progress=False).convert(ann).plan["relu"] == 2
    assert Converter(recipe="pascal", device="cpu", dataloader=loader, progress=False).convert(ann).plan["relu"] == 8
    assert Converter("pascal", "cpu", dataloader=loader, progress=False).device == "cpu"
    with pytest.raises(TypeError, match="unexpected argument 'levls'"):
        Converter("pascal", levls=2)


@with_modes
def test_converter_is_a_module_with_the_stock_attributes(loader: Loader) -> None:
    pascal_ext.register()
    converter = Converter(loader, mode="pascal", levels=4)
    assert isinstance(converter, nn.Module)
    assert (converter.mode, converter.dataloader, converter.device) == ("pascal", loader, None)
    with pytest.raises(TypeError, match="unexpected argument 'momentum'"):
        Converter(loader, mode="pascal", momentum=0.2)


@with_modes
def test_a_dataloader_is_not_a_recipe_name() -> None:
    pascal_ext.register()
    assert Converter("pascal").mode == "Max"


def test_converters_with_the_mode_pickle(loader: Loader, qcfs: nn.Module, batch: Tensor) -> None:
    pascal_ext.register()
    converter = Converter(dataloader=loader, mode="pascal", progress=False)
    twin = pickle.loads(pickle.dumps(converter))
    expected, found = (one.convert(qcfs) if HAS_RECIPES else one(qcfs) for one in (converter, twin))
    assert torch.equal(found(batch), expected(batch))


@with_modes
def test_a_mode_that_was_changed_is_refused(loader: Loader, qcfs: nn.Module) -> None:
    pascal_ext.register()
    converter = Converter(loader, mode="pascal")
    converter.mode = "max"
    with pytest.raises(InvalidArgumentError, match="'max' now; make another Converter"):
        converter(qcfs)
