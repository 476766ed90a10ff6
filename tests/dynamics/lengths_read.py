"""Lengths that a run finds out: numbers that it reads of tensors or draws, and numbers computed of those, as sizes."""
import random

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, leaf, outcome, program, tensor, whole
from .lengths import DATA, made_by, parts, shaped, sliced, weighted, written

def counts(*found: int):
    return map(torch.tensor, found)


@program
def slices(compile):
    f = compile(lambda n: sliced(n.item()))
    for n in counts(2, 3, 5, 20, 39, 40, 41, 1, 0, -1, -3, 100, 7, 8):
        yield f(n)


@program
def made_tensors(compile):
    f = compile(lambda x, n: made_by(x, int(n)))
    for n in counts(2, 3, 5, 20, 1, 0, -1, 9, 12):
        yield outcome(f, tensor(2), n)


@program
def shapes(compile):
    f = compile(lambda x, n: shaped(x, n.max().item()))
    for n in (2, 3, 5, 20, 38, 4, 6):
        yield f(DATA, torch.tensor([1, n, 0]))


@program
def that_are_returned(compile):
    data = tensor(40, 3)

    @compile
    def f(n):
        n = int(n)
        return *parts(data, n), n
    for n in counts(2, 3, 5, 20, 21):
        first, last, made, part, turned, n = f(n)
        first += 1
        part += 2
        yield first, last, made, part, turned, n, first.data_ptr() - data.data_ptr(), data


@program
def that_are_written(compile):
    data = tensor(40, 3)
    f = compile(lambda x, n: written(data, x, n.item()))
    for n in counts(2, 3, 4, 5, 20, 38, 1, 0):
        yield f(tensor(3) + n, n), data


@program(exact=False)
def under_gradient(compile):
    weight = nn.Parameter(tensor(40, 3))
    f = compile(lambda x, n: weighted(weight, x, n.item()))
    for n in counts(2, 3, 5, 20, 1, 9):
        weight.grad = None
        yield backward(f(tensor(3, 3), n)), weight.grad


@program(exact=False)
def of_a_batch_that_is_cut(compile):
    net = whole(nn.LSTM(3, 4, batch_first=True))

    @compile
    def f(x, lengths):
        longest = int(lengths.max())
        out, _ = net(x[:, :longest])
        mask = torch.arange(longest)[None] < lengths[:, None]
        return (out * mask[..., None]).sum() / lengths.sum()
    for lengths in ([3, 2], [5, 1], [4, 4], [2, 6], [7, 7]):
        net.zero_grad()
        yield backward(f(tensor(2, 7, 3) * 0.25, torch.tensor(lengths))), [p.grad for p in net.parameters()]


@program
def drawn(compile):
    @compile
    def f(x):
        n = random.randint(0, 12)
        m = numpy.random.randint(2, 9)
        return x[:n] * 2, x[n:n + m] + 1, torch.ones(m, 2), n
    random.seed(0), numpy.random.seed(0)
    for _ in range(12):
        yield f(DATA)


@program
def rectangles(compile):
    """Cutmix: a rectangle of each image is another image's."""
    def box(width, height, share):
        w, h = int(width * numpy.sqrt(1 - share)), int(height * numpy.sqrt(1 - share))
        x, y = numpy.random.randint(width), numpy.random.randint(height)
        return (numpy.clip(x - w // 2, 0, width), numpy.clip(y - h // 2, 0, height),
                numpy.clip(x + w // 2, 0, width), numpy.clip(y + h // 2, 0, height))

    @compile
    def f(images, labels):
        order = torch.randperm(len(images))
        x1, y1, x2, y2 = box(*images.shape[2:], numpy.random.beta(1.0, 1.0))
        mixed = images.clone()
        mixed[:, :, x1:x2, y1:y2] = images[order, :, x1:x2, y1:y2]
        share = 1 - (x2 - x1) * (y2 - y1) / (images.shape[-1] * images.shape[-2])
        return mixed, labels * share + labels[order] * (1.0 - share), share
    torch.manual_seed(0), numpy.random.seed(0)
    for _ in range(12):
        yield f(tensor(4, 2, 9, 8), tensor(4) + 3)


@program
def erased(compile):
    """A rectangle is erased, or a stripe of a spectrum, in place."""
    @compile
    def f(image):
        h, w = random.randint(1, 5), random.randint(1, 5)
        i, j = random.randint(0, 9 - h), random.randint(0, 8 - w)
        image[..., i:i + h, j:j + w] = 0
        t = random.randrange(0, 4)
        start = random.randint(0, 9 - t)
        image[:, start:start + t, :] = -1
        return image.sum()
    random.seed(1)
    for _ in range(12):
        image = tensor(2, 9, 8)
        yield f(image), image


@program(exact=False)
def crops_under_gradient(compile):
    net = whole(nn.Conv2d(2, 3, 3, padding=1), 0.25)

    @compile
    def f(x):
        size = random.randint(3, 8)
        i, j = random.randint(0, 9 - size), random.randint(0, 9 - size)
        return net(x[:, :, i:i + size, j:j + size]).relu().mean()
    random.seed(2)
    for _ in range(8):
        net.zero_grad()
        x = leaf(2, 2, 9, 9)
        yield backward(f(x)), x.grad, [p.grad for p in net.parameters()]


@program
def a_cache_that_grows(compile):
    cache, filled = torch.zeros(12, 3), torch.zeros((), dtype=torch.int64)

    @compile
    def f(x):
        n = filled.item()
        cache[n:n + len(x)] = x
        filled.add_(len(x))
        return cache[:n + len(x)].cumsum(0), n
    for n in (2, 1, 1, 1, 2, 1, 1):
        yield f(tensor(n, 3)), cache, filled


@program
def after_what_is_found(compile):
    @compile
    def f(x):
        found = x[x > 0]
        n = int((x > 1).sum())
        return found[:n] * 2, torch.topk(found, n)[0] if n < len(found) else found, x[:n]
    for k in (5, 6, 9, 20, 21, 1, 2):
        yield f(tensor(k))


@program
def branched_on(compile):
    @compile
    def f(x, n):
        n = n.item()
        if n > 5:
            return x[:n].sum(0) * 2
        if n % 2:
            return x[n:] + 1
        return torch.cat([x[:n], x[:n]])
    for n in counts(6, 7, 8, 20, 5, 3, 1, 2, 4, 0, 9):
        yield f(DATA, n)


@program
def counted_to(compile):
    @compile
    def f(x, n):
        n = n.item()
        total = x[:n].sum(0)
        for i in range(n):
            total = total + x[i]
        return total
    for n in counts(2, 3, 2, 3, 4, 2):
        yield f(DATA, n)


@program
def two_of_them(compile):
    @compile
    def f(x, a, b):
        a, b = a.item(), b.item()
        return x[:a] @ x[:b].T, x[:a, None] + x[None, :b], torch.zeros(a, b), x[:a + b], x[:a * b]
    for a, b in ((2, 3), (3, 2), (4, 4), (5, 7), (7, 5), (1, 4), (4, 1), (6, 2)):
        yield f(DATA, torch.tensor(a), torch.tensor(b))


@program
def beside_sizes_that_change(compile):
    @compile
    def f(x, n):
        n = n.item()
        return x[:n] * 2, x[n:] + 1, x.view(-1)[:n * 3], len(x) - n
    for k, n in ((10, 2), (11, 3), (12, 5), (13, 13), (14, 20), (9, 8), (9, 9), (3, 2)):
        yield f(tensor(k, 3), torch.tensor(n))


@program(exact=False)
def in_a_step_of_training(compile):
    net = whole(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.125, momentum=0.5)

    @compile
    def step(x, y, lengths):
        n = int(lengths.max())
        optimizer.zero_grad()
        loss = F.mse_loss(net(x[:n]), y[:n])
        loss.backward()
        optimizer.step()
        return loss.item()
    for n in (3, 4, 6, 5, 7, 2, 8):
        yield step(tensor(9, 3), tensor(9, 2), torch.tensor([1, n])), list(net.parameters())


@program
def of_numbers_that_numpy_computes(compile):
    @compile
    def f(x, n):
        n = n.item()
        mean = numpy.mean([n, 2 * n])
        k = int(numpy.ceil(mean))
        i = numpy.int64(n) * 2 - 1
        return x[:k] * mean, x[:int(numpy.clip(n, 1, 4))], x[:i], i // 2, i % 3, -i
    for n in counts(2, 3, 5, 6, 9, 4):
        yield f(DATA, n)


@program
def handed_on(compile):
    """A view at a place, and of a length, of the call's own, that others see written to."""
    data = tensor(40, 3)

    @compile
    def f(n):
        n = int(n)
        window = data[n:2 * n]
        window += 1
        return window, window.sum()
    for n in counts(2, 3, 5, 6, 20, 1):
        window, total = f(n)
        window *= 2
        yield window, total, data


@program
def an_index_of_tensors_and_slices(compile):
    @compile
    def f(x, rows, n):
        n = n.item()
        x[rows, :n] += 1
        return x[rows, n:], x[:n, rows], x[..., :n, 1], x[None, rows, n - 2:n], x[[0, 2], :n], x[n, rows[:2]]
    for n in counts(2, 3, 4, 2, 5):
        x = tensor(6, 6)
        yield f(x, torch.tensor([1, 0, 3]), n), x


@program
def lists_of_them(compile):
    """The place of a crop, and how many rows each expert gets."""
    @compile
    def crop(x):
        i, j = torch.randint(0, 5, (2,)).tolist()
        return x[:, i:i + 4, j:j + 4] * 2, [i, [j]]

    @compile
    def split(x, counts):
        parts = counts.mul(2).tolist()
        return [p.sum(0) * k for k, p in enumerate(torch.split(x, parts))], parts, torch.tensor([[0.5, n] for n in parts])

    @compile
    def several(x):
        (a, b), (c, d) = x.tolist()
        return x * a + b, c > d, [d]
    torch.manual_seed(0)
    for _ in range(6):
        yield crop(tensor(2, 8, 8))
    for counts in ([1, 2, 3], [2, 2, 2], [3, 1, 2], [0, 3, 3], [4, 1, 1], [2, 3, 1], [1, 1, 1]):
        yield outcome(split, tensor(12, 3), torch.tensor(counts))
    for k in range(4):
        yield several(tensor(2, 2) + k / 2), several(tensor(2, 2, dtype=torch.int64) + k), several(tensor(2, 2) > k - 1)
