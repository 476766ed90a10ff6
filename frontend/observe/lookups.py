"""Attributes looked up by names that the run computes, or all of them: `getattr(Settings, key)`, `vars(Settings)`.

The attribute access of instances is watched. That of classes, functions, modules and tensors can't be: what code names of them
is guarded, and while a run is recorded stand-ins take the places of the builtins for it, and tell of other names.
"""
from __future__ import annotations

import builtins
import types
from typing import TYPE_CHECKING, Any, Callable

import torch

from .places import passing, user_line
from .profiling import unprofiled
from .replaced import Replaced

if TYPE_CHECKING:
    from .observer import Observer

_FUNCTIONS = {"getattr": getattr, "hasattr": hasattr, "vars": vars, "dir": dir}


class Lookups:
    """The stand-ins of one run. `enter` is told of code before it runs, and `restore` ends it."""

    def __init__(self, observer: Observer):
        self._observer = observer
        self._replaced = Replaced()

    def enter(self, code: types.CodeType) -> None:
        """The user's code is about to run."""
        for name in _FUNCTIONS.keys() & set(code.co_names):
            if vars(builtins)[name] is _FUNCTIONS[name]:
                self._replaced.put(vars(builtins), name, self._made(_FUNCTIONS[name]))

    def restore(self) -> None:
        self._replaced.restore()

    def original(self, value: Any) -> Any:
        """What a stand-in stands for; any other value itself."""
        return self._replaced.original(value)

    def _made(self, function: Callable) -> Callable:
        observer = self._observer

        @passing
        def stand_in(*args: Any) -> Any:
            if args and observer.listening:
                holder = args[0].__self_class__ if isinstance(args[0], super) else args[0]
                if isinstance(holder, (type, types.FunctionType, types.ModuleType, torch.Tensor)):
                    if isinstance(holder, types.ModuleType):
                        observer.conversions.shown(holder.__dict__, user_line())
                    look = observer.accesses.looked_up if args[1:] else observer.accesses.looked_through
                    with unprofiled():
                        observer.watch(look, holder, *args[1:2])
                elif function is _FUNCTIONS["dir"]:
                    with unprofiled():
                        observer.watch(observer.accesses.looked_through, type(holder))
                        observer.watch(observer.accesses.follow_unseen, holder)
                if function is _FUNCTIONS["vars"] and isinstance(holder, type):
                    return observer.accesses.own(holder)
            return function(*args)
        return stand_in
