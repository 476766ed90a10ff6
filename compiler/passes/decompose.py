"""Composite ops, in simpler ones."""
from __future__ import annotations

from typing import Callable

from ..builder import Builder, Replacement, rewrite
from ..ir import Graph, Value


def decompose(graph: Graph, which: Callable[[Value], bool] = lambda v: True) -> Graph:
    """Replace every composite value (that `which` picks) by its record's `decompose`, until none is left."""
    def rule(b: Builder, v: Value) -> Replacement:
        if v.op.kind != "composite" or not which(v):
            return None
        with b.at(b.origin, b.origin.note or f"part of {v.op.name}"):
            return v.op.decompose(b, v)

    while (simpler := rewrite(graph, rule)) is not graph:
        graph = simpler
    return graph
