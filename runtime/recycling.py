"""Memory of large results that nobody holds any more, for the next ones.

The system takes large freed memory back, and zeroes every page of it that it hands out again: writing to fresh memory takes
several times as long as to memory that was in use before.
"""
from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Callable, NamedTuple

import torch

from .. import config

#: Results of so many bytes are worth it: what is smaller, malloc itself keeps.
LARGE = 16 << 20

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class _Kept(NamedTuple):
    """A tensor of which results are aliases, and its storage."""
    tensor: torch.Tensor
    storage: torch.UntypedStorage


class Recycling:
    """`empty` (shape, strides, dtype) with the memory of an earlier result of the same layout, if nothing holds that any more.

    `uses` counts the holders of a storage in C++. Of all memory given out, up to `config.recycle` bytes are kept track of.
    """

    def __init__(self, empty: Callable[..., torch.Tensor], uses: Callable[[int], int]):
        self._empty, self._uses = empty, uses
        self._kept: OrderedDict[int, tuple[Layout, _Kept]] = OrderedDict()  # by address; the latest used last
        self._bytes = 0
        alone = torch.empty(0)
        self._alone = self._holders(_Kept(alone, alone.untyped_storage()))
        self._lock = threading.Lock()

    def __call__(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        # A tensor of inference mode is of another kind; and who has to wait for another thread is better off with fresh memory.
        if torch.is_inference_mode_enabled() or not self._lock.acquire(blocking=False):
            return self._empty(shape, strides, dtype)
        try:
            found = self._again((shape, strides, dtype))
            return self._made((shape, strides, dtype)) if found is None else found
        finally:
            self._lock.release()

    def _again(self, layout: Layout) -> torch.Tensor | None:
        for address, (known, kept) in reversed(self._kept.items()):
            if known == layout and self._free(kept):
                cut = kept.storage.nbytes() != kept.tensor.nbytes
                if cut or kept.storage.is_shared():  # with another process
                    self._drop(address)
                    return None
                self._kept.move_to_end(address)
                return kept.tensor.data
        return None

    def _made(self, layout: Layout) -> torch.Tensor:
        tensor = self._empty(*layout)
        if not LARGE <= tensor.nbytes <= config.recycle:
            return tensor
        for address, (_, kept) in list(self._kept.items()):
            if self._bytes + tensor.nbytes > config.recycle and self._free(kept):
                self._drop(address)
        if self._bytes + tensor.nbytes > config.recycle:
            return tensor
        self._kept[tensor.data_ptr()] = layout, _Kept(tensor, tensor.untyped_storage())
        self._bytes += tensor.nbytes
        return tensor.data

    def _free(self, kept: _Kept) -> bool:
        return self._holders(kept) == self._alone

    def _holders(self, kept: _Kept) -> tuple[int, int]:
        """How many hold the storage in C++ and in Python."""
        return self._uses(kept.storage._cdata), sys.getrefcount(kept.storage)

    def _drop(self, address: int) -> None:
        _, kept = self._kept.pop(address)
        self._bytes -= kept.tensor.nbytes
