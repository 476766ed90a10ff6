"""The outputs of a recorded graph, and how what a run leaves comes of them."""
from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.ir import TensorType, Value, dense
from ...errors import Unsupported
from ..recording import Fresh, Given, InputView, OutputView, Result, ViewStep, replay
from ..torch_internals import is_view, version_of
from .functional import OWN_VIEW, RESOLVED, Alias, Base, Memory
from .gradients import Reach, Sources, custom_function
from .overloads import overload
from .windows import settled


class Outputs:
    """The graph's outputs as they gather, and how the tensors that a run leaves come of them.

    inputs  the tensors behind the graph's inputs
    left    the tensors that the run leaves, with their aliases
    ends    tells for a result what a backward pass from it raises
    """

    def __init__(self, b: Builder, memory: Memory, reach: Reach, sources: Sources, inputs: Sequence[torch.Tensor],
                 left: Sequence[tuple[torch.Tensor, Alias]], ends: Callable[[torch.Tensor], str]):
        self.values: list[Value] = []
        self.spent: dict[int, str] = {}
        self.loose: dict[int, bool] = {}
        self.versions: dict[int, int] = {}
        self._b, self._memory, self._reach, self._sources = b, memory, reach, sources
        self._inputs, self._left, self._ends = inputs, left, ends
        self._bases: dict[Base, int] = {}
        self._inference = torch.is_inference_mode_enabled()

    def add(self, value: Value) -> int:
        """A value to be read at once; not an input's, which a write-back may change before."""
        if value in self._b.inputs:
            value = self._b.copy(value)
        if value not in self.values:
            self.values.append(value)
        return self.values.index(value)

    def add_result(self, tensor: torch.Tensor, alias: Alias) -> Result:
        """A tensor that the run leaves. Raises Unsupported for what no output can become."""
        base, steps = alias.base, tuple(s.view for s in alias.steps)
        self._b.origin = alias.value.origin
        if any(s is OWN_VIEW for s in steps) and tensor.requires_grad:
            raise Unsupported("gives a view that a custom autograd.Function made")
        if self._memory.shown_with(tensor, [t for t, _ in self._left]):
            raise Unsupported("gives a gradient that shares memory with another tensor")
        parameter = isinstance(tensor, torch.nn.Parameter) and alias.made
        if base.input is not None and not parameter:
            return self._of_input(tensor, alias)
        with torch.enable_grad():
            value = self._memory.read(tensor, alias)
        siblings = [t for t, a in self._left if a.base is base]
        alone, leaf = all(t is tensor for t in siblings), tensor.requires_grad and tensor.is_leaf
        if leaf and is_view(tensor):
            raise Unsupported("gives a view of a tensor that requires grad, made under no_grad")
        differentiable = tensor.requires_grad and not leaf
        spent = self._ends(tensor) if differentiable else ""
        loose = differentiable and not spent and not self._reaches_inputs(tensor, value)
        plain = not any(overload(s.function).packet in RESOLVED for s in steps)
        if alone and plain and base.input is None and self._fills(alias):
            result = Fresh(self._add_owned(value, alias.type, spent), differentiable, leaf, parameter)
        elif parameter:
            raise Unsupported("gives a parameter that it made of memory that is an argument's or another result's")
        elif leaf:
            raise Unsupported("gives a tensor that it let require grad, and that shares memory with another result")
        elif 0 not in base.type.shape and not dense(base.type.shape, base.type.strides):
            raise Unsupported("gives memory in which elements leave gaps or lie in the same place (empty_strided)")
        else:
            if not any(t.requires_grad for t in siblings):
                self._memory.detach(base)
            result = OutputView(self._add_base(base, spent), settled(steps), tensor.requires_grad)
        if loose:
            self.loose[result.output] = bool(self._sources.saved(tensor))
        counted = 0 if parameter or tensor.is_inference() else version_of(tensor)
        if tensor.is_inference() != self._inference:
            if counted or tensor.requires_grad:
                raise Unsupported("leaves inference mode, and returns what it wrote to or differentiates there")
            return replace(result, inference=tensor.is_inference())
        if counted:
            self.versions[result.output] = counted
        return result

    def add_written(self, base: Base, tensor: torch.Tensor, alias: Callable[[torch.Tensor], Alias]) -> int:
        """What the run leaves in an input that it wrote to."""
        if not base.flows:
            return self._add_owned(base.value, base.type) if base.replaced else self.add(base.value)
        with torch.enable_grad():
            value = self._memory.read(tensor, alias(tensor))
        if base.replaced or self._ends(tensor) or not self._reaches_inputs(tensor, value):
            raise Unsupported("writes in place to an input that requires grad what no gradient comes back from")
        return self.add(value)

    def _of_input(self, tensor: torch.Tensor, alias: Alias) -> Result:
        """A tensor that is an input, or a view of one."""
        base = alias.base
        if base is not self._memory.inputs[base.input]:
            raise Unsupported("returns a view of memory that it replaced (.data = ...)")
        views = settled(tuple(s.view for s in alias.steps))
        self._check_view(tensor, views, base.input)
        return InputView(base.input, views) if views else Given(base.input)

    def _check_view(self, tensor: torch.Tensor, views: Sequence[ViewStep], input: int) -> None:
        """Refuse what replaying the views on another call's input would not give."""
        if any(view.function is torch.ops.aten.as_strided.default for view in views):
            raise Unsupported("returns an as_strided view of an input")
        again = replay(self._inputs[input], views)
        if (again.requires_grad, again.is_leaf) != (tensor.requires_grad, tensor.is_leaf) or custom_function(tensor):
            raise Unsupported("returns a view of an input with a gradient of its own")

    def _fills(self, alias: Alias) -> bool:
        """Whether a tensor can have memory of its own, without gaps, and look the same."""
        return dense(alias.type.shape, alias.type.strides)

    def _add_owned(self, value: Value, type: TensorType, spent: str = "") -> int:
        """A value that gets memory of its own, laid out as `type`. `spent`: what a backward pass from it raises."""
        if value in self.values or value in self._b.inputs or value.type.strides != type.strides:
            value = self._b.copy(value)
            value.type = type
        self.values.append(value)
        if spent:
            self.spent[len(self.values) - 1] = spent
        return len(self.values) - 1

    def _add_base(self, base: Base, spent: str) -> int:
        """A base's value, once for all results that share it."""
        if base not in self._bases:
            self._bases[base] = self._add_owned(base.value, base.type, spent)
        return self._bases[base]

    def _reaches_inputs(self, tensor: torch.Tensor, value: Value) -> bool:
        """Whether the gradient of a result flows to inputs; refuse one that a program's would differ from. A leaf that the run
        made and kept to itself gets a gradient that nobody sees."""
        reached = self._reach.of(value)
        made = self._sources.made_among(reached)
        if any(leaf is t for leaf in made for t, _ in self._left):
            raise Unsupported("gives a result whose gradient flows to a tensor that the run made (requires_grad_)")
        if self._sources.reached(tensor) != reached:
            raise Unsupported("the gradient of a result flows to other inputs than its value was computed from")
        return len(made) < reached.bit_count()
