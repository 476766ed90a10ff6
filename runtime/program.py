"""What a compiled program is to the runtime: plain data, no IR.

codegen makes a `Program`; `runtime.load(program)` builds its source and gives a callable.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Callable, Mapping, Union

import torch


@dataclass(frozen=True)
class Formula:
    """A number that each call computes from the sizes of its inputs: Python text over the names of the program's symbols."""
    text: str

    def __repr__(self):
        """The text: that of a tuple of sizes is then Python too."""
        return self.text


Size = Union[int, Formula]


def number(size: Size, sizes: Mapping[str, int]) -> int:
    """A size where the program's symbols have these values."""
    return eval(_code(size.text), {}, sizes) if isinstance(size, Formula) else size


@lru_cache(maxsize=4096)
def _code(text: str):
    return compile(text, "<size>", "eval")


@dataclass(frozen=True)
class Symbol:
    """A size that differs between calls: dimension `dim` of the input at `position`, or that input's own value (a 0-dim
    int64 tensor) where `dim` is None. It is never less than `lowest`."""
    name: str
    position: int
    dim: int | None
    lowest: int = 0


@dataclass(frozen=True)
class Slot:
    """A place for one tensor (or Python object) of a program.

    place   "input"     given by the caller, position `position`
            "output"    allocated fresh on every call with this shape and strides, returned or handed to a later step
            "arena"     a piece of the program's arena, taken from step `live[0]` to step `live[1]` (none where it is empty)
            "constant"  a tensor kept by the program (`constant`)
            "call"      what a Call step returns
    """
    name: str
    place: str
    shape: tuple[Size, ...] = ()
    strides: tuple[Size, ...] = ()
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    position: int = -1
    live: tuple[int, ...] = ()
    constant: Any = None

    def layout(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(shape, strides) where the program's symbols have these values."""
        return tuple(number(n, sizes) for n in self.shape), tuple(number(n, sizes) for n in self.strides)


@dataclass(frozen=True)
class Ref:
    """Stands in a Call's arguments for the content of a slot."""
    slot: int


def refs_in(value: Any) -> list[Ref]:
    """The Refs in a Call's arguments, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [r for item in value for r in refs_in(item)]


@dataclass(frozen=True)
class Launch:
    """Run function `symbol` of the source, which runs `kernels` (their names) one after another.

    It reads and writes the slots named in `uses`; returns 0, or 1 + the index in the program's messages of a failed check.
    In C it is `symbol(void **slots, long threads)`, where the values of the program's symbols stand after the slots; in
    Triton's Python `symbol(*tensors, *sizes)`, with the tensors of `uses` and the values of the program's symbols. A GPU has
    gone on by the time that a check fails: there it is an assertion of the device's, which torch tells of.
    """
    symbol: str
    kernels: tuple[str, ...]
    uses: tuple[int, ...]
    threads: int = 0  # as many threads as are useful; 0: as many as torch has

    @property
    def touched(self) -> tuple[int, ...]:
        """The slots that are read or written."""
        return self.uses


@dataclass(frozen=True)
class Call:
    """Run a Python function: `results` receive what it returns (one slot: the value; several: a tuple's items, -1 drops one).
    `waits`: in it the CPU gives the GPU something, or waits for what it has computed. `guessed`: the results whose sizes may be
    others than their slots say, and `laid` those whose strides may be, where they count."""
    function: Callable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    name: str = ""
    origin: str = ""
    waits: bool = False
    guessed: frozenset[int] = frozenset()
    laid: frozenset[int] = frozenset()

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots whose content is given."""
        return tuple(r.slot for r in refs_in((self.args, self.kwargs)))

    @property
    def writes(self) -> tuple[int, ...]:
        """The slots that receive a result."""
        return tuple(r for r in self.results if r >= 0)

    @property
    def touched(self) -> tuple[int, ...]:
        """The slots that are read or written."""
        return self.reads + self.writes


Step = Union[Launch, Call]


@dataclass(frozen=True)
class Signature:
    """How a Triton function is called: the dtype behind each pointer, the names of its int64 sizes, its constants, and what
    Triton's compiler is told (num_warps, num_stages)."""
    name: str
    pointers: Mapping[str, torch.dtype]
    sizes: tuple[str, ...]
    constants: Mapping[str, int | str]
    options: Mapping[str, int | bool]


@dataclass(frozen=True)
class Message:
    """The error that a failed check inside a kernel raises."""
    error: type[Exception]
    text: str


@dataclass(frozen=True, eq=False)
class Program:
    """One forward or backward graph, ready to build and run; with `symbols`, for all of their values."""
    name: str
    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    source: str  # in the program's language; "" if there is no kernel
    symbols: tuple[Symbol, ...] = ()
    messages: tuple[Message, ...] = ()
    #: facts for people: kernels with bytes moved, what fused into what (codegen fills it, `explain` reads it)
    notes: dict[str, Any] = field(default_factory=dict)
    language: str = "c"  # or "triton"

    @cached_property
    def device(self) -> torch.device:
        """Where its tensors are."""
        devices = [s.device for s in self.slots if s.place != "constant"]
        return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


# The arena

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def arena_layout(slots: tuple[Slot, ...], sizes: Mapping[str, int]) -> tuple[dict[int, int], int]:
    """(the byte at which each arena slot lies, the arena's bytes) where the program's symbols have these values.

    Slots that are live at the same time lie apart; a slot takes the smallest gap that holds it.
    """
    offsets: dict[int, int] = {}
    taken: list[tuple[int, int, int]] = []  # (offset, end, last step) of what is live, by offset
    total = 0
    pieces = [(slot.live, i) for i, slot in enumerate(slots) if slot.place == "arena" and slot.live]
    for (first, last), i in sorted(pieces, key=lambda piece: piece[0][0]):
        taken = [piece for piece in taken if piece[2] >= first]
        room = _aligned(nbytes(slots[i], sizes))
        offsets[i] = _gap(taken, room)
        taken = sorted([*taken, (offsets[i], offsets[i] + room, last)])
        total = max(total, offsets[i] + room)
    return offsets, total


def nbytes(slot: Slot, sizes: Mapping[str, int]) -> int:
    """Bytes of a slot's elements."""
    n = slot.dtype.itemsize
    for extent in slot.shape:
        n *= number(extent, sizes)
    return n


def _aligned(n: int) -> int:
    return max(-(-n // ALIGNMENT), 1) * ALIGNMENT


def _gap(taken: list[tuple[int, int, int]], room: int) -> int:
    """The offset of the smallest gap between pieces that holds `room` bytes, else the end of them all."""
    best, best_room, end = None, None, 0
    for offset, stop, _ in taken:
        gap = offset - end
        if gap >= room and (best is None or gap < best_room):
            best, best_room = end, gap
        end = max(end, stop)
    return end if best is None else best
