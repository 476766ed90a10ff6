"""Programs on a stand-in for a GPU (stand_in_gpu.py), beside eager: where tensors lie, random numbers, CUDA graphs."""
from __future__ import annotations

import warnings
from typing import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import library

import smelt
from smelt import pipeline
from smelt.compiler import parse

from .stand_in_gpu import stand_in

pytest.importorskip("triton")


@pytest.fixture
def card():
    torch.manual_seed(0)
    with stand_in() as card:
        yield card


def random(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.randn(shape, device="cuda").requires_grad_(grad)


def leaves(result) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def run(function: Callable, arguments: list) -> list[torch.Tensor]:
    """What a call gives, the gradients of its first result, and its arguments after it."""
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    results = leaves(function(*arguments))
    if results[0].requires_grad:
        results[0].backward(torch.ones_like(results[0]))
    return [*results, *(t.grad for t in tensors if t.grad is not None), *tensors]


def assert_alike(ours: list, eagers: list) -> None:
    for a, b in zip(ours, eagers, strict=True):
        assert (a.device, a.dtype, a.stride()) == (b.device, b.dtype, b.stride())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def check(card, function: Callable, make: Callable, mode: str | None = None, calls: int = 5):
    """Hold calls of a compiled function against eager's, when they are all over; each draws the same random numbers."""
    compiled = smelt.compile(function, fullgraph=True, verify="raise", mode=mode)
    found = []
    for _ in range(calls):
        arguments = make()
        copies = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in arguments]
        before = torch.get_rng_state(), card.generator
        ours = run(compiled, arguments)
        after = torch.get_rng_state(), card.generator
        torch.set_rng_state(before[0])
        card.generator = before[1]
        found.append((ours, run(function, copies)))
        assert torch.equal(after[0], torch.get_rng_state()) and torch.equal(after[1], card.generator)
    for ours, eagers in found:
        assert_alike(ours, eagers)
    report = smelt.explain(compiled)
    assert report.compiled and not report.fallbacks, str(report)
    return report


def put(x, s):
    y = x.clone()
    y[0], y[1, :3] = 5.0, s
    return y * 2


PROGRAMS = {
    "made on the device that is current": (lambda x: x + torch.zeros(20, device="cuda") + torch.arange(20, device="cuda"),
                                           lambda: [random(16, 20)]),
    "a number of the CPU's": (lambda x, s: (x * s + 1).sum(1), lambda: [random(16, 20), torch.tensor(3.0)]),
    "a constant of the CPU's": (lambda x: torch.where(x > 0, x, 0.5) * torch.tensor(3.0), lambda: [random(16, 20)]),
    "the gradient of a number of the CPU's": (lambda x, s: torch.sin(x * s), lambda: [
        random(16, 20, grad=True), torch.tensor(3.0, requires_grad=True)]),
    "a number that changes": (lambda x, s: x * s + 1, lambda: [random(16, 20), float(torch.rand(()))]),
    "a batch brought from the CPU": (lambda x, w: (x.to("cuda") * 2) @ w, lambda: [torch.randn(6, 20), random(20, 4, grad=True)]),
    "a result brought to the CPU": (lambda x: (x * 2).cpu() + 1, lambda: [random(16, 20)]),
    "places on the CPU": (lambda x, i: x[i] * 2, lambda: [random(16, 20), torch.tensor([1, 3])]),
    "dropout": (lambda x: F.dropout(x * 2, 0.5) + 1, lambda: [random(16, 20, grad=True)]),
    "random numbers": (lambda x: x + torch.randn(16, 20, device="cuda") * torch.rand_like(x), lambda: [random(16, 20)]),
    "random numbers of both": (lambda x: x + torch.randn(20).to("cuda") * torch.rand_like(x), lambda: [random(16, 20)]),
    "a branch": (lambda x: x * 2 if x.sum() > 0 else x - 1, lambda: [random(16, 20)]),
    "an element": (lambda x: x * x.sum().item(), lambda: [random(16, 20)]),
    "nothing": (lambda x: x * 2 + x.sum(), lambda: [random(0, 20)]),
    "no dimension": (lambda x: x * 2 + 1, lambda: [random()]),
    "in place": (lambda x: x.mul_(2).add_(1), lambda: [random(16, 20)]),
    "an embedding": (lambda table, i: F.embedding(i, table) * 2, lambda: [
        random(10, 4, grad=True), torch.randint(0, 10, (7,), device="cuda")]),
    "cross-entropy": (F.cross_entropy, lambda: [random(16, 20, grad=True), torch.randint(0, 20, (16,), device="cuda")]),
    "integers": (lambda x: (x // (x % 5 + 1)).sum(0), lambda: [torch.randint(-9, 9, (20, 3), device="cuda")]),
    "put into memory of the GPU's": (put, lambda: [random(16, 20), torch.tensor(3.0)]),
    "sizes that change": (lambda x, w: F.dropout(F.layer_norm(x @ w, (8,)), 0.5), lambda: [
        random(int(torch.randint(2, 30, ())), 20, grad=True), random(20, 8, grad=True)]),
    "as many as there are": (lambda x: x[x > 0] * 2, lambda: [random(16, 20)]),
}


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("error::smelt.SmeltWarning")
def test_programs(card, name, mode):
    check(card, *PROGRAMS[name], mode)


@pytest.fixture
def cudnn():
    """cuDNN's batch norm, which torch calls on a GPU, and which writes the running statistics without saying so."""
    kernels = library.Library("aten", "IMPL")

    def batch_norm(x, weight, bias, mean, variance, training, momentum, eps):
        found = torch.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
        return *found, torch.empty(7, dtype=torch.uint8)

    def backward(x, g, weight, mean, variance, saved_mean, saved_rstd, eps, reserve):
        saved = saved_mean, saved_rstd
        return torch.ops.aten.native_batch_norm_backward(g, x, weight, mean, variance, *saved, True, eps, [True] * 3)
    kernels.impl("cudnn_batch_norm", batch_norm, "CPU")
    kernels.impl("cudnn_batch_norm_backward", backward, "CPU")
    yield
    kernels._destroy()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_cudnn(cudnn, training):
    layers = [torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4)]

    def function(layer):
        def call(x):
            statistics = layer.running_mean, layer.running_var
            return torch.ops.aten.cudnn_batch_norm(x * 2, layer.weight, layer.bias, *statistics, training, 0.1, 1e-5)[0] + 1
        return call
    ours, eagers = smelt.compile(function(layers[0]), fullgraph=True, verify="raise"), function(layers[1])
    for _ in range(4):
        x = torch.randn(8, 4, 5)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), eagers(x), rtol=1e-4, atol=1e-5)
        for a, b in zip(layers[0].buffers(), layers[1].buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for _ in range(3 if training else 0):  # cuDNN has no backward of the other
        gradients = [torch.autograd.grad(f(x).square().sum(), layer.weight) for f, layer in zip((ours, eagers), layers)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_a_failed_check_is_an_assertion_of_the_device(card):
    graph = parse("""
graph f(%table: f32[10,4]@cuda:0, %i: i64[3]@cuda:0) {
  %e = embedding(%table, %i, padding=-1, by_frequency=False) : f32[3,4]@cuda:0
  return %e
}""")
    run, table, i = pipeline.compile_graph(graph), random(10, 4), torch.tensor([1, 9, 3], device="cuda")
    assert torch.equal(run(table, i)[0], table[i])
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(table, i + 5)


@pytest.mark.filterwarnings("error::smelt.SmeltWarning")
def test_the_default_device(card):
    f = smelt.compile(lambda x: x * torch.ones(20) + torch.tensor(2.0), fullgraph=True, verify="raise")
    for device in ("cuda", "cpu", "cuda"):
        torch.set_default_device(device)
        try:
            for _ in range(3):
                x = torch.randn(5, 20, device=device)
                assert f(x).device == x.device and torch.equal(f(x), x + 2)
        finally:
            torch.set_default_device(None)
    assert len(smelt.explain(f).programs) == 2


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_sizes_that_change_on_the_cpu_before_a_gpu(card, mode):
    lengths = iter(range(5, 20))
    report = check(card, lambda x, c: x.sum() * F.interpolate(c, scale_factor=2.0, mode="linear").to("cuda"),
                   lambda: [random(4, 5), torch.randn(1, 1, next(lengths))], mode)
    assert len(report.programs) == 2 and not report.fixed_sizes


def test_integers_are_divided_by_zero_silently(card):
    f = smelt.compile(lambda x, y: x // y, fullgraph=True)
    x, y = torch.arange(9, device="cuda"), torch.arange(1, 10, device="cuda")
    assert all(torch.equal(f(x, y), x // y) for _ in range(3))
    assert torch.equal(f(x, y - 1)[1:], x[1:] // (y - 1)[1:])


def test_explain_says_why_a_program_is_no_cuda_graph(card):
    report = check(card, *PROGRAMS["a result brought to the CPU"], "reduce-overhead")
    assert "no CUDA graph: <lambda>: it has tensors on the CPU" in str(report)


@pytest.mark.parametrize("name", ["a number of the CPU's", "a batch brought from the CPU", "random numbers of both",
                                  "places on the CPU", "put into memory of the GPU's"])
def test_what_the_cpu_gives_comes_before_a_cuda_graph(card, name):
    assert not any(p.launched for p in check(card, *PROGRAMS[name], "reduce-overhead").programs)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_fast_random_numbers_are_others_on_each_call(card, mode):
    f = smelt.compile(lambda x: F.dropout(x * 2, 0.5), rng="fast", fullgraph=True, verify="raise", mode=mode)
    masks = []
    for _ in range(5):
        x = random(16, 20, grad=True)
        y = f(x)
        y.backward(torch.ones_like(y))
        masks.append(x.grad != 0)
        torch.testing.assert_close(x.grad * x, y)
    assert all(90 < m.sum() < 230 for m in masks) and not any(map(torch.equal, masks, masks[1:]))
    assert not any(p.launched for p in smelt.explain(f).programs)


OPTIMISERS = {"Adam": lambda p: torch.optim.Adam(p, 1e-2),
              "AdamW, capturable": lambda p: torch.optim.AdamW(p, 1e-2, capturable=True),
              "SGD with momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)}


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_training_step(card, name, mode):
    """Adam counts its steps on the CPU."""
    def trained(compiled: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        card.generator = torch.Generator().manual_seed(2).get_state()
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 4)).to("cuda")
        optimiser = OPTIMISERS[name](model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.5)

        def step(x, y):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
            return loss.detach()
        run = smelt.compile(step, fullgraph=True, verify="raise", mode=mode) if compiled else step
        losses = []
        for _ in range(6):
            losses.append(run(random(5, 8), torch.randint(0, 4, (5,), device="cuda")))
            scheduler.step()
        if compiled:
            report = smelt.explain(run)
            assert report.compiled and not any(p.launched for p in report.programs)
        return [*losses, *(p.detach() for p in model.parameters())]
    with warnings.catch_warnings():
        warnings.simplefilter("error", smelt.SmeltWarning)
        assert_alike(trained(True), trained(False))
