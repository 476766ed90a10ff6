"""Recurrent nets: what they are given, keep and are made of changes between calls."""
import torch
from torch import nn

from .harness import backward, leaf, outcome, program, tensor, whole


@program(exact=False)
def state_carried(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.h = nn.LSTM(2, 3), None

        def forward(self, x):
            y, self.h = self.rnn(x, self.h)
            self.h = tuple(t.detach() for t in self.h)
            return y
    net = whole(Net(), 0.1)
    f = compile(net)
    for n in (4, 4, 6, 3, 3):
        x = leaf(n, 2, 2)
        y = f(x)
        backward(y.square().sum())
        yield y, x.grad, net.h, [p.grad for p in net.parameters()]


@program(exact=False)
def odd_operands(compile):
    net = whole(nn.GRU(2, 3, 2), 0.1)

    @compile
    def f(x, h):
        return net(x, h)
    for k in range(4):
        h = torch.ones(1, 1, 3).expand(2, 4, 3) * (k + 1)
        x = leaf(4, 5, 2)
        y, last = f(x.transpose(0, 1), h[:, :, :])
        backward(y.sum() + last.square().sum())
        yield y, last, x.grad
    with torch.inference_mode():
        yield f(torch.ones(3, 2, 2), torch.zeros(2, 2, 3))
    with torch.no_grad():
        yield f(torch.ones(3, 2, 4)[..., ::2], torch.zeros(2, 2, 3))


@program(exact=False)
def modes_and_dtypes(compile):
    net = whole(nn.LSTM(2, 3, 2, dropout=0.5, batch_first=True), 0.1).eval()
    f = compile(net)
    x = torch.ones(2, 4, 2)
    yield f(x)
    yield f(x * 2)
    with torch.autocast("cpu", torch.bfloat16):
        yield outcome(f, x)
    net.double()
    yield f(x.double())
    yield outcome(f, x)
    net.float()
    yield f(x)
    yield outcome(f, torch.ones(2, 4, 3))
    yield outcome(f, torch.ones(2, 0, 2))
    yield f(torch.ones(4, 2))
    net.train()
    torch.manual_seed(1)
    yield f(x)
    yield f(x)


@program(exact=False)
def shared_and_repeated(compile):
    a, b = whole(nn.RNN(3, 3), 0.1), whole(nn.RNN(3, 3), 0.1)
    b.weight_hh_l0 = a.weight_hh_l0

    @compile
    def f(x):
        y, h = a(x)
        z, _ = b(y, h)
        w, g = a(z.flip(0), h)
        return w + y, g
    for n in (3, 5, 5, 4):
        x = leaf(n, 2, 3)
        w, g = f(x)
        backward(w.square().sum() + g.sum())
        yield w, g, x.grad, [p.grad for p in (*a.parameters(), *b.parameters())]


@program(exact=False)
def weights_changed(compile):
    net = whole(nn.GRU(2, 3), 0.1)
    f = compile(net)
    x = tensor(3, 2, 2)
    for k in range(5):
        yield f(x)
        if k == 0:
            with torch.no_grad():
                net.weight_hh_l0.mul_(2)
        elif k == 1:
            net.weight_hh_l0.data = torch.ones(9, 3) * 0.1
        elif k == 2:
            net.bias_hh_l0 = nn.Parameter(torch.ones(9))
        else:
            net.weight_ih_l0.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    y = f(x)[0]
    backward(y.sum())
    optimizer.step()
    yield f(x)


@program(exact=False)
def graph_kept(compile):
    net = whole(nn.LSTM(2, 3), 0.1)
    f = compile(net)
    x = leaf(4, 2, 2)
    for _ in range(3):
        y, (h, c) = f(x)
        y.sum().backward(retain_graph=True)
        yield x.grad.clone()
        c.sum().backward(retain_graph=True)
        yield x.grad.clone()
        (h * h).sum().backward()
        yield x.grad.clone()
        yield outcome(y.sum().backward)


@program(exact=False)
def weight_written_before_backward(compile):
    net = whole(nn.RNN(2, 3), 0.1)
    f = compile(net)
    for _ in range(3):
        x = leaf(4, 2, 2)
        y, h = f(x)
        with torch.no_grad():
            net.bias_hh_l0.add_(1)
        yield outcome(y.sum().backward)
        yield x.grad


@program(exact=False)
def nan_and_inf(compile):
    net = whole(nn.GRU(2, 3), 0.1)
    f = compile(net)
    for v in (1.0, float("nan"), float("inf"), 3e38, -1e30):
        x = torch.full((3, 2, 2), 1.0)
        x[1, 0, 0] = v
        yield f(x)
