"""Numbers that differ from call to call: found by comparing a call with the programs that it does not fit, and for the next
recording replaced in their places by symbolic ones.

The places are numbers among the arguments, also nested, and numbers that a run read: attributes, globals, closure cells, and
entries of dicts and lists; and tuples with numbers there.
"""
from __future__ import annotations

import functools
import gc
import types
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Iterable, Mapping

from ..symbolic.arrays import Array
from ..symbolic.scalars import KINDS
from ..symbolic.symbols import Numbers, is_symbolic, plain
from .fetched import parts
from .guards import MISSING, Read, attribute, same
from .memo import remembered
from .structure import Arguments, is_dataclass_instance, is_plain_instance, slots_of, tuple_like
from .writes import held, put_back


@dataclass(frozen=True, eq=False)
class Spot:
    """A number that a run read, or a tuple with such, and the way to it: others may take the place of what is on it.

    start       the object of state that the way starts at, or the place among the arguments
    way         the reads, as (kind, type of what is read, key)
    expected    what was read; `subject` is its name for people
    """
    start: Any
    way: tuple[tuple[str, type, Any], ...]
    expected: Any
    subject: str

    @property
    def place(self) -> tuple:
        """What tells it from others."""
        return self.start if isinstance(self.start, str) else id(self.start), self.way

    def find(self, args: tuple, kwargs: dict) -> Read | None:
        """The read of what is there now, in a call with these arguments; None where the way is none any more."""
        now = _argument(self.start, args, kwargs) if isinstance(self.start, str) else self.start
        for kind, holder, key in self.way:
            if type(now) is not holder:
                return None
            read = Read(kind, now, key, self.expected, self.subject)
            now = _now(read)
        return read


class Changing:
    """The places of numbers that were seen to change between calls of one function.

    arguments   expressions in terms of `args` and `kwargs`
    reads       by the place, where it is
    barred      whether a recording with symbolic numbers failed where one with plain numbers did not
    lines       the user's file:line where a number is read of a tensor by .item()
    """

    def __init__(self):
        self.arguments: set[str] = set()
        self.reads: dict[tuple, Spot] = {}
        self.lines: set[str] = set()
        self.barred = False

    def __bool__(self) -> bool:
        return not self.barred and bool(self.arguments or self.reads or self.lines)

    def compare(self, leaves: Mapping[str, Any], reads: Iterable[Spot], arguments: Arguments) -> None:
        """Add what differs between a program, by the numbers among its arguments and its reads, and now."""
        self.arguments.update(p for p, value in arguments.leaves.items() if p in leaves and changed(leaves[p], value))
        for spot in reads:
            read = spot.find(*arguments.call)
            if read is not None and spot.place not in self.reads and changed(spot.expected, _now(read)):
                self.reads[spot.place] = spot


def changed(before: Any, now: Any) -> bool:
    """Whether a number is now another one of its type, or a tuple differs in nothing but numbers."""
    if type(now) is not type(before) or same(now, before):
        return False
    if type(before) is tuple:
        return len(now) == len(before) and all(same(n, b) or _number(b) and changed(b, n) for b, n in zip(before, now))
    return _number(before) or type(before) in KINDS


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _with_stand_ins(value: Any, numbers: Numbers, subject: str) -> Any:
    """A number as a symbolic one; a tuple with such in it."""
    if type(value) is tuple:
        return tuple(numbers.given(v, f"{subject}[{k}]") if _number(v) else v for k, v in enumerate(value))
    return numbers.given(value, subject)


def number_reads(reads: Iterable[Read], places: Mapping[int, str]) -> tuple[Spot, ...]:
    """The numbers, and the tuples with such, that were read where others can be put. `places`: among the arguments, by id of what
    is there."""
    found = [part for read in reads for part in parts(read)]
    links = {id(p.expected): p for p in found if _leads_on(p)}
    return tuple(_spot(p, links, places) for p in found if
                 (_number(p.expected) or type(p.expected) is tuple and any(map(_number, p.expected))) and _settable(p))


def _spot(number: Read, links: Mapping[int, Read], places: Mapping[int, str]) -> Spot:
    reads = [number]
    while id(reads[0].holder) not in places and (link := links.get(id(reads[0].holder))) is not None \
            and all(link is not r for r in reads):
        reads.insert(0, link)
    start = places.get(id(reads[0].holder))
    if start is None and reads[0].key == "__dict__" and len(reads) > 1:
        reads = reads[1:]  # so as not to keep the object alive
    return Spot(reads[0].holder if start is None else start, tuple((r.kind, type(r.holder), r.key) for r in reads),
                number.expected, number.subject)


def _leads_on(read: Read) -> bool:
    """Whether a place may have another object in it, and numbers in that."""
    if not (_settable(read) or read.kind == "attr" and read.key == "__dict__"):
        return False
    return type(read.expected) in (list, dict, deque) or is_plain_instance(read.expected)


def _settable(read: Read) -> bool:
    if read.kind == "attr":
        return isinstance(read.holder, types.CellType) or read.key in slots_of(type(read.holder))
    holders = {"item": dict, "element": (list, deque)}
    return isinstance(read.holder, holders.get(read.kind, ()))


def _argument(place: str, args: tuple, kwargs: dict) -> Any:
    """What is at a place among the arguments, MISSING if there is no such place."""
    try:
        return eval(place, {"args": args, "kwargs": kwargs})
    except (LookupError, AttributeError, TypeError):
        return MISSING


def _now(read: Read) -> Any:
    """What is in the place now, MISSING if it is gone."""
    try:
        return read.now()
    except (LookupError, AttributeError, ValueError):
        return MISSING


def looks_at_identity(reads: Iterable[Read]) -> bool:
    """Whether a run may tell an object from an equal one by what Python makes of its address."""
    return any(r.kind == "item" and r.key in ("id", "hash", "repr") and r.expected is MISSING for r in reads)


def settable(read: Read) -> bool:
    """Whether any object can be put in the place of a read, past all code of the user's."""
    return isinstance(read.holder, _BASES) or read.kind == "attr" and not isinstance(read.holder, type)


def _put(holder: Any, key: Any, value: Any) -> None:
    base = next((b for b in _BASES if isinstance(holder, b)), None)
    if base is not None:
        base.__setitem__(holder, key, value)
    elif isinstance(holder, types.CellType):
        holder.cell_contents = value
    else:
        object.__setattr__(holder, key, value)


#: Containers, past what subclasses of the user's do.
_BASES = (dict, list, deque)


class StandIns:
    """Stand-ins in the places of numbers, of arguments and of state, while a run is recorded; a context manager around it.

    Where the run writes to such a place, what it wrote stays."""

    def __init__(self, changing: Changing, arguments: Arguments):
        self._numbers = numbers = arguments.given
        self._call, self._places, self._remade = arguments.call, list(arguments.standins), arguments.remade
        self._reads = changing.reads.values() if numbers is not None else ()

    def __enter__(self) -> None:
        call, self._call = self._call, ((), {})  # which the run may let go of
        for read in filter(None, (spot.find(*call) for spot in self._reads)):
            value = _now(read)
            if type(value) is type(plain(read.expected)):
                made = _with_stand_ins(value, self._numbers, read.subject)
                self._places.append((read.holder, read.key, value, made))
                self._remade += [(made, value)] * (type(value) is tuple)
        for made, before in self._remade if self._numbers is not None else ():
            self._numbers.stands_for(made, before)
        for holder, key, before, number in self._places:
            if _held(holder, key) is before:
                _put(holder, key, number)

    def __exit__(self, *error) -> None:
        for holder, key, before, number in self._places:
            if _held(holder, key) is number:
                _put(holder, key, before)
        self._places.clear()
        if self._numbers is not None:
            self._numbers.alive = False


def _held(holder: Any, key: Any) -> Any:
    if isinstance(holder, dict):
        return dict.get(holder, key, MISSING)
    base = next((b for b in _BASES if isinstance(holder, b)), None)
    if base is not None:
        return base.__getitem__(holder, key) if key < len(holder) else MISSING
    return attribute(holder, "cell_contents" if isinstance(holder, types.CellType) else key)


# After the run

def without_symbols(results: list, numbers: Numbers, arguments: Arguments, changed: Iterable[Read] = ()) -> Any:
    """The run's result, which is taken out of a list, with plain numbers and arrays. Those that the run left in other objects
    are replaced in them, too: in the places that it is known to have `changed`, and if any are left, in all that hold one, which
    are searched for in all of the process's memory."""
    if arguments.given is None and not arguments.arrays and not numbers.surviving():
        return results.pop()
    remade = {id(new): before for new, before in arguments.remade}
    done = dict(remade)
    result = _plain_result(results.pop(), done)
    for read in changed if surviving(numbers, arguments) else ():
        value = read.holder if read.kind == "contents" else held(read)
        if (new := _plain_result(value, done)) is not value:
            put_back(read, new)
    done.clear()
    arguments.let_go()
    if left := surviving(numbers, arguments):
        _replace(left, remade, {id(left)}, DEPTH)
    return result


def surviving(numbers: Numbers, arguments: Arguments) -> list:
    """The stand-ins, for numbers and for arrays, that something still holds."""
    return [*numbers.surviving(), *arguments.arrays.surviving()]


#: How many tuples, or the like, deep a number is looked for.
DEPTH = 4
#: What never changes, and may hold numbers.
_FROZEN = (tuple, slice, frozenset)


def _plain_result(value: Any, done: dict[int, Any]) -> Any:
    """What stands for a value: itself, unless it is a number or an array, or a tuple or the like with one in it."""
    if is_symbolic(value):
        return plain(value)
    if type(value) is Array:
        return value.array
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    if isinstance(value, _FROZEN):
        done[id(value)] = _plain_frozen(value, done)
        return done[id(value)]
    holder = getattr(value, "__dict__", {}) if is_dataclass_instance(value) else value if isinstance(value, _BASES) else ()
    for key, item in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        if (new := _plain_result(item, done)) is not item:
            _put(holder, key, new)
    if isinstance(holder, dict):
        _replace_keys(holder, {id(key): _plain_result(key, done) for key in holder})
    elif isinstance(value, set):
        _replace_items(value, {id(item): _plain_result(item, done) for item in value})
    return value


def _plain_frozen(value: Any, done: dict[int, Any]) -> Any:
    before = (value.start, value.stop, value.step) if isinstance(value, slice) else tuple(value)
    items = [_plain_result(v, done) for v in before]
    if all(new is v for new, v in zip(items, before)):
        return value
    if isinstance(value, tuple):
        return tuple_like(value, items)
    return slice(*items) if isinstance(value, slice) else frozenset(items)


def _replace_keys(holder: dict, new: dict[int, Any]) -> None:
    if all(new.get(id(key), key) is key for key in holder):
        return
    base, items = OrderedDict if isinstance(holder, OrderedDict) else dict, list(holder.items())
    base.clear(holder)
    for key, value in items:
        base.__setitem__(holder, new.get(id(key), key), value)


def _replace_items(holder: set, new: dict[int, Any]) -> None:
    items = [new.get(id(v), v) for v in holder]
    if any(now is not v for now, v in zip(items, holder)):
        set.clear(holder)
        set.update(holder, items)


def _replace_attributes(holder: Any, new: dict[int, Any]) -> None:
    entries = getattr(holder, "__dict__", None)
    for key in [k for k, v in entries.items() if id(v) in new] if isinstance(entries, dict) else ():
        dict.__setitem__(entries, key, new[id(entries[key])])
    slots = (d for cls in type(holder).__mro__ for d in vars(cls).values() if isinstance(d, types.MemberDescriptorType))
    for slot in slots:
        try:
            value = slot.__get__(holder)
            if id(value) in new:
                slot.__set__(holder, new[id(value)])
        except AttributeError:  # empty, or read-only
            continue


def referrers(objects: list) -> list:
    """What holds objects. What gc.freeze has put aside is searched as well, and with it all there is by then is put aside."""
    if not gc.get_freeze_count():
        return gc.get_referrers(*objects)
    gc.collect()  # what is garbage now would stay
    gc.unfreeze()
    try:
        return gc.get_referrers(*objects)
    finally:
        gc.freeze()


def _replace(found: list, remade: Mapping[int, tuple], ours: set[int], depth: int) -> None:
    """Put plain values in the place of numbers, or of tuples and the like with such, in all objects that hold them."""
    new = {id(v): _plain_result(v, dict(remade)) for v in found}
    frozen = []
    for holder in referrers(found):
        if id(holder) in ours:
            continue
        if isinstance(holder, dict):
            for key in [k for k, v in holder.items() if id(v) in new]:
                dict.__setitem__(holder, key, new[id(holder[key])])
            _replace_keys(holder, new)
        elif isinstance(holder, set):
            _replace_items(holder, new)
        elif isinstance(holder, (list, deque)):
            for k in [k for k, v in enumerate(holder) if id(v) in new]:
                holder[k] = new[id(holder[k])]
        elif isinstance(holder, types.CellType):
            holder.cell_contents = new[id(holder.cell_contents)]
        elif isinstance(holder, functools._lru_cache_wrapper):  # which takes no other result in the place of one
            if any(id(result) in new for result in remembered(holder)[1]):
                holder.cache_clear()
        elif isinstance(holder, _FROZEN):
            frozen.append(holder)
        elif isinstance(holder, types.FunctionType):
            holder.__defaults__ = new.get(id(holder.__defaults__), holder.__defaults__)
        elif isinstance(holder, BaseException):
            holder.args = new.get(id(holder.args), holder.args)
            _replace_attributes(holder, new)
        elif isinstance(holder, functools.partial):
            holder.__setstate__((holder.func, new.get(id(holder.args), holder.args), holder.keywords, vars(holder)))
        else:
            _replace_attributes(holder, new)
    if frozen and depth:
        _replace(frozen, remade, {*ours, id(frozen), id(found)}, depth - 1)
