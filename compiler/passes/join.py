"""The gradients of a convolution's input and weight as one call of torch, which takes less time than one call for each."""
from __future__ import annotations

from ..builder import Builder
from ..ir import Graph, TupleType, Value
from ..op import OPS

_INPUT, _WEIGHT = "convolution_input_gradient", "convolution_weight_gradient"


def join(graph: Graph) -> Graph:
    """Two such gradients that flow from the same value, by the same settings, become the items of one value."""
    pairs = _pairs(graph)
    if not pairs:
        return graph
    b = Builder.over(graph)
    new: dict[Value, Value] = {v: v for v in graph.inputs}
    for v in graph.values:
        if v in new:
            continue
        both = pairs.get(v)
        if both is None:
            new[v] = b.moved(v, new)
            continue
        (g, weight), (_, x) = (one.inputs for one in both)
        with b.at(v.origin):
            whole = b.emit("convolution_gradients", new[g], new[x], new[weight], type=TupleType(tuple(one.type for one in both)),
                           **_settings(v))
        for k, one in enumerate(both):
            new[one] = b.keep(Value(one.name, OPS["item"], (whole,), {"index": k}, one.type, one.origin))
    return b.graph(graph.name, [new[o] for o in graph.outputs], graph.output_names)


def _pairs(graph: Graph) -> dict[Value, tuple[Value, Value]]:
    """By either of the two, a gradient of an input and one of a weight whose operands are there where the first of them is."""
    place = {v: k for k, v in enumerate((*graph.inputs, *graph.values))}
    found: dict[Value, tuple[Value, Value]] = {}
    waiting: dict[tuple, list[Value]] = {}
    for v in graph.values:
        if v.op.name not in (_INPUT, _WEIGHT):
            continue
        other = _WEIGHT if v.op.name == _INPUT else _INPUT
        key = v.inputs[0], tuple(_settings(v).items())
        for one in waiting.get((other, v.attrs["shape"], v.inputs[1].shape, *key), ()):
            if one not in found and place[v.inputs[1]] < place[one]:
                found[v] = found[one] = (v, one) if v.op.name == _INPUT else (one, v)
                break
        else:
            waiting.setdefault((v.op.name, v.inputs[1].shape, v.attrs["shape"], *key), []).append(v)
    return found


def _settings(v: Value) -> dict:
    return {k: a for k, a in v.attrs.items() if k not in ("shape", "strides")}
