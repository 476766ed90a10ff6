"""A whole Triton source: kernels, and the functions that launch them one after another."""
from __future__ import annotations

from typing import Callable, Iterable, Sequence, Union

from ..loops import AnyKernel, MatMul
from .body import Names
from .helpers import helpers_of
from .kernel import Function, print_kernel
from .matmul import ProductTiling, print_product, product_tilings
from .tiling import TRIED, Sizes

Call = tuple[AnyKernel, tuple[int, ...]]
#: How a kernel is cut into programs, and how many warps these have.
Cut = Union[Sizes, ProductTiling]


def cuts(kernel: AnyKernel) -> tuple[Cut, ...]:
    """The ways to cut a kernel that are worth trying, the one that is taken untried first."""
    return product_tilings(kernel) if isinstance(kernel, MatMul) else TRIED


def first_cut(kernel: AnyKernel) -> Cut:
    return cuts(kernel)[0]


def print_source(name: str, segments: Sequence[tuple[str, Sequence[Call]]], sizes: Iterable[str] = (),
                 cut: Callable[[AnyKernel], Cut] = first_cut) -> str:
    """A Python module in which each segment is a function `<symbol>(*tensors, *sizes, **options)`.

    It takes the tensor of each slot that its kernels use, in the order of their first use, and the program's sizes, and
    launches the kernels with Triton's `options`, and returns 0. A check that fails is an assertion of the device's, as those
    of torch's own kernels are.
    """
    names = Names({*(symbol for symbol, _ in segments), *sizes})
    kernels = dict.fromkeys(kernel for _, calls in segments for kernel, _ in calls)
    printed = {kernel: print_function(kernel, names.fresh(kernel.name), cut(kernel)) for kernel in kernels}
    launches = "\n\n".join(_segment(symbol, [(printed[k], slots) for k, slots in calls], sizes) for symbol, calls in segments)
    return _module(name, "\n\n".join(f.text for f in printed.values()), launches)


def print_function(kernel: AnyKernel, name: str, cut: Cut) -> Function:
    return (print_product if isinstance(kernel, MatMul) else print_kernel)(kernel, name, cut)


def print_alone(kernel: AnyKernel, cut: Cut | None = None) -> tuple[str, Function]:
    """A module of one kernel and nothing that launches it, and the kernel's function."""
    function = print_function(kernel, Names().fresh(kernel.name), cut or first_cut(kernel))
    return _module(function.signature.name, function.text, ""), function


def _module(title: str, functions: str, launches: str) -> str:
    functions = helpers_of(functions) + functions
    parts = [f'"""{title}"""\n{_imports(functions, launches)}', functions, launches]
    return "\n\n".join(p for p in parts if p)


def _imports(functions: str, launches: str) -> str:
    lines = ["import torch"] * ("torch." in launches) + ["import triton", "import triton.language as tl"]
    lines += ["from triton.language.extra import libdevice"] * ("libdevice." in functions)
    return "\n".join(lines) + "\n"


def _segment(symbol: str, calls: Sequence[tuple[Function, tuple[int, ...]]], sizes: Iterable[str]) -> str:
    """The function that launches a segment's kernels."""
    slots = dict.fromkeys(s for _, slots in calls for s in slots)
    lines = [f"def {symbol}({''.join(f'{x}, ' for x in (*(f'slot_{s}' for s in slots), *sizes))}**options):"]
    asked = {n: text for f, _ in calls for n, text in f.asked.items()}
    lines += [f"    {n.lower()} = {text}" for n, text in asked.items()]
    for f, given in calls:
        named = {**f.signature.constants, **{n: n.lower() for n in f.asked}, **f.signature.options}
        arguments = [*(f"slot_{s}" for s in given), *f.signature.sizes,
                     *(f"{n}={v}" for n, v in named.items()), "**options"]
        if f.programs != 0:
            lines.append(f"    {f.signature.name}[({f.programs},)]({', '.join(arguments)})")
    lines.append("    return 0")
    return "\n".join(lines) + "\n"
