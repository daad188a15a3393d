"""Models with several outputs: dictionaries, dataclasses and named tuples that ``forward`` returns."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree


class Outputs(dict[str, Any]):
    """What a converted model returns where the model returned a dataclass: ``outputs["logits"]``, ``outputs.logits``.

    Hugging Face's models return such, each of a class of its own. A network that was read from a file must not need
    these classes, so they are all one here.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model returned no {name!r}; it returned {list(self)}") from None


pytree.register_pytree_node(
    Outputs,
    lambda outputs: (list(outputs.values()), list(outputs)),
    lambda values, names: Outputs(zip(names, values, strict=True)),
    serialized_type_name="pascal_ext.Outputs",
)


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass by name; of one that is a mapping too, those it shows. None for anything else."""
    if isinstance(value, Outputs) or (dataclasses.is_dataclass(value) and isinstance(value, dict)):
        return dict(value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return None
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of an output, in whatever container."""
    leaves = pytree.tree_leaves(output, is_leaf=lambda value: fields_of(value) is not None)
    inner = [[leaf] if (fields := fields_of(leaf)) is None else tensors_of(fields) for leaf in leaves]
    return [leaf for leaf in itertools.chain(*inner) if isinstance(leaf, Tensor)]


def nan_samples(output: Any) -> int:
    """How many samples of an output, in the first dimension of its tensors, have a NaN."""
    nans = [tensor.isnan() for tensor in tensors_of(output) if tensor.numel() and tensor.ndim]
    return max((int(nan.flatten(1).any(1).sum() if nan.ndim > 1 else nan.sum()) for nan in nans), default=0)


@functools.cache
def named_tuple(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """The class of named tuples of this name with these fields.

    Raises:
        ValueError: these are no names that a class can have.
    """
    return collections.namedtuple(name, fields)


def only_contains(node: fx.Node) -> bool:
    """Whether ``node`` is a container of outputs, and nothing else reads it."""
    is_container = node.op == "call_function" and (node.target is Outputs or is_named_tuple(node.target))
    return is_container and all(user.op == "output" or only_contains(user) for user in node.users)


def is_named_tuple(kind: Any) -> bool:
    """Whether ``kind`` is a class of named tuples."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
