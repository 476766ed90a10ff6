"""Matrix products as Triton kernels: values in the interpreter, compilation for GPUs, and the choice of them by measurement."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smelt import pipeline
from smelt.codegen.generate import build, generate
from smelt.codegen.loops import MatMul
from smelt.codegen.triton.backend import TritonBackend
from smelt.codegen.triton.matmul import product_tilings
from smelt.codegen.triton.printer import print_alone
from smelt.compiler import Builder, Graph, TensorType
from smelt.compiler.dims import sym
from smelt.compiler.evaluate import evaluate
from smelt.compiler.instantiate import instantiate
from smelt.runtime import load

pytest.importorskip("triton")

GOLDEN = Path(__file__).parent / "golden"
HALVES = [torch.bfloat16, torch.float16]


def last(trials):
    """Chooses kernels over the library, and the smallest tiles, which leave ragged edges."""
    return [*trials][-1]


SMALL, LARGE = TritonBackend(last), TritonBackend(lambda trials: next(n for n in trials if n != "library"))


def graph_of(write, *shapes, dtype=torch.float32) -> Graph:
    b = Builder()
    inputs = [b.input(f"x{k}", TensorType(tuple(s), dtype)) for k, s in enumerate(shapes)]
    graph = b.graph("f", [write(b, *inputs)])
    for p in (*pipeline.CLEAN, *pipeline.LOWER):
        graph = p(graph)
    return graph


def products(graph: Graph, backend=SMALL) -> list[MatMul]:
    return [k for _, calls in build(graph, backend).segments for k, _ in calls if isinstance(k, MatMul)]


def transposed(b, x):
    return b.permute(x, dims=(*range(x.rank - 2), x.rank - 1, x.rank - 2))


CASES = {
    "plain": (lambda b, x, w: b.matmul(x, w), (40, 24), (24, 50)),
    "linear": (lambda b, x, w, c: b.relu(b.add(b.matmul(x, transposed(b, w)), c)), (33, 48), (20, 48), (20,)),
    "left transposed": (lambda b, x, w: b.matmul(transposed(b, x), w), (30, 17), (30, 19)),
    "both transposed": (lambda b, x, w: b.matmul(transposed(b, x), transposed(b, w)), (30, 17), (19, 30)),
    "residual": (lambda b, x, w, r: b.add(r, b.matmul(x, w)), (16, 16), (16, 16), (16, 16)),
    "batch": (lambda b, x, w: b.matmul(x, w), (3, 5, 18), (3, 18, 7)),
    "one matrix for a batch": (lambda b, x, w: b.matmul(x, b.expand(w, shape=(3, 18, 7))), (3, 5, 18), (18, 7)),
    "one row": (lambda b, x, w: b.matmul(x, w), (1, 40), (40, 33)),
    "one column": (lambda b, x, w: b.matmul(x, w), (33, 40), (40, 1)),
    "one term": (lambda b, x, w: b.matmul(x, w), (7, 1), (1, 9)),
    "expanded rows": (lambda b, x, w: b.matmul(b.expand(x, shape=(6, 20)), w), (1, 20), (20, 9)),
    "with itself": (lambda b, x: b.matmul(x, transposed(b, x)), (21, 34)),
    "cast after": (lambda b, x, w: b.cast(b.matmul(x, w), dtype=torch.float64), (20, 20), (20, 20)),
    "stored by columns": (lambda b, x, w: b.copy(transposed(b, b.matmul(x, w))), (20, 30), (30, 40)),
}


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", CASES)
def test_values(name, dtype):
    write, *shapes = CASES[name]
    graph = graph_of(write, *shapes, dtype=dtype)
    assert products(graph)
    torch.manual_seed(0)
    inputs = [torch.randn(s).to(dtype) for s in shapes]
    (expected,) = evaluate(graph, inputs)
    for backend in (SMALL, LARGE):
        (ours,) = load(generate(graph, backend))(*inputs)
        assert ours.dtype == expected.dtype and ours.stride() == graph.outputs[0].type.strides
        error = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(ours, expected, rtol=error, atol=error)


def test_infinities_do_not_leak_over_edges():
    graph = graph_of(CASES["plain"][0], (3, 5), (5, 3))
    x, w = torch.ones(3, 5), torch.ones(5, 3)
    x[2, 4], w[0, 1] = float("inf"), float("nan")
    (ours,) = load(generate(graph, LARGE))(x, w)
    assert torch.equal(ours.isnan(), (x @ w).isnan()) and torch.equal(ours.isinf(), (x @ w).isinf())


def test_symbolic_rows():
    n = sym("s0", 2)
    graph = graph_of(lambda b, x, w: b.relu(b.matmul(x, w)), (n, 20), (20, 30))
    run = load(generate(graph, SMALL))
    (symbol,) = graph.bindings()
    for rows in (2, 5, 33):
        inputs = [torch.randn(rows, 20), torch.randn(20, 30)]
        torch.testing.assert_close(run(*inputs)[0], evaluate(instantiate(graph, {symbol: rows}), inputs)[0], rtol=1e-5, atol=1e-5)


def test_the_library_is_the_default():
    assert not products(graph_of(CASES["plain"][0], *CASES["plain"][1:]), TritonBackend())


def test_the_library_is_called_where_it_was_faster():
    asked = []

    def choose(trials):
        asked.append([*trials])
        return [*trials][0]
    program = generate(graph_of(CASES["plain"][0], (64, 64), (64, 64)), TritonBackend(choose))
    assert asked[0][0] == "library" and len(asked[0]) > 2
    assert [s.name for s in program.steps if hasattr(s, "function")] == ["matmul"]


def test_float64_is_left_to_the_library():
    assert not products(graph_of(CASES["plain"][0], *CASES["plain"][1:], dtype=torch.float64))


def large(dtype: torch.dtype) -> MatMul:
    """1024 tokens through a linear layer of 768 x 3072 with bias and relu."""
    (product,) = products(graph_of(CASES["linear"][0], (1024, 768), (3072, 768), (3072,), dtype=dtype))
    return product


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_ahead_of_time(dtype, target):
    from smelt.runtime.ahead_of_time import compile_for
    source, f = print_alone(large(dtype))
    assert compile_for(target, source, f.signature).spills == 0


def test_golden_source(request):
    found = print_alone(large(torch.bfloat16))[0]
    path = GOLDEN / "linear_relu.py"
    if request.config.getoption("--update-golden"):
        path.write_text(found)
    assert path.read_text() == found


def test_tilings_are_no_larger_than_the_product():
    (product,) = products(graph_of(CASES["plain"][0], (20, 40), (40, 100)))
    assert all(t.rows <= 32 and t.columns <= 128 and t.depth <= 64 for t in product_tilings(product))
