"""Splits a joint graph in a forward and a backward graph: what to save between them, and what to compute again.

A minimum cut decides, as in min-cut rematerialization (H. He and S. Yu, "Transcending Runtime-Memory Tradeoffs in
Checkpointing by being Fusion Aware", MLSys 2023; torch's AOTAutograd has the same idea). Every value that depends on no
tangent is two nodes of a network, `in -> out`: cutting between them saves the value, and its capacity is the bytes of
memory traffic that this costs. A value whose `in` falls on the backward's side is computed there, which costs its
capacity from the source. Both costs are in bytes, so that a long chain of functions is saved where one exp is repeated.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ..builder import Builder
from ..dims import Expr, Sym, expr_of, typical
from ..ir import Graph, TensorType, TupleType, Type, Value, dense, needed
from ..op import OPS
from ..ops.core import takes_random_numbers
from .dce import dce
from .gradient import Joint
from .mincut import INFINITE, Network

#: Bytes of memory traffic that take as long as one scalar operation: an exp counts 12 and takes as long as about 2 bytes.
BYTES_PER_OPERATION = 0.15
#: Differentiated inputs of at most this many bytes are copied where eager would keep something else: an optimiser may write to
#: them before the backward. Such a write to a larger one raises.
LARGEST_COPY = 16384
#: Kinds of op that the backward may run again; everything else is saved.
REPEATABLE = ("pointwise", "view", "source", "reduce", "cat")


@dataclass(frozen=True, eq=False)
class Split:
    """A joint graph in two.

    forward    primal inputs -> primal outputs, then the extra values that are saved
    backward   (*saved, *tangents) -> gradients
    saved      where each of the backward's first inputs comes from: ("input", k) a primal input as it is, or
               ("extra", k) the k-th extra output of the forward graph. A primal output that is saved is copied for it,
               so that the caller may write to the output. They give every size symbol that the backward asks for, so
               that it does without any of its tangents.
    """
    forward: Graph
    backward: Graph
    saved: tuple[tuple[str, int], ...]


def partition(joint: Joint) -> Split:
    """Choose what to save. The joint graph should be decomposed and simplified: composite ops are never repeated."""
    graph = dce(joint.graph)
    primal_inputs, tangents = graph.inputs[:joint.primal_inputs], graph.inputs[joint.primal_inputs:]
    primal_outputs, gradients = graph.outputs[:joint.primal_outputs], graph.outputs[joint.primal_outputs:]
    late = _dependent_on(graph, tangents)
    forward_values = tuple(v for v in graph.values if v not in late)
    saved = _choose(graph, primal_outputs, gradients, late, forward_values)

    b = Builder(v.name for v in (*graph.inputs, *graph.values))
    holding = {v.attrs["symbol"]: v for v in primal_inputs if "symbol" in v.attrs}
    for s in _unbound(graph, saved, tangents, gradients):
        saved.append(holding.get(s) or b.scalar(expr_of(s), dtype=torch.int64, device=torch.device("cpu")))
    unread = [primal_inputs[k] for k in joint.wrt if k < len(primal_inputs) and k not in joint.read]
    apart = {x for x in unread if nbytes(x.type) <= LARGEST_COPY}
    later = [v for v in saved if v not in primal_inputs or v in apart]
    extra = [b.copy(v) if v in primal_outputs or v in apart or not _own_layout(v.type) else v for v in later]
    values = (*forward_values, *b.values)
    kept = needed([*primal_outputs, *extra, *filter(takes_random_numbers, values)], values)
    names = (*graph.output_names[:len(primal_outputs)], *(v.name for v in extra)) if graph.output_names else ()
    name = graph.name.removesuffix("_joint")
    forward = Graph(f"{name}_forward", primal_inputs, kept, (*primal_outputs, *extra), names)
    places = {v: ("input", k) for k, v in enumerate(primal_inputs)}
    places |= {v: ("extra", k) for k, v in enumerate(later)}
    types = {v: x.type for v, x in zip(later, extra)}
    backward = _backward(f"{name}_backward", graph, {v: types.get(v, v.type) for v in saved}, tangents, gradients)
    return Split(forward, backward, tuple(places[v] for v in saved))


def _own_layout(t: Type) -> bool:
    """Whether a value of this type keeps its strides in memory of its own: not those of a view with gaps."""
    return not isinstance(t, TensorType) or dense(t.shape, t.strides)


def _dependent_on(graph: Graph, tangents: tuple[Value, ...]) -> set[Value]:
    late = set(tangents)
    for v in graph.values:
        if any(i in late for i in v.operands):
            late.add(v)
    return late


def _backward(name: str, graph: Graph, saved: dict[Value, Type], tangents: tuple[Value, ...],
              gradients: tuple[Value, ...]) -> Graph:
    """The gradients from the saved values, which become inputs of these types under their own names."""
    new = {v: Value(v.name, OPS["input"], (), _binding(v), type, v.origin) for v, type in saved.items()}
    inputs = (*new.values(), *tangents)
    values = []
    for v in needed(gradients, graph.values, saved):
        operands = [new.get(i, i) if isinstance(i, Value) else i for i in v.inputs]
        new[v] = Value(v.name, v.op, operands, v.attrs, v.type, v.origin)
        values.append(new[v])
    names = graph.output_names[len(graph.output_names) - len(gradients):] if graph.output_names else ()
    return Graph(name, inputs, tuple(values), tuple(new.get(g, g) for g in gradients), names)


def _unbound(graph: Graph, saved: list[Value], tangents: tuple[Value, ...], gradients: tuple[Value, ...]) -> list[Sym]:
    """The symbols that the backward asks for and no saved value gives, by name."""
    given = Graph("", tuple(Value(v.name, OPS["input"], (), _binding(v), v.type, v.origin) for v in saved), (), ())
    asked = Graph("", (*saved, *tangents), needed(gradients, graph.values, saved), ()).symbols()
    return sorted(asked - given.bindings().keys(), key=lambda s: s.name)


def _binding(v: Value) -> dict[str, Sym]:
    """The attributes of an input that takes the place of `v`."""
    if v.op.name == "scalar" and v.dtype == torch.int64 and v.inputs[0].op.name == "size":
        size = v.inputs[0].attrs["dim"]
        return {"symbol": size.symbol} if isinstance(size, Expr) and size.symbol else {}
    return {k: a for k, a in v.attrs.items() if k == "symbol"}


def _choose(graph: Graph, primal_outputs, gradients, late: set[Value], forward_values: tuple[Value, ...]) -> list[Value]:
    """The values to save: in program order, inputs first."""
    wanted = {i for v in graph.values if v in late for i in v.operands if i not in late}
    wanted.update(g for g in gradients if g not in late)
    relevant = set(needed(wanted, forward_values))
    early = [i for i in graph.inputs if i not in late] + [v for v in forward_values if v in relevant]
    costs = _Costs(graph, primal_outputs, set(needed(primal_outputs, forward_values)))
    source, sink = 2 * len(early), 2 * len(early) + 1
    node = {v: 2 * n for n, v in enumerate(early)}  # a value's `in`; its `out` is the next
    network = Network(2 * len(early) + 2)
    for v in early:
        network.add(source, node[v], costs.of_computing(v))
        network.add(node[v], node[v] + 1, costs.of_saving(v))
        for i in v.operands:
            network.add(node[i] + 1, node[v], INFINITE)
        if v in wanted:
            network.add(node[v] + 1, sink, INFINITE)
    late_side = network.sink_side(source, sink)
    return [v for v in early if late_side[node[v] + 1] and not late_side[node[v]]]


class _Costs:
    """What saving a value, or computing it in the backward, costs: in bytes of memory traffic."""

    def __init__(self, graph: Graph, primal_outputs: tuple[Value, ...], in_forward: set[Value]):
        self.in_forward = in_forward
        stored = {v for v in graph.values if v.op.kind not in ("pointwise", "source")}
        stored |= {i for v in graph.values if v.op.kind in ("contract", "opaque", "loop") for i in v.operands}
        self.stored = {v for v in stored if v.op.kind != "view"} - set(primal_outputs)

    def of_saving(self, v: Value) -> int:
        if v.op.name == "input":
            return 0
        if isinstance(v.type, TupleType):
            return INFINITE  # its items are saved
        # What the forward writes to memory anyway costs only the memory; the rest, and the copy of an output, a store too.
        # A view costs a little more than what it views, so that of two as large the latter is saved.
        return nbytes(v.type) * (1 if v in self.stored else 2) + (v.op.kind == "view")

    def of_computing(self, v: Value) -> int:
        if v.op.name == "input":
            return INFINITE
        if v.op.name == "item":
            return 0
        if takes_random_numbers(v):
            return INFINITE
        if v not in self.in_forward:
            return 0  # it is computed once, here or there
        if v.op.kind not in REPEATABLE:
            return INFINITE
        if v.op.kind == "view":
            return 0
        if v.op.kind == "reduce":
            return nbytes(v.inputs[0].type)  # another pass over its input
        return int(typical(v.type.numel) * v.op.cost * BYTES_PER_OPERATION)


def nbytes(t: Type) -> int:
    """The size in memory, roughly where it is symbolic; a Python object counts as a word."""
    return typical(t.nbytes) if isinstance(t, TensorType) else 8
