"""Draws: calls of Python's clocks and random generators, which give another number every time.

While a run is recorded, stand-ins take their places (see functions.py). What a draw gives the run is a symbolic number, and
the draw a reading: later calls make it again, in its place.
"""
from __future__ import annotations

import functools
import random
import sys
import time
import types
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Mapping

import numpy

from ..symbolic.scalars import is_scalar
from ..symbolic.symbols import fixed, is_symbolic
from .places import USER, checkpointed, kind_of_file, on_behalf_of_user
from .profiling import unprofiled

if TYPE_CHECKING:
    from .observer import Observer


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
class Given:
    """A symbolic number that a draw is given: each call has its own of this name."""
    name: str
    value: Any = field(compare=False)
    shown: str = field(compare=False)

    def __repr__(self):
        return self.shown


@dataclass(frozen=True)
class Draw:
    """A call of one of these functions, with plain numbers and symbolic ones."""
    function: Callable
    args: tuple
    kwargs: tuple[tuple[str, Any], ...]
    name: str
    generator: Generator | None

    def __call__(self, numbers: Mapping[str, Any] | None = None) -> Any:
        """With these numbers in place of the symbolic ones, by their names; those of the recorded run if None."""
        def own(given: Any) -> Any:
            known = not isinstance(given, Given)
            return given if known else given.value if numbers is None else numbers[given.name]
        return self.function(*map(own, self.args), **{k: own(a) for k, a in self.kwargs})

    def __str__(self):
        given = (*map(repr, self.args), *(f"{k}={a!r}" for k, a in self.kwargs))
        return f"{self.name}({', '.join(given)})"

    @property
    def given(self) -> tuple:
        return (*self.args, *(a for _, a in self.kwargs))

    @property
    def plain(self) -> bool:
        """Whether it is given nothing but numbers, which later calls may be given again."""
        return all(type(a) in (bool, int, float, type(None), Given) for a in self.given)

    @property
    def symbolic(self) -> list[str]:
        """The names of the symbolic numbers that it is given."""
        return [a.name for a in self.given if isinstance(a, Given)]


class Draws:
    """What one run draws, by stand-ins of the functions (see functions.py) and of methods of the user's own generators."""

    def __init__(self, observer: Observer):
        self._observer = observer

    def stand_in(self, function: Callable) -> Callable:
        """What takes the place of a function of a library."""
        if function == _CHOICE:
            return self._drawing(partial(_choose, function, self._of(_RANDRANGE)), function, "random.choice")
        return self._drawing(self._of(function), function, KNOWN[function][0])

    def of_own(self, generator: random.Random, name: str) -> Any:
        """An attribute of a generator of the user's own: of a method that draws its stand-in."""
        function = object.__getattribute__(generator, name)
        known = name in _OWN and type(generator) is random.Random and all(getattr(random.Random, n) is f for n, f in _OWN.items())
        if not (known and self._observer.bare(generator)):
            return function
        state = Generator(*(object.__getattribute__(generator, n) for n in ("getstate", "setstate")))
        if name == "choice":
            places = self._of(object.__getattribute__(generator, "randrange"), "random.Random.randrange", state)
            return self._drawing(partial(_choose, function, places), function)
        return self._drawing(self._of(function, f"random.Random.{name}", state), function)

    def _of(self, function: Callable, name: str = "", generator: Generator | None = None) -> Callable:
        """The same function, told to the run as a draw."""
        name, generator = (name, generator) if name else KNOWN[function]

        def drawn(*args: Any, **kwargs: Any) -> Any:
            kept = {k: _kept(a) for k, a in kwargs.items()}
            return self._observer.draw(Draw(function, tuple(map(_kept, args)), tuple(kept.items()), name, generator))
        return drawn

    def _drawing(self, drawn: Callable, function: Callable, name: str = "") -> Callable:
        """The stand-in of a function. `name`: that of one which libraries may call for the user."""
        @functools.wraps(function)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            observer, caller = self._observer, sys._getframe(1)
            if not observer.listening:
                return function(*args, **kwargs)
            with unprofiled():
                if kind_of_file(caller.f_code.co_filename) == USER and not observer.recorder.apart and not checkpointed(caller):
                    return drawn(*args, **kwargs)
                if name and on_behalf_of_user(caller, trust_torch=True):
                    observer.outside_draw(name, caller)
                return function(*args, **kwargs)
        return stand_in


def _kept(given: Any) -> Any:
    """What a draw is given, as its record has it."""
    node = given.node if is_symbolic(given) and not is_scalar(given) else None
    return Given(node.name, node.value, node.shown) if node is not None and node.numbers.listening else fixed(given)


def _choose(choice: Callable, randrange: Callable, seq: Any) -> Any:
    """random.choice, as a draw of the place."""
    return seq[randrange(len(seq))] if len(seq) else choice(seq)


#: Methods of random.Random that draw a number.
_OWN = {name: getattr(random.Random, name) for name in (*_FUNCTIONS[0][1].split(), "choice")}
_CHOICE, _RANDRANGE = random.choice, random.randrange
#: What these functions are, to Python.
KINDS = (types.BuiltinFunctionType, types.MethodType)
#: By the function, its full name and its generator.
KNOWN: dict[Callable, tuple[str, Generator | None]] = {
    function: (f"{module.__name__}.{name}", generator) for module, names, generator in (*_FUNCTIONS, (random, "choice", PYTHON))
    for name in names.split() if isinstance(function := getattr(module, name), KINDS)}
#: The same functions and their modules, by the name alone.
BY_NAME: dict[str, list[tuple[types.ModuleType, Callable]]] = {}
for _function, (_name, _) in KNOWN.items():
    _module, _, _attribute = _name.rpartition(".")
    BY_NAME.setdefault(_attribute, []).append((sys.modules[_module], _function))
