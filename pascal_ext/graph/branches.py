"""Python that depends on shapes: ``if x.shape[1] != self.channels: raise ...``, ``int(x.shape[2])``.

Symbolic tracing knows no sizes, but a batch of data has some. Traced with one, ``forward`` goes the way that it goes
for this batch, and the graph has guards, which refuse inputs whose shapes would lead it another way.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import inspect
import operator
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pascal_ext.data import Batch
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.operations import CREATIONS, METADATA_ATTRIBUTES, asked_size, name_of


class Example:
    """What the values of a graph in the making are for a batch, as far as their shapes tell; nothing is computed.

    Args:
        model: what is traced.
        batch: a batch of its data, with the arguments that it is called with.

    Attributes:
        arguments: the parameters of ``forward`` that the batch gives -> the shapes of its tensors.

    Raises:
        TypeError: the batch does not fit ``forward``.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode  # here, since importing it takes a second

        self._model = model
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        arguments = inspect.signature(model.forward).bind(*batch.args, **batch.kwargs).arguments
        self.arguments: dict[str, Any] = pytree.tree_map_only(Tensor, self._mode.from_tensor, arguments)
        self._values: dict[fx.Node, Any] = {}

    def of_input(self, argument: Any) -> Any:
        """What an argument of ``forward`` is, given by its proxy; None of one that is fixed."""
        return self.arguments.get(str(argument.node.target)) if isinstance(argument, fx.Proxy) else None

    def value(self, node: fx.Node) -> Any:
        """The value of a node; sizes are those of the batch, elements of tensors unknown."""
        needed, pending = set[fx.Node](), [node]
        while pending:
            source = pending.pop()
            if source not in self._values and source not in needed:
                needed.add(source)
                pending += source.all_input_nodes
        with torch.no_grad(), _as_if_not_tracing(), self._mode:
            interpreter = fx.Interpreter(self._model, graph=node.graph, garbage_collect_values=False)
            interpreter.env = self._values
            for source in node.graph.nodes:
                if source in needed and source.op == "placeholder":
                    self._values[source] = self.arguments[str(source.target).lstrip("*")]
                elif source in needed:
                    self._values[source] = interpreter.run_node(source)
        return self._values[node]

    def depends_on_batch(self, number: fx.Node) -> bool:
        """Whether a value made from sizes alone may depend on the size of dimension 0."""
        asked = asked_size(number)
        if asked is not None:
            tensor, dim = asked
            return dim in (0, -self.value(tensor).ndim)
        if number.op == "call_method" or number.target is getattr:
            return name_of(number) != "dim" and "ndim" not in number.args
        return any(self.depends_on_batch(source) for source in number.all_input_nodes)


def _as_if_not_tracing() -> contextlib.AbstractContextManager[None]:
    """Modules that are called within the context are run, and not traced."""
    revert = getattr(torch.fx._symbolic_trace, "_maybe_revert_all_patches", contextlib.nullcontext)
    context: contextlib.AbstractContextManager[None] = revert()
    return context


@contextlib.contextmanager
def symbolic_python(class_of: Callable[[fx.Proxy], type]) -> Iterator[None]:
    """Within the context, Python answers for proxies as it would for the values that they stand for.

    ``len(x)`` is ``x.size(0)``, and that of its shape ``x.dim()``; ``isinstance`` asks for ``class_of(x)``. Python's
    own insists on an integer, so a proxy's ``__len__`` could not give a symbol; and a proxy that called itself a tensor
    would be taken for one by torch's C++ code, too. What makes tensors, ``torch.zeros(x.shape[0], 6)``, takes proxies.
    ``torch.as_tensor(x)`` is x. A block in autocast is refused, since no graph has it. Of an ``autograd.Function`` a
    graph has what its ``forward`` does, and a warning tells that its gradient is lost.
    """
    # Tracing may import this, and it keeps the functions that it then sees: let it see Python's own.
    importlib.import_module("torch._dynamo.trace_rules")
    real_len, real_isinstance, real_enter = builtins.len, builtins.isinstance, torch.autocast.__enter__
    real_jit_isinstance, real_as_tensor = torch.jit.isinstance, torch.as_tensor
    real_apply: Any = vars(torch.autograd.Function)["apply"]
    thread = threading.get_ident()

    def symbolic_len(value: Any, /) -> Any:
        if not real_isinstance(value, fx.Proxy):
            return real_len(value)
        node = value.node
        is_shape = name_of(node) == "size" and real_len(node.args) == 1 and not node.kwargs
        if is_shape or (node.target is getattr and node.args[1] == "shape"):
            return value.tracer.proxy(node.all_input_nodes[0]).dim()
        if is_number(node):
            raise TypeError("len() of a part of a shape")
        if node.op == "placeholder" and value.tracer.will_know:
            raise TypeError("len() of an input that tracing does not know")
        return value.size(0)

    def symbolic_isinstance(value: Any, kinds: Any, /) -> bool:
        if real_isinstance(value, kinds):
            return True
        asker = sys._getframe(1).f_globals.get("__name__", "")
        is_ours = asker.startswith(("torch.", "pascal_ext."))  # which have to tell proxies from tensors
        return real_isinstance(value, fx.Proxy) and not is_ours and issubclass(class_of(value), kinds)

    def symbolic_jit_isinstance(value: Any, kinds: Any) -> bool:
        is_class = all(real_isinstance(kind, type) for kind in (kinds if real_isinstance(kinds, tuple) else (kinds,)))
        if real_isinstance(value, fx.Proxy) and is_class:  # else it is List[Tensor], say
            return issubclass(class_of(value), kinds)
        return real_jit_isinstance(value, kinds)

    def symbolic_as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
        if not real_isinstance(data, fx.Proxy):
            return real_as_tensor(data, dtype=dtype, device=device)
        for asked in (device, dtype):
            data = data if asked is None else data.to(asked)
        return data

    def refuse(autocast: Any) -> Any:
        if autocast._enabled and threading.get_ident() == thread:
            raise TypeError(
                f"a block in torch.autocast({autocast.device!r}), which a graph cannot hold; run the whole model in "
                "autocast instead, or convert dtypes by hand, x.to(dtype)"
            )
        return real_enter(autocast)

    def apply_forward(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if any(real_isinstance(arg, fx.Proxy) for arg in args):
            warnings.warn(
                f"{function.__qualname__} is an autograd.Function, of which the graph of the model has what forward() "
                "does, and not backward(): in training its gradient is that of the operations in forward()",
                stacklevel=2,
            )
        return real_apply.__get__(None, function)(*args, **kwargs)

    def symbolic_creation(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def create(*args: Any, **kwargs: Any) -> Any:
            proxies = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if real_isinstance(leaf, fx.Proxy)]
            if not proxies:
                return function(*args, **kwargs)
            return proxies[0].tracer.create_proxy("call_function", function, args, kwargs)

        return create

    symbolic: dict[tuple[Any, str], Any] = {
        (builtins, "len"): symbolic_len,
        (builtins, "isinstance"): symbolic_isinstance,
        (torch.jit, "isinstance"): symbolic_jit_isinstance,
        (torch, "as_tensor"): symbolic_as_tensor,
        (torch.autocast, "__enter__"): refuse,
        (torch.autograd.Function, "apply"): classmethod(apply_forward),
        **{(torch, function.__name__): symbolic_creation(function) for function in CREATIONS},
    }
    real = {(owner, name): inspect.getattr_static(owner, name) for owner, name in symbolic}
    for (owner, name), function in symbolic.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name), function in real.items():
            setattr(owner, name, function)


def as_traced(value: Any, expected: bool | int | float, where: str = "") -> Any:
    """Check that a condition of ``forward``, or a number, is what it was for the batch that the model was traced with.

    Args:
        value: made from sizes alone; a proxy while a graph with guards is traced again.
        expected: what it was.
        where: the source line, for the message.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, fx.Proxy):
        return value.tracer.create_proxy("call_function", as_traced, (value, expected, where), {})
    if type(expected)(value) != expected:
        raise InvalidArgumentError(
            f"for an input of this shape and type, the model's forward() goes another way{where} than for the one that "
            "it was converted for; convert it with such data"
        )
    return None


def number_of_inputs(inputs: Any, key: str | None = None) -> Any:
    """The length of an input that is a sequence or a mapping, or how many it has under that key; of proxies, too."""
    if isinstance(inputs, fx.Proxy):
        return inputs.tracer.create_proxy("call_function", number_of_inputs, (inputs, key), {})
    return len(inputs) if key is None else int(key in inputs)


def must_stay(node: fx.Node) -> bool:
    """Whether a node of a graph has to stay though nothing reads it."""
    return node.op in ("placeholder", "output") or node.target is as_traced


fx.node.has_side_effect(as_traced)


def is_number(node: fx.Node) -> bool:
    """Whether the value of ``node`` is made from sizes alone."""
    if node.op == "call_method" and node.target in ("size", "dim", "ndimension", "numel"):
        return True
    if node.op != "call_function" or node.target in CREATIONS:
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    if node.target is number_of_inputs:
        return True
    return bool(node.all_input_nodes) and all(is_number(source) for source in node.all_input_nodes)


def is_told(node: fx.Node) -> bool:
    """Whether the value of ``node`` is made from what is said of tensors alone: sizes, dtypes, devices."""
    if is_number(node):
        return True
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if node.target is getattr:
        return node.args[1] in METADATA_ATTRIBUTES or is_told(node.all_input_nodes[0])  # x.device.type
    return node.target in (operator.eq, operator.ne) and all(map(is_told, node.all_input_nodes))


def varying(graph: fx.Graph) -> set[fx.Node]:
    """The values that vary with the elements of the inputs: not what is made of parameters, or from sizes alone, nor
    what is said of a tensor, as its device.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (not found.isdisjoint(node.all_input_nodes) and not is_told(node)):
            found.add(node)
    return found
