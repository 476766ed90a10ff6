"""The Triton backend: values in Triton's interpreter, golden sources, and compilation for GPUs that are not there."""
from __future__ import annotations

import math
import subprocess
import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
import torch_tables
from under_triton import under

import smelt
from smelt import pipeline
from smelt.codegen.generate import build
from smelt.codegen.loops import Axis, Buffer, Kernel, Load, Store
from smelt.codegen.triton.backend import TritonBackend
from smelt.codegen.triton.printer import print_alone, print_source
from smelt.compiler import evaluate
from smelt.compiler.compare import compare, evaluate_precisely
from smelt.compiler.dims import Sym, sym
from smelt.errors import BuildError, Unsupported
from smelt.runtime import Launch, Program, Slot, load
from smelt.runtime.triton_module import load_module

from .random_programs import random_graph
from .test_c_printer import CASES as KERNELS
from .test_symbolic_kernels import ONE, TWO, check, graph_of
from .triton_programs import CASES, Case, kernels, normal, programs

pytest.importorskip("triton")

GOLDEN = Path(__file__).parent / "golden"
#: Too many elements for the interpreter, which reduces one at a time.
SLOW = {"wide columns", "many columns in many batches", "place", "attention"}
TINY = {"softmax_long": (2, 20000), "cross_entropy": (5, 37), "column_mean": (70, 33), "total": (9, 11)}


#: Between torch's and numpy's mathematical functions.
EXP_ERROR = 2e-6


def tiny(name: str) -> tuple[int, int]:
    """Rows and width for the interpreter: neither is a power of two."""
    return TINY.get(name, (7, 20))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.where(a.isnan(), 0, a), torch.where(b.isnan(), 0, b)) and torch.equal(a.isnan(), b.isnan())


def results(function, arguments) -> list[torch.Tensor]:
    """What a call gives, and the gradients of the sum of what is differentiable in it."""
    arguments = [a.detach().clone().requires_grad_(a.requires_grad) for a in arguments]
    outputs = function(*arguments)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    if any(a.requires_grad for a in arguments):
        weights = torch.linspace(0.5, 2, outputs[0].numel(), device=outputs[0].device)
        (outputs[0] * weights.view(outputs[0].shape)).sum().backward()
    return outputs + [a.grad for a in arguments if a.grad is not None]


def compiled_and_eager(function, *arguments) -> tuple[list, list]:
    """The results of a call that runs kernels, and those of eager."""
    compiled = smelt.compile(function, backend="triton", fullgraph=True, verify="raise")
    for _ in range(3):
        ours = results(compiled, arguments)
    report = smelt.explain(compiled)
    assert report.compiled and report.kernels, str(report)
    return ours, results(function, arguments)


# Values

@pytest.mark.parametrize("name", CASES)
def test_programs(name):
    torch.manual_seed(0)
    arguments = CASES[name].arguments(*tiny(name))
    for a, b in zip(*compiled_and_eager(CASES[name].function, *arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_random_programs(seed):
    graph, inputs = random_graph(1000 + seed)
    plain = lowered(graph)
    ours = pipeline.compile_graph(graph, "triton")(*inputs)
    wrong = compare(list(ours), evaluate(plain, inputs), partial(evaluate_precisely, plain, inputs))
    assert wrong is None, f"{wrong}\n{plain}"


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_op_db():
    """All of it: python tests/torch_tables.py ops --backend triton --samples 2"""
    with under(Namespace(backend="triton", ahead_of_time=False)):
        tally = torch_tables.run_ops(share=0.05, samples=1)
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.names > 20 and tally.compiled > tally.samples * 0.7, str(tally)


def small(kernel: Kernel) -> bool:
    """Whether the interpreter, which reduces one element at a time, is done with a kernel soon."""
    return not kernel.reduced or math.prod(a.size for a in kernel.axes) <= 2048


@pytest.mark.parametrize("name", [name for name, case in KERNELS.items() if small(case.kernel)])
def test_kernels(name):
    """The C printer's kernels, by hand: every scalar op in every dtype, reductions, gathers, guards, checks."""
    case = KERNELS[name]
    places = tuple(range(len(case.kernel.buffers)))
    source = print_source(name, [("go", [(case.kernel, places)])])
    slots = tuple(Slot(f"s{n}", "input", dtype=b.dtype, position=n) for n, b in enumerate(case.kernel.buffers))
    outputs = [torch.full_like(e, 5) for e in case.expected]
    run = load(Program(name, slots, places, (), (Launch("go", (name,), places),), source, language="triton")).run
    run(*case.inputs, *outputs)
    for ours, expected in zip(outputs, case.expected):
        torch.testing.assert_close(ours, expected, rtol=max(case.tolerance, EXP_ERROR), atol=case.tolerance, equal_nan=True)


def test_bfloat16_rounds_op_by_op():
    x, y = (torch.randn(999).mul(10 ** torch.linspace(-20, 20, 999)).bfloat16() for _ in range(2))
    ours, eager = compiled_and_eager(lambda x, y: (x + y) * x - y, x, y)
    assert same_bits(ours[0], eager[0])


def test_nan_and_signed_zero():
    x = torch.tensor([[1.0, math.nan, 3.0], [-0.0, -0.0, -0.0], [-math.inf, -math.inf, -1.0]])
    ours, eager = compiled_and_eager(lambda x: (x.amax(1), x.amin(1), x.argmax(1), -x, x.clamp(min=-1)), x)
    for a, b in zip(ours, eager, strict=True):
        assert same_bits(a, b) and same_bits(a.float().reciprocal(), b.float().reciprocal())


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (8, 1)])
def test_sums_of_negative_zeros(shape):
    x = torch.full(shape, -0.0)
    ours, eager = compiled_and_eager(lambda x: (x.sum(1), x.sum(), x.mean(0), x.cumsum(1), x.cumsum(0), x.prod(1)), x)
    for a, b in zip(ours, eager, strict=True):
        assert same_bits(a.reciprocal(), b.reciprocal())


def test_integer_division_and_its_check():
    f = smelt.compile(lambda x, y: x // y, backend="triton", fullgraph=True)
    x, y = torch.tensor([7, -7, 9, -9] * 5), torch.tensor([2, 2, -4, 3] * 5)
    for _ in range(3):
        assert torch.equal(f(x, y), x // y)
    y[13] = 0
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        f(x, y)


@pytest.mark.parametrize("name", ["sums so far along the symbol", "largest so far", "sums from the last on"])
def test_a_scan_goes_on_from_tile_to_tile(name):
    write, shapes = ONE[name]
    graph = graph_of(write, *shapes)
    assert any("for " in print_alone(kernel)[0] for kernel in kernels_of(graph))
    check(graph, (300,), (257,), backend="triton")


@pytest.mark.parametrize("name", sorted(ONE.keys() - SLOW))
def test_a_symbolic_size(name):
    write, shapes = ONE[name]
    check(graph_of(write, *shapes), (2,), (5,), (17,), backend="triton")


@pytest.mark.parametrize("name", sorted(TWO.keys() - SLOW))
def test_two_symbolic_sizes(name):
    write, shapes = TWO[name]
    check(graph_of(write, *shapes), (2, 3), (3, 5), backend="triton")


# Sources

@pytest.mark.parametrize("name", CASES)
def test_golden_sources(name, request):
    """Update with pytest tests/test_triton.py --update-golden, and read what changed."""
    case = CASES[name]
    found = "\n\n".join(f"# {part}\n{p.source}" for part, p in programs(case, case.rows, case.width).items() if p.source)
    path = GOLDEN / f"{name}.py"
    if request.config.getoption("--update-golden"):
        path.write_text(found)
    assert path.read_text() == found


def test_long_rows_are_looped_and_short_ones_are_not():
    assert "for " in print_alone(kernels(CASES["softmax_long"], 512, 20000)[0])[0]
    assert "for " not in print_alone(kernels(CASES["softmax"], 64, 1024)[0])[0]


@pytest.mark.parametrize("function, train", [(lambda x: x.cummax(-1).values, False), (lambda x: x.cummax(0).values, False),
                                             (lambda x: x.softmax(-1), True)])
def test_long_rows_of_doubles_spill_nothing(function, train):
    from smelt.runtime.ahead_of_time import compile_for
    case = Case(function, lambda n, w: (normal(n, w, dtype=torch.float64, grad=train),), train)
    for kernel in kernels(case, 64, 16384):
        source, f = print_alone(kernel)
        assert all(compile_for(target, source, f.signature).spills == 0 for target in ("sm_80", "gfx942"))


def test_tall_columns_are_split_over_programs():
    split = kernels(Case(lambda x: x.amax(0), lambda n, w: (normal(n, w),)), 2048, 33)
    assert [math.prod(a.size for a in k.reduced) for k in split] == [32, 64]


def test_large_buffers_are_indexed_with_64_bits():
    def text(n: int) -> str:
        i = sym("i", 0, n - 1)
        body = Load("x", "in0", i, torch.int8), Store("out0", i, "x")
        return print_alone(Kernel("copy", (Axis(Sym("i", 0, n - 1), n),), (Buffer("in0", 0, torch.int8, n),
                                                                          Buffer("out0", 1, torch.int8, n)), body))[0]
    assert "tl.int64" in text(2 ** 31) and "tl.int64" not in text(2 ** 30)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["fused_chain", "add_transposed", "largest_place", "running_sums", "running_extremes"])
def test_compiles_ahead_of_time(name, target):
    from smelt.runtime.ahead_of_time import compile_for
    for kernel in kernels(CASES[name], CASES[name].rows, CASES[name].width):
        source, f = print_alone(kernel)
        found = compile_for(target, source, f.signature)
        assert 0 < found.registers < 128 and found.spills == 0


def lowered(graph):
    for p in (*pipeline.CLEAN, *pipeline.LOWER):
        graph = p(graph)
    return graph


def kernels_of(graph, backend=TritonBackend()) -> list[Kernel]:
    return [kernel for _, calls in build(lowered(graph), backend).segments for kernel, _ in calls]


@pytest.mark.parametrize("name", ["softmax over the symbol", "transposed sum", "split", "largest so far"])
def test_symbolic_sizes_compile_ahead_of_time(name):
    from smelt.runtime.ahead_of_time import compile_for
    for kernel in kernels_of(graph_of(ONE[name][0], *ONE[name][1])):
        source, f = print_alone(kernel)
        assert f.signature.sizes == ("s0",) and "s0: tl.int64" in source
        assert compile_for("sm_90", source, f.signature).spills == 0


# Around it

def test_smelt_needs_no_triton():
    code = """
import sys
sys.modules["triton"] = None
import warnings, torch, smelt
f = smelt.compile(lambda x: x * 2 + 1)
x = torch.arange(8.0)
assert all(torch.equal(f(x), x * 2 + 1) for _ in range(3)) and smelt.explain(f).compiled
g = smelt.compile(lambda x: x * 2 + 1, backend="triton")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert all(torch.equal(g(x), x * 2 + 1) for _ in range(2))
assert "Triton is not installed" in str(said[0].message), said
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensors_on_other_devices_run_eagerly():
    with pytest.raises(Unsupported, match="meta"):
        smelt.compile(lambda x: x + 1, backend="triton", fullgraph=True)(torch.ones(3, device="meta"))


def test_explain_tells_of_the_interpreter_and_of_gpus():
    f = smelt.compile(lambda x: x.softmax(1), backend="triton")
    f(torch.ones(3, 300))
    assert "Triton's interpreter" in str(smelt.explain(f))
    report = smelt.explain(f, target="sm_90")
    (kernel,) = report.programs[0].kernels
    assert 0 < kernel.resources.registers < 128 and f"{kernel.resources.registers} registers" in str(report)
    assert "tl.store" in smelt.show(f, "triton")
    with pytest.raises(BuildError, match="there is sm_80, sm_90, gfx942"):
        smelt.explain(f, target="sm_1")


def test_sources_that_are_loaded_at_once_are_all_interpreted():
    """The second one begins before the first one is done, and ends after it."""
    import triton
    from triton.runtime.interpreter import InterpretedFunction
    source = "import time, triton\ntime.sleep({})\n\n@triton.jit\ndef kernel(x):\n    pass\n"
    before = triton.knobs.runtime.interpret
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_module, source.format(0.1), True)
        time.sleep(0.05)
        second = pool.submit(load_module, source.format(0.2), True)
    assert all(type(m.result().kernel) is InterpretedFunction for m in (first, second))
    assert triton.knobs.runtime.interpret == before
