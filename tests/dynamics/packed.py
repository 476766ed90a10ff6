"""Packed sequences, whose lengths are other ones on every call."""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .harness import backward, leaf, outcome, program, tensor, whole

LENGTHS = [torch.tensor(n) for n in ([5, 3, 2], [5, 4, 2], [1, 5, 3], [2, 5, 5], [4, 2, 1], [3, 1, 3], [2, 4, 4])]
SORTED = [n.sort(descending=True)[0] for n in LENGTHS]


def pack(x, lengths):
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def pad(rows):
    return pad_packed_sequence(rows, batch_first=True)


def results(net, encode, lengths, compile):
    """What an encoder gives, and the gradients, for each of the lengths."""
    encode = compile(encode)
    for n in lengths:
        x = leaf(3, 5, 2)
        found = encode(net, x, n)
        backward(sum(t.square().sum() for t in found if t.requires_grad))
        yield found, x.grad, [p.grad for p in net.parameters()]


@program(exact=False)
def lstm(compile):
    def encode(net, x, lengths):
        rows, (h, c) = net(pack(x, lengths))
        return *pad(rows), h, c.detach()
    yield from results(whole(nn.LSTM(2, 3, batch_first=True), 0.1), encode, LENGTHS, compile)


@program(exact=False)
def gru_of_two_layers_in_both_directions(compile):
    def encode(net, x, lengths):
        rows, h = net(pack(x, lengths))
        return *pad_packed_sequence(rows, padding_value=-2.0), h.detach()
    yield from results(whole(nn.GRU(2, 3, 2, bidirectional=True), 0.1), encode, LENGTHS, compile)


@program(exact=False)
def rnn_of_sorted_rows_with_a_first_state(compile):
    def encode(net, x, lengths):
        rows, h = net(pack_padded_sequence(x.transpose(0, 1), lengths), x[:, :1].sum().expand(1, 3, 3))
        return *pad_packed_sequence(rows, total_length=7), h.detach()
    yield from results(whole(nn.RNN(2, 3), 0.1), encode, SORTED, compile)


@program(exact=False)
def one_net_after_the_other(compile):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.GRU(2, 2, batch_first=True), nn.LSTM(2, 3, batch_first=True)

    def encode(net, x, lengths):
        between, h = net.first(pack(x, lengths))
        rows, (last, _) = net.second(between)
        return *pad(rows), pad(between)[0].detach(), h.detach(), last.detach()
    yield from results(whole(Two(), 0.1), encode, LENGTHS, compile)


@program
def packed_and_unpacked(compile):
    def encode(net, x, lengths):
        return *pad(pack(x, lengths)), *pad_packed_sequence(pack(x * 2, lengths), padding_value=7.0)
    yield from results(nn.Identity(), encode, LENGTHS, compile)


@program(exact=False)
def of_changing_sizes(compile):
    net = whole(nn.LSTM(2, 3, batch_first=True), 0.1)

    @compile
    def encode(x, lengths):
        rows, (h, _) = net(pack(x, lengths))
        return *pad(rows), h
    for batch, time in ((3, 5), (4, 7), (1, 4), (3, 1)):
        yield encode(leaf(batch, time, 2), (torch.arange(batch) * 3) % time + 1), encode(leaf(batch, time, 2), [time] * batch)


@program
def that_are_looked_at(compile):
    @compile
    def look(x, lengths):
        rows = pack(x, lengths)
        return (rows, rows.data * 2, rows.batch_sizes.tolist(), rows.batch_sizes[0], int(rows.batch_sizes[0]), len(rows.data),
                rows.data.shape, pad(rows._replace(data=rows.data + 1)), pad(rows))
    for n in LENGTHS:
        yield look(leaf(3, 5, 2), n)


@program(exact=False)
def that_are_computed_with(compile):
    def encode(net, x, lengths):
        packed = pack(x, lengths)
        rows, _ = net(packed)
        rows = PackedSequence(F.pad(packed.data, (0, 1)) + rows.data, *packed[1:])
        return *pad(rows), rows.data.detach()
    yield from results(whole(nn.LSTM(2, 3, batch_first=True), 0.1), encode, LENGTHS[:3], compile)


@program(exact=False)
def beside_writes(compile):
    net = whole(nn.LSTM(2, 3, batch_first=True), 0.1)

    @compile
    def encode(x, lengths):
        x, lengths = x.detach().clone(), lengths.clone()
        before = pack(x, lengths)
        x.zero_()
        lengths.fill_(1)
        rows, (h, _) = net(before)
        first = pad(rows)[0].mul_(2)
        rows.data.mul_(3)
        return first, *pad(rows), *pad(net(before)[0]), pad(pack(x, lengths)), h
    for n in LENGTHS[:4]:
        yield encode(leaf(3, 5, 2), n)


@program(exact=False)
def made_without_gradients(compile):
    def encode(net, x, lengths):
        with torch.no_grad():
            before = pack(x, lengths)
            without = pad(net(before)[0])[0]
        rows, _ = net(before)
        return without * x.sum(), *pad(rows)
    yield from results(whole(nn.LSTM(2, 3, batch_first=True), 0.1), encode, LENGTHS[:4], compile)


@program(exact=False)
def kept_from_call_to_call(compile):
    net = whole(nn.LSTM(2, 3, batch_first=True), 0.1)
    kept = []

    @compile
    def encode(x, lengths):
        rows, _ = net(pack(x, lengths))
        kept[:] = [rows.data.detach(), rows.batch_sizes]
        return pad(rows)
    for n in LENGTHS[:4]:
        yield encode(leaf(3, 5, 2), n), list(kept)


@program(exact=False)
def of_wrong_lengths(compile):
    net = whole(nn.LSTM(2, 3, batch_first=True), 0.1)

    @compile
    def encode(x, lengths, total):
        rows, _ = net(pack_padded_sequence(x, lengths, batch_first=True))
        return pad_packed_sequence(rows, batch_first=True, total_length=total)
    for n in ([5, 3, 2], [5, 4, 1], [5, 3, 4], [5, 0, 0], [6, 5, 5], [5, 5], [4, 4, 4], [5, 1, 1]):
        yield outcome(encode, tensor(3, 5, 2), torch.tensor(n), None), outcome(encode, tensor(3, 5, 2), torch.tensor(n), 4)
