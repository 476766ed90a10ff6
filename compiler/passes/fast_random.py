"""Random ops whose numbers are computed where they are read, instead of drawn one by one from torch's generator.

Torch's generator gives one seed to each run of a graph. A number is then a function of the seed, of the random op's place
in the graph and of the element's place in its tensor (Philox, a counter-based generator): it needs no memory, fuses with
what reads it, and can be computed once more in a backward pass.
"""
from __future__ import annotations

import math

import torch

from ..builder import Builder, Replacement, rewrite
from ..ir import Graph, TensorType, Value

_STREAM = 40  # each op's counters begin at its number times 2**40


def fast_random(graph: Graph) -> Graph:
    """Uniform, normal and Bernoulli numbers and dropout masks from a counter; other random ops stay as they are."""
    return rewrite(graph, _Numbers().replaced)


class _Numbers:
    def __init__(self):
        self.seed: Value | None = None
        self.streams = 0

    def replaced(self, b: Builder, v: Value) -> Replacement:
        if v.op.name == "native_dropout":
            return self.dropout(b, v)
        if v.op.name == "bernoulli":
            p = v.inputs[0]
            return self.laid_out(b, b.cast(b.lt(self.uniform(b, p.type), p), dtype=v.dtype), v)
        if v.op.name != "random_fill" or not v.dtype.is_floating_point:
            return None
        rule = {"aten.uniform_.default": self.scaled_uniform, "aten.normal_.default": self.normal,
                "aten.bernoulli_.float": self.bernoulli}.get(v.attrs["target"])
        return rule and self.laid_out(b, rule(b, v.type, *v.attrs["args"]), v)

    @staticmethod
    def laid_out(b: Builder, x: Value, v: Value) -> Value:
        """A fresh value in the layout that the op's result has."""
        if x.type.strides != v.type.strides:
            x = b.copy(x)
            x.type = v.type
        return x

    def uniform(self, b: Builder, t: TensorType) -> Value:
        """In [0, 1), other numbers on each call."""
        if self.seed is None:
            self.seed = b.seed(device=t.device)
        start, self.streams = self.streams << _STREAM, self.streams + 1
        places = b.iota(size=t.numel, start=start, step=1, dtype=torch.int64, device=t.device)
        return b.uniform(self.seed, b.reshape(places, shape=t.shape), dtype=t.dtype)

    def scaled_uniform(self, b: Builder, t: TensorType, low: float = 0.0, high: float = 1.0) -> Value:
        x = self.uniform(b, t)
        return x if (low, high) == (0.0, 1.0) else b.add(b.mul(x, high - low), low)

    def bernoulli(self, b: Builder, t: TensorType, p: float = 0.5) -> Value:
        """1 with probability p."""
        single = TensorType(t.shape, torch.float32, t.device)
        return b.cast(b.lt(self.uniform(b, single), p), dtype=t.dtype)

    def normal(self, b: Builder, t: TensorType, mean: float = 0.0, std: float = 1.0) -> Value:
        """By Box and Muller's transform of two uniform numbers."""
        wide = TensorType(t.shape, t.dtype if t.dtype == torch.float64 else torch.float32, t.device)
        radius = b.sqrt(b.mul(b.log(b.sub(1, self.uniform(b, wide))), -2))
        x = b.mul(radius, b.cos(b.mul(self.uniform(b, wide), 2 * math.pi)))
        return b.cast(b.add(b.mul(x, std), mean), dtype=t.dtype)

    def dropout(self, b: Builder, v: Value) -> list[Value]:
        """(the kept elements scaled, the mask)"""
        x, p = v.inputs[0], v.attrs["p"]
        mask = b.ge(self.uniform(b, TensorType(x.shape, torch.float32, x.type.device)), p)
        kept = b.mul(x, b.cast(mask, dtype=x.dtype))
        return [b.mul(kept, 0.0 if p == 1 else 1 / (1 - p)), mask]
