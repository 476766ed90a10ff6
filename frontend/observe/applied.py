"""What a run is in that is run again as it is: custom autograd.Functions and checkpoints.

A graph holds a custom function as an op, which runs it, with stand-ins for its arguments. So what it leaves in the state around
it can't be replayed, nor can it find an argument there as well: as another tensor. A checkpoint runs its function once more in
the backward pass, and a program does not: what that leaves would be left once too little.
"""
from __future__ import annotations

import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..guard.guards import Read, same_contents, snapshot
from ..guard.writes import unchanged
from ..torch_internals import version_of, without_modes
from .places import user_line
from .reached import Reached

if TYPE_CHECKING:
    from .observer import Observer

#: What a custom function is called in reasons.
FUNCTION = "custom autograd.Function"


class Applied:
    """Sees what they do: in forwards, and in backwards where a backward pass is part of the run. `frames`: those that run now,
    with what each is of."""

    def __init__(self, observer: Observer, reached: Reached):
        self._observer, self._reached = observer, reached
        self.frames: dict[types.FrameType, str] = {}
        self._given: dict[int, torch.Tensor] = {}  # all arguments so far that gradients flow to
        self._containers: dict[tuple, tuple] = {}
        self._places: list[tuple[Read, Any]] = []
        self._versions: dict[int, tuple[str, torch.Tensor, int]] = {}

    @without_modes()
    def enter(self, frame: types.FrameType, what: str, given: tuple = ()) -> None:
        """A frame of one is entered; `given`: a custom function's arguments."""
        self._given.update((id(t), t) for t in tensors_in(given) if t.requires_grad)
        if not self.frames:
            self._containers = {place: snapshot(read.holder) for place, read in self._reached.reads.items()
                                if read.kind == "contents"}
            self._places = [(read, read.now()) for read, sure in self._reached.touched.values() if not sure]
            self._versions = {}
            for name, t in self._reached.tensors.values():
                self._note(name, t)
        self.frames[frame] = what

    @without_modes()
    def leave(self, frame: types.FrameType) -> None:
        """It ends."""
        for subject in () if len(self.frames) > 1 else self._changed():
            self._refuse(f"changes {subject}", user_line(frame))
        del self.frames[frame]

    def _changed(self) -> Iterator[str]:
        for place, read in self._reached.reads.items():
            if read.kind == "contents" and not same_contents(read.holder, self._containers.get(place, read.expected)):
                yield read.subject
        before = {read.found_at: value for read, value in self._places}
        for place, (read, sure) in self._reached.touched.items():
            if not sure and not unchanged(read.now(), before.get(place, read.expected)):
                yield read.subject
        yield from (name for name, t, before in self._versions.values() if version_of(t) != before)

    def touched(self, subject: str) -> None:
        """The run is about to set an attribute."""
        if self.frames:
            self._refuse(f"changes {subject}", user_line())

    def found(self, value: Any, subject: str) -> None:
        """The run found this in the state around it."""
        if not self.frames or not isinstance(value, torch.Tensor):
            return
        if id(value) in self._given:
            self._refuse(f"finds its argument in {subject} as well", user_line())
        with without_modes():
            self._note(subject, value)

    def _note(self, name: str, t: torch.Tensor) -> None:
        if not t.is_inference():
            self._versions.setdefault(id(t), (name, t, version_of(t)))

    def _refuse(self, what: str, where: str) -> None:
        self._observer.refuse(f"{next(iter(self.frames.values()))} that {what}", where)


def tensors_in(given: Any) -> list[torch.Tensor]:
    """The tensors among arguments, also those in lists and tuples, each once."""
    if isinstance(given, torch.Tensor):
        return [given]
    found = [t for g in given for t in tensors_in(g)] if isinstance(given, (list, tuple)) else []
    return list({id(t): t for t in found}.values())
