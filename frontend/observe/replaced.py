"""Entries of namespaces that hold stand-ins while a run is recorded."""
from __future__ import annotations

from typing import Any

from ..guard.guards import MISSING


class Replaced:
    """Entries that hold something else for a while. Those that are written to meanwhile keep what they are given, and those that
    were given back hold nothing else any more."""

    def __init__(self) -> None:
        self._put: dict[tuple[int, str], tuple[dict, Any, Any]] = {}
        self._stand_ins: dict[int, tuple[Any, Any]] = {}
        self._given_back: set[tuple[int, str]] = set()

    def put(self, entries: dict, name: str, value: Any) -> None:
        if (id(entries), name) in self._given_back:
            return
        before = entries.get(name, MISSING)
        self._put[id(entries), name] = entries, value, before
        self._stand_ins[id(value)] = value, before
        entries[name] = value

    def original(self, value: Any) -> Any:
        """What a stand-in stands for; any other value itself."""
        return self._stand_ins.get(id(value), (value, value))[1]

    def give_back(self, entries: dict, name: str) -> None:
        """Let an entry be as it was, from now on."""
        self._given_back.add((id(entries), name))
        if (id(entries), name) not in self._put:
            return
        _, value, before = self._put.pop((id(entries), name))
        if entries.get(name, MISSING) is not value:
            return
        if before is MISSING:
            del entries[name]
        else:
            entries[name] = before

    def restore(self) -> None:
        """Let all be as they were."""
        for (_, name), (entries, *_) in list(self._put.items()):
            self.give_back(entries, name)
