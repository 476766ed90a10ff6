"""Builds programs and runs them: `load(program)` gives a callable."""
from .build import Toolchain, toolchain
from .load import LoadedProgram, load
from .program import Call, Launch, Message, Program, Ref, Slot
from .watch import watch

__all__ = ["Call", "Launch", "LoadedProgram", "Message", "Program", "Ref", "Slot", "Toolchain", "load", "toolchain", "watch"]
