"""Every kernel of the standard programs, and those by hand of the C printer's tests, compiled for each target without a GPU:

    python tests/triton_table.py [program ...]

Prints registers of a thread, bytes of shared memory and spills; exits with 1 where a kernel spills or does not compile.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterable, Iterator

from smelt.codegen.loops import Kernel
from smelt.codegen.triton.printer import print_alone
from smelt.errors import BuildError
from smelt.runtime.ahead_of_time import TARGETS, Resources, compile_for

sys.path.insert(0, str(Path(__file__).parent))
import test_c_printer  # noqa: E402
from triton_programs import CASES, kernels  # noqa: E402

BY_HAND = "by hand"


def kernels_of(name: str) -> list[Kernel]:
    if name == BY_HAND:
        return [case.kernel for case in test_c_printer.CASES.values()]
    return kernels(CASES[name], CASES[name].rows, CASES[name].width)


def table(names: Iterable[str]) -> Iterator[tuple[str, str, str, Resources | BuildError]]:
    """(program, kernel, target, what it uses or why it does not compile)."""
    for name in names:
        for kernel in kernels_of(name):
            source, f = print_alone(kernel)
            for target in TARGETS:
                try:
                    yield name, f.signature.name, target, compile_for(target, source, f.signature)
                except BuildError as error:
                    yield name, f.signature.name, target, error


def main() -> int:
    failed = 0
    for name, kernel, target, found in table(sys.argv[1:] or [*CASES, BY_HAND]):
        good = isinstance(found, Resources) and not found.spills
        failed += not good
        text = "".join(f"{c:>15}" for c in found.cells()) if isinstance(found, Resources) else str(found)
        print(f"{'ok  ' if good else 'FAIL'}  {name:<16} {kernel:<32} {target:<7} {text}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
