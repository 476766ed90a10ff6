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

_LOGS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
#: What looks at the frame that it is called from, or does more than to tell.
_REFUSED = {"super", "locals", "globals", "vars", "dir", "eval", "exec", "input", "breakpoint", "__class__"}
#: Where every call of a logger arrives that is enabled.
LOG = logging.Logger._log.__code__


@dataclass(frozen=True, eq=False)
class Aside:
    """One such statement.

    owner   the code that it stands in, and `first` and `last` its lines
    columns where it begins in its first line and ends in its last one, if something else stands there; else None
    code    the call, where a name stands for each of `attributes`
    names   the variables that it reads
    bare    of the names, those that are handed on as they are: not only called, or looked up in
    teller  the expression of the logger or module whose method is called; None for print
    attributes   by their names in the code, the expressions of attributes of variables
    """
    owner: types.CodeType
    first: int
    last: int
    columns: tuple[int, int] | None
    code: types.CodeType
    names: frozenset[str]
    bare: frozenset[str]
    teller: types.CodeType | None
    attributes: dict[str, types.CodeType]

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
    aside: Aside
    names: dict[str, Any]
    fixed: dict[str, Any]

    def __call__(self, variables: dict[str, Any]) -> None:
        eval(self.aside.code, {**self.names, **self.fixed, **variables})


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
    logs = isinstance(call.func, ast.Attribute) and call.func.attr in _LOGS and _root(call.func) is not None
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if not (logs or isinstance(call.func, ast.Name) and call.func.id == "print") or names & _REFUSED:
        return None
    given = _Attributes()
    code = given.visit(copy.deepcopy(call))
    passed = {id(n.func) for n in ast.walk(code) if isinstance(n, ast.Call)}
    passed |= {id(n.value) for n in ast.walk(code) if isinstance(n, ast.Attribute)}
    bare = {n.id for n in ast.walk(code) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in passed}
    columns = None if _apart(statement, lines) else (statement.col_offset, statement.end_col_offset)
    return Aside(owner, statement.lineno, statement.end_lineno, columns, _compiled(code, owner), frozenset(names),
                 frozenset(bare), _compiled(call.func.value, owner) if logs else None,
                 {n: _compiled(e, owner) for n, e in given.found.items()})


class _Attributes(ast.NodeTransformer):
    """Puts names in the place of attributes of variables: all but the last, which may be a method, where they are called."""

    def __init__(self):
        self.found: dict[str, ast.Attribute] = {}

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and _root(node.func) is not None:
            node.func.value = self.visit(node.func.value)
        else:
            node.func = self.visit(node.func)
        node.args, node.keywords = [self.visit(a) for a in node.args], [self.visit(k) for k in node.keywords]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if _root(node) is None:
            return self.generic_visit(node)
        name = f"attribute {len(self.found)}"  # that no variable has
        self.found[name] = node
        return ast.copy_location(ast.Name(name, ast.Load()), node)


def _root(attribute: ast.Attribute) -> ast.Name | None:
    """The variable that attributes are looked up in, one in the other."""
    node: ast.AST = attribute
    while isinstance(node, ast.Attribute):
        node = node.value
    return node if isinstance(node, ast.Name) else None


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
