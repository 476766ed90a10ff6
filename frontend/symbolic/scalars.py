"""NumPy's numbers, as a recording sees them: `numpy.mean(losses)`, `numpy.sqrt(1 - share)`, a reward among the arguments.

A `Scalar` stands in for one that changes from call to call. What it is computed of are Python's numbers (symbols.py): the
program's lines call NumPy's function, and keep what it gives as a Python number of the same value. To torch it is that number;
arithmetic that both kinds do alike goes on with it; whatever else is done with it gets the number itself, and fixes it.
"""
from __future__ import annotations

import functools
import operator
from typing import Any, Callable, Sequence

import numpy
import torch

from .symbols import Float, Int, Node, Stand, as_operand, is_symbolic, plain

#: By the type of NumPy's numbers, Python's that holds its values, and torch's dtype for them.
KINDS = {numpy.float64: (float, torch.float64), numpy.float32: (float, torch.float32), numpy.int64: (int, torch.int64),
         numpy.int32: (int, torch.int32)}
#: Numbers in the longest list that a function is computed of.
_LONGEST = 256


class Scalar(Stand):
    """What both classes of stand-ins have. `kind` is the type of what it stands for."""
    __class__ = property(lambda self: self.kind)
    kind: type
    node: Node

    def of(self, value: Any) -> Any:
        return self.kind(value)

    @property
    def fixed(self) -> Any:
        """The number that it stands for, which the program from here on depends on."""
        return self.kind(self.node.fixed())

    @property
    def dtype(self) -> numpy.dtype:
        return numpy.dtype(self.kind)

    def item(self) -> Float | Int:
        return self.node.wrapped()

    def __copy__(self) -> "Scalar":
        return self

    def __deepcopy__(self, memo: dict) -> "Scalar":
        return self

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.fixed.__reduce_ex__(protocol)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray:
        return numpy.array(self.fixed, dtype)

    def __array_ufunc__(self, ufunc: numpy.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        return of_ufunc(ufunc, method, args, kwargs)


class FloatScalar(Scalar, Float):
    """Stands in for a number of a type whose values are floats."""


class IntScalar(Scalar, Int):
    """Stands in for a number of a type whose values are ints."""


def standing_for(node: Node, kind: type) -> Scalar:
    """What stands for a number of NumPy's of this type, whose value a symbolic number has."""
    made = (IntScalar if KINDS[kind][0] is int else FloatScalar)(node)
    made.kind = kind
    node.numbers.scalars = True
    return node.numbers.made(made)


def is_scalar(value: Any) -> bool:
    return issubclass(type(value), Scalar)


def number_of(value: Any) -> Any:
    """Python's number with the value of one of NumPy's, or of a stand-in for one; any other value itself."""
    if is_scalar(value):
        return value.node.wrapped()
    return KINDS[type(value)][0](value) if type(value) in KINDS else value


# Functions of NumPy's

def of_ufunc(ufunc: numpy.ufunc, method: str, args: tuple, kwargs: dict) -> Any:
    """A function of symbolic numbers, element by element."""
    if method == "__call__" and not kwargs and (made := _computed(ufunc, args)) is not NotImplemented:
        return made
    return getattr(ufunc, method)(*map(_fixed, args), **{k: _fixed(v) for k, v in kwargs.items()})


def of_symbols(function: Callable) -> Callable:
    """The stand-in for a function of NumPy's that takes symbolic numbers, too, or lists of them."""
    @functools.wraps(function)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and (made := _computed(function, args)) is not NotImplemented:
            return made
        return function(*args, **kwargs)
    return stand_in


def _computed(function: Callable, args: tuple) -> Any:
    """What a function gives of numbers, as a line of the program. NotImplemented where it gives no number that has a stand-in,
    or no number is symbolic."""
    given = [p for a in args for p in (a if type(a) in (list, tuple) else (a,))]
    name = _NAMES.get(function) or function.__name__
    if len(given) > _LONGEST or not (function in _NAMES or getattr(numpy, name, None) is function):
        return NotImplemented
    parts = iter(map(_text, given))
    texts = [f"[{', '.join(next(parts) for _ in a)}]" if type(a) in (list, tuple) else next(parts) for a in args]
    return _line(f"numpy.{name}({', '.join(texts)})", given, lambda: function(*map(plain, args)))


def _line(text: str, given: Sequence[Any], result: Callable[[], Any]) -> Any:
    """What NumPy gives of numbers, which `text` has a place for each of: the number that the same line gives on later calls."""
    found = next(filter(is_symbolic, given), None)
    operands = [as_operand(found.node.numbers, number_of(g)) for g in given] if found is not None else [None]
    if any(o is None for o in operands):
        return NotImplemented
    result = result()
    if type(result) not in KINDS:
        return NotImplemented
    python = KINDS[type(result)][0]
    long = any(is_symbolic(g) and not is_scalar(g) and g.node.is_int() for g in given)  # it may be too long for NumPy
    node = found.node.numbers.compute(f"{python.__name__}({text})", lambda *_: python(result), *operands, raises=long)
    return standing_for(node, type(result)) if node.name else result


def _text(number: Any) -> str:
    """The place of a number in a line: one of NumPy's is made of Python's."""
    kind = number.kind if is_scalar(number) else type(number)
    return f"numpy.{kind.__name__}({{}})" if kind in KINDS else "{}"


def _fixed(value: Any) -> Any:
    return value.fixed if is_scalar(value) else value.node.fixed() if is_symbolic(value) else value


#: Those with stand-ins while a run is recorded, by their names: they make arrays of lists, and ask nobody what of.
FUNCTIONS = {name: getattr(numpy, name) for name in "mean sum std var median min max clip".split()}
_NAMES = {function: name for name, function in FUNCTIONS.items()}


# Operators

def _operator(name: str, symbol: str, reflected: bool) -> Callable:
    """Arithmetic: in float64 Python's, where NumPy does the same; else NumPy's own."""
    function, method = getattr(operator, f"__{name}__"), f"__{'r' * reflected}{name}__"

    def operate(self: Scalar, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented
        operands = (other, self) if reflected else (self, other)
        if name in _ALIKE and not (name == "truediv" and plain(operands[1]) == 0) and (
                {type(plain(o)) for o in operands} <= {float, int, numpy.float64} and self.kind is numpy.float64):
            found = function(*map(number_of, operands))
            return standing_for(found.node, numpy.float64) if is_symbolic(found) else numpy.float64(found)
        made = _line(f"{_text(operands[0])} {symbol} {_text(operands[1])}", operands, lambda: function(*map(plain, operands)))
        return getattr(self.fixed, method)(_fixed(other)) if made is NotImplemented else made
    return operate


#: What Python and NumPy do alike in float64, but for what Python raises for.
_ALIKE = {"add", "sub", "mul", "truediv"}


def _unary(name: str, text: str) -> Callable:
    function = getattr(operator, f"__{name}__")

    def operate(self: Scalar) -> Any:
        return _line(text.format(_text(self)), (self,), lambda: function(plain(self)))
    return operate


#: Whole numbers up to this are numbers of float64.
_EXACT = 1 << 53


def _comparison(name: str) -> Callable:
    function = getattr(operator, f"__{name}__")

    def compare(self: Scalar, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented
        theirs = number_of(other)
        if is_scalar(other):
            exact = other.kind is self.kind
        elif KINDS[self.kind][0] is int:
            exact = isinstance(theirs, int)
        else:  # of float32, NumPy rounds the other number first
            exact = self.kind is numpy.float64 and (isinstance(theirs, float) or type(theirs) is int and abs(theirs) <= _EXACT)
        if exact and as_operand(self.node.numbers, theirs) is not None:
            return numpy.bool_(function(self.item(), theirs))
        return function(self.fixed, _fixed(other))
    return compare


def _otherwise(name: str) -> Callable:
    """Any other method that Python itself calls."""
    def method(self: Scalar, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.fixed, name)(*map(_fixed, args), **kwargs)
    return method


def _add_methods() -> None:
    symbols = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%"}
    for name, symbol in symbols.items():
        setattr(Scalar, f"__{name}__", _operator(name, symbol, reflected=False))
        setattr(Scalar, f"__r{name}__", _operator(name, symbol, reflected=True))
    for name, text in (("neg", "-{}"), ("pos", "+{}"), ("abs", "abs({})")):
        setattr(Scalar, f"__{name}__", _unary(name, text))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Scalar, f"__{name}__", _comparison(name))
    Scalar.__bool__ = lambda self: bool(self.item())
    Scalar.__hash__ = lambda self: hash(self.fixed)
    kept = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__init_subclass__",
            "__subclasshook__", "__class_getitem__", "__doc__", *vars(Scalar)}
    for cls, kind in ((FloatScalar, numpy.float64), (IntScalar, numpy.int64)):
        for name in set(dir(kind)) - kept:
            called = callable(getattr(kind, name))
            setattr(cls, name, _otherwise(name) if called else property(lambda self, name=name: getattr(self.fixed, name)))


_add_methods()
