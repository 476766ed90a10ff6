"""The gradients that a program itself asks for (`.backward()`, torch.autograd.grad), as one op of its recording."""
from __future__ import annotations

import torch

from ..op import Op, register
from .core import given_type


class _Seed(torch.autograd.Function):
    """A scalar whose gradient with respect to each output is the one given."""

    @staticmethod
    def forward(ctx, grads, *outputs):
        ctx.grads = grads
        return torch.zeros((), device="cpu")

    @staticmethod
    def backward(ctx, _):
        return None, *ctx.grads


def gradients_of(outputs, inputs, grads, create_graph=False, retain_graph=None):
    """torch.autograd.grad, None where an input is not reached. Given gradients, that would import sympy: half a second."""
    with torch.enable_grad():
        seed = _Seed.apply(grads, *outputs)
    return torch.autograd.grad(seed, inputs, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True)


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
