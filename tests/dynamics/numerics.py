"""NaN, infinities, -0.0, denormals, wrapping integers, casts, small arguments, large sums, rounding op by op, ties."""
import math

import torch
from torch.nn import functional as F

from .harness import backward, calls, outcome, program, tensor

SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 0.5, -0.5,
                        2.5, 1.5])
HALF = (torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def pairs():
    """Every special value beside every other one."""
    a, b = torch.meshgrid(SPECIAL, SPECIAL, indexing="ij")
    return a.contiguous(), b.contiguous()


def extremes(dtype):
    info = torch.iinfo(dtype)
    values = [0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1, info.max // 2] + ([-1, -2, -7] if info.min else [])
    a, b = torch.meshgrid(torch.tensor(values, dtype=dtype), torch.tensor(values, dtype=dtype), indexing="ij")
    return a.contiguous(), b.contiguous()


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@program
def arithmetic_of_special_values(compile):
    yield from calls(compile(lambda a, b: (a + b, a - b, a * b, a / b, -a, a.abs(), a.reciprocal(), a.square())), *pairs())


@program
def no_identity_that_nan_breaks(compile):
    yield from calls(compile(lambda x: (x * 0, x + 0, x - x, x / x, 0 - x, x * 1, x + (-0.0), x ** 0, x ** 1, -(-x))), SPECIAL)


@program
def extrema_of_special_values(compile):
    """But for the sign of a zero that ties with another zero, which eager's own vector and scalar code do not agree on."""
    @compile
    def f(a, b):
        either = torch.maximum(a, b), torch.minimum(a, b), torch.fmax(a, b) + 0.0, torch.fmin(a, b) + 0.0, a.clamp(b, b + 1)
        return *either, a.clamp(-1, 1), a.clamp(min=0) + 0.0, a.clamp(max=-0.0) + 0.0, a.relu(), F.relu6(a) + 0.0, F.hardtanh(a)
    yield from calls(f, *pairs())


@program
def clamp_by_nan(compile):
    f = compile(lambda x, low, high: x.clamp(low, high) + 0.0)
    for low, high in ((-1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (-1.0, math.nan), (1.0, -1.0), (-math.inf, math.inf),
                      (-0.0, 0.0)):
        yield f(SPECIAL, low, high)


@program
def comparisons_of_special_values(compile):
    yield from calls(compile(lambda a, b: (a < b, a <= b, a > b, a >= b, a == b, a != b, a.isnan(), a.isinf(), a.isfinite(),
                                           a.signbit(), a.sign(), a.logical_not(), torch.isclose(a, b,
                                                                                                 equal_nan=True))), *pairs())


@program
def choices_of_special_values(compile):
    f = compile(lambda a, b: (torch.where(a > b, a, b), torch.where(a == a, 0.0, a), a.masked_fill(a != a, -0.0),
                              torch.copysign(a, b), a.nan_to_num(), torch.lerp(a, b, 0.5), torch.heaviside(a, b)))
    yield from calls(f, *pairs())


@program
def remainders_of_special_values(compile):
    """But of what is too far apart for eager's vector code, which gives NaN then."""
    f = compile(lambda a, b: (torch.fmod(a, b), torch.remainder(a, b), a // b, torch.div(a, b, rounding_mode="trunc"), a % 3,
                              a // -2))
    yield from calls(f, *(torch.where((t.abs() > 1e-37) & (t.abs() < 1e37), t, 0.25) for t in pairs()))


@program
def roundings(compile):
    values = torch.tensor([-2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, 0.49999997, 8388609.5, 1e30, math.nan, math.inf])
    yield from calls(compile(lambda x: (x.round(), x.floor(), x.ceil(), x.trunc(), x.frac(), x.round(decimals=1))), values)


@program(exact=False)
def functions_of_special_values(compile):
    yield from calls(compile(lambda x: (x.exp(), x.log(), x.sqrt(), x.rsqrt(), x.sin(), x.tanh(), x.sigmoid(), x.erf(), x.atan(),
                                        x.log2(), x.exp2(), x.sinh(), x.cosh(), x.asinh())), SPECIAL)


@program(exact=False)
def functions_at_their_poles(compile):
    x = torch.tensor([-1.0, 1.0, 1 + 1e-7, 1 - 1e-7, 0.0, -0.0, 88.7, 88.8, -87.3, -103.9, -104.0, 2.0, -2.0])
    yield from calls(compile(lambda x: (x.asin(), x.acos(), x.atanh(), x.acosh(), x.exp(), x.log1p(), x.lgamma(), x.expm1())), x)


@program(exact=False)
def small_arguments(compile):
    x = torch.cat([torch.logspace(-30, -1, 30), -torch.logspace(-30, -1, 30), torch.tensor([0.0, -0.0, 1e-45])])
    for dtype in (torch.float32, torch.float64):
        yield from calls(compile(lambda x: (x.expm1(), x.log1p(), x.tanh(), x.sin(), x.sinh(), x.erf(), x.asinh(),
                                            F.softplus(x))),
                         x.to(dtype))


@program
def zero_keeps_its_sign(compile):
    yield from calls(compile(lambda x: (x.sqrt(), x.sin(), x.tanh(), x.expm1(), x.log1p(), x.asinh(), x.atan(), x.relu(), x * 2,
                                        x.trunc())),
                     torch.tensor([0.0, -0.0]))


@program(exact=False)
def powers_of_special_values(compile):
    yield from calls(compile(lambda a, b: (a ** b, a ** 2, a ** 0.5, a ** -1, 2 ** a, torch.atan2(a, b), torch.hypot(a, b),
                                           torch.xlogy(a, b), torch.logaddexp(a, b))), *pairs())


@program
def denormals(compile):
    x = torch.tensor([1e-45, 3e-45, 1e-40, -1e-40, 1.1754942e-38, 1.1754944e-38])
    yield from calls(compile(lambda x: (x * 0.5, x + x, x * 2, x - 1e-45, x * 1e10, x > 0, x.sum(), x.max(), x / 3)), x)


@program
def python_floats(compile):
    f = compile(lambda x, k: (x * k, x + k, torch.full((2,), k), x.clamp(min=k) + 0.0, torch.maximum(x, torch.tensor(k)) + 0.0,
                              k * 2))
    for k in (-0.0, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e-46, 1e39, 1e308, 0.1, 5e-324):
        yield outcome(f, SPECIAL, k)


@program
def wrapping_integers(compile):
    f = compile(lambda a, b: (a + b, a - b, a * b, -a, a.abs(), a * 3 + 1, a.square(), a.sign(), torch.maximum(a, b), a > b))
    for dtype in INTEGERS:
        yield f(*extremes(dtype))


@program
def numbers_larger_than_the_dtype(compile):
    for dtype in (torch.uint8, torch.int8, torch.int16):
        x = torch.tensor([0, 1, 2, 100], dtype=dtype)
        for n in (300, -5, 40000, 2 ** 40 + 3):
            f = compile(lambda x: (x % n, torch.fmod(x, n), x + n, n - x, x * n, x < n, x == n, x // n, x & n, x ^ n),
                        fullgraph=True)
            yield from calls(f, x)


@program
def bits_of_integers(compile):
    f = compile(lambda a, b: (a & b, a | b, a ^ b, ~a, a & 3, a.bool(), a.logical_xor(b)))
    for dtype in INTEGERS:
        yield f(*extremes(dtype))


@program
def division_of_integers(compile):
    f = compile(lambda a, b: (a // b, a % b, torch.fmod(a, b), torch.div(a, b, rounding_mode="trunc"), a / b, a // 3, a % -3))
    for dtype in INTEGERS:
        a, b = extremes(dtype)
        overflow = (a == torch.iinfo(dtype).min) & (b == -1 if torch.iinfo(dtype).min else False)
        yield f(a, torch.where((b == 0) | overflow, torch.ones_like(b), b))


@program
def shifts(compile):
    f = compile(lambda a, n: (a << n, a >> n, a << 1, a >> 2))
    for dtype in INTEGERS:
        a, _ = extremes(dtype)
        yield f(a, torch.tensor(1, dtype=dtype))
        yield f(a, torch.arange(a.shape[1]).to(dtype) % torch.iinfo(dtype).bits)


@program
def reductions_of_integers(compile):
    f = compile(lambda a: (a.sum(), a.sum(0), a.prod(1), a.amax(), a.amin(1), a.any(), a.all(0), a.cumsum(0),
                           a.sum(dtype=a.dtype)))
    for dtype in (*INTEGERS, torch.bool):
        yield f(extremes(torch.int8)[0].to(dtype))


@program
def casts_between_floats(compile):
    values = torch.cat([SPECIAL.double(), torch.tensor([65504.0, 65520.0, 65519.9, 6e-8, 2.9e-8, 1e-320, 1 + 2**-9,
                                                        1 + 3 * 2**-9], dtype=torch.float64)])
    f = compile(lambda x: tuple(x.to(d) for d in (torch.float64, torch.float32, *HALF)))
    for dtype in (torch.float64, torch.float32, *HALF):
        yield from calls(f, values.to(dtype), times=2)


@program
def casts_from_floats_to_integers(compile):
    values = torch.tensor([0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 100.7, -100.7, 127.0])
    f = compile(lambda x: (x.long(), x.int(), x.short(), x.to(torch.int8), x.bool(), x.abs().to(torch.uint8)))
    for dtype in (torch.float32, torch.float64, *HALF):
        yield from calls(f, values.to(dtype), times=2)


@program
def casts_between_integers(compile):
    f = compile(lambda x: tuple(x.to(d) for d in (*INTEGERS, torch.bool, torch.float32, torch.float16)))
    for dtype in (*INTEGERS, torch.bool):
        yield f(extremes(torch.int16)[0].to(dtype))


@program
def large_integers_as_floats(compile):
    values = torch.tensor([2**24 + 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**31, 16777217])
    yield from calls(compile(lambda n: (n.float(), n.double(), n * 1.5, n / 3, n.half(), n.bfloat16(), n + 0.5)), values)


@program
def rounding_op_by_op(compile):
    f = compile(lambda x, y: (x * y + x, (x + y) - x, x * 3 * y / 7, (x * x - y * y) * 0.1, x / y + 1, (x + 1) * (x - 1)))
    for dtype in (*HALF, torch.float32):
        yield from calls(f, random(256, dtype=torch.float32).to(dtype), random(256, seed=1).to(dtype), times=2)


@program
def scalars_in_half_precision(compile):
    f = compile(lambda x: (x * 0.1, x + 1e-3, x / 3, 1 / x, x - 0.3, x * (1 / 3), torch.add(x, x, alpha=0.1), x > 0.1,
                           x.clamp(-0.1, 0.1)))
    for dtype in HALF:
        yield from calls(f, random(256).to(dtype), times=2)


@program
def mixed_precision_chain(compile):
    f = compile(lambda x, y: ((x.float() * y).to(x.dtype) + x, x * y, (x.to(torch.bfloat16) * 1.1).float() - y))
    for dtype in HALF:
        yield from calls(f, random(256).to(dtype), random(256, seed=1), times=2)


@program
def overflow_in_half_precision(compile):
    f = compile(lambda x: (x * x, x * x / x, x + x - x, x * 1000, x.sum(), x.mean()))
    for dtype in HALF:
        yield from calls(f, torch.tensor([60000.0, -60000, 1, 0, 300, 65504]).to(dtype), times=2)


@program
def ties_of_arguments(compile):
    x = torch.tensor([[1.0, 3, 3, 2], [0.0, 0.0, 0.0, 0.0], [5, 5, 5, 5], [math.nan, 1, math.nan, 2],
                      [-math.inf, -math.inf, -math.inf, -math.inf]])
    f = compile(lambda x: (x.argmax(1), x.argmin(1), x.max(1), x.min(1), x.argmax(), x.argmin(0), x.max(0).indices))
    for dtype in (torch.float32, torch.float64, *HALF):
        yield from calls(f, x.to(dtype), times=2)
    yield f(tensor(5, 4, dtype=torch.int64))
    yield f(tensor(5, 70))


@program
def order_with_nan(compile):
    yield from calls(compile(lambda x: (x.sort(), x.sort(descending=True, stable=True).values, x.topk(4), x.median(),
                                        x.nanmedian(),
                                        x.unique(sorted=True).shape)), SPECIAL[:12])


@program
def reductions_of_special_values(compile):
    a, _ = pairs()
    yield from calls(compile(lambda x: (x.amax(0), x.amin(0), x.max(), x.min(), x.sum(0), x.nansum(0), x.prod(1), x.any(0),
                                        x.all(0),
                                        x.isnan().sum(), x.norm(float("inf")), x.cummax(0).values)), a)


def scans(x, dim):
    return x.cumsum(dim), x.cumprod(dim), x.cummax(dim), x.cummin(dim).values


@program
def scans_of_special_values(compile):
    f, g = compile(lambda a, b: (scans(a, 0), scans(b, 1))), compile(lambda a: scans(a.flip(1), 1))
    a, b = pairs()
    for dtype in (torch.float32, *HALF):
        yield from calls(f, a.to(dtype), b.to(dtype))
        yield from calls(g, a.to(dtype), times=2)


@program
def scans_of_much_and_of_little(compile):
    """Products of numbers that are too large together come after a zero; scans of one element, and of none."""
    f = compile(lambda x: (scans(x, 0), scans(x, -1)))
    for dtype in (torch.float32, *HALF):
        x = torch.full((40, 35), torch.finfo(dtype).max, dtype=dtype)
        x[0], x[:, 0] = 0, 0
        yield from calls(f, x, times=2)
        for shape in ((), (1,), (1, 1), (4, 1), (0, 3)):
            yield from calls(f, torch.full(shape, -0.0, dtype=dtype), times=2)


@program
def scans_of_integers(compile):
    f = compile(lambda a: (scans(a, 0), scans(a, 1), a.cumsum(1, dtype=a.dtype), a.cumsum(0, dtype=torch.float32)))
    for dtype in INTEGERS:
        yield from calls(f, extremes(dtype)[0], times=2)
    g = compile(lambda a: (a.cumsum(0), a.cumprod(1), a.cummax(1), a.cummin(0)))
    yield from calls(g, random(7, 40) > 0)


@program
def scans_in_other_layouts(compile):
    f = compile(lambda x: (x.cumsum(1) * 2, x.cummax(2).indices, x.transpose(0, 2).cumsum(1), x[:, ::2].cumsum(1)[..., -1]))
    x = random(6, 20, 10).round()
    for arranged in (x, x.permute(2, 0, 1), x[1:, ::3], x[:, :1].expand(6, 9, 10)):
        yield from calls(f, arranged, times=2)


@program
def scans_that_write(compile):
    @compile
    def f(x, out):
        x.cumsum_(1)
        x[1:].cumprod_(0)
        out.copy_(x.flip(0).cumsum(0))
        return torch.cumsum(x, 0, out=out), x
    for k in range(3):
        yield f(random(5, 33, seed=k).round(), torch.zeros(5, 33))


@program(exact=False)
def gradients_of_scans(compile):
    f = compile(lambda x: (x * 1.5).cumsum(1).sin() + x.cumprod(0).cumsum(0))
    g = compile(lambda x: x.cummax(1).values * x.logcumsumexp(0) + x.cummin(0).values)
    for k in range(3):
        x = random(9, 37, seed=k)
        x[2, 3] = x[5, 3] = x[4, 7] = 0
        for function in (f, g):
            leaf = x.clone().requires_grad_()
            yield backward(function(leaf)), leaf.grad


@program(exact=False)
def second_derivatives_of_products(compile):
    """With zeros: that one is zero does not mean that its derivative is."""
    for f in (compile(lambda x: x.prod(0)), compile(lambda x: x.cumprod(0))):
        for zeros in ((), (2,), (1, 3), (1, 2, 4)):
            x = random(5, 3)
            x[list(zeros)] = 0
            x.requires_grad_()
            first, = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
            yield first.detach(), torch.autograd.grad((first * torch.arange(15.0).view(5, 3)).sum(), x)


@program
def reductions_of_nothing(compile):
    x = torch.zeros(0, 3)
    yield from calls(compile(lambda x: (x.sum(), x.sum(0), x.prod(), x.mean(), x.mean(1), x.any(), x.all(), x.std(0),
                                        x.logsumexp(0))), x)
    for f in (compile(lambda x: x.max()), compile(lambda x: x.argmin(0)), compile(lambda x: x.amin())):
        yield outcome(f, x)


@program(exact=False)
def softmax_of_special_values(compile):
    rows = torch.tensor([[1.0, 2, 3], [1000, 1001, 1002], [-1000, -1001, -1002], [-math.inf, 0, 1], [-math.inf] * 3,
                         [math.inf, 0, 1],
                         [math.nan, 0, 1], [0, 0, 0], [3e38, -3e38, 0]])
    f = compile(lambda x: (F.softmax(x, -1), F.log_softmax(x, -1), x.logsumexp(-1), F.softmin(x, 1)))
    for dtype in (torch.float32, torch.float64, *HALF):
        yield from calls(f, rows.to(dtype), times=2)


@program(exact=False)
def losses_at_their_edges(compile):
    x = torch.tensor([0.0, 1.0, 1e-30, 1 - 1e-7, 100.0, -100.0, 50.0])
    t = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.5])
    f = compile(lambda x, t: (F.binary_cross_entropy_with_logits(x, t, reduction="none"), F.logsigmoid(x), F.softplus(x),
                              F.smooth_l1_loss(x, t),
                              F.huber_loss(x, t), F.binary_cross_entropy(x.sigmoid(), t, reduction="none"), F.gelu(x), F.silu(x)))
    yield from calls(f, x, t)


@program(exact=False)
def normalisation_of_constant_rows(compile):
    x = torch.tensor([[1.0] * 6, [3.0, 4.0, 3.0, 3.0, 3.0, 3.0], [0.0] * 6, [1e-20, 0, 0, 0, 0, 0]])
    yield from calls(compile(lambda x: (F.layer_norm(x, (6,)), F.normalize(x, dim=1), x.std(1), x.var(1, correction=0))), x)


def error(x, exact):
    return ((x.double() - exact).abs() / exact.abs().clamp(min=1)).max().item()


@program
def large_sums_are_as_accurate_as_eager(compile):
    x = random(3, 100_003).abs() + 1e4
    f = compile(lambda x: (x.sum(1), x.mean(1), x.sum(), x.t().contiguous().sum(0), x.square().sum(1)))
    wide = x.double()
    exact = (wide.sum(1), wide.mean(1), wide.sum(), wide.sum(1), wide.square().sum(1))
    eager = [error(a, b) for a, b in zip(f(x), exact)]  # the first call is eager's own
    for _ in range(2):
        within = [error(a, b) <= max(8 * e, 1e-6) for (a, b), e in zip(zip(f(x), exact), eager)]
        del eager[5:]
        found = within
        yield found
        del within, found
    del eager, x, wide, exact
    yield None


@program
def large_sums_in_half_precision(compile):
    f = compile(lambda x: (x.sum(1), x.mean(1), x.float().sum(1)))
    for dtype in HALF:
        x = (random(2, 40_001).abs()).to(dtype)
        exact = x.double().sum(1)
        for _ in range(3):
            total = f(x)[0].double()
            within = bool(((total - exact).abs() <= exact * torch.finfo(dtype).eps).all() | total.isinf().all())
            del total
            yield within
            del within
        del x, exact


@program(exact=False)
def cancellation_in_variances(compile):
    x = random(4, 5000) + 1000
    f = compile(lambda x: (x.var(1), x.std(1), F.layer_norm(x, (5000,)).square().mean(1)))
    yield from calls(f, x)
    f = compile(lambda x: (x.var(1), torch.var_mean(x, 0), x.var(0).sqrt(), (x * 0 + 0.1).var(1)))
    yield from calls(f, random(40, 500) * 10 + 1e6)
    f = compile(lambda x: F.group_norm(x, 2))
    for x in (random(5, 4, 6), random(5, 4, 6).permute(2, 1, 0), random(2, 4, 3, 3).transpose(2, 3)):
        yield from calls(f, x)


@program(exact=False)
def gradients_at_special_points(compile):
    f = compile(lambda x: x.abs() + x.relu() + x.sqrt().nan_to_num() + x.clamp(0, 1) + x.sign() + torch.where(x > 0, x.log(),
                                                                                                              x) + x.norm())
    for values in ([0.0, 1.0, 4.0], [0.0, 1.0, 4.0], [-0.0, math.inf, 1.0], [0.0, 0.0, 0.0]):
        x = torch.tensor(values, requires_grad=True)
        yield backward(f(x))


@program
def booleans_as_numbers(compile):
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    yield from calls(compile(lambda a, b: (a + b, a * b, a & b, a ^ b, ~a, a.sum(), a.float().mean(), a * 2.5, a < b,
                                           a.int() - b.int(),
                                           torch.where(a, 1, 0), a.any(), a.all())), a, b)


@program(exact=False)
def double_precision_is_kept(compile):
    x = random(50, dtype=torch.float64)
    yield from calls(compile(lambda x: (x * 0.1 + 1e-17, x.exp() - 1, x.sum(), torch.tensor(0.1, dtype=torch.float64) * x,
                                        x.sin() ** 2)), x)


@program
def numbers_beside_float32(compile):
    f = compile(lambda x: (x * 0.1, x + 1e-9, x * 1e40, x / 1e-40, x > 0.1, x == 0.1, (x * 0.1) * 10 == x, x - 16777217))
    yield from calls(f, torch.tensor([0.1, 1.0, 3.0, 0.3, -0.0, 16777216.0]))


@program
def products_of_integers_with_float_factors(compile):
    """torch cuts the factors down to integers."""
    a, b, v = torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4), torch.arange(3)
    base = torch.ones(2, 4, dtype=torch.int64)
    f = compile(lambda a, b, v: (torch.addmm(base, a, b, beta=1.5, alpha=2.5), torch.addmv(base[:, 0], a, v, alpha=0.6),
                                 torch.addbmm(base, a[None], b[None], beta=0.6, alpha=2.0)))
    yield from calls(f, a, b, v)


@program(exact=False)
def variances_with_other_corrections(compile):
    f = compile(lambda x: (x.var(1, correction=0.5), torch.std_mean(x, 0, correction=1.3), x.var(correction=2)))
    yield from calls(f, random(5, 7))


@program
def limits_that_are_zeros(compile):
    x = torch.tensor([-1.0, 0.0, -0.0, 1.0, math.nan, -0.0, 2.0] * 6)

    @compile
    def f(x, k):
        return (x.clamp(min=0.0), x.clamp(max=-0.0), x.clamp(-k, k), F.relu6(x), F.hardtanh(x, 0.0, 1.0), x.clamp(x[1], x[2]),
                x.clamp_min(-0.0), torch.clip(x, -0.0, 1.0))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for k in (1.0, 1.0, 0.0, -0.0):
            yield f(x.to(dtype), k)


@program
def conjugates_within_ops(compile):
    yield from calls(compile(lambda x: torch.linalg.pinv(x) * 2), torch.complex(random(5, 5), random(5, 5, seed=1)))


@program(exact=False)
def variances_of_what_overflows(compile):
    f = compile(lambda x: (x.var(1), x.std(0), x.var(), torch.var_mean(x, 1)[0], F.batch_norm(x, None, None, training=True)))
    x = random(6, 20)
    large = x.clone()
    large[1, 3] = large[4, 0] = 3e38
    for t in (x, x * 1e20, large, x):
        yield f(t)
