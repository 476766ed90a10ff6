"""One kernel as a C function: its loops, its passes, its share of the work for each thread.

Three shapes of kernel share the parallel loops. Pointwise: one loop along the lanes. Rows: the lanes run along a reduced
axis, and every row takes its passes in turn. Columns: the lanes run along a kept axis; a tile of columns has its
accumulators in the L1 cache while the reduced axes go by.
"""
from __future__ import annotations

from typing import Callable

from ...compiler.dims import Expr, expr
from ..loops import Axis, Kernel, Reduce, Store, Check
from .body import Body, Writer
from .isa import Isa, memory_type, register_type
from .reductions import Accumulator
from .schedule import Pass, Schedule, cost_of

#: Work items that the parallel loops are cut into at least, where there are as many, for threads to share.
ITEMS = 64
#: Elements of a pointwise work item along the lanes.
CHUNK = 4096
#: Columns of a tile: their accumulators fit the L1 cache.
TILE = 512
#: Additions in a row that a float sum takes before its total does.
CHAIN = 256
#: Reduced steps that a tile of columns takes at a time when the steps are cheap.
STEPS = 4


def print_kernel(kernel: Kernel, isa: Isa) -> str:
    """The kernel as `static void <name>(<pointers>, long tid, long threads, long *error)`, thread `tid`'s share of it."""
    return _KernelPrinter(kernel, isa).text()


class _KernelPrinter:
    def __init__(self, kernel: Kernel, isa: Isa):
        self.kernel, self.isa = kernel, isa
        self.plan = Schedule(kernel, isa)
        self.vector = self.plan.vector
        self.lanes = self.plan.lanes
        self.body = Body(kernel.body, kernel.buffers, isa, self.lanes, self.vector.symbol.name if self.vector else "",
                         [a.symbol.name for a in kernel.axes], reduced=self.plan.reduced)
        self.w = Writer()
        self.outer = [a for a in kernel.parallel if a is not self.vector]
        self.inner = [a for a in kernel.reduced if a is not self.vector]
        self.accumulators: dict[int, Accumulator] = {}
        self.scratch = {n: self.body.names.fresh(self.body.c_names[n] + "_row") for n in sorted(self.plan.keep)}

    # Small things

    def size(self, axis: Axis) -> int:
        return self.plan.sizes[axis.symbol.name]

    def name(self, axis: Axis) -> str:
        return self.body.axis_names[axis.symbol.name]

    def write(self, i: int, live: bool = False) -> None:
        self.body.write(self.w, self.kernel.body[i], live)

    def text(self) -> str:
        w = self.w
        for line in self._head():
            w.line(line)
        w.open(self._signature())
        if all(self.size(a) for a in self.kernel.parallel):
            self._scratch_arrays()
            self._outer_level(frozenset())
            self._items()
        w.close()
        return str(w)

    def _head(self) -> list[str]:
        axes = ", ".join(f"{self.name(a)} < {a.size}{' reduced' if a.reduce else ''}" for a in self.kernel.axes)
        computes = ", ".join(self.kernel.values)
        return [f"// {computes or self.kernel.name}{': ' + axes if axes else ''}"]

    def _signature(self) -> str:
        stored = {s.buffer for s in self.kernel.body if isinstance(s, Store)}
        pointers = [f"{'' if b.name in stored else 'const '}{memory_type(b.dtype, 1).scalar} *restrict {self.body.pointers[b.name]}"
                    for b in self.kernel.buffers]
        return f"static void {self.kernel.name}({', '.join([*pointers, 'long tid', 'long threads', 'long *error'])})"

    def _scratch_arrays(self) -> None:
        for n, c_name in self.scratch.items():
            t = register_type(self.body.dtypes[n], 1, self.isa) if not self.body.dtypes[n].itemsize == 1 else self.body.mask
            length = self._row_length() if self.plan.row_wise else self.plan.count(self.plan.reduced) * self._tile()
            self.w.line(f"{t.scalar} {c_name}[{length}] __attribute__((aligned(64)));")

    # The parallel loops

    def _tile(self) -> int:
        """Elements along the lanes of one work item, where the lanes run along a parallel axis."""
        size = -(-self.size(self.vector) // self.lanes) * self.lanes
        if not self.kernel.reduced:
            return min(size, CHUNK)
        if self.plan.keep:
            return self.lanes * 4
        return min(size, TILE)

    def _items(self) -> None:
        """Open the work items' loop and the parallel loops inside it, and print what they hold."""
        leading, total = [], 1
        for a in self.outer:
            if total >= ITEMS:
                break
            leading.append(a)
            total *= self.size(a)
        tiles = 1
        if self.vector is not None and not self.vector.reduce and (self.kernel.reduced or (
                total < ITEMS and len(leading) == len(self.outer))):
            tiles = -(-self.size(self.vector) // self._tile())
        self._open_items(leading, total, tiles)
        depth = self.w.depth
        opened = {a.symbol.name for a in leading}
        self._outer_level(frozenset(opened), leading)
        for a in self.outer[len(leading):]:
            self.w.open(f"for (long {self.name(a)} = 0; {self.name(a)} < {self.size(a)}; {self.name(a)}++)")
            opened.add(a.symbol.name)
            self._outer_level(frozenset(opened), [a])
        self._inside()
        while self.w.depth >= depth and self.w.depth > 1:
            self.w.close()

    def _open_items(self, leading: list[Axis], total: int, tiles: int) -> None:
        w, items = self.w, total * tiles
        self.first, self.last = "0", str(self.size(self.vector)) if self.vector else ""
        if items == 1:
            w.line("if (tid) return;")
            w.open()
            for a in leading:
                w.line(f"const long {self.name(a)} = 0;")
            return
        share = f"= {items} * tid / threads; @ < {items} * (tid + 1) / threads; @++"
        if tiles == 1 and len(leading) == 1:
            w.open(f"for (long {self.name(leading[0])} {share.replace('@', self.name(leading[0]))})")
            return
        w.open(f"for (long item {share.replace('@', 'item')})")
        step = items
        for a in leading:
            step //= self.size(a)
            index = f"item / {step}" if step != 1 else "item"
            w.line(f"const long {self.name(a)} = {index if a is leading[0] else f'{index} % {self.size(a)}'};")
        if tiles > 1:
            self._open_tile(tiles, bool(leading))

    def _open_tile(self, tiles: int, leading: bool) -> None:
        v, size, tile = self.name(self.vector), self.size(self.vector), self._tile()
        self.first, self.last = self.body.names.fresh(v + "_first"), self.body.names.fresh(v + "_last")
        self.w.line(f"const long {self.first} = {f'item % {tiles}' if leading else 'item'} * {tile};")
        end = f"{self.first} + {tile}"
        self.w.line(f"const long {self.last} = {end if size % tile == 0 else f'{end} < {size} ? {end} : {size}'};")

    def _outer_level(self, opened: frozenset[str], new: list[Axis] = ()) -> None:
        """Print the statements that need no reduction and vary over the loops open so far, and over a new one."""
        fresh = {a.symbol.name for a in new}
        for i, s in enumerate(self.kernel.body):
            varies = self.plan.varies[i]
            if self.plan.stage[i] == 0 and not isinstance(s, Reduce) and varies <= opened and (varies & fresh or not opened):
                self.write(i)

    def _inside(self) -> None:
        if not self.kernel.reduced:
            rest = [i for i in range(len(self.kernel.body)) if self.vector and self.vector.symbol.name in self.plan.varies[i]]
            if rest:
                self._along_lanes(lambda live: [self.write(i, live) for i in rest])
        elif self.plan.row_wise:
            self._rows()
        else:
            self._columns()

    def _along_lanes(self, emit: Callable[[bool], object], column: bool = False) -> None:
        """The loop over the work item's part of a parallel lane axis; `column` counts vectors in the tile."""
        w, v, n, size = self.w, self.name(self.vector), self.lanes, self.size(self.vector)
        whole, left = size - size % n, size % n
        start, step = (", column = 0", ", column++") if column else ("", "")
        if whole:
            w.open(f"for (long {v} = {self.first}{start}; {v} + {n} <= {self.last}; {v} += {n}{step})")
            emit(False)
            w.close()
        if left:
            w.open("" if self.last == str(size) else f"if ({self.last} == {size})")
            w.line(f"const long {v} = {whole};")
            if column:
                w.line(f"const long column = ({whole} - {self.first}) / {n};")
            self.body.live(w, str(left))
            emit(True)
            w.close()

    # Reduced axes

    def _flat(self) -> Expr:
        """The flat index over the reduced axes."""
        flat = expr(0)
        for a in self.kernel.reduced:
            flat = flat * self.size(a) + Expr({(a.symbol,): 1})
        return flat

    def _place(self) -> str:
        """The flat indices of the lanes' elements, as a vector of the mask's type."""
        flat, mask = self._flat(), self.body.mask
        step = flat.coefficient(self.vector.symbol) if self.vector else 0
        first = f"splat_{mask}({self.body.place(flat)})"
        return first if not step else f"{first} + lanes_{mask}" + (f" * {step}" if step != 1 else "")

    def _start(self, p: Pass, count: int, limit: int) -> None:
        """Declare the accumulators of a pass."""
        steps = self.plan.count(self.plan.reduced)
        for i in p.reductions:
            s = self.kernel.body[i]
            blocked = Accumulator.can_block(s) and steps > limit
            self.accumulators[i] = Accumulator(s, self.body, count, self.plan.row_wise, blocked)
            self.accumulators[i].declare(self.w)

    def _update(self, p: Pass, u: str, live: bool) -> None:
        for i in p.reductions:
            self.w.comment(self.kernel.body[i].origin)
            self.accumulators[i].update(self.w, u, live, self._place())

    def _flush(self, p: Pass) -> None:
        for i in p.reductions:
            if self.accumulators[i].blocked:
                self.accumulators[i].flush(self.w)

    def _flush_depth(self, sizes: list[int], limit: int) -> int:
        """How many of the loops (outermost first) stand outside the longest run that one running sum may take:
        it is moved to the total at the end of each step of the last of them; -1: the innermost loop itself is too long."""
        if sizes and sizes[-1] > limit:
            return -1
        run, depth = 1, len(sizes)
        while depth and run * sizes[depth - 1] <= limit:
            depth -= 1
            run *= sizes[depth]
        return depth

    def _reduced_loops(self, p: Pass, axes: list[Axis], flush_depth: int, innermost: Callable[[], None]) -> None:
        """Loops over reduced axes, each with the statements that vary no deeper, around `innermost`."""
        w, opened, last = self.w, set(), {a.symbol.name for a in axes}
        for depth, a in enumerate(axes, 1):
            w.open(f"for (long {self.name(a)} = 0; {self.name(a)} < {self.size(a)}; {self.name(a)}++)")
            opened.add(a.symbol.name)
            for i in p.statements:
                inside = self.plan.varies[i] - frozenset(o.symbol.name for o in self.outer)
                if inside <= opened and a.symbol.name in inside:
                    self.write(i)
        innermost()
        for depth in range(len(axes), 0, -1):
            if depth == flush_depth:
                self._flush(p)
            w.close()

    # Rows

    def _row_length(self) -> int:
        """Elements of a row in scratch memory: each run along the lanes is padded to whole vectors."""
        return self.plan.count(a.symbol.name for a in self.inner) * -(-self.size(self.vector) // self.lanes) * self.lanes

    def _rows(self) -> None:
        for number in range(len(self.plan.passes) + 1):
            if number:
                for i, s in enumerate(self.kernel.body):
                    if self.plan.stage[i] == number and not isinstance(s, Reduce) and not self.plan.inside(i):
                        self.write(i)
            if number < len(self.plan.passes):
                self._row_pass(self.plan.passes[number])

    def _row_pass(self, p: Pass) -> None:
        count = self._accumulator_count(p)
        limit = CHAIN * count * self.lanes
        self._start(p, count, limit)
        sizes = [self.size(a) for a in self.inner] + [self.size(self.vector)]
        depth = self._flush_depth(sizes, limit)
        along = [i for i in p.statements if self.vector.symbol.name in self.plan.varies[i]]
        self._reduced_loops(p, self.inner, depth, lambda: self._row_lanes(p, along, count, limit if depth < 0 else 0))
        for i in p.reductions:
            a = self.accumulators[i]
            if a.blocked and depth in (-1, 0):
                a.flush(self.w)
            t = self.body.type_of(a.reduce.dtype)
            self.w.line(f"const {t} {self.body.c_names[a.reduce.name]} = {a.result()};")

    def _accumulator_count(self, p: Pass) -> int:
        """Independent accumulators that hide the latency of the reductions: more for cheap passes."""
        vectors = self.size(self.vector) // self.lanes
        if not p.reductions or any(self.kernel.body[i].op in ("argmax", "argmin") for i in p.reductions):
            return 1
        cost = sum(cost_of(self.kernel.body[i]) for i in p.statements)
        count = 8 if cost <= 2 else 4 if cost <= 10 else 2
        while count > 1 and (vectors < 2 * count or (vectors % count and vectors < 8 * count)):
            count //= 2
        return count

    def _row_lanes(self, p: Pass, along: list[int], count: int, block: int) -> None:
        """A row's loop along the lanes: vectors `count` at a time, those left over, the last lanes; blocks of `block` elements."""
        w, v, n, size = self.w, self.name(self.vector), self.lanes, self.size(self.vector)
        main, whole = size - size % (n * count), size - size % n
        if main:
            self._row_main(p, along, count, main, block)
        if whole > main:
            w.open(f"for (long {v} = {main}; {v} < {whole}; {v} += {n})")
            self._row_body(p, along, "0", False)
            w.close()
        if size > whole:
            w.open()
            w.line(f"const long {v} = {whole};")
            self.body.live(w, str(size - whole))
            self._row_body(p, along, "0", True)
            w.close()

    def _row_main(self, p: Pass, along: list[int], count: int, main: int, block: int) -> None:
        w, v, n = self.w, self.name(self.vector), self.lanes
        first, last = "0", str(main)
        if block:
            first = self.body.names.fresh(v + "_block")
            w.open(f"for (long {first} = 0; {first} < {main}; {first} += {block})")
            last = self.body.names.fresh(v + "_end")
            w.line(f"const long {last} = {first} + {block} < {main} ? {first} + {block} : {main};")
        if count == 1:
            w.open(f"for (long {v} = {first}; {v} < {last}; {v} += {n})")
            self._row_body(p, along, "0", False)
        else:
            group = self.body.names.fresh(v + "_group")
            w.open(f"for (long {group} = {first}; {group} < {last}; {group} += {n * count})")
            w.line(f"#pragma GCC unroll {count}")
            w.open(f"for (long u = 0; u < {count}; u++)")
            w.line(f"const long {v} = {group} + u * {n};")
            self._row_body(p, along, "u", False)
            w.close()
        w.close()
        if block:
            self._flush(p)
            w.close()

    def _row_body(self, p: Pass, along: list[int], u: str, live: bool) -> None:
        self._reload(p, self._row_scratch_place())
        for i in along:
            self.write(i, live)
            self._keep(p, i, self._row_scratch_place())
        self._update(p, u, live)

    def _row_scratch_place(self) -> str:
        padded = -(-self.size(self.vector) // self.lanes) * self.lanes
        flat = expr(0)
        for a in self.inner:
            flat = flat * self.size(a) + Expr({(a.symbol,): 1})
        return self.body.place(flat * padded + Expr({(self.vector.symbol,): 1}))

    def _reload(self, p: Pass, place: str) -> None:
        for n in sorted(p.reload):
            t = self.body.type_of(self.body.dtypes[n])
            self.w.line(f"const {t} {self.body.c_names[n]} = load_{t}({self.scratch[n]} + {place});")

    def _keep(self, p: Pass, i: int, place: str) -> None:
        s = self.kernel.body[i]
        if getattr(s, "name", "") in self.plan.keep and p is self.plan.passes[self.plan.stage[i]]:
            t = self.body.type_of(s.dtype)
            self.w.line(f"store_{t}({self.scratch[s.name]} + {place}, {self.body.c_names[s.name]});")

    # Columns

    def _columns(self) -> None:
        # Values of a column that passes need are computed once between the passes.
        self.columns: dict[int, str] = {}
        needed = {i for p in self.plan.passes for i in self._column_operands(p) if self.plan.stage[i]
                  and not isinstance(self.kernel.body[i], Reduce)}
        count = self._tile() // self.lanes
        for i in sorted(needed):
            s = self.kernel.body[i]
            self.columns[i] = self.body.names.fresh(self.body.c_names[s.name] + "_column")
            self.w.line(f"{self.body.type_of(s.dtype)} {self.columns[i]}[{count}];")
        for number in range(len(self.plan.passes) + 1):
            if number:
                self._between(number, [i for i in needed if self.plan.stage[i] == number])
            elif any(self._column_root(i) and not self.plan.stage[i] for i in range(len(self.kernel.body))):
                self._between(0, [])
            if number < len(self.plan.passes):
                self._column_pass(self.plan.passes[number])

    def _column_root(self, i: int) -> bool:
        """Whether statement i must be run for each column: it stores or checks, and was not run in the outer loops."""
        return isinstance(self.kernel.body[i], (Store, Check)) and not self.plan.inside(i) and not self._hoisted(i)

    def _hoisted(self, i: int) -> bool:
        return self.plan.stage[i] == 0 and self.vector.symbol.name not in self.plan.varies[i] and not self.plan.inside(i) \
            and not isinstance(self.kernel.body[i], Reduce)

    def _column_operands(self, p: Pass) -> list[int]:
        """Positions of the values that vary by column, but not over the reduced axes, that a pass reads."""
        read = {d for i in (*p.statements, *p.reductions) for d in self.plan.read_by(i)}
        return sorted(d for d in read if not self.plan.inside(d) and not self._hoisted(d))

    def _column_values(self, wanted: list[int], live: bool, store: bool = False) -> None:
        """Declare values of the present column vector, and what they need: results of reductions and kept values are read,
        the rest is computed. `store` makes the wanted ones kept values."""
        order, queue = set(), list(wanted)
        while queue:
            i = queue.pop()
            if i in order or self._hoisted(i):
                continue
            order.add(i)
            if not isinstance(self.kernel.body[i], Reduce) and (i not in self.columns or (store and i in wanted)):
                queue += self.plan.read_by(i)
        for i in sorted(order):
            s = self.kernel.body[i]
            if isinstance(s, Reduce):
                self.w.line(f"const {self.body.type_of(s.dtype)} {self.body.c_names[s.name]} = "
                            f"{self.accumulators[i].result('column')};")
            elif i in self.columns and not (store and i in wanted):
                self.w.line(f"const {self.body.type_of(s.dtype)} {self.body.c_names[s.name]} = {self.columns[i]}[column];")
            else:
                self.write(i, live)
                if i in self.columns:
                    self.w.line(f"{self.columns[i]}[column] = {self.body.c_names[s.name]};")

    def _between(self, number: int, needed: list[int]) -> None:
        """What is done for each column before pass `number`."""
        roots = needed + [i for i in range(len(self.kernel.body)) if self._column_root(i) and self.plan.stage[i] == number]
        if roots:
            self._along_lanes(lambda live: self._column_values(roots, live, store=True), column=True)

    def _column_pass(self, p: Pass) -> None:
        w = self.w
        self._start(p, self._tile() // self.lanes, CHAIN)
        sizes = [self.size(a) for a in self.inner]
        depth = self._flush_depth(sizes, CHAIN)
        *outer, last = self.inner
        self._reduced_loops(p, outer, depth, lambda: self._column_steps(p, last, CHAIN if depth < 0 else 0, depth == len(sizes)))
        if depth in (-1, 0):
            self._flush(p)

    def _column_steps(self, p: Pass, axis: Axis, block: int, flush: bool) -> None:
        """The innermost reduced loop, some steps at a time where they are cheap."""
        w, r, size = self.w, self.name(axis), self.size(axis)
        hidden = frozenset(o.symbol.name for o in self.outer) | {a.symbol.name for a in self.inner[:-1]}
        here = [i for i in p.statements if not self.plan.varies[i] - frozenset(o.symbol.name for o in self.outer)
                <= frozenset(a.symbol.name for a in self.inner[:-1])]
        cheap = sum(cost_of(self.kernel.body[i]) for i in here) <= 6 and p.reductions and size >= STEPS
        main = size - size % STEPS if cheap else 0
        first, last = "0", str(main or size)
        if block:
            first, last = self.body.names.fresh(r + "_block"), self.body.names.fresh(r + "_end")
            w.open(f"for (long {first} = 0; {first} < {main or size}; {first} += {block})")
            w.line(f"const long {last} = {first} + {block} < {main or size} ? {first} + {block} : {main or size};")
        if main:
            group = self.body.names.fresh(r + "_group")
            w.open(f"for (long {group} = {first}; {group} < {last}; {group} += {STEPS})")
            self._along_lanes(lambda live: self._column_group(p, here, r, group, live), column=True)
            w.close()
        else:
            self._single_steps(p, here, r, first, last)
        if block:
            self._flush(p)
            w.close()
        if main and main < size:
            self._single_steps(p, here, r, str(main), str(size))

    def _single_steps(self, p: Pass, here: list[int], r: str, first: str, last: str) -> None:
        self.w.open(f"for (long {r} = {first}; {r} < {last}; {r}++)")
        self._along_lanes(lambda live: self._column_step(p, here, live), column=True)
        self.w.close()

    def _column_group(self, p: Pass, here: list[int], r: str, group: str, live: bool) -> None:
        self.w.line(f"#pragma GCC unroll {STEPS}")
        self.w.open(f"for (long {r} = {group}; {r} < {group} + {STEPS}; {r}++)")
        self._column_step(p, here, live)
        self.w.close()

    def _column_step(self, p: Pass, here: list[int], live: bool) -> None:
        self._column_values(self._column_operands(p), live)
        place = f"({self.body.place(self._flat())}) * {self._tile()} + column * {self.lanes}"
        self._reload(p, place)
        for i in here:
            self.write(i, live)
            self._keep(p, i, place)
        self._update(p, "column", live)
