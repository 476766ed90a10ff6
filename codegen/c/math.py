"""Mathematical functions on vectors, as helpers.

float32 functions are written out: polynomials fitted at Chebyshev nodes, at most 4 units in the last place from the exact
value, with NaN, infinities, signed zeros and denormals as IEEE has them; so is float64's exp. What is not written out, and
the rest of float64, calls C's math library lane by lane.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .helpers import HELPERS, by_halves, helper
from .isa import Isa, Vector

ONE_OPERAND = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "tan", "asin", "acos", "atan", "sinh", "cosh",
               "asinh", "acosh", "atanh", "exp2", "log2", "log10", "erfc", "lgamma")
TWO_OPERANDS = ("pow", "atan2", "fmod")
#: C functions that generated code, or the compiler on its own, may call: no kernel can be called so
LIBRARY_NAMES = {n + suffix for suffix in ("", "f")
                 for n in (*ONE_OPERAND, *TWO_OPERANDS, "sqrt", "floor", "ceil", "trunc", "rint", "fma")
                 } | {"memcpy", "memset", "memmove", "memcmp"}


def _library(name: str, t: Vector, operands: str) -> str:
    """C's own function, lane by lane."""
    function = name + ("f" if t.bits == 32 else "")
    parameters, kinds = ", ".join(f"$T {o}" for o in operands), ", ".join("$S" for _ in operands)
    call = f"{function}({', '.join(f'{o}[k]' for o in operands)})"
    return f"""
extern $S {function}({kinds});
static inline $T {name}_$T({parameters}) {{ $T r; for (long k = 0; k < $W; k++) r[k] = {call}; return r; }}"""


def polynomial(x: str, *coefficients: str) -> str:
    """Horner's scheme by fused multiply-adds; coefficients of 1, x, x*x, ..."""
    text = f"splat_$T({coefficients[-1]})"
    for c in reversed(coefficients[:-1]):
        text = f"fma_$T({text}, {x}, splat_$T({c}))"
    return text


def written(name: str, operands: str = "x"):
    """Register a template of the float32 function `name`; float64 is C's own."""
    def register(template):
        HELPERS[name] = lambda t, isa: template(t, isa) if t.bits == 32 else _library(name, t, operands)
        return template
    return register


for _name in ONE_OPERAND + TWO_OPERANDS:
    _operands = "x" if _name in ONE_OPERAND else "ab"
    HELPERS[_name] = lambda t, isa, name=_name, operands=_operands: _library(name, t, operands)


# e**x = 2**t * e**r with t = round(x / ln 2), |r| <= ln 2 / 2. `turned` is t + 1.5 * 2**23, whose last bits are t: shifted to
# the left they are an exponent.

_REDUCE = """
    const $T turned = fma_$T(x, splat_$T(1.44269504f), splat_$T(0x1.8p23f)), t = turned - 0x1.8p23f;
    const $T r = fma_$T(t, splat_$T(1.9046542e-9f), fma_$T(t, splat_$T(-0.693147182f), x));"""
#: (e**r - 1 - r) / r**2
_EXP_TAIL = polynomial("r", "0.5f", "0.16666518f", "0.041666206f", "0.0083689177f", "0.0013950538f")


@helper("scale")
def _scale(t: Vector, isa: Isa) -> str:
    """x * 2**n, rounded once, for a whole number n from -2**8 (float64: -2**11) to the largest exponent; `turned` is n + 1.5 *
    2**23 (float64: 2**52)."""
    head = "static inline $T scale_$T($T x, $T turned)"
    digits, one = (23, "0x3f800000") if t.bits == 32 else (52, "0x3ff0000000000000")
    if isa.name == "avx512" and t.bytes == 64:
        suffix, whole = ("ps", "0x1.8p23f") if t.bits == 32 else ("pd", "0x1.8p52")
        return head + f" {{ return __builtin_ia32_scalef{suffix}512_mask(x, turned - {whole}, ($T){{}}, -1, 4); }}"
    return head + f"""
{{
    const $I n = ($I)turned, half = n >> 1; // in two steps: 2**n itself may be no number
    return x * ($T)(((n - half) << {digits}) + {one}) * ($T)((half << {digits}) + {one});
}}"""


#: (e**r - 1 - r) / r**2 in float64: 1/2!, 1/3!, ...
_LONG_EXP_TAIL = polynomial("r", *(repr(1 / math.factorial(n)) for n in range(2, 14)))


@helper("exp")
def _exp(t: Vector, isa: Isa) -> str:
    if t.bits == 64:
        lowest, highest = "-746.0", "710.0"
        parts = """
    const $T turned = fma_$T(x, splat_$T(1.4426950408889634), splat_$T(0x1.8p52)), t = turned - 0x1.8p52;
    const $T r = fma_$T(t, splat_$T(-2.3190468138462996e-17), fma_$T(t, splat_$T(-0.6931471805599453), x));"""
        tail, one = _LONG_EXP_TAIL, "1.0"
    else:
        lowest, highest = "-104.0f", "89.0f"
        parts, tail, one = _REDUCE, _EXP_TAIL, "1.0f"
    return f"""
static inline $T exp_$T($T x)
{{
    // Beyond these limits the result is infinite or 0; a NaN passes. Underflow takes processors a hundred times as long as
    // other results, so what will be 0 is not computed.
    const $M zero = lt_$T(x, splat_$T({lowest}));
    x = lower_$T(splat_$T({highest}), select_$T(zero, ($T){{}}, x));{parts}
    const $T tail = {tail};
    return select_$T(zero, ($T){{}}, scale_$T(fma_$T(fma_$T(tail, r, splat_$T({one})), r, splat_$T({one})), turned));
}}"""


@written("expm1")
def _expm1(t: Vector, isa: Isa) -> str:
    return f"""
static inline $T expm1_$T($T given)
{{
    const $T x = upper_$T(splat_$T(-40.0f), lower_$T(splat_$T(89.0f), given));{_REDUCE}
    const $T tail = {_EXP_TAIL};
    // 2**t itself may overflow where the result does not: half of everything.
    const $T p = fma_$T(tail, r * r, r), half = ($T)((($I)turned << 23) + 0x3f000000);
    return select_$T(lt_$T(abs_$T(given), splat_$T(0x1p-24f)), given, 2.0f * fma_$T(p, half, half - 0.5f));
}}"""


@written("tanh")
def _tanh(t: Vector, isa: Isa) -> str:
    return """
static inline $T tanh_$T($T x)
{
    const $T e = expm1_$T(2.0f * lower_$T(splat_$T(10.0f), abs_$T(x)));
    return ($T)(($I)(e / (e + 2.0f)) | (($I)x & (-2147483647 - 1)));
}"""


# log x = e ln 2 + log(1 + f) with x = 2**e (1 + f), 1 + f between sqrt(1/2) and sqrt(2).

@written("log")
def _log(t: Vector, isa: Isa) -> str:
    tail = polynomial("f", "0.33333316f", "-0.25000811f", "0.20002295f", "-0.16624497f", "0.14180961f", "-0.13129114f",
                      "0.12883471f", "-0.078608736f")
    return f"""
static inline $T log_$T($T x)
{{
    const $M tiny = lt_$T(x, splat_$T(0x1p-126f));
    const $I bits = ($I)select_$T(tiny, x * 0x1p23f, x);
    const $I exponent = (bits - 0x3f3504f3) >> 23;
    const $T e = $T_from_$I(exponent) - select_$T(tiny, splat_$T(23.0f), ($T){{}});
    const $T f = ($T)(bits - (exponent << 23)) - 1.0f, square = f * f;
    const $T tail = {tail};
    const $T low = fma_$T(e, splat_$T(-1.9046542e-9f), tail * f * square) - 0.5f * square;
    const $T r = fma_$T(e, splat_$T(0.693147182f), f + low);
    const $T outside = select_$T(eq_$T(x, ($T){{}}), splat_$T(-__builtin_inff()), splat_$T(__builtin_nanf("")));
    return select_$T(gt_$T(x, ($T){{}}), select_$T(lt_$T(x, splat_$T(__builtin_inff())), r, x), outside);
}}"""


@written("log1p")
def _log1p(t: Vector, isa: Isa) -> str:
    return """
static inline $T log1p_$T($T x)
{
    const $T u = x + 1.0f;
    const $T lost = (x - (u - 1.0f)) / u; // what rounding took from 1 + x
    const $M near = gt_$T(u, ($T){}) & lt_$T(x, splat_$T(0x1p25f));
    return select_$T(eq_$T(x, ($T){}), x, log_$T(u) + select_$T(near, lost, ($T){}));
}"""


# sin and cos of x = r + n pi/2, |r| <= pi/4, reduced in float64; arguments beyond 2**28 are left to the library.

@helper("quarter")
def _quarter(t: Vector, isa: Isa) -> str:
    """(r, n) of an argument x: returns r, stores n."""
    head = "static inline $T quarter_$T($T x, $I *n)"
    wide = t.like(bits=64)
    if isa.wide(wide):
        half = t.like(lanes=t.lanes // 2)
        return head + f"""
{{
    {half.like('i')} low, high;
    const {half} a = quarter_{half}(low_$T(x), &low), b = quarter_{half}(high_$T(x), &high);
    *n = join_$I(low, high);
    return join_$T(a, b);
}}"""
    return head + f"""
{{
    const {wide} y = {wide}_from_$T(x), turns = rint_{wide}(y * 0.6366197723675814);
    *n = $I_from_{wide}(turns);
    const {wide} r = fma_{wide}(turns, splat_{wide}(-1.5707963267948966), y);
    return $T_from_{wide}(fma_{wide}(turns, splat_{wide}(-6.123233995736766e-17), r));
}}"""


HELPERS["wave"] = f"""
static inline $T wave_$T($T r, $I n) // sin(r + n pi/2)
{{
    const $T z = r * r;
    const $T s = fma_$T(r * z, {polynomial("z", "-0.16666667f", "0.0083333291f", "-0.00019839327f", "2.7182372e-06f")}, r);
    const $T tail = {polynomial("z", "0.041666646f", "-0.0013887362f", "2.4437728e-05f")};
    const $T c = fma_$T(z * z, tail, fma_$T(z, splat_$T(-0.5f), splat_$T(1.0f)));
    const $I odd = -(n & 1);
    return ($T)(((odd & ($I)c) | (~odd & ($I)s)) ^ (n << 30 & (-2147483647 - 1)));
}}"""


def _trigonometric(name: str, turn: str, near_zero: str) -> None:
    @written(name)
    def template(t: Vector, isa: Isa) -> str:
        return f"""
extern float {name}f(float);
static inline $T {name}_$T($T x)
{{
    $I n;
    const $T r = quarter_$T(x, &n);
    $T y = {near_zero};
    const $M far = ~le_$T(abs_$T(x), splat_$T(0x1p28f));
    if (any_lanes_$M(far)[0])
        for (long k = 0; k < $W; k++) if (far[k]) y[k] = {name}f(x[k]);
    return y;
}}""".replace("@", f"wave_$T(r, n{turn})")


_trigonometric("sin", "", "select_$T(lt_$T(abs_$T(x), splat_$T(0x1p-13f)), x, @)")
_trigonometric("cos", " + 1", "@")


# erf x = 1 - 2**q with q = log2(1 - erf |x|), which is |x| times a polynomial. With q = t + f, t whole, this is
# (1 - 2**t) - (2**f - 1) 2**t, as exact near 0, where t is 0, as elsewhere.

@written("erf")
def _erf(t: Vector, isa: Isa) -> str:
    slope = polynomial("a", "-1.627907f", "-0.9184447f", "-0.14832158f", "0.027852288f", "-0.000265258f", "-0.0018280457f",
                       "0.00055730925f", "-5.9748025e-05f")
    rise = polynomial("f", "0.69314718f", "0.24022649f", "0.055503674f", "0.0096183103f", "0.0013387393f", "0.00015382428f")
    return f"""
static inline $T erf_$T($T x)
{{
    const $T a = lower_$T(splat_$T(4.0f), abs_$T(x)); // from 4 on the result is 1
    const $T slope = {slope};
    const $T turned = fma_$T(slope, a, splat_$T(0x1.8p23f)), f = fma_$T(slope, a, 0x1.8p23f - turned); // t in its last bits
    const $T rise = {rise} * f;
    const $T power = ($T)((($I)turned << 23) + 0x3f800000);
    return ($T)(($I)fma_$T(-rise, power, 1.0f - power) | (($I)x & (-2147483647 - 1)));
}}"""


# Distribution functions, which rise from 0 to 1. AVX-512 picks the coefficients of one of 32 polynomials, which two registers
# hold, by one instruction. Elsewhere they are 1/2 + x (far + p(x x) / q(x x)): what is added to far, its value where x is
# large, is small there, and so are the errors of its steps.

PIECES, WIDTH, DEGREE = 32, 23 / 64, 5
INSIDE = 5.57  # beyond it the result is 0 or 1


@lru_cache(maxsize=None)
def _pieces(function) -> np.ndarray:
    """Coefficients of 1, y, y*y, ... where x = k * WIDTH + y, a row each; column k % PIECES. All are 0 for the lowest k, -16."""
    table = np.zeros((DEGREE + 1, PIECES), np.float32)
    middles = range(1 - PIECES // 2, PIECES // 2)
    nodes = [WIDTH / 2 * math.cos((n + 0.5) * math.pi / (DEGREE + 1)) for n in range(DEGREE + 1)]
    values = [[function(k * WIDTH + y) for k in middles] for y in nodes]
    table[:, middles] = np.linalg.solve(np.vander(nodes, increasing=True), values)
    table[0, 0], table[0, PIECES // 2 - 1] = 0.5, 1  # exactly, in the middle and beyond INSIDE
    return table


@dataclass(frozen=True)
class Quotient:
    """1/2 + x (far + p(x x) / q(x x)), fitted from -inside to inside, where it is 0 and 1 to the last bit. The fit is one of
    least squares, linearised as by C. Sanathanan and J. Koerner ("Transfer Function Synthesis as a Ratio of Two Complex
    Polynomials", 1963), with weights that make the largest error small."""
    inside: str
    far: str
    p: tuple[str, ...]
    q: tuple[str, ...]

    def body(self) -> str:
        return f"""    x = upper_$T(splat_$T(-{self.inside}), lower_$T(splat_$T({self.inside}), x));
    const $T z = x * x;
    const $T p = {polynomial("z", *self.p)};
    const $T q = {polynomial("z", *self.q)};
    return 0.5f + x * (p / q + {self.far});
}}"""


def _table(function) -> str:
    rows = ",\n        ".join("{" + ", ".join(f"{c!r}f" for c in half.tolist()) + "}"
                              for row in _pieces(function) for half in (row[:PIECES // 2], row[PIECES // 2:]))
    steps = "\n".join(f"    y = fma_$T(y, r, pick_$T(table[{2 * n}], table[{2 * n + 1}], k));"
                      for n in reversed(range(DEGREE)))
    return f"""    static const $T table[] = {{ // of polynomials about multiples of {WIDTH}
        {rows}}};
    x = upper_$T(splat_$T({-WIDTH * PIECES / 2}f), lower_$T(splat_$T({INSIDE}f), x));
    const $T turned = fma_$T(x, splat_$T({np.float32(1 / WIDTH)!s}f), splat_$T(0x1.8p23f));
    const $T r = fma_$T(turned - 0x1.8p23f, splat_$T({-WIDTH}f), x);
    const $I k = ($I)turned; // in its last bits
    $T y = pick_$T(table[{2 * DEGREE}], table[{2 * DEGREE + 1}], k);
{steps}
    return y;
}}"""


def _distribution(name: str, function, quotient: Quotient, long: str) -> None:
    """Register the helper of float32's `function`; `long` is what it is written as in float64: 0.5 (long + 1)."""
    def template(t: Vector, isa: Isa) -> str:
        head = f"static inline $T {name}_$T($T x)\n{{\n"
        if t.bits == 64:
            return head + f"    return 0.5 * ({long} + 1.0);\n}}"
        return head + (_table(function) if isa.name == "avx512" and t.bytes == 64 else quotient.body())
    HELPERS[name] = template


HELPERS["pick"] = """
#ifdef __clang__
static inline $T pick_$T($T low, $T high, $I k) { return __builtin_ia32_vpermi2varps512(low, k, high); }
#else
static inline $T pick_$T($T low, $T high, $I k) { return __builtin_shuffle(low, high, k); }
#endif"""

_distribution("normal_cdf", lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), Quotient(
    "5.4001503f", "0.11111111f",
    ("0.28783113f", "0.0055590244f", "0.001497664f", "-4.223235e-05f", "-1.6844008e-06f", "-1.1179031e-07f"),
    ("1.0f", "0.25031748f", "0.028378602f", "0.001858973f", "7.239973e-05f", "1.2165947e-06f")),
    f"erf_$T(x * {math.sqrt(0.5)!r})")
_distribution("tanh_cdf", lambda x: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))), Quotient(
    "4.9971f", "0.12f",
    ("0.27894232f", "0.0012875547f", "0.0006953051f", "-2.193747e-05f", "-2.1264282e-06f", "-1.2867278e-07f"),
    ("1.0f", "0.24416265f", "0.024406528f", "0.0012964769f", "7.4988406e-05f", "1.2601482e-06f")),
    f"tanh_$T({math.sqrt(2 / math.pi)!r} * fma_$T(0.044715 * x, x * x, x))")


# x**y = 2**(y log2 |x|) in float64, which has bits to spare; then the sign and IEEE's special cases.

@helper("power")
def _power(t: Vector, isa: Isa) -> str:
    """|x|**y for x of any sign; NaN for 0*inf in the exponent."""
    wide = t.like(bits=64)
    if isa.wide(wide):
        return by_halves("power", "xy", t)
    log2 = polynomial("square", "2.8853900817778477", "0.9617966941159994", "0.5770779415466617", "0.41220933875026905",
                      "0.31990201678649655", "0.28295457697137594")
    exp2 = polynomial("f", "0.9999999999997617", "0.6931471805464878", "0.24022650698883058", "0.0555041093943897",
                      "0.00961812854282109", "0.0013333451973352023", "0.00015403851542176148", "1.5309760520114124e-05",
                      "1.3175939254217354e-06")
    return f"""
static inline $T power_$T($T x, $T y)
{{
    const {wide} a = {wide}_from_$T(abs_$T(x));
    const {wide.like('i')} bits = ({wide.like('i')})a, exponent = (bits - 0x3fe6a09e667f3bcd) >> 52;
    const {wide} m = ({wide})(bits - (exponent << 52)), s = (m - 1.0) / (m + 1.0), square = s * s;
    const {wide} e = ({wide})(exponent + 0x4338000000000000) - 0x1.8p52;
    {wide} l = fma_{wide}(s, {log2.replace('$T', str(wide))}, e);
    l = select_{wide}(eq_{wide}(a, ({wide}){{}}), splat_{wide}(-__builtin_inf()), l);
    l = select_{wide}(lt_{wide}(a, splat_{wide}(__builtin_inf())), l, a);
    {wide} p = {wide}_from_$T(y) * l;
    p = upper_{wide}(splat_{wide}(-200.0), lower_{wide}(splat_{wide}(200.0), p));
    const {wide} n = p + 0x1.8p52, f = p - (n - 0x1.8p52);
    const {wide} scaled = {exp2.replace('$T', str(wide))};
    return $T_from_{wide}(select_{wide}(eq_{wide}(p, p), ({wide})(({wide.like('i')})scaled + (({wide.like('i')})n << 52)), p));
}}"""


@written("pow", "xy")
def _pow(t: Vector, isa: Isa) -> str:
    return """
static inline $T pow_$T($T x, $T y)
{
    const $T one = splat_$T(1.0f), infinite = splat_$T(__builtin_inff()), size = abs_$T(x);
    const $M whole = eq_$T(y, trunc_$T(y));
    const $M odd = whole & lt_$T(abs_$T(y), splat_$T(0x1p24f)) & ne_$I($I_from_$T(y) & 1, ($I){});
    const $M negative = lt_$I(($I)x, ($I){});
    const $T r = power_$T(x, y), signed_r = select_$T(odd & negative, -r, r);
    const $M undefined = lt_$T(x, ($T){}) & ~whole & lt_$T(size, infinite);
    const $M is_one = eq_$T(x, one) | eq_$T(y, ($T){}) | (eq_$T(size, one) & eq_$T(abs_$T(y), infinite));
    return select_$T(is_one, one, select_$T(undefined, splat_$T(__builtin_nanf("")), signed_r));
}"""
