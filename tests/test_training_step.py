"""Backward passes, `.grad` and optimisers inside a compiled function, against an eager twin."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import smelt

STEPS = 5
X = torch.randn(STEPS, 6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (STEPS, 6), generator=torch.Generator().manual_seed(2))
pytestmark = pytest.mark.usefixtures("no_warning")


def classifier():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def same_tensor(a, b):
    assert (a is None) == (b is None)
    if b is None:
        return
    assert_close(a, b, equal_nan=True)
    assert (a.stride(), a.requires_grad, a.is_leaf) == (b.stride(), b.requires_grad, b.is_leaf)


def same_state(a, b):
    """Equal structures of numbers and tensors, as a state_dict is."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same_state(x, y)
    elif isinstance(a, torch.Tensor):
        assert_close(a, b, equal_nan=True)
    else:
        assert a == b


def same_module(a, b):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        same_tensor(p, q)
        same_tensor(p.grad, q.grad)
    for p, q in zip(a.buffers(), b.buffers(), strict=True):
        same_tensor(p, q)


def agree(make, module=classifier, steps=STEPS, compiled=True, programs=2):
    """`make(module)` gives (step, optimizer or None); on twins, eager and compiled, it does the same on every call.

    compiled: whether the last call ran a program; programs: at most so many."""
    eager_module = module()
    our_module = copy.deepcopy(eager_module)
    eager, eager_optimizer = make(eager_module)
    ours, optimizer = make(our_module)
    ours = smelt.compile(ours)
    for k in range(steps):
        torch.manual_seed(k)
        expected = eager(X[k % STEPS], Y[k % STEPS])
        torch.manual_seed(k)
        found = ours(X[k % STEPS], Y[k % STEPS])
        for a, b in zip(found, expected) if isinstance(expected, (list, tuple)) else [(found, expected)]:
            same_tensor(a, b)
        same_module(our_module, eager_module)
        if optimizer is not None:
            same_state(optimizer.state_dict(), eager_optimizer.state_dict())
    explained = smelt.explain(ours)
    assert explained.compiled == compiled, explained
    assert len(ours.programs) <= programs, ours.recompilations
    return ours


def step_of(net, make_optimizer=lambda p: torch.optim.SGD(p, lr=0.1), zero="first", loss=F.cross_entropy):
    optimizer = make_optimizer(net.parameters())

    def step(x, y):
        if zero == "first":
            optimizer.zero_grad()
        value = loss(net(x), y)
        if zero == "before backward":
            optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if zero == "last":
            optimizer.zero_grad()
        return value
    return step, optimizer


# Whole steps

@pytest.mark.parametrize("zero", ["first", "before backward", "last", "never"])
def test_zero_grad_anywhere(zero):
    agree(lambda net: step_of(net, zero=zero))


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("foreach", [False, True])
def test_zero_grad_to_zero(to_none, foreach):
    def make(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=foreach)

        def step(x, y):
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss
        return step, optimizer
    agree(make)


@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.5, "maximize": True}, {"momentum": 0.9, "foreach": True}], ids=str)
def test_sgd(options):
    agree(lambda net: step_of(net, lambda p: torch.optim.SGD(p, lr=0.1, **options)))


def test_one_call_of_c(of_c):
    step = agree(lambda net: step_of(net, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)))
    text = str(smelt.explain(step))
    assert "0 calls of torch" in text and "_backward." not in text


def test_a_program_is_checked_against_torchs_gradients(monkeypatch):
    """A wrong gradient rule is found by the check of the first run."""
    from smelt.compiler.op import OPS
    rule = OPS["relu"].gradient
    object.__setattr__(OPS["relu"], "gradient", lambda b, v, g: (b.mul(rule(b, v, g)[0], 1.5),))
    try:
        net = classifier()
        step = smelt.compile(step_of(net)[0])
        step(X[0], Y[0])
        step(X[0], Y[0])
        with pytest.warns(smelt.SmeltWarning, match="should be"):
            step(X[0], Y[0])
    finally:
        object.__setattr__(OPS["relu"], "gradient", rule)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x.view(-1, 1, 2, 4).repeat(1, 1, 2, 1))))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    """A transformer's block with dropout."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.norm, self.fc, self.out = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.position = nn.Parameter(torch.randn(6, 8))

    def forward(self, x):
        x = (x + self.position).unsqueeze(0)
        h = self.norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return self.out(F.dropout(F.gelu(self.fc(x)), 0.3, self.training) + x).squeeze(0)


@pytest.mark.parametrize("module", [Convolutional, Block])
def test_models(module):
    agree(lambda net: step_of(net, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)), module)


def test_accumulation_over_micro_batches():
    def make(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            losses = []
            for part, target in zip(x.chunk(3), y.chunk(3)):
                loss = F.cross_entropy(net(part), target) / 3
                loss.backward()
                losses.append(loss.detach())
            optimizer.step()
            return losses
        return step, optimizer
    agree(make)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("clip", [lambda p, f: nn.utils.clip_grad_norm_(p, 0.1, foreach=f),
                                  lambda p, f: nn.utils.clip_grad_value_(p, 0.01, foreach=f)], ids=["norm", "value"])
def test_clipping(clip, foreach):
    def make(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            norm = clip(net.parameters(), foreach)
            optimizer.step()
            return loss if norm is None else (loss, norm)
        return step, optimizer
    agree(make)


def test_scaled_losses():
    """The scaler makes its table of optimisers anew on every call, and reads whether a gradient overflowed."""
    def make(net):
        optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=256.0)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            return loss, norm
        return step, optimizer
    agree(make, programs=4)


def test_frozen_parameters():
    def frozen():
        net = classifier()
        net[0].requires_grad_(False)
        return net
    agree(lambda net: step_of(net), frozen)


def test_parameters_without_gradient():
    def make(net):
        optimizer = torch.optim.SGD([*net.parameters(), nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.5)

        def step(x, y):
            optimizer.zero_grad()
            loss = net[0](x).square().mean()  # the last layer has no part in it
            loss.backward()
            optimizer.step()
            return loss
        return step, optimizer
    agree(make)


def test_compiled_steps_between_eager_ones():
    eager_net = classifier()
    net = copy.deepcopy(eager_net)
    make = lambda n: step_of(n, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    (eager, eager_optimizer), (plain, optimizer) = make(eager_net), make(net)
    compiled = smelt.compile(plain)
    for k, step in enumerate([plain, compiled, plain, compiled, compiled, plain, compiled]):
        same_tensor(step(X[k % STEPS], Y[k % STEPS]), eager(X[k % STEPS], Y[k % STEPS]))
        same_module(net, eager_net)
        same_state(optimizer.state_dict(), eager_optimizer.state_dict())
    assert smelt.explain(compiled).compiled


# Backward alone

def test_gradients_accumulate_and_stay_the_same_tensors():
    def make(net):
        def step(x, y):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss
        return step, None
    agree(make)
    net = classifier()
    step = smelt.compile(make(net)[0])
    step(X[0], Y[0])
    before = [p.grad for p in net.parameters()]
    versions = [g._version for g in before]
    for k in range(1, 4):
        step(X[k], Y[k])
        assert all(p.grad is g for p, g in zip(net.parameters(), before))
        assert all(g._version > v for g, v in zip(before, versions))
        versions = [g._version for g in before]


def test_gradients_taken_away_between_calls():
    eager_net = classifier()
    net = copy.deepcopy(eager_net)
    step = smelt.compile(lambda x, y: F.cross_entropy(net(x), y).backward())
    for k in range(8):
        F.cross_entropy(eager_net(X[k % STEPS]), Y[k % STEPS]).backward()
        step(X[k % STEPS], Y[k % STEPS])
        same_module(net, eager_net)
        for module in (net, eager_net):
            if k % 2:
                module.zero_grad()
            with torch.no_grad():
                for p in module.parameters():
                    p.mul_(0.9)
    assert len(step.programs) == 2 and smelt.explain(step).compiled


def test_gradients_of_arguments():
    f = smelt.compile(lambda x: (x.exp() * 2).sum().backward())
    for _ in range(3):
        x = torch.randn(3, requires_grad=True)
        f(x)
        same_tensor(x.grad, (x.exp() * 2).detach())
    assert smelt.explain(f).compiled and len(f.programs) == 1


def same_calls(function, make_arguments, calls=4, compiled=True):
    """The function gives, and leaves in `.grad` of its arguments, what it does eagerly."""
    ours = smelt.compile(function)
    for k in range(calls):
        torch.manual_seed(k)
        arguments = make_arguments()
        twins = [a.detach().clone().requires_grad_(a.requires_grad) for a in arguments]
        expected, found = function(*twins), ours(*arguments)
        for a, b in zip(found, expected) if isinstance(expected, (list, tuple)) else [(found, expected)]:
            same_tensor(a, b)
        for a, b in zip(arguments, twins):
            same_tensor(a.grad, b.grad)
    assert smelt.explain(ours).compiled == compiled, smelt.explain(ours)
    return ours


def pair():
    return torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)


def twice(x, w):
    loss = (x * w).tanh().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return x.grad * 2


def two_losses(x, w):
    (x * w).sum().backward()
    (w * 3).exp().sum().backward()
    return w.grad


def with_gradient(x, w):
    y = (x * w).sin()
    y.backward(torch.full_like(y, 2.0))
    return y.detach()


def several_roots(x, w):
    torch.autograd.backward([(x * w).sum(), w.exp()], [None, torch.ones(4)])
    return x.sum().detach()


def chosen_inputs(x, w):
    (x * w).sum().backward(inputs=[w])
    return None


def plain_grad(x, w):
    loss = (x * w).exp().sum()
    gx, gw = torch.autograd.grad(loss, [x, w])
    return loss.detach(), gx, gw


def grad_of_intermediate(x, w):
    h = x * w
    y = h.tanh() * x
    return torch.autograd.grad(y.sum(), [h, w])


def unused(x, w):
    return torch.autograd.grad(x.square().sum(), [x, w], allow_unused=True)


def materialized(x, w):
    return torch.autograd.grad(x.square().sum(), [x, w], materialize_grads=True)


def grad_then_more(x, w):
    g, = torch.autograd.grad((x * w).square().sum(), w)
    return (g * 2 + w).detach()


def meta_step(x, w):
    """A step of gradient descent inside, and the loss after it: the first-order way."""
    g, = torch.autograd.grad((x * w).square().mean(), w)
    return (x * (w - 0.1 * g)).square().mean()


def penalty(x, w):
    g, = torch.autograd.grad((x * w).tanh().sum(), x, create_graph=True)
    loss = (x * w).sum() + g.square().sum()
    loss.backward()
    return loss.detach()


def hessian_vector(x, w):
    g, = torch.autograd.grad((x * w).tanh().sum(), w, create_graph=True)
    return torch.autograd.grad((g * w.detach()).sum(), [x, w])


def in_no_grad(x, w):
    loss = (x * w).sum()
    with torch.no_grad():
        loss.backward()
    return loss.detach()


def grad_set_and_read(x, w):
    x.grad = torch.ones_like(x)
    (x * w).sum().backward()
    return x.grad.clone()


def grad_deleted(x, w):
    (x * w).sum().backward()
    g = x.grad
    x.grad = None
    return g * 2


def grad_moved(x, w):
    (x * w).sum().backward()
    w.grad = None
    w.grad = x.grad[0]
    return x.grad


def expanded(x, w):
    return torch.autograd.grad(x.sum() + w.exp().sum(), [x, w])


def expanded_twice(x, w):
    return torch.autograd.grad(x.sum() * 2, x)


def leaf_written_between(x, w):
    (x * w).square().sum().backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
    w.grad = None
    (x * w).square().sum().backward()
    return w.grad.clone()


@pytest.mark.parametrize("function", [
    twice, two_losses, with_gradient, several_roots, chosen_inputs, plain_grad, grad_of_intermediate, unused, materialized,
    grad_then_more, meta_step, penalty, hessian_vector, in_no_grad, grad_set_and_read, grad_deleted, grad_moved, expanded,
    expanded_twice, leaf_written_between],
    ids=lambda f: f.__name__)
def test_functions(function):
    same_calls(function, pair)


def test_a_result_stays_differentiable_if_the_graph_is_kept():
    def kept(x, w):
        loss = (x * w).square().sum()
        loss.backward(retain_graph=True)
        return loss
    f = smelt.compile(kept)
    for k in range(4):
        x, w = pair()
        a, b = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
        kept(a, b).backward()
        f(x, w).backward()
        same_tensor(x.grad, a.grad)
        same_tensor(w.grad, b.grad)
    assert smelt.explain(f).compiled


def test_a_second_backward_raises_as_in_eager():
    def freed(x, w):
        loss = (x * w).square().sum()
        loss.backward()
        return loss
    f = smelt.compile(freed)
    for k in range(4):
        loss = f(*pair())
        assert loss.requires_grad and not loss.is_leaf
        with pytest.raises(RuntimeError, match="a second time"):
            loss.backward()
    assert smelt.explain(f).compiled


# Errors, and what stays eager and why

def raises_alike(function, make):
    ours = smelt.compile(function)
    for _ in range(3):
        with pytest.raises(Exception) as expected:
            function(*make())
        with pytest.raises(type(expected.value)):
            ours(*make())


@pytest.mark.parametrize("function", [
    lambda x, w: (x * w).backward(),
    lambda x, w: (x.detach() * 2).sum().backward(),
    lambda x, w: [(l := (x * w).square().sum()).backward(), l.backward()],
    lambda x, w: torch.autograd.grad((x * 2).sum(), w)], ids=["not a scalar", "no gradient", "freed", "unused"])
def test_errors(function):
    raises_alike(function, pair)


def eager_because(reason, function, make):
    ours = smelt.compile(function)
    with pytest.warns(smelt.SmeltWarning, match=reason):
        ours(make())
    assert not smelt.explain(ours).compiled
    with pytest.raises(smelt.Unsupported, match=reason):
        smelt.compile(function, fullgraph=True)(make())


def test_hooks():
    def hooked():
        x = torch.randn(3, requires_grad=True)
        x.register_hook(lambda g: g * 2)
        return x
    eager_because("hooks", lambda x: (x * x).sum().backward(), hooked)


def test_a_hook_added_later():
    x = torch.randn(3, requires_grad=True)
    f = smelt.compile(lambda x: (x * x).sum().backward())
    for _ in range(3):
        x.grad = None
        f(x)
        same_tensor(x.grad, 2 * x.detach())
    x.register_hook(lambda g: g * 2)
    x.grad = None
    with pytest.warns(smelt.SmeltWarning, match="hooks"):
        f(x)
    same_tensor(x.grad, 4 * x.detach())


def test_history_outside():
    eager_because("outside", lambda x: (x * x).sum().backward(), lambda: torch.randn(3, requires_grad=True) * 2)


def test_gradients_that_share_memory():
    """Both are views of one tensor: a write to one would show in the other."""
    eager_because("shares memory", lambda x: torch.autograd.grad(x[0].sum() + x[1].sum(), [*x]), lambda: pair())


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 3


def test_custom_function():
    def through(x, w):
        (Double.apply(x) * w).sum().backward()
        return x.grad * 1
    same_calls(through, pair)


def test_gradients_missing_on_some_calls():
    """An optimiser's step on its own, for whatever gradients there are."""
    parameters = [[nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))] for _ in range(2)]
    optimizers = [torch.optim.Adam(p) for p in parameters]
    steps = optimizers[0].step, smelt.compile(optimizers[1].step)
    for call in range(7):
        for params, step in zip(parameters, steps):
            params[0].grad = torch.full((3,), 0.5 + call)
            params[1].grad = None if call in (2, 4, 5) else torch.full((2,), 1.5 + call)
            step()
        for p, q in zip(*parameters):
            same_tensor(q, p)
        same_state(optimizers[1].state_dict(), optimizers[0].state_dict())
    assert smelt.explain(steps[1]).compiled


@pytest.mark.parametrize("make_optimizer", [
    lambda p: torch.optim.Adam(p, lr=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True), torch.optim.RMSprop,
    torch.optim.ASGD, torch.optim.NAdam], ids=["Adam", "AdamW", "RMSprop", "ASGD", "NAdam"])
def test_optimisers_with_counters(make_optimizer):
    agree(lambda net: step_of(net, make_optimizer), programs=3)


def test_a_scheduler_costs_no_recording():
    def make(net):
        step, optimizer = step_of(net, lambda p: torch.optim.AdamW(p, lr=0.1))
        return step, optimizer
    eager_net = classifier()
    net = copy.deepcopy(eager_net)
    (eager, eager_optimizer), (step, optimizer) = make(eager_net), make(net)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (eager_optimizer, optimizer)]
    compiled = smelt.compile(step)
    for k in range(10):
        same_tensor(compiled(X[k % STEPS], Y[k % STEPS]), eager(X[k % STEPS], Y[k % STEPS]))
        same_module(net, eager_net)
        for s in schedulers:
            s.step()
    assert len(compiled.programs) == 2 and smelt.explain(compiled).compiled


def test_state_loaded_half_way():
    eager_net = classifier()
    net = copy.deepcopy(eager_net)
    make = lambda n: step_of(n, lambda p: torch.optim.Adam(p, lr=0.1))
    (eager, eager_optimizer), (step, optimizer) = make(eager_net), make(net)
    compiled = smelt.compile(step)
    for k in range(8):
        if k == 3:
            saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        if k == 5:
            for module, o in ((net, optimizer), (eager_net, eager_optimizer)):
                module.load_state_dict(saved[0])
                o.load_state_dict(copy.deepcopy(saved[1]))
        same_tensor(compiled(X[k % STEPS], Y[k % STEPS]), eager(X[k % STEPS], Y[k % STEPS]))
        same_module(net, eager_net)
    assert smelt.explain(compiled).compiled
