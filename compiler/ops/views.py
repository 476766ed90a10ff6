"""Views: ops that read their input elsewhere and compute nothing. Every one is a map of coordinates.

In the IR a view is a pure value: whether it shares memory is decided by code generation, never by the op.
"""
from __future__ import annotations

import torch

from ..dims import Dim, expr, larger, product, smaller
from ..ir import TensorType, Value
from ..op import Op, normal_dims, register
from ..scalar import arithmetic_dtype


def flatten(coordinates, shape) -> "Dim":
    """The row-major position of coordinates in a shape."""
    position = expr(0)
    for c, n in zip(coordinates, shape):
        position = position * n + c
    return position


def unflatten(position, shape) -> tuple:
    """The coordinates of a row-major position."""
    coordinates = []
    for n in reversed(shape[1:]):
        coordinates.append(position % n)
        position = position // n
    return (position, *reversed(coordinates)) if shape else ()


def _reshape_index(v: Value, coordinates):
    shape = v.inputs[0].shape
    if 0 in v.shape:
        return tuple(expr(0) for _ in shape)
    return unflatten(flatten(coordinates, v.shape), shape)


def _reshape_type(inputs, attrs):
    x, shape = inputs[0], tuple(attrs["shape"])
    if product(shape) != x.type.numel:
        raise ValueError(f"{tuple(x.shape)} does not reshape to {shape}")
    return x.type.like(shape)


def known_shape(x: Value, shape) -> tuple:
    """A shape with its -1 worked out."""
    shape = tuple(shape)
    if -1 not in shape:
        return shape
    rest = product(n for n in shape if not (isinstance(n, int) and n == -1))
    return tuple((x.type.numel // rest if rest != 0 else 0) if isinstance(n, int) and n == -1 else n for n in shape)


def inserted(shape, dim) -> tuple:
    """The shape with a dimension of size 1 at `dim`."""
    return (*shape[:dim], 1, *shape[dim:])


def _import_view(b, x, size):
    return b.reshape(x, shape=known_shape(x, size))


def _import_squeeze(b, x, dim=None):
    dims = normal_dims(dim, x.rank) if dim != [] else ()
    return b.reshape(x, shape=tuple(n for d, n in enumerate(x.shape) if d not in dims or b.at_least(n, 2) or n == 0))


def _import_flatten(b, x, start_dim=0, end_dim=-1):
    if not x.rank:
        return b.reshape(x, shape=(1,))
    first, last = start_dim % x.rank, end_dim % x.rank
    return b.reshape(x, shape=(*x.shape[:first], product(x.shape[first:last + 1]), *x.shape[last + 1:]))


register(Op("reshape", "view", "The same elements in row-major order under another shape.", _reshape_type,
            meaning=lambda x, *, shape: x.reshape(shape), index=_reshape_index,
            gradient=lambda b, v, g: (b.reshape(g, shape=v.inputs[0].shape),),
            aten={"view": _import_view, "_unsafe_view": _import_view, "reshape": _import_view,
                  "_reshape_alias": lambda b, x, size, stride: _import_view(b, x, size),
                  "flatten.using_ints": _import_flatten,
                  "squeeze": _import_squeeze, "squeeze.dim": _import_squeeze, "squeeze.dims": _import_squeeze,
                  "unsqueeze": lambda b, x, dim: b.reshape(x, shape=inserted(x.shape, dim % (x.rank + 1))),
                  "alias": lambda b, x: x, "lift_fresh": lambda b, x: x},
            samples=lambda: [((torch.randn(4, 6),), {"shape": (2, 12)}), ((torch.randn(4, 6),), {"shape": (24,)})]))


def _permute_index(v, coordinates):
    out = [None] * len(coordinates)
    for c, d in zip(coordinates, v.attrs["dims"]):
        out[d] = c
    return tuple(out)


def inverse(dims) -> tuple[int, ...]:
    """The order of axes that undoes permute(dims)."""
    return tuple(sorted(range(len(dims)), key=lambda i: dims[i]))


def _import_transpose(b, x, dim0, dim1):
    if not x.rank:
        return x
    order = list(range(x.rank))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return b.permute(x, dims=tuple(d % x.rank for d in order))


register(Op("permute", "view", "The axes in another order.",
            lambda inputs, a: inputs[0].type.like([inputs[0].shape[d] for d in a["dims"]]),
            meaning=lambda x, *, dims: x.permute(dims), index=_permute_index,
            gradient=lambda b, v, g: (b.permute(g, dims=inverse(v.attrs["dims"])),),
            aten={"permute": lambda b, x, dims: b.permute(x, dims=tuple(d % x.rank for d in dims)),
                  "transpose.int": _import_transpose,
                  "t": lambda b, x: b.permute(x, dims=tuple(reversed(range(x.rank))))},
            samples=lambda: [((torch.randn(2, 3, 4),), {"dims": (2, 0, 1)})]))


def _expand_index(v, coordinates):
    x = v.inputs[0]
    lead = v.rank - x.rank
    return tuple(expr(0) if n == 1 != m else c for n, m, c in zip(x.shape, v.shape[lead:], coordinates[lead:]))


def _expand_type(inputs, attrs):
    x, shape = inputs[0], tuple(attrs["shape"])
    if len(shape) < x.rank or any(n != 1 and n != m for n, m in zip(reversed(x.shape), reversed(shape))):
        raise ValueError(f"{tuple(x.shape)} does not expand to {shape}")
    return x.type.like(shape)


def _expanded(x, size):
    lead = len(size) - x.rank
    return tuple(x.shape[i - lead] if isinstance(n, int) and n == -1 else n for i, n in enumerate(size))


def _import_repeat(b, x, repeats):
    """Every dimension [n] becomes [1, n], then [times, n], then [times * n]."""
    shape = (*(1 for _ in range(len(repeats) - x.rank)), *x.shape)
    x = b.reshape(x, shape=tuple(k for n in shape for k in (1, n)))
    x = b.expand(x, shape=tuple(k for times, n in zip(repeats, shape) for k in (times, n)))
    return b.reshape(x, shape=tuple(times * n for times, n in zip(repeats, shape)))


register(Op("expand", "view", "Repeat axes of size 1, and add axes in front.", _expand_type,
            meaning=lambda x, *, shape: x.expand(shape), index=_expand_index,
            gradient=lambda b, v, g: (sum_to(b, g, v.inputs[0]),),
            aten={"expand": lambda b, x, size, implicit=False: b.expand(x, shape=_expanded(x, size)), "repeat": _import_repeat},
            samples=lambda: [((torch.randn(3, 1),), {"shape": (2, 3, 4)})]))


register(Op("flip", "view", "The order along some dimensions reversed.",
            lambda inputs, a: inputs[0].type.like(inputs[0].shape),
            meaning=lambda x, *, dims: x.flip(dims),
            index=lambda v, coordinates: tuple(n - 1 - c if d in v.attrs["dims"] else c
                                               for d, (c, n) in enumerate(zip(coordinates, v.shape))),
            gradient=lambda b, v, g: (b.flip(g, dims=v.attrs["dims"]),),
            aten={"flip": lambda b, x, dims: b.flip(x, dims=normal_dims(dims, x.rank)) if dims else b.copy(x)},
            samples=lambda: [((torch.randn(3, 4, 2),), {"dims": (0, 2)})]))


# Diagonals

def diagonal_start(offset):
    """(row, column) where a diagonal begins."""
    return max(-offset, 0), max(offset, 0)


def _diagonal_type(inputs, a):
    x, (row, column) = inputs[0], diagonal_start(a["offset"])
    size = smaller(x.shape[a["dim1"]] - row, x.shape[a["dim2"]] - column)
    return x.type.like((*others(x.shape, a["dim1"], a["dim2"]), larger(size, 0)))


def others(sequence, dim1, dim2):
    return tuple(s for d, s in enumerate(sequence) if d not in (dim1, dim2))


def _diagonal_index(v, coordinates):
    (*rest, along), (row, column) = coordinates, diagonal_start(v.attrs["offset"])
    place = {v.attrs["dim1"]: along + row, v.attrs["dim2"]: along + column}
    return tuple(place[d] if d in place else rest.pop(0) for d in range(v.inputs[0].rank))


def diagonal_attrs(rank, offset=0, dim1=0, dim2=1):
    return {"offset": offset, "dim1": dim1 % rank, "dim2": dim2 % rank}


DIAGONALS = [{"offset": 0, "dim1": 0, "dim2": 1}, {"offset": -1, "dim1": 2, "dim2": 0}, {"offset": 9, "dim1": 0, "dim2": 1}]

register(Op("diagonal", "view", "The elements where dim2's index is dim1's plus `offset`, as the last dimension.", _diagonal_type,
            meaning=lambda x, *, offset, dim1, dim2: x.diagonal(offset, dim1, dim2), index=_diagonal_index,
            gradient=lambda b, v, g: (b.diagonal_scatter(zeros(b, v.inputs[0].type), g, **v.attrs),),
            aten={"diagonal": lambda b, x, offset=0, dim1=0, dim2=1: b.diagonal(x, **diagonal_attrs(x.rank, offset, dim1, dim2))},
            samples=lambda: [((torch.randn(4, 3, 5),), a) for a in DIAGONALS]))


def row_and_column(b, rows: Dim, columns: Dim, device, offset: int) -> tuple[Value, Value]:
    """The row index plus `offset` as [rows, 1] and the column index as [columns], both int64."""
    row = b.iota(size=rows, start=offset, step=1, dtype=torch.int64, device=device)
    return b.reshape(row, shape=(rows, 1)), b.iota(size=columns, start=0, step=1, dtype=torch.int64, device=device)


# Windows into memory

def _as_strided_gradient(b, v, g):
    base = v.inputs[0]
    return (b.scatter_add(zeros(b, base.type), window_places(b, base, v.attrs), b.reshape(g, shape=(g.type.numel,)), dim=0),)


def window_places(b, base, attrs):
    """The place in a 1-dimensional base that each element of an as_strided reads, flattened."""
    places = b.iota(size=base.shape[0], start=0, step=1, dtype=torch.int64, device=base.type.device)
    places = b.as_strided(places, **attrs)
    return b.reshape(places, shape=(places.type.numel,))


def _as_strided_meaning(x, *, shape, strides, offset):
    x = x.contiguous()
    return x.as_strided(shape, strides, x.storage_offset() + offset)


def _as_strided_index(v, coordinates):
    return (sum((c * s for c, s in zip(coordinates, v.attrs["strides"])), expr(v.attrs["offset"])),)


_WINDOW = {"shape": (3, 4), "strides": (2, 1), "offset": 1}

register(Op("as_strided", "view", "Elements of a 1-dimensional base at offset + sum of coordinate * stride.",
            lambda inputs, a: inputs[0].type.like(a["shape"]),
            meaning=_as_strided_meaning,
            index=_as_strided_index, gradient=_as_strided_gradient, samples=lambda: [((torch.randn(12),), _WINDOW)]))


def _unfold_type(inputs, a):
    return inputs[0].type.like(_unfolded(inputs[0].shape, a))


def _unfolded(shape, a) -> tuple[Dim, ...]:
    dim = a["dim"]
    return (*shape[:dim], (shape[dim] - a["size"]) // a["step"] + 1, *shape[dim + 1:], a["size"])


def _unfold_index(v, coordinates):
    dim, step = v.attrs["dim"], v.attrs["step"]
    return tuple(c * step + coordinates[-1] if d == dim else c for d, c in enumerate(coordinates[:-1]))


def _import_unfold(b, x, dimension, size, step):
    if not x.rank:
        return b.reshape(x, shape=(1,)) if size == 1 else NotImplemented
    if not b.at_least(x.shape[dimension], size):
        raise ValueError(f"a window of {size} in a dimension of {x.shape[dimension]}")
    return b.unfold(x, dim=dimension % x.rank, size=size, step=step)


register(Op("unfold", "view", "Windows of `size` elements of a dimension, `step` apart; a window is the last dimension.",
            _unfold_type, meaning=lambda x, *, dim, size, step: x.unfold(dim, size, step), index=_unfold_index,
            gradient=lambda b, v, g: (b.unfold_backward(g, shape=v.inputs[0].shape, **v.attrs),),
            aten={"unfold": _import_unfold},
            samples=lambda: [((torch.randn(3, 8),), {"dim": 1, "size": 4, "step": 2})]))

def _unfold_backward_type(inputs, a):
    g, shape = inputs[0], tuple(a["shape"])
    if g.shape != _unfolded(shape, a):
        raise ValueError(f"windows {tuple(g.shape)} of {shape}")
    return g.type.like(shape)


register(Op("unfold_backward", "opaque", "The sum of all windows at their places: the gradient of unfold.", _unfold_backward_type,
            meaning=lambda g, *, shape, dim, size, step: torch.ops.aten.unfold_backward(g, shape, dim, size, step),
            gradient=lambda b, v, g: (b.unfold(g, **{k: v.attrs[k] for k in ("dim", "size", "step")}),),
            aten={"unfold_backward": lambda b, g, input_sizes, dim, size, step:
                  b.unfold_backward(g, shape=tuple(input_sizes), dim=dim % len(input_sizes), size=size, step=step)},
            samples=lambda: [((torch.randn(3, 3, 4),), {"shape": (3, 8), "dim": 1, "size": 4, "step": 2})]))


# What the gradient rules of all files use

def zeros(b, type: TensorType) -> Value:
    """A contiguous tensor of zeros of that shape, dtype and device."""
    return b.full(shape=type.shape, value=0, dtype=type.dtype, device=type.device)


def as_dtype(b, x: Value, dtype: torch.dtype) -> Value:
    """x, converted if it has another dtype."""
    return x if x.dtype == dtype else b.cast(x, dtype=dtype)


def widened(b, x: Value) -> Value:
    """x in the dtype that it is computed in: float32 for float16 and bfloat16."""
    return as_dtype(b, x, arithmetic_dtype(x.dtype))


def sum_to(b, g: Value, target) -> Value | None:
    """The gradient `g` of a broadcast operand, summed back to the operand's shape and dtype; None for a number."""
    if not isinstance(target, Value):
        return None
    lead = g.rank - target.rank
    dims = tuple(i for i, n in enumerate(g.shape) if i < lead or (target.shape[i - lead] == 1 and n != 1))
    if dims:
        g = b.sum(g, dim=dims, keepdim=False, dtype=None)
    if g.shape != target.shape:
        g = b.reshape(g, shape=target.shape)
    return as_dtype(b, g, target.dtype)
