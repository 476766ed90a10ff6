"""Every kernel of the standard programs, compiled for each target without a GPU: python tests/triton_table.py [name ...]

Prints registers of a thread, bytes of shared memory and spills; exits with 1 where a kernel spills or does not compile.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

from smelt.codegen.triton.printer import print_alone
from smelt.errors import BuildError
from smelt.runtime.ahead_of_time import TARGETS, Resources, compile_for

sys.path.insert(0, str(Path(__file__).parent))
from triton_programs import CASES, kernels  # noqa: E402


def table(names=tuple(CASES), targets=tuple(TARGETS)) -> Iterator[tuple[str, str, str, Resources | BuildError]]:
    """(program, kernel, target, what it uses or why it does not compile)."""
    for name in names:
        case = CASES[name]
        for kernel in kernels(case, case.rows, case.width):
            source, f = print_alone(kernel)
            for target in targets:
                try:
                    yield name, f.name, target, compile_for(target, source, f.name, f.pointers, f.constants, f.warps)
                except BuildError as error:
                    yield name, f.name, target, error


def main() -> int:
    failed = 0
    for name, kernel, target, found in table(sys.argv[1:] or tuple(CASES)):
        good = isinstance(found, Resources) and not found.spills
        failed += not good
        text = str(found)
        if isinstance(found, Resources):
            text = f"{found.registers:4} registers {found.shared:6} shared {found.spills:4} spilled"
        print(f"{'ok  ' if good else 'FAIL'}  {name:<16} {kernel:<32} {target:<7} {text}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
