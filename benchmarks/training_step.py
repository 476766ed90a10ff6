"""The digit classifier's training step: compiled forward and backward with eager SGD, against all eager. Goal: 1.5x.

    python benchmarks/training_step.py

Once with the loss inside the compiled module, once with only the network compiled.
"""
import torch
from torch.nn import functional as F
import smelt
from smelt.tools.bench import measure
from smelt.tools.programs import ClassifierLoss


def trainer(model, loss):
    """A step of SGD on `loss(x, y)`, whose parameters are those of `model`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(64, 784), torch.randint(10, (64,))

    def step():
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    return step


def main():
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        models = [ClassifierLoss() for _ in range(3)]
        whole, network = smelt.compile(models[1]), smelt.compile(models[2].net)
        seconds = measure({"eager": trainer(models[0], models[0]), "loss inside": trainer(models[1], whole),
                           "network alone": trainer(models[2], lambda x, y: F.cross_entropy(network(x), y))}, 5.0)
        for name in ("loss inside", "network alone"):
            print(f"{threads} thread(s), {name}: eager {seconds['eager'] * 1e6:.0f} us, smelt {seconds[name] * 1e6:.0f} us, "
                  f"{seconds['eager'] / seconds[name]:.2f}x (goal 1.5x)")


if __name__ == "__main__":
    main()
