"""Optional dependencies: imported where they are used, with an error that says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from pascal_ext.errors import PascalError


class MissingExtraError(PascalError, ImportError):
    """A package that only some features need is not installed; the message names the extra that brings it."""


def require(module: str, *, extra: str, package: str | None = None) -> Any:
    """Import ``module`` and return it.

    Args:
        module: dotted name of the module.
        extra: the extra of this package that installs it.
        package: the name under which ``module`` is installed, where it is not its first part.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = package or module.partition(".")[0]
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise MissingExtraError(f'{package} is not installed; get it with: pip install "pascal-ext[{extra}]"') from None
