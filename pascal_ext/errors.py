"""Every error the package raises on purpose; catch :class:`PascalError` to catch them all."""


class PascalError(Exception):
    """Base class of all errors of this package."""


class InvalidArgumentError(PascalError, ValueError):
    """A value handed to the package cannot be used; the message names it and the way out."""


class PlanError(InvalidArgumentError):
    """A level plan is malformed, or does not fit the model it is used with."""


class CalibrationError(PascalError, ValueError):
    """Thresholds or levels cannot be derived from the data that was given."""


class UnsupportedOperationError(PascalError, NotImplementedError):
    """An operation of the model has no exact spiking counterpart.

    Also a ``NotImplementedError``, as SpikingJelly's converters raise for what they cannot convert.
    """


class TracingError(UnsupportedOperationError):
    """The model's ``forward`` cannot be traced symbolically by ``torch.fx``."""


class BackendError(PascalError, RuntimeError):
    """An explicitly requested backend cannot run here; the message says why."""


class SerializationError(PascalError):
    """A network cannot be written to, or read from, the file format."""
