"""Parts of objects, past what their classes make of them."""
from __future__ import annotations

import types
from typing import Any

from ..guard.guards import MISSING
from ..torch_internals import WRAPPED_NUMBER
from .places import TORCH, kind_of_module

_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
#: Special methods that have stand-ins during a run.
OURS = {"__getattribute__", "__setattr__", "__delattr__"}
#: Attributes that torch.Tensor has during a run alone.
OURS_OF_TENSORS = {"__new__", WRAPPED_NUMBER}


def is_open(cls: type) -> bool:
    """Whether a class allows its attributes to be set: made by Python code, and not by torch's in C++."""
    bound = type(cls).__module__ == "pybind11_builtins" and kind_of_module(cls.__module__) == TORCH
    return bool(cls.__flags__ & _HEAP) and not cls.__flags__ & _IMMUTABLE and not bound


def dict_of(obj: Any) -> dict | None:
    """An object's attributes, past any `__getattribute__` of its class."""
    try:
        return object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None


def slot(member: types.MemberDescriptorType, obj: Any) -> Any:
    try:
        return member.__get__(obj)
    except AttributeError:
        return MISSING


def content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def join(owner: str, attribute: str) -> str:
    return f"{owner}.{attribute}" if owner else attribute
