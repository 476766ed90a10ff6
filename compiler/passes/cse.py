"""Common subexpressions: equal ops on equal inputs are computed once."""
from __future__ import annotations

from typing import Any

import torch

from ..builder import Builder, rewrite
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
        key = (v.op.name, tuple(map(_key, v.inputs)), _key(v.attrs), v.type)
        found = first.setdefault(key, v)
        return None if found is v else found
    return rewrite(graph, rule)


def _holds_object(t) -> bool:
    return isinstance(t, ObjectType) or isinstance(t, TupleType) and any(map(_holds_object, t.items))


def _key(part: Any) -> Any:
    """Equal for parts that mean the same: numbers by type and bits (-0.0 is not 0.0, True is not 1, NaN is NaN)."""
    if isinstance(part, float):
        return float, part.hex()
    if isinstance(part, complex):
        return complex, part.real.hex(), part.imag.hex()
    if isinstance(part, (tuple, list)):
        return type(part), tuple(map(_key, part))
    if isinstance(part, dict):
        return tuple((k, _key(p)) for k, p in sorted(part.items()))
    if isinstance(part, torch.Tensor):
        return torch.Tensor, id(part)
    return type(part), part
