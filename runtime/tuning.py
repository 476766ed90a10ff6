"""Which of several programs is the fastest on this device: measured once, and kept on disk.

A record is a file of JSON in the cache folder, named after the device, the versions and the programs' text. It holds each
program's seconds by name, so that people can see what was tried. A damaged record is measured again.
"""
from __future__ import annotations

import hashlib
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Callable, Mapping

import torch

from .. import config
from ..errors import BuildError, SmeltWarning
from .cache import make_private, write_text
from .load import load
from .program import Launch, Program, Slot

#: Runs of each program, of which the median counts; before them, one to compile and to warm up.
ROUNDS = 15


class Tuner:
    """Chooses by `time(program)`, which gives seconds and raises BuildError for a program that does not build.

    `device` is what measurements hold for: a name with everything that they depend on.
    """

    def __init__(self, device: str, time: Callable[[Program], float]):
        self.device, self.time = device, time
        self.known: dict[str, dict[str, float]] = {}

    def choose(self, programs: Mapping[str, Program]) -> str:
        """The name of the fastest program; BuildError where none builds."""
        key = self._key(programs)
        if key not in self.known:
            self.known[key] = self._recorded(key, programs) or self._measured(key, programs)
        seconds = self.known[key]
        best = min(seconds, key=seconds.__getitem__)
        if not math.isfinite(seconds[best]):
            raise BuildError(f"no way to run {programs[best].name} on {self.device} builds")
        return best

    def _key(self, programs: Mapping[str, Program]) -> str:
        parts = [self.device, *(f"{name}\n{p.source}\n{p.slots}\n{[_text(s) for s in p.steps]}" for name, p in programs.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _recorded(self, key: str, programs: Mapping[str, Program]) -> dict[str, float] | None:
        try:
            found = json.loads(self._path(key).read_text())
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and found.keys() == programs.keys() and all(isinstance(t, float) for t in found.values())
        return found if whole else None

    def _measured(self, key: str, programs: Mapping[str, Program]) -> dict[str, float]:
        seconds = {name: self._time(p) for name, p in programs.items()}
        try:
            make_private(Path(config.cache_dir))
            write_text(self._path(key), json.dumps(seconds, indent=1) + "\n")
        except OSError as error:
            warnings.warn(f"smelt cannot keep what it measured: {error}", SmeltWarning, stacklevel=2)
        return seconds

    def _time(self, program: Program) -> float:
        try:
            return self.time(program)
        except BuildError:  # more shared memory than there is, for instance
            return math.inf

    def _path(self, key: str) -> Path:
        return Path(config.cache_dir) / f"{key}.json"


def _text(step) -> str:
    return repr(step) if isinstance(step, Launch) else f"{step.name}{step.args}{step.kwargs}"


def gpu_tuner(device: torch.device) -> Tuner:
    """One that measures with CUDA events. Raises BuildError where Triton is not installed."""
    try:
        import triton
    except ImportError:
        raise BuildError("Triton is not installed: pip install triton") from None
    name = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, triton {triton.__version__}"
    return Tuner(name, seconds_on_gpu)


def seconds_on_gpu(program: Program) -> float:
    """The median seconds of a program on made-up tensors."""
    run, tensors = load(program).run, [made_up(program.slots[i]) for i in program.inputs]
    with torch.cuda.device(program.device):
        try:
            run(*tensors)
            torch.cuda.synchronize()
        except Exception as error:  # Triton's errors have no common base
            raise BuildError(f"{program.name} does not run: {error}") from error
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(ROUNDS)]
        for start, end in events:
            start.record()
            run(*tensors)
            end.record()
        torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def made_up(slot: Slot) -> torch.Tensor:
    """A tensor for a slot: random floats, none of which the user's generator draws, and zeros of other dtypes, since an integer
    may be an index."""
    tensor = torch.empty_strided(slot.shape, slot.strides, dtype=slot.dtype, device=slot.device)
    return tensor.normal_(generator=torch.Generator(slot.device)) if slot.dtype.is_floating_point else tensor.zero_()
