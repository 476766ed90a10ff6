"""Whether a run looks at types of numbers and tensors by `type(value)`, which tells a stand-in from what it stands for."""
from __future__ import annotations

import sys
import types

import torch

from ..symbolic.symbols import Float, Int
from .names import types_named


class Looks:
    """Sees whether a run gets to a line that names `type`, but to ask for that of a variable with another object in it: the
    frames of code with such lines are traced.

    `where` is the first such line as file:line, "" if there is none; `numbers` tells whether such code may ask it of a number,
    be it on a line that the run did not get to; `named` whether any code entered so far has such lines; `strict` whether it
    names functions in C that take Python's own numbers alone.
    """

    def __init__(self):
        self.where = ""
        self.numbers = self.named = self.strict = False
        self._tracing = False
        self._unseen: set[types.FrameType] = set()  # that nothing was told of yet

    def enter(self, frame: types.FrameType) -> None:
        """Code of the user's is entered."""
        self.strict |= not _STRICT.isdisjoint(frame.f_code.co_names)
        if not types_named(frame.f_code):
            return
        self.named = True
        if self.where and self.numbers:
            return
        if not self._tracing and sys.gettrace() is not None:  # a debugger's place is not taken
            self._found(f"{frame.f_code.co_filename}:{frame.f_lineno}", True)
            return
        sys.settrace(_trace_nothing)
        self._tracing = True
        self._unseen.add(frame)
        frame.f_trace = self._trace

    def finish(self) -> None:
        """The run is over."""
        if self._tracing:
            undisturbed = sys.gettrace() is _trace_nothing
            if undisturbed:
                sys.settrace(None)
            if self._unseen or not undisturbed:
                self._found("somewhere", True)
        self._unseen.clear()

    def _trace(self, frame: types.FrameType, event: str, arg: object):
        self._unseen.discard(frame)
        named = types_named(frame.f_code)
        asked = [_kind(frame, variable) for variable in named.get(frame.f_lineno, ())]
        if not {torch.Tensor, *_NUMBERS}.isdisjoint(asked):
            self._found(f"{frame.f_code.co_filename}:{frame.f_lineno}", False)
        if event == "return":
            self.numbers |= any(_kind(frame, variable) in _NUMBERS for line in named.values() for variable in line)
        return self._trace

    def _found(self, where: str, number: bool) -> None:
        self.where = self.where or where
        self.numbers |= number


#: Numbers, stand-ins for such, and what may be any object.
_NUMBERS = {bool, int, float, Int, Float, None}


#: Functions, types and methods in C that refuse whatever is not Python's own number.
_STRICT = {"Decimal", "timedelta", "fromtimestamp", "utcfromtimestamp", "localtime", "gmtime", "ctime", "sleep", "wait"}


def _kind(frame: types.FrameType, variable: str | None) -> type | None:
    """The type of a variable; None for what is none, or has no value."""
    return type(frame.f_locals[variable]) if variable in frame.f_locals else None


def _trace_nothing(frame: types.FrameType, event: str, arg: object) -> None:
    """Lets the frames be traced that have a function for it."""
