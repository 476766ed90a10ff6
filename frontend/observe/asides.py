"""Asides: statements that tell the world something and give the program nothing, `print(...)` and calls of a logger.

A run does not record what happens inside of one. It keeps what the statement is given: its variables, with tensors as they
are then. Every later call runs the statement again, on its own values, when all that the call computes has been computed:
a call that starts over, or runs eagerly after all, has told nothing yet. The statement is compiled from the user's source,
at its own lines, so that tracebacks and log records name these.
"""
from __future__ import annotations

import ast
import copy
import linecache
import logging
import types
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Iterator

from .paths import PATH, Path, Paths, Steps, steps_of

_LOGS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
#: What looks at the frame that it is called from, or does more than to tell.
_REFUSED = {"super", "locals", "globals", "vars", "dir", "eval", "exec", "input", "breakpoint", "__class__"}
#: Where every call of a logger arrives that is enabled.
LOG = logging.Logger._log.__code__
#: What changes a container.
_CHANGING = {"append", "appendleft", "extend", "extendleft", "insert", "remove", "pop", "popleft", "popitem", "clear", "sort",
             "reverse", "rotate", "update", "setdefault", "add", "discard", "subtract", "move_to_end", "difference_update",
             "intersection_update", "symmetric_difference_update"}


@dataclass(frozen=True, eq=False)
class Told:
    """What is left of an aside once its paths are followed. `code`: the call, where a name stands for what each path led to;
    `names`: these and the variables that it reads; `bare`: those that are handed on as they are, not only called, or looked up
    in."""
    code: types.CodeType
    names: frozenset[str]
    bare: frozenset[str]


@dataclass(frozen=True, eq=False)
class Aside:
    """One such statement.

    owner   the code that it stands in, and `first` and `last` its lines
    columns where it begins in its first line and ends in its last one, if something else stands there; else None
    call    the call, where a name stands for each of `paths`: PATH with its number
    paths   those that it has, but for methods that are called
    calls   the functions that it calls, where these are variables or what paths lead to
    changes whether it calls a method that changes a container
    loose   whether it reads attributes of what is no variable of the function, as of an item in a comprehension
    teller  the expression of the logger or module whose method is called; None for print
    """
    owner: types.CodeType
    first: int
    last: int
    columns: tuple[int, int] | None
    call: ast.Call
    paths: tuple[Path, ...]
    calls: tuple[Path, ...]
    changes: bool
    loose: bool
    teller: types.CodeType | None

    @lru_cache(maxsize=4096)
    def told(self, counts: tuple[int, ...]) -> Told:
        """With so many steps of each path followed, and the others left to be done when it is told."""
        left = {f"{PATH}{n}": p.told[count:] for n, (p, count) in enumerate(zip(self.paths, counts))}
        call = Steps(left).visit(copy.deepcopy(self.call))
        nodes = list(ast.walk(call))
        inner = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
        inner |= {id(n.value) for n in nodes if isinstance(n, ast.Attribute)}
        loaded = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        return Told(_compiled(call, self.owner), frozenset(n.id for n in loaded),
                    frozenset(n.id for n in loaded if id(n) not in inner))

    def tells(self, frame: types.FrameType) -> bool:
        """Whether it is print, or a logger's method, that the statement calls in this frame."""
        if self.teller is None:
            return _variable(frame, "print") is print
        try:
            teller = eval(self.teller, frame.f_globals, frame.f_locals)
        except Exception:
            return False
        return teller is logging or isinstance(teller, logging.Logger)

    def runs(self, frame: types.FrameType) -> bool:
        """Whether a frame, which is at one of its lines, is in it."""
        if self.columns is None:
            return True
        position = next(islice(frame.f_code.co_positions(), max(frame.f_lasti, 0) // 2, None), (None,))
        if None in position:  # this Python was told to keep no columns
            return False
        line, end_line, column, end_column = position
        return (self.first, self.columns[0]) <= (line, column) and (end_line, end_column) <= (self.last, self.columns[1])

    def contains(self, code: types.CodeType) -> bool:
        """Whether it is in the statement that a function is defined: by a comprehension, or a lambda."""
        return code.co_filename == self.owner.co_filename and self.first <= code.co_firstlineno <= self.last


@dataclass(frozen=True, eq=False)
class Said:
    """An aside of one function: a callable that says it again, given its variables. `names` are the function's globals, and
    `fixed` the variables that are modules, functions and classes."""
    told: Told
    names: dict[str, Any]
    fixed: dict[str, Any]

    def __call__(self, variables: dict[str, Any]) -> None:
        eval(self.told.code, {**self.names, **self.fixed, **variables})


def asides_in(code: types.CodeType) -> tuple[Aside, ...]:
    """The asides of a function's code; none where its source is not at hand, or is another one by now."""
    return _asides(code.co_filename, code) if (_LOGS | {"print"}).intersection(code.co_names) else ()


@lru_cache(maxsize=4096)
def _asides(file: str, code: types.CodeType) -> tuple[Aside, ...]:
    """The same; equal code may stand in several files."""
    lines = tuple(linecache.getlines(file))
    functions, codes = _parsed(file, lines)
    key = code.co_firstlineno, code.co_name
    if key not in functions or not any(_alike(code, c) for c in codes if (c.co_firstlineno, c.co_name) == key):
        return ()
    found = (_aside(code, s, lines) for s in _statements(functions[key].body))
    return tuple(a for a in found if a is not None)


@lru_cache(maxsize=64)
def _parsed(file: str, lines: tuple[str, ...]) -> tuple[dict[tuple[int, str], ast.AST], list[types.CodeType]]:
    """The functions of a file, by first line and name, and the code objects that it compiles to."""
    try:
        tree = ast.parse("".join(lines), file)
        codes = [compile(tree, file, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return {}, []
    for code in codes:
        codes += (c for c in code.co_consts if isinstance(c, types.CodeType))
    functions = (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {(min(n.lineno, *(d.lineno for d in n.decorator_list), n.lineno), n.name): n for n in functions}, codes


def _alike(a: types.CodeType, b: types.CodeType) -> bool:
    """Whether two code objects do the same, but for the functions that they define."""
    def constants(code):
        return [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
    return a.co_code == b.co_code and a.co_names == b.co_names and constants(a) == constants(b)


def _statements(body: list[ast.stmt]) -> Iterator[ast.Expr]:
    """The expressions that stand as statements, also within others, but not within functions and classes."""
    for node in body:
        if isinstance(node, ast.Expr):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for child in ast.iter_child_nodes(node):
                inner = child.body if isinstance(child, (ast.ExceptHandler, ast.match_case)) else [child]
                yield from _statements([c for c in inner if isinstance(c, ast.stmt)])


def _apart(statement: ast.stmt, lines: tuple[str, ...]) -> bool:
    """Whether nothing else stands on a statement's lines."""
    before = lines[statement.lineno - 1].encode()[:statement.col_offset]
    behind = lines[statement.end_lineno - 1].encode()[statement.end_col_offset:].strip()
    return not before.strip() and (not behind or behind.startswith(b"#"))


def _aside(owner: types.CodeType, statement: ast.Expr, lines: tuple[str, ...]) -> Aside | None:
    call = statement.value
    nodes = list(ast.walk(statement))
    if not isinstance(call, ast.Call) or any(isinstance(n, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)) for n in nodes):
        return None
    _, steps = steps_of(call.func) or ("", ())
    logs = all(isinstance(s, ast.Attribute) for s in steps) and bool(steps) and call.func.attr in _LOGS
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if not (logs or isinstance(call.func, ast.Name) and call.func.id == "print") or names & _REFUSED:
        return None
    inner = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    inner |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    given = Paths(inner)
    call = given.visit(copy.deepcopy(call))
    called = [n.func for n in nodes if isinstance(n, ast.Call) and n is not statement.value]
    columns = None if _apart(statement, lines) else (statement.col_offset, statement.end_col_offset)
    return Aside(owner, statement.lineno, statement.end_lineno, columns, call, tuple(given.paths),
                 tuple(Path(*found) for found in map(steps_of, called) if found and found[0] not in inner),
                 any(isinstance(f, ast.Attribute) and f.attr in _CHANGING for f in called),
                 _reads_attributes(call),
                 _compiled(statement.value.func.value, owner) if logs else None)


def _reads_attributes(node: ast.AST) -> bool:
    """Whether it reads attributes other than methods that are called."""
    methods = {id(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return any(isinstance(n, ast.Attribute) and id(n) not in methods for n in ast.walk(node))


def _compiled(expression: ast.expr, owner: types.CodeType) -> types.CodeType:
    """An expression as code of its own, which shows in tracebacks as its owner's."""
    code = compile(ast.Expression(expression), owner.co_filename, "eval", dont_inherit=True)
    return code.replace(co_name=owner.co_name, co_qualname=owner.co_qualname)


def _variable(frame: types.FrameType, name: str) -> Any:
    """What a name means in a frame; None if nothing."""
    for held in (frame.f_locals, frame.f_globals, frame.f_builtins):
        if name in held:
            return held[name]
    return None
