"""Dimension 0 of a time-folded tensor: timesteps and samples. Which operations leave it alone, and what its size is."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import Tensor, fx

from pascal_ext.conversion.signals import Signal
from pascal_ext.conversion.wires import Wires
from pascal_ext.graph.branches import as_traced
from pascal_ext.graph.dimensions import dims_of, indexed_away, padded_dims
from pascal_ext.graph.kinds import Kind
from pascal_ext.graph.operations import asked_shape, asked_size, describe, name_of, shape_argument
from pascal_ext.graph.products import constant_value, is_constant
from pascal_ext.ops import timefold

_NO_SIZES = ("dim", "ndimension", "number_of_inputs")


class BatchDimension(Wires):
    """What a conversion has to know about dimension 0."""

    analog: bool  # whether operations without a spiking counterpart are decoded, instead of refused

    def _size(self, node: fx.Node) -> bool:
        """The size of dimension 0 is the batch size, as it is in the ANN, however many timesteps are folded into it."""
        asked = asked_size(node)
        if asked is None or asked[0] not in self.signals or self.signals[asked[0]].loose:
            return False
        tensor, dim = asked
        (dim,) = self.signals[tensor].positive([dim])
        if dim == 0:
            node.replace_all_uses_with(self.batch)
        elif dim < 0:
            reader = node if tensor in node.all_input_nodes else node.all_input_nodes[0]  # x.shape
            self._guard_ndim(reader, tensor, 1 - dim)
        return True

    def _branch(self, node: fx.Node) -> bool:
        """A guard stays where its sizes are the ANN's; in the counts graph it stays in any case."""
        if node.target is not as_traced:
            return False
        pending = list(node.all_input_nodes)
        while pending:
            source = pending.pop()
            if source is not self.batch and asked_size(source) is None and name_of(source) not in _NO_SIZES:
                pending += source.all_input_nodes
                if source in self.signals:
                    self.graph.erase_node(node)
                    break
        return True

    def _constant(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        """A tensor that was made as large as the batch (``token.expand(n, -1)``, ``x.new_zeros(n, c)``)."""
        if sources and not name_of(node).startswith("new_"):
            return False
        if getattr(node.target, "__module__", None) in (operator.add.__module__, math.__name__):
            return False  # arithmetic with the number of samples
        shape = shape_argument(node) if node.op in ("call_function", "call_method") else ()
        if not shape or (shape[0] is not self.batch and asked_shape(shape[0]) not in self.signals):
            return False
        self._lead_shape(node, None)
        guard = self._insert_after(node, timefold.keep_rows, (node, self.batch, describe(node, self.root)))
        self.signals[guard] = Signal(thermometer=True)
        return True

    def _lead_shape(self, node: fx.Node, source: fx.Node | None) -> None:
        """The size of the batch at the head of a shape: here it is the rows of ``source``, or the batch as such."""
        first: Any = next(iter(shape_argument(node)), None)
        with self.graph.inserting_before(node):
            rows = self.batch
            if source is not None and (first is self.batch or asked_shape(first) is not None):
                shape = self.graph.call_function(getattr, (source, "shape"))
                rows = self.graph.call_function(operator.getitem, (shape, 0))
            if asked_shape(first) is not None:  # the shape of another tensor, of other timesteps perhaps
                node.replace_input_with(first, self.graph.call_function(timefold.with_rows, (first, rows)))
            elif first is self.batch and rows is not self.batch:
                node.replace_input_with(self.batch, rows)

    def _entry(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        """``x[i]`` of an input is an entry of a sequence of inputs; that it is none of the batch shows at run time."""
        if name_of(node) != "getitem" or not sources or type(node.args[1]) is not int:
            return False
        source = sources[0]
        is_named = name_of(source) == "getitem" and isinstance(source.args[1], str)
        if source.op != "placeholder" and source.target is not timefold.entry and not is_named:
            return False
        node.target = timefold.entry
        self.signals[node] = Signal(elastic=True)
        return True

    def _mixes_samples(self, node: fx.Node, sources: list[fx.Node], kind: Kind) -> bool:
        """Whether the operation works along the batch; where its rank leaves that open, a run-time check is put in."""
        signal = self.signals[sources[0]]
        if signal.sequence and name_of(node) == "getitem":
            return False
        dims = dims_of(node, self.root)
        if dims is None or self._moves_batch(node):
            return True
        ndims = {self.signals[source].ndim for source in sources} - {None}
        if kind is Kind.ASSIGN and not self._assigns_by_sample(node):
            return True
        if len(ndims) > 1 and kind not in (Kind.CONCAT, Kind.ASSIGN):
            return True  # broadcasting puts the batch of one beside another dimension of the other
        added = 1 if name_of(node) in ("unsqueeze", "stack") else 0
        dims = signal.positive(dims, added)
        needed = max(1 - min(dims, default=0) - added, padded_dims(node, self.root) + 1)
        fewer = indexed_away(node.args[1]) or 0 if kind is Kind.ASSIGN else 0
        for other in self._others(node) if kind in (Kind.SUM, Kind.MAX, Kind.LINEAR, Kind.ASSIGN) else ():
            tensor = constant_value(other, self.root) if is_constant(other) else None
            if isinstance(tensor, Tensor) and tensor.ndim:
                by_sample = tensor.shape[0] > 1  # it may have a row for each
                needed = max(needed, tensor.ndim + fewer + by_sample)
        if 0 in dims or (signal.ndim is not None and needed > signal.ndim):
            return True
        if needed > 1 and signal.ndim is None:
            self._guard_ndim(node, sources[0], needed)
        return False

    def _assigns_by_sample(self, node: fx.Node) -> bool:
        """Whether an item assignment writes, for all that is known here, into each sample what is of that sample."""
        index: Any
        x, index, value = node.args
        indices: list[fx.Node] = []
        fx.node.map_arg(index, indices.append)
        if not self.signals.keys().isdisjoint(indices):
            return False
        ndims = [self.signals[n].ndim if isinstance(n, fx.Node) and n in self.signals else None for n in (x, value)]
        fewer = indexed_away(index)
        return ndims[0] is None or ndims[1] is None or fewer is None or ndims[1] == ndims[0] - fewer

    def _moves_batch(self, node: fx.Node) -> bool:
        """Whether a reshaping surely, or for all that is known here, merges dimension 0 with others."""
        name, shape = name_of(node), shape_argument(node)
        if name in ("repeat", "tile"):
            return shape[:1] != (1,)
        if name not in ("view", "reshape", "expand") or not shape:
            return False
        if isinstance(shape[0], int) and shape[0] >= 0:
            return True  # a literal batch size
        if shape[0] == -1:  # that rows stay rows is seen at run time; so it is only taken for granted in a flatten
            return self.analog and name != "expand" and len(shape) != 2
        pending = [shape[0]] if isinstance(shape[0], fx.Node) and shape[0] is not self.batch else []
        while pending:
            source = pending.pop()
            if source is self.batch:
                return True
            pending += [n for n in source.all_input_nodes if n not in self.signals]
        return False
