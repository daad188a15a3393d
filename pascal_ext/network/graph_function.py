"""A graph as a Python function."""

from __future__ import annotations

import copy
import itertools
import linecache
import weakref
from collections.abc import Callable
from typing import Any

from torch import fx

_serial = itertools.count()


def function_of(graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a plain function of the network and the graph's inputs, whose source shows in tracebacks."""
    code = _looked_up(graph).python_code(root_module="self")
    filename = f"<pascal_ext network {next(_serial)}>"
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, filename, "exec"), namespace)
    function: Callable[..., Any] = namespace["forward"]
    weakref.finalize(function, linecache.cache.pop, filename, None)
    return function


def _looked_up(graph: fx.Graph) -> fx.Graph:
    """A copy of ``graph`` that looks each module up once: ``nn.Module`` is slow to find its attributes, and a path has
    one for every part.
    """
    graph = copy.deepcopy(graph)
    modules: dict[str, fx.Node] = {}

    def attribute(path: str) -> fx.Node:
        owner, _, name = path.rpartition(".")
        if not owner:
            return graph.create_node("get_attr", name)
        return graph.create_node("call_function", getattr, (module(owner), name), name=path.replace(".", "_"))

    def module(path: str) -> fx.Node:
        if path not in modules:
            modules[path] = attribute(path)
        return modules[path]

    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for node in [node for node in graph.nodes if node.op in ("call_module", "get_attr")]:
        path = str(node.target)
        with graph.inserting_before(node):
            value = module(path) if path in called else attribute(path)  # a parameter may be another one each time
            if node.op == "call_module":
                value = graph.create_node("call_method", "__call__", (value, *node.args), node.kwargs, name=node.name)
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    return graph
