"""What several files of tests use."""
from contextlib import contextmanager
from functools import partial
from typing import Iterator

import pytest
import torch

from smelt.compiler import TensorType, evaluate
from smelt.frontend.api import compiled_function
from smelt.frontend.run.bridge import Executable


def close(a, b, strides=True, rel=1e-6, **tolerance):
    """Assert that both are equal in structure, types, layout and flags, and close in values, NaN to NaN.

    `strides`: whether they count; of gradients, torch gives some expanded. `rel`: the tolerance of Python's numbers.
    """
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.requires_grad, a.is_leaf) == (b.dtype, b.shape, b.requires_grad, b.is_leaf)
        assert a.stride() == b.stride() or not strides
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            close(x, y, strides, rel, **tolerance)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            close(a[k], b[k], strides and k != "gradients", rel, **tolerance)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=rel, nan_ok=True)
    else:
        assert a == b


def equal(a, b):
    """Assert that all values of two tensors are equal, NaN to NaN."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def programs(f):
    """What a compiled function has recorded."""
    return compiled_function(f).programs


def build(recordings):
    """Programs that evaluate their graphs."""
    return [Executable(r, partial(_evaluated, r.graph), verify="off") for r in recordings]


def _evaluated(graph, *tensors):
    return evaluate(graph, tensors)


def type_of(t: torch.Tensor) -> TensorType:
    return TensorType(tuple(t.shape), t.dtype, t.device, tuple(t.stride()))


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """torch has this many threads, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
