"""Programs by which the Triton backend is tested: each at a tiny size for the interpreter, and at one that a GPU is given.

`rows` and `width` are free, so that a kernel's text can be had for a long row without much memory.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch
import torch.nn.functional as F

import smelt
from smelt.codegen.generate import build
from smelt.codegen.loops import Kernel
from smelt.codegen.triton.backend import TritonBackend
from smelt.runtime import Program
from smelt.tools.explain import compiled_function


@dataclass(frozen=True)
class Case:
    """A function, and how its arguments are made for a number of rows and a width. `train`: with the backward of its sum."""
    function: Callable
    arguments: Callable[[int, int], Sequence[Any]]
    train: bool = False
    rows: int = 64
    width: int = 1024


def normal(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_(grad)


def fused_chain(x, y):
    return torch.tanh(x * y + 0.5) * torch.relu(x - y)


def softmax(x):
    return torch.softmax(x, -1)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def cross_entropy(x, target):
    return F.cross_entropy(x, target)


def batch_norm(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True)


def column_mean(x):
    return x.mean(0)


def add_transposed(x, y):
    return x + y.t()


def embedding(table, indices):
    return F.embedding(indices, table) * 2


def largest_place(x):
    return x.argmax(-1), x.amax(-1)


def bfloat16_chain(x, y):
    return (x + y) * x - y


def swiglu(x, gate):
    return F.silu(gate) * x


def total(x):
    return (x * x).sum()


def gelu_dropout_mask(x, bias, mask):
    return F.gelu(x + bias) * mask * (1 / 0.9)


def running_sums(x, mask):
    return (x * mask).cumsum(-1).relu()


def running_extremes(x):
    return *x.cummax(-1), x.cummin(0).values


CASES: dict[str, Case] = {
    "fused_chain": Case(fused_chain, lambda n, w: (normal(n, w), normal(w))),
    "softmax": Case(softmax, lambda n, w: (normal(n, w, grad=True),), train=True),
    "softmax_long": Case(softmax, lambda n, w: (normal(n, w),), rows=512, width=20000),
    "layer_norm": Case(layer_norm, lambda n, w: (normal(n, w, grad=True), normal(w, grad=True), normal(w, grad=True)),
                       train=True),
    "cross_entropy": Case(cross_entropy, lambda n, w: (normal(n, w, grad=True), torch.arange(n) % w), train=True, rows=512,
                          width=20003),
    "batch_norm": Case(batch_norm, lambda n, w: (normal(4, w, n, grad=True), normal(w, grad=True), normal(w, grad=True)),
                       train=True, width=32, rows=49),
    "column_mean": Case(column_mean, lambda n, w: (normal(n, w),), rows=4096),
    "add_transposed": Case(add_transposed, lambda n, w: (normal(n, w), normal(w, n)), rows=1024),
    "embedding": Case(embedding, lambda n, w: (normal(n, w), (torch.arange(24) % n).view(4, 6))),
    "largest_place": Case(largest_place, lambda n, w: (normal(n, w),)),
    "running_sums": Case(running_sums, lambda n, w: (normal(n, w, grad=True), torch.rand(n, w)), train=True),
    "running_extremes": Case(running_extremes, lambda n, w: (normal(n, w),)),
    "bfloat16_chain": Case(bfloat16_chain, lambda n, w: (normal(n, w, dtype=torch.bfloat16), normal(n, w, dtype=torch.bfloat16))),
    "swiglu": Case(swiglu, lambda n, w: (normal(n, w, grad=True), normal(n, w, grad=True)), train=True),
    "total": Case(total, lambda n, w: (normal(n, w),), rows=1024),
    "gelu_mask": Case(gelu_dropout_mask, lambda n, w: (normal(n, w), normal(w), torch.rand(n, w) > 0.1)),
}


def programs(case: Case, rows: int, width: int) -> dict[str, Program]:
    """The programs of a case by part, as the first call makes them."""
    torch.manual_seed(0)
    compiled = smelt.compile(case.function, backend="triton", fullgraph=True)
    compiled(*case.arguments(rows, width))
    (path,) = compiled_function(compiled).programs
    return {part: loaded.program for part, loaded in path.run.compilation.programs.items()}


def kernels(case: Case, rows: int, width: int) -> list[Kernel]:
    """The loop nests of a case, forward and backward."""
    torch.manual_seed(0)
    compiled = smelt.compile(case.function, backend="triton", fullgraph=True)
    compiled(*case.arguments(rows, width))
    (path,) = compiled_function(compiled).programs
    compilation = path.run.compilation
    built = [build(compilation.graphs[part], TritonBackend()) for part in compilation.programs]
    return list(dict.fromkeys(k for b in built for _, calls in b.segments for k, _ in calls))
