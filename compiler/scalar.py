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
    ScalarOp("normal_cdf", 1, "(1 + erf(a / sqrt 2)) / 2, as exact as numbers beside 1 are: not in the lower tail", cost=12),
    ScalarOp("tanh_cdf", 1, "(1 + tanh(sqrt(2 / pi) (a + 0.044715 a**3))) / 2, which is near normal_cdf; as exact", cost=12),
    ScalarOp("pow", 2, "a**b on floats, all IEEE special cases", cost=30),
    ScalarOp("atan2", 2, "angle of (b, a)", cost=30),
    ScalarOp("philox", 2, "32 random bits for (key, counter), both int64: the first word of Philox-4x32-10", cost=40),
    ScalarOp("libm", 1, "a function of C's math library by name: tan asin acos atan sinh cosh asinh acosh atanh exp2 log2 log10"
             " erfc lgamma", cost=40),
)}


class Scalars:
    """What a record's `scalar` is given as `s`: one method per scalar op, on operands that have a `.dtype`.

    A Python number among the operands is a constant of the other operands' dtype. Methods whose name is a Python keyword
    end in an underscore (`s.and_`, `s.or_`, `s.not_`). float16/bfloat16 never appear: operands arrive as float32, and
    the result is rounded once by the caller. A caller (lowering, the tests' reference) supplies `const`,
    `index`, `apply` and `check`.
    """

    def const(self, value, dtype):
        """A number as an operand of (the arithmetic dtype of) this dtype."""
        raise NotImplementedError

    def index(self, expression):
        """An index expression (compiler/dims.py) as an int64 operand."""
        raise NotImplementedError

    def apply(self, op: ScalarOp, args: tuple, dtype: torch.dtype, attr: str = ""):
        """The scalar op on operands, which are none of them numbers; `dtype` is the result's."""
        raise NotImplementedError

    def check(self, ok, message: str):
        """The call fails with RuntimeError(message) where the bool operand `ok` is false."""
        raise NotImplementedError

    def cast(self, x, dtype):
        dtype = arithmetic_dtype(dtype)
        return x if x.dtype == dtype else self.apply(SCALAR["cast"], (x,), dtype)

    def libm(self, x, function: str):
        """The function of C's math library of this name."""
        return self.apply(SCALAR["libm"], (x,), x.dtype, function)

    def where(self, condition, a, b):
        a, b = self._operands((a, b))
        return self.apply(SCALAR["where"], (condition, a, b), a.dtype)

    def gt(self, a, b):
        return self.lt(b, a)

    def ge(self, a, b):
        return self.le(b, a)

    def __getattr__(self, name: str):
        op = SCALAR.get(name.removesuffix("_"))
        if op is None:
            raise AttributeError(f"there is no scalar op {name!r}")

        def method(*args):
            operands = self._operands(args)
            return self.apply(op, operands, torch.bool if op.result == "bool" else operands[0].dtype)
        return method

    def _operands(self, args: tuple) -> tuple:
        """The operands with every number made a constant of the others' dtype."""
        dtype = next(a.dtype for a in args if not isinstance(a, (bool, int, float)))
        return tuple(self.const(a, dtype) if isinstance(a, (bool, int, float)) else a for a in args)


def rounded(number: bool | int | float | complex, dtype: torch.dtype) -> bool | int | float | complex:
    """A number as a tensor of this dtype holds it: a whole one that is too large wraps around."""
    widest = {float: torch.float64, complex: torch.complex128}.get(type(number))
    return torch.tensor(number, dtype=widest).to(dtype).item()


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values of this dtype are computed in: float32 for float16 and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
