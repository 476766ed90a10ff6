"""Objects and classes that a run reads, and whose attributes change before the next call."""
import abc
import decimal
import functools
import gc
import sys
import threading
import types
import weakref
from enum import Enum

import torch
from torch import nn

from .harness import calls, changed, program, tensor

X = tensor(4)


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
def context_of_decimals(compile):
    third = decimal.Decimal(1)

    @compile
    def f(x):
        return x * float(third / 3), decimal.getcontext().prec
    for digits in (28, 3, 28, 2):
        with decimal.localcontext() as context:
            context.prec = digits
            found = list(calls(f, tensor(3)))
        yield found


@program
def references_counted(compile):
    held, kept = object(), []
    f = compile(lambda x: x * sys.getrefcount(held) - x * sys.getrefcount(held))
    for _ in range(3):
        yield f(tensor(3))
        kept.append(held)


@program
def weak_references(compile):
    """A program keeps nothing alive that it came by through one alone."""
    class Box:
        def __init__(self, scale):
            self.scale, self.around = scale, None

    def scaled(x, ref):
        box = ref()
        return x - 1 if box is None else x * box.scale

    f, box = compile(scaled), Box(tensor(3))
    ref = weakref.ref(box)
    yield from calls(f, tensor(3), ref)
    box = None
    gc.collect()
    yield f(tensor(3), ref), ref() is None
    yield from calls(f, tensor(3), ref)

    boxes, box = weakref.WeakValueDictionary(), Box(2)
    boxes["one"] = box
    g = compile(lambda x: x * boxes["one"].scale if "one" in boxes else x)
    yield from calls(g, tensor(3))
    box = None
    gc.collect()
    yield from calls(g, tensor(3))


@program
def weak_reference_to_what_is_known(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = weakref.ref(self)
            self.scale = 2

        def forward(self, x):
            return x * self.own().scale
    net = Net()
    f = compile(net)
    yield from calls(f, tensor(3))
    net.scale = 3
    yield from calls(f, tensor(3))


@program
def batches_of_a_class_of_dicts(compile):
    """Read, written to and given back."""
    class Batch(dict):
        def __getattr__(self, name):
            if name not in self:
                raise AttributeError(name)
            return self[name]

        def to(self, dtype):
            return Batch({k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in self.items()})

    @compile
    def f(batch, k):
        batch["seen"] = batch.get("seen", 0) + 1
        other = batch.to(torch.float64)
        if hasattr(batch, "mask"):
            other["x"] = other.x * batch.mask
        return other, batch.x * batch.scale + k
    for k in range(6):
        batch = Batch(x=tensor(4) + k, scale=2, note="text")
        if k > 3:
            batch["mask"] = tensor(4) > 0
        yield f(batch, k // 4), batch
        yield f(batch, k // 4), batch


@program
def instances_of_classes_made_by_calling_a_metaclass(compile):
    """As batches of graphs are: such a class names the module `abc` as its own."""
    class Meta(abc.ABCMeta):
        pass

    class Data(metaclass=Meta):
        def __init__(self, x, scale):
            self.store = {"x": x}
            self.scale = scale

        def __getattr__(self, name):
            return self.__dict__["store"][name]
    batch = Meta("Batch", (Data,), {"shift": 1})
    f = compile(lambda b: b.x * b.scale + b.shift)
    for k in (2, 2, 3, 4):
        yield f(batch(tensor(k, 3), k))
    kept = batch(tensor(2, 3), 2)
    yield from changed(compile, lambda x: x * kept.scale + kept.x.sum() + kept.shift, lambda: setattr(kept, "scale", 5),
                       lambda: kept.store.update(x=tensor(3)), lambda: setattr(batch, "shift", 7))
