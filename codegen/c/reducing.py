"""What kernels with reductions share: accumulators, loops over the reduced axes, scratch rows."""
from __future__ import annotations

from typing import Callable

from ...compiler.dims import Dim, Expr, expr, product
from ..loops import Axis, Kernel, Load, Scan
from .isa import Isa, register_type
from .nest import NEAREST_CACHE, Nest, within
from .reductions import Accumulator, Running
from .schedule import Pass, Schedule

#: Additions in a row that a float sum takes before its total does.
CHAIN = 256


class Reducing(Nest):
    #: Which of its accumulators a scan goes on with.
    column: str

    def __init__(self, kernel: Kernel, isa: Isa, plan: Schedule):
        super().__init__(kernel, isa, plan)
        self.inner = [a for a in kernel.reduced if a is not self.vector]
        self.accumulators: dict[int, Accumulator] = {}
        self.running: dict[int, Running] = {}
        self.scratch = {n: self.body.names.fresh(self.body.c_names[n] + "_row") for n in sorted(plan.keep)}
        self.outside = frozenset(a.symbol.name for a in self.outer)
        self.fetch_ahead((self.inner or self.outer or [None])[-1])

    def scratch_length(self) -> int:
        """Elements of a kept value's scratch memory."""
        raise NotImplementedError

    def prologue(self) -> None:
        for name, c_name in self.scratch.items():
            t = register_type(self.body.dtypes[name], self.lanes, self.isa)
            self.w.line(f"{t.scalar} {c_name}[{self.scratch_length()}] __attribute__((aligned(64)));")

    def write(self, i: int, live: bool = False) -> None:
        if isinstance(self.kernel.body[i], Scan):
            self.w.comment(self.kernel.body[i].origin)
            self.running[i].update(self.w, self.column, live, self._positions())
        else:
            super().write(i, live)

    def reload(self, p: Pass, place: str) -> None:
        """Read the pass's kept values back from scratch memory, at element `place`."""
        for n in sorted(p.reload):
            t = self.body.type_of(self.body.dtypes[n])
            self.w.line(f"const {t} {self.body.c_names[n]} = load_{t}({self.scratch[n]} + {place});")

    def compute(self, p: Pass, positions: list[int], place: str, live: bool) -> None:
        """Print a pass's statements, and keep those values that later passes read back."""
        for i in positions:
            self.write(i, live)
            s = self.kernel.body[i]
            if getattr(s, "name", "") in self.plan.keep and s.name not in p.reload:
                t = self.body.type_of(s.dtype)
                self.w.line(f"store_{t}({self.scratch[s.name]} + {place}, {self.body.c_names[s.name]});")

    def read_once(self, p: Pass) -> None:
        """Of what a pass has read, later ones find a short row in the nearest cache."""
        for i in p.statements:
            s = self.kernel.body[i]
            if isinstance(s, Load) and self.plan.count(self.plan.reduced) * s.dtype.itemsize <= NEAREST_CACHE:
                self.body.ahead.pop(s.name, None)

    # Indices over the reduced axes

    def flat(self, axes: list[Axis] | tuple[Axis, ...]) -> Expr:
        """The flat index over axes."""
        index = expr(0)
        for a in axes:
            index = index * a.size + Expr({(a.symbol,): 1})
        return index

    def _positions(self) -> str:
        """The flat indices of the lanes' elements over all reduced axes, as a vector of the mask's type."""
        index, mask = self.flat(self.kernel.reduced), self.body.mask
        step = index.coefficient(self.vector.symbol)
        first = f"splat_{mask}({self.body.place(index)})"
        return first if step == 0 else f"{first} + lanes_{mask}" + (f" * {self.body.size(step)}" if step != 1 else "")

    # Accumulators

    def start(self, p: Pass, count: int, limit: int) -> None:
        """Declare the accumulators of a pass, `count` for each reduction and, in columns, for each scan; a float sum of more than
        `limit` has a total."""
        for i in p.scans:
            columns = 1 if self.plan.row_wise else count
            self.running[i] = Running(self.kernel.body[i], self.body, columns, self.plan.row_wise, blocked=False)
            self.running[i].declare(self.w)
        steps = product(a.size for a in self.kernel.reduced)
        for i in p.reductions:
            s = self.kernel.body[i]
            blocked = Accumulator.can_block(s) and not within(steps, limit)
            self.accumulators[i] = Accumulator(s, self.body, count, self.plan.row_wise, blocked)
            self.accumulators[i].declare(self.w)

    def update(self, p: Pass, u: str, live: bool) -> None:
        """Combine the present vectors into the accumulators numbered `u`."""
        for i in p.reductions:
            self.w.comment(self.kernel.body[i].origin)
            self.accumulators[i].update(self.w, u, live, self._positions())

    def flush(self, p: Pass) -> None:
        """Move running sums into their totals."""
        for i in p.reductions:
            if self.accumulators[i].blocked:
                self.accumulators[i].flush(self.w)

    def flush_depth(self, p: Pass, axes: list[Axis], limit: int) -> int:
        """How many of the loops over `axes` stand outside the longest run of at most `limit` steps; -1 where the innermost loop
        alone is longer. 0 where the pass has no totals."""
        if not any(self.accumulators[i].blocked for i in p.reductions):
            return 0
        if not within(axes[-1].size, limit):
            return -1
        run, depth = 1, len(axes)
        while within(run * axes[depth - 1].size, limit):
            depth -= 1
            run *= axes[depth].size
        return depth

    # Loops

    def loops(self, p: Pass, axes: list[Axis], flush_depth: int, innermost: Callable[[], None]) -> None:
        """Loops over reduced axes around `innermost`, each with the statements that vary no deeper. Totals are brought up to
        date at the end of each step of loop number `flush_depth`."""
        opened: set[str] = set()
        for a in axes:
            self.w.open(f"for (long {self.name(a)} = 0; {self.name(a)} < {self.end(a)}; {self.name(a)}++)")
            opened.add(a.symbol.name)
            for i in p.statements:
                varies = self.plan.varies[i] - self.outside
                if varies <= opened and a.symbol.name in varies:
                    self.write(i)
        innermost()
        for depth in range(len(axes), 0, -1):
            if depth == flush_depth:
                self.flush(p)
            self.w.close()

    def open_blocks(self, v: str, size: Dim, block: int) -> tuple[str, str]:
        """A loop over blocks of `block` steps of variable `v` (none where 0); the first and the last step of a block."""
        size = self.body.size(size)
        if not block:
            return "0", size
        first, last = self.body.names.fresh(v + "_block"), self.body.names.fresh(v + "_end")
        self.w.open(f"for (long {first} = 0; {first} < {size}; {first} += {block})")
        self.w.line(f"const long {last} = {first} + {block} < {size} ? {first} + {block} : {size};")
        return first, last

    def close_blocks(self, p: Pass, block: int) -> None:
        if block:
            self.flush(p)
            self.w.close()
