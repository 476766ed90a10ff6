"""Kernels without reductions: one loop along the lanes.

Costly values that vary along the lanes only (the places that an interpolation reads) are computed once, before all loops.

A load that is contiguous along another axis than the lanes' (x + y.T) is read by square tiles, which are transposed in
registers.
"""
from __future__ import annotations

from ...compiler.dims import Dim, Expr
from ..loops import Axis, Kernel, Load, Store
from .isa import Isa, memory_type
from .nest import Nest, ceiling, within
from .schedule import KEEP_COST, Schedule, cost_of

#: Elements of a work item along the lanes.
CHUNK = 4096
#: A row is computed before the loops if they would compute it so often.
LEAST_AGAIN = 8


class Pointwise(Nest):
    def __init__(self, kernel: Kernel, isa: Isa, plan: Schedule):
        super().__init__(kernel, isa, plan)
        self.across, self.transposed = self._transposed_loads()
        self.once: list[int] = []  # positions of what is computed before the loops
        self.again: set[int] = set()  # of those, loads that the loops do again
        self.rows: dict[int, str] = {}  # of those, what the loops read: position -> C name of the array
        if self.across is None:
            self.fetch_ahead(self.outer[-1] if self.outer else None)
            self._choose_rows()
        if self.across is not None:  # its loop goes by tiles, and its statements stand inside
            self.axis, self.tile_number = self.name(self.across), self.body.names.fresh(self.name(self.across) + "_tile")

    def tile(self) -> int:
        size = self.vector.size
        return min(ceiling(size, self.lanes) * self.lanes, CHUNK) if isinstance(size, int) else CHUNK

    def inside(self) -> None:
        rest = [i for i in range(len(self.kernel.body)) if not self.early(i) and (i not in self.once or i in self.again)]
        if not rest:
            return
        if self.across is None:
            self.along_lanes(lambda live: self._vector(rest, live))
        else:
            self._open_square()
            self.along_lanes(lambda live: self._square(rest, live))

    def _vector(self, rest: list[int], live: bool) -> None:
        for i, row in self.rows.items():
            s = self.kernel.body[i]
            t = self.body.type_of(s.dtype)
            self.w.line(f"const {t} {self.body.c_names[s.name]} = load_{t}({row} + {self.name(self.vector)});")
        for i in rest:
            self.write(i, live)

    # Rows computed once

    def _choose_rows(self) -> None:
        """Choose what varies along the lanes only, if it costs much, is done often and is little to keep."""
        body, lanes = self.kernel.body, frozenset([self.vector.symbol.name]) if self.vector else frozenset()
        along = [i for i in range(len(body)) if lanes and self.plan.varies[i] == lanes and not isinstance(body[i], Store)]
        computed = [i for i in along if not self._is_row(i)]
        again = self.plan.count(a.symbol.name for a in self.outer)
        if again < LEAST_AGAIN or sum(cost_of(body[i]) for i in computed) <= KEEP_COST or not within(self.vector.size, CHUNK):
            return
        needed = {d for i in computed for d in self.plan.read_by(i)}
        read = {d for i in range(len(body)) if i not in computed for d in self.plan.read_by(i)}
        self.once = [i for i in along if i in computed or i in needed]
        self.again = {i for i in self.once if i in read and i not in computed}
        self.rows = {i: self.body.names.fresh(self.body.c_names[body[i].name] + "_row") for i in computed if i in read}

    def _is_row(self, i: int) -> bool:
        """Whether a statement loads what lies in memory as a row would."""
        s = self.kernel.body[i]
        return isinstance(s, Load) and not s.guard and self.body.step(s.index) == 1

    def prologue(self) -> None:
        if not self.once:
            return
        length = ceiling(self.vector.size, self.lanes) * self.lanes
        for i, row in self.rows.items():
            self.w.line(f"{self.body.type_of(self.kernel.body[i].dtype).scalar} {row}[{length}] __attribute__((aligned(64)));")
        self.first, self.last = "0", self.end(self.vector)
        self.along_lanes(self._rows_vector)

    def _rows_vector(self, live: bool) -> None:
        for i in self.once:
            self.write(i, live)
        for i, row in self.rows.items():
            s = self.kernel.body[i]
            self.w.line(f"store_{self.body.type_of(s.dtype)}({row} + {self.name(self.vector)}, {self.body.c_names[s.name]});")

    # Transposed tiles

    def _transposed_loads(self) -> tuple[Axis | None, list[Load]]:
        """The axis that most strided loads are contiguous along, and those loads."""
        found: dict[Axis, list[Load]] = {}
        for s in self.kernel.body:
            if isinstance(s, Load) and not s.guard and self.vector and self.body.step(s.index) not in (None, 0, 1):
                for a in self.outer:
                    if self._contiguous_along(s.index, a) and self.typical(a) >= self.lanes > 1:
                        found.setdefault(a, []).append(s)
        across = max(found, key=lambda a: len(found[a]), default=None)
        return across, found.get(across, [])

    def _contiguous_along(self, index: Expr, axis: Axis) -> bool:
        gathered = any(s.name in self.plan.position for s in index.symbols())
        return index.coefficient(axis.symbol) == 1 and not gathered

    def steps(self, axis: Axis) -> Dim:
        return ceiling(axis.size, self.lanes) if axis is self.across else axis.size

    def counter(self, axis: Axis) -> str:
        return self.tile_number if axis is self.across else super().counter(axis)

    def early(self, i: int) -> bool:
        return super().early(i) and (self.across is None or self.across.symbol.name not in self.plan.varies[i])

    def _open_square(self) -> None:
        """Where the present tile begins on the transposed axis, and how many of its steps there are."""
        size, n = self.end(self.across), self.lanes
        self.start, self.count = self.body.names.fresh(self.axis + "_first"), str(n)
        self.w.line(f"const long {self.start} = {self.tile_number} * {n};")
        if self.across.size % n != 0:
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
        w, n = self.w, self.lanes
        t, p = memory_type(s.dtype, n), self.body.pointers[s.buffer]
        square = self.body.names.fresh(self.body.c_names[s.name] + "_square")
        w.line(f"{t} {square}[{n}]{' = {}' if live else ''};")
        w.open(f"for (long u = 0; u < {self.body.size(self.vector.size % n) if live else n}; u++)")
        w.line(f"const long {self.axis} = {self.start};")
        at = f"{p} + {self.body.place(s.index, 'u')}"
        row = f"load_{t}({at})"
        if self.across.size % n != 0:
            row = f"{self.count} == {n} ? {row} : load_where_{t}({at}, {self.below})"
        w.line(f"{square}[u] = {row};")
        w.close()
        w.line(f"transpose_{t}({square});")
        self.body.ready[s.name] = f"{square}[u]"
