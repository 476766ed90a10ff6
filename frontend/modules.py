"""Compiled modules: `smelt.compile(module)` gives an object that is the module in all but its call.

It is of a subclass of the module's class and shares its `__dict__`: parameters, state_dict (without a prefix), train(),
to(), hooks and attributes are the module's own, whichever of the two they are reached through.
"""
from __future__ import annotations

import copy
from typing import Any, Callable, NamedTuple

from torch import nn


class Pair(NamedTuple):
    """What stands behind a compiled module: the module, the compiled call, and how to compile another one like it."""
    original: nn.Module
    compiled: Callable
    again: Callable[[nn.Module], nn.Module]


class CompiledModule:
    """What a compiled module does otherwise than its class: a call, a copy, a pickle, another instance of its type."""
    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any):
        """Keeps the class of a compiled module out of registries that the module's class may keep of its subclasses."""

    def __new__(cls, *args: Any, **kwargs: Any):
        """`type(self)(...)` inside the user's code makes a plain module."""
        return type(cls._smelt.original)(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pair = vars(type(self)).get("_smelt")
        # A class put on top since (as torch's parametrisations do) changes what the module computes: torch's own call.
        return super().__call__(*args, **kwargs) if pair is None else pair.compiled(*args, **kwargs)

    def __deepcopy__(self, memo: dict) -> nn.Module:
        pair = type(self)._smelt
        memo[id(self)] = made = pair.again(copy.deepcopy(pair.original, memo))
        return made

    def __copy__(self) -> nn.Module:
        pair = type(self)._smelt
        return pair.again(copy.copy(pair.original))

    def __reduce_ex__(self, protocol: int) -> tuple:
        pair = type(self)._smelt
        return pair.again, (pair.original,)


def compiled_module(module: nn.Module, compiled: Callable, again: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A module whose call is `compiled` and which shares everything else with `module`.

    `again(module)` compiles a copy; it must be picklable for the compiled module to be.
    """
    kind = type(module)
    made_of = type(kind.__name__, (CompiledModule, kind), {"_smelt": Pair(module, compiled, again), "__module__": kind.__module__,
                                                           "__qualname__": kind.__qualname__, "__doc__": kind.__doc__})
    made = object.__new__(made_of)
    object.__setattr__(made, "__dict__", module.__dict__)
    return made


def pair_of(module: Any) -> Pair | None:
    """What stands behind a compiled module; None for anything else."""
    return getattr(type(module), "_smelt", None) if isinstance(module, CompiledModule) else None


def original_of(module: Any) -> nn.Module | None:
    """The module that a compiled module was made from; None for anything else."""
    pair = pair_of(module)
    return pair.original if pair else None
