"""A small convolutional network with batch normalisation on the digits as 32x32 colour images; SGD with momentum.

Smooth activations and average pooling: at the kinks of ReLU and max pooling over flat background, two trainings that
differ in the last bit of one weight drift apart, whoever computes them.
"""
import torch
from torch import nn
from digits import epochs, load_digits
from side_by_side import side_by_side


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.GELU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(32 * 8 * 8, 10))


def colour(images):
    """Digits [N, 784] as tinted images [N, 3, 32, 32]."""
    padded = nn.functional.pad(images.view(-1, 1, 28, 28), (2, 2, 2, 2))
    return padded * torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1)


def main(steps: int = 40):
    torch.manual_seed(0)
    x, y, *_ = load_digits()
    batches = [batch for batch, _ in zip(epochs(colour(x), y, 10, batch=32), range(steps))]
    run = side_by_side("convolutional network", network(), lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9),
                       nn.functional.cross_entropy, batches)
    print(run)
    return run


if __name__ == "__main__":
    main()
