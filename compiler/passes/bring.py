"""Graphs with tensors on a GPU and on the CPU: numbers of the CPU's that are computed with on the GPU are brought there."""
from __future__ import annotations

import torch

from ..builder import Builder, rewrite
from ..ir import Graph, Value


def bring(graph: Graph) -> Graph:
    """Let every op but torch's own calls read tensors of its result's device alone. Each tensor is brought once; a constant
    is made there."""
    brought: dict[tuple[Value, torch.device], Value] = {}

    def there(b: Builder, x: Value, device: torch.device) -> Value:
        if (x, device) not in brought:
            brought[x, device] = b.full(**x.attrs | {"device": device}) if x.op.name == "full" else b.to_device(
                x, device=device, dtype=x.dtype, non_blocking=False)
        return brought[x, device]

    def rule(b: Builder, v: Value) -> Value | None:
        device = getattr(v.type, "device", None)
        if v.op.name == "to_device" and v.inputs[0].op.name == "full" and v.inputs[0].dtype == v.dtype:
            return there(b, v.inputs[0], device)
        if v.op.kind == "opaque" or device is None or all(i.type.device == device for i in v.operands):
            return None
        inputs = [there(b, i, device) if isinstance(i, Value) and i.type.device != device else i for i in v.inputs]
        return b.emit(v.op, *inputs, type=v.type, **v.attrs)
    return rewrite(graph, rule) if len({t.device for t in graph.types()}) > 1 else graph
