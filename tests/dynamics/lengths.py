"""Lengths: sizes that are numbers of each call's own."""
import random

import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, leaf, outcome, program, tensor, whole

DATA = tensor(40, 3)


# What is done with a length, which is an argument here, and found by the run in lengths_read.py

def sliced(n):
    return DATA[:n] * 2, DATA[n:] + 1, DATA[-n:] * 3, DATA[1:n + 3, :2] - 1, DATA[n:2 * n].sum(0), DATA[:n // 2] + n


def made_by(x, n):
    return (torch.arange(n) * 2, torch.zeros(n, 2) + x, torch.full((3, n), n), x.new_ones(n - 1), torch.eye(n),
            torch.randn(n), torch.arange(n, n + 3), torch.arange(n, 2 * n))


def shaped(x, n):
    y = x[:n]
    return (y.expand(2, n, 3) + 1, y.repeat(2, 1), y.reshape(n * 3), y.view(1, n, 3).transpose(1, 2) * 1,
            F.pad(x, (0, 0, n, 0)), x.narrow(0, 1, n), y.shape, y.shape[0] * 2, torch.cat([y, x]), y.unfold(0, 2, 1) + 1)


def parts(data, n):
    made = torch.zeros(n, 2)
    return data[:n], data[n:, 1], made, made[1:n], made.t()


def written(data, x, n):
    data[n] = x
    data[:n] += 1
    data[n:, 0] = n
    seen = data[:n + 1]
    seen.mul_(2)
    return seen.sum(0), data[n] * 1


def weighted(weight, x, n):
    return ((weight[:n] @ x) * torch.arange(n)[:, None]).sum(0) + weight[n]


@program
def slices(compile):
    f = compile(sliced)
    for n in (2, 3, 5, 20, 39, 40, 41, 1, 0, -1, -3, 100, 7):
        yield f(n)


@program
def made_tensors(compile):
    f = compile(made_by)
    for n in (2, 3, 5, 20, 1, 0, -1, 9):
        yield outcome(f, tensor(2), n)


@program
def shapes(compile):
    f = compile(shaped)
    for n in (2, 3, 5, 20, 38, 4):
        yield f(DATA, n)


@program
def that_are_returned(compile):
    data = tensor(40, 3)
    f = compile(lambda n: parts(data, n))
    for n in (2, 3, 5, 20):
        first, last, made, part, turned = f(n)
        first += 1
        part += 2
        yield first, last, made, part, turned, first.data_ptr() - data.data_ptr(), data


@program
def that_are_written(compile):
    data = tensor(40, 3)
    f = compile(lambda x, n: written(data, x, n))
    for n in (2, 3, 4, 5, 20, 38, 1, 0):
        yield f(tensor(3) + n, n), data


@program(exact=False)
def under_gradient(compile):
    weight = nn.Parameter(tensor(40, 3))
    f = compile(lambda x, n: weighted(weight, x, n))
    for n in (2, 3, 5, 20, 1):
        x = leaf(3, 3)
        yield backward(f(x, n)), x.grad, weight.grad


@program(exact=False)
def a_cache(compile):
    keys, values, weight = torch.zeros(2, 2, 16, 4), torch.zeros(2, 2, 16, 4), tensor(8, 24) / 8

    @compile
    def f(x, place):
        q, k, v = (x @ weight).view(2, 1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        keys[:, :, place], values[:, :, place] = k[:, :, 0], v[:, :, 0]
        k, v = keys[:, :, :place + 1], values[:, :, :place + 1]
        return torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
    for place in range(17):
        yield outcome(f, tensor(2, 1, 8) + place / 4, place), keys, values


@program(exact=False)
def attention_with_a_place(compile):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.project = 0, nn.Linear(8, 24)
            self.register_buffer("keys", torch.zeros(2, 2, 24, 4))
            self.register_buffer("values", torch.zeros(2, 2, 24, 4))

        def forward(self, x):
            n, place = x.shape[1], self.place
            q, k, v = self.project(x).view(2, n, 3, 2, 4).permute(2, 0, 3, 1, 4)
            self.keys[:, :, place:place + n], self.values[:, :, place:place + n] = k, v
            self.place += n
            mask = torch.full((n, place + n), float("-inf")).triu(place + 1)
            k, v = self.keys[:, :, :self.place], self.values[:, :, :self.place]
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(2, n, 8)
    module = whole(Attention(), 1 / 8)
    with torch.no_grad():
        f = compile(module)
        for n in (5, 1, 1, 1, 3, 1, 1, 2, 1):
            yield f(tensor(2, n, 8)), module.place, module.keys


@program
def a_counter_in_a_dict(compile):
    state = {"n": 0, "seen": torch.zeros(40, 3)}

    @compile
    def f(x):
        state["seen"][state["n"]] = x
        state["n"] += 1
        return state["seen"][:state["n"]].sum(0)
    for k in range(8):
        yield f(tensor(3) + k), state


@program
def that_decide(compile):
    @compile
    def f(x, n):
        y = x[:n] * 2
        if n > 6:
            return y + 1
        if y.sum() > 4:
            return y - n
        return torch.cat([y, torch.ones(n, 3)])
    for n in (2, 3, 4, 5, 6, 7, 9, 30, 2, 5):
        yield f(DATA, n), f(-DATA, n)


@program
def beside_sizes(compile):
    @compile
    def f(x, y, n):
        return x[:n] + y[:n], x.sum(0) * n, torch.zeros(n, x.shape[0]) + 1
    for size, n in ((4, 2), (5, 2), (6, 3), (6, 6), (8, 9), (5, 4), (5, 5)):
        yield outcome(f, tensor(size, 3), tensor(size + 1, 3), n)


@program
def that_are_no_lengths(compile):
    @compile
    def f(x, n):
        for _ in range(n):
            x = x * 2
        return x[:n]
    for n in (2, 3, 4, 2):
        yield f(DATA, n)


@program
def drawn(compile):
    @compile
    def f(x):
        n = random.randint(2, 9)
        return x[:n] * 2
    for _ in range(6):
        yield f(DATA)


@program
def of_other_kinds(compile):
    f = compile(lambda n: DATA[:n] * 2)
    for n in (2, 3, 4, True, torch.tensor(4), None, 1.0, 1 << 31, 1 << 40, 1 << 70, 5):
        yield outcome(f, n)


@program
def slices_given_back(compile):
    f = compile(lambda x, k: (x[k:] * 2, slice(k, x.shape[0]), [slice(None, -k, 2), slice(int(x.sum()), x.max())]))
    for k in (1, 1, 2, 3, 1, 4):
        yield f(tensor(5 + k), k)


@program
def of_numbers_alone_into_a_tensor(compile):
    f = compile(lambda x, k: torch.add(2, k, out=x) * 2)
    for k in (1, 1, 2, 3):
        x = torch.zeros(())
        yield f(x, k), x


@program(exact=False)
def a_length_that_nothing_needs_after_a_branch(compile):
    """And a call where it can be none: its path computes the same, of a number that may be 1."""
    w = leaf(6, 6)

    @compile
    def f(x, k):
        if x.max() > 1:
            x = x * 0.5
        x.roll(k, 0)
        return (x.var(0) + k) * (x.var(0) @ w), x.var(0) + k
    for k in (3, 2, 1, 1, 4, 1):
        yield backward(f(tensor(4, 6), k)[0]), w.grad
