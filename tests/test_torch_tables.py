"""PyTorch's op_db, module_db and optim_db through smelt: a seeded part, a few samples of each (all: tests/torch_tables.py)."""
import warnings

import pytest
import torch_tables


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_quarter_of_op_db():
    tally = torch_tables.run_ops(share=0.25, samples=3)
    assert not tally.failures, "\n".join([str(tally), *tally.failures])
    assert tally.names > 100 and tally.compiled > tally.samples * 0.7, str(tally)


def test_a_quarter_of_module_db():
    tally = torch_tables.run_modules(share=0.25, samples=2)
    assert not tally.failures, "\n".join([str(tally), *tally.failures])
    assert tally.names > 20 and tally.compiled > tally.samples * 0.7, str(tally)


def test_a_third_of_optim_db():
    tally = torch_tables.run_optimizers(share=0.34, samples=2)
    assert not tally.failures, "\n".join([str(tally), *tally.failures])
    assert tally.names > 3 and tally.compiled > tally.samples * 0.7, str(tally)
