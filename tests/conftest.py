"""For all tests: reports of wrong results go to a temporary folder; processes that run tests side by side share the cores."""
import os
import warnings

import pytest
import torch

import smelt


def pytest_configure(config):
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(workers)))


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
