"""The host program: a `Program` as the text of a Python function that allocates, launches, calls and returns.

It is text so that a call costs no interpretation of slots and steps, and so that people can read it:

    def run(x, w):
        try:
            frame = frames.pop()
        except IndexError:
            frame = new_frame()
        table, kept = frame
        y = empty((64, 10), (10, 1), torch.float32)
        code = launch(forward, table, threads(), x.data_ptr(), w.data_ptr(), y.data_ptr())
        if code:
            raise failure(code)
        frames.append(frame)
        return (y,)

A program with symbols reads them first (`s0 = x.shape[0]`), lays its frame out for them, and computes with them.
"""
from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field
from typing import Any

from .frames import arena_slots_as_tensors
from .program import Call, Formula, Launch, Program, Ref, nbytes
from .recycling import LARGE

#: What load.py gives the function; no slot may have such a name.
HELPERS = frozenset({"torch", "empty", "large", "frames", "new_frame", "frame", "table", "kept", "launch", "threads", "code",
                     "failure", "in_layout", "laid_out", "owned", "plans", "run"})


@dataclass
class Host:
    """`source` defines `run`, and `bound` holds its further global names. `plans`: for each launch, the name of its plan (in C)
    or function (in Triton), the step, and what it is given: slots, and beyond their number symbols."""
    source: str
    bound: dict[str, Any] = field(default_factory=dict)
    plans: list[tuple[str, Launch, tuple[int, ...]]] = field(default_factory=list)


def print_host(program: Program) -> Host:
    """The host program. Raises ValueError where the program would hand a piece of its arena to the caller, or where a symbol
    has a name that this function needs."""
    return _Printer(program).print()


class _Printer:
    def __init__(self, program: Program):
        self.program = program
        self.symbols = [s.name for s in program.symbols]
        if unfit := [name for name in self.symbols if name in HELPERS or not name.isidentifier() or keyword.iskeyword(name)]:
            raise ValueError(f"{program.name}: a symbol may not be called {unfit[0]!r}")
        self.taken = {*HELPERS, *self.symbols}
        self.names = [self.fresh(slot.name) for slot in program.slots]
        self.host = Host("", {n: s.constant for n, s in zip(self.names, program.slots) if s.place == "constant"})
        self.views = arena_slots_as_tensors(program)
        self.launched = {i for step in program.steps if isinstance(step, Launch) for i in step.uses}
        self.framed = bool(self.views) or any(isinstance(step, Launch) for step in program.steps)
        self.pooled = self.framed and program.language == "c"  # on a GPU the allocator pools, by stream
        self.made: set[int] = set()  # outputs that are allocated
        self.placed: set[int] = set()  # slots whose pointers are in the table
        self.sized = bool(self.symbols) and any(s.place == "arena" for s in program.slots)
        self.lines: list[str] = []

    def print(self) -> Host:
        program = self.program
        for i in program.outputs:
            if program.slots[i].place == "arena":
                raise ValueError(f"{program.name}: output {program.slots[i].name!r} lies in the arena")
        self.read_symbols()
        self.take_frame()
        for step in program.steps:
            self.print_launch(step) if isinstance(step, Launch) else self.print_call(step)
        self.allocate(program.outputs)
        results = [self.result(i) for i in program.outputs]
        if self.pooled:
            self.lines.append("frames.append(frame)")
        self.lines.append(f"return ({', '.join(results)}{',' if len(results) == 1 else ''})")
        parameters = ", ".join(self.names[i] for i in sorted(program.inputs, key=lambda i: program.slots[i].position))
        self.host.source = "\n    ".join([f"def run({parameters}):", *self.lines]) + "\n"
        return self.host

    def read_symbols(self):
        for symbol in self.program.symbols:
            given = self.names[self.program.inputs[symbol.position]]
            self.lines.append(f"{symbol.name} = " + (f"int({given})" if symbol.dim is None else f"{given}.shape[{symbol.dim}]"))

    def take_frame(self):
        if not self.framed:
            return
        views = "".join(f"{self.names[v]}, " for v in self.views)
        sizes = f"({''.join(name + ', ' for name in self.symbols)})" if self.sized else ""
        if self.pooled:
            self.lines += ["try:", "    frame = frames.pop()", "except IndexError:", f"    frame = new_frame({sizes})"]
            if self.sized:
                self.lines += [f"if frame[-1].sizes != {sizes}:", f"    frame = new_frame({sizes}, frame[-1])"]
        else:
            self.lines.append(f"frame = new_frame({sizes})")
        self.lines.append(f"table, {views}kept = frame")

    def print_launch(self, step: Launch):
        self.allocate(step.uses)
        name = self.fresh(step.symbol)
        launch = self.c_launch(name, step) if self.program.language == "c" else self.triton_launch(name, step)
        self.lines += [f"code = {launch}", "if code:", "    raise failure(code)"]

    def c_launch(self, name: str, step: Launch) -> str:
        slots = self.program.slots
        given = tuple(i for i in dict.fromkeys(step.uses)
                      if slots[i].place in ("input", "output", "call") and i not in self.placed)
        pointers = "".join(f", {self.names[i]}.data_ptr()" for i in given)
        for place, symbol in enumerate(self.symbols, len(slots)):
            if place not in self.placed:
                given, pointers = (*given, place), f"{pointers}, {symbol}"
        self.placed.update(given)
        self.host.plans.append((name, step, given))
        threads = {0: "threads()", 1: "1"}.get(step.threads, f"min({step.threads}, threads())")
        return f"launch({name}, table, {threads}{pointers})"

    def triton_launch(self, name: str, step: Launch) -> str:
        self.host.plans.append((name, step, step.uses))
        return f"{name}({', '.join([*(self.names[i] for i in step.uses), *self.symbols])})"

    def print_call(self, step: Call):
        self.allocate(step.reads)
        arguments = [self.argument(a) for a in step.args] + [f"{k}={self.argument(v)}" for k, v in step.kwargs.items()]
        call = f"{self.bind(step.name or getattr(step.function, '__name__', 'call'), step.function)}({', '.join(arguments)})"
        results = ["_" if r < 0 else self.names[r] for r in step.results]
        if len(results) > 1:
            call = f"{', '.join(results)} = {call}"
        elif results and results[0] != "_":
            call = f"{results[0]} = {call}"
        self.lines.append(call + (f"  # {step.origin}" if step.origin else ""))
        for i in step.results:
            if i in self.launched or i in step.guessed:  # a kernel's indices hold for one layout only
                name, slot = self.names[i], self.program.slots[i]
                device = "" if slot.device == self.program.device else f", torch.{slot.device!r}"
                self.lines.append(f"{name} = in_layout({name}, {slot.shape!r}, {slot.strides!r}, {slot.dtype!r}{device})")
            elif i in step.laid:
                self.lines.append(f"{self.names[i]} = laid_out({self.names[i]}, {self.program.slots[i].strides!r})")

    def result(self, i: int) -> str:
        """What is returned for an output; what a Call returned may show a piece of the arena that it was given."""
        if self.views and self.program.slots[i].place == "call":
            return f"owned({self.names[i]}, kept)"
        return self.names[i]

    def allocate(self, used):
        for i in dict.fromkeys(used):
            slot = self.program.slots[i]
            if slot.place == "output" and i not in self.made:
                self.made.add(i)
                large = any(isinstance(n, Formula) for n in slot.shape) or nbytes(slot, {}) >= LARGE
                self.lines.append(f"{self.names[i]} = {'large' if large else 'empty'}({slot.shape!r}, {slot.strides!r}, "
                                  f"{slot.dtype!r})")

    def argument(self, value) -> str:
        if isinstance(value, Ref):
            return self.names[value.slot]
        if type(value) in (bool, int, str, type(None), Formula):
            return repr(value)
        if type(value) is list:
            return f"[{', '.join(map(self.argument, value))}]"
        if type(value) is tuple:
            return f"({''.join(self.argument(v) + ', ' for v in value)})"
        if type(value) is dict:
            return "{" + ", ".join(f"{k!r}: {self.argument(v)}" for k, v in value.items()) + "}"
        return self.bind("constant", value)

    def bind(self, name: str, value) -> str:
        """A global name of the function for an object."""
        for known, bound in self.host.bound.items():
            if bound is value:
                return known
        name = self.fresh(name)
        self.host.bound[name] = value
        return name

    def fresh(self, name: str) -> str:
        """A Python name like this one that nothing else has."""
        name = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        stem = name = name if not name[0].isdigit() and not keyword.iskeyword(name) else "_" + name
        count = 1
        while name in self.taken or name == "_":
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name
