"""Checkpoints of the QCFS and PASCAL repositories: their keys, against a forward pass made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import models
from benchmarks.compare.workload import Checkpoint
from benchmarks.models.checkpoints import load_published
from benchmarks.models.published import VGG, ProjectionResNet
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.plan import LevelPlan

State = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape) / max(1, shape[-1] * shape[-2] * shape[1] if len(shape) > 2 else shape[-1]) ** 0.5


def batch_norm(state: State, key: str, width: int) -> None:
    state[f"{key}.weight"], state[f"{key}.bias"] = torch.rand(width) + 0.5, torch.randn(width)
    state[f"{key}.running_mean"], state[f"{key}.running_var"] = torch.randn(width), torch.rand(width) + 0.5
    state[f"{key}.num_batches_tracked"] = torch.tensor(7)


def vgg_state(stages: tuple[tuple[int, ...], ...], hidden: int, size: int = 1, plain: bool = False) -> State:
    """layer<stage>.<index>: convolution, norm, activation, dropout; classifier.1, .2 (activation), .4, .5, .7.

    Without norms the indices move up.
    """
    state: State = {}
    channels = 3
    for stage, widths in enumerate(stages, 1):
        for position, width in enumerate(widths):
            first = (3 if plain else 4) * position
            key = f"layer{stage}.{first}"
            state[f"{key}.weight"], state[f"{key}.bias"] = normal(width, channels, 3, 3), torch.randn(width)
            if not plain:
                batch_norm(state, f"layer{stage}.{first + 1}", width)
            state[f"layer{stage}.{first + (1 if plain else 2)}.thresh"] = torch.tensor([1.5])
            channels = width
    for index, (inputs, outputs) in {1: (channels * size**2, hidden), 4: (hidden, hidden), 7: (hidden, 10)}.items():
        state[f"classifier.{index}.weight"], state[f"classifier.{index}.bias"] = (
            normal(outputs, inputs),
            torch.randn(outputs),
        )
        if index < 7:
            state[f"classifier.{index + 1}.thresh"] = torch.tensor([-0.8])
    return state


def resnet_state(widths: tuple[int, ...], blocks: tuple[int, ...]) -> State:
    """conv1.{0,1,2}, conv<stage>_x.<block>.{residual_function.{0..4},shortcut.{0,1},act}, fc."""
    state: State = {"conv1.0.weight": normal(widths[0], 3, 3, 3), "conv1.2.thresh": torch.tensor([2.0])}
    batch_norm(state, "conv1.1", widths[0])
    channels = widths[0]
    for stage, (width, number) in enumerate(zip(widths, blocks, strict=True), 2):
        for block in range(number):
            key = f"conv{stage}_x.{block}"
            for index, inputs in ((0, channels), (3, width)):
                state[f"{key}.residual_function.{index}.weight"] = normal(width, inputs, 3, 3)
                batch_norm(state, f"{key}.residual_function.{index + 1}", width)
            state[f"{key}.residual_function.2.thresh"] = torch.tensor([1.2])
            if channels != width:
                state[f"{key}.shortcut.0.weight"] = normal(width, channels, 1, 1)
                batch_norm(state, f"{key}.shortcut.1", width)
            state[f"{key}.act.thresh"] = torch.tensor([-1.7 if block else 1.7])
            channels = width
    state["fc.weight"], state["fc.bias"] = normal(10, channels), torch.randn(10)
    return state


def norm(state: State, key: str, x: Tensor) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{key}.{name}"] for name in names))


def qcfs(state: State, key: str, x: Tensor, levels: int) -> Tensor:
    threshold = state[f"{key}.thresh"]
    return torch.floor((x / threshold).clamp(0, 1) * levels + 0.5) / levels * threshold


def vgg_forward(
    state: State, stages: tuple[tuple[int, ...], ...], x: Tensor, levels: int, plain: bool = False
) -> Tensor:
    for stage, widths in enumerate(stages, 1):
        for position in range(len(widths)):
            first = (3 if plain else 4) * position
            conv, bn, act = (f"layer{stage}.{first + offset}" for offset in (0, 1, 1 if plain else 2))
            x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=1)
            x = qcfs(state, act, x if plain else norm(state, bn, x), levels)
        x = F.max_pool2d(x, 2) if plain else F.avg_pool2d(x, 2)
    x = x.flatten(1)
    for index in (1, 4):
        x = F.linear(x, state[f"classifier.{index}.weight"], state[f"classifier.{index}.bias"])
        x = qcfs(state, f"classifier.{index + 1}", x, levels)
    return F.linear(x, state["classifier.7.weight"], state["classifier.7.bias"])


def resnet_forward(state: State, blocks: tuple[int, ...], x: Tensor, levels: int) -> Tensor:
    x = qcfs(state, "conv1.2", norm(state, "conv1.1", F.conv2d(x, state["conv1.0.weight"], padding=1)), levels)
    for stage, number in enumerate(blocks, 2):
        for block in range(number):
            key, stride = f"conv{stage}_x.{block}", 2 if stage > 2 and block == 0 else 1
            y = F.conv2d(x, state[f"{key}.residual_function.0.weight"], stride=stride, padding=1)
            y = qcfs(state, f"{key}.residual_function.2", norm(state, f"{key}.residual_function.1", y), levels)
            y = F.conv2d(y, state[f"{key}.residual_function.3.weight"], padding=1)
            y = norm(state, f"{key}.residual_function.4", y)
            if f"{key}.shortcut.0.weight" in state:
                x = norm(state, f"{key}.shortcut.1", F.conv2d(x, state[f"{key}.shortcut.0.weight"], stride=stride))
            x = qcfs(state, f"{key}.act", y + x, levels)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def old_names(state: State) -> State:
    """As files were before: ``up`` for ``thresh``, and ``relu`` for the activation after an addition."""
    return {key.replace("act.thresh", "relu.up").replace("thresh", "up"): value for key, value in state.items()}


LAYOUTS = {
    "bare": lambda state: state,
    "parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "nested": lambda state: {"model_state_dict": state, "start_epoch": 3},
    "ImageNet script": lambda state: {
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "arch": "resnet34",
        "best_acc1": torch.tensor(74.3),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"T_max": 90, "base_lrs": [0.1]},
    },
    "old": old_names,
    "old, nested, parallel": lambda state: {
        "state_dict": {f"module.{key}": value for key, value in old_names(state).items()}
    },
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ((4, 5), (6,))
    monkeypatch.setitem(models.MODELS, "vgg", lambda classes: VGG(stages, 7, classes))
    monkeypatch.setitem(models.MODELS, "vgg, large", lambda classes: VGG(stages, 7, classes, size=3))
    monkeypatch.setitem(models.MODELS, "vgg, plain", lambda classes: VGG(stages, 7, classes, size=3, plain=True))
    monkeypatch.setitem(models.MODELS, "resnet", lambda classes: ProjectionResNet((4, 6), (2, 3), classes))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["vgg", "vgg, large", "vgg, plain", "resnet"])
def test_checkpoints_load_as_they_are(name: str, layout: str, tmp_path: Path) -> None:
    if name == "resnet":
        state, images = resnet_state((4, 6), (2, 3)), torch.randn(9, 3, 8, 8)
        expected = resnet_forward(state, (2, 3), images, 8)
    else:
        stages, size, plain = ((4, 5), (6,)), 1 if name == "vgg" else 3, name == "vgg, plain"
        state, images = vgg_state(stages, 7, size, plain), torch.randn(9, 3, 4 * size, 4 * size)
        expected = vgg_forward(state, stages, images, 8, plain)
    torch.save(LAYOUTS[layout](state), tmp_path / "model.pth")
    model = load_published(name, 10, tmp_path / "model.pth", 8)
    assert not model.training
    torch.testing.assert_close(model(images), expected)
    assert min(layer.threshold.item() for layer in qcfs_layers(model).values()) < 0


@pytest.mark.usefixtures("small")
def test_levels_are_given_and_counted(tmp_path: Path) -> None:
    torch.save(resnet_state((4, 6), (2, 3)), tmp_path / "model.pth")
    levels = [4, 1, 2, 4, 8, 1, 1, 2, 4, 1, 2]
    model = load_published("resnet", 10, tmp_path / "model.pth", levels)
    assert [layer.levels for layer in qcfs_layers(model).values()] == levels
    with pytest.raises(PlanError, match="10 levels for the 11 activations of resnet"):
        load_published("resnet", 10, tmp_path / "model.pth", levels[1:])


@pytest.mark.usefixtures("small")
def test_the_comparison_takes_them(tmp_path: Path) -> None:
    path, plan = tmp_path / "model.pth", tmp_path / "plan.json"
    torch.save(resnet_state((4, 6), (2, 3)), path)
    uniform = Checkpoint(path, "8").load("resnet", 10)
    layers = qcfs_layers(uniform)
    assert {layer.levels for layer in layers.values()} == {8}
    mixed = {name: 1 + index for index, name in enumerate(layers)}
    LevelPlan(mixed).to_json(plan)
    planned = Checkpoint(path, str(plan)).load("resnet", 10)
    assert {name: layer.levels for name, layer in qcfs_layers(planned).items()} == mixed


@pytest.mark.usefixtures("small")
def test_checkpoints_of_other_networks(tmp_path: Path) -> None:
    torch.save(resnet_state((4, 6), (1, 1)), tmp_path / "model.pth")
    for name in ("resnet", "vgg"):
        with pytest.raises(InvalidArgumentError, match=f"does not hold a QCFS network {name}"):
            load_published(name, 10, tmp_path / "model.pth", 8)


@pytest.mark.usefixtures("small")
def test_thresholds_may_be_of_channels(tmp_path: Path) -> None:
    state = resnet_state((4, 6), (2, 3)) | {"conv1.2.thresh": torch.rand(1, 4, 1, 1) + 0.5}
    torch.save(state, tmp_path / "model.pth")
    images = torch.randn(9, 3, 8, 8)
    model = load_published("resnet", 10, tmp_path / "model.pth", 8)
    torch.testing.assert_close(model(images), resnet_forward(state, (2, 3), images, 8))


@pytest.mark.parametrize(
    ("name", "classes", "activations", "parameters"),
    [
        ("resnet18", 10, 17, 11_173_962),
        ("resnet20-projection", 10, 19, 272_474),
        ("resnet34", 1000, 33, 21_789_992),
        ("vgg16", 10, 15, 33_646_666),
        ("vgg16-imagenet", 1000, 15, 138_365_992),
        ("vgg16-plain-imagenet", 1000, 15, 138_357_544),
    ],
)
def test_the_networks_have_their_usual_size(name: str, classes: int, activations: int, parameters: int) -> None:
    with torch.device("meta"):
        model = models.build(name, classes)
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == activations
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
