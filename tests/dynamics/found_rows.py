"""Rows that an op finds in a tensor's values: masks, places, repeats; how many there are changes from call to call."""
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, leaf, outcome, program, tensor

#: How many rows are chosen, call after call: none, one and all of them, too.
COUNTS = (3, 5, 4, 6, 0, 1, 8, 2, 5, 0, 1, 7)


def signs(count, rows=8):
    """A column of which so many elements are above zero, in changing places."""
    column = -torch.ones(rows)
    column[torch.arange(count) * 3 % rows] = 1
    return column


def rows(count, *shape, rows=8):
    return tensor(rows, *shape) * signs(count, rows).reshape(rows, *[1] * len(shape))


@program
def rows_above_zero(compile):
    f = compile(lambda x, c: x[c > 0] * 2)
    for n in COUNTS:
        yield f(tensor(8, 3), signs(n))


@program
def elements_above_zero(compile):
    @compile
    def f(x):
        return x[x > 0].sum(), torch.masked_select(x, x < 0), (x > 0).nonzero(), x[x > 0]
    for n in COUNTS:
        yield f(rows(n, 3) - 0.5)


@program
def columns_and_parts(compile):
    @compile
    def f(x, c):
        m = c > 0
        return x[:, m], x[m, 0], x[m][:, :2].t(), x[m, :, None], x[..., m] + 1, x[m].reshape(-1)
    for n in COUNTS:
        yield f(tensor(8, 8), signs(n))


@program(exact=False)
def losses_of_some_rows(compile):
    net = nn.Linear(4, 3)
    f = compile(lambda x, t: F.cross_entropy(net(x)[t != -100], t[t != -100]))
    for n in COUNTS:
        x, t = tensor(8, 4), torch.where(signs(n) > 0, torch.arange(8) % 3, -100)
        loss = f(x, t)
        yield loss
        yield backward(loss), net.weight.grad


@program(exact=False)
def gradients_of_rows(compile):
    @compile
    def f(x, c):
        chosen = x[c > 0]
        return chosen.square(), chosen.sum(0), chosen
    for n in COUNTS:
        x = leaf(8, 3)
        results = f(x, signs(n))
        yield results
        yield outcome(backward, results), x.grad


@program(exact=False)
def mixture_of_experts(compile):
    gate = nn.Linear(4, 3)
    experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(3))

    @compile
    def f(x):
        weights, chosen = gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(experts):
            row, place = torch.where(chosen == k)
            if len(row):
                out.index_add_(0, row, expert(x[row]) * weights[row, place, None])
        return out
    for k, n in enumerate((12, 12, 12, 9, 15, 12, 2, 30)):
        torch.manual_seed(k)
        x = torch.randn(n, 4, requires_grad=True)
        out = f(x)
        yield out
        yield backward(out), x.grad, [p.grad for p in experts.parameters()]


@program(exact=False)
def training_on_the_rows_that_count(compile):
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    @compile
    def step(x, c):
        optimizer.zero_grad()
        kept = net(x)[c > 0]
        loss = kept.square().sum() / max(kept.shape[0], 1)
        loss.backward()
        optimizer.step()
        return loss, kept.shape[0]
    for n in COUNTS:
        yield step(tensor(8, 4), signs(n)), list(net.parameters())


@program
def counts_in_python(compile):
    @compile
    def f(x, c):
        chosen = (c > 0).nonzero().squeeze(1)
        if len(chosen) == 0:
            return x.sum(), 0
        if chosen.shape[0] > 4:
            return x[chosen] * chosen.numel(), len(chosen)
        return x[chosen] / len(chosen), len(chosen) * 2.5
    for n in COUNTS:
        yield f(tensor(8, 3), signs(n))


@program
def as_many_turns_as_rows(compile):
    @compile
    def f(x, c):
        total = x.sum(0)
        for k in range(x[c > 0].shape[0]):
            total = total * 2 + k
        return total
    for n in (3, 4, 3, 2, 0, 1, 4):
        yield f(tensor(8, 3), signs(n))


@program
def rows_written(compile):
    @compile
    def f(x, c, y):
        m = c > 0
        z = x * 1
        z[m] = y[m] * 2
        x[m] = 7
        part = y[m]
        part += 1
        part[:, 0] = 0
        return z, part, x
    for n in COUNTS:
        yield f(tensor(8, 3), signs(n), tensor(8, 3))


@program
def rows_of_rows(compile):
    @compile
    def f(x, c):
        first = x[c > 0]
        return first[first[:, 0] > 1.5], first[first.sum(1) > 4].sum()
    for n in COUNTS:
        yield f(tensor(8, 3), signs(n))


@program
def batches_that_change_too(compile):
    @compile
    def f(x, c):
        kept = x[c > 0]
        return torch.cat([kept, x]), kept @ x.t(), kept.new_ones(kept.shape[0], x.shape[0])
    for n, size in zip((3, 5, 4, 6, 0, 1, 8, 2), (8, 8, 9, 10, 9, 8, 8, 12)):
        yield f(tensor(size, 3), signs(n, size))


@program
def as_many_as_the_rows_that_are_there(compile):
    f = compile(lambda x, c, y: x[c > 0] + y)
    for n, size in ((3, 3), (4, 4), (5, 5), (4, 1), (5, 1), (6, 6), (6, 5), (1, 1), (1, 4)):
        yield outcome(f, tensor(8, 3), signs(n), tensor(size, 3))


@program
def masks_that_do_not_fit(compile):
    f = compile(lambda x, m: x[m] + 1)
    for size in (8, 8, 7, 9, 8, 7):
        yield outcome(f, tensor(8, 3), signs(3, size) > 0)


@program
def repeats_and_counts(compile):
    @compile
    def f(x, times):
        return torch.repeat_interleave(x, times, 0) * 2, torch.bincount(times), torch.bincount(times, minlength=4) + 1
    for times in ([1, 2, 3], [2, 2, 2], [0, 1, 4], [0, 0, 0], [1, 0, 0], [5, 1, 3]):
        yield f(tensor(3, 2), torch.tensor(times))


@program
def different_elements(compile):
    @compile
    def f(x):
        values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
        return values * 2, inverse, counts, torch.unique_consecutive(x)
    for numbers in ([1, 2, 3], [1, 1, 2], [5, 5, 5], [3, 2, 1], [1, 2, 1]):
        yield f(torch.tensor(numbers))


@program(exact=False)
def rows_of_two_masks(compile):
    @compile
    def f(x, a, b):
        left, right = x[a > 0], x[b > 0]
        return left @ right.t(), torch.cdist(left, right), torch.cat([left, right]), left.sum() - right.sum()
    for n, m in zip(COUNTS, (3, 4, 4, 2, 6, 1, 8, 0, 5, 0, 7, 1)):
        yield f(tensor(8, 3), signs(n), signs(m))


@program(exact=False)
def rows_normalized(compile):
    norm = nn.BatchNorm1d(3)

    @compile
    def f(x, c):
        return norm(x[c > 0])
    for n in (3, 5, 4, 6, 1, 0, 8):
        yield outcome(f, tensor(8, 3), signs(n)), norm.running_mean


@program
def rows_kept_in_state(compile):
    kept = []

    @compile
    def f(x, c):
        kept.append(x[c > 0])
        return len(kept[-1])
    for n in (3, 5, 4, 0, 1, 6):
        yield f(tensor(8, 3), signs(n)), kept
