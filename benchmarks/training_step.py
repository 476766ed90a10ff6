"""The digit classifier's training step: compiled forward and backward with eager SGD, against all eager. Goal: 1.5x.

    python benchmarks/training_step.py
"""
import copy

import torch
from torch.nn import functional as F
import smelt
from smelt.tools.bench import measure
from smelt.tools.programs import classifier


def trainer(model, net):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(64, 784), torch.randint(10, (64,))

    def step():
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def main():
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = classifier()
        twin = copy.deepcopy(model)
        seconds = measure({"eager": trainer(model, model), "smelt": trainer(twin, smelt.compile(twin))}, 4.0)
        print(f"{threads} thread(s): eager {seconds['eager'] * 1e6:.0f} us, smelt {seconds['smelt'] * 1e6:.0f} us, "
              f"{seconds['eager'] / seconds['smelt']:.2f}x (goal 1.5x)")


if __name__ == "__main__":
    main()
