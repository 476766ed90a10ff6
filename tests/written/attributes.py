"""Attributes that are written: of modules, classes, functions and objects; one object in several places."""
import torch
from torch import nn

from .harness import Box, State, case


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


@case(programs=2)
def features_kept_by_a_hook(compile):
    net, features = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), {}
    net[0].register_forward_hook(lambda module, args, output: features.__setitem__("linear", output.detach()))
    net[1].register_forward_hook(lambda module, args, output: setattr(module, "seen", output))
    net[1].register_forward_hook(lambda module, args, output: output * 2)
    return compile(net), lambda: (features, net[1].seen)


@case(eager="made by the run")
def function_stored(compile):
    box = Box()

    def f(x):
        box.get = lambda: x
        return x + 1
    return compile(f), lambda: box.get()
