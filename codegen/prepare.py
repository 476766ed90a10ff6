"""A decomposed graph in the terms of code generation.

After `prepare` every value is an input, a view, a source, one of the kinds that kernels compute (pointwise, reduce,
scan, gather, contract), a `cat` of `part`s, a loop over time, or opaque: one call of torch. Views and sources need no memory
of their own; what must lie in memory (a graph output, a tensor for an opaque call) is a value that does.
"""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Callable

import torch

from ..compiler.builder import Builder, rewrite
from ..compiler.dims import Dim, product, typical
from ..compiler.ir import Graph, TensorType, Type, Value, contiguous_strides, dense
from ..compiler.op import OPS, Op
from ..compiler.ops.core import takes_random_numbers
from ..compiler.recurrence import in_panels
from ..compiler.scalar import arithmetic_dtype
from .coordinates import layout, window

#: The dtypes that kernels compute in.
DTYPES = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
                    torch.int8, torch.uint8, torch.bool})
#: Whether a batch of products of [m, k] and [k, n] in this dtype is better left to the library: of (batch, m, n, k, dtype).
UseLibrary = Callable[[int, int, int, int, torch.dtype], bool]

PART = Op("part", "part", "A piece of a cat, written to its place in the result.", lambda inputs, a: inputs[0].type,
          meaning=lambda x, *, dim, offset: x)

#: A tensor that the program keeps.
CONSTANT = OPS["constant"]
#: What a reduction over no elements gives.
EMPTY = {"sum": 0, "prod": 1, "any": False, "all": True}
#: Reductions that may be done in two steps, their results being operands again.
ASSOCIATIVE = frozenset({"sum", "prod", "max", "min", "any", "all"})
#: Into how many parts a reduction is split so that all processors have a share, 1 for none: of (elements, results, whether
#: it is over rows: the dimension that is contiguous in memory is reduced).
Parts = Callable[[int, int, bool], int]
#: A reduction of at least LARGE elements to fewer than FEW results is split for a CPU.
LARGE, FEW = 1 << 16, 32
#: Results of the first step of a split reduction, at most.
CHUNKS = 256


def parts_for_threads(elements: int, results: int, rows: bool) -> int:
    """The Parts of a CPU, of at least 4096 elements each."""
    return 1 if elements < LARGE or results >= FEW else max(elements // results // 4096, 2)


def prepare(graph: Graph, use_library: UseLibrary, parts: Parts = parts_for_threads, loops: bool = False) -> Graph:
    """The same computation without dead values, in the kinds above. `loops`: whether loops over time can be printed."""
    graph = _live(graph)
    for rule in (_opaque_rule(use_library, graph.device, loops), partial(_reduction, parts), _cat, _in_memory_rule()):
        graph = rewrite(graph, rule)
    return _live(_outputs_in_memory(graph))


def _live(graph: Graph) -> Graph:
    """Only what the outputs need, and what consumes random numbers."""
    live = set(graph.outputs)
    for v in reversed(graph.values):
        if v in live or takes_random_numbers(v):
            live.add(v)
            live.update(v.operands)
    if all(v in live for v in graph.values):
        return graph
    return Graph(graph.name, graph.inputs, tuple(v for v in graph.values if v in live), graph.outputs, graph.output_names)


# What kernels cannot compute

@lru_cache(maxsize=None)
def _as_opaque(op: Op) -> Op:
    """The op as one call of its meaning, whose result is in memory of its own."""
    def meaning(*inputs, **attrs):
        result = op.meaning(*inputs, **attrs)
        memory = {i.untyped_storage().data_ptr() for i in inputs if isinstance(i, torch.Tensor)}
        shares = isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() in memory
        return result.clone() if shares else result
    return replace(op, kind="opaque", meaning=meaning)


def _opaque_rule(use_library: UseLibrary, device: torch.device, loops: bool):
    def rule(b: Builder, v: Value) -> Value | None:
        if v.op.kind in ("opaque", "input") or _in_kernels(v, use_library, device) or loops and v.op.kind == "loop":
            return None
        return b.emit(_as_opaque(v.op), *v.inputs, type=v.type, **v.attrs)
    return rule


def _in_kernels(v: Value, use_library: UseLibrary, device: torch.device) -> bool:
    values = (v, *v.operands)
    if not all(isinstance(i.type, TensorType) and i.dtype in DTYPES and i.type.device == device for i in values):
        return False
    if v.op.kind == "contract":
        batch, m, n, k = map(typical, (product(v.shape[:-2]), *v.shape[-2:], v.inputs[0].shape[-1]))
        return contraction_dtype(v) is not None and not use_library(batch, m, n, k, v.dtype)
    if v.op.kind == "reduce":
        return 0 not in v.inputs[0].shape or v.op.combine in EMPTY
    return v.op.kind in ("pointwise", "view", "source", "scan", "gather", "cat")


def contraction_dtype(v: Value) -> torch.dtype | None:
    """The dtype of a matrix product that a backend may have a kernel for, None if none does."""
    dtypes = {v.dtype, *(i.dtype for i in v.operands)}
    return v.dtype if len(dtypes) == 1 and v.dtype.is_floating_point else None


# Reductions

def _reduction(parts: Parts, b: Builder, v: Value) -> Value | None:
    """Reductions and scans over nothing, over single elements, and reductions of much to little."""
    if v.op.kind in ("contract", "scan") and (0 in v.shape or 0 in v.inputs[0].shape):
        return _filled(b, v, 0)
    if v.op.kind not in ("reduce", "scan") or 0 in v.shape:
        return None
    x, dims = v.inputs[0], v.attrs["dim"]
    if 0 in x.shape:
        return _filled(b, v, EMPTY[v.op.combine])
    if all(x.shape[d] == 1 for d in dims):
        if v.op.combine.startswith("arg"):
            return _filled(b, v, 0)
        x = _cast(b, x, v.dtype)
        return b.reshape(b.add(x, 0) if v.op.combine == "sum" and dims else x, shape=v.shape)  # 0 + -0.0 is 0.0
    if v.op.kind == "scan" or v.op.combine not in ASSOCIATIVE:
        return None
    wanted = parts(typical(x.type.numel), typical(v.type.numel), max(d for d, n in enumerate(x.shape) if n != 1) in dims)
    if wanted == 1:
        return None
    run = _leading_dims(tuple(map(typical, x.shape)), dims, wanted)
    chunks = _chunks([x.shape[d] for d in run], wanted)
    return None if chunks == 1 else _in_two_steps(b, v, run, chunks)


def _leading_dims(shape: tuple[int, ...], dims: tuple[int, ...], wanted: int) -> range:
    """The dimensions to cut: of the longest run of neighbours that are reduced, the first ones, with `wanted` steps if it has
    as many. A part is then one piece of memory."""
    runs: list[range] = []
    for d in sorted(dims):
        runs = [*runs[:-1], range(runs[-1].start, d + 1)] if runs and runs[-1].stop == d else [*runs, range(d, d + 1)]
    run = max(runs, key=lambda r: product(shape[d] for d in r))
    while len(run) > 1 and product(shape[d] for d in run[:-1]) >= wanted:
        run = run[:-1]
    return run


def _chunks(sizes: list[Dim], wanted: int) -> Dim:
    """Into how many parts a run of dimensions is cut: the largest divisor that is at most `wanted` and CHUNKS. Where sizes
    are symbolic, that many are not known to come out even; there each step of the first dimension is a part."""
    n = product(sizes)
    if isinstance(n, int):
        return next(k for k in range(min(wanted, CHUNKS, n), 0, -1) if n % k == 0)
    return sizes[0] if len(sizes) > 1 else 1


def _in_two_steps(b: Builder, v: Value, run: range, chunks: Dim) -> Value:
    """Partial results over chunks of neighbouring dimensions, in the accumulator's dtype, then their combination."""
    x, dims = v.inputs[0], v.attrs["dim"]
    if v.op.combine in ("sum", "prod"):
        x = _cast(b, x, v.dtype)
    between = x.dtype if v.op.combine in ("max", "min") else arithmetic_dtype(v.dtype)
    steps = product(x.shape[d] for d in run)
    x = b.reshape(x, shape=(*x.shape[:run.start], chunks, steps // chunks, *x.shape[run.stop:]))
    moved = [d if d < run.start else d - len(run) + 2 for d in dims if d not in run]
    within = tuple(sorted([*moved, run.start + 1]))
    shape = tuple(1 if d in within else n for d, n in enumerate(x.shape))
    partial = b.emit(v.op, x, type=x.type.like(shape, between), **{**v.attrs, "dim": within, "keepdim": True})
    whole = (chunks if d == run.start else 1 if d in dims else n for d, n in enumerate(v.inputs[0].shape))
    partial = b.reshape(partial, shape=tuple(whole))
    return b.emit(v.op, partial, type=v.type, **v.attrs)


def _filled(b: Builder, v: Value, value) -> Value:
    return b.full(shape=v.shape, value=value, dtype=v.dtype, device=v.type.device)


def _cast(b: Builder, x: Value, dtype: torch.dtype) -> Value:
    return x if x.dtype == dtype else b.cast(x, dtype=dtype)


# Memory

def _cat(b: Builder, v: Value) -> Value | None:
    """Each piece is written to its place in the result by whoever computes it."""
    if v.op.kind != "cat" or any(i.op is PART for i in v.operands):
        return None
    parts, offset, dim = [], 0, v.attrs["dim"]
    for piece in v.inputs:
        if 0 not in piece.shape:
            parts.append(b.emit(PART, piece, dim=dim, offset=offset))
        offset += piece.shape[dim] if piece.rank == v.rank else 0
    return b.emit(v.op, *parts, type=v.type, **v.attrs)


def _in_memory_rule():
    """Operands of opaque calls and matrix products become values that lie in memory, each copied once at most."""
    copies: dict[tuple[Value, Type], Value] = {}

    def copied(b: Builder, x: Value, type: Type) -> Value:
        if x.op.name == "permute" and x.inputs[0].op.kind == "view" and 0 not in x.shape and window(x.inputs[0]) is None:
            whole = b.permute(copied(b, x.inputs[0], x.inputs[0].type), **x.attrs)  # which other readers may share
            if whole.type == type:
                return whole
        return of_its_own(b, x, type)

    def of_its_own(b: Builder, x: Value, type: Type) -> Value:
        if (x, type) not in copies:
            copies[x, type] = b.emit("copy", x, type=type)
        return copies[x, type]

    def in_rows(b: Builder, x: Value) -> Value:
        return of_its_own(b, x, x.type.like(x.shape))

    def rule(b: Builder, v: Value) -> Value | None:
        if v.op.kind == "contract":
            whole = [_batched(b, i, v.shape[:-2]) for i in v.inputs]
            inputs = [i if matrix_strides(i) else copied(b, i, i.type.like(i.shape)) for i in whole]
        elif v.op.kind == "loop":
            inputs = [i if _is_contiguous(i) else in_rows(b, i) for i in in_panels(b, v)]
        elif v.op.kind == "opaque":
            inputs = [copied(b, i, i.type) if _needs_copy(i, v) else i for i in v.inputs]
        else:
            return None
        if all(a is i for a, i in zip(inputs, v.inputs)):
            return None
        return b.emit(v.op, *inputs, type=v.type, **v.attrs)
    return rule


def _is_contiguous(x: Value) -> bool:
    """Whether an operand lies in memory in row-major order."""
    if x.op.kind == "source" or 0 in x.shape:
        return False
    found = window(x) if x.op.kind == "view" else (layout(x), 0)
    same = found and all(a == e for a, e, n in zip(found[0], contiguous_strides(x.shape), x.shape) if n != 1)
    return bool(same) and found[1] == 0


def _batched(b: Builder, x: Value, batch) -> Value:
    """A matrix operand with the whole batch of the product."""
    return x if x.shape[:-2] == tuple(batch) else b.expand(x, shape=(*batch, *x.shape[-2:]))


def _needs_copy(x, reader: Value) -> bool:
    """Whether an operand of an opaque call is not there as a tensor, or as one in another layout than recorded.

    What a torch call gives, and whether it can, may depend on the layout; the meaning of an op record does not.
    """
    if not isinstance(x, Value) or x.op.kind not in ("view", "source"):
        return False
    found = window(x) if 0 not in x.shape else None
    if found is None:
        return True
    as_recorded = all(a == e for a, e, n in zip(found[0], x.type.strides, x.shape) if n != 1)
    return not as_recorded and reader.op.name.startswith("call") and dense(x.shape, x.type.strides)


def matrix_strides(x: Value) -> tuple[Dim, Dim, Dim] | None:
    """The steps of batch, row and column of a matrix operand in memory, None if it is no such window or starts inside."""
    found = window(x)
    if found is None or found[1] != 0:
        return None
    strides = found[0]
    *batch, row, column = strides
    steps = [(n, s) for n, s in zip(x.shape, batch) if n != 1]
    step = steps[-1][1] if steps else 0
    expected = step
    for n, s in reversed(steps):
        if s != expected:
            return None
        expected = n * s
    return step, row, column


def _outputs_in_memory(graph: Graph) -> Graph:
    """Outputs that are views, sources or kept tensors, as copies."""
    copies, device = dict[Value, Value](), graph.device
    for o in graph.outputs:
        if (o.op.kind in ("view", "source") or o.op is CONSTANT) and o not in copies:
            op = OPS["copy"] if o.type.device == device else _as_opaque(OPS["copy"])
            copies[o] = Value(f"{o.name}.copy", op, (o,), {}, o.type, o.origin)
    if not copies:
        return graph
    return Graph(graph.name, graph.inputs, (*graph.values, *copies.values()), tuple(copies.get(o, o) for o in graph.outputs),
                 graph.output_names)
