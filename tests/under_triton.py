"""What programs of the tests are run with: a backend, a time limit, and every Triton kernel compiled without a GPU.

    --backend triton    functions that name no backend run in Triton's interpreter
    --ahead-of-time     each distinct kernel that is printed is compiled for each target, beside the run
    --seconds 10        a program that takes longer is left out

are options of dynamics_table.py, random_dynamics.py and torch_tables.py, and of pytest (`pytest tests/test_models.py --backend
triton`).
"""
from __future__ import annotations

import signal
from argparse import Namespace
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Callable, Iterator, NoReturn

import smelt
from smelt.codegen.generate import fingerprint
from smelt.codegen.triton.backend import TritonBackend
from smelt.codegen.triton.printer import print_alone
from smelt.errors import BuildError
from smelt.runtime.ahead_of_time import TARGETS, compile_for
from smelt.runtime.cache import text_file
from smelt.runtime.program import Signature


class OutOfTime(BaseException):
    """A program has taken longer than it may."""


@dataclass
class Kernels:
    """The distinct kernels that were printed, and what compiling them came to."""
    known: set[Any] = field(default_factory=set)
    pending: list[Future] = field(default_factory=list)

    def failures(self) -> list[str]:
        """What does not compile, or spills, once all is compiled."""
        return [line for future in self.pending for line in future.result()]

    def tell(self) -> int:
        """Print that; how many lines it is."""
        failures = self.failures()
        for line in failures:
            print(f"  {line}")
        if self.pending:
            print(f"{len(self.pending)} kernels for {', '.join(TARGETS)}: {len(failures)} do not compile, or spill")
        return len(failures)


def add_options(add: Callable[..., Any]) -> None:
    """`add`: the add_argument of a parser."""
    add("--backend", default="auto", help="of functions that name none: c, triton (on the CPU in its interpreter) or eager")
    add("--ahead-of-time", action="store_true", help="compile every Triton kernel that is printed for each target")
    add("--seconds", type=float, default=0, help="that a program may take (default: any)")


@contextmanager
def under(options: Namespace) -> Iterator[Kernels]:
    """Run programs as the options say."""
    kernels, defaults = Kernels(), smelt.compile.__kwdefaults__
    named = defaults["backend"]
    defaults["backend"] = options.backend
    try:
        if options.ahead_of_time:
            with ProcessPoolExecutor(2, get_context("spawn")) as pool, _noting(kernels, pool):
                yield kernels
        else:
            yield kernels
    finally:
        defaults["backend"] = named


@contextmanager
def _noting(kernels: Kernels, pool: Executor) -> Iterator[None]:
    """Have what the Triton backend prints compiled."""
    original = TritonBackend.print

    def noted(self, name, segments, messages, symbols) -> str:
        for kernel in (kernel for _, calls in segments for kernel, _ in calls):
            cut = self.cut(kernel)
            key = fingerprint(kernel), cut
            if key not in kernels.known:
                kernels.known.add(key)
                source, function = print_alone(kernel, cut)
                kernels.pending.append(pool.submit(failures_of, source, function.signature))
        return original(self, name, segments, messages, symbols)
    TritonBackend.print = noted
    try:
        yield
    finally:
        TritonBackend.print = original


def failures_of(source: str, kernel: Signature) -> list[str]:
    """A line for each target that a kernel does not compile for, or spills on."""
    found = []
    for target in TARGETS:
        try:
            used = compile_for(target, source, kernel)
        except BuildError as error:
            found.append(f"{text_file(source, '.py')}: {error}")
        else:
            if used.spills:
                found.append(f"{text_file(source, '.py')}: {kernel.name} for {target}: {', '.join(used.cells())}")
    return found


def _raise_out_of_time(*_: Any) -> NoReturn:
    raise OutOfTime


@contextmanager
def limited(seconds: float, late: Callable[..., Any] = _raise_out_of_time) -> Iterator[None]:
    """Call `late` after so many seconds; 0: never."""
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
