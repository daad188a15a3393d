"""The state dict in a file, wherever it lies there and whatever wrapped its model; no code of the file is run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pascal_ext.errors import InvalidArgumentError

USUAL = frozenset({"checkpoint", "model", "model_state_dict", "module", "net", "network", "state_dict"})
WRAPPERS = frozenset({"module", "_orig_mod"})  # what (Distributed)DataParallel and torch.compile put into names
SHOWN = 5  # entries of a file in an error
WAY_OUT = (
    "; no code is run to read such a thing. If it is a model and you trust it: "
    "torch.save(torch.load({!r}, weights_only=False){}.state_dict(), 'weights.pt')"
)


class Unread:
    """Stands for an object of a class (or from a function) that torch does not know to be harmless, without running it.

    Its subclasses have the dotted names of what they stand for.
    """

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_state_dict(path: Path, model: nn.Module) -> Mapping[str, Any]:
    """The state dict in ``path`` that is meant for ``model``: tensors, under the names that ``model`` has for them.

    It may lie in dictionaries of any depth, beside whatever else. Where several do, it is the one with most of the
    model's names; of equals, the one whose keys are all in :data:`USUAL` (``state_dict``, ``model``, ``net``, ...), so
    that averages kept beside it (``ema``, ``model_ema``) are not taken for it. Parts of names that
    ``DataParallel`` and ``torch.compile`` put there (:data:`WRAPPERS`) are left out where the model has no such part,
    and so is a prefix of all names, ``model.`` say, where the model has none of the names with it.

    Args:
        path: what ``torch.save`` wrote, or ``.safetensors``.
        model: is not changed.

    Returns:
        Names and tensors, not more or less than there are in the file; on the CPU.

    Raises:
        InvalidArgumentError: the file cannot be read, or there is no state dict in it, or several that might be meant.
    """
    found = read_checkpoint(path)
    names = model.state_dict().keys()
    states = {keys: _as_named_in(names, state) for keys, state in _state_dicts(found)}
    if not states:
        raise InvalidArgumentError(f"{str(path)!r} holds no state dict{_instead(found, path)}")
    shared = {keys: len(names & state.keys()) for keys, state in states.items()}
    likely = [keys for keys, number in shared.items() if number == max(shared.values())]
    usual = [keys for keys in likely if USUAL.issuperset(keys)]
    if len(likely) > 1 and len(usual) != 1:
        places = ", ".join("".join(f"[{key!r}]" for key in keys) for keys in likely)
        raise InvalidArgumentError(
            f"{str(path)!r} holds {len(likely)} state dicts, and any may be meant: {places}; save one by itself"
        )
    return states[likely[0] if len(likely) == 1 else usual[0]]


def read_checkpoint(path: Path) -> Any:
    """What is in a file of ``torch.save``, or ``.safetensors``, on the CPU; :class:`Unread` where it may be harmful.

    Raises:
        InvalidArgumentError: there is no such file, or it is of another kind.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"there is no file of weights {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with safe_globals([(type(name, (Unread,), {}), name) for name in _unknown(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # without its text: torch's advice is to run whatever code is in the file
        raise InvalidArgumentError(
            f"cannot read the weights {str(path)!r} ({type(error).__name__}): expected a state dict, as "
            "torch.save(model.state_dict(), ...) writes it, alone or in dictionaries beside plain values; no code is "
            "run to read anything else"
        ) from None


def _unknown(path: Path) -> list[str]:
    """The names of classes and functions in the file that torch does not know to be harmless."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # a file of torch before 1.6 does not say, and is read if it holds nothing but plain values
        return []


def _state_dicts(found: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping of names to tensors in nested mappings of names, with the keys that lead there."""
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        return
    if found and all(isinstance(value, Tensor) or key.endswith("_extra_state") for key, value in found.items()):
        yield keys, found
        return
    for key, value in found.items():
        yield from _state_dicts(value, (*keys, key))


def _as_named_in(names: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """``state`` without the wrappers and the prefix that ``names`` do not have."""
    wrappers = WRAPPERS.difference(*(name.split(".") for name in names))
    state = _renamed(state, lambda name: ".".join(part for part in name.split(".") if part not in wrappers))
    bare = state
    while bare.keys().isdisjoint(names):
        first = next(iter(bare)).partition(".")[0] + "."
        if not all(name.startswith(first) for name in bare):
            return state  # another model's; its names are told as they are
        bare = _renamed(bare, partial(_without, first))
    return bare


def _without(prefix: str, name: str) -> str:
    return f"{name}.".removeprefix(prefix).removesuffix(".")  # nothing is left of "model" itself, which metadata has


def _renamed(state: Mapping[str, Any], rename: Callable[[str], str]) -> Mapping[str, Any]:
    """``state`` under other names; also its metadata, the versions of the layers' formats that torch keeps there."""
    renamed = OrderedDict((rename(name), value) for name, value in state.items())
    if len(renamed) < len(state):
        return state  # two tensors would have one name
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        versions = OrderedDict((rename(name), value) for name, value in metadata.items())
        renamed._metadata = versions  # type: ignore[attr-defined]  # where torch looks for them
    return renamed


def _instead(found: Any, path: Path) -> str:
    """What a file without a state dict holds, and the way out where that is one model."""
    if isinstance(found, Unread):
        return f" but a {type(found).__name__}{WAY_OUT.format(str(path), '')}"
    if not isinstance(found, Mapping):
        return f" but a {type(found).__name__}"
    shown = [f"{key!r}: {type(value).__name__}" for key, value in found.items()]
    shown[SHOWN:] = ["..."] * (len(shown) > SHOWN)
    unread = [key for key, value in found.items() if isinstance(value, Unread)]
    hint = WAY_OUT.format(str(path), f"[{unread[0]!r}]") if len(unread) == 1 else ""
    return f", names and torch.Tensors, only {{{', '.join(shown)}}}{hint}"
