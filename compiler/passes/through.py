"""Lets gradients flow through results: what is computed of a result reads it as an input of its own.

Where one result of a function is computed of another one, as logits are of the features returned beside them, torch's gradient
of the first goes through the second: hooks of it, `retain_grad` and torch.autograd.grad see it and may change it. So the graph
falls apart into regions, by the results that values are computed of, each differentiated on its own. Whatever gradients flow
through from one region to another becomes a result, too, that only autograd sees: no step is differentiated twice.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Sequence

from ..builder import Builder
from ..ir import Graph, TensorType, Value, needed
from .bring import bring
from .gradient import Joint, differentiable, stops_gradients
from .roll import roll


@dataclass(frozen=True, eq=False)
class Through:
    """
    graph    the inputs, then one for each of `stands`; the outputs, then what else flows from one region to another
    of       the outputs that gradients arrive for: at first the `seen` ones that the user has
    stands   for each of the last inputs, the output whose value it has
    regions  of each of `of`: a region takes values of those with lower numbers alone
    """
    graph: Graph
    of: tuple[int, ...]
    stands: tuple[int, ...]
    regions: tuple[int, ...]
    seen: int


def through(graph: Graph, wrt: Sequence[int], of: Sequence[int]) -> Through:
    """For gradients of outputs `of` with respect to inputs `wrt`. A graph that takes gradients itself, which run through it as it
    is, or of whose steps some are those of a loop, stays whole."""
    results = [graph.outputs[k] for k in of]
    steps = list(needed(results, graph.values))
    read = {i for v in steps for i in v.operands}
    inner = {v: 1 << n for n, v in enumerate(dict.fromkeys(v for v in results if v in read and v not in graph.inputs))}
    if not inner or any(v.op.name == "gradients" for v in steps) or _rolls(graph):
        return Through(graph, tuple(of), (), (0,) * len(of), len(of))
    return _Regions(graph, steps, inner, {graph.inputs[k] for k in wrt}, set(results)).apart(tuple(of))


def _rolls(graph: Graph) -> bool:
    graph = bring(graph)
    return roll(graph) is not graph


class _Regions:
    def __init__(self, graph: Graph, steps: Sequence[Value], inner: dict[Value, int], leaves: set[Value],
                 results: set[Value]):
        self.graph, self.steps = graph, set(steps)
        self.active = set(leaves)  # what gradients flow through
        self.region = {v: 0 for v in graph.inputs}  # the results that a value is computed of, as bits
        for v in graph.values:
            flowing = [i for i in v.operands if i in self.active]
            self.region[v] = reduce(or_, (self.region[i] | inner.get(i, 0) for i in flowing), 0)
            if flowing and differentiable(v.type) and not stops_gradients(v.op):
                self.active.add(v)
        users = graph.users()
        for v in reversed(steps):  # what one other region alone reads is a part of that one
            read_by = {self.region[u] for u in users[v] if u in self.steps}
            if v in self.active and v not in results and len(read_by) == 1:
                self.region[v], = read_by
        self.inner, self.b = inner, Builder.over(graph)
        self.stands: dict[Value, Value] = {}
        self.views: dict[tuple[Value, int], Value] = {}
        self.new: dict[Value, Value] = {}

    def apart(self, of: tuple[int, ...]) -> Through:
        graph, b = self.graph, self.b
        for v in graph.values:
            if v in self.steps:
                self.new[v] = self._again(v, self.region[v])
            else:
                self.new[v] = Value(v.name, v.op, [self.new.get(i, i) for i in v.inputs], v.attrs, v.type, v.origin)
            b.values.append(self.new[v])
        numbers = {graph.outputs[k]: k for k in reversed(of)}
        more = [v for v in self.stands if v not in numbers]
        numbers.update((v, len(graph.outputs) + n) for n, v in enumerate(more))
        copies = [b.copy(self.new[v]) if v in graph.outputs else self.new[v] for v in more]
        names = (*graph.output_names, *(v.name for v in more)) if graph.output_names else ()
        masks = [self.region[v] for v in (*(graph.outputs[k] for k in of), *more)]
        ranks = {m: n for n, m in enumerate(sorted(set(masks), key=lambda m: (m.bit_count(), m)))}
        return Through(b.graph(graph.name, [*(self.new.get(v, v) for v in graph.outputs), *copies], names),
                       (*of, *(numbers[v] for v in more)), tuple(numbers[v] for v in self.stands),
                       tuple(ranks[m] for m in masks), len(of))

    def _again(self, v: Value, region: int, name: str = "") -> Value:
        operands = [self._taken(i, region) if isinstance(i, Value) else i for i in v.inputs]
        return Value(name or v.name, v.op, operands, v.attrs, v.type, v.origin)

    def _taken(self, v: Value, region: int) -> Value:
        """What stands for a value in a region."""
        if v not in self.steps or v not in self.active or self.region[v] == region or not isinstance(v.type, TensorType):
            return self.new.get(v, v)
        if v.op.kind == "view" and v not in self.inner:
            if (v, region) not in self.views:
                self.views[v, region] = self._again(v, region, self.b.name(v.name))
                self.b.values.append(self.views[v, region])
            return self.views[v, region]
        if v not in self.stands:
            self.stands[v] = self.b.input(v.name, v.type, v.origin)
        return self.stands[v]


def closed(joint: Joint, through: Through, inputs: int) -> Joint:
    """The derivative of such a graph, with what is there in place of the inputs after the first ones that stand for it."""
    stands = dict(zip(joint.graph.inputs[inputs:], (joint.graph.outputs[k] for k in through.stands)))
    new: dict[Value, Value] = {}

    def replaced(v: Value) -> Value:
        while v in stands:
            v = stands[v]
        return new.get(v, v)
    for v in joint.graph.values:
        new[v] = Value(v.name, v.op, [replaced(i) if isinstance(i, Value) else i for i in v.inputs], v.attrs, v.type, v.origin)
    graph = replace(joint.graph, inputs=tuple(i for i in joint.graph.inputs if i not in stands), values=tuple(new.values()),
                    outputs=tuple(map(replaced, joint.graph.outputs)))
    return replace(joint, graph=graph)
