"""The graph itself: text, verifier, builder, evaluator."""
from __future__ import annotations

import math

import pytest
import torch

from smelt.compiler import (Builder, Graph, ObjectType, Origin, TensorType, TupleType, Value, evaluate, parse, rewrite, show,
                            verify)
from smelt.compiler.dims import Expr, sym
from smelt.compiler.op import OPS
from smelt.compiler.ops.core import Operand, takes_random_numbers
from smelt.compiler.text import type_text
from smelt.errors import InvalidGraph, InvalidText

F32 = torch.float32


def builder(*shapes, dtype=F32):
    b = Builder()
    return b, [b.input("xyzw"[n], TensorType(s, dtype)) for n, s in enumerate(shapes)]


# Text

def same(a, b) -> bool:
    """Equal in type and bits, through containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


LITERALS = [0, -3, True, False, None, 1.0, -0.0, 0.1, 1e-30, 1e300, math.nan, math.inf, -math.inf, complex(-0.0, math.inf),
            "a b", "it's # %x\n\"", (), (1,), (1, (2.5, None)), [], [1, "x"], {}, {"a": 1, "b": (True,)},
            torch.float32, torch.bool, torch.complex64, torch.uint16, torch.device("cpu"), torch.device("cuda", 1),
            torch.channels_last, torch.strided, Operand(2), [Operand(0), (Operand(1), 3)],
            torch.tensor([[1.0, -0.0], [math.inf, 0.1]]), torch.tensor(True), torch.zeros(0, 3, dtype=torch.int64)]


@pytest.mark.parametrize("literal", LITERALS, ids=repr)
def test_every_literal_round_trips(literal):
    b = Builder()
    v = b.emit("call", type=ObjectType("object"), target="aten.x.default", args=(literal,), kwargs={"k": literal}, z=literal)
    attrs = parse(show(b.graph("f", [v]))).values[0].attrs
    assert same(attrs["args"], (literal,)) and same(attrs["kwargs"], {"k": literal}) and same(attrs["z"], literal)


@pytest.mark.parametrize("number", [1, True, -2.5, -0.0, math.nan, -math.inf, complex(1, -2)], ids=repr)
def test_number_operands_round_trip(number):
    b, (x,) = builder((3,))
    again = parse(show(b.graph("f", [b.emit("add", x, number, type=x.type)])))
    assert same(again.values[0].inputs[1], number) and again.values[0].inputs[0] is again.inputs[0]


TYPES = [TensorType((), F32), TensorType((4, 8), torch.bfloat16), TensorType((4, 8), F32, strides=(1, 4)),
         TensorType((0, 3), torch.bool), TensorType((2,), torch.int64, torch.device("cuda", 0)),
         TensorType((2, 2), torch.float16, torch.device("cuda", 3), (1, 2)), ObjectType("tape"),
         TupleType((TensorType((2,), F32), ObjectType("tape"))), TupleType((TensorType((2,), torch.uint8),)), TupleType(())]


@pytest.mark.parametrize("type", TYPES, ids=type_text)
def test_every_type_round_trips(type):
    b = Builder()
    x = b.input("x", type)
    assert parse(show(b.graph("f", [x]))).inputs[0].type == type


def test_symbolic_sizes_round_trip():
    n, m = sym("s0", 2), sym("s1", 1, 64)
    b = Builder()
    x = b.input("x", TensorType((n, m * 2 + 1), F32))
    y = b.reshape(x, shape=(n * (m * 2 + 1),))
    z = b.full(shape=(n // 4, (n + 3) % 8, n * m - 1), value=0, dtype=F32, device=torch.device("cpu"))
    text = show(b.graph("f", [y, z]))
    assert text.startswith("graph f[s0 >= 2, s1 in 1..64](%x: f32[s0,")
    again = parse(text)
    assert again.inputs[0].type == x.type and again.values[1].type == z.type and again.values[1].attrs == z.attrs
    assert isinstance(again.values[1].shape[0], Expr) and show(again) == text


def test_origins_and_output_names_round_trip():
    b, (x,) = builder((3,))
    notes = [Origin("/home/me/model.py", 14, "grad of sum"), Origin("model.py", 3), Origin(note="grad of exp"), Origin(),
             Origin("my file.py", 2, "a # b")]
    for o in notes:
        with b.at(o):
            last = b.exp(x)
    x.origin = Origin("model.py", 1)
    graph = b.graph("a.b", [last, x, last], ["loss", "a name", "x"])
    again = parse(show(graph))
    assert [str(v.origin) for v in again.values] == [str(o) for o in notes] and str(again.inputs[0].origin) == "model.py:1"
    assert again.values[0].origin == Origin("model.py", 14, "grad of sum")
    assert again.output_names == graph.output_names and again.name == "a.b" and again.outputs[0] is again.outputs[2]


def test_text_looks_like_this():
    b = Builder()
    x, y = b.input("x", TensorType((4, 8), F32, strides=(1, 4))), b.input("y", TensorType((), torch.int64))
    with b.at(Origin("/a/model.py", 14)):
        z = b.sum(b.mul(x, 2.0), dim=(1,), keepdim=False, dtype=None)
    text = """\
graph f(%x: f32[4,8]{1,4}, %y: i64[]) {
  %mul_0 = mul(%x, 2.0)                                     : f32[4,8]  # model.py:14
  %sum_0 = sum(%mul_0, dim=(1,), keepdim=False, dtype=None) : f32[4]    # model.py:14
  return loss=%sum_0
}"""
    assert show(b.graph("f", [z], ["loss"])) == text
    assert show(parse(text)) == text


def test_text_is_read_however_it_is_spaced():
    text = "\n# a comment\ngraph f (\n%x : f32[2],# m.py:3\n)\n{\n\n%a=exp( %x, ) : f32[2]\n# another\nreturn %a # the end\n}\n"
    graph = verify(parse(text))
    assert show(graph) == "graph f(\n    %x: f32[2]  # m.py:3\n) {\n  %a = exp(%x) : f32[2]\n  return %a\n}"


BROKEN = [
    ("", "line 1: expected 'graph' before the end of the text"),
    ("graph f(%x: f32[2]) {\n  %a = nope(%x) : f32[2]\n  return %a\n}", "line 2: expected the name of an op, found 'nope'"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%y) : f32[2]\n  return %a\n}", "line 2: expected a value defined above, found '%y'"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x)\n  return %a\n}", "line 2: expected ':' before the end of the line"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x) : f33[2]\n  return %a\n}", "line 2: expected a dtype, found 'f33'"),
    ("graph f(%x: f32[2]) {\n  %x = exp(%x) : f32[2]\n}", "line 2: expected a name other than %x, which is taken"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x, k=?) : f32[2]\n}", "line 2: '?' begins nothing that can stand here"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x, k=zzz) : f32[2]\n}",
     "line 2: expected a constant, a dtype, a size symbol or a device, found 'zzz'"),
    ("graph f(%x: f32[s0]) {\n  return %x\n}", "line 1: expected a constant, a dtype, a size symbol or a device, found 's0'"),
    ("graph f(%x: f32[2]) {\n  return %x\n}\n}", "line 4: expected the end of the text, found '}'"),
    ("graph f(%x: f32[2]) {\n  return %x", "line 2: expected '}' before the end of the text"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x) : f32[2] %x\n  return %x\n}", "line 2: expected the end of the line, found '%x'"),
    ("graph f(%x: f32[2]) {\n  %a = exp(%x, k=1.5 + 2) : f32[2]\n}", "line 2: expected a size (arithmetic is for sizes alone)"),
]


@pytest.mark.parametrize("text, message", BROKEN, ids=[m for _, m in BROKEN])
def test_what_does_not_parse_says_where_and_why(text, message):
    with pytest.raises(InvalidText) as found:
        parse(text)
    assert str(found.value).startswith(message)


def test_large_tensors_are_named_by_their_bits():
    def text(t):
        b = Builder()
        return show(b.graph("f", [b.emit("call", type=ObjectType("object"), target="x", args=(t,), kwargs={})]))
    assert text(torch.arange(100.0)) == text(torch.arange(100.0)) != text(torch.arange(100.0) + 1)
    with pytest.raises(InvalidText, match="a large tensor is not in the text"):
        parse(text(torch.arange(100.0)))


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.samples])
def test_samples_of_every_op_round_trip(name):
    for inputs, attrs in OPS[name].samples():
        b = Builder()
        operands = [b.input("x", TensorType(tuple(i.shape), i.dtype)) if isinstance(i, torch.Tensor) else i for i in inputs]
        graph = b.graph("f", [b.emit(name, *operands, **attrs)])
        again = parse(show(graph))
        v, w = graph.values[0], again.values[0]
        assert show(again) == show(graph) and (w.op, w.type) == (v.op, v.type)
        assert all(same(v.attrs[k], w.attrs[k]) for k in v.attrs) and list(v.attrs) == list(w.attrs)


# Verifier

def broken(change):
    b, (x,) = builder((2, 3))
    y = b.exp(x)
    z = b.sum(y, dim=(0,), keepdim=False, dtype=None)
    return change(x, y, z)


def _graph(inputs, values, outputs, names=()):
    return Graph("g", tuple(inputs), tuple(values), tuple(outputs), names)


def _with(v, **changes):
    parts = {part: getattr(v, part) for part in ("name", "op", "inputs", "attrs", "type")}
    return Value(**{**parts, "origin": Origin("m.py", 7), **changes})


RULES = [
    (lambda x, y, z: _graph([x], [z, y], [z]), "reads %exp_0, which is not defined before it"),
    (lambda x, y, z: _graph([x], [y, _with(z, name="exp_0")], [y]), "has a name that is taken"),
    (lambda x, y, z: _graph([x], [_with(y, type=TensorType((2, 4), F32))], []),
     r"has type f32\[2,4\], its op gives f32\[2,3\] \[m.py:7\]"),
    (lambda x, y, z: _graph([x], [_with(y, type=TensorType((2, 3), torch.float64))], []),
     r"has type f64\[2,3\], its op gives f32\[2,3\]"),
    (lambda x, y, z: _graph([x], [_with(y, inputs=(None,))], []), "has the operand None, which is neither a value nor a number"),
    (lambda x, y, z: _graph([x], [_with(y, op=OPS["sum"])], []), "is not well typed"),
    (lambda x, y, z: _graph([x], [_with(y, inputs=(1.0,))], []), "has no tensor among its operands"),
    (lambda x, y, z: _graph([x], [y], [z]), "output %sum_0 is not in the graph"),
    (lambda x, y, z: _graph([x], [y], [y], ("a", "b")), "2 names for 1 outputs"),
    (lambda x, y, z: _graph([x], [p := _with(y, type=TupleType((x.type,)), op=OPS["call"]), _with(z, inputs=(p,))], []),
     "several results"),
    (lambda x, y, z: _graph([x], [p := _with(y, type=TupleType((x.type,)), op=OPS["call"])], [p]),
     "output %exp_0 is several results"),
]


@pytest.mark.parametrize("change, message", RULES, ids=[m for _, m in RULES])
def test_verify_finds(change, message):
    with pytest.raises(InvalidGraph, match=message) as found:
        verify(broken(change), "a pass")
    assert "after a pass" in str(found.value)


def test_what_was_typed_is_typed_again_where_it_changed():
    b, (x,) = builder((2, 3))
    y = b.exp(x)
    graph, typed = b.graph("f", [y]), {}
    assert verify(verify(graph, typed=typed), typed=typed) is graph and typed == {y: y.type}
    y.type = TensorType((2, 4), F32)
    with pytest.raises(InvalidGraph, match="has type"):
        verify(graph, typed=typed)


def test_strides_are_not_the_type_rules_business():
    verify(broken(lambda x, y, z: _graph([x], [_with(y, type=TensorType((2, 3), F32, strides=(1, 2)))], [])))


# Builder

def test_names_are_fresh_and_plain():
    b = Builder(["x", "add_0"])
    hints = ("x", "x", "add", "y", "fc1.weight", "a b", "t1")
    assert [b.name(h) for h in hints] == ["x_0", "x_1", "add_1", "y", "fc1.weight", "a_b", "t1_0"]


def test_a_bad_op_is_named_with_its_operands():
    b, (x, y) = builder((2, 3), (4,))
    with pytest.raises(InvalidGraph, match=r"add\(%x: f32\[2,3\], %y: f32\[4\]\)"):
        b.add(x, y)
    with pytest.raises(AttributeError, match="there is no op 'nope'"):
        b.nope(x)


def test_rewrite_keeps_names_and_layout():
    b, (x,) = builder((2, 3))
    y = b.emit("exp", x, type=TensorType((2, 3), F32, strides=(1, 2)))
    graph = b.graph("f", [b.neg(y)])
    changed = rewrite(graph, lambda b, v: b.mul(b.exp(v.inputs[0]), 2.0) if v.op.name == "exp" else None)
    replaced, last = changed.outputs[0].inputs[0], changed.outputs[0]
    assert (replaced.name, replaced.op.name, replaced.type) == ("exp_0", "mul", y.type) and last.name == "neg_0"
    assert rewrite(graph, lambda b, v: None) is graph


def test_rewrite_gives_outputs_memory_of_their_own():
    b, (x,) = builder((2, 3))
    p, q = b.exp(x), b.copy(x)
    graph = b.graph("f", [p, q, b.exp(x)])
    changed = verify(rewrite(graph, lambda b, v: {"copy_0": v.inputs[0], "exp_1": p}.get(v.name)))
    assert [o.op.name for o in changed.outputs] == ["exp", "copy", "copy"] and len(set(changed.outputs)) == 3


def test_rewrite_refuses_another_type():
    b, (x,) = builder((2, 3))
    graph = b.graph("f", [b.exp(x)])
    with pytest.raises(InvalidGraph, match=r"%exp_0: f32\[2,3\] cannot be replaced by"):
        rewrite(graph, lambda b, v: b.cast(v.inputs[0], dtype=torch.float64))


# Evaluator

def test_evaluate_watches_and_names_errors():
    b, (x, y) = builder((2, 3), (3, 4))
    with b.at(Origin("model.py", 5)):
        z = b.matmul(b.exp(x), y)
    graph, seen = b.graph("f", [z]), []
    inputs = [torch.randn(2, 3), torch.randn(3, 4)]
    assert torch.equal(evaluate(graph, inputs, lambda v, t: seen.append(v.name))[0], inputs[0].exp() @ inputs[1])
    assert seen == ["exp_0", "matmul_0"]
    with pytest.raises(RuntimeError) as found:
        evaluate(graph, inputs[:1] * 2)
    assert "while evaluating %matmul_0 = matmul (model.py:5)" in found.value.__notes__
    with pytest.raises(ValueError, match="f takes 2 inputs, got 1"):
        evaluate(graph, inputs[:1])


def test_evaluate_reads_sizes_off_the_inputs():
    n = sym("n", 1)
    b = Builder()
    x = b.input("x", TensorType((n, 2), F32))
    y = b.reshape(x, shape=(n * 2,))
    graph = b.graph("f", [b.expand(b.reshape(y, shape=(1, n * 2)), shape=(3, n * 2))])
    t = torch.randn(5, 2)
    assert torch.equal(evaluate(graph, [t])[0], t.reshape(1, 10).expand(3, 10))


def test_evaluate_precisely_widens_dtypes_too():
    b, (x,) = builder((3,))
    graph = b.graph("f", [b.cast(b.cast(x, dtype=torch.bfloat16), dtype=F32)])
    t = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(evaluate(graph, [t], precise=True)[0], t)


def test_evaluate_precisely_widens_what_torch_makes_of_integers():
    b, (x,) = builder((3,))
    i = b.input("i", TensorType((3,), torch.int64))
    graph = b.graph("f", [b.mul(b.cos(i), x), b.matmul(b.reshape(b.div(i, 4), shape=(1, 3)), b.reshape(x, shape=(3, 1)))])
    x, i = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), torch.arange(3)
    first, second = evaluate(graph, [x, i], precise=True)
    assert torch.equal(first, i.cos().double() * x) and torch.equal(second, (i.double() / 4 @ x).reshape(1, 1))


def test_random_ops_are_known():
    b, (x,) = builder((3,))
    call = lambda target: b.emit("call", x, type=x.type, target=target, args=(Operand(0),), kwargs={})
    assert takes_random_numbers(call("aten.rand_like.default")) and not takes_random_numbers(call("aten.relu.default"))
    taped = b.emit("call_taped", x, type=TupleType((x.type, ObjectType("tape"))), of="call",
                   attrs={"target": "aten.bernoulli.default", "args": (Operand(0),), "kwargs": {}}, wanted=(0,))
    assert takes_random_numbers(taped)
