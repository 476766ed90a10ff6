"""The text form of a graph. `parse(show(g))` gives `g` back."""
from __future__ import annotations

from typing import Any

import torch

from .ir import Graph, ObjectType, TensorType, TupleType, Type, Value

_SHORT = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
          torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
          torch.complex64: "c64", torch.complex128: "c128"}


def dtype_text(d: torch.dtype) -> str:
    return _SHORT.get(d, str(d).removeprefix("torch."))


def type_text(t: Type) -> str:
    if isinstance(t, TupleType):
        return "(" + ", ".join(map(type_text, t.items)) + ")"
    if isinstance(t, ObjectType):
        return t.what
    text = f"{dtype_text(t.dtype)}[{','.join(map(str, t.shape))}]"
    if not t.contiguous:
        text += "{" + ",".join(map(str, t.strides)) + "}"
    return text if t.device.type == "cpu" else f"{text}@{t.device}"


def _attr(value: Any) -> str:
    return dtype_text(value) if isinstance(value, torch.dtype) else str(value)


def show(graph: Graph) -> str:
    """One value a line: name, op, operands, type, and where it comes from."""
    rows = []
    for v in graph.values:
        args = [f"%{i.name}" if isinstance(i, Value) else repr(i) for i in v.inputs]
        args += [f"{k}={_attr(a)}" for k, a in v.attrs.items()]
        rows.append((f"  %{v.name} = {v.op.name}({', '.join(args)})", type_text(v.type), str(v.origin)))
    left = min(max((len(r[0]) for r in rows), default=0), 72)
    middle = min(max((len(r[1]) for r in rows), default=0), 24)
    lines = [f"graph {graph.name}({', '.join(f'%{i.name}: {type_text(i.type)}' for i in graph.inputs)}) {{"]
    for a, t, o in rows:
        lines.append((f"{a:<{left}} : {t:<{middle}}" + (f"  # {o}" if o else "")).rstrip())
    lines.append(f"  return {', '.join(f'%{o.name}' for o in graph.outputs)}")
    return "\n".join(lines) + "\n}"


def parse(text: str) -> Graph:
    raise NotImplementedError
