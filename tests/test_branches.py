"""Branches on data: functions that read tensors in Python give what eager gives, on data that takes every path, in any order."""
import copy
import math
import os
import threading
import warnings

import pytest
import torch
from torch import nn

import smelt
from smelt import config
from smelt.errors import SmeltWarning, Unsupported
from smelt.frontend.api import compiled_function

UP, DOWN, ZERO = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -3.0]), torch.zeros(3)
MIXED = torch.tensor([1.0, -2.0, 0.5])


def tensors(part):
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, dict):
        part = list(part.values())
    return [t for p in part for t in tensors(p)] if isinstance(part, (list, tuple)) else []


def outcome(function, args, seed=0):
    """All that one call does: result or exception, the arguments afterwards, gradients, and the next random number."""
    torch.manual_seed(seed)
    args = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else copy.deepcopy(a) for a in args]
    raised = result = None
    try:
        result = function(*args)
    except Exception as e:
        raised = type(e), str(e)
    drawn = torch.rand(1)
    loss = sum(t.sum() for t in tensors(result) if t.requires_grad)
    leaves = [t for t in tensors(args) if t.requires_grad]
    module = getattr(function, "module", None)
    leaves += list(module.parameters()) if module else []
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if isinstance(loss, torch.Tensor) and leaves else ()
    return {"raised": raised, "result": result, "arguments": args, "gradients": grads, "drawn": drawn}


def same(a, b, strides=True):
    """`strides`: whether they count; of gradients, torch gives some expanded."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
        assert a.stride() == b.stride() or not strides
        torch.testing.assert_close(a, b, equal_nan=True)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y, strides)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k], strides and k != "gradients")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-6, nan_ok=True)
    else:
        assert a == b


def twice(calls):
    """Every call, and every call again in the opposite order: each path is met after each other one."""
    return [*calls, *reversed(calls), *calls]


def check(function, calls, paths=None, grads=True, **options):
    """Call a function compiled and as it is; nothing may run eagerly. Gives the compiled one."""
    compiled = smelt.compile(function, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmeltWarning)
        for n, args in enumerate(twice(calls)):
            for needs in (False, True) if grads else (False,):
                given = [a.clone().requires_grad_() if needs and isinstance(a, torch.Tensor) and a.is_floating_point() else a
                         for a in args]
                same(outcome(compiled, given, n), outcome(function, given, n))
    trees = [p for p in compiled_function(compiled).programs]
    report = smelt.explain(compiled)
    assert not any(p.broken for p in report.programs), report
    if paths is not None:
        assert report.paths == paths * len(trees), report
    return compiled


# One program for each way of asking

def branch(x):
    y = x * 2
    if y.sum() > 0:
        return y + 1
    return y.exp()


def negated(x):
    return x + 1 if not (x > 0).any() else x - 1


def nested(x):
    if x.sum() > 0:
        if x.max() > 2.5:
            return x * 2
        return x * 3
    elif (x == 0).all():
        return x.cos()
    return x.sin()


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
            same(compiled(x, w), f(x, w))
        same(compiled(x, w), f(x, w))
    assert smelt.explain(compiled).paths == 4


# Loops

def halvings(x):
    turns = 0
    while x.abs().max() > 1:
        x = x / 2
        turns += 1
    return x, turns


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


# Numbers that are read, and go into arithmetic or the result

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
        same(outcome(compiled, args), outcome(f, args))
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
        same(compiled(x), meters[1].add(x))
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
        same(outcome(compiled, args), outcome(write_saved, args))


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
        same(ours, grad, strides=False)


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
        same(outcome(compiled, (x,)), outcome(asserting, (x,)))
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
            same(*results, strides=False)
    with torch.no_grad():
        net.large.weight.zero_()
    same(compiled(UP), net.forward(UP))
    net.large = nn.Linear(3, 3)
    same(compiled(UP), net.forward(UP))
    same(compiled(ZERO), net.forward(ZERO))


def test_state_that_only_one_branch_reads():
    space = {"k": 2}

    def f(x):
        return x * space["k"] if x.sum() > 0 else x + 1
    compiled = smelt.compile(f, fullgraph=True)
    for k in (2, 3, 2, 4):
        space["k"] = k
        for x in (UP, DOWN, UP):
            same(compiled(x), f(x))


def test_other_shapes_and_dtypes_have_paths_of_their_own():
    compiled = smelt.compile(branch, fullgraph=True)
    for x in (UP, UP[:2], UP.double(), UP, UP.double()):
        for sign in (1, -1):
            same(compiled(x * sign), branch(x * sign))
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
        same(*found, strides=False)


def test_autocast():
    def f(x, w):
        y = x @ w
        return y * 2 if y.sum() > 0 else y @ w
    compiled = smelt.compile(f, fullgraph=True)
    for sign in (1, -1, 1, -1):
        x, w = torch.ones(4, 4) * sign, torch.ones(4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            same(compiled(x, w), f(x, w))
        same(compiled(x, w), f(x, w))


# Limits, and what is said

def test_a_path_that_cannot_be_compiled_leaves_the_others():
    def f(x):
        if x.sum() > 0:
            return x * 2
        return torch.from_numpy(x.numpy() + 1)
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning, match="numpy"):
        compiled(DOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (UP, DOWN, UP, DOWN):
            same(compiled(x), f(x))
    report = smelt.explain(compiled)
    assert report.paths == 2 and report.state == "compiled in part" and len(report.fallbacks) == 1
    with pytest.raises(Unsupported, match="numpy"):
        smelt.compile(f, fullgraph=True)(DOWN)


def test_an_effect_before_the_branch_makes_all_calls_eager():
    def f(x):
        os.getpid()
        return x * 2 if x.sum() > 0 else x
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning, match="getpid"):
        compiled(UP)
    compiled(DOWN)
    report = smelt.explain(compiled)
    assert report.paths == 1 and report.programs == ()


def test_too_many_paths_run_eagerly_and_it_is_said_once(monkeypatch):
    monkeypatch.setattr(config, "path_limit", 3)

    def f(x):
        return x * len(range(x[0].int().item()))
    compiled = smelt.compile(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in (1, 2, 3, 4, 5, 1, 4, 2):
            same(compiled(UP + k), f(UP + k))
    told = [str(w.message) for w in caught if w.category is SmeltWarning]
    assert len(told) == 1 and "3 paths (config.path_limit)" in told[0]
    assert f"test_branches.py:{f.__code__.co_firstlineno + 1}: cast.item() is 6" in told[0]
    assert smelt.explain(compiled).paths == 1 + 3  # the number was not yet one that changes; it was
    for k in range(10, 20):
        same(compiled(UP + k), f(UP + k))
    assert any(p.broken for p in compiled_function(compiled).programs)


def test_too_many_readings(monkeypatch):
    monkeypatch.setattr(config, "reading_limit", 4)
    compiled = smelt.compile(halvings)
    same(compiled(UP), halvings(UP))
    with pytest.warns(SmeltWarning, match="more than 4 times"):
        same(compiled(UP * 1000), halvings(UP * 1000))
    same(compiled(UP), halvings(UP))


def test_what_explain_and_show_say(capsys):
    compiled = smelt.compile(branch)
    for x in (UP, DOWN, UP):
        compiled(x)
    report = smelt.explain(compiled)
    line = branch.__code__.co_firstlineno + 2
    found, = report.branches
    assert found.where.endswith(f"test_branches.py:{line}") and found.reads == "the truth"
    assert found.answers == ("True", "False") and found.paths == report.paths == 2
    assert report.compiled and len(report.programs) == 3
    assert f"test_branches.py:{line}: 2 paths by the truth: True, False" in str(report)
    assert report.recompilations == (f"branch: {found.where}: the truth is False",)
    smelt.show(compiled, "recorded", 0)
    assert "gt" in capsys.readouterr().out


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
        same(compiled(x), f(x))
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
            same(outcome(compiled, (a, torch.ones(2))), outcome(f, (a, torch.ones(2))))
    assert smelt.explain(compiled).state == "compiled in part"


def test_a_path_found_wrong_is_not_used_again(monkeypatch):
    compiled = smelt.compile(branch)
    for x in (UP, DOWN):
        compiled(x)
    tree, = compiled_function(compiled).programs
    for run in tree.executables.values():
        run.broken = "gave another result"
    same(compiled(UP), branch(UP))
    same(compiled(DOWN), branch(DOWN))


def test_threads_that_meet_new_paths():
    compiled, wrong = smelt.compile(nested), []

    def work(k):
        for n in range(30):
            x = (UP, DOWN, ZERO, MIXED)[(n + k) % 4]
            try:
                same(compiled(x), nested(x))
            except Exception as e:
                wrong.append(e)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and smelt.explain(compiled).paths <= 4


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
        same(compiled(UP * k), f(UP * k))
    assert smelt.explain(compiled).paths == 3


def test_of_several_numbers_one_that_changes_lets_all_be_symbols():
    def f(x):
        return x * 2, {"sum": x.sum().item(),
                       "mean": x.mean().item(),
                       "largest": x.max().item()}
    compiled = smelt.compile(f)
    for k in (1.0, 2.0, 0.5, 3.0):
        same(compiled(MIXED * k), f(MIXED * k))
    assert smelt.explain(compiled).paths == 2


def test_one_hot_of_so_many_classes_branches_on_nothing():
    """It looks at its numbers only to raise, and does so where eager does."""
    def f(x, n):
        return torch.nn.functional.one_hot(x, n) * 0.5
    compiled = smelt.compile(f)
    given = [[0, 3]], [[1, 2]], [[0, 5], [2, 2]], [[4, 4]], [[1, 1]] * 3, [[7, 1]], [[-1, 2]], [[0, 1]]
    for x in (*map(torch.tensor, given), torch.zeros(0, 2, dtype=torch.int64), torch.tensor([1.0])):
        same(outcome(compiled, [x, 6]), outcome(f, [x, 6]))
    report = smelt.explain(compiled)
    assert not report.branches and report.paths <= 3
