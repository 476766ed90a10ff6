"""Containers that a run fills, and objects that it is given and changes or keeps."""
import copy
import types
from collections import Counter, OrderedDict, defaultdict, deque

import torch
from torch import nn

from .attributes_written import Holder
from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4)


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


@program
def emptied(compile):
    left, waiting, known, kept = {3}, [5], {"a": 2}, OrderedDict(b=1)

    @compile
    def f(x):
        return x * left.pop() + waiting.pop() - known.pop("a") * kept.pop("b")

    def fill():
        left.add(3)
        waiting.append(5)
        known["a"], kept["b"] = 2, 1
    for full in (True, True, False, True, False, True):
        yield outcome(f, X)
        if full:
            fill()


@program
def a_set_given_is_emptied(compile):
    f = compile(lambda given, x: x * given.pop())
    given = {3}
    for k in (3, 3, None, 4, None, 3):
        yield outcome(f, given, X)
        given |= {k} if k else set()


@program
def given_objects_of_which_some_are_one(compile):
    f = compile(lambda a, b, c: (a.value + b.value * 2, a is b, b is c, a is c))
    kept = Given(tensor(4))
    for k in range(4):
        a, b = Given(tensor(4)), Given(tensor(4) + k)
        for given in ((kept, a, b), (kept, kept, a), (kept, a, kept), (a, kept, kept), (a, b, a), (b, b, b), (kept, b, a)):
            yield f(*given)
        b.value = a.value
        yield f(kept, a, b)
        yield f(a, b, kept)


@program
def given_containers_of_which_some_are_one(compile):
    f = compile(lambda x, a, b: (x * len(a), a is b, len(b)))
    for _ in range(2):
        one, other = [1, 2], [1, 2]
        for given in ((one, other), (one, one), (one, other), (other, other)):
            yield f(tensor(4), *given)


@program
def given_containers_written_of_which_some_are_one(compile):
    @compile
    def appends(x, a, b):
        a.append(x)
        return x * len(b)

    @compile
    def sets(x, a, b):
        a["k"] = x
        return x * b.get("k", 2)
    for _ in range(3):
        one, other, single = [1, 2], [1, 2], [1, 2]
        yield appends(tensor(4), one, other), appends(tensor(4), single, single), one, other, single
        single = {"k": 1}
        yield sets(tensor(4), {"k": 1}, {"k": 1}), sets(tensor(4), single, single), single


@program
def a_given_container_that_is_known_elsewhere(compile):
    kept, state = [1], Given(1)
    f = compile(lambda x, a=kept: (x * len(a), a is kept))

    @compile
    def grows(x, a):
        state.parts.append(3)
        return x * len(a), a is state.parts
    for _ in range(3):
        yield f(tensor(4)), f(tensor(4), [1]), f(tensor(4), kept)
        state.parts = [1, 2]
        yield grows(tensor(4), [1, 2]), state.parts
        state.parts = [1, 2]
        yield grows(tensor(4), state.parts), state.parts


@program
def given_containers_of_the_same_tensors(compile):
    @compile
    def f(a, b):
        a[0].add_(1)
        return a[0] + b[0], a[0] is b[0], a is b
    for _ in range(3):
        x, y = tensor(4), tensor(4)
        several = [x]
        yield f([x], [y]), f([x], [x]), f(several, several), x, y
        yield f((x,), (y,)), f((x,), (x,)), x, y


@program
def logs_in_dicts_of_dicts(compile):
    history, ordered = {"train": {"loss": [], "n": []}, "test": {"loss": []}}, OrderedDict(a={"b": {"c": []}})

    @compile
    def f(x, split):
        history[split]["loss"].append(x.sum().item())
        history["train"]["n"].append(len(x))
        ordered["a"]["b"]["c"].append(x[0].item())
        return x * 2

    @compile
    def g(x):
        history["test"]["loss"].append(x.sum().item())
        return x * len(history["test"]["loss"]) + len(history["train"]["n"])

    @compile
    def h(x):
        losses = history["train"]["loss"]
        losses.append(x.sum().item())
        return x * losses[0]
    @compile
    def kept(x):
        recent.append(x.sum().item())
        recent.append(len(x))
        return x * 2
    recent = deque(maxlen=5)
    for k in range(7):
        yield kept(X + k), recent
        if k == 4:
            recent.clear()
    for k in range(5):
        yield f(X + k, "train"), history, ordered
    for k in range(4):
        yield f(X + k, "test"), g(X), h(X), history
    history["train"] = {"loss": [2.0], "n": []}
    ordered["a"]["b"]["c"].clear()
    for k in range(3):
        yield f(X, "train"), g(X), h(X), history, ordered


@program
def sets_made_anew(compile):
    """Each call finds another set in the place of the one before, with the same in it."""
    for change in (lambda s: set(s), lambda s: s | {"a"}, lambda s: s.copy(), lambda s: s - {"a"},
                   lambda s: set(sorted(s) + ["b"])):
        holder = types.SimpleNamespace(seen={"a", "b"})

        @compile
        def f(x):
            known = "c" in holder.seen
            holder.seen = change(holder.seen)
            return x * len(holder.seen) + known
        for k in range(7):
            if k == 3:
                holder.seen.add("c")
            if k == 5:
                holder.seen = {"d"}
            before = holder.seen
            yield f(tensor(3)), sorted(holder.seen), holder.seen is before


@program
def instances_made_by_new(compile):
    class Settings:
        scale = 2

        def copied(self):
            new = self.__new__(type(self))
            new.scale = self.scale + 1
            return new
    settings = Settings()
    f = compile(lambda x, n: x * settings.copied().scale * n)
    for n in (1, 2, 3, 4, 5):
        yield f(tensor(n), n)
