"""Numbers and sizes in state."""
import collections

import torch

from .harness import Box, case, module


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


@case(programs=2, calls=4)
def cache_that_grows(compile):
    box = Box(k=torch.zeros(0, 3))

    def f(x):
        box.k = torch.cat([box.k, x])
        return box.k.sum(0)
    return compile(f), lambda: box
