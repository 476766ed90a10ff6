"""NumPy's arrays, as a recording sees them.

An `Array` stands in for an array among the arguments, or for one that a result is handed over as (`.numpy()`), during a
recording. It holds a tensor of the same memory. What NumPy and torch do alike (`torch.from_numpy`, `astype`, `[None]`,
`np.stack`, ...) becomes a call of torch; whatever else is done with it, Python and C code get the array itself, and the
recording ends, for what NumPy computes is not seen.
"""
from __future__ import annotations

import dis
import operator
import sys
import types
import weakref
from threading import get_ident
from typing import Any, Callable

import numpy
import torch

from .scalars import standing_for
from .symbols import is_symbolic

FROM_NUMPY = torch.from_numpy
#: NumPy's dtypes that torch has as well, by torch's.
DTYPES = {dtype: torch.empty(0, dtype=dtype).numpy().dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)}
_OF_NUMPY = {theirs: ours for ours, theirs in DTYPES.items()}
#: Those in which both round alike, op by op; and those that NumPy computes in float64 where fractions come in.
_COMPUTED = (torch.float64, torch.float32)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor_of(array: numpy.ndarray) -> torch.Tensor | None:
    """A tensor on an array's memory; None for an array of which torch makes none without a warning."""
    if array.dtype not in _OF_NUMPY or not array.flags.writeable:
        return None
    try:
        return FROM_NUMPY(array)
    except ValueError:  # strides that are negative, or no whole elements
        return None


class Arrays:
    """The stand-ins of one run, which act as such on its thread until it is over. `stop` is told why it can't be recorded."""

    def __init__(self) -> None:
        self.stop: Callable[[str], None] = lambda reason: None
        self.alive = True
        self._thread = get_ident()
        self._made: list[weakref.ref] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    @property
    def listening(self) -> bool:
        return self.alive and get_ident() == self._thread

    def refuse(self, what: str) -> None:
        """End the recording for something that is done with an array; from here on all act as what they stand for."""
        if self.listening:
            self.alive = False
            self.stop(f"computes with an array of NumPy's ({what})")

    def stand_in(self, tensor: torch.Tensor, array: numpy.ndarray | None = None) -> "Array":
        """What stands for an array on a tensor's memory; that array where there is one already."""
        made = Array(self, tensor, array)
        self._made.append(weakref.ref(made))
        return made

    def surviving(self) -> list["Array"]:
        """The stand-ins that something still holds."""
        return [a for a in (r() for r in self._made) if a is not None]


class Array:
    """Stands in for an array. `tensor` is a tensor of its memory, `array` the array itself, and `known` that if there is one by
    now."""
    __slots__ = ("_arrays", "tensor", "known", "__weakref__")
    __class__ = property(lambda self: numpy.ndarray)
    __hash__ = None

    def __init__(self, arrays: Arrays, tensor: torch.Tensor, array: numpy.ndarray | None):
        self._arrays, self.tensor, self.known = arrays, tensor, array

    @property
    def array(self) -> numpy.ndarray:
        if self.known is None:
            self.known = self.tensor.numpy()
        return self.known

    def _used(self, what: str) -> numpy.ndarray:
        """The array, for something that is not recorded."""
        self._arrays.refuse(what)
        return self.array

    @property
    def _simple(self) -> bool:
        """Whether what is done with it may become a call of torch, which lays out results as NumPy does."""
        return self._arrays.listening and self.tensor.is_contiguous()

    def _like(self, tensor: torch.Tensor) -> "Array":
        return self._arrays.stand_in(tensor)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(numpy.ndarray, name):
            raise AttributeError(f"'numpy.ndarray' object has no attribute {name!r}")
        return getattr(self._used(f".{name}"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Array.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._used(f".{name} = ..."), name, value)

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        known = _FUNCTIONS.get(function) if self._arrays.listening and kwargs.keys() <= {"axis"} else None
        if known is not None and (made := known(*args, **kwargs)) is not NotImplemented:
            return made
        self._used(f"numpy.{function.__name__}")
        return function(*without_stand_ins(args), **without_stand_ins(kwargs))

    def __array_ufunc__(self, ufunc: numpy.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        self._used(f"numpy.{ufunc.__name__}")
        return getattr(ufunc, method)(*without_stand_ins(args), **without_stand_ins(kwargs))

    # What is known without a look at the elements

    def __len__(self) -> int:
        return len(self.array if self.rows is None else self.rows)

    @property
    def rows(self) -> torch.Tensor | None:
        """What tells its length; None if it has none, or acts as the array."""
        return self.tensor if self._arrays.listening and self.tensor.dim() else None

    shape = property(lambda self: tuple(self.tensor.shape) if self._arrays.listening else self.array.shape)
    ndim = property(lambda self: self.tensor.dim() if self._arrays.listening else self.array.ndim)
    size = property(lambda self: self.tensor.numel() if self._arrays.listening else self.array.size)
    dtype = property(lambda self: DTYPES[self.tensor.dtype] if self._arrays.listening else self.array.dtype)

    # What torch does alike

    @property
    def T(self) -> Any:
        if not self._arrays.listening:
            return self.array.T
        return self._like(self.tensor.permute(*range(self.tensor.dim())[::-1]))

    def copy(self, *order: str, **more: Any) -> Any:
        if not self._simple or order or more:
            return self._used(".copy()").copy(*order, **more)
        return self._like(self.tensor.clone(memory_format=torch.contiguous_format))

    def astype(self, dtype: Any, *args: Any, **more: Any) -> Any:
        to = _OF_NUMPY.get(numpy.dtype(dtype))
        if not self._simple or args or more or to is None or not _converted_alike(self.tensor.dtype, to):
            return self._used(".astype()").astype(dtype, *args, **more)
        return self._like(self.tensor.to(to, copy=True))

    def reshape(self, *shape: Any, **order: Any) -> Any:
        if not self._simple or order:
            return self._used(".reshape()").reshape(*shape, **order)
        return self._like(self.tensor.reshape(*shape))

    def flatten(self, *order: str, **more: Any) -> Any:
        return self._used(".flatten()").flatten(*order, **more) if order or more else self.copy().reshape(-1)

    def ravel(self, *order: str, **more: Any) -> Any:
        return self._used(".ravel()").ravel(*order, **more) if order or more else self.reshape(-1)

    def squeeze(self, axis: int | None = None) -> Any:
        if not self._arrays.listening or not (axis is None or type(axis) is int and self.tensor.shape[axis] == 1):
            return self._used(".squeeze()").squeeze(axis)
        return self._like(self.tensor.squeeze() if axis is None else self.tensor.squeeze(axis))

    def argmax(self, *axis: Any, **more: Any) -> Any:
        """The place of the first of the largest, as both have it."""
        if not self._simple or axis or more or not self.tensor.numel():
            return self._used(".argmax()").argmax(*axis, **more)
        place = self.tensor.argmax().item()
        return standing_for(place.node, numpy.int64) if is_symbolic(place) else numpy.int64(place)

    def item(self, *place: Any) -> Any:
        return self._used(".item()").item(*place) if place or not self._simple or self.tensor.numel() != 1 else self.tensor.item()

    def transpose(self, *axes: Any) -> Any:
        if not axes:
            return self.T
        if not self._arrays.listening or not all(type(a) is int for a in axes):
            return self._used(".transpose()").transpose(*axes)
        return self._like(self.tensor.permute(*axes))

    def __getitem__(self, index: Any) -> Any:
        parts = index if type(index) is tuple else (index,)
        kept = self.tensor.dim() - sum(type(p) is int for p in parts) + sum(p is None for p in parts)
        basic = all(p is None or p is Ellipsis or type(p) is int or _forward(p) for p in parts)
        if _shuffles(sys._getframe(1)):
            found = self._used("shuffle()")[index]
            return found.copy() if isinstance(found, numpy.ndarray) else found
        if not self._arrays.listening or not basic or kept < 1:  # NumPy gives a number for one element
            return self._used("[...]")[index]
        return self._like(self.tensor[index])

    # What torch's API makes of it: calls that take its place (see observe/functions.py, record/modes.py)

    def shared(self) -> torch.Tensor:
        """torch.from_numpy(array)"""
        return self.tensor.detach() if self._arrays.listening else FROM_NUMPY(self.array)

    def copied(self, dtype: torch.dtype | None = None, device: Any = None, requires_grad: bool = False) -> torch.Tensor:
        """torch.tensor(array)"""
        if not self._arrays.listening:
            return torch.tensor(self.array, dtype=dtype, device=device, requires_grad=requires_grad)
        made = self.tensor.to(device or "cpu", dtype or self.tensor.dtype, copy=True, memory_format=torch.contiguous_format)
        return made.requires_grad_() if requires_grad else made

    def converted(self, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
        """torch.as_tensor(array)"""
        return self.shared().to(device or "cpu", dtype or self.tensor.dtype)


def _shuffles(frame: types.FrameType) -> bool:
    """Whether it is NumPy's shuffle that asks for an item on behalf of this frame: of an array it knows that rows are views, and
    swaps those of anything else as they are."""
    code = frame.f_code
    return "shuffle" in code.co_names and dis.opname[code.co_code[frame.f_lasti]].startswith("CALL")


def _forward(part: Any) -> bool:
    return type(part) is slice and all(p is None or type(p) is int for p in (part.start, part.stop, part.step)) \
        and (part.step is None or part.step > 0)


def _converted_alike(dtype: torch.dtype, to: torch.dtype) -> bool:
    """Whether NumPy and torch convert numbers alike, whatever they are: what overflows a whole number is left to the machine."""
    return to.is_floating_point or not dtype.is_floating_point


def without_stand_ins(value: Any) -> Any:
    """Arguments with the arrays that stand-ins among them stand for."""
    if type(value) is Array:
        return value.array
    if type(value) in (list, tuple):
        return type(value)(map(without_stand_ins, value))
    return {k: without_stand_ins(v) for k, v in value.items()} if type(value) is dict else value


# Functions of NumPy's that torch has as well; NotImplemented for arguments with which it may do something else.

def _all_alike(arrays: Any) -> bool:
    """Whether these are simple stand-ins, of one dtype."""
    return isinstance(arrays, (list, tuple)) and bool(arrays) and all(type(a) is Array and a._simple for a in arrays) \
        and len({a.tensor.dtype for a in arrays}) == 1


def _expand_dims(a: Any, axis: Any) -> Any:
    return a._like(a.tensor.unsqueeze(axis)) if type(a) is Array and type(axis) is int else NotImplemented


def _stack(arrays: Any, axis: int = 0) -> Any:
    same = _all_alike(arrays) and len({a.shape for a in arrays}) == 1
    return arrays[0]._like(torch.stack([a.tensor for a in arrays], axis)) if same else NotImplemented


def _concatenate(arrays: Any, axis: int = 0) -> Any:
    same = _all_alike(arrays) and all(a.tensor.dim() for a in arrays) and type(axis) is int
    return arrays[0]._like(torch.cat([a.tensor for a in arrays], axis)) if same else NotImplemented


def _stacked_by(function: Callable) -> Callable:
    def of(arrays: Any) -> Any:
        return arrays[0]._like(function([a.tensor for a in arrays])) if _all_alike(arrays) else NotImplemented
    return of


def _method(name: str) -> Callable:
    def of(a: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(a, name)(*args, **kwargs) if type(a) is Array else NotImplemented
    return of


_FUNCTIONS: dict[Callable, Callable] = {
    numpy.expand_dims: _expand_dims, numpy.stack: _stack, numpy.concatenate: _concatenate,
    numpy.vstack: _stacked_by(torch.vstack), numpy.hstack: _stacked_by(torch.hstack),
    **{getattr(numpy, name): _method(name) for name in ("reshape", "squeeze", "transpose", "ravel", "argmax")}}


def _made_of(function: Callable) -> Callable:
    """numpy.array or numpy.asarray of a stand-in, or of a list of such."""
    def make(data: Any, dtype: Any = None) -> Any:
        whole = type(data) is Array
        found = data if whole else _stack(data)
        if found is NotImplemented:
            return found
        if dtype is not None and dtype != found.dtype:
            return found.astype(dtype)
        return found.copy() if whole and function is numpy.array else found
    return make


#: Functions in C that ask nobody what to make of a stand-in: what they give of such, NotImplemented where they are to be called.
MAKERS: dict[Callable, Callable] = {f: _made_of(f) for f in (numpy.array, numpy.asarray)}


# Operators

def _operator(name: str, reflected: bool) -> Callable:
    """NumPy's arithmetic with a number or another array of the same dtype, and its fall-back."""
    function, method = getattr(operator, f"__{name}__"), f"__{'r' * reflected}{name}__"

    def operate(self: Array, other: Any) -> Any:
        mine, divided = self.tensor, name == "truediv"
        if not self._simple or not mine.dim() or reflected and divided:  # NumPy gives numbers; torch rounds twice
            return getattr(self._used(name), method)(without_stand_ins(other))
        if type(other) in _LARGEST and abs(other) <= _LARGEST[type(other)]:
            if mine.dtype in _WHOLE and (divided or type(other) is float):
                mine = mine.to(torch.float64)
            if mine.dtype in _COMPUTED:
                return self._like(function(other, mine) if reflected else function(mine, other))
        if type(other) is Array and other.tensor.dtype is mine.dtype in _COMPUTED and other._simple:
            return self._like(function(mine, other.tensor))
        return getattr(self._used(name), method)(without_stand_ins(other))
    return operate


#: Numbers up to this are rounded once on their way into every dtype that is computed in.
_LARGEST = {int: 1 << 24, float: 1e30}
_ARITHMETIC = ("add", "sub", "mul", "truediv")


def _otherwise(name: str) -> Callable:
    """Any other method of arrays that Python itself calls."""
    def method(self: Array, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._used(name.strip("_")), name)(*without_stand_ins(args), **without_stand_ins(kwargs))
    return method


def _add_methods() -> None:
    for name in _ARITHMETIC:
        setattr(Array, f"__{name}__", _operator(name, reflected=False))
        setattr(Array, f"__r{name}__", _operator(name, reflected=True))
    kept = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__init_subclass__",
            "__subclasshook__", "__class_getitem__", "__doc__", "__hash__", *vars(Array)}
    for name in dir(numpy.ndarray):
        if name.startswith("__") and name not in kept and callable(getattr(numpy.ndarray, name)):
            setattr(Array, name, _otherwise(name))


_add_methods()
