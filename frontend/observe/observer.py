"""The Python observer: what one run of the user's function read of the state around it, and what it wrote.

It sees attribute accesses (accesses.py, lookups.py), and Python and C functions entered (entered.py), and follows the objects
that they lead to (reached.py). Reads become guards; what the state is after the run, where that differs, becomes writes,
replayed on every call; effects that can't be replayed make the run `Unsupported`. It observes one thread, and is undone
whatever happens.
"""
from __future__ import annotations

import copyreg
import random
import sys
import types
from collections.abc import Iterator
from threading import get_ident
from typing import Any, Callable

import torch
from torch import nn

from ...errors import Unsupported
from ..guard.fetched import parts
from ..guard.guards import MISSING, Read, same_contents, snapshot, torch_state
from ..guard.structure import Arguments
from ..guard.writes import Write, container_writes, put, put_back, unchanged, writes_of
from ..symbolic.symbols import is_symbolic, plain
from ..torch_internals import GLOBAL_MODULE_HOOKS
from .accesses import Accesses
from .applied import Applied
from .conversions import Conversions
from .draws import NUMPY, PYTHON, Draw, Draws
from .entered import Entered
from .functions import Functions
from .locks import Locks
from .logs import Logs, longer
from .looks import Looks
from .lookups import Lookups
from .objects import dict_of
from .places import user_line
from .reached import Reached
from .telling import Telling

copyreg._slotnames(torch.Tensor)  # which the first tensor to be copied or pickled leaves in the class, whose size is guarded


class Observer:
    """Observes one run of `function`; a context manager around the call.

    After the run, `finish()` raises Unsupported for the first effect that can't be replayed; `reads` (in the order found)
    is what to guard, `writes` what to replay, `changing` the places that were read and written (see fetched.py), `changed`
    what was in all places that the run changed, and `tensors` has every tensor that the run came by, with its name.
    """
    _open = False

    def __init__(self, function: Callable, arguments: Arguments):
        self.recorder: Any = None  # told of custom autograd.Functions called, and of draws
        self.writes: tuple[Write, ...] = ()
        self.changed: list[Read] = []
        self.changing: set[tuple] = set()
        self.unsupported: Unsupported | None = None
        self.busy = False  # what the observer itself reads is not the run's doing
        self._function = function
        self._arguments = arguments
        self.reached = Reached(self, arguments)
        self.reads, self.tensors = self.reached.reads, self.reached.tensors
        self.accesses, self.applied = Accesses(self, self.reached), Applied(self, self.reached)
        self.entered = Entered(self, self.reached, arguments)
        self.logs, self.looks = Logs(), Looks(self.refuse)
        self.draws, self.functions = Draws(self), Functions(self)
        self.lookups, self.conversions = Lookups(self), Conversions(self)
        self.locks, self.telling = Locks(self), Telling(self)

    # Before and after

    def __enter__(self):
        self.thread = get_ident()  # an access on another one is not the run's
        self.switches = torch_state()
        self._generators = [(g, g.get()) for g in (PYTHON, NUMPY)]
        self._random = _random_states()
        self._containers = [(name, container, snapshot(container)) for name, container in self._arguments.containers]
        try:
            self._open = True
            self.functions.start(bool(self._arguments.arrays))
            self.conversions.start()
            self.accesses.watch(nn.Module)
            self.reached.follow(torch.Tensor, "torch.Tensor")
            self.reached.read("size", self.reached.vars_of(torch.Tensor), None, len(vars(torch.Tensor)),
                              "the methods of torch.Tensor", follow=False)
            for name, hooks in GLOBAL_MODULE_HOOKS.items():
                self.reached.follow(hooks, f"torch.nn.modules.module.{name}")
            root = self._function.__self__ if isinstance(self._function, types.MethodType) else None
            if root is not None:
                self.reached.follow(root, "" if isinstance(root, nn.Module) else "self")
            self.reached.follow(self._function, getattr(self._function, "__name__", "function"))
            for name, value in self._arguments.objects:
                self.reached.follow(value, name)
            for _, name, t in self._arguments.tensors:
                self.reached.follow_class_of(t, name)
                self.reached.tagged.append((name, t, dict(dict_of(t))))
        except BaseException:
            self._restore()
            raise
        sys.setprofile(self.entered.profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        self.looks.finish()
        self._restore()
        for variable in self.reached.variables:
            if is_symbolic(number := variable.get(MISSING)):
                variable.set(plain(number))
        try:
            self._compare()
        except Unsupported as why:
            self.refuse(why.reason, why.where)
        except Exception as defect:  # what goes wrong here may not disturb the run
            self.refuse(f"internal error while observing: {type(defect).__name__}: {defect}", self.entered.where)

    def _restore(self) -> None:
        self._open = False
        self.functions.restore()
        self.lookups.restore()
        self.conversions.restore()
        self.locks.restore()
        self.accesses.restore()

    @property
    def listening(self) -> bool:
        """Whether what this thread does now is the run's doing."""
        return self._open and get_ident() == self.thread and not self.busy

    def finish(self) -> None:
        """Raises Unsupported if something that the run did stands in the way of replaying it."""
        if self.unsupported:
            raise self.unsupported
        if _random_states() != self._random:
            raise Unsupported("draws random numbers from Python's or NumPy's generator", self.entered.where)
        for variable, (before, where) in self.entered.variables_set.items():
            if variable.get(MISSING) is not before:
                raise Unsupported("calls contextvars.set()", where)
        if self.telling.catching:
            raise Unsupported("leaves warnings filtered", self.entered.where)
        for name, tensor, before in self.reached.tagged:
            if {k: id(v) for k, v in dict_of(tensor).items()} != {k: id(v) for k, v in before.items()}:
                raise Unsupported(f"sets attributes of {name or 'a tensor'}", self.entered.where)
        for switch in self.switches:
            if not switch.holds():
                raise Unsupported(f"leaves {switch.subject} changed", self.entered.where)

    def take_back(self) -> None:
        """Let Python's state, and Python's and NumPy's generators, be as they were before the run."""
        for generator, state in self._generators:
            generator.put(state)
        for read in self.changed:
            put_back(read, read.expected)

    @property
    def revocable(self) -> bool:
        """Whether `take_back` puts back all that the run, as far as it went, changed of Python's state."""
        try:
            self.finish()
        except Unsupported:
            return False
        return not self.telling.told

    def _compare(self) -> None:
        """See what the run changed: that becomes writes, and what it only wrote to is no guard."""
        found: dict[tuple, Write] = {}
        self.reached.name_attributes_set()
        self.reached.read_lacking()
        self.reached.read_weak()
        logs = self.logs.find(self.reads)
        for read in list(self.reads.values()):
            for write in self._writes_of(read):
                self.changed.append(self.reached.owned(read))
                if read.kind == "contents":
                    found.pop(write.step, None)  # the steps of a whole container keep their order
                found.setdefault(write.step, write)
                whole = read.kind == "contents" and write.kind in ("item", "no item")
                self.changing.add(write.place if whole else read.found_at)
            if read.found_at in self.changing and self._only_written(read):
                del self.reads[read.found_at]
        for place, (read, surely) in self.reached.touched.items():
            if place in self.reads:
                continue
            write = put(read, read.now())
            self.changed.append(read)
            if surely or not unchanged(read.now(), read.expected):
                found.setdefault(write.step, write)
            else:
                self.reads[place] = read
        for holder, name, before in self.reached.holders:
            for write, value in self._holder_writes(holder, name, before):
                self.changed.append(Read(write.kind.removeprefix("no "), write.holder, write.key, value, write.subject))
                found.setdefault(write.step, write)
        for name, container, before in self._containers:
            self.changed.append(Read("contents", container, None, before, name))
            for write in container_writes(container, before, name, self.entered.where):
                found.setdefault(write.step, write)
        self.reached.read_sizes()
        for memo in self.reached.memos:
            memo.finish()
        places = {write.place for write in found.values()}
        for log in logs:
            del self.reads[log.found_at]
            for part in parts(log) if isinstance(log.holder, dict) else ():
                if part.found_at not in places:  # code may have put the same there again
                    self.reads[part.found_at] = part
        for item in self.logs.only_in(logs) & self.tensors.keys():
            del self.tensors[item]
        self.writes = *self.telling.told, *self.telling.filtered, *found.values()

    def _writes_of(self, read: Read) -> Iterator[Write]:
        if self.reached.owned(read) is read:
            yield from writes_of(read)
        elif read.kind == "keys" and read.now() != read.expected:
            raise Unsupported(f"changes which attributes there are in {read.subject}", read.where)
        elif read.kind not in ("keys", "lacks") and not unchanged(read.now(), read.expected):
            yield put(self.reached.owned(read), read.now())

    def _only_written(self, read: Read) -> bool:
        """Whether a guard of what is in a place was made in case it is read, and it was not."""
        if read.kind == "attr" and isinstance(read.holder, types.CellType):
            return id(read.holder) not in self.entered.cells
        named = id(read.holder) in self.reached.named and read.found_at not in self.reached.surely
        return named and read.key not in self.entered.loaded

    def _holder_writes(self, holder: Any, name: str, before: dict) -> Iterator[tuple[Write, Any]]:
        """What was set on a function, class or module, each with what was there before."""
        now = vars(holder)
        for key in (*now, *(k for k in before if k not in now)):
            value = now.get(key, MISSING)
            if value is not before.get(key, MISSING) and not key.startswith("__"):
                kind, where = ("attr", holder) if isinstance(holder, type) else ("item", now)
                read = Read(kind, where, key, MISSING, f"{name}.{key}", self.entered.written.get(key, self.entered.where))
                yield put(read, value), before.get(key, MISSING)

    @property
    def left(self) -> Iterator[Read]:
        """The places that hold what the run left: those that it changed, and the records of that."""
        yield from self.changed
        yield from (Read("attr", write, "value", None, write.subject) for write in self.writes)

    @property
    def grown(self) -> bool:
        """Whether functions remember more after the run."""
        return any(memo.grown for memo in self.reached.memos)

    @property
    def loaded(self) -> bool:
        """Whether the run loaded modules, whose state later runs find as they find any: this one took it for its own. Or gave
        classes other attributes where code may look through them all, as copy.copy and pickle note there what to copy."""
        names = (r for r in self.reads.values() if r.kind == "keys" and self.reached.owned(r) is not r)
        return bool(self.entered.modules_loaded) or any(r.now() != r.expected for r in names)

    @property
    def modes(self) -> tuple:
        """torch's switches as they were before the run."""
        return tuple(read.expected for read in self.switches)

    def name_of(self, t: torch.Tensor) -> str | None:
        """The readable source of a tensor that came from outside the run: "fc1.weight", "global w"; None if unknown."""
        found = self.tensors.get(id(t))
        return found[0] if found else None

    def outside(self, value: Any) -> bool:
        """Whether an object was there before the run, and is guarded by identity."""
        return id(value) in self.reached.known

    def found(self, value: Any) -> bool:
        """Whether an object was there before the run, among the arguments too."""
        return self.outside(value) or id(value) in self._arguments.places

    def touched(self, kind: str, holder: Any, key: Any) -> bool:
        """Whether the run has written to a place, or may have."""
        return (kind, id(holder), key) in self.reached.touched

    def intact(self, container: Any) -> bool:
        """Whether the run, as far as it went, has surely written nothing to a container that was there before it."""
        if any(holder == id(container) for _, holder, _ in self.reached.touched):
            return False
        given = [before for _, c, before in self._containers if c is container]
        return (all(same_contents(container, before) for before in given)
                and all(read.holds() for read in self.reads.values() if read.holder is container))

    def original(self, value: Any) -> Any:
        """What a stand-in stands for, for a function or a lock; any other value itself."""
        return self.lookups.original(self.conversions.original(self.functions.original(self.locks.original(value))))

    def guarded(self, container: Any) -> bool:
        """Whether all that a container held before the run is guarded."""
        return ("contents", id(container), None) in self.reads or any(c is container for _, c, _ in self._containers)

    def grew(self, container: Any) -> bool:
        """Whether the run, as far as it went, has appended to a list of the state around it: every call finds a longer one."""
        read = self.reads.get(("contents", id(container), None))
        return read is not None and longer(read) and getattr(container, "maxlen", None) is None

    def refuse(self, what: str, where: str) -> None:
        """The run did something that can't be replayed."""
        if self.unsupported is None:
            self.unsupported = Unsupported(what, where)

    def watch(self, part: Callable, *args: Any) -> None:
        """Run a part of the observer inside the user's run, which nothing that goes wrong here may disturb."""
        if self.unsupported is not None or self.busy:
            return
        self.busy = True
        try:
            part(*args)
        except Exception as defect:
            self.refuse(f"internal error while observing: {type(defect).__name__}: {defect}", user_line())
        finally:
            self.busy = False

    def draw(self, draw: Draw) -> Any:
        """The user's code draws a number: what the run gets for it."""
        if self.telling.aside() is not None:
            self.refuse(f"calls {draw.name}() in order to print or log", user_line())
        self.busy, before = True, _random_states()
        if draw.generator and all(draw.generator != g for g, _ in self._generators):
            self._generators.append((draw.generator, draw.generator.get()))
        try:
            answer = self.recorder.take(draw)
            if before == self._random:  # nothing else drew since
                self._random = _random_states()
        finally:
            self.busy = False
        return self.recorder.drawn(draw, answer)

    def bare(self, generator: random.Random) -> bool:
        """Whether a generator was there before the run, and has no attributes of the user's; that is guarded."""
        own = dict_of(generator)
        if not self.outside(generator) or len(own) > 1:  # all have one
            return False
        self.reached.read("size", own, None, len(own), "the attributes of a generator")
        return True

    def outside_draw(self, name: str, frame: types.FrameType) -> None:
        """A library draws for the user."""
        self.refuse(f"calls {name}()", user_line(frame))


def _random_states() -> tuple:
    """The states of Python's and NumPy's global generators, to compare."""
    kind, keys, *rest = NUMPY.get()
    return PYTHON.get(), kind, keys.tobytes(), *rest
