"""The way of a program, from a recording to a callable: the one list of steps, and the only file that knows every room."""
from __future__ import annotations

import time
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Sequence

import torch

from . import config
from .codegen.c.backend import CBackend
from .codegen.generate import Backend, generate
from .collector import at_rest
from .compiler.evaluate import evaluate
from .compiler.ir import Graph, Type, Value
from .compiler.ops.core import takes_random_numbers
from .compiler.passes import (Joint, Through, bring, channels_last, closed, cse, dce, decompose, derive, drop_detach, fast_random,
                              fold, gradient, join, partition, restrict, roll, simplify, through)
from .compiler.verify import verify
from .errors import BuildError, Unsupported
from .frontend import api
from .frontend.recording import Fresh, Recording
from .frontend.run.backward import Derivative, parts, uneven
from .frontend.run.bridge import Executable
from .frontend.torch_internals import TensorGuards, empty_strided_cpu, storage_uses
from .runtime import LoadedProgram, Program, Recycling, empty_on, load, watch
from .tools import dump

#: What every graph goes through, in order; each is a pass `Graph -> Graph`. First of all: tensors brought to one device, loops
#: that were written out, gradients that the program asks for.
DERIVE = (bring, roll, derive)
#: Again and again:
CLEAN = (simplify, fold, cse, dce)
#: Before the gradient: composite ops that have a gradient rule of their own stay whole.
#: After it: everything is broken into what code generation knows.
LOWER = (drop_detach, decompose, *CLEAN)
#: After that, once images are laid out as the backend wants them (passes/channels_last.py).
LAID_OUT = (join,)


_empty = empty_strided_cpu or empty_on(torch.device("cpu"))
_large = Recycling(_empty, storage_uses) if storage_uses else _empty


def _likeness(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def _load(program: Program) -> LoadedProgram:
    return load(program, _empty, _large, _likeness) if program.device.type == "cpu" else load(program, likeness=_likeness)


@dataclass
class Compilation:
    """One recorded path on its way: its graphs by stage, its loaded programs, and the seconds that each step took."""
    recording: Recording
    backend: Backend
    replayed: bool = False  # whether programs that can be are replayed as CUDA graphs
    graphs: dict[str, Graph] = field(default_factory=dict)
    programs: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    eager: list[str] = field(default_factory=list)  # what of it runs by torch after all, and why
    launched: list[str] = field(default_factory=list)  # what of it is no CUDA graph, and why
    verified: Graph | None = None  # the last one
    typed: dict[Value, Type] = field(default_factory=dict)  # values whose types were verified, with these

    def step(self, name: str, work: Callable, *args):
        """Run one step and note its time."""
        start = time.perf_counter()
        result = work(*args)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def apply(self, stage: str, graph: Graph, passes) -> Graph:
        """Run passes one after another, verifying what each changed, and keep the result under `stage`."""
        for p in passes:
            graph = self.verify(self.step(p.__name__, p, graph), p.__name__)
        self.graphs[stage] = graph
        return graph

    def lower(self, stage: str, graph: Graph) -> Graph:
        """Break a graph into what code generation knows, with images laid out as the backend wants them."""
        graph = self.step("channels_last", channels_last, self.apply(stage, graph, LOWER), self.backend.channels_last)
        return self.apply(stage, self.verify(graph, "channels_last"), LAID_OUT)

    def verify(self, graph: Graph, after: str) -> Graph:
        """Verify a graph, unless it is the last one that was."""
        if graph is not self.verified:
            self.verified = self.step("verify", verify, graph, after, self.typed)
        return graph

    def program(self, stage: str, graph: Graph) -> Callable:
        """Generate, build and load one graph."""
        program = self.step("generate", generate, graph, self.backend)
        self.programs[stage] = self.step("build", self.load_program, program)
        return self.programs[stage].run

    def begin(self, pool: Executor, stage: str, graph: Graph, landing: Mapping[int, int] = {}) -> Callable[[], Callable]:
        """Generate one graph, and let it be built and loaded in a pool, beside what comes next. What waits for it.
        `landing`: outputs that are to end in inputs' memory."""
        loading = pool.submit(self.load_program, self.step("generate", generate, graph, self.backend, landing))

        def wait() -> Callable:
            self.programs[stage] = self.step("build", loading.result)
            return self.programs[stage].run
        return wait

    def load_program(self, program: Program) -> LoadedProgram:
        """A program loaded, and replayed as a CUDA graph if it is to be and may be."""
        if not self.replayed:
            return _load(program)
        from .runtime.replay import replayed  # only with a GPU
        loaded, why = replayed(program, _likeness)
        if why:
            self.launched.append(f"{program.name}: {why}")
        return loaded

    def run_graph(self, graph: Graph, inputs) -> tuple:
        """A lowered graph generated, built and run once."""
        return _load(generate(graph, self.backend))(*inputs)


#: The values each option may have; the first is the default.
OPTIONS = {"fullgraph": (False, True), "disable": (False, True),
           "backend": ("auto", "c", "triton", "eager"), "rng": ("torch", "fast"),
           "mode": (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
           "dynamic": (None, True, False),
           "verify": (None, "first", "always", "raise", "off")}


def compile(function: Callable | None = None, *, fullgraph: bool = False, disable: bool = False, **options) -> Any:
    """smelt.compile: the decorator, with this pipeline behind it."""
    for name, value in {"fullgraph": fullgraph, "disable": disable, **options}.items():
        if value not in OPTIONS[name]:
            raise ValueError(f"smelt.compile: {name}={value!r}: there is {', '.join(map(repr, OPTIONS[name]))}")
    again = partial(compile, fullgraph=fullgraph, **options)
    builder = partial(build_all, backend=options["backend"], check=options["verify"], rng=options["rng"], mode=options["mode"])
    return api.compile(function, build=builder, again=again, fullgraph=fullgraph, disable=disable, watch=_watch,
                       dynamic=options["dynamic"], verify=options["verify"])


def _watch(places) -> Callable[[], bool] | None:
    try:
        return watch(places)
    except BuildError:  # no C compiler: Python looks
        return None


def build_all(recordings: Sequence[Recording], backend: str = "auto", check: str | None = None, rng: str = "torch",
              mode: str | None = None) -> list[Executable]:
    """Callables for recordings: each takes its input tensors, and gives its results. C compilers run side by side, and beside
    the passes.

    `check`: when to compare with the recording (config.verify if None). `rng`: "torch" for the random numbers that eager
    draws, "fast" for others, which are computed in the kernels. `mode` is of use on a GPU alone: "max-autotune" measures
    how to cut each kernel, and whether a matrix product is faster as one; it and "reduce-overhead" replay programs as CUDA
    graphs, "max-autotune-no-cudagraphs" does not.
    Raises Unsupported or BuildError where one of them can't be compiled.
    """
    with torch.device("cpu"), at_rest(), ThreadPoolExecutor() as pool:  # whatever the default device is
        begun = [_begin(pool, recording, backend, check, rng, mode) for recording in recordings]
        return [finish() for finish in begun]


def build(recording: Recording, backend: str = "auto", check: str | None = None, mode: str | None = None) -> Executable:
    """The same for one recording."""
    return build_all([recording], backend, check, mode=mode)[0]


def _begin(pool: Executor, recording: Recording, backend: str, check: str | None, rng: str,
           mode: str | None) -> Callable[[], Executable]:
    """Take a recording through all passes, and let its programs be built in a pool. What waits for them."""
    if rng == "fast":
        recording = replace(recording, graph=fast_random(recording.graph))
    device = _device(recording.graph)
    replayed = device.type == "cuda" and mode in ("reduce-overhead", "max-autotune")
    c = Compilation(replace(recording, tensors=()), _backend(backend, device, mode), replayed, {"recorded": recording.graph})
    if backend == "eager":
        return partial(_executable, c, partial(_by_reference, recording.graph), check="off")
    c.verify(recording.graph, "recording")
    if recording.flowing and recording.differentiated:
        cut = through(recording.graph, recording.differentiated, recording.flowing)
        graph = c.apply("simplified", cut.graph, (*DERIVE, *CLEAN))
        waiting, derivative = _begin_both(pool, c, graph, cut, partial(build, backend=backend, check=check, mode=mode))
    else:
        graph = c.apply("simplified", recording.graph, (*DERIVE, *CLEAN))
        waiting, derivative = [c.begin(pool, "forward", c.lower("forward", graph), recording.landing)], None

    def finish() -> Executable:
        forward, *_ = [wait() for wait in waiting]
        if config.dump:
            dump.write(c, config.dump)
        when = check or config.verify
        return _executable(c, forward, derivative, "off" if when == "first" and recording.foreign else when)
    return finish


def _begin_both(pool: Executor, c: Compilation, graph: Graph, cut: Through,
                make: Callable[[Recording], Executable]) -> tuple[list[Callable[[], Callable]], Derivative]:
    """The same for a graph that gradients flow through, with its backward graph."""
    inputs = len(c.recording.graph.inputs)
    of, wrt = cut.of, (*c.recording.differentiated, *range(inputs, inputs + len(cut.stands)))
    joint = c.step("gradient", gradient, graph, wrt, of).reached()
    c.verify(joint.graph, "gradient")
    if any(shared - {i} for i, shared in enumerate(joint.shared)):  # maybe only since equal values were merged
        joint = replace(joint, shared=c.step("gradient", gradient, _derived(cut.graph), wrt, of).shared)
    if cut.stands:
        joint = closed(joint, cut, inputs)
        c.verify(joint.graph, "closed")
    joint = replace(joint, graph=c.lower("joint", joint.graph))
    split = c.step("partition", partition, joint)
    forward = c.apply("forward", split.forward, CLEAN)
    backward = c.apply("backward", split.backward, CLEAN)
    apart = [n for n in uneven(joint.reach, cut) if joint.wrt[n] in c.recording.computed]
    waiting = [c.begin(pool, "forward", forward), *(c.begin(pool, *_backward_from(c, joint, len(split.saved), part))
                                                    for part in parts(joint.reach, cut, apart))]
    strides = tuple(i.type.strides for i in backward.inputs[len(split.saved):])
    derivative = Derivative(joint.wrt, of, joint.reach, split.saved, joint.relevant, strides,
                            partial(_backward_program, c, joint, len(split.saved)),
                            joint.shared, partial(_backward_reads, c, joint, len(split.saved)),
                            partial(_backward_again, c, graph, wrt, of, make), cut,
                            tuple(k for k in c.recording.differentiated if k not in joint.wrt))
    return waiting, derivative


def _derived(graph: Graph) -> Graph:
    """A recorded graph before values are merged."""
    for p in DERIVE:
        graph = p(graph)
    return graph


def _device(graph: Graph) -> torch.device:
    """Where a graph's kernels run; Unsupported where its tensors are on several devices besides the CPU."""
    devices = {t.device for t in graph.types() if t.device.type != "cpu"}
    if len(devices) > 1:
        raise Unsupported(f"uses tensors on several devices: {', '.join(sorted(map(str, devices)))}")
    return graph.device


def _backend(name: str, device: torch.device, mode: str | None = None) -> Backend:
    """The backend of this name for a device; "auto" is C on the CPU, and Triton on a GPU.

    Triton's kernels run on the CPU too, in its interpreter: to test them.
    """
    if name == "triton" or (name == "auto" and device.type == "cuda"):
        from .codegen.triton.backend import TritonBackend  # not needed elsewhere, and every import takes its time
        from .runtime.tuning import gpu_tuner
        measured = device.type == "cuda" and mode is not None and mode.startswith("max-autotune")
        return TritonBackend(gpu_tuner(device).choose if measured else None, device)
    if device.type != "cpu":
        raise Unsupported(f"tensors on {device} with backend={name!r}")
    return CBackend(config.isa)


def _executable(c: Compilation, forward: Callable, derivative: Derivative | None = None, check: str = "first") -> Executable:
    executable = Executable(c.recording, forward, derivative, check, partial(dump.reproducer, c))
    executable.compilation = c
    return executable


def _backward_program(c: Compilation, joint: Joint, saved: int, arriving: tuple[int, ...]) -> Callable:
    """The backward program for the case in which gradients arrive for these of the outputs `joint.of`."""
    stage, graph = _backward_from(c, joint, saved, arriving)
    if stage not in c.programs:
        c.program(stage, graph)
    return c.programs[stage]


def _backward_from(c: Compilation, joint: Joint, saved: int, arriving: tuple[int, ...]) -> tuple[str, Graph]:
    """The backward graph for these gradients alone, and the name of its stage."""
    if len(arriving) == len(joint.of):
        return "backward", c.graphs["backward"]
    stage = f"backward_from_{'_'.join(str(joint.of[i]) for i in arriving)}"
    if stage not in c.graphs:
        wanted = [k for k in range(len(joint.wrt)) if any(joint.reach[i][k] for i in arriving)]
        graph = c.verify(c.step("restrict", restrict, c.graphs["backward"], saved, arriving, wanted), "restrict")
        c.apply(stage, graph, CLEAN)
    return stage, c.graphs[stage]


def _backward_reads(c: Compilation, joint: Joint, saved: int, arriving: tuple[int, ...]) -> frozenset[int]:
    """The saved values that the backward program for these gradients reads, or reads sizes off."""
    _, graph = _backward_from(c, joint, saved, arriving)
    used = {i for v in graph.values for i in v.operands}.union(graph.outputs)
    sizes = {k for k, _ in graph.bindings().values()}
    return frozenset(k for k, i in enumerate(graph.inputs[:saved]) if i in used or k in sizes)


def _backward_again(c: Compilation, graph: Graph, wrt: Sequence[int], of: Sequence[int],
                    make: Callable[[Recording], Executable], arriving: tuple[int, ...],
                    tensors: Sequence[torch.Tensor]) -> Executable | None:
    """The gradients of inputs `wrt`, for those of the outputs `of` that gradients arrive for, as a program of its own with
    a backward program. `tensors`: the graph's inputs, then the arriving gradients. None, and a note, where it can't be."""
    try:
        graph = decompose(graph)  # some composite ops give what later derivatives take for independent of their operands
        derivative = gradient(graph, wrt, [of[i] for i in arriving]).reached().derivative
        results = range(len(derivative.outputs))
        differentiated = tuple(k for k, t in enumerate(tensors) if t.requires_grad)
        flows = gradient(derivative, differentiated, results).reach
        recording = Recording(derivative, tuple(tensors), tuple(Fresh(k, any(flows[k])) for k in results),
                              random=c.recording.random, differentiated=differentiated)
        executable = make(recording)
    except (Unsupported, BuildError) as e:
        c.eager.append(f"the gradients that are differentiated in turn: {e}")
        return None
    for stage, loaded in executable.compilation.programs.items():
        c.graphs[f"gradient {stage}"], c.programs[f"gradient {stage}"] = executable.compilation.graphs[stage], loaded
    return executable


def _by_reference(graph: Graph, *inputs) -> list:
    return evaluate(graph, inputs)


def compile_graph(graph: Graph, backend: str = "auto") -> Callable:
    """One graph as a callable of its inputs (tensors) that gives a tuple of its outputs, with no gradient."""
    for p in (*DERIVE, *CLEAN, *LOWER):
        graph = verify(p(graph), p.__name__)
    return _load(generate(graph, _backend(backend, _device(graph))))


def check_gradients(graph: Graph, inputs: Sequence[torch.Tensor], wrt: Sequence[int], grads: Mapping[int, torch.Tensor],
                    backend: str = "auto") -> str:
    """What comes out wrong where these gradients arrive at outputs of a graph, and those of inputs `wrt` are asked for: the
    first difference from torch's gradients of the graph run op by op; "" if there is none."""
    results = tuple(Fresh(k, k in grads) for k in range(len(graph.outputs)))
    leaves = [t.detach().requires_grad_(k in wrt) for k, t in enumerate(inputs)]
    random = any(map(takes_random_numbers, graph.values))
    executable = build(Recording(graph, tuple(leaves), results, random=random, differentiated=tuple(wrt)), backend, "always")
    told: list[str] = []

    def tell(mismatch, stage: str, *_) -> str:
        told.append(f"{stage}: {mismatch}")
        return told[-1]
    executable.on_mismatch = tell
    outputs = executable(leaves)
    torch.autograd.grad([outputs[k] for k in grads], [leaves[k] for k in wrt], list(grads.values()), allow_unused=True)
    return told[0] if told else ""
