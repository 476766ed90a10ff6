"""Kernels over symbolic sizes: one build of a graph gives, at every size, what the same graph means there."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from smelt import config
from smelt.compiler import Builder, Graph, TensorType, parse
from smelt.compiler.dims import Sym, expr, expr_of
from smelt.compiler.evaluate import evaluate
from smelt.compiler.instantiate import instantiate
from smelt.compiler.ops.core import Operand
from smelt.compiler.passes import gradient, partition
from smelt.compiler.verify import verify
from smelt.errors import SmeltError
from smelt.pipeline import CLEAN, LOWER, compile_graph

from .common import with_threads

SIZES = (2, 3, 5, 7, 16, 17, 33, 64, 100, 1000)
B, T = Sym("s0", 2), Sym("s1", 2)
b0, t0 = expr_of(B), expr_of(T)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


def check(graph: Graph, *pairs: tuple[int, ...], tolerance: float = 2e-5, backend: str = "c") -> None:
    """Compile once, and compare at each tuple of values of the graph's symbols (in the order of their names)."""
    run = compile_graph(graph, backend)
    symbols = sorted(graph.bindings(), key=lambda s: s.name)
    for values in pairs:
        sizes = dict(zip(symbols, values))
        inputs = inputs_for(graph, sizes)
        wanted = evaluate(instantiate(graph, sizes), inputs)
        for threads in (1, 2):
            with with_threads(threads):
                found = run(*inputs)
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
    n = b.size(dim=expr(x.shape[-1]), device=CPU)
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
    "sums so far": (lambda b, x: b.cumsum(b.exp(x), dim=(1,), dtype=None), [(b0, 33)]),
    "sums so far along the symbol": (lambda b, x: b.relu(b.cumsum(x, dim=(1,), dtype=None)), [(5, b0)]),
    "sums so far down the symbol": (lambda b, x: b.cumsum(x, dim=(0,), dtype=None), [(b0, 5)]),
    "largest so far": (lambda b, x: (b.cummax_values(x, dim=(1,)), b.cummax_places(x, dim=(1,))), [(3, b0)]),
    "sums from the last on": (lambda b, x: b.flip(b.cumsum(b.flip(x, dims=(1,)), dim=(1,), dtype=None), dims=(1,)), [(3, b0)]),
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
    "size in arithmetic": (lambda b, x: b.mul(x, b.size(dim=b0 * 2 + 1, device=CPU)), [(b0, 3)]),
    "filled": (lambda b, x: b.add(x, b.full(shape=(b0, 3), value=2.0, dtype=torch.float32, device=CPU)), [(b0, 3)]),
    "counted": (lambda b, x: b.add(x, b.iota(size=b0, start=1, step=2, dtype=torch.int64, device=CPU)), [(3, b0)]),
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
        b.iota(size=t0, start=0, step=1, dtype=torch.int64, device=CPU),
        b.reshape(b.iota(size=t0, start=0, step=1, dtype=torch.int64, device=CPU), shape=(t0, 1))), x, -1e9), 2),
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


LARGE = {B: expr_of(Sym("s0", 2, None, 5000)), T: expr_of(Sym("s1", 2, None, 600))}


@pytest.mark.parametrize("name", ["plane", "sums", "transposed sum", "merged and summed", "softmax", "attention",
                                  "rows of a batch"])
def test_hints_of_large_sizes(name):
    """Kernels that are cut for several threads, and tiles for long rows, are right at small sizes too."""
    write, shapes = TWO[name]
    check(instantiate(graph_of(write, *shapes), LARGE), *PAIRS)


PADDED = """
graph f[s0 >= 2 as 12, s1 >= 2 as 7](%x: f32[s0*2,s1,4], %sizes: f32[s0,s1]) {
  %rows = permute(%x, dims=(1, 0, 2)) : f32[s1,s0*2,4]
  %apart = reshape(%rows, shape=(1, s1, s0, 8)) : f32[1,s1,s0,8]
  %padded = pad(%apart, low=(2, 0, 0, 0), high=(0, 0, 0, 0), interior=(0, 0, 0, 0), value=0) : f32[3,s1,s0,8]
  return %padded
}
"""


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
def test_vectors_that_are_all_padding_or_none(isa, monkeypatch):
    """Their elements are read one by one, under one condition: gcc 12 lost them where it was inside that loop."""
    monkeypatch.setattr(config, "isa", isa)
    check(parse(PADDED), *PAIRS)


@pytest.mark.parametrize("isa", ["avx2", "scalar"])
@pytest.mark.parametrize("name", ["softmax", "taken apart", "attention", "padded by a size"])
def test_instruction_sets(name, isa, monkeypatch):
    monkeypatch.setattr(config, "isa", isa)
    write, shapes = TWO[name]
    check(graph_of(write, *shapes), *PAIRS[:7])


def test_threads_of_large_sizes():
    """Work that several threads share, at a size beyond the hint."""
    write, shapes = ONE["several kernels"]
    check(instantiate(graph_of(write, *shapes), LARGE), (5000,), (20000,), (17,))


def test_an_index_out_of_range():
    """Indices are checked against the size of the call."""
    graph = graph_of(lambda b, x, i: b.index_select(x, i, dim=0), (b0, 4), (3,), dtypes=[torch.float32, torch.int64])
    run = compile_graph(graph, "c")
    x = torch.randn(9, 4)
    assert torch.equal(run(x, torch.tensor([8, 0, 3]))[0], x[[8, 0, 3]])
    with pytest.raises(IndexError):
        run(x, torch.tensor([9, 0, 3]))
    assert torch.equal(run(x, torch.tensor([8, 0, 3]))[0], x[[8, 0, 3]])


def test_inputs_that_do_not_fit():
    run = compile_graph(graph_of(lambda b, x, y: b.add(x, y), (b0, 4), (b0, 4)), "c")
    for inputs, text in (((torch.ones(3, 4), torch.ones(2, 4)), r"shape \(3, 4\), not \(2, 4\)"),
                         ((torch.ones(1, 4), torch.ones(1, 4)), "s0 is to be at least 2, not 1"),
                         ((torch.tensor(1.0), torch.ones(2, 4)), "cannot be read")):
        with pytest.raises(SmeltError, match=text):
            run(*inputs)


def test_intermediates_have_room_at_every_size():
    """The arena grows with the sizes of a call, and calls at smaller sizes go on in it."""
    write, shapes = ONE["several kernels"]
    run = compile_graph(graph_of(write, *shapes), "c")
    w = torch.randn(20, 20) / 5
    for n in (2, 3000, 5, 3000, 9):
        x = torch.randn(n, 20)
        torch.testing.assert_close(run(x, w)[0], torch.softmax((x @ w).relu() @ w, 0), rtol=1e-4, atol=1e-5)


def test_a_call_makes_one_program_text_for_all_sizes():
    run = compile_graph(graph_of(lambda b, x: b.exp(b.mul(x, 2.0)), (b0, 64)), "c")
    assert ".shape[0]" in run.host_source and "large((s0, 64), (64, 1), torch.float32)" in run.host_source
    assert "long s0" in run.program.source


def mlp(b, x, w, c, u, target):
    """The mean cross-entropy of two layers."""
    scores = b.matmul(b.relu(b.add(b.matmul(x, w), c)), u)
    shifted = b.sub(scores, b.amax(scores, dim=(1,), keepdim=True))
    logs = b.sub(shifted, b.log(b.sum(b.exp(shifted), dim=(1,), keepdim=True, dtype=None)))
    total = b.sum(b.pick(logs, target, dim=1), dim=(0,), **_KEEP)
    return b.div(b.neg(total), b.size(dim=b0, device=CPU))


GRADIENTS = {
    "mlp": (mlp, [(b0, 20), (20, 12), (12,), (12, 5), (b0,)], [torch.float32] * 4 + [torch.int64], one()),
    "attention": (attention, [(b0, t0, 16)] * 3, [], PAIRS[:6]),
    "softmax": (lambda b, x: softmax(b, x, 1), [(7, b0)], [], one()),
    "cat and slice": (lambda b, x, y: b.exp(b.slice(b.cat(x, y, dim=0), start=(1, 0), step=(1, 1), size=(b0, 6))),
                      [(b0, 6), (3, 6)], [], one()),
    "broadcast": (lambda b, x, w: b.mul(x, b.reshape(w, shape=(t0, 1))), [(b0, t0, 5), (t0,)], [], PAIRS),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    """The joint graph, and its two parts one after the other."""
    write, shapes, dtypes, sizes = GRADIENTS[name]
    graph = graph_of(write, *shapes, dtypes=dtypes)
    wrt = [k for k, v in enumerate(graph.inputs) if v.dtype.is_floating_point]
    for p in CLEAN:
        graph = p(graph)
    joint = gradient(graph, wrt, [0])
    check(joint.graph, *sizes)
    for p in LOWER:
        joint = replace(joint, graph=p(joint.graph))
    split = partition(joint)
    check(split.forward, *sizes)
    run_forward, run_backward = compile_graph(split.forward, "c"), compile_graph(split.backward, "c")
    symbols = sorted(joint.graph.bindings(), key=lambda s: s.name)
    for values in sizes[::3]:
        inputs = inputs_for(joint.graph, dict(zip(symbols, values)))
        primal, tangents = inputs[:joint.primal_inputs], inputs[joint.primal_inputs:]
        found = run_forward(*primal)
        extra = found[joint.primal_outputs:]
        saved = [primal[k] if place == "input" else extra[k] for place, k in split.saved]
        wanted = evaluate(joint.graph, inputs)[joint.primal_outputs:]
        for got, want in zip(run_backward(*saved, *tangents), wanted):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * max(1.0, float(want.abs().max())))
