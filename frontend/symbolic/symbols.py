"""Numbers that change from call to call, as a recording sees them.

A `Float` or an `Int` stands in for a Python number during a recording. User code and torch take it for one; what is
computed of it is noted as lines of Python (`n2 = n0 * 2.0`), which later calls run on their own numbers: exactly Python's
arithmetic. A comparison answers with its present truth and becomes a condition of the program; whatever asks for the
number itself (`int(n)`, `range(n)`, printing it) fixes it: the program holds for this value alone.
"""
from __future__ import annotations

import math
import operator
import sys
import types
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Callable, Iterable, Iterator, Union

import numpy
import torch

from ...compiler.dims import LONGEST, Dim, Expr, known, simplest
from ..torch_internals import WRAPPED_NUMBER, without_modes
from .membership import looked_for_in

Plain = Union[bool, int, float]
#: (n, d) of the float nearest to n / d, where d is positive, and small enough that rounding passes no whole number.
Ratio = tuple[Dim, int]
#: The largest number that is divided or multiplied by in one.
_LARGEST_PART = 1 << 16
#: Characters of an expression shown to people.
_SHOWN = 60


def _shortened(shown: str) -> str:
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN - 3]}..."


@dataclass(frozen=True)
class Asked:
    """Something asked of a run's numbers that decides what it does: on a later call, the Python expression `test` is to be true.

    `now` gives what was asked about, which was `expected` in the run; `subject` is its name for people."""
    test: str
    now: str
    subject: str
    expected: Any
    names: frozenset[str]


class Numbers:
    """What one recording computes of its symbolic numbers, and what it asks of them.

    lines       name -> (text, the names in it), in the order computed; every text is Python over earlier names
    asked       by their tests
    data        the names of those that come of readings (see readings.py); what is asked of these, `tell` is told
    compared    the names in what `tell` was told, and others that later calls are to know
    raising     the names of those that Python may raise for on a later call, so that they are computed although nobody needs them
    quiet       tells whether what is asked now does not matter
    places_in   the names of those that are places in tensors wherever the program holds
    in_graph    the graph's values of whole numbers in tensors, by their names: as the place of a row the graph has them itself
    unread      of these, the nodes of those that Python has not been told; once something else is computed or asked of one,
                `read_now` is told of it
    places      those that were given, in order; what is read of tensors is none of them
    elements    those in tensors of the call, as they were read
    parts       the operator and the operands of those that are sums, products, quotients or remainders
    scalars     whether there are stand-ins for NumPy's numbers (scalars.py)
    alive       whether the recording goes on; afterwards, and in other threads, the numbers act as the plain ones they hold
    """

    def __init__(self):
        self.lines: dict[str, tuple[str, frozenset[str]]] = {}
        self.asked: dict[str, Asked] = {}
        self.data: set[str] = set()
        self.compared: set[str] = set()
        self.raising: set[str] = set()
        self.tell: Callable[[Asked], None] = lambda asked: None
        self.quiet: Callable[[], Any] = lambda: False
        self.places_in: set[str] = set()
        self.in_graph: dict[str, Any] = {}
        self.unread: dict[str, Node] = {}
        self.read_now: Callable[[Node], None] = lambda node: None
        self.places: list[Node] = []
        self.elements: list[Node] = []
        self.parts: dict[str, tuple[str, Node, Node]] = {}
        self._fixed: set[str] = set()
        self.alive, self.scalars = True, False
        self._thread = get_ident()
        self._known: dict[str, Node] = {}
        self._count = 0
        self._made: dict[int, weakref.ref] = {}
        self._tuples: dict[int, tuple] = {}
        self._plain: dict[int, tuple[tuple, tuple]] = {}

    @property
    def listening(self) -> bool:
        return self.alive and get_ident() == self._thread and not self.quiet()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Inside, what is asked of the numbers counts although the run is over."""
        self.alive = True
        try:
            yield
        finally:
            self.alive = False

    def given(self, value: Plain, subject: str) -> "Float | Int":
        """The number in a place that the guards read, into a local of its node's name; `subject` names it for people."""
        self.places.append(Node(self, self._name(), value, subject))
        return self.places[-1].wrapped()

    def read(self, value: Plain, subject: str) -> "Float | Int":
        """The number that the run reads of a tensor."""
        number = Node(self, self._name(), value, _shortened(subject))
        self.data.add(number.name)
        return number.wrapped()

    def read_later(self, value: int, subject: str, in_graph: Any) -> "Int":
        """The same for a whole number that nobody needs yet; `in_graph` is the graph's value of it."""
        number = self.read(value, subject)
        self.in_graph[number.node.name], self.unread[number.node.name] = in_graph, number.node
        return number

    def want(self, names: Iterable[str]) -> None:
        """Python is to be told these numbers, if it has not been yet."""
        for name in [n for n in self.unread if n in names]:
            self.read_now(self.unread.pop(name))

    def need(self, names: Iterable[str]) -> None:
        """Later calls are to know the numbers of these names in their course."""
        self.want(names)
        self.compared |= set(names)

    def number(self, text: str, value: Plain, subject: str, size: Dim | None = None, needs: Iterable[str] = ()) -> "Float | Int":
        """The number that the Python expression `text`, over names that the guards define, gives on every call.

        size: the same as a size of the IR, for an int that may be one; needs: the names of inputs in the text."""
        node = self._node(text, frozenset(needs), value, subject, size)
        if needs:
            self.elements.append(node)
        return node.wrapped()

    def made(self, number: "Float | Int") -> "Float | Int":
        """Note a stand-in that was made, for `surviving`."""
        self._made[id(number)] = weakref.ref(number)
        return number

    def surviving(self) -> list["Float | Int"]:
        """The stand-ins that something still holds."""
        return [n for n in (r() for r in self._made.values()) if n is not None]

    def tuple_noted(self, value: tuple) -> tuple:
        """A tuple with the nodes of the numbers in it, one for each such tuple."""
        nodes, known = tuple(map(noted, value)), self._tuples.get(id(value), ())
        if len(known) != len(nodes) or any(a is not b for a, b in zip(known, nodes)):
            self._tuples[id(value)] = nodes
        return self._tuples[id(value)]

    def stands_for(self, made: tuple, before: tuple) -> None:
        """A tuple stands for another one in this run."""
        if (nodes := noted(made)) is not made:
            self._plain[id(nodes)] = nodes, before

    def tuple_unnoted(self, nodes: tuple) -> tuple:
        """What a tuple with nodes is without them, the same object each time."""
        if id(nodes) not in self._plain:
            self._plain[id(nodes)] = nodes, tuple(map(unnoted, nodes))
        return self._plain[id(nodes)][1]

    def needed(self, names: Iterable[str]) -> dict[str, tuple[str, frozenset[str]]]:
        """The lines that define these names, in order."""
        wanted = set(names)
        for name in reversed(self.lines):
            if name in wanted:
                wanted |= self.lines[name][1]
        return {name: line for name, line in self.lines.items() if name in wanted}

    def compute(self, text: str, function: Callable, *operands: "Node", size: Dim | None = None,
                ratio: Ratio | None = None, raises: bool = False) -> "Node":
        """The node of `function(*operands)`; `text` has a {} for each operand. Where Python raises, the operands are fixed.

        raises: whether it may do so for other operands"""
        try:
            value = function(*(o.value for o in operands))
        except Exception:
            for o in operands:
                o.fixed()
            raise
        if isinstance(size, int):  # it is the same for all sizes
            return Node(self, "", value)
        symbolic = self.listening and any(o.name for o in operands)
        if not symbolic or not isinstance(value, (int, float)):
            for o in operands:
                o.fixed()
            return Node(self, "", value)
        names = frozenset(o.name for o in operands if o.name)
        shown = text.format(*(o.shown for o in operands))
        node = self._node(text.format(*(o.text for o in operands)), names, value, f"({shown})", size)
        node.ratio = ratio if isinstance(value, float) else None
        if raises:
            self.raising.add(node.name)
        return node

    def _name(self) -> str:
        self._count += 1
        return f"n{self._count - 1}"

    @property
    def _node_type(self) -> "type[Node]":
        return Node

    def _node(self, text: str, names: frozenset[str], value: Plain, shown: str, size: Dim | None) -> "Node":
        if text not in self._known:
            self.want(names)
            name = self._name()
            self.lines[name] = text, names
            if not names.isdisjoint(self.data):
                self.data.add(name)
            self._known[text] = self._node_type(self, name, value, _shortened(shown), size)
        return self._known[text]

    def holds(self, text: str, truth: bool, *operands: "Node") -> bool:
        """Note that a comparison, with a {} for each operand, comes out like this; gives the outcome."""
        test, shown = (text.format(*(getattr(o, part) for o in operands)) for part in ("text", "shown"))
        self._note(test if truth else f"not ({test})", f"bool({test})", shown, truth, *operands)
        return truth

    def convertible(self, node: "Node", dtype: torch.dtype) -> None:
        """Let the program hold for the numbers that this dtype has room for: where it has not, torch raises or wraps."""
        n = node.text
        if dtype == torch.bool or dtype == torch.float64 or dtype == torch.int64 and (
                isinstance(node.size, Expr) or node.name in self.places_in):
            return
        limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        test = f"{limits.min} <= {n} <= {limits.max}"
        fits = limits.min <= node.value <= limits.max
        if dtype.is_floating_point:
            if node.is_int() and limits.max > 1 << 64:
                return
            test, fits = f"({test} or {n} - {n} != 0)", fits or not math.isfinite(node.value)
        if fits:
            self._note(test, f"bool({test})", f"{node.shown} fits {dtype}", True, node)
        else:
            self.fix(node)

    def fix(self, node: "Node") -> None:
        """Let the program hold for the node's present value alone."""
        if self.listening:
            self._fixed.add(node.name)
        self._note(f"same({node.text}, {literal(node.value)})", node.text, node.shown, node.value, node)

    def as_key(self, node: "Node", frame: types.FrameType) -> Plain:
        """The node's value for a dict or set, or for what else looks a number up, on behalf of this frame."""
        keys = looked_for_in(frame) if node.is_int() and self.listening else None
        if keys is None:
            return node.fixed()
        self.holds(f"{{}} in {keys!r}", node.value in keys, node)
        return node.value

    def length(self, number: "Int | int") -> Dim:
        """A number as the size of something: in this run it is the present one."""
        return fixed(number)

    def of_sizes(self, node: "Node") -> bool:
        """Whether a number comes of sizes of tensors alone: where these are plain numbers, so is it."""
        return False

    def sources(self, name: str) -> set[str]:
        """The names that a number of this name is computed of, and itself."""
        names, added = set(), {name}
        while added:
            names |= added
            added = {n for name in added & self.lines.keys() for n in self.lines[name][1]} - names
        return names

    def lengths(self) -> dict[int, str]:
        """The whole numbers in places, by their order, that the run asked for, or for a number computed of them: each may be
        the size of something. Gives what they are called."""
        asked = self._asked_for(self.places)
        return {k: n.shown for k, n in enumerate(self.places) if n in asked}

    def element_lengths(self) -> dict[str, int]:
        """The same of numbers in tensors of the call: what each was, by what it is called."""
        return {n.shown: n.value for n in self._asked_for(self.elements)}

    def _asked_for(self, nodes: Iterable["Node"]) -> list["Node"]:
        """Those of some numbers that the run asked for, or for a number computed of them, and that may be sizes."""
        names = self._fixed.union(*(operands for _, operands in self.needed(self._fixed).values()))
        return [n for n in nodes if n.name in names and n.is_int() and 2 <= n.value < LONGEST]

    def _note(self, test: str, now: str, subject: str, expected: Any, *operands: "Node") -> None:
        names = frozenset(o.name for o in operands if o.name)
        if not self.listening or not names:
            return
        self.want(names)
        asked = Asked(test, now, subject, expected, names)
        if names.isdisjoint(self.data):
            self.asked.setdefault(test, asked)
        else:
            self.need(names)
            self.tell(asked)


class Node:
    """A symbolic number as torch's C++ asks for it: a SymNode.

    name    of its line in `numbers`, "" for a constant
    value   what it is in this run
    shown   its expression for people
    size    the same as a size of the IR, for an int that may stand as one; None if it is not known as such
    ratio   the same as a quotient of sizes, for a float; None if it is not known as one
    """
    __slots__ = ("numbers", "name", "value", "shown", "size", "ratio")

    def __init__(self, numbers: Numbers, name: str, value: Plain, shown: str = "", size: Dim | None = None):
        self.numbers, self.name, self.value, self.shown = numbers, name, value, shown or literal(value)
        self.size = value if not name and type(value) is int else size
        self.ratio: Ratio | None = None

    @property
    def text(self) -> str:
        return self.name or literal(self.value)

    def fixed(self) -> Any:
        """The value, which the program from here on depends on."""
        if self.name:
            self.numbers.fix(self)
        return self.value

    def wrapped(self) -> Any:
        """The number-like object of this node; a constant is the plain number."""
        return self.numbers.made((Int if isinstance(self.value, int) else Float)(self)) if self.name else self.value

    # What torch asks

    def is_int(self) -> bool:
        return type(self.value) is int

    def is_float(self) -> bool:
        return type(self.value) is float

    def is_bool(self) -> bool:
        return type(self.value) is bool

    def is_symbolic(self) -> bool:
        return True

    def is_constant(self) -> bool:
        return False

    def is_nested_int(self) -> bool:
        return False

    def has_hint(self) -> bool:
        return True

    def nothing(self, *_) -> None:
        """Of a symbolic number, no constant is known."""

    constant_int = constant_bool = maybe_as_int = maybe_as_float = maybe_as_bool = nested_int = singleton_int = nothing

    def guard_number(self, file: str = "", *_) -> Plain:
        if "tensor_new" in file and type(self.value) is int and not -1 << 31 <= self.value < 1 << 31:
            raise OverflowError(f"torch makes no tensor of the symbolic number {self.value}")  # it would cut it to 32 bits
        return self.fixed()

    guard_int = guard_float = int_ = require_hint = guard_number

    def guard_bool(self, *_) -> bool:
        return self.numbers.holds("{}", bool(self.value), self)

    bool_ = guard_size_oblivious = expect_true = guard_or_false = guard_or_true = statically_known_true = guard_bool

    def expect_size(self, *_) -> bool:
        return self.ge(self.constant(0)).guard_bool()

    def constant(self, value: Plain) -> "Node":
        return Node(self.numbers, "", value)

    wrap_int = wrap_float = wrap_bool = constant

    def clone(self) -> "Node":
        return self

    def str(self) -> str:
        return str(self.fixed())

    _graph_repr = str

    def sym_float(self) -> "Node":
        return self.numbers.compute("float({})", float, self, ratio=_as_ratio(self))

    def sym_int(self) -> "Node":
        if self.is_int():
            return self
        size = self.truncated()
        return self.numbers.compute("int({})", int, self, size=size, raises=size is None and self.is_float())

    trunc = sym_int

    def floored(self) -> Dim | None:
        """The largest whole number that is not above this, as a size of the IR; None if it is not known as one."""
        return self.size if self.ratio is None else simplest(self.ratio[0] // self.ratio[1])

    def raised(self) -> Dim | None:
        """The same, of the smallest that is not below."""
        return self.size if self.ratio is None else simplest(-(-self.ratio[0] // self.ratio[1]))

    def truncated(self) -> Dim | None:
        """The same, of the nearest towards 0."""
        size = self.floored()
        return size if self.ratio is None or known(size, 0) else None

    def round(self, digits: int | None = None) -> "Node":
        return self.numbers.compute(f"round({{}}, {digits})", lambda value: round(value, digits), self, raises=self.is_float())

    def sym_min(self, other: "Node") -> "Node":
        return self.numbers.compute("min({}, {})", min, self, other)

    def sym_max(self, other: "Node") -> "Node":
        return self.numbers.compute("max({}, {})", max, self, other)

    def sym_not(self) -> "Node":
        return self.numbers.compute("not {}", operator.not_, self)


class Stand:
    """A symbolic number that stands for an object of another type than Python's own: `of` gives the object for a value."""

    def of(self, value: Plain) -> Any:
        raise NotImplementedError


def literal(value: Plain) -> str:
    """A number's exact text, which may stand anywhere in an expression."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return f"({value!r})" if str(value).startswith("-") else repr(value)


def is_symbolic(value: Any) -> bool:
    """Whether a value is one of these numbers, or torch's own wrapping of one."""
    return isinstance(value, (torch.SymFloat, torch.SymInt, torch.SymBool)) and isinstance(value.node, Node)


def noted(value: Any) -> Any:
    """What a guard keeps of a value: of a symbolic number its node, of a tuple with such numbers one with their nodes."""
    if is_symbolic(value):
        return value.node
    number = next(filter(is_symbolic, value), None) if type(value) is tuple else None
    return value if number is None else number.node.numbers.tuple_noted(value)


def unnoted(value: Any) -> Any:
    """What `noted` was given, with what the numbers are in this run."""
    if is_symbolic(value):
        return plain(value)  # of the type that it stands for
    value = noted(value)
    if has_nodes(value):
        return next(v for v in value if isinstance(v, Node)).numbers.tuple_unnoted(value)
    return value.value if isinstance(value, Node) else value


def has_nodes(value: Any) -> bool:
    """Whether `noted` was given a tuple with symbolic numbers in it."""
    return type(value) is tuple and any(isinstance(v, Node) for v in value)


def plain(value: Any) -> Any:
    """A value with the symbolic numbers in it (in lists, tuples, slices and dicts) as what they are now. Fixes nothing."""
    return _with_numbers(value, lambda node: node.value)


def fixed(value: Any) -> Any:
    """The same for a place where only a plain number may stand: from here on the program depends on it."""
    return _with_numbers(value, Node.fixed)


def _with_numbers(value: Any, number: Callable[[Node], Plain]) -> Any:
    """A value with numbers in the place of the symbolic ones in it; itself where there are none."""
    if is_symbolic(value):
        found = number(value.node)
        return value.of(found) if issubclass(type(value), Stand) else found
    if type(value) in (list, tuple, deque, torch.Size):
        items = [_with_numbers(v, number) for v in value]
        return type(value)(items) if any(new is not v for new, v in zip(items, value)) else value
    if type(value) is slice:
        return slice(*(_with_numbers(v, number) for v in (value.start, value.stop, value.step)))
    if type(value) is dict:
        entries = {_with_numbers(k, number): _with_numbers(v, number) for k, v in value.items()}
        pairs = zip((*entries, *entries.values()), (*value, *value.values()))
        return entries if any(new is not v for new, v in pairs) else value
    return value


def own(value: Any) -> Any:
    """A value in which torch's wrappings of symbolic numbers, in lists and dicts too, are ours again."""
    if is_symbolic(value):
        return value.node.wrapped()
    if type(value) in (list, tuple):
        return type(value)(map(own, value))
    return {k: own(v) for k, v in value.items()} if type(value) is dict else value


@contextmanager
def wrapped_numbers_filled() -> Iterator[None]:
    """Tensors that torch makes of symbolic numbers hold their values: of itself it leaves NaN in them, for autograd to save."""
    def get(tensor: torch.Tensor) -> Any:
        if WRAPPED_NUMBER not in vars(tensor):
            raise AttributeError(WRAPPED_NUMBER)
        return vars(tensor)[WRAPPED_NUMBER]

    def put(tensor: torch.Tensor, number: Any) -> None:
        vars(tensor)[WRAPPED_NUMBER] = number
        if is_symbolic(number):
            with without_modes():
                tensor.fill_(number.node.value)
    setattr(torch.Tensor, WRAPPED_NUMBER, property(get, put))
    try:
        yield
    finally:
        delattr(torch.Tensor, WRAPPED_NUMBER)


# Arithmetic. A size stays one under +, -, *, and under // and % by what is surely positive.

def _size(symbol: str, a: Node, b: Node) -> Dim | None:
    return size_of(symbol, a.size, b.size)


def size_of(symbol: str, x: Dim | None, y: Dim | None) -> Dim | None:
    """What an operator gives of sizes, of which one is symbolic; None where it is not known as one."""
    if x is None or y is None or not (isinstance(x, Expr) or isinstance(y, Expr)):
        return None
    if symbol in ("//", "%") and not known(y, 1):
        return None
    return simplest(_SIZES[symbol](x, y)) if symbol in _SIZES else None


def _raises(symbol: str, b: Node) -> bool:
    """Whether an operator raises for some operands, where the second one is the present one if it is a constant."""
    if symbol in ("/", "//", "%"):
        return bool(b.name) and not (b.size is not None and known(b.size, 1))
    return symbol in ("**", "<<", ">>")


def _as_ratio(node: Node) -> Ratio | None:
    """A number as a quotient, if it is a size, a quotient of such, or a constant that is a short one."""
    if node.ratio is None and not node.name and isinstance(node.value, (int, float)) and math.isfinite(node.value):
        n, d = node.value.as_integer_ratio()
        return (n, d) if abs(n) <= _LARGEST_PART and d <= _LARGEST_PART else None
    return node.ratio if node.ratio is not None or node.size is None else (node.size, 1)


def _ratio(symbol: str, a: Node, b: Node) -> Ratio | None:
    """What an operator gives, as a quotient: where nothing is rounded, or the last division alone."""
    x, y = _as_ratio(a), _as_ratio(b)
    if x is None or y is None or not (isinstance(x[0], Expr) or isinstance(y[0], Expr)):
        return None
    (n, d), (m, e) = (y, x) if symbol == "*" and isinstance(y[0], Expr) else (x, y)
    exact = d & d - 1 == 0 and e & e - 1 == 0
    if symbol in ("+", "-") and exact:
        n, d = _SIZES[symbol](n * e, m * d), d * e
    elif symbol in ("*", "/") and isinstance(m, int) and m > 0 and (exact or m & m - 1 == 0):
        n, d = (n * m, d * e) if symbol == "*" else (n * e, d * m)
    else:
        return None
    return (n, d) if max([d, *(abs(c) for _, c in n.terms)]) <= _LARGEST_PART else None


_SIZES = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}
#: Python's name of the operator, the text, SymNode's names, and the types that have it.
_BINARY = (
    ("add", "+", ("add",), (float, int)), ("sub", "-", ("sub",), (float, int)), ("mul", "*", ("mul",), (float, int)),
    ("truediv", "/", ("truediv", "float_truediv", "int_truediv"), (float, int)),
    ("floordiv", "//", ("floordiv", "int_floordiv"), (float, int)), ("mod", "%", ("mod",), (float, int)),
    ("pow", "**", ("pow", "float_pow", "pow_by_natural"), (float, int)),
    ("and", "&", ("and_", "sym_and", "bitwise_and"), (int,)), ("or", "|", ("or_", "sym_or", "bitwise_or"), (int,)),
    ("xor", "^", ("bitwise_xor",), (int,)), ("lshift", "<<", ("lshift",), (int,)), ("rshift", ">>", ("rshift",), (int,)))
_COMPARISONS = (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
_UNARY = (("neg", "-{}", (float, int)), ("pos", "+{}", (float, int)), ("abs", "abs({})", (float, int)), ("invert", "~{}", (int,)))


def _function(name: str) -> Callable:
    return getattr(operator, f"__{name}__")


def as_operand(numbers: Numbers, value: Any) -> Node | None:
    """A value as an operand; None if it is no plain number."""
    if is_symbolic(value):
        return value.node
    return Node(numbers, "", value) if type(value) in (bool, int, float) else None


def _on_nodes(name: str, symbol: str) -> Callable:
    """SymNode's method of a binary operator."""
    function, text = _function(name), f"{{}} {symbol} {{}}"

    def method(self: Node, other: Node) -> Node:
        found = self.numbers.compute(text, function, self, other, size=_size(symbol, self, other),
                                     ratio=_ratio(symbol, self, other), raises=_raises(symbol, other))
        if symbol in _SIZES and found.name:
            self.numbers.parts[found.name] = symbol, self, other
        if name == "pow":  # of an int it may be an int or a float, of a float also complex
            found.numbers.holds(f"type({{}}) is {type(found.value).__name__}", True, found)
        return found
    return method


def _unary_on_nodes(name: str, text: str) -> Callable:
    def method(self: Node) -> Node:
        same = name == "pos" or name == "abs" and self.size is not None and known(self.size, 0)
        size = -self.size if name == "neg" and isinstance(self.size, Expr) else self.size if same else None
        found = self.numbers.compute(text, _function(name), self, size=size)
        if name == "neg" and found.name:
            self.numbers.parts[found.name] = "-", self.constant(0), self
        return found
    return method


def _binary(name: str, kind: type, reflected: bool) -> Callable:
    """Python's method of a binary operator. What other types make of a number is theirs to say, and fixes it."""
    method, own = getattr(Node, name), getattr(kind, f"__{'r' * reflected}{name}__")

    def operate(self, other, *modulo):
        if issubclass(type(other), Stand):  # whose type the result is of
            return NotImplemented
        operand = as_operand(self.node.numbers, other)
        if operand is not None and not modulo:
            return (method(operand, self.node) if reflected else method(self.node, operand)).wrapped()
        result = NotImplemented if isinstance(other, torch.Tensor) else own(self.node.value, other, *modulo)
        if result is not NotImplemented:
            self.node.fixed()
        return result
    return operate


def _no_operator(self, other) -> Any:
    """Python's method of an operator that torch's class has and the number has not."""
    return NotImplemented


def _comparison(name: str, symbol: str, kind: type) -> Callable:
    function, own, text = _function(name), getattr(kind, f"__{name}__"), f"{{}} {symbol} {{}}"

    def compare(self, other):
        if issubclass(type(other), Stand):
            return NotImplemented
        operand = as_operand(self.node.numbers, other)
        if operand is not None:
            return self.node.numbers.holds(text, function(self.node.value, operand.value), self.node, operand)
        result = NotImplemented if isinstance(other, torch.Tensor) else own(self.node.value, other)
        if result is not NotImplemented:
            self.node.fixed()
        return result
    return compare


def _unary(name: str) -> Callable:
    method = getattr(Node, name)

    def operate(self):
        return method(self.node).wrapped()
    return operate


def _of_the_value(name: str, kind: type) -> Any:
    """Anything else that the type has: asked of the value, which fixes it."""
    own = getattr(kind, name)
    if not callable(own):
        return property(lambda self: getattr(self.node.fixed(), name))

    def method(self, *args, **kwargs):
        return own(self.node.fixed(), *args, **kwargs)
    return method


class _Number:
    """What both classes of numbers have besides the operators."""

    def __copy__(self):
        return self

    def __deepcopy__(self, memo: dict):
        return self

    def __reduce_ex__(self, protocol: int) -> tuple:
        value = self.node.fixed()
        return type(value), (value,)

    def __hash__(self) -> int:
        return hash(self.node.numbers.as_key(self.node, sys._getframe(1)))

    def __bool__(self) -> bool:
        return self.node.guard_bool()

    def __divmod__(self, other):
        return self // other, self % other

    def __rdivmod__(self, other):
        return other // self, other % self

    def __round__(self, digits: int | None = None):
        return self if digits is None and self.node.is_int() else self.node.round(digits).wrapped()

    def __array__(self, dtype=None, copy=None):
        return numpy.array(self.node.fixed(), dtype)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        from .scalars import of_ufunc  # which is made of these
        return of_ufunc(ufunc, method, inputs, kwargs)


class Float(_Number, torch.SymFloat):
    """Stands in for a float."""
    __class__ = property(lambda self: float)


class Int(_Number, torch.SymInt):
    """Stands in for an int."""
    __class__ = property(lambda self: int)


#: What the classes have of `object` and of their own.
_KEPT = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__init_subclass__",
         "__subclasshook__", "__dir__", "__doc__", "__sizeof__", "__reduce__", "__getstate__", "__getnewargs__", "__getformat__",
         "__dict__", *vars(_Number)}


def _add_operators() -> None:
    for name, symbol in _COMPARISONS:
        setattr(Node, name, _on_nodes(name, symbol))
    for name, symbol, aliases, _ in _BINARY:
        for alias in (name, *aliases):
            setattr(Node, alias, _on_nodes(name, symbol))
    for name, text, _ in _UNARY:
        setattr(Node, name, _unary_on_nodes(name, text))
    for cls, kind in ((Float, float), (Int, int)):
        for name in set(dir(kind)) - _KEPT:
            setattr(cls, name, _of_the_value(name, kind))
        for name, symbol in _COMPARISONS:
            setattr(cls, f"__{name}__", _comparison(name, symbol, kind))
        for name, _, _, kinds in _BINARY:
            setattr(cls, f"__{name}__", _binary(name, kind, reflected=False) if kind in kinds else _no_operator)
            setattr(cls, f"__r{name}__", _binary(name, kind, reflected=True) if kind in kinds else _no_operator)
        for name, _, kinds in _UNARY:
            if kind in kinds:
                setattr(cls, f"__{name}__", _unary(name))


_add_operators()
