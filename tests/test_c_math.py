"""Accuracy of the mathematical functions over float32's whole range, against float64."""
import ctypes

import numpy as np
import pytest
import torch

from smelt.codegen.c.isa import host
from smelt.codegen.c.printer import print_source
from smelt.codegen.loops import Apply, Axis, Buffer, Kernel, Load, Store
from smelt.compiler.dims import Sym, sym
from smelt.runtime.build import compile_shared, toolchain

ISAS = {"avx512": ["avx512", "avx2", "scalar"], "avx2": ["avx2", "scalar"], "neon": ["neon", "scalar"],
        "scalar": ["scalar"]}[host()]
LIMIT = 4.0  # units in the last place


def erf(x):
    return torch.erf(torch.from_numpy(x)).numpy()


FUNCTIONS = {"exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
             "erf": erf}
#: Functions that are as exact as numbers beside 1 are.
DISTRIBUTIONS = {"normal_cdf": lambda x: (erf(x * 0.5 ** 0.5) + 1) / 2,
                 "tanh_cdf": lambda x: (np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)) + 1) / 2}
EDGES = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 9.01,
                  88.72283, 88.72284, -87.33655, -103.97208, -103.97209, 0.34657359, 0.70710677, 0.97, 4.05,
                  2.0 ** 28, 2.0 ** 29], np.float32)


def patterns(count):
    """`count` floats over all bit patterns, as many near 0, and the edges."""
    bits = np.linspace(0, 2 ** 32 - 1, count).astype(np.uint64).astype(np.uint32)
    return np.concatenate([bits.view(np.float32), np.linspace(-20, 20, count, dtype=np.float32), EDGES])


@pytest.fixture(scope="module", params=ISAS)
def run(request, tmp_path_factory):
    """run(function, operands) -> the generated function's float32 results."""
    count = 1 << 14
    axis, index = Axis(Sym("i", 0, count - 1), count), sym("i", 0, count - 1)

    def kernel(name, arity, dtype=torch.float32):
        operands = [f"x{k}" for k in range(arity)]
        buffers = tuple(Buffer(n, k, dtype, count) for k, n in enumerate([*operands, "out"]))
        loads = [Load(f"v{k}", n, index, dtype) for k, n in enumerate(operands)]
        return Kernel("apply_" + name, (axis,), buffers, (*loads, Apply("y", name, tuple(s.name for s in loads), dtype),
                                                          Store("out", index, "y")))

    kernels = [(n, kernel(n, 1)) for n in (*FUNCTIONS, *DISTRIBUTIONS)]
    kernels += [("pow", kernel("pow", 2)), ("exp_long", kernel("exp", 1, torch.float64))]
    source = print_source("math", [(n + "_", [(k, tuple(range(len(k.buffers))))]) for n, k in kernels], (), request.param)
    path = tmp_path_factory.mktemp("math") / "math.c"
    path.write_text(source)
    compile_shared(path, path.with_suffix(".so"), toolchain())
    library = ctypes.CDLL(str(path.with_suffix(".so")))

    def apply(name, *operands):
        padded = [np.concatenate([x, np.ones(-len(x) % count, x.dtype)]) for x in operands]
        out = np.empty_like(padded[0])
        function = getattr(library, name + "_")
        function.argtypes = (ctypes.c_void_p, ctypes.c_long)
        for start in range(0, len(out), count):
            slots = [a[start:].ctypes.data for a in (*padded, out)]
            assert function((ctypes.c_void_p * len(slots))(*slots), 1) == 0
        return out[:len(operands[0])]
    return apply


def errors_in_ulp(got, exact):
    """Distance from the float64 result in units of the float32 one; infinite where NaN, infinity or sign differ."""
    with np.errstate(over="ignore", invalid="ignore"):
        want = exact.astype(np.float32)
        unit = np.maximum(np.spacing(np.abs(want)), np.float32(1e-45)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / unit
    same = (np.isnan(want) & np.isnan(got)) | (np.isinf(want) & (want == got))
    error[same] = 0
    error[(np.isnan(want) != np.isnan(got)) | (~same & (np.isinf(want) | np.isinf(got)))] = np.inf
    error[~np.isnan(want) & (np.signbit(want) != np.signbit(got))] = np.inf
    return error


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_operand(run, name):
    x = patterns(300_000)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](x.astype(np.float64))
    error = errors_in_ulp(run(name, x), exact)
    worst = error.argmax()
    assert error[worst] <= LIMIT, f"{name}({x[worst]!r}) is off by {error[worst]} ulp"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(run, name):
    x = np.concatenate([patterns(300_000), np.linspace(-7, 7, 300_000, dtype=np.float32)])
    with np.errstate(all="ignore"):
        exact = DISTRIBUTIONS[name](x.astype(np.float64))
    got = run(name, x)
    assert np.array_equal(np.isnan(got), np.isnan(x))
    error = np.abs(got - exact)[~np.isnan(x)]
    assert error.max() <= 2.0 ** -23, f"{name} is off by {error.max()}"
    assert (got[x >= 6] == 1).all() and (got[x <= -6] == 0).all()
    assert (got[np.abs(x) < 1e-9] == 0.5).all()


def test_exp_of_float64(run):
    x = np.concatenate([np.linspace(-760, 720, 200_001), np.linspace(-1, 1, 100_000), EDGES.astype(np.float64),
                        [709.782712893384, 709.7827128933841, -745.1332191019411, -745.1332191019412, -708.4, 5e-324]])
    got = run("exp_long", x)
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.longdouble))
        want = exact.astype(np.float64)
        error = np.abs(got - exact) / np.maximum(np.spacing(want), 5e-324)
    normal = np.isfinite(want)
    assert np.array_equal(got[~normal], want[~normal], equal_nan=True)
    assert error[normal].max() <= 2, f"exp({x[normal][error[normal].argmax()]!r}) is off by {error[normal].max()} ulp"


def test_pow(run):
    rng = np.random.default_rng(0)
    special = np.concatenate([EDGES, np.array([2, 3, -2, -3, 0.5, -0.5, 1 / 3, 16777215, 16777216, -16777215], np.float32)])
    grid = np.meshgrid(special, special)
    bits = rng.integers(0, 2 ** 32, (2, 200_000), dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = (np.exp(rng.normal(0, 3, 200_000)).astype(np.float32), rng.normal(0, 10, 200_000).astype(np.float32))
    close = (1 + rng.normal(0, 1e-4, 100_000).astype(np.float32), rng.normal(0, 1e5, 100_000).astype(np.float32))
    x, y = (np.concatenate([grid[k].ravel(), bits[k], usual[k], close[k]]).astype(np.float32) for k in (0, 1))
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    error = errors_in_ulp(run("pow", x, y), exact)
    worst = error.argmax()
    assert error[worst] <= 1.0, f"pow({x[worst]!r}, {y[worst]!r}) is off by {error[worst]} ulp"
