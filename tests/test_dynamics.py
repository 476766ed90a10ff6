"""The programs of tests/dynamics, plain and compiled: what each does is the same to the last detail, checked or unchecked."""
import dynamics
import pytest

#: The rows of programs whose results depend on what changes between the calls.
CHANGING = "numbers", "names_read", "objects_read", "modules_read"


@pytest.mark.parametrize("program", dynamics.PROGRAMS, ids=str)
@pytest.mark.parametrize("verify", ["first", "off"])
def test_program(program, verify):
    dynamics.check(program, verify=verify)


@pytest.mark.parametrize("program", [p for p in dynamics.PROGRAMS if p.row in CHANGING], ids=str)
def test_a_stale_answer_would_be_found(program):
    def stale(function=None, **options):
        """Remembers the first result for each number of arguments."""
        found = {}

        def remembered(*args, **kwargs):
            key = len(args), len(kwargs)
            if key not in found:
                found[key] = function(*args, **kwargs)
            return found[key]
        return remembered if function else stale
    try:
        assert dynamics.difference_made(program, stale)
    except (RuntimeError, AttributeError):
        pass  # that shows it too
