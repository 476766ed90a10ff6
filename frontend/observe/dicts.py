"""Of which objects code looks at `__dict__`. That of an instance is observed by its class's `__getattribute__`; that of a class
or a function can't be, and has in it what smelt puts into classes while a run is recorded."""
from __future__ import annotations

import dis
import types
from functools import lru_cache
from typing import Any, Iterator, NamedTuple

import torch

from ..guard.guards import MISSING
from .names import ATTRIBUTES, LOCALS, READS, code_in, instructions_of, start_of_path, start_of_value, texts_inside
from .objects import OURS, dict_of

#: What can't be observed reading its `__dict__`.
UNOBSERVED = (type, types.FunctionType, types.ModuleType)
#: Instructions that name variables.
_OF_VARIABLES = {*dis.haslocal, *dis.hasfree}
#: Methods of a dict that what a class has in its place lacks.
_CHANGING = {"update", "pop", "popitem", "setdefault", "clear"}


class Look(NamedTuple):
    """One place where code looks at `__dict__`.

    path    how it reaches the object, if by a variable that it never sets: ("local" or "global", name, attributes...)
    whole   whether what it does there is more than to change it, or to look for names that stand in the code
    """
    path: tuple[str, ...] | None
    whole: bool


@lru_cache(maxsize=4096)
def looks(code: types.CodeType) -> tuple[Look, ...]:
    """Where this code looks at `__dict__`, unless for a name that stands in it: so it reads an attribute of that name."""
    instructions = instructions_of(code)
    found = [_look(instructions, n, code) for n, i in enumerate(instructions)
             if i.argval == "__dict__" and i.opcode not in _OF_VARIABLES]
    if "__dict__" in texts_inside(code):
        found.append(Look(None, True))
    return tuple(filter(None, found))


def looked_at(frame: types.FrameType, code: types.CodeType) -> Iterator[tuple[Any, bool]]:
    """The objects of whose `__dict__` code that is entered looks at, or MISSING for one that it comes by later, each with
    `Look.whole`."""
    for path, whole in looks(code):
        if path is None:
            yield MISSING, whole
            continue
        scope, name, *attributes = path
        value = (frame.f_globals if scope == "global" else frame.f_locals).get(name, MISSING)
        for attribute in attributes:
            value = _held(value, attribute)
        yield value, whole


def _held(value: Any, attribute: str) -> Any:
    own = dict_of(value) or {}
    if isinstance(value, torch.nn.Module) and attribute not in own:
        own = own.get("_modules", {})
    return own.get(attribute, MISSING)


def _look(instructions: list[dis.Instruction], n: int, code: types.CodeType) -> Look | None:
    if _of_super(instructions, n):  # which asks no class for the attribute
        return Look(None, True)
    start, path = _path(instructions, n - 1, code)
    if instructions[n].opname not in ATTRIBUTES:
        asks = "" if start is None or instructions[start - 1].opname not in READS else instructions[start - 1].argval
        return None if asks == "hasattr" else Look(path if asks == "getattr" else _path_of_text(instructions, n, code), True)
    after, behind = (*instructions[n + 1:n + 3], None, None)[:2]
    if after.opname in ("LOAD_METHOD", "LOAD_ATTR"):
        named = after.argval == "get" and _is_name(behind)
    elif after.opname == "CONTAINS_OP":
        start = start_of_value(instructions, n)
        named = start is not None and _is_name(instructions[start - 1])
    else:
        named = _is_name(after) and behind.opname == "BINARY_SUBSCR"
    return None if named else Look(path, after.argval not in _CHANGING and instructions[n].opname != "STORE_ATTR")


def _of_super(instructions: list[dis.Instruction], n: int) -> bool:
    """Whether the n-th instruction takes an attribute of `super()`."""
    this, call = instructions[n], instructions[n - 1]
    called = this.opname == "LOAD_ATTR" and call.opname == "CALL" and n >= call.arg + 2
    return this.opname == "LOAD_SUPER_ATTR" or called and instructions[n - call.arg - 2].argval == "super"


def _is_name(instruction: dis.Instruction) -> bool:
    return instruction.opname == "LOAD_CONST" and isinstance(instruction.argval, str) and instruction.argval not in OURS


def _path(instructions: list[dis.Instruction], n: int, code: types.CodeType) -> tuple[int | None, tuple[str, ...] | None]:
    """Where the loads begin that end with the n-th instruction, and the path that they follow."""
    start = start_of_path(instructions, n)
    this, attributes = instructions[start], [i.argval for i in instructions[start + 1:n + 1]]
    if this.opname in READS:
        return start, ("global", this.argval, *attributes)
    if not this.opname.startswith("LOAD_FAST") and this.opname not in LOCALS:
        return None, None
    two = isinstance(this.argval, tuple)  # since Python 3.13: two variables at once
    name = this.argval[-1] if two else this.argval
    return None if two else start, ("local", name, *attributes) if name in _given(code) else None


@lru_cache(maxsize=4096)
def _given(code: types.CodeType) -> frozenset[str]:
    """The arguments and the variables of outer functions that this code never sets."""
    bound = {name for c in (code, *code_in(code)) for i in dis.get_instructions(c) if i.opname.startswith(("STORE", "DELETE"))
             for name in (i.argval if isinstance(i.argval, tuple) else (i.argval,))}
    return frozenset((*code.co_varnames[:code.co_argcount + code.co_kwonlyargcount], *code.co_freevars)) - bound


def _path_of_text(instructions: list[dis.Instruction], n: int, code: types.CodeType) -> tuple[str, ...] | None:
    """The object of `super().__getattribute__("__dict__")`, or of `object.__getattribute__(variable, "__dict__")`; None where the
    text stands in anything else."""
    *_, first, second, third = [None] * 3 + instructions[:n]
    if instructions[n + 1].opname != "CALL":
        return None
    if third.opname in LOCALS and second.argval == "__getattribute__" and first.argval == "object":
        return _path(instructions, n - 1, code)[1]
    if third.argval != "__getattribute__" or "super" not in (first.argval, instructions[n - 4].argval):
        return None
    if third.opname == "LOAD_SUPER_ATTR":  # behind the class and the object
        return _path(instructions, n - 2, code)[1]
    own = (second.opname, second.arg) == ("CALL", 0) and code.co_varnames[0] in _given(code)
    return ("local", code.co_varnames[0]) if own else None
