"""Guards: the conditions under which a recorded run stands for a call, as one generated Python function.

A `Condition` is one line of it. `Read` is a piece of Python state that the run read; `Guards` puts the conditions of
the arguments, the reads, torch's modes and the tensors in order (cheap and changeable first) and compiles them.
"""
from __future__ import annotations

import gc
import math
import sys
import types
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from ctypes import c_float
from enum import Enum
from math import copysign
from types import MappingProxyType
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy
import torch
from torch.nn.utils import parametrize

from ...compiler.dims import Dim, Expr
from ...compiler.ir import TensorType
from ..recording import Grads
from ..symbolic.symbols import Node, is_symbolic, noted
from ..torch_internals import (BACKEND_SWITCHES, OPTIMIZER_HOOKS, TENSOR_HOOKS, TensorGuards, active_dispatch_modes,
                               active_function_modes, default_devices, forward_ad, tracing)

MISSING = type("Missing", (), {"__repr__": lambda self: "missing"})()

#: Types whose instances never change and that are equal when type and value are.
VALUE_TYPES = (int, float, complex, str, bytes, tuple, range, slice, torch.Size, torch.device, types.MethodType)
SINGLETONS = (bool, type(None), type(Ellipsis), type(NotImplemented), Enum, torch.dtype, torch.layout, torch.memory_format)
_EXACTLY = frozenset(VALUE_TYPES)

#: A place in Python's objects, (kind, holder, key, value): the kinds are those of runtime/watch.py.
Place = tuple[str, Any, Any, Any]
#: Makes a function that tells whether all places hold the very objects `value` now; None where it can't.
Watch = Callable[[Sequence[Place]], Callable[[], bool] | None]


def same(a: Any, b: Any) -> bool:
    """Whether no program can tell the values apart: the same object, or equal immutable values of one type
    (-0.0 differs from 0.0, True from 1; NaN equals NaN). A node of a symbolic number is the number's value in the run."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return isinstance(b, Node) and (same(a, b.value) if not is_symbolic(a) else a.node is b)
    if kind is float:
        return (a == b and copysign(1.0, a) == copysign(1.0, b)) or (a != a and b != b)
    if kind is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if kind in (int, str, bytes, range, torch.device):
        return a == b
    if kind is slice:
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if kind is types.MethodType:
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    if isinstance(a, tuple):
        return not takes_attributes(a) and len(a) == len(b) and all(map(same, a, b))
    return False


def takes_attributes(value: Any) -> bool:
    """Whether attributes can be set on a value of VALUE_TYPES: its class derives from one of them and has room for such."""
    kind = type(value)
    return kind not in _EXACTLY and (kind.__dictoffset__ != 0 or any(vars(c).get("__slots__") for c in kind.__mro__))


def float32(number: float) -> float:
    """The number rounded to float32."""
    return c_float(number).value


def constant(value: Any) -> bool:
    """Whether a value never changes, whatever a program does: numbers, text, dtypes, and tuples of such."""
    if isinstance(value, SINGLETONS):
        return True
    if is_symbolic(value) or not isinstance(value, VALUE_TYPES) or isinstance(value, types.MethodType) or takes_attributes(value):
        return False
    if isinstance(value, tuple):
        return all(map(constant, value))
    return not isinstance(value, slice) or all(map(constant, (value.start, value.stop, value.step)))


def attribute(holder: Any, name: str) -> Any:
    """An attribute, MISSING if there is none; a cell that holds nothing raises ValueError instead of AttributeError."""
    try:
        return getattr(holder, name)
    except (AttributeError, ValueError):
        return MISSING


def ordered(container: dict) -> type:
    """The class that tells what a dict holds in its order, which an OrderedDict keeps for itself, past any of the user's."""
    return OrderedDict if isinstance(container, OrderedDict) else dict


#: What a snapshot is taken of.
CONTAINERS = (list, dict, set, frozenset, deque)


class Contents(tuple):
    """What a container held: its items, behind its keys if it has such."""

    def at(self, key: Any) -> Any:
        """What a dict held under a key, MISSING if nothing."""
        keys, values = self
        return values[keys.index(key)] if key in keys else MISSING

    def difference(self, now: "Contents") -> str:
        """The first item that is another one now, for people."""
        old, new = self[-1], now[-1]
        if len(old) != len(new) or len(self) == 2 and not _same_items(self[0], now[0]):
            return f"{len(old)} items -> {len(new)}{' other' * (len(old) == len(new))} items"
        keys = self[0] if len(self) == 2 else range(len(old))
        return next((f"[{brief(k)}]: {dimension(a, b)}" for k, a, b in zip(keys, old, new) if not same(b, a)), "as before")


def snapshot(container: Any, kept: Callable[[Any], Any] = noted) -> Contents:
    """The contents of a list, dict, set or deque, in order and one level deep, to compare with later. `kept`: what is kept of a
    value."""
    if isinstance(container, dict):
        return Contents((tuple(ordered(container).keys(container)), tuple(map(kept, ordered(container).values(container)))))
    return Contents((tuple(map(kept, container)),))


def same_contents(container: Any, before: tuple) -> bool:
    """Whether a container still holds what its snapshot holds."""
    return len(container) == len(before[-1]) and all(map(_same_items, snapshot(container), before))


def _same_items(a: tuple, b: tuple) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


@dataclass(frozen=True)
class Read:
    """A piece of state that the run read.

    kind      "item" `holder[key]` of a mapping | "element" `holder[key]` of a sequence | "attr" `holder.key` |
              "type" `type(holder)` | "call" `holder(*key)` | "has" `key in holder` | "keys" `tuple(holder)` |
              "size" `len(holder)` | "contents" what the container `holder` holds | "lacks" which names a mapping has not
    expected  the value found, MISSING if there was none; for "contents" a snapshot, for "lacks" all these names. A node
              stands for any number of its type
    subject   its name for people; `where` the user's line that read it first
    """
    kind: str
    holder: Any
    key: Any
    expected: Any
    subject: str
    where: str = ""

    def holds(self) -> bool:
        """Whether the state is still what the run found."""
        if self.kind == "contents":
            return same_contents(self.holder, self.expected)
        return same(self.now(), self.expected)

    def now(self) -> Any:
        if self.kind == "item":
            return self.holder[self.key] if self.key in self.holder else MISSING
        if self.kind == "attr":
            return attribute(self.holder, self.key)
        if self.kind == "element":
            return self.holder[self.key] if self.key < len(self.holder) else MISSING
        if self.kind == "call":
            return self.holder(*self.key)
        if self.kind == "has":
            return self.key in self.holder
        if self.kind == "lacks":
            return self.expected if self.expected.isdisjoint(self.holder) else self.expected.difference(self.holder)
        return _OF_HOLDER[self.kind](self.holder)

    @property
    def found_at(self) -> tuple:
        """What is read, to compare with other reads and with what is written."""
        return self.kind, id(self.holder), self.key

    def place(self) -> Place | None:
        """A place that holds the very object it holds now only if this read holds; None if there is no such."""
        holder, kind, missing = self.holder, type(self.holder), self.expected is MISSING
        if isinstance(self.expected, Node):
            return None
        if self.kind == "item":
            place = "item" if kind in (dict, OrderedDict) else "entry"
            return (f"no {place}", holder, self.key, None) if missing else (place, holder, self.key, self.expected)
        if self.kind == "attr" and not missing:
            place = "attributes" if self.key == "__dict__" else "attribute"
            return place, holder, self.key, self.expected
        if self.kind == "lacks":
            return "lacks", holder, tuple(self.expected), self.expected
        if self.kind in ("type", "size"):
            return self.kind, holder, None, self.expected
        if self.kind == "contents":
            if kind is dict:
                return "entries", holder, *self.expected
            if kind is list:
                return "elements", holder, None, *self.expected
            if kind in (OrderedDict, set) and not self.expected[-1]:
                return "nothing", holder, None, None
        return None


_OF_HOLDER: dict[str, Callable[[Any], Any]] = {"type": type, "keys": tuple, "size": len, "contents": snapshot}


@dataclass(frozen=True)
class Condition:
    """One condition of a guard: `test` is a Python expression, true where it holds; `now` one for the value found."""
    test: str
    now: str
    subject: str
    expected: Any

    def __str__(self):
        return f"{self.subject} is {brief(self.expected)}"


class Namespace:
    """The objects that generated code refers to, each bound to one name."""

    def __init__(self):
        self.bound: dict[str, Any] = {"same": same, "same_contents": same_contents, "snapshot": snapshot, "attribute": attribute,
                                      "MISSING": MISSING, "float32": float32, "math": math, "numpy": numpy}
        self._names: dict[int, str] = {id(v): k for k, v in self.bound.items()}

    def bind(self, value: Any, hint: str = "c") -> str:
        """The name of an object, which the namespace keeps alive."""
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = f"{hint}{len(self.bound)}"
            self.bound[name] = value
        return name

    def place(self, value: Any, expression: str) -> None:
        """Reach an object by an expression, in every call's own terms, and don't keep it alive."""
        self._names[id(value)] = expression

    def reached(self, value: Any) -> bool:
        """Whether an object is reached by an expression, and not to be kept alive."""
        return id(value) in self._names and self._names[id(value)] not in self.bound

    def literal(self, value: Any) -> str:
        """A constant's text where that is exact, else its name."""
        return repr(value) if value is None or type(value) in (bool, int, str) else self.bind(value)

    def function(self, source: str, name: str) -> Callable:
        """Compile the source of one function over these names."""
        defined: dict[str, Callable] = {}
        exec(compile(source, f"<smelt {name}>", "exec"), self.bound, defined)
        return defined[name]


def equality(names: Namespace, expression: str, expected: Any) -> str:
    """The test that an expression gives `expected`: by identity for objects, by type and value for numbers and text."""
    if isinstance(expected, SINGLETONS):
        return f"{expression} is {names.literal(expected)}"
    constant = names.bind(expected)
    if isinstance(expected, VALUE_TYPES):
        return f"((v := {expression}) is {constant} or same(v, {constant}))"
    return f"{expression} is {constant}"


def access(kind: str, holder: str, key: str) -> str:
    """The expression that reads a place."""
    return f"{holder}.{key}" if kind == "attr" else f"{holder}[{key}]"


def read_condition(names: Namespace, read: Read) -> Condition:
    holder = names.bind(read.holder, "h")
    if read.kind in ("keys", "size"):
        now = f"{'tuple' if read.kind == 'keys' else 'len'}({holder})"
        return Condition(equality(names, now, read.expected), now, f"what {read.subject} holds", read.expected)
    if read.kind == "contents":
        before = names.bind(read.expected)
        test = f"same_contents({holder}, {before})" if read.expected[-1] else f"not {holder}"
        return Condition(test, f"snapshot({holder})", f"what {read.subject} holds", read.expected)
    if read.kind == "has":
        key = names.literal(read.key)
        return Condition(f"{key} {'in' if read.expected else 'not in'} {holder}", f"{key} in {holder}",
                         f"whether there is {read.subject}", read.expected)
    if read.kind == "lacks":
        lacking = names.bind(read.expected)
        return Condition(f"{holder}.keys().isdisjoint({lacking})", f"tuple({lacking}.intersection({holder}))", read.subject, ())
    if read.kind == "type":
        now = f"type({holder})"
        return Condition(f"{now} is {names.bind(read.expected)}", now, f"type of {read.subject}", read.expected)
    if read.kind == "call":
        now = f"{holder}({', '.join(map(repr, read.key))})"
        return Condition(equality(names, now, read.expected), now, read.subject, read.expected)
    if read.kind == "attr":
        now = f"attribute({holder}, {read.key!r})"
        access = now if read.expected is MISSING else f"{holder}.{read.key}"
        return Condition(equality(names, access, read.expected), now, read.subject, read.expected)
    key = names.literal(read.key)
    if read.kind == "element":
        return Condition(equality(names, f"{holder}[{key}]", read.expected), f"{holder}[{key}]", read.subject, read.expected)
    now = f"{holder}[{key}] if {key} in {holder} else MISSING"
    test = f"{key} not in {holder}" if read.expected is MISSING else equality(names, f"{holder}[{key}]", read.expected)
    return Condition(test, now, read.subject, read.expected)


#: torch's switches that decide what any program computes: guarded always, and compared before and after a run.
STATE = (
    (torch.is_grad_enabled, ()), (torch.get_default_dtype, ()), (torch.is_inference_mode_enabled, ()),
    (torch.is_autocast_enabled, ("cpu",)), (torch.is_autocast_enabled, ("cuda",)),
)
#: Guarded where autocast is on, or a run asks for one of them: entering autocast does.
AUTOCAST_DETAILS = (
    (torch.get_autocast_dtype, ("cpu",)), (torch.get_autocast_dtype, ("cuda",)), (torch.is_autocast_cache_enabled, ()),
)
#: Those that matter to a program only if its run asked for them (library calls that it makes ask again on every call).
SWITCHES = (torch.are_deterministic_algorithms_enabled, torch.is_deterministic_algorithms_warn_only_enabled,
            torch.get_float32_matmul_precision, torch.get_num_threads, torch.get_num_interop_threads,
            torch.is_warn_always_enabled, torch.is_anomaly_enabled, torch.is_anomaly_check_nan_enabled,
            *BACKEND_SWITCHES, gc.isenabled, sys.getrecursionlimit,
            torch.distributed.is_available,
            *([torch.distributed.is_initialized] if torch.distributed.is_available() else []))


def call_read(function: Callable, args: tuple = ()) -> Read:
    """What a function that tells of a state gives now."""
    module = function.__module__ or "torch"
    return Read("call", function, args, function(*args), f"{module}.{function.__name__}({', '.join(map(repr, args))})")


def torch_state() -> list[Read]:
    """torch's switches as they are now, with autocast's details where it is on."""
    state = [call_read(function, args) for function, args in STATE]
    level = forward_ad._current_level
    state.append(Read("attr", forward_ad, "_current_level", level, "the level of forward-mode differentiation"))
    if torch.cuda.is_initialized() and torch.cuda.device_count() > 1:  # which one "cuda" is
        state.append(call_read(torch.cuda.current_device))
    if any(r.expected for r in state if r.holder is torch.is_autocast_enabled):
        state += [call_read(function, args) for function, args in AUTOCAST_DETAILS]
    return state


def mode_conditions(names: Namespace) -> list[Condition]:
    """The default device is the same, so are the hooks of all optimizers; no other mode of torch is active, what parametrizations
    compute is not kept, and no tracer is there, under which looking at a size would be traced."""
    found = {"whether torch.jit.trace is active": (tracing, False),
             "number of active torch dispatch modes": (active_dispatch_modes, 0)}
    none = [Condition(f"not {names.bind(f)}()", f"{names.bind(f)}()", what, none) for what, (f, none) in found.items()]
    now, before = f"{names.bind(default_devices)}()", default_devices()
    run = tuple(hook for hooks in OPTIMIZER_HOOKS for hook in hooks.values())
    hooks = ", ".join(f"*{names.bind(hooks)}.values()" for hooks in OPTIMIZER_HOOKS)
    without = " and ".join(f"not {names.bind(hooks)}" for hooks in OPTIMIZER_HOOKS)
    none.append(Condition(f"({hooks},) == {names.bind(run)}" if run else without, f"({hooks},)", "hooks of all optimizers", run))
    kept = f"{names.bind(parametrize)}._cache_enabled"
    none.append(Condition(f"not {kept}", kept, "the use of torch.nn.utils.parametrize.cached()", 0))
    return [*none, Condition(f"{now} == {names.bind(before)}" if before else f"not {names.bind(active_function_modes)}()", now,
                             "default device and function modes", before)]


def has_strides(t: torch.Tensor) -> bool:
    """Whether a tensor has a shape and strides; one without them (nested, compressed sparse) ends the process in TensorGuards."""
    try:
        t.stride()
    except RuntimeError:
        return False
    return True


def metadata(t: torch.Tensor) -> dict[str, Any]:
    """What a program is specialised to of a tensor, by name."""
    plain = has_strides(t)
    return {"type": type(t).__name__, "dtype": t.dtype, "layout": t.layout, "shape": tuple(t.shape) if plain else None,
            "strides": t.stride() if plain else None, "device": t.device, "requires_grad": t.requires_grad,
            "is_inference": t.is_inference()}


def overlapping(tensors: Sequence[torch.Tensor], written: Sequence[int], of_arrays: Sequence[int] = ()) -> bool:
    """Whether an input that the program writes to may share elements with another input. `of_arrays`: those on memory of NumPy's
    arrays, anywhere in which other tensors may begin."""
    places = [t.untyped_storage().data_ptr() for t in tensors]
    if any(places[w] and places.count(places[w]) > 1 and
           any(k != w and place == places[w] and touching(tensors[w], tensors[k]) for k, place in enumerate(places))
           for w in written):
        return True
    pairs = ((w, k) for w in written for k in (range(len(tensors)) if w in of_arrays else of_arrays) if k != w)
    return any(_meet(_span(tensors[w]), _span(tensors[k])) for w, k in pairs)


def touching(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether writes to one of two tensors in one memory may show in the other: not where they lie one behind the other and
    autograd counts the writes to each by itself, as it does for parameters that a vector was cut into."""
    if a._is_view() or b._is_view():
        return True
    return _meet(_span(a), _span(b))


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _span(t: torch.Tensor) -> tuple[int, int]:
    """The addresses that a tensor's elements lie between."""
    start = t.data_ptr()
    return start, start + t.itemsize * (1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride()))) * (t.numel() > 0)


class TensorCheck:
    """The metadata of all tensors of a program in one check, which also sees two of them be the same object and, through
    dispatch keys, autocast, inference mode and functorch transforms."""

    def __init__(self, tensors: Sequence[tuple[str, torch.Tensor]], forms: Mapping[int, TensorType] = MappingProxyType({})):
        """forms: types of tensors (by id) of which some sizes and strides are expressions, which are not looked at."""
        self.names = [name for name, _ in tensors]
        self.expected = [metadata(t) | (_form(forms[id(t)]) if id(t) in forms else {}) for _, t in tensors]
        self.sentinel = () if tensors else (torch.empty(0),)
        sizes, strides = ([[_fixed(n) for n in e[what]] for e in self.expected] if forms else None
                          for what in ("shape", "strides"))
        self.guards = TensorGuards(*(t for _, t in tensors), *self.sentinel, dynamic_dims_sizes=sizes,
                                   dynamic_dims_strides=strides)
        self.check = self.guards.check

    def difference(self, *tensors: torch.Tensor) -> str:
        """What differs first, as "x.shape (8, 4) -> (16, 4)"."""
        for name, expected, t in zip(self.names, self.expected, tensors):
            if not isinstance(t, torch.Tensor):
                return f"{name} is no tensor"
            for what, now in metadata(t).items():
                if not _fits(now, expected[what]):
                    return f"{name}.{what} {dimension(expected[what], now)}"
        if len({id(t) for t in tensors}) < len(tensors):
            return "one tensor is given twice"
        return "autocast, inference mode, or a transform of torch.func"

    def __str__(self):
        return "\n".join(f"{n} is {e['type']} {e['dtype']} {list(e['shape'])} strides {list(e['strides'])} on {e['device']}"
                         f"{', requires grad' if e['requires_grad'] else ''}" for n, e in zip(self.names, self.expected))


def _form(type: TensorType) -> dict[str, Any]:
    return {"shape": type.shape, "strides": type.strides}


def _fixed(size: Dim) -> int | None:
    return None if isinstance(size, Expr) else size


def _fits(now: Any, expected: Any) -> bool:
    """Whether metadata is as expected, an expression standing for any size."""
    if not isinstance(expected, tuple) or not isinstance(now, tuple):
        return now == expected
    return len(now) == len(expected) and all(isinstance(e, Expr) or n == e for n, e in zip(now, expected))


def dimension(before: Any, now: Any) -> str:
    if isinstance(before, Contents):
        return before.difference(now)
    return f"{brief(before)} -> {'another ' * (brief(before) == brief(now))}{brief(now)}"


def brief(value: Any) -> str:
    """A short text for a guard's value."""
    if isinstance(value, Contents):
        return f"{len(value[-1])} items"
    if constant(value) or value is MISSING or isinstance(value, tuple) and Expr in map(type, value):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    if isinstance(value, (list, tuple, dict, set)):
        return f"{type(value).__name__} of {len(value)}"
    named = value if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) else type(value)
    return named.__qualname__


class _Unless:
    """Conditions that need no look where the function called `name` gives true. They use no locals, and are compiled once one
    looks at them: thousands of them take longer to compile than what they guard."""

    def __init__(self, names: Namespace, holds: Callable[[], bool], conditions: Sequence[Condition]):
        self.name, self.conditions = names.bind(holds), tuple(conditions)
        self.fails = names.bind(self._first_that_fails)
        self.now = names.bind(self._now)
        self._names = names
        self._compiled: Callable[[], int | None] | None = None

    def _first_that_fails(self) -> int | None:
        """Its place among the conditions; None if all hold."""
        if self._compiled is None:
            tests = "".join(f"    if not ({c.test}):\n        return {k}\n" for k, c in enumerate(self.conditions))
            self._compiled = self._names.function(f"def unless():\n{tests}", "unless")
        return self._compiled()

    def _now(self, k: int) -> Any:
        """What the k-th condition is about, as it is now."""
        return eval(self.conditions[k].now, self._names.bound)


def _read_steps(names: Namespace, reads: Sequence[Read], fetched: Mapping[int, Read],
                watch: Watch | None) -> "list[str | Condition | _Unless]":
    """The conditions of all reads; behind one look at their places those that have one. What is fetched gets a local each."""
    for n, read in enumerate(fetched.values()):
        names.place(read.expected, f"found{n}")
        if isinstance(read.expected, torch.Tensor):
            names.place(vars(read.expected), f"vars(found{n})")
    steps = [_number_steps(names, r) if isinstance(r.expected, Node) else
             _fetch_steps(names, r) if fetched.get(id(r.expected)) is r else [_condition(names, r, fetched)] for r in reads]
    places = [None if any(map(names.reached, (r.holder, r.key, r.expected))) else r.place() for r in reads]
    holds = watch([p for p in places if p is not None]) if watch and any(places) else None
    if holds is None:
        return [s for group in steps for s in group]
    together = _Unless(names, holds, [s for group, p in zip(steps, places) if p is not None for s in group])
    return [together, *(s for group, p in zip(steps, places) if p is None for s in group)]


def _condition(names: Namespace, read: Read, fetched: Mapping[int, Read]) -> Condition:
    condition = read_condition(names, read)
    if id(read.expected) not in fetched:
        return condition
    return Condition(condition.test, condition.now, f"{read.subject}, the same object as an earlier one,", None)


def _fetched_into(names: Namespace, local: str, read: Read) -> str:
    """The line that fetches what is in a place now."""
    holder = names.bind(read.holder, "h")
    return f"{local} = {access(read.kind, holder, str(read.key) if read.kind == 'attr' else names.literal(read.key))}"


def number_condition(node: Node, local: str) -> Condition:
    """The condition that a local holds a number such as a node stands for."""
    kind = type(node.value)
    return Condition(f"type({local}) is {kind.__name__}", f"type({local})", f"type of {node.shown}", kind)


def _number_steps(names: Namespace, read: Read) -> "list[str | Condition]":
    """Fetch the number in a place, whatever it is."""
    return [_fetched_into(names, read.expected.name, read), number_condition(read.expected, read.expected.name)]


def _fetch_steps(names: Namespace, read: Read) -> "list[str | Condition]":
    """Fetch what is in a place now, and see that it is of the type of what was there."""
    local = names.bind(read.expected)
    line = _fetched_into(names, local, read)
    if isinstance(read.expected, torch.Tensor):  # its type is compared with its metadata
        return [line, Condition(f"not {local}.is_nested", f"{local}.is_nested", f"{read.subject}.is_nested", False)]
    kind = type(read.expected)
    return [line, Condition(f"type({local}) is {names.bind(kind)}", f"type({local})", f"type of {read.subject}", kind)]


def _distinct_step(names: Namespace, reads: Sequence[Read], fetched: Mapping[int, Read], given: Iterable) -> list[Condition]:
    """What is fetched from several places, and given, is several objects, none of which another guard names."""
    objects = [*given, *(r.expected for r in fetched.values() if not isinstance(r.expected, (torch.Tensor, tuple)))]
    if not objects:
        return []
    others = names.bind(frozenset(id(r.holder) for r in reads if not names.reached(r.holder)))
    locals = [names.bind(v) for v in objects]
    test = f"id({locals[0]}) not in {others}" if len(locals) == 1 else f"{names.bind(distinct)}(({', '.join(locals)}), {others})"
    return [Condition(test, "False", "objects being different ones", True)]


def distinct(found: tuple, others: frozenset) -> bool:
    """Whether these are different objects, and none of the others (ids)."""
    ids = set(map(id, found))
    return len(ids) == len(found) and ids.isdisjoint(others)


def size_steps(tensors: Iterable[tuple[str, str, torch.Tensor]], forms: Mapping[int, TensorType],
               known: set[str]) -> "list[Condition | str]":
    """The symbolic sizes of tensors, given as (variable, name, tensor): each symbol, 2 or more, is read where it comes first.

    forms: by id of the tensor; known: the symbols that have been read by then."""
    steps: list[Condition | str] = []

    def expect(variable: str, name: str, what: str) -> None:
        steps.append(Condition(variable + what, variable + what, name + what, True))
    for variable, name, t in tensors:
        form = forms.get(id(t))
        for d, size in enumerate(form.shape) if form else ():
            if not isinstance(size, Expr):
                continue
            if str(size) in known:
                expect(variable, name, f".shape[{d}] == {size}")
            else:
                steps.append(f"{size} = {variable}.shape[{d}]")
                expect(variable, name, f".shape[{d}] >= 2")
                known.add(str(size))
        for d, stride in enumerate(form.strides if form else ()):
            if isinstance(stride, Expr) and stride.symbol and str(stride) not in known:
                steps.append(f"{stride} = {variable}.stride({d})")
                expect(variable, name, f".stride({d}) >= 2")
                known.add(str(stride))
        if form and Expr in map(type, form.strides):
            expect(variable, name, f".stride() == ({', '.join(map(str, form.strides))},)")
    return steps


def _grad_steps(grads: Grads, variables: Sequence[str], names: Sequence[str]) -> "list[Condition | str]":
    """What `.grad` of the inputs holds, fetched where it is an input itself. `variables` and `names` are those of the inputs."""
    steps: list[Condition | str] = []
    for leaf in grads.unhooked:
        hooks = " or ".join(f"{variables[leaf]}.{hooks}" for hooks in TENSOR_HOOKS)
        steps.append(Condition(f"not ({hooks})", hooks, f"hooks of {names[leaf]}", None))
    for leaf in grads.absent:
        found = f"{variables[leaf]}.grad"
        steps.append(Condition(f"{found} is None", found, f"{names[leaf]}.grad", None))
    for k, leaf in grads.fetched:
        found = f"{variables[leaf]}.grad"
        if k in grads.known:
            steps.append(Condition(f"{found} is {variables[k]}", found, f"{names[leaf]}.grad", MISSING))
        else:
            steps += [f"{variables[k]} = {found}",
                      Condition(f"{variables[k]} is not None", variables[k], f"{names[leaf]}.grad", "a tensor")]
    for k, is_leaf in grads.leaves:
        found = f"{variables[k]}.is_leaf"
        steps.append(Condition(f"{found} is {is_leaf}", found, f"{names[k]}.is_leaf", is_leaf))
    return steps


@dataclass(frozen=True)
class Host:
    """What the guards compute of a program's numbers: `steps`, and `passed`, the texts of what follows the input tensors.

    `elements` are the inputs that they read numbers from, by the names for them in the steps."""
    elements: Mapping[str, int] = field(default_factory=dict)
    steps: Sequence[Condition | str] = ()
    passed: Sequence[str] = ()


class Guards:
    """The conditions of one program, compiled.

    `check(args, kwargs)` gives the program's input tensors (arguments, then `captured`, then numbers), or None where a
    condition fails; `why(args, kwargs)` says which one. `source` is the text of `check`.
    """

    def __init__(self, names: Namespace, arguments: Sequence["Condition | str"], reads: Iterable[Read], state: Sequence[Read],
                 given: Sequence[tuple[str, str, torch.Tensor]], captured: Sequence[tuple[str, torch.Tensor]],
                 watched: Sequence[tuple[str, torch.Tensor]] = (), written: Sequence[int] = (), read_flags: bool = False,
                 watch: Watch | None = None, fetched: Mapping[int, Read] = {}, host: Host | None = None,
                 grads: Grads = Grads(), forms: Mapping[int, TensorType] = MappingProxyType({}), objects: Iterable = (),
                 of_arrays: Sequence[int] = ()):
        """given: (local name in the generated code, name, tensor) for every tensor among the arguments; captured: what
        else the program takes as input; watched: tensors that the run came by without using them as inputs; fetched: by
        id of the object, the reads whose place has another object on every call (see fetched.py); host: what is computed
        of the numbers read; forms: see TensorCheck; objects: those among the arguments that are other ones on every
        call, and the containers; of_arrays: the inputs on memory of NumPy's arrays. Where `watch` tells that no place read has
        another object in it, the conditions on what is there are not looked at."""
        self._names, reads = names, list(reads)
        looks = _read_steps(names, reads, fetched, watch) + _distinct_step(names, reads, fetched, objects)
        self._tensors = TensorCheck([(name, t) for _, name, t in given] + list(captured) + list(watched), forms)
        local = [variable for variable, _, _ in given]
        for k, _ in grads.fetched:
            if k not in grads.known:
                names.place(captured[k - len(local)][1], f"g{k}")
        fixed = [names.bind(t, "t") for _, t in (*captured, *watched)]
        variables = [*local, *fixed[:len(captured)]]
        inputs = ", ".join(variables)
        host = host or Host()
        passed = ", ".join((*variables, *host.passed))
        everything = ", ".join([*local, *fixed, *(names.bind(s) for s in self._tensors.sentinel)])
        checker, differ = names.bind(self._tensors.check), names.bind(self._tensors.difference)
        # TensorGuards compares dispatch keys, which tell autocast and inference mode too.
        told = (torch.is_autocast_enabled, torch.is_inference_mode_enabled)
        switches = [read_condition(names, r) for r in state if r.holder not in told]
        known: set[str] = set()
        found = [(variable, name, t) for variable, (name, t) in zip(fixed, (*captured, *watched))]
        steps = [*mode_conditions(names), *switches, *arguments, *size_steps(given, forms, known), *looks,
                 *size_steps(found, forms, known),
                 *_grad_steps(grads, variables, [n for _, n, _ in given] + [n for n, _ in captured]),
                 Condition(f"{checker}({everything})", f"{differ}({everything})", "", self._tensors),
                 *(f"{name} = {variables[k]}" for name, k in host.elements.items()), *host.steps]
        if read_flags:  # under no_grad the check above looks past them
            steps += [Condition(f"{v}.requires_grad is {t.requires_grad}", f"{v}.requires_grad", f"{n}.requires_grad",
                                t.requires_grad) for v, n, t in (*given, *found)]
        if written:
            overlap = f"{names.bind(overlapping)}(({inputs},), {tuple(written)}, {tuple(of_arrays)})"
            steps.append(Condition(f"not {overlap}", overlap, "memory shared with an input that is written to", False))
        flat = (c for s in steps for c in (s.conditions if isinstance(s, _Unless) else (s,)))
        self.conditions = [c for c in flat if isinstance(c, Condition)]
        self._steps = steps
        self.source = self._text("check", lambda index, now: "return None", f"return [{passed}]")
        self.check: Callable[[tuple, dict], list[torch.Tensor] | None] = names.function(self.source, "check")

    def why(self, args: tuple, kwargs: dict) -> str:
        """The first condition that this call fails, as "x.shape (8, 4) -> (16, 4)"; "" if it fits."""
        source = self._text("find", lambda index, now: f"return {index}, {now}", "return None")
        found = self._names.function(source, "find")(args, kwargs)
        if found is None:
            return ""
        index, now = found
        if index < 0:
            return "the arguments have another structure"
        condition = self.conditions[index]
        return now if isinstance(condition.expected, TensorCheck) else f"{condition.subject} {dimension(condition.expected, now)}"

    def __str__(self):
        return "\n".join(str(c.expected) if isinstance(c.expected, TensorCheck) else str(c) for c in self.conditions)

    def _text(self, name: str, fail: Callable[[str, str], str], success: str) -> str:
        lines, index = [], 0
        for step in self._steps:
            if isinstance(step, str):
                lines.append(step)
            elif isinstance(step, _Unless):
                lines += [f"if not {step.name}() and (failed := {step.fails}()) is not None:",
                          f"    {fail(f'{index} + failed', f'{step.now}(failed)')}"]
                index += len(step.conditions)
            else:
                lines += [f"if not ({step.test}):", f"    {fail(str(index), step.now)}"]
                index += 1
        body = "\n".join(f"        {line}" for line in (*lines, success))
        # A key, attribute or cell that is gone fails the condition that reads it; so do numbers that Python can't compute with.
        lost = "return None" if name == "check" else "return -1, None"
        return (f"def {name}(args, kwargs):\n    try:\n{body}\n"
                f"    except (KeyError, AttributeError, IndexError, ValueError, ArithmeticError):\n        {lost}\n")
