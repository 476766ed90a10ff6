"""One kernel as a Triton function."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

import torch

from ...compiler.dims import Dim
from ...runtime.program import Signature
from ..loops import Axis, Check, Kernel, Reduce, Scan, Statement, sizes_of
from ..stages import Stages
from .body import Body, Names, size_text
from .scalars import literal, type_text
from .tiling import Sizes, Span, Tiling

#: On bool, whose reductions are done on int32.
LOGICAL = {"any": "max", "all": "min", "sum": "max", "prod": "min"}


@dataclass(frozen=True)
class Function:
    """A kernel's text and how it is launched, with so many `programs` in the grid."""
    signature: Signature
    text: str
    programs: Dim
    asked: Mapping[str, str] = field(default_factory=dict)  # constants that each launch asks for, as Python text


def check_options(body: Sequence[Statement]) -> dict[str, bool]:
    """What Triton's compiler is told so that checks are made: those of the kernel, not those of its own for integers."""
    return {"debug": True, "sanitize_overflow": False} if any(isinstance(s, Check) for s in body) else {}


def print_kernel(kernel: Kernel, name: str, tiles: Sizes = Sizes()) -> Function:
    """A kernel as a Triton function `name(<pointers>, <sizes>, <block sizes>)`."""
    return _Printer(kernel, name, tiles).print()


def identity(op: str, dtype: torch.dtype) -> float | int | bool:
    """What a reduction of nothing gives; for argmax and argmin what every element is at least as good as."""
    if op in ("sum", "any", "prod", "all"):
        return int(op in ("prod", "all"))
    if dtype.is_floating_point:
        return float("-inf") if op in ("max", "argmax") else float("inf")
    return torch.iinfo(dtype).min if op in ("max", "argmax") else torch.iinfo(dtype).max


class _Reduction:
    """A reduction over the last dimension of the tile, of a value of `dtype`."""

    def __init__(self, s: Reduce | Scan, body: Body):
        self.s, self.body = s, body
        self.places = s.op in ("argmax", "argmin")
        given = body.operand(s.arg).dtype
        self.dtype = given if self.places else s.accumulator
        self.logical = self.dtype == torch.bool
        if self.logical:
            self.dtype = torch.int32
        self.op = LOGICAL.get(s.op, s.op) if self.logical else s.op
        self.last = len(body.spans) - 1
        arg = body.dimensions(s.arg)
        self.dimensions = tuple(sorted({*arg, self.last}))
        self.whole = self.last in arg
        self.name = body.names[s.name]

    @property
    def identity(self) -> str:
        return literal(identity(self.op, self.dtype), self.dtype)

    @property
    def from_zero(self) -> str:
        """What makes a sum one that begins with 0, as torch's do: that of negative zeros is 0."""
        return f" + {self.identity}" if self.op == "sum" and self.dtype.is_floating_point else ""

    def tile(self) -> str:
        """The operand with the identity where there is no element."""
        body, x = self.body, self.body.operand(self.s.arg)
        text = f"{x.typed}.to({type_text(self.dtype)})" if x.dtype != self.dtype else x.typed
        if self.last in body.masks:
            text = f"tl.where({body.masks[self.last]}, {text}, {self.identity})"
            return text if self.whole or len(self.dimensions) == 1 or 0 in body.dimensions(self.s.arg) else self._broadcast(text)
        return text if self.whole else self._broadcast(text)

    def place(self, index: str) -> str:
        return self._broadcast(f"{index}.to(tl.int64)")

    def _broadcast(self, text: str) -> str:
        return f"tl.broadcast_to({text}, {self.body.shape(self.dimensions)})"

    def combine(self, tile: str, place: str) -> None:
        """Reduce a tile (for argmax and argmin with the place of each element) to the result."""
        w = self.body.w
        kept = self.dimensions != (self.last,)
        arguments = f"{self.last if kept else None}, combine_{self.op}{', keep_dims=True' if kept else ''}"
        if self.places:
            w.line(f"_, {self.name} = tl.reduce(({tile}, {place}), {arguments})")
        else:
            w.line(f"{self.name} = tl.reduce({tile}, {arguments}){' != 0' if self.logical else self.from_zero}")

    # In a loop over tiles

    def start(self) -> None:
        shape, w = self.body.shape(self.dimensions), self.body.w
        self.part = self.body.fresh(f"{self.name}_part")
        w.line(f"{self.part} = tl.full({shape}, {self.identity}, {type_text(self.dtype)})")
        if self.places:
            self.at = self.body.fresh(f"{self.name}_at")
            w.line(f"{self.at} = tl.full({shape}, {torch.iinfo(torch.int64).max}, tl.int64)")

    def update(self, index: str) -> None:
        w = self.body.w
        if self.places:
            w.line(f"{self.part}, {self.at} = combine_{self.op}({self.part}, {self.at}, {self.tile()}, {self.place(index)})")
        elif self.op == "sum":
            w.line(f"{self.part} += {self.tile()}")
        else:
            w.line(f"{self.part} = combine_{self.op}({self.part}, {self.tile()})")

    def finish(self) -> None:
        self.combine(self.part, self.at if self.places else "")


class _Scan(_Reduction):
    """A scan along the last dimension of the tile; where it is one of several tiles, `part` and `at` are what came before."""

    def __init__(self, s: Scan, body: Body):
        super().__init__(s, body)
        self.combiner = f"combine_{'' if self.op in ('sum', 'prod') else 'latest_'}{self.op}"
        self.before = ()

    def start(self) -> None:
        shape, w, name = self.body.shape(self.dimensions[:-1]), self.body.w, self.name
        kinds = [(f"{name}_part", self.identity, self.dtype)] + [(f"{name}_at", 0, torch.int64)] * self.places
        self.before = tuple(self.body.fresh(hint) for hint, _, _ in kinds)
        for part, (_, first, dtype) in zip(self.before, kinds):
            w.line(f"{part} = tl.full({shape}, {first}, {type_text(dtype)})")

    def write(self, index: str, last: str) -> None:
        """Scan a tile, and go on from what came before; `last` tells its last places."""
        w = self.body.w
        w.comment(self.s.origin)
        names = [self.body.fresh(f"{self.name}_best")] * self.places + [self.name]
        found, given = ", ".join(names), ", ".join([self.tile() + self.from_zero] + [self.place(index)] * self.places)
        pair = "({})" if self.places else "{}"
        w.line(f"{found} = tl.associative_scan({pair.format(given)}, {self.last}, {self.combiner})")
        if self.before:
            w.line(f"{found} = {self.combiner}({', '.join(self.before)}, {found})")
            others = [self.identity, "0"]
            ends = ", ".join(f"tl.where({last}, {n}, {other})" for n, other in zip(names, others))
            w.line(f"{', '.join(self.before)} = tl.reduce({pair.format(ends)}, {self.last}, {self.combiner}, keep_dims=True)")
        if not self.places and self.s.dtype != self.dtype:
            w.line(f"{self.name} = {self.name}.to({type_text(self.s.dtype)})")


class _Printer:
    def __init__(self, kernel: Kernel, name: str, tiles: Sizes):
        self.kernel, self.name = kernel, name
        self.stages = Stages(kernel)
        self.tiling = Tiling(kernel, self.stages, tiles)
        self.blocks = _block_names(self.tiling.spans)
        self.body = Body(self.stages, self.tiling.spans, self.blocks, Names({name, *sizes_of(kernel)}))
        self.w = self.body.w
        self.indices = [index.name for index in self.body.indices]

    def print(self) -> Function:
        constants = {b: s.block for b, s in zip(self.blocks, self.tiling.spans)}
        pointers = {self.body.pointers[b.name]: b.dtype for b in self.kernel.buffers}
        sizes = sizes_of(self.kernel)
        parameters = [*pointers, *(f"{n}: tl.int64" for n in sizes), *(f"{b}: tl.constexpr" for b in constants)]
        axes = ", ".join(f"{self.body.axes[a.symbol.name]} < {a.size}{' reduced' if a.reduce else ''}" for a in self.kernel.axes)
        self.w.line(f"# {', '.join(self.kernel.values) or self.name}{': ' + axes if axes else ''}")
        self._indices()
        if self.tiling.persistent:
            self._straight()
        else:
            self._looped()
        head = f"@triton.jit\ndef {self.name}({', '.join(parameters)}):\n"
        text = head + "\n".join(self.w.lines) + "\n"
        signature = Signature(self.name, pointers, sizes, constants,
                              {"num_warps": self.tiling.warps, **check_options(self.kernel.body)})
        return Function(signature, text, self.tiling.programs)

    # Indices

    def _indices(self) -> None:
        """The place of the program, and the indices of its elements."""
        parts = [(a, None) for a in self.tiling.outer] + [
            (s, k) for k, s in enumerate(self.tiling.spans) if not s.reduce]
        counts = [p.size if k is None else p.tiles for p, k in parts]
        number = "tl.program_id(0)" + (".to(tl.int64)" if self.tiling.wide else "")
        if len([n for n in counts if n != 1]) > 1:
            self.w.line(f"program = {number}")
            number = "program"
        step = 1
        places = []
        for n, (part, k) in reversed(list(zip(counts, parts))):
            place = number if step == 1 else f"{number} // {size_text(step)}"
            step *= n
            places.append("" if n == 1 else place if step == self.tiling.programs else f"{place} % {size_text(n)}")
        for place, (part, k) in zip(reversed(places), parts):
            if k is None:
                self.w.line(f"{self.body.axes[part.symbol.name]} = {place or 0}")
            else:
                self._span(k, f"{f'({place})' if ' ' in place else place} * {self.blocks[k]} + " if place else "")
        for k, s in enumerate(self.tiling.spans):
            if s.reduce and self.tiling.persistent:
                self._span(k, "")

    def _span(self, k: int, start: str) -> None:
        """The index of a span's elements from `start` (text that ends in a plus) on, that of each of its axes, and the mask."""
        span, index = self.tiling.spans[k], self.indices[k]
        side = "" if len(self.tiling.spans) == 1 else "[:, None]" if k == 0 else "[None, :]"
        wide = ".to(tl.int64)" if self.tiling.wide else ""
        self.w.line(f"{index} = {start}tl.arange(0, {self.blocks[k]}){side}{wide}")
        if span.ragged:
            mask = self.body.masks.setdefault(k, self.body.masks.get(k) or self.body.fresh(f"{index}_in"))
            self.w.line(f"{mask} = {index} < {size_text(span.size)}")
        self._axes(span.axes, index)

    def _axes(self, axes: Sequence[Axis], index: str) -> None:
        step = 1
        for n, a in reversed(list(enumerate(axes))):
            name = self.body.axes[a.symbol.name]
            place = index if step == 1 else f"{index} // {size_text(step)}"
            if name != index and a.symbol.name in self.body.used:
                self.w.line(f"{name} = {place if n == 0 else f'{place} % {size_text(a.size)}'}")
            step *= a.size

    # Statements

    def _straight(self) -> None:
        """All statements in order: the reduced elements are in the tile."""
        for i, s in enumerate(self.kernel.body):
            if isinstance(s, Reduce):
                self.w.comment(s.origin)
                reduction = _Reduction(s, self.body)
                reduction.combine(reduction.tile(), reduction.place(self.indices[-1]) if reduction.places else "")
            elif isinstance(s, Scan):
                _Scan(s, self.body).write(self.indices[-1], "")
            else:
                self.body.write(i)

    def _looped(self) -> None:
        """A loop over tiles for each pass; between them, what does not vary over the reduced axes."""
        stages = self.stages
        for number in range(stages.pass_count + 1):
            for i, s in enumerate(self.kernel.body):
                if stages.stage[i] == number and not stages.inside(i) and not isinstance(s, Reduce):
                    self.body.write(i)
            if number < stages.pass_count:
                self._pass(number)

    def _pass(self, number: int) -> None:
        stages, w, k = self.stages, self.w, len(self.tiling.spans) - 1
        roots = [i for i in range(len(self.kernel.body)) if stages.is_root(i) and stages.stage[i] == number]
        reductions = {i: _Reduction(self.kernel.body[i], self.body) for i in roots if isinstance(self.kernel.body[i], Reduce)}
        needed = self._needed(roots)
        scans = {i: _Scan(self.kernel.body[i], self.body) for i in needed if isinstance(self.kernel.body[i], Scan)}
        for r in (*reductions.values(), *scans.values()):
            r.start()
        start = self.body.fresh(f"{self.indices[k]}_start")
        w.line(f"for {start} in range(0, {size_text(self.tiling.spans[k].size)}, {self.blocks[k]}):")
        w.depth += 1
        self._span(k, f"{start} + ")
        for i in needed:
            if i in reductions:
                w.comment(self.kernel.body[i].origin)
                reductions[i].update(self.indices[k])
            elif i in scans:
                scans[i].write(self.indices[k], f"{self.indices[k]} == {start} + {self.blocks[k]} - 1")
            else:
                self.body.write(i)
        w.depth -= 1
        for r in reductions.values():
            r.finish()

    def _needed(self, roots: list[int]) -> list[int]:
        """The statements of a pass: its roots and what they read that varies over the reduced axes, in order."""
        wanted: set[int] = set()
        queue = list(roots)
        while queue:
            i = queue.pop()
            if i not in wanted and (i in roots or self.stages.inside(i)):
                wanted.add(i)
                queue += self.stages.read_by(i)
        return sorted(wanted)


def _block_names(spans: Sequence[Span]) -> list[str]:
    """The constant of each span's block: RBLOCK for the reduced one, XBLOCK for the innermost of the others."""
    kept = [s for s in spans if not s.reduce]
    names = ["YBLOCK", "XBLOCK"][2 - len(kept):] if kept else []
    return [*names, *["RBLOCK" for s in spans if s.reduce]]
