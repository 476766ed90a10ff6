"""State that a run wrote, as steps that bring it there again.

A `Write` is one such step. Attributes, globals and cells are set to what the run left there; a container stays the same
object, and gets the fewest steps that lead from what it held before the run to what it held after.
"""
from __future__ import annotations

import types
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Callable, Iterator

from ...errors import Unsupported
from ..symbolic.symbols import Node, Stand, has_nodes, is_symbolic, noted, plain, unnoted
from .guards import MISSING, Namespace, Read, constant, ordered, same, same_contents, snapshot


@dataclass(frozen=True, eq=False)
class Write:
    """One step.

    kind     one of STATEMENTS
    holder   the object that is changed; for "run", a function to call
    key      where in it: a key, an attribute's name; for "slice" (first, behind the last), for "turn" how many leave
    value    what is put there: anything that a result may be; None where nothing is
    subject  its name for people; `where` the user's line
    """
    kind: str
    holder: Any
    key: Any
    value: Any
    subject: str
    where: str = ""

    @property
    def place(self) -> tuple:
        """What is changed, to compare with `Read.found_at`."""
        return self.kind.removeprefix("no "), id(self.holder), self.key

    @property
    def step(self) -> tuple:
        """The same, and how: a key that moves in its dict is taken out and put in."""
        return self.kind, id(self.holder), self.key


#: Whole containers, by the class whose methods change them.
_BASES = (OrderedDict, dict, list, set, deque)


def _method(names: Namespace, holder: Any, name: str) -> str:
    """A method of the container's own, past any that a subclass puts in its place."""
    base = next(b for b in _BASES if isinstance(holder, b))
    return names.bind(getattr(base, name))


def _setter(names: Namespace, holder: Any) -> str:
    return names.bind((type if isinstance(holder, type) else object).__setattr__)


def _delete(holder: Any, name: str) -> None:
    """An attribute is no more, if it was there: a run may have set and deleted it."""
    try:
        (type if isinstance(holder, type) else object).__delattr__(holder, name)
    except AttributeError:
        pass


def _item(names: Namespace, w: Write, holder: str, key: str, value: str) -> str:
    plain = type(w.holder) in _BASES
    return f"{holder}[{key}] = {value}" if plain else f"{_method(names, w.holder, '__setitem__')}({holder}, {key}, {value})"


#: The statement that performs a write of each kind: (names, write, and the texts of its holder, key and value) -> text.
STATEMENTS: dict[str, Callable[[Namespace, Write, str, str, str], str]] = {
    "item": _item,
    "no item": lambda names, w, holder, key, value: f"{_method(names, w.holder, 'pop')}({holder}, {key}, None)",
    "attr": lambda names, w, holder, key, value: f"{_setter(names, w.holder)}({holder}, {key}, {value})",
    "no attr": lambda names, w, holder, key, value: f"{names.bind(_delete)}({holder}, {key})",
    "slice": lambda names, w, holder, key, value:
        f"{_method(names, w.holder, '__setitem__')}({holder}, slice(*{key}), {value})",
    "extend": lambda names, w, holder, key, value: f"{_method(names, w.holder, 'extend')}({holder}, {value})",
    "turn": lambda names, w, holder, key, value:
        f"for _ in range({w.key}): {_method(names, w.holder, 'popleft')}({holder})",
    "add": lambda names, w, holder, key, value: f"{_method(names, w.holder, 'update')}({holder}, {value})",
    "run": lambda names, w, holder, key, value: f"{holder}({value})",
    "discard": lambda names, w, holder, key, value: f"{_method(names, w.holder, 'difference_update')}({holder}, {value})",
}


def writes_of(read: Read) -> Iterator[Write]:
    """The steps from the state that a read found to the state as it is now; Unsupported where there are none."""
    if read.kind == "contents":
        yield from container_writes(read.holder, read.expected, read.subject, read.where)
        return
    now = read.now()
    if unchanged(now, read.expected) or read.kind == "has":  # where there is something or no longer is, another read has it too
        return
    if read.kind == "call" and same(now, read.expected):  # which made a tuple of the same objects anew
        return
    if read.kind not in ("item", "attr") or read.key == "__dict__":
        raise Unsupported(f"changes {read.subject}", read.where)
    yield put(read, now)


def unchanged(now: Any, before: Any) -> bool:
    """Whether a place has in it what it had before: the same object, the same symbolic numbers, or an equal constant."""
    if isinstance(before, Node):
        return is_symbolic(now) and now.node is before
    if has_nodes(before):
        return type(now) is tuple and len(now) == len(before) and all(map(unchanged, now, before))
    return now is before or same(now, before) and (constant(now) or isinstance(now, types.MethodType))


def put(read: Read, now: Any) -> Write:
    """The write that leaves `now`, which may be nothing (MISSING), in the place of an item or attribute that was read."""
    if now is MISSING:
        return Write(f"no {read.kind}", read.holder, read.key, None, read.subject, read.where)
    return Write(read.kind, read.holder, read.key, now, read.subject, read.where)


def held(read: Read) -> Any:
    """What the place that was read holds now, as `put_back` takes it."""
    if isinstance(read.holder, type):
        return vars(read.holder).get(read.key, MISSING)
    if read.kind == "contents":
        return snapshot(read.holder, _of_own_type)
    return read.now()


def _of_own_type(value: Any) -> Any:
    """What is kept of a value to be put back: a node has no type of NumPy's."""
    return plain(value) if issubclass(type(value), Stand) else noted(value)


def holds(read: Read, value: Any) -> bool:
    """Whether the place that was read holds now what `held` gave."""
    return same_contents(read.holder, value) if read.kind == "contents" else unchanged(held(read), value)


def put_back(read: Read, value: Any) -> None:
    """Let the place that was read hold this value, past any code of the user's; for "contents" it is a snapshot."""
    holder = read.holder
    if read.kind == "contents":
        _refill(holder, value)
    elif read.kind == "item":
        base = ordered(holder)
        base.pop(holder, read.key, None) if value is MISSING else base.__setitem__(holder, read.key, unnoted(value))
    elif isinstance(holder, types.CellType):
        if value is not MISSING:
            holder.cell_contents = unnoted(value)
        elif holder != types.CellType():
            del holder.cell_contents
    else:
        setter = type if isinstance(holder, type) else object
        if value is not MISSING:
            setter.__setattr__(holder, read.key, unnoted(value))
        elif held(read) is not MISSING:
            setter.__delattr__(holder, read.key)


def _refill(container: Any, contents: tuple) -> None:
    """Let a container hold what a snapshot holds."""
    base = ordered(container) if isinstance(container, dict) else next(b for b in _BASES if isinstance(container, b))
    base.clear(container)
    if isinstance(container, dict):
        for key, value in zip(*contents):
            base.__setitem__(container, key, unnoted(value))
    elif isinstance(container, set):
        base.update(container, map(unnoted, contents[0]))
    else:
        base.extend(container, map(unnoted, contents[0]))


def container_writes(container: Any, before: tuple, subject: str, where: str) -> Iterator[Write]:
    """The steps that make a container with the contents `before`, a snapshot, hold what it holds now."""
    if isinstance(container, dict):
        steps = _dict_steps(container, before)
    elif isinstance(container, list):
        steps = _list_steps(list(container), before[0])
    elif isinstance(container, deque):
        steps = _deque_steps(list(container), before[0])
    else:
        steps = _set_steps(container, before)
    for kind, key, value in steps:
        yield Write(kind, container, key, value, subject, where)


def _list_steps(now: list, before: tuple) -> Iterator[tuple]:
    first = _common(now, before)
    if first == len(before):
        if len(now) > first:
            yield "extend", None, now[first:]
        return
    rest = slice(None, first - 1 if first else None, -1)  # from the end back to where they differ
    last = _common(now[rest], before[rest])
    yield "slice", (first, len(before) - last), now[first:len(now) - last]


def _common(a: Any, b: Any) -> int:
    """How many items the two begin with are the same."""
    count = 0
    for x, y in zip(a, b):
        if not unchanged(x, y):
            break
        count += 1
    return count


def _deque_steps(now: list, before: tuple) -> Iterator[tuple]:
    """As many items leave on the left as must, and enter on the right."""
    gone = next(n for n in range(len(before) + 1) if _common(before[n:], now) == len(before) - n)
    if gone:
        yield "turn", gone, None
    if len(now) > len(before) - gone:
        yield "extend", None, now[len(before) - gone:]


def _dict_steps(container: dict, before: tuple) -> Iterator[tuple]:
    """Keys that stay in order stay; those behind the first that does not are put in again."""
    keys, values = before
    now = list(ordered(container).items(container))
    if len(now) == len(keys) and all(k is key and unchanged(v, value) for (k, v), key, value in zip(now, keys, values)):
        return  # whatever its keys are equal to by now
    old = dict(zip(keys, values))
    kept = [k for k in keys if k in container]
    stay = _common(kept, [k for k, _ in now])
    moved = dict.fromkeys(kept[stay:])
    for key in keys:
        if key not in container or key in moved:
            yield "no item", key, None
    for n, (key, value) in enumerate(now):
        if n >= stay or not unchanged(value, old[key]):
            yield "item", key, value


def _set_steps(container: Any, before: tuple) -> Iterator[tuple]:
    now, before = list(container), list(before[0])
    gone, new = _without(before, now), _without(now, before)
    if gone:
        yield "discard", None, gone
    if new:
        yield "add", None, new


def _without(items: list, others: list) -> list:
    """The items that are none of the others."""
    ids, values = set(map(id, others)), {(type(v), v) for v in others if constant(v)}
    return [v for v in items if id(v) not in ids and not (constant(v) and (type(v), v) in values)]
