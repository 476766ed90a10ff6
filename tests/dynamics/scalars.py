"""Numbers of NumPy's that change between the calls: arguments, and what its functions give of other numbers."""
import copy
import math
import pickle
import random

import numpy
import torch
from torch import nn

from .harness import backward, outcome, program, tensor, whole

X = tensor(6) / 2
VALUES = (2.0, 2.0, 3.0, -0.5, 0.0, -0.0, math.inf, math.nan, 1e-45, 1e300, 2.0)
KINDS = (numpy.float64, numpy.float32, numpy.int64, numpy.int32)


def given(compile, function, *kinds, values=(2.0, 3.0, 4.0, -1.0)):
    """What a function of a tensor and a number gives, call after call."""
    for kind in kinds or (numpy.float64,):
        f = compile(function)
        for value in values:
            yield outcome(f, X, kind(value))


@program
def in_arithmetic_with_tensors(compile):
    yield from given(compile, lambda x, r: (x * r, r + x, x - r, r - x, x / (r + 5), x.add(1, alpha=r), x > r, x ** 2 * r), *KINDS)
    yield from given(compile, lambda x, r: (x * r, r * x, x.clamp(max=r), torch.full((2,), r)), values=VALUES)


@program
def made_into_tensors(compile):
    def f(x, r):
        return (torch.tensor(r), torch.as_tensor(r), torch.tensor([r, r]), torch.tensor(r, dtype=torch.float32), torch.tensor([r, 1.0]),
                x.new_tensor(r), torch.asarray(r))
    yield from given(compile, f, *KINDS)


@program
def as_places_and_lengths(compile):
    data = tensor(20, 3)

    def f(x, n):
        return data[n], data[:n] * 2, data.narrow(0, 0, n), torch.arange(n), data.select(0, n), data.roll(n, 0)
    yield from given(compile, f, numpy.int64, numpy.int32, values=(2, 3, 5, 4, 7, 1, 0))


@program
def converted(compile):
    yield from given(compile, lambda x, r: (x * float(r), float(r), int(r), x * int(r), r.item(), x * r.item(), bool(r)), *KINDS)


@program
def computed_with(compile):
    def f(x, r):
        s = r * 2 + 1 - r / 4
        return x * s, s, r * r, 3 - r, 1 / (r + 9), r > 2, r == 3.0, r <= s, -r, abs(r), r ** 2, r // 2, r % 2, x if r > 2 else -x
    yield from given(compile, f, *KINDS)
    yield from given(compile, lambda x, r: (r / 2, r * 0.5 + 1, r < 1, r != 2), values=VALUES)
    yield from given(compile, lambda x, r: (x * (1 / r), x * (r / 0.0)), values=(2.0, 3.0, 0.0, 4.0))


@program
def asked_for_what_they_are(compile):
    def f(x, r):
        kind = isinstance(r, float), isinstance(r, numpy.floating), isinstance(r, int), type(r) is float, type(r).__name__
        return x * r, kind, r.dtype, r.shape, r.astype(numpy.float32), f"{r:.2f}", str(r), repr(r), hash(r), {r: 1}, r in (2, 3.0)
    yield from given(compile, f, *KINDS)


@program
def copied_and_kept(compile):
    state = {}

    def f(x, r):
        state["last"], state["all"] = r, [*state.get("all", ()), r]
        return x * r, copy.copy(r), copy.deepcopy(r), pickle.loads(pickle.dumps(r)), [r, {"r": r}]
    f = compile(f)
    for k in range(4):
        yield f(X, numpy.float64(k)), dict(state)


@program
def others_in_their_place(compile):
    f = compile(lambda x, r: x * r)
    for r in (numpy.float64(2), numpy.float64(3), 2.0, 3.0, numpy.float32(3), numpy.float32(4), numpy.int64(2), 3, numpy.bool_(True),
              numpy.float16(0.5), numpy.float64(4), torch.tensor(2.0)):
        yield f(X, r)


@program
def functions_of_drawn_numbers(compile):
    @compile
    def f(x):
        share = random.random()
        root = numpy.sqrt(1 - share)
        return x * root, root, numpy.exp(share), int(20 * root), numpy.clip(share, 0.2, 0.6), numpy.maximum(share, 0.5) * x, \
            numpy.floor(7 * share), x * numpy.log(numpy.cos(root) + 1)
    for seed in range(6):
        random.seed(seed)
        yield f(X)


@program
def functions_of_clipped_places(compile):
    @compile
    def f(x):
        k, n = numpy.random.randint(9), x.shape[0]
        start, end = numpy.clip(k - 2, 0, n), numpy.clip(k + 2, 0, n)
        return start, end, x * (end - start) / n
    for seed in range(6):
        numpy.random.seed(seed)
        yield f(X)


@program
def functions_of_lists(compile):
    @compile
    def f(x):
        losses = []
        for k in range(3):
            losses.append((x * (k + 1)).sum().item())
        return (numpy.mean(losses), numpy.sum(losses), numpy.max(losses), numpy.min(losses), numpy.std(losses), numpy.median(losses),
                numpy.mean(losses).item(), x * numpy.mean([1.0, losses[0]]), numpy.mean(losses, axis=0), numpy.array(losses).sum())
    for k in range(5):
        yield f(X + k)


@program
def functions_of_lists_alone(compile):
    @compile
    def f(x):
        losses = [(x + k).sum().item() for k in range(4)]
        return x * 2, numpy.mean(losses), numpy.mean([n > 0 for n in losses])
    for k in range(-4, 4):
        yield f(X + k)


@program(exact=False)
def mean_of_losses(compile):
    net = whole(nn.Linear(6, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    @compile
    def epoch(batches):
        losses = []
        for x in batches:
            loss = net(x).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return {"loss": np_mean(losses), "last": losses[-1]}
    for k in range(6):
        yield epoch([tensor(2, 6) + k + n for n in range(3)]), net.weight


np_mean = numpy.mean


@program
def functions_that_have_no_stand_ins(compile):
    @compile
    def f(x):
        share = random.random()
        return x * numpy.float32(share), numpy.round(share, 2), numpy.sqrt([share, 1.0]), numpy.linspace(0, share, 3), \
            numpy.prod([share, 2.0]), numpy.average([share]), numpy.add.reduce([share, 1])
    for seed in range(3):
        random.seed(seed)
        yield f(X)


@program(exact=False)
def left_in_state_beside_sizes_that_change(compile):
    """The number there is NumPy's after every call, also after one that is recorded again for all sizes."""
    kept = {"n": 0, "scale": 0.0}

    @compile
    def f(x):
        if (x > 1).any():
            kept["n"] += 1
        kept["scale"] = numpy.tanh(x.mean().item())
        return x * 2
    for n in (4, 3, 5, 2, 6):
        yield f(tensor(n, 3)), dict(kept)


@program(exact=False)
def tensors_made_of_numbers_in_tensors(compile):
    @compile
    def f(x, i):
        total, whole = x.sum(), i.sum()
        return (torch.tensor([total, total * 2]), torch.tensor([total, total.double()]), torch.tensor((whole, total)),
                torch.tensor([whole, 1]), torch.tensor([(x > 0).any()]), torch.tensor([total, 1.5], dtype=torch.bfloat16),
                torch.as_tensor([total, 2]), torch.tensor([i[0].int(), i[1]]), torch.tensor([x[0].half(), x[1].bfloat16()]),
                torch.tensor([total.item(), whole]))

    @compile
    def g(x, returns):
        """As the losses of an actor and its critic are added up."""
        goals, losses = torch.tensor(returns), []
        for goal, value in zip(goals, x):
            losses.append(torch.nn.functional.smooth_l1_loss(value.view(1), torch.tensor([goal])))
        return torch.stack(losses).sum()
    for n in range(4):
        w = (tensor(3) + n).requires_grad_()
        yield f(tensor(4) - n, torch.arange(3) * n), backward(g(w, [1.0, 2.0 * n, 3.0])), w
