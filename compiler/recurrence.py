"""What is in one step of a loop over time (kind "loop"; compiler/ops/recurrent.py), as a graph of its own.

A step's tensors are parts of the loop's operands and results, and what one step hands to the next.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from .builder import Builder
from .dims import Dim, typical
from .ir import Graph, TensorType, Value
from .ops.recurrent import CELLS, Cell, gate, held, joined, joined_pieces, operands_of, split_backward
from .passes import cse, dce, fold, simplify
from .passes.gradient import gradient


@dataclass(frozen=True)
class Place:
    """Where a tensor of a step comes from or goes to.

    how     "whole"    operand `at` of the loop, at every step
            "each"     the step's own part of operand or result `at`
            "before"   the part, of what is said by `at`, that the net's step before made; the operand `first` where there is none
            "handed"   the `at`-th of what a step hands to the next, zeros at the first; as an output, result `first` at the last
    result  whether `at` counts the loop's results rather than its operands
    """
    how: str
    at: int
    first: int = -1
    result: bool = False


@dataclass(frozen=True)
class Step:
    """One step: a place for each input and output of `graph`, which is lowered like any other.

    steps   how many there are
    falls   whether time runs from the last part to the first
    before  from a part to that of the net's step before it: -1 or 1
    """
    graph: Graph
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    steps: Dim
    falls: bool
    before: int


def step_of(v: Value) -> Step:
    """The step of a `recurrence` or a `recurrence_backward`."""
    return (_backward if v.op.name == "recurrence_backward" else _forward)(v)


#: Columns of a weight that lie together, and the bytes from which on it is worth it.
PANEL, LARGE = 16, 1 << 16


def in_panels(b: Builder, v: Value) -> list:
    """The operands of a loop, with a large weight [k, n] cut into panels [n / PANEL, k, PANEL], which each step then reads in
    the order of memory."""
    inputs, place = list(v.inputs), int(v.op.name == "recurrence")
    weight = inputs[place]
    if weight.rank == 2 and weight.shape[1] % PANEL == 0 and typical(weight.type.nbytes) >= LARGE:
        k, n = weight.shape
        inputs[place] = b.permute(b.reshape(weight, shape=(k, n // PANEL, PANEL)), dims=(1, 0, 2))
    return inputs


def _product(b: Builder, x: Value, weight: Value) -> Value:
    """x times a weight, which may lie in panels."""
    found = b.matmul(x, weight)
    if weight.rank == 2:
        return found
    return b.reshape(b.permute(found, dims=(1, 0, 2)), shape=(x.shape[0], weight.shape[0] * weight.shape[2]))


class _Maker:
    """A step's graph on its way."""

    def __init__(self, v: Value):
        self.b, self.name, self.inputs, self.outputs = Builder(), v.name, [], []
        self.b.origin = v.origin

    def input(self, name: str, type: TensorType, shape: Sequence[Dim], place: Place) -> Value:
        self.inputs.append(place)
        return self.b.input(name, type.like(shape))

    def live(self, live: Value | None, operands: Sequence) -> Value | None:
        """Which sequences go on, an operand of the loop, if it has it."""
        return live and self.input("live", live.type, live.shape[1:], Place("each", operands.index(live)))

    def output(self, v: Value, place: Place) -> None:
        self.outputs.append((v, place))

    def step(self, steps: Dim, falls: bool, before: int) -> Step:
        graph = self.b.graph(self.name, [v for v, _ in self.outputs])
        for p in (simplify, fold, cse, dce):
            graph = p(graph)
        return Step(graph, tuple(self.inputs), tuple(place for _, place in self.outputs), steps, falls, before)


def _forward(v: Value) -> Step:
    cell, falls = CELLS[v.attrs["cell"]], v.attrs["backwards"]
    x, weight, bias, live, states = operands_of(cell, v.inputs)
    (time, batch, gates), size, first = x.shape, states[0].shape[1], len(v.inputs) - cell.states
    m = _Maker(v)
    b = m.b
    given = m.input("x", x.type, (batch, gates), Place("each", 0))
    before = [m.input(f"state_{k}", s.type, (batch, size), Place("before", k, first + k, result=True))
              for k, s in enumerate(states)]
    hidden = _product(b, before[0], m.input("weight", weight.type, weight.shape, Place("whole", 1)))
    if bias is not None:
        hidden = b.add(hidden, m.input("bias", bias.type, bias.shape, Place("whole", 2)))
    kept = joined_pieces(b, cell, given, hidden, size)
    after = cell.step(b, [gate(b, kept, k, size) for k in range(cell.pieces)], before)
    after = held(b, m.live(live, v.inputs), after, before)
    for k, state in enumerate(after):
        m.output(state, Place("each", k, result=True))
    m.output(kept, Place("each", cell.states, result=True))
    return m.step(time, falls, 1 if falls else -1)


def _backward(v: Value) -> Step:
    cell, backwards = CELLS[v.attrs["cell"]], v.attrs["backwards"]
    weight, pieces, first, after, live, grads = split_backward(cell, v.inputs)
    (time, batch, _), size, n = pieces.shape, first[0].shape[1], cell.states
    m = _Maker(v)
    b = m.b
    arriving = {k: m.input(f"grad_{k}", g.type, g.shape[1:], Place("each", len(v.inputs) - len(grads) + place))
                for place, (k, g) in enumerate(zip(v.attrs["which"], grads))}
    later = [m.input(f"later_{k}", s.type, (batch, size), Place("handed", k)) for k, s in enumerate(first)]
    tangents = [b.add(arriving[k], g) if k in arriving else g for k, g in enumerate(later)]
    kept = m.input("pieces", pieces.type, (batch, cell.pieces * size), Place("each", 1))
    before = [m.input(f"state_{k}", s.type, (batch, size), Place("before", 2 + n + k, 2 + k)) for k, s in enumerate(first)]
    found = _pulled_back(b, cell, [*(gate(b, kept, k, size) for k in range(cell.pieces)), *before],
                         m.live(live, v.inputs), tangents)
    of_pieces, of_states = found[:cell.pieces], found[cell.pieces:]
    if n in arriving:
        of_pieces = [b.add(g, gate(b, arriving[n], k, size)) for k, g in enumerate(of_pieces)]
    hidden = joined(b, [of_pieces[k] for k in cell.of_hidden])
    of_states[0] = b.add(of_states[0], _product(b, hidden, m.input("weight", weight.type, weight.shape, Place("whole", 0))))
    m.output(hidden, Place("each", 0, result=True))
    if not cell.alike:
        m.output(joined(b, [of_pieces[k] for k in cell.of_input]), Place("each", 1, result=True))
    for k, g in enumerate(of_states):
        m.output(g, Place("handed", k, 2 - cell.alike + k, result=True))
    return m.step(time, not backwards, 1 if backwards else -1)


def _pulled_back(b: Builder, cell: Cell, operands: Sequence[Value], live: Value | None, tangents: Sequence[Value]) -> list[Value]:
    """The gradients of a cell's pieces and states before, given those of its states after."""
    inside = Builder()
    inputs = [inside.input(f"x_{k}", x.type) for k, x in enumerate(operands)]
    alive = live and inside.input("live", live.type)
    after = held(inside, alive, cell.step(inside, inputs[:cell.pieces], inputs[cell.pieces:]), inputs[cell.pieces:])
    joint = gradient(inside.graph("cell", after), range(len(inputs)), range(len(after)))
    new = dict(zip(joint.graph.inputs, (*operands, *([live] if live else []), *tangents), strict=True))
    for v in joint.graph.values:
        new[v] = b.emit(v.op, *(new[i] if isinstance(i, Value) else i for i in v.inputs), type=v.type, **v.attrs)
    return [new[g] for g in joint.graph.outputs[joint.primal_outputs:]]
