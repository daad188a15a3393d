"""The workload of a model and loaders that someone gives, as against those of a benchmark's suites."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pascal_ext.activations import qcfs_layers, relu_layers
from pascal_ext.comparison.conversions import Batches
from pascal_ext.comparison.modules import drop_softmax
from pascal_ext.comparison.workload import Workload, checked, digest
from pascal_ext.data import batches, device_of
from pascal_ext.errors import InvalidArgumentError, PascalError
from pascal_ext.graph.tracing import trace

SHARD = 500  # images that one row is about, at least


def workload(
    model: nn.Module,
    calibration: Iterable[Any],
    test: Iterable[Any],
    *,
    name: str,
    title: str,
    networks: Mapping[str, nn.Module],
    timesteps: int,
    calibration_images: int,
) -> Workload:
    """What :func:`pascal_ext.comparison.compare.compare` measures; its arguments are described there.

    Raises:
        InvalidArgumentError, CalibrationError, TracingError: see there.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(networks, Mapping) or "" in networks:
        raise InvalidArgumentError("networks must be a dict of names, which are not empty, and networks")
    relu = copy.deepcopy(model).eval()
    device = checked(device_of(relu).type)
    if qcfs_layers(relu):
        raise InvalidArgumentError("the model has QCFS activations: give its ReLU model, and this one in networks=")
    calibrated = list(_up_to(_pairs(calibration, relu, "calibration"), calibration_images))
    first, classes = _first(test, relu)
    _logits(relu, calibrated[0][0], "the model", "calibration")
    relu = _without_softmax(relu, calibrated[0][0])
    told = re.sub(r" at 0x[0-9a-fA-F]+", "", str(relu))  # addresses are others in each process
    seen = [(f"{told}{tuple(images.shape)}", images) for images, _ in calibrated] + [("", tensor) for tensor in first]
    shards = Shards(test, relu, classes)
    return Workload(
        suite=digest([*relu.state_dict().items(), *seen]),
        model=name,
        title=title,
        relu=relu,
        networks={key: _graph(key, network, first, classes) for key, network in networks.items()},
        calibration=calibrated,
        timesteps=timesteps,
        device=device,
        shard_size=SHARD,
        shards=None,
        shard=shards,
        sample=lambda: shards(0),
    )


class Shards:
    """A loader's batches in groups of at least 500 images, in its order; one group is held at a time.

    Args:
        loader: batches (images, labels).
        model: whose device they are moved to.
        classes: labels are less.
    """

    def __init__(self, loader: Iterable[Any], model: nn.Module, classes: int) -> None:
        self.loader, self.model, self.classes = loader, model, classes
        self._group: Batches = []
        self._start()

    def __call__(self, index: int) -> Batches:
        """The batches of group ``index``; none beyond the last."""
        if index < self._next - 1:
            self._start()
        while self._next <= index:
            self._group = list(_up_to(self._rest, SHARD))
            for _, labels in self._group:
                _check_labels(labels, self.classes)
            self._next += 1
        return self._group

    def _start(self) -> None:
        self._rest = _pairs(self.loader, self.model, "test")
        self._next = 0


def _pairs(loader: Iterable[Any], model: nn.Module, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels; of a calibration loader without labels, which nobody looks at, zeros."""
    for batch in batches(loader, model):
        images, labels = batch.args[0] if batch.args else None, batch.target
        if batch.kwargs or len(batch.args) != 1 or not isinstance(images, Tensor):
            raise InvalidArgumentError(f"the {what} loader must yield (images, labels), for a model of one input")
        if what == "calibration":
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.is_floating_point():
            told = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise InvalidArgumentError(f"the {what} loader must yield (images [N, ...], labels [N]), got labels {told}")
        yield images, labels


def _up_to(pairs: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches until there are ``count`` images; the last batch is taken whole."""
    found = 0
    for pair in pairs:
        yield pair
        found += len(pair[1])
        if found >= count:
            return


def _first(test: Iterable[Any], relu: nn.Module) -> tuple[tuple[Tensor, Tensor], int]:
    """The first test batch, where methods will all see the same images, and the classes that ``relu`` tells apart."""
    if isinstance(test, Iterator):
        raise InvalidArgumentError("the test data can be read only once; give a DataLoader or a list of batches")
    (images, labels), (again, _) = (next(_pairs(test, relu, "test")) for _ in range(2))
    if not torch.equal(images, again):
        raise InvalidArgumentError(
            "the test loader gives other images each time; give one that does not shuffle, nor augment at random"
        )
    classes = _logits(relu, images, "the model", "test").shape[1]
    _check_labels(labels, classes)
    return (images, labels), classes


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor, what: str, which: str) -> Tensor:
    """Outputs of ``network``, which classifies ``images``."""
    try:
        logits = network(images)
    except Exception as error:  # whatever the code of a model raises
        told = f"{which} images {images.dtype} {tuple(images.shape)}"
        raise InvalidArgumentError(f"{what} cannot take the {told}: {type(error).__name__}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        told = str(tuple(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidArgumentError(f"{what} must give logits [N, classes] for images [N, ...], got {told}")
    if not logits.isfinite().all():
        raise InvalidArgumentError(
            f"outputs of {what} on the {which} images are not finite; look for NaN or Inf in the images or the weights"
        )
    return logits


def _check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that no output stands for."""
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        given = f"{int(labels.min())} to {int(labels.max())}"
        raise InvalidArgumentError(f"labels must be 0 to {classes - 1}, as the model has outputs; got {given}")


def _without_softmax(model: nn.Module, example: Tensor) -> nn.Module:
    """``model`` itself, or, where a softmax comes last, its graph without it."""
    try:
        graph = trace(model, [example]).eval()
    except PascalError:  # the methods will say why
        return model
    return graph if drop_softmax(graph) else model


def _graph(name: str, network: nn.Module, example: tuple[Tensor, Tensor], classes: int) -> fx.GraphModule:
    """A copy of ``network`` as a graph."""
    graph = trace(network, [example]).eval()
    drop_softmax(graph)
    if relu_layers(graph) or not qcfs_layers(graph):
        raise InvalidArgumentError(
            f"network {name!r} must have QCFS activations and no others, as replace_activations makes it; "
            f"it has {len(qcfs_layers(graph))}, and {list(relu_layers(graph)) or 'no'} others"
        )
    outputs = _logits(graph, example[0], f"network {name!r}", "test").shape[1]
    if outputs != classes:
        raise InvalidArgumentError(f"network {name!r} has {outputs} outputs, and the model {classes}")
    return graph
