"""Sizes that stand for themselves: the symbols of one recording, and tensors whose sizes are expressions over them.

`Sizes` gives the numbers that Python and torch compute with in place of sizes. A `Sized` tensor has such sizes and holds
the real tensor, `inner`, which ops run on.
"""
from __future__ import annotations

import builtins
import operator
import sys
import types
from types import MappingProxyType
from typing import Any, Callable, Collection, Mapping, Sequence

import torch

from ...compiler.dims import LONGEST, Dim, Expr, Sym, dot, expr, expr_of, known, simplest, sym, typical
from ...compiler.ir import TensorType, Value, contiguous_strides, tensor_types
from ...errors import Unsupported
from ..torch_internals import unwatched, wrapper
from .membership import looked_for_in
from .symbols import Float, Int, Node, Numbers, Plain, is_symbolic, size_of
from .varying import NUMBER, READ, Place

#: For each comparison of a with b, what is known of it, given what is known of a >= b and of b >= a.
_DECIDED: dict[str, Callable[[bool | None, bool | None], bool | None]] = {
    "{} >= {}": lambda ge, le: ge, "{} < {}": lambda ge, le: None if ge is None else not ge,
    "{} <= {}": lambda ge, le: le, "{} > {}": lambda ge, le: None if le is None else not le,
    "{} == {}": lambda ge, le: False if ge is False or le is False else ge and le,
    "{} != {}": lambda ge, le: True if ge is False or le is False else None if ge is None or le is None else not (ge and le)}


class Sizes(Numbers):
    """The size symbols of one recording, each 2 or more.

    symbols  the place of a size, or of a number that is one -> the symbol for it
    fixed    symbols whose value the run asked for, or that had to equal another size: they can't stay symbols of their own
    derived  symbols for what the run computed of sizes, and the IR can't
    shared   places whose sizes an op took for those of other places, where they are symbols: to be tried with one for both
    """

    def __init__(self, lengths: Mapping[Place, Place] = MappingProxyType({}), derives: bool = True):
        """lengths: the places of the symbols; derives: whether there may be derived symbols."""
        super().__init__()
        self.symbols: dict[Place, Sym] = {}
        self.derived: set[Sym] = set()
        self._lengths, self._derives = lengths, derives
        self._reads = any(kind == READ for kind, _ in lengths)
        self._bound: list[Node] = []
        self.fixed: set[Sym] = set()
        self.shared: dict[Place, Place] = {}

    def given(self, value: Plain, subject: str) -> Float | Int:
        place = NUMBER, len(self.places)
        if place not in self._lengths:
            return super().given(value, subject)
        node = self._of(self.symbol(place, value, subject))
        self.places.append(node)
        self._bound.append(node)
        super().holds(f"2 <= {{}} < {LONGEST}", True, node)
        return node.wrapped()

    def counted(self, place: Place, value: int, subject: str) -> Expr | None:
        """A symbol for a size that the run found in what it computed; None where that is to be a number."""
        if place not in self._lengths or not 2 <= value < LONGEST:
            return None
        size = self.symbol(place, value, subject)
        self.data.add(size.symbol.name)
        self._bound.append(self._of(size))
        return size

    def stride(self, place: Place, value: int, subject: str) -> Expr:
        """A symbol for the stride at `place`."""
        if place in self.symbols:
            return expr_of(self.symbols[place])
        stride = self.symbol(place, value, subject)
        self._bound.append(self._of(stride))
        return stride

    @property
    def bound(self) -> list[Float | Int]:
        """The symbols that are no sizes of tensors, as numbers."""
        return [n.wrapped() for n in self._bound]

    def symbol(self, place: Place, value: int, subject: str) -> Expr:
        """A symbol for the size at `place`, which the guards read into a local of its name; `subject` names it for people."""
        name = f"s{len(self.symbols)}"
        size = sym(name, lo=2, hint=value)
        self.symbols[place] = size.symbol
        self._known[name] = SizeNode(self, name, value, subject, size)
        return size

    def given_as(self, size: Dim) -> int | torch.SymInt:
        """A size as torch takes it."""
        return size if isinstance(size, int) else torch.SymInt(self._of(size))

    def _of(self, size: Dim) -> Node:
        if isinstance(size, int):
            return Node(self, "", size)
        text = str(size)
        return self._node(text, frozenset(s.name for s in size.symbols()), typical(size), text, size)

    @property
    def _node_type(self) -> type[Node]:
        return SizeNode

    def holds(self, text: str, truth: bool, *operands: Node) -> bool:
        if text in _DECIDED and all(o.size is not None for o in operands):
            a, b = (o.size for o in operands)
            far = b == sys.maxsize  # where torch lets a slice end that has no end
            if _DECIDED[text](not far and known(a, b), far or known(b, a)) is not None:
                return truth
            if text in ("{} == {}", "{} != {}") and operands[0].value == operands[1].value:
                determined = _determined(expr(a) - b)
                self.fixed |= determined if self.derived.isdisjoint(determined) else frozenset()
        return super().holds(text, truth, *operands)

    def share(self, symbols: Collection[Sym], alone: Collection[Sym], shapes: Sequence[Sequence[int]]) -> None:
        """Note which places may have one symbol, since an op could not take sizes for which these stand.

        alone: those of them that equal a plain size there; so does a place of the arguments, perhaps, whose shapes are given"""
        places = {s: place for place, s in self.symbols.items() if min(place) >= 0 and s in symbols}
        for a, place in places.items():
            self.shared |= {other: place for b, other in places.items() if other > place and a.hint == b.hint}
            if a in alone:
                equal = {(k, d) for k, shape in enumerate(shapes) for d, n in enumerate(shape) if n == a.hint}
                self.shared |= {other: place for other in equal - self._lengths.keys()}

    def of_sizes(self, node: Node) -> bool:
        sizes = {s.name for (kind, _), s in self.symbols.items() if kind != NUMBER}
        return self.sources(node.name) - self.lines.keys() <= sizes

    def equal(self, a: Dim, b: Dim) -> bool:
        """Whether two sizes are equal, in this run and wherever the program holds."""
        return self.holds("{} == {}", typical(a) == typical(b), self._of(simplest(a)), self._of(simplest(b)))

    def positive(self, e: Expr) -> bool:
        """Whether e >= 0, in this run and wherever the program holds."""
        return self.holds("{} >= {}", typical(e) >= 0, self._of(simplest(e)), self._of(0))

    def fix(self, node: Node) -> None:
        super().fix(node)
        names = self.sources(node.name)
        self.fixed |= {s for s in self.symbols.values() if s.name in names}

    def as_key(self, node: Node, frame: types.FrameType) -> Plain:
        """A function that remembers its results would take it for another number than the plain one, and compute once more."""
        value = super().as_key(node, frame)
        if node.name and self.listening and looked_for_in(frame) is None:
            raise Unsupported(f"looks up {node.shown}")
        return value

    def length(self, number: Int | int) -> Dim:
        """As a rule it is one of the symbols that it is computed of, if the IR can't compute it."""
        if not is_symbolic(number) or number.node.size is not None:
            return number.node.size if is_symbolic(number) else number
        if (known := self._composed(number.node)) is not None:
            return known
        node, names = number.node, self.sources(number.node.name)
        equal = next((s for s in self.symbols.values() if s.name in names and s.hint == node.value), None)
        if equal is None:
            return self._derive(node)
        self.holds("{} == {}", True, node, self._of(expr_of(equal)))
        return expr_of(equal)

    def _composed(self, node: Node) -> Dim | None:
        """A number as a size that is computed of one other number, which becomes a symbol, and of symbols; None where it is
        not."""
        whole: list[Node] = []

        def size(n: Node) -> Dim | None:
            if n.size is not None:
                return n.size
            if n.name in self.parts:
                symbol, a, b = self.parts[n.name]
                return size_of(symbol, size(a), size(b))
            whole.append(n)
            return sym(n.name, lo=2, hint=n.value) if n.is_int() else None
        found = size(node)
        if isinstance(found, Expr):
            needed = [n for n in dict.fromkeys(whole) if any(s.name == n.name for s in found.symbols())]
            if len(needed) > 1 or needed and not self._derivable(needed[0]):
                return None
            for n in needed:
                self._derive(n)
        node.size = found
        return found

    def _derivable(self, node: Node) -> bool:
        sized = node.is_int() and 2 <= node.value < LONGEST and (self._reads or node.name not in self.data)
        return sized and self._derives and self.listening

    def _derive(self, node: Node) -> Dim:
        """A symbol for a number, whose line the guards compute it by."""
        if node.is_int() and node.value < 0:
            return simplest(-self.length(self.compute("-{}", operator.neg, node).wrapped()))
        if not self._derivable(node):
            return node.fixed()
        super().holds(f"2 <= {{}} < {LONGEST}", True, node)
        node.size = sym(node.name, lo=2, hint=node.value)
        self.derived.add(node.size.symbol)
        self._known[node.name] = node
        self._bound.append(node)
        return node.size

    def dims(self, value: Any) -> Any:
        """A value with its symbolic numbers (also in lists, tuples and dicts) as sizes of the IR."""
        if is_symbolic(value):
            return self.length(value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.dims, value)) if type(value) in (list, tuple) else tuple(map(self.dims, value))
        if isinstance(value, dict):
            return {k: self.dims(v) for k, v in value.items()}
        return value

    def numbers(self, value: Any) -> Any:
        """What torch gave Python, with its sizes as numbers that Python code takes for ints."""
        if is_symbolic(value):
            return value.node.wrapped()
        if type(value) in (tuple, torch.Size) and any(map(is_symbolic, value)):
            return type(value)(map(self.numbers, value))
        return value


def _determined(zero: Expr) -> frozenset[Sym]:
    """The symbols that an expression leaves no choice if it is to be 0: those of a sum of them, not under // or %."""
    symbols = zero.symbols()
    return symbols if all(zero.coefficient(s) is not None for s in symbols) else frozenset()


class SizeNode(Node):
    """A size, with the questions that torch asks of all sizes and strides of a tensor at once."""
    __slots__ = ()

    def constant(self, value: Plain) -> Node:
        return SizeNode(self.numbers, "", value)

    wrap_int = wrap_float = wrap_bool = constant

    def _truth(self, value: bool) -> Node:
        return Node(self.numbers, "", value)

    def eq(self, other: Node) -> Node:
        return self._compared("{} == {}", self.value == other.value, other)

    def ne(self, other: Node) -> Node:
        return self._compared("{} != {}", self.value != other.value, other)

    def lt(self, other: Node) -> Node:
        return self._compared("{} < {}", self.value < other.value, other)

    def le(self, other: Node) -> Node:
        return self._compared("{} <= {}", self.value <= other.value, other)

    def gt(self, other: Node) -> Node:
        return self._compared("{} > {}", self.value > other.value, other)

    def ge(self, other: Node) -> Node:
        return self._compared("{} >= {}", self.value >= other.value, other)

    def _compared(self, text: str, truth: bool, other: Node) -> Node:
        return self._truth(self.numbers.holds(text, truth, self, other))

    def is_contiguous(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return self._truth(self._contiguous(sizes, strides, range(len(sizes))))

    def is_channels_last_contiguous_2d(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return self._truth(len(sizes) == 4 and self._contiguous(sizes, strides, (0, 2, 3, 1)))

    def is_channels_last_contiguous_3d(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return self._truth(len(sizes) == 5 and self._contiguous(sizes, strides, (0, 2, 3, 4, 1)))

    def is_channels_last_strides_2d(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return self._truth(len(sizes) == 4 and self._ordered(sizes, strides, (1, 3, 2, 0)))

    def is_channels_last_strides_3d(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return self._truth(len(sizes) == 5 and self._ordered(sizes, strides, (1, 4, 3, 2, 0)))

    def is_non_overlapping_and_dense(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        order = sorted(range(len(sizes)), key=lambda d: (-strides[d].value, -sizes[d].value))
        return self._truth(self._contiguous(sizes, strides, order))

    def is_non_overlapping_and_dense_indicator(self, sizes: Sequence[Node], strides: Sequence[Node]) -> Node:
        return Node(self.numbers, "", int(self.is_non_overlapping_and_dense(sizes, strides).value))

    def _contiguous(self, sizes: Sequence[Node], strides: Sequence[Node], order: Sequence[int]) -> bool:
        """Whether the dimensions in this order, the outermost first, are laid out without gaps."""
        shape = [sizes[d].size for d in order]
        return 0 in shape or all(n == 1 or self.numbers.equal(s, strides[d].size)
                                 for n, s, d in zip(shape, contiguous_strides(shape), order))

    def _ordered(self, sizes: Sequence[Node], strides: Sequence[Node], order: Sequence[int]) -> bool:
        """Torch's rule for strides that suggest channels last."""
        least: Dim = 0
        for d in order:
            n, s = sizes[d].size, strides[d].size
            if n == 0 or not self.numbers.positive(expr(s) - least) or d == 0 and self.numbers.equal(least, strides[1].size):
                return False
            if d == 1 and s == 0:
                return False
            least = s * n if n != 1 else s
        return True


class Sized(torch.Tensor):
    """A tensor of symbolic sizes in place of `inner`. `type_of` it is `form`."""
    __slots__ = ("inner", "form")
    __torch_function__ = unwatched
    __class__ = property(lambda self: torch.Tensor)

    @staticmethod
    def __new__(cls, inner: torch.Tensor, form: TensorType, sizes: Sizes, requires_grad: bool = False) -> "Sized":
        shape, strides = map(sizes.given_as, form.shape), map(sizes.given_as, form.strides)
        with torch.inference_mode(inner.is_inference()):  # a view of another kind of tensor is of that kind
            made = wrapper(cls, tuple(shape), tuple(strides), dtype=form.dtype, device=form.device, requires_grad=requires_grad)
        made.inner, made.form = inner, form
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise Unsupported(f"a tensor of symbolic sizes outlived its recording ({function})")


def inner(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor whose memory it is."""
    return tensor.inner if type(tensor) is Sized else tensor


# Types in terms of symbols

def symbolic(type: TensorType) -> bool:
    """Whether a size or stride of the type is an expression."""
    return Expr in map(builtins.type, (*type.shape, *type.strides))


def in_symbols(real: TensorType, value: Value, parts: Sequence[Value], view: bool,
               at_least: Callable[[Dim, Dim], bool]) -> TensorType:
    """The type of a real tensor in terms of the symbols that its value's shape is made of.

    parts: the values emitted for the call that gave it. view: the call gives a view. at_least: asks whether one size is
    another or more: where a size is 1, torch lays a result in row-major order though its operands lie in another one.
    Raises Unsupported where the real strides don't follow from the sizes.
    """
    shape = value.shape
    if view:
        return in_strides(shape, value.type.strides if value.op.name in _CALLS else _view_strides(value, parts), real)
    found = in_strides(shape, _dense_strides(shape, real), real)
    operands = [t for v in value.operands for t in tensor_types(v.type)]
    if any(_outermost_first(t) != list(range(t.rank)) for t in (found, *operands)):
        for n in shape:
            at_least(n, 2)
    return found


#: What gives a call's results, of which the types are known.
_CALLS = ("call", "item")


def in_strides(shape: Sequence[Dim], strides: Sequence[Dim], real: TensorType) -> TensorType:
    """The type of a real tensor of these sizes and strides. Raises Unsupported where its strides are others."""
    strides = tuple(_unused_stride(d, shape, strides, real) if n == 1 else s for d, (n, s) in enumerate(zip(shape, strides)))
    if tuple(map(typical, strides)) != real.strides:
        raise Unsupported(f"the strides {real.strides} of a tensor of sizes {shape} don't follow from its sizes")
    return TensorType(shape, real.dtype, real.device, strides)


def laid_out(shape: Sequence[Dim], real: TensorType) -> TensorType:
    """The type of a real tensor without gaps, its sizes being `shape`.

    Raises Unsupported where the real strides don't follow from the sizes."""
    return in_strides(shape, _dense_strides(shape, real), real)


def input_strides(tensor: torch.Tensor, shape: Sequence[Dim], gap: Callable[[int, Dim], Dim]) -> tuple[Dim, ...]:
    """The strides of an argument whose sizes are `shape`: where a dimension lies around another one without a gap, its stride
    grows with that one's size; others, such as those of a slice of something larger, are what `gap` gives
    for the dimension, and what its stride is without a gap."""
    real = TensorType(tuple(tensor.shape), tensor.dtype, tensor.device, tensor.stride())
    dense = _dense_strides(shape, real)
    if tuple(map(typical, dense)) == real.strides:
        return tuple(dense)
    strides: list[Dim] = list(real.strides)
    order = _outermost_first(real) if real.numel else ()
    for d in order[-1:]:
        strides[d] = gap(d, 1)
    for outer, within in reversed(list(zip(order, order[1:]))):
        around = simplest(expr(strides[within]) * shape[within])
        strides[outer] = around if typical(around) == strides[outer] else gap(outer, around)
    return tuple(strides)


def _dense_strides(shape: Sequence[Dim], real: TensorType) -> Sequence[Dim]:
    """The strides of a tensor without gaps whose dimensions lie in the order in which they do in `real`."""
    if 0 in shape:
        return real.strides
    order = _outermost_first(real)
    found = dict(zip(order, contiguous_strides([shape[d] for d in order])))
    return [found[d] for d in range(len(shape))]


def _outermost_first(t: TensorType) -> list[int]:
    """The dimensions in the order in which they lie in memory."""
    return sorted(range(t.rank), key=lambda d: (-typical(t.strides[d]), -typical(t.shape[d]), d))


def _view_strides(view: Value, parts: Sequence[Value]) -> Sequence[Dim]:
    """The strides of a view: how far a step along each dimension leads in the memory of what it reads."""
    start = _address(view, [expr(0)] * view.rank, parts)
    units = [[expr(int(d == k)) for d in range(view.rank)] for k in range(view.rank)]
    return [simplest(_address(view, unit, parts) - start) for unit in units]


def _address(view: Value, coordinates: Sequence[Expr], parts: Sequence[Value]) -> Expr:
    """Where in memory a view's element lies, from the beginning of what the parts read."""
    while any(view is p for p in parts):
        if view.op.kind != "view":
            raise Unsupported(f"a view of symbolic sizes by {view.op.name}")
        coordinates, view = view.op.index(view, coordinates), view.inputs[0]
    return dot(coordinates, view.type.strides)


def _unused_stride(d: int, shape: Sequence[Dim], strides: Sequence[Dim], real: TensorType) -> Dim:
    """The stride of a dimension of size 1, which nothing depends on: as a rule the given one, or that of what is within it."""
    within = 1 if d + 1 == len(shape) else simplest(expr(strides[d + 1]) * shape[d + 1])
    return next((s for s in (strides[d], within) if typical(s) == real.strides[d]), real.strides[d])
