"""An interpreter of kernels: what the loop IR means, on tensors, for tests and for finding a printer's mistakes.

Every statement is evaluated for all points of the loops at once, as a tensor over the kernel's axes.
"""
from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence

import torch

from ..compiler.dims import Dim, Expr, Sym, expr
from ..compiler.ops.random import philox
from ..runtime.program import Call, Formula, Launch, Ref, arena_layout, nbytes, number
from . import loops
from .generate import Unprinted

Memory = Mapping[str, torch.Tensor]  # each buffer as a flat tensor that starts at its first element


def interpret(built: Unprinted, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """The outputs of a program. Raises the error of a failed check, as the runtime does."""
    program, segments = built.program, dict(built.segments)
    sizes = {s.name: int(inputs[s.position]) if s.dim is None else inputs[s.position].shape[s.dim] for s in program.symbols}
    offsets, total = arena_layout(program.slots, sizes)
    arena = torch.zeros(total, dtype=torch.uint8)
    held: list[Any] = [None] * len(program.slots)
    for n, slot in enumerate(program.slots):
        if slot.place == "input":
            held[n] = inputs[slot.position]
        elif slot.place == "output":
            held[n] = torch.empty_strided(*slot.layout(sizes), dtype=slot.dtype)
        elif slot.place == "constant":
            held[n] = slot.constant
        elif n in offsets:
            piece = arena[offsets[n]:offsets[n] + nbytes(slot, sizes)]
            held[n] = piece.view(slot.dtype).as_strided(*slot.layout(sizes))
    for step in program.steps:
        if isinstance(step, Launch):
            for kernel, slots in segments[step.symbol]:
                code = run_kernel(kernel, [flat(held[s]) for s in slots], sizes)
                if code:
                    raise program.messages[code - 1].error(program.messages[code - 1].text)
        else:
            _call(step, held, sizes)
    return [held[s] for s in program.outputs]


def _call(step: Call, held: list[Any], sizes: Mapping[str, int]) -> None:
    def fill(value):
        if isinstance(value, Ref):
            return held[value.slot]
        if isinstance(value, Formula):
            return number(value, sizes)
        if isinstance(value, dict):
            return {k: fill(v) for k, v in value.items()}
        return type(value)(map(fill, value)) if isinstance(value, (list, tuple)) else value
    results = step.function(*fill(step.args), **fill(step.kwargs))
    for slot, result in zip(step.results, (results,) if len(step.results) == 1 else results):
        if slot >= 0:
            held[slot] = result


def flat(t: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor from its first element on."""
    extent = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride())) if t.numel() else 0
    return t.as_strided((extent,), (1,))


def run_kernel(kernel: loops.AnyKernel, buffers: Sequence[torch.Tensor], sizes: Mapping[str, int] = {}) -> int:
    """Run a kernel on its flat buffers for these values of the size symbols; 0, or 1 + the code of a failed check."""
    memory = {b.name: t for b, t in zip(kernel.buffers, buffers)}
    if isinstance(kernel, loops.Loop):
        return _run_loop(kernel, memory, sizes)
    if isinstance(kernel, loops.Kernel):
        return _Run(kernel.axes, memory, sizes).run(kernel.body)

    def matrix(buffer: loops.Buffer, *layout: Sequence[Dim]) -> torch.Tensor:
        shape, strides = ([expr(n).evaluate(sizes) for n in part] for part in layout)
        return memory[buffer.name].as_strided(shape, strides, memory[buffer.name].storage_offset())
    a = matrix(kernel.a, (kernel.batch, kernel.m, kernel.k), kernel.a_strides)
    c = matrix(kernel.c, (kernel.batch, kernel.k, kernel.n), kernel.c_strides)
    return _Run(kernel.axes, memory, sizes, acc=a @ c).run(kernel.epilogue)


def _run_loop(loop: loops.Loop, memory: Memory, sizes: Mapping[str, int]) -> int:
    steps = expr(loop.steps).evaluate(sizes)

    def given(p: loops.Part, k: int, t: int) -> torch.Tensor:
        numel, whole, other = expr(p.numel).evaluate(sizes), memory[p.buffer], memory.get(p.other)
        if p.how == "whole":
            return whole
        if p.how == "before" and not 0 <= t + loop.before < steps or p.how == "handed" and k == steps - 1:
            return other
        part = {"each": t, "before": t + loop.before, "taken": (k + 1) % 2, "handed": k % 2}[p.how]
        return whole[part * numel:(part + 1) * numel]
    for p in loop.handed():
        memory[p.buffer].zero_()
    for k in range(steps):
        for kernel, parts in loop.calls:
            run_kernel(kernel, [given(p, k, steps - 1 - k if loop.falls else k) for p in parts], sizes)
    return 0


class _Run:
    """One run: the values of statements, and of the symbols in indices."""

    def __init__(self, axes: Sequence[loops.Axis], memory: Memory, sizes: Mapping[str, int], **values: torch.Tensor):
        self.axes, self.memory, self.values = axes, memory, {name: torch.tensor(n) for name, n in sizes.items()} | values
        self.extents = [expr(axis.size).evaluate(sizes) for axis in axes]
        self.code = 0
        for k, (axis, n) in enumerate(zip(axes, self.extents)):
            self.values[axis.symbol.name] = torch.arange(n).view([n if j == k else 1 for j in range(len(axes))])

    def run(self, body: Sequence[loops.Statement]) -> int:
        for statement in body:
            result = getattr(self, type(statement).__name__.lower())(statement)
            if result is not None:
                self.values[statement.name] = result
        return self.code

    def at(self, index: Expr) -> torch.Tensor:
        """An index expression at all points."""
        total = torch.zeros([1] * len(self.axes), dtype=torch.int64)
        for monomial, coefficient in index.terms:
            term = torch.tensor(coefficient)
            for atom in monomial:
                if isinstance(atom, Sym):
                    term = term * self.values[atom.name]
                else:
                    inner, by, divide = self.at(atom.value), self.at(expr(atom.by)), type(atom).__name__ == "Div"
                    term = term * (torch.div(inner, by, rounding_mode="floor") if divide else inner % by)
            total = total + term
        return total

    def load(self, s: loops.Load) -> torch.Tensor:
        memory, index = self.memory[s.buffer], self.at(s.index)
        if not s.guard:
            return memory[index]
        ok = self.values[s.guard]
        read = memory[torch.where(ok, index, 0)] if len(memory) else torch.zeros((), dtype=s.dtype)
        return torch.where(ok, read, torch.tensor(s.other, dtype=s.dtype))

    def const(self, s: loops.Const) -> torch.Tensor:
        return torch.full([1] * len(self.axes), s.value, dtype=s.dtype)

    def index(self, s: loops.Index) -> torch.Tensor:
        return self.at(s.index).to(s.dtype)

    def apply(self, s: loops.Apply) -> torch.Tensor:
        args = [self.values[a] for a in s.args]
        if s.op == "cast":
            return args[0].to(s.dtype)
        result = getattr(torch.special, s.attr, None) or getattr(torch, s.attr) if s.op == "libm" else SCALARS[s.op]
        found = result(*args)
        if found.dtype != s.dtype:
            raise TypeError(f"{s} gives {found.dtype}")
        return found

    def rows(self, name: str) -> torch.Tensor:
        """A statement's values with the reduced axes, which come after the others, as one dimension."""
        x = self.values[name]
        kept = [x.shape[k] for k, axis in enumerate(self.axes) if not axis.reduce]
        reduced = self.extents[len(kept):]
        return x.expand(*kept, *reduced).reshape(*kept, -1)

    def scan(self, s: loops.Scan) -> torch.Tensor:
        rows = self.rows(s.arg)
        return SCANS[s.op](rows).to(s.dtype).reshape(*rows.shape[:-1], *self.extents[rows.dim() - 1:])

    def reduce(self, s: loops.Reduce) -> torch.Tensor:
        rows = self.rows(s.arg)
        found = REDUCTIONS[s.op](rows)
        if s.op not in ("argmax", "argmin") and found.dtype != s.dtype:
            raise TypeError(f"{s} gives {found.dtype}")
        return found.reshape(*rows.shape[:-1], *(1 for axis in self.axes if axis.reduce))

    def store(self, s: loops.Store) -> None:
        memory, index, value = self.memory[s.buffer], self.at(s.index), self.values[s.value]
        if value.dtype != memory.dtype:
            raise TypeError(f"{s} writes {value.dtype} into {memory.dtype}")
        index, value = torch.broadcast_tensors(index, value)
        memory[index] = value

    def check(self, s: loops.Check) -> None:
        if not self.values[s.ok].all() and not self.code:
            self.code = s.code + 1


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype.is_floating_point:
        return a / b
    return torch.div(a, torch.where(b == 0, 1, b), rounding_mode="trunc")  # a check has refused b == 0


#: Scalar op -> what it means on tensors.
SCALARS: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": _divide, "neg": torch.neg, "abs": torch.abs,
    "fmod": lambda a, b: torch.fmod(a, b if a.dtype.is_floating_point else torch.where(b == 0, 1, b)),
    "fma": lambda a, b, c: (a.double() * b.double() + c.double()).to(a.dtype),
    "min": torch.minimum, "max": torch.maximum, "where": torch.where,
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le,
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor, "not": torch.bitwise_not,
    "shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift,
    "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc, "rint": torch.round, "sqrt": torch.sqrt,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos,
    "tanh": torch.tanh, "erf": torch.erf, "pow": torch.pow, "atan2": torch.atan2,
    "normal_cdf": lambda x: 0.5 * (1 + torch.erf(x * 0.5 ** 0.5)),
    "tanh_cdf": lambda x: 0.5 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x))),
    "philox": philox,
}

#: Reduction -> what it means along the last dimension.
REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x.sum(-1, dtype=x.dtype), "prod": lambda x: x.prod(-1, dtype=x.dtype), "max": lambda x: x.amax(-1),
    "min": lambda x: x.amin(-1), "any": lambda x: x.any(-1), "all": lambda x: x.all(-1),
    "argmax": lambda x: x.argmax(-1), "argmin": lambda x: x.argmin(-1),
}

#: Scan -> what it means along the last dimension.
SCANS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x.cumsum(-1), "prod": lambda x: x.cumprod(-1),
    "max": lambda x: x.cummax(-1).values, "min": lambda x: x.cummin(-1).values,
    "argmax": lambda x: x.cummax(-1).indices, "argmin": lambda x: x.cummin(-1).indices,
}
