"""Gradients: modes, hooks, passes inside and outside the function, and where their results are kept."""
import torch
from torch import nn

from .harness import backward, calls, leaf, outcome, program, tensor

X = tensor(4)


def gradients(y, *inputs, **options):
    """Contiguous ones: torch promises no layout for what it gives."""
    found = torch.autograd.grad(y, inputs, tensor(*y.shape) + 0.5, allow_unused=True, **options)
    return [None if g is None else g.contiguous() for g in found]


@program
def no_grad_inside(compile):
    @compile
    def f(x):
        with torch.no_grad():
            scale = x.abs().max()
        return x * scale + (x * 2).detach()
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def view_made_without_gradients(compile):
    """Of a tensor that requires grad: it requires grad, too, and gets none."""
    @compile
    def f(x):
        y = x * 2
        with torch.no_grad():
            return y[1:], y.sum()
    for _ in range(4):
        part, total = f(x := leaf(4))
        backward(part * 3)
        yield part, total, part.requires_grad, part.grad, x.grad


@program(exact=False)
def results_of_separate_histories(compile):
    """A pass from one result neither runs nor frees the history of an input that only the others depend on."""
    f = compile(lambda u, v: (u.sin() * 2, v.cos() * 3, v.detach() + 1))
    for order in ((0, 1), (1, 0), (1,), (0, 1)):
        a, b = leaf(4), leaf(4)
        results = f(a * a, b.exp())
        for k in order:
            yield outcome(lambda: results[k].sum().backward())
        yield results, a.grad, b.grad
    f = compile(lambda u, v: (y := u.sin(), y * v.exp()))
    for ways in ("together", "in turn", "kept", "together", "the second again"):
        a, b = leaf(4), leaf(4)
        r, t = f(a * 2, b * 3)
        if ways == "together":
            yield outcome(lambda: (r.sum() + t.sum()).backward())
        elif ways == "the second again":
            t.sum().backward()
            yield outcome(lambda: t.sum().backward())
        else:
            r.sum().backward(retain_graph=ways == "kept")
            yield outcome(lambda: t.sum().backward())
        yield a.grad, b.grad


@program(exact=False)
def equal_steps_of_two_results(compile):
    """That both results compute the same is no reason for one pass to free what the other needs."""
    f = compile(lambda u, v: (torch.sigmoid(u * v), torch.sigmoid(u * v) * v.exp()))
    for order in ((0, 1), (1, 0), (0, 1), (0, 0)):
        u, v = leaf(4), leaf(4)
        results = f(u, v)
        for k in order:
            yield outcome(lambda: results[k].sum().backward()), u.grad, v.grad


@program
def passes_by_name_over_what_was_overwritten(compile):
    """A backward pass that names its inputs raises as any other: what exp keeps has changed."""
    @compile
    def f(x):
        y = x.exp()
        y.add_(1)
        return y
    for _ in range(3):
        x = leaf(4)
        yield outcome(lambda: torch.autograd.grad(f(x).sum() + (x * x).sum(), x))
        yield outcome(lambda: torch.autograd.grad(f(x).sum(), x, allow_unused=True))
        yield outcome(lambda: (f(x).sum() + (x * x).sum()).backward(inputs=[x])), x.grad


@program
def enable_grad_inside(compile):
    @compile
    def f(x):
        with torch.enable_grad():
            y = x * x
        return y, x * 2
    x = leaf(4)
    for guard in (torch.no_grad, torch.enable_grad, torch.no_grad, torch.inference_mode, torch.enable_grad):
        with guard():
            yield from calls(f, x)


@program
def set_grad_enabled_as_a_decorator(compile):
    @compile
    @torch.no_grad()
    def f(x):
        return x * 2
    x = leaf(4)
    yield from calls(f, x)


@program
def inference_mode_inside(compile):
    @compile
    def f(x):
        with torch.inference_mode():
            return x * 2
    yield from calls(f, leaf(4))


@program
def branches_in_inference_mode(compile):
    @compile
    @torch.inference_mode()
    def f(x, w):
        found = []
        while len(found) < 5:
            x = (x @ w).tanh()
            found.append(x.argmax(-1))
            if found[-1][0].item() == 2:
                break
        return torch.stack(found, 1)
    w = leaf(4, 4)
    for k in range(6):
        yield from calls(f, torch.randn(3, 4, generator=torch.Generator().manual_seed(k % 4)), w)
        with torch.inference_mode():
            yield outcome(f, tensor(2, 4) - k / 3, w)


@program
def inference_tensors(compile):
    f = compile(lambda x, w: x * w)
    with torch.inference_mode():
        frozen = tensor(4)
    yield from calls(f, frozen, X)
    yield from calls(f, X, X)
    yield outcome(f, frozen, leaf(4))
    yield from (backward(y) for y in calls(f, X, leaf(4)))


@program
def gradient_mode_read_in_python(compile):
    f = compile(lambda x: x * 2 if torch.is_grad_enabled() else x + 1)
    for guard in (torch.enable_grad, torch.no_grad, torch.enable_grad, torch.no_grad):
        with guard():
            yield from calls(f, leaf(4))


@program
def hook_inside(compile):
    @compile
    def f(x):
        y = x * 2
        y.register_hook(lambda grad: grad * 10)
        return y * x
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def hooks_outside(compile):
    seen = []
    f = compile(lambda x, w: x * w)
    w = leaf(4)
    handle = w.register_hook(lambda grad: grad * 2)
    for k in range(5):
        x = leaf(4)
        y = f(x, w)
        y.register_hook(lambda grad: seen.append(grad.clone()))
        yield backward(y)
        if k == 2:
            handle.remove()
    w.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    yield backward(f(leaf(4), w))


@program
def hooks_of_leaves_that_a_pass_does_not_reach(compile):
    """Of two heads' parameters: a pass from one head does not come by the other's."""
    seen = []
    f = compile(lambda x, v, w: (x * v, x.abs() * w))
    for hooks in ("register_hook", "register_post_accumulate_grad_hook"):
        v, w = leaf(4), leaf(4)
        getattr(w, hooks)(lambda t: seen.append(t if t is None else t.clone()))
        for k in range(6):
            y, z = f(leaf(4), v, w)
            yield backward((y, z, y + z)[k % 3]), v.grad, w.grad, list(seen)


@program
def features_beside_logits(compile):
    """What is computed of features flows through the features that the user has: kept gradients, hooks and grad see it."""
    @compile
    def f(x, w, v):
        features = (x * w).relu()
        return features * v, features
    for how in ("kept", "doubled", "asked for", "passed by"):
        for _ in range(3):
            x, w, v = leaf(4), leaf(4), leaf(4)
            y, features = f(x, w, v)
            if how == "kept":
                features.retain_grad()
            elif how == "doubled":
                features.register_hook(lambda g: g * 2)
            elif how == "asked for":
                yield torch.autograd.grad(y.sum(), features, retain_graph=True)
            else:
                y.register_hook(lambda g: g * 2)
            yield backward(features if how == "passed by" else y), features.grad, x.grad, w.grad, v.grad


@program
def optimizer_steps_in_hooks(compile):
    """A step of each parameter's own optimizer once its gradient is there, and none where there is none."""
    f = compile(lambda x, v, w: (x * v, x.abs() * w))
    leaves = [leaf(4), leaf(4)]
    optimizers = {p: torch.optim.SGD([p], 0.5) for p in leaves}
    for p in leaves:
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    for k in range(6):
        backward(f(X, *leaves)[k % 2])
        yield [p.detach().clone() for p in leaves]


@program
def gradient_retained(compile):
    f = compile(lambda x: x * x)
    for _ in range(4):
        x = leaf(4)
        h = x + 1
        h.retain_grad()
        y = f(h)
        y.retain_grad()
        yield backward(y * 1), h


@program
def retained_inside(compile):
    @compile
    def f(x):
        y = x * 2
        y.retain_grad()
        return y, y * x
    for _ in range(3):
        x = leaf(4)
        y, z = f(x)
        yield backward(z), y


def gradient_kept(use):
    """A program whose function keeps the gradient of a tensor that it makes, and reads it."""
    def body(compile):
        f = compile(lambda x, h=None: use(x, (x * 2) if h is None else h))
        for k in range(6):
            x = (tensor(4) + k % 2).requires_grad_()
            y = outcome(f, x)
            yield y, x
            if isinstance(y, torch.Tensor) and y.requires_grad:
                yield backward(y), x
        yield from (outcome(f, x, x * 2) for _ in range(2))
        yield from (outcome(f, leaf(k)) for k in range(5, 8))
    body.__name__ = f"gradient_kept_{use.__name__}"
    body.__module__ = __name__
    return program(body)


@gradient_kept
def by_two_passes(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(retain_graph=True)
    first = h.grad
    (h * x).sum().backward()
    return first, h.grad


@gradient_kept
def where_it_is_not_reached(x, h):
    h.retain_grad()
    (x * 3).sum().backward()
    return h.grad is None, h.retains_grad


@gradient_kept
def by_a_pass_for_others(x, h):
    h.retain_grad()
    slope, = torch.autograd.grad((h ** 3).sum(), x, allow_unused=True)
    other, = torch.autograd.grad((h ** 2).sum(), h)
    return slope, other, h.grad


@gradient_kept
def to_be_differentiated(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(create_graph=True)
    y = (h.grad ** 2).sum()
    x.grad = None
    return y


@gradient_kept
def of_views_written_to(x, h):
    part = h[1:]
    part.retain_grad()
    h.retain_grad()
    h.mul_(3)
    (h * h).sum().backward()
    return h.grad, part.grad


@gradient_kept
def and_changed(x, h):
    h.retain_grad()
    (h ** 3).sum().backward(retain_graph=True)
    h.grad.zero_()
    (h ** 2).sum().backward(retain_graph=True)
    first, h.grad = h.grad, None
    h.sum().backward()
    return first, h.grad * 1


@gradient_kept
def and_branched_on(x, h):
    h.retain_grad()
    (h ** 3).sum().backward()
    return h.grad * 2 if h.grad.sum() > 200 else h.grad + 1


@gradient_kept
def after_a_branch(x, h):
    h.retain_grad()
    if h.sum() > 3:
        return h * 2, h.grad
    (h ** 3).sum().backward()
    return h.grad * 2


@program
def graph_retained(compile):
    f = compile(lambda x: x * x * 3)
    for _ in range(3):
        x = leaf(4)
        y = f(x)
        y.backward(tensor(4), retain_graph=True)
        yield y
        y.backward(tensor(4))
        yield y, outcome(y.backward, tensor(4))


@program
def gradients_of_some_inputs(compile):
    f = compile(lambda a, b: a * b + a)
    for wanted in ("a", "b", "ab", "a", "b"):
        a, b = leaf(4), leaf(4)
        y = f(a, b)
        yield gradients(y, *[{"a": a, "b": b}[k] for k in wanted])


@program
def gradients_of_some_results(compile):
    f = compile(lambda a, b: (a * b, a + 1, b.sum(), b.detach()))
    for k in (0, 1, 2, 0, 2, 1):
        a, b = leaf(4), leaf(4)
        yield gradients(f(a, b)[k], a, b)


@program
def gradient_that_is_expanded_or_transposed(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        x = leaf(3, 3)
        f(x).sum().backward()
        yield x
        f(x).t().backward(tensor(3, 3))
        yield x
        f(x)[1:].sum(0).backward(tensor(3).expand(3))
        yield x


@program
def accumulated_gradients(compile):
    f = compile(lambda x, w: (x * w).sum())
    w = leaf(4)
    for k in range(5):
        yield backward(f(X * k, w))
    w.grad = None
    yield backward(f(X, w))


@program
def anomaly_mode(compile):
    f = compile(lambda x: x.sqrt() * 2)
    for _ in range(3):
        x = leaf(4)
        with torch.autograd.set_detect_anomaly(True, check_nan=True):
            yield outcome(backward, f(x))


@program
def saved_tensors_hooks_outside(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        x = leaf(4)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.float()):
            y = f(x)
        yield backward(y)
        with torch.autograd.graph.save_on_cpu():
            y = f(x)
        yield backward(y)
        yield backward(f(x))


@program
def complex_gradients(compile):
    f = compile(lambda z: (z * z.conj()).real + z.imag)
    for _ in range(4):
        z = torch.complex(tensor(4), tensor(4) + 1).requires_grad_()
        y = f(z)
        y.backward(tensor(4))
        yield y, z


@program
def integers_and_gradients(compile):
    f = compile(lambda x, i: (x[i] * i, i + 1, x > 0, x.argmax()))
    for _ in range(4):
        x = leaf(4)
        y, *rest = f(x, torch.tensor([0, 2, 2]))
        yield backward(y), rest


@program
def results_that_need_none(compile):
    f = compile(lambda x, w: (x * 2, w * x, (w * x).detach(), w))
    for _ in range(4):
        x, w = tensor(4), leaf(4)
        results = f(x, w)
        backward(results[1])
        yield results


@program
def ties(compile):
    f = compile(lambda x: (x.max(), x.amax(0), x.max(0).values, x.abs().sum(), torch.maximum(x, x.flip(0)), x.clamp(-1, 1),
                           x.relu()))
    for _ in range(3):
        x = torch.tensor([[1.0, 1, 0], [1, -1, 0]]).requires_grad_()
        torch.autograd.backward([r.sum() for r in f(x)])
        yield x


@program
def gradient_read_inside(compile):
    @compile
    def f(w):
        return w * 2 if w.grad is None else w - w.grad
    w = leaf(4)
    yield from calls(f, w)
    w.grad = tensor(4)
    yield from calls(f, w)
    w.grad.mul_(3)
    yield from calls(f, w)
    w.grad = None
    yield from calls(f, w)


@program
def hook_changed_between_forward_and_backward(compile):
    f = compile(lambda x: x * 3)
    for k in range(4):
        x = leaf(4)
        y = f(x)
        x.register_hook(lambda grad, k=k: grad * k)
        yield backward(y)


@program
def gradient_cleared_without_a_look(compile):
    w = leaf(4)

    @compile
    def f(x):
        w.grad = None
        return x * w
    for _ in range(3):
        yield backward(f(tensor(4)))


def gradient_after(write):
    """A program whose function writes to what the gradient of its result needs."""
    def body(compile):
        def f(x, inner):
            h = x * 1 if inner else x
            y = h.sin()
            write(h)
            return y * 2
        f = compile(f)
        for inner in (True, False) * 3:
            x = leaf(4)
            yield outcome(lambda: backward(f(x, inner)))
    body.__name__ = f"gradient_needs_what_{write.__name__}"
    body.__module__ = __name__
    return program(body)


@gradient_after
def is_written_to_detached(t):
    t.detach().mul_(2)


@gradient_after
def is_written_to_without_gradients(t):
    with torch.no_grad():
        t.mul_(2)


@gradient_after
def is_written_to_uncounted(t):
    t.data.mul_(2)


@program
def sparse_gradients(compile):
    rows = nn.Embedding(5, 2, sparse=True)

    @compile
    def f(places):
        rows.zero_grad()
        rows(places).sum().backward()
        return rows.weight.grad.to_dense()
    yield from calls(f, torch.tensor([1, 3, 1]))


@program
def sparse_gradients_outside_the_function(compile):
    rows, bags, table = nn.Embedding(5, 2, sparse=True), nn.EmbeddingBag(5, 2, sparse=True, mode="sum"), leaf(5, 2)
    places = torch.tensor([1, 3, 1])
    fs = [compile(lambda: rows(places).square()), compile(lambda: bags(places, torch.tensor([0, 2])).square()),
          compile(lambda: torch.gather(table * 2, 1, places[:, None] % 2, sparse_grad=True).square())]
    for f in fs * 3:
        for t in (rows.weight, bags.weight, table):
            t.grad = None
        f().sum().backward()
        yield
    with torch.no_grad():
        yield [f() for f in fs * 2]


@program(exact=False)
def gradients_of_convolutions_of_channels_last(compile):
    f = compile(lambda x, w, b: torch.relu(nn.functional.conv2d(x, w, b)) * 2)
    for _ in range(4):
        x, w, b = (tensor(*shape).requires_grad_() for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        found = torch.autograd.grad(f(x, w, b).square().sum(), (x, w, b))
        yield found, [g.stride() for g in found]


@program(exact=False)
def calls_of_torch_outside_of_gradients(compile):
    """What torch computes of tensors that require grad, through which no gradient flows, requires none."""
    exponential = compile(lambda w: torch.linalg.matrix_exp(w.detach()))

    @compile
    def given_to_a_leaf(w):
        made = w.detach().clone().requires_grad_()
        torch.linalg.matrix_exp(made).square().sum().backward()
        return made, made.grad.sign()
    w = (tensor(3, 3) / 8).requires_grad_()
    for _ in range(4):
        yield exponential(w), given_to_a_leaf(w)


def _passes(f, order, make):
    """The results' gradients one by one, in this order."""
    for _ in range(4):
        inputs = make()
        results = f(*inputs)
        said = [outcome(lambda k=k: results[k].square().sum().backward()) for k in order]
        yield said, [t.grad for t in inputs if t.requires_grad]


@program(exact=False)
def a_pass_for_each_result(compile):
    """They share nothing but an input."""
    f = compile(lambda x, w: (torch.exp(x * 2), x.cos() * w, (x @ w).tanh()))
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0), (0, 2, 0)):
        yield from _passes(f, order, lambda: (leaf(4, 4), leaf(4, 4)))


@program(exact=False)
def passes_for_results_that_share_a_step(compile):
    """The first pass frees what the second needs."""
    @compile
    def f(x):
        y = x.exp()
        return y * 2, y.sin(), x * x
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 2)):
        yield from _passes(f, order, lambda: (leaf(4),))


@program(exact=False)
def losses_of_two_networks(compile):
    """As an actor and its critic have them: each is differentiated on its own."""
    actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimisers = [torch.optim.SGD(net.parameters(), 0.1) for net in (actor, critic)]

    @compile
    def losses(x, returns):
        values = critic(x).squeeze(-1)
        advantage = (returns - values).detach()
        return -(actor(x).log_softmax(-1)[:, 0] * advantage).mean(), (returns - values).square().mean()
    for n in (5, 5, 7, 6):
        for loss, optimiser in zip(losses(tensor(n, 4), tensor(n)), optimisers):
            optimiser.zero_grad()
            loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        yield loss, list(actor.parameters()), list(critic.parameters())


@program(exact=False)
def a_write_between_passes(compile):
    f = compile(lambda x, w: (x.exp(), (x * w).sum(0)))
    for _ in range(4):
        x, w = leaf(4, 4), leaf(4, 4)
        first, second = f(x, w)
        first.sum().backward()
        with torch.no_grad():
            w.add_(1)
        yield outcome(lambda: second.sum().backward()), x.grad, w.grad


@program(exact=False)
def passes_that_keep_the_graph(compile):
    f = compile(lambda x: (x.exp(), x.sin() * x))
    for _ in range(4):
        x = leaf(4)
        first, second = f(x)
        first.sum().backward(retain_graph=True)
        second.sum().backward(retain_graph=True)
        first.sum().backward()
        yield outcome(lambda: first.sum().backward()), outcome(lambda: second.sum().backward()), x.grad


@program(exact=False)
def tensors_saved_by_hooks(compile):
    """Which give the backward pass other numbers, and count; or put them aside for a while."""
    counts = [0, 0]

    def pack(t):
        counts[0] += 1
        return t.to(torch.bfloat16)

    def unpack(t):
        counts[1] += 1
        return t.float()

    @compile
    def f(x):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return x.exp() * x.sin()

    @compile
    def step(x):
        f(x).sum().backward()

    @compile
    def aside(x):
        with torch.autograd.graph.save_on_cpu():
            return x.exp() * x.sin()
    for k in range(4):
        yield backward(f((leaf(4) * 0.3 + k / 7).detach().requires_grad_())), counts
        x = (tensor(4) * 0.3).requires_grad_()
        yield step(x), x.grad, counts
        yield backward(aside(x)), x.grad


@program(exact=False)
def images_of_one_pixel_whose_channels_lie_last(compile):
    """Strides of dimensions of size 1 say nothing: torch's convolutions give other ones than they were recorded to give."""
    def conv(a, b, size=3, stride=1):
        return nn.Conv2d(a, b, size, stride, size // 2)
    pool, squeezed = nn.AdaptiveAvgPool2d(1), nn.Sequential(conv(8, 4, 1), nn.SiLU(), conv(4, 8, 1), nn.Sigmoid())
    stem, down = conv(3, 8), nn.Sequential(conv(8, 8, stride=2), nn.BatchNorm2d(8), conv(8, 4, 1))
    params = [*stem.parameters(), *squeezed.parameters(), *down.parameters()]

    @compile
    def excited(x):
        y = stem(x.permute(0, 3, 1, 2))
        return (y * squeezed(pool(y))).sum((2, 3))

    @compile
    def smaller(x):
        return down(stem(x)).flatten(1)
    for k in range(4):
        yield backward(excited(tensor(2, 4, 4, 3) * 0.1 + k).sum()), [p.grad for p in params]
        yield backward(smaller((tensor(2, 3, 2, 2) + k).to(memory_format=torch.channels_last)).sin().sum())
        yield [p.grad for p in params]
