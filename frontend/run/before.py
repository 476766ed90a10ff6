"""What a call finds and puts back where it comes to nothing: where it raises, or begins anew."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Iterable, Iterator

import torch

from ..generators import random_state, set_random_state
from ..observe.draws import Generator

TORCH = Generator(random_state, set_random_state)


class Before:
    """What was before a call: the states of generators of random numbers, and that inputs required no grad."""

    def __init__(self, generators: Iterable[Generator]):
        self._states = [(g, g.get()) for g in generators]
        self._raised: list[torch.Tensor] = []

    def let_require(self, inputs: Iterable[torch.Tensor]) -> None:
        """Inputs come to require grad."""
        for t in inputs:
            if not t.requires_grad:
                self._raised.append(t.requires_grad_())

    def put_back(self) -> None:
        for generator, was in self._states:
            generator.put(was)
        while self._raised:
            self._raised.pop().requires_grad_(False)

    @contextmanager
    def flags(self) -> Iterator[None]:
        """Inside, the inputs require grad as they did before."""
        for t in self._raised:
            t.requires_grad_(False)
        try:
            yield
        finally:
            for t in self._raised:
                t.requires_grad_()
