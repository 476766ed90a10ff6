"""`python -m smelt bench` and `python -m smelt doctor`, as a user sees them."""
import json
import os
import subprocess
import sys

import pytest

from smelt.tools import bench
from smelt.tools.programs import CASES


def smelt(*args, **environment):
    return subprocess.run([sys.executable, "-W", "error::UserWarning", "-m", "smelt", *args], capture_output=True, text=True,
                          env={**os.environ, **environment})


def findings(run):
    """The doctor's verdict on each thing."""
    return {line.split()[1]: line.split()[0] for line in run.stdout.splitlines() if line[:4] in ("ok  ", "no  ", "FAIL")}


def line(run, what):
    return next(text for text in run.stdout.splitlines() if text[6:].startswith(what))


def test_the_doctor_where_everything_is_there(tmp_path):
    run = smelt("doctor", SMELT_CACHE_DIR=str(tmp_path / "cache"))
    found = findings(run)
    assert run.returncode == 0 and run.stderr == "" and run.stdout.endswith("\n\nall that smelt needs is here\n")
    assert all(found[what] == "ok" for what in ("python", "torch", "compiler", "vectors", "kernel", "cache"))
    assert "a small program compiles and is right" in line(run, "kernel")


def test_the_doctor_without_a_compiler():
    run = smelt("doctor", CC="/nonexistent")
    found = findings(run)
    assert run.returncode == 1 and run.stderr == ""
    assert found["compiler"] == found["kernel"] == "FAIL" and found["cache"] == "ok"
    assert "'/nonexistent' (from SMELT_CC or CC) is not there. Install gcc or clang" in line(run, "compiler")
    assert run.stdout.endswith("\nto mend: compiler, kernel\n")


def test_the_doctor_with_a_cache_that_cannot_be_used(tmp_path):
    tmp_path.chmod(0o777)
    run = smelt("doctor", SMELT_CACHE_DIR=str(tmp_path))
    found = findings(run)
    assert run.returncode == 1 and run.stderr == ""
    assert found["cache"] == "FAIL" and found["kernel"] == "ok"
    assert "can be written by others (mode 777)" in line(run, "cache") and "set SMELT_CACHE_DIR" in line(run, "cache")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_programs_of_the_benchmark_run(case):
    function, args = case.make()
    bench.runner(case, function, args)()
    assert not case.train or any(p.grad is not None for p in (*args, *getattr(function, "parameters", tuple)()))


def test_the_benchmark_table():
    run = smelt("bench", "mean", "--seconds", "0.05", "--threads", "1")
    assert run.returncode == 0, run.stderr
    title, head, row = run.stdout.splitlines()
    assert ", 1 thread; medians" in title
    assert head.split()[:5] == ["program", "eager", "smelt", "eager/smelt", "compile"] and len(head) == len(row)
    assert row.startswith("mean(0)") and "1 -> 1" in row and "16 MB -> 16 MB" in row


def test_the_benchmark_as_data_and_as_a_chart(tmp_path):
    pytest.importorskip("matplotlib")
    chart = tmp_path / "chart.png"
    run = smelt("bench", "mean", "--seconds", "0.05", "--json", "--plot", str(chart))
    row, = json.loads(run.stdout)["rows"]
    assert row["name"] == "mean(0)" and row["seconds"] > 0 and row["ratio"] == row["eager_seconds"] / row["seconds"]
    assert row["bytes_after"] >= 4096 * 1024 * 4 and row["kernels_after"] == 1
    assert chart.read_bytes().startswith(b"\x89PNG") and run.stderr == f"wrote {chart}\n"


@pytest.mark.parametrize("args, message", [
    ((), "the following arguments are required: command"),
    (("run",), "invalid choice: 'run'"),
    (("bench", "--seconds", "-1"), "argument --seconds: invalid positive float value: '-1'"),
    (("bench", "--threads", "0"), "argument --threads: invalid positive int value: '0'"),
    (("bench", "--against", "eager"), "argument --against: invalid choice: 'eager'"),
    (("bench", "nosuch"), "no program has 'nosuch' in its name; there are: gelu(x*w+b).sum, layer norm"),
    (("bench", "--plot", "/no/such/folder/c.png"), "--plot /no/such/folder/c.png: there is no folder /no/such/folder"),
    (("bench", "--plot", "c.gif"), "--plot c.gif: give a name that ends in one of .png, .svg, .pdf"),
], ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_wrong_arguments(args, message, monkeypatch, capsys):
    from smelt.__main__ import main
    if "--plot" in args:
        pytest.importorskip("matplotlib")
    try:
        status = main(list(args))
    except SystemExit as e:
        status = e.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_another_compiler_beside_smelt():
    rows = [bench.Row("p", 2e-3, 1e-3, 2.0, 0.1, 3, 1, 3000, 1000, 20, 10, {"inductor": 1.5})]
    head, row = bench.table(rows).splitlines()
    assert "inductor/smelt" in head and "1.50x" in row and "2.00x" in row and "3 -> 1" in row


def test_sizes():
    assert [bench.size(n) for n in (0, 999, 1000, 1024, 1023 * 1024, 5 << 30)] == \
        ["0 B", "999 B", "0.977 KB", "1 KB", "0.999 MB", "5 GB"]


def test_the_programs_have_names_of_their_own():
    assert len({c.name for c in CASES}) == len(CASES) >= 7
