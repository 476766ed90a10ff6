"""Results that are written into inputs at once: where it is done, and where it would be wrong."""
import pytest
import torch
import torch.nn.functional as F

import smelt

from .common import with_threads


def swapped(a, b):
    """Each ends in the other's memory."""
    c = a * 2
    a.copy_(b + 1)
    b.copy_(c)


def shifted(a, b):
    """Elements are read at other places than they are written."""
    a.copy_(a.roll(1, 0) + b)


def transposed(a, b):
    a.copy_(a.t() * b)


def centred(a, b):
    """All is read before any is written."""
    a.sub_(a.mean())
    b.div_(b.norm(dim=1, keepdim=True))


def multiplied(a, b):
    """A matrix product's operand is written to."""
    a.copy_(a @ b)


def updated(a, b):
    """As by an optimiser: after a product that reads it."""
    y = torch.relu(b @ a)
    a.sub_(0.1 * (b.t() @ y) + 0.01 * a)
    return y.sum()


def returned(a, b):
    """The new value is a result, too, with memory of its own."""
    a.add_(b)
    return a.clone(), a * 2


def read_by_torch(a, b):
    """Torch's own op reads the old value last."""
    old = a * 1
    a.mul_(b)
    return torch.linalg.svdvals(old), a.sort()[0]


def chained(a, b):
    a.mul_(0.9).add_(b, alpha=0.1)
    b.copy_(a.exp())
    a.sub_(b.sqrt())


def statistics(a, b):
    F.batch_norm(a * 3, b[0], b[1].abs(), training=True)


FUNCTIONS = [swapped, shifted, transposed, centred, multiplied, updated, returned, read_by_torch, chained, statistics]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [4, 130])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_values_and_versions(function, size, threads):
    with with_threads(threads):
        compiled = smelt.compile(function)
        for seed in range(4):
            torch.manual_seed(seed)
            given = [torch.randn(size, size) + 2 for _ in range(2)]
            mine = [t.clone() for t in given]
            expected, found = function(*given), compiled(*mine)
            torch.testing.assert_close((found, mine), (expected, given))
            assert [t._version for t in mine] == [t._version for t in given]
        assert smelt.explain(compiled).compiled and len(compiled.programs) == 1


def landed(function, *args):
    """How many of the program's outputs are its inputs."""
    compiled = smelt.compile(function)
    for _ in range(2):
        compiled(*args)
    program = compiled.programs[0].run.compilation.programs["forward"].program
    return sum(o in program.inputs for o in program.outputs)


@pytest.mark.parametrize("function, count", [(chained, 2), (updated, 1), (returned, 1), (swapped, 1), (transposed, 0),
                                             (multiplied, 0)], ids=lambda f: getattr(f, "__name__", f))
def test_where_it_is_done(function, count):
    assert landed(function, torch.rand(8, 8) + 1, torch.rand(8, 8) + 1) == count


def test_an_optimiser_writes_its_state_in_place():
    p = torch.nn.Parameter(torch.randn(30, 20))
    p.grad = torch.randn(30, 20)
    step = smelt.compile(torch.optim.Adam([p]).step)
    for _ in range(3):
        step()
    program = step.programs[0].run.compilation.programs["forward"].program
    assert len(program.outputs) == 4 and set(program.outputs) <= set(program.inputs)


def test_nothing_is_written_where_a_check_fails():
    def pick(a, table, places):
        a.add_(table[places])
        return a.sum()
    compiled, a, table = smelt.compile(pick), torch.zeros(6), torch.arange(10.0)
    for places in ([1, 2, 3, 4, 5, 6], [0, 1, 1, 9, 9, 9]):
        compiled(a, table, torch.tensor(places))
    assert smelt.explain(compiled).compiled
    before = a.clone()
    with pytest.raises(IndexError):
        compiled(a, table, torch.tensor([0, 1, 2, 3, 4, 10]))
    assert torch.equal(a, before)


def test_strided_inputs():
    def add(a, b):
        a.add_(b)
    compiled = smelt.compile(add)
    for _ in range(3):
        whole, b = torch.zeros(6, 8), torch.ones(6, 4)
        compiled(whole[:, ::2], b)
        assert whole[:, ::2].eq(1).all() and whole[:, 1::2].eq(0).all()


def test_every_run_checked():
    compiled, a = smelt.compile(chained, verify="raise"), torch.ones(5, 5)
    b = torch.ones(5, 5)
    e, f = a.clone(), b.clone()
    always = smelt.compile(chained, verify="always")
    for _ in range(3):
        compiled(a, b)
        always(e, f)
        assert torch.equal(a, e) and torch.equal(b, f)
