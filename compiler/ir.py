"""The IR: a graph is a flat list of typed values in program order.

Nothing here changes once built. A pass is a function `Graph -> Graph` that builds another graph with a `Builder`
(compiler/builder.py) and returns the same object when nothing changed.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Sequence, Union

import torch

from .dims import Dim, Expr, Sym, expr_of, product, simplest

if TYPE_CHECKING:
    from .op import Op

Number = Union[bool, int, float, complex]


@dataclass(frozen=True)
class TensorType:
    """A dense tensor. `strides` (in elements) is the layout that eager gives the value; contiguous unless said."""
    shape: tuple[Dim, ...]
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")
    strides: tuple[Dim, ...] = None  # type: ignore[assignment]

    def __post_init__(self):
        if Expr in map(type, self.shape):
            object.__setattr__(self, "shape", tuple(map(simplest, self.shape)))
        if self.strides is None:
            object.__setattr__(self, "strides", contiguous_strides(self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return product(self.shape)

    @property
    def nbytes(self) -> Dim:
        return self.numel * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape)

    def like(self, shape: Sequence[Dim] | None = None, dtype: torch.dtype | None = None) -> "TensorType":
        """The same with another shape (contiguous) or dtype."""
        if shape is None:
            return replace(self, dtype=dtype or self.dtype)
        return TensorType(tuple(shape), dtype or self.dtype, self.device)


def channels_last(t: TensorType) -> TensorType:
    """The type of [batch, channels, ...], with the channels last in memory."""
    batch, channels, *sizes = t.shape
    strides = tuple(channels * product(sizes[k + 1:]) for k in range(len(sizes)))
    return replace(t, strides=(channels * product(sizes), 1, *strides))


@dataclass(frozen=True)
class NumberType(TensorType):
    """A Python float (dtype float64) or int (int64) that each call brings along. It lies in memory as a 0-dim tensor, and
    counts in torch's type promotion as the Python number that it is."""

    def like(self, shape: Sequence[Dim] | None = None, dtype: torch.dtype | None = None) -> TensorType:
        return TensorType(tuple(shape or ()), dtype or self.dtype, self.device)


@dataclass(frozen=True)
class TupleType:
    """What an op with several results gives; `item` takes one out."""
    items: tuple["Type", ...]


@dataclass(frozen=True)
class ObjectType:
    """A Python object that travels between two opaque calls (a torch autograd tape, for instance)."""
    what: str = "object"


Type = Union[TensorType, TupleType, ObjectType]


def tensor_types(type: Type) -> tuple[TensorType, ...]:
    """The types of the tensors in a value of this type."""
    return tuple(t for t in getattr(type, "items", (type,)) if isinstance(t, TensorType))


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: the user's line, and what a pass made of it ("grad of relu")."""
    file: str = ""
    line: int = 0
    note: str = ""

    @property
    def place(self) -> str:
        """The line as file:line, "" if there is none."""
        return f"{self.file}:{self.line}" if self.file else ""

    def __str__(self):
        place = f"{self.file.rsplit('/', 1)[-1]}:{self.line}" if self.file else ""
        return " ".join(p for p in (place, self.note) if p)


class Value:
    """One value of a graph, equal only to itself. `inputs` are Values, or Python numbers as immediate operands; `operands` those
    that are values."""
    __slots__ = ("name", "op", "inputs", "operands", "attrs", "type", "origin")

    def __init__(self, name: str, op: "Op", inputs: Sequence["Value | Number"], attrs: Mapping[str, Any], type: Type,
                 origin: Origin):
        self.name, self.op, self.inputs, self.attrs, self.type, self.origin = name, op, tuple(inputs), dict(attrs), type, origin
        self.operands: tuple[Value, ...] = tuple([i for i in self.inputs if isinstance(i, Value)])

    # What every rule asks for; only on tensors.
    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.type.dtype

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    def __repr__(self):
        return f"%{self.name}"


@dataclass(frozen=True, eq=False)
class Graph:
    """`values` holds every value but the inputs, each after what it reads. Outputs may repeat and may be inputs.

    Sizes may be expressions over symbols. Every symbol is bound by an input: it is one of the input's sizes by itself, or
    the input is a 0-dim int64 tensor with `symbol` among its attributes, and holds the symbol's value.
    """
    name: str
    inputs: tuple[Value, ...]
    values: tuple[Value, ...]
    outputs: tuple[Value, ...]
    #: names of the outputs, for people; as many as outputs, or none.
    output_names: tuple[str, ...] = ()

    def users(self) -> dict[Value, list[Value]]:
        """For every value, the values that read it (once per reading value), in program order."""
        found: dict[Value, list[Value]] = {v: [] for v in (*self.inputs, *self.values)}
        for v in self.values:
            for i in dict.fromkeys(v.operands):
                found[i].append(v)
        return found

    def types(self) -> Iterator[TensorType]:
        """The types of all tensors."""
        for v in (*self.inputs, *self.values):
            yield from tensor_types(v.type)

    @property
    def device(self) -> torch.device:
        """Where its kernels run: the device of its tensors that is not the CPU, if there is one."""
        return next((t.device for t in self.types() if t.device.type != "cpu"), torch.device("cpu"))

    def bindings(self) -> dict[Sym, tuple[int, int | None]]:
        """Where each symbol's value is read: (place among the inputs, dimension), the dimension None for an input that
        holds the value itself. The first place counts."""
        found: dict[Sym, tuple[int, int | None]] = {}
        for k, v in enumerate(self.inputs):
            if "symbol" in v.attrs:
                found.setdefault(v.attrs["symbol"], (k, None))
            for d, size in enumerate(v.shape if isinstance(v.type, TensorType) else ()):
                if isinstance(size, Expr) and size.symbol:
                    found.setdefault(size.symbol, (k, d))
        return found

    def symbols(self) -> set[Sym]:
        """Every symbol in a type or an attribute."""
        found: set[Expr] = set()
        for v in (*self.inputs, *self.values):
            for part in (v.type, *v.attrs.values()):
                if not _plain(part):
                    found.update(expressions(part))
        return set().union(*(e.symbols() for e in found))

    def __str__(self):
        from .text import show
        return show(self)


_WITHOUT_SIZES = frozenset({int, bool, float, str, type(None), torch.dtype, torch.device})


def _plain(part: Any) -> bool:
    """Whether a type or an attribute is seen at a glance to hold no symbolic size."""
    if type(part) is TensorType:
        return Expr not in map(type, part.shape + part.strides)
    return type(part) in _WITHOUT_SIZES or type(part) is tuple and _WITHOUT_SIZES.issuperset(map(type, part))


def expressions(part: Any) -> Iterator[Expr]:
    """Every symbolic size in a type or an attribute."""
    if isinstance(part, Expr):
        yield part
    elif isinstance(part, Sym):
        yield expr_of(part)
    elif isinstance(part, TensorType):
        yield from expressions(part.shape + part.strides)
    elif isinstance(part, TupleType):
        yield from expressions(part.items)
    elif isinstance(part, (tuple, list)):
        for p in part:
            yield from expressions(p)
    elif isinstance(part, dict):
        yield from expressions(tuple(part.values()))


def contiguous_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major strides as torch gives them (a size of 0 counts as 1)."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * (size if isinstance(size, Expr) else max(size, 1))
    return tuple(reversed(strides))


def dense(shape: Sequence[Dim], strides: Sequence[Dim]) -> bool:
    """Whether the strides are a permutation of contiguous ones: every element once, no gaps."""
    step, left = 1, [(n, s) for n, s in zip(shape, strides) if n != 1]
    while left:
        found = next((k for k, (_, stride) in enumerate(left) if stride == step), None)
        if found is None:
            return False
        step = step * left.pop(found)[0]
    return True


def needed(roots: Iterable[Value], values: tuple[Value, ...], given: Iterable[Value] = ()) -> tuple[Value, ...]:
    """Those of `values` (in program order) that the roots depend on, where the `given` ones need not be computed."""
    given = set(given)
    live = set(roots)
    for v in reversed(values):
        if v in live and v not in given:
            live.update(v.operands)
    return tuple(v for v in values if v in live and v not in given)
