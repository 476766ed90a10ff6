"""What users see when something outside smelt fails: no compiler, a failing one, a cache folder that cannot be used."""
import os
import warnings

import pytest
import torch
from torch import library as extensions

import smelt
from smelt import BuildError, SmeltWarning, config
from smelt.runtime import build, cache, launcher

X = torch.arange(6.0).reshape(2, 3)


def f(x, factor):
    return torch.relu(x * factor + 1)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing built yet: as a process of its own with an empty cache."""
    monkeypatch.setattr(config, "cache_dir", tmp_path / "cache")
    forget(monkeypatch)
    yield
    launcher.launcher.cache_clear()
    build._toolchain.cache_clear()


def forget(monkeypatch):
    """What a new process does not know."""
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_warned", set())
    launcher.launcher.cache_clear()
    build._toolchain.cache_clear()


def right_with_one_warning(compiled, factor=2.0) -> str:
    """Calls give what eager gives; the text of the only warning."""
    with pytest.warns(SmeltWarning) as given:
        results = [compiled(X, factor) for _ in range(4)]
    assert all(r.equal(f(X, factor)) for r in results)
    message, = (str(w.message) for w in given)
    return message


def right_without_warning(compiled, factor=2.0):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(compiled(X, factor).equal(f(X, factor)) for _ in range(3))


def fake_compiler(folder, script):
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(config, "cc", "/no/such/cc")
    compiled = smelt.compile(f)
    assert right_with_one_warning(compiled) == "f runs eagerly: no C compiler: '/no/such/cc' (from SMELT_CC or CC) is not there"
    report = smelt.explain(compiled)
    assert not report.compiled and report.fallbacks == ("no C compiler: '/no/such/cc' (from SMELT_CC or CC) is not there",)


def test_no_compiler_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "cc", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert right_with_one_warning(smelt.compile(f)) == \
        "f runs eagerly: no C compiler: none of gcc, cc and clang is on the PATH (SMELT_CC names one)"


def test_no_compiler_is_an_error_under_fullgraph(monkeypatch):
    monkeypatch.setattr(config, "cc", "/no/such/cc")
    with pytest.raises(BuildError, match="no C compiler: '/no/such/cc'"):
        smelt.compile(f, fullgraph=True)(X, 2.0)


def test_no_compiler_with_gradients(monkeypatch):
    monkeypatch.setattr(config, "cc", "/no/such/cc")
    x = X.clone().requires_grad_()
    with pytest.warns(SmeltWarning, match="no C compiler"):
        smelt.compile(f)(x, 2.0).sum().backward()
    assert x.grad.equal(torch.full((2, 3), 2.0))


def test_a_compiler_that_fails_on_the_kernels(monkeypatch, tmp_path):
    """It tells its macros, and fails on every source."""
    macros = f'case "$*" in *-dM*) exec {build.toolchain().command[0]} "$@";; esac'
    compiler = fake_compiler(tmp_path, f'{macros}; echo "kernel.c:1: unknown word" >&2; exit 1')
    monkeypatch.setattr(config, "cc", compiler)
    message = right_with_one_warning(smelt.compile(f))
    assert message.startswith(f"f runs eagerly: {compiler} ")
    assert message.endswith("failed with status 1:\nkernel.c:1: unknown word")
    with pytest.raises(BuildError, match="unknown word"):
        smelt.compile(f, fullgraph=True)(X, 2.0)


def test_a_compiler_that_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "cc", fake_compiler(tmp_path, "exit 0"))
    message = right_with_one_warning(smelt.compile(f))
    assert message.startswith(f"f runs eagerly: {config.cc} ") and message.endswith("\nsucceeded, but made no shared object")


def test_a_compiler_that_comes_back(monkeypatch):
    """What was recorded without a compiler stays eager; a function compiled afterwards has it."""
    with monkeypatch.context() as m:
        m.setattr(config, "cc", "/no/such/cc")
        right_with_one_warning(smelt.compile(f))
    compiled = smelt.compile(f, fullgraph=True)
    right_without_warning(compiled)
    assert smelt.explain(compiled).compiled


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: folder.write_text(""), "File exists"),
    (lambda folder: (folder.mkdir(), folder.chmod(0o777)), "can be written by others"),
], ids=["a file", "open to all"])
def test_a_cache_folder_that_cannot_be_used(spoil, words, tmp_path):
    spoil(config.cache_dir)
    compiled = smelt.compile(f)
    message = right_with_one_warning(compiled)
    assert message.startswith("smelt cannot use its cache folder, and will build again in every process: ") and words in message
    assert smelt.explain(compiled).compiled
    right_without_warning(smelt.compile(f), 3.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_that_is_read_only():
    config.cache_dir.mkdir(mode=0o500)
    compiled = smelt.compile(f)
    assert "Permission denied" in right_with_one_warning(compiled)
    assert smelt.explain(compiled).compiled


def test_a_full_disk(monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).startswith(str(config.cache_dir)):
            raise OSError(28, "No space left on device")
        real(source, target)
    monkeypatch.setattr(cache.os, "replace", full)
    compiled = smelt.compile(f)
    assert "No space left on device" in right_with_one_warning(compiled)
    assert smelt.explain(compiled).compiled


def test_no_folder_at_all(monkeypatch):
    """Neither the cache nor a temporary folder: eager, with the reason."""
    config.cache_dir.write_text("")

    def none(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(cache.tempfile, "TemporaryDirectory", none)
    compiled = smelt.compile(f)
    with pytest.warns(SmeltWarning) as given:
        assert all(compiled(X, 2.0).equal(f(X, 2.0)) for _ in range(3))
    cannot_use, eager = (str(w.message) for w in given)
    assert "cannot use its cache folder" in cannot_use
    assert eager == "f runs eagerly: the shared object could not be made or loaded: [Errno 28] No space left on device"


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b"\0" * len(b), lambda b: b[::-1]],
                         ids=["empty", "cut", "zeros", "reversed"])
def test_a_damaged_cache_entry_is_built_again(damage, monkeypatch):
    right_without_warning(smelt.compile(f))
    entries = list(config.cache_dir.glob("*.so"))
    assert entries
    for entry in entries:
        whole = entry.read_bytes()
        entry.unlink()  # not in place: this process has it mapped
        entry.write_bytes(damage(whole))
    forget(monkeypatch)
    compiled = smelt.compile(f, fullgraph=True)
    right_without_warning(compiled)
    assert smelt.explain(compiled).compiled
    assert all(cache._whole(entry, entry.stem) for entry in entries)


def test_a_full_cache_folder_is_used_by_the_next_process(monkeypatch):
    right_without_warning(smelt.compile(f))
    forget(monkeypatch)
    monkeypatch.setattr(cache, "compile_shared", lambda *args: pytest.fail("built again"))
    right_without_warning(smelt.compile(f, fullgraph=True))


def test_what_torch_keeps_of_an_op_when_it_is_first_called_is_no_state():
    library = extensions.Library("smelt_test", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    op = torch.ops.smelt_test.twice
    f = smelt.compile(lambda x: op(x) + 1, fullgraph=True)
    for _ in range(3):
        assert f(torch.ones(3)).equal(torch.full((3,), 3.0))
    library._destroy()


@pytest.mark.parametrize("function", [lambda keep, x: keep(x) * 2, lambda keep, x: keep(x) * 2 if x.sum() > -100 else x],
                         ids=["plain", "branches"])
def test_an_op_of_a_library_whose_results_vary_in_size(function):
    """Torch says of no op outside of it that sizes depend on the data: calls that come to other sizes run eagerly."""
    library = extensions.Library("smelt_test", "FRAGMENT")
    library.define("keep(Tensor x) -> Tensor")
    library.impl("keep", lambda x: x[x > 0], "CPU")
    compiled = smelt.compile(lambda x: function(torch.ops.smelt_test.keep, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmeltWarning)
        for k in (3, 3, 2, 4, 3):
            x = torch.arange(8.0) - k
            assert compiled(x).equal(function(torch.ops.smelt_test.keep, x))
    library._destroy()
