"""Makes a `Program` callable."""
from __future__ import annotations

import ctypes
import linecache
import os
import weakref
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Sequence

import torch

from ..errors import OtherForm, SmeltError
from .cache import library
from .frames import Kept, arena_slots_as_tensors, make_frame
from .host import Host, print_host
from .launcher import launcher, make_plan
from .program import Call, Launch, Program, Slot
from .triton_module import triton_functions

Likeness = Callable[[Sequence[torch.Tensor]], Callable[..., bool]]

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

    def __init__(self, program: Program, run: Callable[..., tuple], host_source: str, source_path: Path | None,
                 likeness: Likeness | None = None):
        self.program, self.run, self.host_source, self.source_path = program, run, host_source, source_path
        self._likeness, self._alike = None if program.symbols else likeness, None
        used = {i for step in program.steps if isinstance(step, Launch) for i in step.uses}
        self._used = [program.slots[i] for i in program.inputs if i in used]
        self._wanted = lru_cache(maxsize=64)(self._wanted_for)

    def __call__(self, *inputs) -> tuple:
        if len(inputs) != len(self.program.inputs):
            raise SmeltError(f"{self.program.name} takes {len(self.program.inputs)} inputs, not {len(inputs)}")
        if self._alike is not None and self._alike(*inputs):
            return self.run(*inputs)
        for slot, position, wanted in self._wanted(self._sizes(inputs)):
            t = inputs[position]
            if not isinstance(t, torch.Tensor) or (t.dtype, t.shape, t.stride(), t.device) != wanted and not _fits(t, *wanted):
                raise self._misfit(slot, t, wanted)
        if self._alike is None and self._likeness is not None and inputs and all(isinstance(t, torch.Tensor) for t in inputs):
            self._alike = self._likeness(inputs)
        return self.run(*inputs)

    def _sizes(self, inputs) -> tuple[int, ...]:
        """The values of the program's symbols; SmeltError where they cannot be read, or are too small."""
        sizes = []
        for s in self.program.symbols:
            t = inputs[s.position]
            if not isinstance(t, torch.Tensor) or t.dim() <= (-1 if s.dim is None else s.dim):
                raise SmeltError(f"{self.program.name}: the size {s.name} cannot be read off input {s.position}")
            sizes.append(int(t) if s.dim is None else t.shape[s.dim])
            if sizes[-1] < s.lowest:
                raise SmeltError(f"{self.program.name}: the size {s.name} is to be at least {s.lowest}, not {sizes[-1]}")
        return tuple(sizes)

    def _wanted_for(self, sizes: tuple[int, ...]) -> list[tuple[Slot, int, tuple]]:
        """What inputs that kernels read have to be, for these values of the symbols."""
        values = {s.name: n for s, n in zip(self.program.symbols, sizes)}
        return [(s, s.position, (s.dtype, *s.layout(values), s.device)) for s in self._used]

    def _misfit(self, slot: Slot, given, wanted: tuple) -> SmeltError:
        """What is wrong with the input for a slot."""
        if not isinstance(given, torch.Tensor):
            return SmeltError(f"{self.program.name}: input {slot.name!r} is to be a tensor, not {type(given).__name__}")
        found = {"device": given.device, "dtype": given.dtype, "shape": tuple(given.shape), "strides": given.stride()}
        fit = dict(zip(("dtype", "shape", "strides", "device"), wanted))
        what = next(k for k, value in found.items() if value != fit[k])
        return SmeltError(f"{self.program.name}: input {slot.name!r} is to have {what} {fit[what]}, not {found[what]}")

    def __repr__(self):
        return f"<LoadedProgram {self.program.name}: {len(self.program.steps)} steps>"


def load(program: Program, empty: Callable[..., torch.Tensor] | None = None,
         large: Callable[..., torch.Tensor] | None = None, likeness: Likeness | None = None) -> LoadedProgram:
    """Build the program's source, or take it from the cache, and make the program callable.

    `empty` allocates outputs: most of the cost of a small program is in there, and a caller may know a faster one; `large`
    allocates those that are large, or may be. `likeness` makes of inputs a quick check of whether others have their form.
    Raises BuildError if there is no working C compiler (no Triton), and ValueError for a program that breaks the rules of slots.
    """
    host = print_host(program)
    bound, path = {"c": _c_launches, "triton": _triton_launches}[program.language](program, host) if host.plans else ({}, None)
    empty = empty or empty_on(program.device)
    space = {**host.bound, **_helpers(program), **bound, "empty": empty, "large": large or empty}
    run = _define(program.name, host.source, space)
    _runs.add(run)
    if any(isinstance(step, Call) for step in program.steps):
        run = torch.no_grad()(run)
    return LoadedProgram(program, run, host.source, path, likeness)


def _c_launches(program: Program, host: Host) -> tuple[dict[str, Any], Path | None]:
    """What the host program launches C with, and the source's file."""
    built = library(program.source)
    plans = [make_plan(built.address(step.symbol), given) for _, step, given in host.plans]
    addresses = {name: ctypes.addressof(plan) for (name, _, _), plan in zip(host.plans, plans)}
    return {**addresses, "plans": plans, "launch": launcher()}, built.source_path  # plans: to keep them alive


def _triton_launches(program: Program, host: Host) -> tuple[dict[str, Any], Path | None]:
    """The functions that launch Triton kernels, and the source's file."""
    function, path = triton_functions(program.source, program.device)
    return {name: function(step.symbol) for name, step, _ in host.plans}, path


def empty_on(device: torch.device) -> Callable[..., torch.Tensor]:
    """Makes a tensor of unset memory, on this device whatever the default device is."""
    def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return empty


def _helpers(program: Program) -> dict[str, Any]:
    views = arena_slots_as_tensors(program)
    return {
        "torch": torch,
        "threads": _threads,
        "frames": [],
        "new_frame": partial(make_frame, program, views),
        "failure": lambda code: program.messages[code - 1].error(program.messages[code - 1].text),
        "in_layout": _in_layout_on(program.device),
        "laid_out": _laid_out,
        "owned": _owned,
    }


def _define(name: str, source: str, space: dict[str, Any]) -> Callable[..., tuple]:
    """The function `run` of a host program; tracebacks show its lines."""
    file = f"<smelt {name} {id(space):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), space)
    return space["run"]


def _in_layout_on(usual: torch.device) -> Callable[..., torch.Tensor]:
    """Gives what a Call returned as the kernels that read it index it."""
    def in_layout(value, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype,
                  device: torch.device = usual) -> torch.Tensor:
        if tuple(value.shape) != shape or value.dtype != dtype or value.device != device:
            found = f"{value.dtype}{list(value.shape)} on {value.device}"
            raise OtherForm(f"a call returned {found}, not {dtype}{list(shape)} on {device}")
        return _laid_out(value, strides)
    return in_layout


def _laid_out(value: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """A tensor with these strides, where they count."""
    return value if _lies(value, strides) else empty_on(value.device)(value.shape, strides, value.dtype).copy_(value)


def _fits(value: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...],
          device: torch.device) -> bool:
    return (value.dtype, value.shape, value.device) == (dtype, shape, device) and _lies(value, strides)


def _lies(value: torch.Tensor, strides: tuple[int, ...]) -> bool:
    """Whether a tensor has these strides, where they count."""
    shape, found = value.shape, value.stride()
    return found == strides or 0 in shape or all(n == 1 or a == b for n, a, b in zip(shape, found, strides))


def _owned(value, kept: Kept) -> Any:
    """A result that leaves the program: a copy if it shows the frame's arena."""
    if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() == kept.arena.untyped_storage().data_ptr():
        return value.clone()
    return value
