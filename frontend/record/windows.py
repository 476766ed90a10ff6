"""Windows: what select and slice take of a dimension at a place that is a symbolic number.

In the graph they are gathers, at places that each call computes. Where the view itself is wanted, the number is fixed.
"""
from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any, Callable, Mapping, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.dims import Dim, Expr, expr, typical
from ...compiler.ir import TensorType, Value
from ..recording import ViewStep
from ..symbolic.sizes import symbolic
from ..symbolic.symbols import Node, fixed, is_symbolic, own, plain
from .overloads import Overload, checked, overload, type_of


def moves(op: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call takes a window whose place may differ from call to call. What then holds of the place is noted."""
    if kwargs or len(args) < {"select.int": 3, "slice.Tensor": 4}.get(op.key, math.inf):
        return False
    if not is_symbolic(args[2]) or args[2].node.size is not None:
        return False
    x, dim, start, *end = args
    if op.packet == "select" and _in_graph(start, x.device) is not None:
        return True
    end, step = (start + 1, 1) if op.packet == "select" else (*end, 1)[:2]
    n = type_of(x).shape[dim]
    if isinstance(n, Expr):
        n = own(start.node.numbers.given_as(n))
    if not (is_symbolic(end) and step == 1 and 0 <= plain(start) <= plain(end) <= plain(n)):
        return False
    if not (start >= 0 and end <= n and (op.packet == "select" or _length(start, end) is not None)):
        return False
    start.node.numbers.places_in.add(start.node.name)
    return True


def _length(start: Any, end: Any) -> Dim:
    return start.node.numbers.length(end - start)


def noting(args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of a view as a ViewStep keeps them: nodes in place of symbolic numbers, which no run is to hold after it."""
    return tuple(a.node if is_symbolic(a) else a for a in args)


def moving(view: ViewStep) -> bool:
    """Whether a view is such a window."""
    return any(isinstance(a, Node) for a in view.args)


def gathered(b: Builder, x: Value, view: ViewStep, type: TensorType) -> Value:
    """What a window shows of x."""
    op, begin = overload(view.function), len(b.values)
    dim, *place = (a.wrapped() if isinstance(a, Node) else a for a in view.args)
    dim, size = dim % x.rank, 1 if op.packet == "select" else _length(*place[:2])
    steps = b.iota(size=size, start=0, step=1, dtype=torch.int64, device=x.type.device)
    found = b.index_select(x, b.add(steps, _start(b, place[0], x, dim)), dim=dim)
    if op.packet == "select":
        found = b.reshape(found, shape=(*x.shape[:dim], *x.shape[dim + 1:]))
    strides = x.type.strides if op.packet == "slice" else (*x.type.strides[:dim], *x.type.strides[dim + 1:])
    if symbolic(found.type) and tuple(map(typical, (*found.shape, *strides))) == (*type.shape, *type.strides):
        found.type = replace(found.type, strides=strides)
        return found
    return checked(b, op, found, type, begin)


def _in_graph(start: Any, device: torch.device) -> Value | None:
    """The graph's value of where a window of a tensor on this device begins, if it has one."""
    return start.node.numbers.in_graph.get(start.node.name) if is_symbolic(start) and device.type == "cpu" else None


def _start(b: Builder, start: Any, x: Value, dim: int) -> Any:
    """Where a window begins. A place that the graph holds may be counted from the end."""
    held = _in_graph(start, x.type.device)
    if held is None:
        return start
    place = b.cast(b.reshape(held, shape=()), dtype=torch.int64)
    return b.where(b.lt(place, 0), b.add(place, b.operand(expr(x.shape[dim]), x.type.device)), place)


def settled(views: Sequence[ViewStep]) -> tuple[ViewStep, ...]:
    """The same views, of which the program holds for those at these places alone."""
    return tuple(replace(v, args=tuple(a.fixed() if isinstance(a, Node) else a for a in v.args)) for v in views)


#: The end of a slice that has none, as torch knows it.
_FAR = sys.maxsize
#: The dtypes of tensors that are read as indices.
_WHOLE = (torch.int64, torch.int32)


def bounds_read(index: Any, place_in: Callable[[torch.Tensor], Any]) -> Any:
    """An index with the whole numbers that tensors are in it and in its slices, read as torch reads them, those that are places
    by `place_in`; numbers of more than 64 bits, which torch takes no symbols for, are fixed."""
    if type(index) is tuple:
        return tuple(bounds_read(part, place_in) for part in index)
    if isinstance(index, torch.Tensor) and not index.dim() and index.dtype in _WHOLE:
        return place_in(index)
    if is_symbolic(index):
        return index if -1 << 63 <= plain(index) < 1 << 63 else fixed(index)
    return slice(*map(_read, (index.start, index.stop, index.step))) if type(index) is slice else index


def _read(bound: Any) -> Any:
    whole = isinstance(bound, torch.Tensor) and bound.numel() == 1 and bound.dtype in _WHOLE
    return bound.item() if whole else bounds_read(bound, torch.Tensor.item)


def placed(index: Any) -> tuple | None:
    """An index as a tuple, if symbolic numbers are in it, and besides views nothing but tensors of places; torch's own way takes
    such numbers for plain ones, or asks whether a slice is all of a dimension."""
    parts = index if type(index) is tuple else (index,)
    known = all(p is None or p is Ellipsis or type(p) in (int, slice) or is_symbolic(p) or _places(p) for p in parts)
    return parts if known and any(map(_moved, parts)) else None


def _places(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.dim() > 0 and part.dtype in _WHOLE


def _moved(part: Any) -> bool:
    """Whether a part of an index is at a place that is a symbolic number."""
    if type(part) is not slice or part.step is not None:
        return is_symbolic(part)
    found = [p.node for p in (part.start, part.stop) if is_symbolic(p)]
    return all(n.is_int() for n in found) and not all(n.numbers.of_sizes(n) for n in found)


def item_at(x: torch.Tensor, index: tuple) -> torch.Tensor:
    """x[index], by the views that torch makes for it."""
    x, places = _views(x, index)
    return x if places is None else x[places]


def _views(x: torch.Tensor, index: tuple) -> tuple[torch.Tensor, tuple | None]:
    """What an index shows of x but for its tensors of places, and these as an index of that; None if there are none."""
    places: list[Any] = []
    left = sum(p is not None and p is not Ellipsis for p in index)
    for part in index:
        dim = len(places)
        if part is Ellipsis:
            places += [slice(None)] * (x.dim() - dim - left)
            continue
        left -= part is not None
        if part is not None and type(part) is not slice and not isinstance(part, torch.Tensor):
            x = x.select(dim, part)
            continue
        if part is None:
            x = x.unsqueeze(dim)
        elif _moved(part):  # where Python writes the slice, torch asks of its place whether it is all of the dimension
            start, stop = 0 if part.start is None else part.start, _FAR if part.stop is None else part.stop
            x = torch.ops.aten.slice.Tensor(x, dim, start, stop)
        elif type(part) is slice:
            x = x[(*[slice(None)] * dim, part)]
        places.append(part if isinstance(part, torch.Tensor) else slice(None))
    return x, tuple(places) if any(isinstance(p, torch.Tensor) for p in places) else None


def put_at(x: torch.Tensor, index: tuple, value: Any) -> None:
    """x[index] = value, in the same way."""
    x, places = _views(x, index)
    x[... if places is None else places] = value
