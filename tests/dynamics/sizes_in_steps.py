"""Changing sizes in whole steps: they write state, leave gradients, differentiate inside and read data."""
import torch
from torch import nn
from torch.nn import functional as F

from .harness import leaf, outcome, program, tensor

STEPS = (4, 4, 4, 6, 6, 3, 9, 1, 5)


def stepping(compile, make, sizes=STEPS):
    """A step on a small net, made by `make(net, state)`, with a batch of another size each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
    state = {"n": 0, "log": [], "best": None, "seen": set(), "last": (0, None)}
    step = compile(make(net, state))
    for n in sizes:
        yield step(tensor(n, 3), torch.arange(n) % 3), [p.grad for p in net.parameters()]


def training(optimizer, more=lambda net, state, loss, x: loss.detach(), before=lambda net, loss: None):
    def make(net, state):
        made = optimizer(net.parameters())

        def step(x, y):
            made.zero_grad()
            loss = F.cross_entropy(net(x), y)
            before(net, loss)
            loss.backward()
            made.step()
            return more(net, state, loss, x)
        return step
    return make


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


@program(exact=False)
def steps_with_sgd(compile):
    yield from stepping(compile, training(sgd))


@program(exact=False)
def steps_with_adam(compile):
    yield from stepping(compile, training(lambda p: torch.optim.Adam(p, 1e-2)))


@program(exact=False)
def steps_with_clipping_and_a_scheduler(compile):
    def make(net, state):
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        def step(x, y):
            optimizer.zero_grad(set_to_none=False)
            F.cross_entropy(net(x), y).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            return norm, scheduler.get_last_lr()
        return step
    yield from stepping(compile, make)


@program(exact=False)
def steps_that_write_state(compile):
    def after(net, state, loss, x):
        state["n"] += 1
        state["log"].append(loss.detach())
        state["last"] = state["n"], loss.detach()
        state["seen"].add("a step")
        if state["best"] is None:
            state["best"] = torch.zeros(())
        state["best"] = torch.maximum(state["best"], loss.detach())
        return loss.detach()
    yield from stepping(compile, training(sgd, after))


@program(exact=False)
def steps_that_read_their_loss(compile):
    def after(net, state, loss, x):
        state["n"] += x.shape[0]
        return loss.item(), loss.item() * x.shape[0]
    yield from stepping(compile, training(sgd, after))


@program(exact=False)
def steps_that_look_before_they_go_back(compile):
    def before(net, loss):
        if loss.item() > 100:
            raise ValueError("diverged")
    yield from stepping(compile, training(sgd, before=before))


@program(exact=False)
def steps_that_branch_on_their_gradients(compile):
    def after(net, state, loss, x):
        if net[0].weight.grad.norm() > 0.3:
            state["n"] += 1
            return loss.detach() * 2
        return loss.detach()
    yield from stepping(compile, training(sgd, after), sizes=(*STEPS, 4, 6, 8, 2))


@program(exact=False)
def steps_that_list_predictions(compile):
    yield from stepping(compile, training(sgd, lambda net, state, loss, x: net(x).mean(0).tolist()))


@program(exact=False)
def gradients_accumulated(compile):
    def make(net, state):
        def step(x, y):
            F.cross_entropy(net(x), y).backward()
            state["n"] += 1
            return net[0].weight.grad.sum()
        return step
    yield from stepping(compile, make)


@program(exact=False)
def gradients_of_parameters_asked_for(compile):
    def make(net, state):
        def step(x, y):
            grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), grads):
                    p -= 0.1 * g
            return grads[0]
        return step
    yield from stepping(compile, make)


@program(exact=False)
def gradients_of_inputs(compile):
    @compile
    def f(x, w):
        x = x.detach().requires_grad_()
        (torch.tanh(x) * w).sum().backward()
        return x.grad, w.grad
    w = leaf(3)
    for n in STEPS:
        yield f(tensor(n, 3), w), w


@program(exact=False)
def gradients_left_on_arguments(compile):
    @compile
    def f(x, w):
        (torch.tanh(x) * w).sum().backward()
        return x.grad * 2
    w = leaf(3)
    for n in STEPS:
        x = leaf(n, 3)
        yield outcome(f, x, w), x, w


@program(exact=False)
def running_statistics_of_steps(compile):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
    optimizer = torch.optim.RMSprop(net.parameters(), 1e-3)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    for n in (4, 4, 4, 6, 3, 9, 5):
        yield step(tensor(n, 3)), net.state_dict()


@program
def counters_of_calls(compile):
    class Counted:
        total = 0

        def __init__(self):
            self.calls, self.log, self.mean = 0, [], torch.zeros(3)

        def __call__(self, x):
            self.calls += 1
            self.log.append(x.shape[0])
            self.mean = self.mean * 0.5 + x.mean(0) * 0.5
            return x * self.calls + self.mean
    counted = Counted()
    f = compile(counted)
    for n in STEPS:
        yield f(tensor(n, 3)), counted


@program
def state_of_a_closure(compile):
    def make():
        total, kept = torch.zeros(3), {}

        def f(x):
            nonlocal total
            total = total + x.sum(0)
            kept["x"] = total * 2
            kept.setdefault("first", 1)
            return total, dict(kept)
        return f
    f = compile(make())
    for n in STEPS:
        yield f(tensor(n, 3)), f


@program
def state_after_an_exception(compile):
    kept = {"n": 0}

    @compile
    def f(x):
        kept["n"] += 1
        if x.shape[0] == 3:
            raise ValueError("three")
        return x * kept["n"]
    for n in STEPS:
        yield outcome(f, tensor(n, 3)), kept


@program(exact=False)
def moving_average_of_weights(compile):
    torch.manual_seed(0)
    net, slow = nn.Linear(3, 3), nn.Linear(3, 3)
    slow.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), x)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(slow.parameters(), net.parameters()):
                a.lerp_(b, 0.1)
        return loss
    for n in STEPS:
        yield step(tensor(n, 3)), net, slow
