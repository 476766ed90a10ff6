"""What compiled calls give beyond values: named results, gradients that are None, memory layouts between programs, and the
judgement of rounding; each call against eager."""
from __future__ import annotations

import copy
import os
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import smelt
from smelt.compiler import Builder, TensorType
from smelt.compiler.compare import compare, evaluate_noisily, evaluate_precisely
from smelt.compiler.evaluate import evaluate
from smelt.compiler.passes import simplify
from smelt.frontend.api import CompiledFunction


def three_calls(function, make):
    """The results of a recorded, a checked and a plain call, none of which may run eagerly for a reason of ours."""
    compiled = smelt.compile(function, fullgraph=True)
    results = [compiled(*make()) for _ in range(3)]
    assert not any(p.run.broken for p in compiled.programs)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_struct_sequences_stay_what_they_are(dtype):
    x = torch.tensor([[0, 1, 1], [0, 0, 0]]).to(dtype)
    for found in three_calls(lambda x: x.max(1), lambda: (x,)):
        assert type(found) is torch.return_types.max
        assert torch.equal(found.values, x.max(1).values) and found.indices.tolist() == [1, 0]


def test_what_no_gradient_reaches_gets_none():
    def loss(x, target):
        return F.hinge_embedding_loss(x, torch.where(target > 0, 1.0, -1.0))

    arguments = torch.linspace(-1, 2, 5, requires_grad=True), torch.tensor([1.0, -1, 1, -1, 1], requires_grad=True)
    for result in three_calls(loss, lambda: arguments):
        reached, unreached = torch.autograd.grad(result, arguments, allow_unused=True)
        assert reached is not None and unreached is None


def test_a_view_with_gaps_is_saved_for_the_backward_as_it_is_read():
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(torch.linalg.cond(x.requires_grad_()).sum(), x)[0]
    for found in three_calls(torch.linalg.cond, lambda: (x,)):
        torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], expected)


def test_rounding_where_the_result_is_all_cancellation():
    """The gradient of a sum of softmax is 0 but for rounding, which is no defect."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x, w = torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator, requires_grad=True)
        compiled = smelt.compile(lambda x, w: F.softmax(x @ w, -1).sum())
        for _ in range(3):
            compiled(x, w).backward()
        assert smelt.explain(compiled).compiled, smelt.explain(compiled)


def test_noise_accepts_roundings_and_nothing_more():
    b = Builder()
    x = b.input("x", TensorType((3,), torch.float32, torch.device("cpu")))
    graph = b.graph("cancel", [b.sub(b.add(x, 1e4), 1e4)])
    inputs = [torch.tensor([0.123, 0.456, 0.789])]
    reference, exact = evaluate(graph, inputs), evaluate_precisely(graph, inputs)

    def judge(off):
        ours = [(exact[0] + off).float()]
        return compare(ours, reference, lambda _: exact, partial(evaluate_noisily, graph, inputs))
    assert judge(1e-3) is None
    assert judge(0.1) is not None


def test_a_reference_that_is_near_by_chance_is_disturbed_more_than_once():
    """The error of one number tells little of how far roundings carry."""
    seeds = []

    def noisy(seed, _):
        seeds.append(seed)
        return [torch.tensor([min(seed, 3) * 1e-9])]

    def judge(ours):
        return compare([torch.tensor([ours])], [torch.tensor([1e-11])], lambda _: [torch.zeros(1, dtype=torch.float64)], noisy)
    assert judge(5e-11) is None and not seeds
    assert judge(1e-8) is None and seeds == [0, 1, 2]
    assert judge(1e-7) is not None


def test_simplify_ends_where_an_output_keeps_its_layout():
    b = Builder()
    x = b.input("x", TensorType((5,), torch.float32, torch.device("cpu")))
    y = b.exp(x)
    graph = b.graph("round_trip", [b.reshape(b.reshape(y, shape=(1, 5)), shape=(5,))])
    simpler = simplify(graph)
    assert simplify(simpler) is simpler
    assert torch.equal(*evaluate(simpler, [torch.ones(5)]), torch.ones(5).exp())


def test_a_defect_in_compiling_is_told_and_the_call_goes_well(monkeypatch):
    from smelt import pipeline

    def broken(*_):
        raise KeyError("a rule that is not there")
    monkeypatch.setattr(pipeline, "generate", broken)
    compiled = smelt.compile(lambda x: x + 1)
    with pytest.warns(smelt.SmeltWarning, match="internal error while compiling: KeyError"):
        assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert compiled(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["_keep", "_guards"])
def test_a_defect_behind_the_users_run_is_told_and_the_call_goes_well(monkeypatch, name):
    def broken(*_):
        raise KeyError("a value that is not there")
    monkeypatch.setattr(CompiledFunction, name, broken)
    for function in (lambda x: x + 1, lambda x: x + (1 if x.sum() > 0 else 2), lambda x: x + int(os.environ["HOME"] != "")):
        compiled = smelt.compile(function)
        with pytest.warns(smelt.SmeltWarning, match="internal error while .*: KeyError"):
            assert compiled(torch.ones(2)).tolist() == [2, 2]
        assert compiled(torch.ones(2)).tolist() == [2, 2]
        assert not smelt.explain(compiled).compiled


def test_a_defect_in_a_later_call_is_told_and_the_call_goes_well(monkeypatch):
    kept = []

    def f(x):
        kept.append(1)
        return x + 1 if x.sum() > 0 else x - 1

    def broken(*_):
        raise KeyError("a value that is not there")
    compiled = smelt.compile(f)
    for _ in range(2):
        compiled(torch.ones(2))
    monkeypatch.setattr("smelt.frontend.run.branches._advance", broken)
    with pytest.warns(smelt.SmeltWarning, match="internal error while running: KeyError"):
        assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert kept == [1, 1, 1]


SCALE = 2.0


def test_functions_that_torch_compiled_run_as_given_while_a_call_is_recorded(monkeypatch):
    """torch.compile would trace what observes the run, for many seconds."""
    traced = []

    def count(graph, inputs):
        traced.append(graph)
        return graph

    def step(function, layer):
        def step(x):
            layer.zero_grad()
            (function(layer(x)) ** 2).sum().backward()
            return function(x), [p.grad.clone() for p in layer.parameters()]
        return step

    def scaled(x):
        return x.relu() * SCALE
    layer = nn.Linear(3, 2)
    function = torch.compile(scaled, backend=count)
    compiled = smelt.compile(step(function, torch.compile(layer, backend=count)), fullgraph=True, verify="raise")
    eager = step(scaled, copy.deepcopy(layer))
    for k in range(6):
        monkeypatch.setitem(globals(), "SCALE", 2.0 + k // 2)
        x = torch.linspace(-1, 1 + k, 6).view(2, 3)
        torch.testing.assert_close(compiled(x), eager(x))
    assert not traced
    torch.testing.assert_close(function(x), scaled(x))
    assert traced
