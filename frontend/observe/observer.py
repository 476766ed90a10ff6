"""The Python observer: what one run of the user's function read of the state around it, and what it wrote.

It sees attribute accesses (`__getattribute__`, `__setattr__`, `__delattr__` of the classes reached are swapped for the
run), and Python and C functions entered (`sys.setprofile`). Reads become guards; what the state is after the run, where
that differs, becomes writes, replayed on every call; effects that can't be replayed make the run `Unsupported`. It
observes one thread, and is undone whatever happens.
"""
from __future__ import annotations

import abc
import copyreg
import functools
import os
import sys
import threading
import types
import weakref
from collections import defaultdict, deque, namedtuple
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from threading import get_ident
from typing import Any, Callable

import numpy
import torch
from torch import nn

from ...errors import Unsupported
from ..guard.changing import referrers
from ..guard.fetched import parts
from ..guard.guards import CONTAINERS, MISSING, SINGLETONS, SWITCHES, Read, call_read, constant, snapshot, torch_state
from ..guard.memo import Memo
from ..guard.structure import Arguments
from ..guard.writes import Write, container_writes, put, unchanged, writes_of
from ..modules import original_of
from ..symbolic.symbols import is_symbolic, noted
from ..symbolic.varying import MARK
from ..torch_internals import GLOBAL_MODULE_HOOKS, active_transform
from .draws import NUMPY, PYTHON, Draw, Draws
from .effects import c_effect, python_effect
from .logs import Logs
from .looks import Looks
from .lookups import Lookups
from .names import (attributes_loaded, attributes_missed, attributes_named, attributes_written, cells_loaded, code_in,
                    globals_named, globals_written, imports_named, modules_named)
from .places import SMELT, TORCH, USER, kind_of_file, kind_of_module, on_behalf_of_user, passing, user_line
from .profiling import unprofiled
from .telling import Telling

#: A run may read containers of this many items in all; what holds more can't be guarded in reasonable time.
ITEM_LIMIT = 20_000

#: Elements of the largest array of NumPy's that is guarded by what it holds, unless it is an argument: data of each call's own.
LARGEST_ARRAY = 256

_UNCHANGING = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
               types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType, numpy.ufunc, numpy.dtype,
               numpy.generic, type(namedtuple("_", "field").field))
#: Modules whose types have no state that a program could change, or none that it could see.
_UNCHANGING_MODULES = {"re", "typing", "types", "operator", "decimal", "datetime", "fractions", "pathlib", "uuid", "enum", "abc",
                       "_thread", "_collections", "inspect", "zoneinfo", "__future__"}


copyreg._slotnames(torch.Tensor)  # which the first tensor to be copied or pickled leaves in the class, whose size is guarded


class Observer:
    """Observes one run of `function`; a context manager around the call.

    After the run, `finish()` raises Unsupported for the first effect that can't be replayed; `reads` (in the order found)
    is what to guard, `writes` what to replay, `changing` the places that were read and written (see fetched.py), `changed`
    what was in all places that the run changed, and `tensors` has every tensor that the run came by, with its name.
    """

    def __init__(self, function: Callable, arguments: Arguments):
        self.recorder: Any = None  # told of custom autograd.Functions called, and of draws
        self._applying: list[types.FrameType] = []
        self.reads: dict[tuple, Read] = {}
        self.writes: tuple[Write, ...] = ()
        self.changed: list[Read] = []
        self.changing: set[tuple] = set()
        self.tensors: dict[int, tuple[str, torch.Tensor]] = {}
        self.unsupported: Unsupported | None = None
        self.busy = False  # what the observer itself reads is not the run's doing
        self.read_flags = False  # whether the run may have read a tensor's requires_grad
        self._arguments = arguments
        self._known: dict[int, tuple[Any, str]] = {}
        self._functions: dict[types.CodeType, list[types.FunctionType]] = {}
        #: functions, classes and modules of the user, with their attributes before the run
        self._holders: list[tuple[Any, str, dict]] = []
        #: modules of libraries, and torch.Tensor
        self._libraries: list[tuple[Any, str]] = []
        self._bare: dict[int, tuple[dict, str]] = {}  # the attributes of functions that have none
        self._tagged: list[tuple[str, torch.Tensor, dict]] = []  # tensors, with the attributes that they had, unless guarded
        self._attributes: set[str] = set()
        self._perhaps_missing: set[str] = set()  # those that code may look for where they are not: by getattr
        #: places where the run wrote, or may have, as they were before -> whether it surely did
        self._touched: dict[tuple, tuple[Read, bool]] = {}
        self._loaded: set[str] = set()  # attributes that the code entered may read
        self._surely: set[tuple] = set()  # places in dicts of attributes that were read, and not only named
        self._named: set[int] = set()  # these dicts, of functions, classes and modules
        self._cells: set[int] = set()  # cells that the code entered may read
        self._memos: list[Memo] = []
        self._logs = Logs()
        self._entered: dict[tuple[int, int], types.CodeType] = {}
        self._written: dict[str, str] = {}  # attributes that the code entered may set -> where
        self._where = ""  # the first of the user's functions to be entered
        self._inner: set[types.CodeType] = set()
        self._mappings: dict[int, Any] = {}
        self._owners: dict[int, type] = {}  # the classes that these mappings are of
        self._patches: list[tuple[type, str, Any]] = []
        self._patched: set[type] = set()
        self._items = 0
        self._function = function
        self._draws, self._lookups, self.telling = Draws(self), Lookups(self), Telling(self)
        self.looks = Looks()

    # Before and after

    def __enter__(self):
        self.thread = get_ident()  # an access on another one is not the run's
        self.state = torch_state()
        self._generators = [(g, g.get()) for g in (PYTHON, NUMPY)]
        self._random = _random_states()
        self._containers = [(name, container, snapshot(container)) for name, container in self._arguments.containers]
        try:
            self._draws.start()
            self._watch_class(nn.Module)
            self._follow(torch.Tensor, "torch.Tensor")
            self._read("size", self._vars(torch.Tensor), None, len(vars(torch.Tensor)), "the methods of torch.Tensor",
                       follow=False)
            for name, hooks in GLOBAL_MODULE_HOOKS.items():
                self._follow(hooks, f"torch.nn.modules.module.{name}")
            root = self._function.__self__ if isinstance(self._function, types.MethodType) else None
            if root is not None:
                self._follow(root, "" if isinstance(root, nn.Module) else "self")
            self._follow(self._function, getattr(self._function, "__name__", "function"))
            for name, value in self._arguments.objects:
                self._follow(value, name)
            for _, name, t in self._arguments.tensors:
                self._follow_class_of(t, name)
                self._tagged.append((name, t, dict(_dict_of(t))))
        except BaseException:
            self._restore()
            raise
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        self.looks.finish()
        self._restore()
        try:
            self._compare()
        except Unsupported as why:
            self.refuse(why.reason, why.where)
        except Exception as defect:  # what goes wrong here may not disturb the run
            self.refuse(f"internal error while observing: {type(defect).__name__}: {defect}", self._where)

    def _restore(self) -> None:
        self._draws.restore()
        self._lookups.restore()
        for cls, name, before in reversed(self._patches):
            if before is MISSING:
                type.__delattr__(cls, name)
            else:
                type.__setattr__(cls, name, before)
        self._patches.clear()

    def finish(self) -> None:
        """Raises Unsupported if something that the run did stands in the way of replaying it."""
        if self.unsupported:
            raise self.unsupported
        if _random_states() != self._random:
            raise Unsupported("draws random numbers from Python's or NumPy's generator", self._where)
        for name, tensor, before in self._tagged:
            if {k: id(v) for k, v in _dict_of(tensor).items()} != {k: id(v) for k, v in before.items()}:
                raise Unsupported(f"sets attributes of {name or 'a tensor'}", self._where)
        for switch in self.state:
            if not switch.holds():
                raise Unsupported(f"leaves {switch.subject} changed", self._where)

    def undraw(self) -> None:
        """Let Python's and NumPy's generators be as they were before the run."""
        for generator, state in self._generators:
            generator.put(state)

    @property
    def untouched(self) -> bool:
        """Whether the run, as far as it went, changed nothing that it came by, but for what `undraw` puts back."""
        try:
            self.finish()
        except Unsupported:
            return False
        return not self.writes

    def _compare(self) -> None:
        """See what the run changed: that becomes writes, and what it only wrote to is no guard."""
        found: dict[tuple, Write] = {}
        self._name_attributes_set()
        logs = self._logs.find(self.reads)
        for read in list(self.reads.values()):
            for write in self._writes_of(read):
                self.changed.append(self._owned(read))
                if read.kind == "contents":
                    found.pop(write.step, None)  # the steps of a whole container keep their order
                found.setdefault(write.step, write)
                whole = read.kind == "contents" and write.kind in ("item", "no item")
                self.changing.add(write.place if whole else read.found_at)
            if read.found_at in self.changing and self._only_written(read):
                del self.reads[read.found_at]
        for place, (read, surely) in self._touched.items():
            if place in self.reads:
                continue
            write = put(read, read.now())
            self.changed.append(read)
            if surely or not unchanged(read.now(), read.expected):
                found.setdefault(write.step, write)
            else:
                self.reads[place] = read
        for holder, name, before in self._holders:
            for write, value in self._holder_writes(holder, name, before):
                self.changed.append(Read(write.kind.removeprefix("no "), write.holder, write.key, value, write.subject))
                found.setdefault(write.step, write)
        for name, container, before in self._containers:
            self.changed.append(Read("contents", container, None, before, name))
            for write in container_writes(container, before, name, self._where):
                found.setdefault(write.step, write)
        for memo in self._memos:
            memo.finish()
        places = {write.place for write in found.values()}
        for log in logs:
            del self.reads[log.found_at]
            for part in parts(log) if isinstance(log.holder, dict) else ():
                if part.found_at not in places:  # code may have put the same there again
                    self.reads[part.found_at] = part
        for item in self._logs.only_in(logs) & self.tensors.keys():
            del self.tensors[item]
        self.writes = *self.telling.told, *found.values()

    def _name_attributes_set(self) -> None:
        """Of functions that had no attributes and were given some: let the reads be of names."""
        for entries, name in self._bare.values():
            if entries and self.reads.pop(("size", id(entries), None), None):
                for attribute in self._attributes & self._perhaps_missing:
                    missing = Read("item", entries, attribute, MISSING, f"{name}.{attribute}", self._where)
                    self.reads.setdefault(missing.found_at, missing)

    def _owned(self, read: Read) -> Read:
        """A read of a class's attributes as one of the class, which lets them be set."""
        owner = self._owners.get(id(read.holder))
        return read if owner is None else replace(read, kind="attr", holder=owner)

    def _writes_of(self, read: Read) -> Iterator[Write]:
        if self._owned(read) is read:
            yield from writes_of(read)
        elif not unchanged(read.now(), read.expected):
            yield put(self._owned(read), read.now())

    def _only_written(self, read: Read) -> bool:
        """Whether a guard of what is in a place was made in case it is read, and it was not."""
        if read.kind == "attr" and isinstance(read.holder, types.CellType):
            return id(read.holder) not in self._cells
        return id(read.holder) in self._named and read.found_at not in self._surely and read.key not in self._loaded

    def _holder_writes(self, holder: Any, name: str, before: dict) -> Iterator[tuple[Write, Any]]:
        """What was set on a function, class or module, each with what was there before."""
        now = vars(holder)
        for key in (*now, *(k for k in before if k not in now)):
            value = now.get(key, MISSING)
            if value is not before.get(key, MISSING) and not key.startswith("__"):
                kind, where = ("attr", holder) if isinstance(holder, type) else ("item", now)
                read = Read(kind, where, key, MISSING, f"{name}.{key}", self._written.get(key, self._where))
                yield put(read, value), before.get(key, MISSING)

    @property
    def grown(self) -> bool:
        """Whether functions remember more after the run."""
        return any(memo.grown for memo in self._memos)

    @property
    def modes(self) -> tuple:
        """torch's switches as they were before the run."""
        return tuple(read.expected for read in self.state)

    def name_of(self, t: torch.Tensor) -> str | None:
        """The readable source of a tensor that came from outside the run: "fc1.weight", "global w"; None if unknown."""
        found = self.tensors.get(id(t))
        return found[0] if found else None

    def outside(self, value: Any) -> bool:
        """Whether an object was there before the run, and is guarded by identity."""
        return id(value) in self._known

    def found(self, value: Any) -> bool:
        """Whether an object was there before the run, among the arguments too."""
        return self.outside(value) or id(value) in self._arguments.places

    def touched(self, kind: str, holder: Any, key: Any) -> bool:
        """Whether the run has written to a place, or may have."""
        return (kind, id(holder), key) in self._touched

    def refuse(self, what: str, where: str) -> None:
        """The run did something that can't be replayed."""
        if self.unsupported is None:
            self.unsupported = Unsupported(what, where)

    # Values that the run came by

    def _touch(self, kind: str, holder: Any, key: Any, before: Any, subject: str, where: str = "", surely: bool = True) -> None:
        """The run is about to write to a place, surely or perhaps."""
        read = Read(kind, holder, key, noted(before), subject, where or user_line())
        known, sure = self._touched.get(read.found_at, (read, False))
        self._touched[read.found_at] = known, sure or surely

    def _read(self, kind: str, holder: Any, key: Any, expected: Any, subject: str, follow: bool = True) -> None:
        """Guard one piece of state, and follow the value found there."""
        where = (kind, id(holder), key)
        touched, _ = self._touched.get(where, (None, False))
        if where in self.reads or touched is not None and not unchanged(touched.now(), touched.expected):
            return  # known, or the run's own
        self.reads[where] = Read(kind, holder, key, noted(expected), subject, user_line())
        if follow and expected is not MISSING:
            self._follow(expected, subject)

    def _follow(self, value: Any, name: str) -> None:
        """Note an object from outside the run, and observe what can be observed of it from here on."""
        self._logs.reached(value)
        if isinstance(value, torch.Tensor):
            known = self.tensors.get(id(value))
            if known is None:
                known = self.tensors[id(value)] = name, value
                self._tagged += [] if _dict_of(value) else [(name, value, {})]
            if len(name) < len(known[0]):  # a parameter is better known by its module than by an optimiser
                self.tensors[id(value)] = name, value
            return
        if id(value) in self._known or constant(value) or is_symbolic(value):
            return
        self._known[id(value)] = value, name
        if isinstance(value, types.FunctionType):
            self._follow_function(value, name)
        elif isinstance(value, types.MethodType):
            self._follow(value.__func__, name)
            self._follow(value.__self__, f"{name}.__self__")
        elif isinstance(value, functools.partial):
            for part in ("func", "args", "keywords"):
                self._follow(getattr(value, part), f"{name}.{part}")
        elif isinstance(value, (type, types.ModuleType)):
            self._follow_holder(value, name)
        elif isinstance(value, (staticmethod, classmethod)):
            self._follow(value.__func__, name)
        elif isinstance(value, property):
            for function in (value.fget, value.fset, value.fdel):
                self._follow(function, name)
        elif isinstance(value, weakref.ref):
            self._read("call", value, (), value(), name)
        elif isinstance(value, ContextVar):
            self._read("call", value.get, (None,), value.get(None), name)
        elif isinstance(value, functools._lru_cache_wrapper):
            self._follow_memo(value, name)
        elif _is_small_array(value) and all(value is not given for _, given in self._arguments.objects):
            elements = functools.partial(_elements, value)
            self._read("call", elements, (), elements(), f"what {name} holds")
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                self._follow(item, f"{name}[{i}]")
        elif type(value) is not object and not isinstance(value, (SINGLETONS, *_UNCHANGING)):
            self._follow_object(value, name)

    def _follow_function(self, function: types.FunctionType, name: str) -> None:
        if function.__code__ is _DISPATCHES:
            self._follow_dispatcher(function, name)
        if kind_of_file(function.__code__.co_filename) != USER:
            wrapped = getattr(function, "__wrapped__", None)
            if wrapped is not None:
                self._follow(wrapped, name)
            return
        self._functions.setdefault(function.__code__, []).append(function)
        self._read("attr", function, "__code__", function.__code__, f"{name}.__code__", follow=False)
        self._read("attr", function, "__defaults__", function.__defaults__, f"{name}.__defaults__")
        if function.__kwdefaults__:
            self._read("attr", function, "__kwdefaults__", function.__kwdefaults__, f"{name}.__kwdefaults__")
        self._follow_holder(function, name)

    def _follow_dispatcher(self, function: Callable, name: str) -> None:
        """A function made by functools.singledispatch: guard what is registered with it, for which classes."""
        known = function.dispatch.__closure__[function.dispatch.__code__.co_freevars.index("registry")].cell_contents
        self._follow_contents(known, f"what is registered with {name}")
        if any(isinstance(cls, abc.ABCMeta) for cls in known):
            self._read_registrations()

    def _follow_memo(self, function: Any, name: str) -> None:
        """A function that remembers its results: a call that it answers from memory is a read of what it remembers."""
        if kind_of_module(function.__module__) == USER:
            memo = Memo(function)
            self._memos.append(memo)
            self._read("call", memo.kept, (), True, f"whether {name} remembers the same")
            self._follow((memo.keys, memo.results), f"what {name} remembers")
        self._follow(function.__wrapped__, name)

    def _follow_holder(self, holder: Any, name: str) -> None:
        """A function, class or module: guard the attributes that the code entered so far names. Of a class of the user's also
        what operators call; of torch's and other libraries' functions and classes nothing, but for tensors."""
        if kind_of_module(self._module_of(holder)) == USER:
            if isinstance(holder, type):
                self._follow(type(holder), type(holder).__qualname__)
            self._holders.append((holder, name, {k: self._draws.original(v) for k, v in vars(holder).items()}))
            for attribute in self._attributes:
                self._read_named(holder, name, attribute)
            for special in _specials(holder) if isinstance(holder, type) else ():
                self._read_named(holder, name, special)
        elif isinstance(holder, types.ModuleType) or holder is torch.Tensor:
            self._libraries.append((holder, name))
            for attribute in self._attributes & vars(holder).keys():
                self._read_of_library(holder, name, attribute)

    def _read_of_library(self, holder: Any, name: str, attribute: str) -> None:
        """Guard a function of a library's module, or a method of tensors, which a program may replace."""
        found = self._draws.original(vars(holder)[attribute])
        follow = isinstance(found, (types.ModuleType, types.FunctionType))
        self._read("item", self._vars(holder), attribute, found, f"{name}.{attribute}", follow=follow)

    def looked_up(self, holder: Any, attribute: str) -> None:
        """The run looks up an attribute of a class, function, module or tensor, by a name that it computed, or where there may be
        none."""
        if isinstance(holder, torch.Tensor):
            if id(holder) in self.tensors and not hasattr(type(holder), attribute):
                found = vars(holder).get(attribute, MISSING)
                self._read("item", vars(holder), attribute, found, f"{self.name_of(holder)}.{attribute}")
            return
        _, name = self._known.get(id(holder), (None, ""))
        if kind_of_module(self._module_of(holder)) == USER:
            self._read_named(holder, name or self._module_of(holder), attribute, missed=True)
        elif isinstance(holder, types.ModuleType) and attribute in vars(holder):
            self._read_of_library(holder, name or holder.__name__, attribute)

    def looked_through(self, holder: Any) -> None:
        """The run looks at all attributes of a class, function or module."""
        if isinstance(holder, torch.Tensor):
            return
        for place in holder.__mro__ if isinstance(holder, type) else (holder,):
            if kind_of_module(self._module_of(place)) == USER:
                self._read("keys", self._vars(place), None, tuple(vars(place)), f"{place.__name__}.__dict__")
                for attribute in vars(place):
                    self.looked_up(holder, attribute)

    def _read_named(self, holder: Any, name: str, attribute: str, missed: bool = False) -> None:
        """Guard an attribute of a function, class or module: where it was found, and where it is looked for before that.
        `missed`: also where it is missing."""
        missing = []
        for place in (*holder.__mro__, *type(holder).__mro__) if isinstance(holder, type) else (holder,):
            entries = self._vars(place)
            self._named.add(id(entries))
            if not entries and isinstance(place, types.FunctionType):  # as nearly all: one guard for all names
                self._bare[id(entries)] = entries, name
                self._read("size", entries, None, 0, f"{name}.__dict__")
                return
            if attribute in entries:
                self._read("item", entries, attribute, entries[attribute], f"{name}.{attribute}")
                break
            if kind_of_module(self._module_of(place)) == USER:
                missing.append(entries)
        else:
            if not missed and attribute not in self._perhaps_missing and not _falls_back(holder):
                return
        for entries in missing:
            self._read("item", entries, attribute, MISSING, f"{name}.{attribute}")

    @staticmethod
    def _module_of(holder: Any) -> str | None:
        return holder.__name__ if isinstance(holder, types.ModuleType) else holder.__module__

    def _vars(self, holder: Any) -> Any:
        """A holder's attributes; the same mapping each time (vars(cls) makes another one on every call)."""
        entries = self._mappings.setdefault(id(holder), vars(holder))
        if isinstance(holder, type):
            self._owners[id(entries)] = holder
        return entries

    def _follow_object(self, value: Any, name: str) -> None:
        cls = type(value)
        container = isinstance(value, CONTAINERS)
        if container:
            self._follow_contents(value, name)
            for kind, setting in ((defaultdict, "default_factory"), (deque, "maxlen")):
                if isinstance(value, kind):
                    self._read("attr", value, setting, getattr(value, setting), _join(name, setting))
            if cls.__module__ in ("builtins", "collections"):
                return
        original = original_of(value)
        if original is not None:
            self._follow(original, name)
        if kind_of_module(cls.__module__) == SMELT:
            self._follow(getattr(value, "__wrapped__", None), name)
            return
        if isinstance(value, Iterator) and not _open(cls):
            self.refuse(f"reads {name}, an iterator from outside the function", user_line())
            return
        if isinstance(value, BaseException) or kind_of_module(cls.__module__) == TORCH and not _open(cls):
            return
        if cls is types.SimpleNamespace or isinstance(value, threading.local):  # whose attribute access can't be watched
            attributes = functools.partial(vars, value)  # of each thread its own
            self._read("call", attributes, (), vars(value), _join(name, "__dict__"), follow=False)
            self._follow_contents(vars(value), name, name)
            for place in cls.__mro__:
                self._follow(place, place.__qualname__)
            return
        if cls.__module__.split(".")[0] in _UNCHANGING_MODULES:
            return
        if isinstance(value, numpy.ndarray) or not self._watch_class(cls):
            if not container:
                kind = f"{cls.__module__}.{cls.__qualname__}"
                self.refuse(f"reads {name}, an object of type {kind}, whose state can't be observed", user_line())
            return
        self._read("type", value, None, cls, name or "self", follow=False)
        for place in cls.__mro__:
            self._follow(place, place.__qualname__)
        if _dict_of(value) is not None:
            self._read("attr", value, "__dict__", _dict_of(value), _join(name, "__dict__"), follow=False)

    def _follow_class_of(self, t: torch.Tensor, name: str) -> None:
        """Attributes that the user has set on a tensor can't be observed: where there are any, all are guarded."""
        if _dict_of(t).keys() - {MARK}:
            self._follow_contents(_dict_of(t), f"attributes of {name}")

    def _follow_contents(self, container: Any, name: str, owner: str | None = None) -> None:
        """Guard everything a container holds. `owner`: the module, where the items are reached as its attributes."""
        self._items += len(container)
        if self._items > ITEM_LIMIT:
            self.refuse(f"reads {name}: more than {ITEM_LIMIT} items to guard", user_line())
            return
        self._known[id(container)] = container, name
        where = ("contents", id(container), None)
        if where in self.reads:
            return
        self.reads[where] = Read("contents", container, None, snapshot(container), name, user_line())
        for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            self._follow(key, f"a key of {name}")
            item = f"{name}[{key!r}]" if constant(key) else f"an item of {name}"
            self._follow(value, item if owner is None else _join(owner, str(key)))

    # Attributes

    def _watch_class(self, cls: type) -> bool:
        """Swap the attribute access of a class, for this run. False if the class doesn't allow it."""
        if cls in self._patched or (issubclass(cls, nn.Module) and cls.__getattribute__ is nn.Module.__getattribute__
                                    and nn.Module in self._patched):
            return True
        if not _open(cls):
            return False
        self._patched.add(cls)
        for name, make in (("__getattribute__", _getattribute), ("__setattr__", _setattr), ("__delattr__", _delattr)):
            before = vars(cls).get(name, MISSING)
            try:
                type.__setattr__(cls, name, make(self, getattr(cls, name)))
            except TypeError:
                return False
            self._patches.append((cls, name, before))
        return True

    def attribute_read(self, obj: Any, name: str) -> None:
        """The run read an attribute of any object of a watched class: guard where it was found, and where it wasn't."""
        known = self._known.get(id(obj))
        if known is None or name == "__class__":
            return
        if self.telling.hides(obj):
            return
        owner = known[1]
        subject = _join(owner, name)
        if name == "__dict__":
            if kind_of_file(sys._getframe(3).f_code.co_filename) != TORCH:
                self._follow_contents(_dict_of(obj), _join(owner, "__dict__"))
            return
        own = _dict_of(obj)
        found = self._class_attribute(type(obj), name)
        if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
            if isinstance(found, types.MemberDescriptorType):
                self._read("attr", obj, name, _slot(found, obj), subject)
            return
        if own is not None:
            if name in _TABLES and isinstance(obj, nn.Module):
                self._follow_contents(own[name], subject, owner)
            self._read("item", own, name, own.get(name, MISSING), subject)
            if name in own:
                if isinstance(own[name], (list, dict, deque)):
                    self._logs.loaded(own, name, sys._getframe(3))
                return
        if found is MISSING and isinstance(obj, nn.Module) and own is not None:
            for table in _TABLES:
                entries = own.get(table, MISSING)
                self._read("item", own, table, entries, _join(owner, table), follow=False)
                if entries is not MISSING:
                    self._read("item", entries, name, entries.get(name, MISSING), subject)
                    if name in entries:
                        return

    def _follow_unseen(self, obj: Any) -> None:
        """Guard all attributes of an object that code may read by object.__getattribute__, which can't be watched."""
        known, own = self._known.get(id(obj)), _dict_of(obj)
        if known is None or own is None or isinstance(obj, (type, types.ModuleType, types.FunctionType)):
            return
        self._follow_contents(own, _join(known[1], "__dict__"))
        for place in type(obj).__mro__:
            for name in vars(place) if kind_of_module(place.__module__) == USER else ():
                self._class_attribute(type(obj), name)

    def _class_attribute(self, cls: type, name: str) -> Any:
        """An attribute as the class and its bases have it; guards it, and that no class of the user's hides it."""
        for place in cls.__mro__:
            found = self._vars(place).get(name, MISSING)
            if place is object and found is MISSING:
                break
            if found is not MISSING or kind_of_module(place.__module__) == USER:
                if name not in _OURS:
                    self._surely.add(("item", id(self._vars(place)), name))
                    self._read("item", self._vars(place), name, found, f"{place.__qualname__}.{name}")
                if found is not MISSING:
                    return found
        return MISSING

    def attribute_written(self, obj: Any, name: str, deletes: bool) -> None:
        """The run is about to set or delete an attribute of any object of a watched class."""
        known = self._known.get(id(obj))
        if known is None:
            return
        subject, own = _join(known[1], name), _dict_of(obj)
        found = self._class_attribute(type(obj), name)
        if isinstance(found, types.MemberDescriptorType):
            before = getattr(obj, name, MISSING)
            if deletes:
                self._read("attr", obj, name, before, subject)
            self._touch("attr", obj, name, before, subject)
        elif hasattr(type(found), "__set__"):  # a property or the like: what it writes is seen when it does
            if not isinstance(found, property) and not isinstance(type(found).__set__, types.FunctionType):
                self.refuse(f"{'deletes' if deletes else 'sets'} {subject}", user_line())
        elif own is None:
            self.refuse(f"{'deletes' if deletes else 'sets'} {subject}", user_line())
        elif self._sets_plainly(type(obj)):
            self._touch_attribute(obj, own, name, subject, deletes)
        else:  # by code of the user's, which may set any
            self._follow_contents(own, _join(known[1], "__dict__"))

    def _touch_attribute(self, obj: Any, own: dict, name: str, subject: str, deletes: bool) -> None:
        tables = [own]
        if isinstance(obj, nn.Module):  # where a module puts an attribute depends on where it has one
            for table in _TABLES:
                entries = own.get(table, MISSING)
                self._read("item", own, table, entries, _join(subject, table), follow=False)
                if entries is not MISSING:
                    tables.append(entries)
        for entries in tables:
            if ("item", id(entries), name) not in self._touched and (deletes or entries is not own):
                found = ("has", True) if name in entries else ("item", MISSING)
                self._read(found[0], entries, name, found[1], subject, follow=False)
            self._touch("item", entries, name, entries.get(name, MISSING), subject)

    def _sets_plainly(self, cls: type) -> bool:
        """Whether attributes of a class are set by no code of the user's."""
        originals = {(c, name): before for c, name, before in reversed(self._patches)}
        for place in cls.__mro__:
            for name in ("__setattr__", "__delattr__"):
                found = originals.get((place, name), vars(place).get(name, MISSING))
                if found is not MISSING and place not in (object, nn.Module):
                    return False
        return True

    def watch(self, part: Callable, *args: Any) -> None:
        """Run a part of the observer inside the user's run, which nothing that goes wrong here may disturb."""
        if self.unsupported is not None or self.busy:
            return
        self.busy = True
        try:
            part(*args)
        except Exception as defect:
            self.refuse(f"internal error while observing: {type(defect).__name__}: {defect}", user_line())
        finally:
            self.busy = False

    # Functions entered

    def _profile(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if self.telling.goes_on(frame, event, arg):
            return
        if event == "c_call":
            if kind_of_file(frame.f_code.co_filename) != SMELT:
                self.watch(self._enter_c, frame, arg)
        elif event == "return":
            if frame.f_code is _APPLY and frame in self._applying:
                self._applying.remove(frame)
                self.watch(self.recorder.leave_function, arg)
        elif event == "call":
            kind = kind_of_file(frame.f_code.co_filename)
            if kind == USER:
                self.watch(self._enter_user, frame, frame.f_code)
            elif kind != SMELT:
                self.watch(self._enter_library, frame, frame.f_code)

    def _enter_user(self, frame: types.FrameType, code: types.CodeType) -> None:
        if self.telling.calls(frame):
            self.refuse(f"calls {code.co_qualname}() in order to print or log", user_line(frame.f_back))
        self.looks.enter(frame)
        key = id(code), id(frame.f_globals)
        if key not in self._entered and on_behalf_of_user(frame, trust_torch=False):
            self._entered[key] = code
            self._enter(frame, code)
        if key in self._entered and "__getattribute__" in code.co_names:
            for value in frame.f_locals.values():
                self._follow_unseen(value)
        if key in self._entered and any(name != "__class__" for name in code.co_freevars):
            self._enter_closure(frame, code)  # every time: another function may have the same code

    def _enter_library(self, frame: types.FrameType, code: types.CodeType) -> None:
        switch = _PYTHON_SWITCHES.get(code)
        if switch is not None:
            self._read_switch(switch)
            return
        if code in _ASKS_ABSTRACT_CLASSES and on_behalf_of_user(frame.f_back, trust_torch=True):
            self._read_registrations()
            return
        if code in _READS_ENVIRONMENT:
            if on_behalf_of_user(frame.f_back, trust_torch=True):
                self._follow(os.environ._data, "os.environ")
            return
        if code is _APPLY and self.recorder is not None and active_transform() is None:  # under which it is called again
            self._enter_apply(frame, frame.f_locals)
        what = python_effect(frame)
        if what and not self.telling.begins(frame):
            self.refuse(what, user_line(frame))

    def _read_registrations(self) -> None:
        token = abc.get_cache_token()
        self._read("call", abc.get_cache_token, (), token, "which classes are registered with abstract ones")

    def _enter_apply(self, frame: types.FrameType, called: dict[str, Any]) -> None:
        """A custom autograd.Function is called, perhaps one of the user's."""
        cls = called["cls"]
        if kind_of_module(cls.__module__) == USER:
            self._follow(cls, cls.__qualname__)
            self._applying.append(frame)
            self.recorder.enter_function(cls, called["args"], called["kwargs"])

    def _enter_c(self, frame: types.FrameType, function: Callable) -> None:
        if function in _C_SWITCHES:
            self._read_switch(function)
        what = c_effect(frame, function)
        if what and not self.telling.begins(frame, function):
            self.refuse(what, user_line(frame))

    def _read_switch(self, switch: Callable) -> None:
        self.reads.setdefault(("call", id(switch), ()), call_read(switch))

    def _enter(self, frame: types.FrameType, code: types.CodeType) -> None:
        """The user's code is entered: guard the globals and cells it names, at the values they have now."""
        names = frame.f_globals
        for name, number in globals_written(code):
            where = f"{code.co_filename}:{number}"
            self._touch("item", names, name, names.get(name, MISSING), f"global {name}", where, surely=False)
        for name in globals_named(code):
            self._surely.add(("item", id(names), name))
            self._read("item", names, name, names.get(name, MISSING), f"global {name}")
        self._inner.update(code_in(code))
        named = attributes_named(code) - _OURS  # which stand in for the class's own during the run
        self.read_flags |= "requires_grad" in named
        self._loaded |= attributes_loaded(code)
        for module in (*imports_named(code, names), *modules_named(code, names)):
            self._read("item", sys.modules, module, sys.modules[module], module)
        new = named - self._attributes
        self._attributes |= named
        self._perhaps_missing |= attributes_missed(code)
        for _, name, t in self._arguments.tensors if attributes_missed(code) else ():
            if not (own := vars(self._arguments.own(t))).keys() - {MARK}:
                self._read("size", own, None, len(own), f"attributes of {name}")
        for attribute in new:
            for holder, name, _ in list(self._holders):
                self._read_named(holder, name, attribute)
            for holder, name in list(self._libraries):
                if attribute in vars(holder):
                    self._read_of_library(holder, name, attribute)
        for attribute, number in attributes_written(code):
            self._written.setdefault(attribute, f"{code.co_filename}:{number}")
        self._where = self._where or f"{code.co_filename}:{code.co_firstlineno}"
        self._logs.entered(code, names, {})
        self._draws.enter(code, names)
        self._lookups.enter(code)
        self.telling.enter(code)

    def draw(self, draw: Draw) -> Any:
        """The user's code draws a number: what the run gets for it."""
        self.busy, before = True, _random_states()
        try:
            answer = self.recorder.take(draw)
            if before == self._random:  # nothing else drew since
                self._random = _random_states()
        finally:
            self.busy = False
        return self.recorder.drawn(draw, answer)

    def outside_draw(self, name: str, frame: types.FrameType) -> None:
        """A library draws for the user."""
        self.refuse(f"calls {name}()", user_line(frame))

    def _enter_closure(self, frame: types.FrameType, code: types.CodeType) -> None:
        """Guard the cells of the function that runs this code. Which one it is shows by what is in them: it may be several."""
        values, known = frame.f_locals, self._functions.setdefault(code, [])
        found = [f for f in known if _runs(f, values)]
        if not found:
            found = [f for f in self._search(code) if _runs(f, values)]
            known += found
        for function in found:
            cells = dict(zip(code.co_freevars, function.__closure__ or ()))
            self._cells |= {id(cells[name]) for name in cells_loaded(code)}
            for name, cell in cells.items():
                if name != "__class__":
                    self._read("attr", cell, "cell_contents", _content(cell), f"closure {name}")
            self._logs.entered(code, frame.f_globals, cells)
        if not found and code not in self._inner:
            self.refuse(f"runs {code.co_qualname}, whose closure can't be followed", user_line(frame))

    def _search(self, code: types.CodeType) -> list[types.FunctionType]:
        """The functions with this code that the run reached on a way that isn't observed (operators, super())."""
        if code in self._inner:
            return []
        return [f for f in referrers([code]) if isinstance(f, types.FunctionType)]


_APPLY = torch.autograd.Function.apply.__func__.__code__
_PYTHON_SWITCHES = {f.__code__: f for f in SWITCHES if isinstance(f, types.FunctionType)}
_C_SWITCHES = [f for f in SWITCHES if not isinstance(f, types.FunctionType)]
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
_TABLES = ("_parameters", "_buffers", "_modules")  # where a module keeps what its __getattr__ finds
#: Functions that only read environment variables: all of these are guarded then.
_READS_ENVIRONMENT = {function.__code__ for function in (
    os.getenv, os.environ.__getitem__, os.environ.__iter__, os.environ.__len__, os.environ.encodekey, os.environ.encodevalue,
    os.environ.decodekey, os.environ.decodevalue)}
_DISPATCHES = functools.singledispatch(len).__code__
#: What tells whether a class is registered with an abstract one.
_ASKS_ABSTRACT_CLASSES = {abc.ABCMeta.__instancecheck__.__code__, abc.ABCMeta.__subclasscheck__.__code__}
_OURS = {"__getattribute__", "__setattr__", "__delattr__"}


def _open(cls: type) -> bool:
    """Whether a class allows its attributes to be set: made by Python code, and not by torch's in C++."""
    bound = type(cls).__module__ == "pybind11_builtins" and kind_of_module(cls.__module__) == TORCH
    return bool(cls.__flags__ & _HEAP) and not cls.__flags__ & _IMMUTABLE and not bound


def _getattribute(observer: Observer, original: Callable) -> Callable:
    @passing
    def __getattribute__(self, name):
        if get_ident() == observer.thread and not observer.busy:
            with unprofiled():
                observer.watch(observer.attribute_read, self, name)
        return original(self, name)
    return __getattribute__


def _setattr(observer: Observer, original: Callable) -> Callable:
    @passing
    def __setattr__(self, name, value):
        if get_ident() == observer.thread:
            with unprofiled():
                observer.watch(observer.attribute_written, self, name, False)
        original(self, name, value)
    return __setattr__


def _delattr(observer: Observer, original: Callable) -> Callable:
    @passing
    def __delattr__(self, name):
        if get_ident() == observer.thread:
            with unprofiled():
                observer.watch(observer.attribute_written, self, name, True)
        original(self, name)
    return __delattr__


def _join(owner: str, attribute: str) -> str:
    return f"{owner}.{attribute}" if owner else attribute


def _dict_of(obj: Any) -> dict | None:
    """An object's attributes, past any `__getattribute__` of its class."""
    try:
        return object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None


def _runs(function: types.FunctionType, values: dict[str, Any]) -> bool:
    """Whether a frame with these variables may be one of the function."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return all(_content(cell) is values.get(name, MISSING) for name, cell in cells)


def _falls_back(holder: Any) -> bool:
    """Whether code of the user's gives the attributes that a class or module has not."""
    return hasattr(type(holder), "__getattr__") or isinstance(holder, types.ModuleType) and "__getattr__" in vars(holder)


def _slot(member: types.MemberDescriptorType, obj: Any) -> Any:
    try:
        return member.__get__(obj)
    except AttributeError:
        return MISSING


def _specials(cls: type) -> list[str]:
    """The methods of a class that Python calls without naming them: operators, descriptors, context managers."""
    return [name for name, value in vars(cls).items()
            if name.startswith("__") and isinstance(value, types.FunctionType) and name not in _OURS]


def _is_small_array(value: Any) -> bool:
    return type(value) is numpy.ndarray and value.dtype.kind in "biufc" and value.size <= LARGEST_ARRAY


def _elements(array: numpy.ndarray) -> tuple:
    """What an array holds, and how it is laid out."""
    return array.dtype.str, array.shape, array.strides, array.flags.writeable, array.tobytes()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _random_states() -> tuple:
    """The states of Python's and NumPy's global generators, to compare."""
    kind, keys, *rest = NUMPY.get()
    return PYTHON.get(), kind, keys.tobytes(), *rest
