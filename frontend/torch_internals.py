"""The interfaces of torch that smelt uses and that are not public: the one list of them.

Checked at import: what the installed torch lacks is named, with what it serves, in one IncompatibleTorch.
"""
import math
import sys
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from pkgutil import resolve_name
from threading import get_ident
from typing import Any, Callable

import torch

from ..errors import IncompatibleTorch

_missing: list[str] = []


def _take(path: str, purpose: str, needed: bool = True) -> Any:
    """What lies at a path; None where it is missing, which counts as an error if it is needed."""
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        if needed:
            _missing.append(f"{path} ({purpose})")


# Modes and transforms
TorchDispatchMode = _take("torch.utils._python_dispatch.TorchDispatchMode", "to see every op of a run")
HigherOrderOperator = _take("torch._ops.HigherOrderOperator", "to record ops that take functions")
OpOverload = _take("torch._ops.OpOverload", "to know the attributes that ops get when they are first called")
OpPacket = _take("torch._ops.OpOverloadPacket", "to know the attributes that ops get when they are first called")
active_dispatch_modes = _take("torch._C._len_torch_dispatch_stack", "to leave calls under other modes alone")
innermost_dispatch_mode = _take("torch.utils._python_dispatch._get_current_dispatch_mode", "to leave a mode for a while")
without_innermost_mode = _take("torch.utils._python_dispatch._pop_mode_temporarily", "to leave a mode for a while")
active_function_modes = _take("torch._C._len_torch_function_stack", "to leave calls under other modes alone")
_function_mode = _take("torch._C._get_function_stack_at", "to know the default device")
_Device = _take("torch.utils._device.DeviceContext", "to know the default device")
tracing = _take("torch._C._is_tracing", "to leave calls under torch.jit.trace alone")
saved_tensors_hooks = _take("torch._C._autograd._top_saved_tensors_default_hooks", "to leave calls under checkpoint alone")
_take("torch.autograd.forward_ad._current_level", "to leave forward-mode differentiation alone")
forward_ad = torch.autograd.forward_ad
active_transform = _take("torch._C._functorch.peek_interpreter_stack", "to leave calls under vmap and grad alone")
_Transform = _take("torch._C._functorch.TransformType", "to record transforms as the ops that they make")
make_dual = _take("torch._VF._make_dual", "to notice forward-mode differentiation")
is_of_transform = _take("torch._C._functorch.is_gradtrackingtensor", "to record transforms as the ops that they make")
is_batched = _take("torch._C._functorch.is_batchedtensor", "to leave gradients under vmap to torch")
is_batched_by_autograd = _take("torch._C._functorch.is_legacy_batchedtensor", "to leave gradients under vmap to torch")

_Excluded = _take("torch._C._SetExcludeDispatchKeyGuard", "to run ops that conjugate under a mode")
_CONJUGATE_KEYS = [_take(f"torch._C.DispatchKey.{name}", "to run ops that conjugate under a mode")
                   for name in ("Conjugate", "Negative")]
_AUTOGRAD_KEYS = [_take(f"torch._C.DispatchKey.{name}", "to run ops that autograd sees through under a mode")
                  for name in ("AutogradFunctionality", "ADInplaceOrView")]

# Tensors
version_of = _take("torch.Tensor._version.__get__", "to notice writes to a tensor")
set_versions = _take("torch._C._autograd._unsafe_set_version_counter", "to undo what a trial run leaves of its writes")
is_view = _take("torch.Tensor._is_view", "to know results that are views made without gradients")
is_zero = _take("torch._C.TensorBase._is_zerotensor", "to record the zeros of forward-mode differentiation")
wrapper = _take("torch.Tensor._make_wrapper_subclass", "to record tensors of symbolic sizes")
_key_of_composites = _take("torch._C.DispatchKey.CompositeImplicitAutograd", "to record composite ops of symbolic sizes")
_key_of_autograd = _take("torch._C.DispatchKey.Autograd", "to record composite ops of symbolic sizes")
_python_dispatcher = _take("torch._dispatch.python.enable_python_dispatcher", "to record composite ops of symbolic sizes")
unwatched = _take("torch._C._disabled_torch_function_impl", "to record tensors of symbolic sizes")
keeps_graph = _take("torch._C._autograd._get_current_graph_task_keep_graph", "to know whether a backward pass frees what it used")
current_backward = _take("torch._C._current_graph_task_id", "to notice a backward pass")
pad_rows = _take("torch._C._nn.pad_sequence", "to record it with sequences of symbolic sizes")
fused_steps = {_take(f"torch._fused_{name}_", "to record their learning rates as numbers that change")
               for name in ("adam", "adamw", "sgd", "adagrad")}
pack = _take("torch._VF._pack_padded_sequence", "to record it without the sizes of what it gives")
unpack = _take("torch._VF._pad_packed_sequence", "to notice that it looks at the batch sizes")
TensorGuards = _take("torch._C._dynamo.guards.TensorGuards", "to check tensors against what was recorded")
storage_uses = _take("torch._C._storage_Use_Count", "to use the memory of large results again", needed=False)
empty_strided_cpu = _take("torch._C._dynamo.guards._empty_strided_cpu", "to allocate results in half the time", needed=False)

# Numbers
#: The attribute under which a 0-dim tensor that stands for a SymFloat or SymInt keeps it (set by torch's argument parser).
WRAPPED_NUMBER = "_wrapped_number"
_no_dispatch = _take("torch._C._DisableTorchDispatch", "to fill tensors made of symbolic numbers")
_no_function = _take("torch._C.DisableTorchFunction", "to fill tensors made of symbolic numbers")
_no_transform = _take("torch._C._DisableFuncTorch", "to fill tensors made of symbolic numbers")

# Autograd
PlainFunction = _take("torch.autograd.function._SingleLevelFunction", "to enter autograd's graph without a search for "
                      "transforms, which guards have ruled out", needed=False) or torch.autograd.Function

_take("torch.autograd._engine_run_backward", "to see the backward passes of a run")
#: where a tensor keeps the hooks that run when a gradient arrives at it
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_take("torch.autograd.graph.Node._sequence_nr", "to know in which order autograd's graph was made")
for _name in TENSOR_HOOKS:
    _take(f"torch.Tensor.{_name}", "to notice hooks on tensors")

eval_frame_callback = _take("torch._C._dynamo.eval_frame.get_eval_frame_callback", "to know whether torch.compile is at work")
_take("torch.compiler.set_stance", "to run functions that torch.compile gave as they were given to it")
for _name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
    _take(f"torch.overrides.{_name}", "to let torch's modules choose the way that they choose without a recorder")
_no_override = _take("torch._C._disabled_torch_function_impl", "to know the tensors that see calls of torch's API")
StorageWeakRef = _take("torch.multiprocessing.reductions.StorageWeakRef", "to know a tensor again")

#: hooks that the step of every optimizer runs
OPTIMIZER_HOOKS = tuple(_take(f"torch.optim.optimizer._global_optimizer_{when}_hooks", "to notice hooks on all optimizers")
                        for when in ("pre", "post"))
_take("torch.nn.utils.parametrize._cache_enabled", "to notice that what parametrizations compute is kept")

#: switches that torch's modules tell of through these
BACKEND_SWITCHES = tuple(filter(None, (_take(f"torch._C.{name}", "to guard what a run asks of torch's switches", needed=False)
                                       for name in (
    "_get_cudnn_enabled", "_get_cudnn_benchmark", "_get_cudnn_deterministic", "_get_cudnn_allow_tf32", "_get_cublas_allow_tf32",
    "_get_mkldnn_enabled", "_get_flash_sdp_enabled", "_get_mem_efficient_sdp_enabled", "_get_math_sdp_enabled",
    "_get_cudnn_sdp_enabled", "_is_multithreading_enabled", "_autograd._profiler_enabled", "_is_view_replay_enabled",
    "_get_deterministic_fill_uninitialized_memory"))))

# Overloads of ops: what they write to and share memory with; the decomposition of composite ones
_take("torch.ops.aten.add_.Tensor._schema", "to know what an op writes to")
_has_kernel = _take("torch._C._dispatch_has_kernel_for_dispatch_key", "to record composite ops under inference mode")
_take("torch.ops.aten.dropout.default.py_kernels", "to record composite ops of symbolic sizes")
_take("torch.ops.aten.dropout.default._dispatch_cache", "to record composite ops of symbolic sizes")

#: ops that take functions and are made of other ops, below autograd or above
_IN_PYTHON = {"flex_attention", "map_impl", "scan", "while_loop"}

#: hooks that run in every module's call
GLOBAL_MODULE_HOOKS = {name: _take(f"torch.nn.modules.module.{name}", "to notice hooks on every module") for name in (
    "_global_forward_pre_hooks", "_global_forward_hooks", "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs", "_global_backward_pre_hooks", "_global_backward_hooks")}

if _missing:
    raise IncompatibleTorch(f"torch {torch.__version__} lacks interfaces that smelt needs: {'; '.join(_missing)}")


@contextmanager
def without_modes():
    """Inside, no mode of torch sees what runs, and no transform (vmap, grad)."""
    with _no_dispatch(), _no_function(), _no_transform():
        yield


@contextmanager
def conjugating():
    """Inside, ops that a mode runs heed conjugates and signs that are kept aside, also in what they are made of."""
    with _Excluded(_CONJUGATE_KEYS[0], False), _Excluded(_CONJUGATE_KEYS[1], False):
        yield


@contextmanager
def differentiating():
    """Inside, autograd sees the ops that an op is made of which a mode runs."""
    with _Excluded(_AUTOGRAD_KEYS[0], False), _Excluded(_AUTOGRAD_KEYS[1], False):
        yield


def has_gradient(overload) -> bool:
    """Whether autograd knows the overload; of any other one it sees what its kernel calls."""
    keys = "CompositeImplicitAutograd", "Autograd", "AutogradCPU", "AutogradCUDA"
    return any(_has_kernel(overload.name(), key) for key in keys)


def default_devices() -> tuple[torch.device, ...] | None:
    """The devices that torch.set_default_device and `with device:` gave, the one that counts last; None under any other mode
    of torch's functions."""
    count = active_function_modes()
    if not count:
        return ()
    modes = [_function_mode(k) for k in range(count)]
    return tuple(mode.device for mode in modes) if all(type(mode) is _Device for mode in modes) else None


def in_forward_transform() -> bool:
    """Whether the innermost transform is one of forward mode (torch.func.jvp), whose tangents belong to tensors of its own."""
    transform = active_transform()
    return transform is not None and transform.key() == _Transform.Jvp


def composite(overload, *args, **kwargs):
    """A call of a composite op as the ops that it is made of. Those in Python raise errors of their own; C++'s are eager's."""
    try:
        return overload.decompose(*args, **kwargs)
    except Exception:
        return overload._op_dk(_key_of_composites, *args, **kwargs)


@contextmanager
def composites_in_python():
    """Composite ops are made of others by decompositions in Python, which take symbols for sizes everywhere, where those in C++
    don't. Ops that C++ does not make of others stay as they are, as does dropout, whose decomposition draws other random
    numbers."""
    ops = [*(op for op in _decompositions() if _key_of_autograd in op.py_kernels and not is_composite(op)), *_UPSAMPLING,
           torch.ops.aten.dropout.default]
    kept = {op: dict(op.py_kernels) for op in ops}
    try:
        for op in ops:
            op.py_kernels.clear()
            op.py_kernels.update({_key_of_composites: partial(_upsampled, _UPSAMPLING[op])} if op in _UPSAMPLING else {})
            op._dispatch_cache.clear()
        with _python_dispatcher():
            yield
    finally:
        for op, kernels in kept.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


def _decompositions() -> list[torch._ops.OpOverload]:
    """The ops that torch makes of others in Python. The import takes seconds."""
    from torch._decomp import decomposition_table
    return [op for op in decomposition_table if isinstance(op, torch._ops.OpOverload)]


#: The ops that tell the size of an image by scale factors, and what they are made of.
_UPSAMPLING = {packet.vec: packet.default for packet in (getattr(torch.ops.aten, name) for name in (
    *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)), "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"))}


def _upsampled(op: torch._ops.OpOverload, image: torch.Tensor, size, *corners_and_scales) -> torch.Tensor:
    *corners, scales = corners_and_scales
    if size is None:
        size = [math.trunc(n * s) for n, s in zip(image.shape[2:], scales)]
    return op(image, size, *corners, *(scales or [None] * len(size)))


def sequence_number(node) -> int:
    """The number of a node of autograd's graph, in the order in which its thread made them."""
    return node._sequence_nr()


def function_of(node) -> type | None:
    """The custom autograd.Function that made a node of autograd's graph; None for a node of torch's own, or one that it makes for
    an op with a registered gradient."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return None if type(node)._forward_cls.__module__ == "torch._library.autograd" else type(node)._forward_cls


#: Frames, at most, between the code of torch that calls an op and that of a mode which is given it.
_MODE_DEPTH = 12
_autograd_of_op = _take("torch._library.autograd.make_autograd_impl.__code__", "to record custom ops with their gradients")
_FORWARD_OF_OP = next((c for c in getattr(_autograd_of_op, "co_consts", ()) if getattr(c, "co_name", "") == "forward"), None)


def is_differentiated(frame) -> bool:
    """Whether the op that a mode is given is called for its registered gradient: torch runs it without autograd, within a custom
    autograd.Function of its own. `frame`: one of the mode's, up to which there are few."""
    for _ in range(_MODE_DEPTH):
        if frame is None or frame.f_code is _FORWARD_OF_OP:
            return frame is not None
        frame = frame.f_back
    return False


def schema_of(overload):
    """The overload's schema: its arguments and returns, and which of them it writes to or shares memory with."""
    return overload._schema


def is_composite(overload) -> bool:
    """Whether the overload is made of other ops for every device, and autograd sees those."""
    try:
        return _has_kernel(overload.name(), "CompositeImplicitAutograd")
    except RuntimeError:  # torch.ops.prim.layout, say, which no dispatcher knows
        return False


def cond(predicate, if_true: Callable, if_false: Callable, operands):
    """What torch's op of this name does, in Python."""
    return (if_true if predicate else if_false)(*operands)


def in_python(op):
    """What an op that takes functions does, as a function of other ops; None where that is not known."""
    if op.name() == "cond":
        return cond
    return op.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd) if op.name() in _IN_PYTHON else None


def put_engine(run: Callable) -> Callable:
    """Let `run` stand for torch's way into autograd's engine; gives what stood there before."""
    before = torch.autograd._engine_run_backward
    torch.autograd._engine_run_backward = run
    return before


@contextmanager
def compiled_by_torch_as_given():
    """Inside, functions and modules that torch.compile gave run as they were given to it; it would trace what observes them. Its
    import alone takes seconds: where it has not been imported, none were."""
    imported = "torch._dynamo" in sys.modules and not callable(eval_frame_callback())
    with torch.compiler.set_stance("force_eager") if imported else nullcontext():
        yield


def giving_back(compile: Callable) -> Callable:
    """The stand-in for torch.compile in this thread: what torch itself compiles (torch.cond) runs as it is."""
    thread = get_ident()

    def as_given(*args, **options):
        own = get_ident() == thread and sys._getframe(1).f_globals.get("__name__", "").startswith("torch.")
        return args[0] if own and args else compile(*args, **options)
    return as_given


def _overrides(value: Any) -> bool:
    """Whether a value sees the calls of torch's API that it is given to."""
    seen = getattr(type(value), "__torch_function__", _no_override)
    return seen is not _no_override and type(value) is not torch.Tensor


#: What tells whether calls of torch's API are seen, by one of the values or by a mode; how each lists its values.
OVERRIDE_CHECKS: dict[Callable, Callable] = {
    torch.overrides.has_torch_function: tuple, torch.overrides.has_torch_function_unary: lambda value: (value,),
    torch.overrides.has_torch_function_variadic: lambda *values: values}


def without_own_mode(check: Callable, listening: Callable[[], bool]) -> Callable:
    """What one of these checks tells without a recorder's mode, while it listens: for attention, torch's modules choose another
    way where a call is seen. Ops that take functions are seen by the mode all the same."""
    values_of, ops = OVERRIDE_CHECKS[check], vars(torch._ops)

    @wraps(check)
    def told(*args: Any) -> bool:
        if not listening() or sys._getframe(1).f_globals is ops:
            return check(*args)
        return active_function_modes() > 1 or any(map(_overrides, values_of(*args)))
    return told


def distributions_check() -> bool:
    """Whether torch's distributions check what they are given, where they are not told."""
    return torch.distributions.Distribution._validate_args
