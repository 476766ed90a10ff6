"""Sizes and indices: integers, or canonical integer expressions over symbols.

One class serves symbolic sizes (`s0`) and loop indices (`i0*64 + i1`). An `Expr` is a sum of integer multiples of
products of atoms; an atom is a `Sym`, a floor division or a remainder. Equal expressions built in different ways
compare equal wherever the rules below find it, and every rule is exact for Python's `//` and `%`.

`==` asks whether two are the same expression; `<`, `<=`, `>` and `>=` hold for every value of the symbols, or for none:
what the symbols' bounds leave open raises Unsupported.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from operator import index
from typing import Iterable, Mapping, Union

from ..errors import Unsupported


@dataclass(frozen=True)
class Sym:
    """A named integer between `lo` and `hi` (both included; `hi=None`: no upper bound; an expression: one over sizes).

    `hint` is a typical value, by which costs are weighed. Two symbols are one only if all of this is equal.
    """
    name: str
    lo: int = 0
    hi: "Dim | None" = None
    hint: int | None = None

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Div:
    """`value // by` for a positive size `by`."""
    value: "Expr"
    by: "Dim"

    @lru_cache(maxsize=16384)
    def __str__(self):
        return f"(({self.value})//{_factor(self.by)})"


@dataclass(frozen=True)
class Mod:
    """`value % by` for a positive size `by`."""
    value: "Expr"
    by: "Dim"

    @lru_cache(maxsize=16384)
    def __str__(self):
        return f"(({self.value})%{_factor(self.by)})"


def _factor(size: "Dim") -> str:
    return str(size) if isinstance(size, int) or size.symbol else f"({size})"


Atom = Union[Sym, Div, Mod]
Monomial = tuple  # of atoms, sorted by text; () is the constant


def _order(term: tuple[Monomial, int]) -> tuple[int, list[str]]:
    """The place of a term in a sum."""
    return len(term[0]), [str(a) for a in term[0]]


class Expr:
    """A canonical sum; immutable. Build with `sym(...)` and arithmetic; read with `terms`, `bounds`, `coefficient`."""
    __slots__ = ("terms", "_hash")

    def __init__(self, terms: Mapping[Monomial, int]):
        kept = [t for t in terms.items() if t[1]]
        if len(kept) > 1:
            kept.sort(key=_order)
        self.terms = tuple(kept)
        self._hash = hash(self.terms)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        if isinstance(other, int):
            other = expr(other)
        return isinstance(other, Expr) and self.terms == other.terms

    def __add__(self, other):
        other = expr(other)
        if not other.terms or not self.terms:
            return self if self.terms else other
        total = dict(self.terms)
        for m, c in other.terms:
            total[m] = total.get(m, 0) + c
        return _join_remainders(total)

    __radd__ = __add__

    def __neg__(self):
        return Expr({m: -c for m, c in self.terms})

    def __sub__(self, other):
        return self + -expr(other)

    def __rsub__(self, other):
        return expr(other) - self

    def __mul__(self, other):
        return _times(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, by: "Dim"):
        by = simplest(by)
        return _floordiv(self, by) if isinstance(by, Expr) or by > 0 else _floordiv(-self, -by)

    def __rfloordiv__(self, other: int):
        return expr(other) // self

    def __mod__(self, by: "Dim"):
        by = simplest(by)
        return _mod(self, by) if isinstance(by, Expr) or by > 0 else self - self // by * by

    def __rmod__(self, other: int):
        return expr(other) % self

    def __ge__(self, other):
        return at_least(self, other)

    def __le__(self, other):
        return at_least(other, self)

    def __gt__(self, other):
        return not at_least(other, self)

    def __lt__(self, other):
        return not at_least(self, other)

    def __index__(self):
        """The value of a constant; Unsupported for what is not one, as where Python wants an int."""
        if self.constant is None:
            raise Unsupported(f"the size {self} is needed as a number")
        return self.constant

    @property
    def symbol(self) -> Sym | None:
        """The symbol that this is, if it is nothing more."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            atom = self.terms[0][0][0]
            return atom if isinstance(atom, Sym) else None
        return None

    @property
    def constant(self) -> int | None:
        """The value if this is a plain integer, else None."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    def symbols(self) -> frozenset[Sym]:
        found: set[Sym] = set()
        for m, _ in self.terms:
            for a in m:
                if isinstance(a, Sym):
                    found.add(a)
                else:
                    found |= a.value.symbols()
                    if isinstance(a.by, Expr):
                        found |= a.by.symbols()
        return frozenset(found)

    def coefficient(self, s: Sym) -> "Dim | None":
        """k where this is `k*s + (terms without s)`; None where `s` stands in a power, a division or a remainder."""
        k: Dim = 0
        for m, c in self.terms:
            if m == (s,):
                k += c
            elif any(s == a or (not isinstance(a, Sym) and s in a.value.symbols()) for a in m):
                rest = _without(m, (s,))
                if rest is None or s in Expr({rest: 1}).symbols():
                    return None
                k += Expr({rest: c})
        return k

    def bounds(self) -> tuple[int | None, int | None]:
        """Smallest and largest value possible; None for no bound known."""
        lo: int | None = 0
        hi: int | None = 0
        for m, c in self.terms:
            a, b = _monomial_bounds(m)
            if c < 0:
                a, b = b, a
            lo = None if lo is None or a is None else lo + c * a
            hi = None if hi is None or b is None else hi + c * b
        return lo, hi

    def substitute(self, values: Mapping[Sym, "Expr | int"]) -> "Expr":
        if not any(s in values for s in self.symbols()):
            return self
        total = expr(0)
        for m, c in self.terms:
            product = expr(c)
            for a in m:
                if isinstance(a, Sym):
                    product = product * values.get(a, expr_of(a))
                else:
                    value, by = a.value.substitute(values), a.by.substitute(values) if isinstance(a.by, Expr) else a.by
                    product = product * (value // by if isinstance(a, Div) else value % by)
            total = total + product
        return total

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer that this is when the symbol named k is values[k]."""
        total = 0
        for m, c in self.terms:
            for a in m:
                if isinstance(a, Sym):
                    c *= values[a.name]
                else:
                    value, by = a.value.evaluate(values), a.by.evaluate(values) if isinstance(a.by, Expr) else a.by
                    c *= value // by if isinstance(a, Div) else value % by
            total += c
        return total

    def __str__(self):
        """Text that is valid Python, and valid C and Triton once `//` is printed as `/` (all operands are >= 0)."""
        parts = []
        for m, c in reversed(self.terms):
            factors = [str(a) for a in m]
            if not m or abs(c) != 1:
                factors.append(str(abs(c)))
            parts += [" - " if c < 0 else " + ", "*".join(factors)]
        if not parts:
            return "0"
        parts[0] = "-" if parts[0] == " - " else ""
        return "".join(parts)

    __repr__ = __str__


Dim = Union[int, Expr]  # a size
#: A number that stands for a size is smaller.
LONGEST = 1 << 31


def expr(value: "Dim") -> Expr:
    return value if isinstance(value, Expr) else _integer(index(value))


@lru_cache(maxsize=4096)
def _integer(value: int) -> Expr:
    return Expr({(): value})


def expr_of(atom: Atom) -> Expr:
    return Expr({(atom,): 1})


def sym(name: str, lo: int = 0, hi: int | None = None, hint: int | None = None) -> Expr:
    """The symbol `name` as an expression. A symbol with lo == hi is that integer."""
    return expr(lo) if lo == hi else expr_of(Sym(name, lo, hi, hint))


def simplest(e: "Dim") -> Dim:
    """An int where the expression is one."""
    c = e if isinstance(e, int) else e.constant
    return e if c is None else c


def plain(part):
    """An attribute, with every constant expression in it as an int."""
    if isinstance(part, Expr):
        return simplest(part)
    return tuple(map(plain, part)) if type(part) is tuple and not _PLAIN.issuperset(map(type, part)) else part


_PLAIN = frozenset({int, bool, float, str, type(None)})


def product(sizes: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for s in sizes:
        total = total * s
    return simplest(total) if isinstance(total, Expr) else total


def smaller(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes; Unsupported where that depends on the symbols."""
    return a if larger(a, b) is b else b


#: Value taken for a symbol without a hint when costs are weighed.
TYPICAL_SIZE = 64


def typical(size: Dim) -> int:
    """About how large a size is: its value where every symbol has its hint."""
    if not isinstance(size, Expr):
        return size
    return size.evaluate({s.name: s.hint or min(max(TYPICAL_SIZE, s.lo), s.hi or TYPICAL_SIZE) for s in size.symbols()})


def known(a: Dim, b: Dim) -> bool | None:
    """Whether a >= b: True or False where it is so for all values of the symbols, else None."""
    return a >= b if isinstance(a, int) and isinstance(b, int) else _known(expr(a), expr(b))


@lru_cache(maxsize=65536)
def _known(a: Expr, b: Expr) -> bool | None:
    difference = a - b
    if _least(difference) >= 0:
        return True
    return False if _least(-difference) > 0 else None


def at_least(a: Dim, b: Dim) -> bool:
    """Whether a >= b; Unsupported where that depends on the symbols."""
    found = known(a, b)
    if found is None:
        raise Unsupported(f"whether {a} >= {b} depends on the sizes")
    return found


def equal(a: Dim, b: Dim) -> bool:
    """Whether a == b; Unsupported where that depends on the symbols."""
    if a == b:
        return True
    if known(a, b) is False or known(b, a) is False:
        return False
    raise Unsupported(f"whether {a} == {b} depends on the sizes")


def larger(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes; Unsupported where that depends on the symbols."""
    return b if known(b, a) else a if at_least(a, b) else b


def _least(e: Expr) -> float:
    """A number that `e` is never less than; -inf if none is found.

    Negative terms are taken at the upper bounds of their indices. With every symbol then written as its lower bound plus
    something >= 0, no term but the constant may be negative.
    """
    lo, hi = e.bounds()
    if lo is not None and (lo > 0 or lo == 0 and hi is not None):
        return lo
    best = float("-inf") if lo is None else lo
    for m, c in e.terms:
        if len(m) == 1 and isinstance(m[0], Div) and isinstance(m[0].by, int):  # v - by + 1 <= by * (v // by) <= v
            v, by = m[0].value, m[0].by
            scaled = _least((e - Expr({m: c})) * by + (v if c < 0 else v - (by - 1)) * c)
            return max(best, scaled if scaled == float("-inf") else -(-scaled // by))
    e = _lowered(e)
    above = e.substitute({s: expr_of(Sym(s.name, 0, s.hi - s.lo if isinstance(s.hi, int) else None)) + s.lo
                          for s in e.symbols()})
    lo, _ = above.bounds()
    return best if lo is None else max(best, lo)


def _lowered(e: Expr) -> Expr:
    """An expression that `e` is never less than: in its negative terms, what has an upper bound is replaced by that."""
    total, changed = expr(0), False
    for m, c in e.terms:
        term, bound = Expr({m: c}), None
        if c < 0 and all(_monomial_bounds((a,))[0] is not None and _monomial_bounds((a,))[0] >= 0 for a in m):
            k, bound = next(((k, h) for k, a in enumerate(m) if (h := _highest(a)) is not None), (0, None))
        if bound is not None:
            term, changed = Expr({m[:k] + m[k + 1:]: c}) * bound, True
        total = total + term
    return _lowered(total) if changed else e


def _highest(a: Atom) -> "Dim | None":
    """An upper bound of an atom that starts at 0, as an expression over other atoms; None where there is none."""
    if isinstance(a, Mod):
        return a.by - 1
    if isinstance(a, Div):
        raised = _raised(a.value)
        return raised // a.by if raised != a.value and _least(a.value) >= 0 else None
    return a.hi if a.lo == 0 else None


def _raised(e: Expr) -> Expr:
    """An expression that `e` is never more than."""
    return -_lowered(-e)


def exact_quotient(e: Expr, by: Expr) -> Expr:
    """e / by, where `by` is known to divide it. Unsupported where a remainder is left."""
    quotient, rest = _divided(e, by)
    if rest.terms:
        raise Unsupported(f"whether {by} divides {e} depends on the sizes")
    return quotient


def _divided(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """(q, r) with e == q*by + r: long division of polynomials."""
    left, quotient, rest = e, expr(0), expr(0)
    lead, factor = by.terms[-1]
    while left.terms:
        m, c = left.terms[-1]
        other = _without(m, lead)
        if other is None or c % factor:
            rest, left = rest + Expr({m: c}), Expr(dict(left.terms[:-1]))
        else:
            part = Expr({other: c // factor})
            quotient, left = quotient + part, left - part * by
    return quotient, rest


def _without(m: Monomial, factors: Monomial) -> Monomial | None:
    """The product that is left of `m` without these factors; None if it has not all of them."""
    left = list(m)
    for a in factors:
        if a not in left:
            return None
        left.remove(a)
    return tuple(left)


def dot(values: Iterable["Dim"], weights: Iterable["Dim"]) -> Expr:
    """The sum of value * weight: the place in memory of coordinates under strides."""
    total: dict[Monomial, int] = {}
    for value, weight in zip(values, weights):
        if isinstance(weight, Expr):
            for m, c in (expr(value) * weight).terms:
                total[m] = total.get(m, 0) + c
        elif weight:
            for m, c in expr(value).terms:
                total[m] = total.get(m, 0) + c * weight
    return _join_remainders(total)


def _monomial_bounds(m: Monomial):
    lo: int | None = 1
    hi: int | None = 1
    for a in m:
        if isinstance(a, Sym):
            x, y = a.lo, a.hi if isinstance(a.hi, int) else None
        elif isinstance(a.by, Expr):
            x, y = 0 if isinstance(a, Mod) or _least(a.value) >= 0 else None, None
        elif isinstance(a, Mod):
            x, y = 0, a.by - 1
            vlo, vhi = a.value.bounds()
            if vlo is not None and vlo >= 0 and vhi is not None:
                y = min(y, vhi)
        else:
            x, y = a.value.bounds()
            x, y = (None if x is None else x // a.by), (None if y is None else y // a.by)
        if x is None or x < 0 or (lo is not None and lo < 0):  # products of negative atoms: no bound claimed
            if len(m) > 1:
                return None, None
            return x, y
        lo = lo * x
        hi = None if hi is None or y is None else hi * y
    return lo, hi


def _split(e: Expr, by: Dim) -> tuple[Expr, Expr]:
    """(q, r) with e == by*q + r, where r holds what is not a multiple of `by` term by term."""
    if isinstance(by, Expr):
        return _divided(e, by)
    q, r = {}, {}
    for m, c in e.terms:
        if c // by:
            q[m] = c // by if c % by == 0 or m == () else 0
            if c % by == 0:
                continue
            if m == ():
                r[m] = c % by
                continue
        elif m == () and c < 0:
            q[m], r[m] = c // by, c % by
            continue
        r[m] = c
    return Expr(q), Expr(r)


def _quotient(e: Expr, by: Dim) -> int | None:
    """e // by where that is one number, else None."""
    if isinstance(by, Expr):
        return next((k for k in (0, -1) if _least(e - by * k) >= 0 and _least(by * (k + 1) - 1 - e) >= 0), None)
    lo, hi = e.bounds()
    return lo // by if lo is not None and hi is not None and lo // by == hi // by else None


def _cancelled(e: Expr, by: Dim) -> tuple[Expr, Dim, Dim, Expr] | None:
    """(a, b, k, t) with e == k*a + t, by == k*b and 0 <= t < k, so that e // by == a // b; None where there is no such k > 1."""
    if isinstance(by, int):
        k = gcd(by, *(c for m, c in e.terms if m != ()))
        return None if k == 1 else (e // k, by // k, k, e % k)
    content = gcd(*(c for _, c in by.terms))
    common = [a for a in by.terms[0][0] if all(a in m for m, _ in by.terms)]
    for m, c in reversed(e.terms):
        k = simplest(Expr({tuple(a for a in common if a in m): gcd(content, c)}))
        if k != 1 and (found := _split(e, k)) and _quotient(found[1], k) == 0:
            return found[0], simplest(exact_quotient(by, expr(k))), k, found[1]
    return None


def _upward(e: Expr, by: Dim) -> Expr | None:
    """x >= 0 with e // by == -(x // by), for an `e` that is below 0; None where it isn't known to be, or may not be."""
    if any(c > 0 for m, c in e.terms if m) or _least(e) >= 0:
        return None
    upward = by - 1 - e
    return upward if _least(upward) >= 0 else None


def _divides(by: Dim, size: Dim) -> bool:
    """Whether a size is known to be a multiple of `by`."""
    return not _split(expr(size), by)[1].terms


@lru_cache(maxsize=65536)
def _times(e: Expr, other: Dim) -> Expr:
    total: dict[Monomial, int] = {}
    for m, c in e.terms:
        for n, d in expr(other).terms:
            k = tuple(sorted(m + n, key=str))
            total[k] = total.get(k, 0) + c * d
    return Expr(total)


@lru_cache(maxsize=65536)
def _floordiv(e: Expr, by: Dim) -> Expr:
    if by == 1:
        return e
    q, r = _split(e, by)
    if (whole := _quotient(r, by)) is not None:
        return q + whole
    if cancelled := _cancelled(r, by):
        a, b, _, _ = cancelled
        return q + a // b
    if (upward := _upward(r, by)) is not None:
        return q - upward // by
    if len(r.terms) == 1 and r.terms[0][1] == 1 and len(r.terms[0][0]) == 1:
        a = r.terms[0][0][0]
        if isinstance(a, Div):
            return q + a.value // (a.by * by)
        if isinstance(a, Mod) and _divides(by, a.by):  # (x % (a*b)) // a == (x // a) % b
            return q + (a.value // by) % (a.by // by)
    return q + expr_of(Div(r, by)) if r.terms else q


@lru_cache(maxsize=65536)
def _mod(e: Expr, by: Dim) -> Expr:
    if by == 1:
        return expr(0)
    _, r = _split(e, by)
    if (whole := _quotient(r, by)) is not None:
        return r - by * whole
    if cancelled := _cancelled(r, by):
        a, b, k, rest = cancelled
        return (a % b) * k + rest
    if (upward := _upward(r, by)) is not None:
        return r + upward // by * by
    flat = expr(0)  # x % (by*n) reads as x here: (x % (a*by)) % by == x % by
    changed = False
    for m, c in r.terms:
        if len(m) == 1 and isinstance(m[0], Mod) and _divides(by, m[0].by):
            flat, changed = flat + m[0].value * c, True
        else:
            flat = flat + Expr({m: c})
    if changed:
        return flat % by
    return expr_of(Mod(r, by)) if r.terms else expr(0)


def _join_remainders(total: dict[Monomial, int]) -> Expr:
    """k*d*(x//d) + k*(x%d) becomes k*x."""
    for m, c in list(total.items()):
        if c and len(m) == 1 and isinstance(m[0], Mod) and isinstance(m[0].by, int):
            x, d = m[0].value, m[0].by
            quotient = _floordiv(x, d)
            if len(quotient.terms) == 1 and quotient.terms[0][1] == 1 and total.get(quotient.terms[0][0]) == c * d:
                rest = {k: v for k, v in total.items() if k not in (m, quotient.terms[0][0])}
                return Expr(rest) + x * c
        for a in m if c else ():
            if isinstance(a, Mod) and (len(m) > 1 or isinstance(a.by, Expr)):
                k = Expr({_without(m, (a,)): c})
                whole = k * (a.value // a.by) * a.by
                if whole.terms and all(total.get(n) == v for n, v in whole.terms):
                    rest = {n: v for n, v in total.items() if n != m and n not in dict(whole.terms)}
                    return Expr(rest) + a.value * k
    return Expr(total)
