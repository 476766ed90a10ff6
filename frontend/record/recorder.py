"""Recording one real run: every ATen op that it calls becomes values of a pure graph.

The modes of torch that watch the run (see modes.py) tell of each op before it runs, and after.
The run itself is not changed: its results are eager's own, and an observation that can't be recorded ends the recording,
never the run.
"""
from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import torch

from ...compiler.dims import typical
from ...compiler.equality import key_of
from ...compiler.ir import Graph, ObjectType, TensorType, TupleType, Value, needed
from ...compiler.ops.core import may_raise
from ...errors import Unsupported
from ..generators import random_state, same_state
from ..observe.claims import claims
from ..observe.draws import Draw
from ..observe.origins import here
from ..observe.places import draws_again
from ..observe.profiling import unprofiled
from ..readings import HOW, LARGEST_LIST, Reading, Readings, settled
from ..recording import Flag, Fresh, OutputView, Recording, Result, WriteBack
from ..symbolic.arrays import Arrays
from ..symbolic.symbols import Asked, Float, Int, Node, Numbers, fixed, own, plain, wrapped_numbers_filled
from ..torch_internals import (active_transform, compiled_by_torch_as_given, conjugating, current_backward, differentiating,
                               is_differentiated, is_zero, version_of)
from .as_one import STEPWISE, Stretch, counted, is_loop, is_whole, op_of
from .beside import Beside
from .building import NumberBuilder
from .custom import CustomCalls
from .differentiating import Differentiating, Pass, Slot
from .elements import Elements
from .functional import DETACHED, RESOLVED, Alias, Memory, Step, address
from .gradients import Reach, Sources, node_of
from .masks import ANY_ROWS, alike
from .modes import NO_NUMBERS, READS, TRUTHS, Api, Classes, Engine, Ops, count_writes
from .outputs import Outputs
from .overloads import Overload, check_kind, import_call, leaves, opaque_call, overload, refuse_sign, type_of
from .packed import Packed
from .results import OVERWRITES, Call, Results, refuse_overlap, refuse_without_gradient
from .windows import moves

#: Elements of the largest tensor made from Python numbers that becomes a constant of the graph.
LARGEST_CONSTANT = 4096

_T = torch.Tensor
#: Ops that give memory as it is.
_UNWRITTEN = {"empty", "empty_like", "new_empty", "empty_strided", "empty_permuted", "new_empty_strided"}
#: Ops that tell whether all elements agree, by the op that tells it of each element.
_COMPARISONS = {"equal": torch.ops.aten.eq.Tensor, "allclose": torch.ops.aten.isclose.default}


class Recorder:
    """Records what runs inside `with recorder:`; `finish` then gives the Recording.

    arguments   the tensors given to the run, with names for people, each tensor once: the graph's first inputs
    name_of     tells the name of a tensor that the run reads and did not make ("fc1.weight"), None if it has none
    name        of the graph
    numbers     the symbolic numbers that the run may come by; what they reach becomes an input of the graph
    held        the numbers in the tensors that the run reads, if they are not to be read off these; see Elements
    symbolic    tells whether the numbers that .item() gives at a line of the user's are other ones on each call
    stand_ins   tells whether symbolic numbers may be given to the run
    aside       gives the aside (see asides.py) that the run is in, None if it is in none
    open        tells whether the run can still become a program, as far as others than the recorder see
    arrays      the stand-ins for arrays of NumPy's

    calls       the ops called, with what they were given, to compare with another run
    looks       what Python was told of tensors, in order: numbers and lists, and the forms of results that go by the elements
    stretches   the calls that make the same ops for each place of a sequence
    ends        for each result, what a backward pass from it raises
    counts      for each op that may find any number of rows, the user's line, and how many it found
    lengths     the user's lines where an op asked for a whole number that comes of a reading, and that is a size
    generator   the state of torch's random numbers when the run began
    unwritten   whether it made memory that it did not write to, which holds anything
    flags       the inputs whose requires_grad the run set, with what it is now
    passed      whether anything may have run that was not seen: after the recording ended, but for the use of an array

    `unsupported` holds the first thing that could not be recorded; from there on everything passes through unwatched.
    """
    #: Whether a caller gets what the run gives, and may differentiate it, and hears what it tells; else it repeats such a run.
    for_caller = True
    _make_outputs = Outputs

    def __init__(self, arguments: Sequence[tuple[str, torch.Tensor]], name_of: Callable[[torch.Tensor], str | None], name: str,
                 numbers: Numbers | None = None, held: Mapping[int, int | float] | None = None,
                 symbolic: Callable[[str], bool] = lambda line: False,
                 stand_ins: Callable[[], bool] = lambda: True, aside: Callable[[], Any] = lambda: None,
                 open: Callable[[], bool] = lambda: True, arrays: Arrays | None = None):
        self.unsupported: Unsupported | None = None
        self.passed = False
        self.flags: dict[int, bool] = {}
        self.name, self.name_of = name, name_of
        self.numbers = numbers or Numbers()
        self._b = NumberBuilder(self.numbers, lambda v: self._reach.add_input(v, 0))
        self._reach, self._sources = Reach(self._b), Sources()
        self._memory = Memory(self._b, self._reach, self._sources)
        self._tensors: list[torch.Tensor] = []
        self._before: list[tuple] = []
        self._elements = Elements(self._b, self.numbers, self._tensors, held)
        self._readings, self._symbolic, self._stand_ins = Readings(open), symbolic, stand_ins
        self.numbers.tell = self._told
        self.numbers.read_now = lambda number: self._note_symbol(self.numbers.in_graph[number.name], number)
        self.arrays = Arrays() if arrays is None else arrays
        self.arrays.stop = self._stop_for_array
        self.beside = Beside(aside, self.stop)
        self.numbers.quiet = self.beside.enters
        self._answer: Float | Int | None = None  # to the read of a number that is under way
        self._random = self._as_truth = self._as_item = self._busy = self._differentiates = self._transformed = False
        self.converts: Callable | None = None  # the method of tensors under way that may give the run a symbolic number
        self._from_numbers: bool | None = None  # what a call of torch's API under way is given; None where there is none
        self._counts: tuple[Callable, tuple, dict] | None = None
        self.unwritten = False
        self.calls: list[tuple] = []
        self.looks: list[Any] = []
        self.stretches: list[Stretch] = []
        self.ends: list[str] = []
        self.counts: list[tuple[str, int]] = []
        self.lengths: dict[str, None] = {}
        self._rows: dict[Hashable, Value] = {}
        self._within = current_backward()  # a checkpoint computes again during a backward pass
        self._custom = CustomCalls(self._b, self._memory, self._sources, self._alias, self._form_given, self._met_given)
        self._grads = Differentiating(self._b, self._memory, self._reach, self._sources, self._tensors, self._alias,
                                      self._note_gradients)
        self._results = Results(self._b, self._memory, self._alias, self._met)
        self.packed = Packed(self)
        ops = Ops(self)
        self._modes = (ops, Api(self), Engine(self), Classes(self, ops), compiled_by_torch_as_given())
        self.guarded(self._take_arguments, arguments)

    def __enter__(self) -> "Recorder":
        self.generator = random_state()
        self._filled = wrapped_numbers_filled()
        self._filled.__enter__()
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._filled.__exit__(*error)
        self.numbers.alive = self.arrays.alive = False

    def let_go(self) -> None:
        """Two tensors are about to be swapped, which is not recorded, and which torch refuses for those with weak references."""
        self._memory.let_go()

    def stop(self, why: Unsupported) -> None:
        """Record nothing more."""
        if self.unsupported is None:
            self.unsupported = Unsupported(why.reason, why.where or self._b.origin.place)
            self.passed = True

    def _stop_for_array(self, reason: str) -> None:
        if self.unsupported is None:
            self.stop(Unsupported(reason, here().place))
            self.passed = False

    def guarded(self, observe: Callable, *args) -> Any:
        """Run a part of the recorder inside the user's run, which nothing that happens there may disturb."""
        if self.unsupported is not None:
            return None
        before, self._busy = self._busy, True
        try:
            with unprofiled():
                return observe(*args)
        except Unsupported as why:
            self.stop(why)
        except Exception as defect:
            self.stop(Unsupported(f"internal error while recording: {type(defect).__name__}: {defect}"))
        finally:
            self._busy = before

    # Custom autograd.Functions

    def enter_function(self, function: type, args: tuple, kwargs: dict) -> None:
        """A custom autograd.Function is called."""
        self._b.origin = here()
        self.guarded(self._custom.enter, function, args, kwargs)

    def leave_function(self, result: Any) -> None:
        """It gave this result."""
        self.guarded(self._custom.leave, result)

    def _form_given(self, result: torch.Tensor, args: tuple) -> TensorType:
        """The type of what a custom function of these arguments gave."""
        return type_of(result)

    def _met_given(self, tensor: torch.Tensor, type: TensorType, value: Value) -> tuple[torch.Tensor, TensorType]:
        """A tensor that a custom function gave, and its type, as they are known from here on."""
        return tensor, type

    # Tensors that the run did not make

    def _take_arguments(self, arguments: Sequence[tuple[str, torch.Tensor]]) -> None:
        if len({id(t) for _, t in arguments}) < len(arguments):
            raise Unsupported("internal error: the same tensor is given to the recorder twice")
        for name, tensor in arguments:
            self._add_input(name, tensor)

    def _add_input(self, name: str, tensor: torch.Tensor) -> Alias:
        check_kind(tensor)
        refuse_sign(tensor)
        if is_zero(tensor):
            raise Unsupported("a tensor of zeros that has no memory (_efficientzerotensor)")
        k = len(self._tensors)
        type = type_of(tensor)
        value = self._b.input(name.replace(".", "_"), type)
        self._reach.add_input(value, self._sources.add(tensor) if tensor.requires_grad else 0)
        self._tensors.append(tensor)
        self._before.append(_state(tensor))
        self._elements.add_input(k, tensor)
        return self._memory.add(tensor, type, value, input=k)

    def _alias(self, tensor: torch.Tensor) -> Alias:
        """The alias of a tensor; one that the run did not make becomes an input."""
        alias = self._memory.find(tensor) or self._packed_alias(tensor)
        if alias is None:
            name = self.name_of(tensor) or self._grads.name_of(tensor, self.name_of)
            if name is None:
                check_kind(tensor)
                raise Unsupported("uses a tensor that came neither from the arguments nor from an op that was recorded")
            alias = self._add_input(name, tensor)
        return alias

    def _packed_alias(self, tensor: torch.Tensor) -> Alias | None:
        """The alias of a tensor that holds packed sequences; its sizes are looked at."""
        found = self.packed.taken(tensor)
        if found is None:
            return None
        rows, k = found
        type, op = type_of(tensor), overload(torch.ops.aten._pack_padded_sequence.default)
        with torch.set_grad_enabled(tensor.requires_grad):
            operands = (*(self._memory.read(t, self._alias(t)) for t in (rows.padded, rows.lengths)), False)
            types = TupleType(tuple(type if n == k else ObjectType("tensor that nobody looks at") for n in range(2)))
            value = opaque_call(self._b, op, operands, {}, types)[k]
            alias = self._memory.add(tensor, type, value)
        self.add_reading([value], "sizes", HOW["sizes"](tensor))
        return alias

    def meet(self, tensor: torch.Tensor) -> None:
        """A tensor is used that the recorder may not know yet."""
        self.guarded(self._alias, tensor)

    def _add_constant(self, tensor: torch.Tensor) -> None:
        """A tensor that torch just made of Python numbers.

        Its old constructors (torch.FloatTensor) are no calls that a mode sees: what they make has memory of torch's own,
        unlike what torch makes of others' memory."""
        check_kind(tensor)
        numbers = tensor.untyped_storage().resizable() if self._from_numbers is None else self._from_numbers
        if not numbers or tensor.numel() > LARGEST_CONSTANT:
            raise Unsupported(NO_NUMBERS)
        self.add_numbers(tensor)

    def add_parameter(self, parameter: torch.Tensor, data: torch.Tensor) -> None:
        """The run made a parameter of a tensor, whose memory it has."""
        self.guarded(self._add_parameter, parameter, data)

    def _add_parameter(self, parameter: torch.Tensor, data: torch.Tensor) -> None:
        if self.apart:
            raise Unsupported(f"makes a parameter in {self.apart}", here().place)
        self._b.origin = here()
        alias = self._alias(data)
        self._memory.add_view(alias, parameter, Step(DETACHED, alias.type), self._memory.current(alias))

    def add_numbers(self, tensor: torch.Tensor) -> None:
        """A tensor whose elements torch wrote without an op: the same ones whenever the run gets there."""
        data, place = tuple(tensor.flatten().tolist()), {"dtype": tensor.dtype, "device": tensor.device}
        shape = tuple(tensor.shape)
        if len(set(map(repr, data))) == 1:
            value = self._b.full(shape=shape, value=data[0], **place)
        else:
            value = self._b.constant(data=data, shape=shape, **place)
        self._memory.add(tensor, type_of(tensor), value)

    # One op

    def before(self, function, args, kwargs) -> Call | None:
        """What is to be known of an op before it runs; None once the recording has ended."""
        return None if self._differentiates or self._busy else self.guarded(self._prepare, function, args, kwargs)

    def make(self, function, args, kwargs, run: Callable | None = None):
        """Make a call of an op, as `run` does, and record it."""
        args = counted(function, args, *self._counts) if self._counts else args
        call = self.before(function, args, kwargs)
        try:
            result = (run or self.run)(function, args, kwargs)
        except BaseException as error:
            self.stop(Unsupported(f"an op raised {type(error).__name__}"))
            raise
        return result if call is None else self.after(call, result)

    def is_one(self, function: Callable, args: Sequence[Any]) -> bool:
        """Whether a call of torch's API is recorded as one op."""
        return is_whole(function, args) or function in STEPWISE and active_transform() is None and is_loop(args)

    def make_as_one(self, function, args, kwargs):
        """Make a call of torch's API, and record it as one op, whatever it is made of."""
        op = self.guarded(op_of, function, args, kwargs)
        return function(*args, **kwargs) if op is None else self.make(op, args, kwargs, self._run_unseen)

    def make_counted(self, function, args, kwargs):
        """Make a call whose whole numbers C++ takes for plain ones; the op that it makes gets the symbolic ones."""
        self._counts = function, args, kwargs
        try:
            return function(*plain(args), **plain(kwargs))
        finally:
            self._counts = None

    def unseen(self, function: Callable, *args) -> Any:
        """What a call gives that is not recorded."""
        before, self._busy = self._busy, True
        try:
            return function(*args)
        finally:
            self._busy = before

    def _run_unseen(self, function, args, kwargs):
        return self.unseen(self._execute, function, plain(args), plain(kwargs))

    def add_stretch(self, calls: int, looks: int, results: torch.Tensor | Sequence[torch.Tensor]) -> None:
        """A call of torch's API gave these results, before which so many ops had been called, and so many looks taken."""
        numbers = tuple(self._alias(r).number for r in leaves(results))
        self.stretches.append(Stretch(range(calls, len(self.calls)), range(looks, len(self.looks)), self._memory.met, numbers))

    def run(self, function, args, kwargs):
        """Run an op as autograd would."""
        with conjugating(), differentiating() if overload(function).seen_through else nullcontext():
            result = self._execute(function, plain(args), plain(kwargs))
        count_writes(overload(function), args, kwargs)
        return result

    def _execute(self, function, args, kwargs):
        return function(*args, **kwargs)

    def after(self, call: Call, result):
        """Import an op that has run, and give what the run gets of it."""
        self.guarded(self._record, call, result)
        return result

    def _met(self, tensor: torch.Tensor, type: TensorType, value: Value) -> tuple[torch.Tensor, TensorType]:
        """A tensor that an op gave, and its type, as they are known from here on."""
        return tensor, type

    def _prepare(self, function, args, kwargs) -> Call | None:
        self._b.origin = here()
        op = overload(function)
        if self._custom.inside:
            self._custom.check((*args, *kwargs.values()))
            return None
        self._answered()
        if _only_form(args, kwargs):
            return None
        if op.packet == "_linalg_check_errors":
            self._add_check(args[0])
            return None
        if op.packet == "_assert_async":  # which raises at once on the CPU
            found = bool(args[0])
            self.add_reading([self._memory.current(self._alias(args[0]))], "truth", found, claim=found)
            return None
        own_args, own_kwargs = own((args, kwargs))
        stays = op.reshapes or op.view and not moves(op, own_args, own_kwargs)
        args, kwargs = fixed((args, kwargs)) if stays else (own_args, own_kwargs)
        self._refuse(op, args, kwargs)
        call = Call(op, args, kwargs)
        if op.operands and not any(isinstance(op.argument(place, args, kwargs), torch.Tensor) for place in op.operands):
            call = Call(op, *fixed((args, kwargs)), plain=True)
        if op.packet == "lift_fresh" and self._memory.find(args[0]) is None:
            self._add_constant(args[0])
        for place in op.writes:
            given = op.argument(place, args, kwargs)
            tensors = given if isinstance(given, (list, tuple)) else (given,)
            call.targets += [(t, self._alias(t)) for t in tensors if t is not None]
        if op.view or op.reshapes:
            call.reads.append((args[0], self._alias(args[0])))
        else:
            unread = {id(t) for t, _ in call.targets} if op.outs or op.packet in OVERWRITES else ()
            call.differentiated = op.foreign and is_differentiated(sys._getframe())
            with torch.enable_grad() if call.differentiated else nullcontext():
                call.values = self._read(args, call, unread)
                call.keywords = {k: self._read(a, call, unread) for k, a in kwargs.items()}
        if call.targets and call.plain:
            raise Unsupported(f"computes with numbers alone, into a tensor ({op.key})")
        if call.targets:
            refuse_overlap(call)
        refuse_without_gradient(call)
        if op.seeded or op.foreign:
            call.generator = random_state()
        self.calls.append((op, *op.shortest(self._given(args), self._given(kwargs))))
        return call

    def _given(self, part: Any) -> Any:
        """What an op is given, to compare with another run: tensors by their number, sizes and numbers as they are now."""
        if isinstance(part, torch.Tensor):
            return alias.number if (alias := self._memory.find(part)) else None
        if isinstance(part, (list, tuple)):
            return tuple(map(self._given, part))
        if isinstance(part, dict):
            return {k: self._given(p) for k, p in part.items()}
        found = typical(plain(part))
        return key_of(found) if isinstance(found, float) else found

    def _refuse(self, op: Overload, args, kwargs) -> None:
        if self._in_backward:
            raise Unsupported("runs a backward pass")
        if op.reads and op.key != "_local_scalar_dense" and op.key not in _COMPARISONS:
            raise Unsupported(READS.format(op.key))
        if op.sized and op.writes:
            raise Unsupported(f"writes to a tensor whose size depends on the values ({op.key})")
        if op.silent:
            raise Unsupported(f"calls an op that only has an effect ({op.key})")
        if op.packet == "_ctc_loss":
            raise Unsupported("gives memory that it leaves unwritten in part (_ctc_loss)")
        if op.packet in RESOLVED and args[0].requires_grad and torch.is_grad_enabled():
            raise Unsupported("differentiates a tensor whose sign is kept aside (conj)")
        if any(op.argument(p, args, kwargs) for p in op.sparse) and args[0].requires_grad and torch.is_grad_enabled():
            raise Unsupported(f"gives a sparse gradient ({op.key})")
        if op.seeded and any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
            raise Unsupported("draws random numbers from a generator of its own")

    def _read(self, given, call: Call, unread=()):
        """An argument with the tensors in it replaced by their values."""
        if isinstance(given, torch.Tensor):
            alias = self._alias(given)
            call.reads.append((given, alias))
            return self._memory.current(alias) if id(given) in unread else self._memory.read(given, alias)
        if isinstance(given, (list, tuple)):
            return type(given)([self._read(g, call, unread) for g in given])
        if type(given) is int and not -1 << 63 <= given < 1 << 63:
            raise Unsupported("a whole number of more than 64 bits")
        return given

    def _record(self, call: Call, result) -> None:
        op = call.op
        if call.keywords.get("device") is not None and isinstance(result, torch.Tensor):
            call.keywords["device"] = result.device  # "cuda" is the device that is current
        self.unwritten |= op.packet in _UNWRITTEN
        if call.generator is not None and not same_state(call.generator, random_state()):
            if not op.seeded:
                raise Unsupported(f"draws random numbers in an op that is not said to ({op.key})")
            if draws_again(sys._getframe()):
                raise Unsupported("draws random numbers in a checkpoint that draws others in the backward pass")
            self._random = call.random = True
        if op.reads:
            self.looks.append(result)
            self._add_number(call, result)
        elif sized(op, call.args):
            self.looks.append([(r.shape, r.stride()) for r in leaves(result)])
            self._add_sized(call, result)
        elif op.reshapes:
            self._results.reshape(call)
        elif op.writes:
            self._results.write(call, result)
        elif call.plain:
            full = self._b.full(shape=(), value=result.item(), dtype=result.dtype, device=result.device)
            self._memory.add(result, type_of(result), full)
        else:
            with torch.enable_grad() if call.differentiated else nullcontext():
                self._results.add(call, result)

    # Asides

    @property
    def apart(self) -> str:
        """What the run is in that is run again as it is, or not at all, by later calls; "" if it is in nothing of the kind."""
        if self._custom.inside:
            return "an autograd.Function"
        return "a backward pass" if self._differentiates or self._in_backward else ""

    @property
    def _in_backward(self) -> bool:
        """Whether autograd's engine runs, for anything but a transform (torch.func.grad)."""
        return current_backward() != self._within and not self._transformed

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that holds what this one holds now, for an aside that is told at the end of the call."""
        with self.beside.left():
            return tensor.detach().clone()

    # What Python looks at

    def add_reading(self, values: Sequence[Value], how: str, answer: Any, claim: bool = False) -> None:
        """The run looked at these values in Python. `claim`: torch raises where they are others."""
        if self._readings.matter(values):
            claim = claim or how == "truth" and self._as_truth and claims(sys._getframe(), answer)
            self._note(values, how, answer, len(self._b.values), claim=claim)

    def _note(self, values: Sequence[Value], how: str, answer: Any, position: int, **more) -> None:
        self._readings.add(Reading(tuple(values), how, answer, position, len(self._b.inputs), len(self.numbers.lines),
                                   here().place, **more))

    def _reading_now(self) -> Reading:
        """One that would be made now, of nothing."""
        return Reading((), "", None, len(self._b.values), len(self._b.inputs), len(self.numbers.lines), "")

    def _symbol_wanted(self, values: Sequence[Value], answer: Any) -> bool:
        """Whether the run is to get a symbolic number from .item()."""
        return self._as_item and type(answer) in (int, float) and self._readings.matter(values) and self._symbolic(here().place)

    def _add_symbol(self, value: Value, answer: int | float) -> None:
        """A number was read that is another one on each call: the run gets a symbolic one."""
        if type(answer) is int and value.type.device.type == "cpu":
            self._answer = self._read_later(value, answer)
        else:
            self._answer = self.numbers.read(answer, f"{value.op.name}.item()")
            self._note_symbol(value, self._answer.node)

    def _read_later(self, value: Value, answer: int) -> Int:
        return self.numbers.read_later(answer, f"{value.op.name}.item()", value)

    def _note_symbol(self, value: Value, number: Node) -> None:
        """Python is told a number from here on."""
        self._note([value], "symbol", number.value, len(self._b.values), text=number.name)

    def place_in(self, tensor: torch.Tensor) -> Any:
        """The whole number in a tensor, as an index."""
        found = None
        if self._stand_ins() and not self.apart and active_transform() is None:
            found = self.guarded(self._place_in, tensor)
        return tensor.item() if found is None else found

    def _place_in(self, tensor: torch.Tensor) -> Int | None:
        value = self._memory.current(self._alias(tensor))
        if value.type.device.type != "cpu" or not self._readings.matter([value]):
            return None
        return self._read_later(value, self.unseen(torch.Tensor.item, tensor))

    def _told(self, asked: Asked) -> None:
        """Something was asked of a number that comes of a reading: the number itself, as a rule, by an op that takes a size."""
        if self._busy and type(asked.expected) is int and asked.expected >= 2:
            self.lengths[here().place] = None
        self.guarded(self._add_condition, asked)

    def _add_condition(self, asked: Asked) -> None:
        """Something was asked of such a number. Nothing of the graph needs to run for the answer."""
        if self.unsupported is None and not any((r.how, r.text) == ("condition", asked.now) for r in self._readings.all):
            self._note((), "condition", asked.expected, self._asked_at, text=asked.now, subject=asked.subject)

    def take(self, draw: Draw) -> Any:
        """The number that a draw gives."""
        answer = draw()
        self.looks.append(answer)
        return answer

    def drawn(self, draw: Draw, answer: Any) -> Any:
        """The run drew this number. Gives what stands for it."""
        number = self.guarded(self._add_draw, draw, answer)
        return answer if number is None else number

    def _add_draw(self, draw: Draw, answer: Any) -> Float | Int | None:
        number = type(answer) is float or type(answer) is int and -1 << 63 <= answer < 1 << 63
        if not (number and draw.plain and self._stand_ins()):
            raise Unsupported(f"calls {draw.name}()", here().place)
        if not self._readings.open():
            return None
        self.numbers.need(draw.symbolic)
        symbol = self.numbers.read(answer, str(draw))
        self._note((), "draw", answer, self._asked_at if draw.generator else len(self._b.values), text=symbol.node.name,
                   draw=draw)
        return symbol

    @property
    def _asked_at(self) -> int:
        """Where a reading stands that needs nothing of the graph since the last one."""
        done = self._readings.all
        return len(self._b.values) if done and done[-1].claim else self._readings.cut

    def _add_number(self, call: Call, result) -> None:
        """An element was read, or all elements of two tensors were compared."""
        if call.op.key in _COMPARISONS:
            a, b = call.values[:2]
            if call.op.key == "equal" and (a is b and result or a.shape != b.shape):
                return
            elementwise = TensorType(tuple(torch.broadcast_shapes(a.shape, b.shape)), torch.bool, a.type.device)
            compared = import_call(self._b, overload(_COMPARISONS[call.op.key]), call.values, call.keywords, elementwise)
            self.add_reading([self._b.all(compared, dim=tuple(range(compared.rank)), keepdim=False)], "truth", result)
            return
        self._answer = self._elements.read(call.values[0], result) if self._stand_ins() else None
        if self._answer is not None:
            return
        if self._as_truth:
            self.add_reading(call.values, "truth", bool(result))
        elif self._symbol_wanted(call.values, result):
            self._add_symbol(call.values[0], result)
        else:
            self.add_reading(call.values, "number", result)

    def _add_check(self, info: torch.Tensor) -> None:
        """torch is about to look at what a function of torch.linalg says of its success, and to raise where there is none."""
        good, found = self._b.eq(self._memory.current(self._alias(info)), 0), bool((info == 0).all())
        self.add_reading([self._b.all(good, dim=tuple(range(good.rank)), keepdim=False)], "truth", found, claim=found)

    def itemises(self, tensor: torch.Tensor) -> bool:
        """Whether the run is to get a list of symbolic numbers, as if it had read one after the other."""
        numbers = tensor.numel() <= LARGEST_LIST and tensor.dtype != torch.bool and not tensor.dtype.is_complex
        return numbers and not self._busy and not self.apart and self._symbolic(here().place)

    def add_list(self, tensor: torch.Tensor, found: list) -> None:
        """The elements were read as a list."""
        self.looks.append(found)
        if tensor.numel() > LARGEST_LIST:
            raise Unsupported(READS.format(f".tolist() of {tensor.numel()} elements"), here().place)
        self._b.origin = here()
        self.add_reading([self._memory.current(self._alias(tensor))], "elements", found)

    def _add_sized(self, call: Call, result) -> None:
        """The sizes of the results depend on the values: the call is torch's own, and Python goes on with tensors of these."""
        if call.op.key in ANY_ROWS:
            key = call.op.key, alike((call.values, call.keywords))
            value = self._rows.get(key) or self._rows.setdefault(key, self._add_rows(call, result))
            self._memory.add(*self._met(result, value.type, value), value)
            return
        several = isinstance(result, (list, tuple))
        type = type_of(result)
        values = opaque_call(self._b, call.op, call.values, call.keywords, type)
        pairs = list(zip(result, values)) if several else [(result, values)]
        for r, value in pairs:
            check_kind(r)
            self._memory.add(r, type_of(r), value)
        self.add_reading([v for _, v in pairs], "sizes", HOW["sizes"](*(r for r, _ in pairs)))

    def _add_rows(self, call: Call, result: torch.Tensor) -> Value:
        """The value of an op that gives any number of rows, which is looked at."""
        self.counts.append((here().place, result.shape[0]))
        value = opaque_call(self._b, call.op, call.values, call.keywords, type_of(result))
        self.add_reading([value], "sizes", HOW["sizes"](result))
        return value

    def _answered(self, function: Callable | None = None, result: Any = None) -> Any:
        """What a call of torch's API gives the user: the symbolic number that it read, if it can take its place."""
        answer, self._answer = self._answer, None
        if answer is None:
            return result
        if function is not None and function in (_T.item, self.converts):
            return answer
        return bool(answer) if function in TRUTHS else fixed(answer)

    def converted(self, method: Callable, tensor: torch.Tensor) -> Any:
        """What a method that gives a number (`__float__`) gives of a tensor, be it a symbolic number."""
        self.converts = method
        try:
            return method(tensor)
        finally:
            self.converts = None

    # Gradients

    def differentiate(self, engine: Callable, roots, tangents, keep: bool, again: bool, inputs, *args, **kwargs):
        """Run autograd's engine, whose ops are not recorded, and import the gradients that it gives."""
        self.guarded(self._grads.refuse_hidden, roots)
        call = self.guarded(self._grads.prepare, roots, tangents, again, inputs, kwargs["accumulate_grad"])
        self._differentiates = True
        try:
            result = engine(roots, tangents, keep, again, inputs, *args, **kwargs)
        except BaseException as error:
            self.stop(Unsupported(f"a backward pass raised {type(error).__name__}"))
            raise
        finally:
            self._differentiates = False
        if call is not None:
            self.guarded(self._add_gradients, call, result, keep)
        return result

    def run_transformed(self, engine: Callable, *args, **kwargs):
        """Run autograd's engine for a transform, which differentiates tensors of its own: its pass is made of ops like any."""
        before, self._transformed = self._transformed, True
        try:
            return engine(*args, **kwargs)
        finally:
            self._transformed = before

    def _add_gradients(self, call: Pass, result: Sequence[torch.Tensor | None], keep: bool) -> None:
        gradients = self._grads.arrived(call, result)
        for gradient in gradients:
            if gradient is not None:
                check_kind(gradient)
                refuse_sign(gradient)
        self._grads.record(call, gradients, keep)

    def _note_gradients(self, whole: Value, gives: Sequence[Value]) -> None:
        """A backward pass: it is made between two segments where its gradients flow through a reading."""
        cut, roots = self._readings.cut, whole.attrs["roots"]
        if not cut or not self._reach.crosses(whole.inputs[:roots], cut):
            return
        if not all(v in self._b.inputs for v in whole.inputs[2 * roots:]):
            raise Unsupported("after it read a tensor in Python, differentiates with respect to one that it made before")
        self._note(whole.inputs, "gradients", (), self._b.values.index(whole), gives=tuple(gives),
                   text="again" if whole.attrs["again"] else "")

    def enter_backward(self, enters: bool) -> None:
        """A call that runs a backward pass begins, or any other."""
        self._grads.entered = len(self._b.values) if enters else None

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether the run made a tensor."""
        alias = self._memory.find(tensor)
        return alias is not None and alias.made

    def fresh(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in memory that the run made."""
        alias = self._memory.find(tensor)
        return alias is not None and alias.base.input is None

    def used(self, tensor: torch.Tensor) -> bool:
        """Whether the run computed with a tensor that it made."""
        value = self._memory.find(tensor).value
        return any(value in v.operands for v in self._b.values)

    def touch_grad(self, access: Callable, tensor: torch.Tensor, *value) -> Any:
        """`.grad` is read (`value` is nothing), set or deleted."""
        reads = access == _T.grad.__get__
        slot = self.guarded(self._grads.look if reads else self._grads.slot, tensor)
        result = access(tensor, *value)
        if not reads and slot is not None:
            slot.now, slot.put = tensor.grad, True
        return result

    def look_at_leaf(self, tensor: torch.Tensor) -> None:
        """Python asks whether a tensor is a leaf."""
        if tensor.requires_grad and not self._alias(tensor).made:
            self._grads.note_leaf(tensor)

    def keep_gradient(self, tensor: torch.Tensor) -> None:
        """A tensor is told to keep its gradient."""
        if self.apart:
            raise Unsupported(f"keeps the gradient of a tensor in {self.apart}", here().place)
        self._b.origin = here()
        self._grads.keep(tensor)

    def set_flag(self, setter: Callable, tensor: torch.Tensor, *value, **named) -> Any:
        """`requires_grad` is set."""
        alias = self.guarded(self._flagged, tensor)
        result = setter(tensor, *value, **named)
        if alias is not None:
            self.guarded(self._add_flag, tensor, alias)
        return result

    def _flagged(self, tensor: torch.Tensor) -> Alias | None:
        """The alias of a tensor that the run did not make and whose `requires_grad` it is about to set."""
        if self.apart:
            raise Unsupported(f"sets requires_grad in {self.apart}", here().place)
        self._b.origin = here()
        alias = self._alias(tensor)
        if alias.made:
            return None
        self._grads.note_leaf(tensor)
        return alias

    def _add_flag(self, tensor: torch.Tensor, alias: Alias) -> None:
        k, flag = alias.base.input, tensor.requires_grad
        before = self.flags.get(k, self._before[k][0])
        self.flags[k] = flag
        if flag and not before:
            if not self.required(k) and any(r.asks for r in self._readings.all):
                raise Unsupported("lets an input require grad after it branched on data")
            self._memory.require(alias, self._sources.bit(tensor) or self._sources.add(tensor))

    def set_data(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        """`.data` is set: the tensor gets the memory of another one."""
        aliases = self.guarded(self._replaced, tensor, data) if isinstance(data, torch.Tensor) else None
        self._put_data(tensor, data)
        if aliases is not None:
            self.guarded(self._memory.replace, tensor, *aliases)

    def _put_data(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        tensor.data = data

    def deep_copied(self, tensor: torch.Tensor, memo: dict) -> torch.Tensor:
        """A deep copy is made of a tensor that is alone in its memory."""
        result = self.unseen(tensor.__deepcopy__, memo)
        self.guarded(self._add_copy, tensor, result)
        return result

    def _add_copy(self, tensor: torch.Tensor, result: torch.Tensor) -> None:
        if self._memory.find(result) is not None:
            return
        if self._memory.holders(address(result)):
            raise Unsupported("makes a deep copy of tensors that share memory", here().place)
        self._b.origin = here()
        value = self._b.copy(self._memory.current(self._alias(tensor)))
        value.type = type_of(result)
        self._memory.add(result, type_of(result), value)

    def _replaced(self, tensor: torch.Tensor, data: torch.Tensor) -> tuple[Alias, Alias]:
        """The aliases of a tensor that is about to get the memory of another one, and of this."""
        if self.apart:
            raise Unsupported(f"replaces the memory of a tensor in {self.apart}", here().place)
        self._b.origin = here()
        alias, source = self._alias(tensor), self._alias(data)
        if not tensor.is_leaf:
            raise Unsupported("replaces the memory of a tensor that has a gradient of its own (.data = ...)")
        if any(getattr(type_of(tensor), what) != getattr(type_of(data), what) for what in ("shape", "dtype", "device")):
            raise Unsupported("replaces the memory of a tensor by that of another form (.data = ...)")
        if tensor.requires_grad and alias.made:
            with torch.enable_grad():
                self._memory.use(tensor, alias)
        return alias, source

    def required(self, k: int) -> bool:
        """Whether an input required grad before the run."""
        return self._before[k][0]

    @contextmanager
    def flags_before(self) -> Iterator[None]:
        """Inside, the inputs require grad as they did before the run."""
        for k in self.flags:
            self._tensors[k].requires_grad_(self.required(k))
        try:
            yield
        finally:
            for k, flag in self.flags.items():
                self._tensors[k].requires_grad_(flag)

    @property
    def passes(self) -> list:
        """What the run's backward passes gave; see Differentiating."""
        return self._grads.passes

    @property
    def held(self) -> dict[int, int | float]:
        """The numbers in the tensors that the run read, by their place, as they were before it."""
        return self._elements.held

    @property
    def slots(self) -> list[Slot]:
        """The places of gradients that the run touched."""
        return list(self._grads.slots.values())

    @property
    def untouched(self) -> bool:
        """Whether the run, as far as it went, surely changed no tensor from outside, not even its count of writes, and drew no
        random numbers."""
        counted = any(_state(t)[2] != before[2] for t, before in zip(self._tensors, self._before))
        return (self.unsupported is None or not self.passed) and not (self._random or self.wrote or counted)

    @property
    def wrote(self) -> bool:
        """Whether the run wrote to tensors from outside, to their `.grad` or their `requires_grad`."""
        flagged = any(flag != self.required(k) for k, flag in self.flags.items())
        return any(base.version for base in self._memory.inputs) or self._grads.changed or flagged

    # The end

    def finish(self, results: Sequence[torch.Tensor]) -> Recording:
        """The recording, with one entry for each of the tensors that the run returned (the same for the same tensor).

        Raises Unsupported for what could not be recorded.
        """
        with self.numbers.heard():
            recording = self.guarded(self._finish, results)
        if self.unsupported is not None:
            raise self.unsupported
        return recording

    def _finish(self, results: Sequence[torch.Tensor]) -> Recording:
        self._answered()
        left = self._grads.left(results)
        tensors = [*results, *(grad for _, grad in left if grad is not None)]
        aliases = [self._alias(t) for t in tensors]
        self._check_inputs()
        graded = any(t.requires_grad and a.base.input is None for t, a in zip(results, aliases))
        enabled = graded and not torch.is_grad_enabled()
        outputs = self._make_outputs(self._b, self._memory, self._reach, self._sources, self._tensors,
                                     list(zip(tensors, aliases)), self._spent)
        entries: dict[int, Result] = {}
        for tensor, alias in zip(tensors, aliases):
            if id(tensor) not in entries:
                entries[id(tensor)] = outputs.add_result(tensor, alias)
        met = zip(self._memory.inputs, self._tensors, self._before)
        written = sorted((m for m in met if m[0].version), key=lambda m: m[0].replaced)  # last, with outputs of their own
        behind = [WriteBack(base.input, outputs.add(base.value), counted=0) for base in self._memory.left_behind]
        writebacks = *behind, *(WriteBack(
            base.input, outputs.add_written(base, tensor, self._alias), _state(tensor)[2] - version, base.replaced,
            base.flows) for base, tensor, (_, _, version) in written)
        grads = self._grads.recorded([(leaf, entries.get(id(grad)), entries.get(id(leaf))) for leaf, grad in left])
        self._keep_errors(outputs, [v for r in self._readings.all for v in r.values])
        graph, inputs, numbers = self._graph(self._b.values, outputs.values)
        readings = settled(self._readings.all, self._reading_now())
        return Recording(graph, inputs, tuple(entries[id(t)] for t in results), writebacks, self._random, numbers, grads,
                         outputs.spent, dict(self._elements.inputs), self._differentiated(entries.values()),
                         tuple(w.input for w in writebacks), readings, enabled, outputs.loose,
                         outputs.versions, self._flags())

    def _keep_errors(self, outputs: Outputs, read: Sequence[Value]) -> None:
        """Let what nobody reads be an output, too, where it may raise an error."""
        values = self._b.values
        live = set(needed((*outputs.values, *read), tuple(values)))
        for v in [v for v in values if v not in live and may_raise(v)]:
            outputs.add(self._b.item(v, index=0) if isinstance(v.type, TupleType) else v)

    def beginning(self, most: int) -> Recording:
        """What was recorded up to the last reading, without the backward passes after it: of so many readings, besides claims,
        at most.

        Raises Unsupported where that can't be told."""
        self._grads.fetch()
        if any(type_of(t) != i.type for i, t in zip(self._b.inputs, self._tensors)):
            raise Unsupported("changes the shape of an input in place")  # that the guards are about to look at
        readings = self._readings.first(most)
        while readings and readings[-1].gives:
            readings = readings[:-1]
        readings = settled(readings, readings[-1]) if readings else ()
        ends = [r.position for r in readings[-1:]] + [self._b.values.index(v) + 1 for r in readings for v in r.gives]
        graph, inputs, numbers = self._graph(self._b.values[:max(ends, default=0)], ())
        return Recording(graph, inputs, (), (), self._random, numbers, self._grads.recorded(()), flags=self._flags(),
                         elements=dict(self._elements.inputs), differentiated=self._differentiated(()), readings=readings)

    def _flags(self) -> tuple[Flag, ...]:
        """What the run did to `requires_grad` of its inputs."""
        found = (Flag(k, self.required(k), self._requires(k), flag) for k, flag in self.flags.items())
        return tuple(f for f in found if f.before != f.within or f.before != f.after)

    def _requires(self, k: int) -> bool:
        """Whether an input requires grad at any time of the run."""
        return self.required(k) or self._sources.bit(self._tensors[k]) != 0

    def _graph(self, values: Sequence[Value], outputs: Sequence[Value]) -> tuple[Graph, tuple[torch.Tensor, ...], tuple]:
        """The graph, its input tensors, and the numbers that the last of these stand for."""
        given = self._b.given
        numbers = tuple(torch.tensor(node.value, dtype=value.dtype, device=value.type.device) for value, node in given)
        graph = Graph(self.name, (*self._b.inputs, *(value for value, _ in given)), tuple(values), tuple(outputs))
        return graph, (*self._tensors, *numbers), tuple(node for _, node in given)

    def _differentiated(self, results: Iterable[Result]) -> tuple[int, ...]:
        """The inputs that require grad."""
        found = tuple(k for k in range(len(self._tensors)) if self._requires(k))
        computed = any(r.requires_grad for r in results if isinstance(r, (Fresh, OutputView)))
        if found and computed and any(t.is_inference() for t in self._tensors):
            raise Unsupported("computes a gradient with a tensor that was made under inference mode")
        return found

    def _check_inputs(self) -> None:
        for k, (base, tensor, (flag, node, version)) in enumerate(zip(self._memory.inputs, self._tensors, self._before)):
            flag = self.flags.get(k, flag)
            flag_now, node_now, version_now = _state(tensor)
            if flag_now != flag or node_now is not node and not base.flows:
                raise Unsupported("an input came to require grad, or ceased to")
            if not base.version and version_now != version:
                raise Unsupported("an input was written to by something that is not an op of this thread")

    def _spent(self, result: torch.Tensor) -> str:
        """What a backward pass from a result raises."""
        self.ends.append(self._grads.spent(result))
        return self.ends[-1]


def sized(op: Overload, args: Sequence[Any]) -> bool:
    """Whether the sizes of the results depend on the values; an index by places gives as many as there are places."""
    return op.sized and not (op.packet == "index" and all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1]))


def _only_form(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an op gives no numbers, but the form of a result (of the meta device)."""
    given = [a.device.type for a in leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    device = kwargs.get("device")
    return "meta" in (given if device is None else [torch.device(device).type])


def _state(tensor: torch.Tensor) -> tuple:
    """(requires grad, its node in autograd's graph, how often it was written to)."""
    return tensor.requires_grad, node_of(tensor), 0 if tensor.is_inference() else version_of(tensor)
