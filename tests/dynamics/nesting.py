"""Compiled things inside compiled ones, methods of all kinds, recursion, generators, copies and pickles."""
import asyncio
import copy
import functools
import pickle
from abc import ABC, abstractmethod

import torch
from torch import nn

from .harness import backward, calls, leaf, program, tensor

X = tensor(4)


class Scaled(nn.Module):
    """At the top, so that it can be pickled."""

    def __init__(self, k=2.0):
        super().__init__()
        self.k, self.weight = k, nn.Parameter(tensor(4))
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        self.calls += 1
        return x * self.weight * self.k + self.calls


@program
def compiled_inside_compiled(compile):
    k = 2.0
    inner = compile(lambda x: x * k)
    outer = compile(lambda x: inner(x) + inner(x + 1))
    yield from calls(outer, X)
    yield from calls(inner, X)
    k = 3.0
    yield from calls(outer, X)
    yield from calls(inner, X)


@program
def compiled_module_inside_a_compiled_function(compile):
    net = compile(Scaled())
    f = compile(lambda x: net(x).sum())
    yield from (backward(y) for y in calls(f, X))
    net.k = 3.0
    yield from calls(f, X)
    yield from calls(net, X)


@program
def compiled_submodules(compile):
    net = nn.Sequential(Scaled(2.0), nn.ReLU(), Scaled(3.0))
    net[0], net[2] = compile(net[0]), compile(net[2])
    yield from (backward(y) for y in calls(net, X))
    whole = compile(net)
    yield from (backward(y) for y in calls(whole, X))
    net[2].k = 5.0
    yield from calls(whole, X)


@program
def compiled_within_itself(compile):
    @compile
    def power(x, n):
        return x if n == 0 else power(x, n - 1) * 2
    for n in (0, 1, 3, 3, 5, 2, 3):
        yield power(X, n)


@program
def mutual_recursion(compile):
    @compile
    def even(x, n):
        return x if n == 0 else odd(x + 1, n - 1)

    @compile
    def odd(x, n):
        return x * 10 if n == 0 else even(x * 2, n - 1)
    for n in (0, 1, 2, 3, 4, 3, 2):
        yield even(X, n)


@program
def recursion_over_a_structure(compile):
    @compile
    def total(tree):
        return tree if isinstance(tree, torch.Tensor) else sum(total(t) for t in tree)
    for tree in ([X, [X, X]], [X, [X, X]], X, [[X], [[X], X]], [X * 2, [X, X]]):
        yield total(tree)


@program
def methods_of_instances(compile):
    class Scale:
        def __init__(self, k):
            self.k = k

        @compile
        def work(self, x):
            return x * self.k
    one, two = Scale(2.0), Scale(3.0)
    for obj in (one, two, one, two, one):
        yield obj.work(X)
    one.k = 5.0
    for obj in (one, two, one):
        yield obj.work(X)
    method = one.work
    yield from calls(method, X)
    yield Scale.work(two, X)


@program
def class_and_static_methods(compile):
    class Scale:
        k = 2.0

        @classmethod
        @compile
        def of_class(cls, x):
            return x * cls.k

        @staticmethod
        @compile
        def plain(x):
            return x + 1

    class Other(Scale):
        k = 3.0
    for cls in (Scale, Other, Scale, Other):
        yield cls.of_class(X), cls.plain(X), cls().of_class(X), cls().plain(X)
    Other.k = 4.0
    yield Other.of_class(X), Scale.of_class(X)


@program
def bound_method(compile):
    class Scale:
        k = 2.0

        def work(self, x):
            return x * self.k
    obj = Scale()
    f = compile(obj.work)
    yield from calls(f, X)
    obj.k = 3.0
    yield from calls(f, X)
    Scale.work = lambda self, x: x + self.k
    yield from calls(f, X)


@program
def overriding(compile):
    class Base(nn.Module):
        def forward(self, x):
            return self.activation(x) + 1

        def activation(self, x):
            return x * 2

    class Derived(Base):
        def activation(self, x):
            return super().activation(x).relu()

    class Late(Derived):
        @compile
        def forward(self, x):
            return super().forward(x) * 10
    for net in (compile(Base()), compile(Derived()), Late()):
        yield from calls(net, X)
    Base.activation = lambda self, x: x * 3
    for net in (compile(Base()), compile(Derived()), Late()):
        yield from calls(net, X)


@program
def forward_of_a_class_compiled(compile):
    class Net(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        @compile
        def forward(self, x):
            return x * self.k
    nets = [Net(2.0), Net(3.0)]
    for _ in range(3):
        yield [net(X) for net in nets]
    nets[0].k = 7.0
    nets[0].register_forward_hook(lambda module, args, out: out + 1)
    for _ in range(3):
        yield [net(X) for net in nets]


@program
def abstract_base(compile):
    class Layer(ABC, nn.Module):
        @abstractmethod
        def scale(self):
            ...

        def forward(self, x):
            return x * self.scale()

    class Two(Layer):
        def scale(self):
            return 2.0
    net = compile(Two())
    yield from calls(net, X)
    yield isinstance(net, Layer), isinstance(net, nn.Module)


@program
def callable_object(compile):
    class Scale:
        def __init__(self):
            self.k = 2.0

        def __call__(self, x, shift=0.0):
            return x * self.k + shift
    obj = Scale()
    f = compile(obj)
    yield from calls(f, X)
    obj.k = 3.0
    yield from calls(f, X, shift=1.0)
    Scale.__call__ = lambda self, x: x
    yield from calls(f, X)


@program
def partial_of_a_compiled_function(compile):
    f = compile(lambda x, k, shift=0.0: x * k + shift)
    g = functools.partial(f, k=2.0)
    h = compile(functools.partial(lambda x, k: x - k, k=1.0))
    yield from calls(g, X)
    yield from calls(g, X, shift=1.0)
    yield from calls(h, X)
    yield from calls(h, X, k=2.0)


@program
def generators_inside(compile):
    def parts(x):
        for k in range(3):
            yield x * k
    f = compile(lambda x: sum(parts(x)) + sum(y for y in (x, x * 2)))
    yield from calls(f, X)


@program
def generator_function(compile):
    @compile
    def parts(x):
        for k in range(3):
            yield x * k
    for _ in range(3):
        yield list(parts(X))


@program
def generator_returned(compile):
    f = compile(lambda x: (x * k for k in range(3)))
    for _ in range(3):
        yield list(f(X))


@program
def function_returned(compile):
    f = compile(lambda x: lambda y: x * y)
    for k in range(4):
        yield f(X * k)(X)


@program
def coroutines_that_call(compile):
    f = compile(lambda x: x * 2 + 1)

    async def work(k):
        await asyncio.sleep(0)
        return f(X * k)

    async def main():
        return await asyncio.gather(*(work(k) for k in range(4)))
    for _ in range(2):
        yield asyncio.run(main())


@program
def copies_of_a_compiled_module(compile):
    net = compile(Scaled())
    yield from calls(net, X)
    twin, shallow = copy.deepcopy(net), copy.copy(net)
    twin.k = 5.0
    with torch.no_grad():
        twin.weight.mul_(2)
    yield from calls(twin, X)
    yield from calls(net, X)
    yield from calls(shallow, X)


@program
def pickled_module(compile):
    net = compile(Scaled())
    yield from calls(net, X)
    again = pickle.loads(pickle.dumps(net))
    again.k = 4.0
    yield from calls(again, X)
    yield from calls(net, X)
    yield net.state_dict(), list(again.state_dict())


@program
def copied_object_with_a_compiled_method(compile):
    class Scale:
        def __init__(self):
            self.w = tensor(4)

        @compile
        def work(self, x):
            return x * self.w
    one = Scale()
    yield from calls(one.work, X)
    two = copy.deepcopy(one)
    two.w.add_(1)
    yield from calls(two.work, X)
    yield from calls(one.work, X)


@program
def decorated_before_and_after(compile):
    def doubled(function):
        return lambda *args, **kwargs: function(*args, **kwargs) * 2

    @doubled
    @compile
    @doubled
    def f(x):
        return x + 1
    yield from calls(f, X)


@program
def functions_as_arguments(compile):
    f = compile(lambda g, x: g(x) + 1)
    double, triple = lambda x: x * 2, lambda x: x * 3
    for g in (double, double, triple, double, torch.relu, nn.ReLU(), compile(triple), functools.partial(torch.mul, 4)):
        yield f(g, X)


@program
def modules_as_arguments(compile):
    f = compile(lambda net, x: net(x).sum())
    one, two = Scaled(2.0), Scaled(3.0)
    for net in (one, one, two, one, two):
        yield backward(f(net, X))
    one.k = 7.0
    yield backward(f(one, X)), backward(f(two, X))


@program
def comprehension_and_sorting(compile):
    table = {"b": 2.0, "a": 3.0}
    f = compile(lambda x: [x * table[k] for k in sorted(table)] + [y for y in map(lambda k: x + k, (1, 2)) if y.dim()])
    yield from calls(f, X)
    table["0"] = 1.0
    yield from calls(f, X)


@program
def structures_in_and_out(compile):
    @compile
    def f(batch):
        return {name: [t * 2 for t in ts] if isinstance(ts, list) else (ts, ts + 1) for name, ts in batch.items()}
    for batch in ({"a": X, "b": [X, X]}, {"a": X, "b": [X, X]}, {"b": [X, X], "a": X}, {"a": X}, {"a": [X], "b": X}, {}):
        yield f(batch)


@program
def star_arguments(compile):
    @compile
    def f(*xs, scale=1.0, **named):
        return sum(xs) * scale + sum(named.values())
    for xs in ((X,), (X, X), (X, X), (X, X, X), (X,)):
        yield f(*xs)
        yield f(*xs, scale=2.0, a=X)
        yield f(*xs, b=X, a=X)


@program
def context_managers_of_the_user(compile):
    class Scope:
        depth = 0

        def __enter__(self):
            self.depth += 1
            return self.depth

        def __exit__(self, *error):
            self.depth -= 1
    scope = Scope()

    @compile
    def f(x):
        with scope as depth:
            return x * depth
    yield from calls(f, X)
    scope.depth = 3
    yield from calls(f, X)


@program
def walrus_star_and_unpacking(compile):
    @compile
    def f(x):
        first, *rest = x.unbind()
        if (n := len(rest)) > 2:
            return first * n, [*rest, first]
        return first
    for n in (4, 4, 2, 5, 3):
        yield f(tensor(n))


@program
def compiled_twice(compile):
    def f(x):
        return x * 2
    one, two = compile(f), compile(compile(f))
    yield from calls(one, X)
    yield from calls(two, X)


@program
def training_loop_around(compile):
    net = Scaled()
    loss = compile(lambda x, y: (net(x) - y).pow(2).sum() / 64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    for k in range(5):
        optimizer.zero_grad()
        yield backward(loss(X, X * k))
        optimizer.step()


@program
def gradient_through_nested(compile):
    inner = compile(lambda x: x * x)
    outer = compile(lambda x: inner(x) * 2)
    for _ in range(4):
        x = leaf(4)
        yield backward(outer(x) + inner(x))
