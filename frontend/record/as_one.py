"""Calls of torch that are made of other ops, and that a graph may hold as one op."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import torch

from ...compiler.ops.recurrent import is_celled, is_looped, padded
from ..symbolic.symbols import is_symbolic, plain
from ..torch_internals import OpPacket, active_transform, schema_of

#: Steps of recurrent nets: one op where passes know them, and may make a loop of several.
CELLS = frozenset({torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell})
#: Calls that make the same ops for each place of a sequence: one op where code generation makes a loop of them, where the
#: length is a symbol, or where it is long.
STEPWISE = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
#: Calls that C++ makes of sizes as plain numbers: one op where these are symbols, this one.
BY_SIZES = {torch.stft: torch.ops.aten.stft.center, torch.kron: torch.ops.aten.kron.default}
#: Steps of the longest sequence whose ops are recorded one by one: each takes some half a second to compile.
LONGEST_UNROLLED = 24
#: Calls whose whole numbers C++ takes for plain ones.
COUNTED = frozenset({torch.linspace, torch.logspace, torch.tril_indices, torch.triu_indices, torch.hann_window,
                     torch.hamming_window, torch.blackman_window, torch.bartlett_window, torch.kaiser_window})


@dataclass(frozen=True)
class Stretch:
    """What a run did in one call: which of its calls of ops and of its looks, how many tensors it had met afterwards, and
    which of these are the results."""
    calls: range
    looks: range
    met: int
    results: tuple[int, ...]


def is_whole(function: Callable, args: Sequence[Any]) -> bool:
    """Whether a call is one op in every recording. Inside of ctc_loss memory that nobody sees is left unwritten."""
    return function is torch.ctc_loss or function in CELLS and active_transform() is None and is_celled(*args)


def is_loop(args: Sequence[Any]) -> bool:
    """Whether a call of STEPWISE becomes a loop, or makes more steps than are recorded one by one."""
    if not _is_padded(args):
        return False
    if is_looped(*args):
        return True
    sequences, *_, layers, _, _, both, batch_first = args
    return sequences.shape[1 if batch_first else 0] * layers * (1 + both) > LONGEST_UNROLLED


def _is_padded(args: Sequence[Any]) -> bool:
    """Whether a call of STEPWISE is given padded sequences, not packed ones."""
    return len(args) == 9 and isinstance(args[8], bool)


def op_of(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable | None:
    """The overload that a call of torch's API or of an op makes, None if it is not to be told."""
    if function in BY_SIZES:
        return BY_SIZES[function]
    if function in STEPWISE and _is_padded(args) and not (args[5] and args[6]):
        function = padded(function.__name__)
    packet = function if isinstance(function, OpPacket) else getattr(torch.ops.aten, function.__name__)
    for name in packet.overloads():
        arguments = schema_of(getattr(packet, name)).arguments
        given = {**dict(zip((a.name for a in arguments), args)), **kwargs}
        if len(given) <= len(arguments) and all(a.name in given or a.has_default_value() for a in arguments) \
                and all(_fits(given[a.name], str(a.type)) for a in arguments if a.name in given):
            return getattr(packet, name)
    return None


def counted(op: Callable, plain_args: tuple, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    """The arguments of an op, with the symbolic whole numbers that one of COUNTED was given for it."""
    if schema_of(op).name != f"aten::{function.__name__}":
        return plain_args
    names = [a.name for a in schema_of(op).arguments]
    given = {**dict(zip(names, args)), **kwargs}
    return tuple(given[n] if is_symbolic(given.get(n)) and plain(given[n]) == a else a for n, a in zip(names, plain_args))


def _fits(given: Any, type: str) -> bool:
    if type.startswith("Optional["):
        return given is None or _fits(given, type[9:-1])
    if type.startswith("List["):
        return isinstance(given, (list, tuple)) and all(_fits(g, type[5:-1]) for g in given)
    return isinstance(given, torch.Tensor) == (type == "Tensor")


class AsOne(torch.autograd.Function):
    """What `make` gives, as results of the tensors: for a run that no backward pass runs through."""

    @staticmethod
    def forward(ctx, make: Callable, *tensors: torch.Tensor):
        return make()
