"""What one running call of a program owns: its pointer table, its arena, and the tensors that show pieces of the arena.

Frames are pooled. A call takes one and puts it back (both atomic), so calls in other threads and calls from within
a call each have their own. Intermediate results thus live in memory that is touched again and again, not in fresh pages.

A program with symbols lays its arena out anew when a call has other sizes than the frame's last one. The memory stays,
and grows when a call needs more.
"""
from __future__ import annotations

import ctypes
from typing import Mapping, NamedTuple

import torch

from .program import ALIGNMENT, Call, Program, Slot, arena_layout


class Kept(NamedTuple):
    """What keeps a frame's addresses alive, and the values of the program's symbols that it is laid out for."""
    table: ctypes.Array
    arena: torch.Tensor
    sizes: tuple[int, ...]


def make_frame(program: Program, views: tuple[int, ...], sizes: tuple[int, ...] = (), old: Kept | None = None) -> tuple:
    """(address of the pointer table, a tensor for each slot of `views`, Kept) for these values of the program's symbols;
    in the arena of an `old` frame if that is large enough.

    The table has the pointers of constants and of pieces of the arena; inputs, outputs and sizes are put in by each launch.
    """
    values = {s.name: n for s, n in zip(program.symbols, sizes)}
    offsets, total = arena_layout(program.slots, values)
    with torch.inference_mode(False):  # a frame outlives the mode that it was made in
        fits = old is not None and len(old.arena) >= total + ALIGNMENT
        arena = old.arena if fits else torch.empty(total + ALIGNMENT, dtype=torch.uint8, device=program.device)
        start = -arena.data_ptr() % ALIGNMENT
        tensors = tuple(_view(arena[start + offsets[v]:], program.slots[v], values) for v in views)
    table = (ctypes.c_void_p * (len(program.slots) + len(program.symbols)))()
    for i, slot in enumerate(program.slots):
        if i in offsets:
            table[i] = arena.data_ptr() + start + offsets[i]
        elif slot.place == "constant" and isinstance(slot.constant, torch.Tensor):
            table[i] = slot.constant.data_ptr()
    return ctypes.addressof(table), *tensors, Kept(table, arena, sizes)


def arena_slots_as_tensors(program: Program) -> tuple[int, ...]:
    """The arena slots that Calls are given as tensors, and in Triton's case launches."""
    used: list[int] = []
    for step in program.steps:
        if isinstance(step, Call):
            used += step.reads
        elif program.language == "triton":
            used += step.uses
    return tuple(dict.fromkeys(s for s in used if program.slots[s].place == "arena"))


def _view(memory: torch.Tensor, slot: Slot, sizes: Mapping[str, int]) -> torch.Tensor:
    shape, strides = slot.layout(sizes)
    extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if 0 not in shape else 0
    return memory[:extent * slot.dtype.itemsize].view(slot.dtype).as_strided(shape, strides)
