"""Builds graphs: gives every new value its type, a fresh name and an origin."""
from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Iterable, Mapping, Sequence, Union

import torch

from ..errors import InvalidGraph, Unsupported
from .dims import Dim, Expr, Sym, at_least, expr, known, plain
from .ir import Graph, NumberType, Origin, TensorType, TupleType, Type, Value, expressions
from .op import OPS, Op, device_of

#: What a rewriting rule gives: nothing (keep the value), a value, or one value per result of a tuple.
Replacement = Union[Value, Sequence[Value], None]


class Builder:
    """Appends values in program order. `b.mul(x, 2.0)` emits the op `mul`; attributes go by keyword."""

    def __init__(self, names: Iterable[str] = (), ask: Callable[[Expr], bool] | None = None):
        """`ask(e)` answers whether e >= 0 where the symbols' bounds leave that open, and keeps note of the answer; without
        it such a question raises Unsupported."""
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.origin = Origin()
        self.ask = ask
        self._used = set(names)
        self._next: dict[str, int] = {}

    @classmethod
    def over(cls, graph: Graph) -> Builder:
        """One that begins with a graph's inputs; the names of all of its values are taken."""
        b = cls(v.name for v in (*graph.inputs, *graph.values))
        b.inputs = list(graph.inputs)
        return b

    def name(self, hint: str) -> str:
        """A name not used before: the hint, or the hint with a number."""
        hint = re.sub(r"[^\w.]", "_", hint)
        if hint not in self._used and not hint[-1:].isdigit() and hint not in OPS:
            self._used.add(hint)
            return hint
        n = self._next.get(hint, 0)
        while (name := f"{hint}_{n}") in self._used:
            n += 1
        self._next[hint] = n + 1
        self._used.add(name)
        return name

    def input(self, name: str, type: Type, origin: Origin = Origin(), symbol: Sym | None = None) -> Value:
        """One more input. With a `symbol`, a 0-dim int64 tensor that holds the symbol's value."""
        v = Value(self.name(name), OPS["input"], (), {} if symbol is None else {"symbol": symbol}, type, origin)
        self.inputs.append(v)
        return v

    def emit(self, op: str | Op, *inputs, type: Type | None = None, name: str = "", **attrs) -> Value:
        """One value. Its type comes from the op's rule unless given. A symbolic size as operand becomes a `size`.

        InvalidGraph where the op does not take these operands; Unsupported where it may, for some values of the sizes.
        """
        record = OPS[op] if isinstance(op, str) else op
        if any(isinstance(i, Expr) for i in inputs):
            inputs = tuple(self.operand(i, device_of(inputs)) if isinstance(i, Expr) else i for i in inputs)
        attrs = {k: plain(a) for k, a in attrs.items()}
        if type is None:
            try:
                type = record.type(inputs, attrs)
            except (ValueError, IndexError, KeyError, TypeError, AttributeError) as e:
                message = f"{record.name}({', '.join(map(describe, inputs))}) {attrs or ''}: {e}"
                parts = [attrs, *(i.type for i in inputs if isinstance(i, Value))]
                symbolic = next(expressions(parts), None) is not None
                raise (Unsupported if symbolic else InvalidGraph)(message) from e
        v = Value(self.name(name or record.name), record, inputs, attrs, type, self.origin)
        self.values.append(v)
        return v

    def at_least(self, a: Dim, b: Dim) -> bool:
        """Whether a >= b, for rules that turn on the answer: by the symbols' bounds, else as `ask` says."""
        found = known(a, b)
        if found is None:
            found = at_least(a, b) if self.ask is None else self.ask(expr(a) - b)
        return found

    def operand(self, size: Expr, device: torch.device) -> Value | int:
        """A size in arithmetic."""
        return self.size(dim=size, device=device) if size.constant is None else size.constant

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

    def moved(self, v: Value, new: Mapping[Value, Value]) -> Value:
        """Append `v` on what stands for its operands."""
        return self.keep(v, tuple(new[i] if isinstance(i, Value) else i for i in v.inputs))

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


def rewrite(graph: Graph, rule: Callable[[Builder, Value], Replacement], note: str = "") -> Graph:
    """Rebuild a graph: `rule(b, v)` gives what stands for `v` (its inputs already rewritten), or None to keep it.

    For a value of tuple type the rule may give one value per result; then each `item` becomes that value. A value
    emitted by the rule takes over the name and the recorded layout of what it replaces, so that dumps can be compared.
    An output that would become an input or another output, or has another layout, becomes a copy of it: outputs never start
    to share memory with each other or with inputs. Returns `graph` itself if every value was kept.
    """
    return _Rewriting(graph, rule, note).run()


class _Rewriting:
    """The state of one `rewrite`."""

    def __init__(self, graph: Graph, rule: Callable[[Builder, Value], Replacement], note: str):
        self.graph, self.rule, self.note = graph, rule, note
        self.b = Builder.over(graph)
        self.new: dict[Value, Value | Sequence[Value]] = {v: v for v in graph.inputs}
        self.outputs = set(graph.outputs)
        self.fresh: set[Value] = set()  # emitted by the rule, and not yet in the place of an old value

    def run(self) -> Graph:
        for v in self.graph.values:
            self.new[v] = self.replacement(v)
        if all(self.new[v] is v for v in self.graph.values):
            return self.graph
        return self.b.graph(self.graph.name, [self.new[o] for o in self.graph.outputs], self.graph.output_names)

    def replacement(self, v: Value) -> Value | Sequence[Value]:
        b, start = self.b, len(self.b.values)
        b.origin = replace(v.origin, note=self.note) if self.note and self.note != v.origin.note else v.origin
        if v.op.name == "item" and not isinstance(self.new[v.inputs[0]], Value):
            found, current = self.new[v.inputs[0]][v.attrs["index"]], v
        else:
            current = self.renewed(v)
            found = self.rule(b, current)
        self.fresh.update(b.values[start:])
        if isinstance(found, Value) and v in self.outputs and found not in self.fresh and self.elsewhere(found, v):
            found = self.copy(found, current)
        if found is None or found is current:
            b.values.append(current)
            return current
        if isinstance(found, Value) and found in self.fresh:
            self.take_place(found, v)
        return found

    def elsewhere(self, found: Value, output: Value) -> bool:
        """Whether a value is seen from outside already, or looks there unlike the output that it would stand for."""
        return found in self.graph.inputs or found in map(self.new.get, self.outputs) or found.type != output.type

    def copy(self, found: Value, current: Value) -> Value:
        """A copy of a value: the current one, if it is that, or a fresh one."""
        if current.op.name == "copy" and current.inputs[0] is found:
            return current
        made = self.b.copy(found)
        self.fresh.add(made)
        return made

    def renewed(self, v: Value) -> Value:
        """`v` on its rewritten inputs."""
        if all([self.new[i] is i for i in v.operands]):
            return v
        inputs = tuple(self.new[i] if isinstance(i, Value) else i for i in v.inputs)
        return Value(v.name, v.op, inputs, v.attrs, v.type, v.origin)

    def take_place(self, found: Value, v: Value) -> None:
        """Give a value that nothing outside has seen yet the name and the type of the one it stands for."""
        if not same_type(found.type, v.type):
            raise InvalidGraph(f"{self.graph.name}: {describe(v)} cannot be replaced by {describe(found)} ({found.op.name})")
        self.fresh.discard(found)
        found.name, found.type = v.name, v.type


def same_type(a: Type, b: Type) -> bool:
    """Equal but for strides."""
    if isinstance(a, TupleType) and isinstance(b, TupleType):
        return len(a.items) == len(b.items) and all(map(same_type, a.items, b.items))
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        alike = isinstance(a, NumberType) == isinstance(b, NumberType)
        return alike and a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return a == b


def describe(operand) -> str:
    return f"%{operand.name}: {type_text(operand.type)}" if isinstance(operand, Value) else repr(operand)


def type_text(t: Type) -> str:
    from .text import type_text
    return type_text(t)
