"""Whose code is this: the user's, torch's, the standard library's (and NumPy's), or smelt's own."""
from __future__ import annotations

import abc
import os
import sys
import sysconfig
import types
from functools import lru_cache
from typing import Callable, Iterator

import numpy
import torch

USER, TORCH, LIBRARY, SMELT = "user", "torch", "library", "smelt"

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PACKAGES = tuple(sysconfig.get_path(p) for p in ("purelib", "platlib"))
_FOLDERS = (
    *((os.path.join(_ROOT, folder) + os.sep, SMELT) for folder in ("compiler", "frontend", "codegen", "runtime")),
    (os.path.dirname(torch.__file__) + os.sep, TORCH),
    (os.path.dirname(numpy.__file__) + os.sep, LIBRARY),
    *((os.path.join(folder, "typing_extensions.py"), LIBRARY) for folder in _PACKAGES),
    *((folder + os.sep, USER) for folder in _PACKAGES),
    (sysconfig.get_path("stdlib") + os.sep, LIBRARY),
    (sysconfig.get_path("platstdlib") + os.sep, LIBRARY),
    ("<frozen ", LIBRARY),
    ("<smelt ", SMELT),
    ("<__array_function__", LIBRARY),
)


@lru_cache(maxsize=None)
def kind_of_file(filename: str) -> str:
    """USER, TORCH, LIBRARY or SMELT for a code object's file. Installed third-party packages count as the user's."""
    for prefix, kind in _FOLDERS:
        if filename.startswith(prefix):
            return kind
    return SMELT if os.path.dirname(filename) == _ROOT else USER


@lru_cache(maxsize=None)
def kind_of_module(name: str | None) -> str:
    """The same for a module by its name."""
    top = (name or "builtins").split(".")[0]
    if top in sys.builtin_module_names or top in sys.stdlib_module_names and top != "__main__" or top == "numpy":
        return LIBRARY
    if top == "torch":
        return TORCH
    file = getattr(sys.modules.get(name), "__file__", None)
    return kind_of_file(file) if file else USER


#: The modules in which classes are made for others, by name.
_MAKERS = {module.__name__: vars(module) for module in (types, abc)}


def kind_of(holder: types.ModuleType | type | types.FunctionType) -> str:
    """The same for a module, a class or a function. A class made by types.new_class, as by dataclasses.make_dataclass, or by
    calling an abstract one's metaclass, may name no module of its own: it is the user's."""
    if isinstance(holder, types.ModuleType):
        return kind_of_module(holder.__name__)
    maker = _MAKERS.get(holder.__module__) if isinstance(holder, type) else None
    made = maker is not None and maker.get(holder.__name__) is not holder
    return USER if made else kind_of_module(holder.__module__)


#: Where smelt calls the user's function.
_ENTRIES = {os.path.join(_ROOT, "frontend", file) for file in ("api.py", "modules.py")}
_IMPORTING = "<frozen importlib"
_PASSING: set[types.CodeType] = set()


def passing(function: Callable) -> Callable:
    """Mark a function of smelt's that the user's code calls in the place of another, which it passes the call on to."""
    _PASSING.add(function.__code__)
    return function


def on_behalf_of_user(frame: types.FrameType | None, trust_torch: bool) -> bool:
    """Whether what happens in this frame is the user's function's doing: not an import's or smelt's, nor, under
    `trust_torch`, torch's own."""
    caller = ""
    while frame is not None:
        file = frame.f_code.co_filename
        kind = kind_of_file(file)
        if file in _ENTRIES:
            break
        if kind == SMELT and frame.f_code not in _PASSING or file.startswith(_IMPORTING):
            return False
        if not caller and kind in (USER, TORCH):
            caller = kind
        frame = frame.f_back
    return not (trust_torch and caller == TORCH)


def user_frame(frame: types.FrameType | None) -> types.FrameType | None:
    """The innermost frame of the user's, from this one outwards."""
    while frame is not None and kind_of_file(frame.f_code.co_filename) != USER:
        frame = frame.f_back
    return frame


def user_line(frame: types.FrameType | None = None) -> str:
    """The user's file:line that runs now, "" if there is none."""
    found = user_frame(frame or sys._getframe(1))
    return f"{found.f_code.co_filename}:{found.f_lineno}" if found else ""


def checkpointed(frame: types.FrameType | None) -> str:
    """What a frame is called by that may call it again in a backward pass: a checkpoint; "" if nothing of the kind."""
    return "a checkpoint" if any(_checkpoints(frame)) else ""


def draws_again(frame: types.FrameType | None) -> bool:
    """Whether a frame is called by a checkpoint that lets it draw other random numbers when it is called again."""
    return not all(checkpoint.f_locals.get("preserve", True) for checkpoint in _checkpoints(frame))


def _checkpoints(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    while frame is not None:
        if is_checkpoint(frame):
            yield frame
        frame = frame.f_back


def innermost_of_others(frame: types.FrameType | None) -> types.FrameType | None:
    """The innermost frame that is not smelt's, from this one outwards."""
    while frame is not None and kind_of_file(frame.f_code.co_filename) == SMELT:
        frame = frame.f_back
    return frame


def of_checkpoint() -> bool:
    """Whether the innermost code that is not smelt's is a checkpoint's own."""
    return is_checkpoint(innermost_of_others(sys._getframe(1)))


def is_checkpoint(frame: types.FrameType | None) -> bool:
    """Whether this frame is one of torch's checkpoint."""
    return frame is not None and frame.f_code.co_filename == _CHECKPOINT


_CHECKPOINT = os.path.join(os.path.dirname(torch.__file__), "utils", "checkpoint.py")
