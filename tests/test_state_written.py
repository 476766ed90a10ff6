"""The programs of tests/written: on every call state is what eager leaves, object by object, and the program runs compiled."""
import re
import warnings

import pytest

import smelt
from smelt.errors import SmeltWarning
from written import CASES, pictures


@pytest.mark.parametrize("verify", ["first", "off"])
@pytest.mark.parametrize("name", CASES)
def test_written_state(name, verify):
    make, programs, eager, calls = CASES[name]
    compiled = []

    def compile(function):
        compiled.append(smelt.compile(function, verify=verify))
        return compiled[0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = pictures(make, compile, calls)
    theirs = pictures(make, lambda function: function, calls)
    for n, (mine, other) in enumerate(zip(ours, theirs)):
        assert mine == other, f"call {n}"
    report = smelt.explain(compiled[0])
    reasons = [str(w.message) for w in told if w.category is SmeltWarning]
    if eager:
        assert len(reasons) == 1 and re.search(eager, reasons[0]), reasons
        assert re.search(r"\.py:\d+: ", reasons[0])
    else:
        assert not reasons and report.compiled, (reasons, report.fallbacks)
        assert len(report.programs) == programs, report.recompilations
