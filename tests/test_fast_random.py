"""rng="fast": random numbers computed in the kernels, reproducible, and of the right distributions."""
import pytest
import torch
import torch.nn.functional as F

import smelt
from smelt.codegen.interpret import SCALARS
from smelt.compiler.ops.random import philox

N = 100_000


def test_philox_gives_the_published_numbers():
    """The known answers of the method's authors, for a key and a counter of zeros and of ones."""
    key, counter = torch.tensor([0, -1]), torch.tensor([0, -1])
    assert philox(key[:1], counter[:1]).item() == 0x6627E8D5
    assert SCALARS["philox"] is philox


def warm(function, *args, **options):
    """The function compiled, its recording behind it."""
    f = smelt.compile(function, rng="fast", **options)
    f(*args)
    assert smelt.explain(f).compiled
    return f


def distance(sample, cdf):
    """Kolmogorov and Smirnov's distance from a distribution, in units that exceed 1.95 once in a thousand times."""
    x, _ = sample.double().sort()
    n = len(x)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return max((cdf(x) - steps[:-1]).max(), (steps[1:] - cdf(x)).max()).item() * n ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions(dtype):
    torch.manual_seed(0)
    x = torch.zeros(N, dtype=dtype)
    f = warm(lambda x: (torch.rand_like(x), torch.randn_like(x) * 2 + 1, torch.empty_like(x).uniform_(-3, 5)), x)
    uniform, normal, drawn = f(x)
    assert uniform.dtype == normal.dtype == dtype
    assert 0 <= uniform.min() and uniform.max() < 1 and -3 <= drawn.min() and drawn.max() < 5
    assert distance(uniform, lambda v: v) < 1.95
    assert distance((drawn + 3) / 8, lambda v: v) < 1.95
    assert distance((normal - 1) / 2, lambda v: 0.5 * (1 + torch.erf(v / 2 ** 0.5))) < 1.95
    numbers = torch.stack([uniform, drawn, normal]).double()
    assert (torch.corrcoef(numbers) - torch.eye(3)).abs().max() < 0.02
    assert torch.corrcoef(torch.stack([uniform[1:], uniform[:-1]]))[0, 1].abs() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_stay_below_one(dtype):
    x = torch.zeros(N, dtype=dtype)
    u = warm(torch.rand_like, x)(x)
    assert u.dtype == dtype and u.max() < 1 and abs(u.float().mean() - 0.5) < 0.01


def test_bernoulli():
    p = torch.linspace(0, 1, 5)[:, None].expand(5, N).contiguous()
    b = warm(torch.bernoulli, p)(p)
    assert set(b.unique().tolist()) == {0.0, 1.0}
    assert (b.mean(1) - p[:, 0]).abs().max() < 0.01 and b[0].sum() == 0 and b[-1].sum() == N


def test_the_seed_reproduces_and_the_generator_moves_on():
    x = torch.ones(1000)
    f = warm(lambda x: F.dropout(x, 0.5) + torch.rand_like(x), x)
    torch.manual_seed(3)
    first, second, after = f(x), f(x), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(f(x), first) and torch.equal(f(x), second) and torch.equal(torch.rand(1), after)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_and_its_gradient_agree(p):
    x = torch.randn(64, 500).exp()
    f = warm(lambda x: F.dropout(x, p) * 3, x.clone().requires_grad_())
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        y.sum().backward()
        kept = leaf.grad != 0
        assert torch.equal(y != 0, kept) and abs(kept.float().mean() - (1 - p)) < 0.02
        if p < 1:
            torch.testing.assert_close(leaf.grad[kept], torch.full((int(kept.sum()),), 3 / (1 - p)))
    assert smelt.explain(f).compiled


def test_it_fuses():
    x = torch.ones(32, 100)
    f = warm(lambda x: F.dropout(x * 2, 0.5).sum(-1), x)
    report = smelt.explain(f).programs[0]
    assert [c.split()[0] for c in report.calls] == ["seed"] and len(report.kernels) == 1


def test_training_with_dropout_converges():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 1))
    compiled, optimizer = smelt.compile(net, rng="fast"), torch.optim.Adam(net.parameters(), 0.01)
    x = torch.randn(256, 8)
    losses = []
    for _ in range(150):
        loss = F.mse_loss(compiled(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    net.eval()
    compiled(x)
    assert torch.equal(compiled(x), compiled(x))


def test_in_tritons_interpreter():
    x = torch.ones(40)
    both = []
    for backend in ("c", "triton"):
        f = warm(lambda x: torch.rand_like(x) * x, x, backend=backend)
        torch.manual_seed(1)
        both.append(f(x))
    assert torch.equal(*both)
