"""Accumulators: what a reduction holds while its loops run.

Floating-point sums are accumulated in blocks: every so many additions the running sum is added to a total in float64, so
that the error stays that of a short sum however long the row.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ..loops import Reduce, Scan
from .body import Body, Writer
from .scalars import Operand, cast, literal, scalar_text

COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
#: on bool
_LOGICAL = {"max": "any", "min": "all", "sum": "any", "prod": "all"}


def identity(op: str, dtype: torch.dtype) -> float | int | bool:
    """What a reduction of nothing gives; for argmax and argmin what every element is at least as good as."""
    if op in ("sum", "any"):
        return 0
    if op in ("prod", "all"):
        return 1
    if dtype.is_floating_point:
        return float("-inf") if op in ("max", "argmax") else float("inf")
    return torch.iinfo(dtype).min if op in ("max", "argmax") else torch.iinfo(dtype).max


@dataclass
class Accumulator:
    """`count` independent accumulators of one reduction or scan, as C variables; `blocked`: with a total in float64.

    In a row the accumulators share one total and are combined over the lanes; in columns each has its own, and the lanes
    stay apart.
    """
    reduce: Reduce | Scan
    body: Body
    count: int
    by_lanes: bool
    blocked: bool

    def __post_init__(self):
        name = self.body.c_names[self.reduce.name]
        self.places = self.reduce.op in ("argmax", "argmin")
        self.dtype = self.body.dtypes[self.reduce.arg] if self.places else self.reduce.accumulator
        self.op = _LOGICAL.get(self.reduce.op, self.reduce.op) if self.dtype == torch.bool else self.reduce.op
        self.type = self.body.type_of(self.dtype)
        self.sum = self.body.names.fresh(name + ("_best" if self.places else "_part"))
        self.at = self.body.names.fresh(name + "_at") if self.places else ""
        self.total = self.body.names.fresh(name + "_total") if self.blocked else ""
        self.total_type = self.type.like("f", 64)

    @staticmethod
    def can_block(reduce: Reduce) -> bool:
        return reduce.op == "sum" and reduce.dtype.is_floating_point

    @property
    def _identity(self) -> str:
        return literal(identity(self.op, self.dtype), self.dtype)

    def declare(self, w: Writer) -> None:
        w.line(f"{self.type} {self.sum}[{self.count}];")
        self._each(w, f"{self.sum}[@] = splat_{self.type}({self._identity});")
        if self.places:
            w.line(f"{self.body.mask} {self.at}[{self.count}];")
            self._each(w, f"{self.at}[@] = " + (f"lanes_{self.body.mask};" if self.by_lanes else f"({self.body.mask}){{}};"))
        if self.blocked:
            w.line(f"{self.total_type} {self.total}[{1 if self.by_lanes else self.count}] = {{}};")

    def _each(self, w: Writer, text: str) -> None:
        """`text` for each accumulator (@): those of a row are registers, and so are named one by one."""
        if self.by_lanes:
            w.line(" ".join(text.replace("@", str(u)) for u in range(self.count)))
        else:
            w.line(f"for (long u = 0; u < {self.count}; u++) {text.replace('@', 'u')}")

    def update(self, w: Writer, u: str, live: bool, place: str) -> None:
        """Combine the operand's value into accumulator `u`; `place` is its flat index, as a vector."""
        x, acc = cast(self.body.operand(self.reduce.arg), self.dtype, self.body.lanes, self.body.isa), f"{self.sum}[{u}]"
        if self.places:
            take, at = self.body.names.fresh(self.reduce.name + "_take"), f"{self.at}[{u}]"
            w.line(f"const {self.body.mask} {take} = {self.op}_better_{self.type}({x}, {acc}){' & live' if live else ''};")
            w.line(f"{acc} = select_{self.type}({take}, {x}, {acc});")
            w.line(f"{at} = select_{self.body.mask}({take}, {place}, {at});")
            return
        w.line(f"{acc} = {self._combine(acc, self._masked(x) if live else x)};")

    def _masked(self, x: str) -> str:
        """x with the identity in the lanes without an element."""
        return f"select_{self.type}(live, {x}, splat_{self.type}({self._identity}))"

    def _combine(self, a: str, b: str) -> str:
        return scalar_text(COMBINE[self.op], self.dtype, [Operand(a, self.dtype), Operand(b, self.dtype)], self.body.lanes,
                           self.body.isa)

    def flush(self, w: Writer) -> None:
        """Move the running sums into the totals."""
        part = f"{self.sum}[@]" if self.type == self.total_type else f"{self.total_type}_from_{self.type}({self.sum}[@])"
        total = f"{self.total}[{'0' if self.by_lanes else '@'}]"
        self._each(w, f"{total} = {total} + {part}, {self.sum}[@] = ({self.type}){{}};")

    def result(self, u: str = "0") -> str:
        """The finished value: of the row, or of column vector `u`."""
        to = self.body.type_of(self.reduce.dtype)
        if self.places:
            at = f"{self.op}_lanes_{self.type}({self.sum}[0], {self.at}[0])" if self.by_lanes else f"{self.at}[{u}]"
            return at if to == self.body.mask else f"{to}_from_{self.body.mask}({at})"
        if self.blocked:
            total = f"sum_lanes_{self.total_type}({self.total}[0])" if self.by_lanes else f"{self.total}[{u}]"
            return total if to == self.total_type else f"{to}_from_{self.total_type}({total})"
        if not self.by_lanes:
            return f"{self.sum}[{u}]"
        parts = [f"{self.sum}[{k}]" for k in range(self.count)]
        while len(parts) > 1:
            parts = [f"({self._combine(a, b)})" for a, b in zip(parts[::2], parts[1::2])]
        return f"{self.op}_lanes_{self.type}({parts[0]})"


class Running(Accumulator):
    """What a scan has come to so far: one number of a row, a vector in each column."""

    def declare(self, w: Writer) -> None:
        if not self.by_lanes:
            return super().declare(w)
        w.line(f"{self.type.scalar} {self.sum}[1] = {{{self._identity}}};")
        if self.places:
            w.line(f"{self.body.mask.scalar} {self.at}[1] = {{}};")

    def update(self, w: Writer, u: str, live: bool, place: str) -> None:
        """Go on with the next elements, and declare what the scan comes to at each."""
        s, lanes, isa = self.reduce, self.body.lanes, self.body.isa
        x = cast(self.body.operand(s.arg), self.dtype, lanes, isa)
        given = [self._masked(x) if live else x, *[place] * self.places, *[self._identity] * self.by_lanes, f"&{self.sum}[{u}]",
                 *[f"&{self.at}[{u}]"] * self.places]
        to, way = self.body.type_of(s.dtype), "scan" if self.by_lanes else "running"
        text = f"{way}_{self.op}_{self.type}({', '.join(given)})"
        if self.places:
            text = text if to == self.body.mask else f"{to}_from_{self.body.mask}({text})"
        else:
            text = cast(Operand(text, self.dtype), s.dtype, lanes, isa)
        w.line(f"const {to} {self.body.c_names[s.name]} = {text};")
