"""Recurrent nets on the CPU as loops over time: forward, backward and second derivatives against torch's."""
import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import smelt

NETS = {"tanh": nn.RNN, "relu": lambda *args, **more: nn.RNN(*args, nonlinearity="relu", **more), "lstm": nn.LSTM, "gru": nn.GRU}
SHAPES = {"plain": {}, "batch first": {"batch_first": True}, "both ways": {"bidirectional": True}, "no bias": {"bias": False},
          "deep": {"num_layers": 3}, "all": {"num_layers": 2, "bidirectional": True, "batch_first": True}}


def flat(results):
    """The tensors in a net's results."""
    return [t for r in results for t in (r if isinstance(r, tuple) else (r,))]


def states_of(net, batch, dtype=torch.float32, grad=True):
    """First states that require grad."""
    rows = net.num_layers * (1 + net.bidirectional)
    made = [torch.randn(rows, batch, net.hidden_size, dtype=dtype, requires_grad=grad) for _ in range(1 + (net.mode == "LSTM"))]
    return tuple(made) if len(made) > 1 else made[0]


def calls_of_torch(compiled):
    return [c for p in smelt.explain(compiled).programs for c in p.calls]


def check(net, compiled, x, state=None, wanted=None, rtol=1e-4, atol=2e-5):
    """One call of both, and the gradients of the parameters, the sequences and the first states."""
    wanted = wanted or (lambda results: sum((r * torch.arange(r.numel()).view_as(r).cos()).sum() for r in results))
    leaves = [x, *flat([state] if state is not None else [])]
    found = []
    for one in (net, compiled):
        results = flat(one(*([x] if state is None else [x, state])))
        inputs = [t for t in (*leaves, *one.parameters()) if t.requires_grad]
        found.append((results, torch.autograd.grad(wanted(results), inputs, allow_unused=True)))
    for theirs, ours in zip(*found):
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(b, a, rtol=rtol, atol=atol)
    assert [r.stride() for r in found[0][0]] == [r.stride() for r in found[1][0]]


@pytest.mark.parametrize("net, shape", list(itertools.product(NETS, SHAPES)))
def test_a_net_and_its_gradients(net, shape):
    torch.manual_seed(0)
    net = NETS[net](5, 7, **SHAPES[shape])
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        x = torch.randn(4, 6, 5, requires_grad=True)
        check(net, compiled, x)
        check(net, compiled, x, states_of(net, 4 if net.batch_first else 6))
    assert not calls_of_torch(compiled)


@pytest.mark.parametrize("net", NETS)
def test_float64_is_exact(net):
    torch.manual_seed(0)
    net = NETS[net](3, 20, 2).double()
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        check(net, compiled, torch.randn(30, 2, 3, dtype=torch.float64, requires_grad=True),
              states_of(net, 2, torch.float64), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("time, batch", [(1, 1), (1, 4), (5, 1), (130, 3)])
def test_short_long_and_single(net, time, batch):
    torch.manual_seed(0)
    net = NETS[net](3, 4)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(2):
        check(net, compiled, torch.randn(time, batch, 3, requires_grad=True), states_of(net, batch), atol=1e-4)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("wanted", [lambda r: r[0].sum(), lambda r: r[1].square().sum(), lambda r: r[-1].sum(),
                                    lambda r: r[0][2].sum() + r[-1].sum()], ids=["all", "last", "state", "some"])
def test_gradients_of_some_results(net, wanted):
    torch.manual_seed(0)
    net = NETS[net](3, 4, bidirectional=True)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(2):
        check(net, compiled, torch.randn(5, 2, 3, requires_grad=True), states_of(net, 2), wanted)


@pytest.mark.parametrize("net", NETS)
def test_lengths_and_batches_that_change(net):
    torch.manual_seed(0)
    net = NETS[net](3, 4, 2, batch_first=True)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for batch, time in ((2, 5), (3, 7), (6, 4), (2, 31), (9, 2), (4, 12)):
        check(net, compiled, torch.randn(batch, time, 3, requires_grad=True), states_of(net, batch), atol=1e-4)
    assert len(smelt.explain(compiled).programs) <= 3
    assert not calls_of_torch(compiled)


@pytest.mark.parametrize("net", NETS)
def test_without_gradients(net):
    torch.manual_seed(0)
    net = NETS[net](3, 4, 2).requires_grad_(False)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for one in ({}, {"state": states_of(net, 2, grad=False)}):
        for _ in range(3):
            x = torch.randn(5, 2, 3)
            with torch.no_grad():
                for a, b in zip(flat(net(x, one.get("state"))), flat(compiled(x, one.get("state")))):
                    torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", ["tanh", "lstm", "gru"])
def test_second_derivatives(net):
    """A penalty on the gradient with respect to the sequences. Torch's own fast LSTM has none: its twin runs without it."""
    torch.manual_seed(0)
    net = NETS[net](3, 4).double()
    compiled = smelt.compile(copy.deepcopy(net))
    for _ in range(3):
        x, found = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True), []
        for one in (net, compiled):
            with torch.backends.mkldnn.flags(enabled=False):
                results = flat(one(x))
                g, = torch.autograd.grad(results[0].square().sum() + results[-1].sin().sum(), x, create_graph=True)
                found.append((g, *torch.autograd.grad(g.square().sum(), [x, *one.parameters()], allow_unused=True)))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("net", NETS)
def test_training_gives_the_same_weights(net):
    torch.manual_seed(0)
    first = nn.ModuleDict({"net": NETS[net](6, 16, batch_first=True), "head": nn.Linear(16, 3)})
    second = copy.deepcopy(first)
    x, y = torch.randn(64, 12, 6), torch.randint(0, 3, (64,))

    def losses(model, wrap):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model["head"](model["net"](x)[0][:, -1]), y)
            loss.backward()
            optimizer.step()
            return loss.detach()
        step = wrap(step)
        return torch.stack([step() for _ in range(30)])
    torch.testing.assert_close(losses(second, smelt.compile), losses(first, lambda f: f), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_packed_sequences(net):
    """What lies beyond the lengths is read by nobody, be it NaN."""
    torch.manual_seed(0)
    net = NETS[net](3, 4, 2, batch_first=True, bidirectional=True)
    twin = copy.deepcopy(net)

    def encode(net, x, lengths):
        rows, states = net(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(rows, batch_first=True)[0], *flat([states])
    compiled = smelt.compile(encode, fullgraph=True)
    for lengths in ([6, 3, 5], [2, 6, 6], [1, 1, 6], [6, 6, 2], [3, 2, 6]):
        x = torch.randn(3, 6, 3)
        for row, n in zip(x, lengths):
            row[n:] = torch.nan
        x.requires_grad_()
        found = []
        for one, function in ((net, encode), (twin, compiled)):
            results = function(one, x, torch.tensor(lengths))
            found.append((*results, *torch.autograd.grad(sum(r.square().sum() for r in results), [x, *one.parameters()])))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="greater than 0"):
        compiled(twin, torch.randn(3, 6, 3), torch.tensor([0, 2, 6]))
    nets = [c for c in calls_of_torch(compiled) if "lstm" in c or "gru" in c or "rnn" in c]
    assert smelt.explain(compiled).compiled and not nets, nets


def test_large_enough_for_threads():
    torch.manual_seed(0)
    net = nn.LSTM(64, 256)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(2):
                check(net, compiled, torch.randn(12, 32, 64, requires_grad=True), states_of(net, 32), rtol=1e-3, atol=1e-3)
        finally:
            torch.set_num_threads(before)


def test_what_is_no_loop_stays_torchs():
    """Projections, and what a net drops, stay torch's own ops."""
    torch.manual_seed(0)
    for net in (nn.LSTM(3, 6, proj_size=2), nn.GRU(3, 4, 2, dropout=0.5)):
        compiled = smelt.compile(copy.deepcopy(net))
        for _ in range(2):
            x = torch.randn(5, 2, 3)
            torch.manual_seed(1)
            theirs = flat(net(x))
            torch.manual_seed(1)
            for a, b in zip(theirs, flat(compiled(x)), strict=True):
                torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_the_source_is_a_loop():
    net = smelt.compile(nn.GRU(3, 4))
    net(torch.randn(40, 2, 3))
    source = str(smelt.show(net, "c"))
    assert "for (long k = 0; k < 40; k++)" in source and source.count("tanh_f32") < 12
