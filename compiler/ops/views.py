"""Views: ops that read their input elsewhere and compute nothing. Every one is a map of coordinates.

In the IR a view is a pure value: whether it shares memory is decided by code generation, never by the op.
"""
from __future__ import annotations

import torch

from ..dims import Dim, expr, product, simplest
from ..ir import TensorType, Value
from ..op import Op, register


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


register(Op("reshape", "view", "The same elements in row-major order under another shape.", _reshape_type,
            meaning=lambda x, *, shape: x.reshape(shape), index=_reshape_index,
            gradient=lambda b, v, g: (b.reshape(g, shape=v.inputs[0].shape),),
            aten={"view": lambda b, x, size: b.reshape(x, shape=known_shape(x, size)),
                  "_unsafe_view": lambda b, x, size: b.reshape(x, shape=known_shape(x, size)),
                  "unsqueeze": lambda b, x, dim: b.reshape(x, shape=_inserted(x.shape, dim % (x.rank + 1)))},
            samples=lambda: [((torch.randn(4, 6),), {"shape": (2, 12)}), ((torch.randn(4, 6),), {"shape": (24,)})]))


def _inserted(shape, dim):
    return (*shape[:dim], 1, *shape[dim:])


def _permute_index(v, coordinates):
    out = [None] * len(coordinates)
    for c, d in zip(coordinates, v.attrs["dims"]):
        out[d] = c
    return tuple(out)


def _inverse(dims):
    return tuple(sorted(range(len(dims)), key=lambda i: dims[i]))


register(Op("permute", "view", "The axes in another order.",
            lambda inputs, a: inputs[0].type.like([inputs[0].shape[d] for d in a["dims"]]),
            meaning=lambda x, *, dims: x.permute(dims), index=_permute_index,
            gradient=lambda b, v, g: (b.permute(g, dims=_inverse(v.attrs["dims"])),),
            aten={"permute": lambda b, x, dims: b.permute(x, dims=tuple(d % x.rank for d in dims)),
                  "t": lambda b, x: b.permute(x, dims=tuple(reversed(range(x.rank))))},
            samples=lambda: [((torch.randn(2, 3, 4),), {"dims": (2, 0, 1)})]))


def _expand_index(v, coordinates):
    x = v.inputs[0]
    lead = v.rank - x.rank
    return tuple(expr(0) if n == 1 else c for n, c in zip(x.shape, coordinates[lead:]))


def _expand_type(inputs, attrs):
    x, shape = inputs[0], tuple(attrs["shape"])
    if len(shape) < x.rank or any(n != 1 and n != m for n, m in zip(reversed(x.shape), reversed(shape))):
        raise ValueError(f"{tuple(x.shape)} does not expand to {shape}")
    return x.type.like(shape)


register(Op("expand", "view", "Repeat axes of size 1, and add axes in front.", _expand_type,
            meaning=lambda x, *, shape: x.expand(shape), index=_expand_index,
            gradient=lambda b, v, g: (sum_to(b, g, v.inputs[0]),),
            aten={"expand": lambda b, x, size, implicit=False: b.expand(x, shape=_expanded(x, size))},
            samples=lambda: [((torch.randn(3, 1),), {"shape": (2, 3, 4)})]))


def _expanded(x, size):
    lead = len(size) - x.rank
    return tuple(x.shape[i - lead] if isinstance(n, int) and n == -1 else n for i, n in enumerate(size))


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
    return g if g.dtype == target.dtype else b.cast(g, dtype=target.dtype)
