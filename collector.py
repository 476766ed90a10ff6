"""Python's cyclic garbage collector, at rest while smelt makes many objects that live on: it would only search through them."""
import gc
import os
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_resting = 0  # blocks that are open now, of all threads; the first stopped the collector, and the last starts it


@contextmanager
def at_rest():
    """No automatic collection in this block. A collector that its user has stopped stays so."""
    global _resting
    with _lock:
        ours = bool(_resting) or gc.isenabled()
        if ours:
            _resting += 1
            gc.disable()
    try:
        yield
    finally:
        if ours:
            with _lock:
                _resting -= 1
                if not _resting:
                    gc.enable()


def _in_child() -> None:
    """A forked process has none of the threads whose blocks were open."""
    global _lock, _resting
    _lock = Lock()
    if _resting:
        _resting = 0
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
