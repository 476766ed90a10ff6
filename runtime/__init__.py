"""Builds programs and runs them: `load(program)` gives a callable."""
from .build import Toolchain, toolchain
from .load import LoadedProgram, empty_on, load
from .program import Call, Launch, Message, Program, Ref, Slot
from .recycling import Recycling
from .watch import watch

__all__ = ["Call", "Launch", "LoadedProgram", "Message", "Program", "Recycling", "Ref", "Slot", "Toolchain", "empty_on", "load",
           "toolchain", "watch"]
