"""For all tests: reports of wrong results go to a temporary folder."""
import pytest

import smelt


@pytest.fixture(autouse=True)
def reports_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(smelt.config, "report_dir", tmp_path / "smelt-reports")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")
