"""Passes, text in and text out; gradients against torch; what a partition saves."""
from __future__ import annotations

import random
import textwrap
from dataclasses import replace
from itertools import product

import pytest
import torch

from smelt.compiler import Builder, Graph, TensorType, TupleType, evaluate, parse, show, verify
from smelt.compiler.ops.core import Operand
from smelt.compiler.passes import cse, dce, decompose, drop_detach, fold, gradient, join, partition, simplify
from smelt.compiler.passes.mincut import INFINITE, Network
from smelt.compiler.passes.simplify import holds_exactly
from smelt.errors import InvalidGraph, Unsupported

F32, F64 = torch.float32, torch.float64


def check(before: str, after: str, *passes) -> None:
    """The passes make one text of the other; "same" means that the very same graph comes back."""
    graph = verify(parse(before))
    changed = graph
    for p in passes:
        changed = verify(p(changed), p.__name__)
    if after == "same":
        assert changed is graph, show(changed)
    else:
        assert show(changed) == show(parse(after)), f"\n{show(changed)}"


def body(inputs: str, *lines: str) -> str:
    return f"graph f({inputs}) {{\n" + "\n".join(lines) + "\n}"


# simplify: (inputs, lines before, lines after or "same")

SIMPLIFY = {
    "reshape of reshape": (
        "%x: f32[4,6]",
        ["%a = reshape(%x, shape=(24,)) : f32[24]",
         "%b = reshape(%a, shape=(6, 4)) : f32[6,4]",
         "%c = exp(%b) : f32[6,4]",
         "return %c"],
        ["%b = reshape(%x, shape=(6, 4)) : f32[6,4]", "%c = exp(%b) : f32[6,4]", "return %c"]),
    "reshape and back": (
        "%x: f32[4,6]",
        ["%a = reshape(%x, shape=(24,)) : f32[24]",
         "%b = reshape(%a, shape=(4, 6)) : f32[4,6]",
         "%c = exp(%b) : f32[4,6]",
         "return %c"],
        ["%c = exp(%x) : f32[4,6]", "return %c"]),
    "permute of permute": (
        "%x: f32[2,3,4]",
        ["%a = permute(%x, dims=(1, 2, 0)) : f32[3,4,2]",
         "%b = permute(%a, dims=(1, 0, 2)) : f32[4,3,2]",
         "%c = exp(%b) : f32[4,3,2]",
         "return %c"],
        ["%b = permute(%x, dims=(2, 1, 0)) : f32[4,3,2]", "%c = exp(%b) : f32[4,3,2]", "return %c"]),
    "transpose twice": (
        "%x: f32[2,3]",
        ["%a = permute(%x, dims=(1, 0)) : f32[3,2]",
         "%b = permute(%a, dims=(1, 0)) : f32[2,3]",
         "%c = exp(%b) : f32[2,3]",
         "return %c"],
        ["%c = exp(%x) : f32[2,3]", "return %c"]),
    "expand of expand": (
        "%x: f32[1,1]",
        ["%a = expand(%x, shape=(3, 1)) : f32[3,1]", "%b = expand(%a, shape=(2, 3, 4)) : f32[2,3,4]", "return %b"],
        ["%b = expand(%x, shape=(2, 3, 4)) : f32[2,3,4]", "return %b"]),
    "slice of slice": (
        "%x: f32[20]",
        ["%a = slice(%x, start=(2,), step=(3,), size=(6,)) : f32[6]",
         "%b = slice(%a, start=(1,), step=(2,), size=(2,)) : f32[2]",
         "return %b"],
        ["%b = slice(%x, start=(5,), step=(6,), size=(2,)) : f32[2]", "return %b"]),
    "slice of nothing behind the end": (
        "%x: f32[6]",
        ["%a = slice(%x, start=(5,), step=(2,), size=(1,)) : f32[1]",
         "%b = slice(%a, start=(1,), step=(1,), size=(0,)) : f32[0]",
         "return %b"],
        ["%b = slice(%x, start=(0,), step=(2,), size=(0,)) : f32[0]", "return %b"]),
    "no padding": (
        "%x: f32[3]",
        ["%a = pad(%x, low=(0,), high=(0,), interior=(0,), value=1) : f32[3]", "%b = exp(%a) : f32[3]", "return %b"],
        ["%b = exp(%x) : f32[3]", "return %b"]),
    "views of a constant": (
        "",
        ["%a = full(shape=(), value=2.0, dtype=f32, device=cpu) : f32[]",
         "%b = reshape(%a, shape=(1, 1)) : f32[1,1]",
         "%c = expand(%b, shape=(4, 6)) : f32[4,6]",
         "return %c"],
        ["%c = full(shape=(4, 6), value=2.0, dtype=f32, device=cpu) : f32[4,6]", "return %c"]),
    "constant as a number": (
        "%x: f32[4]",
        ["%a = full(shape=(4,), value=2, dtype=f32, device=cpu) : f32[4]", "%b = mul(%a, %x) : f32[4]", "return %b"],
        ["%b = mul(2.0, %x) : f32[4]", "return %b"]),
    "constant that gives the shape": (
        "%x: f32[]",
        ["%a = full(shape=(4,), value=2, dtype=f32, device=cpu) : f32[4]", "%b = mul(%a, %x) : f32[4]", "return %b"],
        "same"),
    "constant that gives the dtype": (
        "%x: f32[4]",
        ["%a = full(shape=(4,), value=2, dtype=f64, device=cpu) : f64[4]", "%b = mul(%a, %x) : f64[4]", "return %b"],
        "same"),
    "constant that would not be rounded": (
        "%x: bf16[4]",
        ["%a = full(shape=(), value=0.1, dtype=f32, device=cpu) : f32[]", "%b = add(%x, %a) : bf16[4]", "return %b"],
        "same"),
    "constant that is exact": (
        "%x: bf16[4]",
        ["%a = full(shape=(), value=0.5, dtype=f32, device=cpu) : f32[]", "%b = mul(%x, %a) : bf16[4]", "return %b"],
        ["%b = mul(%x, 0.5) : bf16[4]", "return %b"]),
    "known condition": (
        "%x: f32[4], %y: f32[4]",
        ["%a = full(shape=(4,), value=False, dtype=bool, device=cpu) : bool[4]",
         "%b = where(%a, %x, %y) : f32[4]",
         "%c = exp(%b) : f32[4]",
         "return %c"],
        ["%c = exp(%y) : f32[4]", "return %c"]),
    "cast to the same": (
        "%x: f32[4]",
        ["%a = cast(%x, dtype=f32) : f32[4]", "%b = exp(%a) : f32[4]", "return %b"],
        ["%b = exp(%x) : f32[4]", "return %b"]),
    "cast by a wider dtype": (
        "%x: bf16[4]",
        ["%a = cast(%x, dtype=f32) : f32[4]", "%b = cast(%a, dtype=bf16) : bf16[4]", "%c = neg(%b) : bf16[4]", "return %c"],
        ["%c = neg(%x) : bf16[4]", "return %c"]),
    "cast by a narrower dtype": (
        "%x: f32[4]",
        ["%a = cast(%x, dtype=bf16) : bf16[4]", "%b = cast(%a, dtype=f32) : f32[4]", "return %b"],
        "same"),
    "cast of a float to integers": (
        "%x: f32[4]",
        ["%a = cast(%x, dtype=f64) : f64[4]", "%b = cast(%a, dtype=i32) : i32[4]", "return %b"],
        "same"),
    "cast of a constant": (
        "",
        ["%a = full(shape=(2,), value=0.1, dtype=f32, device=cpu) : f32[2]", "%b = cast(%a, dtype=bf16) : bf16[2]", "return %b"],
        ["%b = full(shape=(2,), value=0.10009765625, dtype=bf16, device=cpu) : bf16[2]", "return %b"]),
    "copy inside": (
        "%x: f32[4]",
        ["%a = copy(%x) : f32[4]", "%b = exp(%a) : f32[4]", "return %b"],
        ["%b = exp(%x) : f32[4]", "return %b"]),
    "copy that is an output": (
        "%x: f32[4]",
        ["%a = copy(%x) : f32[4]", "return %a"],
        "same"),
    "copy of an output": (
        "%x: f32[4]",
        ["%a = exp(%x) : f32[4]", "%b = copy(%a) : f32[4]", "return %a, %b"],
        "same"),
    "copy of what is inside": (
        "%x: f32[4]",
        ["%a = exp(%x) : f32[4]", "%b = copy(%a) : f32[4]", "%c = copy(%a) : f32[4]", "return %b, %c"],
        ["%a = exp(%x) : f32[4]", "%c = copy(%a) : f32[4]", "return %a, %c"]),
    "output in another layout": (
        "%x: f32[4,6]",
        ["%a = exp(%x) : f32[4,6]", "%b = copy(%a) : f32[4,6]{1,4}", "return %b"],
        "same"),
    "copy for a call of torch": (
        "%x: f32[4,6]{1,4}",
        ["%a = copy(%x) : f32[4,6]", "%b = call(%a, target='aten.relu.default', args=($0,), kwargs={}) : f32[4,6]", "return %b"],
        "same"),
    "times one": (
        "%x: f32[4]",
        ["%a = mul(1, %x) : f32[4]", "%b = div(%a, 1.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"],
        ["%c = exp(%x) : f32[4]", "return %c"]),
    "integer over one": (
        "%x: i64[4]",
        ["%a = div(%x, 1) : f32[4]", "return %a"],
        "same"),
    "minus zero": (
        "%x: f32[4]",
        ["%a = sub(%x, 0.0) : f32[4]", "%b = add(%a, -0.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"],
        ["%c = exp(%x) : f32[4]", "return %c"]),
    "plus zero": (
        "%x: f32[4]",
        ["%a = add(%x, 0.0) : f32[4]", "%b = sub(%a, -0.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"],
        "same"),
    "times zero": (
        "%x: f32[4]",
        ["%a = mul(%x, 0.0) : f32[4]", "%b = sub(%x, %x) : f32[4]", "return %a, %b"],
        "same"),
    "negated twice": (
        "%x: f32[4]",
        ["%a = neg(%x) : f32[4]", "%b = neg(%a) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"],
        ["%c = exp(%x) : f32[4]", "return %c"]),
    "nothing to do": (
        "%x: f32[4]",
        ["%a = exp(%x) : f32[4]", "return %a, %x"],
        "same"),
}


@pytest.mark.parametrize("case", SIMPLIFY)
def test_simplify(case):
    inputs, before, after = SIMPLIFY[case]
    check(body(inputs, *before), after if after == "same" else body(inputs, *after), simplify, dce)


def test_simplify_keeps_what_the_graph_means():
    """Every case above, on NaN, infinities and signed zeros."""
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 0.1, -1e30, 3.0])
    for inputs, before, after in SIMPLIFY.values():
        graph = parse(body(inputs, *before))
        inputs = [special.repeat(4)[:i.type.numel].reshape(i.shape) for i in graph.inputs]
        inputs = [x.to(i.dtype) if i.dtype.is_floating_point else x.nan_to_num(2.0, 3, -3).to(i.dtype)
                  for x, i in zip(inputs, graph.inputs)]
        for a, b in zip(evaluate(graph, inputs), evaluate(simplify(graph), inputs)):
            assert bool(((a.signbit() == b.signbit()) | a.isnan()).all())
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, F32, F64)


@pytest.mark.parametrize("wide, narrow", list(product(DTYPES, DTYPES)), ids=str)
def test_holds_exactly(wide, narrow):
    """Against every value of the small dtypes, and the hardest of the large ones."""
    if narrow.itemsize == 1:
        values = torch.tensor([0, 1], dtype=torch.uint8).bool() if narrow == torch.bool else torch.arange(256).to(narrow)
    elif narrow.itemsize == 2:
        values = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(narrow)
    elif narrow.is_floating_point:
        values = torch.tensor([1 / 3, torch.finfo(narrow).max, torch.finfo(narrow).smallest_normal], dtype=narrow)
    else:
        values = torch.tensor([torch.iinfo(narrow).max, torch.iinfo(narrow).min, 12345], dtype=narrow)
    if values.is_floating_point():
        values = values[~values.isnan()]
    if narrow.is_floating_point and not wide.is_floating_point:
        assert not holds_exactly(wide, narrow)
        return
    back = values.to(wide).to(narrow)
    exact = bool((back == values).all())
    if not narrow.is_floating_point:
        exact = exact and bool((values.to(wide).double() == values.double()).all())
    assert holds_exactly(wide, narrow) == exact


# fold, cse, dce, decompose

def test_fold():
    check(body("%x: f32[3]", "%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]", "%b = mul(%a, 0) : i64[3]",
               "%c = add(%b, 2.5) : f32[3]", "%d = mul(%x, %c) : f32[3]", "return %d, %a"),
          body("%x: f32[3]", "%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]",
               "%c = full(shape=(3,), value=2.5, dtype=f32, device=cpu) : f32[3]", "%d = mul(%x, %c) : f32[3]",
               "return %d, %a"), fold, dce)


@pytest.mark.parametrize("line", ["%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]",
                                  "%a = full(shape=(100,), value=1, dtype=f32, device=cpu) : f32[100]\n%b = exp(%a) : f32[100]",
                                  "%a = exp(%x) : f32[3]"])
def test_fold_leaves(line):
    check(body("%x: f32[3]", line, "return %a"), "same", fold)


def test_cse():
    check(body("%x: f32[3]", "%a = mul(%x, 1) : f32[3]", "%b = mul(%x, 1) : f32[3]", "%c = mul(%x, True) : f32[3]",
               "%d = mul(%x, 0.0) : f32[3]", "%e = mul(%x, -0.0) : f32[3]", "%f = add(%a, %b) : f32[3]",
               "%g = add(%c, %d) : f32[3]", "return %f, %g, %e"),
          body("%x: f32[3]", "%a = mul(%x, 1) : f32[3]", "%c = mul(%x, True) : f32[3]", "%d = mul(%x, 0.0) : f32[3]",
               "%e = mul(%x, -0.0) : f32[3]", "%f = add(%a, %a) : f32[3]", "%g = add(%c, %d) : f32[3]", "return %f, %g, %e"), cse)


def test_cse_joins_nan_but_no_two_outputs():
    check(body("%x: f32[3]", "%a = add(%x, nan) : f32[3]", "%b = add(%x, nan) : f32[3]", "return %a, %b"),
          body("%x: f32[3]", "%a = add(%x, nan) : f32[3]", "%b = copy(%a) : f32[3]", "return %a, %b"), cse)


@pytest.mark.parametrize("target", ["aten.rand_like.default", "aten.bernoulli.default"])
def test_random_calls_are_neither_joined_nor_dropped(target):
    call = f"call(%x, target='{target}', args=($0,), kwargs={{}}) : f32[3]"
    lines = [f"%a = {call}", f"%b = {call}", f"%c = {call}", "%d = add(%a, %b) : f32[3]", "return %d"]
    check(body("%x: f32[3]", *lines), "same", cse, dce)


def test_dce():
    check(body("%x: f32[3], %y: f32[3]", "%a = exp(%x) : f32[3]", "%b = neg(%a) : f32[3]", "%c = exp(%a) : f32[3]", "return %c"),
          body("%x: f32[3], %y: f32[3]", "%a = exp(%x) : f32[3]", "%c = exp(%a) : f32[3]", "return %c"), dce)


def test_decompose_items():
    """A composite with several results becomes the values themselves, under the names of its items."""
    graph = parse(body("%x: f32[2,6], %w: f32[6], %b: f32[6]",
                       "%n = layer_norm(%x, %w, %b, eps=1e-05) : (f32[2,6], f32[2,1], f32[2,1])  # m.py:3",
                       "%y = item(%n, index=0) : f32[2,6]", "%m = item(%n, index=1) : f32[2,1]",
                       "%z = exp(%y) : f32[2,6]", "return %z, %m"))
    simpler = verify(decompose(graph))
    assert {"y", "m"} <= {v.name for v in simpler.values}
    assert not any(v.op.kind in ("composite", "opaque") for v in simpler.values)
    assert any(str(v.origin) == "m.py:3 part of layer_norm" for v in simpler.values)
    inputs = [torch.randn(2, 6), torch.randn(6), torch.randn(6)]
    for a, b in zip(evaluate(simpler, inputs), evaluate(graph, inputs)):
        torch.testing.assert_close(a, b)


def test_drop_detach():
    check(body("%x: f32[3]", "%a = detach(%x) : f32[3]", "%b = exp(%a) : f32[3]", "%c = detach(%b) : f32[3]", "return %b, %c"),
          body("%x: f32[3]", "%b = exp(%x) : f32[3]", "%c = copy(%b) : f32[3]", "return %b, %c"), drop_detach)


# gradient

def test_gradient_text():
    graph = parse(body("%x: f32[4,6], %y: f32[6]", "%a = mul(%x, %y) : f32[4,6]  # m.py:1",
                       "%b = sum(%a, dim=(0, 1), keepdim=False, dtype=None) : f32[]  # m.py:2", "return loss=%b"))
    joint = gradient(graph, [0, 1], [0])
    assert joint.reach == ((True, True),)
    assert show(joint.graph) == textwrap.dedent("""\
        graph f_joint(
            %x: f32[4,6],
            %y: f32[6],
            %grad_loss: f32[]  # m.py:2
        ) {
          %a = mul(%x, %y)                                          : f32[4,6]  # m.py:1
          %b = sum(%a, dim=(0, 1), keepdim=False, dtype=None)       : f32[]     # m.py:2
          %reshape_0 = reshape(%grad_loss, shape=(1, 1))            : f32[1,1]  # m.py:2 grad of sum
          %expand_0 = expand(%reshape_0, shape=(4, 6))              : f32[4,6]  # m.py:2 grad of sum
          %mul_0 = mul(%expand_0, %y)                               : f32[4,6]  # m.py:1 grad of mul
          %mul_1 = mul(%expand_0, %x)                               : f32[4,6]  # m.py:1 grad of mul
          %sum_0 = sum(%mul_1, dim=(0,), keepdim=False, dtype=None) : f32[6]    # m.py:1 grad of mul
          return loss=%b, grad_x=%mul_0, grad_y=%sum_0
        }""")


def graph_of(function, *types, dtype=F64) -> Graph:
    """A graph from a function of a builder and its inputs."""
    b = Builder()
    inputs = [b.input("xyzw"[n], TensorType(t, dtype)) for n, t in enumerate(types)]
    outputs = function(b, *inputs)
    return verify(b.graph("f", outputs if isinstance(outputs, list) else [outputs]))


def call(b: Builder, target: str, x, *args, type=None, **kwargs):
    """One torch op on `x`; its type is that of `x` unless given."""
    return b.emit("call", x, type=type or x.type.like(), target=f"aten.{target}", args=(Operand(0), *args), kwargs=kwargs)


def taped_two_results(b, x):
    kind = TupleType((TensorType((2,), F64), TensorType((2,), torch.int64)))
    both = call(b, "topk.default", x, 2, type=kind)
    return [b.mul(b.item(both, index=0), b.item(both, index=0)), b.item(both, index=1)]


def eigenvalues(b, x):
    both = call(b, "linalg_eigh.default", x, type=TupleType((TensorType((3,), F64), x.type)))
    return b.item(both, index=0)


def through_complex(b, x):
    z = call(b, "view_as_complex.default", x, type=TensorType(x.shape[:-1], torch.complex128))
    return call(b, "abs.default", b.mul(b.reshape(z, shape=(z.shape[0], 1)), z), type=TensorType((z.shape[0],) * 2, F64))


PROGRAMS = {
    "products": (lambda b, x, y: b.mul(b.add(b.mul(x, x), y), b.exp(x)), (4, 6), (6,)),
    "matrix product": (lambda b, x, y: b.sigmoid(b.matmul(x, y)), (4, 6), (6, 5)),
    "views": (lambda b, x: b.mul(b.permute(b.reshape(x, shape=(6, 4)), dims=(1, 0)), x), (4, 6)),
    "several results": (lambda b, x: [b.exp(x), b.sum(x, dim=(0,), keepdim=True, dtype=None)], (4, 6)),
    "an output twice, and an input": (lambda b, x, y: [e := b.exp(x), e, x, b.mul(e, y)], (4,), (4,)),
    "layer norm": (lambda b, x, w, z: b.item(b.layer_norm(x, w, z, eps=1e-5), index=0), (4, 6), (6,), (6,)),
    "opaque": (lambda b, x: b.mul(call(b, "cumsum.default", b.sin(x), 0), x), (4, 6)),
    "opaque, several results": (taped_two_results, (5,)),
    "opaque, an unused float result": (eigenvalues, (3, 3)),
    "complex": (through_complex, (3, 2)),
}


def both_gradients(graph: Graph, inputs, grads, wrt):
    """Ours and torch's."""
    of = [k for k, o in enumerate(graph.outputs) if o.dtype.is_floating_point]
    joint = gradient(graph, wrt, of)
    verify(joint.graph, "gradient")
    ours = evaluate(joint.graph, [*inputs, *grads])[len(graph.outputs):]
    leaves = [x.detach().requires_grad_(k in wrt) for k, x in enumerate(inputs)]
    outputs = evaluate(graph, leaves)
    return ours, torch.autograd.grad([outputs[k] * 1 for k in of], [leaves[k] for k in wrt], grads, allow_unused=True)


def tensors(types, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(t.shape, dtype=t.dtype) for t in types]


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradient_is_torchs(name):
    function, *types = PROGRAMS[name]
    graph = graph_of(function, *types)
    grads = tensors([o for o in graph.outputs if o.dtype.is_floating_point], 1)
    ours, theirs = both_gradients(graph, tensors(graph.inputs), grads, range(len(types)))
    torch.testing.assert_close(ours, list(theirs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n != "layer norm"])
def test_gradient_of_gradient_is_torchs(name):
    """The joint graph differentiated again, with respect to the inputs and the tangents."""
    function, *types = PROGRAMS[name]
    graph = graph_of(function, *types)
    of = [k for k, o in enumerate(graph.outputs) if o.dtype.is_floating_point]
    count = len(types)
    joint = gradient(graph, range(count), of)
    again = gradient(joint.graph, range(len(joint.graph.inputs)), range(joint.primal_outputs, len(joint.graph.outputs)))
    verify(again.graph, "gradient of gradient")
    inputs, second = tensors(joint.graph.inputs), tensors(graph.inputs, 2)
    ours = evaluate(again.graph, [*inputs, *second])[len(joint.graph.outputs):]

    leaves = [t.requires_grad_() for t in inputs]
    outputs = evaluate(graph, leaves[:count])
    first = torch.autograd.grad([outputs[k] * 1 for k in of], leaves[:count], leaves[count:], create_graph=True)
    live = [(f, s) for f, s in zip(first, second) if f.requires_grad]
    theirs = torch.autograd.grad([f for f, _ in live], leaves, [s for _, s in live], allow_unused=True)
    theirs = [torch.zeros_like(leaf) if t is None else t for leaf, t in zip(leaves, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_weight_given_transposed_gets_its_gradient_as_it_lies_in_memory():
    graph = graph_of(lambda b, x, w: b.matmul(x, b.permute(w, dims=(1, 0))), (4, 3), (5, 3))
    joint = dce(simplify(gradient(graph, [0, 1], [0]).graph))
    assert [o.op.name for o in joint.outputs] == ["matmul"] * 3


def test_gradients_of_some_inputs_then_of_others():
    """A taped call whose first tape knows nothing of the input that is wanted second."""
    def program(b, x, y):
        return b.emit("call", x, y, type=x.type, target="aten.hypot.default", args=(Operand(0), Operand(1)), kwargs={})
    graph = graph_of(program, (4,), (4,))
    joint = gradient(graph, [0], [0])
    again = gradient(joint.graph, [1], [1])
    x, y, g, h = inputs = [t.requires_grad_() for t in tensors([graph.inputs[0]] * 4)]
    ours = evaluate(again.graph, inputs)[-1]
    first, = torch.autograd.grad(torch.hypot(x, y), x, g, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(first, y, h)[0])


def test_what_nothing_reaches():
    graph = graph_of(lambda b, x, y, z: [b.mul(b.detach(x), y), b.exp(x), b.cast(b.gt(z, 0.0), dtype=F64)], (4,), (4,), (4,))
    joint = gradient(graph, [0, 1, 2], [0, 1, 2])
    assert joint.reach == ((False, True, False), (True, False, False), (False, False, False))
    inputs = tensors(joint.graph.inputs)
    *_, gx, gy, gz = evaluate(joint.graph, inputs)
    assert torch.equal(gx, inputs[4] * inputs[0].exp()) and torch.equal(gy, inputs[3] * inputs[0]) and not gz.any()


def test_random_numbers_have_no_gradient():
    graph = graph_of(lambda b, x: b.mul(x, call(b, "rand_like.default", b.detach(x))), (4,))
    joint = gradient(graph, [0], [0])
    torch.manual_seed(3)
    x, g = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
    torch.manual_seed(4)
    y, gx = evaluate(joint.graph, [x, g])
    torch.testing.assert_close(gx, g * y / x)


def test_integers_are_not_differentiated():
    with pytest.raises(InvalidGraph, match=r"%x: i64\[3\] cannot be differentiated"):
        gradient(graph_of(lambda b, x: b.mul(x, 2), (3,), dtype=torch.int64), [0], [0])


def test_a_tape_from_elsewhere_is_refused():
    split = partition(gradient(graph_of(PROGRAMS["opaque"][0], (4, 6)), [0], [0]))
    backward = split.backward
    floats = [k for k, i in enumerate(backward.inputs) if isinstance(i.type, TensorType)]
    assert len(floats) < len(backward.inputs)
    with pytest.raises(Unsupported, match="whose tape is not of this graph"):
        gradient(backward, floats, [0])


def test_gradients_are_summed_in_torchs_order():
    """Three uses of one value: float32 sums differ by order."""
    def program(b, x):
        y = b.mul(x, 3.0)
        return b.add(b.add(b.mul(y, 0.1), b.mul(y, 1e4)), b.mul(y, -1e4))
    graph = graph_of(program, (1000,), dtype=F32)
    ours, theirs = both_gradients(graph, tensors(graph.inputs), tensors(graph.outputs, 1), [0])
    assert torch.equal(ours[0], theirs[0])


# partition

def lowered(graph: Graph, wrt, of):
    joint = gradient(graph, wrt, of)
    clean = joint.graph
    for p in (drop_detach, decompose, simplify, fold, cse, dce):
        clean = verify(p(clean), p.__name__)
    return replace(joint, graph=clean)


def saved_names(split) -> list[str]:
    return [i.name for i, _ in zip(split.backward.inputs, split.saved)]


def agrees(joint, split) -> bool:
    """Forward and backward together give what the joint graph gives, bit for bit."""
    inputs = [*tensors(joint.graph.inputs[:joint.primal_inputs])]
    grads = tensors(joint.graph.inputs[joint.primal_inputs:], 1)
    torch.manual_seed(5)
    whole = evaluate(joint.graph, [*inputs, *grads])
    torch.manual_seed(5)
    outputs = evaluate(verify(split.forward), inputs)
    saved = [inputs[k] if kind == "input" else outputs[joint.primal_outputs + k] for kind, k in split.saved]
    return all(map(torch.equal, [*outputs[:joint.primal_outputs], *evaluate(verify(split.backward), [*saved, *grads])], whole))


def check_split(function, *types, dtype=F32):
    joint = lowered(graph_of(function, *types, dtype=dtype), range(len(types)), [0])
    split = partition(joint)
    assert agrees(joint, split)
    return joint, split


def test_one_function_is_repeated_and_the_product_is_saved():
    _, split = check_split(lambda b, x, y: b.exp(b.mul(b.tanh(b.matmul(x, y)), 2.0)), (64, 64), (64, 64))
    assert saved_names(split) == ["x", "y", "matmul_0"]
    assert split.saved == (("input", 0), ("input", 1), ("extra", 0))
    assert [v.op.name for v in split.backward.values].count("matmul") == 2


def test_a_long_chain_is_saved():
    def gate(length):
        def program(b, x, y):
            h = b.matmul(x, y)
            for _ in range(length):
                h = b.tanh(h)
            return b.mul(b.detach(h), x)
        _, split = check_split(program, (64, 64), (64, 64))
        return sum(v.op.name == "tanh" for v in split.backward.values)
    assert gate(1) == 1 and gate(8) == 0


def test_statistics_are_saved_and_rows_are_not():
    """The mean and the variance of a row are small; what is computed from them is repeated."""
    def norm(b, x):
        mean = b.mul(b.sum(x, dim=(1,), keepdim=True, dtype=None), 1 / 256)
        centred = b.sub(x, mean)
        return b.div(centred, b.sqrt(b.sum(b.mul(centred, centred), dim=(1,), keepdim=True, dtype=None)))
    joint, split = check_split(norm, (64, 256))
    sizes = {i.name: i.type.numel for i, _ in zip(split.backward.inputs, split.saved)}
    assert sizes.pop("x") == 64 * 256 and sizes and set(sizes.values()) == {64}
    assert not any(v.op.kind == "reduce" and v.name in {f.name for f in split.forward.values} for v in split.backward.values)


def test_random_values_and_calls_are_never_repeated():
    def dropout(b, x):
        mask = b.emit("call", x, type=x.type, target="aten.bernoulli.p", args=(Operand(0), 0.5), kwargs={})
        return b.mul(b.mul(call(b, "cumsum.default", x, 0), b.detach(mask)), x)
    _, split = check_split(dropout, (16, 16))
    assert not any(v.op.name in ("call", "call_taped") for v in split.backward.values)


def test_a_saved_output_is_copied():
    joint, split = check_split(lambda b, x, y: b.sigmoid(b.matmul(x, y)), (8, 8), (8, 8))
    assert not set(split.forward.outputs[joint.primal_outputs:]) & set(split.forward.outputs[:joint.primal_outputs])
    joint, split = check_split(lambda b, x, y: b.matmul(b.matmul(x, y), y), (8, 8), (8, 8))
    joint = replace(joint, graph=replace(joint.graph, outputs=(joint.graph.values[0], *joint.graph.outputs[1:])))
    split = partition(joint)
    assert agrees(joint, split) and split.forward.outputs[1].op.name == "copy"


def test_a_deep_program_is_split():
    b = Builder()
    x, w = b.input("x", TensorType((64, 64), F32)), b.input("w", TensorType((64, 64), F32))
    h = x
    for _ in range(80):
        h = b.add(h, b.tanh(b.matmul(b.sub(h, b.sum(h, dim=(1,), keepdim=True, dtype=None)), w)))
        h = b.mul(b.sigmoid(h), b.mul(h, 0.5))
        h = b.where(b.gt(h, 0.0), h, b.mul(h, 0.1))
    joint = lowered(b.graph("f", [b.sum(h, dim=(0, 1), keepdim=False, dtype=None)]), [0, 1], [0])
    assert len(joint.graph.values) > 2000
    split = partition(joint)
    verify(split.forward, "partition")
    verify(split.backward, "partition")
    assert 0 < len(split.saved) < len(split.forward.values)


# Minimum cut

def test_mincut_against_every_cut():
    dice = random.Random(0)
    for _ in range(200):
        n = dice.randint(3, 7)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j and dice.random() < 0.4]
        edges = [(i, j, dice.choice((1, 2, 3, 5, 8, INFINITE))) for i, j in pairs]
        network = Network(n)
        for e in edges:
            network.add(*e)

        def cost(side):
            return sum(c for i, j, c in edges if not side[i] and side[j])
        cuts = [(False, True, *rest) for rest in product((False, True), repeat=n - 2)]
        best = min(map(cost, cuts))
        if best >= INFINITE:
            continue
        found = network.sink_side(0, 1)
        smallest = min((c for c in cuts if cost(c) == best), key=sum)
        assert cost(found) == best and sum(found) == sum(smallest)


# join

SETTINGS = "stride=(1, 1), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1"


def test_the_gradients_of_a_convolution_are_one_call():
    inputs = "%g: f32[2,4,5,5], %x: f32[2,3,5,5], %w: f32[4,3,3,3]"
    to_input = f"convolution_input_gradient(%g, %w, shape=(2, 3, 5, 5), strides=(75, 25, 5, 1), {SETTINGS}) : f32[2,3,5,5]"
    to_weight = f"convolution_weight_gradient(%g, %x, shape=(4, 3, 3, 3), strides=(27, 9, 3, 1), {SETTINGS}) : f32[4,3,3,3]"
    before = body(inputs, f"%a = {to_weight}", "%r = relu(%a) : f32[4,3,3,3]", f"%b = {to_input}", "return %r, %b")
    after = body(inputs,
                 f"%convolution_gradients_0 = convolution_gradients(%g, %x, %w, {SETTINGS}) : (f32[2,3,5,5], f32[4,3,3,3])",
                 "%b = item(%convolution_gradients_0, index=0) : f32[2,3,5,5]",
                 "%a = item(%convolution_gradients_0, index=1) : f32[4,3,3,3]", "%r = relu(%a) : f32[4,3,3,3]", "return %r, %b")
    check(before, after, join)
    given = [torch.randn(s) for s in ((2, 4, 5, 5), (2, 3, 5, 5), (4, 3, 3, 3))]
    for a, c in zip(evaluate(parse(before), given), evaluate(join(parse(before)), given)):
        torch.testing.assert_close(a, c)
    later = body(inputs, f"%b = {to_input}", "%y = relu(%b) : f32[2,3,5,5]", f"%a = {to_weight.replace('%x', '%y')}", "return %a")
    check(later, "same", join)
    check(body(inputs, f"%a = {to_weight}", "return %a"), "same", join)
