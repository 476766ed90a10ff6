"""State that a run reads, and that changes before the next call: attributes, globals, closures, functions, classes, modules."""
import abc
import copy
import functools
import math
import operator
import sys
import threading
import types
from collections import OrderedDict, defaultdict, deque
from enum import Enum

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4)
WEIGHT = tensor(4)
SETTINGS = {"activation": "relu", "layers": [1.0, 2.0]}
helpers = types.ModuleType("helpers")
helpers.scale, helpers.work = 2.0, lambda x: x + 1


def assist(x):
    return x * 2


def whole(net, value=0.5):
    """A network whose numbers are exact."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(tensor(*p.shape) * value)
    return net


@program
def global_tensor_replaced_and_written_to(compile):
    global WEIGHT
    WEIGHT = tensor(4)
    f = compile(lambda x: x * WEIGHT)
    yield from calls(f, X)
    WEIGHT = WEIGHT + 1
    yield from calls(f, X)
    WEIGHT.mul_(3)
    yield from calls(f, X)
    WEIGHT = WEIGHT.double()
    yield from calls(f, X)
    WEIGHT = WEIGHT[:1]
    yield from calls(f, X)
    WEIGHT = 2
    yield from calls(f, X)


@program
def global_function_replaced(compile):
    global assist
    before = assist
    f = compile(lambda x: assist(x))
    yield from calls(f, X)
    assist = lambda x: x * 3
    yield from calls(f, X)
    assist = functools.partial(torch.add, 5)
    yield from calls(f, X)
    assist = before
    yield from calls(f, X)


@program
def function_changed_in_place(compile):
    def inner(x, k=2.0, *, shift=1.0):
        return x * k + shift
    f = compile(lambda x: inner(x))
    yield from calls(f, X)
    inner.__defaults__ = (3.0,)
    yield from calls(f, X)
    inner.__kwdefaults__["shift"] = 10.0
    yield from calls(f, X)
    inner.__code__ = (lambda x, k=2.0, *, shift=1.0: x - k - shift).__code__
    yield from calls(f, X)


@program
def mutable_default_argument(compile):
    def f(x, ks=[1.0, 2.0]):
        return x * sum(ks)
    compiled = compile(f)
    yield from calls(compiled, X)
    f.__defaults__[0].append(10.0)
    yield from calls(compiled, X)
    f.__defaults__[0][0] = -1.0
    yield from calls(compiled, X)


@program
def function_attribute(compile):
    def inner(x):
        return x * inner.k
    inner.k = 2.0
    f = compile(inner)
    yield from calls(f, X)
    inner.k = 3.0
    yield from calls(f, X)
    del inner.k
    yield outcome(f, X)


@program
def attribute_of_another_module(compile):
    f = compile(lambda x: helpers.work(x) * helpers.scale)
    yield from calls(f, X)
    helpers.scale = 3.0
    yield from calls(f, X)
    helpers.work = lambda x: x - 1
    yield from calls(f, X)
    helpers.scale, helpers.work = 2.0, lambda x: x + 1
    yield from calls(f, X)


@program
def function_of_the_standard_library_replaced(compile):
    f = compile(lambda x: x * math.pi + operator.add(1, 2))
    yield from calls(f, X)
    pi = math.pi
    try:
        math.pi = 3.0
        yield from calls(f, X)
    finally:
        math.pi = pi
    yield from calls(f, X)


@program
def function_of_torch_replaced(compile):
    f = compile(lambda x: torch.relu(x) + F.relu(x))
    yield from calls(f, X)
    relu, functional = torch.relu, F.relu
    try:
        torch.relu = lambda x: x * 10
        yield from calls(f, X)
        F.relu = lambda x: x * 100
        yield from calls(f, X)
    finally:
        torch.relu, F.relu = relu, functional
    yield from calls(f, X)


@program
def method_of_tensors_replaced(compile):
    f = compile(lambda x: x.relu() + 1)
    yield from calls(f, X)
    relu = torch.Tensor.relu
    try:
        torch.Tensor.relu = lambda x: x * 10
        yield from calls(f, X)
    finally:
        torch.Tensor.relu = relu
    yield from calls(f, X)


@program
def method_of_tensors_added(compile):
    f = compile(lambda x: x.doubled() + 1)
    try:
        torch.Tensor.doubled = lambda x: x * 2
        yield from calls(f, X)
        torch.Tensor.doubled = lambda x: x * 4
        yield from calls(f, X)
    finally:
        del torch.Tensor.doubled
    yield outcome(f, X)


@program
def forward_of_a_class_of_torch_replaced(compile):
    f = compile(nn.Sequential(nn.ReLU(), nn.Hardtanh()))
    yield from calls(f, X)
    forward = nn.ReLU.forward
    try:
        nn.ReLU.forward = lambda self, x: x * 10
        yield from calls(f, X)
    finally:
        nn.ReLU.forward = forward
    yield from calls(f, X)


@program
def builtin_hidden(compile):
    f = compile(lambda x: x * len([1, 2, 3]) + max(1, 2))
    yield from calls(f, X)
    globals()["len"] = lambda items: 10
    try:
        yield from calls(f, X)
    finally:
        del globals()["len"]
    yield from calls(f, X)


@program
def closure_of_a_closure(compile):
    k, w = 2.0, tensor(4)

    def outer():
        def inner(x):
            return x * k + w
        return inner
    f = compile(outer())
    yield from calls(f, X)
    k = 5.0
    yield from calls(f, X)
    w = w + 1
    yield from calls(f, X)
    w.zero_()
    yield from calls(f, X)


@program
def decorated_function(compile):
    factor = 2.0

    def scaled(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args) * factor
        return wrapper

    @compile
    @scaled
    def f(x):
        return x + 1
    yield from calls(f, X)
    factor = 3.0
    yield from calls(f, X)


@program
def containers_of_the_closure(compile):
    table, items, names, queue = {"a": 1.0}, [1.0, 2.0], {"a", "b"}, deque([1.0, 2.0], maxlen=2)
    counts, ordered = defaultdict(float), OrderedDict(a=1.0, b=2.0)
    f = compile(lambda x: x * sum(table.values()) + sum(items) + ("a" in names) - queue[0] + counts["z"]
                + next(iter(ordered.values())))
    counts["z"] = 0.0
    yield from calls(f, X)
    changes = (lambda: table.update(b=2.0), lambda: table.pop("a"), lambda: items.append(3.0), items.reverse, items.clear,
               lambda: names.discard("a"), lambda: queue.append(7.0), lambda: counts.update(z=1.0),
               lambda: ordered.move_to_end("a"))
    for change in changes:
        change()
        yield from calls(f, X, times=2)


@program
def order_of_a_dict(compile):
    table = {"a": 2.0, "b": 3.0}

    @compile
    def f(x):
        for key, k in table.items():
            x = x * k if key == "a" else x + k
        return x
    yield from calls(f, X)
    table["a"] = table.pop("a")
    yield from calls(f, X)
    table["c"] = 1.0
    yield from calls(f, X)


@program
def nested_settings(compile):
    f = compile(lambda x: getattr(F, SETTINGS["activation"])(x) * SETTINGS["layers"][-1])
    yield from calls(f, X)
    SETTINGS["activation"] = "hardtanh"
    yield from calls(f, X)
    SETTINGS["layers"][-1] = 5.0
    yield from calls(f, X)
    SETTINGS["layers"].append(7.0)
    yield from calls(f, X)
    SETTINGS.update(activation="relu", layers=[1.0, 2.0])
    yield from calls(f, X)


@program
def lists_of_tensors(compile):
    weights = [tensor(4), tensor(4) + 1]
    f = compile(lambda x: sum(x * w for w in weights))
    yield from calls(f, X)
    weights[0] = tensor(4) * 2
    yield from calls(f, X)
    weights.append(tensor(4))
    yield from calls(f, X)
    weights[1].add_(1)
    yield from calls(f, X)
    weights[0] = weights[1]
    yield from calls(f, X)


@program
def tuple_with_a_list_inside(compile):
    pair = ([1.0], {"k": 2.0})
    f = compile(lambda x: x * pair[0][0] + pair[1]["k"])
    yield from calls(f, X)
    pair[0][0] = 3.0
    yield from calls(f, X)
    pair[1]["k"] = 4.0
    yield from calls(f, X)


@program
def object_replaced_and_changed(compile):
    class Options:
        def __init__(self, k):
            self.k, self.inner = k, types.SimpleNamespace(shift=k)
    holder = types.SimpleNamespace(options=Options(2.0))
    f = compile(lambda x: x * holder.options.k + holder.options.inner.shift)
    yield from calls(f, X)
    holder.options.k = 3.0
    yield from calls(f, X)
    holder.options.inner.shift = 5.0
    yield from calls(f, X)
    holder.options = Options(7.0)
    yield from calls(f, X)
    holder.options.__dict__ = {"k": 1.0, "inner": types.SimpleNamespace(shift=0.0)}
    yield from calls(f, X)


@program
def objects_of_an_argument(compile):
    class Options:
        k = 2.0
    one, other = Options(), Options()
    f = compile(lambda x, options: x * options.k)
    yield from calls(f, X, one)
    one.k = 3.0
    yield from calls(f, X, one)
    yield from calls(f, X, other)
    Options.k = 4.0
    yield from calls(f, X, other)
    yield from calls(f, X, one)


@program
def slots(compile):
    class Slotted:
        __slots__ = ("k", "shift")

        def __init__(self, k):
            self.k = k
    options = Slotted(2.0)
    f = compile(lambda x: x * options.k + getattr(options, "shift", 0.0))
    yield from calls(f, X)
    options.k = 3.0
    yield from calls(f, X)
    options.shift = 1.0
    yield from calls(f, X)
    del options.shift
    yield from calls(f, X)


@program
def attribute_that_hides_the_class(compile):
    class Options:
        k = 2.0
    options = Options()
    f = compile(lambda x: x * options.k)
    yield from calls(f, X)
    options.k = 3.0
    yield from calls(f, X)
    del options.k
    yield from calls(f, X)


@program
def class_hierarchy(compile):
    class Base:
        k = 2.0

        def work(self, x):
            return x * self.k

    class Derived(Base):
        pass
    obj = Derived()
    f = compile(lambda x: obj.work(x))
    yield from calls(f, X)
    Base.k = 3.0
    yield from calls(f, X)
    Derived.k = 4.0
    yield from calls(f, X)
    Derived.work = lambda self, x: x + self.k
    yield from calls(f, X)
    obj.work = lambda x: x
    yield from calls(f, X)
    obj.__class__ = Base
    del obj.work
    yield from calls(f, X)


@program
def property_and_descriptor(compile):
    class Descriptor:
        def __get__(self, obj, owner=None):
            return obj.hidden * 2

    class Options:
        hidden = 2.0
        described = Descriptor()

        @property
        def k(self):
            return self.hidden + 1
    options = Options()
    f = compile(lambda x: x * options.k + options.described)
    yield from calls(f, X)
    options.hidden = 5.0
    yield from calls(f, X)
    Options.k = property(lambda self: 10.0)
    yield from calls(f, X)
    Descriptor.__get__ = lambda self, obj, owner=None: -1.0
    yield from calls(f, X)


@program
def getattr_of_a_class(compile):
    class Lazy:
        def __init__(self):
            self.values = {"k": 2.0}

        def __getattr__(self, name):
            return self.values[name]
    lazy = Lazy()
    f = compile(lambda x: x * lazy.k)
    yield from calls(f, X)
    lazy.values["k"] = 3.0
    yield from calls(f, X)
    lazy.k = 4.0
    yield from calls(f, X)


@program
def attributes_read_past_the_class(compile):
    class Proxy:
        def __init__(self, target):
            object.__setattr__(self, "_target", target)

        def __getattr__(self, name):
            return getattr(object.__getattribute__(self, "_target"), name)

        def __setattr__(self, name, value):
            setattr(object.__getattribute__(self, "_target"), name, value)

    class Tripled:
        offset = 1

        def __getattribute__(self, name):
            read = object.__getattribute__
            return read(self, "scale") * 3 if name == "wide" else read(self, "offset") if name == "shift" else read(self, name)
    target, tripled = types.SimpleNamespace(scale=2, count=0), Tripled()
    proxy, tripled.scale = Proxy(target), 1

    @compile
    def f(x):
        proxy.count += 1
        return x * proxy.scale + tripled.wide + tripled.shift
    yield from calls(f, X)
    target.scale = 5
    yield f(X), target
    tripled.scale = 4
    yield f(X)
    Tripled.offset = 9
    yield f(X)
    tripled.offset = 7
    yield f(X)
    object.__setattr__(proxy, "_target", types.SimpleNamespace(scale=8, count=3))
    yield from calls(f, X)


@program
def state_of_the_thread(compile):
    class Local(threading.local):
        step = 2

        def __init__(self):
            self.count = 0
    plain, own, found = threading.local(), Local(), []
    plain.scale = 1

    @compile
    def f(x):
        own.count += 1
        return x * getattr(plain, "scale", 50) + own.count * own.step

    def in_a_thread(scale):
        plain.scale = scale
        found.extend(calls(f, X))
    yield from calls(f, X)
    for scale in (3, 4):
        thread = threading.Thread(target=in_a_thread, args=(scale,), name="other")
        thread.start()
        thread.join()
        del thread
        yield found, f(X), own.count
    plain.scale = Local.step = 7
    yield f(X)


@program
def metaclasses(compile):
    class Kind(type):
        scale = 2

        def __call__(cls, *args):
            made = super().__call__(*args)
            made.t = made.t * cls.scale
            return made

        def __len__(cls):
            return cls.scale

        def __getattr__(cls, name):
            return cls.scale * 3

    class Held(metaclass=Kind):
        def __init__(self, t):
            self.t = t
    f = compile(lambda x: Held(x).t + len(Held) + Held.other)
    yield from calls(f, X)
    Kind.scale = 5
    yield from calls(f, X)
    Held.scale = 7
    yield from calls(f, X)
    Kind.other = 1
    yield f(X)
    Held.other = 4
    yield f(X)
    Kind.__len__ = lambda cls: 77
    yield f(X)


@program
def names_that_are_computed(compile):
    class Base:
        b = 3

    class Settings(Base):
        k1, k2 = 1, 2
    module = types.ModuleType("module")
    module.k1 = 1

    def function():
        pass
    function.k1 = 1
    f = compile(lambda x, n: x * getattr(Settings, f"k{n}") + getattr(module, f"k{n}", 3) + hasattr(function, f"k{n}"))
    yield f(X, 1), f(X, 2)
    Settings.k1 = 5
    yield f(X, 1), f(X, 2)
    module.k2 = 8
    yield f(X, 1), f(X, 2)
    function.k2 = 1
    yield f(X, 1), f(X, 2)
    g = compile(lambda x: x * sum(v for k, v in vars(Settings).items() if k[0] == "k") + sum(len(k) == 1 for k in dir(Settings)))
    yield from calls(g, X)
    Settings.k2 = 20
    yield from calls(g, X)
    Settings.k3 = 1
    yield from calls(g, X)
    Base.c = 1
    yield from calls(g, X)


@program
def abstract_classes_and_dispatch(compile):
    class Base(abc.ABC):
        pass

    class Given:
        scale = 3
    f = compile(lambda given, x: x + 1 if isinstance(given, Base) else x - 1)
    given = Given()
    yield f(given, X), f(given, X)
    Base.register(Given)
    yield f(given, X), f(given, X)
    size = functools.singledispatch(lambda value: 1)
    g = compile(lambda x, value: x * size(value))
    yield g(X, given), g(X, 2), g(X, 3)
    size.register(Given, lambda value: value.scale)
    yield g(X, given), g(X, 2)
    size.register(int, lambda value: 50)
    Given.scale = 9
    yield g(X, given), g(X, 2)


@program
def operators_of_a_class(compile):
    class Vector:
        def __init__(self, t):
            self.t = t

        def __add__(self, other):
            return Vector(self.t + other.t)

        def __matmul__(self, other):
            return (self.t * other.t).sum()
    v = Vector(tensor(4))
    f = compile(lambda x: (Vector(x) + v) @ v)
    yield from calls(f, X)
    v.t = v.t * 2
    yield from calls(f, X)
    Vector.__add__ = lambda self, other: Vector(self.t - other.t)
    yield from calls(f, X)


@program
def enumeration_and_text(compile):
    Kind = Enum("Kind", "SUM MEAN")
    options = types.SimpleNamespace(kind=Kind.SUM, name="a")
    f = compile(lambda x: (x.sum() if options.kind is Kind.SUM else x.mean(), options.name + "!"))
    yield from calls(f, X)
    options.kind = Kind.MEAN
    yield from calls(f, X)
    options.name = "b"
    yield from calls(f, X)


@program
def cached_function(compile):
    @functools.lru_cache
    def table(n):
        return tensor(n) * 2
    f = compile(lambda x: x + table(x.shape[0]))
    yield from calls(f, X)
    table(4).add_(1)
    yield from calls(f, X)
    table.cache_clear()
    yield from calls(f, X)


@program
def cached_function_that_others_call(compile):
    """What others have it remember, and in which order, is all the same."""
    @functools.lru_cache(16)
    def table(n):
        return tensor(n) * 2
    f = compile(lambda x: x + table(x.shape[0]))
    for n in (2, 3, 2, 5, 2, 4):
        table(n)
        yield from calls(f, X, times=1)
    table(4).add_(1)
    yield from calls(f, X)
    for n in range(6, 30):
        table(n)
    yield from calls(f, X)


@program
def cached_number(compile):
    """Each call that computes it leaves a plain one."""
    class Box:
        count = 1
    box = Box()

    @functools.lru_cache(8)
    def scale(key):
        return 2 * box.count
    f = compile(lambda x: x * scale("a") + box.count)
    for k in range(5):
        box.count = k
        yield from calls(f, X, times=2)
        yield scale("a"), type(scale("a"))
        scale.cache_clear()
        if k != 1:
            yield f(X)
            scale.cache_clear()


@program
def cached_property(compile):
    class Lazy:
        k = 2.0

        @functools.cached_property
        def doubled(self):
            return self.k * 2
    lazy = Lazy()
    f = compile(lambda x: x * lazy.doubled)
    yield from calls(f, X)
    lazy.k = 5.0
    yield from calls(f, X)
    del lazy.doubled
    yield from calls(f, X)


@program
def training_and_evaluation(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)))
    f = compile(net)
    for training in (False, True, False, True):
        net.train(training)
        yield from calls(f, X)
    net[1].p = 1.0
    yield from calls(f, X)
    net[1].eval()
    yield from calls(f, X)


@program
def submodules_replaced(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    f = compile(net)
    yield from calls(f, X)
    net[1] = nn.Hardtanh()
    yield from calls(f, X)
    net[2] = whole(nn.Linear(4, 3), 0.25)
    yield from calls(f, X)
    net.append(nn.ReLU())
    yield from calls(f, X)
    del net[0]
    yield from calls(f, X)
    net[0].forward = lambda x: x * 2
    yield from calls(f, X)


@program(exact=False)
def parameters_replaced(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield backward(f(X))
    net.weight = nn.Parameter(tensor(2, 4) * 3)
    yield from (backward(y) for y in calls(f, X))
    net.bias = None
    yield from (backward(y) for y in calls(f, X))
    net.weight.data = tensor(2, 4) * 5
    yield from (backward(y) for y in calls(f, X))
    net.weight.data = tensor(3, 4)
    with torch.no_grad():
        yield from calls(f, X)


@program
def weights_written_to(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    other = copy.deepcopy(net.state_dict())
    yield from calls(f, X)
    with torch.no_grad():
        net.weight.mul_(2)
    yield from calls(f, X)
    net.load_state_dict({k: v * 3 for k, v in other.items()})
    yield from calls(f, X)
    net.load_state_dict({k: v * 5 for k, v in other.items()}, assign=True)
    yield from calls(f, X)
    nn.init.zeros_(net.weight)
    yield from calls(f, X)


@program
def dtype_of_a_module(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float64):
        net.to(dtype)
        yield from calls(f, X.to(dtype))
    yield outcome(f, X)


@program(exact=False)
def gradients_toggled(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield backward(f(X))
    for flags in ((False, True), (True, False), (False, False), (True, True)):
        net.weight.requires_grad_(flags[0])
        net.bias.requires_grad_(flags[1])
        for y in calls(f, X):
            yield backward(y) if any(flags) else y
    net.requires_grad_(False)
    x = leaf(4)
    yield backward(f(x))


@program(exact=False)
def hooks_of_modules(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    f = compile(net)
    yield from calls(f, X)
    doubled = net[0].register_forward_hook(lambda module, args, out: out * 2)
    yield from calls(f, X)
    shifted = net.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    yield from calls(f, X)
    doubled.remove()
    yield from calls(f, X)
    shifted.remove()
    scaled = net[0].register_full_backward_hook(lambda module, given, taken: tuple(g * 3 for g in given if g is not None))
    yield from (backward(y) for y in calls(f, leaf(4)))
    scaled.remove()
    yield from (backward(y) for y in calls(f, leaf(4)))


@program
def hooks_of_all_modules(compile):
    f = compile(whole(nn.Linear(4, 2)))
    yield from calls(f, X)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out + 10)
    try:
        yield from calls(f, X)
    finally:
        handle.remove()
    yield from calls(f, X)


@program
def buffers(compile):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", tensor(4))

        def forward(self, x):
            return x + self.shift
    net = Shifted()
    f = compile(net)
    yield from calls(f, X)
    net.shift.mul_(2)
    yield from calls(f, X)
    net.shift = tensor(4) + 7
    yield from calls(f, X)
    net.shift = tensor(1)
    yield from calls(f, X)
    net.register_buffer("shift", None)
    yield outcome(f, X)


@program(exact=False)
def parametrizations_added(compile):
    class Doubled(nn.Module):
        def forward(self, w):
            return w * 2
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield from calls(f, X)
    parametrize.register_parametrization(net, "weight", Doubled())
    yield from calls(f, X)
    parametrize.remove_parametrizations(net, "weight")
    yield from calls(f, X)
    parametrizations.weight_norm(net)
    yield from (backward(y) for y in calls(f, X))


@program
def pruned(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield from calls(f, X)
    prune.l1_unstructured(net, "weight", 3)
    yield from calls(f, X)
    prune.remove(net, "weight")
    yield from calls(f, X)


@program(exact=False)
def shared_weights(compile):
    one, two = whole(nn.Linear(4, 4)), whole(nn.Linear(4, 4), 0.25)
    f = compile(lambda x: one(two(x)))
    yield backward(f(X))
    two.weight = one.weight
    for p in (*one.parameters(), *two.parameters()):
        p.grad = None
    yield from (backward(y) for y in calls(f, X))
    two.weight = nn.Parameter(tensor(4, 4))
    yield from (backward(y) for y in calls(f, X))


@program
def module_lists_and_dicts(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(whole(nn.Linear(4, 4), k / 4) for k in (1, 2))
            self.heads = nn.ModuleDict({"a": whole(nn.Linear(4, 2)), "b": whole(nn.Linear(4, 3))})
            self.head = "a"

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.heads[self.head](x)
    net = Net()
    f = compile(net)
    yield from calls(f, X)
    net.head = "b"
    yield from calls(f, X)
    net.layers.append(whole(nn.Linear(4, 4), 1.0))
    yield from calls(f, X)
    net.layers = net.layers[1:]
    yield from calls(f, X)
    net.heads["b"] = whole(nn.Linear(4, 1))
    yield from calls(f, X)


@program
def tensor_s_own_attributes(compile):
    x = tensor(4)
    x.scale = 2.0
    f = compile(lambda x: x * getattr(x, "scale", 1.0))
    yield from calls(f, x)
    x.scale = 3.0
    yield from calls(f, x)
    del x.scale
    yield from calls(f, x)
    yield from calls(f, tensor(4))


@program
def attributes_of_other_tensors(compile):
    kept, held = [], [tensor(4)]
    f = compile(lambda x: x * x.scale)
    g = compile(lambda x: x * (2 if hasattr(x, "flag") else 3) + getattr(x, "shift", 1))
    h = compile(lambda x: x * (2 if hasattr(held[0], "flag") else 3) * held[0])

    @compile
    def caught(x):
        try:
            return x * x.scale
        except AttributeError:
            return x
    for size, flags in ((4, 0), (4, 0), (4, 1), (5, 1), (6, 0), (7, 2), (7, 0), (4, 3), (4, 4)):
        x = tensor(size)
        x.scale = flags
        kept.append(x)
        yield f(x)
        x = tensor(size)
        kept.append(x)
        for k, name in enumerate(("flag", "shift", "scale")):
            if flags >> k & 1:
                setattr(x, name, size)
        yield g(x), caught(x)
    yield from calls(h, X)
    held[0].flag = 1
    yield h(X)
    for flag in (0, 0, 1):
        held[0] = tensor(4)
        if flag:
            held[0].flag = 1
        kept.append(held[0])
        yield h(X)


@program
def modules_looked_up(compile):
    module = types.ModuleType("looked_up")
    module.scale, sys.modules["looked_up"] = 2, module
    sys.modules[__name__].looked_up_by_name = lambda x: x + 1
    f = compile(lambda x: x * sys.modules["looked_up"].scale)
    g = compile(lambda x, name: getattr(sys.modules[__name__], name)(x))

    @compile
    def h(x):
        import looked_up
        return x * looked_up.scale
    for scale in (2, 2, 3):
        module.scale = scale
        yield f(X), g(X, "looked_up_by_name"), h(X)
    sys.modules[__name__].looked_up_by_name = lambda x: x - 1
    yield g(X, "looked_up_by_name")
    sys.modules["looked_up"] = types.ModuleType("looked_up")
    sys.modules["looked_up"].scale = 100
    yield f(X), h(X)
    del sys.modules["looked_up"], sys.modules[__name__].looked_up_by_name, module


@program
def partial_changed(compile):
    options = {"alpha": 2.0}
    f = compile(functools.partial(lambda x, w, options: x * w[0] + options["alpha"], w=[3.0], options=options))
    yield from calls(f, X)
    options["alpha"] = 5.0
    yield from calls(f, X)
    f_keywords = (f if isinstance(f, functools.partial) else f.__wrapped__).keywords
    f_keywords["w"] = [7.0]
    yield from calls(f, X)


@program
def type_of_an_object(compile):
    class A:
        factor = 2

    class B:
        factor = 3
    f = compile(lambda x, o: x * o.factor if isinstance(o, A) else x - type(o).factor)
    a, b = A(), B()
    for o in (a, a, b, b, a, A(), B()):
        yield f(X, o)
    a.__class__ = B
    yield from calls(f, X, a)


@program
def names_that_come_and_go(compile):
    f = compile(lambda x: x * globals().get("LATER", 1.0) if "LATER" in globals() else x)
    g = compile(lambda x: x * LATER)  # noqa: F821
    yield outcome(g, X)
    globals()["LATER"] = 3.0
    try:
        yield from calls(f, X)
        yield from calls(g, X)
        globals()["LATER"] = 4.0
        yield from calls(f, X)
        yield from calls(g, X)
    finally:
        del globals()["LATER"]
    yield from calls(f, X)
    yield outcome(g, X)


@program
def arrays(compile):
    """Of NumPy's: small ones are guarded by what they hold."""
    means, settings = numpy.arange(4.0, dtype="float32"), types.SimpleNamespace(size=numpy.float32(2))

    @compile
    def f(x):
        return x * torch.tensor(means) + float(means[1]) + torch.as_tensor(settings.size) + torch.tensor(numpy.ones(4))
    for k in (1, 1, 2, 2, 1):
        means[1], settings.size = k, numpy.float32(k)
        yield f(X)


@program
def arrays_whose_memory_is_shared(compile):
    means = numpy.arange(4.0, dtype="float32")
    functions = [compile(f) for f in (
        lambda x: x + torch.from_numpy(means), lambda x: x + torch.as_tensor(means), lambda x: x + torch.Tensor(means))]
    for k in range(4):
        means[1] = k
        yield [f(X) for f in functions]


@program
def arrays_written_to(compile):
    means = numpy.arange(4.0)

    @compile
    def f(x):
        means[0] += 1
        return x * torch.tensor(means)
    for _ in range(4):
        yield f(X), means.tolist()


@program
def arrays_that_are_not_guarded(compile):
    large, masked = numpy.zeros(5000), numpy.ma.array([1.0, 2.0])

    @compile
    def f(x):
        return x * float(large[7]) + torch.tensor(numpy.asarray(masked))[0]
    for k in range(4):
        large[7] = masked[0] = k // 2
        yield f(X)
