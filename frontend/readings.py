"""Readings: the places of a run where Python looks at the elements, or at the sizes, of tensors, and goes on accordingly.

A backward pass through what was computed before a reading is such a place too: autograd looks at the tensors then.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Hashable, Sequence

from .. import config
from ..compiler.dims import LONGEST
from ..compiler.equality import key_of
from ..compiler.ir import Value
from ..errors import Unsupported

if TYPE_CHECKING:
    from .observe.draws import Draw

#: What Python gets of tensors. A "symbol" is a number whose value does not matter by itself, and a "count" one that is a size of
#: the tensor, and of others: it does not matter from 2 on.
HOW: dict[str, Callable[..., Any]] = {
    "truth": lambda t: bool(t),
    "number": lambda t: t.item(),
    "symbol": lambda t: t.item(),
    "elements": lambda t: t.tolist(),
    "sizes": lambda *tensors: tuple((tuple(t.shape), t.stride()) for t in tensors),
    "count": lambda t: t.shape[0],
}
#: A tensor with more elements than this is not read as a list.
LARGEST_LIST = 16


@dataclass(frozen=True, eq=False)
class Reading:
    """The run looked at `values` in Python, and went on under what it found.

    how         what Python got of them: a key of HOW; or "condition", of numbers read before; or "draw", of a number that
                comes of no tensor; or "gradients", of a backward pass: `values` are the operands of a `gradients` value then
    answer      what that was in the recorded run
    position    how many of the graph's values were there before it, `inputs` how many of its inputs, and `lines` how many
                lines of symbolic numbers
    where       the user's file:line
    text        of a condition, the Python expression that was asked about; of a symbol, a count or a draw, its name
    subject     of a condition, its text for people
    draw        what was drawn
    claim       with another answer the run raises: what comes behind may be computed before the answer is looked at
    gives       of a backward pass, the values that are the gradients; `text` tells whether they are differentiated in turn
    """
    values: tuple[Value, ...]
    how: str
    answer: Any
    position: int
    inputs: int
    lines: int
    where: str
    text: str = ""
    subject: str = ""
    gives: tuple[Value, ...] = ()
    draw: Draw | None = None
    claim: bool = False

    @property
    def asks(self) -> bool:
        """Whether the run can go on in several ways."""
        return self.how not in ("symbol", "draw", "gradients")

    @property
    def outcome(self) -> Hashable:
        """The answer, to compare."""
        return self.outcome_of(self.answer)

    def outcome_of(self, answer: Any) -> Hashable:
        plain = self.how in ("symbol", "draw") or self.how == "count" and 2 <= answer < LONGEST
        return type(answer) if plain else key_of(answer)

    def alike(self, other: Reading) -> bool:
        """Whether two readings of the same values ask the same."""
        return (self.how, self.text, self.draw) == (other.how, other.text, other.draw)

    @property
    def found(self) -> str:
        """The answer, for people."""
        return " and ".join(str(list(shape)) for shape, _ in self.answer) if self.how == "sizes" else repr(self.answer)

    @property
    def what(self) -> str:
        """What was read, for people."""
        return self.subject or f"the {self.how}"

    def __str__(self):
        return f"{self.where}: {self.what} {'are' if self.how in ('sizes', 'elements') else 'is'} {self.found}"


def fixed(v: Value) -> bool:
    """Whether a value is the same on every call."""
    return not v.operands and v.op.kind != "input" and not v.op.random


class Readings:
    """Those of one run, as they come. `open` tells whether what happens from here on can still become part of a program."""

    def __init__(self, open: Callable[[], bool]):
        self.all: list[Reading] = []
        self.open = open

    def matter(self, values: Sequence[Value]) -> bool:
        """Whether what Python reads of these values is to be noted."""
        return self.open() and not all(map(fixed, values))

    @property
    def cut(self) -> int:
        """Where the last segment so far ended: how many of the graph's values were there."""
        return next((r.position for r in reversed(self.all) if not r.claim), 0)

    def first(self, count: int) -> list[Reading]:
        """The first ones, of which so many are no claims."""
        others = [n for n, r in enumerate(self.all) if not r.claim]
        return self.all[:others[count]] if len(others) > count else self.all

    def add(self, reading: Reading) -> None:
        """Raises Unsupported where there are too many, besides claims."""
        if sum(not r.claim for r in self.all) >= config.reading_limit:
            raise Unsupported(f"reads tensors in Python more than {config.reading_limit} times (config.reading_limit)")
        self.all.append(reading)


def settled(readings: Sequence[Reading], end: Reading) -> tuple[Reading, ...]:
    """The same, with claims looked at when the next other reading comes about; the last ones at the `end`."""
    found: list[Reading] = []
    for r in reversed(readings):
        end = replace(r, position=end.position, inputs=end.inputs, lines=end.lines) if r.claim else r
        found.append(end)
    return tuple(reversed(found))
