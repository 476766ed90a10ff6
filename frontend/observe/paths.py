"""Paths: attributes and items of a variable, one in the other, in what an aside says: `optimizer.param_groups[0]["lr"]`, and
`len` of these.

What they lead to when the run comes there is kept, instead of the objects on the way: some of it may have changed, by code that
runs later, once the aside is told.
"""
from __future__ import annotations

import ast
import copy
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any, Callable, Mapping

import torch
from torch import nn

#: The beginning of the names of what paths lead to, which no variables have.
PATH = "path "
#: What items are looked up in without running code of the user's.
_INDEXED = {list, tuple, dict, deque, OrderedDict, defaultdict, torch.Size, nn.Sequential, nn.ModuleList, nn.ModuleDict,
            nn.ParameterList, nn.ParameterDict}
Step = ast.Attribute | ast.Subscript | ast.Call
_NOTHING = object()


@dataclass(frozen=True, eq=False)
class Path:
    """Attributes and items of a variable, one in the other, as `optimizer.param_groups[0]["lr"]`. `steps`: their nodes in the
    syntax tree, the innermost first; `told` has the same, with names for the paths in their indices."""
    root: str
    steps: tuple[Step, ...]
    told: tuple[Step, ...] = ()

    def follow(self, variables: Mapping[str, Any], look: Callable[[Any, str], None]) -> tuple[list[Any], int]:
        """What the variable holds, and what the steps lead to that do nothing but to look something up, from the first one on;
        and how many these are. An item of a tensor is none. `look` is told of attributes before they are read."""
        found = [variables[self.root]]
        for count, step in enumerate(self.steps):
            value = _step(step, found[-1], variables, look)
            if value is _NOTHING:
                return found, count
            found.append(value)
        return found, len(self.steps)


def steps_of(node: ast.AST) -> tuple[str, tuple[Step, ...]] | None:
    """The variable and the steps of a path; None for an expression that is none."""
    steps: list[Step] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)) or _asks_length(node):
        steps.insert(0, node)
        node = node.args[0] if isinstance(node, ast.Call) else node.value
    return (node.id, tuple(steps)) if isinstance(node, ast.Name) else None


def _asks_length(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and len(node.args) == 1


def _step(step: Step, value: Any, variables: Mapping[str, Any], look: Callable[[Any, str], None]) -> Any:
    """What a step leads to from a value; _NOTHING where it may do more than to look something up, or there is nothing."""
    if isinstance(step, ast.Attribute):
        look(value, step.attr)
        return getattr(value, step.attr, _NOTHING)
    if isinstance(step, ast.Call):
        return len(value) if variables["len"] is len and hasattr(value, "__len__") else _NOTHING
    index = _index(step.slice, variables, look) if type(value) in _INDEXED else _NOTHING
    if index is _NOTHING or isinstance(value, dict) and index not in value:
        return _NOTHING
    try:
        return value[index]
    except (LookupError, TypeError):
        return _NOTHING


def _index(node: ast.AST, variables: Mapping[str, Any], look: Callable[[Any, str], None]) -> Any:
    """What an item is looked up by; _NOTHING where that is more than a constant, or what a path leads to."""
    if isinstance(node, ast.Slice):
        ends = [_index(end, variables, look) if end else None for end in (node.lower, node.upper, node.step)]
        return _NOTHING if any(end is _NOTHING for end in ends) else slice(*ends)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -node.operand.value
    if isinstance(node, ast.Constant):
        return node.value
    root, steps = steps_of(node) or ("", ())
    if root not in variables:
        return _NOTHING
    found, count = Path(root, steps).follow(variables, look)
    plain = type(found[-1]) in (int, str, bool) or isinstance(found[-1], nn.Parameter)
    return found[-1] if plain and count == len(steps) else _NOTHING


class Paths(ast.NodeTransformer):
    """Puts names in the place of paths; of a method that is called, in the place of that to what it is a method of. `inner`: the
    variables of comprehensions and lambdas, which begin none."""

    def __init__(self, inner: set[str]):
        self.paths: list[Path] = []
        self._inner = inner

    def visit_Attribute(self, node: Step) -> ast.AST:
        root, steps = steps_of(node) or ("", ())
        if not root or any(isinstance(n, ast.Name) and n.id in self._inner for n in ast.walk(node)):  # also in an index
            return self.generic_visit(node)
        told = copy.deepcopy(steps)
        for step in told:
            if isinstance(step, ast.Subscript):
                step.slice = self.visit(step.slice)
        self.paths.append(Path(root, steps, told))
        return ast.copy_location(ast.Name(f"{PATH}{len(self.paths) - 1}", ast.Load()), node)

    visit_Subscript = visit_Attribute

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _asks_length(node) and steps_of(node):
            return self.visit_Attribute(node)
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
        else:
            node.func = self.visit(node.func)
        node.args, node.keywords = [self.visit(a) for a in node.args], [self.visit(k) for k in node.keywords]
        return node


class Steps(ast.NodeTransformer):
    """Takes steps from where names of paths stand."""

    def __init__(self, left: Mapping[str, tuple[Step, ...]]):
        self._left = left

    def visit_Name(self, node: ast.Name) -> ast.AST:
        made: ast.expr = node
        for step in self._left.get(node.id, ()):
            made, before = copy.deepcopy(step), made
            if isinstance(made, ast.Call):
                made.args = [before]
            else:
                made.value = before
        return made
