"""Functions that have stand-ins while a run is recorded: those that draw, those of `math`, warnings.warn, what tells whether
calls of torch's API are seen, and the user's that remember their results.

The stand-ins take their places in their modules, and where the user's globals hold them. Those of `math` take symbolic numbers,
and so do those of functions that remember: these are computed, for no memory has results for them. Those that make tensors of
NumPy's arrays take stand-ins for these.
"""
from __future__ import annotations

import functools
import math
import types
import warnings
from typing import TYPE_CHECKING, Any, Callable, Hashable

import numpy
import torch

from ..symbolic import mathematics, scalars
from ..symbolic.arrays import FROM_NUMPY, MAKERS, Array
from ..symbolic.symbols import is_symbolic
from ..torch_internals import OVERRIDE_CHECKS, giving_back, without_own_mode
from .draws import BY_NAME, KINDS, KNOWN
from .names import attributes_named, called_alone
from .places import USER, kind_of, passing
from .replaced import Replaced
from .warned import WARN, warning

if TYPE_CHECKING:
    from .observer import Observer


#: By its name, the modules that have such a function, and what it is there.
_IN_MODULES = {**BY_NAME}
for _function in mathematics.FUNCTIONS:
    _IN_MODULES[_function.__name__] = *BY_NAME.get(_function.__name__, ()), (math, _function)
_FLOATS = torch.FloatTensor
#: Those that make tensors of NumPy's arrays, or arrays of these.
_OF_ARRAYS = ((torch, FROM_NUMPY), *((numpy, f) for f in MAKERS))
_IN_MODULES |= {function.__name__: ((module, function),) for module, function in (*_OF_ARRAYS, (torch, _FLOATS))}
_IN_MODULES |= {name: ((numpy, function),) for name, function in scalars.FUNCTIONS.items()}


class Functions:
    """The stand-ins of one run. `start` begins it, `enter` is told of code before it runs, and `restore` ends it."""

    def __init__(self, observer: Observer):
        self._observer = observer
        self._made: dict[int, Callable] = {}
        self._replaced = Replaced()

    def original(self, value: Any) -> Any:
        """What a stand-in stands for; any other value itself."""
        return self._replaced.original(value)

    def start(self, arrays: bool) -> None:
        """arrays: whether the run has stand-ins for arrays of NumPy's."""
        for function in mathematics.FUNCTIONS:
            self._stand_in(vars(math), function.__name__, function)
        for function in OVERRIDE_CHECKS:
            self._stand_in(vars(torch.overrides), function.__name__.lstrip("_"), function)
        self._stand_in(vars(warnings), "warn", WARN)
        self._replaced.put(vars(torch), "compile", giving_back(torch.compile))
        for module, function in _OF_ARRAYS if arrays else ():
            self._stand_in(vars(module), function.__name__, function)

    def enter(self, code: types.CodeType, names: dict[str, Any]) -> None:
        """The user's code is about to run, with these globals."""
        attributes = attributes_named(code)
        for name in attributes & _IN_MODULES.keys():
            for module, function in _IN_MODULES[name]:
                self._choose(vars(module), name, function, called_alone(code, name, attribute=True))
        for name in attributes & names.keys():
            if _is_known(function := self.original(names[name])):
                self._choose(names, name, function, called_alone(code, name))

    def restore(self) -> None:
        self._replaced.restore()

    def _stand_in(self, entries: dict, name: str, function: Any) -> None:
        """Put the stand-in of a function into a place that holds it."""
        if entries.get(name) is not function:
            return
        if id(function) not in self._made:
            self._made[id(function)] = self._make(function)
        self._replaced.put(entries, name, self._made[id(function)])

    def _choose(self, entries: dict, name: str, function: Callable, called: bool) -> None:
        """Put the stand-in into a place for code that only calls it; whoever keeps or compares it is to have the function."""
        if called:
            self._stand_in(entries, name, function)
        else:
            self._replaced.give_back(entries, name)

    def _make(self, function: Callable) -> Callable:
        if function in mathematics.FUNCTIONS:
            return mathematics.of_symbols(function)
        if function in OVERRIDE_CHECKS:
            return without_own_mode(function, lambda: self._observer.listening)
        if isinstance(function, functools._lru_cache_wrapper):
            return _computed(function)
        if function in scalars.FUNCTIONS.values():
            return scalars.of_symbols(function)
        if function is FROM_NUMPY:
            return _shared
        if function is _FLOATS:
            return _as_floats
        if function in MAKERS:
            return _made_of_arrays(function)
        return warning(self._observer) if function is WARN else self._observer.draws.stand_in(function)


def _computed(function: Callable) -> Callable:
    """A function that remembers results, and computes those for symbolic numbers."""
    @passing
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return (function.__wrapped__ if _has_symbols((args, kwargs)) else function)(*args, **kwargs)
    return functools.update_wrapper(stand_in, function)


@passing
@functools.wraps(FROM_NUMPY)
def _shared(array: Any) -> torch.Tensor:
    return array.shared() if type(array) is Array else FROM_NUMPY(array)


@passing
def _as_floats(*args: Any) -> torch.Tensor:
    return args[0].copied(torch.float32) if len(args) == 1 and type(args[0]) is Array else _FLOATS(*args)


def _made_of_arrays(function: Callable) -> Callable:
    """A function of NumPy's that makes an array of others."""
    @passing
    @functools.wraps(function)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        known = len(args) in (1, 2) and kwargs.keys() <= {"dtype"}
        made = MAKERS[function](*args, **kwargs) if known else NotImplemented
        return function(*args, **kwargs) if made is NotImplemented else made
    return stand_in


def _has_symbols(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return any(map(_has_symbols, value))
    return any(map(_has_symbols, value.values())) if type(value) is dict else is_symbolic(value)


def _is_known(function: Any) -> bool:
    return isinstance(function, Hashable) and isinstance(function, (*KINDS, type(numpy.mean))) and (
        function in KNOWN or function in mathematics.FUNCTIONS or function in OVERRIDE_CHECKS or function in MAKERS
        or function is WARN or function is FROM_NUMPY or function in scalars.FUNCTIONS.values()) \
        or isinstance(function, functools._lru_cache_wrapper) and kind_of(function) == USER
