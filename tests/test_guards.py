"""Whatever a run read: change it, call again, and the answer is eager's. Whatever a run wrote shows on every call."""
import collections
import dataclasses
import enum
import functools
import gc
import logging
import math
import os
import random
import re
import shutil
import sys
import time
import types
import warnings
import weakref

import numpy
import pytest
import torch
from torch import nn

from smelt.errors import SmeltWarning
from smelt.frontend import api
from smelt.frontend.guard.guards import MISSING, same
from smelt.runtime import watch
from smelt.runtime.watch import KINDS

from .common import build, equal

X = torch.arange(6.0).reshape(2, 3)

SCALE = 2.0
WEIGHT = torch.full((3,), 2.0)
TABLE = {"a": 1.0, "b": [2.0, 3.0]}
FACTORS = [1.0, 2.0]
settings = types.ModuleType("settings")
settings.SCALE = 3.0
settings.inner = types.ModuleType("settings.inner")
settings.inner.SHIFT = 1.0


class Config:
    scale = 4.0

    def __init__(self):
        self.shift = 1.0

    @property
    def both(self):
        return self.scale + self.shift

    def apply(self, x):
        return x * self.scale + self.shift


class Slots:
    __slots__ = ("scale",)


class Fallback:
    def __init__(self):
        self.table = {"scale": 2.0}

    def __getattr__(self, name):
        return self.__dict__["table"][name]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("offset", torch.ones(2))
        self.scale, self.sizes = 2.0, [1.0, 2.0]

    def forward(self, x):
        return self.drop(self.fc2(torch.relu(self.fc1(x)))) * self.scale + self.offset * self.sizes[0]


@pytest.fixture(autouse=True, params=[None, watch], ids=["generated", "watched"])
def looking(request, monkeypatch):
    """Every test runs with both ways of looking at what a run read."""
    monkeypatch.setattr(api, "compile", functools.partial(api.compile, watch=request.param))


def compiled(function, **options):
    return api.compile(function, build=build, fullgraph=True, **options)


def stale(function, change, *args, programs=2, **kwargs):
    """Compile, change something, call again: the answer is eager's and it took another program; back again too."""
    call = compiled(function)
    f = api.compiled_function(call)
    equal(call(*args, **kwargs), function(*args, **kwargs))
    assert len(f.programs) == 1 and f.programs[0].run is not None
    equal(call(*args, **kwargs), function(*args, **kwargs))
    assert len(f.programs) == 1, f.recompilations
    undo = change()
    try:
        expected = function(*args, **kwargs)
        equal(call(*args, **kwargs), expected)
        equal(call(*args, **kwargs), expected)
        assert len(f.programs) == programs, f.recompilations
        assert len(f.recompilations) == programs - 1
    finally:
        if undo:
            undo()
    return f


def swap(holder, name, value):
    """A change that sets an attribute, and undoes it."""
    def change():
        entries = holder if isinstance(holder, dict) else vars(holder)
        tables = [entries, *(entries[t] for t in ("_parameters", "_buffers", "_modules") if isinstance(holder, nn.Module))]
        before = next((t[name] for t in tables if name in t), MISSING)
        put = holder.__setitem__ if isinstance(holder, dict) else functools.partial(setattr, holder)
        remove = holder.__delitem__ if isinstance(holder, dict) else functools.partial(delattr, holder)
        put(name, value)
        return (lambda: remove(name)) if before is MISSING else (lambda: put(name, before))
    return change


HERE = globals()


# Python state

def test_global_number():
    f = stale(lambda x: x * SCALE, swap(HERE, "SCALE", 5.0), X)
    assert f.recompilations == ["<lambda>: global SCALE 2.0 -> 5.0"]


def test_global_of_a_called_function():
    def inner(x):
        return x * SCALE
    stale(lambda x: inner(x) + 1, swap(HERE, "SCALE", 5.0), X)


def test_global_bool_is_not_its_number():
    stale(lambda x: x * (10 if FLAG is True else 1), swap(HERE, "FLAG", 1), X)


FLAG = True


def test_negative_zero_and_nan():
    f = compiled(lambda x, k: x * math.copysign(1.0, k))
    equal(f(X, 0.0), X)
    equal(f(X, -0.0), -X)
    assert len(f.programs) == 2
    g = compiled(lambda x, k: x + (1 if k != k else 0))
    for _ in range(3):
        equal(g(X, float("nan")), X + 1)
    assert len(g.programs) == 1


def test_global_tensor_replaced():
    stale(lambda x: x * WEIGHT, swap(HERE, "WEIGHT", torch.full((3,), 7.0)), X)


def test_global_tensor_changed_in_place_needs_no_program():
    f = compiled(lambda x: x * WEIGHT)
    equal(f(X), X * 2)
    WEIGHT.mul_(2)
    try:
        equal(f(X), X * 4)
        assert len(f.programs) == 1
    finally:
        WEIGHT.div_(2)


def test_global_function_replaced():
    stale(lambda x: helper(x), swap(HERE, "helper", lambda x: x + 2), X)


def helper(x, amount=1.0):
    return x + amount


def test_function_defaults_and_code():
    def change():
        helper.__defaults__ = (3.0,)
        return lambda: setattr(helper, "__defaults__", (1.0,))
    stale(lambda x: helper(x), change, X)

    def other(x, amount=1.0):
        return x - amount

    def recode():
        before, helper.__code__ = helper.__code__, other.__code__
        return lambda: setattr(helper, "__code__", before)
    stale(lambda x: helper(x), recode, X)


def test_builtin_hidden_by_a_global():
    stale(lambda x: x * max(FACTORS), swap(HERE, "max", lambda c: 10.0), X)


def test_containers_in_globals():
    stale(lambda x: x * TABLE["a"], swap(TABLE, "a", 9.0), X)
    stale(lambda x: x * TABLE["b"][0], lambda: TABLE["b"].__setitem__(0, TABLE["b"][0] + 3.0), X)
    stale(lambda x: x * sum(FACTORS), lambda: FACTORS.append(3.0), X)


def test_closure_cell():
    k = 2.0

    def f(x):
        return x * k

    def change():
        nonlocal k
        k = 5.0
    stale(f, change, X)


def test_closure_of_an_inner_function_and_of_a_decorated_one():
    k = 2.0

    def make():
        def inner(x):
            return x * k
        return inner

    @functools.wraps(make)
    def wrapper(x):
        return make()(x)

    def change():
        nonlocal k
        k = 5.0
    stale(wrapper, change, X)


def test_closure_tensor():
    w = torch.ones(3)
    f = compiled(lambda x: x + w)
    equal(f(X), X + 1)
    assert "closure w" in str(f.programs[0].guards)


def test_attributes_of_modules_of_python():
    stale(lambda x: x * settings.SCALE, swap(settings, "SCALE", 5.0), X)
    stale(lambda x: x * settings.inner.SHIFT, swap(settings.inner, "SHIFT", 5.0), X)
    stale(lambda x: x * getattr(settings, "SCALE"), swap(settings, "SCALE", 5.0), X)


def test_import_inside_the_function(monkeypatch):
    monkeypatch.setitem(sys.modules, "settings", settings)

    def f(x):
        import settings as s
        return x * s.SCALE
    stale(f, swap(settings, "SCALE", 5.0), X)


def test_class_attribute():
    stale(lambda x: x * Config.scale, swap(Config, "scale", 5.0), X)


def test_object_attributes():
    config = Config()
    stale(lambda x: config.apply(x), swap(config, "shift", 5.0), X)
    stale(lambda x: config.apply(x), swap(config, "scale", 5.0), X)  # now hides the class's
    stale(lambda x: config.apply(x), swap(Config, "scale", 6.0), X)
    stale(lambda x: config.apply(x), swap(Config, "apply", lambda self, x: x - 1), X)
    stale(lambda x: x * config.both, swap(config, "shift", 5.0), X)
    stale(lambda x, c: x * c.both, swap(config, "shift", 5.0), X, config)
    stale(lambda x: x * vars(config)["shift"], swap(config, "shift", 5.0), X)
    stale(lambda x: x * getattr(config, "extra", 1.0), swap(config, "extra", 5.0), X)


def test_object_with_slots_and_with_getattr():
    slots = Slots()
    slots.scale = 2.0
    stale(lambda x: x * slots.scale, lambda: setattr(slots, "scale", 5.0), X)
    fallback = Fallback()
    stale(lambda x: x * fallback.scale, swap(fallback.table, "scale", 5.0), X)
    stale(lambda x: x * fallback.scale, swap(fallback, "scale", 7.0), X)


def test_object_whose_class_or_dict_is_replaced():
    class Other(Config):
        scale = 10.0
    config = Config()
    stale(lambda x: config.apply(x), lambda: setattr(config, "__class__", Other), X)
    stale(lambda x: config.apply(x), lambda: setattr(config, "__dict__", {"shift": 9.0}), X)


def test_partial_and_bound_method():
    config = Config()
    stale(functools.partial(lambda k, x: x * k * config.scale, 2.0), swap(config, "scale", 5.0), X)
    stale(config.apply, swap(config, "shift", 5.0), X)


def test_super_and_operators():
    class Base:
        def __init__(self):
            self.k = 2.0

        def __mul__(self, x):
            return x * self.k

        def run(self, x):
            return self * x

    class Derived(Base):
        def run(self, x):
            return super().run(x) + 1
    d = Derived()
    stale(lambda x: d.run(x), swap(d, "k", 5.0), X)


# Modules

def test_module_state():
    net = Net().eval()
    stale(net, lambda: swap(net, "scale", 3.0)(), X)
    stale(net, lambda: swap(net, "fc2", nn.Linear(4, 2))(), X)
    stale(net, lambda: swap(net.fc1, "bias", nn.Parameter(torch.ones(4)))(), X)
    stale(net, lambda: swap(net, "offset", torch.zeros(2))(), X)
    stale(net, lambda: net.sizes.__setitem__(0, 7.0), X)
    stale(net, lambda: swap(net.fc1, "forward", lambda x: x @ torch.ones(3, 4))(), X)
    stale(net, lambda: net.requires_grad_(False) and None, X)


def test_module_dtype():
    net = Net().eval()
    f = compiled(net)
    equal(f(X), net(X))
    net.double()
    equal(f(X.double()), net(X.double()))


def test_module_training():
    net = Net()
    net.drop.p = 0.0
    f = stale(net, lambda: net.eval() and None, X)
    assert any("training True -> False" in r for r in f.recompilations)


def test_module_hooks():
    net = Net().eval()
    stale(net, lambda: net.fc1.register_forward_hook(lambda m, args, out: out * 2).remove, X)
    stale(net, lambda: net.register_forward_pre_hook(lambda m, args: (args[0] * 2,)).remove, X)
    everywhere = nn.modules.module.register_module_forward_hook
    stale(net, lambda: everywhere(lambda m, args, out: out * 2).remove, X)


def test_weights_changed_in_place_need_no_program():
    net = Net().eval()
    f = compiled(net)
    f(X)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    equal(f(X), net(X))
    net.load_state_dict(Net().state_dict())
    equal(f(X), net(X))
    assert len(api.compiled_function(f).programs) == 1


def test_module_lists_and_parametrization():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x
    net = Stack()
    stale(net, lambda: net.layers.append(nn.Linear(3, 3)) and None, X)
    stale(net, lambda: nn.utils.parametrizations.weight_norm(net.layers[0]) and None, X)


# Arguments

def test_metadata_of_arguments():
    f = compiled(lambda x: x * 2)
    for x in (X, X[:1], X.double(), X.t(), X.clone().requires_grad_(), nn.Parameter(X.clone())):
        equal(f(x), x * 2)
    assert len(f.programs) == 6
    equal(f(X), X * 2)
    assert len(f.programs) == 6
    assert f.recompilations[0] == "<lambda>: x.shape (2, 3) -> (1, 3)"


def test_same_tensor_twice():
    f = compiled(lambda x, y: x + y if x is y else x - y)
    y = X.clone()
    equal(f(X, X), X + X)
    equal(f(X, y), X - y)
    equal(f(y, y), X + X)
    equal(f(y, X), y - X)
    assert len(f.programs) == 2


def test_argument_that_is_a_captured_tensor():
    f = compiled(lambda x: x * 10 if x is WEIGHT else x * WEIGHT)
    equal(f(WEIGHT), WEIGHT * 10)
    equal(f(WEIGHT.clone()), WEIGHT * WEIGHT)
    equal(f(WEIGHT), WEIGHT * 10)


def test_structure_of_arguments():
    Point = collections.namedtuple("Point", "x y")

    @dataclasses.dataclass
    class Batch:
        x: torch.Tensor
        k: float = 2.0

    def f(a, *rest, **more):
        found = [x for x in (a, *rest, *more.values())]
        total = 0.0
        while found:
            v = found.pop()
            if isinstance(v, Batch):
                total = total + v.x * v.k
            elif isinstance(v, dict):
                found += v.values()
            elif isinstance(v, (tuple, list)):
                found += v
            elif isinstance(v, (torch.Tensor, float)):
                total = total + v
        return total
    g = compiled(f)
    calls = [((X,), {}), (([X, X + 1],), {}), (((X, X + 1),), {}),
             ((Point(X, X + 2),), {}), ((Batch(X),), {}), ((Batch(X, 3.0),), {}),
             (({"a": X, "b": {"c": 2.0}},), {}), (({"a": X, "b": {"c": 3.0}},), {}), ((X,), {"k": X}), ((X,), {"j": X}),
             ((collections.OrderedDict(a=X),), {}), ((X, 1.0, None, "s", torch.float32), {})]
    for _ in range(2):
        for args, kwargs in calls:
            equal(g(*args, **kwargs), f(*args, **kwargs))
        assert len(g.programs) == len(calls)


def test_what_the_class_of_an_argument_says():
    @dataclasses.dataclass
    class Scaled:
        x: torch.Tensor
        factor = 2.0

        def value(self):
            return self.x * self.factor
    stale(lambda s: s.value(), swap(Scaled, "factor", 3.0), Scaled(X))
    stale(lambda s: s.value(), swap(Scaled, "value", lambda self: self.x - 1), Scaled(X))


def test_values_among_arguments():
    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    def f(x, v):
        return x * (hash(repr(v)) % 1000)
    g = compiled(f)
    values = [1, 1.0, True, None, "a", (1, 2), (1, 2.0), Color.RED, Color.BLUE, torch.float32, torch.device("cpu"),
              slice(1, 2), range(3)]
    for _ in range(2):
        for v in values:
            equal(g(X, v), f(X, v))
    assert len(g.programs) == len(values)


def test_same():
    a = float("nan")
    assert same(a, -a + 0) and same(1, 1) and same((1, "a"), (1, "a")) and same(2.5, 2.5) and same(0j, 0j)
    assert not same(1, True) and not same(0.0, -0.0) and not same((1,), (1.0,)) and not same([1], [1]) and not same(0j, -0j)


# torch's state

def test_torch_modes():
    f = compiled(lambda x: torch.arange(3).sum() * 0.5 + x @ x.t() if torch.is_grad_enabled() else x - 1.0)
    x = X.clone().requires_grad_()
    assert f(x).requires_grad
    with torch.no_grad():
        equal(f(x), X - 1)
    with torch.inference_mode():
        equal(f(x), X - 1)
        assert f(x).is_inference()
    plain = f(x).dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert f(x).dtype == (torch.arange(3).sum() * 0.5 + x @ x.t()).dtype
    assert f(x).dtype == plain == torch.float32


def test_default_dtype_and_flags():
    def widen():
        torch.set_default_dtype(torch.float64)
        return lambda: torch.set_default_dtype(torch.float32)
    stale(lambda x: torch.ones(3) / 3, widen, X)

    def change():
        torch.use_deterministic_algorithms(True)
        return lambda: torch.use_deterministic_algorithms(False)
    stale(lambda x: x + 1 if torch.are_deterministic_algorithms_enabled() else x - 1, change, X)


def test_requires_grad_read_under_no_grad():
    net = nn.Linear(3, 3)

    def f(x):
        return x + 1 if net.weight.requires_grad else x - 1
    with torch.no_grad():
        stale(f, lambda: net.requires_grad_(False) and None, X)


def test_memory_shared_with_a_written_argument():
    def f(x, y):
        x.add_(1)
        return x + y
    g, base = compiled(f), torch.zeros(4)
    equal(g(torch.zeros(2), torch.zeros(2)), torch.ones(2))
    with pytest.raises(Exception, match="share|memory|alias"):
        g(base[:2], base[:2])
    plain = api.compile(f, build=build)
    plain(torch.zeros(2), torch.zeros(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        equal(plain(base[:2], base[:2]), torch.full((2,), 4.0))


# Effects: what can be replayed shows on every call; what can't runs eagerly, with one warning that says what and where

counter = 0
log: list = []


def _global(x):
    global counter
    counter += 1
    return x + counter


def _append(x):
    log.append(1)
    return x + len(log)


class Effects:
    def __init__(self):
        self.n, self.items, self.generator = 0, {}, iter(range(1000))

    def attribute(self, x):
        self.n += 1
        return x + self.n

    def delete(self, x):
        self.m = 1
        del self.m
        return x + 1

    def item(self, x):
        self.items[len(self.items)] = 1
        return x + len(self.items)

    def class_attribute(self, x):
        type(self).total = getattr(type(self), "total", 0) + 1
        return x + self.total

    def next(self, x):
        return x + next(self.generator)


def _cell():
    n = 0

    def f(x):
        nonlocal n
        n += 1
        return x + n
    return f


def _function_attribute(x):
    _function_attribute.calls = getattr(_function_attribute, "calls", 0) + 1
    return x + _function_attribute.calls


def _module_attribute(x):
    settings.calls = getattr(settings, "calls", 0) + 1
    return x + settings.calls


def _argument_list(x):
    x.append(1)
    return x[0] + len(x)


def _generator():
    n = 0
    while True:
        yield n
        n += 1


REPLAYED = ""
EFFECTS = {
    "global": (lambda: _global, REPLAYED),
    "list": (lambda: _append, REPLAYED),
    "attribute": (lambda: Effects().attribute, REPLAYED),
    "delete": (lambda: Effects().delete, REPLAYED),
    "dict": (lambda: Effects().item, REPLAYED),
    "class attribute": (lambda: Effects().class_attribute, REPLAYED),
    "next": (lambda: Effects().next, "iterator"),
    "cell": (_cell, REPLAYED),
    "function attribute": (lambda: _function_attribute, REPLAYED),
    "module attribute": (lambda: _module_attribute, REPLAYED),
    "generator": (lambda: functools.partial(lambda g, x: x + next(g), _generator()), "iterator"),
    "print": (lambda: lambda x: (print(end=""), x + 1)[1], r"calls print\(\)"),
    "time": (lambda: lambda x: x + 0 * time.time(), REPLAYED),
    "random": (lambda: lambda x: x + random.random(), REPLAYED),
    "numpy": (lambda: lambda x: x + float(numpy.random.rand()), REPLAYED),
    "logging": (lambda: lambda x: (logging.getLogger("smelt.test").warning("w"), x + 1)[1], "logging"),
    "warning": (lambda: lambda x: (warnings.warn("w", DeprecationWarning), x + 1)[1], REPLAYED),
    "open": (lambda: lambda x: (open("/dev/null").close(), x + 1)[1], "open"),
    "seed": (lambda: lambda x: (torch.manual_seed(0), x + 1)[1], "manual_seed"),
    "threads": (lambda: lambda x: (torch.set_num_threads(torch.get_num_threads()), x + 1)[1], "set_num_threads"),
    "grad mode": (lambda: lambda x: (torch._C._set_grad_enabled(not torch.is_grad_enabled()), x + 1)[1], "grad_enabled"),
    "environment": (lambda: lambda x: (os.environ.update(SMELT_TEST="1"), x + 1)[1], "os"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_effect(name):
    make, reason = EFFECTS[name]
    kept = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    runs = []
    for wrap in (lambda f: f, lambda f: api.compile(f, build=build)):
        torch.set_rng_state(kept[0]), random.setstate(kept[1]), numpy.random.set_state(kept[2])
        for holder, key in ((Effects, "total"), (_function_attribute, "calls"), (settings, "calls")):
            if hasattr(holder, key):
                delattr(holder, key)
        HERE["counter"] = 0
        log.clear()
        f = wrap(make())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs.append([f(X) for _ in range(4)])
        torch.set_grad_enabled(True)
    told = [str(w.message) for w in caught if w.category is SmeltWarning]
    if reason == REPLAYED:
        assert not told and all(p.run is not None for p in f.programs)
    else:
        assert len(told) == 1, told
        assert re.search(reason, told[0]) and "test_guards.py:" in told[0], told
    for ours, theirs in zip(runs[1], runs[0]):
        equal(ours, theirs)


def test_changed_argument_containers():
    f = compiled(_argument_list)
    for _ in range(3):
        x = [X]
        equal(f(x), X + 2)
        assert len(x) == 2 and x[0] is X and x[1] == 1
    assert len(f.programs) == 1


def test_a_cache_filled_by_the_first_run_is_read_from_the_second():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = None

        def forward(self, x):
            if self.cache is None:
                self.cache = torch.full((3,), 2.0)
            return x * self.cache
    net = Lazy()
    f = compiled(net)
    for _ in range(3):
        equal(f(X), X * 2)
    kept = net.cache
    equal(f(X), X * 2)
    assert net.cache is kept and len(api.compiled_function(f).programs) == 2


def test_objects_made_by_the_run_may_change():
    def f(x):
        config = Config()
        config.shift = 5.0
        values = []
        values.append(config.apply(x))
        return values[0]
    equal(compiled(f)(X), f(X))


def test_nothing_is_left_behind():
    before = dict(vars(nn.Module)), dict(vars(Config)), sys.getprofile()
    config = Config()

    def f(x):
        config.apply(x)
        raise KeyError("mine")
    g = compiled(f)
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            g(X)
    assert (dict(vars(nn.Module)), dict(vars(Config)), sys.getprofile()) == before
    assert not g.programs and not torch._C._len_torch_dispatch_stack()


def _set_hook(net):
    net[0].register_forward_hook(lambda module, args, out: out + 1)


def _replace_dict(net):
    net[0].__dict__ = {**vars(net[0]), "_parameters": dict(net[1]._parameters)}


@pytest.mark.parametrize("change", [
    lambda net: setattr(net[0], "forward", lambda x: x * 3), _set_hook, _replace_dict,
    lambda net: setattr(net[0], "_backward_hooks", {0: print}) or setattr(net[0], "forward", torch.neg),
    lambda net: net.__setitem__(1, nn.Linear(3, 3)), lambda net: setattr(net[1], "weight", nn.Parameter(torch.ones(3, 3))),
    lambda net: setattr(net[1], "bias", None), lambda net: net[2].eval(), lambda net: net.append(nn.Tanh()),
    lambda net: net._modules.update({"0": net[1], "1": net[0]}), lambda net: setattr(net[3], "eps", 5.0),
    lambda net: setattr(net[1], "__class__", type("Doubled", (nn.Linear,), {"forward": lambda self, x: x * 2})),
], ids=["forward", "hook", "dict", "hooks", "module", "parameter", "no bias", "eval", "append", "swap", "attribute", "class"])
def test_what_is_looked_at_together_is_told_apart(change):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Dropout(0.0), nn.LayerNorm(3))
    stale(net, lambda: change(net) and None, X)


def test_watching_keeps_no_instance_alive():
    class Scaled:
        def __init__(self, k):
            self.k = k

        @api.compile(build=build)
        def method(self, x):
            return x * self.k
    a = Scaled(2.0)
    equal(a.method(X), X * 2)
    equal(a.method(X), X * 2)
    alive = weakref.ref(a)
    del a
    gc.collect()
    assert alive() is None


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a compiler")
def test_every_kind_of_place():
    class Plain:
        pass
    o, d, items = Plain(), {"a": X}, [X]
    empty, space = {}, types.MappingProxyType(d)
    places = {
        "item": (d, "a", X), "no item": (d, "b", None), "entry": (space, "a", X), "no entry": (space, "b", None),
        "attribute": (o, "x", X), "type": (o, None, Plain), "attributes": (o, None, vars(o)), "nothing": (empty, None, None),
        "entries": (d, ("a",), (X,)), "elements": (items, None, (X,)), "size": (space, None, 1),
        "lacks": (space, ("b", "c"), frozenset(("b", "c")))}
    assert set(places) == set(KINDS)
    o.x = X
    changes = {
        "item": lambda: d.pop("a"), "no item": lambda: d.update(b=1),
        "entry": lambda: d.update(a=1), "no entry": lambda: d.update(b=1),
        "attribute": lambda: delattr(o, "x"), "type": lambda: setattr(o, "__class__", type("Other", (), {})),
        "attributes": lambda: setattr(o, "__dict__", {}), "nothing": lambda: empty.update(a=1), "entries": lambda: d.update(b=1),
        "elements": lambda: items.append(1), "size": lambda: d.update(b=1), "lacks": lambda: d.update(c=1)}
    for kind, place in places.items():
        holds = watch([(kind, *place)])
        assert holds() is True and holds() is True
        changes[kind]()
        assert holds() is False, kind
        o.__class__, o.__dict__ = Plain, places["attributes"][2]
        o.x = X
        d.clear(), d.update(a=X), empty.clear(), items.__setitem__(slice(None), [X])
        assert holds() is True, kind


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a compiler")
@pytest.mark.parametrize("names", [("z",), tuple(f"n{k}" for k in range(200))])
def test_attributes_that_a_class_lacks(names):
    class Plain:
        pass
    for holder in (Plain, lambda x: x):
        holds = watch([("lacks", vars(holder), names, frozenset(names))])
        assert holds() is True
        holder.other = 1
        assert holds() is True
        setattr(holder, names[-1], 1)
        assert holds() is False
        delattr(holder, names[-1])
        assert holds() is True


def test_whether_processes_work_together_is_guarded(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch without torch.distributed")
    f = compiled(lambda x: x * 2 if distributed.is_available() and distributed.is_initialized() else x * 3)
    x = torch.ones(3)
    assert f(x).equal(x * 3) and f(x).equal(x * 3)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert f(x).equal(x * 2) and f(x).equal(x * 2)
    finally:
        distributed.destroy_process_group()
    assert f(x).equal(x * 3) and len(f.programs) == 2 and not f.fallbacks
