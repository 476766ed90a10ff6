"""The functions of Python's `math`, of symbolic numbers: what they give is a line of the program, as what operators give is."""
from __future__ import annotations

import functools
import math
from typing import Any, Callable

from .scalars import number_of
from .symbols import Node, as_operand, is_symbolic

#: Those of one or two numbers that give a number; those that give a truth value.
_NUMBERS = frozenset(getattr(math, name) for name in (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh degrees erf erfc exp exp2 expm1 fabs floor fmod gamma "
    "hypot isqrt lgamma log log10 log1p log2 pow radians remainder sin sinh sqrt tan tanh trunc").split())
_TRUTHS = frozenset((math.isfinite, math.isinf, math.isnan))
FUNCTIONS = _NUMBERS | _TRUTHS
#: What is known of those that give a whole number near by.
_WHOLE = {math.floor: Node.floored, math.ceil: Node.raised, math.trunc: Node.truncated}


def of_symbols(function: Callable) -> Callable:
    """The stand-in for a function of `math` that takes symbolic numbers, too."""
    @functools.wraps(function)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(number_of, args))
        number = next(filter(is_symbolic, args), None)
        if number is None:
            return function(*args, **kwargs)
        numbers = number.node.numbers
        operands = [as_operand(numbers, a) for a in args]
        if kwargs or None in operands:
            return function(*args, **kwargs)
        text = f"math.{function.__name__}({', '.join(['{}'] * len(args))})"
        if function in _TRUTHS and len(args) == 1:
            return numbers.holds(text, function(operands[0].value), *operands)
        size = _WHOLE[function](*operands) if function in _WHOLE else None
        return numbers.compute(text, function, *operands, size=size, raises=size is None).wrapped()
    return stand_in
