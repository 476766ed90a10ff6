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
    "combine_latest_max": "def combine_latest_max(a, b):\n    return tl.where((b >= a) | (b != b), b, a)",
    "combine_latest_min": "def combine_latest_min(a, b):\n    return tl.where((b <= a) | (b != b), b, a)",
    "combine_latest_argmax": """\
def combine_latest_argmax(a, i, b, j):
    later = tl.where((a == b) | ((a != a) & (b != b)), j > i, (b > a) | (b != b))
    return tl.where(later, b, a), tl.where(later, j, i)""",
    "combine_latest_argmin": """\
def combine_latest_argmin(a, i, b, j):
    later = tl.where((a == b) | ((a != a) & (b != b)), j > i, (b < a) | (b != b))
    return tl.where(later, b, a), tl.where(later, j, i)""",
    "shift_left": """\
def shift_left(a, count, bits: tl.constexpr):
    inside = (count >= 0) & (count < bits)
    return tl.where(inside, a << tl.where(inside, count, 0), 0)""",
    "shift_right": """\
def shift_right(a, count, bits: tl.constexpr):
    inside = (count >= 0) & (count < bits)
    return a >> tl.where(inside, count, bits - 1) >> tl.where(inside, 0, 1)""",
    "normal_cdf": """\
def normal_cdf(x):
    return 0.5 * (1 + libdevice.erf(x * 0.7071067811865476))""",
    "tanh_cdf": """\
def tanh_cdf(x):
    return 0.5 * (1 + libdevice.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))""",
    "philox": """\
def philox(key, counter):
    k0, k1 = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = c0 ^ c0, c0 ^ c0
    for _ in tl.static_range(10):
        a, b = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (b >> 32).to(tl.uint32) ^ c1 ^ k0, b.to(tl.uint32)
        c2, c3 = (a >> 32).to(tl.uint32) ^ c3 ^ k1, a.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0.to(tl.int64)""",
}


def helpers_of(text: str) -> str:
    """The definitions of the helpers that a text names."""
    used = [h for name, h in HELPERS.items() if re.search(rf"\b{name}\b", text)]
    return "".join(f"@triton.jit\n{h}\n\n\n" for h in used)
