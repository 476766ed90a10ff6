"""Shared objects by source: built once per process, and once per machine through a folder on disk.

An entry on disk is `<key>.so`: the shared object followed by a trailer with its key and its digest, so that an entry is
whole or not trusted, and is written with one atomic rename. `<key>.c` beside it is the source, for people. The key
covers the source, the flags, the compiler and the machine's instruction sets.
"""
from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import stat
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .. import config
from ..errors import BuildError, SmeltWarning
from .build import Toolchain, compile_shared, toolchain

_MARK = b"smelt-cache-1:"
_loaded: dict[str, "Library"] = {}  # no lock: two threads may build the same entry, and the first one in is kept
_warned: set[Path] = set()


@dataclass(frozen=True)
class Library:
    """A shared object in this process. `source_path` is None where the folder on disk could not be used."""
    handle: ctypes.PyDLL
    source_path: Path | None

    def address(self, symbol: str) -> int:
        """Where a function lies. Raises BuildError if there is none of this name."""
        try:
            return ctypes.cast(getattr(self.handle, symbol), ctypes.c_void_p).value or 0
        except AttributeError:
            raise BuildError(f"the source defines no function {symbol!r}") from None


def library(source: str) -> Library:
    """The shared object of a C source: from this process, from disk, or newly built. Raises BuildError."""
    tools = toolchain()
    key = hashlib.sha256(f"{tools.identity}\n{source}".encode()).hexdigest()
    found = _loaded.get(key)
    return found or _loaded.setdefault(key, _from_disk(key, source, tools))


def _from_disk(key: str, source: str, tools: Toolchain) -> Library:
    folder = Path(config.cache_dir)
    try:
        make_private(folder)
        path = folder / f"{key}.so"
        if not _whole(path, key):
            _build(folder, key, source, tools)
        return Library(ctypes.PyDLL(str(path)), folder / f"{key}.c")
    except OSError as error:
        _warn_once(folder, error)
        return _outside_cache(key, source, tools)


def text_file(text: str, suffix: str) -> Path:
    """A file with this text in the folder on disk, or in a folder of this process where that cannot be used."""
    name = hashlib.sha256(text.encode()).hexdigest() + suffix
    folder = Path(config.cache_dir)
    try:
        make_private(folder)
        path = folder / name
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)
        return path
    except OSError as error:
        _warn_once(folder, error)
    try:
        path = Path(_process_folder()) / name
        write_text(path, text)
    except OSError as error:
        raise BuildError(f"the generated source could not be written: {error}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as work:
        made = Path(work) / path.name
        made.write_text(text)
        os.replace(made, path)


@lru_cache
def _process_folder() -> str:
    """A folder that is gone again with the process."""
    folder = tempfile.TemporaryDirectory(prefix="smelt-")
    atexit.register(folder.cleanup)
    return folder.name


def _warn_once(folder: Path, error: OSError) -> None:
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(f"smelt cannot use its cache folder, and will build again in every process: {error}",
                      SmeltWarning, stacklevel=3)


def _outside_cache(key: str, source: str, tools: Toolchain) -> Library:
    """Build in a folder that is gone again when the shared object is loaded."""
    try:
        with tempfile.TemporaryDirectory(prefix="smelt-") as folder:
            return Library(ctypes.PyDLL(str(_build(Path(folder), key, source, tools))), None)
    except OSError as error:  # no folder to build in, or a symbol that the process lacks
        raise BuildError(f"the shared object could not be made or loaded: {error}") from error


def make_private(folder: Path) -> None:
    """Make the folder, or raise PermissionError if others could have put entries there: entries are code to be run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} can be written by others (mode {stat.S_IMODE(status.st_mode):o})")


def _build(folder: Path, key: str, source: str, tools: Toolchain) -> Path:
    """Compile in a folder; the entry appears there whole or not at all."""
    path = folder / f"{key}.so"
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
        text, made = Path(work) / f"{key}.c", Path(work) / f"{key}.so"
        text.write_text(source)
        compile_shared(text, made, tools)
        made.write_bytes(_sealed(made.read_bytes(), key))
        os.replace(text, path.with_suffix(".c"))
        os.replace(made, path)
    return path


def _sealed(content: bytes, key: str) -> bytes:
    """A shared object with its trailer; the loader does not look behind the sections."""
    return content + _trailer(content, key)


def _trailer(content: bytes, key: str) -> bytes:
    return _MARK + key.encode() + hashlib.sha256(content).hexdigest().encode()


def _whole(path: Path, key: str) -> bool:
    """Whether the entry is there and undamaged."""
    try:
        entry = path.read_bytes()
    except FileNotFoundError:
        return False
    cut = len(entry) - len(_trailer(b"", key))
    return cut > 0 and entry[cut:] == _trailer(entry[:cut], key)
