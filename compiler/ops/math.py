"""Exponentials, logarithms, angles and the error function."""
from __future__ import annotations

from math import log, pi, sqrt

import torch

from ..ir import Value
from ..op import pointwise
from .rules import floats, on_tensors, partials, with_number

_anywhere = floats()
_positive = floats(low=0.2, high=4.0)
_unit = floats(low=-0.9, high=0.9)


def _function(name: str, doc: str, scalar, rule, samples=_anywhere, cost: float = 12):
    """A function of one number. `rule` is (b, x, result, g) -> the gradient of x."""
    pointwise(name, doc, meaning=getattr(torch, name), promotion="float", cost=cost, samples=samples, aten=(name,), scalar=scalar,
              gradient=partials(lambda b, v, g: rule(b, v.inputs[0], v, g)))


def _libm(name: str):
    return lambda s, x: s.libm(x, name)


# Exponentials

_function("exp", "e to the power of a", lambda s, x: s.exp(x), lambda b, x, y, g: b.mul(g, y))
_function("exp2", "2 to the power of a", _libm("exp2"), lambda b, x, y, g: b.mul(b.mul(g, y), log(2)))
_function("expm1", "e to the power of a, minus 1, accurate near 0", lambda s, x: s.expm1(x),
          lambda b, x, y, g: b.mul(g, b.add(y, 1)), cost=15)
_function("log", "natural logarithm", lambda s, x: s.log(x), lambda b, x, y, g: b.div(g, x), _positive)
_function("log2", "logarithm to base 2", _libm("log2"), lambda b, x, y, g: b.div(g, b.mul(x, 0.6931471805599453)), _positive)
_function("log10", "logarithm to base 10", _libm("log10"), lambda b, x, y, g: b.div(g, b.mul(x, 2.3025850929940456)), _positive)
_function("log1p", "natural logarithm of 1 + a, accurate near 0", lambda s, x: s.log1p(x),
          lambda b, x, y, g: b.div(g, b.add(x, 1)), _positive, cost=15)


# Angles

def _square(b, x):
    return b.mul(x, x)


def _one_minus_square(b, x):
    return b.add(b.mul(b.neg(x), x), 1)


_function("sin", "sine", lambda s, x: s.sin(x), lambda b, x, y, g: b.mul(g, b.cos(x)), cost=15)
_function("cos", "cosine", lambda s, x: s.cos(x), lambda b, x, y, g: b.mul(g, b.neg(b.sin(x))), cost=15)
_function("tan", "tangent", _libm("tan"), lambda b, x, y, g: b.mul(g, b.add(_square(b, y), 1)), _unit, cost=40)
_function("asin", "arc sine", _libm("asin"), lambda b, x, y, g: b.mul(g, b.rsqrt(_one_minus_square(b, x))), _unit, cost=40)
_function("acos", "arc cosine", _libm("acos"),
          lambda b, x, y, g: b.mul(g, b.neg(b.rsqrt(_one_minus_square(b, x)))), _unit, cost=40)
_function("atan", "arc tangent", _libm("atan"), lambda b, x, y, g: b.div(g, b.add(_square(b, x), 1)), cost=40)
_function("sinh", "hyperbolic sine", _libm("sinh"), lambda b, x, y, g: b.mul(g, b.cosh(x)), cost=40)
_function("cosh", "hyperbolic cosine", _libm("cosh"), lambda b, x, y, g: b.mul(g, b.sinh(x)), cost=40)
_function("tanh", "hyperbolic tangent", lambda s, x: s.tanh(x), lambda b, x, y, g: b.tanh_backward(g, y), cost=15)
_function("asinh", "inverse hyperbolic sine", _libm("asinh"),
          lambda b, x, y, g: b.mul(g, b.rsqrt(b.add(_square(b, x), 1))), cost=40)
_function("acosh", "inverse hyperbolic cosine", _libm("acosh"), lambda b, x, y, g: b.mul(g, b.rsqrt(b.sub(_square(b, x), 1))),
          floats(low=1.2, high=4.0), cost=40)
_function("atanh", "inverse hyperbolic tangent", _libm("atanh"),
          lambda b, x, y, g: b.div(g, b.sub(1, _square(b, x))), _unit, cost=40)


def _atan2_gradient(other: int, sign: int):
    def rule(b, v, g):
        x, y = v.inputs
        squares = b.add(b.mul(x, x), b.mul(y, y))
        scaled = b.mul(g, b.where(b.eq(squares, 0), 0, b.reciprocal(squares)))
        return b.mul(scaled, v.inputs[other]) if sign > 0 else b.mul(scaled, b.neg(v.inputs[other]))
    return rule


pointwise("atan2", "angle of the point (b, a)", meaning=on_tensors(torch.atan2), promotion="float", cost=30, samples=floats(2),
          aten=("atan2",), scalar=lambda s, x, y: s.atan2(x, y), gradient=partials(_atan2_gradient(1, 1), _atan2_gradient(0, -1)))


# Error function and products with logarithms

def _bell(factor: float):
    return lambda b, x, y, g: b.mul(b.mul(b.exp(b.neg(_square(b, x))), factor * 2 / sqrt(pi)), g)


_function("erf", "error function", lambda s, x: s.erf(x), _bell(1), cost=15)
_function("erfc", "1 - erf(a), accurate for large a", _libm("erfc"), _bell(-1), cost=40)


def _times_log(s, x, y, logarithm):
    nan = float("nan")
    return s.where(s.ne(y, y), nan, s.where(s.eq(x, 0), 0, s.mul(x, logarithm(y))))


def _times_log_partial(name: str, edge: float):
    """The gradient of the factor: the logarithm, but 0 where the factor is 0 and the logarithm has none."""
    def rule(b, v, g):
        x, y = v.inputs
        at_edge = b.le(y, edge) if isinstance(y, Value) else y <= edge
        return b.where(b.logical_and(b.eq(x, 0), at_edge), 0, b.emit(name, g, y))
    return rule


_tail = with_number(floats(2, low=0.2, high=4.0), 2.5)

pointwise("xlogy", "a * log(b); 0 where a is 0", meaning=torch.xlogy, promotion="float", cost=14, samples=_tail,
          scalar=lambda s, x, y: _times_log(s, x, y, s.log), aten=("xlogy.Tensor", "xlogy.Scalar_Other", "xlogy.Scalar_Self"),
          gradient=partials(_times_log_partial("xlogy", 0.0), lambda b, v, g: b.div(b.mul(g, v.inputs[0]), v.inputs[1])))

pointwise("xlog1py", "a * log1p(b); 0 where a is 0", meaning=torch.special.xlog1py, promotion="float", cost=17, samples=_tail,
          scalar=lambda s, x, y: _times_log(s, x, y, s.log1p),
          aten=("special_xlog1py", "special_xlog1py.other_scalar", "special_xlog1py.self_scalar"),
          gradient=partials(_times_log_partial("xlog1py", -1.0),
                            lambda b, v, g: b.div(b.mul(g, v.inputs[0]), b.add(v.inputs[1], 1))))
