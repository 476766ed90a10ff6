"""Lists that a run only appends to, as a log of losses, and dicts that it only puts items in: what they hold is not guarded.

Python does not tell who reads a container. So it counts as only written if it is found in one place alone, and all code
that loads it from there at once calls `append` or `extend` of it, or sets an item in it: `losses.append(loss)`,
`self.losses.append(loss)`, `self.history["train"][name].append(loss)`, `features["x"] = x`.
"""
from __future__ import annotations

import types
from collections import OrderedDict, defaultdict, deque
from typing import Any, Iterable, Iterator

from ..guard.guards import Read
from .names import ANY, STORED, texts_named, uses

_DICTS = (dict, defaultdict, OrderedDict)
_APPENDS = ("append", "extend")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")


class Logs:
    """What one run did with the containers that it came by."""

    def __init__(self):
        self._ways: dict[int, int] = {}
        self._codes: dict[tuple, tuple[types.CodeType, dict, dict[str, types.CellType]]] = {}
        self._loads: dict[tuple, list[tuple]] = {}

    def reached(self, value: Any) -> None:
        """The run came by an object, on one more way."""
        self._ways[id(value)] = self._ways.get(id(value), 0) + 1

    def entered(self, code: types.CodeType, names: dict, cells: dict[str, types.CellType]) -> None:
        """The user's code was entered, with these globals and cells."""
        self._codes[(id(code), id(names), *map(id, cells.values()))] = code, names, cells

    def loaded(self, own: dict, name: str, frame: types.FrameType) -> None:
        """An attribute in `own` was read by this frame."""
        how, named, done = uses(frame.f_code).get(frame.f_lasti, ("", "", ()))
        self._loads.setdefault(("item", id(own), name), []).append(done if how in _ATTRIBUTES and named == name else ())

    def find(self, reads: dict[tuple, Read]) -> list[Read]:
        """The reads of the contents of lists that got longer, and of dicts, that were only written."""
        contents = [r for r in reads.values() if r.kind == "contents"]
        perhaps = [r for r in contents if self._ways.get(id(r.holder)) == 1 and (type(r.holder) is dict or longer(r))]
        if not perhaps:
            return []
        found = {id(r.expected): r for r in reads.values() if r.kind in ("item", "attr")}
        return [r for r in perhaps if self._only_written(r.holder, found, contents)]

    def only_in(self, logs: Iterable[Read]) -> set[int]:
        """The ids of the objects that the run came by only as items of these containers."""
        count: dict[int, int] = {}
        for read in logs:
            for value in read.expected[-1]:
                count[id(value)] = count.get(id(value), 0) + 1
        return {i for i, n in count.items() if self._ways.get(i, 0) <= n}

    def _only_written(self, container: Any, found: dict[int, Read], contents: list[Read]) -> bool:
        """Whether all that code did with a container was to put something in it."""
        keys, at = (), container
        while (place := found.get(id(at))) is None:  # it may be in a dict, and that in another one
            holder = next((r for r in contents if type(r.holder) in _DICTS and any(v is at for v in r.expected[1])), None)
            if holder is None or self._ways.get(id(holder.holder)) != 1:
                return False
            keys = (next(k for k, v in zip(*holder.expected) if v is at), *keys)
            at = holder.holder
        puts = (STORED,) if isinstance(container, dict) else _APPENDS
        loads = [done for done in self._loads_of(place)
                 if all(key is ANY or key == own for key, own in zip(done[:-1], keys))]  # those of other items do not matter
        return bool(loads) and all(len(done) == len(keys) + 1 and done[-1] in puts for done in loads)

    def _loads_of(self, place: Read) -> Iterator[tuple]:
        """What code did at once with what it loaded from a place."""
        yield from self._loads.get(place.found_at, ())
        for code, names, cells in self._codes.values():
            for how, name, done in uses(code).values():
                if place.kind == "attr" and cells.get(name) is place.holder and "DEREF" in how:
                    yield done
                elif place.holder is names and name == place.key and how in ("LOAD_GLOBAL", "LOAD_NAME", *_ATTRIBUTES):
                    yield done
            if place.holder is names and place.key in texts_named(code):
                yield ()


def longer(read: Read) -> bool:
    """Whether a list has what it had, and then more. A deque that is full by now lets go of items as it is appended to, whatever
    it holds."""
    before, now = read.expected[0], read.holder
    return type(now) in (list, deque) and len(now) > len(before) and all(a is b for a, b in zip(now, before))
