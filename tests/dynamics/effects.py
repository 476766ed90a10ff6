"""Effects of a run on the world outside: what it prints, logs, draws, takes from iterators, writes to files and has called."""
import itertools
import logging
import random
import time
import warnings

import numpy
import torch
from torch import library, nn

from smelt.errors import SmeltWarning

from .harness import calls, program, tensor

X = tensor(4)


@program
def printing(compile):
    @compile
    def f(x):
        y = x * 2
        print("sum", y.sum())
        return y + 1
    for k in range(4):
        yield f(X * k)


@program
def printing_of_plain_text(compile):
    @compile
    def f(x):
        print("called", x.shape)
        return x * 2
    yield from calls(f, X, times=4)


@program
def logging_and_warning(compile):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())
    logger = logging.Logger("dynamics")
    logger.addHandler(Handler())

    @compile
    def f(x):
        logger.warning("size %s", x.shape[0])
        return x * 2
    yield from calls(f, X, times=4)

    @compile
    def g(x):
        warnings.warn("old", DeprecationWarning)
        return x * 3
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        results = [g(X) for _ in range(4)]
    yield results, [str(w.message) for w in given]


@program
def time_passes(compile):
    @compile
    def f(x):
        now = time.perf_counter()
        return x * 2, now
    before = 0.0
    for _ in range(4):
        y, now = f(X)
        later, before, now = now > before, 0.0, None
        yield y, later


@program
def random_numbers_of_python_and_numpy(compile):
    f = compile(lambda x: x * random.random() + float(numpy.random.rand()) + random.randint(1, 9))
    yield from calls(f, X, times=5)


@program
def iterators_outside(compile):
    counter, letters, generator = itertools.count(), iter("abcdefgh"), (k * k for k in range(100))

    @compile
    def f(x):
        return x * next(counter) + next(generator), next(letters)
    for _ in range(5):
        yield f(X)


@program
def files(compile):
    import tempfile
    with tempfile.TemporaryFile("w+") as file:
        @compile
        def f(x):
            file.write("line\n")
            return x + 1
        results = [f(X) for _ in range(4)]
        file.seek(0)
        yield results, file.read()
    del file


@program
def callbacks(compile):
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.listeners = [lambda y: seen.append(y.shape), lambda y: seen.append("heard")]

        def forward(self, x):
            y = x * 2
            for listener in self.listeners:
                listener(y)
            return y
    net = Net()
    f = compile(net)
    yield from calls(f, X)
    net.listeners.pop()
    yield from calls(f, X)


@program
def features_gathered_by_a_hook(compile):
    features = {}
    net = nn.Sequential(nn.Hardtanh(), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, out: features.update(hardtanh=out))
    f = compile(net)
    for k in range(4):
        yield f(X * k)


@program
def warnings_filtered_inside(compile):
    """Also what is left of it: a warning that was shown once is shown again."""
    @compile
    def f(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("never seen")
            y = x * 2
        return y.relu()

    @compile
    def g(x):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "another")
            warnings.warn("seen")
            return x * 3

    @compile
    def h(x):
        with warnings.catch_warnings(record=True) as found:
            warnings.warn("kept")
            return x * len(found)
    for function in (f, g, h):
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("default")
            results = []
            for n in (4, 4, 4, 5, 6):
                warnings.warn_explicit("again", UserWarning, "file", 1, registry=REGISTRY)
                results.append(function(tensor(n)))
        given = [str(w.message) for w in given if w.category is not SmeltWarning]
        yield results, given


REGISTRY = {}
RUNS: list[int] = []


@library.custom_op("smelt_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    RUNS.append(x.numel())
    return x * 2


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


@program
def ops_of_other_libraries(compile):
    """Each call runs an op that Python defines once, whatever else it does."""
    f = compile(lambda x: doubled(x + 1) * 3)
    for n in (3, 3, 3, 3):
        RUNS.clear()
        yield f(tensor(n)), len(RUNS)
