"""The text form of a graph. `parse(show(g))` gives `g` back.

    graph f[s0 >= 2, n in 2..64 as 20](%x: f32[s0,8], %w: bf16[8,4]{1,8}@cuda:0, %n: i64[] = n) {
      %mul_0 = mul(%x, 2.0)                         : f32[s0,8]  # model.py:14
      %sum_0 = sum(%mul_0, dim=(1,), keepdim=False) : f32[s0]    # model.py:15 grad of expand
      return loss=%sum_0
    }

A type is dtype[sizes]{strides}@device, or float or int for a Python number that comes with each call; strides stand where
they are not the contiguous ones, the device where it is not the CPU. Several results are (type, type); a Python object is
one word. Size symbols stand after the graph's name, with their bounds and perhaps a typical value; `= n` after an input's
type says that the input holds that symbol's value. `$0` is an opaque call's first input. An origin keeps the last part of
the file's path. The elements of a large tensor among the attributes are not in the text.
"""
from __future__ import annotations

import ast
import hashlib
import operator
import re
from typing import Any, Iterator, NoReturn

import torch

from ..errors import InvalidText
from .dims import Dim, Expr, Sym, simplest, sym
from .ir import Graph, Number, NumberType, ObjectType, Origin, TensorType, TupleType, Type, Value
from .op import OPS
from .ops.core import Operand

_SHORT = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
          torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
          torch.complex64: "c64", torch.complex128: "c128"}
_LONG = {short: dtype for dtype, short in _SHORT.items()}
_NUMBERS = {torch.float64: "float", torch.int64: "int"}
_WORDS = {"None": None, "True": True, "False": False, "nan": float("nan"), "inf": float("inf")}
_PRODUCTS = {"*": operator.mul, "//": operator.floordiv, "%": operator.mod}
_WIDTH = 110           # of a header line, before it is broken up
_ELEMENTS_SHOWN = 16   # of a tensor among the attributes


# Writing

def dtype_text(d: torch.dtype) -> str:
    return _SHORT.get(d, str(d).removeprefix("torch."))


def type_text(t: Type) -> str:
    if isinstance(t, TupleType):
        return "(" + ", ".join(map(type_text, t.items)) + ")"
    if isinstance(t, ObjectType):
        return t.what
    if isinstance(t, NumberType):
        text = _NUMBERS[t.dtype]
        return text if t.device.type == "cpu" else f"{text}@{t.device}"
    text = f"{dtype_text(t.dtype)}[{','.join(map(str, t.shape))}]"
    if not t.contiguous:
        text += "{" + ",".join(map(str, t.strides)) + "}"
    return text if t.device.type == "cpu" else f"{text}@{t.device}"


def literal_text(a: Any) -> str:
    """An attribute or a number operand."""
    if isinstance(a, torch.dtype):
        return dtype_text(a)
    if isinstance(a, complex):
        return f"complex({a.real!r}, {a.imag!r})"
    if isinstance(a, torch.Tensor):
        return _tensor_text(a)
    if isinstance(a, tuple):
        return "(" + ", ".join(map(literal_text, a)) + ("," if len(a) == 1 else "") + ")"
    if isinstance(a, list):
        return "[" + ", ".join(map(literal_text, a)) + "]"
    if isinstance(a, dict):
        return "{" + ", ".join(f"{literal_text(k)}: {literal_text(x)}" for k, x in a.items()) + "}"
    if isinstance(a, type):
        return f"{a.__module__}.{a.__qualname__}"
    return str(a) if isinstance(a, torch.device) else repr(a)


def _tensor_text(t: torch.Tensor) -> str:
    kind = type_text(TensorType(tuple(t.shape), t.dtype, t.device))
    if t.numel() <= _ELEMENTS_SHOWN:
        return f"tensor({kind}, {literal_text(t.reshape(-1).tolist())})"
    elements = t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return f"tensor({kind}, sha256={hashlib.sha256(elements).hexdigest()[:16]!r})"


def show(graph: Graph) -> str:
    """One value a line: name, op, operands, type, and where it comes from."""
    rows = []
    for v in graph.values:
        args = [f"%{i.name}" if isinstance(i, Value) else literal_text(i) for i in v.inputs]
        args += [f"{k}={literal_text(a)}" for k, a in v.attrs.items()]
        rows.append((f"  %{v.name} = {v.op.name}({', '.join(args)})", type_text(v.type), str(v.origin)))
    left = min(max((len(r[0]) for r in rows), default=0), 72)
    middle = min(max((len(r[1]) for r in rows), default=0), 24)
    lines = [_header(graph)]
    for a, t, o in rows:
        lines.append((f"{a:<{left}} : {t:<{middle}}" + (f"  # {o}" if o else "")).rstrip())
    names = [f"{_word(n)}=" for n in graph.output_names] or [""] * len(graph.outputs)
    lines.append(f"  return {', '.join(f'{n}%{o.name}' for n, o in zip(names, graph.outputs))}".rstrip())
    return "\n".join(lines) + "\n}"


def _header(graph: Graph) -> str:
    bound = {i: f" = {i.attrs['symbol']}" for i in graph.inputs if "symbol" in i.attrs}
    inputs = [f"%{i.name}: {type_text(i.type)}{bound.get(i, '')}" for i in graph.inputs]
    bounds = [_bound(s) for s in sorted(graph.symbols(), key=lambda s: s.name)]
    start = f"graph {_word(graph.name)}[{', '.join(bounds)}](" if bounds else f"graph {_word(graph.name)}("
    line = f"{start}{', '.join(inputs)}) {{"
    if len(line) <= _WIDTH and not any(str(i.origin) for i in graph.inputs):
        return line
    rows = [text + ("," if n < len(inputs) else "") for n, text in enumerate(inputs, 1)]
    rows = [f"    {row}  # {i.origin}" if str(i.origin) else f"    {row}" for row, i in zip(rows, graph.inputs)]
    return "\n".join([start, *rows, ") {"])


def _bound(s: Sym) -> str:
    bounds = f"{s} >= {s.lo}" if s.hi is None else f"{s} in {s.lo}..{s.hi}"
    return bounds if s.hint is None else f"{bounds} as {s.hint}"


def _word(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else repr(name)


# Reading

_TOKEN = re.compile(r"""
    (?P<space>[ \t\r]+)
  | (?P<comment>\#[^\n]*)
  | (?P<newline>\n)
  | (?P<value>(?<!\))%[\w.]+)
  | (?P<operand>\$\d+)
  | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
  | (?P<word>[A-Za-z_][\w.]*)
  | (?P<mark>\.\.|>=|//|[-+*%()\[\]{}=,:@])
""", re.VERBOSE)


def parse(text: str) -> Graph:
    """The graph that a text shows. InvalidText names the line and what was expected there."""
    return _Reader(text).graph()


class _Reader:
    """A recursive-descent reader: one method for each part of the text."""

    def __init__(self, text: str):
        self.tokens = list(_tokens(text))
        self.at = 0
        self.values: dict[str, Value] = {}
        self.symbols: dict[str, Expr] = {}

    # Tokens

    def fail(self, expected: str) -> NoReturn:
        _, text, line = self.tokens[self.at]
        raise InvalidText(f"line {line}: expected {expected}, found {text!r}" if text.strip() else
                          f"line {line}: expected {expected} before the end of the {'line' if text else 'text'}")

    def next_is(self, text: str) -> bool:
        kind, found, _ = self.tokens[self.at]
        return found == text and kind != "string"

    def accept(self, text: str) -> bool:
        found = self.next_is(text)
        self.at += found
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(repr(text))

    def take(self, kind: str, expected: str) -> str:
        """The next token's text, which must be of a kind."""
        found, text, _ = self.tokens[self.at]
        if found != kind:
            self.fail(expected)
        self.at += 1
        return text

    def listed(self, end: str, element) -> list:
        """Elements between commas (a last comma is allowed), up to `end`, which is taken."""
        found = []
        while not self.accept(end):
            found.append(element())
            if not self.accept(","):
                self.expect(end)
                break
        return found

    def lines(self) -> None:
        """Go on to the next line with something on it."""
        while self.tokens[self.at][0] in ("newline", "comment"):
            self.at += 1

    def word_or_string(self, expected: str) -> str:
        if self.tokens[self.at][0] == "string":
            return ast.literal_eval(self.take("string", expected))
        return self.take("word", expected)

    # Graphs

    def graph(self) -> Graph:
        self.lines()
        self.expect("graph")
        name = self.word_or_string("the graph's name")
        if self.accept("["):
            self.symbols = dict(self.listed("]", self.bound))
        self.expect("(")
        inputs = self.graph_inputs()
        self.lines()
        self.expect("{")
        values = []
        self.lines()
        while not self.accept("return"):
            values.append(self.assignment())
            self.lines()
        outputs = self.outputs()
        self.lines()
        self.expect("}")
        self.lines()
        if self.tokens[self.at][0] != "end":
            self.fail("the end of the text")
        return Graph(name, inputs, tuple(values), tuple(v for _, v in outputs), tuple(n for n, _ in outputs if n is not None))

    def bound(self) -> tuple[str, Expr]:
        name = self.take("word", "a size symbol")
        hi = None
        if self.accept(">="):
            lo = self.integer()
        else:
            self.expect("in")
            lo = self.integer()
            self.expect("..")
            hi = self.integer()
        return name, sym(name, lo, hi, self.integer() if self.accept("as") else None)

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        return sign * int(self.take("number", "an integer"))

    def graph_inputs(self) -> tuple[Value, ...]:
        found: list[Value] = []
        self.lines()
        while not self.accept(")"):
            name = self.take("value", "an input such as %x, or ')'")[1:]
            self.expect(":")
            type = self.type()
            attrs = {"symbol": self.symbol()} if self.accept("=") else {}
            more = self.accept(",")
            found.append(self.define(Value(name, OPS["input"], (), attrs, type, self.origin())))
            self.lines()
            if not more:
                self.expect(")")
                break
        return tuple(found)

    def symbol(self) -> Sym:
        name = self.take("word", "a size symbol")
        if name not in self.symbols:
            self.at -= 1
            self.fail("a size symbol")
        return self.symbols[name].symbol

    def assignment(self) -> Value:
        name = self.take("value", "a value such as %x, or 'return'")[1:]
        self.expect("=")
        op = self.take("word", "the name of an op")
        if op not in OPS:
            self.at -= 1
            self.fail("the name of an op")
        self.expect("(")
        arguments = self.listed(")", self.argument)
        self.expect(":")
        type = self.type()
        origin = self.origin()
        if self.tokens[self.at][0] != "newline":
            self.fail("the end of the line")
        operands, attrs = [a for k, a in arguments if not k], {k: a for k, a in arguments if k}
        return self.define(Value(name, OPS[op], operands, attrs, type, origin))

    def define(self, v: Value) -> Value:
        if v.name in self.values:
            self.at -= 1
            self.fail(f"a name other than %{v.name}, which is taken")
        self.values[v.name] = v
        return v

    def argument(self) -> tuple[str, Any]:
        """An operand, as ("", operand), or an attribute, as (name, value)."""
        kind = self.tokens[self.at][0]
        if kind == "value":
            return "", self.known_value()
        if kind == "word" and self.tokens[self.at + 1][1] == "=":
            name = self.take("word", "an attribute")
            self.expect("=")
            return name, self.literal()
        return "", self.literal()

    def known_value(self) -> Value:
        name = self.take("value", "a value such as %x")[1:]
        if name not in self.values:
            self.at -= 1
            self.fail("a value defined above")
        return self.values[name]

    def outputs(self) -> list[tuple[str | None, Value]]:
        found: list[tuple[str | None, Value]] = []
        while self.tokens[self.at][0] not in ("newline", "comment", "end"):
            name = None
            if self.tokens[self.at][0] != "value":
                name = self.word_or_string("an output")
                self.expect("=")
            found.append((name, self.known_value()))
            if not self.accept(","):
                break
        return found

    def origin(self) -> Origin:
        if self.tokens[self.at][0] != "comment":
            return Origin()
        text = self.take("comment", "an origin")[1:].strip()
        place = re.match(r"(.+?):(\d+)(?: |$)", text)
        if not place:
            return Origin(note=text)
        return Origin(place[1], int(place[2]), text[place.end():])

    # Types and literals

    def type(self) -> Type:
        if self.accept("("):
            return TupleType(tuple(self.listed(")", self.type)))
        word = self.take("word", "a type such as f32[2,3]")
        for dtype, name in _NUMBERS.items():
            if word == name and not self.next_is("["):
                return NumberType((), dtype, self.on_device())
        if not self.accept("["):
            return ObjectType(word)
        dtype = _dtype(word)
        if dtype is None:
            self.at -= 2
            self.fail("a dtype")
        shape = tuple(self.listed("]", self.literal))
        strides = tuple(self.listed("}", self.literal)) if self.accept("{") else None
        return TensorType(shape, dtype, self.on_device(), strides)

    def on_device(self) -> torch.device:
        return self.device(self.take("word", "a device")) if self.accept("@") else torch.device("cpu")

    def device(self, word: str) -> torch.device:
        try:
            return torch.device(f"{word}:{self.integer()}" if self.accept(":") else word)
        except RuntimeError:
            self.at -= 1
            self.fail("a constant, a dtype, a size symbol or a device")

    def literal(self) -> Any:
        """A constant, or a sum of sizes."""
        total = self.product()
        while (add := self.accept("+")) or self.accept("-"):
            other = self.size(self.product())
            total = simplest(self.size(total) + (other if add else -other))
        return total

    def product(self) -> Any:
        total = self.factor()
        while (mark := self.tokens[self.at][1]) in ("*", "//", "%"):
            self.at += 1
            other = self.size(self.factor())
            total = simplest(_PRODUCTS[mark](self.size(total), other))
        return total

    def size(self, operand: Any) -> Dim:
        if not isinstance(operand, (int, Expr)):
            self.at -= 1
            self.fail("a size (arithmetic is for sizes alone)")
        return operand

    def factor(self) -> Any:
        if self.accept("-"):
            return -self.factor()
        kind, text, _ = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return int(text) if text.isdigit() else float(text)
        if kind == "string":
            return ast.literal_eval(text)
        if kind == "operand":
            return Operand(text[1:])
        if kind == "word":
            return self.named(text)
        if text == "(":
            return self.tuple_or_parentheses()
        if text == "[":
            return self.listed("]", self.literal)
        if text == "{":
            return dict(self.listed("}", self.entry))
        self.at -= 1
        self.fail("a constant")

    def tuple_or_parentheses(self) -> Any:
        found = []
        while not self.accept(")"):
            found.append(self.literal())
            if not self.accept(","):
                self.expect(")")
                return found[0] if len(found) == 1 else tuple(found)
        return tuple(found)

    def entry(self) -> tuple[Any, Any]:
        key = self.literal()
        self.expect(":")
        return key, self.literal()

    def named(self, word: str) -> Any:
        if word in _WORDS:
            return _WORDS[word]
        if word in self.symbols:
            return self.symbols[word]
        if self.accept("("):
            return self.complex() if word == "complex" else self.tensor()
        if (dtype := _dtype(word)) is not None:
            return dtype
        setting = getattr(torch, word.removeprefix("torch."), None)
        if isinstance(setting, (torch.memory_format, torch.layout)):
            return setting
        return self.device(word)

    def complex(self) -> Number:
        real, imaginary = self.listed(")", self.literal)
        return complex(real, imaginary)

    def tensor(self) -> torch.Tensor:
        kind = self.type()
        self.expect(",")
        if not self.next_is("["):
            self.fail("the elements (a large tensor is not in the text)")
        elements = self.literal()
        self.expect(")")
        return torch.tensor(elements, dtype=kind.dtype, device=kind.device).reshape(kind.shape)


def _dtype(word: str) -> torch.dtype | None:
    found = _LONG.get(word, getattr(torch, word, None))
    return found if isinstance(found, torch.dtype) else None


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line) of every token but spaces, and an empty one of kind "end"."""
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise InvalidText(f"line {line}: {text[position]!r} begins nothing that can stand here")
        position = found.end()
        if found.lastgroup != "space":
            yield found.lastgroup, found.group(), line
        line += found.lastgroup == "newline"
    yield "end", "", line
