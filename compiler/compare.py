"""Whether two evaluations of one graph agree: the judge of the check that each new program gets.

Integers and booleans must be equal and floats close in proportion to their tensor's size. Where that fails, both sides
are held against an evaluation in float64: a result is accepted if it is about as near to it as the reference is, or as the
reference with its roundings disturbed. So honest rounding differences (sums in another order, a tie that falls to the other
side, differences of nearly equal numbers) are told from wrong results.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch

from .evaluate import evaluate, widen
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


def compare(ours: Sequence[Any], reference: Sequence[Any], precise: Callable[[], Sequence[Any]] | None = None,
            noisy: Callable[[int], Sequence[Any]] | None = None) -> Mismatch | None:
    """The first disagreement, or None. `precise()` gives the float64 results, and `noisy(seed)` those of the reference with
    disturbed roundings; they are computed only if they are needed."""
    exact, disturbed = None, []
    for k, (a, b) in enumerate(zip(ours, reference, strict=True)):
        if not isinstance(b, torch.Tensor):
            continue
        for what, x, y in (("shape", tuple(a.shape), tuple(b.shape)), ("dtype", a.dtype, b.dtype)):
            if x != y:
                return Mismatch(k, 0, x, y, 1, 1, what)
        a, b = a.detach().flatten(), b.detach().flatten()  # torch reduces no tensor of more than 64 dims
        if _close(a, b):
            continue
        wrong = _differs(a, b)
        if not wrong.any():
            continue
        if precise is not None:
            exact = precise() if exact is None else exact
            wrong &= _worse(a, [b], exact[k].flatten())
        for seed in range(DISTURBANCES if precise is not None and noisy is not None else 0):
            if not wrong.any():
                break
            if seed == len(disturbed):
                disturbed.append(noisy(seed))
            wrong &= _worse(a, [b, *(d[k].detach().flatten() for d in disturbed[:seed + 1])], exact[k].flatten())
        if wrong.any():
            at = int(wrong.nonzero()[0])
            return Mismatch(k, at, a[at].item(), b[at].item(), int(wrong.sum()), b.numel())
    return None


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of finite floats differ nowhere by more than is taken for rounding of the largest: `_differs` without
    memory for every element, piece by piece."""
    if b.dtype not in CLOSE or b.is_complex() or not b.numel():
        return False
    bound = CLOSE[b.dtype] * max(abs(float(end)) for end in b.aminmax())
    return bound < math.inf and all(float((x - y).abs_().max()) <= bound for x, y in zip(a.split(_PIECE), b.split(_PIECE)))


def _differs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if not (b.is_floating_point() or b.is_complex()):
        return a != b
    if b.dtype not in CLOSE:  # float8, complex32: nothing but torch's own calls works with them
        a, b = (t.to(torch.complex64 if t.is_complex() else torch.float32) for t in (a, b))
        return (a != b) & ~(a.isnan() & b.isnan())
    finite = b[b.isfinite()]
    scale = finite.abs().max() if finite.numel() else torch.zeros((), dtype=b.dtype)
    return ~torch.isclose(a, b, rtol=CLOSE[b.dtype], atol=CLOSE[b.dtype] * float(scale), equal_nan=True)


def _worse(a: torch.Tensor, references: Sequence[torch.Tensor], exact: torch.Tensor) -> torch.Tensor:
    """Where `a` is wrong although the references' own rounding errors are taken into account."""
    b = references[0]
    if not (b.is_floating_point() or b.is_complex()):
        return (a != exact) & torch.stack([r == exact for r in references]).all(0)
    ours, theirs = (a.to(exact.dtype) - exact).abs(), (torch.stack(list(references)).to(exact.dtype) - exact).abs()
    allowed = theirs[theirs.isfinite()].max() * ERROR_FACTOR if theirs.isfinite().any() else torch.zeros(())
    # Infinities too: torch's vectors give NaN for some, where its scalars, and float64, do not (gelu of infinity).
    same = (a == b) | (a.isnan() & b.isnan()) | (a == exact.to(a.dtype))
    return ~(ours <= allowed) & ~same


def evaluate_precisely(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """The graph's outputs with every floating computation done in float64 (complex128)."""
    return evaluate(graph, [widen(i) for i in inputs], precise=True)


def evaluate_noisily(graph: Graph, inputs: Sequence[Any], seed: int = 0) -> list[Any]:
    """The graph's outputs with every rounding disturbed, the same way each time for one seed."""
    return evaluate(graph, inputs, noise=torch.Generator().manual_seed(seed))
