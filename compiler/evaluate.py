"""The reference evaluator: runs a graph op by op with torch. It is the meaning of the IR."""
from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import torch

from .dims import Sym
from .instantiate import with_sizes
from .ir import Graph, NumberType, Value
from .ops.core import takes_random_numbers


def evaluate(graph: Graph, inputs: Sequence[Any], watch: Callable[[Value, Any], None] | None = None,
             precise: bool = False, noise: torch.Generator | None = None) -> list[Any]:
    """The outputs for these inputs (tensors, in the order of graph.inputs). `watch(value, result)` sees every value.

    Runs under the caller's grad mode: on inputs that require grad, torch's autograd differentiates the evaluation.
    `precise`: dtypes among the attributes are widened too, so that widened inputs are computed with in float64 all through;
    random numbers are those that are drawn otherwise.
    `noise`: every float that is computed is made larger or smaller by its last bit or so, at random, as other roundings
    might have: the outputs then tell how far honest roundings carry (Monte Carlo arithmetic).
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    env: dict[Value, Any] = {i: x.item() if isinstance(i.type, NumberType) else x for i, x in zip(graph.inputs, inputs)}
    sizes = symbol_values(graph, inputs)
    last = {i: v for v in graph.values for i in v.operands}
    kept = set(graph.outputs)
    for v in graph.values:
        env[v] = run(v, [env[i] if isinstance(i, Value) else i for i in v.inputs], sizes, precise)
        if noise is not None:
            env[v] = disturbed(env[v], noise)
        if watch:
            watch(v, env[v])
        for i in v.operands:
            if last[i] is v and i not in kept:
                env.pop(i, None)
    return [env[o] for o in graph.outputs]


def disturbed(result: Any, noise: torch.Generator) -> Any:
    """A result, or several, with every float made larger or smaller by its last bit or so."""
    if isinstance(result, (tuple, list)):
        return type(result)(disturbed(r, noise) for r in result)
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return result
    signs = torch.randint(0, 2, result.shape, generator=noise, device=result.device) * 2 - 1
    return result * (1 + signs * torch.finfo(result.dtype).eps).to(result.dtype)


def run(v: Value, inputs: Sequence[Any], sizes: Mapping[Sym, int] | None = None, precise: bool = False) -> Any:
    """One value's result by its op's meaning. Raises the error of the torch call with the value named."""
    attrs = with_sizes(v.attrs, sizes) if sizes else v.attrs
    try:
        if precise and takes_random_numbers(v):  # the same numbers, whatever the precision
            given = [x.to(i.dtype) if isinstance(x, torch.Tensor) else x for i, x in zip(v.inputs, inputs)]
            return widen(v.op.meaning(*given, **attrs))
        result = v.op.meaning(*inputs, **(widen(attrs) if precise else attrs))
        return result.item() if isinstance(v.type, NumberType) and isinstance(result, torch.Tensor) else result
    except Exception as e:
        e.add_note(f"while evaluating %{v.name} = {v.op.name} ({v.origin})")
        raise


def symbol_values(graph: Graph, inputs: Sequence[Any]) -> dict[Sym, int]:
    """The symbols' values, read off the inputs."""
    return {s: int(inputs[k]) if d is None else inputs[k].shape[d] for s, (k, d) in graph.bindings().items()}


def widen(part: Any) -> Any:
    """Tensors and dtypes with floats as float64 and complex numbers as complex128; everything else as it is."""
    if isinstance(part, torch.dtype):
        return torch.float64 if part.is_floating_point else torch.complex128 if part.is_complex else part
    if isinstance(part, torch.Tensor) and (part.is_floating_point() or part.is_complex()):
        return part.to(widen(part.dtype))
    if isinstance(part, (tuple, list)):
        return type(part)(map(widen, part))
    if isinstance(part, dict):
        return {k: widen(p) for k, p in part.items()}
    return part
