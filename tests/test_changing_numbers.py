"""Numbers that change from call to call become inputs of the program: every kind of place they may stand in, what is computed
of them in Python, and what is asked of them. Each program is called with a twin of its own that runs eagerly; the count of
programs shows that new values cost no recording."""
from __future__ import annotations

import copy
import math
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import sqrt

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import smelt
from smelt.frontend.api import compiled_function
from smelt.frontend.guard import changing
from smelt.frontend.symbolic.symbols import Numbers, is_symbolic

from .common import programs

BIG = 3 ** 45  # beyond int64
FLOATS = (0.5, 0.25, -0.0, 0.1, math.inf, -1e-40, math.nan, 1e30, 3.0)
INTS = (3, 7, 0, -2, 1 << 40, 5, 1)


def x():
    return torch.linspace(-2.0, 3.0, 6)


def alike(a, b, place="result", signs=True):
    """Equal in structure, types, values and layout: floats bit for bit, but for NaN and, without `signs`, that of zeros."""
    assert type(a) is type(b), f"{place}: {type(a)} for {type(b)}"
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride(), a.requires_grad) == (b.dtype, b.shape, b.stride(), b.requires_grad), place
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{place}: {m}")
        if a.dtype.is_floating_point and signs:
            assert (a.signbit() == b.signbit()).logical_or(a.isnan()).all(), f"{place}: signs"
    elif isinstance(a, dict):
        assert list(a) == list(b), place
        for k in a:
            alike(a[k], b[k], f"{place}[{k!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for n, (p, q) in enumerate(zip(a, b)):
            alike(p, q, f"{place}[{n}]")
    elif isinstance(a, float):
        assert a == b and math.copysign(1, a) == math.copysign(1, b) or a != a and b != b, f"{place}: {a!r} for {b!r}"
    elif hasattr(a, "__dict__") and not isinstance(a, type):
        alike(vars(a), vars(b), place)
    else:
        assert a == b, f"{place}: {a!r} for {b!r}"


def outcome(f, *args, **kwargs):
    try:
        return f(*args, **kwargs)
    except Exception as e:
        return type(e), str(e)


def calls(function, arguments, count, **options):
    """The function compiled and as it is, called with each of the arguments: the same every time, with `count` programs."""
    compiled = smelt.compile(function, **options)
    for given in arguments:
        alike(outcome(compiled, *copy.deepcopy(given)), outcome(function, *copy.deepcopy(given)), f"{given}")
    assert len(programs(compiled)) == count, [str(p) for p in programs(compiled)]
    assert not compiled_function(compiled).fallbacks
    return compiled


# Places

@pytest.mark.parametrize("values", [FLOATS, INTS], ids=["float", "int"])
def test_argument(values):
    f = calls(lambda x, n: x * n + n, [(x(), n) for n in values], 2)
    assert compiled_function(f).recompilations == [f"<lambda>: n {values[0]!r} -> {values[1]!r}"]


def test_keyword_and_default():
    def f(x, *, scale=0.5, shift=1):
        return x * scale + shift
    compiled = smelt.compile(f)
    for scale, shift in ((0.5, 1), (0.7, 1), (0.9, 2), (0.1, 3), (0.3, 9)):
        alike(compiled(x(), scale=scale, shift=shift), f(x(), scale=scale, shift=shift))
    assert len(programs(compiled)) == 3
    alike(compiled(x()), f(x()))


Pair = namedtuple("Pair", "low high")


@dataclass
class Options:
    gain: float
    steps: int


@pytest.mark.parametrize("nest", [
    lambda n: {"lr": n, "name": "sgd"}, lambda n: [1.0, n], lambda n: (n, 2), lambda n: {"group": [{"lr": (n, 1)}]},
    lambda n: OrderedDict(lr=n, more=[n]), lambda n: Pair(n, 1.0), lambda n: Options(n, 3),
    lambda n: [Options(1.0, 2), Pair(0.0, [n])],
], ids=["dict", "list", "tuple", "nested", "ordered", "namedtuple", "dataclass", "mixed"])
def test_nested_arguments(nest):
    def numbers(part):
        if isinstance(part, (int, float)):
            return part
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else vars(part).values()
        return sum(numbers(p) for p in parts if not isinstance(p, str))

    def f(x, config):
        return x * numbers(config), config
    calls(f, [(x(), nest(n)) for n in (0.5, 0.25, 0.75, -0.0, math.inf)], 2)


def test_the_same_tuple_comes_back():
    f = smelt.compile(lambda x, pair: (x * pair[0], pair))
    for n in (0.5, 0.25, 0.125):
        pair = (n, "label")
        assert f(x(), pair)[1] is pair


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.power = nn.Linear(6, 6), 1.0, 2

    def forward(self, x):
        return self.linear(x.expand(2, 6)).relu() * self.scale / self.power


def test_module_attribute():
    module = Scaled()
    twin = copy.deepcopy(module)
    compiled = smelt.compile(module)
    for n in range(6):
        module.scale = twin.scale = 1.0 + 0.3 * n
        ours, theirs = compiled(x()), twin(x())
        torch.testing.assert_close(ours, theirs)
        for m, y in ((module, ours), (twin, theirs)):
            m.zero_grad()
            y.square().sum().backward()
        torch.testing.assert_close(module.linear.weight.grad, twin.linear.weight.grad)
        assert type(module.scale) is float
    assert len(programs(compiled)) == 2


def test_attribute_of_any_object():
    class Schedule:
        def __init__(self):
            self.value = 0.5

    schedule = Schedule()

    @smelt.compile
    def f(x):
        return x * schedule.value
    for n in (0.5, 0.25, 2.0, -0.0, math.nan):
        schedule.value = n
        alike(f(x()), x() * n)
        assert type(schedule.value) is float
    assert len(programs(f)) == 2


RATE = 0.5
CONFIG = {"rate": 0.5, "sizes": [1, 2, 3]}


def test_global():
    global RATE

    @smelt.compile
    def f(x):
        return x * RATE
    for n in (0.5, 0.75, 0.1, 8.0):
        RATE = n
        alike(f(x()), x() * n)
        assert type(RATE) is float
    assert len(programs(f)) == 2


def test_entries_of_a_global_dict_and_list():
    @smelt.compile
    def f(x):
        return x * CONFIG["rate"] + CONFIG["sizes"][1]
    for n in range(6):
        CONFIG["rate"], CONFIG["sizes"][1] = n / 7, n
        alike(f(x()), x() * (n / 7) + n)
        assert type(CONFIG["rate"]) is float and type(CONFIG["sizes"][1]) is int
    assert len(programs(f)) == 2


def test_closure_cell():
    n = 0.5

    @smelt.compile
    def f(x):
        return x * n
    for k in range(6):
        n = 0.5 + k
        alike(f(x()), x() * n)
        assert type(n) is float
    assert len(programs(f)) == 2


def test_method_of_an_instance():
    class Stepper:
        def __init__(self, rate):
            self.rate = rate

        @smelt.compile
        def step(self, x):
            return x - self.rate * x.sum()
    stepper = Stepper(0.5)
    for k in range(5):
        stepper.rate = 0.5 + k
        torch.testing.assert_close(stepper.step(x()), x() - (0.5 + k) * x().sum())
    method = stepper.step.__func__
    assert len(method.programs) == 2


# Optimisers

def sgd(parameters, gradients, group):
    for p, g in zip(parameters, gradients):
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(g, alpha=-group["lr"])


def adam(parameters, gradients, group):
    group["step"] += 1
    beta1, beta2 = group["betas"]
    for p, g, m, v in zip(parameters, gradients, group["m"], group["v"]):
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        corrected = (v / (1 - beta2 ** group["step"])).sqrt_().add_(group["eps"])
        p.addcdiv_(m, corrected, value=-group["lr"] / (1 - beta1 ** group["step"]))


@pytest.mark.parametrize("update", [sgd, adam])
def test_a_scheduler_costs_no_recording(update):
    def fresh():
        torch.manual_seed(0)
        parameters = [torch.randn(4, 3), torch.randn(3)]
        state = {"m": [torch.zeros_like(p) for p in parameters], "v": [torch.zeros_like(p) for p in parameters]}
        return parameters, {"lr": 0.1, "weight_decay": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "step": 0, **state}
    ours, theirs, compiled = fresh(), fresh(), smelt.compile(update)
    for k in range(8):
        for (parameters, group), step in ((ours, compiled), (theirs, update)):
            group["lr"], group["betas"] = 0.1 * 0.9 ** k, (0.9 - 0.01 * k, 0.99)
            step(parameters, [p.cos() for p in parameters], group)
        for a, b in zip(ours[0], theirs[0]):
            torch.testing.assert_close(a, b)
        assert ours[1]["step"] == theirs[1]["step"] and type(ours[1]["step"]) is int
    assert len(programs(compiled)) == 2 and not compiled_function(compiled).fallbacks


# What is computed

@pytest.mark.parametrize("expression", [
    lambda n, k: n * 2.0 + 1, lambda n, k: 1 - n * 0.01, lambda n, k: -n / 3, lambda n, k: n ** 2, lambda n, k: abs(n) + k,
    lambda n, k: n // 0.3, lambda n, k: n % 0.3, lambda n, k: k // 3, lambda n, k: -k % 5, lambda n, k: 2.0 ** n,
    lambda n, k: n if n > -10 else k, lambda n, k: sum([n, k, n]), lambda n, k: n * k - k * n, lambda n, k: +k,
    lambda n, k: k << 2, lambda n, k: k & 6 | 1, lambda n, k: 10 - k, lambda n, k: (n + 1) * (n + 1) * (n + 1),
    lambda n, k: k / 3, lambda n, k: True * k,
])
def test_arithmetic(expression):
    def f(x, n, k):
        return x * expression(n, k), expression(n, k)
    numbers = zip((0.5, 0.25, 0.7, 3.25, 0.1, 0.9), (3, 5, 7, 11, 13, 17))
    calls(f, [(x(), n, k) for n, k in numbers], 2)


def test_deep_arithmetic_stays_small():
    """What is computed of one number, over and over, is as many lines as operations."""
    def f(x, n):
        for _ in range(200):
            n = n * n * 0.5 + 0.25
        return x * n
    calls(f, [(x(), n) for n in (0.5, 0.25, 0.3, 0.1)], 2)


def test_comparisons_that_flip():
    def f(x, n):
        if n > 1:
            return x * n
        if n == 0:
            return x - 1
        return x + n
    f = calls(f, [(x(), n) for n in (0.5, 0.25, 2.0, 3.0, 0.0, -0.0, 0.75, 7.0)], 4)
    assert compiled_function(f).recompilations[1:] == ["f: n > 1 False -> True", "f: n > 1 True -> False"]


def test_minimum_and_maximum():
    calls(lambda x, n: x * max(0.1, n) + min(n, 2.0), [(x(), n) for n in (0.5, 0.25, 0.05, 3.0, 0.01, 0.7, 5.0)], 4)


def test_functions_of_math_cost_no_recording():
    def f(x, n, k):
        return x * math.cos(math.pi * k / 10) + math.exp(-n) + math.log(n, 2) + sqrt(n) + math.floor(n) * math.hypot(n, k)
    values = [(0.5, 1), (0.25, 2), (3.75, 7), (-1.0, 3), (0.0, 1), (math.inf, 4), (1e-300, 0), (2.0, 12)]
    calls(f, [(x(), n, k) for n, k in values], 2)
    calls(lambda x, n: x if math.isfinite(n) else x * 2, [(x(), n) for n in (0.5, 0.25, math.inf, 3.0, math.nan, 1.0)], 3)


def test_rounding_costs_no_recording():
    calls(lambda x, n: x * int(n) + round(n) + round(n, 1) - divmod(n, 1.5)[1] + divmod(9, n + 4)[0],
          [(x(), n) for n in (0.5, 1.5, 2.25, -0.75, 1e9, 7)], 3)


def test_what_asks_for_the_value_fixes_it():
    for function in (lambda x, n: x + len(f"{n:.1f}"), lambda x, n: x * [1.0, 2.0, 3.0, 4.0][int(n)],
                     lambda x, n: x * {0.5: 3, 1.5: 4, 2.5: 5}.get(n, 7)):
        calls(function, [(x(), n) for n in (0.5, 1.5, 2.5, 0.5, 1.5, 2.5, 1.5)], 3)


def test_only_read():
    """A number that reaches nothing: any value fits."""
    calls(lambda x, n: x + 1, [(x(), n) for n in (0.5, 0.25, 0.1, math.nan)], 2)


def test_returned_alone():
    def f(x, n, k):
        return {"scaled": x * 2, "n": n, "all": [n * 2, (k, k + 1)], "pair": Pair(n, k), "options": Options(n, k)}
    calls(f, [(x(), n, k) for n, k in ((0.5, 1), (0.25, 2), (-0.0, 3), (math.inf, BIG), (math.nan, -1))], 2)


def test_other_kinds_of_numbers():
    """What NumPy, fractions and decimals make of a number is theirs to say: the number is fixed."""
    single = numpy.ones(2, numpy.float32)
    for function in (lambda x, n: x * float((single * n)[0]), lambda x, n: x * float(numpy.float64(2) * n),
                     lambda x, n: x * float(Fraction(1, 2) * n), lambda x, n: x * float(Decimal(n)),
                     lambda x, n: (x * 2, single * n), lambda x, n: (x * 2, complex(n) * 1j)):
        compiled = smelt.compile(function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for n in (0.5, 1.5, 2.5):
                ours, theirs = compiled(x(), n), function(x(), n)
                if isinstance(ours, tuple) and isinstance(ours[1], numpy.ndarray):
                    assert ours[1].dtype == theirs[1].dtype and (ours[1] == theirs[1]).all()
                else:
                    alike(ours, theirs)


def test_negative_base_and_powers():
    calls(lambda x, k: (x, 2 ** k, k ** 2), [(x(), k) for k in (1, 2, 3, -1, -2, 4)], 3)
    calls(lambda x, n: (x, n ** 0.5), [(x(), n) for n in (1.0, 2.0, -3.0, 4.0)], 3)


def test_exceptions():
    calls(lambda x, n: x * (1 / n), [(x(), n) for n in (2.0, 3.0, 0.0, 4.0, 0.0)], 2)
    calls(lambda x, n: x * 10.0 ** n, [(x(), n) for n in (2.0, 3.0, 400.0, 4.0)], 2)

    def caught(x, n):
        try:
            return x * (1 / n)
        except ZeroDivisionError:
            return x + 1
    calls(caught, [(x(), n) for n in (2.0, 3.0, 0.0, 4.0, 0.0, 5.0)], 3)


# What torch makes of them

TENSORS = {
    "f32": lambda: x(), "f64": lambda: x().double(), "f16": lambda: x().half(), "bf16": lambda: x().bfloat16(),
    "i64": lambda: torch.arange(6), "i32": lambda: torch.arange(6, dtype=torch.int32),
    "u8": lambda: torch.arange(6, dtype=torch.uint8), "bool": lambda: x() > 0, "scalar": lambda: torch.tensor(1.5),
    "scalar int": lambda: torch.tensor(3)}
OPS = {
    "add": lambda t, n: t + n, "radd": lambda t, n: n + t, "sub": lambda t, n: t - n, "rsub": lambda t, n: n - t,
    "mul": lambda t, n: t * n, "div": lambda t, n: t / n, "rdiv": lambda t, n: n / t, "floordiv": lambda t, n: t // n,
    "mod": lambda t, n: t % n, "gt": lambda t, n: t > n, "eq": lambda t, n: n == t,
    "where": lambda t, n: torch.where(t > 0, t, n), "clamp": lambda t, n: t.clamp(min=n),
    "clamp2": lambda t, n: t.clamp(n, n + 1), "alpha": lambda t, n: torch.add(t, t, alpha=n),
    "sub alpha": lambda t, n: torch.sub(t, t, alpha=n), "full": lambda t, n: torch.full((2,), n),
    "full_like": lambda t, n: torch.full_like(t, n), "fill": lambda t, n: t.clone().fill_(n),
    "setitem": lambda t, n: (t.clone().reshape(-1).__setitem__(0, n), t)[1], "masked_fill": lambda t, n: t.masked_fill(t > 0, n),
    "mul_": lambda t, n: t.clone().mul_(n), "pow": lambda t, n: t ** n, "rpow": lambda t, n: n ** t,
    "lerp": lambda t, n: torch.lerp(t, t * 2, n), "tensor": lambda t, n: t + torch.tensor(n),
    "leaky": lambda t, n: F.leaky_relu(t, n), "addcdiv": lambda t, n: torch.addcdiv(t, t, t + 9, value=n),
    "addcmul": lambda t, n: torch.addcmul(t, t, t, value=n), "maximum": lambda t, n: torch.clamp_min(t, n),
    "fmod": lambda t, n: torch.fmod(t, n), "elu": lambda t, n: F.elu(t, n), "hardtanh": lambda t, n: F.hardtanh(t, -1.0, n),
    "threshold": lambda t, n: F.threshold(t, n, 0.5), "foreach": lambda t, n: torch._foreach_mul([t, t], n),
    "sort": lambda t, n: (t * n).sort(-1).values, "complex": lambda t, n: t * 1j * n}

#: The larger of 0.0 and -0.0 is either, in eager too: it depends on the place in a vector.
UNSIGNED = {"clamp", "clamp2", "maximum"}


@pytest.mark.parametrize("tensor", TENSORS)
def test_promotion_and_range(tensor, monkeypatch):
    """As torch takes a Python number, for every op and dtype; out of range too, where torch wraps or raises.

    What errors hold of numbers is not looked for: among all objects of the process, that takes longer than all else here.
    """
    monkeypatch.setattr(changing, "referrers", lambda objects: [])
    for op, plain in OPS.items():
        for values in ((0.5, -0.0, 0.1, -1e-40, 1e30, math.nan), (3, -2, 7, 300, 1 << 40)):
            compiled, t = smelt.compile(plain, backend="eager"), TENSORS[tensor]()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for n in values:
                    ours, theirs = outcome(compiled, t.clone(), n), outcome(plain, t.clone(), n)
                    alike(ours, theirs, f"{op} {n}", signs=op not in UNSIGNED)


#: Ops whose rules need a number's value.
FIXED = {"pow", "rpow", "masked_fill", "leaky", "elu", "hardtanh", "threshold", "foreach", "complex"}


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("values", [FLOATS, INTS], ids=["float", "int"])
def test_rounding_in_kernels(tensor, values):
    """All ops at once in generated code, with one program for all values."""
    def fits(f, n):
        return not isinstance(outcome(f, TENSORS[tensor](), n), tuple)
    values = [n for n in values if fits(OPS["fill"], n) and n] if tensor in ("i64", "i32", "u8", "scalar int") else [
        n for n in values if fits(OPS["full_like"], n)]
    ops = {name: f for name, f in OPS.items() if name not in FIXED and all(fits(f, n) for n in values)}
    assert len(ops) > 10

    def f(t, n):
        return {name: op(t, n) for name, op in ops.items()}
    compiled = smelt.compile(f)
    for n in values:
        ours, theirs = compiled(TENSORS[tensor](), n), f(TENSORS[tensor](), n)
        for name in ops:
            alike(ours[name], theirs[name], f"{name} {n}", signs=name not in UNSIGNED)
    assert len(programs(compiled)) <= 4 or tensor == "u8"  # add with alpha == 1 is another op; u8 has no room for -alpha


@pytest.mark.parametrize("op", ["add", "rsub", "mul", "div", "rdiv", "where", "clamp", "alpha", "lerp", "addcdiv", "addcmul",
                                "pow", "rpow", "leaky", "mod", "fmod", "masked_fill", "mul_", "elu", "hardtanh"])
def test_gradients(op):
    """Of the recorded run and of later ones, for what autograd keeps of the number."""
    f, compiled = OPS[op], smelt.compile(OPS[op])
    for n in (0.5, 0.25, 0.75, 1.25):
        found = []
        for g in (compiled, f):
            t = torch.linspace(0.5, 3.0, 6, requires_grad=True)
            g(t, n).square().sum().backward()
            found.append(t.grad)
        torch.testing.assert_close(*found)


def test_sizes_and_indices():
    calls(lambda x, k: x[k] + x[:k].sum(), [(x(), k) for k in (1, 2, 3, 1, 4, 3)], 2)
    calls(lambda x, k: torch.zeros(k, 2) + k, [(x(), k) for k in (1, 2, 3, 2, 1, 9)], 2)
    calls(lambda x, k: x.sum(k), [(torch.ones(2, 3), k) for k in (0, 1, -1, 0)], 3)
    calls(lambda x, k: sum(x * i for i in range(k)), [(x(), k) for k in (2, 3, 4, 3)], 3)


@pytest.mark.parametrize("function", [
    lambda x, n: x[:n] * 2, lambda x, n: x[n:] + n, lambda x, n: x[-n:] * 2, lambda x, n: torch.arange(n, 2 * n) * 2,
    lambda x, n: torch.arange(n, n + 3) * 2, lambda x, n: torch.zeros(n, 3).tril(n - 2) + x[:3],
    lambda x, n: x.narrow(0, 1, n).expand(n, n) + x[n], lambda x, n: F.pad(x, (n, 0)).unflatten(0, (1, n + 40))[:, :n],
    lambda x, n: x.tril(n) if n > 50 else torch.cat([x[:n], x.new_ones(n - 1)]), lambda x, n: x[:n] if x[:n].sum() > -99 else n])
def test_lengths(function):
    wide = torch.arange(40.)
    calls(function, [(wide, n) for n in (2, 4, 6, 16, 18, 4)], 2)


@pytest.mark.parametrize("function", [
    lambda x, i, n: x[i * n:(i + 1) * n] * 2, lambda x, i, n: x[2 * n:3 * n] + i, lambda x, i, n: x[i * 3:i * 3 + n] * 2])
def test_lengths_at_places(function):
    wide = torch.arange(90.).reshape(30, 3)
    calls(function, [(wide, i, n) for i, n in ((0, 2), (1, 4), (0, 6), (1, 10), (1, 3))], 2)


def test_nothing_may_lie_anyhow():
    calls(lambda n: torch.tril_indices(n, n) + 1, [(0,), (0,)], 1)


def test_lengths_in_state():
    class Cache:
        def __init__(self):
            self.n, self.seen = 0, torch.zeros(40, 3)

        def add(self, x):
            self.seen[self.n] = x
            self.n += 1
            return self.seen[:self.n].sum(0)
    cache, plain = Cache(), Cache()
    compiled = smelt.compile(cache.add)
    for k in range(12):
        alike(compiled(torch.ones(3) * k), plain.add(torch.ones(3) * k), str(k))
    assert cache.n == plain.n and len(programs(compiled)) == 3


def test_lengths_with_gradients():
    weight = torch.arange(60.).reshape(20, 3).requires_grad_()
    step = smelt.compile(lambda x, n: (weight[:n] * x * torch.arange(n)[:, None]).sum())
    for n in (2, 3, 7, 20):
        x = torch.arange(3.).requires_grad_()
        step(x, n).backward()
        want = torch.autograd.grad((weight[:n] * x * torch.arange(n)[:, None]).sum(), (x, weight))
        alike((x.grad, weight.grad), want, str(n))
        weight.grad = None
    assert len(programs(step)) == 2


def test_numbers_that_are_no_lengths_leave_sizes_alone():
    calls(lambda x, n: sum(x * k for k in range(n)), [(torch.ones(m), n) for m, n in ((4, 3), (5, 4), (6, 4), (7, 4), (8, 4))], 2)


def test_big_integers():
    calls(lambda x, k: x[:k] * 2, [(x(), k) for k in (2, 3, BIG, -BIG, 4)], 4)
    calls(lambda x, k: (x * (k % 7), k * k), [(x(), k) for k in (BIG, BIG + 1, -BIG, 3, BIG * 5)], 2)
    calls(lambda x, k: x * k, [(x(), k) for k in (1, 2, BIG, 3, BIG)], 2)


def test_random_numbers():
    def f(x, p):
        return F.dropout(x, p) * p
    compiled = smelt.compile(f)
    for p in (0.5, 0.25, 0.75, 0.25):
        found = []
        for g in (compiled, f):
            torch.manual_seed(3)
            found.append(g(x(), p))
        alike(*found)


# State

def test_state_written_with_a_number():
    class Model:
        def __init__(self):
            self.rate, self.last, self.seen, self.count = 0.5, 0.0, {}, 0

        def __call__(self, x):
            self.last = self.rate * 2
            self.count += 1
            self.seen["last"] = self.rate * self.count
            return x * self.last
    ours, theirs = Model(), Model()
    compiled = smelt.compile(ours)
    for k in range(7):
        ours.rate = theirs.rate = 0.5 + k
        alike(compiled(x()), theirs(x()))
        alike(ours, theirs)
    assert len(programs(compiled)) == 2


def test_no_stand_in_is_left_behind():
    """Neither in what a run keeps nor in what it returns, also where it can't be compiled or raises."""
    kept = []

    def f(x, n, fail):
        kept.append([n, {"n": (n, n * 2)}])
        if fail == "item":
            print(end=str(x.sum().item())[:0])
        if fail == "raise":
            raise ValueError("no")
        return x * n, [n]

    def symbols(part):
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
        return is_symbolic(part) or any(map(symbols, parts))
    for fail in ("", "item", "raise"):
        compiled = smelt.compile(f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for n in (0.5, 0.25, 0.125):
                result = outcome(compiled, x(), n, fail)
                assert not symbols(result if fail != "raise" else None) and not symbols(kept)
                alike(kept[-1], [n, {"n": (n, n * 2)}])


def test_places_are_as_before_after_an_exception():
    config = {"n": 0.5, "bad": False}

    @smelt.compile
    def f(x):
        y = x * config["n"]
        if config["bad"]:
            raise KeyError("bad")
        return y
    f(x())
    config.update(n=0.25, bad=True)
    with pytest.raises(KeyError):
        f(x())
    assert type(config["n"]) is float and config["n"] == 0.25
    config.update(bad=False)
    for n in (0.1, 0.2, 0.3):
        config["n"] = n
        alike(f(x()), x() * n)


def test_code_that_looks_at_types():
    """Code that does no more with `type` than to call it gets float for a symbolic number; other code gets plain numbers."""
    calls(lambda x, n: x * n if type(n) is float else x, [(x(), n) for n in (0.5, 0.25, 0.125)], 2)
    calls(lambda x, n: x * n if [*map(type, [n])] == [float] else x, [(x(), n) for n in (0.5, 0.25, 0.125)], 3)


def _where_it_is_asked(x, n, kinds):
    if type(x) in kinds:
        return x * n
    raise TypeError(f"no tensor but a {type(x)}")


def test_code_that_looks_at_types_of_tensors_alone():
    """A tensor that is given is itself: numbers may be symbols, also where the type of one is asked under a condition."""
    kinds = {torch.Tensor}
    calls(lambda x, n: _where_it_is_asked(x, n, kinds), [(x(), n) for n in (0.5, 0.25, 0.125, 2.0)], 2)
    calls(lambda x, n: x * n if n < 1 or type(n) is float else x, [(x(), n) for n in (0.5, 0.25, 2.0, 3.0)], 3)
    calls(lambda x, n: x * n if n < 1 or isinstance(n, type) else x, [(x(), n) for n in (0.5, 0.25, 2.0, 3.0)], 3)


def test_int_and_float_are_two_programs():
    calls(lambda x, n: (x * n, n), [(x(), n) for n in (1, 2, 3, 1.0, 2.0, 3.0, 4, 4.0)], 3)
    calls(lambda x, n: (x * n, n), [(x(), n) for n in (True, False, 2, 3, True, 4)], 4)


def test_values_that_c_code_takes_no_stand_in_for():
    import json

    def f(x, n):
        return x * 2, json.dumps({"n": n})
    calls(f, [(x(), n) for n in (0.5, 0.25, 0.125, 0.25)], 3)


def test_another_thread_sees_a_number():
    """Another thread that reads a place in which a stand-in lies computes with its value and leaves no trace."""
    import threading
    numbers = Numbers()
    n, found = numbers.given(0.5, "n"), []
    thread = threading.Thread(target=lambda: found.extend([n * 2, n > 0.25, float(n), -n]))
    thread.start()
    thread.join()
    alike(found, [1.0, True, 0.5, -0.5])
    assert not numbers.asked and not numbers.lines


def test_places_of_a_rectangle_that_are_drawn_cost_few_programs():
    """Cutmix, in whole: numbers that NumPy draws and computes are the sizes, the places and a factor."""
    images, labels = torch.randn(4, 3, 12, 10), torch.randint(5, (4,))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 5))

    @smelt.compile
    def step():
        share = numpy.random.beta(1.0, 1.0)
        h, w = int(12 * numpy.sqrt(1 - share)), int(10 * numpy.sqrt(1 - share))
        i, j = numpy.random.randint(12), numpy.random.randint(10)
        top, left = numpy.clip(i - h // 2, 0, 12), numpy.clip(j - w // 2, 0, 10)
        bottom, right = numpy.clip(i + h // 2, 0, 12), numpy.clip(j + w // 2, 0, 10)
        order, mixed = torch.randperm(4), images.clone()
        mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (images.shape[-1] * images.shape[-2])
        found = net(mixed)
        return F.cross_entropy(found, labels) * kept + F.cross_entropy(found, labels[order]) * (1.0 - kept)
    numpy.random.seed(0)
    for _ in range(40):
        step().backward()
    report = smelt.explain(step)
    assert report.compiled and not report.limits and len(report.recompilations) <= 12, str(report)
