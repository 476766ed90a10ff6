"""The memory of large results is used again once nobody holds them, and never before."""
import gc
import threading

import pytest
import torch

import smelt
from smelt import config
from smelt.frontend.torch_internals import storage_uses
from smelt.runtime import Recycling, empty_on
from smelt.runtime.recycling import LARGE

N = LARGE // 4 // 1024
SHAPE, STRIDES = (N, 1024), (1024, 1)

pytestmark = pytest.mark.skipif(storage_uses is None, reason="this torch does not tell who holds a storage")


@pytest.fixture
def empty():
    recycling = Recycling(empty_on(torch.device("cpu")), storage_uses)
    return lambda: recycling(SHAPE, STRIDES, torch.float32)


def test_memory_is_used_again(empty):
    place = empty().data_ptr()
    assert [empty().data_ptr() for _ in range(3)] == [place] * 3


HOLDERS = {
    "the tensor": lambda t: t,
    "a view": lambda t: t[3:5],
    "an alias": lambda t: t.detach(),
    "its data": lambda t: t.data,
    "its storage": lambda t: t.untyped_storage(),
    "an array": lambda t: t.numpy(),
    "a capsule": lambda t: torch.utils.dlpack.to_dlpack(t),
    "autograd": lambda t: (t.data * torch.ones((), requires_grad=True)),
    "a parameter": lambda t: torch.nn.Parameter(t),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_memory_that_is_held_is_left_alone(empty, holder):
    first = empty().fill_(1)
    place = first.data_ptr()
    held = HOLDERS[holder](first)
    del first
    second = empty()
    assert second.data_ptr() != place
    del held, second
    gc.collect()
    assert place in [t.data_ptr() for t in [empty(), empty()]]


def test_a_result_is_like_any_other(empty):
    empty()
    again, fresh = empty(), torch.empty(SHAPE)
    for of in (lambda t: t._version, lambda t: t._base, lambda t: t.requires_grad, lambda t: t.is_leaf, torch.Tensor.stride,
               torch.Tensor.storage_offset, torch.is_inference, lambda t: type(t)):
        assert of(again) == of(fresh)
    again.add_(1)
    del again
    assert empty()._version == 0


def test_memory_that_was_cut_or_shared_is_not_used_again(empty):
    for change in (lambda t: t.untyped_storage().resize_(16), lambda t: t.share_memory_()):
        t = empty()
        change(t)
        del t
        t = empty().fill_(2)
        assert not t.is_shared() and t.untyped_storage().nbytes() == t.nbytes


def test_inference_mode_gives_tensors_of_its_own(empty):
    empty()
    with torch.inference_mode():
        assert empty().is_inference()
    assert not empty().is_inference()


def test_no_more_is_kept_than_allowed(monkeypatch):
    monkeypatch.setattr(config, "recycle", 3 * LARGE)
    recycling = Recycling(empty_on(torch.device("cpu")), storage_uses)
    held = [recycling(SHAPE, STRIDES, torch.float32) for _ in range(5)]
    assert recycling._bytes == 3 * LARGE
    del held
    twice = recycling((2 * N, 1024), STRIDES, torch.float32)  # in place of what is free
    assert recycling._bytes == 3 * LARGE
    del twice
    monkeypatch.setattr(config, "recycle", 0)
    recycling((3 * N, 1024), STRIDES, torch.float32)
    assert recycling._bytes <= 3 * LARGE


def test_small_results_are_not_kept():
    recycling = Recycling(empty_on(torch.device("cpu")), storage_uses)
    recycling((4, 4), (4, 1), torch.float32)
    assert recycling._bytes == 0


def test_threads_get_memory_of_their_own(empty):
    def work(k):
        for _ in range(20):
            t = empty().fill_(k)
            wrong.extend([k] * bool((t != k).any()))
    wrong: list[int] = []
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_results_of_programs():
    """What a program returns stays as it was through later calls, and so do gradients."""
    @smelt.compile
    def f(x, w):
        return torch.relu(x * w)

    x, w = torch.randn(SHAPE), torch.randn(1024, requires_grad=True)
    results, grads = [], []
    for k in range(4):
        y = f(x + k, w)
        results.append((y, torch.relu((x + k) * w)))
        g, = torch.autograd.grad(y.sum(), w)
        grads.append((g, torch.autograd.grad(results[-1][1].sum(), w)[0]))
    for got, want in results:
        assert torch.equal(got, want)
    for got, want in grads:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    assert smelt.explain(f).compiled
    with torch.no_grad():
        f(x, w)
        places = {f(x, w).data_ptr() for _ in range(5)}
    assert len(places) == 1
