"""Batch norm: over the batch and all positions, per channel.

torch's calls also update running statistics in place; here the new ones are further results (see WRITES in compiler/op.py).
"""
from __future__ import annotations

import math

import torch

from ..ir import TupleType, Value
from ..op import WRITES, Op, register, same_shape
from ..scalar import arithmetic_dtype
from .counts import ratio
from .normalization import (added, average, filled, items, masked_items, moments, per_channel, statistics_dtype,
                            through_statistics, total, typed)
from .views import as_dtype, widened


def _batch_axes(x):
    return tuple(d for d in range(x.rank) if d != 1)


def _check_channels(x, *parameters) -> None:
    """That there is one parameter of each kind for every channel."""
    if x.rank < 2 or any(p.shape != (x.shape[1],) for p in parameters):
        raise ValueError(f"parameters {[tuple(p.shape) for p in parameters]} for {tuple(x.shape)}")


def _batch_norm_type(inputs, a):
    x = inputs[0]
    _check_channels(*inputs)
    moment = x.type.like((x.shape[1],), arithmetic_dtype(x.dtype))
    return TupleType((x.type.like(x.shape), moment, moment))


def _batch_norm_meaning(x, weight, bias, *, eps):
    """torch does not differentiate the statistics."""
    wide = x.detach().to(arithmetic_dtype(x.dtype))
    variance, mean = torch.var_mean(wide, _axes_but_channels(x), correction=0)
    return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0], mean, variance


def _axes_but_channels(x):
    return [d for d in range(x.dim()) if d != 1]


def _decompose_batch_norm(b, v):
    x, weight, bias = v.inputs
    difference, mean, variance = moments(b, widened(b, x), _batch_axes(x))
    normal = b.mul(difference, b.rsqrt(b.add(variance, v.attrs["eps"])))
    out = b.add(b.mul(normal, per_channel(b, weight, x.rank)), per_channel(b, bias, x.rank))
    return typed(b, (out, *(b.reshape(m, shape=v.type.items[1].shape) for m in (mean, variance))), v)


def _batch_norm_gradient(b, v, g):
    x, weight, _ = v.inputs
    _, mean, variance = items(b, v, 3)
    rstd = b.rsqrt(b.add(variance, v.attrs["eps"]))
    grads = (None, None, None) if g[0] is None else items(b, b.batch_norm_backward(g[0], x, mean, rstd, weight), 3)
    mean, g_mean, g_variance = (i if i is None else per_channel(b, i, x.rank) for i in (mean, *g[1:]))
    return added(b, grads, through_statistics(b, widened(b, x), mean, g_mean, g_variance, 2, _batch_axes(x)), x)


def _decompose_batch_norm_backward(b, v):
    """The weight comes last, as in torch: an infinite one stays out of the sums."""
    g, x, mean, rstd, weight = v.inputs
    axes, (mean, rstd, weight) = _batch_axes(x), (per_channel(b, p, x.rank) for p in (mean, rstd, weight))
    g, difference = widened(b, g), b.sub(widened(b, x), mean)
    projection = b.mul(total(b, b.mul(g, difference), axes), rstd)
    slope = b.div(b.mul(projection, rstd), x.type.numel // x.shape[1])
    dx = b.mul(b.mul(b.sub(b.sub(g, average(b, g, axes)), b.mul(difference, slope)), rstd), weight)
    return typed(b, (dx, b.reshape(projection, shape=v.type.items[1].shape), total(b, g, axes, keepdim=False)), v)


def _batch_norm_backward_type(inputs, a):
    g, x, mean, rstd, weight = inputs
    same_shape(g, x)
    _check_channels(x, mean, rstd, weight)
    return TupleType((x.type.like(x.shape), weight.type.like(), weight.type.like()))


def _batch_norm_backward_meaning(g, x, mean, rstd, weight):
    mean, rstd = mean.to(weight.dtype), rstd.to(weight.dtype)
    return torch.ops.aten.native_batch_norm_backward(g, x, weight, None, None, mean, rstd, True, 0.0, [True, True, True])


def _batch_norm_samples():
    return [((torch.randn(4, 3, 2, 5), torch.randn(3), torch.randn(3)), {"eps": 1e-5}),
            ((torch.randn(6, 3), torch.randn(3), torch.randn(3)), {"eps": 1e-3})]


def _batch_norm_backward_samples():
    for (x, weight, bias), attrs in _batch_norm_samples():
        _, mean, variance = _batch_norm_meaning(x, weight, bias, **attrs)
        yield (torch.randn(x.shape), x, mean, (variance + attrs["eps"]).rsqrt(), weight), {}


def _decompose_batch_norm_inference(b, v):
    """One factor and one shift per channel, as torch computes it."""
    x, *parameters = v.inputs
    weight, bias, mean, variance = (widened(b, p) for p in parameters)
    factor = b.mul(b.rsqrt(b.add(variance, v.attrs["eps"])), weight)
    shift = b.sub(bias, b.mul(mean, factor))
    out = b.add(b.mul(widened(b, x), per_channel(b, factor, x.rank)), per_channel(b, shift, x.rank))
    return as_dtype(b, out, v.dtype)


def _batch_norm_inference_meaning(x, weight, bias, mean, variance, *, eps):
    return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]


def _batch_norm_inference_type(inputs, a):
    _check_channels(*inputs)
    return inputs[0].type.like(inputs[0].shape)


register(Op("batch_norm_inference", "composite", "Normalised per channel by a given mean and variance: batch norm in evaluation.",
            _batch_norm_inference_type, meaning=_batch_norm_inference_meaning, decompose=_decompose_batch_norm_inference,
            samples=lambda: [((*inputs, torch.randn(3), torch.rand(3) + 0.5), attrs) for inputs, attrs in _batch_norm_samples()]))


def _parameters(b, x, weight, bias):
    shape = (x.shape[1],)
    return filled(b, weight, bias or x, shape, 1), filled(b, bias, weight or x, shape, 0)


def _running(b, running: Value | None, new: Value, momentum: float) -> tuple[Value, ...]:
    """The running statistic's new value, in its dtype; nothing if there is none."""
    if running is None:
        return ()
    blended = b.add(b.mul(new, momentum), b.mul(widened(b, running), 1 - momentum))
    return (as_dtype(b, blended, running.dtype),)


def _import_batch_norm(b, x, weight, bias, running_mean, running_var, training, momentum, eps):
    """(result, mean, 1 / standard deviation), then the new running statistics that there are (see WRITES)."""
    statistics = statistics_dtype(x, weight, bias, running_mean, running_var)
    w, c = _parameters(b, x, weight, bias)
    if not training:
        out = b.batch_norm_inference(x, w, c, running_mean, running_var, eps=eps)
        empty = b.full(shape=(0,), value=0, dtype=statistics, device=x.type.device)
        return out, empty, empty, running_mean, running_var
    out, mean, variance = items(b, b.batch_norm(x, w, c, eps=eps), 3)
    saved = (as_dtype(b, m, statistics) for m in (mean, b.rsqrt(b.add(variance, eps))))
    count = x.type.numel // x.shape[1]
    unbiased = b.mul(variance, math.nan if count in (0, 1) else ratio(b, count, count - 1))
    return out, *saved, *_running(b, running_mean, mean, momentum), *_running(b, running_var, unbiased, momentum)


def _import_cudnn_batch_norm(b, *given):
    """The fourth result is cuDNN's own, for its backward."""
    out, mean, rstd, *running = _import_batch_norm(b, *given)
    return out, mean, rstd, None, *running


def _import_batch_norm_no_training(b, x, weight, bias, running_mean, running_var, momentum, eps):
    return _import_batch_norm(b, x, weight, bias, running_mean, running_var, False, momentum, eps)[:3]


def _import_batch_norm_no_stats(b, x, weight, bias, training, momentum, eps):
    return _import_batch_norm(b, x, weight, bias, None, None, True, momentum, eps)


def _import_batch_norm_backward(b, g, x, weight, running_mean, running_var, save_mean, save_invstd, train, eps, output_mask):
    w = filled(b, weight, save_mean if train else running_mean, (x.shape[1],), 1)
    if train:
        return masked_items(b, b.batch_norm_backward(g, x, save_mean, save_invstd, w), output_mask)
    axes, g32 = _batch_axes(x), widened(b, g)
    rstd = b.rsqrt(b.add(widened(b, running_var), eps))
    difference = b.sub(widened(b, x), per_channel(b, running_mean, x.rank))
    grads = (as_dtype(b, b.mul(g32, per_channel(b, b.mul(widened(b, w), rstd), x.rank)), x.dtype),
             as_dtype(b, b.mul(total(b, b.mul(g32, difference), axes, keepdim=False), rstd), w.dtype),
             as_dtype(b, total(b, g32, axes, keepdim=False), w.dtype))
    return tuple(grad if wanted else None for grad, wanted in zip(grads, output_mask))


register(Op("batch_norm", "composite", "(normalised per channel, mean, biased variance): batch norm in training",
            _batch_norm_type, meaning=_batch_norm_meaning, decompose=_decompose_batch_norm, gradient=_batch_norm_gradient,
            samples=_batch_norm_samples,
            aten={"native_batch_norm": _import_batch_norm, "cudnn_batch_norm": _import_cudnn_batch_norm,
                  "miopen_batch_norm": _import_batch_norm, "_native_batch_norm_legit": _import_batch_norm,
                  "_native_batch_norm_legit_functional": _import_batch_norm,
                  "_native_batch_norm_legit_no_training": _import_batch_norm_no_training,
                  "_native_batch_norm_legit.no_stats": _import_batch_norm_no_stats}))
WRITES.update(dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm"), (3, 4)))

register(Op("batch_norm_backward", "composite", "(gradient of the input, of the weight, of the bias) in training",
            _batch_norm_backward_type, meaning=_batch_norm_backward_meaning, decompose=_decompose_batch_norm_backward,
            samples=_batch_norm_backward_samples, aten={"native_batch_norm_backward": _import_batch_norm_backward}))
