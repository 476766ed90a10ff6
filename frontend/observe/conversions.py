"""Conversions to numbers, `float(loss)` and `int(steps * share)`, and `len(batch)`: of Python itself they give no symbolic ones.
And `type(size)`, which of Python itself tells a stand-in from what it stands for.

While a run is recorded, stand-ins take their places in the globals of code that does nothing with these names but call them.
"""
from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Callable

import torch

from ..symbolic.arrays import Array
from ..symbolic.scalars import FloatScalar, IntScalar, number_of
from ..symbolic.sizes import Sized
from ..symbolic.symbols import Float, Int, Node, is_symbolic
from .names import called_alone, globals_named
from .places import passing
from .profiling import unprofiled
from .replaced import Replaced

if TYPE_CHECKING:
    from .observer import Observer


class _Kind(type):
    """The class of stand-ins for a number's type: what is no call of it is passed on."""
    kind: type
    convert: Callable[[Any], Any]

    @passing
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.convert(*args) if len(args) == 1 and not kwargs else cls.kind(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.kind)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.kind)


_STAND_INS = (Int, Float, Sized, Array, FloatScalar, IntScalar)


@passing
def _type(*args: Any, **kwargs: Any) -> type:
    """`type`, to which stand-ins are of the types that they stand for."""
    found = type(*args, **kwargs)
    return args[0].__class__ if found in _STAND_INS else found


class Conversions:
    """The stand-ins of one run. `enter` is told of code before it runs, and `restore` ends it."""

    def __init__(self, observer: Observer):
        self._observer = observer
        kinds = {kind.__name__: self._make(kind, *how) for kind, how in _KINDS.items()}
        self._made = {"len": self._length(), "type": _type, **kinds}
        self._replaced = Replaced()

    def start(self) -> None:
        """What torch converts for the user: the loss that a schedule goes by."""
        self._replaced.put(vars(torch.optim.lr_scheduler), "float", self._made["float"])

    def enter(self, code: types.CodeType, names: dict[str, Any]) -> None:
        """The user's code is about to run, with these globals."""
        for name in self._made.keys() & set(globals_named(code)):
            if called_alone(code, name):
                if name not in names:
                    self._replaced.put(names, name, self._made[name])
            else:
                self._give_back(names, name, f"{code.co_filename}:{code.co_firstlineno}")

    def shown(self, names: dict[str, Any], where: str) -> None:
        """These globals are about to be looked through, at the user's line `where`: no stand-in is to be among them."""
        for name in self._made:
            self._give_back(names, name, where)

    def _give_back(self, names: dict[str, Any], name: str, where: str) -> None:
        stood = self.stands_in(name, names)
        self._replaced.give_back(names, name)
        if stood and name == "type":  # code that is under way has lost it
            self._observer.looks.found(where, True)

    def stands_in(self, name: str, names: dict[str, Any]) -> bool:
        """Whether a stand-in lies in these globals."""
        return names.get(name) is self._made[name]

    def original(self, value: Any) -> Any:
        """What stood in the place of a stand-in; any other value itself."""
        return self._replaced.original(value)

    def restore(self) -> None:
        self._replaced.restore()

    def without(self, entries: dict[str, Any]) -> dict[str, Any]:
        """A module's attributes, but for stand-ins."""
        return {k: v for k, v in entries.items() if k not in self._made or v is not self._made[k]}

    def _length(self) -> Callable:
        observer = self._observer

        @passing
        def length(*args: Any) -> Any:
            if len(args) == 1 and type(args[0]) is Array and args[0].rows is not None:
                args = (args[0].rows,)
            if len(args) == 1 and getattr(type(args[0]), "__len__", None) is torch.Tensor.__len__ and observer.listening:
                with unprofiled():
                    return args[0].__len__()
            return len(*args)
        return length

    def _make(self, kind: type, number: Callable[[Node], Node], of_tensor: Callable) -> type:
        observer = self._observer

        @passing
        def convert(value: Any) -> Any:
            value = number_of(value)
            found, method = value, None if is_symbolic(value) else getattr(type(value), of_tensor.__name__, None)
            if isinstance(method, types.FunctionType):
                found = method(value)
            elif method is of_tensor and observer.listening:
                with unprofiled():
                    found = observer.recorder.converted(of_tensor, value)
            if is_symbolic(found):
                return number(found.node).wrapped()
            return found if type(found) is kind else kind(value)
        return _Kind(kind.__name__, (kind,), {"kind": kind, "convert": staticmethod(convert)})


#: By the type, how a symbolic number becomes one of it, and the method of tensors that gives one.
_KINDS: dict[type, tuple[Callable[[Node], Node], Callable]] = {
    float: (Node.sym_float, torch.Tensor.__float__), int: (Node.sym_int, torch.Tensor.__int__)}
