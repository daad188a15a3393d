"""Which implementation of PASC-IF runs: an explicit one or none, ``"auto"`` the fastest that can."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops.pasc_if.reference import pasc_if_reference
from pascal_ext.ops.pasc_if.vectorised import pasc_if_vectorised

Kernel = Callable[[Tensor, "Tensor | float", int], Tensor]

BACKENDS: dict[str, Kernel] = {"reference": pasc_if_reference, "torch": pasc_if_vectorised}


def check_backend(backend: str) -> str:
    """Return ``backend``; raise :class:`InvalidArgumentError` where there is none of that name."""
    if backend != "auto" and backend not in BACKENDS:
        raise InvalidArgumentError(f"backend={backend!r} is unknown; choose one of {['auto', *BACKENDS]}")
    return backend


def select(backend: str) -> Kernel:
    """The kernel that ``backend`` names."""
    return BACKENDS["torch" if check_backend(backend) == "auto" else backend]
