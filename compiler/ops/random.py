"""Random numbers: torch's own, so that they equal eager's under the same seed; and those of a counter, for rng="fast".

Each record consumes torch's default generator exactly as the eager call that it stands for; but `philox`, which computes
numbers from a `seed` that is drawn once. A call with a generator of its own is not imported.
"""
from __future__ import annotations

import math

import torch

from ..ir import TensorType, TupleType, contiguous_strides, dense
from ..op import Op, broadcast, pointwise, register
from .core import overload
from .normalization import items


# Filled tensors: every distribution that torch draws in place into fresh memory

def random_fill(*, target, args, shape, strides, dtype, device):
    """A new tensor filled in place by one of torch's random ops: the layout decides which number goes where."""
    drawn = torch.empty_strided(shape, strides, dtype=dtype, device=device)
    overload(target)(drawn.data, *args)  # a write that autograd does not count
    return drawn


def _like_strides(x):
    """The strides that torch.empty_like gives."""
    if dense(x.shape, x.type.strides):
        return x.type.strides
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
    """Of an empty tensor, torch's mask is not a bool one."""
    return NotImplemented if train is False or 0 in x.shape else items(b, b.native_dropout(x, p=p), 2)


register(Op("native_dropout", "opaque", "(the input with elements dropped, the others scaled; a bool mask of those kept)",
            lambda inputs, a: TupleType((inputs[0].type.like(inputs[0].shape), inputs[0].type.like(inputs[0].shape, torch.bool))),
            meaning=lambda x, *, p: torch.native_dropout(x, p, True), random=True, gradient=_dropout_gradient,
            aten={"native_dropout": _import_dropout}, samples=lambda: [((torch.randn(3, 4),), {"p": 0.3})]))


# Numbers computed from a counter: they fuse with what reads them (passes/fast_random.py)

def seed(*, device):
    """A number that torch's default generator draws."""
    return torch.empty((), dtype=torch.int64).random_().to(device)


def philox(key, counter):
    """The first word of Philox-4x32 after ten rounds, as int64 (Salmon, Moraes, Dror and Shaw: "Parallel random numbers: as
    easy as 1, 2, 3", 2011). Both operands are int64; key and counter are their low and high words, and two words of 0."""
    low = 0xFFFFFFFF
    k0, k1, c0, c1 = key & low, key >> 32 & low, counter & low, counter >> 32 & low
    c2, c3 = torch.zeros_like(counter), torch.zeros_like(counter)
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32 & low) ^ c1 ^ k0, b & low, (a >> 32 & low) ^ c3 ^ k1, a & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return c0


register(Op("seed", "opaque", "A number from torch's generator, from which others are computed.",
            lambda inputs, a: TensorType((), torch.int64, a["device"]), meaning=seed, random=True, waits=True,
            gradient=lambda b, v, g: (), samples=lambda: [((), {"device": _CPU})]))


def digits(dtype: torch.dtype) -> int:
    """How many bits the dtype's numbers just below 1 have."""
    return round(1 - math.log2(torch.finfo(dtype).eps))


def uniform(key, counter, *, dtype):
    """Numbers in [0, 1) from the leading bits for (key, counter). TypeError where these are not int64."""
    if key.dtype != torch.int64 or counter.dtype != torch.int64:
        raise TypeError("key and counter are int64")
    bits, count = philox(key, counter), digits(dtype)
    if count > 32:
        bits = (bits << count - 32) + (philox(key, counter ^ _FURTHER) >> 64 - count)
    else:
        bits = bits >> 32 - count
    return bits.to(dtype) * 2.0 ** -count


_FURTHER = 1 << 62  # where a counter's further bits are


def _uniform_element(s, key, counter, *, dtype):
    bits, count = s.philox(key, counter), digits(dtype)
    if count > 32:
        bits = s.add(s.shl(bits, count - 32), s.shr(s.philox(key, s.xor(counter, _FURTHER)), 64 - count))
    else:
        bits = s.shr(bits, 32 - count)
    return s.mul(s.cast(bits, dtype), 2.0 ** -count)


def _uniform_type(inputs, a):
    if any(i.dtype != torch.int64 for i in inputs):
        raise ValueError("key and counter are int64")
    return TensorType(broadcast([i.shape for i in inputs]), a["dtype"], inputs[0].type.device)


pointwise("uniform", "a number in [0, 1) for (key, counter)", type=_uniform_type, meaning=uniform, scalar=_uniform_element,
          cost=45,
          gradient=lambda b, v, g: (None, None),
          samples=lambda: [((torch.tensor(7 << 40), torch.arange(12).reshape(3, 4) << 30), {"dtype": d})
                           for d in (torch.float32, torch.float64, torch.bfloat16)])
