"""The matrix product as C: register tiles over panels, with the epilogue applied to each finished tile.

A product [m, k] x [k, n] is cut into tiles of a few rows by a few vectors of columns, whose sums stay in registers over
a block of k. Tiles at the lower and right edge are shifted inwards and computed again in part, so one size of tile does
for all; the epilogue sees each element once. The k rows of a tile's columns (a panel) are read where they lie if that
is good memory to read, and otherwise packed first: transposed (columns not contiguous), padded (fewer columns than a
tile), or copied from far-apart rows. Rows of a tile whose elements lie far apart (the left side transposed, as in every
gradient of weights) are packed by blocks too. Sums are accumulated in the operands' type, in blocks of terms. Where both operands
are contiguous along k and the product is too small to be worth packing, tiles are made of dot products instead.

The work is a list of items (batch, panel, block of rows) of which each thread takes an equal run.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from string import Template

import torch

from ...compiler.dims import Dim, Expr, typical
from ..loops import Load, MatMul, Store, sizes_of
from .body import Body, Writer
from .helpers import HELPERS, fill
from .isa import Isa, Vector, isa_of
from .nest import ceiling

NEAR_BYTES = 1 << 20     # a right side of this size is read in place, a larger one by packed panels
STRIDED = 1024           # bytes between terms of a tile's rows from which blocks of rows are packed
NEAR_ROWS = 1 << 18      # unless the left side has no more bytes than this
FAR_ROWS = 2048          # bytes between a panel's rows from which it is packed: they share few places of a cache
AHEAD = 12               # rows of a panel that are asked for before they are read
TERMS = 256              # added up in registers before they join the sum so far: bounds the rounding error
PANEL_BYTES = 128 << 10  # of a packed panel, which lies on the stack and stays in the second cache
BLOCK_ROWS = 288         # rows of an item where its panel is packed for it alone
PACKED_ROWS = 96         # of a packed block
PACKED_BYTES = 96 << 10  # of a packed block, which lies on the stack too
MAX_ROWS = 8             # of a tile: each takes a pointer register
MAX_VECTORS = 8
DOT_ROWS = 64            # up to so many rows, long dot products beat transposing a panel where there are many registers
LIBRARY_WORK = 1 << 26   # m*n*k from which a good library's product, called and then read again, is ahead
LIBRARY_SCALAR = 1 << 12  # the same against code without vectors


@dataclass(frozen=True)
class Tiling:
    """How a product is cut. A tile is `rows` x `vectors`; an item has up to `block_rows` rows, and `k_block` terms at a time.

    panel   "place": read where it lies; "rows", "some", "columns", "any": packed by that function; "dots": a tile is made of
            dot products, `dots` columns at a time
    packs_rows: the rows of an item are packed
    """
    rows: int
    vectors: int
    lanes: int
    k_block: Dim
    block_rows: int
    panel: str
    dots: int = 0
    packs_rows: bool = False

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes

    @property
    def packed_rows(self) -> int:
        """The places of a block's rows: whole vectors."""
        return ceiling(self.block_rows, self.lanes) * self.lanes


def oriented(kernel: MatMul) -> MatMul:
    """The product, or its transpose where that has contiguous columns all through and wastes fewer lanes."""
    by_row = kernel.axes[1].symbol
    stores = [s.index.coefficient(by_row) for s in kernel.epilogue if isinstance(s, Store)]
    if typical(kernel.n) >= typical(kernel.m) or kernel.a_strides[1] != 1 or any(step != 1 for step in stores):
        return kernel
    return replace(kernel, m=kernel.n, n=kernel.m, a=kernel.c, c=kernel.a, axes=(kernel.axes[0], kernel.axes[2], kernel.axes[1]),
                   a_strides=_swapped(kernel.c_strides), c_strides=_swapped(kernel.a_strides))


def _swapped(strides):
    batch, row, column = strides
    return batch, column, row


def choose_tiling(kernel: MatMul, isa: Isa) -> Tiling:
    """The tiling with the least estimated time. A panel with a symbolic number of columns is packed, as it may be narrow."""
    m, n, k = map(typical, (kernel.m, kernel.n, kernel.k))
    itemsize, lanes = kernel.dtype.itemsize, isa.lanes(kernel.dtype.itemsize * 8)
    along, step, column = kernel.a_strides[2], *kernel.c_strides[1:]
    narrow = isinstance(kernel.n, Expr)
    if along == step == 1 and not narrow and (m <= _dot_rows(k, isa) and column != 1 or 2 * n <= lanes):
        rows = max(1, min(m, 8 if n == 1 else 4))
        dots = max(1, min(n, lanes, 8 if m == 1 else 4, isa.registers // 2 // rows))
        terms = ceiling(_terms(kernel.k, PANEL_BYTES // (lanes * itemsize)), lanes) * lanes
        return Tiling(rows, 1, lanes, terms, rows if terms >= k else BLOCK_ROWS // rows * rows, "dots", dots)
    rows, vectors = best_tile(m, n, lanes, isa.registers)
    if column != 1:
        panel = "columns" if step == 1 else "any"
    elif narrow:
        panel = "some"
    elif n < vectors * lanes or (m >= 4 * rows and typical(step) > vectors * lanes and _far(typical(step) * itemsize, k)):
        panel = "rows"
    else:
        panel = "place"
    apart = typical(along) * itemsize
    if kernel.a_strides[1] == 1 and m > rows and n > lanes and apart >= STRIDED and k * apart > NEAR_ROWS:
        block = min(PACKED_ROWS // rows, ceiling(m, rows)) * rows
        terms = _terms(kernel.k, PACKED_BYTES // (PACKED_ROWS * itemsize))
        return Tiling(rows, vectors, lanes, terms, block, panel, packs_rows=True)
    if panel == "place":
        return Tiling(rows, vectors, lanes, kernel.k if k else 1, rows, panel)
    terms = _terms(kernel.k, PANEL_BYTES // (vectors * lanes * itemsize))
    return Tiling(rows, vectors, lanes, terms, rows if terms == max(k, 1) else BLOCK_ROWS // rows * rows, panel)


def _far(apart: int, rows: int) -> bool:
    """Whether rows that lie so many bytes apart are better packed than read where they lie."""
    return apart >= FAR_ROWS or rows * apart > NEAR_BYTES


def _terms(k: Dim, most: int) -> int:
    """Terms of a block: `most`, or fewer where a known k then comes out in blocks of about one length."""
    return max(1, ceiling(k, max(1, ceiling(k, most)))) if isinstance(k, int) else most


def _dot_rows(k: int, isa: Isa) -> int:
    """Rows up to which dot products beat transposing a panel: the lanes of each sum are added up, however short it is. Few
    registers hold few sums."""
    return min(DOT_ROWS, k // 8) if isa.registers >= 32 else min(48, 12 + k // 8)


def best_tile(m: int, n: int, lanes: int, registers: int) -> tuple[int, int]:
    """(rows, vectors) of the tile that wastes least: at edges, on loads, and on sums that wait for their last addition."""
    columns = -(-n // lanes)

    def cycles(tile: tuple[int, int]) -> float:
        """Of all tiles, for one term."""
        rows, vectors = tile
        arithmetic, loads, waiting = rows * vectors / 2, (rows + vectors) / 2, 4.0
        return -(-m // rows) * -(-columns // vectors) * (max(arithmetic, loads, waiting) + 0.2 * vectors + 0.1 * rows + 0.5)

    tiles = [(rows, vectors) for rows in range(1, min(m, MAX_ROWS) + 1) for vectors in range(1, min(columns, MAX_VECTORS) + 1)
             if rows * vectors + vectors + 1 <= registers]
    return min(tiles, key=cycles, default=(1, 1))


def use_library(m: int, n: int, k: int, dtype: torch.dtype, isa: str = "auto") -> bool:
    """Whether torch's own product is the faster one: that depends on the size, and on whether its library knows this CPU well."""
    if dtype not in (torch.float32, torch.float64):
        return True
    if isa_of(isa).name == "scalar":
        return m * n * k > LIBRARY_SCALAR
    return _library_is_good(isa_of(isa)) and m * n * k > LIBRARY_WORK


@lru_cache
def _library_is_good(isa: Isa) -> bool:
    """On CPUs that are not Intel's, MKL knows no AVX-512; other builds of torch have a library for their own machine."""
    if isa.name != "avx512" or not torch.backends.mkl.is_available():
        return True
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return True


def print_matmul(kernel: MatMul, isa: Isa) -> str:
    """Two static functions: the epilogue of a tile, and `<name>(<buffers>, <sizes>, long tid, long threads, long *error)`."""
    kernel = oriented(kernel)
    tiling = choose_tiling(kernel, isa)
    body = Body(kernel.epilogue, kernel.buffers, isa, tiling.lanes, vector=kernel.axes[2].symbol.name,
                axes=[a.symbol.name for a in kernel.axes], sizes=sizes_of(kernel), given={"acc": (kernel.dtype, True)})
    return "\n".join([_print_epilogue(kernel, tiling, body), *_print_ahead(kernel, body), _print_driver(kernel, tiling, body)])


def _parameters(kernel: MatMul, body: Body) -> str:
    return ", ".join(body.parameters(s.buffer for s in kernel.epilogue if isinstance(s, Store)))


def _print_epilogue(kernel: MatMul, tiling: Tiling, body: Body) -> str:
    """The statements on rows [first_row, end_row) and columns [first, end), whose sums lie in rows of the tile's width."""
    i0, i1, i2 = (body.axis_names[a.symbol.name] for a in kernel.axes)
    first_row, end_row, first, end, sums = map(body.names.fresh, ("first_row", "end_row", "first", "end", "sums"))
    lanes, vector, n = tiling.lanes, body.type_of(kernel.dtype), kernel.n
    w = Writer()
    w.open(f"static inline void {kernel.name}_epilogue({_parameters(kernel, body)}, const {vector.scalar} *{sums}, long {i0},"
           f" long {first_row}, long {end_row}, long {first}, long {end}, long *error)")
    w.open(f"for (long {i1} = {first_row}; {i1} < {end_row}; {i1}++, {sums} += {tiling.columns})")
    w.line(f"long {i2} = {first};")
    if isinstance(n, Expr) or n >= lanes:
        w.open(f"for (; {i2} + {lanes} <= {end}; {i2} += {lanes})")
        w.line(f"const {vector} {body.c_names['acc']} = load_{vector}({sums} + ({i2} - {first}));")
        for statement in kernel.epilogue:
            body.write(w, statement)
        w.close()
    if n % lanes != 0:
        w.open(f"if ({i2} < {end})")
        body.live(w, f"{end} - {i2}")
        w.line(f"const {vector} {body.c_names['acc']} = load_where_{vector}({sums} + ({i2} - {first}), live);")
        for statement in kernel.epilogue:
            body.write(w, statement, live=True)
        w.close()
    w.close()
    w.close()
    return str(w)


def _read_by_tile(kernel: MatMul, body: Body) -> list[Load]:
    """What the epilogue reads of matrices as large as the product."""
    row = kernel.axes[1].symbol
    loads = [s for s in kernel.epilogue if isinstance(s, Load) and not s.guard]
    return [s for s in loads if body.step(s.index) == 1 and row in s.index.symbols()]


def _print_ahead(kernel: MatMul, body: Body) -> list[str]:
    """A function that asks for what the epilogue will read, while the tile's sums are computed: memory is far, and a tile's part
    of a row too short for the CPU to see it coming."""
    loads = _read_by_tile(kernel, body)
    if not loads:
        return []
    i0, i1, i2 = (body.axis_names[a.symbol.name] for a in kernel.axes)
    w = Writer()
    w.open(f"static inline void {kernel.name}_ahead({_parameters(kernel, body)}, long {i0}, long first_row, long end_row,"
           " long first, long end)")
    w.open(f"for (long {i1} = first_row; {i1} < end_row; {i1}++)")
    w.open(f"for (long {i2} = first; {i2} < end; {i2} += {body.lanes})")
    for at in dict.fromkeys(f"{body.pointers[s.buffer]} + {body.place(s.index)}" for s in loads):
        w.line(f"__builtin_prefetch({at});")
    w.close()
    w.close()
    w.close()
    return [str(w)]


_DRIVER = Template("""\
// $batches x [$m, $k] x [$k, $n] in tiles of $rows x $columns
static void $name($parameters, long tid, long threads, long *error)
{
$prologue    $S $panel[$panel_size] __attribute__((aligned(64))), $sums[$sums_size] __attribute__((aligned(64)));
$block_of_rows    const $S *$packed = 0;
    const long $block_rows = $rows_of_block;
    const long $blocks = ($m + $block_rows - 1) / $block_rows, $items = $batches * $panels * $blocks;
    for (long item = tid * $items / threads; item < (tid + 1) * $items / threads; item++) {
        const long $batch = item / ($panels * $blocks), column = $panel_of_item % $panels * $columns;
        const long $left = $left_of_tile;
        const long $first = $block_of_item % $blocks * $block_rows, $end = $first + $block_rows < $m ? $first + $block_rows : $m;
        const $S *$a_item = $a + $batch * $a_batch, *$c_item = $c + $batch * $c_batch + $left * $c_column;
        for (long $done = 0; $done == 0 || $done < $k; $done += $k_block) {
            const long $terms = $k - $done < $k_block ? $k - $done : $k_block;
            const $S *$b = $c_item + $done * $c_step;
$packing
            for (long $row = $first; $row < $end; $row += $rows) {
                const long $top = $top_of_tile;
                $S *$sum = $sums + ($row - $first) * $sums_step;
$ahead                $tile
                if ($done + $terms == $k)
                    ${name}_epilogue($arguments, $sum + ($row - $top) * $columns + (column - $left), $batch,
                        $row, $row + $rows < $m ? $row + $rows : $m,
                        column, column + $columns < $n ? column + $columns : $n, error);
            }
        }
    }
}
""")
_LOCALS = ("rows", "panel", "sums", "packed", "block", "block_rows", "blocks", "items", "batch", "left", "first", "end", "start",
           "a_item", "c_item", "done", "terms", "b", "row", "top", "sum")


def _print_driver(kernel: MatMul, tiling: Tiling, body: Body) -> str:
    """The loops over batches, panels, blocks of rows, blocks of terms, and tiles."""
    local = {name: body.names.fresh(name) for name in _LOCALS}
    batches, m, n, k, k_block = map(body.size, (kernel.batch, kernel.m, kernel.n, kernel.k, tiling.k_block))
    columns, vector, panels = tiling.columns, body.type_of(kernel.dtype), ceiling(kernel.n, tiling.columns)
    one_pass = _in_one_pass(kernel, tiling)
    few = _may_have_few_rows(kernel, tiling)
    rows = local["rows"] if few else str(tiling.rows)
    row = local["row"]
    strides = dict(zip(("a_batch", "c_batch", "c_step", "c_column"), map(body.size, (kernel.a_strides[0], *kernel.c_strides))))
    return _DRIVER.substitute(
        {**local, "rows": rows}, name=kernel.name, parameters=_parameters(kernel, body), arguments=", ".join(body.arguments()),
        prologue=f"    const long {rows} = {m} < {tiling.rows} ? 1 : {tiling.rows};\n" if few else "",
        S=vector.scalar, T=vector, a=body.pointers[kernel.a.name], c=body.pointers[kernel.c.name], batches=batches, m=m, n=n, k=k,
        vectors=tiling.vectors, columns=columns, k_block=k_block, panels=body.size(panels),
        rows_of_block=_rows_of_block(tiling, rows, body.size(kernel.batch * panels), m),
        panel_size=1 if tiling.panel in ("place", "dots") else tiling.k_block * columns,
        sums_size=tiling.block_rows * columns, sums_step=0 if one_pass else columns,
        block_of_rows=f"    {vector.scalar} {local['block']}[{tiling.k_block * tiling.packed_rows}]"
                      " __attribute__((aligned(64)));\n" if tiling.packs_rows else "",
        ahead=f"""\
                if ({local['done']} + {local['terms']} == {k})
                    {kernel.name}_ahead({', '.join(body.arguments())}, {local['batch']},
                        {row}, {row} + {rows} < {m} ? {row} + {rows} : {m},
                        column, column + {columns} < {n} ? column + {columns} : {n});
""" if _read_by_tile(kernel, body) else "",
        panel_of_item="item" if tiling.packs_rows else f"item / {local['blocks']}",
        block_of_item=f"item / {body.size(panels)}" if tiling.packs_rows else "item",
        top_of_tile=f"{row} + {rows} > {m} ? {_less(kernel.m, rows, body)} : {row}" if kernel.m % tiling.rows != 0 else row,
        left_of_tile=_left_of_tile(kernel.n, columns, body),
        packing=_print_packing(kernel, tiling, body, local, one_pass), tile=_print_tile(kernel, tiling, body, local), **strides)


def _in_one_pass(kernel: MatMul, tiling: Tiling) -> bool:
    """Whether a tile's sums are finished at once, with no blocks of terms."""
    return tiling.k_block == kernel.k or isinstance(kernel.k, int) and tiling.k_block > kernel.k


def _may_have_few_rows(kernel: MatMul, tiling: Tiling) -> bool:
    """Whether the product may have fewer rows than a tile: then its tiles have one row."""
    return isinstance(kernel.m, Expr) and kernel.m % tiling.rows != 0


def _less(size: Dim, by: str, body: Body) -> str:
    return str(size - int(by)) if isinstance(size, int) else f"{body.size(size)} - {by}"


def _left_of_tile(n: Dim, columns: int, body: Body) -> str:
    """The first column that a tile reads: the last tile is shifted inwards."""
    if n % columns == 0:
        return "column"
    last = max(n - columns, 0) if isinstance(n, int) else f"({body.size(n)} > {columns} ? {body.size(n)} - {columns} : 0)"
    return f"column + {columns} > {body.size(n)} ? {last} : column"


def _width(kernel: MatMul, tiling: Tiling, body: Body) -> str:
    """The columns of a panel that there are."""
    if isinstance(kernel.n, int):
        return str(min(kernel.n, tiling.columns))
    n = body.size(kernel.n)
    return f"{n} < {tiling.columns} ? {n} : {tiling.columns}"


def _rows_of_block(tiling: Tiling, rows: str, panels: str, m: str) -> str:
    """Rows of an item: smaller where there would be fewer items than threads."""
    if tiling.block_rows == tiling.rows:
        return rows
    shared = f"({m} / (threads * {rows}) + 1) * {rows}"
    return f"threads > {panels} && {shared} < {tiling.block_rows} ? {shared} : {tiling.block_rows}"


def _print_packing(kernel: MatMul, tiling: Tiling, body: Body, local: dict[str, str], one_pass: bool) -> str:
    """The lines that pack an item's rows and its panel. The items of one packed block of rows follow each other, or else those of
    one panel: with one pass over k, they share it."""
    lines = _print_packing_of_rows(kernel, tiling, body, local, one_pass) if tiling.packs_rows else []
    if tiling.panel not in ("place", "dots"):
        lines += _print_packing_of_panel(kernel, tiling, body, local, one_pass)
    return "\n".join(" " * 12 + line for line in lines)


def _print_packing_of_rows(kernel: MatMul, tiling: Tiling, body: Body, local: dict[str, str], one_pass: bool) -> list[str]:
    """A block begins at `start`, which is shifted inwards where it would end beyond the last row."""
    m, size, known = body.size(kernel.m), tiling.block_rows, isinstance(kernel.m, int)
    pack = Template("pack_${how}_$T($terms, $width, $vectors, $a_item + $start + $done * $a_step, $a_step, 1, $block);")
    pack = pack.substitute(
        local, how="rows" if known else "some", T=body.type_of(kernel.dtype), vectors=tiling.packed_rows // tiling.lanes,
        width=min(kernel.m, size) if known else f"{m} < {size} ? {m} : {size}", a_step=body.size(kernel.a_strides[2]))
    last = max(kernel.m - size, 0) if known else f"({m} > {size} ? {m} - {size} : 0)"
    lines = [pack]
    if one_pass:
        block = f"{local['a_item']} + {local['start']}"
        lines = [f"if ({local['packed']} != {block})", "    " + pack, f"{local['packed']} = {block};"]
    return [f"const long {local['start']} = {local['first']} + {size} > {m} ? {last} : {local['first']};", *lines]


def _print_packing_of_panel(kernel: MatMul, tiling: Tiling, body: Body, local: dict[str, str], one_pass: bool) -> list[str]:
    pack = Template("pack_${how}_$T($terms, $width, $vectors, $b, $step, $column, $panel);").substitute(
        local, how=tiling.panel, T=body.type_of(kernel.dtype), width=_width(kernel, tiling, body),
        vectors=tiling.vectors, step=body.size(kernel.c_strides[1]), column=body.size(kernel.c_strides[2]))
    lines = [pack]
    if one_pass and not tiling.packs_rows:
        lines = [f"if ({local['packed']} != {local['c_item']})", "    " + pack, f"{local['packed']} = {local['c_item']};"]
    return [*lines, f"{local['b']} = {local['panel']};"]


def _print_tile(kernel: MatMul, tiling: Tiling, body: Body, local: dict[str, str]) -> str:
    """The call that computes a tile's sums, of a whole tile or of one row."""
    if not _may_have_few_rows(kernel, tiling):
        return _print_tile_call(kernel, tiling, body, local)
    whole, one = (_print_tile_call(kernel, replace(tiling, rows=rows), body, local) for rows in (tiling.rows, 1))
    return f"if ({local['rows']} == 1)\n                    {one}\n                else\n                    {whole}"


def _print_tile_call(kernel: MatMul, tiling: Tiling, body: Body, local: dict[str, str]) -> str:
    _, row, step = map(body.size, kernel.a_strides)
    values = {**local, "T": body.type_of(kernel.dtype), "rows": tiling.rows, "a_row": row, "a_step": step}
    tile = "$a_item + $top * $a_row + $done * $a_step"
    if tiling.packs_rows:
        tile, values["a_row"], values["a_step"] = "$block + $top - $start", 1, tiling.packed_rows
    if tiling.panel == "dots":
        return Template("dots${rows}x${dots}_$T($terms, $width, $a_item + $top * $a_row + $done, $a_row, $b, $column, $sum,"
                        " $done > 0);").substitute(
            values, dots=tiling.dots, width=_width(kernel, tiling, body), column=body.size(kernel.c_strides[2]))
    return Template("tile${rows}x${vectors}_$T($terms, " + tile + ", $a_row, $a_step, $b, $b_step, $sum, $done > 0);").substitute(
        values, vectors=tiling.vectors, b_step=body.size(kernel.c_strides[1]) if tiling.panel == "place" else tiling.columns)


# The tile: rows x vectors of sums in registers.

def _tile(rows: int, vectors: int) -> str:
    return f"""
/* sum[i][j] = (add ? sum[i][j] : 0) + the sum over l < terms of a[i * a_row + l * a_step] * b[l * b_step + j],
   for {rows} rows and {vectors} vectors of columns */
static __attribute__((noinline)) void tile{rows}x{vectors}_$T(long terms, const $S *a, long a_row, long a_step,
    const $S *b, long b_step, $S *sum, long add)
{{
    for (long done = 0; done == 0 || done < terms; done += {TERMS}) {{
        const long end = done + {TERMS} < terms ? {TERMS} : terms - done;
        $T acc[{rows}][{vectors}] = {{}};
        for (long l = 0; l < end; l++, a += a_step, b += b_step) {{
            $T row[{vectors}];
            #pragma GCC unroll {vectors}
            for (long j = 0; j < {vectors}; j++) {{
                row[j] = load_$T(b + j * $W);
                __builtin_prefetch(b + {AHEAD} * b_step + j * $W);
            }}
            #pragma GCC unroll {rows}
            for (long i = 0; i < {rows}; i++)
                #pragma GCC unroll {vectors}
                for (long j = 0; j < {vectors}; j++)
                    acc[i][j] = fma_$T(splat_$T(a[i * a_row]), row[j], acc[i][j]);
        }}
        $S *at = sum;
        #pragma GCC unroll {rows}
        for (long i = 0; i < {rows}; i++)
            #pragma GCC unroll {vectors}
            for (long j = 0; j < {vectors}; j++, at += $W)
                store_$T(at, add || done ? load_$T(at) + acc[i][j] : acc[i][j]);
    }}
}}"""


for _rows in range(1, MAX_ROWS + 1):
    for _vectors in range(1, MAX_VECTORS + 1):
        HELPERS[f"tile{_rows}x{_vectors}"] = _tile(_rows, _vectors)


# Dot products: the same sums where both operands are contiguous along k, `columns` at a time.

def _dots(rows: int, columns: int, t: Vector, isa: Isa) -> str:
    def step(load: str, mask: str) -> str:
        return f"""\
                $T right[{columns}];
                #pragma GCC unroll {columns}
                for (long j = 0; j < {columns}; j++)
                    right[j] = {load}(b + j * column + l{mask});
                #pragma GCC unroll {rows}
                for (long i = 0; i < {rows}; i++) {{
                    const $T left = {load}(a + i * a_row + l{mask});
                    #pragma GCC unroll {columns}
                    for (long j = 0; j < {columns}; j++)
                        acc[i][j] = fma_$T(left, right[j], acc[i][j]);
                }}"""

    def finish(first: int) -> str:
        """Of a vector's worth of dot products."""
        places = [(n // columns, n % columns) for n in range(first, min(first + t.lanes, rows * columns))]
        parts = ", ".join(f"acc[{i}][{j}]" for i, j in places)

        def store(n: int, i: int, j: int) -> str:
            to = f"at[{i} * $W + {j}]"
            return f"    if (first + {j} >= next) {to} = add || done ? {to} + parts[0][{n}] : parts[0][{n}];"
        stores = (store(n, *place) for n, place in enumerate(places))
        return "\n".join(" " * 12 + line for line in (
            "{", f"    $T parts[$W] = {{{parts}}};", "    sum_rows_$T(parts);", *stores, "}"))

    return fill(f"""
/* sum[i * $W + j] = (add ? sum[i * $W + j] : 0) + the sum over l < terms of a[i * a_row + l] * c[j * column + l],
   for {rows} rows and j < width */
static __attribute__((noinline)) void dots{rows}x{columns}_$T(long terms, long width, const $S *a, long a_row, const $S *c,
    long column, $S *sum, long add)
{{
    for (long next = 0; next < width; next += {columns}) {{
        const long first = next + {columns} > width ? width - {columns} : next;
        const $S *b = c + first * column;
        for (long done = 0; done == 0 || done < terms; done += {TERMS} * $W) {{
            const long end = done + {TERMS} * $W < terms ? done + {TERMS} * $W : terms;
            $T acc[{rows}][{columns}] = {{}};
            $S *at = sum + first;
            long l = done;
            for (; l + $W <= end; l += $W) {{
{step("load_$T", "")}
            }}
            if (l < end) {{
                const $M live = lanes_$M < splat_$M(end - l);
{step("load_where_$T", ", live")}
            }}
{chr(10).join(map(finish, range(0, rows * columns, t.lanes)))}
        }}
    }}
}}""", t, isa)


for _rows in range(1, MAX_ROWS + 1):
    for _columns in range(1, MAX_VECTORS + 1):
        HELPERS[f"dots{_rows}x{_columns}"] = partial(_dots, _rows, _columns)


# Packing: `width` columns of b, at b[l * step + j * column], into rows of `vectors` vectors, the rest of them 0.

HELPERS["pack_rows"] = """
static void pack_rows_$T(long terms, long width, long vectors, const $S *b, long step, long column, $S *panel)
{
    const $M live = lanes_$M < splat_$M(width - (vectors - 1) * $W);
    for (long l = 0; l < terms; l++, b += step, panel += vectors * $W) {
        for (long j = 0; j < vectors - 1; j++)
            store_$T(panel + j * $W, load_$T(b + j * $W));
        store_$T(panel + (vectors - 1) * $W, load_where_$T(b + (vectors - 1) * $W, live));
    }
}"""

HELPERS["pack_some"] = """
static void pack_some_$T(long terms, long width, long vectors, const $S *b, long step, long column, $S *panel)
{
    for (long l = 0; l < terms; l++, b += step, panel += vectors * $W)
        for (long j = 0; j < vectors * $W; j += $W)
            store_$T(panel + j, load_where_$T(b + j, lanes_$M < splat_$M(width - j)));
}"""

HELPERS["pack_columns"] = """
static void pack_columns_$T(long terms, long width, long vectors, const $S *b, long step, long column, $S *panel)
{
    for (long l = 0; l < terms; l += $W) {
        const long rest = terms - l < $W ? terms - l : $W;
        const $M live = lanes_$M < splat_$M(rest);
        for (long j = 0; j < vectors * $W; j += $W) {
            $T rows[$W];
            for (long i = 0; i < $W; i++)
                rows[i] = j + i < width ? load_where_$T(b + l + (j + i) * column, live) : ($T){};
            transpose_$T(rows);
            for (long i = 0; i < rest; i++)
                store_$T(panel + (l + i) * vectors * $W + j, rows[i]);
        }
    }
}"""

HELPERS["pack_any"] = """
static void pack_any_$T(long terms, long width, long vectors, const $S *b, long step, long column, $S *panel)
{
    for (long l = 0; l < terms; l++)
        for (long j = 0; j < vectors * $W; j++)
            panel[l * vectors * $W + j] = j < width ? b[l * step + j * column] : 0;
}"""
