"""Where in the user's program an op comes from."""
from __future__ import annotations

import sys
from functools import lru_cache

from ...compiler.ir import Origin
from .places import user_frame

_origin = lru_cache(maxsize=4096)(Origin)


def here() -> Origin:
    """The innermost line of the user's program that is running; an empty origin if there is none."""
    frame = user_frame(sys._getframe(1))
    return _origin(frame.f_code.co_filename, frame.f_lineno) if frame else Origin()
