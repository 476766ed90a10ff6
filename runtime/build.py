"""Finds the system's C compiler and makes shared objects with it.

A shared object shares torch's own OpenMP runtime: it is linked without one (`-nostdlib`) and takes the entry points
from the process that loads it, so there is never a second pool of threads. Where the process has no entry points for
this compiler's OpenMP, kernels are built without it and run on one thread.
"""
from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Sequence

import torch  # noqa: F401  loads the OpenMP runtime that kernels share

from .. import config
from ..errors import BuildError

#: Rounding as written (no contraction, no reassociation), integers wrap; errno and trap flags are of no use to kernels. What
#: is to be a vector is written as one: gcc 12, where it makes vectors of its own, loses lanes of a loop with a condition.
FLAGS = ("-O2", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-w",
         "-fno-tree-vectorize")
#: Vectors of an unrolled loop are computed side by side: one alone is a long chain of operations that wait for each other.
#: clang does so by itself, and has no such flags.
GCC_FLAGS = ("-fschedule-insns", "-fsched-pressure")
LIBRARIES = ("-nostdlib", "-lm", "-lgcc")
OUTPUT_LINES = 20  # of a failed compiler, in the error


@dataclass(frozen=True)
class Toolchain:
    """A compiler that works here, and how it is called. `identity` changes with its version, its flags and the machine."""
    command: tuple[str, ...]
    flags: tuple[str, ...]
    identity: str
    version: str

    @property
    def openmp(self) -> bool:
        return "-fopenmp" in self.flags

    def describe(self) -> str:
        """One line for people."""
        threads = "OpenMP of torch" if self.openmp else "one thread: this compiler's OpenMP has no runtime in this process"
        return f"{shlex.join(self.command)} ({self.version}), {threads}"


def toolchain() -> Toolchain:
    """The compiler of `config.cc`, $CC, or the first of gcc, cc and clang. Raises BuildError if none works."""
    return _toolchain(_compiler(config.cc or os.environ.get("CC", "")))


def compile_shared(source: Path, target: Path, tools: Toolchain) -> None:
    """Compile a C file into a shared object; where it defines UNITS, it is compiled once for each UNIT, side by side. Raises
    BuildError with the command and the compiler's first lines."""
    units = re.search(r"^#define UNITS (\d+)$", source.read_text(), re.MULTILINE)
    parts = [target.with_suffix(f".{n}.o") for n in range(int(units[1]))] if units else []
    if parts:
        compiled = [[*tools.command, *tools.flags, f"-DUNIT={n}", "-c", "-o", str(part), str(source)]
                    for n, part in enumerate(parts)]
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(_run, compiled))
    command = [*tools.command, *tools.flags, "-o", str(target), *map(str, parts or [source]), *LIBRARIES]
    _run(command)
    if not target.exists():
        raise BuildError(f"{shlex.join(command)}\nsucceeded, but made no shared object")


def _compiler(wanted: str) -> tuple[str, ...]:
    if wanted:
        program, *arguments = shlex.split(wanted)
        if found := shutil.which(program):
            return (found, *arguments)
        raise BuildError(f"no C compiler: {program!r} (from SMELT_CC or CC) is not there")
    for name in ("gcc", "cc", "clang"):
        if found := shutil.which(name):
            return (found,)
    raise BuildError("no C compiler: none of gcc, cc and clang is on the PATH (SMELT_CC names one)")


@lru_cache
def _toolchain(command: tuple[str, ...]) -> Toolchain:
    native: tuple[str, ...] = ("-march=native",)
    try:
        macros = _macros(command, native)
    except BuildError:  # a target without it
        native = ()
        macros = _macros(command, native)
    clang = "#define __clang__ " in macros
    flags = (*FLAGS, *(() if clang else GCC_FLAGS), *native, *(("-fopenmp",) if _has_openmp_runtime(clang) else ()))
    versions = [line.split('"')[1] for line in macros.splitlines() if line.startswith("#define __VERSION__ ")]
    identity = hashlib.sha256(repr((command, flags, LIBRARIES, macros)).encode()).hexdigest()
    return Toolchain(command, flags, identity, versions[0] if versions else "unknown version")


def _macros(command: Sequence[str], flags: Sequence[str]) -> str:
    """The macros that the compiler predefines: they tell its version, its target and the instruction sets in use."""
    return _run([*command, *flags, "-dM", "-E", "-x", "c", os.devnull])


def _has_openmp_runtime(clang: bool) -> bool:
    """Whether the process has the entry point to which this family of compilers translates a parallel region."""
    return hasattr(ctypes.CDLL(None), "__kmpc_fork_call" if clang else "GOMP_parallel")


def _run(command: list[str]) -> str:
    """Standard output of a command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        raise BuildError(f"{shlex.join(command)}\ncould not be started: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        raise BuildError("\n".join([f"{shlex.join(command)}\nfailed with status {done.returncode}:", *lines[:OUTPUT_LINES]]))
    return done.stdout
