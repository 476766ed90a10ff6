"""How a kernel is cut into the programs of a Triton grid: tiles of one or two dimensions, and warps.

A dimension of a tile runs over one or more of the kernel's axes, flattened. Kernels without reduction have one dimension,
or two where memory is contiguous along different axes (transposes). Kernels with reduction have the kept axes in the first
dimension and the reduced ones in the last, all of them in one tile where they fit ("persistent"), else in a loop.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Sequence

import torch

from ...compiler.dims import Dim, known, product, simplest, typical
from ..loops import Axis, Kernel, Load, Scan, Store, symbols_of
from ..stages import Stages

#: Most reduced elements that one tile holds: a row in the registers of a program.
LONGEST_ROW = 16 * 1024
#: Kept elements of a tile whose memory is contiguous along a kept axis.
COLUMNS = 64
#: The least elements of a tile of a loop over rows or columns of symbolic length.
SHORT_TILE = 128
#: The most warps of a program.
MOST_WARPS = 16
#: Elements in a buffer from which on an index needs 64 bits.
LARGE = 2 ** 31


#: Programs of a grid that keep a large GPU busy, and the least elements of a row, or rows of columns, that one is worth.
PROGRAMS, PIECE_OF_ROW, PIECE_OF_COLUMNS = 1024, 4096, 32
#: Elements of a reduction that is worth a second launch.
WORTH_SPLITTING = 1 << 16


def parts_for_programs(elements: int, results: int, rows: bool) -> int:
    """Into how many parts a reduction is split so that all processors have a share (prepare.Parts); rows that fit a tile are
    not, since what follows is fused with them."""
    length, programs = elements // results, results if rows else -(-results // COLUMNS)
    if elements < WORTH_SPLITTING or programs >= PROGRAMS // 2 or (rows and length <= LONGEST_ROW):
        return 1
    return max(min(PROGRAMS // programs, length // (PIECE_OF_ROW if rows else PIECE_OF_COLUMNS)), 1)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class Sizes:
    """Elements of tiles, which the heuristic knows and autotuning tries others of.

    tile      of a kernel without reduction
    side      along each side of one between memory that is contiguous along different axes
    rows      of one that short rows are joined into
    loop      of one of a loop over rows, or over columns
    thread    of a thread's share of a tile
    """
    tile: int = 1024
    side: int = 32
    rows: int = 1024
    loop: int = 2048
    thread: int = 8

    def __str__(self):
        return f"tile {self.tile}, side {self.side}, rows {self.rows}, loop {self.loop}, thread {self.thread}"


#: What autotuning tries.
TRIED = (Sizes(), Sizes(thread=4), Sizes(thread=16), Sizes(tile=512, rows=512, loop=1024), Sizes(256, 16, 256, 1024, 4),
         Sizes(2048, 64, 2048, 4096), Sizes(2048, 64, 2048, 4096, 16), Sizes(4096, 64, 4096, 8192, 16))


def _size(axes: Sequence[Axis]) -> Dim:
    return product(a.size for a in axes)


def _room(size: Dim) -> int:
    """The largest block that makes sense for so many elements; one of a symbolic size may be of any length."""
    return power_of_two(size) if isinstance(size, int) else LARGE


@dataclass(frozen=True)
class Span:
    """One dimension of a tile: `block` elements (a power of two) of the `size` elements of its axes, flattened."""
    axes: tuple[Axis, ...]
    size: Dim
    block: int
    reduce: bool = False

    @property
    def ragged(self) -> bool:
        """Whether the last tile has places without an element."""
        return self.size % self.block != 0

    @property
    def tiles(self) -> Dim:
        return simplest((self.size + self.block - 1) // self.block)


class Tiling:
    """The shape of a kernel's programs.

    outer       axes of which a program has one place
    spans       the dimensions of its tile; a reduced one is the last
    persistent  whether all reduced elements are in one tile
    warps       of a program
    """

    def __init__(self, kernel: Kernel, stages: Stages, sizes: Sizes = Sizes()):
        self.kernel, self.stages, self.sizes = kernel, stages, sizes
        self.outer: tuple[Axis, ...] = ()
        self.spans: tuple[Span, ...] = ()
        if kernel.reduced:
            self._rows_or_columns()
        elif kernel.parallel:
            self._pointwise()
        elements = 1
        for s in self.spans:
            elements *= s.block
        self.warps = min(max(power_of_two(elements // (32 * self._share)), 1), MOST_WARPS)

    @property
    def persistent(self) -> bool:
        return all(s.tiles == 1 for s in self.spans if s.reduce)

    @property
    def programs(self) -> Dim:
        """Programs of the grid."""
        return product([*(a.size for a in self.outer), *(s.tiles for s in self.spans if not s.reduce)])

    @property
    def wide(self) -> bool:
        """Whether indices need 64 bits."""
        elements = product([self.programs, *(s.block for s in self.spans)])
        return not all(known(LARGE - 1, n) for n in (elements, *(b.numel for b in self.kernel.buffers)))

    @property
    def _share(self) -> int:
        """How many elements of a tile are one thread's: fewer where an element takes more registers, for what scans carry
        along, or for a place that 64-bit arithmetic finds."""
        found = self.wide and (len(self.spans) > 1 or any(len(s.axes) > 1 for s in self.spans))
        return max(self.sizes.thread // max(self._scans, 2 if found else 1), 1)

    @cached_property
    def _scans(self) -> int:
        """How many pairs of values scans carry along, as a power of two; 1 without scans."""
        scans = [s for s in self.kernel.body if isinstance(s, Scan)]
        return power_of_two((len(scans) + sum(s.op in ("argmax", "argmin") for s in scans) + 1) // 2)

    # Shapes

    def _pointwise(self) -> None:
        axes = self.kernel.parallel
        inner, other = self._contiguous_axes
        if other is None:
            self.spans = (self._span(axes, self.sizes.tile),)
            return
        self.outer = tuple(a for a in axes if a not in (inner, other))
        self.spans = (self._span((other,), self.sizes.side), self._span((inner,), self.sizes.side))

    def _rows_or_columns(self) -> None:
        kept, reduced = self.kernel.parallel, self.kernel.reduced
        row, inner = _size(reduced), self._contiguous_axes[0]
        columns = inner is not None and not inner.reduce
        most = _room(_size(kept))
        width = min(most, COLUMNS) if columns else 1
        if isinstance(row, int) and power_of_two(row) * width <= self._most(columns):
            length = power_of_two(row)
            width = max(width, min(most, self.sizes.rows // length))
        else:
            length = max(self._loop // width, 1)
            length = min(length, max(power_of_two(typical(row)), SHORT_TILE))
        last = Span(reduced, row, length, reduce=True)
        if width == 1:
            self.outer, self.spans = kept, (last,)
        else:
            self.spans = (Span(kept, _size(kept), width), last)

    def _most(self, columns: bool) -> int:
        """The most elements of a tile that holds all reduced ones, so that they fit the registers with what a scan finds."""
        if any(isinstance(s, Scan) for s in self.kernel.body):
            return self._loop
        doubles = any(b.dtype == torch.float64 for b in self.kernel.buffers)
        return self.sizes.loop * 2 if columns else LONGEST_ROW // 2 if doubles else LONGEST_ROW

    @property
    def _loop(self) -> int:
        """The elements of a tile of a loop, so that those of a scan have threads enough."""
        return max(self.sizes.loop // self._scans, 1)

    def _span(self, axes: Sequence[Axis], block: int) -> Span:
        size = _size(axes)
        return Span(tuple(axes), size, min(block, _room(size)))

    # Memory

    @cached_property
    def _contiguous_axes(self) -> tuple[Axis | None, Axis | None]:
        """The axis along which most elements lie next to each other in memory, and one along which others do that would be
        read or written far apart along the first."""
        weights: dict[Axis, int] = {}
        steps = [self._steps(s) for s in self.kernel.body if isinstance(s, (Load, Store))]
        for step, elements in steps:
            for axis, c in step.items():
                if abs(c) == 1:
                    weights[axis] = weights.get(axis, 0) + elements
        if not weights:
            return None, None
        first = max(weights, key=lambda a: (weights[a], self.kernel.axes.index(a)))
        apart = [a for step, _ in steps if abs(step.get(first, 0)) > 1 for a, c in step.items() if abs(c) == 1]
        return first, max(apart, key=weights.__getitem__, default=None)

    def _steps(self, s: Load | Store) -> tuple[dict[Axis, int], int]:
        """(elements in memory for a step along each axis that is alone in the index, elements read or written): typical ones."""
        found = {}
        for a in self.kernel.axes:
            step = s.index.coefficient(a.symbol) if a.symbol.name in symbols_of(s) else 0
            if step and self.stages.sizes[a.symbol.name] > 1:
                found[a] = typical(step)
        return found, self.stages.count(symbols_of(s) & self.stages.sizes.keys())
