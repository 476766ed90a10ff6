"""Callables that a run reaches: methods bound to containers, getters, functions that remember or are wrapped, their attributes;
and attributes of tensors."""
import collections
import contextvars
import dataclasses
import datetime
import decimal
import functools
import inspect
import itertools
import logging
import math
import operator
import sys
import types

import torch
from torch import nn

from .harness import changed, outcome, program, tensor

X = tensor(4)


@program
def bound_to_containers(compile):
    log, seen, queue, config = [], set(), collections.deque([X, X * 2, X * 3, X * 4]), {"scale": 2}
    append, callbacks, next_one, get = log.append, [seen.add, log.append], queue.popleft, config.get
    number, partial = itertools.count(1).__next__, functools.partial(config.get, "scale")

    def logs(x):
        append(x * 2)
        for call in callbacks:
            call(3)
        return x + len(log)
    f, g = compile(logs), compile(lambda x: next_one() * 2)
    h, k = compile(lambda x: x * number()), compile(lambda x: x * partial())
    for n in range(4):
        config["scale"] = n // 2
        yield f(X), g(X), h(X), k(X), log, seen, len(queue)
    yield from changed(compile, lambda x: x * get("scale"), lambda: config.update(scale=5))
    yield from changed(compile, lambda x, get=config.get: x * get("scale"), lambda: config.update(scale=7))


@program
def getters(compile):
    class Settings:
        scale, parts = 2, [3]

        def scaled(self, by):
            return self.scale * by[0]

        @classmethod
        def best(cls):
            return 2
    settings, by = Settings(), [2]
    attribute, item = operator.attrgetter("scale"), operator.itemgetter(0)
    method, of_class = operator.methodcaller("scaled", by), operator.methodcaller("best")
    yield from changed(compile, lambda x: x * attribute(Settings) + item(Settings.parts), lambda: setattr(Settings, "scale", 5),
                       lambda: Settings.parts.insert(0, 9))
    yield from changed(compile, lambda x: x * method(settings), lambda: setattr(settings, "scale", 3), lambda: by.insert(0, 4))
    yield from changed(compile, lambda x: x * of_class(Settings), lambda: setattr(Settings, "best", classmethod(lambda cls: 7)))


@program
def names_that_no_code_spells(compile):
    class Base:
        scale = 2

    class Settings(Base):
        first, second, name = 2, 3, "scale"

        def total(self):
            return sum(value for key, value in type(self).__dict__.items() if key in ("first", "second", "thi" + "rd"))

        def inherited(self):
            return getattr(super(), self.name)
    settings, scale = Settings(), 2

    def function():
        return scale

    def set_scale():
        nonlocal scale
        scale = 5
    function.first, name = 2, "fi" + "rst"
    yield from changed(compile, lambda x: x * settings.total(), lambda: setattr(Settings, "first", 5),
                       lambda: setattr(Settings, "thi" + "rd", 9))
    yield from changed(compile, lambda x: x * settings.inherited(), lambda: setattr(Base, "scale", 7))
    yield from changed(compile, lambda x: x * function.__dict__[name], lambda: setattr(function, name, 7))
    yield from changed(compile, lambda x: x * sum(n[0] == "z" for n in dir(settings)), lambda: setattr(Settings, "z" + "z", 1))
    yield from changed(compile, lambda x: x * function.__closure__[0].cell_contents, set_scale)


@program
def attributes(compile):
    def plain():
        return 1

    def wrapping(function):
        @functools.wraps(function)
        def wrapper(*args):
            wrapper.count += 1
            return function(*args) * wrapper.count
        wrapper.count = 0
        return wrapper

    @torch.no_grad()
    def evaluated(x):
        evaluated.count += 1
        return x * evaluated.count
    evaluated.count, counted = 0, wrapping(plain)
    f = compile(lambda x: evaluated(x) + counted())
    for _ in range(4):
        yield f(X), evaluated.count, counted.count
    for holder in (functools.partial(plain), functools.lru_cache(plain), functools.singledispatch(plain), staticmethod(plain)):
        holder.scale = 2
        yield from changed(compile, lambda x: x * holder.scale, lambda: setattr(holder, "scale", 5))


@program
def attributes_of_tensors(compile):
    state, net = torch.ones(1), nn.Linear(4, 4)
    state.scale, state.options = 2, {"shift": 1}
    for p in net.parameters():
        p.decay = 0.1
    yield from changed(compile, lambda x: x * state.scale + state.options["shift"], lambda: setattr(state, "scale", 5),
                       lambda: state.options.update(shift=3))
    yield from changed(compile, lambda x: x * sum(p.decay for p in net.parameters()), lambda: setattr(net.weight, "decay", 5))
    yield from changed(compile, lambda x: x * (2 if hasattr(state, "mark") else 3), lambda: setattr(state, "mark", 1))


@program
def attributes_of_tensors_written(compile):
    weight = nn.Parameter(torch.ones(4))
    weight.count, weight.mean, weight.log = 0, torch.zeros(4), []

    def f(x):
        weight.count += 1
        with torch.no_grad():
            weight.mean = weight.mean * 0.9 + x
        weight.log.append(weight.count)
        return x * weight / weight.count
    f = compile(f)
    for _ in range(5):
        yield f(X), weight.count, weight.mean, weight.log


@program
def set_past_their_classes(compile):
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        scale: int = 2

    class Narrow:
        __slots__ = ("last",)

    class Net(nn.Module):
        def forward(self, x):
            object.__setattr__(self, "last", x * 2)
            return x + 1

        def through_super(self, x):
            super().__setattr__("other", x * 3)
            return x + 2
    frozen, narrow, net, box = Frozen(), Narrow(), Net(), types.SimpleNamespace(kept=1)

    def f(x):
        object.__setattr__(frozen, "last", x * frozen.scale)
        object.__setattr__(narrow, "last", x)
        object.__delattr__(box, "kept")
        return x + 1
    f, g = compile(f), compile(lambda x: net(x) + net.through_super(x))
    for n in range(3):
        box.kept = n
        yield f(X * n), g(X * n), frozen.last, narrow.last, net.last, net.other, vars(box)


@program
def classes_made_by_calls(compile):
    settings = dataclasses.make_dataclass("Settings", ["scale", "rate"])(2.0, 0.1)
    kind = types.new_class("Net", (nn.Module,), {}, lambda body: body.update(scale=1.0, forward=lambda self, x: x * self.scale))
    net = kind()
    yield from changed(compile, lambda x: x * settings.scale, lambda: setattr(settings, "scale", 5.0))
    yield from changed(compile, lambda x: net(x), lambda: setattr(net, "scale", 3.0),
                       lambda: setattr(kind, "forward", lambda self, x: x))
    f = compile(lambda x, given: x * given.scale)
    for settings.scale in (1.0, 2.0, 3.0):
        yield f(X, settings)


@program
def sets_and_their_order(compile):
    class Item:
        def __init__(self, number, scale):
            self.number, self.scale = number, scale

        def __eq__(self, other):
            return self.number == other.number

        def __hash__(self):
            return self.number
    numbers, items = {0, 8}, {Item(1, 2.0)}

    def refill():
        numbers.clear()
        numbers.update([8])
        numbers.add(0)
    yield from changed(compile, lambda x: functools.reduce(lambda a, n: a * 2 + n, numbers, x), refill)
    yield from changed(compile, lambda x: x * next(iter(items)).scale, lambda: (items.clear(), items.add(Item(1, 5.0))))


@program
def keys_whose_hash_has_changed(compile):
    class Key:
        def __init__(self, number):
            self.number = number

        def __hash__(self):
            return self.number

        def __eq__(self, other):
            return isinstance(other, Key) and self.number == other.number
    key = Key(1)
    table = {key: 5, Key(2): 6}
    key.number = 3
    f = compile(lambda x: x * len(table) + table.get(Key(2), 7))
    for _ in range(3):
        yield f(X), len(table), [k.number for k in table]


@program
def changing_numbers_that_c_takes(compile):
    for use in (lambda n: float(decimal.Decimal(n)), lambda n: datetime.timedelta(days=n).days, lambda n: abs(n + 1j),
                lambda n: (datetime.timedelta(days=1) * n).days, lambda n: len(collections.deque([1] * 9, maxlen=n))):
        state = types.SimpleNamespace(count=0, last=None)

        def f(x):
            state.count += 1
            state.last = x * state.count
            return x * use(state.count)
        f = compile(f)
        for _ in range(4):
            yield f(X), state.count, state.last


@program
def context_variables(compile):
    variable = contextvars.ContextVar("variable")

    def f(x, k):
        token = variable.set(k)
        y = x * variable.get()
        if k > 3:
            variable.reset(token)
        return y

    def run():
        g = compile(f)
        return [(g(X, k), variable.get(), type(variable.get())) for k in (2, 2, 3, 4, 5)]
    yield from contextvars.copy_context().run(run)
    yield from changed(compile, lambda x: x * 2 if variable.get(None) is None else x * (variable.get(3) or 4))


@program
def memories_asked_with_sizes(compile):
    for bound in (2, None):
        made = []

        @functools.lru_cache(bound)
        def projection(n):
            made.append(n)
            return torch.randn(n, 2)
        f = compile(lambda x: x @ projection(x.shape[-1]))
        torch.manual_seed(0)
        for n in (3, 4, 4, 4, 3, 5, 4, 3, 5):
            yield f(torch.ones(2, n)), made, projection.cache_info().currsize
        yield torch.rand(1)


@program
def functions_that_code_keeps(compile):
    class Net(nn.Module):
        kept = None

        def forward(self, x, n):
            if self.kept is None:
                self.kept = math.sqrt
            return x * self.kept(n)
    net, table = Net(), {"sin": math.sin, "cos": math.cos}
    f = compile(net)
    for n in (1.0, 2.0, 3.0):
        yield f(X, n), net.kept is math.sqrt
    g = compile(lambda x, name: (x * (2 if table[name] is math.sin else 3), math.cos))
    for name in ("sin", "sin", "cos"):
        y, function = g(X, name)
        yield y, function is math.cos


@program
def levels_of_loggers(compile):
    logger, got = logging.getLogger("smelt.tests.levels"), []

    class Handler(logging.Handler):
        def emit(self, record):
            got.append(record.getMessage())
    logger.propagate, logger.handlers = False, [Handler()]

    def f(x):
        logger.debug("hidden or not")
        return x * 2
    f = compile(f)
    for level in (logging.INFO, logging.DEBUG, logging.INFO, logging.DEBUG):
        logger.setLevel(level)
        yield f(X), f(X), list(got)


@program
def frames_and_exceptions_around(compile):
    f = compile(lambda x: x * 2 if sys.exc_info()[0] is None else x * 3)
    yield f(X), f(X)
    try:
        raise KeyError
    except KeyError:
        yield f(X)

    @dataclasses.dataclass
    class Shown:
        scale: int = 2
    shown = Shown()
    yield from changed(compile, lambda x: x * len(repr(shown)), lambda: setattr(shown, "scale", 333))
    yield from changed(compile, lambda x: x * len(inspect.signature(lambda a, b: a).parameters))


@program
def functions_that_torch_calls(compile):
    linear, norm = nn.Linear(4, 4), nn.LayerNorm(4)
    before = nn.functional.linear, nn.functional.layer_norm
    yield from changed(compile, lambda x: linear(x), lambda: setattr(nn.functional, "linear", lambda x, weight, bias: x * 3))
    yield from changed(compile, lambda x: norm(x), lambda: setattr(nn.functional, "layer_norm", lambda x, *args: x * 5))
    nn.functional.linear, nn.functional.layer_norm = before
    yield from changed(compile, lambda x: norm(linear(x)))


@program
def sets_as_arguments(compile):
    @compile
    def f(x, flags):
        if "double" in flags:
            x = x * 2
        for flag in sorted(flags):
            x = x + len(flag)
        return x, flags

    @compile
    def g(x, seen):
        seen.add(len(seen))
        return x * len(seen)
    for kind in (frozenset, set):
        for names in ("double one", "double one", "one", "double one", ""):
            seen = set(names.split())
            yield f(X, kind(names.split())), g(X, seen), seen
    numbers = compile(lambda x, s: [x * n for n in s])
    for s in ({1, 2}, {1, 2}, {1.0, 2}, {True, 2}, {8, 16}):
        yield numbers(X, s)
    twice = compile(lambda x, a, b: x * 2 if a is b else x * 3)
    one = {1}
    for a, b in ((one, one), ({1}, {1}), (one, {1}), (one, one)):
        yield twice(X, a, b)


@program(exact=False)
def items_of_a_batch_that_are_not_read(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, batch, *, scale=1):
            return self.linear(batch["x"]) * scale, batch["n"]
    net, seen = Net(), []
    f = compile(net)

    def batches(count):
        for k in range(count):
            yield {"x": X + k, "n": k // 3, "name": f"{k}.png", "all": [k] * k}
    for batch in batches(6):
        yield f(batch, scale=2), f(batch=batch)
    hook = net.register_forward_pre_hook(lambda module, args: seen.append(args[0]["name"]))
    for batch in batches(3):
        yield f(batch), seen
    hook.remove()

    def counted(batch, other):
        return batch["x"] * 2 + len(other["name"])
    g, passed = compile(counted), compile(lambda batch: counted(batch, batch))
    for batch in batches(4):
        yield g(batch, batch), g(batch, {"name": "a"}), passed(batch)

    @compile
    def changing(batch):
        batch["x"].add_(1)
        x = batch["x"]
        return x, x * 2
    for batch in batches(3):
        yield changing(batch), batch
    missing = compile(lambda batch: batch["x"] * batch["n"])
    for batch in batches(5):
        if batch["n"]:
            del batch["n"]
        yield outcome(missing, batch)
