"""Tensors of changing sizes."""
import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor

SIZES = (4, 4, 6, 6, 3, 8, 1, 4, 0, 2, 7)


def over(f, make=lambda n: (tensor(n, 3),), sizes=SIZES):
    for n in sizes:
        yield f(*make(n))


def under_gradient(f, make=lambda n: (leaf(n, 3),), sizes=(4, 4, 6, 6, 3, 1, 5)):
    for n in sizes:
        arguments = make(n)
        yield backward(f(*arguments)), arguments


@program
def pointwise(compile):
    yield from over(compile(lambda x: x * 2 + 1))


@program
def pointwise_always_dynamic(compile):
    yield from over(compile(lambda x: x * 2 + 1, dynamic=True))


@program
def pointwise_never_dynamic(compile):
    yield from over(compile(lambda x: x * 2 + 1, dynamic=False))


@program
def reductions(compile):
    yield from over(compile(lambda x: (x.sum(0), x.sum(1), x.sum(), x.mean(1), x.any(), x.prod(1))))


@program
def largest_of_nothing(compile):
    f = compile(lambda x: x.amax(0))
    for n in SIZES:
        yield outcome(f, tensor(n, 3))


@program
def broadcast_of_one(compile):
    f = compile(lambda x, y: x + y)
    for n, m in ((4, 4), (5, 5), (1, 5), (5, 1), (6, 6), (1, 1), (4, 5), (0, 1), (0, 0), (7, 7)):
        yield outcome(f, tensor(n, 3), tensor(m, 3))


@program
def two_sizes(compile):
    f = compile(lambda x, y: x @ y + 1)
    for n, m in ((4, 4), (4, 4), (4, 6), (6, 4), (5, 7), (1, 7), (7, 1), (0, 3), (3, 0)):
        yield f(tensor(n, 3), tensor(3, m))


@program
def inner_size(compile):
    f = compile(lambda x, y: x @ y)
    for n, m in ((4, 4), (5, 5), (6, 6), (0, 0), (1, 1), (6, 7), (7, 7)):
        yield outcome(f, tensor(2, n), tensor(m, 2))


@program
def size_in_arithmetic(compile):
    yield from over(compile(lambda x: x * x.shape[0] + x.numel() / (1 + x.size(0)) - len(x)))


@program
def size_returned(compile):
    yield from over(compile(lambda x: (x + 1, x.shape, x.shape[0] * 2, len(x), x.numel(), tuple(x.stride()))))


@program
def size_decides(compile):
    yield from over(compile(lambda x: x * 2 if x.shape[0] > 4 else x + 1 if x.shape[0] % 2 == 0 else -x))


@program
def loop_over_a_size(compile):
    @compile
    def f(x):
        total = torch.zeros(3)
        for k in range(x.shape[0]):
            total = total * 2 + x[k]
        return total
    yield from over(f)


@program
def reshape_by_sizes(compile):
    yield from over(compile(lambda x: (x.view(x.shape[0] * 3), x.reshape(-1), x.view(3, -1) + 1, x.unsqueeze(1).flatten())),
                    sizes=(4, 4, 6, 3, 8, 1, 2))


@program
def reshape_that_needs_a_divisor(compile):
    f = compile(lambda x: x.view(x.shape[0] // 2, 2, 3).sum(1))
    for n in (4, 4, 6, 8, 5, 2, 0, 4, 10):
        yield outcome(f, tensor(n, 3))


@program
def cat_and_stack(compile):
    yield from over(compile(lambda x: (torch.cat([x, x * 2]), torch.stack([x, x], 1), torch.cat([x, x], 1))))


@program
def split_and_chunk(compile):
    f = compile(lambda x: (*x.split(2), *x.chunk(3)))
    for n in (4, 4, 6, 5, 1, 4, 7):
        yield [t + 1 for t in f(tensor(n, 3))]


@program
def slices_of_a_size(compile):
    yield from over(compile(lambda x: (x[1:] - x[:-1], x[::2] + 1, x[-2:] * 2, x[: x.shape[0] // 2] + 1)),
                    sizes=(4, 4, 6, 3, 8, 2, 7))


@program
def padding(compile):
    yield from over(compile(lambda x: F.pad(x, (1, 2, 0, 8 - x.shape[0]), value=2.0)))


@program
def ranges_and_masks(compile):
    @compile
    def f(x):
        n = x.shape[0]
        return torch.arange(n), torch.ones(n, n).tril() + x.sum(1), torch.eye(n), torch.zeros_like(x), torch.full((n,), n)
    yield from over(f)


@program
def indexing(compile):
    f = compile(lambda x, i: x[i] + x.index_select(0, i).flip(0))
    for n, m in ((4, 3), (4, 3), (5, 4), (6, 7), (1, 2), (3, 0)):
        yield f(tensor(n, 3), torch.arange(m) % n)


@program
def embedding_with_positions(compile):
    table, places = nn.Embedding(5, 4), nn.Embedding(12, 4)
    for p in (table.weight, places.weight):
        with torch.no_grad():
            p.copy_(tensor(*p.shape))
    f = compile(lambda ids: table(ids) + places(torch.arange(ids.shape[1])))
    for b, t in ((2, 4), (2, 4), (3, 5), (1, 6), (3, 12), (2, 13), (4, 4)):
        yield outcome(f, torch.arange(b * t).reshape(b, t) % 5)


@program(exact=False)
def softmax_and_losses(compile):
    @compile
    def f(x, target):
        return F.softmax(x, -1), F.log_softmax(x, 0), F.cross_entropy(x, target), F.layer_norm(x, (3,))
    for n in (4, 4, 6, 5, 1, 7):
        yield f(tensor(n, 3), torch.arange(n) % 3)


@program(exact=False)
def perceptron_training(compile):
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    f = compile(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for n in (4, 4, 6, 5, 1, 8):
        optimizer.zero_grad()
        yield backward(f(tensor(n, 3)))
        optimizer.step()


@program(exact=False)
def convolution(compile):
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    f = compile(net)
    for b, n in ((2, 4), (2, 4), (3, 4), (3, 6), (1, 8), (2, 5)):
        yield backward(f(tensor(b, 1, n, n)))


@program(exact=False)
def batch_norm_in_training(compile):
    net = compile(nn.BatchNorm1d(3))
    for n in (4, 4, 6, 5, 2):
        yield backward(net(tensor(n, 3)))
    yield outcome(net, tensor(1, 3))
    net.eval()
    yield from over(net, sizes=(4, 6, 1))


@program(exact=False)
def attention(compile):
    @compile
    def f(q, k):
        weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return weights @ k
    for t, s in ((4, 4), (4, 4), (5, 5), (6, 3), (1, 7), (2, 2)):
        q, k = leaf(2, t, 4), leaf(2, s, 4)
        yield backward(f(q, k)), q, k


@program(exact=False)
def recurrence(compile):
    cell = nn.RNNCell(3, 4)

    @compile
    def f(xs):
        h = xs.new_zeros(xs.shape[1], 4)
        for x in xs:
            h = cell(x, h)
        return h
    for t, b in ((2, 3), (2, 3), (3, 3), (2, 4), (1, 1), (3, 5)):
        yield backward(f(tensor(t, b, 3)))


@program
def gradients(compile):
    yield from under_gradient(compile(lambda x: (x * x).sum(0) + x.mean(1, keepdim=True)[:1, 0]))


@program
def gradient_of_an_expansion(compile):
    f = compile(lambda x, y: x * y)
    yield from under_gradient(f, lambda n: (leaf(n, 3), leaf(3)))
    yield from under_gradient(f, lambda n: (leaf(1, 3), leaf(n, 1)))


@program
def writes_to_arguments(compile):
    @compile
    def f(x, y):
        x.add_(1)
        x[1:] *= 2
        return y.copy_(x).sum()
    yield from over(f, lambda n: (tensor(n, 3), tensor(n, 3)))


@program
def views_of_arguments(compile):
    f = compile(lambda x: (x[1:], x.t(), x.view(-1), x.flatten(), x.unsqueeze(0)))
    for n in SIZES:
        x = tensor(n, 3)
        found = f(x)
        found[1].mul_(2)
        yield found, x


@program
def views_of_results(compile):
    @compile
    def f(x):
        y = x + 1
        return y[: x.shape[0] // 2], y
    for n in SIZES:
        part, whole = f(tensor(n, 3))
        part.zero_()
        yield part, whole


@program
def layouts(compile):
    f = compile(lambda x: x + 1)
    for n in (4, 5, 6):
        for x in (tensor(n, 3), tensor(3, n).t(), tensor(n, 6)[:, ::2], tensor(1, 3).expand(n, 3), tensor(n, 4)[:, 1:]):
            yield f(x)


@program
def dimensions(compile):
    f = compile(lambda x: x.sum(-1) * 2)
    for shape in ((4, 3), (4, 3), (5, 3), (2, 5, 3), (3,), (5, 4), (2, 2, 2, 3), (6, 3)):
        yield f(tensor(*shape))


@program
def every_size_at_once(compile):
    f = compile(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1) + 1)
    for shape in ((2, 3, 4), (2, 3, 4), (3, 3, 4), (3, 4, 4), (3, 4, 5), (5, 2, 3), (1, 1, 1), (0, 3, 4), (2, 0, 4)):
        yield outcome(f, tensor(*shape))


@program
def lists_of_changing_lengths(compile):
    f = compile(lambda xs: sum(x.sum() for x in xs) + len(xs))
    for n in (1, 1, 2, 3, 0, 2, 4):
        yield f([tensor(k + 1) for k in range(n)])


@program
def size_kept_on_an_object(compile):
    class Pool(nn.Module):
        size = None

        def forward(self, x):
            if self.size != x.shape:
                self.size, self.ones = x.shape, torch.ones(x.shape)
            return x + self.ones
    yield from over(compile(Pool()))


@program
def marked_dynamic(compile):
    f = compile(lambda x: x.sum(0) + 1)
    for n in (4, 5, 6, 1, 0):
        x = tensor(n, 3)
        if n > 1:
            torch._dynamo.mark_dynamic(x, 0)
        yield f(x).clone()


@program
def sizes_that_agree_by_chance(compile):
    f = compile(lambda x, y: (x.sum(0), y.sum(0), x.shape == y.shape))
    for n, m in ((4, 4), (4, 4), (5, 5), (6, 6), (6, 7), (7, 6), (3, 3)):
        yield f(tensor(n, 3), tensor(m, 3))


@program
def returning_to_old_sizes(compile):
    f = compile(lambda x: (x - x.mean(0)) * x.shape[0])
    for n in (2, 4, 8, 16, 2, 4, 8, 16, 32, 64, 2, 4):
        yield f(tensor(n, 3) * 4)
    yield from calls(f, tensor(2, 3))


# Whole steps: they write state, leave gradients, differentiate inside and read data.

STEPS = (4, 4, 4, 6, 6, 3, 9, 1, 5)


def stepping(compile, make, sizes=STEPS):
    """A step on a small net, made by `make(net, state)`, with a batch of another size each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
    state = {"n": 0, "log": [], "best": None, "seen": set(), "last": (0, None)}
    step = compile(make(net, state))
    for n in sizes:
        yield step(tensor(n, 3), torch.arange(n) % 3), [p.grad for p in net.parameters()]


def training(optimizer, more=lambda net, state, loss, x: loss.detach(), before=lambda net, loss: None):
    def make(net, state):
        made = optimizer(net.parameters())

        def step(x, y):
            made.zero_grad()
            loss = F.cross_entropy(net(x), y)
            before(net, loss)
            loss.backward()
            made.step()
            return more(net, state, loss, x)
        return step
    return make


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


@program(exact=False)
def steps_with_sgd(compile):
    yield from stepping(compile, training(sgd))


@program(exact=False)
def steps_with_adam(compile):
    yield from stepping(compile, training(lambda p: torch.optim.Adam(p, 1e-2)))


@program(exact=False)
def steps_with_clipping_and_a_scheduler(compile):
    def make(net, state):
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        def step(x, y):
            optimizer.zero_grad(set_to_none=False)
            F.cross_entropy(net(x), y).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            return norm, scheduler.get_last_lr()
        return step
    yield from stepping(compile, make)


@program(exact=False)
def steps_that_write_state(compile):
    def after(net, state, loss, x):
        state["n"] += 1
        state["log"].append(loss.detach())
        state["last"] = state["n"], loss.detach()
        state["seen"].add("a step")
        if state["best"] is None:
            state["best"] = torch.zeros(())
        state["best"] = torch.maximum(state["best"], loss.detach())
        return loss.detach()
    yield from stepping(compile, training(sgd, after))


@program(exact=False)
def steps_that_read_their_loss(compile):
    def after(net, state, loss, x):
        state["n"] += x.shape[0]
        return loss.item(), loss.item() * x.shape[0]
    yield from stepping(compile, training(sgd, after))


@program(exact=False)
def steps_that_look_before_they_go_back(compile):
    def before(net, loss):
        if loss.item() > 100:
            raise ValueError("diverged")
    yield from stepping(compile, training(sgd, before=before))


@program(exact=False)
def steps_that_branch_on_their_gradients(compile):
    def after(net, state, loss, x):
        if net[0].weight.grad.norm() > 0.3:
            state["n"] += 1
            return loss.detach() * 2
        return loss.detach()
    yield from stepping(compile, training(sgd, after), sizes=(*STEPS, 4, 6, 8, 2))


@program(exact=False)
def steps_that_list_predictions(compile):
    yield from stepping(compile, training(sgd, lambda net, state, loss, x: net(x).mean(0).tolist()))


@program(exact=False)
def gradients_accumulated(compile):
    def make(net, state):
        def step(x, y):
            F.cross_entropy(net(x), y).backward()
            state["n"] += 1
            return net[0].weight.grad.sum()
        return step
    yield from stepping(compile, make)


@program(exact=False)
def gradients_of_parameters_asked_for(compile):
    def make(net, state):
        def step(x, y):
            grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), grads):
                    p -= 0.1 * g
            return grads[0]
        return step
    yield from stepping(compile, make)


@program(exact=False)
def gradients_of_inputs(compile):
    @compile
    def f(x, w):
        x = x.detach().requires_grad_()
        (torch.tanh(x) * w).sum().backward()
        return x.grad, w.grad
    w = leaf(3)
    for n in STEPS:
        yield f(tensor(n, 3), w), w


@program(exact=False)
def gradients_left_on_arguments(compile):
    @compile
    def f(x, w):
        (torch.tanh(x) * w).sum().backward()
        return x.grad * 2
    w = leaf(3)
    for n in STEPS:
        x = leaf(n, 3)
        yield outcome(f, x, w), x, w


@program(exact=False)
def running_statistics_of_steps(compile):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
    optimizer = torch.optim.RMSprop(net.parameters(), 1e-3)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    for n in (4, 4, 4, 6, 3, 9, 5):
        yield step(tensor(n, 3)), net.state_dict()


@program
def counters_of_calls(compile):
    class Counted:
        total = 0

        def __init__(self):
            self.calls, self.log, self.mean = 0, [], torch.zeros(3)

        def __call__(self, x):
            self.calls += 1
            self.log.append(x.shape[0])
            self.mean = self.mean * 0.5 + x.mean(0) * 0.5
            return x * self.calls + self.mean
    counted = Counted()
    f = compile(counted)
    for n in STEPS:
        yield f(tensor(n, 3)), counted


@program
def state_of_a_closure(compile):
    def make():
        total, kept = torch.zeros(3), {}

        def f(x):
            nonlocal total
            total = total + x.sum(0)
            kept["x"] = total * 2
            kept.setdefault("first", 1)
            return total, dict(kept)
        return f
    f = compile(make())
    for n in STEPS:
        yield f(tensor(n, 3)), f


@program
def state_after_an_exception(compile):
    kept = {"n": 0}

    @compile
    def f(x):
        kept["n"] += 1
        if x.shape[0] == 3:
            raise ValueError("three")
        return x * kept["n"]
    for n in STEPS:
        yield outcome(f, tensor(n, 3)), kept


@program(exact=False)
def moving_average_of_weights(compile):
    torch.manual_seed(0)
    net, slow = nn.Linear(3, 3), nn.Linear(3, 3)
    slow.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    @compile
    def step(x):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), x)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(slow.parameters(), net.parameters()):
                a.lerp_(b, 0.1)
        return loss
    for n in STEPS:
        yield step(tensor(n, 3)), net, slow


@program
def ops_without_a_record(compile):
    yield from over(compile(lambda x: (x.sort(0)[0] * 2, x.t().cummax(1)[0] + 1, x.rot90() - 1)), sizes=(4, 4, 3, 5, 6))


@program
def ops_without_a_record_that_give_other_sizes(compile):
    yield from over(compile(lambda x: F.unfold(x[None, None], 2) * 2), sizes=(4, 4, 3, 5, 6))


@program
def ops_without_a_record_that_write(compile):
    yield from over(compile(lambda x: F.rrelu(x, training=True) * 2), sizes=(4, 4, 3, 5, 6))


@program(exact=False)
def gradients_of_ops_without_a_record(compile):
    yield from under_gradient(compile(lambda x: x.renorm(2, 0, 1.0) * 2))
    yield from under_gradient(compile(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.5, 3, 0, 7) * 2))


@program
def products_of_one_batch(compile):
    """Keys and values gather from call to call: one program for all of them."""
    f = compile(lambda x, past: ((keys := torch.cat([past, x], 1)), (x @ keys.mT) @ keys))
    past = tensor(1, 4, 3)
    for n in range(5):
        past, result = f(tensor(1, 1, 3) + n, past)
        yield past, result


class Keeping:
    """An object with state, called with tensors of these sizes; None lets it begin anew."""

    def __init__(self, step, sizes):
        self.step, self.sizes, self.kept, self.before = step, sizes, None, None

    def __call__(self, x):
        return self.step(self, x)

    def calls(self, compile):
        f = compile(self)
        for n in self.sizes:
            if n is None:
                self.kept = None
                continue
            yield outcome(f, tensor(n, 3))
            yield self.kept


def _longer(old, new):
    return new * 1 if old is None else torch.cat([old, new])


GROWING = (3, 1, 1, 1, 1, 1, 1, None, 4, 1, 1, 2, 3, 1, None, 1, 1, 1, None, 2, 0, 5)


@program
def cache_that_grows(compile):
    def step(self, x):
        self.kept = _longer(self.kept, x)
        return (x @ self.kept.T).relu() @ self.kept, self.kept.shape[0]
    yield from Keeping(step, GROWING).calls(compile)


@program
def caches_in_containers(compile):
    def step(self, x):
        (a, b), c, d = self.kept or ((None, None), [None], {"e": None})
        self.kept = (_longer(a, x), _longer(b, x + 1)), [_longer(c[0], x)], {"e": _longer(d["e"], x * 2)}
        (a, b), c, d = self.kept
        return a.sum() + b.amax() * c[0].sum() - d["e"].sum(), a.shape
    yield from Keeping(step, GROWING).calls(compile)


@program
def list_of_growing_caches(compile):
    def step(self, x):
        if self.kept is None:
            self.kept = [x * k for k in range(3)]
        else:
            for k, before in enumerate(self.kept):
                self.kept[k] = torch.cat([before, x * k])
        return [t.sum(0) for t in self.kept]
    yield from Keeping(step, GROWING).calls(compile)


@program
def window_of_what_came(compile):
    def step(self, x):
        self.kept = _longer(self.kept, x)
        if self.kept.shape[0] > 6:
            self.kept = self.kept[-4:] * 1
        return self.kept + 1
    yield from Keeping(step, GROWING).calls(compile)


@program
def queue_of_tensors_of_several_sizes(compile):
    def step(self, x):
        self.kept = self.kept or []
        self.kept.append(x * 2)
        if len(self.kept) > 2:
            self.kept.pop(0)
        return torch.cat(self.kept).sum(0)
    yield from Keeping(step, (3, 3, 4, 2, 5, 3, 1, 4, 2, 2, 6)).calls(compile)


@program
def state_that_is_an_argument(compile):
    def step(self, x):
        before, self.kept = self.kept, x
        return x.sum(0) if before is None else x.sum(0) + before.sum(0)
    yield from Keeping(step, (3, 3, 4, 4, 5, 2, 6, None, 5, 5)).calls(compile)
    own = Keeping(step, ())
    f, x = compile(own), tensor(4, 3)
    for n in (4, 5, 6, 7):
        x = tensor(n, 3)
        yield f(x), f(x), own.kept is x


@program
def one_tensor_in_two_places(compile):
    def step(self, x):
        if self.kept is None:
            self.kept = self.before = x * 1
        both, sum = self.kept is self.before, (self.before * 2).sum() + self.kept.sum()
        self.kept = torch.cat([self.kept, x])
        if not self.kept.shape[0] % 2:
            self.before = self.kept
        return both, sum, self.before.shape
    yield from Keeping(step, GROWING).calls(compile)


@program
def state_of_which_only_the_size_is_used(compile):
    def step(self, x):
        n = 0 if self.kept is None else self.kept.shape[0]
        self.kept = torch.zeros(n + x.shape[0], 2)
        return torch.ones(n + 2) * 2, x + n, torch.arange(n)
    yield from Keeping(step, GROWING).calls(compile)


@program
def state_of_a_batch_is_written_in_place(compile):
    def step(self, x):
        if self.kept is None:
            self.kept = torch.zeros_like(x)
        self.kept.add_(x).mul_(2)
        return self.kept.sum(0)
    yield from Keeping(step, (4, 4, 4, None, 6, 6, None, 3, 3, 3, None, 1, 1, None, 8, 8)).calls(compile)


@program
def state_and_its_views_returned(compile):
    def step(self, x):
        before, self.kept = self.kept, _longer(self.kept, x)
        return before, self.kept, before if before is None else before[1:], self.kept[-1]
    yield from Keeping(step, GROWING).calls(compile)


@program
def state_set_from_outside(compile):
    own = Keeping(lambda self, x: x @ self.kept.T + self.kept.sum(), ())
    f = compile(own)
    for n, m in ((3, 4), (3, 4), (3, 5), (3, 6), (4, 6), (5, 2), (2, 5), (7, 7), (1, 3), (3, 1), (4, 4)):
        own.kept = tensor(n, 3)
        yield f(tensor(m, 3)), f(tensor(m, 3) + 1)
    own.kept = tensor(3, 4)[:, :3]
    yield f(tensor(3, 3))


@program
def state_of_a_batch_with_a_gradient(compile):
    w = nn.Parameter(tensor(3, 3))

    def step(self, x):
        self.kept = _longer(self.kept, x @ w)
        return (self.kept * self.kept).sum()
    own = Keeping(step, ())
    f = compile(own)
    for n in (2, 1, 1, 3, 1, 1, 2):
        loss = f(tensor(n, 3))
        yield loss, backward(loss), w.grad
        own.kept = own.kept.detach()


@program
def state_of_a_layout_that_changes(compile):
    def step(self, x):
        self.kept = x.T if self.kept is None else torch.cat([self.kept, x.T], 1).T.contiguous().T
        return self.kept * 1, self.kept.stride(), self.kept.is_contiguous()
    yield from Keeping(step, GROWING).calls(compile)


@program
def cache_in_an_object_that_is_given(compile):
    class Cache:
        def __init__(self):
            self.layers = [None, None]

    @compile
    def f(x, cache, scale=1.0):
        for k, before in enumerate(cache.layers):
            cache.layers[k] = _longer(before, x)
            x = x * scale + (x @ cache.layers[k].T).relu() @ cache.layers[k]
        return x
    for length in (9, 3, 4, 5, 2):
        cache = Cache()
        for n in (2, *[1] * length):
            yield f(tensor(n, 3), cache), cache.layers[0].shape


@program
def state_of_a_class_and_a_global(compile):
    class Own:
        kept = None

    @compile
    def f(x):
        global GLOBAL_STATE
        Own.kept, GLOBAL_STATE = _longer(Own.kept, x), torch.cat([GLOBAL_STATE, x])
        return Own.kept.sum(0) + GLOBAL_STATE.sum(0)
    for n in (3, 1, 1, 1, 4, 2):
        yield f(tensor(n, 3)), Own.kept.shape
    globals()["GLOBAL_STATE"] = torch.ones(2, 3)


GLOBAL_STATE = torch.ones(2, 3)
