"""Recording a run a second time, with some sizes of its tensors, and numbers that are sizes, as symbols.

The first recording was plain: its results are the call's. What the run read and wrote is known then, so it can be
repeated for the recording alone: all state as it was before, with stand-ins for the tensors whose sizes are symbols, be they
arguments or found in state, and copies of those that it writes to. What Python looks at in tensors is what the first run
found there, backward passes give empty gradients, and the run must call the same ops as the first one did. Then all is put
back to what that one left.
"""
from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Callable, ContextManager, Iterable, Iterator, Mapping, Sequence

import torch

from ...compiler.dims import Dim, Expr, expr_of, product, typical
from ...compiler.ir import TensorType, Value
from ...errors import Unsupported
from ..generators import random_state, set_random_state
from ..guard.changing import settable
from ..guard.fetched import Fetched, parts
from ..guard.guards import Contents, Read
from ..guard.structure import Arguments, tuple_like
from ..guard.writes import held, holds, put_back
from ..observe.applied import tensors_in
from ..observe.draws import Draw
from ..observe.origins import here
from ..observe.profiling import unprofiled
from ..recording import Fresh, OutputView, Recording
from ..symbolic.sizes import Sized, Sizes, inner, input_strides, laid_out, symbolic
from ..symbolic.symbols import own
from ..symbolic.varying import COUNT, ELEMENT, READ, Place
from ..torch_internals import composites_in_python, schema_of, set_versions, version_of
from .as_one import BY_SIZES, STEPWISE, AsOne, Stretch, is_whole
from .differentiating import Pass
from .gradients import node_of
from .overloads import leaves, opaque_call, overload, type_of
from .modes import Api
from .outputs import Outputs
from .recorder import Recorder, sized
from .windows import moves


@dataclass(frozen=True)
class First:
    """The plain recording of a run: its recorder, what it came to, how many of its inputs are arguments, what was in the
    places that it changed, all that it read, and what of that is to be guarded."""
    recorder: Recorder
    recording: Recording
    arguments: int
    changed: Sequence[Read]
    reads: Iterable[Read]
    fetched: Fetched

    @property
    def found(self) -> list[Read]:
        """The reads that find tensors which are other ones on every call."""
        return [read for read in self.fetched.at.values() if isinstance(read.expected, torch.Tensor)]

    def required(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor required grad before the run."""
        found = (self.recorder.required(k) for k, t in enumerate(self.recording.tensors) if t is tensor)
        return next(found, tensor.requires_grad)

    def written(self, tensor: torch.Tensor) -> bool:
        return any(self.recording.tensors[k] is tensor for k in self.recording.written)

    def written_outside(self) -> list[torch.Tensor]:
        """The tensors that the run writes to, of those that are no arguments."""
        return [self.recording.tensors[k] for k in self.recording.written if k >= self.arguments]


class SizedArguments(Arguments):
    """A call's arguments, and the tensors that it finds in state, with the sizes at some places as symbols.

    `dynamic` tells for every such place the one whose symbol it shares. `run_with`: the tensors that the run gets as arguments,
    with names; `state`: the stand-ins that it gets of others. `stepless`: a call that makes the same ops for each place of a
    sequence is to be one op.
    """

    def __init__(self, *args, first: First, dynamic: Mapping[Place, Place], sizes: Sizes, symbolic: Sequence[str],
                 another: Callable[[str, Any], bool], arrays: bool, stepless: bool):
        self.stepless = stepless
        self.first, self.dynamic, self.sizes = first, dynamic, sizes
        self.run_with: list[tuple[str, torch.Tensor]] = []
        self._standing: dict[int, tuple[Any, Any]] = {}  # by the id of what is stood in for: that, and the stand-in
        super().__init__(*args, sizes, symbolic, another, arrays)
        arguments = len(self._standing)
        for k, read in enumerate(first.found, len(self.tensors)):
            self._stand_in(k, read.subject, read.expected)
        self.state = [s for _, s in list(self._standing.values())[arguments:]]
        if self._standing:
            self._place_state()
        self._own = {id(s): value for value, s in self._standing.values()}
        self._own |= {id(vars(s)): vars(value) for value, s in self._standing.values() if isinstance(value, torch.Tensor)}

    def _tensor(self, value: torch.Tensor, access: str, place: str, name: str) -> torch.Tensor:
        k = len(self.tensors)
        standin = super()._tensor(value, access, place, name)
        if len(self.tensors) > k:
            standin = self._taken[id(value)] = self._stand_in(k, name, value)
            self.run_with.append((name, standin))
        return standin

    def _stand_in(self, k: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What the run gets for a tensor: one with symbols, or a copy to write to; the tensor itself if it needs neither."""
        own, written = {d: root for (at, d), root in self.dynamic.items() if at == k}, self.first.written(tensor)
        if not own and not written:
            return tensor
        if type(tensor) is not torch.Tensor:
            raise Unsupported(f"{name} is a {type(tensor).__name__}")
        shape = tuple(self._size(name, d, n, own.get(d)) for d, n in enumerate(tensor.shape))

        def gap(d: int, least: Dim) -> Dim:
            root, stride = own.get(~d) if k < self.first.arguments else None, tensor.stride(d)
            if root is None or stride < typical(least):
                return stride
            symbol = self.sizes.stride(root, stride, f"{name}.stride({d})")
            self.sizes.positive(symbol - least)  # the dimensions are to lie in this order
            return symbol
        form = TensorType(shape, tensor.dtype, tensor.device, input_strides(tensor, shape, gap))
        made = Sized(_copy(tensor) if written else tensor.detach(), form, self.sizes, self.first.required(tensor))
        vars(made).update(vars(tensor))
        self._standing[id(tensor)] = tensor, made
        return made

    def _size(self, name: str, d: int, value: int, root: Place | None) -> Dim:
        """One size of a tensor as the recording has it."""
        if root is None:
            return value
        known = self.sizes.symbols.get(root)
        return self.sizes.symbol(root, value, f"{name}.shape[{d}]") if known is None else expr_of(known)

    def _place_state(self) -> None:
        """Let the stand-ins be in all places of state where the first run found what they stand for."""
        for read in self.first.fetched.reads:
            for part in parts(read):
                standin = self._standin_of(part.expected)
                if standin is part.expected or isinstance(part.holder, tuple):
                    continue
                if not settable(part):
                    raise Unsupported(f"nothing can stand in for {part.subject}")
                self.standins.append((part.holder, part.key, part.expected, standin))

    def _standin_of(self, value: Any) -> Any:
        """What stands for something in state; for a tuple that is fetched, one with the stand-ins for its items."""
        if id(value) not in self._standing and isinstance(value, tuple) and id(value) in self.first.fetched.at:
            items = list(map(self._standin_of, value))
            if all(a is b for a, b in zip(items, value)):
                return value
            self._standing[id(value)] = value, tuple_like(value, items)
        return self._standing[id(value)][1] if id(value) in self._standing else value

    def own(self, value: Any) -> Any:
        """What a stand-in stands for; anything else is itself."""
        return self._own.get(id(value), value)

    def own_read(self, read: Read) -> Read:
        """A read of the run, as it is without stand-ins."""
        found = read.expected
        if isinstance(found, Contents):
            found = Contents(tuple(map(self.own, items)) if isinstance(items, tuple) else items for items in found)
        return replace(read, holder=self.own(read.holder), expected=self.own(found))

    @property
    def forms(self) -> dict[int, TensorType]:
        """The types of the tensors that have symbolic sizes, by id."""
        made = ((k, s) for k, (_, s) in self._standing.items() if type(s) is Sized)
        return {k: s.form for k, s in made if symbolic(s.form)}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """One of the same kind, to write to."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        return tensor.detach().clone()


class ConcreteSizes(Unsupported):
    """Torch's C++ takes no symbols for sizes."""


def without_fixed(places: Mapping[Place, Place], stepwise: bool,
                  attempt: Callable[[Mapping[Place, Place], Sizes, ContextManager, bool], None]) -> Mapping[Place, Place]:
    """`attempt` a recording with as many of the places as can be symbols, and give these; those whose value the run asks for
    are left out, and numbers and strides where anything else fails; two that are equal share a symbol where they have to. It
    makes the run inside the context manager that it is given, and is told whether that is to be `stepless`; where it has
    sequences (`stepwise`), that is tried too.

    Raises Unsupported where none are left, or for another reason.
    """
    composites, stepless, derives = nullcontext, False, True
    while True:
        sizes = Sizes(places, derives)
        try:
            attempt(places, sizes, composites(), stepless)
            return places if sizes.derived else {p: root for p, root in places.items() if p[0] not in (ELEMENT, READ)}
        except Unsupported as why:
            if stepwise and not stepless:
                stepless = True
                continue
            if isinstance(why, ConcreteSizes) and composites is nullcontext:
                composites = composites_in_python  # torch's own decompositions in Python; the first time, that imports sympy
                continue
            if sizes.derived:
                derives = False
                continue
            shared = {p: sizes.shared.get(root, root) for p, root in places.items()} | sizes.shared
            if shared != places:
                places = shared
                continue
            lost = {root for root, s in sizes.symbols.items() if s in sizes.fixed}
            lost = lost or {root for root in places.values() if min(root) < 0}
            places = {place: root for place, root in places.items() if root not in lost}
            if not lost or not places:
                raise


OTHER_OPS = "the run called other ops when it was repeated"
_SIZE = torch.ops.aten.size.default
_VIEW, _UNSAFE_VIEW = torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default
#: Ops that write as many elements as masks have places, which in tensors that the first run has written to are others.
_BY_MASKS = {"index_put_", "index_put", "masked_scatter_", "masked_scatter"}
_UNFOLD, _AS_STRIDED = torch.ops.aten.unfold.default, torch.ops.aten.as_strided.default


class _SizedOutputs(Outputs):
    def _fills(self, alias) -> bool:
        """As there, but the stride of a dimension of size 1, which may be another one of the sizes, is then told by the view."""
        return super()._fills(alias) and not (alias.steps and 1 in alias.type.shape)

    def _check_view(self, tensor, views, input) -> None:
        """The first recording has passed it."""


class Second(Recorder):
    """Records a run again. Ops run on the real tensors behind the stand-ins; what they give stands in for itself where
    a size of it is symbolic."""
    for_caller = False
    _make_outputs = _SizedOutputs

    def __init__(self, arguments: SizedArguments, name_of: Callable[[torch.Tensor], str | None], **ways: Callable):
        first, self._sizes = arguments.first, arguments.sizes
        if any(w.flows for w in first.recording.writebacks):
            raise Unsupported("writes in place to an input that requires grad, of a size that changes")
        self._shapes = [t.shape for _, _, t in arguments.tensors]
        self._calls, self._state, self._own = first.recorder.calls, arguments.state, arguments.own
        self._looks, self._ends, self._passes = map(iter, (first.recorder.looks, first.recorder.ends, first.recorder.passes))
        self._counted = {w.input: w.counted for w in first.recording.writebacks}
        self._versions = [first.recording.versions.get(r.output, 0) if isinstance(r, (Fresh, OutputView)) else 0
                          for r in first.recording.results]
        self._copies = {id(t): _copy(t) for t in first.written_outside()}
        self._outside: dict[int, torch.Tensor] = {}
        #: after a call that the first run did not make: how many tensors there were before, and which one it made once more
        self._forget: tuple[int, int | None] | None = None
        self._views: list[tuple[tuple, int]] = []  # the calls that gave views, with the numbers of these
        self._moving = False
        #: what custom functions gave, by id, with the stand-ins for it
        self._given_by_custom: dict[int, tuple[torch.Tensor, Sized]] = {}
        self._stepless, self._stretches = arguments.stepless, first.recorder.stretches
        self._stretch: Stretch | None = None
        super().__init__(arguments.run_with, name_of, first.recorder.name, self._sizes, first.recorder.held, **ways)
        self._b.ask = self._sizes.positive
        self._modes = self._modes[0], _SizedApi(self), *self._modes[2:]

    def finish(self, results: Sequence[torch.Tensor]) -> Recording:
        results = self.with_stand_ins(results)
        if any("_is_param" in vars(t) for t in results if type(t) is Sized):  # by nn.Parameter, of what is below torch.Tensor
            raise Unsupported("gives a parameter that it made of a tensor of symbolic sizes")
        self.guarded(self._bind_symbols)
        recording = super().finish(results)
        if self._sizes.fixed:
            raise Unsupported(f"the value of {', '.join(sorted(s.name for s in self._sizes.fixed))} is asked for")
        if self.calls != self._calls:
            raise Unsupported(OTHER_OPS)
        writebacks = tuple(replace(w, counted=self._counted[w.input]) for w in recording.writebacks)
        versions = {r.output: count for r, count in zip(recording.results, self._versions, strict=True)
                    if count and isinstance(r, (Fresh, OutputView))}
        return replace(recording, tensors=tuple(map(self._own, recording.tensors)), writebacks=writebacks, versions=versions)

    def _add_rows(self, call, result: torch.Tensor) -> Value:
        """How many there are is a symbol, where it changes."""
        name = f"the rows of {call.op.packet}"
        size = self._sizes.counted((COUNT, len(self.counts)), result.shape[0], name)
        if size is None:
            return super()._add_rows(call, result)
        self.counts.append((here().place, result.shape[0]))
        form = laid_out((size, *result.shape[1:]), type_of(result))
        value = opaque_call(self._b, call.op, call.values, call.keywords, form)
        self._note([value], "count", result.shape[0], len(self._b.values), text=size.symbol.name, subject=name)
        return value

    def _bind_symbols(self) -> None:
        """Let numbers that are sizes be inputs, and strides, and tensors that the run found in state, and took nothing but
        symbolic sizes of."""
        for number in self._sizes.bound:
            self._b.value_of(number)
        for t in self._state:
            bound = {s for i in self._b.inputs for n in i.shape if isinstance(n, Expr) for s in n.symbols()}
            if any(isinstance(n, Expr) and not n.symbols() <= bound for n in t.form.shape) and self.name_of(t):
                self._alias(t)

    def _spent(self, result: torch.Tensor) -> str:
        """As in the first run: what autograd keeps of stand-ins can't be looked at."""
        return next(self._ends)

    def differentiate(self, engine, roots, tangents, keep: bool, again: bool, inputs, *args, **kwargs):
        """The engine does not run: as many gradients arrive as did in the first run, of zeros."""
        call = self.guarded(self._grads.prepare, roots, tangents, again, inputs, kwargs["accumulate_grad"])
        results = self.guarded(self._gradients, call)
        self.guarded(self._grads.record, call, results, keep)
        if self.unsupported is not None:
            raise self.unsupported
        return tuple(r for r, slot in zip(results, call.slots) if slot is None)

    def _gradients(self, call: Pass) -> list[torch.Tensor | None]:
        if call.again:
            raise Unsupported("differentiates, with tensors of symbolic sizes, what is differentiated in turn")
        results: list[torch.Tensor | None] = []
        for k, found in enumerate(next(self._passes)):
            if found is None:
                results.append(None)
                continue
            added, type = found
            results.append(call.slots[k].now if added else self._empty(type, call.wrt[k].type))
            if call.slots[k] is not None:
                call.slots[k].leaf.grad = results[k]
        return results

    def _empty(self, real: TensorType, form: TensorType) -> torch.Tensor:
        """A tensor like one of the first run's, of zeros, whose sizes are those of `form`."""
        extent = 1 + sum((n - 1) * s for n, s in zip(real.shape, real.strides)) if real.numel else 0
        tensor = torch.zeros(extent, dtype=real.dtype, device=real.device).as_strided(real.shape, real.strides)
        return Sized(tensor, laid_out(form.shape, real), self._sizes) if symbolic(form) else tensor

    def before(self, function, args, kwargs):
        if function is _SIZE:  # which before torch 2.12 asks Python for numbers, where later ones raise
            raise ConcreteSizes("torch's C++ asks for the number")
        self._moving = self._is_move(function, args)
        if self._moving:
            return None
        met = self._memory.met
        if function is _VIEW and [call[0] for call in self._expected(len(self.calls))] == [overload(_UNSAFE_VIEW)]:
            function = _UNSAFE_VIEW  # torch's decompositions in Python make a view where those in C++ say it is none
        names, sized = [a.name for a in schema_of(function).arguments], overload(function).sizes
        if not moves(overload(function), own(args), kwargs):
            args = tuple(self._sizes.dims(a) if n in sized else a for n, a in zip(names, args))
        call = super().before(function, args, {n: self._sizes.dims(a) if n in sized else a for n, a in kwargs.items()})
        if call is None:
            pass
        elif self._stretch is not None:
            self.calls[-1:] = [self._calls[k] for k in self._stretch.calls]
        elif function is _UNFOLD and [call[0] for call in self._expected(len(self.calls) - 1)] == [overload(_AS_STRIDED)]:
            self.calls[-1:] = self._expected(len(self.calls) - 1)  # the same windows; in C++ made by numbers
        elif self.calls[-1:] != self._expected(len(self.calls) - 1):
            self._surplus(call, met)
        if self.unsupported is not None:
            raise self.unsupported
        return call

    def is_one(self, function: Callable, args: Sequence[Any]) -> bool:
        """As in the first run, or without steps."""
        if function in BY_SIZES:
            return any(type(t) is Sized for t in leaves(args))
        return is_whole(function, args) or function in STEPWISE and (self._stepless or self._stretch_here() is None)

    def make_as_one(self, function, args, kwargs):
        """As autograd sees it, all of the results are made of all of the tensors."""
        enabled, make = torch.is_grad_enabled(), super().make_as_one
        stretch = self._stretch = None if is_whole(function, args) else self._skipped_stretch()

        def made():
            with torch.set_grad_enabled(enabled):
                return make(function, args, kwargs)
        with unprofiled():
            results = AsOne.apply(made, *(t for t in leaves((args, kwargs)) if isinstance(t, torch.Tensor)))
        for r in results if isinstance(results, tuple) else (results,):
            if node_of(r) is not None:
                self._sources.allow(node_of(r))
        if stretch is not None:
            self._memory.met, self._stretch = stretch.met, None
            for r, number in zip(results if isinstance(results, tuple) else (results,), stretch.results, strict=True):
                self._alias(r).number = number
        return results

    def _stretch_here(self) -> Stretch | None:
        """What the first run did in the call that is about to be made, if it recorded its ops one by one."""
        return next((s for s in self._stretches if s.calls.start == len(self.calls)), None)

    def _skipped_stretch(self) -> Stretch | None:
        """The same, its looks left out."""
        found = self._stretch_here()
        for _ in found.looks if found else ():
            next(self._looks)
        return found

    def _run_unseen(self, function, args, kwargs):
        with torch.no_grad():
            return super()._run_unseen(function, args, kwargs)

    def _expected(self, k: int) -> list[tuple]:
        """The k-th call of the first run, in a list; an empty one where there is none."""
        return self._calls[k:k + 1]

    def take(self, draw: Draw) -> Any:
        """What the draw gave in the first run."""
        return next(self._looks, None)

    def list_again(self, tensor: torch.Tensor) -> list:
        """What .tolist() gave in the first run."""
        found = next(self._looks)
        self.guarded(self.add_list, tensor, found)
        return found

    def turned(self, function: Callable, args: tuple) -> Callable | None:
        """The comparison that the first run made of the operands of this one in the other order, if it made that: of a tensor and
        a stand-in, which is of a class below that of tensors, Python always asks the stand-in."""
        turned, expected = _TURNED.get(function), self._expected(len(self.calls))
        if turned is None or len(args) != 2 or type(args[0]) is not Sized or type(args[1]) is not torch.Tensor or not expected:
            return None
        (op, operands, _), this = expected[0], self._given(args[0])
        found = op is overload(getattr(torch.ops.aten, turned.__name__).Tensor) and operands[1:] == (this,)
        return turned if found and operands[0] != this else None

    def _put_data(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        copy, data = self._copies.get(id(tensor)), self._copies.get(id(data), data)
        if copy is None:
            super()._put_data(tensor, data)
        else:
            copy.data = inner(data)

    def _is_move(self, function, args) -> bool:
        """Whether torch only moves a tensor that a factory made into another object, which is a detach for a subclass."""
        return (function is torch.ops.aten.detach.default and type(args[0]) is Sized
                and all(call[0] is not overload(function) for call in self._expected(len(self.calls))))

    def _surplus(self, call, met: int) -> None:
        """A call that the first run did not make. Autograd itself makes some views of subclasses again, which leads to
        nothing."""
        if call.op.view:
            again = self.calls.pop()
            self._forget = met, next((number for made, number in reversed(self._views) if made == again), None)
        else:
            self.stop(Unsupported(f"{OTHER_OPS}, here {call.op.key}"))

    def _execute(self, function, args, kwargs):
        self._outside = {}
        if self._moving:
            moved = Sized(args[0].inner, args[0].form, self._sizes)
            self._memory.move(args[0], moved)
            return moved
        op, inside = overload(function), self._inside(args)
        if op.packet in _BY_MASKS:
            result = inside[0] if op.writes else inside[0].clone()
        else:
            result = function(*inside, **self._inside(kwargs))
        if self._busy or self._custom.inside:
            return result
        if sized(op, args):
            return _of_forms(result, next(self._looks, ()))
        return next(self._looks, result) if op.reads else result

    def _inside(self, given: Any) -> Any:
        """What an op is really given, with what it stands for noted."""
        if isinstance(given, torch.Tensor):
            real = given.inner if type(given) is Sized else self._copies.get(id(given), given)
            self._outside[id(real)] = given
            return real
        if isinstance(given, (list, tuple)):
            return [self._inside(g) for g in given]
        return {k: self._inside(g) for k, g in given.items()} if isinstance(given, dict) else given

    def after(self, call, result):
        result = self._outward(result)
        super().after(call, result)
        made = self._outward(result)
        view = self._memory.find(made) if call.op.view and isinstance(made, torch.Tensor) else None
        if self._forget is not None:
            (self._memory.met, number), self._forget = self._forget, None
            if view and number is not None:
                view.number = number  # it stands for the one that the run made
        elif view:
            self._views.append((self.calls[-1], view.number))
        if self.unsupported is not None:
            self._blame_sizes(call)
            raise self.unsupported
        return made

    def _outward(self, result: Any) -> Any:
        """What stands for what an op really gave."""
        if isinstance(result, (list, tuple)):
            return type(result)(map(self._outward, result))
        return self._outside.get(id(result), result)

    def _blame_sizes(self, call) -> None:
        """An op could not be recorded: those symbols are not to be ones that are now as large as a plain size of another operand,
        which they have to equal then, else all; unless it goes with one symbol for two places."""
        sizes = [n for v in _values((call.values, call.keywords)) for n in v.shape]
        found = {s for n in sizes if isinstance(n, Expr) for s in n.symbols()}
        at_odds = {s for s in found if s.hint in sizes}
        self._sizes.share({n.symbol for n in sizes if isinstance(n, Expr) and n.symbol}, at_odds, self._shapes)
        self._sizes.fixed |= at_odds or found

    def _met(self, tensor: torch.Tensor, type: TensorType, value: Value) -> tuple[torch.Tensor, TensorType]:
        if not symbolic(value.type):
            return tensor, type
        made = self._outside[id(tensor)] = Sized(tensor, value.type, self._sizes)
        return made, value.type


    # Custom autograd.Functions, which run with stand-ins, but whose ops run on the real tensors and give such

    def enter_function(self, function: type, args: tuple, kwargs: dict) -> None:
        super().enter_function(function, *map(self.with_stand_ins, (args, kwargs)))

    def _form_given(self, result: torch.Tensor, args: tuple) -> TensorType:
        """The sizes that are those of an argument, or the product of some that follow each other there, are taken to be them
        on each call; a call in which they are not is of another form."""
        real = super()._form_given(result, args)
        forms = [t.form for t in tensors_in(args) if type(t) is Sized]
        same = next((f.shape for f in forms if tuple(map(typical, f.shape)) == real.shape), None)
        shape = same or tuple(_size_of(n, d, real.rank, forms) for d, n in enumerate(real.shape))
        return laid_out(shape, real) if forms else real

    def _met_given(self, tensor: torch.Tensor, type: TensorType, value: Value) -> tuple[torch.Tensor, TensorType]:
        if not symbolic(type):
            return tensor, type
        with torch.enable_grad():
            made = AsOne.apply(lambda: Sized(tensor.detach(), type, self._sizes), tensor)
        if node_of(made) is not None:
            self._sources.allow(node_of(made))
        self._given_by_custom[id(tensor)] = tensor, made
        return made, type

    def with_stand_ins(self, given: Any) -> Any:
        """What torch is given, with the stand-ins for what custom functions gave: no mode sees that; Python has it as it is."""
        if not self._given_by_custom:
            return given
        if isinstance(given, torch.Tensor):
            return self._given_by_custom.get(id(given), (given, given))[1]
        if type(given) in (list, tuple):
            return type(given)(map(self.with_stand_ins, given))
        return {k: self.with_stand_ins(g) for k, g in given.items()} if type(given) is dict else given


def _of_forms(result: Any, forms: Sequence[tuple[torch.Size, tuple[int, ...]]]) -> Any:
    """What an op gave, of the shapes and strides of the first run, which may have written to what it was given."""
    found = [r if (r.shape, r.stride()) == form else r.new_empty_strided(*form).zero_()
             for r, form in zip(leaves(result), forms, strict=True)]
    return type(result)(found) if isinstance(result, (list, tuple)) else found[0]


def _size_of(n: int, d: int, rank: int, forms: Sequence[TensorType]) -> Dim:
    """A size of a result in terms of those of the arguments, by their values: best that in the same place, then any other."""
    alike = [f.shape[d] for f in forms if f.rank == rank]
    sizes = [*alike, *(size for f in forms for size in f.shape)]
    products = [product(f.shape[i:k]) for f in forms for i in range(f.rank) for k in range(i + 2, f.rank + 1)]
    return next((size for size in (*sizes, *products) if isinstance(size, Expr) and typical(size) == n), n)


def _values(part: Any) -> Iterator[Value]:
    """The tensors among the arguments of an op."""
    if isinstance(part, Value):
        yield part
    elif isinstance(part, (list, tuple, dict)):
        for p in part.values() if isinstance(part, dict) else part:
            yield from _values(p)


#: Comparisons, and those that give the same with the operands in the other order.
_TURNED = {torch.Tensor.__eq__: torch.eq, torch.Tensor.ne: torch.ne, torch.Tensor.lt: torch.gt, torch.Tensor.gt: torch.lt,
           torch.Tensor.le: torch.ge, torch.Tensor.ge: torch.le}


class _SizedApi(Api):
    """Sees the calls of torch's Python interface, and lets Python code take the sizes that it gives for ints."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.storage_offset and not self._recorder._busy:
            self._recorder.stop(Unsupported("reads where in its memory a tensor begins (.storage_offset())"))
        if function is torch.Tensor.tolist and not self._recorder._busy and not self._recorder.itemises(args[0]):
            return self._recorder.list_again(args[0])
        if turned := self._recorder.turned(function, args):
            function, args = turned, args[::-1]
        args, kwargs = map(self._recorder.with_stand_ins, (args, kwargs))
        return self._recorder._sizes.numbers(super().__torch_function__(function, types, args, kwargs))


@contextmanager
def undone(first: First) -> Iterator[None]:
    """A run of which nothing is to stay, with all state as it was before the first one: what is in Python's objects and in
    `.grad`. After it are put back what the first one left there, random numbers drawn, casts kept by autocast, and writes
    counted. (The writes to tensors themselves go to copies.) Other threads see that state meanwhile."""
    tensors = tuple(first.written_outside())
    state, versions = random_state(), tuple(map(version_of, tensors))
    left, grads = [(read, held(read)) for read in first.changed], [(slot.leaf, slot.leaf.grad) for slot in first.recorder.slots]
    kept = [(read, held(read)) for read in first.reads if read.kind in ("item", "attr", "contents")]
    torch.clear_autocast_cache()
    try:
        for read in first.changed:
            put_back(read, read.expected)
        for slot in first.recorder.slots:
            slot.leaf.grad = slot.before
        yield
    finally:
        for leaf, grad in grads:
            leaf.grad = grad
        for read, value in left:
            put_back(read, value)
        for read, value in kept:  # a run that did not come to its end may have changed more
            if not holds(read, value):
                put_back(read, value)
        torch.clear_autocast_cache()
        set_random_state(state)
        set_versions(tensors, versions)
