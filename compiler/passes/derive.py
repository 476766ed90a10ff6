"""The gradients that a program itself asks for: each `gradients` value becomes the values that compute it."""
from __future__ import annotations

from ..builder import Builder
from ..ir import Graph, Value
from ..ops.gradients import parts
from .gradient import Sweep, differentiable_form


def derive(graph: Graph) -> Graph:
    """A graph without `gradients`. It comes before all other passes: to those, equal values are as good as each other,
    which they are not to a gradient with respect to one of them."""
    while (asked := next((v for v in graph.values if v.op.name == "gradients"), None)) is not None:
        graph = _derived(graph, asked)
    return graph


def _derived(graph: Graph, asked: Value) -> Graph:
    """The graph with one `gradients` value, the first, derived."""
    roots, _, leaves = parts(asked.inputs, asked.attrs["roots"])
    graph, active = differentiable_form(graph, {v.name for v in leaves}, roots)
    at, asked = next((k, v) for k, v in enumerate(graph.values) if v.name == asked.name)
    before, after = graph.values[:at], graph.values[at + 1:]
    sweep = Sweep(Graph(graph.name, graph.inputs, before, ()), active, after)
    roots, tangents, leaves = parts(asked.inputs, asked.attrs["roots"])
    for root, tangent in zip(roots, tangents):
        if root in active:
            sweep.add(root, tangent)
    sweep.run()
    fresh, new = set(sweep.b.values).difference(before), {}
    gradients = [sweep.gradient_of(leaf) for leaf in leaves]
    for v in after:
        if v.op.name == "item" and v.inputs[0] is asked:
            new[v] = _in_place_of(sweep.b, v, gradients[v.attrs["index"]], fresh, v in graph.outputs)
        else:
            new[v] = sweep.b.keep(v, [new.get(i, i) if isinstance(i, Value) else i for i in v.inputs])
    outputs = tuple(new.get(o, o) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(sweep.b.values), outputs, graph.output_names)


def _in_place_of(b: Builder, v: Value, gradient: Value, fresh: set[Value], output: bool) -> Value:
    """The gradient with the name and the layout of the value it stands for; an output shares memory with no other."""
    if gradient not in fresh:
        if not output:
            return gradient
        gradient = b.copy(gradient)
    fresh.discard(gradient)
    gradient.name, gradient.type = v.name, v.type
    if gradient.op.name == "item":
        gradient.attrs = {**gradient.attrs, "recorded": True}
    return gradient
