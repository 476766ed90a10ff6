"""Seconds of the compiler itself: the verifier on 1,000 values, and each step of a 6-layer transformer's forward and backward.

    python benchmarks/compiler_speed.py
"""
import sys
import time
from pathlib import Path

import torch
import smelt
from smelt.compiler import Builder, TensorType, verify

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from transformer import Block  # noqa: E402


def main():
    b = Builder()
    x = b.input("x", TensorType((4, 8), torch.float32))
    for _ in range(1000):
        x = b.add(x, 1.0)
    graph = b.graph("f", [x])
    start = time.perf_counter()
    verify(graph)
    print(f"verify, 1000 values: {(time.perf_counter() - start) * 1e3:.1f} ms")
    net = smelt.compile(torch.nn.Sequential(*(Block(64, 4) for _ in range(6))))
    net(torch.randn(8, 32, 64)).sum().backward()
    for step, seconds in smelt.explain(net).programs[0].seconds.items():
        print(f"{step}: {seconds * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
