"""Activation functions and their derivatives. Each is one rounding in float16/bfloat16, as in torch.

The derivatives are ops of their own, since torch's are: `<name>_backward(g, x)` is what torch's autograd calls.
"""
from __future__ import annotations

from math import inf, nan, pi, sqrt

import torch

from ..op import pointwise
from .rules import floats, masked, partials, passed, zero

_pairs = floats(2)
aten = torch.ops.aten


def _linear_backward(b, v, g):
    """The rule of g in <name>_backward(g, x): linear in it."""
    return b.emit(v.op, g, *v.inputs[1:], **v.attrs)


def _activation(name: str, doc: str, scalar, rule, *, meaning=None, samples=None, imports=None, **more):
    """A function of one number and the attributes. `rule` is the gradient rule of the operand."""
    pointwise(name, doc, meaning=meaning or getattr(aten, name), scalar=scalar, gradient=partials(rule),
              samples=samples or floats(), aten=imports or (name,), **more)


def _backward(name: str, doc: str, scalar, second, *, meaning=None, samples=_pairs, imports=None, **more):
    """A derivative times the incoming gradient. `second` is the gradient rule of the point it is taken at."""
    pointwise(name, doc, meaning=meaning or getattr(aten, name), scalar=scalar, gradient=partials(_linear_backward, second),
              samples=samples, aten=imports or (name,), **more)


def _calls(name: str, operand: int = 0):
    """The rule that calls `name`_backward on the operand with the same attributes."""
    return lambda b, v, g: b.emit(f"{name}_backward", g, v.inputs[operand], **v.attrs)


def _one(s, x):
    return s.const(1, x.dtype)


# Sigmoid and tanh, whose derivatives are taken from the result

def sigmoid(s, x):
    return s.div(_one(s, x), s.add(s.exp(s.neg(x)), 1))


_activation("sigmoid", "1 / (1 + exp(-a))", sigmoid, lambda b, v, g: b.sigmoid_backward(g, v), promotion="float", cost=17)
_backward("sigmoid_backward", "g * (1 - y) * y, y being the sigmoid", lambda s, g, y: s.mul(s.mul(g, s.sub(_one(s, y), y)), y),
          lambda b, v, g: b.mul(b.mul(g, v.inputs[0]), b.add(b.mul(v.inputs[1], -2), 1)), cost=3)
_backward("tanh_backward", "g * (1 - y * y), y being the hyperbolic tangent",
          lambda s, g, y: s.mul(g, s.fma(s.neg(y), y, _one(s, y))),
          lambda b, v, g: b.mul(g, b.mul(b.mul(v.inputs[1], -2), v.inputs[0])), cost=3)


def _logit(s, x, *, eps):
    if eps is not None:
        low, high = eps, 1 - eps
        x = s.where(s.lt(x, low), low, s.where(s.gt(x, s.const(high, x.dtype)), high, x))
    return s.log(s.div(x, s.sub(_one(s, x), x)))


def _logit_backward(s, g, x, *, eps):
    low, high, outside = (0, 1, nan) if eps is None else (eps, 1 - eps, 0)
    slope = s.where(s.or_(s.eq(x, 0), s.eq(x, 1)), s.mul(g, inf), s.div(g, s.mul(x, s.sub(_one(s, x), x))))
    return s.where(s.or_(s.lt(x, low), s.gt(x, s.const(high, x.dtype))), s.const(outside, x.dtype), slope)


def _logit_second(b, v, g):
    """y'' = (2x - 1) / (x * (1 - x)) ** 2."""
    x = v.inputs[1]
    once = b.logit_backward(b.mul(g, v.inputs[0]), x, eps=v.attrs["eps"])
    return b.mul(b.logit_backward(once, x, eps=v.attrs["eps"]), b.sub(b.mul(x, 2), 1))


_unit_samples = [{"eps": None}, {"eps": 0.2}]

_activation("logit", "log(a / (1 - a)), a limited to eps..1-eps", _logit, _calls("logit"), promotion="float", cost=17,
            meaning=lambda x, *, eps: torch.logit(x, eps), samples=lambda: [((torch.rand(3, 4),), a) for a in _unit_samples],
            imports={"logit": lambda b, x, eps=None: b.logit(x, eps=eps)})
_backward("logit_backward", "the derivative of logit at x times g", _logit_backward, _logit_second, cost=6,
          meaning=lambda g, x, *, eps: aten.logit_backward(g, x, eps),
          samples=lambda: [((torch.randn(3, 4), torch.rand(3, 4) * 0.8 + 0.1), a) for a in _unit_samples],
          imports={"logit_backward": lambda b, g, x, eps=None: b.logit_backward(g, x, eps=eps)})

_activation("log_sigmoid", "log(1 / (1 + exp(-a)))", lambda s, x: s.sub(s.min(x, 0), s.log1p(s.exp(s.neg(s.abs(x))))),
            lambda b, v, g: b.log_sigmoid_backward(g, v.inputs[0], _decay(b, v.inputs[0])), cost=28,
            meaning=torch.nn.functional.logsigmoid,
            imports={"log_sigmoid_forward": lambda b, x: [b.log_sigmoid(x), _decay(b, x)]})


def _decay(b, x):
    """exp(-|x|), which the forward saves for the derivative."""
    return b.exp(b.neg(b.abs(x)))


def _log_sigmoid_backward(s, g, x, decay):
    one = _one(s, x)
    negative = s.lt(x, 0)
    tail = s.mul(s.where(negative, one, s.const(-1, x.dtype)), s.div(decay, s.add(decay, 1)))
    return s.mul(s.sub(s.where(negative, one, s.const(0, x.dtype)), tail), g)


pointwise("log_sigmoid_backward", "the derivative of log_sigmoid at x times g, given exp(-|x|)", cost=8,
          meaning=aten.log_sigmoid_backward, scalar=_log_sigmoid_backward, aten=("log_sigmoid_backward",),
          gradient=partials(_linear_backward, lambda b, v, g: b.neg(b.sigmoid_backward(b.mul(g, v.inputs[0]), b.sigmoid(v.inputs[1]))), None),
          samples=lambda: [((torch.randn(3, 4), x, x.abs().neg().exp()), {}) for x in [torch.randn(3, 4)]])


# Piecewise linear

def _between(s, x, low, high):
    return s.and_(s.lt(s.const(low, x.dtype), x), s.lt(x, high))


_activation("relu", "a where a > 0, else 0; NaN stays", lambda s, x: s.where(s.lt(x, 0), 0, x),
            lambda b, v, g: b.threshold_backward(g, v, threshold=0))
_activation("threshold", "a where a > threshold, else value; NaN stays", lambda s, x, *, threshold, value: s.where(s.le(x, threshold), value, x),
            lambda b, v, g: b.threshold_backward(g, v.inputs[0], threshold=v.attrs["threshold"]),
            meaning=lambda x, *, threshold, value: torch.threshold(x, threshold, value), samples=floats(threshold=0.5, value=-2.0),
            imports={"threshold": lambda b, x, threshold, value: b.threshold(x, threshold=threshold, value=value)})
_backward("threshold_backward", "g where x > threshold, else 0", lambda s, g, x, *, threshold: s.where(s.le(x, threshold), 0, g), zero,
          meaning=lambda g, x, *, threshold: aten.threshold_backward(g, x, threshold), samples=floats(2, threshold=0.5),
          imports={"threshold_backward": lambda b, g, x, threshold: b.threshold_backward(g, x, threshold=threshold)})

_activation("leaky_relu", "a where a > 0, else slope * a", lambda s, x, *, slope: s.where(s.lt(s.const(0, x.dtype), x), x, s.mul(x, slope)),
            _calls("leaky_relu"), meaning=lambda x, *, slope: torch.nn.functional.leaky_relu(x, slope), samples=floats(slope=0.1), cost=2,
            imports={"leaky_relu": lambda b, x, negative_slope=0.01: b.leaky_relu(x, slope=negative_slope)})
_backward("leaky_relu_backward", "g where x > 0, else slope * g",
          lambda s, g, x, *, slope: s.where(s.lt(s.const(0, x.dtype), x), g, s.mul(g, slope)), zero, cost=2,
          meaning=lambda g, x, *, slope: aten.leaky_relu_backward(g, x, slope, False), samples=floats(2, slope=0.1),
          imports={"leaky_relu_backward": lambda b, g, x, negative_slope, self_is_result:
                   b.leaky_relu_backward(g, x, slope=negative_slope)})

_activation("hardtanh", "a limited to low..high", lambda s, x, *, low, high: s.min(s.max(x, low), high), _calls("hardtanh"),
            meaning=lambda x, *, low, high: torch.nn.functional.hardtanh(x, low, high), cost=2,
            samples=lambda: [((torch.randn(3, 4) * 2,), {"low": -1.0, "high": 1.5})],
            imports={"hardtanh": lambda b, x, min_val=-1, max_val=1: b.hardtanh(x, low=min_val, high=max_val)})
_backward("hardtanh_backward", "g where low < x < high, else 0",
          lambda s, g, x, *, low, high: s.where(_between(s, x, low, high), g, 0), zero, cost=2,
          meaning=lambda g, x, *, low, high: aten.hardtanh_backward(g, x, low, high),
          samples=lambda: [((torch.randn(3, 4), torch.randn(3, 4) * 2), {"low": -1.0, "high": 1.5})],
          imports={"hardtanh_backward": lambda b, g, x, min_val, max_val: b.hardtanh_backward(g, x, low=min_val, high=max_val)})


#: a sixth in float32, which torch multiplies by in float64 too
_SIXTH = torch.tensor(1 / 6, dtype=torch.float32).item()


def _cut(s, x):
    """x + 3 limited to 0..6."""
    return s.min(s.max(s.add(x, 3), 0), 6)


_wide = floats(low=-5.0, high=5.0)
_wide_pairs = floats(2, low=-5.0, high=5.0)

_activation("hardsigmoid", "(a + 3 limited to 0..6) / 6", lambda s, x: s.div(_cut(s, x), 6), _calls("hardsigmoid"), samples=_wide, cost=7)
_backward("hardsigmoid_backward", "g / 6 where -3 < x < 3, else 0",
          lambda s, g, x: s.where(_between(s, x, -3, 3), s.mul(g, _SIXTH), 0), zero, samples=_wide_pairs, cost=4)


def _hardswish_backward(s, g, x):
    return s.where(s.le(x, -3), 0, s.where(s.ge(x, s.const(3, x.dtype)), g, s.mul(g, s.add(s.div(x, 3), 0.5))))


_activation("hardswish", "a * (a + 3 limited to 0..6) / 6", lambda s, x: s.div(s.mul(x, _cut(s, x)), 6), _calls("hardswish"),
            samples=_wide, cost=8)
_backward("hardswish_backward", "the derivative of hardswish at x times g", _hardswish_backward, cost=8, samples=_wide_pairs,
          second=lambda b, v, g: masked(b, b.lt(b.abs(v.inputs[1]), 3.0), b.div(b.mul(g, v.inputs[0]), 3.0)))

_activation("hardshrink", "a where |a| > size, else 0", lambda s, x, *, size: s.where(s.le(s.abs(x), size), 0, x), _calls("hardshrink"),
            meaning=lambda x, *, size: torch.nn.functional.hardshrink(x, size), samples=floats(size=0.5), cost=2,
            imports={"hardshrink": lambda b, x, lambd=0.5: b.hardshrink(x, size=lambd)})
_backward("hardshrink_backward", "g where |x| > size, else 0", lambda s, g, x, *, size: s.where(s.lt(s.const(size, x.dtype), s.abs(x)), g, 0), zero,
          meaning=lambda g, x, *, size: aten.hardshrink_backward(g, x, size), samples=floats(2, size=0.5), cost=2,
          imports={"hardshrink_backward": lambda b, g, x, lambd: b.hardshrink_backward(g, x, size=lambd),
                   "softshrink_backward": lambda b, g, x, lambd: b.hardshrink_backward(g, x, size=lambd)})


def _softshrink(s, x, *, size):
    outside = s.where(s.gt(x, s.const(size, x.dtype)), s.sub(x, size), s.add(x, size))
    return s.where(s.le(s.abs(x), size), 0, outside)


_activation("softshrink", "a moved toward 0 by size, and no further", _softshrink, _calls("hardshrink"),
            meaning=lambda x, *, size: torch.nn.functional.softshrink(x, size), samples=floats(size=0.5), cost=3,
            imports={"softshrink": lambda b, x, lambd=0.5: b.softshrink(x, size=lambd)})

pointwise("prelu", "a where a > 0, else b * a", scalar=lambda s, x, w: s.where(s.lt(s.const(0, x.dtype), x), x, s.mul(w, x)), cost=2,
          meaning=aten._prelu_kernel, samples=floats(2), aten={
              "_prelu_kernel": lambda b, x, w: b.prelu(x, w),
              "_prelu_kernel_backward": lambda b, g, x, w: [_prelu_input(b, g, x, w), _prelu_weight(b, g, x)]},
          gradient=partials(lambda b, v, g: _prelu_input(b, g, *v.inputs), lambda b, v, g: _prelu_weight(b, g, v.inputs[0])))


def _prelu_input(b, g, x, w):
    return b.where(b.gt(x, 0), g, b.mul(w, g))


def _prelu_weight(b, g, x):
    return b.where(b.gt(x, 0), 0, b.mul(x, g))


# Exponential

def _softplus(s, x, *, beta, threshold):
    scaled = s.mul(x, beta)
    return s.where(s.gt(scaled, s.const(threshold, x.dtype)), x, s.div(s.log1p(s.exp(scaled)), beta))


def _softplus_backward(s, g, x, *, beta, threshold):
    scaled = s.mul(x, beta)
    z = s.exp(scaled)
    return s.where(s.gt(scaled, s.const(threshold, x.dtype)), g, s.div(s.mul(g, z), s.add(z, 1)))


def _softplus_second(b, v, g):
    x, beta, threshold = v.inputs[1], v.attrs["beta"], v.attrs["threshold"]
    scaled = b.mul(x, beta)
    slope = b.mul(b.sigmoid_backward(b.mul(g, v.inputs[0]), b.sigmoid(scaled)), beta)
    return masked(b, b.lt(scaled, threshold), slope)


_activation("softplus", "log(1 + exp(beta * a)) / beta, and a itself where beta * a > threshold", _softplus, _calls("softplus"),
            meaning=lambda x, *, beta, threshold: torch.nn.functional.softplus(x, beta, threshold), cost=32,
            samples=floats(beta=1.5, threshold=3.0),
            imports={"softplus": lambda b, x, beta=1, threshold=20: b.softplus(x, beta=beta, threshold=threshold)})
_backward("softplus_backward", "the derivative of softplus at x times g", _softplus_backward, _softplus_second, cost=20,
          meaning=lambda g, x, *, beta, threshold: aten.softplus_backward(g, x, beta, threshold), samples=floats(2, beta=1.5, threshold=3.0),
          imports={"softplus_backward": lambda b, g, x, beta, threshold: b.softplus_backward(g, x, beta=beta, threshold=threshold)})


def _elu(s, x, *, alpha, scale, input_scale):
    return s.where(s.gt(x, s.const(0, x.dtype)), s.mul(x, scale), s.mul(s.expm1(s.mul(x, input_scale)), alpha * scale))


def _elu_backward(s, g, x, *, alpha, scale, input_scale, is_result):
    sloped = s.mul(g, input_scale)
    if is_result:
        below = s.mul(sloped, s.add(x, alpha * scale))
    else:
        below = s.mul(s.mul(sloped, alpha * scale), s.exp(s.mul(x, input_scale)))
    return s.where(s.gt(x, s.const(0, x.dtype)), s.mul(g, scale), below)


def _elu_second(b, v, g):
    a, x = v.attrs, v.inputs[1]
    if a["is_result"]:
        below = b.mul(b.mul(g, v.inputs[0]), a["input_scale"])
    else:
        below = b.mul(b.mul(b.mul(g, v.inputs[0]), a["alpha"] * a["scale"] * a["input_scale"] ** 2), b.exp(b.mul(x, a["input_scale"])))
    return masked(b, b.lt(x, 0), below)


def _import_elu_backward(b, g, alpha, scale, input_scale, is_result, x):
    return b.elu_backward(g, x, alpha=alpha, scale=scale, input_scale=input_scale, is_result=is_result)


_activation("elu", "scale * a where a > 0, else scale * alpha * (exp(input_scale * a) - 1)", _elu,
            lambda b, v, g: b.elu_backward(g, v.inputs[0], **v.attrs, is_result=False), cost=18,
            meaning=lambda x, *, alpha, scale, input_scale: aten.elu(x, alpha, scale, input_scale),
            samples=floats(alpha=1.2, scale=0.9, input_scale=0.7),
            imports={"elu": lambda b, x, alpha=1, scale=1, input_scale=1: b.elu(x, alpha=alpha, scale=scale, input_scale=input_scale),
                     "celu": lambda b, x, alpha=1.0: b.elu(x, alpha=alpha, scale=1, input_scale=1 / alpha)})
_backward("elu_backward", "the derivative of elu times g, at x or given elu's result", _elu_backward, _elu_second, cost=18,
          meaning=lambda g, x, *, alpha, scale, input_scale, is_result: aten.elu_backward(g, alpha, scale, input_scale, is_result, x),
          samples=lambda: [((torch.randn(3, 4), torch.randn(3, 4)), dict(alpha=1.2, scale=0.9, input_scale=0.7, is_result=r))
                           for r in (False, True)], imports={"elu_backward": _import_elu_backward})


def _silu_second(b, v, g):
    """y'' = s * (1 - s) * (2 + x * (1 - 2s)), s being the sigmoid."""
    x, y = v.inputs[1], b.sigmoid(v.inputs[1])
    bend = b.add(b.mul(x, b.sub(1, b.mul(y, 2))), 2)
    return b.mul(b.sigmoid_backward(b.mul(g, v.inputs[0]), y), bend)


def _silu_backward(s, g, x):
    y = sigmoid(s, x)
    return s.mul(s.mul(g, y), s.fma(x, s.sub(_one(s, x), y), _one(s, x)))


_activation("silu", "a / (1 + exp(-a))", lambda s, x: s.div(x, s.add(s.exp(s.neg(x)), 1)), _calls("silu"), cost=17)
_backward("silu_backward", "the derivative of silu at x times g", _silu_backward, _silu_second, cost=20)


def _mish_backward(s, g, x):
    y, t = sigmoid(s, x), s.tanh(s.log1p(s.exp(x)))
    return s.mul(g, s.add(t, s.mul(s.mul(x, y), s.sub(_one(s, x), s.mul(t, t)))))


def _mish_second(b, v, g):
    """y'' = (1 - t*t) * s * (2 + x * (1 - s - 2*t*s)), s the sigmoid and t the hyperbolic tangent of softplus."""
    x = v.inputs[1]
    y, t = b.sigmoid(x), b.tanh(b.log1p(b.exp(x)))
    bend = b.add(b.mul(x, b.sub(b.sub(1, y), b.mul(b.mul(t, y), 2))), 2)
    return b.mul(b.mul(b.tanh_backward(b.mul(g, v.inputs[0]), t), y), bend)


_activation("mish", "a * tanh(log(1 + exp(a)))", lambda s, x: s.mul(x, s.tanh(s.log1p(s.exp(x)))), _calls("mish"), cost=45)
_backward("mish_backward", "the derivative of mish at x times g", _mish_backward, _mish_second, cost=65)


# GELU: exact, or its approximation by tanh

_HALF_SQRT2, _BELL = 1 / sqrt(2), 1 / sqrt(2 * pi)
_SLOPE, _CUBE = sqrt(2 / pi), 0.044715


def _gelu_inner(s, x):
    return s.mul(s.add(x, s.mul(s.mul(s.mul(x, x), x), _CUBE)), _SLOPE)


def _gelu(s, x, *, approximate):
    if approximate == "tanh":
        return s.mul(s.mul(x, 0.5), s.add(s.tanh(_gelu_inner(s, x)), 1))
    return s.mul(s.mul(x, 0.5), s.add(s.erf(s.mul(x, _HALF_SQRT2)), 1))


def _gelu_backward(s, g, x, *, approximate):
    if approximate == "tanh":
        t = s.tanh(_gelu_inner(s, x))
        left = s.mul(s.add(t, 1), 0.5)
        slope = s.mul(s.add(s.mul(s.mul(x, x), 3 * _CUBE), 1), _SLOPE)
        right = s.mul(s.mul(s.mul(x, 0.5), s.sub(_one(s, x), s.mul(t, t))), slope)
        return s.mul(g, s.add(left, right))
    cdf = s.mul(s.add(s.erf(s.mul(x, _HALF_SQRT2)), 1), 0.5)
    density = s.mul(s.exp(s.mul(s.mul(x, x), -0.5)), _BELL)
    return s.mul(g, s.add(cdf, s.mul(x, density)))


def _gelu_second(b, v, g):
    x = v.inputs[1]
    g = b.mul(g, v.inputs[0])
    if v.attrs["approximate"] == "none":
        return b.mul(b.mul(g, b.mul(b.exp(b.mul(b.mul(x, x), -0.5)), _BELL)), b.sub(2, b.mul(x, x)))
    square = b.mul(x, x)
    t = b.tanh(b.mul(b.add(x, b.mul(b.mul(square, x), _CUBE)), _SLOPE))
    slope = b.mul(b.add(b.mul(square, 3 * _CUBE), 1), _SLOPE)
    bend = b.add(slope, b.mul(x, b.sub(b.mul(x, 3 * _CUBE * _SLOPE), b.mul(b.mul(t, slope), slope))))
    return b.mul(b.tanh_backward(g, t), bend)


_activation("gelu", "a times the normal distribution function of a", _gelu, _calls("gelu"), cost=20,
            meaning=lambda x, *, approximate: torch.nn.functional.gelu(x, approximate=approximate),
            samples=lambda: [((torch.randn(3, 4),), {"approximate": a}) for a in ("none", "tanh")],
            imports={"gelu": lambda b, x, *, approximate="none": b.gelu(x, approximate=approximate)})
_backward("gelu_backward", "the derivative of gelu at x times g", _gelu_backward, _gelu_second, cost=40,
          meaning=lambda g, x, *, approximate: aten.gelu_backward(g, x, approximate=approximate),
          samples=lambda: [((torch.randn(3, 4), torch.randn(3, 4)), {"approximate": a}) for a in ("none", "tanh")],
          imports={"gelu_backward": lambda b, g, x, *, approximate="none": b.gelu_backward(g, x, approximate=approximate)})
