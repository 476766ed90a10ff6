"""Train one model twice from the same start, eager and compiled, a step of each in turn, and compare."""
from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Callable, Iterable

import torch

import smelt


@dataclass
class Run:
    """Losses of both trainings, seconds a step (medians), the two trained models, and the compiled step."""
    name: str
    eager_losses: list[float]
    losses: list[float]
    eager_seconds: float
    seconds: float
    eager_model: torch.nn.Module
    model: torch.nn.Module
    step: Callable

    @property
    def difference(self) -> float:
        """Largest relative difference between the two losses over the whole training."""
        return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(self.eager_losses, self.losses))

    @property
    def ratio(self) -> float:
        return self.eager_seconds / self.seconds

    def __str__(self):
        return (f"{self.name}: loss {self.losses[0]:.4f} -> {self.losses[-1]:.4f}, "
                f"largest difference from eager {self.difference:.1e}; "
                f"a step takes {self.eager_seconds * 1e6:.0f} us eager, {self.seconds * 1e6:.0f} us compiled: {self.ratio:.2f}x")


class Trainer:
    """A training step (x, y) -> loss, with its own random state."""

    def __init__(self, step):
        self.train = step
        self.random_state = torch.get_rng_state()
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, x, y):
        torch.set_rng_state(self.random_state)
        start = time.perf_counter()
        loss = self.train(x, y)
        self.seconds.append(time.perf_counter() - start)
        self.random_state = torch.get_rng_state()
        self.losses.append(loss.item())


def training_step(model: torch.nn.Module, loss: Callable, optimizer: torch.optim.Optimizer) -> Callable:
    """Forward, backward and the optimiser's step, as one function (x, y) -> loss."""
    def step(x, y):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value
    return step


def side_by_side(name: str, model: torch.nn.Module, optimizer: Callable, loss: Callable, batches: Iterable,
                 warmup: int = 5) -> Run:
    """Train `model` on the batches `(x, y)`; `optimizer(parameters)` makes an optimiser."""
    twin = copy.deepcopy(model)
    step = smelt.compile(training_step(twin, loss, optimizer(twin.parameters())))
    eager, compiled = Trainer(training_step(model, loss, optimizer(model.parameters()))), Trainer(step)
    for x, y in batches:
        eager.step(x, y)
        compiled.step(x, y)
    return Run(name, eager.losses, compiled.losses, statistics.median(eager.seconds[warmup:]),
               statistics.median(compiled.seconds[warmup:]), model, twin, step)
