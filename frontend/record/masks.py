"""Ops that find any number of rows, and indexing by masks as it is made of such: the places where a mask is true, and an index by
these. How many there are Python or torch looks at; where that changes from call to call, it can be a symbol (see trial.py)."""
from __future__ import annotations

from typing import Any, Callable, Hashable, Sequence

import torch

from ...compiler.equality import key_of, value_key
from ...compiler.ir import Value
from ...compiler.ops.core import takes_random_numbers
from .overloads import Overload

#: Ops without a gradient whose result has any number of rows, which is all that its sizes depend on.
ANY_ROWS = {"nonzero", "repeat_interleave.Tensor", "bincount"}
#: Values are known to be equal where that shows within so many steps.
_STEPS = 8

_INDEX, _NONZERO, _UNBIND = torch.ops.aten.index.Tensor, torch.ops.aten.nonzero.default, torch.ops.aten.unbind.int


def by_places(op: Overload, args: Sequence[Any]) -> Callable[..., torch.Tensor] | None:
    """What makes a call of this op by the places where masks are true; None where it has none, or does not fit and raises."""
    if op.key == "masked_select":
        x, mask = args
        return (lambda x, mask: _index(x, [mask])) if mask.dtype == torch.bool and mask.dim() and x.shape == mask.shape else None
    if op.key == "index.Tensor" and any(map(_is_mask, args[1])) and _fit(*args):
        return _index
    return None


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def _fit(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> bool:
    """Whether every mask has dimensions, of the sizes of those that it stands for."""
    d = 0
    for index in indices:
        rank = index.dim() if _is_mask(index) else 1
        if _is_mask(index) and (rank == 0 or tuple(x.shape[d:d + rank]) != tuple(index.shape)):
            return False
        d += rank
    return True


def _index(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    places: list[torch.Tensor | None] = []
    for index in indices:
        places += _UNBIND(_NONZERO(index), 1) if _is_mask(index) else [index]
    return _INDEX(x, places)


def alike(part: Any, steps: int = _STEPS) -> Hashable:
    """Equal for arguments of an op, values among them, that are the same: masks computed twice of the same tensor."""
    if isinstance(part, (list, tuple)):
        return tuple(alike(p, steps) for p in part)
    if isinstance(part, dict):
        return tuple((k, alike(p, steps)) for k, p in sorted(part.items()))
    if not isinstance(part, Value):
        return key_of(part)
    if not steps or part.op.kind in ("input", "opaque") or takes_random_numbers(part):
        return part
    return value_key(part, lambda operand: alike(operand, steps - 1))
