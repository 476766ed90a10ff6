"""Functions whose call can't be replayed: what they do shows outside the program, or what they give changes by itself."""
from __future__ import annotations

import functools
import types
from typing import Any

import torch

from .places import USER, is_checkpoint, kind_of_file, on_behalf_of_user

#: C functions, by module (and name, where not the whole module counts).
_C_MODULES = {"time", "posix", "nt", "_io", "io", "random", "_random", "_socket", "select", "_posixsubprocess", "_signal",
              "_warnings", "_multiprocessing", "_ctypes", "fcntl", "mmap", "numpy.random.mtrand", "gc", "atexit", "resource",
              "_tracemalloc", "syslog"}
_C_FUNCTIONS = {("builtins", name) for name in ("print", "input", "breakpoint", "globals")} | {
    ("datetime", name) for name in ("now", "today", "utcnow")} | {
    ("_thread", name) for name in ("start_new_thread", "get_ident", "get_native_id", "locked")} | {("numpy", "fromfile")}
_PURE = {("posix", "fspath"), ("nt", "fspath"), ("torch._C", "_set_grad_enabled")}
#: Those of sys that set nothing, and tell nothing that changes by itself.
_PURE_OF_SYS = {"intern", "exc_info", "exception", "audit", "getrecursionlimit", "getdefaultencoding", "getfilesystemencoding",
                "getfilesystemencodeerrors", "is_finalizing", "_getframe", "_getframemodulename"}
#: What tells of the frames around, and of the exception that these deal with.
_OF_FRAMES = {"_getframe", "exc_info", "exception"}
#: Python functions of the standard library and of torch.
_PYTHON_MODULES = {"os", "random", "subprocess", "threading", "multiprocessing", "socket", "secrets", "tempfile", "shutil",
                   "asyncio", "pdb", "torch.distributed"}
_PYTHON_PACKAGES = ("multiprocessing.", "torch.distributed.", "asyncio.")
#: The same, also where torch itself calls them for the user.
_ALWAYS = {"warnings", "_warnings", "torch.random", "torch.cuda.random", "torch.serialization", "torch.hub"}
_PYTHON_FUNCTIONS = {("logging", "_log"), ("logging", "handle"), ("warnings", "warn"), ("warnings", "warn_explicit"),
                     ("torch.utils", "swap_tensors")}
_SAVES = torch.autograd.graph.saved_tensors_hooks.__enter__.__code__
_SETTERS = ("set_", "use_deterministic", "_set_")


def c_effect(frame: types.FrameType, function: Any) -> str:
    """What a C function, called from this frame, does that can't be replayed; "" if nothing."""
    receiver = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", None) or _module_of(receiver)
    listed = module in _C_MODULES or (module, name) in _C_FUNCTIONS or module == "sys" and name not in _PURE_OF_SYS \
        or name == "__subclasses__" and isinstance(receiver, type) \
        or name in ("cache_info", "cache_clear") and isinstance(receiver, functools._lru_cache_wrapper) \
        or name in _OF_FRAMES and kind_of_file(frame.f_code.co_filename) == USER
    switch = module in ("torch", "torch._C") and name.startswith(_SETTERS) and isinstance(receiver, types.ModuleType)
    generator = isinstance(receiver, torch.Generator)
    if not (listed or switch or generator) or (module, name) in _PURE or name == "get_ident" and _shortens(frame) \
            or not on_behalf_of_user(frame, trust_torch=module not in _ALWAYS):
        return ""
    return f"calls {name}()" if module == "builtins" else f"calls {module.lstrip('_')}.{name}()"


def python_effect(frame: types.FrameType) -> str:
    """The same for a Python function of the standard library or of torch that is being entered."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if is_checkpoint(frame.f_back):
        return ""  # it notes the random numbers' state, to compute once more what the program's gradient has of its own
    if frame.f_code is _SAVES and not isinstance(frame.f_locals["self"], torch.autograd.graph.save_on_cpu):
        return "lets autograd save tensors by hooks (saved_tensors_hooks)"
    listed = module in _PYTHON_MODULES or module.startswith(_PYTHON_PACKAGES) or module in _ALWAYS - {"warnings"}
    switch = module == "torch" and name.startswith(_SETTERS)
    if not (listed or switch or (module, name) in _PYTHON_FUNCTIONS):
        return ""
    if not on_behalf_of_user(frame.f_back, trust_torch=module not in _ALWAYS):
        return ""
    return f"calls {module}.{name}()"


def _shortens(frame: types.FrameType) -> bool:
    """Whether this is what tells whether a text of an object is being made within itself."""
    return frame.f_globals.get("__name__") in ("dataclasses", "reprlib")


def _module_of(receiver: Any) -> str:
    return (receiver if isinstance(receiver, type) else type(receiver)).__module__
