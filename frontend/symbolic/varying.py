"""Which sizes of the tensors that a function is given, or finds in its state, are to be symbols: those that have been seen to
change, or that the user names; and numbers that a run asked for, as it asks for sizes."""
from __future__ import annotations

from collections import Counter
from typing import Container, Hashable, Mapping, Sequence

import torch

#: A size of one of the tensors of a call: (which of them, dimension); a stride: (which of them, ~dimension); a number that is
#: a size: (NUMBER, which of them); one that is found in what the run computes: (COUNT, which of them); one that is read of a
#: tensor of the call: (ELEMENT, which of them); or one that is computed of what the run read or drew: (READ, which of the lines
#: with such).
Place = tuple[int, int]
NUMBER, COUNT, ELEMENT, READ = -1, -2, -3, -4
#: The tensors of a call with what tells them from others: an argument's name, the place where it is found in state.
Named = Sequence[tuple[Hashable, torch.Tensor]]
#: Where torch notes the dimensions that mark_dynamic was called for.
MARK = "_dynamo_dynamic_indices"


def mark_dynamic(tensor: torch.Tensor, dim: int | Sequence[int]) -> None:
    """Let a compiled function that is given this tensor take any size (of 2 or more) for these dimensions at once."""
    for d in (dim,) if isinstance(dim, int) else dim:
        if not -tensor.dim() <= d < tensor.dim():
            raise IndexError(f"mark_dynamic: a tensor of {tensor.dim()} dimensions has no dimension {d}")
        marks = getattr(tensor, MARK, set())
        marks.add(d % tensor.dim())
        setattr(tensor, MARK, marks)


class Varying:
    """What is known of the sizes of one function's tensors.

    dynamic  None: sizes become symbols once they are seen to change; True: at once; False: never
    reasons  why sizes that change stay numbers
    lines    the user's file:line where sizes are found that change, and the names of elements that do
    """

    def __init__(self, dynamic: bool | None = None):
        self.dynamic = dynamic
        self.reasons: list[str] = []
        self._seen: list[dict[Hashable, dict[int, int]]] = []
        self._elements: dict[str, int] = {}
        self.lines: set[str] = set()
        self._fixed: set[tuple[Hashable, int]] = set()

    def symbols(self, tensors: Named, numbers: Mapping[Place, str]) -> dict[Place, Place]:
        """The places whose sizes are to be symbols, each with the first place that has the same size and always had.

        numbers: those that may be sizes, with their names; of what is found, or read, these are the lines."""
        found = {}
        if self.dynamic is not False:
            found = {place: place for place, name in numbers.items() if (name, place[0]) not in self._fixed
                     and (place[0] in (NUMBER, READ) or self.dynamic or name in self.lines)}
        roots: dict[tuple, Place] = {}
        for k, (name, t) in enumerate(tensors):
            for d, n in _form(t).items():
                wanted = self._wanted if d >= 0 else self._shifts
                if n >= 2 and (name, d) not in self._fixed and wanted(name, t, d):
                    history = (d >= 0, *(seen[name][d] for seen in self._same_rank(name, t)), n)
                    found[k, d] = roots.setdefault(history, (k, d))
        return found

    def _wanted(self, name: Hashable, t: torch.Tensor, d: int) -> bool:
        if self.dynamic is not None:
            return self.dynamic
        return d in getattr(t, MARK, ()) or self._changed(name, t, d)

    def _shifts(self, name: Hashable, t: torch.Tensor, d: int) -> bool:
        """Whether a stride changes, and its dimension lies around no other one without a gap: a slice of something larger."""
        around = {n * s for k, (n, s) in enumerate(zip(t.shape, t.stride())) if k != ~d}
        return self.dynamic is not False and t.stride(~d) not in around and self._changed(name, t, d)

    def _changed(self, name: Hashable, t: torch.Tensor, d: int) -> bool:
        return any(seen[name][d] != _form(t)[d] for seen in self._same_rank(name, t))

    def _same_rank(self, name: Hashable, t: torch.Tensor) -> list[dict[Hashable, dict[int, int]]]:
        return [seen for seen in self._seen if seen.get(name, {}).keys() == _form(t).keys()]

    def note(self, tensors: Named) -> None:
        """A call with these tensors has been recorded."""
        self._seen.append({name: _form(t) for name, t in tensors})

    def note_elements(self, elements: Mapping[str, int]) -> None:
        """Numbers of these names, which tensors of the call hold, were sizes in a run."""
        self.lines |= {name for name, value in elements.items() if self._elements.setdefault(name, value) != value}

    def fix(self, tensors: Named, numbers: Mapping[Place, str], places: Mapping[Place, Place], kept: Container[Place] = (),
            reason: str = "") -> None:
        """Of these places for symbols, only the sizes of those that are kept could be; the reason where there are none.

        Of several equal sizes one may have to be fixed, and another not: this shows once they differ."""
        alone = Counter(places.values())
        self._fixed.update((numbers[k, d], k) if (k, d) in numbers else (tensors[k][0], d)
                           for (k, d), root in places.items() if (k, d) not in kept and alone[root] == 1)
        if reason:
            self.tell(reason)

    def tell(self, reason: str) -> None:
        """Sizes that change stay numbers for a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)


def _form(t: torch.Tensor) -> dict[int, int]:
    """The sizes, and the strides if there are any, by the second part of their places."""
    return dict(enumerate(t.shape)) | ({~d: s for d, s in enumerate(t.stride())} if t.layout is torch.strided else {})
