"""`smelt.explain`: what became of a function, as data and as text."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..compiler.text import show
from ..errors import SmeltError
from ..frontend.api import CompiledProgram, compiled_function
from . import draw
from .bench import size


@dataclass(frozen=True)
class KernelReport:
    """One fused kernel or call: the graph values it computes, and the bytes it reads and writes."""
    name: str
    values: tuple[str, ...]
    read: int
    written: int
    seconds: float | None = None

    def __str__(self):
        time = f", {self.seconds * 1e6:.1f} us" if self.seconds is not None else ""
        return f"{self.name}: {len(self.values)} values ({', '.join(self.values)}), {size(self.read)} read, {size(self.written)} written{time}"


@dataclass(frozen=True)
class ProgramReport:
    """One recorded path: its guards, its kernels, the torch calls that stay, and the compile seconds by step."""
    guards: tuple[str, ...]
    kernels: tuple[KernelReport, ...]
    calls: tuple[str, ...]
    arena_bytes: int
    output_bytes: int
    seconds: dict[str, float]
    recorded_ops: int
    broken: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a function. `compiled`: every path recorded so far runs as a program.

    `fallbacks`: reason and user's line of each path that runs eagerly.
    `recompilations`: why each program after the first was needed.
    """
    name: str
    programs: tuple[ProgramReport, ...]
    fallbacks: tuple[str, ...]
    recompilations: tuple[str, ...] = field(default=())

    @property
    def compiled(self) -> bool:
        return bool(self.programs) and not self.fallbacks and not any(p.broken for p in self.programs)

    @property
    def kernels(self) -> int:
        """Kernels and calls of all programs."""
        return sum(len(p.kernels) + len(p.calls) for p in self.programs)

    @property
    def bytes(self) -> int:
        """Bytes that the kernels of all programs read and write."""
        return sum(k.read + k.written for p in self.programs for k in p.kernels)

    @property
    def peak_memory(self) -> int:
        """Bytes of the arenas and outputs of the largest program."""
        return max((p.arena_bytes + p.output_bytes for p in self.programs), default=0)

    def __str__(self):
        lines = [f"{self.name}: {'compiled' if self.compiled else 'not compiled' if not self.programs else 'compiled in part'}, "
                 f"{len(self.programs)} program{'s' if len(self.programs) != 1 else ''}"]
        for n, p in enumerate(self.programs):
            total = sum(p.seconds.values())
            slowest = ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in sorted(p.seconds.items(), key=lambda t: -t[1])[:3])
            lines += [f"  program {n}: {p.recorded_ops} ops -> {len(p.kernels)} kernels and {len(p.calls)} calls; "
                      f"compiled in {total:.2f} s ({slowest}); arena {size(p.arena_bytes)}"]
            lines += [f"    broken: {p.broken}"] if p.broken else []
            lines += [f"    guard   {g}" for g in p.guards]
            lines += [f"    kernel  {k}" for k in p.kernels]
            lines += [f"    call    {c}" for c in p.calls]
        lines += [f"  eager: {f}" for f in self.fallbacks]
        lines += [f"  compiled again: {r}" for r in self.recompilations]
        return "\n".join(lines)


def explain(compiled: Any) -> Report:
    """The report of a compiled function, method or module. TypeError for anything else."""
    function = compiled_function(compiled)
    kept = [p for p in function.programs if p.run is not None]
    return Report(function.name, tuple(map(_program, kept)), tuple(p.reason for p in function.programs if p.run is None),
                  tuple(function.recompilations))


def _program(p: CompiledProgram) -> ProgramReport:
    compilation = p.run.compilation
    loaded = [x.program for x in compilation.programs.values()]
    kernels = tuple(KernelReport(k["name"], tuple(k["values"]), k["read"], k["written"]) for x in loaded for k in x.notes["kernels"])
    calls = tuple(name for x in loaded for name in x.notes["calls"])
    outputs = sum(_bytes(x.slots[o]) for x in loaded for o in set(x.outputs) if x.slots[o].place == "output")
    return ProgramReport(tuple(str(p.guards).splitlines()), kernels, calls, sum(x.arena_bytes for x in loaded), outputs,
                         dict(compilation.seconds), len(compilation.graphs["recorded"].values), p.run.broken)


def _bytes(slot) -> int:
    count = 1
    for n in slot.shape:
        count *= n
    return count * slot.dtype.itemsize


def _compilation(compiled: Any, program: int):
    function = compiled_function(compiled)
    kept = [p for p in function.programs if p.run is not None]
    if not kept:
        reasons = "; ".join(p.reason for p in function.programs) or "it has not been called yet"
        raise SmeltError(f"{function.name} has no compiled program: {reasons}")
    if not 0 <= program < len(kept):
        raise SmeltError(f"{function.name} has {len(kept)} programs; there is no program {program}")
    return kept[program].run.compilation


def stage_text(compiled: Any, stage: str, program: int) -> str:
    """The text of one stage: a graph by name, or "c", "host" and the same of the backward program."""
    c = _compilation(compiled, program)
    texts = {name: lambda graph=graph: show(graph) for name, graph in c.graphs.items()}
    for name, loaded in c.programs.items():
        prefix = "" if name == "forward" else f"{name} "
        texts[f"{prefix}c"] = lambda loaded=loaded: loaded.program.source
        texts[f"{prefix}host"] = lambda loaded=loaded: loaded.host_source
    if stage not in texts:
        raise SmeltError(f"there is no stage {stage!r}; there is {', '.join(texts)}")
    return texts[stage]()


def picture(compiled: Any, path: Any, program: int) -> Path:
    """Draw the forward and backward graphs of a program with their kernels as boxes."""
    c = _compilation(compiled, program)
    parts = [(c.graphs[name], {k["name"]: k["values"] for k in loaded.program.notes["kernels"]}) for name, loaded in c.programs.items()]
    return draw.render(draw.dot(parts), path)
