"""Kernels whose lanes run along a reduced axis: each row takes its passes in turn."""
from __future__ import annotations

from ...compiler.dims import Dim, Expr
from ..loops import Reduce
from .nest import ceiling
from .reducing import CHAIN, Reducing
from .schedule import Pass, cost_of


class Rows(Reducing):
    column = "0"

    def inside(self) -> None:
        for number in range(len(self.plan.passes) + 1):
            for i, s in enumerate(self.kernel.body):
                if self.plan.stage[i] == number and not isinstance(s, Reduce) and not self.plan.inside(i) and not self.early(i):
                    self.write(i)
            if number < len(self.plan.passes):
                self._pass(self.plan.passes[number])
                self.read_once(self.plan.passes[number])

    def scratch_length(self) -> int:
        return self.plan.count(a.symbol.name for a in self.inner) * self._padded()

    def _padded(self) -> Dim:
        """Elements of a run along the lanes in scratch memory: whole vectors."""
        return ceiling(self.vector.size, self.lanes) * self.lanes

    def _pass(self, p: Pass) -> None:
        count = self._accumulator_count(p)
        limit = CHAIN * count * self.lanes
        self.start(p, count, limit)
        depth = self.flush_depth(p, [*self.inner, self.vector], limit)
        self.loops(p, self.inner, depth, lambda: self._along_row(p, count, limit if depth < 0 else 0))
        if depth <= 0:
            self.flush(p)
        for i in p.reductions:
            s = self.accumulators[i].reduce
            self.w.line(f"const {self.body.type_of(s.dtype)} {self.body.c_names[s.name]} = {self.accumulators[i].result()};")

    def _accumulator_count(self, p: Pass) -> int:
        """Independent accumulators that hide the latency of the reductions: more for cheap passes."""
        vectors = self.typical(self.vector) // self.lanes
        if not p.reductions or any(self.kernel.body[i].op in ("argmax", "argmin") for i in p.reductions):
            return 1
        cost = sum(cost_of(self.kernel.body[i]) for i in p.statements)
        count = 8 if cost <= 2 else 4
        while count > 1 and (vectors < 2 * count or (vectors % count and vectors < 8 * count)):
            count //= 2
        return count

    def _along_row(self, p: Pass, count: int, block: int) -> None:
        """A row's vectors `count` at a time, in blocks of `block` elements; those left over; the last lanes."""
        w, v, n, size = self.w, self.name(self.vector), self.lanes, self.vector.size
        main, whole = size - size % (n * count), size - size % n
        if main != 0:
            first, last = self.open_blocks(v, main, block)
            self._groups(p, count, first, last)
            self.close_blocks(p, block)
        text = self.body.size
        if whole != main:
            w.open(f"for (long {v} = {text(main)}; {v} < {text(whole)}; {v} += {n})")
            self._vector(p, "0", False)
            w.close()
        if size != whole:
            w.open(f"if ({text(size % n)})" if isinstance(size, Expr) else "")
            w.line(f"const long {v} = {text(whole)};")
            self.body.live(w, text(size % n))
            self._vector(p, "0", True)
            w.close()

    def _groups(self, p: Pass, count: int, first: str, last: str) -> None:
        w, v, n = self.w, self.name(self.vector), self.lanes
        if count == 1:
            w.open(f"for (long {v} = {first}; {v} < {last}; {v} += {n})")
            self._vector(p, "0", False)
        else:
            group = self.body.names.fresh(v + "_group")
            w.open(f"for (long {group} = {first}; {group} < {last}; {group} += {n * count})")
            w.line(f"#pragma GCC unroll {count}")
            w.open(f"for (long u = 0; u < {count}; u++)")
            w.line(f"const long {v} = {group} + u * {n};")
            self._vector(p, "u", False)
            w.close()
        w.close()

    def _vector(self, p: Pass, u: str, live: bool) -> None:
        """What is done with one vector of a row."""
        place = self.body.place(self.flat(self.inner) * self._padded() + Expr({(self.vector.symbol,): 1}))
        self.reload(p, place)
        self.compute(p, [i for i in p.statements if self.along(i)], place, live)
        self.update(p, u, live)
