"""A write through a view, as a pure value: the base with `src`, in the base's dtype, at the places that the view reads.

Every `<view>_scatter` has the attributes of its view. An in-place write on a view is recorded as one of these.
"""
from __future__ import annotations

from typing import Callable

import torch

from ..op import OPS, Op, register
from .core import define
from .slices import bounded, dilated, index_of, one_dim, pad_slice, slice_of, slice_pad
from .views import (DIAGONALS, as_dtype, diagonal_attrs, diagonal_start, inserted, inverse, others, row_and_column, window_places,
                    zeros)


def _scatter_type(view):
    """The base's type; `src` must have the shape that the view of the base has."""
    def rule(inputs, attrs):
        base, src = inputs
        if src.shape != OPS[view].type((base,), attrs).shape:
            raise ValueError(f"{tuple(src.shape)} put where the {view} of {tuple(base.shape)} reads")
        return base.type.like(base.shape)
    return rule


def _slice_scatter(base, src, *, start, step, size):
    """One dimension at a time, from the innermost slice out."""
    slices = [base]
    for dim, at in enumerate(zip(start, step, size)):
        slices.append(slice_of(slices[-1], dim, *at))
    for dim in reversed(range(base.dim())):
        end = start[dim] + dilated(size[dim], step[dim] - 1)
        src = torch.slice_scatter(slices[dim], src, dim, start[dim], end, step[dim])
    return src


def _scatter_gradient(name):
    def gradient(b, v, g):
        src = v.inputs[1]
        return b.emit(v.op, g, zeros(b, src.type), **v.attrs), as_dtype(b, b.emit(name, g, **v.attrs), src.dtype)
    return gradient


def _operands(b, v):
    """(base, src in the base's dtype)."""
    base, src = v.inputs
    return base, as_dtype(b, src, base.dtype)


def _decompose_slice_scatter(b, v):
    base, src = _operands(b, v)
    start, step = v.attrs["start"], v.attrs["step"]
    inside = b.full(shape=src.shape, value=True, dtype=torch.bool, device=base.type.device)
    return b.where(pad_slice(b, inside, base.shape, start, step, False), pad_slice(b, src, base.shape, start, step, 0), base)


def _import_slice_scatter(b, base, src, dim=0, start=None, end=None, step=1):
    dim %= base.rank
    return b.slice_scatter(base, src, **one_dim(base.shape, dim, *bounded(b, base.shape[dim], start, end, step), step))


def _import_select_scatter(b, base, src, dim, index):
    dim %= base.rank
    src = b.reshape(src, shape=inserted(src.shape, dim))
    return b.slice_scatter(base, src, **one_dim(base.shape, dim, index_of(b, base.shape[dim], index, dim), 1, 1))


register(Op("slice_scatter", "composite", "The base with `src` where the slice reads.", _scatter_type("slice"),
            meaning=_slice_scatter, decompose=_decompose_slice_scatter, gradient=_scatter_gradient("slice"),
            aten={"slice_scatter": _import_slice_scatter, "select_scatter": _import_select_scatter},
            samples=lambda: [((torch.randn(5, 7), torch.randn(3, 2)), {"start": (1, 0), "step": (1, 3), "size": (3, 2)})]))


def _decompose_diagonal_scatter(b, v):
    """Along the rows `src` is padded to the base's; along the columns it repeats; a mask keeps the diagonal."""
    base, src = _operands(b, v)
    dim1, dim2, (row, _) = v.attrs["dim1"], v.attrs["dim2"], diagonal_start(v.attrs["offset"])
    rest, rows, columns = others(base.shape, dim1, dim2), base.shape[dim1], base.shape[dim2]
    if src.shape[-1] == 0:
        return b.copy(base)
    src = slice_pad(b, src, low=row, high=rows - row - src.shape[-1])
    src = b.expand(b.reshape(src, shape=(*rest, rows, 1)), shape=(*rest, rows, columns))
    order = (*others(range(base.rank), dim1, dim2), dim1, dim2)
    mask = b.eq(*row_and_column(b, rows, columns, base.type.device, v.attrs["offset"]))
    mask = b.expand(mask, shape=(*rest, rows, columns))
    return b.where(b.permute(mask, dims=inverse(order)), b.permute(src, dims=inverse(order)), base)


def _import_diag_embed(b, x, offset=0, dim1=-2, dim2=-1):
    """Zeros, one dimension more than `x`, with `x` on the diagonal."""
    rank, size = x.rank + 1, x.shape[-1] + abs(offset)
    attrs = diagonal_attrs(rank, offset, dim1, dim2)
    rest = iter(x.shape[:-1])
    shape = tuple(size if d in (attrs["dim1"], attrs["dim2"]) else next(rest) for d in range(rank))
    return b.diagonal_scatter(zeros(b, x.type.like(shape)), x, **attrs)


def _diagonal_backward(b, g, input_sizes, offset, dim1, dim2):
    return b.diagonal_scatter(zeros(b, g.type.like(input_sizes)), g, **diagonal_attrs(len(input_sizes), offset, dim1, dim2))


register(Op("diagonal_scatter", "composite", "The base with `src` on its diagonal.", _scatter_type("diagonal"),
            meaning=lambda base, src, *, offset, dim1, dim2: torch.diagonal_scatter(base, src, offset, dim1, dim2),
            decompose=_decompose_diagonal_scatter, gradient=_scatter_gradient("diagonal"),
            aten={"diagonal_backward": _diagonal_backward, "diag_embed": _import_diag_embed,
                  "diagonal_scatter": lambda b, base, src, offset=0, dim1=0, dim2=1:
                  b.diagonal_scatter(base, src, **diagonal_attrs(base.rank, offset, dim1, dim2))},
            samples=lambda: [((x := torch.randn(4, 3, 5), torch.randn(x.diagonal(**a).shape)), a) for a in DIAGONALS]))

def _as_strided_scatter(base, src, *, shape, strides, offset):
    places = torch.arange(base.numel(), device=base.device).as_strided(shape, strides, offset)
    return base.scatter(0, places.reshape(-1), src.reshape(-1).to(base.dtype))


def _decompose_as_strided_scatter(b, v):
    base, src = _operands(b, v)
    return b.scatter(base, window_places(b, base, v.attrs), b.reshape(src, shape=(src.type.numel,)), dim=0)


register(Op("as_strided_scatter", "composite", "The 1-dimensional base with `src` where the window reads; places must differ.",
            _scatter_type("as_strided"), meaning=_as_strided_scatter, gradient=_scatter_gradient("as_strided"),
            decompose=_decompose_as_strided_scatter,
            samples=lambda: [((torch.randn(12), torch.randn(2, 4)), {"shape": (2, 4), "strides": (5, 1), "offset": 1})]))


# The same for complex numbers, of which torch differentiates no scatter: calls of torch, made of a copy that is written to.

_VIEWS = {"slice.Tensor": "int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1", "select.int": "int dim, SymInt index",
          "diagonal.default": "int offset=0, int dim1=0, int dim2=1"}


def _putting(view: Callable) -> Callable:
    def put(base, src, *args):
        result = base.clone()
        view(result, *args).copy_(src)
        return result
    return put


for _view, _schema in _VIEWS.items():
    _name, _overload = _view.split(".")
    _call = getattr(getattr(torch.ops.aten, _name), _overload)
    define(f"put_{_name}(Tensor base, Tensor src, {_schema}) -> Tensor", _putting(_call))
