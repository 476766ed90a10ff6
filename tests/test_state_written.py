"""State that a program writes: on every call it is what eager leaves, object by object, and the program runs compiled."""
import collections
import dataclasses
import os
import random
import re
import types
import warnings

import pytest
import torch
from torch import nn

import smelt
from smelt.errors import SmeltWarning

CALLS = 5
#: name -> (make, programs, reason to run eagerly, calls)
CASES: dict = {}


def case(programs=1, eager="", calls=CALLS):
    """`make(compile)` gives what to call and what to look at after each call. In all calls, `programs` are recorded; or it
    runs eagerly, for a reason that matches `eager`."""
    def add(make):
        CASES[make.__name__] = make, programs, eager, calls
        return make
    return add


class Box:
    """An object of the user's: its attributes are the state."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


@dataclasses.dataclass
class State:
    h: torch.Tensor
    c: torch.Tensor


def module(source):
    """A module of its own for a program, so that each run has its own globals."""
    made = types.ModuleType("state_written_program")
    exec(compile(source, "state_written_program.py", "exec"), vars(made))
    return made


class Values:
    """A tensor's values, equal to values that differ by rounding."""

    def __init__(self, t):
        self.t = t.detach().clone()

    def __eq__(self, other):
        return torch.allclose(self.t, other.t, rtol=1e-5, atol=1e-6, equal_nan=True)

    def __repr__(self):
        return repr(self.t)


def picture(value, seen):
    """A value as plain data that tells all that a program could tell: types, layout, and which objects are one object."""
    if isinstance(value, (int, float, str, bytes, type(None), torch.dtype, torch.Size)):
        return type(value).__name__, repr(value)
    if id(value) in seen:
        return "seen", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    if isinstance(value, torch.Tensor):
        memory = value.untyped_storage().data_ptr()
        memory = memory and seen.setdefault(-memory, (len(seen), None))[0]
        return (type(value).__name__, value.dtype, tuple(value.shape), value.stride(), value.storage_offset(), memory,
                value.requires_grad, value.is_leaf, picture(vars(value), seen),
                picture(value.grad, seen) if value.is_leaf else None, Values(value))
    if isinstance(value, dict):
        return type(value).__name__, [(picture(k, seen), picture(v, seen)) for k, v in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value).__name__, getattr(value, "maxlen", None), [picture(v, seen) for v in value]
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, type) or callable(value) and not isinstance(value, nn.Module):
        return "object", value.__qualname__
    return type(value).__name__.removesuffix("'"), picture(vars(value), seen)


def inputs(calls):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, generator=generator) for _ in range(calls)]


def pictures(make, compile, calls):
    """What each call gave and left."""
    torch.manual_seed(0)
    call, state = make(compile)
    seen, results = [], []
    for x in inputs(calls):
        try:
            results.append(call(x))
        except IndexError as error:
            results.append(repr(error))
        seen.append(picture([state(), results, x], {}))
    return seen


# Attributes

@case(programs=2)
def hidden_state(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = None

        def forward(self, x):
            self.h = x if self.h is None else torch.tanh(x + 0.5 * self.h)
            return self.h * 2
    net = Net()
    return compile(net), lambda: vars(net)


@case(programs=1)
def hidden_state_given_at_first(compile):
    box = Box(h=torch.zeros(2, 3))

    def f(x):
        box.h = torch.tanh(x + box.h)
        return box.h + 1
    return compile(f), lambda: box


@case(programs=2, calls=100)
def hidden_state_for_long(compile):
    box = Box(h=None)

    def f(x):
        box.h = torch.sin(x) if box.h is None else torch.sin(x - box.h)
        return box.h
    return compile(f), lambda: box.h


@case(programs=1)
def last_result(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.last = self.seen = None

        def forward(self, x):
            y = (x * self.w).sum()
            self.last, self.seen = y.detach(), y
            return y
    net = Net()
    return compile(net), lambda: vars(net)


@case(programs=1)
def moved_along(compile):
    box = Box(a=torch.zeros(2, 3), b=torch.ones(2, 3))

    def f(x):
        box.b, box.a = box.a, x + box.b
        return box.a - box.b
    return compile(f), lambda: box


@case(programs=1)
def buffer_replaced(compile):
    net = nn.Module()
    net.register_buffer("mean", torch.zeros(3))
    net.register_buffer("scratch", torch.zeros(3), persistent=False)

    def f(x):
        net.mean = net.mean * 0.9 + x.mean(0) * 0.1
        net.scratch = x[0]
        return x - net.mean
    return compile(f), lambda: (vars(net), net.state_dict())


@case(programs=2)
def buffer_registered(compile):
    class Net(nn.Module):
        def forward(self, x):
            self.register_buffer("seen", x.abs())
            return x * self.seen
    net = Net()
    return compile(lambda x: net(x)), lambda: vars(net)


@case(programs=1)
def buffer_in_place_and_replaced(compile):
    net = nn.Module()
    net.register_buffer("total", torch.zeros(3))
    net.register_buffer("mean", torch.zeros(3))

    def f(x):
        net.total += x.sum(0)
        net.total.mul_(0.5)
        net.mean = net.total / 2
        return x - net.mean
    return compile(f), lambda: vars(net)


@case(programs=2)
def attribute_of_a_module_class(compile):
    class Net(nn.Module):
        calls_seen = None

        def forward(self, x):
            if type(self).calls_seen is None:
                type(self).calls_seen = "some"
            type(self).last = x + 1
            return x * 2
    net = Net()
    return compile(net), lambda: (Net.calls_seen, Net.last)


@case(programs=1)
def class_attribute_read_and_written(compile):
    class Net(Box):
        h = torch.zeros(2, 3)

        def step(self, x):
            type(self).h = x + type(self).h
            return self.h * 3
    net = Net()
    return compile(net.step), lambda: Net.h


@case(programs=1)
def function_attribute(compile):
    def f(x):
        f.last = x * 2
        f.name = "f"
        return f.last + 1
    return compile(f), lambda: vars(f)


@case(programs=2)
def attribute_deleted(compile):
    box = Box(kept=torch.ones(3))

    def f(x):
        if hasattr(box, "kept"):
            y = x * box.kept
            del box.kept
            return y
        return x - 1
    return compile(f), lambda: vars(box)


@case(programs=1)
def set_and_deleted(compile):
    net = nn.Module()

    def f(x):
        net.scratch = x + 1
        y = net.scratch * 2
        del net.scratch
        return y
    return compile(f), lambda: vars(net)


@case(programs=1)
def slots(compile):
    class Slots:
        __slots__ = "h", "last"
    s = Slots()
    s.h = torch.zeros(2, 3)

    def f(x):
        s.h = x - s.h
        s.last = s.h * 2
        return s.last + 1
    return compile(f), lambda: (s.h, s.last)


@case(programs=1)
def property_with_a_setter(compile):
    class Guarded(Box):
        @property
        def h(self):
            return self._h * 2

        @h.setter
        def h(self, value):
            self._h = value / 4
    box = Guarded(_h=torch.zeros(2, 3))

    def f(x):
        box.h = box.h + x
        return box.h
    return compile(f), lambda: box


@case(programs=1)
def setattr_of_the_users(compile):
    class Logged(Box):
        def __setattr__(self, name, value):
            object.__setattr__(self, name, value)
            object.__setattr__(self, "latest", name)
    box = Logged(h=torch.zeros(2, 3), latest="")
    box.h = torch.ones(2, 3)

    def f(x):
        box.h = x + box.h
        return box.h * 2
    return compile(f), lambda: vars(box)


@case(programs=1)
def descriptor_of_the_users(compile):
    class Halved:
        def __set__(self, obj, value):
            vars(obj)["stored"] = value / 2

        def __get__(self, obj, owner):
            return vars(obj)["stored"]

    class Holder(Box):
        h = Halved()
    box = Holder(stored=torch.zeros(2, 3))

    def f(x):
        box.h = x + box.h
        return box.h
    return compile(f), lambda: vars(box)


@case(programs=1)
def constants_of_all_kinds(compile):
    box = Box(mode=None, pair=None, dtype=None)

    def f(x):
        box.mode, box.pair, box.dtype, box.flag = "on", (1, 2.5, "a"), x.dtype, True
        return x * box.pair[1]
    return compile(f), lambda: box


@case(programs=2)
def flag_that_flips(compile):
    box = Box(on=False)

    def f(x):
        box.on = not box.on
        return x + 1 if box.on else x - 1
    return compile(f), lambda: box


@case(programs=1)
def structure_of_tensors(compile):
    box = Box()

    def f(x):
        box.found = {"h": x + 1, "pair": (x * 2, [x - 1]), "none": None}
        return box.found["h"] * 2
    return compile(f), lambda: vars(box)


@case(programs=2)
def tuple_kept(compile):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.state = None

        def forward(self, x):
            h, c = self.state or (x, x)
            c = torch.sigmoid(h) * c + x
            h = torch.tanh(c)
            self.state = h, c
            return h
    net = Cell()
    return compile(net), lambda: vars(net)


@case(programs=2)
def list_made_anew(compile):
    box = Box(layers=[])

    def f(x):
        x = x + box.layers[0] if box.layers else x
        box.layers = [x * 2, torch.cos(x)]
        return x + box.layers[1]
    return compile(f), lambda: box


@case(programs=2)
def dict_made_anew(compile):
    box = Box(cache=None)

    def f(x):
        old = box.cache["k"] if box.cache else x
        box.cache = {"k": x + old, "v": [x, old * 2]}
        return box.cache["k"] + box.cache["v"][1]
    return compile(f), lambda: box


@case(programs=2)
def object_made_anew(compile):
    box = Box(state=None)

    def f(x):
        old = box.state or State(x, x)
        box.state = State(x + old.h, old.c * 0.5)
        return box.state.h * box.state.c
    return compile(f), lambda: box


@case(programs=2)
def plain_object_made_anew(compile):
    box = Box(state=None)

    def f(x):
        old = box.state.h if box.state is not None else x
        made = Box(h=x + old, previous=old)
        box.state = made
        return made.h, made
    return compile(f), lambda: box


@case(programs=1)
def object_changed_inside(compile):
    box = Box(inner=Box(h=torch.zeros(2, 3), deep={"list": [torch.ones(3)]}))

    def f(x):
        box.inner.h = box.inner.h * 0.5 + x
        box.inner.deep["list"][0] = box.inner.deep["list"][0] + 1
        return box.inner.h * box.inner.deep["list"][0]
    return compile(f), lambda: box


# One object in several places

@case(programs=1)
def stored_twice_and_returned(compile):
    box, log = Box(), {}

    def f(x):
        y = x * 2
        box.a = box.b = log["y"] = y
        box.views = [y[0], y.t()]
        return y, [y], box.views[0]
    return compile(f), lambda: (box, log)


@case(programs=1)
def stored_container_returned(compile):
    box = Box()

    def f(x):
        made = [x + 1]
        box.made, box.again = made, (made, made)
        made.append(x)
        return made
    return compile(f), lambda: box


@case(programs=1)
def argument_stored(compile):
    box = Box(previous=torch.zeros(2, 3))

    def f(x):
        y = x + box.previous
        box.previous = x
        return y
    return compile(f), lambda: box


@case(programs=1)
def view_of_an_argument_stored(compile):
    box = Box()

    def f(x):
        box.row = x[1]
        return box.row * 2
    return compile(f), lambda: box


@case(programs=1)
def parameter_stored(compile):
    net = nn.Linear(3, 3)

    def f(x):
        net.holder = [net.weight, net.bias]
        return x + net.bias
    return compile(f), lambda: (vars(net))


@case(programs=2)
def same_tensor_in_two_places(compile):
    box = Box(a=torch.ones(3), b=torch.ones(3))

    def f(x):
        y = x * 2 if box.a is box.b else x * 3
        box.a = box.b = y + box.a
        return y
    return compile(f), lambda: box


# Gradients

@case(programs=2)
def gradient_through_time(compile):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.h = nn.Parameter(torch.full((3,), 0.5)), None

        def forward(self, x):
            h = x if self.h is None else self.h
            self.h = torch.tanh(h * self.w + x)
            return self.h
    net = Cell()
    f = compile(net)

    def call(x):
        net.w.grad = None
        y = f(x)
        y.sum().backward(retain_graph=True)
        return y
    return call, lambda: vars(net)


@case(programs=2)
def truncated_gradient(compile):
    w, box = nn.Parameter(torch.full((3,), 0.5)), Box(h=None)

    def f(x):
        h = x if box.h is None else box.h.detach()
        box.h = torch.tanh(h * w + x)
        return box.h.sum()
    g = compile(f)

    def call(x):
        loss = g(x)
        loss.backward()
        return loss
    return call, lambda: (w, box)


@case(programs=1)
def written_under_no_grad(compile):
    w, box = nn.Parameter(torch.ones(3)), Box(average=torch.zeros(3))

    def f(x):
        with torch.no_grad():
            box.average = box.average * 0.9 + w * 0.1
            box.average.add_(0.5)
        return (x * w).sum()
    return compile(f), lambda: (w, box)


# Containers

@case(programs=1)
def log_of_losses(compile):
    losses = []

    def f(x):
        loss = (x * x).sum()
        losses.append(loss)
        return loss
    return compile(f), lambda: losses


@case(programs=1, calls=50)
def log_on_self(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.losses, self.names = [], ["first"]

        def forward(self, x):
            self.losses.append(x.mean())
            self.names.append("more")
            return x * 2
    net = Net()
    return compile(net), lambda: vars(net)


@case(programs=1)
def logs_in_a_dict(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.history = {"loss": [], "size": collections.deque(), "kept": ["a"]}

        def forward(self, x):
            self.history["loss"].append(x.mean())
            self.history["size"].extend([x.sum(), "b"])
            return x * 2
    net = Net()
    return compile(net), lambda: net.history


@case(programs=5)
def a_log_that_is_read(compile):
    log = []

    def f(x):
        log.append(x.mean())
        return x * len(log)
    return compile(f), lambda: log


@case(programs=5)
def a_log_by_another_name(compile):
    box = Box(log=[])

    def f(x):
        log = box.log
        log.append(x.mean())
        return x * 2
    return compile(f), lambda: box


@case(programs=5)
def a_log_in_two_places(compile):
    box, log = Box(), []
    box.log = log

    def f(x):
        log.append(x.mean())
        return x if len(box.log) < 3 else x * 2
    return compile(f), lambda: box


@case(programs=1)
def dict_only_filled(compile):
    features, kept = {"other": 1}, {"x": torch.ones(3)}

    def f(x, name):
        features["x"] = x * 2
        features[name] = x[0]
        kept["x"] = kept["x"]
        return x + 1
    g = compile(f)
    return lambda x: g(x, "row"), lambda: (features, kept)


@case(programs=3, calls=8)
def dict_filled_on_a_condition(compile):
    best, given = {"x": 0, "y": "kept"}, iter([1, 3, 2, 0, 5, 1, 0, 7])

    def f(x):
        best["x"] = 0 if given_now[0] < 3 else 1
        best["y"] = "kept"
        return x + 1
    g, given_now = compile(f), [0]

    def call(x):
        given_now[0] = next(given)
        return g(x)
    return call, lambda: best


@case(programs=1)
def list_items_set(compile):
    state = [torch.zeros(2, 3), torch.ones(3), "kept"]

    def f(x):
        state[0] = state[0] + x
        return state[0] * state[1]
    return compile(f), lambda: state


@case(programs=4)
def queue_in_a_list(compile):
    queue = []

    def f(x):
        queue.append(x * 2)
        if len(queue) > 3:
            queue.pop(0)
        return sum(queue)
    return compile(f), lambda: queue


@case(programs=3)
def queue_in_a_deque(compile):
    queue = collections.deque(maxlen=2)

    def f(x):
        queue.append(torch.exp(x))
        return torch.stack(list(queue)).sum(0)
    return compile(f), lambda: queue


@case(programs=1)
def deque_from_both_ends(compile):
    queue = collections.deque([torch.zeros(3), torch.ones(3)])

    def f(x):
        last = queue.pop()
        queue.appendleft(x[0] + last)
        return last * 2
    return compile(f), lambda: queue


@case(programs=1)
def list_methods(compile):
    items = [3, 1, 2]

    def f(x):
        items.sort(reverse=True)
        items.insert(1, "new")
        items.remove("new")
        items.reverse()
        items[0], items[2] = items[2], items[0]
        items.append(items.pop(0))
        items[:] = [3, 1, 2]
        return x + items[0]
    return compile(f), lambda: items


@case(programs=2)
def list_cleared(compile):
    items = [torch.zeros(2, 3), 1]

    def f(x):
        y = x + len(items)
        items.clear()
        return y
    return compile(f), lambda: items


@case(programs=2)
def list_slices(compile):
    items = list(range(6)) + [torch.zeros(3)]

    def f(x):
        items[1:4] = [x[0]] * 3
        items[5] = x
        return items[0] + x
    return compile(f), lambda: items


@case(programs=2)
def dict_of_state(compile):
    state = {"h": torch.zeros(2, 3), "name": "rnn"}

    def f(x):
        state["h"] = torch.tanh(state["h"] + x)
        state.update(out=state["h"] * 2)
        return state["out"]
    return compile(f), lambda: state


@case(programs=2)
def dict_methods(compile):
    state = {"a": 1, "b": 2, "gone": 3}

    def f(x):
        state.pop("gone", None)
        first = state.pop("a")
        state.setdefault("c", 5)
        state["a"] = first
        return x + state["c"]
    return compile(f), lambda: state


@case(programs=2)
def dict_by_parameter(compile):
    p, state = nn.Parameter(torch.ones(3)), {}

    def f(x):
        if p not in state:
            state[p] = {"momentum": torch.zeros(3)}
        state[p]["momentum"] = state[p]["momentum"] * 0.9 + x[0]
        return x - state[p]["momentum"]
    return compile(f), lambda: (p, state)


@case(programs=2)
def default_dict_and_counter(compile):
    found, counts = collections.defaultdict(list), collections.Counter(x=3)

    def f(x):
        counts["x"] = 4
        found["y"] = [x + 1]
        return x + counts["x"]
    return compile(f), lambda: (found, counts)


@case(programs=1)
def ordered_dict_moved(compile):
    order = collections.OrderedDict(a=1, b=2, c=3)

    def f(x):
        order.move_to_end("a")
        order.move_to_end("b")
        order.move_to_end("c")
        order["a"] = 1
        return x + order["a"]
    return compile(f), lambda: order


@case(programs=2)
def set_of_names(compile):
    names = {"x", "y"}

    def f(x):
        names.add("z")
        names.discard("x")
        return x + len(names)
    return compile(f), lambda: names


@case(programs=2)
def container_in_an_attribute_dict(compile):
    box = Box(h=torch.zeros(2, 3))

    def f(x):
        vars(box)["h"] = box.h + x
        box.__dict__.update(extra=x * 2)
        return box.h
    return compile(f), lambda: vars(box)


@case(programs=1)
def argument_containers(compile):
    def f(x, log, state):
        log.append(x + 1)
        state["h"] = state["h"] + x
        state["inner"][0] = state["h"]
        return state["h"] * 2
    g = compile(f)
    kept = []

    def call(x):
        log, state = [x], {"h": x * 2, "inner": [None, "kept"]}
        kept.append((log, state))
        return g(x, log, state)
    return call, lambda: kept


@case(programs=1)
def argument_dataclass(compile):
    def f(x, state):
        state.h, state.c = state.h + x, state.h
        return state.c
    g, state = compile(f), State(torch.zeros(2, 3), torch.ones(2, 3))
    return lambda x: g(x, state), lambda: state


@case(programs=1)
def argument_object(compile):
    def f(x, box):
        box.h = box.h + x
        return box
    g, box = compile(f), Box(h=torch.zeros(2, 3))
    return lambda x: g(x, box), lambda: box


@case(programs=2)
def list_subclass(compile):
    class Log(list):
        def append(self, item):
            super().append([item])
    log = Log([1])

    def f(x):
        log[0] = x + 1
        return log[0] * 2
    return compile(f), lambda: list(log)


# Globals and cells

@case(programs=2)
def global_tensor(compile):
    m = module("""
h = None
def f(x):
    global h
    h = x if h is None else h + x
    return h * 2
""")
    return compile(m.f), lambda: m.h


@case(programs=1)
def global_only_written(compile):
    m = module("""
last = None
def f(x):
    global last, first
    last = x + 1
    first = "set"
    return x * 2
""")
    return compile(m.f), lambda: (m.last, m.first)


@case(programs=1)
def global_deleted(compile):
    m = module("""
def f(x):
    global scratch
    scratch = x + 1
    y = scratch * 2
    del scratch
    return y
""")
    return compile(m.f), lambda: hasattr(m, "scratch")


@case(programs=1)
def module_attribute(compile):
    m = module("h = 0.0")
    m.h = torch.zeros(2, 3)

    def f(x):
        m.h = m.h + x
        m.last = x * 2
        return m.h * 2
    return compile(f), lambda: (m.h, m.last)


@case(programs=2)
def nonlocal_tensor(compile):
    h = None

    def f(x):
        nonlocal h
        h = x if h is None else torch.tanh(h + x)
        return h * 2
    return compile(f), lambda: h


@case(programs=1)
def nonlocal_only_written(compile):
    last = None

    def f(x):
        nonlocal last
        last = x + 1
        return x * 2
    return compile(f), lambda: last


@case(programs=1)
def nonlocals_of_equal_functions(compile):
    def counter():
        n = torch.zeros(2, 3)

        def step(x):
            nonlocal n
            n = n + x
            return n
        return step
    first, second = counter(), counter()

    def f(x):
        return first(x) + second(x) * 2
    return compile(f), lambda: (first.__closure__[0].cell_contents, second.__closure__[0].cell_contents)


@case(programs=1)
def nonlocal_of_two_functions(compile):
    h = torch.zeros(2, 3)

    def put(value):
        nonlocal h
        h = value

    def f(x):
        put(h + x)
        y = h * 2
        put(y - 1)
        return y
    return compile(f), lambda: h


# Hooks

@case(programs=2)
def features_kept_by_a_hook(compile):
    net, features = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), {}
    net[0].register_forward_hook(lambda module, args, output: features.__setitem__("linear", output.detach()))
    net[1].register_forward_hook(lambda module, args, output: setattr(module, "seen", output))
    net[1].register_forward_hook(lambda module, args, output: output * 2)
    return compile(net), lambda: (features, net[1].seen)


# Numbers in the state

@case(programs=2, calls=100)
def counter(compile):
    box = Box(n=0)

    def f(x):
        box.n += 1
        return x + box.n
    return compile(f), lambda: box


@case(programs=2, calls=20)
def counters_everywhere(compile):
    m, n, items, table = module("n = 0"), 0, [1, 1.5], {"step": 0, "beta": 1.0}

    def f(x):
        nonlocal n
        n += 1
        m.n = m.n + 2
        items[0] += 1
        table["step"] += 1
        table["beta"] *= 0.9
        f.calls = f.calls + 1
        return x * table["beta"] + (n + m.n) * items[0] * items[1], f.calls
    f.calls = 0
    return compile(f), lambda: (n, m.n, items, table, f.calls)


@case(programs=4, calls=4)
def numbers_as_keys(compile):
    box, table, order, seen = Box(n=0), {}, collections.OrderedDict(), set()

    def f(x):
        box.n += 1
        table[box.n] = x
        order[box.n] = box.n
        seen.add(box.n)
        return x * 2
    return compile(f), lambda: (box, table, order, seen)


@case(programs=2, calls=8)
def number_set_back(compile):
    box, given = Box(n=5), iter([5, 3, 4, 5, 5, 7, 5, 1])

    def f(x):
        y = x * box.n
        box.n = 4
        return y
    g = compile(f)

    def call(x):
        box.n = next(given)
        return g(x)
    return call, lambda: box


@case(programs=3, calls=20)
def every_few_calls(compile):
    box = Box(n=0, total=torch.zeros(3))

    def f(x):
        box.n += 1
        if box.n % 4 == 0:
            box.total = torch.zeros(3)
        box.total = box.total + x[0]
        return box.total / box.n
    return compile(f), lambda: box


@case(programs=1)
def equal_tuples(compile):
    box = Box(h=torch.ones(3), pair=None)
    box.pair = box.h, box.h

    def f(x):
        first = box.pair
        box.pair = first[0], box.h
        return x + 1, first, box.pair
    return compile(f), lambda: box


# Sizes in the state: a recording for each

@case(programs=2, calls=4)
def cache_that_grows(compile):
    box = Box(k=torch.zeros(0, 3))

    def f(x):
        box.k = torch.cat([box.k, x])
        return box.k.sum(0)
    return compile(f), lambda: box


# Changed from outside between the calls

@case(programs=2, calls=8)
def reset_between_calls(compile):
    box = Box(h=None, n=0)

    def f(x):
        box.h = x if box.h is None else box.h + x
        return box.h * 2
    g = compile(f)

    def call(x):
        box.n += 1
        if box.n % 3 == 0:
            box.h = None
        return g(x)
    return call, lambda: box


@case(programs=2, calls=8)
def replaced_from_outside(compile):
    box = Box(w=torch.ones(3))

    def f(x):
        return x * box.w
    g = compile(f)

    def call(x):
        box.w = x[0] + 1
        return g(x)
    return call, lambda: box


@case(programs=3, calls=8)
def dtype_changed_from_outside(compile):
    box = Box(h=torch.zeros(2, 3))

    def f(x):
        box.h = (box.h + x).to(box.h.dtype)
        return box.h * 2
    g = compile(f)
    kinds = iter([torch.float32, torch.float64, torch.float32, torch.float16] * 2)

    def call(x):
        box.h = box.h.to(next(kinds))
        return g(x)
    return call, lambda: box


# Not replayed

@case(eager="made by the run")
def function_stored(compile):
    box = Box()

    def f(x):
        box.get = lambda: x
        return x + 1
    return compile(f), lambda: box.get()


@case(eager="calls posix.getpid", calls=20)
def an_effect_and_state(compile):
    box = Box(h=torch.zeros(2, 3))

    def f(x):
        os.getpid()
        box.h = box.h + x
        return box.h
    return compile(f), lambda: box


@case
def random_and_state(compile):
    box = Box()

    def f(x):
        box.seen = random.randint(3, 3)
        return x + box.seen
    return compile(f), lambda: box


@case(eager="iterator")
def iterator_outside(compile):
    numbers = iter(range(100))

    def f(x):
        return x + next(numbers)
    return compile(f), lambda: None


@case(eager="holds itself")
def container_that_holds_itself(compile):
    box = Box()

    def f(x):
        made = [x + 1]
        made.append(made)
        box.made = made
        return x
    return compile(f), lambda: len(box.made)


# Errors

@case(programs=1)
def an_error_between_writes(compile):
    table, box = nn.Embedding(5, 3), Box(n=0, total=torch.zeros(2, 3))

    def f(x, indices):
        box.before = indices
        box.total.add_(1)
        y = x + table(indices)
        box.after = indices
        return y
    g = compile(f)

    def call(x):
        box.n += 1
        return g(x, torch.tensor([1, 7 if box.n == 3 else 2]))
    return call, lambda: box


@case(programs=1)
def an_error_of_the_users(compile):
    box = Box(h=torch.zeros(2, 3), limit=1)

    def f(x, shift):
        box.h = box.h + x
        if shift > box.limit:
            raise IndexError("too far")
        box.h = box.h + shift
        return box.h * 2
    g, shifts = compile(f), iter([1, 2, 1, 2, 1])
    return lambda x: g(x, next(shifts)), lambda: box


def linear(k=0):
    net = nn.Linear(3, 3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.arange(p.numel()).reshape(p.shape) % 5 - k)
    return net


@case()
def called_with_other_parameters(compile):
    net, other = linear(), linear(2)
    f = compile(lambda x: torch.func.functional_call(net, dict(other.named_parameters()), (x,)))
    return f, lambda: net


@case(programs=2)
def called_with_other_parameters_when_its_own_are_replaced(compile):
    net, weights = linear(), {"weight": torch.ones(3, 3)}
    f, biases = compile(lambda x: torch.func.functional_call(net, weights, (x,)) - net(x)), iter(range(9))

    def call(x):
        if next(biases) == 3:
            net.bias = nn.Parameter(torch.ones(3))
        return f(x)
    return call, lambda: net


@case()
def gradients_of_each_example(compile):
    net = linear()
    own = {k: p.detach() for k, p in net.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(net, weights, (x,)).square().sum()
    f = compile(lambda x: torch.func.vmap(torch.func.grad(loss), (None, 0))(own, torch.stack([x, x * 2])))
    return f, lambda: (net, own)


@case(programs=2)
def an_ensemble_is_trained(compile):
    weights, buffers = torch.func.stack_module_state([linear(k) for k in range(3)])
    body = linear().to("meta")
    optimizer = torch.optim.SGD(weights.values(), lr=0.125)

    @compile
    def f(x):
        optimizer.zero_grad()
        several = torch.func.vmap(lambda w, b: torch.func.functional_call(body, (w, b), (x,)))(weights, buffers)
        several.sum().backward()
        optimizer.step()
        return several.detach()
    return f, lambda: list(weights.values())


@case()
def a_parameter_is_put_in_a_modules_table_after_it_is_read(compile):
    net, kept = linear(), nn.Parameter(torch.ones(3, 3))
    net.weight = kept

    def f(x):
        y = net(x)
        net._parameters["weight"] = kept
        return y
    return compile(f), lambda: net


@pytest.mark.parametrize("verify", ["first", "off"])
@pytest.mark.parametrize("name", CASES)
def test_written_state(name, verify):
    make, programs, eager, calls = CASES[name]
    compiled = []

    def compile(function):
        compiled.append(smelt.compile(function, verify=verify))
        return compiled[0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = pictures(make, compile, calls)
    theirs = pictures(make, lambda function: function, calls)
    for n, (mine, other) in enumerate(zip(ours, theirs)):
        assert mine == other, f"call {n}"
    report = smelt.explain(compiled[0])
    reasons = [str(w.message) for w in told if w.category is SmeltWarning]
    if eager:
        assert len(reasons) == 1 and re.search(eager, reasons[0]), reasons
        assert re.search(r"\.py:\d+: ", reasons[0])
    else:
        assert not reasons and report.compiled, (reasons, report.fallbacks)
        assert len(report.programs) == programs, report.recompilations
