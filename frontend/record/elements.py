"""Numbers that a run reads out of the tensors it was given: a step counter, a scale.

What such a tensor held when the call began, later calls read too before their program starts; of the arithmetic that led from
there to what was read, Python can do a little, exactly. So the number is a symbolic one: nothing is fixed by reading it.
"""
from __future__ import annotations

import operator
from typing import Mapping, Sequence

import torch

from ...compiler.ir import Value
from ..guard.guards import float32, same
from ..symbolic.symbols import Float, Int, Node, Numbers
from .building import NumberBuilder

#: How Python reads a number of these dtypes, and rounds to one of them.
_ROUNDED = {torch.float32: "float32({})", torch.float64: "{}"}
_READ = (*_ROUNDED, torch.int64, torch.int32)
#: Ops that Python's arithmetic in float64, rounded, does exactly; of two operands, with nothing else to them.
_ARITHMETIC = {"add": ("{} + {}", operator.add), "sub": ("{} - {}", operator.sub), "mul": ("{} * {}", operator.mul)}


class Elements:
    """`tensors` are the graph's first inputs, in order; `inputs` the names for them in what the numbers are computed of.
    `held`: the numbers in them, by place, as they were when the run began; read off them where it is None."""

    def __init__(self, b: NumberBuilder, numbers: Numbers, tensors: Sequence[torch.Tensor],
                 held: Mapping[int, int | float] | None = None):
        self._b, self._numbers, self._tensors = b, numbers, tensors
        self.inputs: dict[str, int] = {}
        self.held: dict[int, int | float] = dict(held or {})
        self._known = held is not None
        self._nodes: dict[Value, Node] = {}

    def add_input(self, k: int, tensor: torch.Tensor) -> None:
        """Input k, before the run does anything to it."""
        if not self._known and tensor.numel() == 1 and tensor.dtype in _READ and tensor.device.type == "cpu":
            self.held[k] = tensor.item()

    def read(self, value: Value, found: int | float) -> "Float | Int | None":
        """The number in a tensor of one element, which was `found` there; None where only the program can tell it."""
        node = self._node(value)
        return node.wrapped() if node is not None and same(node.value, found) else None

    def _node(self, value: Value) -> Node | None:
        t = value.type
        if t.numel != 1 or t.dtype not in _READ:
            return None
        if value.op.name == "input":
            return self._given(value)
        if value.op.name in ("detach", "copy", "reshape"):
            return self._node(value.inputs[0])
        if value.op.name == "full":
            return self._constant(value.attrs["value"], t.dtype)
        if value.op.name not in _ARITHMETIC or t.dtype not in _ROUNDED:
            return None
        operands = [self._operand(i, t.dtype) for i in value.inputs]
        if any(o is None for o in operands):
            return None
        text, function = _ARITHMETIC[value.op.name]
        return self._rounded(self._numbers.compute(text, function, *operands), t.dtype)

    def _rounded(self, node: Node, dtype: torch.dtype) -> Node:
        return self._numbers.compute("float32({})", float32, node) if dtype == torch.float32 else node

    def _constant(self, number: int | float, dtype: torch.dtype) -> Node:
        return self._rounded(Node(self._numbers, "", float(number) if dtype in _ROUNDED else int(number)), dtype)

    def _operand(self, operand, dtype: torch.dtype) -> Node | None:
        """An operand of arithmetic in this dtype; a Python number is rounded to it."""
        if not isinstance(operand, Value):
            return self._constant(operand, dtype)
        number = next((node for value, node in self._b.given if value is operand), None)
        if number is not None:
            return self._rounded(number, dtype)
        return self._node(operand) if operand.dtype == dtype else None

    def _given(self, value: Value) -> Node | None:
        """What an input held when the call began. Those that held the same in this run are to do so on later calls, and
        are one number: an optimiser's counters."""
        if value not in self._nodes:
            k = next((k for k, v in enumerate(self._b.inputs[:len(self._tensors)]) if v is value), None)
            if k not in self.held:
                return None
            name, before = f"in{k}", self.held[k]
            self.inputs[name] = k
            node = self._numbers.number(f"{name}.item()", before, f"{value.name}.item()", needs=(name,)).node
            first = next((n for n in self._nodes.values() if same(n.value, before)), None)
            if first is not None:
                self._numbers.holds("{} == {}", True, node, first)
            self._nodes[value] = first or node
        return self._nodes[value]
