"""State that a run writes: attributes, containers, globals, counters, caches; and effects on the world outside."""
import copy
import functools
import itertools
import logging
import random
import time
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field

import numpy
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
def list_appended(compile):
    items = []

    @compile
    def f(x):
        items.append(x * 2)
        return x + 1
    for k in range(5):
        yield f(X * k)
    items.clear()
    yield from calls(f, X)


@program
def list_read_and_written(compile):
    items = [1.0, 2.0, 3.0]

    @compile
    def f(x):
        k = items.pop(0)
        items.append(k + 1)
        items[1] *= 2
        return x * k
    yield from calls(f, X, times=6)


@program
def bounded_queue(compile):
    queue = deque(maxlen=3)

    @compile
    def f(x):
        queue.append(x + 1)
        return sum(queue)
    for k in range(6):
        yield f(X * k)


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
def dict_filled(compile):
    cache = {}

    @compile
    def f(x, key):
        if key not in cache:
            cache[key] = x * 2
        return cache[key] + x
    for key in ("a", "a", "b", "a", "b", "c", "a"):
        yield f(X, key)
    cache.clear()
    yield from calls(f, X + 1, "a")


@program
def dict_of_every_kind(compile):
    table, counts, ordered, default = {"a": 1}, Counter(), OrderedDict(a=1, b=2), defaultdict(list)

    @compile
    def f(x):
        table.update(b=table["a"], a=table["a"] + 1)
        counts["calls"] += 1
        ordered.move_to_end("a")
        default["x"].append(x)
        return x * table["a"] + counts["calls"]
    yield from calls(f, X, times=5)


@program
def keys_that_move_in_their_dict(compile):
    turned, ordered = {"a": X, "b": X * 2}, OrderedDict(a=1, b=2, c=3)

    @compile
    def f(x):
        first = next(iter(turned))
        turned[first] = turned.pop(first)
        key, count = ordered.popitem(last=False)
        ordered[key] = count + 1
        ordered.move_to_end("a")
        return x * count + turned[first]
    for _ in range(8):
        yield f(X), list(turned), list(ordered)


@program
def containers_made(compile):
    holder = Holder(queue=deque((), 2))

    @compile
    def f(x):
        holder.table = defaultdict(list)
        holder.table["x"] += [x * 2, 3]
        holder.queue = deque((*holder.queue, x), holder.queue.maxlen)
        return holder.table["x"][0] + 1, Counter("abb"), defaultdict(dict), deque([x + 1])
    for k in range(6):
        yield f(X * k)
    holder.queue = deque(holder.queue, 4)
    yield from calls(f, X)


@program
def default_made_otherwise(compile):
    table = defaultdict(int)
    f = compile(lambda x: x + table[len(table)])
    for k in range(3):
        yield f(X)
        table.clear()
    table.default_factory = lambda: 3
    yield f(X)


@program
def set_filled(compile):
    seen = set()

    @compile
    def f(x, name):
        new = name not in seen
        seen.add(name)
        return x * (2 if new else 3)
    for name in ("a", "a", "b", "a", "b", "b"):
        yield f(X, name)


@program
def containers_among_the_arguments(compile):
    @compile
    def f(x, items, table):
        items.append(x * 2)
        table["last"] = items[-1] + 1
        return len(items)
    items, table = [], {}
    for k in range(5):
        yield f(X * k, items, table)
    items, table = [], {}
    yield from calls(f, X, items, table)


@program
def results_collected_in_an_argument(compile):
    @compile
    def f(x, out):
        out["a"], out["b"] = x + 1, x * 2
    for k in range(4):
        out = {}
        f(X * k, out)
        yield out


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
def printing(compile):
    @compile
    def f(x):
        y = x * 2
        print("sum", y.sum())
        return y + 1
    for k in range(4):
        yield f(X * k)


@program
def printing_of_plain_text(compile):
    @compile
    def f(x):
        print("called", x.shape)
        return x * 2
    yield from calls(f, X, times=4)


@program
def logging_and_warning(compile):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())
    logger = logging.Logger("dynamics")
    logger.addHandler(Handler())

    @compile
    def f(x):
        logger.warning("size %s", x.shape[0])
        return x * 2
    yield from calls(f, X, times=4)

    @compile
    def g(x):
        warnings.warn("old", DeprecationWarning)
        return x * 3
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        results = [g(X) for _ in range(4)]
    yield results, [str(w.message) for w in given]


@program
def time_passes(compile):
    @compile
    def f(x):
        now = time.perf_counter()
        return x * 2, now
    before = 0.0
    for _ in range(4):
        y, now = f(X)
        later, before, now = now > before, 0.0, None
        yield y, later


@program
def random_numbers_of_python_and_numpy(compile):
    f = compile(lambda x: x * random.random() + float(numpy.random.rand()) + random.randint(1, 9))
    yield from calls(f, X, times=5)


@program
def iterators_outside(compile):
    counter, letters, generator = itertools.count(), iter("abcdefgh"), (k * k for k in range(100))

    @compile
    def f(x):
        return x * next(counter) + next(generator), next(letters)
    for _ in range(5):
        yield f(X)


@program
def files(compile):
    import tempfile
    with tempfile.TemporaryFile("w+") as file:
        @compile
        def f(x):
            file.write("line\n")
            return x + 1
        results = [f(X) for _ in range(4)]
        file.seek(0)
        yield results, file.read()
    del file


@program
def callbacks(compile):
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.listeners = [lambda y: seen.append(y.shape), lambda y: seen.append("heard")]

        def forward(self, x):
            y = x * 2
            for listener in self.listeners:
                listener(y)
            return y
    net = Net()
    f = compile(net)
    yield from calls(f, X)
    net.listeners.pop()
    yield from calls(f, X)


@program
def features_gathered_by_a_hook(compile):
    features = {}
    net = nn.Sequential(nn.Hardtanh(), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, out: features.update(hardtanh=out))
    f = compile(net)
    for k in range(4):
        yield f(X * k)


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


class Given:
    def __init__(self, value, count=0):
        self.value, self.count, self.parts = value, count, [value * 2, value * 3]


@program
def objects_that_are_given_anew(compile):
    @compile
    def f(x, box):
        box.count += 1
        box.parts[0] = box.value = box.value * x + box.parts[0]
        return box, box.value.sum() + box.count
    for k in range(5):
        box = Given(tensor(4) + k, k)
        for _ in range(3):
            found, result = f(tensor(4), box)
            yield found is box, result, box.value, box.count, box.parts, box.parts[0] is box.value


@program
def one_object_given_twice_or_two(compile):
    @compile
    def f(x, a, b):
        a.value = a.value + x
        b.value = b.value * 2
        return a.value.sum(), a is b
    for k in range(6):
        a, b = Given(tensor(4) + k), Given(tensor(4) - k)
        if k % 2:
            b = a
        yield f(tensor(4), a, b), a.value, b.value
        yield f(tensor(4), b, a), a.value, b.value


@program
def a_given_object_that_is_known_elsewhere(compile):
    known = Given(tensor(4))
    kept = [Given(tensor(4) + 5)]

    @compile
    def f(x, box):
        box.value = box.value + x
        kept[0].value = kept[0].value * 2
        return known.value + box.value, box is known, box is kept[0], box.parts is known.parts
    for box in (Given(tensor(4)), Given(tensor(4)), known, Given(tensor(4)), kept[0], known, Given(tensor(4))):
        yield f(tensor(4), box), box.value, known.value, kept[0].value
    shared = Given(tensor(4))
    shared.parts = known.parts
    yield f(tensor(4), shared), shared.value


@program
def given_objects_of_other_forms(compile):
    class Other(Given):
        def __len__(self):
            return 3

    @compile
    def f(x, box):
        box.last = x * 2 if isinstance(box, Other) else x
        return box.value * x + len(box.parts) + (box.count if box.count > 2 else 0)
    for k, kind in enumerate((Given, Given, Other, Given, Other, Other, Given)):
        box = kind(tensor(4) + k, k)
        if k == 5:
            box.parts.append(box.value)
        yield f(tensor(4), box), box.last, sorted(vars(box))
        box.value = tensor(3)[:, None] * tensor(4)
        yield f(tensor(4), box), box.last


@program
def given_objects_that_are_kept(compile):
    own = Given(tensor(4))

    @compile
    def f(x, box):
        before, own.box = getattr(own, "box", None), box
        return x + box.value + (0 if before is None else before.value), before is box
    for k in range(4):
        box = Given(tensor(4) + k)
        for _ in range(2):
            yield f(tensor(4), box), own.box is box


@program
def given_objects_that_are_keys(compile):
    boxes = [Given(tensor(4) + k) for k in range(4)]
    table, seen = {box: box.value * 2 for box in boxes}, dict.fromkeys(boxes[:3])
    f = compile(lambda x, box: x + table[box])
    g = compile(lambda x, box: x + (box in seen))
    for box in (*boxes, boxes[1], Given(tensor(4)), boxes[0], Given(tensor(4))):
        yield outcome(f, tensor(4), box), outcome(g, tensor(4), box)


@program
def given_objects_by_their_address(compile):
    f = compile(lambda x, box: x * (1 + hash(box) % 7) + id(box) % 5)
    boxes = [Given(tensor(4)) for _ in range(6)]
    for box in boxes:
        yield f(tensor(4), box).equal(tensor(4) * (1 + hash(box) % 7) + id(box) % 5)


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
def deep_copies_of_tensors(compile):
    kept, base = [], tensor(4, 6)

    @compile
    def f(x, y):
        z = x * 2
        a, b = copy.deepcopy([x, z]), copy.deepcopy({"t": base, "again": base})
        z += 1
        b["t"].add_(1)
        kept[:] = [a, b, copy.deepcopy(y)]
        return a[0] + z + b["again"]
    columns = tensor(6, 4).t()
    for x in (tensor(4, 6), tensor(4, 6) + 1, columns, columns):
        yield f(x, torch.tensor(3)), kept, base


@program
def deep_copies_of_tensors_that_share_memory(compile):
    weight = tensor(4, 6)

    @compile
    def f(x, again, part):
        a, b, c = copy.deepcopy([x, again, part])
        a += 1
        return a, b, c
    for _ in range(4):
        yield f(weight, weight.view(4, 6), weight[:2]), weight


@program
def deep_copies_of_what_has_a_gradient(compile):
    w = leaf(4)

    @compile
    def f(x):
        y = copy.deepcopy(w) * x + copy.deepcopy(w.detach()) + w
        return y.sum()
    for _ in range(4):
        yield backward(f(tensor(4))), w.grad
    yield outcome(compile(lambda x: copy.deepcopy(x * w)), tensor(4))


@program
def attributes_of_dicts(compile):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    @compile
    def f(x):
        counted = Counter("aab")
        counted.of = x * 2
        return net.state_dict(), counted
    for _ in range(3):
        state, counted = f(tensor(2, 4))
        yield state, state._metadata, counted, counted.of
