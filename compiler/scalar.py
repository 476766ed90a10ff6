"""The closed list of scalar ops: all that a backend has to print.

An op of the IR says what it means in these (its record's `scalar`); a backend is a table from them to text. Every one
has IEEE semantics on floats: NaN propagates (also through `min` and `max`), signed zeros and infinities are kept.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ScalarOp:
    """`arity` operands of one dtype (but `where`, whose first is bool, and `cast`, whose operand has any)."""
    name: str
    arity: int
    doc: str
    result: str = "same"  # "same" as the operands, "bool", or "attr" (the dtype given)
    cost: float = 1.0


SCALAR: dict[str, ScalarOp] = {s.name: s for s in (
    ScalarOp("add", 2, "a + b; integers wrap"),
    ScalarOp("sub", 2, "a - b; integers wrap"),
    ScalarOp("mul", 2, "a * b; integers wrap"),
    ScalarOp("div", 2, "a / b on floats; on integers the quotient truncated toward zero, b != 0 checked before", cost=4),
    ScalarOp("fmod", 2, "remainder with the sign of a, as C's fmod and integer %", cost=8),
    ScalarOp("fma", 3, "a*b + c rounded once"),
    ScalarOp("neg", 1, "-a"),
    ScalarOp("abs", 1, "|a|"),
    ScalarOp("min", 2, "smaller; NaN if either is NaN"),
    ScalarOp("max", 2, "larger; NaN if either is NaN"),
    ScalarOp("eq", 2, "a == b", "bool"),
    ScalarOp("ne", 2, "a != b", "bool"),
    ScalarOp("lt", 2, "a < b", "bool"),
    ScalarOp("le", 2, "a <= b", "bool"),
    ScalarOp("where", 3, "c ? a : b", "same"),
    ScalarOp("and", 2, "bitwise; logical on bool"),
    ScalarOp("or", 2, "bitwise; logical on bool"),
    ScalarOp("xor", 2, "bitwise; logical on bool"),
    ScalarOp("not", 1, "bitwise; logical on bool"),
    ScalarOp("shl", 2, "a << b"),
    ScalarOp("shr", 2, "a >> b, arithmetic on signed integers"),
    ScalarOp("floor", 1, "largest integer <= a"),
    ScalarOp("ceil", 1, "smallest integer >= a"),
    ScalarOp("trunc", 1, "toward zero"),
    ScalarOp("rint", 1, "nearest, ties to even"),
    ScalarOp("sqrt", 1, "square root, correctly rounded", cost=5),
    ScalarOp("cast", 1, "to another dtype, as torch's .to(): floats to integers truncate, anything != 0 to bool is true", "attr"),
    ScalarOp("exp", 1, "e**a", cost=12),
    ScalarOp("expm1", 1, "e**a - 1 accurate near 0", cost=15),
    ScalarOp("log", 1, "natural logarithm", cost=12),
    ScalarOp("log1p", 1, "log(1 + a) accurate near 0", cost=15),
    ScalarOp("sin", 1, "sine", cost=15),
    ScalarOp("cos", 1, "cosine", cost=15),
    ScalarOp("tanh", 1, "hyperbolic tangent", cost=15),
    ScalarOp("erf", 1, "error function", cost=15),
    ScalarOp("pow", 2, "a**b on floats, all IEEE special cases", cost=30),
    ScalarOp("atan2", 2, "angle of (b, a)", cost=30),
    ScalarOp("libm", 1, "a function of C's math library by name: tan asin acos atan sinh cosh asinh acosh atanh exp2 log2 log10 erfc lgamma", cost=40),
)}
