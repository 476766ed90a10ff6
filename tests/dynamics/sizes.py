"""Tensors of changing sizes."""
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor, whole

SIZES = (4, 4, 6, 6, 3, 8, 1, 4, 0, 2, 7)


def over(f, make=lambda n: (tensor(n, 3),), sizes=SIZES):
    for n in sizes:
        yield f(*make(n))


def under_gradient(f, make=lambda n: (leaf(n, 3),), sizes=(4, 4, 6, 6, 3, 1, 5)):
    for n in sizes:
        arguments = make(n)
        yield backward(f(*arguments)), arguments


@program
def pointwise(compile):
    yield from over(compile(lambda x: x * 2 + 1))


@program
def pointwise_always_dynamic(compile):
    yield from over(compile(lambda x: x * 2 + 1, dynamic=True))


@program
def pointwise_never_dynamic(compile):
    yield from over(compile(lambda x: x * 2 + 1, dynamic=False))


@program
def reductions(compile):
    yield from over(compile(lambda x: (x.sum(0), x.sum(1), x.sum(), x.mean(1), x.any(), x.prod(1))))


@program
def largest_of_nothing(compile):
    f = compile(lambda x: x.amax(0))
    for n in SIZES:
        yield outcome(f, tensor(n, 3))


@program
def broadcast_of_one(compile):
    f = compile(lambda x, y: x + y)
    for n, m in ((4, 4), (5, 5), (1, 5), (5, 1), (6, 6), (1, 1), (4, 5), (0, 1), (0, 0), (7, 7)):
        yield outcome(f, tensor(n, 3), tensor(m, 3))


@program
def two_sizes(compile):
    f = compile(lambda x, y: x @ y + 1)
    for n, m in ((4, 4), (4, 4), (4, 6), (6, 4), (5, 7), (1, 7), (7, 1), (0, 3), (3, 0)):
        yield f(tensor(n, 3), tensor(3, m))


@program
def inner_size(compile):
    f = compile(lambda x, y: x @ y)
    for n, m in ((4, 4), (5, 5), (6, 6), (0, 0), (1, 1), (6, 7), (7, 7)):
        yield outcome(f, tensor(2, n), tensor(m, 2))


@program
def size_in_arithmetic(compile):
    yield from over(compile(lambda x: x * x.shape[0] + x.numel() / (1 + x.size(0)) - len(x)))


@program
def size_returned(compile):
    yield from over(compile(lambda x: (x + 1, x.shape, x.shape[0] * 2, len(x), x.numel(), tuple(x.stride()))))


@program
def size_decides(compile):
    yield from over(compile(lambda x: x * 2 if x.shape[0] > 4 else x + 1 if x.shape[0] % 2 == 0 else -x))


@program
def loop_over_a_size(compile):
    @compile
    def f(x):
        total = torch.zeros(3)
        for k in range(x.shape[0]):
            total = total * 2 + x[k]
        return total
    yield from over(f)


@program
def reshape_by_sizes(compile):
    yield from over(compile(lambda x: (x.view(x.shape[0] * 3), x.reshape(-1), x.view(3, -1) + 1, x.unsqueeze(1).flatten())),
                    sizes=(4, 4, 6, 3, 8, 1, 2))


@program
def reshape_that_needs_a_divisor(compile):
    f = compile(lambda x: x.view(x.shape[0] // 2, 2, 3).sum(1))
    for n in (4, 4, 6, 8, 5, 2, 0, 4, 10):
        yield outcome(f, tensor(n, 3))


@program
def cat_and_stack(compile):
    yield from over(compile(lambda x: (torch.cat([x, x * 2]), torch.stack([x, x], 1), torch.cat([x, x], 1))))


@program
def split_and_chunk(compile):
    f = compile(lambda x: (*x.split(2), *x.chunk(3)))
    for n in (4, 4, 6, 5, 1, 4, 7):
        yield [t + 1 for t in f(tensor(n, 3))]


@program
def slices_of_a_size(compile):
    yield from over(compile(lambda x: (x[1:] - x[:-1], x[::2] + 1, x[-2:] * 2, x[: x.shape[0] // 2] + 1)),
                    sizes=(4, 4, 6, 3, 8, 2, 7))


@program
def padding(compile):
    yield from over(compile(lambda x: F.pad(x, (1, 2, 0, 8 - x.shape[0]), value=2.0)))


@program
def ranges_and_masks(compile):
    @compile
    def f(x):
        n = x.shape[0]
        return torch.arange(n), torch.ones(n, n).tril() + x.sum(1), torch.eye(n), torch.zeros_like(x), torch.full((n,), n)
    yield from over(f)


@program
def indexing(compile):
    f = compile(lambda x, i: x[i] + x.index_select(0, i).flip(0))
    for n, m in ((4, 3), (4, 3), (5, 4), (6, 7), (1, 2), (3, 0)):
        yield f(tensor(n, 3), torch.arange(m) % n)


@program
def embedding_with_positions(compile):
    table, places = whole(nn.Embedding(5, 4), 1), whole(nn.Embedding(12, 4), 1)
    f = compile(lambda ids: table(ids) + places(torch.arange(ids.shape[1])))
    for b, t in ((2, 4), (2, 4), (3, 5), (1, 6), (3, 12), (2, 13), (4, 4)):
        yield outcome(f, torch.arange(b * t).reshape(b, t) % 5)


@program(exact=False)
def softmax_and_losses(compile):
    @compile
    def f(x, target):
        return F.softmax(x, -1), F.log_softmax(x, 0), F.cross_entropy(x, target), F.layer_norm(x, (3,))
    for n in (4, 4, 6, 5, 1, 7):
        yield f(tensor(n, 3), torch.arange(n) % 3)


@program(exact=False)
def perceptron_training(compile):
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    f = compile(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for n in (4, 4, 6, 5, 1, 8):
        optimizer.zero_grad()
        yield backward(f(tensor(n, 3)))
        optimizer.step()


@program(exact=False)
def convolution(compile):
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    f = compile(net)
    for b, n in ((2, 4), (2, 4), (3, 4), (3, 6), (1, 8), (2, 5)):
        yield backward(f(tensor(b, 1, n, n)))


@program(exact=False)
def batch_norm_in_training(compile):
    net = compile(nn.BatchNorm1d(3))
    for n in (4, 4, 6, 5, 2):
        yield backward(net(tensor(n, 3)))
    yield outcome(net, tensor(1, 3))
    net.eval()
    yield from over(net, sizes=(4, 6, 1))


@program(exact=False)
def attention(compile):
    @compile
    def f(q, k):
        weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return weights @ k
    for t, s in ((4, 4), (4, 4), (5, 5), (6, 3), (1, 7), (2, 2)):
        q, k = leaf(2, t, 4), leaf(2, s, 4)
        yield backward(f(q, k)), q, k


@program(exact=False)
def recurrence(compile):
    cell = nn.RNNCell(3, 4)

    @compile
    def f(xs):
        h = xs.new_zeros(xs.shape[1], 4)
        for x in xs:
            h = cell(x, h)
        return h
    for t, b in ((2, 3), (2, 3), (3, 3), (2, 4), (1, 1), (3, 5)):
        yield backward(f(tensor(t, b, 3)))


@program
def gradients(compile):
    yield from under_gradient(compile(lambda x: (x * x).sum(0) + x.mean(1, keepdim=True)[:1, 0]))


@program
def gradient_of_an_expansion(compile):
    f = compile(lambda x, y: x * y)
    yield from under_gradient(f, lambda n: (leaf(n, 3), leaf(3)))
    yield from under_gradient(f, lambda n: (leaf(1, 3), leaf(n, 1)))


@program
def writes_to_arguments(compile):
    @compile
    def f(x, y):
        x.add_(1)
        x[1:] *= 2
        return y.copy_(x).sum()
    yield from over(f, lambda n: (tensor(n, 3), tensor(n, 3)))


@program
def views_of_arguments(compile):
    f = compile(lambda x: (x[1:], x.t(), x.view(-1), x.flatten(), x.unsqueeze(0)))
    for n in SIZES:
        x = tensor(n, 3)
        found = f(x)
        found[1].mul_(2)
        yield found, x


@program
def views_of_results(compile):
    @compile
    def f(x):
        y = x + 1
        return y[: x.shape[0] // 2], y
    for n in SIZES:
        part, whole = f(tensor(n, 3))
        part.zero_()
        yield part, whole


@program
def layouts(compile):
    f = compile(lambda x: x + 1)
    for n in (4, 5, 6):
        for x in (tensor(n, 3), tensor(3, n).t(), tensor(n, 6)[:, ::2], tensor(1, 3).expand(n, 3), tensor(n, 4)[:, 1:]):
            yield f(x)


@program(exact=False)
def layouts_of_one_row(compile):
    f = compile(lambda x: (F.gelu(x.t()[..., ::2]), x.t()[:, : x.shape[0] // 2] * 2))
    for n in (4, 4, 6, 8, 2, 3, 5):
        yield f(tensor(n, 3))


@program
def dimensions(compile):
    f = compile(lambda x: x.sum(-1) * 2)
    for shape in ((4, 3), (4, 3), (5, 3), (2, 5, 3), (3,), (5, 4), (2, 2, 2, 3), (6, 3)):
        yield f(tensor(*shape))


@program
def every_size_at_once(compile):
    f = compile(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1) + 1)
    for shape in ((2, 3, 4), (2, 3, 4), (3, 3, 4), (3, 4, 4), (3, 4, 5), (5, 2, 3), (1, 1, 1), (0, 3, 4), (2, 0, 4)):
        yield outcome(f, tensor(*shape))


@program
def lists_of_changing_lengths(compile):
    f = compile(lambda xs: sum(x.sum() for x in xs) + len(xs))
    for n in (1, 1, 2, 3, 0, 2, 4):
        yield f([tensor(k + 1) for k in range(n)])


@program
def size_kept_on_an_object(compile):
    class Pool(nn.Module):
        size = None

        def forward(self, x):
            if self.size != x.shape:
                self.size, self.ones = x.shape, torch.ones(x.shape)
            return x + self.ones
    yield from over(compile(Pool()))


@program
def marked_dynamic(compile):
    f = compile(lambda x: x.sum(0) + 1)
    for n in (4, 5, 6, 1, 0):
        x = tensor(n, 3)
        if n > 1:
            torch._dynamo.mark_dynamic(x, 0)
        yield f(x).clone()


@program
def sizes_that_agree_by_chance(compile):
    f = compile(lambda x, y: (x.sum(0), y.sum(0), x.shape == y.shape))
    for n, m in ((4, 4), (4, 4), (5, 5), (6, 6), (6, 7), (7, 6), (3, 3)):
        yield f(tensor(n, 3), tensor(m, 3))


@program
def returning_to_old_sizes(compile):
    f = compile(lambda x: (x - x.mean(0)) * x.shape[0])
    for n in (2, 4, 8, 16, 2, 4, 8, 16, 32, 64, 2, 4):
        yield f(tensor(n, 3) * 4)
    yield from calls(f, tensor(2, 3))


@program
def ops_without_a_record(compile):
    yield from over(compile(lambda x: (x.sort(0)[0] * 2, x.t().cummax(1)[0] + 1, x.rot90() - 1)), sizes=(4, 4, 3, 5, 6))


@program
def ops_without_a_record_that_give_other_sizes(compile):
    yield from over(compile(lambda x: F.unfold(x[None, None], 2) * 2), sizes=(4, 4, 3, 5, 6))


@program
def ops_without_a_record_that_write(compile):
    yield from over(compile(lambda x: F.rrelu(x, training=True) * 2), sizes=(4, 4, 3, 5, 6))


@program(exact=False)
def gradients_of_ops_without_a_record(compile):
    yield from under_gradient(compile(lambda x: x.renorm(2, 0, 1.0) * 2))
    yield from under_gradient(compile(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.5, 3, 0, 7) * 2))


@program
def products_of_one_batch(compile):
    """Keys and values gather from call to call: one program for all of them."""
    f = compile(lambda x, past: ((keys := torch.cat([past, x], 1)), (x @ keys.mT) @ keys))
    past = tensor(1, 4, 3)
    for n in range(5):
        past, result = f(tensor(1, 1, 3) + n, past)
        yield past, result


@program(exact=False)
def slices_of_batches(compile):
    table = leaf(7, 4)

    @compile
    def loss(x, y):
        return F.cross_entropy(F.embedding(x, table).cumsum(1).transpose(1, 2), y % 4)
    for n in (2, 3, 5, 1, 9, 4):
        batch = torch.arange(4 * n + 4).reshape(4, n + 1) % 7
        yield backward(loss(batch[:, :-1], batch[:, 1:])), table.grad


@program
def strides_that_change(compile):
    f = compile(lambda x: (x + 1, x.sum(0), x.t() * 2, x[1:], x[:, :2], x.reshape(-1), x.stride(), x.is_contiguous()))
    for n, more in ((2, 3), (3, 3), (5, 1), (4, 6), (4, 0), (1, 4), (6, 2)):
        yield f(tensor(4, n + more)[:, more:])
    yield f(tensor(5, 4).t())
    yield f(tensor(4).unsqueeze(1).expand(4, 3))
    yield f(tensor(20).as_strided((4, 5), (2, 1)))


@program
def strides_in_another_order(compile):
    f = compile(lambda x: (x + 1, x * x.sum(-1, keepdim=True)))
    for n, more in ((4, 1), (5, 2), (6, 3), (4, 2)):
        yield f(tensor(n, n + more, n + 2)[:, :n, :4])
    for n, more in ((5, 2), (6, 3)):
        yield f(tensor(n + more, n, n + 2)[:n, :, :4].transpose(0, 1))


@program
def written_slices(compile):
    f = compile(lambda x, y: (x.mul_(2), y[:, 1:].add_(x[:, 1:]))[1] * 1)
    for n in (3, 4, 6, 2, 9):
        x, y = tensor(4, n + 1)[:, 1:], tensor(4, n + 2)[:, :-2]
        yield f(x, y), x, y


@program
def strides_of_single_elements(compile):
    def f(x):
        row, rows = x.unsqueeze(0) + 1, x.expand(2, -1) + 1
        return (row.select(-1, 1), (x[None, None] + 1)[:, :, 0], rows.narrow(1, 0, 1).narrow(0, 0, 1), row.t()[:1] * 1,
                (row * 2).t()[:1], (rows * 2)[:1, -1], (x.expand(1, 4, -1) + 1)[..., :1])
    f = compile(f)
    for n in (4, 5, 7, 3, 4, 9):
        yield f(tensor(n))


@program
def padding_that_may_be_none(compile):
    """Where nothing is added, the strides of what is padded stay."""
    f = compile(lambda x: F.pad(x.transpose(0, -1), (0, -x.shape[0] % 4)).transpose(0, -1))
    for n in (3, 2, 5, 7, 4, 8, 6, 12, 1):
        yield f(tensor(n, 6))


@program(exact=False)
def of_complex_numbers(compile):
    """Rotary embeddings, as pairs turned by complex factors."""
    factors = torch.polar(torch.ones(20, 3), torch.outer(torch.arange(20.0), torch.tensor([1.0, 0.3, 0.1])))

    @compile
    def f(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        turns = factors[:x.shape[1]].view(1, x.shape[1], 1, -1)
        return torch.view_as_real(pairs * turns).flatten(3)
    for rows, length in ((2, 5), (2, 6), (3, 7), (2, 9), (2, 1), (1, 4), (4, 20)):
        x = leaf(rows, length, 2, 6)
        y = f(x)
        yield y, backward(y.sum()), x.grad


@program(exact=False)
def of_spectra(compile):
    w = torch.complex(tensor(3, 4, 2), tensor(3, 4, 2) * 0.5).requires_grad_()

    @compile
    def f(x):
        spectrum = torch.fft.rfft(x)
        out = torch.zeros(x.shape[0], 4, x.size(-1) // 2 + 1, dtype=torch.cfloat)
        out[:, :, :2] = torch.einsum("bix,iox->box", spectrum[:, :, :2], w)
        return torch.fft.irfft(out, n=x.size(-1))
    for rows, length in ((2, 8), (3, 8), (4, 8), (3, 10), (5, 12), (1, 6), (2, 16)):
        yield backward(f(tensor(rows, 3, length)).sum()), w.grad


@program
def of_complex_views_given_back(compile):
    @compile
    def f(x):
        z = torch.view_as_complex(x)
        return z, z.view(-1), z.t(), torch.view_as_real(z)[..., 0], z.unflatten(1, (-1, 2)).split(1, 2)
    for rows, length in ((2, 4), (3, 4), (4, 6), (2, 8), (5, 2)):
        yield f(tensor(rows, length, 2))


@program
def of_comparisons_with_tensors_of_known_sizes(compile):
    """Python asks the right operand of a comparison first where its class is below that of the left one."""
    places = torch.arange(6)

    @compile
    def f(x, lengths):
        mask = torch.arange(6) < lengths[:, None]
        return (x.masked_fill(~mask[:, :, None], 0).sum(1), places >= lengths[:, None], lengths[:, None] > places,
                places == lengths[:, None], lengths[:, None] != places, places.le(lengths[:, None]), places <= places)
    for rows in (2, 3, 4, 1, 5):
        yield f(tensor(rows, 6, 3), torch.arange(rows) + 1)


@program(exact=False)
def of_items_written_to_where_gradients_flow(compile):
    """Autograd makes views of tensors of symbolic sizes once more; what torch.Tensor makes of numbers is no look at a tensor."""
    w = leaf(3)

    @compile
    def f(x):
        h = F.pad(x * w, [0, 0, 0, 1])
        h[..., -1, -1] += 1.0
        h[:, 0] *= torch.Tensor([1.0, 2.0, 3.0])
        first = h[:, 1]
        first[:, 0] -= x.sum()
        h[:, :, 1][:, 0] = first[:, 2]
        return h, first
    for rows in (2, 3, 4, 1, 5):
        x = leaf(rows, 2, 3)
        h, first = f(x)
        yield h, first, backward((h * h).sum() + first.sum()), x.grad, w.grad


@program(exact=False)
def of_diagonals_filled(compile):
    @compile
    def contrast(x):
        z = F.normalize(x, dim=1)
        alike = z @ z.t()
        alike.fill_diagonal_(-1e9)
        pairs = (torch.arange(len(x))[:, None] % 2 == torch.arange(len(x)) % 2).byte().fill_diagonal_(0)
        return F.cross_entropy(alike, torch.arange(len(x)).flip(0)), pairs

    @compile
    def others(x):
        return (x.clone().fill_diagonal_(2.5), x.clone().fill_diagonal_(x[0, 0]), x.clone().fill_diagonal_(fill_value=3),
                torch.zeros(3, 7).fill_diagonal_(1, wrap=True), (x * 2).long().fill_diagonal_(7),
                torch.zeros(7, 3).fill_diagonal_(float("inf")), torch.ones(3, 3, 3).fill_diagonal_(0),
                x[:, :2].fill_diagonal_(0), x)
    for rows in (4, 5, 6, 2, 3):
        x = leaf(rows, 3)
        loss, pairs = contrast(x)
        yield backward(loss), pairs, pairs._version, x.grad
        yield others(tensor(rows, 3))


@program
def strides_of_dimensions_of_one(compile):
    """The last token of a sequence that grows: nothing lies in the direction of its strides."""
    @compile
    def f(tok, past):
        x = tok.float()[..., None] * 2
        past = x if past is None else torch.cat((past, x), 1)
        return past.sum(1), past, tok + 1, tok.t(), tok.unsqueeze(0), tok.stride()
    for batch in (1, 2, 1):
        ids, past = torch.zeros(batch, 1, dtype=torch.int64), None
        for k in range(9):
            total, past, *others = f(ids[:, -1:], past)
            ids = torch.cat((ids, total.long() + k), 1)
            yield total, past, others
    wide = tensor(4, 6, 8)
    g = compile(lambda x: (x * 2, x.t() + 1, x.reshape(-1), x.expand(3, -1), x[:, :1] + x, x.contiguous().stride()))
    for x in (wide[:1, 2], wide[:2, 2, :1].t(), wide[:1, 1, 2:6], wide[0, 1:2, :3], wide[:1, 1, :5], wide[1, :1, ::2]):
        yield g(x)


@program
def sizes_that_have_to_be_one(compile):
    """A size that changes beside one that was seen once, and two that changed apart before they met."""
    @compile
    def joined(a, b):
        return a * 2 if b is None else torch.cat([a, b], 1) * 2 + a.sum()

    @compile
    def sometimes(a, b):
        return torch.cat([a, b], 1) + len(a) if len(a) == len(b) else (a.sum(), b.sum())
    for n, m in ((4, 0), (5, 0), (5, 5), (6, 6), (7, 7), (6, 0), (1, 1), (8, 8)):
        yield joined(tensor(n, 3), tensor(m, 3) if m else None)
    for n, m in ((4, 4), (4, 5), (5, 6), (6, 6), (7, 7), (8, 3), (9, 9)):
        yield sometimes(tensor(n, 3), tensor(m, 3))
    for n in (5, 6, 7):
        yield outcome(joined, tensor(n, 3), tensor(5, 3))
