"""The decorator: a function that records its first call, and runs compiled programs where their guards hold."""
from __future__ import annotations

import copy
import functools
import sys
import threading
import types
import warnings
import weakref
from collections import deque
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Callable, ContextManager, Hashable, Iterable, Iterator, Mapping, Protocol, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from .. import config
from ..compiler.dims import Expr
from ..errors import BuildError, OtherForm, SmeltError, SmeltWarning, Unsupported, WrongResult
from .guard.changing import Changing, Spot, StandIns, looks_at_identity, number_reads, surviving, without_symbols
from .guard.fetched import Fetched, Found
from .guard.guards import Condition, Guards, Namespace, Read, Watch, has_strides
from .guard.host import early_names, host_of
from .guard.structure import Arguments, Rebuild
from .modules import compiled_module, pair_of
from .observe.observer import Observer
from .observe.places import user_frame
from .readings import Reading
from .record.recorder import Recorder
from .record.trial import ConcreteSizes, First, Second, SizedArguments, undone, without_fixed
from .recording import Grads, Recording
from .run.branches import LONG, Branches
from .run.bridge import Late, misrecorded
from .symbolic.sizes import Sizes
from .symbolic.symbols import Node, Numbers
from .symbolic.varying import COUNT, ELEMENT, NUMBER, READ, Place, Varying
from .torch_internals import (active_dispatch_modes, active_transform, default_devices, forward_ad, saved_tensors_hooks,
                              tracing)

#: Swapping the attribute access of classes is visible to all threads: one recording at a time. Who can't have it runs eagerly.
_recording = threading.Lock()
#: What torch's ops raise.
OP_ERRORS = (RuntimeError, IndexError, ValueError, TypeError)
#: What mistakes in smelt's own code raise. Anything else comes from code of the user's, or of torch's around the call: a
#: checkpoint ends by an exception what it computes again.
DEFECTS = (KeyError, AttributeError, AssertionError, NameError)


class Run(Protocol):
    """A program that is built: gives result tensors for input tensors. `broken` is true once it can't be trusted."""
    broken: Any

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]: ...


#: Builds programs, those of a call side by side.
Build = Callable[[Sequence[Recording]], Sequence[Run]]
#: So many paths, of which no call took one after its recording, are followed by no more: long ones, which count twice, and those
#: for one float alone.
UNUSED_LIMIT = 12
#: After so many recordings in a row that run eagerly, all for one reason, what differs again is not recorded.
EAGER_LIMIT = 4
#: What changes where no guard tells.
_OWN_WRITES = "what the run itself writes"


@dataclass(eq=False, repr=False)
class CompiledProgram:
    """One recorded case of a function. `run` is None where the case can't be compiled and runs eagerly, for `reason`.

    `leaves` and `reads` are the numbers among its arguments, and those read elsewhere, that it holds for. `fix` lets the sizes
    that are symbols in it be numbers in programs to come."""
    guards: Guards
    run: Run | None
    make: Callable[[Sequence[torch.Tensor], tuple, dict], Any] | None
    reason: str = ""
    leaves: Mapping[str, int | float] = field(default_factory=dict)
    reads: Sequence[Spot] = ()
    fix: Callable[[], None] | None = None

    def __post_init__(self):
        self.check = self.guards.check

    def arrived(self, late: Late) -> Run | None:
        """The run that was waited for; None where it can't be built."""
        self.run, self.reason = late.run, late.reason
        return self.run

    def __str__(self):
        return f"{'eager: ' + self.reason if self.run is None else 'compiled'}\n{self.guards}"


class Passing:
    """A program whose guards also give `count` numbers for the result: passed by it."""

    def __init__(self, run: Run, count: int):
        self.run, self.count = run, count

    def __call__(self, given: Sequence[Any]) -> Sequence[Any]:
        return [*self.run(given[:-self.count]), *given[-self.count:]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


def _called(function: Callable, arguments: Arguments) -> Any:
    """The function's result for a call taken apart, which is not needed any more."""
    (args, kwargs), arguments.call = arguments.call, ((), {})
    return function(*args, **kwargs)


class _Run:
    """A run of a function under observation."""

    def __init__(self, arguments: Arguments, names: Namespace, observer: Observer, name: str, changing: Changing,
                 found: Found, symbolic: bool):
        self.arguments, self.names, self.observer = arguments, names, observer
        self._found = found
        given = [(name, t) for _, name, t in arguments.tensors]
        self.symbolic, self._lines = symbolic, changing.lines if symbolic and not changing.barred else ()
        ways = {"symbolic": self._symbolic, "stand_ins": self._stand_ins, "aside": observer.telling.aside,
                "open": lambda: observer.unsupported is None, "arrays": arguments.arrays}
        self.recorder = observer.recorder = Second(arguments, observer.name_of, **ways) if isinstance(arguments, SizedArguments) \
            else Recorder(given, observer.name_of, name, arguments.given, **ways)

    def _symbolic(self, line: str) -> bool:
        """Whether the numbers that .item() gives at a line are to be symbolic ones."""
        return line in self._lines and self._stand_ins()

    def _stand_ins(self) -> bool:
        """Whether the run may be given symbolic numbers that come of no place."""
        return self.symbolic and not self.observer.looks.named and not self.observer.looks.strict

    @property
    def redoable(self) -> bool:
        """Whether the run may have been given symbolic numbers, and all that it changed can be put back."""
        numbers = self.recorder.numbers
        given = numbers.lines or numbers.data or self.arguments.given is not None
        return bool(given or self.arguments.arrays) and self.observer.revocable and self.recorder.untouched

    @property
    def fetched(self) -> Fetched:
        """What the run read, with what is another object on every call."""
        return self._fetched(map(self.arguments.own_read, self.observer.reads.values()))

    def _fetched(self, reads: Iterable[Read]) -> Fetched:
        changing, arguments = self.observer.changing | self._found.changing, self.arguments
        given = {id(value): arguments.places[id(value)] for value in (*(t for _, _, t in arguments.tensors),
                                                                      *arguments.instances.values())}
        return Fetched(reads, changing, given, arguments.fetched)

    @property
    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """All tensors that the run came by, with their names, as they are without stand-ins."""
        return [(name, self.arguments.own(t)) for name, t in self.observer.tensors.values()]

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers that the run depends on, in places where another one can be put: a program's `leaves` and `reads`."""
        if self.observer.looks.numbers:
            return {}
        return {"leaves": self.arguments.leaves, "reads": number_reads(self.observer.reads.values(), self.arguments.places)}

    @property
    def lengths(self) -> dict[Place, str]:
        """The numbers that may be sizes, with their names, and those that ops found, or that come of readings, with their
        lines."""
        given, found, read = self.recorder.numbers.lengths(), self.recorder.counts, self.recorder.lengths
        return {**{(NUMBER, k): name for k, name in given.items()}, **{(READ, k): line for k, line in enumerate(read)},
                **{(ELEMENT, k): name for k, name in enumerate(self.recorder.numbers.element_lengths())},
                **{(COUNT, k): line for k, (line, count) in enumerate(found) if count >= 2}}

    def finish(self, result: Any) -> tuple[Rebuild, Recording]:
        """How the result is made, and the recording, once the run is over. Raises Unsupported for what can't be kept."""
        observer = self.observer
        observer.finish()
        fetched = self._fetched(observer.reads.values())
        rebuild = Rebuild(result, self.arguments.places, observer.outside, self.recorder.made, observer.writes, fetched.at)
        self.recorder.numbers.want(rebuild.numbers)
        return rebuild, self.recorder.finish(rebuild.tensors)

    def without_symbols(self, results: list) -> Any:
        """The run's result, out of a list, with plain numbers and arrays, which then all it left has, too."""
        self.observer.reached.forget(new for new, _ in self.arguments.remade)
        return without_symbols(results, self.recorder.numbers, self.arguments, self.observer.left)

    def check(self, recording: Recording, results: Sequence[torch.Tensor]) -> None:
        """Raise WrongResult where the recording is not what was run."""
        wrong = None if self.recorder.unwritten else misrecorded(recording, results, self.recorder.generator)
        if wrong is not None:
            raise WrongResult(f"internal error: it was recorded as something else: {wrong}")

    def close(self) -> None:
        """Hold nothing of the run any more. Its parts know each other, also by way of symbolic sizes, which no garbage
        collection sees."""
        vars(self.observer).clear()
        vars(self.recorder).clear()

    def once(self, recording: Recording) -> str:
        """Why the run can't be made again, with stand-ins, for a recording alone; "" if it can."""
        if any(w.replaces for w in recording.writebacks):
            return "replaces the memory of a tensor (.data = ...)"
        if asides := self.observer.telling.asides:
            return f"{asides[0].where}: prints or logs"
        return f"{self.observer.looks.where}: looks at a type" if self.observer.looks.where else ""

    def origins(self, recording: Recording) -> list[Hashable]:
        """Which tensors the recording's are: arguments by their order, what is fetched by its place, others by themselves."""
        count, fetched = len(self.arguments.tensors), self.fetched
        captured = recording.tensors[count:len(recording.tensors) - len(recording.numbers)]
        at = fetched.at
        return [*range(count), *(fetched.place(at[id(t)]) if id(t) in at else id(t) for t in captured)]


class CompiledFunction:
    """A function that runs compiled where it can.

    programs        the recorded cases, the newest first
    recompilations  what made each further recording necessary: "f: x.shape (8, 4) -> (16, 4)"
    fallbacks       why recordings did not become a program, each reason once
    asides          the user's lines that print or log on every call
    limits          why calls that fit no program run eagerly from now on
    """

    def __init__(self, function: Callable, build: Build, *, fullgraph: bool = False, bound: int = 0,
                 watch: Watch | None = None, dynamic: bool | None = None, verify: str | None = None):
        """build: makes recordings into callables, each from input tensors to result tensors; its attribute `broken` is true
        once it can't be trusted. Raises Unsupported or BuildError. They run under the grad mode of the recordings.
        bound: how many leading arguments are the same objects on every call. watch: a faster way to look at what runs read.
        dynamic: see Varying. verify: whether a recording is held against its run: not if "off"; config.verify if None."""
        plain = isinstance(function, types.FunctionType)  # of anything else, `__dict__` is its state
        functools.update_wrapper(self, function, updated=functools.WRAPPER_UPDATES if plain else ())
        self.__wrapped__ = function
        self.programs: tuple[CompiledProgram | Branches, ...] = ()
        self.recompilations: list[str] = []
        self.fallbacks: list[str] = []
        self.limits: list[str] = []
        self.asides: dict[str, None] = {}
        self._function, self._build, self._fullgraph, self._bound = function, build, fullgraph, bound
        self._watch, self._verify = watch, verify
        self._vain = 0  # recordings that hold for no call
        self._last: deque[str] = deque(maxlen=EAGER_LIMIT)  # why the last ones run eagerly, with "" for one that does not
        self.varying = Varying(dynamic)
        self._found = Found()
        self._warned: set[str] = set()
        self._changing = Changing()
        self._methods: dict[int, tuple[weakref.ref, CompiledFunction]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if config.disable or torch.compiler.is_compiling():
            return self._function(*args, **kwargs)
        for program in self.programs:
            tensors = program.check(args, kwargs)
            if tensors is not None:
                run = program.run
                if type(run) is Late:
                    run = program.arrived(run)
                if run is None or run.broken:
                    return self._function(*args, **kwargs)
                try:
                    found = run(tensors)
                except (*OP_ERRORS, *DEFECTS) as error:
                    raised = error  # dealt with outside, so as not to be the context of what the function raises
                    break
                return program.make(found, args, kwargs)
        else:
            return self._first_call(args, kwargs)
        if isinstance(raised, OtherForm) and isinstance(program, CompiledProgram) and program.fix is not None:
            return self._without_symbols(program, args, kwargs)
        return self._raising(raised, args, kwargs)

    def _without_symbols(self, program: CompiledProgram, args: tuple, kwargs: dict) -> Any:
        """A program with symbols took sizes for what they are not always, and has written nothing yet."""
        program.fix()
        self.programs = tuple(p for p in self.programs if p is not program)
        return self._first_call(args, kwargs)

    def _raising(self, error: Exception, args: tuple, kwargs: dict) -> Any:
        """A program raised, and has written nothing yet: the function itself raises, and leaves behind what it does before."""
        result = self._function(*args, **kwargs)
        if isinstance(error, DEFECTS):
            self._say(_Defect(f"internal error while running: {type(error).__name__}: {error}"))
        else:
            self._warn("raised", f"{self.name}: a program raised {type(error).__name__}, the function itself did not: {error}")
        return result

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method. Every instance has its own programs, which live as long as it does."""
        if instance is None:
            return self
        found = self._methods.get(id(instance))
        if found is None or found[0]() is not instance:
            try:
                alive = weakref.ref(instance, lambda _, key=id(instance): self._methods.pop(key, None))
            except TypeError:  # no weak references to it: its methods share the programs, guarded by its identity
                return types.MethodType(self, instance)
            method = CompiledFunction(self._function, self._build, fullgraph=self._fullgraph, bound=1, watch=self._watch,
                                      dynamic=self.varying.dynamic, verify=self._verify)
            found = self._methods[id(instance)] = alive, method
        return types.MethodType(found[1], instance)

    def __repr__(self):
        return f"<compiled {self.name}, {len(self.programs)} programs>"

    def __reduce__(self) -> str:
        """Pickled by its name, as functions are."""
        return self.__qualname__

    def __deepcopy__(self, memo: dict) -> CompiledFunction:
        return CompiledFunction(copy.deepcopy(self._function, memo), self._build, fullgraph=self._fullgraph, watch=self._watch,
                                dynamic=self.varying.dynamic, verify=self._verify)

    @property
    def name(self) -> str:
        """The function's name, for people."""
        function = self._function
        if isinstance(function, types.MethodType) and isinstance(function.__self__, nn.Module):
            return type(function.__self__).__name__
        while isinstance(function, functools.partial):
            function = function.func
        return getattr(function, "__name__", None) or type(function).__name__

    # The first call of a case

    def _first_call(self, args: tuple, kwargs: dict) -> Any:
        recorded = len(self.programs) + self._vain
        paths = max((len(p.paths) for p in self.programs if isinstance(p, Branches)), default=0)
        if recorded >= config.program_limit or paths >= config.path_limit:
            if "limit" not in self._warned:  # what changed takes time to tell
                change = self._change(args, kwargs) or _OWN_WRITES
                limit = f"{recorded} times (config.program_limit)" if paths < config.path_limit else \
                    f"along {paths} paths (config.path_limit)"
                self._limit("limit", f"{self.name} was recorded {limit}; calls that fit none of its programs run eagerly. "
                            f"What changed last: {change}")
            return self._function(*args, **kwargs)
        if self._in_vain(lambda: self._change(args, kwargs)):
            return self._function(*args, **kwargs)
        return self._recorded(self._change(args, kwargs), args, kwargs)

    def _in_vain(self, change: Callable[[], str]) -> bool:
        """Whether there are enough paths that hardly any call takes, or recordings that all run eagerly."""
        unused = sum(p.unused for p in self.programs if isinstance(p, Branches))
        if unused >= UNUSED_LIMIT and "unused" not in self._warned:  # what changed takes time to tell
            self._limit("unused", f"{self.name} was recorded along many paths, long ones or for one number alone, which no other "
                        f"call took; calls that take none of them run eagerly. What changed last: {change()}")
        eager = len(self._last) == EAGER_LIMIT and len({*self._last}) == 1 and self._last[0] != ""
        if eager and "eager" not in self._warned:
            self._limit("eager", f"{self.name} was recorded {EAGER_LIMIT} times in a row for nothing; calls that differ again "
                        f"run eagerly, too. What changed last: {change() or _OWN_WRITES}")
        return eager or unused >= UNUSED_LIMIT

    def _new_path(self, branches: Branches, reading: Reading, args: tuple, kwargs: dict) -> Any:
        """A call that came to an answer which no path was recorded under."""
        if len(branches.paths) >= config.path_limit:
            self._limit(f"paths {reading.where}", f"{self.name} branches into {len(branches.paths)} paths (config.path_limit); "
                        f"calls that take none of them run eagerly. What was read last: {reading}")
            if branches.misses > config.path_limit:
                branches.broken = "hardly any call takes a path that was recorded"
            return self._function(*args, **kwargs)
        if self._in_vain(lambda: str(reading)):
            return self._function(*args, **kwargs)
        if reading.how in ("number", "elements"):
            self._changing.lines.add(reading.where)
        elif reading.how == "sizes":
            self.varying.lines.add(reading.where)
        return self._recorded(str(reading), args, kwargs)

    def _recorded(self, change: str, args: tuple, kwargs: dict) -> Any:
        """Record a call, which `change` made necessary, unless another one is being recorded."""
        if _not_plain() or not _recording.acquire(blocking=False):
            return self._function(*args, **kwargs)
        try:
            if change:
                self.recompilations.append(f"{self.name}: {change}")
                self._changing.lines |= self._floats_read()
            return self._record(args, kwargs)
        finally:
            _recording.release()

    def _floats_read(self) -> set[str]:
        """The lines where runs read floats that were computed: a loss or metric is another one in the next run."""
        paths = (path for p in self.programs if isinstance(p, Branches) for path in p.paths)
        return {r.where for path in paths for r in path.readings if r.how == "number" and type(r.answer) is float}

    def _change(self, args: tuple, kwargs: dict) -> str:
        return self.programs[0].guards.why(args, kwargs) if self.programs else ""

    def _record(self, args: tuple, kwargs: dict, symbolic: bool = True) -> Any:
        """Run the function for real, give its result, and keep a program for the calls that are like this one.

        symbolic: with symbolic numbers in place of those that change. Where such a run raises, and has changed nothing that can't
        be put back, the numbers may be why (C code that takes none but Python's own), and it is made again with plain ones. So
        it is where it came to code that looks at types."""
        config.check()
        names = Namespace()
        try:
            arguments = self._arguments(args, kwargs, names, symbolic)
        except Unsupported as e:
            self._say(e)
            return self._function(*args, **kwargs)
        with closing(_Run(arguments, names, Observer(self._function, arguments), self.name, self._changing, self._found,
                          symbolic)) as run:
            return self._run(run, args, kwargs)

    def _run(self, run: _Run, args: tuple, kwargs: dict) -> Any:
        """The same for a run that is ready."""
        arguments, symbolic = run.arguments, run.symbolic
        try:
            with StandIns(self._changing, arguments), run.observer, run.recorder:
                results = [_called(self._function, arguments)]
        except Exception as error:
            error.args = run.without_symbols([error.args])
            again = symbolic and run.redoable
            if not again:
                self._keep_beginning(run, f"raises {type(error).__name__}", args, kwargs)
                raise
        else:  # what looks at types takes a stand-in for no number
            self._changing.barred |= run.observer.looks.numbers or run.observer.looks.strict
            again = symbolic and run.observer.looks.numbers and run.redoable
        if again:
            run.observer.take_back()
            return self._with_plain_numbers(args, kwargs)
        if run.observer.loaded:
            self._vain += 1
            return run.without_symbols(results)
        self._found.note(run.observer.reads.values())
        self.varying.note([*((name, t) for _, name, t in arguments.tensors), *run.fetched.tensors])
        try:
            try:
                with _own_defects("keeping the recording"):
                    rebuild, recording = run.finish(results[0])
                    self._check(run, recording, rebuild.tensors)
                    self._keep(run, rebuild, recording, args, kwargs)
                self.asides.update((w.where, None) for w in run.observer.telling.told)
            finally:
                result = run.without_symbols(results)
        except (Unsupported, BuildError) as e:
            self._say(e)
            if not self._keep_beginning(run, str(e), args, kwargs):
                self._keep_eager(run, str(e), args, kwargs)
            if surviving(run.recorder.numbers, arguments) and run.redoable:  # in what takes no others in their place: iterators
                run.observer.take_back()
                return self._function(*args, **kwargs)
        return result

    def _with_plain_numbers(self, args: tuple, kwargs: dict) -> Any:
        """A call made again, and recorded, without symbolic numbers."""
        result = self._record(args, kwargs, symbolic=False)
        self._changing.barred = True
        return result

    def _check(self, run: _Run, recording: Recording, results: Sequence[torch.Tensor]) -> None:
        verify = self._verify or config.verify
        if verify == "off" or verify == "first" and recording.foreign:
            return
        try:
            with _own_defects("checking the recording"):
                run.check(recording, results)
        except WrongResult as wrong:
            if verify == "raise":
                raise
            raise Unsupported(str(wrong)) from wrong

    def _arguments(self, args: tuple, kwargs: dict, names: Namespace, symbolic: bool) -> Arguments:
        """The call taken apart, with symbolic numbers where numbers were seen to change."""
        arguments = Arguments(self._function, args, kwargs, Namespace(), self._bound) if self.programs else None
        for program in self.programs:
            for case in program.paths if isinstance(program, Branches) else (program,):
                self._changing.compare(case.leaves, case.reads, arguments)
        given = Numbers() if symbolic and self._changing else None
        return Arguments(self._function, args, kwargs, names, self._bound, given, self._changing.arguments if given else (),
                         self._found.another, symbolic and not self._changing.barred)

    def _keep(self, run: _Run, rebuild: Rebuild, recording: Recording, args: tuple, kwargs: dict) -> None:
        """Keep a program for a run that went well."""
        if not isinstance(run.recorder, Second) and self._keep_in_symbols(run, recording, args, kwargs):
            return
        if run.observer.grown:
            self._vain += 1
            return
        guards = self._guards(run, recording, early_names(run.recorder.numbers, rebuild.numbers))
        if not self._holds(run, guards, args, kwargs):
            raise Unsupported(f"the run itself changes what it depends on: {guards.why(args, kwargs)}")
        if recording.readings:
            self._keep_path(run, recording, guards, rebuild.make, rebuild.numbers,
                            late=not self._at_once(run, guards, args, kwargs))
            return
        recording, count = replace(recording, tensors=()), len(rebuild.numbers)

        def build() -> Run:
            built, = self._built([recording])
            return Passing(built, count) if count else built
        self._keep_program(run, guards, build() if self._at_once(run, guards, args, kwargs) else Late(build, self._say),
                           rebuild.make)

    def _at_once(self, run: _Run, guards: Guards, args: tuple, kwargs: dict) -> bool:
        """Whether to build what was recorded now: not where the run changed what it depends on (see Late)."""
        return self._fullgraph or isinstance(run.recorder, Second) or guards.check(args, kwargs) is not None

    def _keep_in_symbols(self, run: _Run, recording: Recording, args: tuple, kwargs: dict) -> bool:
        """Keep a program for all sizes like those of a run that was recorded, if some change and all goes well with them."""
        first = First(run.recorder, recording, len(run.arguments.tensors), run.observer.changed,
                      run.observer.reads.values(), run.fetched)
        tensors = [*((name, t) for _, name, t in run.arguments.tensors),
                   *((first.fetched.place(read), read.expected) for read in first.found)]
        numbers = run.lengths
        self.varying.note_elements(run.recorder.numbers.element_lengths())
        places = self.varying.symbols(tensors, numbers)
        if not places:
            return False
        if once := run.once(recording):
            self.varying.tell(once)
            return False
        changing = self._changing or Changing()

        def attempt(places: Mapping[Place, Place], sizes: Sizes, composites: ContextManager, stepless: bool) -> None:
            again = finished = None
            results = [None]
            try:
                with undone(first):
                    names = Namespace()
                    arguments = SizedArguments(self._function, args, kwargs, names, self._bound, first=first, dynamic=places,
                                               sizes=sizes, symbolic=changing.arguments, another=self._found.another,
                                               arrays=run.arguments.with_arrays, stepless=stepless)
                    again = _Run(arguments, names, Observer(self._function, arguments), self.name, changing, self._found,
                                 run.symbolic)
                    with StandIns(changing, arguments), composites, again.observer, again.recorder:
                        results[0] = _called(self._function, arguments)
                    finished = again.finish(results[0])
                self._keep(again, *finished, args, kwargs)
            except (Unsupported, BuildError):
                raise
            except Exception as error:
                raise again and again.recorder.unsupported or ConcreteSizes(f"{type(error).__name__}: {error}") from error
            finally:
                if again:
                    again.close()
                    finished = None
                    without_symbols(results, sizes, arguments)
        try:
            with run.recorder.flags_before():
                kept = without_fixed(places, bool(run.recorder.stretches), attempt)
        except (Unsupported, BuildError) as why:
            self.varying.fix(tensors, numbers, places, reason=str(why).partition("\n")[0])
            return False
        self.varying.fix(tensors, numbers, places, kept)
        if isinstance(program := self.programs[0], CompiledProgram):
            program.fix = functools.partial(self.varying.fix, [(name, None) for name, _ in tensors], numbers,
                                            dict(zip(kept, kept)), reason="a call of torch gave a size that was not foreseen")
        return True

    def _holds(self, run: _Run, guards: Guards, args: tuple, kwargs: dict) -> bool:
        """Whether a run's guards hold for a call like it; what it writes, the next call may find changed."""
        return bool(run.observer.writes) or run.recorder.wrote or guards.check(args, kwargs) is not None

    def _keep_program(self, run: _Run, *program) -> None:
        self.programs = CompiledProgram(*program, **run.numbers), *self.programs
        self._last.append(self.programs[0].reason)

    def _keep_beginning(self, run: _Run, reason: str, args: tuple, kwargs: dict) -> bool:
        """Let the calls that come to the same answers as a run be eager, and no others. False if the run read nothing before
        it became clear that it is eager."""
        try:
            with _own_defects("keeping how the recording begins"):
                beginning = run.recorder.beginning(LONG + 1)
                if not beginning.readings:
                    return False
                guards = self._guards(run, beginning, early_names(run.recorder.numbers, ()))
                if not self._holds(run, guards, args, kwargs):
                    return False
                self._keep_path(run, beginning, guards, None, (), reason)
        except _Defect as defect:
            self._say(defect)
            return False
        except (Unsupported, BuildError):  # of the beginning itself
            return False
        return True

    def _keep_eager(self, run: _Run, reason: str, args: tuple, kwargs: dict) -> None:
        """Let the calls that fit a run's guards be eager."""
        try:
            with _own_defects("guarding an eager run"):
                guards = self._guards(run)
                with run.recorder.flags_before():
                    holds = guards.check(args, kwargs) is not None
        except _Defect as defect:
            self._say(defect)
            holds = False
        if holds:
            self._keep_program(run, guards, None, None, reason)
        else:
            self._vain += 1
            self._last.append(reason)

    def _keep_path(self, run: _Run, recording: Recording, guards: Guards, make: Callable | None, returned: Sequence[str],
                   reason: str = "", late: bool = False) -> None:
        """Keep a path of a program that branches: of one whose paths begin like this, or of a new one."""
        modes, origins = run.observer.modes, run.origins(recording)
        numbers = run.recorder.numbers
        for branches in self.programs:
            if isinstance(branches, Branches) and branches.modes == modes and branches.fits(recording, origins, numbers):
                break
        else:
            branches = Branches(modes, self._built, self._new_path, lambda args, kwargs: self._function(*args, **kwargs),
                                self._say)
        branches.add(recording, origins, numbers, make, late, returned=tuple(returned), guards=guards, reason=reason,
                     **run.numbers)
        self._last.append("")
        self.programs = (branches, *(p for p in self.programs if p is not branches))

    def _built(self, recordings: Sequence[Recording]) -> Sequence[Run]:
        """Their programs."""
        with _own_defects("compiling"):
            return self._build(recordings)

    def _guards(self, run: _Run, recording: Recording | None = None, returned: Sequence[str] = ()) -> Guards:
        """The guards of what a run read. Without a recording: those under which the run would be recorded no better."""
        arguments, names, observer = run.arguments, run.names, run.observer
        captured, written, grads = [], (), Grads()
        given = {id(t): variable for variable, _, t in arguments.tensors}
        steps = list(arguments.steps)
        forms = arguments.forms
        called = {id(t): name for name, t in run.tensors}
        if recording is not None:
            end = len(recording.tensors) - len(recording.numbers)
            captured = [(called.get(id(t)) or recording.graph.inputs[k].name, t)
                        for k, t in enumerate(recording.tensors[:end]) if k >= len(given)]
            written = recording.written
            grads = replace(recording.grads, known=tuple(k for k, _ in recording.grads.fetched if k < len(given)
                                                         or id(recording.tensors[k]) in called))
        taken = {id(t) for _, t in captured}
        watched = []
        fetched = run.fetched
        by_identity = looks_at_identity(observer.reads.values())
        for k, value in arguments.fetched.items():
            if by_identity or k in fetched.fixed:
                known = f"{names.bind(value)} is {names.bind((value,))}[0]"
                steps.append(Condition(known, names.bind(value), arguments.places[k], value))
        for name, t in run.tensors:
            if id(t) in given and id(t) in fetched.objects:
                names.place(t, given[id(t)])
            elif id(t) in given:
                steps.append(Condition(f"{given[id(t)]} is {names.bind(t)}", given[id(t)], f"{name}, an argument too,", t))
            elif id(t) not in taken and has_strides(t):  # others are told by their identity alone
                watched.append((name, t))
        sized = [forms[id(t)] for _, t in (*run.tensors, *((n, t) for _, n, t in arguments.tensors)) if id(t) in forms]
        read = {*arguments.numbers, *(r.expected.name for r in fetched.reads if isinstance(r.expected, Node)),
                *(str(n) for form in sized for n in (*form.shape, *form.strides) if isinstance(n, Expr))}
        host = host_of(run.recorder.numbers, names, read, recording, returned)
        read_flags = observer.entered.read_flags or bool(run.recorder.flags)
        with run.recorder.flags_before():
            return Guards(names, steps, fetched.reads, observer.switches, arguments.tensors, captured, watched, written,
                          read_flags, self._watch, fetched.at, host, grads, forms, arguments.distinct, arguments.of_arrays)

    def _say(self, error: Unsupported | BuildError) -> None:
        """Raise under fullgraph; else warn, once for each reason and place."""
        if str(error) not in self.fallbacks:
            self.fallbacks.append(str(error))
        if self._fullgraph:
            raise error
        self._warn(str(error), f"{self.name} runs eagerly: {error}")

    def _limit(self, reason: str, text: str) -> None:
        """Note, and warn once, that no more is recorded."""
        if reason not in self._warned:
            self.limits.append(text)
        self._warn(reason, text)

    def _warn(self, reason: str, text: str) -> None:
        """Warn at the user's line, once for each reason."""
        if reason in self._warned:
            return
        self._warned.add(reason)
        frame = user_frame(sys._getframe(1))
        if frame is None:
            warnings.warn(text, SmeltWarning)
        else:
            module, registry = frame.f_globals.get("__name__"), frame.f_globals.setdefault("__warningregistry__", {})
            warnings.warn_explicit(text, SmeltWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


class _Defect(Unsupported):
    """An error in smelt's own code."""


@contextmanager
def _own_defects(doing: str) -> Iterator[None]:
    """A defect of smelt's own is told as any reason for running eagerly: the user's call itself went well."""
    try:
        yield
    except (SmeltError, Warning):
        raise
    except Exception as defect:
        raise _Defect(f"internal error while {doing}: {type(defect).__name__}: {defect}") from defect


def compiled_function(compiled: Any) -> CompiledFunction:
    """The CompiledFunction behind what `compile` gave: a function, a method of an instance, or a module."""
    pair = pair_of(compiled)
    found = pair.compiled if pair else compiled.__func__ if isinstance(compiled, types.MethodType) else compiled
    if not isinstance(found, CompiledFunction):
        name = getattr(compiled, "__qualname__", None) or type(compiled).__name__
        raise TypeError(f"{name} is not compiled: this takes what smelt.compile gave")
    return found


def _not_plain() -> bool:
    """Whether this call runs under something that must see every op or call: a mode of torch, a transform, forward-mode
    differentiation, a tracer, a profiler, whose place the observer would take, hooks on saved tensors: a checkpoint counts how
    often those run, and a program saves other tensors than the recorded run; or where parametrizations keep what they compute."""
    return bool(default_devices() is None or active_dispatch_modes() or active_transform() is not None
                or forward_ad._current_level >= 0 or parametrize._cache_enabled or tracing() or sys.getprofile() is not None
                or saved_tensors_hooks(True) is not None)


def compile(function: Callable | None = None, *, build: Build, again: Callable | None = None,
            fullgraph: bool = False, disable: bool = False, watch: Watch | None = None, dynamic: bool | None = None,
            verify: str | None = None) -> Any:
    """Compile a function, method, callable object or module; without one, a decorator.

    build       makes recordings into callables, each from its input tensors to its result tensors
    again       compiles a copy of a module (copy.deepcopy, pickle); picklable
    fullgraph   raise Unsupported where a call would run eagerly
    disable     give back the function as it is
    watch       makes a function that tells whether places in Python's objects still hold the same objects; without it, and
                where that function finds another object, generated Python looks at them
    dynamic     when sizes of tensors become symbols; see Varying
    verify      "off": a recording is not held against its run; None: as config.verify says
    """
    made = functools.partial(CompiledFunction, build=build, fullgraph=fullgraph, watch=watch, dynamic=dynamic,
                             verify=verify)

    def decorate(function: Any) -> Any:
        if disable or isinstance(function, CompiledFunction) or pair_of(function):
            return function
        if isinstance(function, nn.Module):
            compiled = made(function.__call__)
            return compiled_module(function, compiled, again or decorate)
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(decorate(function.__func__))
        if not callable(function) or isinstance(function, type):
            what = f"the class {function.__qualname__}" if isinstance(function, type) else type(function).__name__
            raise TypeError(f"smelt.compile takes a function or a module, not {what}")
        return made(function)
    return decorate if function is None else decorate(function)
