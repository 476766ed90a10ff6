"""Claims: places in code that ask whether something is true, and raise if it is not: `assert x.min() > 0`, checks of arguments.

What a run does behind one can be computed before anybody looks whether it holds: where it does not, the run is discarded, and
the function itself raises."""
from __future__ import annotations

import dis
import types
from functools import lru_cache


def claims(frame: types.FrameType | None, truth: bool) -> bool:
    """Whether the innermost code that asks now whether something is true only raises where the answer is another one."""
    while frame is not None:
        asked = _askings(frame.f_code).get(frame.f_lasti)
        if asked is not None:
            return (not truth) in asked
        frame = frame.f_back
    return False


@lru_cache(maxsize=4096)
def _askings(code: types.CodeType) -> dict[int, frozenset[bool]]:
    """The instructions that ask for the truth of something, by their offsets, each with the answers that lead to nothing but an
    exception."""
    found = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    at = {i.offset: n for n, i in enumerate(found)}
    askings: dict[int, frozenset[bool]] = {}
    for n, i in enumerate(found):
        if i.opname.startswith("POP_JUMP") and i.opname.endswith(("IF_TRUE", "IF_FALSE")):
            jumps_if = i.opname.endswith("IF_TRUE")
            raising = {jumps_if} if _raises(found[at[i.argval]:]) else set()
            raising |= {not jumps_if} if _raises(found[n + 1:]) else set()
            before = found[n - 1] if n else i
            earlier = before.opname == "TO_BOOL" or before.opname == "COMPARE_OP" and "bool" in before.argrepr  # from 3.13 on
            askings[(before if earlier else i).offset] = frozenset(raising)
    return askings


def _raises(instructions: list[dis.Instruction]) -> bool:
    """Whether these come to a `raise` without a choice."""
    for i in instructions:
        if i.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in i.opname or i.opname.startswith(("RETURN", "YIELD", "SEND", "FOR_ITER", "RERAISE")):
            return False
    return False
