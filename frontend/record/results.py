"""What ops give and write, as values of the graph and as aliases of memory."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.ir import TensorType, TupleType, Value
from ...errors import Unsupported
from ..generators import State
from ..recording import ViewStep
from ..symbolic.sizes import Sized, symbolic
from .functional import Alias, Memory, Step, address, differentiable, overlap
from .overloads import (Overload, Written, check_kind, checked, import_call, opaque_call, refuse_sign, rule_call,
                        type_of)
from .windows import noting, settled

#: In-place ops that do not look at what they write over.
OVERWRITES = frozenset({"copy_", "fill_", "zero_"})


@dataclass(eq=False)
class Call:
    """One op under way: its arguments, the same as values, the tensors that it reads, and those that it writes to."""
    op: Overload
    args: Sequence[Any]
    kwargs: dict[str, Any]
    values: Sequence[Any] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    reads: list[tuple[torch.Tensor, Alias]] = field(default_factory=list)
    targets: list[tuple[torch.Tensor, Alias]] = field(default_factory=list)
    generator: State | None = None
    random: bool = False
    plain: bool = False  # of numbers alone: torch.div(3, 2)
    differentiated: bool = False  # where autograd is off, by a gradient that is registered for it


class Results:
    """Those of one run, as they come.

    alias   gives the alias of a tensor
    met     (tensor, type, value) -> the tensor that the run gets for one that an op gave, and its type
    """

    def __init__(self, b: Builder, memory: Memory, alias: Callable[[torch.Tensor], Alias], met: Callable):
        self._b, self._memory, self._alias, self._met = b, memory, alias, met

    def add(self, call: Call, result) -> None:
        several = isinstance(result, (list, tuple))
        results = [r for r in (result if several else (result,)) if isinstance(r, torch.Tensor)]
        for r in results:
            check_kind(r)
        if all(self._memory.find(r) is not None for r in results):
            return
        source = self._source(call, results)
        if source is not None:
            self._add_views(call, source, result)
            return
        for r in results:
            refuse_sign(r)
        type = type_of(result)
        values = import_call(self._b, call.op, call.values, call.keywords, type)
        for r, t, value in zip(result, type.items, values) if several else ((result, type, values),):
            if value is None:  # the graph has none for it here, and may have one in another recording of the run
                self._memory.met += 1
            else:
                self._refuse_strided_random(call, r)
                self._memory.add(*self._met(r, t, value), value)

    def _source(self, call: Call, results: Sequence[torch.Tensor]) -> Alias | None:
        """The alias of the tensor that the results are views of, if they are."""
        if call.op.view:
            return call.reads[0][1]
        places = [address(r) for r in results if address(r)]
        source = next((a for _, a in call.reads if a.base.address in places), None)
        if source is None and len(set(places)) == len(places):
            return None
        if source is not None and source is call.reads[0][1] and set(places) == {source.base.address}:
            return source
        raise Unsupported(f"{call.op.key} gives results that share memory with each other or with an argument")

    def _add_views(self, call: Call, source: Alias, result) -> None:
        """The results are views of the first argument."""
        several, type = isinstance(result, (list, tuple)), type_of(result)
        viewed, (source, view) = source, self._view(call, source)
        if differentiable(view):
            self._memory.use(call.reads[0][0], viewed)
        values = self._memory.views(self._memory.current(source), view, type)
        if several:
            result, items = zip(*map(self._met, result, type.items, values))
            type = TupleType(items)
        else:
            result, type = self._met(result, type, values)
        for k, r in enumerate(result if several else (result,)):
            step = Step(ViewStep(view.function, view.args, view.kwargs, k if several else None, view.grad), type)
            self._memory.add_view(source, r, step, values[k] if several else values)

    def _view(self, call: Call, source: Alias, function=None) -> tuple[Alias, ViewStep]:
        """The view call, and the alias of what it looks at: as_strided looks at the whole memory."""
        op, args = call.op, call.args
        if any(isinstance(a, torch.Tensor) for a in (*args[1:], *call.kwargs.values())):
            raise Unsupported(f"a view that depends on another tensor ({op.key})")
        view = ViewStep(function or op.function, noting(args[1:]), dict(call.kwargs), grad=torch.is_grad_enabled())
        if op.packet not in ("as_strided", "as_strided_"):
            return source, view
        owner = source.base.owner()
        if isinstance(owner, Sized):
            raise Unsupported("as_strided on a tensor of symbolic sizes")
        if owner is None or owner.dtype != args[0].dtype or not owner.is_contiguous() or owner.storage_offset() \
                or address(owner) == 0 or owner.untyped_storage().nbytes() != owner.numel() * owner.element_size():
            raise Unsupported("as_strided on memory that is not one contiguous tensor of its dtype")
        size, strides, offset = (*args[1:], *([None] * (4 - len(args))))
        offset = call.kwargs.get("storage_offset", offset)
        offset = args[0].storage_offset() if offset is None else offset
        return self._alias(owner), ViewStep(view.function, (tuple(size), tuple(strides), offset), {}, grad=view.grad)

    def reshape(self, call: Call) -> None:
        """transpose_, squeeze_, ...: the tensor becomes a view of what it was."""
        (tensor, alias), twin = call.targets[0], call.op.twin
        if twin is None or not twin.view:
            raise Unsupported(f"changes the size or the memory of a tensor in place ({call.op.key})")
        if not alias.steps and alias.base.input is not None:
            raise Unsupported(f"changes the shape of an input in place ({call.op.key})")
        if isinstance(tensor, Sized):
            raise Unsupported(f"changes the shape of a tensor of symbolic sizes in place ({call.op.key})")
        source, view = self._view(call, alias, twin.function)
        type = type_of(tensor)
        value = self._memory.views(self._memory.current(source), view, type)
        self._memory.add_view(source, tensor, Step(view, type), value)

    # What an op writes

    def write(self, call: Call, result) -> None:
        results = result if isinstance(result, (list, tuple)) else (result,)
        written = {id(t) for t, _ in call.targets}
        others = [r for r in results if isinstance(r, torch.Tensor) and id(r) not in written]
        for tensor, alias in call.targets:
            if type_of(tensor).shape != alias.type.shape:
                raise Unsupported(f"writes to a tensor of another size, which is resized ({call.op.key})")
        start = len(self._b.values)
        values = self._new_values(call, others)
        for r, value in zip(others, values):
            if value is not None:
                self._memory.add(*self._met(r, type_of(r), value), value)
        for (tensor, alias), value in zip(call.targets, values[len(others):], strict=True):
            self._refuse_strided_random(call, tensor)
            new = self._fitted(value, alias.type, start)
            if call.op.packet.endswith("_") and new is self._memory.current(alias):  # autograd counts it as any write
                new = self._b.copy(new)
            self._memory.write(tensor, alias, new)

    def _new_values(self, call: Call, others: Sequence[torch.Tensor]) -> list[Value]:
        """The values of the op's other results, then those of the tensors that it writes to."""
        b, op = self._b, call.op
        if op.packet in OVERWRITES:
            return [self._overwriting(call)]
        if call.random and op.packet.endswith("_") and len(call.reads) == 1:
            t = call.targets[0][1].type
            return [b.random_fill(target=op.target, args=tuple(call.args[1:]), shape=t.shape, strides=t.strides, dtype=t.dtype,
                                  device=t.device)]
        start = len(b.values)
        if op.twin is None:
            found = rule_call(b, op, call.values, call.keywords)
        else:
            outs = {name for _, name in op.writes} if op.outs else ()
            found = rule_call(b, op.twin, call.values, {k: v for k, v in call.keywords.items() if k not in outs})
        if found is NotImplemented:
            return self._opaque_write(call, others)
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        return [v and checked(b, op, v, type_of(r), start) for v, r in zip(found, others)] + found[len(others):]

    def _overwriting(self, call: Call) -> Value:
        """The number or the tensor that is put into all elements."""
        type = call.targets[0][1].type
        source = call.values[1] if len(call.values) > 1 else 0
        if isinstance(source, Value):
            return source
        return self._b.full(shape=type.shape, value=source, dtype=type.dtype, device=type.device)

    def _opaque_write(self, call: Call, others: Sequence[torch.Tensor]) -> list[Value]:
        """The op as torch runs it, on copies of what it writes to."""
        if others and any(symbolic(alias.type) for _, alias in (*call.reads, *call.targets)):
            raise Unsupported(f"{call.op.key} of tensors of symbolic sizes")
        written = {id(t) for t, _ in call.targets}

        def marked(given, value):
            if isinstance(given, torch.Tensor):
                return Written(value) if id(given) in written else value
            if isinstance(given, (list, tuple)):
                return [marked(g, v) for g, v in zip(given, value)]
            return value
        args = marked(call.args, call.values)
        kwargs = {k: marked(call.kwargs[k], v) for k, v in call.keywords.items()}
        type = TupleType(tuple(type_of(t) for t in (*others, *(t for t, _ in call.targets))))
        return opaque_call(self._b, call.op, args, kwargs, type)

    def _fitted(self, value: Value, type: TensorType, start: int) -> Value:
        """A value as it arrives in memory of another device, another dtype, a larger shape, or, where it was emitted after
        `start`, another layout."""
        if value.type.device != type.device:
            value = self._b.to_device(value, device=type.device, dtype=type.dtype, non_blocking=False)
        if value.dtype != type.dtype:
            value = self._b.cast(value, dtype=type.dtype)
        if value.shape != type.shape:
            value = self._b.expand(value, shape=type.shape)
        if any(v is value for v in self._b.values[start:]):
            value.type = type
        return value

    def _refuse_strided_random(self, call: Call, tensor: torch.Tensor) -> None:
        """Which element gets which random number depends on the layout, which only `random_fill` keeps."""
        made_here = call.op.composite  # in an order of its own, whatever the results' layout
        if call.random and not made_here and not tensor.is_contiguous() and not (call.op.writes and len(call.reads) == 1):
            raise Unsupported(f"draws random numbers into a tensor that is not contiguous ({call.op.key})")


def refuse_overlap(call: Call) -> None:
    """Refuse an op whose result depends on the order in which it visits the elements: it reads where it also writes."""
    for target, alias in call.targets:
        for tensor, other in call.reads:
            if other.base is not alias.base or tensor is target:
                continue
            settled([s.view for s in (*alias.steps, *other.steps)])
            if len(call.targets) > 1 or overlap(target, tensor):
                raise Unsupported(f"writes to a tensor that it also reads, at other places ({call.op.key})")


def refuse_without_gradient(call: Call) -> None:
    """Refuse an op that torch raises for in a backward pass, where the rule here has a gradient: floor division."""
    if call.op.packet.rstrip("_") == "floor_divide" and torch.is_grad_enabled() and any(t.requires_grad for t, _ in call.reads):
        raise Unsupported("computes what torch has no gradient of (floor_divide)")
