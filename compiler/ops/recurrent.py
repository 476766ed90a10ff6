"""Recurrent nets.

As ops of torch: on padded sequences, where they drop nothing and so draw no random numbers, as torch's own ops may; and on
packed ones, which they take and give padded. On the CPU they become, for each layer and direction, a matrix product of all
inputs at once and a `recurrence`: a loop over time, which code generation makes of one step (compiler/recurrence.py says what
is in it). One step by itself is a `cell`; where a program calls one after another, passes/roll.py makes a recurrence of them.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, Callable, Sequence

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..ir import TupleType, Value
from ..op import Op, register
from .core import Operand, define, gradients_of
from .matmul import transposed
from .slices import slice_dim

#: The nets, by name: what their hidden states are, and how many results they give.
_NETS = {"lstm": ("Tensor[]", 3), "gru": ("Tensor", 2), "rnn_tanh": ("Tensor", 2), "rnn_relu": ("Tensor", 2)}


def padded(net: str) -> Callable:
    """The op that a net is which drops nothing."""
    return getattr(torch.ops.smelt, net)


def packed(net: str) -> Callable:
    """The op that a net is on sequences of these lengths, the longest first. It is given and gives them one beside the other
    and padded: (time, batch, features)."""
    return getattr(torch.ops.smelt, f"packed_{net}")


def _computes(tensors: Sequence) -> bool:
    """Whether tensors or values are all of one dtype that loops over time are made for, on the CPU, and have elements."""
    devices = {(t.type if isinstance(t, Value) else t).device.type for t in tensors}
    return devices == {"cpu"} and {t.dtype for t in tensors} in ({torch.float32}, {torch.float64}) \
        and all(0 not in t.shape for t in tensors)


def is_celled(sequence, hx, *weights) -> bool:
    """Whether the call of a cell with these arguments, tensors or values, is recorded as one op."""
    given = (sequence, *(hx if isinstance(hx, (list, tuple)) else (hx,)), *(w for w in weights if w is not None))
    return _computes(given) and len(sequence.shape) == 2


def is_looped(sequences, hx, params, biases, layers, dropout, train, both, batch_first) -> bool:
    """Whether the call of a net with these arguments, tensors or values, is made a loop over time."""
    given = (sequences, *params, *(hx if isinstance(hx, (list, tuple)) else (hx,)))
    plain = _computes(given) and len(sequences.shape) == 3
    whole = len(params) == (4 if biases else 2) * layers * (1 + both)  # without projections
    return plain and whole and not (dropout and train)


def _define(net: str, hidden: str, results: int) -> None:
    def run(*args):
        return getattr(torch, net)(*args)

    def run_packed(sequences, lengths, hx, *more):
        if sequences.is_meta:
            return run(sequences, hx, *more, False)
        rows = pack_padded_sequence(sequences, lengths)
        data, *states = run(rows.data, rows.batch_sizes, hx, *more)
        return pad_packed_sequence(PackedSequence(data, rows.batch_sizes), total_length=sequences.shape[0])[0], *states
    options = "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional"
    given = f"-> ({', '.join(['Tensor'] * results)})"
    define(f"{net}(Tensor sequences, {hidden} hx, {options}, bool batch_first) {given}", run)
    define(f"packed_{net}(Tensor sequences, Tensor lengths, {hidden} hx, {options}) {given}", run_packed)


def _live(sequences, lengths):
    pack_padded_sequence(sequences[..., :1], lengths)  # which raises where it can't be
    return (torch.arange(len(sequences)).unsqueeze(1) < lengths).unsqueeze(2)


define("live(Tensor sequences, Tensor lengths) -> Tensor", _live)
for _net, (_hidden, _results) in _NETS.items():
    _define(_net, _hidden, _results)


# One step

@dataclass(frozen=True)
class Cell:
    """What a recurrent net does at each time. What the input and the hidden state before it are multiplied to, of as many gates
    each, makes up pieces: gate k of the input is a term of piece `of_input[k]`, of the hidden state's of `of_hidden[k]`.
    `step(o, pieces, states)` gives the states afterwards, the hidden one first; `o` has a method for each op."""
    of_input: tuple[int, ...]
    of_hidden: tuple[int, ...]
    states: int
    step: Callable[[Any, Sequence, Sequence], Sequence]

    @property
    def pieces(self) -> int:
        return 1 + max(self.of_input + self.of_hidden)

    @property
    def alike(self) -> bool:
        """Whether the input's gates and the hidden state's have the same gradient."""
        return self.of_input == self.of_hidden


def _plain(name: str) -> Cell:
    return Cell((0,), (0,), 1, lambda o, pieces, states: [getattr(o, name)(pieces[0])])


def _lstm(o, pieces, states):
    i, f, g, out = pieces
    memory = o.add(o.mul(o.sigmoid(f), states[1]), o.mul(o.sigmoid(i), o.tanh(g)))
    return [o.mul(o.sigmoid(out), o.tanh(memory)), memory]


def _gru(o, pieces, states):
    r, z, new, hidden = pieces
    new = o.tanh(o.add(new, o.mul(o.sigmoid(r), hidden)))
    return [o.add(o.mul(o.sub(states[0], new), o.sigmoid(z)), new)]


CELLS = {"rnn_tanh": _plain("tanh"), "rnn_relu": _plain("relu"),
         "lstm": Cell((0, 1, 2, 3), (0, 1, 2, 3), 2, _lstm), "gru": Cell((0, 1, 2), (0, 1, 3), 1, _gru)}


def mixed(o, cell: Cell, of_input: Sequence, of_hidden: Sequence) -> list:
    """The pieces that the gates of the input and of the hidden state make up."""
    terms: list[list] = [[] for _ in range(cell.pieces)]
    for place, term in zip(cell.of_input + cell.of_hidden, (*of_input, *of_hidden), strict=True):
        terms[place].append(term)
    return [reduce(o.add, some) for some in terms]


def joined_pieces(b, cell: Cell, x: Value, hidden: Value, size) -> Value:
    """The same, of values whose gates lie side by side; so do the pieces."""
    if cell.alike:
        return b.add(x, hidden)
    gates = [[gate(b, v, k, size) for k in range(len(places))] for v, places in ((x, cell.of_input), (hidden, cell.of_hidden))]
    return joined(b, mixed(b, cell, *gates))


def gate(b, x: Value, k: int, size) -> Value:
    """The k-th of the pieces of `size` columns that make up a tensor."""
    return slice_dim(b, x, x.rank - 1, k * size, size)


def joined(b, pieces: Sequence[Value]) -> Value:
    """Pieces one after another, as columns."""
    return pieces[0] if len(pieces) == 1 else b.cat(*pieces, dim=pieces[0].rank - 1)


# One step by itself. Operands: x [batch, gates * size], the weight [size, gates * size] and maybe a bias of the hidden state, the
# states before [batch, size]. Results: the states afterwards.

def _cell(*inputs, cell):
    cell = CELLS[cell]
    x, weight, bias, _, states = operands_of(cell, inputs)
    if not x.is_floating_point():
        raise TypeError(f"a cell computes with floating-point numbers, not {x.dtype}")
    return tuple(_stepped(cell, x, weight, bias, states)[1])


def _stepped(cell: Cell, x, weight, bias, states) -> tuple[list, Sequence]:
    """(pieces, states afterwards) of tensors."""
    gates = states[0] @ weight if bias is None else states[0] @ weight + bias
    pieces = mixed(torch, cell, x.chunk(len(cell.of_input), -1), gates.chunk(len(cell.of_hidden), -1))
    return pieces, cell.step(torch, pieces, states)


def _decompose_cell(b, v):
    cell = CELLS[v.attrs["cell"]]
    x, weight, bias, _, states = operands_of(cell, v.inputs)
    size, hidden = weight.shape[0], b.matmul(states[0], weight)
    pieces = joined_pieces(b, cell, x, hidden if bias is None else b.add(hidden, bias), size)
    return cell.step(b, [gate(b, pieces, k, size) for k in range(cell.pieces)], states)


def _cell_type(inputs, a):
    cell = CELLS[a["cell"]]
    x, weight, bias, _, states = operands_of(cell, inputs)
    _expect("cell", cell, x, weight, bias, states, x.shape[:1])
    return TupleType(tuple(s.type.like(s.shape) for s in states))


def _expect(op: str, cell: Cell, x, weight, bias, states, places) -> None:
    """ValueError where operands of a recurrence or a cell are not as they must be. `places`: the shape of x less its last."""
    size = weight.shape[0]
    wanted = {"x": (x, (*places, len(cell.of_input) * size)), "weight": (weight, (size, len(cell.of_hidden) * size)),
              "bias": (bias, (len(cell.of_hidden) * size,)),
              **{f"state {k}": (s, (*places[-1:], size)) for k, s in enumerate(states)}}
    for name, (operand, shape) in wanted.items():
        if operand is not None and (tuple(operand.shape) != shape or operand.dtype != x.dtype):
            raise ValueError(f"{name} of a {op} is {tuple(operand.shape)} {operand.dtype}, not {shape} {x.dtype}")


# The loop over time. Operands: x [time, batch, gates * size], the weight [size, gates * size] and maybe a bias of the hidden
# state, maybe bool `live` [time, batch, 1], which is false where a sequence has ended and its states stay, and the states before
# the first step [batch, size]. Results: each state after every step [time, batch, size], and the pieces. `backwards`: time runs
# from the last step to the first.

def operands_of(cell: Cell, inputs: Sequence) -> tuple[Any, Any, Any, Any, tuple]:
    """(x, weight, bias or None, live or None, states) of a recurrence."""
    first = len(inputs) - cell.states
    bias, live = (next((i for i in inputs[2:first] if (i.dtype == torch.bool) == alive), None) for alive in (False, True))
    return inputs[0], inputs[1], bias, live, tuple(inputs[first:])


def held(o, live, after: Sequence, before: Sequence) -> Sequence:
    """The states after a step: those before it where there is no more."""
    return after if live is None else [o.where(live, new, old) for new, old in zip(after, before)]


def _recurrence(*inputs, cell, backwards):
    cell = CELLS[cell]
    x, weight, bias, live, states = operands_of(cell, inputs)
    found = []
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        pieces, after = _stepped(cell, x[t], weight, bias, states)
        states = held(torch, None if live is None else live[t], after, states)
        found.append((*states, torch.cat(pieces, -1)))
    return tuple(torch.stack(r[::-1] if backwards else r) for r in zip(*found))


def _recurrence_type(inputs, a):
    cell = CELLS[a["cell"]]
    x, weight, bias, live, states = operands_of(cell, inputs)
    time, batch, _ = x.shape
    size = weight.shape[0]
    if live is not None and tuple(live.shape) != (time, batch, 1):
        raise ValueError(f"live of a recurrence is {tuple(live.shape)}, not {(time, batch, 1)}")
    _expect("recurrence", cell, x, weight, bias, states, (time, batch))
    return TupleType((*(x.type.like((time, batch, size)) for _ in states), x.type.like((time, batch, cell.pieces * size))))


def _recurrence_gradient(b, v, g):
    cell = CELLS[v.attrs["cell"]]
    x, weight, bias, live, states = operands_of(cell, v.inputs)
    *after, pieces = (b.item(v, index=k) for k in range(cell.states + 1))
    grads = list(g)
    which = tuple(k for k, grad in enumerate(grads) if grad is not None)
    lives = [] if live is None else [live]
    found = b.emit("recurrence_backward", transposed(b, weight), pieces, *states, *after, *lives, *(grads[k] for k in which),
                   which=which, **v.attrs)
    gates = b.item(found, index=0)
    time, batch, _ = x.shape
    first = b.reshape(states[0], shape=(1, *states[0].shape))
    before = [slice_dim(b, after[0], 0, 1, time - 1), first] if v.attrs["backwards"] else \
        [first, slice_dim(b, after[0], 0, 0, time - 1)]
    rows, before = (b.reshape(r, shape=(time * batch, r.shape[2])) for r in (gates, b.cat(*before, dim=0)))
    of_weight = transposed(b, b.matmul(transposed(b, rows), before))
    of_bias = [] if bias is None else [b.sum(rows, dim=(0,), keepdim=False, dtype=None)]
    of_x = gates if cell.alike else b.item(found, index=1)
    of_states = [b.item(found, index=2 - cell.alike + k) for k in range(cell.states)]
    return (of_x, of_weight, *of_bias, *(None for _ in lives), *of_states)


# Its gradient. Operands: the weight transposed, the recurrence's pieces, its states before the first step and after every
# step, its `live` if it has one, and the gradients of those of its results that `which` names. Results: the gradients of what
# the hidden state makes of each gate, of x where that differs, and of the first states.

def split_backward(cell: Cell, inputs: Sequence) -> tuple[Any, Any, tuple, tuple, Any, tuple]:
    """(weight, pieces, first states, states after every step, live or None, gradients) of a recurrence_backward."""
    first, after = 2 + cell.states, 2 + 2 * cell.states
    live = [i for i in inputs[after:after + 1] if i.dtype == torch.bool]
    return (inputs[0], inputs[1], tuple(inputs[2:first]), tuple(inputs[first:after]), live[0] if live else None,
            tuple(inputs[after + len(live):]))


@torch.enable_grad()
def _differentiated(cell: Cell, pieces, states, live, later, again: bool):
    """The gradients of a step's pieces and states before, given those of its states after."""
    def followed(t):
        return t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()
    pieces, states = [followed(p) for p in pieces], [followed(s) for s in states]
    after = held(torch, live, cell.step(torch, pieces, states), states)
    found = gradients_of(after, (*pieces, *states), later, create_graph=again)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip((*pieces, *states), found)]
    return found[:len(pieces)], found[len(pieces):]


def _recurrence_backward(*inputs, cell, backwards, which):
    cell = CELLS[cell]
    weight, pieces, first, after, live, grads = split_backward(cell, inputs)
    grads, again, found = dict(zip(which, grads)), torch.is_grad_enabled(), []
    last, back = (0, 1) if backwards else (len(pieces) - 1, -1)
    later = [torch.zeros_like(s) for s in first]
    for t in range(last, len(pieces) - 1 - last + back, back):
        later = [g + grads[k][t] if k in grads else g for k, g in enumerate(later)]
        before = first if t == len(pieces) - 1 - last else [s[t + back] for s in after]
        alive = None if live is None else live[t]
        of_pieces, later = _differentiated(cell, pieces[t].chunk(cell.pieces, -1), before, alive, later, again)
        if cell.states in grads:
            of_pieces = [g + more for g, more in zip(of_pieces, grads[cell.states][t].chunk(cell.pieces, -1))]
        of_x, of_gates = (torch.cat([of_pieces[k] for k in places], -1) for places in (cell.of_input, cell.of_hidden))
        later[0] = later[0] + of_gates @ weight
        found.append((of_gates, of_x))
    sequences = [torch.stack(g if backwards else g[::-1]) for g in zip(*found)]
    return (*sequences[:2 - cell.alike], *later)


def _recurrence_backward_type(inputs, a):
    cell = CELLS[a["cell"]]
    weight, pieces, first, after, live, grads = split_backward(cell, inputs)
    time, batch, _ = pieces.shape
    size = weight.shape[1]
    results = {(time, batch, size): after, (time, batch, cell.pieces * size): (pieces,), (batch, size): first,
               (time, batch, 1): () if live is None else (live,)}
    of_results = (*after, pieces)
    wrong = [g for shape, given in results.items() for g in given if tuple(g.shape) != shape]
    wrong += [g for k, g in zip(a["which"], grads, strict=True) if g.shape != of_results[k].shape]
    if wrong:
        raise ValueError(f"states, pieces or gradients of the wrong shape: {', '.join(map(repr, wrong))}")
    of_gates = tuple(pieces.type.like((time, batch, len(places) * size)) for places in (cell.of_hidden, cell.of_input))
    return TupleType((*of_gates[:2 - cell.alike], *(s.type.like(s.shape) for s in first)))


def _samples():
    for cell, record in CELLS.items():
        for backwards, bias, live in ((False, True, False), (True, False, False), (False, False, True), (True, True, True)):
            gates = len(record.of_input) * 3
            states = [torch.randn(2, 3) for _ in range(record.states)]
            yield (torch.randn(4, 2, gates), torch.randn(3, gates), *([torch.randn(gates)] * bias),
                   *([_live(torch.randn(4, 2, 1), torch.tensor([4, 2]))] * live), *states), \
                {"cell": cell, "backwards": backwards}


def _cell_samples():
    for inputs, attrs in _samples():
        if not attrs["backwards"]:
            yield (inputs[0][0], *(i for i in inputs[1:] if i.dtype != torch.bool)), {"cell": attrs["cell"]}


def _backward_samples():
    for inputs, attrs in _samples():
        cell = CELLS[attrs["cell"]]
        *after, pieces = results = _recurrence(*inputs, **attrs)
        for which in ((0,), tuple(range(cell.states + 1))):
            grads = [torch.randn_like(results[k]) for k in which]
            *_, live, states = operands_of(cell, inputs)
            lives = [] if live is None else [live]
            yield (inputs[1].t().contiguous(), pieces, *states, *after, *lives, *grads), {**attrs, "which": which}


# Imports

def _import_packed(net: str):
    """Of what is beyond their lengths, sequences are read as 0: whatever it is, nothing comes of it."""
    def convert(b, sequences, lengths, *more):
        if not is_looped(sequences, *more, False):
            return NotImplemented
        live = b.call(sequences, lengths, target="smelt.live.default", args=(Operand(0), Operand(1)), kwargs={},
                      type=sequences.type.like((*sequences.shape[:2], 1), torch.bool))
        return _import_net(net)(b, b.where(live, sequences, 0), *more, False, live)
    return convert


def _import_net(net: str):
    cell = CELLS[net]

    def convert(b, sequences, hx, params, biases, layers, dropout, train, both, batch_first, live=None):
        if not is_looped(sequences, hx, params, biases, layers, dropout, train, both, batch_first):
            return NotImplemented
        lives = [] if live is None else [live]
        states, per, directions = list(hx) if cell.states > 1 else [hx], 4 if biases else 2, 1 + both
        x = b.permute(sequences, dims=(1, 0, 2)) if batch_first else sequences
        finals: list[list[Value]] = [[] for _ in states]
        for layer in range(layers):
            after = []
            for backwards in range(directions):
                k = layer * directions + backwards
                weight, hidden, *added = params[k * per:(k + 1) * per]
                if added and cell.alike:  # both in the loop, where it costs nothing
                    added = [b.add(*added)]
                first = [b.reshape(slice_dim(b, s, 0, k, 1), shape=s.shape[1:]) for s in states]
                found = b.emit("recurrence", _projected(b, x, weight, *added[:-1]), transposed(b, hidden), *added[-1:],
                               *lives, *first, cell=net, backwards=bool(backwards))
                for s, final in enumerate(finals):
                    whole = b.item(found, index=s)
                    final.append(slice_dim(b, whole, 0, 0 if backwards else x.shape[0] - 1, 1))
                    if s == 0:
                        after.append(whole if live is None else b.where(live, whole, 0))
            x = joined(b, after)
        finals = [b.cat(*final, dim=0) for final in finals]
        return [b.permute(x, dims=(1, 0, 2)) if batch_first else x, *finals]
    return convert


def _import_cell(net: str):
    cell = CELLS[net]

    def convert(b, x, hx, weight, hidden, *biases):
        added = [bias for bias in biases if bias is not None]
        if not is_celled(x, hx, weight, hidden, *added):
            return NotImplemented
        if added and cell.alike:
            added = [b.add(*added)]
        gates = b.matmul(x, transposed(b, weight))
        states = list(hx) if cell.states > 1 else [hx]
        found = b.emit("cell", b.add(gates, *added[:-1]) if added[:-1] else gates, transposed(b, hidden), *added[-1:], *states,
                       cell=net)
        after = [b.item(found, index=k) for k in range(cell.states)]
        return after if cell.states > 1 else after[0]
    return convert


def _projected(b, x: Value, weight: Value, *bias: Value) -> Value:
    """The inputs of all times, multiplied at once."""
    time, batch, features = x.shape
    gates = b.matmul(b.reshape(x, shape=(time * batch, features)), transposed(b, weight))
    return b.reshape(b.add(gates, *bias) if bias else gates, shape=(time, batch, weight.shape[0]))


register(Op("cell", "composite", "One step of a recurrent net, given what its weight makes of the input.", _cell_type,
            meaning=_cell, decompose=_decompose_cell, samples=_cell_samples,
            aten={f"{net}_cell": _import_cell(net) for net in CELLS}))
register(Op("recurrence", "loop", "A layer of a recurrent net in one direction, given what its weight makes of all inputs.",
            _recurrence_type, meaning=_recurrence, gradient=_recurrence_gradient, samples=_samples,
            aten={**{f"smelt::{net}": _import_net(net) for net in CELLS},
                  **{f"smelt::packed_{net}": _import_packed(net) for net in CELLS}}))
register(Op("recurrence_backward", "loop", "The gradients of a recurrence's gates and first states.",
            _recurrence_backward_type, meaning=_recurrence_backward, samples=_backward_samples))
