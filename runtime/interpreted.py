"""Triton's interpreter as smelt needs it: with the functions of libdevice and with conversions that round, which torch does on
the CPU, and with assertions.
"""
from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial, wraps
from itertools import accumulate
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch


@lru_cache
def _fma_of(dtype: torch.dtype) -> Callable[[float, float, float], float]:
    """That of the C library."""
    name, number = {torch.float32: ("fmaf", ctypes.c_float), torch.float64: ("fma", ctypes.c_double)}[dtype]
    function = getattr(ctypes.CDLL(None), name)
    function.restype, function.argtypes = number, [number] * 3
    return function


def _fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a*b + c, rounded once."""
    fused = np.vectorize(_fma_of(a.dtype), otypes=[a.numpy().dtype])
    return torch.from_numpy(fused(a.numpy(), b.numpy(), c.numpy()))


#: Functions of libdevice that torch has under another name, not exactly, or not at all.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "rint": torch.round, "fmod": lambda a, b: torch.from_numpy(np.fmod(a.numpy(), b.numpy())), "fma": _fma}
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
    a tile, with the complement of unsigned numbers, for which NumPy 2.5 takes no -1, with assertions, which it ignores, and with
    reductions and scans of whole tiles, which it takes element by element."""
    from triton.runtime.interpreter import ReduceOps, ScanOps, interpreter_builder as builder
    repairs = {"cast_impl": partial(_cast, builder.cast_impl), "create_splat": partial(_splat, builder.create_splat),
               "get_all_ones_value": partial(_all_ones, builder.get_all_ones_value),
               "create_dot": partial(_dot, builder.create_dot), "create_assert": _assert}
    options, checked = builder.options, replace(builder.options, debug=True, sanitize_overflow=False)
    vars(builder).update(repairs, options=checked)
    elementwise = ReduceOps.generic_reduce, ScanOps.generic_scan
    ReduceOps.generic_reduce, ScanOps.generic_scan = _reduce, _scan
    try:
        yield
    finally:
        ReduceOps.generic_reduce, ScanOps.generic_scan = elementwise
        for name in repairs:
            del vars(builder)[name]
        builder.options = options


def _reduce(self, tiles: Sequence) -> list:
    """Half of the tiles with the other half, again and again: as a GPU does, whose sums are the more accurate for it."""
    axis, rank = self.axis or 0, tiles[0].handle.data.ndim
    found = [t.handle.data.reshape(-1) if self.axis is None else t.handle.data for t in tiles]
    while found[0].shape[axis] > 1:
        found = _combined(self, tiles, *zip(*(np.split(x, 2, axis) for x in found)))
    if not self.keep_dims:
        found = [x.item() if self.axis is None else x.squeeze(axis) for x in found]
    elif self.axis is None:
        found = [x.reshape((1,) * rank) for x in found]
    return [self.to_tensor(x, t.dtype) for x, t in zip(found, tiles)]


def _scan(self, tiles: Sequence) -> list:
    """Place after place, of all rows at once."""
    places = list(zip(*(np.split(t.handle.data, t.handle.data.shape[self.axis], self.axis) for t in tiles)))
    found = list(accumulate(places, lambda before, given: _combined(self, tiles, before, given)))
    return [self.to_tensor(np.concatenate(column, self.axis), t.dtype) for column, t in zip(zip(*found), tiles)]


def _combined(self, tiles: Sequence, some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The combining function of a reduction or scan of these tiles, on parts of them."""
    result = self.combine_fn.fn(*(self.to_tensor(x, t.dtype) for part in (some, others) for x, t in zip(part, tiles)))
    return [x.handle.data for x in (result if isinstance(result, tuple) else (result,))]


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
