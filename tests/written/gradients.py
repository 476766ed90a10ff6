"""State with gradients, and parameters that take each other's place."""
import torch
from torch import nn

from .harness import Box, case


@case(programs=2)
def gradient_through_time(compile):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.h = nn.Parameter(torch.full((3,), 0.5)), None

        def forward(self, x):
            h = x if self.h is None else self.h
            self.h = torch.tanh(h * self.w + x)
            return self.h
    net = Cell()
    f = compile(net)

    def call(x):
        net.w.grad = None
        y = f(x)
        y.sum().backward(retain_graph=True)
        return y
    return call, lambda: vars(net)


@case(programs=2)
def truncated_gradient(compile):
    w, box = nn.Parameter(torch.full((3,), 0.5)), Box(h=None)

    def f(x):
        h = x if box.h is None else box.h.detach()
        box.h = torch.tanh(h * w + x)
        return box.h.sum()
    g = compile(f)

    def call(x):
        loss = g(x)
        loss.backward()
        return loss
    return call, lambda: (w, box)


@case(programs=1)
def written_under_no_grad(compile):
    w, box = nn.Parameter(torch.ones(3)), Box(average=torch.zeros(3))

    def f(x):
        with torch.no_grad():
            box.average = box.average * 0.9 + w * 0.1
            box.average.add_(0.5)
        return (x * w).sum()
    return compile(f), lambda: (w, box)


def linear(k=0):
    net = nn.Linear(3, 3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.arange(p.numel()).reshape(p.shape) % 5 - k)
    return net


@case()
def called_with_other_parameters(compile):
    net, other = linear(), linear(2)
    f = compile(lambda x: torch.func.functional_call(net, dict(other.named_parameters()), (x,)))
    return f, lambda: net


@case(programs=2)
def called_with_other_parameters_when_its_own_are_replaced(compile):
    net, weights = linear(), {"weight": torch.ones(3, 3)}
    f, biases = compile(lambda x: torch.func.functional_call(net, weights, (x,)) - net(x)), iter(range(9))

    def call(x):
        if next(biases) == 3:
            net.bias = nn.Parameter(torch.ones(3))
        return f(x)
    return call, lambda: net


@case()
def gradients_of_each_example(compile):
    net = linear()
    own = {k: p.detach() for k, p in net.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(net, weights, (x,)).square().sum()
    f = compile(lambda x: torch.func.vmap(torch.func.grad(loss), (None, 0))(own, torch.stack([x, x * 2])))
    return f, lambda: (net, own)


@case(programs=2)
def an_ensemble_is_trained(compile):
    weights, buffers = torch.func.stack_module_state([linear(k) for k in range(3)])
    body = linear().to("meta")
    optimizer = torch.optim.SGD(weights.values(), lr=0.125)

    @compile
    def f(x):
        optimizer.zero_grad()
        several = torch.func.vmap(lambda w, b: torch.func.functional_call(body, (w, b), (x,)))(weights, buffers)
        several.sum().backward()
        optimizer.step()
        return several.detach()
    return f, lambda: list(weights.values())


@case()
def a_parameter_is_put_in_a_modules_table_after_it_is_read(compile):
    net, kept = linear(), nn.Parameter(torch.ones(3, 3))
    net.weight = kept

    def f(x):
        y = net(x)
        net._parameters["weight"] = kept
        return y
    return compile(f), lambda: net
