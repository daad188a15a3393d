"""Calibration beyond thresholds and means: the weights, too, on some hundred samples without labels.

Rounding noise cannot be corrected, but weights can be made less sensitive to it. So the quantised network is trained to
compute, in every layer, what the un-quantised one does. Li et al. (*BRECQ*, ICLR 2021) reconstruct block after block;
here all layers are reconstructed at once, through the straight-through gradients of QCFS, so that what one layer loses
the next ones can make good.
"""

from __future__ import annotations

import copy
import math
import operator
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from pascal_ext import distributed
from pascal_ext.activations import qcfs_layers, relu_layers, replace_activations
from pascal_ext.calibration.correction import SUFFIX
from pascal_ext.calibration.thresholds import calibrate
from pascal_ext.data import Batch, batches, device_of
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.tracing import trace
from pascal_ext.plan import DEFAULT_LEVELS, Levels

WARM_UP = 0.1  # of the steps, in which the rate rises; then it falls to zero along a cosine
CLIP = 1.0  # largest norm of the gradient
EVALUATED = 250  # samples at a time, where all of them are evaluated
_HALF = (torch.float16, torch.bfloat16)


@torch.inference_mode(False)
def reconstruct(
    model: nn.Module,
    dataloader: Iterable[Any],
    levels: Levels = DEFAULT_LEVELS,
    *,
    steps: int = 320,
    batch_size: int = 64,
    rate: float = 0.01,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> fx.GraphModule:
    r"""A QCFS network that computes in each layer what ``model`` does, from some hundred samples without labels.

    It starts with the thresholds and bias currents of ``calibrate(correct="bias", per_channel="auto")``. Then all its
    parameters are adjusted, by Adam, to the least

    .. math::
        \frac1n \sum_{l=1}^n \frac{\|\mathrm{ReLU}(z_l) - \mathrm{ReLU}(z^*_l)\|^2}{\mathrm{var}(\mathrm{ReLU}(z^*_l))}
        + \frac{\|y - y^*\|^2}{\mathrm{var}(y^*)}

    over the pre-activations z of the n layers and the outputs y; z* and y* are those of ``model``. Pre-activations are
    compared, and not activations, whose own rounding no weight can take away. Batch norms keep their statistics.

    Args:
        model: a network with ReLU-like activations, see :func:`pascal_ext.replace_activations`; never changed.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them, of samples of one shape; labels are
            not used. All are held in memory.
        levels: see :func:`pascal_ext.replace_activations`.
        steps: of the optimiser.
        batch_size: samples drawn for a step.
        rate: the highest learning rate, relative to the root mean square of each parameter.
        augment: changes the floating-point inputs of each step, [N, ...]. Whatever gives inputs as they might be is
            right, since ``model`` itself says what the answer is.
        seed: of the draws and of ``augment``; torch's own generators stay as they are.
        progress: show progress bars.

    Returns:
        The QCFS network, in the train/eval mode of ``model``: what :func:`pascal_ext.convert` takes and
        :func:`pascal_ext.verify` compares with.

    Raises:
        InvalidArgumentError: the model has no ReLU-like activation, or parameters of 16 bits; an argument is out of
            range; or there are several processes, which would each get a network of their own.
        CalibrationError: see :func:`pascal_ext.calibrate`; or the samples are not of one shape.

    Warns:
        UserWarning: nothing became better; the network then has the calibration that it started with.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not _is_positive(value, Integral):
            raise InvalidArgumentError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not _is_positive(rate, Real):
        raise InvalidArgumentError(f"rate must be positive, got {rate!r}")
    if distributed.is_distributed():
        raise InvalidArgumentError("reconstruct() works on one process; hand its network to the others")
    if any(parameter.dtype in _HALF for parameter in model.parameters()):
        raise InvalidArgumentError("the model has parameters of 16 bits, too coarse for small steps; use model.float()")
    data = list(batches(dataloader, model))
    samples = _joined(data)
    teacher = trace(model, [_raw(data[0])])
    plain = relu_layers(teacher)
    if not plain:
        raise InvalidArgumentError("the model has no ReLU-like activation; a QCFS network is fine-tuned like any other")
    student = replace_activations(teacher, levels)
    calibrate(student, map(_raw, data), correct="bias", per_channel="auto", only=plain, progress=progress)
    objective = _Objective(teacher.eval(), student.eval(), samples)
    before = objective.of_all()
    state = copy.deepcopy(student.state_dict())
    device = device_of(model)
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        _minimise(objective, student, steps, batch_size, rate, augment, "reconstruct" if progress else None)
    after = objective.of_all()
    if not after < before:
        warnings.warn(
            f"reconstruct() made nothing better ({before:.3g} -> {after:.3g}); try a lower rate", stacklevel=3
        )
        student.load_state_dict(state)
    return student.train(model.training)


def _is_positive(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _minimise(
    objective: _Objective,
    student: nn.Module,
    steps: int,
    batch_size: int,
    rate: float,
    augment: Callable[[Tensor], Tensor] | None,
    desc: str | None,
) -> None:
    """Adjust all floating-point parameters of ``student``; which of them take gradients stays as it is."""
    flags = {p: p.requires_grad for p in student.parameters() if p.is_floating_point()}
    optimiser = torch.optim.Adam(_groups(student, rate))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, steps))
    try:
        for parameter in flags:
            parameter.requires_grad_()
        for _ in tqdm(range(steps), desc=desc, disable=desc is None, leave=False):
            inputs = objective.draw(batch_size)
            if augment is not None:
                inputs = pytree.tree_map(lambda x: augment(x) if _is_floating(x) else x, inputs)
            optimiser.zero_grad()
            objective(inputs).backward()
            torch.nn.utils.clip_grad_norm_(list(flags), CLIP)
            optimiser.step()
            schedule.step()
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


def _share(step: int, steps: int) -> float:
    """The learning rate at ``step`` of ``steps``, as a share of the highest."""
    rising = WARM_UP * steps
    return min(1.0, (step + 1) / (rising + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _groups(student: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Each parameter with its own learning rate; a bias current, which may be zero, goes by its layer's threshold."""
    thresholds = {f"{name}{SUFFIX}": layer.threshold for name, layer in qcfs_layers(student).items()}
    return [
        {"params": [parameter], "lr": rate * thresholds.get(name, parameter).detach().square().mean().sqrt().item()}
        for name, parameter in student.named_parameters()
        if parameter.is_floating_point()
    ]


class _Objective:
    """How far ``student`` is from ``teacher``, in units of the teacher's variances.

    Args:
        teacher: a traced network in evaluation mode.
        student: its QCFS network.
        samples: the arguments of both for all samples.
    """

    def __init__(self, teacher: fx.GraphModule, student: fx.GraphModule, samples: Any) -> None:
        self.ceilings = {name: layer.ceiling for name, layer in qcfs_layers(student).items()}
        self.teacher, self.student = (_observed(network, self.ceilings) for network in (teacher, student))
        self.samples = samples
        self.count = next(leaf.shape[0] for leaf in pytree.tree_leaves(samples) if isinstance(leaf, Tensor))
        with torch.no_grad():
            wanted = self._values(self.teacher, self.take(torch.arange(min(self.count, EVALUATED))))
        self.variances = [value.var(correction=0).item() for value in wanted]

    def __call__(self, inputs: Any) -> Tensor:
        """The objective on some samples."""
        with torch.no_grad():
            wanted = self._values(self.teacher, inputs)
        found = self._values(self.student, inputs)
        terms = [
            F.mse_loss(ours, theirs) / variance if variance > 0 else ours.sum() * 0  # a dead layer
            for ours, theirs, variance in zip(found, wanted, self.variances, strict=True)
        ]
        layers = len(self.ceilings)
        return torch.stack(terms[:layers]).mean() + torch.stack(terms[layers:]).sum()

    @torch.no_grad()
    def of_all(self) -> float:
        """The objective on all samples."""
        pieces = torch.arange(self.count).split(EVALUATED)
        return sum(self(self.take(piece)).item() * len(piece) for piece in pieces) / self.count

    def draw(self, size: int) -> Any:
        """The arguments for ``size`` samples at random."""
        return self.take(torch.randint(self.count, (size,)))

    def take(self, index: Tensor) -> Any:
        return pytree.tree_map(lambda x: x[index.to(x.device)] if isinstance(x, Tensor) else x, self.samples)

    def _values(self, network: nn.Module, inputs: Any) -> list[Tensor]:
        """ReLU(z) of each layer, then the outputs."""
        outputs, currents = network(*inputs[0], **inputs[1])
        activations = [  # not clamp alone, whose gradient passes over memory several times
            z.relu() if math.isinf(ceiling) else z.clamp(0, ceiling)
            for z, ceiling in zip(currents, self.ceilings.values(), strict=True)
        ]
        return [*activations, *(y for y in pytree.tree_leaves(outputs) if _is_floating(y))]


def _observed(network: fx.GraphModule, layers: Iterable[str]) -> fx.GraphModule:
    """The same modules in a graph that also returns what ``layers`` read, without their bias currents."""
    graph = copy.deepcopy(network.graph)
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((output.args[0], [_read_by(calls[name]) for name in layers]),)
    return fx.GraphModule(network, graph)


def _read_by(layer: fx.Node) -> fx.Node:
    source = layer.all_input_nodes[0]
    others = source.all_input_nodes[1:] if source.target is operator.add else []
    return source.all_input_nodes[0] if any(str(n.target) == f"{layer.target}{SUFFIX}" for n in others) else source


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _raw(batch: Batch) -> Any:
    """As a loader yields it."""
    return batch.kwargs or (batch.args, batch.target)


def _joined(data: list[Batch]) -> Any:
    """The arguments for all samples of ``data``.

    Raises:
        CalibrationError: the batches differ in more than their size.
    """
    inputs = [(batch.args, batch.kwargs) for batch in data]
    try:
        return pytree.tree_map(lambda *xs: torch.cat(xs) if isinstance(xs[0], Tensor) else xs[0], *inputs)
    except (ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"samples of one shape are needed, since steps draw from all of them: {error}"
        ) from error
