"""Memory: a slot for everything that lies in it; what lives only inside a call shares one arena."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import torch

from ..compiler.dims import Dim, Expr
from ..compiler.ir import Graph, TensorType, Value, contiguous_strides, tensor_types
from ..runtime.program import Formula, Slot
from .coordinates import layout


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
            more |= {"shape": formulas(tuple(v.shape)), "strides": formulas(tuple(layout(v))), "dtype": v.dtype}
        if types := tensor_types(v.type):
            more["device"] = types[0].device
        self.slots.append(Slot(v.name, place, **more))
        return self.of[v]

    def add_scratch(self, name: str, shape: tuple[Dim, ...], dtype: torch.dtype) -> int:
        """A slot of a program on the CPU for what only one step needs."""
        shape, strides = formulas(tuple(shape)), formulas(contiguous_strides(shape))
        self.slots.append(Slot(name, "arena", shape, strides, dtype))
        return len(self.slots) - 1

    def add_copy(self, slot: Slot) -> int:
        """A slot of this program like one of another."""
        self.slots.append(replace(slot, live=()))
        return len(self.slots) - 1

    def add_number(self, v: Value) -> int:
        """A slot for the Python number that a call gives for a value."""
        self.slots.append(Slot(f"{v.name}_value", "call"))
        return len(self.slots) - 1

    def add_view(self, v: Value, shown: int) -> int:
        """A slot for a view that a call gives of another slot."""
        slot = self.add(v, "call")
        self.shows[slot] = self.shows.get(shown, shown)
        return slot

    def note_lives(self, uses: Sequence[Sequence[int]]) -> None:
        """Note of every arena slot from which step to which it is live, `uses` being the slots that each step touches."""
        lives: dict[int, list[int]] = {}
        for step, used in enumerate(uses):
            for slot in used:
                lives.setdefault(self.shows.get(slot, slot), [step, step])[1] = step
        for slot, live in lives.items():
            if self.slots[slot].place == "arena":
                self.slots[slot] = replace(self.slots[slot], live=tuple(live))


def formulas(part: Any) -> Any:
    """Numbers, or a structure of arguments, with every expression over sizes as the runtime's formula."""
    if isinstance(part, Expr):
        return Formula(str(part))
    if isinstance(part, (tuple, list)):
        return type(part)(map(formulas, part))
    if isinstance(part, Mapping):
        return {k: formulas(v) for k, v in part.items()}
    return part
