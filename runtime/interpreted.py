"""Triton's interpreter as smelt needs it: with the functions of libdevice and with conversions that round, which torch does on
the CPU, and with assertions.
"""
from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Callable, Iterator

import numpy as np
import torch

#: Functions of libdevice that torch has under another name, not exactly, or not at all.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "rint": torch.round, "fmod": lambda a, b: torch.from_numpy(np.fmod(a.numpy(), b.numpy())),
    "fma": lambda a, b, c: (a.double() * b.double() + c.double()).to(a.dtype)}
#: The interpreter keeps the place of the running program in one object of the process.
_lock = threading.RLock()


def interpreted(segment: Callable[..., int]) -> Callable[..., int]:
    """A segment that one thread at a time runs, and whose kernels divide by zero silently, as a GPU does. It returns 1 + the code
    of a check that failed."""
    from triton.runtime.errors import InterpreterError

    @wraps(segment)
    def run(*given) -> int:
        try:
            with _lock, _repaired(), np.errstate(all="ignore"), torch.no_grad():
                return segment(*(x.detach() if isinstance(x, torch.Tensor) else x for x in given))
        except InterpreterError as error:
            if not isinstance(error.__cause__, _Failed):
                raise
            return 1 + error.__cause__.code
    return run


class _Failed(Exception):
    """A check with this code failed."""

    def __init__(self, message: str):
        super().__init__(message)
        self.code = int(message.removeprefix("check "))


class Libdevice:
    """libdevice on the interpreter's values."""

    def __getattr__(self, name: str) -> Callable:
        function = FUNCTIONS.get(name) or getattr(torch.special, name, None) or getattr(torch, name)

        def call(first, *others):
            result = function(*(torch.from_numpy(np.array(x.handle.data)) for x in (first, *others)))
            return type(first)(type(first.handle)(result.numpy(), first.dtype), first.type)
        return call


@contextmanager
def _repaired() -> Iterator[None]:
    """With float32 to bfloat16 rounded, not cut off, with products of bfloat16, with scalar conditions that stay conditions in
    a tile, with the complement of unsigned numbers, for which NumPy 2.5 takes no -1, and with assertions, which it ignores."""
    from triton.runtime.interpreter import interpreter_builder as builder
    repairs = {"cast_impl": partial(_cast, builder.cast_impl), "create_splat": partial(_splat, builder.create_splat),
               "get_all_ones_value": partial(_all_ones, builder.get_all_ones_value),
               "create_dot": partial(_dot, builder.create_dot), "create_assert": _assert}
    options, checked = builder.options, replace(builder.options, debug=True, sanitize_overflow=False)
    vars(builder).update(repairs, options=checked)
    try:
        yield
    finally:
        for name in repairs:
            del vars(builder)[name]
        builder.options = options


def _assert(condition, message: str) -> None:
    if not np.all(condition.data):
        raise _Failed(message)


def _cast(original: Callable, value, dtype) -> Any:
    import triton.language as tl
    source, to = value.dtype.scalar, dtype.scalar
    if (source, to) == (tl.float32, tl.bfloat16):
        rounded = torch.from_numpy(np.array(value.data)).bfloat16().view(torch.int16)
        return type(value)(rounded.numpy().view(np.uint16), to)
    if (source, to) == (tl.bfloat16, tl.float32):
        wide = torch.from_numpy(np.array(value.data).view(np.int16)).view(torch.bfloat16).float()
        return type(value)(wide.numpy(), to)
    return original(value, dtype)


def _dot(original: Callable, a, b, *others) -> Any:
    import triton.language as tl
    if a.dtype.scalar == tl.bfloat16:  # which the interpreter holds as 16-bit integers
        a, b = (type(x)(torch.from_numpy(np.array(x.data).view(np.int16)).view(torch.bfloat16).float().numpy(), tl.float32)
                for x in (a, b))
    return original(a, b, *others)


def _splat(original: Callable, type_, value) -> Any:
    import triton.language as tl
    if value.data.dtype == np.bool_ and value.dtype.scalar != tl.int1:  # a comparison, which keeps its operands' dtype
        value = type(value)(value.data, tl.int1)
    return original(type_, value)


def _all_ones(original: Callable, type_) -> Any:
    import triton.language as tl
    scalar = type_.scalar
    if not scalar.is_int_unsigned() or scalar.int_bitwidth == 1:
        return original(type_)
    ones = original(tl.dtype(f"int{scalar.int_bitwidth}"))
    return type(ones)(ones.data.view(f"uint{scalar.int_bitwidth}"), scalar)
