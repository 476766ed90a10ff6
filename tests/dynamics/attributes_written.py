"""Attributes, globals and cells that a run writes."""
import copy
import functools
import types
from dataclasses import dataclass, field

import torch
from torch import nn

from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4)
COUNT = 0
LOG: list = []


class Holder(types.SimpleNamespace):
    pass


@program
def counter_on_self(compile):
    class Net(nn.Module):
        count = 0

        def forward(self, x):
            self.count += 1
            return x * self.count
    yield from calls(compile(Net()), X, times=6)


@program
def counter_that_the_result_does_not_read(compile):
    class Net(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * 2
    yield from calls(compile(Net()), X, times=6)


@program
def counter_in_a_buffer(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x):
            self.count += 1
            return x * self.count
    net = Net()
    f = compile(net)
    yield from calls(f, X, times=4)
    net.count.zero_()
    yield from calls(f, X)


@program
def tensor_kept_on_self(compile):
    class Net(nn.Module):
        last = None

        def forward(self, x):
            before, self.last = self.last, x + 1
            return x if before is None else x + before
    net = compile(Net())
    for k in range(6):
        yield net(X * k)


@program
def hidden_state_with_gradient(compile):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.h = nn.Parameter(tensor(4)), torch.zeros(4)

        def forward(self, x):
            self.h = self.h * self.w + x
            return self.h
    net = compile(Cell())
    for _ in range(4):
        net(X)
    yield backward(net(X))
    net.h = net.h.detach()
    yield backward(net(X))


@program
def exponential_average(compile):
    class Average(nn.Module):
        mean = None

        def forward(self, x):
            with torch.no_grad():
                self.mean = x.clone() if self.mean is None else self.mean.mul_(0.5).add_(x, alpha=0.5)
            return x - self.mean
    net = compile(Average())
    for k in range(5):
        yield net(X * k)


@program
def buffer_replaced_by_a_new_tensor(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(4))

        def forward(self, x):
            self.total = self.total + x
            return self.total * 2
    net = compile(Net())
    yield from calls(net, X, times=5)
    yield net.state_dict()


@program
def attributes_of_many_kinds(compile):
    @compile
    def f(holder, x):
        holder.number, holder.text, holder.flag, holder.nothing = 3, "done", True, None
        holder.tensor = x * 2
        holder.pair = (holder.tensor, x)
        holder.table = {"a": [holder.tensor, 1], "dtype": x.dtype, "shape": x.shape}
        return holder.tensor + 1
    for k in range(4):
        holder = Holder()
        yield f(holder, X * k)
    yield from calls(f, holder, X)


@program
def one_tensor_stored_twice_and_returned(compile):
    @compile
    def f(holder, x):
        y = x + 1
        holder.a = holder.b = y
        holder.view = y[1:]
        return y
    holder = Holder()
    for k in range(4):
        y = f(holder, X * k)
        y.mul_(2)
        yield y


@program
def argument_kept(compile):
    @compile
    def f(holder, x):
        holder.x, holder.part = x, x[1:]
        return x * 2
    holder = Holder()
    for k in range(4):
        x = X * k
        yield f(holder, x)
        x.add_(1)
        yield holder.part


@program
def attribute_deleted_and_made(compile):
    @compile
    def f(holder, x):
        if hasattr(holder, "flag"):
            del holder.flag
            return x * 2
        holder.flag = True
        return x * 3
    yield from calls(f, Holder(), X, times=6)


@program
def setattr_by_name(compile):
    @compile
    def f(holder, x, name):
        setattr(holder, name, getattr(holder, name, 0) + 1)
        return x * getattr(holder, name)
    holder = Holder()
    for name in ("a", "a", "b", "a", "b", "c"):
        yield f(holder, X, name)


@program
def attributes_of_tensors(compile):
    weight = nn.Parameter(tensor(4))

    @compile
    def f(x):
        weight.count = getattr(weight, "count", 0) + 1
        return x * weight.detach() * weight.count

    @compile
    def g(x):
        x.seen = True
        y = x * 2
        y.scale = 3
        return y
    for _ in range(4):
        x = tensor(4)
        yield f(x), g(x), x
    weight.count = 50
    yield from calls(f, X)
    del weight.count
    yield from calls(f, X)


@program
def global_counter(compile):
    global COUNT
    COUNT = 0

    @compile
    def f(x):
        global COUNT
        COUNT += 1
        return x * COUNT
    for _ in range(5):
        yield f(X), COUNT
    COUNT = 100
    yield f(X), COUNT


@program
def global_log(compile):
    LOG.clear()

    @compile
    def f(x):
        LOG.append(len(LOG))
        return x + len(LOG)
    for _ in range(5):
        yield f(X), list(LOG)


@program
def nonlocal_counter(compile):
    count = 0

    @compile
    def f(x):
        nonlocal count
        count += 1
        return x * count
    yield from calls(f, X, times=5)
    count = 100
    yield from calls(f, X)


@program
def nonlocal_tensor(compile):
    state = torch.zeros(4)

    @compile
    def f(x):
        nonlocal state
        state = state * 2 + x
        return state
    yield from calls(f, X, times=5)
    state.zero_()
    yield from calls(f, X)


@program
def function_attributes_written(compile):
    def f(x):
        f.calls = getattr(f, "calls", 0) + 1
        return x * f.calls
    yield from calls(compile(f), X, times=5)


@program
def class_attributes_written(compile):
    class Net:
        instances = 0

        def __call__(self, x):
            Net.instances += 1
            return x * Net.instances
    yield from calls(compile(Net()), X, times=5)


@program
def objects_made_and_registered(compile):
    @dataclass
    class Record:
        value: torch.Tensor
        notes: list = field(default_factory=list)

    registry = []

    @compile
    def f(x):
        record = Record(x * 2)
        record.notes.append("made")
        registry.append(record)
        return record
    for k in range(4):
        yield f(X * k)


@program
def property_with_a_setter(compile):
    class Options:
        _k = 1.0
        sets = 0

        @property
        def k(self):
            return self._k

        @k.setter
        def k(self, value):
            self.sets += 1
            self._k = value * 2
    options = Options()

    @compile
    def f(x):
        options.k = options.k + 1
        return x * options.k
    yield from calls(f, X, times=5)


@program
def setattr_of_a_class(compile):
    class Counted:
        def __setattr__(self, name, value):
            object.__setattr__(self, name, value)
            object.__setattr__(self, "writes", getattr(self, "writes", 0) + 1)
    counted = Counted()

    @compile
    def f(x):
        counted.last = x + 1
        return x * counted.writes
    yield from calls(f, X, times=5)


@program
def memoised(compile):
    made = []

    @functools.lru_cache
    def ones(n):
        made.append(n)
        return torch.ones(n)
    f = compile(lambda x: x + ones(x.shape[0]))
    for n in (4, 4, 3, 4, 3):
        yield f(tensor(n))


@program
def lazily_made_table(compile):
    class Positions(nn.Module):
        length = 0

        def forward(self, x):
            if x.shape[0] > self.length:
                self.length, self.table = x.shape[0], torch.arange(x.shape[0]) * 2.0
            return x + self.table[: x.shape[0]]
    net = compile(Positions())
    for n in (4, 4, 3, 8, 8, 4, 2, 9):
        yield net(tensor(n))


@program
def write_that_an_exception_ends(compile):
    @compile
    def f(holder, x, fail):
        holder.before = x + 1
        x.add_(1)
        if fail:
            raise KeyError("stop")
        holder.after = x + 2
        return x
    holder = Holder()
    for fail in (False, False, True, False, True, True, False):
        yield outcome(f, holder, X.clone(), fail)


@program
def parameter_made_by_the_run(compile):
    class Lazy(nn.Module):
        def forward(self, x):
            if "weight" not in self._parameters:
                self.weight = nn.Parameter(tensor(4) * 2)
            return x * self.weight
    net = compile(Lazy())
    yield from (backward(y) for y in calls(net, X, times=4))


@program
def gradient_of_what_was_kept(compile):
    @compile
    def f(holder, x):
        holder.loss = (x * x).sum()
        return x + 1
    for _ in range(4):
        holder, x = Holder(), leaf(4)
        f(holder, x)
        yield backward(holder.loss)


@program
def swap_of_two_attributes(compile):
    holder = Holder(a=tensor(4), b=tensor(4) + 1)

    @compile
    def f(x):
        holder.a, holder.b = holder.b, holder.a
        return x * holder.a
    yield from calls(f, X, times=6)


@program
def alternating_flag(compile):
    holder = Holder(flag=False)

    @compile
    def f(x):
        holder.flag = not holder.flag
        return x + 1 if holder.flag else x * 2
    yield from calls(f, X, times=8)


@program
def growing_state(compile):
    """Another state on every call: more than a function may have programs."""
    holder = Holder(history=())

    @compile
    def f(x):
        holder.history = (*holder.history, len(holder.history))
        return x + sum(holder.history)
    yield from calls(f, X, times=20)


@program(exact=False)
def the_best_state_of_a_network(compile):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    best = {"loss": float("inf"), "state": None}

    @compile
    def validate(x):
        loss = net(x).square().mean()
        if loss.item() < best["loss"]:
            best["loss"], best["state"] = loss.item(), copy.deepcopy(net.state_dict())
        return loss
    for scale in (3, 2, 4, 1, 5, 0.5):
        yield validate(tensor(8, 4) * scale), best, list(net.state_dict().values())
        with torch.no_grad():
            net[0].weight += 0.25
    net.load_state_dict(best["state"])
    yield list(net.parameters())


@program
def slots_set_and_deleted(compile):
    class Slotted:
        __slots__ = ("k", "last")
    s = Slotted()
    s.k = 0

    @compile
    def f(x):
        s.k += 1
        s.last = x * s.k
        if s.k > 2:
            del s.last
        return x * s.k
    for _ in range(5):
        yield f(tensor(4)), s.k, hasattr(s, "last")


@program
def attributes_of_tensors_that_the_run_made(compile):
    """As caches have them: torch._dynamo.mark_static_address sets one, and what is new has those that its maker gave it."""
    cache = {"keys": None, "owner": None}

    @compile
    def f(x, k):
        if cache["keys"] is None:
            cache["keys"] = torch.zeros(2, 3)
            cache["keys"].owner, cache["keys"].size_of = "cache", (2, 3)
        cache["keys"] = cache["keys"] + x
        cache["keys"].step, cache["keys"].parts = k, [x.sum(), {"of": x * 2}]
        out = cache["keys"] * 2
        out.source, out.twin = cache["keys"], out.detach()
        out.twin.scale = float(k) / 2
        return out
    for k in (1, 2, 2, 3, 4):
        out = f(tensor(2, 3), k)
        kept = vars(cache["keys"])
        yield out, out.source is cache["keys"], out.twin.scale, sorted(vars(out)), kept["step"], kept["parts"], "owner" in kept
    cache["keys"] = None
    yield f(tensor(2, 3), 5), vars(cache["keys"])


@program
def attributes_that_views_have(compile):
    w = leaf(3, 2)

    @compile
    def f(x):
        y = x @ w
        y.called, view = "hidden", y[0]
        view.base = y
        return y, view
    for _ in range(4):
        x = tensor(4, 3)
        y, view = f(x)
        yield y, view, view.base is y, y.called, backward(y.sum() + view.sum()), w.grad
