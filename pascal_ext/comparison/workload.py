"""What methods are compared on: a ReLU network, QCFS networks made from it, calibration batches and test images."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pascal_ext.activations import qcfs_layers
from pascal_ext.comparison.conversions import Batches
from pascal_ext.comparison.timing import Device
from pascal_ext.errors import InvalidArgumentError


def fingerprint(model: nn.Module) -> str:
    """Eight hexadecimal digits that change when a weight does, or the levels of a QCFS layer: networks of one name are
    not always the same.
    """
    levels = ((f"{name}.levels", torch.tensor(layer.levels)) for name, layer in qcfs_layers(model).items())
    return digest(itertools.chain(model.state_dict().items(), levels))


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Eight hexadecimal digits that change when a name or a value does."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().cpu().contiguous().flatten()
        found.update(name.encode() + values.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return found.hexdigest()[:8]


@dataclasses.dataclass
class Workload:
    """Networks and images, all on one device.

    Attributes:
        suite: what tells rows of these images from others.
        model, title: names of the network and of the data, for rows and tables.
        relu: the ReLU network, which SpikingJelly's methods and those without training start from.
        networks: name -> QCFS network.
        calibration: batches (images, labels) that thresholds are derived from.
        timesteps: T of rate coding.
        device: where the networks run.
        shard_size: test images that one row is about.
        shards: number of those; None where it takes all batches to find out.
        shard: number of a shard -> its test batches; none beyond the last.
        sample: the batches that costs are measured on.
    """

    suite: str
    model: str
    title: str
    relu: nn.Module
    networks: Mapping[str, fx.GraphModule]
    calibration: Batches
    timesteps: int
    device: Device
    shard_size: int
    shards: int | None
    shard: Callable[[int], Batches]
    sample: Callable[[], Batches]

    def pieces(self) -> Iterator[int]:
        """The numbers of all shards."""
        return itertools.takewhile(self.shard, itertools.count()) if self.shards is None else iter(range(self.shards))

    @property
    def calibrated_on(self) -> int:
        """How many images that are."""
        return sum(len(labels) for _, labels in self.calibration)


def checked(device: str) -> Device:
    """``device``, where there is one.

    Raises:
        InvalidArgumentError: there is no such device.
    """
    if device not in list(Device):
        raise InvalidArgumentError(f"a comparison runs on {' or '.join(Device)}, not on {device!r}")
    if device == Device.CUDA and not torch.cuda.is_available():
        raise InvalidArgumentError("device cuda: torch finds no CUDA device here")
    return Device(device)


@contextlib.contextmanager
def in_float32(device: Device) -> Iterator[None]:
    """Let a GPU calculate in float32, in all of the process.

    TF32, which convolutions have there by default, rounds to 10 bits: the network would be another.

    Raises:
        InvalidArgumentError: see :func:`checked`.
    """
    checked(device)
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
