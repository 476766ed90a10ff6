"""Programs as CUDA graphs, with a made-up device: a capture is a list of calls that a replay makes on the captured memory."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from smelt.errors import SmeltWarning
from smelt.runtime import Call, Launch, Program, Slot
from smelt.runtime.program import Ref, Symbol
from smelt.runtime.replay import Replayed, obstacle, parted

SLOT = Slot("x", "input", (3,), (1,), position=0)
PROGRAM = Program("f", (SLOT,), (0,), (), (Launch("go", ("k",), (0,)),), "", language="triton")


class MadeUp:
    """Replays by running again on the memory that was captured, into the results' memory."""

    def __init__(self, random=False, fails=False):
        self.captures = self.replays = 0
        self.random, self.fails, self.state = random, fails, 0

    def capture(self, call):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        results = tuple(torch.full_like(r, -1.0) for r in call())  # a capture computes nothing

        def run_again():
            self.replays += 1
            for r, new in zip(results, call()):
                r.copy_(new)
        return run_again, results

    def random_state(self):
        self.state += self.random
        return torch.tensor(self.state)

    def wait(self):
        pass

    done = wait


def weighted(x, w):
    return x * w, (x + w).t()


def test_results_are_those_of_the_call_and_stay():
    device = MadeUp()
    run, w, kept = Replayed(PROGRAM, weighted, device), torch.randn(3, 3), []
    for n in range(6):
        x = torch.randn(3, 3)
        kept.append((x, run(x, w)))
    for x, found in kept:
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(found, weighted(x, w), strict=True))
    assert device.replays == 5


def test_what_stays_where_it_was_is_not_copied():
    device = MadeUp()
    run, w, x = Replayed(PROGRAM, weighted, device), torch.randn(3, 3), torch.randn(3, 3)
    for _ in range(4):
        run(x, w)
    assert device.captures == 1 and not run.moving
    w += 1  # the optimiser's step
    assert torch.equal(run(x, w)[0], x * w)
    y = torch.randn(3, 3)
    assert torch.equal(run(y, w)[0], y * w) and run.moving == {0} and device.captures == 2
    v = torch.randn(3, 3)
    assert torch.equal(run(y, v)[0], y * v) and run.moving == {0, 1}
    for _ in range(3):
        assert torch.equal(run(x, w)[1], (x + w).t())
    assert device.captures == 3


def test_what_is_written_into_an_input_is_in_the_callers():
    """An optimiser's step: the program writes x in place, gives it back, and gives another result."""
    target = Program("f", (SLOT, replace(SLOT, name="y", place="output")), (0,), (0, 1), PROGRAM.steps, "", language="triton")

    def step(x):
        x.data += 1
        return x, x * 2

    class Writing(MadeUp):
        def capture(self, call):
            before = [x.clone() for x in run.given]
            found = super().capture(call)
            for x, old in zip(run.given, before):
                x.data.copy_(old)  # a capture writes nothing
            return found[0], (run.given[0], *found[1][1:])
    run, same = Replayed(target, step, Writing()), torch.zeros(3)
    for n in range(1, 4):
        x, double = run(same)
        assert x is same and same.tolist() == [n] * 3 and double.tolist() == [2 * n] * 3
    other = torch.full((3,), 10.0)
    for n in (11, 12):
        x, double = run(other)
        assert x is other and other.tolist() == [n] * 3 and double.tolist() == [2 * n] * 3
    assert same.tolist() == [3] * 3 and run.moving == {0}


def test_random_numbers_and_other_results_are_not_captured():
    for device, function in ((MadeUp(random=True), weighted), (MadeUp(), lambda x, w: (x * w, "a tape"))):
        run = Replayed(PROGRAM, function, device)
        for _ in range(3):
            assert torch.equal(run(torch.ones(3), torch.ones(3))[0], torch.ones(3))
        assert run.plain and not device.captures


def test_a_failed_capture_is_said_and_the_program_runs():
    run = Replayed(PROGRAM, weighted, MadeUp(fails=True))
    x, w = torch.ones(3, 3), torch.ones(3, 3)
    run(x, w)
    with pytest.warns(SmeltWarning, match="cannot be captured"):
        assert torch.equal(run(x, w)[1], x + w)
    assert torch.equal(run(x, w)[1], x + w)


def test_an_error_of_the_first_call_is_the_callers():
    run = Replayed(PROGRAM, lambda: 1 / 0, MadeUp())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run()
        assert run.replay is None


@pytest.mark.parametrize("change, why", [
    ({"steps": ()}, "nothing"), ({"symbols": (Symbol("s0", 0, 0),)}, "sizes"),
    ({"slots": (SLOT, replace(SLOT, device=torch.device("meta")))}, "on the CPU"),
    ({"steps": (Call(torch.nonzero, (), {}, (), "nonzero", waits=True),)}, "nonzero")])
def test_what_cannot_be_captured(change, why):
    assert not obstacle(PROGRAM) and why in obstacle(replace(PROGRAM, **change))


def on(device, place, position=-1):
    return Slot("", place, (3,), (1,), device=torch.device(device), position=position)


def test_what_the_cpu_computes_of_its_own_tensors_comes_before_the_rest():
    """A number on the CPU is doubled and uploaded; a kernel reads it there; the result is brought to the CPU and doubled."""
    step, grad, doubled, uploaded, made, brought, last = range(7)
    slots = (on("cpu", "input", 0), on("meta", "input", 1), on("cpu", "call"), on("meta", "call"), on("meta", "output"),
             on("cpu", "call"), on("cpu", "call"))
    double = Call(torch.mul, (Ref(step), 2), {}, (doubled,))
    upload = Call(torch.clone, (Ref(doubled),), {}, (uploaded,), waits=True)
    kernel = Launch("go", ("k",), (grad, uploaded, made))
    bring = Call(torch.clone, (Ref(made),), {}, (brought,), waits=True)
    again = Call(torch.mul, (Ref(brought), 2), {}, (last,))
    program = Program("f", slots, (step, grad), (doubled, made, last), (double, upload, kernel, bring, again), "")
    first, rest = parted(program)
    assert [s.function for s in first.steps] == [torch.mul, torch.clone] and rest.steps == (kernel, bring, again)
    assert first.inputs == (step,) and first.outputs == (uploaded, doubled)
    assert rest.inputs == (grad, uploaded) and rest.outputs == (made, last)
    assert [(rest.slots[i].place, rest.slots[i].position) for i in rest.inputs] == [("input", 0), ("input", 1)]
    assert first.steps[1].guessed == {uploaded} and not first.steps[0].guessed
