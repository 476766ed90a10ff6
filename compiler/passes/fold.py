"""Constant folding: what is computed from constants alone and comes to one number everywhere is that constant."""
from __future__ import annotations

from typing import Any

import torch

from ..builder import Builder, rewrite
from ..evaluate import run
from ..ir import Graph, NumberType, TensorType, Value, expressions

#: Elements up to which a constant value is computed.
LARGEST = 64


def fold(graph: Graph) -> Graph:
    """Evaluate small values that depend on no input; those whose elements all have the same bits become a `full`."""
    known: dict[Value, torch.Tensor] = {}

    def rule(b: Builder, v: Value) -> Value | None:
        if not _small(v) or v.op.kind == "opaque" or v.op.random or any(i not in known for i in v.operands):
            return None
        result = run(v, [known[i] if isinstance(i, Value) else i for i in v.inputs])
        known[v] = result
        if v.op.name == "full" or not result.numel() or not _uniform(result):
            return None
        constant = b.full(shape=v.shape, value=result.flatten()[0].item(), dtype=v.dtype, device=v.type.device)
        known[constant] = result
        return constant
    return rewrite(graph, rule)


def _small(v: Value) -> bool:
    if not isinstance(v.type, TensorType) or isinstance(v.type, NumberType):
        return False
    return isinstance(v.type.numel, int) and v.type.numel <= LARGEST and next(expressions(v.attrs), None) is None


def _uniform(t: torch.Tensor) -> bool:
    bits: Any = t.flatten().clone(memory_format=torch.contiguous_format).reshape(-1, 1).view(torch.uint8)
    return bool((bits == bits[0]).all())
