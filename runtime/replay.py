"""A program as one CUDA graph: all of its launches for the price of one.

The first call runs the program as it is. The second captures it, and later ones replay the capture: on the caller's
memory for inputs that have stayed where they were (parameters), on a copy of the others. An input that turns out to move
gets its copy by a new capture, so there are at most as many captures as inputs. Results are copied out of the capture's
memory: they are the caller's, as ever.

What the CPU computes by itself and gives to the GPU (a count of steps, a batch brought over, the seed of random numbers)
comes first on every call, as a program of its own: `parted`.
"""
from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from typing import Any, Callable, Collection, Sequence

import torch

from ..errors import SmeltWarning
from .load import Likeness, LoadedProgram, load
from .program import Call, Program, Step

Run = Callable[..., Sequence[Any]]


class Device:
    """What replaying needs of a GPU."""

    def __init__(self, device: torch.device):
        self.device, self.last = device, torch.cuda.Event()

    def capture(self, call: Callable[[], Sequence[Any]]) -> tuple[Callable[[], None], Sequence[Any]]:
        """(a function that replays the call, what it returned: memory that every replay writes)."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = call()
        return graph.replay, results

    def random_state(self) -> torch.Tensor:
        return torch.cuda.get_rng_state(self.device)

    def wait(self) -> None:
        """Hold the current stream until the last replay is over, which may have been on another."""
        torch.cuda.current_stream(self.device).wait_event(self.last)

    def done(self) -> None:
        self.last.record(torch.cuda.current_stream(self.device))


def obstacle(program: Program) -> str:
    """Why a program may not be captured, as far as can be seen; "" if it may be."""
    if not program.steps:
        return "nothing is launched"
    if program.symbols:
        return "its sizes change from call to call"
    touched = {*program.inputs, *program.outputs, *(i for step in program.steps for i in step.touched)}
    if any(program.slots[i].device != program.device for i in touched if program.slots[i].place != "constant"):
        return "it has tensors on the CPU"
    return next((f"the CPU waits in {s.name}" for s in program.steps if isinstance(s, Call) and s.waits), "")


def parted(program: Program) -> tuple[Program, Program]:
    """(what the CPU computes of its own tensors and gives to the GPU, the rest): the rest's inputs are those of the
    program's that it reads, then what it needs of the first one's results."""
    known = {i for i, slot in enumerate(program.slots) if slot.place in ("input", "constant") and slot.device.type == "cpu"}
    on_gpu = {i for i, slot in enumerate(program.slots) if slot.device.type != "cpu"}
    first: list[Call] = []
    rest: list[Step] = []
    for step in program.steps:
        if isinstance(step, Call) and known.issuperset(step.reads) and (step.waits or not on_gpu.intersection(step.writes)):
            first.append(step)
            known |= {*step.writes} - on_gpu
        else:
            rest.append(step)
    made = {r for step in first for r in step.writes}
    needed = {i for step in rest for i in step.touched}
    passed = sorted(made & needed)
    first = [replace(step, guessed=step.guessed.union(r for r in step.results if r in passed)) for step in first]
    of_first = {i for step in first for i in step.reads} - made
    of_cpu = known.intersection(program.inputs) - needed
    of_rest = needed.union(program.outputs) - made - of_cpu
    return (_part(program, first, of_first, (*passed, *(o for o in program.outputs if o in made))),
            _part(program, rest, of_rest, [o for o in program.outputs if o not in made | of_cpu], passed))


def _part(program: Program, steps: Sequence[Step], touched: Collection[int], outputs: Sequence[int],
          passed: Sequence[int] = ()) -> Program:
    """A program of some steps, with the inputs that they touch, then what is passed on to it."""
    slots = list(program.slots)
    inputs = (*(i for i in program.inputs if i in touched), *passed)
    for position, i in enumerate(inputs):
        slots[i] = replace(slots[i], place="input", position=position)
    return replace(program, slots=tuple(slots), inputs=inputs, outputs=tuple(dict.fromkeys(outputs)), steps=tuple(steps))


def replayed(program: Program, likeness: Likeness | None = None) -> tuple[LoadedProgram, str]:
    """(a program loaded, so that it is replayed if it may be; why it isn't, or ""). Raises what `load` does."""
    first, rest = parted(program)
    if why := obstacle(rest):
        return load(program, likeness=likeness), why
    before, loaded = load(first), load(rest)
    run = _joined(program, first, before.run, rest, Replayed(rest, loaded.run, Device(program.device)))
    return LoadedProgram(program, run, f"{before.host_source}\n{loaded.host_source}", loaded.source_path, likeness), ""


def _joined(program: Program, first: Program, run_first: Run, rest: Program, run_rest: Run) -> Run:
    """The two parts of a program, run as one."""
    place = {slot: k for k, slot in enumerate((*program.inputs, *first.outputs))}
    to_first, to_rest = (tuple(place[i] for i in part.inputs) for part in (first, rest))
    place |= {slot: len(program.inputs) + len(first.outputs) + k for k, slot in enumerate(rest.outputs)}
    out = tuple(place[i] for i in program.outputs)

    def run(*inputs) -> Sequence[Any]:
        known = (*inputs, *run_first(*(inputs[k] for k in to_first)))
        known = (*known, *run_rest(*(known[k] for k in to_rest)))
        return tuple(known[k] for k in out)
    return run


class Replayed:
    """`run` of a program, called as it is. One call at a time replays."""

    def __init__(self, program: Program, run: Run, device: Device):
        self.program, self.run, self.device = program, run, device
        self.lock = threading.Lock()
        outputs = [program.slots[o] for o in program.outputs]
        self.landed = {k: slot.position for k, slot in enumerate(outputs) if slot.place == "input"}  # results in inputs' memory
        self.pointers: tuple[int, ...] | None = None  # of the inputs of the last call
        self.moving: set[int] = set()  # inputs that had other memory in another call
        self.replay: Callable[[], None] | None = None
        self.plain = False

    def __call__(self, *inputs) -> Sequence[Any]:
        if self.plain:
            return self.run(*inputs)
        with self.lock:
            if self.pointers is None:
                return self._first(inputs)
            pointers = tuple(x.data_ptr() for x in inputs)
            moved = {k for k, (old, new) in enumerate(zip(self.pointers, pointers)) if old != new} - self.moving
            self.pointers = pointers
            self.moving |= moved
            with torch.no_grad():
                if (self.replay is None or moved) and not self._capture(inputs):
                    return self.run(*inputs)
                return self._again(inputs)

    def _first(self, inputs: Sequence[torch.Tensor]) -> Sequence[Any]:
        """The plain run, which shows whether the program can be replayed: random numbers would not be eager's."""
        before = self.device.random_state()
        results = self.run(*inputs)
        tensors = all(isinstance(x, torch.Tensor) for x in (*inputs, *results))
        self.plain = not tensors or not torch.equal(before, self.device.random_state())
        self.pointers = () if self.plain else tuple(x.data_ptr() for x in inputs)
        return results

    def _capture(self, inputs: Sequence[torch.Tensor]) -> bool:
        self.replay = None  # its memory goes first
        self.given = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) if k in self.moving else x.detach()
                      for k, x in enumerate(inputs)]
        try:
            self.replay, self.results = self.device.capture(lambda: self.run(*self.given))
        except RuntimeError as error:
            warnings.warn(f"{self.program.name} cannot be captured as a CUDA graph, and is launched kernel by kernel: {error}",
                          SmeltWarning, stacklevel=4)
            self.plain = True
        return not self.plain

    def _again(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        self.device.wait()
        for k in self.moving:
            self.given[k].copy_(inputs[k])
        self.replay()
        for k in self.moving.intersection(self.landed.values()):
            inputs[k].data.copy_(self.given[k])  # as a kernel writes it: no new version of the tensor
        found = tuple(inputs[self.landed[k]] if k in self.landed else _copy(r) for k, r in enumerate(self.results))
        self.device.done()
        return found


def _copy(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)
