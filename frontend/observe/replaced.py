"""Entries of namespaces that hold stand-ins while a run is recorded."""
from __future__ import annotations

from typing import Any

from ..guard.guards import MISSING


class Replaced:
    """Entries that hold something else for a while."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str], tuple[dict, Any]] = {}

    def put(self, entries: dict, name: str, value: Any) -> None:
        self._before.setdefault((id(entries), name), (entries, entries.get(name, MISSING)))
        entries[name] = value

    def give_back(self, entries: dict, name: str) -> None:
        """Let an entry be as it was."""
        _, before = self._before.pop((id(entries), name))
        if before is MISSING:
            del entries[name]
        else:
            entries[name] = before

    def restore(self) -> None:
        """Let all be as they were."""
        for (_, name), (entries, _) in list(self._before.items()):
            self.give_back(entries, name)
