"""``mode="pascal"`` for SpikingJelly's own ``ann2snn.Converter``."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, Converter
from pascal_ext.adapters.spikingjelly.conversion import check_options, convert
from pascal_ext.errors import InvalidArgumentError

MODE = "pascal"

_lock = threading.Lock()
_stock_init: Callable[..., None] | None = None


def register() -> None:
    """Teach ``spikingjelly.activation_based.ann2snn.Converter`` the mode ``"pascal"``.

    The class itself is changed, so code that has imported it already sees the mode too; every other call goes to the
    stock converter as it is. Calling this again does nothing, and :func:`unregister` takes it back::

        snn = Converter(dataloader=loader, mode="pascal").convert(ann)    # SpikingJelly 2.x
        snn = Converter(loader, mode="pascal")(ann)                       # SpikingJelly 0.0.0.0.14

    The arguments are those of 0.0.0.0.14, ``Converter(dataloader=None, device=None, mode="pascal")``, then ``levels=``
    and the options of :func:`pascal_ext.convert` as keywords. A QCFS network needs no ``dataloader``. In 2.x, the name
    of a recipe works as well: ``Converter("pascal", dataloader=loader)``.
    """
    global _stock_init
    with _lock:
        if _stock_init is None:
            _stock_init = Converter.__init__
            Converter.__init__ = _with_pascal(_stock_init)


def unregister() -> None:
    """Make SpikingJelly's Converter what it was. Converters that were made with the mode go on working."""
    global _stock_init
    with _lock:
        if _stock_init is not None and getattr(Converter.__init__, "__wrapped__", None) is _stock_init:
            Converter.__init__ = _stock_init
        _stock_init = None


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Within the context the mode is there; afterwards it is where it was there before."""
    before = _stock_init is not None
    register()
    try:
        yield
    finally:
        if not before:
            unregister()


def _with_pascal(stock_init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        # another patch may hold on to this function after unregister(): then it only passes calls on
        registered = _stock_init is stock_init
        if registered and HAS_RECIPES and _is_mode(kwargs.get("recipe", args[0] if args else None)):
            _init_from_recipe_name(self, stock_init, *args, **kwargs)
        elif registered and _is_mode(kwargs.get("mode", args[2] if len(args) > 2 else None)):
            _init_from_mode(self, stock_init, *args, **kwargs)
        else:
            stock_init(self, *args, **kwargs)

    return init


def _is_mode(value: Any) -> bool:
    return isinstance(value, str) and value.lower() == MODE


def _init_from_recipe_name(
    converter: Any, stock_init: Callable[..., None], recipe: str, device: Any = None, **options: Any
) -> None:
    _init_from_mode(converter, stock_init, device=device, **options)


def _init_from_mode(
    converter: Any,
    stock_init: Callable[..., None],
    dataloader: Any = None,
    device: Any = None,
    mode: str = MODE,
    levels: Any = None,
    **options: Any,
) -> None:
    check_options(options)
    if HAS_RECIPES:
        from pascal_ext.adapters.spikingjelly.recipe import PascalRecipe

        stock_init(converter, PascalRecipe(dataloader, levels, **options), device)
        return
    stock_init(converter, dataloader, device)
    converter.mode = MODE
    converter.levels = levels
    converter.options = options
    converter.forward = functools.partial(_forward, converter)


def _forward(converter: Any, ann: nn.Module) -> nn.Module:
    """What a converter of 0.0.0.0.14 with the mode does when it is called.

    Raises:
        InvalidArgumentError: the mode is another one by now.
    """
    if not _is_mode(converter.mode):
        raise InvalidArgumentError(
            f"this converter was made for mode {MODE!r}, and its mode is {converter.mode!r} now; make another Converter"
        )
    return convert(ann, converter.dataloader, converter.levels, device=converter.device, **converter.options)
