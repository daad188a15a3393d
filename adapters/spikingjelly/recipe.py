"""PASCAL as a conversion recipe of SpikingJelly 2.x."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, VERSION, UnsupportedHostError, ann2snn
from pascal_ext.adapters.spikingjelly.conversion import check_options, convert
from pascal_ext.plan import Levels

if not HAS_RECIPES:
    raise UnsupportedHostError(
        f"PascalRecipe needs SpikingJelly 2.x, whose conversions are recipes; {VERSION} is installed. There, "
        'call pascal_ext.register() and use Converter(dataloader, mode="pascal")(ann)'
    )


class PascalRecipe(ann2snn.FXConversionRecipe):
    """Converts a network exactly: ``Converter(PascalRecipe(dataloader, levels=4)).convert(ann)``.

    SpikingJelly's tracer looks into QCFS modules and finds no activation there, so it is given nothing to trace; the
    conversion is that of :func:`pascal_ext.convert`, on the converter's device.

    Args:
        dataloader: calibrates the thresholds of a ReLU network; a QCFS network has its own.
        levels: see :func:`pascal_ext.convert`.
        options: the other keyword arguments of :func:`pascal_ext.convert`.

    Raises:
        TypeError: ``options`` has a name that :func:`pascal_ext.convert` does not take.
    """

    def __init__(
        self, dataloader: Iterable[Any] | None = None, levels: Levels | str | None = None, **options: Any
    ) -> None:
        check_options(options)
        self.dataloader = dataloader
        self.levels = levels
        self.options = options

    def before_trace(self, converter: Any, ann: nn.Module) -> nn.Module:
        """Leave ``ann`` to the converter, for :meth:`finalize`, and give the host's tracer an empty module."""
        converter.pascal_ann = ann
        return nn.Identity()

    def finalize(self, converter: Any, fx_model: fx.GraphModule) -> nn.Module:
        """The converted network."""
        ann = vars(converter).pop("pascal_ann")
        return convert(ann, self.dataloader, self.levels, device=converter.device, **self.options)
