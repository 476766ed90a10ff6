"""The ops that the machinery itself stands on: inputs, constants, casts, tuple items and opaque torch calls."""
from __future__ import annotations

import torch

from ..ir import ObjectType, TensorType, TupleType, Value
from ..op import Op, register


def _no_type(inputs, attrs):
    raise ValueError("the type of this op is given where it is emitted")


register(Op("input", "input", "A graph input.", _no_type))

register(Op("full", "source", "A tensor filled with one number.",
            lambda inputs, a: TensorType(tuple(a["shape"]), a["dtype"], a["device"]),
            meaning=lambda *, shape, value, dtype, device: torch.full(shape, value, dtype=dtype, device=device),
            scalar=lambda s, coordinates, *, shape, value, dtype, device: s.const(value, dtype),
            gradient=lambda b, v, g: ()))

register(Op("iota", "source", "start + step * index: a 1-dimensional integer range of `size` elements.",
            lambda inputs, a: TensorType((a["size"],), a["dtype"], a["device"]),
            meaning=lambda *, size, start, step, dtype, device: torch.arange(size, device=device).mul_(step).add_(start).to(dtype),
            scalar=lambda s, coordinates, *, size, start, step, dtype, device: s.cast(s.index(coordinates[0] * step + start), dtype),
            gradient=lambda b, v, g: ()))

register(Op("cast", "pointwise", "Convert to another dtype, as torch's .to(dtype).",
            lambda inputs, a: inputs[0].type.like(dtype=a["dtype"]),
            meaning=lambda x, *, dtype: x.to(dtype), promotion="none",
            scalar=lambda s, x, *, dtype: s.cast(x, dtype),
            gradient=lambda b, v, g: (b.cast(g, dtype=v.inputs[0].dtype),)))

register(Op("copy", "pointwise", "The same elements in memory of their own (clone, contiguous).",
            lambda inputs, a: inputs[0].type.like(), promotion="none",
            meaning=lambda x: x.clone(), scalar=lambda s, x: x,
            gradient=lambda b, v, g: (g,)))

register(Op("detach", "pointwise", "The same elements, with no gradient through it.",
            lambda inputs, a: inputs[0].type.like(), promotion="none",
            meaning=lambda x: x.detach(), scalar=lambda s, x: x,
            gradient=lambda b, v, g: (None,)))

register(Op("item", "opaque", "One result of an op that has several.",
            lambda inputs, a: inputs[0].type.items[a["index"]],
            meaning=lambda x, *, index: x[index]))


# Opaque calls. `args` and `kwargs` are the call's arguments, in which Operand(k) stands for the k-th input.

class Operand(int):
    """Stands for the value's k-th input inside the arguments of an opaque call."""

    def __repr__(self):
        return f"${int(self)}"


def fill(template, inputs):
    """The arguments with every Operand replaced by the input it stands for."""
    if isinstance(template, Operand):
        return inputs[template]
    if isinstance(template, (list, tuple)):
        return type(template)(fill(t, inputs) for t in template)
    if isinstance(template, dict):
        return {k: fill(t, inputs) for k, t in template.items()}
    return template


def overload(target: str):
    """torch.ops.aten.<op>.<overload> from "aten.op.overload"."""
    found = torch.ops
    for part in target.split("."):
        found = getattr(found, part)
    return found


def call(*inputs, target, args, kwargs):
    """Run one torch op by name. Results that share memory with an argument are copied: values never alias."""
    result = overload(target)(*fill(args, inputs), **fill(kwargs, inputs))
    return _owned(result, inputs)


def _owned(result, inputs):
    memory = {i.untyped_storage().data_ptr() for i in inputs if isinstance(i, torch.Tensor) and i.layout == torch.strided}

    def own(t):
        shares = isinstance(t, torch.Tensor) and t.layout == torch.strided and t.untyped_storage().data_ptr() in memory
        return t.clone() if shares else t
    return tuple(own(t) for t in result) if isinstance(result, (list, tuple)) else own(result)


def call_taped(*inputs, target, args, kwargs, wanted):
    """The same under autograd: (results..., tape), for a later `call_backward`. `wanted`: inputs to differentiate."""
    with torch.enable_grad():
        leaves = [i.detach().requires_grad_() if k in wanted else i for k, i in enumerate(inputs)]
        results = call(*leaves, target=target, args=args, kwargs=kwargs)
    results = results if isinstance(results, tuple) else (results,)
    tape = ([leaves[k] for k in wanted], results)
    return (*(r.detach() if isinstance(r, torch.Tensor) else r for r in results), tape)


def call_backward(tape, *grads, which):
    """Gradients of a taped call's wanted inputs. `which`: results that `grads` belong to. None becomes zeros."""
    leaves, results = tape
    found = torch.autograd.grad([results[k] for k in which], leaves, grads, retain_graph=True, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found))


def _call_gradient(b, v, g):
    """torch's own gradient: the forward call is replaced by a taped one, whose tape the backward call reads.

    The gradient pass turns every differentiated `call` into `call_taped` before it asks for this rule.
    """
    wanted = v.attrs["wanted"]
    which = tuple(k for k, grad in enumerate(g[:-1]) if grad is not None)
    tape = b.item(v, index=len(v.type.items) - 1)
    types = TupleType(tuple(v.inputs[k].type.like(v.inputs[k].shape) for k in wanted))
    grads = b.emit("call_backward", tape, *(g[k] for k in which), which=which, type=types)
    out: list[Value | None] = [None] * len(v.inputs)
    for n, k in enumerate(wanted):
        out[k] = b.item(grads, index=n)
    return out


register(Op("call", "opaque", "One torch op that smelt has no record of, run by torch.", _no_type, meaning=call))
register(Op("call_taped", "opaque", "A torch op run under autograd, keeping its tape.", _no_type, meaning=call_taped,
            gradient=_call_gradient))
register(Op("call_backward", "opaque", "torch's gradient of a taped call.", _no_type, meaning=call_backward))
