"""The programs of tests/dynamics, plain and compiled: what each does is the same to the last detail, checked or unchecked."""
import dynamics
import pytest


@pytest.mark.parametrize("program", dynamics.PROGRAMS, ids=str)
@pytest.mark.parametrize("verify", ["first", "off"])
def test_program(program, verify):
    dynamics.check(program, verify=verify)
