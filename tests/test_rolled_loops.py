"""Loops over time that programs write out: which become a loop, and that they give what eager gives."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import smelt
from smelt.compiler import evaluate, parse, verify
from smelt.compiler.passes import roll
from smelt.tools.explain import stage_text

CELLS = {"tanh": nn.RNNCell, "relu": lambda *sizes: nn.RNNCell(*sizes, nonlinearity="relu"), "lstm": nn.LSTMCell,
         "gru": nn.GRUCell}


class Layers(nn.Module):
    """Layers of cells, called one after another for each place of a sequence."""

    def __init__(self, cell, layers=1, dim=0, backwards=False):
        super().__init__()
        self.cells = nn.ModuleList([CELLS[cell](5 if k == 0 else 7, 7) for k in range(layers)])
        self.out, self.dim, self.backwards = nn.Linear(7, 3), dim, backwards

    def steps(self, x):
        """(what each step gives, the states after the last one)"""
        states, given = [None] * len(self.cells), []
        places = range(x.shape[self.dim])
        for t in reversed(places) if self.backwards else places:
            y = x.select(self.dim, t)
            for k, cell in enumerate(self.cells):
                states[k] = cell(y, states[k])
                y = states[k][0] if isinstance(cell, nn.LSTMCell) else states[k]
            given.append(y)
        return given, states

    def forward(self, x):
        given, states = self.steps(x)
        return self.out(torch.stack(given, self.dim)), states


class Last(Layers):
    def forward(self, x):
        return self.out(self.steps(x)[0][-1])


class Outputs(Layers):
    def forward(self, x):
        return torch.stack([F.log_softmax(self.out(h), 1) for h in self.steps(x)[0]]).transpose(0, 1)


class Joined(Layers):
    def forward(self, x):
        return torch.cat([self.out(h) * 2 for h in self.steps(x)[0]], 1)


class Attending(Layers):
    def forward(self, x):
        given, _ = self.steps(x)
        keys = torch.stack(given, 1)
        weights = torch.softmax((keys @ given[-1].unsqueeze(2)).squeeze(2), 1)
        return (weights.unsqueeze(2) * keys).sum(1)


class Plain(nn.Module):
    """A cell of linear layers."""

    def __init__(self, activation):
        super().__init__()
        self.of_x, self.of_h, self.activation = nn.Linear(5, 7), nn.Linear(7, 7), activation

    def forward(self, x, h):
        given = []
        for part in x.unbind():
            h = self.activation(self.of_x(part) + self.of_h(h))
            given.append(h)
        return torch.stack(given), h


class Generating(Layers):
    """Each step is given what the one before gave."""

    def forward(self, x):
        y, state, given = x[0], None, []
        for _ in range(6):
            state = self.cells[0](y, state)
            given.append(F.pad(self.out(state), (0, 2)))
            y = given[-1]
        return torch.stack(given)


class Summing(Layers):
    """A loss of each step."""

    def forward(self, x):
        return sum(F.mse_loss(self.out(h), x[t, :, :3]) for t, h in enumerate(self.steps(x)[0]))


class Dropping(Layers):
    """Random numbers between the steps."""

    def forward(self, x):
        h, given = None, []
        for part in x.unbind():
            h = self.cells[0](F.dropout(part, 0.5), h)
            given.append(F.dropout(h, 0.5))
        return torch.stack(given)


def recurrences(compiled):
    """How many loops and how many cells there are in the graph of a compiled function's first program."""
    ops = [v.op.name for v in parse(stage_text(compiled, "simplified", 0)).values]
    return ops.count("recurrence"), ops.count("cell")


def flat(results):
    return [t for t in torch.utils._pytree.tree_leaves(results) if isinstance(t, torch.Tensor)]


def check(net, compiled, *inputs, again=False):
    """One call of both from the same seed, with the gradients of parameters and inputs, and maybe those of the gradients."""
    found = []
    for one in (net, compiled):
        torch.manual_seed(1)
        leaves = [x.clone().requires_grad_() for x in inputs]
        results = flat(one(*leaves))
        of = sum((r * torch.arange(r.numel()).view_as(r).cos()).sum() for r in results)
        wanted = [*leaves, *one.parameters()]
        grads = torch.autograd.grad(of, wanted, allow_unused=True, create_graph=again)
        if again:
            grads += torch.autograd.grad(sum(g.square().sum() for g in grads if g is not None), wanted, allow_unused=True)
        found.append((results, grads))
    for theirs, ours in zip(*found):
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=3e-5)
    assert [r.stride() for r in found[0][0]] == [r.stride() for r in found[1][0]]


ROLLED = {**{cell: lambda cell=cell: Layers(cell) for cell in CELLS}, "deep": lambda: Layers("gru", 3),
          "batch first": lambda: Layers("lstm", 2, dim=1), "backwards": lambda: Layers("tanh", backwards=True),
          "last": lambda: Last("lstm"), "outputs": lambda: Outputs("gru"), "joined": lambda: Joined("relu"),
          "attending": lambda: Attending("lstm")}


@pytest.mark.parametrize("name", ROLLED)
def test_cells_one_after_another_are_a_loop(name):
    torch.manual_seed(0)
    net = ROLLED[name]()
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        check(net, compiled, torch.randn(6, 6, 5))
    assert recurrences(compiled) == (len(net.cells), 0)


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
def test_a_cell_of_linear_layers(activation):
    torch.manual_seed(0)
    net = Plain(activation)
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        check(net, compiled, torch.randn(6, 4, 5), torch.randn(4, 7))
    assert recurrences(compiled) == (1, 0)


@pytest.mark.parametrize("net", [Generating("gru"), Summing("lstm"), Dropping("gru")], ids=lambda net: type(net).__name__)
def test_those_that_stay_written_out(net):
    compiled = smelt.compile(copy.deepcopy(net), fullgraph=True)
    for _ in range(3):
        check(net, compiled, torch.randn(6, 4, 5))
    assert recurrences(compiled)[0] == 0


def test_short_ones_stay_written_out():
    net = Layers("gru")
    compiled = smelt.compile(copy.deepcopy(net))
    check(net, compiled, torch.randn(3, 4, 5))
    assert recurrences(compiled) == (0, 3)


def test_in_float64_and_differentiated_twice():
    torch.manual_seed(0)
    net = Layers("lstm").double()
    compiled = smelt.compile(copy.deepcopy(net))
    for _ in range(2):
        check(net, compiled, torch.randn(5, 4, 5, dtype=torch.float64), again=True)
    assert recurrences(compiled) == (1, 0)


def test_batches_of_changing_size():
    torch.manual_seed(0)
    net = Layers("gru")
    compiled = smelt.compile(copy.deepcopy(net))
    for batch in (4, 6, 9, 3, 1, 5):
        check(net, compiled, torch.randn(6, batch, 5))
    assert len(smelt.explain(compiled).programs) <= 3


def test_a_whole_training_step():
    torch.manual_seed(0)
    nets = [Outputs("lstm", 2)]
    nets.append(copy.deepcopy(nets[0]))
    optimizers = [torch.optim.Adam(net.parameters(), 0.01) for net in nets]

    def step(net, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.nll_loss(net(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss
    compiled = smelt.compile(step, fullgraph=True)
    for _ in range(5):
        x, y = torch.randn(6, 4, 5), torch.randint(3, (4, 6))
        torch.testing.assert_close(compiled(nets[1], optimizers[1], x, y), step(nets[0], optimizers[0], x, y))
    for a, b in zip(nets[0].parameters(), nets[1].parameters()):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


GRAPH = """\
graph f(%x: f32[5,2,3], %w: f32[4,4], %b: f32[4], %h: f32[2,4], %k: f32[2,4], %u: f32[3,4]) {{
{steps}
  return {results}
}}
"""


def steps(*order, state="%h", names="h"):
    """The lines of plain cells that are given these parts of %x."""
    lines, before = [], state
    for k, t in enumerate(order):
        lines += [f"  %{names}_s{k} = slice(%x, start=({t}, 0, 0), step=(1, 1, 1), size=(1, 2, 3)) : f32[1,2,3]",
                  f"  %{names}_r{k} = reshape(%{names}_s{k}, shape=(2, 3)) : f32[2,3]",
                  f"  %{names}_m{k} = matmul(%{names}_r{k}, %u) : f32[2,4]",
                  f"  %{names}_c{k} = cell(%{names}_m{k}, %w, %b, {before}, cell='rnn_tanh') : (f32[2,4])",
                  f"  %{names}_i{k} = item(%{names}_c{k}, index=0) : f32[2,4]"]
        before = f"%{names}_i{k}"
    return lines


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (0, 0, 1, 4), (1, 2, 3, 4), (2, 2, 2, 2)])
def test_parts_in_any_order(order):
    graph = verify(parse(GRAPH.format(steps="\n".join(steps(*order)), results=f"%h_i{len(order) - 1}, %h_i0")))
    rolled = verify(roll(graph), "roll")
    assert [v.op.name for v in rolled.values].count("recurrence") == 1
    inputs = [torch.randn(i.shape) for i in graph.inputs]
    for a, b in zip(evaluate(graph, inputs), evaluate(rolled, inputs)):
        torch.testing.assert_close(b, a)


def test_two_chains_that_read_each_other():
    """Neither can run before the other: one of them at most is a loop."""
    lines = [*steps(0, 1, 2, 3), *steps(0, 1, 2, 3, state="%k", names="g")]
    crossed = [line.replace("matmul(%h_r3", "matmul(%h_q3") for line in lines[:20]]
    crossed.insert(17, "  %h_q3 = slice(%g_i1, start=(0, 0), step=(1, 1), size=(2, 3)) : f32[2,3]")
    other = [line.replace("matmul(%g_r3", "matmul(%g_q3") for line in lines[20:]]
    other.insert(17, "  %g_q3 = slice(%h_i1, start=(0, 0), step=(1, 1), size=(2, 3)) : f32[2,3]")
    text = GRAPH.format(steps="\n".join([*crossed[:15], *other[:15], *crossed[15:], *other[15:]]), results="%h_i3, %g_i3")
    graph = verify(parse(text))
    rolled = verify(roll(graph), "roll")
    assert [v.op.name for v in rolled.values].count("recurrence") == 1
    inputs = [torch.randn(i.shape) for i in graph.inputs]
    for a, b in zip(evaluate(graph, inputs), evaluate(rolled, inputs)):
        torch.testing.assert_close(b, a)
