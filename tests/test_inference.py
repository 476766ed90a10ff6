"""Inference mode inside and around compiled functions."""
import pytest
import torch
from torch import nn

import smelt
from smelt.errors import SmeltWarning

NET = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))


@torch.inference_mode()
def decorated(x):
    return NET(x)


def block(x):
    with torch.inference_mode():
        y = NET(x).softmax(-1)
    return y


def views(x):
    with torch.inference_mode():
        y = NET(x) * 2
        return y.t(), y[0], x[1:]


def features(x):
    """The body runs under inference mode, the head does not."""
    with torch.inference_mode():
        y = NET(x)
    return NET[3](torch.ones(8) * y.clone().sum().tanh())


def written(x):
    with torch.inference_mode():
        x.add_(1)
        return x * 2


def left(x):
    """x is an inference tensor, or not."""
    with torch.inference_mode(False):
        return x.clone() + 1


def branching(x):
    with torch.inference_mode():
        y = NET(x)
        return y * 2 if y.sum() > 0 else y - 1


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("function", [decorated, block, views, features, written])
def test_results_are_of_the_same_kind(function, around):
    compiled = smelt.compile(function)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(5, 6)
        with torch.inference_mode(around):
            expected, found = function(x.clone()), compiled(x.clone())
        expected, found = ((r if isinstance(r, tuple) else (r,)) for r in (expected, found))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a)
            assert (b.is_inference(), b.requires_grad, b.stride()) == (a.is_inference(), a.requires_grad, a.stride())
    assert smelt.explain(compiled).compiled


def test_a_branch_inside_runs_eagerly():
    compiled = smelt.compile(branching)
    with pytest.warns(SmeltWarning, match="and branches on data"):
        for _ in range(2):
            assert compiled(torch.ones(2, 6)).is_inference()


def test_results_from_inside_and_outside_run_eagerly():
    def both(x):
        with torch.inference_mode():
            y = x * 2
        return y, x + 1
    compiled = smelt.compile(both)
    with pytest.warns(SmeltWarning, match="tensors from inside and outside"):
        for _ in range(2):
            y, z = compiled(torch.ones(3))
            assert y.is_inference() and not z.is_inference()


def test_leaving_inference_mode():
    compiled = smelt.compile(left)
    with torch.inference_mode():
        for _ in range(3):
            y = compiled(torch.ones(3))
            assert torch.equal(y, torch.full((3,), 2.0)) and not y.is_inference()
    assert smelt.explain(compiled).compiled
