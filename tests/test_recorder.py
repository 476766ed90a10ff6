"""The recorder: programs that view, mutate, alias, detach and draw random numbers come back as the same numbers from a
pure graph; what can't be recorded is said with the user's line; the run itself is left as it was."""
import gc
import inspect
import random
import weakref

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from smelt.compiler import evaluate, verify
from smelt.errors import Unsupported
from smelt.frontend.record.recorder import Recorder
from smelt.frontend.recording import Fresh, Given, InputView, OutputView
from smelt.frontend.torch_internals import active_dispatch_modes, active_function_modes


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for r in result for t in flat(r)] if isinstance(result, (list, tuple)) else []


def record(function, args, named=()):
    """(recording, the run's results) of function(*args); `named`: tensors that the observer would know."""
    names = {id(t): name for name, t in dict(named).items()}
    recorder = Recorder([(f"x{k}_", a) for k, a in enumerate(args)], lambda t: names.get(id(t)), "f")
    with recorder:
        result = function(*args)
    return recorder.finish(flat(result)), flat(result)


def twin(tensor):
    """A tensor of its own with the same numbers, layout and flag."""
    with torch.no_grad():
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)
    return copy.requires_grad_(tensor.requires_grad)


def own(tensor, strides):
    """The tensor in memory of its own: the values of a graph share none, but the evaluator may let them."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def replay(recording, tensors):
    """What the recording says a call with these input tensors gives, by the reference evaluator."""
    outputs = [own(o, v.type.strides) for o, v in zip(evaluate(recording.graph, tensors), recording.graph.outputs)]
    with torch.no_grad():
        for w in recording.writebacks:
            tensors[w.input].copy_(outputs[w.output])

    def stepped(tensor, steps):
        for s in steps:
            with torch.set_grad_enabled(s.grad):
                tensor = s.function(tensor, *s.args, **s.kwargs)
            tensor = tensor if s.index is None else tensor[s.index]
        return tensor
    results = []
    for r in recording.results:
        if isinstance(r, Given):
            results.append(tensors[r.input])
        elif isinstance(r, Fresh):
            results.append(outputs[r.output])
        else:
            results.append(stepped(tensors[r.input] if isinstance(r, InputView) else outputs[r.output], r.steps))
    return results


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def memory(tensors):
    """Which tensors share memory with which."""
    places = [t.untyped_storage().data_ptr() for t in tensors]
    return [places.index(p) for p in places]


def check(function, *args, named=(), seed=0):
    """Record a run, and hold it against a plain run and against its own replay: numbers, flags, aliasing, gradients."""
    named = dict(named)
    plain_args, plain_named = [twin(a) for a in args], {n: twin(t) for n, t in named.items()}
    again = {id(a): twin(a) for a in (*args, *named.values())}
    torch.manual_seed(seed)
    expected = flat(with_named(function, plain_named)(*plain_args))
    torch.manual_seed(seed)
    recording, results = record(with_named(function, named), args, named)
    verify(recording.graph, "recording")
    for ours, theirs in zip((*results, *args, *named.values()), (*expected, *plain_args, *plain_named.values()), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()) and ours.stride() == theirs.stride()
        assert ours.requires_grad == theirs.requires_grad
    torch.manual_seed(seed)
    tensors = [again[id(t)] for t in recording.tensors]
    replayed = replay(recording, tensors)
    for r, theirs, entry in zip(replayed, expected, recording.results, strict=True):
        assert same(r, theirs), f"{recording.graph}\n{r}\n{theirs}"
        assert r.stride() == theirs.stride()
        assert r.requires_grad == theirs.requires_grad
        if isinstance(entry, (Fresh, OutputView)):
            assert entry.requires_grad == theirs.requires_grad
    mine = [again[id(t)] for t in (*args, *named.values())]
    for m, theirs in zip(mine, (*plain_args, *plain_named.values()), strict=True):
        assert same(m, theirs), f"written back: {m}\n{theirs}"
    assert memory(mine + replayed) == memory([*plain_args, *plain_named.values(), *expected])
    check_gradients(mine + replayed, [*plain_args, *plain_named.values()] + expected, len(mine))
    return recording


def check_gradients(mine, theirs, inputs):
    leaves = [k for k in range(inputs) if theirs[k].requires_grad]
    roots = [k for k in range(inputs, len(theirs)) if theirs[k].requires_grad]
    if not roots:
        return
    def gradients(tensors):
        loss = sum((tensors[k].double() * torch.arange(1, 1 + tensors[k].numel()).view(tensors[k].shape)).sum() for k in roots)
        return torch.autograd.grad(loss, [tensors[k] for k in leaves], allow_unused=True)
    for a, b in zip(gradients(mine), gradients(theirs), strict=True):
        assert (a is None) == (b is None) and (a is None or same(a, b))


def with_named(function, named):
    """`function`, called with the named tensors as keywords where it takes them."""
    return (lambda *args: function(*args, **named)) if named else function


def randn(*shape, grad=False):
    return torch.randn(*shape, requires_grad=grad)


# Programs without surprises

def test_functional_program():
    recording = check(lambda x, w: (x * w + 1).exp().sum(0), randn(3, 4), randn(4, grad=True))
    assert [v.op.name for v in recording.graph.values] == ["mul", "add", "exp", "sum"]
    assert recording.results == (Fresh(0, True),) and not recording.writebacks and not recording.random


def test_origins_name_the_users_lines():
    def program(x):
        y = x * 2
        return y + 1
    recording, _ = record(program, [randn(3)])
    first = inspect.getsourcelines(program)[1]
    assert [(v.origin.file, v.origin.line) for v in recording.graph.values] == [(__file__, first + 1), (__file__, first + 2)]


def test_arguments_come_first_and_unread_ones_stay():
    x, y, w = randn(3), randn(3), randn(3)
    recording, _ = record(lambda x, y: y * w, [x, y], {"fc1.weight": w})
    assert [id(t) for t in recording.tensors] == [id(x), id(y), id(w)]
    assert recording.graph.inputs[2].name == "fc1_weight"


def test_module_with_parameters_and_buffers():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    x = randn(5, 4)
    recording, (y,) = record(net, [x], dict(net.named_parameters()))
    assert torch.equal(y, net(x))
    assert same(evaluate(recording.graph, recording.tensors)[0], y)
    assert {i.name for i in recording.graph.inputs[1:]} == {"0_weight", "0_bias", "2_weight", "2_bias"}


def test_opaque_ops_with_one_and_several_results():
    check(lambda x: torch.cumsum(x, 0) + 1, randn(3, 4, grad=True))
    check(lambda x: torch.sort(x, 1), randn(3, 4, grad=True))
    check(lambda x: torch.linalg.qr(x), randn(4, 4))


def test_opaque_ops_that_rely_on_the_layout_of_an_argument():
    torch.manual_seed(0)
    net = torch.nn.LSTM(4, 3, batch_first=True)
    recording, (y, *_) = record(net, [randn(2, 5, 4)], dict(net.named_parameters()))
    assert same(evaluate(recording.graph, recording.tensors)[0], y)


def test_ops_whose_several_results_share_memory():
    check(lambda x: torch.unsafe_split(x * 2, 2, 0)[1] + 1, randn(4, 3, grad=True))


def test_tensors_of_python_numbers_become_constants():
    recording = check(lambda x: x * torch.tensor([1.0, -2.0, 3.0]) + torch.tensor(2.0), randn(2, 3))
    assert [v.op.name for v in recording.graph.values] == ["constant", "mul", "full", "add"]
    check(lambda x: x[[0, 2]] * x.new_tensor([3.0]), randn(3, 2))


def test_factories():
    check(lambda x: x + torch.zeros(3) + torch.arange(3) + torch.ones_like(x) * torch.full((3,), 2.0), randn(3))


def test_complex_and_integer_programs():
    check(lambda x: torch.fft.fft(x).abs(), randn(8))
    check(lambda x: (x // 2 + x % 3, x > 2, x.sum()), torch.arange(6))


# Views and writes

VIEWS = {
    "view": lambda y: y.view(2, 6), "reshape": lambda y: y.reshape(12), "t": lambda y: y.t(), "slice": lambda y: y[1:, ::2],
    "select": lambda y: y[1], "permute": lambda y: y.view(2, 2, 3).permute(2, 0, 1), "unsqueeze": lambda y: y.unsqueeze(1),
    "squeeze": lambda y: y.view(4, 1, 3).squeeze(1), "diagonal": lambda y: y.diagonal(), "split": lambda y: y.split(2, 0)[1],
    "unbind": lambda y: y.unbind(1)[2], "chunk": lambda y: y.chunk(2, 0)[0], "narrow": lambda y: y.narrow(0, 1, 2),
    "detach": lambda y: y.detach(), "data": lambda y: y.data, "chain": lambda y: y.t()[1:][:, 1:3],
    "as_strided": lambda y: y.as_strided((2, 3), (4, 1), 2), "view_as": lambda y: y.view_as(torch.empty(6, 2)),
}


#: Views that cut gradients; that eager allows no write to under autograd; and torch.as_strided_scatter, the reference's
#: oracle, gives the gradient of the elements that it replaces instead of that of the others.
NO_GRADIENT = ("detach", "data", "split", "unbind", "chunk", "as_strided")


@pytest.mark.parametrize("name", VIEWS)
def test_write_through_a_view(name):
    """The view, its source and its siblings all see the write, whether the memory is the run's own or an input's."""
    view = VIEWS[name]

    def on_intermediate(x):
        y, sibling = x * 2, None
        sibling = y.view(12)
        v = view(y)
        before = v * 1
        v.mul_(3)
        v += 1
        return y, before, sibling * 2, v + 0

    def on_input(x):
        v = view(x)
        v.mul_(3)
        return x.sum(), v + 0
    check(on_intermediate, randn(4, 3))
    recording = check(on_input, randn(4, 3))
    assert len(recording.writebacks) == 1 and recording.writebacks[0].input == 0


@pytest.mark.parametrize("name", [n for n in VIEWS if n not in NO_GRADIENT])
def test_gradients_through_writes_to_views(name):
    def program(w, u):
        y = w * 2
        v = VIEWS[name](y)
        v.mul_(3)
        v.add_(u)
        return y * y
    check(program, randn(4, 3, grad=True), randn(1, grad=True))


@pytest.mark.parametrize("name", VIEWS)
def test_views_as_results(name):
    view = VIEWS[name]
    if name != "as_strided":
        recording = check(lambda x: view(x), randn(4, 3, grad=True))
        assert isinstance(recording.results[0], InputView)
    recording = check(lambda x: (lambda y: (y, view(y)))(x * 2), randn(4, 3, grad=True))
    assert all(isinstance(r, OutputView) for r in recording.results)
    assert len(recording.graph.outputs) == 1
    check(lambda x: view(x * 2), randn(4, 3, grad=True))


def test_write_to_an_input_is_written_back_last():
    def program(x):
        old = x * 1
        x.add_(1)
        x[0] = 7
        return old, x, x.t(), x * 2
    recording = check(program, randn(3, 4))
    kinds = [type(r) for r in recording.results]
    assert kinds == [Fresh, Given, InputView, Fresh]


def test_in_place_ops_round_to_the_tensors_own_dtype():
    check(lambda x, y: x.clone().mul_(y), randn(4).bfloat16(), randn(4))
    check(lambda x: torch.arange(4).add_(x), torch.arange(4).to(torch.int8))
    check(lambda x, y: x.half().copy_(y), randn(4), torch.randn(1) * 1e4)


def test_out_arguments():
    def program(x):
        out = torch.empty(3, 4)
        torch.add(x, 1, out=out)
        torch.mul(x, 2, out=out[:, 0:4])
        return out, torch.mm(x, x.t(), out=torch.zeros(3, 3))
    check(program, randn(3, 4))


def test_fill_zero_and_copy():
    def program(x, y):
        a = torch.empty_like(x)
        a.fill_(2)
        a[1].zero_()
        a[:, 1].copy_(y)
        a[2] = y[0]
        return a
    check(program, randn(3, 4), randn(3))


def test_loops_of_writes():
    def program(x):
        out = torch.zeros(4, 3)
        rows = []
        for i in range(4):
            out[i] = x * i
            rows.append(out[i])
        out *= 2
        return out, torch.stack(rows)
    check(program, randn(3))
    check(program, randn(3, grad=True))


def test_overlapping_reads_of_a_written_slice():
    def program(x):
        a, b = x[:4], x[1:]
        a.add_(b.clone())
        b.mul_(a * 1)
        return a.sum()
    check(lambda x: (lambda y: (program(y), y))(x * 2), randn(5, 2))


def test_masked_and_indexed_writes():
    def program(x):
        y = x.clone()
        y[y > 0] = 0.5
        y[[0, 1]] += 2
        y.masked_fill_(y < -1, 9.0)
        y.scatter_(1, torch.zeros(3, 1, dtype=torch.long), 4.0)
        y.index_add_(0, torch.tensor([0, 2]), y[:2] * 2)
        return y
    check(program, randn(3, 4))
    check(lambda x: program(x * 2), randn(3, 4, grad=True))


def test_metadata_ops_in_place():
    def program(x):
        y = x * 2
        y.t_()
        y.unsqueeze_(0)
        z = y * 3
        y.squeeze_(0)
        y.transpose_(0, 1)
        y[0] = 1
        return y, z
    check(program, randn(3, 4))


def test_foreach_writes_to_lists():
    def program(x, y):
        torch._foreach_add_([x, y], 1.0)
        return torch._foreach_mul([x, y], [2.0, 3.0])
    recording = check(program, randn(3), randn(2, 2))
    assert {w.input for w in recording.writebacks} == {0, 1}


def test_batch_norm_writes_its_statistics():
    def program(x, mean, variance, count):
        count.add_(1)
        return F.batch_norm(x, mean, variance, training=True)
    recording = check(program, randn(5, 4, grad=True), torch.zeros(4), torch.ones(4), torch.tensor(0))
    assert {w.input for w in recording.writebacks} == {1, 2, 3}
    recording = check(lambda x, m, v: F.batch_norm(x, m, v, training=False), randn(5, 4), torch.zeros(4), torch.ones(4))
    assert not recording.writebacks


def test_a_written_input_copied_before_it_changes():
    def program(x, y):
        y.copy_(x)
        x.sin_()
    assert check(program, randn(3), randn(3)).written == (0, 1)


def test_writes_between_parts_of_one_memory():
    def program(x):
        x[0].add_(x[1])
        x[:, 0].mul_(x[:, 1])
        x.add_(x)
        return x * 2
    check(program, randn(3, 4))
    with pytest.raises(Unsupported, match="also reads, at other places"):
        record(lambda x: x.mul_(x.diagonal()), [randn(3, 3)])


# Results

def test_the_same_tensor_twice_and_given_ones():
    x, w = randn(3), randn(3)
    recording, _ = record(lambda x: (lambda y: (y, y, x, w))(x * 2), [x], {"w": w})
    first, second, given, captured = recording.results
    assert first is second and given == Given(0) and captured == Given(1)
    assert recording.tensors[1] is w


def test_equal_values_keep_memories_apart():
    def program(x):
        y = x * 2
        z = torch.empty_like(y)
        z.copy_(y)
        x.copy_(y)
        return y, z
    recording = check(program, randn(3))
    assert len({r.output for r in recording.results}) == 2


def test_layout_of_results():
    recording = check(lambda x: ((x * 2).t(), (x * 2)[:, 1:3], (x * 2).t().contiguous()), randn(3, 4))
    assert [type(r) for r in recording.results] == [Fresh, OutputView, Fresh]
    assert [recording.graph.outputs[r.output].type.strides for r in recording.results] == [(1, 4), (4, 1), (3, 1)]


# Gradients

def test_no_grad_regions_and_detach_cut_gradients():
    def program(w):
        with torch.no_grad():
            scale = w.abs().max() + 1
        return w / scale, (w * 2).detach() * w, w.data.exp() + w
    check(program, randn(4, grad=True))


def test_a_run_without_gradients_has_no_detaches():
    with torch.no_grad():
        recording = check(lambda x, w: (x @ w).relu().detach() * 2, randn(2, 3), randn(3, 3, grad=True))
    assert [v.op.name for v in recording.graph.values].count("detach") == 1  # of the result
    assert recording.results == (Fresh(0, False),)


def test_ops_that_pass_no_gradient():
    check(lambda w: (torch.zeros_like(w) + w, w.argmax(), (w > 0).float(), torch.ones_like(w)), randn(4, grad=True))
    check(lambda w: torch.rand_like(w), randn(4, grad=True))
    check(lambda w: torch.rand_like(w) * w, randn(4, grad=True))


def test_updates_under_no_grad_of_inputs_that_require_grad():
    def program(w, g):
        with torch.no_grad():
            w.sub_(g, alpha=0.1)
            norm = w.norm()
        return norm
    recording = check(program, randn(4, grad=True), randn(4))
    assert recording.writebacks[0].input == 0


def test_inputs_that_autograd_already_knows():
    w = randn(4, grad=True)
    x = w * 2
    recording, (y,) = record(lambda x: x * 3, [x])
    assert recording.results == (Fresh(0, True),)


def test_inference_mode_around_the_run():
    with torch.inference_mode():
        x, w, c = randn(3, 4), randn(5, 4), randn(5)
        recording, (y,) = record(F.linear, [x, w, c])
        assert same(evaluate(recording.graph, recording.tensors)[0], y)
    assert "call" not in [v.op.name for v in recording.graph.values]


# Random numbers

def test_dropout_under_a_seed():
    recording = check(lambda x: F.dropout(x, 0.5, True), randn(4, 5, grad=True), seed=3)
    assert recording.random
    assert check(lambda x: F.dropout(x.t(), 0.5, True), randn(4, 5, grad=True), seed=3).random
    assert not check(lambda x: F.dropout(x, 0.5, False) * 2, randn(4, 5)).random


def test_random_factories_and_fills():
    def program(x):
        noise = torch.empty(4, 5).normal_(0.0, 2.0)
        noise[:, 1:3].uniform_(-1, 1)
        return x + noise + torch.randn(5) + torch.rand_like(x) + torch.bernoulli(torch.full((5,), 0.5)), torch.randperm(5)
    assert check(program, randn(4, 5), seed=7).random


def test_attention_without_dropout_is_not_random():
    q = randn(1, 2, 4, 8)
    assert not check(lambda q: F.scaled_dot_product_attention(q, q, q), q).random


# Programs at random

UNARY = (lambda a: a * 2, torch.sin, lambda a: a.cumsum(0), torch.zeros_like, torch.clone, lambda a: a > 0)
BINARY = (torch.add, torch.mul, lambda a, b: torch.where(a > 0, a, b), lambda a, b: torch.stack([a, b]))
WRITES = (lambda a, b: a.mul_(2), lambda a, b: a.zero_(), lambda a, b: a.relu_(), lambda a, b: a.__setitem__(0, 5.0),
          lambda a, b: a.cumsum_(0), lambda a, b: a.unsqueeze_(0), lambda a, b: a.t_(), lambda a, b: a.add_(b),
          lambda a, b: a.copy_(b), lambda a, b: a.__setitem__(0, b), lambda a, b: a.masked_fill_(b > 0, 1.5))


def random_program(seed):
    """A function of three tensors: views, writes and sums of what it has so far, now and then under no_grad."""
    def program(*args):
        rng, pool = random.Random(seed), list(args)
        for _ in range(rng.randint(3, 9)):
            kind, a, b = rng.random(), rng.choice(pool), rng.choice(pool)
            with torch.set_grad_enabled(rng.random() > 0.2):
                if kind < 0.35:
                    made = VIEWS[rng.choice(sorted(set(VIEWS) - {"as_strided", "view", "reshape", "view_as"}))](a)
                elif kind < 0.65:
                    made = rng.choice(UNARY)(a) if kind < 0.5 else rng.choice(BINARY)(a, b)
                else:
                    made = rng.choice(WRITES)(a, b)
            if made is not None:
                pool.append(made)
        return rng.sample(pool, rng.randint(1, len(pool)))
    return program


def test_random_programs_of_views_and_writes():
    """Those that eager runs and the recorder takes come back right; most of what eager runs is taken."""
    taken = refused = 0
    for seed in range(600):
        torch.manual_seed(seed)
        args = [randn(4, 4, grad=bool((seed >> k) % 2)) for k in range(3)]
        program = random_program(seed)
        try:
            program(*map(twin, args))
        except (RuntimeError, IndexError):
            continue
        try:
            check(program, *args)
            taken += 1
        except Unsupported as why:
            assert "internal" not in why.reason, why
            refused += 1
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # eager's own backward refuses
    assert taken > 100 and refused < taken


# What can't be recorded

W = torch.nn.Parameter(torch.randn(4))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 5


def shared_write(x):
    x[0].add_(1)
    return x[1] * 2


def torn(x):
    y = x * 2
    y.detach().mul_(3)
    return y * 1


def torn_under_no_grad(x):
    y = x * 2
    with torch.no_grad():
        y[0].mul_(3)
    return y


def same_inputs_other_gradient(x):
    y = x * 2
    y.detach().mul_(x)
    return y


REFUSED = {
    "numpy": (lambda x: torch.as_tensor(x.detach().numpy()), "reads a tensor's values"),
    "data_ptr": (lambda x: x * (x.data_ptr() % 2), "reads a tensor's values"),
    "print": (lambda x: (x, str(x))[0] * 2, "reads a tensor's values"),
    "list of tensors": (lambda x: torch.tensor([x[0, 0], x[0, 1]]), "plain numbers"),
    "custom function": (lambda x: Double.apply(x), "custom autograd.Function (Double)"),
    "custom function inside": (lambda x: Double.apply(x * 2) * 3, "custom autograd.Function (Double)"),
    "hook": (lambda x: (lambda y: (y.register_hook(lambda g: g * 2), y)[1])(x * 2), "hook"),
    "detach_": (lambda x: x.detach_() * 2, "detach_"),
    "detach_ of what was used": (lambda x: (lambda y: (y * x, y.detach_()))(x * 2), "detach_"),
    "retain_grad": (lambda x: (lambda y: (y.retain_grad(), y)[1])(x * 2), "retain_grad"),
    "requires_grad_ after a write": (lambda x: x.requires_grad_(False).mul_(2).requires_grad_(), "wrote to before"),
    "leaf and result": (lambda x: (lambda t: (t, t * 2))((x * 2).detach().requires_grad_()), "a tensor that the run made"),
    "leaf and view": (lambda x: (lambda t: (t, t.detach()))((x * 2).detach().requires_grad_()), "shares memory with another"),
    "unknown tensor": (lambda x: x * W, "neither from the arguments"),
    "numpy data": (lambda x: x * torch.from_numpy(numpy.ones(4)), "plain numbers"),
    "elements for an old constructor": (lambda x: torch.FloatTensor([1, x[0, 0].detach()]), "plain numbers"),
    "own generator": (lambda x: x + torch.rand(4, generator=torch.Generator()), "generator"),
    "resize": (lambda x: (x * 2).detach().resize_(2), "size or the memory"),
    "set data": (lambda x: setattr(x, "data", x.detach()[:1]), "another form"),
    "as_strided view of an input": (lambda x: x.as_strided((2,), (3,)), "as_strided view"),
    "sparse": (lambda x: x.to_sparse(), "not dense"),
    "out resized": (lambda x: torch.add(x.detach(), 1, out=torch.empty(0)), "another size"),
    "view of another dtype": (lambda x: x.detach().clone().view(torch.int32).add_(1), "through a view"),
}


@pytest.mark.parametrize("program", [torn, torn_under_no_grad, same_inputs_other_gradient])
def test_writes_that_autograd_does_not_see(program):
    """The numbers are new, the gradient is that of the old ones."""
    check(program, randn(3, 4, grad=True))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_users_line(name):
    function, reason = REFUSED[name]
    x = randn(3, 4, grad=True)
    recorder = Recorder([("x", x)], lambda t: None, "f")
    with recorder:
        result = function(x)
    with pytest.raises(Unsupported) as refused:
        recorder.finish(flat(result))
    assert reason in refused.value.reason
    file, line = refused.value.where.rsplit(":", 1)
    source, first = inspect.getsourcelines(Double if name.startswith("custom") else function)
    called = inspect.getsourcelines(function)[1]
    assert file == __file__ and (first <= int(line) < first + len(source) or int(line) == called)
    assert (active_dispatch_modes(), active_function_modes()) == (0, 0)


READ = {
    "branch": (lambda x: x if x.sum() > 0 else -x, "truth", lambda x: bool(x.sum() > 0)),
    "item": (lambda x: x * x.sum().item(), "number", lambda x: x.sum().item()),
    "float": (lambda x: x * float(x[0, 0].detach()), "number", lambda x: x[0, 0].item()),
    "index": (lambda x: x[x.sum(1).argmax().item()], "number", lambda x: x.sum(1).argmax().item()),
    "format": (lambda x: (f"{x.detach().sum():.3f}", x)[1], "number", lambda x: x.sum().item()),
    "tolist": (lambda x: x * x.detach()[0].tolist()[1], "elements", lambda x: x[0].tolist()),
    "equal": (lambda x: x * torch.equal(x, x.abs()), "truth", lambda x: torch.equal(x, x.abs())),
    "allclose": (lambda x: x * torch.allclose(x, x.abs()), "truth", lambda x: torch.allclose(x, x.abs())),
    "contains": (lambda x: x * (1.0 in x), "number", lambda x: 1.0 in x),
    "nonzero": (lambda x: x.nonzero(), "sizes", lambda x: ((tuple(x.nonzero().shape), x.nonzero().stride()),)),
    "mask": (lambda x: x[x > 0], "sizes", lambda x: ((tuple((x > 0).nonzero().shape), (x > 0).nonzero().stride()),)),
}


@pytest.mark.parametrize("name", READ)
def test_what_python_reads_is_noted_with_the_users_line(name):
    function, how, answer = READ[name]
    x = randn(3, 4, grad=True)
    recording, _ = record(function, [x])
    reading, = recording.readings
    assert (reading.how, reading.answer) == (how, answer(x.detach()))
    file, line = reading.where.rsplit(":", 1)
    assert file == __file__ and int(line) == inspect.getsourcelines(function)[1]
    values = dict(zip(recording.graph.values, recording.graph.values))
    assert all(v in values for v in reading.values) and 0 < reading.position <= len(values)


def test_numbers_that_are_the_same_on_every_call_are_not_read():
    recording, _ = record(lambda x: x * torch.tensor(2.0).item() if torch.equal(x, x) and not torch.equal(x, x[0]) else x,
                          [randn(3)])
    assert recording.readings == ()


def test_writes_to_inputs_that_require_grad_are_refused():
    """Where no gradient can come back through what was written, or one begins to."""
    w = randn(4, grad=True)
    with pytest.raises(Unsupported, match="writes in place to an input that requires grad"):
        record(lambda x: x.sigmoid_().mul_(2), [w * 1])
    with pytest.raises(Unsupported, match="came to require grad"):
        record(lambda x, w: x.mul_(w), [randn(4), w])


def test_changing_the_shape_of_an_input_is_refused():
    with pytest.raises(Unsupported, match="shape of an input in place"):
        record(lambda x: x.t_(), [randn(3, 4)])


def test_inputs_that_share_memory_may_be_read_but_not_written():
    base = randn(2, 3)
    recording, _ = record(lambda a, b: a + b, [base[0], base[1]])
    assert len(recording.tensors) == 2
    with pytest.raises(Unsupported, match="shares memory"):
        record(lambda a, b: a.add_(b), [base[0], base[1]])
    with pytest.raises(Unsupported, match="shares memory"):
        record(lambda a: (a.add_(1), base[1] * 1), [base[0]], {"base": base})


def test_tensor_subclasses_are_refused():
    class Mine(torch.Tensor):
        pass
    with pytest.raises(Unsupported, match="Mine"):
        record(lambda x: x * 2, [randn(3).as_subclass(Mine)])


# The run is left alone

def test_a_refused_run_goes_on_unwatched():
    x = randn(3)
    recorder = Recorder([("x", x)], lambda t: None, "f")
    with recorder:
        y = x * x.sum().item()
        z = y.numpy()
    assert torch.equal(y, x * x.sum().item()) and z.shape == (3,)
    assert "numpy" in recorder.unsupported.reason


def test_errors_of_the_program_pass_through_and_leave_no_mode():
    x = randn(3)
    for program, error in ((lambda x: x.view(7), RuntimeError), (lambda x: 1 / 0, ZeroDivisionError)):
        with pytest.raises(error), Recorder([("x", x)], lambda t: None, "f"):
            program(x)
        assert (active_dispatch_modes(), active_function_modes()) == (0, 0)


def test_an_error_that_the_program_catches_ends_the_recording():
    def program(x):
        try:
            return x.view(7)
        except RuntimeError:
            return x * 2
    with pytest.raises(Unsupported, match="raised RuntimeError"):
        record(program, [randn(3)])


def test_defects_of_the_recorder_never_reach_the_run():
    def broken(tensor):
        raise KeyError("broken")
    x, w = randn(3), randn(3)
    recorder = Recorder([("x", x)], broken, "f")
    with recorder:
        y = x * w
    assert torch.equal(y, x * w)
    with pytest.raises(Unsupported, match="internal error.*KeyError"):
        recorder.finish([y])


def test_the_recorder_keeps_no_tensor_alive():
    alive = []

    def program(x):
        y = x * 2
        alive.append(weakref.ref(y))
        z = y + 1
        del y
        gc.collect()
        alive.append(alive[0]() is None)
        return z
    record(program, [randn(3)])
    assert alive[1]


def test_modes_of_the_program_see_what_they_always_see():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    def program(x):
        with Watch():
            return x * 2 + 1
    check(program, randn(3))
    assert [f.overloadpacket for f in seen] == [torch.ops.aten.mul, torch.ops.aten.add] * 2


def test_a_range_is_an_index():
    def one_of_each_row(x, column):
        y = torch.zeros_like(x)
        y[range(len(column)), column] = 1.0
        return x[range(x.shape[0]), column], y * x
    check(one_of_each_row, randn(4, 3), torch.tensor([2, 0, 1, 1]))


def test_complex_numbers_are_written_to_by_their_parts():
    def parts_written(x):
        y = torch.complex(x, x + 1)
        torch.view_as_real(y)[..., 0].mul_(2)
        y.imag += 1
        return y
    check(parts_written, randn(2, 3))
