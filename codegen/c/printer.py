"""A whole C source: kernels, and the segments that run them one after another on a team of threads."""
from __future__ import annotations

from typing import Sequence

from ..loops import AnyKernel, Kernel
from . import math  # noqa: F401  adds the mathematical functions to the helpers
from .columns import Columns
from .helpers import header
from .isa import Isa, isa_of
from .matmul import print_matmul
from .pointwise import Pointwise
from .rows import Rows
from .schedule import Schedule, size_of, work_of

Call = tuple[AnyKernel, tuple[int, ...]]

#: Microseconds of work that one more thread is worth.
WORK_PER_THREAD = 40.0
#: Floating-point operations of a matrix product in a microsecond.
PRODUCT_SPEED = 50_000.0


def print_source(name: str, segments: Sequence[tuple[str, Sequence[Call]]], messages: Sequence, isa: str = "auto") -> str:
    """One translation unit without includes, in which each segment is `long <symbol>(void **slots, long threads)`.

    A segment runs its calls, (kernel, a slot for each of the kernel's buffers), in order on at most `threads` threads. It
    returns 0, or 1 + the code of a check that failed (an index into `messages`).
    """
    vectors = isa_of(isa)
    kernels = list(dict.fromkeys(kernel for _, calls in segments for kernel, _ in calls))
    printed = {k: _function(k, vectors) for k in kernels}
    work = {k: microseconds for k, (_, microseconds) in printed.items()}
    functions = [function for function, _ in printed.values()]
    text = "\n".join(functions + [_segment(symbol, calls, work) for symbol, calls in segments])
    return f"// {name}, for {vectors.name}\n{_THREADS}{header(text, vectors)}\n{text}"


_THREADS = """
#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

"""


def print_kernel(kernel: Kernel, isa: Isa) -> tuple[str, float]:
    """A kernel as `static void <name>(<pointers>, long tid, long threads, long *error)`, which does thread `tid`'s share of it,
    and the estimated microseconds of all of it on one thread."""
    plan = Schedule(kernel, isa)
    shape = Pointwise if not kernel.reduced else Rows if plan.row_wise else Columns
    return shape(kernel, isa, plan).text(), work_of(kernel, plan)


def _function(kernel: AnyKernel, isa: Isa) -> tuple[str, float]:
    """The function's text, and the estimated microseconds on one thread."""
    if isinstance(kernel, Kernel):
        return print_kernel(kernel, isa)
    operations = 2.0 * size_of(kernel.batch) * size_of(kernel.m) * size_of(kernel.n) * size_of(kernel.k)
    return print_matmul(kernel, isa), operations / PRODUCT_SPEED


def _segment(symbol: str, calls: Sequence[Call], work: dict[AnyKernel, float]) -> str:
    """The function that runs a segment's kernels, with a barrier after each where there are threads."""
    useful = {k: max(1, int(work[k] / WORK_PER_THREAD)) for k, _ in calls}
    team = max(useful.values(), default=1)
    lines = [f"long {symbol}(void **slots, long threads)", "{", "    long error = 0;"]
    if team == 1:
        lines += [f"    {_call(kernel, slots, '0', '1')}" for kernel, slots in calls]
    else:
        lines += [f"    if (threads > {team}) threads = {team};", "    #pragma omp parallel num_threads(threads)", "    {",
                  "        const long tid = omp_get_thread_num(), team = omp_get_num_threads();"]
        for number, (kernel, slots) in enumerate(calls):
            if number:
                lines.append("        #pragma omp barrier")
            lines.append("        " + _shared_call(kernel, slots, useful[kernel], team))
        lines.append("    }")
    return "\n".join(lines + ["    return error;", "}"]) + "\n"


def _shared_call(kernel: AnyKernel, slots: tuple[int, ...], useful: int, team: int) -> str:
    """A call by as many threads of the team as the kernel has work for."""
    if useful == 1:
        return f"if (tid == 0) {_call(kernel, slots, '0', '1')}"
    if useful >= team:
        return _call(kernel, slots, "tid", "team")
    return f"if (tid < {useful}) {_call(kernel, slots, 'tid', f'team < {useful} ? team : {useful}')}"


def _call(kernel: AnyKernel, slots: tuple[int, ...], tid: str, threads: str) -> str:
    pointers = [f"slots[{s}]" for s in slots]
    return f"{kernel.name}({', '.join([*pointers, tid, threads, '&error'])});"
