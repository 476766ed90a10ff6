"""Layer norm and group norm, with their gradients in closed form.

Statistics are float32 for float16/bfloat16 inputs: the mean, then the mean of the squared differences from it. A result
rounds once. A missing weight counts as ones and a missing bias as zeros, which is what torch computes.
"""
from __future__ import annotations

import math

import torch

from ..dims import product
from ..ir import TupleType, Value
from ..op import Op, register, same_shape
from ..scalar import arithmetic_dtype
from .views import as_dtype, widened


# What the norms share

def total(b, x, dim, keepdim=True) -> Value:
    """The sum over axes."""
    return b.sum(x, dim=tuple(dim), keepdim=keepdim, dtype=None)


def average(b, x, dim) -> Value:
    """The mean over axes, which stay as 1."""
    return b.div(total(b, x, dim), product(x.shape[d] for d in dim))


def moments(b, x, dim):
    """(difference from the mean, mean, variance) over axes that are kept as 1."""
    mean = average(b, x, dim)
    difference = b.sub(x, mean)
    return difference, mean, average(b, b.mul(difference, difference), dim)


def input_gradient(b, g, normal, rstd, dim):
    """Through the normalisation: `g` belongs to its result `normal`, whose axes `dim` were averaged over."""
    inner = b.sub(b.sub(g, average(b, g, dim)), b.mul(normal, average(b, b.mul(g, normal), dim)))
    return b.mul(inner, rstd)


def through_statistics(b, x, mean, g_mean, g_spread, slope, dim) -> list[Value]:
    """What reaches `x` by way of its mean over axes and of a statistic of its spread, where those are used themselves.

    The spread's derivative is slope * (x - mean) / count. All broadcast against `x`; a gradient may be None.
    """
    count = product(x.shape[d] for d in dim)
    parts = [] if g_mean is None else [b.expand(b.div(g_mean, count), shape=x.shape)]
    if g_spread is not None:
        parts.append(b.mul(b.mul(b.sub(x, mean), slope), b.div(g_spread, count)))
    return parts


def rstd_slope(b, rstd) -> Value:
    """The slope of 1 / standard deviation."""
    return b.neg(b.mul(b.mul(rstd, rstd), rstd))


def added(b, grads, parts, x):
    """The gradients with the parts added to the first, that of `x`."""
    dx, *others = grads
    for part in parts:
        part = as_dtype(b, b.reshape(part, shape=x.shape), x.dtype)
        dx = part if dx is None else b.add(dx, part)
    return dx, *others


def filled(b, parameter: Value | None, like: Value, shape, value) -> Value:
    """The weight or bias, or what a missing one counts as."""
    if parameter is not None:
        return parameter
    return b.full(shape=tuple(shape), value=value, dtype=like.dtype, device=like.type.device)


def statistics_dtype(x, *parameters):
    """torch keeps statistics in the input's dtype on the CPU, and in float32 where the parameters or the device differ."""
    mixed = any(p is not None and p.dtype != x.dtype for p in parameters)
    return arithmetic_dtype(x.dtype) if mixed or x.type.device.type != "cpu" else x.dtype


def items(b, v, count) -> tuple[Value, ...]:
    """The first `count` results of a value that has several."""
    return tuple(b.item(v, index=k) for k in range(count))


def masked_items(b, v, mask) -> tuple[Value | None, ...]:
    """The results of a value, None where torch's output_mask is false."""
    return tuple(b.item(v, index=k) if wanted else None for k, wanted in enumerate(mask))


def typed(b, values, v):
    """Each result in the dtype that the composite says."""
    return [as_dtype(b, r, t.dtype) for r, t in zip(values, v.type.items)]


# Layer norm: over the trailing axes that the weight has

def _layer_axes(x, weight):
    return tuple(range(x.rank - weight.rank, x.rank))


def _layer_norm_type(inputs, a):
    x, weight, bias = inputs
    if weight.shape != x.shape[x.rank - weight.rank:] or bias.shape != weight.shape:
        raise ValueError(f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} for {tuple(x.shape)}")
    moment = x.type.like(_moment_shape(x, weight), statistics_dtype(x, weight, bias))
    return TupleType((x.type.like(x.shape), moment, moment))


def _moment_shape(x, weight) -> tuple:
    axes = _layer_axes(x, weight)
    return tuple(1 if d in axes else n for d, n in enumerate(x.shape))


def _layer_norm_backward_type(inputs, a):
    g, x, mean, rstd, weight = inputs
    same_shape(g, x)
    if any(m.shape != _moment_shape(x, weight) for m in (mean, rstd)) or weight.shape != x.shape[x.rank - weight.rank:]:
        raise ValueError(f"moments {[tuple(m.shape) for m in (mean, rstd)]}, weight {tuple(weight.shape)} for {tuple(x.shape)}")
    return TupleType((x.type.like(x.shape), weight.type.like(), weight.type.like()))


def _layer_norm_meaning(x, weight, bias, *, eps):
    return torch.native_layer_norm(x, weight.shape, weight, bias, eps)


def _decompose_layer_norm(b, v):
    x, weight, bias = (widened(b, i) for i in v.inputs)
    difference, mean, variance = moments(b, x, _layer_axes(x, weight))
    rstd = b.rsqrt(b.add(variance, v.attrs["eps"]))
    return typed(b, (b.add(b.mul(b.mul(difference, rstd), weight), bias), mean, rstd), v)


def _layer_norm_gradient(b, v, g):
    x, weight, _ = v.inputs
    _, mean, rstd = items(b, v, 3)
    grads = (None, None, None) if g[0] is None else items(b, b.layer_norm_backward(g[0], x, mean, rstd, weight), 3)
    mean, rstd, g_mean, g_rstd = (i if i is None else widened(b, i) for i in (mean, rstd, *g[1:]))
    parts = through_statistics(b, widened(b, x), mean, g_mean, g_rstd, rstd_slope(b, rstd), _layer_axes(x, weight))
    return added(b, grads, parts, x)


def _import_layer_norm(b, x, normalized_shape, weight, bias, eps):
    weight, bias = filled(b, weight, bias or x, normalized_shape, 1), filled(b, bias, weight or x, normalized_shape, 0)
    return items(b, b.layer_norm(x, weight, bias, eps=eps), 3)


def _decompose_layer_norm_backward(b, v):
    g, x, mean, rstd, weight = (widened(b, i) for i in v.inputs)
    normal = b.mul(b.sub(x, mean), rstd)
    axes = _layer_axes(x, weight)
    rows = tuple(d for d in range(x.rank) if d not in axes)
    to_rows = lambda t: total(b, t, rows, keepdim=False) if rows else t
    return typed(b, (input_gradient(b, b.mul(g, weight), normal, rstd, axes), to_rows(b.mul(g, normal)), to_rows(g)), v)


def _layer_norm_backward_meaning(g, x, mean, rstd, weight):
    return torch.ops.aten.native_layer_norm_backward(g, x, weight.shape, mean, rstd, weight, weight, [True, True, True])


def _import_layer_norm_backward(b, g, x, normalized_shape, mean, rstd, weight, bias, output_mask):
    weight = filled(b, weight, bias or x, normalized_shape, 1)
    return masked_items(b, b.layer_norm_backward(g, x, mean, rstd, weight), output_mask)


def _layer_norm_samples():
    return [((torch.randn(2, 3, 4), torch.randn(4), torch.randn(4)), {"eps": 1e-5}),
            ((torch.randn(2, 3, 4), torch.randn(3, 4), torch.randn(3, 4)), {"eps": 1e-3})]


def _backward_samples(forward, samples):
    """A gradient, then what the forward op was given and gave."""
    def make():
        for (x, weight, bias), attrs in samples():
            out, mean, rstd = forward(x, weight, bias, **attrs)
            yield (torch.randn(out.shape), x, mean, rstd, weight), {k: a for k, a in attrs.items() if k != "eps"}
    return make


register(Op("layer_norm", "composite", "(normalised over the weight's axes, mean, 1 / standard deviation)", _layer_norm_type,
            meaning=_layer_norm_meaning, decompose=_decompose_layer_norm, gradient=_layer_norm_gradient,
            aten={"native_layer_norm": _import_layer_norm}, samples=_layer_norm_samples))

register(Op("layer_norm_backward", "composite", "(gradient of the input, of the weight, of the bias)",
            _layer_norm_backward_type, meaning=_layer_norm_backward_meaning, decompose=_decompose_layer_norm_backward,
            aten={"native_layer_norm_backward": _import_layer_norm_backward},
            samples=_backward_samples(_layer_norm_meaning, _layer_norm_samples)))


# Group norm: over the channels of a group and all positions

def _grouped(b, x, groups):
    """[batch, groups, everything else], in the dtype that is computed in."""
    return b.reshape(widened(b, x), shape=(x.shape[0], groups, product(x.shape[1:]) // groups))


def per_channel(b, parameter, rank):
    """[channels] made to broadcast against [batch, channels, ...]."""
    return b.reshape(widened(b, parameter), shape=(parameter.shape[0], *(1 for _ in range(rank - 2))))


def _check_groups(x, groups: int, *parameters) -> None:
    """That the channels make up the groups, and that there is a parameter of each kind for every one."""
    if x.shape[1] % groups != 0 or any(p.shape != (x.shape[1],) for p in parameters):
        raise ValueError(f"{groups} groups and parameters {[tuple(p.shape) for p in parameters]} for {tuple(x.shape)}")


def _group_norm_backward_type(inputs, a):
    g, x, mean, rstd, weight = inputs
    same_shape(g, x)
    _check_groups(x, a["groups"], weight)
    if any(m.shape != (x.shape[0], a["groups"]) for m in (mean, rstd)):
        raise ValueError(f"moments {tuple(mean.shape)} and {tuple(rstd.shape)} for {tuple(x.shape)}")
    return TupleType((x.type.like(x.shape), weight.type.like(), weight.type.like()))


def _group_norm_type(inputs, a):
    x, weight, bias = inputs
    _check_groups(x, a["groups"], weight, bias)
    moment = x.type.like((x.shape[0], a["groups"]), statistics_dtype(x, weight, bias))
    return TupleType((x.type.like(x.shape), moment, moment))


def _positions(x):
    return product(x.shape[2:])


def _group_norm_meaning(x, weight, bias, *, groups, eps):
    return torch.native_group_norm(_as_torch_takes(x), weight, bias, x.shape[0], x.shape[1], math.prod(x.shape[2:]), groups, eps)


def _as_torch_takes(x):
    """A tensor in row-major order or with the channels last; torch's group norm knows no other."""
    lasts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x if x.dim() in lasts and x.is_contiguous(memory_format=lasts[x.dim()]) else x.contiguous()


def _decompose_group_norm(b, v):
    x, weight, bias = v.inputs
    difference, mean, variance = moments(b, _grouped(b, x, v.attrs["groups"]), (2,))
    rstd = b.rsqrt(b.add(variance, v.attrs["eps"]))
    normal = b.reshape(b.mul(difference, rstd), shape=x.shape)
    out = b.add(b.mul(normal, per_channel(b, weight, x.rank)), per_channel(b, bias, x.rank))
    return typed(b, (out, *(b.reshape(m, shape=v.type.items[1].shape) for m in (mean, rstd))), v)


def _group_norm_gradient(b, v, g):
    x, weight, _ = v.inputs
    groups = v.attrs["groups"]
    _, mean, rstd = items(b, v, 3)
    grads = (None, None, None) if g[0] is None else items(b, b.group_norm_backward(g[0], x, mean, rstd, weight, groups=groups), 3)
    mean, rstd, g_mean, g_rstd = (i if i is None else b.reshape(widened(b, i), shape=(*i.shape, 1)) for i in (mean, rstd, *g[1:]))
    parts = through_statistics(b, _grouped(b, x, groups), mean, g_mean, g_rstd, rstd_slope(b, rstd), (2,))
    return added(b, grads, parts, x)


def _import_group_norm(b, x, weight, bias, N, C, HxW, group, eps):
    weight, bias = filled(b, weight, bias or x, (C,), 1), filled(b, bias, weight or x, (C,), 0)
    return items(b, b.group_norm(x, weight, bias, groups=group, eps=eps), 3)


def _decompose_group_norm_backward(b, v):
    g, x, mean, rstd, weight = v.inputs
    groups = v.attrs["groups"]
    mean, rstd = (b.reshape(widened(b, m), shape=(*m.shape, 1)) for m in (mean, rstd))
    normal = b.mul(b.sub(_grouped(b, x, groups), mean), rstd)
    scaled = _grouped(b, b.mul(widened(b, g), per_channel(b, weight, x.rank)), groups)
    dx = b.reshape(input_gradient(b, scaled, normal, rstd, (2,)), shape=x.shape)
    others = tuple(d for d in range(x.rank) if d != 1)
    g, normal = widened(b, g), b.reshape(normal, shape=x.shape)
    return typed(b, (dx, total(b, b.mul(g, normal), others, keepdim=False), total(b, g, others, keepdim=False)), v)


def _group_norm_backward_meaning(g, x, mean, rstd, weight, *, groups):
    g, x = map(_as_torch_takes, (g, x))
    return torch.ops.aten.native_group_norm_backward(g, x, mean, rstd, weight, x.shape[0], x.shape[1], math.prod(x.shape[2:]),
                                                     groups, [True, True, True])


def _import_group_norm_backward(b, g, x, mean, rstd, weight, N, C, HxW, group, output_mask):
    weight = filled(b, weight, mean, (C,), 1)
    return masked_items(b, b.group_norm_backward(g, x, mean, rstd, weight, groups=group), output_mask)


def _group_norm_samples():
    return [((torch.randn(2, 6, 3, 2), torch.randn(6), torch.randn(6)), {"groups": k, "eps": 1e-5}) for k in (2, 6)]


register(Op("group_norm", "composite", "(normalised over a group's channels and all positions, mean, 1 / standard deviation)",
            _group_norm_type, meaning=_group_norm_meaning, decompose=_decompose_group_norm, gradient=_group_norm_gradient,
            aten={"native_group_norm": _import_group_norm}, samples=_group_norm_samples))

register(Op("group_norm_backward", "composite", "(gradient of the input, of the weight, of the bias)",
            _group_norm_backward_type, meaning=_group_norm_backward_meaning, decompose=_decompose_group_norm_backward,
            aten={"native_group_norm_backward": _import_group_norm_backward},
            samples=_backward_samples(_group_norm_meaning, _group_norm_samples)))
