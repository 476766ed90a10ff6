"""Recorded calls with symbolic sizes among their tensors and arguments: imported once, right for every size that the import's
questions allow."""
from __future__ import annotations

import functools

import pytest
import torch

from smelt.compiler import Builder, TensorType, evaluate, parse, show, verify
from smelt.compiler.dims import Expr, sym, typical
from smelt.compiler.op import ATEN
from smelt.errors import InvalidGraph, Unsupported

N, M = sym("n", 2, hint=6), sym("m", 2, hint=5)
SIZES = ((6, 5), (2, 2), (3, 7), (5, 4), (7, 3), (12, 2), (64, 33))
INPUTS = {"x": (lambda n, m: (n, 4)), "y": (lambda n, m: (n, m)), "w": (lambda n, m: (4, 3)), "table": (lambda n, m: (9, 4)),
          "image": (lambda n, m: (2, 4, n, m)), "batch": (lambda n, m: (n, m, 4)), "scalar": (lambda n, m: ())}
INTEGERS = {"classes": (lambda n, m: (n,)), "rows": (lambda n, m: (n, m))}

#: name -> (call, inputs, n, m) -> result(s), where call("aten overload", ...) makes a call
PROGRAMS = {
    "view of two merged": lambda call, y, n, m: call("view", y, [n * m]),
    "view with -1": lambda call, batch, n, m: call("view", batch, [-1, 4]),
    "view with -1 for a size": lambda call, batch, n, m: call("view", batch, [-1, m * 4]),
    "view that splits": lambda call, batch, n, m: call("view", call("view", batch, [n * m * 4]), [n, m, 2, 2]),
    "view that moves a factor": lambda call, batch, n, m: call("view", batch, [n * 2, m, 2]),
    "flatten": lambda call, image, n, m: call("flatten.using_ints", image, 2, 3),
    "unsqueeze, squeeze": lambda call, y, n, m: call("squeeze.dim", call("unsqueeze", y, 1), 1),
    "squeeze of all": lambda call, y, n, m: call("squeeze", call("unsqueeze", y, 0)),
    "squeeze of a size": lambda call, y, n, m: call("squeeze.dim", y, 0),
    "transposed and viewed": lambda call, batch, n, m: call("reshape", call("transpose.int", batch, 0, 1), [m, n * 4]),
    "expand": lambda call, w, n, m: call("expand", w, [n, -1, 3]),
    "expand of a column": lambda call, y, n, m: call("expand", call("unsqueeze", y, 1), [n, m * 2, m]),
    "repeat": lambda call, y, n, m: call("repeat", y, [2, m, 3]),
    "all but the first": lambda call, x, n, m: call("slice.Tensor", x, 0, 1, (1 << 63) - 1),
    "all but the last": lambda call, x, n, m: call("slice.Tensor", x, 0, 0, -1),
    "neighbours": lambda call, x, n, m: call("mul.Tensor", call("slice.Tensor", x, 0, 1), call("slice.Tensor", x, 0, 0, -1)),
    "every other": lambda call, x, n, m: call("slice.Tensor", x, 0, 0, (1 << 63) - 1, 2),
    "first half": lambda call, x, n, m: call("slice.Tensor", x, 0, 0, n // 2),
    "second half": lambda call, x, n, m: call("slice.Tensor", x, 0, n // 2),
    "first five": lambda call, x, n, m: call("slice.Tensor", x, 0, 0, 5),
    "last three": lambda call, x, n, m: call("slice.Tensor", x, 0, -3),
    "first n of a table": lambda call, table, n, m: call("slice.Tensor", table, 0, 0, n),
    "empty slice": lambda call, x, n, m: call("slice.Tensor", x, 0, n, n),
    "slice backward": lambda call, x, n, m: call("slice_backward", x, [n + 2, 4], 0, 1, -1, 1),
    "slice scatter": lambda call, x, y, n, m: call("slice_scatter", x, call("slice.Tensor", x, 0, 1), 0, 0, n - 1),
    "first": lambda call, x, n, m: call("select.int", x, 0, 0),
    "last": lambda call, x, n, m: call("select.int", x, 0, -1),
    "third": lambda call, x, n, m: call("select.int", x, 0, 2),
    "select by a size": lambda call, x, n, m: call("select.int", x, 0, n - 2),
    "select backward": lambda call, scalar, n, m: call("select_backward", scalar, [n], 0, -1),
    "unbind": lambda call, x, n, m: call("unbind.int", x, 1),
    "split in halves": lambda call, y, n, m: call("split.Tensor", y, (n + 1) // 2),
    "split in pieces of 4": lambda call, x, n, m: call("split.Tensor", x, 4),
    "split with sizes": lambda call, y, n, m: call("split_with_sizes", y, [n - 1, 1]),
    "cat": lambda call, x, y, n, m: call("cat", [x, y], 1),
    "cat of a slice": lambda call, x, n, m: call("cat", [call("slice.Tensor", x, 0, 1), x], 0),
    "stack": lambda call, x, n, m: call("stack", [x, x], 1),
    "roll": lambda call, x, n, m: call("roll", x, [1], [0]),
    "roll back": lambda call, x, n, m: call("roll", x, [-2], [0]),
    "roll by half": lambda call, x, n, m: call("roll", x, [n // 2], [0]),
    "pad": lambda call, y, n, m: call("constant_pad_nd", y, [1, 2, 0, m], 0.5),
    "crop": lambda call, y, n, m: call("constant_pad_nd", y, [-1, 0, 1, -1]),
    "unfold": lambda call, y, n, m: call("unfold", y, 0, 2, 1),
    "flip": lambda call, y, n, m: call("flip", y, [0, 1]),
    "tril": lambda call, y, n, m: call("tril", y),
    "diagonal": lambda call, y, n, m: call("diagonal", call("slice.Tensor", call("repeat", y, [m, n]), 0, 0, n)),
    "diag_embed": lambda call, y, n, m: call("diag_embed", y),
    "zeros": lambda call, x, n, m: call("zeros", [n, m * 2]),
    "full of a size": lambda call, x, n, m: call("full", [n], n * m),
    "ones like": lambda call, y, n, m: call("ones_like", y),
    "new zeros": lambda call, y, n, m: call("new_zeros", y, [m, n]),
    "filled with a size": lambda call, y, n, m: call("fill.Scalar", y, n),
    "masked by a size": lambda call, y, n, m: call("masked_fill.Scalar", y, call("gt.Scalar", y, 0), n),
    "arange": lambda call, x, n, m: call("arange", n),
    "arange from": lambda call, x, n, m: call("arange.start", m, n + m),
    "arange in steps": lambda call, x, n, m: call("arange.start_step", 0, n, 2),
    "arange backward": lambda call, x, n, m: call("arange.start_step", n, 0, -1),
    "arange of floats": lambda call, x, n, m: call("arange", n, dtype=torch.float32),
    "eye": lambda call, x, n, m: call("eye", n),
    "causal mask": lambda call, y, n, m:
        call("where.self", call("ge.Tensor", call("unsqueeze", call("arange", n), 1), call("arange", m)), y,
             call("scalar_tensor", float("-inf"))),
    "times a size": lambda call, x, n, m: call("mul.Tensor", x, n),
    "over a size": lambda call, x, n, m: call("div.Tensor", x, n * m),
    "plus a multiple by a size": lambda call, x, n, m: call("add.Tensor", x, x, alpha=n),
    "size minus": lambda call, x, n, m: call("rsub.Scalar", x, n),
    "clamped": lambda call, x, n, m: call("clamp", call("mul.Tensor", x, 9.0), 1 - n, n),
    "integers by a size": lambda call, classes, n, m: call("floor_divide", classes, n),
    "compared": lambda call, classes, n, m: call("lt.Scalar", classes, m),
    "mean": lambda call, y, n, m: call("mean", y),
    "mean along": lambda call, y, n, m: call("mean.dim", y, [0], True),
    "var": lambda call, y, n, m: call("var.correction", y, [0]),
    "var of all": lambda call, y, n, m: call("var.correction", y, correction=0),
    "var with a larger correction": lambda call, y, n, m: call("var.correction", y, [0, 1], correction=2.0),
    "std": lambda call, y, n, m: call("std.correction", y, [1], correction=1, keepdim=True),
    "sum": lambda call, y, n, m: call("sum.dim_IntList", y, [0]),
    "norm": lambda call, y, n, m: call("linalg_vector_norm", y),
    "logsumexp": lambda call, y, n, m: call("logsumexp", y, [1]),
    "argmax": lambda call, y, n, m: call("argmax", y, 1),
    "softmax": lambda call, y, n, m: call("_softmax", y, 1, False),
    "log softmax": lambda call, y, n, m: call("_log_softmax", y, 0, False),
    "matrix product": lambda call, x, w, n, m: call("mm", x, w),
    "attention": lambda call, batch, n, m:
        call("bmm", call("_softmax", call("bmm", batch, call("transpose.int", batch, 1, 2)), -1, False), batch),
    "linear": lambda call, x, w, n, m: call("addmm", call("select.int", w, 0, 0), x, w),
    "layer norm": lambda call, batch, w, n, m: call("native_layer_norm", batch, [4], call("select.int", w, 1, 0), None, 1e-5),
    "layer norm over a size": lambda call, y, n, m: call("native_layer_norm", y, [m], None, None, 1e-5),
    "batch norm": lambda call, image, w, n, m:
        call("native_batch_norm", image, call("select.int", w, 1, 0), None, None, None, True, 0.1, 1e-5),
    "group norm": lambda call, image, w, n, m:
        call("native_group_norm", image, call("select.int", w, 1, 0), None, 2, 4, n * m, 2, 1e-5),
    "convolution": lambda call, image, w, n, m:
        call("convolution", image, call("view", call("repeat", w, [3, 1]), [9, 4, 1, 1]), None, [1, 2], [1, 0], [1, 1],
             False, [0, 0], 1),
    "max pool": lambda call, image, n, m: call("max_pool2d_with_indices", image, [2, 2], [1, 2]),
    "average pool": lambda call, image, n, m: call("avg_pool2d", image, [2], [1], [1]),
    "upsampled": lambda call, image, n, m: call("upsample_nearest2d", image, [n * 2, m + 1]),
    "embedding": lambda call, table, rows, n, m: call("embedding", table, rows),
    "embedding backward": lambda call, batch, rows, n, m: call("embedding_dense_backward", batch, rows, 9, -1, False),
    "index": lambda call, table, rows, n, m: call("index.Tensor", table, [rows]),
    "index of rows": lambda call, x, classes, n, m: call("index.Tensor", x, [call("arange", n), classes]),
    "index select": lambda call, table, classes, n, m: call("index_select", table, 0, classes),
    "gather": lambda call, x, classes, n, m: call("gather", x, 1, call("unsqueeze", classes, 1)),
    "scatter": lambda call, x, classes, n, m: call("scatter.value", x, 1, call("unsqueeze", classes, 1), 1.0),
    "cross entropy": lambda call, x, classes, n, m:
        call("nll_loss_forward", call("_log_softmax", x, 1, False), classes, None, 1, -100),
    "squared error": lambda call, y, n, m: call("mse_loss", y, call("zeros_like", y)),
    "squared error backward": lambda call, scalar, y, n, m: call("mse_loss_backward", scalar, y, call("zeros_like", y), 1),
    "smooth error backward": lambda call, scalar, y, n, m:
        call("smooth_l1_loss_backward", scalar, y, call("zeros_like", y), 1, 0.7),
    "binary cross entropy": lambda call, y, n, m: call("binary_cross_entropy_with_logits", y, call("ones_like", y)),
    "glu": lambda call, y, n, m: call("glu", call("cat", [y, y], 1), 1),
}


def given(function):
    """The names of a program's inputs."""
    return function.__code__.co_varnames[1:function.__code__.co_argcount - 2]


def tensors(names, n, m, dtype=torch.float32):
    torch.manual_seed(n * 100 + m)
    return [torch.randn(INPUTS[k](n, m)).to(dtype) if k in INPUTS else torch.randint(0, 4, INTEGERS[k](n, m)) for k in names]


def by_torch(overload, *args, **kwargs):
    packet, _, name = overload.partition(".")
    return getattr(getattr(torch.ops.aten, packet), name or "default")(*args, **kwargs)


class Imported:
    """A program imported with symbols, and the answers that it turned on: expressions that are >= 0, or not."""

    def __init__(self, function, dtype=torch.float32):
        self.asked: list[tuple[Expr, bool]] = []
        b = Builder(ask=self.ask)
        names = given(function)
        inputs = [b.input(k, TensorType(INPUTS[k](N, M), dtype) if k in INPUTS else TensorType(INTEGERS[k](N, M), torch.int64))
                  for k in names]
        for name, size in (("n", N), ("m", M)):
            b.input(f"size_{name}", TensorType((), torch.int64), symbol=size.symbol)
        result = function(functools.partial(self.call, b), *inputs, N, M)
        outputs = [r for r in (result if isinstance(result, (list, tuple)) else [result]) if r is not None]
        self.graph = verify(b.graph("f", outputs))

    def ask(self, e: Expr) -> bool:
        self.asked.append((e, typical(e) >= 0))
        return self.asked[-1][1]

    def call(self, b, overload, *args, **kwargs):
        result = ATEN[overload](b, *args, **kwargs)
        assert result is not NotImplemented, f"{overload} was left to torch"
        return result

    def holds(self, n, m) -> bool:
        return all((e.evaluate({"n": n, "m": m}) >= 0) == truth for e, truth in self.asked)


@pytest.mark.parametrize("name", PROGRAMS)
def test_import_is_right_at_every_size(name):
    function = PROGRAMS[name]
    imported = Imported(function)
    assert any(s in imported.graph.symbols() for s in (N.symbol, M.symbol))
    tried = 0
    for n, m in SIZES:
        if not imported.holds(n, m):
            continue
        inputs = tensors(given(function), n, m)
        theirs = function(by_torch, *inputs, n, m)
        ours = evaluate(imported.graph, [*inputs, torch.tensor(n), torch.tensor(m)])
        theirs = list(theirs) if isinstance(theirs, (list, tuple)) else [theirs]
        for a, t in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, t, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda text: f"n={n}, m={m}: {text}")
        tried += 1
    assert tried >= 2


#: program -> what it asked beyond the symbols' bounds, at n = 6 and m = 5
QUESTIONS = {"first five": {"n - 5 >= 0"}, "last three": {"n - 3 >= 0"}, "third": {"n - 3 >= 0"},
             "first n of a table": {"-n + 9 >= 0"}, "split in pieces of 4": {"not -n + 4 >= 0", "-n + 8 >= 0"},
             "all but the first": set(), "first half": set(), "last": set(), "split in halves": set(), "view with -1": set(),
             "arange": set(), "mean": set(), "var of all": set(), "softmax": set(), "neighbours": set(), "layer norm": set()}


@pytest.mark.parametrize("name", QUESTIONS)
def test_imports_ask_no_more_than_they_must(name):
    asked = {f"{e} >= 0" if truth else f"not {e} >= 0" for e, truth in Imported(PROGRAMS[name]).asked}
    assert asked == QUESTIONS[name]


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.uint8, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("overload", ["mul.Tensor", "add.Tensor", "div.Tensor", "eq.Scalar", "mean", "sum", "var.correction"])
@pytest.mark.parametrize("operand", ["y", "scalar"])
def test_sizes_in_arithmetic_are_python_numbers(operand, overload, dtype):
    """Types and roundings, also next to 0-dim tensors."""
    alone = overload in ("mean", "sum", "var.correction")
    calls = {"y": lambda call, y, n, m: call(overload, y) if alone else call(overload, y, n + m),
             "scalar": lambda call, scalar, n, m: call(overload, scalar) if alone else call(overload, scalar, n + m)}
    function = calls[operand]
    try:
        function(by_torch, *tensors([operand], 3, 4, dtype), 3, 4)
    except RuntimeError:
        pytest.skip("torch refuses this dtype")
    imported = Imported(function, dtype)
    for n, m in ((3, 4), (12, 5), (64, 33)):
        inputs = tensors([operand], n, m, dtype)
        theirs = function(by_torch, *inputs, n, m)
        ours, = evaluate(imported.graph, [*inputs, torch.tensor(n), torch.tensor(m)])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


UNDECIDED = {
    "unbind of a size": (lambda call, x, n, m: call("unbind.int", x, 0), "the size n is needed as a number"),
    "two sizes": (lambda call, x, y, n, m: call("add.Tensor", call("sum.dim_IntList", x, [1]), call("sum.dim_IntList", y, [0])),
                  "do not broadcast"),
    "a view by luck": (lambda call, x, n, m: call("view", x, [m, 4]), "does not reshape"),
    "a division by luck": (lambda call, y, n, m: call("view", y, [2, -1]), "does not reshape|divides"),
    "a power by a size": (lambda call, x, n, m: call("pow.Tensor_Scalar", x, n), "a power by the size n"),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_depends_on_the_sizes_is_unsupported(name):
    function, message = UNDECIDED[name]
    with pytest.raises(Unsupported, match=message):
        Imported(function)


def test_without_anybody_to_ask_an_open_question_is_unsupported():
    b = Builder()
    x = b.input("x", TensorType((N, 4), torch.float32))
    with pytest.raises(Unsupported, match="whether n >= 5 depends on the sizes"):
        ATEN["slice.Tensor"](b, x, 0, 0, 5)
    assert "size=(n - 1, 4)" in show(b.graph("f", [ATEN["slice.Tensor"](b, x, 0, 1)]))


# Binding

def test_a_symbol_must_be_bound():
    b = Builder()
    b.input("x", TensorType((N * 2, 4), torch.float32))
    graph = b.graph("f", [b.full(shape=(N,), value=0, dtype=torch.float32, device=torch.device("cpu"))])
    with pytest.raises(InvalidGraph, match="no input gives the size n"):
        verify(graph)


def test_the_first_place_of_a_symbol_binds_it():
    k = sym("k", 2)
    b = Builder()
    x = b.input("x", TensorType((N * 2, N, M), torch.float32))
    y = b.input("y", TensorType((M, M), torch.float32))
    z = b.input("k", TensorType((), torch.int64), symbol=k.symbol)
    graph = b.graph("f", [x, y, z])
    assert graph.bindings() == {N.symbol: (0, 1), M.symbol: (0, 2), k.symbol: (2, None)}
    assert parse(show(graph)).bindings() == graph.bindings()
