"""Local simplifications that change no bit of any result, whatever NaN, infinities and signed zeros come in.

A table: op name -> rules `(b, v) -> Value | None`. A rule gives a value that was there before, or emits one.
"""
from __future__ import annotations

from typing import Any, Callable

import torch

from ..builder import Builder, rewrite, same_type
from ..ir import Graph, Number, Value
from ..op import operand_dtypes

Rule = Callable[[Builder, Value], "Value | None"]
RULES: dict[str, list[Rule]] = {}


def simplify(graph: Graph) -> Graph:
    """Apply the rules until none fits. What was replaced stays behind unread: run `dce` after."""
    while (simpler := _once(graph)) is not graph:
        graph = simpler
    return graph


def drop_detach(graph: Graph) -> Graph:
    """Remove `detach`, which means nothing once gradients are derived."""
    return rewrite(graph, lambda b, v: v.inputs[0] if v.op.name == "detach" else None)


def _once(graph: Graph) -> Graph:
    # By name, since values that read rewritten ones are renewed: a layout that torch's own code will see.
    laid_out = {i.name for v in graph.values if v.op.kind == "opaque" for i in v.operands}

    def rule(b: Builder, v: Value) -> Value | None:
        found, start = None, len(b.values)
        while (simpler := _first(b, v if found is None else found)) is not None:
            found = simpler
        if found is None or found in b.values[start:]:  # an emitted value takes over the layout
            return found
        if v.name in laid_out and found.type != v.type:
            del b.values[start:]  # or the steps on the way would be simplified away, and made again, for ever
            return None
        return found
    return rewrite(graph, rule)


def _first(b: Builder, v: Value) -> Value | None:
    for rule in RULES.get(v.op.name, ()):
        if (found := rule(b, v)) is not None:
            return found
    return None


def rules_for(*ops: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for op in ops:
            RULES.setdefault(op, []).append(rule)
        return rule
    return add


def _is(operand: Any, op: str) -> bool:
    return isinstance(operand, Value) and operand.op.name == op


# Views

@rules_for("reshape", "permute", "expand", "slice", "flip")
def _view_of_constant(b: Builder, v: Value) -> Value | None:
    if _is(v.inputs[0], "full"):
        return b.emit("full", **{**v.inputs[0].attrs, "shape": v.shape})
    return None


@rules_for("reshape", "expand")
def _to_the_same_shape(b: Builder, v: Value) -> Value | None:
    return v.inputs[0] if v.shape == v.inputs[0].shape else None


@rules_for("reshape", "expand")
def _last_shape_counts(b: Builder, v: Value) -> Value | None:
    x = v.inputs[0]
    return b.emit(v.op, x.inputs[0], shape=v.shape) if x.op is v.op else None


@rules_for("permute")
def _permutation(b: Builder, v: Value) -> Value | None:
    x, dims = v.inputs[0], v.attrs["dims"]
    if tuple(dims) == tuple(range(v.rank)):
        return x
    return b.permute(x.inputs[0], dims=tuple(x.attrs["dims"][d] for d in dims)) if x.op is v.op else None


@rules_for("slice")
def _slice_of_slice(b: Builder, v: Value) -> Value | None:
    x, a = v.inputs[0], v.attrs
    if v.shape == x.shape and all(n == 0 for n in a["start"]) and all(n == 1 for n in a["step"]):
        return x
    if x.op is not v.op:
        return None
    start = tuple(outer + by * inner if size != 0 else 0  # of nothing, the place may lie outside
                  for outer, by, inner, size in zip(x.attrs["start"], x.attrs["step"], a["start"], a["size"]))
    step = tuple(outer * inner for outer, inner in zip(x.attrs["step"], a["step"]))
    return b.slice(x.inputs[0], start=start, step=step, size=a["size"])


@rules_for("pad")
def _no_padding(b: Builder, v: Value) -> Value | None:
    nothing = all(n == 0 for part in ("low", "high", "interior") for n in v.attrs[part])
    return v.inputs[0] if nothing else None


# Copies and casts

@rules_for("copy")
def _copy(b: Builder, v: Value) -> Value | None:
    return v.inputs[0]


@rules_for("cast")
def _cast(b: Builder, v: Value) -> Value | None:
    x = v.inputs[0]
    if v.dtype == x.dtype:
        return x
    if _is(x, "full"):
        value = torch.full((), _number(x), dtype=x.dtype).to(v.dtype).item()
        return b.full(shape=v.shape, value=value, dtype=v.dtype, device=v.type.device)
    # A float out of an integer's range has no meaning that two ways of casting it would share.
    if _is(x, "cast") and holds_exactly(x.dtype, x.inputs[0].dtype) and (v.dtype.is_floating_point or v.dtype == torch.bool):
        return b.cast(x.inputs[0], dtype=v.dtype)
    return None


def holds_exactly(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of `narrow` is one of `wide`, so that a cast to it and back changes nothing."""
    if wide == narrow or narrow == torch.bool:
        return True
    if wide.is_complex or narrow.is_complex or wide == torch.bool:
        return False
    if narrow.is_floating_point:
        if not wide.is_floating_point:
            return False
        w, n = torch.finfo(wide), torch.finfo(narrow)
        return w.eps <= n.eps and w.max >= n.max and w.tiny <= n.tiny
    n = torch.iinfo(narrow)
    if wide.is_floating_point:
        return max(n.max, -n.min) <= 2 / torch.finfo(wide).eps and n.max <= torch.finfo(wide).max
    w = torch.iinfo(wide)
    return w.min <= n.min and n.max <= w.max


# Arithmetic

@rules_for("mul", "div")
def _by_one(b: Builder, v: Value) -> Value | None:
    x, y = v.inputs
    if v.op.name == "mul" and not isinstance(x, Value):
        x, y = y, x
    # A complex number times 1 is not itself where a part is infinite.
    return x if not isinstance(y, Value) and y == 1 and same_type(v.type, x.type) and not v.dtype.is_complex else None


@rules_for("add", "sub")
def _plus_nothing(b: Builder, v: Value) -> Value | None:
    """x + -0.0 and x - 0.0 are x; x + 0.0 makes 0.0 of -0.0, as in one part of a complex number."""
    x, y = v.inputs
    if isinstance(y, Value) or y != 0 or not isinstance(x, Value) or not same_type(v.type, x.type) or v.dtype.is_complex:
        return None
    negative = str(float(y)).startswith("-")
    return x if negative == (v.op.name == "add") or not v.dtype.is_floating_point else None


@rules_for("neg")
def _twice_negated(b: Builder, v: Value) -> Value | None:
    return v.inputs[0].inputs[0] if _is(v.inputs[0], "neg") else None


@rules_for("where")
def _known_choice(b: Builder, v: Value) -> Value | None:
    condition, x, y = v.inputs
    chosen = x if x is y else None
    if _is(condition, "full"):
        chosen = x if _number(condition) else y
    return chosen if isinstance(chosen, Value) and same_type(chosen.type, v.type) else None


@rules_for("add", "sub", "mul", "div")
def _constant_operand(b: Builder, v: Value) -> Value | None:
    return _with_number(b, v, (0, 1))


@rules_for("where")
def _constant_choice(b: Builder, v: Value) -> Value | None:
    return _with_number(b, v, (1, 2))


def _with_number(b: Builder, v: Value, places: tuple[int, ...]) -> Value | None:
    """The same with a constant tensor as a number, where neither the result's type nor any rounding changes by that."""
    for k in places:
        if not _is(v.inputs[k], "full"):
            continue
        number = _number(v.inputs[k])
        inputs = (*v.inputs[:k], number, *v.inputs[k + 1:])
        if not any(isinstance(i, Value) for i in inputs[places[0]:]):
            continue
        changed = Value(v.name, v.op, inputs, v.attrs, v.op.type(inputs, v.attrs), v.origin)
        before, after = operand_dtypes(v), operand_dtypes(changed)
        others_same = all(p == q for n, (p, q) in enumerate(zip(before, after)) if n != k)
        if same_type(changed.type, v.type) and others_same and _exact(number, before[k]) and _exact(number, after[k]):
            return b.emit(v.op, *inputs, **v.attrs)
    return None


def _number(constant: Value) -> Number:
    """The number that a `full` holds, in its own dtype."""
    return torch.full((), constant.attrs["value"], dtype=constant.dtype).item()


def _exact(number: Number, dtype: torch.dtype) -> bool:
    try:
        held = torch.tensor(number, dtype=dtype).item()
    except (RuntimeError, TypeError):  # out of the dtype's range
        return False
    return held == number or (held != held and number != number)
