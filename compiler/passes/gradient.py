"""Reverse-mode differentiation of a graph, by the gradient rules of its ops' records.

The result is one *joint* graph, forward and backward in one, in the same IR: it can be simplified, partitioned, and
differentiated again. An op without a rule is decomposed if it can be, and else differentiated by torch as an opaque call.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

from torch.autograd.function import once_differentiable

from ...errors import InvalidGraph, Unsupported
from ..builder import Builder, Replacement, describe, rewrite, same_type
from ..ir import Graph, ObjectType, TensorType, TupleType, Type, Value, dense, needed
from ..op import Op
from ..ops.core import takes_random_numbers, taped_type
from .dce import dce
from .decompose import decompose


@dataclass(frozen=True, eq=False)
class Joint:
    """A graph with its derivative.

    graph   inputs: those of the primal graph, then one tangent for each of `of`;
            outputs: those of the primal graph, then one gradient for each of `wrt` (zeros where nothing reaches it)
    wrt     primal inputs that are differentiated
    of      primal outputs that tangents arrive for
    reach   reach[i][k]: whether output of[i] depends on input wrt[k] by a differentiable path
    shared  for each output of[i], those whose backward pass goes through a step that its own goes through, and that needs
            values of the primal graph: torch frees these in the first of the passes
    read    primal inputs whose values the rules for gradients read, as those of eager do: where a rule reads what was computed
            of an input, the input is none of them
    """
    graph: Graph
    wrt: tuple[int, ...]
    of: tuple[int, ...]
    reach: tuple[tuple[bool, ...], ...]
    shared: tuple[frozenset[int], ...]
    read: frozenset[int]

    @property
    def primal_inputs(self) -> int:
        return len(self.graph.inputs) - len(self.of)

    @property
    def primal_outputs(self) -> int:
        return len(self.graph.outputs) - len(self.wrt)

    @property
    def relevant(self) -> tuple[int, ...]:
        """The primal inputs whose values the gradients depend on."""
        gradients = self.graph.outputs[self.primal_outputs:]
        read = {*gradients, *(i for v in needed(gradients, self.graph.values) for i in v.operands)}
        return tuple(k for k, x in enumerate(self.graph.inputs[:self.primal_inputs]) if x in read)

    @property
    def derivative(self) -> Graph:
        """The gradients alone, of all inputs; each in memory of its own."""
        b = Builder.over(self.graph)
        b.values = list(self.graph.values)
        outputs: list[Value] = []
        for g in self.graph.outputs[self.primal_outputs:]:
            outputs.append(b.copy(g) if g in outputs or g in b.inputs else g)
        return dce(b.graph(f"{self.graph.name.removesuffix('_joint')}_gradient", outputs))

    def reached(self) -> Joint:
        """Without the gradients that nothing reaches, for which torch has None in place of zeros."""
        columns = [k for k in range(len(self.wrt)) if any(row[k] for row in self.reach)]
        kept = [*range(self.primal_outputs), *(self.primal_outputs + k for k in columns)]
        names = tuple(self.graph.output_names[k] for k in kept) if self.graph.output_names else ()
        graph = replace(self.graph, outputs=tuple(self.graph.outputs[k] for k in kept), output_names=names)
        return Joint(graph, tuple(self.wrt[k] for k in columns), self.of,
                     tuple(tuple(row[k] for k in columns) for row in self.reach), self.shared, self.read)


def gradient(graph: Graph, wrt: Sequence[int], of: Sequence[int]) -> Joint:
    """The joint graph for the gradients of outputs `of` with respect to inputs `wrt` (indices).

    Unsupported names an op that has no derivative to be had: the second derivative of an opaque op whose tape comes
    from outside the graph.
    """
    wrt, of = tuple(wrt), tuple(of)
    for k in wrt:
        if not differentiable(graph.inputs[k].type):
            raise InvalidGraph(f"{graph.name}: {describe(graph.inputs[k])} cannot be differentiated with respect to")
    graph, active = differentiable_form(graph, {graph.inputs[k].name for k in wrt}, [graph.outputs[k] for k in of])
    sweep = Sweep(graph, active)
    for k in of:
        sweep.seed(graph.outputs[k], graph.output_names[k] if graph.output_names else graph.outputs[k].name)
    sweep.run()
    gradients = [_laid_out(sweep.b, sweep.gradient_of(graph.inputs[k]), graph.inputs[k]) for k in wrt]
    names = (*graph.output_names, *(f"grad_{graph.inputs[k].name}" for k in wrt)) if graph.output_names else ()
    joint = dce(sweep.b.graph(f"{graph.name}_joint", [*graph.outputs, *gradients], names))
    outputs = [graph.outputs[k] for k in of]
    read = _read(joint, set(graph.values), set(gradients))
    return Joint(joint, wrt, of, sweep.reach(outputs, [graph.inputs[k] for k in wrt]), sweep.shared(outputs),
                 frozenset(k for k, x in enumerate(graph.inputs) if x in read))


def _read(joint: Graph, primal: set[Value], gradients: set[Value]) -> set[Value]:
    """What the values that a sweep added to the primal ones read, through views of it too."""
    read, waiting = set(gradients), [i for v in joint.values if v not in primal for i in v.operands]
    while waiting:
        v = waiting.pop()
        if v not in read:
            read.add(v)
            waiting += v.operands if v.op.kind == "view" else ()
    return read


def _laid_out(b: Builder, g: Value, x: Value) -> Value:
    """The gradient of an input, laid out as that is: so autograd leaves it in `.grad`. What a call of torch gives stays."""
    call = g.inputs[0] if g.op.name == "item" else g
    if g.type.strides == x.type.strides or call.op.kind == "opaque" or not dense(x.shape, x.type.strides):
        return g
    return b.emit("copy", g, type=replace(g.type, strides=x.type.strides))


def differentiable(t: Type) -> bool:
    """Whether a gradient can flow through a value of this type: floats, results that hold some, and tapes."""
    if isinstance(t, TupleType):
        return any(map(differentiable, t.items))
    return isinstance(t, ObjectType) or t.dtype.is_floating_point or t.dtype.is_complex


def _is_complex(v: Value) -> bool:
    types = v.type.items if isinstance(v.type, TupleType) else (v.type,)
    return any(isinstance(t, TensorType) and t.dtype.is_complex for t in types)


def differentiable_form(graph: Graph, leaves: set[str], roots: Sequence[Value]) -> tuple[Graph, set[Value]]:
    """The graph with a gradient rule on every op between the leaves (by name) and the roots, and the values there that
    depend on the leaves. What the roots don't depend on stays as it is."""
    ends = {v.name for v in roots}
    aside = _aside(graph, ends)
    graph = decompose(graph, lambda v: v.op.gradient is None and v.name not in aside)
    aside = _aside(graph, ends)  # a result that nobody read may be a step towards others
    active = {x for x in graph.inputs if x.name in leaves}

    def rule(b: Builder, v: Value) -> Replacement:
        if v.name in aside:
            return None
        if v.name in leaves:
            active.add(v)
        wanted = tuple(k for k, i in enumerate(v.inputs) if i in active and differentiable(i.type))
        if not wanted or not differentiable(v.type) or stops_gradients(v.op):
            return None
        if v.op.name == "call_backward" and _differentiates_once(v):
            if wanted != (0,):
                raise Unsupported("the second derivative of a custom autograd.Function that has but one", str(v.origin))
            return None
        if v.op.name == "call_taped" and not set(wanted) <= set(v.attrs["wanted"]):
            return _taped_again(b, v, wanted, active)
        real = not any(map(_is_complex, (v, *v.operands)))  # the records' rules are for real numbers
        if v.op.name in ("item", "call_taped") or v.op.gradient is not None and real:
            active.add(v)
            return None
        return _taped(b, v, wanted, active)
    return rewrite(graph, rule), active


def _aside(graph: Graph, ends: set[str]) -> set[str]:
    """The names of the values that those of these names don't depend on."""
    kept = needed([v for v in graph.values if v.name in ends], graph.values)
    return {v.name for v in graph.values} - {v.name for v in kept}


def stops_gradients(op: Op) -> bool:
    return op.name == "detach" or op.random and op.gradient is None


def _differentiates_once(v: Value) -> bool:
    """Whether torch's gradient is that of a custom Function whose backward is marked `once_differentiable`: it depends on the
    gradients that arrive alone, as autograd sees it."""
    taped = v.inputs[0].inputs[0] if v.inputs[0].op.name == "item" else v
    if taped.attrs.get("of") != "function":
        return False
    backward = taped.attrs["attrs"]["function"].backward
    return getattr(backward, "__code__", None) is once_differentiable(lambda ctx: None).__code__


def _taped(b: Builder, v: Value, wanted: tuple[int, ...], active: set[Value]) -> Replacement:
    """The op run under torch's autograd, in place of one without a gradient rule."""
    inputs, of, attrs = v.inputs, v.op.name, v.attrs
    if of == "call_backward":  # it reads a tape, through which autograd sees nothing: run the taped op again instead
        inputs, attrs = _untaped(v)
        of, wanted = "call_gradient", tuple(k for k, i in enumerate(inputs) if i in active)
    taped = b.emit("call_taped", *inputs, of=of, attrs=attrs, wanted=wanted, type=taped_type(v.type))
    results = [b.item(taped, index=k) for k in range(len(taped.type.items) - 1)]
    active.update((taped, *results))
    return results if isinstance(v.type, TupleType) else results[0]


def _taped_again(b: Builder, v: Value, wanted: tuple[int, ...], active: set[Value]) -> Replacement:
    """The results of a taped op from another run of it, whose tape has what is wanted now; the old tape stays as it is."""
    _refuse_random(v)
    again = b.emit("call_taped", *v.inputs, type=v.type, **{**v.attrs, "wanted": wanted})
    old = b.emit("call_taped", *v.inputs, type=v.type, **v.attrs)
    results = [b.item(again, index=k) for k in range(len(v.type.items) - 1)]
    results.append(b.item(old, index=len(results)))
    active.update((again, old, *results))
    return results


def _untaped(v: Value) -> tuple[tuple, dict]:
    """The operands and attributes of the `call_gradient` that equals a `call_backward`."""
    tape, *grads = v.inputs
    if tape.op.name != "item":
        raise Unsupported("the second derivative of an op that torch differentiates, whose tape is not of this graph",
                          str(v.origin))
    taped = tape.inputs[0]
    _refuse_random(taped)
    return (*taped.inputs, *grads), {**taped.attrs, "which": v.attrs["which"]}


def _refuse_random(taped: Value) -> None:
    if takes_random_numbers(taped):
        raise Unsupported("the second derivative of a random op that torch differentiates: it would draw other numbers",
                          str(taped.origin))


#: Ops of which torch keeps a number operand as it keeps tensors.
_KEEP_NUMBERS = frozenset({"mul", "div"})


class Sweep:
    """The reverse sweep: values in reverse program order, each passing its adjoint on to what it read."""

    def __init__(self, graph: Graph, active: set[Value], later: Sequence[Value] = ()):
        """later: values that come after the sweep, whose names are taken."""
        self.graph, self.active = graph, active
        self.b = Builder(v.name for v in (*graph.inputs, *graph.values, *later))
        self.b.inputs, self.b.values = list(graph.inputs), list(graph.values)
        self.adjoint: dict[Value, Value] = {}
        self.of_results: dict[Value, _ResultGradients] = {}
        self.flows: dict[Value, list[Value]] = {}  # value -> the operands that its gradient reaches
        self.primal = {*graph.inputs, *graph.values}
        self.keeping: set[Value] = set()  # values whose gradient rule reads primal ones, or numbers that torch keeps

    def seed(self, output: Value, name: str) -> None:
        tangent = self.b.input(f"grad_{name}", output.type, output.origin)
        if output in self.active:
            self.add(output, tangent)

    def run(self) -> None:
        for v in reversed(self.graph.values):
            g = self.of_results.get(v) or self.adjoint.get(v)
            if g is None or not any(i in self.active for i in v.operands):
                continue
            with self.b.at(v.origin, f"grad of {v.op.name}"):
                if v.op.name == "item":
                    self.pass_to_tuple(v, g)
                else:
                    self.pass_on(v, g)

    def pass_to_tuple(self, v: Value, g: Value) -> None:
        whole, index = v.inputs[0], v.attrs["index"]
        self.of_results.setdefault(whole, _ResultGradients(self.b, whole)).add(index, g)
        self.flows[v] = [whole]

    def pass_on(self, v: Value, g: "Value | _ResultGradients") -> None:
        start = len(self.b.values)
        grads = v.op.gradient(self.b, v, g)
        by_number = v.op.name in _KEEP_NUMBERS and len(v.operands) < len(v.inputs)
        if by_number or not self.primal.isdisjoint(i for new in self.b.values[start:] for i in new.operands):
            self.keeping.add(v)
        if len(grads) != len(v.inputs):
            raise InvalidGraph(f"the gradient rule of {v.op.name} gives {len(grads)} gradients for {len(v.inputs)} inputs")
        flows = self.flows[v] = []
        for i, grad in zip(v.inputs, grads):
            if grad is None or i not in self.active:
                continue
            if not same_type(grad.type, i.type):
                raise InvalidGraph(f"the gradient rule of {v.op.name} gives {describe(grad)} for {describe(i)}")
            self.add(i, grad)
            flows.append(i)

    def add(self, v: Value, grad: Value) -> None:
        """Sum gradients in the order in which they come, as torch does."""
        before = self.adjoint.get(v)
        self.adjoint[v] = grad if before is None else self.b.add(before, grad)

    def gradient_of(self, x: Value) -> Value:
        if x in self.adjoint:
            return self.adjoint[x]
        with self.b.at(x.origin, "grad, which nothing reaches"):
            return self.b.full(shape=x.shape, value=0, dtype=x.dtype, device=x.type.device)

    def reach(self, outputs: Sequence[Value], inputs: Sequence[Value]) -> tuple[tuple[bool, ...], ...]:
        """For each output, which of the inputs its gradient flows to: sets of inputs as bits, carried forward."""
        reached = {x: 1 << k for k, x in enumerate(inputs)}
        for v in self.graph.values:
            bits = 0
            for i in self.flows.get(v, ()):
                bits |= reached.get(i, 0)
            reached[v] = bits
        return tuple(tuple(bool(reached.get(o, 0) >> k & 1) for k in range(len(inputs))) for o in outputs)


    def shared(self, outputs: Sequence[Value]) -> tuple[frozenset[int], ...]:
        """See Joint: sets of outputs as bits, carried backward."""
        passes: dict[Value, int] = {}
        for k, o in enumerate(outputs):
            passes[o] = passes.get(o, 0) | 1 << k
        for v in reversed(self.graph.values):
            for i in self.flows.get(v, ()):
                passes[i] = passes.get(i, 0) | passes.get(v, 0)
        together = {passes.get(v, 0) for v in self.keeping}
        return tuple(frozenset(j for bits in together if bits >> k & 1 for j in range(len(outputs)) if bits >> j & 1)
                     for k in range(len(outputs)))


class _ResultGradients:
    """The gradients of an op's several results. Indexed, it gives zeros where nothing reaches a float result, for rules
    that need them; iterated, None, for rules that can do without. The same for results that have no gradient."""

    def __init__(self, b: Builder, v: Value):
        self.b, self.types = b, v.type.items
        self.found: list[Value | None] = [None] * len(self.types)

    def add(self, index: int, g: Value) -> None:
        before = self.found[index]
        self.found[index] = g if before is None else self.b.add(before, g)

    def __getitem__(self, index: int) -> Value | None:
        t = self.types[index]
        if self.found[index] is not None or not isinstance(t, TensorType) or not differentiable(t):
            return self.found[index]
        return self.b.full(shape=t.shape, value=0, dtype=t.dtype, device=t.device)

    def __iter__(self):
        return iter(self.found)
