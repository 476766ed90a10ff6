"""Packed sequences: a graph holds them as padded ones, whose sizes don't depend on the lengths, for as long as nobody looks
at how they are packed."""
from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from ...compiler.ops.recurrent import packed
from ..casting import autocasting
from ..symbolic.symbols import fixed
from ..torch_internals import active_transform, pack, unpack
from .as_one import STEPWISE
from .overloads import leaves

if TYPE_CHECKING:
    from .recorder import Recorder

_T = torch.Tensor
#: What a tensor tells whatever the lengths are.
_ALIKE = {*(f.__get__ for f in (_T.dtype, _T.device, _T.layout, _T.is_cuda, _T.ndim)), _T.dim}


@dataclass(frozen=True)
class Rows:
    """Sequences of these lengths, the longest first, one beside the other and padded: (time, batch, ...).

    whole   whether the longest is as long as the padded ones
    zeros   whether they are padded with zeros
    """
    padded: torch.Tensor
    lengths: torch.Tensor
    whole: bool
    zeros: bool

    @cached_property
    def longest(self) -> int:
        return self.padded.size(0) if self.whole else self.lengths[0].item()

    @property
    def count(self) -> int:
        return self.padded.size(1)


class Packed:
    """The packed sequences of one run: the run gets those that eager gives."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._kept: list[torch.Tensor] = []
        self._data: dict[int, Rows] = {}
        self._batch_sizes: dict[int, Rows] = {}
        self._counts: dict[int, Rows] = {}  # the first of the batch sizes

    def call(self, api: ContextManager, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """What a call of torch's API gives that packs sequences, or is given packed ones; NotImplemented for any other. Inside
        `api`, calls are recorded."""
        if self._recorder.apart or active_transform() is not None:
            return NotImplemented
        if function is pack and not kwargs:
            with api:
                return self._pack(*args)
        given = [t for t in leaves((args, kwargs)) if self._holds(t)] if self._kept else ()
        if not given or function in _ALIKE:
            return NotImplemented
        if function in STEPWISE and not kwargs and self._runs(*args):
            return self._run(function, *args)
        with api:
            result = self._told(function, args, kwargs)
        if result is NotImplemented:
            for t in given:  # the graph holds it as it lies in memory from now on
                self._recorder.meet(t)
        return result

    def _holds(self, t: Any) -> bool:
        return id(t) in self._data or id(t) in self._batch_sizes or id(t) in self._counts

    def _alike(self, data: torch.Tensor, batch_sizes: torch.Tensor) -> bool:
        """Whether the two are packed of the same rows."""
        rows, sizes = self._data.get(id(data)), self._batch_sizes.get(id(batch_sizes))
        return rows is not None and sizes is not None and rows.lengths is sizes.lengths

    def _told(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """What a call gives for which nobody needs to know how the rows are packed."""
        if function is torch.zeros:
            return torch.zeros(*(self._counts[id(n)].count if id(n) in self._counts else n for n in args), **kwargs)
        if kwargs:
            return NotImplemented
        data, sizes, count = (kind.get(id(args[0])) for kind in (self._data, self._batch_sizes, self._counts))
        if function is _T.__int__ and count:
            return fixed(count.count)
        if function is _T.__getitem__ and sizes and type(args[1]) is int and not args[1] and _called_by_torch():
            return self._keep(self._counts, self._recorder.unseen(function, *args), sizes)
        if function is _T.size and sizes and args[1:] == (0,):
            return sizes.longest
        if function is _T.size and data and args[1:] == (-1,):
            return data.padded.size(-1)
        return self._unpack(*args) if function is unpack and self._alike(*args[:2]) else NotImplemented

    def _keep(self, kind: dict, tensor: torch.Tensor, of: Any) -> torch.Tensor:
        self._kept.append(tensor)
        kind[id(tensor)] = of
        return tensor

    def _pack(self, padded: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
        data, batch_sizes = self._recorder.unseen(pack, padded, lengths, batch_first)
        padded, lengths = (padded.transpose(0, 1) if batch_first else padded).clone(), lengths.clone()
        rows = Rows(padded, lengths, bool(lengths[0] == padded.size(0)), zeros=False)
        return self._keep(self._data, data, rows), self._keep(self._batch_sizes, batch_sizes, rows)

    def _runs(self, data, batch_sizes, hx, params, has_biases, layers, dropout, train, *_) -> bool:
        """Whether a recurrent net of these arguments is one op: its rounding is its own under autocast, and so are the places
        of what it drops."""
        return self._alike(data, batch_sizes) and not autocasting() and not (dropout and train)

    def _run(self, net: Callable, data: torch.Tensor, _, *more) -> tuple[torch.Tensor, ...]:
        rows = self._data[id(data)]
        padded, *hidden = self._recorder.make_as_one(packed(net.__name__), (rows.padded, rows.lengths, *more), {})
        data, _ = self._recorder.unseen(pack, padded, rows.lengths, False)
        return self._keep(self._data, data, replace(rows, padded=padded, zeros=True)), *hidden

    def _unpack(self, data, batch_sizes, batch_first: bool, filling: float, total: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self._data[id(data)]
        padded, length = rows.padded, total if total > 0 else self._batch_sizes[id(batch_sizes)].longest
        if length != padded.size(0):
            length = fixed(length)
            more = length - padded.size(0)
            padded = padded.narrow(0, 0, length) if more < 0 else F.pad(padded, (0, 0) * (padded.dim() - 1) + (0, more))
        if filling or not rows.zeros:
            times = torch.arange(padded.size(0)).unsqueeze(1)
            beyond = (times >= rows.lengths).to(padded.device)
            padded = padded.masked_fill(beyond.reshape(*beyond.shape, *(1,) * (padded.dim() - 2)), filling)
        padded = padded.clone(memory_format=torch.contiguous_format)
        return padded.transpose(0, 1) if batch_first else padded, rows.lengths.clone()

    def taken(self, tensor: torch.Tensor) -> tuple[Rows, int] | None:
        """The rows that a tensor is packed of, and which result of packing it is. The recorder is to know it from now on."""
        known = ((kind.pop(id(tensor), None), k) for k, kind in enumerate((self._data, self._batch_sizes)))
        return next((found for found in known if found[0] is not None), None)


def _called_by_torch() -> bool:
    """Whether a module of torch's made the call that is under way."""
    frame, own = sys._getframe(), __name__.split(".frontend.")[0]
    while frame.f_globals.get("__name__", "").startswith(own + "."):
        frame = frame.f_back
    return frame.f_globals.get("__name__") == nn.RNNBase.__module__
