"""`python -m smelt doctor`: what smelt needs, whether this machine has it, and what to do where it does not."""
from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import config
from ..codegen.c.isa import isa_of
from ..errors import SmeltError
from ..runtime import toolchain
from ..runtime.cache import make_private


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `ok` is None where a thing is optional and absent."""
    what: str
    ok: bool | None
    text: str

    def __str__(self):
        return f"{'ok  ' if self.ok else 'no  ' if self.ok is None else 'FAIL'}  {self.what:<10}  {self.text}"


def examine() -> list[Finding]:
    """Every finding, in the order in which things depend on each other."""
    return [_python(), _torch(), _compiler(), _vectors(), _openmp(), _kernel(), _cache(), _triton(), _gpu(), _drawing()]


def main() -> int:
    findings = examine()
    print(*findings, sep="\n")
    failed = [f.what for f in findings if f.ok is False]
    print(f"\nto mend: {', '.join(failed)}" if failed else "\nall that smelt needs is here")
    return 1 if failed else 0


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding("python", good, platform.python_version() + ("" if good else ": smelt needs Python 3.11 or newer"))


def _torch() -> Finding:
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < (2, 11):
        return Finding("torch", False, f"{torch.__version__}: smelt needs 2.11 or newer: pip install -U torch")
    return Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads" +
                   ("" if version <= (2, 13) else " (newer than the versions that smelt is tested with: 2.11 to 2.13)"))


def _compiler() -> Finding:
    try:
        return Finding("compiler", True, toolchain().describe())
    except SmeltError as e:
        return Finding("compiler", False, f"{e}. Install gcc or clang (Debian: apt install gcc libc6-dev); "
                       "until then everything runs eagerly")


def _vectors() -> Finding:
    return Finding("vectors", True, isa_of(config.isa).name + ("" if config.isa == "auto" else ", from config.isa (SMELT_ISA)"))


def _openmp() -> Finding:
    copies = sorted({line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
                     if re.search(r"lib(g|i)?omp[-.\w]*\.so", line)}) if os.path.exists("/proc/self/maps") else []
    if len(copies) > 1:
        return Finding("OpenMP", False, f"{len(copies)} OpenMP runtimes in one process, which slows every parallel loop: "
                       f"{', '.join(copies)}")
    return Finding("OpenMP", True if copies else None, copies[0] if copies else "none loaded: kernels run on one thread")


def _kernel() -> Finding:
    import smelt
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cache that can't be used: that is a finding of its own
            f = smelt.compile(lambda x: x * 2 + 1, fullgraph=True)
            x = torch.arange(8.0)
            f(x)
            good = torch.equal(f(x), x * 2 + 1)
        return Finding("kernel", good, "a small program compiles and is right" if good else "a small program gave a wrong result")
    except SmeltError as e:
        return Finding("kernel", False, f"a small program does not compile: {e}")


def _cache() -> Finding:
    folder = Path(config.cache_dir)
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        return Finding("cache", False, f"can't be used: {e}. Kernels are built again in every process; "
                       "set SMELT_CACHE_DIR to a folder that only you can write to")
    entries = list(folder.glob("*.so"))
    free = shutil.disk_usage(folder).free
    used = sum(e.stat().st_size for e in entries)
    return Finding("cache", True, f"{folder}: {len(entries)} kernels, {used / 1e6:.1f} MB, {free / 1e9:.0f} GB free")


def _triton() -> Finding:
    if importlib.util.find_spec("triton") is None:
        return Finding("triton", None, "not installed: only GPU programs need it (pip install triton)")
    import triton
    return Finding("triton", True, triton.__version__)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", None, "none that torch can use; CPU programs are compiled to C")
    if importlib.util.find_spec("triton") is None:
        return Finding("GPU", None, f"{torch.cuda.get_device_name()}: without triton, tensors on it run eagerly")
    return Finding("GPU", True, torch.cuda.get_device_name())


def _drawing() -> Finding:
    if importlib.util.find_spec("graphviz") is None:
        return Finding("pictures", None, "smelt.draw needs: pip install graphviz pygraphviz")
    if shutil.which("dot"):
        return Finding("pictures", True, f"graphviz, drawn by {shutil.which('dot')}")
    if importlib.util.find_spec("pygraphviz"):
        return Finding("pictures", True, "graphviz, drawn by pygraphviz")
    return Finding("pictures", None, "nothing to draw with: pip install pygraphviz, or install the `dot` program")
