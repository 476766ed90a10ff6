"""Lowering: the kernels of a graph, run by the interpreter of the loop IR, give what the graph means."""
from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from smelt.codegen import loops
from smelt.codegen.comparisons import narrowed
from smelt.codegen.generate import build
from smelt.codegen.interpret import interpret, run_kernel
from smelt.codegen.prepare import DTYPES, parts_for_threads
from smelt.compiler import Builder, Graph, TensorType, TupleType, evaluate
from smelt.compiler.dims import Div, Mod
from smelt.compiler.compare import compare, evaluate_precisely
from smelt.compiler.op import OPS
from smelt.compiler.passes import decompose
from smelt.runtime.program import Call, arena_layout

from .common import type_of
from .random_programs import COUNT, random_graph

F = torch.float32


class Kernels:
    """A backend that leaves no product to a library; the interpreter needs no source."""

    loops = True
    parts = staticmethod(parts_for_threads)

    @staticmethod
    def use_library(batch, m, n, k, dtype):
        return False


class Library(Kernels):
    @staticmethod
    def use_library(batch, m, n, k, dtype):
        return True


def kernels_of(built) -> list[loops.AnyKernel]:
    return [kernel for _, calls in built.segments for kernel, _ in calls]


def check(graph: Graph, tensors, backend=Kernels) -> list[loops.AnyKernel]:
    """Build, interpret and compare with the reference evaluator; the kernels that ran."""
    graph = decompose(graph)
    built = build(graph, backend)
    wrong = compare(interpret(built, tensors), evaluate(graph, tensors), partial(evaluate_precisely, graph, tensors))
    assert wrong is None, f"{wrong}\n{graph}\n" + "\n".join(map(loops.show, kernels_of(built)))
    return kernels_of(built)


def run(write, *tensors, backend=Kernels) -> list[loops.AnyKernel]:
    """`check` of what `write(b, *inputs)` emits."""
    b = Builder()
    outputs = write(b, *(b.input(f"x{k}", type_of(t)) for k, t in enumerate(tensors)))
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return check(b.graph("f", outputs), list(tensors), backend)


def sum_(b, x, *dim, keepdim=False):
    return b.sum(x, dim=dim, keepdim=keepdim, dtype=None)


# Every op that kernels compute

IN_KERNELS = [op.name for op in OPS.values() if op.samples and not op.random
              and op.kind in ("pointwise", "view", "source", "reduce", "scan", "gather", "cat", "contract")]


@pytest.mark.parametrize("name", IN_KERNELS)
def test_every_record(name):
    ran = 0
    for inputs, attrs in OPS[name].samples():
        tensors = [i for i in inputs if isinstance(i, torch.Tensor)]
        b = Builder()
        operands = [b.input(f"x{k}", type_of(i)) if isinstance(i, torch.Tensor) else i for k, i in enumerate(inputs)]
        v = b.emit(name, *operands, **attrs)
        if isinstance(v.type, TupleType) or any(i.dtype not in DTYPES for i in (v, *b.inputs)):
            continue
        check(b.graph(name, [v]), tensors)
        ran += 1
    assert ran


@pytest.mark.parametrize("seed", range(COUNT))
def test_random_graphs(seed):
    graph, tensors = random_graph(seed, length=24)
    check(graph, tensors)


# Indices

def test_a_padded_view_reads_nothing_outside():
    kernel, = run(lambda b, x: b.exp(b.pad(x, low=(1, 0), high=(0, 2), interior=(0, 0), value=3)), torch.randn(3, 4))
    load, = [s for s in kernel.body if isinstance(s, loops.Load)]
    assert load.guard and load.other == 3


def test_a_computed_value_is_computed_inside_the_padding_only():
    x = torch.randn(4)
    run(lambda b, x: b.pad(b.log(x), low=(2,), high=(1,), interior=(0,), value=0), x)


def test_flip_reshape_and_permute_are_index_arithmetic():
    x = torch.randn(4, 6)
    kernel, = run(lambda b, x: b.exp(b.reshape(b.permute(b.flip(b.exp(x), dims=(1,)), dims=(1, 0)), shape=(3, 8))), x)
    assert sum(isinstance(s, loops.Load) for s in kernel.body) == 1


def test_a_gathered_index_is_checked_before_it_is_used():
    table, places = torch.randn(5, 3), torch.tensor([[0, 4], [2, 2]])
    kernel, = run(lambda b, t, i: b.embedding(t, i, padding=-1, by_frequency=False), table, places)
    assert [type(s).__name__ for s in kernel.body].count("Check") == 1
    with pytest.raises(IndexError, match="index out of range in self"):
        run(lambda b, t, i: b.embedding(t, i, padding=-1, by_frequency=False), table, torch.tensor([[0, 5], [2, 2]]))


def test_the_gradient_of_hardtanh_at_nan():
    x = torch.tensor([float("nan"), -2.0, -1.0, 0.0, 1.0, 2.0])
    run(lambda b, g, x: b.hardtanh_backward(g, x, min_val=-1.0, max_val=1.0), torch.arange(1.0, 7), x)


def test_integer_division_by_zero_is_an_error():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(lambda b, x, y: b.div_floor(x, y), torch.tensor([4, 3]), torch.tensor([2, 0]))


def test_inputs_are_read_by_their_own_strides():
    run(lambda b, x, y: b.add(x, y), torch.randn(6, 4).t(), torch.randn(4, 1).expand(4, 6))
    run(lambda b, x: b.exp(x), torch.randn(8, 8)[1:5, ::2])


def test_an_output_has_the_strides_that_eager_gave_it():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    b = Builder()
    v = b.input("x", type_of(x))
    built = build(b.graph("f", [b.emit("exp", v, type=type_of(x))]), Kernels)
    result, = interpret(built, [x])
    assert result.stride() == x.stride() and torch.equal(result, x.exp())
    kernel, = kernels_of(built)
    assert [a.size for a in kernel.axes] == [120]  # in the order of memory, the axes are one


# Axes

def test_neighbouring_axes_become_one():
    kernel, = run(lambda b, x: b.exp(x), torch.randn(2, 3, 4))
    assert [a.size for a in kernel.axes] == [24]
    kernel, = run(lambda b, x, y: b.add(x, y), torch.randn(2, 3, 4), torch.randn(4))
    assert [a.size for a in kernel.axes] == [6, 4]
    kernel, = run(lambda b, x: sum_(b, x, 0, 2, 3), torch.randn(2, 3, 4, 5))
    assert [(a.size, a.reduce) for a in kernel.axes] == [(3, False), (2, True), (20, True)]


def test_argmax_counts_in_the_order_of_the_dimensions():
    run(lambda b, x: b.argmax(b.permute(x, dims=(1, 0)), dim=(0, 1), keepdim=False), torch.randn(4, 5))
    x = torch.randn(4, 5, 3)
    for dims in ((2, 0, 1), (0, 1, 2)):
        run(lambda b, x: b.argmax(b.permute(b.exp(x), dims=dims), dim=(0, 1, 2), keepdim=False), x)
        run(lambda b, x: b.argmax(b.permute(b.exp(x), dims=dims), dim=(1,), keepdim=True), x)


def divisions(kernel):
    """How many divisions and remainders there are in a kernel's indices."""
    return sum(isinstance(a, (Div, Mod)) for s in kernel.body if hasattr(s, "index") for m, _ in s.index.terms for a in m)


def test_an_axis_is_split_where_indices_take_it_apart():
    """Heads joined to rows: 32 columns are 4 heads of 8."""
    x, w = torch.randn(2, 4, 3, 8), torch.randn(32)
    kernel, = run(lambda b, x, w: b.mul(b.reshape(b.permute(x, dims=(0, 2, 1, 3)), shape=(2, 3, 32)), w), x, w)
    assert [a.size for a in kernel.axes] == [2, 3, 4, 8] and not divisions(kernel)
    x = torch.randn(2, 4, 9, 8)
    joined = lambda b, x: b.reshape(b.permute(x, dims=(0, 2, 1, 3)), shape=(18, 32))
    kernel, = run(lambda b, x: b.argmax(b.exp(joined(b, x)), dim=(1,), keepdim=False), x)
    assert [a.size for a in kernel.reduced] == [4, 8] and not divisions(kernel)
    kernel, = run(lambda b, x: b.exp(b.reshape(b.permute(x, dims=(1, 0)), shape=(12,))), torch.randn(3, 4))
    assert [a.size for a in kernel.axes] == [12]  # too short to be worth a loop


def test_conditions_on_an_axis_simplify_the_indices_behind_them():
    """The gradient of three slices of 24 columns, each of which was 3 heads of 8."""
    def write(b, *parts):
        joined = (b.reshape(b.permute(p, dims=(0, 2, 1, 3)), shape=(2, 5, 24)) for p in parts)
        padded = [b.pad(p, low=(0, 0, 24 * k), high=(0, 0, 48 - 24 * k), interior=(0, 0, 0), value=0)
                  for k, p in enumerate(joined)]
        return b.add(b.add(*padded[:2]), padded[2])
    kernel, = run(write, *(torch.randn(2, 3, 5, 8) for _ in range(3)))
    assert not divisions(kernel)
    lanes, tested = kernel.axes[-1].symbol.name, [s for s in kernel.body if isinstance(s, loops.Index)]
    assert len({s.guard for s in kernel.body if isinstance(s, loops.Load)}) == 3
    assert tested and not any(lanes in loops.symbols_of(s) for s in tested)


# Dtypes

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_round_after_every_op(dtype):
    x, y = torch.randn(64).to(dtype), torch.randn(64).to(dtype)
    b = Builder()
    a, c = b.input("x", type_of(x)), b.input("y", type_of(y))
    graph = b.graph("f", [b.add(b.mul(a, c), 0.1)])
    result, = interpret(build(graph, Kernels), [x, y])
    assert torch.equal(result, x * y + 0.1)


def test_reductions_accumulate_wide():
    x = torch.full((4096,), 0.1, dtype=torch.bfloat16)
    kernel, = run(lambda b, x: sum_(b, x, 0), x)
    assert [s.dtype for s in kernel.body if isinstance(s, loops.Reduce)] == [F]
    kernel, = run(lambda b, x: sum_(b, x, 0), torch.randint(0, 9, (50,), dtype=torch.uint8))
    assert [s.dtype for s in kernel.body if isinstance(s, loops.Reduce)] == [torch.int64]


# Reductions

@pytest.mark.parametrize("combine", ["sum", "prod"])
def test_reductions_over_nothing_give_the_identity(combine):
    run(lambda b, x: b.emit(combine, x, dim=(1,), keepdim=False, dtype=None), torch.randn(3, 0))


def test_large_reductions_to_little_are_done_in_two_steps():
    kernels = run(lambda b, x: sum_(b, b.exp(x), 0, 1), torch.randn(512, 300))
    assert [len(k.parallel) for k in kernels] == [1, 0] and kernels[0].parallel[0].size >= 16
    assert [a.size for a in kernels[0].reduced] == [512 * 300 // kernels[0].parallel[0].size]  # of one piece of memory
    kernels = run(lambda b, x: sum_(b, x, 0, 2, 3), torch.randn(32, 3, 28, 32))
    assert len(kernels) == 2 and kernels[0].reduced[-1].size >= 32
    kernels = run(lambda b, x: b.amax(x, dim=(0,), keepdim=True), torch.randn(20000, 6))
    assert len(kernels) == 2
    kernels = run(lambda b, x: sum_(b, x, 0), torch.full((100000,), 0.1, dtype=torch.bfloat16))
    assert len(kernels) == 2
    assert len(run(lambda b, x: sum_(b, x, 1), torch.randn(256, 300))) == 1


def test_comparisons_of_indices_are_narrow():
    """Labels compared with columns, whatever the labels; in C, int32."""
    labels = torch.tensor([0, 4, -1, 2 ** 31, -2 ** 31 - 1, 2 ** 40, -2 ** 63, 2 ** 63 - 1])

    def write(b, labels):
        columns = b.iota(size=5, start=0, step=1, dtype=torch.int64, device=labels.type.device)
        return [b.emit(op, b.reshape(labels, shape=(8, 1)), columns) for op in ("eq", "ne", "lt", "le")]
    for kernel in run(write, labels):
        body = narrowed(kernel.body, frozenset(a.symbol.name for a in kernel.axes))
        assert {s.dtype for s in body if isinstance(s, loops.Index)} == {torch.int32}
        memory = [labels, *(torch.empty(40, dtype=torch.bool) for _ in kernel.buffers[1:])]
        again = [torch.empty_like(t) for t in memory[1:]]
        run_kernel(kernel, memory), run_kernel(replace(kernel, body=body), [labels, *again])
        assert all(map(torch.equal, memory[1:], again))


# Matrix products

@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 2)), ((3, 0), (0, 2)),
                                    ((0, 3), (3, 2))])
@pytest.mark.parametrize("backend", [Kernels, Library])
def test_products(shapes, backend):
    run(lambda b, x, y: b.relu(b.matmul(x, y)), *map(torch.randn, shapes), backend=backend)


def test_operands_of_a_product_are_read_as_views():
    def write(b, x, y):
        return b.matmul(b.permute(x, dims=(1, 0)), b.reshape(y, shape=(4, 6)))
    kernel, = run(write, torch.randn(4, 3), torch.randn(2, 2, 6))
    assert kernel.a_strides == (0, 1, 3) and kernel.c_strides == (0, 6, 1)
    x, y = torch.randn(2, 3, 4, 5), torch.randn(5, 6)
    for backend in (Kernels, Library):
        run(lambda b, x, y: b.matmul(b.permute(x, dims=(0, 2, 1, 3)), y), x, y, backend=backend)


def test_an_operand_and_its_transpose_share_a_copy():
    def write(b, x, y, z):
        flat = b.reshape(b.permute(x, dims=(1, 0, 2)), shape=(3, 8))
        return [b.matmul(flat, y), b.matmul(b.permute(flat, dims=(1, 0)), z)]
    kernels = run(write, torch.rand(2, 3, 4), torch.rand(8, 5), torch.rand(3, 6), backend=Library)
    assert len(kernels) == 1 and len([s for s in kernels[0].body if isinstance(s, loops.Store)]) == 1


def test_a_transposed_result_is_stored_row_by_row():
    kernel, = run(lambda b, x, y: b.permute(b.matmul(x, y), dims=(1, 0)), torch.randn(3, 4), torch.randn(4, 5))
    assert (kernel.m, kernel.n) == (5, 3)
    store, = [s for s in kernel.epilogue if isinstance(s, loops.Store)]
    assert str(store.index) == "i2 + i1*3"


def test_a_product_of_nothing_in_a_batch():
    run(lambda b, x, y: b.matmul(b.exp(x), y), torch.randn(0, 0, 6), torch.randn(0, 6, 1))


# Memory

def test_the_arena_is_used_again():
    """A chain of products needs two intermediates at a time, whatever its length."""
    def chain(length):
        def write(b, x):
            y = x
            for _ in range(length):
                y = b.matmul(y, x)
            return y
        return write
    x = torch.randn(16, 16) / 4
    sizes = []
    for length in (4, 9):
        b = Builder()
        graph = b.graph("f", [chain(length)(b, b.input("x", type_of(x)))])
        built = build(graph, Kernels)
        assert torch.allclose(interpret(built, [x])[0], evaluate(graph, [x])[0], rtol=1e-4)
        sizes.append(arena_layout(built.program.slots, {})[1])
    assert sizes == [2 * 1024, 2 * 1024]


def test_a_kernel_reads_through_the_view_that_a_call_is_given():
    """The rows that the product reads as a view of a tensor lie apart; the copy of them does not."""
    def write(b, x, w):
        rows = b.slice(b.exp(x), start=(0, 0), step=(2, 1), size=(2, 6))
        return b.matmul(rows, w), rows
    run(write, torch.randn(4, 6), torch.randn(6, 3), backend=Library)


def test_a_cast_by_name_and_the_same_one_by_promotion():
    """The statement is one, and keeps the name that its first reader knows."""
    def write(b, x, y):
        return b.maximum(b.add(x, b.cast(x, dtype=F)), y)
    run(write, torch.randn(6).bfloat16(), torch.randn(4, 1).bfloat16())


def test_outputs_that_are_inputs_or_repeat():
    x = torch.randn(3)
    b = Builder()
    v = b.input("x", type_of(x))
    y = b.exp(v)
    ones = b.full(shape=(2,), value=1.0, dtype=F, device=x.device)
    program = build(b.graph("f", [v, y, y, b.reshape(y, shape=(3, 1)), ones]), Kernels).program
    assert program.slots[program.outputs[0]].place == "input"
    assert program.outputs[1] == program.outputs[2]
    assert [program.slots[o].place for o in program.outputs[1:]] == ["output"] * 4 and len(set(program.outputs)) == 4


def test_opaque_calls_are_given_tensors():
    def write(b, x):
        places = b.full(shape=(2, 4), value=1, dtype=torch.int64, device=torch.device("cpu"))
        added = b.slice(x, start=(0, 0), step=(2, 1), size=(2, 4))
        return b.relu(b.scatter_add(b.permute(b.exp(x), dims=(1, 0)), places, added, dim=0))
    run(write, torch.randn(4, 6))


def test_a_constant_is_kept_by_the_program_and_copied_when_it_is_returned():
    b = Builder()
    x = b.input("x", TensorType((2,), F))
    kept = b.constant(data=(1.5, -2.0), shape=(2,), dtype=F, device=torch.device("cpu"))
    built = build(b.graph("f", [b.add(x, kept), kept]), Kernels)
    assert not [s for s in built.program.steps if isinstance(s, Call)]
    for ours, expected in zip(interpret(built, [torch.ones(2)]), ([2.5, -1.0], [1.5, -2.0])):
        assert ours.tolist() == expected
    assert built.program.slots[built.program.outputs[1]].place == "output"


def test_equal_kernels_are_there_once():
    def write(b, x, y):
        return b.exp(x), b.exp(y)
    b = Builder()
    tensors = [torch.randn(3, 4), torch.randn(3, 4)]
    first, second = kernels_of(build(b.graph("f", write(b, *(b.input(n, type_of(t)) for n, t in zip("xy", tensors)))), Kernels))
    assert first is second
    assert len({id(k) for k in run(lambda b, x, y: (b.exp(x), b.add(y, 1)), *tensors)}) == 2
