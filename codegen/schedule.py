"""The order in which groups run."""
from __future__ import annotations

import heapq
from typing import Collection

from ..compiler.ir import Graph, Value
from ..compiler.ops.core import takes_random_numbers
from .fuse import Fusion, Group
from .placement import Placement


def schedule(graph: Graph, fusion: Fusion, placement: Placement, late: Collection[Value] = ()) -> list[Group]:
    """The groups with something to do, each after what it loads; values that take random numbers stay in program order.
    Those that store a value of `late` come when no other can."""
    position = {v: n for n, v in enumerate(graph.values)}
    groups = [g for g in fusion.groups if g.fixed or any(v in placement.stored for v in g.members)]
    before = dependencies(graph, fusion, placement, groups)
    after: dict[Group, list[Group]] = {g: [] for g in groups}
    for g, needed in before.items():
        for other in needed:
            after[other].append(g)
    waiting = {g: len(needed) for g, needed in before.items()}
    first = {g: (any(v in late for v in g.members), min(position[v] for v in g.members)) for g in groups}
    ready = [(first[g], g.bit, g) for g in groups if not waiting[g]]
    heapq.heapify(ready)
    order: list[Group] = []
    while ready:
        group = heapq.heappop(ready)[2]
        order.append(group)
        for g in after[group]:
            waiting[g] -= 1
            if not waiting[g]:
                heapq.heappush(ready, (first[g], g.bit, g))
    if len(order) != len(groups):
        raise AssertionError(f"{graph.name}: the groups {[g for g in groups if waiting[g]]} wait for each other")
    return order


def dependencies(graph: Graph, fusion: Fusion, placement: Placement, groups: list[Group]) -> dict[Group, set[Group]]:
    """For each group, those that must run before it."""
    before = {g: {fusion.group_of[v] for v in placement.loads[g] if v in fusion.group_of} for g in groups}
    last: Group | None = None
    for v in graph.values:
        if takes_random_numbers(v):
            group = fusion.group_of[v]
            if last is not None and last is not group:
                before[group].add(last)
            last = group
    return before
