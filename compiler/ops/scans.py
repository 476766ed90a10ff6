"""Scans: for each element along one axis, what it and those before it come to.

Every one has the attribute `dim`: one non-negative int, or none for a scalar. As torch's, float16/bfloat16 add up in float32
and are rounded where they are stored.
"""
from __future__ import annotations

import torch

from ..ir import TupleType
from ..op import Op, normal_dims, register
from .core import Operand
from .gradients import once_differentiable
from .views import as_dtype


def _samples(**attrs):
    def samples():
        for dim in (0, 1, 2):
            yield (torch.randn(3, 20, 4),), {"dim": (dim,), **attrs}
        yield (torch.tensor([[1.5, 0.0, -2.0, 0.0, 3.0], [2.0, 0.5, 3.0, -1.0, 0.0]]),), {"dim": (1,), **attrs}
        yield (torch.randn(()),), {"dim": (), **attrs}
    return samples


def _along(name: str):
    def convert(b, x, dim, **attrs):
        return b.emit(name, x, dim=normal_dims(dim, x.rank), **attrs)
    return convert


def _reversed(b, name: str, x, dim, **attrs):
    """The scan from the last element to the first."""
    return b.flip(b.emit(name, b.flip(x, dims=dim), dim=dim, **attrs), dims=dim)


def _type(inputs, a):
    return inputs[0].type.like(inputs[0].shape)


# Sums and products

def _accumulated(inputs, a):
    """`dtype`, else int64 for integers and bool."""
    x = inputs[0]
    return x.type.like(x.shape, a["dtype"] or (x.dtype if x.dtype.is_floating_point else torch.int64))


def _accumulating(name: str, doc: str, function, combine: str, gradient) -> None:
    def convert(b, x, dim, *, dtype=None):
        return NotImplemented if dtype == torch.bool else _along(name)(b, x, dim, dtype=dtype)

    def meaning(x, *, dim, dtype):
        return function(x, dim[0] if dim else 0, dtype=dtype)
    register(Op(name, "scan", doc, _accumulated, meaning=meaning, combine=combine, gradient=gradient, aten={name: convert},
                samples=_samples(dtype=None)))


def _cumsum_gradient(b, v, g):
    x = v.inputs[0]
    return (_reversed(b, "cumsum", as_dtype(b, g, x.dtype), v.attrs["dim"], dtype=None) if x.dtype.is_floating_point else None,)


def _cumprod_gradient(b, v, x, g):
    """Before the first zero, the sum of what the later products pass on, over the element; at the first zero, that sum with
    products in which it is 1; nothing after it. Of one element, that of the result."""
    dim, g = v.attrs["dim"], as_dtype(b, g, x.dtype)
    if not dim or x.shape[dim[0]] == 1:
        return g
    result, is_zero = as_dtype(b, b.cumprod(x, **v.attrs), x.dtype), b.eq(x, 0)
    zeros_met = b.cumsum(is_zero, dim=dim, dtype=torch.int32)
    before, one = b.eq(zeros_met, 0), b.eq(zeros_met, 1)
    first = b.logical_and(is_zero, one)
    others = b.cumprod(b.where(first, 1, x), dim=dim, dtype=None)
    passed, at_zero = (_reversed(b, "cumsum", b.where(part, b.mul(g, products), 0), dim, dtype=None)
                       for part, products in ((before, result), (one, others)))
    return b.where(before, b.div(passed, x), b.where(first, at_zero, 0))


_accumulating("cumsum", "Sums along an axis up to each element; in int64 for integers.", torch.cumsum, "sum", _cumsum_gradient)
_accumulating("cumprod", "Products along an axis up to each element; in int64 for integers.", torch.cumprod, "prod",
              once_differentiable("cumprod", _cumprod_gradient))


def _logcumsumexp_gradient(b, v, g):
    """On logarithms of the gradient's positive and negative parts."""
    x, dim = v.inputs[0], v.attrs["dim"]

    def part(is_there, size):
        log = b.where(is_there, b.log(size), torch.finfo(g.dtype).min)
        return b.exp(b.add(_reversed(b, "logcumsumexp", b.sub(log, v), dim), x))
    return (b.sub(part(b.gt(g, 0), g), part(b.lt(g, 0), b.neg(g))),)


register(Op("logcumsumexp", "opaque", "log(cumsum(exp(a))) along an axis, without overflow.", _type,
            meaning=lambda x, *, dim: torch.logcumsumexp(x, dim[0] if dim else 0), gradient=_logcumsumexp_gradient,
            samples=_samples(),
            aten={"logcumsumexp": lambda b, x, dim: _along("logcumsumexp")(b, x, dim) if x.dtype.is_floating_point
                  else NotImplemented}))


# Extremes

def _extreme(name: str, which: str, function) -> None:
    """The extremes along an axis so far, and where the last of them is."""
    values, places = f"{name}_values", f"{name}_places"
    samples = lambda: [*_samples()()][:-1]

    def type(inputs, a):
        return TupleType((_type(inputs, a), inputs[0].type.like(inputs[0].shape, torch.int64)))

    def decompose(b, v):
        x = v.inputs[0]
        comparable = as_dtype(b, x, torch.uint8) if x.dtype == torch.bool else x
        return [as_dtype(b, b.emit(values, comparable, **v.attrs), x.dtype), b.emit(places, comparable, **v.attrs)]

    def gradient(b, v, g):
        """torch's own: a tensor of this size, here the gradient, is its second argument."""
        (dim,), grad, places = v.attrs["dim"], Operand(0), Operand(1)
        return (b.call(g[0], b.item(v, index=1), target="aten.cummaxmin_backward.default", args=(grad, grad, places, dim),
                       kwargs={}, type=v.inputs[0].type.like(v.inputs[0].shape)),)

    def convert(b, x, dim):
        found = _along(name)(b, x, dim) if x.rank else NotImplemented
        return found if found is NotImplemented else [b.item(found, index=0), b.item(found, index=1)]
    register(Op(values, "scan", f"{which} element along an axis up to each one; NaN from the first one on.", _type,
                combine=name[3:], meaning=lambda x, *, dim: function(x, dim[0]).values, samples=samples))
    register(Op(places, "scan", f"Index of the {which.lower()} element along an axis up to each one, the last of equals.",
                lambda inputs, a: type(inputs, a).items[1], combine=f"arg{name[3:]}",
                meaning=lambda x, *, dim: function(x, dim[0]).indices, samples=samples))
    register(Op(name, "composite", f"{which} element along an axis up to each one, and its last index.", type,
                decompose=decompose, meaning=lambda x, *, dim: tuple(function(x, dim[0])), gradient=gradient, samples=samples,
                aten={name: convert}))


_extreme("cummax", "Largest", torch.cummax)
_extreme("cummin", "Smallest", torch.cummin)
