"""The ops and calls of torch that a run makes in asides (see asides.py): they are not recorded."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Container, Iterator

import torch

from ...errors import Unsupported
from .overloads import Overload, leaves

_T = torch.Tensor
#: What a tensor has in common with a copy of what it holds.
_METADATA = {getattr(_T, name).__get__ for name in ("shape", "dtype", "device", "ndim", "itemsize", "nbytes")}
_METADATA |= {_T.__len__, _T.size, _T.dim, _T.numel}
_SHARED = {getattr(_T, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag")}
#: What a copy would answer differently, or that does more than to look.
_REFUSED = {"backward", "stride", "is_contiguous", "storage_offset", "is_inference", "data_ptr", "untyped_storage", "storage",
            "requires_grad_", "detach_", "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "set_", "resize_",
            "is_set_to", "__reduce_ex__", "__deepcopy__", "__dlpack__", "apply_", "map_", "grad", "manual_seed"}


class Beside:
    """Those of one run. `aside` gives the aside that the run is in, None if it is in none; `stop` ends the recording."""

    def __init__(self, aside: Callable[[], Any], stop: Callable[[Unsupported], None]):
        self._aside, self._stop, self._left = aside, stop, False
        self._made: dict[int, torch.Tensor] = {}
        self._used: list[torch.Tensor] = []

    def enters(self) -> bool:
        """Whether an op that is called now is not to be recorded."""
        return not self._left and self._aside() is not None

    @contextmanager
    def left(self) -> Iterator[None]:
        """Ops called in here are recorded."""
        self._left = True
        try:
            yield
        finally:
            self._left = False

    def run(self, op: Overload, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Run an op."""
        if op.writes or op.seeded or op.silent:
            self._refuse(f"calls {op.key}")
        self._use((args, kwargs))
        result = function(*args, **kwargs)
        self._made.update((id(t), t) for t in leaves(result) if isinstance(t, torch.Tensor))
        return result

    def call(self, function: Callable, args: tuple) -> None:
        """A function of torch's API is about to be called."""
        name = getattr(function, "__name__", "")
        if function in _METADATA:
            return
        if name == "__get__" and function not in _SHARED or name in ("__set__", "__delete__") or name in _REFUSED:
            self._refuse("looks at more than what a tensor holds")
        if function is _T.__repr__ or function is _T.__format__ and args[0].dim():
            if args[0].requires_grad or type(args[0]) is not torch.Tensor:
                self._refuse("shows a tensor that requires grad, or a parameter")
        self._use(args)

    def check(self, known: Container[int]) -> None:
        """An aside, or part of one, is over, whose variables held the tensors of these ids: it may have used no others."""
        used, self._used = self._used, []
        if any(id(t) not in known and id(t) not in self._made for t in used):
            self._refuse("looks at a tensor that is no variable")

    def _use(self, given: Any) -> None:
        self._used += (t for t in leaves(given) if isinstance(t, torch.Tensor))

    def _refuse(self, what: str) -> None:
        self._stop(Unsupported(f"{what} in order to print or log"))
