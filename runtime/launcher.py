"""The step from Python into a kernel segment: one C function, callable from Python, built once.

A plain ctypes call with a pointer table costs three times as much. The few declarations it needs are part of
Python's stable ABI, so no header has to be installed.
"""
from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Callable, Sequence

from .cache import library

_SOURCE = """\
/* launch(plan, table, threads, *pointers): put the pointers into the table, run a segment without Python's lock. */
typedef struct object object;
typedef struct { const char *name; object *(*call)(object *, object *const *, long); int flags; const char *doc; } method;
typedef struct { long (*segment)(void **, long); long positions[]; } plan;

extern void *PyLong_AsVoidPtr(object *);
extern long PyLong_AsLong(object *);
extern object *PyLong_FromLong(long);
extern void *PyEval_SaveThread(void);
extern void PyEval_RestoreThread(void *);
extern object *PyCFunction_NewEx(method *, object *, object *);

static object *launch(object *self, object *const *args, long count)
{
    const plan *p = PyLong_AsVoidPtr(args[0]);
    void **table = PyLong_AsVoidPtr(args[1]);
    long threads = PyLong_AsLong(args[2]);
    for (long i = 3; i < count; i++)
        table[p->positions[i - 3]] = PyLong_AsVoidPtr(args[i]);
    void *state = PyEval_SaveThread();
    long code = p->segment(table, threads);
    PyEval_RestoreThread(state);
    return PyLong_FromLong(code);
}

static method definition = {"launch", launch, 0x0080 /* METH_FASTCALL */, 0};

object *make_launcher(void) { return PyCFunction_NewEx(&definition, 0, 0); }
"""


@lru_cache
def launcher() -> Callable[..., int]:
    """`launch(plan, table, threads, *pointers) -> code`, where plan and table are addresses. Raises BuildError."""
    make = library(_SOURCE).handle.make_launcher
    make.restype = ctypes.py_object
    return make()


def make_plan(segment: int, positions: Sequence[int]) -> ctypes.Array:
    """What `launch` has to know: the segment's address, and the places in the table of the pointers that it is given."""
    return (ctypes.c_long * (1 + len(positions)))(segment, *positions)
