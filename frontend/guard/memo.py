"""What functions made by functools.lru_cache remember."""
from __future__ import annotations

import gc
from typing import Any


class Memo:
    """What such a function remembers before a run. `grown`: it remembers more after it, which no program does again."""

    def __init__(self, function: Any):
        self._function = function
        self.keys, self.results = remembered(function)
        self._before = self._now()
        self.grown = False

    def finish(self) -> None:
        """The run is over."""
        self.grown = not self._now() <= self._before

    def kept(self) -> bool:
        """Whether it remembers all of that, and more than that only of other calls."""
        return not self.grown and self._before <= self._now()

    def _now(self) -> set[tuple[int, int]]:
        keys, results = remembered(self._function)
        return set(zip(map(id, keys), map(id, results)))


def remembered(function: Any) -> tuple[tuple, tuple]:
    """The keys and the results, in one order: the function holds its type, then links or, where it forgets nothing, a dict."""
    held = gc.get_referents(function)
    if function.cache_parameters()["maxsize"] is None:
        return tuple(held[1]), tuple(held[1].values())
    end = 1 + 3 * function.cache_info().currsize  # each link shows its key, its result and its type
    return tuple(held[1:end:3]), tuple(held[2:end:3])
