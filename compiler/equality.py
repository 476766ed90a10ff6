"""When two values, or two graphs, compute the same: their keys are equal. Names and origins do not count."""
from __future__ import annotations

from typing import Any, Callable, Hashable

import torch

from .ir import Graph, Value


def key_of(part: Any) -> Hashable:
    """Equal for parts that mean the same: numbers by type and bits (-0.0 is not 0.0, True is not 1, NaN is NaN)."""
    if isinstance(part, float):
        return float, part.hex()
    if isinstance(part, complex):
        return complex, part.real.hex(), part.imag.hex()
    if isinstance(part, (tuple, list)):
        return type(part), tuple(map(key_of, part))
    if isinstance(part, dict):
        return tuple((k, key_of(p)) for k, p in sorted(part.items()))
    if isinstance(part, torch.Tensor):
        return torch.Tensor, id(part)
    return type(part), part


def value_key(v: Value, operand: Callable[[Value], Hashable], typed: bool = True) -> Hashable:
    """A value's op, attributes and type, over `operand` of each value that it reads. `typed`: whether its type counts."""
    inputs = tuple(operand(i) if isinstance(i, Value) else key_of(i) for i in v.inputs)
    return v.op.name, inputs, key_of(v.attrs), v.type if typed else None


def graph_key(graph: Graph) -> Hashable:
    """Equal for graphs that give equal outputs for equal inputs, op by op."""
    places = {v: k for k, v in enumerate((*graph.inputs, *graph.values))}
    keys = tuple(value_key(v, places.__getitem__) for v in graph.values)
    inputs = tuple((i.type, i.attrs.get("symbol")) for i in graph.inputs)
    return inputs, keys, tuple(places[o] for o in graph.outputs)
