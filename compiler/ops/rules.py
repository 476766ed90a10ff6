"""What the pointwise families share: gradients operand by operand, meanings that take numbers, samples."""
from __future__ import annotations

from typing import Callable, Iterable

import torch

from ..ir import Value
from ..op import is_number
from ..scalar import rounded
from .views import sum_to, zeros

Rule = Callable  # (builder, value, gradient of the value) -> gradient of one operand, before it is summed to the operand's shape


def partials(*rules: Rule | None) -> Callable:
    """A gradient rule from one rule per operand. An operand with no rule, a number or an integer tensor gets None."""
    def gradient(b, v, g):
        return tuple(sum_to(b, rule(b, v, g), x) if rule and differentiable(x) else None for x, rule in zip(v.inputs, rules))
    return gradient


def differentiable(x) -> bool:
    return not is_number(x) and x.dtype.is_floating_point


def passed(b, v, g):
    """The rule of an operand whose gradient is the result's."""
    return g


def zero(b, v, g):
    """The rule of an operand that the result is flat in: a gradient of zeros, as torch gives."""
    return zeros(b, g.type)


def masked(b, keep: Value, g: Value) -> Value:
    """g where `keep`, else 0."""
    return b.where(keep, g, 0)


def attributes(name: str, *names: str, operands: int = 1, **defaults) -> Callable:
    """The import rule of an overload whose arguments after the operands are the op's attributes `names`, in this order."""
    def convert(b, *args, **kwargs):
        given = {**defaults, **dict(zip(names, args[operands:])), **kwargs}
        return b.emit(name, *args[:operands], **{n: given[n] for n in names})
    return convert


def is_cut(dtype: torch.dtype, *factors) -> bool:
    """Whether a factor is a float and the tensors are not: torch cuts it down to an integer for integers. That stays an opaque
    call, as with complex numbers."""
    return not dtype.is_floating_point and any(isinstance(f, float) for f in factors)


def on_tensors(function: Callable) -> Callable:
    """A meaning from a torch function that takes no numbers: they become 0-dim tensors of the dtype computed in. Numbers by
    themselves are computed with as Python does it."""
    def meaning(*inputs, **attrs):
        tensors = [i for i in inputs if isinstance(i, torch.Tensor)]
        if not tensors:
            return function(*(torch.tensor(i, dtype=torch.float64 if isinstance(i, float) else None) for i in inputs), **attrs)
        dtype = tensors[0].dtype
        for i in inputs:
            dtype = torch.promote_types(dtype, torch.result_type(tensors[0], i))
        made = {"dtype": dtype, "device": tensors[0].device}
        return function(*(i if isinstance(i, torch.Tensor) else torch.tensor(rounded(i, dtype), **made) for i in inputs),
                        **attrs)
    return meaning


def floats(count: int = 1, *, low: float = -3.0, high: float = 3.0, **attrs) -> Callable[[], Iterable]:
    """Samples of `count` float operands between the bounds: equal shapes, broadcast ones, and a 0-dim operand."""
    def tensor(*shape):
        return torch.rand(shape) * (high - low) + low

    def samples():
        yield tuple(tensor(3, 4) for _ in range(count)), attrs
        if count > 1:
            yield (tensor(3, 4), tensor(4), *(tensor(3, 1) for _ in range(count - 2))), attrs
            yield (tensor(1, 4), *(tensor(3, 1) for _ in range(count - 1))), attrs
            yield (tensor(3, 4), *(tensor() for _ in range(count - 1))), attrs
    return samples


def with_number(samples: Callable[[], Iterable], *numbers) -> Callable[[], Iterable]:
    """The samples, and the first one again with each number as its last operand."""
    def more():
        first = None
        for inputs, attrs in samples():
            first = first or (inputs, attrs)
            yield inputs, attrs
        for n in numbers:
            yield (*first[0][:-1], n), first[1]
    return more


def integers(count: int = 2, *, low: int = -5, high: int = 6, dtype=torch.int64) -> Callable[[], Iterable]:
    """Samples of `count` integer operands, and the same on bool."""
    def samples():
        yield tuple(torch.randint(low, high, (3, 4), dtype=dtype) for _ in range(count)), {}
        yield tuple(torch.rand(3, 4) > 0.5 for _ in range(count)), {}
    return samples
