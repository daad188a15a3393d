"""The cases: currents [T1, N], and who is to answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pascal_ext import functional
from pascal_ext.adapters.spikingjelly.compat import VERSION, load
from pascal_ext.comparison.timing import Device
from pascal_ext.errors import BackendError
from pascal_ext.ops.pasc_if import check_backend

Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """T1 steps of currents into N neurons, that emit for L steps."""

    window: int
    levels: int
    neurons: int


CASES = (
    *(Case(steps, steps, 1 << 20) for steps in (1, 2, 4, 8, 16)),  # growth with T
    *(Case(8, 8, neurons) for neurons in (1 << 14, 1 << 16, 1 << 18, 1 << 22)),  # growth with N
    Case(1, 8, 1 << 20),
    Case(8, 1, 1 << 20),
)
# An H100 has 50 MB of second level of cache: from N = 2^20 on, currents and spikes are more than that.
GPU_CASES = (
    *(Case(steps, steps, 1 << 24) for steps in (1, 2, 4, 8, 16)),
    *(Case(8, 8, neurons) for neurons in (1 << 16, 1 << 18, 1 << 20, 1 << 22)),
    Case(1, 8, 1 << 24),
    Case(8, 1, 1 << 24),
)
GPU_BACKENDS = ("triton", "cupy", "torch")
GPU_LITERAL = 1 << 24  # currents up to which the literal loop is run on a GPU; its time grows like that of the others
HOST = f"SpikingJelly {VERSION}"
HOST_BACKENDS = ("cupy", "triton")  # of SpikingJelly's nodes, where they let one choose


def competitors(case: Case, device: str = Device.CPU, dtype: torch.dtype = torch.float32) -> Calls:
    """Name -> call, all on the same currents.

    The first one is what the others are compared with. On a CPU it is the backend that runs unless another is asked
    for; on a GPU each backend that is installed takes part under its name.
    """
    x_seq = torch.rand(case.window, case.neurons, device=device, dtype=dtype).mul_(2).sub_(0.5)
    backends = {"pasc_if": "auto"}
    if device == Device.CUDA:
        backends = {f"pasc_if {name}": name for name in GPU_BACKENDS if _is_installed(name)}
    threshold = torch.ones((), device=device)  # a tensor there, as a layer's is
    calls: Calls = {name: _neuron(x_seq, threshold, case.levels, backend) for name, backend in backends.items()}
    first = next(iter(backends.values()))
    calls["counts"] = lambda: functional.pasc_if_counts(x_seq, threshold, case.levels, first)
    if device == Device.CPU or case.window * case.neurons <= GPU_LITERAL:
        calls["literal loop"] = _neuron(x_seq, threshold, case.levels, "reference")
    calls |= _host_neurons(x_seq, case.levels)
    calls["copy"] = lambda: x_seq.clone()
    return calls


def working(calls: Mapping[str, Callable[[], Any]]) -> tuple[Calls, dict[str, str]]:
    """Those of ``calls`` that can be made, and why the others cannot.

    Whether all that a kernel needs is there (a compiler, headers, memory) shows only when it runs, and one that does
    not must not end the measurement of the others.
    """
    found: Calls = {}
    left_out = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = call
    return found, left_out


def host_implementation(device: str) -> str | None:
    """What SpikingJelly 2.x has chosen for an IFNode in float32; None where it does not tell."""
    tell = getattr(load("functional"), "neuron_implementation", None)
    return None if tell is None else str(tell("if", torch.device(device))["implementation"])


def _neuron(x_seq: Tensor, threshold: Tensor, levels: int, backend: str) -> Callable[[], Any]:
    return lambda: functional.pasc_if(x_seq, threshold, levels, backend)


def _is_installed(backend: str) -> bool:
    try:
        check_backend(backend)
    except BackendError:
        return False
    return True


def _host_neurons(x_seq: Tensor, levels: int) -> Calls:
    """SpikingJelly's IFNode in all its ways that can run on these currents."""
    calls = {f"{HOST} IFNode": _host_neuron(x_seq, levels)}
    if x_seq.is_cuda:
        for backend in HOST_BACKENDS:
            try:
                calls[f"{HOST} IFNode, {backend}"] = _host_neuron(x_seq, levels, backend=backend)
            # In this order: 2.x has no such option, 0.0.0.0.14 no such backend, or this machine not its library.
            except (TypeError, NotImplementedError, ImportError):
                continue
    if x_seq.dtype != torch.float32 and hasattr(load("functional"), "if_multi_step"):
        # 2.x has kernels for potentials in float32 only, and an IFNode's have the dtype of the currents.
        calls[f"{HOST} if_multi_step"] = _host_function(x_seq, levels)
    return calls


def _host_neuron(x_seq: Tensor, levels: int, **options: Any) -> Callable[[], Any]:
    """SpikingJelly's IFNode with soft reset on the same currents: T1 steps in, T1 steps out."""
    node = load("neuron").IFNode(v_threshold=1.0 / levels, v_reset=None, step_mode="m", **options)
    node.train(bool(options))  # in evaluation, 0.0.0.0.14 does not use its kernels

    def run() -> Any:
        node.reset()
        return node(x_seq)

    return run


def _host_function(x_seq: Tensor, levels: int) -> Callable[[], Any]:
    """The same with potentials in float32."""
    function = load("functional").if_multi_step

    def run() -> Any:
        v = torch.zeros(x_seq.shape[1:], device=x_seq.device)
        return function(x_seq, v, 1.0 / levels, None)

    return run
