"""Every setting of smelt, each with its environment variable SMELT_<NAME>.

Read once at import; a program may set `smelt.config.<name> = value` before it compiles.
"""
import os
from pathlib import Path


def _flag(name: str, default: str) -> str:
    return os.environ.get("SMELT_" + name, default)


#: Folder of the kernel cache. Private to the user; created with mode 0700.
cache_dir: Path = Path(_flag("CACHE_DIR", os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "smelt")))
#: Folder to write every stage, kernel and a run.py to; "" writes nothing.
dump: str = _flag("DUMP", "")
#: "first": check each new program once against its recording; "off"; "always"; "raise": as "first", with an error on a mismatch.
verify: str = _flag("VERIFY", "first")
#: Programs kept per compiled function; past that, calls that fit none run eagerly.
program_limit: int = int(_flag("PROGRAM_LIMIT", "16"))
#: 1: everything runs eagerly (to find out whether smelt is at fault).
disable: bool = _flag("DISABLE", "0") == "1"
#: Vector instruction set of the generated C: "auto", "avx512", "avx2", "neon" or "scalar".
isa: str = _flag("ISA", "auto")
#: C compiler; "" takes $CC, then gcc, cc, clang.
cc: str = _flag("CC", "")
#: Folder for reproducer files of wrong results.
report_dir: Path = Path(_flag("REPORT_DIR", os.path.join(os.getcwd(), "smelt-reports")))
