"""From a model to a graph in which every activation is a module with a name of its own."""

from __future__ import annotations

import inspect
import keyword
import warnings
from collections.abc import Container, Iterable, Iterator
from typing import Any

from torch import fx, nn

from pascal_ext.data import Batch, first_batch
from pascal_ext.errors import TracingError
from pascal_ext.graph.branches import Example, as_traced
from pascal_ext.graph.call_sites import (
    activation_ceiling,
    dropouts_to_modules,
    first_arguments_by_position,
    name_call_sites,
    name_rectifiers,
    remove_frozen_drops,
)
from pascal_ext.graph.inplace import remove_inplace
from pascal_ext.graph.norms import norms_to_modules
from pascal_ext.graph.operations import source_line
from pascal_ext.graph.synonyms import write_out
from pascal_ext.graph.traceable import (
    check_traceable,
    copied,
    place,
    spell_out_parameters,
    takes_any_keyword,
    unwrapped,
)
from pascal_ext.graph.tracer import Tracer
from pascal_ext.graph.two_sided import is_two_sided, split_two_sided
from pascal_ext.observers import hooks_of

_CONTROL_FLOW = (
    " Control flow in forward() must not depend on the elements of tensors; move such code out of the model, or into a "
    "module that is converted apart."
)
_NEEDS_DATA = (
    " On shapes it may depend where they are known: from a loader that can be read twice, or with "
    "replace_activations(model, levels, example=batch)."
)
_WAYS_OUT = {  # what is told of an error, by a part of it
    "autocast": "",
    "number of samples": " Compute on the whole batch at once, without a loop over it and without int() of its size.",
    "cannot be iterated": " How many parts there are is known of shapes, and of chunk, split and unbind, not along "
    "dimension 0, and with data: a loader that can be read twice, or replace_activations(model, levels, "
    "example=batch). Else take them by their numbers, x.shape[1], x[:, 0] or x.unbind(1)[0].",
}


def trace(model: nn.Module, data: Iterable[Any] | None = None) -> fx.GraphModule:
    """A copy of ``model`` as a graph, in evaluation mode, without in-place operations and what nothing reads.

    Each call of an activation (:class:`QCFS`, or anything that :func:`pascal_ext.graph.call_sites.activation_ceiling`
    knows) becomes a module of its own: the first call of a module keeps the module's name, the next ones get ``_1``,
    ``_2`` ...; a function called in the ``forward`` of ``layer1.0`` becomes ``layer1.0.relu``. A LeakyReLU, PReLU or
    Hardtanh(-a, b) ``act`` becomes two, ``act.positive`` and ``act.negative``
    (:func:`pascal_ext.graph.two_sided.split_two_sided`). Parameters of ``forward`` with a plain default
    (``return_features=False``, ``mask=None``) keep it, and are gone from the graph. The model itself is not changed and
    shares nothing. Of a model in a wrapper, see :func:`pascal_ext.graph.traceable.unwrapped`, it is the graph of the
    model.

    Args:
        model: the model.
        data: batches of its data. Where it cannot be traced without, since ``forward`` branches on shapes or types or
            an input has a default, it is traced with the shapes of the first one, see :mod:`pascal_ext.graph.branches`;
            unless ``data`` is an iterator, which would lose it. Without data, ``isinstance(x, Tensor)`` is true.
            A ``**kwargs`` of ``forward`` is given what that batch has.

    Raises:
        TracingError: the model is TorchScript, or has lazy layers that have seen no data; or ``forward`` has control
            flow that depends on tensors, or does something else that symbolic tracing cannot follow; or a layer has a
            name that a graph needs itself.
        CalibrationError: the first batch is needed and is none.

    Warns:
        UserWarning: the model itself, or an activation that is replaced, has forward hooks, which no graph can have.
    """
    source = model = unwrapped(model)
    check_traceable(model)
    batch = first_batch(data, source) if takes_any_keyword(source) else None
    keywords = () if batch is None else tuple(batch.kwargs)
    has_data = data is not None and not isinstance(data, Iterator)
    try:
        graph, model = _symbolic(source, None, keywords, has_data)
    except Exception as error:
        batch = batch or first_batch(data, source)
        if batch is None:
            raise TracingError(_failed(source, error, _NEEDS_DATA)) from error
        try:
            graph, model = _symbolic(source, batch, tuple(batch.kwargs))
        except Exception as second:
            raise TracingError(_failed(source, second)) from second
    _keep_source_lines(source, graph)
    _check_names(model)
    traced = fx.GraphModule(model, graph, class_name=type(model).__name__)
    traced.eval()
    first_arguments_by_position(traced)
    remove_frozen_drops(traced)
    remove_inplace(traced)
    write_out(graph)
    name_rectifiers(traced)
    norms_to_modules(traced, model)
    graph.eliminate_dead_code()
    dropouts_to_modules(traced)
    _lose_hooks(source, traced)
    split_two_sided(traced)
    name_call_sites(traced)
    graph.lint()
    traced.recompile()
    return traced


def _symbolic(
    model: nn.Module, batch: Batch | None, keywords: tuple[str, ...], has_data: bool = True
) -> tuple[fx.Graph, nn.Module]:
    """The graph of a copy of ``model`` in evaluation mode, without parameters that have a plain default; and that copy.

    Where ``forward`` takes any keyword, it is given ``keywords`` and no others. Without ``batch``, what only data can
    tell is an error where there is some.
    """
    model = spell_out_parameters(copied(model).eval(), keywords)
    example = None if batch is None else Example(model, batch)
    given = {} if example is None else example.arguments
    fixed = {name: value for name, value in _defaults(model).items() if name not in given}
    graph = Tracer(example, has_data).trace(model, concrete_args=fixed or None)
    _remove_fixed_parameters(graph, model, fixed)
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None  # an annotation under ``from __future__ import annotations``, which could not be pickled
        if node.target is as_traced and not node.args[2]:
            node.update_arg(2, source_line(node))
        elif node.op == "placeholder" and node.target in given:
            node.args = ()  # an input without a default, from now on
    return graph, model


def _check_names(model: nn.Module) -> None:
    """Refuse names that the code of a graph could not have.

    Raises:
        TracingError: there are some; the message names them.
    """
    own = (*model._modules, *model._parameters, *model._buffers)
    clashes = [name for name in own if hasattr(fx.GraphModule, name)]
    if clashes:
        raise TracingError(
            f"the model has layers or parameters named {clashes}, which its graph needs itself; rename them"
        )
    paths = (*(name for name, _ in model.named_modules()), *model.state_dict(keep_vars=True))
    keywords = sorted({name for path in paths for name in path.split(".") if keyword.iskeyword(name)})
    if keywords:
        raise TracingError(
            f"the model has layers or parameters named {keywords}, words of Python that the code of a graph cannot "
            "take for names; rename them"
        )


def _lose_hooks(model: nn.Module, traced: fx.GraphModule) -> None:
    """Take the hooks off the activations of a graph, where other modules will stand, and warn of it."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    activations = [node for node in calls if activation_ceiling(node, traced) is not None or is_two_sided(node, traced)]
    targets = dict.fromkeys(str(node.target) for node in activations)
    names = [name for name in targets if hooks_of(traced.get_submodule(name))]
    for name in names:
        module = traced.get_submodule(name)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    whole = [type(model).__name__] if hooks_of(model) else []
    if whole or names:
        warnings.warn(
            f"{[*whole, *names]} have forward hooks, which the graph of the model does not have; what they change "
            "belongs into forward()",
            stacklevel=4,
        )


def _failed(model: nn.Module, error: Exception, needs: str = "") -> str:
    """The message, with the way out; ``needs`` where it may be that data are missing."""
    known = [way for part, way in _WAYS_OUT.items() if part in str(error)]
    on_values = isinstance(error, fx.proxy.TraceError) or "does not know" in str(error)
    hint = known[0] if known else (_CONTROL_FLOW if on_values else "") + needs
    return f"{type(model).__name__} cannot be traced{place(error)}: {type(error).__name__}: {error}.{hint}"


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The parameters of ``forward`` that have a plain default, which decides what is traced."""
    parameters = inspect.signature(model.forward).parameters.values()
    plain = (bool, int, float, str, type(None))
    return {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, plain)}


def _remove_fixed_parameters(graph: fx.Graph, model: nn.Module, fixed: Container[str]) -> None:
    """Take out the placeholders of parameters that tracing has fixed, and the assertions it put in for them.

    Those of ``mask`` are named ``mask_1``, as other parameters may be, so it is by their order that they are told.
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # which tracing takes last
    parameters = sorted(inspect.signature(model.forward).parameters.values(), key=lambda p: p.kind in variable)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for parameter, placeholder in zip(parameters, placeholders, strict=True):
        if parameter.name not in fixed:
            continue
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
