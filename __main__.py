"""The command line: `python -m smelt bench`, `python -m smelt doctor`."""
from __future__ import annotations

import argparse
import sys


def _positive(kind: type):
    """What argparse makes of an argument that must be a number above 0."""
    def read(text: str):
        number = kind(text)
        if not number > 0:
            raise ValueError
        return number
    read.__name__ = f"positive {kind.__name__}"  # argparse names it in its message
    return read


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m smelt", description="A graph compiler for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="time eager against compiled programs")
    bench.add_argument("only", nargs="?", default="", help="only programs with this in their name")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--plot", metavar="FILE", default="", help="write a bar chart (png, svg or pdf)")
    bench.add_argument("--against", action="append", default=[], choices=["inductor"], help="time torch.compile as well")
    bench.add_argument("--threads", type=_positive(int), default=0, help="threads for both sides (default: torch's)")
    bench.add_argument("--seconds", type=_positive(float), default=1.0, help="time spent on each program (default 1)")
    commands.add_parser("doctor", help="what smelt found on this machine, and what to do about what is missing")
    args = parser.parse_args(argv)
    if args.command == "doctor":
        from .tools.doctor import main as doctor
        return doctor()
    from .tools.bench import main as run
    return run(args.only, args.json, args.plot, args.against, args.threads, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
