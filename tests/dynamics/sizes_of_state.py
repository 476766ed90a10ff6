"""Tensors in state whose sizes change."""
import torch
from torch import nn

from .harness import backward, outcome, program, tensor, whole


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
            yield f(tensor(n, 3).clamp(-1, 1), cache), cache.layers[0].shape


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


@program
def what_is_taken_away_for_a_while(compile):
    """Where the program for all sizes can't be made, nothing of the attempt stays."""
    class State:
        count, flag = 0, True
        total = torch.zeros(())
    s, table, items = State(), {"rate": 0.5, "seen": 1}, [1, 2, 3]

    @compile
    def f(x):
        s.total = s.total + x.sum()
        seen, last, s.flag = table.pop("seen"), items.pop(), False
        y = x.diagonal() * float(hash(len(x)) % 3)
        table["seen"], s.flag = seen, True
        items.append(last)
        return y
    for n in (3, 5, 2, 4, 5):
        yield f(tensor(n, 4)), s, s.flag, list(table.items()), list(items), s.total


@program(exact=False)
def a_cache_filled_in_inference_mode(compile):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.cache = whole(nn.Linear(4, 4), 0.1), torch.zeros(2, 12, 4)

        @torch.inference_mode()
        def forward(self, x, start):
            end = start + x.shape[1]
            self.cache[:, start:end] = self.project(x)
            seen = self.cache[:, :end]
            return (x @ seen.transpose(1, 2)).softmax(-1) @ seen
    attention = compile(Attention())
    for length in (3, 4, 2, 5):
        at = 0
        for size in (length, 1, 1, 1, 1, 1):
            yield attention(tensor(2, size, 4), at), attention.cache
            at += size


@program
def views_of_tensors_of_both_kinds(compile):
    """Of tensors made in inference mode, and of others."""
    @compile
    @torch.inference_mode()
    def f(x, y):
        x[1:] += 1
        z = y * 2
        z[:, :2].mul_(y.shape[0])
        return x[:, 1:], y.t(), z, z[1:], x.view(-1)
    for rows in (3, 4, 5, 2):
        x, y = tensor(rows, 3), tensor(rows + 1, 3)
        yield f(x, y), x, y
        with torch.inference_mode():
            x, y = tensor(rows, 3), tensor(rows + 1, 3)
        yield f(x, y), x, y


@program
def written_by_way_of_data(compile):
    """`w.data -= ...` writes, and puts what it wrote to in the place where it was."""
    w, v, m = nn.Parameter(tensor(2)), tensor(2), nn.Linear(2, 2)
    with torch.no_grad():
        m.weight.copy_(tensor(2, 2))

    @compile
    def f(x):
        w.data -= x.sum(0)
        v.data += 1
        v.data = v
        v.add_(x.sum(0))
        m.weight.data *= tensor(2, 2) > 0
        u = x + 1
        u.data = u.data
        u += 1
        return w * x, u
    for n in (3, 4, 4, 5, 3):
        result, u = f(tensor(n, 2))
        yield backward(result), u, w, w.grad, v, m.weight
