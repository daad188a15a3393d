"""The PASC-IF neuron as an snnTorch neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pascal_ext.adapters.snntorch.compat import SpikingNeuron, is_exporting_nir
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from pascal_ext.neuron import PascIF
from pascal_ext.ops.pasc_if import qcfs_activation, quantise, window_mean
from pascal_ext.ops.thresholds import accumulation_dtype, as_threshold, broadcastable


class PascalIF(PascIF, SpikingNeuron):
    r"""A layer of PASC-IF neurons (arXiv 2505.01730) in the manner of snnTorch's time-parallel neurons.

    The layer takes all steps at once and emits ``levels`` steps, however many came in. With :math:`\bar I` the mean of
    the input currents over time, L the levels and U the membrane, reset by subtraction:

    .. math::
        U[0] = L \bar{I} + U_{\rm thr} / 2, \qquad
        S[t] = [\,U[t] \ge U_{\rm thr}\,], \qquad
        U[t+1] = U[t] - S[t]\, U_{\rm thr}, \qquad t = 0 \dots L - 1

    so that ``threshold * spk.mean(0)`` is ``QCFS(cur.mean(0))``. Three things differ from :class:`snntorch.Leaky`: the
    membrane first gathers the whole window, nothing leaks, and a membrane equal to the threshold fires. (Spikes are
    counted, and the membrane is what explains them: where it equals the threshold to within rounding, either may be.)
    No call depends on those before, so there is nothing that ``snntorch.utils.reset`` would have to reach. It knows
    snnTorch's own classes alone: what ``init_hidden`` keeps stays until the next call, or :meth:`reset_mem`.

    A call returns ``spk``, or ``(spk, mem)`` with ``output=True``. As in snnTorch, ``mem`` is the potential that was
    compared with the threshold, before the reset.

    Gradients: straight through the steps, as those of QCFS, for the currents and a learnt threshold; the emitted steps
    share them equally. With ``spike_grad``, that surrogate of ``mem - threshold`` at every step instead.

    Shapes: currents [T, B, features, ...] -> spk and mem, [levels, B, features, ...].

    Args:
        levels: L, the number of emitted steps.
        threshold: U_thr, a number, or one value per channel, [C], for currents [T, B, C, ...].
        spike_grad: a surrogate of ``snntorch.surrogate``; without one, the gradient of QCFS.
        init_hidden: keep the membrane of the last call in ``mem``, for ``probe.AttributeMonitor("mem", ...)``.
        output: return the membrane too.
        learn_threshold: make the threshold a parameter.
        graded_spikes_factor: spikes are scaled by this value. The state dict holds it where it is learnt or not 1.
        learn_graded_spikes_factor: make that factor a parameter.
        backend: see :func:`pascal_ext.functional.pasc_if`.
        execution: see :class:`pascal_ext.PascIF`.

    In a :class:`PascalNetwork`, ``output`` and ``graded_spikes_factor`` have no effect, and currents without features,
    [T, B], are taken too.

    Raises:
        InvalidArgumentError: see :class:`pascal_ext.PascIF`.
    """

    mem: Tensor
    graded_spikes_factor: Tensor

    def __init__(
        self,
        levels: int,
        threshold: float | Tensor = 1.0,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        *,
        init_hidden: bool = False,
        output: bool = False,
        learn_threshold: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        backend: str = "auto",
        execution: str = "spikes",
    ) -> None:
        super().__init__(levels, threshold, backend=backend, execution=execution)
        # the host lists every neuron for good, to reset those with a hidden state
        SpikingNeuron.instances[:] = [neuron for neuron in SpikingNeuron.instances if neuron is not self]
        self.spike_grad = spike_grad
        self.init_hidden = init_hidden
        self.output = output
        if learn_threshold:
            value = self.v_threshold
            del self.v_threshold
            self.v_threshold = nn.Parameter(value)
        factor = torch.as_tensor(graded_spikes_factor, dtype=torch.get_default_dtype()).detach().clone()
        factor = factor.to(self.v_threshold.device)
        del self.graded_spikes_factor
        if learn_graded_spikes_factor:
            self.graded_spikes_factor = nn.Parameter(factor)
        else:  # a network's neurons have a factor of 1, and state dicts and files of the core's hold no such thing
            self.register_buffer("graded_spikes_factor", factor, persistent=bool((factor != 1).any()))
        self._non_persistent_buffers_set.add("reset_mechanism_val")
        self.register_buffer("mem", torch.zeros(0), persistent=False)

    def _threshold_buffer(self, threshold: Any, learn_threshold: bool) -> None:
        """The host's constructor would store the threshold a second time."""

    @property
    def threshold(self) -> Tensor:
        """U_thr, stored as ``v_threshold``, the name it has in the files of :func:`pascal_ext.save`.

        A learnt threshold stays the same parameter when a number, or a tensor of its shape, is set. Setting an
        ``nn.Parameter`` puts that one in its place, and makes the threshold a learnt one.

        Raises:
            InvalidArgumentError: on setting, see :class:`pascal_ext.PascIF`.
        """
        return self.v_threshold

    @threshold.setter
    def threshold(self, value: float | Tensor) -> None:
        threshold = as_threshold(value).to(self.v_threshold)
        if not isinstance(self.v_threshold, nn.Parameter):
            self.v_threshold = threshold
        elif threshold.ndim == 0 or threshold.shape == self.v_threshold.shape:
            with torch.no_grad():  # in place: an optimiser holds it
                self.v_threshold.copy_(threshold)
        else:
            self.v_threshold = nn.Parameter(threshold)

    def __setattr__(self, name: str, value: Any) -> None:
        """As ever, but a parameter does not reach a property: ``nn.Module`` would register it beside."""
        if name == "threshold" and isinstance(value, nn.Parameter):
            as_threshold(value)
            name = "v_threshold"
        super().__setattr__(name, value)

    def forward(  # type: ignore[override]  # the second argument is what it is for snnTorch's neurons
        self, input_: Tensor, mem: Tensor | None = None, *, reference: Tensor | None = None
    ) -> Any:
        """Answer a window of currents.

        Args:
            input_: currents, [T, B, features, ...].
            mem: None; a membrane handed in is the sign of stepwise use.
            reference: see :meth:`pascal_ext.PascIF.forward`.

        Raises:
            InvalidArgumentError: the layer is used step by step.
            UnsupportedOperationError: the call is one of ``snntorch.export_nir``.
        """
        self._check_use(input_, mem)
        returns_mem = self.output and not self.whole_windows
        with torch.no_grad():
            out = super().forward(input_, reference)
        if torch.is_grad_enabled() and (input_.requires_grad or self.v_threshold.requires_grad):
            out = self._with_gradient(out, input_)
        if not self.whole_windows:
            out = out * self.graded_spikes_factor.to(out.dtype)
        if not (self.init_hidden or returns_mem):
            return out
        potential = self.membrane(input_)
        self.mem = potential.detach()
        return (out, potential) if returns_mem else out

    def membrane(self, input_: Tensor) -> Tensor:
        """The membrane potential at every emitted step, before the reset: [T, B, ...] -> [levels, B, ...].

        It is that of the emitted spikes; whether it reaches the threshold says so to within rounding.
        """
        mean, threshold = self._mean_and_threshold(input_)
        count = quantise(mean.detach(), self.v_threshold.detach(), self.levels)
        steps = torch.arange(self.levels, dtype=mean.dtype, device=mean.device).view(-1, *[1] * mean.ndim)
        return self.levels * mean + threshold / 2 - torch.minimum(steps, count) * threshold

    def fire(self, mem: Tensor, *_: Any) -> NoReturn:
        """Not possible, nor ``mem_reset`` and ``fire_inhibition``, which snnTorch's neurons do at every step.

        Raises:
            InvalidArgumentError: always; it says what to do instead.
        """
        raise InvalidArgumentError(
            "a PASC-IF layer answers when its window is complete, so it neither fires nor resets step by step: call it "
            "with all steps at once, [T, B, features, ...]; with output=True it returns the membrane, too"
        )

    mem_reset = fire_inhibition = fire

    def reset_mem(self) -> Tensor:
        """Forget the membrane that ``init_hidden`` kept. Nothing depends on it."""
        self.mem = torch.zeros_like(self.mem)
        return self.mem

    def _check_use(self, input_: Tensor, mem: Tensor | None) -> None:
        if is_exporting_nir():
            raise UnsupportedOperationError(
                "NIR has no node for a PASC-IF layer: its integrate-and-fire neurons (IF, LIF, CubaLIF) fire while "
                "their input arrives, and this one when its window is complete, so that none of them would import "
                "back to the same function. To store the network, use pascal_ext.save"
            )
        if mem is not None or (input_.ndim < 3 and not self.whole_windows):
            found = "a membrane was handed in" if mem is not None else f"got currents {list(input_.shape)}"
            raise InvalidArgumentError(
                "a PASC-IF layer answers when its window is complete, so it cannot be called step by step: hand it "
                f"all steps at once, [T, B, features, ...] (torch.stack(currents)); {found}"
            )

    def _mean_and_threshold(self, input_: Tensor) -> tuple[Tensor, Tensor]:
        """The mean current [B, ...] in the accumulation dtype, and a threshold that broadcasts with it."""
        mean = window_mean(input_)
        return mean.to(accumulation_dtype(mean.dtype)), broadcastable(self.v_threshold, mean, 1)

    def _with_gradient(self, out: Tensor, input_: Tensor) -> Tensor:
        """``out`` with the gradient that the class describes; its values stay as they are."""
        if self.spike_grad is not None and self.execution == "spikes":
            potential = self.membrane(input_)
            threshold = broadcastable(self.v_threshold, potential, 2)
            smooth = self.spike_grad((potential - threshold) * threshold.detach().sign()).to(out.dtype)
            return out + (smooth - smooth.detach())
        mean, threshold = self._mean_and_threshold(input_)
        decoded = qcfs_activation(mean, self.v_threshold, self.levels)
        if self.execution == "counts":
            return decoded.to(out.dtype).unsqueeze(0)
        share = decoded / threshold
        return out + (share - share.detach()).to(out.dtype)

    def extra_repr(self) -> str:
        learnt = ", learn_threshold=True" if isinstance(self.v_threshold, nn.Parameter) else ""
        return PascIF.extra_repr(self) + learnt
