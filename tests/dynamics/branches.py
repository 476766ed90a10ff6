"""Python that looks at the values of tensors: branches, loops, indices, sizes, text."""
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from .harness import backward, calls, leaf, outcome, program, tensor

POSITIVE, NEGATIVE, ZERO = tensor(4).abs() + 1, -tensor(4).abs() - 1, torch.zeros(4)
#: Both outcomes, each met again after the other.
TURNS = (POSITIVE, POSITIVE, POSITIVE, NEGATIVE, NEGATIVE, POSITIVE, NEGATIVE, ZERO, POSITIVE)


def over(f, inputs=TURNS):
    for x in inputs:
        yield f(x)


@program
def if_sum(compile):
    yield from over(compile(lambda x: x * 2 if x.sum() > 0 else x - 1))


@program
def if_any_and_all(compile):
    @compile
    def f(x):
        if (x > 1).all():
            return x + 10
        if (x < -1).any():
            return x - 10
        return x
    yield from over(f)


@program
def early_return(compile):
    @compile
    def f(x):
        y = x + 1
        if y.max() < 0:
            return y
        y = y * 3
        if y.min() > 5:
            return y - 1, "large"
        return {"y": y}
    yield from over(f, (*TURNS, torch.full((4,), 8.0), POSITIVE, torch.full((4,), 9.0)))


@program
def nested_branches(compile):
    @compile
    def f(x, y):
        if x.sum() > 0:
            z = x + y
            return z * 2 if z.max() > 5 else z * 3
        z = x - y
        return z * 4 if z.min() < -5 else z * 5
    for x in (POSITIVE, NEGATIVE, POSITIVE, NEGATIVE):
        for y in (ZERO, POSITIVE * 5, NEGATIVE * 5):
            yield f(x, y)


@program
def while_loop(compile):
    @compile
    def f(x):
        turns = 0
        while x.abs().max() > 1:
            x, turns = x / 2, turns + 1
        return x, turns
    for k in (1, 4, 1, 8, 1, 100, 4, 0.5):
        yield f(POSITIVE * k)


@program
def loop_until_it_converges(compile):
    @compile
    def f(a):
        x = torch.ones_like(a)
        for turn in range(20):
            new = (x + a / x) / 2
            if torch.equal(new, x):
                break
            x = new
        return x, turn
    for k in (1.0, 4.0, 9.0, 1.0, 2.0):
        yield f(torch.full((3,), k))


@program
def range_over_a_tensor(compile):
    @compile
    def f(x, n):
        for i in range(int(n)):
            x = x + i
        return x
    for n in (2, 2, 3, 0, 2, 5, 3):
        yield f(POSITIVE, torch.tensor(n))


@program
def item_in_arithmetic(compile):
    f = compile(lambda x: x * x.sum().item() + 1)
    for k in (1.0, 1.0, 2.0, -3.0, 0.0, float("inf")):
        yield f(torch.full((3,), k))


@program
def item_of_an_integer(compile):
    f = compile(lambda x, n: x * n[0].item() + n[1].item() // 3)
    for n in ((1, 2), (1, 2), (5, -7), (2**40, 2**62), (0, -1)):
        yield f(POSITIVE, torch.tensor(n))


@program
def item_returned(compile):
    f = compile(lambda x: (x + 1, x.sum().item(), (x.sum() > 0).item(), int(x.argmax())))
    yield from over(f)


@program
def item_of_what_no_operation_changed(compile):
    f = compile(lambda x, k: x.view(-1) * k.item())
    for k in (2.0, 2.0, 3.0, -0.0):
        yield f(POSITIVE, torch.tensor(k))


@program
def float_and_int_of_a_tensor(compile):
    f = compile(lambda x: x + float(x.max()) * int(x.min()))
    yield from over(f)


@program
def argmax_as_index(compile):
    f = compile(lambda x: x[x.argmax().item()] * 2)
    for k in (0, 0, 1, 3, 2, 1, 0):
        yield f(torch.eye(4)[k] + 1)


@program
def number_as_size(compile):
    f = compile(lambda x, n: x.sum() + torch.zeros(int(n)))
    for n in (2, 2, 3, 0, 1, 4, 3):
        yield f(POSITIVE, torch.tensor(n))


@program
def number_as_bound_of_a_slice(compile):
    f = compile(lambda x, n: x[: n.item()] + 1)
    for n in (2, 2, 3, 0, -1, 9):
        yield f(POSITIVE, torch.tensor(n))


@program
def assertion(compile):
    @compile
    def f(x):
        assert (x > 0).all(), "not positive"
        return x.reciprocal()
    for x in (POSITIVE, POSITIVE, NEGATIVE, POSITIVE, ZERO, POSITIVE):
        yield outcome(f, x)


@program
def try_around_a_branch(compile):
    @compile
    def f(x):
        try:
            if x.sum() <= 0:
                raise ValueError("not positive")
            return x * 2
        except ValueError:
            return x * -2
        finally:
            x.sum()
    yield from over(f)


@program
def division_by_a_number_of_a_tensor(compile):
    f = compile(lambda x: x + 1 / x.sum().item())
    for x in (POSITIVE, POSITIVE, NEGATIVE, ZERO, POSITIVE):
        yield outcome(f, x)


@program
def nonzero(compile):
    f = compile(lambda x: (x.nonzero() + 1, x * 2))
    yield from over(f, (*TURNS, tensor(4), torch.tensor([0.0, 1.0, 0.0, 0.0])))


@program
def masked_select(compile):
    f = compile(lambda x: x[x > 0] * 2 - x.max())
    yield from over(f, (*TURNS, tensor(4), -tensor(4)))


@program
def unique(compile):
    f = compile(lambda x: torch.unique(x, return_counts=True))
    yield from over(f, (POSITIVE, POSITIVE, ZERO, tensor(4), torch.ones(4), POSITIVE))


@program
def masked_write(compile):
    @compile
    def f(x):
        x = x.clone()
        x[x < 0] = 5
        return x
    yield from over(f, (tensor(4), -tensor(4), *TURNS))


@program
def tolist(compile):
    f = compile(lambda x, n: (x.reshape(n.tolist()) + 1, n.tolist()))
    for n in ((2, 2), (2, 2), (4, 1), (1, 4), (2, 2)):
        yield f(POSITIVE, torch.tensor(n))


@program
def iteration_over_numbers(compile):
    @compile
    def f(x, n):
        for k in n:
            if k > 1:
                x = x * 2
        return x
    for n in ((1, 2, 3), (1, 2, 3), (1, 1, 1), (3, 3, 3), (1, 2, 3)):
        yield f(POSITIVE, torch.tensor(n))


@program
def text_of_a_number(compile):
    f = compile(lambda x: (x * 2, f"{x.sum().item():.2f}"))
    yield from over(f)


@program
def number_as_key(compile):
    table = {0: 1.0, 1: -2.0, 2: 10.0}
    f = compile(lambda x, i: x * table[i.item()])
    for i in (0, 0, 1, 2, 1, 3):
        yield outcome(f, POSITIVE, torch.tensor(i))
    table[1] = 100.0
    for i in (1, 0, 1):
        yield f(POSITIVE, torch.tensor(i))


@program
def equality_of_tensors(compile):
    f = compile(lambda a, b: (a + b, "same") if torch.equal(a, b) else (a - b, "other"))
    for a, b in ((POSITIVE, POSITIVE), (POSITIVE, POSITIVE), (POSITIVE, NEGATIVE), (ZERO, ZERO), (NEGATIVE, ZERO)):
        yield f(a, b.clone())


@program
def closeness_of_tensors(compile):
    f = compile(lambda a, b: a if torch.allclose(a, b, equal_nan=True) else b)
    for b in (POSITIVE, POSITIVE, POSITIVE + 1e-9, NEGATIVE, POSITIVE, POSITIVE / 0):
        yield f(POSITIVE, b)


@program
def short_circuits(compile):
    f = compile(lambda x: x + 1 if x.sum() > 0 and x.max() < 4 or not x.any() else x - 1)
    yield from over(f, (*TURNS, POSITIVE * 10))


@program
def largest_in_python(compile):
    f = compile(lambda x, y: max(x.sum(), y.sum(), key=lambda t: t.item()) * 2)
    for pair in ((POSITIVE, NEGATIVE), (POSITIVE, NEGATIVE), (NEGATIVE, POSITIVE), (ZERO, ZERO)):
        yield f(*pair)


@program
def match_statement(compile):
    @compile
    def f(x):
        match int(x[0].item()):
            case 0:
                return x + 1
            case n if n > 0:
                return x * n
            case _:
                return -x
    yield from over(f)


@program
def branch_after_a_write_to_the_argument(compile):
    @compile
    def f(x):
        x.add_(1)
        if x.sum() > 0:
            x.mul_(2)
        return x.sum()
    for x in TURNS:
        x = x.clone()
        yield f(x)


@program
def branch_between_writes_and_state(compile):
    @compile
    def f(x):
        total.add_(x)
        if total.sum() > 10:
            total.zero_()
            return x, "full"
        return x + total, ""
    total = torch.zeros(4)
    yield from over(f, (ZERO + 1, ZERO + 1, *TURNS))


@program
def branch_under_gradient(compile):
    f = compile(lambda x: x * x if x.sum() > 0 else x * 3)
    for x in TURNS:
        x = x.clone().requires_grad_()
        yield backward(f(x))


@program
def loop_under_gradient(compile):
    @compile
    def f(x, w):
        while x.detach().abs().max() > 1:
            x = x * w
        return x.sum()
    for k in (1, 4, 16, 4, 1):
        x, w = (POSITIVE * k).requires_grad_(), torch.tensor(0.5, requires_grad=True)
        yield backward(f(x, w))


@program
def branch_in_a_module(compile):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Linear(4, 2), nn.Linear(4, 2)
            for p in self.parameters():
                nn.init.constant_(p, p.dim() / 2)
            with torch.no_grad():
                self.large.weight.mul_(3)

        def forward(self, x):
            return self.large(x) if x.norm() > 8 else self.small(x)
    net = compile(Gate())
    for x in (POSITIVE, POSITIVE, POSITIVE * 3, POSITIVE, POSITIVE * 3):
        yield backward(net(x))
    with torch.no_grad():
        net.small.bias.fill_(7.0)
    yield from calls(net, POSITIVE)


@program
def branch_on_random_numbers(compile):
    @compile
    def f(x):
        noise = torch.rand(())
        return x + noise if noise > 0.5 else x - torch.rand(())
    yield from calls(f, POSITIVE, times=8)


@program
def recursion_on_values(compile):
    def halve(x, depth):
        return (x, depth) if x.abs().max() < 1 else halve(x / 2, depth + 1)
    f = compile(lambda x: halve(x, 0))
    for k in (0.1, 1, 3, 0.1, 3):
        yield f(POSITIVE * k)


@program
def number_kept_on_an_object(compile):
    class Meter:
        best = 0.0

        def update(self, x):
            now = x.max().item()
            if now > self.best:
                self.best = now
            return x / (1 + self.best)
    meter = Meter()
    f = compile(meter.update)
    for x in (POSITIVE, POSITIVE, POSITIVE * 4, POSITIVE, POSITIVE * 16):
        yield f(x)


@program
def many_paths(compile):
    """More paths than a function may have programs."""
    @compile
    def f(x):
        return x * (3 if x[0] > 1 else 5) + sum(k for k in range(4) if x[k] > 2)
    for n in range(24):
        yield f(torch.tensor([float(n >> k & 1) * 3 for k in range(5)]))


@program
def truth_of_a_tensor_that_has_none(compile):
    f = compile(lambda x: x + 1 if x else x - 1)
    for x in (torch.ones(()), torch.zeros(()), torch.ones(1, 1), torch.ones(2), torch.zeros(())):
        yield outcome(f, x)


@program
def nan_decides(compile):
    f = compile(lambda x: "more" if x.sum() > 0 else "less" if x.sum() <= 0 else "neither")
    yield from over(f, (POSITIVE, NEGATIVE, POSITIVE / 0 - POSITIVE / 0, POSITIVE, ZERO / 0))


@program
def gradient_of_a_number_that_left_the_graph(compile):
    f = compile(lambda x: x * x.detach().max().item() + x.sum().item())
    for k in (1.0, 2.0, 2.0, -1.0):
        x = leaf(3)
        with torch.no_grad():
            x.mul_(k)
        yield backward(f(x))


@program(exact=False)
def step_that_looks_at_its_loss(compile):
    """Skipped where the loss is not finite; a large gradient is scaled down."""
    w = leaf(4)
    optimizer = torch.optim.SGD([w], lr=0.125, momentum=0.5)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = (x * w - 1).pow(2).mean()
        if not torch.isfinite(loss):
            return None
        loss.backward()
        norm = w.grad.norm()
        if norm > 2:
            w.grad.mul_(2 / norm)
        optimizer.step()
        return loss.detach()
    for scale in (1, 1, 0.25, 1, float("inf"), 0.25, 1, float("inf"), 0.25):
        yield step(tensor(4) * scale)


@program(exact=False)
def solved_where_it_can_be(compile):
    f = compile(lambda a, b: torch.linalg.solve(a, b) * 2)
    for scale in (1, 1, 2, 1):
        a = (torch.eye(3) * scale + 0.25).requires_grad_()
        yield backward(f(a, tensor(3))), a


@program
def write_with_gaps_before_a_reading(compile):
    """The new values go from one part of the program to another, and to the end."""
    @compile
    def f(x, y):
        x[1:].add_(y)
        scale = float(y.max() > 1)
        return y * scale, x.sum(0)
    for y in (POSITIVE, NEGATIVE, POSITIVE):
        x = torch.zeros(4, y.numel(), 2)[..., 0]
        yield f(x, y)


@program
def the_shape_of_an_argument_changed_after_a_reading(compile):
    @compile
    def f(x):
        mean = x.mean().item()
        try:
            x.unsqueeze_(0)
        except RuntimeError:
            return None
        return x * mean
    x = tensor(6, 4).t()
    for _ in range(4):
        yield f(x), x.shape


@program
def padded_sequences(compile):
    """The same number of rows in other sequences."""
    @compile
    def f(packed):
        rows, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return rows * 2, lengths
    for lengths in ((5, 3, 1), (5, 3, 1), (5, 2, 2), (5, 3, 1), (3, 3, 3)):
        yield f(nn.utils.rnn.pack_sequence([tensor(n, 2) for n in lengths]))


@program
def split_at_places(compile):
    f = compile(lambda x, places: [part * 2 for part in x.tensor_split(places)])
    for places in ((1, 3), (1, 3), (2, 3), (1, 3), (0, 4)):
        yield f(tensor(4), torch.tensor(places))


@program(exact=False)
def attention_with_scores_of_its_own(compile):
    f = compile(lambda q, k: flex_attention(q, k, k, lambda score, b, h, i, j: torch.where(i >= j, score * 0.5, -9.0)) * 2)
    for n in (4, 4, 4, 6, 6):
        yield f(tensor(1, 2, n, 8), tensor(1, 2, n, 8) * 0.5)


@program
def a_number_of_another_type_on_another_path(compile):
    """The paths of whole numbers and those of floats share no segment that computes with one."""
    @compile
    def f(x, e):
        y = x + e
        return (y > 1).sum().item(), y
    a, b = torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 2.0, 2.0])
    for e, x in ((0, a), (0.05, a), (0.1, a), (0, b), (0, a), (0.05, b), (0.05, b), (1, a), (2, b), (True, a), (0.5, b)):
        yield f(x, e)
