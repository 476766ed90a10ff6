"""Loops over time as one kernel that runs those of a step again and again."""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Callable, Mapping

import torch

from ..compiler.dims import Dim, product
from ..compiler.ir import Graph, TensorType, Value
from ..compiler.recurrence import Place, Step, step_of
from . import loops
from .plan import Slots

if TYPE_CHECKING:
    from .generate import Unprinted


def lower_loop(v: Value, items: Mapping[int, Value], slots: Slots,
               build: Callable[[Graph], "Unprinted"]) -> tuple[loops.Loop, tuple[int, ...]]:
    """The loop and the slots of its buffers. `items`: those of its results that are read, by number; they have slots."""
    return _Lowering(v, items, slots, step_of(v), build).lower()


class _Lowering:
    def __init__(self, v: Value, items: Mapping[int, Value], slots: Slots, step: Step, build: Callable[[Graph], "Unprinted"]):
        self.v, self.items, self.slots, self.step = v, items, slots, step
        self.program, segments = (built := build(step.graph)).program, built.segments
        (_, self.calls), = segments
        self.buffers: dict[int, loops.Buffer] = {}  # by slot
        self.handed: dict[int, int] = {}  # the slot in which one step hands on the k-th value
        self.unread: dict[int, int] = {}  # the slot of a result that nobody reads

    def lower(self) -> tuple[loops.Loop, tuple[int, ...]]:
        parts = {}
        for n, slot in enumerate(self.program.slots):
            if slot.place == "arena":
                parts[n] = loops.Part("whole", self.buffer(self.slots.add_copy(slot), slot.dtype))
        for n, place, x in zip(self.program.inputs, self.step.inputs, self.step.graph.inputs):
            parts[n] = self.part(place, x.type, "taken")
        for n, place, x in zip(self.program.outputs, self.step.outputs, self.step.graph.outputs):
            parts[n] = self.part(place, x.type, "handed")
        calls = tuple((kernel, tuple(parts[s] for s in used)) for kernel, used in self.calls)
        met = {name for _, given in calls for p in given for name in (p.buffer, p.other)}
        kept = {s: b for s, b in self.buffers.items() if b.name in met}
        name = "_".join([*self.v.op.name.split("_")[1:], self.v.attrs["cell"]])
        return loops.Loop(name, self.step.steps, self.step.falls, self.step.before, calls, tuple(kept.values()),
                          (self.v.name,)), tuple(kept)

    def part(self, place: Place, type: TensorType, handing: str) -> loops.Part:
        """What a step's kernels are given for an input or an output of the step."""
        numel, how, first = product(type.shape), place.how, ""
        if how == "handed":
            slot, how = self.between(place.at, type), handing
            first = self.buffer(self.result(place.first, type), type.dtype) if how == "handed" else ""
        elif place.result and place.at not in self.items and not self.read_before(place.at):
            slot, how = self.slots.add_scratch(f"{self.v.name}_{place.at}", type.shape, type.dtype), "whole"
        else:
            slot = self.result(place.at, type, self.step.steps) if place.result else self.operand(place.at)
            first = self.buffer(self.operand(place.first), type.dtype) if how == "before" else ""
        return loops.Part(how, self.buffer(slot, type.dtype), numel, first)

    def read_before(self, result: int) -> bool:
        """Whether a step reads what the one before it wrote to a result."""
        return any(p.result and p.how == "before" and p.at == result for p in self.step.inputs)

    def result(self, k: int, type: TensorType, *steps: Dim) -> int:
        """The slot of a result, of so many parts of a type: scratch where nobody reads it afterwards."""
        if k in self.items:
            return self.slots.of[self.items[k]]
        if k not in self.unread:
            self.unread[k] = self.slots.add_scratch(f"{self.v.name}_{k}", (*steps, *type.shape), type.dtype)
        return self.unread[k]

    def operand(self, k: int) -> int:
        x = self.v.inputs[k]
        while x.op.kind == "view":
            x = x.inputs[0]
        return self.slots.of[x]

    def between(self, k: int, type: TensorType) -> int:
        """The slot in which one step hands on the k-th value to the next, in two parts."""
        if k not in self.handed:
            self.handed[k] = self.slots.add_scratch(f"{self.v.name}_handed_{k}", (2, *type.shape), type.dtype)
        return self.handed[k]

    def buffer(self, slot: int, dtype: torch.dtype) -> str:
        """The name of the buffer in a slot."""
        if slot not in self.buffers:
            name = re.sub(r"\W", "_", f"at_{len(self.buffers)}_{self.slots.slots[slot].name}")
            self.buffers[slot] = loops.Buffer(name, slot, dtype, 0)
        return self.buffers[slot].name
