"""README.md shows real output and true claims. `python tests/test_readme.py` writes those parts anew."""
import ctypes
import functools
import math
import os
import random
import re
import time
import warnings
from pathlib import Path
from threading import Lock

import numpy
import pytest
import torch
from torch import library, nn
from torch.utils.checkpoint import checkpoint
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import smelt
from smelt import config

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
X = torch.arange(12.0).reshape(4, 3)


@library.custom_op("smelt_tests::tripled", mutates_args=())
def tripled(x: torch.Tensor) -> torch.Tensor:
    return x * 3


tripled.register_autograd(lambda ctx, grad: grad * 3)


def decoding():
    @torch.inference_mode()
    def decode(x):
        for _ in range(3):
            x = x * 2
            if x.sum() > 100:
                break
        return x
    return decode


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def training_step():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x):
        optimizer.zero_grad()
        loss = net(x).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return step


def remembering():
    kept = {"h": X, "log": [], "n": 0}

    def f(x):
        kept["h"] = torch.tanh(x + kept["h"])
        kept["log"].append(kept["h"].mean())
        kept["n"] += 1
        return kept["h"] * kept["n"]
    return f


def hooked():
    weight = torch.ones(3, requires_grad=True)
    weight.register_hook(lambda grad: grad * 2)

    def step(x):
        weight.grad = None
        (x * weight).sum().backward()
    return step


def printing_on_a_line(x):
    if x.sum() > 0: print("above", end="\r")
    return x + 1


def printing(x):
    print(f"{x.sum().item():.1f}", end="\r")
    return x + 1


def printing_state():
    seen, weight = {"calls": 0}, torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.5)

    def step(x):
        seen["calls"] += 1
        optimizer.zero_grad()
        (x * weight).sum().backward()
        print(f"{seen['calls']}: {optimizer.param_groups[0]['lr']}, {weight.grad.norm().item():.1f}", end="\r")
    return step


def printing_a_log():
    log = []

    def f(x):
        log.append(x.sum().item())
        print(f"{log[-1]:.1f}", end="\r")
        return x + 1
    return f


def printing_a_rate():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(x):
        optimizer.zero_grad()
        (x * weight).sum().backward()
        optimizer.step()
        scheduler.step()
        print(scheduler.get_last_lr(), end="\r")
    return step


def claiming(x):
    if torch.isnan(x).any():
        raise ValueError("no number")
    return x + 1


def writing(x):
    os.getpid()
    return x + 1


#: What README.md says to work: the claim, and functions (made anew) with arguments that are to be compiled whole.
WORKS = {
    "Elementwise arithmetic, reductions, cumulative sums, softmax, normalisation, losses and indexing fuse into kernels.":
        [(lambda: lambda x: F.cross_entropy(F.layer_norm(x.cumsum(0), (3,)).softmax(-1), torch.arange(4) % 3), (X,))],
    "Matrix products are generated with what follows them, or left to the library where it is faster.":
        [(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU()), (X,))],
    "Convolutions are calls of torch; on the CPU images lie with the channels last from one to the next.":
        [(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), (torch.ones(1, 3, 8, 8),))],
    "Recurrent nets on the CPU, packed ones and loops of cells that a program writes out too: loops over one step's kernels.":
        [(lambda: nn.LSTM(3, 4), (X,)), (lambda: nn.GRU(3, 4, 2, bidirectional=True), (X,)),
         (lambda: lambda x, n, net=nn.RNN(3, 4): pad_packed_sequence(net(pack_padded_sequence(x, n))[0])[0],
          (torch.ones(5, 2, 3), torch.tensor([5, 2]))),
         (lambda: lambda x, cell=nn.GRUCell(3, 4): functools.reduce(lambda h, part: cell(part, h), x.unbind(), None),
          (torch.ones(5, 2, 3),))],
    "Modules: linear, convolutional, attention, dropout, batch norm with its running statistics.":
        [(lambda: nn.TransformerEncoderLayer(4, 2, 8), (torch.ones(5, 2, 4),)),
         (lambda: nn.BatchNorm1d(3), (X,))],
    "Autograd through a compiled function, with a derived backward program, which can be differentiated again.":
        [(lambda: lambda x: (x * x).sum(), (X.clone().requires_grad_(),))],
    "A backward pass for each result, where they share no step: `actor_loss.backward(); critic_loss.backward()`.":
        [(lambda: lambda x: (x.sin().sum(), x.exp().sum()), (X.clone().requires_grad_(),))],
    "Transforms inside a function: `torch.func.grad`, `vjp`, `jvp`, `jacrev`, `hessian`, and `vmap` of a gradient.":
        [(lambda: lambda x: torch.func.grad(lambda y: y.sin().sum())(x), (X,)),
         (lambda: lambda x: torch.func.vjp(torch.sin, x)[1](x)[0], (X,)),
         (lambda: lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1], (X,)),
         (lambda: lambda x: torch.func.jacrev(torch.sin)(x), (X,)),
         (lambda: lambda x: torch.func.hessian(lambda y: y.pow(3).sum())(x), (X,)),
         (lambda: lambda x: torch.func.vmap(torch.func.grad(lambda y: y.sin().sum()))(x), (X,))],
    "Custom `autograd.Function`, and custom ops with registered gradients: their own forward and backward run, between the "
    "kernels; a forward without gradients is compiled.":
        [(lambda: Doubled.apply, (X.clone().requires_grad_(),)), (lambda: Doubled.apply, (X,)),
         (lambda: lambda x: tripled(x + 1), (X.clone().requires_grad_(),))],
    "Inference mode, around a function or inside it, with branches: what was made there is an inference tensor.":
        [(lambda: torch.inference_mode()(lambda x: x.softmax(0)), (X,)), (decoding, (X,))],
    "Checkpoints (not reentrant) inside the function: what a backward computes again is smelt's choice.":
        [(lambda: lambda x: checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False), (X.clone().requires_grad_(),))],
    "Random numbers: those that eager draws under the same seed; with `rng=\"fast\"`, others that are computed in the kernels.":
        [(lambda: lambda x: F.dropout(x + torch.rand(3)), (X,))],
    "Writes into arguments and buffers, and results that are views.":
        [(lambda: lambda x: x.mul_(2), (X.clone(),)), (lambda: lambda x: x.t(), (X,))],
    "State that a call leaves behind: attributes, containers, globals, hidden states, counters, logs of losses.":
        [(remembering, (X,))],
    "Sizes that change, of arguments or of caches in state: symbols from the second one on; one program serves all from 2 on.":
        [(lambda: smelt.compile(lambda x: x.softmax(0), dynamic=True), (X,))],
    "What Python computes of such sizes (`int(n * 0.3)`, `math.ceil(n / 8)`, `F.pad(x, (0, -n % 8))`): the same.":
        [(lambda: lambda x: F.pad(x, (0, 0, 0, -len(x) % 8))[:int(len(x) * 0.6)] * math.ceil(len(x) / 3), (X,))],
    "Lengths that are numbers, and change (`cache[:, :n]`, `torch.arange(n)`): the same; also numbers that a run reads of "
    "tensors or draws, and what it computes of them (`x[:, :int(lengths.max())]`, `torch.split(rows, counts.tolist())`, crops, "
    "cutmix).":
        [(lambda: lambda x, n: x[:n] * torch.arange(n)[:, None], (X, 2)),
         (lambda: lambda x: x[:int((x > 0).sum()) % 2 + 1] * 2, (X,)),
         (lambda: lambda x: x[:random.randint(1, 2), :numpy.clip(random.randint(0, 5), 1, 2)] * 2, (X,)),
         (lambda: lambda x, n: [p * 2 for p in torch.split(x, n.tolist())], (X, torch.tensor([1, len(X) - 1])))],
    "Rows and windows at places that change (`table[t]`, `data[i:i + n]`), also drawn ones: one program from the second place "
    "on. Rows at places that tensors hold (`ways[tags[k]]`, `x[scores.argmax().item()]`) are found by the program itself.":
        [(lambda: lambda x, k: x[k:k + 2] * x[k], (X, 1)), (lambda: lambda x, i: x[i] * 2, (X, torch.tensor(1))),
         (lambda: lambda x: x[x[:, 0].argmax().item()] * 2, (X,))],
    "Other dtypes, ranks, layouts or module attributes: guards see them, and another program is recorded.":
        [(lambda: lambda x, k: x * k, (X, 2.0))],
    "Arrays of NumPy's as arguments that become tensors (`torch.from_numpy(state)`, `torch.tensor(numpy.stack(rows))`), and as "
    "results (`return y.numpy()`).":
        [(lambda: lambda x, a: x * torch.from_numpy(a), (X, numpy.ones(3, numpy.float32))),
         (lambda: lambda rows: torch.tensor(numpy.stack(rows)), ([numpy.ones(3), numpy.zeros(3)],)),
         (lambda: lambda x: (x * 2).numpy(), (X,))],
    "A whole training step as one program: backward passes, `.grad` and the optimiser's step inside the function.":
        [(training_step, (X,)), (lambda: lambda x: torch.autograd.grad(x.sum(), x)[0], (X.clone().requires_grad_(),))],
    "Numbers of clocks and of Python's and NumPy's random generators: each call asks for them anew, and may branch on them.":
        [(lambda: lambda x: x * random.random() + time.time(), (X,)), (lambda: lambda x: x * numpy.random.rand(), (X,))],
    "What Python's `math` and NumPy compute of numbers that change: `numpy.mean(losses)`, `numpy.sqrt(1 - share)`.":
        [(lambda: lambda x, k: x * math.sqrt(k) + numpy.sqrt(k), (X, 2.0)),
         (lambda: lambda x: numpy.mean([x.sum().item(), x.max().item()]), (X,))],
    "What is printed and logged by statements of their own, also of gradients, of containers that the call changes, and as "
    "`optimizer.param_groups[0][\"lr\"]`: run again on every call, with what it computes; warnings, given again.":
        [(lambda: printing, (X,)), (lambda: printing_on_a_line, (X,)), (printing_state, (X,))],
    "Branches on data, as a tree of recorded paths: `if x.sum() > 0`, `while err > tol`, `.item()`. How many rows a boolean mask "
    "or `torch.where` finds is a symbol once it changes, as for the experts of a mixture. What only raises (`assert`, the checks "
    "of distributions) is looked at when all is computed.":
        [(lambda: lambda x: x * x.sum().item(), (X,)), (lambda: lambda x: x if x.sum() > 0 else -x, (X,)),
         (lambda: torch.nonzero, (X,)), (lambda: lambda x: x[x > 0], (X,)), (lambda: lambda x: torch.where(x > 0)[0], (X,)),
         (lambda: claiming, (X,)), (lambda: lambda x: torch.distributions.Normal(x, 1.0).log_prob(x), (X,)),
         (lambda: lambda x: torch.autograd.grad(x.sum(), x)[0] if x.sum() > 0 else x, (X.clone().requires_grad_(),))],
    "Ops without a record of their own (FFT, sort, linear algebra): calls of torch between the kernels, with torch's gradient.":
        [(lambda: lambda x: torch.fft.fft(x).abs().sort()[0], (X,))],
}
#: What it says to run eagerly.
DOES_NOT = {
    "Elements taken out of torch: a tensor as text, `.tolist()` of many; and what NumPy computes, of arguments or of tensors.":
        [(lambda: lambda x: x * float(x.numpy().sum()), (X,)), (lambda: lambda x: (str(x), x * 2)[1], (X,)),
         (lambda: lambda x, a: x * torch.from_numpy(a - a.mean()), (X, numpy.ones(3, numpy.float32)))],
    "Effects outside the program's objects: files, processes, other libraries.": [(lambda: writing, (X,))],
    "State that a custom `autograd.Function` or a checkpoint changes: batch norm in a checkpoint.":
        [(lambda: functools.partial(checkpoint, nn.BatchNorm1d(3), use_reentrant=False), (X.clone().requires_grad_(),))],
    "`jvp`, `jacfwd` and `hessian` of `torch.func` where parameters that require grad take part.":
        [(lambda: lambda x, w=X.clone().requires_grad_(): torch.func.jvp(lambda y: y * w, (x,), (x,))[1], (X,))],
    "Printing lists that the call appends to; what a library's object tells of what the call changed in it "
    "(`print(scheduler.get_last_lr())` after its step).":
        [(printing_a_log, (X,)), (printing_a_rate, (X,))],
    "Locks, objects that C code fills (`bytearray`, ctypes), `x.storage_offset()`, modules of TorchScript.":
        [(lambda: lambda x, b=bytearray(b"ab"): x * b[0], (X,)), (lambda: lambda x, n=ctypes.c_int(3): x * n.value, (X,)),
         (lambda: lambda x: x * x.storage_offset(), (X,)), (lambda: lambda x, lock=Lock(): x * lock.locked(), (X,)),
         (lambda: lambda x, net=torch.jit.script(torch.nn.Tanh()): net(x), (X,))],
    "Hooks on tensors of a backward pass inside; `random.sample`, `choices`, `shuffle`; arrays that NumPy draws; a "
    "`torch.Generator`.":
        [(hooked, (X,)), (lambda: lambda x: x[random.sample([0, 1], 1)], (X,)),
         (lambda: lambda x: x * float(numpy.random.rand(3).sum()), (X,)),
         (lambda: lambda x, g=torch.Generator(): x + torch.rand(3, generator=g), (X,))],
    "Sparse, nested and quantised tensors.": [(lambda: torch.neg, (X.to_sparse(),))],
}


def state(make, args):
    compiled = smelt.compile(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            compiled(*args)
    report = smelt.explain(compiled)
    return report.state, str(report)


@pytest.mark.parametrize("claim", WORKS)
def test_what_is_said_to_work_is_compiled(claim):
    for make, args in WORKS[claim]:
        found, report = state(make, args)
        assert found == "compiled", report


@pytest.mark.parametrize("claim", DOES_NOT)
def test_what_is_said_not_to_work_runs_eagerly(claim):
    """If this fails, smelt has learnt something: move the claim to WORKS and write the README anew."""
    for make, args in DOES_NOT[claim]:
        found, report = state(make, args)
        assert found in ("not compiled", "compiled in part"), report


def test_a_gradient_can_be_differentiated_again():
    f = smelt.compile(lambda x: (x ** 3).sum(), fullgraph=True)
    for _ in range(3):
        x = torch.full((2,), 5.0, requires_grad=True)
        first, = torch.autograd.grad(f(x), x, create_graph=True)
        second, = torch.autograd.grad(first.sum(), x)
        assert first.tolist() == [75.0, 75.0] and second.tolist() == [30.0, 30.0]


def test_sizes_with_programs_of_their_own():
    """Sizes 0 and 1, and those that Python asks for."""
    f, g = smelt.compile(lambda x: x * 2), smelt.compile(lambda x: sum(x[k] for k in range(x.shape[0])))
    for n in (2, 3, 4, 1, 0):
        f(torch.ones(n))
    for n in (2, 3, 4):
        g(torch.ones(n))
    assert len(smelt.explain(f).programs) == 4 and len(smelt.explain(g).programs) == 3
    assert smelt.explain(g).fixed_sizes


def program_and_output(text: str, monkeypatch) -> tuple[str, str]:
    """The graph and the kernel of the program that the README shows."""
    monkeypatch.setattr(config, "isa", "avx2")
    monkeypatch.setattr(config, "verify", "first")
    source = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(source.splitlines()) <= 12
    space = {"__name__": "example"}
    exec(compile(source, "example.py", "exec"), space)
    assert smelt.explain(space["f"]).compiled
    code = smelt.show(space["f"], "c")
    return smelt.show(space["f"]), re.search(r"^// mul_0, .*?^}$", code, re.DOTALL | re.MULTILINE).group(0)


def current(text: str, monkeypatch) -> str:
    """README.md with its generated parts made anew."""
    graph, kernel = program_and_output(text, monkeypatch)
    parts = {"graph": f"```\n{graph}\n```", "kernel": f"```c\n{kernel}\n```",
             "works": "\n".join(f"* {claim}" for claim in WORKS), "does not": "\n".join(f"* {claim}" for claim in DOES_NOT)}
    for name, part in parts.items():
        text, found = re.subn(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", lambda m: m[1] + part + m[2], text, flags=re.DOTALL)
        assert found == 1, name
    return text


def test_the_readme_is_current(monkeypatch):
    text = README.read_text()
    assert text == current(text, monkeypatch), "run: python tests/test_readme.py"


def test_the_readme_links_to_what_is_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (ROOT / link).exists(), link


def test_the_commands_are_there():
    text = README.read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(t in targets for t in re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert all(os.path.exists(ROOT / b) for b in re.findall(r"^python (benchmarks/\S+)", text, re.MULTILINE))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        README.write_text(current(README.read_text(), patch))
