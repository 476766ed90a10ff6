"""The gradients that a program itself asks for (`.backward()`, torch.autograd.grad), as one op of its recording."""
from __future__ import annotations

from typing import Callable

import torch

from ..ir import TupleType
from ..op import OPS, Op, register
from .core import call_gradient, given_type, gradients_of


def parts(operands, roots: int) -> tuple:
    """The operands of `gradients`: the outputs differentiated, the gradients given for them, what to differentiate by."""
    return operands[:roots], operands[roots:2 * roots], operands[2 * roots:]


def gradients(*operands, roots, again):
    """torch's, of tensors that are on autograd's tape; zeros where nothing reaches."""
    outputs, grads, inputs = parts(operands, roots)
    found = gradients_of(outputs, inputs, grads, create_graph=again, retain_graph=True)
    return tuple(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found))


#: (*roots, *their gradients, *leaves) -> the gradient of each leaf. `again`: these are themselves differentiated later on.
register(Op("gradients", "opaque", "Gradients of values of this graph; a pass derives them before anything else is done.",
            given_type, meaning=gradients))


def once_differentiable(of: str, formula: Callable) -> Callable:
    """A gradient rule for the op `of` with one operand: the composite op `<of>_gradient` of (x, gradient), made of what
    formula(b, v, x, gradient) gives. That need not have the right derivatives: torch differentiates the op once more."""
    name = f"{of}_gradient"

    def typed(inputs, a):
        x, g = inputs
        if g.shape != OPS[of].type((x,), a).shape:
            raise ValueError(f"a gradient {tuple(g.shape)} for {of} of {tuple(x.shape)}")
        return x.type.like(x.shape)

    def meaning(x, g, **attrs):
        return call_gradient(x, g, of=of, attrs=attrs, wanted=(0,), which=(0,))[0]

    def second(b, v, g):
        types = TupleType(tuple(i.type.like(i.shape) for i in v.inputs))
        found = b.emit("call_gradient", *v.inputs, g, of=name, attrs=v.attrs, wanted=(0, 1), which=(0,), type=types)
        return b.item(found, index=0), b.item(found, index=1)

    def samples():
        for (x,), attrs in OPS[of].samples():
            yield (x, torch.randn(OPS[of].meaning(x, **attrs).shape)), attrs
    register(Op(name, "composite", f"The gradient of {of}.", typed, meaning=meaning,
                decompose=lambda b, v: formula(b, v, *v.inputs), gradient=second, samples=samples))

    def rule(b, v, g):
        x, = v.inputs
        return (b.emit(name, x, g, **v.attrs) if x.dtype.is_floating_point else None,)
    return rule
