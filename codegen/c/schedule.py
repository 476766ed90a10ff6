"""How a kernel runs on a CPU: which axis lies along the vector lanes, and in how many passes over the reduction axes.

A statement that depends on a reduction and varies over the reduced axes needs another pass over them. Each pass computes
again what it needs of earlier ones, but for costly values, which are kept in a row of scratch memory.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch

from ...compiler.dims import known, product
from ...compiler.scalar import SCALAR
from ..loops import Apply, Axis, Const, Kernel, Load, Reduce, Scan, Statement, Store, symbols_of
from ..stages import Stages
from .isa import Isa

#: A value that costs more than this many scalar operations is kept for later passes,
KEEP_COST = 10
#: if all that is kept of a row fits this many bytes.
SCRATCH_BYTES = 64 * 1024
#: Scalar operations that reading one element lane by lane costs about as much as.
GATHER_COST = 12


def cost_of(s: Statement) -> float:
    """Scalar operations of a statement, about."""
    return SCALAR[s.op].cost if isinstance(s, Apply) else 0 if isinstance(s, Const) else 1


@dataclass(frozen=True)
class Pass:
    """One run over the reduction axes: positions in the body of what it computes, in order, and of the scans among that;
    `reload` are the names that it reads from scratch."""
    statements: tuple[int, ...]
    scans: tuple[int, ...]
    reductions: tuple[int, ...]
    reload: frozenset[str]


class Schedule(Stages):
    """A kernel's order of work.

    vector    the axis along the lanes, or None for a kernel without axes
    lanes     elements in a vector
    passes    one for every stage; without reduction axes there is none
    keep      names of the values that are kept in scratch memory
    """

    def __init__(self, kernel: Kernel, isa: Isa):
        super().__init__(kernel)
        self.isa = isa
        self.lanes = _lanes(kernel, [s for s, axes in zip(kernel.body, self.varies) if axes or not kernel.axes], isa)
        self.vector = self._vector_axis()
        self.keep: set[str] = set()
        self.passes = self._passes(keep=True)
        fixed = all(isinstance(a.size, int) for a in kernel.reduced)  # scratch memory is on the stack
        if not fixed or sum(self._scratch_bytes(n) for n in self.keep) > SCRATCH_BYTES:
            self.keep = set()
            self.passes = self._passes(keep=False)

    @property
    def row_wise(self) -> bool:
        """Whether the lanes run along a reduced axis (rows), or along one that is kept (columns, pointwise)."""
        return self.vector is not None and self.vector.reduce

    # The axis along the lanes

    def _vector_axis(self) -> Axis | None:
        """A scan's lanes are neighbours along its axis."""
        scans = any(isinstance(s, Scan) for s in self.kernel.body)
        axes = (*self.kernel.parallel, *self.kernel.reduced[-1:]) if scans else self.kernel.axes
        return min(axes, key=lambda a: (self._cost_along(a), -self.kernel.axes.index(a)), default=None)

    def _cost_along(self, axis: Axis) -> float:
        """Relative time of the kernel with its lanes along an axis: strided accesses are slow, and so are empty lanes."""
        name, size, points = axis.symbol.name, max(1, self.sizes[axis.symbol.name]), max(1, self.count(self.sizes))
        cost = 1.0
        for i, s in enumerate(self.kernel.body):
            if not isinstance(s, (Load, Store)):
                cost += cost_of(s)
            elif name in self.varies[i]:
                cost += (1 if self._contiguous(s, axis) else GATHER_COST * self.lanes) * self.count(self.varies[i]) / points
        return cost * -(-size // self.lanes) * self.lanes / size

    def _contiguous(self, s: Load | Store, axis: Axis) -> bool:
        name = axis.symbol.name
        gathered = any(n in self.position and name in self.varies[self.position[n]] for n in symbols_of(s))
        return not gathered and s.index.coefficient(axis.symbol) in (0, 1, -1)

    # Passes

    def _passes(self, keep: bool) -> tuple[Pass, ...]:
        computed: set[int] = set()
        passes = []
        for p in range(self.pass_count):
            passes.append(self._pass(p, computed if keep else set()))
            computed.update(passes[-1].statements)
        return tuple(passes)

    def _pass(self, p: int, computed: set[int]) -> Pass:
        """Pass number p; of the positions computed by earlier passes it keeps the costly ones."""
        roots = [i for i in range(len(self.kernel.body)) if self.is_root(i) and self.stage[i] == p]
        reload: set[str] = set()
        wanted, queue = set(), list(roots)
        while queue:
            i = queue.pop()
            if i in wanted or (i not in roots and not self.inside(i)):
                continue
            s = self.kernel.body[i]
            if i in computed and self._worth_keeping(i):
                self.keep.add(s.name)
                reload.add(s.name)
                continue
            wanted.add(i)
            queue += self.read_by(i)
        reductions = [i for i in roots if isinstance(self.kernel.body[i], Reduce)]
        statements = tuple(sorted(wanted - set(reductions)))
        scans = tuple(i for i in statements if isinstance(self.kernel.body[i], Scan))
        return Pass(statements, scans, tuple(reductions), frozenset(reload))

    def _worth_keeping(self, i: int) -> bool:
        along, s = self.vector is not None and self.vector.symbol.name in self.varies[i], self.kernel.body[i]
        return along and (isinstance(s, Scan) or isinstance(s, Apply) and self._total_cost(i) > KEEP_COST)

    def _total_cost(self, i: int) -> float:
        """Of a statement and all that it reads inside the reduced axes."""
        seen, queue, total = set(), [i], 0.0
        while queue:
            j = queue.pop()
            if j not in seen and self.inside(j):
                seen.add(j)
                total += cost_of(self.kernel.body[j])
                queue += self.read_by(j)
        return total

    def _scratch_bytes(self, name: str) -> int:
        itemsize = max(4, self.kernel.body[self.position[name]].dtype.itemsize)
        row = self.count(self.reduced) if self.row_wise else self.count(self.reduced) * self.lanes * 4
        return row * itemsize


def _lanes(kernel: Kernel, varying: Sequence[Statement], isa: Isa) -> int:
    """Lanes that fill a register with the floats that vary along an axis: 8-byte ones where there are any, or 8-byte integers
    alone."""
    dtypes = {s.dtype for s in varying if hasattr(s, "dtype")}
    floats = {d for d in dtypes if d.is_floating_point}
    few = known(2 ** 31 - 1, product(a.size for a in kernel.reduced))
    places = any(isinstance(s, (Reduce, Scan)) and s.op in ("argmax", "argmin") for s in kernel.body) and not few
    words = torch.float64 in floats or places or (not floats and any(d.itemsize == 8 for d in dtypes))
    return isa.lanes(64 if words else 32)


def work_of(kernel: Kernel, schedule: Schedule) -> float:
    """Estimated time of a kernel on one thread, in microseconds."""
    total = 0.0
    for i, s in enumerate(kernel.body):
        axes = schedule.varies[schedule.position[s.arg]] if isinstance(s, Reduce) else schedule.varies[i]
        elements = schedule.count(axes)
        slow = isinstance(s, (Load, Store)) and schedule.vector is not None and not schedule._contiguous(s, schedule.vector)
        total += elements * (0.02 * cost_of(s) * 16 / schedule.lanes if not slow else 1.0)
    return total / 1000
