"""Passes, text in and text out; gradients against torch; what a partition saves."""
from __future__ import annotations

import random
import textwrap
import time
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from smelt.compiler import Builder, Graph, TensorType, TupleType, evaluate, parse, show, verify
from smelt.compiler.op import OPS
from smelt.compiler.ops.core import Operand
from smelt.compiler.passes import cse, dce, decompose, drop_detach, fold, gradient, partition, simplify
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
    "reshape of reshape": ("%x: f32[4,6]", ["%a = reshape(%x, shape=(24,)) : f32[24]", "%b = reshape(%a, shape=(6, 4)) : f32[6,4]", "%c = exp(%b) : f32[6,4]", "return %c"],
                           ["%b = reshape(%x, shape=(6, 4)) : f32[6,4]", "%c = exp(%b) : f32[6,4]", "return %c"]),
    "reshape and back": ("%x: f32[4,6]", ["%a = reshape(%x, shape=(24,)) : f32[24]", "%b = reshape(%a, shape=(4, 6)) : f32[4,6]", "%c = exp(%b) : f32[4,6]", "return %c"],
                         ["%c = exp(%x) : f32[4,6]", "return %c"]),
    "permute of permute": ("%x: f32[2,3,4]", ["%a = permute(%x, dims=(1, 2, 0)) : f32[3,4,2]", "%b = permute(%a, dims=(1, 0, 2)) : f32[4,3,2]", "%c = exp(%b) : f32[4,3,2]", "return %c"],
                           ["%b = permute(%x, dims=(2, 1, 0)) : f32[4,3,2]", "%c = exp(%b) : f32[4,3,2]", "return %c"]),
    "transpose twice": ("%x: f32[2,3]", ["%a = permute(%x, dims=(1, 0)) : f32[3,2]", "%b = permute(%a, dims=(1, 0)) : f32[2,3]", "%c = exp(%b) : f32[2,3]", "return %c"],
                        ["%c = exp(%x) : f32[2,3]", "return %c"]),
    "expand of expand": ("%x: f32[1,1]", ["%a = expand(%x, shape=(3, 1)) : f32[3,1]", "%b = expand(%a, shape=(2, 3, 4)) : f32[2,3,4]", "return %b"],
                         ["%b = expand(%x, shape=(2, 3, 4)) : f32[2,3,4]", "return %b"]),
    "slice of slice": ("%x: f32[20]", ["%a = slice(%x, start=(2,), step=(3,), size=(6,)) : f32[6]", "%b = slice(%a, start=(1,), step=(2,), size=(2,)) : f32[2]", "return %b"],
                       ["%b = slice(%x, start=(5,), step=(6,), size=(2,)) : f32[2]", "return %b"]),
    "no padding": ("%x: f32[3]", ["%a = pad(%x, low=(0,), high=(0,), interior=(0,), value=1) : f32[3]", "%b = exp(%a) : f32[3]", "return %b"],
                   ["%b = exp(%x) : f32[3]", "return %b"]),
    "views of a constant": ("", ["%a = full(shape=(), value=2.0, dtype=f32, device=cpu) : f32[]", "%b = reshape(%a, shape=(1, 1)) : f32[1,1]", "%c = expand(%b, shape=(4, 6)) : f32[4,6]", "return %c"],
                            ["%c = full(shape=(4, 6), value=2.0, dtype=f32, device=cpu) : f32[4,6]", "return %c"]),
    "constant as a number": ("%x: f32[4]", ["%a = full(shape=(4,), value=2, dtype=f32, device=cpu) : f32[4]", "%b = mul(%a, %x) : f32[4]", "return %b"],
                             ["%b = mul(2.0, %x) : f32[4]", "return %b"]),
    "constant that gives the shape": ("%x: f32[]", ["%a = full(shape=(4,), value=2, dtype=f32, device=cpu) : f32[4]", "%b = mul(%a, %x) : f32[4]", "return %b"], "same"),
    "constant that gives the dtype": ("%x: f32[4]", ["%a = full(shape=(4,), value=2, dtype=f64, device=cpu) : f64[4]", "%b = mul(%a, %x) : f64[4]", "return %b"], "same"),
    "constant that would not be rounded": ("%x: bf16[4]", ["%a = full(shape=(), value=0.1, dtype=f32, device=cpu) : f32[]", "%b = mul(%x, %a) : bf16[4]", "return %b"], "same"),
    "constant that is exact": ("%x: bf16[4]", ["%a = full(shape=(), value=0.5, dtype=f32, device=cpu) : f32[]", "%b = mul(%x, %a) : bf16[4]", "return %b"],
                               ["%b = mul(%x, 0.5) : bf16[4]", "return %b"]),
    "known condition": ("%x: f32[4], %y: f32[4]", ["%a = full(shape=(4,), value=False, dtype=bool, device=cpu) : bool[4]", "%b = where(%a, %x, %y) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"],
                        ["%c = exp(%y) : f32[4]", "return %c"]),
    "cast to the same": ("%x: f32[4]", ["%a = cast(%x, dtype=f32) : f32[4]", "%b = exp(%a) : f32[4]", "return %b"], ["%b = exp(%x) : f32[4]", "return %b"]),
    "cast by a wider dtype": ("%x: bf16[4]", ["%a = cast(%x, dtype=f32) : f32[4]", "%b = cast(%a, dtype=bf16) : bf16[4]", "%c = neg(%b) : bf16[4]", "return %c"],
                              ["%c = neg(%x) : bf16[4]", "return %c"]),
    "cast by a narrower dtype": ("%x: f32[4]", ["%a = cast(%x, dtype=bf16) : bf16[4]", "%b = cast(%a, dtype=f32) : f32[4]", "return %b"], "same"),
    "cast of a float to integers": ("%x: f32[4]", ["%a = cast(%x, dtype=f64) : f64[4]", "%b = cast(%a, dtype=i32) : i32[4]", "return %b"], "same"),
    "cast of a constant": ("", ["%a = full(shape=(2,), value=0.1, dtype=f32, device=cpu) : f32[2]", "%b = cast(%a, dtype=bf16) : bf16[2]", "return %b"],
                           ["%b = full(shape=(2,), value=0.10009765625, dtype=bf16, device=cpu) : bf16[2]", "return %b"]),
    "copy inside": ("%x: f32[4]", ["%a = copy(%x) : f32[4]", "%b = exp(%a) : f32[4]", "return %b"], ["%b = exp(%x) : f32[4]", "return %b"]),
    "copy that is an output": ("%x: f32[4]", ["%a = copy(%x) : f32[4]", "return %a"], "same"),
    "copy for a call of torch": ("%x: f32[4,6]{1,4}", ["%a = copy(%x) : f32[4,6]", "%b = call(%a, target='aten.relu.default', args=($0,), kwargs={}) : f32[4,6]", "return %b"], "same"),
    "times one": ("%x: f32[4]", ["%a = mul(1, %x) : f32[4]", "%b = div(%a, 1.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"], ["%c = exp(%x) : f32[4]", "return %c"]),
    "integer over one": ("%x: i64[4]", ["%a = div(%x, 1) : f32[4]", "return %a"], "same"),
    "minus zero": ("%x: f32[4]", ["%a = sub(%x, 0.0) : f32[4]", "%b = add(%a, -0.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"], ["%c = exp(%x) : f32[4]", "return %c"]),
    "plus zero": ("%x: f32[4]", ["%a = add(%x, 0.0) : f32[4]", "%b = sub(%a, -0.0) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"], "same"),
    "times zero": ("%x: f32[4]", ["%a = mul(%x, 0.0) : f32[4]", "%b = sub(%x, %x) : f32[4]", "return %a, %b"], "same"),
    "negated twice": ("%x: f32[4]", ["%a = neg(%x) : f32[4]", "%b = neg(%a) : f32[4]", "%c = exp(%b) : f32[4]", "return %c"], ["%c = exp(%x) : f32[4]", "return %c"]),
    "nothing to do": ("%x: f32[4]", ["%a = exp(%x) : f32[4]", "return %a, %x"], "same"),
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
        tensors = [special.repeat(4)[:i.type.numel].reshape(i.shape).nan_to_num(2.0 if not i.dtype.is_floating_point else float("nan")).to(i.dtype)
                   for i in graph.inputs]
        for a, b in zip(evaluate(graph, tensors), evaluate(simplify(graph), tensors)):
            assert torch.equal(a.signbit(), b.signbit()) or a.isnan().any()
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
    exact = bool((back == values).all()) and (narrow.is_floating_point or bool((values.to(wide).double() == values.double()).all()))
    assert holds_exactly(wide, narrow) == exact


# fold, cse, dce, decompose

def test_fold():
    check(body("%x: f32[3]", "%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]", "%b = mul(%a, 0) : i64[3]",
               "%c = add(%b, 2.5) : f32[3]", "%d = mul(%x, %c) : f32[3]", "return %d, %a"),
          body("%x: f32[3]", "%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]",
               "%c = full(shape=(3,), value=2.5, dtype=f32, device=cpu) : f32[3]", "%d = mul(%x, %c) : f32[3]", "return %d, %a"), fold, dce)


@pytest.mark.parametrize("line", ["%a = iota(size=3, start=0, step=1, dtype=i64, device=cpu) : i64[3]",
                                  "%a = full(shape=(100,), value=1, dtype=f32, device=cpu) : f32[100]\n%b = exp(%a) : f32[100]",
                                  "%a = exp(%x) : f32[3]"])
def test_fold_leaves(line):
    check(body("%x: f32[3]", line, "return %a"), "same", fold)


def test_cse():
    check(body("%x: f32[3]", "%a = mul(%x, 1) : f32[3]", "%b = mul(%x, 1) : f32[3]", "%c = mul(%x, True) : f32[3]", "%d = mul(%x, 0.0) : f32[3]",
               "%e = mul(%x, -0.0) : f32[3]", "%f = add(%a, %b) : f32[3]", "%g = add(%c, %d) : f32[3]", "return %f, %g, %e"),
          body("%x: f32[3]", "%a = mul(%x, 1) : f32[3]", "%c = mul(%x, True) : f32[3]", "%d = mul(%x, 0.0) : f32[3]",
               "%e = mul(%x, -0.0) : f32[3]", "%f = add(%a, %a) : f32[3]", "%g = add(%c, %d) : f32[3]", "return %f, %g, %e"), cse)


def test_cse_joins_nan_but_no_two_outputs():
    check(body("%x: f32[3]", "%a = add(%x, nan) : f32[3]", "%b = add(%x, nan) : f32[3]", "return %a, %b"),
          body("%x: f32[3]", "%a = add(%x, nan) : f32[3]", "%b = copy(%a) : f32[3]", "return %a, %b"), cse)


@pytest.mark.parametrize("target", ["aten.rand_like.default", "aten.bernoulli.default"])
def test_random_calls_are_neither_joined_nor_dropped(target):
    call = f"call(%x, target='{target}', args=($0,), kwargs={{}}) : f32[3]"
    check(body("%x: f32[3]", f"%a = {call}", f"%b = {call}", f"%c = {call}", "%d = add(%a, %b) : f32[3]", "return %d"), "same", cse, dce)


def test_dce():
    check(body("%x: f32[3], %y: f32[3]", "%a = exp(%x) : f32[3]", "%b = neg(%a) : f32[3]", "%c = exp(%a) : f32[3]", "return %c"),
          body("%x: f32[3], %y: f32[3]", "%a = exp(%x) : f32[3]", "%c = exp(%a) : f32[3]", "return %c"), dce)


def test_decompose_items():
    """A composite with several results becomes the values themselves, under the names of its items."""
    graph = parse(body("%x: f32[2,6], %w: f32[6], %b: f32[6]",
                       "%n = layer_norm(%x, %w, %b, eps=1e-05) : (f32[2,6], f32[2,1], f32[2,1])  # m.py:3",
                       "%y = item(%n, index=0) : f32[2,6]", "%m = item(%n, index=1) : f32[2,1]", "%z = exp(%y) : f32[2,6]", "return %z, %m"))
    simpler = verify(decompose(graph))
    assert {"y", "m"} <= {v.name for v in simpler.values} and not any(v.op.kind in ("composite", "opaque") for v in simpler.values)
    assert any(str(v.origin) == "m.py:3 part of layer_norm" for v in simpler.values)
    inputs = [torch.randn(2, 6), torch.randn(6), torch.randn(6)]
    for a, b in zip(evaluate(simpler, inputs), evaluate(graph, inputs)):
        torch.testing.assert_close(a, b)


def test_drop_detach():
    check(body("%x: f32[3]", "%a = detach(%x) : f32[3]", "%b = exp(%a) : f32[3]", "%c = detach(%b) : f32[3]", "return %b, %c"),
          body("%x: f32[3]", "%b = exp(%x) : f32[3]", "%c = copy(%b) : f32[3]", "return %b, %c"), drop_detach)


# gradient

def test_gradient_text():
    joint = gradient(parse(body("%x: f32[4,6], %y: f32[6]", "%a = mul(%x, %y) : f32[4,6]  # m.py:1",
                                "%b = sum(%a, dim=(0, 1), keepdim=False, dtype=None) : f32[]  # m.py:2", "return loss=%b")), [0, 1], [0])
    assert show(simplify(joint.graph)).rstrip() == textwrap.dedent("""\
        graph f_joint(
            %x: f32[4,6],
            %y: f32[6],
            %grad_loss: f32[]  # m.py:2
        ) {
          %a = mul(%x, %y)                                        : f32[4,6]  # m.py:1
          %b = sum(%a, dim=(0, 1), keepdim=False, dtype=None)     : f32[]     # m.py:2
          %reshape_0 = reshape(%grad_loss, shape=(1, 1))          : f32[1,1]  # m.py:2 grad of sum
          %expand_0 = expand(%reshape_0, shape=(4, 6))            : f32[4,6]  # m.py:2 grad of sum
          %mul_0 = mul(%expand_0, %y)                             : f32[4,6]  # m.py:1 grad of mul
          %mul_1 = mul(%expand_0, %x)                             : f32[4,6]  # m.py:1 grad of mul
          %sum_0 = sum(%mul_1, dim=(0,), keepdim=False, dtype=None) : f32[6]    # m.py:1 grad of mul
          return loss=%b, grad_x=%mul_0, grad_y=%sum_0
        }""") or joint.reach != ((True, True),)
