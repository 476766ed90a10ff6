"""Handwritten kernels, printed as C for each instruction set, compiled and compared with torch."""
import ctypes
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smelt.codegen.c import columns, nest, printer
from smelt.codegen.c.isa import host
from smelt.codegen.interpret import SCANS
from smelt.codegen.loops import Apply, Axis, Buffer, Check, Const, Index, Kernel, Load, Reduce, Scan, Store
from smelt.compiler.dims import Sym, expr, sym
from smelt.compiler.ir import Origin
from smelt.errors import BuildError
from smelt.runtime.build import compile_shared, toolchain

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
        CASES[name] = Case(Kernel(name, c.kernel.axes, c.kernel.buffers, c.kernel.body, (name,)), c.inputs, c.expected,
                           c.tolerance)
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
    return pointwise(inputs, [Apply(name, op, operands, wanted[name].dtype, attr) for name, op, _, attr in ops], wanted,
                     tolerance)


SPECIAL = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 2.5, -2.5, 0.5, -0.5, 1e-42, -1e-42,
                        3e38])


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
    ops = {"neg": torch.neg, "abs": torch.abs, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc,
           "rint": torch.round,
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
            "add": torch.add, "sub": torch.sub, "mul": torch.mul, "min": torch.minimum, "max": torch.maximum,
            "and": torch.bitwise_and,
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
            cases[f"_{source}_to_integers"] = each([bounded], [(f"to_{to}", "cast", lambda x, to=to: x.to(to),
                                                                "") for to in values
                                                               if not to.is_floating_point])
    return cases


@case
def casts_out_of_range():
    """The smallest integer, as x86's conversions have it."""
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e20, -1e20])
    return {f"_{dtype}": pointwise([x.to(dtype)], [Apply("a", "cast", ("x0",), i32), Apply("b", "cast", ("x0",), i64)],
                                   {"a": torch.full((5,), -2 ** 31, dtype=i32), "b": torch.full((5,),
                                                                                                -2 ** 63)}) for dtype in (f32,
                                                                                                                          f64)}


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
            "_f64": pointwise([a.double(), b.double()], [Apply("c", "lt", ("x0", "x1"), b8), Apply("y", "where", ("c", "x0",
                                                                                                                  "x1"), f64)],
                              torch.where(a < b, a.double(), b.double()))}


@case
def constants():
    values = [-0.0, float("inf"), float("-inf"), float("nan"), 0.1, -1e-42, 3]
    x, cases = torch.ones(5), {}
    for k, v in enumerate(values):
        cases[f"_{k}"] = pointwise([x], [Const("c", v, f32), Apply("p", "add", ("x0", "c"), f32), Apply("b", "lt", ("x0", "x0"),
                                                                                                        b8),
                                         Apply("y", "where", ("b", "p", "c"), f32)], torch.full((5,), float(v)))
    big = pointwise([torch.zeros(5, dtype=i64)], [Const("c", -2 ** 63, i64), Apply("y", "add", ("x0", "c"), i64)],
                    torch.full((5,), -2 ** 63))
    return cases | {"_smallest": big}


# Kernels in the text of loops.py: `name : dtype = op operands`, float32 where no dtype stands

DTYPES = {"f32": f32, "f64": f64, "i64": i64, "b8": b8, "bf16": bf16, "f16": f16}


def statements(text, **places):
    """Statements from text, one a line; `places` names the index expressions: `x = load in0[ij]`, `store o[ij] = y`,
    `m = reduce max x`, `p = scan sum x f64` (held in float64), `c : f32 = const 0.5`, `j : i64 = index col`, `check ok 3`,
    `y = exp x`."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch(r"store (\w+)\[(\w+)\] = (\w+)", line):
            found.append(Store(match[1], expr(places[match[2]]), match[3]))
            continue
        if match := re.fullmatch(r"check (\w+) (\d+)", line):
            found.append(Check(match[1], int(match[2])))
            continue
        name, dtype, what, rest = re.fullmatch(r"(\w+)(?: : (\w+))? = (\w+) (.*)", line).groups()
        dtype = DTYPES[dtype or "f32"]
        if what == "load":
            buffer, place = re.fullmatch(r"(\w+)\[(\w+)\]", rest).groups()
            found.append(Load(name, buffer, expr(places[place]), dtype))
        elif what == "const":
            found.append(Const(name, float(rest) if dtype.is_floating_point else int(rest), dtype))
        elif what == "index":
            found.append(Index(name, expr(places[rest])))
        elif what == "reduce":
            found.append(Reduce(name, rest.split()[0], rest.split()[1], dtype))
        elif what == "scan":
            op, arg, *held = rest.split()
            found.append(Scan(name, op, arg, dtype, DTYPES[held[0]] if held else dtype))
        else:
            found.append(Apply(name, what, tuple(rest.split()), dtype))
    return found


def make(axes, inputs, outputs, text, tolerance=0.0, **places):
    """A case from the kernel's axes, its buffers' values by name, and its body's text."""
    buffers = {n: (t.dtype, t.numel()) for n, t in {**inputs, **outputs}.items()}
    return Case(kernel(axes, buffers, *statements(text, **places)), list(inputs.values()), list(outputs.values()), tolerance)


# Indices

@case
def broadcast():
    x, row, column = torch.randn(7, 37), torch.randn(37), torch.randn(7)
    i, j = at("i", 7), at("j", 37)
    return make([axis("i", 7), axis("j", 37)], {"x": x, "r": row, "c": column}, {"o": x * row - column[:, None]}, """
        a = load x[ij]
        b = load r[j]
        d = load c[i]
        e = mul a b
        y = sub e d
        store o[ij] = y""", ij=i * 37 + j, i=i, j=j)


@case
def transpose():
    cases = {}
    for n, m in ((48, 64), (37, 53), (5, 100), (1, 3)):
        x, y = torch.randn(n, m), torch.randn(m, n)
        i, j = at("i", n), at("j", m)
        axes, places = [axis("i", n), axis("j", m)], {"ij": i * m + j, "ji": j * n + i}
        cases[f"_{n}x{m}"] = make(axes, {"x": x, "y": y}, {"o": x + y.T}, """
            a = load x[ij]
            b = load y[ji]
            c = add a b
            store o[ij] = c""", **places)
        y = y.bfloat16()
        cases[f"_copy_{n}x{m}"] = make(axes, {"y": y}, {"o": y.T.contiguous()}, """
            b : bf16 = load y[ji]
            store o[ij] = b""", **places)
    x = torch.randn(3, 20, 18)
    b, i, j = at("b", 3), at("i", 18), at("j", 20)
    cases["_batched"] = make([axis("b", 3), axis("i", 18), axis("j", 20)], {"x": x}, {"o": x.transpose(1, 2).contiguous()}, """
        a = load x[bji]
        store o[bij] = a""", bji=b * 360 + j * 18 + i, bij=b * 360 + i * 20 + j)
    return cases


@case
def strided_and_split():
    x, i = torch.randn(200), at("i", 60)
    move = """
        a = load x[source]
        store o[target] = a"""
    divided = torch.stack([x[k // 4 + k % 4 * 20] for k in range(60)])
    backward = torch.stack([x[(-k) // 4 + 15 + (-k) % 4 * 20] for k in range(60)])
    spread = torch.full((180,), 5.0).index_put((torch.arange(0, 180, 3),), x[:60])
    flipped = x.flip(0)[::3][:60].contiguous()
    return {"_flip": make([axis("i", 60)], {"x": x}, {"o": flipped}, move, source=expr(199) - i * 3, target=i),
            "_divided": make([axis("i", 60)], {"x": x}, {"o": divided}, move, source=i // 4 + (i % 4) * 20, target=i),
            "_negative": make([axis("i", 60)], {"x": x}, {"o": backward}, move, source=(-i) // 4 + 15 + (-i) % 4 * 20, target=i),
            "_spread": make([axis("i", 60)], {"x": x}, {"o": spread}, move, source=i, target=i * 3)}


@case
def positions():
    i, j = at("i", 5), at("j", 19)
    want = torch.arange(5)[:, None] * 3 + torch.arange(19) * 2 + (torch.arange(19) // 4)
    return make([axis("i", 5), axis("j", 19)], {}, {"o": want, "p": want.float()}, """
        a : i64 = index line
        b : i64 = index quarter
        c : i64 = add a b
        d : f32 = cast c
        store o[ij] = c
        store p[ij] = d""", line=i * 3 + j * 2, quarter=j // 4, ij=i * 19 + j)


@case
def padded():
    x = torch.randn(11, 29)
    i, j = at("i", 13), at("j", 33)
    inside = statements("""
        r : i64 = index row
        c : i64 = index column
        one : i64 = const 1
        two : i64 = const 2
        h : i64 = const 12
        w : i64 = const 31
        a : b8 = le one r
        b : b8 = lt r h
        d : b8 = le two c
        e : b8 = lt c w
        ab : b8 = and a b
        de : b8 = and d e
        inside : b8 = and ab de""", row=i, column=j)
    body = [*inside, Load("v", "x", (i - 1) * 29 + j - 2, f32, "inside", 3.5), Store("o", i * 33 + j, "v")]
    return Case(kernel([axis("i", 13), axis("j", 33)], {"x": (f32, 319), "o": (f32, 429)}, *body), [x],
                [F.pad(x, (2, 2, 1, 1), value=3.5)])


@case
def embedding():
    index, w = torch.randint(0, 50, (21,)), torch.randn(50, 33)
    i, j = at("i", 21), at("j", 33)
    return make([axis("i", 21), axis("j", 33)], {"index": index, "w": w}, {"o": w[index]}, """
        k : i64 = load index[i]
        zero : i64 = const 0
        n : i64 = const 50
        low : b8 = le zero k
        high : b8 = lt k n
        ok : b8 = and low high
        check ok 4
        v = load w[kj]
        store o[ij] = v""", i=i, ij=i * 33 + j, kj=sym("k") * 33 + j)


@case
def gathered_along_lanes():
    x, index, i = torch.randn(40), torch.randint(0, 40, (53,)), at("i", 53)
    return make([axis("i", 53)], {"index": index, "x": x}, {"o": x[index]}, """
        k : i64 = load index[i]
        n : i64 = const 40
        ok : b8 = lt k n
        check ok 0
        v = load x[k]
        store o[i] = v""", i=i, k=sym("k"))


# Reductions

SOFTMAX = """
    x = load in0[ij]
    m = reduce max x
    d = sub x m
    e = exp d
    s = reduce sum e
    y = div e s
    store o[ij] = y"""


@case
def softmax():
    cases = {}
    for rows, n in ((6, 1024), (5, 1003), (33, 10), (2, 70_001), (3, 1)):
        x = torch.randn(rows, n) * 3
        cases[f"_{rows}x{n}"] = make([axis("i", rows), axis("j", n, True)], {"in0": x}, {"o": x.softmax(1)}, SOFTMAX, 2e-6,
                                     ij=at("i", rows) * n + at("j", n))
    return cases


def scan_kernel(op, x, dim, held="f64"):
    """A scan of 2x + 1 along one of two axes, and what follows from it."""
    rows, n = x.shape
    name, y = {v: k for k, v in DTYPES.items()}[x.dtype], SCANS[op]((x + x).movedim(dim, 1)).movedim(1, dim).contiguous()
    dtype = {v: k for k, v in DTYPES.items()}[y.dtype]
    axes = sorted([axis("i", rows, dim == 0), axis("j", n, dim == 1)], key=lambda a: a.reduce)
    return make(axes, {"x": x}, {"y": y, "o": y + y}, f"""
        x : {name} = load x[ij]
        d : {name} = add x x
        y : {dtype} = scan {op} d {held if op in ("sum", "prod") else ""}
        z : {dtype} = add y y
        store y[ij] = y
        store o[ij] = z""", 2e-6, ij=at("i", rows) * n + at("j", n))


@case
def scans():
    cases = {}
    for op in SCANS:
        for rows, n in ((3, 75), (33, 10), (2, 1003)):
            for dim in (0, 1):
                x = torch.randn(rows, n) * (0.55 if op == "prod" else 3)
                x[:, 3::7] = x[:, :1]  # ties
                cases[f"_{op}_{rows}x{n}_{dim}"] = scan_kernel(op, x, dim)
                if op not in ("sum", "prod"):
                    x = x.clone()
                    x[1, 5:7] = x[2 % rows, 8] = float("nan")
                    x[0] = x[0].sign() * 0.0
                    cases[f"_{op}_{rows}x{n}_{dim}_edges"] = scan_kernel(op, x, dim)
        cases[f"_{op}_i64"] = scan_kernel(op, torch.randint(-3, 4, (3, 75)), 1, "i64")
        cases[f"_{op}_f64"] = scan_kernel(op, torch.randn(3, 75, dtype=f64), 0)
    return cases


@case
def scan_between_reductions():
    """The scan of a softmax, less its mean."""
    cases = {}
    for n in (70, 40_001):
        x = torch.randn(5, n)
        y = x.double().softmax(1).cumsum(1)
        cases[f"_{n}"] = make([axis("i", 5), axis("j", n, True)], {"in0": x}, {"o": (y - y.mean(1, True)).float()}, f"""
            {SOFTMAX.partition("store")[0]}
            p = scan sum y f64
            t = reduce sum p
            n = const {n}
            q = div t n
            c = sub p q
            store o[ij] = c""", 1e-5, ij=at("i", 5) * n + at("j", n))
    return cases


@case
def scan_over_two_axes():
    x = torch.randn(5, 6, 19)
    i, j, k = at("i", 5), at("j", 6), at("k", 19)
    axes, places = [axis("i", 5), axis("j", 6, True), axis("k", 19, True)], {"ijk": i * 114 + j * 19 + k}
    return make(axes, {"x": x}, {"o": x.flatten(1).cumsum(1), "p": x.flatten(1).cummax(1).indices}, """
        x = load x[ijk]
        y = scan sum x f64
        z : i64 = scan argmax x
        store o[ijk] = y
        store p[ijk] = z""", 2e-6, **places)


@case
def scan_backwards():
    cases = {}
    for n in (16, 64, 75):
        x = torch.randn(4, n)
        back = at("i", 4) * n + (n - 1) - at("j", n)
        cases[f"_{n}"] = make([axis("i", 4), axis("j", n, True)], {"x": x}, {"o": x.flip(1).cumsum(1).flip(1)}, """
            x = load x[back]
            y = scan sum x f64
            store o[back] = y""", 2e-6, back=back)
    return cases


MOMENTS = """
    x = load in0[place]
    sum = reduce sum x
    n = const {count}
    mean = div sum n
    d = sub x mean
    q = mul d d
    squares = reduce sum q
    var = div squares n
    eps = const 1e-5
    ve = add var eps
    sd = sqrt ve
    y = div d sd
"""


@case
def layer_norm():
    cases = {}
    for rows, n in ((6, 1024), (5, 1003), (33, 10)):
        x, w, b = torch.randn(rows, n) + 2, torch.randn(n), torch.randn(n)
        i, j = at("i", rows), at("j", n)
        cases[f"_{rows}x{n}"] = make([axis("i", rows), axis("j", n, True)], {"in0": x, "w": w, "b": b},
                                     {"o": F.layer_norm(x, (n,), w, b), "means": x.mean(1)}, MOMENTS.format(count=n) + """
            w1 = load w[j]
            yw = mul y w1
            b1 = load b[j]
            z = add yw b1
            store o[place] = z
            store means[i] = mean""", 1e-5, place=i * n + j, i=i, j=j)
    return cases


@case
def batch_norm():
    """Kept axis in the middle; statistics and normalised values at once."""
    cases = {}
    for batch, channels, pixels in ((8, 12, 49), (300, 3, 20), (2, 70, 4)):
        x = torch.randn(batch, channels, pixels)
        c, b, p = at("c", channels), at("b", batch), at("p", pixels)
        axes = [axis("c", channels), axis("b", batch, True), axis("p", pixels, True)]
        cases[f"_{batch}x{channels}x{pixels}"] = make(
            axes, {"in0": x}, {"o": F.batch_norm(x, None, None, training=True), "means": x.mean((0, 2))},
            MOMENTS.format(count=batch * pixels) + """
            store o[place] = y
            store means[c] = mean""", 1e-5, place=b * (channels * pixels) + c * pixels + p, c=c)
    return cases


@case
def reductions_of_rows_and_columns():
    cases = {}
    for rows, n in ((4, 1000), (37, 7), (3, 4099)):
        x = torch.randn(rows, n)
        x[0, 1::3], x[1, n // 2], x[2] = float("-inf"), float("nan"), float("inf")
        for d, name in ((1, "rows"), (0, "columns")):
            kept, gone = (rows, n) if d else (n, rows)
            i, j = at("i", kept), at("j", gone)
            wanted = {"max": x.amax(d), "min": x.amin(d), "sum": x.sum(d), "argmax": x.argmax(d), "argmin": x.argmin(d)}
            text = "x = load in0[place]\n" + "".join(
                f"r_{op} : {'i64' if w.dtype == i64 else 'f32'} = reduce {op} x\nstore {op}[i] = r_{op}\n"
                for op, w in wanted.items())
            cases[f"_{name}_{rows}x{n}"] = make([axis("i", kept), axis("j", gone, True)], {"in0": x}, wanted, text, 1e-5,
                                                place=i * n + j if d else j * n + i, i=i)
    return cases


@case
def sums_of_many_columns_in_many_batches():
    """More batches than work items are wanted, and more columns than the accumulators of a tile."""
    x = torch.randn(70, 3, 1030)
    place = at("i", 70) * 3090 + at("k", 3) * 1030 + at("j", 1030)
    return make([axis("i", 70), axis("j", 1030), axis("k", 3, True)], {"in0": x}, {"o": x.sum(1)}, """
        x = load in0[place]
        s = reduce sum x
        store o[ij] = s""", 1e-5, place=place, ij=at("i", 70) * 1030 + at("j", 1030))


@case
def long_sums():
    """Sums of many equal-sized terms, where a plain float32 running sum would drift."""
    cases = {}
    for name, rows, n in (("row", 1, 3_000_000), ("column", 20_000, 40)):
        x, d = torch.rand(rows, n) + 1, int(name == "row")
        kept, gone = (rows, n) if d else (n, rows)
        i, j = at("i", kept), at("j", gone)
        cases[f"_{name}"] = make([axis("i", kept), axis("j", gone, True)], {"in0": x}, {"o": x.double().sum(d).float()}, """
            x = load in0[place]
            s = reduce sum x
            store o[i] = s""", 2e-7, place=i * n + j if d else j * n + i, i=i)
    return cases


@case
def other_reductions():
    x, y = torch.rand(5, 130) + 0.5, torch.randint(-9, 9, (5, 130))
    z, i, j = y > 7, at("i", 5), at("j", 130)
    first = torch.stack([(row == row.min()).nonzero()[0, 0] for row in y])  # torch may give another of several equal places
    kinds = {f32: "f32", f64: "f64", i64: "i64", b8: "b8", f16: "f16"}
    cases = {}
    for name, op, source, want in (
            ("prod", "prod", x, x.prod(1)), ("sum_i64", "sum", y, y.sum(1)), ("any", "any", z, z.any(1)),
            ("all", "all", ~z, (~z).all(1)), ("max_i64", "max", y, y.amax(1)), ("argmin_i64", "argmin", y, first),
            ("sum_f64", "sum", x.double(), x.double().sum(1)), ("max_f16", "max", x.half(), x.half().amax(1))):
        cases[f"_{name}"] = make([axis("i", 5), axis("j", 130, True)], {"in0": source}, {"o": want}, f"""
            x : {kinds[source.dtype]} = load in0[ij]
            r : {kinds[want.dtype]} = reduce {op} x
            store o[i] = r""", 1e-5, ij=i * 130 + j, i=i)
    return cases


@case
def empty():
    i, cases = at("i", 4), {}
    for op, want in (("sum", 0.0), ("prod", 1.0), ("max", float("-inf"))):
        cases[f"_{op}"] = make([axis("i", 4), axis("j", 0, True)], {"in0": torch.empty(0)}, {"o": torch.full((4,), want)}, f"""
            x = load in0[place]
            r = reduce {op} x
            store o[i] = r""", place=i + sym("j") * 4, i=i)
    cases["_parallel"] = make([axis("i", 0)], {"in0": torch.empty(0)}, {"o": torch.full((3,), 5.0)}, """
        x = load in0[i]
        store o[i] = x""", i=sym("i"))
    return cases


@case
def scalars():
    """A kernel without axes, and a full reduction with work after it."""
    a, x = torch.tensor(3.0), torch.randn(1000)
    none = make([], {"in0": a}, {"o": a.sqrt().reshape(1)}, """
        x = load in0[first]
        y = sqrt x
        store o[first] = y""", first=0)
    norm = make([axis("i", 1000, True)], {"in0": x}, {"o": x / x.norm(), "norm": x.norm().reshape(1)}, """
        x = load in0[i]
        q = mul x x
        s = reduce sum q
        r = sqrt s
        y = div x r
        store norm[first] = r
        store o[i] = y""", 1e-6, i=at("i", 1000), first=0)
    return {"_none": none, "_norm": norm}


@case
def column_passes():
    """Several passes over columns, with values by column between them."""
    cases = {}
    for rows, n in ((50, 100), (3, 16), (700, 33), (300, 1100)):
        x, w = torch.randn(rows, n), torch.rand(n) + 0.5
        i, j, z = at("i", n), at("j", rows), x * w
        cases[f"_{rows}x{n}"] = make([axis("i", n), axis("j", rows, True)], {"in0": x, "w": w},
                                     {"o": z.softmax(0), "inverse": 1 / (z - z.amax(0)).exp().sum(0)}, """
            x = load in0[place]
            w1 = load w[i]
            t = mul x w1
            m = reduce max t
            d = sub t m
            e = exp d
            s = reduce sum e
            one = const 1.0
            r = div one s
            y = mul e r
            store o[place] = y
            store inverse[i] = r""", 3e-6, place=j * n + i, i=i)
    return cases


@case
def cross_entropy():
    z, target = torch.randn(64, 10), torch.randint(0, 10, (64,))
    i, j = at("i", 64), at("j", 10)
    loss, grad = F.cross_entropy(z, target, reduction="none"), z.softmax(1) - F.one_hot(target, 10)
    return make([axis("i", 64), axis("j", 10, True)], {"z": z, "target": target}, {"loss": loss, "grad": grad}, """
        x = load z[ij]
        k : i64 = load target[i]
        m = reduce max x
        d = sub x m
        e = exp d
        s = reduce sum e
        ls = log s
        zt = load z[ik]
        u = sub zt m
        l = sub ls u
        store loss[i] = l
        jj : i64 = index j
        hit : b8 = eq jj k
        hot : f32 = cast hit
        p = div e s
        g = sub p hot
        store grad[ij] = g""", 2e-6, ij=i * 10 + j, i=i, j=j, ik=i * 10 + sym("k"))


@case
def row_in_memory():
    """A row that the loops and what is computed before them read."""
    cases = {}
    for n in (64, 77):
        x, w = torch.randn(20, n), torch.randn(n)
        i, j = at("i", 20), at("j", n)
        cases[f"_{n}"] = make([axis("i", 20), axis("j", n)], {"x": x, "w": w}, {"out": x * torch.exp(w) + w}, """
            v = load x[ij]
            g = load w[j]
            e = exp g
            t = mul v e
            s = add t g
            store out[ij] = s""", 1e-6, ij=i * n + j, j=j)
    return cases


@case
def rows_computed_once():
    """What varies along the lanes only, and costs much: values, conditions, places to read from."""
    cases = {}
    for n in (64, 77):
        x, w = torch.randn(20, 50), torch.randn(n)
        i, j = at("i", 20), at("j", n)
        places = (torch.arange(n, dtype=f32) * 0.6).to(i64)
        want = torch.where(w < 0, x[:, places] * torch.exp(w), 0.5)
        cases[f"_{n}"] = make([axis("i", 20), axis("j", n)], {"x": x, "w": w}, {"out": want}, """
            jj : i64 = index j
            f = cast jj
            third = const 0.6000000238418579
            scaled = mul f third
            p : i64 = cast scaled
            limit : i64 = const 50
            ok : b8 = lt p limit
            check ok 3
            v = load x[ip]
            g = load w[j]
            e = exp g
            zero = const 0.0
            low : b8 = lt g zero
            t = mul v e
            half = const 0.5
            y = where low t half
            store out[ij] = y""", 1e-6, ip=i * 50 + sym("p"), j=j, ij=i * n + j)
    return cases


@case
def names_that_c_has_taken():
    x = torch.randn(20)
    return make([axis("int", 20)], {"float": x}, {"out": -torch.exp(-x)}, """
        double = load float[i]
        out = neg double
        exp_f32x16 = exp out
        k = neg exp_f32x16
        store out[i] = k""", 1e-6, i=at("int", 20))


def compile_c(source, folder, name):
    path, built = folder / f"{name}.c", folder / f"{name}.so"
    path.write_text(source)
    compile_shared(path, built, toolchain())
    return ctypes.CDLL(str(built))


def call(library, symbol, tensors, threads=1):
    function = getattr(library, symbol)
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_long), ctypes.c_long
    return function((ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)), threads)


@pytest.fixture(scope="module", params=[*ISAS, ISAS[0] + " far", ISAS[0] + " units"])
def library(request, tmp_path_factory):
    """Every case's kernel; "far": as if the buffers were so large that memory is fetched ahead and stored past the caches, and
    threads share the columns of a tile; "units": compiled in three of them."""
    isa, _, how = request.param.partition(" ")
    far, units = how == "far", how == "units"
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(printer, "WORK_PER_THREAD", 1e-9)  # threads for the smallest kernel
    if far:
        monkeypatch.setattr(nest, "FETCH_FROM", 0)
        monkeypatch.setattr(nest, "STREAM_FROM", 0)
        monkeypatch.setattr(columns, "SHARED_WORK", 0)
    segments = [("run_" + n, [(c.kernel, tuple(range(len(c.kernel.buffers))))]) for n, c in CASES.items()]
    source = printer.print_source("cases", segments, (), isa, cores=3 if units else 1)
    monkeypatch.undo()
    assert ("#define UNITS 3" in source) == units
    assert ("sfence" in source) == (far and isa in ("avx512", "avx2"))
    assert not far or "* (tid + 1) / threads * " in source
    return compile_c(source, tmp_path_factory.mktemp("c"), "cases")


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


def test_kernels_of_the_first_thread_follow_each_other_without_a_barrier():
    small = CASES["broadcast"].kernel
    n = 1 << 22
    large = Kernel("large", (axis("i", n),), (Buffer("x", 0, f32, n), Buffer("o", 1, f32, n)),
                   (Load("v", "x", at("i", n), f32), Apply("y", "exp", ("v",), f32), Store("o", at("i", n), "y")))
    calls = [(small, (0, 1, 2, 3)), (small, (3, 1, 2, 4)), (large, (5, 6)), (small, (0, 1, 2, 3))]
    source = printer.print_source("mixed", [("run", calls)], ())
    lines = [line.split("(")[0].strip() for line in source[source.index("long run("):].splitlines()]
    assert [x for x in lines if x in ("if", "large", "#pragma omp barrier")] == [
        "if", "if", "if", "#pragma omp barrier", "large", "#pragma omp barrier", "if"]  # the first asks for fewer threads


def test_one_function_serves_equal_kernels():
    k = CASES["broadcast"].kernel
    source = printer.print_source("twice", [("a", [(k, (0, 1, 2, 3)), (k, (3, 1, 2, 4))]), ("b", [(k, (4, 1, 2, 5))])], ())
    assert source.count("static void broadcast(") == 1 and source.count("broadcast(slots[") == 3


def test_units_are_compiled_side_by_side_and_show_their_segments_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(printer, "UNIT_TEXT", 1)
    chosen = ["broadcast", "softmax_6x1024", "rows_computed_once_77"]
    segments = [(f"run_{n}", [(CASES[n].kernel, tuple(range(len(CASES[n].kernel.buffers))))]) for n in chosen]
    source = printer.print_source("parts", segments, (), cores=2)
    assert source.count("#if !defined UNIT || UNIT == ") == 2 and "static void broadcast(" not in source
    built = compile_c(source, tmp_path, "parts")
    assert all(hasattr(built, symbol) for symbol, _ in segments) and not hasattr(built, "broadcast")
    monkeypatch.undo()
    assert "UNIT" not in printer.print_source("parts", segments, (), cores=2)  # so short a text is one


def test_what_a_compiler_says_of_a_unit_is_told(tmp_path):
    with pytest.raises(BuildError, match="-DUNIT=1 .*\n.*failed with status 1:\n.*wrong"):
        compile_c("#define UNITS 2\n#if UNIT == 1\nwrong\n#endif\n", tmp_path, "wrong")


def test_a_kernel_may_be_called_like_a_c_function(tmp_path):
    """float64 erf calls the library's own."""
    x = torch.randn(20, dtype=f64)
    case = make([axis("i", 20)], {"x": x}, {"out": torch.erf(x)}, """
        v : f64 = load x[i]
        y : f64 = erf v
        store out[i] = y""", i=at("i", 20))
    kernels = [replace(case.kernel, name=n) for n in ("erf", "double", "run_")]
    source = printer.print_source("names", [("run", [(k, (0, 1)) for k in kernels])], ())
    out = torch.zeros(20, dtype=f64)
    assert call(compile_c(source, tmp_path, "names"), "run", [x, out]) == 0
    torch.testing.assert_close(out, torch.erf(x))


def test_the_text_is_the_same_each_time_and_names_the_users_line():
    k = CASES["softmax_6x1024"].kernel
    k = replace(k, body=tuple(replace(s, origin=Origin("src/model.py", 13)) if isinstance(s, Apply) else s for s in k.body))
    texts = {printer.print_source("s", [("run", [(k, (0, 1))])], (), "avx2") for _ in range(2)}
    assert len(texts) == 1
    text = texts.pop()
    assert "// model.py:13" in text and "const f32x8 e = exp_f32x8(d);" in text and "#include" not in text


def test_costly_rows_are_computed_before_the_loops():
    text = printer.print_source("s", [("run", [(CASES["rows_computed_once_77"].kernel, (0, 1, 2))])], (), "avx512")
    lines = [line.strip() for line in text[text.index("static void rows_computed_once"):].splitlines()]
    loop = next(k for k, line in enumerate(lines) if line.startswith("for (long i ="))
    assert {k > loop for k, line in enumerate(lines) if "exp_f32x16(" in line} == {False}
    assert sum(line.startswith("const f32x16 e = load_f32x16(e_row") for line in lines[loop:]) == 2  # with the last lanes


def test_a_row_in_memory_is_not_copied_before_the_loops():
    text = printer.print_source("s", [("run", [(CASES["row_in_memory_77"].kernel, (0, 1, 2))])], (), "avx512")
    assert "e_row" in text and "g_row" not in text and text.count("const f32x16 g = load_f32x16(w + j);") == 2


def test_tiles_are_transposed_by_one_function():
    text = printer.print_source("s", [("run", [(CASES["transpose_48x64"].kernel, (0, 1, 2))])], (), "avx512")
    assert "__attribute__((noinline)) void transpose_f32x16(" in text


def test_a_symbolic_size_is_an_argument():
    n = sym("n", 2)
    k = Kernel("k", (Axis(Sym("i"), n),), (Buffer("x", 0, f32, n),), (Load("v", "x", sym("i"), f32), Store("x", sym("i"), "v")))
    text = printer.print_source("s", [("run", [(k, (0,))])], (), symbols={"n": 1})
    assert "(float *restrict x, long n, long tid, " in text
    assert "const long size_n = (long)slots[1];" in text and "(slots[0], size_n, tid, " in text


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
