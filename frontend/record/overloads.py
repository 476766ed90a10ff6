"""What the recorder asks of an ATen overload, read off its schema and tags once; and its import into the graph."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.dims import typical
from ...compiler.ir import ObjectType, TensorType, TupleType, Type, Value, dense
from ...compiler.op import ATEN, WRITES, is_number
from ...compiler.ops.core import Operand
from ...errors import Unsupported
from ..symbolic.sizes import Sized, in_symbols, symbolic
from ..symbolic.symbols import is_symbolic
from ..symbolic.trying import inferred
from ..torch_internals import has_gradient, is_composite, schema_of
from .foreach import one_by_one

#: Ops that look at the values of their arguments, and have no tag of torch's that says so: to tell something of them,
_READS = {"_nested_tensor_from_mask_left_aligned"}
#: or for the sizes of their results.
_SIZED = {"aten::_pack_padded_sequence", "torchvision::nms"}


@dataclass(frozen=True, eq=False)
class Overload:
    """One ATen overload.

    key         its name in the table of import rules: "add.Tensor", or "exp" for the default overload
    packet      the name without overload and namespace: "add_"
    target      its name for an opaque call: "aten.add_.Tensor"
    writes      the arguments it writes to, as (position, name)
    outs        whether those only receive the result (`out=`), in whatever state they were
    twin        the functional overload that computes what this one writes; None if there is none
    view        its results share memory with the first argument
    reshapes    an in-place op that changes only the sizes and strides of the first argument
    seeded      it may draw random numbers
    reads       its result is a Python number that depends on the values
    sized       the size of its result depends on the values
    sizes       the names of its arguments that are ints: sizes, places, dimensions; not numbers to compute with
    foreign     it is none of ATen's: its tags may not tell all
    composite   it is made of other ops
    seen_through  autograd knows only the ops that its kernel calls
    numbers     the arguments, by position and by name, that take a number of any type
    operands    the arguments that are tensors and read, as (position, name); Python may give numbers for them
    each        the same on one tensor after the other, for an op on lists of tensors
    defaults    the arguments that a call may leave out, by position and by name, with what they are then
    label       it marks a stretch of the run for a profiler
    silent      it gives nothing and writes nothing that a graph could hold: it checks or has an effect
    sparse      the arguments that ask for the gradient of the first one as a sparse tensor
    """
    function: Callable
    key: str
    packet: str
    target: str
    writes: tuple[tuple[int, str], ...]
    outs: bool
    twin: "Overload | None"
    view: bool
    reshapes: bool
    seeded: bool
    reads: bool
    sized: bool
    sizes: frozenset[str]
    foreign: bool
    composite: bool
    seen_through: bool
    numbers: frozenset[int | str]
    operands: tuple[tuple[int, str], ...]
    each: Callable | None
    defaults: Mapping[int | str, Any]
    label: bool
    silent: bool
    sparse: tuple[tuple[int, str], ...]

    def argument(self, place: tuple[int, str], args: Sequence, kwargs: Mapping) -> Any:
        """What a call gives for the argument at (position, name); None if it leaves it out."""
        position, name = place
        return args[position] if position < len(args) else kwargs.get(name)

    def shortest(self, args: Sequence, kwargs: Mapping) -> tuple[tuple, dict]:
        """What a call gives without what it could leave out: torch sees a plain number that is the default, and leaves it
        out, where it passes a symbolic one on."""
        count = len(args)
        while count and count - 1 in self.defaults and args[count - 1] == self.defaults[count - 1]:
            count -= 1
        return tuple(args[:count]), {k: v for k, v in kwargs.items() if k not in self.defaults or v != self.defaults[k]}


@lru_cache(maxsize=None)
def overload(function) -> Overload:
    """The facts about `torch.ops.<namespace>.<op>.<overload>`."""
    schema, tags = schema_of(function), set(function.tags)
    namespace, packet = schema.name.split("::")
    name = schema.overload_name
    key = f"{packet}.{name}" if name else packet
    places = tuple((k, a.name) for k, a in enumerate(schema.arguments))
    writes = [p for p, a in zip(places, schema.arguments) if a.is_write] or [places[k] for k in WRITES.get(key, ())]
    shared = [r for r in schema.returns if r.alias_info is not None and not r.alias_info.is_write]
    return Overload(
        function, key if namespace == "aten" else f"{namespace}::{key}", packet, f"{namespace}.{packet}.{name or 'default'}",
        tuple(writes), any(a.is_out for a in schema.arguments), _twin(function) if schema.is_mutable else None,
        view=bool(shared), reshapes=torch.Tag.inplace_view in tags, seeded=torch.Tag.nondeterministic_seeded in tags,
        reads=torch.Tag.data_dependent_output in tags or key in _READS,
        sized=torch.Tag.dynamic_output_shape in tags or schema.name in _SIZED,
        sizes=frozenset(a.name for a in schema.arguments if "int" in str(a.type)),
        foreign=namespace != "aten", composite=is_composite(function),
        seen_through=namespace not in ("aten", "prim") and not has_gradient(function),
        numbers=frozenset(part for place, a in zip(places, schema.arguments) if str(a.type) in _NUMBER_TYPES for part in place),
        operands=tuple(p for p, a in zip(places, schema.arguments) if str(a.type) == "Tensor" and not a.is_out),
        each=one_by_one(function), label=namespace == "profiler", silent=not schema.returns and not writes,
        sparse=tuple(p for p in places if p[1] in ("sparse", "sparse_grad")),
        defaults={part: a.default_value for place, a in zip(places, schema.arguments) if a.has_default_value() for part in place})


_NUMBER_TYPES = ("number", "Optional[number]")


def _twin(function) -> Overload | None:
    """The functional overload with the same arguments by name and type: add_.Tensor and add.out have add.Tensor."""
    schema = schema_of(function)
    namespace, packet = schema.name.split("::")
    wanted = [(a.name, str(a.type)) for a in schema.arguments if not a.is_out]
    library = getattr(torch.ops, namespace)
    twins = getattr(library, packet.removesuffix("_"), None)
    for name in twins.overloads() if twins is not None else ():
        candidate = getattr(twins, name)
        theirs = schema_of(candidate)
        if not theirs.is_mutable and [(a.name, str(a.type)) for a in theirs.arguments] == wanted:
            return overload(candidate)
    return None


# Import

def type_of(t: Any) -> Type:
    """The IR's type of what a call gave."""
    if isinstance(t, torch.Tensor):
        return t.form if type(t) is Sized else TensorType(tuple(t.shape), t.dtype, t.device, t.stride())
    if isinstance(t, (list, tuple)):
        return TupleType(tuple(map(type_of, t)))
    return ObjectType(type(t).__name__)


def import_call(b: Builder, op: Overload, args: Sequence, kwargs: Mapping, type: Type) -> Value | list[Value | None]:
    """Emit one functional call (tensors given as Values): by its import rule, else as an opaque call.

    `type` is that of the real result, whose layout the values take on. A list where the call gives several results.
    Raises Unsupported where the rule's result is not of that type: a defect of the rule.
    """
    start = len(b.values)
    values = rule_call(b, op, args, kwargs)
    if values is NotImplemented:
        values = opaque_call(b, op, args, kwargs, inferred(op.function, args, kwargs, type, op.view))
    if not isinstance(type, TupleType):
        return checked(b, op, values, type, start)
    return [checked(b, op, v, t, start) if isinstance(v, Value) else None for v, t in zip(values, type.items, strict=True)]


def rule_call(b: Builder, op: Overload, args: Sequence, kwargs: Mapping):
    """What the overload's import rule gives, one value per result; NotImplemented without a rule for this call."""
    start, rule = len(b.values), ATEN.get(op.key)
    values = NotImplemented if rule is None else rule(b, *args, **kwargs)
    if values is NotImplemented:
        del b.values[start:]
    elif isinstance(values, Value) and isinstance(values.type, TupleType):
        return [b.item(values, index=k) for k in range(len(values.type.items))]
    return values


@dataclass(frozen=True)
class Written:
    """Marks a value in the arguments of an opaque call as one that the op writes to."""
    value: Value


def opaque_call(b: Builder, op: Overload, args: Sequence, kwargs: Mapping, type: Type):
    """The call as torch makes it, `type` being that of the op `call`. A list where the type is a tuple."""
    operands: list[Value] = []
    writes: list[int] = []

    def template(x):
        if isinstance(x, Written):
            writes.append(len(operands))
            x = x.value
        if isinstance(x, Value):
            operands.append(x)
            return Operand(len(operands) - 1)
        if isinstance(x, (list, tuple)):
            return (tuple if isinstance(x, tuple) else list)(map(template, x))
        return x
    given = [b.value_of(x) if is_symbolic(x) and k in op.numbers else x for k, x in enumerate(args)]
    named = {k: b.value_of(x) if is_symbolic(x) and k in op.numbers else x for k, x in kwargs.items()}
    attrs = {"target": op.target, "args": tuple(map(template, given)), "kwargs": {k: template(x) for k, x in named.items()}}
    attrs["layouts"] = tuple(None if is_number(o) or not dense(o.shape, o.type.strides) else o.type.strides for o in operands)
    if writes:
        attrs["writes"] = tuple(writes)
    v = b.emit("call", *operands, type=type, **attrs)
    if not isinstance(type, TupleType):
        return v
    return [b.item(v, index=k) if isinstance(t, TensorType) else None for k, t in enumerate(type.items)]


def checked(b: Builder, op: Overload, value: Value, type: TensorType, start: int) -> Value:
    """`value`, held against the real result's type; if it was emitted after `start`, it takes on the real layout."""
    found = value.type
    if symbolic(found) and tuple(map(typical, found.shape)) == type.shape:
        type = in_symbols(type, value, b.values[start:], op.view, b.at_least)
    if (found.shape, found.dtype, found.device) != (type.shape, type.dtype, type.device):
        raise Unsupported(f"internal error: {op.key} was imported as {found}, torch gave {type}")
    if found.strides != type.strides and any(v is value for v in b.values[start:]):
        value.type = type
    return value


def check_kind(tensor: torch.Tensor) -> None:
    """Raise Unsupported for tensors other than plain dense ones on the CPU or a GPU; a backend may take fewer."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, Sized):
        raise Unsupported(f"a tensor of the class {type(tensor).__name__}")
    known = tensor.device.type in ("cpu", "cuda") and tensor.layout is torch.strided
    if not known or tensor.is_quantized or tensor.is_nested:
        raise Unsupported(f"a tensor that is not dense on the CPU or a GPU ({tensor.layout}, {tensor.device}, {tensor.dtype})")


def refuse_sign(tensor: torch.Tensor) -> None:
    """Raise Unsupported for a tensor whose memory holds its numbers conjugated or negated, but for a view."""
    if tensor.is_conj() or tensor.is_neg():
        raise Unsupported("a tensor whose sign is kept aside (conj)")


def leaves(part: Any) -> Iterator[Any]:
    """What is in tuples, lists and dicts."""
    if type(part) in (tuple, list, dict):
        for p in part.values() if type(part) is dict else part:
            yield from leaves(p)
    else:
        yield part
