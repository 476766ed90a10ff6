"""Kernels that differ in numbers alone, as one function that takes these numbers.

The layers of a network often do the same at different sizes, and the C compiler's time is most of a compilation. Kernels are
alike if their texts are, whatever their variables are called. A number that differs becomes a parameter where it is part of an
address, of a loop's or a condition's head or of a `long`, or where it is a float; an array is as large as the largest one.
Elsewhere (lanes, divisors in a loop's inside, unrolling) a number stays, for the compiler makes faster code of it, and kernels
in which it differs are not alike.
"""
from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Collection, Sequence

from .function import Function

#: As many kernels share one function. Fewer keep their numbers, of which the compiler makes slightly faster code.
ALIKE = 3

_TOKEN = re.compile(r"\s+|//[^\n]*|#[^\n]*|[A-Za-z_]\w*|\d+\.\d*(?:e[-+]?\d+)?f?|\d+e[-+]?\d+f?|\d\w*|.")
_FLOAT = re.compile(r"\d+\.\d*(?:e[-+]?\d+)?f?|\d+e[-+]?\d+f?")
_TYPE = re.compile(r"[a-z]\d+x\d+|long|int|short|char|float|double|unsigned|_Bool|_Float16")
_NAME = re.compile(r"[A-Za-z_]\w*")


def share(functions: Sequence[Function]) -> list[Function]:
    """The functions to call, in order; those that are alike have one name and one text."""
    groups: dict[tuple[str, ...], list[tuple[int, _Reading]]] = defaultdict(list)
    alike = Counter(map(_stem, functions))
    for k, f in enumerate(functions):
        if not (f.matmul or f.together) and alike[_stem(f)] >= ALIKE:
            reading = _Reading(f.text)
            groups[tuple(reading.skeleton)].append((k, reading))
    found = list(functions)
    for group in groups.values():
        if len(group) >= ALIKE:
            for (k, _), f in zip(group, _as_one([functions[k] for k, _ in group], [r for _, r in group])):
                found[k] = f
    return found


def _stem(f: Function) -> str:
    """The name without its number: what kernels that do the same have in common, and some others."""
    return re.sub(r"_\d+$", "", f.name)


def _as_one(functions: Sequence[Function], readings: Sequence[_Reading]) -> list[Function]:
    """Functions that are alike, as calls of the first one."""
    first, names = readings[0], {}
    text, at = [], 0
    for n, (start, end) in enumerate(first.numbers):
        given = tuple(r.text[slice(*r.numbers[n])] for r in readings)
        if start in first.arrays:
            number = str(max(map(int, given)))
        elif len(set(given)) > 1:
            number = names.setdefault(given, first.fresh(f"n{len(names)}"))
        else:
            continue
        text += [first.text[at:start], number]
        at = end
    text = "".join([*text, first.text[at:]])
    kinds = ("long" if not _FLOAT.fullmatch(given[0]) else "float" if given[0].endswith("f") else "double" for given in names)
    parameters = "".join(f"{kind} {name}, " for kind, name in zip(kinds, names.values()))
    differing = ", ".join(names.values()) or "the sizes of arrays"
    text = text.replace("long tid, long threads,", f"{parameters}long tid, long threads,", 1)
    text = f"// {len(functions)} kernels, which differ in {differing}; the first of them:\n{text}"
    return [replace(f, name=functions[0].name, text=text, numbers=numbers)
            for f, numbers in zip(functions, zip(*names) if names else [()] * len(functions))]


@dataclass
class _Reading:
    """A kernel's text as it is read from left to right.

    skeleton  its words, without comments; with numbers for its variables' names, and what may be a parameter left out
    numbers   where those stand: start, end
    arrays    the starts of those that are sizes of arrays
    """
    text: str
    skeleton: list[str] = field(default_factory=list)
    numbers: list[tuple[int, int]] = field(default_factory=list)
    arrays: set[int] = field(default_factory=set)

    def __post_init__(self):
        tokens = [m for m in _TOKEN.finditer(self.text) if not m.group().isspace() and not m.group().startswith("//")]
        words = [m.group() for m in tokens]
        self._words = set(words)
        names: dict[str, str] = {}
        for k, word in enumerate(words):
            if word not in names and _declared(words, k):
                names[word] = f"${len(names)}"
        pointers = {name for word, name in zip(words, words[1:]) if word == "restrict"}
        rooms = ["body"]  # what is open: a "body", "address", "head", "long", "array", "value" or "constant"
        for k, (word, match) in enumerate(zip(words, tokens)):
            if word in "([{":
                rooms.append(_room(words, k, rooms[-1], pointers))
            elif word in ")]}":
                rooms.pop()
            elif word == "," and rooms[-1] == "address":  # what is stored there
                rooms[-1] = "value"
            elif word == ";" and rooms[-1] == "long":
                rooms.pop()
            elif word == "long" and rooms[-1] == "body":
                rooms.append("long")
            if word[0].isdigit() and _open(words, k, rooms[-1]):
                self.skeleton.append("")
                self.numbers.append(match.span())
                if rooms[-1] == "array":
                    self.arrays.add(match.start())
            else:
                self.skeleton.append(names.get(word, word))

    def fresh(self, name: str) -> str:
        """A name that is no word of the text."""
        while name in self._words:
            name += "_"
        return name


def _open(words: Sequence[str], k: int, room: str) -> bool:
    """Whether the k-th word, a number, may be a parameter or the size of a larger array."""
    if _FLOAT.fullmatch(words[k]):
        return room != "constant"
    divides = words[k - 1] in ("/", "%") and words[k - 2] != "item" or words[k - 2:k] in (["<", "<"], [">", ">"])
    return words[k].isdigit() and room in ("address", "head", "long", "array") and not divides


def _declared(words: Sequence[str], k: int) -> bool:
    """Whether the k-th word is a name that is declared there."""
    if k < 2 or not words[k][0].isidentifier() or words[k] == "restrict":
        return False
    kind = words[k - 2] if words[k - 1] == "*" else words[k - 1]
    return (kind in ("void", "restrict") or _is_type(kind)) and not _is_type(words[k])


@lru_cache(maxsize=4096)
def _is_type(word: str) -> bool:
    return _TYPE.fullmatch(word) is not None


def _room(words: Sequence[str], k: int, outer: str, pointers: Collection[str]) -> str:
    """What the bracket that is the k-th word opens; of a vector or a small array, numbers are constants."""
    before = words[k - 1] if k else ""
    if words[k] == "{":
        made = before == "=" or before == ")" and words[k - 3] == "(" and _is_type(words[k - 2])
        return "constant" if made or outer == "constant" else "body"
    if words[k] == "[":
        if words[k + 2] != "]" or before in pointers:
            return "address"
        return "array" if _declared(words, k - 1) else "constant"
    if before in ("for", "if", "while"):
        return "head"
    if before.startswith(("load_", "store_", "__builtin_prefetch")):
        return "address"
    return "value" if outer == "body" or _NAME.fullmatch(before) and before != "return" else outer
