"""The scalar ops on torch tensors: what a backend has to compute, run without a backend."""
from __future__ import annotations

import ctypes
import ctypes.util
import math

import numpy as np
import torch

from smelt.compiler.dims import Expr, Sym
from smelt.compiler.op import operand_dtypes
from smelt.compiler.scalar import SCALAR, ScalarOp, Scalars, arithmetic_dtype

_libm = ctypes.CDLL(ctypes.util.find_library("m"))


def _fused(a, b, c):
    """a*b + c rounded once, by C's fma."""
    function, number = (_libm.fmaf, ctypes.c_float) if c.dtype == torch.float32 else (_libm.fma, ctypes.c_double)
    function.restype, function.argtypes = number, [number] * 3
    rows = torch.broadcast_tensors(a, b, c)
    flat = [function(*row) for row in zip(*(r.reshape(-1).tolist() for r in rows))]
    return torch.tensor(flat, dtype=c.dtype).reshape(rows[0].shape)


def _quotient(a, b):
    return torch.div(a, b) if a.dtype.is_floating_point else torch.div(a, b, rounding_mode="trunc")


def _remainder(a, b):
    """C's fmod, exact however far apart the operands are (torch's vector code is not)."""
    return torch.from_numpy(np.fmod(a.numpy(), b.numpy())) if a.dtype.is_floating_point else torch.fmod(a, b)


def _square_root(x):
    """Correctly rounded (torch's vector code is not in float64)."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def _philox(key, counter):
    """By Python's own integers."""
    def word(key, counter):
        low = 2 ** 32 - 1
        k, c = [key & low, key >> 32 & low], [counter & low, counter >> 32 & low, 0, 0]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [b >> 32 ^ c[1] ^ k[0], b & low, a >> 32 ^ c[3] ^ k[1], a & low]
            k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
        return c[0]
    keys, counters = torch.broadcast_tensors(key, counter)
    return torch.tensor([*map(word, keys.flatten().tolist(), counters.flatten().tolist())]).reshape(keys.shape)


FUNCTIONS = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": _quotient, "fmod": _remainder, "fma": _fused, "neg": torch.neg,
    "abs": torch.abs, "min": torch.minimum, "max": torch.maximum, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le,
    "where": torch.where, "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor, "not": torch.bitwise_not,
    "shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift, "floor": torch.floor, "ceil": torch.ceil,
    "trunc": torch.trunc,
    "rint": torch.round, "sqrt": _square_root, "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p,
    "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "erf": torch.erf, "pow": torch.pow, "atan2": torch.atan2,
    "normal_cdf": lambda x: (torch.erf(x * 0.5 ** 0.5) + 1) / 2,
    "tanh_cdf": lambda x: (torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x ** 3)) + 1) / 2, "philox": _philox}

#: ops that every backend computes to the last bit; the others are approximations
EXACT = {"add", "sub", "mul", "div", "fmod", "fma", "neg", "abs", "eq", "ne", "lt", "le", "where", "and", "or", "xor", "not",
         "shl", "shr", "floor", "ceil", "trunc", "rint", "sqrt", "cast", "philox"}


class TorchScalars(Scalars):
    """Operands are tensors. `used` collects the names of the scalar ops; `indices` gives symbols of index expressions values."""

    def __init__(self, indices: dict[Sym, torch.Tensor] | None = None):
        self.used: set[str] = set()
        self.indices = indices or {}

    def const(self, value, dtype):
        return torch.tensor(value, dtype=dtype).to(arithmetic_dtype(dtype))

    def index(self, expression: Expr):
        total = torch.tensor(0)
        for atoms, factor in expression.terms:
            product = torch.tensor(factor)
            for atom in atoms:
                product = product * self.indices[atom]
            total = total + product
        return total

    def apply(self, op: ScalarOp, args: tuple, dtype: torch.dtype, attr: str = ""):
        assert len(args) == op.arity, f"{op.name} takes {op.arity} operands"
        same = args[1:] if op.name == "where" else args
        assert len({a.dtype for a in same}) == 1, f"{op.name} of {[a.dtype for a in args]}"
        assert not {torch.float16, torch.bfloat16} & {a.dtype for a in args}
        self.used.add(op.name)
        if op.name == "cast":
            return args[0].to(dtype)
        result = getattr(torch, attr)(*args) if op.name == "libm" else FUNCTIONS[op.name](*args)
        assert result.dtype == dtype, f"{op.name} gave {result.dtype}, its record says {dtype}"
        return result

    def check(self, ok, message: str):
        if not bool(ok.all()):
            raise RuntimeError(message)


def compute(v, inputs, s: TorchScalars | None = None) -> torch.Tensor:
    """A pointwise value's result from its record's scalar meaning, with conversions and roundings as lowering does them."""
    s = s or TorchScalars()
    operands = []
    for x, dtype in zip(inputs, operand_dtypes(v)):
        x = x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)
        operands.append(x.to(dtype).to(arithmetic_dtype(dtype)))
    result = v.op.scalar(s, *operands, **v.attrs)
    return result.to(v.dtype).expand(v.shape)


assert set(FUNCTIONS) | {"cast", "libm"} == set(SCALAR)
