"""A graph as a Python function."""

from __future__ import annotations

import itertools
import linecache
import weakref
from collections.abc import Callable
from typing import Any

from torch import fx

_serial = itertools.count()


def function_of(graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a plain function of the network and the graph's inputs, whose source shows in tracebacks."""
    code = graph.python_code(root_module="self")
    filename = f"<pascal_ext network {next(_serial)}>"
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, filename, "exec"), namespace)
    function: Callable[..., Any] = namespace["forward"]
    weakref.finalize(function, linecache.cache.pop, filename, None)
    return function
