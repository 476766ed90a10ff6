"""Random numbers: torch's own, so that they equal eager's under the same seed.

Each record consumes torch's default generator exactly as the eager call that it stands for. A call with a generator of
its own is not imported.
"""
from __future__ import annotations

import torch

from ..ir import TensorType, TupleType, contiguous_strides
from ..op import Op, register
from .core import overload
from .normalization import items


# Filled tensors: every distribution that torch draws in place into fresh memory

def random_fill(*, target, args, shape, strides, dtype, device):
    """A new tensor filled in place by one of torch's random ops: the layout decides which number goes where."""
    return overload(target)(torch.empty_strided(shape, strides, dtype=dtype, device=device), *args)


def _like_strides(x):
    """The strides that torch.empty_like gives."""
    return torch.empty_like(torch.empty_strided(x.shape, x.type.strides, device="meta")).stride()


def _like(target: str):
    """Import of an overload that draws a tensor like its first argument; the target's other arguments follow."""
    def rule(b, x, *args, dtype=None, memory_format=None, layout=None, device=None, pin_memory=None):
        if memory_format not in (None, torch.preserve_format) or (device or x.type.device) != x.type.device:
            return NotImplemented
        return b.random_fill(target=f"aten.{target}", args=args, shape=x.shape, strides=_like_strides(x), dtype=dtype or x.dtype,
                             device=x.type.device)
    return rule


def _import_bernoulli(b, x, p=0.5, generator=None):
    """Into contiguous memory, whatever the layout of `x`."""
    if generator is not None:
        return NotImplemented
    return b.random_fill(target="aten.bernoulli_.float", args=(p,), shape=x.shape, strides=contiguous_strides(x.shape),
                         dtype=x.dtype, device=x.type.device)


def _sized(target: str, dtype=None):
    """Import of an overload whose last positional argument is the size, after the target's own."""
    def rule(b, *arguments, dtype=dtype, layout=None, device=None, pin_memory=None):
        *args, size = arguments
        return b.random_fill(target=f"aten.{target}", args=tuple(args), shape=tuple(size), strides=contiguous_strides(size),
                             dtype=dtype or torch.get_default_dtype(), device=torch.device(device or "cpu"))
    return rule


_CPU = torch.device("cpu")
_DRAWS = (("uniform_.default", ()), ("normal_.default", (0.0, 2.0)), ("bernoulli_.float", (0.3,)), ("random_.from", (0, 9)))

register(Op("random_fill", "opaque", "A new tensor filled in place by one of torch's random ops.",
            lambda inputs, a: TensorType(tuple(a["shape"]), a["dtype"], a["device"], tuple(a["strides"])), meaning=random_fill,
            gradient=lambda b, v, g: (), random=True,
            aten={"bernoulli.p": _import_bernoulli, "normal.float_float": _sized("normal_.default"),
                  "rand": _sized("uniform_.default"), "rand_like": _like("uniform_.default"),
                  "randn": _sized("normal_.default"), "randn_like": _like("normal_.default"),
                  "randint": _sized("random_.to", torch.int64), "randint_like": _like("random_.to"),
                  "randint.low": _sized("random_.from", torch.int64), "randint_like.low_dtype": _like("random_.from")},
            samples=lambda: [((), {"target": f"aten.{target}", "args": args, "shape": (3, 4), "strides": (1, 3),
                                   "dtype": torch.float32, "device": _CPU}) for target, args in _DRAWS]))


# Draws that read a tensor

def _import_bernoulli_of(b, x, generator=None):
    return NotImplemented if generator is not None else b.bernoulli(x)


register(Op("bernoulli", "opaque", "1 with the probability that each element says, else 0.",
            lambda inputs, a: inputs[0].type.like(inputs[0].shape), meaning=torch.bernoulli, random=True,
            aten={"bernoulli": _import_bernoulli_of},
            gradient=lambda b, v, g: (b.full(shape=g.shape, value=0, dtype=g.dtype, device=g.type.device),),
            samples=lambda: [((torch.rand(3, 4),), {})]))


def _import_multinomial(b, x, num_samples, replacement=False, generator=None):
    return NotImplemented if generator is not None else b.multinomial(x, count=num_samples, replacement=replacement)


register(Op("multinomial", "opaque", "`count` places of each row, drawn with the row's elements as weights.",
            lambda inputs, a: inputs[0].type.like((*inputs[0].shape[:-1], a["count"]), torch.int64),
            meaning=lambda x, *, count, replacement: torch.multinomial(x, count, replacement), random=True,
            aten={"multinomial": _import_multinomial},
            samples=lambda: [((torch.rand(3, 4),), {"count": 2, "replacement": False})]))


def _import_permutation(b, n, dtype=None, layout=None, device=None, pin_memory=None):
    return b.randperm(size=n, dtype=dtype or torch.int64, device=torch.device(device or "cpu"))


register(Op("randperm", "opaque", "The integers below `size` in random order.",
            lambda inputs, a: TensorType((a["size"],), a["dtype"], a["device"]),
            meaning=lambda *, size, dtype, device: torch.randperm(size, dtype=dtype, device=device), random=True,
            gradient=lambda b, v, g: (), aten={"randperm": _import_permutation},
            samples=lambda: [((), {"size": 7, "dtype": torch.int64, "device": _CPU})]))


# Dropout as one call: (the input with elements dropped and the others scaled, the mask of those kept)

def _dropout_gradient(b, v, g):
    return (b.mul(b.mul(g[0], b.item(v, index=1)), _dropout_scale(v.attrs["p"])),)


def _dropout_scale(p: float) -> float:
    return 0.0 if p == 1 else 1.0 / (1.0 - p)


def _import_dropout(b, x, p, train=True):
    return NotImplemented if train is False else items(b, b.native_dropout(x, p=p), 2)


register(Op("native_dropout", "opaque", "(the input with elements dropped, the others scaled; a bool mask of those kept)",
            lambda inputs, a: TupleType((inputs[0].type.like(inputs[0].shape), inputs[0].type.like(inputs[0].shape, torch.bool))),
            meaning=lambda x, *, p: torch.native_dropout(x, p, True), random=True, gradient=_dropout_gradient,
            aten={"native_dropout": _import_dropout}, samples=lambda: [((torch.randn(3, 4),), {"p": 0.3})]))
