"""The rules that every graph keeps. Run after every pass."""
from __future__ import annotations

from ..errors import InvalidGraph
from .builder import describe, type_text
from .ir import Graph, Value


def verify(graph: Graph, after: str = "") -> Graph:
    """Check the graph and return it; InvalidGraph names the value, the rule and the pass before.

    Names are unique; every value is defined before it is read; every op's type rule gives the recorded type (strides aside).
    """
    defined: set[Value] = set()
    names: set[str] = set()

    def fail(v: Value, what: str):
        operands = ", ".join(map(describe, v.inputs))
        raise InvalidGraph(f"{graph.name}{f' after {after}' if after else ''}: %{v.name} = {v.op.name}({operands}) {what} [{v.origin}]")

    for v in (*graph.inputs, *graph.values):
        if v.name in names:
            fail(v, "has a name that is taken")
        names.add(v.name)
        for i in v.operands:
            if i not in defined:
                fail(v, f"reads %{i.name}, which is not defined before it")
        defined.add(v)
    for v in graph.values:
        if v.op.type.__name__ == "_no_type":
            continue
        try:
            expected = v.op.type(v.inputs, v.attrs)
        except Exception as e:
            fail(v, f"is not well typed: {e}")
        if not same_type(expected, v.type):
            fail(v, f"has type {type_text(v.type)}, its op gives {type_text(expected)}")
    for o in graph.outputs:
        if o not in defined:
            raise InvalidGraph(f"{graph.name}{f' after {after}' if after else ''}: output %{o.name} is not in the graph")
    return graph


def same_type(a, b) -> bool:
    """Equal but for strides."""
    if hasattr(a, "items") and hasattr(b, "items"):
        return len(a.items) == len(b.items) and all(map(same_type, a.items, b.items))
    if hasattr(a, "dtype") and hasattr(b, "dtype"):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return a == b
