"""Functions with a backward of their own, of tensors of changing sizes."""
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, leaf, outcome, program, tensor, whole
from .own_backward import Doubled, Parted, Reversed, Sparse, StraightThrough

#: Other rows, and other columns.
SIZES = ((4, 3), (4, 3), (5, 3), (6, 3), (1, 3), (6, 7), (2, 5), (0, 3), (9, 1))


def over(f, *more, sizes=SIZES):
    for n, m in sizes:
        x = leaf(n, m)
        y = outcome(f, x, *more)
        if isinstance(y, torch.Tensor) and y.requires_grad:
            yield outcome(backward, y), x.grad
        yield y


@program
def results_like_the_argument(compile):
    yield from over(compile(lambda x: StraightThrough.apply(x / 2) * x))


@program
def the_result_itself(compile):
    yield from over(compile(lambda x: Doubled.apply(x, 2.0)))


@program
def the_result_and_its_sizes(compile):
    def f(x):
        y = Sparse.apply(x * 2, False)
        return y, y.shape, y.size(0), len(y), y.numel(), y.stride(), y.dim(), y.is_leaf, y.requires_grad, y.view(-1)
    yield from over(compile(f))


@program(exact=False)
def sizes_of_the_result_used_in_python(compile):
    def f(x):
        y = StraightThrough.apply(x)
        b, c = y.shape
        return y.reshape(b * c).sum() / b + y.new_ones(c).sum() + torch.cat([y, torch.zeros(b, 2)], 1).sum()
    yield from over(compile(f))


@program
def arguments_shown_as_results(compile):
    """Also written to afterwards."""
    def f(x, view):
        h = x * 2
        r = Reversed.apply(h, 0.5, view)
        return (r * x + h).sum(0), Reversed.apply(x, 3.0, view)

    def written(x):
        h = x * 2
        r = Reversed.apply(h, 0.5)
        h.mul_(3)
        return r + h
    for view in (True, False):
        f_of = compile(lambda x: f(x, view)[0])
        yield from over(f_of)
        yield from over(compile(lambda x: f(x, view)[1]))
    yield from over(compile(written))


@program
def results_written_to(compile):
    def f(x):
        y = StraightThrough.apply(x * 2)
        y.add_(1)
        y[0] = 7
        return y.mul_(x)
    yield from over(compile(f))


@program
def results_in_lists_and_dicts(compile):
    def f(x):
        kept = {"y": StraightThrough.apply(x), "z": [Doubled.apply(x, k) for k in (1.0, 2.0)]}
        return torch.stack([kept["y"], *kept["z"]]).sum(0) + torch.cat(kept["z"], dim=1)[:, :x.shape[1]]
    yield from over(compile(f))


class Flattened(torch.autograd.Function):
    """Gives a result of fewer dimensions, the largest place of each row, and a column."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        flat, places = x.reshape(-1) * 2, x.sum(1).gt(0)
        ctx.mark_non_differentiable(places)
        return flat, places, x.new_ones(x.shape[0], 1)

    @staticmethod
    def backward(ctx, flat, places, column):
        return flat.view(ctx.shape) + column


@program
def results_of_other_shapes(compile):
    def f(x):
        flat, places, column = Flattened.apply(x * 1.5)
        return flat.view_as(x) * column + places[:, None]
    yield from over(compile(f))


class Head(torch.autograd.Function):
    """Gives the first rows, as many as it is told, or as there are columns."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.rest = len(x) - rows
        return x[:rows].clone()

    @staticmethod
    def backward(ctx, grad):
        return F.pad(grad, (0, 0, 0, ctx.rest)), None


@program
def sizes_that_are_those_of_the_argument_by_chance(compile):
    """The first time they change, there are as many rows as the function gives; later there are more."""
    f, g = compile(lambda x: Head.apply(x * 2, 3) + 1), compile(lambda x: Head.apply(x * 2, x.shape[1]) + 1)
    for function in (f, g):
        yield from over(function, sizes=((4, 2), (4, 2), (3, 2), (3, 2), (5, 2), (5, 2), (6, 2), (7, 3), (8, 3), (3, 3)))


class Asked(torch.autograd.Function):
    """Asks for sizes and for a value."""

    @staticmethod
    def forward(ctx, x):
        ctx.many = x.shape[0] > 4 and x.shape[1] % 2 == 1
        return x * (2 if ctx.many else 3) + (1 if x.numel() and x.max().item() > 2 else 0)

    @staticmethod
    def backward(ctx, grad):
        return grad * (5 if ctx.many else 7)


@program
def sizes_and_values_asked_for_inside(compile):
    yield from over(compile(lambda x: Asked.apply(x * 2) - x))


@program(exact=False)
def inside_a_training_step(compile):
    net = whole(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.5)

    @compile
    def step(x):
        optimizer.zero_grad()
        h = StraightThrough.apply(net[0](x) / 4)
        loss = (net[1](Reversed.apply(h, 0.5)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    for n in (4, 4, 4, 5, 6, 1, 9, 3):
        yield step(tensor(n, 3)), net, optimizer


@program(exact=False)
def inside_a_module_that_keeps_the_result(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last, self.seen = whole(nn.Linear(3, 3)), None, 0

        def forward(self, x):
            self.last = Doubled.apply(self.layer(x), 0.5)
            self.seen += self.last.shape[0]
            return F.relu(self.last).sum(1)
    net = Net()
    compiled = compile(net)
    for n in (4, 4, 5, 6, 1, 9, 3):
        x = leaf(n, 3)
        yield backward(compiled(x)), x.grad, net.last, net.seen, net.layer.weight.grad


@program
def first_with_gradients_then_without(compile):
    f = compile(lambda x: StraightThrough.apply(x * 2) + Doubled.apply(x, 2.0))
    for n, grad in ((4, True), (4, True), (5, True), (5, False), (6, False), (7, True), (3, False), (2, True)):
        x = tensor(n, 3).requires_grad_(grad)
        y = f(x)
        yield backward(y) if grad else y, x.grad


@program
def results_of_functions_given_to_functions(compile):
    def f(x):
        parts = Parted.apply(Doubled.apply(x, 2.0) + 1)
        return StraightThrough.apply(Doubled.apply(x, 3.0)) + (parts[2] if not isinstance(parts, torch.Tensor) else parts)
    yield from over(compile(f))


@program
def differentiated_inside(compile):
    def f(x):
        y = Doubled.apply(x * x, 2.0)
        g, = torch.autograd.grad(y.sum(), x)
        return g * x
    yield from over(compile(f))


@program
def compared_with_the_result(compile):
    """By other sizes that change, by tensors that are not of the run, and by identity."""
    bias = leaf(3)

    def f(x):
        y = StraightThrough.apply(x)
        same = y is x
        return torch.where(y > x, y, x + bias) * (torch.arange(y.shape[0])[:, None] < 3), same
    for n in (4, 4, 5, 6, 1, 3):
        y, same = compile(f)(leaf(n, 3))
        yield backward(y), same
    g = compile(f)
    for n in (4, 4, 5, 6, 1, 3):
        y, same = g(leaf(n, 3))
        yield backward(y), same, bias.grad


@program(exact=False)
def under_autocast(compile):
    layer = whole(nn.Linear(3, 4))

    @compile
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(StraightThrough.apply(layer.weight.sum() * x / 4)).float() * 2
    for n in (4, 4, 5, 6, 1, 3):
        x = leaf(n, 3)
        yield backward(f(x)), x.grad
