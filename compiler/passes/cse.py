"""Common subexpressions: equal ops on equal inputs are computed once."""
from __future__ import annotations

from typing import Any

from ..builder import Builder, rewrite
from ..equality import value_key
from ..ir import Graph, ObjectType, TupleType, Value
from ..ops.core import takes_random_numbers


def cse(graph: Graph) -> Graph:
    """Never joins random ops, nor ops whose results hold an object (a tape belongs to one call)."""
    first: dict[Any, Value] = {}
    outputs = {o.name for o in graph.outputs}

    def rule(b: Builder, v: Value) -> Value | None:
        if takes_random_numbers(v) or _holds_object(v.type):
            return None
        if v.name in outputs and (v.op.name == "copy" or v.op.kind == "source"):
            return None  # an output would become a copy of its equal, which is no gain here
        key = value_key(v, lambda operand: operand)
        found = first.setdefault(key, v)
        return None if found is v else found
    return rewrite(graph, rule)


def _holds_object(t) -> bool:
    return isinstance(t, ObjectType) or isinstance(t, TupleType) and any(map(_holds_object, t.items))

