"""The loop axes of a finished kernel body: ordered as memory is, and as few as the indices allow.

An axis is split where indices take it apart (i0 // 64 and i0 % 64), so that they are linear in the loops. Two
neighbouring axes are one where every index steps over them as over one: i0*64 + i1 with i1 < 64.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from ..compiler.dims import Dim, Expr, Sym, dot, expr_of, known, product, simplest, typical
from ..compiler.ir import contiguous_strides
from . import loops
from .coordinates import Variable, digit, linear, size, variables

Coefficients = dict[Sym, Dim]
#: What the axes of kernels are called.
AXIS_NAMES = frozenset(f"i{k}" for k in range(64))
#: The innermost of the axes that one is split into has at least so many steps.
SHORTEST = 8


def normalize(axes: Sequence[Sym], reduced: frozenset[Sym], body: Sequence[loops.Statement]):
    """(the kernel's axes, the body over them): parallel axes, then reduced ones, named i0, i1, ... in that order."""
    axes, reduced, body = _split(axes, reduced, body)
    indices = list(dict.fromkeys(s.index for s in body if isinstance(s, (loops.Load, loops.Store, loops.Index))))
    parts = [linear(e) for e in indices]
    lines = [p[0] for p in parts if p is not None]
    stuck = {s for e, p in zip(indices, parts) if p is None for s in variables(e)}
    ordered = any(isinstance(s, loops.Scan) or isinstance(s, loops.Reduce) and s.op.startswith("arg") for s in body)
    parallel = _by_stride([a for a in axes if a not in reduced], body)
    inner = [a for a in axes if a in reduced]
    inner = inner if ordered else _by_stride(inner, body)

    found: list[loops.Axis] = []
    values: dict[Sym, Expr] = {}  # each old axis, where one of them became one new axis
    merged: dict[Sym, tuple[Sym, Dim]] = {}  # an old axis -> its new axis and its step there
    for group, reduce in ((parallel, False), (inner, True)):
        for run in _runs(group, lines, stuck):
            sizes = [size(a) for a in run]
            n = product(sizes)
            new = Variable(f"i{len(found)}", 0, n - 1)
            found.append(loops.Axis(new, n, reduce))
            for a, step in zip(run, contiguous_strides(sizes)):
                merged[a] = new, step
            if len(run) == 1:
                values[run[0]] = expr_of(new)
    renamed = {e: _rewritten(e, p, merged, values) for e, p in zip(indices, parts)}
    return tuple(found), tuple(replace(s, index=renamed[s.index]) if hasattr(s, "index") else s for s in body)


# Splitting

def _split(axes: Sequence[Sym], reduced: frozenset[Sym], body: Sequence[loops.Statement]):
    """The same loops with those axes split that indices take apart."""
    steps: dict[Sym, set[Dim]] = {}
    for e in {s.index for s in body if hasattr(s, "index")}:
        _find_steps(e, steps)
    pieces = {a: _pieces(a, sorted(steps[a], key=typical)) for a in axes if a in steps}
    values = {a: dot(map(expr_of, p), contiguous_strides([size(s) for s in p])) for a, p in pieces.items() if len(p) > 1}
    if not values:
        return axes, reduced, body
    split = [(piece, a in reduced) for a in axes for piece in (pieces[a] if a in values else [a])]
    body = [replace(s, index=s.index.substitute(values)) if hasattr(s, "index") else s for s in body]
    return [s for s, _ in split], frozenset(s for s, gone in split if gone), body


def _find_steps(e: Expr, steps: dict[Sym, set[Dim]]) -> None:
    """Note at which steps divisions and remainders cut symbols: s // 6 at 6, (s // 6) % 4 at 6 and 24."""
    for monomial, _ in e.terms:
        for atom in monomial:
            if not isinstance(atom, Sym):
                cut = digit(atom.value)
                if cut is not None:
                    steps.setdefault(cut[0], set()).add(simplest(cut[1] * atom.by))
                _find_steps(atom.value, steps)


def _pieces(axis: Sym, steps: Sequence[Dim]) -> list[Sym]:
    """Axes, from the outermost on, that count to the axis's size together and are cut at its steps."""
    cuts: list[Dim] = [1]
    for step in steps:
        if typical(step) >= SHORTEST and known(size(axis), step + 1) and size(axis) % step == 0 and step % cuts[-1] == 0:
            cuts.append(step)
    ends = [*cuts[1:], size(axis)]
    return [Variable(f"{axis.name}.{k}", 0, end // cut - 1) for k, (cut, end) in enumerate(zip(cuts, ends))][::-1]


# Renaming and merging

def _rewritten(e: Expr, parts, merged, values) -> Expr:
    if parts is None:
        return e.substitute(values)
    coefficients, constant = parts
    places: dict[Sym, Dim] = {}
    for s, c in coefficients.items():
        new, step = merged.get(s, (s, 1))
        places[new] = c // step  # the innermost of a run has step 1; the others say the same
    return dot(map(expr_of, places), places.values()) + constant


def _runs(axes: Sequence[Sym], lines: Sequence[Coefficients], stuck: set[Sym]) -> list[list[Sym]]:
    """The axes in runs of neighbours that may be one."""
    runs: list[list[Sym]] = []
    for a in axes:
        if runs and a not in stuck and runs[-1][-1] not in stuck and all(
                c.get(runs[-1][-1], 0) == c.get(a, 0) * size(a) for c in lines):
            runs[-1].append(a)
        else:
            runs.append([a])
    return runs


def _by_stride(axes: list[Sym], body: Sequence[loops.Statement]) -> list[Sym]:
    """The axes from the largest step in memory to the smallest, as the first store (else load) over all of them has it."""
    accesses = [s for s in body if isinstance(s, loops.Store)] + [s for s in body if isinstance(s, loops.Load)]
    for access in accesses if len(axes) > 1 else ():
        parts = linear(access.index)
        if parts is not None and all(parts[0].get(a) for a in axes):
            return sorted(axes, key=lambda a: -abs(typical(parts[0][a])))
    return axes
