"""Pointwise ops: out[i] = f(a[i], b[i], ...)."""
from __future__ import annotations

import torch

from ..op import pointwise
from .views import sum_to


def _samples_2(low=-3.0):
    def samples():
        yield (torch.randn(3, 4), torch.randn(3, 4)), {}
        yield (torch.randn(3, 4), torch.randn(4)), {}
        yield (torch.randn(3, 4), 2.5), {}
    return samples


def _scaled(rule):
    """Import of add/sub: the second operand times alpha."""
    def convert(b, x, y, alpha=1):
        return rule(b, x, y if alpha == 1 else b.mul(y, alpha) if not isinstance(y, (int, float)) else y * alpha)
    return convert


pointwise("add", "a + b", meaning=torch.add, scalar=lambda s, x, y: s.add(x, y), samples=_samples_2(),
          aten={"add.Tensor": _scaled(lambda b, x, y: b.add(x, y)), "add.Scalar": _scaled(lambda b, x, y: b.add(x, y))},
          gradient=lambda b, v, g: (sum_to(b, g, v.inputs[0]), sum_to(b, g, v.inputs[1])))

pointwise("mul", "a * b", meaning=torch.mul, scalar=lambda s, x, y: s.mul(x, y), samples=_samples_2(),
          aten=("mul.Tensor", "mul.Scalar"),
          gradient=lambda b, v, g: (sum_to(b, b.mul(g, v.inputs[1]), v.inputs[0]), sum_to(b, b.mul(g, v.inputs[0]), v.inputs[1])))

pointwise("exp", "e to the power of a", meaning=torch.exp, scalar=lambda s, x: s.exp(x), promotion="float", cost=12,
          aten=("exp",), gradient=lambda b, v, g: (b.mul(g, v),), samples=lambda: [((torch.randn(3, 4),), {})])
