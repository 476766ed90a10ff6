"""What names that a run reads stand for, changed before the next call: globals, closures, functions, modules, containers."""
import contextlib
import functools
import math
import operator
import sys
import tempfile
import types
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from .harness import calls, outcome, program, tensor

X = tensor(4)
WEIGHT = tensor(4)
SETTINGS = {"activation": "relu", "layers": [1.0, 2.0]}
helpers = types.ModuleType("helpers")
helpers.scale, helpers.work = 2.0, lambda x: x + 1


def assist(x):
    return x * 2


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


@contextlib.contextmanager
def module_on_disk(name, text):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{name}.py").write_text(text)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            sys.modules.pop(name, None)


@program
def module_loaded_by_a_run(compile):
    """What it makes is state, and no run's own."""
    @compile
    def f(x):
        import loaded_by_a_run as module
        module.seen.append(1)
        return x * module.scale + module.weight
    with module_on_disk("loaded_by_a_run", "import torch\nscale, weight, seen = 2, torch.ones(3), []\n"):
        yield f(X[:3])
        module = sys.modules["loaded_by_a_run"]
        yield f(X[:3])
        for module.scale in (2, 3, 3):
            module.weight += 1
            yield f(X[:3])


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


@program
def attributes_that_a_module_gives_by_a_function(compile):
    """A module's `__getattr__`, replaced, removed, added, with another default; and modules of a class of the user's."""
    class Lazy(types.ModuleType):
        scale = 2

        @property
        def work(self):
            return self.scale
    module, late, lazy, stored = (types.ModuleType(name) for name in ("module", "late", "lazy", "stored"))
    module.__getattr__, lazy.__class__, store = lambda name, held=[2]: held[0], Lazy, {"scale": 2}
    stored.__getattr__ = lambda name: store[name]
    f = compile(lambda x: x * module.scale)
    g = compile(lambda x: x * getattr(late, "scale", 2))
    h = compile(lambda x: x * lazy.work)
    k = compile(lambda x: x * stored.scale)

    def changes():
        yield
        module.__getattr__.__defaults__[0][0], late.__getattr__, Lazy.scale, store["scale"] = 3, lambda name: 5, 7, 9
        yield
        module.__getattr__, lazy.scale = lambda name: 11, 13
        del late.__getattr__
        yield
        late.__getattr__, lazy.__class__, stored.scale = lambda name: 15, types.ModuleType, 17
        yield
    for _ in changes():
        for _ in range(2):
            yield [outcome(function, X) for function in (f, g, h, k)]
