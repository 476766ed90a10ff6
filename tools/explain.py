"""`smelt.explain`: what became of a function, as data and as text."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Callable, Sequence

import torch

from ..codegen.generate import Backend, build, single_kernels
from ..codegen.triton.printer import print_alone
from ..compiler.instantiate import instantiate
from ..compiler.ir import Graph
from ..compiler.text import show
from ..errors import BuildError, SmeltError
from ..frontend.api import CompiledFunction, compiled_function
from ..frontend.guard.guards import Guards
from ..frontend.recording import Fresh, OutputView
from ..frontend.run.branches import Branches
from ..frontend.run.bridge import Executable, Late
from ..runtime import load
from ..runtime.ahead_of_time import Resources, compile_for
from ..runtime.program import Call, Program, arena_layout, nbytes
from ..runtime.tuning import made_up
from . import draw
from .bench import measure, size


@dataclass(frozen=True)
class KernelReport:
    """One fused kernel: the graph values it computes, the bytes it reads and writes, and those its ops would move one by one.

    `part` is "forward" or "backward". `seconds` is the median of a launch of its own, None where it was not measured.
    `resources` is what it uses of a GPU that was asked for.
    """
    name: str
    part: str
    values: tuple[str, ...]
    read: int
    written: int
    unfused: int
    seconds: float | None = None
    resources: Resources | None = None

    @property
    def rate(self) -> float | None:
        """Bytes read and written per second."""
        return None if self.seconds is None else (self.read + self.written) / self.seconds

    def cells(self) -> tuple[str, ...]:
        """What a line of the report says, in columns."""
        timed = () if self.seconds is None else (f"{self.seconds * 1e6:.1f} us", f"{self.rate / 1e9:.1f} GB/s")
        used = () if self.resources is None else self.resources.cells()
        return self.part, self.name, f"{size(self.read)} read", f"{size(self.written)} written", *timed, *used, self._values()

    def _values(self) -> str:
        if len(self.values) <= 5:
            return " ".join(self.values)
        return f"{' '.join(self.values[:3])} ... {self.values[-1]} ({len(self.values)} values)"


@dataclass(frozen=True)
class ProgramReport:
    """One recorded path: its guards, its kernels, the torch calls that stay, and the compile seconds by step. `eager`: the
    parts of it that torch runs all the same, and why. `launched`: those that are launched kernel by kernel in a mode of CUDA
    graphs, and why. `foreign`: ops of other libraries, for which it is held against its recording only where `verify` asks."""
    guards: tuple[str, ...]
    kernels: tuple[KernelReport, ...]
    calls: tuple[str, ...]
    arena_bytes: int
    output_bytes: int
    seconds: dict[str, float]
    recorded_ops: int
    broken: str = ""
    runs: str = "as C"
    eager: tuple[str, ...] = ()
    launched: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as text. The guards are counted: there are hundreds, and `guards` has them."""
        slowest = ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in sorted(self.seconds.items(), key=lambda t: -t[1])[:3])
        moved, unfused = sum(k.read + k.written for k in self.kernels), sum(k.unfused for k in self.kernels)
        counts = f"{_count(len(self.kernels), 'kernel')} and {_count(len(self.calls), 'call')} of torch"
        return [f"{_count(self.recorded_ops, 'op')} -> {counts}",
                f"{size(moved)} read and written instead of {size(unfused)}; {size(self.arena_bytes)} of memory for what stays "
                "inside",
                f"compiled in {sum(self.seconds.values()):.2f} s ({slowest})",
                f"runs {self.runs}, while {_count(len(self.guards), 'guard')} hold",
                *([f"broken: {self.broken}"] if self.broken else []),
                *(f"eager: {reason}" for reason in self.eager),
                *(f"no CUDA graph: {reason}" for reason in self.launched),
                *(f"not checked by default: it calls {op}" for op in self.foreign),
                *_columns([k.cells() for k in self.kernels]),
                *(f"call  {c}" for c in self.calls)]


@dataclass(frozen=True)
class BranchReport:
    """A line of the user's where Python looks at tensors, and goes on by what it finds there.

    `reads`: "the truth", "the number", "the elements", "the sizes", or what is asked of a number read before. `answers`: those
    that were recorded. `paths`: that many go through it.
    """
    where: str
    reads: str
    answers: tuple[str, ...]
    paths: int

    def __str__(self):
        shown = self.answers if len(self.answers) <= 6 else (*self.answers[:5], "...")
        return f"{self.where}: {_count(self.paths, 'path')} by {self.reads}: {', '.join(shown)}"


@dataclass(frozen=True)
class Report:
    """What became of a function. `compiled`: every path recorded so far runs as a program.

    `programs`: the newest first. A function that branches on data has one for each segment between two of its readings.
    `paths`: recorded ways through the function.
    `branches`: where it reads tensors in Python.
    `fallbacks`: reason and user's line of each path that runs eagerly.
    `recompilations`: why each program after the first was needed.
    `fixed_sizes`: why sizes that change did not become symbols.
    `asides`: the lines that print or log, run by Python on every call.
    `passing`: why calls ran eagerly of which nothing is kept: they left state that no later call finds.
    `limits`: why no more is recorded, so that calls that fit no program run eagerly.
    """
    name: str
    programs: tuple[ProgramReport, ...]
    fallbacks: tuple[str, ...]
    recompilations: tuple[str, ...] = field(default=())
    paths: int = 0
    branches: tuple[BranchReport, ...] = ()
    fixed_sizes: tuple[str, ...] = field(default=())
    asides: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

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

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.compiled:
            return "compiled as far as it was recorded" if self.limits else "compiled"
        if not self.programs:
            return "not compiled" if self.fallbacks else "not called yet"
        return "compiled in part" if self.fallbacks else "found wrong, runs eagerly"

    def __str__(self):
        lines = [f"{self.name}: {self.state}, {_count(len(self.programs), 'program')}"]
        for n, p in enumerate(self.programs):
            first, *rest = p.lines()
            lines += [f"  program {n}: {first}", *(f"    {line}" for line in rest)]
        lines += [f"  branches at {b}" for b in self.branches]
        lines += [f"  eager: {f}" for f in self.fallbacks]
        lines += [f"  eager, in calls of which nothing is kept: {f}" for f in self.passing]
        lines += [f"  no more is recorded: {text}" for text in self.limits]
        lines += [f"  compiled again: {r}" for r in self.recompilations]
        lines += [f"  sizes stay fixed: {r}" for r in self.fixed_sizes]
        lines += [f"  runs in Python on every call: {line}" for line in self.asides]
        return "\n".join(lines)


def explain(compiled: Any, time: bool = False, target: str = "") -> Report:
    """The report of a compiled function, method or module. Of the newest program, `time` measures each kernel, and with a
    `target` ("sm_80", "sm_90", "gfx942") Triton's kernels are compiled for that GPU, to say what they use of it.

    TypeError for anything else; BuildError where the kernels are not Triton's or do not compile.
    """
    function = compiled_function(compiled)
    programs = [_program(*p, time and n == 0, target if n == 0 else "") for n, p in enumerate(_kept(function))]
    trees = [p for p in function.programs if isinstance(p, Branches)]
    reasons = [p.reasons if isinstance(p, Branches) else (p.reason,) * (p.run is None) for p in function.programs]
    if not function.programs:  # of recordings that hold for no other call
        reasons.append(function.fallbacks)
    paths = len(function.programs) - len(trees) + sum(len(t.paths) for t in trees)
    fallbacks = tuple(chain.from_iterable(reasons))
    return Report(function.name, tuple(programs), fallbacks, tuple(function.recompilations), paths,
                  tuple(chain.from_iterable(map(_branches, trees))), tuple(function.varying.reasons),
                  tuple(function.asides), tuple(f for f in function.fallbacks if f not in fallbacks), tuple(function.limits))


def _branches(tree: Branches) -> list[BranchReport]:
    """The lines where the paths of one program read tensors."""
    answers: dict[tuple[str, str], dict[str, None]] = {}
    paths: dict[tuple[str, str], int] = {}
    for path in tree.paths:
        readings = [r for r in path.readings if r.asks]
        for reading in readings:
            answers.setdefault((reading.where, reading.what), {})[reading.found] = None
        for line in {(reading.where, reading.what) for reading in readings}:
            paths[line] = paths.get(line, 0) + 1
    return [BranchReport(*line, tuple(found), paths[line]) for line, found in answers.items()]


def _kept(function: CompiledFunction) -> list[tuple[Guards, Executable]]:
    """Everything that runs, with its guards."""
    kept: list[tuple[Guards, Executable]] = []
    for p in function.programs:
        if isinstance(p.run, Late):
            p.arrived(p.run)
        found = p.executables.values() if isinstance(p, Branches) else [p.run]
        built = [run.run if isinstance(run, Late) else run for run in found]
        kept += [(p.guards, run) for run in built if run is not None]
    return kept


def _program(guards: Guards, run: Executable, timed: bool, target: str) -> ProgramReport:
    compilation = run.compilation
    kernels, calls, arena, outputs = [], [], 0, 0
    for part, loaded in compilation.programs.items():
        program = loaded.program
        graph = compilation.graphs[part]
        typical_sizes = {s: program.notes["sizes"][s.name] for s in graph.bindings()}
        alone = single_kernels(instantiate(graph, typical_sizes), compilation.backend) if timed else ()
        notes = (alone[0] if alone else program).notes["kernels"]
        seconds = [_seconds(p) for p in alone] if timed else [None] * len(notes)
        used = _kernel_resources(graph, compilation.backend, target) if target else [None] * len(notes)
        kernels += [KernelReport(k["name"], part, tuple(k["values"]), k["read"], k["written"], k["eager"], t, r)
                    for k, t, r in zip(notes, seconds, used, strict=True)]
        calls += [" ".join(filter(None, (step.name, step.origin))) for step in program.steps if isinstance(step, Call)]
        arena += arena_layout(program.slots, program.notes["sizes"])[1]
        outputs += sum(nbytes(program.slots[o], program.notes["sizes"]) for o in set(program.outputs)
                       if program.slots[o].place == "output")
    return ProgramReport(tuple(str(guards).splitlines()), tuple(kernels), tuple(calls), arena, outputs,
                         dict(compilation.seconds), len(compilation.graphs["recorded"].values), run.broken,
                         _runs([loaded.program for loaded in compilation.programs.values()]), tuple(compilation.eager),
                         tuple(compilation.launched), compilation.recording.foreign)


def _runs(programs: Sequence[Program]) -> str:
    """How programs run; there are none under backend="eager"."""
    if not programs:
        return "op by op with torch"
    language, device = programs[0].language, programs[0].device
    if language == "c":
        return "as C"
    return f"as Triton on {device}" if device.type == "cuda" else "in Triton's interpreter, which is slow and for tests"


def _seconds(program: Program) -> float:
    """The median seconds of a kernel, in a launch of its own on made-up tensors."""
    tensors = [made_up(program.slots[i]) for i in program.inputs]
    return measure({"kernel": partial(_run_to_the_end, load(program), tensors)}, seconds=0.02)["kernel"]


def _kernel_resources(graph: Graph, backend: Backend, target: str) -> list[Resources]:
    """What each kernel of a graph uses of a GPU that need not be there."""
    if backend.language != "triton":
        raise BuildError(f"the program is not compiled with Triton, so not for {target} either: backend=\"triton\" does that")
    found = []
    for _, ((kernel, _),) in build(graph, backend, joined=False).segments:
        source, f = print_alone(kernel)
        found.append(compile_for(target, source, f.signature))
    return found


def _run_to_the_end(run: Callable, tensors: Sequence[torch.Tensor]) -> None:
    run(*tensors)
    if any(t.is_cuda for t in tensors):
        torch.cuda.synchronize()



def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first two columns and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.ljust(w) if n < 2 else c.rjust(w) if n < len(row) - 1 else c for n, (c, w) in enumerate(zip(row, widths)))
            for row in rows]




def _executable(compiled: Any, program: int) -> Executable:
    """The newest program (0) or an older one. SmeltError where there is none."""
    function = compiled_function(compiled)
    kept = _kept(function)
    if not kept:
        reasons = "; ".join(explain(compiled).fallbacks) or "it has not been called yet"
        raise SmeltError(f"{function.name} has no compiled program: {reasons}")
    if program not in range(len(kept)):
        raise SmeltError(f"{function.name} has {_count(len(kept), 'program')}, counted from 0, the newest; "
                         f"there is no program {program!r}")
    return kept[program][1]


def stage_text(compiled: Any, stage: str, program: int) -> str:
    """The text of one stage: a graph by name, or "c" ("triton"), "host" and the same of the backward program."""
    c = _executable(compiled, program).compilation
    texts = {name: lambda graph=graph: show(graph) for name, graph in c.graphs.items()}
    for name, loaded in c.programs.items():
        prefix = "" if name == "forward" else f"{name} "
        texts[f"{prefix}{loaded.program.language}"] = lambda loaded=loaded: loaded.program.source
        texts[f"{prefix}host"] = lambda loaded=loaded: loaded.host_source
    if stage not in texts:
        raise SmeltError(f"{c.recording.graph.name} has no stage {stage!r}; it has {', '.join(texts)}")
    return texts[stage]()


def picture(compiled: Any, path: Any, program: int) -> Path:
    """Draw the forward and backward graphs of a program with their kernels as boxes."""
    executable = _executable(compiled, program)
    parts = []
    if not executable.compilation.programs:
        raise SmeltError(f"{executable.recording.graph.name} was compiled with backend='eager': it has no kernels to draw")
    programs = executable.compilation.programs
    for part, loaded in ((p, programs[p]) for p in ("forward", "backward") if p in programs):
        kernels = [draw.Kernel(k["name"], tuple(k["values"]), tuple(k["stored"])) for k in loaded.program.notes["kernels"]]
        parts.append(draw.Part(loaded.program.notes["graph"], kernels, _output_labels(executable, part)))
    return draw.render(draw.dot(parts), path)


def _output_labels(executable: Executable, part: str) -> list[str]:
    recording, recorded = executable.recording, executable.recording.graph
    if part == "backward":
        return [f"gradient of {recorded.inputs[k].name}" for k in executable.derivative.wrt]
    outputs = executable.compilation.graphs[part].outputs
    labels = {w.output: f"written to {recorded.inputs[w.input].name}" for w in recording.writebacks}
    labels |= {w.result.output: f"{'leaf' if w.leaf else recorded.inputs[w.input].name}.grad" for w in recording.grads.writes
               if isinstance(w.result, (Fresh, OutputView))}
    labels |= {r.output: f"result {n}" for n, r in enumerate(recording.results) if isinstance(r, (Fresh, OutputView))}
    results = [labels.get(n, f"result {n}") for n in range(len(recorded.outputs))]
    return [*results, *(f"{o.name}, for the backward" for o in outputs[len(results):])]
