"""Containers that are written: lists, deques, dicts and sets, also among the arguments."""
import collections

import torch
from torch import nn

from .harness import Box, State, case


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


@case(programs=1)
def logs_under_names_that_are_variables(compile):
    history = {"sum": [], "mean": [], "kept": ["a"]}

    def log(name, value):
        history[name].append(value)

    def f(x):
        for name, value in {"sum": x.sum(), "mean": x.mean()}.items():
            history[name].append(value)
        log("sum", x.max())
        return x * 2
    return compile(f), lambda: history


@case(programs=2, calls=8)
def logs_made_when_they_are_needed(compile):
    history, more = {}, collections.defaultdict(list)

    def f(x):
        for name in ("sum", "mean"):
            history.setdefault(name, []).append(getattr(x, name)())
            more["the " + name].append(getattr(x, name)())
        history.setdefault("size", []).append(x.shape[0])
        return x * 2
    return compile(f), lambda: (history, more)


@case(programs=5)
def logs_under_variable_names_that_are_read(compile):
    history = {"sum": [], "mean": []}

    def f(x):
        for name in history:
            history[name].append(x.mean())
        return x * len(history[name])
    return compile(f), lambda: history


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


@case(eager="holds itself")
def container_that_holds_itself(compile):
    box = Box()

    def f(x):
        made = [x + 1]
        made.append(made)
        box.made = made
        return x
    return compile(f), lambda: len(box.made)
