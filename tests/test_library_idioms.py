"""Python as libraries of models are written: lazy modules, configurations that watch their attributes, results that remember
their shapes, layers that ask for types. Each runs as in eager, compiled, in no more programs than it needs."""
import copy
import re
import sys
import threading
import types
from contextvars import ContextVar
from functools import lru_cache

import pytest
import torch
from torch import nn

import smelt

X = torch.arange(6.0).reshape(2, 3)


def calls(function, inputs, programs):
    """The results of a compiled function are eager's, and so many programs at most give them."""
    compiled = smelt.compile(function)
    for given in inputs:
        torch.testing.assert_close(compiled(*given), function(*given), rtol=0, atol=0)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) <= programs, str(report)
    return report


class Watching:
    def __getattribute__(self, key):
        return super().__getattribute__(key)


class Config(Watching):
    def __init__(self):
        self.scale = 2.0

    def get(self, name):
        return self.__dict__[name]


def test_a_class_below_one_with_attribute_access_of_its_own():
    config = Config()
    calls(lambda x: x * config.scale + len(vars(type(config))), [(X,)] * 4, 1)
    calls(lambda x: x * config.get("scale"), [(X,)] * 4, 1)


def test_attributes_looked_up_in_a_dict_many_times_are_guarded_once():
    config = Config()
    for k in range(40):
        setattr(config, f"a{k}", k)

    def f(x):
        for _ in range(600):
            x = x + config.get("a0")
        return x
    calls(f, [(X,)] * 2, 1)
    config.a0 = 1
    calls(f, [(X,)], 1)


class Lazy(types.ModuleType):
    FLAG = True

    def __getattr__(self, name):
        raise AttributeError(name)


@pytest.fixture
def lazy(monkeypatch):
    package, part = Lazy("lazy_package"), types.ModuleType("lazy_package.part")
    package.__path__, package.factor, package.part, part.factor = [], 3.0, part, 4.0
    monkeypatch.setitem(sys.modules, "lazy_package", package)
    monkeypatch.setitem(sys.modules, "lazy_package.part", part)
    return package


def test_modules_of_a_class_of_their_own(lazy):
    def imports(x):
        from lazy_package import factor
        from lazy_package.part import factor as other
        return x * factor + other

    def never(x, debug=False):
        if debug:
            import lazy_package
            return lazy_package
        return x * 2
    for f in (imports, never, lambda x: x * lazy.factor if lazy.FLAG else x):
        compiled = smelt.compile(f)
        for factor in (3.0, 3.0, 5.0, 7.0):
            lazy.factor = factor
            assert torch.equal(compiled(X), f(X))
        assert smelt.explain(compiled).compiled


def test_a_context_variable_that_is_set_and_reset():
    active = ContextVar("active", default=None)

    def f(x):
        token = active.set([])
        try:
            active.get().append(x * 2)
            return active.get()[0] + 1
        finally:
            active.reset(token)
    calls(f, [(X,)] * 3, 1)

    def leaves(x):
        active.set(float(active.get() or 0) + 1)
        return x * active.get()
    compiled = smelt.compile(leaves)
    with pytest.warns(smelt.SmeltWarning, match="changes closure active"):
        assert [compiled(X)[1, 2].item() for _ in range(3)] == [5, 10, 15]
    assert active.get() == 3


def _scaled(x, s):
    return x * s if isinstance(s, float) else x


def _counted(x, s):
    return x * s if type(s) is int else x


def test_methods_named_like_builtins():
    for f in (lambda x: _scaled(x.float(), 2.0), lambda x: _counted(x.int(), 2), lambda x: _scaled(x, 2.0)):
        calls(f, [(X,)] * 3, 1)


def test_the_names_in_a_module():
    module = types.ModuleType("names_in_it")
    exec("one = 2.0", vars(module))
    calls(lambda x: x * getattr(module, [n for n in dir(module) if n == "one"][0]), [(X,)] * 3, 1)


@pytest.mark.parametrize("look", [dir, vars], ids=lambda f: f.__name__)
def test_a_module_shows_no_stand_in_to_who_looks_through_it(look):
    module = types.ModuleType("looked_through")
    exec("def g(x): return x * (2 if type(x.shape[0]) is int else 3) + float(x.shape[1]) + len(x)", vars(module))
    names = {"dir": lambda: dir(module), "vars": lambda: [*vars(module)]}[look.__name__]
    for told in (lambda: len([n for n in names() if not n.startswith("_")]),
                 lambda: hasattr(module, "type") + 2 * (getattr(module, "float", None) is None)):
        compiled = smelt.compile(lambda x: module.g(x) * told() + module.g(x))
        for n in (2, 3, 4, 5, 5):
            x = torch.ones(n, 4)
            assert torch.equal(compiled(x), module.g(x) * told() + module.g(x))
        assert smelt.explain(compiled).compiled


def _library_of(x, known):
    found = known.get(type(x))
    if found is not None:
        return found
    for name in ("numpy", "torch"):
        if name in sys.modules:
            return name


def test_modules_sought_by_computed_names_on_a_line_that_is_not_reached():
    known = {torch.Tensor: "torch"}
    calls(lambda x: x * 2 if _library_of(x, known) == "torch" else x, [(X,)] * 3, 1)
    compiled = smelt.compile(lambda x: x * 2 if _library_of(x, {}) == "numpy" else x)
    with pytest.warns(smelt.SmeltWarning, match="looks for modules by names that it computes"):
        assert torch.equal(compiled(X), X * 2)


@lru_cache(1024)
def _halved(shape, by=2):
    return shape[0], by, shape[1] // by


def test_shapes_that_a_function_remembers():
    inputs = [(torch.arange(4.0 * n).view(n, 4),) for n in (2, 3, 4, 5, 3)]
    calls(lambda x: x.reshape(_halved(tuple(x.shape))) * 2, inputs, 2)
    calls(lambda x: x.reshape(_halved((x.size(0), 4), by=x.size(1))) * 2, inputs, 2)


def test_a_tensor_tells_its_type_whatever_its_sizes():
    inputs = [(torch.arange(4.0 * n).view(n, 4),) for n in (2, 3, 4, 5)]
    calls(lambda x: (x * 2).sum(-1) if str(type(x)).startswith("<class 'torch.") else x, inputs, 2)


def test_a_type_in_a_message_leaves_numbers_symbolic():
    class Net(nn.Linear):
        layers = [1]

        def forward(self, x):
            if x.dim() != 2:
                raise TypeError(f"not {type(self.layers[0])}")
            return super().forward(x)
    torch.manual_seed(0)
    nets = [net := Net(3, 2), copy.deepcopy(net)]
    optimizers = [torch.optim.AdamW(n.parameters(), lr=1e-2) for n in nets]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]

    def step(k, x):
        optimizers[k].zero_grad()
        loss = nets[k](x).square().mean()
        loss.backward()
        optimizers[k].step()
        schedules[k].step()
        return loss.detach()
    compiled = smelt.compile(step)
    for n in range(6):
        torch.testing.assert_close(compiled(0, X + n), step(1, X + n))
    torch.testing.assert_close(list(nets[0].parameters()), list(nets[1].parameters()))
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) <= 3, str(report)


def test_draws_of_torchs_own_calls_and_of_kernels_stay_in_order():
    def f(x):
        h = x * 2
        z = torch.poisson(h.sigmoid())
        return z, h * torch.rand(2, 3)
    compiled = smelt.compile(f, fullgraph=True)
    for seed in range(3):
        torch.manual_seed(seed)
        found = compiled(X)
        torch.manual_seed(seed)
        assert all(map(torch.equal, found, f(X)))


def test_batch_norm_in_float64_for_changing_batches():
    norm = nn.BatchNorm2d(4).double()
    twin = copy.deepcopy(norm)
    compiled = smelt.compile(twin)
    for n in (2, 3, 5, 7):
        x = torch.randn(n, 4, 3, 3, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), norm(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(twin.running_var, norm.running_var, rtol=1e-14, atol=0)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == 2 and not any(p.broken for p in report.programs)


def test_products_of_lengths_that_may_be_negative_for_what_is_known():
    def f(x):
        h = x[:, :(x.shape[1] + 3) // 4 - 2]
        return (h + 1).contiguous() @ (h * 2).transpose(1, 2).contiguous()
    compiled = smelt.compile(f)
    for n in (2, 3, 4, 5):
        x = torch.randn(n, 25 + n * 4, 8)
        torch.testing.assert_close(compiled(x), f(x))
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) == 2, str(report)


def test_a_table_of_a_schedule_at_a_step_that_is_a_tensor():
    table, grid = torch.linspace(0, 1, 20), torch.arange(12.0).view(3, 4)
    steps = [(X, torch.tensor(t, dtype=dtype)) for t in (16, 12, 8, 4, 9) for dtype in (torch.int64, torch.int32)]
    calls(lambda x, t: x * table[t], steps, 4)
    calls(lambda x, t: x * grid[t % 3, 1:].sum(), steps, 8)

    def written(x, t):
        x = x.clone()
        x[:, t % 3] = table[t]
        return x
    calls(written, steps, 8)


def test_a_factor_that_is_a_tensor():
    def f(x, g):
        ratio = g.norm() / 8
        return x.add(g, alpha=-0.5 * ratio), torch.addmm(x, x @ x.T, g, alpha=ratio, beta=ratio * 2)
    torch.manual_seed(0)
    compiled = smelt.compile(f)
    for _ in range(7):
        g = torch.rand(2, 3)
        torch.testing.assert_close(compiled(X, g), f(X, g))
    report = smelt.explain(compiled)
    assert report.compiled and len(report.programs) <= 8, str(report)


def test_what_torch_has_no_gradient_of():
    x = torch.randn(3, requires_grad=True)
    for f in (lambda x: (x // 2).sum(), lambda x: torch.floor_divide(x, x).sum()):
        compiled = smelt.compile(f)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="derivative for aten::floor_divide is not implemented"):
                compiled(x).backward()
    calls(lambda x: torch.div(x, 2, rounding_mode="floor"), [(x,)] * 3, 1)


class Kind:
    factor = 2.0


KINDS = {Kind, int}


def test_sets_of_classes_that_are_asked_and_looked_through(monkeypatch):
    def asks(x):
        if float not in KINDS:
            KINDS.add(float)
        return x * 2 if Kind in KINDS else x

    def looks(x):
        for kind in KINDS:
            x = x * getattr(kind, "factor", 1.0)
        return x

    def both(x):
        return looks(x) if int in KINDS else x
    monkeypatch.setitem(globals(), "KINDS", {Kind, int, float})
    calls(asks, [(X,)] * 3, 1)
    report = calls(lambda x: x * (2 if Kind in KINDS else 3), [(X,)] * 3, 1)
    assert not any("factor" in str(g) for g in report.programs[0].guards)
    for function in (looks, both):
        compiled = smelt.compile(function)
        for factor in (2.0, 3.0, 3.0, 4.0, 5.0):
            monkeypatch.setattr(Kind, "factor", factor)
            assert torch.equal(compiled(X), X * factor)
        assert smelt.explain(compiled).compiled
    compiled = smelt.compile(asks)
    assert torch.equal(compiled(X), X * 2)
    KINDS.remove(Kind)
    assert torch.equal(compiled(X), X)
    KINDS.add(Kind)
    assert torch.equal(compiled(X), X * 2)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_fused_optimizers_take_any_learning_rate(optimizer):
    torch.manual_seed(0)
    nets = [nn.Linear(4, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())

    def step_of(net):
        steps = optimizer(net.parameters(), lr=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, 20)

        def step(x):
            steps.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            steps.step()
            schedule.step()
            return loss.detach()
        return step
    eager, compiled = step_of(nets[0]), smelt.compile(step_of(nets[1]))
    for _ in range(6):
        x = torch.randn(5, 4)
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(*(dict(n.named_parameters()) for n in nets))
    assert smelt.explain(compiled).compiled and len(smelt.explain(compiled).recompilations) == 1


def test_products_of_groups_of_any_size():
    """Which torch knows the sizes of, on the meta device, for one dtype alone."""
    weight = torch.randn(3, 8, 16)
    inputs = [(torch.randn(n, 8), torch.tensor([1, n // 2, n], dtype=torch.int32)) for n in (6, 8, 9, 12)]
    calls(lambda x, ends: nn.functional.grouped_mm(x, weight, offs=ends), inputs, 2)


LOCK, INSTALLED = threading.Lock(), {"done": False}


def install():
    if not INSTALLED["done"]:
        with LOCK:
            INSTALLED["done"] = True


def test_a_lock_around_what_is_done_once():
    def f(x):
        install()
        return x * 2
    install()
    calls(f, [(X,)] * 3, 1)
    assert type(LOCK) is type(threading.Lock())
    INSTALLED["done"] = False
    compiled = smelt.compile(f)
    with pytest.warns(smelt.SmeltWarning, match="reads global LOCK, a lock"):
        compiled(X)
    for _ in range(3):
        torch.testing.assert_close(compiled(X), X * 2)
    assert len(smelt.explain(compiled).programs) == 1 and not LOCK.locked()


def test_calls_of_which_nothing_is_kept_say_why():
    state = {"steps": None}

    def f(x):
        if state["steps"] is None:
            state["steps"] = 1
            x.seen = True
        return x + 1
    compiled = smelt.compile(f)
    with pytest.warns(smelt.SmeltWarning, match="sets attributes of x"):
        compiled(X)
    for _ in range(3):
        compiled(X)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.passing) == 1 and "sets attributes of x" in report.passing[0], str(report)
    assert "eager, in calls of which nothing is kept:" in str(report)


def test_items_of_a_batch_that_nobody_reads():
    def f(batch):
        return batch["x"] * 2
    calls(f, [({"x": X, "name": [f"{k}.png"] * k, "extra": torch.ones(k)},) for k in range(4)], 1)


def test_logs_in_dicts_of_dicts_are_not_guarded():
    history = {"train": {"loss": []}, "test": {"loss": []}}

    def f(x):
        history["train"]["loss"].append(x.sum().item())
        return x * 2
    compiled = smelt.compile(f)
    for k in range(6):
        torch.testing.assert_close(compiled(X + k), (X + k) * 2)
    report = smelt.explain(compiled)
    assert report.compiled and len(report.recompilations) <= 1 and len(history["train"]["loss"]) == 6, str(report)


def test_tensors_that_are_swapped_between_calls_and_within_one():
    """torch.utils.swap_tensors takes no tensor that has a weak reference."""
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    compiled = smelt.compile(net)
    for _ in range(3):
        torch.testing.assert_close(compiled(X), net(X))
        torch.utils.swap_tensors(net.weight, other.weight)
    one, two = torch.ones(3), torch.zeros(2)

    def f():
        torch.utils.swap_tensors(one, two)
        return one + 1
    swapping = smelt.compile(f)
    with pytest.warns(smelt.SmeltWarning, match="swap_tensors"):
        assert swapping().shape == (2,)
    assert [swapping().shape[0] for _ in range(4)] == [3, 2, 3, 2]


def _accepts(kind, value):
    """As checks of annotations do."""
    return isinstance(kind, type) and isinstance(value, kind)


def test_whether_something_is_a_class_is_no_question_to_numbers():
    def f(x, k):
        scale = x.sum().item() if _accepts(int, k) else 1.0
        return x * scale + k
    calls(f, [(torch.arange(3.0) + k, k) for k in (1, 2, 3, 4, 5)], 3)


def test_names_that_mean_something_elsewhere():
    """`re.compile` is not torch's, and a variable called `__dict__` is no look at a class."""
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def __getattr__(self, name):
            __dict__ = self.__dict__
            modules = __dict__.get("_modules")
            return modules[name] if modules and name in modules else super().__getattr__(name)

        def forward(self, x):
            return self.act(x)

    class Options:
        pass

    def asks(x):
        known = {"options": Options()}
        return x * 2 if "scale" not in known["options"].__dict__ else x
    calls(lambda x: torch.relu(x) if re.compile("ab+").match("abb") else x, [(X,)] * 3, 1)
    calls(Keeping(), [(X,)] * 3, 1)
    calls(asks, [(X,)] * 3, 1)


def test_nan_as_a_constant_leaves_sizes_symbolic():
    rows = [(torch.arange(float(n)),) for n in (4, 5, 6, 7)]

    def f(x):
        return x.masked_fill(x > 2, float("nan")).nan_to_num(7.0), torch.where(x > 1, x, float("nan")).isnan()
    calls(f, rows, 2)


def test_bags_of_embeddings_and_masks_written_to():
    """Results that nobody looks at; what a repeated run finds in tensors that the first one wrote to."""
    mean, total = nn.EmbeddingBag(9, 4, mode="mean"), nn.EmbeddingBag(9, 4, mode="sum")

    def bags(a, b, offsets, w):
        return mean(a, offsets) + total(b, offsets, per_sample_weights=w)
    offsets = torch.tensor([0, 2])
    calls(bags, [(torch.arange(n) % 9, torch.arange(m) % 9, offsets, torch.arange(float(m)))
                 for n, m in ((4, 7), (5, 6), (6, 8), (7, 5))], 2)

    def masked(x):
        x = x.clone()
        return write(x)

    @smelt.compile
    def written(x):
        return write(x)

    def write(x):
        for least in (40, 50):
            mask = x > least
            x[mask] = x.flip(0)[mask]
        return x
    for n in (16, 19, 22, 16, 19):
        x = torch.arange(8 * n).reshape(8, n) * 7 % 60
        torch.testing.assert_close(written(x.clone()), masked(x))
    assert len(smelt.explain(written).recompilations) <= 2, str(smelt.explain(written))
