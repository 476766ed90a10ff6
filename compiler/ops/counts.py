"""What is computed from numbers of elements: by Python where the sizes are known, else in the graph."""
from __future__ import annotations

from ..dims import Dim, Expr
from ..ir import Value


def ratio(b, top: Dim | float, bottom: Dim | float) -> Value | float:
    """top / bottom as an operand. Without symbols, Python's division: the caller sees to zeros."""
    symbolic = isinstance(top, Expr) or isinstance(bottom, Expr)
    return b.div(top, bottom) if symbolic else top / bottom
