"""Backward passes inside a run, and the `.grad` that they leave.

The engine's pass runs for real and none of its ops is recorded: the graph gets one `gradients` value, which the compiler
derives. What autograd's graph says of the run (what a pass reaches, which hooks would run) decides whether that is the same.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import torch

from ...compiler.builder import Builder, same_type
from ...compiler.ir import TensorType, TupleType, Value
from ...errors import Unsupported
from ..casting import autocasting
from ..recording import Fresh, Grads, GradWrite, Result, ViewStep
from ..torch_internals import TENSOR_HOOKS, version_of
from .functional import Alias, Memory, Step, address
from .gradients import Reach, Sources, node_of
from .overloads import type_of


@dataclass(eq=False)
class Slot:
    """`.grad` of one tensor: `before` the run and `now`. `looked`: whether the run depends on what it was before; `put`:
    whether it was set or deleted, if only to what it was."""
    leaf: torch.Tensor
    before: torch.Tensor | None
    now: torch.Tensor | None
    looked: bool = False
    put: bool = False

    @property
    def changed(self) -> bool:
        """Whether a call like this one has to write it."""
        return self.now is not self.before or self.put and not self.looked


@dataclass(eq=False)
class Pass:
    """A backward pass under way: the tensors that it gives gradients for, as values; with the slots that they are added
    to, None for those that are its results, and the versions of what lies there. `own`: tangents that nobody else holds."""
    roots: list[Value]
    tangents: list[Value]
    own: Sequence[torch.Tensor]
    wrt: list[Value]
    slots: list[Slot | None]
    versions: list[int]
    again: bool


class Differentiating:
    """What a run does with gradients.

    alias   gives a tensor's alias, and makes it an input if the run did not make it
    note    is told of each backward pass: (its `gradients` value, what it gives), and what was computed before
    """

    def __init__(self, b: Builder, memory: Memory, reach: Reach, sources: Sources, tensors: Sequence[torch.Tensor],
                 alias: Callable[[torch.Tensor], Alias], note: Callable[[Value, Sequence[Value]], None]):
        self._b, self._memory, self._reach, self._sources, self._tensors, self._alias = b, memory, reach, sources, tensors, alias
        self._note = note
        self.slots: dict[int, Slot] = {}
        self.unhooked: dict[int, torch.Tensor] = {}  # leaves whose hooks would have run
        self.kept: dict[int, torch.Tensor] = {}  # tensors that the run made and that keep their gradient
        self.leaves: dict[int, tuple[torch.Tensor, bool]] = {}  # tensors of which it matters whether they are leaves
        #: for each pass, what arrived: (whether it was added to what was in the slot, its type)
        self.passes: list[list[tuple[bool, TensorType] | None]] = []
        self._freed = False
        self.entered: int | None = None  # how many values there were when a backward pass was asked for

    # .grad

    def note_leaf(self, tensor: torch.Tensor) -> None:
        """The run depends on whether a tensor is a leaf."""
        self.leaves.setdefault(id(tensor), (tensor, tensor.is_leaf))

    def slot(self, tensor: torch.Tensor) -> Slot:
        """The slot of a tensor whose `.grad` is about to be touched."""
        found = self.slots.get(id(tensor))
        if found is None:
            grad = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
            found = self.slots[id(tensor)] = Slot(tensor, grad, grad)
            self.note_leaf(tensor)
        return found

    def look(self, tensor: torch.Tensor) -> Slot:
        """The same, where what lies there decides how the run goes on."""
        slot = self.slot(tensor)
        slot.looked |= slot.now is slot.before
        return slot

    def name_of(self, tensor: torch.Tensor, name_of: Callable[[torch.Tensor], str | None]) -> str | None:
        """ "fc1.weight.grad" for what a slot held before the run."""
        for slot in self.slots.values():
            if slot.before is tensor:
                slot.looked = True
                return f"{name_of(slot.leaf) or 'tensor'}.grad"
        return None

    def keep(self, tensor: torch.Tensor) -> None:
        """A tensor is about to be told to keep its gradient (.retain_grad())."""
        if not self._alias(tensor).made:
            self.note_leaf(tensor)
            if not tensor.is_leaf:
                raise Unsupported("keeps the gradient of a tensor that it did not make (.retain_grad())")
        elif not tensor.is_leaf:
            self.kept[id(tensor)] = tensor

    @property
    def changed(self) -> bool:
        """Whether the run changed the `.grad` of any tensor, or went through autograd's graph."""
        return self._freed or any(slot.changed for slot in self.slots.values())

    # A backward pass

    def prepare(self, roots: Sequence, tangents: Sequence, again: bool, inputs: Sequence, accumulate: bool) -> Pass:
        """What is to be known before the engine runs."""
        if not all(isinstance(t, torch.Tensor) for t in (*roots, *inputs)):
            raise Unsupported("differentiates from an edge of autograd's graph")
        if not all(t.requires_grad for t in roots):
            raise Unsupported("differentiates what does not require grad")
        reached, casts = 0, autocasting()
        with torch.enable_grad():
            values = []
            for root in roots:
                values.append(self._memory.read(root, self._alias(root)))
                bits = self._sources.reached(root, custom=not casts)
                if bits != self._reach.of(values[-1]):
                    raise Unsupported("a backward pass that flows to other inputs than its root was computed from")
                reached |= bits
            for k in _bits(reached):
                self._refuse_hooks(self._sources.tensors[k])
            leaves = list(inputs) or [self._sources.tensors[k] for k in _bits(reached)]
            kept = [t for t in self.kept.values() if t.retains_grad]
            wrt = [self._value(t) for t in (*leaves, *kept)]
        slots = [*(self._accumulated(leaf) if accumulate else None for leaf in leaves), *map(self.slot, kept)]
        versions = [-1 if s is None or s.now is None else version_of(s.now) for s in slots]
        with torch.set_grad_enabled(again):
            seeds = [self._memory.read(t, self._alias(t)) for t in tangents]
        implied = self._b.values[self.entered:] if self.entered is not None else ()
        own = [t for t, seed in zip(tangents, seeds) if seed in implied]
        return Pass(values, seeds, own, wrt, slots, versions, again)

    def _refuse_hooks(self, leaf: torch.Tensor) -> None:
        if any(getattr(leaf, hooks) for hooks in TENSOR_HOOKS):
            raise Unsupported("a backward pass runs a tensor's hooks")
        self.unhooked[id(leaf)] = leaf

    def _value(self, tensor: torch.Tensor) -> Value:
        """The value to differentiate by: of a leaf the one that it began with, whose gradient in-place writes hand on."""
        alias = self._alias(tensor)
        if alias.base.input is not None and not alias.steps:
            return self._b.inputs[alias.base.input]
        value = self._memory.read(tensor, alias)
        return self._sources.made.get(id(tensor), value)

    def _accumulated(self, leaf: torch.Tensor) -> Slot:
        if node_of(leaf) is not None:
            raise Unsupported("a backward pass goes on outside of the function")
        slot = self.look(leaf)
        if slot.now is not None:
            self._alias(slot.now)
        return slot

    def arrived(self, call: Pass, results: Sequence[torch.Tensor | None] | None) -> list[torch.Tensor | None]:
        """The gradients that the engine gave for each of `wrt`, be it as its results or in the slots."""
        given = iter(results or ())
        return [next(given) if slot is None else slot.leaf.grad if self._arrived(slot, version) else None
                for slot, version in zip(call.slots, call.versions)]

    def record(self, call: Pass, results: Sequence[torch.Tensor | None], keep: bool) -> None:
        """The engine has run, and gave these gradients."""
        self._freed |= not keep
        self.passes.append([None if r is None else (slot is not None and r is slot.now, type_of(r))
                            for r, slot in zip(results, call.slots)])
        found = [k for k, r in enumerate(results) if r is not None]
        if not found:
            return
        type = TupleType(tuple(call.wrt[k].type.like() for k in found))
        whole = self._b.gradients(*call.roots, *call.tangents, *(call.wrt[k] for k in found), roots=len(call.roots),
                                  again=call.again, type=type)
        items = [self._b.item(whole, index=n) for n in range(len(found))]
        self._note(whole, items)
        for k, value in zip(found, items):
            slot = call.slots[k]
            if slot is not None:
                with torch.set_grad_enabled(call.again):
                    self._accumulate(call, slot, value)
            else:
                self._add(call, results[k], value)
                self._learn_reach(results[k], value)

    def _learn_reach(self, gradient: torch.Tensor, value: Value) -> None:
        """What a gradient's own gradient, if it has one, flows to: not to all that its root was computed from, such as a last
        bias."""
        reached = self._sources.reached(gradient) if gradient.requires_grad else 0
        if reached and not reached & ~self._reach.of(value):
            self._reach.add_leaf(value, reached)

    @staticmethod
    def _arrived(slot: Slot, version: int) -> bool:
        now = slot.leaf.grad
        return now is not None and (now is not slot.now or version_of(now) != version)

    def _accumulate(self, call: Pass, slot: Slot, value: Value) -> None:
        before, now = slot.now, slot.leaf.grad
        slot.now = now
        if before is not None:
            alias = self._alias(before)
            value = self._b.add(self._memory.read(before, alias), value)
            if now is before:
                self._memory.write(now, alias, value)
                return
        self._add(call, now, value)
        self._learn_reach(now, value)

    def _add(self, call: Pass, tensor: torch.Tensor, value: Value) -> None:
        """A gradient that the engine gave."""
        if self._memory.find(tensor) is not None:
            return
        type = type_of(tensor)
        if not same_type(type, value.type):
            raise Unsupported(f"a gradient of another type than what it belongs to ({type.dtype}, {type.shape})")
        others = [h for h in self._memory.holders(address(tensor)) if h is not tensor and not any(h is t for t in call.own)]
        repeated = [d for d, (n, stride) in enumerate(zip(type.shape, type.strides)) if stride == 0 and n > 1]
        if repeated:
            self._add_expanded(tensor, type, value, repeated)
        else:
            value.type = type
            self._memory.add(tensor, type, value)
        if others:
            self._memory.share(tensor, *others)

    def _add_expanded(self, tensor: torch.Tensor, type: TensorType, value: Value, repeated: Sequence[int]) -> None:
        """A gradient whose elements repeat along some dims: a view of what has them once."""
        rank, size = len(type.shape), tuple(1 if d in repeated else n for d, n in enumerate(type.shape))
        once = tensor.as_strided(size, type.strides)
        value = self._b.slice(value, start=(0,) * rank, step=(1,) * rank, size=size)
        value.type = type_of(once)
        alias = self._memory.add(once, value.type, value)
        expand = ViewStep(torch.ops.aten.expand.default, (type.shape,), {}, grad=torch.is_grad_enabled())
        whole = self._b.expand(value, shape=type.shape)
        self._memory.add_view(alias, tensor, Step(expand, type), whole)

    # The end

    def left(self, results: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """(leaf, its `.grad` now) where the run left another than it found. All inputs that this takes are made."""
        if any(r is self.kept.get(id(r)) for r in results):
            raise Unsupported("gives a tensor that keeps its gradient (.retain_grad())")
        left = []
        for slot in list(self.slots.values()):
            if slot.leaf.is_leaf and slot.leaf.grad is not slot.now:
                raise Unsupported("the .grad of a tensor was changed by something that is not an op of this thread")
            if not (slot.looked or slot.changed):
                continue
            if not self._shown(slot.leaf, results):
                continue
            if slot.looked and slot.before is not None:
                self._alias(slot.before)
            if slot.changed:
                left.append((slot.leaf, slot.now))
        return left

    def fetch(self) -> None:
        """Make inputs of what the run found in the slots of inputs that it looked at."""
        for slot in list(self.slots.values()):
            if slot.looked and slot.before is not None and any(slot.leaf is t for t in self._tensors):
                self._alias(slot.before)

    def _shown(self, leaf: torch.Tensor, results: Sequence[torch.Tensor]) -> bool:
        """Whether others than the run see what it leaves in the `.grad` of a tensor: one that it did not make, or gives back."""
        known = self._memory.find(leaf)
        alias = self._alias(leaf) if known is None else known
        if any(leaf is s.before for s in self.slots.values()):
            raise Unsupported("touches the .grad of a tensor that is neither an argument nor a parameter")
        return not alias.made or any(leaf is r for r in results)

    def recorded(self, writes: Sequence[tuple[torch.Tensor, Result | None, Fresh | None]]) -> Grads:
        """For the recording, once all its inputs are known. Of the beginning of a run, some may be none."""
        inputs = {id(t): k for k, t in enumerate(self._tensors)}
        looked = [(inputs[id(s.leaf)], s.before) for s in self.slots.values() if s.looked and id(s.leaf) in inputs]
        return Grads(fetched=tuple((inputs[id(grad)], leaf) for leaf, grad in looked if id(grad) in inputs),
                     absent=tuple(leaf for leaf, grad in looked if grad is None),
                     unhooked=tuple(inputs[i] for i in self.unhooked if i in inputs),
                     leaves=tuple((inputs[i], leaf) for i, (_, leaf) in self.leaves.items() if i in inputs),
                     writes=tuple(GradWrite(inputs.get(id(leaf)), result, shown) for leaf, result, shown in writes))

    def spent(self, tensor: torch.Tensor) -> str:
        """What a backward pass from a result would raise: one has been through its graph, or what that keeps was written to
        since. "" if nothing."""
        if not (self._freed or self._memory.written):
            return ""
        try:
            kept = self._sources.saved(tensor)
        except RuntimeError as error:
            return str(error)
        self._refuse_kept(kept)
        return ""

    def refuse_hidden(self, roots: Sequence[torch.Tensor]) -> None:
        """Refuse a backward pass that is about to compute with what was written to since, uncounted."""
        for root in roots if self._memory.hidden else ():
            try:
                kept = self._sources.saved(root)
            except RuntimeError:  # which the pass is about to raise
                return
            self._refuse_kept(kept)

    def _refuse_kept(self, kept: Sequence[tuple[int, torch.Tensor]]) -> None:
        if any(made < self._memory.hidden.get(address(t), 0) for made, t in kept):
            raise Unsupported("a gradient needs what was written to where autograd does not count it (.data)")


def _bits(bits: int) -> list[int]:
    return [k for k in range(bits.bit_length()) if bits >> k & 1]
