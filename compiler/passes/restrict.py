"""Cuts a backward graph down to the case in which gradients arrive for only some of the outputs."""
from __future__ import annotations

from typing import Sequence

from ..builder import Builder, same_type
from ..ir import Graph, Value
from .dce import dce


def restrict(backward: Graph, saved: int, arriving: Sequence[int], wanted: Sequence[int]) -> Graph:
    """(*saved, *the arriving tangents) -> the wanted gradients, for a graph of (*saved, *tangents) -> gradients.

    `saved` says how many of the inputs come before the tangents; `arriving` and `wanted` are positions among the tangents
    and the gradients. What is computed from missing tangents alone is missing too, and a sum goes on without a missing
    operand: a zero in its place would become NaN where it meets an infinity. Only an op that combines the gradients of its
    several results reads zeros for some of them, as it does in torch.
    """
    tangents = backward.inputs[saved:]
    inputs = (*backward.inputs[:saved], *(tangents[k] for k in arriving))
    left = _WithoutTangents(backward, tangents, set(tangents) - set(inputs))
    for v in backward.values:
        left.add(v)
    outputs = [left.value_of(backward.outputs[k]) for k in wanted]
    names = tuple(backward.output_names[k] for k in wanted) if backward.output_names else ()
    return dce(Graph(backward.name, inputs, tuple(left.b.values), tuple(outputs), names))


class _WithoutTangents:
    """The graph as it is rebuilt: `late` values depend on a tangent, and those of them that are `missing` on no arriving one."""

    def __init__(self, graph: Graph, tangents: Sequence[Value], missing: set[Value]):
        self.b = Builder(v.name for v in (*graph.inputs, *graph.values))
        self.late, self.missing = set(tangents), missing
        self.new: dict[Value, Value] = {}

    def add(self, v: Value) -> None:
        late = [i for i in v.operands if i in self.late]
        if late:
            self.late.add(v)
        if late and self.missing.issuperset(late):
            self.missing.add(v)
            return
        alone = [i for i in v.operands if i not in self.missing]
        if v.op.name == "add" and len(alone) == 1 and len(v.operands) == 2 and same_type(alone[0].type, v.type):
            self.new[v] = self.value_of(alone[0])
            return
        with self.b.at(v.origin, v.origin.note):
            self.new[v] = self.b.keep(v, [self.value_of(i) if isinstance(i, Value) else i for i in v.inputs])

    def value_of(self, v: Value) -> Value:
        """What stands for a value; zeros for a missing one."""
        if v in self.missing:
            return self.b.full(shape=v.shape, value=0, dtype=v.dtype, device=v.type.device)
        return self.new.get(v, v)
