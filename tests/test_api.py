"""What `compile` accepts, what a compiled object still is, and when a call is left to eager."""
import copy
import functools
import gc
import inspect
import io
import os
import pickle
import sys
import threading
import timeit
import warnings
import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from smelt import config
from smelt.collector import at_rest
from smelt.errors import BuildError, SmeltWarning, Unsupported
from smelt.frontend import api
from smelt.frontend.api import CompiledFunction, compiled_function

from .common import build, equal, programs

X = torch.arange(6.0).reshape(2, 3)
FACTOR = 2.0


def compiled(function=None, **options):
    return api.compile(function, build=build, **options)


def again(module):
    """How a copy of a module is compiled: a function that pickle finds by its name."""
    return api.compile(module, build=build, again=again, fullgraph=True)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))

    def twice(self, x):
        return self(x) * 2


class Holder:
    def __init__(self, k):
        self.k = k

    @compiled
    def method(self, x):
        return x * self.k

    @compiled
    @staticmethod
    def static(x):
        return x + 1

    @classmethod
    @compiled
    def of_class(cls, x):
        return x + len(cls.__name__)

    def __call__(self, x):
        return x - self.k


# What can be compiled

def test_functions_and_decorators():
    @compiled
    def bare(x, k=2.0):
        """Doc."""
        return x * k

    @compiled(fullgraph=True)
    def called(x):
        return x + 1
    assert bare.__name__ == "bare" and bare.__doc__ == "Doc." and str(inspect.signature(bare)) == "(x, k=2.0)"
    equal(bare.__wrapped__(X), X * 2)
    for _ in range(2):
        equal(bare(X), X * 2)
        equal(bare(X, k=3.0), X * 3)
        equal(bare(X, 3.0), X * 3)
        equal(called(X), X + 1)
    assert len(bare.programs) == 3 and len(called.programs) == 1
    equal(compiled(functools.partial(torch.add, alpha=2))(X, X), X * 3)
    equal(compiled(torch.nn.functional.relu)(-X), torch.relu(-X))
    assert compiled(bare) is bare
    with pytest.raises(TypeError, match="int"):
        compiled(3)


@compiled
def by_name(x):
    return x + 1


def test_a_compiled_function_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(by_name)) is by_name


def test_disable():
    def f(x):
        return x + 1
    assert compiled(f, disable=True) is f
    g = compiled(f)
    config.disable = True
    try:
        equal(g(X), X + 1)
        assert not g.programs
    finally:
        config.disable = False


def test_methods_have_programs_of_their_own():
    a, b = Holder(2.0), Holder(3.0)
    for _ in range(2):
        equal(a.method(X), X * 2)
        equal(b.method(X), X * 3)
    assert len(programs(a.method)) == len(programs(b.method)) == 1
    a.k = 5.0
    equal(a.method(X), X * 5)
    assert len(programs(a.method)) == 2
    assert Holder.method is vars(Holder)["method"] and str(inspect.signature(a.method)) == "(x)"
    equal(Holder.static(X), X + 1)
    equal(Holder.of_class(X), X + 6)
    equal(a.of_class(X), X + 6)
    f = compiled(a)
    equal(f(X), X - 5)
    a.k = 6.0
    equal(f(X), X - 6)


def test_methods_do_not_keep_their_instance_alive():
    a = Holder(2.0)
    a.method(X)
    alive = weakref.ref(a)
    methods = vars(Holder)["method"]._methods
    key = id(a)
    assert key in methods
    del a
    gc.collect()
    assert alive() is None and key not in methods


def test_copied_object_does_not_share_programs():
    a = Holder(2.0)
    a.method(X)
    b = copy.copy(a)
    b.k = 7.0
    equal(b.method(X), X * 7)
    equal(a.method(X), X * 2)


# Results

@dataclass
class Output:
    logits: torch.Tensor
    loss: float = 0.0


class Mapping(OrderedDict):
    pass


class Named(dict):
    """Its items are its attributes, too."""
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Fields(OrderedDict):
    def __init__(self, **fields):
        super().__init__(**fields)
        self.count = len(fields)

    def to_tuple(self):
        return tuple(self.values())


def test_dicts_of_classes_in_python_are_results():
    f = compiled(lambda x: (Named(a=x * 2, b=Named(k=1)), Fields(a=x + 1, b=x)), fullgraph=True)
    for k in range(3):
        named, fields = f(X + k)
        assert type(named) is type(named.b) is Named and named.b.k == 1 and type(fields) is Fields and fields.count == 2
        equal(named.a, (X + k) * 2)
        equal(fields.to_tuple()[0], X + k + 1)
    assert len(f.programs) == 1


def test_dicts_of_classes_in_python_are_given_anew_on_every_call():
    f = compiled(lambda batch: batch.x * batch["y"], fullgraph=True)
    for k in range(5):
        equal(f(Named(x=X + k, y=X)), (X + k) * X)
    assert len(f.programs) == 2  # the first one is of that object
    equal(f(Named(x=X, y=X, more=1)), X * X)
    with pytest.raises(KeyError):
        f(Named(x=X))


def test_structure_of_results():
    Pair = namedtuple("Pair", "a b")

    def f(x, items):
        y = x + 1
        shared = [y, y]
        return {"pair": Pair(y, x * 2), "list": shared, "again": shared, "items": items, "x": x, "n": x.shape, "none": None,
                "output": Output(x * 3, 2.5), "ordered": OrderedDict(k=(y,)), "set": {1, 2}, "t": type(x), "items0": items[0],
                "slice": slice(1, y)}
    g = compiled(f, fullgraph=True)
    for _ in range(2):
        items = [X * 5]
        ours, theirs = g(X, items), f(X, items)
        assert list(ours) == list(theirs) and all(type(a) is type(b) for a, b in zip(ours.values(), theirs.values()))
        assert ours["list"] is ours["again"] and ours["list"][0] is ours["list"][1] is ours["pair"].a
        assert ours["items"] is items and ours["x"] is X and ours["items0"] is items[0]
        equal(ours["pair"].b, X * 2)
        equal(ours["output"].logits, X * 3)
        assert ours["output"].loss == 2.5 and ours["ordered"]["k"][0] is ours["list"][0]
        assert ours["n"] == X.shape and ours["set"] == {1, 2} and ours["t"] is torch.Tensor
        assert ours["slice"].start == 1 and ours["slice"].stop is ours["list"][0]
    assert len(g.programs) == 1
    assert g(X, [X])["list"] is not g(X, [X])["list"]


def test_objects_from_outside_keep_their_identity():
    cache = {"a": X}
    holder = Holder(1.0)
    f = compiled(lambda x: (x + 1, cache, holder, holder.k), fullgraph=True)
    for _ in range(2):
        _, c, h, k = f(X)
        assert c is cache and h is holder and k == 1.0


@pytest.mark.parametrize("make, reason", [
    (lambda x: Exception(x), "returns an object of type Exception"),
    (lambda x: (y for y in [x]), "generator"),
    (lambda x: (lambda: x), "function"),
    (lambda x: (lambda r: (r.append(r), r)[1])([x]), "holds itself"),
])
def test_results_that_cannot_be_made_again(make, reason):
    f = compiled(make)
    with pytest.warns(SmeltWarning, match=reason):
        f(X)
    assert type(f(X)) is type(make(X))
    assert f(X) is not f(X)


def test_tensors_made_by_a_run_are_new_every_time():
    f = compiled(lambda x: x + 1, fullgraph=True)
    a, b = f(X), f(X)
    a.zero_()
    equal(b, X + 1)
    equal(f(X), X + 1)


def test_mutated_argument():
    def f(x):
        x.mul_(2)
        return x.sum()
    g = compiled(f, fullgraph=True)
    for _ in range(3):
        a, b = X.clone(), X.clone()
        equal(g(a), f(b))
        equal(a, b)
    assert len(g.programs) == 1


def test_gradients_flow():
    net = Net()
    f = compiled(net)
    for _ in range(2):
        x = X.clone().requires_grad_()
        f(x).sum().backward()
        ours, net_grads = x.grad, [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        x = X.clone().requires_grad_()
        net(x).sum().backward()
        equal(ours, x.grad)
        for a, b in zip(net_grads, net.parameters()):
            equal(a, b.grad)
        net.zero_grad()
    assert len(programs(f)) == 1


# When a call is left to eager

def test_unsupported_warns_once_or_raises():
    def f(x):
        return x * 2 if x.numpy().sum() > 0 else x
    g = compiled(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            equal(g(X), X * 2)
            equal(g(-X), -X)
    told = [w for w in caught if w.category is SmeltWarning]
    assert len(told) == 1 and told[0].filename == __file__ and "test_api.py:" in str(told[0].message)
    assert len(g.programs) == 1 and g.programs[0].run is None and "reads a tensor" in g.programs[0].reason
    with pytest.raises(Unsupported, match="reads a tensor"):
        compiled(f, fullgraph=True)(X)


def test_build_that_fails():
    def fails(recordings):
        raise BuildError("no compiler")
    f = api.compile(lambda x: x + 1, build=fails)
    with pytest.warns(SmeltWarning, match="no compiler"):
        equal(f(X), X + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal(f(X), X + 1)


def test_a_program_found_wrong_is_not_used_again():
    f = compiled(lambda x: x + 1)
    f(X)
    f.programs[0].run.broken = "gave another result"
    f.programs[0].run.forward = None
    equal(f(X), X + 1)


def test_program_limit():
    f = compiled(lambda x, k: x * range(99)[int(k)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(config.program_limit + 5):
            equal(f(X, float(k)), X * k)
    assert len(f.programs) == config.program_limit
    told, = [str(w.message) for w in caught if w.category is SmeltWarning]
    assert "(int(k)) 15 -> 16" in told
    assert f.recompilations[0] == "<lambda>: k 0.0 -> 1.0"


def test_exceptions_pass_through():
    def f(x, bad):
        if bad:
            raise ValueError("mine")
        return x + 1
    g = compiled(f)
    for _ in range(2):
        with pytest.raises(ValueError, match="^mine$"):
            g(X, True)
        equal(g(X, False), X + 1)
    assert len(g.programs) == 1


def test_other_modes_see_every_op():
    f = compiled(lambda x: torch.sin(x) + 1)
    f(X)
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))
    with Mode():
        equal(f(X), torch.sin(X) + 1)
    assert torch.sin in seen
    from torch._subclasses import FakeTensorMode
    with FakeTensorMode() as mode:
        assert type(f(mode.from_tensor(X))).__name__ == "FakeTensor"
    assert len(f.programs) == 1


def test_transforms_and_tracers():
    f = compiled(lambda x: torch.sin(x) * 2)
    f(X), f(X[0])
    count = len(f.programs)
    equal(torch.vmap(f)(X), torch.sin(X) * 2)
    equal(torch.func.grad(lambda x: f(x).sum())(X), torch.cos(X) * 2)
    equal(torch.func.jvp(f, (X,), (torch.ones_like(X),))[1], torch.cos(X) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(f, (X,), check_trace=False)
    equal(traced(X + 1), torch.sin(X + 1) * 2)
    assert len(f.programs) == count


def test_under_a_profiler():
    f = compiled(lambda x: x + 1)
    before, calls = sys.getprofile(), []
    sys.setprofile(lambda *event: calls.append(event))
    try:
        f(X)
    finally:
        sys.setprofile(before)
    assert calls and not f.programs
    equal(f(X), X + 1)
    assert len(f.programs) == 1


def test_nested_compiled_functions():
    inner = compiled(lambda x: x * FACTOR)

    def outer(x):
        return inner(x) + Holder(1.0).method(x)
    f = compiled(outer, fullgraph=True)
    global FACTOR
    for value in (2.0, 3.0):
        FACTOR = value
        for _ in range(2):
            equal(f(X), X * value + X)
    assert len(f.programs) == 2 and not inner.programs
    FACTOR = 2.0


def test_threads():
    f = compiled(lambda x, k: torch.sin(x) * k)
    wrong = []

    def work(k):
        for _ in range(50):
            if not torch.equal(f(X, float(k % 3)), torch.sin(X) * float(k % 3)):
                wrong.append(k)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and len(f.programs) <= 3


def test_call_overhead():
    f = compiled(lambda x: x + 1)
    f(X)
    nothing = [X]

    def run(tensors):
        return nothing
    run.broken = ""
    f.programs[0].run = run
    assert min(timeit.repeat(lambda: f(X), number=2000, repeat=5)) / 2000 < 20e-6  # about 1.5 us on a quiet machine


# Modules

def test_compiled_module_is_the_module():
    net = Net()
    f = compiled(net)
    assert isinstance(f, Net) and type(f).__name__ == "Net"
    equal(f(X), net(X))
    equal(f.forward(X), net(X))
    equal(f.twice(X), net.twice(X))
    assert list(f.state_dict()) == list(net.state_dict()) and list(f.parameters()) == list(net.parameters())
    f.eval()
    assert not net.training and not net.fc1.training
    f.extra = 3
    assert net.extra == 3
    f.to(torch.float64)
    equal(f(X.double()), net(X.double()))
    assert compiled(f) is f and repr(f) == repr(net)
    assert type(type(f)()) is Net


def test_optimizer_and_load_state_dict_need_no_program():
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    f = compiled(net, fullgraph=True)
    for model in (f, plain):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().sum().backward()
            optimizer.step()
    equal(f(X), plain(X))
    f.load_state_dict(Net().state_dict())
    equal(f(X), net(X))
    assert len(programs(f)) == 1


def test_copies_of_modules():
    net = again(Net())
    net(X)
    other = copy.deepcopy(net)
    equal(other(X), net(X))
    with torch.no_grad():
        other.fc1.weight.zero_()
    assert not torch.equal(other(X), net(X))
    assert isinstance(other, Net) and programs(other) and programs(other) != programs(net)
    loaded = pickle.loads(pickle.dumps(net))
    equal(loaded(X), net(X))
    assert programs(loaded)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    equal(torch.load(file, weights_only=False)(X), net(X))
    plain = Net()
    plain.load_state_dict(net.state_dict())
    equal(plain(X), net(X))


def test_compiled_module_inside_others():
    inner = Net()

    class Outer(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x) + 1
    for wrap in (compiled, lambda m, **_: m):
        f = wrap(Outer(compiled(inner)), fullgraph=True)
        for _ in range(2):
            equal(f(X), inner(X) + 1)
        before, inner.fc1 = inner.fc1, nn.Linear(3, 4)
        equal(f(X), inner(X) + 1)
        inner.fc1 = before
    sequence = nn.Sequential(compiled(Net()), nn.ReLU())
    assert list(sequence.state_dict()) == ["0.fc1.weight", "0.fc1.bias", "0.fc2.weight", "0.fc2.bias"]


def test_module_as_argument():
    net = Net()

    @compiled(fullgraph=True)
    def step(model, x):
        return model(x).sum()
    for model in (net, compiled(net)):
        for _ in range(2):
            equal(step(model, X), net(X).sum())
    assert len(step.programs) == 2


def test_names_of_captured_tensors():
    f = compiled(Net())
    f(X)
    assert [v.name for v in programs(f)[0].run.recording.graph.inputs][1:] == ["fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"]


def test_repr_and_lookup():
    f = compiled(lambda x: x)
    assert isinstance(f, CompiledFunction) and "0 programs" in repr(f)
    with pytest.raises(TypeError, match="not compiled"):
        compiled_function(Net())


def test_copying_and_saving_tensors_changes_nothing(tmp_path):
    f = compiled(lambda x: x * 2)
    f(torch.ones(3))
    copy.deepcopy(nn.Linear(2, 2))
    torch.save(torch.ones(2), tmp_path / "t.pt")
    f(torch.ones(3))
    assert len(f.programs) == 1


@pytest.mark.parametrize("function", [
    pytest.param(lambda x, k: (x * k).cos().sum(), id="plain"),
    pytest.param(lambda x, k: (x * k).cos().sum() if x.sum() > 0 else x, id="branches"),
    pytest.param(lambda x, k: x.cos() * (x * k).sum().item(), id="numbers")])
def test_recordings_hold_no_tensors_afterwards(function):
    f, alive = compiled(function), []
    gc.disable()  # what it would have to find stays alive for long
    try:
        for n, k in ((3, 1.0), (3, 2.0), (4, 2.0), (5, 3.0)):
            x = torch.ones(n)
            alive += weakref.ref(x), weakref.ref(f(x, k))
        del x
        assert [r() for r in alive] == [None] * len(alive)
    finally:
        gc.enable()


def test_pythons_collector_rests_until_the_last_block_that_needs_it_ends():
    assert gc.isenabled()
    with at_rest():
        with at_rest():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with at_rest():
            pass
        assert not gc.isenabled()  # as its user has it
    finally:
        gc.enable()


def test_pythons_collector_runs_in_a_process_forked_while_another_thread_compiles():
    opened, done = threading.Event(), threading.Event()

    def block():
        with at_rest():
            opened.set()
            done.wait()

    thread = threading.Thread(target=block)
    thread.start()
    opened.wait()
    child = os.fork()
    if not child:
        enabled = gc.isenabled()
        with at_rest():
            enabled = enabled and not gc.isenabled()
        os._exit(not (enabled and gc.isenabled()))
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert gc.isenabled()
