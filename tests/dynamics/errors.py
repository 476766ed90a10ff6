"""Exceptions: the type that eager raises, on the first call and on later ones, and what is left behind."""
import asyncio
import contextlib
import math
import traceback

import torch
from torch import nn
from torch.nn import functional as F

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4)


def frames(f, *args):
    """The functions that a traceback names, from the program's own on, without smelt's."""
    try:
        f(*args)
    except Exception as error:
        here = [s for s in traceback.extract_tb(error.__traceback__) if "/dynamics/" in s.filename]
        return type(error).__name__, [s.name for s in here if s.name != "frames"]
    return None


@program
def bad_shape_later(compile):
    f = compile(lambda x, y: x + y)
    for n in (4, 4, 3, 4, 3, 1, 2, 4):
        yield outcome(f, X, tensor(n))


@program
def bad_shape_first(compile):
    f = compile(lambda x, y: x + y)
    for n in (3, 3, 4, 4, 3):
        yield outcome(f, X, tensor(n))


@program
def bad_shapes_of_products(compile):
    f = compile(lambda x, y: x @ y)
    for shape in ((4, 2), (4, 2), (3, 2), (4,), (2, 4, 2), (2, 3), (4, 2)):
        yield outcome(f, X, tensor(*shape))


@program(exact=False)
def bad_input_of_a_module(compile):
    f = compile(nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)))
    for shape in ((3, 4), (3, 4), (3, 5), (4,), (), (3, 4)):
        found = outcome(f, tensor(*shape))
        yield found if isinstance(found, str) else found.shape


@program
def bad_dtype(compile):
    f = compile(lambda x, y: torch.matmul(x, y) + 1)
    for dtype in (torch.float32, torch.float32, torch.float64, torch.int64, torch.float32):
        yield outcome(f, X, X.to(dtype))


@program
def bad_kinds_of_arguments(compile):
    f = compile(lambda x, y: torch.mul(x, y))
    for y in (X, X, None, "text", [1.0], 2, X, {}, object()):
        yield outcome(f, X, y)


@program
def wrong_number_of_arguments(compile):
    f = compile(lambda x, y=1, *, z=2: x * y + z)
    yield from calls(f, X)
    for args, kwargs in (((), {}), ((X, 1, 2), {}), ((X,), {"q": 1}), ((X,), {"x": X}), ((X, 3), {"z": 4})):
        yield outcome(f, *args, **kwargs)


@program
def exception_of_the_program(compile):
    class Stop(Exception):
        pass

    @compile
    def f(x, stop):
        y = x * 2
        if stop:
            raise Stop("stopped", x.shape)
        return y
    for stop in (True, False, False, True, False):
        yield outcome(f, X, stop)


@program
def exception_with_a_cause(compile):
    @compile
    def f(table, key):
        try:
            return table[key] * 2
        except KeyError as error:
            raise ValueError("unknown") from error
    for key in ("a", "a", "b", "a", "b"):
        try:
            yield f({"a": X}, key)
        except ValueError as error:
            yield type(error.__cause__), str(error), str(error.__cause__)


@program
def exceptions_caught_inside(compile):
    @compile
    def f(x, y):
        try:
            return x + y
        except RuntimeError:
            return x - y.sum()
    for n in (4, 4, 3, 3, 3, 4):
        yield f(X, tensor(n))


@program
def finally_and_context_managers(compile):
    log = []

    @contextlib.contextmanager
    def scope(name):
        log.append(f"+{name}")
        try:
            yield
        finally:
            log.append(f"-{name}")

    @compile
    def f(x, y):
        with scope("a"), scope("b"):
            return x + y
    for n in (4, 4, 3, 4):
        yield outcome(f, X, tensor(n))


@program
def frames_of_the_user(compile):
    def inner(x, y):
        return x + y

    def outer(x, y):
        return inner(x, y) * 2
    f = compile(outer)
    for n in (4, 4, 3, 3):
        yield frames(f, X, tensor(n))


@program
def index_out_of_range(compile):
    f = compile(lambda x, i: x[i] * 2)
    for i in ([0, 1], [0, 1], [0, 9], [3, 3], [-5, 0], [-4, 0]):
        yield outcome(f, X, torch.tensor(i))


@program
def index_out_of_range_in_the_embedding(compile):
    table = tensor(3, 2)
    f = compile(lambda i: F.embedding(i, table) + 1)
    for i in ([0, 1], [0, 2], [0, 3], [-1, 0], [1, 1]):
        yield outcome(f, torch.tensor(i))


@program(exact=False)
def target_out_of_range(compile):
    f = compile(lambda x, t: F.cross_entropy(x, t))
    for t in ([0, 1], [0, 1], [0, 9], [2, 2], [-1, 0], [-100, 0]):
        yield outcome(f, tensor(2, 3), torch.tensor(t))


@program
def division_of_integers_by_zero(compile):
    f = compile(lambda x, y: (x // y, x % y))
    for k in (2, 2, 0, 3, 0):
        yield outcome(f, X.long(), torch.tensor([1, k, 2, 3]))


@program
def negative_powers_of_integers(compile):
    f = compile(lambda x, n: x ** n)
    for n in (2, 2, -1, 0, -2, 3):
        yield outcome(f, X.long(), n)


@program
def singular_matrix(compile):
    f = compile(lambda a: torch.linalg.inv(a) + 1)
    for a in (torch.eye(2), torch.eye(2), torch.zeros(2, 2), torch.eye(2) * 2):
        yield outcome(f, a)


@program
def backward_of_something_used_up(compile):
    f = compile(lambda x: x * x)
    for _ in range(3):
        y = f(leaf(4))
        backward(y)
        yield outcome(backward, y)


@program
def backward_without_gradient(compile):
    f = compile(lambda x: x * 2)
    yield from (outcome(backward, y) for y in calls(f, X))
    with torch.no_grad():
        y = f(leaf(4))
    yield outcome(backward, y)
    yield outcome(lambda: f(leaf(4)).backward())


@program
def backward_with_a_bad_gradient(compile):
    f = compile(lambda x: x * 2)
    for _ in range(3):
        y = f(leaf(4))
        yield outcome(y.backward, tensor(3)), outcome(y.backward, tensor(4).double())


@program
def write_to_a_leaf(compile):
    f = compile(lambda x: x.add_(1))
    for x in (tensor(4), tensor(4), leaf(4), tensor(4)):
        yield outcome(f, x)


@program
def write_after_the_forward(compile):
    f = compile(lambda x, w: (x * w).exp())
    for _ in range(3):
        x, w = leaf(4), tensor(4) / 8
        y = f(x, w)
        w.add_(1)
        result = outcome(lambda: y.sum().backward())
        yield result is None, result if isinstance(result, str) else ""
        del x, w, y


@program
def keyboard_interrupt(compile):
    @compile
    def f(x, stop):
        if stop:
            raise KeyboardInterrupt
        return x * 2
    for stop in (True, False, False, True, False):
        try:
            yield f(X, stop)
        except KeyboardInterrupt:
            yield "interrupted"


@program
def generator_exit_and_stop_iteration(compile):
    f = compile(lambda x, items: next(iter(items)) * x)
    for items in ([2.0], [2.0], [], [3.0], []):
        yield outcome(f, X, items)


@program
def deep_recursion(compile):
    def down(x, n):
        return down(x, n + 1)
    f = compile(lambda x: down(x, 0))
    yield outcome(f, X), outcome(f, X)
    g = compile(lambda x: x * 2)
    yield from calls(g, X)


@program
def attribute_missing(compile):
    net = nn.Linear(4, 2)
    f = compile(lambda x: x * net.missing)
    yield outcome(f, X)
    net.missing = 2.0
    yield from calls(f, X)
    del net.missing
    yield outcome(f, X)


@program
def unbound_and_undefined_names(compile):
    @compile
    def f(x, flag):
        if flag:
            y = x * 2
        return y
    for flag in (True, True, False, True):
        yield outcome(f, X, flag)


@program
def full_graph(compile):
    f = compile(lambda x: x * 2 + 1, fullgraph=True)
    yield from calls(f, X)
    yield outcome(f, "text"), outcome(f, X[:0])


@program
def exception_in_a_hook(compile):
    net = whole(nn.Linear(4, 2), 1)
    f = compile(net)
    yield from calls(f, X)

    def refuse(module, args):
        raise PermissionError("no")
    handle = net.register_forward_pre_hook(refuse)
    yield outcome(f, X), outcome(f, X)
    handle.remove()
    yield from calls(f, X)


@program
def exception_in_a_backward_hook(compile):
    f = compile(lambda x: x * x)

    def refuse(grad):
        raise PermissionError("no")
    for k in range(4):
        x = leaf(4)
        y = f(x)
        if k % 2:
            y.register_hook(refuse)
        yield outcome(backward, y)


@program
def coroutine(compile):
    async def work(x):
        await asyncio.sleep(0)
        return x * 2
    f = compile(work)
    for _ in range(3):
        yield asyncio.run(f(X))


@program
def out_of_memory(compile):
    f = compile(lambda x: (x.expand(1 << 44, 4) + 1).sum(0))
    yield outcome(f, X), outcome(f, X)
    g = compile(lambda x, n: x.repeat(n).sum())
    yield from calls(g, X, 3)
    yield outcome(g, X, 1 << 50)
    yield from calls(g, X, 3)


@program
def assertions_of_torch(compile):
    @compile
    def f(x, n):
        torch._check(n > 0, lambda: "not positive")
        return x * n
    for n in (1, 1, 2, 0, 3, -1):
        yield outcome(f, X, n)


@program
def error_after_a_gradient_is_looked_at(compile):
    w = torch.ones(3, requires_grad=True)

    @compile
    def f(x):
        found = w.grad
        return (x * w).unfold(0, 2, 1), found
    for n in (3, 1, 3):
        yield outcome(f, torch.ones(3)[:n])
        w.grad = torch.ones(3)
        yield outcome(f, torch.ones(3)[:n])


@program
def errors_of_leaves_caught(compile):
    """Autograd refuses a write to a leaf; the next tensor may be none."""
    @compile
    def f(x):
        y = x * 3
        try:
            x.mul_(2)
        except RuntimeError:
            y = y + 1
        return y
    for x in (leaf(3), leaf(3), leaf(3) * 1, leaf(3) * 1, tensor(3), leaf(3)):
        yield f(x), x, x._version


@program
def number_divided_by_for_nothing(compile):
    """What Python raises for numbers counts, although nobody uses what it gives."""
    def divided(x, k):
        unused = 1 / k
        return x * 2

    def counted(x, ks):
        zeros = 0
        for k in ks:
            try:
                1 % k
            except ZeroDivisionError:
                zeros += 1
        return x * zeros

    def rooted(x, t):
        try:
            math.sqrt(t.item())
            int(1e300 * t.item())
        except (ValueError, OverflowError) as error:
            return x * (3 if isinstance(error, ValueError) else 5)
        return x
    f, g, h = compile(divided), compile(counted), compile(rooted)
    for k in (1, 2, 3, 0, 2, 0, 0.0, 0.5):
        yield outcome(f, X, k)
    for ks in ([1, 2], [1, 2], [0, 1], [0, 0], [1, 2], [0, 1], [0, 0], [3, 0]):
        yield g(X, ks)
    for t in (1.0, 2.0, 3.0, -1.0, 1e300, 2.0, -2.0):
        yield h(X, torch.tensor(t, dtype=torch.float64))


@program
def operator_that_a_number_lacks(compile):
    def shifted(x, k):
        try:
            return x * (1 << k) + (k & 1)
        except TypeError:
            return x
    f = compile(shifted)
    for k in (1.0, 2.0, 3.0, 1, 2, 3, 4.0):
        yield f(X, k)


@program
def numbers_refused_by_what_nobody_reads(compile):
    """An op whose result is of no use raises its error all the same, also where another way would have used it."""
    rows = tensor(3, 4)

    def looked_up(x, i):
        F.embedding(i, rows)
        return x * 2

    def lost(x, i):
        F.cross_entropy(rows[:1], i)
        return x * 3

    def divided(x, i):
        i // i
        return x * 4

    def caught(x, i):
        try:
            rows.index_select(0, i)
        except IndexError:
            return x
        return x * 5

    def on_a_branch(x, i):
        row = rows[i]
        return x * 6 if x.sum() > 0 else row
    places = (1, 2, 2, 7, 1, 0, -9)
    for function in (looked_up, lost, divided, caught, on_a_branch):
        f = compile(function)
        for i in places:
            for x in (X + 4, X - 4) if function is on_a_branch else (X,):
                yield outcome(f, x, torch.tensor([i]))
