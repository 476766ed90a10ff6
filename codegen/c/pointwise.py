"""Kernels without reductions: one loop along the lanes.

A load that is contiguous along another axis than the lanes' (x + y.T) is read by square tiles, which are transposed in
registers.
"""
from __future__ import annotations

from ...compiler.dims import Expr
from ..loops import Axis, Kernel, Load
from .isa import Isa, memory_type
from .nest import Nest
from .schedule import Schedule

#: Elements of a work item along the lanes.
CHUNK = 4096


class Pointwise(Nest):
    def __init__(self, kernel: Kernel, isa: Isa, plan: Schedule):
        super().__init__(kernel, isa, plan)
        self.across, self.transposed = self._transposed_loads()
        if self.across is None:
            self.fetch_ahead(self.outer[-1] if self.outer else None)
        if self.across is not None:  # its loop goes by tiles, and its statements stand inside
            self.axis, self.tile_number = self.name(self.across), self.body.names.fresh(self.name(self.across) + "_tile")

    def tile(self) -> int:
        return min(-(-self.size(self.vector) // self.lanes) * self.lanes, CHUNK)

    def inside(self) -> None:
        rest = [i for i in range(len(self.kernel.body)) if not self.early(i)]
        if not rest:
            return
        if self.across is None:
            self.along_lanes(lambda live: [self.write(i, live) for i in rest])
        else:
            self._open_square()
            self.along_lanes(lambda live: self._square(rest, live))

    # Transposed tiles

    def _transposed_loads(self) -> tuple[Axis | None, list[Load]]:
        """The axis that most strided loads are contiguous along, and those loads."""
        found: dict[Axis, list[Load]] = {}
        for s in self.kernel.body:
            if isinstance(s, Load) and not s.guard and self.vector and self.body.step(s.index) not in (None, 0, 1):
                for a in self.outer:
                    if self._contiguous_along(s.index, a) and self.size(a) >= self.lanes > 1:
                        found.setdefault(a, []).append(s)
        across = max(found, key=lambda a: len(found[a]), default=None)
        return across, found.get(across, [])

    def _contiguous_along(self, index: Expr, axis: Axis) -> bool:
        gathered = any(s.name in self.plan.position for s in index.symbols())
        return index.coefficient(axis.symbol) == 1 and not gathered

    def steps(self, axis: Axis) -> int:
        return -(-self.size(axis) // self.lanes) if axis is self.across else self.size(axis)

    def counter(self, axis: Axis) -> str:
        return self.tile_number if axis is self.across else super().counter(axis)

    def early(self, i: int) -> bool:
        return super().early(i) and (self.across is None or self.across.symbol.name not in self.plan.varies[i])

    def _open_square(self) -> None:
        """Where the present tile begins on the transposed axis, and how many of its steps there are."""
        size, n = self.size(self.across), self.lanes
        self.start, self.count = self.body.names.fresh(self.axis + "_first"), str(n)
        self.w.line(f"const long {self.start} = {self.tile_number} * {n};")
        if size % n:
            self.count = self.body.names.fresh(self.axis + "_count")
            self.w.line(f"const long {self.count} = {size} - {self.start} < {n} ? {size} - {self.start} : {n};")
            self.below = self.body.names.fresh(self.axis + "_live")
            self.body.live(self.w, self.count, self.below)

    def _square(self, rest: list[int], live: bool) -> None:
        """Read the transposed loads' tiles at once, then go through the steps of the transposed axis."""
        for s in self.transposed:
            self._read_square(s, live)
        self.w.open(f"for (long u = 0; u < {self.count}; u++)")
        self.w.line(f"const long {self.axis} = {self.start} + u;")
        for i in rest:
            self.write(i, live)
        self.w.close()

    def _read_square(self, s: Load, live: bool) -> None:
        w, n, size = self.w, self.lanes, self.size(self.across)
        t, p = memory_type(s.dtype, n), self.body.pointers[s.buffer]
        square = self.body.names.fresh(self.body.c_names[s.name] + "_square")
        w.line(f"{t} {square}[{n}]{' = {}' if live else ''};")
        w.open(f"for (long u = 0; u < {self.size(self.vector) % n if live else n}; u++)")
        w.line(f"const long {self.axis} = {self.start};")
        at = f"{p} + {self.body.place(s.index, 'u')}"
        row = f"load_{t}({at})"
        if size % n:
            row = f"{self.count} == {n} ? {row} : load_where_{t}({at}, {self.below})"
        w.line(f"{square}[u] = {row};")
        w.close()
        w.line(f"transpose_{t}({square});")
        self.body.ready[s.name] = f"{square}[u]"
