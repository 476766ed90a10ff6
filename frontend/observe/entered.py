"""The functions that a run enters: of the user's code what it names is guarded, of others what they read or do to the world."""
from __future__ import annotations

import abc
import builtins
import importlib.util
import logging
import os
import sys
import types
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable, Iterable

import torch
from torch.nn import functional

from ..guard.changing import referrers
from ..guard.guards import AUTOCAST_DETAILS, MISSING, SWITCHES, call_read, constant
from ..guard.structure import Arguments
from ..symbolic.symbols import fixed
from ..symbolic.varying import MARK
from ..torch_internals import active_transform, distributions_check
from . import dicts
from .applied import FUNCTION
from .effects import c_effect, python_effect
from .names import (attributes_loaded, attributes_missed, attributes_named, attributes_written, cells_loaded, code_in,
                    globals_named, globals_written, imports_named, membership_alone, modules_named)
from .objects import OURS, content
from .places import SMELT, USER, is_checkpoint, kind_of_file, kind_of_module, on_behalf_of_user, user_line
from .reached import Reached

if TYPE_CHECKING:
    from .observer import Observer

_APPLY = torch.autograd.Function.apply.__func__.__code__
_APPLY_BACKWARD = torch.autograd.function.BackwardCFunction.apply.__code__
_SWAPS = torch.utils.swap_tensors.__code__
_MAKES_PARAMETER = torch.nn.Parameter.__new__.__code__
_PYTHON_SWITCHES = {f.__code__: f for f in SWITCHES if isinstance(f, types.FunctionType)} | {
    torch.distributions.Distribution.__init__.__code__: distributions_check}
_ASKS_AUTOCAST = frozenset((torch.is_autocast_cache_enabled, torch.get_autocast_dtype, torch.get_autocast_cpu_dtype,
                            torch.get_autocast_gpu_dtype))
_C_SWITCHES = frozenset(f for f in SWITCHES if not isinstance(f, types.FunctionType))
#: Functions that only read environment variables: all of these are guarded then.
_READS_ENVIRONMENT = {function.__code__ for function in (
    os.getenv, os.environ.__getitem__, os.environ.__iter__, os.environ.__len__, os.environ.encodekey, os.environ.encodevalue,
    os.environ.decodekey, os.environ.decodevalue)}
#: Modules whose functions change nothing that they are given, and take no numbers but Python's own.
_TAKES_PLAIN_NUMBERS = {"json", "json.encoder", "statistics", "fractions"}
#: Where every module is loaded.
_IMPORTS = importlib._bootstrap._find_and_load.__code__
#: What importlib.import_module finds modules by.
_FINDS = importlib._bootstrap._gcd_import.__code__
#: What tells whether a message is logged.
_ASKS_LEVEL = logging.Logger.isEnabledFor.__code__
#: What tells whether a class is registered with an abstract one.
_ASKS_ABSTRACT_CLASSES = {abc.ABCMeta.__instancecheck__.__code__, abc.ABCMeta.__subclasscheck__.__code__}
_DICT = {"__dict__"}


class Entered:
    """The functions of one run. `profile` is told of each by Python's profiler."""

    def __init__(self, observer: Observer, reached: Reached, arguments: Arguments):
        self._observer = observer
        self._reached = reached
        self._arguments = arguments
        #: variables of contexts that the run sets, with what they held before, and the user's lines
        self.variables_set: dict[ContextVar, tuple[Any, str]] = {}
        self.where = ""  # the first of the user's functions to be entered
        self.read_flags = False  # whether the run may have read a tensor's requires_grad
        self.loaded: set[str] = set()  # attributes that the code entered may read
        self.written: dict[str, str] = {}  # attributes that it may set -> where
        self.cells: set[int] = set()  # cells that it may read
        self._entered: dict[tuple[int, int], types.CodeType] = {}
        self._inner: set[types.CodeType] = set()
        self._of_torch: set[types.CodeType] = set()
        self._loggers: dict[int, Callable[[int], bool]] = {}
        self.modules_loaded: list[str] = []  # modules of the user that were not loaded before the run
        self._importing: tuple[types.FrameType, set[str]] | None = None  # the import under way, the modules loaded before
        self._autocast = [call_read(function, args) for function, args in AUTOCAST_DETAILS]  # as before the run

    def profile(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if self._importing is not None or frame.f_code is _IMPORTS:
            self._import(frame, event)
            return
        if self._observer.telling.goes_on(frame, event, arg):
            return
        if event == "c_call":
            if kind_of_file(frame.f_code.co_filename) != SMELT:
                self._observer.watch(self._enter_c, frame, arg)
        elif event == "return":
            recorder = self._observer.recorder
            if frame in self._observer.applied.frames:
                self._observer.watch(self._leave_function, frame, arg)
            elif frame.f_code is _MAKES_PARAMETER and isinstance(arg, torch.nn.Parameter) and recorder is not None:
                self._observer.watch(recorder.add_parameter, arg, frame.f_locals["data"])
        elif event == "call":
            kind = kind_of_file(frame.f_code.co_filename)
            if kind == USER:
                self._observer.watch(self._enter_user, frame, frame.f_code)
            elif kind != SMELT:
                if frame.f_code is _SWAPS and self._observer.recorder is not None:  # also once nothing is recorded any more
                    self._observer.recorder.let_go()
                if frame.f_globals.get("__name__") in _TAKES_PLAIN_NUMBERS:
                    _fix_numbers(frame)
                self._observer.watch(self._enter_library, frame, frame.f_code)

    def _import(self, frame: types.FrameType, event: str) -> None:
        """A module is loaded, perhaps with others: what that does is not the run's."""
        if self._importing is None:
            self._importing = frame, set(sys.modules)
        elif frame is self._importing[0] and event == "return":
            new = sys.modules.keys() - self._importing[1]
            self.modules_loaded += (m for m in new if kind_of_module(m) == USER)
            self._importing = None
            self._observer.watch(self._found_loaded, new)

    def _found_loaded(self, modules: Iterable[str]) -> None:
        """What the run looked for it has loaded itself: every later run finds it."""
        for module in modules:
            if self._reached.reads.pop(("item", id(sys.modules), module), None):
                self._read_module(module)

    def _read_module(self, name: str) -> None:
        self._reached.read("item", sys.modules, name, sys.modules.get(name, MISSING), f"module {name}")

    def _enter_user(self, frame: types.FrameType, code: types.CodeType) -> None:
        if self._observer.telling.calls(frame):
            self._observer.refuse(f"calls {code.co_qualname}() in order to print or log", user_line(frame.f_back))
        key = id(code), id(frame.f_globals)
        if key not in self._entered and on_behalf_of_user(frame, trust_torch=False):
            self._entered[key] = code
            self._enter(frame, code)
        self._observer.looks.enter(frame, self._observer.conversions.stands_in("type", frame.f_globals))
        if key in self._entered and any(name != "__class__" for name in code.co_freevars):
            self._enter_closure(frame, code)  # every time: another function may have the same code
        if key in self._entered and dicts.looks(code):
            self._look_at_dicts(frame, code)
        if key in self._entered and OURS.intersection(code.co_names):
            for value in frame.f_locals.values():
                self._observer.accesses.follow_unseen(value)

    def _look_at_dicts(self, frame: types.FrameType, code: types.CodeType) -> None:
        """The code looks at the `__dict__` of objects."""
        for value, whole in dicts.looked_at(frame, code):
            if value is MISSING or issubclass(type(value), dicts.UNOBSERVED):
                self._reached.name_attributes(_DICT)
            if isinstance(value, types.ModuleType):
                self._observer.conversions.shown(value.__dict__, user_line(frame))
            if whole and (value is MISSING or isinstance(value, type)):
                self._observer.accesses.show(value, user_line(frame))

    def _enter_library(self, frame: types.FrameType, code: types.CodeType) -> None:
        if frame.f_globals.get("F") is functional and code not in self._of_torch:  # of torch's own layers
            self._of_torch.add(code)
            for name in vars(functional).keys() & set(code.co_names):
                self._reached.read_of_library(functional, "torch.nn.functional", name)
        switch = _PYTHON_SWITCHES.get(code)
        if switch is not None:
            self._read_switch(switch)
            return
        if code is _FINDS and on_behalf_of_user(frame.f_back, trust_torch=True):
            names = frame.f_locals
            self._read_module(importlib.util.resolve_name("." * names["level"] + names["name"], names["package"]))
            return
        if code is _ASKS_LEVEL and on_behalf_of_user(frame.f_back, trust_torch=True):
            self._read_level(frame.f_locals["self"], frame.f_locals["level"])
            return
        if code in _ASKS_ABSTRACT_CLASSES and on_behalf_of_user(frame.f_back, trust_torch=True):
            self._reached.read_registrations()
            return
        if code in _READS_ENVIRONMENT:
            if on_behalf_of_user(frame.f_back, trust_torch=True):
                self._reached.follow(os.environ._data, "os.environ")
            return
        if code is _APPLY and self._observer.recorder is not None and active_transform() is None:  # which calls it again
            self._enter_apply(frame, frame.f_locals)
        if code is _APPLY_BACKWARD:
            self._observer.applied.enter(frame, FUNCTION)
        if code.co_name == "checkpoint" and is_checkpoint(frame) and torch.is_grad_enabled():
            self._observer.applied.enter(frame, "checkpoint")
        what = python_effect(frame)
        if what and not self._observer.telling.begins(frame):
            self._observer.refuse(what, user_line(frame))

    def _enter_apply(self, frame: types.FrameType, called: dict[str, Any]) -> None:
        """A custom autograd.Function is called, perhaps one of the user's."""
        cls = called["cls"]
        if kind_of_module(cls.__module__) == USER:
            self._reached.follow(cls, cls.__qualname__)
            self._observer.applied.enter(frame, FUNCTION, called["args"])
            self._observer.recorder.enter_function(cls, called["args"], called["kwargs"])

    def _leave_function(self, frame: types.FrameType, result: Any) -> None:
        """A frame of one, or of a checkpoint, ends."""
        self._observer.applied.leave(frame)
        if frame.f_code is _APPLY:
            self._observer.recorder.leave_function(result)

    def _enter_c(self, frame: types.FrameType, function: Callable) -> None:
        receiver = getattr(function, "__self__", None)
        sets = isinstance(receiver, ContextVar) and function.__name__ in ("set", "reset")
        if sets and on_behalf_of_user(frame, trust_torch=True):
            self._reached.follow(receiver, receiver.name)
            self.variables_set.setdefault(receiver, (receiver.get(MISSING), user_line(frame)))
        if function in _C_SWITCHES:
            self._read_switch(function)
        if function in _ASKS_AUTOCAST:
            self._reached.reads.update((read.found_at, read) for read in self._autocast)
        what = c_effect(frame, function)
        telling = self._observer.telling
        if what and not telling.begins(frame, function) and not telling.filters(frame, function):
            self._observer.refuse(what, user_line(frame))

    def _read_level(self, logger: logging.Logger, level: int) -> None:
        asked = self._loggers.setdefault(id(logger), logger.isEnabledFor)
        self._reached.read("call", asked, (level,), asked(level), f"what {logger.name} logs", follow=False)

    def _read_switch(self, switch: Callable) -> None:
        self._reached.reads.setdefault(("call", id(switch), ()), call_read(switch))

    def _enter(self, frame: types.FrameType, code: types.CodeType) -> None:
        """The user's code is entered: guard the globals and cells it names, at the values they have now."""
        names = frame.f_globals
        for name, number in globals_written(code):
            where = f"{code.co_filename}:{number}"
            self._reached.touch("item", names, name, names.get(name, MISSING), f"global {name}", where, surely=False)
        for name in globals_named(code):
            self._reached.surely.add(("item", id(names), name))
            held = self._observer.locks.enter(code, names, name)
            value = self._observer.original(names.get(name, MISSING))
            if held:
                self._reached.read("item", names, name, value, f"global {name}", follow=False)
                continue
            plain = type(value) is set and all(isinstance(v, type) or constant(v) for v in value)
            if plain and membership_alone(code, name):
                self._reached.read_membership(names, name, value)
                continue
            self._reached.open(value, f"global {name}")
            self._reached.read("item", names, name, value, f"global {name}")
            if self._reached.reads.get(("item", id(names), name)) and value is MISSING:
                found = self._observer.lookups.original(vars(builtins).get(name, MISSING))
                self._reached.read("item", vars(builtins), name, found, f"builtin {name}")
        self._inner.update(code_in(code))
        named = attributes_named(code) - OURS  # which stand in for the class's own during the run
        named -= _DICT  # see _look_at_dicts
        self.read_flags |= "requires_grad" in named
        self.loaded |= attributes_loaded(code)
        for module in (*imports_named(code, names), *modules_named(code, names)):
            self._read_module(module)
        self._reached.perhaps_missing |= attributes_missed(code)
        for _, name, t in self._arguments.tensors if attributes_missed(code) else ():
            if not (own := vars(self._arguments.own(t))).keys() - {MARK}:
                self._reached.read("size", own, None, len(own), f"attributes of {name}")
        self._reached.name_attributes(named)
        for attribute, number in attributes_written(code):
            self.written.setdefault(attribute, f"{code.co_filename}:{number}")
        self.where = self.where or f"{code.co_filename}:{code.co_firstlineno}"
        self._observer.logs.entered(code, names, {})
        self._observer.functions.enter(code, names)
        self._observer.lookups.enter(code)
        self._observer.conversions.enter(code, names)
        self._observer.telling.enter(code)

    def _enter_closure(self, frame: types.FrameType, code: types.CodeType) -> None:
        """Guard the cells of the function that runs this code. Which one it is shows by what is in them: it may be several."""
        values, known = frame.f_locals, self._reached.functions.setdefault(code, [])
        for name in code.co_freevars:
            self._observer.applied.found(values.get(name), f"closure {name}")
        found = [f for f in known if _runs(f, values)]
        if not found:
            found = [f for f in self._search(code) if _runs(f, values)]
            known += found
        for function in found:
            cells = dict(zip(code.co_freevars, function.__closure__ or ()))
            self.cells |= {id(cells[name]) for name in cells_loaded(code)}
            for name, cell in cells.items():
                if name != "__class__":
                    self._reached.read("attr", cell, "cell_contents", content(cell), f"closure {name}")
            self._observer.logs.entered(code, frame.f_globals, cells)
        if not found and code not in self._inner:
            self._observer.refuse(f"runs {code.co_qualname}, whose closure can't be followed", user_line(frame))

    def _search(self, code: types.CodeType) -> list[types.FunctionType]:
        """The functions with this code that the run reached on a way that isn't observed (operators, super())."""
        if code in self._inner:
            return []
        return [f for f in referrers([code]) if isinstance(f, types.FunctionType)]


def _fix_numbers(frame: types.FrameType) -> None:
    """A function that is being entered gets plain numbers for symbolic ones; the program depends on them."""
    given = frame.f_locals
    for name, value in list(given.items()):
        if (plainly := fixed(value)) is not value:
            given[name] = plainly


def _runs(function: types.FunctionType, values: dict[str, Any]) -> bool:
    """Whether a frame with these variables may be one of the function."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return all(content(cell) is values.get(name, MISSING) for name, cell in cells)
