"""The reference evaluator: runs a graph op by op with torch. It is the meaning of the IR."""
from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import torch

from .dims import Expr, Sym
from .ir import Graph, TensorType, Value


def evaluate(graph: Graph, inputs: Sequence[Any], watch: Callable[[Value, Any], None] | None = None,
             precise: bool = False) -> list[Any]:
    """The outputs for these inputs (tensors, in the order of graph.inputs). `watch(value, result)` sees every value.

    Runs under the caller's grad mode: on inputs that require grad, torch's autograd differentiates the evaluation.
    `precise`: dtypes among the attributes are widened too, so that widened inputs are computed with in float64 all through.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs))
    sizes = symbol_values(graph, inputs)
    last = {i: v for v in graph.values for i in v.operands}
    kept = set(graph.outputs)
    for v in graph.values:
        env[v] = run(v, [env[i] if isinstance(i, Value) else i for i in v.inputs], sizes, precise)
        if watch:
            watch(v, env[v])
        for i in v.operands:
            if last[i] is v and i not in kept:
                env.pop(i, None)
    return [env[o] for o in graph.outputs]


def run(v: Value, inputs: Sequence[Any], sizes: Mapping[str, int] | None = None, precise: bool = False) -> Any:
    """One value's result by its op's meaning. Raises the error of the torch call with the value named."""
    attrs = with_sizes(v.attrs, sizes) if sizes else v.attrs
    try:
        return v.op.meaning(*inputs, **(widen(attrs) if precise else attrs))
    except Exception as e:
        e.add_note(f"while evaluating %{v.name} = {v.op.name} ({v.origin})")
        raise


def symbol_values(graph: Graph, inputs: Sequence[Any]) -> dict[str, int]:
    """The size symbols by name, read off the inputs' sizes."""
    found: dict[str, int] = {}
    for i, x in zip(graph.inputs, inputs):
        for d, size in zip(i.shape, x.shape) if isinstance(i.type, TensorType) else ():
            if isinstance(d, Expr) and isinstance(atom := d.terms[0][0][0], Sym) and d == Expr({(atom,): 1}):
                found[atom.name] = size
    return found


def with_sizes(part: Any, sizes: Mapping[str, int]) -> Any:
    """Attributes with every symbolic size as a number."""
    if isinstance(part, Expr):
        return part.evaluate(sizes)
    if isinstance(part, (tuple, list)):
        return type(part)(with_sizes(p, sizes) for p in part)
    if isinstance(part, dict):
        return {k: with_sizes(p, sizes) for k, p in part.items()}
    return part


def widen(part: Any) -> Any:
    """Tensors and dtypes with floats as float64 and complex numbers as complex128; everything else as it is."""
    if isinstance(part, torch.dtype):
        return torch.float64 if part.is_floating_point else torch.complex128 if part.is_complex else part
    if isinstance(part, torch.Tensor) and (part.is_floating_point() or part.is_complex()):
        return part.detach().to(widen(part.dtype))
    if isinstance(part, (tuple, list)):
        return type(part)(map(widen, part))
    if isinstance(part, dict):
        return {k: widen(p) for k, p in part.items()}
    return part
