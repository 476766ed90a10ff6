"""A builder that takes symbolic numbers: as operands they become inputs of the graph; anywhere else they are fixed."""
from __future__ import annotations

from typing import Any, Callable

import torch

from ...compiler.builder import Builder
from ...compiler.dims import Expr
from ...compiler.ir import NumberType, Type, Value
from ...compiler.op import OPS, Op, device_of, operand_dtypes
from ..symbolic.symbols import Float, Int, Node, Numbers, fixed, is_symbolic


class NumberBuilder(Builder):
    """`given` holds the inputs that are numbers, in order, each with its node; `tell` is told each new one."""

    def __init__(self, numbers: Numbers, tell: Callable[[Value], None]):
        super().__init__()
        self.given: list[tuple[Value, Node]] = []
        self._numbers, self._tell = numbers, tell
        self._values: dict[tuple[str, torch.device], Value] = {}

    def emit(self, op: str | Op, *inputs, type: Type | None = None, name: str = "", **attrs) -> Value:
        record = OPS[op] if isinstance(op, str) else op
        if record.name == "full" and is_symbolic(attrs["value"]):
            place = {k: attrs[k] for k in ("dtype", "device")}
            return self.copy(self.expand(self.emit("scalar", attrs["value"], **place), shape=attrs["shape"]))
        nodes = {k: i.node for k, i in enumerate(inputs) if is_symbolic(i)}
        if record.kind == "pointwise" and record.name not in _BY_VALUE:
            device = attrs.get("device") or device_of(inputs)
            inputs = tuple(self.value_of(i, device) if k in nodes else i for k, i in enumerate(inputs))
        attrs |= {k: self._lengths(attrs[k]) for k in attrs.keys() & _LENGTHS}
        value = super().emit(record, *map(fixed, inputs), type=type, name=name, **_attributes(attrs))
        for k, node in nodes.items():
            if isinstance(value.inputs[k], Value):
                self._numbers.convertible(node, value.dtype if record.name == "scalar" else operand_dtypes(value)[k])
        return value

    def _lengths(self, part: Any) -> Any:
        if is_symbolic(part):
            return self._numbers.length(part)
        return type(part)(map(self._lengths, part)) if isinstance(part, (list, tuple)) else part

    def value_of(self, number: Float | Int, device: torch.device = torch.device("cpu")) -> Value | int:
        """The graph's input for a number; one that torch has no room for, as it is."""
        return self._value(number.node, device) if _fits_tensor(number.node) else fixed(number)

    def _value(self, node: Node, device: torch.device) -> Value:
        key = node.name, device
        if key not in self._values:
            self._numbers.want((node.name,))
            dtype = torch.float64 if node.is_float() else torch.int64
            value = Value(self.name(_identifier(node)), OPS["input"], (), {}, NumberType((), dtype, device), self.origin)
            self._values[key] = value
            if node.is_int():
                self._numbers.convertible(node, dtype)
            self.given.append((value, node))
            self._tell(value)
        if isinstance(node.size, Expr) and node.size.symbol and device.type == "cpu":  # it may have become one since
            self._values[key].attrs["symbol"] = node.size.symbol
        return self._values[key]


#: Attributes that are sizes.
_LENGTHS = {"shape", "size"}
#: Ops whose rules turn on the value of a number operand.
_BY_VALUE = {"pow"}


def _fits_tensor(node: Node) -> bool:
    return node.is_float() or -(1 << 63) <= node.value < 1 << 63


def _attributes(part: Any) -> Any:
    """Attributes with every symbolic number fixed, but for sizes, which become those of the IR."""
    if is_symbolic(part):
        return part.node.size if isinstance(part.node.size, Expr) else fixed(part)
    if isinstance(part, (list, tuple)):
        return type(part)(map(_attributes, part))
    return {k: _attributes(p) for k, p in part.items()} if isinstance(part, dict) else part


def _identifier(node: Node) -> str:
    return node.shown if node.shown.isidentifier() else node.name
