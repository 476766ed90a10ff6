"""Random programs from end to end: compiled Python functions against eager, compiled graphs against the reference evaluator.

`python tests/random_dynamics.py` says how many of the programs with state run compiled, random_training.py of trainings.
SMELT_RANDOM_PROGRAMS=2000 goes through that many seeds instead of 100.
"""
from __future__ import annotations

from functools import partial

import pytest
import torch
from random_dynamics import check, random_program
from random_programs import COUNT, Disturbance, random_function, random_graph
from random_training import random_training

import smelt
from smelt.compiler.compare import compare, evaluate_noisily, evaluate_precisely
from smelt.compiler.evaluate import evaluate
from smelt.pipeline import compile_graph


def fresh(arguments, dtype=None):
    return [a.detach().clone().to(dtype).requires_grad_(a.requires_grad) for a in arguments]


def call(function, arguments) -> tuple[list, list]:
    """What one call comes to: (its results, the arguments after it, their gradients), and which of the tensors share memory."""
    results = function(*arguments)
    results = list(results) if isinstance(results, tuple) else [results]
    live, leaves = [r for r in results if r.requires_grad], [a for a in arguments if a.requires_grad]
    seeds = [torch.linspace(-1, 2, r.numel(), dtype=r.dtype).reshape(r.shape) for r in live]
    gradients = list(torch.autograd.grad(live, leaves, seeds, allow_unused=True)) if live else []
    memory = [t.untyped_storage().data_ptr() for t in (*results, *arguments)]
    kinds = [(r.shape, r.dtype, r.stride(), r.requires_grad) for r in results]
    return [*results, *arguments, *gradients], [[memory.index(m) for m in memory], kinds, [g is None for g in gradients]]


@pytest.mark.parametrize("seed", range(COUNT))
def test_function(seed):
    """The recorded, the checked and a plain call: values, layouts, aliasing, mutation and gradients are eager's."""
    function, arguments = random_function(seed)
    compiled = smelt.compile(function)
    for _ in range(3):
        expected, facts = call(function, fresh(arguments))
        found, our_facts = call(compiled, fresh(arguments))
        assert our_facts == facts, function.source
        mismatch = compare(_detached(found), _detached(expected),
                           lambda _: _detached(call(function, fresh(arguments, torch.float64))[0]),
                           lambda seed, _: _detached(noisily(function, fresh(arguments), seed)))
        assert mismatch is None, f"{mismatch}\n{function.source}"
    assert not any(p.run and p.run.broken for p in compiled.programs), compiled.programs[0].run.broken


def _detached(tensors):
    return [None if t is None else t.detach() for t in tensors]


def noisily(function, arguments, seed: int) -> list:
    with Disturbance(seed):
        return call(function, arguments)[0]


@pytest.mark.parametrize("seed", range(COUNT))
def test_program(seed):
    """State, branches on data, writes, changing sizes and numbers: every call leaves what eager's leaves."""
    program = random_program(seed)
    found = check(program)
    assert not found.wrong, f"{found.wrong}\n{program.source}"


@pytest.mark.parametrize("seed", range(6))
def test_training(seed):
    program = random_training(seed)
    found = check(program)
    assert not found.wrong, f"{found.wrong}\n{program.source}"


@pytest.mark.parametrize("seed", range(COUNT))
def test_graph(seed):
    graph, inputs = random_graph(seed)
    mismatch = compare(compile_graph(graph)(*inputs), evaluate(graph, inputs), partial(evaluate_precisely, graph, inputs),
                       partial(evaluate_noisily, graph, inputs))
    assert mismatch is None, mismatch
