"""Numbers made by float(...) and int(...), of tensors and of numbers that change."""
import math

import torch
from torch import nn
from torch.nn import functional as F

from .harness import leaf, outcome, program, tensor

Y = torch.tensor([0, 1, 2, 0])


class Accumulator:
    """Sums of several numbers, as Dive into Deep Learning has it."""

    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]

    def __getitem__(self, i):
        return self.data[i]


@program(exact=False)
def sums_of_an_epoch(compile):
    net, metric = nn.Linear(8, 3), Accumulator(3)

    def accuracy(out, y):
        return float((out.argmax(1).type(y.dtype) == y).type(y.dtype).sum())

    @compile
    def step(x, y):
        out = net(x)
        metric.add(float(F.cross_entropy(out, y)), accuracy(out, y), y.numel())
        return metric[0] / metric[2], metric[1] / metric[2]
    for k in range(8):
        yield step(tensor(4, 8) + k, torch.tensor([0, 1, 2, k % 3])), metric.data


@program
def numbers_made_tensors_of_whole_numbers(compile):
    f = compile(lambda x, n: (x + torch.tensor(5, dtype=torch.int64), torch.as_tensor(n, dtype=torch.int64) * x,
                              torch.tensor([n, 2], dtype=torch.int64)))
    for n in (3, 4, 5, 6):
        yield f(tensor(4), n)


@program
def totals(compile):
    total = [0.0, 0]

    @compile
    def f(x):
        total[0] += float(x.sum())
        total[1] += int(x.max())
        return x * 2
    for k in range(6):
        yield f(tensor(4) + k), list(total)


@program
def of_numbers_that_change(compile):
    f = compile(lambda x, k: (x * float(k), x * int(k), float(int(k)), int(float(k) * 1.5), int(2), float("1.5"), int("11", 2)))
    for k in (2.5, 2.5, 3.25, -0.5, 7, 8, -9, 1e300, math.inf, math.nan, "3", True):
        yield outcome(f, tensor(4), k)


@program
def as_sizes(compile):
    f = compile(lambda x, share: x[:int(len(x) * share)] * 2)
    for n, share in ((8, 0.5), (8, 0.5), (8, 0.25), (6, 0.5), (7, 0.5)):
        yield f(tensor(n), share)


@program
def of_tensors_of_all_kinds(compile):
    f = compile(lambda x: (float(x), int(x)))
    for x in (torch.tensor(1.5), torch.tensor(2.5), torch.tensor([3]), torch.tensor(True), torch.tensor(2.0).half(),
              leaf(1).sum(), torch.tensor(1 + 0j), torch.tensor([1, 2]), torch.tensor(math.nan),
              torch.tensor(4, dtype=torch.uint8)):
        yield outcome(f, x)


@program
def of_what_was_computed(compile):
    f = compile(lambda x: (float(x.sum()), int(x.sum()), float((x > 0).any()), int((x * 1.5).sum()), float((x + 0j).sum())))
    for k in range(4):
        yield outcome(f, tensor(4) + k)


class Amount:
    reads = 0

    def __init__(self, value):
        self.value = value

    def __float__(self):
        self.reads += 1
        return self.value


@program
def of_objects(compile):
    amount = Amount(2.0)
    f = compile(lambda x: x * float(amount))
    for k in range(5):
        yield f(tensor(4)), amount.reads
        amount.value += k > 1


@program
def names_used_otherwise_too(compile):
    @compile
    def f(x, k):
        kinds = {float: "float", int: "int"}
        return x.to(float) * float(k), isinstance(k, float), kinds[type(k)], list(map(float, [k, 1]))

    @compile
    def g(x, k):
        def of_kind(value):
            return isinstance(value, float)
        return x * float(k), of_kind(float(k)), of_kind(k)
    for k in (1.5, 2.5, 3, 4, 5.5):
        yield f(tensor(4), k), g(tensor(4), k)


def _checked(value):
    return isinstance(value, float) and not isinstance(value, int)


def _converted(value):
    return float(value) * 2


@program
def used_by_one_function_and_asked_about_by_another(compile):
    @compile
    def f(x, k):
        first = _converted(x.sum())
        return x * _converted(k), _checked(k), first, _checked(_converted(k)), _converted(x.max())
    for k in (1.5, 2.5, 3, 4, 5.5):
        yield f(tensor(4) + k, k)
        yield "float" in globals(), "int" in globals()


@program(exact=False)
def losses_that_decide(compile):
    net = nn.Linear(8, 3)
    best = {"loss": math.inf, "step": 0, "waited": 0}

    @compile
    def validate(x, step):
        with torch.no_grad():
            loss = float(F.cross_entropy(net(x), Y))
        if loss < best["loss"]:
            best["loss"], best["step"], best["waited"] = loss, step, 0
        else:
            best["waited"] += 1
        return best["waited"] >= 3
    for step, k in enumerate((3, 2, 1, 2, 3, 4, 5, 1, 1, 0)):
        yield validate(tensor(4, 8) * k, step), dict(best)


@program(exact=False)
def lengths_of_tensors(compile):
    class Batches(list):
        def __len__(self):
            return super().__len__() + 1

    @compile
    def f(x, more):
        return x.sum() / len(x), x * len(x.shape) + len(more), len(x), len(x) if len(x) > 4 else -len(x.t())
    for n in (2, 3, 4, 5, 6, 1, 0, 7):
        yield f(tensor(n, 3), Batches([1, 2]))
    yield outcome(f, torch.tensor(1.0), []), outcome(f, tensor(3), 1)


def _told(value, kind):
    if not isinstance(value, kind):
        raise ValueError(f"is {type(value).__name__}")
    return int(value) + len([value])


def _rounded(value, function):
    return math.floor(value) + (2 if function is FLOOR else 1)


FLOOR = math.floor


def _of_kind(value, kind):
    if isinstance(kind, type):
        return _told(value, kind)
    return 2 if kind is int else len(kind)


@program
def types_that_other_code_calls(compile):
    """Of two functions of a module one calls `type` or `int`, the other hands them on: in turns, and one within the other."""
    @compile
    def f(x, k):
        total = 0
        for value in (2, 3, k):
            total += _of_kind(value, int) + _of_kind(value, (int, float)) + (3 if _told(value, int) is int else 1)
            total += _rounded(value, FLOOR) + (2 if FLOOR is math.floor else 1)
            total += list(map(len, [[1, 2]]))[0] + len([value])
        return x * total, type(x) is type(x * 2), isinstance(type, type)
    for k in (1, 2, 3, 4, 1):
        yield f(tensor(3), k)
