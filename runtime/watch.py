"""Whether places in Python objects still hold the very objects that they held: one C function for thousands of places.

Looking at one place takes a few nanoseconds, where Python's own bytecode takes tens. What the C needs of Python is
declared in it and part of the stable ABI, so no header has to be installed.
"""
from __future__ import annotations

import ctypes
import gc
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Callable, Sequence

from .cache import library

#: The kinds of places, each with what a place of it is; in the order of the C function's cases.
KINDS = {
    "item": "(dict, key, value): what a dict has under a key",
    "no item": "(dict, key, None): a dict lacks a key",
    "entry": "(mapping, key, value): what any other mapping has under a key",
    "no entry": "(mapping, key, None): any other mapping lacks a key",
    "attribute": "(object, name, value): what an object's attribute is",
    "type": "(object, None, type): what an object's class is",
    "size": "(container, None, int): how many items a container has",
    "attributes": "(object, None, dict): what an object's `__dict__` is",
    "nothing": "(container, None, None): a container is empty",
    "entries": "(dict, keys, values): all that a dict has, in order, as two tuples",
    "elements": "(list, None, values): all that a list has, as a tuple",
    "lacks": "(dict, names, the same as a set): a dict, or a class's attributes, has none of these keys",
}

_SOURCE = """\
/* holds(): whether every place holds the object that is expected there. */
typedef struct object object;
typedef struct { const char *name; object *(*call)(object *, object *); int flags; const char *doc; } method;
typedef struct { long kind; object *holder, *key, *expected; } place;
typedef struct { long count; place places[]; } list;

extern object *PyTuple_GetItem(object *, long);
extern long PyTuple_Size(object *);
extern object *PyList_GetItem(object *, long);
extern void *PyLong_AsVoidPtr(object *);
extern object *PyBool_FromLong(long);
extern object *PyDict_GetItemWithError(object *, object *);
extern int PySet_Contains(object *, object *);
extern int PyDict_Next(object *, long *, object **, object **);
extern object *PyObject_GetItem(object *, object *);
extern int PySequence_Contains(object *, object *);
extern object *PyObject_GetAttr(object *, object *);
extern object *PyObject_Type(object *);
extern object *PyObject_GenericGetDict(object *, void *);
extern long PyObject_Size(object *);
extern long PyLong_AsLong(object *);
extern object *PyErr_Occurred(void);
extern void PyErr_Clear(void);
extern void Py_DecRef(object *);
extern object *PyCFunction_NewEx(method *, object *, object *);

static int is(object *found, object *expected)
{
    if (found) Py_DecRef(found);
    return found == expected;
}

static int holds_entries(const place *p)
{
    object *key, *value;
    long position = 0, count = PyTuple_Size(p->expected);
    if (PyObject_Size(p->holder) != count) return 0;
    for (long i = 0; i < count && PyDict_Next(p->holder, &position, &key, &value); i++)
        if (key != PyTuple_GetItem(p->key, i) || value != PyTuple_GetItem(p->expected, i)) return 0;
    return 1;
}

static int holds_elements(const place *p)
{
    long count = PyTuple_Size(p->expected);
    if (PyObject_Size(p->holder) != count) return 0;
    for (long i = 0; i < count; i++)
        if (PyList_GetItem(p->holder, i) != PyTuple_GetItem(p->expected, i)) return 0;
    return 1;
}

static int holds_lacks(const place *p)
{
    object *key, *value;
    long position = 0, count = PyTuple_Size(p->key);
    if (PyObject_Size(p->holder) > count) {
        for (long i = 0; i < count; i++)
            if (PyDict_GetItemWithError(p->holder, PyTuple_GetItem(p->key, i)) || PyErr_Occurred()) return 0;
    } else {
        while (PyDict_Next(p->holder, &position, &key, &value))
            if (PySet_Contains(p->expected, key)) return 0;
    }
    return 1;
}

static int holds_one(const place *p)
{
    switch (p->kind) {
    case 0: return PyDict_GetItemWithError(p->holder, p->key) == p->expected;
    case 1: return !PyDict_GetItemWithError(p->holder, p->key) && !PyErr_Occurred();
    case 2: return is(PyObject_GetItem(p->holder, p->key), p->expected);
    case 3: return PySequence_Contains(p->holder, p->key) == 0;
    case 4: return is(PyObject_GetAttr(p->holder, p->key), p->expected);
    case 5: return is(PyObject_Type(p->holder), p->expected);
    case 6: return PyObject_Size(p->holder) == PyLong_AsLong(p->expected);
    case 7: return is(PyObject_GenericGetDict(p->holder, 0), p->expected);
    case 8: return PyObject_Size(p->holder) == 0;
    case 9: return holds_entries(p);
    case 10: return holds_elements(p);
    default: return holds_lacks(p);
    }
}

static object *holds(object *self, object *ignored)
{
    const list *l = PyLong_AsVoidPtr(PyTuple_GetItem(self, 0));
    for (long i = 0; i < l->count; i++)
        if (!holds_one(&l->places[i])) {
            PyErr_Clear();
            return PyBool_FromLong(0);
        }
    return PyBool_FromLong(1);
}

static method definition = {"holds", holds, 0x0004 /* METH_NOARGS */, 0};

/* self: a tuple that begins with the list's address and keeps alive what the list points to */
object *make_holds(object *self) { return PyCFunction_NewEx(&definition, self, 0); }
"""


def watch(places: Sequence[tuple[str, Any, Any, Any]]) -> Callable[[], bool]:
    """A function that tells whether every place (kind, holder, key, value) holds the very object `value` now.

    It keeps the objects alive. A place that can't be read (a key that is gone, an attribute that raises) does not hold.
    Raises BuildError if there is no working C compiler.
    """
    kinds = list(KINDS)
    cells = [len(places)]
    for kind, holder, key, value in places:
        cells += (kinds.index(kind), id(_dict_of(holder) if kind == "lacks" else holder), id(key), id(value))
    array = (ctypes.c_long * len(cells))(*cells)
    return _maker()((ctypes.addressof(array), array, tuple(places)))


def _dict_of(mapping: Any) -> dict:
    """The dict that a class's attributes are a view of."""
    return gc.get_referents(mapping)[0] if isinstance(mapping, MappingProxyType) else mapping


@lru_cache
def _maker() -> Callable[[tuple], Callable[[], bool]]:
    make = library(_SOURCE).handle.make_holds
    make.restype, make.argtypes = ctypes.py_object, (ctypes.py_object,)
    return make
