"""Programs of other tests under Triton: in its interpreter beside eager, their kernels compiled for GPUs that are not there.

All of them: python tests/dynamics_table.py --backend triton --ahead-of-time, and what else under_triton.py names.
"""
from __future__ import annotations

import random
import time
from argparse import Namespace

import dynamics
import pytest
import torch
from random_dynamics import check, random_program
from under_triton import OutOfTime, failures_of, limited, under

import smelt
from smelt.runtime.program import Signature

pytest.importorskip("triton")


@pytest.fixture
def triton():
    with under(Namespace(backend="triton", ahead_of_time=False)):
        yield


def of_row(row: str) -> dynamics.Program:
    return random.Random(row).choice([p for p in dynamics.PROGRAMS if p.row == row])


@pytest.mark.parametrize("row", dynamics.ROWS)
def test_a_program_of_each_row(triton, row):
    dynamics.check(of_row(row))


@pytest.mark.parametrize("seed", range(8))
def test_random_dynamics(triton, seed):
    found = check(random_program(seed))
    assert not found.wrong, found.wrong


def test_kernels_are_compiled_beside_the_run():
    with under(Namespace(backend="triton", ahead_of_time=True)) as kernels:
        for _ in range(2):
            f = smelt.compile(lambda x: (x * 3).sum(0))
            assert all(torch.equal(f(x), (x * 3).sum(0)) for x in torch.ones(3, 4, 5))
    assert len(kernels.pending) == 1 and not kernels.failures()


def test_a_kernel_that_does_not_compile_is_told_for_each_target():
    source = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef go(x):\n    tl.store(x, tl.load(x) + nothing)\n"
    found = failures_of(source, Signature("go", {"x": torch.float32}, (), {}, {}))
    assert len(found) == 3 and all("does not compile go" in line for line in found)


def test_what_takes_too_long_is_left():
    with pytest.raises(OutOfTime), limited(0.05):
        time.sleep(5)
    with limited(0.05):
        pass
    time.sleep(0.06)


def test_a_kernel_that_needs_more_shared_memory_than_there_is_is_told():
    source = ("import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef go(x):\n    i = tl.arange(0, 256)\n"
              "    tile = tl.load(x + i[:, None] * 256 + i[None, :])\n    tl.store(x + i[:, None] + i[None, :] * 256, tile)\n")
    found = failures_of(source, Signature("go", {"x": torch.float32}, (), {}, {}))
    assert any(f"go needs {256 * 256 * 4} bytes of shared memory; gfx942 has 65536" in line for line in found), found
