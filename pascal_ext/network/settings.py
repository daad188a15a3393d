"""The settings of a converted network: how it computes, on how many samples at a time, and what shapes it takes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from torch import fx, nn

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.network import chunking
from pascal_ext.neuron import PascIF, check_execution
from pascal_ext.ops.pasc_if import check_backend

STEP_MODES = ("s", "m")


class NetworkSettings(nn.Module):
    """The neurons of a :class:`~pascal_ext.network.spiking_network.SpikingNetwork`, and what is set for all of them."""

    _counts_graph: fx.Graph
    _step_mode = "s"
    _execution = "spikes"
    _chunk: int | str | None = chunking.AUTO
    _mixing: str | None = None  # an operation that works across the samples

    @property
    def neurons(self) -> dict[str, PascIF]:
        """Layer name -> neurons, in order of execution."""
        return dict(self._neuron_calls())

    def _neuron_calls(self) -> list[tuple[str, PascIF]]:
        calls = (str(node.target) for node in self._counts_graph.nodes if node.op == "call_module")
        modules = ((name, self.get_submodule(name)) for name in calls)
        return [(name, module) for name, module in modules if isinstance(module, PascIF)]

    @property
    def execution(self) -> str:
        """``"spikes"`` simulates every spike; ``"counts"`` propagates spike counts at the ANN's cost. Same answers.

        A neuron whose current is NaN is NaN in both. Only on accelerators, and with ``settle_ties`` off, may the spikes
        fall silent there.
        """
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        self._execution = check_execution(value)
        for neuron in self.neurons.values():
            neuron.execution = value

    @property
    def backend(self) -> str:
        """How the neurons are computed, see :func:`pascal_ext.functional.pasc_if`; setting it sets it for all of them.

        Raises:
            InvalidArgumentError: on reading, where neurons differ; on setting, where there is no backend of that name.
            BackendError: on setting, where it cannot run here.
        """
        found = sorted({neuron.backend for neuron in self.neurons.values()})
        if len(found) > 1:
            raise InvalidArgumentError(f"the neurons have different backends, {found}; read .neurons[name].backend")
        return found[0] if found else "auto"

    @backend.setter
    def backend(self, value: str) -> None:
        check_backend(value)
        for neuron in self.neurons.values():
            neuron.backend = value

    @property
    def chunk(self) -> int | str | None:
        """At most how many samples are simulated at a time.

        Spikes need L times the memory that the ANN needs, and samples do not depend on each other, so a number bounds
        the memory; the results are joined. ``"auto"`` (the default): as few as are fastest on a CPU, see
        :mod:`pascal_ext.network.chunking`, where no one could notice: in evaluation, without gradients and hooks. None:
        all of them at once.

        Raises:
            InvalidArgumentError: on setting, where it is none of these.

        Warns:
            UserWarning: on setting a number, where an operation (on decoded values, see :attr:`analog_nodes`) works
                across the samples: these are then simulated at once.
        """
        return self._chunk

    @chunk.setter
    def chunk(self, value: int | str | None) -> None:
        self._chunk = chunking.check_chunk(value)
        if isinstance(value, int) and self._mixing is not None:
            warnings.warn(
                f"chunk={value} has no effect: {self._mixing} works across the samples of a batch", stacklevel=2
            )

    @property
    def step_mode(self) -> str:
        """``"s"``: one call is one presentation; ``"m"``: sequences in, sequences out (SpikingJelly's convention)."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value not in STEP_MODES:
            raise InvalidArgumentError(f"step_mode={value!r} is unknown; choose one of {list(STEP_MODES)}")
        self._step_mode = value

    @contextlib.contextmanager
    def configured(self, *, execution: str | None = None, step_mode: str | None = None) -> Iterator[None]:
        """Within the context the network has these settings; afterwards those that it had."""
        before = self.execution, self.step_mode
        try:
            self.execution, self.step_mode = execution or before[0], step_mode or before[1]
            yield
        finally:
            self.execution, self.step_mode = before
