"""Steady-state speed against eager (and torch.compile with --inductor), one thread and two; prints the goals beside.

    python benchmarks/steady_state.py [--inductor] [--seconds S]
"""
import argparse

import torch
from smelt.tools.bench import run_case, table
from smelt.tools.programs import CASES

GOALS = {"gelu(x*w+b).sum": 5.0, "layer norm": 1.2, "softmax": 1.2, "cross-entropy fwd+bwd": 1.2,
         "batch norm + relu": 1.2, "mean(0)": 1.2}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--inductor", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows = [run_case(c, ["inductor"] if args.inductor else [], args.seconds) for c in CASES]
        print(f"\n{threads} thread{'s' if threads > 1 else ''}\n{table(rows)}")
        for r in rows:
            if r.name in GOALS and r.ratio < GOALS[r.name]:
                print(f"below its goal: {r.name} {r.ratio:.2f}x, goal {GOALS[r.name]}x")


if __name__ == "__main__":
    main()
