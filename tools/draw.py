"""Pictures of graphs: DOT through the graphviz package, drawn by the `dot` program or by pygraphviz's own copy of it."""
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Mapping, Sequence

from ..compiler.ir import Graph, TensorType, Value
from ..compiler.text import type_text
from ..errors import SmeltError

FORMATS = ("svg", "png", "pdf", "dot")
#: Fill colour by kind of op.
COLOURS = {"input": "#dbe9f6", "view": "#f3f3f3", "reduce": "#fde4c8", "contract": "#f9d0d0", "opaque": "#e6d9f2",
           "composite": "#e6d9f2", "gather": "#fdf3c0"}


def dot(parts: Sequence[tuple[Graph, Mapping[str, Sequence[str]]]]) -> str:
    """DOT text of graphs side by side. Each comes with its kernels: kernel name -> names of the values it computes.

    Kernels are boxes; an edge between two kernels goes through memory and is thick and labelled with its bytes.
    """
    try:
        import graphviz
    except ImportError as e:
        raise SmeltError("drawing needs the graphviz package: pip install graphviz pygraphviz") from e
    picture = graphviz.Digraph("smelt", node_attr={"shape": "box", "style": "rounded,filled", "fillcolor": "#ffffff", "fontname": "Helvetica",
                                                   "fontsize": "10", "margin": "0.08,0.04", "color": "#888888"},
                               edge_attr={"color": "#666666", "fontname": "Helvetica", "fontsize": "8", "arrowsize": "0.6"},
                               graph_attr={"fontname": "Helvetica", "fontsize": "11", "nodesep": "0.15", "ranksep": "0.3"})
    for k, (graph, kernels) in enumerate(parts):
        with picture.subgraph(name=f"cluster_{k}") as box:
            box.attr(label=graph.name, style="rounded", color="#444444", fontsize="14")
            _graph(box, f"g{k}_", graph, kernels)
    return picture.source


def _graph(box, prefix: str, graph: Graph, kernels: Mapping[str, Sequence[str]]) -> None:
    home = {name: kernel for kernel, names in kernels.items() for name in names}
    for kernel in kernels:
        with box.subgraph(name=f"cluster_{prefix}{kernel}") as cluster:
            cluster.attr(label=kernel, style="filled,rounded", fillcolor="#eef6ea", color="#6a9a5b", fontsize="11")
            for v in graph.values:
                if home.get(v.name) == kernel:
                    _node(cluster, prefix, v)
    for v in (*graph.inputs, *graph.values):
        if v.name not in home:
            _node(box, prefix, v)
        for i in dict.fromkeys(v.operands):
            crosses = home.get(i.name) != home.get(v.name) or v.name not in home
            attributes = {"penwidth": "2.2", "label": _bytes(i), "color": "#b0552b"} if crosses else {}
            box.edge(prefix + i.name, prefix + v.name, **attributes)
    for n, o in enumerate(graph.outputs):
        name = f"{prefix}out{n}"
        box.node(name, graph.output_names[n] if n < len(graph.output_names) else f"output {n}", shape="ellipse", fillcolor="#dbe9f6")
        box.edge(prefix + o.name, name, penwidth="2.2", label=_bytes(o), color="#b0552b")


def _node(box, prefix: str, v: Value) -> None:
    lines = [v.name if v.op.name == "input" else f"{v.name} = {v.op.name}", type_text(v.type)]
    if str(v.origin):
        lines.append(str(v.origin))
    box.node(prefix + v.name, "\n".join(lines), fillcolor=COLOURS.get(v.op.kind, "#ffffff"))


def _bytes(v: Value) -> str:
    if not isinstance(v.type, TensorType):
        return ""
    size = v.type.nbytes
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size = size / 1024
    return f"{size:.3g} GB"


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
