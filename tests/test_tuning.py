"""The choice among programs by measurement, with made-up seconds."""
from __future__ import annotations

import json

import pytest
import torch

import smelt
from smelt import config
from smelt.errors import BuildError, SmeltWarning
from smelt.runtime import Call, Program, Ref, Slot
from smelt.runtime.tuning import Tuner, made_up


def program(source: str) -> Program:
    slots = (Slot("x", "input", (4,), (1,), position=0),)
    return Program(source, slots, (0,), (), (Call(torch.Tensor.zero_, (Ref(0),), {}, (), "zero_"),), source)


PROGRAMS = {name: program(name) for name in ("slow", "fast", "broken")}


class Clock:
    """Gives seconds by the program's source, and counts how often it is asked."""

    def __init__(self, **seconds):
        self.seconds, self.asked = {"slow": 2.0, "fast": 1.0} | seconds, []

    def __call__(self, given: Program) -> float:
        self.asked.append(given.source)
        if given.source not in self.seconds:
            raise BuildError(given.source)
        return self.seconds[given.source]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


def test_the_fastest_is_chosen_and_what_does_not_build_is_passed_over():
    assert Tuner("a device", Clock()).choose(PROGRAMS) == "fast"


def test_each_is_measured_once():
    clock = Clock()
    tuner = Tuner("a device", clock)
    tuner.choose(PROGRAMS), tuner.choose(PROGRAMS)
    assert clock.asked == ["slow", "fast", "broken"]


def test_another_process_reads_the_record(folder):
    Tuner("a device", Clock()).choose(PROGRAMS)
    clock = Clock(slow=0.5)
    assert Tuner("a device", clock).choose(PROGRAMS) == "fast" and not clock.asked
    (record,) = folder.glob("*.json")
    assert json.loads(record.read_text())["slow"] == 2.0


def test_another_device_and_other_programs_are_measured_anew():
    Tuner("a device", Clock()).choose(PROGRAMS)
    assert Tuner("another", Clock(slow=0.5)).choose(PROGRAMS) == "slow"
    assert Tuner("a device", Clock(slow=0.5)).choose({n: PROGRAMS[n] for n in ("slow", "fast")}) == "slow"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"slow": 1.0}', '{"slow": "a", "fast": 1.0, "broken": 2.0}'])
def test_a_damaged_record_is_measured_again(folder, text):
    Tuner("a device", Clock()).choose(PROGRAMS)
    (record,) = folder.glob("*.json")
    record.write_text(text)
    assert Tuner("a device", Clock(slow=0.5)).choose(PROGRAMS) == "slow"
    assert json.loads(record.read_text())["slow"] == 0.5


def test_tensors_are_made_up_without_the_users_random_numbers():
    before = torch.get_rng_state()
    made = made_up(Slot("x", "input", (3, 4), (4, 1)))
    assert made.isfinite().all() and torch.equal(before, torch.get_rng_state())


def test_a_folder_that_cannot_be_used_is_said(folder):
    folder.write_text("a file")
    with pytest.warns(SmeltWarning, match="keep what it measured"):
        assert Tuner("a device", Clock()).choose(PROGRAMS) == "fast"


def test_nothing_that_builds():
    with pytest.raises(BuildError, match="no way to run"):
        Tuner("a device", Clock()).choose({"broken": PROGRAMS["broken"]})


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
def test_modes_change_nothing_on_the_cpu(mode):
    f = smelt.compile(lambda x: x * 2 + 1, mode=mode, fullgraph=True)
    assert all(torch.equal(f(torch.ones(3)), torch.full((3,), 3.0)) for _ in range(2))
    with pytest.raises(ValueError, match="there is None, 'default', 'reduce-overhead'"):
        smelt.compile(lambda x: x, mode="fastest")
