"""What the guards of a program compute of its symbolic numbers, and what they pass on."""
from __future__ import annotations

from functools import lru_cache, partial
from typing import Callable, Collection, Sequence

import torch

from ...errors import Unsupported
from ..recording import Recording
from ..symbolic.symbols import Numbers
from .guards import Condition, Host, Namespace


def host_of(numbers: Numbers, names: Namespace, read: Collection[str], recording: Recording | None,
            returned: Sequence[str]) -> Host:
    """The lines and conditions of a run's numbers.

    read: the numbers that the guards have read by then; recording: whose number inputs are passed as tensors behind the
    others; returned: the numbers that are passed after these as they are, the first one last.
    Raises Unsupported where a number did not come from a place that is read.
    """
    elements = recording.elements if recording is not None else {}
    read = {*read, *elements}
    steps: list[Condition | str] = []
    done: set[str] = set()

    def lost_of(wanted: Collection[str]) -> set[str]:
        lines = numbers.needed(wanted)
        return {*wanted, *(n for line in lines.values() for n in line[1])} - lines.keys() - read

    def define(wanted: Collection[str]) -> None:
        lines = numbers.needed(wanted)
        if lost := lost_of(wanted):
            raise Unsupported(f"reads a number in a way that is not observed ({', '.join(sorted(lost))})")
        steps.extend(f"{name} = {text}" for name, (text, _) in lines.items() if name not in done)
        done.update(lines)
    for asked in numbers.asked.values():
        if recording is None and lost_of(asked.names):  # a number of a tensor that is no input then
            continue
        define(asked.names)
        steps.append(Condition(asked.test, asked.now, asked.subject, asked.expected))
    define([name for name in numbers.lines if name in numbers.raising - numbers.data and not lost_of({name})])
    nodes = recording.numbers if recording is not None else ()
    inputs = recording.graph.inputs[len(recording.graph.inputs) - len(nodes):] if nodes else ()
    early = [(i, node) for i, node in zip(inputs, nodes) if node.name not in numbers.data]
    define({*(node.name for _, node in early), *returned})
    makers = (f"{names.bind(maker(i.dtype, i.type.device))}({node.name})" for i, node in early)
    return Host(elements, tuple(steps), (*makers, *reversed(returned)))


def early_names(numbers: Numbers, returned: Sequence[str]) -> list[str]:
    """The numbers that the guards are to pass as they are: of those returned, and of those that are computed with what is
    read of tensors, the ones that come of no reading. Those returned come first."""
    if not numbers.data:
        return list(returned)
    used = [n for name, (_, operands) in numbers.lines.items() if name in numbers.data for n in sorted(operands)]
    return [n for n in dict.fromkeys((*returned, *used, *sorted(numbers.compared))) if n not in numbers.data]


def late_lines(numbers: Numbers, start: int, stop: int | None) -> str:
    """Of the lines between two counts of them, those that compute with what is read of tensors."""
    lines = list(numbers.lines.items())[start:stop]
    return "\n".join(f"{name} = {text}" for name, (text, _) in lines if name in numbers.data)


@lru_cache(maxsize=None)
def maker(dtype: torch.dtype, device: torch.device) -> Callable:
    """Makes a 0-dim tensor of a number."""
    return partial(torch.scalar_tensor, dtype=dtype, device=device)
