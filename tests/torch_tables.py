"""PyTorch's own test databases run through smelt: every op, module and optimiser's step, compiled against eager.

    python tests/torch_tables.py [ops|modules|optimizers] [--only NAME] [--share 0.25] [--samples N]
                                [--dtype bfloat16] [--backend triton] [--ahead-of-time] [--seconds 10]

prints a count, and a line for everything that differs. CI runs a seeded quarter (test_torch_tables.py). The last three options
are those of under_triton.py.
"""
from __future__ import annotations

import argparse
import collections
import copy
import itertools
import random
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Iterable, Iterator

import torch
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db
from torch.utils import _pytree as pytree

import smelt
from smelt.compiler.compare import compare
from under_triton import OutOfTime, add_options, limited, under

# Wrapped so, an op saves and restores torch's random state, which no compiled function may; `outcome` sets the seed.
common_methods_invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)

#: Ops whose result is uninitialised memory: only shapes and dtypes can agree.
UNSET = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
#: How torch.testing.assert_close begins where numbers differ.
NOT_CLOSE = ("Tensor-likes are not close", "Scalars are not close")


@dataclass
class Tally:
    """What came of a table: names checked, samples run, samples that ran compiled, those left out, and the failures.

    `seconds`: that a sample may take; 0: any.
    """
    seconds: float = 0
    late: list[str] = field(default_factory=list)
    names: int = 0
    samples: int = 0
    compiled: int = 0
    failures: list[str] = field(default_factory=list)
    eager: collections.Counter = field(default_factory=collections.Counter)

    def add(self, name: str, report) -> None:
        """Count a function whose results were right, by what is told of it."""
        defects = [p.broken for p in report.programs if p.broken] + [f for f in report.fallbacks if "internal error" in f]
        self.failures += [f"{name}: {d[:300]}" for d in defects]
        self.compiled += report.compiled
        self.eager.update(f.split(": ", 1)[-1][:100] for f in report.fallbacks)

    def __str__(self):
        return (f"{self.names} entries, {self.samples} samples: {self.compiled} compiled, "
                f"{self.samples - self.compiled - len(self.late)} eager, {len(self.late)} left out, "
                f"{len(self.failures)} wrong or crashed")

    @contextmanager
    def sample(self, name: str) -> Iterator[None]:
        """Count a sample, which is left out where it takes too long."""
        self.samples += 1
        try:
            with limited(self.seconds):
                yield
        except OutOfTime:
            self.late.append(name)


def outcome(function: Callable, args: tuple, kwargs: dict) -> tuple[Any, list]:
    """Result and gradients of one seeded call on copies of the arguments; an exception counts as the result."""
    args, kwargs = pytree.tree_map(_fresh, (args, kwargs))
    torch.manual_seed(0)
    try:
        result = function(*args, **kwargs)
    except Exception as e:
        return type(e), []
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    return result, gradients(result, leaves)


def gradients(result: Any, leaves: list[torch.Tensor]) -> list:
    outs = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad and t.dtype.is_floating_point
            and t.layout == torch.strided]
    if not outs or not leaves:
        return []
    torch.manual_seed(1)
    return list(torch.autograd.grad(outs, leaves, [torch.randn_like(o) for o in outs], allow_unused=True))


def _fresh(x):
    """A copy with the same strides and requires_grad."""
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return x
    c = x.detach().clone(memory_format=torch.preserve_format)
    if c.stride() != x.stride() and x.numel():
        c = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x) if 0 not in x.stride() else x.detach()
    return c.requires_grad_(x.requires_grad)


def same(a: Any, b: Any, values: bool = True, strides: bool = True) -> str:
    """What differs between two outcomes; "" if nothing does.

    `strides` is False for gradients: torch promises no layout for what torch.autograd.grad gives.
    """
    flat_a, spec_a = pytree.tree_flatten(a)
    flat_b, spec_b = pytree.tree_flatten(b)
    if spec_a != spec_b:
        return f"structure {spec_a} instead of {spec_b}"
    for x, y in zip(flat_a, flat_b):
        if isinstance(y, torch.Tensor) and isinstance(x, torch.Tensor):
            if (x.dtype, x.shape, x.layout, x.requires_grad) != (y.dtype, y.shape, y.layout, y.requires_grad):
                ours, theirs = (f"{t.dtype}{list(t.shape)} grad={t.requires_grad}" for t in (x, y))
                return f"{ours} instead of {theirs}"
            if values and strides and y.layout == torch.strided and x.stride() != y.stride() and y.numel() > 1:
                return f"strides {x.stride()} instead of {y.stride()}"
            if values:
                try:
                    torch.testing.assert_close(x, y, equal_nan=True)
                except AssertionError as e:
                    return str(e).replace("\n", " ")
        elif type(x) is not type(y) or (values and x is not y and not _equal(x, y)):
            return f"{x!r} instead of {y!r}"
    return ""


def as_precise(found: tuple, expected: tuple, exact: tuple) -> bool:
    """Whether `found` is as near as `expected`, about, to the same computed in float64: they differ by rounding alone."""
    tensors = [[t.detach() for t in pytree.tree_leaves(side) if isinstance(t, torch.Tensor)] for side in (found, expected, exact)]
    return len({len(side) for side in tensors}) == 1 and compare(tensors[0], tensors[1], lambda _: tensors[2]) is None


def _wide(x):
    """Arguments with their floating-point tensors in float64."""
    return pytree.tree_map(lambda t: t.detach().double().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor)
                           and t.is_floating_point() and t.layout == torch.strided else t, x)


def _equal(x, y) -> bool:
    return x == y or (x != x and y != y)


def check(name: str, function: Callable, args: tuple, kwargs: dict, tally: Tally, compiled=None) -> None:
    """Three calls of the compiled function (recorded, checked, plain) against three of eager."""
    compiled = compiled or smelt.compile(function)
    for call in range(3):
        expected, found = outcome(function, args, kwargs), outcome(compiled, args, kwargs)
        wrong = same(found[0], expected[0], name.split(".")[-1] not in UNSET) or same(found[1], expected[1], strides=False)
        if wrong and not (wrong.startswith(NOT_CLOSE) and as_precise(found, expected, outcome(function, *_wide((args, kwargs))))):
            tally.failures.append(f"{name}, call {call}: {wrong[:300]}")
            return
    tally.add(name, smelt.explain(compiled))


def chosen(table: Iterable, share: float, only: str) -> list:
    """A seeded part of a table, in order."""
    named = [info for info in table if only in info.name]
    return [named[k] for k in sorted(random.Random(0).sample(range(len(named)), max(1, round(share * len(named)))))]


def run_ops(share: float = 1.0, only: str = "", samples: int = 0, tally: Tally | None = None,
            dtype: torch.dtype = torch.float32) -> Tally:
    tally = tally or Tally()
    for info in chosen(op_db, share, only):
        run_op(info, dtype, samples, tally)
    return tally


def run_op(info, dtype: torch.dtype, samples: int, tally: Tally) -> None:
    """One entry's samples in one dtype."""
    if dtype not in info.supported_dtypes("cpu"):
        return
    tally.names += 1
    grad = info.supports_autograd and dtype in info.supported_backward_dtypes("cpu")
    torch.manual_seed(0)
    for s in itertools.islice(info.sample_inputs("cpu", dtype, requires_grad=grad), samples or None):
        with tally.sample(info.formatted_name):
            check(info.formatted_name, _calling(info.op), (s.input, *s.args), s.kwargs, tally)


def _calling(op: Callable) -> Callable:
    return lambda *args, **kwargs: op(*args, **kwargs)


def run_modules(share: float = 1.0, only: str = "", samples: int = 0, tally: Tally | None = None) -> Tally:
    tally = tally or Tally()
    for info in chosen(module_db, share, only):
        if torch.float32 not in info.dtypes:
            continue
        tally.names += 1
        for training in (True, False):
            torch.manual_seed(0)
            inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
            for n, m in enumerate(inputs):
                if (samples and n >= samples) or m.forward_input is None:
                    continue
                made = info.module_cls(*m.constructor_input.args, **m.constructor_input.kwargs).train(training)
                twin = copy.deepcopy(made)
                net = smelt.compile(twin)
                label = f"{info.name}[{n}] {'train' if training else 'eval'}"
                with tally.sample(label):
                    check_module(label, made, twin, net, m.forward_input.args, m.forward_input.kwargs, tally)
    return tally


def check_module(name: str, eager, twin, compiled, args, kwargs, tally: Tally) -> None:
    """As `check`, and the parameters' gradients and the buffers must agree after every call."""
    for call in range(3):
        exact = copy.deepcopy(eager).double()
        expected, found = module_outcome(eager, eager, args, kwargs), module_outcome(compiled, twin, args, kwargs)
        wrong = same(found[0], expected[0]) or same(found[1:], expected[1:], strides=False)
        if wrong and not (wrong.startswith(NOT_CLOSE)
                          and as_precise(found, expected, module_outcome(exact, exact, *_wide((args, kwargs))))):
            tally.failures.append(f"{name}, call {call}: {wrong[:300]}")
            return
    tally.add(name, smelt.explain(compiled))


def module_outcome(target, module, args, kwargs) -> tuple:
    """Result, gradients of the arguments and of the parameters, and the buffers after it."""
    return *outcome(target, args, kwargs), gradients_of_parameters(target, module, args, kwargs), list(module.buffers())


def gradients_of_parameters(target, module, args, kwargs) -> list:
    torch.manual_seed(0)
    try:
        result = target(*pytree.tree_map(_fresh, args), **pytree.tree_map(_fresh, kwargs))
    except Exception:
        return []
    return gradients(result, [p for p in module.parameters() if p.requires_grad])


OPTIMIZER_STEPS = 5


def run_optimizers(share: float = 1.0, only: str = "", samples: int = 0, tally: Tally | None = None) -> Tally:
    """Every optimiser with every set of options and every implementation of its step, which is compiled on its own."""
    tally = tally or Tally()
    for info in chosen([i for i in optim_db if not i.only_supports_sparse_grads], share, only):
        tally.names += 1
        for n, options in enumerate(info.optim_inputs_func(device="cpu")):
            if samples and n >= samples:
                continue
            for how in ("", *(h for h in info.supported_impls if h != "differentiable")):
                if how and any(isinstance(v, torch.Tensor) for v in options.kwargs.values()):
                    continue  # a tensor as the learning rate is not for these
                label = f"{info.name} {options.desc} {how}"
                with tally.sample(label):
                    check_optimizer(label, info.optim_cls, {**options.kwargs, **({how: True} if how else {})}, tally)
    return tally


def check_optimizer(name: str, cls: type, options: dict, tally: Tally) -> None:
    """A few steps on parameters with given gradients, the compiled step against its eager twin: values and state."""
    made = [_optimizer(cls, options) for _ in range(2)]
    plain, compiled = made[1][1].step, smelt.compile(made[1][1].step)
    for call in range(OPTIMIZER_STEPS):
        found = [optimizer_outcome(call, *m, step) for m, step in zip(made, (made[0][1].step, compiled))]
        wrong = same(found[1], found[0])
        if wrong:
            tally.failures.append(f"{name}, step {call}: {wrong[:300]}")
            return
    assert made[1][1].step == plain
    tally.add(name, smelt.explain(compiled))


def _optimizer(cls: type, options: dict) -> tuple:
    """(parameters, an optimiser of them, which shares no tensor among its options with any other)."""
    torch.manual_seed(0)
    shapes = ((4, 3), (3, 5)) if cls is torch.optim.Muon else ((4, 3), (3,), ())
    parameters = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    return parameters, cls(parameters, **copy.deepcopy(options))


def optimizer_outcome(call: int, parameters: list, optimizer: torch.optim.Optimizer, step: Callable) -> tuple:
    """What a step leaves; the last gradient is sometimes missing."""
    torch.manual_seed(call)
    for k, p in enumerate(parameters):
        p.grad = torch.randn(p.shape) if k + 1 < len(parameters) or call != 3 else None

    def closure():
        loss = sum(p.square().sum() for p in parameters)
        optimizer.zero_grad()
        loss.backward()
        return loss
    result = step(closure) if isinstance(optimizer, torch.optim.LBFGS) else step()
    state = optimizer.state_dict()
    return [p.detach().clone() for p in parameters], [p.grad for p in parameters], result, state["state"], state["param_groups"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=["ops", "modules", "optimizers"])
    parser.add_argument("--only", default="")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=0, help="samples of each entry at most (default: all)")
    parser.add_argument("--dtype", default="float32", help="of the samples of ops")
    add_options(parser.add_argument)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with under(args) as kernels:
        return 1 if sum(_told(name, args) for name in args.tables) + kernels.tell() else 0


def _told(table: str, args: argparse.Namespace) -> int:
    """Run a table and print what came of it; how many failed."""
    run = {"ops": partial(run_ops, dtype=getattr(torch, args.dtype)), "modules": run_modules, "optimizers": run_optimizers}[table]
    tally = run(args.share, args.only, args.samples, Tally(args.seconds))
    for f in tally.failures:
        print("  " + f)
    for reason, count in tally.eager.most_common(12):
        print(f"  eager {count:5}: {reason}")
    for name, count in collections.Counter(tally.late).items():
        print(f"  late {count:5}: {name}")
    print(f"{table}: {tally}", flush=True)
    return len(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
