"""The standard programs on a GPU, against eager: make gpu."""
from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import smelt
from smelt.codegen.generate import generate
from smelt.codegen.triton.backend import TritonBackend
from smelt.compiler import Builder, TensorType
from smelt.runtime import load

from .test_triton import results
from .triton_programs import CASES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def on_gpu(arguments):
    return [a.detach().cuda().requires_grad_(a.requires_grad) for a in arguments]


def check(function, arguments) -> None:
    compiled = smelt.compile(function, fullgraph=True, verify="raise")
    for _ in range(3):
        ours = results(compiled, arguments)
    report = smelt.explain(compiled)
    assert report.compiled and "as Triton on cuda" in str(report)
    for a, b in zip(ours, results(function, arguments), strict=True):
        assert a.device == b.device and a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_programs(name):
    torch.manual_seed(0)
    case = CASES[name]
    check(case.function, on_gpu(case.arguments(case.rows, case.width)))


@pytest.mark.parametrize("name", CASES)
def test_ragged_sizes(name):
    torch.manual_seed(0)
    check(CASES[name].function, on_gpu(CASES[name].arguments(77, 1001)))


def test_bfloat16_rounds_as_eager():
    sizes = 10 ** torch.linspace(-20, 20, 99991, device="cuda")
    x, y = (torch.randn(99991, device="cuda").mul(sizes).bfloat16() for _ in range(2))
    f = smelt.compile(lambda x, y: (x + y) * x - y, fullgraph=True)
    for _ in range(3):
        ours = f(x, y)
    assert torch.equal(ours.view(torch.int16), ((x + y) * x - y).view(torch.int16))


def test_the_current_stream_is_used():
    f = smelt.compile(lambda x: (x * 2 + 1).cumsum(0) * 0.5, fullgraph=True)
    x = torch.ones(1 << 20, device="cuda")
    f(x), f(x)
    busy, side = torch.randn(4096, 4096, device="cuda"), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(50):  # on another stream, the program would read x before it is filled
            busy = busy @ busy
        x.fill_(3.0)
        ours = f(x)
    side.synchronize()
    torch.testing.assert_close(ours, (x * 2 + 1).cumsum(0) * 0.5)


def test_a_failed_check_ends_as_eagers():
    """In a process of its own, whose GPU is of no use any more."""
    code = """
import torch, smelt
f = smelt.compile(lambda table, i: torch.nn.functional.embedding(i, table) + 1, fullgraph=True)
table, i = torch.randn(10, 4, device="cuda"), torch.tensor([1, 9, 3], device="cuda")
assert all(torch.equal(f(table, i), table[i] + 1) for _ in range(3))
try:
    f(table, i + 5).sum().item()
except RuntimeError as error:
    assert "device-side assert" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_of_the_cpus():
    f = smelt.compile(lambda x, s: torch.where(x > 0, x * s, 0.5), fullgraph=True, verify="raise")
    x = torch.randn(100, device="cuda")
    for n in range(4):
        assert torch.equal(f(x, torch.tensor(3.0 + n)), torch.where(x > 0, x * (3.0 + n), 0.5))


def test_dropout_draws_what_eager_draws():
    def dropped(x):
        return torch.nn.functional.dropout(x, 0.5) * 2 + torch.rand_like(x)
    f, x = smelt.compile(dropped, fullgraph=True, verify="raise"), torch.ones(1000, device="cuda")
    for seed in range(4):
        found = []
        for function in (f, dropped):
            torch.manual_seed(seed)
            found.append((function(x), torch.rand(3, device="cuda")))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
@pytest.mark.parametrize("name", ["fused_chain", "layer_norm", "softmax"])
def test_modes(name, mode):
    """Each call with other memory, and results that outlive later calls."""
    torch.manual_seed(0)
    case = CASES[name]
    compiled = smelt.compile(case.function, fullgraph=True, mode=mode)
    found = []
    for _ in range(5):
        arguments = on_gpu(case.arguments(case.rows, case.width))
        found.append((arguments, results(compiled, arguments)))
    for arguments, ours in found:
        for a, b in zip(ours, results(case.function, arguments), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_training_step_is_replayed():
    """With what the CPU computes first on every call: Adam counts its steps there, and batches come from there."""
    def trained(compile):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).cuda()
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)

        @compile
        def step(x, y):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x.cuda()), y.cuda())
            loss.backward()
            optimiser.step()
            return loss.detach()
        losses = [step(torch.randn(64, 20), torch.randint(0, 4, (64,))) for _ in range(8)]
        return step, losses, list(net.parameters())
    step, *ours = trained(lambda f: smelt.compile(f, fullgraph=True, verify="raise", mode="reduce-overhead"))
    _, *theirs = trained(lambda f: f)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    report = smelt.explain(step)
    assert report.compiled and not any(p.launched for p in report.programs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_as_kernels(dtype):
    """The template at ragged sizes, whatever a measurement would choose."""
    backend = TritonBackend(lambda trials: next(n for n in trials if n != "library"), torch.device("cuda"))
    x, w, c = (torch.randn(s, device="cuda", dtype=dtype) for s in ((1000, 700), (300, 700), (300,)))
    b = Builder()
    inputs = [b.input(n, TensorType(tuple(t.shape), dtype, t.device)) for n, t in (("x", x), ("w", w), ("c", c))]
    graph = b.graph("f", [b.add(b.matmul(inputs[0], b.permute(inputs[1], dims=(1, 0))), inputs[2])])
    (ours,) = load(generate(graph, backend))(x, w, c)
    error = 1e-3 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(ours, (x.double() @ w.t().double() + c.double()).to(dtype), rtol=error, atol=error * 8)
