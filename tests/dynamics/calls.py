"""Calls of torch that a graph holds as one op, whatever they are made of."""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .harness import backward, leaf, outcome, program, tensor, whole


def over_lengths(net, compile, make=lambda n: (tensor(n, 3, 4) * 0.25,), lengths=(5, 7, 6, 2, 1, 9, 0, 4)):
    """Steps of training with sequences of changing lengths."""
    @compile
    def f(*args):
        output, state = net(*args)
        return output * 2, state
    for n in lengths:
        args = make(n)
        net.zero_grad()
        found = outcome(f, *args)
        if isinstance(found, tuple):
            backward(found[0])
        yield found, args, [p.grad for p in net.parameters()]


@program(exact=False)
def lstm(compile):
    yield from over_lengths(whole(nn.LSTM(4, 5), 0.25), compile)


@program(exact=False)
def gru_of_batches_and_states(compile):
    yield from over_lengths(whole(nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), 0.25), compile,
                            lambda n: ((tensor(n, n + 1, 4) * 0.25).requires_grad_(), leaf(4, n, 5)))


@program(exact=False)
def rnn_that_drops(compile):
    yield from over_lengths(whole(nn.RNN(4, 5, 2, dropout=0.5), 0.25), compile)


@program(exact=False)
def gru_over_long_sequences_first(compile):
    yield from over_lengths(whole(nn.GRU(4, 5), 0.25), compile, lengths=(30, 40, 5, 25, 1, 100))


@program(exact=False)
def rnn_that_drops_over_long_sequences(compile):
    yield from over_lengths(whole(nn.RNN(4, 5, 2, dropout=0.5), 0.25), compile, lengths=(30, 30, 40, 5))


@program(exact=False)
def second_derivative_of_a_long_gru(compile):
    net = whole(nn.GRU(4, 5), 0.25)

    @compile
    def f(x):
        return torch.autograd.grad(net(x)[0].sum(), x, create_graph=True)[0]
    for _ in range(3):
        x = (tensor(30, 3, 4) * 0.25).requires_grad_()
        backward(f(x))
        yield x.grad


@program(exact=False)
def lstm_without_gradients(compile):
    for grad in (torch.no_grad, torch.inference_mode):
        with grad():
            net = whole(nn.LSTM(4, 5), 0.25)
            f = compile(lambda x: net(x)[0] + 1)
            for n in (5, 7, 6, 2):
                yield f(tensor(n, 3, 4) * 0.25)


@program(exact=False)
def gru_under_autocast(compile):
    net = whole(nn.GRU(4, 5), 0.25)

    @compile
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)[0].float() * 2
    for n in (5, 7, 6):
        yield f(tensor(n, 3, 4) / 7)


@program(exact=False)
def state_carried_on(compile):
    net, head = whole(nn.GRU(4, 5, batch_first=True), 0.25), whole(nn.Linear(5, 2))
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 0.01)

    @compile
    def step(x, h):
        output, h = net(x, h)
        loss = head(output).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, h.detach()
    h = torch.zeros(1, 3, 5)
    for n in (5, 7, 6, 2, 9):
        loss, h = step(tensor(3, n, 4) * 0.25, h)
        yield loss, h, dict(net.named_parameters())


def of_ctc(compile, lengths, **options):
    @compile
    def f(x, targets, of_inputs, of_targets):
        return F.ctc_loss(x.log_softmax(-1), targets, of_inputs, of_targets, **options)
    for k, n in enumerate((8, 8, 9, 12, 10)):
        x, targets = leaf(n, 3, 5), tensor(3, 4, dtype=torch.int64).abs() + 1
        loss = f(x, targets, lengths((n, n - k % 2, n - 3)), lengths((4, 3, 2 + k % 2)))
        yield backward(loss), x


@program(exact=False)
def ctc_of_tensors(compile):
    yield from of_ctc(compile, torch.tensor)


@program(exact=False)
def ctc_of_numbers(compile):
    yield from of_ctc(compile, tuple, reduction="sum", zero_infinity=True)


@program(exact=False)
def ctc_of_each(compile):
    yield from of_ctc(compile, torch.tensor, reduction="none")


@program
def ctc_of_no_known_reduction(compile):
    f = compile(lambda x: F.ctc_loss(x, tensor(3, 2).long(), (4, 4, 4), (2, 2, 2), 0, "median"))
    yield outcome(f, tensor(4, 3, 5)), outcome(f, tensor(4, 3, 5))


@program
def rows_padded(compile):
    f = compile(lambda rows, **how: pad_sequence(rows, **how) * 2)
    for sizes in ((3, 5), (4, 6), (7, 9), (9, 7), (5, 5), (8, 3), (1, 4)):
        for how in ({}, {"batch_first": True, "padding_value": 0.5}, {"padding_side": "left"}):
            rows = [leaf(n, 2) for n in sizes]
            yield backward(f(rows, **how)), rows


@program
def rows_padded_that_differ(compile):
    f = compile(lambda *rows: pad_sequence(rows) * 2)
    for n in (3, 5, 6):
        yield outcome(f, tensor(n, 2), tensor(2, 2, dtype=torch.float64)), outcome(f, tensor(n, 2), tensor(n, 3)), outcome(f)


@program
def bags(compile):
    table = {mode: whole(nn.EmbeddingBag(7, 3, mode=mode)) for mode in ("sum", "mean", "max")}

    @compile
    def f(places, starts):
        return [bag(places, starts) + 1 for bag in table.values()]
    for n in (5, 7, 6, 2, 9):
        found = f(tensor(n, dtype=torch.int64) + 3, torch.arange(0, n, 2))
        for each in found:
            backward(each)
        yield found, [bag.weight.grad for bag in table.values()]


@program
def whole_numbers_of_torch(compile):
    @compile
    def f(n, k):
        return (torch.linspace(0, 1, n) * 2, torch.linspace(0, 1, steps=n + 1), torch.logspace(0, 1, n, base=2.0) + 1,
                torch.tril_indices(n, n) + 1, torch.triu_indices(n, n + 2, offset=1), torch.tril_indices(n, 4, -k) * 2,
                torch.hann_window(n), torch.kaiser_window(2 * n, dtype=torch.float64))
    for n, k in ((5, 3), (6, 3), (9, 3), (3, 3), (2, 3), (1, 3), (0, 3), (7, 6), (12, 8)):
        yield outcome(f, n, k)


@program
def numbers_of_triangles(compile):
    @compile
    def f(x):
        below = torch.tril_indices(x.shape[0], 5, -3)
        return x.sum() + below.shape[1], x.new_ones(below.shape[1] + 1)
    for n in (8, 9, 12, 5, 4, 3, 2):
        yield f(tensor(n))


@program(exact=False)
def images_of_other_sizes(compile):
    @compile
    def f(x, size):
        return F.interpolate(x, size=size, mode="bilinear"), F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=1.5)
    for n in (5, 7, 6, 2, 9):
        x = leaf(2, 3, n, n + 1)
        found = f(x, (n + 3, 6))
        for each in found:
            backward(each)
        yield found, x
