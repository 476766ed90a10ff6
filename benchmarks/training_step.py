"""The digit classifier's training step with SGD and Adam, against all eager. Goal of forward and backward with eager SGD: 1.5x.

    python benchmarks/training_step.py

Compiled are the network alone, the network with its loss, or the whole step: forward, backward and an unmodified optimiser.
"""
import torch
from torch.nn import functional as F
import smelt
from smelt.tools.bench import measure
from smelt.tools.programs import ClassifierLoss

OPTIMIZERS = {"SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
              "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
              "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3)}


def trainer(model, loss, optimizer):
    """A step on `loss(x, y)`, whose parameters are those of `model`."""
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    x, y = torch.randn(64, 784), torch.randint(10, (64,))

    def step():
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    return step


def main():
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for optimizer in OPTIMIZERS:
            torch.manual_seed(0)
            models = [ClassifierLoss() for _ in range(4)]
            whole, network = smelt.compile(models[1]), smelt.compile(models[2].net)
            seconds = measure({"eager": trainer(models[0], models[0], optimizer),
                               "loss inside": trainer(models[1], whole, optimizer),
                               "network alone": trainer(models[2], lambda x, y: F.cross_entropy(network(x), y), optimizer),
                               "whole step": smelt.compile(trainer(models[3], models[3], optimizer))}, 5.0)
            for name in ("network alone", "loss inside", "whole step"):
                print(f"{threads} thread(s), {optimizer}, {name}: eager {seconds['eager'] * 1e6:.0f} us, "
                      f"smelt {seconds[name] * 1e6:.0f} us, {seconds['eager'] / seconds[name]:.2f}x")


if __name__ == "__main__":
    main()
