"""Generated matrix products against torch.mm, one thread: microseconds, GFLOP/s, their ratio and the largest errors.

    python benchmarks/matmul.py                        the table of sizes (m x k x n)
    python benchmarks/matmul.py 64x784x64 1x512x512    these
"""
import sys
import time

import torch

from smelt import config
from smelt.codegen.c.isa import isa_of
from smelt.codegen.c.matmul import choose_tiling, oriented, use_library
from smelt.codegen.c.printer import print_source
from smelt.codegen.loops import Axis, Buffer, MatMul, Store
from smelt.compiler.dims import Sym, expr_of
from smelt.runtime import Launch, Program, Slot, load

SIZES = ("1x1x1", "1x784x64", "64x1024x1", "8x512x512", "64x64x10", "64x64x64", "64x784x64", "784x64x64", "128x128x128",
         "256x256x256", "512x512x512", "128x768x3072", "1024x1024x1024")


def product(a: torch.Tensor, c: torch.Tensor) -> MatMul:
    (m, k), n = a.shape, c.shape[1]
    i = [Sym(f"i{j}", 0, size - 1) for j, size in enumerate((1, m, n))]
    buffers = tuple(Buffer(name, slot, a.dtype, m * n) for slot, name in enumerate(("a", "c", "out")))
    store = Store("out", expr_of(i[1]) * n + expr_of(i[2]), "acc")
    return MatMul("product", 1, m, n, k, *buffers[:2], (0, *a.stride()), (0, *c.stride()), a.dtype,
                  tuple(Axis(s, size) for s, size in zip(i, (1, m, n))), buffers, (store,))


def generated(kernel: MatMul):
    """A function (a, c, out) that computes the product."""
    slots = tuple(Slot(b.name, "input", position=i) for i, b in enumerate(kernel.buffers))
    source = print_source("product", [("go", [(kernel, (0, 1, 2))])], (), config.isa)
    return load(Program("product", slots, (0, 1, 2), (), (Launch("go", ("product",), (0, 1, 2), threads=1),), source)).run


def best_times(functions, rounds: int = 12, seconds: float = 0.01) -> list[float]:
    """The best time of each function in seconds a call, taken in turns."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            calls, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                function()
                calls += 1
            best[i] = min(best[i], spent / calls)
    return best


def measure(m: int, k: int, n: int, layout: str) -> str:
    a = torch.randn(m, k) if layout[0] == "N" else torch.randn(k, m).t()
    c = torch.randn(k, n) if layout[1] == "N" else torch.randn(n, k).t()
    kernel, ours, theirs = product(a, c), torch.empty(m, n), torch.empty(m, n)
    run = generated(kernel)
    times = best_times([lambda: run(a, c, ours), lambda: torch.mm(a, c, out=theirs)])
    exact = a.double() @ c.double()
    errors = [(t - exact).abs().max().item() for t in (ours, theirs)]
    speeds = [2e-9 * m * n * k / t for t in times]
    tiling = choose_tiling(oriented(kernel), isa_of(config.isa))
    both = [f"{name} {t * 1e6:9.2f} us {speed:4.0f}" for name, t, speed in zip(("ours", "mm"), times, speeds)]
    columns = [f"{m}x{k}x{n} {layout}".ljust(20), *both, f"ratio {times[1] / times[0]:4.2f}",
               f"errors {errors[0]:.0e} {errors[1]:.0e}",
               f"{tiling.rows}x{tiling.vectors} {tiling.panel}", "library" if use_library(m, n, k, a.dtype) else ""]
    return "  ".join(columns)


def main(sizes) -> None:
    torch.set_num_threads(1)
    for size in sizes:
        for layout in ("NN", "NT", "TN"):
            print(measure(*map(int, size.split("x")), layout), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or SIZES)
