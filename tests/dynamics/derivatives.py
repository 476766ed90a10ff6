"""Derivatives that a run goes on with: gradients inside, of gradients, and transforms of torch.func."""
import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .autograd import gradients
from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4)


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
    net = whole(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), 1 / 4)
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
    net = whole(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), 1 / 4)
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
def forward_mode_inside(compile):
    @compile
    def f(x, tangent):
        with torch.autograd.forward_ad.dual_level():
            return torch.autograd.forward_ad.unpack_dual(torch.autograd.forward_ad.make_dual(x, tangent).sin()).tangent
    yield from calls(f, tensor(3), tensor(3) + 1)


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


@program(exact=False)
def second_derivative_of_a_call_of_torch_on_a_branch(compile):
    @compile
    def f(x):
        y = x * 2
        scale = 1 if x.detach().sum() > 100 else 3
        return torch.autograd.grad((torch.linalg.inv(y) * scale).square().sum(), x, create_graph=True)[0]
    for k in (3, 3, 4, 5):
        x = (torch.eye(3) * k + 1).requires_grad_()
        backward(f(x))
        yield x.grad


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x, x + 1

    @staticmethod
    def backward(ctx, by_square, by_sum):
        x, = ctx.saved_tensors
        return 2 * by_square * x + by_sum


@program(exact=False)
def second_derivative_through_a_custom_function(compile):
    f = compile(lambda x: Squared.apply(x)[0].sin())
    for _ in range(4):
        x = leaf(4)
        g, = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        yield g, torch.autograd.grad(g.pow(2).sum(), x)


@program(exact=False)
def gradient_that_torch_passes_on_as_it_is(compile):
    """torch's gradient of `addr` gives the very tensor that it was given: that is no memory to write to."""
    def f(x):
        v = x.sin()
        return x * 2, torch.addr(v, v[:, 0].sin(), v[0].sin()).float()
    g = compile(f)
    for _ in range(4):
        x = tensor(4, 4, dtype=torch.float64).requires_grad_()
        torch.autograd.backward(g(x), [tensor(4, 4).double() / 8, tensor(4, 4)])
        yield x.grad


@program(exact=False)
def products_of_one_element(compile):
    """torch hands the gradient on, where others would multiply NaN and infinity."""
    f = compile(lambda x: x.cumprod(-1))
    for value in (2.0, 2.0, 0.0, math.inf, math.nan, -1.0):
        for shape in ((), (1,), (3, 1), (3, 2)):
            x = torch.full(shape, value, requires_grad=True)
            backward(f(x))
            yield x.grad


class SquaredOnce(Squared):
    backward = staticmethod(once_differentiable(Squared.backward))


@program
def second_derivative_of_a_function_that_has_but_one(compile):
    """Its gradient counts as independent of its arguments, unless what arrives for it requires grad: that raises."""
    def doubly(f):
        x = leaf(4)
        y = f(x)
        g, = torch.autograd.grad(y, x, create_graph=True)
        (y + (g * x).sum()).backward()
        return g, x.grad
    for function in (lambda x: SquaredOnce.apply(x)[0].sum(), lambda x: SquaredOnce.apply(x)[0].pow(2).sum()):
        f = compile(function)
        for _ in range(4):
            yield outcome(doubly, f)
