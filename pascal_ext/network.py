"""The converted network: one module, two executions, two step modes."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph_format import graph_from_dict, graph_to_dict
from pascal_ext.neuron import PascIF, check_execution
from pascal_ext.ops import timefold
from pascal_ext.plan import LevelPlan

STEP_MODES = ("s", "m")
_serial = itertools.count()


class SpikingNetwork(nn.Module):
    """A PASCAL spiking network; :func:`pascal_ext.convert` makes them.

    The temporal mean of every tensor in it is the tensor of the QCFS network it was made from (the ANN). It holds the
    ANN's layers under the ANN's names, with :class:`PascIF` neurons where the activations were.

    Shapes:
        step mode ``"s"``: inputs [N, ...] -> the temporal mean of the outputs, [N, ...]. One call is one complete
        presentation, so any evaluation loop of the ANN works, and so does one that sums T calls.

        step mode ``"m"``: inputs [T, N, ...] (T = 1 is enough for a static image) -> outputs [T_out, N, ...]. The
        input is the temporal mean over T, and ``.mean(0)`` of the output is the answer.

    Args:
        root: holds the modules, parameters and buffers that ``graph`` calls.
        graph: a time-folded graph made by :class:`pascal_ext.lowering.Lowering`.
        latency: see :attr:`latency`.
        analog_nodes: see :attr:`analog_nodes`.

    Raises:
        InvalidArgumentError: a layer of the ANN has a name that this class needs itself.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, latency: int, analog_nodes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._graph = graph
        self._latency = latency
        self._analog_nodes = tuple(analog_nodes)
        self._step_mode = "s"
        self._execution = "spikes"
        for kind, items, register in (
            ("layer", root.named_children(), self.add_module),
            ("parameter", root.named_parameters(recurse=False), self.register_parameter),
            ("buffer", root.named_buffers(recurse=False), self.register_buffer),
        ):
            for name, item in items:
                if hasattr(self, name):
                    raise InvalidArgumentError(
                        f"the model has a {kind} named {name!r}, which a {type(self).__name__} needs itself; rename it"
                    )
                register(name, item)  # type: ignore[operator]
        self._program = _compile(graph)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Present inputs; takes what the ANN's ``forward`` took. See the class for shapes.

        Raises:
            InvalidArgumentError: no tensor among the inputs, different batch sizes, or too few dimensions.
        """
        batch, (args, kwargs) = self._fold((args, kwargs))
        outputs = self._program(self, batch, *args, **kwargs)
        finish: Callable[[Tensor, int], Tensor] = timefold.decode if self._step_mode == "s" else timefold.unfold
        return pytree.tree_map_only(Tensor, lambda tensor: finish(tensor, batch), outputs)

    def _fold(self, inputs: Any) -> tuple[int, Any]:
        """The batch size, and the inputs as [T·N, ...]."""
        multi_step = self._step_mode == "m"
        sizes: set[int] = set()

        def fold(x: Tensor) -> Tensor:
            if x.ndim < 1 + multi_step:
                raise InvalidArgumentError(
                    f"step mode {self._step_mode!r} takes inputs [{'T, ' * multi_step}N, ...], got {tuple(x.shape)}"
                )
            sizes.add(x.shape[int(multi_step)])
            return timefold.fold(x) if multi_step else x

        folded = pytree.tree_map_only(Tensor, fold, inputs)
        if len(sizes) != 1:
            raise InvalidArgumentError(
                f"all inputs must have the same batch size; got {sorted(sizes) or 'no tensor'} in step mode "
                f"{self._step_mode!r}"
            )
        return sizes.pop(), folded

    @property
    def execution(self) -> str:
        """``"spikes"`` simulates every spike; ``"counts"`` propagates spike counts at the ANN's cost. Same answers."""
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        self._execution = check_execution(value)
        for neuron in self.neurons.values():
            neuron.execution = value

    @property
    def step_mode(self) -> str:
        """``"s"``: one call is one presentation; ``"m"``: sequences in, sequences out (SpikingJelly's convention)."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value not in STEP_MODES:
            raise InvalidArgumentError(f"step_mode={value!r} is unknown; choose one of {list(STEP_MODES)}")
        self._step_mode = value

    @property
    def graph(self) -> fx.Graph:
        """The time-folded graph that runs; for reading."""
        return self._graph

    @property
    def neurons(self) -> dict[str, PascIF]:
        """Layer name -> neurons, in order of execution."""
        calls = (str(node.target) for node in self._graph.nodes if node.op == "call_module")
        modules = ((name, self.get_submodule(name)) for name in calls)
        return {name: module for name, module in modules if isinstance(module, PascIF)}

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

    def reset(self) -> None:
        """Reset the neurons. They keep no state between calls, so that nothing depends on it."""
        for neuron in self.neurons.values():
            neuron.reset()

    def extra_repr(self) -> str:
        plan = self.plan
        levels = f"{min(plan.values())}..{max(plan.values())}" if plan else "none"
        analog = f", {len(self._analog_nodes)} analog nodes" if self._analog_nodes else ""
        return f"execution={self.execution}, step_mode={self.step_mode}, levels={levels}, latency={self.latency}{analog}"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_program"]
        state["_graph"] = graph_to_dict(self._graph)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_graph": graph_from_dict(state["_graph"])})
        self._program = _compile(self._graph)


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a plain function of (network, batch size, inputs), whose source shows in tracebacks."""
    code = graph.python_code(root_module="self")
    filename = f"<pascal_ext network {next(_serial)}>"
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, filename, "exec"), namespace)
    program: Callable[..., Any] = namespace["forward"]
    return program

