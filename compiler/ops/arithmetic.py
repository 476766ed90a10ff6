"""Arithmetic: sums, products, quotients, powers, rounding, extremes and their fused forms."""
from __future__ import annotations

import operator
from functools import partial
from math import inf, isnan, log, nan
from typing import Callable

import torch

from ...errors import Unsupported
from ..dims import Expr, equal
from ..ir import Value
from ..op import Op, common_dtype, pointwise, register
from ..scalar import arithmetic_dtype
from .rules import floats, is_cut, masked, on_tensors, partials, passed, with_number, zero

pairs = with_number(floats(2), 2.5)
positive = floats(low=0.2, high=4.0)


def _with_factor(count: int, *factors, low: float = -3.0):
    """Samples of `count` tensors and a number."""
    return lambda: [((*inputs, factor), attrs) for factor in factors for inputs, attrs in floats(count, low=low)()]


def _is_bool(x) -> bool:
    return x.dtype == torch.bool


# Sums

def _scaled(plain: str, sign: int = 1):
    """Import of add and sub, whose second operand is scaled by `alpha`."""
    def convert(b, x, y, alpha=1):
        if alpha == 1:
            return b.emit(plain, x, y)
        return NotImplemented if common_dtype((x, y)) == torch.bool else b.add_scaled(x, y, sign * alpha)
    return convert


def _reversed_sub(b, x, y, alpha=1):
    return _scaled("sub", -1)(b, y, x, alpha)


pointwise("add", "a + b; on bool, a or b", meaning=operator.add, samples=pairs, gradient=partials(passed, passed),
          scalar=lambda s, x, y: s.or_(x, y) if _is_bool(x) else s.add(x, y),
          aten={"add.Tensor": _scaled("add"), "add.Scalar": _scaled("add")})

pointwise("sub", "a - b", meaning=operator.sub, samples=pairs, scalar=lambda s, x, y: s.sub(x, y),
          gradient=partials(passed, lambda b, v, g: b.neg(g)),
          aten={"sub.Tensor": _scaled("sub", -1), "sub.Scalar": _scaled("sub", -1),
                "rsub.Tensor": _reversed_sub, "rsub.Scalar": _reversed_sub})


def _multiply_add(s, a, b, c):
    """a*b + c, rounded once on floats, as torch's vector code does it."""
    return s.fma(a, b, c) if c.dtype.is_floating_point else s.add(s.mul(a, b), c)


pointwise("add_scaled", "a + alpha * b, rounded once: torch.add and torch.sub with their alpha",
          meaning=lambda x, y, alpha: torch.add(x, y, alpha=alpha),
          scalar=lambda s, x, y, alpha: _multiply_add(s, y, alpha, x),
          gradient=partials(passed, lambda b, v, g: b.mul(g, v.inputs[2]), None), samples=_with_factor(2, 0.3, -2.0))


# Products

pointwise("mul", "a * b; on bool, a and b", meaning=operator.mul, samples=pairs, exact=(1,),
          scalar=lambda s, x, y: s.and_(x, y) if _is_bool(x) else s.mul(x, y),
          gradient=partials(lambda b, v, g: b.mul(g, v.inputs[1]), lambda b, v, g: b.mul(g, v.inputs[0])),
          aten=("mul.Tensor", "mul.Scalar"))


def _addcmul(x, y, z, value):
    if is_cut(x.dtype, value):
        raise TypeError(f"a factor {value} of {x.dtype}")
    return torch.addcmul(x, y, z, value=value)


def _import_addcmul(b, x, y, z, value=1):
    return NotImplemented if is_cut(common_dtype((x, y, z)), value) else b.addcmul(x, y, z, value)


pointwise("addcmul", "a + value * b * c, the last product and the sum rounded once", exact=(3,), meaning=_addcmul,
          scalar=lambda s, x, y, z, value: _multiply_add(s, s.mul(y, value), z, x),
          gradient=partials(passed, lambda b, v, g: b.mul(g, b.mul(v.inputs[2], v.inputs[3])),
                            lambda b, v, g: b.mul(g, b.mul(v.inputs[1], v.inputs[3])), None),
          samples=_with_factor(3, 0.3, 1), aten={"addcmul": _import_addcmul})


# Quotients

def _mode(b, x, y, rounding_mode=None):
    """In float16/bfloat16 torch rounds the quotient before it truncates it, unless the divisor is one number."""
    if rounding_mode == "trunc":
        dtype = common_dtype((x, y))
        twice = arithmetic_dtype(dtype) != dtype and isinstance(y, Value) and not equal(y.type.numel, 1)
        return b.trunc(b.div(x, y)) if twice else b.div_trunc(x, y)
    return b.emit("div" if rounding_mode is None else "div_floor", x, y)


def _division(rounding_mode: str | None = None):
    """torch.div, which takes a number as its divisor only."""
    divide = partial(torch.div, rounding_mode=rounding_mode)
    return lambda x, y: divide(x, y) if isinstance(x, torch.Tensor) else on_tensors(divide)(x, y)


pointwise("div", "a / b; integers give the default float", meaning=_division(), promotion="float", cost=4, exact=(1,),
          scalar=lambda s, x, y: s.div(x, y), samples=with_number(floats(2, low=0.5), 2.5),
          gradient=partials(lambda b, v, g: b.div(g, v.inputs[1]),
                            lambda b, v, g: b.mul(b.neg(g), b.div(b.div(v.inputs[0], v.inputs[1]), v.inputs[1]))),
          aten={"div.Tensor": _mode, "div.Scalar": _mode, "div.Tensor_mode": _mode, "div.Scalar_mode": _mode})


def _checked(s, y):
    """Before an integer is divided by y: torch's error for zero."""
    if not y.dtype.is_floating_point:
        s.check(s.ne(y, 0), "ZeroDivisionError")


def _div_trunc(s, x, y):
    _checked(s, y)
    q = s.div(x, y)
    return s.trunc(q) if q.dtype.is_floating_point else q


def _wrong_side(s, remainder, y):
    """Whether a remainder is not zero and has not the divisor's sign."""
    return s.and_(s.ne(remainder, 0), s.ne(s.lt(remainder, 0), s.lt(y, 0)))


def _div_floor(s, x, y):
    """Python's floor division: from the exact remainder, so that no rounding of the quotient crosses an integer."""
    _checked(s, y)
    remainder = s.fmod(x, y)
    wrong = _wrong_side(s, remainder, y)
    if not x.dtype.is_floating_point:
        q = s.div(x, y)
        return s.where(wrong, s.sub(q, 1), q)
    plain = s.div(x, y)
    q = s.div(s.sub(x, remainder), y)
    q = s.where(wrong, s.sub(q, 1), q)
    low = s.floor(q)
    low = s.where(s.gt(s.sub(q, low), 0.5), s.add(low, 1), low)
    signed_zero = s.mul(plain, 0.0)
    low = s.where(s.eq(q, 0), signed_zero, low)
    return s.where(s.eq(y, 0), plain, low)


def _div_trunc_meaning(x, y):
    dtype = torch.result_type(x, y)
    wide = arithmetic_dtype(dtype)
    x, y = (i.to(wide) if isinstance(i, torch.Tensor) and wide != dtype else i for i in (x, y))
    return on_tensors(lambda x, y: torch.div(x, y, rounding_mode="trunc"))(x, y).to(dtype)


pointwise("div_trunc", "a / b rounded toward zero, once", raises=True, cost=5, exact=(1,), scalar=_div_trunc,
          gradient=partials(zero, zero), meaning=_div_trunc_meaning, samples=with_number(floats(2, low=0.5), 2.5))

pointwise("div_floor", "a / b rounded down, exactly", raises=True, cost=16, exact=(1,), scalar=_div_floor,
          gradient=partials(zero, zero), meaning=_division("floor"), samples=with_number(floats(2, low=0.5), 2.5),
          aten=("floor_divide", "floor_divide.Scalar"))


def _fmod(s, x, y):
    _checked(s, y)
    return s.fmod(x, y)


def _remainder(s, x, y):
    r = _fmod(s, x, y)
    return s.where(_wrong_side(s, r, y), s.add(r, y), r)


pointwise("fmod", "remainder with the sign of a", raises=True, cost=10, scalar=_fmod, meaning=on_tensors(torch.fmod),
          samples=with_number(floats(2, low=0.5), 2.5), aten=("fmod.Tensor", "fmod.Scalar"),
          gradient=partials(passed, lambda b, v, g: b.mul(b.neg(g), b.div_trunc(*v.inputs))))

pointwise("remainder", "remainder with the sign of b, as Python's %", raises=True, cost=12, scalar=_remainder,
          meaning=on_tensors(torch.remainder), samples=with_number(floats(2, low=0.5), 2.5),
          aten=("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor"),
          gradient=partials(passed, lambda b, v, g: b.mul(b.neg(g), b.div_floor(*v.inputs))))

def _addcdiv_divisor(b, v, g):
    _, y, z, value = v.inputs
    return b.mul(b.neg(g), b.div(b.mul(y, value), b.mul(z, z)))


pointwise("addcdiv", "a + value * b / c", exact=(3,), cost=6,
          meaning=lambda x, y, z, value: torch.addcdiv(x, y, z, value=value),
          scalar=lambda s, x, y, z, value: s.add(x, s.div(s.mul(y, value), z)),
          gradient=partials(passed, lambda b, v, g: b.mul(g, b.div(v.inputs[3], v.inputs[2])), _addcdiv_divisor, None),
          samples=_with_factor(3, 0.3, 1, low=0.5),
          aten={"addcdiv": lambda b, x, y, z, value=1: b.addcdiv(x, y, z, value)})

pointwise("reciprocal", "1 / a", meaning=torch.reciprocal, promotion="float", cost=4, samples=positive, aten=("reciprocal",),
          scalar=lambda s, x: s.div(s.const(1, x.dtype), x),
          gradient=partials(lambda b, v, g: b.mul(b.neg(g), b.mul(v, v))))


# Signs

pointwise("neg", "-a", meaning=torch.neg, scalar=lambda s, x: s.neg(x), samples=floats(), aten=("neg",),
          gradient=partials(lambda b, v, g: b.neg(g)))

pointwise("abs", "|a|", meaning=torch.abs, scalar=lambda s, x: s.abs(x), samples=floats(), aten=("abs",),
          gradient=partials(lambda b, v, g: b.mul(g, b.sign(v.inputs[0]))))


def _sign(s, x):
    if _is_bool(x):
        return x
    return s.sub(s.cast(s.gt(x, s.const(0, x.dtype)), x.dtype), s.cast(s.lt(x, 0), x.dtype))


pointwise("sign", "-1, 0 or 1; 0 for NaN", meaning=torch.sign, scalar=_sign, samples=floats(), aten=("sign", "sgn"),
          gradient=partials(zero))


# Powers

pointwise("sqrt", "square root", meaning=torch.sqrt, promotion="float", cost=5, samples=positive, aten=("sqrt",),
          scalar=lambda s, x: s.sqrt(x), gradient=partials(lambda b, v, g: b.div(g, b.mul(v, 2))))

pointwise("rsqrt", "1 / square root", meaning=torch.rsqrt, promotion="float", cost=9, samples=positive, aten=("rsqrt",),
          scalar=lambda s, x: s.div(s.const(1, x.dtype), s.sqrt(x)),
          gradient=partials(lambda b, v, g: b.mul(b.mul(g, -0.5), b.power(v, exponent=3))))


def _power(b, v):
    """torch's shortcuts for the exponents that it has them for, rounded where it rounds; integers by repeated squaring."""
    x, exponent = v.inputs[0], v.attrs["exponent"]
    if x.dtype != v.dtype:
        x = b.cast(x, dtype=v.dtype)
    if not v.dtype.is_floating_point:
        return _integer_power(b, x, exponent)
    shortcuts = {0: lambda: b.full(shape=x.shape, value=1, dtype=x.dtype, device=x.type.device), 1: lambda: b.copy(x),
                 2: lambda: b.mul(x, x), 3: lambda: b.mul(b.mul(x, x), x), 0.5: lambda: b.sqrt(x),
                 -0.5: lambda: b.rsqrt(x), -1: lambda: b.reciprocal(x), -2: lambda: b.reciprocal(b.mul(x, x))}
    return shortcuts.get(exponent, lambda: b.pow(x, exponent))()


def _integer_power(b, x, exponent: int):
    result = None
    while exponent:
        if exponent & 1:
            result = x if result is None else b.mul(result, x)
        exponent >>= 1
        x = b.mul(x, x) if exponent else x
    return b.full(shape=x.shape, value=1, dtype=x.dtype, device=x.type.device) if result is None else b.copy(result)


def _power_gradient(b, v, g):
    x, exponent = v.inputs[0], v.attrs["exponent"]
    return zero(b, v, g) if exponent == 0 else b.mul(g, b.mul(b.power(x, exponent=exponent - 1), exponent))


def _power_type(inputs, attrs):
    x, exponent = inputs[0], attrs["exponent"]
    if not x.dtype.is_floating_point and not isinstance(exponent, float) and (exponent < 0 or _is_bool(x)):
        raise ValueError(f"{x.dtype} has no power {exponent}")
    return x.type.like(dtype=x.dtype if x.dtype.is_floating_point or isinstance(exponent, int) else torch.get_default_dtype())


def _power_meaning(x, *, exponent):
    if x.dtype == torch.bool and isinstance(exponent, int):
        raise TypeError(f"bool has no power {exponent}")
    return torch.pow(x, exponent)


register(Op("power", "composite", "a to the power of the number `exponent`", _power_type, meaning=_power_meaning,
            decompose=_power, gradient=partials(_power_gradient),
            samples=lambda: [((torch.rand(3, 4) + 0.2,), {"exponent": e})
                             for e in (0, 1, 2, 3, 2.0, 0.5, -0.5, -1, -2, 2.5, 4, -3.0)]))


def _import_power(b, x, exponent):
    """Integers to a negative power are an error of torch; to a tensor of powers, a loop that no scalar op expresses."""
    if isinstance(exponent, Value):
        return b.pow(x, exponent) if common_dtype((x, exponent)).is_floating_point else NotImplemented
    if isinstance(exponent, Expr):
        raise Unsupported(f"a power by the size {exponent}")
    plain = x.dtype.is_floating_point or isinstance(exponent, float) or exponent >= 0 and not _is_bool(x)
    return b.power(x, exponent=exponent) if plain else NotImplemented


def _pow_base_gradient(b, v, g):
    x, y = v.inputs
    if not isinstance(y, Value):
        return zero(b, v, g) if y == 0 else b.mul(g, b.mul(b.power(x, exponent=y - 1), y))
    return b.where(b.eq(y, 0), 0, b.mul(g, b.mul(y, b.pow(x, b.sub(y, 1)))))


def _pow_exponent_gradient(b, v, g):
    """g * (result * log(x)), and 0 where 0 is raised to what is not negative."""
    x, y = v.inputs
    if isinstance(x, Value):
        return b.where(b.logical_and(b.eq(x, 0), b.ge(y, 0)), 0, b.mul(g, b.mul(v, b.log(x))))
    if x == 0:
        return b.where(b.ge(y, 0), 0, b.mul(g, b.mul(v, -inf)))
    return b.mul(g, b.mul(v, log(x) if x > 0 else nan))


pointwise("pow", "a to the power of b, elementwise, on floats", meaning=torch.pow, cost=30, scalar=lambda s, x, y: s.pow(x, y),
          gradient=partials(_pow_base_gradient, _pow_exponent_gradient),
          samples=lambda: [*floats(2, low=0.2)(), ((2.5, torch.randn(3, 4)), {}), ((torch.rand(3, 4) + 0.2, 1.7), {})],
          aten={"pow.Tensor_Tensor": _import_power, "pow.Tensor_Scalar": _import_power, "pow.Scalar": _import_power})


# Rounding

def _rounding(name: str, doc: str, function):
    def scalar(s, x):
        return getattr(s, {"round": "rint"}.get(name, name))(x) if x.dtype.is_floating_point else x
    pointwise(name, doc, meaning=function, scalar=scalar, gradient=partials(zero), samples=floats(), aten=(name,))


_rounding("floor", "largest integer <= a", torch.floor)
_rounding("ceil", "smallest integer >= a", torch.ceil)
_rounding("trunc", "a rounded toward zero", torch.trunc)
_rounding("round", "nearest integer, ties to even", torch.round)


def _round_decimals(s, x, *, decimals):
    if not x.dtype.is_floating_point:
        return x
    scale = 10.0 ** abs(decimals)
    return s.div(s.rint(s.mul(x, scale)), scale) if decimals >= 0 else s.mul(s.rint(s.div(x, scale)), scale)


pointwise("round_decimals", "nearest decimal number with `decimals` digits after the point", scalar=_round_decimals, cost=6,
          meaning=lambda x, *, decimals: torch.round(x, decimals=decimals), gradient=partials(zero),
          samples=lambda: [((torch.randn(3, 4) * 100,), {"decimals": d}) for d in (2, -1)], aten={
              "round.decimals": lambda b, x, *, decimals: b.round_decimals(x, decimals=decimals) if decimals else b.round(x)})

pointwise("frac", "a - trunc(a)", meaning=torch.frac, samples=floats(), aten=("frac",), gradient=partials(passed),
          scalar=lambda s, x: s.sub(x, s.trunc(x)))


# Extremes

def _larger(s, x, y):
    return s.or_(x, y) if _is_bool(x) else s.max(x, y)


def _smaller(s, x, y):
    return s.and_(x, y) if _is_bool(x) else s.min(x, y)


def _extreme(name: str, doc: str, function, scalar, loses: str):
    """The gradient: none where an operand `loses`, half where they tie; where either is NaN both get all of it."""
    def rule(b, g, x, y):
        return b.where(b.emit(loses, x, y), 0, b.where(b.eq(x, y), b.div(g, 2), g))
    pointwise(name, doc, meaning=on_tensors(function), samples=pairs, aten=(name,), scalar=scalar, gradient=partials(
        lambda b, v, g: rule(b, g, *v.inputs), lambda b, v, g: rule(b, g, *reversed(v.inputs))))


_extreme("maximum", "larger of a and b; NaN if either is", torch.maximum, _larger, "lt")
_extreme("minimum", "smaller of a and b; NaN if either is", torch.minimum, _smaller, "gt")


def _number_extreme(name: str, doc: str, function, extreme, wins: str):
    """The extreme that prefers a number to NaN. The gradient goes to a where `wins` says so or b is NaN, else to b."""
    def first(b, v):
        x, y = v.inputs
        return b.logical_or(b.emit(wins, x, y), b.isnan(y) if isinstance(y, Value) else isnan(y))

    def number(s, x, y):
        if not x.dtype.is_floating_point:
            return extreme(s, x, y)
        return s.where(s.ne(y, y), x, s.where(s.ne(x, x), y, extreme(s, x, y)))
    pointwise(name, doc, meaning=on_tensors(function), samples=pairs, aten=(name,), cost=3, scalar=number,
              gradient=partials(lambda b, v, g: masked(b, first(b, v), g), lambda b, v, g: b.where(first(b, v), 0, g)))


_number_extreme("fmax", "larger of a and b; the other if one is NaN", torch.fmax, _larger, "ge")
_number_extreme("fmin", "smaller of a and b; the other if one is NaN", torch.fmin, _smaller, "le")


def _clamp_meaning(x, low, high):
    return torch.clamp(x, low, high) if not (isinstance(low, torch.Tensor) ^ isinstance(high, torch.Tensor)) else (
        on_tensors(torch.clamp)(x, low, high))


def _inside(b, x, low, high):
    return b.logical_and(b.ge(x, low), b.le(x, high))


def _below(b, x, low, high):
    return b.logical_and(b.lt(x, low), b.lt(low, high))


def _above(b, x, low, high):
    return b.logical_or(b.gt(x, high), b.gt(low, high))


def _import_clamp(b, x, min=None, max=None):
    """As torch has it, a stays where it equals a limit that is a number, and is the limit where that is a tensor."""
    limits = {name: limit for name, limit in (("_min", min), ("_max", max)) if limit is not None}
    suffix = "_between" if any(isinstance(n, Value) and n.rank for n in limits.values()) else ""
    return b.emit(f"clamp{'' if len(limits) == 2 else next(iter(limits))}{suffix}", x, *limits.values())


#: Before torch 2.12 a single number that is NaN is no limit to `clamp`.
_NAN_IS_NO_LIMIT = not torch.zeros(()).clamp(max=nan).isnan()


def _import_clamp_to_numbers(b, x, min=None, max=None):
    clamped, limit = _import_clamp(b, x, min, max), max if min is None else min
    plain = type(limit) in (int, float)
    if not _NAN_IS_NO_LIMIT or None not in (min, max) or plain and not isnan(limit):
        return clamped
    if plain:
        return b.cast(b.copy(x), dtype=clamped.dtype)
    return b.where(b.isnan(b.scalar(limit, dtype=torch.float64, device=x.type.device)), x, clamped)


#: By record, the import rules of its overloads.
_LIMITED = {"clamp": {"clamp": _import_clamp_to_numbers, "clamp.Tensor": _import_clamp},
            "clamp_min": dict.fromkeys(("clamp_min", "clamp_min.Tensor"), _import_clamp),
            "clamp_max": dict.fromkeys(("clamp_max", "clamp_max.Tensor"), lambda b, x, max: _import_clamp(b, x, None, max))}


def _clamps(suffix: str, doc: str, larger: Callable, smaller: Callable) -> None:
    """The records of clamp; `larger` and `smaller` say which of two zeros with different signs is taken."""
    pointwise(f"clamp{suffix}", f"a limited to low..high; NaN stays; where low > high it is high; {doc}", meaning=_clamp_meaning,
              scalar=lambda s, x, low, high: smaller(s, larger(s, x, low), high), cost=2, aten=_LIMITED.get(f"clamp{suffix}", ()),
              gradient=partials(lambda b, v, g: masked(b, _inside(b, *v.inputs), g),
                                lambda b, v, g: masked(b, _below(b, *v.inputs), g),
                                lambda b, v, g: masked(b, _above(b, *v.inputs), g)),
              samples=lambda: [((torch.randn(3, 4), -0.5, 0.5), {}), ((torch.randn(3, 4), torch.randn(4), torch.randn(3, 1)), {}),
                               ((torch.randn(3, 4), 0.5, -0.5), {})])
    pointwise(f"clamp_min{suffix}", f"larger of a and low; NaN if either is; {doc}", meaning=torch.clamp_min,
              scalar=larger, samples=pairs, aten=_LIMITED.get(f"clamp_min{suffix}", ()),
              gradient=partials(lambda b, v, g: masked(b, b.ge(*v.inputs), g), lambda b, v, g: masked(b, b.lt(*v.inputs), g)))
    pointwise(f"clamp_max{suffix}", f"smaller of a and high; NaN if either is; {doc}", meaning=torch.clamp_max,
              scalar=smaller, samples=pairs, aten=_LIMITED.get(f"clamp_max{suffix}", ()),
              gradient=partials(lambda b, v, g: masked(b, b.le(*v.inputs), g), lambda b, v, g: masked(b, b.gt(*v.inputs), g)))


_clamps("", "a stays where it equals a limit", lambda s, x, y: s.max(y, x), lambda s, x, y: s.min(y, x))
_clamps("_between", "a limit is taken where a equals it", lambda s, x, y: s.max(x, y), lambda s, x, y: s.min(x, y))


# Interpolation

def _lerp(s, x, end, weight):
    """From whichever end is nearer, so that both ends are met exactly."""
    near = s.lt(s.abs(weight), 0.5)
    return s.fma(s.where(near, weight, s.sub(weight, 1)), s.sub(end, x), s.where(near, x, end))


def _rest(b, weight):
    return b.sub(1, weight) if isinstance(weight, Value) else 1 - weight


pointwise("lerp", "a + weight * (b - a)", meaning=torch.lerp, scalar=_lerp, exact=(2,), cost=4,
          gradient=partials(lambda b, v, g: b.mul(g, _rest(b, v.inputs[2])),
                            lambda b, v, g: b.mul(g, v.inputs[2]), lambda b, v, g: b.mul(g, b.sub(v.inputs[1], v.inputs[0]))),
          samples=with_number(floats(3), 0.3, 0.7), aten=("lerp.Scalar", "lerp.Tensor"))
