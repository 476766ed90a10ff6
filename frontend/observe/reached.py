"""The state that a run came by: each piece of it becomes a read, to be guarded.

Objects are followed from the function and its arguments on: into functions, classes, modules, containers and instances, as
deep as the run may look. What can be observed later (attributes of instances) is left to accesses.py.
"""
from __future__ import annotations

import abc
import decimal
import functools
import operator
import random
import sys
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Generic, Iterable

import numpy
import torch
from torch.nn.parameter import is_lazy

from ..guard.guards import CONTAINERS, MISSING, SINGLETONS, VALUE_TYPES, Read, constant, ordered, snapshot, takes_attributes
from ..guard.memo import Memo
from ..guard.structure import Arguments
from ..guard.writes import unchanged
from ..modules import original_of
from ..symbolic.arrays import Array
from ..symbolic.symbols import is_symbolic, noted
from ..symbolic.varying import MARK
from ..torch_internals import OpOverload, OpPacket
from .locks import LOCKS
from .objects import OURS, OURS_OF_TENSORS, content, dict_of, is_open, join
from .places import SMELT, TORCH, USER, innermost_of_others, kind_of, kind_of_file, user_line

if TYPE_CHECKING:
    from .observer import Observer

#: A run may read containers of this many items in all; what holds more can't be guarded in reasonable time.
ITEM_LIMIT = 20_000

#: Elements of the largest array of NumPy's that is guarded by what it holds, unless it is an argument: data of each call's own.
LARGEST_ARRAY = 256

_UNCHANGING = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType,
               types.GetSetDescriptorType, types.MemberDescriptorType, numpy.ufunc, type(numpy.mean), numpy.dtype, numpy.generic,
               type(namedtuple("_", "field").field), OpOverload, OpPacket, *SINGLETONS)
#: Modules whose types have no state that a program could change, or none that it could see.
_UNCHANGING_MODULES = {"re", "typing", "types", "operator", "decimal", "datetime", "fractions", "pathlib", "uuid", "enum", "abc",
                       "_thread", "_collections", "inspect", "zoneinfo", "__future__"}
#: Classes made in C whose instances hold nothing but attributes, or what is observed otherwise, or what never changes.
_PLAIN_BASES = {object, tuple, int, float, complex, str, bytes, list, dict, set, frozenset, deque, defaultdict, OrderedDict,
                types.SimpleNamespace, types.ModuleType, threading.local, Generic, *random.Random.__mro__}
#: Attributes that can be set and stand in no dict.
_OUTSIDE_DICTS = {types.FunctionType: {"__name__", "__qualname__", "__doc__", "__module__", "__annotations__"},
                  type: {"__name__", "__qualname__"}}
#: Attributes that are looked for in another way.
_ANYWHERE = {"__closure__", "__dict__", *_OUTSIDE_DICTS[types.FunctionType], *_OUTSIDE_DICTS[type]}
#: Attributes of classes that Python itself reads only where code names them.
_UNREAD = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__orig_bases__",
           "__parameters__", "__firstlineno__", "__static_attributes__", "__dataclass_fields__", "__dataclass_params__",
           "__slots__", "__type_params__", "__slotnames__"}
#: Callables made in C that can be given attributes.
_CALLABLES = (functools.partial, functools._lru_cache_wrapper, staticmethod, classmethod)
_DISPATCHES = functools.singledispatch(len).__code__


class Reached:
    """What one run came by. `reads` has the state to guard, by its place, in the order found."""

    def __init__(self, observer: Observer, arguments: Arguments):
        self._observer = observer
        self._arguments = arguments
        self.reads: dict[tuple, Read] = {}
        #: places where the run wrote, or may have, as they were before -> whether it surely did
        self.touched: dict[tuple, tuple[Read, bool]] = {}
        self.tensors: dict[int, tuple[str, torch.Tensor]] = {}  # every tensor, with its name
        self.known: dict[int, tuple[Any, str]] = {}  # every other object, with its name
        self.functions: dict[types.CodeType, list[types.FunctionType]] = {}
        #: functions, classes and modules of the user, with their attributes before the run
        self.holders: list[tuple[Any, str, dict]] = []
        #: modules of libraries, and torch.Tensor
        self.libraries: list[tuple[Any, str]] = []
        self.tagged: list[tuple[str, torch.Tensor, dict]] = []  # tensors, with the attributes that they had, unless guarded
        self.attributes: set[str] = set()  # those that the code entered names
        self.perhaps_missing: set[str] = set()  # those that code may look for where they are not: by getattr
        self.surely: set[tuple] = set()  # places in dicts of attributes that were read, and not only named
        self.named: set[int] = set()  # these dicts, of functions, classes and modules
        self.variables: list[ContextVar] = []
        self.memos: list[Memo] = []  # what functions remember
        #: weak references, whether they led to something, their names and the user's lines
        self._weak: list[tuple[weakref.ref, bool, str, str]] = []
        self._bare: dict[int, tuple[dict, str]] = {}  # the attributes of functions that have none
        self._mappings: dict[int, Any] = {}
        self._names: dict[int, AbstractSet[str]] = {}  # by the id of the class; see _names_in
        self._lacking: dict[int, tuple[Any, str, set[str]]] = {}  # mappings of attributes, names, and what they have not
        self._owners: dict[int, type] = {}  # the classes that these mappings are of
        self._items = 0
        self._closed: set[int] = set()  # sets whose items were not followed

    def forget(self, values: Iterable) -> None:
        """Hold these no longer."""
        for value in values:
            self.known.pop(id(value), None)

    def touch(self, kind: str, holder: Any, key: Any, before: Any, subject: str, where: str = "", surely: bool = True) -> None:
        """The run is about to write to a place, surely or perhaps."""
        read = Read(kind, holder, key, noted(before), subject, where or user_line())
        known, sure = self.touched.get(read.found_at, (read, False))
        self.touched[read.found_at] = known, sure or surely
        if surely:
            self._observer.applied.touched(subject)

    def read(self, kind: str, holder: Any, key: Any, expected: Any, subject: str, follow: bool = True) -> None:
        """Guard one piece of state, and follow the value found there."""
        where = (kind, id(holder), key)
        self._observer.applied.found(expected, subject)
        if where in self.reads or self._changed(where, holder):
            return  # known, or the run's own
        self.reads[where] = Read(kind, holder, key, noted(expected), subject, user_line())
        if follow and expected is not MISSING:
            self.follow(expected, subject)

    def set(self, kind: str, holder: int, key: Any) -> bool:
        """Whether the run has set an attribute, by the id of its holder, to something else than was there."""
        touched, _ = self.touched.get((kind, holder, key), (None, False))
        return touched is not None and not unchanged(touched.now(), touched.expected)

    def _changed(self, where: tuple, holder: Any) -> bool:
        """Whether the run has put something else in a place than was there."""
        if where in self.touched:
            return self.set(*where)
        kind, _, key = where
        if kind == "item" and id(holder) in self._lacking and key in self._lacking[id(holder)][2]:
            return key in holder
        contents = self.reads.get(("contents", id(holder), None)) if kind == "item" and isinstance(holder, dict) else None
        return contents is not None and not unchanged(ordered(holder).get(holder, key, MISSING), contents.expected.at(key))

    def follow(self, value: Any, name: str) -> None:
        """Note an object from outside the run, and observe what can be observed of it from here on."""
        self._observer.logs.reached(value)
        if isinstance(value, torch.Tensor):
            self._follow_tensor(value, name)
            return
        if isinstance(value, (Enum, *VALUE_TYPES)):
            self._follow_value(value, name)
        self.open(value, name)
        if id(value) in self.known or constant(value) or is_symbolic(value) or type(value) is Array:
            return
        self.known[id(value)] = value, name
        if isinstance(value, _CALLABLES):  # whose attribute access can't be watched
            self.follow_contents(vars(value), f"attributes of {name}", name)
        if _is_decimal(value):
            self.read("call", _decimals, (), _decimals(), "decimal's context")
        if not isinstance(value, _UNCHANGING) and type(value) is not object:
            way = next((way for kinds, way in _WAYS.items() if isinstance(value, kinds)), Reached._follow_object)
            way(self, value, name)

    def _follow_tensor(self, t: torch.Tensor, name: str) -> None:
        if is_lazy(t):
            self._observer.refuse(f"reads {name}, which has no shape yet", user_line())
            return
        known = self.tensors.get(id(t))
        if known is None:
            known = self.tensors[id(t)] = name, t
            self.tagged += [] if dict_of(t) else [(name, t, {})]
            self.follow_class_of(t, name)
        if len(name) < len(known[0]):  # a parameter is better known by its module than by an optimiser
            self.tensors[id(t)] = name, t

    def _follow_value(self, value: Any, name: str) -> None:
        """Numbers, text and the like, and members of enumerations: their classes may be the user's."""
        if is_open(type(value)):
            if isinstance(value, Enum):
                self.follow_contents(vars(value), name)
            for place in type(value).__mro__:
                self.follow(place, place.__qualname__)
        if isinstance(value, tuple) and constant(value):
            self._follow_items(value, name)

    def _follow_items(self, value: tuple, name: str) -> None:
        for i, item in enumerate(value):
            self.follow(item, f"{name}[{i}]")

    def _follow_tuple(self, value: tuple, name: str) -> None:
        self._follow_items(value, name)
        if takes_attributes(value):
            self._follow_object(value, name)

    def _follow_method(self, method: types.MethodType, name: str) -> None:
        self.follow(method.__func__, name)
        self.follow(method.__self__, f"{name}.__self__")

    def _follow_bound(self, method: types.BuiltinFunctionType | types.MethodWrapperType, name: str) -> None:
        """A function made in C, which may be bound to an object."""
        if not isinstance(method.__self__, (type, types.ModuleType)):
            self.follow(method.__self__, f"{name}.__self__")

    def _follow_partial(self, partial: functools.partial, name: str) -> None:
        for part in ("func", "args", "keywords"):
            self.read("attr", partial, part, getattr(partial, part), f"{name}.{part}")

    def _follow_wrapped(self, method: staticmethod | classmethod, name: str) -> None:
        self.follow(method.__func__, name)

    def _follow_property(self, value: property, name: str) -> None:
        for function in (value.fget, value.fset, value.fdel):
            self.follow(function, name)

    def _follow_weak(self, reference: weakref.ref, name: str) -> None:
        self._weak.append((reference, reference() is not None, name, user_line()))

    def _follow_variable(self, variable: ContextVar, name: str) -> None:
        self.variables.append(variable)
        found = functools.partial(variable.get, MISSING)
        self.read("call", found, (), found(), name)

    def _follow_array(self, array: numpy.ndarray, name: str) -> None:
        if _is_small_array(array) and all(array is not given for _, given in self._arguments.objects):
            elements = functools.partial(_elements, array)
            self.read("call", elements, (), elements(), f"what {name} holds")
        else:
            self._follow_object(array, name)

    def _follow_getter(self, getter: Any, name: str) -> None:
        """What operator.attrgetter and the like made names attributes, as code does, and may hold arguments."""
        _, made = getter.__reduce__()[:2]
        self.follow(made, name)
        if not isinstance(getter, operator.itemgetter):
            texts = made if isinstance(getter, operator.attrgetter) else made[:1]
            self.name_attributes({part for text in texts for part in text.split(".")})

    def name_attributes(self, names: AbstractSet[str]) -> None:
        """Code may read or set attributes of these names, of whatever object."""
        new = names - self.attributes
        self.attributes |= names
        if not new:
            return
        for holder, name, _ in list(self.holders):
            for attribute in self._perhaps_in(holder, new):
                self.read_named(holder, name, attribute)
        for holder, name in list(self.libraries):
            for attribute in new & vars(holder).keys():
                self.read_of_library(holder, name, attribute)

    def _perhaps_in(self, holder: Any, names: AbstractSet[str]) -> AbstractSet[str]:
        """Of these names, those that a function, class or module may have, or is to be guarded not to have."""
        if _falls_back(holder):
            return names
        own = self._names_in(holder) if isinstance(holder, type) else self.vars_of(holder).keys()
        if not own and isinstance(holder, types.FunctionType):
            return names & _ANYWHERE
        return (names & own) | (names & self.perhaps_missing) | (names & _ANYWHERE)

    def _note_bare(self, function: types.FunctionType, name: str) -> None:
        """A function has no attributes, as nearly all: one guard for all names."""
        entries = self.vars_of(function)
        self.named.add(id(entries))
        self._bare[id(entries)] = entries, name
        self.read("size", entries, None, 0, f"{name}.__dict__")

    def name_attributes_set(self) -> None:
        """Of functions that had no attributes and were given some: let the reads be of names."""
        for entries, name in self._bare.values():
            if entries and self.reads.pop(("size", id(entries), None), None):
                for attribute in self.attributes & self.perhaps_missing:
                    missing = Read("item", entries, attribute, MISSING, f"{name}.{attribute}", self._observer.entered.where)
                    self.reads.setdefault(missing.found_at, missing)

    def read_weak(self) -> None:
        """Guard what weak references lead to. What a run came by through these alone it would keep alive by its guards."""
        for reference, alive, name, where in self._weak:
            found = reference()
            if not alive or self._observer.found(found) or id(found) in self.tensors:
                self.read("call", reference, (), found, name)
            else:
                self._observer.refuse(f"reads {name}, a weak reference to what nothing else led to", where)

    def read_sizes(self) -> None:
        """Guard that the user's classes have no more attributes than after the run: any may be one that Python looks for."""
        for holder, name, _ in self.holders:
            if isinstance(holder, type):
                self.reads.setdefault(("size", id(self.vars_of(holder)), None), Read(
                    "size", self.vars_of(holder), None, len(vars(holder)), f"attributes of {name}"))

    def owned(self, read: Read) -> Read:
        """A read of a class's attributes as one of the class, which lets them be set."""
        owner = self._owners.get(id(read.holder))
        return read if owner is None else replace(read, kind="attr", holder=owner)

    def _follow_function(self, function: types.FunctionType, name: str) -> None:
        if function.__code__ is _DISPATCHES:
            self._follow_dispatcher(function, name)
        if kind_of_file(function.__code__.co_filename) != USER:
            wrapped = getattr(function, "__wrapped__", None)
            if wrapped is not None:
                self.follow(wrapped, name)
                self._follow_holder(function, name)
            return
        self.functions.setdefault(function.__code__, []).append(function)
        self.read("attr", function, "__code__", function.__code__, f"{name}.__code__", follow=False)
        self.read("attr", function, "__defaults__", function.__defaults__, f"{name}.__defaults__")
        if function.__kwdefaults__:
            self.read("attr", function, "__kwdefaults__", function.__kwdefaults__, f"{name}.__kwdefaults__")
        self._follow_holder(function, name)

    def _follow_dispatcher(self, function: Callable, name: str) -> None:
        """A function made by functools.singledispatch: guard what is registered with it, for which classes."""
        known = function.dispatch.__closure__[function.dispatch.__code__.co_freevars.index("registry")].cell_contents
        self.follow_contents(known, f"what is registered with {name}")
        if any(isinstance(cls, abc.ABCMeta) for cls in known):
            self.read_registrations()

    def _follow_memo(self, function: Any, name: str) -> None:
        """A function that remembers its results: a call that it answers from memory is a read of what it remembers."""
        if kind_of(function) == USER:
            memo = Memo(function)
            self.memos.append(memo)
            self.read("call", memo.kept, (), True, f"whether {name} remembers the same")
            self.follow((memo.keys, memo.results), f"what {name} remembers")
        self.follow(function.__wrapped__, name)

    def _follow_holder(self, holder: Any, name: str) -> None:
        """A function, class or module: guard the attributes that the code entered so far names. Of a class of the user's also
        what operators call; of torch's and other libraries' functions and classes nothing, but for tensors."""
        if kind_of(holder) == USER:
            if isinstance(holder, type):
                self.follow(type(holder), type(holder).__qualname__)
                self.read("attr", holder, "__mro__", holder.__mro__, f"{name}.__mro__", follow=False)
            before = self._observer.conversions.without(vars(holder))
            self.holders.append((holder, name, {k: self._observer.functions.original(v) for k, v in before.items()}))
            if isinstance(holder, types.FunctionType) and not vars(holder):
                self._note_bare(holder, name)
            for attribute in self._perhaps_in(holder, self.attributes):
                self.read_named(holder, name, attribute)
            for special in _specials(holder) if isinstance(holder, type) else ():
                self.read_named(holder, name, special)
            if isinstance(holder, types.ModuleType):
                self.read_named(holder, name, "__getattr__", missed=True)
                if type(holder) is not types.ModuleType:
                    self._follow_object(holder, name)
        elif isinstance(holder, types.ModuleType) or holder is torch.Tensor:
            self.libraries.append((holder, name))
            for attribute in self.attributes & vars(holder).keys():
                self.read_of_library(holder, name, attribute)

    def read_of_library(self, holder: Any, name: str, attribute: str) -> None:
        """Guard a function of a library's module, or a method of tensors, which a program may replace."""
        if holder is torch.Tensor and attribute in OURS_OF_TENSORS:
            return
        found = self._observer.functions.original(vars(holder)[attribute])
        follow = isinstance(found, (types.ModuleType, types.FunctionType)) or holder is sys and isinstance(found, list)
        self.read("item", self.vars_of(holder), attribute, found, f"{name}.{attribute}", follow=follow)

    def read_named(self, holder: Any, name: str, attribute: str, missed: bool = False) -> None:
        """Guard an attribute of a function, class or module: where it was found, and where it is looked for before that.
        `missed`: also where it is missing."""
        if attribute in _ANYWHERE and attribute in _outside_dict(holder):
            self.read("attr", holder, attribute, getattr(holder, attribute), f"{name}.{attribute}")
            return
        if attribute == "__closure__" and isinstance(holder, types.FunctionType):
            for cell in holder.__closure__ or ():
                self.read("attr", cell, "cell_contents", content(cell), f"{name}.__closure__")
            return
        if attribute == "__dict__" and isinstance(holder, (types.FunctionType, type)):
            self._observer.accesses.looked_through(holder)
            return
        missed = missed or attribute in self.perhaps_missing or _falls_back(holder)
        if isinstance(holder, type) and not missed and attribute not in self._names_in(holder):
            return
        missing = []
        for place in _places(holder):
            entries = self.vars_of(place)
            self.named.add(id(entries))
            if not entries and isinstance(place, types.FunctionType):
                self._note_bare(place, name)
                return
            if attribute in entries:
                self.read("item", entries, attribute, entries[attribute], f"{name}.{attribute}")
                break
            if kind_of(place) == USER:
                missing.append(entries)
        else:
            if not missed:
                return
        for entries in missing:
            self._lacks(entries, name, attribute)

    def _lacks(self, entries: Any, name: str, attribute: str) -> None:
        """Guard that one of a holder's mappings has not this attribute: with others, by one read once the run is over."""
        _, _, lacking = self._lacking.setdefault(id(entries), (entries, name, set()))
        if attribute not in lacking and not self._changed(("item", id(entries), attribute), entries):
            lacking.add(attribute)

    def read_lacking(self) -> None:
        """Make reads of what was found to be missing: of names that the run set, each its own."""
        for entries, name, lacking in self._lacking.values():
            for attribute in filter(entries.__contains__, lacking):
                missing = Read("item", entries, attribute, MISSING, f"{name}.{attribute}", self._observer.entered.where)
                self.reads.setdefault(missing.found_at, missing)
            read = Read("lacks", entries, None, frozenset(lacking.difference(entries)), f"new attributes of {name}")
            self.reads[read.found_at] = read

    def _names_in(self, cls: type) -> AbstractSet[str]:
        """All attributes that a class had, its bases and its metaclass among it, when the run came by it."""
        if id(cls) not in self._names:
            entries = [self.vars_of(place) for place in _places(cls)]
            self.named.update(map(id, entries))
            self._names[id(cls)] = frozenset().union(*entries)
        return self._names[id(cls)]

    def vars_of(self, holder: Any) -> Any:
        """A holder's attributes; the same mapping each time (vars(cls) makes another one on every call)."""
        entries = self._mappings.get(id(holder))
        if entries is None:
            entries = self._mappings[id(holder)] = vars(holder)
            if isinstance(holder, type):
                self._owners[id(entries)] = holder
        return entries

    def _follow_object(self, value: Any, name: str) -> None:
        cls = type(value)
        container = isinstance(value, CONTAINERS)
        if container:
            self.follow_contents(value, name)
            for kind, setting in ((defaultdict, "default_factory"), (deque, "maxlen")):
                if isinstance(value, kind):
                    self.read("attr", value, setting, getattr(value, setting), join(name, setting))
            if cls.__module__ in ("builtins", "collections"):
                return
        original = original_of(value)
        if original is not None:
            self.follow(original, name)
        if kind_of(cls) == SMELT:
            self.follow(getattr(value, "__wrapped__", None), name)
            return
        if isinstance(value, Iterator) and not is_open(cls):
            self._observer.refuse(f"reads {name}, an iterator from outside the function", user_line())
            return
        if isinstance(value, torch.jit.ScriptModule):
            self._observer.refuse(f"reads {name}, a module of TorchScript, whose state can't be observed", user_line())
            return
        if kind_of(cls) == TORCH and not is_open(cls):
            return
        if isinstance(value, BaseException):
            self.read("attr", value, "args", value.args, join(name, "args"))
            self.follow_contents(vars(value), join(name, "__dict__"), name)
            return
        if isinstance(value, LOCKS):
            if kind_of_file(innermost_of_others(sys._getframe()).f_code.co_filename) == USER:
                self._observer.refuse(f"reads {name}, a lock", user_line())
            return
        if cls is types.SimpleNamespace or isinstance(value, threading.local):  # whose attribute access can't be watched
            if cls is types.SimpleNamespace:
                self.read("attr", value, "__dict__", vars(value), join(name, "__dict__"), follow=False)
            else:  # each thread has its own
                attributes = functools.partial(vars, value)
                self.read("call", attributes, (), vars(value), join(name, "__dict__"), follow=False)
            self.follow_contents(vars(value), name, name)
            for place in cls.__mro__:
                self.follow(place, place.__qualname__)
            return
        if cls.__module__.split(".")[0] in _UNCHANGING_MODULES and kind_of(cls) != USER:
            self.follow(getattr(value, "tzinfo", None), join(name, "tzinfo"))
            return
        if any(map(_is_opaque, cls.__mro__)) or not self._observer.accesses.watch(cls):
            if not container:
                kind = f"{cls.__module__}.{cls.__qualname__}"
                self._observer.refuse(f"reads {name}, an object of type {kind}, whose state can't be observed", user_line())
            return
        self.read("type", value, None, cls, name or "self", follow=False)
        for place in cls.__mro__:
            self.follow(place, place.__qualname__)
        if dict_of(value) is not None:
            self.read("attr", value, "__dict__", dict_of(value), join(name, "__dict__"), follow=False)

    def follow_class_of(self, t: torch.Tensor, name: str) -> None:
        """Attributes that the user has set on a tensor can't be observed: where there are any, all are guarded."""
        if dict_of(t).keys() - {MARK}:
            self.follow_contents(dict_of(t), f"attributes of {name}")

    def read_membership(self, names: dict[str, Any], key: str, found: AbstractSet) -> None:
        """Guard a global that is a set of classes, by code that asks for nothing but what is in it: they need not be followed."""
        self.read("item", names, key, found, f"global {key}", follow=False)
        if id(found) not in self.known:
            self._closed.add(id(found))
            self.follow_contents(found, f"global {key}")

    def follow_contents(self, container: Any, name: str, owner: str | None = None) -> None:
        """Guard everything a container holds. `owner`: the module, where the items are reached as its attributes."""
        self.known[id(container)] = container, name
        where = ("contents", id(container), None)
        if where in self.reads:
            return
        self._items += len(container)
        if self._items > ITEM_LIMIT:
            self._observer.refuse(f"reads {name}: more than {ITEM_LIMIT} items to guard", user_line())
            return
        self.reads[where] = Read("contents", container, None, snapshot(container), name, user_line())
        if id(container) not in self._closed:
            self._follow_within(container, name, owner)

    def open(self, value: Any, name: str) -> None:
        """Follow the items of a set that was asked for them alone before."""
        if id(value) in self._closed:
            self._closed.remove(id(value))
            self._follow_within(value, name, None)

    def _follow_within(self, container: Any, name: str, owner: str | None) -> None:
        for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            self.follow(key, f"a key of {name}")
            item = f"{name}[{key!r}]" if constant(key) else f"an item of {name}"
            self.follow(value, item if owner is None else join(owner, str(key)))

    def class_attribute(self, cls: type, name: str) -> Any:
        """An attribute as the class and its bases have it; guards it, and that no class of the user's hides it."""
        for place in cls.__mro__:
            found = self.vars_of(place).get(name, MISSING)
            if place is object and found is MISSING:
                break
            if found is not MISSING or kind_of(place) == USER:
                if name not in OURS:
                    self.surely.add(("item", id(self.vars_of(place)), name))
                    self.read("item", self.vars_of(place), name, found, f"{place.__qualname__}.{name}")
                if found is not MISSING:
                    return found
        return MISSING

    def read_registrations(self) -> None:
        token = abc.get_cache_token()
        self.read("call", abc.get_cache_token, (), token, "which classes are registered with abstract ones")


#: By its type, how an object is followed; any other one as an object with attributes.
_WAYS: dict[type | tuple[type, ...], Callable[[Reached, Any, str], None]] = {
    types.FunctionType: Reached._follow_function, types.MethodType: Reached._follow_method,
    (types.BuiltinFunctionType, types.MethodWrapperType): Reached._follow_bound, functools.partial: Reached._follow_partial,
    (type, types.ModuleType): Reached._follow_holder, (staticmethod, classmethod): Reached._follow_wrapped,
    (operator.attrgetter, operator.methodcaller, operator.itemgetter): Reached._follow_getter,
    property: Reached._follow_property, weakref.ref: Reached._follow_weak, ContextVar: Reached._follow_variable,
    functools._lru_cache_wrapper: Reached._follow_memo, numpy.ndarray: Reached._follow_array, tuple: Reached._follow_tuple}


def _places(holder: Any) -> tuple:
    """Where Python looks for an attribute of a function, class or module."""
    return (*holder.__mro__, *type(holder).__mro__) if isinstance(holder, type) else (holder,)


def _outside_dict(holder: Any) -> AbstractSet[str]:
    """The attributes of a function or class that are not in its dict."""
    return next((own for kind, own in _OUTSIDE_DICTS.items() if isinstance(holder, kind)), frozenset())


def _falls_back(holder: Any) -> bool:
    """Whether code of the user's gives the attributes that a class or module has not."""
    return hasattr(type(holder), "__getattr__") or isinstance(holder, types.ModuleType) and "__getattr__" in vars(holder)


def _specials(cls: type) -> list[str]:
    """The attributes of a class that Python reads without their being named: operators, descriptors, context managers."""
    return [name for name in vars(cls) if name.startswith("__") and name not in OURS and name not in _UNREAD]


def _is_opaque(cls: type) -> bool:
    """Whether a class is made in C, and its instances hold what no attribute tells of."""
    return not is_open(cls) and cls not in _PLAIN_BASES and cls.__module__ not in _UNCHANGING_MODULES


def _is_decimal(value: Any) -> bool:
    """Whether code may compute decimals by a value: the module, a class or function of it, or a decimal."""
    owner = value if isinstance(value, (type, types.BuiltinFunctionType)) else type(value)
    return value is decimal or owner.__module__ == "decimal"


def _decimals() -> tuple:
    """How decimals are computed now, in this thread."""
    context = decimal.getcontext()
    traps = tuple(signal.__name__ for signal, on in context.traps.items() if on)
    return context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp, traps


def _is_small_array(value: Any) -> bool:
    return type(value) is numpy.ndarray and value.dtype.kind in "biufc" and value.size <= LARGEST_ARRAY


def _elements(array: numpy.ndarray) -> tuple:
    """What an array holds, and how it is laid out."""
    return array.dtype.str, array.shape, array.strides, array.flags.writeable, array.tobytes()
