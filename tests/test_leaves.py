"""Tensors that a function makes and lets require grad: gradients with respect to them, inside it; and gradients cut in place."""
import warnings

import pytest
import torch
from torch import nn

import smelt
from smelt.errors import SmeltWarning

from .common import close

X = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def observed(f, net, grad):
    """What a few calls give and leave."""
    seen = []
    for k in range(4):
        x = (X + k / 4).requires_grad_(grad)
        result = f(net, x)
        results = result if isinstance(result, tuple) else (result,)
        live = [r.sum() for r in results if r.requires_grad]
        if live:
            sum(live).backward()
        seen.append([results, x.grad, [None if p.grad is None else p.grad.clone() for p in net.parameters()]])
    return seen


def check(f, grad=True, **options):
    compiled = smelt.compile(f, fullgraph=True, verify="raise", **options)
    close(observed(f, network(), grad), observed(compiled, network(), grad))
    return compiled


def sign_of_the_gradient(net, x):
    other = x.clone().detach().requires_grad_(True)
    net(other).sum().backward()
    net.zero_grad()
    return (x + 0.1 * other.grad.sign()).detach()


def steps_of_ascent(net, x):
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(3):
        g, = torch.autograd.grad(net(x.detach() + delta).sum(), delta)
        with torch.no_grad():
            delta.add_(0.1 * g.sign())
            delta.clamp_(-0.2, 0.2)
    return (x + delta).detach()


def a_leaf_for_every_step(net, x):
    other = x.detach() + 0.01
    for _ in range(3):
        other.requires_grad_()
        g, = torch.autograd.grad(net(other).sum(), [other])
        other = other.detach() + 0.1 * g
    return other


def gradient_penalty(net, x):
    mixed = x.detach().clone().requires_grad_()
    score = net(mixed).pow(2).sum()
    g, = torch.autograd.grad(score, mixed, create_graph=True)
    (((g.norm(dim=1) - 1) ** 2).mean() + score).backward()
    return score.detach(), mixed.grad


def a_view_of_an_argument(net, x):
    other = x.detach().requires_grad_()
    g, = torch.autograd.grad(net(other).sum(), other)
    return g + other.detach()


def numbers(net, x):
    place = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    return torch.autograd.grad(net(place * x.detach()).pow(2).sum(), place)[0]


def by_attribute(net, x):
    other = (x * 2).detach()
    other.requires_grad = True
    return torch.autograd.grad((other * other * other).sum(), other)[0]


def required_after_a_use(net, x):
    """What was computed before does not count, and what is written before the first use does."""
    other = x.detach().clone()
    before = other * 5
    other.requires_grad_()
    with torch.no_grad():
        other.mul_(2)
    return torch.autograd.grad((other * other + before).sum(), other)[0]


def two_passes(net, x):
    other = x.detach().clone().requires_grad_()
    net(other).sum().backward()
    (other * 3).sum().backward()
    return other.grad


def not_any_more(net, x):
    other = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad((other * other).sum(), other)
    other.requires_grad_(False)
    return other * x + g


def cut_in_place(net, x):
    h = net(x).relu()
    other = h * 1
    other.detach_()
    return other * net[0].weight.sum() + h


def cut_over_time(net, x):
    h = x
    total = 0
    for _ in range(3):
        new = h + net(h)
        total = total + new.sum()
        h = (new * 2).detach_()
    return total


FUNCTIONS = (sign_of_the_gradient, steps_of_ascent, a_leaf_for_every_step, gradient_penalty, a_view_of_an_argument, numbers,
             by_attribute, required_after_a_use, two_passes, not_any_more, cut_in_place, cut_over_time)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions(function, grad):
    check(function, grad)


def test_a_leaf_and_a_branch():
    def f(net, x):
        other = x.detach().clone().requires_grad_()
        loss = net(other).sum()
        g, = torch.autograd.grad(loss, other)
        if g.sum() > 0:
            other = (other + g).detach().requires_grad_()
            return torch.autograd.grad((other ** 3).sum(), other)[0]
        return g
    check(f)


def test_gradients_enabled_inside_where_they_are_off():
    def f(net, x):
        with torch.enable_grad():
            y = net(x).tanh()
        return y, net(x), x * 2

    def run(f, net):
        with torch.no_grad():
            y, *rest = f(net, X)
        y.sum().backward()
        return [y, *rest], [p.grad.clone() for p in net.parameters()]
    compiled, ours, twin = smelt.compile(f, fullgraph=True, verify="raise"), network(), network()
    for _ in range(4):
        close(run(compiled, ours), run(f, twin))
    close(observed(compiled, ours, True), observed(f, twin, True))


def test_gradients_enabled_inside_a_branch():
    def f(net, x):
        with torch.enable_grad():
            y = net(x).tanh()
            if y.sum() > 0:
                y = y * 2
        return y
    compiled, net = smelt.compile(f, fullgraph=True, verify="raise"), network()
    for x in (X, -X, X, -X, X):
        with torch.no_grad():
            ours, theirs = compiled(net, x), f(net, x)
        close(torch.autograd.grad(ours.sum(), list(net.parameters())), torch.autograd.grad(theirs.sum(), list(net.parameters())))
        close(ours.detach(), theirs.detach())


def test_what_the_leaf_is_written_over_by_is_not_mistaken():
    """A view, written under no_grad, leaves the leaf's gradient as it is."""
    def f(net, x):
        other = x.detach().clone().requires_grad_()
        y = other * other
        with torch.no_grad():
            other[0] = 7.0
        return torch.autograd.grad((other * y.detach()).sum(), other)[0]
    compiled, net = smelt.compile(f), network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for _ in range(3):
            close(compiled(net, X), f(net, X))


@pytest.mark.parametrize("returned", ["leaf", "result", "both"])
def test_a_leaf_that_others_see(returned):
    def f(x):
        other = (x * 2).detach().requires_grad_()
        return {"leaf": other, "result": other * 3, "both": [other, other * 3]}[returned]
    compiled = smelt.compile(f)
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmeltWarning)
            close(compiled(X), f(X))
    reasons = smelt.explain(compiled).fallbacks
    assert not reasons if returned != "both" else "a tensor that the run made" in reasons[0]


def test_a_step_with_the_gradient_of_an_argument():
    """As in PyTorch's tutorial on adversarial examples."""
    def step(net, x):
        x.requires_grad = True
        loss = net(x).square().sum()
        net.zero_grad()
        loss.backward()
        return torch.clamp(x + 0.1 * x.grad.data.sign(), 0, 1)
    compiled, net = smelt.compile(step, fullgraph=True, verify="raise"), network()
    for k in range(3):
        given, theirs = (X + k / 4).clone(), (X + k / 4).clone()
        close(compiled(net, given), step(net, theirs))
        assert given.requires_grad
        close(given.grad, theirs.grad)


def test_flags_are_as_they_were_where_a_program_raises():
    seen = []

    def f(x, places):
        seen.append(x.requires_grad)
        return x.requires_grad_()[places].sum()
    compiled = smelt.compile(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for _ in range(3):
            compiled(torch.ones(4), torch.tensor([1, 3]))
        with pytest.raises(IndexError):
            compiled(torch.ones(4), torch.tensor([1, 7]))
    assert not any(seen)


def test_a_parameter_made_anew_takes_the_place_of_the_old_one():
    def follow(net, x):
        y = net(x)
        if net.training:
            net[0].weight = nn.Parameter(net[0].weight * 0.9 + 0.1 * y.mean())
            net[2].bias = nn.Parameter(net[2].bias + y.mean(), requires_grad=False)
        return y
    compiled = check(follow)
    assert len(compiled.programs) == 2  # the bias, once frozen, is another one
