"""Cuts a graph into segments that run one after another, so that something can look at values in between.

A value that is needed after its segment is one of the segment's outputs, and an input of the segments that read it.
Views and constants are made again where they are needed instead. Values may also come about between two segments.
A segment whose sizes are symbolic takes the whole's inputs that these are read off, too.
"""
from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Collection, Sequence

from ..builder import Builder
from ..dims import typical
from ..ir import Graph, TensorType, Type, Value, dense, needed
from ..op import OPS
from ..ops.core import takes_random_numbers


@dataclass(frozen=True, eq=False)
class Segment:
    """A piece of a whole graph. `takes` and `gives` are the values of the whole that its graph's inputs and outputs are."""
    graph: Graph
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Cut:
    """A graph in segments. `outputs` says which of the values that they give are the whole graph's outputs."""
    segments: tuple[Segment, ...]
    outputs: tuple[Value, ...]


def cut(graph: Graph, ends: Sequence[int], wanted: Collection[Value] = (), apart: Collection[Value] = (),
        counted: Collection[Value] = ()) -> Cut:
    """Cut after the first `ends[0]` values, after `ends[1]`, ...; one more segment holds the rest.

    `wanted`: values that are to be given, each by its own segment, whether or not a later one reads it. No output of the
    whole is also what a later segment takes (it becomes a copy): the caller may hand it on to be written to.
    `apart`: values that no segment computes; each is there once the segments before its place have run.
    `counted`: values at the ends of segments, whose sizes are symbols only for what comes after: nobody knows them before.
    """
    cutting = _Cutting(graph, ends, wanted, apart, counted)
    segments = [cutting.segment(k) for k in reversed(range(len(ends) + 1))]
    return Cut(tuple(reversed(segments)), cutting.outputs)


class _Cutting:
    """Segments are made from the last to the first: each says what it takes, which the earlier ones must give."""

    def __init__(self, graph: Graph, ends: Sequence[int], wanted: Collection[Value], apart: Collection[Value],
                 counted: Collection[Value]):
        self.graph, self.starts, self.apart, self.counted = graph, (0, *ends), set(apart), counted
        self.place = {v: bisect_right(ends, n) for n, v in enumerate(graph.values)}
        self.names = [v.name for v in (*graph.inputs, *graph.values)]
        self.users, self.bindings = graph.users(), graph.bindings()
        self.copies: dict[Value, Value] = {}
        self.outputs = tuple(map(self.output, graph.outputs))
        self.given = {v for v in (*wanted, *self.outputs) if v in self.place}

    def output(self, v: Value) -> Value:
        """What stands for an output of the whole: a copy in the last segment, if a later one than its own may take it."""
        last, own = len(self.starts) - 1, self.place.get(v, -1)
        if own == last or own >= 0 and not self.read_after(v, own):
            return v
        if v not in self.copies:
            b = Builder(self.names)
            with b.at(v.origin):
                copy = self.copies[v] = b.emit("copy", v, type=v.type)
            self.names.append(copy.name)
            self.place[copy] = last
        return self.copies[v]

    def read_after(self, v: Value, k: int) -> bool:
        """Whether a segment after the k-th may read a value, or what is made of it again."""
        return any(self.place[u] > k or repeated(u) and self.read_after(u, k) for u in self.users[v])

    def segment(self, k: int) -> Segment:
        end = self.starts[k + 1] if k + 1 < len(self.starts) else len(self.graph.values)
        own = tuple(v for v in self.graph.values[self.starts[k]:end] if v not in self.apart)
        if k == len(self.starts) - 1:
            own = (*own, *self.copies.values())
        gives = tuple(v for v in own if v in self.given)
        part = _Part(self.place, self.names, self.counted)
        for v in needed([*gives, *filter(takes_random_numbers, own)], own):
            part.add(v)
        outputs = [part.output(v) for v in gives]
        self.given.update(v for v in part.takes if v in self.place)
        graph = Graph(self.graph.name, tuple(part.b.inputs), tuple(part.b.values), tuple(outputs))
        if unbound := graph.symbols() - graph.bindings().keys():
            for s in sorted(unbound, key=lambda s: s.name):
                part.value_of(self.graph.inputs[self.bindings[s][0]])
            graph = replace(graph, inputs=tuple(part.b.inputs))
        return Segment(graph, tuple(part.takes), gives)


class _Part:
    """One segment's graph as it is built. `takes`: what its inputs stand for."""

    def __init__(self, place: dict[Value, int], names: Sequence[str], counted: Collection[Value]):
        self.place, self.counted = place, counted
        self.b = Builder(names)
        self.takes: list[Value] = []
        self.new: dict[Value, Value] = {}

    def add(self, v: Value) -> Value:
        """The value on the segment's own operands."""
        inputs = [self.value_of(i) if isinstance(i, Value) else i for i in v.inputs]
        known = Value(v.name, v.op, v.inputs, v.attrs, as_found(v.type), v.origin) if v in self.counted else v
        self.new[v] = self.b.keep(known, inputs)
        return self.new[v]

    def value_of(self, v: Value) -> Value:
        if v in self.new:
            return self.new[v]
        if v in self.place and repeated(v):
            return self.add(v)
        self.takes.append(v)
        type = v.type if v not in self.place else handed_on(v.type)
        self.new[v] = Value(v.name, OPS["input"], (), {k: a for k, a in v.attrs.items() if k == "symbol"}, type, v.origin)
        self.b.inputs.append(self.new[v])
        return self.new[v]

    def output(self, v: Value) -> Value:
        """The value, in memory of its own."""
        if v in self.counted or handed_on(v.type) == v.type:
            return self.new[v]
        return self.b.emit("copy", self.new[v], type=handed_on(v.type))


def as_found(type: TensorType) -> TensorType:
    """A type as it was in the run that was recorded."""
    return replace(type, shape=tuple(map(typical, type.shape)), strides=tuple(map(typical, type.strides)))


def repeated(v: Value) -> bool:
    """Whether a value is made again where it is needed, rather than kept."""
    return v.op.kind in ("view", "source") or not v.operands and not takes_random_numbers(v)


def handed_on(type: Type) -> Type:
    """The type with which a value goes from one segment to another: without gaps in memory."""
    return type if not isinstance(type, TensorType) or dense(type.shape, type.strides) else type.like(type.shape)
