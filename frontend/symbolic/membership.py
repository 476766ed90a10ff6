"""`n in {5, 10}`: what a number is looked for in, by the code that looks. A dict or set asks for a number's hash alone, and for
nothing more where it has no such number."""
from __future__ import annotations

import dis
import types
from collections import Counter, OrderedDict
from functools import lru_cache
from typing import Any, Iterable

#: Sets and dicts that ask nobody but the number whether it is in them.
_KINDS = (set, frozenset, dict, Counter, OrderedDict)
#: The largest that a condition names the numbers of.
_LARGEST = 64


def looked_for_in(frame: types.FrameType) -> tuple[int, ...] | None:
    """The whole numbers in the set or dict in which a frame is looking for something; None where it does anything else, or the
    code does not show in what it looks."""
    way = _ways(frame.f_code).get(frame.f_lasti)
    found = None if way is None else _at(frame, *way)
    if type(found) not in _KINDS or len(found) > _LARGEST or any(type(key) is not int for key in found):
        return None
    return tuple(sorted(found))


@lru_cache(maxsize=4096)
def _ways(code: types.CodeType) -> dict[int, tuple[dis.Instruction, tuple[str, ...]]]:
    """By the offset of each instruction that looks for something in a container: how that is loaded, and the attributes that
    lead from there to the container."""
    found: dict[int, tuple[dis.Instruction, tuple[str, ...]]] = {}
    before: list[dis.Instruction] = []
    for i in dis.get_instructions(code):
        if i.opname == "CONTAINS_OP":
            names: list[str] = []
            while before and before[-1].opname == "LOAD_ATTR":
                names.insert(0, before.pop().argval)
            if before:
                found[i.offset] = before[-1], tuple(names)
        before.append(i)
    return found


def _at(frame: types.FrameType, start: dis.Instruction, names: Iterable[str]) -> Any:
    """What is there now; None where a look at it would run code."""
    if start.opname == "LOAD_CONST":
        found = start.argval
    elif start.opname == "LOAD_GLOBAL":
        found = frame.f_globals.get(start.argval)
    elif start.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):  # of two at once it is the second
        found = frame.f_locals.get(start.argval[1] if isinstance(start.argval, tuple) else start.argval)
    else:
        return None
    for name in names:
        try:
            found = object.__getattribute__(found, "__dict__").get(name)
        except AttributeError:
            return None
    return found
