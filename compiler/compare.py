"""Whether two evaluations of one graph agree: the judge of the check that each new program gets.

Integers and booleans must be equal and floats close in proportion to their tensor's size. Where that fails, both sides
are held against an evaluation in float64: a result is accepted if it is about as near to it as the reference is, or as the
reference with its roundings disturbed. So honest rounding differences (sums in another order, a tie that falls to the other
side, differences of nearly equal numbers) are told from wrong results.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Callable, Collection, Sequence

import torch

from .evaluate import Noise, evaluate, widen
from .ir import Graph

#: Largest difference, as a part of the value plus the tensor's largest value, that is taken for rounding at once.
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2,
         torch.complex128: 1e-10, torch.complex64: 1e-5}
#: How many times the reference's own error a result may be away from float64.
ERROR_FACTOR = 8.0
#: How many times roundings are disturbed at most: the few elements of a small tensor may all be near by chance.
DISTURBANCES = 16
#: Elements that are held against each other at a time, so that what is between them stays in the cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Mismatch:
    """Output `output` differs: at flat `index`, `ours` instead of `reference`; `count` of `numel` elements differ."""
    output: int
    index: int
    ours: Any
    reference: Any
    count: int
    numel: int
    what: str = "value"

    def __str__(self):
        if self.what != "value":
            return f"output {self.output}: {self.what} is {self.ours}, should be {self.reference}"
        return (f"output {self.output}, element {self.index}: {self.ours}, should be {self.reference} "
                f"({self.count} of {self.numel} elements differ)")


#: Computes outputs again: those of these numbers, None in place of the others.
Again = Callable[[Collection[int]], Sequence[Any]]


def compare(ours: Sequence[Any], reference: Sequence[Any], precise: Again | None = None,
            noisy: Callable[[int, Collection[int]], Sequence[Any]] | None = None) -> Mismatch | None:
    """The first disagreement, or None. `precise(wanted)` gives the float64 results, and `noisy(seed, wanted)` those of the
    reference with disturbed roundings, for the outputs `wanted`; they are computed only if they are needed."""
    open_ones: dict[int, _Doubt] = {}
    for k, (a, b) in enumerate(zip(ours, reference, strict=True)):
        if not isinstance(b, torch.Tensor):
            continue
        for what, x, y in (("shape", tuple(a.shape), tuple(b.shape)), ("dtype", a.dtype, b.dtype)):
            if x != y:
                return Mismatch(k, 0, x, y, 1, 1, what)
        a, b = a.detach().flatten(), b.detach().flatten()  # torch reduces no tensor of more than 64 dims
        if len(places := _apart(a, b)):
            open_ones[k] = _Doubt(k, a, b, places)
    if open_ones and precise is not None:
        exact = precise(open_ones)
        open_ones = {k: left for k, d in open_ones.items() if (left := d.after(reference[k], exact[k]))}
        for seed in range(DISTURBANCES if noisy is not None else 0):
            if not open_ones:
                break
            disturbed = noisy(seed, open_ones)
            open_ones = {k: left for k, d in open_ones.items() if (left := d.after(disturbed[k], exact[k]))}
    return next((d.mismatch() for d in open_ones.values()), None)


@dataclass(frozen=True)
class _Doubt:
    """An output whose elements at `places` differ by more than roundings of size `error` explain."""
    output: int
    ours: torch.Tensor
    reference: torch.Tensor
    places: torch.Tensor
    error: float = 0.0

    def after(self, again: torch.Tensor, exact: torch.Tensor) -> _Doubt | None:
        """What doubt remains once one more evaluation, with roundings of its own, has been held against the exact one."""
        again, exact = again.detach().flatten(), exact.detach().flatten()
        error = max(self.error, _error(again, exact))
        at = self.places
        left = at[_worse(self.ours[at], again[at], exact[at], ERROR_FACTOR * error)]
        return replace(self, places=left, error=error) if len(left) else None

    def mismatch(self) -> Mismatch:
        at = int(self.places[0])
        ours, reference = (t[at].item() for t in (self.ours, self.reference))
        return Mismatch(self.output, at, ours, reference, len(self.places), self.reference.numel())


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The places where two flat tensors differ by more than is taken for rounding."""
    if not (b.is_floating_point() or b.is_complex()):
        return (a != b).nonzero().flatten()
    if b.dtype not in CLOSE:  # float8, complex32: nothing but torch's own calls works with them
        a, b = (t.to(torch.complex64 if t.is_complex() else torch.float32) for t in (a, b))
        return ((a != b) & ~(a.isnan() & b.isnan())).nonzero().flatten()
    bound = CLOSE[b.dtype] * _largest(b)
    found = [at + start for start, x, y in zip(range(0, b.numel(), _PIECE), a.split(_PIECE), b.split(_PIECE))
             if not float((x - y).abs().max()) <= bound
             and len(at := (~torch.isclose(x, y, rtol=CLOSE[b.dtype], atol=bound, equal_nan=True)).nonzero().flatten())]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _largest(t: torch.Tensor) -> float:
    """The largest finite absolute value; 0 if there is none."""
    largest = 0.0
    for piece in t.split(_PIECE):
        absolute = piece.abs()
        most = float(absolute.max()) if len(piece) else 0.0
        largest = max(largest, most if math.isfinite(most) else float(absolute.where(absolute.isfinite(), 0).max()))
    return largest


def _error(reference: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest finite rounding error of a reference."""
    if not (reference.is_floating_point() or reference.is_complex()):
        return 0.0
    return max(_largest(r.to(e.dtype) - e) for r, e in zip(reference.split(_PIECE), exact.split(_PIECE)))


def _worse(a: torch.Tensor, reference: torch.Tensor, exact: torch.Tensor, allowed: float) -> torch.Tensor:
    """Where `a` is wrong although rounding errors may be `allowed` large; of integers, where it alone is not exact."""
    if not (reference.is_floating_point() or reference.is_complex()):
        return (a != exact) & (reference == exact)
    # Infinities too: torch's vectors give NaN for some, where its scalars, and float64, do not (gelu of infinity).
    return ~((a.to(exact.dtype) - exact).abs() <= allowed) & (a != exact.to(a.dtype))


def evaluate_precisely(graph: Graph, inputs: Sequence[Any], wanted: Collection[int] | None = None) -> list[Any]:
    """The graph's outputs, or those `wanted`, with every floating computation done in float64 (complex128)."""
    return evaluate(graph, [widen(i) for i in inputs], wanted=wanted, precise=True)


def evaluate_noisily(graph: Graph, inputs: Sequence[Any], seed: int = 0, wanted: Collection[int] | None = None) -> list[Any]:
    """The graph's outputs, or those `wanted`, with every rounding disturbed, the same way each time for one seed."""
    return evaluate(graph, inputs, wanted=wanted, noise=Noise(seed))
