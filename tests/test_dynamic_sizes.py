"""Sizes of arguments and of state that change from call to call: one program for all of them, equal to eager at each."""
from __future__ import annotations

import copy
import functools
import math
import operator
import random
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import smelt
from smelt.compiler.dims import expr
from smelt.frontend.api import compiled_function
from smelt.frontend.symbolic.sizes import Sizes
from smelt.frontend.symbolic.symbols import is_symbolic

BATCHES = [(4, 8), (6, 8), (9, 8), (3, 8), (1, 8), (4, 8), (2, 8), (17, 8)]
SEQUENCES = [(4, 5, 8), (6, 5, 8), (12, 7, 8), (3, 9, 8), (2, 2, 8), (11, 12, 8), (1, 5, 8), (4, 5, 8)]
IMAGES = [(2, 3, 8, 8), (4, 3, 8, 8), (7, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8), (3, 3, 8, 8)]
LENGTHS = [(3, n) for n in (40, 43, 46, 52, 61, 33, 48)]
WINDOW = torch.hann_window(16)
POSITIONS = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))


def _twice(x):
    y = x * 1
    y[:, 0].add_(1)
    return y, y[1:]


def _causal(x):
    seen = torch.tril(torch.ones(x.shape[1], x.shape[1])) == 1
    return (x @ x.transpose(1, 2)).masked_fill(~seen, float("-inf")).softmax(-1) @ x


def _padding_mask(x):
    """As an encoder makes it of what is padded, first in place and then in a view."""
    padded = (x > 0).transpose(0, 1)
    mask = torch.zeros_like(padded, dtype=torch.float32).masked_fill_(padded, -9.0)
    return mask.view(x.shape[1], 1, 1, x.shape[0]).expand(-1, 2, -1, -1) + x.t()[:, None, None]


#: name -> (function, shapes of the calls, number of programs)
FUNCTIONS = {
    "relu": (lambda x: F.relu(x) * 2, [*BATCHES, (0, 8)], 4),
    "padding mask": (_padding_mask, BATCHES, 3),
    "flatten": (lambda x: x.flatten(1), SEQUENCES, 4),
    "flatten in front": (lambda x: x.flatten(0, 1) * 2, SEQUENCES, 4),
    "view": (lambda x: x.view(x.shape[0], -1) + 1, SEQUENCES, 4),
    "reshape": (lambda x: x.reshape(x.shape[0] * x.shape[1], 2, 4) + 1, SEQUENCES, 4),
    "transpose": (lambda x: (x.transpose(1, 2).contiguous(), (x * 2).transpose(1, 2)), SEQUENCES, 4),
    "mean": (lambda x: (x.mean(0), x.mean((0, 1)), x.mean()), SEQUENCES, 4),
    "var": (lambda x: x.var((0, 1)), SEQUENCES, 4),
    "softmax": (lambda x: x.softmax(0) + x.softmax(1), SEQUENCES, 4),
    "cat": (lambda x: torch.cat([x, torch.ones(x.shape[0], 1, 8)], 1), SEQUENCES, 4),
    "stack": (lambda x: torch.stack([x, x * 2], 1), SEQUENCES, 4),
    "split": (lambda x: (sum(x.split(4, -1)), x.chunk(2, -1)[1]), SEQUENCES, 4),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1)), SEQUENCES, 4),
    "slices": (lambda x: (x[:, :-1] - x[:, 1:]), SEQUENCES, 4),
    "last": (lambda x: x[-1] + x[:, -1:], [(4, 5, 8), (6, 5, 8), (12, 7, 8), (3, 9, 8), (11, 12, 8)], 3),
    "times a size": (lambda x: x * x.shape[0] / x.shape[1] ** 0.5, SEQUENCES, 4),
    "divided by a count": (lambda x: x.sum() / x.numel(), SEQUENCES, 4),
    "size returned": (lambda x: (x * 2, x.shape[0] * 2, x.shape), SEQUENCES, 4),
    "arange": (lambda x: x + torch.arange(x.shape[1])[None, :, None], SEQUENCES, 4),
    "new tensors": (lambda x: x + torch.zeros(x.shape[0], 1, 8) + torch.ones_like(x) + x.new_ones(x.shape), SEQUENCES, 4),
    "expand": (lambda x: torch.ones(1, 1, 8).expand_as(x) + x, SEQUENCES, 4),
    "positions": (lambda x: x + POSITIONS[:x.shape[1]], SEQUENCES, 4),
    "causal attention": (_causal, SEQUENCES[1:5], 2),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), SEQUENCES[1:5], 2),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), SEQUENCES, 4),
    "views": (lambda x: (x[:, 1:], x.view(-1, 8), x.transpose(0, 1)), SEQUENCES, 4),
    "write to a view": (_twice, SEQUENCES, 4),
    "in place": (lambda x: (x * 1).add_(1).relu_(), SEQUENCES, 4),
    "dropout": (lambda x: F.dropout(x, 0.5), SEQUENCES, 4),
    "a branch on a size": (lambda x: x * 2 if x.shape[0] > 5 else x * 3, [(4, 8), (6, 8), (3, 8), (9, 8), (2, 8)], 3),
    "a loop over a size": (lambda x: sum(x[:, t] * t for t in range(x.shape[1])),
                           [(4, 5, 8), (6, 5, 8), (9, 5, 8), (9, 7, 8), (3, 7, 8), (5, 5, 8)], 3),
    "a size as text": (lambda x: x * len(f"{x.shape[0]}"), [(4, 8), (6, 8), (12, 8), (4, 8)], 3),
    "calls of torch": (lambda x: (x.sort(0)[0] * 2, torch.ones_like(x.cumprod(0)), x.topk(2)[0]), BATCHES, 3),
    "sizes given to a call of torch": (lambda x: F.interpolate(x[None], (x.shape[1] + 1, 4), mode="bicubic") * 2,
                                       SEQUENCES[1:4], 2),
    "an image of twice the size": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGES, 3),
    "whole numbers of C++": (lambda x: x * torch.linspace(0, 1, x.shape[0])[:, None] + torch.hann_window(8), BATCHES, 3),
    "triangles": (lambda x: x.T.tril()[:3, torch.tril_indices(x.shape[0], x.shape[0])[0]], BATCHES, 3),
    "padded rows": (lambda x: pad_sequence([x, x[1:]], padding_side="left") * 2, BATCHES, 3),
    "bags": (lambda x: F.embedding_bag(torch.arange(x.shape[0] * 3).view(-1, 3) % 2, x[:2], mode="mean"), BATCHES[:4], 2),
    "numbers in place of tensors": (lambda x: x.view(-1, int(torch.div(x.shape[1], 2, rounding_mode="trunc"))) * torch.add(3, 2),
                                    [(4, 8), (6, 8), (9, 8)], 2),
    "parts of a length": (lambda x: (x[:, :int(x.shape[1] / 2)] * 2, x[:, :int(x.shape[1] * 0.75)] * 2,
                                     x[:, :math.floor(x.shape[1] / 4 + 0.5)] * 2, x[:, math.ceil(x.shape[1] / 3):] * 2),
                          LENGTHS, 2),
    "numbers computed of a length": (lambda x: (x[:, :int(x.shape[1] * 0.3)] * 2, x[:, :round(x.shape[1] / 4)] + 1,
                                                x[:, :math.isqrt(x.shape[1])] * 2, x[:, -int(math.log2(x.shape[1])):] * 2,
                                                x.topk(max(1, int(0.1 * x.shape[1])), 1)[0]), LENGTHS, 2),
    "quotient and remainder": (lambda x: x[:, :divmod(x.shape[1], 3)[0]] * (divmod(50, x.shape[1])[1] + 1), LENGTHS, 2),
    "a number computed of two sizes": (lambda x: x.flatten(0, 1)[:int((x.shape[0] * x.shape[1]) ** 0.5)] * 2, SEQUENCES[1:4], 2),
    "padded to a multiple": (lambda x: F.pad(x, (0, -x.shape[1] % 8)).view(3, -1, 8).sum(-1), LENGTHS, 2),
    "padded to a multiple from above": (
        lambda x: F.pad(x, (0, math.ceil(x.shape[1] / 8) * 8 - x.shape[1])).view(3, -1, 8).sum(-1), LENGTHS, 2),
    "an image of other sizes": (
        lambda x: (F.interpolate(x, scale_factor=0.5, mode="bilinear"), F.interpolate(x, scale_factor=1.5)),
        [(1, 3, 8, n) for n in (8, 11, 9, 14, 6)], 2),
    "spectra": (lambda x: (torch.fft.rfft(x).abs(), torch.fft.irfft(torch.fft.rfft(x)),
                           torch.stft(x, 16, 4, window=WINDOW, return_complex=True).abs(),
                           torch.stft(input=x, n_fft=16, hop_length=5, center=False, return_complex=True).abs()), LENGTHS, 2),
    "pooling of sequences": (lambda x: (F.max_pool1d(x, 3, 2), F.max_pool1d(x, 3, 2, 1, 1, True), torch.max_pool1d(x, 2),
                                        F.max_pool1d(x, (4,), return_indices=True)[1]), LENGTHS, 2),
    "windows of an image": (lambda x: F.unfold(x[:, None, None], (1, 3), stride=(1, 2)) * 2, LENGTHS, 2),
    "kronecker": (lambda x: torch.kron(x, torch.ones(2, 2)), LENGTHS, 2),
    "a size as a tensor": (lambda x: x / torch.tensor(x.shape[1]).sqrt(), LENGTHS, 2),
    "a fixed partner": (lambda x: x + POSITIONS[:16], [(4, 16, 8), (5, 16, 8), (16, 16, 8), (7, 16, 8)], 2),
}
MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), BATCHES, 3),
    "linear over a sequence": (lambda: nn.Linear(8, 3), SEQUENCES, 4),
    "batch norm": (lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), [b for b in BATCHES if b[0] > 2], 2),
    "layer norm": (lambda: nn.LayerNorm(8), SEQUENCES, 4),
    "cnn": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)),
            IMAGES, 3),
    "lstm": (lambda: nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True), SEQUENCES[1:], 3),
    "lstm with projections": (lambda: nn.LSTM(8, 4, proj_size=3), SEQUENCES[1:], 3),
    "gru with dropout": (lambda: nn.GRU(8, 4, 2, batch_first=True, dropout=0.5), SEQUENCES[1:], 3),
    "rnn": (lambda: nn.RNN(8, 4), SEQUENCES[1:], 3),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), SEQUENCES[1:4], 2),
}


def test_quotients_of_sizes_are_those_of_floats():
    """What is known of a float that is computed of a size, for sizes up to the largest."""
    dice, known = random.Random(0), 0
    for _ in range(3000):
        steps = [(dice.choice((operator.add, operator.sub, operator.mul, operator.truediv)),
                  dice.choice((2, 3, 7, 50000, 0.5, 0.75, 1.5, 0.1, 8, 1 / 3))) for _ in range(dice.randint(1, 4))]

        def computed(n):
            return functools.reduce(lambda value, step: step[0](value, step[1]), steps, n)
        sizes = Sizes()
        sizes.symbol((0, 0), 37, "x.shape[0]")
        found = computed(sizes.numbers(torch.SymInt(sizes._known["s0"])))
        if is_symbolic(found) and found.node.ratio is not None:
            known += 1
            for n in (2, 3, 37, 1000, 12345677, (1 << 31) - 1, (1 << 31) - 2):
                for form, rounded in ((found.node.floored(), math.floor), (found.node.raised(), math.ceil)):
                    assert expr(form).evaluate({"s0": n}) == rounded(computed(n)), steps
    assert known > 500


def _results(value) -> list:
    return [r for v in value for r in _results(v)] if type(value) is tuple else [value]


def _called(function, x: torch.Tensor) -> tuple:
    """Results, the gradient, and torch's random state after a call."""
    torch.manual_seed(7)
    x = x.clone().requires_grad_()
    results = _results(function(x))
    differentiable = [r for r in results if isinstance(r, torch.Tensor) and r.requires_grad]
    sum((r * r).sum() for r in differentiable).backward()
    return results, x.grad, torch.get_rng_state(), x._version


def _check(plain, compiled, shape, generator) -> None:
    x = torch.randn(shape, generator=generator)
    (theirs, grad, state, version), (ours, our_grad, our_state, our_version) = _called(plain, x), _called(compiled, x)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert type(a) is type(b)
        if isinstance(a, torch.Tensor):
            assert a.stride() == b.stride() and a.requires_grad == b.requires_grad
            torch.testing.assert_close(a, b, equal_nan=True)
        else:
            assert a == b and all(type(i) is type(j) for i, j in zip(_results(a), _results(b)))
    torch.testing.assert_close(our_grad, grad, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert torch.equal(our_state, state) and our_version == version


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, shapes, programs = FUNCTIONS[name]
    compiled, generator = smelt.compile(function), torch.Generator().manual_seed(0)
    for shape in shapes:
        _check(function, compiled, shape, generator)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == programs, report


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    make, shapes, programs = MODULES[name]
    torch.manual_seed(0)
    twin = make()
    compiled, generator = smelt.compile(copy.deepcopy(twin)), torch.Generator().manual_seed(0)
    for shape in shapes:
        _check(twin, compiled, shape, generator)
    for (name, a), b in zip(compiled.state_dict().items(), twin.state_dict().values()):
        torch.testing.assert_close(a, b, msg=name)
    for a, b in zip(compiled.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == programs, report


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 16), nn.Parameter(torch.randn(32, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 20)

    def forward(self, text, target):
        h = self.encoder(self.words(text) + self.positions[:text.shape[1]])
        return F.cross_entropy(self.out(h).flatten(0, 1), target.flatten())


def test_fifty_batch_sizes_through_training():
    """A transformer's training with a batch of another size each time: two programs."""
    torch.manual_seed(0)
    plain = Translator()
    compiled = smelt.compile(copy.deepcopy(plain))
    pairs = [(m, torch.optim.SGD(m.parameters(), 0.05, momentum=0.9)) for m in (plain, compiled)]
    generator = torch.Generator().manual_seed(1)
    for size in torch.randperm(50, generator=generator).add(2).tolist():
        text, target = torch.randint(0, 20, (2, size, 7), generator=generator)
        losses = []
        for module, optimizer in pairs:
            torch.manual_seed(size)
            optimizer.zero_grad()
            losses.append(module(text, target))
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    for a, b in zip(plain.parameters(), compiled.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == 2, report


WHOLE_STEPS = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.Tensor.detach, 3),
    "Adam": (lambda p: torch.optim.Adam(p, 1e-3), torch.Tensor.detach, 3),
    "a loss as a number": (lambda p: torch.optim.SGD(p, 0.1), torch.Tensor.item, 2),
}


@pytest.mark.parametrize("name", WHOLE_STEPS)
def test_fifty_batch_sizes_through_whole_steps(name):
    """A step with its optimiser in one function: a program for the first call, which makes the optimiser's state or the
    first gradients, one for the next, and one for all other sizes. Two that read the loss, as a number and as a symbol, are one
    tree."""
    make, end, programs = WHOLE_STEPS[name]
    torch.manual_seed(0)
    plain = Translator()
    twins, state = (plain, copy.deepcopy(plain)), ({"log": []}, {"log": []})

    def step_of(model, state):
        optimizer = make(model.parameters())

        def step(text, target):
            optimizer.zero_grad()
            loss = model(text, target)
            loss.backward()
            optimizer.step()
            state["log"].append(loss.detach())
            return end(loss)
        return step
    eager, step = step_of(twins[0], state[0]), smelt.compile(step_of(twins[1], state[1]))
    generator = torch.Generator().manual_seed(1)
    for size in (9, 9, *torch.randperm(50, generator=generator).add(2).tolist()):
        text, target = torch.randint(0, 20, (2, size, 7), generator=generator)
        found = []
        for run in (eager, step):
            torch.manual_seed(size)
            found.append(run(text, target))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    for a, b in zip(*(t.parameters() for t in twins)):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=3e-3)
    assert len(state[0]["log"]) == len(state[1]["log"])
    assert smelt.explain(step).compiled and len(step.programs) == programs, smelt.explain(step)


def test_state_is_as_eager_leaves_it_where_the_repetition_fails():
    """A run is repeated with symbols on the state that it began with; whatever comes of that, the first run's state stays."""
    class Kept:
        count = 0
    kept, log, table, weight = Kept(), [], {"a": 1}, torch.ones(3, requires_grad=True)

    def step(x):
        kept.count += 1
        Kept.count += 1
        log.append(kept.count)
        table["b"] = table.pop("a", 0) + 1
        (x * weight).sum().backward()
        ours = [weight.grad, x.clone().storage_offset()]  # which symbols don't tell
        return ours[0] * kept.count
    compiled = smelt.compile(step)
    for n, size in enumerate((4, 4, 6, 5, 7), 1):
        weight.grad = None
        found = compiled(torch.ones(size, 3))
        assert torch.equal(found, torch.full((3,), float(size * n))) and kept.count == n and len(log) == n
        assert log == list(range(1, n + 1)) and Kept.count == n and table == {"b": 1} or n == 1
        table.clear()
        table["a"] = 0
    assert "begins" in compiled.varying.reasons[0]


def test_several_symbols():
    """Equal sizes share a symbol as long as they are equal; others have their own."""
    f = smelt.compile(lambda x, y: x @ y)
    for n, m in ((4, 5), (6, 7), (9, 8), (8, 8), (3, 30), (2, 2)):
        x, y = torch.randn(n, 8), torch.randn(8, m)
        torch.testing.assert_close(f(x, y), x @ y)
    assert len(f.programs) == 2
    g = smelt.compile(lambda x, y: x + y)
    for n in (4, 6, 9):
        assert g(torch.ones(n, 8), torch.ones(n, 8)).shape == (n, 8)
    assert len(g.programs) == 2
    assert g(torch.ones(7, 8), torch.ones(1, 8)).shape == (7, 8)
    with pytest.raises(RuntimeError):
        g(torch.ones(7, 8), torch.ones(5, 8))


def test_what_is_asked_of_a_size_is_a_guard():
    f = smelt.compile(lambda x: x[:x.shape[0] // 2] if x.shape[0] % 2 == 0 else x * 1)
    for n in (4, 8, 6, 100):
        assert f(torch.ones(n)).shape == (n // 2,)
    assert len(f.programs) == 2 and "% 2) == 0 is True" in str(f.programs[0])
    assert f(torch.ones(5)).shape == (5,) and f(torch.ones(7)).shape == (7,)
    assert len(f.programs) == 3
    assert f.recompilations[-1].endswith("True -> False")


def test_at_once_and_never():
    marked = smelt.compile(torch.sin)
    always, never = smelt.compile(torch.cos, dynamic=True), smelt.compile(torch.tanh, dynamic=False)
    for n in (4, 6, 8):
        x = torch.randn(n, 3)
        smelt.mark_dynamic(x, 0)
        torch.testing.assert_close(marked(x), x.sin())
        torch.testing.assert_close(always(x), x.cos())
        torch.testing.assert_close(never(x), x.tanh())
    assert [len(f.programs) for f in (marked, always, never)] == [1, 1, 3]
    always(torch.randn(5, 7)), marked(torch.randn(5, 7))
    assert [len(f.programs) for f in (marked, always)] == [2, 1]
    with pytest.raises(IndexError):
        smelt.mark_dynamic(torch.randn(3), 1)
    x = torch.randn(3)
    x._dynamo_dynamic_indices = {0}  # as torch._dynamo.mark_dynamic leaves it
    f = smelt.compile(torch.exp)
    f(x), f(torch.randn(9))
    assert len(f.programs) == 1


def test_dynamic_sizes_that_a_parameter_fixes():
    """Under dynamic=True, sizes that have to fit a parameter stay numbers, the others are symbols."""
    layer = nn.Linear(8, 3)
    f = smelt.compile(layer, dynamic=True)
    for n in (8, 4, 5):
        x = torch.randn(n, 8)
        torch.testing.assert_close(f(x), layer(x))
    assert len(compiled_function(f).programs) <= 2


def test_inputs_written_to():
    """The run is repeated for the recording: nothing is written twice."""
    def f(x, log):
        log.add_(1)
        x.mul_(2)
        return x + log

    g = smelt.compile(f)
    mine, theirs = torch.zeros(8), torch.zeros(8)
    for n in (4, 6, 9, 1, 5):
        x = torch.randn(n, 8)
        a, b = x.clone(), x.clone()
        assert torch.equal(g(a, mine), f(b, theirs)) and torch.equal(a, b) and a._version == b._version
        assert torch.equal(mine, theirs) and mine._version == theirs._version
    assert len(g.programs) == 3


def test_arguments_in_containers():
    def f(batch, *, scale):
        return {"out": batch["x"] * scale + batch["more"][0], "count": batch["x"].shape[0]}

    g = smelt.compile(f)
    for n in (4, 6, 9, 11):
        more = [torch.randn(n, 1), "text"]
        batch = {"x": torch.randn(n, 8), "more": more}
        held = list(batch.values())
        ours, theirs = g(batch, scale=2.0), f(batch, scale=2.0)
        assert torch.equal(ours["out"], theirs["out"]) and ours["count"] is n
        assert all(a is b for a, b in zip(batch.values(), held)) and type(more[0]) is torch.Tensor
    assert len(g.programs) == 2


def test_layouts_of_arguments():
    """A program for symbolic sizes holds for the layout that it was recorded with."""
    f = smelt.compile(lambda x: x.reshape(-1) * 2)
    for n in (4, 6, 9):
        for x in (torch.randn(n, 8), torch.randn(8, n).t(), torch.randn(n, 16)[:, ::2]):
            ours, theirs = f(x), x.reshape(-1) * 2
            assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    assert smelt.explain(f).compiled


@pytest.mark.filterwarnings("error")
def test_a_rule_for_sizes_that_does_not_always_hold():
    def f(x):
        below = torch.tril_indices(x.shape[0], 4, -3)
        return x.sum() + below.shape[1], below + 1
    compiled = smelt.compile(f)
    for n, programs in ((9, 1), (10, 2), (12, 2), (7, 2), (5, 2), (4, 3), (5, 3), (12, 4)):
        for ours, theirs in zip(compiled(torch.ones(n)), f(torch.ones(n))):
            assert torch.equal(ours, theirs)
        assert len(smelt.explain(compiled).programs) == programs
    report = smelt.explain(compiled)
    assert report.compiled and "not foreseen" in str(report)


def test_sizes_beside_warnings():
    """Attention with masks of two kinds warns: of all lengths, as eager does, and the sizes are symbols nevertheless."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def f(x, padding):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return layer(x, src_mask=mask, src_key_padding_mask=padding).sum()
    compiled = smelt.compile(f)
    for length in (5, 7, 4, 9, 12):
        x, padding = torch.randn(3, length, 8), torch.arange(length).expand(3, -1) >= torch.tensor([[length], [3], [2]])
        with pytest.warns(UserWarning, match="mismatched src_key_padding_mask"):
            theirs = f(x, padding)
        with pytest.warns(UserWarning, match="mismatched src_key_padding_mask") as said:
            ours = compiled(x, padding)
        torch.testing.assert_close(ours, theirs)
        assert len([w for w in said if "mismatched src" in str(w.message)]) == 1
    report = smelt.explain(compiled)
    assert report.compiled and not report.fixed_sizes and len(report.recompilations) == 1


def test_why_sizes_stay_fixed():
    f = smelt.compile(lambda x: sum(x[t] for t in range(len(x))))
    for n in (3, 5, 3):
        x = torch.randn(n, 2, 4)
        torch.testing.assert_close(f(x), x.sum(0))
    report = smelt.explain(f)
    assert report.compiled and len(report.programs) == 2 and report.fixed_sizes and "sizes stay fixed" in str(report)


def test_a_failing_repetition_leaves_nothing():
    """What can't be recorded with symbols is recorded as it is: the random state, buffers and arguments are those of one call."""
    bn, twin = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

    def f(bn, x):
        return bn(x) * float(x.shape[0]) * hash(x.shape[0]) + torch.rand(())

    g = smelt.compile(f)
    for n in (4, 6, 9):
        x = torch.randn(n, 8)
        torch.manual_seed(n)
        ours, state = g(bn, x), torch.get_rng_state()
        torch.manual_seed(n)
        torch.testing.assert_close(ours, f(twin, x))
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(bn.running_var, twin.running_var) and bn.num_batches_tracked == twin.num_batches_tracked
        assert bn.running_mean._version == twin.running_mean._version
    assert len(g.programs) == 3


class _Attention(nn.Module):
    """Causal attention that keeps the keys and values of what came before."""

    def __init__(self):
        super().__init__()
        self.mix, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.cache: tuple | None = None

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.mix(x).chunk(3, -1))
        if self.cache is not None:
            k, v = (torch.cat(pair, 2) for pair in zip(self.cache, (k, v)))
        self.cache = k, v
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = (q @ k.transpose(2, 3)).masked_fill(~mask, float("-inf"))
        return x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("batch", [1, 3])
def test_generating_with_a_cache_in_state(batch):
    """Texts begin with several tokens and go on one by one: a handful of programs, whatever the cache holds."""
    model = nn.Sequential(_Attention(), nn.ReLU(), _Attention()).eval()
    twin = copy.deepcopy(model)
    compiled = smelt.compile(model)
    for length in (5, 7, 3, 9):
        for m in (model, twin):
            m[0].cache = m[2].cache = None
        for tokens in (length, *[1] * 40):
            x = torch.randn(batch, tokens, 8)
            with torch.no_grad():
                torch.testing.assert_close(compiled(x), twin(x))
        for mine, theirs in zip(model[2].cache, twin[2].cache):
            assert type(mine) is torch.Tensor
            torch.testing.assert_close(mine, theirs)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == 5 and not report.fixed_sizes


class _OfAType(nn.Module):
    def forward(self, x):
        if x.shape[0] > 100:
            raise ValueError(f"{type(x).__name__} of many rows")
        return x * 2 if type(self).forward is _OfAType.forward else x


def _a_generator(x):
    def found():
        yield 1
        yield type(x.shape[0])
    return x * (2 if [*found()][1] is int else 3)


def _a_variable(x):
    n = None
    return [n := x.shape[0], type(n)] and x * 2


def _asked_under_a_condition(x):
    n = x.shape[0]
    return x * 3 if type(n) is int and n > 5 else x * 2


def _several(x):
    return x * len({*map(type, x.shape)})


TYPES = {
    "a line that is not reached, and a module's": (_OfAType(), 2), "a generator": (_a_generator, 2),
    "a variable set on the line": (_a_variable, 2), "a condition": (_asked_under_a_condition, 3),
    "a constant": (lambda x: x * (2 if isinstance(x.shape[0], type(None)) else 3), 2),
    "a lambda": (lambda x: x * (2 if type(x.shape[0]) is int else 3), 2),
    "a tensor's": (lambda x: x * (2 if str(type(x)).startswith("<class 'torch.") else 3), 2), "several": (_several, 5),
    "a comprehension": (lambda x: x * len([type(n) for n in x.shape]), 2),
    "a class": (lambda x: x * len([n for n in x.shape if not isinstance(n, type)]), 2),
    "code that has lost it meanwhile": (lambda x: x * (2 if _several(x).sum() is x or type(x.shape[0]) is int else 3), 5),
}


@pytest.mark.parametrize("name", TYPES)
def test_code_that_looks_at_types(name):
    """A size that is a symbol is an int to `type` where code does no more than call it; elsewhere sizes stay fixed where the
    run asks that of numbers or tensors."""
    function, programs = TYPES[name]
    f = smelt.compile(function)
    for n in (3, 4, 5, 7, 8):
        x = torch.randn(n, 2)
        assert torch.equal(f(x), function(x))
    report = smelt.explain(f)
    assert len(report.programs) == programs and any("looks at a type" in r for r in report.fixed_sizes) == (programs == 5)


def test_a_debugger_keeps_its_place():
    seen = []

    def trace(frame, event, arg):
        seen.append(frame.f_code.co_name)

    f = smelt.compile(_several)
    for n in (3, 4, 5):
        x = torch.randn(n, 2)
        sys.settrace(trace)
        try:
            y = f(x)
        finally:
            assert sys.gettrace() is trace
            sys.settrace(None)
        assert torch.equal(y, x)
    assert "_several" in seen and len(smelt.explain(f).programs) == 3


def test_len_asks_for_no_number():
    compiled = smelt.compile(lambda x: (x * 2).sum() / len(x))
    for n in (2, 3, 4, 7):
        x = torch.randn(n, 3, requires_grad=True)
        compiled(x).backward()
        torch.testing.assert_close(x.grad, torch.full((n, 3), 2 / n))
    assert len(smelt.explain(compiled).programs) == 2


@pytest.mark.parametrize("make", [
    lambda n: torch.randn(4, n + 3)[:, :n], lambda n: torch.randn(3, n, n + 4)[:, :, 1:], lambda n: torch.randn(5, n + 1)[:, 0],
    lambda n: torch.randn(n + 2, n + 3, 13)[1:, 1:].transpose(0, 2), lambda n: torch.randn(4, 2 * n)[:, ::2]])
def test_strides_of_slices_are_symbols(make):
    def function(x):
        return x.exp() * 2, x.reshape(-1) + 1, x[1:]
    compiled = smelt.compile(function)
    for n in (2, 3, 5, 9, 4):
        x = make(n)
        for found, wanted in zip(compiled(x), function(x)):
            torch.testing.assert_close(found, wanted)
            assert found.stride() == wanted.stride()
    assert len(smelt.explain(compiled).programs) == 2
