"""Running a program plain and compiled, and what came of it."""
from __future__ import annotations

import contextlib
import functools
import io
import random
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import numpy
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.hooks import RemovableHandle
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import smelt
from smelt.frontend.api import CompiledFunction

from .snapshot import Fact, Snapshot, Versions, difference

Body = Callable[[Callable], Iterator[Any]]
#: Every program, in the order of their modules.
PROGRAMS: list["Program"] = []


@dataclass(frozen=True)
class Program:
    """One program: its row (the module that it stands in), its name, and whether every bit of its results is eager's."""
    row: str
    name: str
    body: Body
    exact: bool

    def __str__(self):
        return f"{self.row}.{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What came of a program's compiled run. `wrong`: the first thing that was not as in the plain run, "" if nothing.

    `compiled`: every recording became a program. `eager`: the reasons of those that did not.
    """
    wrong: str
    compiled: bool
    eager: tuple[str, ...]
    programs: int


def program(body: Body | None = None, *, exact: bool = True) -> Any:
    """Register a program. `exact` is False where its arithmetic need not be eager's to the last bit (sums, exp, products)."""
    def register(body: Body) -> Body:
        PROGRAMS.append(Program(body.__module__.rsplit(".", 1)[-1], body.__name__, body, exact))
        return body
    return register if body is None else register(body)


# What programs are written with

def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small whole numbers of both signs, whose sums and products are exact."""
    n = torch.Size(shape).numel()
    return ((torch.arange(n) * 5 + 3) % 7 - 3).reshape(shape).to(dtype)


def leaf(*shape: int) -> torch.Tensor:
    """The same, with a gradient."""
    return tensor(*shape).requires_grad_()


def whole(net: nn.Module, value: float = 0.5) -> nn.Module:
    """The network, its parameters filled with such numbers times `value`."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(tensor(*p.shape) * value)
    return net


def calls(f: Callable, *args: Any, times: int = 3, **kwargs: Any) -> Iterator[Any]:
    """Yield the results of a few equal calls: a recorded one, a checked one and a plain one."""
    for _ in range(times):
        yield f(*args, **kwargs)


def changed(compile: Callable, function: Callable, *changes: Callable[[], Any]) -> Iterator[Any]:
    """Yield what a function of a tensor gives in two calls before the changes, and in two after each."""
    f, x = compile(function), tensor(4)
    for change in (lambda: None, *changes):
        change()
        for _ in range(2):
            yield outcome(f, x)


def outcome(f: Callable, *args: Any, **kwargs: Any) -> Any:
    """What f gives, or the type of what it raises."""
    try:
        return f(*args, **kwargs)
    except Exception as error:
        return f"raises {type(error).__name__}"


def backward(result: torch.Tensor) -> torch.Tensor:
    """Run a backward pass with another gradient for each element; gives the result."""
    result.backward(tensor(*result.shape).to(result.dtype) + 0.5)
    return result


# Running

def run(program: Program, **options: Any) -> Outcome:
    """Run a program plain and compiled with these options of smelt.compile, and compare the two."""
    with created() as functions:
        different = difference_made(program, lambda function=None, **own: smelt.compile(function, **{**options, **own}))
    return outcome_of(functions, different)


def outcome_of(functions: list[CompiledFunction], different: str) -> Outcome:
    """What came of a run that these functions came to be in; `different`: the first thing that was not as in the plain run."""
    reports = [smelt.explain(f) for f in functions if f.programs or f.fallbacks]
    eager = tuple(reason for report in reports for reason in report.fallbacks)
    defects = [p.broken for report in reports for p in report.programs if p.broken] + [r for r in eager if "internal error" in r]
    wrong = next(iter(defects), "") or different
    return Outcome(wrong, bool(reports) and all(r.compiled for r in reports), eager, sum(len(r.programs) for r in reports))


def check(program: Program, **options: Any) -> None:
    """AssertionError where the compiled run is not the plain run."""
    found = run(program, **options)
    assert not found.wrong, f"{program}: {found.wrong}"


def difference_made(program: Program, compile: Callable) -> str:
    """The first thing that is not as without this `compile`; "" if there is none."""
    return _first_difference(observe(program, compile), _plainly(program), program.exact)


@functools.lru_cache(maxsize=None)
def _plainly(program: Program) -> list[list[Fact]]:
    return observe(program, lambda function=None, **ignored: function or (lambda f: f))


def observe(program: Program, compile: Callable) -> list[list[Fact]]:
    """The facts after each yield of one run."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    RemovableHandle.next_id = 1000  # so that hooks have the same numbers in both runs
    frames, versions, said, modes = [], Versions(), io.StringIO(), _modes()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = program.body(compile)
        for value in body:
            seen = Snapshot(versions)
            seen.add("result", value)
            for name, local in body.gi_frame.f_locals.items():
                if name != "compile":
                    seen.add(name, local)
            _add_surroundings(seen, said.getvalue())
            frames.append(seen.facts)
            assert not _left_behind(modes), f"{program} after step {len(frames)}: {_left_behind(modes)}"
    return frames


def _add_surroundings(seen: Snapshot, said: str) -> None:
    """The state of the process that a call may change."""
    _, keys, *rest = numpy.random.get_state()
    seen.add("torch's random state", hash(torch.get_rng_state().numpy().tobytes()))
    seen.add("other random states", hash((random.getstate(), keys.tobytes(), *rest)))
    seen.add("printed", said)
    seen.add("switches", (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
                          torch.get_num_threads(),
                          torch.are_deterministic_algorithms_enabled(), torch.is_autocast_enabled("cpu")))


_module_attributes = {name: vars(nn.Module)[name] for name in ("__call__", "__getattr__", "__setattr__", "__delattr__")}


def _modes() -> list:
    """The modes of torch that are active."""
    return [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]


def _left_behind(modes: list) -> str:
    """What a recording has not undone; `modes` are those from before."""
    if sys.getprofile() is not None:
        return "a profiling function is set"
    if "__getattribute__" in vars(nn.Module) or any(vars(nn.Module)[k] is not v for k, v in _module_attributes.items()):
        return "the attribute access of nn.Module is changed"
    if _modes() != modes:
        return "a mode of torch is active"
    return "torch.compiler.is_compiling() is true" if torch.compiler.is_compiling() else ""


def _first_difference(ours: list[list[Fact]], theirs: list[list[Fact]], exact: bool) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} steps instead of {len(theirs)}"
    for step, (a, b) in enumerate(zip(ours, theirs)):
        wrong = difference(a, b, exact)
        if wrong:
            return f"step {step}: {wrong}"
    return ""


@contextlib.contextmanager
def created() -> Iterator[list[CompiledFunction]]:
    """Gathers the compiled functions that come to be meanwhile: also those of methods and copies."""
    made: list[CompiledFunction] = []
    init = CompiledFunction.__init__

    def noted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(self)
    CompiledFunction.__init__ = noted
    try:
        yield made
    finally:
        CompiledFunction.__init__ = init
