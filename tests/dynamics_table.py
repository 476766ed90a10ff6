"""How many of the programs of tests/dynamics run compiled, and why the others do not:

    python tests/dynamics_table.py [--backend triton] [--ahead-of-time] [--seconds 10] [row ...]

A program counts as compiled where every recording that it caused became a program. Exits with 1 where one came out wrong, or
a kernel does not compile. The options are those of under_triton.py.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dynamics  # noqa: E402
from under_triton import OutOfTime, add_options, limited, under  # noqa: E402


def main(options: argparse.Namespace) -> int:
    unknown = set(options.rows) - set(dynamics.ROWS)
    if unknown:
        sys.exit(f"no row {', '.join(sorted(unknown))}; there is {', '.join(dynamics.ROWS)}")
    total = compiled = wrong = late = 0
    with under(options) as kernels:
        for row in options.rows or dynamics.ROWS:
            programs = [p for p in dynamics.PROGRAMS if p.row == row]
            found = {p.name: o for p in programs if (o := _outcome(p, options.seconds))}
            good, bad = sum(o.compiled for o in found.values()), sum(bool(o.wrong) for o in found.values())
            print(f"{row}: {len(found)} programs, {good} compiled ({100 * good // len(found)}%), {bad} wrong", flush=True)
            for name, outcome in found.items():
                _print_outcome(name, outcome)
            total, compiled, wrong, late = total + len(found), compiled + good, wrong + bad, late + len(programs) - len(found)
        print(f"{total} programs, {compiled} compiled ({100 * compiled // total}%), {wrong} wrong, {late} left out")
        return 1 if wrong + kernels.tell() else 0


def _outcome(program: dynamics.Program, seconds: float) -> dynamics.Outcome | None:
    """What comes of a program; None where it takes too long."""
    try:
        with limited(seconds):
            return dynamics.run(program)
    except OutOfTime:
        print(f"  late {program}")
        return None


def _print_outcome(name: str, outcome: dynamics.Outcome) -> None:
    if outcome.wrong:
        print(f"  WRONG {name}: {outcome.wrong}")
    elif not outcome.compiled:
        reasons = dict.fromkeys(re.sub(r"\S*/(\S+\.py:\d+)", r"\1", r) for r in outcome.eager) or ["never ran to its end"]
        print(f"  eager {name}: " + f"\n        {' ' * len(name)}".join(reasons))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*")
    add_options(parser.add_argument)
    sys.exit(main(parser.parse_args()))
