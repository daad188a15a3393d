"""Counting the synaptic operations of a forward pass, whatever calls them: modules, functions or scaled weights.

A convolution or a matrix product is looked at where torch runs it, with the input that it really gets. It *reads
spikes* if, over the whole measurement, that input takes one value besides 0; or one for each channel (each feature of a
linear layer), or one on either side of 0 (behind a LeakyReLU, whose sides are two layers of neurons), seen in several
samples and again and again, so that they are no values of an image. Then no multiplication is needed: the amplitude (a
stock converter's scaler, say) belongs into the weights, where whoever builds the hardware folds it once. Each nonzero
input costs one accumulate for each synapse that it has: those that zero padding or a stride cuts off do not count. Any
other input is analog, and every synapse costs a multiply-accumulate. Of a product, the first factor is the input,
unless that is made of parameters alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from pascal_ext.energy.origins import Origin, Origins
from pascal_ext.errors import UnsupportedOperationError

aten = torch.ops.aten
_OPAQUE = frozenset({"mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"})
_PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.addmm: 1, aten.baddbmm: 1, aten.addmv: 1}
"""Products of two factors -> the position of the first among the arguments."""


def convolution_fan_out(
    size: Sequence[int],
    kernel: Sequence[int],
    out: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> Tensor:
    """How many (output position, tap) pairs each input position reaches, [*size] in float64.

    An input i meets tap k at output o where o·stride − padding + k·dilation = i; for a transposed convolution, where
    i·stride − padding + k·dilation = o. Dimensions are independent, so the result is their outer product.
    """
    fan_out = torch.ones((), dtype=torch.float64)
    for n, taps, m, s, p, d in zip(size, kernel, out, stride, padding, dilation, strict=True):
        here, there = (n, m) if transposed else (m, n)
        reached = torch.arange(here).unsqueeze(1) * s - p + torch.arange(taps) * d
        valid = (reached >= 0) & (reached < there)
        line = valid.sum(1) if transposed else torch.bincount(reached[valid], minlength=n)
        fan_out = fan_out.unsqueeze(-1) * line
    return fan_out


class Tally:
    """What one operation did over the measurement.

    Args:
        channels: whether its inputs have channels, which may have an amplitude each.

    Attributes:
        dense: operations if every input counted.
        sparse: operations of the nonzero inputs.
        inputs: elements of the input.
        spikes: those that are not zero.
        origin: what the inputs are made from.
    """

    def __init__(self, channels: bool = True) -> None:
        self.origin = Origin(0)
        self.dense = self.sparse = self.inputs = self.spikes = 0.0
        self._by_channel = channels
        self._amplitudes: Tensor | None = None
        self._uniform = self._equal = True

    def add(self, x: Tensor, origin: Origin, channel_dim: int, dense: float, sparse: float) -> None:
        """Note an input ``x``, what it is made from, and the operations that it took."""
        self.origin |= origin
        self.dense += dense
        self.sparse += sparse
        self.inputs += x.numel()
        self.spikes += int(torch.count_nonzero(x))
        if self._uniform and x.numel():
            self._compare(x.movedim(channel_dim, 0).flatten(1) if self._by_channel else x.reshape(1, -1))

    def _compare(self, x: Tensor) -> None:
        """``x``, [channels, ...], against the amplitudes found so far, [2, channels]: above 0, and below."""
        here = torch.stack((x.amax(1).clamp(min=0), x.amin(1).clamp(max=0)))
        known = here if self._amplitudes is None else self._amplitudes
        if known.shape != here.shape:  # no channels, but a product whose sizes vary with the batch's
            self._uniform = self._equal = False
            return
        self._amplitudes = amplitudes = torch.where(known == 0, here, known)
        within = bool(((x == 0) | (x == amplitudes.unsqueeze(2)).any(0)).all())
        active = [side[side != 0] for side in amplitudes]
        self._equal = self._equal and within and all(bool((side == side[:1]).all()) for side in active)
        self._uniform = within and (self._by_channel or self._equal)

    def reads_spikes(self, samples: int) -> bool:
        """Whether all inputs had one amplitude; or one for each channel or sign, of which there is evidence: analog
        values hardly ever repeat, but where a sample is presented again, and two values without a 0 are an image.
        """
        if not self._uniform or self._amplitudes is None:
            return self._equal
        signed = bool((self._amplitudes != 0).any(1).all())
        if self._equal and not signed:
            return True
        repeated = samples > 1 and self.spikes >= 2 * int(torch.count_nonzero(self._amplitudes))
        return repeated and (not signed or self.spikes < self.inputs)


class SynapseCounter(TorchDispatchMode):
    """Within the context, every convolution and matrix product is counted in :attr:`tallies`.

    The rows are named after the module in which the operation runs (the innermost one of ``network``), or after the
    operation, where that is the network itself.

    Attributes:
        tallies: row name -> :class:`Tally`, in order of execution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tallies: dict[str, Tally] = {}
        self._origins = Origins(())
        self._frames: list[tuple[str, list[str]]] = [("", [])]

    @contextmanager
    def watching(self, network: nn.Module, inputs: Any) -> Iterator[SynapseCounter]:
        """Count what runs within the context, in rows named after the modules of ``network``, which gets ``inputs``."""
        self._origins = Origins(inputs)
        handles = []
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(functools.partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH), self:  # attention as the matrix products that it is
                yield self
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *_: Any) -> None:
        self._frames.append((name, []))

    def _leave(self, *_: Any) -> None:
        self._frames.pop()

    def _tally(self, operation: str, channels: bool = True) -> Tally:
        """The row of the operation that runs now: the n-th of its module."""
        module, before = self._frames[-1]
        index = before.count(operation)
        before.append(operation)
        name = module if module and len(before) == 1 else ".".join(filter(None, (module, operation)))
        name += f"_{index}" if index else ""
        return self.tallies.setdefault(name, Tally(channels))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)  # tensors of inference mode arrive at operations made of others
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet is aten.convolution:
            self._convolution(out, *args)
        elif packet in _PRODUCTS:
            self._product(packet.__name__, *args[_PRODUCTS[packet] :][:2])
        elif packet.__name__ in _OPAQUE:
            raise UnsupportedOperationError(
                f"{self._frames[-1][0] or 'the network'!r} calls {packet.__name__}, which runs all timesteps of a "
                "recurrent layer at once, so its operations cannot be counted"
            )
        self._origins.follow(func, (args, kwargs), out, weighs=packet is aten.convolution or packet in _PRODUCTS)
        return out

    def _convolution(
        self,
        out: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        transposed: bool,
        output_padding: list[int],
        groups: int,
    ) -> None:
        dims = weight.ndim - 2
        x = x if x.ndim == weight.ndim else x.unsqueeze(0)
        stride, padding, dilation = (list(v) * (dims if len(v) == 1 else 1) for v in (stride, padding, dilation))
        fan_out = convolution_fan_out(
            x.shape[2:], weight.shape[2:], out.shape[-dims:], stride, padding, dilation, transposed
        )
        outputs = weight.shape[1] if transposed else weight.shape[0] // groups
        spikes = (x != 0).sum((0, 1)).cpu()
        dense = float(fan_out.sum()) * outputs * x.shape[0] * x.shape[1]
        sparse = float((spikes * fan_out).sum()) * outputs
        self._tally("convolution").add(x, self._origins.of(x), 1, dense, sparse)

    def _product(self, operation: str, a: Tensor, b: Tensor) -> None:
        """[..., m, k] times [..., k, n], or times [k]: the input is ``a``, or ``b`` where ``a`` is a parameter."""
        is_matrix = operation not in ("mv", "addmv")
        x, features, reached = a, -1, b.shape[-1] if is_matrix else 1
        if self._origins.of(b) and not self._origins.of(a):
            x, features, reached = b, -2 if is_matrix else -1, a.shape[-2]
        tally = self._tally(operation, channels=operation in ("mm", "addmm"))
        dense, sparse = float(x.numel() * reached), float(torch.count_nonzero(x)) * reached
        tally.add(x, self._origins.of(x), features, dense, sparse)
