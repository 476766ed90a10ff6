"""Pooling, resampling and padding by reflection: torch's own calls, and their gradients as torch's calls."""
from __future__ import annotations

import torch

from ..ir import TensorType, TupleType
from ..op import Op, register
from .normalization import items

aten = torch.ops.aten


def _torch_type(meaning):
    """The type that torch gives for tensors without data."""
    def rule(inputs, attrs):
        result = meaning(*(torch.empty_strided(i.shape, i.type.strides, dtype=i.dtype, device="meta") for i in inputs), **attrs)
        several = isinstance(result, tuple)
        found = tuple(TensorType(tuple(r.shape), r.dtype, inputs[0].type.device) for r in (result if several else (result,)))
        return TupleType(found) if several else found[0]
    return rule


def _settings(names: dict, values, named) -> dict:
    """A call's settings by name: lists as tuples, what is not given from the defaults."""
    given = {**names, **dict(zip(names, values)), **named}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _linear(name: str, doc: str, settings: dict, call, backward_call, **sample):
    """Register an op that is linear in its one input, and its gradient `backward_call(g, shape, *settings)`.

    `settings` are the call's further arguments with their defaults; `sample` those of the tests' sample.
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

    register(Op(name, "opaque", doc, _torch_type(forward), meaning=forward,
                gradient=lambda b, v, g: (b.emit(back, g, shape=v.inputs[0].shape, **v.attrs),),
                aten={call.__name__.removesuffix(".default"): convert}, samples=lambda: [((torch.randn(2, 3, 6, 5),), attrs)]))
    register(Op(back, "opaque", f"The gradient of {name}, whose input has `shape`.",
                lambda inputs, a: inputs[0].type.like(a["shape"]),
                meaning=lambda g, *, shape, **a: backward_call(g, shape, *(a[k] for k in settings)), samples=backward_samples,
                gradient=lambda b, v, g: (b.emit(name, g, **{k: v.attrs[k] for k in settings}),)))


def _by_shape(call):
    """A backward call of torch that takes the input, of which only the shape counts."""
    return lambda g, shape, *settings: call(g, g.new_empty(shape), *settings)


_linear("avg_pool2d", "The mean of every window.",
        {"kernel_size": (), "stride": (), "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None},
        aten.avg_pool2d.default, _by_shape(aten.avg_pool2d_backward), kernel_size=(3, 2), stride=(2, 2), padding=(1, 0))
_linear("adaptive_avg_pool2d", "The mean of windows that give a result of `output_size`.", {"output_size": ()},
        aten._adaptive_avg_pool2d.default, _by_shape(lambda g, x, size: aten._adaptive_avg_pool2d_backward(g, x)),
        output_size=(3, 2))
_linear("upsample_nearest2d", "The nearest element, at `output_size`.", {"output_size": (), "scales_h": None, "scales_w": None},
        aten.upsample_nearest2d.default,
        lambda g, shape, size, *scales: aten.upsample_nearest2d_backward(g, size, shape, *scales), output_size=(12, 10))
_linear("upsample_bilinear2d", "Linear interpolation along both axes, at `output_size`.",
        {"output_size": (), "align_corners": False, "scales_h": None, "scales_w": None}, aten.upsample_bilinear2d.default,
        lambda g, shape, size, *rest: aten.upsample_bilinear2d_backward(g, size, shape, *rest), output_size=(12, 10))
_linear("reflection_pad2d", "Padding that mirrors the inside.", {"padding": ()},
        aten.reflection_pad2d.default, _by_shape(aten.reflection_pad2d_backward), padding=(1, 2, 0, 1))
_linear("replication_pad2d", "Padding that repeats the border.", {"padding": ()},
        aten.replication_pad2d.default, _by_shape(aten.replication_pad2d_backward), padding=(1, 2, 0, 1))


# Max pooling: (the largest of every window, its place in the plane)

_MAX_POOL = {"kernel_size": (), "stride": (), "padding": 0, "dilation": 1, "ceil_mode": False}
_MAX_POOL_SAMPLE = {**_MAX_POOL, "kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 0)}


def _max_pool(x, **a):
    return aten.max_pool2d_with_indices(x, *(a[k] for k in _MAX_POOL))


def _max_pool_backward(g, places, *, shape, **a):
    return aten.max_pool2d_with_indices_backward(g, g.new_empty(shape), *(a[k] for k in _MAX_POOL), places)


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


register(Op("max_pool2d", "opaque", "(the largest of every window, its place in the plane)", _torch_type(_max_pool),
            meaning=_max_pool, gradient=_max_pool_gradient,
            aten={"max_pool2d_with_indices": _import_max_pool}, samples=lambda: [((torch.randn(2, 3, 6, 5),), _MAX_POOL_SAMPLE)]))
register(Op("max_pool2d_backward", "opaque", "The gradient of max_pool2d: each result's at its place.",
            lambda inputs, a: inputs[0].type.like(a["shape"]), meaning=_max_pool_backward, gradient=_max_pool_backward_gradient,
            aten={"max_pool2d_with_indices_backward": _import_max_pool_backward}, samples=_max_pool_backward_samples))
