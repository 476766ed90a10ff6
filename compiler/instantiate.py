"""A graph with numbers in place of its size symbols."""
from __future__ import annotations

from typing import Any, Mapping

from .dims import Dim, Expr, Sym, simplest
from .ir import Graph, TensorType, TupleType, Value


def instantiate(graph: Graph, sizes: Mapping[Sym, Dim]) -> Graph:
    """The graph for these values of its symbols; a symbol that is not among them stays."""
    new: dict[Value, Value] = {}
    for v in (*graph.inputs, *graph.values):
        inputs = [new[i] if isinstance(i, Value) else i for i in v.inputs]
        attrs = {k: with_sizes(a, sizes) for k, a in v.attrs.items() if k != "symbol" or a not in sizes}
        new[v] = Value(v.name, v.op, inputs, attrs, with_sizes(v.type, sizes), v.origin)
    inputs, values, outputs = (tuple(new[v] for v in part) for part in (graph.inputs, graph.values, graph.outputs))
    return Graph(graph.name, inputs, values, outputs, graph.output_names)


def with_sizes(part: Any, sizes: Mapping[Sym, Dim]) -> Any:
    """A type or an attribute with these values of the symbols."""
    if isinstance(part, Expr):
        return simplest(part.substitute(sizes))
    if isinstance(part, TensorType):
        return TensorType(with_sizes(part.shape, sizes), part.dtype, part.device, with_sizes(part.strides, sizes))
    if isinstance(part, TupleType):
        return TupleType(with_sizes(part.items, sizes))
    if isinstance(part, (tuple, list)):
        return type(part)(with_sizes(p, sizes) for p in part)
    if isinstance(part, dict):
        return {k: with_sizes(p, sizes) for k, p in part.items()}
    return part
