"""The errors that smelt raises.

SmeltError
├── InvalidGraph        a graph breaks a rule of the IR
├── InvalidText         IR text that does not parse
├── Unsupported         smelt can't compile this program; the call runs eagerly (an error under fullgraph=True)
├── BuildError          no C compiler, or it failed
├── OtherForm           an op gave a tensor of another form than when it was recorded; the call runs eagerly
├── IncompatibleTorch   an interface of torch that smelt needs is not there
└── WrongResult         a new program disagreed with its recording (verify="raise")
SmeltWarning            said once where smelt runs something eagerly
"""


class SmeltError(Exception):
    """Base of every error that smelt raises on its own account."""


class InvalidGraph(SmeltError):
    """A graph that breaks a rule of the IR: names the value, the rule and the pass before it."""


class InvalidText(SmeltError):
    """IR text that does not parse: names the line and what was expected."""


class Unsupported(SmeltError):
    """A program that smelt cannot compile. `reason` says what, `where` the user's file:line ("" if unknown)."""

    def __init__(self, reason: str, where: str = ""):
        self.reason, self.where = reason, where
        super().__init__(f"{where}: {reason}" if where else reason)


class BuildError(SmeltError):
    """The C compiler is missing or failed: the message holds its command and output."""


class OtherForm(SmeltError, RuntimeError):
    """An op of torch's or of a library's gave a tensor of another shape, dtype or device than when it was recorded."""


class IncompatibleTorch(SmeltError):
    """An interface of torch that smelt uses is missing or behaves differently in the installed version."""


class WrongResult(SmeltError):
    """A new program gave another result than the recording that it came from."""


class SmeltWarning(UserWarning):
    """A call runs eagerly, or another degradation; the message gives the reason and the user's line."""
