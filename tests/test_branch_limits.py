"""The limits of branches on data, and what is said of them."""
import os
import warnings

import pytest
import torch

import smelt
from smelt import config
from smelt.errors import SmeltWarning, Unsupported
from smelt.frontend.api import compiled_function

from .branching import DOWN, UP, branch, halvings
from .common import close


def test_a_path_that_cannot_be_compiled_leaves_the_others():
    def f(x):
        if x.sum() > 0:
            return x * 2
        return torch.from_numpy(x.numpy() + 1)
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning, match="numpy"):
        compiled(DOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (UP, DOWN, UP, DOWN):
            close(compiled(x), f(x))
    report = smelt.explain(compiled)
    assert report.paths == 2 and report.state == "compiled in part" and len(report.fallbacks) == 1
    with pytest.raises(Unsupported, match="numpy"):
        smelt.compile(f, fullgraph=True)(DOWN)


def test_an_effect_before_the_branch_makes_all_calls_eager():
    def f(x):
        os.getpid()
        return x * 2 if x.sum() > 0 else x
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning, match="getpid"):
        compiled(UP)
    compiled(DOWN)
    report = smelt.explain(compiled)
    assert report.paths == 1 and report.programs == ()


def test_too_many_paths_run_eagerly_and_it_is_said_once(monkeypatch):
    monkeypatch.setattr(config, "path_limit", 3)

    def f(x):
        return x * len(range(x[0].int().item()))
    compiled = smelt.compile(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in (1, 2, 3, 4, 5, 1, 4, 2):
            close(compiled(UP + k), f(UP + k))
    told = [str(w.message) for w in caught if w.category is SmeltWarning]
    assert len(told) == 1 and "3 paths (config.path_limit)" in told[0]
    assert f"test_branch_limits.py:{f.__code__.co_firstlineno + 1}: cast.item() is 5" in told[0]
    report = smelt.explain(compiled)
    assert report.paths == 3 and report.limits == (told[0],) and report.state == "compiled as far as it was recorded"
    assert f"no more is recorded: {told[0]}" in str(report)
    for k in range(10, 20):
        close(compiled(UP + k), f(UP + k))
    assert any(p.broken for p in compiled_function(compiled).programs)


def test_too_many_readings(monkeypatch):
    monkeypatch.setattr(config, "reading_limit", 4)
    compiled = smelt.compile(halvings)
    close(compiled(UP), halvings(UP))
    with pytest.warns(SmeltWarning, match="more than 4 times"):
        close(compiled(UP * 1000), halvings(UP * 1000))
    close(compiled(UP), halvings(UP))


def test_calls_that_read_too_much_every_time_are_left_to_eager(monkeypatch):
    monkeypatch.setattr(config, "reading_limit", 24)
    compiled = smelt.compile(halvings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for _ in range(12):
            close(compiled(UP * 2.0 ** 40), halvings(UP * 2.0 ** 40))
    tree, = compiled_function(compiled).programs
    assert "24 times" in tree.broken
    close(compiled(UP), halvings(UP))


def test_what_explain_and_show_say(capsys):
    compiled = smelt.compile(branch)
    for x in (UP, DOWN, UP):
        compiled(x)
    report = smelt.explain(compiled)
    line = branch.__code__.co_firstlineno + 2
    found, = report.branches
    assert found.where.endswith(f"branching.py:{line}") and found.reads == "the truth"
    assert found.answers == ("True", "False") and found.paths == report.paths == 2
    assert report.compiled and len(report.programs) == 3
    assert f"branching.py:{line}: 2 paths by the truth: True, False" in str(report)
    assert report.recompilations == (f"branch: {found.where}: the truth is False",)
    smelt.show(compiled, "recorded", 0)
    assert "gt" in capsys.readouterr().out


def test_a_path_found_wrong_is_not_used_again(monkeypatch):
    compiled = smelt.compile(branch)
    for x in (UP, DOWN):
        compiled(x)
    tree, = compiled_function(compiled).programs
    for run in tree.executables.values():
        run.broken = "gave another result"
    close(compiled(UP), branch(UP))
    close(compiled(DOWN), branch(DOWN))


def test_paths_that_other_guards_lead_to_count(monkeypatch):
    """Where each call fits no guards, and then branches as those before it."""
    monkeypatch.setattr(config, "path_limit", 4)
    state = {"n": 0}

    def f(x):
        state["n"] += 1
        return x * 2 if state["n"] not in {100.5, 200} else x, float(x.sum()) > 0
    compiled = smelt.compile(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(12):
            compiled(torch.ones(3))
    told = [str(w.message) for w in caught if "path_limit" in str(w.message)]
    assert len(told) == 1
    assert [len(p.paths) for p in compiled.programs] == [4]


def test_what_runs_eagerly_time_and_again_is_not_recorded_for_ever():
    def f(x, key):
        return x * float(x.numpy().sum()), key
    compiled = smelt.compile(f)
    x = torch.ones(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for key in "abcdefgh":
            close(compiled(x, key), f(x, key))
    assert sum("4 times in a row for nothing" in str(w.message) and "key 'd' -> 'e'" in str(w.message) for w in caught) == 1
    assert len(compiled.programs) == 4 and len(smelt.explain(compiled).recompilations) == 3


def test_paths_for_one_float_alone_are_not_recorded_for_ever():
    def f(x):
        return f"{x.sum():.3f}", x * 2
    compiled = smelt.compile(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(20):
            x = torch.full((3,), k + 0.125)
            close(compiled(x), f(x))
    assert sum("many paths, long ones or for one number alone" in str(w.message) for w in caught) == 1
    assert smelt.explain(compiled).paths == 12
