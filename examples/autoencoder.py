"""An autoencoder that squeezes 28x28 digits into 8 numbers; mean squared error and Adam."""
import torch
from torch import nn
from digits import epochs, load_digits
from side_by_side import side_by_side


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 8), nn.Tanh(),
                         nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())


def main(count: int = 4):
    torch.manual_seed(0)
    x, *_ = load_digits()
    x = (x - x.min()) / (x.max() - x.min())
    run = side_by_side("autoencoder", autoencoder(), lambda p: torch.optim.Adam(p, lr=2e-3),
                       nn.functional.mse_loss, ((batch, batch) for batch, _ in epochs(x, x, count)))
    print(run)
    return run


if __name__ == "__main__":
    main()
