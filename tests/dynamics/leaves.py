"""Leaves of the graph of gradients: what requires a gradient, also for a while, and parameters that a run makes."""
import torch
from torch import nn

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4)


@program
def partial_requirements(compile):
    f = compile(lambda a, b, c: (a * b, b + c, c * 2))
    for flags in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1), (1, 1, 1)):
        inputs = [tensor(4).requires_grad_(bool(flag)) for flag in flags]
        results = f(*inputs)
        live = [r for r in results if r.requires_grad]
        if live:
            torch.autograd.backward(live, [tensor(4)] * len(live))
        yield results, inputs


@program
def requirement_toggled_inside(compile):
    @compile
    def f(x):
        y = (x * 2).detach().requires_grad_()
        return y * 3, y
    for _ in range(4):
        z, y = f(X)
        yield backward(z), y


def parameter_made(use):
    """A program whose function makes parameters."""
    def body(compile):
        f = compile(use)
        for k in range(5):
            torch.manual_seed(0)
            x = (tensor(4) + k % 2).requires_grad_(k > 2)
            y = outcome(f, x)
            if isinstance(y, torch.Tensor) and y.requires_grad:
                yield outcome(backward, y)
            yield y, x
        for k in range(5, 8):
            torch.manual_seed(0)
            yield outcome(f, tensor(k))
    body.__name__ = f"parameter_made_{use.__name__}"
    body.__module__ = __name__
    return program(body, exact=False)


@parameter_made
def and_trained(x):
    w = nn.Parameter(torch.zeros(x.shape[0]))
    optimizer = torch.optim.Adam([w], lr=0.125)
    for _ in range(3):
        optimizer.zero_grad()
        (x.detach() * w - 1).pow(2).sum().backward()
        optimizer.step()
    return w.detach()


@parameter_made
def of_an_argument_and_written_to(x):
    w = nn.Parameter(x.detach())
    with torch.no_grad():
        w.mul_(2)
    (w * w).sum().backward()
    return w.grad * 1


@parameter_made
def of_what_is_read_again(x):
    h = x.detach() * 2
    w = nn.Parameter(h)
    (w * w).sum().backward()
    with torch.no_grad():
        w.sub_(w.grad)
    return h, w.grad.clone()


@parameter_made
def and_returned(x):
    return nn.Parameter(x.detach() * 2)


@parameter_made
def and_returned_with_a_result(x):
    w = nn.Parameter(torch.ones_like(x))
    return w * x


@parameter_made
def that_requires_no_gradient(x):
    return nn.Parameter(x.detach() * 2, requires_grad=False) * x


@parameter_made
def in_a_module(x):
    net = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    for _ in range(2):
        optimizer.zero_grad()
        net(x[:4].detach()).sum().backward()
        optimizer.step()
    return net(x[:4].detach()).detach() * x.detach()


@program
def parameter_made_for_a_module_from_outside(compile):
    net = nn.Linear(4, 2)

    @compile
    def f(x):
        net.weight = nn.Parameter(x.reshape(2, 2).repeat(1, 2))
        return net.weight.detach() * 2
    for k in range(3):
        yield f(tensor(4) + k), net.weight


@program(exact=False)
def leaf_made_inside(compile):
    """Steps uphill, as in adversarial training."""
    w = leaf(4)

    @compile
    def f(x):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(2):
            slope, = torch.autograd.grad((torch.sin(x + delta) * w).sum(), delta)
            with torch.no_grad():
                delta.add_(slope.sign() / 8)
        return ((x + delta.detach()) * w).sum()
    for k in range(4):
        f(tensor(4) + k).backward()
        yield w


@program
def leaf_with_a_gradient_of_its_own(compile):
    @compile
    def f(x):
        other = x.detach().clone().requires_grad_()
        (other * other * x).sum().backward()
        return other.grad * 2
    for _ in range(4):
        x = leaf(4)
        yield f(x), x


@program
def cut_in_place(compile):
    @compile
    def f(x):
        h = x * 2
        h.detach_()
        return x + h * x
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def requirement_of_an_argument_toggled_inside(compile):
    @compile
    def f(x):
        x.requires_grad_()
        return x * 2
    for _ in range(4):
        x = tensor(4)
        yield backward(f(x))


@program
def requirement_read_in_python(compile):
    f = compile(lambda x: x * 2 if x.requires_grad else x + 1)
    for x in (leaf(4), leaf(4), X, X, leaf(4)):
        yield f(x)
    with torch.no_grad():
        yield from calls(f, leaf(4))
        yield from calls(f, X)


@program
def leaves_asked_for_in_python(compile):
    f = compile(lambda x: x * 2 if x.is_leaf else x + 1)
    for x in (leaf(4), leaf(4), leaf(4) * 2, leaf(4) * 3, X, X, leaf(4), leaf(5) * 2, leaf(6), leaf(7), leaf(6) * 2):
        yield f(x)


@program
def nodes_of_leaves_asked_for_in_python(compile):
    f = compile(lambda x: x * 2 if x.grad_fn is None else x + 1)
    for x in (leaf(4), leaf(4), X, X, leaf(5), leaf(6), leaf(4) * 2, leaf(4)):
        yield f(x)


@program
def backward_inside_from_an_argument_that_is_no_leaf(compile):
    w = leaf(4)

    @compile
    def f(x):
        (x * w).sum().backward()
        return w.grad * 2
    for k in range(3):
        x = leaf(4)
        yield f(x), f(x * (k + 1)), x.grad


@program
def requirement_of_an_argument_that_is_no_leaf_toggled_inside(compile):
    seen = []

    @compile
    def f(x):
        seen.append(1)
        x.requires_grad_(False)
        return x * 2
    for x in (leaf(4), leaf(4), leaf(4), leaf(4) * 2):
        yield outcome(f, x), seen


@program(exact=False)
def frozen_layers(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 1)
    f = compile(net)
    for frozen in (False, False, True, True, False):
        net[0].requires_grad_(not frozen)
        net.zero_grad()
        yield backward(f(X))


@program
def views_of_leaves_made(compile):
    """A tensor that the run lets require grad, looked at through views only."""
    @compile
    def f(x):
        x = x.detach().clone().requires_grad_()
        for _ in range(2):
            step, = torch.autograd.grad((x.view(-1)[1:] ** 2).sum() + x[0].sum(), x)
            with torch.no_grad():
                x -= step
        return x.detach(), step
    yield from calls(f, tensor(2, 3))


@program
def views_of_leaves_written_before(compile):
    @compile
    def f(x):
        x = x.clone()[0].detach().requires_grad_()
        with torch.no_grad():
            x[1:] += 3
        x.data.mul_(2)
        first, second, last = x.unbind()
        (first * second * last).backward()
        return x.grad, x.detach()
    yield from calls(f, tensor(2, 3))


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def flagged(f):
    """Register a program: f of a network and of a tensor whose flag it sets, then a backward pass of what it gives."""
    def body(compile):
        net, compiled = network(), compile(f)
        for k in range(4):
            x = tensor(2, 3) + k
            results = compiled(net, x)
            yield results, x, list(net.parameters())
            for result in results if isinstance(results, tuple) else (results,):
                if result.requires_grad and not result.is_leaf:
                    result.sum().backward(retain_graph=True)
            yield x.grad, [p.grad for p in net.parameters()], outcome(lambda: net(x).sum().backward())
    body.__name__ = f.__name__
    program(body, exact=False)
    return f


@flagged
def an_argument_comes_to_require_grad(net, x):
    x.requires_grad = True
    loss = net(x).square().sum()
    net.zero_grad()
    loss.backward()
    return torch.clamp(x + 0.1 * x.grad.data.sign(), 0, 1)


@flagged
def a_gradient_of_an_argument_is_differentiated(net, x):
    g, = torch.autograd.grad(net(x.requires_grad_()).square().sum(), x, create_graph=True)
    return g[:, :2]


@flagged
def an_argument_requires_grad_for_a_while(net, x):
    x.requires_grad_()
    g, = torch.autograd.grad(net(x).square().sum(), x)
    x.requires_grad_(False)
    return net(x) + g.sum()


@flagged
def an_argument_is_used_before_it_requires_grad(net, x):
    y, first = x * 2, x.detach()[0]
    x.requires_grad_()
    return (net(x) * y[:, :2]).sum() + first.sum()


@flagged
def what_used_an_argument_flows_past_it(net, x):
    y = net(x)
    x.requires_grad_()
    return (y[:, :1] * x).sum()


@flagged
def views_from_before_an_argument_requires_grad(net, x):
    first = x[0]
    x.requires_grad_()
    return first, x[1]


@flagged
def an_argument_that_requires_grad_is_written_to(net, x):
    x.requires_grad_()
    for _ in range(2):
        net(x).square().sum().backward()
        with torch.no_grad():
            x -= 0.1 * x.grad
        x.grad.zero_()
    return x


@flagged
def an_argument_is_written_to_and_requires_grad(net, x):
    x.mul_(2).requires_grad_()
    return net(x).sum()


@flagged
def an_argument_is_written_to_while_it_requires_none(net, x):
    x.requires_grad_().requires_grad_(False)
    x.mul_(2)
    return net(x.requires_grad_()).sum()


@flagged
def an_argument_requires_grad_and_data_is_read(net, x):
    loss = net(x.requires_grad_()).sum()
    return loss if loss > 0 else loss * 2


@program(exact=False)
def gradients_without_a_gradient_are_constants(compile):
    net = network()

    @compile
    def f(x):
        g, = torch.autograd.grad(net(x).square().sum(), x)
        return net(x.detach()) + g.sum()
    for k in range(4):
        yield backward(f(leaf(2, 3))), [p.grad for p in net.parameters()]


@flagged
def parameters_are_frozen_for_a_while(net, x):
    for p in net.parameters():
        p.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    for p in net.parameters():
        p.requires_grad_(True)
    return (net(x) * leaf.grad[:, :2]).sum()


@flagged
def parameters_are_frozen(net, x):
    before = net(x).sum()
    net[0].requires_grad_(False)
    return before, net(x * 2).square().sum()


@program(exact=False)
def flags_of_parameters_change_between_calls(compile):
    net = network()

    @compile
    def f(x):
        with torch.no_grad():
            net[0].requires_grad_()
        return net(x).sum()
    for grad in (True, False, True, False, True):
        net.requires_grad_(grad)
        yield f(tensor(2, 3)), list(net.parameters())
        with torch.no_grad():
            net.requires_grad_(grad)
            yield f(tensor(2, 3)), list(net.parameters())


@program(exact=False)
def arguments_of_many_sizes_come_to_require_grad(compile):
    net = network()

    @compile
    def f(x):
        net(x.requires_grad_()).square().sum().backward()
        return x * x.grad
    for n in (2, 3, 4, 5, 6):
        x = tensor(n, 3)
        yield backward(f(x)), x, list(net.parameters())


@flagged
def a_leaf_made_is_returned(net, x):
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    return leaf, leaf.grad.sign()


@flagged
def a_leaf_made_is_returned_with_a_result(net, x):
    leaf = x.clone().requires_grad_()
    return leaf, (leaf * 2).sum()


@flagged
def a_leaf_made_is_returned_twice(net, x):
    leaf = x.clone().requires_grad_()
    return leaf, leaf.detach()


@flagged
def gradients_of_results_end_inside(net, x):
    leaf = x.clone().requires_grad_()
    g, = torch.autograd.grad(net(leaf).sum(), leaf)
    return leaf + g, (leaf * 2)[0], net(x).sum()


@program
def passes_through_results_whose_gradients_end_inside(compile):
    @compile
    def f(x):
        leaf = x.clone().requires_grad_()
        return (leaf * leaf).sum(), leaf + 1
    for _ in range(3):
        kept, free = f(tensor(3))
        yield [outcome(lambda: t.sum().backward()) for t in (kept, kept, free, free)]
        free.mul_(2)
        yield free


@program(exact=False)
def equations_are_learned_from_derivatives(compile):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters(), 0.125)

    @compile
    def step(x, t):
        x.requires_grad_(True)
        t.requires_grad_(True)
        u = net(torch.cat([x, t], 1))
        ones = torch.ones_like(u)
        u_x, = torch.autograd.grad(u, x, ones, create_graph=True)
        u_t, = torch.autograd.grad(u, t, ones, create_graph=True)
        u_xx, = torch.autograd.grad(u_x, x, ones, create_graph=True)
        loss = (u_t + u * u_x - 0.25 * u_xx).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    for k in range(5):
        x, t = tensor(6, 1) + k, tensor(6, 1) - k
        yield step(x, t), x.grad, t.grad, list(net.parameters())


@program(exact=False)
def arguments_require_grad_on_several_paths(compile):
    net = network()

    @compile
    def f(x, y):
        loss = net(x.requires_grad_()).sum() + torch.rand(())
        if y.sum() > 0:
            loss = loss * (y * 2).sum()
            if y[0, 0] > 4:
                y.requires_grad_()
                loss = loss * y.sum()
        elif y.sum() < -60:
            raise ValueError("too small")
        g, = torch.autograd.grad(loss, x, retain_graph=True)
        return loss, g
    for k in (1, -1, 1, -1, 8, 1, 8, -20, -1, -20, 1):
        x, y = tensor(2, 3) + k, torch.ones(2, 3) * k
        torch.manual_seed(k)
        found = outcome(lambda: f(x, y))
        yield found, x, y, torch.rand(())


@program(exact=False)
def an_argument_requires_grad_and_numbers_are_read(compile):
    net = network()

    @compile
    def f(x, scale):
        mean = x.mean().item()
        x.requires_grad_()
        loss = (net(x) * mean).sum()
        loss.backward(retain_graph=True)
        return loss * scale, x.grad.abs().max().item()
    for k in range(5):
        x = tensor(2, 3) + k
        loss, largest = f(x, 1.0 + k % 3)
        yield largest, x, x.grad, backward(loss), x.grad


@program(exact=False)
def parameters_made_anew_on_every_call(compile):
    """As codebooks that follow averages of what they are given."""
    class Codebook(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = whole(nn.Embedding(5, 4))
            self.register_buffer("size", torch.ones(5))
            self.average = nn.Parameter(tensor(5, 4) * 0.5)

        def forward(self, x):
            index = (x @ self.embedding.weight.t()).argmax(1)
            chosen = self.embedding(index)
            if self.training:
                hits = nn.functional.one_hot(index, 5).to(x.dtype)
                self.size = self.size * 0.5 + hits.sum(0) * 0.5
                self.average = nn.Parameter(self.average * 0.5 + hits.t() @ x * 0.5)
                self.embedding.weight = nn.Parameter(self.average / (self.size.unsqueeze(1) + 1))
            return x + (chosen - x).detach(), (chosen.detach() - x).square().mean()
    net = Codebook()
    f = compile(net)
    for n in (3, 3, 4, 3, 5):
        x = leaf(n, 4)
        chosen, loss = f(x * n)
        loss.backward()
        yield chosen, loss, x.grad
    net.eval()
    yield from calls(f, tensor(3, 4))
    net.train()
    yield from calls(f, tensor(3, 4))


@program
def parameters_made_in_other_ways(compile):
    """Frozen ones, ones that are returned, used at once, and such as share memory."""
    net = nn.Module()
    net.register_parameter("w", nn.Parameter(tensor(4)))

    def frozen(x):
        net.w = nn.Parameter(net.w * 0.5 + x, requires_grad=False)
        return net.w * 2

    def returned(x):
        return nn.Parameter(x * 2), nn.Parameter(x[1:] + 1, requires_grad=False)

    def used(x):
        w = nn.Parameter(x * 2)
        net.w = w
        return (w * x).detach()

    def differentiated(x):
        w = nn.Parameter(x * 2)
        return w, w * x

    def shared(x):
        y = x * 2
        net.w = nn.Parameter(y)
        return y

    def twice(x):
        y = x * 2
        return nn.Parameter(y), nn.Parameter(y)

    def of_an_argument(x):
        return nn.Parameter(x)

    def of_what_is_written_to(x):
        y = x * 2
        w = nn.Parameter(y)
        y.add_(1)
        return w

    def stepped(x):
        w = nn.Parameter(x * 2)
        with torch.enable_grad():
            (w * x).sum().backward()
        with torch.no_grad():
            w -= w.grad
        return w, w.grad
    for function in (frozen, returned, used, differentiated, shared, twice, of_an_argument, of_what_is_written_to,
                     stepped):
        f = compile(function)
        yield from calls(f, tensor(4))
        yield from calls(f, leaf(4))
        with torch.no_grad():
            yield from calls(f, leaf(4))


@program(exact=False)
def strides_of_gradients_that_torch_computes(compile):
    """Of calls of torch that smelt has no rule for: `.grad` is laid out as the parameter is."""
    spectral = nn.Parameter(tensor(4, 4, 3) + 1j * tensor(4, 4, 3))
    turned = nn.Parameter(tensor(5, 4).t())

    @compile
    def step(x, y):
        spectral.grad = turned.grad = None
        (torch.einsum("bix,iox->box", x, spectral).abs().sum() + (torch.linalg.pinv(turned) @ y).sum()).backward()
    for k in range(4):
        step(tensor(2, 4, 3) + 1j * k, tensor(4, 3) + k)
        yield spectral.grad, turned.grad
