"""Programs of one kernel each, to be timed against each other: a kernel cut in several ways, and torch's own product."""
from __future__ import annotations

from typing import Callable, Mapping

import torch

from ...compiler.dims import Expr, Sym, dot, expr_of
from ...runtime.program import Call, Launch, Program, Ref, Slot
from ..loops import AnyKernel, Axis, Buffer, MatMul, Store, sizes_of
from .printer import cuts, print_source

#: Of programs by name, the name of the fastest.
Choose = Callable[[Mapping[str, Program]], str]
#: The name of the program that calls torch's product.
LIBRARY = "library"


def trials_of_kernel(kernel: AnyKernel, device: torch.device) -> dict[str, Program]:
    """A program for each way to cut a kernel that gives another text; none where it has symbolic sizes, which no tensors are
    made up for."""
    if sizes_of(kernel) or any(isinstance(b.numel, Expr) for b in kernel.buffers):
        return {}
    places = tuple(range(len(kernel.buffers)))
    slots = tuple(Slot(b.name, "input", (b.numel,), (1,), b.dtype, device, position=n) for n, b in enumerate(kernel.buffers))
    found: dict[str, Program] = {}
    for cut in cuts(kernel):
        source = print_source(kernel.name, [("alone", [(kernel, places)])], cut=lambda _, cut=cut: cut)
        if all(source != p.source for p in found.values()):
            launch = Launch("alone", (kernel.name,), places)
            found[str(cut)] = Program(kernel.name, slots, places, (), (launch,), source, language="triton")
    return found


def trials_of_product(batch: int, m: int, n: int, k: int, dtype: torch.dtype, device: torch.device) -> dict[str, Program]:
    """torch's product of contiguous matrices, and the ways to cut a kernel that does the same."""
    kernel = _product(batch, m, n, k, dtype)
    shapes = (batch, m, k), (batch, k, n), (batch, m, n)
    slots = tuple(Slot(b.name, "input", s, (s[1] * s[2], s[2], 1), dtype, device, position=p)
                  for p, (b, s) in enumerate(zip(kernel.buffers, shapes)))
    call = Call(torch.bmm, (Ref(0), Ref(1)), {"out": Ref(2)}, (), "bmm")
    library = Program(kernel.name, slots, (0, 1, 2), (), (call,), "", language="triton")
    return {LIBRARY: library} | trials_of_kernel(kernel, device)


def _product(batch: int, m: int, n: int, k: int, dtype: torch.dtype) -> MatMul:
    """The product and nothing after it."""
    axes = tuple(Axis(Sym(f"i{d}", 0, size - 1), size) for d, size in enumerate((batch, m, n)))
    place = dot((expr_of(a.symbol) for a in axes), (m * n, n, 1))
    buffers = tuple(Buffer(name, p, dtype, size) for p, (name, size) in enumerate(
        [("in_a", batch * m * k), ("in_b", batch * k * n), ("out", batch * m * n)]))
    strides = (m * k, k, 1), (k * n, n, 1)
    return MatMul(f"product_{batch}_{m}_{n}_{k}", batch, m, n, k, *buffers[:2], *strides, dtype, axes, buffers,
                  (Store("out", place, "acc"),), ("product",))
