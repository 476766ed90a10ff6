"""torch's modes and kinds of tensors: autocast, default dtype, layouts, subclasses, meta, complex, sparse, nested tensors."""
import contextlib
import gc

import torch
from torch import nn, overrides
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode, has_torch_function, has_torch_function_unary
from torch.utils._python_dispatch import TorchDispatchMode

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4, 4)


@program(exact=False)
def autocast_outside(compile):
    f = compile(lambda x, w: (x @ w + 1, x.exp()))
    for dtype in (None, torch.bfloat16, torch.float16, None, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
            yield from calls(f, X, X.t())


@program(exact=False)
def autocast_inside(compile):
    @compile
    def f(x, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x @ w
        return y, (y + x).relu()
    yield from calls(f, X, X)


@program(exact=False)
def autocast_switched_inside(compile):
    on = True

    @compile
    def f(x, w):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            return x @ w
    for on in (True, False, True, False):
        yield from calls(f, X, X)


@program(exact=False)
def autocast_under_gradient(compile):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    f = compile(net)
    for dtype in (torch.bfloat16, None, torch.bfloat16):
        for _ in range(3):
            net.zero_grad()
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                y = f(X)
            y.backward(tensor(4, 2).to(y.dtype))
            yield y


@program
def default_devices_in_turn(compile):
    f = compile(lambda x: (torch.ones(3, device="cpu") + x.sum(), torch.arange(3)))
    for device in (None, "cpu", "meta", "cpu", "meta", None):
        with torch.device(device) if device else contextlib.nullcontext():
            found = list(calls(f, X))
        yield from found


@program
def default_dtype(compile):
    f = compile(lambda x: (torch.ones(3) + x.sum(), torch.arange(3) / 2, torch.tensor([1.5, 2.0]), x.long() * 0.5))
    try:
        for dtype in (torch.float32, torch.float64, torch.float16, torch.float32):
            torch.set_default_dtype(dtype)
            yield from calls(f, X)
    finally:
        torch.set_default_dtype(torch.float32)


@program
def default_device(compile):
    f = compile(lambda x: torch.ones(3) + x.shape[0])
    yield from calls(f, X)
    with torch.device("meta"):
        results = [f(X), f(X)]
    yield results
    yield from calls(f, X)


@program
def deterministic_mode(compile):
    f = compile(lambda x, i: (torch.zeros(4).index_add(0, i, x), torch.are_deterministic_algorithms_enabled()))
    i = torch.tensor([0, 1, 1, 0])
    try:
        for on in (False, True, False):
            torch.use_deterministic_algorithms(on)
            yield from calls(f, X[0], i)
    finally:
        torch.use_deterministic_algorithms(False)


@program
def number_of_threads(compile):
    f = compile(lambda x: x * torch.get_num_threads() + 1)
    before = torch.get_num_threads()
    try:
        for n in (1, 2, 1, 3):
            torch.set_num_threads(n)
            yield from calls(f, X)
    finally:
        torch.set_num_threads(before)


@program
def precision_of_products(compile):
    f = compile(lambda x: (x @ x, torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            yield from calls(f, X)
    finally:
        torch.set_float32_matmul_precision(before)


@program
def denormals_flushed(compile):
    f = compile(lambda x: x * 0.5)
    tiny = torch.full((40,), 2e-38)
    yield from calls(f, tiny)
    try:
        if torch.set_flush_denormal(True):
            yield from calls(f, tiny)
    finally:
        torch.set_flush_denormal(False)
    yield from calls(f, tiny)


@program
def strides_of_an_argument(compile):
    f = compile(lambda x: (x + 1, x.sum(0), x.t() * 2))
    big = tensor(8, 8)
    for x in (big[:4, :4], big[:4, :4], X, X.t(), big[::2, ::2], big[4:, 4:], big.t()[:4, 2:6], X[0].expand(4, 4),
              X[:, :1].expand(4, 4)):
        yield f(x)


@program
def storage_offsets(compile):
    f = compile(lambda x: x * 2 + 1)
    memory = tensor(64)
    for start in (0, 0, 1, 3, 16, 7):
        yield f(memory[start : start + 20])


@program(exact=False)
def channels_last(compile):
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    f = compile(net)
    x = tensor(2, 2, 4, 4)
    for shape in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        net.to(memory_format=shape)
        for form in (torch.contiguous_format, torch.channels_last):
            yield from calls(f, x.contiguous(memory_format=form), times=2)


@program
def memory_formats_inside(compile):
    f = compile(lambda x: (x.contiguous(memory_format=torch.channels_last) + 1, x.clone(memory_format=torch.contiguous_format),
                           x.is_contiguous(), x.to(memory_format=torch.channels_last)))
    x = tensor(2, 3, 4, 5)
    for form in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        yield from calls(f, x.contiguous(memory_format=form))


@program
def dtypes_of_an_argument(compile):
    f = compile(lambda x: (x * 2 + 1, x.sum(), x > 1, -x))
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.int16,
                  torch.float32):
        yield from calls(f, X.to(dtype), times=2)


@program
def promotion(compile):
    f = compile(lambda x, y: (x + y, x * 2.5, y / 2, torch.where(x > 0, x, y)))
    dtypes = (torch.float32, torch.float16, torch.int32, torch.uint8, torch.bool)
    for a in dtypes:
        for b in dtypes:
            yield f(X.abs().to(a), X[0].abs().to(b))


@program
def promotion_of_scalars_and_dimensionless_tensors(compile):
    f = compile(lambda x, y: (x + y, x * y))
    for x in (X, X.half(), X.long()):
        for y in (2, 2.0, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), torch.tensor(2),
                  torch.tensor([2.0], dtype=torch.float64)):
            yield f(x, y)


@program
def complex_numbers(compile):
    f = compile(lambda z: (z * 2j, z.abs(), z.conj() + 1, torch.view_as_real(z * z)))
    z = torch.complex(X, X.t())
    yield from calls(f, z)
    yield from calls(f, z.conj())
    yield from calls(f, z.to(torch.complex128))
    yield outcome(f, X)


@program
def sparse_tensors(compile):
    f = compile(lambda x: x * 2)
    yield from calls(f, X)
    yield from calls(f, X.to_sparse())
    yield from calls(f, X.to_sparse_csr())
    yield from calls(f, X)


@program
def sparse_inside(compile):
    f = compile(lambda x, y: torch.sparse.mm(x.to_sparse(), y))
    yield from calls(f, X, X)


@program
def nested_tensors(compile):
    f = compile(lambda x: x * 2)
    yield from calls(f, X)
    yield from calls(f, torch.nested.nested_tensor([tensor(2), tensor(3)]))
    yield from calls(f, X)


@program
def meta_tensors(compile):
    f = compile(lambda x: x.sum(0) + 1)
    for x in (X, X, X.to("meta"), X.to("meta"), X):
        yield f(x)


@program
def meta_module(compile):
    net = nn.Linear(4, 2, device="meta")
    f = compile(net)
    yield from calls(f, X.to("meta"))
    net.to_empty(device="cpu")
    net.load_state_dict({"weight": tensor(2, 4), "bias": tensor(2)})
    yield from calls(f, X)


@program
def subclass_of_tensor(compile):
    class Named(torch.Tensor):
        pass
    f = compile(lambda x: (x * 2 + 1, x.sum()))
    yield from calls(f, X)
    yield from calls(f, X.as_subclass(Named))
    yield from calls(f, X)
    yield from calls(f, nn.Parameter(X.clone()))


@program
def subclass_with_its_own_functions(compile):
    class Logged(torch.Tensor):
        log = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.log.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})
    f = compile(lambda x: x * 2 + 1)
    yield from calls(f, X)
    yield from calls(f, X.as_subclass(Logged))


@program
def object_that_acts_as_a_tensor(compile):
    class Scaled:
        def __init__(self, t):
            self.t = t

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func(*(a.t * 2 if isinstance(a, Scaled) else a for a in args), **(kwargs or {}))
    f = compile(lambda x: torch.add(x, 1))
    yield from calls(f, X)
    yield from calls(f, Scaled(X))


@program
def function_mode_outside(compile):
    class Doubling(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return result * 2 if func is torch.relu else result
    f = compile(lambda x: torch.relu(x) + 1)
    yield from calls(f, X)
    with Doubling():
        results = [f(X), f(X)]
    yield results
    yield from calls(f, X)


@program
def dispatch_mode_outside(compile):
    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Counting.count += 1
            return func(*args, **(kwargs or {}))
    f = compile(lambda x: torch.relu(x) + 1)
    yield from calls(f, X)
    with Counting():
        results = [f(X), f(X)]
    yield results, Counting.count
    yield from calls(f, X)


@program
def modes_inside(compile):
    class Doubling(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return result * 2 if func is torch.relu else result

    @compile
    def f(x):
        with Doubling():
            return torch.relu(x)
    yield from calls(f, X)


@program(exact=False)
def library_switches(compile):
    net = nn.Conv1d(1, 2, 3)
    f = compile(net)
    x = tensor(1, 1, 8)
    yield from calls(f, x)
    with torch.backends.mkldnn.flags(enabled=False):
        yield from calls(f, x)
    yield from calls(f, x)


@program(exact=False)
def attention_backend(compile):
    f = compile(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True))
    q = tensor(1, 2, 4, 8)
    yield from calls(f, q)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield from calls(f, q)
    yield from calls(f, q)


@program
def arrays_of_numpy(compile):
    f = compile(lambda x, a: x + torch.from_numpy(a) if a is not None else x)
    a = X.numpy().copy()
    for k in range(4):
        a += k
        yield f(X, a)
    yield f(X, None)


@program
def numbers_of_numpy(compile):
    import numpy
    f = compile(lambda x, k: x * k)
    for k in (numpy.float64(2.0), numpy.float64(2.0), numpy.float64(3.0), numpy.int64(3), numpy.float32(2.5), numpy.bool_(True)):
        yield f(X, k)


@program
def profiler_and_trace(compile):
    f = compile(lambda x: x * 2 + 1)
    yield from calls(f, X)
    with torch.autograd.profiler.record_function("inside"):
        yield from calls(f, X)
    yield torch.jit.trace(lambda x: f(x), X, check_trace=False)(X + 1)


@program
def functional_transforms(compile):
    f = compile(lambda x: x * x + 1)
    yield from calls(f, X)
    yield torch.func.vmap(f)(X), torch.func.grad(lambda x: f(x).sum())(X), torch.func.functionalize(f)(X)
    yield from calls(f, X)


@program
def functional_call(compile):
    net = whole(nn.Linear(4, 2), 1)
    f = compile(net)
    yield from calls(f, X)
    for k in (2, 3):
        weights = {name: p.detach() * k for name, p in net.named_parameters()}
        yield from (torch.func.functional_call(f, weights, (X,)) for _ in range(3))
    yield from calls(f, X)


@program
def gradient_flags_of_arguments(compile):
    f = compile(lambda x, w: x * w)
    for a in (X, leaf(4, 4)):
        for b in (X, leaf(4, 4)):
            for _ in range(2):
                y = f(a, b)
                yield backward(y) if y.requires_grad else y


@program
def memory_with_gaps(compile):
    """A result lies in memory as it was made."""
    def f(x):
        made = torch.empty_strided(x.shape, (8, 1))
        made[:] = x * 2
        return made, made[0], torch.empty_strided(x.shape, (1, 4)).copy_(x).mul_(3)
    yield from calls(compile(f), X)


@program
def masked_tensors(compile):
    """Of a class of torch's own, which asks ops that no dispatcher knows."""
    yield from calls(compile(lambda x: torch.masked.masked_tensor(x, x > 0).sum().to_tensor(0.0)), tensor(2, 3))


def asked(compile, told, put):
    """Calls that ask a switch of the process, which is turned in between."""
    f = compile(lambda x: x + 1 if told() else x - 1)
    before = bool(told())
    try:
        for on in (before, before, not before, before, not before):
            put(on)
            yield f(tensor(4))
    finally:
        put(before)


@program
def switches_of_backends_asked(compile):
    yield from asked(compile, lambda: torch.backends.cudnn.enabled, torch._C._set_cudnn_enabled)
    yield from asked(compile, torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp)


@program
def other_switches_asked(compile):
    yield from asked(compile, torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly)
    yield from asked(compile, torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    yield from asked(compile, gc.isenabled, lambda on: gc.enable() if on else gc.disable())
    yield from asked(compile, lambda: torch.utils.deterministic.fill_uninitialized_memory,
                     lambda on: setattr(torch.utils.deterministic, "fill_uninitialized_memory", on))
    yield from asked(compile, torch._C._is_view_replay_enabled, torch._C._set_view_replay_enabled)


@program
def dtype_of_autocast_asked(compile):
    """Also where it is off; entering it asks too."""
    yield from asked(compile, lambda: torch.get_autocast_dtype("cpu") is torch.float16,
                     lambda on: torch.set_autocast_dtype("cpu", torch.float16 if on else torch.bfloat16))

    @compile
    def within(x):
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
            with torch.autocast("cpu"):
                return x @ x, torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()
    yield from calls(within, tensor(2, 2))


@program
def overrides_asked(compile):
    """What tells whether a call of torch is seen by a tensor or by a mode."""
    class Seen(torch.Tensor):
        pass

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    @compile
    def f(x, other):
        return x + 1, has_torch_function_unary(other), has_torch_function((x, other)), overrides.has_torch_function([x]), \
            overrides.has_torch_function_variadic(x, other), overrides.has_torch_function_unary(x)
    for other in (tensor(2), nn.Parameter(tensor(2)), 1, tensor(2).as_subclass(Seen)):
        yield from calls(f, X, other)

    @compile
    def within(x):
        with Mode():
            return x + 1, has_torch_function_unary(x)
    yield from calls(within, X)


@program
def subclass_called_with_a_tensor(compile):
    """Which torch does not allow under a mode that sees ops."""
    class Plain(torch.Tensor):
        pass

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return super().__torch_function__(function, types, args, kwargs)
    for kind in (Plain, Own):
        f = compile(lambda x, n: kind(x + n) * 2)
        for n in (1, 2, 2.5, 3.5):
            yield f(tensor(3), n), type(f(tensor(3), n)) is kind


class Marked(torch.Tensor):
    pass


@program
def subclass_called_after_something_is_left(compile):
    class State:
        count = 0
    s, total = State(), tensor(3)

    def mark(x):
        return Marked(x)

    @compile
    def f(x, n):
        s.count += n
        total.add_(x)
        print(s.count)
        return mark(x + n) * 2

    @compile
    def g(x):
        y = x * 2
        return Marked(y) if isinstance(x, Marked) else y + 1
    for n in (1, 2, 3):
        found = f(tensor(3), n)
        yield found, type(found) is Marked, s.count, total, g(tensor(3)), type(g(Marked(tensor(3)))) is Marked


@program
def subclass_reached_otherwise_called_after_something_is_left(compile):
    class Own(Marked):
        def __new__(cls, *args):
            return super().__new__(cls, *args)

        def __init__(self, *args):
            self.made_of = len(args)

    class Holder:
        kind, count = Marked, 0

        @compile
        def attribute(self, x, n):
            self.count += n
            print(self.count)
            return self.kind(x + n) * 2

        @compile
        def argument(self, x, n, kind):
            print(n)
            return kind(x * n) + n

        @compile
        def local(self, x, n):
            print(n)
            kinds = {"marked": Marked, "own": Own}
            found = kinds["own"](x) + n
            return found, [kind(x) for kind in kinds.values()][n % 2]

        @compile
        def of_numbers(self, n):
            print(n)
            return Marked([n, 2.0]), Marked(n, 2).shape, torch.Tensor(n, 2).shape, torch.zeros(n), torch.Tensor([n]) + n

        @compile
        def perhaps(self, x, n):
            print(n)
            return self.kind(x) if n < 0 else x * n
    holder = Holder()
    for n in (1, 2, 3, 4):
        found = (holder.attribute(tensor(3), n), holder.argument(tensor(3), n, Marked), holder.argument(tensor(3), n, Own),
                 *holder.local(tensor(3), n), *holder.of_numbers(n), holder.perhaps(tensor(3), n))
        yield found, [type(value).__name__ for value in found], holder.count
    yield holder.perhaps(tensor(3), -1)


@program
def grad_mode_set_past_torch_s_interface(compile):
    @compile
    def f(x):
        torch._C._set_grad_enabled(False)
        y = x * 2
        torch._C._set_grad_enabled(True)
        return y * x
    for _ in range(3):
        x = leaf(3)
        yield backward(f(x)), x.grad


@program
def hooks_of_all_optimizers(compile):
    net, log = whole(nn.Linear(2, 1), 0.5), []
    optimizer = torch.optim.SGD(net.parameters(), 0.5)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).sum()
        loss.backward()
        optimizer.step()
        return loss
    register = register_optimizer_step_pre_hook, register_optimizer_step_post_hook
    for place in (None, 0, None, 1, 0, None):
        hook = None if place is None else register[place](lambda *_: log.append(place))
        try:
            for _ in range(2):
                yield step(torch.ones(1, 2)), list(log)
        finally:
            if hook is not None:
                hook.remove()


@program
def parametrizations_kept(compile):
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2
    net = whole(nn.Linear(2, 2, bias=False), 0.5)
    nn.utils.parametrize.register_parametrization(net, "weight", Twice())
    f, x = compile(net), torch.ones(1, 2)
    for kept in (False, False, True, True, False):
        with nn.utils.parametrize.cached() if kept else contextlib.nullcontext():
            for _ in range(3):
                with torch.no_grad():
                    yield f(x)
                    net.parametrizations.weight.original.mul_(2)


@program(exact=False)
def complex_numbers_written_in_part(compile):
    """As Fourier neural operators do it."""
    weight = leaf(2, 3)

    @compile
    def f(x):
        given = torch.fft.rfft(x)
        out = torch.zeros(2, given.shape[-1], dtype=torch.cfloat)
        out[:, :3] = given[:, :3] * weight
        out[1] *= 2
        out.diagonal().add_(weight[:, 0])
        return torch.fft.irfft(out, n=x.shape[-1])
    for _ in range(4):
        x = leaf(2, 8)
        yield backward(f(x)), x.grad, weight.grad
