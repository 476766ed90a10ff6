"""What one running call of a program owns: its pointer table, its arena, and the tensors that show pieces of the arena.

Frames are pooled. A call takes one and puts it back (both atomic), so calls in other threads and calls from within
a call each have their own. Intermediate results thus live in memory that is touched again and again, not in fresh pages.
"""
from __future__ import annotations

import ctypes

import torch

from .program import Call, Program, Ref, Slot

ALIGNMENT = 64  # bytes; a cache line, and the widest vector


def make_frame(program: Program, views: tuple[int, ...]) -> tuple:
    """(address of the pointer table, a tensor for each slot of `views`, what keeps both alive).

    The table has the pointers of constants and of pieces of the arena; inputs and outputs are put in by each launch.
    """
    with torch.inference_mode(False):  # a frame outlives the mode that it was made in
        arena = torch.empty(program.arena_bytes + ALIGNMENT, dtype=torch.uint8, device=program.device)
        start = -arena.data_ptr() % ALIGNMENT
        tensors = tuple(_view(arena[start:], program.slots[v]) for v in views)
    table = (ctypes.c_void_p * len(program.slots))()
    for i, slot in enumerate(program.slots):
        if slot.place == "arena":
            table[i] = arena.data_ptr() + start + slot.offset
        elif slot.place == "constant" and isinstance(slot.constant, torch.Tensor):
            table[i] = slot.constant.data_ptr()
    return ctypes.addressof(table), *tensors, (table, arena)


def arena_slots_as_tensors(program: Program) -> tuple[int, ...]:
    """The arena slots that Calls are given as tensors, and in Triton's case launches."""
    used: list[int] = []
    for step in program.steps:
        if isinstance(step, Call):
            used += (r.slot for r in refs_in((step.args, step.kwargs)))
        elif program.language == "triton":
            used += step.uses
    return tuple(dict.fromkeys(s for s in used if program.slots[s].place == "arena"))


def refs_in(value) -> list[Ref]:
    """The Refs in a Call's arguments, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [r for item in value for r in refs_in(item)]


def _view(arena: torch.Tensor, slot: Slot) -> torch.Tensor:
    extent = 1 + sum((n - 1) * s for n, s in zip(slot.shape, slot.strides)) if 0 not in slot.shape else 0
    piece = arena[slot.offset:slot.offset + extent * slot.dtype.itemsize].view(slot.dtype)
    return piece.as_strided(slot.shape, slot.strides)
