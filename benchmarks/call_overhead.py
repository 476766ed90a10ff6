"""What a call costs beyond its kernels: a trivial function (goal: at most 5 us), the classifier with layers so small that its
kernels take next to no time (goal of guards and launch: at most 8 us), and the guards of modules (goal: at most 10 us).

    python benchmarks/call_overhead.py
"""
import torch
from torch import nn
import smelt
from smelt.frontend.api import compiled_function
from smelt.tools.bench import measure
from smelt.tools.programs import classifier


def many(f, *args, count=1000):
    def run():
        for _ in range(count):
            f(*args)
    return run


def trivial(x):
    return x + 1


def main():
    torch.set_num_threads(1)
    compiled = smelt.compile(trivial)
    x = torch.randn(8)
    compiled(x)
    seconds = measure({"eager": many(trivial, x), "smelt": many(compiled, x)}, 3.0)
    eager, ours = seconds["eager"] * 1e3, seconds["smelt"] * 1e3
    print(f"x + 1 on 8 floats, a call: eager {eager:.2f} us, smelt {ours:.2f} us (goal: at most 5 us)")
    layers = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled, x = smelt.compile(layers), torch.randn(2, 8)
    for what, enabled in (("for inference", False), ("for training", True)):
        with torch.set_grad_enabled(enabled):
            compiled(x)
            seconds = measure({"eager": many(layers, x), "smelt": many(compiled, x)}, 3.0)
        eager, ours = seconds["eager"] * 1e3, seconds["smelt"] * 1e3
        print(f"classifier of 8-4-4-2, a call {what}: eager {eager:.2f} us, smelt {ours:.2f} us")
    linears = nn.Sequential(*(m for _ in range(15) for m in (nn.ReLU(), nn.Linear(4, 4))))
    for name, module, x in (("classifier", classifier(), torch.randn(64, 784)), ("30 modules", linears, torch.randn(2, 4))):
        compiled = smelt.compile(module)
        compiled(x)
        guards = compiled_function(compiled).programs[0].guards
        seconds = measure({"check": many(guards.check, (x,), {})}, 1.0)
        print(f"guards of {name}, {len(guards.conditions)} conditions: {seconds['check'] * 1e3:.2f} us")


if __name__ == "__main__":
    main()
