"""The converted network: one module, two executions, two step modes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.pooling import pooling_graph
from pascal_ext.network import chunking
from pascal_ext.network.counting import reference_graph
from pascal_ext.network.firing import answering_graph
from pascal_ext.network.folding import normed_graph
from pascal_ext.network.graph_format import graph_from_dict, graph_to_dict
from pascal_ext.network.graph_function import function_of
from pascal_ext.network.overwriting import overwriting_graph
from pascal_ext.network.presentation import batch_ndim, presented
from pascal_ext.network.settings import NetworkSettings
from pascal_ext.network.shared_layers import continuing_graph, fires_as_counted, first_neurons
from pascal_ext.observers import is_symbolic, is_watched, unobserved
from pascal_ext.ops import timefold
from pascal_ext.ops.pasc_if import Reference
from pascal_ext.plan import LevelPlan

_GRAPHS = ("_counts_graph", "_spikes_graph")


class SpikingNetwork(NetworkSettings):
    """A PASCAL spiking network; :func:`pascal_ext.convert` makes them.

    The temporal mean of every tensor in it is the tensor of the QCFS network it was made from (the ANN). It holds the
    ANN's layers under the ANN's names, with :class:`PascIF` neurons where the activations were.

    Shapes:
        step mode ``"s"``: inputs [N, ...] -> the temporal mean of the outputs, [N, ...]. One call is one complete
        presentation, so any evaluation loop of the ANN works, and so does one that sums T calls.

        step mode ``"m"``: inputs [T, N, ...] (T = 1 is enough for a static image) -> outputs [T_out, N, ...]. The
        input is the temporal mean over T, and ``.mean(0)`` of the output is the answer.

    Args:
        root: holds the modules, parameters and buffers that the graphs call.
        counts: the ANN's graph with neurons, see :func:`pascal_ext.network.counting.counts_graph`.
        spikes: the time-folded graph, see :class:`pascal_ext.conversion.lowering.Lowering`.
        latency: see :attr:`latency`.
        analog_nodes: see :attr:`analog_nodes`.

    Attributes:
        settle_ties: whether the spikes execution, in evaluation mode, lets the counts settle rounding ties, see
            :mod:`pascal_ext.ops.pasc_if.ties`. It costs one more pass of the ANN, and makes the spikes exactly
            those of the ANN; without it a neuron in a million differs, and deep networks spread that.
        chunk: see the property.

    Raises:
        InvalidArgumentError: a layer of the ANN has a name that this class needs itself.
    """

    def __init__(
        self, root: nn.Module, counts: fx.Graph, spikes: fx.Graph, latency: int, analog_nodes: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self._counts_graph = counts
        self._spikes_graph = spikes
        self._latency = latency
        self._analog_nodes = tuple(analog_nodes)
        self._sizes: dict[Any, int] = {}
        self.settle_ties = True
        registrations: tuple[tuple[str, Iterator[tuple[str, Any]], Callable[[str, Any], None]], ...] = (
            ("layer", root.named_children(), self.add_module),
            ("parameter", root.named_parameters(recurse=False), self.register_parameter),
            ("buffer", root.named_buffers(recurse=False), self.register_buffer),
        )
        for kind, items, register in registrations:
            for name, item in items:
                if hasattr(type(self), name) or name in self.__dict__:
                    raise InvalidArgumentError(
                        f"the model has a {kind} named {name!r}, which a {type(self).__name__} needs itself; rename it"
                    )
                register(name, item)
        self._compile()
        for neuron in self.neurons.values():
            neuron.whole_windows = True
        self.eval()

    def _compile(self) -> None:
        counts = overwriting_graph(pooling_graph(self._counts_graph, self), self)
        self._run_counts = function_of(answering_graph(counts, self))
        spikes, continuing = self._spikes_graph, normed_graph(continuing_graph(self._spikes_graph, self), self)
        self._first_neurons = first_neurons(continuing)
        self._run_references = function_of(reference_graph(counts, self, self._first_neurons))
        self._run_spikes, self._run_continuing = (
            function_of(overwriting_graph(pooling_graph(graph, self), self)) for graph in (spikes, continuing)
        )
        self._mixing = chunking.mixing(self._spikes_graph, self)
        self._holds_samples = chunking.holds_samples(self._spikes_graph)
        self._batch_ndim = batch_ndim(self._counts_graph, self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Present inputs; takes what the ANN's ``forward`` took. See the class for shapes.

        Raises:
            InvalidArgumentError: no tensor among the inputs, different batch sizes, or another number of dimensions.
        """
        chunk = self._chunk if self._mixing is None else None
        if isinstance(chunk, int) and presented((args, kwargs), self._step_mode, self._batch_ndim)[0] > chunk:
            outputs = [self._present(*inputs) for inputs in chunking.split((args, kwargs), chunk, self._sample_dim)]
            return chunking.join(outputs, self._sample_dim, chunk, constants=not self._holds_samples)
        return self._present(args, kwargs)

    def _present(self, args: Any, kwargs: Any) -> Any:
        batch, means = presented((args, kwargs), self._step_mode, self._batch_ndim)
        if self._execution == "counts" or not batch:  # into an empty batch no timesteps can be folded
            outputs = self._run_counts(self, *means[0], **means[1])
            finish: Callable[[Tensor], Tensor] = timefold.as_sequence if self._step_mode == "m" else _same
            return pytree.tree_map_only(Tensor, finish, outputs)
        references = self._references(means) if self._settles else None
        noticed = self._is_noticed()
        continues = references is not None and not noticed and self._continues((args, kwargs), references)
        size = batch if noticed else self._piece(batch, means, references, continues)
        if size == batch:
            return self._simulate((args, kwargs), batch, references, continues)
        counts = itertools.repeat(None) if references is None else chunking.split(references, size, 0)
        sizes = [size] * (batch // size) + [batch % size] * (batch % size > 0)
        pieces = zip(chunking.split((args, kwargs), size, self._sample_dim), sizes, counts, strict=False)
        outputs = [self._simulate(*piece, continues) for piece in pieces]
        return chunking.join(outputs, self._sample_dim, size)

    def _simulate(self, inputs: Any, batch: int, references: tuple[Reference, ...] | None, continues: bool) -> Any:
        """Simulate the spikes of ``batch`` samples; where ``continues``, from what the references say of the input."""
        finish: Callable[[Tensor], Tensor] = timefold.mean
        if self._step_mode == "m":
            inputs, finish = pytree.tree_map_only(Tensor, timefold.fold, inputs), _same
        run = self._run_continuing if continues else self._run_spikes
        outputs = run(self, batch, references, *inputs[0], **inputs[1])
        return pytree.tree_map_only(Tensor, finish, outputs)

    def _continues(self, inputs: Any, references: tuple[Reference, ...]) -> bool:
        """Whether the spikes can go on behind the first neurons, see :mod:`pascal_ext.network.shared_layers`.

        Not in autocast, where the dtype of a layer's spikes says nothing of what a max pool makes of them; and not of
        NaN, which counts cannot hold.
        """
        if torch._C._is_any_autocast_enabled() or any(reference.has_nan for reference in references):
            return False
        if self._step_mode == "m" and any(len(x) != 1 for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)):
            return False
        return all(fires_as_counted(self.get_submodule(name)) for name in self._first_neurons)

    def _piece(self, batch: int, means: Any, references: tuple[Reference, ...] | None, continues: bool) -> int:
        """How many samples are simulated at a time, where no one notices."""
        chunking.keep_freed_memory()
        divisible = self._mixing is None and not self._analog_nodes and self._holds_samples
        if self._chunk != chunking.AUTO or batch == 1 or not divisible:
            return batch
        leaves = [x for x in pytree.tree_leaves(means) if isinstance(x, Tensor)]
        if any(x.device.type != "cpu" for x in leaves):
            return batch
        key = tuple((x.shape[1:], x.dtype) for x in leaves), batch, continues
        if key not in self._sizes:
            known = references or self._references(pytree.tree_map_only(Tensor, lambda x: x[:1], means))
            trains = [
                layer.counts[0].numel() * neuron.levels * layer.dtype.itemsize
                for layer, (name, neuron) in zip(known, self._neuron_calls(), strict=True)
                if not (continues and name in self._first_neurons)  # their largest tensors are not made
            ]
            convolutions = [module for module in self.modules() if isinstance(module, _ConvNd)]
            pixels = min((layer.counts[0, 0].numel() for layer in known if layer.counts.ndim > 2), default=0)
            levels = self.plan.mean_levels
            self._sizes[key] = chunking.samples_at_a_time(trains, pixels, convolutions, levels, batch)
        return self._sizes[key]

    def _is_noticed(self) -> bool:
        """Whether anyone could notice that layers are called more or less than once for a batch, or ask for values."""
        if is_symbolic() or self.training or is_watched():
            return True
        return not unobserved(*self.modules())

    @property
    def _sample_dim(self) -> int:
        return int(self._step_mode == "m")

    @torch.no_grad()
    def _references(self, inputs: Any) -> tuple[Reference, ...]:
        """What a pass in the ANN's own arithmetic says of every layer."""
        references: tuple[Reference, ...] = self._run_references(self, *inputs[0], **inputs[1])
        return references

    @property
    def _settles(self) -> bool:
        """Whether this call lets the counts settle ties: not in training, where a second pass would update batch norms
        twice, and not while a dispatch mode watches (an operation counter, say), since that pass is none of the spiking
        network's.
        """
        return self.settle_ties and not self.training and not is_watched()

    @property
    def graph(self) -> fx.Graph:
        """The time-folded graph that simulates spikes; for reading."""
        return self._spikes_graph

    @property
    def counts_graph(self) -> fx.Graph:
        """The ANN's graph, which propagates counts; for reading."""
        return self._counts_graph

    @property
    def plan(self) -> LevelPlan:
        """The number of levels of each layer."""
        return LevelPlan({name: neuron.levels for name, neuron in self.neurons.items()})

    @property
    def timesteps(self) -> dict[str, int]:
        """Layer name -> timesteps over which the layer emits its spikes (its levels)."""
        return dict(self.plan)

    @property
    def latency(self) -> int:
        """Timesteps from a one-step input to the complete answer, along the longest path.

        Each neuron is a barrier: it integrates T1 steps, settles for max(T1, L) − 1, and emits for L; a path of n
        layers at uniform L takes about n·(3L − 1) steps. That is not the mean T that papers report.
        """
        return self._latency

    @property
    def analog_nodes(self) -> tuple[str, ...]:
        """Operations without a spiking counterpart, which run once on decoded values (``on_unsupported="analog"``)."""
        return self._analog_nodes

    @property
    def ties(self) -> int:
        """Spike counts that were settled by the ANN's rounding, since the last :meth:`reset`; see ``settle_ties``."""
        return sum(int(neuron.ties) for neuron in self.neurons.values())

    def reset(self) -> None:
        """Set the counters of settled ties to zero. Neurons keep nothing else between calls."""
        for neuron in self.neurons.values():
            neuron.reset()

    def extra_repr(self) -> str:
        plan = self.plan
        levels = "..".join(str(n) for n in sorted({min(plan.values()), max(plan.values())})) if plan else "none"
        analog = f", {len(self._analog_nodes)} analog nodes" if self._analog_nodes else ""
        return (
            f"execution={self.execution}, step_mode={self.step_mode}, levels={levels}, latency={self.latency}{analog}"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *found: list[str]
    ) -> None:
        errors = found[-1]
        for name, neuron in self.neurons.items():
            key, threshold = f"{prefix}{name}.v_threshold", neuron.v_threshold
            saved = state_dict.get(key)
            if isinstance(saved, Tensor) and saved.shape == threshold.shape and not _has_signs_of(saved, threshold):
                errors.append(
                    f"{key!r} is zero, not finite or of another sign than that of the network, which is converted for "
                    "thresholds of that sign; convert the model again with these thresholds"
                )
                state_dict[key] = threshold
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *found)

    def __getstate__(self) -> dict[str, Any]:
        return {**self._plain_state(), **{key: graph_to_dict(vars(self)[key]) for key in _GRAPHS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, **{key: graph_from_dict(state[key]) for key in _GRAPHS}})
        self._compile()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Also of networks that call functions which no file could hold."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        nn.Module.__setstate__(twin, copy.deepcopy(self._plain_state(), memo))
        twin._compile()
        return twin

    def _plain_state(self) -> dict[str, Any]:
        """What a copy starts from: not the code that is made of it, nor that of ``compile()``, which calls ``self``."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_run_") and k != "_compiled_call_impl"}


def _has_signs_of(saved: Tensor, threshold: Tensor) -> bool:
    if saved.is_meta or threshold.is_meta:
        return True  # for all that is known
    return bool((saved.isfinite() & (saved.sign() == threshold.sign().to(saved))).all())


def _same(tensor: Tensor) -> Tensor:
    return tensor
