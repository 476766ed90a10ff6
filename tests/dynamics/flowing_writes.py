"""Writes in place to arguments that carry a gradient: what is written has one, and autograd goes on from there."""
import torch
from torch import nn

from .harness import backward, leaf, outcome, program, tensor, whole


def on_activations(f, *shapes, times=4):
    """Calls on new tensors that were computed of leaves; then a pass back through the results and what the arguments hold."""
    for _ in range(times):
        leaves = [leaf(*shape) for shape in shapes]
        arguments = [x * 2 for x in leaves]
        results = outcome(f, *arguments)
        yield results, arguments
        ends = [*arguments, *(r for r in (results if isinstance(results, tuple) else (results,)) if isinstance(r, torch.Tensor))]
        yield outcome(backward, sum((n + 1) * t.sum() for n, t in enumerate(ends))), leaves


@program
def added_to(compile):
    yield from on_activations(compile(lambda x, w: x.add_(w)), (4, 3), (4, 3))


@program
def multiplied_by(compile):
    """The old value is kept for the other factor's gradient."""
    yield from on_activations(compile(lambda x, w: (x.mul_(w) + 1, x)), (4, 3), (4, 3))


@program
def nothing_returned(compile):
    def f(x, w):
        x.mul_(w).add_(1)
    yield from on_activations(compile(f), (4, 3), (3,))


@program
def through_views(compile):
    def f(x, w):
        x[0].mul_(w)
        x.t()[1].add_(3)
        return x[1:], x.t()
    yield from on_activations(compile(f), (4, 4), (4,))


@program
def columns_of_something_larger(compile):
    """What a backward pass keeps of them lies as they do, with gaps."""
    def f(x, w):
        x.relu_()
        return x * w + (x @ x.t()).sum()
    f = compile(f)
    for k in range(4):
        w = leaf(4, 3)
        x = (tensor(4, 3, 2) - k)[..., k % 2]
        yield backward(f(x, w)), x, w
    for k in range(4):
        w, base = leaf(4, 3), leaf(4, 3)
        x = torch.empty_strided((4, 3), (6, 2)).copy_(base)
        yield backward(f(x, w)), x, w, base


@program
def a_block_that_begins_in_place(compile):
    net = whole(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True)))
    f = compile(net)
    for _ in range(4):
        x = leaf(3, 4)
        y = x * 2
        yield backward(f(y)), y, x, list(net.parameters())


@program
def some_out_of_sight(compile):
    def f(x, w):
        x.add_(w)
        with torch.no_grad():
            x.mul_(2)
        before = x.detach()
        x.mul_(w)
        return before * 2, x * w
    yield from on_activations(compile(f), (4,), (4,))


@program
def what_autograd_kept_is_written_to(compile):
    """The pass back raises."""
    def f(x, w):
        y = x * w
        x.add_(1)
        return y
    yield from on_activations(compile(f), (4,), (4,))


@program
def what_a_write_kept_is_written_to(compile):
    def f(x, w):
        x.mul_(w)
        w.add_(1)
        return x + w
    yield from on_activations(compile(f), (4,), (4,))


@program
def one_tensor_twice(compile):
    f = compile(lambda x, w: x.mul_(2) + w)
    for _ in range(4):
        x = leaf(4)
        y = x * 3
        yield backward(f(y, y)), y, x


@program
def on_one_path(compile):
    def f(x, w):
        x.mul_(w)
        return x * 2 if x.sum() > 0 else x - w
    f = compile(f)
    for sign in (1, -1, 1, -1, 1, -1):
        a, b = leaf(4), leaf(4)
        x, w = a * 1, b * sign
        yield backward(f(x, w)), x, a, b


@program
def with_and_without_gradients(compile):
    f = compile(lambda x: x.mul_(3).relu_())
    for _ in range(3):
        a = leaf(4)
        x, plain = a * 1, tensor(4)
        yield backward(f(x)), a, f(plain), plain
        with torch.no_grad():
            yield f(a * 1)
        yield outcome(f, leaf(4))


@program
def sizes_that_change(compile):
    f = compile(lambda x: x.mul_(3).relu_() + 1)
    for n in (3, 4, 5, 3, 6):
        a = leaf(n, 2)
        x = a * 1
        yield backward(f(x)), x, a


@program
def differentiated_twice(compile):
    f = compile(lambda x, w: x.mul_(w) * x)
    for _ in range(3):
        a, b = leaf(4), leaf(4)
        g, = torch.autograd.grad(f(a * 1, b * 1).sum(), a, create_graph=True)
        yield g, torch.autograd.grad(g.sum(), (a, b))


@program
def version_counts(compile):
    f = compile(lambda x, w: x.add_(w).mul_(2).relu_())
    for _ in range(3):
        x, w = leaf(4) * 1, leaf(4) * 1
        before = x._version
        f(x, w)
        yield x._version - before, x.is_leaf, x.requires_grad


@program
def uncounted_after_counted_ones(compile):
    """What autograd keeps of a tensor is written to through .data, after writes that autograd counts."""
    def f(x, w):
        x[0], x[1] = x[1].clone(), x[0].clone()
        y = x * w
        x.data.add_(0.5)
        return y

    def g(x, w):
        x.detach().mul_(2)
        y = x * w
        return y + x
    f, g = compile(f), compile(g)
    for _ in range(3):
        for h in (f, g):
            x, w = tensor(4, 3), leaf(4, 3)
            yield backward(h(x, w)), x, w
