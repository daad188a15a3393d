"""The PASC-IF neuron: reference, vectorised, and the choice between them."""

from pascal_ext.ops.pasc_if.reference import pasc_if_reference
from pascal_ext.ops.pasc_if.selection import BACKENDS, check_backend, select
from pascal_ext.ops.pasc_if.ties import settle_ties
from pascal_ext.ops.pasc_if.vectorised import (
    activation,
    pasc_if_counts,
    pasc_if_vectorised,
    quantise,
    train_of,
    window_mean,
)

__all__ = [
    "BACKENDS",
    "activation",
    "check_backend",
    "pasc_if_counts",
    "pasc_if_reference",
    "pasc_if_vectorised",
    "quantise",
    "select",
    "settle_ties",
    "train_of",
    "window_mean",
]
