"""Every setting of smelt, each with its environment variable SMELT_<NAME>.

Read once at import; a program may set `smelt.config.<name> = value` before it compiles. An empty variable counts as unset.
"""
import os
from pathlib import Path

#: The values of the settings that have a few.
CHOICES = {"verify": ("first", "always", "raise", "off"), "isa": ("auto", "avx512", "avx2", "neon", "scalar"),
           "disable": ("0", "1")}


def _read(name: str, default: str) -> str:
    value = os.environ.get("SMELT_" + name.upper()) or default
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"SMELT_{name.upper()}={value!r} in the environment: there is {', '.join(CHOICES[name])}")
    return value


def _read_count(name: str, default: int) -> int:
    value = _read(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"SMELT_{name.upper()}={value!r} in the environment: a whole number is needed, as {default}")
    return int(value)


def check() -> None:
    """ValueError if a program has given a setting a value that it cannot have."""
    for name, value in (("verify", verify), ("isa", isa)):
        if value not in CHOICES[name]:
            raise ValueError(f"smelt.config.{name} = {value!r}: there is {', '.join(CHOICES[name])}")


#: Folder of the kernel cache. Private to the user; created with mode 0700.
cache_dir: Path = Path(_read("cache_dir", os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
                                                       "smelt")))
#: Folder to write every stage, kernel and a run.py to; "" writes nothing.
dump: str = _read("dump", "")
#: "first": check each new program once against its recording; "off"; "always"; "raise": as "first", with an error on a mismatch.
verify: str = _read("verify", "first")
#: Programs kept per compiled function; past that, calls that fit none run eagerly.
program_limit: int = _read_count("program_limit", 16)
#: Paths kept per program that branches on data; past that, calls that take none of them run eagerly.
path_limit: int = _read_count("path_limit", 32)
#: Times that one path may look at tensors in Python.
reading_limit: int = _read_count("reading_limit", 256)
#: Bytes of large results whose memory is kept for the next ones once nothing holds it; 0: none.
recycle: int = _read_count("recycle", 1 << 30)
#: 1: everything runs eagerly (to find out whether smelt is at fault).
disable: bool = _read("disable", "0") == "1"
#: Vector instruction set of the generated C: "auto", "avx512", "avx2", "neon" or "scalar".
isa: str = _read("isa", "auto")
#: C compiler; "" takes $CC, then gcc, cc, clang.
cc: str = _read("cc", "")
#: Folder for reproducer files of wrong results.
report_dir: Path = Path(_read("report_dir", os.path.join(os.getcwd(), "smelt-reports")))
