"""`smelt.explain`: what became of a function, as data and as text."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

from .bench import size


@dataclass(frozen=True)
class KernelReport:
    """One fused kernel or call: the graph values it computes, and the bytes it reads and writes."""
    name: str
    values: tuple[str, ...]
    read: int
    written: int
    seconds: float | None = None

    def __str__(self):
        time = f", {self.seconds * 1e6:.1f} us" if self.seconds is not None else ""
        return f"{self.name}: {len(self.values)} values ({', '.join(self.values)}), {size(self.read)} read, {size(self.written)} written{time}"


@dataclass(frozen=True)
class ProgramReport:
    """One recorded path: its guards, its kernels, the torch calls that stay, and the compile seconds by step."""
    guards: tuple[str, ...]
    kernels: tuple[KernelReport, ...]
    calls: tuple[str, ...]
    arena_bytes: int
    output_bytes: int
    seconds: dict[str, float]
    recorded_ops: int
    broken: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a function. `compiled`: every path recorded so far runs as a program.

    `fallbacks`: reason and user's line of each path that runs eagerly.
    `recompilations`: why each program after the first was needed.
    """
    name: str
    programs: tuple[ProgramReport, ...]
    fallbacks: tuple[str, ...]
    recompilations: tuple[str, ...] = field(default=())

    @property
    def compiled(self) -> bool:
        return bool(self.programs) and not self.fallbacks and not any(p.broken for p in self.programs)

    @property
    def kernels(self) -> int:
        """Kernels and calls of all programs."""
        return sum(len(p.kernels) + len(p.calls) for p in self.programs)

    @property
    def bytes(self) -> int:
        """Bytes that the kernels of all programs read and write."""
        return sum(k.read + k.written for p in self.programs for k in p.kernels)

    @property
    def peak_memory(self) -> int:
        """Bytes of the arenas and outputs of the largest program."""
        return max((p.arena_bytes + p.output_bytes for p in self.programs), default=0)

    def __str__(self):
        lines = [f"{self.name}: {'compiled' if self.compiled else 'not compiled' if not self.programs else 'compiled in part'}, "
                 f"{len(self.programs)} program{'s' if len(self.programs) != 1 else ''}"]
        for n, p in enumerate(self.programs):
            total = sum(p.seconds.values())
            slowest = ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in sorted(p.seconds.items(), key=lambda t: -t[1])[:3])
            lines += [f"  program {n}: {p.recorded_ops} ops -> {len(p.kernels)} kernels and {len(p.calls)} calls; "
                      f"compiled in {total:.2f} s ({slowest}); arena {size(p.arena_bytes)}"]
            lines += [f"    broken: {p.broken}"] if p.broken else []
            lines += [f"    guard   {g}" for g in p.guards]
            lines += [f"    kernel  {k}" for k in p.kernels]
            lines += [f"    call    {c}" for c in p.calls]
        lines += [f"  eager: {f}" for f in self.fallbacks]
        lines += [f"  compiled again: {r}" for r in self.recompilations]
        return "\n".join(lines)
