"""Triton sources as Python modules: on a GPU compiled by Triton, on the CPU run by its interpreter.

The interpreter is for tests and for looking for a mistake: it takes milliseconds for what a GPU does in microseconds.
"""
from __future__ import annotations

import importlib.util
import linecache
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import torch

from ..errors import BuildError
from .cache import text_file
from .interpreted import Libdevice, interpreted as in_interpreter

#: What every kernel is compiled with: rounding as written.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}
#: Where the target has libdevice: its functions keep small numbers.
NVIDIA_OPTIONS: dict[str, Any] = {"enable_reflect_ftz": False}
#: Whether kernels are to be interpreted is one switch of the process, which sources are loaded under; forward and backward are
#: loaded at once.
_switch = threading.Lock()


def triton_functions(source: str, device: torch.device) -> tuple[Callable[[str], Callable[..., int]], Path]:
    """(a function that gives the segment of a name, the source's file). A segment takes tensors on this device, then sizes.

    Raises BuildError where Triton is not installed.
    """
    module = load_module(source, interpreted=device.type == "cpu")
    if device.type == "cpu":
        return lambda symbol: in_interpreter(getattr(module, symbol)), Path(module.__file__)
    options = OPTIONS | ({} if torch.version.hip else NVIDIA_OPTIONS)
    return lambda symbol: _on_device(partial(getattr(module, symbol), **options), device), Path(module.__file__)


def load_module(source: str, interpreted: bool) -> ModuleType:
    """A source as a module of its own. Raises BuildError where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise BuildError("Triton is not installed: pip install triton")
    import triton
    path = text_file(source, ".py")
    module = ModuleType(f"smelt_{path.stem[:16]}")
    module.__file__ = str(path)
    linecache.checkcache(str(path))
    with _switch, triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpreted
        exec(compile(source, str(path), "exec"), module.__dict__)
    if interpreted:
        module.libdevice = Libdevice()
    return module


def _on_device(segment: Callable[..., int], device: torch.device) -> Callable[..., int]:
    """Triton launches on the current device, whatever its tensors are on."""
    if torch.cuda.device_count() == 1:
        return segment

    def run(*given) -> int:
        with torch.cuda.device(device) if torch.cuda.current_device() != device.index else nullcontext():
            return segment(*given)
    return run
