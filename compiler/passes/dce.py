"""Dead code: drop the values that nobody reads."""
from __future__ import annotations

from ..ir import Graph, needed
from ..ops.core import takes_random_numbers


def dce(graph: Graph) -> Graph:
    """Values that no output depends on go; random ones stay, because eager took their numbers from the generator too."""
    kept = needed([*graph.outputs, *filter(takes_random_numbers, graph.values)], graph.values)
    if len(kept) == len(graph.values):
        return graph
    return Graph(graph.name, graph.inputs, kept, graph.outputs, graph.output_names)
