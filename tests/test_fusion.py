"""Fusion: what becomes one kernel, what is stored and what is computed again."""
from __future__ import annotations

import pytest
import torch

import smelt
from smelt.codegen import loops
from smelt.codegen.fuse import fuse
from smelt.codegen.generate import build
from smelt.codegen.interpret import interpret
from smelt.codegen.placement import place
from smelt.codegen.prepare import prepare
from smelt.codegen.schedule import schedule
from smelt.codegen.siblings import join_siblings
from smelt.compiler import Builder, Graph, TensorType, evaluate
from smelt.compiler.op import ATEN
from smelt.compiler.passes import cse, dce, decompose, drop_detach, fold, gradient, simplify

from .random_programs import COUNT, random_graph
from .test_lowering import Kernels, sum_

F = torch.float32


def graph_of(write, **shapes) -> Graph:
    """The graph of what `write(b, *inputs)` emits: float32 inputs of these shapes, or of (dtype, shape)."""
    b = Builder()
    types = {n: TensorType(s[1], s[0]) if isinstance(s[0], torch.dtype) else TensorType(s, F) for n, s in shapes.items()}
    inputs = [b.input(n, t) for n, t in types.items()]
    outputs = write(b, *inputs)
    return b.graph("f", outputs if isinstance(outputs, (list, tuple)) else [outputs])


def lowered(graph: Graph) -> Graph:
    for p in (drop_detach, decompose, simplify, fold, cse, dce):
        graph = p(graph)
    return graph


def fused(graph: Graph) -> list[tuple[str, ...]]:
    """The values of each kernel, having checked that the kernels give what the graph means."""
    graph = lowered(graph)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randint(0, 4, i.shape, generator=generator, dtype=i.dtype) if i.dtype == torch.int64
               else torch.rand(i.shape, generator=generator, dtype=i.dtype) for i in graph.inputs]
    built = build(graph, Kernels)
    for ours, reference in zip(interpret(built, tensors), evaluate(graph, tensors)):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    return [tuple(note["values"]) for note in built.program.notes["kernels"]]


def kernels(write, **shapes) -> int:
    return len(fused(graph_of(write, **shapes)))


def softmax(b, x, dim=-1):
    return ATEN["_softmax"](b, x, dim, False)


def cumsum(b, x, *dim):
    return b.cumsum(x, dim=dim, dtype=None)


# Scans

def test_a_scan_is_fused_with_what_comes_before_and_after_it():
    def write(b, x, mask):
        return b.exp(b.neg(cumsum(b, b.mul(x, mask), 1)))
    assert kernels(write, x=(5, 20), mask=(5, 20)) == 1


def test_a_scan_and_reductions_over_its_axis_are_one_kernel():
    assert kernels(lambda b, x: softmax(b, cumsum(b, x, 1)), x=(5, 20)) == 1
    assert kernels(lambda b, x: cumsum(b, softmax(b, x), 1), x=(5, 20)) == 1


def test_a_scan_from_the_last_element_on_is_one_kernel():
    assert kernels(lambda b, x, y: b.mul(b.flip(cumsum(b, b.flip(x, dims=(1,)), 1), dims=(1,)), y), x=(5, 20), y=(5, 20)) == 1


def test_scans_in_opposite_directions_or_along_different_axes_are_two_kernels():
    assert kernels(lambda b, x: b.add(cumsum(b, x, 1), b.flip(cumsum(b, b.flip(x, dims=(1,)), 1), dims=(1,))), x=(5, 20)) == 2
    assert kernels(lambda b, x: cumsum(b, cumsum(b, x, 1), 0), x=(5, 20)) == 2


def test_a_scan_along_an_axis_that_is_a_part_of_another():
    def write(b, x):
        return b.reshape(cumsum(b, b.reshape(b.exp(x), shape=(5, 4, 6)), 2), shape=(5, 24))
    assert kernels(write, x=(5, 24)) == 1


# One kernel

def test_a_chain_with_broadcasts_and_views():
    def write(b, x, bias):
        y = b.relu(b.add(x, bias))
        y = b.permute(b.reshape(y, shape=(4, 3, 8)), dims=(2, 0, 1))
        return b.exp(b.mul(y, 2.0))
    assert kernels(write, x=(12, 8), bias=(8,)) == 1


@pytest.mark.parametrize("shape, dim", [((6, 8), 1), ((6, 8), 0), ((2, 3, 4, 5), 3), ((2, 3, 4, 5), 1)])
def test_softmax(shape, dim):
    assert kernels(lambda b, x: softmax(b, b.mul(x, 2.0), dim), x=shape) == 1


def test_layer_norm_of_a_reshaped_sum():
    def write(b, x, y, w, c):
        total = b.reshape(b.add(x, b.reshape(y, shape=(2, 3, 8))), shape=(6, 8))
        return [total, ATEN["native_layer_norm"](b, total, (8,), w, c, 1e-5)[0]]
    assert kernels(write, x=(2, 3, 8), y=(6, 8), w=(8,), c=(8,)) == 1


def test_batch_norm_in_training_with_its_relu():
    def write(b, x, w, c, m, v):
        r = ATEN["native_batch_norm"](b, x, w, c, m, v, True, 0.1, 1e-5)
        return [b.relu(r[0]), *r[1:]]
    assert kernels(write, x=(4, 3, 5, 5), w=(3,), c=(3,), m=(3,), v=(3,)) == 1


def test_a_row_of_cross_entropy_with_its_gather():
    def write(b, x, t):
        rows = ATEN["_log_softmax"](b, x, 1, False)
        return b.neg(b.pick(rows, t, dim=1))
    values, = fused(graph_of(write, x=(5, 4), t=(torch.int64, (5,))))
    assert any(v.startswith("pick") for v in values)


def test_rows_and_what_follows_from_them():
    """Values of the rows, and of the elements again, join the reduction's kernel."""
    def write(b, x):
        scale = b.rsqrt(b.add(b.mean(b.mul(x, x), dim=(1,), keepdim=True, dtype=None), 1e-6))
        return [b.mul(x, scale), scale]
    assert kernels(write, x=(6, 8)) == 1


def test_the_epilogue_of_a_product():
    def write(b, x, w, c, r):
        before = b.add(b.matmul(x, b.permute(w, dims=(1, 0))), c)
        return [before, b.add(b.relu(before), r)]
    assert kernels(write, x=(5, 7), w=(6, 7), c=(6,), r=(5, 6)) == 1


def test_heads_are_put_back_in_order_by_the_product_that_computes_them():
    def write(b, p, v):
        return b.reshape(b.permute(b.matmul(p, v), dims=(0, 2, 1, 3)), shape=(2, 4, 18))
    assert kernels(write, p=(2, 3, 4, 5), v=(2, 3, 5, 6)) == 1


def test_the_pieces_of_a_cat_are_written_by_who_computes_them():
    assert kernels(lambda b, x, y: b.cat(b.exp(x), b.exp(b.neg(x)), dim=1), x=(3, 4), y=(1,)) == 1
    assert kernels(lambda b, x, y: b.cat(b.exp(x), y, dim=0), x=(3, 4), y=(1, 4)) == 2


# Several kernels

def test_rows_then_columns():
    assert len(fused(graph_of(lambda b, x: [sum_(b, x, 1), sum_(b, b.exp(x), 0)], x=(6, 8)))) == 2


def test_a_value_behind_a_third_kernel_does_not_join():
    """y feeds a product whose result comes back to y's elements: y in one kernel, the product and what follows in another."""
    def write(b, x, w):
        y = b.exp(x)
        return b.mul(y, b.relu(b.matmul(y, w)))
    assert [len(values) for values in fused(graph_of(write, x=(6, 6), w=(6, 6)))] == [1, 3]

    def the_product_first(b, x, w):
        y = b.exp(x)
        return b.mul(b.matmul(y, w), y)
    assert [len(values) for values in fused(graph_of(the_product_first, x=(6, 6), w=(6, 6)))] == [1, 2]

    def again(b, x):
        y = b.exp(x)
        return b.add(y, b.expand(b.reshape(sum_(b, sum_(b, y, 1), 0), shape=(1, 1)), shape=(6, 8)))
    assert len(fused(graph_of(again, x=(6, 8)))) == 3


def test_column_sums_of_one_gradient_share_a_kernel():
    def write(b, g, x):
        return [sum_(b, g, 0), sum_(b, b.mul(g, x), 0)]
    assert kernels(write, g=(6, 8), x=(6, 8)) == 1


def test_members_are_few_enough():
    def write(b, x):
        for _ in range(300):
            x = b.add(x, 1.5)
        return x
    counts = [len(values) for values in fused(graph_of(write, x=(3,)))]
    assert sum(counts) == 300 and max(counts) <= 96


# Stored, or computed again

def placed(graph: Graph):
    graph = prepare(lowered(graph), Kernels.use_library)
    return graph, place(graph, fuse(graph))


@pytest.mark.parametrize("rows, columns, down, across", [(4, 3, 2, 1), (2, 6, 1, 2), (4, 2, 3, 1), (2, 3, 2, 2), (4, 6, 1, 1)])
def test_a_part_repeated_to_the_size_of_the_whole(rows, columns, down, across):
    """As many elements, but the loop over the whole goes past the part's end."""
    def write(b, x):
        y = b.exp(x)
        part = b.slice(y, start=(0, 0), step=(1, 1), size=(rows, columns))
        tiles = b.expand(b.reshape(part, shape=(1, rows, 1, columns)), shape=(down, rows, across, columns))
        return y, b.mul(b.reshape(tiles, shape=(down * rows, across * columns)), 3.0)
    assert kernels(write, x=(4, 6)) == (1 if (rows, columns) == (4, 6) else 2)


def test_a_cheap_value_is_computed_again():
    graph, placement = placed(graph_of(lambda b, x: [sum_(b, b.relu(x), 1), sum_(b, b.relu(x), 0)], x=(60, 80)))
    assert {v.op.name for v in placement.stored} == {"sum"}


def test_a_costly_value_is_stored():
    def write(b, x):
        y = b.exp(b.sin(b.exp(x)))
        return [sum_(b, y, 1), sum_(b, y, 0)]
    graph, placement = placed(graph_of(write, x=(60, 80)))
    assert {v.op.name for v in placement.stored} == {"sum", "exp"}


def test_what_would_need_more_tensors_is_stored():
    def write(b, x, y, z):
        t = b.add(b.mul(x, y), z)
        return [sum_(b, t, 1), sum_(b, t, 0), sum_(b, b.permute(t, dims=(1, 2, 0)), 0)]
    graph, placement = placed(graph_of(write, x=(6, 8, 4), y=(6, 8, 4), z=(6, 8, 4)))
    assert "add" in {v.op.name for v in placement.stored}


def test_reductions_are_computed_once():
    for seed in range(COUNT):
        graph, placement = placed(random_graph(seed, length=30)[0])
        for v, groups in placement.evaluated.items():
            if v.op.kind in ("reduce", "contract", "opaque", "part"):
                assert len(groups) <= 1


# Training steps

def mlp(b, x, t, w0, b0, w1, b1):
    h = b.relu(ATEN["addmm"](b, b0, x, b.permute(w0, dims=(1, 0))))
    rows = ATEN["_log_softmax"](b, ATEN["addmm"](b, b1, h, b.permute(w1, dims=(1, 0))), 1, False)
    return ATEN["nll_loss_forward"](b, rows, t, None, 1, -100)[0]


def test_a_training_step():
    graph = graph_of(mlp, x=(8, 12), t=(torch.int64, (8,)), w0=(6, 12), b0=(6,), w1=(4, 6), b1=(4,))
    found = fused(gradient(simplify(graph), (2, 3, 4, 5), (0,)).graph)
    products = [values for values in found if any(v.startswith("matmul") for v in values)]
    assert len(products) == 5 and len(found) <= 11
    assert any(any(v.startswith("threshold_backward") for v in values) for values in products)


def test_a_row_of_what_a_kernel_reduces_put_in_its_place():
    """Where the condition leaves a row alone, its sum is the one at hand."""
    def write(b, x):
        y = b.sub(x, b.sum(x, dim=(1,), keepdim=True, dtype=None))
        columns = b.permute(y, dims=(1, 0))
        first = b.slice(columns, start=(0, 0), step=(1, 1), size=(6, 1))
        inside = b.full(shape=(6, 1), value=True, dtype=torch.bool, device=torch.device("cpu"))
        inside, first = (b.pad(v, low=(0, 0), high=(0, 3), interior=(0, 0), value=value)
                         for v, value in ((inside, False), (first, 0)))
        return b.where(inside, first, columns)
    assert len(fused(graph_of(write, x=(4, 6)))) == 1


def test_the_backward_of_layer_norm():
    def write(b, x, w, c):
        return ATEN["native_layer_norm"](b, x, (8,), w, c, 1e-5)[0]
    graph = gradient(graph_of(write, x=(6, 8), w=(8,), c=(8,)), (0, 1, 2), (0,)).graph
    assert len(fused(graph)) == 2


def test_a_place_whose_simplest_form_only_fusion_would_see():
    """Rows repeated, summed up and read flat: what fusion joins, lowering finds at the coordinates of the loop."""
    def write(x):
        rows = x.repeat(2, 1)
        flat = rows.view(-1)
        return flat[::2], rows.cumsum(0), flat * 2
    x, y = (torch.arange(48.0).view(8, 6).requires_grad_() for _ in range(2))
    compiled = smelt.compile(write)
    for f, given in ((write, x), (compiled, y)):
        sum(r.sin().sum() for r in f(given)).backward()
    torch.testing.assert_close(y.grad, x.grad)
    assert smelt.explain(compiled).compiled


# The order

@pytest.mark.parametrize("seed", range(COUNT))
def test_every_group_runs_after_what_it_loads(seed):
    graph, _ = random_graph(seed, length=60)
    graph = prepare(lowered(graph), Kernels.use_library)
    fusion = fuse(graph)
    placement = place(graph, fusion)
    join_siblings(graph, fusion, placement)
    done = set(graph.inputs)
    for group in schedule(graph, fusion, placement):
        assert placement.loads[group] <= done
        done.update(group.members)
    assert set(graph.outputs) <= done


def test_random_ops_stay_in_order():
    def write(b, x):
        a = b.bernoulli(x)
        c = b.bernoulli(b.mul(x, 0.5))
        return [c, a]
    built = build(graph_of(write, x=(4,)), Kernels)
    torch.manual_seed(0)
    x = torch.rand(4)
    torch.manual_seed(1)
    expected = evaluate(graph_of(write, x=(4,)), [x])
    torch.manual_seed(1)
    for ours, reference in zip(interpret(built, [x]), expected):
        assert torch.equal(ours, reference)


def test_a_thousand_values_come_to_kernels():
    def write(b, x, w, c, g):
        for _ in range(60):
            x = ATEN["native_layer_norm"](b, b.add(x, b.mul(softmax(b, x), g)), (64,), w, c, 1e-5)[0]
        return x
    graph = lowered(graph_of(write, x=(2, 16, 64), w=(64,), c=(64,), g=(64,)))
    assert len(graph.values) >= 900
    built = build(graph, Kernels)
    assert isinstance(built.segments[0][1][0][0], loops.Kernel)
