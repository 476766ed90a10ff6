"""Arrays of NumPy's as arguments, and as results: what stands in for them in a recording, and all that may be done with them."""
import copy
import pickle
from collections import deque, namedtuple
from dataclasses import dataclass
from datetime import timedelta

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .harness import backward, calls, leaf, outcome, program, tensor, whole


def array(*shape, k=0, dtype=numpy.float64):
    """Small whole numbers, other ones for each k."""
    return ((numpy.arange(numpy.prod(shape, dtype=int)) * 5 + 3 + k) % 7 - 3).reshape(shape).astype(dtype)


def called_with(compile, function, *shape, dtype=numpy.float32, times=4):
    """What a function of an array gives, call after call, and the array."""
    f = compile(function)
    for k in range(times):
        a = array(*shape, k=k, dtype=dtype)
        yield outcome(f, a), a


# Arguments

@program
def shared_memory(compile):
    yield from called_with(compile, lambda a: torch.from_numpy(a) * 2 + 1, 3, 4)


@program
def one_array_that_changes(compile):
    f, a = compile(lambda a: torch.from_numpy(a).float().sum(0)), array(3, 4)
    for k in range(4):
        a[k % 3] += k
        yield f(a)


@program
def copies(compile):
    def f(a):
        t = torch.tensor(a)
        t += 1
        return t, torch.tensor(a, dtype=torch.float64), torch.as_tensor(a), torch.asarray(a) + 1, torch.tensor(data=a)
    for dtype in (numpy.float32, numpy.float64, numpy.int64, numpy.int32, numpy.uint8, numpy.bool_, numpy.float16):
        yield from called_with(compile, f, 2, 3, dtype=dtype, times=3)


@program
def copies_that_require_grad(compile):
    net = whole(nn.Linear(4, 2))

    def f(a):
        x = torch.tensor(a, requires_grad=True)
        loss = net(x).sum()
        loss.backward()
        return x.grad, x
    for result in called_with(compile, f, 3, 4):
        yield result, net.weight.grad


@program
def dtypes_converted(compile):
    yield from called_with(compile, lambda a: (torch.as_tensor(a, dtype=torch.float32), torch.as_tensor(a, dtype=torch.float64),
                                               torch.asarray(a, dtype=torch.int64), torch.from_numpy(a).to(torch.bfloat16)), 3, 4)


@program
def other_constructors(compile):
    yield from called_with(compile, lambda a: (torch.FloatTensor(a) + 1, torch.Tensor(a) * 2, torch.LongTensor(a.astype(int))), 5,
                           dtype=numpy.float64)


@program
def writes_reach_the_array(compile):
    @compile
    def f(a, x):
        t = torch.from_numpy(a)
        t.mul_(2)
        t[0] = x.sum()
        return t + 1
    for k in range(4):
        a = array(3, 4, k=k)
        yield f(a, tensor(3)), a


@program
def results_that_share_memory(compile):
    yield from called_with(compile, lambda a: (torch.from_numpy(a), torch.from_numpy(a)[1:], torch.as_tensor(a).t()), 3, 4)


@program
def the_same_array_twice_and_arrays_that_overlap(compile):
    def f(a, b):
        torch.from_numpy(a).add_(1)
        return torch.from_numpy(b) * 2
    twice, apart = compile(f), compile(f)
    for k in range(7):
        a, b = array(3, 4, k=k), array(4, 4, k=k)
        yield twice(a, a if k % 2 else array(3, 4)), a
        yield apart(b[:3], (b[1:], array(3, 4), b[:3])[k % 3]), b


@program
def arrays_that_overlap_tensors(compile):
    @compile
    def f(x, a):
        x.add_(1)
        return torch.from_numpy(a) * 2
    for k in range(7):
        x = tensor(4, 4).double()
        a = x.numpy()
        yield f(x, (a[1:], array(3, 4), a)[k % 3]), x


@program
def in_lists_and_dicts(compile):
    @compile
    def f(batch, more):
        return [torch.from_numpy(a) + 1 for a in batch], torch.stack([torch.as_tensor(a) for a in more["x"]])
    for k in range(4):
        batch, more = [array(3, k=k), array(2, k=k)], {"x": (array(2, 2, k=k), array(2, 2))}
        yield f(batch, more), batch, more


@program
def stacked_by_numpy(compile):
    @compile
    def f(rows):
        return (torch.tensor(numpy.array(rows)), torch.from_numpy(numpy.stack(rows)), torch.from_numpy(numpy.concatenate(rows)),
                torch.as_tensor(numpy.stack(rows, axis=1)), torch.tensor(numpy.asarray(rows, dtype=numpy.float32)),
                torch.tensor(numpy.array(rows, dtype=numpy.float32)).float())
    for k in range(4):
        yield f([array(3, k=k), array(3, k=k + 1)])
    yield f([array(3), array(3)][:1])
    yield outcome(f, [array(3), array(2)])


@program
def of_tuples_of_steps(compile):
    step = namedtuple("step", "state reward done")
    net = whole(nn.Linear(4, 2))

    @compile
    def loss(steps):
        states = torch.tensor(numpy.array([s.state for s in steps]), dtype=torch.float32)
        rewards = torch.tensor([s.reward for s in steps])
        return (net(states).sum(1) * rewards).sum()
    for k in range(4):
        found = loss([step(array(4, k=k + n), float(k + n), False) for n in range(3)])
        yield found, backward(found), net.weight.grad


@program(exact=False)
def an_agent(compile):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(net.parameters())
    memory = deque(maxlen=8)

    @compile
    def act(state):
        with torch.no_grad():
            values = net(torch.from_numpy(state).float().unsqueeze(0))
        return values.argmax(1).item()

    @compile
    def learn(states, actions, targets):
        states, actions = torch.as_tensor(states, dtype=torch.float32), torch.as_tensor(actions)
        loss = F.smooth_l1_loss(net(states).gather(1, actions[:, None]).squeeze(1), torch.tensor(targets, dtype=torch.float32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    for k in range(8):
        state = array(4, k=k) / 3
        memory.append((state, act(state), float(k % 3)))
        states, actions, targets = map(numpy.array, zip(*memory))
        yield learn(states, actions, targets), dict(net.named_parameters())


@program
def sizes_that_change(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(lambda a: net(torch.from_numpy(a).float()).sum() / len(a) + a.shape[0])
    for n in (3, 5, 4, 7, 1, 2, 0, 6):
        yield f(array(n, 4))


@program
def sizes_read(compile):
    @compile
    def f(a):
        rows, columns = a.shape
        y = torch.ones(rows) * a.size + a.ndim + len(a)
        return y, torch.from_numpy(a).reshape(columns, rows), a.dtype == numpy.float64, a.shape
    for n in (3, 5, 4, 6, 1, 0):
        yield f(array(n, 4))


@program
def arrays_reshaped(compile):
    def f(a):
        return [torch.from_numpy(b) + 1 for b in (
            a.T, a[None], a[..., None], a[1:], a[:, 0], a[1], a[::2], a[-1, None], a.reshape(-1), a.reshape(2, -1),
            a.transpose(1, 0), a[0].squeeze(), a[:1].squeeze(0), a.ravel(), a.flatten(), a.copy(),
            numpy.expand_dims(a, 0), numpy.transpose(a), numpy.reshape(a, (6, 2)), numpy.squeeze(a[None]))]
    yield from called_with(compile, f, 3, 4)
    yield from called_with(compile, lambda a: torch.from_numpy(a.swapaxes(0, 1)), 3, 4)
    yield from called_with(compile, lambda a: [torch.from_numpy(b) for b in (a[:, :1], a.reshape(3, 4), a.T)], 3, 4)


@program
def parts_that_share_memory(compile):
    def f(a):
        torch.from_numpy(a[1]).add_(1)
        torch.from_numpy(a.reshape(-1))[:2] = 7
        torch.from_numpy(a.copy()).zero_()
        return torch.from_numpy(a.T)
    yield from called_with(compile, f, 3, 4)


@program
def dtypes_of_arrays(compile):
    def f(a):
        return [torch.from_numpy(a.astype(to)) for to in (numpy.float32, "float64", float, numpy.float16, a.dtype)]
    for dtype in (numpy.float32, numpy.float64, numpy.int64, numpy.uint8, numpy.bool_):
        yield from called_with(compile, f, 3, 4, dtype=dtype, times=3)


@program
def dtypes_of_arrays_to_whole_numbers(compile):
    yield from called_with(compile, lambda a: torch.from_numpy((a / 2).astype(numpy.int64)), 3, 4)


@program
def copies_of_transposes(compile):
    def f(a):
        torch.from_numpy(a.T.reshape(-1)).zero_()
        return torch.from_numpy(a.T.copy()), torch.from_numpy(a.T.astype(numpy.float64))
    yield from called_with(compile, f, 3, 4)


@program
def images(compile):
    def f(a):
        return (torch.from_numpy(a).permute(2, 0, 1).float() / 255, torch.from_numpy(a.astype(numpy.float32) / 255.0),
                torch.from_numpy(a.transpose(2, 0, 1)).float(), torch.tensor(a / 255).float())
    yield from called_with(compile, f, 4, 5, 3, dtype=numpy.uint8)


@program
def arithmetic(compile):
    def f(a, b):
        return [torch.from_numpy(c) for c in (a * 2, a + 0.1, 3 - a, a - 1, a / 3, 0.1 * a, a * b, a - b, a / (b + 4), a + b * 2)]
    for dtype in (numpy.float32, numpy.float64):
        g = compile(f)
        for k in range(3):
            yield g(array(3, 4, k=k, dtype=dtype) / dtype(3), array(3, 4, k=k + 1, dtype=dtype))


@program
def arithmetic_of_whole_numbers(compile):
    for dtype in (numpy.int64, numpy.int32, numpy.uint8):
        yield from called_with(compile, lambda a: [torch.from_numpy(b) for b in (a / 3, a * 0.5, 2.5 - a)], 3, 4, dtype=dtype)
    for dtype in (numpy.int64, numpy.uint8, numpy.float16, numpy.bool_):
        yield from called_with(compile, lambda a: [torch.from_numpy(b) for b in (a + 1, a * 2)], 3, 4, dtype=dtype)


@program
def arrays_of_no_dimensions(compile):
    def f(a):
        return torch.from_numpy(a), torch.tensor(a) + 1, torch.as_tensor(a.astype(numpy.float32)), a.ndim, a.copy()
    yield from called_with(compile, f)
    yield from called_with(compile, lambda a: (torch.as_tensor(a * 2), torch.as_tensor(a + a), a / 3))
    yield from called_with(compile, lambda a: len(a))


@program
def options_of_functions(compile):
    def of(function):
        return called_with(compile, lambda a: torch.from_numpy(function(a)) + 1, 3, 1)
    yield from of(lambda a: numpy.ravel(a, order="F"))
    yield from of(lambda a: numpy.squeeze(a, axis=1))
    yield from of(lambda a: numpy.stack([a, a], axis=-1))
    yield from of(lambda a: numpy.stack([a, a], dtype="float64"))
    yield from of(lambda a: numpy.concatenate([a, a], axis=None))
    yield from of(lambda a: numpy.transpose(a, (1, 0)))
    yield from of(lambda a: numpy.reshape(a, (1, 3), order="F"))
    yield from of(lambda a: a.flatten(order="F"))
    yield from of(lambda a: numpy.array(a, copy=True, ndmin=3))
    yield from of(lambda a: a + (1 << 30) + 1e200)


@program
def under_a_default_device(compile):
    f = compile(lambda a: (torch.tensor(a), torch.as_tensor(a), torch.from_numpy(a)))
    for k in range(3):
        with torch.device("meta"):
            there = f(array(3, k=k))
        yield there, f(array(3, k=k))


@program
def arithmetic_of_numpy(compile):
    def f(a):
        b = (a - a.mean()) / (a.std() + 1e-5)
        return torch.from_numpy(b), torch.from_numpy(numpy.clip(a, -1, 1)), torch.tensor(numpy.linalg.norm(a))
    yield from called_with(compile, f, 3, 4)


@program
def operators_of_numpy(compile):
    def of(function):
        return called_with(compile, lambda a: torch.as_tensor(function(a)), 3, 4)
    yield from of(lambda a: -a)
    yield from of(lambda a: 1 / (a + 4))
    yield from of(lambda a: a ** 2)
    yield from of(lambda a: a @ a.T)
    yield from of(lambda a: a > 0)
    yield from of(lambda a: a * numpy.float32(2))
    yield from of(lambda a: numpy.float64(2) * a)
    yield from of(lambda a: numpy.ones(4) + a)
    yield from of(lambda a: a + numpy.ones(4, "float32"))
    yield from of(lambda a: numpy.where(a > 0, a, 0))
    yield from of(lambda a: a[a > 0])
    yield from of(lambda a: numpy.exp(a))
    yield from of(lambda a: a.max(0))
    yield from of(lambda a: a[[0, 2]])
    yield from of(lambda a: a[::-1].copy())
    yield from of(lambda a: abs(a) // 2 % 2)


@program
def branches_on_elements(compile):
    def f(a):
        if a[0, 0] > 0:
            return torch.from_numpy(a) * 2
        return torch.from_numpy(a) - float(a.sum()) + int(a[1, 1])
    yield from called_with(compile, f, 3, 4, times=7)


@program
def written_to_by_numpy(compile):
    def f(a):
        t = torch.from_numpy(a) * 1
        a += 1
        a[0] = 5
        return t, torch.from_numpy(a)
    yield from called_with(compile, f, 3, 4)


@program
def reshaped_in_place(compile):
    def f(a):
        a.shape = 4, 3
        return torch.from_numpy(a) * 2
    yield from called_with(compile, f, 3, 4)


@program
def looped_over(compile):
    yield from called_with(compile, lambda a: [torch.from_numpy(row) * k for k, row in enumerate(a)], 3, 4)
    yield from called_with(compile, lambda a: torch.tensor([float(n) for n in a]), 3)
    yield from called_with(compile, lambda a: torch.tensor(a.tolist()), 3)


@program
def handed_to_functions_in_c(compile):
    def of(function, **options):
        return called_with(compile, lambda a: (torch.from_numpy(a) + 1, function(a)), 3, 4, **options)
    yield from of(lambda a: bytes(memoryview(a)))
    yield from of(lambda a: a.tobytes())
    yield from of(lambda a: torch.from_numpy(numpy.frombuffer(a, "float32").copy()))
    yield from of(lambda a: numpy.ascontiguousarray(a.T).sum())
    yield from of(lambda a: [float(n) for n in numpy.nditer(a)])
    yield from of(lambda a: torch.frombuffer(bytearray(a), dtype=torch.float32))
    yield from of(lambda a: numpy.dot(a, a.T))
    yield from of(lambda a: numpy.copyto(a, 1))


@program
def told_by_their_type(compile):
    def f(a):
        if type(a) is numpy.ndarray and isinstance(a, numpy.ndarray) and not torch.is_tensor(a):
            a = torch.from_numpy(a)
        return a * 2
    yield from called_with(compile, f, 3, 4)


@program
def arrays_or_tensors(compile):
    @compile
    def f(a):
        x = torch.from_numpy(a) if isinstance(a, numpy.ndarray) else torch.as_tensor(a)
        return x * 2
    for k in range(3):
        yield f(array(3, k=k)), f(tensor(3) + k), f([1.0, 2.0, k]), f(2.5)


@program
def arrays_that_torch_does_not_take(compile):
    f = compile(lambda a: torch.as_tensor(a) * 2)
    fixed = array(3)
    fixed.flags.writeable = False
    for a in (array(3), array(3)[::-1], array(3).astype(">f8"), array(3).astype(complex), array(3).astype(numpy.uint16),
              numpy.array(["a"]), numpy.array([None]), numpy.array(2.0), array(0, 3), fixed, numpy.ma.array([1.0]), array(3),
              numpy.zeros(3, "f4,i4")["f0"], numpy.float32(2)):
        for _ in range(2):
            yield outcome(f, a)


@program
def others_than_the_recorded_ones(compile):
    f = compile(lambda a: torch.from_numpy(a).sum(0) * 2)
    for a in (array(3, 4), array(3, 4), array(3, 4).T, array(3, 4, dtype=numpy.float32), array(6, 4)[::2], array(5), array(3, 4)):
        yield f(a)


@program
def kept_in_state(compile):
    class Agent:
        def __init__(self):
            self.last, self.seen, self.net = None, [], whole(nn.Linear(4, 2))

        def step(self, a):
            value = self.net(torch.from_numpy(a))
            self.last = a
            self.seen.append((a, value.argmax()))
            return value
    agent = Agent()
    step = compile(agent.step)
    for k in range(4):
        a = array(4, k=k, dtype=numpy.float32)
        yield step(a), agent, a


@program
def given_back(compile):
    def f(a, b):
        return a, torch.from_numpy(a) + 1, [b, {"a": a}], a[1:], a.astype(numpy.float64), a * 2
    g = compile(f)
    for k in range(4):
        a, b = array(3, 4, k=k, dtype=numpy.float32), array(2)
        yield g(a, b), a, b


@program
def an_array_as_it_is_and_copies_of_it(compile):
    yield from called_with(compile, lambda a: (a, torch.from_numpy(a) + 1, a[:2], a.copy(), a.T), 3, 4)


@program
def copied_and_pickled(compile):
    yield from called_with(compile, lambda a: (torch.from_numpy(a) + 1, copy.copy(a), copy.deepcopy(a)), 3)
    yield from called_with(compile, lambda a: (torch.from_numpy(a) + 1, pickle.loads(pickle.dumps(a))), 3)


@program
def printed(compile):
    def f(a):
        print(a, a.shape)
        return torch.from_numpy(a) + 1
    yield from called_with(compile, f, 3)


@program
def given_to_torch_as_they_are(compile):
    def of(function):
        return called_with(compile, lambda a: (torch.from_numpy(a) + 1, function(a)), 3)
    x = tensor(3)
    yield from of(lambda a: x + a)
    yield from of(lambda a: a + x)
    yield from of(lambda a: x * a - a / (x + 4))
    yield from of(lambda a: torch.sum(a))
    yield from of(lambda a: x.new_tensor(a))
    yield from of(lambda a: torch.stack([torch.tensor(b) for b in (a, a)]))
    yield from of(lambda a: torch.tensor([a, a]))


@program
def indices(compile):
    def f(x, i, m):
        y = x[i] * 2, x[m], x[:, i[:2]], x[i, 0]
        x[i] = 1.0
        x[m] += 1
        return y
    g = compile(f)
    for k in range(4):
        x, i = tensor(5, 5), (numpy.arange(3) + k) % 5
        yield outcome(g, x, i, (numpy.arange(5) + k) % 2 == 0), x


@program
def rows_of_a_table(compile):
    table = nn.Embedding(7, 3)
    with torch.no_grad():
        table.weight.copy_(tensor(7, 3))
    f = compile(lambda i: table(torch.from_numpy(i)).sum(0))
    for n in (3, 5, 4, 2):
        yield f(numpy.arange(n) % 7)
    yield outcome(f, numpy.array([1, 9]))


@program
def errors(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(lambda a: net(torch.from_numpy(a)))
    for shape in ((3, 4), (3, 4), (3, 5), (4,), ()):
        yield outcome(f, array(*shape, dtype=numpy.float32))
    yield outcome(f, array(3, 4)), outcome(f, None), outcome(f, tensor(3, 4))
    for k in (1, 7):
        yield outcome(compile(lambda a: torch.from_numpy(a[k]) + 1), array(3, 4))


@program
def in_a_custom_function(compile):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, a, more):
            ctx.a = a
            return x * torch.from_numpy(a) + torch.from_numpy(more[0])

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.from_numpy(ctx.a), None, None
    f = compile(lambda x, a: Scaled.apply(x, a, [a]) * 2)
    for k in range(4):
        x = leaf(3)
        y = f(x, array(3, k=k, dtype=numpy.float32))
        yield y, backward(y.sum()), x.grad


@program
def in_a_checkpoint(compile):
    net = whole(nn.Linear(3, 3))
    f = compile(lambda x, a: checkpoint(lambda y, b: net(y * torch.from_numpy(b)).relu(), x, a, use_reentrant=False))
    for k in range(4):
        x = leaf(3)
        yield backward(f(x, array(3, k=k, dtype=numpy.float32)).sum()), x.grad, net.weight.grad


@program
def for_a_compiled_function_inside(compile):
    inner = compile(lambda a: torch.from_numpy(a) * 2)
    f = compile(lambda a: inner(a) + 1)
    for k in range(4):
        a = array(3, k=k)
        yield f(a), inner(a)


@program
def left_in_iterators_and_closures(compile):
    state = {}

    @compile
    def f(a):
        state["each"], state["get"], state["kept"] = iter([a, a]), lambda: a, (a, [a])
        return torch.from_numpy(a) + 1
    for k in range(3):
        a = array(3, k=k)
        yield f(a), next(state["each"]), state["get"](), state["kept"], type(state["get"]()).__name__


@program
def shuffled(compile):
    def f(a):
        numpy.random.shuffle(a)
        return torch.from_numpy(a) * 2
    yield from called_with(compile, f, 6)
    yield from called_with(compile, f, 6, 2)


@program
def in_objects(compile):
    @dataclass
    class Batch:
        states: numpy.ndarray
        rewards: list

    f = compile(lambda batch: torch.from_numpy(batch.states).sum(0) * torch.tensor(batch.rewards).sum())
    for k in range(4):
        yield f(Batch(array(3, 4, k=k), [1.0, k]))


# Results

@program
def results_as_arrays(compile):
    net = whole(nn.Linear(4, 2))

    @compile
    def f(x):
        return net(x).detach().numpy()
    for k in range(4):
        yield f(tensor(3, 4) + k)


@program
def results_as_arrays_under_no_grad(compile):
    net = whole(nn.Linear(4, 2))

    @compile
    def f(x):
        with torch.no_grad():
            y = net(x)
            return y.cpu().numpy(), y.argmax(-1).numpy()
    for n in (3, 5, 4, 1, 6):
        yield f(tensor(n, 4))


@program
def results_in_containers(compile):
    @compile
    def f(x):
        probs = (x * 2).numpy()
        return {"probs": probs, "best": x.argmax().numpy(), "x": x, "all": [x.t().numpy(), 3]}
    for k in range(4):
        x = tensor(3, 4) + k
        yield f(x), x


@program
def results_that_share_memory_with_parameters(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(lambda: net.weight.detach().numpy())
    for k in range(4):
        found = f()
        yield found, net.weight
        found += 1
        yield net.weight


@program
def results_as_arrays_of_arrays(compile):
    net = whole(nn.Linear(4, 2))
    yield from called_with(compile, lambda a: net(torch.from_numpy(a)).detach().numpy(), 3, 4)
    yield from called_with(compile, lambda a: torch.from_numpy(a).numpy(), 3, 4)
    yield from called_with(compile, lambda a: torch.from_numpy(a).add_(1).numpy(), 3, 4)


@program
def results_that_need_force(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(lambda x: net(x).numpy(force=True))
    g = compile(lambda x: net(x).numpy())
    for k in range(3):
        yield f(tensor(3, 4) + k), outcome(g, tensor(3, 4))


@program
def results_computed_with(compile):
    @compile
    def helper(x):
        return (x * 2).numpy()

    @compile
    def f(x):
        a = (x * 2).numpy()
        return torch.from_numpy(a + 1), a.sum()
    for k in range(3):
        x = tensor(3, 4) + k
        yield helper(x).sum(), f(x), compile(lambda x: helper(x).max() + x)(x)


@program
def results_of_an_inner_function(compile):
    def inner(x):
        return (x * 2).numpy()

    @compile
    def f(x):
        return torch.from_numpy(inner(x).clip(0, 2))
    yield from calls(f, tensor(3, 4))
    yield f(tensor(3, 4) + 1)


@program
def results_of_modules(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = whole(nn.Linear(4, 2))

        @torch.no_grad()
        def forward(self, x):
            return self.body(x).numpy()
    net = compile(Net())
    for k in range(4):
        yield net(tensor(3, 4) + k)


@program
def results_written_to_afterwards(compile):
    @compile
    def f(x):
        y = x * 2
        a = y.numpy()
        y += 1
        return a
    for k in range(4):
        yield f(tensor(3) + k)


@program
def dtypes_of_results(compile):
    @compile
    def f(x):
        return x.mul(2).numpy()
    for dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.float16, torch.bfloat16,
                  torch.complex64):
        yield from (outcome(f, tensor(3, dtype=dtype)) for _ in range(3))
    yield outcome(f, leaf(3)), outcome(f, tensor(3))


@program(exact=False)
def the_best_action(compile):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    @compile
    def act(state):
        x = torch.from_numpy(state).float().unsqueeze(0)
        net.eval()
        with torch.no_grad():
            values = net(x)
        net.train()
        return numpy.argmax(values.cpu().data.numpy())

    @compile
    def best(state):
        with torch.no_grad():
            return net(torch.as_tensor(state, dtype=torch.float32)).numpy().argmax()
    for k in range(8):
        yield act(array(4, k=k) / 3), best(array(4, k=k) / 3)


@program
def places_of_the_largest(compile):
    def f(a):
        return numpy.argmax(a), a.argmax(), torch.from_numpy(a)[a.argmax()] * 2, numpy.argmax(a, axis=0)
    yield from called_with(compile, lambda a: (numpy.argmax(a), a.argmax(), torch.from_numpy(a).view(-1)[a.argmax()] * 2), 3, 4)
    yield from called_with(compile, f, 3)
    g = compile(lambda a: (numpy.argmax(a), torch.from_numpy(a).argmax()))
    for a in ([1.0, 3.0, 3.0], [numpy.nan, 1.0, 2.0], [1.0, numpy.nan, numpy.nan], [2.0, 2.0, 2.0], [-0.0, 0.0, -1.0]):
        yield g(numpy.array(a))
    yield outcome(g, numpy.zeros(0))


@program
def numbers_in_arrays(compile):
    yield from called_with(compile, lambda a: (a.item(), torch.from_numpy(a) * a.item()), 1)
    yield from called_with(compile, lambda a: (numpy.vstack([a, a]).shape, torch.from_numpy(numpy.vstack([a, a + 1]))), 3)
    yield from called_with(compile, lambda a: torch.from_numpy(numpy.hstack([a, a + 1])), 3, 2)


@program
def beside_code_that_takes_plain_numbers_alone(compile):
    @compile
    def f(x, a, seconds):
        return (x * timedelta(seconds=seconds).total_seconds()).numpy(), torch.from_numpy(a) * seconds, a
    for k in range(5):
        yield f(tensor(3) + k, array(3, k=k), k), f(tensor(3), array(3, k=k), 1.5)
