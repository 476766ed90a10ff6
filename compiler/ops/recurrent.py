"""Recurrent nets as ops of torch: on padded sequences, where they drop nothing and so draw no random numbers, as torch's own
ops may; and on packed ones, which they take and give padded."""
from __future__ import annotations

from typing import Callable

import torch
from torch import library
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

#: The nets, by name: what their hidden states are, and how many results they give.
_NETS = {"lstm": ("Tensor[]", 3), "gru": ("Tensor", 2), "rnn_tanh": ("Tensor", 2), "rnn_relu": ("Tensor", 2)}
_LIBRARY = library.Library("smelt", "FRAGMENT")


def padded(net: str) -> Callable:
    """The op that a net is which drops nothing."""
    return getattr(torch.ops.smelt, net)


def packed(net: str) -> Callable:
    """The op that a net is on sequences of these lengths, the longest first. It is given and gives them one beside the other
    and padded: (time, batch, features)."""
    return getattr(torch.ops.smelt, f"packed_{net}")


def _define(net: str, hidden: str, results: int) -> None:
    def run(*args):
        return getattr(torch, net)(*args)

    def run_packed(sequences, lengths, hx, *more):
        if sequences.is_meta:
            return run(sequences, hx, *more, False)
        rows = pack_padded_sequence(sequences, lengths)
        data, *states = run(rows.data, rows.batch_sizes, hx, *more)
        return pad_packed_sequence(PackedSequence(data, rows.batch_sizes), total_length=sequences.shape[0])[0], *states
    options = "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional"
    given = f"-> ({', '.join(['Tensor'] * results)})"
    _LIBRARY.define(f"{net}(Tensor sequences, {hidden} hx, {options}, bool batch_first) {given}")
    _LIBRARY.define(f"packed_{net}(Tensor sequences, Tensor lengths, {hidden} hx, {options}) {given}")
    _LIBRARY.impl(net, run, "CompositeImplicitAutograd")
    _LIBRARY.impl(f"packed_{net}", run_packed, "CompositeImplicitAutograd")


for _net, (_hidden, _results) in _NETS.items():
    _define(_net, _hidden, _results)
