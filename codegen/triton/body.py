"""Statements of the loop IR as lines of a Triton kernel, each on a tile.

A value has a tile's shape with 1 for each dimension over which it does not vary; one that varies over none is a scalar.
"""
from __future__ import annotations

import keyword
import re
from dataclasses import replace
from functools import cached_property
from typing import Callable, Sequence


from ...compiler.dims import Dim, Div, Expr, Sym, expr_of
from ...errors import Unsupported
from ..loops import Apply, Check, Const, Index, Load, Statement, Store, symbols_of
from ..stages import Stages
from .helpers import HELPERS
from .scalars import Operand, constant, literal, scalar_text
from .tiling import Span

WORDS = {*keyword.kwlist, *HELPERS, "tl", "triton", "torch", "libdevice", "float", "range", "program", "options",
         "XBLOCK", "YBLOCK", "RBLOCK"}


class Names:
    """Python identifiers, each given once."""

    def __init__(self, taken=()):
        self.taken: set[str] = WORDS | set(taken)

    def fresh(self, wanted: str) -> str:
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        base = name = name if name[:1].isalpha() else f"v{name}"
        number = 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name


class Writer:
    """Lines of Python."""

    def __init__(self):
        self.lines: list[str] = []
        self.depth = 1
        self.origin = ""

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def comment(self, origin) -> None:
        """Where the next lines come from, said when it changes."""
        text = str(origin).replace("\n", " ")
        if text and text != self.origin:
            self.line(f"# {text}")
        self.origin = text or self.origin


def size_text(size: Dim) -> str:
    """A size as an operand: a number, or the text over the kernel's sizes, in parentheses."""
    return str(size) if isinstance(size, int) or size.symbol else f"({index_text(size, str)})"


def index_text(index: Expr, name_of: Callable[[str], str]) -> str:
    """An index expression in Triton, whose division truncates; `name_of` gives the text of a symbol."""
    def atom(a) -> str:
        if isinstance(a, Sym):
            return name_of(a.name)
        value, by = index_text(a.value, name_of), size_text(a.by)
        low, _ = a.value.bounds()
        if low is not None and low >= 0:
            return f"({value}) {'//' if isinstance(a, Div) else '%'} {by}" if " " in value else (
                f"{value} {'//' if isinstance(a, Div) else '%'} {by}")
        remainder = f"((({value}) % {by} + {by}) % {by})"
        return f"(({value}) - {remainder}) // {by}" if isinstance(a, Div) else remainder

    text = ""
    for monomial, factor in sorted(index.terms, key=lambda t: (t[0] == (), -abs(t[1]))):
        parts = [atom(a) for a in monomial]
        alone = len(parts) == 1 and abs(factor) == 1
        parts = [p if alone or isinstance(a, Sym) else f"({p})" for p, a in zip(parts, monomial)]
        if not parts or abs(factor) != 1:
            parts.append(str(abs(factor)))
        product = " * ".join(parts)
        if text:
            text += f" {'-' if factor < 0 else '+'} {product if ' ' not in product or not alone else f'({product})'}"
        else:
            text = f"-({product})" if factor < 0 and " " in product else f"{'-' if factor < 0 else ''}{product}"
    return text or "0"


class Body:
    """Prints a kernel's statements.

    names    statement, buffer or axis -> its Python name
    masks    span number -> the name of the mask of its elements, where it has one
    """

    def __init__(self, stages: Stages, spans: Sequence[Span], blocks: Sequence[str], names: Names):
        self.stages, self.spans, self.blocks = stages, tuple(spans), tuple(blocks)
        kernel = stages.kernel
        self.fresh = names.fresh
        self.pointers = {b.name: names.fresh(b.name) for b in kernel.buffers}
        self.axes = {a.symbol.name: names.fresh(a.symbol.name) for a in kernel.axes}
        self.named = {s.name: s for s in kernel.body if hasattr(s, "name")}
        self.names = {n: names.fresh(n) for n in self.named}
        self.dtypes = {b.name: b.dtype for b in kernel.buffers}
        self.indices = [self._span_index(s, block) for s, block in zip(self.spans, self.blocks)]
        self.masks: dict[int, str] = {}
        self.w = Writer()

    # Indices

    def _span_index(self, span: Span, block: str) -> Sym:
        """The index of a span's elements: that of its axis, or a flat one over its axes."""
        name = self.axes[span.axes[0].symbol.name] if len(span.axes) == 1 else self.fresh(f"{block[0].lower()}_index")
        return replace(span.axes[0].symbol, name=name, lo=0, hi=0 if span.size == 0 else span.size - 1)

    @cached_property
    def flat(self) -> dict[Sym, Expr]:
        """The axes of spans over several, by the span's index."""
        found = {}
        for span, index in zip(self.spans, self.indices):
            step = 1
            for a in reversed(span.axes if len(span.axes) > 1 else ()):
                found[a.symbol] = expr_of(index) // step % a.size
                step *= a.size
        return found

    def index(self, index: Expr) -> Expr:
        """An index by the flat indices of spans, where it then needs no division: so that neighbours are seen to be such."""
        flat = index.substitute(self.flat)
        return flat if all(isinstance(a, Sym) for m, _ in flat.terms for a in m) else index

    @cached_property
    def used(self) -> set[str]:
        """Names of the axes that indices need."""
        indices = [self.index(s.index) for s in self.stages.kernel.body if hasattr(s, "index")]
        return {s.name for e in indices for s in e.symbols()} & self.axes.keys()

    # Tiles

    def over(self, axes: frozenset[str]) -> tuple[int, ...]:
        """The dimensions of the tile over which something varies that varies over these axes."""
        return tuple(k for k, s in enumerate(self.spans) if any(a.symbol.name in axes for a in s.axes))

    def dimensions(self, name: str) -> tuple[int, ...]:
        """Those of a statement's value."""
        return self.over(self.stages.varies[self.stages.position[name]])

    def shape(self, dimensions: Sequence[int]) -> str:
        """A tile's shape with 1 for each dimension but these."""
        sides = [b if k in dimensions else "1" for k, b in enumerate(self.blocks)]
        return f"({', '.join(sides)}{',' if len(sides) == 1 else ''})"

    def mask(self, dimensions: Sequence[int], *more: str) -> str:
        """The condition under which a place in the tile holds an element, and what else is asked; "" if it always does."""
        return " & ".join([*more, *(self.masks[k] for k in dimensions if k in self.masks)])

    def operand(self, name: str) -> Operand:
        s = self.named[name]
        return constant(s.value, s.dtype) if isinstance(s, Const) else Operand(self.names[name], s.dtype)

    # Statements

    def write(self, i: int) -> None:
        """Print statement i, which is no reduction."""
        s = self.stages.kernel.body[i]
        if isinstance(s, Const):
            return
        self.w.comment(getattr(s, "origin", ""))
        if isinstance(s, Load):
            self._load(i, s)
        elif isinstance(s, Index):
            self._define(s, f"tl.full((), {self._place(s.index)}, tl.int64)" if s.index.constant is not None else
                         f"({self._place(s.index)}).to(tl.int64)")
        elif isinstance(s, Apply):
            self._define(s, scalar_text(s.op, s.dtype, [self.operand(a) for a in s.args], s.attr))
        elif isinstance(s, Store):
            self._store(i, s)
        elif isinstance(s, Check):
            self._check(i, s)
        else:
            raise Unsupported(f"a {type(s).__name__} among pointwise statements")

    def _define(self, s: Statement, text: str) -> None:
        self.w.line(f"{self.names[s.name]} = {text}")

    def _place(self, index: Expr) -> str:
        return index_text(self.index(index), lambda name: self.axes.get(name) or self.names.get(name) or name)

    def _pointer(self, s: Load | Store, wanted: tuple[int, ...]) -> str:
        """The address of a statement's elements, as a tile over at least the dimensions `wanted` if it is one at all."""
        pointer, index = self.pointers[s.buffer], self._place(s.index)
        pointer = pointer if index == "0" else f"{pointer} - {index[1:]}" if index[0] == "-" else f"{pointer} + {index}"
        found = set()
        for name in symbols_of(s):
            if name in self.axes:
                found.update(self.over(frozenset({name})))
            elif name in self.named:
                found.update(self.dimensions(name))
        return f"tl.broadcast_to({pointer}, {self.shape(wanted)})" if set(wanted) - found else pointer

    def _load(self, i: int, s: Load) -> None:
        if self.dtypes[s.buffer] != s.dtype:
            raise Unsupported(f"a load of {s.dtype} from a buffer of {self.dtypes[s.buffer]}")
        dimensions = self.over(self.stages.varies[i])
        mask = self.mask(dimensions, *([self.names[s.guard]] if s.guard else []))
        other = f", other={literal(s.other, s.dtype)}" if s.guard else ""
        self._define(s, f"tl.load({self._pointer(s, dimensions)}{', ' + mask if mask else ''}{other})")

    def _store(self, i: int, s: Store) -> None:
        value = self.operand(s.value)
        if self.dtypes[s.buffer] != value.dtype:
            raise Unsupported(f"a store of {value.dtype} into a buffer of {self.dtypes[s.buffer]}")
        dimensions = self.over(self.stages.varies[i])
        mask = self.mask(dimensions)
        self.w.line(f"tl.store({self._pointer(s, dimensions)}, {value.typed}{', ' + mask if mask else ''})")

    def _check(self, i: int, s: Check) -> None:
        mask = self.mask(self.over(self.stages.varies[i]))
        self.w.line(f'tl.device_assert({self.operand(s.ok).typed}, "check {s.code}"{", " + mask if mask else ""})')
