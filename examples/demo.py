"""What `make demo` shows: the digit classifier eager and compiled side by side, its picture, and the benchmark table."""
from pathlib import Path

import torch
from torch.nn import functional as F

import digits
import smelt
from smelt.tools import bench


def main():
    run = digits.main()
    print(f"  losses, every 60th step: eager    {' '.join(f'{v:.4f}' for v in run.eager_losses[::60])}")
    print(f"                           compiled {' '.join(f'{v:.4f}' for v in run.losses[::60])}")

    net = smelt.compile(digits.classifier())
    x, y = torch.randn(64, 784), torch.randint(10, (64,))

    @smelt.compile
    def loss(x, y):
        return F.cross_entropy(net(x), y)

    loss(x, y).backward()
    for ending in ("svg", "png"):
        print("wrote", smelt.draw(loss, Path(f"classifier.{ending}")), "and",
              smelt.draw(run.step, Path(f"training_step.{ending}")))
    print()
    bench.main(seconds=0.5)


if __name__ == "__main__":
    main()
