"""Backward passes after Python read a tensor: the training steps that look at the loss, at gradients or at their norm."""
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import smelt
from smelt.errors import SmeltWarning
from smelt.frontend.api import compiled_function
from smelt.frontend.run.bridge import Late

from . import common

X = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], dtype=torch.float64)
close = partial(common.close, rel=1e-5, rtol=1e-5, atol=1e-6)


class Trained:
    """A network, its optimiser and a training step over them. The step gets Trained and a batch."""

    def __init__(self, step, optimizer=torch.optim.AdamW):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.net.double()
        self.optimizer = optimizer(self.net.parameters(), lr=0.05)
        self.step = step

    def loss(self, x):
        return self.net(x).pow(2).mean()

    @property
    def state(self):
        parameters = list(self.net.parameters())
        moments = [v for p in parameters for v in self.optimizer.state[p].values()]
        return [*parameters, *(p.grad for p in parameters), *self.net.buffers(), *moments]


def not_finite(t, x):
    t.optimizer.zero_grad()
    loss = t.loss(x)
    if not torch.isfinite(loss):
        return None
    loss.backward()
    t.optimizer.step()
    return loss


def small_enough(t, x):
    t.optimizer.zero_grad()
    loss = t.loss(x)
    if loss < 0.15:
        return loss.item()
    loss.backward()
    t.optimizer.step()
    return loss.detach()


def clipped_by_hand(t, x):
    loss = t.loss(x)
    t.optimizer.zero_grad()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in t.net.parameters()]).norm()
    if norm > 0.5:
        for p in t.net.parameters():
            p.grad.mul_(0.5 / norm)
    t.optimizer.step()
    return loss


def not_finite_then_clipped(t, x):
    loss = t.loss(x)
    if torch.isnan(loss):
        t.optimizer.zero_grad(set_to_none=False)
        return 0.0
    t.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(t.net.parameters(), 0.5)
    if norm > 0.5:
        t.optimizer.step()
    return norm


def two_losses(t, x):
    t.optimizer.zero_grad()
    first = t.loss(x)
    if first > 0.2:
        first.backward()
    second = t.loss(x.flip(0))
    if second < 0.3:
        second.backward()
    t.optimizer.step()
    return first, second


def penalised_where_large(t, x):
    t.optimizer.zero_grad()
    loss = t.loss(x)
    if loss > 0.2:
        loss = loss + sum(p.abs().sum() for p in t.net.parameters()) * 0.01
    loss.backward()
    t.optimizer.step()
    return loss


def several_turns(t, x):
    turns = 0
    loss = t.loss(x)
    while loss > 0.3 and turns < 4:
        t.optimizer.zero_grad()
        loss.backward()
        t.optimizer.step()
        loss = t.loss(x)
        turns += 1
    return turns


def kept_graph(t, x):
    t.optimizer.zero_grad()
    loss = t.loss(x)
    if loss > 0.2:
        loss.backward(retain_graph=True)
    (loss * 2).backward()
    t.optimizer.step()
    return loss.detach()


STEPS = (not_finite, small_enough, clipped_by_hand, not_finite_then_clipped, two_losses, penalised_where_large, several_turns,
         kept_graph)


@pytest.mark.parametrize("verify", ["raise", "off"])
@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_steps(step, verify):
    ours, twin = Trained(step), Trained(step)
    compiled = smelt.compile(lambda x: ours.step(ours, x), verify=verify)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmeltWarning)
        for k in range(14):
            x = X * (k % 4) - k % 3
            if k in (4, 8):
                x[0, 0] = float("nan")
            found = []
            for f in (compiled, lambda x: step(twin, x)):
                torch.manual_seed(k)
                found.append([f(x), torch.rand(1)])
            close(*found)
            close(ours.state, twin.state)
    report = smelt.explain(compiled)
    assert report.state == "compiled" and not any(p.broken for p in report.programs), report


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
def test_optimisers(optimizer):
    ours, twin = Trained(not_finite, optimizer), Trained(not_finite, optimizer)
    compiled = smelt.compile(lambda x: ours.step(ours, x), fullgraph=True)
    for k in range(6):
        x = X + k if k != 3 else X * float("inf")
        found = []
        for f in (compiled, lambda x: not_finite(twin, x)):
            torch.manual_seed(k)
            found.append(f(x))
        close(*found)
        close(ours.state, twin.state)


def check(function, calls, fullgraph=True):
    """Equal calls of the function and of the compiled one, with gradients of what comes back; gives the compiled one."""
    compiled = smelt.compile(function, fullgraph=fullgraph, verify="raise")
    for args in (*calls, *reversed(calls), *calls):
        found = []
        for f in (function, compiled):
            given = [a.clone().requires_grad_() for a in args]
            result = f(*given)
            found.append([result, [a.grad for a in given]])
            live = [t for t in (result if isinstance(result, tuple) else (result,)) if t.requires_grad]
            if live:
                found[-1].append([g.contiguous() for g in torch.autograd.grad([t.sum() for t in live], given)])
        close(*found)
    return compiled


def test_gradients_that_are_results():
    def f(x, w):
        y = (x * w).tanh()
        loss = y.sum()
        if loss > 0:
            return torch.autograd.grad(loss, (w, x))
        return torch.autograd.grad(y, w, torch.ones_like(y) * loss.detach())
    check(f, [(X, X), (X, -X)])


def test_gradients_that_are_expanded_or_given_as_they_are():
    def f(x, w):
        loss = (x + w).sum()
        if loss > 0:
            return torch.autograd.grad(loss, (w, x))
        y = x + w
        if x[0, 0] > 0:
            return torch.autograd.grad(y, (w, x), X)
        return torch.autograd.grad(y * 2, (w, x), X)
    check(f, [(X, X), (X, -X * 2), (-X, -X)])


def test_gradients_that_are_differentiated_in_turn():
    def f(x, w):
        loss = (x * w).pow(3).sum()
        if loss > 0:
            slope, = torch.autograd.grad(loss, w, create_graph=True)
            return (slope * x).sum() + loss
        return loss * 2
    check(f, [(X, X), (X, -X)])


def test_a_step_of_descent_inside():
    def f(x, w):
        loss = (x * w).pow(2).mean()
        if loss > 1:
            slope, = torch.autograd.grad(loss, w, create_graph=True)
            w = w - slope * 0.1
        return (x * w).pow(2).mean()
    check(f, [(X, X), (X, X / 10)])


def test_gradients_of_what_was_made_before_a_reading_are_eager():
    def f(x):
        h = x * 2
        loss = h.pow(2).sum()
        if loss > 0:
            return torch.autograd.grad(loss, h)[0]
        return loss
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning, match="differentiates with respect to one that it made before"):
        compiled(X.clone().requires_grad_())
    for _ in range(3):
        x = X.clone().requires_grad_()
        close(compiled(x), f(x))


def test_gradients_where_gradients_are_off_outside():
    def f(x, w):
        with torch.enable_grad():
            loss = (x * w).pow(2).sum()
            if loss.detach() > 5:
                slope, = torch.autograd.grad(loss, w)
                return slope * 2
        return (x * w).detach()
    compiled = smelt.compile(f, fullgraph=True)
    for k in (1, 1, 0.1, 0.1, 1):
        w = (X * k).requires_grad_()
        with torch.no_grad():
            close(compiled(X, w), f(X, w))


def test_what_a_pass_went_through_cannot_be_gone_through_again():
    def f(w):
        loss = (w * w).sum()
        if loss > 0:
            loss.backward()
        return loss
    compiled = smelt.compile(f, fullgraph=True)
    for _ in range(4):
        w = X.clone().requires_grad_()
        loss = compiled(w)
        close(w.grad, X * 2)
        assert loss.requires_grad
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


def test_a_pass_of_one_segment_is_compiled_with_it():
    def f(x, w):
        if x.sum() > 0:
            return torch.autograd.grad((x * w).pow(2).sum(), w)[0]
        return x * w
    compiled = check(f, [(X, X), (-X, X)])
    tree, = compiled_function(compiled).programs
    assert not any(node.gives for path in tree.paths for node in path.nodes)


def test_hooks_of_parameters_are_run_as_in_eager():
    seen = []

    def f(x, w):
        loss = (x * w).pow(2).sum()
        if loss > 0:
            loss.backward()
        return loss.detach()
    compiled = smelt.compile(f)
    w = X.clone().requires_grad_()
    compiled(X, w)
    compiled(X, w)
    w.register_hook(lambda g: seen.append(1) or g * 0)
    before = w.grad.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        compiled(X, w)
    assert seen == [1]
    close(w.grad, before)


def test_a_step_that_gives_its_loss_as_a_number_is_built_once():
    """The first call makes the optimiser's state, so that none is like it; the second knows that the loss is another one."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())

    @smelt.compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        return loss.item()
    losses = [step(torch.ones(4, 3)) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    used, first = compiled_function(step).programs
    assert not any(isinstance(e, Late) for e in used.executables.values())
    assert first.executables and not any("run" in vars(e) for e in first.executables.values())
    assert smelt.explain(step).compiled and len(step.recompilations) == 1
