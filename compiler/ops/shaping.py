"""Ops that put tensors together, and those that keep a triangle."""
from __future__ import annotations

import torch

from ...errors import Unsupported
from ..dims import Dim, product
from ..ir import Value
from ..op import Op, common_dtype, register
from .slices import slice_dim
from .views import inserted, row_and_column, zeros


def _cat_type(inputs, a):
    first, dim = inputs[0], a["dim"]
    for x in inputs[1:]:
        if x.rank != first.rank or any(n != m for d, (n, m) in enumerate(zip(x.shape, first.shape)) if d != dim):
            raise ValueError(f"shapes {[tuple(i.shape) for i in inputs]} differ outside dimension {dim}")
        if x.dtype != first.dtype:
            raise ValueError(f"dtypes {[i.dtype for i in inputs]} differ")
    size = sum((x.shape[dim] for x in inputs[1:]), first.shape[dim])
    return first.type.like((*first.shape[:dim], size, *first.shape[dim + 1:]))


def _cat_gradient(b, v, g):
    grads, start, dim = [], 0, v.attrs["dim"]
    for x in v.inputs:
        grads.append(slice_dim(b, g, dim, start, x.shape[dim]))
        start = start + x.shape[dim]
    return grads


def _import_cat(b, tensors, dim=0):
    """torch promotes the dtypes, and leaves out 1-dimensional empty tensors whatever the rank of the others is."""
    dtype = common_dtype(tensors)
    kept = [t for t in tensors if t.shape != (0,)] or tensors[:1]
    kept = [t if t.dtype == dtype else b.cast(t, dtype=dtype) for t in kept]
    return b.cat(*kept, dim=dim % kept[0].rank)


def _import_stack(b, tensors, dim=0):
    dim %= tensors[0].rank + 1
    return _import_cat(b, [b.reshape(t, shape=inserted(t.shape, dim)) for t in tensors], dim)


def _import_roll(b, x, shifts, dims=()):
    if not dims:
        return b.reshape(_rolled(b, b.reshape(x, shape=(product(x.shape),)), 0, shifts[0]), shape=x.shape)
    for shift, dim in zip(shifts, dims):
        x = _rolled(b, x, dim % x.rank, shift)
    return x


def _rolled(b, x: Value, dim: int, shift: Dim) -> Value:
    n = x.shape[dim]
    cut = _start(b, n, shift)
    return b.cat(slice_dim(b, x, dim, cut, n - cut), slice_dim(b, x, dim, 0, cut), dim=dim)


def _start(b, n: Dim, shift: Dim) -> Dim:
    """-shift % n, 0 for an empty dimension."""
    if isinstance(n, int) and isinstance(shift, int):
        return -shift % n if n else 0
    start = -shift if b.at_least(0, shift) else n - shift
    if not (b.at_least(start, 0) and b.at_least(n, start)):
        raise Unsupported(f"a roll by {shift} of {n} elements")
    return start


register(Op("cat", "cat", "Tensors of one dtype one after another along a dimension.", _cat_type,
            meaning=lambda *tensors, dim: torch.cat(tensors, dim), gradient=_cat_gradient,
            aten={"cat": _import_cat, "stack": _import_stack, "roll": _import_roll},
            samples=lambda: [((torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 0)), {"dim": 1}),
                             ((torch.randn(2, 3),), {"dim": 0})]))


# Triangles

def _triangle(name: str, meaning, comparison: str, which: str):
    """Register tril or triu: `comparison` of row + diagonal with the column tells what is kept."""
    def decompose(b, v):
        x = v.inputs[0]
        row, column = row_and_column(b, x.shape[-2], x.shape[-1], x.type.device, v.attrs["diagonal"])
        return b.where(b.emit(comparison, row, column), x, zeros(b, x.type.like(())))

    register(Op(name, "composite", f"The elements {which} the diagonal of the last two dimensions and on it, zeros elsewhere.",
                lambda inputs, a: inputs[0].type.like(inputs[0].shape),
                meaning=lambda x, *, diagonal: meaning(x, diagonal), decompose=decompose,
                gradient=lambda b, v, g: (b.emit(name, g, diagonal=v.attrs["diagonal"]),),
                aten={name: lambda b, x, diagonal=0: b.emit(name, x, diagonal=diagonal)},
                samples=lambda: [((torch.randn(2, 3, 4),), {"diagonal": k}) for k in (-1, 0, 2)]))


_triangle("tril", torch.tril, "ge", "below")
_triangle("triu", torch.triu, "le", "above")
