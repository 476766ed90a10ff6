"""smelt: a graph compiler for PyTorch.

    import smelt

    @smelt.compile
    def f(x, w, b):
        return torch.nn.functional.gelu(x * w + b).sum(-1)

The first call runs for real and is recorded; later calls run fused kernels. `explain`, `show` and `draw` tell what
became of a function; `config` holds every setting.
"""
from __future__ import annotations

from typing import Any, Callable, Sequence

from . import config, errors
from .collector import at_rest
from .errors import (BuildError, IncompatibleTorch, InvalidGraph, InvalidText, SmeltError, SmeltWarning, Unsupported,
                     WrongResult)

__version__ = "0.1.0"
__all__ = ["compile", "mark_dynamic", "explain", "show", "draw", "config", "errors", "SmeltError", "SmeltWarning", "Unsupported",
           "BuildError",
           "InvalidGraph", "InvalidText", "IncompatibleTorch", "WrongResult"]


def compile(function: Callable | None = None, *, fullgraph: bool = False, dynamic: bool | None = None, backend: str = "auto",
            verify: str | None = None, rng: str = "torch", mode: str | None = None, disable: bool = False) -> Any:
    """Compile a function, a method, a callable object or a module; without one, a decorator with these options.

    fullgraph   raise Unsupported where a call would run eagerly, instead of warning once
    dynamic     None: a size of a tensor, given or found in state, that is seen to change becomes a symbol, and the program
                holds for all sizes from 2 on that fit what it asked of them; True: all sizes of arguments, and of state that
                changes, are symbols at once; False: never
    backend     "auto": "c" on the CPU, "triton" on a GPU; "triton" on the CPU: in Triton's interpreter, which is slow and for
                tests; "eager": run the recorded graph op by op with torch (to find out what is at fault)
    verify      when to check a program against its recording: "first", "always", "raise" or "off" (config.verify if None)
    rng         "torch": the random numbers that eager would draw, also of dropout; "fast": others of the same distributions,
                computed inside the kernels from one seed that each call takes from torch's generator, so that
                torch.manual_seed makes them reproducible (the recorded call itself draws eager's)
    mode        None or "default". On a GPU also "reduce-overhead": programs are replayed as CUDA graphs; "max-autotune": that,
                with kernels cut as was measured to be fastest, which is kept on disk; "max-autotune-no-cudagraphs": the
                second without the first
    disable     give back the function as it is

    Raises ValueError for an option that has no such value, TypeError for something that cannot be called.
    """
    with at_rest():
        from .pipeline import compile as wired
    return wired(function, fullgraph=fullgraph, disable=disable, dynamic=dynamic, backend=backend, verify=verify, rng=rng,
                 mode=mode)


def mark_dynamic(tensor: Any, dim: int | Sequence[int]) -> None:
    """Let compiled functions that are given this tensor take these of its dimensions as symbols at once, as after a change.

    torch._dynamo.mark_dynamic does the same. Raises IndexError for a dimension that there is not.
    """
    from .frontend.symbolic.varying import mark_dynamic as mark
    mark(tensor, dim)


def explain(compiled: Any, time: bool = False, target: str = ""):
    """What became of a compiled function or module, as a tools.explain.Report: print it, or read its fields.

    time: also measure each kernel of the newest program on its own, on random tensors.
    target: of the newest program, if it is compiled with backend="triton", also say what each kernel uses of this GPU
    ("sm_80", "sm_90" or "gfx942"), which need not be there.
    """
    from .tools.explain import explain
    return explain(compiled, time, target)


def show(compiled: Any, stage: str = "forward", program: int = 0) -> str:
    """The text of a stage of a compiled function's program (0 is the newest), which is also printed.

    Stages: "recorded", "simplified", "joint", "forward", "backward"; "c" (or "triton") and "host" (with
    "backward c", "backward host").
    Raises SmeltError naming the stages there are.
    """
    from .tools.explain import stage_text
    text = stage_text(compiled, stage, program)
    print(text)
    return text


def draw(compiled: Any, path: Any, program: int = 0):
    """Draw a compiled function's forward and backward graphs, kernels as boxes, into `path` (.svg, .png, .pdf, .dot).

    Gives the path. Needs the graphviz package, and the `dot` program or the pygraphviz package.
    """
    from .tools.explain import picture
    return picture(compiled, path, program)
