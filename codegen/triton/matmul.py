"""The matrix product as a Triton kernel: tiles of tl.dot, with the epilogue applied to each finished tile.

A program has one tile of the result: `rows` x `columns` of one product of the batch. It goes over k in steps of `depth`,
and adds up in float32. Operands are read where they lie, whatever their strides. Programs that follow each other take
tiles from GROUP rows of tiles, column after column, so that what they read is still in the cache.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ...compiler.dims import Dim, Expr, Sym, dot, expr_of, known, product, simplest, typical
from ...runtime.program import Signature
from ..loops import Kernel, MatMul, sizes_of
from ..stages import Stages
from .body import Body, Names, index_text, size_text
from .kernel import Function, check_options
from .scalars import type_text
from .tiling import LARGE, Span, power_of_two

#: What the template computes; other products are the library's.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: tl.dot takes no less along each side.
SMALLEST = 16
#: Rows of tiles that programs share.
GROUP = 8
#: Multiplies float32 as torch's setting says at the time of the call.
PRECISION = {"PRECISION": '"tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"'}


@dataclass(frozen=True)
class ProductTiling:
    """The sides of a program's tile, its steps along k, and what Triton's compiler is told."""
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def __str__(self):
        return f"{self.rows}x{self.columns}x{self.depth}, {self.warps} warps, {self.stages} stages"


#: Tilings by what is multiplied, the one for large products first.
HALVES = (ProductTiling(128, 128, 64, 8, 3), ProductTiling(128, 128, 32, 4, 4), ProductTiling(128, 64, 64, 4, 3),
          ProductTiling(64, 128, 64, 4, 3), ProductTiling(64, 64, 64, 4, 4), ProductTiling(32, 64, 64, 4, 4),
          ProductTiling(64, 32, 64, 4, 4), ProductTiling(16, 64, 128, 4, 4))
SINGLES = (ProductTiling(64, 64, 32, 8, 3), ProductTiling(128, 64, 32, 8, 3), ProductTiling(64, 128, 32, 8, 3),
           ProductTiling(32, 64, 32, 4, 3), ProductTiling(64, 32, 32, 4, 3), ProductTiling(32, 32, 32, 4, 3),
           ProductTiling(16, 64, 32, 4, 3))


def product_tilings(kernel: MatMul) -> tuple[ProductTiling, ...]:
    """The ways to cut a product, the one to take unmeasured first: tiles no larger than the product, and each once."""
    def side(wanted: int, size: Dim) -> int:
        return max(min(wanted, power_of_two(typical(size))), SMALLEST)
    known_ways = SINGLES if kernel.dtype == torch.float32 else HALVES
    return tuple(dict.fromkeys(ProductTiling(side(t.rows, kernel.m), side(t.columns, kernel.n), side(t.depth, kernel.k), t.warps,
                                             t.stages) for t in known_ways))


def print_product(kernel: MatMul, name: str, tiling: ProductTiling) -> Function:
    """A product as a Triton function `name(<pointers>, <sizes>, <block sizes>[, PRECISION])`."""
    return _Printer(kernel, name, tiling).print()


@dataclass(frozen=True)
class _Product:
    """The finished product as a statement of its epilogue, of which `index` says over what it varies."""
    name: str
    index: Expr
    dtype: torch.dtype


class _Printer:
    def __init__(self, kernel: MatMul, name: str, tiling: ProductTiling):
        self.kernel, self.name, self.tiling = kernel, name, tiling
        self.batch, row, column = kernel.axes
        acc = _Product("acc", sum((expr_of(a.symbol) for a in kernel.axes), Expr({})), kernel.dtype)
        body = Kernel(name, kernel.axes, kernel.buffers, (acc, *kernel.epilogue), kernel.values)
        self.spans = (Span((row,), kernel.m, tiling.rows), Span((column,), kernel.n, tiling.columns))
        self.constants = {"YBLOCK": tiling.rows, "XBLOCK": tiling.columns, "RBLOCK": tiling.depth, "GROUP": GROUP}
        self.body = Body(Stages(body), self.spans, ("YBLOCK", "XBLOCK"), Names({name, *self.constants, *sizes_of(kernel)}))
        self.w = self.body.w

    def print(self) -> Function:
        single = self.kernel.dtype == torch.float32
        pointers = {self.body.pointers[b.name]: b.dtype for b in self.kernel.buffers}
        constants = self.constants | ({"PRECISION": "ieee"} if single else {})
        sizes = sizes_of(self.kernel)
        k = self.kernel
        self.w.line(f"# {', '.join(k.values)}: {size_text(k.batch)} x [{size_text(k.m)}, {size_text(k.k)}] @ "
                    f"[{size_text(k.k)}, {size_text(k.n)}]")
        self._tile()
        self._sum(", input_precision=PRECISION" if single else "")
        for i in range(1, 1 + len(k.epilogue)):
            self.body.write(i)
        parameters = ", ".join([*pointers, *(f"{n}: tl.int64" for n in sizes)])
        head = f"@triton.jit\ndef {self.name}({parameters},\n        {', '.join(f'{n}: tl.constexpr' for n in constants)}):"
        text = "\n".join([head, *self.w.lines]) + "\n"
        options = {"num_warps": self.tiling.warps, "num_stages": self.tiling.stages, **check_options(k.epilogue)}
        return Function(Signature(self.name, pointers, sizes, constants, options), text,
                        product([k.batch, *(s.tiles for s in self.spans)]), PRECISION if single else {})

    @property
    def wide(self) -> bool:
        """Whether indices need 64 bits."""
        k = self.kernel
        sides = product([k.batch, k.m + SMALLEST * GROUP, k.n + SMALLEST * GROUP]), *(b.numel for b in k.buffers)
        return not all(known(LARGE - 1, n) for n in sides)

    def _tile(self) -> None:
        """Which tile is this program's, and the indices of its rows and columns."""
        w, fresh = self.w, self.body.fresh
        rows, columns = (size_text(s.tiles) for s in self.spans)
        tiles, band, first, height, inside = map(fresh, ("tile", "band", "first", "height", "inside"))
        number = "tl.program_id(0)" + (".to(tl.int64)" if self.wide else "")
        if self.kernel.batch == 1:
            w.line(f"{tiles} = {number}")
        else:
            count = size_text(simplest(self.spans[0].tiles * self.spans[1].tiles))
            w.line(f"{self.body.axes[self.batch.symbol.name]} = {number} // {count}")
            w.line(f"{tiles} = {number} % {count}")
        w.line(f"{band} = {tiles} // (GROUP * {columns})")
        w.line(f"{first} = {band} * GROUP")
        w.line(f"{height} = tl.minimum({rows} - {first}, GROUP)")
        w.line(f"{inside} = {tiles} % (GROUP * {columns})")
        for k, (place, block, side) in enumerate(((f"{first} + {inside} % {height}", "YBLOCK", "[:, None]"),
                                                  (f"{inside} // {height}", "XBLOCK", "[None, :]"))):
            span, index = self.spans[k], self.body.indices[k].name
            w.line(f"{index} = ({place}) * {block} + tl.arange(0, {block}){side}")
            if span.ragged:
                self.body.masks[k] = fresh(f"{index}_in")
                w.line(f"{self.body.masks[k]} = {index} < {size_text(span.size)}")

    def _sum(self, precision: str) -> None:
        """The sum over k, rounded to the product's dtype."""
        w, fresh, k = self.w, self.body.fresh, self.kernel
        total, start, at, down = map(fresh, ("total", "k_start", "k_row", "k_column"))
        left, right = (fresh(b.name.removeprefix("in_")) for b in (k.a, k.c))
        ragged = Span((), k.k, self.tiling.depth).ragged
        w.line(f"{total} = tl.full((YBLOCK, XBLOCK), 0.0, tl.float32)")
        w.line(f"for {start} in range(0, {size_text(k.k)}, RBLOCK):")
        w.depth += 1
        w.line(f"{at} = {start} + tl.arange(0, RBLOCK)[None, :]")
        w.line(f"{down} = {start} + tl.arange(0, RBLOCK)[:, None]")
        row, column = (s.axes[0].symbol for s in self.spans)
        inside = [f"({place} < {size_text(k.k)})" if ragged else "" for place in (at, down)]
        self._load(left, k.a.name, k.a_strides, (row, Sym(at)), ("YBLOCK", "RBLOCK"), (self.body.masks.get(0), inside[0]))
        self._load(right, k.c.name, k.c_strides, (Sym(down), column), ("RBLOCK", "XBLOCK"), (inside[1], self.body.masks.get(1)))
        w.line(f"{total} = tl.dot({left}, {right}, {total}{precision})")
        w.depth -= 1
        w.line(f"{self.body.names['acc']} = {total}" + (f".to({type_text(k.dtype)})" if k.dtype != torch.float32 else ""))

    def _load(self, name: str, buffer: str, strides: tuple[Dim, Dim, Dim], places: tuple[Sym, Sym], shape: tuple[str, str],
              masks: tuple[str | None, str | None]) -> None:
        """A tile of an operand, with 0 where it has no element."""
        batch = expr_of(self.batch.symbol) if self.kernel.batch != 1 else 0
        index = dot([batch, *map(expr_of, places)], strides)
        address = f"{self.body.pointers[buffer]} + {index_text(index, lambda n: self.body.axes.get(n, n))}"
        if 0 in strides[1:]:  # of a dimension that was expanded
            address = f"tl.broadcast_to({address}, ({', '.join(shape)}))"
        mask = " & ".join(m for m in masks if m)
        self.w.line(f"{name} = tl.load({address}{f', {mask}, other=0.0' if mask else ''})")
