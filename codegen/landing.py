"""Results that are to end in an input's memory are written there at once, where nothing reads the input any more."""
from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Sequence

from ..runtime.program import Call, Slot
from . import loops

#: A kernel and the slot of each of its buffers, or a call.
Step = "tuple[loops.AnyKernel, tuple[int, ...]] | Call"


def land(steps: Sequence[Step], slots: Sequence[Slot], wanted: Mapping[int, int]) -> tuple[list[Step], dict[int, int]]:
    """The steps with results written into inputs, and the slots that took another's place.

    `wanted`: slots of results, and of the inputs that are to hold them. What reads or writes one element of the input does so
    before it is overwritten; and once the first element is, nothing can fail any more.
    """
    steps, moved = list(steps), {}
    for result, target in wanted.items():
        place = _writer(steps, result, target) if _alike(slots[result], slots[target]) else None
        if place is not None:
            moved[result] = target
            steps[place] = _in_one_buffer(steps[place], result, target)
            steps = [s if isinstance(s, Call) else (s[0], tuple(target if n == result else n for n in s[1])) for s in steps]
    return steps, moved


def _alike(result: Slot, target: Slot) -> bool:
    same = (result.shape, result.strides, result.dtype) == (target.shape, target.strides, target.dtype)
    return result.place == "output" and same


def _writer(steps: Sequence[Step], result: int, target: int) -> int | None:
    """The step that writes the result, if it can write it into the target."""
    found = [n for n, s in enumerate(steps) if not isinstance(s, Call) and result in s[1] and _stores(s, result)]
    if len(found) != 1:
        return None
    first, *later = steps[found[0]:]
    if any(isinstance(s, Call) or _checks(s[0]) for s in (first, *later)) or any(target in s[1] for s in later):
        return None
    return found[0] if _elementwise(first, result, target) else None


def _names(step, slot: int) -> set[str]:
    """What the kernel calls the buffers in a slot."""
    kernel, slots = step
    return {b.name for b, s in zip(kernel.buffers, slots) if s == slot}


def _stores(step, slot: int) -> list[loops.Store]:
    names = _names(step, slot)
    return [s for s in loops.body_of(step[0]) if isinstance(s, loops.Store) and s.buffer in names]


def _checks(kernel: loops.AnyKernel) -> bool:
    return any(isinstance(s, loops.Check) for s in loops.body_of(kernel))


def _elementwise(step, result: int, target: int) -> bool:
    """Whether the kernel reads of the target no more than the element that it writes of the result."""
    kernel, names = step[0], _names(step, target)
    if isinstance(kernel, loops.Kernel) and kernel.reduced:
        return not names
    if isinstance(kernel, loops.MatMul) and names & {kernel.a.name, kernel.c.name}:
        return False
    stored = {s.index for s in _stores(step, result)}
    read = {s.index for s in loops.body_of(kernel) if isinstance(s, loops.Load) and s.buffer in names}
    return len(stored) == 1 and read <= stored


def _in_one_buffer(step, result: int, target: int):
    """The kernel with one buffer for both: as two they would be taken for memory apart."""
    (kernel, slots), old, (new,) = step, _names(step, target), _names(step, result)
    body = tuple(replace(s, buffer=new) if isinstance(s, loops.Load) and s.buffer in old else s for s in loops.body_of(kernel))
    kept = [(b, s) for b, s in zip(kernel.buffers, slots) if b.name not in old]
    buffers = tuple(b for b, _ in kept)
    changed = {"body": body} if isinstance(kernel, loops.Kernel) else {"epilogue": body}
    return replace(kernel, buffers=buffers, **changed), tuple(s for _, s in kept)
