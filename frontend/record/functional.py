"""Aliasing and mutation made pure.

Torch's tensors share memory and change; the graph's values do neither. So each memory that the run meets is a `Base`
with a current value, and each tensor is an `Alias`: a base and the views that lead from it to the tensor. Reading a
tensor whose base changed since replays its views on the current value. Writing to a tensor puts the new value back
through its views, which gives the base another value; the old one stays what it was.

Gradients: an operation under no_grad, or a detach, leaves the numbers alone, so the graph reads through it. What tells
is the flag that autograd itself puts on each tensor: where a tensor that needs no gradient is read and its value would
carry one, a `detach` goes between. Where a write hides from autograd (under no_grad, or through a detached tensor), the
tensors that keep their older gradient are `torn` from their numbers; reading one is Unsupported. Only the tensor whose memory
it is, and its views, stay whole: the new numbers have the old ones' gradient (`straight_through`).
"""
from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import Callable, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.ir import TensorType, Type, Value, dense
from ...compiler.ops.views import inverse
from ...errors import Unsupported
from ..guard.guards import touching
from ..recording import ViewStep
from ..symbolic.sizes import inner
from ..torch_internals import is_zero, version_of
from .gradients import Reach, Sources, custom_function, moment
from .overloads import import_call, opaque_call, overload, type_of
from .windows import gathered, moving

#: Views whose numbers' sign is kept aside, and what computes the same numbers.
RESOLVED = {"_conj": torch.ops.aten.conj_physical.default, "_neg_view": torch.ops.aten.neg.default}

#: For views that are calls of torch (of complex numbers), by their target, what puts values where they read.
_SCATTERS = {"aten.slice.Tensor": torch.ops.smelt.put_slice.default, "aten.select.int": torch.ops.smelt.put_select.default,
             "aten.diagonal.default": torch.ops.smelt.put_diagonal.default}


#: Why a tensor is refused.
UNSEEN = "reads a tensor whose numbers were written where autograd did not see it (no_grad, detach, .data)"
SHARED = "writes to an input that shares memory with another input"
#: A view that a custom autograd.Function gives of its argument.
OWN_VIEW = ViewStep(torch.ops.aten.alias.default, (), {})
DETACHED = ViewStep(torch.ops.aten.detach.default, (), {})


@dataclass(frozen=True, eq=False)
class Step:
    """One view call, and the type of all that it gives."""
    view: ViewStep
    type: Type


@dataclass(eq=False)
class Family:
    """The tensors of one base that autograd knows to be views of each other: a detach, or no_grad, begins another.

    torn: the memory was written to where the family's gradients do not show it."""
    torn: bool


@dataclass(eq=False)
class Base:
    """One piece of memory: its current value, the type of the tensor that owns it, and the graph input it came as.
    `replaced`: it took the place of the input's own.
    `shared`: others count as memory of their own and lie there, too: it is only read. `flows`: it was written to where autograd
    sees it."""
    value: Value
    type: TensorType
    address: int
    input: int | None
    owner: Callable[[], torch.Tensor | None]
    version: int = 0
    families: list[Family] = field(default_factory=list)
    replaced: bool = False
    shared: bool = False
    flows: bool = False


@dataclass(eq=False)
class Alias:
    """One tensor: `steps` lead from the base to it. `value` holds for the base's version `version`; `chained` says that it
    was made by the steps, and not by a write. `number`: the how-manieth tensor of the run it is."""
    base: Base
    steps: tuple[Step, ...]
    type: TensorType
    family: Family
    value: Value
    version: int = 0
    chained: bool = True
    number: int = -1

    @property
    def made(self) -> bool:
        """Whether the run made the tensor, be it as a view of one that it did not make."""
        return self.base.input is None or bool(self.steps)


def differentiable(view: ViewStep) -> bool:
    """Whether gradients flow through a view."""
    return view.grad and overload(view.function).packet not in ("detach", "detach_")


def _nobody() -> None:
    """Like a weak reference to what is gone."""


def _whole(step: Step) -> bool:
    """Whether a view is of the same elements at the same places."""
    return overload(step.view.function).packet in ("detach", "alias")


class Memory:
    """Every tensor that the run has met, as aliases. Tensors are held weakly: a tensor that died is forgotten."""

    def __init__(self, b: Builder, reach: Reach, sources: Sources):
        self._b, self._reach, self._sources = b, reach, sources
        self._known: dict[int, tuple[weakref.ref, Alias]] = {}
        self.inputs: list[Base] = []
        self.met = 0
        self._inputs_at: dict[int, list[Base]] = {}
        self.written = False
        self.left_behind: list[Base] = []  # memory of inputs that was written to, and then replaced
        self._hidden: dict[int, int] = {}
        self._noted: dict[Base, tuple[int, int]] = {}  # writes under way: the moment, and autograd's count of writes before

    def find(self, tensor: torch.Tensor) -> Alias | None:
        entry = self._known.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def let_go(self) -> None:
        """Forget all tensors, so that none has a weak reference from here."""
        for base in [*self.inputs, *(alias.base for _, alias in self._known.values())]:
            base.owner = _nobody
        self._known.clear()

    def holders(self, place: int) -> list[torch.Tensor]:
        """The live tensors whose memory is at this address."""
        found = [ref() for ref, alias in self._known.values() if place and alias.base.address == place]
        return [t for t in found if t is not None]

    # Tensors come in

    def add(self, tensor: torch.Tensor, type: TensorType, value: Value, input: int | None = None) -> Alias:
        """A tensor with memory of its own. `input` is its place among the graph's inputs."""
        family = Family(torn=input is None and not torch.is_grad_enabled())
        base = Base(value, type, address(tensor), input, weakref.ref(tensor), families=[family])
        if input is not None:
            self.inputs.append(base)
            self._inputs_at.setdefault(base.address, []).append(base)
            if any(n.version and self._touch(base, n) for n in self._inputs_at[base.address] if n is not base):
                raise Unsupported(SHARED)
        return self._put(tensor, Alias(base, (), type, family, value))

    def add_view(self, parent: Alias, tensor: torch.Tensor, step: Step, value: Value) -> Alias:
        """A tensor that a view call made of another one. `value` is the step's result on the parent's value."""
        family = parent.family
        if not differentiable(step.view):
            family = Family(torn=True)
            parent.base.families.append(family)
        type = step.type if step.view.index is None else step.type.items[step.view.index]
        alias = Alias(parent.base, (*parent.steps, step), type, family, value, parent.base.version, parent.chained)
        return self._put(tensor, alias)

    def add_own_view(self, parent: Alias, tensor: torch.Tensor, value: Value) -> None:
        """A view of all of a tensor, with a gradient of its own: that of `value`."""
        family = Family(torn=False)
        parent.base.families.append(family)
        steps = (*parent.steps, Step(OWN_VIEW, parent.type))
        self._put(tensor, Alias(parent.base, steps, parent.type, family, value, parent.base.version, chained=False))

    def move(self, tensor: torch.Tensor, to: torch.Tensor) -> None:
        """Another tensor object takes the place of a tensor with memory of its own."""
        alias = self._known[id(tensor)][1]
        alias.base.owner = weakref.ref(to)
        self._known[id(to)] = weakref.ref(to), alias

    def _put(self, tensor: torch.Tensor, alias: Alias) -> Alias:
        alias.number = self.met
        self.met += 1
        self._known[id(tensor)] = weakref.ref(tensor), alias
        return alias

    def share(self, *tensors: torch.Tensor) -> None:
        """Let these tensors, which the engine gave the same memory, stay what they are."""
        for tensor in tensors:
            self._known[id(tensor)][1].base.shared = True

    def shown_with(self, tensor: torch.Tensor, left: Sequence[torch.Tensor]) -> bool:
        """Whether what the engine gave the same memory as this tensor is left by the run, too, or was there before."""
        base = self._known[id(tensor)][1].base
        others = [(h, self._known[id(h)][1]) for h in (self.holders(base.address) if base.shared else ())]
        return any(a.base is not base and (not a.made or any(h is t for t in left)) for h, a in others)

    def _refuse_shared_write(self, base: Base) -> None:
        if base.shared:
            raise Unsupported("writes to a gradient that shares memory with another tensor")
        neighbours = self._inputs_at[base.address] if base.input is not None and base.address else ()
        if any(self._touch(base, n) for n in neighbours if n is not base):
            raise Unsupported(SHARED)

    def _touch(self, a: Base, b: Base) -> bool:
        """Whether writes to one input may show in another one."""
        tensors = a.owner(), b.owner()
        return any(t is None for t in tensors) or touching(*map(inner, tensors))

    # Reading

    def current(self, alias: Alias) -> Value:
        """The tensor's value now."""
        if alias.version != alias.base.version:
            self._replay(alias)
        return alias.value

    def read(self, tensor: torch.Tensor, alias: Alias) -> Value:
        """The same for an operation that differentiates as the tensor's flag says."""
        value = self.current(alias)
        if torch.is_grad_enabled() and (tensor.is_floating_point() or tensor.is_complex()):
            if tensor.requires_grad:
                self.use(tensor, alias)
                value = self.current(alias)
                self.check_gradient(tensor, alias, value)
            elif self._reach.of(value):
                value = alias.value = self._detached(value)
                alias.chained = False
        return value

    def use(self, tensor: torch.Tensor, alias: Alias) -> None:
        """An operation that is differentiated is about to use the tensor: one that the run let require grad is a leaf now."""
        try:
            leaf = tensor.requires_grad and tensor.is_leaf
        except RuntimeError:  # it is one of several views that one call gave, and another one was written to
            raise Unsupported(UNSEEN) from None
        if leaf and alias.made and id(tensor) not in self._sources.made:
            self._as_leaf(tensor, alias)

    def check_gradient(self, tensor: torch.Tensor, alias: Alias, value: Value) -> None:
        """Refuse a tensor whose gradient is not that of its value."""
        if alias.family.torn or not self._reach.of(value):
            name = custom_function(tensor)
            raise Unsupported(f"custom autograd.Function ({name})" if name else UNSEEN if alias.family.torn else
                              "a tensor requires grad through something that is not an op of torch")

    def _as_leaf(self, tensor: torch.Tensor, alias: Alias) -> None:
        """Let gradients end at a tensor that the run made."""
        leaf = self._sources.made[id(tensor)] = alias.value = self._detached(self.current(alias))
        self._reach.add_leaf(leaf, self._sources.add(tensor))
        alias.family, alias.chained, base = Family(torn=False), False, alias.base
        if base.input is None and base.address and all(map(_whole, alias.steps)) \
                and all(t is tensor for t in self.holders(base.address)):  # all that is left of what it was cut from
            self._see_count(base)
            alias.steps, base.owner = (), weakref.ref(tensor)
        base.families.append(alias.family)
        if not alias.steps:
            base.value = leaf

    def require(self, alias: Alias, bits: int) -> None:
        """Let an input require grad: gradients end at it, and what was computed of it before has none."""
        base, leaf = alias.base, self._b.inputs[alias.base.input]
        bases = {a.base for _, a in self._known.values()}
        before = {b: self._reach.of(b.value) for b in bases}
        self._reach.change_input(leaf, bits)
        value = base.value
        while value.op.name == "straight_through":
            value = value.inputs[1]
        if value is not leaf:
            raise Unsupported("lets a tensor require grad that it wrote to before")
        for b in bases:
            if b is base or self._reach.of(b.value) != before[b]:
                for family in b.families:
                    family.torn = True
        alias.value, alias.version, alias.family = base.value, base.version, Family(torn=False)
        base.families.append(alias.family)

    def _detached(self, value: Value) -> Value:
        detached = self._b.detach(value)
        detached.type = value.type
        return detached

    def detach(self, base: Base) -> None:
        """Let the base's value carry no gradient."""
        if self._reach.of(base.value):
            base.value = self._detached(base.value)
            base.version += 1

    def _replay(self, alias: Alias) -> None:
        value = alias.base.value
        for step in alias.steps:
            value = self.apply(value, step)
        alias.value, alias.version, alias.chained = value, alias.base.version, True

    def apply(self, value: Value, step: Step) -> Value:
        """The value of a view of `value`."""
        result = self.views(value, step.view, step.type)
        return result if step.view.index is None else result[step.view.index]

    def views(self, value: Value, view: ViewStep, type: Type):
        """All that a view call gives, `type` being the type of that."""
        if moving(view):
            return gathered(self._b, value, view, type)
        op = overload(view.function)
        if op.packet in ("detach", "alias"):
            return value  # whether it carries a gradient shows where it is read
        if op.packet == "as_strided":
            flat = self._b.reshape(value, shape=(value.type.numel,))
            size, strides, offset = view.args
            window = self._b.as_strided(flat, shape=tuple(size), strides=tuple(strides), offset=offset)
            window.type = type
            return window
        if op.packet == "_conj" and not dense(type.shape, type.strides):
            raise Unsupported("conjugates a view that is not dense")
        op = overload(RESOLVED.get(op.packet, op.function))
        return import_call(self._b, op, (value, *view.args), view.kwargs, type)

    # Writing

    def write(self, tensor: torch.Tensor, alias: Alias, new: Value) -> None:
        """The operation just run gave `tensor` the value `new` (of its shape and dtype)."""
        if new is self.current(alias):
            return
        base, grad, flag = alias.base, torch.is_grad_enabled(), tensor.requires_grad
        self._refuse_shared_write(base)
        if base.input is not None:
            if base is not self.inputs[base.input]:
                raise Unsupported("writes to memory that it replaced (.data = ...)")
            if not dense(base.type.shape, base.type.strides) and not _distinct(base.type.shape, base.type.strides):
                raise Unsupported("writes to an input whose elements share memory")
            base.flows |= grad and flag
        if grad and flag and alias.family.torn:
            self.check_gradient(tensor, alias, new)
        owner, before = None if grad and flag else self._kept_owner(base), base.value
        if grad and not flag and owner is None:
            self._settle(base, alias.family)
        kept = not grad and flag and not alias.steps and not alias.family.torn
        if kept:
            new = self._with_gradient_of(base.value, new)
        self._note_write(base, alias)
        base.value = self._written(alias, new)
        base.version += 1
        alias.value, alias.version, alias.chained = new, base.version, not alias.steps
        for family in base.families:
            family.torn |= not (grad or kept) or family is not alias.family
        if owner is not None:
            if not kept:
                base.value = self._with_gradient_of(self._leaf(owner, base) if owner.is_leaf else before, base.value)
            whole = self.find(owner)
            whole.version, whole.family.torn = base.version - 1, False  # to be read anew
        elif grad and not flag:
            alias.family.torn = False

    def _note_write(self, base: Base, alias: Alias) -> None:
        self.written, owner = True, base.owner()
        if owner is None or owner.is_inference():
            return
        self._see_count(base)
        if alias.family is not base.families[0]:
            self._noted[base] = moment(), version_of(owner)

    def _see_count(self, base: Base) -> None:
        """See whether autograd counted the last write to some memory, which it does when the op is over."""
        at, before = self._noted.pop(base, (0, -1))
        owner = base.owner()
        if owner is not None and before == version_of(owner):
            self._hidden[base.address] = at

    @property
    def hidden(self) -> dict[int, int]:
        """The addresses that were written to uncounted, through .data, and the last moment of it."""
        for base in list(self._noted):
            self._see_count(base)
        return self._hidden

    def replace(self, tensor: torch.Tensor, alias: Alias, source: Alias) -> None:
        """A leaf got the memory of another tensor (`.data = ...`). Its gradient, where it has one, ends at it as before."""
        base, steps = alias.base, source.steps
        if source.base is base and not alias.steps and all(map(_whole, steps)):
            return
        if alias.steps or source.base.input is not None or source.base is base or source.base.shared:
            raise Unsupported("lets two tensors share their memory (.data = ...)")
        if base.input is not None and type_of(tensor) != base.type:
            raise Unsupported("replaces the memory of a tensor by that of another form (.data = ...)")
        type, value = type_of(tensor), self.current(source)
        if not dense(type.shape, type.strides):
            raise Unsupported("replaces memory by such that is not dense (.data = ...)")
        if tensor.requires_grad:
            value = self._with_gradient_of(self._leaf(tensor, base), value)
        elif self._reach.of(value):
            value = self._detached(value)
        family = Family(torn=False)
        new = Base(value, type, address(tensor), base.input, weakref.ref(tensor), 1, [family], True)
        for known in [k for k, (_, other) in self._known.items() if other.base is source.base]:
            self._hand_over(known, source, new)
        if base.input is not None and base.version and not base.replaced:
            self.left_behind.append(base)
        self.written = True
        self._hidden[new.address] = moment()
        if base.input is not None:
            self.inputs[base.input] = new
            self._inputs_at.setdefault(new.address, []).append(new)
        self._put(tensor, Alias(new, (), type, family, value, 1))

    def _hand_over(self, known: int, source: Alias, new: Base) -> None:
        """The memory of `source` became that of an input: a tensor that lies there is a view of it from now on, if it can be."""
        alias = self._known[known][1]
        if new.input is None or source.base.type != new.type or not all(map(_whole, source.steps)):
            del self._known[known]
            return
        alias.family = Family(torn=True)
        new.families.append(alias.family)
        alias.base, alias.version, alias.steps = new, 0, (Step(replace(DETACHED, counted=False), new.type), *alias.steps)

    def _kept_owner(self, base: Base) -> torch.Tensor | None:
        """The tensor whose memory it is, if it keeps its gradient whatever is written there out of autograd's sight."""
        owner = base.owner()
        alias = owner if owner is None else self.find(owner)
        if alias is None or alias.base is not base or not owner.requires_grad:
            return None
        known = base.input is not None or id(owner) in self._sources.made if owner.is_leaf else not alias.family.torn
        return owner if known else None

    def _leaf(self, tensor: torch.Tensor, base: Base) -> Value:
        """The value that gradients of a leaf end at."""
        return self._sources.made[id(tensor)] if base.input is None else self._b.inputs[base.input]

    def _with_gradient_of(self, old: Value, new: Value) -> Value:
        value = self._b.straight_through(self._detached(new), old)
        value.type = new.type
        return value

    def _settle(self, base: Base, family: Family) -> None:
        """A tensor that needs no gradient is written to: what stays of its base carries none either."""
        owner = base.owner()
        if family is base.families[0] and owner is not None and owner.requires_grad and self._reach.of(base.value):
            raise Unsupported("writes through a view that autograd does not count as one")
        self.detach(base)

    def _written(self, alias: Alias, new: Value) -> Value:
        """The base's value once the tensor has the value `new`."""
        base = alias.base
        if not alias.steps:
            return new
        if not alias.chained or alias.version != base.version:
            self._replay(alias)
        at, whole = alias.value, new
        while at is not base.value:
            at, whole = at.inputs[0], self._put_back(at, whole)
        if whole is not new and whole.type != base.type:
            whole = self._b.copy(whole) if whole.op.kind == "opaque" else whole  # which torch lays out
            whole.type = base.type
        return whole

    def _put_back(self, view: Value, new: Value) -> Value:
        """The value of what `view` is a view of, once the view has the value `new`."""
        b, source, op = self._b, view.inputs[0], view.op.name
        if op == "reshape" or (op == "expand" and source.type.numel == view.type.numel):
            return b.reshape(new, shape=source.shape)
        if op == "permute":
            return b.permute(new, dims=inverse(view.attrs["dims"]))
        if op == "as_strided" and not _distinct(view.attrs["shape"], view.attrs["strides"]):
            raise Unsupported("writes in place to a tensor whose elements share memory")
        if op in ("slice", "diagonal", "as_strided"):
            return b.emit(f"{op}_scatter", source, new, **view.attrs)
        if op == "index_select":  # of a window
            return b.index_put(source, new, view.inputs[1], dims=(view.attrs["dim"],), accumulate=False)
        target = view.attrs.get("target", op)
        if target in _SCATTERS:
            args = source, new, *view.attrs["args"][1:]
            return opaque_call(b, overload(_SCATTERS[target]), args, view.attrs["kwargs"], source.type)
        if target == "aten.view_as_real.default" and dense(view.shape, view.type.strides):
            parts = b.copy(new)
            parts.type = view.type
            return opaque_call(b, overload(torch.ops.aten.view_as_complex.default), (parts,), {}, source.type)
        raise Unsupported(f"writes in place through a view ({target})")


def address(tensor: torch.Tensor) -> int:
    """Where the tensor's memory begins; 0 for empty memory, and for autograd's zeros that have none."""
    return 0 if is_zero(memory := inner(tensor)) else memory.untyped_storage().data_ptr()


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one memory share elements, other than by being the same view of it (dtypes that differ: yes)."""
    a, b = inner(a), inner(b)
    if (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset()):
        return False
    if a.dtype != b.dtype:
        return True
    place = torch.zeros(a.untyped_storage().nbytes(), dtype=torch.bool)
    place.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(place.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _distinct(shape, strides) -> bool:
    """Whether a window surely reads every place at most once."""
    end = 0
    for size, stride in sorted(((n, s) for n, s in zip(shape, strides) if n > 1), key=lambda t: t[1]):
        if stride <= end:
            return False
        end += (size - 1) * stride
    return True
