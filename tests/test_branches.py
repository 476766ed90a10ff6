"""Branches on data: functions that read tensors in Python give what eager gives, on data that takes every path, in any order."""
import math
import threading
import warnings

import pytest
import torch
from torch import nn
from torch._higher_order_ops.hints_wrap import hints_wrapper
from torch._higher_order_ops.while_loop import while_loop

import smelt
from smelt.errors import SmeltWarning
from smelt.frontend.api import compiled_function

from .branching import DOWN, MIXED, UP, ZERO, branch, check, halvings, nested, outcome, twice
from .common import close


def negated(x):
    return x + 1 if not (x > 0).any() else x - 1


def early_return(x):
    for k in range(3):
        x = x * 1.5
        if x.abs().sum() > 5:
            return x, k
    return x.neg(), -1


def chained(x):
    return x * 2 if 0 < x.sum() < 4 else x / 2


def and_or(x):
    return x * 2 if x[0] > 0 and x[1] > 0 or x[2] == 0 else x / 2


def item_as_index(x):
    return x[x.argmax().item()] * x


def int_as_size(x):
    n = int((x > 0).sum())
    return torch.ones(n, 2) * x.sum(), n


def int_as_range(x):
    y = x
    for k in range(int(x.abs().max())):
        y = y * x + k
    return y


def float_in_python(x):
    return x * math.floor(float(x.detach().sum()))


def formatted(x):
    return {f"{x.detach().max():.1f}": x * 2}


def elements(x):
    a, b, c = x.detach().tolist()
    return x * 2 if a > b else x + 1


def unpacked(x):
    return x * max(e.item() for e in x.detach())


def contains(x):
    return x * 2 if 0.0 in x else x * 3


def equal(x):
    return x * 2 if torch.equal(x, x.abs()) else x * 3


def allclose(x):
    return x * 2 if torch.allclose(x, x.abs()) else x * 3


def detached(x):
    y = x * 3
    return y * y if y.detach().mean().item() > 0 else y


def read_of_an_argument(x):
    return x * 2 if x[0] else x.exp()


def read_twice(x):
    s = x.sum()
    a = x * 2 if s > 0 else x
    return a + 1 if s > 0 else a


def read_again_later(x):
    s, y = x.sum() > 0, x
    for _ in range(3):
        y = y * x
        if s:
            y = y + 1
    return y


def several_values_live(x):
    a, b, c = x.exp(), x * 2, x.cos()
    d = (a + b).view(3, 1).expand(3, 2)
    if c.sum() > 1.5:
        return d * 2, a
    return d + c[0], b, a


def result_from_before(x):
    y = x.exp()
    if x.sum() > 0:
        return y
    return y, y * 2


def returned_view_of_an_input(x):
    return x[1:] if x.sum() > 0 else x.view(3, 1)


def returned_input(x):
    return x if x.sum() > 0 else (x, x * 2)


def shared_views(x):
    y = x * 2
    if x.sum() > 0:
        return y[0], y[1:], y
    return y.view(3, 1), y


def no_grad_inside(x):
    with torch.no_grad():
        scale = x.abs().sum()
        if scale > 5:
            scale = scale / 2
    return x * scale


def softmax_of_some(x):
    y = x.softmax(0)
    return (y * x).sum() if (y > 0.5).any() else y.max()


SIMPLE = {f.__name__: f for f in (
    branch, negated, nested, early_return, chained, and_or, item_as_index, int_as_size, int_as_range, float_in_python, formatted,
    elements, unpacked, contains, equal, allclose, detached, read_of_an_argument, read_twice, read_again_later,
    several_values_live, result_from_before, returned_view_of_an_input, returned_input, shared_views, no_grad_inside,
    softmax_of_some)}


@pytest.mark.parametrize("name", SIMPLE)
def test_as_eager_on_every_path(name):
    check(SIMPLE[name], [(UP,), (DOWN,), (ZERO,), (MIXED,)])


@pytest.mark.parametrize("name", ["branch", "nested", "several_values_live", "shared_views"])
def test_unchecked(name):
    check(SIMPLE[name], [(UP,), (DOWN,), (ZERO,), (MIXED,)], verify="off")


@pytest.mark.parametrize("name", ["branch", "nested", "early_return", "several_values_live"])
def test_checked_every_time(name):
    check(SIMPLE[name], [(UP,), (DOWN,), (ZERO,), (MIXED,)], verify="raise")


def test_under_no_grad():
    def f(x, w):
        y = x @ w
        return y.relu() if y.trace() > 0 else y.tanh() * w
    w = torch.eye(3, requires_grad=True)
    compiled = smelt.compile(f, fullgraph=True)
    for x in (torch.eye(3), -torch.eye(3), torch.eye(3), -torch.eye(3)):
        with torch.no_grad():
            close(compiled(x, w), f(x, w))
        close(compiled(x, w), f(x, w))
    assert smelt.explain(compiled).paths == 4


# Loops

def test_loops_of_any_number_of_turns():
    calls = [(torch.full((3,), 2.0 ** k - 0.5),) for k in (3, 0, 6, 1, 5, 2, 4, 6, 0)]
    compiled = check(halvings, calls, paths=7)
    assert len(smelt.explain(compiled).programs) <= 8, "the turns have one program (with gradient and without)"


def test_a_loop_of_growing_state():
    def f(x):
        seen = [x]
        while seen[-1].sum() < 10:
            seen.append(seen[-1] * 2)
        return torch.stack(seen).sum(0), len(seen)
    check(f, [(UP,), (UP * 3,), (UP / 4,), (UP * 0.4,)], paths=3)


def test_nested_loops_and_branches():
    def f(x):
        for k in range(3):
            if x[k] > 0:
                x = x * 1.5
            else:
                x = x - 1
                while x.sum() > 0:
                    x = x - 2
        return x
    check(f, [(UP,), (DOWN,), (ZERO,), (MIXED,), (-MIXED * 4,)])


# Writes and random numbers

def write_before(x):
    x.mul_(2)
    return x + 1 if x.sum() > 0 else x - 1


def write_after(x):
    if x.sum() > 0:
        x.add_(1)
        return x * 2
    return x.exp()


def write_on_both_sides(x):
    y = x * 1
    y[0] = 5
    if y.sum() > 4:
        y[1:].mul_(3)
        x.copy_(y)
    else:
        x.sub_(y)
    x.add_(1)
    return y


def write_through_a_view(x):
    v = x[1:]
    v.mul_(-1)
    if v.sum() > 0:
        v.zero_()
    return v


def write_saved(x, w):
    y = w * x.clone()
    if y.sum() > 0:
        z = y * w
        x.add_(1)
        return z * z
    x.zero_()
    return y * y


@pytest.mark.parametrize("f", [write_before, write_after, write_on_both_sides, write_through_a_view])
def test_writes(f):
    check(f, [(UP,), (DOWN,), (ZERO,), (MIXED,)], grads=False)


def test_writes_to_what_gradients_need():
    w = torch.tensor([1.0, 2.0, 3.0])
    compiled = smelt.compile(write_saved, fullgraph=True)
    for x in twice([UP, DOWN, MIXED]):
        args = x, w.clone().requires_grad_()
        close(outcome(compiled, args), outcome(write_saved, args))


def test_results_may_be_written_to_before_the_backward():
    def f(x):
        y = x * 2
        if x.sum() > 0:
            return y, (y + x).sum()
        return y, y.sum()
    compiled = smelt.compile(f, fullgraph=True)
    for x in twice([UP, DOWN]):
        for function in (compiled, f):
            given = x.clone().requires_grad_()
            y, loss = function(given)
            with torch.no_grad():
                y.zero_()
            loss.backward()
            grad = given.grad if function is f else (ours := given.grad)
        close(ours, grad, strides=False)


def dropped(x):
    y = nn.functional.dropout(x + 1, 0.5)
    if y.sum() > 4:
        return y + torch.rand(3)
    return nn.functional.dropout(y, 0.3) * torch.randn(3)


def random_then_turn(x):
    k = 0
    while torch.rand(()) < 0.6 and k < 5:
        x, k = x + torch.rand(3), k + 1
    return x, k


@pytest.mark.parametrize("f", [dropped, random_then_turn])
def test_random_numbers(f):
    check(f, [(UP,), (MIXED,), (UP * 2,), (ZERO,), (UP,), (UP,)])


# Errors

# As text: pytest writes the asserts of a test file anew.
exec("""
def asserting(x):
    y = x * 2
    assert (y >= 0).all(), "negative"
    return y + 1


def catching(x):
    try:
        assert (x > 0).all()
        return x.log()
    except AssertionError:
        return x.abs()
""")


def raising(x):
    x.add_(1)
    if x.sum() < 0:
        raise ValueError("too small")
    return x * 2


def dividing(x):
    return x * (6 // int(x.sum()))


@pytest.mark.parametrize("f", [asserting, raising, catching, dividing])  # noqa: F821
def test_errors(f):
    check(f, [(UP,), (DOWN,), (ZERO,), (MIXED,), (UP + 1,)], grads=f is not raising)


def test_a_call_that_raises_is_not_recorded_again():
    compiled = smelt.compile(asserting)
    for x in (UP, DOWN, DOWN, UP, DOWN):
        close(outcome(compiled, (x,)), outcome(asserting, (x,)))
    assert smelt.explain(compiled).paths == 2 and smelt.explain(compiled).fallbacks == ("raises AssertionError",)


# Modules, state and guards

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(3, 3), nn.Linear(3, 3)
        self.scale = 2.0

    def forward(self, x):
        if x.norm() > 2:
            return self.large(x).relu() * self.scale
        return self.small(x)


def test_modules_that_choose_their_layers():
    torch.manual_seed(0)
    net = Gate()
    compiled = smelt.compile(net, fullgraph=True)
    for scale in (2.0, 3.0, 2.0):
        net.scale = scale
        for x in (UP, ZERO, MIXED, DOWN):
            results = []
            for function in (net.forward, compiled):
                net.zero_grad()
                y = function(x)
                y.sum().backward()
                results.append([y, *(p.grad for p in net.parameters() if p.grad is not None)])
            close(*results, strides=False)
    with torch.no_grad():
        net.large.weight.zero_()
    close(compiled(UP), net.forward(UP))
    net.large = nn.Linear(3, 3)
    close(compiled(UP), net.forward(UP))
    close(compiled(ZERO), net.forward(ZERO))


def test_state_that_only_one_branch_reads():
    space = {"k": 2}

    def f(x):
        return x * space["k"] if x.sum() > 0 else x + 1
    compiled = smelt.compile(f, fullgraph=True)
    for k in (2, 3, 2, 4):
        space["k"] = k
        for x in (UP, DOWN, UP):
            close(compiled(x), f(x))


def test_other_shapes_and_dtypes_have_paths_of_their_own():
    compiled = smelt.compile(branch, fullgraph=True)
    for x in (UP, UP[:2], UP.double(), UP, UP.double()):
        for sign in (1, -1):
            close(compiled(x * sign), branch(x * sign))
    assert len(compiled_function(compiled).programs) == 3 and smelt.explain(compiled).paths == 6


def test_double_backward():
    def f(x):
        y = x ** 3
        return (y * x).sum() if y.sum() > 0 else (y + x).sum()
    compiled = smelt.compile(f, fullgraph=True)
    for x in twice([UP, DOWN]):
        found = []
        for function in (f, compiled):
            given = x.clone().requires_grad_()
            first, = torch.autograd.grad(function(given), given, create_graph=True)
            found.append([first, *torch.autograd.grad(first.sum(), given)])
        close(*found, strides=False)


def test_autocast():
    def f(x, w):
        y = x @ w
        return y * 2 if y.sum() > 0 else y @ w
    compiled = smelt.compile(f, fullgraph=True)
    for sign in (1, -1, 1, -1):
        x, w = torch.ones(4, 4) * sign, torch.ones(4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            close(compiled(x, w), f(x, w))
        close(compiled(x, w), f(x, w))


def test_equal_segments_are_built_once():
    def f(x):
        for _ in range(6):
            if x.sum() > 0:
                x = x * 2 - 7
            else:
                x = x.exp() + 1
        return x
    compiled = smelt.compile(f, fullgraph=True)
    for x in (UP, DOWN, MIXED, ZERO, UP * 3):
        close(compiled(x), f(x))
    assert len(smelt.explain(compiled).programs) <= 5


def test_functions_of_linalg_that_may_fail():
    """They look at whether they succeeded, and raise where they did not: that is a branch."""
    def f(a, b):
        lower = torch.linalg.cholesky(a)
        return torch.linalg.solve(a, b) + lower.diagonal().log().sum()
    good, other, bad = torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([[4.0, 0], [0, 1]]), torch.tensor([[1.0, 2], [2, 1]])
    compiled = check(f, [(good, torch.ones(2)), (other, torch.ones(2))], paths=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for a in (bad, good, bad, other):
            close(outcome(compiled, (a, torch.ones(2))), outcome(f, (a, torch.ones(2))))
    assert smelt.explain(compiled).state == "compiled in part"


def test_threads_that_meet_new_paths():
    compiled, wrong = smelt.compile(nested), []

    def work(k):
        for n in range(30):
            x = (UP, DOWN, ZERO, MIXED)[(n + k) % 4]
            try:
                close(compiled(x), nested(x))
            except Exception as e:
                wrong.append(e)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and smelt.explain(compiled).paths <= 4


def test_one_hot_of_so_many_classes_branches_on_nothing():
    """It looks at its numbers only to raise, and does so where eager does."""
    def f(x, n):
        return torch.nn.functional.one_hot(x, n) * 0.5
    compiled = smelt.compile(f)
    given = [[0, 3]], [[1, 2]], [[0, 5], [2, 2]], [[4, 4]], [[1, 1]] * 3, [[7, 1]], [[-1, 2]], [[0, 1]]
    for x in (*map(torch.tensor, given), torch.zeros(0, 2, dtype=torch.int64), torch.tensor([1.0])):
        close(outcome(compiled, [x, 6]), outcome(f, [x, 6]))
    report = smelt.explain(compiled)
    assert not report.branches and report.paths <= 3


def test_choices_and_loops_of_torch_are_those_of_python():
    """For the plain run they stand as Python has them: torch compiles its own, which takes seconds."""
    import torch._dynamo  # as torch.cond does, which takes longer where a run is recorded

    def by_torch(x):
        x = torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x.square(), (x,))
        return while_loop(lambda x: x.sum() < 50, lambda x: (x * 2,), (x,))[0] - 1

    def by_python(x):
        x = x * 2 if x.sum() > 0 else x.square()
        while x.sum() < 50:
            x = x * 2
        return x - 1
    compiled = smelt.compile(by_torch)
    for k in (1.0, 1.0, -3.0, -3.0, 9.0, 1.0, -3.0):
        results = []
        for f in (compiled, by_python):
            x = (torch.ones(4) * k).requires_grad_()
            y = f(x)
            results.append([y.detach(), *torch.autograd.grad(y.sum(), x)])
        close(*results)
    assert smelt.explain(compiled).compiled


def test_other_ops_that_take_functions_are_left_to_torch():
    compiled = smelt.compile(lambda x: hints_wrapper(lambda x: x * 2, (x,), {}, {}) + 1)
    x = hints_wrapper(torch.ones_like, (torch.ones(4),), {}, {})
    with pytest.warns(SmeltWarning, match="takes functions"):
        for _ in range(3):
            close([compiled(x)], [x * 2 + 1])


def test_arguments_that_come_to_require_grad_before_a_branch():
    """Two paths, each recorded once; a call that takes none leaves the argument as eager does."""
    @smelt.compile
    def f(x, w):
        loss = (x.requires_grad_() * w).sum()
        if w.sum() > 0:
            loss = loss * 2
        return torch.autograd.grad(loss, x)[0]
    for sign in (1, -1, 1, -1, 1):
        x, w = torch.ones(3), torch.full((3,), 2.0 * sign)
        assert torch.equal(f(x, w), w * 2 if sign > 0 else w) and x.requires_grad
    report = smelt.explain(f)
    assert report.compiled and not report.fallbacks and len(report.recompilations) == 1


# Rows that are found

class Experts(nn.Module):
    """A mixture of experts, each of which works on the rows that are sent to it."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(3))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            row, place = torch.where(chosen == k)
            out.index_add_(0, row, expert(x[row]) * weights[row, place, None])
        return out


@pytest.mark.parametrize("sizes", [(32,) * 12, (32, 32, 40, 28, 36, 33, 47, 32, 29, 51)])
def test_how_many_rows_experts_get_is_a_symbol(sizes):
    torch.manual_seed(0)
    net = Experts()
    compiled = smelt.compile(net)
    for k, size in enumerate(sizes):
        torch.manual_seed(k)
        x = torch.randn(size, 6)
        found = []
        for f in (net, compiled):
            net.zero_grad()
            out = f(x)
            out.square().sum().backward()
            found.append([out, *(p.grad.clone() for p in net.parameters())])
        close(*found)
    assert smelt.explain(compiled).compiled and len(smelt.explain(compiled).recompilations) == len(set(sizes[:3]))


def test_rows_of_equal_masks_are_as_many():
    def f(x, labels):
        return nn.functional.mse_loss(x[labels != -1], labels[labels != -1] * 1.0)
    compiled = smelt.compile(f)
    for n in (3, 5, 4, 6, 7, 3):
        labels = torch.where(torch.arange(8) < n, torch.arange(8), -1)
        x = torch.randn(8)
        close(compiled(x, labels), f(x, labels))
    assert len(smelt.explain(compiled).recompilations) == 1


def test_as_many_rows_as_there_are_turns_are_told_by_number():
    def f(x):
        for k in range(x[x > 0].shape[0]):
            x = x * 2 + k
        return x
    compiled = smelt.compile(f)
    for n in (1, 2, 3, 2, 1, 0, 3):
        x = torch.where(torch.arange(4) < n, 1.0, -1.0)
        close(compiled(x), f(x))
    assert smelt.explain(compiled).fixed_sizes and len(smelt.explain(compiled).recompilations) == 3


# Claims

def test_what_only_raises_cuts_nothing():
    """The checks of distributions, and assertions, are looked at when all is computed: a step is one program."""
    nets = [nn.Linear(4, 4) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())

    def step_of(net):
        def step(x):
            mean, deviation = net(x).chunk(2, -1)
            drawn = torch.distributions.Normal(mean, deviation.exp())
            sample = drawn.rsample()
            if not sample.abs().max() < 100:  # (an `assert` of this file would be pytest's)
                raise AssertionError("too far")
            if torch.isnan(sample).any():
                raise ValueError(f"no number in {sample}")
            prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
            loss = torch.distributions.kl_divergence(drawn, prior).sum() - drawn.log_prob(sample.detach()).sum()
            loss.backward()
            return loss.detach(), sample.detach()
        return step
    eager, compiled = step_of(nets[0]), smelt.compile(step_of(nets[1]))
    for k in range(6):
        x, found = torch.randn(3, 4), []
        for net, step in zip(nets, (eager, compiled)):
            net.zero_grad(set_to_none=False)
            torch.manual_seed(k)
            found.append([*step(x), *(p.grad.clone() for p in net.parameters()), torch.rand(2)])
        close(*found, rel=1e-4, rtol=1e-4, atol=1e-5)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.recompilations) == 1 and len(report.programs) == report.paths == 2


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_claim_that_fails_leaves_what_eager_leaves(requires_grad):
    def f(x, kept):
        kept.add_(1)
        noise = torch.rand(3)
        y = x * 2 + noise * 0
        if not y.min() > 0:
            raise AssertionError("below")
        kept.mul_(2)
        if not y.isfinite().all():
            raise ValueError("not finite")
        if y.sum() > 100:
            return y.log(), torch.rand(2)
        return y.log() + 1, kept * 3

    compiled = smelt.compile(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for x in (1.0, 2.0, -1.0, 3.0, -1.0, math.inf, 1.0, 1e3, 2e3, -1.0, math.inf, 4.0):
            given = torch.full((3,), x, requires_grad=requires_grad), torch.ones(3)
            close(outcome(compiled, given), outcome(f, given))
    assert smelt.explain(compiled).paths == 4 and len(smelt.explain(compiled).recompilations) == 3
