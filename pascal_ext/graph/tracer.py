"""Symbolic tracing of Python that asks for numbers, types and parts, and of what is written in place."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, fx, nn

from pascal_ext.graph.branches import Example, as_traced, is_number, is_told, number_of_inputs, symbolic_python
from pascal_ext.graph.dimensions import dims_of
from pascal_ext.graph.norms import is_plain
from pascal_ext.graph.operations import DIVISIONS, asked_sizes, name_of
from pascal_ext.graph.outputs import Outputs, fields_of
from pascal_ext.qcfs import QCFS

_OF_DICTS = ("copy", "get", "items", "keys", "pop", "values")
Number = TypeVar("Number", int, float)
_OTHER_INPUTS = ", with another number of inputs,"
_LOCK = threading.RLock()  # tracing patches torch and Python themselves, and what one thread puts back another would


def _inplace(function: Any) -> Any:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


class _Proxy(fx.Proxy):
    """A proxy that traces ``x += y`` as what it is; torch's own traces ``x = x + y``, and other names of x miss it."""

    tracer: Tracer

    __iadd__ = _inplace(operator.iadd)
    __isub__ = _inplace(operator.isub)
    __imul__ = _inplace(operator.imul)
    __itruediv__ = _inplace(operator.itruediv)
    __ifloordiv__ = _inplace(operator.ifloordiv)
    __imod__ = _inplace(operator.imod)
    __ipow__ = _inplace(operator.ipow)

    def __int__(self) -> int:
        return self.tracer.to_number(self, int)

    def __float__(self) -> float:
        return self.tracer.to_number(self, float)

    __index__ = __int__

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, str):
            raise TypeError(f"an assignment to [{index!r}] of a value that tracing does not know")
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        raise TypeError("len() of a value that tracing does not know")  # list() asks for a hint, and does without

    def __getattr__(self, name: str) -> Any:
        if name in _OF_DICTS and self.tracer.will_know:
            raise TypeError(f".{name}() of a value that tracing does not know")
        return _Attribute(self, name)


class _Attribute(fx.proxy.Attribute, _Proxy):
    """``x.mT``, say, of which the same holds."""


class _Mapping(dict[Any, Any]):
    """An input that is a mapping. Where ``forward`` asks for all its entries, others must have as many; and where it
    asks for one that is not there, others must not have it.

    Args:
        proxy: stands for the mapping.
        parts: its entries, as proxies.
    """

    def __init__(self, proxy: fx.Proxy, parts: dict[Any, Any]) -> None:
        super().__init__(parts)
        self._proxy, self._given = proxy, frozenset(parts)

    def _check(self) -> None:
        as_traced(number_of_inputs(self._proxy), len(self._given), _OTHER_INPUTS)

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return super().__iter__()

    def __len__(self) -> int:
        self._check()
        return super().__len__()

    def keys(self) -> Any:
        self._check()
        return super().keys()

    def values(self) -> Any:
        self._check()
        return super().values()

    def items(self) -> Any:
        self._check()
        return super().items()

    def copy(self) -> dict[Any, Any]:
        return dict(self.items())

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str) and key not in self._given:
            as_traced(number_of_inputs(self._proxy, key), 0, f", with {key!r} among its inputs,")
        return super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        known = key in self
        return self[key] if known else default

    def pop(self, key: Any, *default: Any) -> Any:
        known = key in self
        return super().pop(key) if known or not default else default[0]


class Tracer(fx.Tracer):
    """Symbolic tracing that goes on, where Python has to know something, as it goes for an example.

    Args:
        example: what values are for a batch of data; None where there is none, or tracing is to do without.
        has_data: whether it may be tried again with an example.
    """

    record_stack_traces = True

    def __init__(self, example: Example | None = None, has_data: bool = False) -> None:  # pickle makes one without
        super().__init__()
        self._example = example
        self._has_data = has_data

    @property
    def will_know(self) -> bool:
        """Whether it may be tried again with an example; there is none yet."""
        return self._example is None and self._has_data

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with _LOCK, symbolic_python(self.class_of):
            return super().trace(root, concrete_args)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """An input that is a container in the example is one of proxies: ``forward`` may ask how many there are.

        Sequences must be as long as in the example then; of mappings see :class:`_Mapping`.
        """
        function, inputs = super().create_args_for_root(*args, **kwargs)
        if self._example is None:
            return function, inputs
        return function, [self._unpacked(value, self._example.of_input(value)) for value in inputs]

    def _unpacked(self, proxy: Any, value: Any) -> Any:
        if type(value) not in (dict, list, tuple):
            return proxy
        if not isinstance(value, dict):
            as_traced(number_of_inputs(proxy), number_of_inputs(value), _OTHER_INPUTS)
        keys = value if isinstance(value, dict) else range(number_of_inputs(value))
        parts = {
            key: self._unpacked(self.create_proxy("call_function", operator.getitem, (proxy, key), {}), value[key])
            for key in keys
        }
        return _Mapping(proxy, parts) if isinstance(value, dict) else type(value)(parts.values())

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Where a condition is made from sizes and types, and these are known, go on as the example does."""
        if self._example is None or not is_told(obj.node):
            return super().to_bool(obj)
        taken = bool(self._example.value(obj.node))
        as_traced(obj, taken)
        return taken

    def to_number(self, obj: fx.Proxy, kind: type[Number]) -> Number:
        """Likewise for a number, unless it depends on the size of the batch."""
        if self._example is None or not is_number(obj.node):
            raise TypeError(f"{kind.__name__}() of a value that tracing does not know")
        if self._example.depends_on_batch(obj.node):
            raise TypeError(f"{kind.__name__}() of the number of samples, which may be another in the next batch")
        number = kind(self._example.value(obj.node))
        as_traced(obj, number)
        return number

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Likewise for the sizes in a shape, and for the parts that a tensor is cut into, unless these are samples."""
        tensor, part = asked_sizes(obj.node) or (None, slice(None))
        if self._example is not None and tensor is not None:
            ndim = self.to_number(self.proxy(tensor).dim(), int)
            return iter([self.proxy(tensor).size(dim) for dim in range(ndim)[part]])
        dims = dims_of(obj.node, self.root) if name_of(obj.node) in DIVISIONS else None
        if self._example is not None and dims is not None:
            size = self.proxy(obj.node.all_input_nodes[0]).size(*dims)
            if not self._example.depends_on_batch(size.node):
                self.to_number(size, int)  # with a guard: another size may give another number of parts
                count = len(self._example.value(obj.node))
                return (self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in range(count))
        parts: Iterator[fx.Proxy] = super().iter(obj)
        return parts

    def class_of(self, obj: fx.Proxy) -> type:
        """What the value of a proxy is, for the example; without one, what is no number is taken for a tensor.

        Raises:
            TypeError: that is not known yet, but will be with the data.
        """
        if self.will_know:
            raise TypeError("isinstance() of a value that tracing does not know")
        if self._example is None:
            return type(obj) if is_number(obj.node) else Tensor
        value = self._example.value(obj.node)
        return Tensor if isinstance(value, Tensor) else type(value)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """A dataclass, of whatever class, becomes :class:`Outputs`."""
        fields = None if isinstance(a, fx.Proxy) else fields_of(a)
        if fields is None:
            return super().create_arg(a)
        return self.create_node("call_function", Outputs, (), {name: self.create_arg(fields[name]) for name in fields})

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module that is no part of the model, made in ``forward`` or a slice of a Sequential, is what it does."""
        try:
            self.path_of_module(m)
        except NameError:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A layer whose ``forward`` was exchanged (``layer.forward = ...``) is what that does, and not its class."""
        own = is_plain(m) or super().is_leaf_module(m, module_qualified_name)
        return isinstance(m, QCFS) or ("forward" not in vars(m) and own)
