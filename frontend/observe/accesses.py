"""Attributes that a run reads and sets.

Those of instances are seen: `__getattribute__`, `__setattr__` and `__delattr__` of the classes reached have stand-ins during
the run.
Those of classes, functions, modules and tensors are guarded where code names them, and seen where it computes their names
(lookups.py).
"""
from __future__ import annotations

import random
import sys
import types
from collections import deque
from threading import get_ident
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn

from ..guard.guards import MISSING
from ..guard.structure import slots_of
from .objects import OURS, dict_of, is_open, join, slot
from .places import TORCH, USER, kind_of, kind_of_file, passing, user_line
from .profiling import unprofiled
from .reached import Reached

if TYPE_CHECKING:
    from .observer import Observer

#: Methods that every object has, and that read all of it.
_WHOLE = {"__reduce__", "__reduce_ex__", "__getstate__"}
_TABLES = ("_parameters", "_buffers", "_modules")  # where a module keeps what its __getattr__ finds


class Accesses:
    """The stand-ins of one run, and what they see. `watch` puts them into a class, `restore` ends it."""

    def __init__(self, observer: Observer, reached: Reached):
        self._observer = observer
        self._reached = reached
        self._patches: list[tuple[type, str, Any]] = []
        self._patched: set[type] = set()
        self._shown: list[Any] = []  # the classes of which code looks through `__dict__`; MISSING for any
        self._unseen: set[type] = set()  # whose attributes are all guarded, see follow_unseen

    def restore(self) -> None:
        for cls, name, before in reversed(self._patches):
            if before is MISSING:
                type.__delattr__(cls, name)
            else:
                type.__setattr__(cls, name, before)
        self._patches.clear()

    def looked_up(self, holder: Any, attribute: str) -> None:
        """The run looks up an attribute of a class, function, module or tensor, by a name that it computed, or where there may be
        none."""
        if isinstance(holder, torch.Tensor):
            if id(holder) in self._reached.tensors and not hasattr(type(holder), attribute):
                found = vars(holder).get(attribute, MISSING)
                self._reached.read("item", vars(holder), attribute, found, f"{self._observer.name_of(holder)}.{attribute}")
            return
        _, name = self._reached.known.get(id(holder), (None, ""))
        if kind_of(holder) == USER:
            self._reached.read_named(holder, name or holder.__name__, attribute, missed=True)
        elif isinstance(holder, types.ModuleType) and attribute in vars(holder):
            self._reached.read_of_library(holder, name or holder.__name__, attribute)

    def own(self, cls: type) -> types.MappingProxyType:
        """What vars(cls) gives without stand-ins."""
        before = {name: value for c, name, value in self._patches if c is cls}
        found = {name: before.get(name, value) for name, value in cls.__dict__.items()}
        return types.MappingProxyType({name: value for name, value in found.items() if value is not MISSING})

    def show(self, cls: Any, where: str) -> None:
        """Code is about to look through the `__dict__` of a class, or for MISSING perhaps of any: it sees no stand-ins."""
        self._shown.append(cls)
        if any(self._is_shown(patched) for patched, _, _ in self._patches):
            self.restore()
            what = "what may be a class" if cls is MISSING else cls.__name__
            self._observer.refuse(f"looks through the __dict__ of {what}", where)

    def _is_shown(self, cls: type) -> bool:
        return any(c is MISSING or c is cls for c in self._shown)

    def looked_through(self, holder: Any) -> None:
        """The run looks at all attributes of a class, function or module."""
        if isinstance(holder, torch.Tensor):
            return
        for place in holder.__mro__ if isinstance(holder, type) else (holder,):
            if kind_of(place) == USER:
                ours = {name for cls, name, before in self._patches if cls is place and before is MISSING}
                names = tuple(name for name in vars(place) if name not in ours)
                self._reached.read("keys", self._reached.vars_of(place), None, names, f"{place.__name__}.__dict__")
                for attribute in set(names) - OURS - {"__dict__", "__builtins__"}:  # which are guarded where code uses them
                    self.looked_up(holder, attribute)

    def watch(self, cls: type) -> bool:
        """Swap the attribute access of a class, for this run. False if the class doesn't allow it."""
        if cls in self._patched or (issubclass(cls, nn.Module) and cls.__getattribute__ is nn.Module.__getattribute__
                                    and nn.Module in self._patched):
            return True
        if not is_open(cls) or self._is_shown(cls):
            return False
        self._patched.add(cls)
        for name, make in (("__getattribute__", _getattribute), ("__setattr__", _setattr), ("__delattr__", _delattr)):
            before = vars(cls).get(name, MISSING)
            if before is not MISSING and kind_of(cls) == USER:
                self._reached.read("item", self._reached.vars_of(cls), name, before, f"{cls.__qualname__}.{name}")
            try:
                draws = cls is random.Random and name == "__getattribute__"
                original = self._observer.draws.of_own if draws else getattr(cls, name)
                type.__setattr__(cls, name, make(self._observer, original))
            except TypeError:
                return False
            self._patches.append((cls, name, before))
        return True

    def read(self, obj: Any, name: str, frame: types.FrameType | None = None) -> None:
        """The run read an attribute of any object of a watched class, in this frame: guard where it was found, and where it
        wasn't."""
        frame = frame or sys._getframe(3)
        known = self._reached.known.get(id(obj))
        if known is None or name == "__class__":
            return
        if self._observer.telling.hides(obj):
            return
        owner = known[1]
        subject = join(owner, name)
        if name == "__dict__":
            if kind_of_file(frame.f_code.co_filename) != TORCH:
                self._reached.follow_contents(dict_of(obj), join(owner, "__dict__"))
            return
        own = dict_of(obj)
        found = self._reached.class_attribute(type(obj), name)
        if name in _WHOLE:
            self.follow_unseen(obj)
        if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
            if isinstance(found, types.MemberDescriptorType):
                value = slot(found, obj)
                self._reached.read("attr", obj, name, value, subject)
                self._observer.telling.looks_into(value, self._reached.set("attr", id(obj), name), frame)
            return
        if own is not None:
            if name in _TABLES and isinstance(obj, nn.Module):
                self._reached.follow_contents(own[name], subject, owner)
            self._reached.read("item", own, name, own.get(name, MISSING), subject)
            if name in own:
                self._observer.telling.looks_into(own[name], self._reached.set("item", id(own), name), frame)
                if isinstance(own[name], (list, dict, deque)):
                    self._observer.logs.loaded(own, name, frame)
                return
        if found is MISSING and isinstance(obj, nn.Module) and own is not None:
            for table in _TABLES:
                entries = own.get(table, MISSING)
                self._reached.read("item", own, table, entries, join(owner, table), follow=False)
                if entries is not MISSING:
                    self._reached.read("item", entries, name, entries.get(name, MISSING), subject)
                    if name in entries:
                        return

    def follow_unseen(self, obj: Any) -> None:
        """Guard all attributes of an object that code may read by object.__getattribute__, or in C, which can't be watched."""
        known, own = self._reached.known.get(id(obj)), dict_of(obj)
        if known is None or isinstance(obj, (type, types.ModuleType, types.FunctionType)):
            return
        for name in slots_of(type(obj)):
            member = self._reached.class_attribute(type(obj), name)
            if isinstance(member, types.MemberDescriptorType):
                self._reached.read("attr", obj, name, slot(member, obj), join(known[1], name))
        if own is not None:
            self._reached.follow_contents(own, join(known[1], "__dict__"))
        if type(obj) in self._unseen:
            return
        self._unseen.add(type(obj))
        for place in type(obj).__mro__:
            for name in vars(place) if kind_of(place) == USER else ():
                self._reached.class_attribute(type(obj), name)

    def written(self, obj: Any, name: str, deletes: bool) -> None:
        """The run is about to set or delete an attribute of any object of a watched class."""
        known = self._reached.known.get(id(obj))
        if known is None:
            return
        subject, own = join(known[1], name), dict_of(obj)
        found = self._reached.class_attribute(type(obj), name)
        if isinstance(found, types.MemberDescriptorType):
            before = getattr(obj, name, MISSING)
            if deletes:
                self._reached.read("attr", obj, name, before, subject)
            self._reached.touch("attr", obj, name, before, subject)
        elif hasattr(type(found), "__set__"):  # a property or the like: what it writes is seen when it does
            if not isinstance(found, property) and not isinstance(type(found).__set__, types.FunctionType):
                self._observer.refuse(f"{'deletes' if deletes else 'sets'} {subject}", user_line())
        elif own is None:
            self._observer.refuse(f"{'deletes' if deletes else 'sets'} {subject}", user_line())
        elif self._sets_plainly(type(obj)):
            self._touch_attribute(obj, own, name, subject, deletes)
        else:  # by code of the user's, which may set any
            self._reached.follow_contents(own, join(known[1], "__dict__"))

    def _touch_attribute(self, obj: Any, own: dict, name: str, subject: str, deletes: bool) -> None:
        tables = [own]
        if isinstance(obj, nn.Module):  # where a module puts an attribute depends on where it has one
            for table in _TABLES:
                entries = own.get(table, MISSING)
                self._reached.read("item", own, table, entries, join(subject, table), follow=False)
                if entries is not MISSING:
                    tables.append(entries)
        for entries in tables:
            if ("item", id(entries), name) not in self._reached.touched and (deletes or entries is not own):
                found = ("has", True) if name in entries else ("item", MISSING)
                self._reached.read(found[0], entries, name, found[1], subject, follow=False)
            self._reached.touch("item", entries, name, entries.get(name, MISSING), subject)

    def _sets_plainly(self, cls: type) -> bool:
        """Whether attributes of a class are set by no code of the user's."""
        originals = {(c, name): before for c, name, before in reversed(self._patches)}
        for place in cls.__mro__:
            for name in ("__setattr__", "__delattr__"):
                found = originals.get((place, name), vars(place).get(name, MISSING))
                if found is not MISSING and place not in (object, nn.Module):
                    return False
        return True


def _getattribute(observer: Observer, original: Callable) -> Callable:
    @passing
    def __getattribute__(self, name):
        if get_ident() == observer.thread and not observer.busy:
            with unprofiled():
                observer.watch(observer.accesses.read, self, name)
        return original(self, name)
    return __getattribute__


def _setattr(observer: Observer, original: Callable) -> Callable:
    @passing
    def __setattr__(self, name, value):
        if get_ident() == observer.thread:
            with unprofiled():
                observer.watch(observer.accesses.written, self, name, False)
        original(self, name, value)
    return __setattr__


def _delattr(observer: Observer, original: Callable) -> Callable:
    @passing
    def __delattr__(self, name):
        if get_ident() == observer.thread:
            with unprofiled():
                observer.watch(observer.accesses.written, self, name, True)
        original(self, name)
    return __delattr__
