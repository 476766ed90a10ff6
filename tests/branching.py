"""What tests of branches on data share: calls that take every path, and what is compared of each."""
import copy
import warnings

import torch

import smelt
from smelt.errors import SmeltWarning
from smelt.frontend.api import compiled_function

from .common import close

UP, DOWN, ZERO = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -3.0]), torch.zeros(3)
MIXED = torch.tensor([1.0, -2.0, 0.5])


def tensors(part):
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, dict):
        part = list(part.values())
    return [t for p in part for t in tensors(p)] if isinstance(part, (list, tuple)) else []


def outcome(function, args, seed=0):
    """All that one call does: result or exception, the arguments afterwards, gradients, and the next random number."""
    torch.manual_seed(seed)
    args = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else copy.deepcopy(a) for a in args]
    raised = result = None
    try:
        result = function(*args)
    except Exception as e:
        raised = type(e), str(e)
    drawn = torch.rand(1)
    loss = sum(t.sum() for t in tensors(result) if t.requires_grad)
    leaves = [t for t in tensors(args) if t.requires_grad]
    module = getattr(function, "module", None)
    leaves += list(module.parameters()) if module else []
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if isinstance(loss, torch.Tensor) and leaves else ()
    return {"raised": raised, "result": result, "arguments": args, "gradients": grads, "drawn": drawn}


def twice(calls):
    """Every call, and every call again in the opposite order: each path is met after each other one."""
    return [*calls, *reversed(calls), *calls]


def check(function, calls, paths=None, grads=True, **options):
    """Call a function compiled and as it is; nothing may run eagerly. Gives the compiled one."""
    compiled = smelt.compile(function, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmeltWarning)
        for n, args in enumerate(twice(calls)):
            for needs in (False, True) if grads else (False,):
                given = [a.clone().requires_grad_() if needs and isinstance(a, torch.Tensor) and a.is_floating_point() else a
                         for a in args]
                close(outcome(compiled, given, n), outcome(function, given, n))
    trees = [p for p in compiled_function(compiled).programs]
    report = smelt.explain(compiled)
    assert not any(p.broken for p in report.programs), report
    if paths is not None:
        assert report.paths == paths * len(trees), report
    return compiled


def branch(x):
    y = x * 2
    if y.sum() > 0:
        return y + 1
    return y.exp()


def nested(x):
    if x.sum() > 0:
        if x.max() > 2.5:
            return x * 2
        return x * 3
    elif (x == 0).all():
        return x.cos()
    return x.sin()


def halvings(x):
    turns = 0
    while x.abs().max() > 1:
        x = x / 2
        turns += 1
    return x, turns
