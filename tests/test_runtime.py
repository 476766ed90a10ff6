"""The runtime on handwritten programs: results, frames, threads, the build, and the cache."""
import os
import subprocess
import sys
import threading

import pytest
import torch

import smelt.config as config
from smelt.errors import BuildError, SmeltError, SmeltWarning
from smelt.pipeline import _likeness
from smelt.runtime import Call, Launch, Message, Program, Ref, Slot, build, cache, load, toolchain
from smelt.runtime.cache import library

from .common import with_threads

ADD_ONE = """
long go(void **s, long threads)
{
    const float *x = s[0];
    float *y = s[1];
    for (int i = 0; i < 64; i++)
        y[i] = x[i] + 1;
    return 0;
}
"""


def vector(name, place, n=64, **more):
    return Slot(name, place, (n,), (1,), **more)


def program(source=ADD_ONE, slots=None, steps=None, outputs=(1,), name="test", **more):
    slots = slots or (vector("x", "input", position=0), vector("y", "output"))
    steps = steps or (Launch("go", ("k",), tuple(range(len(slots)))),)
    inputs = tuple(i for i, s in enumerate(slots) if s.place == "input")
    return Program(name, slots, inputs, outputs, steps, source, **more)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and nothing loaded yet."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(config, "cache_dir", folder)
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_warned", set())
    return folder


@pytest.fixture
def compiled(monkeypatch):
    """The sources compiled while the test runs."""
    made = []
    real = cache.compile_shared

    def counted(source, target, tools):
        made.append(source.read_text())
        real(source, target, tools)

    monkeypatch.setattr(cache, "compile_shared", counted)
    return made


# Programs

def test_one_kernel():
    x = torch.randn(64)
    assert torch.equal(load(program())(x)[0], x + 1)


def test_results_of_two_calls_are_apart():
    run = load(program())
    a, b = run(torch.zeros(64))[0], run(torch.full((64,), 5.0))[0]
    assert a.eq(1).all() and b.eq(6).all()


CHAIN = """
static void scale(const float *x, float *y, float by) { for (int i = 0; i < 64; i++) y[i] = x[i] * by; }
long twice(void **s, long threads) { scale(s[0], s[1], 2); return 0; }
long times_w(void **s, long threads) { scale(s[2], s[4], ((float *)s[3])[0]); return 0; }
"""


def chain(function):
    """x*2 in the arena, given to `function` with a constant, whose result a kernel multiplies by the constant w."""
    slots = (vector("x", "input", position=0), vector("t", "arena", live=(0, 1)), vector("called", "call"),
             vector("w", "constant", 1, constant=torch.tensor([3.0])), vector("y", "output"))
    call = Call(function, ([Ref(1), Ref(1)],), {"alpha": 0.5}, (2,))
    steps = (Launch("twice", ("a",), (0, 1)), call, Launch("times_w", ("b",), (2, 3, 4)))
    return program(CHAIN, slots, steps, (4, 2, 3, 0))


def test_arena_constants_and_calls():
    run = load(chain(lambda pair, alpha: pair[0] + pair[1] * alpha))
    for _ in range(2):
        x = torch.randn(64)
        y, called, w, same = run(x)
        assert torch.equal(called, x * 2 + x * 2 * 0.5)
        assert torch.equal(y, called * 3) and w.item() == 3 and same is x


def test_a_call_that_gives_its_argument_back_does_not_leak_the_arena():
    run = load(chain(lambda pair, alpha: pair[0]))
    first = run(torch.ones(64))[1]
    run(torch.zeros(64))
    assert first.eq(2).all()


def test_a_call_result_in_another_layout_is_brought_into_the_kernels_own():
    x = Slot("x", "input", (2, 3), (3, 1), position=0)
    slots = (x, Slot("c", "call", (3, 2), (2, 1)), Slot("y", "output", (3, 2), (2, 1)))
    source = "long go(void **s, long n) { for (int i = 0; i < 6; i++) ((float *)s[2])[i] = ((float *)s[1])[i]; return 0; }"
    x = torch.randn(2, 3)
    steps = (Call(torch.t, (Ref(0),), {}, (1,)), Launch("go", ("k",), (1, 2)))
    assert torch.equal(load(program(source, slots, steps, (2,)))(x)[0], x.t())
    wrong = load(program(source, slots, (Call(torch.relu, (Ref(0),), {}, (1,)), steps[1]), (2,)))
    with pytest.raises(SmeltError, match="a call returned"):
        wrong(x)


def test_only_calls():
    slots = (vector("x", "input", position=0), vector("values", "call"), vector("indices", "call"))
    run = load(program("", slots, (Call(torch.sort, (Ref(0),), {"descending": True}, (1, -1), "sort"),), (1,)))
    assert run(torch.tensor([1.0, 3.0, 2.0]))[0].tolist() == [3, 2, 1]
    assert run.source_path is None


def test_inputs_come_by_position_and_names_may_be_anything():
    slots = (vector("lambda", "input", position=1), vector("1.weight", "input", position=0), vector("frames", "call"))
    run = load(program("", slots, (Call(torch.sub, (Ref(0), Ref(1)), {}, (2,)),), (2,)))
    assert run(torch.tensor([1.0]), torch.tensor([10.0]))[0].item() == 9


def test_a_failed_check_raises_its_message_and_the_next_call_runs():
    source = "long go(void **s, long n) { return ((float *)s[0])[0] < 0 ? 2 : 0; }"
    run = load(program(source, messages=(Message(ValueError, "no"), Message(IndexError, "index out of range"))))
    with pytest.raises(IndexError, match="index out of range"):
        run(torch.full((64,), -1.0))
    run(torch.ones(64))


@pytest.mark.parametrize("likeness", [None, _likeness])
def test_wrong_inputs(likeness):
    """Also after a call that fitted, of which the quick check is made."""
    run = load(program(), likeness=likeness)
    for _ in range(2 if likeness else 0):
        assert run(torch.ones(64))[0].eq(2).all()
    for inputs, text in (((), "takes 1 inputs, not 0"), ((torch.ones(63),), "shape"),
                         ((torch.ones(64, dtype=torch.float64),), "dtype"), ((torch.ones(128)[::2],), "strides"),
                         ((torch.ones(64, device="meta"),), "device"), ((1.0,), "tensor")):
        with pytest.raises(SmeltError, match=text):
            run(*inputs)


def test_an_output_in_the_arena_is_refused():
    with pytest.raises(ValueError, match="lies in the arena"):
        load(program(slots=(vector("x", "input", position=0), vector("y", "arena", live=(0, 0)))))


def test_a_frame_made_in_inference_mode_serves_autograd():
    run = load(chain(lambda pair, alpha: torch.enable_grad()(torch.mul)(pair[0], torch.ones(64, requires_grad=True))))
    with torch.inference_mode():
        run(torch.ones(64))
    run(torch.ones(64))[1].sum().backward()  # saves the arena's tensor for the backward pass


def test_what_a_call_returns_requires_no_grad():
    """Which program a gradient flows through is told to autograd by who calls it."""
    run = load(chain(lambda pair, alpha: pair[0] * torch.ones(64, requires_grad=True)))
    assert not run(torch.ones(64))[1].requires_grad


# Threads and processes

def test_a_program_called_from_within_its_own_call():
    depth = []

    def again(pair, alpha):
        before = pair[0].clone()
        if len(depth) < 3:
            depth.append(1)
            run(torch.randn(64))
        assert torch.equal(pair[0], before)
        return before

    run = load(chain(again))
    x = torch.randn(64)
    assert torch.equal(run(x)[0], x * 6)
    assert len(depth) == 3


def test_eight_threads_at_once():
    run = load(chain(lambda pair, alpha: pair[0] + 0))
    wrong = []

    def work(seed):
        x = torch.full((64,), float(seed))
        for _ in range(300):
            if not torch.equal(run(x)[0], x * 6):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


TEAM = """
int omp_get_num_threads(void);
long go(void **s, long threads)
{
    float *y = s[1];
    #pragma omp parallel num_threads(threads)
    y[0] = omp_get_num_threads();
    return 0;
}
"""

needs_openmp = pytest.mark.skipif(not toolchain().openmp, reason="no OpenMP for this compiler")


@needs_openmp
def test_the_thread_count_is_torch_s():
    free, one = load(program(TEAM)), load(program(TEAM, steps=(Launch("go", ("k",), (0, 1), threads=1),)))
    for n in (1, 2, 3):
        with with_threads(n):
            assert free(torch.zeros(64))[0][0] == n and one(torch.zeros(64))[0][0] == 1


@needs_openmp
def test_there_is_one_openmp_runtime():
    """In a process of its own: other packages that tests import bring OpenMP runtimes of their own."""
    code = """
import torch, smelt
f = smelt.compile(lambda x: (x * 2).exp().sum(), verify="off")
f(torch.randn(1 << 20)), f(torch.randn(1 << 20))
torch.randn(1 << 20).exp()
print(*{line.split()[-1] for line in open("/proc/self/maps") if any(name in line for name in ("libgomp", "libomp", "libiomp"))})
"""
    runtimes = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(runtimes) == 1 and os.path.dirname(torch.__file__) in runtimes[0]


@needs_openmp
def test_a_forked_child_runs_on_one_thread():
    run = load(program(TEAM))
    run(torch.zeros(64))  # the parent's pool exists
    child = os.fork()
    if child == 0:
        later = load(program(TEAM, name="later"))
        os._exit(0 if run(torch.zeros(64))[0][0] == 1 and later(torch.zeros(64))[0][0] == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run(torch.zeros(64))[0][0] == torch.get_num_threads()


# The build

def test_a_failing_compiler_names_its_command_and_its_words(empty_cache):
    with pytest.raises(BuildError, match=r"(?s)-O2.*failed with status.*error.*nonsense"):
        load(program("nonsense"))


def test_a_missing_function(empty_cache):
    with pytest.raises(BuildError, match="no function 'go'"):
        load(program("long other(void **s, long n) { return 0; }"))


def test_a_symbol_that_nobody_has(empty_cache):
    with pytest.warns(SmeltWarning), pytest.raises(BuildError, match="not_there"):
        load(program("long not_there(void); long go(void **s, long n) { return not_there(); }"))


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "cc", "no-such-cc -x")
    with pytest.raises(BuildError, match="no-such-cc"):
        toolchain()
    monkeypatch.setattr(config, "cc", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="none of gcc, cc and clang"):
        toolchain()


def test_a_compiler_without_march_native(tmp_path, monkeypatch, empty_cache):
    real = toolchain()
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\nfor a; do [ "$a" = -march=native ] && exit 1; done\nexec {real.command[0]} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(config, "cc", str(script))
    assert "-march=native" not in toolchain().flags and toolchain().identity != real.identity
    assert load(program())(torch.zeros(64))[0].eq(1).all()


def test_clang_s_parallel_regions_are_not_asked_of_libgomp(monkeypatch):
    asked = []

    class Process:
        def __getattr__(self, name):
            asked.append(name)

    monkeypatch.setattr(build.ctypes, "CDLL", lambda _: Process())
    build._has_openmp_runtime(clang=True)
    build._has_openmp_runtime(clang=False)
    assert asked == ["__kmpc_fork_call", "GOMP_parallel"]


def test_clang_is_given_no_flag_of_gcc(monkeypatch):
    monkeypatch.setattr(build, "_macros", lambda command, flags: '#define __clang__ 1\n#define __VERSION__ "Clang 22"')
    flags = build._toolchain.__wrapped__(("clang",)).flags
    assert "-O2" in flags and not set(build.GCC_FLAGS) & set(flags)


# The cache

def entry(folder):
    return next(p for p in folder.glob("*.so") if "go" in p.with_suffix(".c").read_text())


def test_a_source_is_built_once_per_process_and_once_per_machine(empty_cache, compiled):
    first = load(program())
    load(program(name="other"))
    assert compiled.count(ADD_ONE) == 1
    cache._loaded.clear()
    load(program())
    assert compiled.count(ADD_ONE) == 1
    assert first.source_path.read_text() == ADD_ONE
    assert empty_cache.stat().st_mode & 0o777 == 0o700


def test_other_flags_are_another_entry(empty_cache, monkeypatch, compiled):
    load(program())
    cache._loaded.clear()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DX"))
    build._toolchain.cache_clear()
    load(program())
    build._toolchain.cache_clear()
    assert compiled.count(ADD_ONE) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b[:-1], lambda b: b"",
                                    lambda b: b[:3000] + bytes([b[3000] ^ 1]) + b[3001:]],
                         ids=["half", "one byte short", "empty", "one bit changed"])
def test_a_damaged_entry_is_built_again(empty_cache, compiled, damage):
    load(program())
    cache._loaded.clear()
    path = entry(empty_cache)
    whole = path.read_bytes()
    path.unlink()  # not in place: this process has it mapped
    path.write_bytes(damage(whole))
    assert load(program())(torch.zeros(64))[0].eq(1).all()
    assert compiled.count(ADD_ONE) == 2 and cache._whole(path, path.stem)


def test_an_entry_of_another_key_is_not_trusted(empty_cache, compiled):
    load(program())
    path = entry(empty_cache)
    other = ADD_ONE.replace("+ 1", "+ 2")
    load(program(other))
    stranger = next(p for p in empty_cache.glob("*.so") if "+ 2" in p.with_suffix(".c").read_text())
    os.replace(stranger, path)
    cache._loaded.clear()
    assert load(program())(torch.zeros(64))[0].eq(1).all()


def test_a_killed_build_leaves_nothing_that_is_trusted(empty_cache, monkeypatch):
    def killed(content, key):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_sealed", killed)
    with pytest.raises(KeyboardInterrupt):
        library(ADD_ONE)
    assert not list(empty_cache.glob("*.so"))


@pytest.mark.parametrize("spoil", [lambda d: d.chmod(0o777), lambda d: (d.rmdir(), d.write_text("a file"))],
                         ids=["writable by others", "a file"])
def test_a_folder_that_cannot_be_used_is_said_once(empty_cache, spoil):
    empty_cache.mkdir()
    spoil(empty_cache)
    with pytest.warns(SmeltWarning, match="cache folder") as said:
        run = load(program())
        load(program(ADD_ONE + "/* other */"))
    assert len(said) == 1 and run.source_path is None
    assert run(torch.zeros(64))[0].eq(1).all()


def test_a_folder_of_another_user_is_not_used(empty_cache, monkeypatch):
    monkeypatch.setattr(cache.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(SmeltWarning, match="another user"):
        load(program())
    assert not list(empty_cache.iterdir())


def test_a_full_disk(empty_cache, monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).startswith(str(empty_cache)):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(cache.os, "replace", full)
    with pytest.warns(SmeltWarning, match="No space left"):
        assert load(program())(torch.zeros(64))[0].eq(1).all()


def test_processes_that_build_the_same_source_at_once(empty_cache):
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            right = load(program())(torch.zeros(64))[0].eq(1).all()
            os._exit(0 if right else 1)
        children.append(child)
    assert [os.waitpid(c, 0)[1] for c in children] == [0] * 4
    assert cache._whole(entry(empty_cache), entry(empty_cache).stem)
    assert not list(empty_cache.glob("build-*"))
