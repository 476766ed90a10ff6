"""Threads and processes: one compiled function called by many at once, before, while and after it compiles."""
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

import smelt

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(6)
THREADS = 8


def together(work, count=THREADS):
    """The results of work(0), work(1), ... called by so many threads at the same moment."""
    barrier = threading.Barrier(count)

    def begin(k):
        barrier.wait()
        return work(k)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def forked(work) -> bool:
    """Whether work() is true in a child process."""
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = bool(work())
        finally:
            os._exit(0 if ok else 1)
    return os.waitpid(child, 0)[1] == 0


@contextlib.contextmanager
def empty_cache():
    """A cache folder of its own, and nothing of what this process has built."""
    before, loaded = smelt.config.cache_dir, dict(smelt.runtime.cache._loaded)
    with tempfile.TemporaryDirectory() as folder:
        smelt.config.cache_dir = Path(folder) / "cache"
        smelt.runtime.cache._loaded.clear()
        try:
            yield smelt.config.cache_dir
        finally:
            smelt.config.cache_dir = before
            smelt.runtime.cache._loaded.update(loaded)


@program
def first_calls_at_once(compile):
    f = compile(lambda x: x * 2 + 1)
    yield together(lambda k: f(X * k))
    yield together(lambda k: f(X * k))
    yield from calls(f, X)


@program
def many_calls_at_once(compile):
    f = compile(lambda x, w: (x * w).sum() + x)
    yield together(lambda k: [f(X * i, X + k) for i in range(20)])


@program
def other_shapes_in_each_thread(compile):
    f = compile(lambda x: x.sum(0) + x)
    yield together(lambda k: [f(tensor(k + 1, 3)) for _ in range(4)])
    yield together(lambda k: [f(tensor(THREADS - k, 3)) for _ in range(4)])


@program
def gradients_in_each_thread(compile):
    f = compile(lambda x: x * x * 3)

    def work(k):
        x = leaf(6)
        for _ in range(4):
            backward(f(x * k))
        return x
    yield together(work)


@program
def grad_mode_belongs_to_the_thread(compile):
    f = compile(lambda x: x * 2)

    def work(k):
        with torch.set_grad_enabled(k % 2 == 0):
            return [f(x).requires_grad for x in (leaf(6), leaf(6), tensor(6))]
    for _ in range(3):
        yield together(work)


@program
def autocast_belongs_to_the_thread(compile):
    f = compile(lambda x: (x @ x).dtype)
    x = tensor(4, 4)

    def work(k):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=k % 2 == 0):
            return [f(x) for _ in range(3)]
    for _ in range(3):
        yield together(work)


@program
def recording_disturbs_no_other_thread(compile):
    """While one thread records, another one reads and sets attributes and runs modules of the same classes."""
    net, other = whole(nn.Linear(6, 6), 1), whole(nn.Linear(6, 6), 1)
    f = compile(net)
    recording, done = threading.Event(), threading.Event()

    def slow(module, args):
        recording.set()
        done.wait(5)
    handle = net.register_forward_pre_hook(slow)
    seen = []

    def work():
        recording.wait(5)
        other.note = [other(X).sum(), sys.getprofile() is None, torch.compiler.is_compiling()]
        seen.append(other.note)
        del other.note
        done.set()
    thread = threading.Thread(target=work)
    thread.start()
    y = f(X)
    thread.join()
    handle.remove()
    del thread
    yield y, seen
    yield from calls(f, X)


@program
def compiling_in_two_threads(compile):
    """Two functions whose first calls overlap: one records at a time."""
    functions = [compile(lambda x, k=k: x * k + 1) for k in range(THREADS)]
    yield together(lambda k: [functions[k](X) for _ in range(3)])
    yield [f(X) for f in functions]


@program
def state_changed_by_another_thread(compile):
    box = {"k": 2.0}
    f = compile(lambda x: x * box["k"])
    yield from calls(f, X)
    thread = threading.Thread(target=box.update, kwargs={"k": 5.0})
    thread.start()
    thread.join()
    del thread
    yield from calls(f, X)


@program
def exceptions_in_some_threads(compile):
    f = compile(lambda x, y: x + y)
    for _ in range(3):
        yield together(lambda k: [outcome(f, X, tensor(6 if k % 2 else 5)) for _ in range(3)])


@program
def writes_by_threads_to_tensors_of_their_own(compile):
    f = compile(lambda x: x.add_(1).mul_(2))

    def work(k):
        x = X * k
        for _ in range(5):
            f(x)
        return x
    yield together(work)


@program
def methods_of_one_instance(compile):
    class Scale:
        k = 2.0

        @compile
        def work(self, x):
            return x * self.k
    shared = Scale()
    yield together(lambda k: [shared.work(X * k) for _ in range(3)])
    yield together(lambda k: [Scale().work(X * k) for _ in range(3)])


@program
def call_in_a_backward_hook_of_another_thread(compile):
    f, g = compile(lambda x: x * x), compile(lambda x: x * 3)

    def work(k):
        x = leaf(6)
        y = f(x)
        y.register_hook(g)
        return backward(y), x
    for _ in range(2):
        yield together(work, 4)


@program
def call_in_a_thread_that_the_function_starts(compile):
    inner = compile(lambda x: x * 2)

    @compile
    def f(x):
        found = []
        thread = threading.Thread(target=lambda: found.append(inner(x)))
        thread.start()
        thread.join()
        return found[0] + 1
    yield from calls(f, X)


@program
def fork_after_the_compilation(compile):
    f = compile(lambda x: (x * 2 + 1).sum())
    yield from calls(f, X)
    yield [forked(lambda: f(X) == (X * 2 + 1).sum()) for _ in range(2)]
    yield from calls(f, X)


@program
def fork_before_the_compilation(compile):
    f = compile(lambda x: x * 3 - 1)
    yield forked(lambda: all(torch.equal(f(X * k), X * k * 3 - 1) for k in range(4)))
    yield from calls(f, X)


@program
def fork_with_gradients_and_new_shapes(compile):
    f = compile(lambda x: (x * x).sum(0))
    yield backward(f(leaf(6, 2)))

    def work():
        x = leaf(5, 2)
        for _ in range(3):
            x.grad = None
            backward(f(x))
        return torch.equal(x.grad, 2 * x.detach() * (tensor(2) + 0.5))
    yield forked(work)


@program
def fork_while_another_thread_records(compile):
    """The child of such a fork has no thread that would ever end the recording."""
    recording, done = threading.Event(), threading.Event()

    class Net(nn.Module):
        wait = True

        def forward(self, x):
            if self.wait:
                recording.set()
                done.wait(10)
            return x * 2
    net = Net()
    f, g = compile(net), compile(lambda x: x + 1)
    thread = threading.Thread(target=f, args=(X,))
    thread.start()
    recording.wait(10)
    right = forked(lambda: all(torch.equal(g(X), X + 1) for _ in range(3)))
    done.set()
    thread.join()
    net.wait = False
    del thread
    yield right
    yield from calls(f, X)
    yield from calls(g, X)


@program
def processes_that_fill_one_cache(compile):
    with empty_cache() as folder:
        f = compile(lambda x: (x * 2.5 + 1).abs().sum())
        children = []
        for _ in range(8):
            child = os.fork()
            if child == 0:
                right = all(torch.equal(f(X), (X * 2.5 + 1).abs().sum()) for _ in range(3))
                os._exit(0 if right else 1)
            children.append(child)
        ended = [os.waitpid(child, 0)[1] for child in children]
        left = [path.name for path in folder.glob("build-*")]
        results = [f(X) for _ in range(3)]
    del folder, children, child
    yield ended, left, results


@program
def process_killed_while_it_fills_the_cache(compile):
    """Killed at different moments of its first call; whatever it leaves, the next ones are right."""
    f = compile(lambda x: (x * 3.5 + 1).relu().sum())
    with empty_cache():
        for delay in (0.01, 0.05, 0.1, 0.2):
            child = os.fork()
            if child == 0:
                f(X)
                os._exit(0)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        right = forked(lambda: all(torch.equal(f(X), (X * 3.5 + 1).relu().sum()) for _ in range(3)))
        results = [f(X) for _ in range(3)]
    del child
    yield right, results
