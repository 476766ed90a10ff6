"""Lowering: a group of fused values as one kernel of the loop IR.

Emission is driven by demand: a value at some coordinates becomes a statement, once. A value that another group stored is
a load; a member of the group is computed from its operands at the coordinates that its op's record gives.
"""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Callable, NamedTuple

import torch

from ..compiler.dims import Dim, Expr, Sym, dot, expr, expr_of, known, product
from ..compiler.ir import Value
from ..compiler.op import operand_dtypes
from ..compiler.scalar import SCALAR, ScalarOp, Scalars, arithmetic_dtype, rounded
from ..runtime.program import Message
from . import loops
from .axes import AXIS_NAMES, normalize
from .comparisons import coarsened
from .coordinates import Coordinates, Variable, broadcast_to, conditions, identity, layout, linear, substitute, trace, variable
from .fuse import Group
from .prepare import matrix_strides

#: What a piece of a cat is written into, and where: the value whose memory it is, and the coordinates there.
Place = tuple[Value, Coordinates]


class Memory:
    """What code generation knows of the program while it lowers: the slot of each value that has one, the messages, and the
    names of the graph's symbols, which statements must not have."""

    def __init__(self, symbols: frozenset[str]):
        self.symbols = symbols
        self.slots: dict[Value, int] = {}
        self.parts: dict[Value, Value] = {}  # a piece -> the cat that it is written into
        self.messages: list[Message] = []

    def message(self, error: type[Exception], text: str) -> int:
        """The code of a failed check."""
        found = Message(error, text)
        if found not in self.messages:
            self.messages.append(found)
        return self.messages.index(found)

    def place(self, v: Value, coordinates: Coordinates) -> Place:
        """Where a stored value's element lies."""
        if v not in self.parts:
            return v, coordinates
        dim, offset = v.attrs["dim"], v.attrs["offset"]
        return self.parts[v], tuple(c + offset if d == dim else c for d, c in enumerate(coordinates))


class Operand(NamedTuple):
    """A statement as the operand of another."""
    name: str
    dtype: torch.dtype


def lower(group: Group, evaluated: list[Value], stored: list[Value], memory: Memory) -> loops.AnyKernel:
    """The kernel of a group: `evaluated` are the members that it computes, in program order, `stored` those it writes."""
    emitter = _Emitter(group, memory, set(evaluated))
    for v in evaluated:
        emitter.emit(v, group.coordinates[v])
    for v in stored:
        emitter.store(v)
    body = loops.needed(emitter.body)
    name, values = _kernel_name(evaluated), tuple(v.name for v in evaluated)
    if group.product is not None:
        return _product_kernel(name, group, emitter, body, values)
    axes, body = normalize(group.axes, group.reduced, body)
    body = coarsened(body)
    return loops.Kernel(name, axes, _used(emitter.buffers.values(), body), body, values)


class _Emitter(Scalars):
    """Statements on demand; also the `s` that op records say their scalar meaning with."""

    def __init__(self, group: Group, memory: Memory, evaluated: set[Value]):
        self.group, self.memory, self.evaluated = group, memory, evaluated
        self.body: list[loops.Statement] = []
        self.buffers: dict[str, loops.Buffer] = {}
        self.names = {a.name for a in group.axes} | AXIS_NAMES | {"acc"} | memory.symbols
        self.known: dict[tuple, Operand] = {}  # equal statements, and values at coordinates, are there once
        self.value: Value | None = None  # whose meaning is being emitted
        self.guard: Operand | None = None  # the condition under which loads may happen
        self.loose: dict[Sym, Expr] = {}  # an axis with the range that a guard leaves it -> the axis
        self.pinned: dict[Sym, Expr] = {}  # an axis that the guard leaves one value -> that
        self.last: tuple = ()  # the key of the last statement
        self.unnamed = ""  # its name, while it may still take a value's

    # Statements

    def define(self, key: tuple, hint: str, dtype: torch.dtype, make: Callable[[str], loops.Statement]) -> Operand:
        """The operand of a statement that is made unless an equal one is there."""
        if key not in self.known:
            name = self.fresh(hint)
            self.body.append(make(name))
            self.known[key] = Operand(name, dtype)
            self.last, self.unnamed = key, ""
        elif self.known[key].name == self.unnamed:
            self.unnamed = ""  # somebody else has its name
        return self.known[key]

    def fresh(self, hint: str) -> str:
        stem = name = re.sub(r"\W", "_", hint)
        count = 0
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        self.names.add(name)
        return name

    def buffer(self, v: Value, prefix: str) -> loops.Buffer:
        name = re.sub(r"\W", "_", f"{prefix}_{v.name}")
        return self.buffers.setdefault(name, loops.Buffer(name, self.memory.slots[v], v.dtype, v.type.numel))

    def const(self, value, dtype: torch.dtype) -> Operand:
        dtype = arithmetic_dtype(dtype)
        key = ("const", repr(value), dtype)
        return self.define(key, "c", dtype, lambda name: loops.Const(name, value, dtype))

    def index(self, expression) -> Operand:
        e = expr(expression).substitute(self.loose)
        if e.constant is not None:
            return self.const(e.constant, torch.int64)
        return self.define(("index", e), "at", torch.int64, lambda name: loops.Index(name, e))

    def apply(self, op: ScalarOp, args: tuple, dtype: torch.dtype, attr: str = "") -> Operand:
        names, origin = tuple(a.name for a in args), self.value.origin
        count = len(self.body)
        result = self.define((op.name, names, dtype, attr), f"{self.value.name}_{op.name}", dtype,
                             lambda name: loops.Apply(name, op.name, names, dtype, attr, origin))
        if len(self.body) > count:
            self.unnamed = result.name
        return result

    def convert(self, x: Operand, dtype: torch.dtype) -> Operand:
        """To any dtype; `cast`, which op records use, widens the ones that no arithmetic is done in."""
        return x if x.dtype == dtype else self.apply(SCALAR["cast"], (x,), dtype)

    def check(self, ok: Operand, message: str) -> None:
        """A check that torch makes on the CPU alone."""
        if self.value.type.device.type == "cpu":
            self.require(ok, RuntimeError, message)

    def require(self, ok: Operand, error: type[Exception], text: str) -> None:
        if self.guard:
            ok = self.or_(self.not_(self.guard), ok)
        code = self.memory.message(error, text)
        if ("check", ok, code) not in self.known:
            self.known["check", ok, code] = ok
            self.body.append(loops.Check(ok.name, code))
            self.unnamed = ""

    def store(self, v: Value) -> None:
        result = self.emit(v, self.group.coordinates[v])
        base, coordinates = self.memory.place(v, self.group.coordinates[v])
        buffer = self.buffer(base, "out")
        self.body.append(loops.Store(buffer.name, dot(coordinates, layout(base)), result.name, v.origin))

    # Values

    def emit(self, v: Value, coordinates: Coordinates) -> Operand:
        """The element of a value at these coordinates, in the value's dtype."""
        if v.op.kind in ("reduce", "scan", "contract") and self.guard and v in self.evaluated:
            return self.unguarded(v, coordinates)
        key = (v, coordinates, self.guard)
        if key not in self.known:
            outer, self.value = self.value, v
            self.known[key] = self.load(v, coordinates) if self.in_memory(v) else self.compute(v, coordinates)
            self.value = outer
        return self.known[key]

    def unguarded(self, v: Value, coordinates: Coordinates) -> Operand:
        """What the loop computes for all of its points, whatever the condition."""
        guard, self.guard = self.guard, None
        own, wanted = self.group.coordinates.get(v, ()), substitute(coordinates, self.loose)
        found = self.emit(v, own if substitute(own, self.pinned) == wanted else wanted)
        self.guard = guard
        return found

    def in_memory(self, v: Value) -> bool:
        """Whether a value is loaded. The slot of a view is for calls: it has the strides of what it shows."""
        return v.op.kind == "input" or v.op.kind != "view" and v in self.memory.slots and v not in self.evaluated

    def load(self, v: Value, coordinates: Coordinates, other=0) -> Operand:
        buffer, index = self.buffer(v, "in"), dot(coordinates, layout(v)).substitute(self.loose)
        guard = self.guard.name if self.guard else ""
        return self.define(("load", v, index, guard, repr(other)), v.name, v.dtype,
                           lambda name: loops.Load(name, buffer.name, index, v.dtype, guard, other, v.origin))

    def compute(self, v: Value, coordinates: Coordinates) -> Operand:
        result = self.convert(getattr(self, v.op.kind)(v, coordinates), v.dtype)
        if result.name == self.unnamed:
            result = self.rename(result, v.name)
        return result

    def rename(self, result: Operand, hint: str) -> Operand:
        """The value's own name for the statement just made: nothing has read it yet."""
        self.names.discard(result.name)
        renamed = Operand(self.fresh(hint), result.dtype)
        self.body[-1] = replace(self.body[-1], name=renamed.name)
        self.known[self.last] = renamed
        self.unnamed = ""
        return renamed

    def pointwise(self, v: Value, coordinates: Coordinates) -> Operand:
        operands = []
        for i, dtype in zip(v.inputs, operand_dtypes(v)):
            if isinstance(i, Value):
                x = self.convert(self.emit(i, broadcast_to(i.shape, coordinates)), dtype)
                operands.append(self.cast(x, dtype))
            else:
                operands.append(self.number(i, dtype))
        return self.as_operand(v.op.scalar(self, *operands, **v.attrs), v.dtype)

    def number(self, value, dtype: torch.dtype) -> Operand:
        """A Python number as an operand that is rounded to `dtype` before it is computed with."""
        exact = dtype.is_floating_point and arithmetic_dtype(dtype) == dtype
        return self.const(value if exact else rounded(value, dtype), dtype)

    def as_operand(self, result, dtype: torch.dtype) -> Operand:
        if isinstance(result, Expr):
            return self.index(result)
        return result if isinstance(result, Operand) else self.const(result, dtype)

    def source(self, v: Value, coordinates: Coordinates) -> Operand:
        return self.as_operand(v.op.scalar(self, coordinates, **v.attrs), v.dtype)

    def part(self, v: Value, coordinates: Coordinates) -> Operand:
        return self.emit(v.inputs[0], coordinates)

    def contract(self, v: Value, coordinates: Coordinates) -> Operand:
        return Operand("acc", v.dtype)

    def view(self, v: Value, coordinates: Coordinates) -> Operand:
        x, at = v.inputs[0], tuple(expr(c) for c in v.op.index(v, coordinates))
        rules = conditions(v, coordinates)
        if not rules:
            return self.emit(x, at)
        values = self.tightened(rules)
        inside, fill, at = self.inside(rules), v.attrs["value"], substitute(at, values)
        outer, self.guard = self.guard, inside if self.guard is None else self.and_(self.guard, inside)
        free, self.pinned = self.pinned, self.pinned | {s: e for s, e in values.items() if e.constant is not None}
        try:
            if self.in_memory(x) and outer is None:
                return self.load(x, at, fill)
            found = self.emit(x, at)
        finally:
            self.guard, self.pinned = outer, free
        return self.where(inside, self.cast(found, v.dtype), fill)

    def tightened(self, rules: list[tuple[Expr, Dim]]) -> dict[Sym, Expr]:
        """The axes with the ranges that conditions 0 <= axis + constant < size leave them: divisions by less come out then."""
        values: dict[Sym, Expr] = {}
        for e, n in rules:
            coefficients, constant = linear(e) or ({}, 0)
            if list(coefficients.values()) == [1] and all(isinstance(k, int) for k in (constant, n)):
                s, = coefficients
                lo, hi = max(s.lo, -constant), min(s.hi, n - 1 - constant) if isinstance(s.hi, int) else n - 1 - constant
                if lo <= hi and (lo, hi) != (s.lo, s.hi):
                    values[s] = expr(lo) if lo == hi else expr_of(Variable(s.name, lo, hi))
                    self.loose.update((tight, self.loose.get(s, expr_of(s))) for tight in values[s].symbols())
        return values

    def inside(self, rules: list[tuple[Expr, Dim]]) -> Operand:
        """Whether 0 <= e < size for all."""
        tests = []
        for e, n in rules:
            at = self.index(e)
            if not known(e, 0):
                tests.append(self.le(0, at))
            if not known(n - 1, e):
                tests.append(self.lt(at, n) if isinstance(n, int) else self.lt(self.index(e - n), 0))
        found = tests[0]
        for t in tests[1:]:
            found = self.and_(found, t)
        return found

    def gather(self, v: Value, coordinates: Coordinates) -> Operand:
        def read(k: int, at, bound: Dim, wrap: bool = False, error=(IndexError, "index out of range")) -> Expr:
            i = self.cast(self.emit(v.inputs[k], tuple(map(expr, at))), torch.int64)
            end = bound if isinstance(bound, int) else self.index(bound)
            if wrap:
                i = self.where(self.lt(i, 0), self.add(i, end), i)
            ok = self.and_(self.le(0, i), self.lt(i, end))
            self.require(ok, *error)
            return expr_of(Variable(self.where(ok, i, 0).name, 0, bound - 1))  # what fails is not read
        return self.emit(v.inputs[0], tuple(map(expr, v.op.index(v, coordinates, read))))

    def reduce(self, v: Value, coordinates: Coordinates) -> Operand:
        x, dtype = self.combined(v, coordinates)
        return self.define(("reduce", v.op.combine, x.name, dtype), v.name, dtype,
                           lambda name: loops.Reduce(name, v.op.combine, x.name, dtype, v.origin))

    def scan(self, v: Value, coordinates: Coordinates) -> Operand:
        """On a CPU sums of float32 are held in float64, as torch does it; and products, some of which may be larger than any
        result."""
        x, dtype = self.combined(v, coordinates)
        precise = v.op.combine == "prod" or v.op.combine == "sum" and v.dtype == torch.float32
        accumulator = torch.float64 if precise and dtype.is_floating_point and v.type.device.type == "cpu" else dtype
        return self.define(("scan", v.op.combine, x.name, dtype), v.name, dtype,
                           lambda name: loops.Scan(name, v.op.combine, x.name, dtype, accumulator, v.origin))

    def combined(self, v: Value, coordinates: Coordinates) -> tuple[Operand, torch.dtype]:
        """The operand of a reduction or a scan, and the dtype of its result."""
        if coordinates != self.group.coordinates[v]:
            raise AssertionError(f"%{v.name} is needed at {coordinates}, but computed at {self.group.coordinates[v]}")
        x, combine = self.emit(v.inputs[0], self.group.inner[v]), v.op.combine
        if combine in ("sum", "prod"):
            x = self.convert(x, v.dtype)
        if combine in ("any", "all"):
            return self.cast(x, torch.bool), torch.bool
        if combine in ("argmax", "argmin"):
            return self.cast(x, x.dtype), torch.int64
        return self.cast(x, v.dtype), arithmetic_dtype(v.dtype)


def _product_kernel(name: str, group: Group, emitter: _Emitter, body, values) -> loops.MatMul:
    v = group.product
    a, c = (emitter.buffer(trace(i, identity(i.shape)).value, "in") for i in v.inputs)
    a_strides, c_strides = map(matrix_strides, v.inputs)
    batch, (m, n) = product(v.shape[:-2]), v.shape[-2:]
    if _stores_columns(body):  # the transposed product then stores rows
        a, c, m, n = c, a, n, m
        a_strides, c_strides = (c_strides[0], c_strides[2], c_strides[1]), (a_strides[0], a_strides[2], a_strides[1])
        swap = {Variable("i1", 0, n - 1): variable("i2", n), Variable("i2", 0, m - 1): variable("i1", m)}
        body = tuple(replace(s, index=s.index.substitute(swap)) if hasattr(s, "index") else s for s in body)
    buffers = tuple(dict.fromkeys((a, c, *_used(emitter.buffers.values(), body))))
    axes = tuple(loops.Axis(Variable(f"i{d}", 0, extent - 1), extent) for d, extent in enumerate((batch, m, n)))
    k = v.inputs[0].shape[-1]
    return loops.MatMul(name, batch, m, n, k, a, c, a_strides, c_strides, v.dtype, axes, buffers, body, values)


def _stores_columns(body) -> bool:
    """Whether every result of a product lies in memory column by column."""
    parts = [linear(s.index) for s in body if isinstance(s, loops.Store)]
    steps = [{x.name: c for x, c in p[0].items()} if p else {} for p in parts]
    return all(c.get("i1") == 1 and known(c.get("i2", 0), 2) for c in steps)


def _used(buffers, body) -> tuple[loops.Buffer, ...]:
    names = {s.buffer for s in body if isinstance(s, (loops.Load, loops.Store))}
    return tuple(b for b in buffers if b.name in names)


def _kernel_name(values: list[Value]) -> str:
    """The ops of a kernel, first and last ones, as a C identifier."""
    ops = list(dict.fromkeys(v.op.name for v in values if v.op.name not in ("copy", "part")))
    ops = ops if len(ops) <= 4 else [*ops[:2], *ops[-2:]]
    return "_".join(ops) or "copy"
