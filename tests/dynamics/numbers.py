"""Python numbers that change between the calls, wherever they stand."""
import asyncio
import fractions
import functools
import gc
import itertools
import json
import math
import statistics
import time
from collections import Counter, deque, namedtuple
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor, whole

FLOATS = (2.0, 2.0, 3.0, 3.0, -0.5, 2.0, -0.0, 0.0, math.inf, -math.inf, math.nan, 1e-45, 1e300, 2.0)
INTEGERS = (2, 2, 3, 3, -1, 0, 2, 1 << 20, 5)
X = tensor(6) / 2

SCALE = 1.0
OFFSETS = {"first": 1, "rest": [2, 3]}


@program
def float_argument(compile):
    f = compile(lambda x, k: x * k + k)
    for k in FLOATS:
        yield f(X, k)


@program
def numbers_alone(compile):
    f = compile(lambda k: (torch.ones(3) * k, k + 1))
    for k in (1, 2, 3, 1.5, 2.5):
        yield f(k)


@program
def integer_argument(compile):
    f = compile(lambda x, n: x * n - n)
    for n in INTEGERS:
        yield f(X, n)


@program
def argument_of_changing_kind(compile):
    f = compile(lambda x, k: x * k)
    for k in (2, 2.0, True, 2, 3, 3.0, False, 4, 4.5, True):
        yield f(tensor(6, dtype=torch.int64), k)


@program
def keyword_and_default(compile):
    @compile
    def f(x, *, k=2.0, n=1):
        return (x + k) * n
    yield from calls(f, X)
    for k in (2.0, 3.0, 4.0):
        yield f(X, k=k)
    for n in (1, 2, 3):
        yield f(X, n=n, k=float(n))
    yield f(X)


@program
def nested_arguments(compile):
    f = compile(lambda x, options: x * options["scale"][0] + options["shift"])
    for k in FLOATS:
        yield f(X, {"scale": (k, "text"), "shift": k / 4})


@program
def named_tuples_and_dataclasses(compile):
    Pair = namedtuple("Pair", "a b")

    @dataclass
    class Options:
        k: float
        n: int
    f = compile(lambda x, pair, options: x * pair.a + pair.b * options.k - options.n)
    for k in FLOATS:
        yield f(X, Pair(k, 2), Options(k / 2, int(k) if abs(k) < 10 else 0))


@program
def arguments_packed(compile):
    f = compile(lambda x, *ks, **named: x * sum(ks) + sum(named.values()))
    for k in (1.0, 1.0, 2.0, 3.0):
        yield f(X, k, 2.0, extra=k)
        yield f(X, k, k, 1, extra=3)


@program
def global_number(compile):
    global SCALE
    f = compile(lambda x: x * SCALE)
    for k in FLOATS:
        SCALE = k
        yield f(X)


@program
def entries_of_a_global_dict(compile):
    f = compile(lambda x: x * OFFSETS["first"] + OFFSETS["rest"][1])
    for n in INTEGERS:
        OFFSETS["first"] = n
        yield f(X)
        OFFSETS["rest"][1] = n / 2
        yield f(X)
    OFFSETS.update(first=1, rest=[2, 3])


@program
def closure_cell(compile):
    k = 1.0
    f = compile(lambda x: x / k)
    for k in FLOATS:
        yield f(X)


@program
def attribute_of_an_object(compile):
    options = SimpleNamespace(k=1.0, inner=SimpleNamespace(n=2))
    f = compile(lambda x: x * options.k ** options.inner.n)
    for k in (2.0, 2.0, 3.0, 0.5, -0.0):
        options.k = k
        yield f(X)
    for n in (2, 3, 0, 1, -1):
        options.inner.n = n
        yield outcome(f, X)


@program
def attribute_of_a_module(compile):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.k, self.weight = 1.0, nn.Parameter(tensor(6))

        def forward(self, x):
            return x * self.weight * self.k
    net = compile(Scaled())
    for k in FLOATS:
        net.k = k
        yield backward(net(X))


@program
def class_attribute(compile):
    class Options:
        k = 1.0
    f = compile(lambda x: x + Options.k)
    for k in FLOATS:
        Options.k = k
        yield f(X)


@program
def tuples_of_numbers(compile):
    class Settings:
        def __init__(self):
            self.limits, self.last, self.seen = (-1.0, 1.0, None), (), []
    settings, table, shape = Settings(), {"ab": (2, 0.5)}, (2, 2)

    @compile
    def f(x):
        low, high, _ = settings.limits
        settings.seen.append(settings.limits)
        settings.last, settings.limits = settings.limits, (low * 0.5, high + 1, None)
        return x.clamp(low, high) * table["ab"][0] + table["ab"][1], x[:4].reshape(shape), table["ab"]
    yield from calls(f, X)
    for k in range(4):
        table["ab"] = (2 + k, 0.5 * k)
        yield from calls(f, X)
    table["ab"], shape = (3.0, 2), (4, 1)
    yield from calls(f, X)
    table["ab"], settings.limits = (1, 2, 3), (0, 2.0, "other")
    yield from calls(f, X)
    shape = (1, 2, 2)
    yield from calls(f, X)


@program
def learning_rate(compile):
    @compile
    @torch.no_grad()
    def step(p, g, group):
        p.add_(g, alpha=-group["lr"])
        p.mul_(1 - group["lr"] * group["decay"])
        return p.sum()
    p, group = tensor(6), {"lr": 0.5, "decay": 0.0}
    for lr in (0.5, 0.5, 0.25, 0.125, 1.0, -0.5):
        group["lr"] = lr
        yield step(p, X, group)
    group["decay"] = 0.5
    yield from calls(step, p, X, group)


@program(exact=False)
def learning_rate_of_an_optimizer(compile):
    net = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    loss = compile(lambda x: net(x).pow(2).mean() * optimizer.param_groups[0]["lr"])
    for _ in range(5):
        optimizer.zero_grad()
        yield backward(loss(X))
        optimizer.step()
        schedule.step()


@program
def arithmetic_of_numbers(compile):
    f = compile(lambda x, a, b: x * (a + b) / (a - b) + (a // b) ** 2 + a % b - abs(a) * -b)
    for a, b in ((5, 2), (5, 2), (7, 2), (7, -3), (-9, 2.5), (9.0, 0.5), (4, 4), (3, 0), (5, 2)):
        yield outcome(f, X, a, b)


@program(exact=False)
def mathematics_of_numbers(compile):
    f = compile(lambda x, k: x * math.sqrt(k) + math.exp(-k) - round(k, 1) + math.floor(k) + min(k, 2) + max(k, 3))
    for k in (4.0, 4.0, 2.25, 9.75, 0.0, -1.0, 1.0):
        yield outcome(f, X, k)


@program
def comparisons_of_numbers(compile):
    f = compile(lambda x, k, n: x * 2 if k > n else x + k if k == n else x - 1 if 0 <= k < n else -x)
    for k, n in ((3.0, 2), (4.0, 2), (2.0, 2), (1.0, 2), (1.5, 2), (-1.0, 2), (5.0, 2), (math.nan, 2), (3.0, 2)):
        yield f(X, k, n)


@program
def number_as_truth(compile):
    f = compile(lambda x, k: x * k if k else x)
    for k in (1.0, 2.0, 0.0, -0.0, math.nan, 3, 0, 4):
        yield f(X, k)


@program
def turns_of_a_loop(compile):
    @compile
    def f(x, n):
        for k in range(n):
            x = x + k
        return x
    for n in (2, 2, 3, 0, 4, 2, -1):
        yield f(X, n)


@program
def number_as_index_and_size(compile):
    f = compile(lambda x, i, n: (x[i], x[i:], x.new_zeros(n) + i, x.repeat(n)))
    for i, n in ((0, 1), (0, 1), (1, 2), (-1, 3), (2, 0), (9, 1), (0, 2)):
        yield outcome(f, X, i, n)


@program
def number_as_dimension(compile):
    f = compile(lambda x, d: x.sum(d) + x.shape[d])
    for d in (0, 0, 1, -1, 2, 0, 5):
        yield outcome(f, tensor(2, 3, 3), d)


@program
def number_as_exponent(compile):
    f = compile(lambda x, k: (x.abs() + 1) ** k)
    for k in (2, 2, 3, 0, 1, 2.0, -1):
        yield f(X, k)


@program
def numbers_of_tensor_functions(compile):
    @compile
    def f(x, k):
        return (torch.full((2,), k), torch.add(x, x, alpha=k), x.clamp(min=-k, max=k), torch.where(x > k, k, x),
                torch.tensor([k, 1.0]), x.masked_fill(x > 0, k), torch.addcmul(x, x, x, value=k))
    for k in (2.0, 2.0, 0.5, 1.5, -0.0):
        yield f(X, k)


@program
def numbers_that_are_returned(compile):
    f = compile(lambda x, k, n: (x * k, k, n, k * 2 + n, [n // 2, {"k": -k}]))
    for k, n in ((1.0, 2), (1.0, 2), (2.5, 7), (-0.0, -7), (math.nan, 0), (1e300, 1 << 70)):
        yield f(X, k, n)


@program
def number_beside_integers_of_a_tensor(compile):
    f = compile(lambda x, k: x * k + 1)
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16):
        for k in (2, 3, 1.5, 2.5, True, -1):
            yield f(tensor(6).abs().to(dtype), k)


@program
def large_integers(compile):
    f = compile(lambda x, n: x + n)
    for n in (1 << 40, 1 << 40, 1 << 62, -(1 << 63), 1 << 63, 1 << 64, 3):
        yield outcome(f, tensor(3, dtype=torch.int64), n)


@program
def complex_and_boolean_numbers(compile):
    f = compile(lambda x, k: x * k)
    for k in (1j, 1j, 2j, 1 + 2j, True, False, 2.0, complex(-0.0, 0.0)):
        yield f(X, k)


@program
def number_and_gradient(compile):
    f = compile(lambda x, k, n: x.pow(2) * k + x * n)
    for k, n in ((1.0, 1), (2.0, 1), (3.0, 2), (4.0, 3), (-0.0, 0)):
        x = leaf(6)
        yield backward(f(x, k, n))


@program
def counter_by_the_caller(compile):
    class State:
        step = 0
    f = compile(lambda x: x / (1 + State.step))
    for _ in range(6):
        State.step += 1
        yield f(X)


@program
def subclass_of_float(compile):
    class Metres(float):
        def __mul__(self, other):
            return float(self) * other * 100
        __rmul__ = __mul__
    f = compile(lambda x, k: (k * 2.0) + x)
    for k in (Metres(2), Metres(2), Metres(3), 2.0, 3.0, Metres(2)):
        yield f(X, k)


@program
def number_named_as_text(compile):
    f = compile(lambda x, k: (x + k, f"{k:.1f}", str(k), isinstance(k, float), type(k) is float))
    for k in (1.0, 1.0, 2.0, 3.0, 3):
        yield f(X, k)


@program
def number_shared_by_two_places(compile):
    options = {"a": 1.5, "b": 1.5}
    f = compile(lambda x, k: x * options["a"] - options["b"] * k)
    for a, b, k in ((1.5, 1.5, 1.5), (2.5, 2.5, 2.5), (2.5, 3.5, 1.0), (4.5, 3.5, 2.0), (5.5, 6.5, 7.5)):
        options.update(a=a, b=b)
        yield f(X, k)


@program
def numbers_in_lists_that_a_gradient_keeps(compile):
    """Autograd keeps shifts, repetitions, paddings and sizes of parts, and its backward takes them for plain numbers."""
    functions = [lambda x, k: x.roll(k, 0), lambda x, k: x.repeat(k), lambda x, k: F.pad(x, (k, 0)), lambda x, k: x.split(k)[0],
                 lambda x, k: torch.as_strided(x * 1, (k, 2), (1, 1)), lambda x, k: x.tile(k),
                 lambda x, k: F.conv1d(x.reshape(1, 1, -1), tensor(1, 1, 2), padding=k), lambda x, k: x[:k].expand(2, k)]
    for f in map(compile, functions):
        for k in (1, 2, 3, 2):
            yield backward(f(leaf(5), k))


@program
def elements_of_arguments_returned_and_kept(compile):
    """Each a number of Python's own, from the first call on."""
    history, table = [], {}

    @compile
    def f(x):
        number = x.item()
        history.append(number)
        table["last"] = number, [number + 1]
        return number, [number * 2], type(number) is float, x * number
    for value in (1.5, 2.5, 2.5, -3.0):
        yield f(torch.tensor(value)), [type(n) for n in history], type(table["last"][1][0])


class Rates:
    low = 0.5


@program
def old_constructors(compile):
    rates, table = Rates(), [1.0, 2.0, 3.0]

    @compile
    def f(x, k):
        y = x + torch.Tensor([1, 2, 3, 4, 5, 6]) * torch.FloatTensor([rates.low]) + torch.Tensor(6).fill_(k)
        y[torch.LongTensor([0, k])] += x.new([table[1], 1])
        return y, torch.DoubleTensor(table), torch.BoolTensor([True, False]), torch.Tensor([x.shape[0]]), x.new(2).zero_()
    for k, low in ((1, 0.5), (1, 0.5), (2, 0.5), (2, 0.25), (3, 0.25)):
        rates.low, table[1] = low, k * 2.0
        yield f(X, k)


@program
def old_constructors_written_to(compile):
    @compile
    def f(x):
        t = torch.FloatTensor([1, 2, 3])
        t += x[0]
        return t, (torch.Tensor([[1, 2, 3]]).requires_grad_() * x[:3]).sum()
    yield from calls(f, X)


@program
def old_constructors_of_elements(compile):
    """Which they read unseen."""
    elsewhere = torch.tensor(3.0)
    functions = [compile(f) for f in (
        lambda x: x + torch.FloatTensor([1, x[0], 2, 3, 4, 5]), lambda x: x + torch.Tensor([1, elsewhere, 2, 3, 4, 5]),
        lambda x: torch.FloatTensor([[1, 2, 3], x[:3]]), lambda x: x + x.new([elsewhere]),
        lambda x: x[torch.LongTensor([int(x[1])])], lambda x: torch.Tensor([x.sum().item()]) + x, lambda x: torch.Tensor(x) + 1)]
    for k in range(4):
        elsewhere.fill_(k)
        yield [f((X + k) % 5) for f in functions]


@program
def old_constructors_of_memory(compile):
    f = compile(lambda x: torch.FloatTensor(x.untyped_storage())[:3] * 2)
    yield from calls(f, X)


@program
def types_looked_at_on_another_path(compile):
    def helper(x, n):
        return x * n if type(n) is float else x

    @compile
    def f(x, n, deep):
        return helper(x, n) if deep else x * n
    for n, deep in ((0.5, False), (0.25, False), (0.125, True), (0.1, True), (0.2, False)):
        yield f(X, n, deep)


@program(exact=False)
def what_holds_numbers_is_frozen(compile):
    """The garbage collector does not show what gc.freeze has put aside."""
    counts, means = {"n": 0}, [0.0]
    scale = 2.0

    def double(x):
        return x * scale

    @compile
    def f(x):
        counts["n"] += 1
        means[0] = x.mean().item() * 0.5
        return double(x) * counts["n"]
    gc.freeze()
    try:
        for k in range(5):
            yield f(X + k), dict(counts), list(means), type(means[0])
    finally:
        gc.unfreeze()


@program(exact=False)
def returns_of_an_episode(compile):
    @compile
    def f(rewards, logits):
        total, returns = 0, deque()
        for reward in reversed(rewards):
            total = reward + 0.9 * total
            returns.appendleft(total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        return -(logits.log_softmax(0) * returns).sum()
    for k in range(6):
        logits = leaf(4)
        yield backward(f([1.0 + k, 2.0, 3.0 * k, -1.0], logits)), logits


@program
def tensors_of_several_numbers(compile):
    @compile
    def f(a, b):
        return (torch.tensor([a, b]), torch.as_tensor((a, 2, b)), torch.tensor([a, 1.5]), torch.tensor([[a, b], [b, a]]),
                torch.tensor([a, b], dtype=torch.float16), torch.tensor([a, True]), torch.tensor([a, b, a]) + torch.tensor(b))
    for a, b in ((1, 2), (2, 3), (3, 3), (1.5, 2), (2.5, 7), (3.5, 0.1), (1e300, 4), (1 << 40, 5), (7, 1e-3), (math.nan, 1)):
        yield outcome(f, a, b)


@program
def tensors_of_numbers_in_a_deque(compile):
    rewards = deque([0.0, 1.0, 2.0, 3.0], maxlen=4)
    f = compile(lambda x: (x * torch.tensor(rewards).mean(), torch.tensor(rewards), torch.as_tensor(list(rewards)[1:])))
    for k in range(6):
        yield f(X)
        rewards.append(k * 1.5)


@program
def data_given_by_name(compile):
    @compile
    def f(x, k):
        return (x * torch.tensor(data=[1.5, k]).sum(), torch.as_tensor(data=k), torch.asarray(obj=k, dtype=torch.float64),
                x.new_tensor(data=[k]), torch.detach_(input=x * k))
    for k in range(6):
        yield f(X, k + 0.5)


@dataclass(slots=True)
class Slotted:
    scaled: torch.Tensor
    by: float
    more: tuple = ()


@program
def numbers_in_what_a_call_gives(compile):
    """Of which not all takes another number in the place of one."""
    def generator(x, n):
        yield x * n

    async def coroutine(x, n):
        return x * n

    def default(x, n):
        return lambda k=n: x * k

    def nested(x, n):
        return KeyError((n, [n])), frozenset({n}), slice(0, n), Slotted(x * n, n, (n,))
    made = (
        (generator, next), (coroutine, asyncio.run), (default, lambda f: f()), (nested, lambda found: found),
        (lambda x, n: functools.partial(torch.mul, x, n), lambda f: f()), (lambda x, n: slice(0, n), lambda s: X * s.stop),
        (lambda x, n: frozenset({n}), lambda s: X * next(iter(s))), (lambda x, n: iter((n,)), lambda i: X * next(i)),
        (lambda x, n: itertools.repeat(n), lambda i: X * next(i)), (lambda x, n: ValueError((n,)), lambda e: X * e.args[0][0]),
        (lambda x, n: Slotted(x * n, n, (n,)), lambda s: (s.scaled, X * s.by, X * s.more[0])))
    for function, taken in made:
        f = compile(function)
        for n in (1.5, 2.5, 3.5, 3.5):
            yield taken(f(X, n))


@program
def numbers_left_in_what_takes_no_others(compile):
    class State:
        scale = whole = part = frozen = None
    s = State()

    @compile
    def f(x, n):
        s.scale, s.whole = functools.partial(torch.mul, x, n), lambda k=n: x * k
        s.part, s.frozen = slice(0, n), frozenset({n})
        return x * n
    for n in (1, 2, 3, 3):
        yield f(X, n), s.scale(), s.whole(), X[s.part], X * next(iter(s.frozen))


@program
def numbers_for_libraries_after_something_is_left(compile):
    """Which take none but Python's own."""
    class State:
        step, lines, seen = 0, [], []
    s, image = State(), tensor(1, 1, 4, 4)

    @compile
    def log(x):
        s.step += 1
        loss = (x * s.step).sum()
        s.lines.append(json.dumps({"step": s.step, "loss": loss.item(), s.step: [s.step]}))
        print(json.dumps([s.step]), json.JSONEncoder().encode(s.step))
        return loss

    @compile
    def average(x, n):
        s.seen.append(n)
        return x * statistics.mean(s.seen), statistics.mean([n, 1]), fractions.Fraction(n) + 1

    @compile
    def resize(x, n):
        s.step += n
        return F.interpolate(x, size=n), F.interpolate(x, scale_factor=n), x * n
    for n in (1, 2, 3, 4, 2):
        yield log(X), average(X, n), outcome(resize, image, n), s.step, s.lines, s.seen
    yield outcome(resize, image, -1), s.step


class Batch:
    def __init__(self, x, count, **more):
        self.x, self.count = x, count
        vars(self).update(more)


class Narrow:
    __slots__ = ("x", "__count", "more")

    def __init__(self, x, count):
        self.x, self.count = x, count

    @property
    def count(self):
        return self.__count

    @count.setter
    def count(self, value):
        self.__count = value


@program
def numbers_of_objects_given_anew(compile):
    def f(batch):
        sums = torch.zeros(batch.count, 3).index_add(0, torch.arange(batch.x.shape[0]) % batch.count, batch.x)
        return sums / batch.count, batch.count + 1
    for kind in (Batch, Narrow, lambda x, count: SimpleNamespace(x=x, count=count)):
        run = compile(f)
        for n in (2, 3, 4, 5, 5, 7, 1, 2):
            yield run(kind(tensor(2 * n, 3), n))


@program
def numbers_deep_in_what_is_given(compile):
    @compile
    def f(call):
        inner = call["batches"][0].inner
        return inner.x * inner.count + call["batches"][1].parts[0].scale
    for k in range(6):
        one = Batch(None, 0, inner=Narrow(tensor(4), k))
        yield f({"batches": [one, Batch(None, 1, parts=[SimpleNamespace(scale=k + 0.5)])]})


@program
def numbers_of_objects_that_take_another_s_place(compile):
    """Of the state, in an object or a list in it that is replaced."""
    net = nn.Linear(4, 4)
    net.options = Batch(None, 1.5, parts=[Batch(None, 2)])
    f = compile(lambda x: x * net.options.count + net.options.parts[0].count)
    for k in range(6):
        yield f(tensor(4))
        net.options = Batch(None, k + 0.5, parts=[Batch(None, k)]) if k % 2 else SimpleNamespace(count=k, parts=[Narrow(0, k)])
        yield f(tensor(4))


@program
def numbers_written_in_objects_given_anew(compile):
    @compile
    def f(batch):
        batch.count += 1
        batch.more = batch.count * 2
        return batch.x * batch.count
    for k in range(6):
        for kind in (Batch, Narrow, lambda x, count: SimpleNamespace(x=x, count=count)):
            batch = kind(tensor(4), k)
            for _ in range(2):
                yield f(batch), batch.count, batch.more


@program
def an_object_with_numbers_given_at_two_places(compile):
    f = compile(lambda a, b: a.x * a.count + b.x * b.count)
    for k in range(6):
        a, b = Narrow(tensor(4), k), Narrow(tensor(4), k + 3)
        for pair in ((a, b), (a, a), (b, a)):
            yield f(*pair)
        b.count = 7
        yield f(a, b)


@program
def other_objects_in_the_place_of_one_with_numbers(compile):
    class Computed:
        x = tensor(4)

        @property
        def count(self):
            return 3
    f = compile(lambda batch: batch.x * batch.count if hasattr(batch, "count") else batch * 2)
    for k in range(4):
        yield f(Batch(tensor(4), k))
        yield f(Narrow(tensor(4), k))
        yield f(Computed())
        yield f(tensor(4) + k)
        yield f(SimpleNamespace(x=tensor(4), count=k))
        yield f(SimpleNamespace(x=tensor(4), count="ab"[:k] * 0 or float(k)))


@program
def objects_of_slots_and_namespaces_made_in_a_run(compile):
    @compile
    def f(x, n):
        made = Narrow(x * n, n)
        made.more = SimpleNamespace(half=x / 2, n=n)
        return made, [made.more]
    for n in (1, 2, 3, 3):
        made, (more,) = f(tensor(4), n)
        yield made.x, made.count, more.half, more.n, made.more is more


@program
def numbers_in_exceptions(compile):
    error, errors, state = ValueError(), [], SimpleNamespace(count=0)

    @compile
    def f(x):
        state.count += 1
        error.args = (state.count, "text")
        try:
            raise KeyError(state.count)
        except KeyError as raised:
            errors.append(raised.args)
        return x * state.count
    for _ in range(4):
        yield f(X), error.args, type(error.args[0]), errors


@program(exact=False)
def functions_that_take_no_stand_ins(compile):
    """Of Python's clocks, dates and decimals, in a step that cannot be taken back: a number that changes stays a plain one."""
    net = whole(nn.Linear(3, 2), 0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)

    @compile
    def step(x, k):
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        seconds = round(loss.item(), 2)
        left = timedelta(seconds=seconds * k), time.gmtime(1000 * k), datetime.fromtimestamp(k).year
        return str(left[0]), left[1].tm_min, left[2], float(Decimal(k) * 2)
    for k in (1, 2, 3, 4, 2.5, 3.5, 1):
        yield step(tensor(4, 3), k)


MILESTONES = {3: 0.5, 6: 0.25}


@program
def looked_for_in_sets_and_dicts(compile):
    class Schedule:
        def __init__(self):
            self.warm, self.milestones, self.named, self.mixed = {1, 2}, Counter((4, 4, 7)), {"a": 1}, {1, 2.5, "x"}

    schedule, grown = Schedule(), {2}

    @compile
    def f(x, k):
        if k in {3, 5}:
            x = x * 2
        if k not in MILESTONES:
            x = x + 1
        if k - 1 in schedule.warm:
            x = x - 3
        if k in schedule.milestones:
            x = x * schedule.milestones[k]
        return x, k in grown, -k in {-1, -2}, k in (1, 9), k in schedule.named, k in schedule.mixed, k in {}
    for k in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3, 6, -1, -2, 1 << 40):
        yield f(X, k)
    grown.add(11)
    for k in (11, 12, 13, True):
        yield f(X, k)


@program
def looked_for_in_what_changes(compile):
    @compile
    def f(x, k, seen):
        known = {k + 1, 4}
        if k in seen:
            return x * 2, 4 in known, k + 1 in known
        seen.add(k)
        return x + 1
    for seen in ({1, 2}, set(), {7}):
        for k in (1, 2, 3, 5, 5, 7, 8):
            yield f(X, k, seen), seen


@program(exact=False)
def schedules_in_steps(compile):
    schedules = torch.optim.lr_scheduler
    for make in (lambda o: schedules.MultiStepLR(o, [3, 6], 0.5), lambda o: schedules.ReduceLROnPlateau(o, patience=1),
                 lambda o: schedules.SequentialLR(o, [schedules.ConstantLR(o), schedules.ExponentialLR(o, 0.9)], [3])):
        net = whole(nn.Linear(4, 2))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        schedule = make(optimizer)
        by_loss = isinstance(schedule, schedules.ReduceLROnPlateau)

        @compile
        def step(x):
            loss = net(x).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step(*[loss.item()] * by_loss)
            return loss.item()
        for k in range(9):
            yield step(tensor(3, 4) + k % 3), optimizer.param_groups[0]["lr"], net.weight
