"""Locks in global variables: code that names one in a branch that a run does not take is no reason to run eagerly, its use is.

While a run is recorded, stand-ins take their places in the globals of code that does nothing with them but to hold them.
"""
from __future__ import annotations

import threading
import types
from typing import TYPE_CHECKING, Any

from .names import held_alone
from .places import passing, user_line
from .profiling import unprofiled
from .replaced import Replaced

if TYPE_CHECKING:
    from .observer import Observer

LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Locks:
    """The stand-ins of one run. `enter` is told of code before it runs, and `restore` ends it."""

    def __init__(self, observer: Observer):
        self._observer = observer
        self._replaced = Replaced()

    def enter(self, code: types.CodeType, names: dict[str, Any], name: str) -> bool:
        """The user's code is about to run, with these globals, of which it names one. Whether that holds a stand-in then."""
        lock = names.get(name)
        if isinstance(lock, LOCKS) and held_alone(code, name):
            self._replaced.put(names, name, _Lock(self._observer, lock, f"global {name}"))
        elif isinstance(lock, _Lock) and not held_alone(code, name):
            self._observer.refuse(f"reads global {name}, a lock", f"{code.co_filename}:{code.co_firstlineno}")
            self._replaced.give_back(names, name)
        return isinstance(names.get(name), _Lock)

    def original(self, value: Any) -> Any:
        """What a stand-in stands for; any other value itself."""
        return self._replaced.original(value)

    def restore(self) -> None:
        self._replaced.restore()


class _Lock:
    """Stands for a lock, and is the same to all who use it, in other threads too. The run that put it there is told."""

    def __init__(self, observer: Observer, lock: Any, subject: str):
        self._observer, self._lock, self._subject = observer, lock, subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self._used(), name)

    @passing
    def __enter__(self) -> Any:
        return self._used().__enter__()

    @passing
    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def _used(self) -> Any:
        if self._observer.listening:
            with unprofiled():
                self._observer.refuse(f"reads {self._subject}, a lock", user_line())
        return self._lock
