"""Windows: rows and slices at places that are numbers of each call's own."""
import math
import random

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor

DATA = tensor(40, 3)


@program
def rows_and_slices(compile):
    f = compile(lambda i: (DATA[i:i + 5] * 2, DATA[i] + 1, DATA[i, 1:] * 3, DATA[..., None, i:i + 2] - 1 if i < 2 else i))
    for i in (0, 1, 2, 7, 20, 35, 1):
        yield f(i)


@program
def at_the_ends(compile):
    f = compile(lambda i: DATA[i:i + 5] * 2)
    for i in (0, 3, 35, 36, 39, 40, 50, -1, -3, -50, 2):
        yield f(i)


@program
def rows_that_are_none(compile):
    f = compile(lambda i, x: (DATA[i] * 2, x.narrow(0, i, 2) + 1))
    for i in (0, 3, 35, 40, -1, -40, -41, 38, 39, 2):
        yield outcome(f, i, DATA)


@program
def that_grow(compile):
    f = compile(lambda i, j: DATA[i:j].sum(0))
    for i, j in ((0, 5), (1, 6), (2, 7), (2, 8), (3, 9), (5, 5), (9, 4), (4, 10)):
        yield f(i, j)


@program
def in_steps(compile):
    f = compile(lambda i: DATA[i:i + 9:3] * 2)
    for i in (0, 1, 2, 7, 20):
        yield f(i)


@program
def that_are_returned(compile):
    data = tensor(40, 3)
    f = compile(lambda i: (data[i:i + 5], data[i]))
    for i in (0, 1, 2, 7):
        window, row = f(i)
        row += 1
        yield window, row, window.data_ptr() - data.data_ptr(), data


@program
def of_what_the_run_made(compile):
    f = compile(lambda x, i: ((y := x * 2)[i:i + 2], y[i], y))
    for i in (0, 1, 2, 1):
        window, row, y = f(tensor(5, 3), i)
        row += 1
        yield window, row, y


@program
def that_are_written(compile):
    data = tensor(40, 3)

    @compile
    def f(x, i):
        data[i] = x
        data[i + 2:i + 5] += 1
        window = data[i + 1:i + 4]
        window.mul_(2)
        data[:, 1] = i
        data[i, 2] = 0.5
        return window * 1, data.sum(0)
    for i in (0, 1, 2, 7, 35, 4):
        yield f(tensor(3) + i, i), data


@program
def written_while_others_are_read(compile):
    data = tensor(40, 3)

    @compile
    def f(i, j):
        data[i:i + 3] += data[j:j + 3]
        return data * 2
    for i, j in ((0, 9), (1, 9), (2, 9), (7, 8), (9, 9), (3, 20)):
        yield outcome(f, i, j), data


@program
def made_before_a_write(compile):
    @compile
    def f(x, i):
        y = x * 1
        window = y[i:i + 2]
        y.add_(1)
        y[i + 1] = 7
        return window * 2
    for i in (0, 1, 2, 1):
        yield f(tensor(5, 3), i)


@program(exact=False)
def of_a_parameter(compile):
    table = nn.Parameter(tensor(10, 4))

    @compile
    def f(x, t):
        y = x * table[t] + table[t:t + 2].sum()
        return y.sum()
    for t in (0, 1, 2, 5, 8):
        yield backward(f(leaf(3, 4), t)), table.grad


@program(exact=False)
def schedules_of_diffusion(compile):
    net, betas = nn.Linear(3, 3), torch.linspace(0.1, 0.9, 20)
    bars = torch.cumprod(1 - betas, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @compile
    def step(x, t):
        noise = torch.randn_like(x)
        noisy = bars[t].sqrt() * x + (1 - bars[t]).sqrt() * noise
        loss = F.mse_loss(net(noisy), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss
    for n, t in ((4, 3), (4, 5), (4, 9), (5, 11), (6, 0), (7, 19)):
        yield step(tensor(n, 3), t), list(net.parameters())


@program
def batches_drawn_by_torch(compile):
    text = torch.arange(90)

    @compile
    def batch():
        places = torch.randint(80, (3,))
        x = torch.stack([text[i:i + 8] for i in places])
        y = torch.stack([text[i + 1:i + 9] for i in places])
        return x, y
    yield from calls(batch, times=8)


@program
def drawn_by_python(compile):
    @compile
    def f(x):
        top = random.randint(0, 4)
        left = random.randrange(4)
        return x[..., top:top + 4, left:left + 4].flip(-1) * 2
    yield from calls(f, tensor(2, 8, 8), times=8)


@program
def places_in_state(compile):
    class Loader:
        place = 0

        def next(self):
            batch = DATA[self.place:self.place + 4] * 1
            self.place = (self.place + 4) % 36
            return batch
    loader = Loader()
    loader.place = 0
    f = compile(loader.next)
    for _ in range(12):
        yield f(), loader.place


@program
def a_cache_with_a_place(compile):
    cache, weight = torch.zeros(2, 8, 3), tensor(3, 3)

    @compile
    def f(x, place):
        cache[:, place:place + 1] = x @ weight
        seen = torch.arange(8) <= place
        return (cache * seen[None, :, None]).sum(1)
    for place in range(8):
        yield f(tensor(2, 1, 3) + place, place), cache


@program
def of_whole_numbers_and_of_complex_ones(compile):
    whole, complex_ = torch.arange(12).reshape(6, 2), torch.complex(tensor(6, 2), tensor(6, 2) + 1)
    f = compile(lambda i: (whole[i:i + 2] + 1, complex_[i:i + 2] * 2, (whole > 5)[i] * 1, complex_[i].real * 2))
    for i in (0, 1, 2, 3):
        yield f(i)


@program
def places_of_other_kinds(compile):
    f = compile(lambda i: DATA[i] * 2)
    for i in (1, 2, 3, True, torch.tensor(4), torch.tensor([5]), 1.0, slice(1, 3), [1, 2], None, 4):
        yield outcome(f, i)


@program(exact=False)
def positions_added(compile):
    positions = torch.stack([torch.arange(16) / (k + 1) for k in range(4)], 1)

    @compile
    def f(x, start):
        return x + positions[start:start + x.shape[1]] + math.sqrt(start)
    for n, start in ((2, 0), (2, 1), (2, 2), (3, 3), (4, 4), (5, 11)):
        yield f(tensor(n, 4, 4), start)


@program
def windows_of_other_lengths(compile):
    @compile
    def f(data, i, n):
        return data[i * n:(i + 1) * n] * 2, data[i * n:(i + 1) * n], data[:, i], data[2 * n:3 * n].sum(0), data[n - i:n] + i
    for width in (3, 5):
        for i, n in ((0, 3), (1, 4), (2, 5), (2, 4), (3, 2), (1, 7), (2, 1), (5, 4), (2, 7)):
            x = leaf(20, width)
            found = outcome(f, x, i, n)
            if isinstance(found, tuple):
                backward(found[0])
            yield found, x


@program
def windows_of_other_lengths_are_written(compile):
    @compile
    def f(data, i, n):
        data[i * n:(i + 1) * n] += 1
        return data.sum(0)
    data = tensor(20, 3)
    for i, n in ((0, 3), (1, 4), (2, 5), (2, 4), (3, 2), (1, 7), (5, 4), (2, 7)):
        yield f(data, i, n), data


@program
def slices_with_less_said(compile):
    aten = torch.ops.aten
    f = compile(lambda i: (aten.slice(DATA) * 2, aten.slice(DATA, 1) + 1, aten.slice(DATA, 0, i) - 1, aten.slice(DATA, start=i)))
    for i in (0, 1, 2, 38):
        yield f(i)


@program
def written_in_a_layout_of_their_own(compile):
    """Into a tensor that lies the other way round, and was computed anew since."""
    @compile
    def f(a, b, k):
        y = a + b
        y.sub_(a, alpha=0.5)
        y[k % 2].neg_()
        y[:, k % 3] += 1
        return y[:, :3], y
    for k in (3, 5, 4, 2, 6, 1):
        yield f(tensor(6, 4).t(), tensor(4, 6), k)


@program
def written_before_a_number_is_read(compile):
    """Into a view that lies the other way round, which what comes after goes on with."""
    @compile
    def f(x, k):
        y = x.t()
        total = (x > 0).sum()
        scaled = y * 2
        y[k % 2].neg_()
        return scaled * numpy.mean([total.sum().item(), total.max().item()]), y.t()
    for k in (3, 1, 2, 5, 4, 7):
        x = tensor(4, 6) + k / 4
        yield f(x, k), x


@program
def places_that_tensors_hold(compile):
    """Read by the program itself: at rows and elements, from either end, in place, and of gradients."""
    table = leaf(5, 3)

    @compile
    def f(x, i, j):
        row, last = x[i] * 2, x[j - 5]
        x[j] = row
        x[i, -1] += 1
        return row + last, x[i, j % 3], x[i][None] * 1, (table[i] * table[j, 0]).sum()
    for k in range(7):
        x, i, j = tensor(5, 3) + k, torch.tensor(k % 5), torch.tensor((3 * k + 1) % 5)
        found = f(x, i, j)
        yield found, x, backward(found[3]), table.grad


@program
def places_of_the_largest(compile):
    @compile
    def f(x, scores):
        best = scores.argmax().item()
        i = scores.argmin()
        return x[best] * 2, x[i, best % 3] + 1, scores[best] - scores[i]
    for k in range(6):
        yield f(tensor(5, 3), tensor(5).float().roll(k) * (-1) ** k)


@program
def places_that_python_looks_at_as_well(compile):
    @compile
    def f(x, scores):
        best = scores.argmax().item()
        y = x[best] * 2
        if best > 2:
            y = y + best
        return y, best, [10, 20, 30, 40, 50][best], x[:best + 1].sum()
    for k in range(8):
        yield f(tensor(5, 3), tensor(5).float().roll(k))


@program
def places_that_there_are_not(compile):
    f = compile(lambda x, i: x[i] * 2)
    for i in (1, 2, 4, 5, -5, -6, 3, 1 << 40):
        yield outcome(f, tensor(5, 3), torch.tensor(i))
    for i in (torch.tensor(True), torch.tensor(1, dtype=torch.uint8), torch.tensor(1.0), torch.tensor([1]), torch.tensor(2)):
        yield outcome(f, tensor(5, 3), i)


@program
def rows_given_back_at_places_that_tensors_hold(compile):
    @compile
    def f(x, i):
        y = x * 2
        return x[i], y, y[i], x[i].detach()
    for k in (1, 2, 1, 4, -1, 2):
        x = leaf(5, 3)
        yield f(x, torch.tensor(k)), x


@program(exact=False)
def scores_of_tags(compile):
    """A sum along a way through a table that the data tells, with its gradient."""
    ways = nn.Parameter(tensor(4, 4) * 0.5)

    @compile
    def loss(scores, tags):
        total, at = torch.zeros(1), torch.tensor([3])
        tags = torch.cat([at, tags])
        for k, row in enumerate(scores):
            total = total + ways[tags[k + 1], tags[k]] + row[tags[k + 1]]
        return total - torch.logsumexp(scores.sum(0), 0)
    for k in range(5):
        ways.grad = None
        yield backward(loss(tensor(3, 4).float() + k, (torch.arange(3) * 2 + k) % 4).sum()), ways.grad


@program
def in_sizes_that_change(compile):
    """Rows and crops at places that are found, of tensors whose sizes are symbols."""
    @compile
    def f(x, i):
        j = torch.randint(0, x.shape[1] - 2, (1,)).item()
        k = (x[:, 0] * 0 + i).argmax()
        y = x.clone()
        y[i] = 0
        return x[i] * 2, x[-i] + 1, x[:, j:j + 2] * 3, x[k] - 1, x[i + 1], y

    @compile
    def g(x, ts, v):
        return x * ts[v.argmax()], ts[v.argmin() - 1]
    torch.manual_seed(0)
    for n, i in ((9, 1), (9, 2), (10, 3), (11, 5), (12, 0), (8, 7), (9, 4), (9, -3), (10, 20), (7, 2)):
        yield outcome(f, tensor(n, n + 1), torch.tensor(i)), outcome(g, tensor(2), tensor(n), tensor(abs(i) + 2))
