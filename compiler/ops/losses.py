"""Losses. `reduction` is torch's number: 0 keeps the elements, 1 is their mean, 2 their sum."""
from __future__ import annotations

from functools import partial

import torch

from ..ir import TupleType, Value
from ..op import Op, broadcast, common_dtype, register, same_shape
from .counts import ratio
from .indexing import along, picked
from .normalization import items
from .rules import partials
from .views import as_dtype

_NONE, _MEAN = 0, 1


def _reduced(b, x: Value, reduction: int) -> Value:
    """The elements' mean or sum. They were rounded to their dtype before, as torch does it."""
    if reduction == _NONE:
        return x
    total = b.sum(x, dim=tuple(range(x.rank)), keepdim=False, dtype=None)
    return b.div(total, x.type.numel) if reduction == _MEAN else total


def _share(b, elements: Value, reduction: int, factor: float = 1.0) -> Value | float:
    """`factor` times what each of the elements counts for in the result; 0 elements have no share to ask for."""
    return ratio(b, factor, elements.type.numel) if reduction == _MEAN and elements.type.numel != 0 else factor


# Of pairs

def _pair(name: str, doc: str, turn: str | None, distance, slope, dtype):
    """Register a loss of pairs and its gradient.

    `distance(b, x - target, at)` is the loss of an element; `slope(b, x - target, at, share)` its derivative times its share,
    where `share(factor)` is a multiple of that.
    `turn` names the attribute `at`, where the loss turns from quadratic to linear. `dtype(inputs)` is the result's.
    """
    loss, back = f"{name}_loss", f"{name}_loss_backward"
    call, back_call = getattr(torch.ops.aten, loss), getattr(torch.ops.aten, back)

    def at(attrs):
        return (attrs[turn],) if turn else ()

    def run(function, *operands, reduction, **a):
        """torch divides integers by the turning point truncated to an integer, which may be 0 and end the process."""
        if not operands[-1].is_floating_point():
            raise TypeError(f"{loss} of {operands[-1].dtype}")
        return function(*operands, reduction, *at(a))

    def shape(x, target, a):
        elements = broadcast([x.shape, target.shape])
        return elements if a["reduction"] == _NONE else ()

    def decompose(b, v):
        elements = distance(b, b.sub(*v.inputs), *at(v.attrs))
        return as_dtype(b, _reduced(b, elements, v.attrs["reduction"]), v.dtype)

    def decompose_backward(b, v):
        g, x, target = v.inputs
        d = b.sub(x, target)
        share = partial(_share, b, d, v.attrs["reduction"])
        return as_dtype(b, b.mul(slope(b, d, *at(v.attrs), share), g), v.dtype)

    def gradient(b, v, g):
        dx = b.emit(back, g, *v.inputs, **v.attrs)
        return partials(lambda b, v, g: dx, lambda b, v, g: b.neg(dx))(b, v, g)

    def convert(b, x, target, reduction=_MEAN, *rest):
        if not target.dtype.is_floating_point:
            return NotImplemented
        return b.emit(loss, x, target, reduction=reduction, **({turn: rest[0] if rest else 1.0} if turn else {}))

    def convert_backward(b, g, x, target, reduction, *rest):
        return b.emit(back, g, x, target, reduction=reduction, **({turn: rest[0]} if turn else {}))

    def samples(*shapes):
        return [(tuple(map(torch.randn, shapes)), {"reduction": r, **({turn: 0.75} if turn else {})}) for r in (0, 1, 2)]

    register(Op(loss, "composite", doc, lambda inputs, a: inputs[0].type.like(shape(*inputs, a), dtype(inputs)),
                meaning=partial(run, call), decompose=decompose, gradient=gradient,
                aten={loss: convert}, samples=lambda: samples((3, 4), (3, 4))))
    register(Op(back, "composite", f"The gradient of {loss} for its first input.",
                lambda inputs, a: inputs[0].type.like(broadcast([i.shape for i in inputs]), dtype(inputs[1:])),
                meaning=partial(run, back_call), decompose=decompose_backward,
                aten={back: convert_backward}, samples=lambda: samples((), (3, 4), (3, 4))[1:]))


def _smooth_l1(b, d, beta):
    z = b.abs(d)
    return b.where(b.lt(z, beta), b.div(b.mul(b.mul(z, 0.5), z), beta), b.sub(z, 0.5 * beta))


def _smooth_l1_slope(b, d, beta, share):
    ones = b.full(shape=(), value=1, dtype=d.dtype, device=d.type.device)
    plus, minus = (as_dtype(b, b.mul(ones, share(sign)), d.dtype) for sign in (1.0, -1.0))
    side = b.where(b.gt(d, 0), plus, minus)
    return b.where(b.ge(b.abs(d), beta), side, b.div(b.mul(d, share(1.0)), beta))


def _huber(b, d, delta):
    z = b.abs(d)
    return b.where(b.ge(z, delta), b.mul(b.sub(z, 0.5 * delta), delta), b.mul(b.mul(z, 0.5), z))


_pair("mse", "The squared differences, reduced.", None,
      lambda b, d: b.mul(d, d), lambda b, d, share: b.mul(d, share(2.0)), common_dtype)
_pair("smooth_l1", "d*d / (2*beta) where d = |a - b| < beta, else d - beta/2; reduced.", "beta",
      _smooth_l1, _smooth_l1_slope, common_dtype)
_pair("huber", "d*d / 2 where d = |a - b| < delta, else delta * (d - delta/2); reduced.", "delta", _huber,
      lambda b, d, delta, share: b.mul(b.clamp(d, -delta, delta), share(1.0)), lambda inputs: inputs[0].dtype)


# Binary cross-entropy. The forward call stays torch's: it checks that the inputs are probabilities.

#: the least denominator of the gradient: 1e-12 in float32
_LEAST = torch.tensor(1e-12, dtype=torch.float32).item()


def _bce_target_gradient(b, v, g):
    x = v.inputs[0]
    return b.mul(g, b.sub(b.log(b.sub(1, x)), b.log(x)))


def _import_bce(b, x, target, weight=None, reduction=_MEAN):
    loss = b.binary_cross_entropy(x, target)
    return _reduced(b, loss if weight is None else b.mul(loss, weight), reduction)


def _import_bce_backward(b, g, x, target, weight=None, reduction=_MEAN):
    grad = b.binary_cross_entropy_backward(g, x, target)
    grad = grad if weight is None else b.mul(grad, weight)
    return b.div(grad, x.type.numel) if reduction == _MEAN else grad


def _import_bce_with_logits(b, x, target, weight=None, pos_weight=None, reduction=_MEAN):
    yes = b.log_sigmoid(x)
    if pos_weight is not None:
        yes = b.mul(yes, b.add(b.mul(b.sub(pos_weight, 1), target), 1))
    loss = b.sub(b.mul(b.sub(1, target), x), yes)
    return _reduced(b, loss if weight is None else b.mul(loss, weight), reduction)


def _bce_type(inputs, a):
    same_shape(*inputs)
    return inputs[0].type.like(inputs[0].shape)


register(Op("binary_cross_entropy", "opaque", "-(b*log(a) + (1-b)*log(1-a)), the logarithms at least -100.",
            _bce_type, meaning=lambda x, target: torch.nn.functional.binary_cross_entropy(x, target, reduction="none"),
            gradient=partials(lambda b, v, g: b.binary_cross_entropy_backward(g, *v.inputs), _bce_target_gradient),
            samples=lambda: [((torch.rand(3, 4), torch.rand(3, 4)), {})],
            aten={"binary_cross_entropy": _import_bce, "binary_cross_entropy_with_logits": _import_bce_with_logits}))

def _decompose_bce_backward(b, v):
    g, x, target = v.inputs
    return b.div(b.mul(g, b.sub(x, target)), b.clamp_min(b.mul(b.sub(1, x), x), _LEAST))


def _bce_backward_gradient(b, v, h):
    """As torch has it, which is not what the formula gives where a or 1-a are next to nothing."""
    g, x, target = v.inputs
    factors = b.mul(b.add(x, 1e-12), b.add(b.sub(1, x), 1e-12))
    bent = b.add(b.sub(b.mul(x, x), b.mul(b.mul(x, target), 2)), target)
    along = b.mul(h, g)
    return (b.mul(h, b.div(b.sub(x, target), factors)), b.mul(along, b.div(bent, b.mul(factors, factors))),
            b.neg(b.div(along, b.clamp_min(b.mul(b.sub(1, x), x), 1e-12))))


register(Op("binary_cross_entropy_backward", "composite", "g * (a - b) / max((1-a)*a, 1e-12)",
            lambda inputs, a: inputs[1].type.like(broadcast([i.shape for i in inputs])),
            meaning=lambda g, x, target: torch.ops.aten.binary_cross_entropy_backward(g, x, target, None, _NONE),
            decompose=_decompose_bce_backward, gradient=_bce_backward_gradient,
            aten={"binary_cross_entropy_backward": _import_bce_backward},
            samples=lambda: [((torch.randn(3, 4), torch.rand(3, 4), torch.rand(3, 4)), {})]))


# Negative log-likelihood: classes in dimension 1, or in the only one. Inputs: x, target and perhaps a weight per class.

def _class_dim(rank: int) -> int:
    return 0 if rank == 1 else 1


def _nll_type(inputs, a):
    x, target = inputs[0], inputs[1]
    dim = _class_dim(x.rank)
    if target.shape != (*x.shape[:dim], *x.shape[dim + 1:]) or any(w.shape != (x.shape[dim],) for w in inputs[2:]):
        raise ValueError(f"targets {tuple(target.shape)} for {tuple(x.shape)}")
    return TupleType((x.type.like(target.shape if a["reduction"] == _NONE else ()), x.type.like(())))


def _target_weights(b, target, weight, like: Value, ignore_index):
    """(target with ignored ones made 0, whether ignored, weight of each target)."""
    ignored = b.eq(target, ignore_index)
    safe = b.where(ignored, 0, target)
    each = b.index(weight[0], safe, dims=(0,)) if weight else b.full(
        shape=target.shape, value=1, dtype=like.dtype, device=like.type.device)
    return safe, ignored, b.where(ignored, 0, each)


def _decompose_nll(b, v):
    x, target, *weight = v.inputs
    safe, ignored, each = _target_weights(b, target, weight, x, v.attrs["ignore_index"])
    loss = b.where(ignored, 0, b.neg(b.mul(b.pick(x, safe, dim=_class_dim(x.rank)), each)))
    every = tuple(range(target.rank))
    if v.attrs["reduction"] == _NONE:
        return [loss, b.full(shape=(), value=0, dtype=x.dtype, device=x.type.device)]
    total = b.sum(each, dim=every, keepdim=False, dtype=None)
    loss = b.sum(loss, dim=every, keepdim=False, dtype=None)
    return [b.div(loss, total) if v.attrs["reduction"] == _MEAN else loss, total]


def _nll_gradient(b, v, g):
    x, target, *weight = v.inputs
    total = b.item(v, index=1)
    return b.nll_loss_backward(g[0], target, total, *weight, shape=x.shape, **v.attrs), None, *(None for _ in weight)


def _nll_meaning(x, target, weight=None, *, reduction, ignore_index):
    """torch does not differentiate the weight."""
    function = torch.ops.aten.nll_loss2d_forward if x.dim() == 4 else torch.ops.aten.nll_loss_forward
    return function(x, target, None if weight is None else weight.detach(), reduction, ignore_index)


def _import_nll(b, x, target, weight, reduction, ignore_index):
    if target.dtype != torch.int64:
        return NotImplemented
    weights = () if weight is None else (weight,)
    return items(b, b.nll_loss(x, target, *weights, reduction=reduction, ignore_index=ignore_index), 2)


def _decompose_nll_backward(b, v):
    g, target, total, *weight = v.inputs
    shape, dim = v.attrs["shape"], _class_dim(v.rank)
    safe, ignored, each = _target_weights(b, target, weight, g, v.attrs["ignore_index"])
    scaled = b.neg(b.mul(b.div(g, total) if v.attrs["reduction"] == _MEAN else g, each))
    kept = b.where(ignored, 0, scaled)
    return b.where(picked(b, safe, shape, dim), along(b, kept, shape, dim), 0)


def _import_nll_backward(b, g, x, target, weight, reduction, ignore_index, total_weight):
    if target.dtype != torch.int64:
        return NotImplemented
    weights = () if weight is None else (weight,)
    return b.nll_loss_backward(g, target, total_weight, *weights, shape=x.shape, reduction=reduction, ignore_index=ignore_index)


def _nll_backward_type(inputs, a):
    g, target, _, *weight = inputs
    shape, dim = tuple(a["shape"]), _class_dim(len(a["shape"]))
    kept, classes = (*shape[:dim], *shape[dim + 1:]), shape[dim:dim + 1]
    if target.shape != kept or g.shape != (kept if a["reduction"] == _NONE else ()) or any(w.shape != classes for w in weight):
        raise ValueError(f"targets {tuple(target.shape)} and a gradient {tuple(g.shape)} for {shape}")
    return g.type.like(shape)


def _nll_backward_meaning(g, target, total, weight=None, *, shape, reduction, ignore_index):
    function = torch.ops.aten.nll_loss2d_backward if len(shape) == 4 else torch.ops.aten.nll_loss_backward
    return function(g, g.new_empty(shape), target, weight, reduction, ignore_index, total)


def _nll_samples():
    rows, image = torch.tensor([2, 0, -100, 3]), torch.tensor([[[2, 0], [3, -100]]])
    for reduction in (0, 1, 2):
        a = {"reduction": reduction, "ignore_index": -100}
        yield (torch.randn(4, 5), rows), a
        yield (torch.randn(4, 5), rows, torch.rand(5) + 0.5), a
        yield (torch.randn(1, 5, 2, 2), image), a
    yield (torch.randn(5), torch.tensor(3)), {"reduction": 1, "ignore_index": 0}


def _nll_backward_samples():
    for inputs, a in _nll_samples():
        x, target, *weight = inputs
        loss, total = _nll_meaning(*inputs, **a)
        yield (torch.randn(loss.shape), target, total, *weight), {"shape": tuple(x.shape), **a}


register(Op("nll_loss", "composite", "(minus the targets' inputs, weighted and reduced; the sum of the weights)", _nll_type,
            meaning=_nll_meaning, decompose=_decompose_nll, gradient=_nll_gradient,
            aten={"nll_loss_forward": _import_nll, "nll_loss2d_forward": _import_nll}, samples=_nll_samples, raises=True))

register(Op("nll_loss_backward", "composite", "The gradient of nll_loss for its first input, whose shape is `shape`.",
            _nll_backward_type, meaning=_nll_backward_meaning, decompose=_decompose_nll_backward,
            aten={"nll_loss_backward": _import_nll_backward, "nll_loss2d_backward": _import_nll_backward},
            samples=_nll_backward_samples))
