"""The table from scalar op (compiler/scalar.py) to C text on vectors."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...errors import Unsupported
from .helpers import COMPARISONS
from .isa import FORMS, Isa, Vector, register_type

INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
#: on masks, whose true is -1
BOOL = {"add": "{0} | {1}", "mul": "{0} & {1}", "sub": "{0} ^ {1}", "min": "{0} & {1}", "max": "{0} | {1}",
        "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}", "eq": "{0} == {1}", "ne": "{0} != {1}",
        "lt": "~{0} & {1}", "le": "~{0} | {1}"}
#: ops that are a helper on floats; ints have `quotient` and `remainder`
CALLS = {"fma", "min", "max", "abs", "shl", "shr", "floor", "ceil", "trunc", "rint", "sqrt", "exp", "expm1", "log", "log1p",
         "sin", "cos", "tanh", "erf", "normal_cdf", "tanh_cdf", "pow", "atan2", "fmod", "philox"}
INTEGER_CALLS = {"div": "quotient", "fmod": "remainder"}
#: ops that do nothing to a whole number
ROUNDING = {"floor", "ceil", "trunc", "rint"}
#: ops whose result on half floats is a half float without rounding
EXACT = {"neg", "abs", "min", "max", "where", *ROUNDING}
#: dtypes whose constants C takes as they stand beside a vector
LITERALS = (torch.float32, torch.float64, torch.int32, torch.int64)


@dataclass(frozen=True)
class Operand:
    """A value's C text: `vector` is always a vector, `text` may be a plain number."""
    vector: str
    dtype: torch.dtype
    text: str = ""

    @property
    def beside(self) -> str:
        """The text beside a vector in an infix expression."""
        return self.text or self.vector


def literal(value: float | int | bool, dtype: torch.dtype) -> str:
    """A C constant of the element type that vectors of `dtype` have, exactly `value` rounded to `dtype`."""
    if dtype == torch.bool:
        return "-1" if value else "0"
    if dtype.is_floating_point:
        number = torch.tensor(value, dtype=dtype).item()
        suffix = "" if dtype == torch.float64 else "f"
        if math.isnan(number):
            return f'__builtin_nan{suffix}("")'
        if math.isinf(number):
            return f"{'-' if number < 0 else ''}__builtin_inf{suffix}()"
        return repr(number) + suffix
    number = torch.tensor(int(value), dtype=dtype).item()
    if number < -2 ** 31 or number >= 2 ** 31:
        return "(-9223372036854775807LL - 1)" if number == -2 ** 63 else f"{number}{'ULL' if number >= 2 ** 63 else 'LL'}"
    return f"({number + 1} - 1)" if number == -2 ** 31 else str(number)


def constant(value: float | int | bool, dtype: torch.dtype, lanes: int, isa: Isa) -> Operand:
    """A constant as an operand."""
    t, text = register_type(dtype, lanes, isa), literal(value, dtype)
    held = torch.float32 if dtype in FORMS and dtype != torch.bool else dtype
    return Operand(f"splat_{t}({text})", dtype, (f"({text})" if text[0] == "-" else text) if held in LITERALS else "")


def scalar_text(op: str, dtype: torch.dtype, operands: list[Operand], lanes: int, isa: Isa, attr: str = "") -> str:
    """The C expression of a scalar op with result `dtype`."""
    if op == "cast":
        return cast(operands[0], dtype, lanes, isa)
    if op == "where":
        return f"select_{register_type(dtype, lanes, isa)}({', '.join(o.vector for o in operands)})"
    if operands[0].dtype == torch.bool:
        if op not in BOOL:
            raise Unsupported(f"the scalar op {op} on bool")
        return BOOL[op].format(*(o.vector for o in operands))
    text = _arithmetic(op, operands, register_type(operands[0].dtype, lanes, isa), isa, attr)
    if dtype in (torch.float16, torch.bfloat16) and op not in EXACT:
        return f"round_{FORMS[dtype]}_{register_type(dtype, lanes, isa)}({text})"
    return text


def _arithmetic(op: str, operands: list[Operand], t: Vector, isa: Isa, attr: str) -> str:
    if op in COMPARISONS and isa.mask(t.lanes).bits == t.bits:
        return _infix(COMPARISONS[op], operands)
    vectors = ", ".join(o.vector for o in operands)
    if op in COMPARISONS:
        return f"{op}_{t}({vectors})"
    if op == "libm":
        return f"{attr}_{t}({vectors})"
    if op == "neg":
        return f"-{operands[0].vector}"
    if op == "not":
        return f"~{operands[0].vector}"
    if t.kind != "f":
        if op in ROUNDING:
            return operands[0].vector
        if op in INTEGER_CALLS:
            return f"{INTEGER_CALLS[op]}_{t}({vectors})"
    elif op == "div":
        return _infix("/", operands)
    if op in INFIX:
        return _infix(INFIX[op], operands)
    if op not in CALLS:
        raise Unsupported(f"the scalar op {op} in C")
    return f"{op}_{t}({vectors})"


def _infix(sign: str, operands: list[Operand]) -> str:
    """a sign b, where at most one side is a plain number."""
    a, b = operands
    return f"{a.vector if b.text else a.beside} {sign} {b.beside}"


def cast(x: Operand, dtype: torch.dtype, lanes: int, isa: Isa) -> str:
    """The C expression of `x` converted as torch's .to(dtype)."""
    source, to = register_type(x.dtype, lanes, isa), register_type(dtype, lanes, isa)
    if x.dtype == dtype:
        return x.vector
    if dtype == torch.bool:
        return f"ne_{source}({x.vector}, ({source}){{}})"
    if x.dtype == torch.bool:
        return f"select_{to}({x.vector}, splat_{to}(1), ({to}){{}})"
    text = x.vector if source == to else f"{to}_from_{source}({x.vector})"
    return f"round_{FORMS[dtype]}_{to}({text})" if dtype in FORMS else text
