"""Sizes and indices: arithmetic is Python's, and what is said to be known of them is true."""
from __future__ import annotations

import itertools
import random

import pytest

from smelt.compiler.dims import Expr, equal, expr, known, larger, simplest, smaller, sym, typical
from smelt.errors import Unsupported

N, M, K = sym("n", 2, hint=6), sym("m", 2, hint=5), sym("k", 2, 9)
#: sizes, and an index into a dimension of the size n
SYMBOLS = {"n": N, "m": M, "k": K, "i": sym("i", 0, N - 1)}
ROWS = [{"n": n, "m": m, "k": k, "i": i} for n, m, k in itertools.product((2, 3, 5, 8, 17), (2, 3, 7, 64), (2, 5, 9))
        for i in (0, n // 2, n - 1)]


def drawn(dice, depth):
    """An expression of sizes, and the function of the symbols' values that it should be."""
    if depth == 0:
        name = dice.choice([*SYMBOLS, None])
        number = dice.randint(0, 9)
        return (SYMBOLS[name], lambda v: v[name]) if name else (expr(number), lambda v: number)
    (a, f), (b, g) = drawn(dice, depth - 1), drawn(dice, dice.randrange(depth))
    by, h = dice.choice([(c, lambda v, c=c: c) for c in (2, 3, 4, 8)] + [(SYMBOLS[n], lambda v, n=n: v[n]) for n in "nmk"])
    return dice.choice([(a + b, lambda v: f(v) + g(v)), (a - b, lambda v: f(v) - g(v)), (a * b, lambda v: f(v) * g(v)),
                        (a // by, lambda v: f(v) // h(v)), (a % by, lambda v: f(v) % h(v)), (a * by // by, f),
                        (a // by * by + a % by, f)])


@pytest.mark.parametrize("seed", range(300))
def test_arithmetic_is_pythons(seed):
    dice = random.Random(seed)
    e, function = drawn(dice, dice.randint(1, 4))
    values = [function(row) for row in ROWS]
    assert [e.evaluate(row) for row in ROWS] == values, e
    assert [e.substitute({s.symbol: row[n] for n, s in SYMBOLS.items()}).constant for row in ROWS[::7]] == values[::7], e
    lo, hi = e.bounds()
    assert (lo is None or lo <= min(values)) and (hi is None or max(values) <= hi), f"{e} in {lo}..{hi}"
    for bound in (-1, 0, 1, 2, 7):
        found = known(e, bound)
        assert found is None or all((v >= bound) == found for v in values), f"{e} >= {bound} is said to be {found}"


@pytest.mark.parametrize("seed", range(100))
def test_text_is_pythons(seed):
    """`//` and `%` bind as printed."""
    e, function = drawn(random.Random(seed), 3)
    for row in ROWS[::29]:
        assert eval(str(e), dict(row)) == function(row), e


def test_products_divide_exactly():
    assert N * M * 64 // (M * 8) == N * 8 and (N * N - 1) // (N + 1) == N - 1 and N * 10 * 64 // 64 == N * 10
    assert (N * M + N) // (M + 1) == N and (N * 4) // N == 4 and (N * M) % M == 0
    assert -N // -2 == N // 2 and simplest(N - N + 3) == 3


def test_comparisons_follow_from_the_bounds():
    assert N * 4 > N and N + 1 > N and not N < 2 and K <= 9 and N * M >= N and N * M > 3 and N * 4 - M * 0 >= 8
    assert N - N // 2 >= 1 and (N + 1) // 2 * 2 >= N and N % 5 < 5 and not N // 3 * 3 > N
    assert equal(N, N) and not equal(N, 1) and not equal(N, 0)
    assert larger(N, 1) == N and smaller(N - 1, N) == N - 1 and larger(3, 2) == 3 and smaller(3, 2) == 2
    assert sorted([N * 4, 1, N * M * 4, 4]) == [1, 4, N * 4, N * M * 4]


OPEN = [lambda: N < M, lambda: N >= 3, lambda: equal(N, 3), lambda: equal(N, M), lambda: larger(N, M), lambda: smaller(N, 7),
        lambda: range(N)]


@pytest.mark.parametrize("question", OPEN)
def test_what_the_bounds_leave_open_is_unsupported(question):
    with pytest.raises(Unsupported, match="size.* n|n .* depends on the sizes"):
        question()


def test_a_symbol_is_one_with_its_bounds_and_hint():
    assert sym("n", 2, hint=6) == N != sym("n", 2) and sym("n", 3, 3) == 3 and isinstance(N, Expr)
    assert N.symbol.name == "n" and (N + 1).symbol is None and (N * 2).symbol is None and (N * M).symbol is None


def test_typical_values():
    assert typical(N * 2 + 1) == 13 and typical(sym("a", 2)) == 64 and typical(sym("a", 2, 20)) == 20 and typical(7) == 7


@pytest.mark.parametrize("function, text", [
    (lambda n: n + -n % 8, "((s + 7)//8)*8"), (lambda n: (n + -n % 8) // 8, "((s + 7)//8)"),
    (lambda n: -(-n // 8), "((s + 7)//8)"),
    (lambda n: (n + -n % 8) % 8, "0"), (lambda n: -n % 8, "-s + ((s + 7)//8)*8"), (lambda n: (3 - n) // 8, "-((s + 4)//8)"),
    (lambda n: (-2 * n) // 8, "-((s + 3)//4)")])
def test_below_zero_sizes_are_divided_upwards(function, text):
    """So that no operand of // or % is below 0, where C and Triton round another way."""
    found = function(sym("s", 2))
    assert str(found) == text
    for n in range(2, 40):
        assert expr(found).evaluate({"s": n}) == function(n)
    assert known(sym("s", 2) + -sym("s", 2) % 8, sym("s", 2)) and known(-sym("s", 2) % 8, 0)
