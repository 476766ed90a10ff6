"""The loop IR: one kernel as a flat list of statements over loop axes.

A kernel's body is in SSA form. Each statement varies over the axes that its operands' indices mention; a `Reduce`
combines its operand over all of the kernel's reduction axes and varies over the parallel ones only; a `Scan` keeps the
partial results, and varies over the reduction axes too. How loops are
ordered, tiled, split into passes over the reduction axes, vectorised and spread over threads is for the printers
(c.py, triton.py): the same kernel serves both.

Example, the row softmax of a [B, N] tensor:

    axes   i0 < B parallel, i1 < N reduce
    x      = load  in0[i0*N + i1]
    m      = reduce max x
    d      = sub x m
    e      = exp d
    s      = reduce sum e
    y      = div e s
    store out0[i0*N + i1] = y
"""
from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Sequence, Union

import torch

from ..compiler.dims import Dim, Expr, Sym
from ..compiler.ir import Origin


@dataclass(frozen=True)
class Axis:
    """A loop axis: its variable (0 <= symbol < size) and whether it is reduced over."""
    symbol: Sym
    size: Dim
    reduce: bool = False


@dataclass(frozen=True)
class Buffer:
    """A tensor in memory that the kernel reads or writes: `slot` is its place in the program's slot table."""
    name: str
    slot: int
    dtype: torch.dtype
    numel: Dim


# Statements. `name` is the SSA name, unique in the kernel; `dtype` the result's.

@dataclass(frozen=True)
class Load:
    """buffer[index]. `index` is in elements over axis symbols, and may hold symbols named after integer statements
    (a gathered index). Where the bool statement `guard` is false, `other` is the value and nothing is read."""
    name: str
    buffer: str
    index: Expr
    dtype: torch.dtype
    guard: str = ""
    other: float | int | bool = 0
    origin: Origin = Origin()


@dataclass(frozen=True)
class Const:
    name: str
    value: float | int | bool
    dtype: torch.dtype


@dataclass(frozen=True)
class Index:
    """The value of an index expression, as int64."""
    name: str
    index: Expr
    dtype: torch.dtype = torch.int64


@dataclass(frozen=True)
class Apply:
    """A scalar op (compiler/scalar.py) on statements by name; `attr` names libm's function."""
    name: str
    op: str
    args: tuple[str, ...]
    dtype: torch.dtype
    attr: str = ""
    origin: Origin = Origin()


@dataclass(frozen=True)
class Reduce:
    """Combine `arg` over all reduction axes: op is sum, prod, max, min, any, all, argmax or argmin (the last two give the
    flat index over the reduction axes, as int64). `dtype` is also the accumulator's."""
    name: str
    op: str
    arg: str
    dtype: torch.dtype
    origin: Origin = Origin()

    @property
    def accumulator(self) -> torch.dtype:
        return self.dtype


@dataclass(frozen=True)
class Scan:
    """Combine `arg` over the points of the reduction axes up to this one, in row-major order: op is sum, prod, max, min, argmax
    or argmin; of equal extremes the last is taken. Sums and products are held in the dtype `accumulator`."""
    name: str
    op: str
    arg: str
    dtype: torch.dtype
    accumulator: torch.dtype
    origin: Origin = Origin()


@dataclass(frozen=True)
class Store:
    """buffer[index] = value."""
    buffer: str
    index: Expr
    value: str
    origin: Origin = Origin()


@dataclass(frozen=True)
class Check:
    """Report error `code` (an index into the program's messages) wherever the bool statement `ok` is false."""
    ok: str
    code: int


Statement = Union[Load, Const, Index, Apply, Reduce, Scan, Store, Check]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One fused loop nest. `values` names the graph's values it computes, for people.

    Sizes and indices may hold the graph's size symbols, which are numbers that every call gives.
    """
    name: str
    axes: tuple[Axis, ...]
    buffers: tuple[Buffer, ...]
    body: tuple[Statement, ...]
    values: tuple[str, ...] = ()

    @property
    def parallel(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if not a.reduce)

    @property
    def reduced(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.reduce)


@dataclass(frozen=True, eq=False)
class MatMul:
    """out[b, i, j] = epilogue(sum_k a[b, i, k] * c[b, k, j]), rounded to `dtype`.

    `a`, `c`: buffers; `*_strides`: elements per step of (batch, row, column); batch stride 0 broadcasts.
    `epilogue`: a Kernel body over the axes (i0: batch, i1: row, i2: column), in which the statement named "acc" is the
    product; it loads what else it reads and ends in Stores. `batch`, `m`, `n`, `k` are the sizes.
    """
    name: str
    batch: Dim
    m: Dim
    n: Dim
    k: Dim
    a: Buffer
    c: Buffer
    a_strides: tuple[Dim, Dim, Dim]
    c_strides: tuple[Dim, Dim, Dim]
    dtype: torch.dtype
    axes: tuple[Axis, ...]
    buffers: tuple[Buffer, ...]  # all, a and c among them
    epilogue: tuple[Statement, ...]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """What a kernel inside a Loop is given as a buffer, in step `t`, the k-th.

    how     "whole"   `buffer`
            "each"    its t-th part of `numel` elements
            "before"  the part of the step `t + Loop.before`, or `other` where there is none
            "taken"   what the step before handed on; zeros in the first
            "handed"  what this one hands on: one of the two parts of `buffer` in turn, in the last step `other`
    """
    how: str
    buffer: str
    numel: Dim = 0
    other: str = ""


@dataclass(frozen=True, eq=False)
class Loop:
    """`steps` times the same kernels, one after another, on other parts of memory. `falls`: t runs from the last to 0."""
    name: str
    steps: Dim
    falls: bool
    before: int
    calls: tuple[tuple[Union[Kernel, MatMul], tuple[Part, ...]], ...]
    buffers: tuple[Buffer, ...]
    values: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()

    def handed(self) -> tuple[Part, ...]:
        """What one step hands to the next."""
        return tuple(dict.fromkeys(p for _, parts in self.calls for p in parts if p.how == "taken"))


AnyKernel = Union[Kernel, MatMul, Loop]


def body_of(kernel: AnyKernel) -> tuple[Statement, ...]:
    """The statements of a loop nest, or those of a matrix product's epilogue; a loop of kernels has none of its own."""
    return kernel.epilogue if isinstance(kernel, MatMul) else () if isinstance(kernel, Loop) else kernel.body


def symbols_of(statement: Statement) -> frozenset[str]:
    """Names of axis symbols, index statements and size symbols in a statement's index expression."""
    index = getattr(statement, "index", None)
    return frozenset(s.name for s in index.symbols()) if index is not None else frozenset()


def operands_of(statement: Statement) -> tuple[str, ...]:
    """Names of the statements that this one reads."""
    if isinstance(statement, Apply):
        return statement.args
    if isinstance(statement, (Reduce, Scan)):
        return (statement.arg,)
    if isinstance(statement, Store):
        return (statement.value,)
    if isinstance(statement, Check):
        return (statement.ok,)
    if isinstance(statement, Load) and statement.guard:
        return (statement.guard,)
    return ()


def sizes_of(kernel: AnyKernel) -> tuple[str, ...]:
    """Names of the size symbols that a kernel's loops and indices depend on."""
    if isinstance(kernel, Loop):
        parts = [kernel.steps, *(p.numel for _, given in kernel.calls for p in given)]
        inside = [n for inner, _ in kernel.calls for n in sizes_of(inner)]
        return tuple(sorted({*inside, *(s.name for d in parts if isinstance(d, Expr) for s in d.symbols())}))
    dims = [a.size for a in kernel.axes]
    if isinstance(kernel, MatMul):
        dims += [kernel.batch, kernel.m, kernel.n, kernel.k, *kernel.a_strides, *kernel.c_strides]
    found = {s.name for d in dims if isinstance(d, Expr) for s in d.symbols()}.union(*map(symbols_of, body_of(kernel)))
    own = {a.symbol.name for a in kernel.axes} | {s.name for s in body_of(kernel) if hasattr(s, "name")}
    return tuple(sorted(found - own))


def needed(body: Sequence[Statement]) -> tuple[Statement, ...]:
    """The statements that stores and checks depend on."""
    names: set[str] = set()
    kept = []
    for statement in reversed(body):
        if isinstance(statement, (Store, Check)) or statement.name in names:
            kept.append(statement)
            names.update(operands_of(statement))
            names.update(symbols_of(statement))
    return tuple(reversed(kept))


def show(kernel: AnyKernel) -> str:
    """A kernel as text for people: its axes, then one statement a line."""
    if isinstance(kernel, Loop):
        inner = "\n".join(show(k) for k in dict.fromkeys(k for k, _ in kernel.calls))
        head = f"{kernel.name}({', '.join(b.name for b in kernel.buffers)}): {kernel.steps} times"
        return f"{head}\n{textwrap.indent(inner, '    ')}"
    axes = ", ".join(f"{a.symbol} < {a.size}{' reduce' if a.reduce else ''}" for a in kernel.axes)
    lines = [f"{kernel.name}({', '.join(b.name for b in kernel.buffers)})", f"    axes {axes}"]
    if isinstance(kernel, MatMul):
        a, c = (f"{b.name}{list(strides)}" for b, strides in ((kernel.a, kernel.a_strides), (kernel.c, kernel.c_strides)))
        lines.append(f"    acc = {a} @ {c} over {kernel.k}")
    return "\n".join([*lines, *(f"    {_text(s)}" for s in body_of(kernel))])


def _text(s: Statement) -> str:
    if isinstance(s, Store):
        return f"{s.buffer}[{s.index}] = {s.value}"
    if isinstance(s, Check):
        return f"check {s.ok} (message {s.code})"
    if isinstance(s, Load):
        return f"{s.name} = {s.buffer}[{s.index}]" + (f" if {s.guard} else {s.other}" if s.guard else "")
    if isinstance(s, Const):
        return f"{s.name} = {s.value}"
    if isinstance(s, Index):
        return f"{s.name} = {s.index}"
    if isinstance(s, (Reduce, Scan)):
        return f"{s.name} = {type(s).__name__.lower()} {s.op} {s.arg}"
    dtype = f" {str(s.dtype).removeprefix('torch.')}" if s.op == "cast" else ""
    return f"{s.name} = {s.attr or s.op} {' '.join(s.args)}{dtype}"
