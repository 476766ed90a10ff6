"""Everything that can be seen of some objects, as a flat list of facts that two runs of one program can compare."""
from __future__ import annotations

import functools
import math
import types
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy
import torch

from smelt.frontend.api import CompiledFunction
from smelt.frontend.modules import original_of

#: Of a tensor, where two runs differ in it.
Fact = tuple[str, Any]
_PLAIN = (int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, torch.Size, torch.dtype, torch.device,
          torch.layout, torch.memory_format)
_PACKAGE = __name__.rsplit(".", 1)[0]


class Versions:
    """How often tensors were written to between two snapshots. Tensors are held weakly."""

    def __init__(self):
        self._last: dict[int, tuple[weakref.ref, int]] = {}

    def counted(self, t: torch.Tensor) -> int | None:
        """The writes that the version counter tells since the last snapshot; None for a tensor that was not there."""
        known = self._last.get(id(t))
        self._last[id(t)] = weakref.ref(t), t._version
        return t._version - known[1] if known is not None and known[0]() is t else None


class Snapshot:
    """Facts about objects: (path, plain value or tensor). What is reached twice is one object both times, or none."""

    def __init__(self, versions: Versions):
        self.facts: list[Fact] = []
        self._versions = versions
        self._paths: dict[int, str] = {}
        self._storages: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no id is given to another object meanwhile

    def add(self, path: str, value: Any) -> None:
        """Note a value and all that it holds."""
        value = _unwrapped(value)
        if type(value) is float:
            self.facts.append((path, value))
            return
        if isinstance(value, _PLAIN):
            self.facts.append((path, f"{type(value).__name__} {value!r}"))
            return
        if id(value) in self._paths:
            self.facts.append((path, f"the object at {self._paths[id(value)]}"))
            return
        self._paths[id(value)] = path
        self._kept.append(value)
        if isinstance(value, torch.Tensor):
            self._tensor(path, value)
        elif type(value) is numpy.ndarray and value.dtype.kind in "biuf":
            self._array(path, value)
        else:
            self.facts.append((path, _kind(value)))
            for name, part in _parts(value):
                self.add(f"{path}{name}", part)

    def _tensor(self, path: str, t: torch.Tensor) -> None:
        kind = {"type": type(t).__name__, "dtype": t.dtype, "device": t.device, "layout": t.layout,
                "requires_grad": t.requires_grad,
                "is_leaf": t.is_leaf, "has grad_fn": _has_grad_fn(t), "is_inference": t.is_inference()}
        if t.layout is torch.strided and not t.is_nested:
            kind.update({"shape": tuple(t.shape), "strides": t.stride(), "offset": t.storage_offset(), "is_conj": t.is_conj()})
            if t.numel() and not t.is_meta:
                kind["shares the memory of"] = self._storages.setdefault(t.untyped_storage().data_ptr(), path)
        if not t.is_inference():
            kind["writes to it"] = self._versions.counted(t)
        self.facts += [(f"{path}: {name}", fact) for name, fact in kind.items()]
        if not t.is_meta:
            self.facts.append((path, _values(t)))
        if (t.is_leaf or t.retains_grad) and t.grad is not None:
            self.add(f"{path}.grad", t.grad)
        for name, part in vars(t).items():
            self.add(f"{path}.{name}", part)


    def _array(self, path: str, a: numpy.ndarray) -> None:
        self.facts += [(f"{path}: {name}", fact) for name, fact in (
            ("dtype", str(a.dtype)), ("shape", a.shape), ("strides", a.strides), ("writeable", a.flags.writeable))]
        owner = a
        while isinstance(owner, numpy.ndarray) and owner.base is not None:
            owner = owner.base
        if a.size:
            of_tensor = isinstance(owner, torch.Tensor)
            place = owner.untyped_storage().data_ptr() if of_tensor else owner.__array_interface__["data"][0]
            self.facts.append((f"{path}: shares the memory of", self._storages.setdefault(place, path)))
        self.facts.append((path, torch.from_numpy(a.astype(a.dtype.newbyteorder("="), order="C").copy())))


def difference(ours: list[Fact], theirs: list[Fact], exact: bool) -> str:
    """The first fact that differs, as text; "" if there is none."""
    for (path, a), (other, b) in zip(ours, theirs):
        if path != other:
            return f"{path} instead of {other}"
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            wrong = _difference_of_values(a, b, exact)
            if wrong:
                return f"{path}: {wrong}"
        elif isinstance(a, float) and isinstance(b, float):
            if repr(a) != repr(b) and (exact or not math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5)):
                return f"{path}: {a!r} instead of {b!r}"
        elif isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) or a != b:
            return f"{path}: {a} instead of {b}"
    if len(ours) != len(theirs):
        extra = (ours if len(ours) > len(theirs) else theirs)[min(len(ours), len(theirs))][0]
        return f"{'more' if len(ours) > len(theirs) else 'less'} than there should be: {extra}"
    return ""


def _difference_of_values(a: torch.Tensor, b: torch.Tensor, exact: bool) -> str:
    if a.shape == b.shape and a.dtype == b.dtype and (_same_bits(a, b) if exact else _close(a, b)):
        return ""
    return f"{a.tolist()} instead of {b.tolist()}" if a.numel() <= 16 and b.numel() <= 16 else "other numbers"


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, with -0.0 apart from 0.0; one NaN is as good as another."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return torch.equal(a, b)
    a, b = (t.float() if t.dtype.itemsize == 1 else t for t in (a, b))
    return bool(((a == b) & (a.signbit() == b.signbit()) | a.isnan() & b.isnan()).all())


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    try:
        torch.testing.assert_close(a, b, equal_nan=True)
    except AssertionError:
        return False
    return True


def _values(t: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers, to keep: plain and dense."""
    with torch.no_grad():
        t = t.detach()
        if t.is_nested:
            t = torch.cat([part.flatten() for part in t.unbind()])
        if t.layout is not torch.strided:
            t = t.to_dense()
        return t.as_subclass(torch.Tensor).resolve_conj().resolve_neg().clone()


def _has_grad_fn(t: torch.Tensor) -> bool | str:
    try:
        return t.grad_fn is not None
    except RuntimeError as error:
        return type(error).__name__


def _unwrapped(value: Any) -> Any:
    """What stands behind something compiled."""
    original = original_of(value)
    if original is not None:
        return original
    while isinstance(value, CompiledFunction):
        value = value.__wrapped__
    return value


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    size = f" of {len(value)}" if isinstance(value, (list, tuple, dict, set, frozenset, deque)) else ""
    return f"{type(value).__name__}{size}"


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, with names."""
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or ())
        found = [(f" closure {name}", _content(cell)) for name, cell in cells if name != "compile"]
        return [*found, (" defaults", value.__defaults__), (" attributes", _without(vars(value), "__wrapped__"))]
    if isinstance(value, types.MethodType):
        return [(" function", value.__func__), (" self", value.__self__)]
    if isinstance(value, functools.partial):
        return [(" function", value.func), (" args", value.args), (" keywords", value.keywords)]
    if isinstance(value, types.ModuleType):
        return []
    if isinstance(value, type):
        named = {k: v for k, v in vars(value).items() if not k.startswith("_")} if value.__module__.startswith(_PACKAGE) else {}
        return [(f".{k}", v) for k, v in named.items()]
    items = list(getattr(value, "__dict__", {}).items())
    items += [(name, getattr(value, name)) for cls in type(value).__mro__ for name in _slots(cls) if hasattr(value, name)]
    parts = [(f".{name}", part) for name, part in items]
    if isinstance(value, Mapping):
        for k, item in list(value.items()):
            parts += [(" key", k), (f"[{k!r}]" if isinstance(k, (str, int)) else "[...]", item)]
    elif isinstance(value, (set, frozenset)):
        parts += [(" member", m) for m in sorted(value, key=repr)]
    elif isinstance(value, (list, tuple, deque)):
        parts += [(f"[{k}]", item) for k, item in enumerate(value)]
    return parts


def _without(mapping: Mapping, *names: str) -> dict:
    return {k: v for k, v in mapping.items() if k not in names}


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ()) if cls.__module__.startswith(_PACKAGE) else ()
    return (slots,) if isinstance(slots, str) else tuple(s for s in slots if s != "__dict__" and s != "__weakref__")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "nothing"
