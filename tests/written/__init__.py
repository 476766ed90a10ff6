"""Programs that write state: one module for each kind of what is written.

A program gets `compile`, and gives what to call and what to look at after each call: it is the same, object by object, in its
plain run and in its compiled one.
"""
from importlib import import_module

from .harness import CASES, pictures

for _row in ("attributes", "gradients", "containers", "names", "numbers", "outside"):
    import_module(f"{__name__}.{_row}")

__all__ = ["CASES", "pictures"]
