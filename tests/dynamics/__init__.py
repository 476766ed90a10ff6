"""Small programs that do what Python allows between the calls of a function: one module for each kind of dynamics.

Each program is a generator that gets `compile`: the identity in its plain run, `smelt.compile` in the other one. It changes
things, calls, and yields what it got. After each yield everything that can be reached from its local variables is compared
between the two runs (`snapshot.py`), so that a program says nothing about what is to be compared.
"""
from importlib import import_module

from .harness import PROGRAMS, Outcome, Program, check, difference_made, run

#: The modules of programs, in the order of what they are about: control flow, state, tensors, the world outside.
ROWS = ("branches", "numbers", "scalars", "conversions", "windows", "lengths", "lengths_read", "found_rows", "packed", "recurrent", "calls",
        "sizes", "sizes_in_steps", "sizes_of_state", "names_read", "objects_read", "classes_read", "special_methods", "modules_read",
        "callables", "hidden", "attributes_written", "containers_written", "effects", "aliasing", "versions",
        "flowing_writes", "autograd", "leaves", "own_backward", "sizes_of_own_backward", "derivatives", "random_numbers",
        "draws", "asides", "shown_state", "arrays", "modes", "errors", "threads", "nesting", "numerics")
for _row in ROWS:
    import_module(f"{__name__}.{_row}")

__all__ = ["PROGRAMS", "ROWS", "Outcome", "Program", "check", "difference_made", "run"]
