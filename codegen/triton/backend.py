"""The Triton backend as code generation sees it."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from .printer import print_source
from .tiling import parts_for_programs


@dataclass(frozen=True)
class TritonBackend:
    """Prints kernels as Triton; matrix products are left to torch's libraries."""
    language: str = "triton"

    def print(self, name, segments, messages, symbols) -> str:
        return print_source(name, segments, symbols)

    def use_library(self, m: int, n: int, k: int, dtype: torch.dtype) -> bool:
        return True

    def parts(self, elements: int, results: int, rows: bool) -> int:
        return parts_for_programs(elements, results, rows)
