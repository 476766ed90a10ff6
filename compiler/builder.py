"""Builds graphs: gives every new value its type, a fresh name and an origin."""
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Iterable, Sequence

from ..errors import InvalidGraph
from .ir import Graph, Origin, Type, Value
from .op import OPS, Op


class Builder:
    """Appends values in program order. `b.mul(x, 2.0)` emits the op `mul`; attributes go by keyword."""

    def __init__(self, names: Iterable[str] = ()):
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.origin = Origin()
        self._used = set(names)
        self._next: dict[str, int] = {}

    def name(self, hint: str) -> str:
        """A name not used before: the hint, or the hint with a number."""
        if hint not in self._used and not hint[-1:].isdigit() and hint not in OPS:
            self._used.add(hint)
            return hint
        n = self._next.get(hint, 0)
        while (name := f"{hint}_{n}") in self._used:
            n += 1
        self._next[hint] = n + 1
        self._used.add(name)
        return name

    def input(self, name: str, type: Type, origin: Origin = Origin()) -> Value:
        v = Value(self.name(name), OPS["input"], (), {}, type, origin)
        self.inputs.append(v)
        return v

    def emit(self, op: str | Op, *inputs, type: Type | None = None, name: str = "", **attrs) -> Value:
        """One value. Its type comes from the op's rule unless given."""
        record = OPS[op] if isinstance(op, str) else op
        if type is None:
            try:
                type = record.type(inputs, attrs)
            except (ValueError, IndexError, TypeError, AttributeError) as e:
                raise InvalidGraph(f"{record.name}({', '.join(map(describe, inputs))}) {attrs or ''}: {e}") from e
        v = Value(self.name(name or record.name), record, inputs, attrs, type, self.origin)
        self.values.append(v)
        return v

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op not in OPS:
            raise AttributeError(f"there is no op {op!r}")
        return lambda *inputs, **attrs: self.emit(op, *inputs, **attrs)

    def keep(self, v: Value, inputs: Sequence[Any] | None = None) -> Value:
        """Append `v` itself, or, with other inputs, the same op under the same name."""
        if inputs is not None and any(a is not b for a, b in zip(inputs, v.inputs)):
            v = Value(v.name, v.op, inputs, v.attrs, v.type, v.origin)
        self.values.append(v)
        return v

    @contextmanager
    def at(self, origin: Origin, note: str = ""):
        """Values emitted inside carry this origin."""
        before, self.origin = self.origin, replace(origin, note=note) if note else origin
        try:
            yield self
        finally:
            self.origin = before

    def graph(self, name: str, outputs: Sequence[Value], output_names: Sequence[str] = ()) -> Graph:
        return Graph(name, tuple(self.inputs), tuple(self.values), tuple(outputs), tuple(output_names))


def rewrite(graph: Graph, rule: Callable[[Builder, Value], Value | None], note: str = "") -> Graph:
    """Rebuild a graph: `rule(b, v)` gives what stands for `v` (its inputs already rewritten), or None to keep it.

    Returns `graph` itself if every value was kept.
    """
    b = Builder(v.name for v in (*graph.inputs, *graph.values))
    b.inputs = list(graph.inputs)
    new: dict[Value, Value] = {v: v for v in graph.inputs}
    changed = False
    for v in graph.values:
        inputs = tuple(new[i] if isinstance(i, Value) else i for i in v.inputs)
        current = v if all(a is c for a, c in zip(inputs, v.inputs)) else Value(v.name, v.op, inputs, v.attrs, v.type, v.origin)
        with b.at(v.origin, note or v.origin.note):
            replacement = rule(b, current)
        if replacement is None:
            b.values.append(current)
            replacement = current
        changed |= replacement is not v
        new[v] = replacement
    if not changed:
        return graph
    return Graph(graph.name, graph.inputs, tuple(b.values), tuple(new[o] for o in graph.outputs), graph.output_names)


def describe(operand) -> str:
    return f"%{operand.name}: {type_text(operand.type)}" if isinstance(operand, Value) else repr(operand)


def type_text(t: Type) -> str:
    from .text import type_text
    return type_text(t)
