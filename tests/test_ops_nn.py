"""Views, shaping, indexing, products, norms, losses and random ops: whole torch functions recorded through the import
rules, then evaluated, decomposed and differentiated, against eager."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import smelt.compiler.ops  # noqa: F401  (fills the tables)
from smelt.compiler.builder import Builder
from smelt.compiler.dims import expr, sym
from smelt.compiler.evaluate import evaluate
from smelt.compiler.ir import Graph
from smelt.compiler.op import ATEN, OPS, WRITES
from smelt.compiler.passes import decompose, gradient
from smelt.compiler.verify import verify

from .common import type_of


class Imported(TorchDispatchMode):
    """Imports every call by its rule. A call without one, or whose rule gives another type than torch, fails."""

    def __init__(self, tensors):
        super().__init__()
        self.b = Builder()
        self.tensors = list(tensors)
        self.kept = []  # so that no id is used twice
        self.values = {id(t): self.b.input(f"x{k}", type_of(t)) for k, t in enumerate(tensors)}
        self.written = {}

    def value(self, x):
        if isinstance(x, torch.Tensor):
            return self.values[id(x)]
        return [self.value(i) for i in x] if isinstance(x, (list, tuple)) else x

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.").removesuffix(".default")
        if name not in ATEN:  # an in-place call: the functional one's value takes the place of what it writes
            name = name.replace("_.", ".") if "_." in name else name.removesuffix("_")
        made = ATEN[name](self.b, *map(self.value, args), **{k: self.value(a) for k, a in kwargs.items()})
        assert made is not NotImplemented, f"{name} is not imported"
        result = func(*args, **kwargs)
        made, results = as_list(made), as_list(result)
        written = [args[k] for k in WRITES.get(name, ()) if args[k] is not None]
        assert len(made) == len(results) + len(written), f"{name} gives {len(made)} values"
        for v, r in zip(made, [*results, *written]):
            assert (v.shape, v.dtype) == (tuple(r.shape), r.dtype), f"{name}: {v.type} for {tuple(r.shape)} {r.dtype}"
            v.type = type_of(r)
            self.values[id(r)] = v
            self.kept.append(r)
        self.written.update({id(t): t for t in written})
        return result


def as_list(x):
    return list(x) if isinstance(x, (list, tuple)) else [x]


def imported(function, tensors) -> tuple[Graph, list[torch.Tensor]]:
    """The graph of a function of tensors, and eager's results (then what it wrote to), both in order."""
    with Imported(tensors) as mode:
        results = as_list(function(*tensors))
    results += mode.written.values()
    return verify(mode.b.graph("f", [mode.values[id(r)] for r in results])), results


def same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def f(*shape):
    return torch.randn(*shape)


def ints(high, *shape):
    return torch.randint(high, shape)


VIEWS = {
    "select": lambda x: (x[1], x[:, -2]),
    "slice": lambda x: (x[1:], x[:, ::2], x[:, 5:2], x[-2:, 1:-1]),
    "newaxis": lambda x: (x[None], x[..., None].squeeze(-1), x[:1].squeeze(), x[:1].squeeze((0, 1))),
    "transpose": lambda x: (x.t(), x.transpose(0, -1), x.movedim(0, 1), x[0].t()),
    "view": lambda x: (x.view(-1), x.view(2, 2, 6), x.flatten(), x.unflatten(1, (2, -1))),
    "split": lambda x: (*x.split(4, 1), *x.chunk(3, 1), *x.unbind(), *x.split_with_sizes((1, 2, 3), 1),
                        *torch.unsafe_split(x, 3)),
    "expand": lambda x: (x[:, :1].expand(4, 3), x.expand(2, -1, -1), x.repeat(2, 1, 3), x.tile(2)),
    "flip and roll": lambda x: (x.flip(0, 1), x.roll(2, 1), x.roll((1, -2), (0, 1)), x.roll(5)),
    "diagonal": lambda x: (x.diagonal(), x.diagonal(-2), x.view(2, 2, 6).diagonal(1, 2, 0), torch.diag_embed(x, 1),
                           torch.diag(x[0])),
    "unfold": lambda x: (x.unfold(1, 3, 2), x.unfold(0, 4, 1)),
    "pad": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, -2, 3, -1), value=1.5), F.pad(x[None, None], (1, 2, 1, 0), mode="reflect")),
    "triangle": lambda x: (x.tril(), x.triu(1), x.tril(-1), x.view(2, 2, 6).triu(-2)),
    "cat": lambda x: (torch.cat([x, x[:, :2], x[:, :0]], 1), torch.stack([x, x], -1), torch.hstack([x, x]),
                      torch.cat([x[0, :0], x])),
    "scatter views": lambda x: (torch.slice_scatter(x, x[:2] * 2, 0, 1, 3), torch.select_scatter(x, x[0] * 3, 0, 2),
                                torch.diagonal_scatter(x, x[0, :4] * 2, 1), torch.slice_scatter(x, x[:, :2] * 2, 1, 0, 4, 2)),
}

INDEXING = {
    "gather": (lambda x, i: x.gather(1, i), f(4, 6), ints(6, 4, 2)),
    "index_select": (lambda x, i: x.index_select(1, i), f(4, 6), ints(6, 5)),
    "embedding": (lambda w, i: F.embedding(i, w, padding_idx=2), f(5, 3), ints(5, 2, 4)),
    "index": (lambda x, i, j: (x[i], x[:, j], x[i, j], x[i[:, None], j]), f(4, 6), ints(4, 3), ints(6, 3) - 3),
    "index around": (lambda x, i: (x[i, :, i], x[:, i, i]), f(3, 3, 3), ints(3, 2)),
    "index_put": (lambda x, i, y: (x.index_put((i,), y), x.index_put((i, i), y[0, 0], accumulate=True)),
                  f(4, 6), torch.tensor([2, 0]), f(2, 6)),
    "masked put": (lambda x: x.index_put((x.detach() > 0,), torch.full_like(x[0, 0], 5.0)), f(4, 6)),
    "scatter": (lambda x, i, y: (x.scatter(1, i, y), x.scatter_add(1, i, y), x.scatter(1, i, 2.0)),
                f(3, 5), torch.tensor([[4, 1], [0, 3], [2, 0]]), f(3, 2)),
    "scatter a part": (lambda x, i, y: (x.scatter(1, i, y), x.scatter_add(1, i, y)),
                       f(3, 5), torch.tensor([[4, 1], [0, 3]]), f(3, 4)),
    "index_add": (lambda x, i, y: x.index_add(0, i, y, alpha=2), f(4, 3), torch.tensor([1, 1, 3]), f(3, 3)),
}

PRODUCTS = {
    "mm": (lambda x, y: (x @ y, x @ y[:, 0], y[:, 0] @ y[:, 1]), f(3, 4), f(4, 5)),
    "bmm": (torch.bmm, f(2, 3, 4), f(2, 4, 5)),
    "matmul": (torch.matmul, f(2, 1, 3, 4), f(6, 4, 2)),
    "linear": (F.linear, f(2, 3, 4), f(5, 4), f(5)),
    "addmm": (lambda c, x, y: (torch.addmm(c, x, y, beta=0.5, alpha=-2), torch.addmm(c, x, y, beta=0)),
              f(3, 5), f(3, 4), f(4, 5)),
    "addmv": (lambda c, x, y: torch.addmv(c, x, y, alpha=3), f(3), f(3, 4), f(4)),
    "baddbmm": (lambda c, x, y: (torch.baddbmm(c, x, y), torch.addbmm(c[0], x, y, beta=2)), f(2, 3, 5), f(2, 3, 4), f(2, 4, 5)),
    "einsum": (lambda x, y: torch.einsum("bij,bjk->ki", x, y), f(2, 3, 4), f(2, 4, 5)),
}

NN = {
    "softmax": (lambda x: (x.softmax(-1), x.softmax(0), x[0, 0].softmax(0)), f(4, 6)),
    "log_softmax": (lambda x: (x.log_softmax(-1), x.log_softmax(0)), f(4, 6)),
    "layer_norm": (lambda x, w, c: (F.layer_norm(x, (6,), w, c), F.layer_norm(x, (4, 6))), f(3, 4, 6), f(6), f(6)),
    "group_norm": (lambda x, w, c: (F.group_norm(x, 2, w, c), F.group_norm(x, 4)), f(2, 4, 3, 2), f(4), f(4)),
    "instance_norm": (lambda x, w, c: F.instance_norm(x.view(2, 4, 6), weight=None), f(2, 4, 3, 2), f(4), f(4)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (6,), w), f(4, 6), f(6)),
    "conv2d": (lambda x, w, c: (F.conv2d(x, w, c, padding=1), F.conv2d(x, w[:, :2], stride=2, groups=2),
                                F.conv_transpose2d(x, w.transpose(0, 1), c)), f(2, 4, 5, 6), f(6, 4, 3, 3), f(6)),
    "conv1d": (F.conv1d, f(2, 4, 7), f(3, 4, 3), f(3)),
    "pool": (lambda x: (F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, (2, 3)),
                        F.max_pool1d(x[0], 2)), f(2, 3, 6, 7)),
    "resample": (lambda x: (F.interpolate(x, scale_factor=2), F.interpolate(x, size=(4, 9), mode="bilinear")), f(2, 3, 3, 4)),
}

LOSSES = {
    "cross_entropy": (lambda x, t, w: (F.cross_entropy(x, t, w), F.cross_entropy(x, t, reduction="sum"),
                                       F.cross_entropy(x, t, reduction="none"), F.cross_entropy(x, t, ignore_index=2)),
                      f(7, 5), ints(5, 7), torch.rand(5)),
    "cross_entropy smoothed": (lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1), f(7, 5), ints(5, 7)),
    "cross_entropy of images": (lambda x, t: F.cross_entropy(x, t, ignore_index=1), f(2, 5, 3, 3), ints(5, 2, 3, 3)),
    "cross_entropy one row": (F.cross_entropy, f(5), torch.tensor(3)),
    "pairs": (lambda x, y: (F.mse_loss(x, y), F.mse_loss(x, y, reduction="none"), F.l1_loss(x, y),
                            F.smooth_l1_loss(x, y, beta=0.5), F.huber_loss(x, y, reduction="sum", delta=0.7)), f(4, 6), f(4, 6)),
    "binary": (lambda x, y, w: (F.binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=w),
                                F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), w)), f(4, 6), f(4, 6), torch.rand(6)),
    "kl": (lambda x, y: F.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean"), f(4, 6), f(4, 6)),
}

CASES = {**{name: (function, torch.randn(4, 6)) for name, function in VIEWS.items()}, **INDEXING, **PRODUCTS, **NN, **LOSSES}
#: inputs that torch has no gradient for
CONSTANT = {"cross_entropy": {2}, "binary": {2}, "scatter a part": {2}, "instance_norm": {1, 2}}


@pytest.mark.parametrize("name", CASES)
def test_imported_function_is_eagers(name):
    function, *tensors = CASES[name]
    graph, results = imported(function, tensors)
    same(evaluate(graph, tensors), results)
    plain = verify(decompose(graph))
    assert not [v for v in plain.values if v.op.kind == "composite"]
    same(evaluate(plain, tensors), results)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_eagers(name):
    function, *tensors = CASES[name]
    tensors = [t.double() if t.is_floating_point() else t for t in tensors]
    graph, results = imported(function, tensors)
    of = tuple(k for k, r in enumerate(results) if r.is_floating_point())
    wrt = tuple(k for k, t in enumerate(tensors) if t.is_floating_point() and k not in CONSTANT.get(name, ()))
    joint = verify(gradient(graph, wrt, of).graph)
    tangents = [torch.randn_like(results[k]) for k in of]
    leaves = [t.clone().requires_grad_(k in wrt) for k, t in enumerate(tensors)]
    outputs = as_list(function(*leaves))
    theirs = torch.autograd.grad([outputs[k] for k in of], [leaves[k] for k in wrt], tangents)
    for g in (joint, verify(decompose(joint))):
        same(evaluate(g, [*tensors, *tangents])[len(results):], theirs)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "group_norm", "instance_norm", "mm", "cross_entropy", "conv2d", "pool",
                                  "embedding", "gather", "pad", "index"])
def test_second_gradient_is_eagers(name):
    function, *tensors = CASES[name]
    tensors = [t.double() if t.is_floating_point() else t for t in tensors]

    def energy(*operands):
        return sum(r.mul(r).sum() for r in as_list(function(*operands)))
    graph, _ = imported(energy, tensors)
    first = gradient(graph, (0,), (0,)).graph
    joint = verify(gradient(first, (0,), (1,)).graph)
    x = tensors[0].clone().requires_grad_()
    g, = torch.autograd.grad(energy(x, *tensors[1:]), x, create_graph=True)
    direction = torch.randn_like(g)
    theirs = torch.autograd.grad(g, x, direction)
    one = torch.ones((), dtype=torch.float64)
    same(evaluate(joint, [*tensors, one, direction])[-1:], theirs)


# Batch norm: what it returns and what it writes

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_writes_running_statistics(training, dtype):
    def function(x, w, c, mean, var):
        return F.batch_norm(x, mean, var, w, c, training, momentum=0.3)

    def tensors():
        torch.manual_seed(0)
        return [f(4, 3, 5).to(dtype), f(3), f(3), f(3), torch.rand(3)]
    eager = tensors()
    with Imported(eager) as mode:
        out = torch.native_batch_norm(*eager, training, 0.3, 1e-5)[0]
    graph = verify(mode.b.graph("f", [mode.values[id(t)] for t in (out, eager[3], eager[4])]))
    loose = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    for g in (graph, decompose(graph)):
        same(evaluate(g, tensors()), [out, eager[3], eager[4]], **loose)


def test_batch_norm_gradients_in_both_modes():
    x, w, c, mean, var = (t.double() for t in (f(4, 3, 5), f(3), f(3), f(3), torch.rand(3)))
    for training in (True, False):
        def function(x, w, c):
            return torch.native_batch_norm(x, w, c, mean.clone(), var.clone(), training, 0.1, 1e-5)[0]
        b = Builder()
        inputs = [b.input(n, type_of(t)) for n, t in zip("xwcmv", (x, w, c, mean, var))]
        out, *_ = ATEN["native_batch_norm"](b, *inputs, training, 0.1, 1e-5)
        joint = gradient(b.graph("f", [out]), (0, 1, 2), (0,)).graph
        leaves = [t.clone().requires_grad_() for t in (x, w, c)]
        tangent = torch.randn_like(x)
        theirs = torch.autograd.grad(function(*leaves), leaves, tangent)
        same(evaluate(decompose(joint), [x, w, c, mean, var, tangent])[1:], theirs)


# Numbers that are not

def test_softmax_of_minus_infinity():
    inf = float("inf")
    x = torch.tensor([[-inf, -inf], [0.0, -inf], [inf, 1.0], [float("nan"), 1.0]])
    for function in (lambda x: x.softmax(1), lambda x: x.log_softmax(1), lambda x: torch.ops.aten._safe_softmax(x, 1)):
        graph, results = imported(function, [x])
        same(evaluate(decompose(graph), [x]), results)


def test_safe_softmax_has_no_gradient_in_masked_rows():
    x = torch.tensor([[float("-inf")] * 3, [0.0, 1.0, float("-inf")]])
    graph, _ = imported(lambda x: torch.ops.aten._safe_softmax(x, 1), [x])
    joint = decompose(gradient(graph, (0,), (0,)).graph)
    g = evaluate(joint, [x, torch.randn(2, 3)])[1]
    assert torch.equal(g[0], torch.zeros(3)) and g[1, :2].abs().min() > 0 and g.isfinite().all()


def test_ignored_targets_do_not_read_their_row():
    x = f(3, 4)
    x[1] = float("nan")
    t = torch.tensor([0, -100, 3])
    graph, results = imported(lambda x, t: torch.ops.aten.nll_loss_forward(x, t, None, 1, -100), [x, t])
    assert results[0].isfinite()
    same(evaluate(decompose(graph), [x, t]), results)


def test_a_mean_over_no_target_is_nan():
    x, t = f(3, 4), torch.tensor([-100, -100, -100])
    graph, results = imported(F.cross_entropy, [x, t])
    assert results[0].isnan()
    same(evaluate(decompose(graph), [x, t]), results)


def test_beta_zero_ignores_what_the_input_holds():
    x, y, c = f(3, 4), f(4, 5), torch.full((3, 5), float("nan"))
    graph, results = imported(lambda c, x, y: torch.addmm(c, x, y, beta=0), [c, x, y])
    assert results[0].isfinite().all()
    same(evaluate(graph, [c, x, y]), results)


# Half precision

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_round_once(dtype):
    """Closer to float64 than a rounding between the steps would be: about half a unit in the last place."""
    x, w, c = (t.to(dtype) for t in (f(64, 32), f(32), f(32)))
    for function in (lambda x, w, c: F.layer_norm(x, (32,), w, c), lambda x, w, c: x.softmax(1),
                     lambda x, w, c: F.group_norm(x, 4, w, c)):
        graph, _ = imported(function, [x, w, c])
        ours, = evaluate(decompose(graph), [x, w, c])
        exact = function(x.double(), w.double(), c.double())
        assert ours.dtype == dtype
        unit = torch.finfo(dtype).eps * exact.abs().clamp_min(torch.finfo(dtype).tiny)
        assert ((ours.double() - exact).abs() <= 0.51 * unit + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_biased_product_of_narrow_floats_is_one_call(dtype):
    tensors = [t.to(dtype) for t in (f(5), f(3, 64), f(64, 5))]
    graph, results = imported(torch.addmm, tensors)
    assert [v.op.name for v in graph.values] == ["addmm"]
    assert torch.equal(evaluate(graph, tensors)[0], results[0])


# Random numbers

RANDOM = {
    "dropout mask": lambda x: torch.bernoulli(x, 0.3),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "sizes": lambda x: (torch.rand(5, 7), torch.randn(40), torch.randn(3), torch.randint(9, (4,)), torch.randint(-3, 9, (4,)),
                        torch.normal(1.0, 2.0, (6,)), torch.randperm(11)),
    "like": lambda x: (torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 9), torch.randint_like(x, 2, 9)),
    "columns": lambda x: (torch.rand_like(x.t()), torch.bernoulli(x.t(), 0.5), torch.rand_like(x[:1].expand(4, 6))),
    "multinomial": lambda x: torch.multinomial(x.sigmoid(), 2),
    "dropout": lambda x: torch.native_dropout(x, 0.3, True),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_eagers_under_the_same_seed(name):
    x = f(4, 6)
    torch.manual_seed(3)
    graph, results = imported(RANDOM[name], [x])
    after = torch.get_rng_state()
    torch.manual_seed(3)
    ours = evaluate(graph, [x])
    assert all(torch.equal(a, b) for a, b in zip(ours, results, strict=True))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_generator_of_its_own_is_not_imported():
    x = Builder().input("x", type_of(f(3)))
    for overload in ("bernoulli.p", "rand_like.generator", "bernoulli", "multinomial"):
        rule, more = ATEN.get(overload), (1,) if overload == "multinomial" else ()
        assert rule is None or rule(Builder(), x, *more, generator=torch.Generator()) is NotImplemented


def test_dropout_gradient_is_masked_and_scaled():
    x, g = f(4, 6), f(4, 6)
    graph, _ = imported(lambda x: torch.native_dropout(x, 0.25, True)[0], [x])
    joint = gradient(graph, (0,), (0,)).graph
    out, dx = evaluate(joint, [x, g])
    same([dx], [torch.where(out != 0, g / 0.75, 0)])


# Coordinates

def test_coordinates_are_symbolic():
    """A view's index rule takes expressions over loop indices and stays exact."""
    b = Builder()
    x = b.input("x", type_of(f(5, 8)))
    i, j = sym("i", 0, 1), sym("j", 0, 2)
    v = b.slice(x, start=(1, 2), step=(2, 2), size=(2, 3))
    assert OPS["slice"].index(v, (i, j)) == (i * 2 + 1, j * 2 + 2)
    p = b.pad(v, low=(1, 0), high=(0, 2), interior=(0, 1), value=0)
    assert p.shape == (3, 7)
    assert OPS["pad"].index(p, (i, j)) == (i - 1, j // 2)
    assert (expr(j % 2), 1) in OPS["pad"].inside(p, (i, j))


def test_gathers_say_what_is_an_error():
    b = Builder()
    x, i = b.input("x", type_of(f(5, 8))), b.input("i", type_of(ints(5, 3)))
    asked = []

    def read(k, coordinates, size, wrap=False, error=None):
        asked.append((k, coordinates, size, wrap, error[0]))
        return sym("r", 0, size - 1)
    r, c = sym("a", 0, 2), sym("c", 0, 7)
    assert OPS["index"].index(b.index(x, i, dims=(0,)), (r, c), read) == (sym("r", 0, 4), c)
    assert OPS["index_select"].index(b.index_select(x, i, dim=1), (c, r), read) == (c, sym("r", 0, 7))
    assert OPS["gather"].index(b.gather(x, b.reshape(i, shape=(3, 1)), dim=0), (r, expr(0)), read) == (sym("r", 0, 4), expr(0))
    assert asked == [(1, (r,), 5, True, IndexError), (1, (r,), 8, False, IndexError), (1, (r, expr(0)), 5, False, RuntimeError)]


def test_windows_of_a_base():
    """as_strided and its write: on a 1-dimensional base, with windows that overlap and that do not."""
    base = f(12)
    b = Builder()
    x = b.input("x", type_of(base))
    window = {"shape": (3, 4), "strides": (2, 1), "offset": 1}
    joint = gradient(b.graph("f", [b.as_strided(x, **window)]), (0,), (0,)).graph
    leaf, g = base.clone().requires_grad_(), f(3, 4)
    theirs, = torch.autograd.grad(leaf.as_strided(window["shape"], window["strides"], 1), leaf, g)
    same(evaluate(joint, [base, g])[1:], [theirs])


def test_wrong_shapes_are_named():
    from smelt.errors import InvalidGraph
    b = Builder()
    x = b.input("x", type_of(f(3, 4)))
    for emit in (lambda: b.cat(x, b.permute(x, dims=(1, 0)), dim=0), lambda: b.matmul(x, x),
                 lambda: b.slice(x, start=(0, 2), step=(1, 1), size=(3, 3)), lambda: b.index_select(x, x, dim=0),
                 lambda: b.pad(x, low=(-2, 0), high=(-2, 0), interior=(0, 0), value=0)):
        with pytest.raises(InvalidGraph, match="%x"):
            emit()
