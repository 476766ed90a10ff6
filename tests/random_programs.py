"""Random programs: graphs over whatever ops there are records of, and Python functions with views and in-place writes.

`random_graph(seed)` gives a graph and inputs for it; `random_function(seed)` gives a function (its text in `.source`) and
arguments. The same seed gives the same program as long as the op table stays the same.
"""
from __future__ import annotations

import linecache
import math
import os
import random
from typing import Any, Callable, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smelt.compiler import Builder, Graph, Origin, TensorType, TupleType, Value
from smelt.compiler.evaluate import Noise, run
from smelt.compiler.op import OPS, Op, reduced_shape
from smelt.errors import InvalidGraph

#: Seeds that a test goes through.
COUNT = int(os.environ.get("SMELT_RANDOM_PROGRAMS", "100"))

FLOATS = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.bool)
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, 1e30)
SHAPES = ((4, 6), (4, 6), (6, 4), (4, 1), (6,), (1, 6), (), (2, 4, 6), (3, 1, 6), (0, 6), (4, 0))
NUMBERS = (2, -1, 0.5, 3.0, -0.0, 1, 1.0, True)
#: Pointwise ops that programs are mostly made of, which take half of the draws.
EVERYDAY = ("add", "sub", "mul", "div", "neg", "exp", "relu", "maximum", "where", "lt", "ge")
#: Ops that get no infinite or huge operands: torch takes their formulas apart otherwise (the moments in a running way, a
#: result as x * a + b), so that there it gives NaN for what is finite or infinite, or the other way round.
FRAGILE = ("layer_norm", "layer_norm_backward", "group_norm", "group_norm_backward", "batch_norm")
#: Largest absolute value in a tame program: keeps it away from where rounding is all there is.
TAME = 50.0


def random_graph(seed: int, length: int = 16, floats: Sequence[torch.dtype] = FLOATS, tame: bool = False,
                 ops: Callable[[Op], bool] = lambda op: True) -> tuple[Graph, list[torch.Tensor]]:
    """A verified-by-construction graph of up to about `length` values and tensors for its inputs.

    `floats`: dtypes of its floating inputs and casts. `tame`: no empty tensors and no values that are NaN, infinite or
    large, so that gradients can be compared. `ops` picks the records to use.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the samples of the records are random too
        return _GraphMaker(random.Random(seed), floats, tame, ops).make(f"random_{seed}", length)


class _GraphMaker:
    """Emits random ops and evaluates them at once, so that every value has a tensor by which to choose what follows."""

    def __init__(self, dice: random.Random, floats: Sequence[torch.dtype], tame: bool, ops: Callable[[Op], bool]):
        self.dice, self.floats, self.tame = dice, floats, tame
        self.generator = torch.Generator().manual_seed(dice.randrange(1 << 30))
        self.b = Builder()
        self.tensors: dict[Value, torch.Tensor] = {}
        self.inputs: list[torch.Tensor] = []
        self.ops = [op for op in OPS.values() if op.kind != "input" and op.samples and not op.random and ops(op)]
        self.named = {op.name for op in self.ops} | {"full", "iota", "cast", "copy", "item"}

    def make(self, name: str, length: int) -> tuple[Graph, list[torch.Tensor]]:
        for _ in range(self.dice.randint(2, 4)):
            self.input(self.shape(), self.dice.choice(self.floats if self.dice.random() < 0.8 or self.tame else INTEGERS))
        steps = [self.pointwise, self.pointwise, self.pointwise, self.view, self.view, self.reduction, self.product, self.joined,
                 self.constant, self.cast, self.sampled, self.repeated, self.tiled]
        for line in range(length):
            self.b.origin = Origin("program.py", line + 1)
            self.dice.choice(steps)()
        outputs = self.outputs()
        names = [f"out_{k}" for k in range(len(outputs))] if self.dice.random() < 0.5 else ()
        return self.b.graph(name, outputs, names), self.inputs

    def outputs(self) -> list[Value]:
        pool = list(self.tensors)
        outputs = self.dice.sample(pool, min(len(pool), self.dice.randint(1, 4)))
        return [*outputs, pool[-1], *([outputs[0]] if self.dice.random() < 0.2 else [])]

    # Inputs

    def shape(self) -> tuple[int, ...]:
        return self.dice.choice([s for s in SHAPES if not (self.tame and 0 in s)])

    def input(self, shape: Sequence[int], dtype: torch.dtype) -> Value:
        t = self.random_tensor(shape, dtype)
        layout = self.dice.random()
        if layout < 0.15 and t.dim() > 1:
            t = t.transpose(0, -1).contiguous().transpose(0, -1)
        elif layout < 0.3 and t.dim():
            t = torch.stack([t, t], -1)[..., 0]
        return self.input_of(t)

    def input_of(self, t: torch.Tensor) -> Value:
        name = "abcdefghijklmnopqrstuvwxyz"[len(self.inputs) % 26]
        v = self.b.input(name, TensorType(tuple(t.shape), t.dtype, t.device, tuple(t.stride())))
        self.inputs.append(t)
        self.tensors[v] = t
        return v

    def random_tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bool:
            return torch.rand(tuple(shape), generator=self.generator) > 0.5
        if not dtype.is_floating_point:
            return torch.randint(-4, 5, tuple(shape), generator=self.generator).to(dtype)
        t = torch.randn(tuple(shape), generator=self.generator)
        if not self.tame and t.numel() and self.dice.random() < 0.3:
            t.view(-1)[self.dice.randrange(t.numel())] = self.dice.choice(SPECIAL)
        return t.to(dtype)

    # Steps; each adds a value where one can be found that fits

    def pick(self, fits: Callable[[Value], bool] = lambda v: True) -> Value | None:
        pool = [v for v in self.tensors if fits(v)]
        return self.dice.choice(pool[-6:] if self.dice.random() < 0.7 else pool) if pool else None

    def kind(self, *kinds: str) -> list[Op]:
        return [op for op in self.ops if op.kind in kinds]

    def pointwise(self) -> None:
        """Any pointwise op, with the numbers and attributes of one of its samples, on operands of the samples' categories."""
        everyday = [op for op in self.kind("pointwise") if op.name in EVERYDAY]
        op = self.dice.choice(everyday if everyday and self.dice.random() < 0.5 else self.kind("pointwise"))
        samples = list(op.samples())
        inputs, attrs = self.dice.choice(samples)
        operands = [self.operand(i) for i in inputs]
        shapes = [{t.shape for t in sample if isinstance(t, torch.Tensor)} for sample, _ in samples]
        if op.name not in EVERYDAY:  # of one dtype, and of one shape if no sample broadcasts
            first, dtype = next((i, t.dtype) for i, t in zip(operands, inputs) if isinstance(t, torch.Tensor))
            one_shape = all(len(s) == 1 for s in shapes)
            alike = lambda v: v.dtype == first.dtype and (v.shape == first.shape or not one_shape)
            operands = [self.pick(alike) if isinstance(t, torch.Tensor) and t.dtype == dtype else i
                        for i, t in zip(operands, inputs)]
        self.emit(op, operands, attrs)

    def operand(self, sample: Any) -> Value | bool | int | float:
        """A value of the sample's category (bool, integer or float), or a number for a number."""
        if not isinstance(sample, torch.Tensor):
            return sample if self.dice.random() < 0.5 else self.dice.choice(NUMBERS)
        category = lambda d: (d.is_floating_point, d == torch.bool)
        found = self.pick(lambda v: category(v.dtype) == category(sample.dtype))
        return found or self.input(self.shape(), self.floats[0] if sample.is_floating_point() else sample.dtype)

    def view(self) -> None:
        x = self.pick()
        choices = {"reshape": {"shape": self.other_shape(x.shape)},
                   "permute": {"dims": tuple(self.dice.sample(range(x.rank), x.rank))},
                   "expand": {"shape": (*([2] if self.dice.random() < 0.3 else []), *(3 if n == 1 else n for n in x.shape))},
                   "flip": {"dims": tuple(d for d in range(x.rank) if self.dice.random() < 0.5)},
                   "slice": self.slice_attrs(x.shape), "pad": self.pad_attrs(x)}
        name = self.dice.choice([n for n in choices if n in self.named])
        self.emit(OPS[name], [x], choices[name])

    def other_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        total = math.prod(shape)
        shapes = [shape, tuple(n for n in shape if n != 1), (1, *shape), (*shape, 1), (total,)]
        shapes += [(d, total // d) for d in (2, 3, 4) if total and total % d == 0]
        return self.dice.choice(shapes)

    def slice_attrs(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        starts, steps, sizes = [], [], []
        for n in shape:
            whole = n == 0 or self.dice.random() < 0.5
            start, step = (0, 1) if whole else (self.dice.randrange(n), self.dice.choice((1, 1, 2)))
            steps.append(step)
            starts.append(start)
            sizes.append(n if whole else self.dice.randint(int(self.tame), (n - start + step - 1) // step))
        return {"start": tuple(starts), "step": tuple(steps), "size": tuple(sizes)}

    def pad_attrs(self, x: Value) -> dict[str, Any]:
        low, high = ([self.dice.choice((0, 0, 1, 2)) for _ in x.shape] for _ in range(2))
        value = self.dice.choice((0, 1)) if x.dtype != torch.bool else False
        interior = tuple(self.dice.choice((0, 0, 1)) for _ in x.shape)
        return {"low": tuple(low), "high": tuple(high), "interior": interior, "value": value}

    def reduction(self) -> None:
        op = self.dice.choice(self.kind("reduce") or [OPS["copy"]])
        samples = [(inputs, a) for inputs, a in op.samples() if "dim" in a]
        x = self.pick()
        if not samples or x is None:
            return
        inputs, attrs = self.dice.choice(samples)
        if len(inputs) == 1:
            dims = tuple(d for d in range(x.rank) if self.dice.random() < 0.5)
            if op.combine.startswith("arg") and len(dims) != 1:  # of one dimension or of all
                dims = tuple(range(x.rank))
            self.emit(op, [x], {**attrs, "dim": dims, "keepdim": self.dice.random() < 0.5})

    def product(self) -> None:
        a = self.pick(lambda v: v.rank >= 2 and v.dtype.is_floating_point)
        b = a and self.pick(lambda v: v.rank >= 2 and v.dtype == a.dtype and v.shape[-2] == a.shape[-1])
        if a and "matmul" in self.named:
            self.emit(OPS["matmul"], [a, b or self.input((a.shape[-1], self.dice.choice((5, a.shape[-1]))), a.dtype)], {})

    def joined(self) -> None:
        a = self.pick(lambda v: v.rank >= 1)
        if a is None or "cat" not in self.named:
            return
        dim = self.dice.randrange(a.rank)
        rest = lambda v: (v.rank, v.dtype, reduced_shape(v.shape, (dim,), False))
        fits = lambda v: rest(v) == rest(a)
        self.emit(OPS["cat"], [a, *(self.pick(fits) for _ in range(self.dice.randint(0, 2)))], {"dim": dim})

    def constant(self) -> None:
        dtype = self.dice.choice((*self.floats, *INTEGERS))
        if self.dice.random() < 0.5:
            value = self.dice.choice((0, 1, 2, *(SPECIAL if dtype.is_floating_point and not self.tame else ())))
            self.emit(OPS["full"], [], {"shape": self.shape(), "value": value, "dtype": dtype, "device": torch.device("cpu")})
        else:
            self.emit(OPS["iota"], [], {"size": self.dice.choice((1, 4, 6)), "start": self.dice.randint(-3, 3),
                                        "step": self.dice.choice((1, 2)), "dtype": torch.int64, "device": torch.device("cpu")})

    def cast(self) -> None:
        x = self.pick()
        name = self.dice.choice(("cast", "cast", "copy", "detach"))
        dtypes = (*self.floats, torch.bool, *(() if x.dtype.is_floating_point else INTEGERS))
        self.emit(OPS[name], [x], {"dtype": self.dice.choice(dtypes)} if name == "cast" else {})

    def sampled(self) -> None:
        """Any op on one of its own samples, whose tensors become inputs of the program."""
        op = self.dice.choice(self.kind("composite", "gather", "opaque", "view", "cat", "contract") or self.ops)
        inputs, attrs = self.dice.choice(list(op.samples()))
        if any(isinstance(i, torch.Tensor) and i.is_floating_point() for i in inputs) and self.floats != FLOATS:
            inputs = [i.to(self.floats[0]) if isinstance(i, torch.Tensor) and i.is_floating_point() else i for i in inputs]
        taken = len(self.b.inputs), len(self.b.values)
        operands = [self.like(i) if isinstance(i, torch.Tensor) else i for i in inputs]
        if not self.emit(op, operands, attrs) and len(self.b.values) == taken[1]:
            self.forget(taken[0])

    def like(self, sample: torch.Tensor) -> Value:
        """A value that has the sample's type, or the sample as an input."""
        floating = sample.is_floating_point()
        found = self.pick(lambda v: v.dtype == sample.dtype and v.shape == tuple(sample.shape) and floating)
        if found is not None and self.dice.random() < 0.7:
            return found
        return self.input_of(self.random_tensor(sample.shape, sample.dtype) if floating and bool((sample < 0).any()) else sample)

    def tiled(self) -> None:
        """A part of a value, repeated along its dimensions: to as many elements as there were, or to others."""
        x = self.pick(lambda v: v.rank > 0)
        if x is None or not {"slice", "reshape", "expand"} <= self.named:
            return
        part = tuple(self.dice.choice([d for d in range(1, n + 1) if n % d == 0] or [n]) for n in x.shape)
        times = [n // max(d, 1) for n, d in zip(x.shape, part)]
        self.dice.shuffle(times)
        start = tuple(self.dice.randint(0, n - d) for n, d in zip(x.shape, part))
        between = {"shape": tuple(n for d in part for n in (1, d))}
        steps = [("slice", {"start": start, "step": (1,) * x.rank, "size": part}), ("reshape", between),
                 ("expand", {"shape": tuple(n for both in zip(times, part) for n in both)}),
                 ("reshape", {"shape": tuple(t * d for t, d in zip(times, part))})]
        for name, attrs in steps:
            if not self.emit(OPS[name], [x], attrs):
                return
            x = self.b.values[-1]

    def repeated(self) -> None:
        """A value that is there already, computed once more."""
        again = [v for v in self.b.values if v in self.tensors and v.op.name != "item"]
        if again:
            v = self.dice.choice(again)
            self.emit(v.op, v.inputs, v.attrs)

    # Emitting

    def emit(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> bool:
        """Add a value if its op takes these operands. A result that is not of the type its rule gives is an error."""
        if not all(isinstance(i, Value) or isinstance(i, (bool, int, float)) for i in operands):
            return False
        if op.kind not in ("source",) and not any(isinstance(i, Value) for i in operands):
            return False
        if op.name in FRAGILE and not all(_is_moderate(self.tensors[i]) for i in operands):
            return False
        try:
            v = self.b.emit(op, *operands, **attrs)
        except InvalidGraph:
            return False
        try:
            result = run(v, [self.tensors[i] if isinstance(i, Value) else i for i in v.inputs])
        except (RuntimeError, TypeError, IndexError, ValueError):
            self.b.values.pop()
            return False
        if not self.welcome(result):
            self.b.values.pop()
            return False
        if isinstance(v.type, TupleType):
            # Statistics beside the result proper have gradients that nobody asks torch for.
            for k in range(1 if self.tame else len(result)):
                self.hold(self.b.item(v, index=k), result[k])
        else:
            self.hold(v, result)
        return True

    def hold(self, v: Value, t: torch.Tensor) -> None:
        found = tuple(t.shape), t.dtype
        assert found == (v.shape, v.dtype), f"{v.op.name} gives {found}, its type rule {v.type}"
        self.tensors[v] = t

    def welcome(self, result: Any) -> bool:
        results = result if isinstance(result, tuple) else (result,)
        small = all(t.numel() <= 4096 for t in results)
        return small and (not self.tame or all(map(_is_tame, results)))

    def forget(self, count: int) -> None:
        """Drop the inputs after the first `count`, which nothing reads."""
        for v in self.b.inputs[count:]:
            del self.tensors[v]
        del self.b.inputs[count:], self.inputs[count:]


# Functions

class Disturbance(TorchDispatchMode):
    """Disturbs, by a rounding's worth, what every op that computes reads, and what every op in place has written."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.noise = Noise(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func._schema.returns
        computes = not func._schema.is_mutable and all(r.alias_info is None for r in returned)
        result = func(*(self.noise(args) if computes else args), **(kwargs or {}))
        if len(returned) == 1 and returned[0].alias_info is not None and returned[0].alias_info.is_write:
            result.copy_(self.noise(result))
        return result


#: Statements: {a} {b} {c} are tensors that there are, {new} is a new name.
STATEMENTS = (
    "{new} = {a} + {b}", "{new} = {a} - 0.5 * {b}", "{new} = {a} * {b}", "{new} = torch.maximum({a}, {b})", "{new} = {a} / 3.0",
    "{new} = torch.tanh({a})", "{new} = torch.sigmoid({a}) * {a}", "{new} = F.gelu({a})", "{new} = {a}.relu()",
    "{new} = {a}.abs().sqrt()",
    "{new} = torch.exp(-{a}.abs())", "{new} = torch.where({a} > 0, {a}, 0.1 * {a})", "{new} = {a}.clamp(-1.0, 1.0)",
    "{new} = {a}.sum(-1, keepdim=True)", "{new} = {a}.mean()", "{new} = {a}.amax(0)", "{new} = {a} - {a}.mean(-1, keepdim=True)",
    "{new} = F.softmax({a}, -1)", "{new} = F.layer_norm({a}, ({a}.shape[-1],))", "{new} = {a}.var(0)",
    "{new} = {a} @ {b}", "{new} = {a} @ {a}.transpose(-1, -2)", "{new} = F.linear({a}, {b})", "{new} = torch.cat([{a}, {b}], 0)",
    "{new} = torch.stack([{a}, {a} * 2], -1)", "{new} = {a}.to(torch.bfloat16).to({a}.dtype)", "{new} = {a}.to({a}.dtype)",
    "{new} = {a}.to(torch.float64, copy=True)",  # the copy so that it shares no memory in float64 either, where the judge runs it
    "{new} = ({a} > {b}).to({a}.dtype)", "{new} = {a}.clone()", "{new} = {a}.detach()",
    "{new} = {a}.t()", "{new} = {a}[1:]", "{new} = {a}[..., ::2]", "{new} = {a}.reshape(-1)", "{new} = {a}.unsqueeze(0)",
    "{new} = {a}[0]",
    "{new} = {a}.transpose(0, -1)", "{new} = {a}.expand(3, *{a}.shape)", "{new}, {new}_rest = {a}.split([1, {a}.shape[0] - 1])",
)
IN_PLACE = (
    "{a}.add_({b})", "{a}.mul_(0.5)", "{a}.relu_()", "{a}[0] = 1.5", "{a}[..., 1:] *= 2", "{a}[1:].add_({b})", "{a} += 1",
    "{a}.copy_({b})",
    "{a}.t().mul_({b})", "{a}.zero_()", "{a}.clamp_(max=1.0)", "{a}[:, 0] = {b}[:, 0]", "{a}.view(-1)[::2] = 0.25", "{a}.tanh_()",
)


def random_function(seed: int, length: int = 10, grad: bool = True, in_place: bool = True) -> tuple[Callable, list[torch.Tensor]]:
    """A function over torch tensors, and arguments for one call of it (which the call may write to: clone them).

    `function.source` is its text. It runs without error, forward and (where a result requires grad) backward, and every
    float in it stays finite. `grad`: some arguments require grad. `in_place`: it writes to tensors, arguments among them.
    """
    dice = random.Random(seed)
    while True:
        names = "abc"[:dice.randint(2, 3)]
        specs = [(dice.choice(((4, 6), (6, 4), (4, 6), (4, 1), (6,), (2, 4, 6))), grad and dice.random() < 0.5) for _ in names]
        lines = _lines(dice, names, specs, length, STATEMENTS * 2 + IN_PLACE * (3 if in_place else 0), seed)
        function = _compiled(f"random_{seed}", names, lines)
        if lines and _runs(function, _arguments(specs, seed)):
            return function, _arguments(specs, seed)


def _arguments(specs, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_(grad) for shape, grad in specs]


def _lines(dice: random.Random, names: str, specs, length: int, statements: Sequence[str], seed: int) -> list[str]:
    """Statements that run one after another, and the return."""
    tensors, lines = list(names), []
    scope = _executed(names, specs, lines, seed)
    for n in range(6 * length):
        if len(lines) == length:
            break
        a, b = dice.choice(tensors[-4:] + tensors), dice.choice(tensors)
        line = dice.choice(statements).format(a=a, b=b, new=f"t{n}")
        try:
            exec(line, scope)
        except (RuntimeError, IndexError, TypeError, ValueError):
            scope = _executed(names, specs, lines, seed)
            continue
        if not all(map(_is_tame, scope.values())):
            scope = _executed(names, specs, lines, seed)
            continue
        tensors += [k for k in scope if k not in tensors and isinstance(scope[k], torch.Tensor)]
        lines.append(line)
    made = tensors[len(names):] or tensors
    results = dice.sample(made, min(len(made), dice.randint(1, 3)))
    return [*lines, f"return {', '.join([*results, *([names[0]] if dice.random() < 0.2 else [])])}"]


def _executed(names: str, specs, lines: list[str], seed: int) -> dict[str, Any]:
    """The variables after some statements, from fresh arguments."""
    scope = {"torch": torch, "F": torch.nn.functional, **dict(zip(names, _arguments(specs, seed)))}
    for line in lines:
        exec(line, scope)
    return scope


def _is_tame(t: Any) -> bool:
    return not isinstance(t, torch.Tensor) or bool(t.numel()) and bool((t.detach().double().abs() <= TAME).all())


def _is_moderate(t: torch.Tensor) -> bool:
    return bool(((t.abs() <= TAME) | t.isnan()).all())


def _compiled(name: str, names: str, lines: list[str]) -> Callable:
    source = f"def {name}({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "__name__": __name__}
    exec(compile(source, file, "exec"), scope)
    scope[name].source = source
    return scope[name]


def _runs(function: Callable, arguments: list[torch.Tensor]) -> bool:
    """Whether it runs from start to end and its backward too (an in-place write may have destroyed what that needs)."""
    try:
        results = function(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        live = [r for r in results if r.requires_grad]
        if live:
            torch.autograd.backward([r.double().sum() for r in live])
    except RuntimeError:
        return False
    return True
