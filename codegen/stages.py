"""The order of a kernel's statements: over which axes each varies, and after how many reductions it can be computed."""
from __future__ import annotations

from typing import Iterable, Mapping

from ..compiler.dims import typical
from .loops import Check, Kernel, Reduce, Scan, Statement, Store, operands_of, symbols_of


def dependencies(s: Statement, named: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the statements that `s` reads, those in its index among them."""
    return operands_of(s) + tuple(sorted(n for n in symbols_of(s) if n in named))


class Stages:
    """What both printers have to know of a kernel. Positions are those of statements in kernel.body.

    sizes     axis name -> its size, by which costs are weighed: a typical one where it is symbolic
    reduced   names of the axes reduced over
    position  statement name -> its position
    varies    position -> names of the axes that the statement varies over
    stage     position -> passes over the reduced axes that must be over before it can run
    """

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.sizes = {a.symbol.name: typical(a.size) for a in kernel.axes}
        self.position = {s.name: i for i, s in enumerate(kernel.body) if hasattr(s, "name")}
        self.reduced = frozenset(a.symbol.name for a in kernel.reduced)
        self.varies: list[frozenset[str]] = []
        self.stage: list[int] = []
        for i, s in enumerate(kernel.body):
            axes, stage = symbols_of(s) & self.sizes.keys(), 0
            for d in self.read_by(i):
                axes |= self.varies[d]
                stage = max(stage, self.stage[d] + isinstance(kernel.body[d], Reduce))
            if isinstance(s, Scan):
                axes |= self.reduced
            self.varies.append(axes - self.reduced if isinstance(s, Reduce) else axes)
            self.stage.append(stage)

    def count(self, axes: Iterable[str]) -> int:
        """Points of the space over these axes."""
        n = 1
        for a in axes:
            n *= self.sizes[a]
        return n

    def read_by(self, i: int) -> tuple[int, ...]:
        """Positions of the statements that statement i reads."""
        return tuple(self.position[n] for n in dependencies(self.kernel.body[i], self.position))

    def inside(self, i: int) -> bool:
        """Whether a statement varies over a reduced axis."""
        return bool(self.varies[i] & self.reduced)

    def is_root(self, i: int) -> bool:
        """Whether a pass exists for this statement's sake: it reduces, or stores or checks inside the reduced axes."""
        s = self.kernel.body[i]
        return isinstance(s, Reduce) or (isinstance(s, (Store, Check)) and self.inside(i))

    @property
    def pass_count(self) -> int:
        """Passes over the reduced axes that the kernel takes where they do not fit one tile."""
        roots = [self.stage[i] for i in range(len(self.kernel.body)) if self.is_root(i)]
        return max(roots, default=-1) + 1 if self.reduced else 0
