"""A whole Triton source: kernels, and the functions that launch them one after another."""
from __future__ import annotations

from typing import Iterable, Sequence

from ...errors import Unsupported
from ..loops import AnyKernel, Kernel
from .body import Names
from .helpers import helpers_of
from .kernel import Function, print_kernel

Call = tuple[AnyKernel, tuple[int, ...]]


def print_source(name: str, segments: Sequence[tuple[str, Sequence[Call]]], sizes: Iterable[str] = ()) -> str:
    """A Python module in which each segment is a function `<symbol>(*tensors, *sizes, **options)`.

    It takes the tensor of each slot that its kernels use, in the order of their first use, and the program's sizes, and
    launches the kernels with Triton's `options`. It returns 0, or 1 + the code of a check that failed (an index into the
    program's messages).
    """
    names = Names({*(symbol for symbol, _ in segments), *sizes})
    kernels = dict.fromkeys(kernel for _, calls in segments for kernel, _ in calls)
    for kernel in kernels:
        if not isinstance(kernel, Kernel):
            raise Unsupported("a matrix product as a Triton kernel")
    printed = {kernel: print_kernel(kernel, names.fresh(kernel.name)) for kernel in kernels}
    launches = "\n\n".join(_segment(symbol, [(printed[k], slots) for k, slots in calls], sizes) for symbol, calls in segments)
    return _module(name, "\n\n".join(f.text for f in printed.values()), launches)


def print_alone(kernel: Kernel) -> tuple[str, Function]:
    """A module of one kernel and nothing that launches it, and the kernel's function."""
    function = print_kernel(kernel, Names().fresh(kernel.name))
    return _module(function.signature.name, function.text, ""), function


def _module(title: str, functions: str, launches: str) -> str:
    parts = [f'"""{title}"""\n{_imports(functions, launches)}', helpers_of(functions) + functions, launches]
    return "\n\n".join(p for p in parts if p)


def _imports(functions: str, launches: str) -> str:
    lines = ["import torch"] * ("torch." in launches) + ["import triton", "import triton.language as tl"]
    lines += ["from triton.language.extra import libdevice"] * ("libdevice." in functions)
    return "\n".join(lines) + "\n"


def _segment(symbol: str, calls: Sequence[tuple[Function, tuple[int, ...]]], sizes: Iterable[str]) -> str:
    """The function that launches a segment's kernels."""
    slots = dict.fromkeys(s for _, slots in calls for s in slots)
    checks = any(f.checks for f, _ in calls)
    lines = [f"def {symbol}({''.join(f'{x}, ' for x in (*(f'slot_{s}' for s in slots), *sizes))}**options):"]
    if checks:
        lines.append(f"    error = torch.zeros(1, dtype=torch.int32, device=slot_{next(iter(slots))}.device)")
    for f, given in calls:
        arguments = [*(f"slot_{s}" for s in given), *(["error"] if f.checks else []), *f.signature.sizes,
                     *(f"{n}={v}" for n, v in {**f.signature.constants, **f.signature.options}.items()), "**options"]
        if f.programs != 0:
            lines.append(f"    {f.signature.name}[({f.programs},)]({', '.join(arguments)})")
    lines.append(f"    return {'int(error)' if checks else '0'}")
    return "\n".join(lines) + "\n"
