"""Custom autograd.Functions: the graph holds a call of one as one op, which runs the user's Python, forward and backward.

What a forward does with tensors is so not recorded; that it does nothing else is what the observer sees to, as everywhere. Of a
call that no gradient flows through the forward's ops are recorded as any are.
"""
from __future__ import annotations

from typing import Any, Callable, Sequence

import torch

from ...compiler.ir import TupleType
from ...compiler.ops.core import Operand
from ...errors import Unsupported
from ..generators import random_state
from ..observe.applied import tensors_in
from ..symbolic.sizes import inner
from ..symbolic.symbols import Float
from ..torch_internals import version_of
from .building import NumberBuilder
from .functional import Memory, address
from .gradients import Sources, node_of


class CustomCalls:
    """The calls of custom functions during one recording; `inside` one, ops are not recorded.

    alias   gives the alias of a tensor, which becomes an input of the graph if the run did not make it
    form    gives the type of a result, of a call with these arguments
    met     a result, its type and its value, before they are known: gives the tensor and the type that are, as for ops
    """

    def __init__(self, b: NumberBuilder, memory: Memory, sources: Sources, alias: Callable, form: Callable, met: Callable):
        self._b, self._memory, self._sources, self._alias, self._form, self._met = b, memory, sources, alias, form, met
        self._open: list[bool] = []  # the calls under way, and whether they are one op
        self._function: type | None = None
        self._args: tuple = ()
        self._before: tuple = ()
        self._origin = b.origin

    @property
    def inside(self) -> bool:
        return any(self._open)

    def enter(self, function: type, args: tuple, kwargs: dict) -> None:
        """`function.apply` is called."""
        whole = torch.is_grad_enabled() and any(t.requires_grad for t in tensors_in((args, tuple(kwargs.values()))))
        first = whole and not self.inside
        self._open.append(whole)
        if not first:
            return
        if kwargs:
            raise Unsupported(f"custom autograd.Function ({function.__name__}) called with keyword arguments")
        if torch.is_autocast_enabled("cuda"):
            raise Unsupported(f"custom autograd.Function ({function.__name__}) under autocast of a GPU")
        for t in tensors_in(args):
            self._alias(t)
        self._function, self._args, self._before, self._origin = function, args, _state(args), self._b.origin

    def check(self, operands: Sequence[Any]) -> None:
        """Inside: refuse a tensor of this run that the function came by in another way than by its arguments."""
        given = {address(t) for t in tensors_in(self._args)}
        for t in tensors_in(operands):
            if self._memory.find(t) is not None and address(t) not in given:
                raise Unsupported(f"custom autograd.Function ({self._function.__name__}) uses a tensor that is not its argument")

    def leave(self, result: Any) -> None:
        """`apply` gave this result; None also where it raised."""
        if not self._open.pop() or self.inside:
            return
        self._b.origin = self._origin
        name, results = self._function.__name__, result if isinstance(result, tuple) else (result,)
        if not results or not all(isinstance(r, torch.Tensor) for r in results):
            raise Unsupported(f"custom autograd.Function ({name}) that gives other things than tensors")
        if _state(self._args) != self._before:
            raise Unsupported(f"custom autograd.Function ({name}) that changes its arguments, or draws random numbers")
        places = [address(r) for r in results if address(r)]
        if len(set(places)) < len(places):
            raise Unsupported(f"custom autograd.Function ({name}) whose results share memory with each other")
        self._add(results, isinstance(result, tuple))

    def _viewed(self, result: torch.Tensor) -> torch.Tensor | None:
        """The argument that a result is a view of, None if it has memory of its own."""
        sharing = [t for t in tensors_in(self._args) if address(t) and address(t) == address(result)]
        same = next((t for t in sharing if _place(t) == _place(result)), None)
        if sharing and same is None:
            raise Unsupported(f"custom autograd.Function ({self._function.__name__}) that gives a view of a part of an argument, "
                              "or in another form")
        return same

    def _add(self, results: Sequence[torch.Tensor], several: bool) -> None:
        operands: list = []

        def template(given):
            if isinstance(given, (torch.Tensor, Float)):
                is_number = isinstance(given, Float)
                operands.append(self._b.value_of(given) if is_number else self._memory.read(given, self._alias(given)))
                return Operand(len(operands) - 1)
            return type(given)(map(template, given)) if type(given) in (list, tuple) else given
        args = tuple(map(template, self._args))
        types = tuple(self._form(r, self._args) for r in results)
        autocast = {"autocast": str(torch.get_autocast_dtype("cpu")).split(".")[1]} if torch.is_autocast_enabled("cpu") else {}
        value = self._b.emit("function", *operands, function=self._function, args=args, **autocast,
                             type=TupleType(types) if several else types[0])
        for k, (r, t) in enumerate(zip(results, types)):
            if node_of(r) is not None:
                self._sources.allow(node_of(r))
            given, one = self._viewed(r), self._b.item(value, index=k) if several else value
            made, form = self._met(r, t, one)
            if given is None:
                self._memory.add(made, form, one)
            else:
                self._memory.add_own_view(self._alias(given), made, one)


def _place(t: torch.Tensor) -> tuple:
    """Which elements a tensor has of its memory, and how it takes them."""
    t = inner(t)
    return t.dtype, t.shape, t.stride(), t.storage_offset()


def _state(args: tuple) -> tuple:
    """What tells whether a call wrote to its arguments or drew random numbers."""
    return *(s.numpy().tobytes() for s in random_state()), *(version_of(t) for t in tensors_in(args) if not t.is_inference())
