"""Comparisons of index expressions: over as few axes, and in as small integers, as the same answer needs."""
from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

import torch

from ..compiler.dims import Expr
from . import loops
from .coordinates import linear

COMPARISONS = frozenset({"eq", "ne", "lt", "le"})
#: Integers beyond this are not narrowed, so that there is room for one on either side.
LARGEST = 2 ** 31 - 2


class _Rewriter:
    """A body in the making, with names that are not in use."""

    def __init__(self, body: Sequence[loops.Statement]):
        self.named = {s.name: s for s in body if hasattr(s, "name")}
        self.names = set(self.named)
        self.body: list[loops.Statement] = []

    def add(self, hint: str, make: Callable[[str], loops.Statement]) -> str:
        """The name of a new statement."""
        name, count = hint, 0
        while name in self.names:
            count += 1
            name = f"{hint}_{count}"
        self.names.add(name)
        self.body.append(make(name))
        return name


def coarsened(body: Sequence[loops.Statement]) -> tuple[loops.Statement, ...]:
    """The body with conditions like 0 <= i0*64 + i1 - 128 (where i1 < 64) as 0 <= i0 - 2: they vary over fewer axes."""
    w, known, zero = _Rewriter(body), {}, ""
    for s in body:
        difference = _difference(s, w.named)
        coarse = None if difference is None else _coarse(difference[0])
        if coarse is None:
            w.body.append(s)
            continue
        if coarse not in known:
            known[coarse] = w.add("at", lambda name: loops.Index(name, coarse))
        if not zero:
            zero = w.add("c", lambda name: loops.Const(name, 0, torch.int64))
        at = known[coarse]
        w.body.append(replace(s, op="lt", args=(at, zero)) if difference[1] else replace(s, op="le", args=(zero, at)))
    return loops.needed(w.body)


def _difference(s: loops.Statement, named) -> tuple[Expr, bool] | None:
    """(e, negative) of the comparison of an index with a constant that asks for e < 0, or for e >= 0."""
    if not isinstance(s, loops.Apply) or s.op not in ("lt", "le"):
        return None
    a, b = (named[name] for name in s.args)
    if isinstance(a, loops.Index) and isinstance(b, loops.Const):
        return a.index - int(b.value) - (s.op == "le"), True
    if isinstance(a, loops.Const) and isinstance(b, loops.Index):
        return b.index - int(a.value) - (s.op == "lt"), False
    return None


def _coarse(e: Expr) -> Expr | None:
    """An expression of e's sign over fewer symbols."""
    for step in sorted({abs(c) for m, c in e.terms if m and abs(c) > 1}, reverse=True):
        quotient = e // step
        if quotient.symbols() < e.symbols() and linear(quotient) is not None:
            return quotient
    return None


def narrowed(body: Sequence[loops.Statement], axes: frozenset[str]) -> tuple[loops.Statement, ...]:
    """The body with comparisons of indices in int32, which takes half the registers of int64."""
    w, varies = _Rewriter(body), _variation(body, axes)
    narrow: dict[str, str] = {}
    for s in body:
        if isinstance(s, loops.Apply) and s.op in COMPARISONS:
            operands = [w.named[a] for a in s.args]
            if all(_narrows(o, other, varies) for o, other in zip(operands, operands[::-1])):
                for o in operands:
                    if o.name not in narrow:
                        narrow[o.name] = _narrow(o, w)
                s = replace(s, args=tuple(narrow[a] for a in s.args))
        w.body.append(s)
    return loops.needed(w.body)


def _variation(body: Sequence[loops.Statement], axes: frozenset[str]) -> dict[str, frozenset[str]]:
    """Names of the axes that each statement may vary over."""
    varies: dict[str, frozenset[str]] = {}
    for s in body:
        if hasattr(s, "name"):
            read = (*loops.operands_of(s), *loops.symbols_of(s))
            varies[s.name] = frozenset().union(*(varies.get(n, frozenset({n}) & axes) for n in read))
    return varies


def _small_index(s: loops.Statement) -> bool:
    if not isinstance(s, loops.Index):
        return False
    lo, hi = s.index.bounds()
    return lo is not None and hi is not None and -LARGEST <= lo and hi <= LARGEST


def _narrows(s: loops.Statement, other: loops.Statement, varies: dict[str, frozenset[str]]) -> bool:
    """Whether one side of a comparison can be an int32: an index, a constant, or what is cut to size once for many indices."""
    if getattr(s, "dtype", None) != torch.int64:
        return False
    if isinstance(s, loops.Index):
        return _small_index(s)
    if isinstance(s, loops.Const):
        return abs(s.value) <= LARGEST and isinstance(other, loops.Index)
    return _small_index(other) and not varies[other.name] <= varies[s.name]


def _narrow(s: loops.Statement, w: _Rewriter) -> str:
    """The name of an int32 that compares as s does with every index."""
    if isinstance(s, (loops.Index, loops.Const)):
        return w.add(s.name, lambda name: replace(s, name=name, dtype=torch.int32))
    lowest = w.add("c", lambda name: loops.Const(name, -LARGEST - 1, torch.int64))
    highest = w.add("c", lambda name: loops.Const(name, LARGEST + 1, torch.int64))
    above = w.add(f"{s.name}_above", lambda name: loops.Apply(name, "max", (s.name, lowest), torch.int64))
    within = w.add(f"{s.name}_within", lambda name: loops.Apply(name, "min", (above, highest), torch.int64))
    return w.add(f"{s.name}_narrow", lambda name: loops.Apply(name, "cast", (within,), torch.int32))
