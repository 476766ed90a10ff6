"""Pooling, resampling and padding by reflection: torch's own calls, and their gradients as torch's calls."""
from __future__ import annotations

import torch

from ..dims import Dim, smaller
from ..ir import TupleType
from ..op import Op, register
from .normalization import items

aten = torch.ops.aten


# Types: the last two dimensions of the result, the others are the operand's

def _sized(sizes):
    """The type rule of an op whose result has the sizes that `sizes(height, width, attrs)` gives."""
    def rule(inputs, a):
        x = inputs[0]
        return x.type.like((*x.shape[:-2], *sizes(*x.shape[-2:], a)))
    return rule


def _sized_back(sizes):
    """The type rule of such an op's gradient: of the shape whose result has the first input's sizes."""
    def rule(inputs, a):
        g, shape = inputs[0], tuple(a["shape"])
        if g.shape != (*shape[:-2], *sizes(*shape[-2:], a)) or any(i.shape != g.shape for i in inputs[1:]):
            raise ValueError(f"{[tuple(i.shape) for i in inputs]} for an input of {shape}")
        return g.type.like(shape)
    return rule


def _given_size(height, width, a):
    return a["output_size"]


def _padded(height, width, a):
    left, right, top, bottom = a["padding"]
    return height + top + bottom, width + left + right


def _windows(height, width, a):
    kernel, stride, padding, dilation = (_both(k) for k in (
        a["kernel_size"], a["stride"] or a["kernel_size"], a["padding"], a.get("dilation", 1)))
    return tuple(_window_count(*each, a["ceil_mode"]) for each in zip((height, width), kernel, stride, padding, dilation))


def _both(setting) -> tuple:
    """A setting for both dimensions, of which torch takes one number for the two."""
    values = setting if isinstance(setting, tuple) else (setting,)
    return values if len(values) == 2 else values * 2


def _window_count(n: Dim, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Dim:
    """How many windows fit in a padded dimension; with `ceil` the last may reach over the end if it begins before it."""
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return room // stride + 1
    return smaller((room + stride - 1) // stride + 1, (n + padding - 1) // stride + 1)


def _settings(names: dict, values, named) -> dict:
    """A call's settings by name: lists as tuples, what is not given from the defaults."""
    given = {**names, **dict(zip(names, values)), **named}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _linear(name: str, doc: str, settings: dict, sizes, call, backward_call, **sample):
    """Register an op that is linear in its one input, and its gradient `backward_call(g, shape, *settings)`.

    `settings` are the call's further arguments with their defaults; `sample` those of the tests' sample; `sizes` gives the
    last two of the result's sizes.
    """
    back = f"{name}_backward"
    attrs = {**settings, **sample}

    def forward(x, **a):
        return call(x, *(a[k] for k in settings))

    def backward_samples():
        x = torch.randn(2, 3, 6, 5)
        return [((torch.randn(forward(x, **attrs).shape),), {"shape": tuple(x.shape), **attrs})]

    def convert(b, x, *values, **named):
        return b.emit(name, x, **_settings(settings, values, named))

    register(Op(name, "opaque", doc, _sized(sizes), meaning=forward, images="kept",
                gradient=lambda b, v, g: (b.emit(back, g, shape=v.inputs[0].shape, **v.attrs),),
                aten={call.__name__.removesuffix(".default"): convert}, samples=lambda: [((torch.randn(2, 3, 6, 5),), attrs)]))
    register(Op(back, "opaque", f"The gradient of {name}, whose input has `shape`.",
                _sized_back(sizes), images="kept",
                meaning=lambda g, *, shape, **a: backward_call(g, shape, *(a[k] for k in settings)), samples=backward_samples,
                gradient=lambda b, v, g: (b.emit(name, g, **{k: v.attrs[k] for k in settings}),)))


def _by_shape(call):
    """A backward call of torch that takes the input, of which only the shape counts."""
    return lambda g, shape, *settings: call(g, _unread(g, shape), *settings)


def _unread(g, shape):
    """A tensor of which only the shape counts, and the layout: that of `g`."""
    last = g.dim() == 4 and not g.is_contiguous() and g.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=memory_format)


_linear("avg_pool2d", "The mean of every window.",
        {"kernel_size": (), "stride": (), "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None},
        _windows, aten.avg_pool2d.default, _by_shape(aten.avg_pool2d_backward), kernel_size=(3, 2), stride=(2, 2), padding=(1, 0))
_linear("adaptive_avg_pool2d", "The mean of windows that give a result of `output_size`.", {"output_size": ()},
        _given_size, aten._adaptive_avg_pool2d.default, _by_shape(lambda g, x, size: aten._adaptive_avg_pool2d_backward(g, x)),
        output_size=(3, 2))
_linear("upsample_nearest2d", "The nearest element, at `output_size`.", {"output_size": (), "scales_h": None, "scales_w": None},
        _given_size, aten.upsample_nearest2d.default,
        lambda g, shape, size, *scales: aten.upsample_nearest2d_backward(g, size, shape, *scales), output_size=(12, 10))
_linear("upsample_bilinear2d", "Linear interpolation along both axes, at `output_size`.",
        {"output_size": (), "align_corners": False, "scales_h": None, "scales_w": None},
        _given_size, aten.upsample_bilinear2d.default,
        lambda g, shape, size, *rest: aten.upsample_bilinear2d_backward(g, size, shape, *rest), output_size=(12, 10))
_linear("reflection_pad2d", "Padding that mirrors the inside.", {"padding": ()},
        _padded, aten.reflection_pad2d.default, _by_shape(aten.reflection_pad2d_backward), padding=(1, 2, 0, 1))
_linear("replication_pad2d", "Padding that repeats the border.", {"padding": ()},
        _padded, aten.replication_pad2d.default, _by_shape(aten.replication_pad2d_backward), padding=(1, 2, 0, 1))


# Max pooling: (the largest of every window, its place in the plane)

_MAX_POOL = {"kernel_size": (), "stride": (), "padding": 0, "dilation": 1, "ceil_mode": False}
_MAX_POOL_SAMPLE = {**_MAX_POOL, "kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 0)}


def _max_pool(x, **a):
    return aten.max_pool2d_with_indices(x, *(a[k] for k in _MAX_POOL))


def _max_pool_backward(g, places, *, shape, **a):
    return aten.max_pool2d_with_indices_backward(g, _unread(g, shape), *(a[k] for k in _MAX_POOL), places)


def _import_max_pool(b, x, *values, **named):
    return items(b, b.max_pool2d(x, **_settings(_MAX_POOL, values, named)), 2)


def _import_max_pool_backward(b, g, x, *values):
    *values, places = values
    return b.max_pool2d_backward(g, places, shape=x.shape, **_settings(_MAX_POOL, values, {}))


def _max_pool_gradient(b, v, g):
    return (b.max_pool2d_backward(g[0], b.item(v, index=1), shape=v.inputs[0].shape, **v.attrs),)


def _max_pool_backward_gradient(b, v, g):
    """Each result's gradient stands at its place in the plane."""
    places = v.inputs[1]
    g, index = (b.reshape(i, shape=(*i.shape[:-2], i.shape[-2] * i.shape[-1])) for i in (g, places))
    found = b.gather(g, index, dim=g.rank - 1)
    return b.reshape(found, shape=places.shape), None


def _max_pool_backward_samples():
    x = torch.randn(2, 3, 6, 5)
    out, places = _max_pool(x, **_MAX_POOL_SAMPLE)
    return [((torch.randn(out.shape), places), {"shape": tuple(x.shape), **_MAX_POOL_SAMPLE})]


def _max_pool_type(inputs, a):
    largest = _sized(_windows)(inputs, a)
    return TupleType((largest, largest.like(dtype=torch.int64)))


register(Op("max_pool2d", "opaque", "(the largest of every window, its place in the plane)", _max_pool_type,
            images="kept", meaning=_max_pool, gradient=_max_pool_gradient,
            aten={"max_pool2d_with_indices": _import_max_pool}, samples=lambda: [((torch.randn(2, 3, 6, 5),), _MAX_POOL_SAMPLE)]))
register(Op("max_pool2d_backward", "opaque", "The gradient of max_pool2d: each result's at its place.",
            _sized_back(_windows), images="kept", meaning=_max_pool_backward, gradient=_max_pool_backward_gradient,
            aten={"max_pool2d_with_indices_backward": _import_max_pool_backward}, samples=_max_pool_backward_samples))
