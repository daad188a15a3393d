"""What a suite runs on: the ReLU network, QCFS networks made from it, calibration batches and test images."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import fx, nn
from torch.utils.data import Subset

import pascal_ext
from benchmarks import data
from benchmarks.compare.conversions import Batches
from benchmarks.compare.registry import Suite
from benchmarks.models.checkpoints import load_published, load_qcfs, load_relu
from benchmarks.models.cifar_resnet import Shortcut
from pascal_ext.demo import training
from pascal_ext.demo.model import DigitsResNet
from pascal_ext.plan import LevelPlan

M = TypeVar("M", bound=nn.Module)
DIGITS_WIDTH, DIGITS_EPOCHS, DIGITS_TUNING, DIGITS_LEVELS = 8, 8, 4, 4


@dataclasses.dataclass
class Workload:
    """Networks and images of a suite.

    Attributes:
        model, title: names of the network and of the data, for rows and tables.
        relu: the ReLU network; its shortcuts are such that SpikingJelly's converters take them.
        networks: name -> QCFS network.
        calibration: batches (images, labels) of training images.
        shards: how many rows it takes to cover the test images.
        shard: index -> test batches.
    """

    model: str
    title: str
    relu: nn.Module
    networks: Mapping[str, fx.GraphModule]
    calibration: Batches
    shards: int
    shard: Callable[[int], Batches]


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


def digits(suite: Suite, seed: int) -> Workload:
    """scikit-learn's digits, and small networks trained on them within seconds."""
    loader, test = training.digits(seed)
    torch.manual_seed(seed)
    relu = DigitsResNet(DIGITS_WIDTH)
    training.train(relu, loader, DIGITS_EPOCHS, 1e-2)
    qcfs = pascal_ext.replace_activations(relu, DIGITS_LEVELS)
    pascal_ext.calibrate(qcfs, loader, progress=False)
    training.train(qcfs, loader, DIGITS_TUNING, 2e-3, teacher=relu)
    images, labels = (torch.cat([batch[index] for batch in test]) for index in (0, 1))
    shards = -(-len(labels) // suite.shard)

    def shard(index: int) -> Batches:
        mine = images[index::shards], labels[index::shards]
        return list(zip(*(part.split(suite.batch_size) for part in mine), strict=True))

    return Workload("digits", "digits", relu, {f"L={DIGITS_LEVELS}": qcfs}, list(loader), shards, shard)


def images(suite: Suite, model: str, root: Path, weights: Path, checkpoints: Mapping[str, Checkpoint]) -> Workload:
    """A data set on disk, a ReLU network with its weights, and QCFS networks.

    Raises:
        InvalidArgumentError: images or weights are not there or do not fit.
    """
    source = data.SOURCES[suite.dataset]
    relu = fast(with_plain_shortcuts(load_relu(model, source.classes, weights)))
    networks = {name: fast(found.load(model, source.classes)) for name, found in checkpoints.items()}
    train, test = data.read(source, root, "train", limit=suite.calibration), data.read(source, root, "test")
    calibration = list(data.loader(source, train, suite.batch_size))
    size = len(test)  # type: ignore[arg-type]  # Dataset does not promise a length; these have one
    shards = -(-size // suite.shard)

    def shard(index: int) -> Batches:
        batches = data.loader(source, Subset(test, range(index, size, shards)), suite.batch_size)
        return [(images.contiguous(memory_format=torch.channels_last), labels) for images, labels in batches]

    return Workload(model, source.title, relu, networks, calibration, shards, shard)


def fingerprint(model: nn.Module) -> str:
    """Eight hexadecimal digits that change when a weight does: networks of one name are not always the same."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def fast(model: M) -> M:
    """``model`` itself, in the memory format in which CPUs convolve fastest."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it


def with_plain_shortcuts(model: nn.Module) -> nn.Module:
    """A copy in which option-A shortcuts are strided 1×1 convolutions with one 1 a channel: the same numbers.

    SpikingJelly 2.0.0's converters refuse ``F.pad``, and look into modules of other classes than torch's own.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Shortcut):
            channels = module.channels
            conv = nn.Conv2d(channels, channels + module.before + module.after, 1, stride=2, bias=False)
            conv.weight.requires_grad_(False).zero_()
            conv.weight[module.before : module.before + channels, :, 0, 0] = torch.eye(channels)
            conv.moves_only = True  # type: ignore[assignment]  # for benchmarks.compare.operations
            model.set_submodule(name, conv)
    return model
