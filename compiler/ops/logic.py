"""Comparisons, logic, bits, and the choice between values."""
from __future__ import annotations

import operator

import torch

from ..dims import Expr
from ..ir import Value
from ..op import pointwise
from .rules import floats, integers, masked, on_tensors, partials, with_number


def _near(count=2):
    """Samples in which operands are often equal."""
    def samples():
        yield tuple(torch.randint(-2, 3, (3, 4)).float() for _ in range(count)), {}
        yield (torch.randint(-2, 3, (3, 4)).float(), torch.randint(-2, 3, (4,)).float()), {}
        yield (torch.randint(-2, 3, (3, 4)), 1), {}
        yield (torch.randint(-2, 3, (3, 4)), 0.5), {}
    return samples


# Comparisons

def _comparison(name: str, sign: str, function):
    pointwise(name, f"a {sign} b", meaning=function, promotion="compare", samples=_near(),
              scalar=lambda s, x, y: getattr(s, name)(x, y), aten=(f"{name}.Tensor", f"{name}.Scalar"))


for _name, _sign in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    _comparison(_name, _sign, getattr(operator, _name))


# Tests of one value

def _test(name: str, doc: str, function, on_floats, on_integers: bool):
    def scalar(s, x):
        return on_floats(s, x) if x.dtype.is_floating_point else s.const(on_integers, torch.bool)
    pointwise(name, doc, meaning=function, promotion="compare", scalar=scalar, samples=floats(), aten=(name,))


_INF = float("inf")
_test("isnan", "whether a is NaN", torch.isnan, lambda s, x: s.ne(x, x), False)
_test("isinf", "whether a is infinite", torch.isinf, lambda s, x: s.eq(s.abs(x), _INF), False)
_test("isfinite", "whether a is neither infinite nor NaN", torch.isfinite, lambda s, x: s.lt(s.abs(x), _INF), True)
_test("isposinf", "whether a is +inf", torch.isposinf, lambda s, x: s.eq(x, _INF), False)
_test("isneginf", "whether a is -inf", torch.isneginf, lambda s, x: s.eq(x, -_INF), False)


# Logic

def _logical(name: str, doc: str, function, combine):
    pointwise(name, doc, meaning=on_tensors(function), promotion="bool", aten=(name,), samples=_near(),
              scalar=lambda s, *operands: combine(s, *(s.cast(o, torch.bool) for o in operands)))


_logical("logical_and", "a and b, as truth values", torch.logical_and, lambda s, x, y: s.and_(x, y))
_logical("logical_or", "a or b, as truth values", torch.logical_or, lambda s, x, y: s.or_(x, y))
_logical("logical_xor", "whether one of a and b is true", torch.logical_xor, lambda s, x, y: s.xor(x, y))
pointwise("logical_not", "not a, as a truth value", meaning=torch.logical_not, promotion="bool", aten=("logical_not",),
          samples=integers(1), scalar=lambda s, x: s.not_(s.cast(x, torch.bool)))


# Bits

def _bitwise(name: str, doc: str, function, scalar: str):
    pointwise(name, doc, meaning=on_tensors(function), samples=with_number(integers(), 3),
              scalar=lambda s, x, y: getattr(s, scalar)(x, y),
              aten=(f"{name}.Tensor", f"{name}.Scalar", f"{name}.Scalar_Tensor"))


_bitwise("bitwise_and", "a & b", torch.bitwise_and, "and_")
_bitwise("bitwise_or", "a | b", torch.bitwise_or, "or_")
_bitwise("bitwise_xor", "a ^ b", torch.bitwise_xor, "xor")
pointwise("bitwise_not", "~a; on bool, not a", meaning=torch.bitwise_not, scalar=lambda s, x: s.not_(x), samples=integers(1),
          aten=("bitwise_not",))


def _width(dtype: torch.dtype) -> int:
    return dtype.itemsize * 8


def _shift_left(s, x, y):
    """0 where the shift is negative or not less than the width."""
    inside = s.and_(s.ge(y, s.const(0, y.dtype)), s.lt(y, _width(x.dtype)))
    return s.where(inside, s.shl(x, s.where(inside, y, 0)), 0)


def _shift_right(s, x, y):
    """The sign everywhere where the shift is negative or not less than the width."""
    most = _width(x.dtype) - (1 if x.dtype.is_signed else 0)
    inside = s.and_(s.ge(y, s.const(0, y.dtype)), s.lt(y, _width(x.dtype)))
    if not x.dtype.is_signed:
        return s.where(inside, s.shr(x, s.where(inside, y, 0)), 0)
    return s.shr(x, s.where(inside, y, most))


def _shift_samples():
    yield (torch.randint(-50, 50, (3, 4)), torch.randint(-2, 70, (3, 4))), {}
    yield (torch.randint(-50, 50, (3, 4)), 3), {}


for _name, _sign, _function, _scalar in (("left", "<<", torch.bitwise_left_shift, _shift_left),
                                         ("right", ">>", torch.bitwise_right_shift, _shift_right)):
    pointwise(f"bitwise_{_name}_shift", f"a {_sign} b", meaning=on_tensors(_function), samples=_shift_samples, scalar=_scalar,
              aten=(*(f"bitwise_{_name}_shift.{o}" for o in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
                    f"__{_name[0]}shift__.Tensor", f"__{_name[0]}shift__.Scalar"))


# Choice

def _where_samples():
    yield (torch.rand(3, 4) > 0.5, torch.randn(3, 4), torch.randn(3, 4)), {}
    yield (torch.rand(3, 1) > 0.5, torch.randn(4), torch.randn(3, 4)), {}
    yield (torch.rand(3, 4) > 0.5, torch.randn(3, 4), 2.5), {}
    yield (torch.rand(3, 4) > 0.5, -1, torch.randn(3, 4)), {}
    yield (torch.rand(3, 4) > 0.5, torch.randn(()), 1), {}


def _import_where(b, condition, x, y):
    return b.where(condition if condition.dtype == torch.bool else b.ne(condition, 0), x, y)


def _import_masked_fill(b, x, mask, value):
    """Keeps the dtype of x, whatever the value's."""
    if isinstance(value, Expr):
        value = b.scalar(value, dtype=x.dtype, device=x.type.device)
    if isinstance(value, Value):
        value = value if value.dtype == x.dtype else b.cast(value, dtype=x.dtype)
    elif x.dtype == torch.bool:
        value = bool(value)
    elif not x.dtype.is_floating_point:
        value = int(value)
    return _import_where(b, mask, value, x)


pointwise("where", "condition ? a : b", meaning=torch.where, promotion="select", scalar=lambda s, c, x, y: s.where(c, x, y),
          samples=_where_samples, gradient=partials(None, lambda b, v, g: masked(b, v.inputs[0], g),
                                                    lambda b, v, g: b.where(v.inputs[0], 0, g)),
          aten={"where.self": _import_where, "masked_fill.Scalar": _import_masked_fill,
                "masked_fill.Tensor": _import_masked_fill})


def _heaviside(s, x, y):
    return s.where(s.eq(x, 0), y, s.cast(s.gt(x, s.const(0, x.dtype)), x.dtype))


pointwise("heaviside", "0 below 0, 1 above, b at 0", meaning=on_tensors(torch.heaviside), scalar=_heaviside, cost=2,
          samples=lambda: [((torch.randint(-2, 3, (3, 4)).float(), torch.randn(4)), {})], aten=("heaviside",))


def _nan_to_num(s, x, *, nan, posinf, neginf):
    if not x.dtype.is_floating_point:
        return x
    return s.where(s.ne(x, x), nan, s.where(s.eq(x, _INF), posinf, s.where(s.eq(x, -_INF), neginf, x)))


def _import_nan_to_num(b, x, nan=None, posinf=None, neginf=None):
    if not x.dtype.is_floating_point:
        return b.copy(x)
    limits = torch.finfo(x.dtype)
    return b.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=limits.max if posinf is None else posinf,
                        neginf=limits.min if neginf is None else neginf)


pointwise("nan_to_num", "a with numbers in place of NaN and the infinities", meaning=torch.nan_to_num, scalar=_nan_to_num, cost=3,
          gradient=partials(lambda b, v, g: b.mul(g, b.isfinite(v.inputs[0]))), aten={"nan_to_num": _import_nan_to_num},
          samples=lambda: [((torch.tensor([1.0, float("nan"), _INF, -_INF]),), {"nan": 0.0, "posinf": 3.0, "neginf": -4.0})])
