"""Kernels over symbolic sizes: one build of a graph gives, at every size, what the same graph means there."""
from __future__ import annotations

import random

import pytest
import torch

from smelt import config
from smelt.compiler import Builder, Graph, TensorType, Value
from smelt.compiler.dims import Dim, Sym, expr, expr_of, product
from smelt.compiler.evaluate import evaluate
from smelt.compiler.instantiate import instantiate
from smelt.compiler.ops.core import Operand
from smelt.compiler.verify import verify
from smelt.errors import SmeltError
from smelt.pipeline import compile_graph

SIZES = (2, 3, 5, 7, 16, 17, 33, 64, 100, 1000)
B, T = Sym("s0", 2), Sym("s1", 2)
b0, t0 = expr_of(B), expr_of(T)


def graph_of(write, *shapes, dtypes=()) -> Graph:
    """The graph that `write(b, *inputs)` emits, of inputs of these shapes (float32 unless said)."""
    b = Builder()
    dtypes = [*dtypes, *[torch.float32] * (len(shapes) - len(dtypes))]
    inputs = [b.input(f"x{k}", TensorType(tuple(s), d)) for k, (s, d) in enumerate(zip(shapes, dtypes))]
    outputs = write(b, *inputs)
    return verify(b.graph("f", list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]), "test")


def inputs_for(graph: Graph, sizes: dict[Sym, int]) -> list[torch.Tensor]:
    """Random inputs at these sizes; integers are below 2, so that they are places in any dimension."""
    found = []
    for v in instantiate(graph, sizes).inputs:
        shape = tuple(v.shape)
        if "symbol" in v.attrs or v.dtype.is_floating_point:
            found.append(torch.randn(shape).to(v.dtype))
        else:
            found.append(torch.randint(0, 2, shape).to(v.dtype))
    return found


def check(graph: Graph, *pairs: tuple[int, ...], tolerance: float = 2e-5) -> None:
    """Compile once, and compare at each tuple of values of the graph's symbols (in the order of their names)."""
    run = compile_graph(graph, "c")
    symbols = sorted(graph.bindings(), key=lambda s: s.name)
    for values in pairs:
        sizes = dict(zip(symbols, values))
        inputs = inputs_for(graph, sizes)
        wanted = evaluate(instantiate(graph, sizes), inputs)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                found = run(*inputs)
            finally:
                torch.set_num_threads(1)
            for got, want, o in zip(found, wanted, instantiate(graph, sizes).outputs):
                assert got.stride() == o.type.strides and got.dtype == want.dtype
                scale = max(1.0, float(want.abs().max())) if want.is_floating_point() else 1.0
                torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def one(sizes=SIZES):
    return [(n,) for n in sizes]


PAIRS = [(2, 3), (3, 2), (5, 7), (16, 17), (7, 64), (33, 5), (64, 16), (100, 33), (2, 1000), (1000, 2)]
_KEEP = {"keepdim": False, "dtype": None}


def softmax(b, x, dim):
    e = b.exp(b.sub(x, b.amax(x, dim=(dim,), keepdim=True)))
    return b.div(e, b.sum(e, dim=(dim,), keepdim=True, dtype=None))


def center(b, x):
    """x less its mean over the last dimension."""
    n = b.size(dim=expr(x.shape[-1]), device=torch.device("cpu"))
    return b.sub(x, b.div(b.sum(x, dim=(x.rank - 1,), keepdim=True, dtype=None), n))


#: name -> (what to emit, the shapes of its inputs)
ONE = {
    "pointwise": (lambda b, x: b.exp(b.mul(x, 0.5)), [(b0, 64)]),
    "odd rows": (lambda b, x: b.exp(b.mul(x, 0.5)), [(b0, 37)]),
    "along the symbol": (lambda b, x: b.relu(x), [(37, b0)]),
    "one dimension": (lambda b, x: b.exp(x), [(b0,)]),
    "broadcast": (lambda b, x, w, c: b.add(b.mul(x, w), c), [(b0, 20), (20,), (b0, 1)]),
    "rows": (lambda b, x: b.sum(x, dim=(1,), **_KEEP), [(b0, 50)]),
    "columns": (lambda b, x: b.sum(x, dim=(0,), **_KEEP), [(b0, 50)]),
    "wide columns": (lambda b, x: b.sum(x, dim=(0,), **_KEEP), [(b0, 1030)]),
    "symbolic rows": (lambda b, x: b.sum(x, dim=(1,), **_KEEP), [(9, b0)]),
    "symbolic columns": (lambda b, x: b.sum(x, dim=(0,), **_KEEP), [(9, b0)]),
    "middle": (lambda b, x: b.sum(x, dim=(1,), **_KEEP), [(3, b0, 20)]),
    "many columns in many batches": (lambda b, x: b.sum(x, dim=(1,), **_KEEP), [(70, b0, 600)]),
    "all": (lambda b, x: b.sum(x, dim=(0, 1), **_KEEP), [(b0, 50)]),
    "largest": (lambda b, x: b.amax(x, dim=(0,), keepdim=False), [(b0, 5)]),
    "place": (lambda b, x: (b.argmax(x, dim=(1,), keepdim=False), b.argmax(x, dim=(0,), keepdim=False)), [(b0, 21)]),
    "softmax": (lambda b, x: softmax(b, x, 1), [(b0, 33)]),
    "softmax over the symbol": (lambda b, x: softmax(b, x, 1), [(9, b0)]),
    "softmax down the symbol": (lambda b, x: softmax(b, x, 0), [(b0, 9)]),
    "centered": (lambda b, x: center(b, x), [(b0, 24)]),
    "centered over the symbol": (lambda b, x: center(b, x), [(5, b0)]),
    "transposed": (lambda b, x: b.copy(b.permute(x, dims=(1, 0))), [(b0, 40)]),
    "transposed sum": (lambda b, x, y: b.add(x, b.permute(y, dims=(1, 0))), [(b0, 40), (40, b0)]),
    "cat": (lambda b, x, y: b.exp(b.cat(x, y, dim=0)), [(b0, 6), (3, 6)]),
    "cat of symbols": (lambda b, x, y: b.cat(b.exp(x), y, x, dim=1), [(4, b0), (4, 3)]),
    "stacked": (lambda b, x: b.cat(b.reshape(x, shape=(1, b0, 6)), b.reshape(b.neg(x), shape=(1, b0, 6)), dim=0), [(b0, 6)]),
    "slice": (lambda b, x: b.exp(b.slice(x, start=(1, 2), step=(1, 2), size=(b0 - 1, 3))), [(b0, 9)]),
    "last": (lambda b, x: b.slice(x, start=(b0 - 1, 0), step=(1, 1), size=(1, 9)), [(b0, 9)]),
    "flipped": (lambda b, x: b.exp(b.flip(x, dims=(0, 1))), [(b0, 9)]),
    "padded": (lambda b, x: b.exp(b.pad(x, low=(1, 0), high=(2, 3), interior=(0, 0), value=1.5)), [(b0, 9)]),
    "merged": (lambda b, x: b.exp(b.reshape(x, shape=(b0 * 12,))), [(b0, 3, 4)]),
    "merged last": (lambda b, x: b.sum(b.reshape(x, shape=(5, b0 * 4)), dim=(1,), **_KEEP), [(5, b0, 4)]),
    "split": (lambda b, x, y: b.sum(b.reshape(x, shape=(b0, 3, 4)), dim=(2,), **_KEEP), [(b0 * 12,), (b0,)]),
    "heads": (lambda b, x: b.copy(b.permute(b.reshape(x, shape=(b0, 5, 4, 6)), dims=(0, 2, 1, 3))), [(b0, 5, 24)]),
    "product of rows": (lambda b, x, w: b.relu(b.matmul(x, w)), [(b0, 20), (20, 30)]),
    "wide product of rows": (lambda b, x, w: b.matmul(x, w), [(b0, 64), (64, 200)]),
    "linear": (lambda b, x, w, c: b.add(b.matmul(x, b.permute(w, dims=(1, 0))), c), [(b0, 20), (30, 20), (30,)]),
    "narrow linear": (lambda b, x, w: b.matmul(x, b.permute(w, dims=(1, 0))), [(b0, 20), (3, 20)]),
    "product of columns": (lambda b, x, w: b.matmul(w, x), [(20, b0), (30, 20)]),
    "product of transposed columns": (lambda b, x, w: b.matmul(w, b.permute(x, dims=(1, 0))), [(b0, 20), (30, 20)]),
    "product over the symbol": (lambda b, x, w: b.matmul(b.permute(x, dims=(1, 0)), w), [(b0, 20), (b0, 30)]),
    "product with itself": (lambda b, x: b.matmul(x, b.permute(x, dims=(1, 0))), [(b0, 20)]),
    "batch of products": (lambda b, x, w: b.matmul(x, w), [(b0, 7, 20), (b0, 20, 30)]),
    "product of batched rows": (lambda b, x, w: b.matmul(b.reshape(x, shape=(b0 * 7, 20)), w), [(b0, 7, 20), (20, 30)]),
    "several kernels": (lambda b, x, w: softmax(b, b.matmul(b.relu(b.matmul(x, w)), w), 0), [(b0, 20), (20, 20)]),
    "size in arithmetic": (lambda b, x: b.mul(x, b.size(dim=b0 * 2 + 1, device=torch.device("cpu"))), [(b0, 3)]),
    "filled": (lambda b, x: b.add(x, b.full(shape=(b0, 3), value=2.0, dtype=torch.float32, device=torch.device("cpu"))), [(b0, 3)]),
    "counted": (lambda b, x: b.add(x, b.iota(size=b0, start=1, step=2, dtype=torch.int64, device=torch.device("cpu"))), [(3, b0)]),
    "a call of torch": (lambda b, x: b.exp(b.call(
        b.neg(x), target="aten.cumsum.default", args=(Operand(0), 0), kwargs={}, type=x.type)), [(b0, 9)]),
}

TWO = {
    "plane": (lambda b, x: b.exp(x), [(b0, t0)]),
    "sums": (lambda b, x: (b.sum(x, dim=(0,), **_KEEP), b.sum(x, dim=(1,), **_KEEP)), [(b0, t0)]),
    "outer": (lambda b, x, y: b.mul(b.reshape(x, shape=(b0, 1)), y), [(b0,), (t0,)]),
    "transposed sum": (lambda b, x, y: b.add(x, b.permute(y, dims=(1, 0))), [(b0, t0), (t0, b0)]),
    "merged": (lambda b, x: b.exp(b.reshape(x, shape=(b0 * t0, 8))), [(b0, t0, 8)]),
    "merged and summed": (lambda b, x: b.sum(b.exp(b.reshape(x, shape=(b0 * t0, 8))), dim=(0,), **_KEEP), [(b0, t0, 8)]),
    "split": (lambda b, x, y: b.add(b.reshape(x, shape=(b0, t0, 4)), b.exp(y)), [(b0 * t0, 4), (b0, t0, 4)]),
    "taken apart": (lambda b, x, y: b.sum(b.permute(b.reshape(x, shape=(b0, t0)), dims=(1, 0)), dim=(1,), **_KEEP),
                    [(b0 * t0,), (b0, t0)]),
    "softmax": (lambda b, x: softmax(b, x, 2), [(b0, 4, t0)]),
    "masked softmax": (lambda b, x: softmax(b, b.where(b.le(
        b.iota(size=t0, start=0, step=1, dtype=torch.int64, device=torch.device("cpu")),
        b.reshape(b.iota(size=t0, start=0, step=1, dtype=torch.int64, device=torch.device("cpu")), shape=(t0, 1))), x, -1e9), 2),
                       [(b0, t0, t0)]),
    "cat": (lambda b, x, y: b.cat(b.exp(x), y, dim=0), [(b0, 5), (t0, 5)]),
    "products": (lambda b, q, k: b.matmul(q, b.permute(k, dims=(0, 2, 1))), [(b0, t0, 8), (b0, t0, 8)]),
    "rows of a batch": (lambda b, x, w: b.relu(b.matmul(b.reshape(x, shape=(b0 * t0, 8)), w)), [(b0, t0, 8), (8, 12)]),
    "flipped": (lambda b, x: b.exp(b.flip(x, dims=(0, 1))), [(b0, t0)]),
    "padded by a size": (lambda b, x, y: b.pad(x, low=(0, t0), high=(1, 0), interior=(0, 0), value=0), [(b0, 4), (t0,)]),
}


def attention(b, q, k, v):
    """Heads apart, scores, softmax, heads together again."""
    def heads(x):
        return b.permute(b.reshape(x, shape=(b0, t0, 2, 8)), dims=(0, 2, 1, 3))
    scores = b.mul(b.matmul(heads(q), b.permute(heads(k), dims=(0, 1, 3, 2))), 8 ** -0.5)
    mixed = b.matmul(softmax(b, scores, 3), heads(v))
    return b.reshape(b.permute(mixed, dims=(0, 2, 1, 3)), shape=(b0, t0, 16))


TWO["attention"] = (attention, [(b0, t0, 16)] * 3)


@pytest.mark.parametrize("name", ONE)
def test_one_symbol(name):
    write, shapes = ONE[name]
    check(graph_of(write, *shapes), *one())


@pytest.mark.parametrize("name", TWO)
def test_two_symbols(name):
    write, shapes = TWO[name]
    check(graph_of(write, *shapes), *PAIRS)
