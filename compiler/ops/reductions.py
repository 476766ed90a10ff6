"""Reductions along axes."""
from __future__ import annotations

import torch

from ..op import Op, normal_dims, reduced_shape, register


def keep_shape(v):
    """The shape of a reduction's result with the reduced axes kept as 1."""
    return reduced_shape(v.inputs[0].shape, v.attrs["dim"], True)


def _sum_type(inputs, a):
    x = inputs[0]
    dtype = a["dtype"] or (torch.int64 if not (x.dtype.is_floating_point or x.dtype.is_complex) else x.dtype)
    return x.type.like(reduced_shape(x.shape, a["dim"], a["keepdim"]), dtype)


def _sum_gradient(b, v, g):
    x = v.inputs[0]
    if not v.attrs["keepdim"]:
        g = b.reshape(g, shape=keep_shape(v))
    g = b.expand(g, shape=x.shape)
    return (g if g.dtype == x.dtype else b.cast(g, dtype=x.dtype),)


register(Op("sum", "reduce", "Sum along axes; in float32 for float16/bfloat16, in int64 for integers.", _sum_type, combine="sum",
            meaning=lambda x, *, dim, keepdim, dtype: x.sum(dim, keepdim=keepdim, dtype=dtype) if dim else x.to(dtype or x.dtype) if x.dtype.is_floating_point else x.to(dtype or torch.int64),
            gradient=_sum_gradient,
            aten={"sum.dim_IntList": lambda b, x, dim, keepdim=False, dtype=None: b.sum(x, dim=normal_dims(dim, x.rank), keepdim=keepdim, dtype=dtype),
                  "sum": lambda b, x, dtype=None: b.sum(x, dim=normal_dims(None, x.rank), keepdim=False, dtype=dtype)},
            samples=lambda: [((torch.randn(3, 4),), {"dim": (1,), "keepdim": False, "dtype": None}),
                             ((torch.randn(3, 4),), {"dim": (0, 1), "keepdim": True, "dtype": None})]))
