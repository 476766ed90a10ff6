"""The generated matrix product: every layout, edge, tile, instruction set and epilogue, against torch."""
import ctypes
import mmap
from dataclasses import replace

import pytest
import torch

from smelt.codegen.c.helpers import header
from smelt.codegen.c.isa import host, isa_of
from smelt.codegen.c.matmul import best_tile, choose_tiling, oriented, print_matmul, use_library
from smelt.codegen.loops import Apply, Axis, Buffer, Const, Load, MatMul, Store
from smelt.compiler.dims import Sym, expr_of
from smelt.runtime import Launch, Program, Slot, load

SETS = {"avx512": ("avx512", "avx2", "neon", "scalar"), "avx2": ("avx2", "neon", "scalar"), "neon": ("neon", "scalar"),
        "scalar": ("neon", "scalar")}[host()]


def operand(shape, layout, dtype=torch.float32):
    """Small whole numbers, so that sums are exact in any order. layout: "N" row-major, "T" column-major, "S" with gaps."""
    *batch, rows, columns = shape
    if layout == "T":
        return operand((*batch, columns, rows), "N", dtype).mT
    if layout == "S":
        return operand((*batch, rows * 2, columns * 3), "N", dtype)[..., ::2, ::3]
    return torch.randint(-4, 5, shape).to(dtype)


def symbols(*sizes):
    return [Sym(f"i{j}", 0, max(s - 1, 0)) for j, s in enumerate(sizes)]


def plain(i, m, n):
    """The epilogue that stores the product."""
    return (Store("out", expr_of(i[0]) * (m * n) + expr_of(i[1]) * n + expr_of(i[2]), "acc"),)


def strides_of(t):
    """(batch, row, column) strides; a size of 1 in the batch broadcasts."""
    return (0 if t.dim() == 2 or t.shape[0] == 1 else t.stride(0), *t.stride()[-2:])


def make_kernel(a, c, epilogue=plain, extra=(), name="product"):
    """The kernel of a @ c, with buffers a, c, out and `extra`, and its program's tensors."""
    m, k, n = a.shape[-2], a.shape[-1], c.shape[-1]
    batch = max(t.shape[0] if t.dim() == 3 else 1 for t in (a, c))
    buffers = tuple(Buffer(b, i, a.dtype, 0) for i, b in enumerate(("a", "c", "out", *extra)))
    i = symbols(batch, m, n)
    axes = tuple(Axis(s, size) for s, size in zip(i, (batch, m, n)))
    return MatMul(name, batch, m, n, k, *buffers[:2], strides_of(a), strides_of(c), a.dtype, axes, buffers, epilogue(i, m, n))


def run(kernel, tensors, isa="auto", threads=1):
    """Run the kernel on tensors, the shares of `threads` threads one after another."""
    text = print_matmul(kernel, isa_of(isa))
    pointers = ", ".join(f"s[{i}]" for i in range(len(tensors)))
    source = (header(text, isa_of(isa)) + text + f"long go(void **s, long n)\n{{\n    long error = 0;\n"
              f"    for (long tid = 0; tid < {threads}; tid++) {kernel.name}({pointers}, tid, {threads}, &error);\n"
              f"    return error;\n}}\n")
    slots = tuple(Slot(f"t{i}", "input", position=i) for i in range(len(tensors)))
    places = tuple(range(len(tensors)))
    load(Program("test", slots, places, (), (Launch("go", ("product",), places),), source)).run(*tensors)


def product(a, c, isa="auto", threads=1):
    kernel = make_kernel(a, c)
    out = torch.full((kernel.batch, kernel.m, kernel.n), torch.nan, dtype=a.dtype)
    run(kernel, (a, c, out), isa, threads)
    return out.reshape(torch.matmul(a, c).shape)


SHAPES = [(1, 1, 1), (1, 5, 1), (3, 2, 5), (64, 7, 10), (6, 16, 64), (7, 17, 65), (13, 33, 31), (50, 20, 50), (41, 9, 100),
          (1, 70, 37), (70, 40, 1), (2, 600, 3), (45, 1100, 33), (33, 1568, 10), (9, 600, 6), (5, 900, 1)]


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("layout", ["NN", "NT", "TN", "TT", "SN", "NS"])
def test_layouts_and_edges(isa, layout):
    for m, k, n in SHAPES if isa == SETS[0] else SHAPES[2:7] + SHAPES[-3:]:
        a, c = operand((m, k), layout[0]), operand((k, n), layout[1])
        assert torch.equal(product(a, c, isa), a @ c), (m, k, n)


@pytest.mark.parametrize("isa", SETS[:2])
def test_float64(isa):
    for layout in ("NN", "NT", "TN"):
        a, c = operand((19, 70), layout[0], torch.float64), operand((70, 29), layout[1], torch.float64)
        assert torch.equal(product(a, c, isa), a @ c)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_shares_of_threads_make_up_the_whole(threads):
    for (m, k, n), layout in (((64, 50, 64), "NN"), ((45, 1100, 33), "NN"), ((300, 1100, 40), "NT"), ((3, 8, 200), "NT"),
                              ((1, 1, 1), "NN")):
        a, c = operand((m, k), layout[0]), operand((k, n), layout[1])
        assert torch.equal(product(a, c, threads=threads), a @ c)


def test_a_panel_out_of_a_large_operand_is_packed():
    a, c = operand((40, 300), "N"), operand((300, 900), "N")
    assert choose_tiling(make_kernel(a, c), isa_of("avx512")).panel == "rows"
    assert torch.equal(product(a, c), a @ c)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("shape", [(257, 300, 70), (300, 520, 40), (1000, 70, 130), (513, 129, 600)])
def test_rows_whose_terms_lie_far_apart_are_packed(isa, shape):
    """In blocks, of which the last one is shifted inwards; items of one block share it."""
    m, k, n = shape
    a, c = operand((m, k), "T"), operand((k, n), "N")
    assert choose_tiling(oriented(make_kernel(a, c)), isa_of(isa)).packs_rows
    for threads in (1, 3):
        assert torch.equal(product(a, c, isa, threads), a @ c)
    a, c = a.double(), c.double()
    assert torch.equal(product(a, c, isa), a @ c)


@pytest.mark.parametrize("batches", [(3, 3), (3, 1), (1, 3)])
def test_batches(batches):
    for layout in ("NN", "NT", "TN"):
        a, c = operand((batches[0], 9, 20), layout[0]), operand((batches[1], 20, 18), layout[1])
        assert torch.equal(product(a, c, threads=2), a @ c)


def test_no_terms_and_no_elements():
    assert torch.equal(product(torch.ones(3, 0), torch.ones(0, 20)), torch.zeros(3, 20))
    for a, c in ((torch.ones(0, 3), torch.ones(3, 5)), (torch.ones(5, 3), torch.ones(3, 0))):
        product(a, c)


def test_nan_and_infinity_stay_where_they_belong():
    a, c = operand((13, 40), "N"), operand((40, 19), "N")
    a[3, 5], c[7, 18], c[9, 0] = torch.inf, torch.nan, -torch.inf
    for pair in ((a, c), (a, c.t().contiguous().t()), (a.t().contiguous().t(), c)):
        torch.testing.assert_close(product(*pair), a @ c, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("k", [784, 20000])
def test_rounding_errors_are_like_torch_s(k):
    torch.manual_seed(0)
    a, c = torch.randn(24, k), torch.randn(k, 48)
    exact = a.double() @ c.double()
    for pair in ((a, c), (a, c.t().contiguous().t())):
        ours, theirs = ((r - exact).pow(2).mean().sqrt() for r in (product(*pair), a @ c))
        assert ours < 1.5 * theirs


def bias_relu(i, m, n):
    """max(acc + bias[column], 0)"""
    return (Load("b", "bias", expr_of(i[2]), torch.float32), Apply("z", "add", ("acc", "b"), torch.float32),
            Const("zero", 0.0, torch.float32), Apply("r", "max", ("z", "zero"), torch.float32),
            Store("out", expr_of(i[1]) * n + expr_of(i[2]), "r"))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("shape", [(7, 12, 64), (10, 12, 37), (3, 12, 5)])
def test_an_epilogue_with_a_bias(isa, shape):
    m, k, n = shape
    a, c, bias = operand((m, k), "N"), operand((k, n), "N"), operand((1, n), "N")
    out = torch.full((m, n), torch.nan)
    run(make_kernel(a, c, bias_relu, ("bias",)), (a, c, out, bias), isa)
    assert torch.equal(out, (a @ c + bias).relu())


@pytest.mark.parametrize("layout", ["NN", "TN", "TT"])
@pytest.mark.parametrize("shape", [(13, 20, 41), (45, 600, 33), (33, 20, 1), (259, 300, 70)])
def test_an_epilogue_that_updates_in_place_does_so_once(shape, layout):
    m, k, n = shape

    def update(i, m, n):
        index = expr_of(i[1]) * n + expr_of(i[2])
        return (Load("w", "out", index, torch.float32), Const("rate", 0.5, torch.float32),
                Apply("step", "mul", ("acc", "rate"), torch.float32), Apply("new", "sub", ("w", "step"), torch.float32),
                Store("out", index, "new"))

    a, c, w = operand((m, k), layout[0]), operand((k, n), layout[1]), operand((m, n), "N")
    expected = w - 0.5 * (a @ c)
    run(make_kernel(a, c, update), (a, c, w), threads=2)
    assert torch.equal(w, expected)


def test_a_result_stored_by_columns_is_computed_as_the_transpose():
    def by_columns(i, m, n):
        return (Store("out", expr_of(i[1]) + expr_of(i[2]) * m, "acc"),)

    a, c = operand((96, 30), "T"), operand((30, 20), "T")
    kernel = make_kernel(a, c, by_columns)
    assert oriented(kernel).m == 20 and choose_tiling(oriented(kernel), isa_of("avx512")).panel == "place"
    out = torch.full((20, 96), torch.nan)
    run(kernel, (a, c, out))
    assert torch.equal(out, (a @ c).t())


def test_names_of_buffers_may_be_those_of_locals():
    a, c = operand((7, 9), "N"), operand((9, 21), "N")
    kernel = make_kernel(a, c, bias_relu, ("bias",))
    names = {"a": "panel", "c": "sum", "out": "out", "bias": "item"}
    renamed = {old: Buffer(new, i, torch.float32, 0) for i, (old, new) in enumerate(names.items())}
    body = tuple(Load(s.name, "item", s.index, s.dtype) if isinstance(s, Load) else s for s in kernel.epilogue)
    kernel = replace(kernel, a=renamed["a"], c=renamed["c"], buffers=tuple(renamed.values()), epilogue=body)
    out, bias = torch.empty(7, 21), operand((1, 21), "N")
    run(kernel, (a, c, out, bias))
    assert torch.equal(out, (a @ c + bias).relu())


def fenced(shape, layout):
    """An operand that ends where readable memory ends. Returns it, and the memory to keep."""
    size = 4 * torch.Size(shape).numel()
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + pages), mmap.PAGESIZE, 0) == 0
    flat = torch.frombuffer(memory, dtype=torch.float32, count=size // 4, offset=pages - size)
    t = flat.view(shape) if layout == "N" else flat.view(shape[::-1]).t()
    return t.copy_(operand(shape, "N")), memory


@pytest.mark.parametrize("layout", ["NN", "NT", "TN", "TT"])
def test_nothing_is_read_past_the_operands(layout):
    for m, k, n in ((5, 3, 10), (7, 17, 37), (50, 9, 70), (1, 30, 1), (259, 300, 70)):
        (a, keep_a), (c, keep_c) = fenced((m, k), layout[0]), fenced((k, n), layout[1])
        assert torch.equal(product(a, c), a @ c)


def test_the_tile_fits_the_registers_and_the_shape():
    for m, n in ((1, 1), (64, 64), (7, 1000), (1000, 5)):
        for lanes, registers in ((16, 32), (8, 16), (1, 16)):
            rows, vectors = best_tile(m, n, lanes, registers)
            assert rows * vectors + vectors < registers
            assert rows <= m and (vectors - 1) * lanes < n


def test_equal_tiles_are_printed_once():
    a, c = operand((64, 50), "N"), operand((50, 64), "N")
    text = "".join(print_matmul(make_kernel(a, c, name=n), isa_of("avx512")) for n in ("one", "two"))
    assert header(text, isa_of("avx512")).count("void tile") == 1


def test_with_a_symbolic_number_of_rows_there_are_tiles_of_one_row():
    kernel = make_kernel(operand((40, 64), "N"), operand((64, 64), "N"))
    text = print_matmul(replace(kernel, m=expr_of(Sym("s0", 2))), isa_of("avx512"))
    assert "long s0, long tid" in text and "const long rows = s0 < 6 ? 1 : 6;" in text
    assert "tile1x4" in text and "tile6x4" in text


def test_small_products_are_generated_whatever_the_machine():
    assert not use_library(64, 10, 64, torch.float32)
    assert use_library(64, 64, 64, torch.bfloat16)
