"""Autocast, which recorded ops have behind them."""
from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Iterator, Sequence

import torch

_NOTHING = nullcontext()


def autocasting() -> list[str]:
    """The kinds of devices whose ops autocast casts for now."""
    return list(filter(torch.is_autocast_enabled, ("cpu", "cuda")))


def outside_autocast() -> AbstractContextManager:
    """Recorded ops hold the casts that autocast made: run again, they are to make no others."""
    return _without_autocast(kinds) if (kinds := autocasting()) else _NOTHING


@contextmanager
def _without_autocast(kinds: Sequence[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
