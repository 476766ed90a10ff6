"""The outputs of a recorded graph."""
from __future__ import annotations

from ...compiler.builder import Builder
from ...compiler.ir import TensorType, Value
from .functional import Base


class Outputs:
    """The graph's outputs as they gather."""

    def __init__(self, b: Builder):
        self.values: list[Value] = []
        self.spent: dict[int, str] = {}
        self.loose: dict[int, bool] = {}
        self._b = b
        self._bases: dict[Base, int] = {}

    def add(self, value: Value) -> int:
        """A value to be read at once; not an input's, which a write-back may change before."""
        if value in self._b.inputs:
            value = self._b.copy(value)
        if value not in self.values:
            self.values.append(value)
        return self.values.index(value)

    def add_owned(self, value: Value, type: TensorType, spent: str = "") -> int:
        """A value that gets memory of its own, laid out as `type`. `spent`: what a backward pass from it raises."""
        if value in self.values or value in self._b.inputs or value.type.strides != type.strides:
            value = self._b.copy(value)
            value.type = type
        self.values.append(value)
        if spent:
            self.spent[len(self.values) - 1] = spent
        return len(self.values) - 1

    def add_base(self, base: Base, spent: str) -> int:
        """A base's value, once for all results that share it."""
        if base not in self._bases:
            self._bases[base] = self.add_owned(base.value, base.type, spent)
        return self._bases[base]
