"""The rules that every graph keeps. Run after every pass."""
from __future__ import annotations

from ..errors import InvalidGraph
from .builder import describe, same_type, type_text
from .ir import Graph, TupleType, Type, Value
from .ops.core import given_type


def verify(graph: Graph, after: str = "", typed: dict[Value, Type] | None = None) -> Graph:
    """Check the graph and return it; InvalidGraph names the value, the rule and the pass before. `typed`: values whose types were
    checked, with these; what a pass left as it was is not typed again.

    Names are unique; every value is defined before it is read; operands are values or numbers, and several results are
    read through `item` alone; every op's type rule gives the recorded type (strides aside); every size symbol is bound by an
    input.
    """
    defined: set[Value] = set()
    names: set[str] = set()
    place = f"{graph.name}{f' after {after}' if after else ''}"

    def fail(v: Value, what: str):
        operands = ", ".join(map(describe, v.inputs))
        raise InvalidGraph(f"{place}: %{v.name} = {v.op.name}({operands}) {what} [{v.origin}]")

    for v in (*graph.inputs, *graph.values):
        if v.name in names:
            fail(v, "has a name that is taken")
        names.add(v.name)
        for i in v.inputs:
            if not isinstance(i, Value):
                if not isinstance(i, (bool, int, float, complex)):
                    fail(v, f"has the operand {i!r}, which is neither a value nor a number")
            elif i not in defined:
                fail(v, f"reads %{i.name}, which is not defined before it")
            elif isinstance(i.type, TupleType) and v.op.name != "item":
                fail(v, f"reads %{i.name}, which is several results, not one")
        defined.add(v)
    for v in graph.values:
        if v.op.kind == "pointwise" and not v.operands:
            fail(v, "has no tensor among its operands")
        if v.op.type is given_type or typed is not None and typed.get(v) is v.type:
            continue
        try:
            expected = v.op.type(v.inputs, v.attrs)
        except Exception as e:
            fail(v, f"is not well typed: {e}")
        if not same_type(expected, v.type):
            fail(v, f"has type {type_text(v.type)}, its op gives {type_text(expected)}")
        if typed is not None:
            typed[v] = v.type
    for s in graph.symbols() - graph.bindings().keys():
        raise InvalidGraph(f"{place}: no input gives the size {s}")
    for o in graph.outputs:
        if o not in defined:
            raise InvalidGraph(f"{place}: output %{o.name} is not in the graph")
        if isinstance(o.type, TupleType):
            raise InvalidGraph(f"{place}: output %{o.name} is several results, not one")
    if graph.output_names and len(graph.output_names) != len(graph.outputs):
        raise InvalidGraph(f"{place}: {len(graph.output_names)} names for {len(graph.outputs)} outputs")
    return graph
