"""A program as one CUDA graph: all of its launches for the price of one.

The first call runs the program as it is. The second captures it, and later ones replay the capture: on the caller's
memory for inputs that have stayed where they were (parameters), on a copy of the others. An input that turns out to move
gets its copy by a new capture, so there are at most as many captures as inputs. Results are copied out of the capture's
memory: they are the caller's, as ever.
"""
from __future__ import annotations

import threading
import warnings
from typing import Any, Callable, Sequence

import torch

from ..errors import SmeltWarning
from .program import Call, Program

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
    if any(s.device != program.device for s in program.slots if s.place != "constant"):
        return "it has tensors on the CPU"
    return next((f"the CPU waits in {s.name}" for s in program.steps if isinstance(s, Call) and s.waits), "")


def replayed(program: Program, run: Run) -> Run:
    """`run` of a program that may be captured, as a replayed one."""
    return Replayed(program, run, Device(program.device))


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
