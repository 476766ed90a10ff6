"""Compiles Triton kernels for a GPU that need not be there, and says what they use of it."""
from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
import torch

from ..errors import BuildError
from .program import Signature
from .triton_module import NVIDIA_OPTIONS, OPTIONS, load_module

#: Name -> Triton's target: backend, architecture, threads in a warp; and the bytes of shared memory that a program can have.
TARGETS = {"sm_80": (("cuda", 80, 32), 163 << 10), "sm_90": (("cuda", 90, 32), 227 << 10),
           "gfx942": (("hip", "gfx942", 64), 64 << 10)}
TYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64",
         torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "i1"}


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel uses: registers of a thread, bytes of shared memory of a program, bytes (on NVIDIA) or registers
    (on AMD) spilled by a thread."""
    registers: int
    shared: int
    spills: int

    def cells(self) -> tuple[str, str, str]:
        """What a line of a table says."""
        return f"{self.registers} registers", f"{self.shared} B shared", f"{self.spills} spilled"


def compile_for(target: str, source: str, kernel: Signature) -> Resources:
    """Compile a kernel of a source for a target of TARGETS.

    Raises BuildError for another target, where Triton is not installed or cannot compile the kernel, and where the kernel needs
    more shared memory than the target has.
    """
    if target not in TARGETS:
        raise BuildError(f"no target {target!r}: there is {', '.join(TARGETS)}")
    function = getattr(load_module(source, interpreted=False), kernel.name)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    (backend, architecture, lanes), available = TARGETS[target]
    signature = {**{p: f"*{TYPES[d]}" for p, d in kernel.pointers.items()}, **dict.fromkeys(kernel.sizes, "i64"),
                 **dict.fromkeys(kernel.constants, "constexpr")}
    aligned = {(n,): [["tt.divisibility", 16]] for n in range(len(kernel.pointers))}
    options = {**OPTIONS, **(NVIDIA_OPTIONS if backend == "cuda" else {}), **kernel.options}
    try:
        compiled = triton.compile(ASTSource(function, signature, dict(kernel.constants), aligned),
                                  target=GPUTarget(backend, architecture, lanes), options=options)
    except Exception as error:  # the compiler's own errors have no common base
        raise BuildError(f"Triton does not compile {kernel.name} for {target}: {error}") from error
    if compiled.metadata.shared > available:
        raise BuildError(f"{kernel.name} needs {compiled.metadata.shared} bytes of shared memory; {target} has {available}")
    found = _of_ptx(compiled.asm["ptx"], architecture) if backend == "cuda" else _of_amdgcn(compiled.asm["amdgcn"])
    return Resources(found[0], compiled.metadata.shared, found[1])


def _of_ptx(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers, and bytes spilled, as ptxas reports them."""
    from triton.backends.nvidia.compiler import get_ptxas
    target = re.search(r"\.target\s+(\w+)", ptx)
    with tempfile.TemporaryDirectory(prefix="smelt-") as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        done = subprocess.run([get_ptxas(architecture).path, "-v", f"--gpu-name={target[1]}", str(path), "-o", f"{path}.cubin"],
                              capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"ptxas failed: {done.stderr}")
    return _sum(r"Used (\d+) registers", done.stderr), _sum(r"(\d+) bytes spill", done.stderr)


def _of_amdgcn(text: str) -> tuple[int, int]:
    """Vector registers, and registers spilled, as the code object's notes have them."""
    return _sum(r"\.vgpr_count:\s+(\d+)", text), _sum(r"\.[sv]gpr_spill_count:\s+(\d+)", text)


def _sum(pattern: str, text: str) -> int:
    return sum(map(int, re.findall(pattern, text)))
