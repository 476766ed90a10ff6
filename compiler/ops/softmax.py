"""softmax and log_softmax, and their gradients: float16/bfloat16 are computed in float32 and rounded once.

The attribute `dtype` is the result's; None: the input's.
"""
from __future__ import annotations

import torch

from ..op import Op, register, same_shape
from .views import as_dtype, widened


def row_dim(dim: int, rank: int) -> tuple[int, ...]:
    """The one reduced axis as reductions take it; a 0-dim tensor has none."""
    return (dim % rank,) if rank else ()


def _row_sum(b, x, dim):
    return b.sum(x, dim=row_dim(dim, x.rank), keepdim=True, dtype=None)


def _shifted(b, v):
    """The input minus its row maximum, in the dtype that is computed in."""
    x = widened(b, v.inputs[0])
    return b.sub(x, b.amax(x, dim=row_dim(v.attrs["dim"], x.rank), keepdim=True))


def _decompose_softmax(b, v):
    if 0 in v.shape:
        return b.cast(v.inputs[0], dtype=v.dtype)
    e = b.exp(_shifted(b, v))
    return as_dtype(b, b.mul(e, b.reciprocal(_row_sum(b, e, v.attrs["dim"]))), v.dtype)


def _decompose_safe_softmax(b, v):
    """Rows of nothing but -inf give 0 instead of NaN."""
    x, dim = v.inputs[0], v.attrs["dim"]
    result = b.softmax(x, dim=dim, dtype=v.dtype)
    masked = b.all(b.eq(x, float("-inf")), dim=row_dim(dim, x.rank), keepdim=True)
    return b.where(masked, 0, result)


def _decompose_log_softmax(b, v):
    if 0 in v.shape:
        return b.cast(v.inputs[0], dtype=v.dtype)
    d = _shifted(b, v)
    return as_dtype(b, b.sub(d, b.log(_row_sum(b, b.exp(d), v.attrs["dim"]))), v.dtype)


def _decompose_softmax_backward(b, v):
    g, y = (widened(b, i) for i in v.inputs)
    total = _row_sum(b, b.mul(g, y), v.attrs["dim"])
    return as_dtype(b, b.mul(b.sub(g, total), y), v.dtype)


def _decompose_log_softmax_backward(b, v):
    g, y = (widened(b, i) for i in v.inputs)
    return as_dtype(b, b.sub(g, b.mul(b.exp(y), _row_sum(b, g, v.attrs["dim"]))), v.dtype)


def _forward(name: str, doc: str, meaning, decompose, overload: str, backward: str):
    def gradient(b, v, g):
        return (b.emit(backward, g, v, dim=v.attrs["dim"], dtype=v.inputs[0].dtype),)

    def convert(b, x, dim, half_to_float=False):
        return b.emit(name, x, dim=dim, dtype=torch.float32 if half_to_float else None)

    def convert_safe(b, x, dim, dtype=None):
        return b.emit(name, x, dim=dim, dtype=dtype)

    register(Op(name, "composite", doc, lambda inputs, a: inputs[0].type.like(inputs[0].shape, a["dtype"]),
                meaning=meaning, decompose=decompose, gradient=gradient,
                aten={overload: convert_safe if "safe" in overload else convert},
                samples=lambda: [((torch.randn(3, 5) * 4,), {"dim": d, "dtype": None}) for d in (1, 0)]))


def _safe_softmax(x, *, dim, dtype):
    return torch.ops.aten._safe_softmax(x, dim, dtype)


_forward("softmax", "exp(a) over its sum along `dim`.", lambda x, *, dim, dtype: torch.softmax(x, dim, dtype),
         _decompose_softmax, "_softmax", "softmax_backward")
_forward("safe_softmax", "softmax, with 0 in rows that are all -inf.", _safe_softmax,
         _decompose_safe_softmax, "_safe_softmax", "softmax_backward")
_forward("log_softmax", "The logarithm of softmax.", lambda x, *, dim, dtype: torch.log_softmax(x, dim, dtype),
         _decompose_log_softmax, "_log_softmax", "log_softmax_backward")


def _backward(name: str, doc: str, function, decompose, overload: str):
    def convert(b, g, y, dim, input_dtype):
        return b.emit(name, g, y, dim=dim, dtype=input_dtype)

    def type(inputs, a):
        same_shape(*inputs)
        return inputs[1].type.like(inputs[1].shape, a["dtype"])

    register(Op(name, "composite", doc, type,
                meaning=lambda g, y, *, dim, dtype: function(g, y, dim, y.dtype).to(dtype or y.dtype), decompose=decompose,
                aten={overload: convert},
                samples=lambda: [((torch.randn(3, 5), torch.rand(3, 5)), {"dim": d, "dtype": None}) for d in (1, 0)]))


_backward("softmax_backward", "The gradient of softmax from its result y: (g - sum(g * y)) * y.",
          torch.ops.aten._softmax_backward_data, _decompose_softmax_backward, "_softmax_backward_data")
_backward("log_softmax_backward", "The gradient of log_softmax from its result y: g - exp(y) * sum(g).",
          torch.ops.aten._log_softmax_backward_data, _decompose_log_softmax_backward, "_log_softmax_backward_data")
