"""Loops over time that a program has written out: cells called one after another become a recurrence.

A chain of cells, each of which takes its states from the one before, is one `recurrence` if nothing else that a cell reads
depends on the chain. What is computed alike for each time, of what is there for all times, is computed for all at once:
the inputs of the cells, and what the program stacks of their states.
"""
from __future__ import annotations

from collections import Counter
from functools import reduce
from typing import Collection, Sequence

from ..builder import Builder, Replacement, rewrite
from ..ir import Graph, TensorType, Value
from ..ops.core import takes_random_numbers
from ..ops.gradients import parts
from ..ops.recurrent import CELLS, is_celled, operands_of
from ..ops.slices import one_dim, slice_dim
from .cse import cse
from .dce import dce

#: Cells of the shortest chain that becomes a loop.
SHORTEST = 4
#: Times at which the states of a loop may be read one by one: the gradient of each is as large as all of them.
MOST_APART = 4


def roll(graph: Graph) -> Graph:
    """Each chain that can be a loop, and does good as one, is one. It comes before the gradients that a program asks for are
    derived, and leaves a program alone that asks for those of a value which is no input: a loop may not compute it."""
    if sum(v.op.name in ("cell", *_PLAIN) for v in graph.values) < SHORTEST or not _leaves(graph) <= {*graph.inputs}:
        return graph
    unrolled = _with_cells(cse(graph))
    left: set[str] = set()
    while (apart := _apart(rolled := _rolled_but(unrolled, left))) - left:
        left |= apart
    return graph if rolled is unrolled else rolled


def _leaves(graph: Graph) -> set[Value]:
    """What gradients are asked for with respect to."""
    return {x for v in graph.values if v.op.name == "gradients" for x in parts(v.inputs, v.attrs["roots"])[2]}


def _rolled_but(graph: Graph, left: Collection[str]) -> Graph:
    """The graph with its chains as loops, each of the name of its first cell, but for those whose names are left out."""
    for chain in _chains(graph):
        if chain[0].name not in left and (rolled := _rolled(graph, chain)) is not None:
            return _rolled_but(rolled, left)
    return graph


def _apart(graph: Graph) -> set[str]:
    """The loops whose states are read one by one at many times."""
    slices = Counter((v.inputs[0].inputs[0].name, v.inputs[0]) for v in graph.values
                    if v.op.name == "slice" and v.inputs[0].op.name == "item" and v.inputs[0].inputs[0].op.name == "recurrence")
    return {name for (name, _), count in slices.items() if count > MOST_APART}


#: Cells that are one op of a sum, by its name.
_PLAIN = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


def _with_cells(graph: Graph) -> Graph:
    """With a cell for each tanh(x + h @ weight) of a chain, h being the one before, and the same of relu."""
    products: dict[Value, dict[Value, Value]] = {}  # by weight, the terms of a value's sum that may be of a hidden state
    hidden: dict[str, Value] = {}  # those that are, by the names of the values
    for v in graph.values:
        if v.op.name not in _PLAIN or not is_celled(v, ()):
            continue
        terms = _terms(v.inputs[0])
        products[v] = {t.inputs[1]: t for t in terms if t.op.name == "matmul" and t.inputs[0].type == v.type
                       and any(other.shape == v.shape for other in terms if other is not t)}
        for weight, term in products[v].items():
            before = term.inputs[0]
            if before.op is v.op and weight in products.get(before, ()):
                first = products[before][weight]
                if hidden.setdefault(before.name, first) is first:
                    hidden[v.name] = term

    def rule(b: Builder, v: Value) -> Replacement:
        if v.name not in hidden:
            return None
        terms = _terms(v.inputs[0])
        term = next(t for t in terms if t.name == hidden[v.name].name)
        x = reduce(b.add, (t for t in terms if t is not term))
        return b.item(b.emit("cell", x, *reversed(term.inputs), cell=_PLAIN[v.op.name]), index=0)
    return rewrite(graph, rule)


def _terms(v: Value, depth: int = 4) -> list[Value]:
    """The terms of a sum."""
    if v.op.name != "add" or not depth or not all(isinstance(i, Value) and i.dtype == v.dtype for i in v.inputs):
        return [v]
    return [t for i in v.inputs for t in _terms(i, depth - 1)]


def _chains(graph: Graph) -> list[list[Value]]:
    """Cells, each but the first with the states of the one before it, by the same weights."""
    following: dict[Value, Value] = {}
    for v in graph.values:
        if v.op.name == "cell" and (before := _before(v)) is not None:
            following.setdefault(before, v)
    chains, later = [], set(following.values())
    for v in graph.values:
        if v in following and v not in later:
            chain = [v]
            while chain[-1] in following:
                chain.append(following[chain[-1]])
            chains.append(chain)
    return [c for c in chains if len(c) >= SHORTEST]


def _before(v: Value) -> Value | None:
    """The cell whose states are those that a cell begins with."""
    states = operands_of(CELLS[v.attrs["cell"]], v.inputs)[-1]
    before = states[0].inputs[0] if states[0].op.name == "item" else None
    if before is None or before.op is not v.op or before.attrs != v.attrs or _weights(before) != _weights(v):
        return None
    items = [(s.inputs[0], s.attrs["index"]) for s in states if s.op.name == "item"]
    return before if items == [(before, k) for k in range(len(states))] else None


def _weights(v: Value) -> tuple[Value, ...]:
    return v.inputs[1:len(v.inputs) - CELLS[v.attrs["cell"]].states]


def _rolled(graph: Graph, chain: Sequence[Value]) -> Graph | None:
    """The graph with a chain as a loop; None where that can't be."""
    after = _depending(graph, chain)
    if after is None:
        return None
    b = Builder.over(graph)
    new: dict[Value, Value] = {v: v for v in graph.inputs}
    for v in graph.values:
        if v not in after:
            new[v] = b.keep(v)
    cell, first = chain[0].attrs["cell"], chain[0]
    with b.at(first.origin):
        inputs = _AtOnce(b, stacked=True).of(tuple(v.inputs[0] for v in chain))
        loop = b.emit("recurrence", inputs, *first.inputs[1:], cell=cell, backwards=False)
        loop.name = first.name
        states = [b.item(loop, index=k) for k in range(CELLS[cell].states)]
    times = {v: t for t, v in enumerate(chain)}
    for v in graph.values:
        if v in after and v not in times:
            if v.op.name == "item" and v.inputs[0] in times:
                with b.at(v.origin):
                    whole = states[v.attrs["index"]]
                    new[v] = b.reshape(slice_dim(b, whole, 0, times[v.inputs[0]], 1), shape=v.shape)
            else:
                new[v] = b.moved(v, new)
    outputs = [b.copy(new[o]) if o.op.name == "item" and o.inputs[0] in times else new[o] for o in graph.outputs]
    return dce(rewrite(b.graph(graph.name, outputs, graph.output_names), _stacked))


def _depending(graph: Graph, chain: Sequence[Value]) -> set[Value] | None:
    """The chain and what depends on it; None where a cell reads more of that than the states of the one before, or random
    numbers would be taken in another order."""
    found, members, drawn = {chain[0]}, set(chain), False
    for v in graph.values:
        read = (v.inputs[0], *_weights(v)) if v in members else v.operands
        depends = any(i in found for i in read)
        if v in members and depends or takes_random_numbers(v) and drawn and not depends:
            return None
        drawn = drawn or depends and takes_random_numbers(v)
        if v in members or depends:
            found.add(v)
    return found


def _stacked(b: Builder, v: Value) -> Replacement:
    """Values that differ by time alone, and lie one after another, computed at once."""
    if v.op.name != "cat" or len(v.inputs) < SHORTEST:
        return None
    start = len(b.values)
    whole = _AtOnce(b).of(v.inputs)
    if whole is None:
        del b.values[start:]
        return None
    d = v.attrs["dim"]
    ordered = b.permute(whole, dims=(*range(1, d + 1), 0, *range(d + 1, whole.rank))) if d else whole
    return b.reshape(ordered, shape=v.shape)


class _AtOnce:
    """What is computed of a value for each time, for all times at once."""

    def __init__(self, b: Builder, stacked: bool = False):
        self.b, self.stacked = b, stacked
        self.found: dict[tuple[Value, ...], Value | None] = {}

    def of(self, values: tuple[Value, ...]) -> Value | None:
        """[times, *sizes] of a value of each time. Where they don't come of one tensor by the same steps, they are `stacked`,
        or it is None."""
        if values not in self.found:
            self.found[values] = self.computed(values)
        return self.found[values]

    def computed(self, values: tuple[Value, ...]) -> Value | None:
        b, first = self.b, values[0]
        if any(v.type != first.type for v in values) or not isinstance(first.type, TensorType):
            return None
        alike = all((v.op, v.attrs, len(v.inputs)) == (first.op, first.attrs, len(first.inputs)) for v in values)
        found = None if all(v is first for v in values) else _parts(b, values)
        if found is None and alike:
            with b.at(first.origin):
                found = self.by_steps(values)
        if found is None and self.stacked:
            found = b.cat(*(b.reshape(v, shape=(1, *v.shape)) for v in values), dim=0)
        return found

    def by_steps(self, values: tuple[Value, ...]) -> Value | None:
        """The same of one op's results, where it can be had of all at once."""
        b, op, attrs, shape = self.b, values[0].op, values[0].attrs, values[0].shape
        operands, moving = [], []
        for column in zip(*(v.inputs for v in values)):
            same = all(o is column[0] or not isinstance(o, Value) and repr(o) == repr(column[0]) for o in column)
            whole = column[0] if same else self.of(column) if all(isinstance(o, Value) for o in column) else None
            if whole is None and not same:
                return None
            operands.append(whole)
            moving.append(not same)
        if not any(moving):
            return None
        x, times, found = operands[0], len(values), None
        if op.kind == "pointwise":
            found = b.emit(op, *(_in_front(b, o, len(shape)) if moves else o for o, moves in zip(operands, moving)), **attrs)
        elif op.name == "matmul" and moving == [True, False] and len(shape) == 2:
            found = b.reshape(b.matmul(b.reshape(x, shape=(times * x.shape[1], x.shape[2])), operands[1]), shape=(times, *shape))
        elif op.name == "reshape":
            found = b.reshape(x, shape=(times, *attrs["shape"]))
        elif op.name == "permute":
            found = b.permute(x, dims=(0, *(d + 1 for d in attrs["dims"])))
        elif op.name in ("softmax", "log_softmax"):
            found = b.emit(op, x, **{**attrs, "dim": attrs["dim"] + 1})
        return found if found is not None and (found.shape, found.dtype) == ((times, *shape), values[0].dtype) else None


def _in_front(b: Builder, x: Value, rank: int) -> Value:
    """[times, *sizes] as an operand of results of this rank besides."""
    return b.reshape(x, shape=(x.shape[0], *([1] * (rank + 1 - x.rank)), *x.shape[1:])) if x.rank <= rank else x


def _parts(b: Builder, values: Sequence[Value]) -> Value | None:
    """The same of consecutive parts of one tensor, or of every n-th, or of those in reverse."""
    slices = [v.inputs[0] if v.op.name == "reshape" else v for v in values]
    base = slices[0].inputs[0] if slices[0].op.name == "slice" else None
    if base is None or any(s.op.name != "slice" or s.inputs[0] is not base for s in slices):
        return None
    partial = [d for d, n in enumerate(base.shape) if slices[0].shape[d] != n]
    if len(partial) != 1:
        return None
    d, = partial
    at = [s.attrs["start"][d] for s in slices]
    if not all(isinstance(k, int) for k in at) or at[0] == at[1]:
        return None
    step = at[1] - at[0]
    if at != [at[0] + k * step for k in range(len(at))] \
            or any(s.attrs != one_dim(base.shape, d, k, 1, 1) for s, k in zip(slices, at)):
        return None
    part = slice_dim(b, base, d, min(at), len(at), abs(step))
    if step < 0:
        part = b.flip(part, dims=(d,))
    ordered = b.permute(part, dims=(d, *(k for k in range(part.rank) if k != d))) if d else part
    return b.reshape(ordered, shape=(len(at), *values[0].shape))
