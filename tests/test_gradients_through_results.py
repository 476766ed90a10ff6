"""Results that others are computed of: hooks, kept gradients and torch.autograd.grad see what flows through them."""
from __future__ import annotations

import random

import pytest
import torch

import smelt

SEEDS = 40
STATEMENTS = ("{a} * {b}", "{a} + {b}", "{a}.relu()", "{a} * 2", "{a} - {b}", "{a} @ {b}", "{a}.abs()", "{a}.t() * {b}",
              "torch.cat([{a}, {b}])[2:6]", "{a}[:, 1:].sum(1, keepdim=True) * {b}", "{a}.sum() * {b}", "{a}.detach() * {b}",
              "{a}.view(2, 8).sum(0).view(1, 8)[:, :4] + {b}", "torch.where({a} > 0, {b}, {a})")


def random_function(seed: int):
    """A function of three 4x4 tensors that gives some of its intermediate values."""
    draw, names, lines = random.Random(seed), ["x", "v", "w"], []
    for k in range(draw.randint(3, 8)):
        lines.append(f"t{k} = {draw.choice(STATEMENTS).format(a=draw.choice(names), b=draw.choice(names[-3:]))}")
        names.append(f"t{k}")
    results = draw.sample(names[3:], min(len(names) - 3, draw.randint(2, 4)))
    source = "\n    ".join(["def f(x, v, w):", *lines, f"return {', '.join(results)}"])
    made = {"torch": torch}
    exec(compile(source, f"<function {seed}>", "exec"), made)
    return made["f"], source


def calls(f, seed: int) -> list:
    """What can be seen of five calls and of backward passes from some of their results, with hooks here and there."""
    seen = []
    for call in range(5):
        draw = random.Random(10 * seed + call)
        torch.manual_seed(call)
        leaves = [torch.randint(-3, 4, (4, 4)).float().requires_grad_(draw.random() < 0.8) for _ in range(3)]
        x, v, w = leaves
        if draw.random() < 0.4:
            x = x * 1
        if draw.random() < 0.2 and v.requires_grad:
            v.register_hook(lambda g: seen.append(g.clone()))
        results, noted = f(x, v, w), []
        seen.append([(y.detach().clone(), y.requires_grad) for y in results])
        live = [y for y in results if y.requires_grad]
        for k, y in enumerate(live):
            if draw.random() < 0.3:
                y.retain_grad()
            if draw.random() < 0.4:
                y.register_hook(lambda g: g * 2)
            if draw.random() < 0.3:
                y.register_hook(lambda g, k=k: noted.append((k, g.clone())))
        asked = [t for t in leaves if t.requires_grad]
        if len(live) > 1 and draw.random() < 0.3:
            a, b = draw.sample(live, 2)
            seen.append(torch.autograd.grad(a.sum(), [b, *asked], allow_unused=True, retain_graph=True))
        if live and draw.random() < 0.2:
            grads = torch.autograd.grad(live[0].square().sum(), asked, create_graph=True, allow_unused=True)
            squares = sum((g * g).sum() for g in grads if g is not None and g.requires_grad)
            if isinstance(squares, torch.Tensor):
                squares.backward(retain_graph=True)
        if live:
            sum((k + 1) * y.sum() for k, y in enumerate(draw.sample(live, draw.randint(1, len(live))))).backward()
        seen.append([t.grad.clone() if t.grad is not None else None for t in leaves])
        seen.append([y.grad if y.retains_grad else None for y in live])
        seen.append(sorted(noted, key=lambda note: note[0]))
    return seen


def same(ours, theirs) -> bool:
    if isinstance(theirs, torch.Tensor):
        size = max(1.0, float(theirs.detach().abs().max()))
        return isinstance(ours, torch.Tensor) and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * size, equal_nan=True)
    if isinstance(theirs, (list, tuple)):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("seed", range(SEEDS))
def test_as_eager(seed):
    function, source = random_function(seed)
    try:
        function(*torch.ones(3, 4, 4))
    except RuntimeError:
        pytest.skip("shapes that do not fit")
    theirs = calls(function, seed)
    compiled = smelt.compile(function)
    ours = calls(compiled, seed)
    assert same(ours, theirs), source
    assert smelt.explain(compiled).compiled, smelt.explain(compiled)


def test_no_step_is_differentiated_twice():
    """What a result and another one computed of it share is differentiated once, when both gradients are there."""
    counted = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 3

        @staticmethod
        def backward(ctx, g):
            counted.append(g.sum().item())
            return g * 3

    @smelt.compile(verify="off")
    def f(x):
        shared = Counted.apply(x)
        features = shared * 2
        return features, features.sum() + shared.sum()
    for _ in range(4):
        x = torch.ones(4, requires_grad=True)
        counted.clear()
        f(x)[1].backward()
        assert counted == [12.0] and x.grad.tolist() == [9.0] * 4
