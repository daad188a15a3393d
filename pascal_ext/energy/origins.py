"""Where the values of a forward pass come from: the network's input, or what its layers and neurons made of it."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

_KEPT = 256  # memories that are gone, at most, before they are forgotten
_DECISIONS = frozenset("ge gt le lt eq ne sign heaviside floor ceil round trunc argmax".split())


class Origin(enum.Flag):
    """What a value is made from; of parameters and constants alone, ``Origin(0)``."""

    INPUT = enum.auto()
    """The network's input: as it is, or moved, scaled, normalised, clipped."""
    MADE = enum.auto()
    """What weights, or a decision (a comparison, a rounding), made of an input: currents, spikes."""


class Origins:
    """The origins of all tensors of a forward pass, as far as :meth:`follow` was told of its operations.

    They are kept by the memory that tensors share, so that a view, and what is written into one, are known too. Memory
    that is gone is forgotten soon: what refers to it, small as it is, keeps malloc from using the place again.

    Args:
        inputs: of the network, in any nesting.
    """

    def __init__(self, inputs: Any) -> None:
        self._known = dict.fromkeys(_memories(inputs), Origin.INPUT)
        self._most = len(self._known) + _KEPT

    def of(self, values: Any) -> Origin:
        """What the tensors in ``values``, any nesting of them, are made from."""
        found = Origin(0)
        for memory in _memories(values):
            found |= self._known.get(memory, Origin(0))
        return found

    def follow(self, operation: torch._ops.OpOverload, arguments: Any, result: Any, weighs: bool) -> None:
        """Note that ``operation``, a product with weights where it ``weighs``, made ``result`` of ``arguments``."""
        origin = self.of(arguments)
        if not origin:
            return
        name = operation._overloadpacket.__name__.rstrip("_")
        if weighs or name in _DECISIONS or operation.namespace != "aten":  # of others, neurons are made
            origin = Origin.MADE
        self._known.update(dict.fromkeys(_memories(result), origin))
        if len(self._known) > self._most:
            self._known = {memory: known for memory, known in self._known.items() if not memory.expired()}
            self._most = len(self._known) + _KEPT


def _memories(values: Any) -> list[StorageWeakRef]:
    tensors = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors if tensor.layout is torch.strided]
