"""Activation functions and their derivatives. Each is one rounding in float16/bfloat16, as in torch.

The derivatives are ops of their own, since torch's are: `<name>_backward(g, x)` is what torch's autograd calls.
"""
from __future__ import annotations

from math import inf, nan, pi, sqrt

import torch

from ..op import pointwise
from ..scalar import arithmetic_dtype
from .rules import attributes, floats, masked, partials, sum_to, zero
from .slices import slice_dim

_pairs = floats(2)
aten = torch.ops.aten


def _linear_backward(b, v, g):
    """The rule of g in <name>_backward(g, x): linear in it."""
    return b.emit(v.op, g, *v.inputs[1:], **v.attrs)


def _activation(name: str, doc: str, scalar, rule, *, attrs=(), defaults=None, meaning=None, samples=None, imports=None, **more):
    """A function of one number, with the attributes of its aten op. `rule` is the gradient rule of the operand."""
    pointwise(name, doc, meaning=meaning or getattr(aten, name), scalar=scalar, gradient=partials(rule),
              samples=samples or floats(), aten={name: attributes(name, *attrs, **(defaults or {})), **(imports or {})}, **more)


def _backward(name: str, doc: str, scalar, second, *, attrs=(), defaults=None, meaning=None, samples=_pairs, imports=None,
              **more):
    """A derivative times the incoming gradient. `second` is the gradient rule of the point it is taken at."""
    pointwise(name, doc, meaning=meaning or getattr(aten, name), scalar=scalar, gradient=partials(_linear_backward, second),
              samples=samples, aten={name: attributes(name, *attrs, operands=2, **(defaults or {})), **(imports or {})}, **more)


def _calls(name: str):
    """The rule that calls `name`_backward on the operand with the same attributes."""
    return lambda b, v, g: b.emit(f"{name}_backward", g, v.inputs[0], **v.attrs)


def _one(s, x):
    return s.const(1, x.dtype)


def _differentiable(name: str, formula):
    """The meaning of an aten op of which torch has no derivative: where autograd is to see through it, a formula."""
    kernel = getattr(aten, name)

    def meaning(*inputs, **attrs):
        seen = torch.is_grad_enabled() and any(i.requires_grad for i in inputs)
        return (formula if seen else kernel)(*inputs, **attrs)
    return meaning


# Sigmoid and tanh, whose derivatives are taken from the result

def sigmoid(s, x):
    return s.div(_one(s, x), s.add(s.exp(s.neg(x)), 1))


def _halves(b, x, dim):
    half = x.shape[dim] // 2
    if not b.at_least(half * 2, x.shape[dim]):
        raise ValueError(f"a dimension of {x.shape[dim]} has no halves")
    return slice_dim(b, x, dim % x.rank, 0, half), slice_dim(b, x, dim % x.rank, half, half)


def _glu(b, x, dim=-1):
    """One half of the operand times the sigmoid of the other; float16/bfloat16 are rounded once, which is left to torch."""
    if arithmetic_dtype(x.dtype) != x.dtype:
        return NotImplemented
    value, gate = _halves(b, x, dim)
    return b.mul(value, b.sigmoid(gate))


def _glu_backward(b, g, x, dim):
    if arithmetic_dtype(x.dtype) != x.dtype:
        return NotImplemented
    value, gate = _halves(b, x, dim)
    y = b.sigmoid(gate)
    return b.cat(b.mul(y, g), b.mul(b.mul(b.mul(b.sub(1, y), y), g), value), dim=dim % x.rank)


_activation("sigmoid", "1 / (1 + exp(-a))", sigmoid, lambda b, v, g: b.sigmoid_backward(g, v), promotion="float", cost=17,
            imports={"glu": _glu, "glu_backward": _glu_backward})
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
    """The gradient of g / (x * (1 - x)) inside the bounds, step by step as torch takes it: NaN at the poles."""
    (given, x), low = v.inputs, v.attrs["eps"] or 0
    kept = masked(b, b.logical_and(b.ge(x, low), b.le(x, 1 - low)), g)
    rest = b.sub(1, x)
    below = b.mul(x, rest)
    twice = b.mul(kept, b.div(b.div(given, below), below))
    return sum_to(b, b.div(kept, below), given), sum_to(b, b.sub(b.mul(twice, x), b.mul(twice, rest)), x)


def _logit_slope(g, x, *, eps):
    low, outside = (0, nan) if eps is None else (eps, 0)
    return torch.where((x >= low) & (x <= 1 - low), g / (x * (1 - x)), outside)


_unit_samples = [{"eps": None}, {"eps": 0.2}]

_activation("logit", "log(a / (1 - a)), a limited to eps..1-eps", _logit, _calls("logit"), promotion="float", cost=17,
            attrs=("eps",), defaults={"eps": None}, samples=lambda: [((torch.rand(3, 4),), a) for a in _unit_samples])
pointwise("logit_backward", "the derivative of logit at x times g", scalar=_logit_backward, cost=6,
          meaning=_differentiable("logit_backward", _logit_slope),
          gradient=_logit_second,
          aten={"logit_backward": attributes("logit_backward", "eps", operands=2, eps=None)},
          samples=lambda: [((torch.randn(3, 4), torch.rand(3, 4) * 0.8 + 0.1), a) for a in _unit_samples])

def _log_sigmoid(s, x):
    return s.sub(s.min(x, 0), s.log1p(s.exp(s.neg(s.abs(x)))))


pointwise("log_sigmoid", "log(1 / (1 + exp(-a)))", scalar=_log_sigmoid, cost=28, samples=floats(),
          meaning=torch.nn.functional.logsigmoid,
          gradient=partials(lambda b, v, g: b.log_sigmoid_backward(g, v.inputs[0], _decay(b, v.inputs[0]))),
          aten={"log_sigmoid_forward": lambda b, x: [b.log_sigmoid(x), _decay(b, x)]})


def _decay(b, x):
    """exp(-|x|), which the forward saves for the derivative."""
    return b.exp(b.neg(b.abs(x)))


def _log_sigmoid_backward(s, g, x, decay):
    one = _one(s, x)
    negative = s.lt(x, 0)
    tail = s.mul(s.where(negative, one, s.const(-1, x.dtype)), s.div(decay, s.add(decay, 1)))
    return s.mul(s.sub(s.where(negative, one, s.const(0, x.dtype)), tail), g)


def _log_sigmoid_second(b, v, g):
    return b.neg(b.sigmoid_backward(b.mul(g, v.inputs[0]), b.sigmoid(v.inputs[1])))


pointwise("log_sigmoid_backward", "the derivative of log_sigmoid at x times g, given exp(-|x|)", cost=8,
          meaning=lambda g, x, decay: aten.log_sigmoid_backward(g, x, decay.detach()), scalar=_log_sigmoid_backward,
          aten=("log_sigmoid_backward",),
          gradient=partials(_linear_backward, _log_sigmoid_second, None),
          samples=lambda: [((torch.randn(3, 4), x, x.abs().neg().exp()), {}) for x in [torch.randn(3, 4)]])


# Piecewise linear

def _zero(s, x):
    return s.const(0, x.dtype)


def _between(s, x, low, high):
    return s.and_(s.lt(s.const(low, x.dtype), x), s.lt(x, high))


def _threshold(s, x, *, threshold, value):
    return s.where(s.le(x, threshold), value, x)


_activation("relu", "a where a > 0, else 0; NaN stays", lambda s, x: s.where(s.lt(x, 0), 0, x),
            lambda b, v, g: b.threshold_backward(g, v, threshold=0))
_activation("threshold", "a where a > threshold, else value; NaN stays", _threshold,
            lambda b, v, g: b.threshold_backward(g, v.inputs[0], threshold=v.attrs["threshold"]),
            attrs=("threshold", "value"), samples=floats(threshold=0.5, value=-2.0))
_backward("threshold_backward", "g where x > threshold, else 0",
          lambda s, g, x, *, threshold: s.where(s.le(x, threshold), 0, g), zero, attrs=("threshold",),
          samples=floats(2, threshold=0.5))


def _leaky_relu(s, x, *, negative_slope):
    return s.where(s.gt(x, _zero(s, x)), x, s.mul(x, negative_slope))


def _leaky_relu_backward(s, g, x, *, negative_slope):
    return s.where(s.gt(x, _zero(s, x)), g, s.mul(g, negative_slope))


_activation("leaky_relu", "a where a > 0, else slope * a", _leaky_relu, _calls("leaky_relu"), attrs=("negative_slope",),
            defaults={"negative_slope": 0.01}, samples=floats(negative_slope=0.1), cost=2)
_backward("leaky_relu_backward", "g where x > 0, else slope * g", _leaky_relu_backward, zero, cost=2,
          meaning=lambda g, x, *, negative_slope: aten.leaky_relu_backward(g, x, negative_slope, False),
          samples=floats(2, negative_slope=0.1),
          imports={"leaky_relu_backward": lambda b, g, x, negative_slope, self_is_result:
                   b.leaky_relu_backward(g, x, negative_slope=negative_slope)})


def _hardtanh_backward(s, g, x, *, min_val, max_val):
    return s.where(s.or_(s.le(x, min_val), s.ge(x, max_val)), 0, g)


_limits = {"min_val": -1, "max_val": 1}
_activation("hardtanh", "a limited to min_val..max_val", lambda s, x, *, min_val, max_val: s.min(max_val, s.max(min_val, x)),
            _calls("hardtanh"), attrs=tuple(_limits), defaults=_limits, samples=floats(min_val=-1.0, max_val=1.5), cost=2)
_backward("hardtanh_backward", "0 where x <= min_val or x >= max_val, else g", _hardtanh_backward, zero, attrs=tuple(_limits),
          samples=floats(2, min_val=-1.0, max_val=1.5), cost=2)

#: a sixth in float32, which torch multiplies by in float64 too
_SIXTH = torch.tensor(1 / 6, dtype=torch.float32).item()


def _cut(s, x):
    """x + 3 limited to 0..6."""
    return s.min(s.max(s.add(x, 3), 0), 6)


_wide = floats(low=-5.0, high=5.0)
_wide_pairs = floats(2, low=-5.0, high=5.0)

_activation("hardsigmoid", "(a + 3 limited to 0..6) / 6", lambda s, x: s.div(_cut(s, x), 6), _calls("hardsigmoid"),
            samples=_wide, cost=7)
_backward("hardsigmoid_backward", "g / 6 where -3 < x < 3, else 0",
          lambda s, g, x: s.where(_between(s, x, -3, 3), s.mul(g, _SIXTH), 0), zero, samples=_wide_pairs, cost=4)


def _hardswish_backward(s, g, x):
    return s.where(s.le(x, -3), 0, s.where(s.ge(x, s.const(3, x.dtype)), g, s.mul(g, s.add(s.div(x, 3), 0.5))))


_activation("hardswish", "a * (a + 3 limited to 0..6) / 6", lambda s, x: s.div(s.mul(x, _cut(s, x)), 6), _calls("hardswish"),
            samples=_wide, cost=8)
_backward("hardswish_backward", "the derivative of hardswish at x times g", _hardswish_backward, cost=8, samples=_wide_pairs,
          second=lambda b, v, g: masked(b, b.lt(b.abs(v.inputs[1]), 3.0), b.div(b.mul(g, v.inputs[0]), 3.0)))


def _softshrink(s, x, *, lambd):
    outside = s.where(s.gt(x, s.const(lambd, x.dtype)), s.sub(x, lambd), s.add(x, lambd))
    return s.where(s.le(s.abs(x), lambd), 0, outside)


def _hardshrink_backward(s, g, x, *, lambd):
    return s.where(s.gt(s.abs(x), s.const(lambd, x.dtype)), g, 0)


_activation("hardshrink", "a where |a| > lambd, else 0", lambda s, x, *, lambd: s.where(s.le(s.abs(x), lambd), 0, x),
            _calls("hardshrink"), attrs=("lambd",), defaults={"lambd": 0.5}, samples=floats(lambd=0.5), cost=2)
_activation("softshrink", "a moved toward 0 by lambd, and no further", _softshrink, _calls("hardshrink"), attrs=("lambd",),
            defaults={"lambd": 0.5}, samples=floats(lambd=0.5), cost=3)
_backward("hardshrink_backward", "g where |x| > lambd, else 0", _hardshrink_backward, zero, attrs=("lambd",), cost=2,
          samples=floats(2, lambd=0.5), imports={"softshrink_backward": attributes("hardshrink_backward", "lambd", operands=2)})

pointwise("prelu", "a where a > 0, else b * a", scalar=lambda s, x, w: s.where(s.gt(x, _zero(s, x)), x, s.mul(w, x)), cost=2,
          meaning=aten._prelu_kernel, samples=floats(2),
          gradient=partials(lambda b, v, g: _prelu_input(b, g, *v.inputs), lambda b, v, g: _prelu_weight(b, g, v.inputs[0])),
          aten={"_prelu_kernel": lambda b, x, w: b.prelu(x, w),
                "_prelu_kernel_backward": lambda b, g, x, w: [_prelu_input(b, g, x, w), _prelu_weight(b, g, x)]})


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
            attrs=("beta", "threshold"), defaults={"beta": 1, "threshold": 20}, samples=floats(beta=1.5, threshold=3.0), cost=32)
_backward("softplus_backward", "the derivative of softplus at x times g", _softplus_backward, _softplus_second,
          attrs=("beta", "threshold"), samples=floats(2, beta=1.5, threshold=3.0), cost=20)


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
    a, x, g = v.attrs, v.inputs[1], b.mul(g, v.inputs[0])
    if a["is_result"]:
        return masked(b, b.lt(x, 0), b.mul(g, a["input_scale"]))
    bend = b.mul(b.exp(b.mul(x, a["input_scale"])), a["alpha"] * a["scale"] * a["input_scale"] ** 2)
    return masked(b, b.lt(x, 0), b.mul(g, bend))


def _import_elu_backward(b, g, alpha, scale, input_scale, is_result, x):
    return b.elu_backward(g, x, alpha=alpha, scale=scale, input_scale=input_scale, is_result=is_result)


_factors = {"alpha": 1, "scale": 1, "input_scale": 1}
_activation("elu", "scale * a where a > 0, else scale * alpha * (exp(input_scale * a) - 1)", _elu,
            lambda b, v, g: b.elu_backward(g, v.inputs[0], **v.attrs, is_result=False), attrs=tuple(_factors), defaults=_factors,
            samples=floats(alpha=1.2, scale=0.9, input_scale=0.7), cost=18,
            imports={"celu": lambda b, x, alpha=1.0: b.elu(x, alpha=alpha, scale=1, input_scale=1 / alpha)})
_backward("elu_backward", "the derivative of elu times g, at x or given elu's result", _elu_backward, _elu_second, cost=18,
          meaning=lambda g, x, **a: aten.elu_backward(g, self_or_result=x, **a),
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
_backward("silu_backward", "the derivative of silu at x times g", _silu_backward, _silu_second, cost=20,
          meaning=_differentiable("silu_backward", lambda g, x: g * x.sigmoid() * (1 + x * (1 - x.sigmoid()))))


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
def _mish_slope(g, x):
    t = torch.nn.functional.softplus(x).tanh()
    return g * (t + x * x.sigmoid() * (1 - t * t))


_backward("mish_backward", "the derivative of mish at x times g", _mish_backward, _mish_second, cost=65,
          meaning=_differentiable("mish_backward", _mish_slope))


# GELU: exact, or its approximation by tanh

_BELL = 1 / sqrt(2 * pi)
_SLOPE, _CUBE = sqrt(2 / pi), 0.044715


def _gelu(s, x, *, approximate):
    return s.mul(x, s.tanh_cdf(x) if approximate == "tanh" else s.normal_cdf(x))


def _gelu_backward(s, g, x, *, approximate):
    if approximate == "tanh":
        cdf = s.tanh_cdf(x)
        slope = s.mul(s.add(s.mul(s.mul(x, x), 3 * _CUBE), 1), 2 * _SLOPE)
        density = s.mul(s.mul(cdf, s.sub(_one(s, x), cdf)), slope)
    else:
        cdf = s.normal_cdf(x)
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


_exact = {"approximate": "none"}
_activation("gelu", "a times the normal distribution function of a", _gelu, _calls("gelu"), attrs=tuple(_exact), defaults=_exact,
            samples=lambda: [((torch.randn(3, 4),), {"approximate": a}) for a in ("none", "tanh")], cost=20)
_backward("gelu_backward", "the derivative of gelu at x times g", _gelu_backward, _gelu_second, attrs=tuple(_exact),
          samples=lambda: [((torch.randn(3, 4), torch.randn(3, 4)), {"approximate": a}) for a in ("none", "tanh")],
          defaults=_exact, cost=40)
