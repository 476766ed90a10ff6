"""The state of torch's random numbers: of the CPU's generator, and of every GPU's once GPUs are in use."""
from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Iterator

import torch

State = tuple[torch.Tensor, ...]


def random_state() -> State:
    """The state now."""
    return torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())


def set_random_state(state: State) -> None:
    """Go on from a state."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def same_state(a: State, b: State) -> bool:
    """Whether nothing was drawn between two states."""
    return len(a) == len(b) and all(map(torch.equal, a, b))


def drawing_from(state: State | None) -> AbstractContextManager:
    """Random numbers are drawn from this state, and what it was before is put back afterwards; None: nothing is drawn."""
    return nullcontext() if state is None else _drawing_from(state)


@contextmanager
def _drawing_from(state: State) -> Iterator[None]:
    before = random_state()
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(before)
