"""A whole C source: kernels, and the segments that run them one after another on a team of threads."""
from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Sequence

from ...compiler.dims import product, typical
from ..comparisons import narrowed
from ..loops import AnyKernel, Check, Kernel, Loop, Part, Store, body_of, sizes_of
from .body import Names, size_text
from .columns import Columns
from .function import Function, size_name
from .helpers import header
from .isa import Isa, isa_of, memory_type
from .math import LIBRARY_NAMES
from .matmul import print_matmul
from .pointwise import Pointwise
from .rows import Rows
from .schedule import Schedule, work_of
from .sharing import share

Call = tuple[AnyKernel, tuple[int, ...]]

#: Microseconds of work that one more thread is worth.
WORK_PER_THREAD = 15.0
#: Floating-point operations of a matrix product in a microsecond.
PRODUCT_SPEED = 100_000.0
#: Characters of kernels that are worth a compiler of their own.
UNIT_TEXT = 16_000


def print_source(name: str, segments: Sequence[tuple[str, Sequence[Call]]], messages: Sequence, isa: str = "auto",
                 symbols: Mapping[str, int] = {}, cores: int = 1) -> str:
    """A source without includes, in which each segment is `long <symbol>(void **slots, long threads)`; if it is long, in up to
    `cores` units.

    A segment runs its calls, (kernel, a slot for each of the kernel's buffers), in order on at most `threads` threads. It
    returns 0, or 1 + the code of a check that failed (an index into `messages`). `symbols`: where in `slots` the value of
    each size symbol stands.
    """
    vectors, names = isa_of(isa), Names()
    names.taken |= LIBRARY_NAMES | {symbol for symbol, _ in segments} | {size_name(s) for s in symbols} | {"useful_threads"}
    kernels = dict.fromkeys(kernel for _, calls in segments for kernel, _ in calls)
    printed = dict(zip(kernels, share([_function(replace(k, name=names.fresh(k.name)), vectors) for k in kernels])))
    functions = list({f.name: f for f in printed.values()}.values())
    runs = [_segment(symbol, calls, printed, symbols) for symbol, calls in segments]
    units = min(cores, sum(len(f.text) for f in functions) // UNIT_TEXT)
    text = _in_units(functions, runs, units) if units > 1 else "\n".join([f.text for f in functions] + runs)
    return f"// {name}, for {vectors.name}\n{_THREADS}{_SHARES if symbols else ''}{header(text, vectors)}\n{text}"


def _in_units(functions: Sequence[Function], segments: Sequence[str], units: int) -> str:
    """Kernels in units of about as much text each, which compilers make side by side (runtime/build.py): a unit is what is left
    where UNIT is its number; without one, all is there. Matrix products share helpers, and stand together."""
    heads, parts = [], [[] for _ in range(units)]
    done, whole = 0, sum(len(f.text) for f in functions)
    for f in sorted(functions, key=lambda f: f.matmul):
        before, after = f.text.split(f"static void {f.name}(")
        heads.append(f"void {f.name}({after.split(')')[0]});")
        parts[done * units // whole].append(f"{before}void {f.name}({after}")
        done += len(f.text)
    parts[-1] += segments
    lines = [f"#define UNITS {units}", "#pragma GCC visibility push(hidden)", *heads, "#pragma GCC visibility pop", ""]
    for number, part in enumerate(parts):
        lines += [f"#if !defined UNIT || UNIT == {number}", *part, "#endif", ""]
    return "\n".join(lines)


_THREADS = """
#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

"""


_SHARES = """\
static long useful_threads(long wanted, long threads) { return wanted < 1 ? 1 : wanted < threads ? wanted : threads; }

"""


def _function(kernel: AnyKernel, isa: Isa) -> Function:
    sizes, checks = sizes_of(kernel), any(isinstance(s, Check) for s in body_of(kernel))
    if isinstance(kernel, Loop):
        return _loop(kernel, isa, sizes)
    if not isinstance(kernel, Kernel):
        terms = product((kernel.batch, kernel.m, kernel.n, kernel.k))
        return Function(kernel.name, print_matmul(kernel, isa), 2.0 * typical(terms) / PRODUCT_SPEED, terms, sizes, checks,
                        matmul=True)
    kernel = replace(kernel, body=narrowed(kernel.body, frozenset(a.symbol.name for a in kernel.axes)))
    plan = Schedule(kernel, isa)
    shape = Pointwise if not kernel.reduced else Rows if plan.row_wise else Columns
    points = product(a.size for a in kernel.axes)
    return Function(kernel.name, shape(kernel, isa, plan).text(), work_of(kernel, plan), points, sizes, checks)


def _loop(loop: Loop, isa: Isa, sizes: tuple[str, ...]) -> Function:
    """Steps whose kernels each wait for the one before."""
    kernels, names = dict.fromkeys(k for k, _ in loop.calls), Names()
    inside = {k: _function(replace(k, name=names.fresh(f"{loop.name}_{k.name}")), isa) for k in kernels}
    steps, written = size_text(loop.steps, size_name), {p.other if p.how == "handed" else p.buffer for p in _stored(loop)}
    parameters = [f"{'' if b.name in written or any(p.buffer == b.name for p in loop.handed()) else 'const '}"
                  f"{memory_type(b.dtype, 1).scalar} *{b.name}" for b in loop.buffers]
    parameters += [f"long {size_name(s)}" for s in sizes]
    lines = [f"// {', '.join(loop.values)}: {steps} steps",
             f"static void {loop.name}({', '.join(parameters)}, long tid, long threads, long *error)", "{"]
    wait = ["    if (threads > 1) {", "        #pragma omp barrier", "    }"]
    for p in loop.handed():
        numel = size_text(p.numel, size_name)
        lines.append(f"    for (long n = 0; tid == 0 && n < {numel}; n++) {p.buffer}[{numel} + n] = 0;")
    lines += wait if loop.handed() else []
    lines += [f"    for (long k = 0; k < {steps}; k++) {{",
              f"        const long t = {f'{steps} - 1 - k' if loop.falls else 'k'};"]
    for kernel, parts in loop.calls:
        places = [_place(loop, p) for p in parts]
        lines += [f"        {inside[kernel].call(places, 'tid', 'threads', 'error')}", *("    " + line for line in wait)]
    text = "\n".join([f.text for f in inside.values()] + [*lines, "    }", "}"]) + "\n"
    work = sum(inside[k].work for k, _ in loop.calls)  # of a step
    return Function(loop.name, text, work, sum(inside[k].points for k, _ in loop.calls), sizes, False, together=True)


def _stored(loop: Loop) -> list[Part]:
    """What the kernels of a loop write to."""
    found = []
    for kernel, parts in loop.calls:
        names = {s.buffer for s in body_of(kernel) if isinstance(s, Store)}
        found += [p for b, p in zip(kernel.buffers, parts) if b.name in names]
    return found


def _place(loop: Loop, p: Part) -> str:
    """The pointer to a part, in step t, the k-th."""
    n, steps = size_text(p.numel, size_name), size_text(loop.steps, size_name)
    if p.how == "before":
        there = f"t {'-' if loop.before < 0 else '+'} 1"
        return f"{'t > 0' if loop.before < 0 else f't + 1 < {steps}'} ? {p.buffer} + ({there}) * {n} : {p.other}"
    if p.how == "handed":
        return f"k + 1 < {steps} ? {p.buffer} + k % 2 * {n} : {p.other}"
    return {"whole": p.buffer, "each": f"{p.buffer} + t * {n}", "taken": f"{p.buffer} + (k + 1) % 2 * {n}"}[p.how]


def _segment(symbol: str, calls: Sequence[Call], printed: dict[AnyKernel, Function], symbols: Mapping[str, int]) -> str:
    """The function that runs a segment's kernels; where there are threads, with a barrier between kernels unless the first
    thread runs both. What comes after a check that failed does not run: it may write to what the caller keeps."""
    run = [(printed[kernel], slots) for kernel, slots in calls]
    checked = [any(f.checks for f, _ in run[:n]) for n in range(len(run))]
    team = max((_useful_threads(f) for f, _ in run), default=1)
    lines = [f"long {symbol}(void **slots, long threads)", "{", "    long error = 0;"]
    if any(f.sizes for f, _ in run):
        lines += _sized_calls(run, checked, symbols)
    elif team == 1:
        lines += [f"    {_when(f.call(_pointers(slots), '0', '1'), '!error' * after)}"
                  for (f, slots), after in zip(run, checked)]
    else:
        lines += [f"    if (threads > {team}) threads = {team};", "    #pragma omp parallel num_threads(threads)", "    {",
                  "        const long tid = omp_get_thread_num(), team = omp_get_num_threads();"]
        for number, (f, slots) in enumerate(run):
            if number and max(_useful_threads(f), _useful_threads(run[number - 1][0])) > 1:
                lines.append("        #pragma omp barrier")
            lines.append("        " + _shared_call(f, slots, team, "!error" * checked[number]))
        lines.append("    }")
    return "\n".join(lines + ["    return error;", "}"]) + "\n"


def _sized_calls(run: Sequence[tuple[Function, tuple[int, ...]]], checked: Sequence[bool],
                 symbols: Mapping[str, int]) -> list[str]:
    """The inside of a segment with symbolic sizes: how many threads have work follows from the sizes."""
    sizes = sorted({s for f, _ in run for s in f.sizes})
    lines = [f"    const long {size_name(s)} = (long)slots[{symbols[s]}];" for s in sizes]
    for number, (f, _) in enumerate(run):
        worth = max(1, int(WORK_PER_THREAD * typical(f.points) / max(f.work, 1e-6)))  # points that a thread is for
        lines.append(f"    const long useful_{number} = useful_threads({size_text(f.points, size_name)} / {worth}, threads);")
    lines.append("    long most = 1;")
    lines += [f"    if (most < useful_{number}) most = useful_{number};" for number in range(len(run))]
    lines += ["    #pragma omp parallel num_threads(most)", "    {",
              "        const long tid = omp_get_thread_num(), team = omp_get_num_threads();"]
    for number, (f, slots) in enumerate(run):
        useful, error = f"useful_{number}", "!error" * checked[number]
        if number:
            lines.append("        #pragma omp barrier")
        if f.together:
            call = _when(f.call(_pointers(slots), "tid", "team"), error)
        else:
            call = _when(f.call(_pointers(slots), "tid", f"team < {useful} ? team : {useful}"), error, f"tid < {useful}")
        lines.append(f"        {call}")
    return [*lines, "    }"]


def _useful_threads(f: Function) -> int:
    return max(1, int(f.work / WORK_PER_THREAD))


def _shared_call(f: Function, slots: tuple[int, ...], team: int, condition: str) -> str:
    """A call by as many threads of the team as the kernel has work for."""
    useful = _useful_threads(f)
    if useful == 1:
        return _when(f.call(_pointers(slots), "0", "1"), condition, "tid == 0")
    if useful >= team or f.together:
        return _when(f.call(_pointers(slots), "tid", "team"), condition)
    return _when(f.call(_pointers(slots), "tid", f"team < {useful} ? team : {useful}"), condition, f"tid < {useful}")


def _when(call: str, *conditions: str) -> str:
    """The call under those conditions that there are."""
    given = " && ".join(filter(None, conditions))
    return f"if ({given}) {call}" if given else call


def _pointers(slots: Sequence[int]) -> list[str]:
    return [f"slots[{s}]" for s in slots]
