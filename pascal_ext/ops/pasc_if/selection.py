"""Which implementation of PASC-IF runs: an explicit one or none, ``"auto"`` the first of ``AUTO`` that can."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pascal_ext.errors import BackendError, InvalidArgumentError

_logger = logging.getLogger("pascal_ext")
_backends: dict[str, Backend] = {}

# By type of device, what "auto" tries in turn; elsewhere "torch". CuPy is for those who ask for it: it settles no ties,
# so that networks, which do unless told otherwise, would have little of it.
AUTO: dict[str, tuple[str, ...]] = {"cuda": ("triton", "torch")}


def _nothing(*_: object) -> str:
    return ""


@dataclass(frozen=True)
class Backend:
    """A way to compute the neuron.

    Attributes:
        spikes: currents [T1, N, ...], λ (scalar or [C]), L -> train [L, N, ...].
        counts: the same -> counts [N, ...], int32.
        missing: what has to be installed before it can run here at all; empty where nothing is.
        refuses: why it cannot run on these currents; empty where it can.
        settled: currents, λ, L, reference counts [N, ...] -> train and how many counts the reference changed, see
            :mod:`pascal_ext.ops.pasc_if.ties`; None where the vectorised one is as good.
        activation: dense pre-activations z [N, ...], λ, L, room for λ/L · k (it may be that of z), and room for the
            counts or None: fills them. None likewise.
        gradient: gradients with respect to λ/L · k, z, λ, L, room for those with respect to z, and room for each
            element's share of that with respect to λ or None: fills them; all dense and of the same strides. None
            likewise.
    """

    spikes: Callable[[Tensor, Tensor, int], Tensor]
    counts: Callable[[Tensor, Tensor, int], Tensor]
    missing: Callable[[], str] = _nothing
    refuses: Callable[[Tensor], str] = _nothing
    settled: Callable[[Tensor, Tensor, int, Tensor], tuple[Tensor, Tensor]] | None = None
    activation: Callable[[Tensor, Tensor, int, Tensor, Tensor | None], None] | None = None
    gradient: Callable[[Tensor, Tensor, Tensor, int, Tensor, Tensor | None], None] | None = None


def register_backend(name: str, backend: Backend) -> None:
    """Make ``backend`` known as ``name``; framework adapters add their own."""
    _backends[name] = backend


def backend_names() -> tuple[str, ...]:
    """What ``backend=`` can be, ``"auto"`` first."""
    return ("auto", *_backends)


def check_backend(name: str) -> str:
    """Return ``name``.

    Raises:
        InvalidArgumentError: there is no backend of that name.
        BackendError: there is, and it cannot run here.
    """
    if name not in backend_names():
        hint = "; 'host' comes with pascal_ext.adapters.spikingjelly: import that first" if name == "host" else ""
        raise InvalidArgumentError(f"backend={name!r} is unknown; choose one of {list(backend_names())}{hint}")
    if name != "auto" and (reason := _backends[name].missing()):
        raise BackendError(f"backend={name!r} cannot run: {reason}")
    return name


def select(name: str, x_seq: Tensor) -> tuple[str, Backend]:
    """The backend that computes the currents ``x_seq``, and its name.

    Raises:
        InvalidArgumentError, BackendError: see :func:`check_backend`; or the backend cannot run on these currents.
    """
    if name == "auto":
        name = _fastest(x_seq.device.type, x_seq.dtype)
    elif reason := _backends[check_backend(name)].refuses(x_seq):
        raise BackendError(f"backend={name!r} cannot run on {x_seq.dtype} currents on {x_seq.device}: {reason}")
    return name, _backends[name]


@functools.cache
def _fastest(device: str, dtype: torch.dtype) -> str:
    passed: list[str] = []
    example = torch.zeros((1, 1), dtype=dtype, device="meta" if device == "meta" else device)
    names = AUTO.get(device, ("torch",))
    for name in names:
        reason = _backends[name].missing() or _backends[name].refuses(example)
        if not reason and name != names[-1]:
            reason = _fails(_backends[name], example)
        if not reason:
            _logger.info("backend 'auto' is %r for %s on %s%s", name, dtype, device, "".join(passed))
            return name
        passed.append(f"; not {name!r}: {reason}")
    raise BackendError(f"no backend can run on {device}{''.join(passed)}")


def _fails(backend: Backend, example: Tensor) -> str:
    """How a backend that should run fails: Triton, for one, where there is no C compiler; empty where it does not."""
    threshold, step = torch.ones((), device=example.device), example[0]
    try:
        backend.spikes(example, threshold, 1)
        if backend.settled is not None:
            backend.settled(example, threshold, 1, torch.zeros_like(step, dtype=torch.int8))
        if backend.activation is not None:
            backend.activation(step, threshold, 1, torch.empty_like(step), None)
    except Exception as error:  # whatever a toolchain may raise
        return f"{type(error).__name__}: {error}"
    return ""


def installed(package: str, command: str) -> str:
    """Why a backend that needs ``package`` cannot run; empty where it is there."""
    if importlib.util.find_spec(package):
        return ""
    return f"{package} is not installed; get it with: {command}"
