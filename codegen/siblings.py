"""Joining groups that do not read each other but load the same tensors: column sums of one gradient, for instance."""
from __future__ import annotations

from typing import Mapping, Set

from ..compiler.dims import Dim, expr_of, known, product
from ..compiler.ir import Graph, Value
from .coordinates import size
from .fuse import MOST_MEMBERS, Fusion, Group, moved
from .placement import Placement
from .schedule import dependencies


def join_siblings(graph: Graph, fusion: Fusion, placement: Placement) -> None:
    """Join, in place, pairs of groups over axes of the same sizes that load a tensor as large as those axes."""
    before = dependencies(graph, fusion, placement, [g for g in fusion.groups if g in placement.loads])
    groups = [g for g in fusion.groups if g.fixed is None and g.product is None and any(v in placement.stored for v in g.members)]
    hosts: dict[Group, int] = {}  # in order
    loading: dict[tuple, set[Group]] = {}  # the hosts over axes of these sizes that load such a tensor
    for g in groups:
        sizes = tuple(map(size, g.axes))
        large = [(sizes, v) for v in placement.loads[g] if _large(v, product(sizes))]
        sharing = sorted({h for key in large for h in loading.get(key, ())}, key=hosts.__getitem__)
        host = next((h for h in sharing if _alike(h, g) and _independent(h, g, before)), None)
        if host is None:
            host = g
            hosts[g] = len(hosts)
        else:
            _join(g, host, fusion, placement)
            _unite(g, host, before)
        for key in large:
            loading.setdefault(key, set()).add(host)


def _alike(a: Group, b: Group) -> bool:
    """Whether one loop can do the work of both."""
    places = [tuple(n for n, axis in enumerate(g.axes) if axis in g.reduced) for g in (a, b)]
    return len(a.coordinates) + len(b.coordinates) <= MOST_MEMBERS and (places[0] == places[1] or not all(places))


def _large(v: Value, points: Dim) -> bool:
    return bool(known(points, 2) and known(v.type.numel, points))


def _independent(a: Group, b: Group, before: Mapping[Group, Set[Group]]) -> bool:
    """Whether neither has to run before the other."""
    for start, end in ((a, b), (b, a)):
        seen, waiting = {start}, [start]
        while waiting:
            new = before[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        if end in seen:
            return False
    return True


def _unite(guest: Group, host: Group, before: dict[Group, set[Group]]) -> None:
    """Let a group be another one in what runs before what."""
    before[host] |= before.pop(guest)
    for needed in before.values():
        if guest in needed:
            needed.remove(guest)
            needed.add(host)
    before[host].discard(host)


def _join(guest: Group, host: Group, fusion: Fusion, placement: Placement) -> None:
    names = dict(zip(guest.axes, map(expr_of, host.axes)))
    here = moved(guest, names)
    host.coordinates |= here.coordinates
    host.inner |= here.inner
    host.reads |= here.reads
    host.reduced |= frozenset(h for a, h in zip(guest.axes, host.axes) if a in guest.reduced)
    for v in here.coordinates:
        fusion.group_of[v] = host
    fusion.groups.remove(guest)
    for groups in placement.evaluated.values():
        if guest in groups:
            groups.remove(guest)
            groups.add(host)
    placement.loads[host] |= placement.loads.pop(guest)
