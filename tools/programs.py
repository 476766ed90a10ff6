"""The programs that the benchmark runs: what people compile most, small and large."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A program to time. `make()` gives (function or module, arguments); `train`: time forward and backward."""
    name: str
    make: Callable[[], tuple[Callable, tuple[Any, ...]]]
    train: bool = False


def chain(x, w, b):
    return F.gelu(x * w + b).sum(-1)


def _rows(function: Callable, rows: int = 4096, columns: int = 1024, *more: Callable[[], Any]):
    return lambda: (function, (torch.randn(rows, columns), *(m() for m in more)))


def _vector(n: int = 1024):
    return lambda: torch.randn(n)


def _layer_norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b)


def _cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)


def _leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def _recurrent(kind: type[nn.Module], batch: int = 32, features: int = 64, size: int = 128):
    """A layer on sequences of 50."""
    return lambda: (_Outputs(kind(features, size, batch_first=True)), (torch.randn(batch, 50, features),))


def _steps(kind: type[nn.Module], batch: int = 8, features: int = 16, size: int = 32):
    """A cell called for each place of sequences of 50."""
    return lambda: (_Steps(kind(features, size)), (torch.randn(batch, 50, features),))


class _Steps(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, hidden = None, []
        for part in x.unbind(1):
            state = self.cell(part, state)
            hidden.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(hidden, 1).sum()


class _Outputs(nn.Module):
    """A recurrent net without its last states."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0].sum()


def _batch_norm():
    return nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()), (torch.randn(32, 64, 28, 28),)


class ConvolutionalLoss(nn.Module):
    """Two convolutions with batch norm and pooling, and their cross-entropy."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                                 nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
                                 nn.Flatten(), nn.Linear(64 * 8 * 8, 10))

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class ClassifierLoss(nn.Module):
    """The 784-64-64-10 classifier with its cross-entropy."""

    def __init__(self):
        super().__init__()
        self.net = classifier()

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


CASES: tuple[Case, ...] = (
    Case("gelu(x*w+b).sum", _rows(chain, 4096, 1024, _vector(), _vector())),
    Case("layer norm", _rows(_layer_norm, 4096, 1024, _vector(), _vector())),
    Case("softmax", _rows(lambda x: x.softmax(-1))),
    Case("cross-entropy fwd+bwd", lambda: (_cross_entropy, (_leaf(512, 32000), torch.randint(32000, (512,)))), train=True),
    Case("batch norm + relu", _batch_norm),
    Case("mean(0)", _rows(lambda x: x.mean(0))),
    Case("classifier fwd+bwd", lambda: (ClassifierLoss(), (torch.randn(64, 784), torch.randint(10, (64,)))), train=True),
    Case("conv net fwd+bwd", lambda: (ConvolutionalLoss(), (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))), train=True),
    Case("LSTM fwd+bwd", _recurrent(nn.LSTM), train=True),
    Case("GRU fwd+bwd", _recurrent(nn.GRU), train=True),
    *(Case(f"small {kind.__name__} fwd+bwd", _recurrent(kind, 8, 16, 32), train=True) for kind in (nn.LSTM, nn.GRU, nn.RNN)),
    *(Case(f"loop of {kind.__name__}s fwd+bwd", _steps(kind), train=True) for kind in (nn.LSTMCell, nn.GRUCell)),
    Case("large LSTM", _recurrent(nn.LSTM, 64, 128, 256)),
    Case("gelu(x*w+b).sum 256x1024", _rows(chain, 256, 1024, _vector(), _vector())),
    Case("layer norm 256x1024", _rows(_layer_norm, 256, 1024, _vector(), _vector())),
    Case("softmax 256x1024", _rows(lambda x: x.softmax(-1), 256)),
)
