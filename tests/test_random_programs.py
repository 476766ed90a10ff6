"""Random graphs through every pass: the text form, the meaning, the gradient and the partition hold on all of them.

SMELT_RANDOM_PROGRAMS=2000 goes through that many seeds instead of 100.
"""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import pytest
import torch

from smelt.compiler import evaluate, parse, show, verify
from smelt.compiler.compare import compare, evaluate_precisely
from smelt.compiler.ir import Graph
from smelt.compiler.op import Op
from smelt.compiler.passes import cse, dce, decompose, drop_detach, fold, gradient, partition, restrict, simplify

from random_programs import COUNT, random_function, random_graph

SEEDS = range(COUNT)
EXACT = (simplify, fold, cse, dce, drop_detach)  # passes that change no bit


any_program = lru_cache(maxsize=None)(random_graph)
tame_program = lru_cache(maxsize=None)(partial(random_graph, tame=True))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal with -0.0 apart from 0.0; one NaN is as good as another."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    same = (a == b) & (a.signbit() == b.signbit()) | a.isnan() & b.isnan()
    return bool(same.all())


def apply(graph: Graph, step) -> Graph:
    changed = verify(step(graph), step.__name__)
    assert step(changed) is changed, f"{step.__name__} is not done after one run"
    return changed


@pytest.mark.parametrize("seed", SEEDS)
def test_text_round_trip(seed):
    graph, inputs = any_program(seed)
    text = show(graph)
    again = verify(parse(text), "parse")
    assert show(again) == text
    for a, b in zip(graph.inputs + graph.values, again.inputs + again.values, strict=True):
        assert (a.name, a.op, a.type, str(a.origin)) == (b.name, b.op, b.type, str(b.origin))
    assert all(map(same_bits, evaluate(graph, inputs), evaluate(again, inputs)))


@pytest.mark.parametrize("seed", SEEDS)
def test_passes_keep_every_bit(seed):
    graph, inputs = any_program(seed)
    verify(graph)
    for graph in (graph, decompose(graph)):
        reference = evaluate(graph, inputs)
        for step in (*EXACT, simplify, dce):
            graph = apply(graph, step)
            assert all(map(same_bits, evaluate(graph, inputs), reference)), f"{step.__name__}\n{graph}"


@pytest.mark.parametrize("seed", SEEDS)
def test_decompose(seed):
    graph, inputs = tame_program(seed)
    simpler = apply(graph, decompose)
    assert not any(v.op.kind == "composite" for v in simpler.values)
    found = compare(evaluate(simpler, inputs), evaluate(graph, inputs), partial(evaluate_precisely, graph, inputs))
    assert found is None, f"{found}\n{graph}"


@lru_cache(maxsize=None)
def torch_differentiates(op: Op) -> bool:
    """Whether torch has a derivative for every float operand of the op's first sample (or its result is no float)."""
    if op.name in ("clamp_between", "convolution_gradients"):
        # torch's backward fails on bounds that broadcast the input, and tells for one gradient what both depend on
        return False
    inputs, attrs = next(iter(op.samples()))
    leaves = [i.double().requires_grad_() if isinstance(i, torch.Tensor) and i.is_floating_point() else i for i in inputs]
    try:
        result = op.meaning(*leaves, **attrs)
        first = result[0] if isinstance(result, tuple) else result
        if first.requires_grad:
            first.sum().backward()
    except RuntimeError:
        return False
    return first.requires_grad or not first.is_floating_point() or op.kind == "source"


@lru_cache(maxsize=None)
def differentiable_program(seed: int):
    """A tame float64 graph, its inputs, and the inputs and outputs that can take part in a gradient."""
    graph, inputs = random_graph(seed, floats=(torch.float64,), tame=True, ops=torch_differentiates)
    wrt = [k for k, t in enumerate(inputs) if t.is_floating_point() and k < 4]
    of = [k for k, o in enumerate(graph.outputs) if o.dtype.is_floating_point]
    return graph, inputs, wrt, of


def torch_gradients(graph: Graph, inputs, wrt, of, grads):
    leaves = [t.detach().requires_grad_() if k in wrt else t for k, t in enumerate(inputs)]
    with torch.enable_grad():
        outputs = [o + 0 if any(o is leaf for leaf in leaves) else o for o in evaluate(graph, leaves)]
    live = [(outputs[k], g) for k, g in zip(of, grads) if outputs[k].requires_grad]
    if not live:
        return [None] * len(wrt)
    return torch.autograd.grad([o for o, _ in live], [leaves[k] for k in wrt], [g for _, g in live], allow_unused=True)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, graph: Graph) -> None:
    """Gradients in float64 differ in no more than their last digits, of the largest finite one."""
    largest = float(theirs.nan_to_num(0, 0, 0).abs().max()) if theirs.numel() else 0
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * (1 + largest), equal_nan=True, msg=lambda m: f"{m}\n{graph}")


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient(seed):
    graph, inputs, wrt, of = differentiable_program(seed)
    joint = gradient(graph, wrt, of)
    verify(joint.graph, "gradient")
    torch.manual_seed(seed)
    grads = [torch.randn(graph.outputs[k].shape, dtype=graph.outputs[k].dtype) for k in of]
    ours = evaluate(joint.graph, [*inputs, *grads])[len(graph.outputs):]
    theirs = torch_gradients(graph, inputs, wrt, of, grads)
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if b is None:
            assert not a.any() and not any(row[n] for row in joint.reach), f"input {wrt[n]} is not reached\n{graph}"
        else:
            assert_near(a, b, graph)


@pytest.mark.parametrize("seed", SEEDS)
def test_partition(seed):
    graph, inputs, wrt, of = differentiable_program(seed)
    joint = gradient(graph, wrt, of)
    clean = joint.graph
    for step in (drop_detach, decompose, simplify, fold, cse, dce):
        clean = apply(clean, step)
    split = partition(replace(joint, graph=clean))
    verify(split.forward, "partition")
    verify(split.backward, "partition")
    grads = [torch.randn(graph.outputs[k].shape, dtype=graph.outputs[k].dtype) for k in of]
    expected = evaluate(clean, [*inputs, *grads])
    outputs = evaluate(split.forward, inputs)
    extra = outputs[len(graph.outputs):]
    saved = [inputs[k] if kind == "input" else extra[k] for kind, k in split.saved]
    gradients = evaluate(split.backward, [*saved, *grads])
    assert all(map(same_bits, [*outputs[:len(graph.outputs)], *gradients], expected)), f"{split.forward}\n{split.backward}"
    assert len(set(split.saved)) == len(split.saved) and not set(split.forward.outputs[len(graph.outputs):]) & set(graph.outputs)


@pytest.mark.parametrize("seed", SEEDS)
def test_restrict(seed):
    """The backward graph for the gradients of every other output is what torch gives where only these have gradients."""
    graph, inputs, wrt, of = differentiable_program(seed)
    joint = gradient(graph, wrt, of).reached()
    split = partition(joint)
    arriving = range(seed % 2, len(of), 2)
    wanted = [k for k in range(len(joint.wrt)) if any(joint.reach[i][k] for i in arriving)]
    backward = verify(restrict(split.backward, len(split.saved), arriving, wanted), "restrict")
    grads = [torch.randn(graph.outputs[of[i]].shape, dtype=graph.outputs[of[i]].dtype) for i in arriving]
    extra = evaluate(split.forward, inputs)[len(graph.outputs):]
    ours = evaluate(backward, [*(inputs[k] if kind == "input" else extra[k] for kind, k in split.saved), *grads])
    theirs = dict(zip(wrt, torch_gradients(graph, inputs, wrt, [of[i] for i in arriving], grads)))
    assert [k for k, g in theirs.items() if g is not None] == [joint.wrt[k] for k in wanted]
    for a, k in zip(ours, wanted, strict=True):
        assert_near(a, theirs[joint.wrt[k]], backward)


@pytest.mark.parametrize("seed", range(max(1, COUNT // 5)))
def test_random_functions_repeat(seed):
    """The generator gives programs that run, and the same one for the same seed."""
    f, arguments = random_function(seed)
    g, again = random_function(seed)
    assert f.source == g.source and all(map(torch.equal, arguments, again))
    first, second = f(*[a.detach().clone() for a in arguments]), g(*[a.detach().clone() for a in again])
    first, second = (r if isinstance(r, tuple) else (r,) for r in (first, second))
    assert all(map(same_bits, first, second))
