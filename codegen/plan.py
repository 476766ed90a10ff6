"""Memory: a slot for everything that lies in it, and one arena for what lives only inside a call."""
from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from ..compiler.ir import Graph, TensorType, Value
from ..runtime.program import Slot
from .coordinates import layout

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Slots:
    """The slot table of a program while it is being built."""

    def __init__(self, graph: Graph):
        self.slots: list[Slot] = []
        self.of: dict[Value, int] = {}
        self.shows: dict[int, int] = {}  # a slot that is a view -> the slot whose memory it shows
        for position, v in enumerate(graph.inputs):
            self.add(v, "input", position=position)

    def add(self, v: Value, place: str, **more) -> int:
        """A slot for a value, with the layout that kernels index it by."""
        if v in self.of:
            raise AssertionError(f"%{v.name} has a slot")
        self.of[v] = len(self.slots)
        if isinstance(v.type, TensorType):
            more |= {"shape": tuple(v.shape), "strides": tuple(layout(v)), "dtype": v.dtype, "device": v.type.device}
        self.slots.append(Slot(v.name, place, **more))
        return self.of[v]

    def add_number(self, v: Value) -> int:
        """A slot for the Python number that a call gives for a value."""
        self.slots.append(Slot(f"{v.name}_value", "call"))
        return len(self.slots) - 1

    def add_view(self, v: Value, shown: int) -> int:
        """A slot for a view that a call gives of another slot."""
        slot = self.add(v, "call")
        self.shows[slot] = self.shows.get(shown, shown)
        return slot

    def place_in_arena(self, uses: Sequence[Sequence[int]]) -> int:
        """Give every arena slot its offset, `uses` being the slots that each step touches; the arena's size in bytes."""
        spans: dict[int, list[int]] = {}
        for step, used in enumerate(uses):
            for slot in used:
                spans.setdefault(self.shows.get(slot, slot), [step, step])[1] = step
        live: list[tuple[int, int, int]] = []  # (offset, end, last use), by offset
        total = 0
        for slot, (first, last) in sorted(spans.items(), key=lambda item: item[1][0]):
            if self.slots[slot].place != "arena":
                continue
            live = [entry for entry in live if entry[2] >= first]
            offset = _gap(live, _aligned(nbytes(self.slots[slot])))
            end = offset + _aligned(nbytes(self.slots[slot]))
            live = sorted([*live, (offset, end, last)])
            self.slots[slot] = replace(self.slots[slot], offset=offset)
            total = max(total, end)
        return total


def nbytes(slot: Slot) -> int:
    n = slot.dtype.itemsize
    for extent in slot.shape:
        n *= extent
    return n


def _aligned(n: int) -> int:
    return max(-(-n // ALIGNMENT), 1) * ALIGNMENT


def _gap(live: Sequence[tuple[int, int, int]], size: int) -> int:
    """The offset of the smallest gap between live pieces that holds `size` bytes, else the end of them all."""
    best, best_room, end = None, None, 0
    for offset, stop, _ in live:
        room = offset - end
        if room >= size and (best is None or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best is None else best
