"""The modes of torch that watch a run, and what they know of torch's interface.

Below autograd a dispatch mode sees each op. Above, a function mode sees the calls of torch's API that leave no op behind:
numbers read out, hooks, `.grad`. Autograd's engine and the making of tensors by their class, which no mode sees, have stand-ins.
"""
from __future__ import annotations

import sys
from collections import deque
from functools import partial, reduce
from threading import get_ident
from typing import TYPE_CHECKING, Any, Callable, Mapping

import numpy
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...compiler.ir import dense
from ...errors import Unsupported
from ..casting import autocasting
from ..observe.origins import here
from ..observe.handing import handed_over
from ..observe.places import of_checkpoint, passing, user_frame
from ..symbolic.arrays import DTYPES, Array, without_stand_ins
from ..symbolic.scalars import KINDS, is_scalar
from ..symbolic.sizes import Sized
from ..symbolic.symbols import fixed, is_symbolic, own, plain
from ..torch_internals import (HigherOrderOperator, TorchDispatchMode, active_transform, composite, fused_steps,
                               in_forward_transform, in_python, innermost_dispatch_mode, is_of_transform, make_dual, pad_rows,
                               put_engine, unpack, without_innermost_mode)
from .as_one import BY_SIZES, COUNTED, STEPWISE
from .masks import by_places
from .overloads import Overload, leaves, overload
from .windows import bounds_read, item_at, placed, put_at

if TYPE_CHECKING:
    from .recorder import Recorder

_T = torch.Tensor
#: Numbers in the longest list with symbolic ones that becomes a tensor of numbers of each call's own.
LONGEST_ROW = 64
READS = "reads a tensor's values in Python ({})"
NO_NUMBERS = "makes a tensor of data that is not a few plain numbers"
#: Calls of torch's API that a recording cannot hold, and why.
_REFUSED: dict[Callable, str] = {
    **{f: READS.format(f".{f.__name__}()") for f in (
        _T.numpy, _T.__array__, _T.data_ptr, _T.untyped_storage, _T.__dlpack__, _T.__reduce_ex__)},
    _T.__repr__: READS.format("printing it"),
    **{f: "calls back into Python for each element" for f in (_T.apply_, _T.map_, _T.map2_)},
    **{f: f"registers a hook on a tensor (.{f.__name__}())" for f in (_T.register_hook, _T.register_post_accumulate_grad_hook)},
    _T._version.__get__: "reads the version of a tensor",
    _T.__dir__: "lists the attributes of a tensor",
    **{f: f"asks where a tensor lies in memory (.{f.__name__}())" for f in (_T._is_view, _T.is_set_to, _T.is_shared)},
    _T._base.__get__: "asks where a tensor lies in memory (._base)",
    **{getattr(_T, name).__get__: f"asks for a tensor's place in autograd (.{name})" for name in (
        "output_nr", "retains_grad", "_backward_hooks")},
}
#: The same, where the recorder and the arguments are such that they do what the reason says.
_REFUSED_IF: dict[Callable, tuple[Callable[..., bool], str]] = {
    _T.__deepcopy__: (lambda r, t, *_: not alone(t), READS.format(".__deepcopy__()")),
    _T.storage_offset: (lambda r, t: not r.fresh(t), "asks where a tensor lies in memory (.storage_offset())"),
    _T.__format__: (lambda r, t, *_: t.dim() > 0, READS.format("printing it")),
    **{f: (lambda r, t: not r.made(t) or t.requires_grad and r.used(t), "cuts a tensor from its gradient in place (.detach_())")
       for f in (_T.detach_, torch.detach_)},
    _T.grad_fn.__get__: (lambda r, t, *_: not t.is_leaf and not of_checkpoint(), "reads autograd's graph (.grad_fn)"),
    make_dual: (lambda *_, **__: not in_forward_transform(), "differentiates in forward mode (torch.autograd.forward_ad)")}
_GRAD = (_T.grad.__get__, _T.grad.__set__, _T.grad.__delete__)
#: Calls that tell whether a tensor is a leaf.
_LEAF = (_T.is_leaf.__get__, _T.grad_fn.__get__)
_FLAG = (_T.requires_grad_, _T.requires_grad.__set__)
#: Calls that read one element as True or False.
TRUTHS = (_T.__bool__, torch.is_nonzero)
#: Calls that look at the whole numbers in their second argument without an op, and its name; of recurrent nets the batch sizes,
#: where sequences are packed.
_LOOKS = {**dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, unpack), "batch_sizes"),
          **dict.fromkeys((torch.tensor_split, _T.tensor_split), "tensor_indices_or_sections")}
_BACKWARD = (_T.backward, torch.autograd.backward, torch.autograd.grad)
#: Indexing, and the same with symbolic numbers in the index.
_AT = {_T.__getitem__: item_at, _T.__setitem__: put_at}
#: Arguments that torch takes as numbers only, and reads where they are tensors.
_FACTORS = {"alpha", "beta"}
#: Calls that make tensors of Python numbers: whether numbers are all that they are given, or NumPy's arrays that they copy.
_MAKERS: dict[Callable, Callable[..., bool]] = {
    **{f: lambda data, *more: _is_numbers(data) for f in (torch.as_tensor, torch.asarray)},
    **{f: lambda tensor, *data: all(map(_is_operand, data)) for f in (*_AT, *_AT.values())},
    **{f: lambda tensor, *data, **more: all(map(_is_data, data)) for f in (_T.new, _T.new_tensor)},
    torch.tensor: lambda data, *more: _is_data(data)}
#: The names under which calls looked at here may be given the tensor or the data.
_NAMED = {**dict.fromkeys((torch.detach_, *BY_SIZES), "input"), torch.asarray: "obj",
          **dict.fromkeys((torch.tensor, torch.as_tensor, _T.new_tensor), "data")}
#: Calls that read one element as a number; torch's old constructors (torch.FloatTensor) call them for tensors among the data.
_NUMBERS = (_T.__float__, _T.__int__, _T.__index__, _T.__complex__, _T.__bool__, _T.item)
#: Calls whose gradient torch can't compute with a symbolic number: they get the number as it is.
_BY_VALUE = {torch.pow, torch.float_power, _T.pow, _T.pow_, _T.__pow__, _T.__rpow__, _T.__ipow__, _T.float_power}
#: Calls, by their names, whose gradient torch can compute with symbolic whole numbers among the arguments: it keeps no list of
#: these. All others get whole numbers as they are, where they are differentiated.
_KEEP_NO_LIST = frozenset((
    "__getitem__ __setitem__ item_at put_at select narrow view reshape expand unflatten flatten unsqueeze squeeze transpose "
    "permute movedim "
    "diagonal tril triu unfold topk sum mean cumsum chunk kthvalue sort argmax argmin softmax log_softmax amax amin size "
    "__add__ __radd__ __iadd__ add add_ __sub__ __rsub__ __isub__ sub sub_ rsub __mul__ __rmul__ __imul__ mul mul_ "
    "__truediv__ __rtruediv__ __itruediv__ div div_ true_divide __mod__ remainder fmod __floordiv__ floor_divide "
    "clamp clamp_ clamp_min clamp_max clip maximum minimum where masked_fill masked_fill_ fill_ lerp lerp_ addcmul addcdiv addmm "
    "__gt__ __lt__ __ge__ __le__ __eq__ __ne__ gt lt ge le eq ne new_zeros new_ones new_full new_empty zeros_like "
    "full_like").split())


class Ops(TorchDispatchMode):
    """Sees every op below autograd."""
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to be wrapped for torch.compile, whose import alone takes seconds."""
        return False

    def __init__(self, recorder: Recorder):
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, recorder = kwargs or {}, self._recorder
        if isinstance(function, HigherOrderOperator):
            recorder.stop(Unsupported(f"calls an op that takes functions ({function.name()})", here().place))
            return function(*args, **kwargs)
        op = overload(function)
        if recorder.unsupported is not None or recorder._busy or op.label:
            recorder.passed |= recorder.unsupported is not None
            return recorder.run(function, args, kwargs)
        if recorder.beside.enters():
            return recorder.beside.run(op, function, args, kwargs)
        composed = partial(composite, function) if recorder.for_caller else function.decompose
        if made := op.each or by_places(op, args) or op.composite and composed:
            with self:
                result = made(*args, **kwargs)
            count_writes(op, args, kwargs)
            return result
        return recorder.make(function, args, kwargs)


def count_writes(op: Overload, args, kwargs) -> None:
    """Writes to lists of tensors are counted by the ops that they are made of, but not below autograd."""
    if op.packet.startswith("_foreach_"):
        for place in op.writes:
            torch.autograd.graph.increment_version(op.argument(place, args, kwargs))


class Api(TorchFunctionMode):
    """Sees the calls of torch's Python interface."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, recorder = kwargs or {}, self._recorder
        if isinstance(function, HigherOrderOperator) and in_python(function):
            with self:
                return in_python(function)(*args, **kwargs)
        if recorder.unsupported is None and not recorder._busy and recorder.beside.enters():
            if function == _T.grad.__get__:
                return recorder.touch_grad(function, *args)
            recorder.beside.call(function, args)
            return function(*args, **kwargs)
        if function in _AT and recorder.unsupported is None and not recorder._busy:
            with self:
                args = (args[0], bounds_read(args[1], recorder.place_in), *args[2:])
        if not _FACTORS.isdisjoint(kwargs or ()) and recorder.unsupported is None and not recorder._busy:
            with self:
                kwargs = {k: v.item() if k in _FACTORS and _is_factor(v) else v for k, v in kwargs.items()}
        if recorder.arrays and any(type(v) is Array for v in leaves((args, kwargs))):
            return self._given_arrays(function, args, kwargs)
        if recorder.numbers.scalars and any(map(is_scalar, leaves((args, kwargs)))):
            args, kwargs = _of_scalars(function, args, kwargs)
        function, args, kwargs = _with_numbers(function, args, kwargs)
        if recorder.for_caller and _keeps_lists(function, args, kwargs):
            args, kwargs = fixed((args, kwargs))
        if recorder.unsupported is not None:
            recorder.passed = True
            return function(*plain(args), **plain(kwargs))
        if recorder._busy:
            return function(*args, **kwargs)
        if other := next((t for t in types if not issubclass(t, torch.Tensor)), None):
            recorder.stop(Unsupported(f"calls torch with an object of {other.__qualname__}, a class with a __torch_function__",
                                      here().place))
            return function(*args, **kwargs)
        result = self._answered(function, args, kwargs)
        return self._followed(function, args, kwargs) if result is NotImplemented else result

    def _given_arrays(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """A call with stand-ins for arrays of NumPy's among its arguments."""
        if (name := _NAMED.get(function)) in kwargs:
            args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
        made, arrays = _OF_ARRAYS.get(function), self._recorder.arrays
        made = made if torch.get_default_device().type == "cpu" else None
        with self:
            if made and arrays.listening and len(args) == 1 and type(args[0]) is Array and kwargs.keys() <= _PLACES[made]:
                return made(*args, **kwargs)
            if function in _AT and arrays.listening and (index := _index_of_arrays(args[1])) is not None:
                return function(args[0], index, *args[2:], **kwargs)
            arrays.refuse(f"{function.__name__}()")
            return function(*without_stand_ins(args), **without_stand_ins(kwargs))

    def _answered(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """What the recorder gives in place of a call; NotImplemented where the call is to be made."""
        recorder = self._recorder
        result = recorder.packed.call(self, function, args, kwargs)
        if result is not NotImplemented:
            return result
        if function in _GRAD:
            return recorder.touch_grad(function, *args)
        if function in _FLAG and active_transform() is None:  # which sets that of tensors of its own
            return recorder.set_flag(function, *args, **kwargs)
        if function is _T.retain_grad:
            recorder.guarded(recorder.keep_gradient, *args)
        if function in _LEAF:
            recorder.guarded(recorder.look_at_leaf, *args)
        if function is _T.tolist and recorder.itemises(*args):
            with self:
                return _items(*args)
        if function is _T.numpy and handed_over(user_frame(sys._getframe(1))):
            return self._as_array(*args, **kwargs)
        if function == _T.data.__set__:
            return recorder.set_data(*args)
        if function is _T.fill_diagonal_ and _fills_by_mask(*args, **kwargs):
            with self:
                return _fill_by_mask(*args, **kwargs)
        if function is _T.__deepcopy__ and alone(args[0]):
            return recorder.deep_copied(*args, **kwargs)
        applies, reason = _REFUSED_IF.get(function, (lambda *_, **__: True, _REFUSED.get(function)))
        if reason and applies(recorder, *args, **kwargs):
            recorder.stop(Unsupported(reason, here().place))
        if recorder.is_one(function, args) and not autocasting():  # which goes by the ops that it is made of
            return recorder.make_as_one(function, args, kwargs)
        if function in COUNTED:
            return recorder.make_counted(function, args, kwargs)
        return NotImplemented

    def _as_array(self, tensor: torch.Tensor, *, force: bool = False) -> Any:
        """A tensor's memory as an array, which the function hands over to its caller."""
        recorder = self._recorder
        if force:
            with self:
                tensor = tensor.detach().cpu()
        array = tensor.numpy() if recorder.for_caller else None
        return recorder.arrays.stand_in(tensor, array) if tensor.dtype in DTYPES else array

    def _followed(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Make a call, whose ops are recorded, and note what of it no op shows."""
        recorder = self._recorder
        looked = args[1] if function in _LOOKS and len(args) > 1 else kwargs.get(_LOOKS.get(function))
        if getattr(looked, "dtype", None) is torch.int64:  # not hidden states
            recorder.guarded(recorder.add_list, looked, looked.tolist())
        recorder._from_numbers = function in _MAKERS and _MAKERS[function](*args)
        recorder._as_truth, recorder._as_item = function in TRUTHS, function is _T.item or function is recorder.converts
        recorder.enter_backward(function in _BACKWARD)
        ops, looks = len(recorder.calls), len(recorder.looks)
        try:
            result = self._made(function, args, kwargs)
        except RuntimeError:  # which the run may deal with, and other tensors may not meet
            if recorder.for_caller:
                recorder.stop(Unsupported(f"{function.__name__} raised an error", here().place))
            raise
        finally:
            recorder._from_numbers = None
            recorder._as_truth = recorder._as_item = False
            recorder.enter_backward(False)
        if function in _NUMBERS and len(recorder.calls) == ops and not recorder.apart:
            recorder.stop(Unsupported(NO_NUMBERS, here().place))
        if function in STEPWISE or function in BY_SIZES:
            recorder.guarded(recorder.add_stretch, ops, looks, result)
        if function is _T.tolist:
            recorder.guarded(recorder.add_list, args[0], result)
        if function is unpack:
            recorder.guarded(recorder.add_numbers, result[1])
        return recorder._answered(function, result)

    def _made(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Make a call; with plain numbers where it takes no symbolic ones, and has made no op."""
        ops, given = len(self._recorder.calls), (args, kwargs)
        try:
            return function(*args, **kwargs)
        except Exception:
            if len(self._recorder.calls) > ops or not self._recorder.for_caller or plain(given) is given:
                raise
        return function(*fixed(args), **fixed(kwargs))


def _items(tensor: torch.Tensor) -> Any:
    """What .tolist() gives, read one by one."""
    return list(map(_items, tensor.unbind())) if tensor.dim() else tensor.item()


#: Calls that make a tensor of an array, and what that is of a stand-in.
_OF_ARRAYS = {torch.tensor: Array.copied, torch.as_tensor: Array.converted, torch.asarray: Array.converted}
#: The arguments that these take besides.
_PLACES = {Array.copied: {"dtype", "device", "requires_grad"}, Array.converted: {"dtype", "device"}}


def _index_of_arrays(index: Any) -> Any:
    """An index with tensors for the stand-ins for arrays in it; None where torch may take it otherwise."""
    parts = index if type(index) is tuple else (index,)
    if not all(p.tensor.dtype in _INDICES if type(p) is Array else not isinstance(p, list) for p in parts):
        return None
    made = tuple(p.shared() if type(p) is Array else p for p in parts)
    return made if type(index) is tuple else made[0]


_INDICES = (torch.int64, torch.bool)


def _is_factor(value: Any) -> bool:
    return isinstance(value, _T) and not value.dim() and not value.requires_grad and value.dtype.is_floating_point


class Engine:
    """Stands in for torch's way into autograd's engine, which no mode sees."""

    def __init__(self, recorder: Recorder):
        self._recorder, self._thread = recorder, get_ident()

    def __enter__(self) -> None:
        self._engine = put_engine(self._run)

    def __exit__(self, *_) -> None:
        put_engine(self._engine)

    def _run(self, *args, **kwargs):
        recorder = self._recorder
        apart = get_ident() != self._thread or recorder._busy or recorder._differentiates
        if apart or recorder.unsupported is not None:
            return self._engine(*args, **kwargs)
        if any(map(is_of_transform, args[0])):
            return recorder.run_transformed(self._engine, *args, **kwargs)
        return recorder.differentiate(self._engine, *args, **kwargs)


class Classes:
    """Stands in for what makes a tensor when a class of tensors is called, which torch does under no mode that sees ops: found
    in its place by all classes but torch.Tensor itself."""

    def __init__(self, recorder: Recorder, ops: Ops):
        self._recorder, self._ops, self._thread = recorder, ops, get_ident()

    def __enter__(self) -> None:
        self._new = _T.__new__
        _T.__new__ = self

    def __exit__(self, *_) -> None:
        del _T.__new__

    def __get__(self, _: None, cls: type) -> Callable:
        return self._new if cls is _T else self._make

    @passing
    def _make(self, cls: type, *args, **kwargs) -> torch.Tensor:
        if get_ident() != self._thread or innermost_dispatch_mode() is not self._ops:
            return self._new(cls, *args, **kwargs)
        self._recorder.stop(Unsupported(f"calls {cls.__qualname__}, a class of tensors", here().place))
        with without_innermost_mode():
            return self._new(cls, *plain(args), **plain(kwargs))


def _fills_by_mask(tensor: torch.Tensor, fill_value: Any, wrap: bool = False) -> bool:
    """Whether a mask makes Tensor.fill_diagonal_ of a matrix: not where the value, a plain number, may not fit the dtype."""
    if tensor.dim() != 2 or wrap or type(fill_value) not in (int, float):
        return False
    return fill_value in (0, 1) or tensor.dtype in (torch.float32, torch.float64) and abs(fill_value) < 1e38


def _fill_by_mask(tensor: torch.Tensor, fill_value: int | float, wrap: bool = False) -> torch.Tensor:
    """Tensor.fill_diagonal_ in terms of sizes, which may change; torch's goes by strides."""
    rows, columns = (torch.arange(n, device=tensor.device) for n in tensor.shape)
    return tensor.masked_fill_(rows[:, None] == columns, fill_value)


def alone(tensor: torch.Tensor) -> bool:
    """Whether a deep copy of a tensor is a copy of its elements, as they lie in memory, and of nothing else."""
    plain = type(tensor) is torch.Tensor and not tensor.requires_grad and tensor.grad is None and not vars(tensor)
    return plain and dense(tensor.shape, tensor.stride()) and not tensor.is_conj() and not tensor.is_neg() \
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() > 0


def _with_numbers(function: Callable, args: tuple, kwargs: dict) -> tuple[Callable, tuple, dict]:
    """A call of torch's API as it can be made where symbolic numbers are among the arguments; data stand in their place."""
    if (name := _NAMED.get(function)) in kwargs:
        args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
    plain_call = len(args) == 1 and kwargs.keys() <= {"dtype", "device"}
    if function in (torch.tensor, torch.as_tensor) and plain_call and (is_symbolic(args[0]) or _is_whole(*args, **kwargs)):
        return torch.full, ((), *args), kwargs
    if function in (torch.tensor, torch.as_tensor) and plain_call and _is_row(*args, **kwargs):
        return _row_of_numbers, args, kwargs
    if function in _AT:
        index = placed(args[1])
        return (function, _lists_fixed(args), kwargs) if index is None else (_AT[function], (args[0], index, *args[2:]), kwargs)
    if function is pad_rows:
        return _pad_rows, args, kwargs
    if function in fused_steps and is_symbolic(kwargs.get("lr")):  # which it takes as a tensor, too
        return function, args, {**kwargs, "lr": torch.full((), kwargs["lr"], dtype=torch.float64)}
    if function is F.ctc_loss and (*args[5:6], kwargs.get("reduction", "mean"))[0] in _REDUCTIONS:
        return torch.ctc_loss, _ctc_arguments(*args, **kwargs), {}
    if function in _POOLS and args and type(args[0]) is Sized:
        return partial(_max_pool1d, _POOLS[function]), args, kwargs
    if function is F.one_hot and args and active_transform() is None:
        return _one_hot, args, kwargs
    return (function, *fixed((args, kwargs))) if function in _BY_VALUE or function in _MAKERS else (function, args, kwargs)


def _of_scalars(function: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """What a call is given, with Python's numbers in place of NumPy's; torch makes tensors of these in dtypes of their own."""
    if function in (torch.tensor, torch.as_tensor, torch.asarray) and "dtype" not in kwargs:
        data = args[-1] if args else kwargs.get("data", kwargs.get("obj"))
        kinds = {is_scalar(d) and d.kind for d in (data if isinstance(data, (list, tuple)) else (data,))}
        if len(kinds) > 1 or False in kinds:
            return fixed(args), fixed(kwargs)
        kwargs = {**kwargs, "dtype": KINDS[kinds.pop()][1]}
    return own(args), own(kwargs)


def _pad_rows(rows, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right") -> torch.Tensor:
    """torch's pad_sequence, which asks for sizes as numbers, where each row is padded alike."""
    alike = all(r.dim() and (r.dtype, r.device, r.shape[1:]) == (t.dtype, t.device, t.shape[1:]) for t in rows[:1] for r in rows)
    if not rows or not alike or padding_side not in ("left", "right"):
        return pad_rows(rows, batch_first, padding_value, padding_side)
    longest = max(r.shape[0] for r in rows)
    form = (len(rows), longest) if batch_first else (longest, len(rows))
    padded = rows[0].new_full((*form, *rows[0].shape[1:]), padding_value)
    for k, r in enumerate(rows):
        place = padded.select(0 if batch_first else 1, k)
        place.narrow(0, 0 if padding_side == "right" else longest - r.shape[0], r.shape[0]).copy_(r)
    return padded


#: How torch's C++ calls reductions of losses.
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def _ctc_arguments(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False) -> tuple:
    """What F.ctc_loss hands on; lengths that change from call to call as tensors."""
    lengths = (_row_of_numbers(n, torch.int64) if _is_row(n) else n for n in (input_lengths, target_lengths))
    return log_probs, targets, *lengths, blank, _REDUCTIONS[reduction], zero_infinity


#: Pooling that asks for the length as a number, and whether it gives indices anyway.
_POOLS = {torch.max_pool1d: False, F.max_pool1d: False, torch.max_pool1d_with_indices: True, F.max_pool1d_with_indices: True}


def _max_pool1d(gives_indices: bool, x: torch.Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode: bool = False,
                return_indices: bool = False):
    """What torch's C++ makes of it. The first recording has passed its checks."""
    of_rows = [[k, *(n if isinstance(n, (list, tuple)) else (n,))]
               for k, n in ((1, kernel_size), (1, stride or kernel_size), (0, padding), (1, dilation))]
    found = [t.squeeze(-2) for t in torch.ops.aten.max_pool2d_with_indices(x.unsqueeze(-2), *of_rows, ceil_mode)]
    return tuple(found) if gives_indices or return_indices else found[0]


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """torch's one_hot, which reads the largest number even where that is of no matter but for what it raises."""
    known = isinstance(num_classes, int) and num_classes > 0 and tensor.dtype is torch.int64 and tensor.numel()
    try:
        if known:
            zeros = torch.zeros(*tensor.shape, num_classes, dtype=torch.int64, device=tensor.device)
            return zeros.scatter_(-1, tensor.unsqueeze(-1), 1)
    except RuntimeError:  # for which torch has another text
        pass
    return F.one_hot(tensor, num_classes)


def _is_whole(data, dtype: torch.dtype | None = None, device=None) -> bool:
    """Whether torch makes of a whole number what torch.full makes of it."""
    return type(data) is int and dtype is None and -1 << 63 <= data < 1 << 63


def _is_row(data, dtype: torch.dtype | None = None, device=None) -> bool:
    """Whether data is a list of numbers, symbolic ones or tensors with one among them, of which torch makes a tensor of their own
    kind."""
    if not isinstance(data, (list, tuple, deque)) or not 0 < len(data) <= LONGEST_ROW or device is not None and any(
            map(_is_element, data)):
        return False
    whole = dtype is torch.int64 and not _row_type(data).is_floating_point
    known = dtype is None or dtype.is_floating_point or whole
    of_call = any(is_symbolic(n) or _is_element(n) for n in data)
    return known and of_call and all(is_symbolic(n) or type(n) in (int, float) or _is_element(n) for n in data)


def _is_element(data) -> bool:
    """Whether data is a tensor that torch takes for the number in it, without a word."""
    return type(data) is torch.Tensor and data.dim() == 0 and data.device.type == "cpu" and not data.requires_grad \
        and not data.is_complex() and active_transform() is None and torch.get_default_device().type == "cpu"


def _row_type(data) -> torch.dtype:
    """The dtype of torch.tensor(data)."""
    kinds = {n.dtype if isinstance(n, torch.Tensor) else torch.get_default_dtype() if isinstance(n, float) else torch.int64
             for n in data}
    return reduce(torch.promote_types, kinds)


def _row_of_numbers(data, dtype: torch.dtype | None = None, device=None) -> torch.Tensor:
    """torch.tensor(data), made of one tensor for each number."""
    dtype = dtype or _row_type(data)
    widest = torch.float64 if dtype.is_floating_point else dtype
    rows = [n.to(widest) if isinstance(n, torch.Tensor) else torch.full((), n, dtype=widest, device=device) for n in data]
    return torch.stack(rows).to(dtype)


def _keeps_lists(function: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether autograd may keep a list with a symbolic whole number, which its backward takes for plain ones."""
    if getattr(function, "__name__", "") in _KEEP_NO_LIST or not torch.is_grad_enabled():
        return False
    given = list(leaves((args, kwargs)))
    whole = any(isinstance(g, torch.SymInt) and is_symbolic(g) for g in given)
    return whole and any(isinstance(g, torch.Tensor) and g.requires_grad for g in given)


def _lists_fixed(part):
    """Indices with the numbers in lists fixed: torch makes tensors of these."""
    return tuple(map(_lists_fixed, part)) if type(part) is tuple else fixed(part) if isinstance(part, list) else part


def _is_numbers(data) -> bool:
    """Whether data is a plain number of Python's or NumPy's, or lists of them."""
    return all(map(_is_numbers, data)) if isinstance(data, (list, tuple, deque, range)) else (
        type(data) in (bool, int, float, complex) or isinstance(data, (numpy.number, numpy.bool_)) or is_symbolic(data))


def _is_data(data) -> bool:
    """The same, or an array of numbers. One from outside the run is guarded by what it holds, or ends the recording."""
    return _is_numbers(data) or type(data) is numpy.ndarray and data.dtype.kind in "biufc"


def _is_operand(data) -> bool:
    """Whether no index and no value assigned to one is made of anything but numbers and tensors."""
    if isinstance(data, tuple):
        return all(map(_is_operand, data))
    return data is None or data is Ellipsis or isinstance(data, (slice, torch.Tensor)) or _is_data(data)
