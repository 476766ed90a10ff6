"""Gradients: modes, partial requirements, hooks, functions with a backward of their own, checkpoints, second derivatives."""
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .harness import backward, calls, leaf, outcome, program, tensor

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


def gradients(y, *inputs, **options):
    """Contiguous ones: torch promises no layout for what it gives."""
    found = torch.autograd.grad(y, inputs, tensor(*y.shape) + 0.5, allow_unused=True, **options)
    return [None if g is None else g.contiguous() for g in found]


@program
def no_grad_inside(compile):
    @compile
    def f(x):
        with torch.no_grad():
            scale = x.abs().max()
        return x * scale + (x * 2).detach()
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def view_made_without_gradients(compile):
    """Of a tensor that requires grad: it requires grad, too, and gets none."""
    @compile
    def f(x):
        y = x * 2
        with torch.no_grad():
            return y[1:], y.sum()
    for _ in range(4):
        part, total = f(x := leaf(4))
        backward(part * 3)
        yield part, total, part.requires_grad, part.grad, x.grad


@program
def enable_grad_inside(compile):
    @compile
    def f(x):
        with torch.enable_grad():
            y = x * x
        return y, x * 2
    x = leaf(4)
    for guard in (torch.no_grad, torch.enable_grad, torch.no_grad, torch.inference_mode, torch.enable_grad):
        with guard():
            yield from calls(f, x)


@program
def set_grad_enabled_as_a_decorator(compile):
    @compile
    @torch.no_grad()
    def f(x):
        return x * 2
    x = leaf(4)
    yield from calls(f, x)


@program
def inference_mode_inside(compile):
    @compile
    def f(x):
        with torch.inference_mode():
            return x * 2
    yield from calls(f, leaf(4))


@program
def inference_tensors(compile):
    f = compile(lambda x, w: x * w)
    with torch.inference_mode():
        frozen = tensor(4)
    yield from calls(f, frozen, X)
    yield from calls(f, X, X)
    yield outcome(f, frozen, leaf(4))
    yield from (backward(y) for y in calls(f, X, leaf(4)))


@program
def partial_requirements(compile):
    f = compile(lambda a, b, c: (a * b, b + c, c * 2))
    for flags in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1), (1, 1, 1)):
        inputs = [tensor(4).requires_grad_(bool(flag)) for flag in flags]
        results = f(*inputs)
        live = [r for r in results if r.requires_grad]
        if live:
            torch.autograd.backward(live, [tensor(4)] * len(live))
        yield results, inputs


@program
def requirement_toggled_inside(compile):
    @compile
    def f(x):
        y = (x * 2).detach().requires_grad_()
        return y * 3, y
    for _ in range(4):
        z, y = f(X)
        yield backward(z), y


def parameter_made(use):
    """A program whose function makes parameters."""
    def body(compile):
        f = compile(use)
        for k in range(5):
            torch.manual_seed(0)
            x = (tensor(4) + k % 2).requires_grad_(k > 2)
            y = outcome(f, x)
            if isinstance(y, torch.Tensor) and y.requires_grad:
                yield outcome(backward, y)
            yield y, x
        for k in range(5, 8):
            torch.manual_seed(0)
            yield outcome(f, tensor(k))
    body.__name__ = f"parameter_made_{use.__name__}"
    body.__module__ = __name__
    return program(body, exact=False)


@parameter_made
def and_trained(x):
    w = nn.Parameter(torch.zeros(x.shape[0]))
    optimizer = torch.optim.Adam([w], lr=0.125)
    for _ in range(3):
        optimizer.zero_grad()
        (x.detach() * w - 1).pow(2).sum().backward()
        optimizer.step()
    return w.detach()


@parameter_made
def of_an_argument_and_written_to(x):
    w = nn.Parameter(x.detach())
    with torch.no_grad():
        w.mul_(2)
    (w * w).sum().backward()
    return w.grad * 1


@parameter_made
def of_what_is_read_again(x):
    h = x.detach() * 2
    w = nn.Parameter(h)
    (w * w).sum().backward()
    with torch.no_grad():
        w.sub_(w.grad)
    return h, w.grad.clone()


@parameter_made
def and_returned(x):
    return nn.Parameter(x.detach() * 2)


@parameter_made
def and_returned_with_a_result(x):
    w = nn.Parameter(torch.ones_like(x))
    return w * x


@parameter_made
def that_requires_no_gradient(x):
    return nn.Parameter(x.detach() * 2, requires_grad=False) * x


@parameter_made
def in_a_module(x):
    net = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    for _ in range(2):
        optimizer.zero_grad()
        net(x[:4].detach()).sum().backward()
        optimizer.step()
    return net(x[:4].detach()).detach() * x.detach()


@program
def parameter_made_for_a_module_from_outside(compile):
    net = nn.Linear(4, 2)

    @compile
    def f(x):
        net.weight = nn.Parameter(x.reshape(2, 2).repeat(1, 2))
        return net.weight.detach() * 2
    for k in range(3):
        yield f(tensor(4) + k), net.weight


@program(exact=False)
def leaf_made_inside(compile):
    """Steps uphill, as in adversarial training."""
    w = leaf(4)

    @compile
    def f(x):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(2):
            slope, = torch.autograd.grad((torch.sin(x + delta) * w).sum(), delta)
            with torch.no_grad():
                delta.add_(slope.sign() / 8)
        return ((x + delta.detach()) * w).sum()
    for k in range(4):
        f(tensor(4) + k).backward()
        yield w


@program
def leaf_with_a_gradient_of_its_own(compile):
    @compile
    def f(x):
        other = x.detach().clone().requires_grad_()
        (other * other * x).sum().backward()
        return other.grad * 2
    for _ in range(4):
        x = leaf(4)
        yield f(x), x


@program
def cut_in_place(compile):
    @compile
    def f(x):
        h = x * 2
        h.detach_()
        return x + h * x
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def requirement_of_an_argument_toggled_inside(compile):
    @compile
    def f(x):
        x.requires_grad_()
        return x * 2
    for _ in range(4):
        x = tensor(4)
        yield backward(f(x))


@program
def requirement_read_in_python(compile):
    f = compile(lambda x: x * 2 if x.requires_grad else x + 1)
    for x in (leaf(4), leaf(4), X, X, leaf(4)):
        yield f(x)
    with torch.no_grad():
        yield from calls(f, leaf(4))
        yield from calls(f, X)


@program
def leaves_asked_for_in_python(compile):
    f = compile(lambda x: x * 2 if x.is_leaf else x + 1)
    for x in (leaf(4), leaf(4), leaf(4) * 2, leaf(4) * 3, X, X, leaf(4), leaf(5) * 2, leaf(6), leaf(7), leaf(6) * 2):
        yield f(x)


@program
def nodes_of_leaves_asked_for_in_python(compile):
    f = compile(lambda x: x * 2 if x.grad_fn is None else x + 1)
    for x in (leaf(4), leaf(4), X, X, leaf(5), leaf(6), leaf(4) * 2, leaf(4)):
        yield f(x)


@program
def backward_inside_from_an_argument_that_is_no_leaf(compile):
    w = leaf(4)

    @compile
    def f(x):
        (x * w).sum().backward()
        return w.grad * 2
    for k in range(3):
        x = leaf(4)
        yield f(x), f(x * (k + 1)), x.grad


@program
def requirement_of_an_argument_that_is_no_leaf_toggled_inside(compile):
    seen = []

    @compile
    def f(x):
        seen.append(1)
        x.requires_grad_(False)
        return x * 2
    for x in (leaf(4), leaf(4), leaf(4), leaf(4) * 2):
        yield outcome(f, x), seen


@program
def gradient_mode_read_in_python(compile):
    f = compile(lambda x: x * 2 if torch.is_grad_enabled() else x + 1)
    for guard in (torch.enable_grad, torch.no_grad, torch.enable_grad, torch.no_grad):
        with guard():
            yield from calls(f, leaf(4))


@program
def hook_inside(compile):
    @compile
    def f(x):
        y = x * 2
        y.register_hook(lambda grad: grad * 10)
        return y * x
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def hooks_outside(compile):
    seen = []
    f = compile(lambda x, w: x * w)
    w = leaf(4)
    handle = w.register_hook(lambda grad: grad * 2)
    for k in range(5):
        x = leaf(4)
        y = f(x, w)
        y.register_hook(lambda grad: seen.append(grad.clone()))
        yield backward(y)
        if k == 2:
            handle.remove()
    w.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    yield backward(f(leaf(4), w))


@program
def gradient_retained(compile):
    f = compile(lambda x: x * x)
    for _ in range(4):
        x = leaf(4)
        h = x + 1
        h.retain_grad()
        y = f(h)
        y.retain_grad()
        yield backward(y * 1), h


@program
def retained_inside(compile):
    @compile
    def f(x):
        y = x * 2
        y.retain_grad()
        return y, y * x
    for _ in range(3):
        x = leaf(4)
        y, z = f(x)
        yield backward(z), y


def gradient_kept(use):
    """A program whose function keeps the gradient of a tensor that it makes, and reads it."""
    def body(compile):
        f = compile(lambda x, h=None: use(x, (x * 2) if h is None else h))
        for k in range(6):
            x = (tensor(4) + k % 2).requires_grad_()
            y = outcome(f, x)
            yield y, x
            if isinstance(y, torch.Tensor) and y.requires_grad:
                yield backward(y), x
        yield from (outcome(f, x, x * 2) for _ in range(2))
        yield from (outcome(f, leaf(k)) for k in range(5, 8))
    body.__name__ = f"gradient_kept_{use.__name__}"
    body.__module__ = __name__
    return program(body)


@gradient_kept
def by_two_passes(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(retain_graph=True)
    first = h.grad
    (h * x).sum().backward()
    return first, h.grad


@gradient_kept
def where_it_is_not_reached(x, h):
    h.retain_grad()
    (x * 3).sum().backward()
    return h.grad is None, h.retains_grad


@gradient_kept
def by_a_pass_for_others(x, h):
    h.retain_grad()
    slope, = torch.autograd.grad((h ** 3).sum(), x, allow_unused=True)
    other, = torch.autograd.grad((h ** 2).sum(), h)
    return slope, other, h.grad


@gradient_kept
def to_be_differentiated(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(create_graph=True)
    y = (h.grad ** 2).sum()
    x.grad = None
    return y


@gradient_kept
def of_views_written_to(x, h):
    part = h[1:]
    part.retain_grad()
    h.retain_grad()
    h.mul_(3)
    (h * h).sum().backward()
    return h.grad, part.grad


@gradient_kept
def and_changed(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(retain_graph=True)
    h.grad.zero_()
    (h ** 2).sum().backward(retain_graph=True)
    first, h.grad = h.grad, None
    h.sum().backward()
    return first, h.grad * 1


@gradient_kept
def and_branched_on(x, h):
    h.retain_grad()
    (h ** 3).sum().backward()
    return h.grad * 2 if h.grad.sum() > 200 else h.grad + 1


@gradient_kept
def after_a_branch(x, h):
    h.retain_grad()
    if h.sum() > 3:
        return h * 2, h.grad
    (h ** 3).sum().backward()
    return h.grad * 2


@program
def graph_retained(compile):
    f = compile(lambda x: x * x * 3)
    for _ in range(3):
        x = leaf(4)
        y = f(x)
        y.backward(tensor(4), retain_graph=True)
        yield y
        y.backward(tensor(4))
        yield y, outcome(y.backward, tensor(4))


@program
def gradients_of_some_inputs(compile):
    f = compile(lambda a, b: a * b + a)
    for wanted in ("a", "b", "ab", "a", "b"):
        a, b = leaf(4), leaf(4)
        y = f(a, b)
        yield gradients(y, *[{"a": a, "b": b}[k] for k in wanted])


@program
def gradients_of_some_results(compile):
    f = compile(lambda a, b: (a * b, a + 1, b.sum(), b.detach()))
    for k in (0, 1, 2, 0, 2, 1):
        a, b = leaf(4), leaf(4)
        yield gradients(f(a, b)[k], a, b)


@program
def gradient_that_is_expanded_or_transposed(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        x = leaf(3, 3)
        f(x).sum().backward()
        yield x
        f(x).t().backward(tensor(3, 3))
        yield x
        f(x)[1:].sum(0).backward(tensor(3).expand(3))
        yield x


@program
def accumulated_gradients(compile):
    f = compile(lambda x, w: (x * w).sum())
    w = leaf(4)
    for k in range(5):
        yield backward(f(X * k, w))
    w.grad = None
    yield backward(f(X, w))


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


@program(exact=False)
def checkpoint_around(compile):
    f = compile(lambda h, w: torch.tanh(h * w))
    for reentrant in (False, True, False, True):
        x, w = leaf(4), leaf(4)
        yield backward(checkpoint(f, x, w, use_reentrant=reentrant) * w), x, w


@program
def gradient_inside(compile):
    @compile
    def f(x):
        y = (x ** 3).sum()
        slope, = torch.autograd.grad(y, x)
        return slope * 2
    for _ in range(4):
        x = leaf(4)
        yield f(x)


def gradients_of_parts(use):
    """A program that is given two gradients which torch cuts out of one memory."""
    def body(compile):
        def f(x, y):
            of_x, of_y = torch.autograd.grad((torch.cat([x, y]) ** 3).sum(), (x, y), create_graph=True)
            return use(of_x, of_y)
        f = compile(f)
        for k in range(4):
            x, y = leaf(4), (tensor(4) + k).requires_grad_()
            found = outcome(f, x, y)
            yield found
            if isinstance(found, torch.Tensor) and found.requires_grad:
                yield [None if g is None else g.clone() for g in gradients(found, x, y)]
    body.__name__ = f"gradients_of_parts_{use.__name__}"
    body.__module__ = __name__
    return program(body)


@gradients_of_parts
def are_read(of_x, of_y):
    return of_x * of_y + of_x.sum()


@gradients_of_parts
def are_returned(of_x, of_y):
    return of_x, of_y


@gradients_of_parts
def are_returned_but_for_one(of_x, of_y):
    return of_x


@gradients_of_parts
def are_written_to(of_x, of_y):
    with torch.no_grad():
        of_x.mul_(2)
    return of_x * of_y


@program
def gradients_that_share_the_memory_of_what_they_are_made_of(compile):
    def several(use):
        @compile
        def f(x, y, given):
            of_x, of_y = torch.autograd.grad(x.view(2, 2) + y.view(2, 2), (x, y), given)
            return use(of_x, of_y, given)
        return f
    functions = [several(lambda of_x, of_y, given: of_x * 2 + of_y), several(lambda of_x, of_y, given: of_y),
                 several(lambda of_x, of_y, given: (given.add_(1), of_x * 2)), several(lambda of_x, of_y, given: of_x.add_(1))]
    for _ in range(3):
        for f in functions:
            given = tensor(2, 2)
            yield f(leaf(4), leaf(4), given), given


@program(exact=False)
def a_differential_equation(compile):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(tensor(*p.shape) / 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=1 / 16)

    @compile
    def step(x, t):
        u = net(torch.stack([x, t], 1)).squeeze(1)
        u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
        u_xx, = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        loss = (u_t + u * u_x - u_xx / 4).pow(2).mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(net.parameters()))
        optimizer.step()
        return loss.detach()
    for k in range(4):
        yield step((tensor(5) / 4).requires_grad_(), (tensor(5) / 8 + k).requires_grad_())


@program
def backward_inside(compile):
    w = leaf(4)

    @compile
    def f(x):
        loss = (x * w).pow(2).sum()
        loss.backward()
        return loss.detach()
    yield from calls(f, X, times=4)
    w.grad = None
    yield from calls(f, X)


@program
def gradient_left_to_be_differentiated(compile):
    @compile
    def f(x, twice):
        (x ** 3).sum().backward(create_graph=True)
        if twice:
            (x * x).sum().backward(create_graph=True)
        return x.grad * x.grad if x.grad.sum() > 0 else x.grad * 2
    for k in range(10):
        x = (tensor(4) - k % 2).requires_grad_()
        y = f(x, k > 3)
        yield y, x.grad
        slope, x.grad = x.grad, None
        (y + slope).sum().backward()
        yield x


@program
def gradient_added_to_be_differentiated(compile):
    @compile
    def f(x):
        (x ** 3).sum().backward(create_graph=True)
        return (x.grad ** 2).sum()
    x = leaf(4)
    yield from calls(f, x)
    for k in range(4):
        x = leaf(4)
        x.grad = tensor(4) + k
        y = f(x)
        x.grad = None
        yield backward(y), x


@program(exact=False)
def penalty_of_gradients_in_a_step(compile):
    """The gradient of a last bias has none itself."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(tensor(*p.shape) / 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=1 / 16)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).pow(2).sum() + net(x).sum()
        loss.backward(create_graph=True)
        penalty = sum(p.grad.pow(2).sum() for p in net.parameters())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        return loss.detach(), penalty.detach()
    for k in range(4):
        yield step(tensor(3, 4) / 4 + k), net


@program
def derivatives_by_what_gradients_are_given_for(compile):
    """Forward mode, by two backward passes."""
    @compile
    def f(x, v):
        tangent = torch.ones_like(x, requires_grad=True)
        slope, = torch.autograd.grad(x ** 3, x, tangent, create_graph=True)
        along, = torch.autograd.grad(slope, tangent, v, retain_graph=True)
        (x ** 2).backward(v * 2, create_graph=True)
        return along, slope * x.grad
    for k in range(4):
        x, v = leaf(4), (tensor(4) + k).requires_grad_()
        along, y = f(x, v)
        x.grad = None
        yield along, backward(y), x, v
    functional = torch.autograd.functional
    for g in (functional.jvp, functional.hvp, functional.vhp):
        yield from calls(compile(lambda x, v: g(lambda t: (t ** 3).sum() * t[0], x, v)), X, X)


@program
def meta_step(compile):
    """The gradient through a step of gradient descent."""
    @compile
    def f(w, x):
        slope, = torch.autograd.grad((w * x).pow(2).sum(), w, create_graph=True)
        return ((w - slope / 4) * x).sum()
    for _ in range(4):
        w = leaf(4)
        yield backward(f(w, X))


@program
def gradient_penalty(compile):
    f = compile(lambda x, w: (x * w).pow(2).sum())
    for _ in range(4):
        x, w = leaf(4), leaf(4)
        slope, = torch.autograd.grad(f(x, w), x, create_graph=True)
        loss = (slope.pow(2).sum() - 1) ** 2
        loss.backward()
        yield loss, w, x


@program
def hessian_vector_product(compile):
    f = compile(lambda x: (x ** 3).sum() * x[0])
    for _ in range(3):
        x = leaf(4)
        slope, = torch.autograd.grad(f(x), x, create_graph=True)
        product, = torch.autograd.grad(slope, x, X, create_graph=True)
        yield product, torch.autograd.grad(product.sum(), x)


@program
def jacobian_and_hessian(compile):
    f = compile(lambda x: x ** 2 * x[0])
    yield torch.autograd.functional.jacobian(f, X), torch.autograd.functional.hessian(lambda x: f(x).sum(), X)
    yield from calls(torch.func.grad(lambda x: f(x).sum()), X)
    yield from calls(torch.func.vmap(f), tensor(2, 4))
    yield from calls(torch.func.jvp, f, (X,), (X,))


@program
def batched_gradients(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        x = leaf(3)
        yield torch.autograd.grad(f(x), x, torch.eye(3), is_grads_batched=True)


@program
def anomaly_mode(compile):
    f = compile(lambda x: x.sqrt() * 2)
    for _ in range(3):
        x = leaf(4)
        with torch.autograd.set_detect_anomaly(True, check_nan=True):
            yield outcome(backward, f(x))


@program
def saved_tensors_hooks_outside(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        x = leaf(4)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.float()):
            y = f(x)
        yield backward(y)
        with torch.autograd.graph.save_on_cpu():
            y = f(x)
        yield backward(y)
        yield backward(f(x))


@program
def complex_gradients(compile):
    f = compile(lambda z: (z * z.conj()).real + z.imag)
    for _ in range(4):
        z = torch.complex(tensor(4), tensor(4) + 1).requires_grad_()
        y = f(z)
        y.backward(tensor(4))
        yield y, z


@program
def integers_and_gradients(compile):
    f = compile(lambda x, i: (x[i] * i, i + 1, x > 0, x.argmax()))
    for _ in range(4):
        x = leaf(4)
        y, *rest = f(x, torch.tensor([0, 2, 2]))
        yield backward(y), rest


@program
def results_that_need_none(compile):
    f = compile(lambda x, w: (x * 2, w * x, (w * x).detach(), w))
    for _ in range(4):
        x, w = tensor(4), leaf(4)
        results = f(x, w)
        backward(results[1])
        yield results


@program
def ties(compile):
    f = compile(lambda x: (x.max(), x.amax(0), x.max(0).values, x.abs().sum(), torch.maximum(x, x.flip(0)), x.clamp(-1, 1),
                           x.relu()))
    for _ in range(3):
        x = torch.tensor([[1.0, 1, 0], [1, -1, 0]]).requires_grad_()
        torch.autograd.backward([r.sum() for r in f(x)])
        yield x


@program(exact=False)
def frozen_layers(compile):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(tensor(*p.shape))
    f = compile(net)
    for frozen in (False, False, True, True, False):
        net[0].requires_grad_(not frozen)
        net.zero_grad()
        yield backward(f(X))


@program
def gradient_read_inside(compile):
    @compile
    def f(w):
        return w * 2 if w.grad is None else w - w.grad
    w = leaf(4)
    yield from calls(f, w)
    w.grad = tensor(4)
    yield from calls(f, w)
    w.grad.mul_(3)
    yield from calls(f, w)
    w.grad = None
    yield from calls(f, w)


@program
def hook_changed_between_forward_and_backward(compile):
    f = compile(lambda x: x * 3)
    for k in range(4):
        x = leaf(4)
        y = f(x)
        x.register_hook(lambda grad, k=k: grad * k)
        yield backward(y)


@program
def gradient_cleared_without_a_look(compile):
    w = leaf(4)

    @compile
    def f(x):
        w.grad = None
        return x * w
    for _ in range(3):
        yield backward(f(tensor(4)))


def gradient_after(write):
    """A program whose function writes to what the gradient of its result needs."""
    def body(compile):
        def f(x, inner):
            h = x * 1 if inner else x
            y = h.sin()
            write(h)
            return y * 2
        f = compile(f)
        for inner in (True, False) * 3:
            x = leaf(4)
            yield outcome(lambda: backward(f(x, inner)))
    body.__name__ = f"gradient_needs_what_{write.__name__}"
    body.__module__ = __name__
    return program(body)


@gradient_after
def is_written_to_detached(t):
    t.detach().mul_(2)


@gradient_after
def is_written_to_without_gradients(t):
    with torch.no_grad():
        t.mul_(2)


@gradient_after
def is_written_to_uncounted(t):
    t.data.mul_(2)


@program
def views_of_leaves_made(compile):
    """A tensor that the run lets require grad, looked at through views only."""
    @compile
    def f(x):
        x = x.detach().clone().requires_grad_()
        for _ in range(2):
            step, = torch.autograd.grad((x.view(-1)[1:] ** 2).sum() + x[0].sum(), x)
            with torch.no_grad():
                x -= step
        return x.detach(), step
    yield from calls(f, tensor(2, 3))


@program
def views_of_leaves_written_before(compile):
    @compile
    def f(x):
        x = x.clone()[0].detach().requires_grad_()
        with torch.no_grad():
            x[1:] += 3
        x.data.mul_(2)
        first, second, last = x.unbind()
        (first * second * last).backward()
        return x.grad, x.detach()
    yield from calls(f, tensor(2, 3))


@program
def forward_mode_inside(compile):
    @compile
    def f(x, tangent):
        with torch.autograd.forward_ad.dual_level():
            return torch.autograd.forward_ad.unpack_dual(torch.autograd.forward_ad.make_dual(x, tangent).sin()).tangent
    yield from calls(f, tensor(3), tensor(3) + 1)


@program
def sparse_gradients(compile):
    rows = nn.Embedding(5, 2, sparse=True)

    @compile
    def f(places):
        rows.zero_grad()
        rows(places).sum().backward()
        return rows.weight.grad.to_dense()
    yield from calls(f, torch.tensor([1, 3, 1]))


@program
def sparse_gradients_outside_the_function(compile):
    rows, bags, table = nn.Embedding(5, 2, sparse=True), nn.EmbeddingBag(5, 2, sparse=True, mode="sum"), leaf(5, 2)
    places = torch.tensor([1, 3, 1])
    fs = [compile(lambda: rows(places).square()), compile(lambda: bags(places, torch.tensor([0, 2])).square()),
          compile(lambda: torch.gather(table * 2, 1, places[:, None] % 2, sparse_grad=True).square())]
    for f in fs * 3:
        for t in (rows.weight, bags.weight, table):
            t.grad = None
        f().sum().backward()
        yield
    with torch.no_grad():
        yield [f() for f in fs * 2]


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def flagged(f):
    """Register a program: f of a network and of a tensor whose flag it sets, then a backward pass of what it gives."""
    def body(compile):
        net, compiled = network(), compile(f)
        for k in range(4):
            x = tensor(2, 3) + k
            results = compiled(net, x)
            yield results, x, list(net.parameters())
            for result in results if isinstance(results, tuple) else (results,):
                if result.requires_grad and not result.is_leaf:
                    result.sum().backward(retain_graph=True)
            yield x.grad, [p.grad for p in net.parameters()], outcome(lambda: net(x).sum().backward())
    body.__name__ = f.__name__
    program(body, exact=False)
    return f


@flagged
def an_argument_comes_to_require_grad(net, x):
    x.requires_grad = True
    loss = net(x).square().sum()
    net.zero_grad()
    loss.backward()
    return torch.clamp(x + 0.1 * x.grad.data.sign(), 0, 1)


@flagged
def a_gradient_of_an_argument_is_differentiated(net, x):
    g, = torch.autograd.grad(net(x.requires_grad_()).square().sum(), x, create_graph=True)
    return g[:, :2]


@flagged
def an_argument_requires_grad_for_a_while(net, x):
    x.requires_grad_()
    g, = torch.autograd.grad(net(x).square().sum(), x)
    x.requires_grad_(False)
    return net(x) + g.sum()


@flagged
def an_argument_is_used_before_it_requires_grad(net, x):
    y, first = x * 2, x.detach()[0]
    x.requires_grad_()
    return (net(x) * y[:, :2]).sum() + first.sum()


@flagged
def what_used_an_argument_flows_past_it(net, x):
    y = net(x)
    x.requires_grad_()
    return (y[:, :1] * x).sum()


@flagged
def views_from_before_an_argument_requires_grad(net, x):
    first = x[0]
    x.requires_grad_()
    return first, x[1]


@flagged
def an_argument_that_requires_grad_is_written_to(net, x):
    x.requires_grad_()
    for _ in range(2):
        net(x).square().sum().backward()
        with torch.no_grad():
            x -= 0.1 * x.grad
        x.grad.zero_()
    return x


@flagged
def an_argument_is_written_to_and_requires_grad(net, x):
    x.mul_(2).requires_grad_()
    return net(x).sum()


@flagged
def an_argument_is_written_to_while_it_requires_none(net, x):
    x.requires_grad_().requires_grad_(False)
    x.mul_(2)
    return net(x.requires_grad_()).sum()


@flagged
def an_argument_requires_grad_and_data_is_read(net, x):
    loss = net(x.requires_grad_()).sum()
    return loss if loss > 0 else loss * 2


@program(exact=False)
def gradients_without_a_gradient_are_constants(compile):
    net = network()

    @compile
    def f(x):
        g, = torch.autograd.grad(net(x).square().sum(), x)
        return net(x.detach()) + g.sum()
    for k in range(4):
        yield backward(f(leaf(2, 3))), [p.grad for p in net.parameters()]


@flagged
def parameters_are_frozen_for_a_while(net, x):
    for p in net.parameters():
        p.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    for p in net.parameters():
        p.requires_grad_(True)
    return (net(x) * leaf.grad[:, :2]).sum()


@flagged
def parameters_are_frozen(net, x):
    before = net(x).sum()
    net[0].requires_grad_(False)
    return before, net(x * 2).square().sum()


@program(exact=False)
def flags_of_parameters_change_between_calls(compile):
    net = network()

    @compile
    def f(x):
        with torch.no_grad():
            net[0].requires_grad_()
        return net(x).sum()
    for grad in (True, False, True, False, True):
        net.requires_grad_(grad)
        yield f(tensor(2, 3)), list(net.parameters())
        with torch.no_grad():
            net.requires_grad_(grad)
            yield f(tensor(2, 3)), list(net.parameters())


@program(exact=False)
def arguments_of_many_sizes_come_to_require_grad(compile):
    net = network()

    @compile
    def f(x):
        net(x.requires_grad_()).square().sum().backward()
        return x * x.grad
    for n in (2, 3, 4, 5, 6):
        x = tensor(n, 3)
        yield backward(f(x)), x, list(net.parameters())


@flagged
def a_leaf_made_is_returned(net, x):
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    return leaf, leaf.grad.sign()


@flagged
def a_leaf_made_is_returned_with_a_result(net, x):
    leaf = x.clone().requires_grad_()
    return leaf, (leaf * 2).sum()


@flagged
def a_leaf_made_is_returned_twice(net, x):
    leaf = x.clone().requires_grad_()
    return leaf, leaf.detach()


@flagged
def gradients_of_results_end_inside(net, x):
    leaf = x.clone().requires_grad_()
    g, = torch.autograd.grad(net(leaf).sum(), leaf)
    return leaf + g, (leaf * 2)[0], net(x).sum()


@program
def passes_through_results_whose_gradients_end_inside(compile):
    @compile
    def f(x):
        leaf = x.clone().requires_grad_()
        return (leaf * leaf).sum(), leaf + 1
    for _ in range(3):
        kept, free = f(tensor(3))
        yield [outcome(lambda: t.sum().backward()) for t in (kept, kept, free, free)]
        free.mul_(2)
        yield free


@program
def transforms_inside(compile):
    """torch.func.grad and the like, which are recorded as the ops that they make."""
    func, w = torch.func, leaf(4)

    @compile(fullgraph=True)
    def step(x, k):
        w.grad = None
        slope, value = func.grad_and_value(lambda v: (v * x).square().sum() * k)(w)
        fast = w - 0.125 * slope
        (fast * x).sum().backward()
        return value.detach(), func.vmap(lambda a, b: a * b + k, in_dims=(0, None))(tensor(3, 4), x)
    for k in (1.0, 2.0, 2.0, 3.0):
        yield step(X + k, k), w.grad

    @compile(fullgraph=True)
    def f(x):
        y, pull = func.vjp(lambda a: (a * a, a.sum()), x)
        return y, pull((X, x.sum())), func.jvp(func.grad(lambda a: (a * a * a).sum()), (x,), (X,))
    for k in range(4):
        yield f(X + k)
    g = compile(lambda x: (func.hessian(lambda a: (a * a).sum() * a[0])(x), func.jacrev(func.jacfwd(lambda a: a * a * 2))(x)),
                fullgraph=True)
    for n in (4, 3, 2, 4):
        yield g(tensor(n))


@program
def branches_and_state_in_transforms(compile):
    seen, table = [], torch.zeros(4)

    @compile(fullgraph=True)
    def f(x):
        def h(y):
            seen.append(len(seen))
            z = y * 2
            z[0] = 5
            return (z * y).sum() if y.sum() > 0 else z.add_(table).square().sum()
        return torch.func.grad(h)(x)
    for k in (1, -5, 1, 3, -5):
        table += 1
        yield f(X + k), seen


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


@program(exact=False)
def gradients_of_convolutions_of_channels_last(compile):
    f = compile(lambda x, w, b: torch.relu(nn.functional.conv2d(x, w, b)) * 2)
    for _ in range(4):
        x, w, b = (tensor(*shape).requires_grad_() for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        found = torch.autograd.grad(f(x, w, b).square().sum(), (x, w, b))
        yield found, [g.stride() for g in found]
