"""Globals and cells that are written."""
import torch

from .harness import case, module


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
