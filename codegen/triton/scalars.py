"""The table from scalar op (compiler/scalar.py) to Triton text.

Functions of `libdevice` are those that eager CUDA calls; Triton's own `exp` and others are less accurate.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import Unsupported
from .helpers import HELPERS

INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "eq": "==", "ne": "!=", "lt": "<", "le": "<="}
#: on bool, where arithmetic is logic
BOOL = {"add": "{0} | {1}", "mul": "{0} & {1}", "sub": "{0} ^ {1}", "min": "{0} & {1}", "max": "{0} | {1}",
        "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}", "eq": "~({0} ^ {1})", "ne": "{0} ^ {1}",
        "lt": "~{0} & {1}", "le": "~{0} | {1}"}
#: Functions of libdevice of the same name, on float32 and float64.
LIBDEVICE = {"exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "pow", "atan2", "fmod", "trunc", "rint", "fma"}
#: ops that do nothing to a whole number
ROUNDING = {"floor", "ceil", "trunc", "rint"}
EXTREMES = {"min": "tl.minimum", "max": "tl.maximum"}
INTEGER = {"div": "{0} // {1}", "fmod": "{0} % {1}"}
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Operand:
    """A value's text. A literal takes the dtype of what it stands beside, so two of them may not meet."""
    text: str
    dtype: torch.dtype
    literal: bool = False

    @property
    def typed(self) -> str:
        """Text that has the dtype whatever it stands beside."""
        return f"tl.full((), {self.text}, {type_text(self.dtype)})" if self.literal else self.text


def type_text(dtype: torch.dtype) -> str:
    return "tl.int1" if dtype == torch.bool else "tl." + str(dtype).removeprefix("torch.")


def literal(value: float | int | bool, dtype: torch.dtype) -> str:
    """A Python number that is exactly `value` rounded to `dtype`."""
    number = torch.tensor(value if dtype.is_floating_point or dtype == torch.bool else int(value), dtype=dtype).item()
    if dtype.is_floating_point and not math.isfinite(number):
        return f'float("{number}")'
    if dtype == torch.float32 and torch.tensor(float(short := str(np.float32(number)))).item() == number:
        return short
    return repr(number)


def constant(value: float | int | bool, dtype: torch.dtype) -> Operand:
    return Operand(literal(value, dtype), dtype, literal=True)


def scalar_text(op: str, dtype: torch.dtype, operands: list[Operand], attr: str = "") -> str:
    """The Triton expression of a scalar op with result `dtype`."""
    if op == "cast":
        return cast(operands[0], dtype)
    if operands[0].dtype == torch.bool and op != "where":
        if op not in BOOL:
            raise Unsupported(f"the scalar op {op} on bool")
        return BOOL[op].format(*(o.typed for o in operands))
    if operands[-1].dtype in HALVES and op != "where":
        wide = [Operand(cast(o, torch.float32), torch.float32) for o in operands]
        if dtype == torch.bool:
            return scalar_text(op, dtype, wide, attr)
        return cast(Operand(f"({scalar_text(op, torch.float32, wide, attr)})", torch.float32), dtype)
    return _arithmetic(op, operands, attr)


def _arithmetic(op: str, operands: list[Operand], attr: str) -> str:
    """On numbers but float16 and bfloat16."""
    dtype, typed = operands[-1].dtype, [o.typed for o in operands]
    beside = _beside(operands)
    if op in INFIX:
        return f"{beside[0]} {INFIX[op]} {beside[1]}"
    if op == "where":
        return f"tl.where({', '.join(beside)})"
    if op in ("neg", "not"):
        return f"{'-' if op == 'neg' else '~'}{typed[0]}"
    if op in EXTREMES:
        return f"{EXTREMES[op]}({', '.join(beside)}{', tl.PropagateNan.ALL' if dtype.is_floating_point else ''})"
    if op in ("shl", "shr"):
        return f"shift_{'left' if op == 'shl' else 'right'}({', '.join(typed)}, {torch.iinfo(dtype).bits})"
    if op == "abs":
        return typed[0] if dtype == torch.uint8 else f"tl.abs({typed[0]})"
    if op in HELPERS:
        return f"{op}({', '.join(typed)})"
    if not dtype.is_floating_point:
        if op in ROUNDING:
            return typed[0]
        if op in INTEGER:
            return INTEGER[op].format(*beside)
    return _floating(op, dtype, typed, attr)


def _floating(op: str, dtype: torch.dtype, typed: list[str], attr: str) -> str:
    arguments = ", ".join(typed)
    if op == "div":  # Triton's / is an approximation on float32
        return f"tl.div_rn({arguments})" if dtype == torch.float32 else f"{typed[0]} / {typed[1]}"
    if op == "sqrt":
        return f"tl.sqrt_rn({arguments})" if dtype == torch.float32 else f"tl.sqrt({arguments})"
    if op in ("floor", "ceil"):
        return f"tl.{op}({arguments})"
    if op == "libm":
        return f"libdevice.{attr}({arguments})"
    if op in LIBDEVICE:
        return f"libdevice.{op}({arguments})"
    raise Unsupported(f"the scalar op {op} in Triton")


def _beside(operands: list[Operand]) -> list[str]:
    """The texts of operands that stand beside each other: a literal may stand as it is beside another operand of its dtype.

    A negative zero may not: Triton has no literal for it.
    """
    known = {o.dtype for o in operands if not o.literal}
    texts = []
    for o in operands:
        bare = o.literal and o.dtype in known and o.text != "-0.0" and o.dtype not in HALVES
        texts.append(f"({o.text})" if bare and o.text[0] == "-" else o.text if bare else o.typed)
        known.add(o.dtype)
    return texts


def cast(x: Operand, dtype: torch.dtype) -> str:
    """The Triton expression of `x` converted as torch's .to(dtype): float16 and bfloat16 by way of float32."""
    text, source = x.typed, x.dtype
    if source == dtype:
        return text
    if source in HALVES:
        return cast(Operand(f"{_attribute(text)}.to(tl.float32)", torch.float32), dtype)
    if dtype in HALVES:
        return f"{_attribute(cast(x, torch.float32))}.to({type_text(dtype)})"
    if dtype == torch.bool:
        return f"{text} != 0"
    if source.is_floating_point and not dtype.is_floating_point and dtype.itemsize < 4:
        return f"{_attribute(text)}.to(tl.int32).to({type_text(dtype)})"
    return f"{_attribute(text)}.to({type_text(dtype)})"


def _attribute(text: str) -> str:
    """Text of which an attribute can be taken."""
    return text if text.isidentifier() or text.endswith(")") else f"({text})"
