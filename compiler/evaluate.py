"""The reference evaluator: runs a graph op by op with torch. It is the meaning of the IR."""
from __future__ import annotations

from typing import Any, Callable, Sequence

from .ir import Graph, Value


def evaluate(graph: Graph, inputs: Sequence[Any], watch: Callable[[Value, Any], None] | None = None) -> list[Any]:
    """The outputs for these inputs (tensors, in the order of graph.inputs). `watch(value, result)` sees every value.

    Runs under the caller's grad mode: on inputs that require grad, torch's autograd differentiates the evaluation.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs))
    last = {i: v for v in graph.values for i in v.operands}
    kept = set(graph.outputs)
    for v in graph.values:
        env[v] = run(v, [env[i] if isinstance(i, Value) else i for i in v.inputs])
        if watch:
            watch(v, env[v])
        for i in v.operands:
            if last[i] is v and i not in kept:
                env.pop(i, None)
    return [env[o] for o in graph.outputs]


def run(v: Value, inputs: Sequence[Any]) -> Any:
    """One value's result by its op's meaning. Raises the error of the torch call with the value named."""
    try:
        return v.op.meaning(*inputs, **v.attrs)
    except Exception as e:
        e.add_note(f"while evaluating %{v.name} = {v.op.name} ({v.origin})")
        raise
