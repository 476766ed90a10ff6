"""Recurrent nets of packed sequences, as ops of torch that take and give padded ones."""
from __future__ import annotations

from typing import Callable

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

#: The nets, by name: what their hidden states are, and how many results they give.
_NETS = {"lstm": ("Tensor[]", 3), "gru": ("Tensor", 2), "rnn_tanh": ("Tensor", 2), "rnn_relu": ("Tensor", 2)}
_LIBRARY = torch.library.Library("smelt", "FRAGMENT")


def packed(net: str) -> Callable:
    """The op that a net is on sequences of these lengths, the longest first. It is given and gives them one beside the other
    and padded: (time, batch, features)."""
    return getattr(torch.ops.smelt, f"packed_{net}")


def _define(net: str, hidden: str, results: int) -> None:
    def run(padded, lengths, hx, params, has_biases, num_layers, dropout, train, bidirectional):
        more = params, has_biases, num_layers, dropout, train, bidirectional
        if padded.is_meta:
            return getattr(torch, net)(padded, hx, *more, False)
        rows = pack_padded_sequence(padded, lengths)
        data, *states = getattr(torch, net)(rows.data, rows.batch_sizes, hx, *more)
        return pad_packed_sequence(PackedSequence(data, rows.batch_sizes), total_length=padded.shape[0])[0], *states
    _LIBRARY.define(f"packed_{net}(Tensor padded, Tensor lengths, {hidden} hx, Tensor[] params, bool has_biases, int num_layers, "
                    f"float dropout, bool train, bool bidirectional) -> ({', '.join(['Tensor'] * results)})")
    _LIBRARY.impl(f"packed_{net}", run, "CompositeImplicitAutograd")


for _net, (_hidden, _results) in _NETS.items():
    _define(_net, _hidden, _results)
