"""The 784-64-64-10 classifier on real handwritten digits (scikit-learn's, scaled to 28x28), cross-entropy and SGD."""
import torch
from torch import nn
from side_by_side import side_by_side


def load_digits():
    """(train images, train labels, test images, test labels): float32 [N, 784] of mean 0 and deviation 1, int64 [N]."""
    from sklearn.datasets import load_digits
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(images, size=(28, 28), mode="bilinear").flatten(1)
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:1472], labels[:1472], images[1472:], labels[1472:]


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def epochs(x, y, count: int, batch: int = 64):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            yield x[rows], y[rows]


def accuracy(model, x, y) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main(count: int = 20):
    torch.manual_seed(0)
    x, y, x_test, y_test = load_digits()
    run = side_by_side("digit classifier", classifier(), lambda p: torch.optim.SGD(p, lr=0.05),
                       nn.functional.cross_entropy, epochs(x, y, count))
    print(run)
    eager, compiled = (accuracy(model, x_test, y_test) for model in (run.eager_model, run.model))
    print(f"  test accuracy: {eager:.1%} eager, {compiled:.1%} compiled")
    return run


if __name__ == "__main__":
    main()
