"""State that no attribute tells of: what C code reads of objects, what objects of C hold, what torch tells of a tensor besides
its form, and what the interpreter tells of itself."""
import array
import contextvars
import copy
import ctypes
import gc
import io
import os
import pickle
import queue
import sys
import threading
from typing import Generic, TypeVar

import torch

from .harness import changed, leaf, outcome, program, tensor

X = tensor(4)
SCALE = contextvars.ContextVar("scale", default=2.0)


class Options:
    def __init__(self, k):
        self.k, self.parts = k, [k]


class Narrow:
    __slots__ = ("k", "parts", "__weakref__")
    __init__ = Options.__init__


class Typed(Generic[TypeVar("T")]):
    def __init__(self, k):
        self.k = k


class Bytes(bytearray):
    pass


class Numbers(array.array):
    pass


class Text(io.StringIO):
    pass


@program
def copied(compile):
    for make in (Options, Narrow):
        for copies in (copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
            o = make(2)
            yield from changed(compile, lambda x: x * copies(o).k + len(copies(o).parts),
                               lambda: setattr(o, "k", 3), lambda: o.parts.append(1), lambda: setattr(o, "parts", []))


@program
def copied_with_what_it_holds(compile):
    o = Options(2)
    o.inner, o.inner.narrow = (inner := Options(5)), (narrow := Narrow(1))
    yield from changed(compile, lambda x: x * copy.deepcopy(o).inner.k + len(copy.deepcopy(o).inner.narrow.parts),
                       lambda: setattr(inner, "k", 3), lambda: narrow.parts.append(1), lambda: setattr(o, "inner", o))


@program
def state_asked_for(compile):
    for ask in (lambda o: o.__getstate__()["k"], lambda o: o.__reduce_ex__(4)[2]["k"], lambda o: vars(o)["k"],
                lambda o: len("{0.k}".format(o)), lambda o: len([name for name in dir(o) if name[0] != "_"])):
        o = Options(2)
        yield from changed(compile, lambda x: x * ask(o), lambda: setattr(o, "k", 33), lambda: setattr(o, "more", 3))


@program
def objects_of_c(compile):
    for made, read, change in (
            (bytearray(b"ab"), lambda b: b[0], lambda b: b.__setitem__(0, 5)), (Bytes(b"ab"), len, lambda b: b.append(3)),
            (array.array("f", [1, 2]), lambda a: a[0], lambda a: a.__setitem__(0, 5)),
            (Numbers("f", [1]), len, lambda a: a.append(3)),
            (ctypes.c_int(3), lambda c: c.value, lambda c: setattr(c, "value", 4)),
            ((ctypes.c_float * 2)(1, 2), lambda c: c[1], lambda c: c.__setitem__(1, 9)),
            (Text("ab"), lambda t: len(t.getvalue()), lambda t: t.write("abcdef")),
            (queue.Queue(), lambda q: q.qsize() + 1, lambda q: q.put(1)),
            (ValueError(2), lambda e: e.args[0], lambda e: setattr(e, "args", (3,))),
            (Typed(2), lambda o: o.k, lambda o: setattr(o, "k", 3))):
        yield from changed(compile, lambda x: x * read(made), lambda: change(made), lambda: change(made))


@program
def locks(compile):
    class Counter:
        count, lock = 0, threading.Lock()
    one, held = Counter(), threading.Lock()

    def counted(x):
        with one.lock:
            one.count += 1
        return x * one.count
    yield from changed(compile, counted)
    yield from changed(compile, lambda x: x * 2 if held.locked() else x * 3, held.acquire, held.release)


LOCK, LOADED = threading.RLock(), {}


def loaded(name):
    """What is made once, as libraries do: by whoever comes first."""
    if name not in LOADED:
        with LOCK:
            LOADED[name] = len(name)
    return LOADED[name]


@program
def locks_that_are_not_used(compile):
    LOADED.clear()
    f, waiting = compile(lambda x: x * loaded("one")), threading.Lock()
    for _ in range(4):
        yield f(X), LOADED
    g = compile(lambda x: x * (LOCK.acquire() + 1) if x.sum() > 100 else x * 2)
    for n in range(4):
        yield g(X * 0), g(X * 0 + 30)
        LOCK.release()
    h = compile(lambda x: x * loaded("three") + (LOCK is waiting))
    for _ in range(3):
        yield h(X)


@program
def the_interpreter(compile):
    SCALE.set(2.0)
    os.environ["SMELT_TEST"] = "2"
    interval, arguments = sys.getswitchinterval(), list(sys.argv)
    yield from changed(compile, lambda x: x * SCALE.get(), lambda: SCALE.set(3.0), lambda: SCALE.set(4.0))
    yield from changed(compile, lambda x: x * float(os.environ.get("SMELT_TEST", 1)) + len(os.getenv("SMELT_TEST", "")),
                       lambda: os.environ.update(SMELT_TEST="33"), lambda: os.environ.pop("SMELT_TEST"))
    yield from changed(compile, lambda x: x * sys.getswitchinterval(), lambda: sys.setswitchinterval(0.01),
                       lambda: sys.setswitchinterval(interval))
    yield from changed(compile, lambda x: x * len(sys.argv), lambda: sys.argv.append("more"), lambda: sys.argv.clear())
    yield from changed(compile, lambda x: x * 2 if gc.isenabled() else x * 3, gc.disable, gc.enable)
    sys.argv[:] = arguments


@program
def classes_and_checks(compile):
    class Base:
        pass
    classes = [type("One", (Base,), {})]
    yield from changed(compile, lambda x: x * len(Base.__subclasses__()), lambda: classes.append(type("Two", (Base,), {})))
    checks = torch.distributions.Distribution
    f = compile(lambda x, scale: torch.distributions.Normal(x, scale).log_prob(x + 1))
    for on in (False, True, False):
        checks.set_default_validate_args(on)
        yield outcome(f, X, torch.ones(())), outcome(f, X, -torch.ones(()))
    checks.set_default_validate_args(True)


@program
def collector_switched(compile):
    @compile
    def f(x):
        gc.disable()
        return x * 2
    for _ in range(3):
        yield f(X), gc.isenabled()
        gc.enable()


@program
def number_of_the_thread(compile):
    off = []
    f = compile(lambda x: x * (threading.get_ident() % 7))

    def work():
        off.append(f(X) - X * (threading.get_ident() % 7))
    work()
    for _ in range(3):
        thread = threading.Thread(target=work, name="another")
        thread.start()
        thread.join()
    del thread
    yield off


@program
def place_in_memory(compile):
    rows = tensor(3, 4)
    for ask in (lambda x: x._is_view(), lambda x: x._base is None, lambda x: x.storage_offset(), lambda x: x.is_shared(),
                lambda x: x.is_set_to(rows[1]), lambda x: x.new_zeros(3)[1:].storage_offset()):
        f = compile(lambda x: x * 2 + int(ask(x)))
        for _ in range(2):
            yield f(X), f(rows[0]), f(rows[1]), f(tensor(4).share_memory_())


@program
def place_in_autograd(compile):
    hooked, kept = leaf(4), leaf(4) * 1
    hooked.register_hook(lambda g: g)
    kept.retain_grad()
    for ask in (lambda x: x._backward_hooks is None, lambda x: x.retains_grad, lambda x: x.output_nr, lambda x: "mark" in dir(x)):
        f = compile(lambda x: x * 2 + int(ask(x)))
        marked = tensor(4)
        marked.mark = 1
        for _ in range(2):
            yield f(leaf(4)), f(hooked), f(kept), f(marked), *(f(part) for part in (leaf(8) * 1).split(4))
