"""Custom autograd.Functions: the graph holds a call of one as one op, which runs the user's Python, forward and backward.

What a forward does with tensors is so not recorded; that it does nothing else is what the observer sees to, as everywhere.
"""
from __future__ import annotations

from typing import Any, Callable, Sequence

import torch

from ...compiler.builder import Builder
from ...compiler.ir import TupleType
from ...compiler.ops.core import Operand
from ...errors import Unsupported
from ..torch_internals import version_of
from .functional import Memory, address
from .gradients import Sources, node_of
from .overloads import type_of


class CustomCalls:
    """The calls of custom functions during one recording; `inside` one, ops are not recorded.

    alias   gives the alias of a tensor, which becomes an input of the graph if the run did not make it
    """

    def __init__(self, b: Builder, memory: Memory, sources: Sources, alias: Callable):
        self._b, self._memory, self._sources, self._alias = b, memory, sources, alias
        self._depth = 0
        self._function: type | None = None
        self._args: tuple = ()
        self._before: tuple = ()
        self._origin = b.origin

    @property
    def inside(self) -> bool:
        return self._depth > 0

    def enter(self, function: type, args: tuple, kwargs: dict) -> None:
        """`function.apply` is called."""
        self._depth += 1
        if self._depth > 1:
            return
        if kwargs:
            raise Unsupported(f"custom autograd.Function ({function.__name__}) called with keyword arguments")
        if torch.is_autocast_enabled("cpu"):
            raise Unsupported(f"custom autograd.Function ({function.__name__}) under autocast")
        for t in _tensors(args):
            self._alias(t)
        self._function, self._args, self._before, self._origin = function, args, _state(args), self._b.origin

    def check(self, operands: Sequence[Any]) -> None:
        """Inside: refuse a tensor of this run that the function came by in another way than by its arguments."""
        given = {address(t) for t in _tensors(self._args)}
        for t in _tensors(operands):
            if self._memory.find(t) is not None and address(t) not in given:
                raise Unsupported(f"custom autograd.Function ({self._function.__name__}) uses a tensor that is not its argument")

    def leave(self, result: Any) -> None:
        """`apply` gave this result; None also where it raised."""
        self._depth -= 1
        if self._depth:
            return
        self._b.origin = self._origin
        name, results = self._function.__name__, result if isinstance(result, tuple) else (result,)
        if not results or not all(isinstance(r, torch.Tensor) for r in results):
            raise Unsupported(f"custom autograd.Function ({name}) that gives other things than tensors")
        if _state(self._args) != self._before:
            raise Unsupported(f"custom autograd.Function ({name}) that changes its arguments, or draws random numbers")
        places = [address(r) for r in results if address(r)]
        if len(set(places)) < len(places) or not {address(t) for t in _tensors(self._args)}.isdisjoint(places):
            raise Unsupported(f"custom autograd.Function ({name}) whose results share memory with each other or an argument")
        self._add(results, isinstance(result, tuple))

    def _add(self, results: Sequence[torch.Tensor], several: bool) -> None:
        operands: list = []

        def template(given):
            if isinstance(given, torch.Tensor):
                operands.append(self._memory.read(given, self._alias(given)))
                return Operand(len(operands) - 1)
            return type(given)(map(template, given)) if type(given) in (list, tuple) else given
        args = tuple(map(template, self._args))
        types = tuple(map(type_of, results))
        value = self._b.emit("function", *operands, function=self._function, args=args,
                             type=TupleType(types) if several else types[0])
        for k, (r, t) in enumerate(zip(results, types)):
            if node_of(r) is not None:
                self._sources.allow(node_of(r))
            self._memory.add(r, t, self._b.item(value, index=k) if several else value)


def _tensors(given: Any) -> list[torch.Tensor]:
    """The tensors among arguments, also those in lists and tuples, each once."""
    if isinstance(given, torch.Tensor):
        return [given]
    found = [t for g in given for t in _tensors(g)] if isinstance(given, (list, tuple)) else []
    return list({id(t): t for t in found}.values())


def _state(args: tuple) -> tuple:
    """What tells whether a call wrote to its arguments or drew random numbers."""
    return torch.get_rng_state().numpy().tobytes(), *(version_of(t) for t in _tensors(args) if not t.is_inference())
