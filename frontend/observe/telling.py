"""What a run tells the world, in asides (see asides.py) and warnings: seen when it happens, to be said again by later calls."""
from __future__ import annotations

import builtins
import copy
import logging
import sys
import types
import warnings
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch

from ...errors import Unsupported
from ..guard.guards import CONTAINERS, MISSING, constant
from ..guard.writes import Write
from ..symbolic.symbols import is_symbolic
from .asides import LOG, Aside, Said, asides_in
from .paths import PATH
from .places import checkpointed, on_behalf_of_user, user_frame, user_line
from .warned import ASIDE, BACK, REFILTERED, filter_anew, ignores, warned, warnings_raise

if TYPE_CHECKING:
    from .observer import Observer

_LOGGING = (logging.Logger, logging.Manager, logging.Handler)
_UNCHANGING = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)
#: The containers that show themselves as Python's own do.
_SHOWN = {list, dict, set, frozenset, deque, OrderedDict, defaultdict, Counter}
#: Those of which copies are kept.
_COPIED = {list, dict, deque, OrderedDict, defaultdict}
#: Modules whose functions change nothing that they are given.
_LOOKING = {"builtins", "math", "statistics", "numpy", "json", "torch"}
_GRADIENTS = (torch.is_grad_enabled, torch.is_inference_mode_enabled)


class Telling:
    """The asides and warnings of one run. `told` has what was said, in order; `filtered` what is left of other filters."""

    def __init__(self, observer: Observer):
        self.told: list[Write] = []
        self.filtered: list[Write] = []
        self.catching = 0  # how many times warnings.catch_warnings was entered
        self._ignored = False  # whether the filters that the run came with begin with one that ignores
        self._observer = observer
        self._streams = sys.stdout, sys.stderr
        self._lines: dict[tuple[str, int], list[Aside]] = {}
        self._until: tuple[types.FrameType, tuple[str, ...], set[int]] | None = None  # the last, the ids of its tensors

    @property
    def asides(self) -> list[Write]:
        """Of what was said, that which is heard whenever a run says it."""
        return [w for w in self.told if isinstance(w.holder, Said)]

    def enter(self, code: types.CodeType) -> None:
        """The user's code is about to run."""
        for aside in asides_in(code):
            for line in range(aside.first, aside.last + 1):
                there = self._lines.setdefault((code.co_filename, line), [])
                if aside not in there:
                    there.append(aside)

    def aside(self, frame: types.FrameType | None = None) -> Aside | None:
        """The aside that the run is in; None if it is in none."""
        found = self._found(frame or sys._getframe(1)) if self._lines else None
        return found and found[0]

    def _found(self, frame: types.FrameType | None) -> tuple[Aside, types.FrameType] | None:
        """The same, with the frame of the function that it stands in."""
        frame = user_frame(frame)
        there = self._lines.get((frame.f_code.co_filename, frame.f_lineno), ()) if frame else ()
        aside = next((a for a in there if a.runs(frame)), None)
        while aside and frame and frame.f_code != aside.owner:
            frame = frame.f_back
        if not aside or frame is None:
            return None
        with self._unwatched():
            return (aside, frame) if aside.tells(frame) else None

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """What the observer itself does with the user's objects."""
        before, self._observer.busy = self._observer.busy, True
        try:
            yield
        finally:
            self._observer.busy = before

    def calls(self, frame: types.FrameType) -> bool:
        """Whether the code of this frame is called by an aside, and is no part of it."""
        aside = self.aside(frame.f_back)
        return aside is not None and not aside.contains(frame.f_code) and on_behalf_of_user(frame.f_back, trust_torch=False)

    def looks_into(self, value: Any, changed: bool, frame: types.FrameType) -> None:
        """A frame reads an attribute, which the run has `changed` or not. What an aside reads but by its paths, and functions of
        libraries that it calls, must be the same when it is told, at the end of the call."""
        if not self._lines or not (changed or isinstance(value, CONTAINERS)):
            return
        aside = self.aside(frame)
        if aside is None or user_frame(frame) is frame and not aside.loose:
            return
        if changed or not self._observer.intact(value):
            self._observer.refuse("prints or logs what it sets", user_line(frame))

    def hides(self, obj: Any) -> bool:
        """Whether what is read of an object now is for a logger alone."""
        return isinstance(obj, _LOGGING) and self.aside() is not None

    def goes_on(self, frame: types.FrameType, event: str, arg: Any) -> bool:
        """Whether what the profiler sees is how something is told."""
        if self._until is None:
            return False
        teller, ends, tensors = self._until
        if frame is teller and event in ends and (event == "return" or arg is print):
            self._until = None
            self._observer.recorder.beside.check(tensors)
        return True

    def begins(self, frame: types.FrameType, function: Any = None) -> bool:
        """Whether print (`function`), or the logging of this frame, is called by an aside. It is noted, and unwatched until it
        returns."""
        if not self._lines or not (function is print or frame.f_code is LOG):
            return False
        found = self._found(frame)
        if found is None or found[1] is not user_frame(frame):
            return False
        tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        with self._unwatched():
            try:
                self._note(*found, tensors)
            except Unsupported as why:
                self._observer.refuse(why.reason, user_line(frame))
        self._until = frame, ("c_return", "c_exception") if function is print else ("return",), set(tensors)
        return True

    def warn(self, frame: types.FrameType, *args: Any, **kwargs: Any) -> None:
        """The run warns, in this frame: so do later calls."""
        if not on_behalf_of_user(frame, trust_torch=False):
            return
        if self.catching:
            if self._ignored or not ignores(_category(*args, **kwargs)):
                self._observer.refuse("calls warnings.warn() under filters of its own", user_line(frame))
            return
        apart = self._observer.recorder.apart or checkpointed(frame)
        found = None if apart or warnings_raise() else warned(frame, *args, **kwargs)
        if found is None:
            self._observer.refuse("calls warnings.warn()", user_line(frame))
            return
        self._observer.reached.read("call", warnings_raise, (), False, "whether warnings are raised", follow=False)
        self.told.append(Write("run", found, None, {}, "", user_line(frame)))

    def filters(self, frame: types.FrameType, function: Any) -> bool:
        """Whether warnings are filtered in another way for a while, but not kept: by warnings.catch_warnings."""
        if function is not REFILTERED:
            return False
        if frame.f_code is ASIDE:
            return self._set_aside(frame)
        open = self.catching > 0
        self.catching -= open and frame.f_code is BACK
        return open

    def _set_aside(self, frame: types.FrameType) -> bool:
        """The same where this begins: warnings that are kept in a list are the run's to see."""
        if frame.f_locals["self"]._record:
            return False
        if not self.filtered:
            self.filtered.append(Write("run", filter_anew, None, {}, "", user_line(frame)))
            self._ignored = any(action == "ignore" for action, *_ in warnings.filters[:1])
        self.catching += 1
        return True

    def _note(self, aside: Aside, frame: types.FrameType, tensors: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Let later calls say what the run says here. Fills in the tensors that it is given, each with what is kept of it."""
        observer, names, held = self._observer, frame.f_globals, frame.f_locals
        if apart := observer.recorder.apart or checkpointed(frame):
            raise Unsupported(f"prints or logs within {apart}")
        settings = all(s.holds() for s in observer.switches if s.holder not in _GRADIENTS)
        if (sys.stdout, sys.stderr) != self._streams or not settings:
            raise Unsupported("prints or logs under other settings than it was called with")
        functions = {name: self._function(name, names) for name in {"len", *(path.root for path in aside.calls)}}
        scope = ChainMap(held, functions, names, vars(builtins))
        look = partial(observer.accesses.read, frame=frame)
        led = [path.follow(scope, look) for path in aside.paths]
        for found, _ in led:
            for value in found:
                self._check_list(value)
        told = aside.told(tuple(count for _, count in led))
        values = {name: scope[name] for name in told.names if name in held or _changing(names.get(name), name in told.bare)}
        if any(observer.touched("item", names, name) for name in told.names - values.keys()):
            raise Unsupported("prints or logs what it sets")
        values |= {name: found[-1] for n, (found, _) in enumerate(led) if (name := f"{PATH}{n}") in told.names}
        fixed = {name: value for name, value in values.items() if isinstance(value, _UNCHANGING)}
        changes = aside.changes or not all(_only_looks(path.follow(scope, look)[0][-1]) for path in aside.calls)
        kept = {name: self._kept(values[name], name in told.bare, changes, tensors)
                for name in sorted(values.keys() - fixed.keys())}
        observer.recorder.beside.check(tensors)
        self.told.append(Write("run", Said(told, names, fixed), None, kept, "", user_line(frame)))

    def _function(self, name: str, names: dict[str, Any]) -> Any:
        """A function by the name of a global or a builtin one, past stand-ins."""
        found = self._observer.original(names.get(name, MISSING))
        return self._observer.original(vars(builtins).get(name)) if found is MISSING else found

    def _kept(self, value: Any, bare: bool, changes: bool, tensors: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """A variable of an aside, or what is in it, as it is now. Notes its tensors; the same one is kept once. `changes`:
        whether the aside may have changed containers, which then are no more what it was given."""
        if isinstance(value, torch.Tensor):
            if id(value) not in tensors:
                tensors[id(value)] = value, self._observer.recorder.keep(value)
            return tensors[id(value)][1]
        if constant(value) or is_symbolic(value):
            return value
        found = self._observer.found(value)
        if isinstance(value, CONTAINERS) and found and self._plain(value):
            return value
        if type(value) in _COPIED or type(value) is tuple and not found:
            self._check_list(value)
            if changes or found and not self._observer.guarded(value):
                raise Unsupported("prints or logs what it sets")
            return _copied(value, lambda v: self._kept(v, True, changes, tensors))
        if bare or not found or isinstance(value, CONTAINERS):
            raise Unsupported(f"prints or logs an object of type {value.__class__.__qualname__}")
        return value

    def _check_list(self, value: Any) -> None:
        """Raises where no later call finds what this one did: a list as long."""
        if self._observer.grew(value):
            raise Unsupported("prints or logs a list that it appends to")

    def _plain(self, container: Any) -> bool:
        """Whether a container that was there before the run holds nothing but constants, and the run has not written to it: when
        the aside is told, it still is as it is now."""
        parts = (*container, *container.values()) if isinstance(container, dict) else container
        return type(container) in _SHOWN and self._observer.intact(container) and all(
            self._plain(p) if isinstance(p, CONTAINERS) else constant(p) and not is_symbolic(p) for p in parts)


def _copied(container: Any, item: Callable[[Any], Any]) -> Any:
    """A container of the same type, with other items in the place of its own."""
    if isinstance(container, tuple):
        return tuple(map(item, container))
    made = copy.copy(container)
    made.clear()
    if isinstance(container, dict):
        made.update((item(k), item(v)) for k, v in container.items())
    else:
        made.extend(map(item, container))
    return made


def _only_looks(function: Any) -> bool:
    """Whether a function changes no container that it is given. Methods that change their own are told by their names."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        module = (getattr(function, "__module__", None) or "torch").partition(".")[0]
        return module in _LOOKING and function not in (next, setattr, delattr)
    return isinstance(owner, (torch.Tensor, str, *CONTAINERS))


def _category(message: Any, category: Any = None, *_: Any, **__: Any) -> type[Warning]:
    return type(message) if isinstance(message, Warning) else category or UserWarning


def _changing(value: Any, bare: bool) -> bool:
    """Whether what a global variable holds may be another thing once an aside is told, which hands it on as it is if `bare`."""
    if value is None or isinstance(value, _UNCHANGING):
        return False
    return bare or constant(value) or is_symbolic(value) or isinstance(value, (torch.Tensor, *CONTAINERS))
