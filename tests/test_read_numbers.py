"""Numbers that are read out of tensors, and go into arithmetic, results and state; sizes that depend on data."""
import math

import pytest
import torch

import smelt
from smelt.frontend.api import compiled_function

from .branching import DOWN, MIXED, UP, ZERO, check, outcome, twice
from .common import close

NUMBERS = {
    "scaled": (lambda x: x * x.sum().item(), 1),
    "returned": (lambda x: x.sum().item(), 1),
    "returned in a structure": (lambda x: {"loss": (s := x.mean().item()), "twice": [s * 2, -s], "x": x + s / 3}, 1),
    "an int": (lambda x: x * (x > 0).sum().item() ** 2, 1),
    "two": (lambda x: (x - x.mean().item()) / (x.abs().max().item() + 1.5), 1),
    "one of another": (lambda x: x * (x * x.sum().item()).sum().item(), 1),
    "compared": (lambda x: x * s if (s := x.sum().item()) > 4 else (x - s).exp(), 2),
    "compared with another": (lambda x: x + a if (a := x.max().item()) > -(b := x.min().item()) else x * b, 2),
    "in a float64 tensor": (lambda x: x.double() * x.sum().item(), 1),
    "in an int tensor": (lambda x: x.long() + (x > 0).sum().item(), 1),
    "clamped": (lambda x: x.clamp(max=x.mean().item()), 1),
    "filled": (lambda x: torch.full_like(x, x.sum().item()) * 2, 1),
    "a tensor of it": (lambda x: x * torch.tensor(x.sum().item()), 4),
    "alpha": (lambda x: torch.add(x, x, alpha=x.mean().item()), 1),
    "in place": (lambda x: x.clone().mul_(x.detach().sum().item()), 1),
    "fixed": (lambda x: x * math.ceil(x.abs().sum().item()), 4),
    "formatted": (lambda x: (f"{x.sum().item():.2f}", x), 4),
    "maximum": (lambda x: x * max(x.sum().item(), 1.0), 2),
    "loop": (lambda x: [x * k for k in range((x > 0).sum().item())], 4),
    "index": (lambda x: x[(x > 0).sum().item() - 1], 4),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_read(name):
    """One path for the first number, and one for all others, or for each way that they compare."""
    function, paths = NUMBERS[name]
    values = [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [1.5, -0.5, 0.5], [0.25, 4.0, -1.0]
    compiled = check(function, [(torch.tensor(v),) for v in values], grads=False)
    assert smelt.explain(compiled).paths <= paths + 1


def test_a_number_and_gradients():
    def f(x, w):
        y = x * w
        return (y * y.sum().item()).sum() + w.norm()
    compiled = smelt.compile(f, fullgraph=True)
    for x in twice([UP, DOWN, MIXED]):
        args = x.clone().requires_grad_(), torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        close(outcome(compiled, args), outcome(f, args))
    assert smelt.explain(compiled).paths == 2


def test_numbers_of_tensors_and_of_arguments():
    def f(x, k):
        s = x.sum().item() * k
        return x * s if s > k + 1 else x + k, s
    check(f, [(UP, 1.0), (DOWN, 2.5), (UP, 0.1), (DOWN, 0.5), (MIXED, 3.0)], grads=False)


def test_python_s_arithmetic_raises_where_eager_does():
    def f(x):
        x.add_(1)
        return x * (1 / x.sum().item())
    check(f, [(UP,), (DOWN,), (-torch.ones(3),), (MIXED,)], grads=False)


def test_not_a_number():
    def f(x):
        s = x.sum().item()
        return (x * s, s) if s > 0 else (x - s, s)
    check(f, [(UP,), (UP * math.nan,), (UP * math.inf,), (-UP * math.inf,), (UP * 0,), (UP * -0.0,)], grads=False)


def test_numbers_kept_in_state():
    class Meter:
        def __init__(self):
            self.total, self.last = 0.0, None

        def add(self, x):
            self.last = x.sum().item()
            self.total += self.last
            return x * self.last
    meters = Meter(), Meter()
    compiled = smelt.compile(meters[0].add)
    for x in twice([UP, DOWN, MIXED, UP * 2]):
        close(compiled(x), meters[1].add(x))
        assert vars(meters[0]) == pytest.approx(vars(meters[1])) and type(meters[0].last) is float


# Sizes that depend on data

SIZED = {
    "nonzero": lambda x: (x > 0).nonzero() * 2,
    "nonzero as tuple": lambda x: x[torch.nonzero(x > 0, as_tuple=True)] * 2,
    "mask": lambda x: (x * 2)[x > 0].exp(),
    "mask of rows": lambda x: (x.view(3, 1) * torch.ones(2))[x > 0].cumsum(0),
    "masked_select": lambda x: torch.masked_select(x * 2, x > 0) + 1,
    "unique": lambda x: torch.unique(x.detach().round()) + 1,
    "unique with counts": lambda x: [t * 2 for t in torch.unique(x.detach().round(), return_inverse=True, return_counts=True)],
    "unique_consecutive": lambda x: torch.unique_consecutive(x.detach()) * 2,
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.detach().abs().long()) * 2,
    "bincount": lambda x: torch.bincount(x.detach().abs().long()) * 2,
    "assignment": lambda x: (lambda y: (y.masked_fill_(x > 0, 3.0), y * 2))(x * 1),
    "mask assignment": lambda x: (lambda y: (y.__setitem__(x > 0, 3.0), y * 2)[1])(x * 1),
    "where": lambda x: torch.where(x > 0)[0] + 1,
    "argwhere": lambda x: torch.argwhere(x > 0) + 1,
    "numel asked": lambda x: x * x[x > 0].numel(),
    "masked loss": lambda x: (x - 1)[x != 0].pow(2).mean() if (x != 0).any() else x.sum(),
}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_depend_on_data(name):
    check(SIZED[name], [(UP,), (DOWN,), (ZERO,), (MIXED,)])


def test_a_number_that_changes_after_another_reading():
    """The number becomes a symbol: one more path, which all numbers take, from a segment that others share."""
    def act(x):
        if x.isnan().any():
            raise ValueError
        action = torch.multinomial(x.abs(), 1)
        return x.abs()[action].log(), action.item()
    compiled = check(act, [(UP,), (MIXED,), (UP * 2,), (MIXED * 3,), (UP,), (DOWN,)], grads=False)
    assert len(compiled_function(compiled).recompilations) == 1


def test_functions_of_math_of_what_is_read():
    def f(x):
        total = x.sum().item()
        return x * math.exp(-total) if math.isfinite(total) else x - 1
    compiled = smelt.compile(f)
    for k in (1.0, 2.0, 0.5, math.inf, -1.0, math.nan, 3.0):
        close(compiled(UP * k), f(UP * k))
    assert smelt.explain(compiled).paths == 3


def test_of_several_numbers_one_that_changes_lets_all_be_symbols():
    def f(x):
        return x * 2, {"sum": x.sum().item(),
                       "mean": x.mean().item(),
                       "largest": x.max().item()}
    compiled = smelt.compile(f)
    for k in (1.0, 2.0, 0.5, 3.0):
        close(compiled(MIXED * k), f(MIXED * k))
    assert smelt.explain(compiled).paths == 2
