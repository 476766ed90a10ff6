"""Whether a run looks at types of numbers and tensors by `type(value)`, which tells a stand-in from what it stands for."""
from __future__ import annotations

import sys
import types

import torch

from .names import types_named


class Looks:
    """Sees whether a run gets to a line that names `type`, but to ask for that of a variable with another object in it: the
    frames of code with such lines are traced.

    `where` is the first such line as file:line, "" if there is none.
    """

    def __init__(self):
        self.where = ""
        self._tracing = False
        self._unseen: set[types.FrameType] = set()  # that nothing was told of yet

    def enter(self, frame: types.FrameType) -> None:
        """Code of the user's is entered."""
        if self.where or not types_named(frame.f_code):
            return
        if not self._tracing and sys.gettrace() is not None:  # a debugger's place is not taken
            self._found(frame)
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
                self.where = self.where or "somewhere"
        self._unseen.clear()

    def _trace(self, frame: types.FrameType, event: str, arg: object):
        self._unseen.discard(frame)
        for variable in types_named(frame.f_code).get(frame.f_lineno, ()):
            if variable is None or type(frame.f_locals.get(variable)) in _STOOD_IN_FOR:
                self._found(frame)
        return self._trace

    def _found(self, frame: types.FrameType) -> None:
        self.where = self.where or f"{frame.f_code.co_filename}:{frame.f_lineno}"


#: What a run may get a stand-in for.
_STOOD_IN_FOR = {bool, int, float, torch.Tensor}


def _trace_nothing(frame: types.FrameType, event: str, arg: object) -> None:
    """Lets the frames be traced that have a function for it."""
