"""Handwritten kernels, printed as C for each instruction set, compiled and compared with torch."""
import ctypes
import os
import subprocess
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smelt.codegen.c import printer
from smelt.codegen.c.isa import host
from smelt.codegen.loops import Apply, Axis, Buffer, Check, Const, Index, Kernel, Load, Reduce, Store
from smelt.compiler.dims import Sym, expr, sym
from smelt.compiler.ir import Origin
from smelt.errors import Unsupported

FLAGS = ["-O2", "-std=gnu11", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fwrapv", "-fopenmp",
         "-fPIC", "-shared", "-w"]
HOST_ISAS = {"avx512": ["avx512", "avx2", "scalar"], "avx2": ["avx2", "scalar"], "neon": ["neon", "scalar"], "scalar": ["scalar"]}
ISAS = HOST_ISAS[host()]
f32, f64, i64, i32, u8, b8 = torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool
bf16, f16 = torch.bfloat16, torch.float16


def axis(name, size, reduce=False):
    return Axis(Sym(name, 0, max(size - 1, 0)), size, reduce)


def at(name, size):
    return sym(name) if size <= 1 else sym(name, 0, size - 1)


@dataclass
class Case:
    kernel: Kernel
    inputs: list
    expected: list
    tolerance: float = 0.0


CASES = {}


def case(function):
    """Register the Case (or cases by name) that a function makes."""
    torch.manual_seed(len(CASES))
    made = function()
    for suffix, c in (made.items() if isinstance(made, dict) else [("", made)]):
        name = (function.__name__ + suffix).replace("torch.", "")
        CASES[name] = Case(Kernel(name, c.kernel.axes, c.kernel.buffers, c.kernel.body, (name,)), c.inputs, c.expected, c.tolerance)
    return function


def kernel(axes, buffers, *body):
    """A kernel whose buffers are given as name -> (dtype, elements)."""
    placed = tuple(Buffer(n, i, d, size) for i, (n, (d, size)) in enumerate(buffers.items()))
    return Kernel("k", tuple(axes), placed, body)


def pointwise(inputs, body, expected, tolerance=0.0):
    """A kernel over all elements: loads in0, in1, ... as x0, x1, ..., runs `body`, and stores the statements named in
    `expected` (name -> tensor), or the last one where that is one tensor."""
    expected = expected if isinstance(expected, dict) else {body[-1].name: expected}
    n = inputs[0].numel()
    i = at("i", n)
    buffers = {f"in{k}": (x.dtype, n) for k, x in enumerate(inputs)} | {f"out_{y}": (w.dtype, n) for y, w in expected.items()}
    loads = [Load(f"x{k}", f"in{k}", i, x.dtype) for k, x in enumerate(inputs)]
    stores = [Store(f"out_{y}", i, y) for y in expected]
    return Case(kernel([axis("i", n)], buffers, *loads, *body, *stores), list(inputs), list(expected.values()), tolerance)


def each(inputs, ops, tolerance=0.0):
    """A kernel that applies several ops, (name, scalar op, function, attr), to the same inputs."""
    operands = tuple(f"x{k}" for k in range(len(inputs)))
    wanted = {name: function(*inputs) for name, _, function, _ in ops}
    return pointwise(inputs, [Apply(name, op, operands, wanted[name].dtype, attr) for name, op, _, attr in ops], wanted, tolerance)


SPECIAL = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 2.5, -2.5, 0.5, -0.5, 1e-42, -1e-42, 3e38])


def special_pairs(dtype=f32):
    a, b = torch.meshgrid(SPECIAL, SPECIAL, indexing="ij")
    return a.reshape(-1).to(dtype).contiguous(), b.reshape(-1).to(dtype).contiguous()


def by_numpy(function):
    """numpy's version, which is exact where torch's own is not (float32 fmod, float64 sqrt)."""
    def call(*tensors):
        with np.errstate(invalid="ignore"):
            return torch.from_numpy(function(*(t.numpy() for t in tensors)))
    return call


# Scalar ops

def plain(ops):
    return [(name, name, function, "") for name, function in ops.items()]


@case
def binary():
    ops = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "min": torch.minimum, "max": torch.maximum,
           "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "fmod": by_numpy(np.fmod)}
    return {f"_{dtype}": each(special_pairs(dtype), plain(ops)) for dtype in (f32, f64)} | {
        f"_atan2_{dtype}": each(special_pairs(dtype), plain({"atan2": torch.atan2}), 1e-6) for dtype in (f32, f64)}


@case
def unary():
    ops = {"neg": torch.neg, "abs": torch.abs, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc, "rint": torch.round,
           "sqrt": by_numpy(np.sqrt)}
    x = torch.cat([SPECIAL, torch.randn(100) * 10])
    return {f"_{dtype}": each([x.to(dtype)], plain(ops)) for dtype in (f32, f64)}


@case
def library():
    x = torch.linspace(-0.99, 0.99, 101)
    names = {"tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh,
             "asinh": torch.asinh, "atanh": torch.atanh, "exp2": torch.exp2, "erfc": torch.erfc, "lgamma": torch.lgamma}
    return {f"_{dtype}": each([x.to(dtype)], [(n, "libm", f, n) for n, f in names.items()], 2e-6) for dtype in (f32, f64)}


@case
def integers():
    cases = {}
    for dtype in (torch.int8, torch.int16, i32, i64, u8):
        info = torch.iinfo(dtype)
        edge = torch.tensor([info.min, info.max, 0, 1, 3, 7, info.max // 2] + [-1, -3, -7] * (info.min < 0), dtype=i64)
        a, b = (m.reshape(-1).to(dtype).contiguous() for m in torch.meshgrid(edge, edge, indexing="ij"))
        cases[f"_{dtype}"] = each([a, b], plain({
            "add": torch.add, "sub": torch.sub, "mul": torch.mul, "min": torch.minimum, "max": torch.maximum, "and": torch.bitwise_and,
            "or": torch.bitwise_or, "xor": torch.bitwise_xor, "eq": torch.eq, "lt": torch.lt, "le": torch.le, "ne": torch.ne}))
        cases[f"_{dtype}_unary"] = each([a], plain({"neg": torch.neg, "not": torch.bitwise_not, "abs": torch.abs}))
        safe = (b != 0) & ~((b == -1) & (a == info.min))
        divisor = torch.where(safe, b, torch.ones_like(b))
        cases[f"_{dtype}_division"] = each([a, divisor], plain({
            "div": lambda x, y: torch.div(x, y, rounding_mode="trunc"), "fmod": torch.fmod}))
        count = torch.arange(a.numel()).remainder(info.bits + 3).to(dtype)
        cases[f"_{dtype}_shifts"] = each([a, count], plain({"shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift}))
    return cases


@case
def division_by_zero_does_not_trap():
    a, b = torch.tensor([5, -5, 0, -2 ** 63]), torch.tensor([0, 0, 0, -1])
    return pointwise([a, b], [Apply("y", "div", ("x0", "x1"), i64)], torch.tensor([0, 0, 0, -2 ** 63]))


@case
def casts():
    floats = torch.tensor([0.0, -0.0, 1.7, -1.7, 100.3, -100.3, 3.5e4, 1e-5, float("nan"), 127.0])
    values = {f32: floats, f64: floats.double(), bf16: floats.bfloat16(), f16: floats.half(), b8: floats != 0,
              u8: torch.tensor([0, 1, 200, 255], dtype=u8), torch.int8: torch.tensor([0, 1, -1, -128, 127], dtype=torch.int8),
              torch.int16: torch.tensor([0, -5, 32767, -32768], dtype=torch.int16),
              i32: torch.tensor([0, -5, 2 ** 31 - 1, 16777217], dtype=i32), i64: torch.tensor([0, -5, 2 ** 53 + 1, -2 ** 62 - 1])}
    cases = {}
    for source, x in values.items():
        bounded = torch.nan_to_num(x, 0.0).clamp(0, 100) if source.is_floating_point else x
        cases[f"_{source}"] = each([x], [(f"to_{to}", "cast", lambda x, to=to: x.to(to), "") for to in values
                                         if to.is_floating_point or to == b8 or not source.is_floating_point])
        if source.is_floating_point:
            cases[f"_{source}_to_integers"] = each([bounded], [(f"to_{to}", "cast", lambda x, to=to: x.to(to), "") for to in values
                                                               if not to.is_floating_point])
    return cases


@case
def casts_out_of_range():
    """The smallest integer, as x86's conversions have it."""
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e20, -1e20])
    return {f"_{dtype}": pointwise([x.to(dtype)], [Apply("a", "cast", ("x0",), i32), Apply("b", "cast", ("x0",), i64)],
                                   {"a": torch.full((5,), -2 ** 31, dtype=i32), "b": torch.full((5,), -2 ** 63)}) for dtype in (f32, f64)}


@case
def half_rounding():
    bits = torch.arange(-2 ** 31, 2 ** 31, 65521 * 3, dtype=i64).to(i32)
    x = torch.cat([bits.view(f32), SPECIAL, torch.tensor([65504.0, 65519.9, 65520.0, 2 ** -24, 2 ** -25, 1.5 * 2 ** -25, 6e-8])])
    return {f"_{d}": pointwise([x], [Apply("y", "cast", ("x0",), d)], x.to(d)) for d in (bf16, f16)}


@case
def half_values():
    """Every half float, read and written; and an addition that rounds once."""
    bits = torch.arange(-2 ** 15, 2 ** 15, dtype=torch.int16)
    return {f"_{d}": pointwise([bits.view(d), bits.flip(0).contiguous().view(d)],
                                        [Apply("y", "add", ("x0", "x1"), d)], bits.view(d) + bits.flip(0).contiguous().view(d))
            for d in (bf16, f16)}


@case
def logic():
    a, b = torch.tensor([True, True, False, False] * 9), torch.tensor([True, False] * 18)
    ops = {"and": a & b, "or": a | b, "xor": a ^ b, "eq": a == b, "lt": a < b, "le": a <= b, "max": a | b, "mul": a & b}
    return each([a, b], [(op, op, lambda a, b, want=want: want, "") for op, want in ops.items()])


@case
def choose():
    a, b = torch.randn(37), torch.randn(37)
    body = [Const("zero", 0.0, f32), Apply("c", "lt", ("zero", "x0"), b8), Apply("y", "where", ("c", "x0", "x1"), f32)]
    wide = [Apply("c", "lt", ("x0", "x1"), b8), Const("one", 1, i64), Apply("w", "cast", ("x0",), i64),
            Apply("y", "where", ("c", "w", "one"), i64)]
    return {"_f32": pointwise([a, b], body, torch.where(a > 0, a, b)),
            "_i64": pointwise([a, b], wide, torch.where(a < b, a.long(), 1)),
            "_f64": pointwise([a.double(), b.double()], [Apply("c", "lt", ("x0", "x1"), b8), Apply("y", "where", ("c", "x0", "x1"), f64)],
                              torch.where(a < b, a.double(), b.double()))}


@case
def constants():
    values = [-0.0, float("inf"), float("-inf"), float("nan"), 0.1, -1e-42, 3]
    x, cases = torch.ones(5), {}
    for k, v in enumerate(values):
        cases[f"_{k}"] = pointwise([x], [Const("c", v, f32), Apply("p", "add", ("x0", "c"), f32), Apply("b", "lt", ("x0", "x0"), b8),
                                         Apply("y", "where", ("b", "p", "c"), f32)], torch.full((5,), float(v)))
    big = pointwise([torch.zeros(5, dtype=i64)], [Const("c", -2 ** 63, i64), Apply("y", "add", ("x0", "c"), i64)],
                    torch.full((5,), -2 ** 63))
    return cases | {"_smallest": big}


# Indices

@case
def broadcast():
    x, row, column = torch.randn(7, 37), torch.randn(37), torch.randn(7)
    i, j = at("i", 7), at("j", 37)
    return Case(kernel([axis("i", 7), axis("j", 37)], {"x": (f32, 259), "r": (f32, 37), "c": (f32, 7), "o": (f32, 259)},
                       Load("a", "x", i * 37 + j, f32), Load("b", "r", j, f32), Load("d", "c", i, f32),
                       Apply("e", "mul", ("a", "b"), f32), Apply("y", "sub", ("e", "d"), f32), Store("o", i * 37 + j, "y")),
                [x, row, column], [x * row - column[:, None]])


@case
def transpose():
    cases = {}
    for n, m in ((48, 64), (37, 53), (5, 100), (1, 3)):
        x, y = torch.randn(n, m), torch.randn(m, n)
        i, j = at("i", n), at("j", m)
        cases[f"_{n}x{m}"] = Case(kernel([axis("i", n), axis("j", m)], {"x": (f32, n * m), "y": (f32, n * m), "o": (f32, n * m)},
                                         Load("a", "x", i * m + j, f32), Load("b", "y", j * n + i, f32),
                                         Apply("c", "add", ("a", "b"), f32), Store("o", i * m + j, "c")), [x, y], [x + y.T])
        cases[f"_copy_{n}x{m}"] = Case(kernel([axis("i", n), axis("j", m)], {"y": (bf16, n * m), "o": (bf16, n * m)},
                                              Load("b", "y", j * n + i, bf16), Store("o", i * m + j, "b")),
                                       [y.bfloat16()], [y.T.bfloat16().contiguous()])
    x = torch.randn(3, 20, 18)
    b, i, j = at("b", 3), at("i", 18), at("j", 20)
    cases["_batched"] = Case(kernel([axis("b", 3), axis("i", 18), axis("j", 20)], {"x": (f32, 1080), "o": (f32, 1080)},
                                    Load("a", "x", b * 360 + j * 18 + i, f32), Store("o", b * 360 + i * 20 + j, "a")),
                             [x], [x.transpose(1, 2).contiguous()])
    return cases


@case
def strided_and_split():
    x = torch.randn(200)
    i = at("i", 60)
    flip = Case(kernel([axis("i", 60)], {"x": (f32, 200), "o": (f32, 60)}, Load("a", "x", expr(199) - i * 3, f32), Store("o", i, "a")),
                [x], [x.flip(0)[::3][:60].contiguous()])
    divided = Case(kernel([axis("i", 60)], {"x": (f32, 200), "o": (f32, 60)},
                          Load("a", "x", (i // 4) + (i % 4) * 20, f32), Store("o", i, "a")),
                   [x], [torch.stack([x[k // 4 + k % 4 * 20] for k in range(60)])])
    scatter = Case(kernel([axis("i", 60)], {"x": (f32, 60), "o": (f32, 180)}, Load("a", "x", i, f32), Store("o", i * 3, "a")),
                   [x[:60].contiguous()], [torch.full((180,), 5.0).index_put((torch.arange(0, 180, 3),), x[:60])])
    return {"_flip": flip, "_divided": divided, "_scatter": scatter}


@case
def positions():
    i, j = at("i", 5), at("j", 19)
    want = torch.arange(5)[:, None] * 3 + torch.arange(19) * 2 + (torch.arange(19) // 4)
    return Case(kernel([axis("i", 5), axis("j", 19)], {"o": (i64, 95), "p": (f32, 95)}, Index("a", i * 3 + j * 2), Index("b", j // 4),
                       Apply("c", "add", ("a", "b"), i64), Apply("d", "cast", ("c",), f32), Store("o", i * 19 + j, "c"),
                       Store("p", i * 19 + j, "d")), [], [want, want.float()])


@case
def padded():
    x = torch.randn(11, 29)
    i, j = at("i", 13), at("j", 33)
    want = F.pad(x, (2, 2, 1, 1), value=3.5)
    return Case(kernel([axis("i", 13), axis("j", 33)], {"x": (f32, 319), "o": (f32, 429)}, Index("r", i), Index("c", j), Const("one", 1, i64),
                       Const("two", 2, i64), Const("h", 12, i64), Const("w", 31, i64), Apply("a", "le", ("one", "r"), b8),
                       Apply("b", "lt", ("r", "h"), b8), Apply("d", "le", ("two", "c"), b8), Apply("e", "lt", ("c", "w"), b8),
                       Apply("ab", "and", ("a", "b"), b8), Apply("de", "and", ("d", "e"), b8), Apply("inside", "and", ("ab", "de"), b8),
                       Load("v", "x", (i - 1) * 29 + j - 2, f32, "inside", 3.5), Store("o", i * 33 + j, "v")), [x], [want])


def embedding_kernel(rows, width, vocabulary):
    i, j = at("i", rows), at("j", width)
    return kernel([axis("i", rows), axis("j", width)], {"index": (i64, rows), "w": (f32, vocabulary * width), "o": (f32, rows * width)},
                  Load("k", "index", i, i64), Const("zero", 0, i64), Const("n", vocabulary, i64), Apply("low", "le", ("zero", "k"), b8),
                  Apply("high", "lt", ("k", "n"), b8), Apply("ok", "and", ("low", "high"), b8), Check("ok", 4),
                  Load("v", "w", sym("k") * width + j, f32), Store("o", i * width + j, "v"))


@case
def embedding():
    index, w = torch.randint(0, 50, (21,)), torch.randn(50, 33)
    return Case(embedding_kernel(21, 33, 50), [index, w], [w[index]])


@case
def gathered_along_lanes():
    x, index = torch.randn(40), torch.randint(0, 40, (53,))
    i = at("i", 53)
    return Case(kernel([axis("i", 53)], {"k": (i64, 53), "x": (f32, 40), "o": (f32, 53)}, Load("k1", "k", i, i64), Const("n", 40, i64),
                       Apply("ok", "lt", ("k1", "n"), b8), Check("ok", 0), Load("v", "x", sym("k1"), f32), Store("o", i, "v")),
                [index, x], [x[index]])


# Reductions

ROWS = ((6, 1024), (5, 1003), (33, 10), (2, 70_001), (3, 1))


def row_kernel(rows, n, *body, out, more=None):
    i, j = at("i", rows), at("j", n)
    return kernel([axis("i", rows), axis("j", n, True)], {"x": (f32, rows * n), **(more or {}), **out}, Load("x1", "x", i * n + j, f32), *body)


@case
def softmax():
    cases = {}
    for rows, n in ROWS:
        x, index = torch.randn(rows, n) * 3, at("i", rows) * n + at("j", n)
        cases[f"_{rows}x{n}"] = Case(row_kernel(rows, n, Reduce("m", "max", "x1", f32), Apply("d", "sub", ("x1", "m"), f32),
                                                Apply("e", "exp", ("d",), f32, origin=Origin("model.py", 13)), Reduce("s", "sum", "e", f32),
                                                Apply("y", "div", ("e", "s"), f32), Store("o", index, "y"), out={"o": (f32, rows * n)}),
                                     [x], [x.softmax(1)], 2e-6)
    return cases


@case
def layer_norm():
    cases = {}
    for rows, n in ((6, 1024), (5, 1003), (33, 10)):
        x, w, b = torch.randn(rows, n) + 2, torch.randn(n), torch.randn(n)
        i, j = at("i", rows), at("j", n)
        body = (Reduce("s", "sum", "x1", f32), Const("n", n, f32), Apply("mean", "div", ("s", "n"), f32), Apply("d", "sub", ("x1", "mean"), f32),
                Apply("q", "mul", ("d", "d"), f32), Reduce("v", "sum", "q", f32), Apply("var", "div", ("v", "n"), f32), Const("eps", 1e-5, f32),
                Apply("ve", "add", ("var", "eps"), f32), Apply("sd", "sqrt", ("ve",), f32), Apply("y", "div", ("d", "sd"), f32),
                Load("w1", "w", j, f32), Apply("yw", "mul", ("y", "w1"), f32), Load("b1", "b", j, f32), Apply("z", "add", ("yw", "b1"), f32),
                Store("o", i * n + j, "z"), Store("mo", i, "mean"))
        cases[f"_{rows}x{n}"] = Case(row_kernel(rows, n, *body, more={"w": (f32, n), "b": (f32, n)}, out={"o": (f32, rows * n), "mo": (f32, rows)}),
                                     [x, w, b], [F.layer_norm(x, (n,), w, b), x.mean(1)], 1e-5)
    return cases


@case
def reductions_of_rows_and_columns():
    cases = {}
    for rows, n in ((4, 1000), (37, 7), (3, 4099)):
        x = torch.randn(rows, n)
        x[0, 1::3], x[1, n // 2], x[2] = float("-inf"), float("nan"), float("inf")
        ops = {"max": x.amax, "min": x.amin, "argmax": x.argmax, "argmin": x.argmin, "sum": x.sum}
        for op, function in ops.items():
            for d, name in ((1, "rows"), (0, "columns")):
                want = function(d)
                kept, gone = (rows, n) if d else (n, rows)
                i, j = at("i", kept), at("j", gone)
                index = i * n + j if d else j * n + i
                cases[f"_{op}_{name}_{rows}x{n}"] = Case(
                    kernel([axis("i", kept), axis("j", gone, True)], {"x": (f32, rows * n), "o": (want.dtype, kept)},
                           Load("v", "x", index, f32), Reduce("r", op, "v", want.dtype), Store("o", i, "r")), [x], [want], 1e-5)
    return cases


@case
def long_sums():
    """Sums of many equal-sized terms, where a plain float32 running sum would drift."""
    cases = {}
    for name, rows, n in (("row", 1, 3_000_000), ("column", 20_000, 40)):
        x = torch.rand(rows, n) + 1
        d = 1 if name == "row" else 0
        kept, gone = (rows, n) if d else (n, rows)
        i, j = at("i", kept), at("j", gone)
        cases[f"_{name}"] = Case(kernel([axis("i", kept), axis("j", gone, True)], {"x": (f32, rows * n), "o": (f32, kept)},
                                        Load("v", "x", i * n + j if d else j * n + i, f32), Reduce("s", "sum", "v", f32), Store("o", i, "s")),
                                 [x], [x.double().sum(d).float()], 2e-7)
    return cases


@case
def other_reductions():
    x, y = torch.rand(5, 130) + 0.5, torch.randint(-9, 9, (5, 130))
    z, cases = y > 7, {}
    for name, op, source, want in (("prod", "prod", x, x.prod(1)), ("sum_i64", "sum", y, y.sum(1)), ("any", "any", z, z.any(1)),
                                   ("all", "all", ~z, (~z).all(1)), ("max_i64", "max", y, y.amax(1)), ("argmin_i64", "argmin", y, None),
                                   ("sum_f64", "sum", x.double(), x.double().sum(1)), ("max_f16", "max", x.half(), x.half().amax(1))):
        if want is None:  # torch may give another of several equal places
            want = torch.stack([(row == row.min()).nonzero()[0, 0] for row in y])
        i, j = at("i", 5), at("j", 130)
        cases[f"_{name}"] = Case(kernel([axis("i", 5), axis("j", 130, True)], {"x": (source.dtype, 650), "o": (want.dtype, 5)},
                                        Load("v", "x", i * 130 + j, source.dtype), Reduce("r", op, "v", want.dtype), Store("o", i, "r")),
                                 [source], [want], 1e-5)
    return cases


@case
def empty():
    i, j = at("i", 4), sym("j")
    cases = {}
    for op, want in (("sum", 0.0), ("prod", 1.0), ("max", float("-inf"))):
        cases[f"_{op}"] = Case(kernel([axis("i", 4), axis("j", 0, True)], {"x": (f32, 0), "o": (f32, 4)}, Load("v", "x", i + j * 4, f32),
                                      Reduce("r", op, "v", f32), Store("o", i, "r")), [torch.empty(0)], [torch.full((4,), want)])
    cases["_parallel"] = Case(kernel([axis("i", 0)], {"x": (f32, 0), "o": (f32, 3)}, Load("v", "x", sym("i"), f32), Store("o", sym("i"), "v")),
                              [torch.empty(0)], [torch.full((3,), 5.0)])
    return cases


@case
def scalars():
    """A kernel without axes, and a full reduction with work after it."""
    a = torch.tensor(3.0)
    none = Case(kernel([], {"x": (f32, 1), "o": (f32, 1)}, Load("v", "x", expr(0), f32), Apply("y", "sqrt", ("v",), f32),
                       Store("o", expr(0), "y")), [a], [a.sqrt().reshape(1)])
    x = torch.randn(1000)
    norm = Case(kernel([axis("i", 1000, True)], {"x": (f32, 1000), "o": (f32, 1000), "t": (f32, 1)}, Load("v", "x", at("i", 1000), f32),
                       Apply("q", "mul", ("v", "v"), f32), Reduce("s", "sum", "q", f32), Apply("r", "sqrt", ("s",), f32),
                       Apply("y", "div", ("v", "r"), f32), Store("t", expr(0), "r"), Store("o", at("i", 1000), "y")),
                [x], [x / x.norm(), x.norm().reshape(1)], 1e-6)
    return {"_none": none, "_norm": norm}


@case
def batch_norm():
    """Kept axis in the middle; statistics and normalised values at once."""
    cases = {}
    for batch, channels, pixels in ((8, 12, 49), (300, 3, 20), (2, 70, 4)):
        x = torch.randn(batch, channels, pixels)
        c, b, p = at("c", channels), at("b", batch), at("p", pixels)
        index, count = b * (channels * pixels) + c * pixels + p, batch * pixels
        mean, var = x.mean((0, 2)), x.var((0, 2), correction=0)
        body = (Load("v", "x", index, f32), Reduce("s", "sum", "v", f32), Const("n", count, f32), Apply("m", "div", ("s", "n"), f32),
                Apply("d", "sub", ("v", "m"), f32), Apply("q", "mul", ("d", "d"), f32), Reduce("vs", "sum", "q", f32),
                Apply("var", "div", ("vs", "n"), f32), Apply("sd", "sqrt", ("var",), f32), Apply("y", "div", ("d", "sd"), f32),
                Store("o", index, "y"), Store("mo", c, "m"))
        cases[f"_{batch}x{channels}x{pixels}"] = Case(
            kernel([axis("c", channels), axis("b", batch, True), axis("p", pixels, True)],
                   {"x": (f32, x.numel()), "o": (f32, x.numel()), "mo": (f32, channels)}, *body),
            [x], [(x - mean[:, None]) / var.sqrt()[:, None], mean], 1e-5)
    return cases


@case
def column_passes():
    """Several passes over columns, with values by column between them."""
    cases = {}
    for rows, n in ((50, 100), (3, 16), (700, 33), (300, 1100)):
        x, w = torch.randn(rows, n), torch.rand(n) + 0.5
        i, j = at("i", n), at("j", rows)
        body = (Load("v", "x", j * n + i, f32), Load("w1", "w", i, f32), Apply("t", "mul", ("v", "w1"), f32), Reduce("m", "max", "t", f32),
                Apply("d", "sub", ("t", "m"), f32), Apply("e", "exp", ("d",), f32), Reduce("s", "sum", "e", f32), Const("one", 1.0, f32),
                Apply("r", "div", ("one", "s"), f32), Apply("y", "mul", ("e", "r"), f32), Store("o", j * n + i, "y"), Store("p", i, "r"))
        z = x * w
        cases[f"_{rows}x{n}"] = Case(kernel([axis("i", n), axis("j", rows, True)],
                                            {"x": (f32, rows * n), "w": (f32, n), "o": (f32, rows * n), "p": (f32, n)}, *body),
                                     [x, w], [z.softmax(0), 1 / (z - z.amax(0)).exp().sum(0)], 3e-6)
    return cases


@case
def cross_entropy():
    logits, target = torch.randn(64, 10), torch.randint(0, 10, (64,))
    i, j = at("i", 64), at("j", 10)
    grad = torch.autograd.functional.jacobian(lambda z: F.cross_entropy(z, target, reduction="sum"), logits)
    body = (Load("x", "z", i * 10 + j, f32), Load("k", "t", i, i64), Reduce("m", "max", "x", f32), Apply("d", "sub", ("x", "m"), f32),
            Apply("e", "exp", ("d",), f32), Reduce("s", "sum", "e", f32), Apply("ls", "log", ("s",), f32), Load("zt", "z", i * 10 + sym("k"), f32),
            Apply("u", "sub", ("zt", "m"), f32), Apply("loss", "sub", ("ls", "u"), f32), Store("l", i, "loss"), Index("jj", j),
            Apply("hit", "eq", ("jj", "k"), b8), Apply("hot", "cast", ("hit",), f32), Apply("p", "div", ("e", "s"), f32),
            Apply("g", "sub", ("p", "hot"), f32), Store("dz", i * 10 + j, "g"))
    return Case(kernel([axis("i", 64), axis("j", 10, True)], {"z": (f32, 640), "t": (i64, 64), "l": (f32, 64), "dz": (f32, 640)}, *body),
                [logits, target], [F.cross_entropy(logits, target, reduction="none"), grad], 2e-6)


@case
def names_that_c_has_taken():
    x = torch.randn(20)
    i = at("int", 20)
    return Case(kernel([axis("int", 20)], {"float": (f32, 20), "out": (f32, 20)}, Load("double", "float", i, f32),
                       Apply("out", "neg", ("double",), f32), Apply("exp_f32x16", "exp", ("out",), f32), Apply("k", "neg", ("exp_f32x16",), f32),
                       Store("out", i, "k")), [x], [-torch.exp(-x)], 1e-6)


def compile_c(source, folder, name):
    path = folder / f"{name}.c"
    path.write_text(source)
    subprocess.run([os.environ.get("CC", "gcc"), *FLAGS, "-o", str(path.with_suffix(".so")), str(path), "-lm"], check=True)
    return ctypes.CDLL(str(path.with_suffix(".so")))


def call(library, symbol, tensors, threads=1):
    function = getattr(library, symbol)
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_long), ctypes.c_long
    return function((ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)), threads)


@pytest.fixture(scope="module", params=ISAS)
def library(request, tmp_path_factory):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(printer, "WORK_PER_THREAD", 1e-9)  # threads for the smallest kernel
    segments = [("run_" + n, [(c.kernel, tuple(range(len(c.kernel.buffers))))]) for n, c in CASES.items()]
    source = printer.print_source("cases", segments, (), request.param)
    monkeypatch.undo()
    return compile_c(source, tmp_path_factory.mktemp("c"), "cases_" + request.param)


def test_kernel_without_enough_work_runs_on_one_thread(library):
    source = printer.print_source("small", [("run", [(CASES["broadcast"].kernel, (0, 1, 2, 3))])], ())
    assert "omp parallel" not in source and "broadcast(slots[0], slots[1], slots[2], slots[3], 0, 1, &error);" in source


def test_check_reports_its_code(library):
    case = CASES["embedding"]
    bad = case.inputs[0].clone()
    bad[7] = 10 ** 15  # read, it would crash
    assert call(library, "run_embedding", [bad, case.inputs[1], torch.empty(21, 33)], 3) == 5
    gathered = CASES["gathered_along_lanes"]
    bad = gathered.inputs[0].clone()
    bad[52] = 10 ** 15
    assert call(library, "run_gathered_along_lanes", [bad, gathered.inputs[1], torch.empty(53)]) == 1


def test_kernels_of_a_segment_wait_for_each_other(tmp_path):
    """Column means of what the first kernel wrote; the second reads what all threads wrote."""
    n = 1 << 20
    i, r, c = at("i", n), at("r", 1024), at("c", 1024)
    double = kernel([axis("i", n)], {"x": (f32, n), "o": (f32, n)}, Load("v", "x", i, f32), Apply("y", "add", ("v", "v"), f32),
                    Apply("z", "exp", ("y",), f32), Store("o", i, "z"))
    total = kernel([axis("c", 1024), axis("r", 1024, True)], {"x": (f32, n), "o": (f32, 1024)}, Load("v", "x", r * 1024 + c, f32),
                   Reduce("s", "sum", "v", f32), Store("o", c, "s"))
    double, total = replace(double, name="double_"), replace(total, name="total")
    source = printer.print_source("two", [("run", [(double, (0, 1)), (total, (1, 2))])], ())
    assert source.count("static void double_(") == 1 and "#pragma omp barrier" in source
    built = compile_c(source, tmp_path, "two")
    x, between, out = torch.randn(1024, 1024), torch.empty(1024, 1024), torch.empty(1024)
    want = (x + x).exp().double().sum(0).float()
    for threads in (1, 2, 4):
        out.zero_(), between.zero_()
        assert call(built, "run", [x, between, out], threads) == 0
        torch.testing.assert_close(out, want, rtol=1e-6, atol=0)


def test_one_function_serves_equal_kernels():
    k = CASES["broadcast"].kernel
    source = printer.print_source("twice", [("a", [(k, (0, 1, 2, 3)), (k, (3, 1, 2, 4))]), ("b", [(k, (4, 1, 2, 5))])], ())
    assert source.count("static void broadcast(") == 1 and source.count("broadcast(slots[") == 3


def test_the_text_is_the_same_each_time_and_names_the_users_line():
    k = CASES["softmax_6x1024"].kernel
    texts = {printer.print_source("s", [("run", [(k, (0, 1))])], (), "avx2") for _ in range(2)}
    assert len(texts) == 1
    text = texts.pop()
    assert "// model.py:13" in text and "const f32x8 e = exp_f32x8(d);" in text and "#include" not in text


def test_a_symbolic_size_is_not_supported():
    n = sym("n", 1)
    k = Kernel("k", (Axis(Sym("i"), n),), (Buffer("x", 0, f32, n),), (Load("v", "x", sym("i"), f32), Store("x", sym("i"), "v")))
    with pytest.raises(Unsupported, match="symbolic size n"):
        printer.print_source("s", [("run", [(k, (0,))])], ())


@pytest.mark.parametrize("name", CASES)
def test_kernel(library, name):
    c = CASES[name]
    for threads in (1, 3):
        outputs = [torch.full_like(w, 5) for w in c.expected]
        assert call(library, "run_" + name, [*c.inputs, *outputs], threads) == 0
        for got, want in zip(outputs, c.expected):
            torch.testing.assert_close(got, want, rtol=c.tolerance, atol=c.tolerance, equal_nan=True)
            if want.dtype.is_floating_point and not c.tolerance:
                number = ~want.isnan()
                assert torch.equal(got[number].signbit(), want[number].signbit())
