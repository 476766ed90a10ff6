"""Draws: numbers of Python's and NumPy's generators and of clocks, which each call takes anew, as eager does."""
import random
import time
from random import choice, gauss, randint, uniform
from random import random as unit

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4, 8)


class DynamicNet(nn.Module):
    """A polynomial whose last terms are drawn on each call, as PyTorch's tutorial on control flow has it."""

    def __init__(self):
        super().__init__()
        self.terms = nn.ParameterList(torch.tensor(float(k)) for k in range(1, 6))

    def forward(self, x):
        a, b, c, d, e = self.terms
        y = a + b * x + c * x ** 2 + d * x ** 3
        for power in range(4, random.randint(4, 6)):
            y = y + e * x ** power
        return y


@program
def terms_of_a_polynomial(compile):
    net = DynamicNet()
    f = compile(net)
    for _ in range(10):
        x = leaf(8)
        yield backward(f(x)), x, list(net.parameters())


@program(exact=False)
def terms_of_a_polynomial_in_training(compile):
    net = DynamicNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    x = torch.linspace(-1, 1, 16)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()
    for _ in range(12):
        yield step(x, x.sin()), list(net.parameters())


@program
def functions_imported_by_name(compile):
    f = compile(lambda x: x * unit() + randint(1, 9) - uniform(1, 2) + choice([1.0, 2.0]))
    yield from calls(f, X, times=6)


@program
def of_numpy(compile):
    f = compile(lambda x: x * numpy.random.rand() + numpy.random.randint(3) + numpy.random.uniform(0, 2) + numpy.random.normal())
    yield from calls(f, X, times=6)


@program
def arrays_of_numpy(compile):
    f = compile(lambda x: x + torch.from_numpy(numpy.random.rand(4, 8)))
    yield from calls(f, X, times=4)


@program(exact=False)
def teacher_forcing(compile):
    cell = nn.Linear(8, 8)

    @compile
    def f(h, targets, ratio):
        outputs = []
        for target in targets:
            h = torch.tanh(cell(h))
            outputs.append(h)
            h = target if random.random() < ratio else h
        return torch.stack(outputs).sum()
    for _ in range(8):
        h = leaf(8)
        yield backward(f(h, X[:2], 0.5)), h


@program
def between_branches_on_data(compile):
    @compile
    def f(x):
        a = random.random()
        if x.sum() > 0:
            x = x * random.randint(1, 3)
        b = random.random()
        return x + a, b
    for sign in (1, 1, -1, -1, 1, -1):
        yield f((X + 1) * sign)


@program
def with_random_numbers_of_torch(compile):
    @compile
    def f(x):
        y = F.dropout(x, 0.5)
        if random.random() < 0.5:
            y = y + torch.rand(8)
        return y * numpy.random.rand()
    yield from calls(f, X, times=10)


@program
def seeded_between_calls(compile):
    f = compile(lambda x: x * random.random() + numpy.random.rand())
    for seed in (1, 1, 2, 2, 1):
        random.seed(seed)
        numpy.random.seed(seed)
        yield f(X)


@program
def kept_as_state(compile):
    net = nn.Linear(8, 2)
    net.seen, net.history = 0.0, []

    @compile
    def f(x):
        net.seen = random.random()
        net.history.append(random.randint(0, 9))
        return net(x) * net.seen
    for _ in range(5):
        yield f(X), net.seen, list(net.history)


@program
def in_a_loop(compile):
    @compile
    def f(x):
        for _ in range(3):
            x = x + random.gauss(0, 1)
        return x
    yield from calls(f, X, times=4)


@program
def as_an_index(compile):
    @compile
    def f(x):
        row = random.randrange(4)
        return x[row] * 2, x[:, random.randint(0, 1):], row
    yield from calls(f, X, times=10)


@program
def with_a_number_that_changes(compile):
    @compile
    def f(x, top):
        return x * random.randint(0, top)
    for top in (1, 2, 3, 4, 5, 6):
        yield f(X, top)


@program
def that_raise(compile):
    @compile
    def f(x, low):
        return x * random.random() + random.randint(low, 3)
    for low in (1, 1, 9, 1, 1):
        yield outcome(f, X, low)


@program
def where_an_op_raises(compile):
    @compile
    def f(x, k):
        y = x * random.random()
        return y + x[0, k]
    for k in (1, 1, 1, 9, 1):
        yield outcome(f, X, torch.tensor(k))


@program
def of_a_generator_of_its_own(compile):
    generator = random.Random(3)
    f = compile(lambda x: x * generator.random())
    yield from calls(f, X, times=4)


@program
def shuffled(compile):
    @compile
    def f(x):
        order = [0, 1, 2, 3]
        random.shuffle(order)
        return x[order], random.sample(range(4), 2)
    yield from calls(f, X, times=4)


@program
def by_functions_of_a_library(compile):
    import tempfile
    f = compile(lambda x: (x + 1, len(next(tempfile._get_candidate_names()))))
    yield from calls(f, X, times=3)


@program
def time_around_tensor_work(compile):
    @compile
    def f(x):
        start = time.perf_counter()
        y = (x * 2).sum()
        return y, time.perf_counter() - start >= 0
    yield from calls(f, X, times=4)


@program
def time_since_the_last_call(compile):
    net = nn.Linear(8, 2)
    net.last = 0.0

    @compile
    def f(x):
        now = time.time()
        longer, net.last = now > net.last, now
        return net(x), longer
    for _ in range(4):
        y, longer = f(X)
        set_, net.last = net.last > 1e9, 0.0
        yield y, longer, set_


@program
def replaced_by_the_user(compile):
    f = compile(lambda x: x * random.random())
    yield from calls(f, X)
    before = random.random
    for constant in (0.5, 0.5, 0.25):
        random.random = lambda: constant
        try:
            yield from calls(f, X)
        finally:
            random.random = before
    yield from calls(f, X)


@program
def replaced_by_the_run(compile):
    global gauss

    @compile
    def f(x):
        global gauss
        y = x * (gauss(0, 1) if callable(gauss) else gauss)
        gauss = 2.0
        return y
    for _ in range(4):
        yield f(X), gauss
    gauss = random.gauss


@program
def sizes_that_change(compile):
    net = nn.Linear(8, 4)

    @compile
    def f(x):
        y = net(x)
        return y * 2 if random.random() < 0.5 else y * random.randint(1, 3)
    for n in (4, 4, 5, 6, 7, 8, 9, 5):
        yield f(tensor(n, 8)).sum().round()


@program
def within_a_checkpoint(compile):
    def block(x):
        return torch.sin(x) * (1.0 if random.random() < 2 else 0.0)

    @compile
    def f(x):
        return checkpoint(block, x, use_reentrant=False) * random.random()
    for _ in range(4):
        x = leaf(2, 3)
        yield backward(f(x)), x


@program
def within_a_function_of_autograd(compile):
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.scale = random.randint(1, 4)
            return x * ctx.scale

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.scale * random.randint(1, 2)
    f = compile(lambda x: Noisy.apply(x + 1) * 3)
    for _ in range(4):
        x = leaf(2, 3)
        yield backward(f(x)), x


class Noise(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)

    def forward(self, x):
        if self.random.random() < 0.5:
            x = x + self.random.gauss(0, 1)
        return x * self.random.choice([1.0, 2.0, 3.0]) - self.random.randint(1, 4)


@program
def of_a_generator_kept_by_a_module(compile):
    net = Noise(3)
    f = compile(net)
    for k in range(12):
        yield f(X), net.random.getstate()
        if k == 5:
            net.random.seed(1)
        if k == 8:
            net.random = random.Random(7)


@program
def of_a_generator_that_is_given(compile):
    @compile
    def f(x, rng):
        return x * rng.uniform(1, 2) + rng.randrange(5)
    own = random.Random(3)
    for rng in (own, own, own, random.Random(4), random.Random(4), own):
        yield f(X, rng), rng.getstate()


@program
def of_generators_made_by_the_run(compile):
    class Odd(random.Random):
        drawn = 0

        def random(self):
            self.drawn += 1
            return super().random() / 2
    odd = Odd(3)
    f = compile(lambda x: x * random.Random(5).random())
    g = compile(lambda x: x * odd.uniform(1, 2))
    for _ in range(4):
        yield f(X), g(X), odd.drawn


@program
def of_a_generator_with_methods_of_the_users(compile):
    own, told = random.Random(3), []
    f = compile(lambda x: x * own.random() + own.uniform(0, 1))
    yield from calls(f, X, times=3)
    before = random.Random.uniform

    def uniform(self, a, b):
        told.append(a + b)
        return 0.5
    try:
        random.Random.uniform = uniform
        for _ in range(3):
            yield f(X), list(told)
    finally:
        random.Random.uniform = before
    own.random = lambda: told.append("own") or 0.25
    for _ in range(3):
        yield f(X), list(told)


@program
def of_two_generators_before_a_new_path(compile):
    a, b = random.Random(1), random.Random(2)

    @compile
    def f(x):
        k = a.random()
        if (x * k).sum() > 0:
            return x * b.random()
        return x + b.randint(0, 3) + a.random()
    for sign in (1, 1, -1, -1, 1, -1, -1):
        yield f((X + 1) * sign), a.getstate(), b.getstate()


@program(exact=False)
def beside_numbers_that_are_sizes(compile):
    class State:
        total = torch.zeros(())
    s = State()

    @compile
    def f(x, k):
        y = x * random.random()
        s.total += y[:k].sum()
        return y[:k], y[k:].reshape(-1)
    with torch.no_grad():
        for k in (3, 5, 2, 6, 4):
            random.seed(k)
            yield f(tensor(9, 3), k), s.total, s.total._version
            random.seed(k)
            yield f(tensor(9, 3, 2)[..., 1], k), s.total, s.total._version


@program
def given_numbers_of_the_calls_own(compile):
    """Places of crops, in images of several sizes, and of what was drawn before; once there is none."""
    @compile
    def f(x, size):
        size = size.item()
        i = random.randint(0, x.shape[0] - size)
        j = random.randrange(i, x.shape[1] + 1)
        k = numpy.random.uniform(0, high=j + 1)
        return x[i:i + size] * 2, x[:, j:] + k, i + j
    random.seed(0), numpy.random.seed(0)
    for n, m, size in ((9, 9, 3), (9, 9, 3), (9, 9, 4), (10, 12, 2), (11, 12, 11), (3, 8, 4), (8, 9, 1), (9, 12, 5), (9, 2, 1)):
        yield outcome(f, tensor(n, m), torch.tensor(size)), random.random()
