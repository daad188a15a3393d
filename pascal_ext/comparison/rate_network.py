"""A QCFS network with rate-coding neurons where its activations were, all timesteps of a layer at once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

from torch import Tensor, fx, nn

from pascal_ext.activations import qcfs_layers
from pascal_ext.comparison import neurons
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops.thresholds import broadcastable
from pascal_ext.qcfs import QCFS

KINDS = ("if", "srp", "cos")


class RateNeuron(nn.Module):
    """Neurons in the place of a QCFS: currents [steps·N, ...] -> λ times spikes, [steps·N, ...].

    Args:
        threshold: λ, scalar or one per channel; a negative one turns the signs of currents and spikes around.
        steps: that the window has.
        dynamics: currents in thresholds, [steps, N, ...], to spikes [steps, N, ...].
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor, steps: int, dynamics: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold.detach().clone())
        self.steps = steps
        self.dynamics = dynamics

    def forward(self, x: Tensor) -> Tensor:
        threshold = broadcastable(self.threshold, x, 1)
        spikes = self.dynamics((x / threshold).unflatten(0, (self.steps, -1)))
        return spikes.flatten(0, 1).mul_(threshold)


class RateNetwork(nn.Module):
    """A rate-coded network made from a QCFS network: images [N, ...] -> logits of the T answering steps, [T, N, C].

    Layers without state see time as part of the batch, so that a layer finishes its window before the next one starts.
    As nothing flows back, the spikes are those of a simulation that goes step by step.

    Args:
        qcfs: a QCFS network that :func:`pascal_ext.replace_activations` made; it is copied.
        kind: ``"if"``, ``"srp"`` or ``"cos"``.
        timesteps: T.
        extra: τ of SRP, ρ of COS; 0 for ``"if"``.

    Attributes:
        per_layer: steps that every layer is simulated for, for an answer of T steps.
        latency: steps until that answer. Rate-coded layers run together, so it is T, and τ + T in SRP. In COS a layer
            can find out its offset only when those before it have moved theirs: ρ steps for each layer of the longest
            path, then T.

    Raises:
        InvalidArgumentError: the kind is unknown, or T and ``extra`` do not fit it.
    """

    def __init__(self, qcfs: fx.GraphModule, kind: str, timesteps: int, extra: int = 0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InvalidArgumentError(f"kind={kind!r} is unknown; choose one of {list(KINDS)}")
        if (extra > 0) != (kind != "if") or timesteps < 1 or (kind == "cos" and timesteps < extra):
            raise InvalidArgumentError(f"{kind}: {timesteps} timesteps with {extra} extra ones are not possible")
        self.timesteps, self.extra = timesteps, extra
        self.skipped = extra if kind == "srp" else 0  # steps whose output is no part of the answer
        self.steps = timesteps + self.skipped
        dynamics: dict[str, Callable[[Tensor], Tensor]] = {
            "if": neurons.plain,
            "srp": functools.partial(neurons.silence, steps=extra),
            "cos": functools.partial(neurons.shift, steps=extra),
        }
        self.network = copy.deepcopy(qcfs).eval()
        for name, layer in qcfs_layers(self.network).items():
            self.network.set_submodule(name, RateNeuron(layer.threshold, self.steps, dynamics[kind]))
        waits = depth(qcfs) if kind == "cos" else 1
        self.per_layer = [extra + step for step in range(1, timesteps + 1)]
        self.latency = [waits * extra + step for step in range(1, timesteps + 1)]

    def forward(self, images: Tensor) -> Tensor:
        repeated = images.expand(self.steps, *images.shape).flatten(0, 1)
        logits: Tensor = self.network(repeated)
        return logits.unflatten(0, (self.steps, -1))[self.skipped :]


def depth(qcfs: fx.GraphModule) -> int:
    """How many activations lie on the longest path through a QCFS network."""
    longest: dict[fx.Node, int] = {}
    for node in qcfs.graph.nodes:
        own = node.op == "call_module" and isinstance(qcfs.get_submodule(str(node.target)), QCFS)
        longest[node] = own + max((longest[source] for source in node.all_input_nodes), default=0)
    return max(longest.values(), default=0)
