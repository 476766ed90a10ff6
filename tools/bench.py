"""`python -m smelt bench`: eager against compiled, in one process, in turn, medians."""
from __future__ import annotations

import copy
import importlib.util
import json
import statistics
import sys
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import torch

from ..frontend.torch_internals import TorchDispatchMode
from .programs import CASES, Case


@dataclass
class Row:
    """One line of the table. Seconds are medians; bytes are what kernels read and write; memory is the peak of a call."""
    name: str
    eager_seconds: float
    seconds: float
    ratio: float
    compile_seconds: float
    kernels_before: int
    kernels_after: int
    bytes_before: int
    bytes_after: int
    peak_before: int
    peak_after: int
    against: dict[str, float]


class Traffic(TorchDispatchMode):
    """Counts what an eager run does: ops, bytes they read and write, and the peak of memory alive that they allocated."""

    def __init__(self):
        super().__init__()
        self.ops = self.bytes = self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.ops += 1
            made = list(_tensors(result))
            self.bytes += sum(t.numel() * t.element_size() for t in (*_tensors(args), *made))
            for t in made:
                self._own(t.untyped_storage())
        return result

    def _own(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone():
            self.alive -= size
            self._known.discard(key)
        weakref.finalize(storage, gone)


def _tensors(value: Any):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def measure(sides: dict[str, Callable[[], Any]], seconds: float = 1.0, least: int = 5) -> dict[str, float]:
    """Median seconds of each side, a run of each in turn, for about `seconds` in all and `least` rounds at least."""
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {k: [] for k in sides}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for k, run in sides.items():
            start = time.perf_counter()
            run()
            times[k].append(time.perf_counter() - start)
    return {k: statistics.median(t) for k, t in times.items()}


def runner(case: Case, function: Callable, args: Sequence[Any]) -> Callable[[], Any]:
    """One call, or with case.train one call and its backward."""
    if not case.train:
        def forward():
            with torch.no_grad():
                return function(*args)
        return forward
    leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    if isinstance(function, torch.nn.Module):
        leaves += function.parameters()

    def step():
        for leaf in leaves:
            leaf.grad = None
        function(*args).backward()
    return step


def run_case(case: Case, against: Sequence[str] = (), seconds: float = 1.0) -> Row:
    import smelt
    torch.manual_seed(0)
    function, args = case.make()
    twin = copy.deepcopy(function) if isinstance(function, torch.nn.Module) else function
    compiled = smelt.compile(twin)
    ours = runner(case, compiled, args)
    start = time.perf_counter()
    ours()
    first = time.perf_counter() - start
    eager = runner(case, function, args)
    with Traffic() as traffic:
        eager()
    ours()
    report = smelt.explain(compiled)
    sides = {"eager": eager, "smelt": ours}
    if "inductor" in against:
        other = copy.deepcopy(function) if isinstance(function, torch.nn.Module) else function
        sides["inductor"] = runner(case, torch.compile(other), args)
    medians = measure(sides, seconds)
    return Row(case.name, medians["eager"], medians["smelt"], medians["eager"] / medians["smelt"], first, traffic.ops,
               report.kernels, traffic.bytes, report.bytes, traffic.peak, report.peak_memory,
               {k: medians[k] / medians["smelt"] for k in sides if k not in ("eager", "smelt")})


def table(rows: Sequence[Row]) -> str:
    others = list(rows[0].against) if rows else []
    head = ["program", "eager", "smelt", "eager/smelt", *(f"{o}/smelt" for o in others),
            "compile", "kernels", "bytes", "peak memory"]
    body = [[r.name, f"{r.eager_seconds * 1e6:.0f} us", f"{r.seconds * 1e6:.0f} us", f"{r.ratio:.2f}x",
             *(f"{r.against[o]:.2f}x" for o in others), f"{r.compile_seconds:.2f} s", f"{r.kernels_before} -> {r.kernels_after}",
             f"{size(r.bytes_before)} -> {size(r.bytes_after)}", f"{size(r.peak_before)} -> {size(r.peak_after)}"] for r in rows]
    widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))])
                     for line in [head, *body])


def size(count: float) -> str:
    """Bytes for people, to three digits."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GB"


def _plot_fault(path: Path) -> str:
    """Why no chart can be written there, "" if one can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install matplotlib"
    if path.suffix not in (".png", ".svg", ".pdf"):
        return f"--plot {path}: give a name that ends in one of .png, .svg, .pdf"
    return "" if path.parent.is_dir() else f"--plot {path}: there is no folder {path.parent}"


def plot(rows: Sequence[Row], path: str) -> None:
    """A bar chart of the speed-ups (needs matplotlib)."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(rows) + 1.2))
    names = [r.name for r in rows][::-1]
    axes.barh(names, [r.ratio for r in rows][::-1], color="#6a9a5b")
    axes.axvline(1, color="#444444", linewidth=1)
    for k, r in enumerate(rows[::-1]):
        axes.text(max(r.ratio, 1), k, f" {r.ratio:.2f}x", va="center")
    axes.set_xlabel("eager time / smelt time")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main(only: str = "", as_json: bool = False, plot_path: str = "", against: Sequence[str] = (), threads: int = 0,
         seconds: float = 1.0) -> int:
    if threads:
        torch.set_num_threads(threads)
    cases = [c for c in CASES if only in c.name]
    fault = "" if cases else f"no program has {only!r} in its name; there are: {', '.join(c.name for c in CASES)}"
    if plot_path:  # told before the minutes that the measurements take
        fault = fault or _plot_fault(Path(plot_path))
    if fault:
        print(fault, file=sys.stderr)
        return 2
    rows = [run_case(c, against, seconds) for c in cases]
    if as_json:
        found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": [asdict(r) for r in rows]}
        print(json.dumps(found, indent=2))
    else:
        threads = torch.get_num_threads()
        print(f"torch {torch.__version__}, {threads} thread{'s' if threads != 1 else ''}; medians of runs in turn; "
              "kernels, bytes read and written, and peak memory: eager -> smelt")
        print(table(rows))
    if plot_path:
        plot(rows, plot_path)
        print(f"wrote {plot_path}", file=sys.stderr)
    return 0
