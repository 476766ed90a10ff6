"""The minimum cut of a directed graph with capacities, by Dinic's method.

E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks with power estimation", 1970.
"""
from __future__ import annotations

#: More than any sum of real capacities: an edge that no minimum cut takes.
INFINITE = 1 << 60


class Network:
    """Nodes are integers from 0. An edge and its reverse stand side by side, as `e` and `e ^ 1`."""

    def __init__(self, nodes: int):
        self.edges_from: list[list[int]] = [[] for _ in range(nodes)]
        self.head: list[int] = []  # where an edge leads
        self.room: list[int] = []  # what an edge can still carry

    def add(self, tail: int, head: int, capacity: int) -> None:
        self.edges_from[tail].append(len(self.head))
        self.edges_from[head].append(len(self.head) + 1)
        self.head += (head, tail)
        self.room += (capacity, 0)

    def sink_side(self, source: int, sink: int) -> list[bool]:
        """For each node, whether it is on the sink's side of the minimum cut that lies nearest to the sink."""
        while True:
            level = self._levels(source, sink)
            if level[sink] < 0:
                return self._reaching(sink)
            self._fill(source, sink, level)

    def _levels(self, source: int, sink: int) -> list[int]:
        """Distance from the source over edges with room, breadth first; -1 where there is no way."""
        head, room = self.head, self.room
        level = [-1] * len(self.edges_from)
        level[source] = 0
        front = [source]
        while front and level[sink] < 0:
            following = []
            for node in front:
                for e in self.edges_from[node]:
                    if room[e] and level[head[e]] < 0:
                        level[head[e]] = level[node] + 1
                        following.append(head[e])
            front = following
        return level

    def _fill(self, source: int, sink: int, level: list[int]) -> None:
        """Push flow along shortest paths until every one of them is blocked, depth first without recursion."""
        head, room, edges_from = self.head, self.room, self.edges_from
        tried = [0] * len(edges_from)  # per node, the edges that are known to lead nowhere
        path: list[int] = []
        node = source
        while True:
            if node == sink:
                amount = min(room[e] for e in path)
                first_full = None
                for n, e in enumerate(path):
                    room[e] -= amount
                    room[e ^ 1] += amount
                    if first_full is None and not room[e]:
                        first_full = n
                node = head[path[first_full] ^ 1]
                del path[first_full:]
                continue
            edges, n = edges_from[node], tried[node]
            while n < len(edges) and not (room[edges[n]] and level[head[edges[n]]] == level[node] + 1):
                n += 1
            tried[node] = n
            if n < len(edges):
                path.append(edges[n])
                node = head[edges[n]]
            elif path:
                node = head[path.pop() ^ 1]
                tried[node] += 1
            else:
                return

    def _reaching(self, sink: int) -> list[bool]:
        """The nodes from which there is still room to the sink."""
        found = [False] * len(self.edges_from)
        found[sink] = True
        front = [sink]
        while front:
            node = front.pop()
            for e in self.edges_from[node]:
                tail = self.head[e]
                if not found[tail] and self.room[e ^ 1]:
                    found[tail] = True
                    front.append(tail)
        return found
