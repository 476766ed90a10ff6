"""Makes a `Program` callable."""
from __future__ import annotations

import ctypes
import linecache
import os
import weakref
from pathlib import Path
from typing import Any, Callable

import torch

from ..errors import SmeltError
from .cache import library
from .frames import arena_slots_of_calls, make_frame
from .host import print_host
from .launcher import launcher, make_plan
from .program import Launch, Program

_CPU = torch.device("cpu")
_runs: weakref.WeakSet = weakref.WeakSet()  # the host programs of this process
_threads: Callable[[], int] = torch.get_num_threads


def _one_thread_after_fork() -> None:
    """A forked child has none of its parent's pool threads, and libgomp would wait for them for ever."""
    global _threads
    if _runs:
        _threads = lambda: 1  # noqa: E731
        for run in _runs:
            run.__globals__["threads"] = _threads


os.register_at_fork(after_in_child=_one_thread_after_fork)


class LoadedProgram:
    """A program that runs.

    `loaded(*inputs)` checks the inputs against the program's input slots and runs. `loaded.run(*inputs)` is for callers
    that know their inputs to fit: a kernel trusts the shape, strides, dtype and device of what it is given.
    Both give the outputs as a tuple. They may be called from several threads at once, and from within a Call.
    """

    def __init__(self, program: Program, run: Callable[..., tuple], host_source: str, source_path: Path | None):
        self.program, self.run, self.host_source, self.source_path = program, run, host_source, source_path
        self._used = {i for step in program.steps if isinstance(step, Launch) for i in step.uses}

    def __call__(self, *inputs) -> tuple:
        program = self.program
        if len(inputs) != len(program.inputs):
            raise SmeltError(f"{program.name} takes {len(program.inputs)} inputs, not {len(inputs)}")
        for i in program.inputs:
            if i in self._used:
                self._check(i, inputs[program.slots[i].position])
        return self.run(*inputs)

    def _check(self, i: int, given) -> None:
        slot = self.program.slots[i]
        wanted = (slot.device, slot.dtype, slot.shape, slot.strides)
        if not isinstance(given, torch.Tensor):
            raise SmeltError(f"{self.program.name}: input {slot.name!r} is to be a tensor, not {type(given).__name__}")
        found = (given.device, given.dtype, tuple(given.shape), given.stride())
        for what, a, b in zip(("device", "dtype", "shape", "strides"), wanted, found):
            if a != b:
                raise SmeltError(f"{self.program.name}: input {slot.name!r} is to have {what} {a}, not {b}")

    def __repr__(self):
        return f"<LoadedProgram {self.program.name}: {len(self.program.steps)} steps>"


def empty_cpu(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of unset memory, on the CPU whatever the default device is."""
    return torch.empty_strided(shape, strides, dtype=dtype, device=_CPU)


def load(program: Program, empty: Callable[..., torch.Tensor] = empty_cpu) -> LoadedProgram:
    """Build the program's C source, or take it from the cache, and make the program callable.

    `empty` allocates outputs: most of the cost of a small program is in there, and a caller may know a faster one.
    Raises BuildError if there is no working C compiler, and ValueError for a program that breaks the rules of slots.
    """
    host = print_host(program)
    built = library(program.source) if host.plans else None
    plans = [make_plan(built.address(step.symbol), given) for _, step, given in host.plans]
    addresses = {name: ctypes.addressof(plan) for (name, _, _), plan in zip(host.plans, plans)}
    space = {**host.bound, **_helpers(program), **addresses, "empty": empty, "plans": plans}  # plans: to keep them alive
    run = _define(program.name, host.source, space)
    _runs.add(run)
    return LoadedProgram(program, run, host.source, built.source_path if built else None)


def _helpers(program: Program) -> dict[str, Any]:
    views = arena_slots_of_calls(program)
    return {
        "torch": torch,
        "threads": _threads,
        "frames": [],
        "new_frame": lambda: make_frame(program, views),
        "failure": lambda code: program.messages[code - 1].error(program.messages[code - 1].text),
        "in_layout": _in_layout,
        "owned": _owned,
        **({"launch": launcher()} if any(isinstance(step, Launch) for step in program.steps) else {}),
    }


def _define(name: str, source: str, space: dict[str, Any]) -> Callable[..., tuple]:
    """The function `run` of a host program; tracebacks show its lines."""
    file = f"<smelt {name} {id(space):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), space)
    return space["run"]


def _in_layout(value, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What a Call returned, as the kernels that read it index it."""
    if tuple(value.shape) != shape or value.dtype != dtype or value.device.type != "cpu":
        found = f"{value.dtype}{list(value.shape)} on {value.device}"
        raise SmeltError(f"a call returned {found}, not {dtype}{list(shape)} on the CPU")
    return value if value.stride() == strides else empty_cpu(shape, strides, dtype).copy_(value)


def _owned(value, kept: tuple) -> Any:
    """A result that leaves the program: a copy if it shows the frame's arena."""
    arena = kept[1]
    if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() == arena.untyped_storage().data_ptr():
        return value.clone()
    return value
