"""What neurons and networks have in common for SpikingJelly."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pascal_ext.adapters.spikingjelly.compat import base
from pascal_ext.ops.pasc_if import backend_names


class HostModule(base.MemoryModule):
    """A module of SpikingJelly's that keeps no state from one call to the next."""

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What ``backend`` can be set to."""
        return backend_names()

    def functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """A call with explicit states, of which there are none (SpikingJelly 2.x)."""
        return (self(*inputs, **kwargs),), states
