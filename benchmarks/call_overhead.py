"""What a call of a trivial compiled function costs beyond eager's own work. Goal: at most 5 us a call.

    python benchmarks/call_overhead.py
"""
import torch
import smelt
from smelt.tools.bench import measure


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
    print(f"x + 1 on 8 floats, a call: eager {seconds['eager'] * 1e3:.2f} us, smelt {seconds['smelt'] * 1e3:.2f} us (goal: at most 5 us)")


if __name__ == "__main__":
    main()
