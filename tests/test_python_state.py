"""State of Python's own that library models read: context variables, the environment, and result objects of their own."""
import os
import warnings
import weakref
from contextvars import ContextVar
from functools import lru_cache

import pytest
import torch
from torch import nn

import smelt
from smelt.compiler.evaluate import evaluate
from smelt.frontend import api
from smelt.frontend.api import compiled_function

scale = ContextVar("scale", default=None)


class Layer:
    def __init__(self, keys):
        self.keys, self.count = keys, 1


class Cache:
    def __init__(self):
        self.layers = []

    def total(self):
        return sum(layer.count for layer in self.layers)


def test_a_context_variable_is_guarded():
    @smelt.compile(fullgraph=True)
    def f(x):
        factor = scale.get()
        return x * (1.0 if factor is None else factor)

    x = torch.arange(3.0)
    assert torch.equal(f(x), x) and torch.equal(f(x), x)
    token = scale.set(3.0)
    assert torch.equal(f(x), 3 * x) and torch.equal(f(x), 3 * x)
    scale.reset(token)
    assert torch.equal(f(x), x) and len(f.programs) == 2


@pytest.mark.parametrize("read", [lambda: os.environ.get("SMELT_TEST_SCALE", "1"), lambda: os.getenv("SMELT_TEST_SCALE", "1")])
def test_the_environment_is_guarded(read, monkeypatch):
    f = smelt.compile(lambda x: x * float(read()), fullgraph=True)
    x = torch.arange(3.0)
    for _ in range(2):
        assert torch.equal(f(x), x)
    monkeypatch.setenv("SMELT_TEST_SCALE", "4")
    for _ in range(2):
        assert torch.equal(f(x), 4 * x)


def test_objects_made_by_the_run_are_made_again():
    @smelt.compile(fullgraph=True)
    def f(x):
        cache = Cache()
        cache.layers.append(Layer(x * 2))
        return x + 1, cache

    made = [f(torch.full((3,), float(k)))[1] for k in range(3)]
    assert [c.layers[0].keys[0].item() for c in made] == [0.0, 2.0, 4.0]
    assert len({id(c) for c in made}) == len({id(c.layers) for c in made}) == 3
    assert all(type(c) is Cache and type(c.layers[0]) is Layer and c.total() == 1 for c in made)


def test_gradients_in_float64_pass_ops_that_may_draw_random_numbers():
    """The attention call has a dropout: the judge of a first backward evaluates it in float64, and differentiates that."""
    f = smelt.compile(lambda q: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    f(q)
    graph = compiled_function(f).programs[0].run.compilation.graphs["recorded"]
    out, = evaluate(graph, [q.detach().double().requires_grad_()], precise=True)
    assert out.dtype == torch.float64 and out.requires_grad


@pytest.mark.parametrize("maxsize", [None, 8])
def test_a_function_that_remembers(maxsize):
    """Of results remembered for objects and by keywords, no matter whether the run or a call before it had them computed."""
    asked = []

    @lru_cache(maxsize)
    def scale_of(layer, *, twice):
        asked.append(layer)
        return 2 * layer.count if twice else layer.count

    layer = Layer(None)
    f = smelt.compile(lambda x: x * scale_of(layer, twice=True))
    x = torch.arange(3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smelt.SmeltWarning)
        for _ in range(4):
            assert torch.equal(f(x), 2 * x) and asked == [layer]
    assert smelt.explain(f).compiled
    scale_of.cache_clear()
    layer.count = 2
    assert torch.equal(f(x), 4 * x) and torch.equal(f(x), 4 * x) and asked == [layer] * 2


@pytest.mark.parametrize("maxsize", [None, 8])
def test_what_others_have_a_function_remember_is_no_reason_to_record_again(maxsize):
    @lru_cache(maxsize)
    def table(n):
        return torch.arange(float(n))

    f = smelt.compile(lambda x: x * table(3), fullgraph=True)
    x = torch.arange(3.0)
    for n in (3, 1, 2, 1, 4):
        assert torch.equal(f(x), x * x)
        table(n)
    assert len(compiled_function(f).programs) == 1 and smelt.explain(f).compiled


def test_warnings_are_no_reason_to_run_eagerly():
    def f(x):
        with torch.cuda.amp.autocast(enabled=False):  # deprecated
            return x * 2

    compiled = smelt.compile(f, fullgraph=True)
    for action in ("ignore", "always", "default"):
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter(action)
            compiled(torch.ones(3))
        assert [w.category for w in given] == [FutureWarning] * (action != "ignore")
    assert smelt.explain(compiled).compiled


def test_a_weak_reference_to_what_is_found_later():
    """Recurrent nets look at weak references to their weights before they look at these."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.reference = weakref.ref(self.weight)

        def forward(self, x):
            return x * 2 if self.reference() is self.weight else x
    f = smelt.compile(Net(), fullgraph=True)
    for _ in range(3):
        assert torch.equal(f(torch.ones(3)), torch.full((3,), 2.0))


def test_a_module_loaded_in_a_run_finds_torch_as_it_is(tmp_path, monkeypatch):
    class Marked(torch.Tensor):
        pass
    (tmp_path / "loaded_in_a_run.py").write_text("import torch\nnew = torch.Tensor.__new__\n")
    monkeypatch.syspath_prepend(tmp_path)

    @smelt.compile
    def f(x, total):
        total.add_(x)
        import loaded_in_a_run
        return loaded_in_a_run.new, Marked(x)
    for n in range(1, 4):
        new, marked = f(torch.ones(2), total := torch.zeros(2))
        assert new is torch.Tensor.__new__ and type(marked) is Marked and total.sum() == 2


@pytest.mark.filterwarnings("ignore::smelt.SmeltWarning")
def test_parameters_that_have_no_shape_yet():
    net = nn.Sequential(nn.LazyLinear(3))
    counted = smelt.compile(lambda x: x * sum(isinstance(p, nn.UninitializedParameter) for p in net.parameters()))
    assert [counted(torch.ones(2))[0] for _ in range(2)] == [2, 2] and counted.programs[0].run is None
    net(torch.ones(2))
    assert [counted(torch.ones(2))[0] for _ in range(2)] == [0, 0] and counted.programs[0].run is not None


def test_long_paths_that_no_call_takes_are_not_recorded_for_ever(monkeypatch):
    monkeypatch.setattr(api, "UNUSED_LIMIT", 2)
    x, log = torch.ones(3), []

    def plain(x, seen):
        for n in range(17):
            x = x + 1 if x.sum() > 9 * seen + n else x * 1.1
        return x

    @smelt.compile
    def f(x):
        log.append(1)
        return plain(x, len(log))
    with pytest.warns(smelt.SmeltWarning, match="recorded along many paths, .* which no other call took") as warned:
        for calls in range(1, 6):
            assert torch.allclose(f(x), plain(x, calls)) and len(log) == calls
    assert len(warned) == 1 and len(f.programs) <= 2
