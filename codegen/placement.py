"""What lies in memory: which values are stored, and which are computed again by every group that reads them.

A value that only its own group reads needs no memory. One that other groups read is stored, unless computing it again
from what they can load moves fewer bytes and costs little.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable

from ..compiler.dims import typical
from ..compiler.ir import Graph, Value
from .coordinates import size
from .fuse import Fusion, Group, operand_bases

#: Scalar operations an element that are cheaper than a store and a load of it.
CHEAP = 16
#: The same where the value is broadcast, so that it is computed many times.
CHEAP_BROADCAST = 3
#: A value computed again may need this many tensors as large as itself.
MOST_LEAVES = 3


@dataclass(eq=False)
class Placement:
    """stored: values that lie in memory (inputs aside); evaluated: the groups that compute each value;
    loads: what each group reads from memory."""
    stored: set[Value]
    evaluated: dict[Value, set[Group]]
    loads: dict[Group, set[Value]]


def place(graph: Graph, fusion: Fusion) -> Placement:
    return _Placer(graph, fusion).place()


class _Placer:
    def __init__(self, graph: Graph, fusion: Fusion):
        self.graph, self.fusion = graph, fusion
        self.stored = self.required()
        self.evaluated: dict[Value, set[Group]] = {}
        self.wanted: dict[Value, set[Group]] = {}
        self.chains = self.cheap_chains()

    def required(self) -> set[Value]:
        """Outputs, what opaque calls and matrix products read, and their results."""
        required = set(self.graph.outputs) - set(self.graph.inputs)
        for v in self.graph.values:
            if v.op.kind in ("view", "source"):
                continue
            if self.fusion.group_of[v].fixed or v.op.kind == "contract":
                required.update(b for b in operand_bases(v) if b.op.kind not in ("input", "source"))
            if self.fusion.group_of[v].fixed or v.op.kind == "part":
                required.add(v)
        return required

    def cheap_chains(self) -> dict[Value, tuple[float, frozenset[Value]]]:
        """For what may be computed again: the scalar operations, and the values in memory that it starts from."""
        chains: dict[Value, tuple[float, frozenset[Value]]] = {}
        for v in self.graph.values:
            if v.op.kind not in ("pointwise", "gather") or v in self.stored:
                continue
            cost, leaves = v.op.cost, frozenset()
            for base in operand_bases(v):
                more, start = chains.get(base, (0, frozenset(() if base.op.kind == "source" else (base,))))
                cost += more * min(1.0, _elements(base) / max(_elements(v), 1))  # a row's value is computed once a row
                leaves |= start
            large = [q for q in leaves if _elements(q) * 4 >= _elements(v)]
            if cost <= CHEAP and len(large) <= MOST_LEAVES or v.type.numel == 1:
                chains[v] = cost, leaves
        return chains

    def place(self) -> Placement:
        for v in reversed(self.graph.values):
            if v.op.kind not in ("view", "source"):
                self.place_value(v)
        loads: dict[Group, set[Value]] = {g: set() for g in self.fusion.groups}
        for v, groups in self.evaluated.items():
            for base in operand_bases(v):
                if base.op.kind != "source":
                    for g in groups:
                        if g not in self.evaluated.get(base, ()):
                            loads[g].add(base)
        return Placement(self.stored, self.evaluated, loads)

    def place_value(self, v: Value) -> None:
        own, wanted = self.fusion.group_of[v], self.wanted.get(v, set())
        if v not in self.stored and not wanted <= {own} and not self.again(v, own, wanted):
            self.stored.add(v)
        self.evaluated[v] = {own} if v in self.stored else set(wanted)
        for base in operand_bases(v):
            if base.op.kind not in ("input", "source"):
                self.wanted.setdefault(base, set()).update(self.evaluated[v])

    def again(self, v: Value, own: Group, wanted: set[Group]) -> bool:
        """Whether the groups that want a value should each compute it."""
        if v not in self.chains:
            return False
        cost, leaves = self.chains[v]
        n = _elements(v)
        if n == 1:
            return True
        others = wanted - {own}
        if cost * len(others) > CHEAP or cost > CHEAP_BROADCAST and any(_points(g) > 4 * n for g in others):
            return False
        loads = sum(_bytes(q for q in leaves if not self.loaded(q, g)) for g in others)
        forced = _bytes(q for q in leaves if not self.in_memory(q) and not self.shared(q))
        own_loads = 0 if own in wanted else _bytes(q for q in leaves if self.in_memory(q))
        stored = _bytes([v])  # a store costs two: the line is fetched before it is written
        return loads + 2 * forced < (2 + len(others)) * stored + own_loads

    def in_memory(self, v: Value) -> bool:
        return v.op.kind == "input" or v in self.stored

    def loaded(self, v: Value, group: Group) -> bool:
        """Whether a group has a value at hand anyway."""
        return group in self.wanted.get(v, ())

    def shared(self, v: Value) -> bool:
        """Whether a computed value is already wanted outside its own group."""
        return not self.wanted.get(v, set()) <= {self.fusion.group_of[v]}


def _points(group: Group) -> int:
    total = 1
    for a in group.axes:
        total *= typical(size(a))
    return total


def _elements(v: Value) -> int:
    return typical(v.type.numel)


def _bytes(values: Iterable[Value]) -> int:
    return sum(typical(q.type.nbytes) for q in values)
