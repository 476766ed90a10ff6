"""A kernel as a function in C, and calls of it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from ...compiler.dims import Dim


@dataclass(frozen=True)
class Function:
    """A kernel as `static void <name>(<pointers>, <sizes>, <numbers>, long tid, long threads, long *error)`, which does thread
    `tid`'s share of it.

    work      the estimated time of all of its `points` on one thread, in microseconds, at typical sizes
    sizes     the symbols that it takes
    checks    it may set the error
    together  there are barriers in it, so that all threads of a team call it, or one without the others
    matmul    it is a matrix product
    numbers   what it takes as a kernel that shares its text with others (sharing.py)
    """
    name: str
    text: str
    work: float
    points: Dim
    sizes: tuple[str, ...]
    checks: bool
    together: bool = False
    matmul: bool = False
    numbers: tuple[str, ...] = ()

    def call(self, pointers: Sequence[str], tid: str, threads: str, error: str = "&error") -> str:
        return f"{self.name}({', '.join([*pointers, *map(size_name, self.sizes), *self.numbers, tid, threads, error])});"


def size_name(symbol: str) -> str:
    """The C variable for a size symbol, outside kernels."""
    return f"size_{symbol}"
