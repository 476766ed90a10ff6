"""What the code of a function does with its arguments, read off its bytecode before it runs."""
from __future__ import annotations

import dis
import inspect
import types
from functools import lru_cache
from typing import Callable

from torch import nn

from ..torch_internals import GLOBAL_MODULE_HOOKS

#: Names by which code may look at all variables.
_LOOKING = {"locals", "vars", "dir", "eval", "exec", "breakpoint", "_getframe", "currentframe", "super"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def code_called(function: Callable) -> tuple[types.CodeType, int] | None:
    """The code that gets the arguments of a call of a function, of a method or of a module without hooks, and how many come
    before them; None for anything else."""
    if isinstance(function, types.MethodType) and function.__func__ is nn.Module.__call__:
        module = function.__self__
        if any(getattr(module, hooks) for hooks in _HOOKS) or any(GLOBAL_MODULE_HOOKS.values()):
            return None
        function = module.forward
    before = int(isinstance(function, types.MethodType))
    function = function.__func__ if before else function
    return (function.__code__, before) if isinstance(function, types.FunctionType) else None


@lru_cache(maxsize=4096)
def keys_read(code: types.CodeType, before: int, argument: int | str) -> tuple | None:
    """The keys of the items that this code looks up in an argument, by its position behind `before` others or its name; None if
    it may do more with it than to look up items by constants."""
    positional, named = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    if isinstance(argument, int):
        variable = code.co_varnames[before + argument] if before + argument < positional else ""
    else:
        variable = argument if argument in code.co_varnames[code.co_posonlyargcount:named] else ""
    stays = not code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)
    if not variable or not stays or variable in code.co_cellvars or _LOOKING.intersection(code.co_names):
        return None
    found = {}
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "CACHE")]
    for i, key, use in zip(instructions, instructions[1:], instructions[2:]):
        names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
        if "FAST" in i.opname and variable in names:
            loads = i.opname.startswith("LOAD_FAST") and i.opname != "LOAD_FAST_AND_CLEAR" or i.opname == "STORE_FAST_LOAD_FAST"
            looks_up = (key.opname, use.opname) == ("LOAD_CONST", "BINARY_SUBSCR")
            if not loads or not looks_up or names.index(variable) != len(names) - 1:
                return None
            found[key.argval] = None
    return tuple(found)
