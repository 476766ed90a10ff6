"""The record that says everything about one op, and the table of them all.

A record is the only place that knows its op: what aten overloads it stands for, its type, its meaning in torch, its
meaning in scalar ops (or its decomposition), its gradient, and samples for the tests. Passes and backends read records;
they never hold lists of names. The records stand in compiler/ops/.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Mapping, Sequence

import torch

from .dims import Dim
from .ir import NumberType, TensorType, Type, Value
from .scalar import arithmetic_dtype


@dataclass(frozen=True, eq=False)
class Op:
    """One op.

    name        the name in the IR
    kind        "pointwise"  out[i] = scalar(in0[i], in1[i], ...), with broadcasting and torch's type promotion
                "view"       out[i] = in[index(i)]: reads its input elsewhere, computes nothing
                "source"     out[i] = scalar(i): constants, arange
                "reduce"     combines its input along attrs["dim"] (a tuple of non-negative ints) with `combine`
                "scan"       the same for each element and those before it; attrs["dim"] is one dimension, none for a scalar
                "gather"     reads its first input at places that other inputs say (scalar with loads; see ops/indexing.py)
                "contract"   a matrix product
                "loop"       a loop over time, each step of which is a graph (compiler/recurrence.py)
                "composite"  made of other ops; `decompose` says how
                "opaque"     one torch call
                "input"      a graph input
    doc         one line
    type        (inputs, attrs) -> Type
    meaning     (*inputs, **attrs) -> tensor(s): the torch function that this op is; the reference evaluator runs it
    scalar      (s, *operands, **attrs) -> operand, for pointwise: `s` has one method per scalar op (compiler/scalar.py);
                operands arrive converted to the compute dtype and the result is converted to the result's dtype
    promotion   for pointwise: "common" | "float" (integers become the default float) | "compare" (common, gives bool) | "bool"
                (the same for logic) | "select" (a bool condition, then common) | "none" (each operand as it is, numbers as
                the first operand); `operand_dtypes` says it per operand
    exact       for pointwise: the places of operands that, as numbers or 0-dim tensors, reach float16/bfloat16 arithmetic
                unrounded, as the divisor of torch's div
    index       (value, coordinates) -> coordinates of the input read by that element; for views
    inside      (value, coordinates) -> [(expression, size), ...], for views that also fill (pad): where any expression is
                outside 0 <= e < size the element is attrs["value"] and nothing is read
    combine     for reduce: "sum" | "prod" | "max" | "min" | "any" | "all" | "argmax" | "argmin"; for scan: all of these
                but "any" and "all"
    decompose   (b, v) -> Value: the same in simpler ops
    gradient    (b, v, g) -> one gradient (or None) per input, g being the gradient of v (for a tuple g[k] is result k's, zeros
                where none reaches it); None: decomposed if composite, else differentiated by torch (random: not at all)
    aten        overload -> function (b, *args, **kwargs) -> Value(s), which imports a recorded call;
                args as the dispatcher hands them, with tensors as Values; NotImplemented: this one stays an opaque call;
                None for a result that only torch's own gradient of the op reads
    samples     () -> iterable of (inputs, attrs): inputs as tensors or numbers, for tests of every rule above
    cost        rough scalar operations an element
    random      consumes random numbers: never duplicated, reordered against others of its kind, or removed by CSE
    images      of torch's calls on images: "best" where these may best have the channels last in memory, which attribute
                `channels_last` then says (passes/channels_last.py); "kept": the result is laid out as the first operand
    waits       the CPU gives the GPU something in it, or waits for what it has computed
    raises      may refuse the numbers that it is given: places outside a dimension, integers divided by 0
    """
    name: str
    kind: str
    doc: str
    type: Callable[[Sequence, Mapping], Type]
    meaning: Callable | None = None
    scalar: Callable | None = None
    promotion: str = "common"
    exact: tuple[int, ...] = ()
    index: Callable | None = None
    inside: Callable | None = None
    combine: str = ""
    decompose: Callable | None = None
    gradient: Callable | None = None
    aten: Mapping[str, Callable] = field(default_factory=dict)
    samples: Callable | None = None
    cost: float = 1.0
    random: bool = False
    images: str = ""
    waits: bool = False
    raises: bool = False

    def __repr__(self):
        return self.name


OPS: dict[str, Op] = {}
#: aten overload ("add.Tensor") -> its import rule
ATEN: dict[str, Callable] = {}
#: overload that also writes to arguments -> their positions, whose new values its import rule appends to the results
#: (None arguments are skipped)
WRITES: dict[str, tuple[int, ...]] = {}


def register(op: Op) -> Op:
    """Add a record to the table; a name or an overload stands there once."""
    if op.name in OPS:
        raise ValueError(f"op {op.name} is registered twice")
    OPS[op.name] = op
    for overload, rule in op.aten.items():
        if overload in ATEN:
            raise ValueError(f"aten overload {overload} is imported by two records; the second is {op.name}")
        ATEN[overload] = _guarded(rule)
    return op


#: dtypes that smelt computes in; calls with any other (complex, float8, quantized...) stay torch's own
COMPUTED = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
                      torch.float16, torch.bfloat16, torch.float32, torch.float64})


def _guarded(rule: Callable) -> Callable:
    """An import rule that is not asked about dtypes outside of COMPUTED."""
    def convert(b, *args, **kwargs):
        return rule(b, *args, **kwargs) if all(map(_computed, args)) and all(map(_computed, kwargs.values())) else NotImplemented
    return convert


def _computed(argument) -> bool:
    if isinstance(argument, Value):
        return not isinstance(argument.type, TensorType) or argument.dtype in COMPUTED
    if isinstance(argument, (list, tuple)):
        return all(map(_computed, argument))
    return argument in COMPUTED if isinstance(argument, torch.dtype) else not isinstance(argument, complex)


# Types

def broadcast(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The common shape by torch's broadcasting rules; ValueError if there is none."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for s in shapes:
        for i, n in enumerate(s, rank - len(s)):
            if out[i] == 1:
                out[i] = n
            elif n != 1 and n != out[i]:
                raise ValueError(f"shapes {[tuple(s) for s in shapes]} do not broadcast")
    return tuple(out)


def same_shape(*values: Value) -> None:
    """For type rules: ValueError unless all have one shape."""
    if any(v.shape != values[0].shape for v in values):
        raise ValueError(f"shapes {[tuple(v.shape) for v in values]} differ")


def _category(d: torch.dtype) -> int:
    return 3 if d.is_complex else 2 if d.is_floating_point else 0 if d == torch.bool else 1


def is_number(operand) -> bool:
    """Whether an operand counts as a Python number: one, or a value that is one on every call."""
    return not isinstance(operand, Value) or isinstance(operand.type, NumberType)


def _number_dtype(n) -> torch.dtype:
    if isinstance(n, Value):
        return torch.get_default_dtype() if n.dtype.is_floating_point else n.dtype
    if isinstance(n, bool):
        return torch.bool
    if isinstance(n, int):
        return torch.int64
    return torch.get_default_dtype() if isinstance(n, float) else torch.complex64


def common_dtype(inputs: Sequence) -> torch.dtype:
    """The dtype torch computes in: tensors with dimensions lead, then 0-dim tensors, then Python numbers, each later
    group counting only if its category (bool < integer < float < complex) is higher."""
    groups: list[list[torch.dtype]] = [[], [], []]
    for i in inputs:
        if is_number(i):
            groups[2].append(_number_dtype(i))
        else:
            groups[0 if i.rank else 1].append(i.dtype)
    result: torch.dtype | None = None
    for group in groups:
        if not group:
            continue
        d = group[0]
        for other in group[1:]:
            d = torch.promote_types(d, other)
        if result is None:
            result = d
        elif _category(d) > _category(result):
            result = torch.promote_types(result, d) if group is not groups[2] else (
                torch.get_default_dtype() if _category(d) == 2 else d)
    return result if result is not None else torch.get_default_dtype()


def compute_dtype(op: Op, inputs: Sequence) -> torch.dtype:
    """The dtype a pointwise op's operands are converted to (before float16/bfloat16 widen to float32 for the arithmetic)."""
    if all(map(is_number, inputs)):  # Python's own arithmetic
        floats = op.promotion == "float" or any(_number_dtype(i).is_floating_point for i in inputs)
        return torch.float64 if floats else torch.int64
    d = common_dtype(inputs[1:] if op.promotion == "select" else inputs)
    if op.promotion == "float" and not d.is_floating_point and not d.is_complex:
        return torch.get_default_dtype()
    return d


def operand_dtypes(v: Value) -> tuple[torch.dtype, ...]:
    """The dtype that each operand of a pointwise value is converted to first, rounding as eager does; the arithmetic is
    then in `arithmetic_dtype` of it (compiler/scalar.py)."""
    op, inputs = v.op, v.inputs
    if op.promotion == "none":
        return tuple(inputs[0].dtype if is_number(i) else i.dtype for i in inputs)
    d = compute_dtype(op, inputs)
    if op.promotion == "select":
        return (torch.bool, *(d for _ in inputs[1:]))
    return tuple(arithmetic_dtype(d) if k in op.exact and not (isinstance(i, Value) and i.rank) else d
                 for k, i in enumerate(inputs))


def device_of(inputs: Sequence) -> torch.device:
    """The device of a result: that of the inputs which is not the CPU, if there is one."""
    devices = [i.type.device for i in inputs if isinstance(i, Value) and isinstance(i.type, TensorType)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


def pointwise_type(op_name: str):
    """The type rule of every pointwise op: broadcast shape, promoted dtype."""
    def rule(inputs, attrs):
        op = OPS[op_name]
        shape = broadcast([i.shape for i in inputs if isinstance(i, Value)])
        dtype = torch.bool if op.promotion in ("compare", "bool") else compute_dtype(op, inputs)
        return (NumberType if all(map(is_number, inputs)) else TensorType)(shape, dtype, device_of(inputs))
    return rule


def pointwise(name: str, doc: str, *, meaning, scalar, gradient=None, aten=(), promotion="common", type=None, **more) -> Op:
    """Register a pointwise op. `aten` may be a tuple of overloads whose positional arguments are the op's operands."""
    def plain(b, *args, **kwargs):
        return b.emit(name, *args, **kwargs)
    table = dict(aten) if isinstance(aten, Mapping) else {a: plain for a in aten}
    return register(Op(name, "pointwise", doc, type or pointwise_type(name), meaning, scalar=scalar, promotion=promotion,
                       gradient=gradient, aten=table, **more))


def reduced_shape(shape: Sequence[Dim], dim: Sequence[int], keepdim: bool) -> tuple[Dim, ...]:
    return tuple(1 if i in dim else n for i, n in enumerate(shape) if keepdim or i not in dim)


def normal_dims(dim, rank: int) -> tuple[int, ...]:
    """Reduction dims as sorted non-negative ints; None or () means all, as torch has it."""
    if dim is None or (isinstance(dim, (tuple, list)) and not len(dim)):
        return tuple(range(rank))
    dims = (dim,) if isinstance(dim, int) else dim
    return tuple(sorted({d % rank if rank else 0 for d in dims} if rank else set()))
