"""How many of the programs of tests/dynamics run compiled, and why the others do not:

    python tests/dynamics_table.py [row ...]

A program counts as compiled where every recording that it caused became a program. Exits with 1 where one came out wrong.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dynamics  # noqa: E402


def main(rows: list[str]) -> int:
    unknown = set(rows) - set(dynamics.ROWS)
    if unknown:
        sys.exit(f"no row {', '.join(sorted(unknown))}; there is {', '.join(dynamics.ROWS)}")
    total = compiled = wrong = 0
    for row in rows or dynamics.ROWS:
        found = {p.name: dynamics.run(p) for p in dynamics.PROGRAMS if p.row == row}
        good, bad = sum(o.compiled for o in found.values()), sum(bool(o.wrong) for o in found.values())
        print(f"{row}: {len(found)} programs, {good} compiled ({100 * good // len(found)}%), {bad} wrong")
        for name, outcome in found.items():
            _print_outcome(name, outcome)
        total, compiled, wrong = total + len(found), compiled + good, wrong + bad
    print(f"{total} programs, {compiled} compiled ({100 * compiled // total}%), {wrong} wrong")
    return 1 if wrong else 0


def _print_outcome(name: str, outcome: dynamics.Outcome) -> None:
    if outcome.wrong:
        print(f"  WRONG {name}: {outcome.wrong}")
    elif not outcome.compiled:
        reasons = dict.fromkeys(re.sub(r"\S*/(\S+\.py:\d+)", r"\1", r) for r in outcome.eager) or ["never ran to its end"]
        print(f"  eager {name}: " + f"\n        {' ' * len(name)}".join(reasons))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
