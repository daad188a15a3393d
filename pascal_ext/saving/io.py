"""Saving and loading converted networks: one safetensors file, with the structure as JSON in its header; no pickle."""

from __future__ import annotations

import inspect
import json
import logging
import numbers
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pascal_ext.errors import BackendError, InvalidArgumentError, SerializationError
from pascal_ext.graph.traceable import unwrapped
from pascal_ext.network.graph_format import graph_from_dict, graph_to_dict
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.observers import hooks_of
from pascal_ext.ops.pasc_if import check_backend

_logger = logging.getLogger("pascal_ext")
FORMAT_VERSION = 1
_HEADER = "pascal_ext"
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # dimensions -> the memory format
_ATTENTION_BIASES = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}  # option -> the parameter that tells it


def save(snn: SpikingNetwork, path: str | Path) -> None:
    """Write ``snn`` to one file: tensors as safetensors, everything else as JSON in the file's header.

    Raises:
        InvalidArgumentError: ``snn`` is not a converted network.
        SerializationError: the network holds a module or calls a function that is not torch's or this package's, or a
            layer that computes its weights anew in each forward, as pruning does; or the file cannot be written.

    Warns:
        UserWarning: layers have forward hooks, which the file does not hold.
    """
    inner = unwrapped(snn)
    if not isinstance(inner, SpikingNetwork):
        raise InvalidArgumentError(
            f"save() writes converted networks, and this is a {type(inner).__name__}: convert it first, with "
            "pascal_ext.convert(model). An ANN is saved by torch.save(model.state_dict(), path)"
        )
    snn = inner
    modules, containers = {}, set()
    for name, module in snn.named_modules():
        if name and isinstance(module, PascIF):
            modules[name] = {
                "class": "PascIF",
                "levels": module.levels,
                "shape": list(module.v_threshold.shape),
                "backend": module.backend,
            }
        elif type(module) is nn.Module:
            containers.add(name)
        elif not name or any(
            _has(_build(modules[p], PascIF), name[len(p) + 1 :]) for p in modules if name.startswith(f"{p}.")
        ):
            continue  # the network itself, or a part of a layer, which its constructor makes
        elif getattr(nn, type(module).__name__, None) is type(module):
            modules[name] = _torch_config(name, module)
            built = _build(modules[name], PascIF)
            if built.state_dict().keys() != {k for k in module.state_dict() if _has(built, k.rpartition(".")[0])}:
                raise SerializationError(
                    f"layer {name!r} computes its weights anew in each forward, which a file cannot hold; make them "
                    "parameters again before the conversion: prune.remove(), remove_spectral_norm() or the like"
                )
        else:
            hint = "; remove_parametrizations() before the conversion" if parametrize.is_parametrized(module) else ""
            raise SerializationError(f"layer {name!r} is a {type(module).__name__}, which a file cannot hold{hint}")
    hooked = [name for name, module in snn.named_modules() if hooks_of(module)]
    if hooked:
        warnings.warn(f"the file does not hold the forward hooks of {hooked}", stacklevel=2)
    loose = ["", *containers]
    parameters = dict(snn.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(parameters.items())}
    state = snn.state_dict()
    structure = {
        "version": FORMAT_VERSION,
        "counts_graph": graph_to_dict(snn.counts_graph),
        "spikes_graph": graph_to_dict(snn.graph),
        "modules": modules,
        "parameters": [_join(c, n) for c in loose for n, _ in snn.get_submodule(c).named_parameters(recurse=False)],
        "buffers": [_join(c, n) for c in loose for n, _ in snn.get_submodule(c).named_buffers(recurse=False)],
        "tied": {name: first[id(p)] for name, p in parameters.items() if first[id(p)] != name},
        "channels_last": [name for name, tensor in state.items() if _is_channels_last(tensor)],
        "frozen": [name for name, parameter in parameters.items() if not parameter.requires_grad],
        "latency": snn.latency,
        "analog_nodes": list(snn.analog_nodes),
        "execution": snn.execution,
        "step_mode": snn.step_mode,
        "settle_ties": snn.settle_ties,
        "chunk": snn.chunk,
    }
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    try:
        save_file(tensors, path, metadata={_HEADER: json.dumps(structure)})
    except (OSError, SafetensorError) as error:
        raise SerializationError(f"cannot write {str(path)!r}: {error}") from error


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    neuron: type[PascIF] = PascIF,
    network: type[SpikingNetwork] = SpikingNetwork,
) -> SpikingNetwork:
    """Read a network that :func:`save` wrote. Nothing in the file is executed.

    Args:
        path: the file.
        device: where the tensors go.
        neuron: the class of the neurons, as in :func:`pascal_ext.convert`.
        network: the class of the result, likewise.

    Raises:
        SerializationError: the file is missing, damaged, not a network, or of a newer version.
        InvalidArgumentError: there is no such device here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch that was built without CUDA
        raise InvalidArgumentError(f"device={str(device)!r} cannot be used here: {error}") from error
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = (file.metadata() or {}).get(_HEADER)
            # Copies: tensors in a file are not aligned as torch's are, and products of such may round differently.
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError) as error:
        raise SerializationError(f"cannot read {str(path)!r}: {error}") from error
    if header is None:
        raise SerializationError(f"{str(path)!r} holds tensors, but no network that pascal_ext.save wrote")
    try:
        structure = json.loads(header)
        if structure["version"] > FORMAT_VERSION:
            raise SerializationError(
                f"{str(path)!r} has version {structure['version']}; this release reads up to {FORMAT_VERSION}: "
                "upgrade pascal-ext"
            )
        return _network(structure, tensors, neuron, network)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise SerializationError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from error


def _network(
    structure: dict[str, Any], tensors: dict[str, Tensor], neuron: type[PascIF], network: type[SpikingNetwork]
) -> SpikingNetwork:
    for name in structure.get("channels_last", ()):
        tensors[name] = tensors[name].contiguous(memory_format=_CHANNELS_LAST[tensors[name].ndim])
    root = nn.Module()
    for name, config in structure["modules"].items():
        _set(root, name, _build(config, neuron))
    for kind in ("parameters", "buffers"):
        for name in structure[kind]:
            _set(root, name, nn.Parameter(tensors[name]) if kind == "parameters" else tensors[name])
    root.load_state_dict(tensors, assign=True)
    parameters = dict(root.named_parameters())
    for name in parameters.keys() & structure.get("frozen", ()):
        parameters[name].requires_grad_(False)
    for name, first in structure.get("tied", {}).items():
        if name in parameters and first in parameters:  # not the learnt thresholds of neurons, which are buffers here
            _set(root, name, parameters[first])
    counts, spikes = graph_from_dict(structure["counts_graph"]), graph_from_dict(structure["spikes_graph"])
    for node in (*counts.nodes, *spikes.nodes):
        if node.op in ("get_attr", "call_module"):
            _check_target(root, str(node.target), node.op)
    snn = network(root, counts, spikes, structure["latency"], tuple(structure["analog_nodes"]))
    snn.execution, snn.step_mode = structure["execution"], structure["step_mode"]
    snn.settle_ties, snn.chunk = structure["settle_ties"], structure.get("chunk", "auto")
    return snn


def _is_channels_last(tensor: Tensor) -> bool:
    memory_format = None if tensor.is_contiguous() else _CHANNELS_LAST.get(tensor.ndim)
    return memory_format is not None and tensor.is_contiguous(memory_format=memory_format)


def _check_target(root: nn.Module, path: str, op: str) -> None:
    """Raise AttributeError unless ``path`` leads to a layer, or, for ``get_attr``, to a parameter or buffer."""
    scope, _, leaf = path.rpartition(".")
    parent = root.get_submodule(scope)
    if leaf not in parent._modules and (op == "call_module" or leaf not in {**parent._parameters, **parent._buffers}):
        raise AttributeError(f"the network has no {path!r}")


def _torch_config(name: str, module: nn.Module) -> dict[str, Any]:
    """The constructor arguments of a torch module, read back from its attributes of the same names."""
    options: dict[str, Any] = {}
    kind = f"torch.nn.{type(module).__name__}"
    if type(module).__init__ is nn.Module.__init__ or isinstance(module, nn.Identity):  # nn.Sigmoid ...: there are none
        return {"class": kind, "options": options}
    for option, parameter in _constructor_options(module):
        if option in ("device", "dtype") or option.startswith("_"):  # _weight: the parameter itself
            continue
        if isinstance(module, nn.Hardtanh) and option in ("min_value", "max_value"):  # old names
            continue
        value = getattr(module, option, parameter.empty)
        if option == "bias" and (isinstance(value, Tensor) or value is None):
            value = value is not None
        elif isinstance(module, nn.MultiheadAttention) and option in _ATTENTION_BIASES:
            value = getattr(module, _ATTENTION_BIASES[option]) is not None
        try:
            options[option] = _plain(value)
        except TypeError as error:
            raise SerializationError(
                f"layer {name!r} ({type(module).__name__}) cannot be saved: option {option!r} {error}"
            ) from None
    return {"class": kind, "options": options}


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it; numbers may be NumPy's.

    Raises:
        TypeError: it is, or holds, something else.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise TypeError(f"is a {type(value).__name__}")


def _constructor_options(module: nn.Module) -> list[tuple[str, inspect.Parameter]]:
    """The arguments of a torch module's constructor, which recurrent layers hide behind ``*args, **kwargs``."""
    if not isinstance(module, nn.RNNBase):
        return list(inspect.signature(type(module).__init__).parameters.items())[1:]
    options = dict(inspect.signature(nn.RNNBase.__init__).parameters)
    if not isinstance(module, nn.LSTM):  # the others refuse it
        del options["proj_size"]
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY)
    return list(options.items())[2:]  # without self and the mode, which the class says


def _backend_or_auto(name: str) -> str:
    """The backend that the network was saved with; where it cannot run here, ``"auto"``, which gives the same."""
    try:
        return check_backend(name)
    except (BackendError, InvalidArgumentError) as error:
        _logger.warning("%s; 'auto' takes its place", error)
        return "auto"


def _build(config: dict[str, Any], neuron: type[PascIF]) -> nn.Module:
    if config["class"] == "PascIF":
        return neuron(config["levels"], torch.ones(config["shape"]), backend=_backend_or_auto(config["backend"]))
    kind = getattr(nn, config["class"].removeprefix("torch.nn."), None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise SerializationError(f"the file holds a {config['class']!r}, which this version of torch does not have")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config["options"].items()}
    with torch.device("meta"):
        return kind(**options)


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _has(layer: nn.Module, path: str) -> bool:
    """Whether there is a module at ``path`` within a layer; the layer itself is at ""."""
    try:
        layer.get_submodule(path)
    except AttributeError:
        return False
    return True


def _set(root: nn.Module, path: str, item: nn.Module | Tensor) -> None:
    """Put a module, parameter or buffer at a dotted path, making the containers on the way."""
    *scopes, leaf = path.split(".")
    parent = root
    for scope in scopes:
        if not hasattr(parent, scope):
            parent.add_module(scope, nn.Module())
        parent = getattr(parent, scope)
    if isinstance(item, nn.Module):
        parent.add_module(leaf, item)
    elif isinstance(item, nn.Parameter):
        parent.register_parameter(leaf, item)
    else:
        parent.register_buffer(leaf, item)
