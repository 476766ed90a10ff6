"""Where values are read: coordinate maps over loop axes, through views, and how to solve them for other axes.

A coordinate tuple gives, for each dimension of a value, an expression over loop variables. A variable carries its axis's
size (0 <= variable <= hi); an axis of size 1 is the constant 0 and has no variable. Sizes are ints or expressions over the
graph's symbols, which are fixed numbers here: coefficients, like the ints.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator, Mapping, NamedTuple, Sequence

from ..compiler.dims import Dim, Div, Expr, Sym, dot, expr, expr_of, known, product, simplest
from ..compiler.ir import Value, contiguous_strides, dense


@dataclass(frozen=True)
class Variable(Sym):
    """A loop variable, or an index that is read from memory; any other symbol is a size."""


Coordinates = tuple[Expr, ...]
Substitution = Mapping[Sym, Expr]

ZERO = expr(0)


class Read(NamedTuple):
    """A value read at some coordinates. `exact` is false where the read happens only under a condition (padding)
    or at places that other values say (a gather)."""
    value: Value
    coordinates: Coordinates
    exact: bool = True


def variable(name: str, n: Dim) -> Expr:
    """0 <= `name` < n as an expression."""
    return ZERO if n == 1 else expr_of(Variable(name, 0, n - 1))


@lru_cache(maxsize=4096)
def identity(shape: tuple[Dim, ...]) -> Coordinates:
    """A coordinate of its own for each dimension: i0, i1, ..."""
    return tuple(variable(f"i{k}", n) for k, n in enumerate(shape))


def variables(e: Expr) -> frozenset[Sym]:
    """The variables of an expression."""
    return frozenset(s for s in e.symbols() if isinstance(s, Variable))


def axes_of(coordinates: Coordinates) -> tuple[Sym, ...]:
    """The variables of coordinates, in order."""
    return tuple(dict.fromkeys(s for c in coordinates for s in variables(c)))


def size(axis: Sym) -> Dim:
    return simplest(axis.hi + 1)


def broadcast_to(shape: Sequence[Dim], coordinates: Coordinates) -> Coordinates:
    """The coordinates at which an operand of this shape is read by an element of a pointwise result."""
    lead = len(coordinates) - len(shape)
    if not lead and 1 not in shape:
        return coordinates
    return tuple(ZERO if n == 1 else c for n, c in zip(shape, coordinates[lead:]))


def substitute(coordinates: Coordinates, values: Substitution) -> Coordinates:
    return tuple(c.substitute(values) for c in coordinates) if values else coordinates


def conditions(view: Value, coordinates: Coordinates) -> list[tuple[Expr, Dim]]:
    """What a view that fills asks of its coordinates, as (e, size) for 0 <= e < size, less what always holds."""
    if view.op.inside is None:
        return []
    return [(expr(e), n) for e, n in view.op.inside(view, coordinates) if not lies_within(expr(e), n)]


def lies_within(e: Expr, n: Dim) -> bool:
    """Whether it is known that 0 <= e < n."""
    return bool(known(e, 0) and known(n - 1, e))


def trace(value: Value, coordinates: Coordinates, exact: bool = True) -> Read:
    """What is read, through all views, where `value` is read at these coordinates."""
    while value.op.kind == "view":
        exact = exact and not conditions(value, coordinates)
        value, coordinates = value.inputs[0], tuple(expr(c) for c in value.op.index(value, coordinates))
    return Read(value, coordinates, exact)


def reads(value: Value, coordinates: Coordinates, inner: Coordinates | None = None) -> Iterator[Read]:
    """What one element of a fusible value reads. `inner`: the coordinates of a reduction's or a scan's operand."""
    if inner is not None:
        yield trace(value.inputs[0], inner)
    elif value.op.kind == "gather":
        found: list[Read] = []

        def read(k: int, at, bound: Dim, wrap: bool = True, error=None) -> Expr:
            found.append(trace(value.inputs[k], tuple(map(expr, at))))
            return variable(f"{value.name}.{len(found)}", bound)
        data = tuple(map(expr, value.op.index(value, coordinates, read)))
        yield from found
        yield trace(value.inputs[0], data, exact=False)
    else:
        for i in value.operands:
            yield trace(i, broadcast_to(i.shape, coordinates))


def linear(e: Expr) -> tuple[dict[Sym, Dim], Dim] | None:
    """(coefficient of each variable, the rest) of a sum of multiples of variables; None for any other expression."""
    coefficients: dict[Sym, Dim] = {}
    rest: Dim = 0
    for m, c in e.terms:
        if len(m) == 1 and isinstance(m[0], Variable):
            coefficients[m[0]] = coefficients.get(m[0], 0) + c
            continue
        varying = [a for a in m if variables(expr_of(a))]
        if not varying:
            rest += Expr({m: c}) if m else c
        elif len(varying) == 1 and isinstance(varying[0], Variable):
            fixed = Expr({tuple(a for a in m if a is not varying[0]): c})
            coefficients[varying[0]] = coefficients.get(varying[0], 0) + fixed
        else:
            return None
    return coefficients, rest


def solve(pattern: Coordinates, shape: Sequence[Dim], target: Coordinates) -> dict[Sym, Expr] | None:
    """Values of the pattern's symbols for which the pattern equals the target; None if none were found.

    Both are coordinates of one value of this shape. Found: permutations, flips, and reshapes that split or join axes.
    """
    found: dict[Sym, Expr] = {}
    for p, t in zip(pattern, target):
        parts = linear(p)
        if parts is None or len(parts[0]) > 1:
            return _solve_digits(pattern, target) or _solve_flat(pattern, shape, target)
        (coefficients, constant) = parts
        if not coefficients:
            if t != constant:
                return None
            continue
        (s, c), = coefficients.items()
        if c not in (1, -1):
            return None
        value = (t - constant) * c if c != 1 or constant != 0 else t
        if found.setdefault(s, value) != value:
            return None
    return found


def _solve_digits(pattern: Coordinates, target: Coordinates) -> dict[Sym, Expr] | None:
    """Where each coordinate is a digit (s // step) % n of one symbol: the symbols from their digits."""
    found: dict[Sym, Expr] = {}
    for p, t in zip(pattern, target):
        if p.constant is not None:
            continue
        cut = digit(p)
        if cut is None:
            return None
        s, step = cut
        found[s] = found.get(s, ZERO) + t * step
    return found if substitute(pattern, found) == tuple(target) else None


def digit(e: Expr) -> tuple[Sym, Dim] | None:
    """(s, step) of an expression s, s // step, s % n or (s // step) % n of a variable s."""
    step: Dim = 1
    while len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1:
        atom = e.terms[0][0][0]
        if isinstance(atom, Sym):
            return (atom, step) if isinstance(atom, Variable) else None
        step *= atom.by if isinstance(atom, Div) else 1
        e = atom.value
    return None


def _solve_flat(pattern: Coordinates, shape: Sequence[Dim], target: Coordinates) -> dict[Sym, Expr] | None:
    """Where the flattened coordinates are a mixed-radix number of the symbols: the symbols as its digits."""
    strides = contiguous_strides(shape)
    parts = linear(dot(pattern, strides))
    if parts is None or parts[1] != 0 or not all(known(c, 1) for c in parts[0].values()):
        return None
    position = dot(target, strides)
    found = {s: (position // c) % size(s) for s, c in parts[0].items()}
    return found if substitute(pattern, found) == tuple(target) else None


def one_to_one(values: Sequence[Expr], sizes: Sequence[Dim], axes: Sequence[Sym]) -> bool:
    """Whether each point of a space of these sizes is given by exactly one point of the axes."""
    parts = linear(dot(values, contiguous_strides(sizes)))
    if parts is None or set(parts[0]) != set(axes):
        return False
    coefficients, step = dict(parts[0]), 1
    while coefficients:
        found = next((s for s, c in coefficients.items() if c == step or c == -step), None)
        if found is None:
            return False
        step *= size(found)
        del coefficients[found]
    return step == product(sizes)


def unflatten(axes: Sequence[Sym], sizes: Sequence[Dim]) -> list[Expr]:
    """The row-major position within the axes as coordinates of a shape of as many elements."""
    position = dot(map(expr_of, axes), contiguous_strides([size(a) for a in axes]))
    return [(position // step) % n for n, step in zip(sizes, contiguous_strides(sizes))]


def layout(value: Value) -> tuple[Dim, ...]:
    """The strides that a value has in memory: an input's own, eager's where they are dense, else contiguous ones."""
    t = value.type
    return t.strides if value.op.kind == "input" or dense(t.shape, t.strides) else contiguous_strides(t.shape)


def window(view: Value) -> tuple[tuple[Dim, ...], Dim] | None:
    """(strides, offset) of a value in the memory of what it is a view of; None if it is no such window."""
    coordinates = identity(view.shape)
    base, at, exact = trace(view, coordinates)
    own = layout(base)  # which are no negative numbers, be that known or not
    parts = linear(dot(at, own)) if exact and base.op.kind != "source" else None
    if parts is None or not all(c in own or known(c, 0) for c in parts[0].values()):
        return None
    steps, offset = parts
    return tuple(steps.get(next(iter(variables(c)), None), 0) for c in coordinates), offset
