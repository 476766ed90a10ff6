"""Every example trains compiled as it trains eagerly."""
import importlib

import pytest

import smelt


@pytest.fixture
def example(request):
    return importlib.import_module(request.param)


@pytest.mark.parametrize("example", ["linear_regression", "digits", "cnn", "autoencoder", "char_rnn", "transformer"],
                         indirect=True)
def test_same_losses_as_eager_over_the_whole_training(example, capsys):
    run = example.main()
    report = smelt.explain(run.step)
    assert report.compiled, str(report)
    assert run.difference <= 1e-4, str(run)
    assert len(run.losses) >= 20 and run.losses[-1] < run.losses[0]
    assert "compiled:" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["digits"], indirect=True)
def test_the_digit_classifier_reaches_95_percent(example):
    run = example.main()
    *_, x_test, y_test = example.load_digits()
    assert example.accuracy(run.model, x_test, y_test) >= 0.95
