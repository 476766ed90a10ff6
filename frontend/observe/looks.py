"""Lines that a run gets to: those that look at types of numbers and tensors by `type(value)`, which tells a stand-in from what it
stands for, and those that look for modules by names that they compute."""
from __future__ import annotations

import sys
import types
from typing import Callable, Collection, Mapping

import torch

from ..symbolic.arrays import Array
from ..symbolic.scalars import FloatScalar, IntScalar
from ..symbolic.symbols import Float, Int
from .names import modules_sought, types_named


class Looks:
    """Sees whether a run gets to a line that names `type`, but to ask for that of a variable with another object in it: the
    frames of code with such lines are traced. Code whose `type` is a stand-in (conversions.py) has none.

    `refuse` is told of lines that look for any module.
    `where` is the first such line as file:line, "" if there is none; `numbers` tells whether such code may ask it of a number,
    be it on a line that the run did not get to; `named` whether any code entered so far has such lines; `strict` whether it
    names functions in C that take Python's own numbers alone.
    """

    def __init__(self, refuse: Callable[[str, str], None]):
        self.where = ""
        self._refuse = refuse
        self.numbers = self.named = self.strict = False
        self._tracing = False
        self._traced: dict[types.FrameType, tuple] = {}  # that nothing was told of yet, with such lines of theirs
        self._lines: tuple = {}, ()  # of the others: some of each kind

    def enter(self, frame: types.FrameType, stands_in: bool) -> None:
        """Code of the user's is entered. `stands_in`: its `type` is a stand-in."""
        code = frame.f_code
        self.strict |= not _STRICT.isdisjoint(code.co_names)
        named, sought = {} if stands_in else types_named(code), modules_sought(code)
        self.named |= bool(named)
        if self.where and self.numbers:  # no more is to be found out
            named = {}
        if not named and not sought:
            return
        if not self._tracing and sys.gettrace() is not None:  # a debugger's place is not taken
            self._miss(named, sought, f"{code.co_filename}:{frame.f_lineno}")
            return
        sys.settrace(_trace_nothing)
        self._tracing = True
        self._traced[frame] = named, sought
        frame.f_trace = self._tracer(named, sought)

    def finish(self) -> None:
        """The run is over."""
        if self._tracing:
            if sys.gettrace() is _trace_nothing:
                sys.settrace(None)
            else:
                self._miss(*self._lines, "somewhere")
            for lines in self._traced.values():
                self._miss(*lines, "somewhere")
        self._traced.clear()

    def _miss(self, named: Mapping, sought: Collection[int], place: str) -> None:
        """Nothing tells which of these lines the run gets to."""
        if named:
            self.found(place, True)
        if sought:
            self._refuse(_SOUGHT, place)

    def _tracer(self, named: Mapping[int, Collection[str | None]], sought: Collection[int]) -> Callable:
        def trace(frame: types.FrameType, event: str, arg: object) -> Callable:
            self._lines = named or self._lines[0], sought or self._lines[1]
            self._traced.pop(frame, None)
            line, place = frame.f_lineno, f"{frame.f_code.co_filename}:{frame.f_lineno}"
            asked = [_kind(frame, variable) for variable in named.get(line, ())]
            if not {torch.Tensor, *_NUMBERS}.isdisjoint(asked):
                self.found(place, False)
            if line in sought:
                self._refuse(_SOUGHT, place)
            if event == "return":
                self.numbers |= any(_kind(frame, variable) in _NUMBERS for names in named.values() for variable in names)
            return trace
        return trace

    def found(self, where: str, number: bool) -> None:
        self.where = self.where or where
        self.numbers |= number


#: Numbers, stand-ins for such, and what may be any object.
_NUMBERS = {bool, int, float, Int, Float, Array, FloatScalar, IntScalar, None}


#: Functions, types and methods in C that refuse whatever is not Python's own number.
_STRICT = {"Decimal", "timedelta", "fromtimestamp", "utcfromtimestamp", "localtime", "gmtime", "ctime", "sleep", "wait"}


_SOUGHT = "looks for modules by names that it computes"


def _kind(frame: types.FrameType, variable: str | None) -> type | None:
    """The type of a variable; None for what is none, or has no value."""
    return type(frame.f_locals[variable]) if variable in frame.f_locals else None


def _trace_nothing(frame: types.FrameType, event: str, arg: object) -> None:
    """Lets the frames be traced that have a function for it."""
