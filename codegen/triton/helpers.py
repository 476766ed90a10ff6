"""Small Triton functions that a source defines where it uses them."""
from __future__ import annotations

import re

#: Name -> its text. Combining functions are those of reductions; pairs are (value, place).
HELPERS: dict[str, str] = {
    "combine_sum": "def combine_sum(a, b):\n    return a + b",
    "combine_prod": "def combine_prod(a, b):\n    return a * b",
    "combine_max": "def combine_max(a, b):\n    return tl.maximum(a, b, tl.PropagateNan.ALL)",
    "combine_min": "def combine_min(a, b):\n    return tl.minimum(a, b, tl.PropagateNan.ALL)",
    "combine_argmax": """\
def combine_argmax(a, i, b, j):
    better = (a > b) | ((a != a) & (b == b))
    alike = (a == b) | ((a != a) & (b != b))
    first = better | (alike & (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)""",
    "combine_argmin": """\
def combine_argmin(a, i, b, j):
    better = (a < b) | ((a != a) & (b == b))
    alike = (a == b) | ((a != a) & (b != b))
    first = better | (alike & (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)""",
    "shift_left": """\
def shift_left(a, count, bits: tl.constexpr):
    inside = (count >= 0) & (count < bits)
    return tl.where(inside, a << tl.where(inside, count, 0), 0)""",
    "shift_right": """\
def shift_right(a, count, bits: tl.constexpr):
    inside = (count >= 0) & (count < bits)
    return a >> tl.where(inside, count, bits - 1) >> tl.where(inside, 0, 1)""",
}


def helpers_of(text: str) -> str:
    """The definitions of the helpers that a text names."""
    used = [h for name, h in HELPERS.items() if re.search(rf"\b{name}\b", text)]
    return "".join(f"@triton.jit\n{h}\n\n\n" for h in used)
