"""What Python looks for in classes without its being named: operators, conversions, calls, attribute access, construction; added,
replaced or overridden before the next call."""
import abc
import functools
import types

import torch
from torch import nn

from .harness import changed, program, tensor

X = tensor(4)


@program
def added(compile):
    class Bare:
        scale = 2

    def sum_in_place(x):
        value = one
        value += 1
        return x * value
    for name, method, use in (
            ("__bool__", lambda self: False, lambda x: x * 2 if one else x),
            ("__len__", lambda self: 0, lambda x: x * 2 if one else x),
            ("__eq__", lambda self, other: True, lambda x: x * 2 if one == another else x),
            ("__iadd__", lambda self, other: 7, sum_in_place),
            ("__call__", lambda self: 7, lambda x: x * 2 if callable(one) else x),
            ("__init__", lambda self: setattr(self, "scale", 5), lambda x: x * kind().scale),
            ("__getattr__", lambda self, name: 7, lambda x: x * getattr(one, "none", 3)),
            ("__contains__", lambda self, item: True, lambda x: x * 2 if 3 in [one] else x)):
        kind = type("Kind", (Bare,), {"__add__": lambda self, other: 3})
        one, another = kind(), kind()
        yield from changed(compile, use, lambda: setattr(kind, name, method))


@program
def overridden(compile):
    class Base:
        def __init__(self):
            self.scale = 3

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return 2

        def __enter__(self):
            return 2

        def __exit__(self, *error):
            pass

    def entered(x):
        with one as scale:
            return x * scale
    for name, method, use in (
            ("__len__", lambda self: 9, lambda x: x * len(one)), ("__getitem__", lambda self, index: 9, lambda x: x * one[0]),
            ("__enter__", lambda self: 9, entered),
            ("__init__", lambda self: setattr(self, "scale", 7), lambda x: x * kind().scale)):
        kind = type("Kind", (Base,), {})
        one = kind()
        yield from changed(compile, use, lambda: setattr(kind, name, method))


@program
def that_are_no_plain_functions(compile):
    class Scaled:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, other):
            return other * self.scale

    class One:
        __call__ = staticmethod(lambda x: x * 2)
        __class_getitem__ = classmethod(lambda cls, key: key * 2)
        __add__ = Scaled(2)
        __len__ = functools.partialmethod(lambda self, n: n, 3)
    one = One()
    yield from changed(compile, lambda x: one(x), lambda: setattr(One, "__call__", staticmethod(lambda x: x * 3)))
    yield from changed(compile, lambda x: x * One[3],
                       lambda: setattr(One, "__class_getitem__", classmethod(lambda cls, key: key * 5)))
    yield from changed(compile, lambda x: one + x, lambda: setattr(vars(One)["__add__"], "scale", 4))
    yield from changed(compile, lambda x: x * len(one),
                       lambda: setattr(One, "__len__", functools.partialmethod(lambda self, n: n, 1)))


@program
def of_metaclasses(compile):
    class Meta(type):
        pass

    class One(metaclass=Meta):
        scale = 2
    yield from changed(compile, lambda x: x * One.scale, lambda: setattr(Meta, "scale", property(lambda cls: 9)))
    yield from changed(compile, lambda x: x * 2 if One else x, lambda: setattr(Meta, "__bool__", lambda cls: False))
    yield from changed(compile, lambda x: x * One().scale,
                       lambda: setattr(Meta, "__call__", lambda cls: types.SimpleNamespace(scale=8)))


@program
def of_descriptors(compile):
    class Two:
        def __get__(self, instance, owner):
            return 2

    class One:
        scale = Two()
    one = One()
    vars(one)["scale"] = 5
    yield from changed(compile, lambda x: x * one.scale, lambda: setattr(Two, "__set__", lambda self, instance, value: None))


@program
def of_attribute_access(compile):
    class One:
        scale = 2

        def __getattribute__(self, name):
            return object.__getattribute__(self, name)

        def __setattr__(self, name, value):
            vars(type(self)).get("kept", {})
            self.__dict__[name] = value
    one = One()

    def counted(x):
        one.count = one.scale + 1
        return x * one.count
    yield from changed(compile, counted, lambda: setattr(One, "__setattr__", lambda self, name, value:
                                                         self.__dict__.__setitem__(name, value * 10)))
    yield from changed(compile, lambda x: x * one.scale, lambda: setattr(
        One, "__getattribute__", lambda self, name: 9 if name == "scale" else object.__getattribute__(self, name)))


@program
def of_modules(compile):
    class Net(nn.Module):
        def forward(self, x):
            return x * 2
    net = Net()
    yield from changed(compile, lambda x: net(x), lambda: setattr(Net, "__call__", lambda self, x: x * 5))


@program
def of_patterns_and_abstract_classes(compile):
    class Point:
        __match_args__ = ("a", "b")
        a, b = 2, 3

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def method(self):
            pass

    class Concrete(Abstract):
        pass
    point = Point()

    def matched(x):
        match point:
            case Point(first, second):
                return x * first + second

    def made(x):
        try:
            return x * 2 if Concrete() else x
        except TypeError:
            return x * 3

    def complete():
        Concrete.method = lambda self: 1
        abc.update_abstractmethods(Concrete)
    yield from changed(compile, matched, lambda: setattr(Point, "__match_args__", ("b", "a")))
    yield from changed(compile, made, complete)


@program
def of_what_torch_is_given(compile):
    class Like:
        scale, seen = 2, []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.seen.append(function.__name__)
            return args[0] * cls.scale
    like = Like()
    f = compile(lambda x: torch.add(x, like))
    for Like.scale in (2, 2, 5):
        yield f(X), list(Like.seen)
