"""Images, [batch, channels, height, width], and rows, [batch, channels, length], with the channels last in memory where
convolutions of a CPU work on them.

torch's convolutions compute with the channels last, and bring images in other layouts into that one on every call. So what
convolutions give and take lies that way from one to the next, through everything that computes each element or pools.
"""
from __future__ import annotations

from typing import Callable

import torch

from .. import ir
from ..builder import Builder
from ..dims import product, typical
from ..ir import Graph, TensorType, TupleType, Type, Value
from ..op import OPS

#: Whether a convolution of so many channels (of a group's input) and places (in all images of its result) is best done so.
Best = Callable[[int, int], bool]
#: Views that move no dimension.
_IN_PLACE = frozenset({"pad", "slice"})
_DTYPES = (torch.float32, torch.bfloat16)
#: Numbers of float32 in the longest vector.
_VECTOR = 16


def channels_last(graph: Graph, best: Best) -> Graph:
    """The same computation with other layouts; those of inputs and outputs stay."""
    convolutions = {v for v in graph.values if v.op.images == "best" and "channels_last" not in v.attrs}
    so = {v for v in convolutions if any(map(_lies_so, (v, *v.inputs[:2])))}  # recorded with the channels last
    chosen = {v for v in convolutions - so if _convolves(v, best)}
    others = convolutions - so - chosen
    images = _connected(graph, chosen, so)
    if not chosen and not images:
        return graph
    outputs = set(graph.outputs)
    b = Builder.over(graph)
    new: dict[Value, Value] = {v: v for v in graph.inputs}
    shown: dict[Value, Value] = {}  # outputs, in the layout that they have for others
    for v in graph.values:
        inputs = tuple(new[i] if isinstance(i, Value) else i for i in v.inputs)
        told = v in chosen or v in others and any(i in images for i in v.operands)
        attrs = {**v.attrs, "channels_last": v in chosen} if told else v.attrs
        type = _last(v.type) if v in images else v.type
        if inputs == v.inputs and attrs is v.attrs and type is v.type:
            new[v] = b.keep(v)
            continue
        if v not in outputs or type == v.type:
            new[v] = b.keep(Value(v.name, v.op, inputs, attrs, type, v.origin))
            continue
        with b.at(v.origin):
            new[v] = b.emit(v.op, *inputs, type=type, **attrs)
        shown[v] = b.keep(Value(v.name, OPS["copy"], (new[v],), {}, v.type, v.origin))
    return b.graph(graph.name, [shown.get(o, new[o]) for o in graph.outputs], graph.output_names)


def _convolves(v: Value, best: Best) -> bool:
    types = [i.type for i in (v, *v.inputs[:2])]
    if not all(_is_image(t) and t.dtype in _DTYPES for t in types) or _overruns(v):
        return False
    batch, _, *sizes = (v if v.op.name == "convolution" else v.inputs[0]).shape
    return best(min(t.shape[1] for t in types), typical(batch) * product(sizes))


def _overruns(v: Value) -> bool:
    """Whether oneDNN (3.12, on several threads of a CPU with AVX-512) may write past its memory with the channels last: where
    kernels of one place go in strides over fewer channels than a vector has numbers."""
    if v.op.name != "convolution_weight_gradient":
        return False
    shape = v.attrs["shape"]
    return product(shape[2:]) == 1 and max(v.attrs["stride"]) > 1 and min(shape[:2]) < _VECTOR


def _lies_so(v: Value) -> bool:
    return _is_image(v.type) and not v.type.contiguous and v.type == ir.channels_last(v.type)


def _connected(graph: Graph, chosen: set[Value], so: set[Value]) -> set[Value]:
    """The values that are to lie with the channels last: results of the chosen convolutions, and what is linked with the results
    and operands of these and of those that lie `so` by ops that keep the layout."""
    users = graph.users()
    outputs = set(graph.outputs)
    found: set[Value] = set()
    queue = [i for v in chosen | so for i in (v, *v.operands, *users[v])]
    while queue:
        v = queue.pop()
        ours = v in outputs and not _source(v).op.images  # kernels write their results as they are to lie
        if v in found or ours or not (_moves(v.type) and (v in chosen or _keeps(v))):
            continue
        found.add(v)
        queue += [r for r in users[v] if _keeps(r)]
        queue += v.operands if _keeps(v) else ()
    return found


def _keeps(v: Value) -> bool:
    """Whether an op gives its result in the layout of its operands."""
    op = _source(v).op
    if op.name == "reshape":  # rows as images, or the other way round
        shapes = v.shape, v.inputs[0].shape
        return all(_is_image(i.type) for i in (v, v.inputs[0])) and len({(*s[:2], s[-1]) for s in shapes}) == 1 and all(
            s[2] == 1 for s in shapes if len(s) == 4)
    return op.kind in ("pointwise", "cat") or op.name in _IN_PLACE or op.images == "kept"


def _source(v: Value) -> Value:
    return v.inputs[0] if v.op.name == "item" else v


def _moves(t: Type) -> bool:
    """Whether values of this type can lie so, and do not yet."""
    return any(map(_moves, t.items)) if isinstance(t, TupleType) else _is_image(t) and t.contiguous


def _is_image(t: Type) -> bool:
    return (isinstance(t, TensorType) and len(t.shape) in (3, 4) and t.device.type == "cpu"
            and all(isinstance(n, int) for n in t.shape[1:]) and 0 not in t.shape)


def _last(t: Type) -> Type:
    if isinstance(t, TupleType):
        return TupleType(tuple(map(_last, t.items)))
    return ir.channels_last(t) if _is_image(t) else t
