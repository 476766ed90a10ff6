"""Random numbers: those that eager draws under the same seed, and the generator in eager's state afterwards."""
import random

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4, 8)


@program
def dropout(compile):
    f = compile(lambda x: F.dropout(x, 0.5))
    yield from calls(f, X, times=5)
    torch.manual_seed(7)
    yield from calls(f, X)


@program
def dropout_module_in_training_and_evaluation(compile):
    net = nn.Dropout(0.5)
    f = compile(net)
    for training in (True, False, True):
        net.train(training)
        yield from calls(f, X)
    for p in (0.25, 0.0, 1.0):
        net.p = p
        yield from calls(f, X)


@program
def dropout_under_gradient(compile):
    f = compile(lambda x: F.dropout(x * x, 0.5))
    for _ in range(4):
        x = leaf(4, 8)
        yield backward(f(x)), x


@program
def dropout_of_nothing(compile):
    f = compile(lambda x: F.dropout(x, 0.5) * 2)
    for mode in (torch.inference_mode, torch.enable_grad):
        for n in (4, 5, 3, 0, 2, 0):
            torch.manual_seed(n)
            with mode():
                yield f(tensor(n, 6))


@program
def kinds_of_dropout(compile):
    f = compile(lambda x: (F.dropout1d(x, 0.5), F.alpha_dropout(x, 0.5, training=True),
                           F.feature_alpha_dropout(x, 0.5, training=True)))
    yield from calls(f, tensor(2, 3, 4))


@program
def factories(compile):
    f = compile(lambda x: (torch.rand(3) + x.sum(), torch.randn(2, 2), torch.randint(0, 10, (5,)), torch.randperm(6)))
    yield from calls(f, X, times=4)


@program
def like_an_argument(compile):
    f = compile(lambda x: (torch.rand_like(x), torch.randn_like(x) * x, torch.randint_like(x, 5),
                           torch.empty_like(x).uniform_(-1, 1)))
    yield from calls(f, X)
    yield from calls(f, X.t())
    yield from calls(f, X.double())


@program
def filled_in_place(compile):
    @compile
    def f(x):
        x.normal_(1, 2)
        x[0].uniform_(-1, 1)
        return x.bernoulli_(0.5).sum(), torch.empty(3).exponential_(), torch.empty(4).geometric_(0.5), torch.empty(3).cauchy_()
    for _ in range(3):
        x = tensor(4, 8)
        yield f(x)
        yield outcome(f, tensor(8, 4).t())


@program
def distributions_over_tensors(compile):
    f = compile(lambda p: (torch.bernoulli(p), torch.poisson(p * 3), torch.normal(p, p + 1), torch.multinomial(p, 3)))
    for _ in range(4):
        yield f(torch.linspace(0.1, 0.9, 8).reshape(2, 4))


@program(exact=False)
def distributions_of_the_library(compile):
    @compile
    def f(mean):
        normal = torch.distributions.Normal(mean, 1.0, validate_args=False)
        y = normal.rsample()
        return y, normal.log_prob(y)
    for _ in range(3):
        mean = leaf(4)
        y, density = f(mean)
        yield backward(y + density), mean


@program
def seeds_between_calls(compile):
    f = compile(lambda x: x + torch.rand(4, 8))
    for seed in (0, 0, 1, 0, 1, 2):
        torch.manual_seed(seed)
        yield f(X), torch.rand(2)


@program
def seed_inside(compile):
    @compile
    def f(x, seed):
        torch.manual_seed(seed)
        return x + torch.rand(8)
    for seed in (0, 0, 1, 0):
        yield f(X, seed)


@program
def state_restored(compile):
    f = compile(lambda x: x + torch.rand(8))
    yield f(X)
    state = torch.get_rng_state()
    yield from calls(f, X)
    torch.set_rng_state(state)
    yield from calls(f, X)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield f(X)
    yield f(X)


@program
def own_generator(compile):
    generator = torch.Generator().manual_seed(5)
    f = compile(lambda x: x + torch.rand(8, generator=generator))
    yield from calls(f, X, times=4)
    generator.manual_seed(5)
    yield f(X), generator.initial_seed()


@program
def draws_between_calls(compile):
    f = compile(lambda x: F.dropout(x, 0.25))
    for k in range(5):
        yield f(X), torch.rand(k)


@program
def draw_that_nothing_uses(compile):
    @compile
    def f(x):
        torch.rand(10)
        return x * 2
    for _ in range(4):
        yield f(X), torch.rand(2)


@program
def draw_of_nothing(compile):
    f = compile(lambda x, n: (x * 2, torch.rand(n), F.dropout(x[:0], 0.5)))
    for n in (0, 0, 3, 0):
        yield f(X, n), torch.rand(1)


@program
def draw_before_an_exception(compile):
    @compile
    def f(x, w):
        y = F.dropout(x, 0.5)
        return y @ w
    for rows in (8, 8, 3, 8, 3, 8):
        yield outcome(f, X, tensor(rows, 2))


@program
def draw_before_an_index_that_is_out_of_range(compile):
    @compile
    def f(x, i):
        x.add_(torch.rand(8))
        y = x[i]
        return F.dropout(y, 0.5)
    for i in (0, 1, 2, 9, 3, -9, 0):
        x = tensor(4, 8)
        yield outcome(f, x, torch.tensor([i]))


@program(exact=False)
def noise_through_a_network(compile):
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 2))
    f = compile(net)
    for _ in range(4):
        net.zero_grad()
        yield backward(f(X))


@program(exact=False)
def attention_with_dropout(compile):
    f = compile(lambda q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5))
    for _ in range(3):
        q = leaf(1, 2, 4, 8)
        yield backward(f(q)), q


@program
def random_operations_in_order(compile):
    @compile
    def f(x):
        a = torch.rand(8)
        b = torch.randn(8)
        c = torch.rand(8)
        return a - c, x * b
    yield from calls(f, X, times=4)


@program
def default_dtype_of_a_draw(compile):
    f = compile(lambda x: torch.rand(4).to(torch.float64) + x.sum())
    for dtype in (torch.float32, torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            yield from calls(f, X)
        finally:
            torch.set_default_dtype(torch.float32)


@program
def generators_of_python_and_numpy(compile):
    f = compile(lambda x: x * random.choice([1.0, 2.0, 3.0]) + float(numpy.random.default_rng(0).random()))
    yield from calls(f, X, times=5)
    g = compile(lambda x: x[torch.randperm(4)] * numpy.random.rand())
    yield from calls(g, X, times=4)


@program
def recurrent_dropout(compile):
    @compile
    def f(xs):
        h = torch.zeros(8)
        for x in xs:
            h = F.dropout(h + x, 0.5)
        return h
    yield from calls(f, X)
    yield from calls(f, X[:2])


@program
def random_then_written(compile):
    @compile
    def f(x):
        noise = torch.rand_like(x)
        noise.mul_(x).add_(torch.rand(1))
        return noise
    for _ in range(4):
        x = leaf(4, 8)
        yield backward(f(x)), x


@program
def initialisation(compile):
    @compile
    def f(w):
        nn.init.kaiming_uniform_(w)
        nn.init.trunc_normal_(w[0])
        return w * 2
    for _ in range(3):
        w = torch.zeros(4, 8)
        yield f(w)


@program(exact=False)
def draws_with_gradients(compile):
    """Of distributions that write over what they drew, out of autograd's sight."""
    functions = [compile(f) for f in (
        lambda a: torch.distributions.Gamma(a, a + 1).rsample().log().sum(),
        lambda a: torch.distributions.StudentT(a).rsample().sum())]
    for _ in range(4):
        for f in functions:
            a = torch.linspace(0.5, 3, 6, requires_grad=True)
            f(a).backward()
            yield a


@program
def state_of_the_generator(compile):
    @compile
    def f(x):
        state = torch.default_generator.get_state()
        y = torch.rand(3)
        torch.default_generator.set_state(state)
        return x + y, torch.rand(3)
    g = compile(lambda x: x + torch.default_generator.initial_seed() % 10)
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        yield f(tensor(3)), g(tensor(3))
