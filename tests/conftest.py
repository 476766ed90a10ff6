"""For all tests: reports of wrong results go to a temporary folder; processes that run tests side by side share the cores; the
options of under_triton.py."""
import os
import warnings
from contextlib import nullcontext

import pytest
import torch
from under_triton import add_options, limited, under

import smelt


def pytest_configure(config):
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(workers)))


@pytest.fixture(autouse=True, scope="session")
def as_the_options_say(request):
    """Tests run under a backend; the last one fails where a kernel does not compile for a GPU."""
    with under(request.config.option) as kernels:
        yield
        assert not kernels.failures()


@pytest.fixture(autouse=True)
def in_time(request):
    seconds = request.config.option.seconds
    with limited(seconds, lambda *_: pytest.skip(f"takes more than {seconds} s")) if seconds else nullcontext():
        yield


@pytest.fixture
def of_c(request):
    """The test looks at what is C's own."""
    if request.config.option.backend == "triton":
        pytest.skip("of C")


@pytest.fixture(autouse=True)
def reports_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(smelt.config, "report_dir", tmp_path / "smelt-reports")


@pytest.fixture
def no_warning():
    """Everything is compiled; the first random numbers are the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", smelt.SmeltWarning)
        torch.manual_seed(0)
        yield


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")
    add_options(parser.addoption)
