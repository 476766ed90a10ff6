"""The ops that the machinery itself stands on: inputs, detached values, tuple items and opaque torch calls."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Callable, Sequence

import torch
from torch import library
from torch.autograd.function import FunctionCtx

from ..dims import expr
from ..ir import NumberType, ObjectType, TensorType, TupleType, Value
from ..op import OPS, Op, register, same_shape


_LIBRARY = library.Library("smelt", "FRAGMENT")


def define(schema: str, run: Callable) -> None:
    """An op of torch of smelt's own, `smelt::...`, made of torch's: for what is called as one op, and torch has none for."""
    _LIBRARY.define(schema)
    _LIBRARY.impl(schema.split("(")[0], run, "CompositeImplicitAutograd")


def given_type(inputs, attrs):
    """The type rule of an op whose type only the place that emits it knows."""
    raise ValueError("the type of this op is given where it is emitted")


register(Op("input", "input", "A graph input.", given_type))

register(Op("size", "source", "The value of the size `dim`, as a Python int.",
            lambda inputs, a: NumberType((), torch.int64, a["device"]),
            meaning=lambda *, dim, device: torch.tensor(dim, device=device),
            scalar=lambda s, coordinates, *, dim, device: s.index(expr(dim)), gradient=lambda b, v, g: (), cost=0,
            samples=lambda: [((), {"dim": 5, "device": torch.device("cpu")})]))

register(Op("detach", "pointwise", "The same elements, with no gradient through it.",
            lambda inputs, a: inputs[0].type.like(), promotion="none",
            meaning=lambda x: x.detach(), scalar=lambda s, x: x, aten={"detach": lambda b, x: b.detach(x)},
            gradient=lambda b, v, g: (None,), samples=lambda: [((torch.randn(3, 4),), {})]))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, source):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def _straight_through_type(inputs, attrs):
    same_shape(*inputs)
    return inputs[0].type.like()


register(Op("straight_through", "composite", "The elements of the first operand, with the gradient of the second.",
            _straight_through_type, meaning=_StraightThrough.apply, decompose=lambda b, v: v.inputs[0],
            gradient=lambda b, v, g: (None, g), samples=lambda: [((torch.randn(3, 4), torch.randn(3, 4)), {})]))


def constant(*, data, shape, dtype, device):
    """The tensor whose elements, in row-major order, are `data`."""
    return torch.tensor(data, dtype=dtype, device=device).reshape(shape)


register(Op("constant", "opaque", "A small tensor of given numbers.",
            lambda inputs, a: TensorType(tuple(a["shape"]), a["dtype"], a["device"]), meaning=constant,
            gradient=lambda b, v, g: (),
            samples=lambda: [((), {"data": data, "shape": shape, "dtype": dtype, "device": torch.device("cpu")})
                             for data, shape, dtype in (((1.5, -0.0, 2.0, 4.0), (2, 2), torch.float32),
                                                        ((3, -1), (2,), torch.int64))]))


#: `recorded`: whether its type is what it had in the recorded run, in which autograd may have laid out a gradient anew.
register(Op("item", "opaque", "One result of an op that has several.",
            lambda inputs, a: inputs[0].type.items[a["index"]],
            meaning=lambda x, *, index, recorded=False: x[index]))


# Opaque calls. `args` and `kwargs` are the call's arguments, in which Operand(k) stands for the k-th input.

class Operand(int):
    """Stands for the value's k-th input inside the arguments of an opaque call."""

    def __repr__(self):
        return f"${int(self)}"


def fill(template, inputs):
    """The arguments with every Operand replaced by the input it stands for."""
    kind = type(template)
    if kind is Operand:
        return inputs[template]
    if kind is list or kind is tuple:
        return kind([inputs[t] if type(t) is Operand else fill(t, inputs) if type(t) in _FILLED else t for t in template])
    return {k: fill(t, inputs) for k, t in template.items()} if kind is dict else template


_FILLED = {list, tuple, dict}


def overload(target: str):
    """torch.ops.aten.<op>.<overload> from "aten.op.overload"."""
    found = torch.ops
    for part in target.split("."):
        found = getattr(found, part)
    return found


def call(*inputs, target, args, kwargs, writes=(), layouts=()):
    """Run one torch op by name. Results that share memory with an argument are copied: values never alias.

    `layouts`: the strides that each operand had in the recorded run, None for any; some of torch's kernels rely on them.
    `writes`: the operands that the op writes to. It then works on copies of them, and gives a tuple of its other results
    followed by the new values of those operands.
    """
    op = overload(target)
    inputs = tuple(map(laid_out, inputs, layouts)) if layouts else inputs
    inputs = tuple(i.clone() if k in writes else i for k, i in enumerate(inputs))
    result = op(*fill(args, inputs), **fill(kwargs, inputs))
    if not writes:
        return _owned(result, inputs)
    news = tuple(inputs[k] for k in writes)
    others = result if isinstance(result, (list, tuple)) else (result,)
    return (*(r for r in others if r is not None and not any(r is n for n in news)), *news)


def laid_out(t, strides):
    """The tensor, copied into memory with these strides if it does not have them."""
    if strides is None or t.stride() == strides or all(n == 1 or a == b for n, a, b in zip(t.shape, t.stride(), strides)):
        return t
    return torch.empty_strided(t.shape, strides, dtype=t.dtype, device=t.device).copy_(t)


def function(*inputs, function, args, autocast=""):
    """Run a custom autograd.Function: its forward here, its backward when torch differentiates the call. `autocast`: the name
    of the dtype that operands of the CPU's ops are cast to meanwhile."""
    with torch.autocast("cpu", getattr(torch, autocast)) if autocast else nullcontext():
        return _owned(function.apply(*fill(args, inputs)), inputs)


def _owned(result, inputs):
    memory = set(map(_place, inputs)) - {0}

    def own(t):
        return t.clone() if _place(t) in memory else t
    return tuple([own(t) for t in result]) if isinstance(result, (list, tuple)) else own(result)


def _place(t) -> int:
    """Where a tensor's memory begins; 0 for anything else, and for empty memory."""
    return t.untyped_storage().data_ptr() if isinstance(t, torch.Tensor) and t.layout is torch.strided else 0


def takes_random_numbers(v: Value) -> bool:
    """Whether a value's op draws from torch's generator: it stays where it is, once, whether or not anybody reads it."""
    op, tags = _op_and_tags(v)
    return op.random or torch.Tag.nondeterministic_seeded in tags


def may_raise(v: Value) -> bool:
    """Whether a value's op may refuse the numbers of its inputs: it runs whether or not anybody reads it."""
    if not v.op.raises or v.op.kind != "pointwise":
        return v.op.raises
    return not v.dtype.is_floating_point and isinstance(v.inputs[1], Value)


def waits(v: Value) -> bool:
    """Whether the CPU gives the GPU something in a value's op, or waits for what it has computed."""
    op, tags = _op_and_tags(v)
    return op.waits or torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


def _op_and_tags(v: Value) -> tuple[Op, Sequence[torch.Tag]]:
    """A value's op, and what torch says of the one that it calls."""
    op, attrs = v.op, v.attrs
    while "of" in attrs:  # an op that torch differentiates
        op, attrs = OPS[attrs["of"]], attrs["attrs"]
    return op, overload(attrs["target"]).tags if op.name == "call" else ()


def runs_call(v: Value) -> bool:
    """Whether a value is a call of a torch op that smelt has no record of."""
    return _op_and_tags(v)[0].name == "call" and v.op.name in ("call", "call_taped")


def called(v: Value) -> str:
    """A value's op for people: of a call, with the torch op that it runs."""
    words, op, attrs = [], v.op.name, v.attrs
    while "of" in attrs:
        words.append(op)
        op, attrs = attrs["of"], attrs["attrs"]
    told = {"call": "target", "function": "function"}.get(op)
    return " ".join([*words, getattr(attrs[told], "__name__", attrs[told]) if told else op])


# Differentiation by torch, of any op: `call_taped` runs an op's meaning under autograd and keeps the tape for a
# `call_backward`. Where the gradient is itself differentiated, a `call_gradient` of the same inputs takes their place.
# `of` names the op and `attrs` holds its attributes; `wanted` are the inputs to differentiate; `which` are the results
# that gradients are given for.

class _Seed(torch.autograd.Function):
    """A scalar whose gradient with respect to each output is the one given."""

    @staticmethod
    def forward(ctx, grads, *outputs):
        ctx.grads = grads
        return torch.zeros((), device="cpu")

    @staticmethod
    def backward(ctx, _):
        return None, *ctx.grads


def gradients_of(outputs, inputs, grads, create_graph=False, retain_graph=None):
    """torch.autograd.grad, None where an input is not reached. Given gradients, that would import sympy: half a second."""
    with torch.enable_grad():
        seed = _Seed.apply(grads, *outputs)
    return torch.autograd.grad(seed, inputs, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True)


def _under_autograd(inputs, of, attrs, wanted):
    """(the wanted inputs as autograd sees them, the results as a tuple, whether these are all that torch's op gives). Where an
    input is itself part of a tape that is being made, it stays connected to it."""
    leaves = {k: inputs[k].view_as(inputs[k]) if torch.is_grad_enabled() and inputs[k].requires_grad else
              inputs[k].detach().requires_grad_() for k in wanted}
    with torch.enable_grad():
        results = OPS[of].meaning(*(leaves.get(k, i) for k, i in enumerate(inputs)), **attrs)
    results = tuple(results) if isinstance(results, (list, tuple)) else (results,)
    return tuple(leaves.values()), results, of == "call" and not attrs.get("writes")


def _gradients(tape, grads, which, again=False):
    """Of every leaf, zeros where no result that `which` names depends on it. `again`: to be differentiated once more; else they
    lie in memory of their own, where torch may give back the gradient that it was given, or one for two leaves."""
    leaves, results, complete = tape
    live = [(results[k], g) for k, g in zip(which, grads) if results[k].requires_grad]
    found = _by_one_node(leaves, results, live) if live and complete and not again else None
    if found is None:
        found = gradients_of([r for r, _ in live], leaves, [g for _, g in live], again, retain_graph=True) if live \
            else [None] * len(leaves)
    found = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found)]
    return tuple(found if again else apart(found, grads))


def apart(found, given):
    """Copies of those tensors whose memory is also that of one before them, or of a given one."""
    places = set(map(_memory, given))
    for g in found:
        place = _memory(g)
        yield g.clone() if place and place in places else g
        places.add(place)


def _memory(tensor) -> int:
    """Where a tensor's memory lies; 0 where there is none, or it is that of others."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a wrapper of functorch's
        return 0


def _by_one_node(leaves, results, live):
    """The gradients where one node of autograd's graph leads from all results to the leaves, which is called past the engine:
    that takes a tenth of a millisecond. None where it is not so, where the engine adds up or converts what the node gives, and
    within a pass of the engine by certain inputs, in which nodes give only what leads to those."""
    node = live[0][0].grad_fn
    if isinstance(node, FunctionCtx) or any(not isinstance(r, torch.Tensor) or r.grad_fn not in (node, None) for r in results):
        return None
    ends = [r for r in results if r.grad_fn is not None]  # the others have no gradient
    given = [None] * len(ends)
    for result, g in live:
        given[result.output_nr] = g
    nodes = [n for n, _ in node.next_functions]
    if any(n is not None and not hasattr(n, "variable") for n in nodes):
        return None
    with torch.no_grad():
        found = node(*given)
    found = found if isinstance(found, tuple) else (found,)
    of = {id(n.variable): g for n, g in zip(nodes, found) if n is not None}
    found = [of.get(id(leaf)) for leaf in leaves]
    complete = all(g is not None and (g.shape, g.dtype) == (leaf.shape, leaf.dtype) for g, leaf in zip(found, leaves))
    return found if complete else None


def call_taped(*inputs, of, attrs, wanted):
    """The op's results, connected to those inputs that are part of a tape that is being made, then the tape."""
    tape = _under_autograd(inputs, of, attrs, wanted)
    connected = any(not leaf.is_leaf for leaf in tape[0])
    return (*(r.detach() if isinstance(r, torch.Tensor) and not connected else r for r in tape[1]), tape)


def call_backward(tape, *grads, which):
    """The gradients of a taped op's wanted inputs, connected to what autograd follows of those and of the gradients given."""
    followed = any(not leaf.is_leaf for leaf in tape[0]) or any(g.requires_grad for g in grads)
    return _gradients(tape, grads, which, again=torch.is_grad_enabled() and followed)


def call_gradient(*inputs_and_grads, of, attrs, wanted, which):
    """The same without a tape: (*inputs, *grads) as the operands, the op run again."""
    inputs, grads = inputs_and_grads[:-len(which)], inputs_and_grads[-len(which):]
    return _gradients(_under_autograd(inputs, of, attrs, wanted), grads, which, again=torch.is_grad_enabled())


def taped_type(result) -> TupleType:
    """The type of a taped op whose untaped one has this type."""
    return TupleType((*(result.items if isinstance(result, TupleType) else (result,)), ObjectType("tape")))


def _call_gradient(b, v, g):
    wanted = v.attrs["wanted"]
    which = tuple(k for k, grad in enumerate(g) if grad is not None)
    tape = b.item(v, index=len(v.type.items) - 1)
    types = TupleType(tuple(v.inputs[k].type.like(v.inputs[k].shape) for k in wanted))
    grads = b.emit("call_backward", tape, *(g[k] for k in which), which=which, type=types)
    out: list[Value | None] = [None] * len(v.inputs)
    for n, k in enumerate(wanted):
        out[k] = b.item(grads, index=n)
    return out


register(Op("call", "opaque", "One torch op that smelt has no record of, run by torch.", given_type, meaning=call))
register(Op("function", "opaque", "A custom autograd.Function, run by torch.", given_type, meaning=function))
register(Op("call_taped", "opaque", "An op run under torch's autograd, keeping its tape.", given_type, meaning=call_taped,
            gradient=_call_gradient))
register(Op("call_backward", "opaque", "torch's gradient of a taped op.", given_type, meaning=call_backward))
register(Op("call_gradient", "opaque", "torch's gradient of an op, which is run again for it.", given_type,
            meaning=call_gradient))
