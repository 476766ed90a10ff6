"""State beside what happens outside: changes between the calls, effects, random numbers, errors."""
import os
import random

import torch
from torch import nn

from .harness import Box, case


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
