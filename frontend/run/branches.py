"""Branches on data: the recorded paths of a function that begin alike, as one program.

A path is a run's recording, cut into segments at its readings. Each segment is a program of its own. A call runs a path's
first segment, reads what the run read, and goes on along a path that was recorded under the same answer. Paths that agree
up to a reading share the nodes before it. Nothing is written to before a path's end: where no path has the answer, the
random state is put back, and the call starts over as one that is recorded.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Hashable, Mapping, Sequence

import numpy
import torch

from ...compiler.dims import Expr
from ...compiler.equality import graph_key, value_key
from ...compiler.evaluate import symbol_values
from ...compiler.instantiate import with_sizes
from ...compiler.ir import Graph, TensorType, TupleType, Value
from ...compiler.ops.core import takes_random_numbers
from ...compiler.ops.gradients import parts
from ...compiler.passes import Segment, cut
from ...errors import BuildError, Unsupported
from ..guard.changing import Spot
from ..guard.guards import Guards, float32, same
from ..guard.host import early_names, late_lines, maker
from ..observe.draws import Generator
from ..readings import HOW, Reading
from ..record.gradients import flows
from ..recording import Fresh, Recording
from ..symbolic.symbols import Numbers
from .backward import gradients_between
from .before import TORCH, Before
from .bridge import Executable, Late, assemble

#: A tensor of a call: ("input", k); ("value", k), the k-th of the recorded graph's values; ("number", name), a number as one.
Slot = tuple[str, Any]
#: What numbers are computed with, besides Python's own.
_FUNCTIONS = {"same": same, "float32": float32, "math": math, "numpy": numpy}
#: Paths of more readings than this, besides claims, are long.
LONG = 16
#: So many calls in a row follow such a path to an end where they run eagerly; then none is tried any more.
MOST_DETOURS = 8
#: What ends a call: (what the path's last step gave, args, kwargs) -> the call's result.
Finish = Callable[[Any, tuple, dict], Any]


@dataclass(eq=False)
class Path:
    """One recorded path: its nodes, and how its results come about.

    inputs      the slots of the graph's inputs
    slots       those of the tensors that the guards give, and `names` of the numbers behind these
    returned    the names of the numbers that are for the result
    recording   with a graph of no values, where `outputs` says which tensors were its outputs
    finish      makes the result from the results' tensors; runs the call eagerly, for `reason`, where the path has no end
    leaves, reads   the numbers that the path holds for: as a CompiledProgram's
    """
    guards: Guards
    nodes: tuple[Node, ...]
    inputs: tuple[Slot, ...]
    slots: tuple[Slot, ...]
    names: tuple[str, ...]
    returned: tuple[str, ...]
    readings: tuple[Reading, ...]
    recording: Recording
    outputs: tuple[Slot, ...]
    finish: Finish
    reason: str
    leaves: Mapping[str, int | float] = field(default_factory=dict)
    reads: Sequence[Spot] = ()

    def __post_init__(self):
        self.check = self.guards.check
        self.outcomes = tuple(r.outcome for r in self.readings)
        self.long = sum(not r.claim for r in self.readings) > LONG
        self.rare = self.long or any(r.how in ("number", "condition") and type(r.answer) is float for r in self.readings)

    def given(self, known: Mapping[Slot, torch.Tensor], numbers: Mapping[str, Any]) -> list[torch.Tensor | None]:
        """The graph's inputs; None for numbers that are not known yet."""
        lengths = {v.attrs["symbol"].name for v in self.recording.graph.inputs if "symbol" in v.attrs} & numbers.keys()
        made = {("number", name): torch.tensor(numbers[name]) for name in lengths}
        return [known.get(slot, made.get(slot)) for slot in self.inputs]

    def start(self, given: Sequence[Any], before: Before) -> tuple[dict[Slot, torch.Tensor], dict[str, Any]]:
        """What the guards gave: tensors by their slots, and numbers by their names."""
        before.let_require(given[k] for k in self.recording.raised)
        return dict(zip(self.slots, given)), dict(zip(self.names, given[len(self.slots):]))


@dataclass(frozen=True)
class Step:
    """A segment as it runs: from the tensors of some slots to those of others. `run` is None where there is nothing to do.

    makes   which of the numbers read become tensors for it, and how
    """
    run: Executable | Late | None
    takes: tuple[Slot, ...]
    gives: tuple[Slot, ...]
    makes: tuple[tuple[str, Callable[[Any], torch.Tensor]], ...]


@dataclass(frozen=True)
class Need:
    """What the paths through a node want of its segment: values to give, slots that gradients flow through, inputs that are
    written to at the end of a path, and how often what it gives is to count as written to."""
    gives: frozenset[Slot] = frozenset()
    flows: frozenset[Slot] = frozenset()
    written: frozenset[int] = frozenset()
    versions: frozenset[tuple[Slot, int]] = frozenset()

    def __or__(self, other: Need) -> Need:
        return Need(self.gives | other.gives, self.flows | other.flows, self.written | other.written,
                    self.versions | other.versions)


@dataclass(eq=False)
class Node:
    """One segment, and the reading at its end (None at a path's end) of the tensors of `slots`.

    keys        from which tensors, and what its values compute
    gives       of a backward pass, the slots of its gradients and the strides that they have there
    lines       the lines of Python that compute numbers for it
    paths       those that go through it, by the outcome of its reading
    """
    keys: tuple[tuple, ...]
    lines: str
    reading: Reading | None
    slots: tuple[Slot, ...]
    gives: tuple[tuple[Slot, tuple[int, ...]], ...] = ()
    paths: dict[Hashable, list[Path]] = field(default_factory=dict)
    need: Need = Need()
    step: Step | None = None

    def __post_init__(self):
        self.code = compile(self.lines, "<smelt numbers>", "exec") if self.lines else None
        asked = self.reading is not None and self.reading.how == "condition"
        self.asked = compile(self.reading.text, "<smelt condition>", "eval") if asked else None

    def like(self, other: Node) -> bool:
        """Whether both compute the same from the same tensors, and read the same of it."""
        return (self.reading is not None and other.reading is not None and self.reading.alike(other.reading)
                and (self.slots, self.gives, self.keys, self.lines) == (other.slots, other.gives, other.keys, other.lines))

    def beside(self, other: Node) -> bool:
        """Whether both begin to compute the same from the same tensors, and read it, be it as a number or as a symbol."""
        if self.reading is None or other.reading is None or (self.slots, self.gives) != (other.slots, other.gives):
            return False
        parts = zip((*self.keys, self.lines), (*other.keys, other.lines))
        return all(a[:len(b)] == b[:len(a)] for a, b in parts)


class Branches:
    """The paths that begin alike. Stands in the place of a program: `check`, then `run` on what it gave, then `make`.

    modes       torch's switches, under which all paths were recorded
    build       makes segments' recordings into Executables
    record      (branches, reading, args, kwargs) -> the result of a call that takes no recorded path: none has this answer
    eagerly     (args, kwargs) -> the result of a call that runs eagerly
    say         is told why a program can't be built, after all
    broken      why calls that fit run eagerly, "" if they don't
    """

    def __init__(self, modes: Hashable, build: Callable[[Sequence[Recording]], Sequence[Executable]],
                 record: Callable[[Branches, Reading, tuple, dict], Any], eagerly: Callable[[tuple, dict], Any],
                 say: Callable[[Unsupported | BuildError], None]):
        self.paths: tuple[Path, ...] = ()
        self.modes = modes
        self.executables: dict[Hashable, Executable | Late] = {}
        self.broken = ""
        self.misses = 0  # calls in a row that took no recorded path
        self.detours = 0  # and those that took a long one to its end in vain
        self._build, self._record, self._eagerly, self._say = build, record, eagerly, say
        self._generators: set[Generator] = set()  # that the paths draw random numbers from
        self._enables = False
        self._version = 0
        self._last: tuple[Path, ...] = ()

    @property
    def run(self) -> Branches:
        return self

    @property
    def guards(self) -> Guards:
        """Those of the newest path."""
        return self.paths[-1].guards

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why paths run eagerly."""
        late = (e for e in self.executables.values() if isinstance(e, Late))
        return tuple(r.reason for r in (*self.paths, *late) if r.reason)

    @property
    def unused(self) -> int:
        """How many paths there are that hardly any call takes, where none has come to the end of any. Long ones count twice, and
        twice again where the call runs eagerly after them."""
        return 0 if self._last else sum((p.rare + p.long) * (2 if p.long and p.reason else 1) for p in self.paths)

    # Calls

    def check(self, args: tuple, kwargs: dict) -> tuple | None:
        """A path whose guards hold, with its input tensors and the arguments; None if there is none."""
        for path in (*self._last, *self.paths):
            tensors = path.check(args, kwargs)
            if tensors is not None:
                return path, tensors, args, kwargs
        return None

    def __call__(self, start: tuple) -> tuple[Finish, Any]:
        """Follow the answers from what `check` gave: how the call ends, and with what."""
        if self._enables and not torch.is_grad_enabled():
            with torch.enable_grad():
                return self(start)
        before = Before(self._generators)
        try:
            while (found := self._walk(*start, before)) is None:
                before.put_back()
        except BaseException:
            before.put_back()
            raise
        return found

    def make(self, found: tuple[Finish, Any], args: tuple, kwargs: dict) -> Any:
        finish, given = found
        return finish(given, args, kwargs)

    def _walk(self, path: Path, tensors: Sequence[torch.Tensor], args: tuple, kwargs: dict, before: Before,
              left: frozenset[Node] = frozenset()) -> tuple[Finish, Any] | None:
        """None where paths were added meanwhile, and segments may have to give more than they gave.

        left: nodes from which no path goes on under what they found"""
        version, depth = self._version, 0
        known, numbers = path.start(tensors, before)
        while depth < len(path.nodes):
            node = path.nodes[depth]
            if not _computed(node, numbers) or not _advance(node.step, known, numbers):
                return self._run_eagerly, before
            if node.reading is not None:
                answer = _answer(node, known, numbers, path)
                found = node.reading.outcome_of(answer)
                if found != path.outcomes[depth]:
                    with before.flags():
                        turn = _turn(node, found, args, kwargs)
                    if turn is None:
                        with before.flags():
                            other = None if node in left else self._beside(path, left | {node}, args, kwargs)
                        left |= {node}
                        if other is not None:
                            before.put_back()
                            return self._walk(*other, args, kwargs, before, left)
                        return self._record_anew, (before, replace(node.reading, answer=answer))
                    if version != self._version:
                        return None
                    path, tensors = turn
                    for old, new in zip((known, numbers), path.start(tensors, before)):
                        old.update(new)
            depth += 1
        self._last = (path,)
        if path.reason:
            self.detours += path.long
            if self.detours > MOST_DETOURS:
                self.broken = f"calls run eagerly after they read many tensors: {path.reason}"
            return path.finish, before
        self.misses = self.detours = 0
        results = assemble(path.recording, path.given(known, numbers), [known[s] for s in path.outputs])
        return path.finish, [*results, *(numbers[n] for n in reversed(path.returned))]

    def _beside(self, path: Path, left: frozenset[Node], args: tuple, kwargs: dict) -> tuple | None:
        """A path that begins as this one and then reads something else, or the same as a symbol, and its tensors."""
        for other in reversed(self.paths):
            parting = next((k for k, (a, b) in enumerate(zip(path.nodes, other.nodes)) if a is not b), None)
            if parting is not None and path.outcomes[:parting] == other.outcomes[:parting] and left.isdisjoint(other.nodes):
                tensors = other.check(args, kwargs)
                if tensors is not None:
                    return other, tensors
        return None

    def _run_eagerly(self, before: Before, args: tuple, kwargs: dict) -> Any:
        before.put_back()
        return self._eagerly(args, kwargs)

    def _record_anew(self, given: tuple[Before, Reading], args: tuple, kwargs: dict) -> Any:
        before, reading = given
        before.put_back()
        self.misses += 1
        return self._record(self, reading, args, kwargs)

    # Growth

    def fits(self, recording: Recording, origins: Sequence[Hashable], numbers: Numbers) -> bool:
        """Whether a recording begins as the paths do. For the arguments see `add`."""
        first = _nodes(recording, origins, numbers)[0]
        return any(path.nodes[0].beside(first) for path in self.paths)

    def add(self, recording: Recording, origins: Sequence[Hashable], numbers: Numbers, make: Finish | None, late: bool = False,
            **path: Any) -> None:
        """Add a path. Without `make`, one that runs eagerly, for `reason`, after the last reading. `late`: it is built when a
        call takes it.

        origins     for each of the recording's tensors but the numbers, what tells it from others: equal ones are the same
                    tensor in every call that fits the guards
        numbers     the recording's symbolic numbers
        path        further fields of the Path

        Raises Unsupported or BuildError where a segment can't be compiled.
        """
        own = _nodes(recording, origins, numbers)
        if make is None:
            own = own[:-1]
        shared = self._shared(own)
        nodes = (*shared, *own[len(shared):])
        outputs = self._fit(recording, nodes, late)
        bare = replace(recording, graph=Graph("", recording.graph.inputs, (), ()), tensors=(), numbers=(), readings=())
        late = {("number", name) for name in numbers.data}
        inputs = tuple(map(_slots(recording).__getitem__, recording.graph.inputs))
        names = tuple(reversed(early_names(numbers, path["returned"])))
        new = Path(nodes=nodes, inputs=inputs, slots=tuple(s for s in inputs if s not in late), names=names,
                   readings=recording.readings, recording=bare, outputs=outputs, finish=make or self._run_eagerly, **path)
        self._generators |= {r.draw.generator for r in recording.readings if r.draw and r.draw.generator}
        if recording.random:
            self._generators.add(TORCH)
        self._enables |= recording.enabled or any(r.gives for r in recording.readings)
        self._version += 1
        for node, found in zip(nodes, new.outcomes):
            node.paths.setdefault(found, []).append(new)
        self.paths = (*self.paths, new)

    def _shared(self, own: Sequence[Node]) -> tuple[Node, ...]:
        """The nodes of the path that goes longest with one of these nodes."""
        best: tuple[Node, ...] = ()
        for path in self.paths:
            depth = 0
            for a, b in zip(path.nodes, own):
                if not a.like(b):
                    break
                depth += 1
                if path.outcomes[depth - 1] != b.reading.outcome:
                    break
            best = max(best, path.nodes[:depth], key=len)
        return best

    def _fit(self, recording: Recording, nodes: Sequence[Node], late: bool) -> tuple[Slot, ...]:
        """Give every node a step that serves this recording, and all those before it. The slots of the graph's outputs."""
        graph = recording.graph
        whole = {slot: v for v, slot in _slots(recording).items()}
        wanted = {v for r in recording.readings for v in r.values} | {whole[s] for n in nodes for s in n.need.gives}
        passes = [graph.values[r.position] for r in recording.readings if r.gives]
        apart = {*passes, *(v for r in recording.readings for v in r.gives)}
        counted = {v for r in recording.readings if r.how == "count" for v in r.values}
        pieces = cut(graph, [r.position for r in recording.readings], wanted, apart, counted)
        results = recording.flowing
        live = flows(graph, {graph.inputs[k] for k in recording.differentiated}, [graph.outputs[k] for k in results])
        live |= {pieces.outputs[k] for k in results if graph.outputs[k] in live}
        for v in passes:
            roots, _, leaves = parts(v.inputs, v.attrs["roots"])
            live |= flows(graph, set(leaves), roots)
        live |= {whole[s] for n in nodes for s in n.need.flows}
        slots = _slots(recording, pieces.outputs)
        versions = {slots[pieces.outputs[k]]: count for k, count in recording.versions.items()}
        written = recording.written if results else ()
        wanted = {node: found for node, segment in zip(nodes, pieces.segments)
                  if (found := _wanted(node, segment, slots, live, written, versions)) is not None}
        runs = iter(self._runs([part for _, _, part in wanted.values() if part is not None], late))
        for node, (node.need, step, part) in wanted.items():
            node.step = step if part is None else replace(step, run=next(runs))
        return tuple(slots[o] for o in pieces.outputs)

    def _runs(self, parts: Sequence[Recording], late: bool) -> list[Executable | Late]:
        """The programs of segments; equal ones (the turns of a loop) have one."""
        keys = [(graph_key(p.graph), p.results, p.differentiated, p.written, tuple(p.versions.items())) for p in parts]
        new = {key: part for key, part in zip(keys, parts) if key not in self.executables
               or isinstance(self.executables[key], Late) and not late}
        build = partial(self._build, list(new.values()))
        self.executables |= zip(new, Late.several(len(new), build, self._say) if late else build())
        return [self.executables[key] for key in keys]


def _wanted(node: Node, segment: Segment, slots: Mapping[Value, Slot], live: set[Value], written: Sequence[int],
            versions: Mapping[Slot, int]) -> tuple[Need, Step, Recording | None] | None:
    """What a node's step is to give from now on, and the step, which runs this recording; None where it does by now."""
    takes, gives = (tuple(slots[v] for v in values) for values in (segment.takes, segment.gives))
    flow = frozenset(slots[v] for v in (*segment.takes, *segment.gives) if v in live)
    counted = frozenset((slot, versions[slot]) for slot in gives if slot in versions)
    need = node.need | Need(frozenset(gives), flow, frozenset(written), counted)
    if node.step is not None and need == node.need:
        return None
    random = any(map(takes_random_numbers, segment.graph.values))
    changed = {("input", k) for k in need.written}
    part = Recording(segment.graph, (), tuple(Fresh(k, v in live) for k, v in enumerate(segment.gives)), (), random,
                     differentiated=tuple(k for k, v in enumerate(segment.takes) if v in live),
                     computed=tuple(k for k, v in enumerate(segment.takes) if v in live and takes[k][0] == "value"),
                     written=tuple(k for k, s in enumerate(takes) if s in changed),
                     versions={gives.index(slot): count for slot, count in sorted(need.versions) if slot in gives})
    inputs = zip(takes, segment.graph.inputs)
    makes = tuple((slot[1], maker(i.dtype, i.type.device)) for slot, i in inputs if slot[0] == "number")
    return need, Step(None, takes, gives, makes), part if gives or random else None


def _computed(node: Node, numbers: dict[str, Any]) -> bool:
    """Compute the numbers of a segment. False where Python raises: the call runs eagerly, to raise from the user's line."""
    if node.code is None:
        return True
    try:
        exec(node.code, _FUNCTIONS, numbers)
    except (ArithmeticError, ValueError):
        return False
    return True


def _advance(step: Step, known: dict[Slot, Any], numbers: dict[str, Any]) -> bool:
    """Run a segment. False if its program can't be built, or trusted."""
    if step.run is None:
        return True
    run = step.run.run if isinstance(step.run, Late) else step.run
    if run is None or run.broken:
        return False
    for name, make in step.makes:
        if ("number", name) not in known:
            known["number", name] = make(numbers[name])
    known.update(zip(step.gives, run([known[s] for s in step.takes])))
    return True


def _answer(node: Node, known: dict[Slot, Any], numbers: dict[str, Any], path: Path) -> Any:
    """What a node's reading finds on a path; a symbol is added to the numbers, gradients to what is known."""
    reading = node.reading
    if node.asked is not None:
        return eval(node.asked, _FUNCTIONS, numbers)
    if reading.how == "gradients":
        slots, strides = zip(*node.gives)
        operands = [known[s] for s in node.slots]
        if path.recording.symbolic:
            strides = with_sizes(strides, symbol_values(path.recording.graph, path.given(known, numbers)))
        known.update(zip(slots, gradients_between(operands, (len(operands) - len(slots)) // 2, bool(reading.text), strides)))
        return reading.answer
    answer = reading.draw(numbers) if reading.draw else HOW[reading.how](*(known[s] for s in node.slots))
    if reading.how in ("symbol", "draw", "count"):
        numbers[reading.text] = answer
    if reading.how == "count":
        known["number", reading.text] = torch.tensor(answer)
    return answer


def _turn(node: Node, found: Hashable, args: tuple, kwargs: dict) -> tuple[Path, Sequence[torch.Tensor]] | None:
    """A path that goes on from a node under this outcome, whose guards hold too, and its input tensors."""
    for path in node.paths.get(found, ()):
        tensors = path.check(args, kwargs)
        if tensors is not None:
            return path, tensors
    return None


def _slots(recording: Recording, more: Sequence[Value] = ()) -> dict[Value, Slot]:
    """The slots of a graph's inputs and values, and of more values after these."""
    inputs, numbers = recording.graph.inputs, recording.numbers
    slots: dict[Value, Slot] = {v: ("input", k) for k, v in enumerate(inputs)}
    slots.update((v, ("number", node.name)) for v, node in zip(inputs[len(inputs) - len(numbers):], numbers))
    slots.update((v, ("value", k)) for k, v in enumerate(dict.fromkeys((*recording.graph.values, *more))))
    return slots


def _nodes(recording: Recording, origins: Sequence[Hashable], numbers: Numbers) -> list[Node]:
    """A node for each segment of a recording."""
    readings, slots = recording.readings, _slots(recording)
    sized = {v for r in readings if r.how in ("sizes", "count") for v in r.values}
    untyped = {*sized, *(i for v in sized for i in v.operands if v.op.name == "item")}
    told = {v: (*slot, v.dtype) if slot[0] == "number" else slot for v, slot in slots.items()}
    keys = [_unhinted(value_key(v, told.__getitem__, v not in untyped)) for v in recording.graph.values]
    inputs = [(_unhinted(i.type), k in recording.differentiated, o)
              for k, (i, o) in enumerate(zip(recording.graph.inputs, origins))]
    nodes, start, line = [], 0, 0
    for r in readings:
        key = tuple(inputs[:r.inputs]), tuple(keys[start:r.position])
        nodes.append(Node(key, late_lines(numbers, line, r.lines), r, tuple(slots[v] for v in r.values),
                          tuple((slots[v], v.type.strides) for v in r.gives)))
        start, line = r.position, r.lines
    return [*nodes, Node(((), ()), late_lines(numbers, line, None), None, ())]


def _unhinted(part: Any) -> Hashable:
    """A part of a key, with symbolic sizes told by their names: what they were in a recording does not count."""
    if isinstance(part, Expr):
        return str(part)
    if isinstance(part, TensorType):
        return tuple(map(_unhinted, part.shape)), part.dtype, part.device, tuple(map(_unhinted, part.strides))
    if isinstance(part, TupleType):
        return tuple(map(_unhinted, part.items))
    return tuple(map(_unhinted, part)) if type(part) is tuple else part
