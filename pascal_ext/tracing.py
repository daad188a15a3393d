"""From a model to a graph in which every activation is a module with a name of its own."""

from __future__ import annotations

import copy
import inspect
import math
import operator
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from pascal_ext.branches import Example, as_traced
from pascal_ext.data import Batch, first_batch
from pascal_ext.errors import TracingError
from pascal_ext.operations import source_line
from pascal_ext.qcfs import QCFS
from pascal_ext.traceable import check_traceable, place, unwrapped

Number = TypeVar("Number", int, float)
_NEEDS_DATA = (
    " On shapes it may depend where they are known: from a loader that can be read twice, or with "
    "replace_activations(model, levels, example=batch)."
)
_VIEWS = frozenset(
    "alpha_dropout as_strided chunk contiguous cpu detach diagonal double dropout dropout1d dropout2d dropout3d expand "
    "expand_as feature_alpha_dropout flatten float getitem half movedim narrow permute ravel reshape select split "
    "squeeze swapaxes swapdims to transpose type_as unbind unflatten unfold unsqueeze view view_as".split()
)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardtanh: "hardtanh",
    torch.clamp: "clamp",
    torch.clip: "clamp",
    torch.clamp_min: "clamp",
}
_METHODS: dict[Any, str] = {"relu": "relu", "clamp": "clamp", "clip": "clamp", "clamp_min": "clamp"}


def _inplace(function: Any) -> Any:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


class _Proxy(fx.Proxy):
    """A proxy that traces ``x += y`` as what it is; torch's own traces ``x = x + y``, and other names of x miss it."""

    tracer: _Tracer

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


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def __init__(self, example: Example | None) -> None:
        super().__init__()
        self._example = example

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Where a condition is made from sizes, and these are known, go on as the example does."""
        if self._example is None or not _is_number(obj.node):
            return super().to_bool(obj)
        taken = bool(self._example.value(obj.node))
        as_traced(obj, taken)
        return taken

    def to_number(self, obj: fx.Proxy, kind: type[Number]) -> Number:
        """Likewise for a number, unless it depends on the size of the batch."""
        if self._example is None or not _is_number(obj.node) or self._example.depends_on_batch(obj.node):
            raise TypeError(f"{kind.__name__}() of a value that tracing does not know")
        number = kind(self._example.value(obj.node))
        as_traced(obj, number)
        return number

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QCFS) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, data: Iterable[Any] | None = None) -> fx.GraphModule:
    """A copy of ``model`` as a graph, in evaluation mode, without in-place operations and what nothing reads.

    Each call of an activation (:class:`QCFS`, or anything :func:`activation_ceiling` knows) becomes a module of its
    own: the first call of a module keeps the module's name, the next ones get ``_1``, ``_2`` ...; a function called in
    the ``forward`` of ``layer1.0`` becomes ``layer1.0.relu``. Parameters of ``forward`` with a plain default
    (``return_features=False``, ``mask=None``) keep it, and are gone from the graph. The model itself is not changed and
    shares nothing. Of a model in a wrapper, see :func:`pascal_ext.traceable.unwrapped`, it is the graph of the model.

    Args:
        model: the model.
        data: batches of its data. Where it cannot be traced without, since ``forward`` branches on shapes or an input
            has a default, it is traced with the shapes of the first one, see :mod:`pascal_ext.branches`; unless
            ``data`` is an iterator, which would lose it.

    Raises:
        TracingError: the model is TorchScript, or has lazy layers that have seen no data; or ``forward`` has control
            flow that depends on tensors, or does something else that symbolic tracing cannot follow; or a layer has a
            name that a graph needs itself.
        CalibrationError: the first batch is needed and is none.
    """
    source = model = unwrapped(model)
    check_traceable(model)
    try:
        graph, model, fixed = _symbolic(source, None)
    except Exception as error:
        batch = first_batch(data, source)
        if batch is None:
            raise TracingError(_failed(source, error) + _NEEDS_DATA) from error
        try:
            graph, model, fixed = _symbolic(source, batch)
        except Exception as second:
            raise TracingError(_failed(source, second)) from second
    _keep_source_lines(source, graph)
    clashes = [name for name in (*model._modules, *model._parameters, *model._buffers) if hasattr(fx.GraphModule, name)]
    if clashes:
        raise TracingError(
            f"the model has layers or parameters named {clashes}, which its graph needs itself; rename them"
        )
    traced = fx.GraphModule(model, graph, class_name=type(model).__name__)
    traced.eval()
    _remove_fixed_parameters(graph, fixed)
    _remove_inplace(traced)
    graph.eliminate_dead_code()
    _dropouts_to_modules(traced)
    _name_call_sites(traced)
    graph.lint()
    traced.recompile()
    return traced


def _symbolic(model: nn.Module, batch: Batch | None) -> tuple[fx.Graph, nn.Module, dict[str, Any]]:
    """The graph of a copy of ``model`` in evaluation mode, that copy, and the fixed parameters of ``forward``."""
    model = copy.deepcopy(model).eval()
    example = None if batch is None else Example(model, batch)
    given = {} if example is None else example.arguments
    fixed = {name: value for name, value in _defaults(model).items() if name not in given}
    graph = _Tracer(example).trace(model, concrete_args=fixed or None)
    for node in graph.nodes:
        if node.target is as_traced and not node.args[2]:
            node.update_arg(2, source_line(node))
        elif node.op == "placeholder" and node.target in given:
            node.args = ()  # an input without a default, from now on
    return graph, model, fixed


def _failed(model: nn.Module, error: Exception) -> str:
    return (
        f"{type(model).__name__} cannot be traced{place(error)}: {type(error).__name__}: {error}. Control flow in "
        "forward() must not depend on the elements of tensors; move such code out of the model, or into a module that "
        "is converted apart."
    )


def activation_ceiling(node: fx.Node, root: nn.Module) -> float | None:
    """The upper bound of the ReLU-like activation that ``node`` calls (∞ for ReLU); None where it calls none."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.ReLU):
            return math.inf
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return _ceiling(module.min_val, module.max_val)
        return None
    kinds: dict[Any, str] = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    match kinds.get(node.target):
        case "relu":
            return math.inf
        case "relu6":
            return 6.0
        case "hardtanh":
            return _ceiling(_argument(node, 1, "min_val", -1.0), _argument(node, 2, "max_val", 1.0))
        case "clamp":
            return _ceiling(_argument(node, 1, "min", None), _argument(node, 2, "max", None))
    return None


def _ceiling(low: Any, high: Any) -> float | None:
    if not isinstance(low, (int, float)) or low != 0:
        return None
    if high is None:
        return math.inf
    return float(high) if isinstance(high, (int, float)) and high > 0 else None


def _argument(node: fx.Node, position: int, keyword: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(keyword, default)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The parameters of ``forward`` that have a plain default, which decides what is traced."""
    parameters = inspect.signature(model.forward).parameters.values()
    plain = (bool, int, float, str, type(None))
    return {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, plain)}


def _remove_fixed_parameters(graph: fx.Graph, fixed: Iterable[str]) -> None:
    """Take out the placeholders of parameters that tracing has fixed, and the assertions it put in for them."""
    names = {f"{name}_1" for name in fixed}
    for placeholder in [node for node in graph.nodes if node.op == "placeholder" and node.target in names]:
        for user in list(placeholder.users):
            for assertion in list(user.users):
                graph.erase_node(assertion)
            graph.erase_node(user)
        graph.erase_node(placeholder)


def _keep_source_lines(model: nn.Module, graph: fx.Graph) -> None:
    """Where ``model`` is itself a traced graph, its nodes know the user's own source lines; so shall the new ones."""
    if not isinstance(model, fx.GraphModule):
        return
    old, new = list(model.graph.nodes), list(graph.nodes)
    if [node.op for node in old] != [node.op for node in new]:
        return  # somebody has put another module into it, and the nodes cannot be told apart
    for source, node in zip(old, new, strict=True):
        if source.meta.get("stack_trace"):
            node.meta["stack_trace"] = source.meta["stack_trace"]


def _remove_inplace(traced: fx.GraphModule) -> None:
    """Make in-place operations ordinary ones whose result every later reader of the operand sees.

    Raises:
        TracingError: such an operation changes a tensor of which another name, a view, is read later.
    """
    inplace_modules = {name for name, module in traced.named_modules() if getattr(module, "inplace", False) is True}
    for name in inplace_modules:
        module: Any = traced.get_submodule(name)
        module.inplace = False  # of the copy: the model keeps its own
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    aliases: dict[fx.Node, list[fx.Node]] = {}  # the nodes that share memory with a node, in one list for all of them
    for node in traced.graph.nodes:
        source = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(source, fx.Node):
            continue
        if not (node.target in inplace_modules if node.op == "call_module" else _make_out_of_place(node)):
            if _shares_memory(node, traced):
                family = aliases.setdefault(source, [source])
                family.append(node)
                aliases[node] = family
            continue
        if _is_number(source):
            continue  # n += 1 makes another number, and leaves the first alone
        for alias in aliases.get(source, []):
            late = [user for user in alias.users if order[user] > order[node]] if alias is not source else []
            if late:
                raise TracingError(
                    f"the in-place operation {node.name!r} changes {source.name!r}, which shares memory with "
                    f"{alias.name!r}, and {late[0].name!r} reads that later; write it out of place in forward()"
                )
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)


def _shares_memory(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether the result of ``node`` may be a view of its first argument, or be that tensor itself."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _VIEW_MODULES)
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("T", "mT", "data", "real")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in _VIEWS


def _is_number(node: fx.Node) -> bool:
    """Whether the value of ``node`` is made from sizes alone."""
    if node.op == "call_method" and node.target in ("size", "dim", "numel"):
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return bool(node.all_input_nodes) and all(_is_number(source) for source in node.all_input_nodes)


def _make_out_of_place(node: fx.Node) -> bool:
    """Rewrite a function or method that works in place; False where the node is none."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_function" and getattr(operator, name, None) is node.target:
        plain = getattr(operator, name[1:], None) if name.startswith("i") else None  # iadd -> add
        node.target = plain or node.target
        return plain is not None
    if node.op == "call_function" and _argument(node, _inplace_position(node.target), "inplace", False) is True:
        position = _inplace_position(node.target)
        node.args = node.args[:position]
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    if not name.endswith("_") or name.endswith("__"):
        return False
    if node.op == "call_method":
        node.target = name[:-1]
        return True
    plain = getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
    if node.op == "call_function" and plain is not None:
        node.target = plain
        return True
    return False


def _inplace_position(function: Any) -> int:
    """Where the flag ``inplace`` stands among the arguments of ``function``; beyond all of them where it has none."""
    try:
        return list(inspect.signature(function).parameters).index("inplace")
    except (TypeError, ValueError):
        return sys.maxsize


def _dropouts_to_modules(traced: fx.GraphModule) -> None:
    """Functional dropouts follow ``train()`` and ``eval()`` again; tracing has frozen them in evaluation mode."""
    for node in traced.graph.nodes:
        if node.op != "call_function" or node.target not in _DROPOUTS:
            continue
        if _argument(node, 2, "training", True):
            continue  # drops in evaluation mode too: left alone, refused by the conversion
        dropout = _DROPOUTS[node.target](_argument(node, 1, "p", 0.5))
        _to_module(traced, node, unique_name(traced, _scope(node), "dropout"), dropout)


def _name_call_sites(traced: fx.GraphModule) -> None:
    """Give each call of an activation a module of its own."""
    seen: set[str] = set()
    for node in traced.graph.nodes:
        is_qcfs = node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), QCFS)
        ceiling = activation_ceiling(node, traced)
        if not is_qcfs and ceiling is None:
            continue
        if node.op == "call_module":
            path = str(node.target)
            if path in seen:
                scope, _, leaf = path.rpartition(".")
                module = copy.deepcopy(traced.get_submodule(path))
                path = unique_name(traced, scope, leaf)
                traced.add_submodule(path, module)
                node.target = path
            seen.add(path)
        elif ceiling is not None:
            kind = _FUNCTIONS.get(node.target) or _METHODS[node.target]
            module = nn.ReLU() if math.isinf(ceiling) else nn.Hardtanh(0.0, ceiling)
            path = unique_name(traced, _scope(node), kind)
            _to_module(traced, node, path, module)
            seen.add(path)


def _to_module(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    """Let ``node`` call ``module``, kept as ``name``, on its first argument instead of what it called before."""
    source = node.args[0] if node.args else node.kwargs["input"]
    traced.add_submodule(name, module.eval())
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (source,), {}


def _scope(node: fx.Node) -> str:
    """The path of the module in whose ``forward`` the node was made."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def unique_name(root: nn.Module, scope: str, leaf: str) -> str:
    """A dotted path under ``scope`` that ``root`` does not have yet: ``leaf``, or ``leaf_1``, ``leaf_2`` ..."""
    prefix = f"{scope}." if scope else ""
    parent: Any = root
    for part in scope.split(".") if scope else ():
        parent = getattr(parent, part, None)
    name, count = leaf, 0
    while hasattr(parent, name):
        count += 1
        name = f"{leaf}_{count}"
    return prefix + name
