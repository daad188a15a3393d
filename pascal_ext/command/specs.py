"""What a command line can say about models, weights, data and levels, turned into objects."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import fx, nn

from pascal_ext.activations import replace_activations
from pascal_ext.calibration.correction import restore_bias_currents
from pascal_ext.command.image_tree import ImageTree
from pascal_ext.errors import InvalidArgumentError, PlanError, SerializationError
from pascal_ext.plan import LevelPlan, check_levels
from pascal_ext.saving.state_dict import read_state_dict


def import_object(spec: str) -> Any:
    """The object that ``"package.module:name"`` names; modules of the working directory are found too.

    Raises:
        InvalidArgumentError: the text is no such name, there is nothing of that name, or its module fails to import.
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise InvalidArgumentError(f"{spec!r} is not of the form package.module:name")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the code of the module raises
        raise InvalidArgumentError(f"cannot import the module of {spec!r}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InvalidArgumentError(f"{spec!r}: {getattr(found, '__name__', found)!r} has no {part!r}")
        found = getattr(found, part)
    return found


def _made(found: Any, spec: str) -> Any:
    """What ``found``, which ``spec`` names, gives when it is called; ``found`` itself where it cannot be."""
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:  # whatever the user's code raises
        raise InvalidArgumentError(
            f"{spec!r} failed when it was called without arguments: {type(error).__name__}: {error}"
        ) from error


def load_model(spec: str, weights: Path | None = None, qcfs: str | None = None) -> nn.Module:
    """The model that the factory (or module object) ``spec`` gives, in evaluation mode.

    Args:
        spec: ``"package.module:name"`` of a callable without arguments that returns the model, or of a model.
        weights: a checkpoint with its state dict, see :func:`~pascal_ext.saving.state_dict.read_state_dict`.
        qcfs: where the weights are those of ``replace_activations(model, levels)``: its levels, or a plan's file.

    Raises:
        InvalidArgumentError: there is no model there, making it fails, or the weights are not its own.
    """
    found = import_object(spec)
    model = found if isinstance(found, nn.Module) else _made(found, spec)
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"{spec!r} gives a {type(model).__name__}, not a torch.nn.Module")
    if qcfs is not None:
        levels = parse_levels(qcfs)
        if isinstance(levels, str):
            raise InvalidArgumentError(f"a trained QCFS model has its levels: give a number or a plan, not {levels!r}")
        model = replace_activations(model, levels)
    if weights is not None:
        state = read_state_dict(weights, model)
        if isinstance(model, fx.GraphModule):
            restore_bias_currents(model, state)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            hint = "; is --qcfs missing?" if ".threshold" in str(error) and qcfs is None else ""
            raise InvalidArgumentError(f"the weights of {str(weights)!r} do not fit {spec!r}: {error}{hint}") from None
    return model.eval()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict of ``model`` as :func:`load_model` reads it, ``.safetensors``.

    Raises:
        SerializationError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    try:
        save_file(state, path)
    except (OSError, SafetensorError) as error:
        raise SerializationError(f"cannot write the weights {str(path)!r}: {error}") from error


def parse_levels(text: str) -> int | str | LevelPlan:
    """``"8"`` -> 8; ``"auto"`` -> "auto"; anything that is no number is the file of a :class:`LevelPlan`.

    Raises:
        PlanError: a number is not whole, or less than 1; or the file is no plan.
    """
    if text == "auto":
        return text
    try:
        number = float(text)
    except ValueError:
        return LevelPlan.from_json(Path(text))
    if not number.is_integer():
        raise PlanError(f"levels must be a whole number of at least 1, got {text}")
    return check_levels(int(number))


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """``"0.5,0.4,0.3"`` -> (0.5, 0.4, 0.3); nothing for an empty text.

    Raises:
        InvalidArgumentError: ``text``, given as ``option``, is something else.
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InvalidArgumentError(f"{option} must be numbers with commas between them, got {text!r}") from None


def parse_whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """``"1,2,4"`` -> (1, 2, 4).

    Raises:
        InvalidArgumentError: ``text``, given as ``option``, is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgumentError(f"{option} must be whole numbers with commas between them, got {text!r}") from None


def parse_networks(option: str, pairs: Iterable[str]) -> dict[str, tuple[Path, str]]:
    """``["NAME=FILE:LEVELS", "OTHER=FILE"]`` -> {"NAME": (FILE, "LEVELS"), "OTHER": (FILE, "")}.

    Raises:
        InvalidArgumentError: a text, given as ``option``, is something else, or a name is given twice.
    """
    found: dict[str, tuple[Path, str]] = {}
    for pair in pairs:
        name, separator, file = pair.partition("=")
        path, colon, levels = file.rpartition(":")
        if not separator or not name or not file or (colon and not (path and levels)):
            raise InvalidArgumentError(f"{option} {pair!r} is not of the form NAME=FILE or NAME=FILE:LEVELS")
        if name in found:
            raise InvalidArgumentError(f"{option} gives {name!r} twice; each network needs a name of its own")
        found[name] = (Path(path), levels) if colon else (Path(file), "")
    return found


def load_data(
    spec: str,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Iterable[Any]:
    """Batches: from a folder of images (class/image.jpg), or from what ``"package.module:name"`` gives.

    A folder's images are resized, cropped and normalised as the arguments say, see
    :class:`~pascal_ext.command.image_tree.ImageTree`; a loader from a module is taken as it is, without regard to them.

    Raises:
        InvalidArgumentError: there is neither, making it fails, or it gives no batches.
    """
    path = Path(spec)
    if path.is_dir():
        return ImageTree(path, image_size, mean, std).loader(batch_size, limit)
    if ":" not in spec:
        raise InvalidArgumentError(f"there is no folder {spec!r}; give one, or package.module:name of a loader")
    loader = _made(import_object(spec), spec)
    if not isinstance(loader, Iterable):
        raise InvalidArgumentError(f"{spec!r} gives a {type(loader).__name__}, not a loader")
    return loader
