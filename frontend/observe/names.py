"""What a code object can name of the state around it, read off its bytecode."""
from __future__ import annotations

import dis
import sys
import types
from functools import lru_cache
from typing import Any, Iterable, Iterator

READS = {"LOAD_GLOBAL", "LOAD_NAME"}
_WRITES = {"STORE_GLOBAL", "DELETE_GLOBAL"}
_ASKING, _CATCHING = {"getattr", "hasattr", "__dict__"}, {"AttributeError", "Exception", "BaseException"}
_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "LOAD_FROM_DICT_OR_GLOBALS",
          "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"}
#: Instructions that load a variable, and those that do something with an attribute.
LOCALS = {"LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "LOAD_DEREF"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"}
#: See `uses`.
STORED, OTHER, ANY = "[...] =", "...", type("ANY", (), {})()
#: What is done at once is done within so many instructions.
_AT_ONCE = 48
_STORES = {"STORE_ATTR", "STORE_GLOBAL", "STORE_NAME", "STORE_FAST", "STORE_DEREF"}


def instructions_of(code: types.CodeType) -> list[dis.Instruction]:
    """The instructions of this code, but for those that prepare a call or hold its cache."""
    return [i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "CACHE")]


def start_of_path(instructions: list[dis.Instruction], n: int) -> int:
    """Where the loads of attributes start that end with the n-th instruction: `a` of `a.b.c`."""
    while instructions[n].opname == "LOAD_ATTR":
        n -= 1
    return n


def start_of_value(instructions: list[dis.Instruction], n: int) -> int | None:
    """Where the loads of a value start that end with the n-th instruction: `a` of `a[b].c`; None where more than loads make
    it."""
    missing = 1
    while n >= 0 and instructions[n].opname.startswith(("LOAD_", "BINARY_SUBSCR")):
        missing -= dis.stack_effect(instructions[n].opcode, instructions[n].arg)
        if missing <= 0:
            return None if missing else n
        n -= 1
    return None


@lru_cache(maxsize=4096)
def globals_named(code: types.CodeType) -> tuple[str, ...]:
    """The globals (and builtins) that this code may read."""
    return tuple(dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname in READS))


@lru_cache(maxsize=4096)
def types_named(code: types.CodeType) -> dict[int, frozenset[str | None]]:
    """The lines of this code that name the builtin `type`: of what variables each asks type(variable); None where it does
    anything else with it."""
    found: dict[int, frozenset[str | None]] = {}
    instructions = instructions_of(code)
    stored = {(i.positions.lineno, name) for i in instructions if i.opname.startswith(("STORE", "DELETE"))
              for name in (i.argval if isinstance(i.argval, tuple) else (i.argval,))}
    inner = {i.argval for c in code_in(code) for i in dis.get_instructions(c) if i.opname in ("STORE_DEREF", "DELETE_DEREF")}
    own = {*code.co_varnames, *code.co_cellvars} - inner
    for n, i in enumerate(instructions):
        if i.opname in READS and i.argval == "type":
            line, (variable, call) = i.positions.lineno, (*instructions[n + 1:n + 3], i, i)[:2]
            called = (call.opname, call.arg) == ("CALL", 1)
            if called and variable.opname == "LOAD_CONST" or _asks_for_class(instructions, n):  # type(None)
                continue
            plain = called and variable.opname in LOCALS and variable.argval in own
            asked = variable.argval if plain and (line, variable.argval) not in stored else None
            found[line] = found.get(line, frozenset()) | {asked}
    return found


def _asks_for_class(instructions: list[dis.Instruction], n: int) -> bool:
    """Whether the n-th instruction's `type` stands in isinstance(variable, type), which no number is, nor what stands for one."""
    after, start = instructions[n + 1], start_of_path(instructions, n - 1)
    asked, asks = instructions[start], instructions[start - 1]
    return (after.opname, after.arg) == ("CALL", 2) and asked.opname in LOCALS | READS and asks.opname in READS \
        and asks.argval == "isinstance"


@lru_cache(maxsize=4096)
def called_alone(code: types.CodeType, name: str, attribute: bool = False) -> bool:
    """Whether this code, and that of functions that it defines, does nothing with a global, or with an attribute, but call it."""
    for c in (code, *code_in(code)):
        instructions = list(dis.get_instructions(c))
        for n, i in enumerate(instructions):
            if i.argval == name and (i.opname in ATTRIBUTES) is attribute:
                if not (_attribute_called(instructions, n) if attribute else _takes_null(i)):
                    return False
    return True


@lru_cache(maxsize=4096)
def held_alone(code: types.CodeType, name: str) -> bool:
    """Whether this code, and that of functions that it defines, does nothing with a global, a lock, but hold and let go of it."""
    for c in (code, *code_in(code)):
        instructions = list(dis.get_instructions(c))
        for i, after in zip(instructions, instructions[1:]):
            if i.argval == name and i.opname in READS | _WRITES:
                method = _loads_method(after) and after.argval in ("acquire", "release", "locked")
                if not i.opname.startswith("LOAD") or not method and after.opname != "BEFORE_WITH":
                    return False
    return True


@lru_cache(maxsize=4096)
def membership_alone(code: types.CodeType, name: str) -> bool:
    """Whether this code, and that of functions that it defines, asks a global for nothing but what is in it, or adds to it."""
    for c in (code, *code_in(code)):
        instructions = instructions_of(c)
        for i, after in zip(instructions, instructions[1:]):
            if i.argval == name and i.opname in READS and after.opname != "CONTAINS_OP" \
                    and not (after.opname in ATTRIBUTES and after.argval == "add"):
                return False
    return True


def _takes_null(instruction: dis.Instruction) -> bool:
    """Whether an instruction loads a global for a call, with the NULL that a call takes."""
    return instruction.opname == "LOAD_GLOBAL" and instruction.arg & 1 == 1


def _attribute_called(instructions: list[dis.Instruction], n: int) -> bool:
    """Whether what the n-th instruction does with an attribute is to call it, or to look for an attribute of it."""
    if _loads_method(instructions[n]) or instructions[n + 1].opname in ("LOAD_ATTR", "LOAD_METHOD", "PUSH_NULL"):
        return True
    start = next(k for k in range(n, -1, -1) if k == 0 or instructions[k].opname != "LOAD_ATTR")
    return instructions[n].opname == "LOAD_ATTR" and _takes_null(instructions[start])


@lru_cache(maxsize=4096)
def globals_written(code: types.CodeType) -> tuple[tuple[str, int], ...]:
    """The globals that this code may set or delete, each with its line."""
    return tuple((i.argval, i.positions.lineno) for i in dis.get_instructions(code) if i.opname in _WRITES)


@lru_cache(maxsize=4096)
def attributes_written(code: types.CodeType) -> tuple[tuple[str, int], ...]:
    """The attributes that this code may set or delete, of whatever object, each with its line."""
    return tuple((i.argval, i.positions.lineno) for i in dis.get_instructions(code) if i.opname in ("STORE_ATTR", "DELETE_ATTR"))


@lru_cache(maxsize=4096)
def attributes_loaded(code: types.CodeType) -> frozenset[str]:
    """The attributes that this code may read: those named, but for names that are only ever set."""
    stored = {i.argval for i in dis.get_instructions(code) if i.opname in _STORES}
    used = {i.argval for i in dis.get_instructions(code) if i.opname not in _STORES and isinstance(i.argval, str)}
    return attributes_named(code) - (stored - used)


@lru_cache(maxsize=4096)
def cells_loaded(code: types.CodeType) -> frozenset[str]:
    """The variables of outer functions that this code, or a function that it defines, may read."""
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname != "STORE_DEREF" and i.argval in code.co_freevars)


@lru_cache(maxsize=4096)
def attributes_named(code: types.CodeType) -> frozenset[str]:
    """The attributes that this code may read or write: every name in it, and every text that could be one (getattr)."""
    return texts_named(code).union(code.co_names)


@lru_cache(maxsize=4096)
def attributes_missed(code: types.CodeType) -> frozenset[str]:
    """The attributes that this code may look for where there are none, and go on."""
    if _CATCHING.intersection(code.co_names):
        return attributes_named(code)
    return texts_named(code) if _ASKING.intersection(code.co_names) else frozenset()


@lru_cache(maxsize=4096)
def texts_named(code: types.CodeType) -> frozenset[str]:
    """Every text in this code that could be an attribute's name."""
    return frozenset(filter(str.isidentifier, _texts(code.co_consts)))


def _texts(constants: Iterable) -> Iterator[str]:
    for c in constants:
        if isinstance(c, str):
            yield c
        elif isinstance(c, (tuple, frozenset)):
            yield from _texts(c)


def texts_inside(code: types.CodeType) -> Iterator[str]:
    """The texts in tuples and the like of this code."""
    return _texts(c for c in code.co_consts if isinstance(c, (tuple, frozenset)))


def imports_named(code: types.CodeType, names: dict[str, Any]) -> Iterator[str]:
    """The modules that this code may import; `names` are its globals."""
    for name, level in _imports(code):
        if level:
            package = str(names.get("__package__")).rsplit(".", level - 1)[0]
            name = f"{package}.{name}" if name else package
        yield from dict.fromkeys((name.split(".")[0], name))


def modules_named(code: types.CodeType, names: dict[str, Any]) -> Iterator[str]:
    """The modules that this code may look for in sys.modules, its own among them."""
    if {"sys", "modules"}.issubset(code.co_names):
        yield from {*_texts(code.co_consts), names.get("__name__")}


@lru_cache(maxsize=4096)
def modules_sought(code: types.CodeType) -> frozenset[int]:
    """The lines of this code that use sys.modules by other names than constant ones and its own module's."""
    found, lines = instructions_of(code), set()
    for n, i in enumerate(found[:-2]):
        if i.opname in ("LOAD_ATTR", "LOAD_METHOD") and i.argval == "modules" and n and found[n - 1].argval == "sys":
            before, (after, last) = found[n - 2] if n > 1 else i, found[n + 1:n + 3]
            key = before if after.opname == "CONTAINS_OP" else after if last.opname == "BINARY_SUBSCR" else \
                last if after.argval == "get" else i
            if key.opname != "LOAD_CONST" and key.argval != "__name__":
                lines.add(i.positions.lineno)
    return frozenset(lines)


@lru_cache(maxsize=4096)
def _imports(code: types.CodeType) -> tuple[tuple[str, int], ...]:
    """The modules that this code imports, each with how many packages up from its own."""
    found = list(dis.get_instructions(code))
    return tuple(dict.fromkeys((i.argval, found[n - 2].argval) for n, i in enumerate(found) if i.opname == "IMPORT_NAME"))


@lru_cache(maxsize=4096)
def code_in(code: types.CodeType) -> frozenset[types.CodeType]:
    """The code objects of functions that this code defines, at any depth."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(inner).union(*map(code_in, inner))


def _loads_method(instruction: dis.Instruction) -> bool:
    """Whether an instruction loads an attribute for a call."""
    return instruction.opname == "LOAD_METHOD" or \
        instruction.opname == "LOAD_ATTR" and sys.version_info >= (3, 12) and instruction.arg & 1 == 1


@lru_cache(maxsize=4096)
def uses(code: types.CodeType) -> dict[int, tuple[str, str, tuple]]:
    """Every instruction that loads something by its name: offset -> (instruction, name, what is done with it at once).

    The last is (keys..., method) where items are looked up in it, one in the other, and then a method is called;
    (keys..., STORED) where an item is set in what was found so; (keys..., OTHER) where something else is done with it;
    without keys, (). A key that is no constant is ANY. `setdefault(key, ...)` looks up an item, too."""
    instructions = list(dis.get_instructions(code))
    return {i.offset: (i.opname, i.argval, _chain(instructions[n + 1:n + _AT_ONCE]))
            for n, i in enumerate(instructions) if i.opname in _LOADS}


def _chain(following: list[dis.Instruction]) -> tuple:
    """Follows what was loaded, which lies at the bottom of `depth` objects on Python's stack, with the key or the arguments
    that were loaded since."""
    keys: list = []
    depth, given, called = 1, [], False
    for i in following:
        if depth == 1:
            given, called = [], _loads_method(i)
            if called and i.argval != "setdefault":
                return (*keys, i.argval)
            if not called and (not i.opname.startswith("LOAD_") or i.opname in ATTRIBUTES):
                break
        elif depth == 2 and not called and i.opname == "STORE_SUBSCR":
            return (*keys, STORED)
        elif depth == 2 and not called and i.opname == "COPY":  # an item of which more is made: d["n"] += 1
            return (*keys, _key(given), OTHER)
        elif i.opname in ("COPY", "SWAP") or "JUMP" in i.opname:
            break
        looked_up = depth == 2 and i.opname == "BINARY_SUBSCR" and not called
        depth += dis.stack_effect(i.opcode, i.arg, jump=False)
        if looked_up or called and depth == 1:
            keys.append(_key(given[:1] if called else given))
        elif depth < 2:
            break
        elif not _loads_method(i) or given:
            given.append(i)
    return (*keys, OTHER) if keys else ()


def _key(given: list[dis.Instruction]) -> Any:
    """The constant that instructions load; ANY if they do more."""
    return given[0].argval if len(given) == 1 and given[0].opname == "LOAD_CONST" else ANY
