"""Inference mode inside and around compiled functions."""
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

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


@torch.inference_mode()
def decoded(x):
    """As many steps as it takes, each of which writes to the argument."""
    found = []
    for _ in range(4):
        y = NET(x)
        x[:, :3] += y
        found.append(y.argmax(-1))
        if y[0].argmax().item() == 1:
            break
    return torch.stack(found), x


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("function", [decorated, block, views, features, written, branching, decoded])
def test_results_are_of_the_same_kind(function, around):
    compiled = smelt.compile(function)
    for seed in range(9):
        torch.manual_seed(seed % 5)
        x = torch.randn(5, 6)
        with torch.inference_mode(around):
            expected, found = function(x.clone()), compiled(x.clone())
        expected, found = ((r if isinstance(r, tuple) else (r,)) for r in (expected, found))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a)
            assert (b.is_inference(), b.requires_grad, b.stride()) == (a.is_inference(), a.requires_grad, a.stride())
    assert smelt.explain(compiled).compiled


def by_path(x):
    """What one path returns was made inside, what the other returns outside."""
    with torch.inference_mode():
        y = x * 2
        if y.sum().item() > 0:
            return y + 1
    return x - 1


def both(x):
    with torch.inference_mode():
        y = x * 2
    z = x + 1
    return y, z, y.t(), z[0], [y.clone()[0]]


@pytest.mark.parametrize("function", [by_path, both])
def test_results_from_inside_and_outside(function):
    compiled = smelt.compile(function)
    for sign in (1, -1, 1, -1, 1):
        found, expected = (f(torch.full((2, 3), 2.0) * sign) for f in (compiled, function))
        for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride() and a.is_inference() == b.is_inference()
    if function is both:
        with torch.inference_mode():
            found[2].zero_()  # the same memory
        assert not found[0].any()
    assert smelt.explain(compiled).compiled


def test_a_training_step_that_measures():
    """Gradients are no inference tensors, though a result is."""
    net = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    @smelt.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        with torch.inference_mode():
            right = (net(x).argmax(1) == y).float().mean()
        return loss.detach(), right, right.item()
    torch.manual_seed(0)
    for _ in range(4):
        loss, right, share = step(torch.randn(8, 6), torch.randint(3, (8,)))
        assert right.is_inference() and not loss.is_inference() and share == right.item()
        assert not net.weight.grad.is_inference() and net.weight.grad.any()
    assert smelt.explain(step).compiled


def test_leaving_inference_mode():
    compiled = smelt.compile(left)
    with torch.inference_mode():
        for _ in range(3):
            y = compiled(torch.ones(3))
            assert torch.equal(y, torch.full((3,), 2.0)) and not y.is_inference()
    assert smelt.explain(compiled).compiled


def test_gradients_where_it_was_left():
    def f(x):
        with torch.inference_mode(False):
            y = NET(torch.ones(2, 6)).sum()
        return y, x + 1
    compiled = smelt.compile(f)
    with torch.inference_mode():
        with pytest.warns(SmeltWarning, match="leaves inference mode, and returns"):
            for _ in range(3):
                y, z = compiled(torch.ones(3))
                assert y.requires_grad and not y.is_inference() and z.is_inference()


@pytest.mark.parametrize("function, error", [(lambda x: x.sum() @ x, RuntimeError), (lambda x: x @ x, RuntimeError),
                                             (lambda x: nn.functional.linear(x, x.t()[:2]), RuntimeError)])
def test_errors_are_those_of_eager(function, error):
    """Of composite ops, which autograd does not take apart there."""
    compiled = smelt.compile(function)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            with pytest.raises(error) as expected:
                function(torch.ones(3, 4))
            with pytest.raises(error) as found:
                compiled(torch.ones(3, 4))
            assert str(found.value) == str(expected.value)
