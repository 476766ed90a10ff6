"""Where in the user's program an op comes from."""
from __future__ import annotations

import os
import sys
import sysconfig
from functools import lru_cache

import torch

from ..compiler.ir import Origin

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = tuple(os.path.join(path, "") for path in (
    os.path.dirname(torch.__file__), *(os.path.join(_PACKAGE, room) for room in ("compiler", "frontend", "codegen", "runtime"))))
_STANDARD = tuple(os.path.join(sysconfig.get_path(key), "") for key in ("stdlib", "platstdlib"))
_SITE = tuple(os.path.join(sysconfig.get_path(key), "") for key in ("purelib", "platlib"))


@lru_cache(maxsize=None)
def is_user_file(filename: str) -> bool:
    """Whether a code object's file is the user's: not of torch, smelt or the standard library."""
    if filename.startswith(_LIBRARIES) or filename.startswith("<frozen ") or os.path.dirname(filename) == _PACKAGE:
        return False
    return filename.startswith(_SITE) or not filename.startswith(_STANDARD)


_origin = lru_cache(maxsize=4096)(Origin)


def here() -> Origin:
    """The innermost line of the user's program that is running; an empty origin if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return _origin(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return Origin()
