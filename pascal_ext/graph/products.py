"""Products of matrices in a traced graph, and einsums: which of their factors are made of parameters."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx, nn

from pascal_ext.graph.operations import argument, name_of

_DOTS = "."  # an ellipsis in a term of an einsum


def second_factor(node: fx.Node) -> Any:
    """What a product of matrices has on the right."""
    return argument(node, 1, "mat2" if name_of(node) == "mm" else "other", None)


def is_matrix(factor: Any, root: nn.Module) -> bool:
    """Whether the factor of a product is a matrix or a vector of parameters and buffers, as they are or computed."""
    return isinstance(factor, fx.Node) and is_constant(factor) and bool(constant_value(factor, root).ndim <= 2)


def is_constant(node: fx.Node) -> bool:
    """Whether a value is made of parameters, buffers and numbers alone, whatever the input is."""
    pending, seen = [node], set[fx.Node]()
    while pending:
        source = pending.pop()
        if source.op == "placeholder":
            return False
        if source not in seen:
            seen.add(source)
            pending += source.all_input_nodes
    return True


def constant_value(constant: fx.Node, root: nn.Module) -> Any:
    """The value of a constant."""
    if constant.op == "get_attr":
        return operator.attrgetter(str(constant.target))(root)
    args, kwargs = fx.node.map_arg((constant.args, constant.kwargs), lambda node: constant_value(node, root))
    with torch.no_grad():
        return getattr(fx.Interpreter(root, graph=constant.graph), constant.op)(constant.target, args, kwargs)


def einsum_terms(node: fx.Node) -> tuple[list[str], list[str], str]:
    """The subscripts of the operands of an einsum that vary, of those that are constant, and of its output.

    An ellipsis is one character in them, a dot. Nothing varies where numbers stand in the place of letters.
    """
    equation, *operands = node.args
    if not isinstance(equation, str):
        return [], [], ""
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    inputs, arrow, output = equation.replace(" ", "").replace("...", _DOTS).partition("->")
    if not arrow:
        letters = sorted(set(inputs) - {",", _DOTS})
        output = _DOTS * (_DOTS in inputs) + "".join(letter for letter in letters if inputs.count(letter) == 1)
    terms: tuple[list[str], list[str]] = [], []
    for term, operand in zip(inputs.split(","), operands, strict=False):  # torch says if one is missing
        terms[isinstance(operand, fx.Node) and is_constant(operand)].append(term)
    return *terms, output


def einsum_dims(node: fx.Node) -> list[int]:
    """A dimension of the operand that varies, of which an einsum is sure to leave alone what comes before it.

    That is none, where its first dimension is the first of the output, too; and 0 where it moves, or is summed over.
    """
    varying, constant, output = einsum_terms(node)
    leads = bool(varying) and all(term[:1] == output[:1] for term in varying)
    if not leads or "".join(varying + constant).count(output[:1]) != len(varying):
        return [0]
    letters = len(varying[0]) - 1
    return [-letters] if output[:1] == _DOTS and letters else []  # else the dots might stand for no dimension


def einsum_products(equation: str, *operands: Any) -> int:
    """Multiplications of an einsum: the product of the sizes that its subscripts stand for."""
    tensors: Any = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    sizes: dict[Hashable, int] = {}
    for term, tensor in zip(equation.replace(" ", "").partition("->")[0].split(","), tensors, strict=True):
        head, _, tail = term.partition("...")
        dots = list(tensor.shape[len(head) : tensor.ndim - len(tail)])
        subscripts = [*head, *range(-len(dots), 0), *tail]  # what dots stand for is counted from their end
        for subscript, size in zip(subscripts, tensor.shape, strict=True):
            sizes[subscript] = max(size, sizes.get(subscript, 1))
    return math.prod(sizes.values())
