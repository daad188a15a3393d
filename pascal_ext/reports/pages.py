"""The templates of the package's HTML pages."""

from __future__ import annotations

from typing import Any

from pascal_ext.extras import require


def template(name: str) -> Any:
    """The jinja2 template ``name``, whose ``render(**values)`` is a page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pascal_ext.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
