"""Warnings that a run gives: later calls give them again, at the same line, for Python to show or not."""
from __future__ import annotations

import functools
import sys
import types
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from .places import SMELT, kind_of_file
from .profiling import unprofiled

if TYPE_CHECKING:
    from .observer import Observer

WARN = warnings.warn
#: What tells Python that other filters hold: a warning that was shown may be shown again then.
REFILTERED = warnings._filters_mutated
#: Where filters are put aside for a while, and put back.
ASIDE, BACK = warnings.catch_warnings.__enter__.__code__, warnings.catch_warnings.__exit__.__code__


@dataclass(frozen=True)
class Warned:
    """A warning at a line of code with the globals `names`: a callable that gives it again."""
    message: str
    category: type[Warning]
    file: str
    line: int
    names: dict[str, Any]

    def __call__(self, variables: dict[str, Any]) -> None:
        registry = self.names.setdefault("__warningregistry__", {})
        module = self.names.get("__name__") or "<string>"
        warnings.warn_explicit(self.message, self.category, self.file, self.line, module, registry)


def warned(frame: types.FrameType | None, message: Any, category: Any = None, stacklevel: int = 1, **more: Any) -> Warned | None:
    """What warnings.warn does, called with this from a frame; None if that can't be done again: it is said of a caller's line."""
    for _ in range(stacklevel - 1):
        frame = frame and frame.f_back
        if frame is None or kind_of_file(frame.f_code.co_filename) == SMELT:
            return None
    if more or frame is None or type(message) is not str:
        return None
    return Warned(message, category or UserWarning, frame.f_code.co_filename, frame.f_lineno, frame.f_globals)


def warning(observer: Observer) -> Callable:
    """The stand-in of warnings.warn."""
    @functools.wraps(WARN)
    def warn(message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **kwargs: Any) -> None:
        caller = sys._getframe(1)
        with unprofiled():
            if observer.listening:
                observer.telling.warn(caller, message, category, stacklevel, *more, **kwargs)
            if not observer.listening or observer.recorder.for_caller:
                WARN(message, category, stacklevel + 1, *more, **kwargs)
    return warn


def ignores(category: type[Warning]) -> bool:
    """Whether the first filter is one that shows no warnings of a category, whatever they say and wherever they are."""
    action, message, ignored, module, line = (*warnings.filters, (None,) * 5)[0]
    return action == "ignore" and message is None and module is None and not line and issubclass(category, ignored)


def filter_anew(variables: dict[str, Any]) -> None:
    """What is left of a while under other filters."""
    with warnings.catch_warnings():
        pass


def warnings_raise() -> bool:
    """Whether a filter makes errors of warnings: a run then ends where it warns."""
    return any(action == "error" for action, *_ in warnings.filters)
