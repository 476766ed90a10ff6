"""Random programs of Python's dynamics: state, branches on data, writes, changing sizes and numbers.

`random_program(seed)` gives a program of the kind that `dynamics` holds: its text (`source`) stands alone, makes an object
with state and a function that uses it, and calls that several times. `check(program)` holds it against its plain run.

    python tests/random_dynamics.py [--count 100] [--first 0] [--jobs 1] [--smallest]
                                    [--backend triton] [--ahead-of-time] [--seconds 10]

goes through that many seeds and prints what came out wrong (`--smallest`: with as few lines as show it), how many ran
compiled, and why the others did not. The last three options are those of under_triton.py.
"""
from __future__ import annotations

import argparse
import collections
import copy
import functools
import linecache
import math
import random
import re
import sys
import tempfile
import textwrap
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Sequence

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import dynamics
import smelt
from dynamics.harness import observe
from dynamics.snapshot import Fact
from random_programs import Disturbance
from smelt.compiler.compare import compare
from under_triton import OutOfTime, add_options, limited, under

#: Statements: {a} {b} are tensors that there are, {new} is a new name; `s` is the object, `k` an int and `p` a float.
TENSORS = (
    "{new} = {a} + {b}", "{new} = {a} * {b}", "{new} = {a} - 0.5 * {b}", "{new} = torch.maximum({a}, {b})", "{new} = {a}.tanh()",
    "{new} = F.gelu({a})", "{new} = {a}.relu()", "{new} = torch.where({a} > {b}, {a}, 0.1 * {b})",
    "{new} = {a}.sum(-1, keepdim=True)", "{new} = {a}.mean(0)", "{new} = {a}.mean()", "{new} = {a}.amax(-1)",
    "{new} = F.softmax({a}, -1)", "{new} = F.layer_norm({a}, ({a}.shape[-1],))", "{new} = {a} @ {b}.transpose(-1, -2)",
    "{new} = {a} @ s.weight", "{new} = {a} * s.weight[0, 0]", "{new} = torch.cat([{a}, {b}], 0)",
    "{new} = torch.stack([{a}, {a} * 2], 1)", "{new} = {a}.cumsum(0)", "{new} = {a}.to(torch.bfloat16).to({a}.dtype)",
    "{new} = {a}.double()", "{new} = {a}.sort(-1)[0]", "{new} = {a}.argmax(-1)", "{new} = ({a} > 0).sum()", "{new} = {a}.clone()",
    "{new} = {a}.var(0)", "{new} = {a}.pow(2).sum().add(1).sqrt()",
)
VIEWS = (
    "{new} = {a}.t()", "{new} = {a}[1:]", "{new} = {a}[..., ::2]", "{new} = {a}.reshape(-1)", "{new} = {a}.unsqueeze(0)",
    "{new} = {a}[0]", "{new} = {a}.transpose(0, -1)", "{new} = {a}.expand(2, *{a}.shape)",
    "{new}, {new}_rest = {a}.split([1, {a}.shape[0] - 1])", "{new} = {a}.detach()", "{new} = {a}.view(-1)", "{new} = {a}[:, :3]",
    "{new} = {a}.flatten(0, 1)", "{new} = {a}.chunk(2)[-1]", "{new} = {a}.diagonal()", "{new} = {a}.narrow(0, 0, 1)",
    "{new} = {a}[-1:]", "{new} = {a}.select(-1, 1)", "{new} = {a}.unfold(-1, 2, 1)",
)
SIZES = (
    "{new} = {a}.sum(0) / {a}.shape[0]", "{new} = {a}.reshape({a}.shape[0], -1)", "{new} = {a}.view(-1, {a}.shape[-1])",
    "{new} = torch.arange({a}.shape[0]) * 0.5", "{new} = torch.ones({a}.shape[0], 2) * 3", "{new} = {a}[:{a}.shape[0] // 2]",
    "{new} = {a} * len({a})", "{new} = {a}.new_zeros({a}.shape[0] + 1)", "{new} = {a} + {a}.numel()",
    "{new} = {a}.new_full({a}.shape, p)", "{new} = torch.cat([{a}, {a}.new_ones(2, *{a}.shape[1:])])",
    "{new} = {a}.reshape(2, -1)", "{new} = {a}[::2] * {a}.size(0)", "{new} = F.pad({a}, (1, 0))",
    "{new} = sum(row.sum() for row in {a})", "{new} = {a}.repeat(2, 1)", "{new} = torch.eye({a}.shape[0])",
    "{new} = {a}[:max(1, int({a}.shape[0] * p))]", "{new} = F.pad({a}, (0, -{a}.shape[-1] % 4))",
    "{new} = {a}[math.ceil({a}.shape[0] / 3):]", "{new} = {a}[..., round({a}.shape[-1] / 3):]", "{new} = {a}.shape[0] / 3 * {a}",
    "{new} = F.pad({a}, (0, math.ceil({a}.shape[-1] / 4) * 4 - {a}.shape[-1])).unflatten(-1, (-1, 4)).mean(-1)",
    "{new} = torch.fft.rfft({a}).abs()", "{new} = {a}.topk(max(1, int(0.3 * {a}.shape[-1])), -1)[0]",
    "{new} = {a}[:divmod({a}.shape[0], 2)[0]]", "{new} = {a} / torch.tensor({a}.shape[0])",
)
NUMBERS = (
    "{new} = {a} * p", "{new} = {a} + k", "{new} = {a}.clamp(max=p)", "{new} = {a} * s.scale", "{new} = {a} - s.table['rate']",
    "{new} = {a}[:k]", "{new} = {a}.roll(k, 0)", "{new} = {a} * (k % 2)", "{new} = {a}.pow(2) * p ** 2",
    "{new} = torch.full((2, k), p)", "{new} = {a} / (1 + s.count)", "{new} = {a}.add({b}, alpha=s.scale)",
    "{new} = F.leaky_relu({a}, s.scale)", "{new} = {a}.sum() + s.items[0]", "{new} = {a} + float(k) / 3",
    "{new} = {a} * max(p, s.scale)", "{new} = {a} + round(p)", "{new} = torch.tensor([p, s.scale, k])",
    "{new} = {a}.unsqueeze(-1).expand(*{a}.shape, k)", "{new} = {a} * (p if k > 2 else s.scale)",
    "{new} = [{a}, {b}][k % 2] * 1.5", "{new} = {a} * numpy.sqrt(abs(p))", "{new} = {a} - numpy.mean([p, s.scale, k])",
    "{new} = {a} * numpy.float64(p) if k not in {{2, 5}} else {a} + 1", "{new} = {a} * numpy.clip(p, 0.5, 2.0).item()",
)
IN_PLACE = (
    "{a}.add_({b})", "{a}.mul_(0.5)", "{a}.relu_()", "{a}[0] = 1.5", "{a}[..., 1:] *= 2", "{a}[1:].add_({b})", "{a} += 1",
    "{a}.copy_({b})", "{a}.t().mul_({b})", "{a}.zero_()", "{a}.clamp_(max=1.0)", "{a}[:, 0] = {b}[:, 0]",
    "{a}.view(-1)[::2] = 0.25", "{a}[k % 2] = p", "{a}[1:] = {a}[:-1].clone()", "{a}.fill_(p)", "torch.mul({a}, {b}, out={a})",
    "{a}.sub_({b}, alpha=s.scale)", "{a}.masked_fill_({b} > 0.5, p)", "{a}[{a} > 1] = 1.0", "{a}.detach().mul_(0.5)",
    "{a}.data.add_(0.5)", "{a}[k % 2].neg_()", "{a}.unsqueeze_(0)", "{a}.transpose_(0, 1)",
    "{a}[0], {a}[1] = {a}[1].clone(), {a}[0].clone()",
)
STATE = (
    "s.last = {a}", "s.last = {a}.detach()", "s.items.append({a}.detach().sum())", "s.items.append({a}.mean().item())",
    "s.count += 1", "s.total = s.total + {a}.detach().sum()", "s.total += {a}.detach().sum()", "s.table['seen'] = s.count",
    "s.table['x'] = {a}", "s.buffer.mul_(0.9).add_({a}.detach().mean(), alpha=0.1)", "s.scale = s.scale * 0.9",
    "s.items[0] = s.items[0] + 1", "s.items.pop() if len(s.items) > 2 else None", "s.best = max(s.best, {a}.max().item())",
    "s.table.pop('seen', None)", "s.count = k", "s.scale = p", "s.items = [*s.items[-2:], k]", "s.buffer = s.buffer + 1",
    "s.buffer[0] = {a}.detach().sum()", "s.table.setdefault('first', {a}.detach().clone())",
    "s.count, s.scale = s.count + k, s.scale + p",
)
SPECIAL = (
    "{new} = F.dropout({a}, 0.5)", "{new} = {a} + torch.rand_like({a})", "{new} = Doubled.apply({a})",
    "{new} = Rounded.apply({a})", "{new}, = torch.autograd.grad({a}.tanh().sum(), {a}, retain_graph=True)",
    "{a}.square().sum().backward()", "{new} = checkpoint(torch.sin, {a}, use_reentrant=False)",
    "(({a} @ s.weight).sum() * p).backward(retain_graph=True)",
    "{new}, = torch.autograd.grad({a}.square().sum(), {a}, create_graph=True)", "s.weight.grad = None",
    "{new} = torch.randn({a}.shape[0], 2)", "{new} = s.weight.grad", "{new} = torch.randperm(len({a}))",
    "{new} = {a}.requires_grad * {b}",
)
DATA = (
    "{new} = {b} * {a}.sum().item()", "{new} = {a}[int({a}.sum().item() > 0)]", "{new} = {a}[{a} > 0]", "{new} = {a}.nonzero()",
    "{new} = {b}[{a}.flatten().argmax().item() % 2]", "{new} = torch.full((3,), {a}.mean().item())",
    "{new} = {a} if {b}.mean() > 0 else -{a}", "assert {a}.sum() > -100", "{new} = {a} + int({b}.sum())",
    "{new} = {a} * float({b}.max() > 1)", "{new} = {a} + {b}.flatten().tolist()[0]", "{new} = torch.unique({a})",
    "{new} = {a}[{b}.flatten().argmax() % 2]", "{new} = {a}[torch.tensor(k % 2)] * 2", "{a}[{b}.flatten().argmin() % 2] = p",
    "{new} = {a}[..., ({b} > 0).sum() % 2] + 1", "{a}[{b}.flatten().argmax().item() % 2 - 1].mul_(0.5)",
    "{new} = {b} * numpy.mean([{a}.sum().item(), {a}.max().item()])", "s.scale = numpy.tanh({a}.mean().item())",
)
WORLD = (
    "print({a}.shape, k)", "print(s.count, p)", "print(len(s.items))", "print(f'{{k}} {{p:.2f}}', {a}.dtype)",
    "print({a} is {b}, s.scale)", "print({a}.detach().isfinite().all().item())", "print(s.table.keys())",
    "print([k, {a}.dim()], {a}.detach().isnan().any())", "{new} = {a} * random.random()", "{new} = {a} + random.randint(0, 2)",
    "{new} = {a} * numpy.random.rand()", "{new} = {a} * (1 if random.random() < 0.5 else 2)", "{new} = {a}[random.randrange(2)]",
    "s.scale = random.uniform(0.1, 0.9)", "s.count += random.randint(0, 1)", "{new} = {a} if time.time() > 0 else {b}",
    "{new} = {a} * random.choice([0.5, p])",
)
#: Lengths that a run finds out.
LENGTHS = (
    "{new} = {a}[:int({b}.sum().abs().item()) % 5]", "{new} = {a}[int(({b} > 0).sum()) % 3:]", "{new} = {a}[:s.filled.item()]",
    "{new} = {a}[..., :random.randint(1, 4)]", "{new} = torch.zeros(random.randint(1, 5), 2) + p", "s.filled.add_(k % 2)",
    "{new} = {a}[random.randrange(3):random.randrange(2, 6)]", "{a}[:random.randint(0, 3)] = p", "{new} = {a}[s.filled:]",
    "{a}[..., random.randrange(2):random.randrange(2, 5)].mul_(0.5)", "{new} = torch.arange(({a} > 0).sum().item()) * p",
    "{new} = {a}[:int({a}.shape[0] * random.random())]", "{new} = {a}[:numpy.clip(random.randint(0, 9), 1, {a}.shape[0])]",
    "{new} = F.pad({a}, (0, random.randint(0, 3)))", "{new} = {a}[:numpy.random.randint(1, 4), None]", "s.filled.fill_(k)",
    "{new} = {a}[random.randint(0, {a}.shape[0] - 1):]", "{new} = {a}.expand(s.filled.item(), *{a}.shape)",
)
#: `q` and `r` are boxes that are given: objects with a tensor `x`, a number `n`, a list `items` and a dict `table`.
GIVEN = (
    "{new} = {a} * q.n", "{new} = q.x + r.x", "{new} = q.x * {a}.mean()", "q.n += 1", "q.x = {a}", "r.x = r.x * 2",
    "q.items.append(k)", "r.items.append({a}.detach().mean())", "{new} = {a} * len(r.items)", "{new} = {a} + r.items[-1]",
    "{new} = {a} * (2 if q is r else 3)", "{new} = {a} * (2 if q.items is r.items else 3)", "{new} = {a} + (r is s.box)",
    "s.box = q", "s.box.n += 1", "{new} = {a} * s.box.n", "{new} = {a} + r.table.get('n', 1)", "q.table['n'] = k",
    "s.items = q.items", "q.items = r.items", "q.more = p", "{new} = {a} * getattr(r, 'more', 1.5)", "q.x.add_(0.5)",
    "{new} = {a} * (r.n if r.n > 2 else 0.5)", "s.box = made(q.x * 2, k)", "{new} = r.x[q.n % 3] * {a}", "del q.table['n']",
)
CONDITIONS = ("{a}.sum() > 0", "{a}.mean().item() > 0.1", "k > 2", "p > 0.4", "s.count % 2 == 0", "{a}.shape[0] > 4",
              "s.scale < 0.4", "bool(({a} > 1).any())", "len(s.items) > 2", "{a}.requires_grad", "'seen' in s.table",
              "torch.is_grad_enabled()", "{a}.max() > {b}.max()", "{a}.shape == {b}.shape", "s.last is None", "{a} is {b}", "k",
              "{a}.dim() > 1")
MODES = ("no_grad", "inference_mode")
LOOPS = ("for i in range(k):", "for i in range(int({a}.sum().abs().item()) % 3):", "for i, item in zip(range(5), s.items):",
         "for i in range({a}.dim()):", "for row in {a}[:2]:")
GROUPS = ((TENSORS, 10), (VIEWS, 5), (SIZES, 3), (NUMBERS, 4), (IN_PLACE, 4), (STATE, 4), (SPECIAL, 2), (DATA, 2), (WORLD, 2),
          (GIVEN, 5), (LENGTHS, 2))
#: Shapes of the two arguments of a first call.
SHAPES = (((4, 6), (4, 6)), ((4, 6), (4, 6)), ((4, 6), (6,)), ((4, 6), (1, 6)), ((6, 6), (6, 6)), ((4, 3, 6), (4, 3, 6)),
          ((5,), (5,)))
#: What a caller may do between two calls.
CHANGES = ("s.scale = s.scale * 0.5", "s.count += 3", "s.items.append(2.0)", "s.table['rate'] = 0.7", "s.weight.grad = None",
           "s.weight.data.mul_(0.9)", "s.items = [3.0]", "s.table.pop('seen', None)", "s.last = None",
           "s.buffer = torch.zeros(3)", "s.weight.requires_grad_(not s.weight.requires_grad)",
           "s.weight = torch.nn.Parameter(torch.ones(6, 6))", "s.table['seen'] = 1", "s.total = torch.ones(())", "s.scale = 2")
#: Largest value in a program, and the largest part of a tensor's values that roundings may come to.
TAME, CHAOS = 1e4, 1e-3

PREAMBLE = '''
class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 3 + ctx.saved_tensors[0]


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Box:
    def __init__(self, x, n):
        self.x, self.n, self.items, self.table = x, n, [1.0, n], {"n": 1}


class Narrow:
    __slots__ = ("x", "n", "items", "table", "more")
    __init__ = Box.__init__


def namespace(x, n):
    return SimpleNamespace(**vars(Box(x, n)))


def outcome(f, *args):
    try:
        return f(*args)
    except Exception as error:
        return f"raises {type(error).__name__}"


def backward(result):
    live = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
    if live:
        torch.autograd.backward([t.double().sin().sum() for t in live])


def fill(s):
    s.scale, s.count, s.items, s.table, s.last, s.best = 0.5, 0, [1.0], {"rate": 0.1}, None, 0.0
    s.total, s.buffer = torch.zeros(()), torch.ones(3)
    s.weight = torch.nn.Parameter(torch.linspace(-1, 1, 36).reshape(6, 6))
    s.box, s.filled = Box(torch.ones(3), 1), torch.tensor(2)


'''
#: How the function comes by its object and is called: the text around its lines, and the beginning of a call.
FORMS = {
    "closure": ("class State: pass\ns = State()\nfill(s)\n@compile\ndef f(a, b, k, p, q, r):\n{lines}", "f", ""),
    "argument": ("class State: pass\ns = State()\nfill(s)\n@compile\ndef f(s, a, b, k, p, q, r):\n{lines}", "f", "s, "),
    "method": ("class State:\n    @compile\n    def f(s, a, b, k, p, q, r):\n{indented}\ns = State()\nfill(s)\n", "s.f", ""),
    "module": ("class State(nn.Module):\n    def forward(s, a, b, k, p, q, r):\n{indented}\n"
               "s = State()\nfill(s)\nf = compile(s)\n", "f", ""),
}


@dataclass(frozen=True)
class RandomProgram:
    """A program, and its plain run: as it is, and with its roundings disturbed."""
    source: str
    program: dynamics.Program
    plain: list[list[Fact]]
    noisy: list[list[Fact]]


def random_program(seed: int) -> RandomProgram:
    """The program of a seed."""
    dice = random.Random(seed)
    return first_tame(f"random_{seed}", lambda: PREAMBLE + _Maker(dice).source())


def first_tame(name: str, write: Callable[[], str]) -> RandomProgram:
    """The first program of those that `write` gives the texts of whose plain run is tame."""
    while True:
        found = _from_source(name, write())
        if found is not None:
            return found


def _from_source(name: str, source: str) -> RandomProgram | None:
    """The program with this text; None if it can't be judged: it does not run, values too large, paths that hang on a rounding,
    a backward pass that fails (and leaves some of the gradients)."""
    program = dynamics.Program("random", name, _executed(f"<{name}>", source)["program"], False)
    try:
        plain, noisy = observe(program, _plain), _disturbed(program)
    except (RuntimeError, ValueError, AttributeError, LookupError):
        return None
    tensors = [x for facts in plain for _, x in facts if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if not all(bool((x.abs() <= TAME).logical_or(x.isnan()).all()) for x in tensors) or any(_differences(noisy, plain, _near)):
        return None
    return RandomProgram(source, program, plain, noisy)


def hangs_on_roundings(made: RandomProgram) -> bool:
    """Whether the plain run takes other paths, or gives something else altogether, under one of several disturbances."""
    return any(any(_differences(_disturbed(made.program, seed), made.plain, _near)) for seed in range(1, 17))


def _disturbed(program: dynamics.Program, seed: int = 0) -> list[list[Fact]]:
    with Disturbance(seed):
        return observe(program, _plain)


def _executed(file: str, source: str) -> dict[str, Any]:
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"torch": torch, "nn": nn, "copy": copy, "F": F, "checkpoint": checkpoint,
                             "numpy": numpy, "random": random, "math": math, "time": time, "SimpleNamespace": SimpleNamespace,
                             "__name__": "dynamics.random"}
    exec(compile(source, file, "exec"), scope)
    return scope


def _plain(function: Callable | None = None, **ignored) -> Callable:
    return function or (lambda f: f)


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    scale = b.nan_to_num().abs().max() if b.numel() else 0
    rough = b.dtype.itemsize == 2
    return torch.allclose(a, b, rtol=0, atol=(0.1 if rough else CHAOS) * float(scale) + 1e-6, equal_nan=True)


def _differences(ours: list, theirs: list, alike: Callable[[torch.Tensor, torch.Tensor], bool]) -> Iterator[str]:
    """Where two runs differ, the numbers in tensors judged by `alike`."""
    if len(ours) != len(theirs):
        yield f"{len(ours)} steps instead of {len(theirs)}"
    for step, (some, others) in enumerate(zip(ours, theirs)):
        for (path, a), (other, b) in zip(some, others):
            if path != other:
                yield f"step {step}: {path} ({a}) instead of {other} ({b})"
                break
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype):
                if not alike(a, b):
                    yield f"step {step}: {path}: {a} instead of {b}"
            elif not path.endswith(": offset") and not _same_fact(a, b):  # a result has no more memory than it needs
                yield f"step {step}: {path}: {a} instead of {b}"
        if len(some) != len(others):
            yield f"step {step}: {len(some)} facts instead of {len(others)}"


def _same_fact(a: Any, b: Any) -> bool:
    """Equal, or floats that are nearly so."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    floats = [x.removeprefix("float ") for x in (a, b) if isinstance(x, str) and x.startswith("float ")]
    if a == b or len(floats) < 2:
        return a == b
    x, y = map(float, floats)
    return abs(x - y) <= 1e-4 * (abs(y) + 1)


def check(made: RandomProgram, **options) -> dynamics.Outcome:
    """The compiled run, held against the plain one."""
    with dynamics.harness.created() as functions:
        try:
            ours = observe(made.program, lambda function=None: smelt.compile(function, **options))
        except Exception as error:
            return dynamics.harness.outcome_of(functions, f"raises {type(error).__name__}: {error}")
    return dynamics.harness.outcome_of(functions, next(_wrong(ours, made), ""))


def _wrong(ours: list[list[Fact]], made: RandomProgram) -> Iterator[str]:
    """What is not as in the plain run, and no honest rounding."""
    @functools.cache
    def noisy(seed: int) -> dict[int, torch.Tensor]:
        run = _disturbed(made.program, seed) if seed else made.noisy
        return {id(b): x for some, others in zip(made.plain, run) for (path, b), (other, x) in zip(some, others) if path == other}

    def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
        return compare([_single(a)], [_single(b)], lambda _: [_single(noisy(0)[id(b)])],
                       lambda seed, _: [_single(noisy(seed + 1).get(id(b), b))]) is None
    return _differences(ours, made.plain, alike)


def _single(t: torch.Tensor) -> torch.Tensor:
    """In float32 at most: what is float64 in these programs was computed in float32 before."""
    return t.float() if t.dtype is torch.float64 else t


class _Maker:
    """Writes one program. A line is kept where it runs after those before it, on the arguments of a first call."""

    def __init__(self, dice: random.Random):
        self.dice = dice
        self.groups = [(lines, weight) for lines, weight in GROUPS if lines in (TENSORS, VIEWS) or dice.random() < 0.45]
        self.shape, self.other = dice.choice(SHAPES)
        self.leaf = dice.random() < 0.3
        self.kind = dice.choice(("Box", "Narrow", "namespace"))
        self.made = 0
        self.tensors: list[str] = ["a", "b"]
        self.lines: list[str] = []

    def source(self) -> str:
        self.scope = self.executed()
        for _ in range(60):
            if len(self.lines) < 8:
                self.add(self.statement() if self.dice.random() < 0.75 else self.block())
        lines = "\n".join([*self.lines, f"return {self.returned()}"])
        text, call, first = FORMS[self.dice.choice(list(FORMS))]
        body = text.format(lines=textwrap.indent(lines, "    "), indented=textwrap.indent(lines, "        "))
        return "def program(compile):\n" + textwrap.indent(f"made = {self.kind}\n{body}\n{self.calls(call, first)}", "    ")

    # The function

    def executed(self) -> dict[str, Any]:
        """The variables after the lines so far."""
        torch.manual_seed(7)
        scope = _executed("<preamble>", PREAMBLE)
        scope.update(s=SimpleNamespace(), k=3, p=0.3, a=torch.randn(self.shape), b=torch.randn(self.other))
        if self.leaf:
            scope.update(a=scope["a"].requires_grad_().add(0))
        scope["fill"](scope["s"])
        made = scope["made"] = scope[self.kind]
        scope.update(q=made(torch.ones(3), 2), r=made(torch.ones(3), 3))
        for n, line in enumerate(self.lines):
            try:
                exec(line, scope)
            except Exception:  # it drew other numbers, of Python's or of the clock, when it was added
                del self.lines[n:]
                return self.executed()
        return scope

    def add(self, line: str) -> None:
        try:
            exec(line, self.scope)
            tame = all(x.numel() <= 400 and bool((x.detach().abs() <= TAME).all())
                       for x in self.scope.values() if isinstance(x, torch.Tensor))
        except Exception:
            tame = False
        if tame:
            self.lines.append(line)
            self.tensors += [n for n, x in self.scope.items() if n not in self.tensors and isinstance(x, torch.Tensor)]
        else:
            self.scope = self.executed()

    def statement(self, new: str = "", groups: Sequence = ()) -> str:
        """A random line, which makes `new` if it makes something."""
        self.made += 1
        lines, = self.dice.choices(*zip(*(groups or self.groups)))
        return self.filled(self.dice.choice(lines), new or f"t{self.made}")

    def filled(self, text: str, new: str = "") -> str:
        recent = self.tensors[-4:] + self.tensors
        return text.format(a=self.dice.choice(recent), b=self.dice.choice(recent), new=new)

    def block(self) -> str:
        """A compound statement."""
        kind, new = self.dice.choice(("if", "if", "early", "loop", "while", *MODES, "try")), f"t{self.made}"
        some, other = (textwrap.indent(self.statement(new), "    ") for _ in range(2))
        if kind == "if":
            return f"if {self.filled(self.dice.choice(CONDITIONS))}:\n{some}\nelse:\n{other}"
        if kind == "early":
            return f"if {self.filled(self.dice.choice(CONDITIONS))}:\n    return {self.filled('{a}, {b}')}"
        if kind == "loop":
            return f"{self.filled(self.dice.choice(LOOPS))}\n{some}"
        if kind == "while":
            return self.filled("while 1.0 < {a}.abs().max() < 1e30:\n    {a} = {a} * 0.5")  # which ends for infinities too
        if kind in MODES:
            return f"with torch.{kind}():\n{some}"
        return f"try:\n{some}\n{other}\nexcept RuntimeError:\n    {new} = a * 2"

    def returned(self) -> str:
        made = self.tensors[2:] or self.tensors
        results = self.dice.sample(made, min(len(made), self.dice.randint(1, 3)))
        if self.dice.random() < 0.4:
            results.append(self.dice.choice(("a", "s.total", "s.count", "p * 2", "s.last", "k", "len(s.items)")))
        joined = ", ".join(results)
        return self.dice.choice((joined, f"[{joined}]", f"{{'x': {results[-1]}, 'y': ({joined},)}}"))

    # The calls

    def calls(self, call: str, first: str) -> str:
        """What the caller does: makes arguments, calls, and changes things between."""
        dice = self.dice
        sizes, numbers, state, kept = (dice.random() < 0.5 for _ in range(4))
        mode = dice.choice((*[""] * 6, *MODES))
        lines = ["torch.manual_seed(7)"]
        for n in range(dice.randint(4, 6)):
            if sizes or not n:
                size = dice.choice((4, 5, 1, 0, 3, 2, 8)) if n and sizes else self.shape[0]
            if n == 0 or not kept:
                lines += self.arguments(size)
            k, p = (dice.choice((0, 1, 2, 3, 5)), dice.choice((0.3, 0.5, -1.5, 2.0))) if numbers and n else (3, 0.3)
            if state and n:
                lines.append(dice.choice(CHANGES))
            lines += self.boxes(new=not n or not kept)
            given = f"{call}, {first}a, b, {k}, {p}, q, r"
            lines.append(f"with torch.{mode}():\n    result = outcome({given})" if mode else f"result = outcome({given})")
            lines += ["yield result", "backward(result)", "yield 'backward'"]
        return "\n".join(lines)

    def boxes(self, new: bool) -> list[str]:
        dice = self.dice
        if not any(lines is GIVEN for lines, _ in self.groups):
            return ["q = r = None"]
        lines = [f"{name} = made(torch.full((3,), {dice.choice((1.0, 2.0))}), {dice.choice((1, 2, 2, 3))})" for name in "qr"
                 if new or dice.random() < 0.5]
        if dice.random() < 0.4:
            lines.append(dice.choice(("r = q", "r = s.box", "q = s.box", "q.items = r.items", "s.items = r.items", "r.x = q.x",
                                      "s.box = r", "q.table = s.table", "r.items = s.items", "q, r = r, q", "q.n += 1",
                                      "r.items.append(2.0)", "s.box = made(q.x, 2)", "q.x = torch.ones(3)[:, None]")))
        return lines

    def arguments(self, size: int) -> list[str]:
        dice, leaf = self.dice, ".requires_grad_()" if self.leaf else ""
        fit = lambda shape: tuple(size if n == self.shape[0] and i == 0 and len(shape) > 1 else n for i, n in enumerate(shape))
        shape, other = fit(self.shape), fit(self.other)
        ways = [[f"a = torch.randn{shape}{leaf}", f"b = torch.randn{other}"]] * 4
        if self.shape == self.other and not self.leaf:
            rows = (size + 1, *shape[1:])
            ways += [[f"a = b = torch.randn{shape}"], [f"base = torch.randn{rows}", "a, b = base[1:], base[:-1]"],
                     [f"a = torch.randn{shape}", f"b = a.view{shape}"]]
        if len(shape) == 2:
            ways += [[f"a = torch.randn{shape[::-1]}.t()", f"b = torch.randn{other}"],
                     [f"a = torch.randn{(*shape, 2)}[..., 0]", f"b = torch.randn{other}"],
                     [f"a = torch.randn{(1, *shape[1:])}.expand{shape}", f"b = torch.randn{other}"]]
        return dice.choice(ways)


def smallest(made: RandomProgram) -> str:
    """The text of a program that comes out wrong, without the lines that it comes out wrong without."""
    preamble = made.source[:made.source.rindex("def program(")]
    lines = made.source.removeprefix(preamble).splitlines()
    size = len(lines)
    while size > 1:
        size = max(1, size // 2)
        at = 0
        while at < len(lines):
            fewer = lines[:at] + lines[at + size:]
            if _is_wrong(preamble + "\n".join(fewer) + "\n"):
                lines = fewer
            else:
                at += size
    return "\n".join(lines)


def _is_wrong(source: str) -> bool:
    try:
        made = _from_source("smallest", source)
        return made is not None and bool(check(made).wrong)
    except Exception:  # any, of a text that lacks something
        return False


@dataclass
class Tally:
    """What going through programs came to."""
    programs: int = 0
    compiled: int = 0
    recordings: int = 0
    wrong: int = 0
    left_out: int = 0  # out of time, or hanging on a rounding after all
    failures: int = 0  # kernels that do not compile, or spill
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def judged(make: Callable[[int], RandomProgram], options: argparse.Namespace, seeds: range) -> Tally:
    """Go through the programs of seeds."""
    warnings.simplefilter("ignore")
    smelt.config.report_dir = Path(tempfile.mkdtemp())
    tally = Tally(len(seeds))
    with under(options) as kernels:
        for seed in seeds:
            try:
                with limited(options.seconds):
                    made = make(seed)
                    found = check(made)
                    judgeable = not found.wrong or not hangs_on_roundings(made)
            except OutOfTime:
                judgeable = False
            if not judgeable:
                tally.left_out += 1
                continue
            tally.compiled += found.compiled
            tally.recordings += found.programs
            tally.reasons.update({re.sub(r"^.*?<\w+_\d+>:\d+: |^[^:]*: ", "", reason) for reason in found.eager})
            if found.wrong:
                tally.wrong += 1
                print(f"WRONG {seed}: {found.wrong[:600]}", flush=True)
                if options.smallest:
                    print(smallest(made), flush=True)
        tally.failures = kernels.tell()
    return tally


#: Programs of one process: each leaves libraries loaded, and a process may have 65,530 pieces of memory mapped.
SHARE = 250


def main(options: argparse.Namespace, make: Callable[[int], RandomProgram]) -> int:
    seeds = range(options.first, options.first + options.count)
    if options.jobs == 1:
        tally = judged(make, options, seeds)
    else:
        shares = [seeds[k:k + SHARE] for k in range(0, len(seeds), SHARE)]
        with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
            tally = sum(pool.map(partial(judged, make, options), shares), Tally())
    print(f"{tally.programs} programs, {tally.compiled} compiled in full ({100 * tally.compiled // tally.programs}%), "
          f"{tally.recordings} recordings, {tally.wrong} wrong, {tally.left_out} left out")
    for reason, times in tally.reasons.most_common():
        print(f"  eager {times:5}: {reason}")
    return 1 if tally.wrong + tally.failures else 0


def command(make: Callable[[int], RandomProgram]) -> int:
    """The command line: programs that are made of seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the programs")
    parser.add_argument("--smallest", action="store_true", help="reduce programs that come out wrong")
    add_options(parser.add_argument)
    return main(parser.parse_args(), make)


if __name__ == "__main__":
    sys.exit(command(random_program))
