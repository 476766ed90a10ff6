"""State that is another object on every call: fetched from its place, and not guarded by identity.

What a program writes (`self.h = cell(x, self.h)`) is another tensor when the next call reads it. So what the run found
in a place that changes becomes, for every later call, what is there then: a tensor is guarded as an argument is, by its
metadata; a tuple, list, dict or object by its type, and in turn by all that the run read of it.
"""
from __future__ import annotations

import weakref
from collections import defaultdict, deque
from typing import Any, Callable, Container, Iterable, Iterator, Mapping

import torch
from torch.nn.parameter import is_lazy

from ..symbolic.symbols import Node, has_nodes
from ..torch_internals import StorageWeakRef
from .guards import MISSING, Read, constant, has_strides
from .structure import is_plain_instance

#: Changing places are told as a read tells them: see Read.place.
Places = Container[tuple]


class Fetched:
    """What to guard of a run's reads where some of the places change from call to call.

    reads   the guards: those of containers with a fetched object in them taken apart
    at      id of a fetched object -> the read that finds it; every other read of it compares with that
    fixed   ids of objects that containers know by their identity: keys
    """

    def __init__(self, reads: Iterable[Read], changing: Places, given: Mapping[int, str] = {}, objects: Mapping[int, Any] = {}):
        """changing: places whose objects are fetched; given: what is reached without a read, by id, with its place; objects:
        what of that is fetched and no tensor."""
        self.reads: list[Read] = list(reads)
        self.at: dict[int, Read] = {}
        self.objects: dict[int, Any] = dict(objects)
        self._given, self.fixed = given, set()
        self._within: dict[int, Read] = {}  # by id of what is in objects that are given, the read that leads to it
        tuples = [p.expected for read in self.reads for p in parts(read) if has_nodes(p.expected)]
        self.objects.update((id(t), t) for t in tuples)
        for read in self.reads if given else ():
            for part in parts(read):
                inside = id(part.holder) in given or id(part.holder) in self._within
                if inside and id(part.expected) not in given and _fetchable(part.expected):
                    self._within.setdefault(id(part.expected), part)
        if changing or self.objects:
            self._find(changing)
        if self.objects or any(map(_has_numbers, self.reads)):
            reads, self.reads = self.reads, []
            for read in reads:
                self._take(read)

    def place(self, read: Read) -> tuple:
        """Where a read finds something, told in the same way on every call: in what is given or fetched, by the way that leads
        to it."""
        holder = self.at.get(id(read.holder)) or self._within.get(id(read.holder))
        known = self._given.get(id(read.holder), id(read.holder)) if holder is None else self.place(holder)
        return read.kind, known, read.key

    @property
    def tensors(self) -> list[tuple[tuple, torch.Tensor]]:
        """All tensors that the run found, with their places; but for those that have no shape yet."""
        found = (part for read in self.reads for part in parts(read))
        return [(self.place(p), p.expected) for p in found
                if isinstance(p.expected, torch.Tensor) and not is_lazy(p.expected)]

    def _find(self, changing: Places) -> None:
        """All objects to fetch: those in changing places, and what was read of these."""
        self.fixed = {id(key) for r in self.reads if r.kind == "contents" and not isinstance(r.holder, (list, deque))
                       for key in r.holder}
        count = -1
        while count < len(self.objects):
            count = len(self.objects)
            for read in self.reads:
                loose = id(read.holder) in self.objects or read.found_at in changing
                for part in parts(read):
                    if loose or part.found_at in changing:
                        self._add(part.expected)

    def _add(self, value: Any) -> None:
        if id(value) in self.fixed or not _fetchable(value):
            return
        self.objects[id(value)] = value
        if isinstance(value, tuple):
            for item in value:
                self._add(item)

    def _take(self, read: Read) -> None:
        fetched = id(read.holder) in self.objects or any(id(p.expected) in self.objects for p in parts(read))
        if read.kind == "contents" and not isinstance(read.holder, (set, frozenset)) and (fetched or _has_numbers(read)):
            self._take_apart(read.holder, read)
            return
        self.reads.append(read)
        value = read.expected
        if id(value) in self.objects and id(value) not in self.at and id(value) not in self._given:
            self.at[id(value)] = read
            if isinstance(value, tuple):
                self._take_apart(value, Read("contents", value, None, (value,), read.subject, read.where))

    def _take_apart(self, container: Any, read: Read) -> None:
        keys = isinstance(container, dict)
        held = read.expected[0] if keys else len(read.expected[0])
        self.reads.append(Read("keys" if keys else "size", container, None, held, read.subject, read.where))
        for part in parts(read):
            self._take(part)


class Found:
    """The tensors that the runs of one function found, and the objects that they were given, by place: a place with another
    one in it changes from outside."""

    def __init__(self):
        self.changing: set[tuple] = set()
        self._tensors: dict[tuple, tuple[int, StorageWeakRef]] = {}
        self._given: dict[str, tuple[int, Callable[[], Any] | None]] = {}
        self._anew: set[str] = set()

    def another(self, place: str, value: Any) -> bool:
        """A run is given this object at a place among its arguments: whether it, or an earlier one, was given another there."""
        if place in self._given:
            address, before = self._given[place]
            if address != id(value) or before is not None and before() is not value:
                self._anew.add(place)
        self._given[place] = id(value), _reference(value)
        return place in self._anew

    def note(self, reads: Iterable[Read]) -> None:
        """A run found this."""
        for read in reads:
            for part in parts(read):
                if isinstance(part.expected, torch.Tensor) and not is_lazy(part.expected) and has_strides(part.expected):
                    address, storage = self._tensors.get(part.found_at, (0, None))
                    if storage is not None and (address != id(part.expected) or storage.expired()):
                        self.changing.add(part.found_at)
                    # torch.utils.swap_tensors takes no tensor that has a weak reference
                    self._tensors[part.found_at] = id(part.expected), StorageWeakRef(part.expected.untyped_storage())


def _reference(value: Any) -> Callable[[], Any] | None:
    """A weak reference; None for what takes none. There another object at its address is taken for it until a program's guards
    tell them apart."""
    try:
        return weakref.ref(value)
    except TypeError:
        return None


def parts(read: Read) -> Iterator[Read]:
    """The places that a read looks at: of a container, those of its items."""
    if read.kind in ("item", "element", "attr"):
        yield read
    elif read.kind != "contents" or isinstance(read.holder, (set, frozenset)):
        return
    elif isinstance(read.holder, dict):
        for key, value in zip(*read.expected):
            yield Read("item", read.holder, key, value, f"{read.subject}[{_named(key)}]", read.where)
    else:
        for index, value in enumerate(*read.expected):
            yield Read("element", read.holder, index, value, f"{read.subject}[{index}]", read.where)


def _has_numbers(read: Read) -> bool:
    """Whether there is a symbolic number in a container."""
    return read.kind == "contents" and any(isinstance(v, Node) for v in read.expected[-1])


def _named(key: Any) -> str:
    return repr(key) if constant(key) else "..."


def _fetchable(value: Any) -> bool:
    """Whether all that a run reads of an object is guarded, so that another one in its place is as good."""
    if isinstance(value, torch.Tensor):
        return type(value) in (torch.Tensor, torch.nn.Parameter) and has_strides(value)
    if isinstance(value, tuple):
        return not constant(value)
    if value is MISSING or isinstance(value, Node):
        return False
    if type(value) is set:
        return all(map(constant, value))
    return type(value) in (list, dict, defaultdict, deque) or is_plain_instance(value)
