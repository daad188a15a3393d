"""Files: what comes back is what was saved, bit for bit, and nothing in a file is trusted."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from pascal_ext import QCFS, convert, load, save
from pascal_ext.errors import InvalidArgumentError, SerializationError
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.ops.pasc_if import selection
from tests.cases import Net, assert_same_function, quantised, relu, tensors
from tests.refused import ANALOG
from tests.zoo import EXACT

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


@torch.fx.wrap
def _homemade(x: Any) -> Any:
    return x * 2


UNSAVEABLE = "weight norm"
ROUND_TRIPS = [
    *(name for name in EXACT if name != UNSAVEABLE),
    *("layer norm", "attention", "squeeze and excitation", "dot product", "sequence first", "silu", "recurrent"),
]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trips_are_bitwise(name: str, tmp_path: Path) -> None:
    case = {**ANALOG, **EXACT}[name]
    qcfs = quantised(case.build(), case.data(), "per-channel")
    snn = convert(qcfs, on_unsupported="analog")
    data = case.data()
    save(snn, tmp_path / "snn.safetensors")
    for twin in (load(tmp_path / "snn.safetensors"), copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        for execution in ("spikes", "counts"):
            snn.execution = twin.execution = execution
            with torch.no_grad():
                found, expected = tensors(twin(*data)), tensors(snn(*data))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert twin.state_dict().keys() == snn.state_dict().keys()
        assert (twin.plan, twin.latency, twin.analog_nodes) == (snn.plan, snn.latency, snn.analog_nodes)
        assert repr(twin) == repr(snn)


def test_loaded_tensors_are_aligned(snn: SpikingNetwork, tmp_path: Path) -> None:
    """As those that torch allocates: else a convolution may take another path, which rounds differently."""
    save(snn, tmp_path / "snn")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in load(tmp_path / "snn").state_dict().values())


@pytest.fixture
def snn() -> SpikingNetwork:
    case = EXACT["norm after"]
    return convert(quantised(case.build(), case.data(), "per-channel"))


def test_settings_come_back(snn: SpikingNetwork, tmp_path: Path) -> None:
    snn.execution, snn.step_mode, snn.settle_ties, snn.chunk = "counts", "m", False, 3
    save(snn, tmp_path / "x")
    twin = load(tmp_path / "x")
    assert (twin.execution, twin.step_mode, twin.settle_ties, twin.chunk) == ("counts", "m", False, 3)
    assert all(neuron.execution == "counts" for neuron in twin.neurons.values())


def test_a_backend_that_cannot_run_where_the_network_is_loaded(
    snn: SpikingNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = selection._backends["torch"]
    with monkeypatch.context() as patched:
        patched.setitem(selection._backends, "elsewhere", known)
        for neuron in snn.neurons.values():
            neuron.backend = "elsewhere"
        save(snn, tmp_path / "x")
    twin = load(tmp_path / "x")
    assert {neuron.backend for neuron in twin.neurons.values()} == {"auto"}
    assert "backend='elsewhere' is unknown" in caplog.text


def test_a_loaded_network_is_whole(snn: SpikingNetwork, tmp_path: Path) -> None:
    """It can be saved, copied and moved again, and is independent of the file."""
    case = EXACT["norm after"]
    save(snn, tmp_path / "x")
    twin = load(tmp_path / "x")
    (tmp_path / "x").unlink()
    save(twin, tmp_path / "y")
    assert_same_function(snn, load(tmp_path / "y"), case)
    twin.to(torch.float32).double()
    assert not any(p.is_meta for p in twin.parameters())
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in snn.parameters()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_come_back(snn: SpikingNetwork, dtype: torch.dtype, tmp_path: Path) -> None:
    save(snn.to(dtype), tmp_path / "x")
    twin = load(tmp_path / "x")
    for (name, ours), theirs in zip(twin.state_dict().items(), snn.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(twin(x), snn(x))


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Sigmoid(), nn.Softmax2d(), nn.Identity(3, unused=4)),  # without a constructor of their own
        *(nn.Hardtanh(0.5, 1.0), nn.GELU("tanh"), nn.PReLU(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, affine=False)),
        *(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d((2, None)), nn.Unflatten(1, (2, 2))),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_torch(layer: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    relu = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer).eval()
    snn = convert(relu, [images], on_unsupported="analog", progress=False)
    save(snn, tmp_path / "snn.safetensors")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "snn.safetensors")(images), snn(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 6, batch_first=True, proj_size=2),
        nn.GRU(4, 6, num_layers=2, bidirectional=True, bias=False),
        nn.RNN(4, 6, nonlinearity="relu", batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_recurrent_layers(layer: nn.RNNBase, tmp_path: Path) -> None:
    """Their constructors take ``*args, **kwargs``."""
    network = Net(lambda m, x: m.layer(relu(m.linear(x)))[0], linear=nn.Linear(3, 4), layer=layer).eval()
    data = torch.randn(5, 7, 3)
    snn = convert(quantised(network, [data]), on_unsupported="analog")
    save(snn, tmp_path / "snn.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(load(tmp_path / "snn.safetensors")(data), snn(data))  # torch's RNN varies by an ulp


def test_layers_that_a_file_cannot_hold(tmp_path: Path) -> None:
    case = EXACT[UNSAVEABLE]
    snn = convert(quantised(case.build(), case.data()), on_unsupported="analog")
    with pytest.raises(SerializationError, match="layer 'b'"):
        save(snn, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("hook", "match"),
    [
        (
            lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
            r"'a' computes its weights anew.*prune\.remove",
        ),
        (torch.nn.utils.parametrizations.spectral_norm, "remove_parametrizations"),
    ],
)
def test_weights_that_a_file_cannot_hold(hook: Any, match: str, tmp_path: Path) -> None:
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=hook(nn.Linear(3, 4)), b=nn.Linear(4, 2))
    snn = convert(model, [torch.rand(8, 3)], progress=False)
    with pytest.raises(SerializationError, match=match):
        save(snn, tmp_path / "snn.safetensors")
    assert not any(tmp_path.iterdir())


def test_where_nothing_can_be_written(snn: SpikingNetwork, tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "x", tmp_path):
        with pytest.raises(SerializationError, match="cannot write"):
            save(snn, path)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(3, 4), nn.ReLU()), QCFS(4), 3])
def test_what_is_no_converted_network(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"convert it first|expected a model, .* got 3"):
        save(model, tmp_path / "x")


def test_of_a_compiled_network_the_file_holds_the_network(snn: SpikingNetwork, tmp_path: Path) -> None:
    save(torch.compile(snn), tmp_path / "x")
    assert load(tmp_path / "x").state_dict().keys() == snn.state_dict().keys()


def test_hooks_are_not_in_the_file(snn: SpikingNetwork, tmp_path: Path) -> None:
    next(iter(snn.neurons.values())).register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"does not hold the forward hooks of \['relu'\]"):
        save(snn, tmp_path / "snn.safetensors")


def test_functions_that_are_not_torchs(tmp_path: Path) -> None:
    model = Net(lambda m, x: relu(_homemade(m.a(x))), a=nn.Conv2d(3, 2, 1))
    snn = convert(model, [torch.randn(2, 3, 4, 4)], on_unsupported="analog", progress=False)
    with pytest.raises(SerializationError, match="_homemade"):
        save(snn, tmp_path / "x")


# Files that are not as they should be


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with its structure changed by ``edit``."""
    with safe_open(path, framework="pt") as file:
        structure = json.loads(file.metadata()["pascal_ext"])
    structure = edit(structure) or structure
    save_file(
        load_file(path),
        path,
        metadata={"pascal_ext": structure if isinstance(structure, str) else json.dumps(structure)},
    )
    return path


@pytest.fixture
def path(snn: SpikingNetwork, tmp_path: Path) -> Path:
    save(snn, tmp_path / "snn.safetensors")
    return tmp_path / "snn.safetensors"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match="nowhere"):
        load(tmp_path / "nowhere.safetensors")


def test_a_damaged_file(path: Path) -> None:
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-10], b"\xff" * 200, content[:8] + b"[" + content[9:]):
        path.write_bytes(damaged)
        with pytest.raises(SerializationError, match=r"snn\.safetensors"):
            load(path)


def test_tensors_without_a_network(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SerializationError, match=r"no network that pascal_ext\.save wrote"):
        load(path)


def test_a_newer_version(path: Path) -> None:
    with pytest.raises(SerializationError, match=r"version 99.*upgrade"):
        load(edited(path, lambda structure: structure.update(version=99)))


def without_a_tensor(path: Path) -> Path:
    with_metadata = edited(path, lambda structure: None)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    kept = load_file(with_metadata)
    del kept["a.weight"]
    save_file(kept, path, metadata=metadata)
    return path


def test_a_missing_tensor(path: Path) -> None:
    with pytest.raises(SerializationError, match=r"a\.weight"):
        load(without_a_tensor(path))


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: "not json",
        lambda s: "[]",
        lambda s: s.pop("latency") and None,
        lambda s: s.pop("counts_graph") and None,
        lambda s: s.update(version="1") and None,
        lambda s: s.update(execution="fast"),
        lambda s: s["modules"].pop("b") and None,
        lambda s: s["modules"]["b"].update({"class": "torch.nn.Nonexistent"}),
        lambda s: s["modules"]["b"].update({"class": "torch.nn.functional"}),
        lambda s: s["modules"]["b"]["options"].pop("in_channels") and None,
        lambda s: s["modules"]["b"]["options"].update(kernel_size=5),
        lambda s: s["spikes_graph"]["nodes"].pop(4) and None,
        lambda s: s["spikes_graph"].update(nodes=7),
    ],
)
def test_a_structure_that_makes_no_sense(edit: Callable[[dict[str, Any]], Any], path: Path) -> None:
    with pytest.raises(SerializationError):
        load(edited(path, edit))


def replaced(op: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Put a node of kind ``op`` into the spiking graph."""

    def edit(structure: dict[str, Any]) -> None:
        nodes = structure["spikes_graph"]["nodes"]
        inputs = next(position for position, node in enumerate(nodes) if node["op"] != "placeholder")
        x = {"node": nodes[inputs - 1]["name"]}
        node = {"name": "evil", "op": op, "target": "", "args": [x], "kwargs": {}, **changes}
        nodes.insert(inputs, {**node, "args": [x if arg == "x" else arg for arg in node["args"]]})

    return edit


MARK = "torch.manual_seed(4242)"  # what the code that is smuggled in would do


@pytest.mark.parametrize(
    "edit",
    [
        replaced("call_method", target=f"relu(), {MARK}) #"),
        replaced("call_method", target=f'a", {MARK}) #'),
        replaced("call_method", target="__reduce__"),
        replaced("call_method", target="grad"),
        replaced("get_attr", target=f'a", {MARK}) #', args=[]),
        replaced("get_attr", target="__class__", args=[]),
        replaced("get_attr", target="a-\\", args=[]),
        replaced("get_attr", target=f"a-\n{MARK}\n", args=[]),
        replaced("get_attr", target="a.weight.data", args=[]),
        replaced("get_attr", target="forward", args=[]),
        replaced("call_module", target="load_state_dict"),
        replaced("call_module", target="a.forward"),
        replaced("placeholder", target=f"z={MARK}", args=[]),
        replaced("placeholder", target="lambda", args=[]),
        replaced("call_function", target="torch:relu", kwargs={f"x={MARK}, y": 1}),
        replaced("call_function", target="builtins:getattr", args=["x", "__class__"]),
        replaced("call_function", target="builtins:eval", args=[MARK]),
        replaced("call_function", target="os:system", args=["true"]),
        replaced("call_function", target="torch:load", args=["file"]),
        replaced("call_function", target="torch:manual_seed", args=[4242]),
        replaced("call_function", target="operator:methodcaller", args=["numpy"]),
        replaced("call_function", target="operator:attrgetter", args=["__class__"]),
        replaced("call_function", target="torch.nn.functional:torch"),
        replaced("call_function", target="torch:relu", args=["x"], kwargs={"dtype": {"dtype": "load"}}),
        replaced("import os"),
    ],
)
def test_a_file_cannot_smuggle_code_in(edit: Callable[[dict[str, Any]], None], path: Path) -> None:
    with pytest.raises(SerializationError):
        load(edited(path, edit))
    assert torch.initial_seed() != 4242


def test_layers_may_have_names_that_are_no_identifiers(tmp_path: Path) -> None:
    """torchvision's RegNets have layers ``block1-0``; also a copy goes through the file's format."""
    layers = {"block1-0": nn.Conv2d(3, 4, 1), "a b": nn.ReLU(), "7": nn.Conv2d(4, 2, 1)}
    model = nn.Sequential(OrderedDict(layers)).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    snn = convert(model, [x], progress=False)
    save(snn, tmp_path / "snn.safetensors")
    for again in (load(tmp_path / "snn.safetensors"), copy.deepcopy(snn)):
        assert torch.equal(again(x), snn(x))
        assert again.plan == snn.plan


def test_names_of_nodes_are_made_harmless(path: Path) -> None:
    edit = replaced("call_method", target="relu", name=f"x = {MARK} #")
    load(edited(path, edit))(torch.randn(2, 3, 6, 6, dtype=torch.float64))
    assert torch.initial_seed() != 4242


def test_parameters_stay_tied_and_frozen(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), QCFS(4), nn.Linear(4, 4), QCFS(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[4].bias.requires_grad_(False)
    snn = convert(model)
    save(snn, tmp_path / "snn.safetensors")
    loaded = load(tmp_path / "snn.safetensors")
    assert loaded.get_parameter("2.weight") is loaded.get_parameter("0.weight")
    assert loaded.get_parameter("4.weight") is not loaded.get_parameter("0.weight")
    expected = {name: parameter.requires_grad for name, parameter in snn.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == expected


def test_a_file_of_a_release_without_chunks(path: Path) -> None:
    def forget(structure: dict[str, Any]) -> None:
        del structure["chunk"]

    assert load(edited(path, forget)).chunk == "auto"


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    three = np.int64(3)
    layers = [nn.Conv2d(1, np.int32(4), (three, 3), padding=np.int8(1)), nn.BatchNorm2d(4, eps=np.float32(1e-3))]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AvgPool2d(three), nn.Flatten(), nn.Linear(16, 3)).eval()
    images = torch.rand(2, 1, 6, 6)
    snn = convert(model, [images], 4)
    save(snn, tmp_path / "snn.safetensors")
    assert torch.equal(load(tmp_path / "snn.safetensors")(images), snn(images))


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv2d, (2, 3, 6, 6)), (nn.Conv3d, (2, 3, 6, 6, 6))])
def test_the_memory_format_comes_back(layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = nn.Sequential(layer(3, 4, 3), nn.ReLU(), layer(4, 4, 1), nn.ReLU(), nn.Flatten(1))
    images = torch.rand(shape)
    for memory_format in (torch.contiguous_format, {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]):
        snn = convert(model, [images], 4).to(memory_format=memory_format)
        save(snn, tmp_path / "snn.safetensors")
        again = load(tmp_path / "snn.safetensors")
        weights = zip(again.parameters(), snn.parameters(), strict=True)
        assert all(ours.is_contiguous(memory_format=memory_format) for ours, _ in weights if ours.ndim > 1)
        assert all(torch.equal(value, snn.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_device_that_is_not_there(path: Path) -> None:
    for device in ("nowhere", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InvalidArgumentError, match=f"device='{device}' cannot be used here"):
            load(path, device=device)
