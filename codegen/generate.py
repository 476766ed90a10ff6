"""From a graph to a program: prepare, fuse, place, order, lower, plan memory, print."""
from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Callable, Iterable, Iterator, Mapping, Protocol, Sequence

import torch

from ..compiler.dims import expr_of, typical
from ..compiler.ir import Graph, NumberType, ObjectType, TensorType, TupleType, Value, expressions, tensor_types
from ..compiler.op import OPS
from ..compiler.ops.core import called, given_type, runs_call, waits
from ..runtime.program import Call, Launch, Message, Program, Ref, Step, Symbol
from . import loops
from .coordinates import Variable
from .fuse import Group, fuse
from .landing import land
from .looping import lower_loop
from .lower import Memory, lower
from .placement import Placement, place
from .plan import Slots, formulas
from .prepare import CONSTANT, prepare
from .schedule import schedule
from .siblings import join_siblings

#: One result of a call that gives several.
ITEM = OPS["item"]
#: A kernel and the slot of each of its buffers.
KernelCall = tuple[loops.AnyKernel, tuple[int, ...]]
#: A C function's symbol and the kernels that it runs one after another.
Segment = tuple[str, tuple[KernelCall, ...]]


class Backend(Protocol):
    """What prints kernels."""
    #: Of the source: "c" or "triton".
    language: str
    #: Whether it prints loops over time; else these are calls of torch.
    loops: bool

    def print(self, name: str, segments: Sequence[Segment], messages: Sequence[Message], symbols: Mapping[str, int]) -> str:
        """The source of all segments. `symbols`: where in the slot table the value of each size symbol stands."""

    def use_library(self, batch: int, m: int, n: int, k: int, dtype: torch.dtype) -> bool:
        """Whether a batch of matrix products of [m, k] and [k, n] is better left to a library call."""

    def channels_last(self, channels: int, places: int) -> bool:
        """Whether torch's convolutions are best given images with the channels last in memory (passes/channels_last.py)."""

    def parts(self, elements: int, results: int, rows: bool) -> int:
        """Into how many parts a reduction is split (prepare.Parts)."""


@dataclass(frozen=True, eq=False)
class Unprinted:
    """A program whose source is not printed yet, and the kernels of its launches."""
    program: Program
    segments: tuple[Segment, ...]


def generate(graph: Graph, backend: Backend, landing: Mapping[int, int] = {}) -> Program:
    """The program of a verified, decomposed graph, with its source printed by the backend.

    `landing`: outputs that are to end in the memory of inputs. Where that can be, they are written there, and the program
    gives that input as the output.
    """
    return _printed(build(graph, backend, landing=landing), backend)


def single_kernels(graph: Graph, backend: Backend) -> tuple[Program, ...]:
    """A program for each kernel of a graph without symbols, in their order, whose inputs are all that it reads and writes: to
    time it alone.

    They share one source.
    """
    program = _printed(build(graph, backend, joined=False), backend)
    return tuple(_alone(program, step) for step in program.steps if isinstance(step, Launch))


def _printed(built: Unprinted, backend: Backend) -> Program:
    program = built.program
    places = {s.name: k for k, s in enumerate(program.symbols, len(program.slots))}
    source = backend.print(program.name, built.segments, program.messages, places) if built.segments else ""
    return replace(program, source=source, language=backend.language)


def _alone(program: Program, launch: Launch) -> Program:
    slots = list(program.slots)
    inputs = tuple(s for s in launch.uses if slots[s].place != "constant")
    for position, s in enumerate(inputs):
        slots[s] = replace(slots[s], place="input", position=position)
    return replace(program, name=launch.kernels[0], slots=tuple(slots), inputs=inputs, outputs=(), steps=(launch,))


def build(graph: Graph, backend: Backend, joined: bool = True, landing: Mapping[int, int] = {}) -> Unprinted:
    """Everything but the printing. `joined`: kernels that follow each other are one launch."""
    prepared = prepare(graph, backend.use_library, backend.parts, backend.loops)
    fusion = fuse(prepared)
    placement = place(prepared, fusion)
    join_siblings(prepared, fusion, placement)
    order = schedule(prepared, fusion, placement, {prepared.outputs[o] for o in landing})
    return _Builder(prepared, placement, joined, partial(build, backend=_InLoops(backend))).build(order, landing)


@dataclass(frozen=True)
class _InLoops:
    """A backend inside loops: there are kernels alone, without calls of a library."""
    backend: Backend
    loops: bool = False

    def use_library(self, *sizes) -> bool:
        return False

    def parts(self, *sizes) -> int:
        return 1


class _Builder:
    def __init__(self, graph: Graph, placement: Placement, joined: bool, build_step: Callable[[Graph], Unprinted]):
        self.graph, self.placement, self.joined, self.build_step = graph, placement, joined, build_step
        self.position = {v: n for n, v in enumerate(graph.values)}
        self.slots = Slots(graph)
        self.symbols = tuple(Symbol(s.name, k, d, s.lo) for s, (k, d) in graph.bindings().items())
        self.memory = Memory(frozenset(s.name for s in self.symbols))
        self.memory.slots = self.slots.of
        self.items: dict[Value, dict[int, Value]] = {}  # the items of each value of several results
        self.kernels: dict[tuple, loops.AnyKernel] = {}
        self.names: set[str] = set()
        self.steps: list[Call | KernelCall] = []
        self.noted: list[tuple] = []  # what there is to note of each kernel, in order
        self.computed = _by_group(graph, placement)
        for v in graph.values:
            if v.op is ITEM:
                self.items.setdefault(v.inputs[0], {})[v.attrs["index"]] = v

    def build(self, order: Sequence[Group], landing: Mapping[int, int]) -> Unprinted:
        self.take_slots()
        for group in order:
            if group.fixed is None:
                self.add_kernel(group)
            elif group.fixed.op.kind == "loop":
                self.add_loop(group.fixed)
            elif group.fixed.op.kind == "opaque" and group.fixed not in self.slots.of:
                self.add_call(group.fixed)
        inputs, outputs = (tuple(self.slots.of[v] for v in part) for part in (self.graph.inputs, self.graph.outputs))
        wanted = {outputs[o]: inputs[i] for o, i in landing.items()
                  if outputs.count(outputs[o]) == 1 and inputs[i] not in outputs}
        self.steps, moved = land(self.steps, self.slots.slots, wanted)
        outputs = tuple(moved.get(o, o) for o in outputs)
        self.slots.note_lives([_slots_of(s) for s in self.steps])
        kernels = self.share_kernels()
        steps, segments = self.join_kernels()
        notes = {"graph": self.graph, "kernels": kernels, "calls": [s.name for s in self.steps if isinstance(s, Call)],
                 "sizes": {s.name: typical(expr_of(s)) for s in self.graph.bindings()}}
        program = Program(self.graph.name, tuple(self.slots.slots), inputs, outputs, steps, "", self.symbols,
                          tuple(self.memory.messages), notes)
        return Unprinted(program, segments)

    def take_slots(self) -> None:
        for v in self.graph.values:
            if v.op.kind == "cat":
                self.memory.parts.update((part, v) for part in v.operands)
        leaving = {*self.graph.outputs, *self.kept_by_objects()}
        looped = [i for v, items in self.items.items() if v.op.kind == "loop" for i in items.values()]
        for v in self.graph.values:
            if v.op is CONSTANT:
                self.slots.add(v, "constant", constant=v.op.meaning(**v.attrs))
            elif v in looped or v in self.placement.stored and v.op.kind not in ("part", "opaque", "loop"):
                self.slots.add(v, "output" if v in leaving else "arena")

    def kept_by_objects(self) -> Iterator[Value]:
        """What lies in the memory of operands that a Python object (a tape) may hold on to after the call that makes it."""
        for v in self.graph.values:
            types = v.type.items if isinstance(v.type, TupleType) else (v.type,)
            if v.op is ITEM or not any(isinstance(t, ObjectType) for t in types):
                continue
            for i in v.operands:
                yield i
                while i.op.kind == "view":
                    i = i.inputs[0]
                    yield i
                if i in self.memory.parts:
                    yield self.memory.parts[i]

    # Kernels

    def add_kernel(self, group: Group) -> None:
        evaluated = self.computed[group]
        stored = [v for v in group.members if v in self.placement.stored]
        if all(0 in v.shape for v in stored):
            return
        kernel = lower(group, evaluated, sorted(stored, key=self.position.__getitem__), self.memory)
        self.noted.append((evaluated, self.placement.loads[group], stored))
        self.steps.append((kernel, tuple(b.slot for b in kernel.buffers)))

    def add_loop(self, v: Value) -> None:
        """A loop over time: the kernels of one step, again and again."""
        items = self.items.get(v, {})
        call = lower_loop(v, items, self.slots, self.build_step)
        self.noted.append(([v, *items.values()], v.operands, list(items.values())))
        self.steps.append(call)

    def share_kernels(self) -> list[dict[str, Any]]:
        """Let equal kernels be one; the notes on all of them, in order."""
        self.steps = [s if isinstance(s, Call) else (self.shared(s[0]), s[1]) for s in self.steps]
        kernels = [s[0] for s in self.steps if not isinstance(s, Call)]
        return [_note(kernel, *noted) for kernel, noted in zip(kernels, self.noted, strict=True)]

    def shared(self, kernel: loops.AnyKernel) -> loops.AnyKernel:
        """The first kernel that equals this one but for names and slots."""
        key = fingerprint(kernel)
        if key not in self.kernels:
            name, count = kernel.name, 0
            while name in self.names:
                count += 1
                name = f"{kernel.name}_{count}"
            self.names.add(name)
            self.kernels[key] = replace(kernel, name=name)
        return self.kernels[key]

    def join_kernels(self) -> tuple[tuple[Step, ...], tuple[Segment, ...]]:
        """The steps, with each run of kernels as one launch (each kernel, if not joined), and the segments that they run."""
        steps: list[Step] = []
        segments: list[Segment] = []
        run: list[KernelCall] = []
        for step in (*self.steps, None):
            if step is not None and not isinstance(step, Call):
                run.append(step)
                if self.joined:
                    continue
            if run:
                symbol = f"{_identifier(self.graph.name)}_{len(segments)}"
                segments.append((symbol, tuple(run)))
                uses = dict.fromkeys(s for _, slots in run for s in slots)
                steps.append(Launch(symbol, tuple(k.name for k, _ in run), tuple(uses)))
                run = []
            if isinstance(step, Call):
                steps.append(step)
        return tuple(steps), tuple(segments)

    # Calls

    def add_call(self, v: Value) -> None:
        """An opaque value as a call of its meaning; its results, if several, in the slots of its items."""
        args = tuple(formulas(i) if not isinstance(i, Value) else
                     self.number(i) if isinstance(i.type, NumberType) else self.argument(i) for i in v.inputs)
        attrs = formulas(v.attrs)
        place = str(v.origin), waits(v)
        if not isinstance(v.type, TupleType):
            slot = self.slots.add(v, "call")
            self.steps.append(Call(v.op.meaning, args, attrs, (slot,), called(v), *place, self.guessed([v]), self.laid([v])))
            return
        items = self.items.get(v, {})
        results = tuple(self.slots.add(items[k], "call") if k in items else -1 for k in range(len(v.type.items)))
        place = *place, self.guessed(items.values()), self.laid(items.values())
        if len(results) == 1 and items:  # a call with one result slot receives what is returned, the tuple
            whole = self.slots.add(v, "call")
            self.steps += [Call(v.op.meaning, args, attrs, (whole,), called(v), *place),
                           Call(operator.getitem, (Ref(whole), 0), {}, results, "item", *place)]
        else:
            self.steps.append(Call(v.op.meaning, args, attrs, results, called(v), *place))

    def guessed(self, results: Iterable[Value]) -> frozenset[int]:
        """The slots of the results whose sizes follow from symbols by a rule that was found by trying."""
        symbolic = (r for r in results if isinstance(r.type, TensorType) and next(expressions(r.type), None) is not None)
        return frozenset(self.slots.of[r] for r in symbolic if runs_call(r.inputs[0] if r.op.name == "item" else r))

    def laid(self, results: Iterable[Value]) -> frozenset[int]:
        """The slots of the results that leave the program, also in a view, with a type that their op's rule or autograd gives:
        torch may lay them out in another way."""
        makers = ((r, r.inputs[0] if r.op is ITEM else r) for r in results if r in self.shown and isinstance(r.type, TensorType))
        return frozenset(self.slots.of[r] for r, maker in makers
                         if maker.op.type is not given_type or r.attrs.get("recorded"))

    @cached_property
    def shown(self) -> set[Value]:
        """What is seen outside: the graph's outputs, and what these are views of."""
        found = set(self.graph.outputs)
        for v in reversed(self.graph.values):
            if v in found and v.op.kind == "view":
                found.add(v.inputs[0])
        return found

    def number(self, v: Value) -> Ref:
        """A value that stands for a Python number, as that number."""
        slot = self.slots.add_number(v)
        self.steps.append(Call(torch.Tensor.item, (self.argument(v),), {}, (slot,), v.name, str(v.origin), waits=True))
        return Ref(slot)

    def argument(self, v: Value) -> Ref:
        """A value as a tensor for a call: its slot; a view is made by the view's own meaning, on the tensor it shows."""
        if v in self.slots.of:
            return Ref(self.slots.of[v])
        shown = self.argument(v.inputs[0])
        slot = self.slots.add_view(v, shown.slot)
        self.steps.append(Call(v.op.meaning, (shown,), formulas(v.attrs), (slot,), v.op.name, str(v.origin)))
        return Ref(slot)


def _by_group(graph: Graph, placement: Placement) -> dict[Group, list[Value]]:
    """What each group computes, in program order."""
    found: dict[Group, list[Value]] = {}
    for v in graph.values:
        for g in placement.evaluated.get(v, ()):
            if v in g.coordinates:
                found.setdefault(g, []).append(v)
    return found


def _slots_of(step: Call | KernelCall) -> tuple[int, ...]:
    return step.touched if isinstance(step, Call) else step[1]


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return name if name[:1].isalpha() else f"graph_{name}"


def fingerprint(kernel: loops.AnyKernel) -> tuple:
    """Equal for kernels that differ in names, slots and origins only."""
    if isinstance(kernel, loops.Loop):
        name = {b.name: f"b{n}" for n, b in enumerate(kernel.buffers)}
        calls = tuple((fingerprint(k), *((p.how, name[p.buffer], p.numel, name.get(p.other)) for p in parts))
                      for k, parts in kernel.calls)
        return kernel.steps, kernel.falls, kernel.before, calls, tuple((b.dtype, b.numel) for b in kernel.buffers)
    body = loops.body_of(kernel)
    number = {b.name: f"b{n}" for n, b in enumerate(kernel.buffers)}
    number |= {s.name: f"v{n}" for n, s in enumerate(body) if hasattr(s, "name")} | {"acc": "acc", "": ""}
    axes = {a.symbol.name for a in kernel.axes}

    def field(s: loops.Statement, name: str, value):
        if name == "index":
            return value.substitute({x: expr_of(Variable(number[x.name], x.lo, x.hi)) for x in value.symbols()
                                     if x.name in number and x.name not in axes})
        if name in ("buffer", "arg", "guard", "ok") or (name == "value" and isinstance(s, loops.Store)):
            return number[value]
        return tuple(number[a] for a in value) if name == "args" else repr(value)
    rows = tuple((type(s).__name__, *(field(s, n, x) for n, x in vars(s).items() if n not in ("name", "origin"))) for s in body)
    sizes = tuple((a.size, a.reduce) for a in kernel.axes)
    product = ()
    if isinstance(kernel, loops.MatMul):
        product = kernel.a_strides, kernel.c_strides, kernel.k, number[kernel.a.name], number[kernel.c.name]
    return sizes, product, tuple((b.dtype, b.numel) for b in kernel.buffers), rows


def _note(kernel: loops.AnyKernel, values: Sequence[Value], loads, stored: Sequence[Value]) -> dict[str, Any]:
    """What `explain` tells of a kernel, at the sizes' hints: bytes in eager are those of each op's operands and result."""
    def nbytes(those: Iterable[Value]) -> int:
        return typical(sum(t.nbytes for v in those for t in tensor_types(v.type)))
    eager = nbytes(i for v in values if v.op is not ITEM for i in (v, *v.operands))
    return {"name": kernel.name, "values": [v.name for v in values], "stored": [v.name for v in stored],
            "read": nbytes(loads), "written": nbytes(stored), "eager": eager,
            "ops": sum(isinstance(s, loops.Apply) for s in loops.body_of(kernel))}
