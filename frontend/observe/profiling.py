"""The observer sees functions entered through Python's profiler, which makes every call slower: smelt's own go without."""
from __future__ import annotations

import sys


class unprofiled:
    """The profiler of this thread, if it has one, does not see what runs inside."""
    __slots__ = ("_profiler",)

    def __enter__(self):
        self._profiler = sys.getprofile()
        sys.setprofile(None)

    def __exit__(self, *error):
        sys.setprofile(self._profiler)
