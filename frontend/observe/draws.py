"""Draws: calls of Python's clocks and random generators, which give another number every time.

While a run is recorded, stand-ins take the places of these functions in their modules, and where the user's globals hold
them. What a draw gives the run is a symbolic number, and the draw a reading: later calls make it again, in its place.
The functions of `math` have stand-ins of the same kind, which take symbolic numbers, and warnings.warn has one that tells
of it.
"""
from __future__ import annotations

import functools
import math
import random
import sys
import time
import types
import warnings
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any, Callable, Hashable, Protocol

import numpy

from ..symbolic import mathematics
from ..symbolic.symbols import fixed
from .names import attributes_named
from .places import USER, checkpointed, kind_of_file, on_behalf_of_user
from .profiling import unprofiled
from .warned import WARN


@dataclass(frozen=True)
class Generator:
    """Where random numbers come from, in a state that can be put back."""
    get: Callable[[], Any]
    put: Callable[[Any], None]


PYTHON = Generator(random.getstate, random.setstate)
NUMPY = Generator(numpy.random.get_state, numpy.random.set_state)

#: By module, the names of its functions, and the generator that they draw from; a clock has none.
_FUNCTIONS: tuple[tuple[types.ModuleType, str, Generator | None], ...] = (
    (random, "random uniform randint randrange getrandbits triangular gauss normalvariate expovariate betavariate gammavariate "
             "lognormvariate vonmisesvariate paretovariate weibullvariate", PYTHON),
    (numpy.random, "rand randn random random_sample ranf uniform normal standard_normal randint exponential beta gamma", NUMPY),
    (time, "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns thread_time "
           "thread_time_ns", None))


@dataclass(frozen=True)
class Draw:
    """A call of one of these functions, with plain numbers."""
    function: Callable
    args: tuple
    kwargs: tuple[tuple[str, Any], ...]
    name: str
    generator: Generator | None

    def __call__(self) -> Any:
        return self.function(*self.args, **dict(self.kwargs))

    def __str__(self):
        given = (*map(repr, self.args), *(f"{k}={a!r}" for k, a in self.kwargs))
        return f"{self.name}({', '.join(given)})"

    @property
    def plain(self) -> bool:
        """Whether it is given nothing but numbers, which later calls may be given again."""
        return all(type(a) in (bool, int, float, type(None)) for a in (*self.args, *(a for _, a in self.kwargs)))


class Watcher(Protocol):
    """The observer of a run."""
    thread: int
    busy: bool
    recorder: Any

    def draw(self, draw: Draw) -> Any:
        """The run draws: what it gets."""

    def warn(self, frame: types.FrameType, *args: Any, **kwargs: Any) -> None:
        """The run warns, in this frame."""

    def bare(self, generator: random.Random) -> bool:
        """Whether a generator was there before the run, and has no attributes of the user's; that is guarded."""

    def outside_draw(self, name: str, frame: types.FrameType) -> None:
        """A library draws for the user, in this frame."""


class Draws:
    """The stand-ins of one run. `start` begins it, `enter` is told of code before it runs, and `restore` ends it."""

    def __init__(self, watcher: Watcher):
        self._watcher = watcher
        self._open = True
        self._made: dict[int, Callable] = {}
        self._originals: dict[int, Callable] = {}
        self._put: list[tuple[dict, str, Callable]] = []

    def original(self, value: Any) -> Any:
        """What a stand-in stands for; any other value itself."""
        return self._originals.get(id(value), value)

    def start(self) -> None:
        for function in mathematics.FUNCTIONS:
            self._stand_in(vars(math), function.__name__, function)
        self._stand_in(vars(warnings), "warn", WARN)

    def enter(self, code: types.CodeType, names: dict[str, Any]) -> None:
        """The user's code is about to run, with these globals."""
        attributes = attributes_named(code)
        for attribute in attributes & _BY_NAME.keys():
            for module, function in _BY_NAME[attribute]:
                self._stand_in(vars(module), attribute, function)
        for name in attributes & names.keys():
            self._stand_in(names, name, names[name])

    def restore(self) -> None:
        self._open = False
        for entries, name, before in reversed(self._put):
            entries[name] = before

    def _stand_in(self, entries: dict, name: str, function: Any) -> None:
        """Put the stand-in of a function into a place that holds it."""
        if not _is_known(function) or entries.get(name) is not function:
            return
        if id(function) not in self._made:
            made = self._made[id(function)] = self._make(function)
            self._originals[id(made)] = function
        self._put.append((entries, name, function))
        entries[name] = self._made[id(function)]

    def _make(self, function: Callable) -> Callable:
        if function in mathematics.FUNCTIONS:
            return mathematics.of_symbols(function)
        if function is WARN:
            return self._warning()

        if function == _CHOICE:
            return self._drawing(partial(_choose, function, self._of(_RANDRANGE)), function, "random.choice")
        return self._drawing(self._of(function), function, _KNOWN[function][0])

    def of_own(self, generator: random.Random, name: str) -> Any:
        """An attribute of a generator of the user's own: of a method that draws its stand-in."""
        function = object.__getattribute__(generator, name)
        known = name in _OWN and type(generator) is random.Random and all(getattr(random.Random, n) is f for n, f in _OWN.items())
        if not (known and self._watcher.bare(generator)):
            return function
        state = Generator(*(object.__getattribute__(generator, n) for n in ("getstate", "setstate")))
        if name == "choice":
            places = self._of(object.__getattribute__(generator, "randrange"), "random.Random.randrange", state)
            return self._drawing(partial(_choose, function, places), function)
        return self._drawing(self._of(function, f"random.Random.{name}", state), function)

    def _of(self, function: Callable, name: str = "", generator: Generator | None = None) -> Callable:
        """The same function, told to the run as a draw."""
        name, generator = (name, generator) if name else _KNOWN[function]

        def drawn(*args: Any, **kwargs: Any) -> Any:
            return self._watcher.draw(Draw(function, fixed(args), tuple(fixed(kwargs).items()), name, generator))
        return drawn

    def _drawing(self, drawn: Callable, function: Callable, name: str = "") -> Callable:
        """The stand-in of a function. `name`: that of one which libraries may call for the user."""
        @functools.wraps(function)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            watcher, caller = self._watcher, sys._getframe(1)
            if not self._open or get_ident() != watcher.thread or watcher.busy:
                return function(*args, **kwargs)
            with unprofiled():
                if kind_of_file(caller.f_code.co_filename) == USER and not watcher.recorder.apart and not checkpointed(caller):
                    return drawn(*args, **kwargs)
                if name and on_behalf_of_user(caller, trust_torch=True):
                    watcher.outside_draw(name, caller)
                return function(*args, **kwargs)
        return stand_in

    def _warning(self) -> Callable:
        @functools.wraps(WARN)
        def warn(message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **kwargs: Any) -> None:
            watcher, caller = self._watcher, sys._getframe(1)
            with unprofiled():
                if self._open and get_ident() == watcher.thread and not watcher.busy:
                    watcher.warn(caller, message, category, stacklevel, *more, **kwargs)
                WARN(message, category, stacklevel + 1, *more, **kwargs)
        return warn


def _choose(choice: Callable, randrange: Callable, seq: Any) -> Any:
    """random.choice, as a draw of the place."""
    return seq[randrange(len(seq))] if len(seq) else choice(seq)


def _is_known(function: Any) -> bool:
    return isinstance(function, Hashable) and isinstance(function, _KINDS) and (
        function in _KNOWN or function in mathematics.FUNCTIONS or function is WARN)


#: Methods of random.Random that draw a number.
_OWN = {name: getattr(random.Random, name) for name in (*_FUNCTIONS[0][1].split(), "choice")}
_CHOICE, _RANDRANGE = random.choice, random.randrange
_KINDS = (types.BuiltinFunctionType, types.MethodType)
_KNOWN: dict[Callable, tuple[str, Generator | None]] = {
    function: (f"{module.__name__}.{name}", generator) for module, names, generator in (*_FUNCTIONS, (random, "choice", PYTHON))
    for name in names.split() if isinstance(function := getattr(module, name), _KINDS)}
_BY_NAME: dict[str, list[tuple[types.ModuleType, Callable]]] = {}
for _function, (_name, _) in _KNOWN.items():
    _module, _, _attribute = _name.rpartition(".")
    _BY_NAME.setdefault(_attribute, []).append((sys.modules[_module], _function))
