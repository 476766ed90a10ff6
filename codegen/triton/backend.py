"""The Triton backend as code generation sees it."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ..loops import AnyKernel
from .matmul import DTYPES
from .printer import Cut, cuts, print_source
from .tiling import parts_for_programs
from .trials import LIBRARY, Choose, trials_of_kernel, trials_of_product


@dataclass(frozen=True)
class TritonBackend:
    """Prints kernels as Triton.

    choose  the name of the fastest of several programs, which it measures on `device`. Without it every kernel is cut as a
            heuristic says, and matrix products are left to torch's libraries.
    """
    choose: Choose | None = None
    device: torch.device = torch.device("cpu")
    language: str = "triton"
    loops: bool = False

    def print(self, name, segments, messages, symbols) -> str:
        return print_source(name, segments, symbols, self.cut)

    def cut(self, kernel: AnyKernel) -> Cut:
        """How a kernel is cut into programs; one of symbolic sizes unmeasured."""
        found = {str(c): c for c in cuts(kernel)}
        trials = trials_of_kernel(kernel, self.device) if self.choose else {}
        return found[self.choose(trials)] if len(trials) > 1 else cuts(kernel)[0]

    def use_library(self, batch: int, m: int, n: int, k: int, dtype: torch.dtype) -> bool:
        if self.choose is None or dtype not in DTYPES:
            return True
        return self.choose(trials_of_product(batch, m, n, k, dtype, self.device)) == LIBRARY

    def channels_last(self, channels: int, places: int) -> bool:
        return False

    def parts(self, elements: int, results: int, rows: bool) -> int:
        return parts_for_programs(elements, results, rows)
