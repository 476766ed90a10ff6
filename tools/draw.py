"""Pictures of graphs: DOT through the graphviz package, drawn by the `dot` program or by pygraphviz's own copy of it."""
from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from ..compiler.ir import Graph, TensorType, Value
from ..compiler.ops.core import called
from ..compiler.text import type_text
from ..errors import SmeltError
from .bench import size

FORMATS = ("svg", "png", "pdf", "dot")
#: Fill colour by kind of op.
COLOURS = {"input": "#dbe9f6", "view": "#f3f3f3", "source": "#f3f3f3", "reduce": "#fde4c8", "scan": "#fde4c8",
           "contract": "#f9d0d0", "loop": "#f9d0d0", "opaque": "#e6d9f2", "composite": "#e6d9f2", "gather": "#fdf3c0"}
#: newrank: dot's older ranking loses edges in large pictures of clusters. size: at most, in inches.
GRAPH = {"fontname": "Helvetica", "fontsize": "11", "nodesep": "0.2", "ranksep": "0.35", "labeljust": "l", "newrank": "true",
         "size": "80,120"}
NODE = {"shape": "box", "style": "rounded,filled", "fillcolor": "#ffffff", "color": "#888888", "fontname": "Helvetica",
        "fontsize": "10", "margin": "0.08,0.04"}
EDGE = {"color": "#666666", "fontname": "Helvetica", "fontsize": "9", "arrowsize": "0.6"}
#: Kinds of values that lie in memory although no kernel writes them.
CALLED = frozenset({"opaque", "cat"})
#: Edges that go through memory.
MEMORY = {"penwidth": "2.4", "color": "#b0552b", "fontcolor": "#b0552b"}


@dataclass(frozen=True)
class Kernel:
    """One kernel of a graph: the names of the values that it computes, and of those that it writes to memory."""
    name: str
    values: tuple[str, ...]
    stored: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A graph as code generation has prepared it, with its kernels, and a label for each of its outputs."""
    graph: Graph
    kernels: Sequence[Kernel]
    outputs: Sequence[str]


def dot(parts: Sequence[Part]) -> str:
    """DOT text of graphs side by side. Kernels are boxes; what goes through memory is a thick edge with its bytes.

    A value that several kernels compute stands in each of them, and so does a view in those that read it.
    """
    try:
        import graphviz
    except ImportError as e:
        raise SmeltError("drawing needs the graphviz package: pip install graphviz pygraphviz") from e
    picture = graphviz.Digraph("smelt", graph_attr=GRAPH, node_attr=NODE, edge_attr=EDGE)
    for n, part in enumerate(parts):
        with picture.subgraph(name=f"cluster_{n}") as box:
            box.attr(label=part.graph.name, style="rounded", color="#444444", fontsize="14")
            _Drawing(box, f"g{n}_", part).draw()
    return picture.source


class _Drawing:
    """One graph on its way into a box. A place is the number of a kernel, or None outside them all."""

    def __init__(self, box, prefix: str, part: Part):
        self.box, self.prefix, self.part = box, prefix, part
        values = {v.name: v for v in (*part.graph.inputs, *part.graph.values)}
        self.places: dict[Value, list[int]] = {}  # of the kernels that compute it
        self.writer: dict[Value, int] = {}  # the one that writes it to memory
        for place, k in enumerate(part.kernels):
            for n in k.values:
                self.places.setdefault(values[n], []).append(place)
            self.writer.update((values[n], place) for n in k.stored)
        self.made: dict[tuple[Value, int | None], str] = {}
        self.nodes: dict[int | None, list[tuple[str, Value]]] = {}
        self.edges: list[tuple[str, str, int | None, Value | None]] = []  # from, to, the place of `to`, what goes through memory

    def draw(self) -> None:
        for v in self.part.graph.values:  # in program order, so that what is read is there
            for place in self.places.get(v, (None,) if v.op.kind in CALLED else ()):
                self.node(v, place)
        for n, (o, label) in enumerate(zip(self.part.graph.outputs, self.part.outputs)):
            name = f"{self.prefix}out{n}"
            self.box.node(name, label, shape="ellipse", fillcolor="#dbe9f6")
            self.read(o, name, None)
        for place, kernel in enumerate(self.part.kernels):
            with self.box.subgraph(name=f"cluster_{self.prefix}{place}") as cluster:
                cluster.attr(label=kernel.name, style="filled,rounded", fillcolor="#eef6ea", color="#6a9a5b", fontsize="11")
                self.put_nodes(cluster, place)
        self.put_nodes(self.box, None)
        self.put_edges()

    def node(self, v: Value, place: int | None) -> str:
        """The node of a value at a place, made with all that it reads when it is first asked for."""
        if (v, place) not in self.made:
            name = self.made[v, place] = f"{self.prefix}{v.name}" + ("" if place is None else f"_k{place}")
            self.nodes.setdefault(place, []).append((name, v))
            for i in dict.fromkeys(v.operands):
                self.read(i, name, place)
        return self.made[v, place]

    def read(self, v: Value, reader: str, place: int | None) -> None:
        """The edges to a reader of a value."""
        if v in self.writer:
            home = self.writer[v]
        elif v.op.kind in CALLED or v.op.kind == "input":
            home = None
        else:  # it does not lie in memory: who reads it computes it
            home = place
        inside = home == place and place is not None or v.op.kind in ("view", "source")
        self.edges.append((self.node(v, home), reader, place, None if inside else v))

    def put_nodes(self, box, place: int | None) -> None:
        for name, v in self.nodes.get(place, ()):
            lines = [v.name if v.op.name == "input" else f"{v.name} = {called(v)}", type_text(v.type), str(v.origin)]
            box.node(name, "\n".join(line for line in lines if line), fillcolor=COLOURS.get(v.op.kind, "#ffffff"))

    def put_edges(self) -> None:
        """Each edge once; the bytes stand at the first edge from a value to a kernel."""
        labelled = set()
        for source, target, place, through in dict.fromkeys(self.edges):
            if through is None:
                self.box.edge(source, target)
                continue
            way = source, target if place is None else place
            self.box.edge(source, target, **MEMORY, label="" if way in labelled else _bytes(through))
            labelled.add(way)


def _bytes(v: Value) -> str:
    return size(v.type.nbytes) if isinstance(v.type, TensorType) else ""


def render(source: str, path: str | Path) -> Path:
    """Draw DOT text into a file; its ending says the format. SmeltError if no renderer is there."""
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise SmeltError(f"{path.name}: can't draw that format; give a name that ends in one of {', '.join(FORMATS)}")
    if kind == "dot":
        path.write_text(source)
    elif shutil.which("dot"):
        import graphviz
        path.write_bytes(graphviz.Source(source).pipe(format=kind))
    else:
        try:
            import pygraphviz
        except ImportError as e:
            raise SmeltError("drawing needs the `dot` program or the pygraphviz package: pip install pygraphviz") from e
        pygraphviz.AGraph(source).draw(str(path), prog="dot")
    return path
