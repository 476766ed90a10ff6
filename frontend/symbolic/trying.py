"""The sizes of what a call of torch gives, found by trying it on others: there is a rule for no such call."""
from __future__ import annotations

import functools
import operator
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch

from ...compiler.dims import Dim, Sym, expr_of, simplest, typical
from ...compiler.instantiate import with_sizes
from ...compiler.ir import NumberType, ObjectType, TensorType, TupleType, Type, Value, expressions
from ...errors import Unsupported
from ..generators import drawing_from, random_state
from .sizes import in_strides, laid_out
from .symbols import plain

#: What torch raises for sizes that do not fit.
_FAILURES = (RuntimeError, NotImplementedError, IndexError, ValueError, TypeError)
#: A size is tried up to so many bits larger.
_LONGEST_STEP = 14
#: A call that gets more elements than this is not made for its sizes alone.
_LARGEST = 1 << 20


def inferred(function: Callable, args: Any, kwargs: Any, real: Type, view: bool) -> Type:
    """The type of what a call gives, in terms of the symbols that its operands' sizes are made of. `view`: it gives views, whose
    strides follow from those of the operands, too.

    torch tells the sizes for operands of other sizes: the least formula that fits those is taken for the rule, and a program
    looks at what its calls give. Of several results, one whose sizes follow no such formula is an object.
    Raises Unsupported where a single one's don't."""
    given = list(expressions([v.type if isinstance(v, Value) else v for v in _leaves((args, kwargs))]))
    symbols = sorted({s for e in given for s in e.symbols()}, key=lambda s: s.name)
    if not symbols:
        return real
    failed = None
    for device in ("meta", "cpu") if _cheap(function, args, kwargs) else ("meta",):
        try:
            tried = _Tried(function, args, kwargs, symbols, given, device)
        except _FAILURES as error:
            failed = failed or error
        else:
            return tried.type(real, view)
    if isinstance(real, TensorType) and not real.rank:
        return real
    raise Unsupported(f"{function} of tensors of symbolic sizes") from failed


def _cheap(function: Callable, args: Any, kwargs: Any) -> bool:
    """Whether a call can as well be made: its op is torch's own, and gets little. Some take fewer dtypes on the meta device."""
    values = [v for v in _leaves((args, kwargs)) if isinstance(v, Value) and isinstance(v.type, TensorType)]
    return function.name().startswith("aten::") and sum(typical(v.type.numel) for v in values) < _LARGEST


class _Tried:
    """A call, and what it gives for other sizes: in all symbols, then in each of them once and twice more, then in all again."""

    def __init__(self, function: Callable, args: Any, kwargs: Any, symbols: Sequence[Sym], given: Sequence[Dim], device: str):
        self.function, self.args, self.kwargs, self.symbols, self.given = function, args, kwargs, symbols, given
        self.device = device
        self.call = functools.cache(self._call)
        self.first = {s: s.hint + 3 + 7 * k for k, s in enumerate(symbols)}
        steps = [{**self.first, s: self.first[s] + step} for s in symbols for step in (1, 2)]
        self.trials = [self.first, *steps, {s: n + 5 * (k + 1) for k, (s, n) in enumerate(self.first.items())}]
        self.found = [self.call(*t.values()) for t in self.trials]

    def _call(self, *sizes: int) -> Any:
        values = dict(zip(self.symbols, sizes))
        with drawing_from(None if self.device == "meta" else random_state()):
            return self.function(*_made(self.args, values, self.device), **_made(self.kwargs, values, self.device))

    def type(self, real: Type, view: bool) -> Type:
        if isinstance(real, TupleType):
            return TupleType(tuple(self._item(k, r, view) for k, r in enumerate(real.items)))
        return self._tensor(real, lambda result: result, view) if isinstance(real, TensorType) else real

    def _item(self, k: int, real: Type, view: bool) -> Type:
        try:
            return self._tensor(real, operator.itemgetter(k), view) if isinstance(real, TensorType) else real
        except Unsupported:
            return ObjectType("tensor of another size")

    def _tensor(self, real: TensorType, of: Callable[[Any], torch.Tensor], view: bool) -> TensorType:
        """The type of one of the tensors that the call gives, `of` its result."""
        if any(of(result).dim() != real.rank for result in self.found):
            raise Unsupported(f"the rank of what {self.function} gives depends on the sizes")
        shape = tuple(self._size(n, lambda result, d=d: of(result).shape[d]) for d, n in enumerate(real.shape))
        if not view:
            return laid_out(shape, real)
        strides = tuple(self._size(n, lambda result, d=d: of(result).stride(d)) for d, n in enumerate(real.strides))
        return in_strides(shape, strides, real)

    def _size(self, real: int, of: Callable[[Any], int]) -> Dim:
        found = list(map(of, self.found))
        for e in self._formulas(real, of, found):
            if typical(e) == real and all(with_sizes(e, sizes) == n for sizes, n in zip(self.trials, found)):
                return e
        raise Unsupported(f"a size of what {self.function} gives follows from no sizes of its operands")

    def _formulas(self, real: int, of: Callable[[Any], int], found: Sequence[int]) -> Iterator[Dim]:
        """What may be the rule of a size, the least first."""
        yield from (real, *self.given, self._polynomial(found))
        for k in range(len(self.symbols)):
            steps = self._steps(k, of)
            if steps is not None:
                yield steps

    def _polynomial(self, found: Sequence[int]) -> Dim:
        """The sum of polynomials of the symbols, of second degree at most, that gives what was found in all trials but the
        last."""
        total: Dim = found[0]
        for k, s in enumerate(self.symbols):
            once, twice = (found[1 + 2 * k + step] - found[0] for step in (0, 1))
            away = expr_of(s) - self.first[s]
            total = total + away * once + away * (away - 1) // 2 * (twice - 2 * once)
        return simplest(total)

    def _steps(self, k: int, of: Callable[[Any], int]) -> Dim | None:
        """m * ((s + q) // d) + c of the k-th symbol s, as the size is from the first trial up to the second larger one; None
        where there are no such two."""
        start, base = list(self.first.values()), self.first[self.symbols[k]]

        def at(more: int) -> int:
            return of(self.call(*start[:k], base + more, *start[k + 1:]))
        one = _next_step(at, 0)
        two = _next_step(at, one) if one else None
        if not one or not two:
            return None
        e = (expr_of(self.symbols[k]) + -(base + one) % (two - one)) // (two - one) * (at(one) - at(0))
        return simplest(e + (at(0) - with_sizes(e, self.first)))


def _next_step(at: Callable[[int], int], n: int) -> int | None:
    """The least number above n for which `at`, which falls nowhere, gives another one; None if none is near."""
    try:
        high = next((n + 2 ** e for e in range(_LONGEST_STEP) if at(n + 2 ** e) != at(n)), None)
    except _FAILURES:  # for so large a size
        return None
    low = n
    while high is not None and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) == at(n) else (low, middle)
    return high


def _leaves(part: Any) -> Iterator[Any]:
    if isinstance(part, (list, tuple, dict)):
        for p in part.values() if isinstance(part, dict) else part:
            yield from _leaves(p)
    else:
        yield part


def _made(part: Any, sizes: Mapping[Sym, int], device: str) -> Any:
    """An argument of a call, its tensors on this device, of these sizes, and of zeros."""
    if isinstance(part, (list, tuple)):
        return type(part)(_made(p, sizes, device) for p in part)
    if isinstance(part, dict):
        return {k: _made(p, sizes, device) for k, p in part.items()}
    if not isinstance(part, Value) or isinstance(part.type, NumberType):
        return plain(with_sizes(part, sizes))
    t = with_sizes(part.type, sizes)
    return torch.empty_strided(t.shape, t.strides, dtype=t.dtype, device=device).zero_()
