"""Fit y = 3x + 0.5 with Linear(1, 1), mean squared error and SGD."""
import torch
from side_by_side import side_by_side


def main():
    torch.manual_seed(0)
    x = torch.randn(100, 1)
    y = 3 * x + 0.5 + 0.1 * torch.randn(100, 1)
    run = side_by_side("linear regression", torch.nn.Linear(1, 1), lambda p: torch.optim.SGD(p, lr=0.1),
                       torch.nn.functional.mse_loss, [(x, y)] * 100)
    print(run)
    print(f"  y = {run.model.weight.item():.3f} x + {run.model.bias.item():.3f}")
    return run


if __name__ == "__main__":
    main()
