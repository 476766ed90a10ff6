"""Convolution: torch's own call.

Its gradient is one call per operand, so that those nobody asks for drop out of the graph; the bias' is a sum.
"""
from __future__ import annotations

import torch

from ..dims import Dim
from ..ir import TupleType, channels_last
from ..op import Op, register

aten = torch.ops.aten
_ATTRS = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
_PLAIN = (1, 0, 1, None, 0, None)  # those that do nothing to a dimension


def _convolution_type(inputs, a):
    x, weight, *bias = inputs
    shape = _convolution_shape(x.shape, weight.shape, a)
    if any(i.shape != shape[1:2] for i in bias):
        raise ValueError(f"a bias of {tuple(bias[0].shape)} for {shape[1]} channels")
    return x.type.like(shape)


def _convolution_shape(x, weight, a) -> tuple[Dim, ...]:
    """The result's shape from those of the input and the weight."""
    channels = weight[1] * a["groups"] if a["transposed"] else weight[0]
    if len(x) != len(weight) or x[1] != (weight[0] if a["transposed"] else weight[1] * a["groups"]):
        raise ValueError(f"a weight of {tuple(weight)} in {a['groups']} groups does not fit {tuple(x)}")
    settings = zip(x[2:], weight[2:], a["stride"], a["padding"], a["dilation"], a["output_padding"], strict=True)
    return (x[0], channels, *(_convolved(*each, a["transposed"]) for each in settings))


def _convolved(n, kernel, stride, padding, dilation, output_padding, transposed):
    """The size that a dimension of size n has after the convolution."""
    reach = dilation * (kernel - 1)
    if transposed:
        return (n - 1) * stride - 2 * padding + reach + output_padding + 1
    return (n + 2 * padding - reach - 1) // stride + 1


def _convolution_meaning(x, weight, bias=None, **a):
    return _call(lambda x, weight, *settings: aten.convolution(x, weight, bias, *settings), (x, weight), a)


def _call(call, operands, a):
    """`call(*operands, *settings)`: as attribute `channels_last` says, if there is one, on images with the channels last (rows
    being images then), or on contiguous ones."""
    settings = [a[k] for k in _ATTRS]
    if not a.get("channels_last"):
        return call(*(operands if "channels_last" not in a else (t.contiguous() for t in operands)), *settings)
    rows = operands[0].dim() == 3
    if rows:
        operands = [t.unsqueeze(2) for t in operands]
        settings = [(plain, *value) if isinstance(value, tuple) else value for plain, value in zip(_PLAIN, settings)]
    result = call(*(t.to(memory_format=torch.channels_last) for t in operands), *settings)
    if not rows:
        return result
    return tuple(t.squeeze(2) for t in result) if isinstance(result, tuple) else result.squeeze(2)


def _convolution_gradient(b, v, g):
    x, weight, *bias = v.inputs
    sums = (b.sum(g, dim=(0, *range(2, g.rank)), keepdim=False, dtype=None) for _ in bias)
    return _to_input(b, g, x, weight, v.attrs), _to_weight(b, g, x, weight, v.attrs), *sums


def _to_input(b, g, x, weight, attrs):
    return b.convolution_input_gradient(g, weight, shape=x.shape, strides=x.type.strides, **attrs)


def _to_weight(b, g, x, weight, attrs):
    return b.convolution_weight_gradient(g, x, shape=weight.shape, strides=weight.type.strides, **attrs)


def _convolution_attrs(*values):
    """Per-dimension settings as tuples, the rest as it is."""
    return {k: tuple(value) if isinstance(value, (list, tuple)) else value for k, value in zip(_ATTRS, values, strict=True)}


def _spread(attrs, rank):
    """torch takes one number for all dimensions; the record has one for each."""
    return {k: a * (rank - 2) if isinstance(a, tuple) and len(a) == 1 else a for k, a in attrs.items()}


def _import_convolution(b, x, weight, bias, *settings):
    attrs = _spread(_convolution_attrs(*settings), x.rank)
    return b.convolution(x, weight, *(() if bias is None else (bias,)), **attrs)


def _import_convolution_backward(b, g, x, weight, bias_sizes, *settings):
    *settings, (to_input, to_weight, to_bias) = settings
    attrs = _spread(_convolution_attrs(*settings), x.rank)
    return (_to_input(b, g, x, weight, attrs) if to_input else None,
            _to_weight(b, g, x, weight, attrs) if to_weight else None,
            b.sum(g, dim=(0, *range(2, g.rank)), keepdim=False, dtype=None) if to_bias else None)


def _convolution_samples():
    plain = {"stride": (1, 1), "padding": (1, 0), "dilation": (1, 1), "transposed": False, "output_padding": (0, 0), "groups": 1}
    image = torch.randn(2, 4, 6, 5)
    yield (image, torch.randn(3, 4, 3, 2), torch.randn(3)), plain
    yield (image, torch.randn(6, 2, 2, 2)), {**plain, "stride": (2, 1), "dilation": (1, 2), "groups": 2}
    turned = {**plain, "transposed": True, "stride": (2, 2), "output_padding": (1, 0)}
    yield (image, torch.randn(4, 3, 3, 2), torch.randn(3)), turned


register(Op("convolution", "opaque", "A convolution of [batch, channels, ...] by [out, in, ...], with an optional bias.",
            _convolution_type, meaning=_convolution_meaning, gradient=_convolution_gradient, samples=_convolution_samples,
            images="best",
            aten={"convolution": _import_convolution, "convolution_backward": _import_convolution_backward}))


# Each gradient is linear in its two inputs. Of the third tensor only the shape counts, and the strides for the layout.

def _input_gradient(g, weight, **a):
    def call(g, weight, *settings):
        return aten.convolution_backward(g, _unread(g, **a), weight, None, *settings, [True, False, False])[0]
    return _call(call, (g, weight), a)


def _weight_gradient(g, x, **a):
    def call(g, x, *settings):
        return aten.convolution_backward(g, x, _unread(g, **a), None, *settings, [False, True, False])[1]
    return _call(call, (g, x), a)


def _unread(g, *, shape, strides, channels_last=False, **_):
    """A tensor of this shape, which counts alone, and in this layout."""
    if not channels_last:
        return g.new_empty_strided(shape, strides)
    images = shape if len(shape) == 4 else (*shape[:2], 1, *shape[2:])
    return torch.empty(images, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)


def _input_gradient_gradient(b, v, gg):
    (g, weight), attrs = v.inputs, {k: v.attrs[k] for k in _ATTRS}
    return b.convolution(gg, weight, **attrs), _to_weight(b, g, gg, weight, attrs)


def _weight_gradient_gradient(b, v, gg):
    (g, x), attrs = v.inputs, {k: v.attrs[k] for k in _ATTRS}
    return b.convolution(x, gg, **attrs), _to_input(b, g, x, gg, attrs)


def _input_gradient_type(inputs, a):
    g, weight = inputs
    _check_gradient(g, a["shape"], weight.shape, a)
    return _as_torch_lays_it(g.type.like(a["shape"]), a["strides"], weight)


def _weight_gradient_type(inputs, a):
    g, x = inputs
    _check_gradient(g, x.shape, a["shape"], a)
    return _as_torch_lays_it(g.type.like(a["shape"]), a["strides"], x)


def _check_gradient(g, x, weight, a):
    if g.shape != _convolution_shape(x, weight, a):
        raise ValueError(f"a gradient {tuple(g.shape)} for an input {tuple(x)} and a weight {tuple(weight)}")


def _as_torch_lays_it(t, strides, operand):
    """The type of a gradient: with the channels last where what it is of, with these strides, or the other operand lies so."""
    last = channels_last(t)
    return last if last.strides == strides or not operand.type.contiguous and operand.type == channels_last(operand.type) else t


def _backward_samples(kept: int):
    """A gradient and the input (0) or weight (1), with the other's shape."""
    def samples():
        for inputs, attrs in _convolution_samples():
            operands = inputs[:2]
            g = torch.randn(_convolution_meaning(*operands, **attrs).shape)
            other = operands[1 - kept]
            yield (g, operands[kept]), {"shape": tuple(other.shape), "strides": other.stride(), **attrs}
    return samples


register(Op("convolution_input_gradient", "opaque", "The gradient of a convolution's input, of shape `shape`.",
            _input_gradient_type, meaning=_input_gradient, gradient=_input_gradient_gradient, images="best",
            samples=_backward_samples(1)))
register(Op("convolution_weight_gradient", "opaque", "The gradient of a convolution's weight, of shape `shape`.",
            _weight_gradient_type, meaning=_weight_gradient, gradient=_weight_gradient_gradient, images="best",
            samples=_backward_samples(0)))


# Both of them

def _gradients(g, x, weight, **a):
    def call(g, x, weight, *settings):
        return aten.convolution_backward(g, x, weight, None, *settings, [True, True, False])[:2]
    return _call(call, (g, x, weight), a)


def _gradients_type(inputs, a):
    g, x, weight = inputs
    _check_gradient(g, x.shape, weight.shape, a)
    return TupleType((_as_torch_lays_it(x.type, x.type.strides, weight), _as_torch_lays_it(weight.type, weight.type.strides, x)))


def _gradients_samples():
    for (x, weight, *_), attrs in _convolution_samples():
        yield (torch.randn(_convolution_meaning(x, weight, **attrs).shape), x, weight), attrs


register(Op("convolution_gradients", "opaque", "The gradients of a convolution's input and weight (passes/join.py).",
            _gradients_type, meaning=_gradients, samples=_gradients_samples))
