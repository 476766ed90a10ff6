"""Graphs with symbolic sizes: the samples of every op with sizes replaced by symbols, through every pass, at many sizes."""
from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from smelt.compiler import Builder, TensorType, TupleType, evaluate, instantiate, parse, show, verify
from smelt.compiler.dims import sym
from smelt.compiler.op import OPS
from smelt.compiler.passes.cse import cse
from smelt.compiler.passes.dce import dce
from smelt.compiler.passes.decompose import decompose
from smelt.compiler.passes.fast_random import fast_random
from smelt.compiler.passes.fold import fold
from smelt.compiler.passes.gradient import gradient
from smelt.compiler.passes.partition import partition
from smelt.compiler.passes.restrict import restrict
from smelt.compiler.passes.simplify import simplify
from smelt.errors import InvalidGraph, Unsupported

S = sym("s0", 2, hint=5)
N = S.symbol
SAMPLED = sorted(n for n, op in OPS.items() if op.samples is not None)
#: values of the symbol
NUMBERS = (2, 7, 13)
#: samples of an op that are tried, about
TRIED = 4
#: ops whose samples have no size to replace by itself
FIXED = {"reshape": "both shapes change", "size": "its result is the size", "scalar": "a number has no size",
         "seed": "a number has no size"}
#: attributes that hold sizes of the operands or of the result
SIZES = ("shape", "size", "output_size", "rows", "strides")


def resized(t, dims, size):
    """The tensor with these dimensions at another size, its elements repeated or left out."""
    for d in dims:
        t = t.index_select(d, torch.arange(size) % t.shape[d])
    return t


def swapped(attrs, old, new, first):
    """The attributes with sizes that are `old` replaced: all, or the first of each attribute."""
    def swap(a):
        if not isinstance(a, tuple):
            return new if a == old and not isinstance(a, bool) else a
        end = a.index(old) + 1 if first and old in a else len(a)
        return (*map(swap, a[:end]), *a[end:])
    return {k: swap(a) if k in SIZES else a for k, a in attrs.items()}


def flattened(part):
    return [n for p in part for n in flattened(p)] if isinstance(part, (tuple, list)) else [part]


def symbolic(name):
    """(inputs, attrs, the dimensions of each input that are the symbol, their size, whether only the first of an attribute is).

    Of each sample: one dimension of one input, then the first dimension of that size of each input, then all of them.
    """
    for inputs, attrs in OPS[name].samples():
        tensors = {k: i.shape for k, i in enumerate(inputs) if isinstance(i, torch.Tensor)}
        sizes = {n for shape in tensors.values() for n in shape} or set(flattened([attrs.get(k, ()) for k in SIZES]))
        for n in sorted(n for n in sizes if n >= 2):
            for k, shape in tensors.items():
                for d in (d for d, m in enumerate(shape) if m == n):
                    yield inputs, attrs, {k: [d]}, n, True
            everywhere = {k: [d for d, m in enumerate(shape) if m == n] for k, shape in tensors.items()}
            yield inputs, attrs, {k: dims[:1] for k, dims in everywhere.items()}, n, True
            yield inputs, attrs, everywhere, n, False


def built(name, inputs, attrs, dims, n, first, size=S):
    """The op's graph with that size in those places: the symbol, or a number."""
    b = Builder()
    operands = [b.input(f"x{k}", TensorType(tuple(size if d in dims.get(k, ()) else m for d, m in enumerate(i.shape)), i.dtype))
                if isinstance(i, torch.Tensor) else i for k, i in enumerate(inputs)]
    if not dims:
        b.input("n", TensorType((), torch.int64), symbol=N if size is S else None)
    v = b.emit(name, *operands, **swapped(attrs, n, size, first))
    outputs = [b.item(v, index=k) for k in range(len(v.type.items))] if isinstance(v.type, TupleType) else [v]
    return verify(b.graph(name, outputs))


def arguments(inputs, dims, size):
    found = [resized(i, dims.get(k, ()), size) for k, i in enumerate(inputs) if isinstance(i, torch.Tensor)]
    return found if dims else [*found, torch.tensor(size)]


def attempts(name):
    """(the graph with the symbol, the case) of every sample that allows it, and the reasons of the others."""
    found, reasons = [], []
    for case in symbolic(name):
        try:
            found.append((built(name, *case), case))
        except (Unsupported, InvalidGraph) as e:
            reasons.append(str(e))
    return found, reasons


@functools.cache
def cases(name):
    """[(the graph with the symbol, [(size, the graph with that number, its inputs, its outputs)])] of a part of the samples."""
    found = attempts(name)[0]
    tried = [(graph, trials(name, case)) for graph, case in found[::len(found) // TRIED + 1]]
    return [(graph, made) for graph, made in tried if made]


def trials(name, case):
    inputs, _, dims, n, _ = case
    indices = any(isinstance(i, torch.Tensor) and i.dtype == torch.int64 and i.dim() for i in inputs)
    found = []
    for size in NUMBERS:
        if indices and size < n:  # they may point there
            continue
        try:
            plain, given = built(name, *case, size=size), arguments(inputs, dims, size)
            found.append((size, plain, given, evaluated(plain, given)))
        except (InvalidGraph, RuntimeError, IndexError):  # no such op at this size
            continue
    return found


def evaluated(graph, inputs):
    torch.manual_seed(0)
    return evaluate(graph, inputs)


def same(ours, theirs, what=""):
    for a, t in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, t, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{what}: {m}")


def same_types(symbolic, plain):
    assert len(symbolic.values) == len(plain.values)
    for v, w in zip((*symbolic.inputs, *symbolic.values), (*plain.inputs, *plain.values)):
        assert v.type == w.type and v.op is w.op, f"%{v.name} is {v.type}, should be {w.type}"


each_op = pytest.mark.parametrize("name", [n for n in SAMPLED if n not in FIXED])


@each_op
def test_types_and_values_are_those_of_numbers(name):
    assert cases(name), f"no sample has a symbolic size: {attempts(name)[1]}"
    for graph, trials in cases(name):
        assert show(parse(show(graph))) == show(graph)
        for size, plain, given, expected in trials:
            number = verify(instantiate(graph, {N: size}))
            assert not number.symbols()
            same_types(number, plain)
            same(evaluated(graph, given), expected, f"{name} at {size}")


def simplified(graph):
    return verify(dce(cse(fold(simplify(verify(decompose(graph)))))))


@each_op
def test_passes_do_the_same_as_to_numbers(name):
    for graph, trials in cases(name):
        simpler = simplified(graph)
        assert show(parse(show(simpler))) == show(simpler)
        for size, plain, given, _ in trials:
            same(evaluated(simpler, given), evaluated(simplified(plain), given), f"{name} at {size}")


def differentiated(graph):
    """The joint graph for all float inputs and outputs, or None where there are none."""
    wrt = [k for k, v in enumerate(graph.inputs) if v.dtype.is_floating_point]
    of = [k for k, v in enumerate(graph.outputs) if v.dtype.is_floating_point]
    return gradient(graph, wrt, of) if wrt and of else None


def run_split(split, inputs, tangents):
    outputs = evaluated(split.forward, inputs)
    count = len(outputs) - sum(kind == "extra" for kind, _ in split.saved)
    saved = [inputs[k] if kind == "input" else outputs[count + k] for kind, k in split.saved]
    return outputs[:count] + evaluate(split.backward, [*saved, *tangents])


#: ops that torch has no derivative of
UNDIFFERENTIABLE = ("heaviside",)


@pytest.mark.parametrize("name", [n for n in SAMPLED if n not in (*FIXED, *UNDIFFERENTIABLE)])
def test_gradients_are_those_of_numbers(name):
    for graph, trials in cases(name):
        joint = differentiated(graph)
        if joint is None:
            continue
        verify(joint.graph)
        prepared = replace(joint, graph=simplified(joint.graph))
        split = partition(prepared)
        verify(split.forward), verify(split.backward)
        without_tangents = {s for s, (k, _) in split.backward.bindings().items() if k < len(split.saved)}
        assert without_tangents >= split.backward.symbols(), "the backward gets a size from a tangent alone"
        for size, plain, given, expected in trials:
            tangents = [torch.randn_like(expected[k]) for k in joint.of]
            theirs = differentiated(plain)
            whole = evaluated(theirs.graph, [*given, *tangents])
            same(evaluated(joint.graph, [*given, *tangents]), whole, f"gradient of {name} at {size}")
            simple = evaluated(simplified(theirs.graph), [*given, *tangents])
            same(evaluated(prepared.graph, [*given, *tangents]), simple, f"simplified gradient of {name} at {size}")
            same(run_split(split, given, tangents), simple, f"split gradient of {name} at {size}")


@pytest.mark.parametrize("name", ["random_fill", "bernoulli", "native_dropout"])
def test_computed_random_numbers_are_those_of_numbers(name):
    for graph, trials in cases(name):
        computed = verify(fast_random(graph))
        for size, plain, given, _ in trials:
            same(evaluated(computed, given), evaluated(fast_random(plain), given), f"{name} at {size}")


SEVERAL = ("batch_norm", "group_norm", "layer_norm", "batch_norm_backward")


@pytest.mark.parametrize("name", SEVERAL)
def test_a_backward_for_some_gradients_still_knows_its_sizes(name):
    for graph, trials in cases(name):
        joint, count = differentiated(graph), len(differentiated(graph).of)
        split = partition(replace(joint, graph=simplified(joint.graph)))
        for k in range(count):
            restricted = verify(restrict(split.backward, len(split.saved), [k], range(len(joint.wrt))))
            for size, plain, given, expected in trials:
                tangent = torch.randn_like(expected[joint.of[k]])
                whole = differentiated(plain)
                zeros = [torch.zeros_like(expected[o]) for o in joint.of]
                theirs = evaluated(whole.graph, [*given, *zeros[:k], tangent, *zeros[k + 1:]])[len(expected):]
                ours = run_split(replace(split, backward=restricted), given, [tangent])[len(expected):]
                torch.testing.assert_close(ours, theirs, msg=lambda m: f"{name} at {size}: {m}")


TWICE = ("mean", "var", "softmax", "matmul", "mse_loss", "layer_norm", "silu", "expand", "slice", "cat", "convolution", "gather")


@pytest.mark.parametrize("name", TWICE)
def test_gradients_of_gradients_are_those_of_numbers(name):
    def twice(graph):
        return differentiated(simplified(differentiated(graph).graph))
    for graph, trials in cases(name):
        joint = twice(graph)
        verify(joint.graph)
        for size, plain, given, expected in trials:
            theirs, shapes = twice(plain), [tuple(v.shape) for v in twice(plain).graph.inputs[len(given):]]
            tangents = [torch.randn(shape) for shape in shapes]
            same(evaluated(joint.graph, [*given, *tangents]), evaluated(theirs.graph, [*given, *tangents]), f"{name} at {size}")


if __name__ == "__main__":
    works = total = 0
    for op in SAMPLED:
        found, reasons = attempts(op)
        works, total = works + len(found), total + len(found) + len(reasons)
        print(f"{op:30} {len(found):3} of {len(found) + len(reasons):3}", *([f"else {min(reasons, key=len)}"] if reasons else []))
    print(f"{works} of {total} samples with a size replaced by a symbol work")
