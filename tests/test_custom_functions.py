"""Custom autograd.Functions inside compiled functions: their own forward and backward run, the rest is compiled."""
import warnings

import pytest
import torch

import smelt
from smelt.errors import SmeltWarning


class Rounded(torch.autograd.Function):
    """Straight through: the gradient does not see the rounding."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Scaled(torch.autograd.Function):
    """Two results; a gradient of its own, twice the true one."""

    @staticmethod
    def forward(ctx, x, w, k):
        ctx.save_for_backward(x, w)
        ctx.k = k
        return x * w * k, x + w

    @staticmethod
    def backward(ctx, g, h):
        x, w = ctx.saved_tensors
        return 2 * g * w * ctx.k + h, (2 * g * x * ctx.k).sum(0) + h.sum(0), None


class Power(torch.autograd.Function):
    """With setup_context and a default argument."""

    @staticmethod
    def forward(x, p=2.0):
        return x.clamp(min=0) ** p

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.p = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.p * g * ctx.saved_tensors[0].clamp(min=0), None


class Argmax(torch.autograd.Function):
    """A result that is not differentiable beside one that is."""

    @staticmethod
    def forward(ctx, x):
        values, places = x.max(-1)
        ctx.mark_non_differentiable(places)
        ctx.save_for_backward(places)
        ctx.width = x.shape[-1]
        return values, places

    @staticmethod
    def backward(ctx, g, _):
        return torch.nn.functional.one_hot(ctx.saved_tensors[0], ctx.width) * g.unsqueeze(-1)


class HalfBlind(torch.autograd.Function):
    """Gives None as the gradient of its second argument."""

    @staticmethod
    def forward(ctx, x, y):
        return x + y

    @staticmethod
    def backward(ctx, g):
        return g * 5, None


class Asking(torch.autograd.Function):
    """Computes only what is needed."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return (g * y if ctx.needs_input_grad[0] else None), (g * x if ctx.needs_input_grad[1] else None)


class Reversed(torch.autograd.Function):
    """Gives its argument; reverses the gradient."""

    @staticmethod
    def forward(ctx, x, strength, view=True):
        ctx.strength = strength
        return x.view_as(x) if view else x

    @staticmethod
    def backward(ctx, g):
        return -ctx.strength * g, None, None


class Product(torch.autograd.Function):
    """Its matrix products are cast under autocast, forward and backward."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g


def under_autocast(x, w):
    with torch.autocast("cpu", torch.bfloat16):
        return Product.apply(x * 0.3, torch.stack([w, w * 0.7], 1)).float() * 3


def differentiated_under_autocast(x, w):
    with torch.autocast("cpu", torch.bfloat16):
        slope, = torch.autograd.grad(Product.apply(x * 0.3, torch.stack([w, w], 1)).float().sum(), x)
    return slope * w + x


rounded = Rounded.apply
CASES = {
    "straight through": lambda x, w: rounded(x * 3).tanh() * w,
    "two results": lambda x, w: torch.stack(Scaled.apply(x.sin(), w, 1.5)).exp(),
    "one result unused": lambda x, w: Scaled.apply(x, w, 2)[0] * 2,
    "setup_context": lambda x, w: Power.apply(x * w) + Power.apply(x, 3.0),
    "non-differentiable result": lambda x, w: (lambda v, i: v * w[i])(*Argmax.apply(x * 2)),
    "none as a gradient": lambda x, w: HalfBlind.apply(x * 2, x + w),
    "needs_input_grad": lambda x, w: Asking.apply(x * 2, w.detach()) + Asking.apply(x.detach(), w),
    "one after another": lambda x, w: Rounded.apply(Asking.apply(Rounded.apply(x * 4), w)),
    "under no_grad": lambda x, w: torch.no_grad()(lambda: Rounded.apply(x) * w)() + x,
    "a view of its argument": lambda x, w: Reversed.apply(x * w, 0.5) * x + Reversed.apply(x, 2.0),
    "its argument": lambda x, w: Reversed.apply(x * w, 0.5, False) * x + Reversed.apply(x, 2.0, False),
    "under autocast": under_autocast,
    "written to afterwards": lambda x, w: Rounded.apply(x * 2).mul_(w).add_(1),
}


def run(function, seed, need=(True, True)):
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(s, generator=generator).requires_grad_(n) for s, n in zip(((5, 7), (7,)), need)]
    out = function(*leaves)
    if out.requires_grad:
        out.square().sum().backward()
    return [out.detach(), *(t.grad for t in leaves)]


@pytest.mark.parametrize("need", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_eager(name, need):
    compiled = smelt.compile(CASES[name])
    for seed in range(3):
        for a, b in zip(run(CASES[name], seed, need), run(compiled, seed, need), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)
    assert smelt.explain(compiled).compiled and len(compiled.programs) == 1


def test_a_number_that_changes_is_given_as_it_is():
    f = lambda x, strength: Reversed.apply(x * 2, strength).sum()  # noqa: E731
    compiled = smelt.compile(f)
    for k in range(6):
        x = torch.ones(3, requires_grad=True)
        compiled(x, k / 4).backward()
        assert x.grad.tolist() == [-k / 2] * 3
    assert len(compiled.programs) == 2


def test_second_derivative():
    def penalty(function, x):
        x = x.clone().requires_grad_()
        g, = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        g.square().sum().backward()
        return x.grad
    f = lambda x: Asking.apply(x.sin(), x * 2).exp()  # noqa: E731
    compiled, x = smelt.compile(f), torch.randn(6)
    torch.testing.assert_close(penalty(compiled, x), penalty(f, x), rtol=1e-5, atol=1e-6)


class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + torch.rand(x.shape)

    @staticmethod
    def backward(ctx, g):
        return g


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx, g):
        return g


class Borrowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, other):
        return x * other()

    @staticmethod
    def backward(ctx, g):
        return g, None


class Remembering(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seen):
        seen["x"] = 1 - seen.get("x", 0)
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2, None


class Loud(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        print("forward")
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def borrowing(x, w):
    y = x.exp()
    return Borrowing.apply(x * w, lambda: y)


class Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x[:2]

    @staticmethod
    def backward(ctx, g):
        return torch.cat([g, g, g])[:5]


SEEN = {}
EAGER = {
    "gives a part": (lambda x, w: Part.apply(x * 2) * w, "gives a view of a part of an argument"),
    "its view is returned": (lambda x, w: Reversed.apply(x * w, 0.5), "gives a view that a custom autograd.Function made"),
    "random numbers": (lambda x, w: Noisy.apply(x) * w, "draws random numbers"),
    "differentiated under autocast": (differentiated_under_autocast, "(Product) that is differentiated under autocast"),
    "changes its argument": (lambda x, w: InPlace.apply(x * w) * 2, "changes its arguments"),
    "a tensor by another way": (borrowing, "uses a tensor that is not its argument"),
    "changes a dict": (lambda x, w: Remembering.apply(x, SEEN) * w, "custom autograd.Function that changes"),
    "prints": (lambda x, w: Loud.apply(x) * w, "prints or logs within an autograd.Function"),
}


@pytest.mark.parametrize("name", EAGER)
def test_eager_with_the_reason(name):
    function, reason = EAGER[name]
    compiled = smelt.compile(function)
    for seed in range(3):
        torch.manual_seed(seed)
        wanted = run(function, seed)
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmeltWarning)
            found = run(compiled, seed)
        for a, b in zip(wanted, found, strict=True):
            assert torch.equal(a, b)
    assert len(compiled.fallbacks) == 1 and reason in compiled.fallbacks[0]


def test_an_exception_passes_and_leaves_no_trace():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if x.shape[0] == 3:
                raise KeyError("three")
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2
    f = smelt.compile(lambda x: Failing.apply(x) + 1)
    with pytest.raises(KeyError, match="three"):
        f(torch.ones(3))
    for _ in range(2):
        assert torch.equal(f(torch.ones(4)), torch.full((4,), 3.0))
    assert smelt.explain(f).compiled


def test_a_changed_function_is_not_missed():
    class Factor(torch.autograd.Function):
        factor = 2.0

        @staticmethod
        def forward(ctx, x):
            return x * Factor.factor

        @staticmethod
        def backward(ctx, g):
            return g * Factor.factor
    f = smelt.compile(lambda x: Factor.apply(x) + 1)
    for factor in (2.0, 5.0, 2.0):
        Factor.factor = factor
        x = torch.ones(2, requires_grad=True)
        out = f(x)
        out.sum().backward()
        assert out.tolist() == [factor + 1] * 2 and x.grad.tolist() == [factor] * 2


def test_a_module_with_a_straight_through_estimator_trains_as_in_eager():
    def trained(wrap):
        torch.manual_seed(0)
        first, second = torch.nn.Linear(6, 16), torch.nn.Linear(16, 3)
        forward = wrap(lambda x: second(Rounded.apply(first(x) * 4) / 4))
        optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = forward(torch.randn(8, 6)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses
    assert trained(smelt.compile) == pytest.approx(trained(lambda f: f), rel=1e-5)
