"""The PASC-IF neuron: reference, closed form, operators, and the backends that compute them."""

from pascal_ext.ops.pasc_if.autograd import qcfs_activation
from pascal_ext.ops.pasc_if.closed_form import activation, quantise
from pascal_ext.ops.pasc_if.operator import pasc_if, pasc_if_counts, pasc_if_settled
from pascal_ext.ops.pasc_if.qcfs import counts_and_activation
from pascal_ext.ops.pasc_if.selection import Backend, backend_names, check_backend, register_backend, select
from pascal_ext.ops.pasc_if.ties import Reference
from pascal_ext.ops.pasc_if.vectorised import train_of, window_mean

__all__ = [
    "Backend",
    "Reference",
    "activation",
    "backend_names",
    "check_backend",
    "counts_and_activation",
    "pasc_if",
    "pasc_if_counts",
    "pasc_if_settled",
    "qcfs_activation",
    "quantise",
    "register_backend",
    "select",
    "train_of",
    "window_mean",
]
