"""Arrays that a function hands over: whether what a call gives goes to the caller of the function that smelt called, as in
`return y.numpy()`, and nothing else is done with it."""
from __future__ import annotations

import dis
import types
from functools import lru_cache

from .names import ATTRIBUTES, LOCALS
from .places import SMELT, TORCH, kind_of_file

#: A call's function is named within so many instructions before its argument.
_NEAR = 48
#: Objects that an instruction takes off Python's stack.
_TAKES = {"LOAD_ATTR": 1, "LOAD_METHOD": 1, "BINARY_OP": 2, "BINARY_SUBSCR": 2, "POP_TOP": 1, "COMPARE_OP": 2}
#: Functions of NumPy's that stand-ins for arrays have a method for.
_READERS = {"argmax"}
#: Of those that build containers, how many objects for each item.
_BUILDS = {"BUILD_TUPLE": 1, "BUILD_LIST": 1, "BUILD_MAP": 2, "BUILD_CONST_KEY_MAP": 1}
#: Instructions that take nothing and leave what lies there.
_KEPT = {"PRECALL", "CACHE", "KW_NAMES", "NOP", "RESUME", "PUSH_NULL", "NOT_TAKEN"}


def handed_over(frame: types.FrameType | None) -> bool:
    """Whether the function that smelt called gives what the call under way in this frame gives, or a container with it."""
    if frame is None:
        return False
    outer = frame.f_back
    while outer is not None and kind_of_file(outer.f_code.co_filename) == TORCH:
        outer = outer.f_back
    return outer is not None and kind_of_file(outer.f_code.co_filename) == SMELT and _returned(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=4096)
def _returned(code: types.CodeType, offset: int) -> bool:
    """Whether what the instruction at an offset gives is returned, by itself or in a container, or given to a function of NumPy's
    that arrays have a method for, and nothing else done with it."""
    found = list(dis.get_instructions(code))
    after = next((n for n, i in enumerate(found) if i.offset > offset), len(found))
    depth = 1  # of what is looked for, from the top of the stack
    for n, i in enumerate(found[after:], after):
        if i.opname == "RETURN_VALUE":
            return depth == 1
        if depth == 1 and i.opname == "STORE_FAST":
            loads = [k for k, other in enumerate(found) if other.opname in LOCALS and other.argval == i.argval]
            return len(loads) == 1 and loads[0] > n and _returned(code, found[loads[0]].offset)
        if i.opname in _BUILDS:
            taken = i.arg * _BUILDS[i.opname] + (i.opname == "BUILD_CONST_KEY_MAP")
            depth = 1 if taken >= depth else depth - taken + 1
        elif i.opname == "SWAP":
            depth = i.arg if depth == 1 else 1 if depth == i.arg else depth
        else:
            if depth == 1 and i.opname == "CALL" and i.arg == 1:
                return any(f.argval in _READERS and f.opname in ATTRIBUTES for f in found[max(after - _NEAR, 0):after])
            taken = i.arg + 2 if i.opname == "CALL" else _TAKES.get(i.opname, 0)
            if taken >= depth or not (taken or i.opname.startswith("LOAD_") or i.opname in _KEPT):
                return False
            if i.opname != "PRECALL":  # of which CALL is the other half
                depth += 1 - taken if i.opname == "CALL" else dis.stack_effect(i.opcode, i.arg, jump=False)
    return False
