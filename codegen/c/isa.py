"""Vector types of GNU C by instruction set.

A kernel works on a number of lanes; each of its values is one vector of that many lanes, `f32x16` or `i64x8`, so that
float32, int64 and bool values stand side by side. A type wider than the machine's registers is legal: the compiler
splits its arithmetic, and helpers.py what the compiler splits badly.
"""
from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ...errors import Unsupported


@dataclass(frozen=True)
class Vector:
    """`lanes` elements of `kind` ("f" float, "i" signed, "u" unsigned) with `bits` bits each."""
    kind: str
    bits: int
    lanes: int

    def __str__(self):
        return f"{self.kind}{self.bits}x{self.lanes}"

    @property
    def scalar(self) -> str:
        """The C type of one lane."""
        if self.kind == "f":
            return "float" if self.bits == 32 else "double"
        name = {8: "char", 16: "short", 32: "int", 64: "long long"}[self.bits]
        sign = "unsigned " if self.kind == "u" else "signed " if self.bits == 8 else ""
        return sign + name

    @property
    def bytes(self) -> int:
        return self.bits // 8 * self.lanes

    @property
    def typedef(self) -> str:
        return f"typedef {self.scalar} {self} __attribute__((vector_size({self.bytes})));"

    def like(self, kind: str | None = None, bits: int | None = None, lanes: int | None = None) -> "Vector":
        return Vector(kind or self.kind, bits or self.bits, lanes or self.lanes)


def parse_vector(name: str) -> Vector:
    """The type that is written `name`."""
    kind, bits, lanes = re.fullmatch(r"([fiu])(\d+)x(\d+)", name).groups()
    return Vector(kind, int(bits), int(lanes))


@dataclass(frozen=True)
class Isa:
    """An instruction set: `bytes` in a vector register, of which there are `registers`. "scalar" has registers of one 4-byte
    lane."""
    name: str
    bytes: int
    registers: int

    def lanes(self, bits: int) -> int:
        """Lanes of `bits` bits that fill a register."""
        return max(1, self.bytes * 8 // bits)

    def mask(self, lanes: int) -> Vector:
        """The type of bool values on so many lanes: 0 or -1, as wide as the kernel's floats."""
        return Vector("i", 32 if lanes == 1 or lanes * 4 >= self.bytes else 64, lanes)

    def wide(self, vector: Vector) -> bool:
        """Whether a vector takes more than one register."""
        return vector.bytes > self.bytes and vector.lanes > 1


ISAS = {isa.name: isa for isa in (Isa("avx512", 64, 32), Isa("avx2", 32, 16), Isa("neon", 16, 32), Isa("scalar", 4, 16))}


@lru_cache(maxsize=1)
def host() -> str:
    """The name of the best instruction set of this machine."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return "neon"
    if machine not in ("x86_64", "amd64"):
        return "scalar"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: what torch found at its own start
        return {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "scalar")
    flags = set(re.search(r"^flags\s*:(.*)$", text, re.MULTILINE).group(1).split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= flags else "scalar"


def isa_of(name: str) -> Isa:
    """The instruction set called `name`; "auto" is this machine's."""
    return ISAS[host() if name == "auto" else name]


# How a dtype lies in memory and in a vector. Half floats are held as float32 with their rounded value, bool as a mask.

_MEMORY = {torch.float32: ("f", 32), torch.float64: ("f", 64), torch.int64: ("i", 64), torch.int32: ("i", 32),
           torch.int16: ("i", 16), torch.int8: ("i", 8), torch.uint8: ("u", 8), torch.bool: ("u", 8),
           torch.bfloat16: ("u", 16), torch.float16: ("u", 16), torch.uint16: ("u", 16), torch.uint32: ("u", 32),
           torch.uint64: ("u", 64)}
#: dtypes that memory holds in another form than vectors do, with the name of that form
FORMS = {torch.bool: "bool", torch.bfloat16: "bf16", torch.float16: "f16"}


def memory_type(dtype: torch.dtype, lanes: int) -> Vector:
    """The vector of what memory holds."""
    if dtype not in _MEMORY:
        raise Unsupported(f"{dtype} in C")
    return Vector(*_MEMORY[dtype], lanes)


def register_type(dtype: torch.dtype, lanes: int, isa: Isa) -> Vector:
    """The vector that a value of `dtype` is while it is computed with."""
    if dtype == torch.bool:
        return isa.mask(lanes)
    if dtype in (torch.bfloat16, torch.float16):
        return Vector("f", 32, lanes)
    return memory_type(dtype, lanes)
