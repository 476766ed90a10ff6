"""Fusion: which values one kernel computes together.

A group is a set of values over common axes, some of them reduced. Every member has its coordinates as expressions over
those axes: all axes for a full value, the ones not reduced for a row value (a reduction's result, and what follows from
it). The members of a group become one kernel, because each of them is needed only at the coordinates at which the loop
computes it.

Values are taken in program order, each as a group of its own, and joined with the groups of what they read where

* one group's axes can be expressed in the other's (`_embedding`): the same shape, a permutation, a reshape, or rows;
* both agree on what is reduced;
* every read between them is at the coordinates of the loop, or cheap to compute again at others;
* no third group comes between (a cycle).
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Iterable, Iterator

from ..compiler.dims import Expr, Sym, dot, expr_of, product, typical
from ..compiler.ir import Graph, Value, contiguous_strides
from ..compiler.ops.core import takes_random_numbers
from .coordinates import (ZERO, Coordinates, Read, Substitution, axes_of, identity, lies_within, one_to_one, reads, size, solve,
                          substitute, unflatten, variable, variables)

#: Kinds of values that kernels compute.
COMPUTED = frozenset({"pointwise", "reduce", "scan", "gather", "part", "contract"})
#: A kernel computes at most this many values: beyond it, registers and compile time suffer.
MOST_MEMBERS = 96
#: At most this many values are computed twice in one kernel to serve a read at other coordinates.
MOST_AGAIN = 16


@dataclass(eq=False)
class Group:
    """Values that one kernel computes. `bit` is the group's own bit in sets of groups.

    coordinates  of each member, over `axes`
    inner        of each reduction and scan: the coordinates of its operand
    reads        of each member
    product      the matrix product whose epilogue this is
    fixed        the one value of a group that no kernel computes (an opaque call, a cat): nothing joins it
    """
    bit: int
    axes: tuple[Sym, ...] = ()
    reduced: frozenset[Sym] = frozenset()
    coordinates: dict[Value, Coordinates] = field(default_factory=dict)
    inner: dict[Value, Coordinates] = field(default_factory=dict)
    reads: dict[Value, tuple[Read, ...]] = field(default_factory=dict)
    product: Value | None = None
    fixed: Value | None = None

    @property
    def parallel(self) -> tuple[Sym, ...]:
        return tuple(a for a in self.axes if a not in self.reduced)

    @property
    def members(self) -> Iterable[Value]:
        return (self.fixed,) if self.fixed else self.coordinates

    def __repr__(self):
        return f"<group {', '.join(v.name for v in self.members)}>"


@dataclass(eq=False)
class Fusion:
    """The groups of a graph, in the order of their first members, and the group of each computed value."""
    groups: list[Group]
    group_of: dict[Value, Group]


def fuse(graph: Graph) -> Fusion:
    """Partition the computed values of a prepared graph."""
    fuser = _Fuser()
    for v in graph.values:
        if v.op.kind not in ("view", "source"):
            fuser.add(v)
    return Fusion(fuser.groups, fuser.group_of)


def operand_bases(v: Value) -> Iterator[Value]:
    """What a value reads through views."""
    for i in v.operands:
        while i.op.kind == "view":
            i = i.inputs[0]
        yield i


class _Fuser:
    def __init__(self):
        self.groups: list[Group] = []
        self.group_of: dict[Value, Group] = {}
        self.before: dict[int, int] = {}  # group's bit -> bits of the groups that it reads directly
        self.ancestors: dict[int, int] = {}  # and of all that come before it; in the order of the groups' last members
        self.ends: dict[int, tuple[int, int]] = {}  # the bits that its first and its last member had as groups of their own
        self.drawn: tuple[Value, ...] = ()  # the last one that takes random numbers: they are taken in program order
        self.next_bit = 1

    def add(self, v: Value) -> None:
        group = self.singleton(v)
        self.groups.append(group)
        self.group_of[v] = group
        before = ancestors = 0
        earlier, self.drawn = (self.drawn, (v,)) if takes_random_numbers(v) else ((), self.drawn)
        for base in (*operand_bases(v), *earlier):
            if base in self.group_of:
                bit = self.group_of[base].bit
                before |= bit
                ancestors |= bit | self.ancestors[bit]
        self.before[group.bit], self.ancestors[group.bit], self.ends[group.bit] = before, ancestors, (group.bit, group.bit)
        if group.fixed or 0 in v.shape:
            return
        found = [(k, r.value) for k, r in enumerate(group.reads[v]) if r.value in self.group_of]
        for k, _ in sorted(found, key=lambda item: -typical(item[1].type.numel)):
            self.join(v, k)

    def singleton(self, v: Value) -> Group:
        bit, self.next_bit = self.next_bit, self.next_bit << 1
        if v.op.kind not in COMPUTED:
            return Group(bit, fixed=v)
        if v.op.kind in ("reduce", "scan"):
            own = inner = identity(v.inputs[0].shape)
            reduced = v.attrs["dim"]
            if v.op.kind == "reduce":
                keep = v.attrs["keepdim"]
                own = tuple(ZERO if d in reduced else c for d, c in enumerate(inner) if keep or d not in reduced)
            gone = frozenset(s for d in reduced for s in variables(inner[d]))
            return Group(bit, axes_of(inner), gone, {v: own}, {v: inner}, {v: tuple(reads(v, own, inner))})
        if v.op.kind == "contract":
            own = product_coordinates(v)
            return Group(bit, axes_of(own), coordinates={v: own}, reads={v: ()}, product=v)
        own = identity(v.shape)
        return Group(bit, axes_of(own), coordinates={v: own}, reads={v: tuple(reads(v, own))})

    # Joining

    def join(self, reader: Value, k: int) -> None:
        """Join the groups of a value and of the k-th that it reads, if that is possible."""
        b = self.group_of[reader]
        read = b.reads[reader][k]
        a = self.group_of[read.value]
        if a is b or a.fixed or b.fixed or len(a.coordinates) + len(b.coordinates) > MOST_MEMBERS or self.cycle(a, b):
            return
        # what a gather reads at places from memory can be had if the other coordinates are the loop's
        dims = [d for d, c in enumerate(read.coordinates) if all(s in b.axes for s in variables(c))]
        if not read.exact and len(dims) == len(read.coordinates):
            return
        places = read.coordinates, a.coordinates[read.value], read.value.shape
        demanded, own, shape = (tuple(e[d] for d in dims) for e in places)
        ways = [(b, demanded, a, own), (a, own, b, demanded)]  # (what is embedded, its pattern, the host, the host's coordinates)
        if len(b.coordinates) > len(a.coordinates):
            ways.reverse()
        for guest, pattern, host, target in ways:
            found = None if guest.product else _embedding(guest, pattern, shape, host, target)
            if found is not None:
                values, reduced = found
                here = moved(guest, values)
                if _coherent(here, host):
                    self.merge(here, guest, host, reduced)
                    return

    def cycle(self, a: Group, b: Group) -> bool:
        """Whether a third group must run after one and before the other."""
        return self.between(a, b) or self.between(b, a)

    def between(self, first: Group, last: Group) -> bool:
        if not self.ancestors[last.bit] & first.bit:
            return False
        return any(self.ancestors[bit] & first.bit for bit in _bits(self.before[last.bit] & ~first.bit))

    def merge(self, here: Group, guest: Group, host: Group, reduced: frozenset[Sym]) -> None:
        host.reduced = reduced
        host.coordinates |= here.coordinates
        host.inner |= here.inner
        host.reads |= here.reads
        for v in here.coordinates:
            self.group_of[v] = host
        self.groups.remove(guest)
        both = host.bit | guest.bit
        grown = self.ancestors.pop(guest.bit) & ~self.ancestors[host.bit]
        self.ancestors[host.bit] = (self.ancestors.pop(host.bit) | grown) & ~both  # the last now: the newest value joins
        self.before[host.bit] = (self.before[host.bit] | self.before.pop(guest.bit)) & ~both
        firsts, lasts = zip(self.ends[host.bit], self.ends.pop(guest.bit))
        self.ends[host.bit] = first, _ = min(firsts), max(lasts)
        above = self.ancestors[host.bit] | host.bit
        for bit in reversed(self.ancestors):
            if self.ends[bit][1] < first:
                break
            if self.ancestors[bit] & both:
                self.ancestors[bit] = (self.ancestors[bit] | above) & ~guest.bit
            if self.before[bit] & guest.bit:
                self.before[bit] = self.before[bit] & ~guest.bit | host.bit


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


def product_coordinates(v: Value) -> Coordinates:
    """A matrix product's coordinates over the axes that loops.MatMul has: i0 for the whole batch, i1 row, i2 column."""
    *batch, rows, columns = v.shape
    position = variable("i0", product(batch))
    steps = contiguous_strides(batch)
    return (*((position // step) % n for n, step in zip(batch, steps)), variable("i1", rows), variable("i2", columns))


def _embedding(guest: Group, pattern: Coordinates, shape, host: Group, target: Coordinates):
    """(the guest's axes in terms of the host's, what is then reduced) such that pattern == target; None if there is none.

    Either every point of the guest is one point of the host, or the guest has no reductions and its points are the
    host's rows.
    """
    values = solve(pattern, shape, target)
    if values is None or (host.product and guest.reduced):
        return None
    missing = [a for a in guest.axes if a not in values]
    used = {s for e in values.values() for s in variables(e)}
    if missing:
        free = [a for a in host.axes if a not in used]
        if product(map(size, missing)) != product(map(size, free)):
            return None
        same = [size(a) for a in missing] == [size(a) for a in free]
        values.update(zip(missing, map(expr_of, free) if same else unflatten(free, [size(a) for a in missing])))
        used.update(free)
    sizes, inside = [size(a) for a in guest.axes], [a for a in host.axes if a in used]
    if product(sizes) != product(map(size, inside)):
        return None
    if not _is_renaming(guest.axes, values):
        places = [values[a] for a in guest.axes]
        if not all(map(lies_within, places, sizes)):
            return None
        if not one_to_one(places, sizes, inside) and (missing or not one_to_one(target, shape, inside)):
            return None  # where the target tells all points apart, the values do too
    if len(used) == len(host.axes):
        reduced = _reduced(guest, values, host)
        return None if reduced is None else (values, reduced)
    return (values, host.reduced) if not guest.reduced and used == set(host.parallel) else None


def _is_renaming(axes: tuple[Sym, ...], values: Substitution) -> bool:
    """Whether each axis has become another of the same size."""
    symbols = {s for a in axes for s in variables(values[a])}
    return len(symbols) == len(axes) and all(any(s.hi == a.hi and values[a] == expr_of(s) for s in symbols) for a in axes)


def _reduced(guest: Group, values: Substitution, host: Group) -> frozenset[Sym] | None:
    """The reduced axes of a host with a guest that fills it, None if the two disagree."""
    if not guest.reduced:
        return host.reduced
    gone = frozenset(s for a in guest.reduced for s in variables(values[a]))
    if any(s in gone for a in guest.parallel for s in variables(values[a])) or (host.reduced and host.reduced != gone):
        return None
    in_order = [a for a in host.axes if a in gone]
    for v, inner in guest.inner.items():
        ordered = v.op.kind == "scan" or v.op.combine.startswith("arg")
        if ordered and _position(v, substitute(inner, values)) != _row_major(in_order):
            return None
    return gone


def _position(reduction: Value, inner: Coordinates) -> Expr:
    """The place of an operand's element among those that are reduced to one."""
    dims = reduction.attrs["dim"]
    return dot([inner[d] for d in dims], contiguous_strides([reduction.inputs[0].shape[d] for d in dims]))


def _row_major(axes: list[Sym]) -> Expr:
    return dot(map(expr_of, axes), contiguous_strides([size(a) for a in axes]))


def moved(group: Group, values: Substitution) -> Group:
    """The group's coordinates in terms of other axes."""
    renamed = _is_renaming(group.axes, values)
    values = {a: e for a, e in values.items() if e != expr_of(a)}
    if not values:
        return group
    coordinates = {v: substitute(c, values) for v, c in group.coordinates.items()}
    inner = {v: substitute(c, values) for v, c in group.inner.items()}
    if renamed:
        found = {v: tuple(r._replace(coordinates=substitute(r.coordinates, values)) for r in rs) for v, rs in group.reads.items()}
    else:  # as lowering will find them: an expression put into another may come out simpler than what follows from the two
        found = {v: tuple(reads(v, c, inner.get(v))) if group.reads[v] else () for v, c in coordinates.items()}
    return Group(group.bit, coordinates=coordinates, inner=inner, reads=found)


def _coherent(a: Group, b: Group) -> bool:
    """Whether all that two groups over the same axes read from each other can be had inside one kernel."""
    def place(v: Value) -> Coordinates | None:
        return a.coordinates.get(v) or b.coordinates.get(v)
    for reader, other in ((a, b), (b, a)):
        if reader.product and any(base in other.coordinates for base in operand_bases(reader.product)):
            return False  # a product reads its operands whole, before its epilogue
        for found in reader.reads.values():
            for r in found:
                if r.value in other.coordinates and not _computable(r, place, [MOST_AGAIN]):
                    return False
    return True


def _computable(read: Read, place: Callable[[Value], Coordinates | None], budget: list[int]) -> bool:
    """Whether a kernel whose members stand at `place` can have this read: a member where the loop computes it, or
    computed again from what can be had. `budget` counts what is computed again."""
    own = place(read.value)
    if own is None or own == read.coordinates:
        return True
    budget[0] -= 1
    if budget[0] < 0 or read.value.op.kind not in ("pointwise", "gather", "part"):
        return False
    return all(_computable(r, place, budget) for r in reads(read.value, read.coordinates))
