"""Slices and paddings: views that take part of a tensor, and views that put a tensor into a larger one.

Both have one entry per dimension, so that a chain of single-dimension ones joins into one.
"""
from __future__ import annotations

import torch

from ..dims import Dim, Expr, simplest
from ..ir import Value, contiguous_strides
from ..op import Op, register
from .views import inserted


#: What torch gives as the end of a slice that has none.
_END = (1 << 63) - 1


def _slice_type(inputs, a):
    x = inputs[0]
    for start, step, size, n in zip(a["start"], a["step"], a["size"], x.shape, strict=True):
        if step < 1:
            raise ValueError(f"a slice needs a positive step, got {step}")
        if all(isinstance(k, int) for k in (start, size, n)) and (not 0 <= start <= n or size and start + (size - 1) * step >= n):
            raise ValueError(f"{size} elements from {start} by {step} leave a dimension of size {n}")
    return x.type.like(a["size"])


def slice_of(x: torch.Tensor, dim: int, start: int, step: int, size: int) -> torch.Tensor:
    """`size` elements of one dimension of a tensor."""
    return torch.ops.aten.slice(x, dim, start, start + dilated(size, step - 1), step)


def _slice_meaning(x, *, start, step, size):
    for dim, at in enumerate(zip(start, step, size)):
        x = slice_of(x, dim, *at)
    return x


def _slice_gradient(b, v, g):
    return (pad_slice(b, g, v.inputs[0].shape, v.attrs["start"], v.attrs["step"], 0),)


def pad_slice(b, x, shape, start, step, value):
    """`x` put where slice(start, step) of a tensor of `shape` reads, and `value` everywhere else."""
    high = tuple(n - first - dilated(size, by - 1) for n, first, size, by in zip(shape, start, x.shape, step))
    return b.pad(x, low=start, high=high, interior=tuple(by - 1 for by in step), value=value)


def slice_dim(b, x: Value, dim: int, start: Dim, size: Dim, step: int = 1) -> Value:
    """`size` elements of one dimension, from `start` in steps of `step`."""
    return b.slice(x, **one_dim(x.shape, dim, start, size, step))


def one_dim(shape, dim, start, size, step):
    """The attributes of a slice that leaves every dimension but one whole."""
    return {"start": tuple(start if d == dim else 0 for d in range(len(shape))),
            "step": tuple(step if d == dim else 1 for d in range(len(shape))),
            "size": tuple(size if d == dim else n for d, n in enumerate(shape))}


def bounded(b, n: Dim, start: Dim | None, end: Dim | None, step: int) -> tuple[Dim, Dim]:
    """(start, size) of Python's slice start:end:step of a dimension of size n."""
    first, last = (_within(b, n, place) for place in (0 if start is None else start, n if end is None else end))
    return first, simplest((last - first + step - 1) // step) if b.at_least(last, first) else 0


def _within(b, n: Dim, place: Dim) -> Dim:
    """The place in 0..n that Python takes for one in a slice: negative ones count from the end."""
    if isinstance(place, int) and place >= _END:
        return n
    if not b.at_least(place, 0):
        place = place + n
    if not b.at_least(place, 0):
        return 0
    return place if b.at_least(n, place) else n


def index_of(b, n: Dim, index: Dim, dim: int) -> Dim:
    """The place in 0..n-1 that an index stands for; IndexError if there is none."""
    place = index if b.at_least(index, 0) else index + n
    if not (b.at_least(place, 0) and b.at_least(n, place + 1)):
        raise IndexError(f"select(): index {index} out of range for size {n} at dimension {dim}")
    return place


def _import_slice(b, x, dim=0, start=None, end=None, step=1):
    dim %= x.rank
    return slice_dim(b, x, dim, *bounded(b, x.shape[dim], start, end, step), step)


def _import_select(b, x, dim, index):
    dim %= x.rank
    at = index_of(b, x.shape[dim], index, dim)
    return b.reshape(slice_dim(b, x, dim, at, 1), shape=(*x.shape[:dim], *x.shape[dim + 1:]))


def _pieces(b, x, sizes, dim):
    """Consecutive slices of these sizes, which make up a dimension."""
    dim %= x.rank
    pieces, start = [], 0
    for size in sizes:
        pieces.append(slice_dim(b, x, dim, start, size))
        start = start + size
    if not (b.at_least(start, x.shape[dim]) and b.at_least(x.shape[dim], start)):
        raise ValueError(f"pieces of {sizes} do not make up a dimension of {x.shape[dim]}")
    return pieces


def _import_split(b, x, split_size, dim=0):
    n, sizes, start = x.shape[dim % x.rank], [], 0
    while not (split_size == 0 or b.at_least(start + split_size, n)):
        sizes.append(split_size)
        start = start + split_size
    return _pieces(b, x, [*sizes, n - start], dim)


def _import_unbind(b, x, dim=0):
    return [_import_select(b, x, dim, k) for k in range(x.shape[dim % x.rank])]


def _import_slice_backward(b, g, input_sizes, dim, start, end, step):
    dim %= len(input_sizes)
    first, size = bounded(b, input_sizes[dim], start, end, step)
    at = one_dim(input_sizes, dim, first, size, step)
    return pad_slice(b, g, input_sizes, at["start"], at["step"], 0)


def _import_select_backward(b, g, input_sizes, dim, index):
    dim %= len(input_sizes)
    at = one_dim(input_sizes, dim, index_of(b, input_sizes[dim], index, dim), 1, 1)
    return pad_slice(b, b.reshape(g, shape=inserted(g.shape, dim)), input_sizes, at["start"], at["step"], 0)


register(Op("slice", "view", "Every step-th element of each dimension: `size` of them from `start`.", _slice_type,
            meaning=_slice_meaning, gradient=_slice_gradient,
            index=lambda v, coordinates: tuple(c * by + at for c, by, at in zip(coordinates, v.attrs["step"], v.attrs["start"])),
            aten={"slice.Tensor": _import_slice, "select.int": _import_select, "unbind.int": _import_unbind,
                  "split.Tensor": _import_split, "unsafe_split.Tensor": _import_split,
                  "split_with_sizes": lambda b, x, sizes, dim=0: _pieces(b, x, sizes, dim),
                  "unsafe_split_with_sizes": lambda b, x, sizes, dim=0: _pieces(b, x, sizes, dim)},
            samples=lambda: [((torch.randn(5, 7),), {"start": (1, 0), "step": (1, 3), "size": (3, 3)}),
                             ((torch.randn(5, 7),), {"start": (5, 2), "step": (1, 2), "size": (0, 2)})]))


def dilated(size: Dim, interior: int) -> Dim:
    """The size of a dimension once `interior` elements stand between its neighbours."""
    return size + (size - 1) * interior if interior and size != 0 else size


def _pad_type(inputs, a):
    x = inputs[0]
    sides = zip(x.shape, a["low"], a["high"], a["interior"], strict=True)
    shape = tuple(low + dilated(n, gap) + high for n, low, high, gap in sides)
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ValueError(f"{tuple(x.shape)} padded by {a['low']} and {a['high']} would have a negative size")
    return x.type.like(shape)


def _pad_meaning(x, *, low, high, interior, value):
    spread = x.new_full([dilated(n, gap) for n, gap in zip(x.shape, interior)], value)
    spread[tuple(slice(None, None, gap + 1) for gap in interior)] = x
    return torch.nn.functional.pad(spread, [p for pair in zip(reversed(low), reversed(high)) for p in pair], value=value)


def _pad_index(v, coordinates):
    return tuple((c - low) // (gap + 1) for c, low, gap in zip(coordinates, v.attrs["low"], v.attrs["interior"]))


def _pad_inside(v, coordinates):
    rules = []
    for c, low, high, gap, n in zip(coordinates, v.attrs["low"], v.attrs["high"], v.attrs["interior"], v.inputs[0].shape):
        if low != 0 or high != 0:
            rules.append((c - low, dilated(n, gap)))
        if gap:
            rules.append(((c - low) % (gap + 1), 1))
    return rules


def _pad_gradient(b, v, g):
    """The padding is cropped away (where it was itself a crop, zeros come back), then every gap."""
    x, a = v.inputs[0], v.attrs
    g = b.pad(g, low=tuple(-n for n in a["low"]), high=tuple(-n for n in a["high"]), interior=(0,) * x.rank, value=0)
    if any(a["interior"]):
        g = b.slice(g, start=(0,) * x.rank, step=tuple(gap + 1 for gap in a["interior"]), size=x.shape)
    return (g,)


def _import_pad(b, x, pad, value=0):
    untouched = (0,) * (x.rank - len(pad) // 2)
    low, high = (*untouched, *pad[-2::-2]), (*untouched, *pad[::-2])
    if not all(b.at_least(before + n + after, 0) for before, n, after in zip(low, x.shape, high)):
        raise ValueError(f"{tuple(x.shape)} padded by {low} and {high} would have a negative size")
    if x.type.strides != contiguous_strides(x.shape):  # torch keeps them where nothing is added: guarded
        any(b.at_least(n, 1) for n in pad if isinstance(n, Expr))
    return b.pad(x, low=low, high=high, interior=(0,) * x.rank, value=value)


def slice_pad(b, x: Value, low: Dim, high: Dim, value=0) -> Value:
    """The last dimension padded."""
    whole = (0,) * (x.rank - 1)
    return b.pad(x, low=(*whole, low), high=(*whole, high), interior=(0,) * x.rank, value=value)


register(Op("pad", "view", "Per dimension `interior` fills between neighbours, then `low` and `high` around; negative ones crop.",
            _pad_type, meaning=_pad_meaning, index=_pad_index, inside=_pad_inside, gradient=_pad_gradient,
            aten={"constant_pad_nd": _import_pad, "slice_backward": _import_slice_backward,
                  "select_backward": _import_select_backward},
            samples=lambda: [((torch.randn(3, 4),), {"low": (1, 0), "high": (2, 3), "interior": (0, 0), "value": 1}),
                             ((torch.randn(3, 4),), {"low": (-1, 2), "high": (0, -1), "interior": (0, 2), "value": 0})]))
