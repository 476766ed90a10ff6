"""Functions with a backward of their own, and checkpoints."""
import torch
from torch import library, nn
from torch.utils.checkpoint import checkpoint

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4)


class Doubled(torch.autograd.Function):
    """Its backward is not the derivative of its forward."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        ctx.save_for_backward(x)
        return x * k

    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        return grad * ctx.k * 10 + x, None


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Reversed(torch.autograd.Function):
    """Gives its argument, as a view or as it is; reverses the gradient."""

    @staticmethod
    def forward(ctx, x, strength, view=True):
        ctx.strength = strength
        return x.view_as(x) if view else x

    @staticmethod
    def backward(ctx, grad):
        return grad.neg() * ctx.strength, None, None


class Part(torch.autograd.Function):
    """Gives a view of a part of its argument."""

    @staticmethod
    def forward(ctx, x):
        return x[1:]

    @staticmethod
    def backward(ctx, grad):
        return torch.cat([grad[:1], grad * 2])


@program
def function_with_its_own_backward(compile):
    f = compile(lambda x, k: Doubled.apply(x, k) + x)
    for k in (2.0, 2.0, 3.0, 2.0):
        x = leaf(4)
        yield backward(f(x, k))
    with torch.no_grad():
        yield from calls(f, X, 2.0)


@program
def straight_through(compile):
    f = compile(lambda x: StraightThrough.apply(x / 2) * x)
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def gradient_reversed(compile):
    """Another strength on every call, as in adversarial adaptation to a domain."""
    w = leaf(4)

    @compile
    def f(x, strength, view):
        h = x * w
        loss = (Reversed.apply(h, strength, view) * x).sum() + h.sum() + Reversed.apply(x, 2.0, view).sum()
        loss.backward()
        return loss.detach()
    for k in range(6):
        x = leaf(4)
        yield f(x, k / 4, k % 2 == 0), x.grad, w.grad


@program
def strength_branched_on_in_a_function_of_its_own(compile):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, k):
            ctx.k = k
            return x * k if k > 1.0 else x - k

        @staticmethod
        def backward(ctx, grad):
            return grad * (ctx.k if ctx.k > 1.5 else 5.0), None
    f = compile(lambda x, k: Scaled.apply(x * 2, k) * x)
    for k in (0.25, 0.5, 0.75, 1.25, 1.75, 0.5, 2.25):
        x = leaf(4)
        yield backward(f(x, k)), x.grad


def reversed_and(use):
    """A program that uses a tensor `h`, and the same reversed, `r`."""
    def body(compile):
        def f(x, w):
            h = x * w
            r = Reversed.apply(h, 0.5)
            return use(h, r, x)
        f = compile(f)
        for need in (True, True, True, False, False, False):
            x, w = tensor(4).requires_grad_(need), leaf(4).requires_grad_(need)
            y = outcome(f, x, w)
            if isinstance(y, torch.Tensor) and y.requires_grad:
                yield outcome(backward, y), x.grad, w.grad
            yield y
    body.__name__ = f"reversed_and_{use.__name__}"
    body.__module__ = __name__
    return program(body)


@reversed_and
def what_it_shows_is_written_to(h, r, x):
    h.mul_(2)
    return r * x + h


@reversed_and
def what_it_shows_is_written_to_without_gradients(h, r, x):
    with torch.no_grad():
        h.mul_(2)
    return r * x + h


@reversed_and
def what_it_shows_is_written_to_and_it_is_not_read_again(h, r, x):
    y = r * x
    h.mul_(2)
    return y + h


@reversed_and
def it_is_written_to(h, r, x):
    r.mul_(2)
    return r * x + h


@reversed_and
def it_is_written_to_without_gradients(h, r, x):
    with torch.no_grad():
        r[1:].mul_(2)
    return r.detach() * x + h


@reversed_and
def it_is_viewed(h, r, x):
    return r.view(2, 2).t().flatten() * x + r[1] + h


@reversed_and
def it_is_returned(h, r, x):
    return r


@reversed_and
def a_view_of_it_is_returned(h, r, x):
    return r.view(2, 2)


@reversed_and
def it_is_cut_off(h, r, x):
    return r.detach() + h


@reversed_and
def a_reversed_one_is_reversed(h, r, x):
    return Reversed.apply(r, 3.0) * r + Reversed.apply(x, 2.0, False) * h


class Again(torch.autograd.Function):
    """Keeps no activations: computes a function once more in the backward pass, and gives the gradients of its parameters too."""

    @staticmethod
    def forward(ctx, function, x, *parameters):
        ctx.function, ctx.parameters = function, parameters
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        return None, *torch.autograd.grad(y, (x, *ctx.parameters), grad, allow_unused=True)


@program
def parameters_given_beside_the_function_that_has_them(compile):
    net = whole(torch.nn.Linear(4, 4))
    f = compile(lambda x: Again.apply(net.forward, x * 2, *net.parameters()) * x)

    @compile
    def step(x):
        f(x).sum().backward()
    for _ in range(3):
        net.zero_grad()
        yield backward(f(leaf(2, 4)))
        yield step(leaf(2, 4))


@program
def parameter_given_beside_a_closure_that_has_it(compile):
    w = leaf(4)
    f = compile(lambda x: Again.apply(lambda x: x * w, x * 2, w) * x)
    for _ in range(3):
        w.grad = None
        yield backward(f(leaf(4)))


class Counting(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, counter):
        ctx.counter = counter
        counter.count()
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        ctx.counter.count()
        return grad * 2, None


class Counter:
    def __init__(self):
        self.calls, self.log, self.seen = 0, [], torch.zeros(1)

    def count(self):
        self.calls += 1


class Logging(Counter):
    def count(self):
        self.log.append(len(self.log))


class Adding(Counter):
    def count(self):
        self.seen.add_(1)


_counted = 0


class Global(Counter):
    def count(self):
        global _counted
        _counted += 1


@program
def evaluations_counted_by_a_function_with_its_own_backward(compile):
    """As the solvers of neural differential equations count theirs."""
    global _counted
    _counted = 0
    for kind in (Counter, Logging, Adding, Global):
        counter = kind()
        f = compile(lambda x: Counting.apply(x * 3, counter) * x)

        @compile
        def step(x):
            f(x).sum().backward()
        for _ in range(3):
            yield backward(f(leaf(4))), _counted
            yield step(leaf(4)), _counted


@program(exact=False)
def checkpoints_of_what_changes_state(compile):
    """The backward pass changes it once more."""
    class Block(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.net = torch.nn.Sequential(whole(torch.nn.Linear(4, 4)), norm)
            self.calls = 0

        def forward(self, x):
            self.calls += isinstance(self.net[1], torch.nn.Identity)
            return self.net(x)
    for norm in (torch.nn.BatchNorm1d(4), torch.nn.Identity()):
        block = Block(norm)
        f = compile(lambda x: checkpoint(block, x, use_reentrant=False).square())

        @compile
        def step(x):
            checkpoint(block, x, use_reentrant=False).square().sum().backward()
        for n in (3, 3, 4, 5, 3):
            block.zero_grad()
            yield backward(f(leaf(n, 4)))
            yield step(leaf(n, 4))
        block.eval()
        with torch.no_grad():
            yield from calls(f, tensor(3, 4))


@program
def reversed_argument_is_viewed_and_returned(compile):
    f = compile(lambda x: Reversed.apply(x, 2.0).view(2, 2))
    for _ in range(3):
        x = leaf(4)
        yield backward(f(x)), x.grad
    yield from calls(f, X)


@program
def part_given_by_a_function_with_its_own_backward(compile):
    f = compile(lambda x: Part.apply(x * 2) * 3)
    for _ in range(3):
        x = leaf(4)
        yield backward(f(x)), x.grad


@program
def straight_through_by_detach(compile):
    f = compile(lambda x: x + (x.round() - x).detach())
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def own_backward_around_a_compiled_function(compile):
    f = compile(lambda x: x * x)
    for _ in range(4):
        x = leaf(4)
        yield backward(Doubled.apply(f(Doubled.apply(x, 2.0)), 3.0))


@program
def own_backward_replaced(compile):
    f = compile(lambda x: Doubled.apply(x, 2.0))
    yield from (backward(y) for y in calls(f, leaf(4)))
    kept = Doubled.backward
    try:
        Doubled.backward = staticmethod(lambda ctx, grad: (grad * 100, None))
        x = leaf(4)
        yield from (backward(y) for y in calls(f, x))
    finally:
        Doubled.backward = kept


@program(exact=False)
def checkpointed(compile):
    @compile
    def f(x, w):
        return checkpoint(lambda h: torch.tanh(h * w), x, use_reentrant=False) * w
    for _ in range(4):
        x, w = leaf(4), leaf(4)
        yield backward(f(x, w)), x, w


@program
def checkpointed_with_random_numbers(compile):
    drop = nn.Dropout(0.5)

    @compile
    def f(x, keep):
        return checkpoint(lambda h: drop(h * 2) * drop(h), x, use_reentrant=False, preserve_rng_state=keep)
    for keep in (True, False, False, True, True):
        x = leaf(4, 4)
        yield backward(f(x, keep)), x


@program(exact=False)
def checkpoint_around(compile):
    f = compile(lambda h, w: torch.tanh(h * w))
    for reentrant in (False, True, False, True):
        x, w = leaf(4), leaf(4)
        yield backward(checkpoint(f, x, w, use_reentrant=reentrant) * w), x, w


@program
def own_backward_in_transforms(compile):
    class Tenfold(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * 10
    f = compile(lambda x: torch.func.grad(lambda y: Tenfold.apply(y).sum())(x), fullgraph=True)
    for k in range(3):
        yield f(X + k)


@program
def ops_whose_kernels_are_differentiated(compile):
    """Autograd knows nothing of them; the ops that they call may draw."""
    made = library.Library("smelt_kernels", "FRAGMENT")
    for name, kernel in {"twice": lambda x: x + x.detach() * x, "noisy": lambda x: x * torch.rand(3)}.items():
        made.define(f"{name}(Tensor x) -> Tensor")
        made.impl(name, kernel, "CPU")
    try:
        for op in (torch.ops.smelt_kernels.twice.default, torch.ops.smelt_kernels.noisy.default):
            f = compile(lambda x: op(x * 2) - 1)
            for k in range(3):
                torch.manual_seed(k)
                x = leaf(2, 3)
                yield backward(f(x)), x.grad
    finally:
        made._destroy()


# Custom ops with registered gradients: not the derivatives, so that one can tell

ASKED: list[tuple] = []


@library.custom_op("smelt_tests::stretched", mutates_args=())
def stretched(x: torch.Tensor, w: torch.Tensor, k: float = 2.0) -> torch.Tensor:
    return x * w * k


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])
    ctx.k = inputs[2]


def _tenfold(ctx, grad):
    ASKED.append(ctx.needs_input_grad)
    x, w = ctx.saved_tensors
    return grad * w * ctx.k * 10, (grad * x * ctx.k * 10).sum_to_size(w.shape) if ctx.needs_input_grad[1] else None, None


stretched.register_autograd(_tenfold, setup_context=_keep)
stretched.register_fake(lambda x, w, k=2.0: torch.empty_like(x))


@library.custom_op("smelt_tests::both", mutates_args=())
def both(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return parts[0] + parts[1], parts[0] * parts[1]


def _keep_parts(ctx, inputs, output):
    ctx.parts = inputs[0]


both.register_autograd(lambda ctx, g, h: [g * 3 + h * ctx.parts[1], g - h], setup_context=_keep_parts)


@library.custom_op("smelt_tests::lost", mutates_args=())
def lost(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@program
def ops_with_gradients(compile):
    f = compile(lambda x, w, k: stretched(x - 0.5, w, k).relu() + 1)
    for n, k in ((3, 2.0), (3, 2.0), (3, 1.5), (5, 1.5), (4, 0.5), (4, -1.0)):
        x, w = leaf(n, 2) + k, leaf(2)
        ASKED.clear()
        y = f(x, w, k)
        yield y, backward(y), w.grad, list(ASKED)
    with torch.no_grad():
        yield f(leaf(3, 2), leaf(2), 2.0)
    ASKED.clear()
    yield backward(f(leaf(3, 2), tensor(2), 2.0)), list(ASKED)


@program(exact=False)
def ops_with_gradients_in_a_step(compile):
    net = whole(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.001)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = stretched(net(x), net.bias).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    for n in (2, 2, 3, 4):
        yield step(tensor(n, 4)), net.weight.grad, [p.detach() for p in net.parameters()]


@program
def ops_with_gradients_of_lists(compile):
    f = compile(lambda x, w: both([x * 2, w])[0].relu() + x)
    g = compile(lambda x, w: [y * 2 for y in both([x, w * 0.5])])
    for k in range(3):
        x, w = leaf(3), leaf(3)
        yield backward(f(x + k, w)), x.grad, w.grad
        sum_, product = g(x + k, w)
        yield backward(product if k else sum_ * product), x.grad, w.grad


@program
def ops_with_gradients_differentiated_twice(compile):
    @compile
    def f(x, w):
        g, = torch.autograd.grad(stretched(x, w).square().sum(), x, create_graph=True)
        return g.square().sum()
    h = compile(lambda x, w: stretched(x, w).square().sum())
    for k in range(3):
        x, w = leaf(3), leaf(3)
        yield backward(f(x + k, w)), w.grad
        g, = torch.autograd.grad(h(x, w), x, create_graph=True)
        yield backward(g.square().sum()), x.grad, w.grad


@program
def ops_without_gradients(compile):
    f = compile(lambda x: lost(x * 2) * 3)
    for k in range(3):
        yield outcome(f, tensor(3) + k)
        yield outcome(lambda x: backward(f(x)), leaf(3))


@program
def ops_with_gradients_before_a_branch(compile):
    @compile
    def f(x, w):
        y = stretched(x, w)
        return y * 2 if y.sum() > 0 else stretched(y, w, 3.0)
    for k in (1, -1, 2, -2, 3):
        x, w = leaf(3), leaf(3)
        yield backward(f(x * k + k, w.abs())), x.grad, w.grad


class Sparse(torch.autograd.Function):
    """Saves what it gives, which it wrote to."""

    @staticmethod
    def forward(ctx, x, twice):
        p = torch.clamp(x, min=0) ** 2
        p /= p.sum(-1, keepdim=True) + 1
        if twice:
            p.mul_(2)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad):
        p, = ctx.saved_tensors
        return grad * p, None


@program
def results_that_functions_saved_once_they_had_written_to_them(compile):
    f, view = compile(lambda x, k: Sparse.apply(x, k)), compile(lambda x, k: Sparse.apply(x, k)[0])
    later = compile(lambda x, k: Sparse.apply(x * 2, k).add_(1))
    both = compile(lambda x, k: (Sparse.apply(x, k), Sparse.apply(x + 1, not k) * 2))
    for n, k in ((3, False), (3, False), (3, True), (4, True), (3, False)):
        for function in (f, view):
            x = leaf(n, 5)
            y = function(x, k)
            yield y, y._version, backward(y.sum()), x.grad
        x = leaf(n, 5)
        y = later(x, k)
        yield y._version, outcome(backward, y.sum()), x.grad
        y, z = both(x, k)
        yield y._version, z._version, backward((y * z).sum()), x.grad


class Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.mark_dirty(x)
        ctx.k = k
        return x.mul_(k)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.k, None


class Parted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *, places=None):
        return x, x[:, 0], Doubled.apply(x * x.shape[0], 2)

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] + grads[2] * 2


@program(exact=False)
def functions_that_no_gradient_flows_through(compile):
    """What they do is recorded as anything is: also of sizes that change, with a view as the result, and where they write."""
    @compile
    def f(x, k):
        y = Doubled.apply(x * 2, k)
        return Sparse.apply(y, True) + x.shape[0], Written.apply(y.clone(), k), StraightThrough.apply(x)

    @compile
    def parts(x):
        kept, first, doubled = Parted.apply(x)
        first.add_(1)
        return kept, first, doubled

    @compile
    def trained(x, w):
        with torch.no_grad():
            scale = Doubled.apply(x, 3).sum()
        return (Doubled.apply(x * w, 2) * scale).sum()
    for n, k in ((2, 1.5), (3, 1.5), (4, 2.5), (5, 3.5), (1, 2.0)):
        x = tensor(n, 3)
        yield f(x, k), x
        yield parts(x), x
        with torch.no_grad():
            yield f(leaf(n, 3), k)
        w = leaf(3)
        yield backward(trained(x, w)), w.grad
