"""How often results were written to, as their version counters tell."""
import torch
from torch.nn import functional as F

from .harness import leaf, outcome, program, tensor


def counted(results):
    """(result, its version) of each."""
    return [(t, t._version) for t in results]


@program
def results_written_to(compile):
    @compile
    def f(x):
        y, z = x * 2, torch.zeros(x.shape)
        y.add_(1).mul_(3)
        z[0] = y[0]
        z[1].sub_(x[0])
        return y, y + 1, z, z[0], z.t(), F.relu(x - 1, inplace=True), torch.add(x, 1, out=torch.empty(x.shape))
    for n in (3, 3, 4, 5, 2):
        yield counted(f(tensor(n, 4)))


@program
def results_written_to_under_gradient(compile):
    @compile
    def f(x):
        y = x * 2
        y += 1
        flat = y.view(-1)
        flat.mul_(0.5)
        return y, y * y, flat, (x * 3).clamp_(min=0)
    for n in (3, 3, 4, 5):
        x = leaf(n, 4)
        results = f(x)
        yield counted(results)
        yield outcome(lambda: sum(r.sum() for r in results).backward()), x


@program
def results_written_to_after_a_gradient_needs_them(compile):
    @compile
    def f(x):
        y = x.exp()
        y += 1
        return y
    for n in (3, 3, 4):
        result = f(leaf(n))
        yield result._version, outcome(result.sum().backward)


@program
def results_written_to_on_one_path(compile):
    @compile
    def f(x):
        y = x * 2
        if y.sum() > 0:
            y.mul_(2).add_(1)
        else:
            y.neg_()
        return y, x.relu_()
    for sign in (1, -1, 1, -1, 1, -1):
        yield counted(f(tensor(3, 4) * sign))


@program
def results_drawn(compile):
    @compile
    def f(x):
        return torch.randn(x.shape), torch.empty(x.shape).normal_(), torch.rand_like(x).mul_(2), F.dropout(x, 0.5)
    for n in (3, 3, 4, 5):
        torch.manual_seed(n)
        yield counted(f(tensor(n, 4)))


@program
def state_written_to(compile):
    kept = {}

    @compile
    def f(x):
        kept["last"] = x.sin().mul_(2)
        return kept["last"].sum()
    for n in (3, 3, 4, 5):
        yield f(tensor(n)), kept["last"]._version


@program
def of_what_is_turned_round_before_an_error(compile):
    """Which is no write to its elements, but counts as one: no run is made again after it."""
    @compile
    def f(x, k):
        x.view(2, -1).t_()
        if k >= 0:
            raise ValueError(k)
        return x * k
    for k in (-1, -2, 1, 2, -3):
        x = tensor(6)
        yield outcome(f, x, k), x._version
