"""What a suite runs on: the ReLU network, QCFS networks made from it, calibration batches and test images."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.data import Subset

import pascal_ext
from benchmarks import data
from benchmarks.compare.suites import Suite
from benchmarks.models import M, in_format
from benchmarks.models.checkpoints import load_published, load_qcfs, load_relu
from benchmarks.models.cifar_resnet import Shortcut
from benchmarks.models.pretrained import as_trained
from pascal_ext.comparison.conversions import Batches
from pascal_ext.comparison.timing import Device
from pascal_ext.comparison.workload import Workload
from pascal_ext.demo import training
from pascal_ext.demo.model import DigitsResNet
from pascal_ext.plan import LevelPlan

BATCH_ON_GPU = 500
DIGITS_WIDTH, DIGITS_EPOCHS, DIGITS_TUNING, DIGITS_LEVELS = 8, 8, 4, 4


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where networks run, and how many images at a time; calibration and costs keep to the suite's numbers.

    Attributes:
        device: where.
        batch_size: test images that run together.
        shard: test images that one row is about.
    """

    device: Device
    batch_size: int
    shard: int


def layout(suite: Suite, device: Device, batch_size: int | None = None, shard: int | None = None) -> Layout:
    """The suite's, with what is asked for; on a GPU batches of 500."""
    usual = suite.batch_size if device == Device.CPU else BATCH_ON_GPU
    return Layout(device, batch_size or usual, shard or suite.shard)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A QCFS network on disk: one that :mod:`benchmarks.train` wrote, or, with levels, a published one.

    Attributes:
        path: the file.
        levels: of a published network: a number, or a plan's JSON file; empty for others, which hold theirs.
    """

    path: Path
    levels: str = ""

    def load(self, model: str, classes: int) -> fx.GraphModule:
        """The network; ``model`` and ``classes`` say which one it is where it is published.

        Raises:
            InvalidArgumentError: the file is not there, or holds something else.
            PlanError: the levels do not fit.
        """
        if not self.levels:
            return load_qcfs(self.path)
        levels = int(self.levels) if self.levels.isdecimal() else LevelPlan.from_json(Path(self.levels))
        return load_published(model, classes, self.path, levels)


def digits(name: str, suite: Suite, layout: Layout, seed: int) -> Workload:
    """scikit-learn's digits, and small networks trained on them within seconds."""
    loader, test = training.digits(seed)
    torch.manual_seed(seed)
    relu = DigitsResNet(DIGITS_WIDTH)
    training.train(relu, loader, DIGITS_EPOCHS, 1e-2)
    qcfs = pascal_ext.replace_activations(relu, DIGITS_LEVELS)
    pascal_ext.calibrate(qcfs, loader, progress=False)
    training.train(qcfs, loader, DIGITS_TUNING, 2e-3, teacher=relu)
    images, labels = (torch.cat([batch[index] for batch in test]) for index in (0, 1))

    def batches(positions: Sequence[int], size: int) -> Batches:
        parts = (part[list(positions)].to(layout.device).split(size) for part in (images, labels))
        return list(zip(*parts, strict=True))

    calibration = [(images.to(layout.device), labels.to(layout.device)) for images, labels in loader]
    networks = {f"L={DIGITS_LEVELS}": qcfs.to(layout.device)}
    relu.to(layout.device)
    return Workload(
        suite=name,
        model="digits",
        title="digits",
        relu=relu,
        networks=networks,
        calibration=calibration,
        timesteps=suite.timesteps,
        device=layout.device,
        **pieces(suite, layout, len(labels), batches),
    )


def images(
    name: str, suite: Suite, layout: Layout, root: Path, weights: Path, checkpoints: Mapping[str, Checkpoint]
) -> Workload:
    """A data set on disk, a ReLU network with its weights, and QCFS networks.

    Raises:
        InvalidArgumentError: images or weights are not there or do not fit.
    """
    source = as_trained(data.SOURCES[suite.dataset], suite.model, weights)
    on_cpu = layout.device == Device.CPU
    relu = with_plain_shortcuts(load_relu(suite.model, source.classes, weights)).to(layout.device)
    networks = {key: found.load(suite.model, source.classes).to(layout.device) for key, found in checkpoints.items()}
    if on_cpu:
        relu, networks = fast(relu), {key: fast(network) for key, network in networks.items()}
    train, test = data.read(source, root, "train", limit=suite.calibration), data.read(source, root, "test")

    def on_device(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(layout.device), labels.to(layout.device)

    def batches(positions: Sequence[int], size: int) -> Batches:
        found = data.loader(source, Subset(test, positions), size)
        form = torch.channels_last if on_cpu else torch.contiguous_format
        return [on_device(images.contiguous(memory_format=form), labels) for images, labels in found]

    calibration = [on_device(*batch) for batch in data.loader(source, train, suite.batch_size)]
    return Workload(
        suite=name,
        model=suite.model,
        title=source.title,
        relu=relu,
        networks=networks,
        calibration=calibration,
        timesteps=suite.timesteps,
        device=layout.device,
        **pieces(suite, layout, data.length(test), batches),
    )


def pieces(suite: Suite, layout: Layout, size: int, batches: Callable[[Sequence[int], int], Batches]) -> dict[str, Any]:
    """How a workload is cut: into shards that are spread over all ``size`` test images.

    Costs are measured on the first shard that the suite itself would have, whatever the layout.

    Args:
        suite, layout: see there.
        size: number of test images.
        batches: positions of test images, and how many of them run together -> batches.
    """
    shards = -(-size // layout.shard)
    return {
        "shard_size": layout.shard,
        "shards": shards,
        "shard": lambda index: batches(range(index, size, shards), layout.batch_size),
        "sample": lambda: batches(range(0, size, -(-size // suite.shard)), suite.batch_size),
    }


def fast(model: M) -> M:
    """``model`` itself, in the memory format in which CPUs convolve fastest."""
    return in_format(model, torch.channels_last)


def with_plain_shortcuts(model: nn.Module) -> nn.Module:
    """A copy in which option-A shortcuts are strided 1×1 convolutions with one 1 a channel: the same numbers.

    SpikingJelly 2.0.0's converters refuse ``F.pad``, and look into modules of other classes than torch's own.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Shortcut):
            channels = module.channels
            conv: Any = nn.Conv2d(channels, channels + module.before + module.after, 1, stride=2, bias=False)
            conv.weight.requires_grad_(False).zero_()
            conv.weight[module.before : module.before + channels, :, 0, 0] = torch.eye(channels)
            conv.moves_only = True  # for pascal_ext.comparison.operations
            model.set_submodule(name, conv)
    return model
