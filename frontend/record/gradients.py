"""What carries gradients: as the graph predicts it, and as torch's autograd recorded it."""
from __future__ import annotations

from typing import Collection, Iterable, Iterator

import torch

from ...compiler.builder import Builder
from ...compiler.ir import Graph, TensorType, Type, Value
from ...compiler.passes import repeated
from ...errors import Unsupported
from ..torch_internals import function_of, sequence_number


def _differentiable(type: Type) -> bool:
    return not isinstance(type, TensorType) or type.dtype.is_floating_point or type.dtype.is_complex


class Reach:
    """For every value that is built, or of a graph, the inputs that its gradient would flow to, as a set of bits."""

    def __init__(self, b: Builder | Graph):
        self._b, self._done = b, 0
        self._bits: dict[Value, int] = {}
        self._told: dict[Value, int] = {}

    def add_input(self, value: Value, bits: int) -> None:
        self._told[value] = self._bits[value] = bits

    def change_input(self, value: Value, bits: int) -> None:
        """Gradients end at an input from which values were computed."""
        self._told[value] = bits
        self._bits, self._done = dict(self._told), 0

    def add_leaf(self, value: Value, bits: int) -> None:
        """A value of the graph that gradients end at, whatever it was computed from."""
        self.of(value)
        self._told[value] = self._bits[value] = bits

    def of(self, value: Value) -> int:
        for v in self._b.values[self._done:]:
            self._bits[v] = self._told[v] if v in self._told else self._new(v)
        self._done = len(self._b.values)
        return self._bits[value]

    def crosses(self, results: Iterable[Value], position: int) -> bool:
        """Whether a gradient of `results` flows through values built before the first `position` ones were there."""
        earlier = set(self._b.values[:position])
        todo, seen = list(results), set()
        while todo:
            v = todo.pop()
            if v in seen or not self.of(v):
                continue
            if v in earlier and not repeated(v):
                return True
            seen.add(v)
            todo += v.operands
        return False

    def _new(self, v: Value) -> int:
        if v.op.name == "detach" or not _differentiable(v.type) or (v.op.random and v.op.gradient is None):
            return 0
        bits = 0
        for i in v.operands:
            bits |= self._bits[i]
        return bits


def flows(graph: Graph, sources: Collection[Value], results: Iterable[Value]) -> set[Value]:
    """The inputs and values through which a gradient of `results` flows to the inputs `sources`."""
    reach = Reach(graph)
    for i in graph.inputs:
        reach.add_input(i, i in sources)
    found = {v for v in results if reach.of(v)}
    for v in reversed(graph.values):
        if v in found:
            found.update(i for i in v.operands if reach.of(i))
    return found


def node_of(tensor: torch.Tensor):
    """The tensor's node in autograd's graph, None for a leaf. Unsupported where autograd refuses to give it."""
    try:
        return tensor.grad_fn
    except RuntimeError as error:
        raise Unsupported(f"autograd refuses a tensor: {error}") from error


def moment() -> int:
    """The number of the next node of autograd's graph."""
    with torch.inference_mode(False), torch.enable_grad():
        return sequence_number(torch.empty(0, requires_grad=True).exp().grad_fn)


def custom_function(tensor: torch.Tensor) -> str:
    """The name of the autograd.Function that made the tensor, "" if none did."""
    function = function_of(node_of(tensor))
    return function.__name__ if function else ""


def _saved(node) -> Iterator[torch.Tensor]:
    """The tensors that a node of autograd's graph keeps. RuntimeError where one is freed, or was written to since."""
    for name in dir(node):
        if name.startswith("_saved_"):
            kept = getattr(node, name)
            yield from (t for t in (kept if isinstance(kept, tuple) else (kept,)) if isinstance(t, torch.Tensor))
    yield from getattr(node, "saved_tensors", ())


class Sources:
    """Where gradients end, each a bit: the inputs that require grad, as leaves of autograd's graph or results of something
    before the run; and leaves that the run makes.

    tensors     one for each bit
    made        the values of the leaves that the run made, by the ids of their tensors
    """

    def __init__(self):
        self.tensors: list[torch.Tensor] = []
        self.made: dict[int, Value] = {}
        self._leaves: dict[int, int] = {}
        self._edges: dict[tuple, int] = {}
        self._allowed: set = set()

    def allow(self, node) -> None:
        """A custom function's node that the graph holds as an op."""
        self._allowed.add(node)

    def add(self, tensor: torch.Tensor) -> int:
        """One more; its bit."""
        node, bit = node_of(tensor), 1 << len(self.tensors)
        self.tensors.append(tensor)
        if node is None:
            self._leaves[id(tensor)] = bit
        else:
            self._edges[node, tensor.output_nr] = bit
        return bit

    def bit(self, leaf: torch.Tensor) -> int:
        """The bit of a leaf, 0 if it is none of these."""
        return self._leaves.get(id(leaf), 0)

    def made_among(self, bits: int) -> list[torch.Tensor]:
        """The leaves that the run made, of these."""
        return [t for k, t in enumerate(self.tensors) if bits >> k & 1 and id(t) in self.made]

    def reached(self, tensor: torch.Tensor, custom: bool = True) -> int:
        """The bits of the inputs that a backward pass from `tensor` would arrive at, found in autograd's graph.

        Raises Unsupported where it would arrive elsewhere, or run a Python function; where `custom` is false, any.
        """
        node = node_of(tensor)
        if node is None:
            return self._leaf(tensor)
        bits = 0
        todo, seen = [(node, tensor.output_nr)], set()
        while todo:
            edge = todo.pop()
            node = edge[0]
            if edge in self._edges:
                bits |= self._edges[edge]
            elif node not in seen:
                seen.add(node)
                function = function_of(node)
                if function and not (custom and node in self._allowed):
                    where = " that is differentiated under autocast" if node in self._allowed else ""
                    raise Unsupported(f"custom autograd.Function ({function.__name__}){where}")
                if hasattr(node, "variable"):
                    bits |= self._leaf(node.variable)
                todo += [e for e in node.next_functions if e[0] is not None]
        return bits

    def saved(self, tensor: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """What the run's part of the tensor's graph keeps for a backward pass, each with the moment that it keeps it from.
        RuntimeError where a pass would raise."""
        todo, seen, found = [(node_of(tensor), tensor.output_nr)], set(), []
        while todo:
            node, _ = edge = todo.pop()
            if node is None or node in seen or edge in self._edges:
                continue
            seen.add(node)
            found += ((sequence_number(node), kept) for kept in _saved(node))
            todo += node.next_functions
        return found

    def _leaf(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self._leaves:
            raise Unsupported("a gradient flows to a tensor that is not an input of the run")
        return self._leaves[id(tensor)]
