"""Asides: what a call prints and logs, in eager's words and order, while the rest of it runs compiled."""
import contextlib
import io
import logging
import random
import sys
import time
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smelt import SmeltWarning

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4, 8)
WEIGHT = tensor(8)
counter = 0


@contextlib.contextmanager
def heard():
    """What is printed meanwhile."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        yield stream


def listener(name):
    """A logger, and the list that its records go to."""
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append((record.levelname, record.getMessage(), record.funcName, record.lineno))
    log = logging.Logger(name, logging.INFO)
    log.addHandler(Handler())
    return log, records


@program
def between_tensor_work(compile):
    @compile
    def f(x):
        y = x * 2
        print("half way:", y.sum().item(), x.shape, x.dtype)
        return (y + 1).sum()
    with heard() as text:
        for n in range(5):
            yield f(X + n), text.getvalue()


@program(exact=False)
def losses_of_a_training_step(compile):
    net = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    log, records = listener("training")

    @compile
    def step(x, k):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        if k % 2 == 0:
            print(f"step {k}: loss {loss.item():.1f} of {len(x)} rows")
        log.info("loss %.1f", loss.item())
        return loss.detach()
    with heard() as text:
        for k in range(6):
            yield step(X, k), text.getvalue().splitlines()[-1], [r[1:] for r in records], list(net.parameters())


@program
def tensors_shown(compile):
    @compile
    def f(x):
        y = x + 1
        print(x, y[:2], (y * 2).tolist()[0], sep="\n")
        print(y.detach().numpy().sum())
        y.mul_(3)
        print("then", y[0, 0].item())
        return y
    with heard() as text:
        for n in range(4):
            yield f(X * n), text.getvalue()


@program
def tensors_that_require_grad_shown(compile):
    @compile
    def f(x):
        y = x * x
        print(y)
        return y
    with heard() as text:
        for _ in range(3):
            x = leaf(2, 2)
            yield backward(f(x)), x, text.getvalue()


@program
def numbers_with_a_gradient_shown(compile):
    @compile
    def f(x):
        y = (x * x).sum()
        print(f"{y:.1f}", f"{y.item():5.1f}", float(y), f"{y.detach()}", "%.2f" % y)
        return y
    with heard() as text:
        for _ in range(4):
            x = leaf(2, 2)
            yield backward(f(x)), x, text.getvalue()


@program
def state_shown_before_and_after_it_is_set(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.scale = nn.Linear(8, 2), 0, 0.5

        def forward(self, x):
            print("before", self.calls, self.scale)
            self.calls += 1
            print("after", self.calls)
            return self.linear(x) * self.scale
    net = Net()
    f = compile(net)
    with heard() as text:
        for n in range(5):
            yield f(X), net.calls, text.getvalue()
            net.scale += 0.25


@program
def attributes_shown(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.name, self.sizes = nn.Linear(8, 2), "net", [1, 2]

        def forward(self, x):
            print(self.name, self.training, self.linear.weight.shape, self.linear.in_features)
            return self.linear(x)
    net = Net()
    f = compile(net)
    with heard() as text:
        for n in range(6):
            net.name = "net" + "!" * (n // 2)
            net.train(n % 3 == 0)
            yield f(X), text.getvalue()


@program
def parameters_shown(compile):
    net = whole(nn.Linear(8, 2), 0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)

    @compile
    def step(x):
        print(net.weight.sum().item())
        loss = net(x).abs().mean()
        loss.backward()
        optimizer.step()
        print(net.weight.sum().item())
        return loss.detach()
    with heard() as text:
        for _ in range(4):
            yield step(X), text.getvalue()


@program
def containers_shown(compile):
    history, table = [], {"n": 0}

    @compile
    def f(x):
        parts = [x.sum(), x.amax()]
        print(parts, {"least": x.amin()}, [p.item() for p in parts], *(p.item() + 1 for p in parts))
        history.append(x.sum().item())
        table["n"] += 1
        print(history, table["n"])
        return x * 2
    with heard() as text:
        for n in range(4):
            yield f(X + n), text.getvalue()


@program
def lists_that_grow_after_they_are_shown(compile):
    @compile
    def f(x):
        parts = [1.0]
        print(len(parts), parts)
        parts.append(x.sum())
        print(len(parts), parts)
        return parts
    with heard() as text:
        for n in range(4):
            yield f(X + n), text.getvalue()


@program
def globals_shown(compile):
    global counter
    counter = 0

    @compile
    def f(x):
        global counter
        print("global", counter, WEIGHT.sum().item())
        counter += 1
        print("now", counter)
        return x * WEIGHT
    with heard() as text:
        for _ in range(4):
            yield f(X), counter, text.getvalue()


@program
def in_branches_and_loops(compile):
    @compile
    def f(x):
        for k in range(3):
            if x.sum() > 0:
                print("positive", k, f"{x.sum().item():.1f}")
                x = x - 4
            else:
                print("negative", k)
                x = x + 1
        return x
    with heard() as text:
        for n in (0, 1, 2, 3, 0, 1, 2, 3):
            yield f(X + n), text.getvalue()


@program
def before_an_error(compile):
    @compile
    def f(x, k):
        y = x * 2
        print("before", y.sum().item())
        y = y[0, k]
        print("behind", y.item())
        return y + 1
    with heard() as text:
        for k in (1, 2, 2, 9, 2):
            yield outcome(f, X, torch.tensor(k)), text.getvalue()


@program
def that_raise(compile):
    @compile
    def f(x, name):
        y = x * 2
        print("{:d}".format(name), y.sum().item())
        return y
    with heard() as text:
        for name in (1, 2, "three", 4):
            yield outcome(f, X, name), text.getvalue()


@program
def sent_elsewhere(compile):
    @compile
    def f(x):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            print("hidden", x.sum().item())
        print("errors", file=sys.stderr)
        return x * 2, stream.getvalue()
    with heard() as text, contextlib.redirect_stderr(io.StringIO()) as errors:
        for n in range(3):
            yield f(X + n), text.getvalue(), errors.getvalue()


@program
def other_streams_between_calls(compile):
    @compile
    def f(x):
        print("sum", x.sum().item())
        return x * 2
    for n in range(5):
        with heard() as text:
            y = f(X + n)
        yield y, text.getvalue()


@program
def print_replaced(compile):
    said = []

    @compile
    def f(x):
        print("sum", x.shape)
        return x * 2
    with heard() as text:
        yield from calls(f, X)
        globals()["print"] = lambda *words: said.append(str(words))
        try:
            yield from calls(f, X)
        finally:
            del globals()["print"]
        yield f(X), said, text.getvalue()


@program
def levels_of_a_logger(compile):
    log, records = listener("levels")

    @compile
    def f(x):
        log.debug("detail %s", x.shape)
        log.info("sum %s", x.sum().item())
        try:
            raise ValueError("caught")
        except ValueError:
            log.exception("with a traceback")
        return x * 2
    for level in (logging.INFO, logging.INFO, logging.DEBUG, logging.DEBUG, logging.ERROR, logging.INFO):
        log.setLevel(level)
        yield f(X), list(records)


@program
def calls_of_the_users_in_them(compile):
    seen = []

    def shown(x):
        seen.append(x.sum())
        return f"<{x.sum().item()}>"

    @compile
    def f(x):
        print(shown(x * 2))
        return x + 1
    with heard() as text:
        for n in range(3):
            yield f(X + n), text.getvalue(), seen


@program
def objects_shown(compile):
    class Loud:
        def __init__(self):
            self.times = 0

        def __repr__(self):
            self.times += 1
            return f"loud {self.times}"
    loud, net = Loud(), nn.Linear(8, 2)

    @compile
    def f(x):
        print(loud)
        print(net)
        return net(x)
    with heard() as text:
        for _ in range(4):
            yield f(X), text.getvalue(), loud.times


@program
def written_to_in_them(compile):
    @compile
    def f(x):
        y = x + 1
        print(y.mul_(2).sum().item())
        return y
    with heard() as text:
        for _ in range(3):
            yield f(X), text.getvalue()


@program
def random_numbers_in_them(compile):
    @compile
    def f(x):
        print(random.random(), torch.rand(1).item())
        return x * random.random() + torch.rand(1)
    with heard() as text:
        for _ in range(4):
            yield f(X), text.getvalue()


@program
def time_taken(compile):
    @compile
    def f(x):
        start = time.perf_counter()
        y = x.sum()
        print("took long" if time.perf_counter() - start > 60 else "was quick")
        return y
    with heard() as text:
        for _ in range(4):
            yield f(X), text.getvalue()


@program
def under_autocast(compile):
    @compile
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            y = x @ x.t()
            print((x @ x.t()).dtype, y.dtype)
        return y
    with heard() as text:
        for _ in range(3):
            yield f(X), text.getvalue()


@program
def in_a_module_within(compile):
    class Inner(nn.Module):
        def forward(self, x):
            print("inside", x.mean().item())
            return F.relu(x)
    net = whole(nn.Sequential(nn.Linear(8, 4), Inner(), nn.Linear(4, 2)), 1)
    f = compile(net)
    with heard() as text:
        for n in range(5):
            yield f(X + n), text.getvalue()


@program
def of_a_number_read_before(compile):
    @compile
    def f(x):
        total = x.sum().item()
        print("total", total, f"{total:.2f}")
        return x * total
    with heard() as text:
        for n in range(6):
            yield f(X + n), text.getvalue()


@program
def the_same_tensor_by_two_names(compile):
    class State:
        last = None
    s = State()

    @compile
    def f(a, b):
        c = a * 2
        print(a is b, [a, b][1] is a, c is a, s.last is c, f"{b is s.last}")
        s.last = c
        print(s.last is c)
        return c
    with heard() as text:
        for k in range(5):
            x = X + k
            yield f(x, x), text.getvalue()
            yield f(x, X), text.getvalue()


@program
def sizes_that_change(compile):
    @compile
    def f(x):
        print(len(x), x.shape)
        return x * 2
    with heard() as text:
        for n in (4, 5, 6, 7, 4):
            yield f(tensor(n, 3)), text.getvalue()


@program
def within_a_checkpoint(compile):
    def block(x):
        print("in a block", x.shape)
        return torch.sin(x)

    @compile
    def f(x):
        return checkpoint(block, x, use_reentrant=False) * 2
    with heard() as text:
        for _ in range(3):
            x = leaf(2, 3)
            yield backward(f(x)), x, text.getvalue()


@program
def within_a_function_of_autograd(compile):
    class Loud(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            print("forward", x.shape)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            print("backward", grad.shape)
            return grad * 2
    f = compile(lambda x: Loud.apply(x + 1) * 3)
    with heard() as text:
        for _ in range(3):
            x = leaf(2, 3)
            yield backward(f(x)), x, text.getvalue()


@program
def within_a_hook(compile):
    def hook(module, args, result):
        print("hook", result.sum().item())
    net = whole(nn.Linear(8, 2), 1)
    net.register_forward_hook(hook)
    f = compile(net)
    with heard() as text:
        for n in range(4):
            yield f(X + n), text.getvalue()


@contextlib.contextmanager
def warned(action):
    """The warnings given meanwhile, with where they are said to come from."""
    said = []
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter(action)
        warnings.filterwarnings("ignore", category=SmeltWarning)
        yield said
    said += [(str(w.message), w.category, w.filename, w.lineno) for w in given]


def halved(x):
    warnings.warn("of the caller", DeprecationWarning, stacklevel=2)
    return x / 2


@program
def warnings_given_again(compile):
    @compile
    def f(x, k):
        if k > 2:
            warnings.warn(f"{k} is large")
        with torch.cuda.amp.autocast(enabled=False):
            return halved(x * k).sum() + halved(x).sum()
    for action in ("default", "default", "always", "ignore", "once"):
        for k in (1, 3, 3):
            with warned(action) as said:
                result = f(X, k)
            yield result, said
    with warned("error"):
        yield outcome(lambda: f(X, 3))


@program
def warnings_that_are_hidden(compile):
    @compile
    def f(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return halved(x)
    for _ in range(3):
        with warned("always") as said:
            result = f(X)
        yield result, said


def _warned(f, *args):
    """What f warns of, and where."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = outcome(f, *args)
    return result, [(str(w.message), w.category.__name__, w.filename, w.lineno) for w in found]


@program
def warnings_of_what_was_computed(compile):
    @compile
    def f(x):
        y = x * 2
        if y.isnan().any():
            warnings.warn(f"{int(y.isnan().sum())} numbers are none", RuntimeWarning)
        warnings.warn("this is slow")
        return y + 1
    for scale in (1.0, 2.0, float("nan"), 1.0, float("nan"), 3.0):
        yield _warned(f, X * scale)


@program
def warnings_shown_once(compile):
    @compile
    def f(x, k):
        warnings.warn(f"a {k % 2}th kind")
        return x * k
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for k in range(6):
            yield f(X, k), [str(w.message) for w in found]


@program
def warnings_beside_sizes_that_change(compile):
    @compile
    def f(x, k):
        warnings.warn("slow")
        if len(x) > 6:
            warnings.warn(f"{k} of many, the first of {x.shape[1]}")
        return (x * k).sum(0)
    for n in (4, 5, 6, 9, 4, 7, 8):
        yield _warned(f, tensor(n, 3), n)


@program
def warnings_that_are_raised(compile):
    seen = []

    @compile
    def f(x):
        seen.append(1)
        warnings.warn("no more")
        seen.append(2)
        return x * 2
    for action in ("ignore", "ignore", "ignore", "error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            yield outcome(f, X), list(seen)


@program
def warnings_for_the_caller(compile):
    @compile
    def f(x):
        warnings.warn("told of the caller's line", stacklevel=2)
        return x * 2
    for _ in range(3):
        yield _warned(f, X)[1][0][:2]


@program
def a_warning_of_another_name(compile):
    class warner:
        told = 0

        @classmethod
        def warn(cls, text):
            cls.told += 1

    @compile
    def f(x):
        warner.warn("counts")
        return x * 2
    for _ in range(4):
        yield f(X), warner.told


@program
def beside_other_statements_on_a_line(compile):
    """What stands on the line of its `if`, or beside others, is no less a statement: what is beside it is not run again."""
    log, records = listener("beside")
    told = []

    def noted(value):
        told.append(value)
        return value

    @compile
    def f(x, n):
        y = x * 2; print("twice", y.sum().item()); z = y + 1; print([v + n for v in (1, 2)])
        if n % 2 == 0: print("even",
                             n); y = y - 1
        if noted(n) > 2: log.info("step %d of %s", n, [n for _ in range(2)])
        for k in range(2): print(k, end=" ")
        return y + z
    with heard() as text:
        for n in (0, 1, 2, 3, 4, 3, 2, 5):
            yield f(X + n, n), text.getvalue(), records


@program(exact=False)
def an_object_that_tells_itself_after_a_backward_pass(compile):
    class Meter:
        def __init__(self):
            self.value = self.sum = 0.0

        def __str__(self):
            return f"{self.value:.2f} of {self.sum:.2f}"
    net, meter = nn.Linear(8, 2), Meter()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125, momentum=0.5)

    @compile
    def epoch(batches):
        for x in batches:
            loss = net(x).square().mean()
            meter.value = loss.item()
            meter.sum += meter.value
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(str(meter))
        return meter.sum
    with heard() as text:
        for k in range(4):
            yield epoch([X + k, X - k]), text.getvalue().splitlines()[-2:], list(net.parameters())


@program
def numbers_drawn_to_be_printed(compile):
    @compile
    def f(x):
        print(random.random(), [random.randint(0, 9) for _ in range(2)])
        return x * 2
    random.seed(3)
    with heard() as text:
        for n in range(4):
            yield f(X + n), text.getvalue(), random.random()
