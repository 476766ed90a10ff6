"""A stand-in for a GPU: CPU memory that says it is on cuda:0.

Inside `with stand_in():`, what is made with device="cuda" lies in CPU memory, is marked, and says `cuda:0` when Python asks.
Ops on it are the CPU's; those that torch refuses for tensors of two devices are refused. It has random numbers of its own, and
what a CUDA graph captures is run by its replays alone. A kernel is launched twice: as a GPU's driver would, up to the compiled
binary, whose needs are held against an H100; and in Triton's interpreter.
"""
from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from types import FunctionType
from typing import Iterator
from unittest import mock

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._pytree import tree_leaves
from torch.utils._python_dispatch import TorchDispatchMode

import smelt.frontend.api
from smelt.frontend.guard import guards
from smelt.frontend.observe import places
from smelt.frontend.symbolic import sizes
from smelt.runtime import triton_module

CARD = torch.device("cuda", 0)
CPU = torch.device("cpu")
#: Shared memory of a program, and threads of it, on an H100.
SHARED, THREADS = 232448, 1024
#: Ops that take tensors of two devices.
ACROSS = {"copy_", "_to_copy", "index_put_", "index_put", "_index_put_impl_", "_foreach_copy_"}

_storages: dict[int, torch.UntypedStorage] = {}  # kept, so that no other memory comes to lie at their addresses
_state = threading.local()


def _marked(t: torch.Tensor) -> bool:
    plain = type(t) in (torch.Tensor, torch.nn.Parameter) and t.layout is torch.strided and _device(t).type == "cpu"
    return plain and t.untyped_storage()._cdata in _storages


def _mark(t: torch.Tensor) -> None:
    storage = t.untyped_storage()
    _storages[storage._cdata] = storage


_device = torch.Tensor.device.__get__


@contextmanager
def asleep() -> Iterator[None]:
    """Inside, every tensor is the CPU's."""
    before, _state.asleep = getattr(_state, "asleep", False), True
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        _state.asleep = before


def _awake() -> bool:
    return not getattr(_state, "asleep", False)


def device_of(t: torch.Tensor) -> torch.device:
    if isinstance(t, sizes.Sized):
        return t.form.device if hasattr(t, "form") else CPU
    if _awake():
        with asleep():
            if _marked(t):
                return CARD
    return _device(t)


class Card(TorchDispatchMode):
    """Runs ops on the CPU's memory, and marks what they make on the card."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0).get_state()
        self.captured: list | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if not _awake():
            return function(*args, **kwargs)
        wanted = kwargs.get("device")
        wanted = torch.device(wanted) if wanted is not None else None
        with asleep():
            given = [_marked(t) for t in tensors]
        self.refuse(function, tensors, given)
        by_engine = torch._C._current_graph_task_id() != -1 and function.overloadpacket.__name__ in ("zeros", "_to_copy")
        if wanted == CPU and by_engine:  # which knows no card
            wanted = CARD
        on_card = wanted.type == "cuda" if wanted is not None else any(given)
        if on_card and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if wanted is not None and wanted.type == "cuda":
            kwargs["device"] = CPU
        if self.captured is not None:
            return self.capture(function, args, kwargs, on_card)
        with asleep():
            result = self.run(function, args, kwargs, on_card)
            if on_card and not (wanted is None and function is torch.ops.aten._local_scalar_dense.default):
                for t in tree_leaves(result):
                    if isinstance(t, torch.Tensor) and _device(t).type == "cpu" and not any(t is g for g in tensors):
                        _mark(t)
        return result

    def run(self, function, args, kwargs, on_card):
        if not on_card or torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        before = torch.get_rng_state()
        torch.set_rng_state(self.generator)
        try:
            return function(*args, **kwargs)
        finally:
            self.generator = torch.get_rng_state()
            torch.set_rng_state(before)

    def refuse(self, function, tensors, given) -> None:
        name = function.overloadpacket.__name__
        if len(set(given)) > 1 and name not in ACROSS and not name.startswith("_foreach"):
            alone = [t for t, g in zip(tensors, given) if not g]
            index = name.startswith("index")
            out = "out" in function._schema.overload_name
            if any(t.dim() and not index or not t.dim() and out for t in alone):
                raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, "
                                   f"cuda:0 and cpu! ({function})")

    # CUDA graphs

    def capture(self, function, args, kwargs, on_card):
        waits = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}.intersection(function.tags)
        if waits or not on_card and any(isinstance(t, torch.Tensor) for t in tree_leaves((args, kwargs))):
            raise RuntimeError(f"operation not permitted when stream is capturing ({function})")
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise RuntimeError("Attempt to increase offset for a CUDA generator not in capture mode.")
        schema = function._schema
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        views = any(r.alias_info is not None for r in schema.returns)
        with asleep():
            if writes:
                self.captured.append(lambda: function(*args, **kwargs))
                return args[0] if "out" not in kwargs else kwargs["out"]
            result = function(*args, **kwargs)
            tensors = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
            for t in tensors:
                _mark(t)
            if not views:
                def again():
                    for t, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs))):
                        if isinstance(t, torch.Tensor):
                            t.copy_(new)
                for t in tensors:
                    t.fill_(True if t.dtype == torch.bool else 77)
                self.captured.append(again)
        return result

    def launch(self, work) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)


class Driver:
    """What Triton asks of a GPU's driver before it launches."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget
        return GPUTarget("cuda", 90, 32)

    def get_device_interface(self):
        return torch.cuda


class Kernel:
    """A kernel in Triton's interpreter, which is launched as a compiled one too."""

    def __init__(self, interpreted, compiled, card: Card):
        self.interpreted, self.compiled, self.card = interpreted, compiled, card

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launch(grid, args, kwargs)

    def launch(self, grid, args, kwargs) -> None:
        assert len(grid) <= 3 and all(type(n) is int and n > 0 for n in grid), f"a grid of {grid}"
        assert grid[0] < 2 ** 31 and all(n <= 65535 for n in grid[1:]), f"a grid of {grid}"
        for a in args:
            assert type(a) in (torch.Tensor, torch.nn.Parameter, int), f"a kernel is given a {type(a).__name__}"
            assert type(a) is int or device_of(a) == CARD, "Pointer argument cannot be accessed from Triton (cpu tensor?)"
        with asleep():
            found = self.compiled.run(*args, grid=grid, warmup=True, **kwargs)
        metadata = found.metadata
        assert metadata.shared <= SHARED and metadata.num_warps * 32 <= THREADS, metadata
        own = {k: v for k, v in kwargs.items() if k not in (*triton_module.OPTIONS, *triton_module.NVIDIA_OPTIONS)}

        def work():
            with asleep(), torch.no_grad():
                self.interpreted[grid](*(a.detach() if isinstance(a, torch.Tensor) else a for a in args), **own)
        self.card.launch(work)


@contextmanager
def triton_driver() -> Iterator[None]:
    from triton.runtime import driver
    before = driver._active
    driver.set_active(Driver())
    try:
        yield
    finally:
        driver._active = before


def triton_functions(card: Card):
    from triton.runtime.jit import JITFunction

    def functions(source: str, device: torch.device):
        with asleep():
            run, compiled = (triton_module.load_module(source, interpreted=i) for i in (True, False))
        kernels = {name: Kernel(vars(run)[name], f, card) for name, f in vars(compiled).items() if isinstance(f, JITFunction)}

        def segment(symbol: str):
            function = vars(compiled)[symbol]
            return on_card(FunctionType(function.__code__, {**vars(run), **kernels}))
        return segment, run.__file__
    return functions


def on_card(segment):
    from smelt.runtime import interpreted as i
    from triton.runtime.errors import InterpreterError

    def run(*given):
        import numpy as np
        try:
            with i._lock, i._repaired(), np.errstate(all="ignore"):
                return segment(*given, **triton_module.OPTIONS, **triton_module.NVIDIA_OPTIONS)
        except InterpreterError as error:
            raise RuntimeError(f"CUDA error: device-side assert triggered ({error.__cause__})") from error
    return run


class Graph:
    def __init__(self, card):
        self.card, self.steps = card, []

    def replay(self):
        for step in self.steps:
            step()


@contextmanager
def capturing(card: Card, graph: Graph, **_):
    card.captured = graph.steps
    try:
        yield
    finally:
        card.captured = None


class Event:
    def __init__(self, *_, **__):
        pass

    def record(self, stream=None):
        pass

    def elapsed_time(self, other):
        return 1.0


class Stream:
    cuda_stream = 0

    def wait_event(self, event):
        pass

    def synchronize(self):
        pass


@contextmanager
def stand_in() -> Iterator[Card]:
    card = Card()
    to = torch.Tensor.to

    def moved(t, *args, **kwargs):
        given = [a for a in (*args, kwargs.get("device")) if isinstance(a, (str, torch.device, torch.Tensor))]
        if not _awake() or not given or isinstance(given[0], torch.Tensor):
            return to(t, *args, **kwargs)
        wanted = torch.device(given[0])
        rest = [a for a in args if not isinstance(a, (str, torch.device))]
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        if wanted.type == device_of(t).type:
            return to(t, *rest, **kwargs) if rest or kwargs else t
        dtype = next((a for a in rest if isinstance(a, torch.dtype)), kwargs.get("dtype", t.dtype))
        return torch.ops.aten._to_copy(t, dtype=dtype, device=CARD if wanted.type == "cuda" else wanted)

    def others() -> int:
        return torch._C._len_torch_dispatch_stack() - 1

    def state(device="cuda"):
        return card.generator.clone()

    def put(new, device="cuda"):
        card.generator = new.clone()

    def tensor(data, *, dtype=None, device=None, requires_grad=False, pin_memory=False):
        default = next((m.device for m in reversed(_get_current_function_mode_stack()) if isinstance(m, DeviceContext)), CPU)
        return moved(numbers(data, dtype=dtype, device=CPU), default if device is None else device).requires_grad_(requires_grad)

    numbers, wrapper = torch.tensor, sizes.wrapper
    patches = {
        torch: {"tensor": tensor}, places: {"_FOLDERS": ((__file__, places.TORCH), *places._FOLDERS)},
        torch.Tensor: {"device": property(device_of), "is_cuda": property(lambda t: device_of(t).type == "cuda"),
                       "is_cpu": property(lambda t: device_of(t).type == "cpu"), "to": moved,
                       "cuda": lambda t, *_: moved(t, CARD), "cpu": lambda t: moved(t, CPU),
                       "get_device": lambda t: 0 if device_of(t) == CARD else -1},
        torch.cuda: {"is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
                     "is_initialized": lambda: True, "_lazy_init": lambda: None, "synchronize": lambda *_: None,
                     "is_bf16_supported": lambda *_: True, "get_device_name": lambda *_: "a stand-in",
                     "get_rng_state": state, "set_rng_state": put,
                     "get_rng_state_all": lambda: [state()], "set_rng_state_all": lambda states: put(states[0]),
                     "manual_seed_all": lambda seed: put(torch.Generator().manual_seed(seed).get_state()),
                     "current_stream": lambda *_: Stream(), "Event": Event, "device": lambda *_: nullcontext(),
                     "CUDAGraph": lambda: Graph(card), "graph": lambda graph, **_: capturing(card, graph),
                     "is_current_stream_capturing": lambda: card.captured is not None},
        sizes: {"wrapper": lambda *args, device, **more: wrapper(*args, device=CPU, **more)},
        smelt.frontend.api: {"active_dispatch_modes": others}, guards: {"active_dispatch_modes": others},
        sys.modules["smelt.runtime.load"]: {"triton_functions": triton_functions(card)},
    }
    places.kind_of_file.cache_clear()
    with ExitStack() as stack:
        stack.callback(places.kind_of_file.cache_clear)
        for holder, values in patches.items():
            for name, value in values.items():
                stack.enter_context(mock.patch.object(holder, name, value))
        stack.enter_context(triton_driver())
        stack.enter_context(card)
        yield card
