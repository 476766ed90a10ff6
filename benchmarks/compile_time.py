"""Seconds to the first compiled step of the classifier, in fresh processes: cold (empty cache), warm (disk cache), import.

    python benchmarks/compile_time.py [--runs N]
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile

STEP = """
import time, torch
from torch.nn import functional as F
from smelt.tools.programs import classifier
x, y = torch.randn(64, 784), torch.randint(10, (64,))
model = classifier()
start = time.perf_counter()
F.cross_entropy(model(x), y).backward()
eager = time.perf_counter() - start
start = time.perf_counter()
import smelt
net = smelt.compile(model)
F.cross_entropy(net(x), y).backward()
F.cross_entropy(net(x), y).backward()
print(time.perf_counter() - start - eager)
"""
#: What the first `smelt.compile` imports, and the import of smelt alone.
IMPORTS = "import torch, time; s = time.perf_counter(); import smelt; smelt.compile(len); print(time.perf_counter() - s)"
IMPORT = "import torch, time; s = time.perf_counter(); import smelt; print(time.perf_counter() - s)"


def run(code: str, cache: str, bytecode: str) -> float:
    """The seconds that a fresh process prints. Its Python modules are compiled already, as those of an installed package are."""
    environment = {**os.environ, "SMELT_CACHE_DIR": cache, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    cold, warm, imports, alone = [], [], [], []
    with tempfile.TemporaryDirectory() as bytecode:
        with tempfile.TemporaryDirectory() as cache:
            run(STEP, cache, bytecode)
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(run(STEP, cache, bytecode))
                warm.append(run(STEP, cache, bytecode))
                imports.append(run(IMPORTS, cache, bytecode))
                alone.append(run(IMPORT, cache, bytecode))
    for name, seconds, goal in (("cold compile, forward and backward", cold, 1.5), ("warm (disk cache)", warm, 0.3),
                                ("import smelt, after torch", alone, 0.15),
                                ("what the first smelt.compile imports, with it", imports, 0.15)):
        print(f"{name}: {statistics.median(seconds):.3f} s (from {min(seconds):.3f} to {max(seconds):.3f}; goal {goal} s)")


if __name__ == "__main__":
    main()
