"""The reference evaluator: runs a graph op by op with torch. It is the meaning of the IR."""
from __future__ import annotations

import random
from typing import Any, Callable, Collection, Mapping, Sequence

import torch

from .dims import Sym
from .instantiate import with_sizes
from .ir import Graph, NumberType, Value, needed
from .ops.core import takes_random_numbers
from .ops.gradients import parts


def evaluate(graph: Graph, inputs: Sequence[Any], watch: Callable[[Value, Any], None] | None = None,
             precise: bool = False, noise: Noise | None = None, wanted: Collection[int] | None = None) -> list[Any]:
    """The outputs for these inputs (tensors, in the order of graph.inputs). `watch(value, result)` sees every value.

    Runs under the caller's grad mode: on inputs that require grad, torch's autograd differentiates the evaluation.
    `precise`: dtypes among the attributes are widened too, so that widened inputs are computed with in float64 all through;
    random numbers are those that are drawn otherwise.
    `noise`: every float that is computed, or is one of many that an op adds up, is made larger or smaller by its last bit or
    so, at random, as other roundings might have: the outputs then tell how far honest roundings carry (Monte Carlo arithmetic).
    `wanted`: the numbers of the outputs that are looked at; the others may be None.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    leaves = {i for v in graph.values if v.op.name == "gradients" for i in parts(v.inputs, v.attrs["roots"])[2]}
    if leaves:
        with torch.enable_grad():
            results = _run_all(graph, inputs, leaves, watch, precise, noise, wanted)
        return results if torch.is_grad_enabled() else [r.detach() if isinstance(r, torch.Tensor) else r for r in results]
    return _run_all(graph, inputs, leaves, watch, precise, noise, wanted)


def _run_all(graph: Graph, inputs: Sequence[Any], leaves: set[Value], watch, precise: bool, noise, wanted) -> list[Any]:
    """`evaluate`, with the leaves of gradients that the graph itself asks for on autograd's tape."""
    env: dict[Value, Any] = {i: x.item() if isinstance(i.type, NumberType) else _leaf(x) if i in leaves else x
                             for i, x in zip(graph.inputs, inputs)}
    sizes = symbol_values(graph, inputs)
    kept = set(graph.outputs if wanted is None else [graph.outputs[k] for k in wanted])
    draws = filter(takes_random_numbers, graph.values)  # which have an order
    values = graph.values if wanted is None else needed([*kept, *draws], graph.values)
    last = {i: v for v in values for i in v.operands}
    for v in values:
        operands = [env[i] if isinstance(i, Value) else i for i in v.inputs]
        if noise is not None and _adds_up(v):
            operands = [noise(x) for x in operands]
        env[v] = run(v, operands, sizes, precise)
        if noise is not None:
            env[v] = noise(env[v])
        if v in leaves:
            env[v] = _leaf(env[v])
        if watch:
            watch(v, env[v])
        for i in v.operands:
            if last[i] is v and i not in kept:
                env.pop(i, None)
    return [env[o] if o in kept else None for o in graph.outputs]


def _adds_up(v: Value) -> bool:
    """Whether an op rounds many times on the way to its result."""
    return v.op.kind in ("contract", "composite", "loop") or v.op.combine in ("sum", "prod")


def _leaf(x: torch.Tensor) -> torch.Tensor:
    """The tensor, if autograd follows it, else a leaf like it."""
    return x if x.requires_grad else x.detach().requires_grad_()


class Noise:
    """Makes floats larger or smaller by their last bit or so, at random, and the same way each time for one seed."""
    #: By how much more factors there are than the largest tensor has elements: each tensor gets its own run of them.
    SPARE = 65_537

    def __init__(self, seed: int = 0):
        self._generator, self._places = torch.Generator().manual_seed(seed), random.Random(seed)
        self._factors: dict[torch.dtype, torch.Tensor] = {}

    def __call__(self, result: Any) -> Any:
        """A result, or several, disturbed."""
        return _each(self._disturbed, result)

    def _disturbed(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        factors = self._factors.get(x.dtype)
        if factors is None or len(factors) < x.numel() + self.SPARE:
            factors = self._factors[x.dtype] = self._drawn(2 * x.numel() + self.SPARE, x.dtype)
        at = self._places.randrange(len(factors) - x.numel() + 1)
        return x * factors[at:at + x.numel()].view(x.shape).to(x.device)

    def _drawn(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        bits = torch.randint(0, 2, (count,), generator=self._generator, dtype=torch.int8, device="cpu")
        return bits.to(dtype).mul_(2 * torch.finfo(dtype).eps).add_(1 - torch.finfo(dtype).eps)


def _each(change: Callable[[torch.Tensor], torch.Tensor], result: Any) -> Any:
    """A result with its tensors changed; one of several results that is a tape stays."""
    if isinstance(result, (tuple, list)):
        return type(result)(change(r) if isinstance(r, torch.Tensor) else r for r in result)
    return change(result) if isinstance(result, torch.Tensor) else result


def run(v: Value, inputs: Sequence[Any], sizes: Mapping[Sym, int] | None = None, precise: bool = False) -> Any:
    """One value's result by its op's meaning. Raises the error of the torch call with the value named."""
    attrs = with_sizes(v.attrs, sizes) if sizes else v.attrs
    if isinstance(v.type, NumberType):
        inputs = [_as_in_python(x, v.dtype) for x in inputs]
    try:
        result = _precise(v, inputs, attrs) if precise else v.op.meaning(*inputs, **attrs)
        return result.item() if isinstance(v.type, NumberType) and isinstance(result, torch.Tensor) else result
    except Exception as e:
        e.add_note(f"while evaluating %{v.name} = {v.op.name} ({v.origin})")
        raise


def _as_in_python(x: Any, result: torch.dtype) -> Any:
    """A number that a number is computed of: torch would take floats, and quotients of integers, as of the default dtype."""
    if isinstance(x, float) or isinstance(x, int) and result.is_floating_point:
        return torch.tensor(x, dtype=torch.float64)
    return x


def _precise(v: Value, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """A result computed with widened inputs; where torch has the op in the dtypes of the graph alone, it is widened afterwards.
    Random numbers are the same, whatever the precision."""
    if not takes_random_numbers(v):
        try:
            return _each(widen, v.op.meaning(*inputs, **widen(attrs)))
        except RuntimeError:
            pass
    given = [x.to(i.dtype) if isinstance(x, torch.Tensor) else x for i, x in zip(v.inputs, inputs)]
    return _each(widen, v.op.meaning(*given, **attrs))


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
