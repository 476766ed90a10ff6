"""What programs that write state are made of, and a picture of all that a call gives and leaves."""
import collections
import dataclasses
import types

import torch
from torch import nn

CALLS = 5
#: name -> (make, programs, reason to run eagerly, calls)
CASES: dict = {}


def case(programs=1, eager="", calls=CALLS):
    """`make(compile)` gives what to call and what to look at after each call. In all calls, `programs` are recorded; or it
    runs eagerly, for a reason that matches `eager`."""
    def add(make):
        CASES[make.__name__] = make, programs, eager, calls
        return make
    return add


class Box:
    """An object of the user's: its attributes are the state."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


@dataclasses.dataclass
class State:
    h: torch.Tensor
    c: torch.Tensor


def module(source):
    """A module of its own for a program, so that each run has its own globals."""
    made = types.ModuleType("state_written_program")
    exec(compile(source, "state_written_program.py", "exec"), vars(made))
    return made


class Values:
    """A tensor's values, equal to values that differ by rounding."""

    def __init__(self, t):
        self.t = t.detach().clone()

    def __eq__(self, other):
        return torch.allclose(self.t, other.t, rtol=1e-5, atol=1e-6, equal_nan=True)

    def __repr__(self):
        return repr(self.t)


def picture(value, seen):
    """A value as plain data that tells all that a program could tell: types, layout, and which objects are one object."""
    if isinstance(value, (int, float, str, bytes, type(None), torch.dtype, torch.Size)):
        return type(value).__name__, repr(value)
    if id(value) in seen:
        return "seen", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    if isinstance(value, torch.Tensor):
        memory = value.untyped_storage().data_ptr()
        memory = memory and seen.setdefault(-memory, (len(seen), None))[0]
        return (type(value).__name__, value.dtype, tuple(value.shape), value.stride(), value.storage_offset(), memory,
                value.requires_grad, value.is_leaf, picture(vars(value), seen),
                picture(value.grad, seen) if value.is_leaf else None, Values(value))
    if isinstance(value, dict):
        return type(value).__name__, [(picture(k, seen), picture(v, seen)) for k, v in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value).__name__, getattr(value, "maxlen", None), [picture(v, seen) for v in value]
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, type) or callable(value) and not isinstance(value, nn.Module):
        return "object", value.__qualname__
    return type(value).__name__.removesuffix("'"), picture(vars(value), seen)


def inputs(calls):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, generator=generator) for _ in range(calls)]


def pictures(make, compile, calls):
    """What each call gave and left."""
    torch.manual_seed(0)
    call, state = make(compile)
    seen, results = [], []
    for x in inputs(calls):
        try:
            results.append(call(x))
        except IndexError as error:
            results.append(repr(error))
        seen.append(picture([state(), results, x], {}))
    return seen
