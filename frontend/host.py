"""What the guards of a program compute of its symbolic numbers, and what they pass on."""
from __future__ import annotations

from functools import lru_cache, partial
from typing import Callable, Collection, Sequence

import torch

from ..errors import Unsupported
from .guards import Condition, Host, Namespace
from .recording import Recording
from .symbols import Numbers


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
    nodes = recording.numbers if recording is not None else ()
    define({*(node.name for node in nodes), *returned})
    inputs = recording.graph.inputs[len(recording.graph.inputs) - len(nodes):] if nodes else ()
    makers = (names.bind(_maker(i.dtype, i.type.device)) for i in inputs)
    return Host(elements, tuple(steps), (*(f"{make}({node.name})" for make, node in zip(makers, nodes)), *reversed(returned)))


@lru_cache(maxsize=None)
def _maker(dtype: torch.dtype, device: torch.device) -> Callable:
    """Makes a 0-dim tensor of a number."""
    return partial(torch.scalar_tensor, dtype=dtype, device=device)
