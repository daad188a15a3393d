"""Item assignment, ``x[index] = value``, without changing x."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx


def assigned(x: Tensor | fx.Proxy, index: Any, value: Any) -> Any:
    """What ``x`` is after ``x[index] = value``; itself it stays as it was."""
    for proxy in (x, value):
        if isinstance(proxy, fx.Proxy):  # a graph is traced again
            return proxy.tracer.create_proxy("call_function", assigned, (x, index, value), {})
    result = x.clone()
    result[index] = value
    return result
