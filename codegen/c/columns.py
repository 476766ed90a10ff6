"""Kernels whose lanes run along a kept axis: a tile of columns has its accumulators in the L1 cache while the reduced axes
go by.

Values of a column that a pass reads (results of reductions and what follows from them, and what follows from loads) are
computed once before it and kept, a vector for each vector of columns; loads stay where they are read.
"""
from __future__ import annotations

from ...compiler.dims import Dim
from ..loops import Apply, Axis, Check, Kernel, Reduce, Store
from .isa import Isa
from .nest import ceiling
from .reducing import Reducing
from .schedule import Pass, Schedule, cost_of, work_of

#: Columns of a tile.
TILE = 512
#: Vectors of a tile where values are kept for each of its elements.
KEPT_VECTORS = 4
#: Microseconds of work from which threads share a tile.
SHARED_WORK = 20
#: Additions in a row that a float sum takes before its total does: there are no lanes to share them.
CHAIN = 32
#: Reduced steps that are taken at a time where they are cheap.
STEPS = 4
STEP_COST = 6


class Columns(Reducing):
    column = "column"

    def __init__(self, kernel: Kernel, isa: Isa, plan: Schedule):
        super().__init__(kernel, isa, plan)
        self.vectors = self.tile() // self.lanes
        read = {i for p in plan.passes for i in self._operands(p)}
        self.kept = {i: self.body.names.fresh(self.body.c_names[kernel.body[i].name] + "_column") for i in sorted(read)
                     if not isinstance(kernel.body[i], Reduce) and (plan.stage[i] or isinstance(kernel.body[i], Apply))}

    def tile(self) -> int:
        most = KEPT_VECTORS * self.lanes if self.plan.keep else TILE
        size = self.vector.size
        return min(ceiling(size, self.lanes) * self.lanes, most) if isinstance(size, int) else most

    def cuts_lanes(self, leading: list[Axis], total: Dim) -> bool:
        return True  # the accumulators are those of one tile

    def shares_lanes(self) -> bool:
        large = work_of(self.kernel, self.plan) > SHARED_WORK
        return large and isinstance(self.vector.size, int) and self.vector.size > self.lanes

    def scratch_length(self) -> int:
        return self.plan.count(self.plan.reduced) * self.tile()

    def inside(self) -> None:
        for i, name in self.kept.items():
            self.w.line(f"{self.body.type_of(self.kernel.body[i].dtype)} {name}[{self.vectors}];")
        for number in range(len(self.plan.passes) + 1):
            self._between(number)
            if number < len(self.plan.passes):
                self._pass(self.plan.passes[number])
                self.read_once(self.plan.passes[number])

    # Values by column

    def _operands(self, p: Pass) -> list[int]:
        """Positions of the values by column that a pass reads."""
        read = {d for i in (*p.statements, *p.reductions) for d in self.plan.read_by(i)}
        return sorted(d for d in read if not self.plan.inside(d) and not self.early(d))

    def _between(self, number: int) -> None:
        """What is done for each column before pass `number`: kept values, stores and checks."""
        wanted = [i for i in range(len(self.kernel.body)) if self.plan.stage[i] == number and not self.plan.inside(i)
                  and not self.early(i) and (i in self.kept or isinstance(self.kernel.body[i], (Store, Check)))]
        if wanted:
            self.along_lanes(lambda live: self._values(wanted, live), column=True)

    def _values(self, wanted: list[int], live: bool) -> None:
        """Compute values of the present column vector, and what they need, and keep those that are to be kept."""
        for i in self._needed(wanted, read_kept=lambda i: i in self.kept and i not in wanted):
            if i in self.kept and i in wanted:
                self.write(i, live)
                self.w.line(f"{self.kept[i]}[column] = {self.body.c_names[self.kernel.body[i].name]};")
            else:
                self._value(i, live)

    def _needed(self, wanted: list[int], read_kept) -> list[int]:
        """`wanted` and what it is computed from, in order, as far as that is not at hand."""
        needed, queue = set(), list(wanted)
        while queue:
            i = queue.pop()
            if i not in needed and not self.early(i):
                needed.add(i)
                if not isinstance(self.kernel.body[i], Reduce) and not read_kept(i):
                    queue += self.plan.read_by(i)
        return sorted(needed)

    def _value(self, i: int, live: bool) -> None:
        """Declare a value by column: the result of a reduction, a kept value, or one computed here."""
        s = self.kernel.body[i]
        if isinstance(s, Reduce) or i in self.kept:
            text = self.accumulators[i].result("column") if isinstance(s, Reduce) else f"{self.kept[i]}[column]"
            self.w.line(f"const {self.body.type_of(s.dtype)} {self.body.c_names[s.name]} = {text};")
        else:
            self.write(i, live)

    # Passes

    def _pass(self, p: Pass) -> None:
        self.start(p, self.vectors, CHAIN)
        depth = self.flush_depth(p, self.inner, CHAIN)
        *outer, last = self.inner
        self.loops(p, outer, depth, lambda: self._steps(p, last, CHAIN if depth < 0 else 0))
        if depth == 0:
            self.flush(p)

    def _steps(self, p: Pass, axis: Axis, block: int) -> None:
        """The innermost reduced loop, in blocks, some steps at a time where they are cheap."""
        w, r, size = self.w, self.name(axis), axis.size
        done = self.outside | {a.symbol.name for a in self.inner[:-1]}
        here = [i for i in p.statements if not self.plan.varies[i] <= done]
        cheap = (p.reductions or p.scans) and sum(cost_of(self.kernel.body[i]) for i in here) <= STEP_COST
        main = size - size % STEPS if cheap else 0
        first, last = self.open_blocks(r, main if main != 0 else size, block)
        if main != 0:
            group = self.body.names.fresh(r + "_group")
            w.open(f"for (long {group} = {first}; {group} < {last}; {group} += {STEPS})")
            self.along_lanes(lambda live: self._group(p, here, r, group, live), column=True)
            w.close()
        else:
            self._single(p, here, r, first, last)
        self.close_blocks(p, block)
        if main != 0 and main != size:
            self._single(p, here, r, self.body.size(main), self.body.size(size))
            if block:
                self.flush(p)

    def _group(self, p: Pass, here: list[int], r: str, group: str, live: bool) -> None:
        self.w.line(f"#pragma GCC unroll {STEPS}")
        self.w.open(f"for (long {r} = {group}; {r} < {group} + {STEPS}; {r}++)")
        self._step(p, here, live)
        self.w.close()

    def _single(self, p: Pass, here: list[int], r: str, first: str, last: str) -> None:
        self.w.open(f"for (long {r} = {first}; {r} < {last}; {r}++)")
        self.along_lanes(lambda live: self._step(p, here, live), column=True)
        self.w.close()

    def _step(self, p: Pass, here: list[int], live: bool) -> None:
        """What is done with one vector of columns at one step of the reduced axes."""
        for i in self._needed(self._operands(p), read_kept=lambda i: i in self.kept):
            self._value(i, live)
        place = f"({self.body.place(self.flat(self.kernel.reduced))}) * {self.tile()} + column * {self.lanes}"
        self.reload(p, place)
        self.compute(p, here, place, live)
        self.update(p, "column", live)
