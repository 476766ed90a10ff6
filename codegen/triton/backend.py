"""The Triton backend as code generation sees it."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from .printer import print_source


@dataclass(frozen=True)
class TritonBackend:
    """Prints kernels as Triton; matrix products are left to torch's libraries."""
    language: str = "triton"

    def print(self, name, segments, messages) -> str:
        return print_source(name, segments)

    def use_library(self, m: int, n: int, k: int, dtype: torch.dtype) -> bool:
        return True
