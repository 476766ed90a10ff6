"""Dead code: drop the values that nobody reads."""
from __future__ import annotations

from typing import Iterable

from ..ir import Graph, Value
from ..ops.core import takes_random_numbers


def dce(graph: Graph) -> Graph:
    """Values that no output depends on go; random ones stay, because eager took their numbers from the generator too."""
    kept = needed([*graph.outputs, *filter(takes_random_numbers, graph.values)], graph.values)
    if len(kept) == len(graph.values):
        return graph
    return Graph(graph.name, graph.inputs, kept, graph.outputs, graph.output_names)


def needed(roots: Iterable[Value], values: tuple[Value, ...], given: Iterable[Value] = ()) -> tuple[Value, ...]:
    """Those of `values` (in program order) that the roots depend on, where the `given` ones need not be computed."""
    given = set(given)
    live = set(roots)
    for v in reversed(values):
        if v in live and v not in given:
            live.update(v.operands)
    return tuple(v for v in values if v in live and v not in given)
