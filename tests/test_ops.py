"""Every op record, held against torch: type, scalar meaning, gradient, decomposition, coordinates and imports."""
from __future__ import annotations

import functools
import itertools
from math import inf, nan

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import smelt.compiler.ops  # noqa: F401  (fills the tables)
from scalar_reference import EXACT, TorchScalars, compute
from smelt.codegen.interpret import SCANS
from smelt.compiler.builder import Builder
from smelt.compiler.dims import Sym, expr, expr_of
from smelt.compiler.evaluate import evaluate
from smelt.compiler.ir import TensorType, TupleType
from smelt.compiler.op import ATEN, OPS, WRITES
from smelt.compiler.ops.core import call_backward, given_type
from smelt.compiler.scalar import arithmetic_dtype
from smelt.compiler.verify import verify

#: ops whose type only the place that emits them knows: they have no rules to test
MACHINERY = {name for name, op in OPS.items() if op.type is given_type} | {"item"}
TESTED = sorted(set(OPS) - MACHINERY)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)
EPS = {d: torch.finfo(d).eps for d in FLOATS}


def of_kind(*kinds):
    return pytest.mark.parametrize("name", [n for n in TESTED if OPS[n].kind in kinds])


def having(rule):
    return pytest.mark.parametrize("name", [n for n in TESTED if getattr(OPS[n], rule) is not None])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Building and running one op

def type_of(x: torch.Tensor) -> TensorType:
    return TensorType(tuple(x.shape), x.dtype, x.device)


def tensors_of(inputs):
    return [i for i in inputs if isinstance(i, torch.Tensor)]


def emitted(name, inputs, attrs):
    """A builder with the op's tensors as inputs, and the op's value."""
    b = Builder()
    operands = [b.input(f"x{k}", type_of(i)) if isinstance(i, torch.Tensor) else i for k, i in enumerate(inputs)]
    return b, b.emit(name, *operands, **attrs)


def results_of(x):
    return list(x) if isinstance(x, (tuple, list)) else [x]


def converted(inputs, dtype):
    """The inputs with float tensors in another dtype (but indices and conditions as they are)."""
    return tuple(i.to(dtype) if isinstance(i, torch.Tensor) and i.is_floating_point() else i for i in inputs)


def variants(name):
    """(label, inputs, attrs) of every sample in every dtype, and with two float dtypes mixed where promotion is the op's own."""
    for k, (inputs, attrs) in enumerate(OPS[name].samples()):
        yield f"sample {k}", inputs, attrs
        for dtype in DTYPES[1:]:
            yield f"sample {k} in {dtype}", converted(inputs, dtype), attrs
        if len(tensors_of(inputs)) > 1 and OPS[name].kind == "pointwise" and not name.endswith("_backward"):
            yield f"sample {k} mixed", (*converted(inputs[:1], torch.bfloat16), *inputs[1:]), attrs


def accepted(name, inputs, attrs):
    """torch's result, or None where torch refuses these dtypes."""
    try:
        return OPS[name].meaning(*inputs, **attrs)
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return None


def differs(ours, real, exact, slack):
    if not real.is_floating_point():
        return ours != real
    if exact:
        return ((ours != real) | (torch.signbit(ours) != torch.signbit(real))) & ~(ours.isnan() & real.isnan())
    return ~torch.isclose(ours, real, rtol=slack * EPS[real.dtype], atol=slack * EPS[real.dtype], equal_nan=True)


def close(ours, real, exact=False, what="", slack=8.0, operands=(), excused=False):
    """Equal: to the last bit (signs of zeros too) if `exact`, integers always; else within `slack` epsilons.

    `operands` are shown where they differ; `excused` marks elements that may.
    """
    wrong = differs(ours, real, exact, slack) & ~torch.as_tensor(excused)
    at = wrong.nonzero()[:6].tolist()
    cases = [f"{[t[tuple(i)].item() for t in operands]} {ours[tuple(i)].item()} is not {real[tuple(i)].item()}" for i in at]
    assert not at, f"{what}: {int(wrong.sum())} of {wrong.numel()} differ\n" + "\n".join(cases)


# Samples and types

@pytest.mark.parametrize("name", TESTED)
def test_has_samples_and_says_what_it_is(name):
    op = OPS[name]
    assert op.samples is not None, f"{name} has no samples"
    assert op.doc and "\n" not in op.doc
    count = 0
    for inputs, attrs in op.samples():
        op.meaning(*inputs, **attrs)
        count += 1
    assert count


@pytest.mark.parametrize("name", TESTED)
def test_type_is_torchs(name):
    for label, inputs, attrs in variants(name):
        real = accepted(name, inputs, attrs)
        if real is None:
            continue
        _, v = emitted(name, inputs, attrs)
        types = v.type.items if isinstance(v.type, TupleType) else [v.type]
        real = results_of(real)
        assert len(types) == len(real), label
        for t, r in zip(types, real):
            if isinstance(r, torch.Tensor):
                assert (t.shape, t.dtype) == (tuple(r.shape), r.dtype), f"{label}: {t.shape} {t.dtype} is not {r.shape} {r.dtype}"


# Scalar meaning

SPECIAL = {torch.bool: [False, True], torch.uint8: [0, 1, 2, 3, 7, 100, 255],
           **{d: [torch.finfo(d).min, -inf, -3.0, -2.5, -1.0, -0.5, -torch.finfo(d).tiny, -0.0, 0.0, torch.finfo(d).tiny, 0.1,
                  0.5, 1.0, 1.5, 3.0, 7.3, torch.finfo(d).max, inf, nan] for d in FLOATS},
           **{d: [-torch.iinfo(d).max, -100, -7, -3, -1, 0, 1, 2, 5, 100, torch.iinfo(d).max]
              for d in (torch.int64, torch.int32)}}


def random_values(dtype, count):
    return (torch.randn(count, dtype=torch.float64) * 3).to(dtype).tolist()


def enriched(inputs, dtype):
    """The operands as all combinations of special values of a dtype (a part of them where there are many)."""
    fixed = [i for i in inputs if isinstance(i, torch.Tensor)]
    kinds = [SPECIAL[dtype if i.is_floating_point() or i.dtype == torch.int64 else i.dtype] for i in fixed]
    rows = list(itertools.product(*kinds))
    rows = rows[::max(1, len(rows) // 2000)]
    rows += zip(*(random_values(dtype, 300) for _ in fixed)) if dtype.is_floating_point else []
    rows += rows[-1:] * (-len(rows) % 128)  # whole vectors: no elements are left over for torch's scalar code
    columns = iter(zip(*rows))
    return tuple(torch.tensor(next(columns), dtype=dtype if i.is_floating_point() or i.dtype == torch.int64 else i.dtype)
                 if isinstance(i, torch.Tensor) else i for i in inputs)


def without_zero_divisors(name, inputs, attrs):
    """Where torch raises for an integer division by zero, so must the scalar meaning; then the same with ones."""
    try:
        OPS[name].meaning(*inputs, **attrs)
    except RuntimeError as e:
        if "ZeroDivision" in str(e):
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                compute(emitted(name, inputs, attrs)[1], inputs)
            return tuple(i.masked_fill(i == 0, 1) if isinstance(i, torch.Tensor) else i for i in inputs)
    except (TypeError, NotImplementedError):
        pass
    return inputs


#: dtypes in which torch's CPU kernel of an op rounds more often than its other kernels do, or not to nearest
ROUNDS_MORE = {"sigmoid_backward": [torch.float16], "logit_backward": [torch.float16, torch.bfloat16],
               "sqrt": [torch.float32, torch.float64]}


def strided_result(name, inputs, attrs):
    """torch's result by its scalar code, which it takes for every other element of a tensor."""
    return OPS[name].meaning(*(torch.stack([i, i], -1)[..., 0] if isinstance(i, torch.Tensor) else i for i in inputs), **attrs)


def widened(name, inputs, attrs):
    return OPS[name].meaning(*converted(inputs, torch.float64), **attrs)


def as_near(ours, real, precise):
    """Where ours is not (much) farther from the result in float64 than torch's: both are approximations."""
    if not real.is_floating_point() or real.dtype == torch.float64:
        return False
    ours, real = ours.double(), real.double()
    return (ours == precise) | ((ours - precise).abs() <= 4 * (real - precise).abs())


@of_kind("pointwise")
def test_scalar_meaning_is_torchs(name):
    tried = 0
    for (inputs, attrs), dtype in itertools.product(list(OPS[name].samples()), DTYPES):
        special = without_zero_divisors(name, enriched(inputs, dtype), attrs)
        inputs = converted(inputs, dtype) if accepted(name, special, attrs) is None else special
        real = accepted(name, inputs, attrs)
        if real is None:
            continue
        _, v = emitted(name, inputs, attrs)
        s = TorchScalars()
        ours = compute(v, inputs, s)
        exact, slack = s.used <= EXACT and dtype not in ROUNDS_MORE.get(name, ()), 256 if dtype == torch.float64 else 16
        excused = ~differs(ours, strided_result(name, inputs, attrs), exact, slack)
        if not exact:
            excused = excused | as_near(ours, real, widened(name, inputs, attrs))
        close(ours, real, exact, f"{name} of {dtype} {attrs}", slack, tensors_of(inputs), excused)
        tried += 1
    assert tried, "torch accepted no sample"


@of_kind("source")
def test_source_is_torchs(name):
    for inputs, attrs in OPS[name].samples():
        _, v = emitted(name, inputs, attrs)
        symbols = [Sym(f"i{k}", 0, n - 1) for k, n in enumerate(v.shape)]
        grid = torch.meshgrid([torch.arange(n) for n in v.shape], indexing="ij") if v.shape else ()
        ours = v.op.scalar(TorchScalars(dict(zip(symbols, grid))), [expr_of(i) for i in symbols], **v.attrs)
        close(ours.to(v.dtype).expand(v.shape), v.op.meaning(**attrs), exact=True)


COMBINE = {"sum": torch.sum, "prod": torch.prod, "max": torch.amax, "min": torch.amin, "any": torch.any, "all": torch.all,
           "argmax": torch.argmax, "argmin": torch.argmin}


def scanned(v, x):
    """A scan as backends run it: converted, put in rows, combined, rounded where it is stored."""
    x = x if v.op.combine.startswith("arg") else x.to(v.dtype).to(arithmetic_dtype(v.dtype))
    dim, = v.attrs["dim"] or (0,)
    rows = x.reshape(-1, 1) if not x.dim() else x.transpose(dim, -1)
    found = SCANS[v.op.combine](rows)
    return (found.transpose(dim, -1) if x.dim() else found).reshape(v.shape).to(v.dtype)


@of_kind("scan")
def test_scan_is_torchs(name):
    for label, inputs, attrs in variants(name):
        if (real := accepted(name, inputs, attrs)) is not None:
            _, v = emitted(name, inputs, attrs)
            close(scanned(v, *inputs), real, what=label)


def combined(v, x):
    """A reduction as backends run it: converted, put in rows, combined, rounded once."""
    dims = v.attrs["dim"]
    kept = [d for d in range(x.dim()) if d not in dims]
    positions = v.op.combine.startswith("arg")
    x = x if positions else x.to(v.dtype).to(arithmetic_dtype(v.dtype))
    rows = x.permute((*kept, *dims)).reshape(*(x.shape[d] for d in kept), -1)
    return COMBINE[v.op.combine](rows, -1).reshape(v.shape).to(v.dtype)


@of_kind("reduce")
def test_reduction_is_torchs(name):
    for label, inputs, attrs in variants(name):
        if (real := accepted(name, inputs, attrs)) is not None:
            _, v = emitted(name, inputs, attrs)
            close(combined(v, *inputs), real, what=label)


# Gradients

def first_result(name, inputs, attrs, tensors):
    """The op's first result with other tensors in the places of the inputs' tensors."""
    renewed = iter(tensors)
    return results_of(OPS[name].meaning(*(next(renewed) if isinstance(i, torch.Tensor) else i for i in inputs), **attrs))[0]


def rule_gradients(name, inputs, attrs, incoming):
    """By the record's rule, evaluated: one for each tensor operand, None where the rule gives none."""
    b, v = emitted(name, inputs, attrs)
    g = b.input("g", type_of(incoming))
    found = v.op.gradient(b, v, [g, *[None] * (len(v.type.items) - 1)] if isinstance(v.type, TupleType) else g)
    found = [f for i, f in zip(inputs, found, strict=True) if isinstance(i, torch.Tensor)]
    graph = verify(b.graph("gradient", [f for f in found if f is not None]))
    values = iter(evaluate(graph, [*tensors_of(inputs), incoming]))
    return [None if f is None else next(values) for f in found]


def torch_gradients(name, inputs, attrs, incoming, among=None):
    """By torch's autograd, of the float operands (those `among` them); None where torch has no derivative of the op."""
    leaves = [i.detach().requires_grad_(i.is_floating_point() and (among is None or among[k]))
              for k, i in enumerate(tensors_of(inputs))]
    try:
        result = first_result(name, inputs, attrs, leaves)
        if not result.requires_grad:
            return [None] * len(leaves)
        found = iter(torch.autograd.grad(result, [t for t in leaves if t.requires_grad], incoming, allow_unused=True))
    except RuntimeError as e:
        if "not differentiable with respect to" in str(e) and among is None:
            by_rule = rule_gradients(name, inputs, attrs, incoming)
            return torch_gradients(name, inputs, attrs, incoming, [g is not None for g in by_rule])
        assert "is not implemented" in str(e), e
        return None
    return [next(found) if t.requires_grad else None for t in leaves]


def numeric_gradients(name, inputs, attrs, incoming):
    """By central differences."""
    tensors, step, found = tensors_of(inputs), 1e-5, []
    for k, t in enumerate(tensors):
        slopes = torch.zeros_like(t)
        for n in range(t.numel() if t.is_floating_point() else 0):
            moved = torch.zeros(t.numel(), dtype=t.dtype).index_fill(0, torch.tensor(n), step).reshape(t.shape)
            up, down = (first_result(name, inputs, attrs, [*tensors[:k], x, *tensors[k + 1:]]) for x in (t + moved, t - moved))
            slopes.view(-1)[n] = ((up - down) * incoming).sum() / (2 * step)
        found.append(slopes)
    return found


@pytest.mark.parametrize("name", [n for n in TESTED if OPS[n].gradient and not OPS[n].random])
def test_gradient_is_torchs(name):
    for k, (inputs, attrs) in enumerate(OPS[name].samples()):
        inputs = converted(inputs, torch.float64)
        result = first_result(name, inputs, attrs, tensors_of(inputs))
        if not result.is_floating_point():
            continue
        incoming = torch.randn_like(result)
        ours, theirs = rule_gradients(name, inputs, attrs, incoming), torch_gradients(name, inputs, attrs, incoming)
        numeric = theirs is None
        theirs = numeric_gradients(name, inputs, attrs, incoming) if numeric else theirs
        for n, (a, t) in enumerate(zip(ours, theirs, strict=True)):
            what = f"sample {k}, gradient of operand {n}"
            if a is not None and t is None:
                assert not a.any(), f"{what}: torch has none"
            elif a is not None:
                close(a, t, what=what, slack=1e8 if numeric else 1e6)
            elif not numeric:
                assert t is None or OPS[name].kind == "opaque" and not t.any(), f"{what}: torch's is {t}"


EDGES = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", [n for n in TESTED if OPS[n].kind == "pointwise" and OPS[n].gradient])
def test_gradient_at_edges_is_torchs(name):
    """Ties, kinks, bounds and poles."""
    for inputs, attrs in OPS[name].samples():
        tensors = tensors_of(inputs)
        if not all(t.is_floating_point() for t in tensors):
            continue
        rows = list(itertools.product(EDGES, repeat=len(tensors)))
        columns = iter(zip(*rows[::max(1, len(rows) // 1000)]))
        at_edges = tuple(torch.tensor(next(columns), dtype=torch.float64) if isinstance(i, torch.Tensor) else i for i in inputs)
        if (result := accepted(name, at_edges, attrs)) is None or not result.is_floating_point():
            continue
        incoming = torch.randn_like(result)
        theirs = torch_gradients(name, at_edges, attrs, incoming)
        if theirs is None:
            continue
        for n, (a, t) in enumerate(zip(rule_gradients(name, at_edges, attrs, incoming), theirs, strict=True)):
            if t is not None:
                close(a, t, what=f"gradient of operand {n} {attrs}", slack=1e6, operands=tensors_of(at_edges))


@having("gradient")
def test_gradient_has_the_operands_type(name):
    for label, inputs, attrs in variants(name):
        if accepted(name, inputs, attrs) is None:
            continue
        b, v = emitted(name, inputs, attrs)
        types = v.type.items if isinstance(v.type, TupleType) else [v.type]
        g = [b.input(f"g{k}", t) if isinstance(t, TensorType) and t.dtype.is_floating_point else None
             for k, t in enumerate(types)]
        if all(c is None for c in g):
            continue
        for x, found in zip(v.inputs, v.op.gradient(b, v, g if isinstance(v.type, TupleType) else g[0]), strict=False):
            if found is not None:
                assert x.dtype.is_floating_point, f"{label}: a gradient for {x.dtype}"
                assert (found.shape, found.dtype) == (x.shape, x.dtype), f"{label}: {found.type} for {x.type}"


# Decompositions

@having("decompose")
def test_decomposition_is_torchs(name):
    for label, inputs, attrs in variants(name):
        real = accepted(name, inputs, attrs)
        if real is None or "in torch.int" in label or "uint8" in label or "bool" in label:
            continue
        b, v = emitted(name, inputs, attrs)
        parts = results_of(v.op.decompose(b, v))
        b.values.remove(v)
        graph = verify(b.graph("decomposed", parts))
        for ours, r in zip(evaluate(graph, tensors_of(inputs)), results_of(real), strict=True):
            assert ours.dtype == r.dtype and ours.shape == r.shape, f"{label}: {ours.dtype} {ours.shape}"
            close(ours, r, what=label, slack=32)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_standard_deviation_of_what_has_no_square(scale):
    x = torch.randn(4, 6) * scale
    b, v = emitted("std", (x,), {"dim": (1,), "keepdim": False, "correction": 1})
    ours, = evaluate(b.graph("decomposed", [v.op.decompose(b, v)]), [x])
    torch.testing.assert_close(ours, x.std(1), rtol=1e-6, atol=0)


# Views

@of_kind("view")
def test_index_reads_what_torch_reads(name):
    for inputs, attrs in OPS[name].samples():
        b, v = emitted(name, inputs, attrs)
        x, real = inputs[0], OPS[name].meaning(*inputs, **attrs)
        symbols = [Sym(f"i{k}", 0, max(n - 1, 0)) for k, n in enumerate(v.shape)]
        places = [expr(p) for p in v.op.index(v, tuple(map(expr_of, symbols)))]
        bounds = v.op.inside(v, tuple(map(expr_of, symbols))) if v.op.inside else []
        for at in itertools.product(*(range(n) for n in v.shape)):
            here = {s.name: i for s, i in zip(symbols, at)}
            if all(0 <= expr(e).evaluate(here) < size for e, size in bounds):
                place = tuple(p.evaluate(here) for p in places)
                assert all(0 <= p < n for p, n in zip(place, x.shape)), f"{attrs}: {place} is outside of {tuple(x.shape)}"
                assert x[place] == real[at], f"{attrs}: element {at} is not {place}"
            else:
                assert real[at] == attrs["value"], f"{attrs}: element {at} is not the filling"


@of_kind("gather")
def test_gathered_index_reads_what_torch_reads(name):
    for inputs, attrs in OPS[name].samples():
        _, v = emitted(name, inputs, attrs)
        real = OPS[name].meaning(*inputs, **attrs)

        def read(k, coordinates, size, wrap=False, error=None):
            at = inputs[k][tuple(expr(c).constant for c in coordinates)].item()
            return expr(at + size if wrap and at < 0 else at)
        for at in itertools.product(*(range(n) for n in v.shape)):
            place = tuple(expr(p).constant for p in v.op.index(v, tuple(map(expr, at)), read))
            assert all(0 <= p < n for p, n in zip(place, inputs[0].shape)), f"{attrs}: {place} is outside"
            assert inputs[0][place] == real[at], f"{attrs}: element {at} is not {place}"


# Imports

class Calls(TorchDispatchMode):
    """The aten calls of a function, with their results."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = kept((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.seen.append((func, *before, kept(result)))
        return result


def kept(part):
    """A copy that later writes do not change."""
    if isinstance(part, torch.Tensor):
        return part.clone()
    if isinstance(part, (list, tuple)):
        return [kept(p) for p in part]
    return {k: kept(p) for k, p in part.items()} if isinstance(part, dict) else part


def overload_name(func) -> str:
    return str(func).removeprefix("aten.").removesuffix(".default")


def imported(func, args, kwargs):
    """The call through its import rule, evaluated: a list of results, or None where the rule leaves it to torch."""
    b, given = Builder(), []

    def operand(x):
        if isinstance(x, torch.Tensor):
            given.append(x)
            return b.input(f"x{len(given)}", type_of(x))
        return type(x)(map(operand, x)) if isinstance(x, (list, tuple)) else x
    made = ATEN[overload_name(func)](b, *map(operand, args), **{k: operand(x) for k, x in kwargs.items()})
    if made is NotImplemented:
        return None
    made = [m for m in results_of(made) if m is not None]
    return evaluate(verify(b.graph("imported", made)), given)


def check_import(func, args, kwargs, result):
    """Whether the rule imports the call; if so, it must give the call's results (and new values of what it writes after them)."""
    ours = imported(func, args, kwargs)
    real = [r for r in results_of(result) if r is not None]
    if ours is None:
        return False
    written = sum(args[k] is not None for k in WRITES.get(overload_name(func), ()))
    assert len(ours) == len(real) + written, f"{func} gives {len(real)} results and {written} new values"
    for a, r in zip(ours, real):
        assert (a.shape, a.dtype) == (r.shape, r.dtype), f"{func}: {a.dtype} {a.shape} is not {r.dtype} {r.shape}"
        if "empty" not in overload_name(func):
            close(a, r, what=str(func), slack=32)
    return True


@pytest.mark.parametrize("name", TESTED)
def test_recorded_calls_import(name):
    """The aten calls that an op's own meaning makes, each through its import rule."""
    for inputs, attrs in OPS[name].samples():
        with Calls() as calls:
            OPS[name].meaning(*inputs, **attrs)
        for func, args, kwargs, result in calls.seen:
            if overload_name(func) in ATEN and not OPS[name].random and not func._schema.is_mutable:
                check_import(func, args, kwargs, result)


#: arguments by name: the first is the plain one, the others are tried one at a time
ARGUMENTS = {"alpha": [1, 2, 0.5], "value": [1, 0.5, 2], "rounding_mode": [None, "trunc", "floor"], "keepdim": [False, True],
             "dtype": [None, torch.float64, torch.int64], "approximate": ["none", "tanh"], "correction": [None, 0],
             "eps": [None, 0.2],
             "min": [None, 0.3, 2], "max": [0.6, None], "weight": [0.3, 0.7], "decimals": [0, 2, -1],
             "exponent": [2, 0, 1, 3, 0.5, -1, -2, 2.5],
             "nan": [None, 2.0], "ord": [2, 1, inf, -inf, 0, 3], "p": [2, 1, inf], "start": [0, 2], "end": [5, -3],
             "step": [1, 2, -1],
             "input_sizes": [[4, 4, 3]], "stride": [[3, 1]], "dim1": [0], "dim2": [1], "offset": [0],
             "is_result": [False, True], "self_is_result": [False], "size": [[2, 3], []], "n": [3], "m": [4],
             "other": [2, 0.5, True], "self": [2, 0.5], "fill_value": [2, 0.5, True], "s": [2, 0.5]}
TYPICAL = {"Tensor": None, "int": [1, -1], "List[int]": [[1], [0, -1], []], "bool": [False, True], "float": [0.5],
           "number": [1, 0.5]}
KINDS = {"f32": lambda: torch.rand(3, 4) * 0.8 + 0.1, "bf16": lambda: (torch.rand(3, 4) * 0.8 + 0.1).bfloat16(),
         "0-dim": lambda: torch.rand(()), "i64": lambda: torch.randint(1, 5, (3, 4)), "bool": lambda: torch.rand(3, 4) > 0.5}
#: tensors that are not of the kind that the others are
TENSORS = {"mask": KINDS["bool"], "condition": KINDS["bool"], "value": KINDS["0-dim"]}


def choices(argument):
    """Values to try for a schema's argument; None stands for a tensor."""
    kind = str(argument.real_type)
    kind = "List[int]" if "List[int]" in kind else kind.removeprefix("Optional[").removesuffix("]")
    if argument.name in ARGUMENTS and kind != "Tensor":
        return ARGUMENTS[argument.name]
    return TYPICAL.get(kind) or [argument.default_value if argument.has_default_value() else None]


#: calls whose tensors do not have one shape
SHAPED = {"glu_backward": lambda: [torch.randn(3, 2), torch.randn(3, 4), 1]}


def schema_calls(func):
    """(args, kwargs) for an overload: plain ones, then each argument varied by itself, on tensors of several kinds."""
    if overload_name(func) in SHAPED:
        yield SHAPED[overload_name(func)](), {}
    arguments = func._schema.arguments
    plain = [choices(a)[0] for a in arguments]
    varied = [[*plain[:k], other, *plain[k + 1:]] for k, a in enumerate(arguments) for other in choices(a)[1:]]
    kinds = [make for kind, make in KINDS.items() if kind != "0-dim" or "backward" not in func.name()]
    for make, values in itertools.product(kinds, [plain, *varied]):
        filled = [TENSORS.get(a.name, make)() if str(a.type) == "Tensor" else v for a, v in zip(arguments, values)]
        pairs = list(zip(arguments, filled))
        yield [f for a, f in pairs if not a.kwarg_only], {a.name: f for a, f in pairs if a.kwarg_only}


@pytest.mark.parametrize("overload", sorted(ATEN))
def test_imported_overload_exists(overload):
    packet, name = packet_of(overload)
    assert name in packet.overloads()


def packet_of(overload: str):
    """(the packet, the name in it) of an overload of aten's, or of another namespace's that it names."""
    namespace, _, name = overload.rpartition("::")
    packet, _, name = name.partition(".")
    return getattr(getattr(torch.ops, namespace or "aten"), packet), name or "default"


@functools.cache
def met_in_meanings() -> set[str]:
    """The overloads that the ops' own meanings call."""
    met = set()
    for name in TESTED:
        for inputs, attrs in OPS[name].samples():
            with Calls() as calls:
                OPS[name].meaning(*inputs, **attrs)
            met |= {overload_name(func) for func, *_ in calls.seen}
    return met


def overload_of(name: str):
    return getattr(*packet_of(name))


def checks_its_arguments(name: str, kind: str) -> bool:
    """Whether a call can be made with arbitrary arguments: internal ones of several tensors may crash torch."""
    tensors = sum("Tensor" in str(a.type) for a in overload_of(name)._schema.arguments)
    return kind in ("pointwise", "reduce", "source") or kind == "composite" and tensors == 1


@pytest.mark.parametrize("overload", sorted(o for n in TESTED for o in OPS[n].aten if checks_its_arguments(o, OPS[n].kind)))
def test_import_gives_what_torch_gives(overload):
    func = overload_of(overload)
    imports = 0
    varies = torch.Tag.nondeterministic_seeded in func.tags or overload.startswith("empty")  # torch 2.11 has no tag on the latter
    for args, kwargs in schema_calls(func) if not varies else []:
        try:
            result = func(*kept(args), **kwargs)
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            continue
        imports += check_import(func, args, kwargs, result)
    assert imports or overload in met_in_meanings() or varies, "never tried"


@pytest.mark.parametrize("more", [(3,), (None,), (torch.arange(2),), ()], ids=["number", "nothing", "no gradient", "alone"])
def test_a_taped_op_may_give_more_than_what_gradients_flow_from(more):
    """Attention on a GPU gives lengths as numbers beside its result."""
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    with torch.no_grad():
        tape = (leaf,), (torch.enable_grad()(torch.exp)(leaf), *more), True
        grad, = call_backward(tape, torch.tensor([1.0, 10.0]), which=(0,))
    torch.testing.assert_close(grad, leaf.detach().exp() * torch.tensor([1.0, 10.0]))
