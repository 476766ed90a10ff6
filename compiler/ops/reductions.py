"""Reductions along axes, and what is made of them: means, variances, norms.

Every one has the attributes `dim` (sorted non-negative ints; () reduces nothing) and `keepdim`. The operand is converted
to the result's dtype first; float16/bfloat16 add up in float32 and round once.
"""
from __future__ import annotations

from math import inf

import torch

from ..dims import larger
from ..ir import TupleType, Value
from ..op import Op, normal_dims, reduced_shape, register
from ..scalar import arithmetic_dtype
from .counts import ratio
from .gradients import once_differentiable
from .views import zeros


# Shapes

def keep_shape(v):
    """The shape of a reduction's result with the reduced axes kept as 1."""
    return reduced_shape(v.inputs[0].shape, v.attrs["dim"], True)


def restored(b, v, g: Value) -> Value:
    """A reduction's result or its gradient with the reduced axes as 1, so that it broadcasts against the operand."""
    return g if v.attrs["keepdim"] else b.reshape(g, shape=keep_shape(v))


def count(v):
    """How many elements are reduced to one."""
    n = 1
    for d in v.attrs["dim"]:
        n = n * v.inputs[0].shape[d]
    return n


def _reduced(dtype=None):
    """The type rule of a reduction to this dtype, or its operand's."""
    def rule(inputs, a):
        return inputs[0].type.like(reduced_shape(inputs[0].shape, a["dim"], a["keepdim"]), dtype)
    return rule


def _accumulated(inputs, a):
    """The type rule of sum and prod: `dtype`, else int64 for integers and bool."""
    x = inputs[0]
    return _reduced(a["dtype"] or (x.dtype if x.dtype.is_floating_point else torch.int64))(inputs, a)


# Imports: a `dim` of None or () means all

def _along(name: str):
    def convert(b, x, dim=None, keepdim=False, **attrs):
        return b.emit(name, x, dim=normal_dims(dim, x.rank), keepdim=keepdim, **attrs)
    return convert


def _accumulate(name: str):
    def convert(b, x, dim=None, keepdim=False, *, dtype=None):
        return _along(name)(b, x, dim, keepdim, dtype=dtype)
    return convert


def _nansum(b, x, dim=None, keepdim=False, *, dtype=None):
    numbers = b.where(b.isnan(x), 0, x) if x.dtype.is_floating_point else x
    return _accumulate("sum")(b, numbers, dim, keepdim, dtype=dtype)


def _truth(name: str):
    """any and all: on truth values; uint8 in gives uint8 out; and here a `dim` of () means none."""
    def convert(b, x, dim=None, keepdim=False):
        truths = x if x.dtype == torch.bool else b.cast(x, dtype=torch.bool)
        dims = () if isinstance(dim, (list, tuple)) and not dim else normal_dims(dim, x.rank)
        result = b.emit(name, truths, dim=dims, keepdim=keepdim)
        return b.cast(result, dtype=torch.uint8) if x.dtype == torch.uint8 else result
    return convert


# Samples and meanings

def _samples(**attrs):
    def samples():
        for dim, keepdim in (((1,), False), ((0, 1), True), ((0, 2), False), ((), False)):
            yield (torch.randn(3, 4, 2),), {"dim": dim, "keepdim": keepdim, **attrs}
        yield (torch.randn(()),), {"dim": (), "keepdim": False, **attrs}
    return samples


def _some(samples, wanted=lambda a: len(a["dim"])):
    return lambda: [(inputs, a) for inputs, a in samples() if wanted(a)]


def _dim_by_dim(function, x, dim, keepdim, **attrs):
    """A reduction that torch has for one axis at a time."""
    for d in sorted(dim, reverse=True):
        x = function(x, d, keepdim=keepdim, **attrs)
    return x


def _sum(x, *, dim, keepdim, dtype):
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return x.sum(dim, keepdim=keepdim, dtype=dtype) if dim else x.to(dtype, copy=True)


def _prod(x, *, dim, keepdim, dtype):
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    if len(dim) == 1:
        return x.prod(dim[0], keepdim=keepdim, dtype=dtype)
    wide = _dim_by_dim(torch.prod, x.to(dtype).to(arithmetic_dtype(dtype)), dim, keepdim)
    return wide.to(dtype, copy=True)


def _extreme(function):
    return lambda x, *, dim, keepdim: function(x, dim, keepdim) if dim else x.clone()


def _position(function):
    def meaning(x, *, dim, keepdim):
        if len(dim) == 1:
            return function(x, dim[0], keepdim)
        return function(x).reshape([1] * x.dim() if keepdim else [])
    return meaning


# Sums and products

def _sum_gradient(b, v, g):
    x = v.inputs[0]
    if not x.dtype.is_floating_point:
        return (None,)
    g = b.expand(restored(b, v, g), shape=x.shape)
    return (g if g.dtype == x.dtype else b.cast(g, dtype=x.dtype),)


register(Op("sum", "reduce", "Sum along axes; in float32 for float16/bfloat16, in int64 for integers.", _accumulated,
            combine="sum", meaning=_sum, gradient=_sum_gradient, samples=_samples(dtype=None),
            aten={"sum.dim_IntList": _accumulate("sum"), "sum": _accumulate("sum"), "nansum": _nansum}))


def _prod_gradient(b, v, given, g):
    """Of an element, the product of the others: the result over it, unless an element is zero."""
    a, keep = v.attrs, reduced_shape(given.shape, v.attrs["dim"], True)
    result = b.reshape(b.prod(given, **a), shape=keep)
    x = b.cast(given, dtype=result.dtype) if given.dtype != result.dtype else given
    is_zero = b.eq(x, 0)
    zeros = b.sum(is_zero, dim=a["dim"], keepdim=True, dtype=None)
    others = b.prod(b.where(is_zero, 1, x), dim=a["dim"], keepdim=True, dtype=None)
    g = b.reshape(g, shape=keep)
    plain = b.div(b.mul(g, result), x)
    alone = b.where(b.logical_and(is_zero, b.eq(zeros, 1)), b.mul(g, others), 0)
    found = b.where(b.eq(zeros, 0), plain, alone)
    return b.cast(found, dtype=given.dtype) if found.dtype != given.dtype else found


register(Op("prod", "reduce", "Product along axes; in float32 for float16/bfloat16, in int64 for integers.", _accumulated,
            combine="prod", meaning=_prod, gradient=once_differentiable("prod", _prod_gradient), samples=_samples(dtype=None),
            aten={"prod.dim_int": _accumulate("prod"), "prod": _accumulate("prod")}))


# Extremes

def _shared_by_ties(b, v, g):
    """The gradient evenly among the elements that are the extreme."""
    x = v.inputs[0]
    hit = b.eq(x, restored(b, v, v))
    ties = b.sum(hit, dim=v.attrs["dim"], keepdim=True, dtype=None)
    return (b.div(b.mul(restored(b, v, g), hit), b.cast(ties, dtype=g.dtype)),)


def _both_ends(b, x, *, dim=None, keepdim=False):
    return [_along("amin")(b, x, dim, keepdim), _along("amax")(b, x, dim, keepdim)]


register(Op("amax", "reduce", "Largest element along axes; NaN if there is one.", _reduced(), combine="max",
            meaning=_extreme(torch.amax), gradient=_shared_by_ties, samples=_samples(), aten={"amax": _along("amax")}))
register(Op("amin", "reduce", "Smallest element along axes; NaN if there is one.", _reduced(), combine="min",
            meaning=_extreme(torch.amin), gradient=_shared_by_ties, samples=_samples(),
            aten={"amin": _along("amin"), "aminmax": _both_ends}))


def _whole(name: str, doc: str, function, reduction: str):
    """The extreme of a whole tensor: as amax or amin, but where it is NaN its gradient goes to the NaNs."""
    def reduce(b, v):
        return b.emit(reduction, v.inputs[0], dim=tuple(range(v.inputs[0].rank)), keepdim=False)

    def gradient(b, v, g):
        x = v.inputs[0]
        hit = b.logical_or(b.eq(x, v), b.logical_and(b.isnan(v), b.isnan(x)))
        ties = b.sum(hit, dim=tuple(range(x.rank)), keepdim=False, dtype=None)
        return (b.where(hit, b.div(g, ties), 0),)
    register(Op(name, "composite", doc, lambda inputs, a: inputs[0].type.like(()), meaning=function, decompose=reduce,
                gradient=gradient, aten={name: lambda b, x: b.emit(name, x)},
                samples=lambda: [((torch.randn(3, 4),), {}), ((torch.tensor([1.0, 2.0, 2.0]),), {})]))


_whole("max", "Largest element; NaN if there is one.", torch.max, "amax")
_whole("min", "Smallest element; NaN if there is one.", torch.min, "amin")


def _positioned(name: str, which: str, function):
    register(Op(name, "reduce", f"Index of the first {which}, in row-major order over the reduced axes; NaN comes first.",
                _reduced(torch.int64), combine=name, meaning=_position(function), aten={name: _along(name)},
                samples=_some(_samples(), lambda a: len(a["dim"]) == 1)))


_positioned("argmax", "largest element", torch.argmax)
_positioned("argmin", "smallest element", torch.argmin)


def _selecting(name: str, doc: str, function, values: str, indices: str):
    """The extremes along one axis, and where they are."""
    def type(inputs, a):
        return TupleType((_reduced()(inputs, a), _reduced(torch.int64)(inputs, a)))

    def decompose(b, v):
        x = v.inputs[0]
        comparable = b.cast(x, dtype=torch.uint8) if x.dtype == torch.bool else x  # torch has no argmax of bool
        return [b.emit(values, x, **v.attrs), b.emit(indices, comparable, **v.attrs)]

    def gradient(b, v, g):
        """To the element picked."""
        x, (dim,) = v.inputs[0], v.attrs["dim"]
        along = tuple(x.shape[d] if d == dim else 1 for d in range(x.rank))
        places = b.reshape(b.iota(size=x.shape[dim], start=0, step=1, dtype=torch.int64, device=x.type.device), shape=along)
        picked = b.eq(places, restored(b, v, b.item(v, index=1)))
        return (b.where(picked, restored(b, v, g[0]), 0),)

    def convert(b, x, dim, keepdim=False):
        if not x.rank:
            return NotImplemented
        found = _along(name)(b, x, dim, keepdim)
        return [b.item(found, index=0), b.item(found, index=1)]
    register(Op(name, "composite", doc, type, decompose=decompose,
                meaning=lambda x, *, dim, keepdim: tuple(function(x, dim[0], keepdim)), gradient=gradient,
                samples=_some(_samples(), lambda a: len(a["dim"]) == 1), aten={f"{name[:3]}.dim": convert}))


_selecting("max_along", "Largest element along one axis, and its first index.", torch.max, "amax", "argmax")
_selecting("min_along", "Smallest element along one axis, and its first index.", torch.min, "amin", "argmin")


# Truth

def _bool_only(inputs, a):
    if inputs[0].dtype != torch.bool:
        raise ValueError(f"takes bool, got {inputs[0].dtype}")
    return _reduced()(inputs, a)


def _truths(function):
    return lambda x, *, dim, keepdim: function(x, dim, keepdim=keepdim) if dim else x.clone()


for _name, _doc, _function in (("any", "Whether any element along axes is true.", torch.any),
                               ("all", "Whether all elements along axes are true.", torch.all)):
    register(Op(_name, "reduce", _doc, _bool_only, combine=_name, meaning=_truths(_function),
                samples=lambda: [((x > 0,), a) for (x,), a in _samples()()],
                aten={o: _truth(_name) for o in (_name, f"{_name}.dim", f"{_name}.dims", f"_is_{_name}_true")}))


# Means and variances

def _rounded(b, v, result):
    """Back from the arithmetic dtype to the value's."""
    return b.cast(result, dtype=v.dtype) if result.dtype != v.dtype else result


def _widened(b, x, dtype):
    wide = arithmetic_dtype(dtype)
    return b.cast(x, dtype=wide) if x.dtype != wide else x


def _mean_meaning(x, *, dim, keepdim, dtype):
    return x.mean(dim, keepdim, dtype=dtype) if dim else x.to(dtype or x.dtype, copy=True)


def _mean(b, v):
    total = b.sum(v.inputs[0], dim=v.attrs["dim"], keepdim=v.attrs["keepdim"], dtype=arithmetic_dtype(v.dtype))
    return _rounded(b, v, b.div(total, count(v)))


def _mean_gradient(b, v, g):
    return _sum_gradient(b, v, b.div(g, count(v)))


register(Op("mean", "composite", "Mean along axes; float16/bfloat16 are rounded once.",
            lambda inputs, a: _reduced(a["dtype"] or inputs[0].dtype)(inputs, a),
            meaning=_mean_meaning, decompose=_mean, gradient=_mean_gradient, samples=_samples(dtype=None),
            aten={"mean": _accumulate("mean"), "mean.dim": _accumulate("mean")}))


def _degrees(v):
    return count(v) - v.attrs["correction"]


def _variance(b, v, x):
    """Two passes: the mean first, so that the squares do not cancel. What the mean is off by, its rounding, is the mean of the
    differences (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983). Squares may overflow."""
    dim, keepdim = v.attrs["dim"], v.attrs["keepdim"]
    off = b.sub(x, b.mean(x, dim=dim, keepdim=True, dtype=None))
    squares, rest = (b.sum(t, dim=dim, keepdim=keepdim, dtype=None) for t in (b.mul(off, off), off))
    exact = b.sub(squares, b.where(b.lt(squares, inf), b.div(b.mul(rest, rest), count(v)), 0))
    return b.div(b.maximum(exact, 0), larger(_degrees(v), 0))


def _var(b, v):
    return _rounded(b, v, _variance(b, v, _widened(b, v.inputs[0], v.dtype)))


def _std(b, v):
    """On the CPU in float64, as torch: the square of a float32 may be too large or too small for one, its root is not."""
    wide = torch.float64 if v.type.device.type == "cpu" else v.dtype
    return _rounded(b, v, b.sqrt(_variance(b, v, _widened(b, v.inputs[0], wide))))


def _var_gradient(b, v, g):
    x, g, degrees = v.inputs[0], restored(b, v, g), _degrees(v)
    off = b.sub(x, b.mean(x, dim=v.attrs["dim"], keepdim=True, dtype=None))
    return (b.mul(b.mul(g, ratio(b, 2.0, degrees) if degrees else inf), off),)


def _std_gradient(b, v, g):
    return _var_gradient(b, v, b.where(b.eq(v, 0), 0, b.div(g, b.mul(v, 2))))


def _spread(name: str, doc: str, function, decompose, gradient):
    def convert(b, x, dim=None, *, correction=None, keepdim=False):
        whole = 1 if correction is None else int(correction)
        return NotImplemented if whole != (correction or whole) else _along(name)(b, x, dim, keepdim, correction=whole)

    def convert_with_mean(b, x, dim=None, *, correction=None, keepdim=False):
        spread = convert(b, x, dim, correction=correction, keepdim=keepdim)
        return NotImplemented if spread is NotImplemented else [spread, _along("mean")(b, x, dim, keepdim, dtype=None)]

    def meaning(x, *, dim, keepdim, correction):
        return function(x if dim else x.unsqueeze(-1), dim or (-1,), correction=correction, keepdim=keepdim if dim else False)
    register(Op(name, "composite", doc, _reduced(), meaning=meaning, decompose=decompose, gradient=gradient,
                samples=lambda: [*_some(_samples(correction=1))(), *_some(_samples(correction=0))()],
                aten={f"{name}.correction": convert, f"{name}_mean.correction": convert_with_mean}))


_spread("var", "Variance along axes over (count - correction).", torch.var, _var, _var_gradient)
_spread("std", "Standard deviation along axes over (count - correction).", torch.std, _std, _std_gradient)


# Norms

def _logsumexp(b, v):
    x, dim, keepdim = _cast_like(b, v.inputs[0], v), v.attrs["dim"], v.attrs["keepdim"]
    top = b.amax(x, dim=dim, keepdim=True)
    top = b.where(b.isinf(top), 0, top)
    total = b.log(b.sum(b.exp(b.sub(x, top)), dim=dim, keepdim=keepdim, dtype=None))
    return b.add(total, top if keepdim else b.reshape(top, shape=v.shape))


def _logsumexp_gradient(b, v, g):
    if not v.inputs[0].dtype.is_floating_point:
        return (None,)
    return (b.mul(restored(b, v, g), b.exp(b.sub(v.inputs[0], restored(b, v, v)))),)


def _import_logsumexp(b, x, dim, keepdim=False):
    dims = normal_dims(dim, x.rank)
    return NotImplemented if not all(b.at_least(x.shape[d], 1) for d in dims) else b.logsumexp(x, dim=dims, keepdim=keepdim)


def _logsumexp_type(inputs, a):
    return _reduced(None if inputs[0].dtype.is_floating_point else torch.get_default_dtype())(inputs, a)


register(Op("logsumexp", "composite", "log(sum(exp(a))) along axes, without overflow.", _logsumexp_type, decompose=_logsumexp,
            meaning=lambda x, *, dim, keepdim: torch.logsumexp(x if dim else x.unsqueeze(-1), dim or -1, bool(dim) and keepdim),
            gradient=_logsumexp_gradient, samples=_samples(), aten={"logsumexp": _import_logsumexp}))


def _vector_norm(b, v):
    order, along = v.attrs["order"], {"dim": v.attrs["dim"], "keepdim": v.attrs["keepdim"]}
    x = _widened(b, v.inputs[0], v.dtype)
    if order == 2:
        result = b.sqrt(b.sum(b.mul(x, x), **along, dtype=None))
    elif order in (inf, -inf):
        result = b.emit("amax" if order > 0 else "amin", b.abs(x), **along)
    elif order == 0:
        result = b.sum(b.ne(x, 0), **along, dtype=x.dtype)
    elif order == 1:
        result = b.sum(b.abs(x), **along, dtype=None)
    else:
        result = b.power(b.sum(b.power(b.abs(x), exponent=order), **along, dtype=None), exponent=1.0 / order)
    return _rounded(b, v, result)


def _vector_norm_gradient(b, v, g):
    order, source = v.attrs["order"], v.inputs[0]
    if order == 0:
        return (zeros(b, source.type),)
    x = b.cast(source, dtype=v.dtype) if source.dtype != v.dtype else source
    g, norm = restored(b, v, g), restored(b, v, v)
    flat = b.eq(norm, 0)
    if order == 2:
        found = b.mul(g, b.where(flat, 0, b.div(x, norm)))
    elif order in (inf, -inf):
        hit = b.logical_or(b.eq(b.abs(x), norm), b.isnan(x))
        ties = b.sum(hit, dim=v.attrs["dim"], keepdim=True, dtype=None)
        found = b.mul(b.sign(x), b.mul(b.div(g, ties), hit))
    elif order == 1:
        found = b.mul(b.sign(x), g)
    else:
        steep = b.mul(b.sign(x), b.power(b.abs(x), exponent=order - 1))
        steep = b.where(b.eq(x, 0), 0, steep) if order < 1 else steep
        found = b.mul(steep, b.where(flat, 0, b.div(g, b.power(norm, exponent=order - 1))))
    return (_cast_like(b, found, source),)


def _cast_like(b, x, target):
    return x if x.dtype == target.dtype else b.cast(x, dtype=target.dtype)


def _import_norm(b, x, order=2, dim=None, keepdim=False, *, dtype=None):
    if not x.dtype.is_floating_point or not isinstance(order, (int, float)):
        return NotImplemented if order is not None else _import_norm(b, x, 2, dim, keepdim, dtype=dtype)
    dims = normal_dims(dim, x.rank)
    if not all(b.at_least(x.shape[d], 1) for d in dims):
        return NotImplemented
    return b.vector_norm(x, order=order, dim=dims, keepdim=keepdim, dtype=dtype)


register(Op("vector_norm", "composite", "The norm of this order along axes: sum(|a|**order) ** (1/order).",
            lambda inputs, a: _reduced(a["dtype"] or inputs[0].dtype)(inputs, a),
            meaning=lambda x, *, order, dim, keepdim, dtype: torch.linalg.vector_norm(
                x if dim else x.unsqueeze(-1), order, dim or (-1,), keepdim if dim else False, dtype=dtype),
            decompose=_vector_norm, gradient=_vector_norm_gradient,
            samples=lambda: [s for order in (2, 1, inf, -inf, 0, 3, 1.5) for s in _samples(order=order, dtype=None)()],
            aten={"linalg_vector_norm": _import_norm, "norm.Scalar": _import_norm, "norm.ScalarOpt_dim": _import_norm,
                  "norm.ScalarOpt_dtype": _import_norm, "norm.ScalarOpt_dim_dtype": _import_norm}))
