"""What users look at: the text of every stage, pictures, the report, dumps, and the reproducer of a wrong result."""
import os
import re
import runpy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import library, nn
from torch.nn import functional as F

import smelt
from smelt import SmeltWarning, WrongResult, config
from smelt.codegen.c import scalars
from smelt.compiler import parse
from smelt.compiler.op import ATEN
from smelt.compiler.text import show
from smelt.frontend.api import compiled_function

LABELS = torch.arange(8) % 3


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return F.cross_entropy(self.second(torch.relu(self.first(x))), LABELS)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = smelt.compile(Classifier(), fullgraph=True)
    for _ in range(2):
        model(torch.randn(8, 6)).backward()
    return model


def graphs(compiled):
    return compiled_function(compiled).programs[0].run.compilation.graphs


# show

@pytest.mark.parametrize("stage", ["recorded", "simplified", "joint", "forward", "backward"])
def test_a_stage_is_shown_as_text_that_parses_back(model, stage, capsys):
    text = smelt.show(model, stage)
    assert capsys.readouterr().out == text + "\n"
    assert show(parse(text)) == text == show(graphs(model)[stage])
    assert "test_looking.py:" in text


def test_the_generated_code_is_shown(model, capsys):
    assert "long Classifier_forward_0(void **slots, long threads)" in smelt.show(model, "c")
    assert smelt.show(model, "host").startswith("def run(")
    assert "long Classifier_backward_0(" in smelt.show(model, "backward c")
    assert "launch(" in smelt.show(model, "backward host")


# explain

def test_the_report_of_a_compiled_module(model):
    report = smelt.explain(model)
    assert report.compiled and report.state == "compiled" and report.name == "Classifier"
    program, = report.programs
    assert report.kernels == len(program.kernels) + len(program.calls)
    assert not report.fallbacks and not report.recompilations
    assert {k.part for k in program.kernels} == {"forward", "backward"} and all(k.seconds is None for k in program.kernels)
    first = program.kernels[0]
    assert first.name == "matmul_add_relu" and first.values == ("matmul_0", "add_0", "relu_0")
    assert (first.read, first.written) == (4 * (8 * 6 + 6 * 5 + 5), 4 * 8 * 5)
    assert report.bytes == sum(k.read + k.written for k in program.kernels) < sum(k.unfused for k in program.kernels)
    assert any("second.weight" in g for g in program.guards)
    assert {"generate", "build", "gradient"} <= set(program.seconds)


def test_the_report_as_text(model):
    text = str(smelt.explain(model))
    head, counts, moved, compiled, guards, *kernels = text.splitlines()
    assert head == "Classifier: compiled, 1 program"
    assert re.fullmatch(r"  program 0: \d+ ops -> \d+ kernels and 0 calls of torch", counts)
    assert " read and written instead of " in moved
    assert compiled.startswith("    compiled in ") and guards.endswith(" guards hold")
    assert re.fullmatch(r"    forward +matmul_add_relu +332 B read +160 B written +matmul_0 add_0 relu_0", kernels[0])
    assert max(map(len, text.splitlines())) < 160


def test_the_time_of_each_kernel(model):
    program, = smelt.explain(model, time=True).programs
    assert all(1e-7 < k.seconds < 1e-2 for k in program.kernels)
    assert all(k.rate == (k.read + k.written) / k.seconds for k in program.kernels)
    assert re.search(r"forward +matmul_add_relu .* \d+\.\d us +\d+\.\d GB/s  matmul_0", str(smelt.explain(model, time=True)))


def test_a_larger_kernel_takes_longer():
    seconds = []
    for n in (1 << 10, 1 << 20):
        f = smelt.compile(lambda x: (x * 2).sqrt())
        f(torch.ones(n))
        kernel, = smelt.explain(f, time=True).programs[0].kernels
        seconds.append(kernel.seconds)
    assert seconds[1] > 5 * seconds[0]


def test_kernels_with_indices_are_timed():
    f = smelt.compile(lambda x, i: x[i] * 2)
    f(torch.ones(9, 4), torch.tensor([1, 8]))
    kernel, = smelt.explain(f, time=True).programs[0].kernels
    assert kernel.seconds > 0


def test_the_report_of_what_runs_eagerly_and_of_what_was_compiled_again():
    def f(x):
        os.getpid()
        return x + 1
    compiled = smelt.compile(f)
    assert str(smelt.explain(compiled)) == "f: not called yet, 0 programs"
    with pytest.warns(SmeltWarning):
        compiled(torch.ones(2))
    report = smelt.explain(compiled)
    assert not report.compiled and report.state == "not compiled" and report.programs == ()
    reason, = report.fallbacks
    assert "test_looking.py:" in reason and "getpid" in reason and f"  eager: {reason}" in str(report)

    g = smelt.compile(lambda x: x + 1)
    g(torch.ones(2))
    g(torch.ones(3))
    report = smelt.explain(g)
    assert report.compiled and len(report.programs) == 2
    assert report.recompilations == ("<lambda>: x.shape (2,) -> (3,)",)
    assert "  compiled again: <lambda>: x.shape (2,) -> (3,)" in str(report)


def test_the_report_of_a_recording_that_holds_for_no_other_call():
    losses = []

    def f():
        torch.cat(losses).sum().backward()
        losses.clear()
    compiled = smelt.compile(f)
    losses.append(torch.ones(2, requires_grad=True) * 2)
    with pytest.warns(SmeltWarning, match="goes on outside"):
        compiled()
    report = smelt.explain(compiled)
    assert report.state == "not compiled" and "goes on outside" in report.fallbacks[0]


def test_calls_of_torch_are_named():
    f = smelt.compile(lambda x: torch.fft.fft(x).abs().sort()[0] * 2)
    f(torch.ones(8))
    calls = smelt.explain(f).programs[0].calls
    assert any(re.match(r"aten\._fft_r2c\.default test_looking\.py:\d+", c) for c in calls), calls


# draw

def test_a_picture_as_dot(model, tmp_path):
    pytest.importorskip("graphviz")
    path = smelt.draw(model, tmp_path / "model.dot")
    text = path.read_text()
    kernels = smelt.explain(model).programs[0].kernels
    for part in ("forward", "backward"):
        assert f"label=Classifier_{part}" in text
    for k in kernels:
        assert re.search(rf'label="?{k.name}"?\b', text)
    assert len(re.findall(r"subgraph cluster_g\d_\d", text)) == len(kernels)
    assert re.search(r'"?g0_relu_0_k0"? -> "?g0_matmul_1_k1"? \[label="160 B" .*penwidth=2\.4', text), "thick between kernels"
    assert re.search(r'"?g0_matmul_0_k0"? -> "?g0_add_0_k0"?\n', text), "a thin one inside a kernel"
    for label in ("result 0", "relu_0, for the backward", "gradient of first_weight", "gradient of second_bias"):
        assert f'"{label}"' in text, label


@pytest.mark.parametrize("ending, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_picture_as_a_file(model, tmp_path, ending, start):
    pytest.importorskip("graphviz")
    pytest.importorskip("pygraphviz")
    path = smelt.draw(model, tmp_path / f"model.{ending}")
    assert path == tmp_path / f"model.{ending}" and path.read_bytes().startswith(start)


def test_a_picture_with_views_calls_and_concatenations(tmp_path):
    pytest.importorskip("graphviz")

    def f(x, w):
        y = torch.cat([x.relu(), x @ w, torch.fft.fft(x).abs()], 1)
        return y.t().sort(1)[0] * 2
    f = smelt.compile(f)
    f(torch.randn(4, 4), torch.randn(4, 4))
    text = smelt.draw(f, tmp_path / "f.dot").read_text()
    parts = re.findall(r'"?g0_part\w*_k\d"? -> "?g0_cat_0"? \[', text)
    assert len(parts) == 3 and "sort.default" in text and "aten._fft_r2c.default" in text


# Dumps

def test_a_dump_runs_on_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "dump", str(tmp_path / "dump"))
    model = smelt.compile(Classifier())
    model(torch.randn(8, 6)).backward()
    home, = (tmp_path / "dump").iterdir()
    names = sorted(p.name for p in home.iterdir())
    assert names == ["01-recorded.txt", "02-simplified.txt", "03-joint.txt", "04-forward.txt", "05-backward.txt",
                     "backward.c", "backward_host.py", "forward.c", "forward_host.py", "run.py"]
    assert (home / "04-forward.txt").read_text() == show(graphs(model)["forward"]) + "\n"
    run = subprocess.run([sys.executable, "run.py"], cwd=home, capture_output=True, text=True)
    assert run.stdout == "equal to the reference\n", run.stderr


def test_each_program_has_a_dump_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "dump", str(tmp_path))
    f = smelt.compile(lambda x: x + 1)
    f(torch.ones(2))
    f(torch.ones(3))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dump_that_cannot_be_written_is_no_harm(monkeypatch):
    monkeypatch.setattr(config, "dump", "/proc/nothing")
    f = smelt.compile(lambda x: x + 1, fullgraph=True)
    with pytest.warns(SmeltWarning, match=r"cannot write its stages to /proc/nothing \(config.dump\)"):
        f(torch.ones(2))
    assert f(torch.ones(2)).equal(torch.full((2,), 2.0)) and smelt.explain(f).compiled


# Wrong results

@pytest.fixture
def wrong_kernels(tmp_path, monkeypatch):
    """C in which a product is a sum; reproducers go to the folder."""
    monkeypatch.setitem(scalars.INFIX, "mul", "+")
    monkeypatch.setattr(config, "report_dir", tmp_path)
    return tmp_path


def wrong(x, y):
    z = x + y
    return (z * y).relu()


X, Y = torch.arange(1.0, 13).reshape(3, 4), torch.full((3, 4), 3.0)


def test_a_wrong_kernel_is_caught_told_once_and_not_used(wrong_kernels):
    f = smelt.compile(wrong)
    with pytest.warns(SmeltWarning) as given:
        results = [f(X, Y) for _ in range(4)]
    assert all(r.equal(wrong(X, Y)) for r in results)
    message, = (str(w.message) for w in given)
    assert given[0].filename == __file__
    line = wrong.__code__.co_firstlineno + 2
    assert re.match(r"smelt: wrong, forward: output 0, element 0: 7\.0, should be 12\.0 \(12 of 12 elements differ\)", message)
    assert f"first wrong value: %mul_0 = mul (test_looking.py:{line}), element 0: 7.0, should be 12.0" in message
    assert "the function runs eagerly from now on" in message
    assert smelt.explain(f).state == "found wrong, runs eagerly" and "should be 12.0" in smelt.explain(f).programs[0].broken


def test_the_reproducer_of_a_wrong_result_runs(wrong_kernels, capsys):
    f = smelt.compile(wrong)
    with pytest.warns(SmeltWarning) as given:
        f(X, Y)
        f(X, Y)
    path = re.search(r"a reproducer is in (\S+)", str(given[0].message)).group(1)
    assert path.startswith(str(wrong_kernels)) and path.endswith("run.py")
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert ran.stdout == "equal to the reference\n", ran.stderr  # there, nobody has broken the table
    runpy.run_path(path)
    assert capsys.readouterr().out.startswith("DIFFERENT: output 0, element 0: 7.0, should be 12.0")


def test_large_inputs_lie_beside_the_reproducer(wrong_kernels, capsys):
    f = smelt.compile(wrong)
    x = torch.full((1 << 17,), 3.0)
    with pytest.warns(SmeltWarning) as given:
        for _ in range(2):
            f(x, x)
    path = re.search(r"a reproducer is in (\S+)", str(given[0].message)).group(1)
    runpy.run_path(path)
    assert capsys.readouterr().out.startswith("DIFFERENT: output 0, element 0: 9.0, should be 18.0")


def test_a_folder_for_reproducers_that_cannot_be_written(wrong_kernels, monkeypatch):
    monkeypatch.setattr(config, "report_dir", "/proc/nothing")
    f = smelt.compile(wrong)
    with pytest.warns(SmeltWarning, match="no reproducer could be written"):
        results = [f(X, Y) for _ in range(2)]
    assert results[1].equal(wrong(X, Y))


def test_wrong_gradients_are_caught(wrong_kernels, capsys):
    f = smelt.compile(lambda x: x.exp().sum())
    x = torch.full((4,), 0.5, requires_grad=True)
    with pytest.warns(SmeltWarning, match=r"<lambda>, backward: output 0, element 0") as given:
        for _ in range(3):
            x.grad = None
            f(x).backward()
            torch.testing.assert_close(x.grad, x.detach().exp())
    assert len([w for w in given if w.category is SmeltWarning]) == 1
    path = re.search(r"a reproducer is in (\S+)", str(given[0].message)).group(1)
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert ran.stdout == "gradients equal to the reference's\n", ran.stderr  # there, nobody has broken the table
    with pytest.warns(SmeltWarning):
        runpy.run_path(path)
    assert capsys.readouterr().out.startswith("DIFFERENT: backward: output 0, element 0")


def test_a_wrong_kernel_beside_random_numbers_is_caught(wrong_kernels, capsys):
    def noisy(x):
        return F.dropout(x) * (x + 0.5)
    f = smelt.compile(noisy)
    x = torch.full((64,), 3.0)
    with pytest.warns(SmeltWarning, match="first wrong value: %") as given:
        for seed in range(3):
            torch.manual_seed(seed)
            result, after = f(x), torch.rand(1)
            torch.manual_seed(seed)
            assert result.equal(noisy(x)) and after == torch.rand(1)
    runpy.run_path(re.search(r"a reproducer is in (\S+)", str(given[0].message)).group(1))
    assert capsys.readouterr().out.startswith("DIFFERENT: output 0")


def test_rounding_noise_beside_random_numbers_is_no_wrong_result():
    """Gradients that are 0 but for rounding: of a bias before a batch norm."""
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    net = smelt.compile(nn.Sequential(*layers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            torch.manual_seed(seed)
            net(torch.randn(5, 3, 8, 8)).sum().backward()
    assert net[0].bias.grad.abs().max() < 1e-4 < net[0].weight.grad.abs().max() and smelt.explain(net).compiled


def test_raise_and_off(wrong_kernels):
    f = smelt.compile(wrong, verify="raise")
    with pytest.raises(WrongResult, match="first wrong value: %mul_0"):
        for _ in range(2):
            f(X, Y)
    f = smelt.compile(wrong, verify="off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [f(X, Y).equal(wrong(X, Y)) for _ in range(3)] == [True, False, False]  # the first is the recorded run


def test_always_sees_what_goes_wrong_later(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "report_dir", tmp_path)
    f = smelt.compile(wrong, verify="always")
    for _ in range(3):
        f(X, Y)
    executable = compiled_function(f).programs[0].run
    host = executable.compilation.programs["forward"].run.__globals__
    monkeypatch.setitem(host, "launch", lambda *args: 0)  # from here on kernels do nothing
    monkeypatch.setitem(host, "empty", lambda shape, strides, dtype: torch.zeros(shape, dtype=dtype))
    with pytest.warns(SmeltWarning, match="element 0: 0.0, should be 12.0"):
        assert f(X, Y).equal(wrong(X, Y))
    assert executable.broken

    f = smelt.compile(wrong)
    for _ in range(3):
        f(X, Y)
    assert not compiled_function(f).programs[0].run.unchecked, "by default only the first run is checked"


def test_a_training_step_says_what_is_written_where(tmp_path):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss
    compiled = smelt.compile(step)
    for _ in range(2):
        compiled(torch.ones(4, 3))
    text = smelt.draw(compiled, tmp_path / "step.dot").read_text()
    for label in ("result 0", "written to closure_net_weight", "closure_net_bias.grad"):
        assert label in text


def test_the_report_names_ops_of_other_libraries():
    @library.custom_op("smelt_tests::halved", mutates_args=())
    def halved(x: torch.Tensor) -> torch.Tensor:
        return x / 2
    f = smelt.compile(lambda x: halved(x) + 1, fullgraph=True)
    for _ in range(2):
        f(torch.ones(3))
    assert smelt.explain(f).programs[0].foreign == ("smelt_tests.halved.default",)
    assert "not checked by default: it calls smelt_tests.halved.default" in str(smelt.explain(f))


def test_the_report_names_the_lines_that_print(capsys):
    def f(x):
        print(x.sum().item())
        return x * 2
    compiled = smelt.compile(f, fullgraph=True)
    for _ in range(2):
        compiled(torch.ones(2))
    line = f"{__file__}:{f.__code__.co_firstlineno + 1}"
    assert smelt.explain(compiled).asides == (line,) and f"  runs in Python on every call: {line}" in str(smelt.explain(compiled))
    assert capsys.readouterr().out == "2.0\n2.0\n"


def test_a_wrong_recording_is_caught_by_the_first_call(monkeypatch):
    monkeypatch.setitem(ATEN, "sin", ATEN["cos"])
    f = smelt.compile(lambda x: torch.sin(x) * 2)
    x = torch.full((3,), 0.5)
    with pytest.warns(SmeltWarning, match=r"internal error: it was recorded as something else: output 0, element 0: 1\.75"):
        results = [f(x) for _ in range(3)]
    assert all(r.equal(torch.sin(x) * 2) for r in results) and smelt.explain(f).state == "not compiled"
    with pytest.raises(WrongResult, match="recorded as something else"):
        smelt.compile(lambda x: torch.sin(x) * 2, verify="raise")(x)
