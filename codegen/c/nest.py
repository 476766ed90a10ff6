"""A kernel as a C function: its parallel loops, and its share of the work for each thread.

What stands inside the parallel loops differs: pointwise.py (no reduction), rows.py (the lanes run along a reduced axis),
columns.py (they run along a kept one).
"""
from __future__ import annotations

from typing import Callable, Sequence

from ...compiler.dims import Dim, Expr, product, typical
from ..loops import Axis, Kernel, Load, Reduce, Store, sizes_of
from .body import Body, Writer
from .helpers import STREAMING
from .isa import Isa, memory_type
from .schedule import Schedule

#: Loads of a buffer of at least so many bytes fetch memory in advance: caches hold a smaller one.
FETCH_FROM = 256 * 1024
#: Bytes that they fetch in advance.
FETCH_AHEAD = 8192
#: Bytes that the nearest cache holds in any case: what one pass over them has read, the next finds there.
NEAREST_CACHE = 32 * 1024
#: Buffers of at least so many bytes are stored past the caches.
STREAM_FROM = 8 * 1024 * 1024
#: Work items that the parallel loops are cut into at least, where there are as many, for threads to share.
ITEMS = 64


def ceiling(size: Dim, by: int) -> Dim:
    """How many pieces of `by` a size makes."""
    return (size + by - 1) // by


def within(size: Dim, limit: int) -> bool:
    """Whether a size is at most `limit`; a symbolic one may be more."""
    return isinstance(size, int) and size <= limit


class Nest:
    """Prints one kernel. A subclass fills `inside` and says how the lane axis is cut into work items."""

    def __init__(self, kernel: Kernel, isa: Isa, plan: Schedule):
        self.kernel, self.isa, self.plan = kernel, isa, plan
        self.vector, self.lanes = plan.vector, plan.lanes
        self.body = Body(kernel.body, kernel.buffers, isa, self.lanes, self.vector.symbol.name if self.vector else "",
                         [a.symbol.name for a in kernel.axes], sizes_of(kernel), reduced=plan.reduced)
        self.w = Writer()
        self.outer = [a for a in kernel.parallel if a is not self.vector]
        self.body.streamed.update(b.name for b in kernel.buffers if typical(b.numel) * b.dtype.itemsize >= STREAM_FROM
                                  and (isa.name, str(memory_type(b.dtype, self.lanes))) in STREAMING)

    def inside(self) -> None:
        """Print what stands inside the parallel loops; the lane axis, if it is one, is still closed."""
        raise NotImplementedError

    def tile(self) -> int:
        """Elements of the lane axis that a work item takes, where that axis is a parallel one; a multiple of the lanes."""
        raise NotImplementedError

    # What the shapes share

    def typical(self, axis: Axis) -> int:
        """The size by which costs are weighed."""
        return self.plan.sizes[axis.symbol.name]

    def end(self, axis: Axis) -> str:
        """The text of an axis's size."""
        return self.body.size(axis.size)

    def steps(self, axis: Axis) -> Dim:
        """Iterations of an outer loop."""
        return axis.size

    def name(self, axis: Axis) -> str:
        return self.body.axis_names[axis.symbol.name]

    def counter(self, axis: Axis) -> str:
        """The variable of an outer loop."""
        return self.name(axis)

    def write(self, i: int, live: bool = False) -> None:
        self.body.write(self.w, self.kernel.body[i], live)

    def along(self, i: int) -> bool:
        """Whether statement i varies over the lane axis."""
        return self.vector is not None and self.vector.symbol.name in self.plan.varies[i]

    def early(self, i: int) -> bool:
        """Whether statement i is printed by the outer loops: it needs no reduction and does not vary further in."""
        return (self.plan.stage[i] == 0 and not isinstance(self.kernel.body[i], Reduce)
                and self.plan.varies[i] <= {a.symbol.name for a in self.outer})

    # Fetching in advance

    def fetch_ahead(self, around: Axis | None) -> None:
        """Let loads of large buffers fetch what the lanes' loop, or the loop `around` it, comes to later. The processor
        does so on its own up to the end of a page, which is often less than a row further."""
        for s in self.kernel.body:
            if isinstance(s, Load) and not s.guard and self.vector is not None and self.body.step(s.index) == 1:
                buffer, line = self.body.buffer_of[s.buffer], memory_type(s.dtype, self.lanes).bytes
                distance = self._distance(s, around)
                if distance and line >= 32 and typical(buffer.numel) * s.dtype.itemsize >= FETCH_FROM:
                    self.body.ahead[s.name] = distance

    def _distance(self, s: Load, around: Axis | None) -> int:
        """Elements from where a load reads to what is read about FETCH_AHEAD bytes later; 0 where that is not known."""
        row = self.typical(self.vector) * s.dtype.itemsize
        if row >= 4 * FETCH_AHEAD:
            return FETCH_AHEAD // s.dtype.itemsize
        step = s.index.coefficient(around.symbol) if around is not None else 0
        return typical(step or 0) * max(1, FETCH_AHEAD // max(row, 1))

    # The function

    def text(self) -> str:
        axes = ", ".join(f"{self.name(a)} < {a.size}{' reduced' if a.reduce else ''}" for a in self.kernel.axes)
        self.w.line(f"// {', '.join(self.kernel.values) or self.kernel.name}{': ' + axes if axes else ''}")
        self.w.open(self._signature())
        if all(a.size != 0 for a in self.kernel.parallel):
            self._items()
            if any(s.buffer in self.body.streamed for s in self.kernel.body if isinstance(s, Store)):
                self.w.line("__builtin_ia32_sfence();")
        self.w.close()
        return str(self.w)

    def prologue(self) -> None:
        """Print what stands before the loops."""

    def _signature(self) -> str:
        stored = {s.buffer for s in self.kernel.body if isinstance(s, Store)}
        parameters = [*self.body.parameters(stored), "long tid", "long threads", "long *error"]
        return f"static void {self.kernel.name}({', '.join(parameters)})"

    # The parallel loops

    def _items(self) -> None:
        """Open the work items' loop and the parallel loops inside it, and print what they hold."""
        leading: list[Axis] = []
        total: Dim = 1
        for a in self.outer:
            if typical(total) >= ITEMS:
                break
            leading.append(a)
            total *= self.steps(a)
        tiles: Dim = 1
        if self.vector is not None and not self.vector.reduce and self.cuts_lanes(leading, total):
            tiles = ceiling(self.vector.size, self.tile())
        depth = self.w.depth
        shares = total * tiles == 1 and self.shares_lanes()
        if total * tiles == 1 and not shares:
            self.w.line("if (tid) return;")
        self._early_statements([])
        self.prologue()
        self._open_items(leading, total, tiles)
        if shares:
            self._open_share()
        if leading:
            self._early_statements(leading)
        for position, a in enumerate(self.outer[len(leading):], len(leading)):
            i = self.counter(a)
            self.w.open(f"for (long {i} = 0; {i} < {self.body.size(self.steps(a))}; {i}++)")
            self._early_statements(self.outer[:position + 1], a)
        self.inside()
        while self.w.depth > depth:
            self.w.close()

    def cuts_lanes(self, leading: list[Axis], total: Dim) -> bool:
        """Whether the lane axis is cut into tiles: where the leading loops have too few steps for the threads to share."""
        return len(leading) == len(self.outer) and typical(total) < ITEMS

    def shares_lanes(self) -> bool:
        """Whether threads share the vectors of the lane axis where they have nothing else to share."""
        return False

    def _open_share(self) -> None:
        v, size, n = self.name(self.vector), self.vector.size, self.lanes
        self.first, self.last = self.body.names.fresh(v + "_first"), self.body.names.fresh(v + "_last")
        vectors = ceiling(size, n)
        self.w.line(f"const long {self.first} = {vectors} * tid / threads * {n};")
        end = f"{vectors} * (tid + 1) / threads * {n}"
        self.w.line(f"const long {self.last} = {end if size % n == 0 else f'{end} < {size} ? {end} : {size}'};")

    def _open_items(self, leading: list[Axis], total: Dim, tiles: Dim) -> None:
        w, items = self.w, total * tiles
        self.first, self.last = "0", self.end(self.vector) if self.vector else ""
        if items == 1:
            w.open()
            for a in leading:
                w.line(f"const long {self.counter(a)} = 0;")
            return
        count = self.body.size(items)
        share = f"= {count} * tid / threads; @ < {count} * (tid + 1) / threads; @++"
        if tiles == 1 and len(leading) == 1:
            w.open(f"for (long {self.counter(leading[0])} {share.replace('@', self.counter(leading[0]))})")
            return
        w.open(f"for (long item {share.replace('@', 'item')})")
        for k, a in enumerate(leading):
            step = product([*map(self.steps, leading[k + 1:]), tiles])
            index = f"item / {self.body.size(step)}" if step != 1 else "item"
            w.line(f"const long {self.counter(a)} = {index if k == 0 else f'{index} % {self.body.size(self.steps(a))}'};")
        if tiles != 1:
            self._open_tile(tiles, bool(leading))

    def _open_tile(self, tiles: Dim, leading: bool) -> None:
        v, size, tile = self.name(self.vector), self.end(self.vector), self.tile()
        self.first, self.last = self.body.names.fresh(v + "_first"), self.body.names.fresh(v + "_last")
        self.w.line(f"const long {self.first} = {f'item % {self.body.size(tiles)}' if leading else 'item'} * {tile};")
        end = f"{self.first} + {tile}"
        self.w.line(f"const long {self.last} = {end if self.vector.size % tile == 0 else f'{end} < {size} ? {end} : {size}'};")

    def _early_statements(self, opened: Sequence[Axis], newest: Axis | None = None) -> None:
        """Print the statements that vary over the loops open so far, and over the newest (any of them where None)."""
        names = {a.symbol.name for a in opened}
        for i in range(len(self.kernel.body)):
            varies = self.plan.varies[i]
            fresh = (newest is None or newest.symbol.name in varies) if varies else not opened
            if self.early(i) and varies <= names and fresh:
                self.write(i)

    def along_lanes(self, emit: Callable[[bool], object], column: bool = False) -> None:
        """The loop over the work item's part of a parallel lane axis: `emit(live)` prints its inside, once for whole vectors
        and once for the last lanes, which the mask `live` tells. `column` counts vectors from the item's first."""
        w, v, n, size = self.w, self.name(self.vector), self.lanes, self.end(self.vector)
        left = self.vector.size % n
        whole = self.body.size(self.vector.size - left)
        start, step = (", column = 0", ", column++") if column else ("", "")
        if whole != "0":
            w.open(f"for (long {v} = {self.first}{start}; {v} + {n} <= {self.last}; {v} += {n}{step})")
            emit(False)
            w.close()
        if left != 0:
            conditions = [f"{self.last} == {size}"] * (self.last != size) + [self.body.size(left)] * isinstance(left, Expr)
            w.open(f"if ({' && '.join(conditions)})" if conditions else "")
            w.line(f"const long {v} = {whole};")
            if column:
                w.line(f"const long column = ({whole} - {self.first}) / {n};")
            self.body.live(w, self.body.size(left))
            emit(True)
            w.close()
