"""The C backend as code generation sees it."""
from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..prepare import parts_for_threads
from .isa import isa_of
from .matmul import use_library
from .printer import print_source

#: Convolutions of so few channels are slow on every CPU where the channels do not come last.
FEW_CHANNELS = 4
#: Where a result has fewer places, bringing the weight into that layout takes more time than it saves.
FEW_PLACES = 512


@dataclass(frozen=True)
class CBackend:
    """Prints kernels as C for an instruction set ("auto": this machine's)."""
    isa: str = "auto"
    language: str = "c"
    loops: bool = True
    cores: int = os.cpu_count() or 1  # on which compilers run

    def print(self, name, segments, messages, symbols) -> str:
        return print_source(name, segments, messages, self.isa, symbols, self.cores)

    def use_library(self, batch: int, m: int, n: int, k: int, dtype: torch.dtype) -> bool:
        return use_library(m, n, k, dtype, self.isa)

    def channels_last(self, channels: int, places: int) -> bool:
        return places >= FEW_PLACES and (isa_of(self.isa).name == "avx512" or channels <= FEW_CHANNELS)

    def parts(self, elements: int, results: int, rows: bool) -> int:
        return parts_for_threads(elements, results, rows)
