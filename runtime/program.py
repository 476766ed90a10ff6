"""What a compiled program is to the runtime: plain data, no IR.

codegen makes a `Program`; `runtime.load(program)` builds its source and gives a callable.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Union

import torch


@dataclass(frozen=True)
class Slot:
    """A place for one tensor (or Python object) of a program.

    place   "input"     given by the caller, position `position`
            "output"    allocated fresh on every call with this shape and strides, returned or handed to a later step
            "arena"     a piece of the program's arena, at byte `offset`
            "constant"  a tensor kept by the program (`constant`)
            "call"      what a Call step returns
    """
    name: str
    place: str
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    position: int = -1
    offset: int = -1
    constant: Any = None


@dataclass(frozen=True)
class Ref:
    """Stands in a Call's arguments for the content of a slot."""
    slot: int


@dataclass(frozen=True)
class Launch:
    """Run function `symbol` of the source, which runs `kernels` (their names) one after another.

    It reads and writes the slots named in `uses`; returns 0, or 1 + the index in the program's messages of a failed check.
    In C it is `symbol(void **slots, long threads)`; in Triton's Python `symbol(*tensors)`, with the tensors of `uses`.
    """
    symbol: str
    kernels: tuple[str, ...]
    uses: tuple[int, ...]
    threads: int = 0  # as many threads as are useful; 0: as many as torch has


@dataclass(frozen=True)
class Call:
    """Run a Python function: `results` receive what it returns (one slot: the value; several: a tuple's items, -1 drops one)."""
    function: Callable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    name: str = ""
    origin: str = ""


Step = Union[Launch, Call]


@dataclass(frozen=True)
class Message:
    """The error that a failed check inside a kernel raises."""
    error: type[Exception]
    text: str


@dataclass(frozen=True, eq=False)
class Program:
    """One forward or backward graph, ready to build and run."""
    name: str
    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    source: str  # in the program's language; "" if there is no kernel
    arena_bytes: int = 0
    messages: tuple[Message, ...] = ()
    #: facts for people: kernels with bytes moved, what fused into what (codegen fills it, `explain` reads it)
    notes: dict[str, Any] = field(default_factory=dict)
    language: str = "c"  # or "triton"

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        devices = [s.device for s in self.slots if s.place != "constant"]
        return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
