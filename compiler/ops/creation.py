"""Tensors made from nothing, filled, copied or converted."""
from __future__ import annotations

import torch

from ..dims import Expr
from ..ir import TensorType, Value, dense
from ..op import Op, register


# Imports. Layouts other than strided, and other devices than the operand's, are left to torch. Memory formats only set
# strides, which the recording knows.

def _plain(layout, pin_memory) -> bool:
    return layout in (None, torch.strided) and not pin_memory


def _filled(value):
    """Import of zeros(size) and ones(size)."""
    def convert(b, size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        dtype = dtype or torch.get_default_dtype()
        return _full(b, size, value, dtype=dtype, layout=layout, device=device, pin_memory=pin_memory)
    return convert


def _filled_like(value):
    """Import of zeros_like(x) and ones_like(x)."""
    def convert(b, x, *, memory_format=None, **options):
        return _new_filled(value)(b, x, x.shape, **options)
    return convert


def _new_filled(value):
    """Import of x.new_zeros(size) and x.new_ones(size)."""
    def convert(b, x, size, *, dtype=None, layout=None, device=None, pin_memory=None):
        device = device or x.type.device
        return _full(b, size, value, dtype=dtype or x.dtype, layout=layout, device=device, pin_memory=pin_memory)
    return convert


def _full(b, size, value, *, dtype=None, layout=None, device=None, pin_memory=None):
    if not _plain(layout, pin_memory):
        return NotImplemented
    if dtype is None:
        dtype = torch.bool if isinstance(value, bool) else (
            torch.int64 if isinstance(value, (int, Expr)) else torch.get_default_dtype())
    if isinstance(value, Expr):
        return b.expand(b.scalar(value, dtype=dtype, device=torch.device(device or "cpu")), shape=tuple(size))
    return b.full(shape=tuple(size), value=value, dtype=dtype, device=torch.device(device or "cpu"))


def _full_like(b, x, value, *, memory_format=None, **options):
    return _filled_like(value)(b, x, **options)


def _new_full(b, x, size, value, **options):
    return _new_filled(value)(b, x, size, **options)


def _scalar_tensor(b, value, *, dtype=None, **options):
    return _full(b, (), value, dtype=dtype or torch.get_default_dtype(), **options)


def _fill(b, x, value):
    if isinstance(value, Value):
        return b.expand(b.cast(value, dtype=x.dtype), shape=x.shape)
    return _full(b, x.shape, value, dtype=x.dtype, device=x.type.device)


def _uninitialised(b, size, *, memory_format=None, **options):
    """Memory that eager leaves as it finds it: zeros are as good, and go once they are written over."""
    return _filled(0)(b, size, **options)


_FILLINGS = ((2.5, torch.float32), (-1, torch.int64), (True, torch.bool), (0.1, torch.bfloat16))

register(Op("full", "source", "A tensor filled with one number.",
            lambda inputs, a: TensorType(tuple(a["shape"]), a["dtype"], a["device"]),
            meaning=lambda *, shape, value, dtype, device: torch.full(shape, value, dtype=dtype, device=device),
            scalar=lambda s, coordinates, *, shape, value, dtype, device: s.const(value, dtype),
            gradient=lambda b, v, g: (), cost=0,
            samples=lambda: [((), {"shape": (3, 4), "value": value, "dtype": dtype, "device": torch.device("cpu")})
                             for value, dtype in _FILLINGS],
            aten={"zeros": _filled(0), "ones": _filled(1), "zeros_like": _filled_like(0), "ones_like": _filled_like(1),
                  "new_zeros": _new_filled(0), "new_ones": _new_filled(1), "full": _full, "full_like": _full_like,
                  "new_full": _new_full, "_efficientzerotensor": _filled(0), "scalar_tensor": _scalar_tensor,
                  "fill.Scalar": _fill, "fill.Tensor": _fill, "zero": lambda b, x: _fill(b, x, 0),
                  "empty.memory_format": _uninitialised, "empty_like": _filled_like(0), "new_empty": _new_filled(0),
                  "empty_strided": lambda b, size, stride, **options: _uninitialised(b, size, **options),
                  "empty_permuted": lambda b, size, order, **options: _uninitialised(b, size, **options),
                  "new_empty_strided": lambda b, x, size, stride, **options: _new_filled(0)(b, x, size, **options)}))


def _scalar(n, *, dtype, device):
    return n.detach().to(dtype) if isinstance(n, torch.Tensor) else torch.scalar_tensor(n, dtype=dtype, device=device)


register(Op("scalar", "pointwise", "A Python number that comes with each call, as a 0-dim tensor.", promotion="none",
            type=lambda inputs, a: TensorType(inputs[0].shape, a["dtype"], a["device"]), meaning=_scalar,
            scalar=lambda s, n, *, dtype, device: s.cast(n, dtype), gradient=lambda b, v, g: (None,), cost=0,
            samples=lambda: [((torch.tensor(0.3, dtype=torch.float64),), {"dtype": dtype, "device": torch.device("cpu")})
                             for dtype in (torch.float32, torch.bfloat16, torch.int64)]))


def _arange(b, start, end, step=1, *, dtype=None, layout=None, device=None, pin_memory=None):
    """Integer bounds only, and a dtype that holds every element exactly: on floats torch rounds in a way of its own."""
    dtype = dtype or torch.int64
    if not _plain(layout, pin_memory) or any(isinstance(n, float) for n in (start, end, step)) or (
            dtype in (torch.float16, torch.bfloat16, torch.bool)):
        return NotImplemented
    if dtype.is_floating_point and not all(b.at_least(1 << 24, n) and b.at_least(n, -1 << 24) for n in (start, end)):
        return NotImplemented
    length = end - start if b.at_least(step, 1) else start - end
    size = (length + abs(step) - 1) // abs(step) if b.at_least(length, 0) else 0
    return b.iota(size=size, start=start, step=step, dtype=dtype, device=torch.device(device or "cpu"))


def _eye(b, n, m=None, *, dtype=None, layout=None, device=None, pin_memory=None):
    if not _plain(layout, pin_memory):
        return NotImplemented
    place = dict(start=0, step=1, dtype=torch.int64, device=torch.device(device or "cpu"))
    rows = b.reshape(b.iota(size=n, **place), shape=(n, 1))
    return b.cast(b.eq(rows, b.iota(size=n if m is None else m, **place)), dtype=dtype or torch.get_default_dtype())


def _iota(*, size, start, step, dtype, device):
    return torch.arange(size, device=device).mul_(step).add_(start).to(dtype)


def _iota_element(s, coordinates, *, size, start, step, dtype, device):
    return s.cast(s.index(coordinates[0] * step + start), dtype)


register(Op("iota", "source", "start + step * index: a 1-dimensional integer range of `size` elements.",
            lambda inputs, a: TensorType((a["size"],), a["dtype"], a["device"]),
            meaning=_iota, scalar=_iota_element, gradient=lambda b, v, g: (), cost=0,
            samples=lambda: [((), {"size": 5, "start": 3, "step": -2, "dtype": dtype, "device": torch.device("cpu")})
                             for dtype in (torch.int64, torch.float32)],
            aten={"arange": lambda b, end, **options: _arange(b, 0, end, **options), "arange.start": _arange,
                  "arange.start_step": _arange, "eye": _eye, "eye.m": _eye}))


def _to_copy(b, x, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    if not _plain(layout, pin_memory):
        return NotImplemented
    if device not in (None, x.type.device):
        return NotImplemented if memory_format not in (None, torch.preserve_format) else b.to_device(
            x, device=device, dtype=dtype or x.dtype, non_blocking=non_blocking)
    return b.copy(x) if dtype in (None, x.dtype) else b.cast(x, dtype=dtype)


def _cast_gradient(b, v, g):
    """None where the cast was from or to integers."""
    return (b.cast(g, dtype=v.inputs[0].dtype) if v.dtype.is_floating_point and v.inputs[0].dtype.is_floating_point else None,)


register(Op("cast", "pointwise", "Convert to another dtype, as torch's .to(dtype).",
            lambda inputs, a: inputs[0].type.like(dtype=a["dtype"]),
            meaning=lambda x, *, dtype: x.to(dtype), promotion="none",
            scalar=lambda s, x, *, dtype: s.cast(x, dtype), gradient=_cast_gradient, aten={"_to_copy": _to_copy},
            samples=lambda: [((torch.randn(3, 4) * 3,), {"dtype": d}) for d in (
                torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)]))


register(Op("to_device", "opaque", "The same elements on another device, converted to a dtype.",
            lambda inputs, a: TensorType(inputs[0].shape, a["dtype"], a["device"]),
            meaning=lambda x, *, device, dtype, non_blocking: x.to(device, dtype, non_blocking=non_blocking, copy=True),
            gradient=lambda b, v, g: (_bring_back(b, v.inputs[0].type, g),), waits=True,
            samples=lambda: [((torch.randn(3, 4),), {"device": torch.device("cpu"), "dtype": torch.float64,
                                                     "non_blocking": False})]))


def _bring_back(b, type, g):
    """A gradient as one of a tensor of this type."""
    floating = type.dtype.is_floating_point and g.dtype.is_floating_point
    return b.to_device(g, device=type.device, dtype=type.dtype, non_blocking=False) if floating else None


def _copy_type(inputs, a):
    t = inputs[0].type
    return t if dense(t.shape, t.strides) else t.like(t.shape)


register(Op("copy", "pointwise", "The same elements in memory of their own (clone, contiguous).", _copy_type, promotion="none",
            meaning=lambda x: x.clone(), scalar=lambda s, x: x, samples=lambda: [((torch.randn(3, 4),), {})],
            aten={"clone": lambda b, x, *, memory_format=None: b.copy(x)},
            gradient=lambda b, v, g: (g,)))
