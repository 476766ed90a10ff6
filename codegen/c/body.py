"""Statements of the loop IR on vectors of lanes.

Every value is a vector. Where it does not vary over the axis that runs along the lanes, all its lanes are equal.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping, Sequence

import torch

from ...compiler.dims import Dim, Div, Expr, Sym, expr, known
from ...errors import Unsupported
from ..loops import Apply, Buffer, Check, Const, Index, Load, Reduce, Scan, Statement, Store, symbols_of
from ..stages import dependencies
from .isa import FORMS, Isa, Vector, memory_type, register_type
from .scalars import Operand, constant, literal, scalar_text

C_WORDS = {"auto", "case", "char", "const", "default", "do", "double", "enum", "extern", "float", "goto", "inline", "int", "long",
           "main", "register", "restrict", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union",
           "unsigned", "void", "volatile", "asm", "typeof", "unix", "linux", "tid", "threads", "error", "live", "item", "k", "u",
           "column"}


class Writer:
    """Lines of C, indented by the braces that are open."""

    def __init__(self):
        self.lines: list[str] = []
        self.depth = 0
        self.origin = ""

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text if not text.startswith("#") or text.startswith("#pragma") else text)

    def open(self, text: str = "") -> None:
        self.line(f"{text} {{".lstrip())
        self.depth += 1

    def close(self) -> None:
        self.depth -= 1
        self.line("}")

    def comment(self, origin) -> None:
        """Where the next lines come from, said when it changes."""
        text = str(origin).replace("\\", "/").replace("\n", " ")
        if text and text != self.origin:
            self.line(f"// {text}")
        self.origin = text or self.origin

    def __str__(self):
        return "\n".join(self.lines) + "\n"


class Names:
    """C identifiers, each given once."""

    def __init__(self):
        self.taken: set[str] = set(C_WORDS)

    def fresh(self, wanted: str) -> str:
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        if not name[:1].isalpha() or re.search(r"[fiu]\d+x\d+$", name):
            name = f"v{name}_"
        base, number = name, 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name


def size_text(size: Dim, name_of: Callable[[str], str]) -> str:
    """A size in C, as a factor of a product."""
    e = expr(size)
    text = index_text(e, name_of)
    atom = len(e.terms) == 1 and len(e.terms[0][0]) == 1 and e.terms[0][1] == 1
    return text if atom or e.constant is not None else f"({text})"


def index_text(index: Expr, name_of: Callable[[str], str]) -> str:
    """An index expression in C; `name_of` gives the text of a symbol."""
    def atom(a) -> str:
        if isinstance(a, Sym):
            return name_of(a.name)
        value, by = index_text(a.value, name_of), size_text(a.by, name_of)
        if known(a.value, 0):
            return f"(({value}) {'/' if isinstance(a, Div) else '%'} {by})"
        remainder = f"(({value}) % {by} + {by}) % {by}"  # C's own has the sign of the value
        return f"((({value}) - {remainder}) / {by})" if isinstance(a, Div) else f"({remainder})"

    text = ""
    for monomial, factor in sorted(index.terms, key=lambda t: (t[0] == (), -abs(t[1]), t[1] < 0)):
        parts = [atom(a) for a in monomial]
        if not parts or abs(factor) != 1:
            parts.append(str(abs(factor)))
        sign = "-" if factor < 0 else "+"
        text += f" {sign} {' * '.join(parts)}" if text else ("-" if factor < 0 else "") + " * ".join(parts)
    return text or "0"


@dataclass
class Body:
    """Prints a kernel's statements on `lanes` lanes.

    pointers  buffer name -> C name of the pointer to its first element
    vector    the name of the axis along the lanes, or ""
    axes      names of the axes, which are C variables of the same names (see `axis_names`)
    sizes     names of the size symbols, likewise (see `size_names`)
    given     statements made elsewhere (a matrix product's "acc"): name -> (dtype, whether it varies along the lanes)
    reduced   names of the axes reduced over
    ahead     names of loads that fetch memory for later iterations -> how many elements ahead
    streamed  names of buffers that are stored past the caches
    """
    statements: Sequence[Statement]
    buffers: Iterable[Buffer]
    isa: Isa
    lanes: int
    vector: str = ""
    axes: Iterable[str] = ()
    sizes: Iterable[str] = ()
    given: Mapping[str, tuple[torch.dtype, bool]] = field(default_factory=dict)
    reduced: frozenset[str] = frozenset()
    ahead: dict[str, int] = field(default_factory=dict)
    streamed: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.names = Names()
        self.buffer_of = {b.name: b for b in self.buffers}
        self.axis_names = {a: self.names.fresh(a) for a in self.axes}
        self.size_names = {s: self.names.fresh(s) for s in self.sizes}
        self.named = {s.name: s for s in self.statements if hasattr(s, "name")}
        self.pointers = {b: self.names.fresh(b) for b in self.buffer_of}
        self.c_names = {n: self.names.fresh(n) for n in (*self.given, *self.named)}
        self.ready: dict[str, str] = {}  # loads whose memory vector is at hand: name -> C text
        self.dtypes = {n: d for n, (d, _) in self.given.items()} | {n: s.dtype for n, s in self.named.items()}
        self.along = {n for n, (_, varies) in self.given.items() if varies}  # names that vary along the lanes
        for s in self.statements:
            if self._varies(s) and hasattr(s, "name"):
                self.along.add(s.name)

    def _varies(self, s: Statement) -> bool:
        """Whether a statement's value differs between lanes."""
        if isinstance(s, Reduce):
            return s.arg in self.along and self.vector not in self.reduced
        if isinstance(s, Scan):
            return s.arg in self.along or self.vector in self.reduced
        return self.vector in symbols_of(s) or any(d in self.along for d in dependencies(s, self.dtypes))

    # Types and operands

    def type_of(self, dtype: torch.dtype) -> Vector:
        return register_type(dtype, self.lanes, self.isa)

    @property
    def mask(self) -> Vector:
        return self.isa.mask(self.lanes)

    def operand(self, name: str) -> Operand:
        s = self.named.get(name)
        if isinstance(s, Const):
            return constant(s.value, s.dtype, self.lanes, self.isa)
        return Operand(self.c_names[name], self.dtypes[name])

    def live(self, w: Writer, left: str, name: str = "live") -> None:
        """Declare the mask of the first `left` lanes."""
        w.line(f"const {self.mask} {name} = lanes_{self.mask} < (int)({left});")

    # Statements

    def write(self, w: Writer, s: Statement, live: bool = False) -> None:
        """Print one statement; `live`: only the lanes of the mask `live` hold elements."""
        if isinstance(s, Const):
            return
        w.comment(getattr(s, "origin", ""))
        if isinstance(s, Load):
            self._load(w, s, live)
        elif isinstance(s, Index):
            self._declare(w, s, self._index_vector(w, s))
        elif isinstance(s, Apply):
            operands = [self.operand(a) for a in s.args]
            self._declare(w, s, scalar_text(s.op, s.dtype, operands, self.lanes, self.isa, s.attr))
        elif isinstance(s, Store):
            self._store(w, s, live)
        elif isinstance(s, Check):
            self._check(w, s, live)
        else:
            raise Unsupported(f"a {type(s).__name__} among pointwise statements")

    def _declare(self, w: Writer, s, text: str) -> None:
        w.line(f"const {self.type_of(s.dtype)} {self.c_names[s.name]} = {text};")

    # Indices

    def size(self, size: Dim) -> str:
        """The text of a size, as a factor of a product."""
        return size_text(size, self.name_of)

    def parameters(self, written: Iterable[str]) -> list[str]:
        """The C parameters for the buffers, of which some are written to, and for the sizes."""
        written = frozenset(written)
        pointers = [f"{'' if name in written else 'const '}{memory_type(b.dtype, 1).scalar} *restrict {self.pointers[name]}"
                    for name, b in self.buffer_of.items()]
        return [*pointers, *(f"long {name}" for name in self.size_names.values())]

    def arguments(self) -> list[str]:
        """What a function with these parameters passes on to another one."""
        return [*self.pointers.values(), *self.size_names.values()]

    def step(self, index: Expr) -> Dim | None:
        """Elements from one lane's place to the next one's; None where there is no such number."""
        if any(s.name in self.along for s in index.symbols()):
            return None
        axis = next((s for s in index.symbols() if s.name == self.vector), None)
        return 0 if axis is None else index.coefficient(axis)

    def place(self, index: Expr, lane: str = "") -> str:
        """The text of an index at the first lane, or at lane number `lane`."""
        return index_text(index, lambda name: self.name_of(name, lane))

    def name_of(self, name: str, lane: str = "") -> str:
        """The text of a symbol in an index: an axis, a size, or the value of a statement."""
        if name in self.axis_names:
            axis = self.axis_names[name]
            return f"({axis} + {lane})" if lane and name == self.vector else axis
        if name in self.size_names:
            return self.size_names[name]
        return f"{self.c_names[name]}[{lane if lane and name in self.along else 0}]"

    def _index_vector(self, w: Writer, s: Index) -> str:
        step, t = self.step(s.index), self.type_of(s.dtype)
        if step is None:
            lanes = w_fresh = self.names.fresh(s.name + "_lanes")
            w.line(f"{t} {lanes};")
            w.line(f"for (long k = 0; k < {self.lanes}; k++) {w_fresh}[k] = {self.place(s.index, 'k')};")
            return lanes
        first = f"splat_{t}({self.place(s.index)})"
        if step == 0:
            return first
        return f"{first} + lanes_{t}" + (f" * {size_text(step, self.name_of)}" if step != 1 else "")

    # Memory

    def _load(self, w: Writer, s: Load, live: bool) -> None:
        buffer, step = self.buffer_of[s.buffer], self.step(s.index)
        raw, p = memory_type(buffer.dtype, self.lanes), self.pointers[s.buffer]
        varying_guard = s.guard in self.along
        if s.name in self.ready:
            text = self.ready[s.name]
        elif step == 0 and not varying_guard:
            text = f"splat_{raw}({p}[{self.place(s.index)}])"
        elif step in (1, -1):
            conditions = ([self.c_names[s.guard]] if varying_guard else []) + ["live"] * live
            at = self._first(s, p, step)
            mask = self._in_order(" & ".join(conditions), self.mask, step)
            text = self._in_order(f"load_where_{raw}({at}, {mask})" if conditions else f"load_{raw}({at})", raw, step)
            if s.name in self.ahead:
                w.line(f"__builtin_prefetch({at} + {self.ahead[s.name]});")
        else:
            text = self._gather(w, s, raw, p, live)
        if buffer.dtype in FORMS:
            text = f"decode_{FORMS[buffer.dtype]}_{self.type_of(buffer.dtype)}({text})"
        if buffer.dtype != s.dtype:
            raise Unsupported(f"a load of {s.dtype} from a buffer of {buffer.dtype}")
        if s.guard:
            other = f"splat_{self.type_of(s.dtype)}({literal(s.other, s.dtype)})"
            guard = self.c_names[s.guard]
            text = (f"select_{self.type_of(s.dtype)}({guard}, {text}, {other})" if varying_guard else
                    f"{guard}[0] ? {text} : {other}")
        self._declare(w, s, text)

    def _first(self, s: Load | Store, p: str, step: int) -> str:
        """The first address of a vector whose lanes lie next to each other, upwards or downwards."""
        return f"{p} + {self.place(s.index)}" + (f" - {self.lanes - 1}" if step == -1 else "")

    @staticmethod
    def _in_order(text: str, t: Vector, step: int) -> str:
        """A vector between the order of the lanes and that of addresses."""
        return f"reversed_{t}({text})" if step == -1 else text

    def _gather(self, w: Writer, s: Load, raw: Vector, p: str, live: bool) -> str:
        """Read lane by lane."""
        lanes = self.names.fresh(s.name + "_lanes")
        guard, varies = self.c_names.get(s.guard, ""), s.guard in self.along
        all_or_none = f"if ({guard}[0]) " if guard and not varies else ""
        conditions = [f"{guard}[k]"] * varies + ["live[k]"] * live
        each = f"if ({' && '.join(conditions)}) " if conditions else ""
        w.line(f"{raw} {lanes}{' = {}' if all_or_none or each else ''};")
        w.line(f"{all_or_none}for (long k = 0; k < {self.lanes}; k++) {each}{lanes}[k] = {p}[{self.place(s.index, 'k')}];")
        return lanes

    def _store(self, w: Writer, s: Store, live: bool) -> None:
        buffer, step = self.buffer_of[s.buffer], self.step(s.index)
        raw, p, value = memory_type(buffer.dtype, self.lanes), self.pointers[s.buffer], self.operand(s.value).vector
        if buffer.dtype != self.dtypes[s.value]:
            raise Unsupported(f"a store of {self.dtypes[s.value]} into a buffer of {buffer.dtype}")
        if buffer.dtype in FORMS:
            value = f"encode_{FORMS[buffer.dtype]}_{self.type_of(buffer.dtype)}({value})"
        if step == 0:
            w.line(f"{p}[{self.place(s.index)}] = {self._first_lane(value)};")
        elif step in (1, -1):
            at, value = self._first(s, p, step), self._in_order(value, raw, step)
            w.line(f"store_where_{raw}({at}, {value}, {self._in_order('live', self.mask, step)});" if live else
                   f"{'stream' if s.buffer in self.streamed else 'store'}_{raw}({at}, {value});")
        else:
            lanes = self.names.fresh(s.value + "_lanes")
            w.line(f"const {raw} {lanes} = {value};")
            w.line(f"for (long k = 0; k < {self.lanes}; k++) {'if (live[k]) ' if live else ''}"
                   f"{p}[{self.place(s.index, 'k')}] = {lanes}[k];")

    @staticmethod
    def _first_lane(value: str) -> str:
        return f"{value}[0]" if value.isidentifier() or value.endswith(")") else f"({value})[0]"

    def _check(self, w: Writer, s: Check, live: bool) -> None:
        ok = self.operand(s.ok).vector
        if s.ok not in self.along:
            failed = f"!{self._first_lane(ok)}"
        else:
            failed = f"any_lanes_{self.mask}(~{ok}{' & live' if live else ''})[0]"
        w.open(f"if ({failed})")
        w.line(f"__atomic_store_n(error, {1 + s.code}, __ATOMIC_RELAXED);")
        w.line("return;")
        w.close()
