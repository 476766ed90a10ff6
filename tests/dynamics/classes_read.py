"""What classes, functions, modules, members of enumerations, and values of classes derived from numbers and text tell of
themselves, and what is changed there before the next call."""
import copy
import enum
import functools
import importlib
import sys
import types
from collections import namedtuple

from .harness import changed, program, tensor

X = tensor(4)
NAME = "smelt_made_up"  # of a module that there is not
SCALE = 2


class Tag(str):
    pass


class Count(int):
    pass


class Factor(float):
    pass


class Pair(tuple):
    pass


class Named(namedtuple("Named", "first second")):
    pass


def values():
    return Tag("a"), Count(3), Factor(2.5), Pair((1, 2)), Named(1, 2)


@program
def values_with_attributes(compile):
    for value in values():
        value.scale = 2
        yield from changed(compile, lambda x: x * value.scale + (len(value) if isinstance(value, (str, tuple)) else 0),
                           lambda: setattr(value, "scale", 3), lambda: setattr(value, "scale", 4.5),
                           lambda: delattr(value, "scale"))


@program
def values_with_attributes_given(compile):
    f = compile(lambda x, value: x * getattr(value, "scale", 1))
    for value in values():
        for scale in (2, 3, 4.5):
            another = type(value)(*value) if isinstance(value, Named) else type(value)(value)
            yield f(X, another)
            another.scale = scale
            yield f(X, another)


@program
def values_with_attributes_set(compile):
    for value in values():
        value.count = 1

        @compile
        def f(x):
            value.count += 1
            return x * value.count
        for _ in range(4):
            yield f(X), value.count


@program
def values_with_attributes_made(compile):
    for kind, made_of in ((Tag, "a"), (Count, 3), (Factor, 2.5), (Pair, (1, 2))):
        @compile
        def f(x, k):
            value, bare = kind(made_of), kind(made_of)
            value.scale, value.scaled = k, x * k
            return value, bare
        for k in (1, 2, 2, 3):
            value, bare = f(X, k)
            yield type(value).__name__, value == made_of, value.scale, value.scaled, type(bare).__name__, vars(bare)


@program
def values_with_attributes_another_on_every_call(compile):
    class State:
        pass
    for make in (lambda x: Pair((x, x + 1)), lambda x: Named(x, x + 1)):
        state = State()
        state.last = make(X)

        @compile
        def f(x):
            y = x * state.last[0] + getattr(state.last, "scale", 1)
            state.last = make(y)
            return y
        for k in range(6):
            if k > 3:
                state.last.scale = k
            yield f(X), *state.last, vars(state.last)


@program
def operators_of_derived_numbers(compile):
    class Odd(int):
        scale = 3

        def __add__(self, other):
            return int(self) * 10 + other
    f = compile(lambda x, n: x * (n + 1) + n.scale)
    for n in (2, 3, 4):
        yield f(X, Odd(n))
    Odd.scale = 9
    yield f(X, Odd(2))
    Odd.__add__ = lambda self, other: 77
    yield f(X, Odd(2))


@program
def members_of_enumerations(compile):
    class Planet(enum.Enum):
        EARTH, MARS = 1, 2

        def __init__(self, mass):
            self.mass = mass

        @property
        def weight(self):
            return self.value * gravity[0]
    gravity, earth, mars = [3], Planet.EARTH, Planet.MARS
    yield from changed(compile, lambda x: x * Planet.EARTH.mass, lambda: setattr(earth, "mass", 5))
    yield from changed(compile, lambda x: x * Planet.EARTH.weight, lambda: gravity.append(1), lambda: gravity.insert(0, 5))
    f = compile(lambda x, planet: x * planet.mass if planet is earth else x + planet.mass)
    for mass in (2, 2, 3):
        mars.mass = mass
        yield f(X, earth), f(X, mars)


@program
def bases_of_classes(compile):
    class One:
        scale = 2

        def applied(self, x):
            return x * 2

    class Other:
        scale = 3

        def applied(self, x):
            return x * 5

    for use in (lambda cls: lambda x: x * cls.scale, lambda cls: lambda x: cls().applied(x),
                lambda cls: lambda x: x * 2 if isinstance(cls(), One) else x * 3):
        middle = type("Middle", (One,), {})
        inner = type("Inner", (middle,), {"more": lambda self, x: super(inner, self).applied(x) + 1})
        yield from changed(compile, use(middle), lambda: setattr(middle, "__bases__", (Other,)))
        yield from changed(compile, use(inner), lambda: setattr(middle, "__bases__", (One,)))
        yield from changed(compile, lambda x: inner().more(x), lambda: setattr(middle, "__bases__", (Other,)))


@program
def names_and_annotations(compile):
    def function(a: int):
        return a

    class Fields:
        a: int = 3
    yield from changed(compile, lambda x: x * len(function.__name__) + len(function.__doc__ or ""),
                       lambda: setattr(function, "__name__", "f"), lambda: setattr(function, "__doc__", "Text."))
    yield from changed(compile, lambda x: x * len(Fields.__name__), lambda: setattr(Fields, "__name__", "F"))
    for annotated in (function, Fields):
        yield from changed(compile, lambda x: x * len(annotated.__annotations__),
                           lambda: annotated.__annotations__.update(b=1), lambda: setattr(annotated, "__annotations__", {}))


@program
def modules_that_are_loaded(compile):
    def imports(x):
        try:
            import smelt_made_up
            return x * smelt_made_up.scale
        except ImportError:
            return x * 3

    def imports_by_name(x):
        try:
            return x * importlib.import_module(NAME).scale
        except ImportError:
            return x * 3
    module, chosen = types.ModuleType(NAME), [NAME]
    module.scale = 5
    for function in (imports, imports_by_name, lambda x: x * 2 if "smelt_made_up" in sys.modules else x * 3,
                     lambda x: x * sys.modules["smelt_made_up"].scale, lambda x: x * 2 if sys.modules.get("smelt_made_up") else x,
                     lambda x: x * 2 if chosen[0] in sys.modules else x * 3):
        yield from changed(compile, function, lambda: sys.modules.update({NAME: module}), lambda: setattr(module, "scale", 7),
                           lambda: sys.modules.pop(NAME))
    own = sys.modules[__name__]
    yield from changed(compile, lambda x: x * sys.modules[__name__].SCALE, lambda: setattr(own, "SCALE", 3),
                       lambda: setattr(own, "SCALE", 2))


@program
def modules_that_the_run_loads(compile):
    for name in ("colorsys", "xml.dom.minidom"):
        sys.modules.pop(name, None)

    def f(x):
        import colorsys
        import xml.dom.minidom
        return x * colorsys.ONE_THIRD + len(xml.dom.minidom.__name__)
    yield from changed(compile, f)


@program
def memories_asked_for(compile):
    @functools.lru_cache
    def doubled(k):
        return k * 2
    yield from changed(compile, lambda x: x * doubled(3) + doubled.cache_info().hits, lambda: doubled(4), lambda: doubled(3))


class Options:
    scale = 2

    def __init__(self):
        self.shift = 1

    def __getattribute__(self, name):
        held = super().__getattribute__("__dict__")
        return held[name] if name in held else super().__getattribute__(name)

    def held(self):
        return {key: value for key, value in self.__dict__.items() if key != "unknown"}

    def shown(self):
        return sum(self.__dict__.get(key, 0) for key in ("shift", "other"))


@program
def dicts_of_instances(compile):
    """Code that looks through those of instances alone looks through no class."""
    options = Options()
    yield from changed(compile, lambda x: x * options.shift + options.scale,
                       lambda: setattr(options, "shift", 4), lambda: setattr(options, "scale", 5))
    plain = types.SimpleNamespace(shift=1)
    yield from changed(compile, lambda x: x * len(getattr(plain, "__dict__", {})) if hasattr(plain, "__dict__") else x,
                       lambda: setattr(plain, "first", 4), lambda: delattr(plain, "first"))
    yield from changed(compile, lambda x: x * Options.shown(plain) + len(Options.held(plain)),
                       lambda: setattr(plain, "shift", 4), lambda: setattr(plain, "other", 5))


@program
def dicts_of_classes_that_code_takes_for_instances(compile):
    class Settings:
        shift = 1
    yield from changed(compile, lambda x: x * Options.shown(Settings),
                       lambda: setattr(Settings, "shift", 4), lambda: setattr(Settings, "other", 5))


@program
def copies_of_instances_where_code_looks_through_classes(compile):
    """Python notes in a class what copies of its instances hold, the first time that one is made."""
    class Settings:
        def __init__(self):
            self.shift = 1
    settings = Settings()
    yield from changed(compile, lambda x: x * copy.deepcopy(settings).__dict__["shift"] + type(settings).__dict__.get("other", 0),
                       lambda: setattr(settings, "shift", 4), lambda: setattr(Settings, "other", 5))


@program
def attributes_that_a_run_gives_to_a_class_or_takes_from_it(compile):
    class Settings:
        shift, other = 1, 2

    def f(x):
        if "seen" not in Settings.__dict__:
            Settings.seen = 1
            x = x + 1
        if "other" in vars(Settings):
            del Settings.other
            x = x + 2
        return x * Settings.shift
    yield from changed(compile, f, lambda: setattr(Settings, "shift", 4), lambda: delattr(Settings, "seen"))


class Shown:
    scale = 2

    def __init__(self):
        self.shift = 1

    def forward(self, x):
        return x


@program
def what_there_is_in_a_class(compile):
    """Nothing of smelt's."""
    shown = Shown()
    for function in (lambda x: (x * shown.shift, len(vars(type(shown)))),
                     lambda x: (x * shown.shift, sorted(name for name, value in vars(Shown).items() if callable(value))),
                     lambda x: (x * shown.shift, sorted(name for name, value in Shown.__dict__.items() if callable(value))),
                     lambda x: (x * shown.shift, sorted(k for c in type(shown).__mro__ for k in c.__dict__)),
                     lambda x: (x * shown.shift, "__setattr__" in Shown.__dict__, "shift" in shown.__dict__),
                     lambda x: (x * shown.shift, Shown.__dict__["scale"], Shown.__dict__.get("other"), dir(shown))):
        yield from changed(compile, function, lambda: setattr(shown, "shift", 4), lambda: setattr(Shown, "other", 5),
                           lambda: setattr(Shown, "scale", 3), lambda: delattr(Shown, "other"),
                           lambda: setattr(Shown, "scale", 2))


@program
def dicts_of_super(compile):
    """`super().__dict__` is that of the instance, and no class's attribute access sees that it is asked for."""
    class Base:
        pass

    class Scaled(Base):
        def __init__(self):
            self.scale = 2.0

        def named(self):
            return super().__dict__["scale"]

        def of_a_class(self):
            return super(Scaled, self).__dict__.get("scale")

        def total(self):
            return sum(value for _, value in super().__dict__.items())
    scaled = Scaled()
    for ask in (Scaled.named, Scaled.of_a_class, Scaled.total):
        f = compile(lambda x: x * ask(scaled))
        for scale in (2.0, 2.0, 5.0, 7.0):
            scaled.scale = scale
            yield f(tensor(3))
