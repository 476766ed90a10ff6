"""Small C functions on vectors, written into a source on demand.

A helper is called `<name>_<type>` in C (`select_f32x16`), a conversion `<to>_from_<from>`. `header(text, isa)` finds the
types and helpers that a text uses, and those that they use in turn, and gives their definitions in order.

A template speaks of types by letters: $T the vector, $S one lane of it, $I and $U signed and unsigned integers of the same
width, $M the mask type of that many lanes, $W the number of lanes.
"""
from __future__ import annotations

import re
from string import Template
from typing import Callable, Iterator, Union

from .isa import Isa, Vector, parse_vector

Helper = Union[str, Callable[[Vector, Isa], str]]
HELPERS: dict[str, Helper] = {}

_TYPE = r"[fiu]\d+x\d+"
_USE = re.compile(rf"\b(?:(?P<to>{_TYPE})_from_(?P<source>{_TYPE})|(?:(?P<name>[a-z]\w*?)_)?(?P<type>{_TYPE}))\b")


class _Letters(Template):
    idpattern, flags = "[A-Z]", 0


def fill(template: str, t: Vector, isa: Isa) -> str:
    """A template's text for vectors of type `t`."""
    return _Letters(template).substitute(T=t, S=t.scalar, I=t.like("i"), U=t.like("u"), M=isa.mask(t.lanes), W=t.lanes,
                                         B=t.bits)


def header(text: str, isa: Isa) -> str:
    """Definitions of all types and helpers that `text` uses, each after those that it uses itself."""
    types: dict[str, Vector] = {}
    functions: list[str] = []
    seen: set[str] = set()

    def require(used: str) -> None:
        for name, definition in _uses(used, isa, types):
            if name not in seen:
                seen.add(name)
                body = definition()
                require(body)
                functions.append(body)

    require(text)
    return "\n".join([v.typedef for _, v in sorted(types.items())] + functions) + "\n"


def _uses(text: str, isa: Isa, types: dict[str, Vector]) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, definition) of the helpers that a text mentions; types mentioned are added to `types`."""
    for match in dict.fromkeys(m.groups() + (m.group(),) for m in _USE.finditer(text)):
        to, source, name, type_, used = match
        for t in filter(None, (to, source, type_)):
            types.setdefault(t, parse_vector(t))
        if to:
            yield used, lambda to=to, source=source: conversion(parse_vector(to), parse_vector(source), isa)
        elif name in HELPERS:
            yield used, lambda name=name, type_=type_: definition_of(name, parse_vector(type_), isa)


def definition_of(name: str, t: Vector, isa: Isa) -> str:
    """The C text of one helper for one type."""
    helper = HELPERS[name]
    return fill(helper if isinstance(helper, str) else helper(t, isa), t, isa).strip("\n")


def helper(name: str) -> Callable:
    """Register a function (vector, isa) -> template as the helper `name`."""
    def register(function):
        HELPERS[name] = function
        return function
    return register


def lanewise(expression: str, lanes: int) -> str:
    """A vector's initialiser with `expression` for every lane, @ being the lane's number. gcc's -O2 makes one instruction
    of such a list where there is one."""
    return "{" + ", ".join(expression.replace("@", str(k)) for k in range(lanes)) + "}"


# Memory. $T is the type as it lies there; pointers are those of its elements, aligned to one.

@helper("splat")
def _splat(t: Vector, isa: Isa) -> str:
    if isa.wide(t):  # gcc puts a uniform vector of several registers together from memory, wherever it is used
        half = t.like(lanes=t.lanes // 2)
        return f"static inline $T splat_$T($S x) {{ return join_$T(splat_{half}(x), splat_{half}(x)); }}"
    return "static inline $T splat_$T($S x) { return x - ($T){}; }"


HELPERS["lanes"] = lambda t, isa: f"static const $T lanes_$T = {lanewise('@', t.lanes)};"

HELPERS["load"] = """
static inline $T load_$T(const $S *p) { $T x; __builtin_memcpy(&x, p, sizeof x); return x; }"""

HELPERS["store"] = """
static inline void store_$T($S *p, $T x) { __builtin_memcpy(p, &x, sizeof x); }"""

# The compilers' masked moves, under AVX-512 and AVX2: (load, store, the conversion of the mask).
_MASKED = {
    ("avx512", "f32x16"): ("__builtin_ia32_loadups512_mask", "__builtin_ia32_storeups512_mask"),
    ("avx512", "i32x16"): ("__builtin_ia32_loaddqusi512_mask", "__builtin_ia32_storedqusi512_mask"),
    ("avx512", "f64x8"): ("__builtin_ia32_loadupd512_mask", "__builtin_ia32_storeupd512_mask"),
    ("avx512", "i64x8"): ("__builtin_ia32_loaddqudi512_mask", "__builtin_ia32_storedqudi512_mask"),
    ("avx2", "f32x8"): ("__builtin_ia32_maskloadps256", "__builtin_ia32_maskstoreps256"),
    ("avx2", "i32x8"): ("__builtin_ia32_maskloadd256", "__builtin_ia32_maskstored256"),
    ("avx2", "f64x4"): ("__builtin_ia32_maskloadpd256", "__builtin_ia32_maskstorepd256"),
    ("avx2", "i64x4"): ("__builtin_ia32_maskloadq256", "__builtin_ia32_maskstoreq256"),
}


@helper("load_where")
def _load_where(t: Vector, isa: Isa) -> str:
    """Lanes whose mask is 0 are not read, and give 0."""
    head = "static inline $T load_where_$T(const $S *p, $M live) "
    if (isa.name, str(t)) not in _MASKED:
        return head + "{ $T x = {}; for (long k = 0; k < $W; k++) if (live[k]) x[k] = p[k]; return x; }"
    load, _ = _MASKED[isa.name, str(t)]
    if isa.name == "avx512":
        to_bits = "__builtin_ia32_cvtd2mask512" if t.bits == 32 else "__builtin_ia32_cvtq2mask512"
        return head + f"{{ return {load}(p, ($T){{}}, {to_bits}(live)); }}"
    return head + f"{{ return {load}((const $T *)p, live); }}"


@helper("store_where")
def _store_where(t: Vector, isa: Isa) -> str:
    """Lanes whose mask is 0 are not written."""
    head = "static inline void store_where_$T($S *p, $T x, $M live) "
    if (isa.name, str(t)) not in _MASKED:
        return head + "{ for (long k = 0; k < $W; k++) if (live[k]) p[k] = x[k]; }"
    _, store = _MASKED[isa.name, str(t)]
    if isa.name == "avx512":
        to_bits = "__builtin_ia32_cvtd2mask512" if t.bits == 32 else "__builtin_ia32_cvtq2mask512"
        return head + f"{{ {store}(p, x, {to_bits}(live)); }}"
    return head + f"{{ {store}(($T *)p, live, x); }}"


# Stores past the caches, for what is too large to be found there again: they spare reading what is overwritten.
STREAMING = {("avx512", "f32x16"): "__builtin_ia32_movntps512", ("avx512", "f64x8"): "__builtin_ia32_movntpd512",
             ("avx2", "f32x8"): "__builtin_ia32_movntps256", ("avx2", "f64x4"): "__builtin_ia32_movntpd256"}


@helper("stream")
def _stream(t: Vector, isa: Isa) -> str:
    return f"""
static inline void stream_$T($S *p, $T x)
{{
    if ((unsigned long)p % {t.bytes}) store_$T(p, x);
#ifdef __clang__
    else __builtin_nontemporal_store(x, ($T *)p);
#else
    else {STREAMING[isa.name, str(t)]}(p, x);
#endif
}}"""


# Halves, and moves between lanes.

def _half(first: int) -> Callable[[Vector, Isa], str]:
    def template(t: Vector, isa: Isa) -> str:
        half, name = t.like(lanes=t.lanes // 2), "high" if first else "low"
        order = ", ".join(str(first * half.lanes + k) for k in range(half.lanes))
        return f"static inline {half} {name}_$T($T x) {{ return __builtin_shufflevector(x, x, {order}); }}"
    return template


HELPERS["low"], HELPERS["high"] = _half(0), _half(1)


@helper("reversed")
def _reversed(t: Vector, isa: Isa) -> str:
    order = ", ".join(str(k) for k in reversed(range(t.lanes)))
    return f"static inline $T reversed_$T($T x) {{ return __builtin_shufflevector(x, x, {order}); }}"


@helper("join")
def _join(t: Vector, isa: Isa) -> str:
    half, order = t.like(lanes=t.lanes // 2), ", ".join(map(str, range(t.lanes)))
    return f"static inline $T join_$T({half} low, {half} high) {{ return __builtin_shufflevector(low, high, {order}); }}"


def by_halves(name: str, operands: str, t: Vector) -> str:
    """A template that applies helper `name` of half as many lanes twice."""
    half = t.like(lanes=t.lanes // 2)
    parameters = ", ".join(f"$T {o}" for o in operands)
    low, high = (", ".join(f"{part}_$T({o})" for o in operands) for part in ("low", "high"))
    return (f"static inline $T {name}_$T({parameters})\n"
            f"{{\n    return join_$T({name}_{half}({low}), {name}_{half}({high}));\n}}")


@helper("transpose")
def _transpose(t: Vector, isa: Isa) -> str:
    """$W rows of $W lanes, in place: swap ever larger blocks across the diagonal."""
    steps, width = [], 1
    while width < t.lanes:
        low, high = ([(i if not i & width else i - width + t.lanes) + add for i in range(t.lanes)] for add in (0, width))
        order = [", ".join(map(str, o)) for o in (low, high)]
        steps.append(f"""    for (long i = 0; i < $W; i++)
        if (!(i & {width})) {{
            const $T a = rows[i], b = rows[i + {width}];
            rows[i] = __builtin_shufflevector(a, b, {order[0]});
            rows[i + {width}] = __builtin_shufflevector(a, b, {order[1]});
        }}""")
        width *= 2
    return "static __attribute__((noinline)) void transpose_$T($T *rows)\n{\n" + "\n".join(
        "    #pragma GCC unroll $W\n" + s for s in steps) + "\n}"


@helper("sum_rows")
def _sum_rows(t: Vector, isa: Isa) -> str:
    """Of $W rows, in place: lane i of the first becomes the sum of row i. Two rows at a time are folded into one."""
    steps, width = [], t.lanes // 2
    while width:
        low, high = (", ".join(str(place(i) + (t.lanes if i & width else 0)) for i in range(t.lanes))
                     for place in (lambda i: i & ~width, lambda i: i | width))
        steps.append(f"""    for (long i = 0; i < {width}; i++) {{
        const $T a = rows[i], b = rows[i + {width}];
        rows[i] = __builtin_shufflevector(a, b, {low}) + __builtin_shufflevector(a, b, {high});
    }}""")
        width //= 2
    return "static inline void sum_rows_$T($T *rows)\n{\n" + "\n".join(
        "    #pragma GCC unroll $W\n" + s for s in steps) + "\n}"


def _combined_lanes(name: str, combine: str) -> None:
    """`<name>_lanes_<type>(x)`: every lane of the result is the combination of all lanes of x."""
    def template(t: Vector, isa: Isa) -> str:
        lines, step = [], t.lanes // 2
        while step:
            order = ", ".join(str(k ^ step) for k in range(t.lanes))
            swapped = f"__builtin_shufflevector(x, x, {order})"
            lines.append(f"    x = {combine.replace('@', swapped)};")
            step //= 2
        return f"static inline $T {name}_lanes_$T($T x)\n{{\n" + "\n".join(lines + ["    return x;", "}"])
    HELPERS[name + "_lanes"] = template


for _name, _combine in {"sum": "x + @", "prod": "x * @", "max": "max_$T(x, @)", "min": "min_$T(x, @)", "any": "x | @",
                        "all": "x & @"}.items():
    _combined_lanes(_name, _combine)


def _best_lane(name: str, better: str) -> None:
    """`<name>_lanes_<type>(x, at)`: the place of the best lane, the smallest place among equals; NaN is best."""
    def template(t: Vector, isa: Isa) -> str:
        lines, step = [], t.lanes // 2
        while step:
            order = ", ".join(str(k ^ step) for k in range(t.lanes))
            lines.append(f"    take = {name}_first_$T(x, at, y = __builtin_shufflevector(x, x, {order}), "
                         f"where = __builtin_shufflevector(at, at, {order}));\n"
                         f"    x = select_$T(take, y, x);\n    at = select_$M(take, where, at);")
            step //= 2
        return (f"static inline $M {name}_first_$T($T x, $M at, $T y, $M where)\n{{\n"
                f"    const $M equal = eq_$T(x, y) | (ne_$T(x, x) & ne_$T(y, y));\n"
                f"    return {name}_better_$T(y, x) | (equal & (where < at));\n}}\n"
                f"static inline $M {name}_lanes_$T($T x, $M at)\n{{\n    $T y;\n    $M where, take;\n"
                + "\n".join(lines + ["    return at;", "}"]))
    HELPERS[name + "_lanes"] = template
    HELPERS[name + "_better"] = (f"static inline $M {name}_better_$T($T x, $T best) "
                                 f"{{ return {better}_$T(best, x) | (ne_$T(x, x) & eq_$T(best, best)); }}")


_best_lane("argmax", "lt")
_best_lane("argmin", "gt")


# Scans. `running` goes on in each lane: x is combined with what there was before. `scan` goes on from lane to lane and leaves
# what the last one came to; combining with `none` changes nothing.

def _earlier(step: int, lanes: int, vector: str, before: str) -> str:
    """The vector with its lanes moved up by `step`, the first ones being those of `before`."""
    order = ", ".join(str(k if k < step else lanes + k - step) for k in range(lanes))
    return f"__builtin_shufflevector({before}, {vector}, {order})"


def _steps(t: Vector) -> list[int]:
    return [1 << k for k in range(t.lanes.bit_length() - 1)]


def _scan(op: str, combine: str, single: str) -> None:
    """`combine`: what was before (@) and x; `single`: the same of two numbers, `before` and `last`."""
    HELPERS[f"running_{op}"] = (f"static inline $T running_{op}_$T($T x, $T *so_far) "
                                f"{{ return *so_far = {combine.replace('@', '*so_far')}; }}")

    def template(t: Vector, isa: Isa) -> str:
        if isa.wide(t):
            parts = [f"scan_{op}_{t.like(lanes=t.lanes // 2)}({part}_$T(x), none, so_far)" for part in ("low", "high")]
            lines = [f"const {t.like(lanes=t.lanes // 2)} low = {parts[0]};", f"return join_$T(low, {parts[1]});"]
        else:
            lines = [f"x = {combine.replace('@', _earlier(k, t.lanes, 'x', 'splat_$T(none)'))};" for k in _steps(t)]
            lines += ["const $S before = *so_far, last = x[$W - 1];", f"*so_far = {single};",
                      f"return {combine.replace('@', 'splat_$T(before)')};"]
        return f"static inline $T scan_{op}_$T($T x, $S none, $S *so_far)\n{{\n    " + "\n    ".join(lines) + "\n}"
    HELPERS[f"scan_{op}"] = template


def _extreme_scans(name: str, reaches: str, sign: str) -> None:
    """Of equal extremes the last is taken, and every NaN."""
    HELPERS[f"{name}_reached"] = (f"static inline $M {name}_reached_$T($T x, $T so_far) "
                                  f"{{ return {reaches}_$T(so_far, x) | ne_$T(x, x); }}")
    HELPERS[f"later_{name}"] = (f"static inline $T later_{name}_$T($T before, $T x) "
                                f"{{ return select_$T({name}_reached_$T(x, before), x, before); }}")
    _scan(name, f"later_{name}_$T(@, x)", f"before {sign} last || last != last ? last : before")
    HELPERS[f"running_arg{name}"] = f"""
static inline $M running_arg{name}_$T($T x, $M at, $T *so_far, $M *place)
{{
    const $T y = *so_far;
    const $M where = *place, take = {name}_reached_$T(x, y);
    *so_far = select_$T(take, x, y);
    return *place = select_$M(take, at, where);
}}"""

    def template(t: Vector, isa: Isa) -> str:
        step = f"take = {name}_reached_$T(x, y); at = select_$M(take, at, where); x = select_$T(take, x, y);"
        lines = [f"y = {_earlier(k, t.lanes, 'x', 'splat_$T(none)')}; where = {_earlier(k, t.lanes, 'at', 'at')}; {step}"
                 for k in _steps(t)]
        lines += [f"y = splat_$T(*so_far); where = splat_$M(*place); {step}", "*so_far = x[$W - 1];", "*place = at[$W - 1];",
                  "return at;"]
        return (f"static inline $M scan_arg{name}_$T($T x, $M at, $S none, $S *so_far, {isa.mask(t.lanes).scalar} *place)\n"
                "{\n    $T y;\n    $M where, take;\n    " + "\n    ".join(lines) + "\n}")
    HELPERS[f"scan_arg{name}"] = template


_scan("sum", "@ + x", "before + last")
_scan("prod", "@ * x", "before * last")
_extreme_scans("max", "le", "<=")
_extreme_scans("min", "ge", ">=")


# Choosing and comparing. A mask has its own width ($M); other widths are converted.

@helper("select")
def _select(t: Vector, isa: Isa) -> str:
    mask = isa.mask(t.lanes)
    m = "m" if mask.bits == t.bits else f"$I_from_{mask}(m)"
    return f"""
static inline $T select_$T($M m, $T a, $T b)
{{
    const $I pick = {m};
    return ($T)((pick & ($I)a) | (~pick & ($I)b));
}}"""


def _comparison(name: str, sign: str) -> None:
    def template(t: Vector, isa: Isa) -> str:
        mask = isa.mask(t.lanes)
        head = f"static inline $M {name}_$T($T a, $T b) "
        if mask.bits == t.bits:
            return head + f"{{ return a {sign} b; }}"
        if not isa.wide(t):
            return head + f"{{ return $M_from_$I(a {sign} b); }}"
        half = t.like(lanes=t.lanes // 2)
        ints, halves = half.like("i"), mask.like(lanes=half.lanes)
        parts = (f"{halves}_from_{ints}({part}_$T(a) {sign} {part}_$T(b))" for part in ("low", "high"))
        return head + f"{{ return join_$M({', '.join(parts)}); }}"
    HELPERS[name] = template


COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
for _name, _sign in COMPARISONS.items():
    _comparison(_name, _sign)


def _extremum(name: str, sign: str, instruction: str) -> None:
    """`lower`/`upper` (a < b ? a : b: the second if either is NaN), and `min`/`max`, which give NaN if either is."""
    wide, plain = name, {"lower": "min", "upper": "max"}[name]

    def template(t: Vector, isa: Isa) -> str:
        head = f"static inline $T {wide}_$T($T a, $T b) "
        letters = "ps" if t.bits == 32 else "pd"
        if t.kind == "f" and isa.name == "avx512" and t.bytes == 64:
            builtin = f"__builtin_ia32_{instruction}{letters}512"
            return (f"#ifdef __clang__\n{head}{{ return {builtin}(a, b, 4); }}\n"
                    f"#else\n{head}{{ return {builtin}_mask(a, b, a, -1, 4); }}\n#endif")
        if t.kind == "f" and isa.name in ("avx512", "avx2") and t.bytes == 32:
            return head + f"{{ return __builtin_ia32_{instruction}{letters}256(a, b); }}"
        return head + f"{{ return select_$T({'lt' if sign == '<' else 'gt'}_$T(a, b), a, b); }}"
    def propagating(t: Vector, isa: Isa) -> str:
        head = f"static inline $T {plain}_$T($T a, $T b) "
        if t.kind != "f":
            return head + f"{{ return {wide}_$T(a, b); }}"
        if isa.name == "avx512" and t.bytes == 64:  # a where it is NaN, else the instruction's result
            letters = "ps" if t.bits == 32 else "pd"
            ordered, builtin = f"__builtin_ia32_cmp{letters}512_mask(a, a, 7, -1, 4)", f"__builtin_ia32_{instruction}{letters}512"
            select = f"__builtin_ia32_select{letters}_512"
            return (f"#ifdef __clang__\n{head}{{ return {select}({ordered}, {builtin}(a, b, 4), a); }}\n"
                    f"#else\n{head}{{ return {builtin}_mask(a, b, a, {ordered}, 4); }}\n#endif")
        return head + f"{{ return select_$T(eq_$T(a, a), {wide}_$T(a, b), a); }}"

    HELPERS[wide], HELPERS[plain] = template, propagating


_extremum("lower", "<", "min")
_extremum("upper", ">", "max")


# Conversions.

def conversion(to: Vector, source: Vector, isa: Isa) -> str:
    """`<to>_from_<source>(x)`, as C converts; a float out of an integer's range becomes its smallest."""
    head = f"static inline {to} {to}_from_{source}({source} x) "
    if (isa.wide(to) or isa.wide(source)) and to.lanes > 1:
        a, b = to.like(lanes=to.lanes // 2), source.like(lanes=source.lanes // 2)
        return head + f"{{ return join_{to}({a}_from_{b}(low_{source}(x)), {a}_from_{b}(high_{source}(x))); }}"
    middle = _step_between(to, source)
    if middle is not None:
        return head + f"{{ return {to}_from_{middle}({middle}_from_{source}(x)); }}"
    if to.kind == source.kind and to.bits == 2 * source.bits:  # gcc splits the vector to widen it
        return head + f"{{ return ({to}){lanewise('x[@]', to.lanes)}; }}"
    return head + f"{{ return __builtin_convertvector(x, {to}); }}"


def _step_between(to: Vector, source: Vector) -> Vector | None:
    """Floats and small integers are converted by way of a wider integer, as C's compilers do it for single numbers."""
    if {to.kind, source.kind} in ({"f", "i"}, {"f", "u"}) and min(to.bits, source.bits) < 32:
        return to.like("i", 64 if to.kind == "u" and source.bits == 64 else 32)
    return None


# Half floats and bool in memory: `decode` to what vectors hold, `encode` back, `round` a float32 to a half float's values.

HELPERS["decode_bool"] = lambda t, isa: f"""
static inline $T decode_bool_$T({t.like('u', 8)} x) {{ return $T_from_{t.like('u', 8)}(x) != 0; }}"""

HELPERS["encode_bool"] = lambda t, isa: f"""
static inline {t.like('u', 8)} encode_bool_$T($T x) {{ return {t.like('u', 8)}_from_$T(x & 1); }}"""

HELPERS["decode_bf16"] = lambda t, isa: f"""
static inline $T decode_bf16_$T({t.like('u', 16)} x) {{ return ($T)($U_from_{t.like('u', 16)}(x) << 16); }}"""

HELPERS["encode_bf16"] = lambda t, isa: f"""
static inline {t.like('u', 16)} encode_bf16_$T($T x) {{ return {t.like('u', 16)}_from_$U(($U)x >> 16); }}"""

HELPERS["round_bf16"] = """
static inline $T round_bf16_$T($T x)
{
    const $U bits = ($U)x;
    const $T rounded = ($T)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
    return select_$T(ne_$T(x, x), ($T)splat_$U(0x7fc00000), rounded);
}"""


@helper("decode_f16")
def _decode_f16(t: Vector, isa: Isa) -> str:
    half = t.like("u", 16)
    head = f"static inline $T decode_f16_$T({half} x)"
    if isa.name == "avx512" and t.lanes == 16:
        return f"{head} {{ return __builtin_ia32_vcvtph2ps512_mask(({t.like('i', 16)})x, ($T){{}}, -1, 4); }}"
    return f"""{head}
{{
    const $U bits = $U_from_{half}(x), sign = (bits & 0x8000) << 16, magnitude = (bits & 0x7fff) << 13;
    const $U finite = ($U)(($T)magnitude * 0x1p112f), special = magnitude | 0x7f800000;
    const $U is_special = ($U)(magnitude >= 0x0f800000);
    return ($T)(sign | (is_special & special) | (~is_special & finite));
}}"""


@helper("encode_f16")
def _encode_f16(t: Vector, isa: Isa) -> str:
    half = t.like("u", 16)
    head = f"static inline {half} encode_f16_$T($T x)"
    if isa.name == "avx512" and t.lanes == 16:
        return f"{head} {{ return ({half})__builtin_ia32_vcvtps2ph512_mask(x, 0, ({t.like('i', 16)}){{}}, -1); }}"
    return f"""{head}
{{
    const $U bits = ($U)x, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    const $U finite = ($U)(($T)magnitude * 0x1p-112f) >> 13, special = 0x7c00 | ($U)(magnitude > 0x7f800000) & 0x200;
    const $U is_special = ($U)(magnitude >= 0x7f800000);
    return {half}_from_$U(sign | (is_special & special) | (~is_special & finite));
}}"""


@helper("round_f16")
def _round_f16(t: Vector, isa: Isa) -> str:
    if isa.name == "avx512" and t.lanes == 16:
        return "static inline $T round_f16_$T($T x) { return decode_f16_$T(encode_f16_$T(x)); }"
    return """
static inline $T round_f16_$T($T x)
{
    const $U bits = ($U)x, sign = bits & 0x80000000, magnitude = bits & 0x7fffffff;
    const $U normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)) & 0xffffe000;
    const $U tiny = ($U)((($T)magnitude + 0.5f) - 0.5f);
    const $U is_tiny = ($U)(magnitude < 0x38800000), is_nan = ($U)(magnitude > 0x7f800000);
    const $U overflows = ($U)(magnitude >= 0x477ff000) & ~is_nan;
    const $U finite = (is_tiny & tiny) | (~is_tiny & normal);
    const $U result = (overflows & 0x7f800000) | (is_nan & magnitude) | (~(overflows | is_nan) & finite);
    return ($T)(sign | result);
}"""


# Arithmetic that C's operators don't have.

HELPERS["abs"] = lambda t, isa: "static inline $T abs_$T($T x) " + (
    "{ return ($T)(($U)x << 1 >> 1); }" if t.kind == "f" else "{ return select_$T(lt_$T(x, ($T){}), -x, x); }")


@helper("fma")
def _fma(t: Vector, isa: Isa) -> str:
    head = "static inline $T fma_$T($T a, $T b, $T c) "
    letters = "ps" if t.bits == 32 else "pd"
    if isa.name == "avx512" and t.bytes == 64:
        return head + f"{{ return __builtin_ia32_vfmadd{letters}512_mask(a, b, c, -1, 4); }}"
    if isa.name in ("avx512", "avx2") and t.bytes == 32:
        return (f"#if __has_builtin(__builtin_elementwise_fma)\n{head}{{ return __builtin_elementwise_fma(a, b, c); }}\n"
                f"#else\n{head}{{ return __builtin_ia32_vfmadd{letters}256(a, b, c); }}\n#endif")
    function = "__builtin_fmaf" if t.bits == 32 else "__builtin_fma"
    return head + f"{{ return ($T){lanewise(f'{function}(a[@], b[@], c[@])', t.lanes)}; }}"


def _of_one_instruction(name: str, mode: int | None) -> None:
    """A function that CPUs have an instruction for. Compilers do not always join the lanes' calls into it by themselves.

    mode: x86's number for the kind of rounding, without an exception for inexact results; None: no rounding
    """
    def template(t: Vector, isa: Isa) -> str:
        if isa.wide(t):
            return by_halves(name, "x", t)
        letters = "ps" if t.bits == 32 else "pd"
        function = f"__builtin_{name}" + ("f" if t.bits == 32 else "")
        ways = [(f"__builtin_elementwise_{name}", "x")]  # clang's, then gcc's
        if isa.name == "avx512" and t.bytes == 64:
            ways.append((f"__builtin_ia32_sqrt{letters}512_mask", "x, x, -1, 4") if mode is None else
                        (f"__builtin_ia32_rndscale{letters}_mask", f"x, {mode}, x, -1, 4"))
        elif isa.name in ("avx512", "avx2") and t.bytes == 32:
            ways.append((f"__builtin_ia32_sqrt{letters}256", "x") if mode is None else
                        (f"__builtin_ia32_round{letters}256", f"x, {mode}"))
        lines = [f"#{'el' * (n > 0)}if __has_builtin({builtin})\n    return ($T){builtin}({arguments});"
                 for n, (builtin, arguments) in enumerate(ways)]
        return "\n".join([f"static inline $T {name}_$T($T x)\n{{", *lines,
                          f"#else\n    return ($T){lanewise(f'{function}(x[@])', t.lanes)};\n#endif\n}}"])
    HELPERS[name] = template


for _name, _mode in {"sqrt": None, "floor": 9, "ceil": 10, "trunc": 11, "rint": 12}.items():
    _of_one_instruction(_name, _mode)

# Integer division never traps: by 0 it gives 0 (a Check reports it), and the smallest number by -1 wraps.
HELPERS["quotient"] = """
static inline $T quotient_$T($T a, $T b)
{
    $T q;
    for (long k = 0; k < $W; k++) q[k] = b[k] == 0 ? 0 : b[k] == ($S)-1 && ($S)-1 < 0 ? -a[k] : a[k] / b[k];
    return q;
}"""

HELPERS["remainder"] = """
static inline $T remainder_$T($T a, $T b)
{
    $T r;
    for (long k = 0; k < $W; k++) r[k] = b[k] == 0 || (b[k] == ($S)-1 && ($S)-1 < 0) ? 0 : a[k] % b[k];
    return r;
}"""

# Shifts by more than the width give what an endless shift would, as torch has it.
HELPERS["shl"] = """
static inline $T shl_$T($T a, $T b)
{
    const $U n = ($U)b, inside = ($U)(n < $B);
    return ($T)((($U)a << (n & ($B - 1))) & inside);
}"""


@helper("shr")
def _shr(t: Vector, isa: Isa) -> str:
    shifted = "(a >> (b & ($B - 1))) & inside" if t.kind == "u" else "a >> ($T)((n & inside) | (($B - 1) & ~inside))"
    return f"""
static inline $T shr_$T($T a, $T b)
{{
    const $U n = ($U)b, inside = ($U)(n < $B);
    return {shifted};
}}"""


@helper("philox")
def _philox(t: Vector, isa: Isa) -> str:
    """The first word of Philox-4x32-10, in lanes of 64 bits."""
    if isa.wide(t):
        return by_halves("philox", "ab", t)
    product = {64: "__builtin_ia32_pmuludq512_mask((@)a, (@)b, ($I){}, -1)", 32: "__builtin_ia32_pmuludq256((@)a, (@)b)"}
    words = f"($U){product[t.bytes].replace('@', str(t.like('i', 32, 2 * t.lanes)))}" if t.bytes in product else "a * b"
    return f"""
#ifdef __clang__
static inline $U words_product_$T($U a, $U b) {{ return (a & 0xffffffff) * (b & 0xffffffff); }}
#else
static inline $U words_product_$T($U a, $U b) {{ return {words}; }}
#endif
static inline $T philox_$T($T key, $T counter)
{{
    const $U low = ($U){{}} + 0xffffffff;
    $U k0 = ($U)key & low, k1 = ($U)key >> 32, c0 = ($U)counter & low, c1 = ($U)counter >> 32, c2 = {{}}, c3 = {{}};
    for (long round = 0; round < 10; round++) {{
        const $U a = words_product_$T(c0, ($U){{}} + 0xD2511F53), b = words_product_$T(c2, ($U){{}} + 0xCD9E8D57);
        c0 = (b >> 32) ^ c1 ^ k0;
        c1 = b & low;
        c2 = (a >> 32) ^ c3 ^ k1;
        c3 = a & low;
        k0 = k0 + 0x9E3779B9 & low;
        k1 = k1 + 0xBB67AE85 & low;
    }}
    return ($T)c0;
}}"""
